#!/usr/bin/env python3
"""tidy_names.py - comments and documents name only files, functions and test programs that exist.

Prints findings as file:line: message.  FOREIGN and WORDS are excepted.
"""
import os
import re
import subprocess

# Files of other projects, which sources are named after, and words that only look like a name.
FOREIGN = {
    "models.py", "model.py", "train.py", "glue_evaluator.py", "sample_ddp.py", "convert_dit_to_diffusers.py",  # DiT, diffusers, BitFit
    "serialization.py", "_utils.py", "pickletools.py",  # PyTorch, Python
    "inception.py", "interpolate_compat_tensorflow.py", "resize.py", "fid_score.py", "utils.py", "fid.py",  # FID tools
    "Resample.c", "JpegImagePlugin.py", "JpegDecode.c", "PngImagePlugin.py", "ZipDecode.c", "Unpack.c", "Convert.c",
    "PpmImagePlugin.py", "_webp.c",  # Pillow
    "EastAsianWidth.txt", "sdpa_support_surface.h", "sanitizer.def",  # Unicode, cuDNN, GCC
    "NNNN_name.sql", "cmd_NAME.c",  "MODULE.txt", "VERSION.txt", "log.txt",  # patterns, and what is made elsewhere
}  # fmt: skip
WORDS = {"ds_g"}  # d loss / d s of a group
ENDINGS = "c|h|cu|cc|def|inl|sh|py|md|mk|sql|txt"
PATH = re.compile(r"(?<![\w/.~$}<>*@-])((?:[A-Za-z0-9_.-]+/)*[A-Za-z0-9_-]+\.(?:%s))(?![\w*/(<-])" % ENDINGS)
FUNCTION = re.compile(r"(?<![\w.])(ds_[a-z0-9_]+)(?![\w*])")
PROGRAM = re.compile(r"(?<![\w/])(test_[a-z]+_[a-z0-9_]+)(?![\w.*<])")


def files():
    out = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True)
    return sorted(f for f in set(out.stdout.split("\n")) if f and os.path.exists(f))


def comments(text):
    """(line number, text) of the comments of a C file."""
    for m in re.finditer(r'"(?:\\.|[^"\\\n])*"|/\*.*?\*/|//[^\n]*', text, re.S):
        if not m.group(0).startswith('"'):
            start = text.count("\n", 0, m.start()) + 1
            for i, line in enumerate(m.group(0).split("\n")):
                yield start + i, line


def code_of(text):
    return re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.S)


everything = files()
names = set(everything) | {os.path.basename(f) for f in everything}
sources = [f for f in everything if re.search(r"\.(c|h|cu|cc|inl|def)$", f)]
texts = [f for f in everything if f.endswith(".md") and not f.startswith(("examples/", "tests/"))]
read = {f: open(f, encoding="utf-8").read() for f in sources + texts}
known = set()
for f in sources:
    known.update(re.findall(r"\bds_\w+", code_of(read[f])))
for f in sources:  # names that macros put together: ds_ops.NAME, DS_TEST(name) and their like
    for m in re.finditer(r"##\s*(\w+)|(\w+)\s*##", read[f]):
        known.add(m.group(1) or m.group(2))
programs = {os.path.basename(f)[:-2] for f in sources if f.startswith("tests/") and "/test_" in f}


def made(name):
    """Is it there once the project is built, or a suffix of a path in it?"""
    return any(f.endswith("/" + name) for f in everything) or os.path.basename(name) in FOREIGN


def look(path, number, line):
    if "://" in line:
        return
    for m in PATH.finditer(line):
        name = re.sub(r"^(\.\./)+", "", m.group(1))
        if name not in names and not made(name):
            print("%s:%d: names '%s', which does not exist" % (path, number, name))
    for m in FUNCTION.finditer(line):
        if m.group(1) not in known | WORDS:
            print("%s:%d: names '%s', which is nowhere defined" % (path, number, m.group(1)))
    for m in PROGRAM.finditer(line):
        if m.group(1) not in programs:
            print("%s:%d: names '%s', which is no test program" % (path, number, m.group(1)))


for f in sources:
    for number, line in comments(read[f]):
        look(f, number, line)
for f in texts:
    for number, line in enumerate(read[f].split("\n"), 1):
        look(f, number, line)
