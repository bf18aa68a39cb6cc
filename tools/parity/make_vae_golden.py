"""Goldens of engine/vae/vae.c from diffusers' AutoencoderKL with random weights.

    python tools/parity/make_vae_golden.py                    writes tests/golden/vae.safetensors, vae-io.safetensors
    python tools/parity/make_vae_golden.py --full DIR [SIDE]  the configuration of sd-vae-ft-ema at SIDE (256) px, not
                                                              committed, and how long diffusers takes; for bench/bench_vae.c

THREADS: of PyTorch (2).

The first file is a canonical VAE (docs/formats.md), the second has an image (H,W,3), the posterior's
mean and logvar (C,h,w), latents z and their picture (H,W,3).
"""
import json
import os
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
        t0, c0 = time.time(), time.process_time()
        d = vae.encode(image).latent_dist
        t1, c1 = time.time(), time.process_time()
        out = vae.decode(z).sample
        t2, c2 = time.time(), time.process_time()
    return d, out, (t1 - t0, c1 - c0), (t2 - t1, c2 - c1)


def main():
    full = len(sys.argv) > 2 and sys.argv[1] == "--full"
    prefix = sys.argv[2] + "/" if full else "tests/golden/"
    torch.manual_seed(5)
    threads = int(os.environ.get("THREADS", "2"))
    side = int(sys.argv[3]) if full and len(sys.argv) > 3 else 256
    torch.set_num_threads(threads)
    config = FULL if full else TINY
    vae = build(config)
    f = 2 ** (len(config["block_out_channels"]) - 1)
    h, w = (side, side) if full else (24, 40)
    image = torch.rand(1, 3, h, w) * 2 - 1
    z = torch.randn(1, 4, h // f, w // f)
    d, out, enc, dec = run(vae, image, z)
    write(vae, config, prefix + "vae.safetensors")
    save_file({"image": nhwc(image), "mean": d.mean[0].contiguous(), "logvar": d.logvar[0].contiguous(), "z": z[0].contiguous(),
               "decoded": nhwc(out)}, prefix + "vae-io.safetensors")
    if full:
        for _ in range(3):
            _, _, e, t = run(vae, image, z)
            enc, dec = [min(p) for p in zip(enc, e)], [min(p) for p in zip(dec, t)]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"diffusers f32, {threads} threads, {h}x{w}: encode {enc[0]:.2f} s ({enc[1]:.2f} s of processor time), "
              f"decode {dec[0]:.2f} s ({dec[1]:.2f}), peak {peak:.0f} MiB")


main()
