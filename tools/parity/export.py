"""Exports opened by the programs that they are for.

    python tools/parity/export.py BUILD        BUILD: folder with tests/test_worker_export (default build/release)

The C program writes random bases and adapters of every method, exports them, and leaves the outputs of the adapter
folded into its base and the samples of a 20-step DDIM run from given noise.  Here
  facebook-*   model.pt (torch.load, weights_only) and model.safetensors go into a small DiT of our own, written from the
               paper and the published names: output within 1e-4
  diffusers-*  the folder goes through DiTTransformer2DModel.from_pretrained: output within 1e-4, and DDIMScheduler
               with the folder's own configuration gives the same samples from the same noise within 1e-3;
               with an autoencoder the folder is a DiTPipeline that makes pictures
Errors are relative to the largest value.
"""
import math
import os
import subprocess
import sys
import tempfile

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from safetensors.torch import load_file

STEPS = 20


def dit(w, x, t, labels, heads):
    """The published forward pass over a flat dictionary of tensors."""
    D, C, p, _ = w["x_embedder.proj.weight"].shape
    depth = 1 + max(int(k.split(".")[1]) for k in w if k.startswith("blocks."))
    lin = lambda name, v: F.linear(v, w[name + ".weight"], w[name + ".bias"])
    norm = lambda v: F.layer_norm(v, (D,), eps=1e-6)
    mod = lambda v, shift, scale: norm(v) * (1 + scale[:, None]) + shift[:, None]
    h = F.conv2d(x, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=p)
    grid = h.shape[-1]
    h = h.flatten(2).transpose(1, 2) + w["pos_embed"]
    half = w["t_embedder.mlp.0.weight"].shape[1] // 2
    arg = t[:, None] * torch.exp(-math.log(10000) * torch.arange(half) / half)[None]
    c = lin("t_embedder.mlp.2", F.silu(lin("t_embedder.mlp.0", torch.cat([arg.cos(), arg.sin()], -1))))
    c = F.silu(c + w["y_embedder.embedding_table.weight"][labels])
    for i in range(depth):
        b = f"blocks.{i}."
        s1, k1, g1, s2, k2, g2 = lin(b + "adaLN_modulation.1", c).chunk(6, 1)
        B, T, _ = h.shape
        q, k, v = lin(b + "attn.qkv", mod(h, s1, k1)).reshape(B, T, 3, heads, D // heads).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, T, D)
        h = h + g1[:, None] * lin(b + "attn.proj", a)
        h = h + g2[:, None] * lin(b + "mlp.fc2", F.gelu(lin(b + "mlp.fc1", mod(h, s2, k2)), approximate="tanh"))
    s, k = lin("final_layer.adaLN_modulation.1", c).chunk(2, 1)
    out = lin("final_layer.linear", mod(h, s, k))
    return torch.einsum("nhwpqc->nchpwq", out.reshape(len(x), grid, grid, p, p, -1)).reshape(len(x), -1, grid * p, grid * p)


def error(got, want):
    return float((got - want).abs().max() / want.abs().max())


def facebook(folder, e, labels):
    pt = torch.load(f"{folder}/export/model.pt", weights_only=True)
    st = load_file(f"{folder}/export/model.safetensors")
    assert list(pt) and sorted(pt) == sorted(st) and all(torch.equal(pt[k], st[k]) for k in pt), "model.pt is not model.safetensors"
    return error(dit(pt, e["x"], e["t"], labels, heads=2), e["out"]), None


def diffusers(folder, e, labels):
    model, info = DiTTransformer2DModel.from_pretrained(f"{folder}/export", subfolder="transformer", output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    out = model(e["x"], timestep=e["t"].long(), class_labels=labels).sample
    scheduler = DDIMScheduler.from_pretrained(f"{folder}/export", subfolder="scheduler")
    scheduler.set_timesteps(STEPS)
    # diffusers spaces its timesteps otherwise: 0, 53, ... are those of the run to compare with
    scheduler.timesteps = torch.tensor([round(999 / (STEPS - 1) * i) for i in range(STEPS)][::-1])
    x = e["noise"]
    for i, t in enumerate(scheduler.timesteps):
        eps = model(x, timestep=t.expand(len(x)), class_labels=labels).sample.chunk(2, 1)[0]
        a = scheduler.alphas_cumprod[t]
        last = i + 1 == STEPS
        b = torch.tensor(1.0) if last else scheduler.alphas_cumprod[scheduler.timesteps[i + 1]]
        x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
        x = b.sqrt() * x0 + (1 - b).sqrt() * eps
    return error(out, e["out"]), error(x, e["samples"])


def pipeline(folder):
    """With an autoencoder the folder is a whole DiTPipeline; guidance takes the null row."""
    pipe = DiTPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    names = pipe.get_label_ids(["class 0", "class 2"])
    images = pipe(class_labels=names, guidance_scale=1.5, num_inference_steps=3, output_type="np").images
    return names == [0, 2] and images.shape[0] == 2 and bool((images == images).all()), images.shape


def main():
    build, bad = sys.argv[1] if len(sys.argv) > 1 else "build/release", 0
    with tempfile.TemporaryDirectory() as out, torch.no_grad():
        subprocess.run([f"{build}/tests/test_worker_export"], check=True, stdout=subprocess.DEVNULL,
                       env=dict(os.environ, DS_PARITY_OUT=out, CK_FORK="no"))
        for case in sorted(os.listdir(out)):
            e = load_file(f"{out}/{case}/expected.safetensors")
            forward, samples = (diffusers if case.startswith("diff") else facebook)(f"{out}/{case}", e, e["labels"].long())
            ok = forward <= 1e-4 and (samples is None or samples <= 1e-3)
            bad += not ok
            print(f"{case:14} output {forward:.1e}" + (f"  {STEPS}-step samples {samples:.1e}" if samples is not None else "") +
                  ("" if ok else "  TOO FAR"))
        ok, shape = pipeline(f"{out}/diffusers-0/pipeline")
        bad += not ok
        print(f"DiTPipeline    pictures {shape}" + ("" if ok else "  NOT AS THEY SHOULD BE"))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
