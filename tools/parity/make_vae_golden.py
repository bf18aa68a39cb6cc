"""Goldens of engine/vae.c from diffusers' AutoencoderKL with random weights.

    python tools/parity/make_vae_golden.py             writes tests/golden/vae.safetensors, vae-io.safetensors
    python tools/parity/make_vae_golden.py --full DIR  the configuration of sd-vae-ft-ema at 256 px, not committed,
                                                       and how long diffusers takes; for bench/bench_vae.c

The first file is a canonical VAE (docs/formats.md), the second has an image (H,W,3), the posterior's
mean and logvar (C,h,w), latents z and their picture (H,W,3).
"""
import json
import resource
import sys
import time

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

TINY = dict(in_channels=3, out_channels=3, latent_channels=4, block_out_channels=[8, 8, 16], layers_per_block=1, norm_num_groups=4,
            scaling_factor=0.18215)
FULL = dict(in_channels=3, out_channels=3, latent_channels=4, block_out_channels=[128, 256, 512, 512], layers_per_block=2,
            norm_num_groups=32, scaling_factor=0.18215)


def build(config):
    n = len(config["block_out_channels"])
    vae = AutoencoderKL(down_block_types=["DownEncoderBlock2D"] * n, up_block_types=["UpDecoderBlock2D"] * n, sample_size=256, **config)
    with torch.no_grad():
        for name, p in vae.named_parameters():
            if p.ndim == 1:  # norms and biases: not the ones and zeros they start with
                p.add_(torch.randn_like(p) * 0.2)
            elif "to_q" in name or "to_k" in name:
                p.mul_(3)  # attention that is not flat
    return vae.eval()


def write(vae, config, path):
    tensors = {k: v.detach().contiguous().float() for k, v in vae.state_dict().items()}
    save_file(tensors, path, metadata={"diffscaler.kind": "vae", "diffscaler.vae": json.dumps(config)})


def nhwc(x):
    return x[0].permute(1, 2, 0).contiguous()


def run(vae, image, z):
    with torch.no_grad():
        t0 = time.time()
        d = vae.encode(image).latent_dist
        t1 = time.time()
        out = vae.decode(z).sample
        t2 = time.time()
    return d, out, t1 - t0, t2 - t1


def main():
    full = len(sys.argv) > 2 and sys.argv[1] == "--full"
    prefix = sys.argv[2] + "/" if full else "tests/golden/"
    torch.manual_seed(5)
    torch.set_num_threads(2)
    config = FULL if full else TINY
    vae = build(config)
    f = 2 ** (len(config["block_out_channels"]) - 1)
    h, w = (256, 256) if full else (24, 40)
    image = torch.rand(1, 3, h, w) * 2 - 1
    z = torch.randn(1, 4, h // f, w // f)
    d, out, enc, dec = run(vae, image, z)
    write(vae, config, prefix + "vae.safetensors")
    save_file({"image": nhwc(image), "mean": d.mean[0].contiguous(), "logvar": d.logvar[0].contiguous(), "z": z[0].contiguous(),
               "decoded": nhwc(out)}, prefix + "vae-io.safetensors")
    if full:
        for _ in range(3):
            _, _, e, t = run(vae, image, z)
            enc, dec = min(enc, e), min(dec, t)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"diffusers f32, 2 threads, {h}x{w}: encode {enc:.2f} s, decode {dec:.2f} s, peak {peak:.0f} MiB")


main()
