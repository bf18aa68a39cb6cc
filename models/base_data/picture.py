"""What every source shares: placing a drawing on a ground, and telling pictures that are worth nothing.

All randomness comes from numpy generators seeded with a name (seeded), never from the order of files or of calls.
"""
import os
import sys
import zlib

import numpy as np
from PIL import Image

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from make_shapes import colour, ink_and_ground, noise, ramp, two_colours  # noqa: E402,F401

SIDE = 32


def seeded(*names):
    """A generator of its own for each picture: a source that grows does not change the others."""
    return np.random.default_rng([zlib.crc32(str(n).encode()) for n in names])


def flat(rgb, side=SIDE):
    return np.ones((side, side, 1), np.float32) * np.asarray(rgb, np.float32)


def gradient(r, side=SIDE):
    a = r.uniform(0, 2 * np.pi)
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, side), np.linspace(-0.5, 0.5, side))
    return ramp(0.5 + x * np.cos(a) + y * np.sin(a), [colour(r), colour(r)]).astype(np.float32)


def cloud(r, side=SIDE):
    """A ground that is not flat: soft noise around one colour."""
    n = noise(r, 64, r.uniform(1.2, 2))[:side, :side, None] * r.uniform(8, 40)
    return np.clip(np.array(colour(r)) + n, 0, 255).astype(np.float32)


def ground(r):
    """Grounds of transparent drawings: white first, then flat colours, dark, gradients, soft noise."""
    k = r.random()
    if k < 0.40:
        return flat((255, 255, 255))
    if k < 0.52:
        return flat((int(r.integers(0, 30)),) * 3)
    if k < 0.80:
        return flat(colour(r))
    return gradient(r) if k < 0.92 else cloud(r)


def squared(image):
    """RGBA cut to what is visible and centred in a square."""
    image = image.convert("RGBA")
    box = image.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox()
    if not box:
        return None
    image = image.crop(box)
    side = max(image.size)
    out = Image.new("RGBA", (side, side))
    out.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return out


def place(image, r, plain=False, flip=True, crisp=False):
    """RGBA square -> 32x32 RGB on a ground.  plain: on white, nearly full size, upright.

    crisp: pixel art keeps its pixels (nearest neighbour, whole factors) where it is not larger than the picture.
    """
    if plain:
        size, turn, mirror, back = 30, 0.0, False, flat((255, 255, 255))
    else:
        size = int(r.integers(22, 33))
        turn = float(r.uniform(-12, 12)) if r.random() < 0.3 else 0.0
        mirror, back = flip and r.random() < 0.5, ground(r)
    if crisp and image.width <= SIDE:
        size, turn = image.width * max(1, SIDE // image.width), 0.0
        image = image.resize((size, size), Image.Resampling.NEAREST)
    rgba = np.asarray(image, np.float32)
    pre = np.concatenate([rgba[..., :3] * rgba[..., 3:] / 255, rgba[..., 3:]], -1)
    planes = []
    for k in range(4):
        p = Image.fromarray(np.ascontiguousarray(pre[..., k]))
        if turn:
            p = p.rotate(turn, Image.Resampling.BILINEAR)
        planes.append(np.asarray(p.resize((size, size), Image.Resampling.BOX if size <= p.width // 2
                                          else Image.Resampling.LANCZOS)))
    small = np.stack(planes, -1)
    weight = small[..., 3].sum()
    shown = small[..., :3].sum((0, 1)) / max(weight, 1) * 255
    if np.abs(shown - back.mean((0, 1))).sum() < 140:  # black on black is not seen
        back = flat((255,) * 3 if shown.sum() < 382 else (20,) * 3)
    if mirror:
        small = small[:, ::-1]
    out = back.copy()
    room = SIDE - size
    x, y = (room // 2, room // 2) if plain or not room else r.integers(0, room + 1, 2)
    a = np.clip(small[..., 3:] / 255, 0, 1)
    out[y:y + size, x:x + size] = np.clip(small[..., :3], 0, 255) + out[y:y + size, x:x + size] * (1 - a)
    return Image.fromarray(np.clip(out + 0.5, 0, 255).astype(np.uint8))


def worthless(image, least=6.0):
    """Nearly one colour: nothing is seen."""
    return float(np.asarray(image, np.float32).std((0, 1)).max()) < least


def has_number(char):
    """Unicode category N*, or a letter that stands for a number (CJK one, two, three)."""
    import unicodedata
    return unicodedata.category(char)[0] == "N" or unicodedata.numeric(char, None) is not None
