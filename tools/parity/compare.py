#!/usr/bin/env python3
"""Are the goldens made now those that are committed?  compare.py NEW OLD: every .safetensors file below NEW.

Integers must be equal; other numbers may differ by 1e-4 of the largest of their tensor, which is what another version
of PyTorch, with other kernels, may do to them.  Exit 1 if one differs or is missing.
"""
import os
import sys

import torch
from safetensors import safe_open


def differences(new, old):
    with safe_open(new, "pt") as a, safe_open(old, "pt") as b:
        if sorted(a.keys()) != sorted(b.keys()):
            return ["tensors are not the same ones"]
        out = []
        for k in a.keys():
            x, y = a.get_tensor(k), b.get_tensor(k)
            if x.shape != y.shape or x.dtype != y.dtype:
                out.append("%s has another shape or type" % k)
            elif not x.dtype.is_floating_point:
                out += [] if torch.equal(x, y) else ["%s differs" % k]
            elif x.numel():
                top, d = y.double().abs().max().item(), (x.double() - y.double()).abs().max().item()
                # a gradient that is zero but for rounding has no scale of its own
                if not d <= 1e-4 * max(top, 1e-6):
                    out.append("%s differs by %.2g of its scale" % (k, d / max(top, 1e-6)))
        return out


new, old, bad = sys.argv[1], sys.argv[2], 0
for folder, _, files in sorted(os.walk(new)):
    for name in sorted(files):
        path = os.path.join(folder, name)
        there = os.path.join(old, os.path.relpath(path, new))
        if not name.endswith(".safetensors"):
            continue
        found = differences(path, there) if os.path.exists(there) else ["is not committed"]
        bad += bool(found)
        print("%-60s %s" % (os.path.relpath(path, new), found[0] if found else "as committed"))
sys.exit(bad > 0)
