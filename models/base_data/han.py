"""Han characters of the CNS 11643 pixmaps (24x24), without those that stand for numbers."""
import os
import subprocess
import unicodedata

import numpy as np
from PIL import Image, ImageOps

from .glyphs import draw
from .picture import has_number, seeded

PLANES = "a1", "a2"
CLASSES = ("g-han-light", "g-han-dense")


def characters(folder):
    """(character, path), decoded from the file names by iconv(1): they are EUC-TW."""
    paths = []
    for plane in PLANES:
        where = os.path.join(folder, "usr/share/pixmaps/cns11643", plane)
        paths += [os.path.join(where, f) for f in sorted(os.listdir(where)) if len(f) == 12]
    raw = b"".join(bytes.fromhex(os.path.basename(p)[:8]) + b"\n" for p in paths)
    text = subprocess.run(["iconv", "-c", "-f", "EUC-TW", "-t", "UTF-8"], input=raw, stdout=subprocess.PIPE).stdout
    for path, line in zip(paths, text.decode("utf-8").split("\n")):
        if len(line) == 1 and unicodedata.category(line) == "Lo" and not has_number(line) and \
                "CJK UNIFIED" in unicodedata.name(line, ""):
            yield line, path


def pixmap(path):
    """The ink, as glyphs.mask_of gives it, enlarged softly."""
    image = Image.open(path)
    if image.mode in ("RGBA", "LA", "P"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    ink = ImageOps.invert(image.convert("L"))
    box = ink.point(lambda v: 255 if v > 60 else 0).getbbox()
    return ink.crop(box) if box and min(box[2] - box[0], box[3] - box[1]) > 5 else None


def pictures(folder, counts):
    known = list(characters(folder))
    inks = [pixmap(p) for _, p in known]
    share = np.array([np.asarray(i).mean() if i else np.nan for i in inks])
    middle = np.nanmedian(share)
    for k, cls in enumerate(CLASSES):
        mine = [i for i in range(len(known)) if inks[i] and k == (share[i] > middle)]
        order = seeded("han", cls).permutation(len(mine))
        for j in order[:counts[cls]]:
            char, _ = known[mine[j]]
            name = f"{ord(char):05x}"
            yield cls, "fonts-cns11643-pixmaps", name, draw(inks[mine[j]].resize(
                (inks[mine[j]].width * 5, inks[mine[j]].height * 5), Image.Resampling.BICUBIC), seeded("han", name))
