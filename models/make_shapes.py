#!/usr/bin/env python3
"""Formula-drawn pictures, the second part of the data of the bundled base (the first is prepare_emoji.py).

    make_shapes.py OUT_FOLDER [COUNT]        COUNT pictures of 32x32 in each class, default 400

Nothing is collected: every picture comes from a formula and a seed, so there is no licence and no label noise.
The classes teach what emoji lack: backgrounds of every colour, thin strokes, flat fields, edges, skies, textures.
Needs numpy and Pillow (Debian: python3-numpy, python3-pil).  The same version of both gives the same folder.
"""
import os
import sys

import numpy as np
from PIL import Image, ImageDraw

SIDE, OVER = 32, 4  # drawn OVER times larger, then averaged
BIG = SIDE * OVER


def colour(r):
    """Half vivid, half any."""
    if r.random() < 0.5:
        c = r.choice([0, 40, 128, 200, 255], 3)
    else:
        c = r.integers(0, 256, 3)
    return tuple(int(x) for x in c)


def two_colours(r):
    """Ink and ground that can be told apart."""
    while True:
        a, b = colour(r), colour(r)
        if sum(abs(x - y) for x, y in zip(a, b)) > 200:
            return a, b


def ink_and_ground(r):
    """Mostly light on dark and dark on light, as writing is."""
    k = r.random()
    if k < 0.4:
        return (int(r.integers(200, 256)),) * 3, (int(r.integers(0, 30)),) * 3
    if k < 0.6:
        return (int(r.integers(0, 60)),) * 3, (int(r.integers(225, 256)),) * 3
    return two_colours(r)


def down(image):
    return image.resize((SIDE, SIDE), Image.Resampling.BOX)


def noise(r, n, exponent):
    """n x n field with the spectrum 1 / f^exponent, mean 0, deviation 1."""
    f = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.fftfreq(n)[None, :])
    f[0, 0] = 1
    z = np.fft.ifft2(np.fft.fft2(r.standard_normal((n, n))) / f**exponent).real
    return (z - z.mean()) / z.std()


def ramp(values, colours):
    """Interpolate colours over values in [0, 1]."""
    values = np.clip(values, 0, 1)
    at = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(values, at, [c[k] for c in colours]) for k in range(3)], -1)


def pen(draw, points, width, ink):
    draw.line(points, fill=ink, width=width, joint="curve")
    for x, y in (points[0], points[-1]):
        draw.ellipse([x - width / 2, y - width / 2, x + width / 2, y + width / 2], fill=ink)


def one_stroke(r):
    """Points of an arc, a loop, a line or a smooth curve in the unit square."""
    kind = r.integers(4)
    t = np.linspace(0, 1, 40)
    if kind == 0:  # arc, up to a full loop
        cx, cy = r.uniform(0.3, 0.7, 2)
        rx, ry = r.uniform(0.1, 0.35, 2)
        a = r.uniform(0, 2 * np.pi) + t * r.uniform(2, 6.6) * r.choice([-1, 1])
        return np.stack([cx + rx * np.cos(a), cy + ry * np.sin(a)], 1)
    if kind == 1:  # straight
        a, b = r.uniform(0.15, 0.85, (2, 2))
        return a + t[:, None] * (b - a)
    if kind == 2:  # two or three straight pieces
        p = r.uniform(0.15, 0.85, (r.integers(3, 5), 2))
        return np.stack([np.interp(t, np.linspace(0, 1, len(p)), p[:, k]) for k in range(2)], 1)
    p = r.uniform(0.1, 0.9, (4, 2))  # cubic Bezier
    u = 1 - t
    return (u**3)[:, None] * p[0] + (3 * u * u * t)[:, None] * p[1] + (3 * u * t * t)[:, None] * p[2] + (t**3)[:, None] * p[3]


def strokes(r):
    ink, ground = ink_and_ground(r)
    image = Image.new("RGB", (BIG, BIG), ground)
    draw = ImageDraw.Draw(image)
    width = int(r.uniform(1.5, 4.5) * OVER)
    scale, shift = r.uniform(0.6, 1), r.uniform(-0.1, 0.1, 2)
    last = None
    for _ in range(r.integers(1, 4)):
        p = one_stroke(r)
        if last is not None and r.random() < 0.7:  # go on where the last one ended
            p = p - p[0] + last
        last = p[-1]
        p = 0.5 + (p - 0.5) * scale + shift
        pen(draw, [(float(x * BIG), float(y * BIG)) for x, y in p], width, ink)
    return down(image)


def star(cx, cy, radius, n, inner, turn):
    k = np.arange(2 * n)
    q = np.where(k % 2, inner, 1.0) * radius
    a = turn + np.pi * k / n
    return [(float(cx + x), float(cy + y)) for x, y in zip(q * np.sin(a), -q * np.cos(a))]


def figure(r, draw, cx, cy, radius, ink):
    kind = r.integers(6)
    box = [cx - radius, cy - radius, cx + radius, cy + radius]
    if kind == 0:
        draw.ellipse(box, fill=ink)
    elif kind == 1:
        draw.ellipse(box, outline=ink, width=max(2, int(radius * r.uniform(0.15, 0.5))))
    elif kind == 2:
        draw.polygon(star(cx, cy, radius, int(r.integers(4, 8)), r.uniform(0.3, 0.6), r.uniform(0, 0.6)), fill=ink)
    elif kind == 3:
        draw.polygon(star(cx, cy, radius, int(r.integers(3, 7)), 1.0, r.uniform(0, 3)), fill=ink)
    elif kind == 4:
        draw.rectangle(box, fill=ink)
    else:  # crescent or cross
        w = radius * r.uniform(0.2, 0.4)
        draw.rectangle([cx - radius, cy - w, cx + radius, cy + w], fill=ink)
        draw.rectangle([cx - w, cy - radius, cx + w, cy + radius], fill=ink)


def bands(r):
    image = Image.new("RGB", (BIG, BIG), colour(r))
    draw = ImageDraw.Draw(image)
    n = int(r.integers(2, 7))
    edges = np.linspace(0, 1, n + 1) if r.random() < 0.7 else np.concatenate([[0], np.sort(r.uniform(0.1, 0.9, n - 1)), [1]])
    inks = [colour(r) for _ in range(3)]
    for i in range(n):
        a, b = edges[i] * BIG, edges[i + 1] * BIG
        draw.rectangle([0, a, BIG, b], fill=inks[i % len(inks)])
    image = image.rotate(float(r.choice([0, 90, 0, 90, 45, 30])), Image.Resampling.BILINEAR, expand=False,
                         fillcolor=inks[0])
    draw = ImageDraw.Draw(image)
    if r.random() < 0.5:
        figure(r, draw, *(r.uniform(0.25, 0.75, 2) * BIG), float(r.uniform(0.1, 0.35) * BIG), colour(r))
    return down(image)


def figures(r):
    image = Image.new("RGB", (BIG, BIG), colour(r))
    draw = ImageDraw.Draw(image)
    for _ in range(int(r.choice([1, 1, 1, 2, 3, 5]))):
        figure(r, draw, *(r.uniform(0.2, 0.8, 2) * BIG), float(r.uniform(0.08, 0.42) * BIG), colour(r))
    return down(image)


def leaves(r):
    """Dead leaves: discs of power-law radii that hide one another."""
    image = Image.new("RGB", (BIG, BIG), colour(r))
    draw = ImageDraw.Draw(image)
    base, spread = np.array(colour(r)), r.uniform(20, 110)
    for _ in range(150):
        radius = min(BIG / 2, BIG * 0.03 * (1 - r.random()) ** -0.7)
        x, y = r.uniform(0, BIG, 2)
        ink = tuple(int(v) for v in np.clip(base + r.standard_normal(3) * spread, 0, 255))
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=ink)
    return down(image)


def clouds(r):
    """Coloured 1/f noise: the spectrum of natural pictures."""
    shared, e = noise(r, 64, r.uniform(0.9, 1.8)), r.uniform(0.9, 1.8)
    rgb = np.stack([shared + r.uniform(0, 0.5) * noise(r, 64, e) for _ in range(3)], -1)[:SIDE, :SIDE]
    rgb = np.array(colour(r)) * r.uniform(0.4, 1) + 30 + rgb * r.uniform(15, 60)
    return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))


def layers(r):
    """Sky with a gradient, then one to four ridges, each with a texture of its own."""
    y = np.linspace(0, 1, 64)[:, None] * np.ones((1, 64))
    hue = np.array([r.uniform(90, 255), r.uniform(110, 240), r.uniform(130, 255)])
    low = np.clip(hue + r.uniform(-60, 60, 3), 0, 255)
    rgb = ramp(y * 1.4 + 0.08 * noise(r, 64, 1.6), [hue, low])
    rgb += noise(r, 64, 1.7)[..., None] * r.uniform(0, 25)
    top = r.uniform(0.2, 0.6)
    for _ in range(int(r.integers(1, 5))):
        line = top + r.uniform(0.01, 0.09) * noise(r, 64, r.uniform(1.2, 2.2))[0]
        ink = np.array([r.uniform(10, 200), r.uniform(20, 180), r.uniform(10, 170)])
        tex = noise(r, 64, r.uniform(0.6, 1.4))[..., None] * r.uniform(3, 40)
        below = y > line[None, :]
        rgb = np.where(below[..., None], ink + tex + (y - 0.5)[..., None] * r.uniform(-60, 60), rgb)
        top += r.uniform(0.08, 0.3)
    rgb = rgb.reshape(SIDE, 2, SIDE, 2, 3).mean((1, 3))
    return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))


def gradients(r):
    a = r.uniform(0, 2 * np.pi)
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, SIDE), np.linspace(-0.5, 0.5, SIDE))
    v = 0.5 + x * np.cos(a) + y * np.sin(a) if r.random() < 0.7 else np.hypot(x - r.uniform(-0.3, 0.3), y) * 1.4
    return Image.fromarray(ramp(v, [colour(r) for _ in range(r.integers(2, 4))]).astype(np.uint8))


CLASSES = {"x-bands": bands, "x-clouds": clouds, "x-figures": figures, "x-gradients": gradients, "x-layers": layers,
           "x-leaves": leaves, "x-strokes": strokes}


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    count = int(sys.argv[2]) if len(sys.argv) == 3 else 400
    for c, (name, make) in enumerate(CLASSES.items()):
        folder = os.path.join(sys.argv[1], name)
        os.makedirs(folder, exist_ok=True)
        for i in range(count):
            make(np.random.default_rng([7, c, i])).save(os.path.join(folder, f"{i:05d}.png"))
        print(f"{count:5d} {name}")


if __name__ == "__main__":
    main()
