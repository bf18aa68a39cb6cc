#!/usr/bin/env python3
"""FID between the same photographs stored in two ways, by each tool and by `evaluate` in that tool's mode.

    fid_pairs.py WORKER [N [MODE...]]      N photographs (200); MODE: pytorch-fid torch-fidelity clean

The ways are those in which programs differ about pixels: transparency, EXIF, 16 bits, CMYK.  Each folder goes through
the tool's own reading, resizing and network (random weights, make_fid_golden.py) and through `evaluate --save-stats`;
each pair through the tool's own distance and `evaluate X.npz --against Y.npz`.  THREADS is for both (1).  Exit 1 where
FID differs by more than 0.1 % of the tool's, or 0.01 where that is less: covariances of N - 1 < 2048 ranks, whose square
roots the tools take with that error.  DISTANCE=exact: distances of the tool's features from singular values
(make_fid_golden.py), which takes seconds where the tool's matrix root takes minutes.
"""
import json
import os
import struct
import subprocess
import sys
import tempfile
import zlib

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import make_fid_golden as golden  # noqa: E402

THREADS = int(os.environ.get("THREADS", "1"))
MODES = ["pytorch-fid", "torch-fidelity", "clean"]
PAIRS = [("opaque", "cut-out"), ("opaque", "kept"), ("upright", "turned"), ("grey8", "grey16"), ("opaque", "cmyk"),
         ("opaque", "deep")]
SIZE = (96, 64)


def photographs(n):
    files = sorted(os.path.join(d, f) for d, _, ff in os.walk("examples/photos") for f in ff)
    files = [f for f in files if f.lower().endswith((".jpg", ".jpeg", ".png", ".webp"))]
    for f in files[:: max(1, len(files) // n)][:n]:
        yield Image.open(f).convert("RGB").resize(SIZE)


def ellipse():
    w, h = SIZE
    y, x = np.mgrid[0:h, 0:w]
    return (((x - w / 2) / (w / 2.5)) ** 2 + ((y - h / 2) / (h / 2.5)) ** 2 < 1).astype(np.uint8) * 255


def png16(path, a, colour):
    """A 16-bit PNG of a (h, w, channels) uint16."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + r.astype(">u2").tobytes() for r in a.reshape(a.shape[0], -1))
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", a.shape[1], a.shape[0], 16, colour, 0, 0, 0))
                + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def without_adobe(data):
    """A JPEG file without its APP14 marker."""
    at = data.index(b"\xff\xee")
    return data[:at] + data[at + 2 + struct.unpack(">H", data[at + 2:at + 4])[0]:]


def store(folder, i, photo):
    def path(way, end):
        d = os.path.join(folder, way)
        os.makedirs(d, exist_ok=True)
        return os.path.join(d, "%04d.%s" % (i, end))
    a, mask, low = np.asarray(photo), ellipse(), np.random.default_rng(i).integers(0, 256, (SIZE[1], SIZE[0], 3))
    photo.save(path("opaque", "png"))
    Image.fromarray(np.dstack([a * (mask[..., None] > 0), mask])).save(path("cut-out", "png"))
    Image.fromarray(np.dstack([a, mask])).save(path("kept", "png"))
    photo.save(path("upright", "jpg"), quality=95)
    exif = Image.Exif()
    exif[0x112] = 6  # to be shown turned by 90 degrees, and stored turned back
    photo.transpose(Image.Transpose.ROTATE_90).save(path("turned", "jpg"), quality=95, exif=exif)
    grey = photo.convert("L")
    grey.save(path("grey8", "png"))
    png16(path("grey16", "png"), np.asarray(grey).astype(np.uint16)[..., None] * 257, 0)
    cmyk = path("cmyk", "jpg")
    photo.convert("CMYK").save(cmyk, quality=95)
    with open(cmyk, "rb") as f:
        data = f.read()
    with open(cmyk, "wb") as f:
        f.write(without_adobe(data))
    png16(path("deep", "png"), (a.astype(np.uint16) << 8) + low.astype(np.uint16), 2)


def distance(mode, x, y):
    if os.environ.get("DISTANCE") == "exact":
        return golden.from_singular_values(np.float64(x), np.float64(y))
    if mode == "clean":
        from cleanfid.fid import fid_from_feats

        return fid_from_feats(x, y)
    if mode == "pytorch-fid":
        from pytorch_fid.fid_score import calculate_frechet_distance

        return calculate_frechet_distance(x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False))
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    x, y = (fid_features_to_statistics(torch.from_numpy(v)) for v in (x, y))
    return fid_statistics_to_metric(x, y, False)["frechet_inception_distance"]


def evaluate(worker, folder, mode, *words):
    out = subprocess.run([worker, "evaluate", *words, "--feature-net", "weights.pth", "--mode", mode, "--metrics", "fid",
                          "--threads", str(THREADS), "--json", "--quiet"], cwd=folder, check=True, stdout=subprocess.PIPE)
    return json.loads(out.stdout)["metrics"]


def main():
    worker, n = os.path.abspath(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 200
    modes = sys.argv[3:] or MODES
    torch.set_num_threads(THREADS)
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        tools = golden.Tools(folder)  # leaves weights.pth
        for i, photo in enumerate(photographs(n)):
            store(folder, i, photo)
        ways = sorted({w for p in PAIRS for w in p})
        for mode in modes:
            read = {"pytorch-fid": tools.by_pytorch, "clean": tools.by_clean,
                    "torch-fidelity": lambda files: tools.by_fidelity(files)[0]}[mode]
            theirs = {}
            for w in ways:
                d = os.path.join(folder, w)
                theirs[w] = read(sorted(os.path.join(d, f) for f in os.listdir(d)))
                evaluate(worker, folder, mode, w, "--save-stats", "%s-%s.npz" % (mode, w))
            for a, b in PAIRS:
                their = float(distance(mode, theirs[a], theirs[b]))
                our = evaluate(worker, folder, mode, "%s-%s.npz" % (mode, b), "--against", "%s-%s.npz" % (mode, a))[0]["value"]
                far, allowed = abs(our - their), max(0.001 * their, 0.01)
                bad += not far <= allowed
                print("%-15s %-8s %-8s theirs %-12.6g ours %-12.6g apart %.2g (allowed %.2g)%s" %
                      (mode, a, b, their, our, far, allowed, "" if far <= allowed else "  TOO FAR"), flush=True)
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
