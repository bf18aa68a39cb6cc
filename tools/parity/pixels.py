#!/usr/bin/env python3
"""Pixels of picture files of every kind: Pillow's and the FID tools' beside ours, and the goldens of both decodings.

    pixels.py WORKER [GOLDEN]      compare; GOLDEN: also compare with the committed files and digests of that folder
    pixels.py WORKER --write GOLDEN

Compared are, over all files of pictures.py:
* `decode --as pillow` with Image.open(f).convert("RGB"): the same bytes, or both fail;
* `decode --as train` with what a person sees (below): the same bytes, or ours refuses what it says that it refuses;
* what the network of each tool reads, by the tool's own data set and resizing, with `decode --input`: to rounding.

GOLDEN holds the files, and pillow.txt and train.txt with a line each: digest of the pixels or "-", width, height, name.
"""
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings

import numpy as np
from PIL import Image, ImageOps

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import pictures  # noqa: E402

# Files that Pillow decodes and training refuses: damage, and moving WebP.
REFUSED = re.compile(
    r"png-(crc-i|no-iend|half-iend|missing|bad-adler|no-adler|cut-|idat-after|text-first)"
    r"|jpeg-(no-eoi|cut-|early-eoi$|wrong-restart|missing-restart|marker-in)|webp-(animated|cut|size)|pnm-.*over-max")
# Files that Pillow refuses and training takes, with a file that has the same picture.
TAKEN = {"png-iccp-method": "png-iccp.png", "png-iccp-bomb": "png-iccp.png", "png-crc-text": "png-text.png",
         "apng-outside": "apng.png", "apng-sequence": "apng.png", "jpeg-short-adobe": "jpeg-trailing.jpg",
         "jpeg-short-jfif": "jpeg-trailing.jpg", "jpeg-photoshop-cut": "jpeg-trailing.jpg"}
# For these the picture is defined by what libpng makes of it, not by Pillow; checked in tests/worker/test_worker_images.c.
UNDECIDED = re.compile(r"png-(short-|palette-[^t]|bad-type|zero|critical)|apng-smaller|apng-twice|pnm-p[1236].*(comment|plus|no-space)")


def digest(a):
    return hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest()


def by_pillow(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return np.asarray(Image.open(path).convert("RGB"))
        except Exception:  # whatever it is, the tool ends with it
            return None


# ---------------------------------------------------------------- what training sees
def over_white(rgba):
    a = rgba[..., 3:].astype(np.int64)
    return ((rgba[..., :3] * a + 255 * (255 - a) + 127) // 255).astype(np.uint8)


def deep_png(name):
    """16-bit files are made of samples() that are known; Pillow would lose their low byte."""
    colour = {"png-trns-grey-16bit": 0, "png-trns-rgb-16bit": 2}.get(name)
    m = re.match(r"png-16bit-type(\d)|png-filter\d$", name)
    if colour is None and not m:
        return None
    colour = colour if colour is not None else int(m[1] or 6)
    a = pictures.samples(21, 13, 16, colour)
    b = np.floor(a * 255 / 65535 + 0.5).astype(np.int64)
    if name == "png-trns-grey-16bit":
        alpha = np.where(a[..., :1] == 255, 0, 255)
    elif name == "png-trns-rgb-16bit":
        alpha = np.where((a == a[4, 4]).all(-1, keepdims=True), 0, 255)
    elif colour in (4, 6):
        alpha = b[..., -1:]
    else:
        alpha = np.full(a.shape[:2] + (1,), 255)
    c = b[..., :3] if colour in (2, 6) else b[..., :1].repeat(3, -1)
    return over_white(np.concatenate([c, alpha], -1))


def pnm(path):
    b = open(path, "rb").read()
    kind = b[:2]
    text = re.sub(rb"#[^\n]*", b"", b) if kind in (b"P1", b"P2", b"P3") else b
    m = re.match(rb"P\d(?:\s+(?:#[^\n]*\n)?)*(\d+)(?:\s+(?:#[^\n]*\n)?)+(\d+)" +
                 (b"" if kind in (b"P1", b"P4") else rb"(?:\s+(?:#[^\n]*\n)?)+(\d+)") + rb"\s", text)
    w, h, top = int(m[1]), int(m[2]), 1 if kind in (b"P1", b"P4") else int(m[3])
    rest = text[m.end():]
    if kind == b"P1":
        v = np.array([c - 48 for c in rest if c in b"01"])
    elif kind in (b"P2", b"P3"):
        v = np.array(rest.split(), np.int64)
    elif kind == b"P4":
        v = np.unpackbits(np.frombuffer(rest, np.uint8, h * ((w + 7) // 8)).reshape(h, -1), axis=1)[:, :w]
    else:
        n = w * h * (3 if kind == b"P6" else 1)
        v = np.frombuffer(rest, np.uint8 if top < 256 else ">u2", n)
    v = v.astype(np.int64).ravel()
    v = 255 * (1 - v) if kind in (b"P1", b"P4") else (v * 255 + top // 2) // top
    return np.broadcast_to(v.reshape(h, w, -1), (h, w, 3)).astype(np.uint8)


def as_seen(path, name):
    """Turned by EXIF, laid over white."""
    if name.startswith("pnm"):
        return pnm(path)
    deep = deep_png(name)
    if deep is not None:
        return deep
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        im = ImageOps.exif_transpose(Image.open(path))
        if "transparency" in im.info or im.mode in ("LA", "RGBA"):
            return over_white(np.asarray(im.convert("RGBA")).astype(np.int64))
        return np.asarray(im.convert("RGB"))


def expected(path, name):
    """(pixels or None, is it decided here?)"""
    if UNDECIDED.match(name):
        return None, False
    if name in TAKEN:
        return as_seen(os.path.join(os.path.dirname(path), TAKEN[name]), name), True
    if by_pillow(path) is None or REFUSED.match(name):
        return None, True
    return as_seen(path, name), True


# ---------------------------------------------------------------- ours
def ours(worker, use, files):
    out = subprocess.run([worker, "decode", "--as", use, *files], stdout=subprocess.PIPE)
    lines = [json.loads(line) for line in out.stdout.splitlines()]
    assert len(lines) == len(files)
    return lines


def differs(line, pixels):
    if pixels is None:
        return "" if line["verdict"] in ("broken", "unsupported") else "ours has pixels"
    if line["verdict"] != "decoded":
        return "ours has none: " + line["reason"]
    if (line["height"], line["width"]) != pixels.shape[:2]:
        return "%d x %d, not %d x %d" % (line["width"], line["height"], pixels.shape[1], pixels.shape[0])
    return "" if line["sha256"] == digest(pixels) else "other pixels"


def input_of(worker, mode, path, out):
    subprocess.run([worker, "decode", "--as", "pillow", "--input", mode, "-o", out, path], check=True,
                   stdout=subprocess.DEVNULL)
    return np.fromfile(out, "<f4").reshape(299, 299, 3)


def tool_inputs():
    import torch
    from cleanfid.fid import build_resizer
    from cleanfid.utils import ResizeDataset
    from pytorch_fid.fid_score import ImagePathDataset
    from torch_fidelity.datasets import ImagesPathDataset
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x as like_tf
    from torchvision.transforms import ToTensor

    def pytorch(path):
        x = ImagePathDataset([path], ToTensor())[0][None]
        x = torch.nn.functional.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
        return (2 * x - 1)[0].permute(1, 2, 0).numpy()

    def fidelity(path):
        x = like_tf(ImagesPathDataset([path])[0][None].float(), size=(299, 299), align_corners=False)
        return ((x - 128) / 128)[0].permute(1, 2, 0).numpy()

    def clean(path):
        data = ResizeDataset([path], mode="clean")
        assert data.fn_resize.__qualname__ == build_resizer("clean").__qualname__
        x = data[0]  # ToTensor divides by 255 only what is uint8
        return ((x - 128) / 128).permute(1, 2, 0).numpy()

    return {"pytorch-fid": pytorch, "torch-fidelity": fidelity, "clean": clean}


def compare_inputs(worker, folder, names):
    """Numbers lie in [-1,1]: weights and sums in float32, in another order."""
    bad, out = 0, os.path.join(folder, "input.f32")
    for mode, theirs in tool_inputs().items():
        worst = 0
        for name in names:
            path = os.path.join(folder, "kinds", name)
            far = float(np.abs(theirs(path) - input_of(worker, mode, path, out)).max())
            worst = max(worst, far)
            if not far <= 4e-6:
                bad += 1
                print("%s, input of %s: apart %.3g" % (name, mode, far))
        print("%d files, input of %s: at most %.2g apart" % (len(names), mode, worst))
    return bad


# ---------------------------------------------------------------- goldens
def lines_of(pixels, names):
    return ["%s %d %d %s\n" % (("-", 0, 0, n) if p is None else (digest(p), p.shape[1], p.shape[0], n))
            for n, p in zip(names, pixels)]


def compare_golden(golden, folder, lists):
    bad = 0
    for text, lines in lists.items():
        committed = set(open(os.path.join(golden, text)))
        for line in sorted(committed ^ set(lines)):
            bad += 1
            print("%s: %s %s" % (text, "committed only:" if line in committed else "made now only:", line.strip()))
    return bad


def write_golden(golden, folder, lists):
    os.makedirs(golden, exist_ok=True)
    for text, lines in lists.items():
        open(os.path.join(golden, text), "w").writelines(lines)
        for line in lines:
            name = line.split()[-1]
            open(os.path.join(golden, name), "wb").write(open(os.path.join(folder, name), "rb").read())


def main():
    worker = os.path.abspath(sys.argv[1])
    write = len(sys.argv) > 2 and sys.argv[2] == "--write"
    golden = sys.argv[-1] if len(sys.argv) > 2 else None
    here = os.path.dirname(os.path.abspath(__file__))
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        program, kinds = os.path.join(folder, "jpeg_kinds"), os.path.join(folder, "kinds")
        subprocess.run(["cc", "-o", program, os.path.join(here, "jpeg_kinds.c"), "-ljpeg"], check=True)
        pictures.make(kinds, program)
        names = sorted(os.listdir(kinds))
        files = [os.path.join(kinds, n) for n in names]
        theirs = [by_pillow(f) for f in files]
        seen = [expected(f, os.path.splitext(n)[0]) for f, n in zip(files, names)]
        for use, want in (("pillow", [(p, True) for p in theirs]), ("train", seen)):
            for name, line, (pixels, decided) in zip(names, ours(worker, use, files), want):
                what = differs(line, pixels) if decided else ""
                bad += bool(what)
                if what:
                    print("%s, as %s: %s" % (name, use, what))
        print("%d kinds of files, %d with pixels in Pillow; training: %d decided here, %d with pixels" % (
            len(names), sum(p is not None for p in theirs), sum(d for _, d in seen), sum(p is not None for p, _ in seen)))
        pictures.make_large(os.path.join(folder, "large"))
        large = sorted(os.path.join(folder, "large", n) for n in os.listdir(os.path.join(folder, "large")))
        for path, line in zip(large, ours(worker, "pillow", large)):
            what = differs(line, by_pillow(path))
            bad += bool(what)
            if what:
                print("%s: %s" % (os.path.basename(path), what))
        print("%d large files" % len(large))
        lists = {"pillow.txt": lines_of(theirs, names),
                 "train.txt": lines_of(*zip(*[(p, n) for (p, d), n in zip(seen, names) if d]))}
        if write:
            write_golden(golden, kinds, lists)
        elif golden:
            bad += compare_golden(golden, kinds, lists)
        if not write:
            bad += compare_inputs(worker, folder, [n for n, p in zip(names, theirs) if p is not None])
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
