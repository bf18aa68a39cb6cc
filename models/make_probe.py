#!/usr/bin/env python3
"""Makes models/probe: a few pictures of four kinds on which the objective of an imported base is measured.

    make_probe.py UNPACKED EMOJI       from the repository's root; UNPACKED as for tools/make_examples.py (the package
                                       endless-sky-data), EMOJI the unpacked emoji-64.tar of models/README.md

Four of each: photographs of 256x256 (public domain), digits (four files of examples/digits), drawings of flat colours (by
formula, here), emoji on white (Noto Emoji).  Needs Pillow.  No random numbers.
"""
import os
import shutil
import sys

from PIL import Image, ImageDraw

OUT = "models/probe"
PHOTOS = [("city6", 180), ("forest3", 180), ("mountain1", 180), ("sea3", 180)]
DIGITS = ["2/%s", "4/%s", "7/%s", "8/%s"]
EMOJI = ["animal-mammal/1f98a", "food-fruit/1f34e", "transport-ground/1f697", "face-smiling/1f600"]
RED, BLUE, GREEN, GOLD, WHITE, BLACK = (200, 16, 46), (0, 56, 147), (0, 122, 61), (252, 209, 22), (255, 255, 255), (0, 0, 0)


def drawings(out):
    stripes = Image.new("RGB", (96, 64), WHITE)
    d = ImageDraw.Draw(stripes)
    d.rectangle((0, 0, 31, 63), fill=GREEN)
    d.rectangle((64, 0, 95, 63), fill=RED)
    bars = Image.new("RGB", (96, 64), GOLD)
    d = ImageDraw.Draw(bars)
    d.rectangle((0, 0, 95, 20), fill=BLACK)
    d.rectangle((0, 43, 95, 63), fill=BLUE)
    d.polygon([(0, 0), (40, 32), (0, 63)], fill=RED)
    cross = Image.new("RGB", (96, 64), BLUE)
    d = ImageDraw.Draw(cross)
    d.rectangle((38, 0, 55, 63), fill=WHITE)
    d.rectangle((0, 24, 95, 39), fill=WHITE)
    d.rectangle((43, 0, 50, 63), fill=RED)
    d.rectangle((0, 28, 95, 35), fill=RED)
    disc = Image.new("RGB", (96, 64), GREEN)
    d = ImageDraw.Draw(disc)
    d.ellipse((28, 12, 68, 52), fill=GOLD)
    d.line((16, 60, 80, 4), fill=BLACK, width=5)
    for name, im in (("stripes", stripes), ("bars", bars), ("cross", cross), ("disc", disc)):
        im.save(os.path.join(out, name + ".png"), optimize=True)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    unpacked, emoji = sys.argv[1:]
    for kind in ("photos", "digits", "drawings", "emoji"):
        shutil.rmtree(os.path.join(OUT, kind), ignore_errors=True)
        os.makedirs(os.path.join(OUT, kind))
    for name, left in PHOTOS:
        im = Image.open(os.path.join(unpacked, "usr/share/games/endless-sky/images/land", name + ".jpg")).convert("RGB")
        im.crop((left, 0, left + 360, 360)).resize((256, 256), Image.LANCZOS).save(
            os.path.join(OUT, "photos", name + ".jpg"), quality=85)
    for pattern in DIGITS:
        folder = os.path.join("examples/digits", os.path.dirname(pattern))
        name = sorted(os.listdir(folder))[40]
        shutil.copy(os.path.join(folder, name), os.path.join(OUT, "digits", pattern[0] + "-" + name))
    drawings(os.path.join(OUT, "drawings"))
    for name in EMOJI:
        im = Image.open(os.path.join(emoji, "google", name + ".png")).convert("RGBA")
        ground = Image.new("RGBA", im.size, (255, 255, 255, 255))
        ground.alpha_composite(im)
        ground.convert("RGB").save(os.path.join(OUT, "emoji", os.path.basename(name) + ".png"), optimize=True)


if __name__ == "__main__":
    main()
