#!/usr/bin/env python3
"""Makes tests/golden/dit-parity/: small DiTs with random weights as other programs store them, and what PyTorch
computes with them, for tests/engine/test_engine_parity.c.

Half of them are written with diffusers (DiTTransformer2DModel, save_pretrained), half with the Facebook class below,
a DiT written here from the published description with the names of facebookresearch/DiT.  Every linear layer gets an
Affiner (rank 2; side out, side in, ReLU); golden.safetensors has inputs, outputs and the gradient of every adapter
value for the loss sum(output * dout), computed in float64 (diffusers' timestep features stay float32, as it has them).

    make_dit_golden.py              writes into tests/golden/dit-parity
    make_dit_golden.py --xl FILE    a DiT-XL/2 with random weights as FILE.pt, for trials by hand
"""
import argparse
import json
import math
import os
import shutil
import sys

import torch
import torch.nn.functional as F
from torch import nn
from safetensors.torch import save_file

OUT = "tests/golden/dit-parity"
RANK, ROWS, B = 2, 3, 3


# ---------------------------------------------------------------- the published DiT
def positions(width, grid):
    w = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    at = torch.arange(grid, dtype=torch.float64)
    half = torch.cat([(at[:, None] * w).sin(), (at[:, None] * w).cos()], 1)
    col = half[None].expand(grid, grid, -1)  # the column index comes first
    row = half[:, None].expand(grid, grid, -1)
    return torch.cat([col, row], -1).reshape(1, grid * grid, width).float()


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        n, t, d = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        a = (q @ k.transpose(-2, -1) * (d // self.heads) ** -0.5).softmax(-1) @ v
        return self.proj(a.transpose(1, 2).reshape(n, t, d))


class Mlp(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def norm(x):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class Block(nn.Module):
    def __init__(self, width, heads, ratio):
        super().__init__()
        self.attn, self.mlp = Attention(width, heads), Mlp(width, ratio * width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x, c):
        s1, k1, g1, s2, k2, g2 = [m[:, None] for m in self.adaLN_modulation(c).chunk(6, 1)]
        x = x + g1 * self.attn(norm(x) * (1 + k1) + s1)
        return x + g2 * self.mlp(norm(x) * (1 + k2) + s2)


class Final(nn.Module):
    def __init__(self, width, out):
        super().__init__()
        self.linear = nn.Linear(width, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x, c):
        s, k = [m[:, None] for m in self.adaLN_modulation(c).chunk(2, 1)]
        return self.linear(norm(x) * (1 + k) + s)


class Facebook(nn.Module):
    def __init__(self, channels, side, patch, width, depth, heads, classes, ratio=4, sigma=True, freq=256):
        super().__init__()
        self.patch, self.grid, self.freq, self.out = patch, side // patch, freq, channels * (2 if sigma else 1)
        self.x_embedder = nn.Module()
        self.x_embedder.proj = nn.Conv2d(channels, width, patch, patch)
        self.t_embedder = nn.Module()
        self.t_embedder.mlp = nn.Sequential(nn.Linear(freq, width), nn.SiLU(), nn.Linear(width, width))
        self.y_embedder = nn.Module()
        self.y_embedder.embedding_table = nn.Embedding(classes + 1, width)
        self.pos_embed = nn.Parameter(positions(width, self.grid), requires_grad=False)
        self.blocks = nn.ModuleList(Block(width, heads, ratio) for _ in range(depth))
        self.final_layer = Final(width, patch * patch * self.out)

    def forward(self, x, t, y):
        h = self.x_embedder.proj(x).flatten(2).transpose(1, 2) + self.pos_embed
        half = self.freq // 2
        f = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float64) / half) * t[:, None].double()
        c = self.t_embedder.mlp(torch.cat([f.cos(), f.sin()], 1).to(x.dtype)) + self.y_embedder.embedding_table(y)
        for b in self.blocks:
            h = b(h, c)
        o = self.final_layer(h, c).reshape(len(x), self.grid, self.grid, self.patch, self.patch, self.out)
        return o.permute(0, 5, 1, 3, 2, 4).reshape(len(x), self.out, self.grid * self.patch, -1)


# ---------------------------------------------------------------- adapters
class Adapted(nn.Module):
    """y = a (W x) + bias + b + s U phi(V x), each part of the outputs by its own; side in: y = W (a x + b) + ..."""

    def __init__(self, linear, names, variant, p):
        super().__init__()
        self.linear, self.names, self.variant, self.p = linear, names, variant, p
        self.shared = names[0]
        if variant == "in":  # q, k, v share one a and b, named after q
            self.shared = names[0].replace("attn.k", "attn.q").replace("attn.v", "attn.q")

    def forward(self, x):
        w, conv = self.linear.weight, self.linear.weight.ndim == 4
        w = w.reshape(w.shape[0], -1)
        if conv:
            k = self.linear.kernel_size[0]
            side = x.shape[-1] // k
            x = F.unfold(x, k, stride=k).transpose(1, 2)
        phi = torch.relu if self.variant == "relu" else (lambda z: z)
        q = self.p
        low = torch.cat([q[n + ".s"] * (phi(x @ q[n + ".V"].T) @ q[n + ".U"].T) for n in self.names], -1)
        if self.variant == "in":
            y = (q[self.shared + ".a"] * x + q[self.shared + ".b"]) @ w.T + self.linear.bias + low
        else:
            y = torch.cat([q[n + ".a"] for n in self.names]) * (x @ w.T) + self.linear.bias + low
            y = y + torch.cat([q[n + ".b"] for n in self.names])
        return y.transpose(1, 2).reshape(len(y), -1, side, side) if conv else y


class Table(nn.Module):
    """The class table and the new rows below it."""

    def __init__(self, table, p):
        super().__init__()
        self.table, self.p = table, p

    def forward(self, y):
        return torch.cat([self.table.weight, self.p["y_embedder.rows"]])[y]


def our_names(model, depth):
    """Module path -> names of the parts in our files."""
    if isinstance(model, Facebook):
        out = {n: [n] for n in ("x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2", "final_layer.linear",
                                "final_layer.adaLN_modulation.1")}
        for i in range(depth):
            pre = "blocks.%d." % i
            out[pre + "attn.qkv"] = [pre + "attn." + c for c in "qkv"]
            for n in ("attn.proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1"):
                out[pre + n] = [pre + n]
        return out
    out = {"pos_embed.proj": ["x_embedder.proj"], "proj_out_1": ["final_layer.adaLN_modulation.1"],
           "proj_out_2": ["final_layer.linear"]}
    for i in range(depth):
        pre, to = "transformer_blocks.%d." % i, "blocks.%d." % i
        for n, m in (("attn1.to_q", "attn.q"), ("attn1.to_k", "attn.k"), ("attn1.to_v", "attn.v"), ("attn1.to_out.0", "attn.proj"),
                     ("ff.net.0.proj", "mlp.fc1"), ("ff.net.2", "mlp.fc2"), ("norm1.linear", "adaLN_modulation.1")):
            out[pre + n] = [to + m]
        for n, m in (("linear_1", "mlp.0"), ("linear_2", "mlp.2")):
            out[pre + "norm1.emb.timestep_embedder." + n] = ["t_embedder." + m]
    return out


def adapter_values(model, names, variant, width):
    p = {}
    for path, parts in names.items():
        w = model.get_submodule(path).weight
        m, n = w.shape[0] // len(parts), w[0].numel()
        side = n if variant == "in" else m
        for part in parts:
            if variant != "in" or not part.endswith(("attn.k", "attn.v")):
                p[part + ".a"] = 1 + 0.2 * torch.randn(side)
                p[part + ".b"] = 0.1 * torch.randn(side)
            p[part + ".s"] = 0.2 * torch.randn(1)
            p[part + ".U"] = torch.randn(m, RANK) * math.sqrt(2 / RANK)
            p[part + ".V"] = torch.randn(RANK, n) * math.sqrt(2 / n)
    p["y_embedder.rows"] = 0.5 * torch.randn(ROWS, width)
    return {k: v.float() for k, v in p.items()}


def put(model, path, module):
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def run(build, call, width, depth, variant, inputs):
    """(start, output, gradients) of a fresh model with adapters in it."""
    model = build().double().eval()
    names = our_names(model, depth)
    start = adapter_values(model, names, variant, width)
    p = {k: v.double().requires_grad_(True) for k, v in start.items()}
    for path, parts in names.items():
        put(model, path, Adapted(model.get_submodule(path), parts, variant, p))
    tables = ["y_embedder.embedding_table"] if isinstance(model, Facebook) else \
        ["transformer_blocks.%d.norm1.emb.class_embedder.embedding_table" % i for i in range(depth)]
    for path in tables:
        put(model, path, Table(model.get_submodule(path), p))
    x, t, y, dout = inputs
    out = call(model, x.double(), t, y)
    (out * dout.double()).sum().backward()
    return start, out.detach(), {k: v.grad for k, v in p.items()}


def golden(folder, build, call, c, config):
    """diffusers computes t times frequency in float32, so the largest t there is one where that is right to 3e-5."""
    side, channels, out = c["side"], c["channels"], c["channels"] * (2 if c["sigma"] else 1)
    t = torch.tensor([0, 37, 500 if config["time_shift"] else 999])
    row = [0, -1, ROWS - 1]
    base_row = [-1, c["classes"], -1]
    y = torch.tensor([c["classes"] + 1 + r if r >= 0 else b for r, b in zip(row, base_row)])
    x, dout = torch.randn(B, channels, side, side), torch.randn(B, out, side, side)
    store = {"x": x, "dout": dout, "t": t.float(), "row": torch.tensor(row, dtype=torch.int32),
             "base_row": torch.tensor(base_row, dtype=torch.int32)}
    with torch.no_grad():
        store["plain"] = call(build().double().eval(), x.double(), t, y.clamp(max=c["classes"]))
    for variant in ("out", "in", "relu"):
        start, o, grads = run(build, call, c["width"], c["depth"], variant, (x, t, y, dout))
        store[variant + ".output"] = o
        for k in start:
            store["%s.start.%s" % (variant, k)] = start[k]
            store["%s.grad.%s" % (variant, k)] = grads[k]
    store = {k: (v if v.dtype == torch.int32 else v.float()).contiguous() for k, v in store.items()}
    save_file(store, os.path.join(folder, "golden.safetensors"), metadata={"config": json.dumps(config)})
    print("%-16s %5d kB" % (os.path.basename(folder), sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in
                                                          os.walk(folder) for f in fs) // 1000))


def randomize(model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name == "pos_embed":
                continue
            fan = p[0].numel() if p.ndim > 1 else 1
            # modulations of half a unit, as trained networks have them; all else keeps the size of its input
            scale = 0.5 if "adaLN" in name or "norm1.linear" in name or "proj_out_1" in name else 1
            p.copy_(torch.randn(p.shape) * scale * (0.1 if p.ndim == 1 or "embedding_table" in name else fan ** -0.5))
    return model


def folder_of(name):
    folder = os.path.join(OUT, name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    return folder


# ---------------------------------------------------------------- facebook's files
def facebook_case(name, save, dtype=torch.float32, **c):
    folder = folder_of(name)
    model = randomize(Facebook(**c)).to(dtype)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    other = {k: torch.randn_like(v) for k, v in state.items()}
    save(state, other, folder)

    def build():
        m = Facebook(**c)
        m.load_state_dict({k: v.float() for k, v in state.items()})
        return m

    c = {"sigma": True, "ratio": 4, **c}
    config = {"channels": c["channels"], "side": c["side"], "patch": c["patch"], "width": c["width"], "depth": c["depth"],
              "heads": c["heads"], "classes": c["classes"], "mlp_ratio": c["ratio"], "learn_sigma": int(c["sigma"]),
              "freq_dim": 256, "time_shift": 0, "norm2_eps_e6": 1, "guidance_channels": 3 if c["channels"] == 4 else 0}
    call = lambda m, x, t, y: m(x, t, y)
    kw = {k: v for k, v in c.items() if k not in ("sigma", "ratio")}
    keep, c = c, {**kw, "sigma": c["sigma"], "ratio": c["ratio"]}
    golden(folder, build, call, keep, config)


def save_training(state, other, folder):
    """As train.py saves: the running and the averaged model, the optimiser, the arguments."""
    p = nn.Parameter(torch.ones(3))
    opt = torch.optim.AdamW([p], lr=1e-4)
    p.sum().backward()
    opt.step()
    torch.save({"model": other, "ema": state, "opt": opt.state_dict(), "args": argparse.Namespace(model="DiT-XL/2", lr=1e-4)},
               os.path.join(folder, "model.pt"))


def save_old(state, other, folder):
    torch.save({"module." + k: v for k, v in state.items()}, os.path.join(folder, "model.pth"), _use_new_zipfile_serialization=False)


def save_wrapped(state, other, folder):
    torch.save({"state_dict": state, "epoch": 3}, os.path.join(folder, "model.bin"))


# ---------------------------------------------------------------- diffusers' files
def diffusers_case(name, heads, head, depth, c, save, half=False, **extra):
    from diffusers import DDIMScheduler, DiTTransformer2DModel
    folder = folder_of(name)
    out = c["channels"] * (2 if c["sigma"] else 1)
    model = randomize(DiTTransformer2DModel(num_attention_heads=heads, attention_head_dim=head, in_channels=c["channels"], out_channels=out,
                                            num_layers=depth, sample_size=c["side"], patch_size=c["patch"],
                                            num_embeds_ada_norm=c["classes"], **extra))
    first = model.transformer_blocks[0].norm1.emb
    for b in model.transformer_blocks[1:]:  # what the conversion from facebook's file gives: copies
        b.norm1.emb.load_state_dict(first.state_dict())
    if half:
        model = model.half()
    save(model, folder)
    DDIMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=2e-2, beta_schedule="linear").save_pretrained(folder + "/scheduler")
    with open(folder + "/model_index.json", "w") as f:
        json.dump({"_class_name": "DiTPipeline", "id2label": {str(i): "class %d" % i for i in range(c["classes"])}}, f)

    def build():
        return DiTTransformer2DModel.from_pretrained(folder + "/transformer", variant="fp16" if half else None, torch_dtype=torch.float32)

    config = {"channels": c["channels"], "side": c["side"], "patch": c["patch"], "width": heads * head, "depth": depth, "heads": heads,
              "classes": c["classes"], "mlp_ratio": 4, "learn_sigma": int(c["sigma"]), "freq_dim": 256, "time_shift": 1,
              "norm2_eps_e6": round(extra.get("norm_eps", 1e-5) * 1e6), "guidance_channels": 0}
    call = lambda m, x, t, y: m(x, timestep=t, class_labels=y).sample
    golden(folder, build, call, {**c, "width": heads * head, "depth": depth}, config)


def main():
    torch.manual_seed(31)
    os.makedirs(OUT, exist_ok=True)
    facebook_case("facebook", save_training, channels=4, side=8, patch=2, width=16, depth=2, heads=2, classes=5)
    facebook_case("facebook-old", save_old, channels=3, side=12, patch=4, width=24, depth=1, heads=3, classes=0, ratio=2, sigma=False)
    facebook_case("facebook-bf16", save_wrapped, dtype=torch.bfloat16, channels=4, side=5, patch=1, width=20, depth=2, heads=5, classes=2)
    diffusers_case("diffusers", 3, 8, 2, {"channels": 4, "side": 8, "patch": 2, "classes": 5, "sigma": True},
                   lambda m, f: m.save_pretrained(f + "/transformer", max_shard_size="60kB"))
    diffusers_case("diffusers-bin", 2, 10, 1, {"channels": 3, "side": 9, "patch": 3, "classes": 3, "sigma": True},
                   lambda m, f: m.save_pretrained(f + "/transformer", safe_serialization=False), norm_eps=1e-2)
    diffusers_case("diffusers-fp16", 4, 4, 3, {"channels": 4, "side": 4, "patch": 2, "classes": 1, "sigma": False},
                   lambda m, f: m.save_pretrained(f + "/transformer", variant="fp16"), half=True)


if __name__ != "__main__":
    pass  # objective_bases.py takes the network from here
elif len(sys.argv) == 3 and sys.argv[1] == "--xl":
    xl = randomize(Facebook(channels=4, side=32, patch=2, width=1152, depth=28, heads=16, classes=1000))
    torch.save(xl.state_dict(), sys.argv[2])
else:
    main()
