"""Licence of each file by a Debian copyright file (machine-readable format 1.0): the last matching paragraph counts."""
import fnmatch
import re

PERMISSIVE = re.compile(r"^(CC0(-1\.0)?|public-domain|CC-BY-[0-9.]+|Expat|MIT|Apache-2(\.0)?|BSD-[23]-clause)$", re.I)
SHARE_ALIKE = re.compile(r"^CC-BY-SA-[0-9.]+$", re.I)
permissive_only = False  # set by prepare_base.py


def paragraphs(path):
    with open(path, encoding="utf-8", errors="replace") as f:
        text = f.read()
    found = []
    for part in re.split(r"\n\s*\n", text):
        files = re.search(r"(?ms)^Files:\s*(.*?)(?=^\S+:|\Z)", part)
        licence = re.search(r"(?m)^License:\s*(\S.*)$", part)
        if files and licence:
            found.append((files.group(1).split(), licence.group(1).strip()))
    return found


def licence_of(file, known):
    out = None
    for patterns, licence in known:
        if any(fnmatch.fnmatchcase(file, p) for p in patterns):
            out = licence
    return out


def free(file, known):
    """The licence where pictures and what is made of them may be given on (no GPL), else None."""
    licence = licence_of(file, known) or ""
    ok = PERMISSIVE.match(licence) or (SHARE_ALIKE.match(licence) and not permissive_only)
    return licence if ok else None
