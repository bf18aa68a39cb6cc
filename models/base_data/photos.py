"""Photographs, cut into squares of many sizes.  The table says which file shows what; no file of the examples' package."""
import glob
import io
import os

import numpy as np
from PIL import Image

from . import dep5, rcc
from .picture import SIDE

# (package, part of the path, class, licence)
TABLE = [row.split("|") for row in """\
lomiri-wallpapers-16.04|Bridge_by|p-sky|CC-BY-SA-4.0
lomiri-wallpapers-16.04|Dragonfly|p-plants|CC-BY-SA-4.0
lomiri-wallpapers-16.04|Picture_0B|p-things|CC-BY-4.0
lomiri-wallpapers-16.04|Picture_1A|p-things|CC-BY-4.0
lomiri-wallpapers-16.04|Wine_by|p-things|CC-BY-4.0
lomiri-wallpapers-16.04|aitzgorri|p-land|CC-BY-4.0
lomiri-wallpapers-16.04|life_by|p-water|CC-BY-4.0
lomiri-wallpapers-16.04|picosdeeuropa|p-land|CC-BY-4.0
lomiri-wallpapers-16.04|seeding|p-plants|CC0-1.0
lomiri-wallpapers-16.04|sunset|p-sky|CC-BY-4.0
lomiri-wallpapers-16.04|umang|p-abstract|CC-BY-4.0
lomiri-wallpapers-16.04|friends|p-animals|CC-BY-4.0
lomiri-wallpapers-20.04|Infinite|p-sky|CC-BY-SA-3.0
lomiri-wallpapers-20.04|Kleiber|p-plants|CC-BY-SA-3.0
gnome-backgrounds|adwaita-|p-abstract|CC-BY-SA-3.0
gnome-backgrounds|pixels-|p-abstract|CC-BY-SA-3.0
gnome-backgrounds|truchet-|p-abstract|CC-BY-SA-3.0
gnome-backgrounds|licorice-|p-abstract|CC-BY-SA-3.0
ukui-wallpapers|calla|p-abstract|CC-BY-SA-3.0
ukui-wallpapers|city|p-abstract|CC-BY-SA-3.0
ukui-wallpapers|desert|p-abstract|CC-BY-SA-3.0
ukui-wallpapers|firstgeneration|p-abstract|CC-BY-SA-3.0
ukui-wallpapers|fluent-color|p-abstract|CC-BY-SA-3.0
ukui-wallpapers|goldfish|p-abstract|CC-BY-SA-3.0
ukui-wallpapers|rhythm|p-abstract|CC-BY-SA-3.0
ukui-wallpapers|string|p-abstract|CC-BY-SA-3.0
python3-skimage|data/chelsea.png|p-animals|CC0
python3-skimage|data/coffee.png|p-things|CC0
python3-skimage|data/rocket.jpg|p-things|public domain
python3-skimage|data/hubble_deep_field.jpg|p-space|public domain
python3-skimage|data/moon.png|p-space|public domain
python3-skimage|data/grass.png|t-plants|CC0
python3-skimage|data/gravel.png|t-stone|CC0
python3-skimage|data/brick.png|t-stone|CC0
python3-sklearn|images/china.jpg|p-buildings|CC-BY
python3-sklearn|images/flower.jpg|p-plants|CC-BY
gcompris-qt-data|fishes/fish|p-fish|CC0, CC-BY or public domain
gcompris-qt-data|clickgame/resource|p-fish|public domain
gcompris-qt-data|monuments/|p-buildings|CC-BY
gcompris-qt-data|renewable/windmill|p-buildings|CC-BY or public domain
gcompris-qt-data|renewable/solar|p-things|CC-BY or public domain
gcompris-qt-data|renewable/dam|p-water|CC-BY or public domain
gcompris-qt-data|animals/|p-animals|CC-BY or public domain
supertuxkart-data|textures/sky|p-sky|CC-BY-SA or public domain
supertuxkart-data|skybox/blue_sky_|p-sky|CC-BY-SA-4.0
supertuxkart-data|skybox/generic|p-land|CC-BY-SA-4.0
supertuxkart-data|lasdunassoccer/sky_|p-land|CC-BY-SA-4.0
supertuxkart-data|magma_sky_|p-land|CC-BY-SA-3.0
supertuxkart-data|cocoa_temple/skybox|p-land|CC-BY-SA-4.0
supertuxkart-data|farm_sky|p-land|CC-BY-SA-4.0
supertuxkart-data|sandtrack/skybox|p-land|CC-BY-SA-3.0
supertuxkart-data|gran_paradiso_island/skybox|p-land|CC-BY-SA-4.0
supertuxkart-data|racetrack_sky|p-sky|CC-BY-SA-3.0
supertuxkart-data|screenshot|p-scenes|CC-BY-SA
supertuxkart-data|_screen|p-scenes|CC-BY-SA
xplanet-images|earth.jpg|p-space|NASA, not copyrighted
""".splitlines()]
OUT = ("ibl", "_top", "_bottom", "measuringTape", "multimeter", "-top", "lightbox", "loading_screen", "skybox5")


def bytes_of(package, folder):
    """Yields (path, bytes) of every picture of a package that is a candidate."""
    parts = [row[1] for row in TABLE if row[0] == package and not (dep5.permissive_only and "SA" in row[3] and
                                                                   "CC-BY or" not in row[3])]

    def wanted(path):
        return any(p in path for p in parts) and not any(w in path for w in OUT) and path.endswith(("jpg", "png", "webp"))

    for path in sorted(glob.glob(os.path.join(folder, "**"), recursive=True)):
        name = os.path.relpath(path, folder)
        if path.endswith(".rcc"):
            with open(path, "rb") as f:
                yield from ((p, b) for p, b in rcc.entries(f.read()) if wanted(p))
        elif wanted(name) and os.path.isfile(path) and not os.path.islink(path):
            with open(path, "rb") as f:
                yield name, f.read()


def free_of(package, folder):
    """A test of a file's licence where the package's copyright file names files one by one, else all of the table's."""
    if package not in ("gcompris-qt-data", "supertuxkart-data"):
        return lambda path: True
    known = dep5.paragraphs(os.path.join(folder, "usr/share/doc", package, "copyright"))

    def test(path):
        if package == "supertuxkart-data":
            return bool(dep5.free(path.replace("usr/share/games/supertuxkart/", ""), known))
        stem = os.path.splitext(path.replace("gcompris/", "", 1))[0]
        return any(dep5.free(f"{stem}.{ext}", known) for ext in ("jpg", "png", "webp"))
    return test


def originals(package, folder):
    """Yields (class, source, name, RGB image)."""
    free = free_of(package, folder)
    for path, body in bytes_of(package, folder):
        cls = next(row[2] for row in TABLE if row[0] == package and row[1] in path)
        if not free(path):
            continue
        image = Image.open(io.BytesIO(body))
        image.draft("RGB", (700, 700))
        if image.mode in ("RGBA", "LA", "P"):
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        image = image.convert("RGB")
        if "clickgame" in path:  # the fish twice, side by side
            image = image.crop((0, 0, image.width // 2, image.height))
        if max(image.size) > 900:
            image.thumbnail((900, 900), Image.Resampling.BOX)
        if min(image.size) >= 40:
            yield cls, package, os.path.splitext(os.path.basename(path))[0], image


def crop(image, r, whole):
    """A square of a sixth to the whole of the shorter side, half of them mirrored."""
    short = min(image.size)
    side = short if whole else int(np.exp(r.uniform(np.log(max(SIDE, short / 6)), np.log(short))))
    x, y = (int(r.integers(0, n - side + 1)) for n in image.size)
    out = image.crop((x, y, x + side, y + side)).resize((SIDE, SIDE), Image.Resampling.BOX if side >= 64 else
                                                        Image.Resampling.LANCZOS)
    return out.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if r.random() < 0.5 else out
