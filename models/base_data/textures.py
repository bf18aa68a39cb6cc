"""Textures of games and photographs of materials, in classes by the words of their names; cut into squares."""
import os
import re

import numpy as np
from PIL import Image

from . import dep5, wad
from .picture import SIDE, seeded

WORDS = {
    "wood": "wood wooden planks plank wood1 bark pinewood junglewood acacia oak bridge crate roof",
    "stone": "stone rock rocks cobble wall brick bricks cliff marble tile tiles gravel sandstone rockwall blackrock pyramid "
             "stones castel castelwall hacienda ceramic concrete cottage mountain obsidian clay floor tunnel ruin pillar",
    "plants": "grass leaves leaf moss forest bush hedge tree fir palm needles litter turf cactus fern sapling flower ivy "
              "wheat plant sakura vine coral kelp papyrus bamboo",
    "ground": "sand dirt ground soil road asphalt mud path desert permafrost canyon track street earth dust beach",
    "metal": "metal steel iron rust grate panel vertpanel pipe trim base ribs comp ceil copper bronze gold tin block barrel "
             "ingot furnace wheel machine engine vent",
    "liquid": "water lava ice snow snowrock magma slime river sea ocean frozen waterfall",
    "cloth": "cloth carpet fabric wool felt rug curtain leather sofa bed pillow",
}
# What is no texture: charts of normals and gloss, alpha masks, numbers, flags (and a towel like one), signs
# with writing.
OUT = re.compile(r"_nm|nrm|normal|gloss|mask|flag|gauge|shadow|alpha|speed|number|digit|screenshot|icon|sign|text|clock|"
                 r"countdown|lap|banner|logo|chess|poster|light|spec|emit|displ|_ao|height|splat|particle|plate|numb|score|"
                 r"-nm|towel|_n\.|_s\.|bump|overlay|_detail|animated|board|panel_?\d+x|book|keyboard|uv|skin|_diff|hud", re.I)


def class_of(name):
    words = set(re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower()))
    for cls, wanted in WORDS.items():
        if words & set(wanted.split()):
            return "t-" + cls
    return None


def squares(image, r, most):
    """Squares cut from a texture at one half to the whole of its shorter side."""
    image = image.convert("RGB")
    if max(image.size) <= SIDE:
        yield image.resize((SIDE, SIDE), Image.Resampling.NEAREST)
        return
    short = min(image.size)
    for i in range(most):
        side = short if i == 0 else int(r.uniform(0.35 if short > 96 else 0.6, 1) * short)
        x, y = (int(r.integers(0, n - side + 1)) for n in image.size)
        yield image.crop((x, y, x + side, y + side)).resize((SIDE, SIDE), Image.Resampling.BOX)


def opaque(image):
    return image.mode in ("RGB", "L") or image.convert("RGBA").getchannel("A").getextrema()[0] > 250


def contrast(image):
    return float(np.asarray(image, np.float32).std((0, 1)).max())


def of_game(package, folder, root, most=6):
    """Pictures below a game's folder whose licence is free; yields (class, source, name, 32x32 RGB)."""
    known = dep5.paragraphs(os.path.join(folder, "usr/share/doc", package, "copyright"))
    seen = set()
    for where, _, files in sorted(os.walk(os.path.join(folder, root))):
        for f in sorted(files):
            path = os.path.join(where, f)
            name = os.path.splitext(f)[0]
            cls = class_of(name)
            if not cls or name in seen or not f.endswith((".png", ".jpg")) or OUT.search(f):
                continue
            if "/editor" in where or "/karts" in where or "/models" in where or os.path.islink(path):
                continue
            if not any(dep5.free(p, known) for p in of_source(package, os.path.relpath(path, os.path.join(folder, root)))):
                continue
            image = Image.open(path)
            if min(image.size) < 16 or max(image.size) > 4 * min(image.size) or not opaque(image):
                continue
            seen.add(name)
            for i, s in enumerate(squares(image, seeded("texture", package, name), most)):
                yield cls, package, f"{name}-{i}", s


def of_source(package, path):
    """The file's name in the source package, whose copyright file tells the licences."""
    if package == "minetest-data":
        return [path.replace("games/minetest_game/", "mtg/"), path]
    return [path]


def of_freedoom(folder, most=4):
    seen = set()
    for where, _, files in sorted(os.walk(folder)):
        for f in sorted(files):
            if not f.endswith(".wad"):
                continue
            for section, name, image in wad.pictures(os.path.join(where, f)):
                if section == "S" or name in seen or min(image.size) < 48 or not opaque(image):
                    continue
                if re.match(r"DUMMY|F_SKY|AQF0(1[0-5]|29|3|4|5|6)|CEIL1|TLITE|COMP|CONS|DOOR|NUM|.*(SIGN|EXIT|SW|NUMB)", name):
                    continue
                if section == "F":
                    kind = "stone" if re.match(r"RROCK|FLOOR5|FLAT5|FLAT1$|FLAT10|GRNROCK|MFLR|SLIME1|AQF00|AQF02", name) else \
                        "liquid" if re.match(r"BLOOD|FWATER|SWATER|NUKAGE|LAVA|SLIME", name) else "floors"
                else:
                    kind = "walls"
                seen.add(name)
                for i, s in enumerate(squares(image, seeded("freedoom", name), most)):
                    if contrast(s) > 10:
                        yield "t-" + kind, "freedoom", f"{name}-{i}", s
