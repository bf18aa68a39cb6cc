#!/usr/bin/env python3
"""The pictures of the second bundled base: fetched from packages, drawn, cut and checked (README.md tells of them).

    prepare_base.py fetch CACHE                       packages by name, version and SHA-256, unpacked
    prepare_base.py make CACHE EMOJI_TAR OUT [TOTAL [permissive]]
                                                      one sub-folder of 32x32 PNG per class, about TOTAL pictures (default
                                                      80,000); permissive: no source under a share-alike licence
    prepare_base.py check OUT EXAMPLES                nearest pairs with the example sets; removes near-copies
    prepare_base.py notice CACHE                      packages, licences and authors, for licenses/base-data-NOTICE.txt
    prepare_base.py sheets OUT FOLDER                 a sheet of pictures per group of classes, to look at

Needs the Python packages of base_data/requirements.txt, and apt-get, dpkg-deb, tar and iconv.
The same packages and versions give the same pictures.
"""
import collections
import hashlib
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import make_shapes  # noqa: E402
from base_data import check, dep5, emoji, fetch, formulas, glyphs, han, icons, photos, textures, tiles  # noqa: E402
from base_data.picture import place, seeded, worthless  # noqa: E402

# The mix: the trainer draws pictures uniformly, so these shares are what it sees.
SHARES = {"emoji": 0.17, "icons": 0.12, "tiles": 0.06, "drawings": 0.03, "sketches": 0.05,
          "glyphs": 0.29,
          "photos": 0.10, "textures": 0.08, "shapes": 0.05, "materials": 0.05}
# A drawing is placed at most VARIANTS times (size, ground, side); a texture laid, a photograph cut at most so often.
VARIANTS, LAID, CUT = 8, 8, 80


def quotas(total, room):
    """Even counts: every class the same, what a small one cannot give goes to the others.  room: class -> most."""
    left, out, open_ = int(total), {c: 0 for c in room}, set(room)
    while open_ and left > len(open_):
        each = left // len(open_)
        for c in sorted(open_):
            add = min(each, room[c] - out[c])
            out[c] += add
            left -= add
        open_ = {c for c in open_ if out[c] < room[c]}
    return out


class Folder:
    """Writes pictures, once each, and keeps the list of where they come from."""

    def __init__(self, path):
        self.path, self.seen, self.rows, self.dropped = path, set(), [], collections.Counter()
        os.makedirs(path)

    def add(self, cls, source, name, image):
        if worthless(image, 9 if cls[0] in "pt" else 6):
            self.dropped["nearly one colour"] += 1
            return
        digest = hashlib.sha256(image.tobytes()).digest()
        if digest in self.seen:
            self.dropped["twice"] += 1
            return
        self.seen.add(digest)
        where = os.path.join(self.path, cls)
        os.makedirs(where, exist_ok=True)
        base = f"{source}-{name}".replace("/", "-").replace(" ", "-")
        file = base
        for i in range(1, 100):
            if not os.path.exists(os.path.join(where, file + ".png")):
                break
            file = f"{base}.{i}"
        image.save(os.path.join(where, file + ".png"), optimize=False)
        self.rows.append((cls, file + ".png", source))

    def placed(self, originals, total):
        """Each original on white first, then on other grounds, until the class has its count."""
        by = {}
        for cls, source, name, image in originals:
            if image is not None:
                by.setdefault(cls, []).append((source, name, image))
        counts = quotas(total, {c: VARIANTS * len(v) for c, v in by.items()})
        for cls, items in sorted(by.items()):
            order = seeded("placed", cls).permutation(len(items))
            for i in range(counts[cls]):
                source, name, image = items[order[i % len(items)]]
                turn = i // len(items)
                r = seeded("place", cls, source, name, turn)
                out = place(image, r, turn == 0, not cls.startswith("i-arrows"), cls.startswith("c-"))
                self.add(cls, source, f"{name}-{turn}", out)

    def whole(self, originals, total):
        """Textures as they are, then turned and mirrored, until the class has its count."""
        by = {}
        for cls, source, name, image in originals:
            by.setdefault(cls, []).append((source, name, image))
        counts = quotas(total, {c: LAID * len(v) for c, v in by.items()})
        for cls, items in sorted(by.items()):
            order = seeded("whole", cls).permutation(len(items))
            for i in range(counts[cls]):
                source, name, image = items[order[i % len(items)]]
                self.add(cls, source, f"{name}-{i // len(items)}", laid(image, i // len(items)))

    def cut(self, originals, total):
        """Photographs: the whole square first, then squares of any size."""
        by = {}
        for cls, source, name, image in originals:
            by.setdefault(cls, []).append((source, name, image))
        counts = quotas(total, {c: CUT * len(v) for c, v in by.items()})
        for cls, items in sorted(by.items()):
            for i in range(counts[cls]):
                source, name, image = items[i % len(items)]
                turn = i // len(items)
                self.add(cls, source, f"{name}-{turn}", photos.crop(image, seeded("cut", source, name, turn), turn == 0))

    def finish(self):
        with open(os.path.join(self.path, "SOURCES.txt"), "w") as f:
            f.writelines("\t".join(r) + "\n" for r in sorted(self.rows))
        text = self.counts()
        with open(os.path.join(self.path, "COUNTS.txt"), "w") as f:
            f.write(text)
        print(text, end="")

    def counts(self):
        classes, sources = (collections.Counter(r[k] for r in self.rows) for k in (0, 2))
        text = "".join(f"{classes[c]:6d} {c}\n" for c in sorted(classes))
        text += f"{len(self.rows):6d} in {len(classes)} classes\n\n"
        text += "".join(f"{sources[s]:6d} {s}\t{fetch.licence(s)}\n" for s in sorted(sources))
        return text + "".join(f"{n:6d} left out: {why}\n" for why, n in sorted(self.dropped.items()))


def laid(image, turn):
    """One of the eight ways to lay a square."""
    out = image.convert("RGB")
    if turn & 4:
        out = out.transpose(0)
    return out.rotate(90 * (turn & 3))


def make(cache, emoji_tar, path, total=80000):
    out = Folder(path)
    at = {p: os.path.join(cache, p) for p in fetch.PACKAGES}
    share = {k: total * v for k, v in SHARES.items()}

    out.placed([*emoji.originals(emoji_tar), *emoji.emojione(at["ruby-rails-assets-emojione"], emoji_tar)], share["emoji"])
    out.placed([i for p in fetch.of_kind("theme") for i in icons.theme(p, at[p])] +
               [i for p in fetch.of_kind("iconfont") for i in icons.icon_font(p, at[p])], share["icons"])
    crawl = list(tiles.crawl(at["crawl"]))
    out.placed([i for i in crawl if i[0].startswith("c-")], share["tiles"])

    font = os.path.join(at["fonts-symbola"], "usr/share/fonts/truetype/ancient-scripts/Symbola_hint.ttf")
    for item in emoji.drawings(font, emoji_tar, {c: int(share["drawings"] / len(emoji.DRAWN)) for c in emoji.DRAWN}):
        out.add(*item)
    for count, drawn in ((share["sketches"], {c: lambda r, c=c: formulas.sketch(c, r) for c in formulas.SKETCHES}),
                         (share["shapes"], make_shapes.CLASSES), (share["materials"], formulas.MATERIALS)):
        for cls, draw in drawn.items():
            for i in range(int(count / len(drawn))):
                out.add(cls, "formula", f"{i:05d}", draw(seeded("formula", cls, i)))

    names = list(glyphs.classes()) + list(han.CLASSES)
    counts = {c: int(share["glyphs"] / len(names)) for c in names}
    for item in han.pictures(at["fonts-cns11643-pixmaps"], counts):
        out.add(*item)
    fonts = glyphs.Fonts([(p, at[p]) for p in fetch.of_kind("font")], os.path.join(cache, "faces.json"))
    for item in glyphs.pictures(fonts, counts):
        out.add(*item)

    shown = [i for p in dict.fromkeys(row[0] for row in photos.TABLE) for i in photos.originals(p, at[p])]
    out.cut([i for i in shown if i[0].startswith("p-")], share["photos"])
    materials = [(c, s, f"{n}-{k}", q) for c, s, n, image in shown if c.startswith("t-")
                 for k, q in enumerate(textures.squares(image, seeded("texture", s, n), 40))]
    out.whole([*(i for i in crawl if i[0].startswith("t-")), *materials,
               *textures.of_game("supertuxkart-data", at["supertuxkart-data"], "usr/share/games/supertuxkart"),
               *textures.of_game("minetest-data", at["minetest-data"], "usr/share/games/minetest"),
               *textures.of_freedoom(at["freedoom"])], share["textures"])
    out.finish()


def main():
    a = sys.argv[1:]
    if len(a) == 2 and a[0] == "fetch":
        fetch.fetch(a[1])
    elif len(a) == 2 and a[0] == "notice":
        fetch.notice(a[1])
    elif len(a) in (4, 5, 6) and a[0] == "make" and a[5:] in ([], ["permissive"]):
        dep5.permissive_only = a[5:] == ["permissive"]
        make(a[1], a[2], a[3], *(int(n) for n in a[4:5]))
    elif len(a) == 3 and a[0] == "check":
        check.check(a[1], a[2])
    elif len(a) == 3 and a[0] == "sheets":
        check.sheets(a[1], a[2])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
