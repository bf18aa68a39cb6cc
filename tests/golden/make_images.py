#!/usr/bin/env python3
"""Makes tests/golden/images/: what Pillow says about resizing and about JPEG files.

    /usr/bin/python3 tests/golden/make_images.py        (Debian's python3-pil 9.4.0 made what is committed)

resize.txt lists "w h out_w out_h square sha256 offset"; the input is the byte sequence of pixels() below, the
output is Pillow's Image.resize(BICUBIC) (after the centre crop where square is 1), stored in
resize.bin at `offset` where that is not -1.  Each *.jpg has a *.rgb beside it: "P6" with the decoded
and, for EXIF, transposed picture.
"""
import hashlib
import os

from PIL import Image, ImageOps

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "images")
CASES = [(20, 20, 32, 32, 0), (37, 53, 16, 16, 0), (64, 64, 64, 64, 0), (1, 1, 8, 8, 0), (2, 3, 7, 5, 0),
         (64, 64, 32, 32, 0), (100, 60, 33, 60, 0), (60, 100, 60, 33, 0), (255, 9, 31, 3, 0),
         (97, 64, 32, 32, 1), (64, 97, 32, 32, 1), (720, 360, 32, 32, 1), (33, 20, 64, 64, 1),
         (32, 32, 299, 299, 0), (64, 64, 299, 299, 0), (301, 299, 299, 299, 0), (1024, 768, 256, 256, 1)]


def pixels(w, h):
    """A slope with noise and hard edges; the C test makes the same bytes."""
    x, out = 12345, bytearray()
    for i in range(w * h * 3):
        x = (x * 1103515245 + 12345) & 0x7FFFFFFF
        noise = x >> 16 & 255
        px = i // 3 % w
        out.append(noise if px * 8 // w % 2 else (px * 255 // w + noise // 8) & 255)
    return bytes(out)


def resizes():
    blob = bytearray()
    with open(os.path.join(OUT, "resize.txt"), "w") as f:
        for w, h, ow, oh, square in CASES:
            im = Image.frombytes("RGB", (w, h), pixels(w, h))
            if square:
                s = min(w, h)
                im = im.crop(((w - s) // 2, (h - s) // 2, (w - s) // 2 + s, (h - s) // 2 + s))
            got = im.resize((ow, oh), Image.BICUBIC).tobytes()
            small = len(got) <= 64 * 64 * 3
            f.write(f"{w} {h} {ow} {oh} {square} {hashlib.sha256(got).hexdigest()} {len(blob) if small else -1}\n")
            blob += got if small else b""
    with open(os.path.join(OUT, "resize.bin"), "wb") as f:
        f.write(blob)


def smooth(w, h):
    data = bytes(v & 255 for y in range(h) for x in range(w)
                 for v in (x * 255 // w, y * 255 // h, (x * 3 + y * 5) % 256 if x < w // 2 else 40))
    return Image.frombytes("RGB", (w, h), data)


def save(name, im, **options):
    path = os.path.join(OUT, name + ".jpg")
    im.save(path, **options)
    back = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    with open(os.path.join(OUT, name + ".rgb"), "wb") as f:
        f.write(b"P6 %d %d 255\n" % back.size + back.tobytes())


def main():
    os.makedirs(OUT, exist_ok=True)
    resizes()
    im = smooth(33, 21)
    save("grey", im.convert("L"), quality=90)
    save("ycc444", im, quality=90, subsampling=0)
    save("ycc420", im, quality=75, subsampling=2)
    save("progressive", im, quality=75, progressive=True)
    save("cmyk-adobe", im.convert("CMYK"), quality=90)
    for o in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = o
        save(f"exif{o}", smooth(13, 9), quality=85, exif=exif.tobytes())


main()
