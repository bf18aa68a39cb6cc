"""Pictures by formula, beside those of make_shapes.py: sketches of simple things, and materials."""
import numpy as np
from PIL import Image

from .glyphs import BIG, draw
from .picture import SIDE, colour, noise, ramp, two_colours


def ring(cx, cy, rx, ry, a=0.0, b=2 * np.pi, n=30):
    t = np.linspace(a, b, n)
    return np.stack([cx + rx * np.cos(t), cy + ry * np.sin(t)], 1)


def line(*points):
    return np.array(points, float)


def house(r):
    w, h, top = r.uniform(0.25, 0.38), r.uniform(0.2, 0.35), r.uniform(0.15, 0.3)
    y = 0.85 - h
    out = [line((.5 - w, .85), (.5 - w, y), (.5 + w, y), (.5 + w, .85), (.5 - w, .85)),
           line((.5 - w - .05, y), (.5, y - top), (.5 + w + .05, y))]
    x = .5 + r.uniform(-0.15, 0.15)
    out.append(line((x - .06, .85), (x - .06, .85 - h * .6), (x + .06, .85 - h * .6), (x + .06, .85)))
    if r.random() < 0.5:
        a, b = .5 + w * .5, .5 + w * .75
        out.append(line((a, y - top * .5), (a, y - top), (b, y - top), (b, y - top * .25)))
    return out


def face(r):
    rx, ry = r.uniform(0.28, 0.42), r.uniform(0.32, 0.44)
    e, y, m = r.uniform(.1, .16), r.uniform(.38, .46), r.uniform(-0.1, 0.14)
    t = np.linspace(-1, 1, 12)
    mouth = np.stack([.5 + t * .17, .66 + m * (1 - t * t)], 1)
    return [ring(.5, .5, rx, ry), ring(.5 - e, y, .035, .035, n=8), ring(.5 + e, y, .035, .035, n=8), mouth]


def tree(r):
    out = [line((.5, .92), (.5, .45))]
    if r.random() < 0.5:
        for k in range(int(r.integers(2, 5))):
            y, w = .2 + .16 * k, .12 + .08 * k
            out.append(line((.5 - w, y + .16), (.5, y - .05), (.5 + w, y + .16)))
        return out
    return out + [ring(.5 + r.uniform(-.12, .12), .32 + r.uniform(-.1, .1), r.uniform(.14, .26), r.uniform(.14, .22))
                  for _ in range(int(r.integers(1, 4)))]


def flower(r):
    n, c, p = int(r.integers(4, 8)), (.5, r.uniform(.3, .4)), r.uniform(.11, .17)
    out = [ring(*c, .07, .07, n=12)]
    for k in range(n):
        a = 2 * np.pi * k / n + r.uniform(-.1, .1)
        out.append(ring(c[0] + np.cos(a) * p * 1.2, c[1] + np.sin(a) * p * 1.2, p * .6, p * .6, n=14))
    out.append(line((.5, c[1] + p * 1.8), (.5 + r.uniform(-.06, .06), .95)))
    return out + [ring(.5 + .1, .78, .1, .05, n=14)] * int(r.random() < 0.6)


def fish(r):
    w, h = r.uniform(.25, .34), r.uniform(.13, .22)
    x = .43
    return [ring(x, .5, w, h), line((x + w * .92, .5), (x + w + .2, .5 - h), (x + w + .2, .5 + h), (x + w * .92, .5)),
            ring(x - w * .55, .5 - h * .25, .025, .025, n=8), ring(x - w * .1, .5, .08, h * .7, -1.2, 1.2, 10)]


def car(r):
    y, h = r.uniform(.52, .6), r.uniform(.14, .2)
    out = [line((.08, y + h), (.08, y), (.28, y), (.38, y - h), (.68, y - h), (.78, y), (.92, y), (.92, y + h), (.08, y + h))]
    return out + [ring(c, y + h, .09, .09, n=16) for c in (.28, .72)]


def boat(r):
    out = [line((.1, .65), (.9, .65), (.75, .85), (.25, .85), (.1, .65)), line((.5, .65), (.5, .12))]
    return out + [line((.5, .15), (.5 + r.uniform(.2, .36), .58), (.5, .58))] + \
        [line((.5, .2), (.5 - r.uniform(.15, .3), .58), (.5, .58))] * int(r.random() < .6)


def person(r):
    y, a, b = .2, r.uniform(-.2, .15), r.uniform(.12, .24)
    return [ring(.5, y, .11, .12, n=16), line((.5, y + .12), (.5, .62)), line((.5, .38), (.5 - .22, .42 + a)),
            line((.5, .38), (.5 + .22, .42 + r.uniform(-.2, .15))), line((.5 - b, .93), (.5, .62), (.5 + b, .93))]


def cat(r):
    w = r.uniform(.26, .36)
    out = [ring(.5, .55, w, .28), line((.5 - w * .9, .42), (.5 - w * .85, .14), (.5 - w * .25, .3)),
           line((.5 + w * .9, .42), (.5 + w * .85, .14), (.5 + w * .25, .3)), ring(.4, .5, .03, .04, n=8),
           ring(.6, .5, .03, .04, n=8), line((.46, .62), (.5, .65), (.54, .62))]
    return out + [line((.5 + s * .12, .64), (.5 + s * .4, .64 + d)) for s in (-1, 1) for d in (-.05, .05)]


def cup(r):
    w, h = r.uniform(.2, .3), r.uniform(.4, .55)
    y = .85 - h
    return [line((.45 - w, y), (.45 - w * .8, .85), (.45 + w * .8, .85), (.45 + w, y)), ring(.45, y, w, .06),
            ring(.45 + w * .95, y + h * .4, .14, .13, -1.6, 1.6, 14)]


def sun(r):
    n, q = int(r.integers(7, 13)), r.uniform(.16, .22)
    a = np.arange(n) * 2 * np.pi / n
    return [ring(.5, .5, q, q)] + [line((.5 + np.cos(t) * q * 1.3, .5 + np.sin(t) * q * 1.3),
                                        (.5 + np.cos(t) * .44, .5 + np.sin(t) * .44)) for t in a]


def star(r):
    n, inner = int(r.integers(5, 8)), r.uniform(.35, .55)
    k = np.arange(2 * n + 1)
    q = np.where(k % 2, inner, 1) * .43
    return [np.stack([.5 + q * np.sin(np.pi * k / n), .5 - q * np.cos(np.pi * k / n)], 1)]


def spiral(r):
    t = np.linspace(0.1, 1, 90)
    a = t * r.uniform(2, 4) * 2 * np.pi
    return [np.stack([.5 + .43 * t * np.cos(a), .5 + .43 * t * np.sin(a)], 1)]


def cloud(r):
    n = int(r.integers(5, 8))
    a = np.linspace(0, 2 * np.pi, n, endpoint=False)
    pts = [ring(.5 + .27 * np.cos(t), .5 + .15 * np.sin(t), .15, .13, t - 1.5, t + 1.5, 10) for t in a]
    return [np.concatenate(pts + pts[:1])]


SKETCHES = {"s-" + f.__name__: f for f in (house, face, tree, flower, fish, car, boat, person, cat, cup, sun, star, spiral,
                                           cloud)}


def sketch(cls, r):
    """The strokes with a pen of one width, then what glyphs.draw does to any mask: slant, bend, ink and ground."""
    from PIL import ImageDraw
    mask = Image.new("L", (BIG, BIG))
    pen, width = ImageDraw.Draw(mask), int(r.uniform(0.03, 0.1) * BIG)
    for points in SKETCHES[cls](r):
        p = points + np.cumsum(r.normal(0, 0.004, points.shape), 0)
        xy = [(float(x * BIG), float(y * BIG)) for x, y in p]
        pen.line(xy, fill=255, width=width, joint="curve")
        for x, y in (xy[0], xy[-1]):
            pen.ellipse([x - width / 2, y - width / 2, x + width / 2, y + width / 2], fill=255)
    box = mask.getbbox()
    return draw(mask.crop(box), r)


def grid(n=64):
    return np.meshgrid(np.linspace(0, 1, n), np.linspace(0, 1, n))


def image_of(rgb):
    n = rgb.shape[0] // SIDE
    rgb = rgb.reshape(SIDE, n, SIDE, n, 3).mean((1, 3))
    return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))


def near(c, r, d):
    return np.clip(np.asarray(c, float) + r.uniform(-d, d, 3), 0, 255)


def wood(r):
    x, y = grid()
    c = np.array([r.uniform(90, 220), r.uniform(60, 160), r.uniform(25, 110)])
    v = x * r.uniform(3, 12) + noise(r, 64, 2) * r.uniform(.1, .5) + y * r.uniform(-.5, .5)
    rgb = ramp(0.5 + 0.5 * np.sin(v * 2 * np.pi), [c, c * r.uniform(.5, .85)]) + noise(r, 64, .5)[..., None] * r.uniform(2, 10)
    return image_of(rgb.swapaxes(0, 1) if r.random() < .5 else rgb)


def marble(r):
    a, b = two_colours(r)
    v = np.abs(np.sin((grid()[0] * r.uniform(1, 4) + noise(r, 64, 1.8) * r.uniform(.3, .8)) * np.pi))
    return image_of(ramp(v ** r.uniform(.3, 1.5), [near(a, r, 20), near(a, r, 40), b]))


def water(r):
    x, y = grid()
    c = np.array([r.uniform(0, 110), r.uniform(60, 190), r.uniform(100, 255)])
    k = y * r.uniform(4, 14) * (1 + y) + noise(r, 64, 1.7) * r.uniform(.2, .6)
    return image_of(ramp(.5 + .5 * np.sin(k * 2 * np.pi) * (.4 + .6 * y), [c * .6, c, np.minimum(c + r.uniform(30, 110), 255)]))


def bricks(r):
    x, y = grid()
    rows, cols, gap = int(r.integers(3, 9)), int(r.integers(2, 5)), r.uniform(.06, .14)
    row = np.floor(y * rows)
    u = x * cols + (row % 2) * .5 * (r.random() < .8)
    c, mortar = np.array(colour(r), float), np.array(colour(r), float)
    tone = r.uniform(-25, 25, (rows + 1, cols + 2))[row.astype(int) % (rows + 1), np.floor(u).astype(int)]
    inside = (u % 1 > gap * cols / rows) & (y * rows % 1 > gap)
    rgb = np.where(inside[..., None], c + tone[..., None], mortar) + noise(r, 64, .8)[..., None] * r.uniform(2, 14)
    return image_of(rgb)


def weave(r):
    x, y = grid()
    n = r.uniform(3, 9)
    a, b = two_colours(r)
    v = np.sin(x * n * 2 * np.pi) * np.sin(y * n * 2 * np.pi * r.choice([1, 1, .5]))
    v = (v > 0).astype(float) if r.random() < .5 else .5 + .5 * v
    return image_of(ramp(v, [a, b]) + noise(r, 64, 1)[..., None] * r.uniform(0, 14))


def fur(r):
    a, f = r.uniform(0, np.pi), np.fft.fftfreq(64)
    u = f[:, None] * np.cos(a) + f[None, :] * np.sin(a)
    v = -f[:, None] * np.sin(a) + f[None, :] * np.cos(a)
    z = np.fft.ifft2(np.fft.fft2(r.standard_normal((64, 64))) * np.exp(-(u * r.uniform(12, 30)) ** 2 - (v * 5) ** 2)).real
    c = np.array(colour(r), float)
    shade = noise(r, 64, 2)[..., None] * r.uniform(0, 30)
    return image_of(ramp(.5 + z / z.std() * .25, [c * .3, c, np.minimum(c + 70, 255)]) + shade)


def stars(r):
    rgb = np.array(near((8, 8, 25), r, 8)) + np.maximum(noise(r, 64, 1.9), 0)[..., None] * r.uniform(0, 60, 3)
    for _ in range(int(r.integers(10, 70))):
        x, y = r.integers(0, 63, 2)
        rgb[y:y + 2, x:x + 2] += r.uniform(60, 255) * np.array([1, 1, r.uniform(.7, 1)])
    return image_of(rgb)


def spots(r):
    """Cells: the distance to the nearest of some points."""
    x, y = grid()
    p = r.uniform(-.1, 1.1, (int(r.integers(6, 50)), 2))
    d = np.sort(np.hypot(x[..., None] - p[:, 0], y[..., None] - p[:, 1]), -1)
    a, b = two_colours(r)
    v = d[..., 1] - d[..., 0] if r.random() < .5 else d[..., 0]
    return image_of(ramp(v / v.max() * r.uniform(1, 2), [a, near(b, r, 30), b]))


def foliage(r):
    """Leaves of many sizes in light and shade."""
    from PIL import ImageDraw
    c = np.array([r.uniform(20, 150), r.uniform(70, 180), r.uniform(10, 90)])
    image = Image.new("RGB", (BIG, BIG), tuple(int(v * .3) for v in c))
    pen = ImageDraw.Draw(image)
    for i in range(int(r.integers(60, 260))):
        x, y = r.uniform(0, BIG, 2)
        n, a, q = r.uniform(4, 16), r.uniform(0, 2 * np.pi), r.uniform(.25, .6)
        ink = tuple(int(v) for v in np.clip(c * r.uniform(.4, 1.5) + r.normal(0, 12, 3), 0, 255))
        t = np.linspace(0, 2 * np.pi, 9)
        px, py = n * np.cos(t), n * q * np.sin(t)
        pen.polygon([(float(x + u * np.cos(a) - v * np.sin(a)), float(y + u * np.sin(a) + v * np.cos(a)))
                     for u, v in zip(px, py)], fill=ink)
    return image.resize((SIDE, SIDE), Image.Resampling.BOX)


MATERIALS = {"x-" + f.__name__: f for f in (wood, marble, water, bricks, weave, fur, stars, spots, foliage)}
