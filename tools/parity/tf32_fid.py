#!/usr/bin/env python3
"""What TF32 does to features and to distances, on a processor.

    tf32_fid.py TRUNK.safetensors A B [N [M]]     A, B: folders of pictures; N (1000) a side, M (300) where it is dear

FID's network as diffscaler runs it (batch norm folded into the convolutions): the bundled trunk with its own numbers
([0,1] inputs, through Mixed_6c), what follows with those of fid_weights.py.  Features: 768 means of Mixed_6c (trained
numbers alone), 2048 of the pool.  Operands of every convolution are rounded, products summed in float32:

    exact      float32
    nearest    10 bits of mantissa, to nearest, ties away (cvt.rna.tf32)
    cut        weights to nearest, pictures and maps cut off (what a tensor core does with the bits that it ignores)
    thrice     x = hi + lo, w = hi + lo: hi hi + hi lo + lo hi (M a side)
    unfolded   batch norm after the convolution, as pytorch-fid has it, to nearest (M a side)

Prints errors of features relative to the exact ones, FD and KID of A against B, of rounded A against exact B (numbers of
two devices compared), and of A against itself.
"""
import os
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fid_weights  # noqa: E402


def nearest(x):
    return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def cut(x):
    return (x.view(torch.int32) & ~0x1FFF).view(torch.float32)


def conv(x, w, how, **kw):
    if how == "exact":
        return F.conv2d(x, w, **kw)
    x, w = x.contiguous(), w.contiguous()
    if how == "thrice":
        xh, wh = nearest(x), nearest(w)
        xl, wl = nearest(x - xh), nearest(w - wh)
        return F.conv2d(xh, wl, **kw) + F.conv2d(xl, wh, **kw) + F.conv2d(xh, wh, **kw)
    return F.conv2d(cut(x) if how == "cut" else nearest(x), nearest(w), **kw)


class Unit(torch.nn.Module):
    """A convolution with its batch norm (eps 1e-3) and ReLU."""
    how = "exact"

    def __init__(self, unit):
        super().__init__()
        c, b = unit.conv, unit.bn
        g = b.weight.double() / torch.sqrt(b.running_var.double() + b.eps)
        self.kw = dict(stride=c.stride, padding=c.padding)
        self.w, self.g = c.weight.data, g.float()[:, None, None]
        self.folded = (c.weight.double() * g[:, None, None, None]).float()
        self.bias = (b.bias.double() - b.running_mean.double() * g).float()[:, None, None]

    def forward(self, x):
        if Unit.how == "unfolded":
            return torch.relu(conv(x, self.w, "nearest", **self.kw) * self.g + self.bias)
        return torch.relu(conv(x, self.folded, Unit.how, **self.kw) + self.bias)


def replace(module):
    for name, child in list(module.named_children()):
        if hasattr(child, "conv") and hasattr(child, "bn"):
            setattr(module, name, Unit(child))
        else:
            replace(child)


def network(trunk):
    from pytorch_fid import inception
    # fid_inception_v3 would download: its modules, without
    net = inception._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    for name, make in (("Mixed_5b", lambda: inception.FIDInceptionA(192, 32)), ("Mixed_5c", lambda: inception.FIDInceptionA(256, 64)),
                       ("Mixed_5d", lambda: inception.FIDInceptionA(288, 64)), ("Mixed_6b", lambda: inception.FIDInceptionC(768, 128)),
                       ("Mixed_6c", lambda: inception.FIDInceptionC(768, 160)), ("Mixed_6d", lambda: inception.FIDInceptionC(768, 160)),
                       ("Mixed_6e", lambda: inception.FIDInceptionC(768, 192)), ("Mixed_7b", lambda: inception.FIDInceptionE_1(1280)),
                       ("Mixed_7c", lambda: inception.FIDInceptionE_2(2048))):
        setattr(net, name, make())
    state = fid_weights.state_dict(net.state_dict())
    own = load_file(trunk)
    state.update({k: v for k, v in own.items() if k in state})
    net.load_state_dict(state, strict=False)
    print("%d tensors of the trunk, %d in all" % (len([k for k in own if k in state]), len(state)))
    net.eval()
    replace(net)
    return net


ORDER = ("Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 pool Conv2d_3b_1x1 Conv2d_4a_3x3 pool Mixed_5b Mixed_5c Mixed_5d "
         "Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e Mixed_7a Mixed_7b Mixed_7c").split()


def features(net, pictures, how):
    Unit.how, out = how, ([], [])
    t = time.process_time()
    for i in range(0, len(pictures), 16):
        x = torch.from_numpy(pictures[i:i + 16]).permute(0, 3, 1, 2).contiguous().float() / 255
        for name in ORDER:
            x = F.max_pool2d(x, 3, 2) if name == "pool" else getattr(net, name)(x)
            if name == "Mixed_6c":
                out[0].append(x.double().mean((2, 3)).float())
        out[1].append(x.double().mean((2, 3)).float())
    print("  %s: %d pictures, %.0f s" % (how, len(pictures), time.process_time() - t), flush=True)
    return [torch.cat(o).double().numpy() for o in out]


def load(folder, n):
    names = sorted(os.path.join(d, f) for d, _, fs in os.walk(folder) for f in fs if f.lower().endswith((".png", ".jpg")))
    pick = np.random.default_rng(1).permutation(len(names))[:n]
    out = []
    for i in pick:
        p = Image.open(names[i]).convert("RGBA")
        white = Image.new("RGBA", p.size, "white")
        out.append(np.asarray(Image.alpha_composite(white, p).convert("RGB").resize((299, 299), Image.BICUBIC)))
    return np.stack(out)


def fd(x, y):
    """From singular values of the product of the centred samples: no eigenvalue of rounding noise."""
    a, b = ((v - v.mean(0)) / np.sqrt(len(v) - 1) for v in (x, y))
    m = x.mean(0) - y.mean(0)
    return m @ m + (a * a).sum() + (b * b).sum() - 2 * np.linalg.svd(a @ b.T, compute_uv=False).sum()


def kid(x, y):
    k = [(u @ v.T / x.shape[1] + 1) ** 3 for u, v in ((x, x), (y, y), (x, y))]
    n, m = len(x), len(y)
    return ((k[0].sum() - np.trace(k[0])) / n / (n - 1) + (k[1].sum() - np.trace(k[1])) / m / (m - 1) - 2 * k[2].mean())


def main():
    trunk, da, db = sys.argv[1:4]
    n, m = (int(v) for v in (sys.argv[4:6] + ["1000", "300"][len(sys.argv[4:6]):]))
    net = network(trunk)
    a, b = load(da, n), load(db, n)
    print("%d against %d pictures" % (len(a), len(b)), flush=True)
    with torch.no_grad():
        got = {how: [features(net, p[:m] if how in ("thrice", "unfolded") else p, how) for p in (a, b)]
               for how in ("exact", "nearest", "cut", "thrice", "unfolded")}
    for at, name in enumerate(("Mixed_6c, 768", "pool, 2048")):
        print(name)
        for how, (fa, fb) in got.items():
            k = len(fa[at])
            ea, eb, x, y = got["exact"][0][at][:k], got["exact"][1][at][:k], fa[at], fb[at]
            far = np.abs(x - ea)
            e = (fd(ea, eb), kid(ea, eb))
            print("  %-9s n %4d  features: L2 %.2e, max %.2e of the picture's largest, mean of (f - exact)/exact %+.2e" % (
                how, k, np.median(np.linalg.norm(x - ea, axis=1) / np.linalg.norm(ea, axis=1)),
                (far.max(1) / np.abs(ea).max(1)).max(), (x.sum() - ea.sum()) / ea.sum()))
            for what, u, v in (("both", x, y), ("A alone", x, eb)):
                print("            %-8s FD %.6f (%+.2e of %.6f)  KID %.3e (%+.2e)" % (
                    what, fd(u, v), fd(u, v) / e[0] - 1, e[0], kid(u, v), kid(u, v) / e[1] - 1))
            print("            A to its exact self: FD %.2e" % fd(x, ea), flush=True)


if __name__ == "__main__":
    main()
