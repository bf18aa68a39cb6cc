#!/usr/bin/env python3
"""tools/mutate.py - do the tests notice when the programs are wrong?

tests/mutations/*/*.txt hold small faults, one at a time:

    file engine/diffusion/trainer.c            the file that they are in
    tests engine_values engine_train the test programs that should notice, the quickest first
    error                            the next one is in an error path
    - held > n / 10                  what stands there, once in the file (several lines: several -)
    + held > n / 5                   what it becomes

Each is built in a folder of its own (build/mutate; only the changed object and the programs that are
run), and the programs are run until one fails.  What was found is kept in build/mutate/results.tsv
and not done again.  Needs python3 and what the build needs; nothing else.

    --check      only: every text still stands there exactly once
    --score      only: the score of what was run so far
    --module M   only mutations of tests/mutations/*/M.txt; several with commas
    --file F     only mutations of this file
    --again      also run again what was not noticed (after new tests)
    --limit N    stop after N

MUTATE_PLACE names another folder than build/mutate: two runs can go on at a time.
"""
import argparse
import fcntl
import glob
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PLACE = os.environ.get("MUTATE_PLACE", os.path.join(ROOT, "build", "mutate"))
TREE = os.path.join(PLACE, "tree")
RESULTS = os.path.join(PLACE, "results.tsv")
PASSED = os.path.join(PLACE, "passed.txt") # programs that passed without a fault, by digest: seconds
MAKE = ["make", "-s", "DEPS=0", "CUDA=0", "CONFIG=release", "EXTRA=-Wno-error"]


class Mutation:
    def __init__(self, where, file, tests, error, old, new):
        self.where, self.file, self.tests, self.error = where, file, tests, error
        self.module = os.path.basename(where.split(":")[0])[:-4]
        self.old, self.new = old, new
        self.key = hashlib.sha256("\0".join((file, old, new)).encode()).hexdigest()[:16]


def read_list():
    """All mutations, in the order of the files."""
    out = []
    for path in sorted(glob.glob(os.path.join(ROOT, "tests", "mutations", "*", "*.txt"))):
        file, tests, error, old, new = None, [], False, [], []

        def flush(number):
            if old:
                where = "%s:%d" % (os.path.relpath(path, ROOT), number - len(old) - len(new))
                out.append(Mutation(where, file, tests, error, "\n".join(old), "\n".join(new)))

        lines = open(path, encoding="utf-8").read().split("\n")
        for number, line in enumerate(lines + [""], 1):
            if line.startswith("- ") and not new:
                old.append(line[2:])
                continue
            if line == "+" or line.startswith("+ "):
                new.append(line[2:])
                continue
            if old:
                flush(number)
                error, old, new = False, [], []
            if line.startswith("- "):
                old.append(line[2:])
            elif line.startswith("file "):
                file = line[5:].strip()
            elif line.startswith("tests "):
                tests = line[6:].split()
            elif line == "error":
                error = True
            elif line and not line.startswith("#"):
                sys.exit("%s:%d: what is '%s'?" % (path, number, line))
    return out


def check(mutations):
    """How many texts do not stand there exactly once."""
    texts, bad, seen = {}, 0, set()
    for m in mutations:
        if m.file not in texts:
            try:
                texts[m.file] = open(os.path.join(ROOT, m.file), encoding="utf-8").read()
            except OSError:
                texts[m.file] = ""
        n = texts[m.file].count(m.old)
        why = None
        if n != 1:
            why = "stands %d times in %s" % (n, m.file)
        elif m.old == m.new:
            why = "changes nothing"
        elif m.key in seen:
            why = "is there twice"
        elif not m.tests:
            why = "names no test program"
        for t in m.tests:
            if not glob.glob(os.path.join(ROOT, "tests", "*", "test_%s.c" % t)):
                why = "names test_%s.c, which does not exist" % t
        seen.add(m.key)
        if why:
            print("%s: '%s' %s" % (m.where, m.old.split("\n")[0].strip(), why))
            bad += 1
    return bad


def read_results():
    found = {}
    if os.path.exists(RESULTS):
        for line in open(RESULTS, encoding="utf-8"):
            part = line.rstrip("\n").split("\t")
            if len(part) >= 4:
                found[part[0]] = part[1:]
    return found


def record(m, outcome, by, seconds):
    with open(RESULTS, "a", encoding="utf-8") as f:
        f.write("\t".join((m.key, outcome, by, "%.1f" % seconds, m.where, m.file)) + "\n")


def copy_tree():
    """The sources as they are now; files that did not change keep their time."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    for name in names.stdout.split("\n"):
        a, b = os.path.join(ROOT, name), os.path.join(TREE, name)
        if not name or not os.path.isfile(a):
            continue
        if os.path.exists(b) and open(a, "rb").read() == open(b, "rb").read():
            continue
        os.makedirs(os.path.dirname(b), exist_ok=True)
        shutil.copyfile(a, b)
        shutil.copymode(a, b)


def build(programs):
    """What make said when it failed, else None."""
    p = subprocess.run(["nice", "-n", "10"] + MAKE + ["build/release/tests/test_" + t for t in programs],
                       cwd=TREE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    return p.stdout if p.returncode else None


def limits():
    resource.setrlimit(resource.RLIMIT_DATA, (24 << 30, 24 << 30)) # the emulated GPU only reserves more
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 30, resource.getrlimit(resource.RLIMIT_FSIZE)[1])) # a test may ask for more
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def end_session(sid):
    """Kill what is left of a test program: the processes of its session."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if int(open("/proc/%s/stat" % pid).read().rsplit(")", 1)[1].split()[3]) == sid:
                os.kill(int(pid), signal.SIGKILL)
        except (OSError, IndexError, ValueError):
            pass


def run(program, seconds):
    """(passed, how it ended, how long it took, its output)"""
    tmp = "/dev/shm" if os.access("/dev/shm", os.W_OK) else PLACE
    tmp = os.path.join(tmp, "dsm%d" % os.getpid())
    os.makedirs(tmp, exist_ok=True)
    env = dict(os.environ, DS_BUILD="build/release", TMPDIR=tmp)
    start = time.monotonic()
    log = open(os.path.join(PLACE, "last.log"), "w+b")
    p = subprocess.Popen(["nice", "-n", "10", "build/release/tests/test_" + program], cwd=TREE, env=env,
                         stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                         preexec_fn=limits)
    try:
        code = p.wait(seconds)
        how = "exit %d" % code
    except subprocess.TimeoutExpired:
        code, how = -1, "time"
    took = time.monotonic() - start
    end_session(p.pid)
    p.wait()
    shutil.rmtree(tmp, ignore_errors=True)
    return code == 0, how, took


def sure(programs):
    """Build without a fault; the time that each program takes.  All must pass."""
    said = build(programs)
    if said:
        sys.exit("the sources do not build:\n" + said)
    took, known = {}, {}
    if os.path.exists(PASSED):
        known = dict(line.split() for line in open(PASSED, encoding="utf-8"))
    for t in programs:
        with open(os.path.join(TREE, "build/release/tests/test_" + t), "rb") as f:
            sha = hashlib.sha256(f.read()).hexdigest()
        if sha in known:
            took[t] = float(known[sha])
            continue
        passed, how, took[t] = run(t, 900)
        if not passed:
            passed, how, took[t] = run(t, 900)
        if passed:
            with open(PASSED, "a", encoding="utf-8") as f:
                f.write("%s %.1f\n" % (sha, took[t]))
        print("  without a fault: %-28s %5.1f s%s" % (t, took[t], "" if passed else "  FAILED (%s)" % how), flush=True)
        if not passed:
            sys.exit("a program that fails without a fault says nothing: see build/mutate/last.log")
    return took


def try_one(m, good, took):
    with open(os.path.join(TREE, m.file), "w", encoding="utf-8") as f:
        f.write(good.replace(m.old, m.new))
    for t in m.tests:
        said = build([t])
        if said:
            return "no build", [x for x in said.split("\n") if "error:" in x][:1] or ["?"]
        passed, how, _ = run(t, 20 + 4 * took[t])
        if not passed:
            return "noticed", ["%s (%s)" % (t, how)]
    return "NOT NOTICED", [" ".join(m.tests)]


def score(mutations, found):
    rows, total = {}, [0, 0, 0, 0]
    for m in mutations:
        r = rows.setdefault(m.module, [0, 0, 0, 0])
        outcome = found.get(m.key, ["not run"])[0]
        i = {"noticed": 0, "NOT NOTICED": 1, "no build": 2}.get(outcome, 3)
        r[i] += 1
        total[i] += 1
    print("%-12s %8s %8s %8s %8s %8s" % ("module", "noticed", "not", "score", "no build", "not run"))
    for name, r in sorted(rows.items()) + [("all", total)]:
        tried = r[0] + r[1]
        part = "%.0f %%" % (100 * r[0] / tried) if tried else "-"
        print("%-12s %8d %8d %8s %8d %8d" % (name, r[0], r[1], part, r[2], r[3]))
    errors = sum(m.error for m in mutations)
    print("%d mutations, %d of them in error paths" % (len(mutations), errors))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("check", "score", "again"):
        p.add_argument("--" + name, action="store_true")
    p.add_argument("--module")
    p.add_argument("--file")
    p.add_argument("--limit", type=int, default=1 << 30)
    a = p.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1)) # so that what is under way is put back
    mutations = read_list()
    bad = check(mutations)
    if bad or a.check:
        print("mutations: %d, %d do not fit" % (len(mutations), bad))
        sys.exit(1 if bad else 0)
    found = read_results()
    todo = [m for m in mutations
            if (not a.module or m.module in a.module.split(",")) and (not a.file or m.file == a.file)
            and (m.key not in found or found[m.key][0] == "no build"
                 or (a.again and found[m.key][0] == "NOT NOTICED"))][:a.limit]
    if a.score or not todo:
        score(mutations, found)
        return
    os.makedirs(TREE, exist_ok=True)
    lock = open(os.path.join(PLACE, "lock"), "w", encoding="utf-8")
    try: # two in one tree would see each other's faults
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit("another run works in %s; MUTATE_PLACE names another folder" % PLACE)
    copy_tree()
    took = sure(sorted({t for m in todo for t in m.tests}))
    texts = {f: open(os.path.join(TREE, f), encoding="utf-8").read() for f in {m.file for m in todo}}
    for n, m in enumerate(todo, 1):
        start = time.monotonic()
        try:
            outcome, more = try_one(m, texts[m.file], took)
        finally: # make goes by time: what is put back is newer than what was built
            with open(os.path.join(TREE, m.file), "w", encoding="utf-8") as f:
                f.write(texts[m.file])
        seconds = time.monotonic() - start
        record(m, outcome, more[0], seconds)
        print("%4d/%d %-11s %5.1f s  %s  %s -> %s   [%s]" % (n, len(todo), outcome, seconds, m.file, m.old.strip().split("\n")[0][:60],
              m.new.strip().split("\n")[0][:60], more[0]), flush=True)
    score(mutations, read_results())


main()
