"""Emoji of three vendors (colour) and Symbola's drawings of the same (ink on paper), in classes of what is shown."""
import io
import os
import re
import tarfile
from xml.etree import ElementTree

import cairosvg
from fontTools.ttLib import TTFont
from PIL import Image

import prepare_emoji

from .glyphs import draw, mask_of
from .picture import seeded, squared

LEFT_OUT = {"letters-digits", "marks", "signs", "zodiac-religion", "family", "body-parts", "clocks"}
# Numbers, dials with numbers, calendars, medals, slot machines, the eight ball, notes of money; flags of any kind.
CODES_OUT = set("""1f4c5 1f4c6 1f5d3 1f51f 1f4af 1f51e 1f522 1f3ea 1f502 1f4b3 26fd
1f947 1f948 1f949 1f3b0 1f3b1 1f4b0 1f4b4 1f4b5 1f4b6 1f4b7
1f4b8 1f4b9 1fa99 1f3e7 23f0 23f1 23f2 1f570 231a 1f4df 1f4e0 1f9ee 1f4f1 1f4f2 1f4de 260e 1f0cf 1f004 1f3b4 1f9fe 1f4c8
1f4c9 1f4ca 1f3ab 1f39f 1f51b 1f519 1f51a 1f51c 1f51d 1f4f6 1f39a 1f39b 1f9ed 1f321 1f6a9 1f3c1 1f38c 1f3f4 1f3f3 26f3
1f38f 1f5f3 1f3f7 1f4d0 1f4cf 1f3ce 1f68d 1f5a9 1f3bd 1f4fa 1f4fb 1f3c5 1f396 1f3c6 2696""".split())
MERGED = {"people-roles": "people", "people-fantasy": "people", "people-sport": "people-active", "places": "buildings",
          "events": "sport-games", "music": "devices", "electronics": "devices", "household": "tools"}
DRAWN = {"d-animals": "mammals birds small-animals sea-animals",
         "d-food-plants": "fruit-vegetables dishes sweets drinks plants",
         "d-faces-hands": "faces-happy faces-neutral faces-sad faces-creature hands hearts",
         "d-things": "clothing devices paper tools sport-games", "d-places-vehicles": "buildings sky vehicles-road "
         "vehicles-air-sea"}


def table(tar):
    """Rows (path, vendor, class, code, base code) of what is wanted, tones as prepare_emoji chooses them."""
    class_of = {sub: cls for cls, subs in prepare_emoji.CLASSES.items() for sub in subs.split() if cls not in LEFT_OUT}
    lines = tar.extractfile("labels.tsv").read().decode("utf-8").splitlines()
    rows = [r for r in (line.split("\t") for line in lines[1:]) if r[3] in class_of]
    toned = {(r[1], r[5]) for r in rows if r[6] == "1"}
    for path, vendor, _, sub, code, base, _ in rows:
        cls = class_of[sub]
        if CODES_OUT & set(code.split("-")) or code.endswith("-200d-1f3eb"):  # the last: teachers before sums
            continue
        if not prepare_emoji.keep(cls, code, base, (vendor, base) in toned):
            continue
        yield path, vendor, MERGED.get(cls, cls), code, base


def originals(tar_path):
    """Yields (class, source, name, RGBA square) of Noto Emoji and Twemoji."""
    with tarfile.open(tar_path) as tar:
        for path, vendor, cls, code, _ in table(tar):
            image = Image.open(io.BytesIO(tar.extractfile(path).read()))
            yield "e-" + cls, "emoji-datasource-" + vendor, code, squared(image)


def codes_by_class(tar_path):
    with tarfile.open(tar_path) as tar:
        return {code.replace("-fe0f", ""): cls for _, _, cls, code, _ in table(tar)}


def symbols(path):
    """(code, SVG text) of EmojiOne's one file, each with the definitions that it refers to."""
    ns = "{http://www.w3.org/2000/svg}"
    root = ElementTree.parse(path).getroot()
    defs = {d.get("id"): ElementTree.tostring(d, "unicode") for part in root.findall(ns + "defs") for d in part}
    for symbol in root.iter(ns + "symbol"):
        body = "".join(ElementTree.tostring(child, "unicode") for child in symbol)
        needed, text = [], body
        while text:
            new = [i for i in re.findall(r'(?:url\(#|href="#)([^")]+)', text) if i in defs and i not in needed]
            needed += dict.fromkeys(new)
            text = "".join(defs[i] for i in dict.fromkeys(new))
        yield symbol.get("id")[6:].lower(), (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{symbol.get("viewBox")}"><defs>{"".join(defs[i] for i in needed)}</defs>{body}</svg>')


def emojione(folder, tar_path):
    """EmojiOne 2, drawn at 96 pixels: yields (class, source, name, RGBA square)."""
    classes = codes_by_class(tar_path)
    path = next(os.path.join(d, f) for d, _, fs in os.walk(folder) for f in fs if f == "emojione.sprites.svg")
    for code, svg in symbols(path):
        if code in classes:
            image = squared(Image.open(io.BytesIO(cairosvg.svg2png(svg.encode(), output_width=96, output_height=96))))
            if image:
                yield "e-" + classes[code], "ruby-rails-assets-emojione", code, image


def drawings(font, tar_path, counts):
    """Symbola's pictures in ink: yields (class, source, name, 32x32 RGB)."""
    drawn = {c: d for d, cs in DRAWN.items() for c in cs.split()}
    found, known = {}, TTFont(font, lazy=True).getBestCmap()
    for code, cls in codes_by_class(tar_path).items():
        if cls in drawn and "-" not in code and int(code, 16) in known:
            glyph = mask_of(font, 0, chr(int(code, 16)))
            if glyph is not None:
                found.setdefault(drawn[cls], []).append((code, glyph))
    for cls in sorted(found):
        for i in range(min(counts[cls], 6 * len(found[cls]))):
            code, glyph = found[cls][i % len(found[cls])]
            name = f"{code}-{i // len(found[cls])}"
            yield cls, "fonts-symbola", name, draw(glyph, seeded("drawing", name))
