#!/usr/bin/env python3
"""Small DiTs of known objective, to see whether an import tells what they predict (worker/convert/import_objective.h).

Trains them on the example sets with the class of make_dit_golden.py: 32 px, a few hundred steps, no `args` in the file.

    objective_bases.py train DIR [NAME ...]     writes DIR/NAME.pt; all of the list, or those named
    objective_bases.py random DIR               ten that never learned anything: DiT's own initialisation, and all random
    objective_bases.py check DIR WORKER         imports each there with WORKER (diffscaler-worker), compares, prints a table
    objective_bases.py small WORKER             two of the list, made small, and two random ones (make parity; a minute)
    objective_bases.py golden DIR [NAME ...]    the tiny ones of the tests (tests/golden/objective)

One thread each.  What the conventions are: facebookresearch/DiT (eps, t of 0..999), willisma/SiT (data - noise, t = 1 is
data, t as it is), REPA and minRF (noise - data, t = 1 is noise, t as it is), diffusers' flow matching (noise - data, 1000 t).
"""
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
from PIL import Image
from torch import nn

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from make_dit_golden import Facebook  # noqa: E402

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
SIDE = 32

# name: (kind, data, width, depth, heads, patch, learn_sigma, steps, batch, seed)
BASES = {
    "eps-1": ("eps-ddpm", "digits", 64, 2, 4, 4, True, 400, 64, 1),
    "eps-2": ("eps-ddpm", "photos", 96, 3, 6, 4, True, 400, 32, 2),
    "eps-3": ("eps-ddpm", "flags", 64, 3, 4, 4, False, 300, 32, 3),
    "eps-4": ("eps-ddpm", "photos", 128, 2, 4, 4, True, 200, 32, 4),
    "eps-5": ("eps-ddpm", "digits", 64, 4, 2, 4, False, 300, 24, 5),
    "eps-6": ("eps-ddpm", "flags", 64, 2, 4, 2, True, 200, 8, 6),
    "eps-7": ("eps-ddpm", "mixed", 96, 2, 6, 4, True, 300, 32, 7),
    "eps-8": ("eps-ddpm", "photos", 64, 6, 4, 4, False, 300, 16, 8),
    "sit-1": ("sit", "digits", 64, 2, 4, 4, True, 400, 64, 11),
    "sit-2": ("sit", "photos", 64, 2, 4, 4, True, 400, 32, 12),
    "sit-3": ("sit", "flags", 64, 3, 4, 4, False, 300, 32, 13),
    "sit-4": ("sit", "photos", 96, 2, 4, 4, True, 300, 32, 14),
    "sit-5": ("sit", "mixed", 64, 2, 4, 2, True, 300, 8, 15),
    "sit-6": ("sit", "digits", 96, 2, 6, 4, False, 300, 24, 16),
    "flow-1": ("flow", "digits", 64, 2, 4, 4, True, 400, 64, 21),
    "flow-2": ("flow", "photos", 64, 4, 4, 4, False, 300, 24, 22),
    "flow-3": ("flow", "flags", 96, 2, 4, 4, True, 300, 24, 23),
    "flow-4": ("flow-1000", "photos", 96, 2, 6, 4, True, 400, 32, 24),
    "flow-5": ("flow-1000", "digits", 64, 2, 4, 4, False, 400, 64, 25),
    "flow-6": ("flow-1000", "mixed", 64, 3, 4, 4, True, 300, 32, 26),
    "gvp-1": ("sit-gvp", "digits", 64, 2, 4, 4, True, 400, 64, 41),
    "gvp-2": ("sit-gvp", "photos", 64, 2, 4, 4, True, 400, 32, 42),
    "gvp-3": ("flow-gvp", "flags", 64, 3, 4, 4, False, 300, 32, 43),
    "gvp-4": ("flow-gvp", "mixed", 96, 2, 6, 4, False, 400, 32, 44),
    "gvp-5": ("flow-gvp-1000", "photos", 96, 2, 6, 4, True, 400, 32, 45),
    "gvp-6": ("flow-gvp-1000", "digits", 64, 2, 4, 4, False, 400, 64, 46),
    "x0-1": ("x0-ddpm", "photos", 64, 2, 4, 4, True, 300, 24, 31),
    "x0-2": ("x0-sit", "flags", 64, 2, 4, 4, False, 300, 24, 32),
    "v-1": ("v-ddpm", "photos", 96, 2, 6, 4, True, 400, 32, 33),
    "v-2": ("v-cosine", "photos", 96, 2, 6, 4, True, 400, 32, 35),
    "v-3": ("v-cosine", "digits", 64, 2, 4, 4, False, 400, 64, 36),
    "odd-1": ("sit-odd", "photos", 64, 2, 4, 4, False, 400, 32, 37),
    "noise-1": ("eps-sit", "photos", 96, 3, 6, 4, True, 400, 64, 34),
}
# Of 16 px, for the tests: half the numbers, few of them.
GOLDEN = {"eps": ("eps-ddpm", "mixed", 32, 2, 4, 2, False, 800, 32, 41),
          "velocity": ("sit", "mixed", 32, 2, 4, 2, False, 800, 32, 42),
          "gvp": ("sit-gvp", "mixed", 32, 2, 4, 2, False, 800, 32, 43),
          "flow-1000": ("flow-1000", "mixed", 32, 2, 4, 2, False, 800, 32, 44)}
BAR = torch.cumprod(1 - torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), 0)


def pictures(name, side):
    sets = ["digits", "flags", "photos"] if name == "mixed" else [name]
    out, labels = [], []
    for s in sets:
        root = os.path.join(ROOT, "examples", s)
        for folder, _, files in sorted(os.walk(root)):
            for f in sorted(files):
                if not f.endswith((".png", ".jpg")):
                    continue
                im = Image.open(os.path.join(folder, f)).convert("RGB")
                k = min(im.size)
                x, y = (im.width - k) // 2, (im.height - k) // 2
                out.append(np.asarray(im.crop((x, y, x + k, y + k)).resize((side, side), Image.BICUBIC)))
                labels.append(folder)
    names = sorted(set(labels))
    x = torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return x, torch.tensor([names.index(l) for l in labels]), len(names)


def initialise(net):
    """As DiT.initialize_weights: the gates and the last layer are zero."""
    for m in net.modules():
        if isinstance(m, nn.Linear):
            nn.init.xavier_uniform_(m.weight)
            nn.init.zeros_(m.bias)
    nn.init.xavier_uniform_(net.x_embedder.proj.weight.view(net.x_embedder.proj.weight.shape[0], -1))
    nn.init.zeros_(net.x_embedder.proj.bias)
    nn.init.normal_(net.y_embedder.embedding_table.weight, std=0.02)
    for k in (0, 2):
        nn.init.normal_(net.t_embedder.mlp[k].weight, std=0.02)
    for m in [b.adaLN_modulation[1] for b in net.blocks] + [net.final_layer.adaLN_modulation[1], net.final_layer.linear]:
        nn.init.zeros_(m.weight)
        nn.init.zeros_(m.bias)


def noised(kind, x, e):
    """What the network is shown, the time it is told, and what it must say."""
    n = len(x)
    what, *more = kind.split("-")
    u = torch.rand(n)  # the noise level
    if "ddpm" in more:
        t = torch.randint(0, 1000, (n,))
        a, s = BAR[t].sqrt().float(), (1 - BAR[t]).sqrt().float()
        told = t.float()
    elif "cosine" in more:  # Nichol & Dhariwal's schedule, without the offset
        t = torch.randint(0, 1000, (n,))
        a, s = (torch.pi / 2 * t / 1000).cos(), (torch.pi / 2 * t / 1000).sin()
        told = t.float()
    else:
        a, s = ((torch.pi / 2 * u).cos(), (torch.pi / 2 * u).sin()) if "gvp" in more else (1 - u, u)
        data = (what == "sit" or "sit" in more) and "odd" not in more
        told = (1 - u if data else u) * (1000 if "1000" in more else 1)
    a, s = a[:, None, None, None], s[:, None, None, None]
    flow = torch.pi / 2 * (a * e - s * x) if "gvp" in more else e - x
    target = {"eps": e, "x0": x, "v": a * e - s * x, "sit": -flow, "flow": flow}[what]
    return a * x + s * e, told, target


def train(path, kind, data, width, depth, heads, patch, sigma, steps, batch, seed, side=SIDE, lr=1e-3, half=False):
    torch.manual_seed(seed)
    x, y, classes = pictures(data, side)
    net = Facebook(3, side, patch, width, depth, heads, classes, sigma=sigma)
    initialise(net)
    opt = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0)
    start, mean = time.time(), 0.0
    for step in range(steps):
        i = torch.randint(0, len(x), (batch,))
        label = torch.where(torch.rand(batch) < 0.1, torch.tensor(classes), y[i])
        xt, told, target = noised(kind, x[i], torch.randn(batch, 3, side, side))
        loss = (net(xt, told, label)[:, :3] - target).pow(2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        mean = loss.item() if not step else 0.95 * mean + 0.05 * loss.item()
    torch.save(net.half().state_dict() if half else net.state_dict(), path)
    print(f"{os.path.basename(path):14s} {kind:10s} {data:7s} loss {mean:.4f}  {time.time() - start:.0f} s", flush=True)


def random_bases(folder):
    for i in range(10):
        torch.manual_seed(100 + i)
        net = Facebook(3, SIDE, 2 if i % 4 == 3 else 4, 64 + 32 * (i % 3), 2 + i % 5, 4, 10, sigma=i % 2 == 0)
        if i < 5:
            initialise(net)
        else:
            with torch.no_grad():
                for p in net.parameters():
                    if p.requires_grad:
                        p.normal_(std=[0.02, 0.05, 0.1, 0.2, 0.5][i - 5])
        torch.save(net.state_dict(), os.path.join(folder, f"random-{i}.pt"))


# What an import must find: prediction, path, scale of the time.
FOUND = {"eps-ddpm": ("eps", "ddpm", None), "sit": ("data-noise", "linear", 1), "flow": ("noise-data", "linear", 1),
         "flow-1000": ("noise-data", "linear", 1000), "sit-gvp": ("data-noise", "gvp", 1), "flow-gvp": ("noise-data", "gvp", 1),
         "flow-gvp-1000": ("noise-data", "gvp", 1000)}
# What a refusal must name.
NAMES = {"x0-ddpm": "the clean picture (x0), DDPM schedule", "x0-sit": "the clean picture (x0), linear path",
         "v-ddpm": "velocity (noise - data), DDPM schedule", "v-cosine": "velocity (noise - data), cosine schedule",
         "sit-odd": "velocity (data - noise), linear path", "eps-sit": "noise (eps), linear path"}

# Refused, but not always named: at t near 0 v is noise, so told a wrong time it passes for eps; cosine is near gvp.
UNNAMED = ("v-ddpm", "x0-ddpm", "v-cosine")


def verdict(worker, path, heads, kind):
    """Imports one; is the answer right?  kind None: random weights.  What is told wrongly is wrong; a velocity that cannot be
    told is said to be untold."""
    with tempfile.TemporaryDirectory() as out:
        start = time.time()
        p = subprocess.run([worker, "import-base", path, "--heads", str(heads), "-o", out], capture_output=True, text=True)
        seconds = time.time() - start
    mark = None
    if p.returncode == 0:
        o = json.loads(p.stdout)["report"]["objective"]
        table = o["measured"]["table"]
        right = (o["prediction"], o["path"], o["time_scale"]) == FOUND.get(kind)
        said = "%s %s %s: loss %.3f, next %.3f, x%.1f, picture %.2f, share %.2f" % (
            o["prediction"], o["path"], o["time_scale"] or "", table[0]["loss"], table[1]["loss"],
            table[1]["loss"] / table[0]["loss"], table[0]["picture"], table[0]["share"])
    else:
        said = p.stderr.strip().splitlines()[-1].replace("error: ", "")
        untold, named = "it cannot be told" in said, "this base predicts " + NAMES.get(kind, "?") in said
        right = p.returncode == 2 and (untold if kind is None else named or (untold and kind in UNNAMED))
        mark = "untold" if untold and kind in FOUND else None
        said = said.split(": only")[0].split(";")[0]
    print(f"{mark or ('right' if right else 'WRONG'):6s} {os.path.basename(path):14s} {kind or 'random':13s} {seconds:5.1f} s  {said}",
          flush=True)
    return right


def check(folder, worker):
    right = total = 0
    for name in sorted(os.listdir(folder)):
        stem = name[:-3]
        if not name.endswith(".pt") or not (stem in BASES or stem.startswith("random-")):
            continue
        kind, heads = (BASES[stem][0], BASES[stem][4]) if stem in BASES else (None, 4)
        right += verdict(worker, os.path.join(folder, name), heads, kind)
        total += 1
    print(f"{right} of {total} right")
    return right == total


def small(worker):
    with tempfile.TemporaryDirectory() as folder:
        right = 0
        for name, kind in (("eps", "eps-ddpm"), ("velocity", "sit")):
            path = os.path.join(folder, name + ".pt")
            train(path, kind, "mixed", 32, 2, 4, 2, False, 300, 32, 51, side=16)
            right += verdict(worker, path, 4, kind)
        random_bases(folder)
        right += sum(verdict(worker, os.path.join(folder, f"random-{i}.pt"), 4, None) for i in (1, 7))
    print(f"objective: {right} of 4 right")
    return right == 4


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    torch.set_num_threads(1)
    what, folder = sys.argv[1:3]
    if what == "small":
        sys.exit(0 if small(folder) else 1)
    os.makedirs(folder, exist_ok=True)
    if what == "train":
        for name in sys.argv[3:] or BASES:
            train(os.path.join(folder, name + ".pt"), *BASES[name])
    elif what == "random":
        random_bases(folder)
    elif what == "golden":
        for name, of in GOLDEN.items():
            if sys.argv[3:] and name not in sys.argv[3:]:
                continue
            train(os.path.join(folder, name + ".pt"), *of, side=16, half=True)
    elif what == "check" and len(sys.argv) == 4:
        sys.exit(0 if check(folder, sys.argv[3]) else 1)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
