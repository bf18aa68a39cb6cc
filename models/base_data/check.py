"""Looks at the finished folder: near-copies of the example sets, and sheets for a person."""
import os

import numpy as np
from PIL import Image

SIDE = 32
FLOOR = 6.0  # root mean square of 255; sets that hold one picture twice have a first percentile of 0


def load(path):
    """The square crop that every data set gets, at 32x32, as a row."""
    image = Image.open(path)
    if image.mode in ("P", "RGBA", "LA"):
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("RGB")
    s = min(image.size)
    x, y = (image.width - s) // 2, (image.height - s) // 2
    image = image.crop((x, y, x + s, y + s))
    return np.asarray(image if s == SIDE else image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32).reshape(-1)


def files(folder):
    return sorted(os.path.join(d, f) for d, _, fs in os.walk(folder) for f in fs if f.endswith((".png", ".jpg")))


def nearest(rows, table, skip_self=False):
    """Index and root-mean-square distance of each row's nearest in the table."""
    norm = (table**2).sum(1)
    index, dist = np.zeros(len(rows), int), np.zeros(len(rows), np.float32)
    for a in range(0, len(rows), 1024):
        part = rows[a:a + 1024]
        d = (part**2).sum(1)[:, None] + norm - 2 * part @ table.T
        if skip_self:
            d[np.arange(len(part)), a + np.arange(len(part))] = np.inf
        index[a:a + len(part)] = d.argmin(1)
        dist[a:a + len(part)] = np.sqrt(np.maximum(d.min(1), 0) / rows.shape[1])
    return index, dist


def check(folder, examples):
    paths = files(folder)
    text, gone = "", set()
    rows = np.stack([load(p) for p in paths])
    for name in ("digits", "flags", "photos"):
        known = files(os.path.join(examples, name))
        table = np.stack([load(p) for p in known])
        own = np.sort(nearest(table, table, True)[1])
        limit = max(float(np.quantile(own, 0.01)), FLOOR)
        index, dist = nearest(rows, table)
        order = np.argsort(dist, kind="stable")
        text += (f"{name}: its own nearest neighbours {own[0]:.1f} (least), {np.quantile(own, 0.01):.1f} (1st percentile), "
                 f"{np.median(own):.1f} (median); ours to it {dist[order[0]]:.1f} (least), "
                 f"{np.quantile(dist, 0.01):.1f} (1st percentile); {int((dist < limit).sum())} nearer than {limit:.1f}\n")
        for i in order[:12]:
            text += f"  {dist[i]:6.1f}  {os.path.relpath(paths[i], folder)}  {os.path.relpath(known[index[i]], examples)}\n"
        gone |= {paths[i] for i in np.flatnonzero(dist < limit)}
    for p in gone:
        os.remove(p)
    source = os.path.join(folder, "SOURCES.txt")
    with open(source) as f:
        lines = [line for line in f if os.path.join(folder, *line.split("\t")[:2]) not in gone]
    with open(source, "w") as f:
        f.writelines(lines)
    text += f"{len(gone)} removed, {len(paths) - len(gone)} left\n"
    with open(os.path.join(folder, "NEAREST.txt"), "w") as f:
        f.write(text)
    print(text, end="")


def sheets(folder, out, each=24, columns=48):
    """One PNG per group (the letter before the first dash), two classes a line."""
    os.makedirs(out, exist_ok=True)
    groups = {}
    for cls in sorted(os.listdir(folder)):
        if os.path.isdir(os.path.join(folder, cls)):
            groups.setdefault(cls.split("-")[0], []).append(cls)
    for group, classes in groups.items():
        pictures = []
        for cls in classes:
            mine = files(os.path.join(folder, cls))
            pick = np.random.default_rng(1).permutation(len(mine))[:each]
            pictures += [mine[i] for i in sorted(pick)] + [None] * (each - len(pick))
            print(group, len(pictures) // columns, cls)
        sheet = Image.new("RGB", (columns * 34, (len(pictures) + columns - 1) // columns * 34), (90, 90, 90))
        for i, p in enumerate(pictures):
            if p:
                sheet.paste(Image.open(p), (i % columns * 34 + 1, i // columns * 34 + 1))
        sheet.save(os.path.join(out, f"{group}.png"))
