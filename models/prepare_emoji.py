#!/usr/bin/env python3
"""Emoji tar -> the folder that the bundled base is trained on (one sub-folder per class).

    prepare_emoji.py emoji-64.tar OUT_FOLDER [all]

The tar holds labels.tsv and google|twitter/<subcategory>/<codepoint>.png (64x64 RGBA); the pictures are
copied byte for byte to OUT/<class>/<vendor>-<codepoint>.png, so their licences stay what NOTICE.txt says.
Standard library only, no random numbers: the same tar gives the same folder.

Without `all` only BASE_CLASSES are written: things of one clear shape, on which the bundled base is trained.
Classes group subcategories that look alike at 32x32, 40 to 240 pictures each.  Skin tones: 53 % of the
tar are tone variants of the same drawing.  Hands and body parts keep the yellow drawing and one tone, people
keep one drawing of each (yellow or one of five tones); which one is fixed by the sum of the code points, so both
vendors agree and all tones occur.
"""
import os
import sys
import tarfile

CLASSES = {
    "faces-happy": "face-smiling face-affection face-tongue face-glasses face-hat face-hand",
    "faces-neutral": "face-neutral-skeptical face-sleepy",
    "faces-sad": "face-concerned face-unwell",
    "faces-creature": "face-costume face-negative cat-face monkey-face",
    "hearts": "heart",
    "hands": "hand-fingers-closed hand-fingers-open hand-fingers-partial hand-prop "
             "hand-single-finger hands",
    "body-parts": "body-parts",
    "people": "person person-gesture",
    "people-roles": "person-role",
    "people-fantasy": "person-fantasy",
    "people-active": "person-activity person-resting",
    "people-sport": "person-sport",
    "family": "family person-symbol",
    "mammals": "animal-mammal",
    "birds": "animal-bird",
    "small-animals": "animal-bug animal-reptile animal-amphibian",
    "sea-animals": "animal-marine",
    "plants": "plant-flower plant-other",
    "fruit-vegetables": "food-fruit food-vegetable",
    "dishes": "food-prepared food-asian",
    "sweets": "food-sweet",
    "drinks": "drink dishware",
    "buildings": "place-building place-religious hotel",
    "places": "place-geographic place-map place-other",
    "sky": "sky-weather",
    "clocks": "time",
    "vehicles-road": "transport-ground",
    "vehicles-air-sea": "transport-air transport-water",
    "sport-games": "sport game award-medal arts-crafts",
    "events": "event emotion",
    "clothing": "clothing",
    "music": "music musical-instrument sound",
    "electronics": "computer phone light-video",
    "paper": "book-paper mail office writing money",
    "tools": "tool lock science medical",
    "household": "household other-object",
    "letters-digits": "alphanum keycap",
    "arrows-buttons": "arrow av-symbol",
    "geometric": "geometric",
    "zodiac-religion": "zodiac religion",
    "signs": "transport-sign warning",
    "marks": "punctuation math currency gender other-symbol",
}
BASE_CLASSES = set("""faces-happy faces-neutral faces-sad faces-creature mammals birds small-animals sea-animals
fruit-vegetables dishes sweets drinks plants hearts clocks sky vehicles-road vehicles-air-sea buildings sport-games
music clothing geometric""".split())
TONES = ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff")
BOTH = {"hands", "body-parts"}  # yellow and one tone


def tones_of(codepoint):
    return [c for c in codepoint.split("-") if c in TONES]


def wanted_tone(base):
    """None (yellow) or a tone, from the code points alone."""
    s = sum(int(c, 16) for c in base.split("-"))
    return None if s % 6 == 5 else TONES[s % 6]


def keep(cls, codepoint, base, has_variants):
    tones = tones_of(codepoint)
    if not has_variants:
        return not tones
    want = wanted_tone(base)
    if cls in BOTH:
        want = want or TONES[2]
        return not tones or all(t == want for t in tones)
    if want is None:
        return not tones
    return bool(tones) and all(t == want for t in tones)


def main():
    if len(sys.argv) not in (3, 4) or sys.argv[3:] not in ([], ["all"]):
        sys.exit(__doc__)
    everything = sys.argv[3:] == ["all"]
    class_of = {sub: cls for cls, subs in CLASSES.items() for sub in subs.split()
                if everything or cls in BASE_CLASSES}
    counts, vendors = {}, {}
    with tarfile.open(sys.argv[1]) as tar:
        lines = tar.extractfile("labels.tsv").read().decode("utf-8").splitlines()
        rows = [r for r in (line.split("\t") for line in lines[1:]) if r[3] in class_of]
        toned = {(r[1], r[5]) for r in rows if r[6] == "1"}
        # A base whose only equal-tone drawing is missing falls back to yellow.
        chosen = {}
        for path, vendor, _, sub, cp, base, _ in rows:
            cls = class_of[sub]
            if keep(cls, cp, base, (vendor, base) in toned):
                chosen.setdefault((vendor, base), []).append((path, cls, cp))
        for path, vendor, _, sub, cp, base, variant in rows:
            if variant == "0" and (vendor, base) not in chosen:
                chosen[(vendor, base)] = [(path, class_of[sub], cp)]
        for (vendor, _), entries in sorted(chosen.items()):
            for path, cls, cp in entries:
                os.makedirs(os.path.join(sys.argv[2], cls), exist_ok=True)
                with open(os.path.join(sys.argv[2], cls, f"{vendor}-{cp}.png"), "wb") as f:
                    f.write(tar.extractfile(path).read())
                counts[cls] = counts.get(cls, 0) + 1
                vendors[vendor] = vendors.get(vendor, 0) + 1
    text = "".join(f"{counts[c]:5d} {c}\n" for c in sorted(counts))
    text += f"{sum(counts.values()):5d} in {len(counts)} classes {vendors}\n"
    with open(os.path.join(sys.argv[2], "COUNTS.txt"), "w") as f:
        f.write(text)
    print(text, end="")


if __name__ == "__main__":
    main()
