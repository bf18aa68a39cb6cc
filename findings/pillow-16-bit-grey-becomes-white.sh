#!/bin/sh
# findings/pillow-16-bit-grey-becomes-white.sh - Pillow's convert("RGB"), which pytorch-fid, torch-fidelity and clean-fid
# call on every picture, cuts 16-bit grey off at 255 but takes the high byte of 16-bit colour.
#
# The same grey ramp of 16 bits is written three ways: PNG grey, PNG colour with equal channels, PGM.  One would expect
# three equal pictures.  The colour one is the ramp; the grey ones are white from sample 255 of 65535 on.  A metric over
# such files sees white pictures and nobody is told.  Exits with 1 when that is no longer so.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pillow==13.0.0 numpy==2.4.6
"$work/venv/bin/python" - "$work" <<'P'
import struct, sys, zlib
import numpy as np
import PIL
from PIL import Image

folder = sys.argv[1]
ramp = np.linspace(0, 65535, 256).round().astype(">u2").reshape(16, 16)  # 0, 257, 514 ...


def png(name, colour, rows):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    raw = b"".join(b"\0" + r.tobytes() for r in rows)
    open(f"{folder}/{name}", "wb").write(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, colour, 0, 0, 0)) +
        chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b""))


png("grey.png", 0, ramp)
png("colour.png", 2, ramp[..., None].repeat(3, -1))
open(f"{folder}/grey.pgm", "wb").write(b"P5\n16 16\n65535\n" + ramp.tobytes())
print("Pillow", PIL.__version__)
means = {}
for name in ("grey.png", "grey.pgm", "colour.png"):
    im = Image.open(f"{folder}/{name}")
    rgb = np.asarray(im.convert("RGB"))
    means[name] = float(rgb.mean())
    print(f"{name:11} mode {im.mode:5} convert('RGB'): mean {rgb.mean():.1f}, {(rgb == 255).all(-1).mean():.1%} white")
same = means["grey.png"] > 250 and means["grey.pgm"] > 250 and 120 < means["colour.png"] < 135
print("as found" if same else "CHANGED")
sys.exit(not same)
P
