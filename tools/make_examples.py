#!/usr/bin/env python3
"""Makes examples/{photos,digits,flags} from Debian packages.  A development tool: what it makes is committed.

    apt-get download endless-sky-data kgeography-data opencv-doc
    for f in *.deb; do dpkg -x "$f" unpacked; done
    /usr/bin/python3 tools/make_examples.py unpacked examples        (needs Debian's python3-pil)

No random numbers: the same packages give the same pictures.
"""
import csv
import os
import shutil
import sys

from PIL import Image

DIGITS_EACH = 150

# Photographs: class -> file name prefixes.  Only the public-domain ones (see copyright of the package).
PHOTOS = {
    "city": ["city"],
    "coast": ["sea", "beach"],
    "desert": ["desert", "dune", "badlands", "canyon"],
    "fog": ["fog"],
    "green": ["fields", "forest", "hills"],
    "lava": ["lava"],
    "mountains": ["mountain", "valley"],
    "sky": ["sky"],
    "snow": ["snow"],
    "water": ["water"],
}
NOT_PUBLIC_DOMAIN = ("bwerner", "myrabella", "dmottl", "mfield", "lava5")  # and all with "-author"
# Of 720 x 360: three overlapping squares, and four details.
CROPS = [(0, 0, 360), (180, 0, 360), (360, 0, 360),
         (20, 100, 240), (140, 20, 240), (240, 60, 240), (460, 100, 240)]


def photos(src, out):
    land = os.path.join(src, "usr/share/games/endless-sky/images/land")
    count = {}
    for name in sorted(os.listdir(land)):
        stem = name[:-4]
        word = stem.rstrip("0123456789")
        cls = next((c for c, words in PHOTOS.items() if word in words), None)
        if not cls or "-" in stem or stem.startswith(NOT_PUBLIC_DOMAIN):
            continue
        im = Image.open(os.path.join(land, name)).convert("RGB")
        if im.size != (720, 360):
            continue
        os.makedirs(os.path.join(out, cls), exist_ok=True)
        for k, (x, y, s) in enumerate(CROPS):
            im.crop((x, y, x + s, y + s)).resize((64, 64), Image.LANCZOS).save(
                os.path.join(out, cls, f"{stem}-{k}.jpg"), quality=88)
            count[cls] = count.get(cls, 0) + 1
    return count


def digits(src, out):
    sheet = Image.open(os.path.join(src, "usr/share/doc/opencv-doc/examples/data/digits.png")).convert("L")
    for d in range(10):
        os.makedirs(os.path.join(out, str(d)))
        for i in range(DIGITS_EACH):  # 5 rows of 100 per digit
            x, y = i % 100 * 20, (d * 5 + i // 100) * 20
            sheet.crop((x, y, x + 20, y + 20)).save(os.path.join(out, str(d), f"{i:03d}.png"), optimize=True)
    return {str(d): DIGITS_EACH for d in range(10)}


def flags(src, out):
    """One folder and metadata.csv, the third way to say what the classes are."""
    top = os.path.join(src, "usr/share/kgeography/flags")
    rows = []
    os.makedirs(out)
    for folder, folders, names in os.walk(top):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            if not name.endswith(".png") or os.path.islink(path):
                continue
            inside = os.path.relpath(path, top)
            im = Image.open(path).convert("RGBA")
            white = Image.new("RGBA", im.size, (255, 255, 255, 255))
            white.alpha_composite(im)
            im = white.convert("RGB")
            im.thumbnail((96, 64), Image.LANCZOS)
            target = inside.replace("/", "-").replace(" ", "_")
            im = im.quantize(64, method=Image.MEDIANCUT, dither=Image.NONE)
            im.save(os.path.join(out, target), optimize=True)
            rows.append((target, "region" if "/" in inside else "country"))
    with open(os.path.join(out, "metadata.csv"), "w", newline="") as f:
        w = csv.writer(f)
        w.writerow(("file_name", "label"))
        w.writerows(rows)
    labels = [r[1] for r in rows]
    return {c: labels.count(c) for c in sorted(set(labels))}


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    src, out = sys.argv[1:]
    for name, make in (("photos", photos), ("digits", digits), ("flags", flags)):
        target = os.path.join(out, name)
        shutil.rmtree(target, ignore_errors=True)
        count = make(src, target)
        size = sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(target) for f in fs)
        print(f"{name}: {sum(count.values())} pictures, {size} bytes, {count}")


main()
