"""Packages by name, version and SHA-256: packages.tsv is the list, with what each is for and its licence.

Binary packages come by `apt-get download`, the one source package by `apt-get source` (which needs a deb-src line).
A package whose bytes are not those of the list stops the run.
"""
import csv
import glob
import hashlib
import os
import re
import subprocess

from . import dep5

HERE = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(HERE, "packages.tsv"), encoding="utf-8") as f:
    PACKAGES = {row["package"]: row for row in csv.DictReader(f, delimiter="\t")}
OTHERS = {"formula": "none (make_shapes.py, formulas.py)", "emoji-datasource-google": "Apache-2.0",
          "emoji-datasource-twitter": "CC-BY-4.0"}


def of_kind(kind):
    return [p for p, row in PACKAGES.items() if row["kind"] == kind
            and not (dep5.permissive_only and "SA" in row["licence"])]


def licence(source):
    return PACKAGES[source]["licence"] if source in PACKAGES else OTHERS[source]


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def fetch(cache):
    store = os.path.join(cache, "archives")
    os.makedirs(store, exist_ok=True)
    for name, row in PACKAGES.items():
        where, file = os.path.join(cache, name), os.path.join(store, row["file"])
        if os.path.isdir(where):
            continue
        if not os.path.exists(file):
            what = ["source", "--tar-only", "--download-only"] if ".orig.tar" in file else ["download"]
            subprocess.run(["apt-get", "-q", *what, f"{name}={row['version']}"], cwd=store, check=True)
        if sha256(file) != row["sha256"]:
            raise SystemExit(f"{file} is not the file of packages.tsv")
        part = where + ".part"
        os.makedirs(part, exist_ok=True)
        subprocess.run(["tar", "xf", file, "-C", part] if ".orig.tar" in file else ["dpkg-deb", "-x", file, part], check=True)
        os.rename(part, where)
    for left in glob.glob(os.path.join(cache, "*.part")):
        print("unfinished:", left)


def holders(name, cache):
    """Who holds the rights, as the package's copyright file says, without those of the packaging."""
    path = os.path.join(cache, name, "usr/share/doc", name, "copyright")
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8", errors="replace") as f:
        parts = re.split(r"\n\s*\n", f.read())
    found = []
    for part in parts:
        if re.search(r"(?m)^Files:\s*debian/\*", part):
            continue
        text = re.search(r"(?ms)^Copyright:\s*(.*?)(?=^\S+:|\Z)", part)
        for line in text.group(1).splitlines() if text else ():
            line = re.sub(r"<[^>]*>|\(c\)|\u00a9|copyright|[Cc]opyright", "", line, flags=re.I).strip(" .,")
            if len(line) > 3:
                found.append(re.sub(r"\s+", " ", line))
    return list(dict.fromkeys(found))


def notice(cache):
    """The text of licenses/base-data-NOTICE.txt: every package, its licence, its authors."""
    for kind in dict.fromkeys(row["kind"] for row in PACKAGES.values()):
        print(f"\n== {kind} ==")
        for name in (p for p, row in PACKAGES.items() if row["kind"] == kind):
            row, who = PACKAGES[name], holders(name, cache)
            print(f"\n{name} {row['version']}: {row['licence']}")
            if who:
                print("  " + "; ".join(who[:6]) + (" and others (the package's copyright file)" if len(who) > 6 else ""))
