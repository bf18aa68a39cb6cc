#!/usr/bin/env python3
"""tidy_rooms.py - the layout as a test: which room may include which, circles, folders and files that grew too large.

A room is a folder.  ROOMS lists them from the bottom up: a room includes itself and the rooms that its line names.
Prints findings as file:line: message.
"""
import collections
import re
import subprocess

FOLDER_LIMIT, FILE_LIMIT = 30, 700

ENGINE = "engine/files engine/model engine/diffusion engine/vae engine/names engine/metrics"
KERNELS = "kernels"
REGISTRY = "registry/core registry/store registry/jobs registry/rows registry/flow"
ROOMS = {
    "base": "",
    "contract": "base",
    "kernels": "base contract kernels/cuda",  # device.c opens the device by its entry
    "kernels/ref": "base kernels",
    "kernels/cpu": "base kernels kernels/ref",
    "kernels/cuda": "base contract kernels kernels/ref kernels/cuda/lib kernels/cuda/attention",
    "kernels/cuda/lib": "base kernels kernels/cuda",
    "kernels/cuda/attention": "base kernels kernels/cuda kernels/cuda/lib",
    "engine/files": "base contract kernels",
    "engine/model": "base contract kernels engine/files",
    "engine/diffusion": "base contract kernels engine/files engine/model",
    "engine/vae": "base contract kernels engine/files engine/model",
    "engine/names": "base contract kernels engine/files engine/model engine/vae",
    "engine/metrics": "base contract kernels engine/files",
    "worker/job": "base contract kernels " + ENGINE,
    "worker/decode": "base contract worker/job " + ENGINE,
    "worker/images": "base contract kernels worker/job worker/decode " + ENGINE,
    "worker/measure": "base contract kernels worker/job worker/decode worker/images " + ENGINE,
    "worker/convert": "base contract kernels worker/job worker/decode worker/images worker/measure " + ENGINE,
    "worker/kinds": "base contract kernels worker/job worker/decode worker/images worker/measure worker/convert " + ENGINE,
    "worker/commands": "base contract kernels worker/job worker/decode worker/images worker/measure worker/convert worker/kinds "
    + ENGINE,
    "registry/core": "base contract",
    "registry/store": "base contract registry/core",
    "registry/jobs": "base contract registry/core",
    "registry/rows": "base contract registry/core registry/store registry/jobs",
    "registry/flow": "base contract registry/core registry/store registry/jobs registry/rows",
    "registry": "base contract " + REGISTRY,
    "daemon/http": "base contract",
    "daemon/core": "base contract daemon/http registry " + REGISTRY,
    "daemon/folders": "base contract daemon/core registry " + REGISTRY,
    "daemon/jobs": "base contract daemon/core daemon/folders registry " + REGISTRY,
    "daemon/care": "base contract daemon/core daemon/jobs registry " + REGISTRY,
    "daemon/api": "base contract daemon/http daemon/core daemon/folders daemon/jobs daemon/care registry " + REGISTRY,
    "daemon": "base contract daemon/core daemon/http daemon/folders daemon/jobs daemon/care daemon/api registry " + REGISTRY,
    "cli": "base contract",
    "cli/commands": "base contract cli",
}
DATA = ("examples/", "tests/golden/", "tests/fuzz/seeds/")  # pictures, and what others computed
SOURCE = (".c", ".h", ".cu", ".cc", ".inl", ".def")


def files():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True)
    return sorted(set(f for f in listed.stdout.split("\n") if f))


def includes(path):
    with open(path, encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            m = re.match(r'#include "([a-z0-9_]+/[^"]+)"', line)
            if m:
                yield number, m.group(1)


def room_of(path):
    return path.rpartition("/")[0]


def module_of(path):
    """A header and its .c are one module, and so are X.h and the X_internal.h that its parts share."""
    return path if path.endswith(".def") else re.sub(r"_internal$", "", path.rpartition(".")[0])


def directions(sources):
    for f in sources:
        room = room_of(f)
        if room not in ROOMS:
            print("%s:1: the folder %s is not in tools/tidy_rooms.py" % (f, room))
            continue
        for number, target in includes(f):
            if room_of(target) not in [room] + ROOMS[room].split():
                print("%s:%d: %s is not allowed in %s/" % (f, number, target, room))


def circles(sources):
    """Modules that include each other, directly or by way of others (Tarjan's strongly connected components)."""
    graph = collections.defaultdict(set)
    for f in sources:
        for _, target in includes(f):
            if module_of(target) != module_of(f):
                graph[module_of(f)].add(module_of(target))
    index, low, stack, found = {}, {}, [], []

    def visit(v):
        index[v] = low[v] = len(index)
        stack.append(v)
        for w in sorted(graph[v]):
            if w not in index:
                visit(w)
            if w in stack:
                low[v] = min(low[v], low[w])
        if low[v] == index[v]:
            at = stack.index(v)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for v in sorted(graph):
        if v not in index:
            visit(v)
    for c in found:
        print("%s:1: includes in a circle: %s" % (c[0], ", ".join(c)))


# Who may know what a DiT consists of: its room; and who translates DiTs of other programs, by their names and shapes
# (engine/names/dit_*).  Tests and benchmarks make small ones of their own, so they are not asked.
DIT_MAY = ("engine/model/", "engine/names/dit_")
DIT_SIZES = re.compile(r"""\#include\ "engine/model/(dit|dit_net|net_internal|layers_internal|layers)\.h"
    | \bds_lin_\w+ | \bDS_LIN_\w+ | \bDS_DIT_\w+ | \bds_dit_(?!names)\w+ | \b(mlp_ratio|freq_dim|norm2_eps_e6)\b
    | \b(cfg|config|facts|base|shape)(\.|->)(width|depth|heads|patch)\b""", re.VERBOSE)


def sizes_of_dit(sources):
    for f in sources:
        if f.startswith(DIT_MAY):
            continue
        with open(f, encoding="utf-8") as g:
            for number, line in enumerate(g, 1):
                code = re.sub(r'"(?!engine/)[^"]*"', '""', line)  # words for people may name them
                m = DIT_SIZES.search(code)
                if m:
                    print("%s:%d: only engine/model/ knows a DiT's sizes: %s" % (f, number, m.group(0)))


def sizes(all_files):
    folders = collections.Counter(room_of(f) for f in all_files if not f.startswith(DATA))
    for folder, n in sorted(folders.items()):
        if n > FOLDER_LIMIT:
            print("%s:1: %d files, limit %d" % (folder, n, FOLDER_LIMIT))
    for f in all_files:
        if f.endswith(SOURCE):
            with open(f, encoding="utf-8") as g:
                n = sum(1 for _ in g)
            if n > FILE_LIMIT:
                print("%s:%d: file of %d lines, limit %d" % (f, n, n, FILE_LIMIT))


everything = files()
code = [f for f in everything if f.endswith(SOURCE) and not f.startswith(("tests/", "bench/", "tools/"))]
directions(code)
circles(code)
sizes_of_dit(code)
sizes(everything)
