"""Crawl Stone Soup's tiles (CC0): creatures, things and places of 32x32; floors and walls as textures."""
import os
import re

from PIL import Image

from .picture import squared

# Folder of source/rltiles -> class.  Overlays that show a part only, numbers and marks of the interface are left out.
FOLDERS = {
    "c-animals": "mon/animals mon/aquatic mon/mutantbeast", "c-dragons": "mon/dragons mon/draco",
    "c-people": "mon/humanoids mon/demihumanoids mon/unique mon/player mon/holy player/base player/transform player/felids",
    "c-undead-demons": "mon/undead mon/demons mon/panlord",
    "c-strange": "mon/aberrations mon/abyss mon/amorphous mon/eyes mon/fungi_plants mon/nonliving mon/vault mon/tentacles",
    "c-weapons": "item/weapon item/staff item/rod item/wand UNUSED/weapons", "c-armour": "item/armour UNUSED/armour",
    "c-treasure": "item/ring item/amulet item/potion item/scroll item/book item/food",
    "c-spells": "gui/spells gui/invocations gui/abilities effect",
    "c-doors-altars": "dngn/altars dngn/doors dngn/gateways dngn/shops dngn/statues mon/statues",
    "t-floors": "dngn/floor UNUSED/floor", "t-walls": "dngn/wall", "t-liquid": "dngn/water",
}

OUT = re.compile("number|rune|zot|digit|count|shadow|halo|mask|wave|overlay")


def crawl(folder):
    """Yields (class, source, name, RGBA square); textures (t-) are opaque and keep their frame."""
    root = next(os.path.join(d, "rltiles") for d, ds, _ in os.walk(folder) if "rltiles" in ds)
    for cls, wanted in FOLDERS.items():
        for sub in wanted.split():
            for where, _, files in sorted(os.walk(os.path.join(root, sub))):
                for f in sorted(files):
                    if f.startswith(".") or not f.endswith(".png") or OUT.search(f):
                        continue
                    image = Image.open(os.path.join(where, f)).convert("RGBA")
                    opaque = image.getchannel("A").getextrema()[0] == 255
                    if cls.startswith("t-"):
                        image = image if opaque and image.size == (32, 32) else None
                    else:
                        image = squared(image)
                        if image and image.width < 12:
                            image = None
                    if image:
                        name = os.path.relpath(os.path.join(where, f), root)[:-4].replace("/", "-").replace("_", "-")
                        yield cls, "crawl", name, image
