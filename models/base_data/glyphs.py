"""Letters of many scripts in many fonts.  No digit in any form: picture.has_number refuses them."""
import functools
import json
import os
import string
import unicodedata

import numpy as np
from fontTools.ttLib import TTCollection, TTFont
from PIL import Image, ImageDraw, ImageFont

from .picture import SIDE, cloud, flat, gradient, has_number, ink_and_ground, seeded

BIG = 128


def letters(first, last, skip=""):
    return "".join(chr(c) for c in range(first, last + 1)
                   if unicodedata.category(chr(c))[0] == "L" and chr(c) not in skip and not has_number(chr(c)))


def classes():
    """Class -> its characters."""
    out = {f"g-latin-{c}": c.upper() + c for c in string.ascii_lowercase if c not in "lj"}
    out["g-latin-l"], out["g-latin-j"] = "L", "J"
    out["g-marks"] = "!?&@#%$*+=<>{}[]()/\\~^;:\u00a7\u00b6\u20ac\u00a3\u00a5"
    for name, text in (("greek", "\u0393\u0394\u0398\u039b\u039e\u03a0\u03a3\u03a6\u03a8\u03a9" +
                        letters(0x3b1, 0x3c9, "\u03bf\u03c2")),
                       ("cyrillic", "\u0411\u0413\u0414\u0416\u0418\u041b\u041f\u0423\u0424\u0426\u0427\u0428"
                        "\u0429\u042a\u042b\u042d\u042e\u042f"),
                       ("hebrew", letters(0x5d0, 0x5ea)), ("arabic", letters(0x628, 0x64a)),
                       ("hiragana", letters(0x3042, 0x3093)), ("katakana", letters(0x30a2, 0x30f3)),
                       ("devanagari", letters(0x905, 0x939)), ("thai", letters(0xe01, 0xe2e)),
                       ("georgian", letters(0x10d0, 0x10f0)), ("armenian", letters(0x561, 0x586))):
        out["g-" + name] = text
    hangul = [chr(0xac00 + i) for i in range(0, 11172, 17)]
    out["g-hangul"] = "".join(hangul)
    return {k: "".join(dict.fromkeys(c for c in v if not has_number(c))) for k, v in out.items()}


def spread(files, most):
    """At most so many of a package's files, evenly over the sorted list."""
    files = sorted(files)
    return files if len(files) <= most else [files[i * len(files) // most] for i in range(most)]


NOTO = ("Sans-Regular", "Sans-Bold", "Sans-Light", "Serif-Regular", "Serif-Bold", "SansHebrew-Regular", "SansHebrew-Bold",
        "SerifHebrew-Regular", "NaskhArabic-Regular", "KufiArabic-Regular", "KufiArabic-Bold", "SansArabic-Regular",
        "SansDevanagari-Regular", "SansDevanagari-Bold", "SerifDevanagari-Regular", "SansThai-Regular",
        "SerifThai-Regular", "SansGeorgian-Regular", "SansGeorgian-Bold", "SerifGeorgian-Regular",
        "SansArmenian-Regular", "SansArmenian-Bold", "SerifArmenian-Regular")


def usable(path):
    """Faces whose letters are letters, once: no symbol faces, no second copy of the same face."""
    name = os.path.basename(path)
    if not name.lower().endswith((".ttf", ".otf", ".ttc")) or os.path.islink(path):
        return False
    if any(w in name for w in ("Dingbat", "Symbol", "symbol", "Math", "math", "Ornament", "Music", "D050000L", "Initials",
                               "Keyboard", "Fallback", "LastResort", "bullet", "stroke")):
        return False
    return "Noto" not in name or name.startswith("NotoSansCJK-") or name.startswith("NotoSerifCJK-") or \
        any(name == f"Noto{n}.ttf" for n in NOTO)


def covered(path):
    """The letters and marks below U+E000 that a face has, "" for a face that cannot be read."""
    try:
        font = TTCollection(path, lazy=True).fonts[0] if path.endswith(".ttc") else TTFont(path, lazy=True)
        return "".join(chr(c) for c in sorted(font.getBestCmap() or {}) if 0x20 < c < 0x3100 or 0xac00 <= c < 0xd7a4)
    except Exception:  # whatever fontTools says of a broken face
        return ""


class Fonts:
    def __init__(self, sources, memory, most=8):
        """sources: (package, folder where it is unpacked); memory: a file that remembers which characters a face has."""
        self.faces = []  # (package, path, index, the characters it has)
        wanted = set("".join(classes().values()))
        known = json.load(open(memory)) if os.path.exists(memory) else {}
        for package, folder in sources:
            files = [os.path.join(d, f) for d, _, fs in os.walk(folder) for f in fs]
            seen = {}
            for f in sorted(files):
                if usable(f):
                    seen.setdefault(os.path.basename(f).rsplit(".", 1)[0], f)
            for f in spread(seen.values(), 40 if package == "fonts-noto-core" else most):
                key = os.path.join(package, os.path.basename(f))
                if key not in known:
                    known[key] = covered(f)
                have = wanted & set(known[key])
                if have:
                    self.faces.append((package, f, 0, have))
        with open(memory, "w") as f:
            json.dump(known, f)

    def having(self, char):
        return [f for f in self.faces if char in f[3]]


@functools.lru_cache(64)
def face(path, index, size):
    return ImageFont.truetype(path, size, index=index, layout_engine=ImageFont.Layout.BASIC)


def mask_of(path, index, char):
    """The glyph cut out, float 0..1 of about BIG pixels, or None where the face draws nothing or a box."""
    font = face(path, index, BIG)
    try:
        box = font.getbbox(char)
        if box[2] - box[0] < 6 or box[3] - box[1] < 6 or max(box[2] - box[0], box[3] - box[1]) > 6 * BIG:
            return None
        image = Image.new("L", (box[2] - box[0] + 8, box[3] - box[1] + 8))
        ImageDraw.Draw(image).text((4 - box[0], 4 - box[1]), char, font=font, fill=255)
    except OSError:
        return None
    box = image.getbbox()
    return image.crop(box) if box else None


def bend(mask, r, strength):
    """Smooth displacement, as no two hands write alike."""
    h, w = mask.shape
    coarse = r.standard_normal((2, 5, 5)).astype(np.float32) * strength
    dy, dx = (np.asarray(Image.fromarray(c).resize((w, h), Image.Resampling.BICUBIC)) for c in coarse)
    yy, xx = np.mgrid[0:h, 0:w].astype(np.float32)
    y, x = np.clip(yy + dy, 0, h - 1.001), np.clip(xx + dx, 0, w - 1.001)
    y0, x0 = y.astype(int), x.astype(int)
    fy, fx = y - y0, x - x0
    top = mask[y0, x0] * (1 - fx) + mask[y0, x0 + 1] * fx
    low = mask[y0 + 1, x0] * (1 - fx) + mask[y0 + 1, x0 + 1] * fx
    return top * (1 - fy) + low * fy


def draw(glyph, r):
    """Glyph -> 32x32 RGB: size, place, slant, turn, bend, ink and ground by r."""
    k = r.random()
    side = 80 if k < 0.3 else BIG  # a third is drawn on 20x20 and enlarged, softly, as small scans are
    size = r.uniform(0.55, 0.98) * side
    scale = size / max(glyph.size)
    w, h = max(2, int(glyph.width * scale)), max(2, int(glyph.height * scale))
    canvas = Image.new("L", (side, side))
    room = np.array([side - w, side - h])
    at = room / 2 + r.uniform(-0.5, 0.5, 2) * room * r.choice([0.3, 1.0])
    canvas.paste(glyph.resize((w, h), Image.Resampling.BILINEAR), (int(at[0]), int(at[1])))
    if r.random() < 0.5:
        shear, turn = r.uniform(-0.25, 0.25), r.uniform(-0.2, 0.2)
        c, s, m = np.cos(turn), np.sin(turn), side / 2
        a, b, d, e = c, s + shear, -s, c
        canvas = canvas.transform((side, side), Image.Transform.AFFINE,
                                  (a, b, m - a * m - b * m, d, e, m - d * m - e * m), Image.Resampling.BILINEAR)
    mask = np.asarray(canvas, np.float32) / 255
    if r.random() < 0.45:
        mask = bend(mask, r, r.uniform(0.01, 0.035) * side)
    mask = mask.reshape(side // 4, 4, side // 4, 4).mean((1, 3))
    if side != BIG:
        mask = np.clip(np.asarray(Image.fromarray(mask).resize((SIDE, SIDE), Image.Resampling.BICUBIC)), 0, 1)
    ink, back = ink_and_ground(r)
    ink, back = np.asarray(ink, np.float32), flat(back)
    k = r.random()
    if k < 0.08:
        back = gradient(r)
    elif k < 0.14:
        back = cloud(r)
    if np.abs(back.mean((0, 1)) - ink).sum() < 150:
        ink = 255 - ink if np.abs(back.mean((0, 1)) - (255 - ink)).sum() > 150 else flat(0 if back.mean() > 128 else 255)
    out = back * (1 - mask[..., None]) + ink * mask[..., None]
    return Image.fromarray(np.clip(out + 0.5, 0, 255).astype(np.uint8))


def pictures(fonts, counts):
    """Yields (class, package, name, image); each (character, face) once before any a second time."""
    for cls, chars in classes().items():
        pairs = [(c, f) for c in chars for f in fonts.having(c)]
        if not pairs:
            continue
        order = seeded("glyph order", cls).permutation(len(pairs))
        made, i = 0, 0
        while made < counts[cls] and i < 6 * counts[cls]:
            char, (package, path, index, _) = pairs[order[i % len(pairs)]]
            i += 1
            glyph = mask_of(path, index, char)
            if glyph is None:
                continue
            name = f"{ord(char):05x}-{os.path.basename(path).rsplit('.', 1)[0]}-{i // len(pairs)}"
            yield cls, package, name, draw(glyph, seeded("glyph", cls, name))
            made += 1
