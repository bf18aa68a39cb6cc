#!/usr/bin/env python3
"""Makes tests/golden/vae-names/: the small VAE of tests/golden/vae.safetensors under the other spellings of its names.

    old/diffusion_pytorch_model.bin   diffusers before 0.18 (query, key, value, proj_attn), with its config.json
    ldm/model.ckpt                    CompVis latent-diffusion, inside a whole model's state_dict; with a config.json, as
                                      its number of norm groups is not the usual 32
Each is checked by diffusers itself: it must load as the same AutoencoderKL.
"""
import json
import os

import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors import safe_open
from safetensors.torch import load_file

OUT = "tests/golden/vae-names"
HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = "tests/golden/vae.safetensors"
if not os.path.exists(SOURCE):  # run beside the repository
    SOURCE = os.path.join(HERE, "../..", SOURCE)
OLD = (("to_q.", "query."), ("to_k.", "key."), ("to_v.", "value."), ("to_out.0.", "proj_attn."))


def ldm_names(blocks, layers):
    """Names of latent-diffusion's Encoder and Decoder, from its structure."""
    def resnet(p, shortcut):
        for n in ("norm1", "conv1", "norm2", "conv2") + (("nin_shortcut",) if shortcut else ()):
            yield p + n

    def middle(p):
        yield from resnet(p + "mid.block_1.", False)
        for n in ("norm", "q", "k", "v", "proj_out"):
            yield p + "mid.attn_1." + n
        yield from resnet(p + "mid.block_2.", False)

    yield from ("encoder.conv_in", "encoder.norm_out", "encoder.conv_out", "quant_conv", "post_quant_conv", "decoder.conv_in",
                "decoder.norm_out", "decoder.conv_out")
    yield from middle("encoder.")
    yield from middle("decoder.")
    n = len(blocks)
    for i in range(n):
        for k in range(layers):
            yield from resnet("encoder.down.%d.block.%d." % (i, k), k == 0 and i > 0 and blocks[i] != blocks[i - 1])
        for k in range(layers + 1):
            yield from resnet("decoder.up.%d.block.%d." % (i, k), k == 0 and i < n - 1 and blocks[i] != blocks[i + 1])
        if i < n - 1:
            yield "encoder.down.%d.downsample.conv" % i
        if i > 0:
            yield "decoder.up.%d.upsample.conv" % i


def main():
    state = load_file(SOURCE)
    with safe_open(SOURCE, "pt") as f:
        config = json.loads(f.metadata()["diffscaler.vae"])
    n = len(config["block_out_channels"])
    full = dict(config, down_block_types=["DownEncoderBlock2D"] * n, up_block_types=["UpDecoderBlock2D"] * n, sample_size=256)

    for folder in ("/old", "/ldm"):
        os.makedirs(OUT + folder, exist_ok=True)
        with open(OUT + folder + "/config.json", "w") as f:
            json.dump({"_class_name": "AutoencoderKL", "_diffusers_version": "0.4.2", "act_fn": "silu",
                       **{k: v for k, v in full.items() if k != "scaling_factor"}}, f, indent=2)
    old = {}
    for k, v in state.items():
        for a, b in OLD:
            k = k.replace(a, b)
        old[k] = v.half()
    torch.save(old, OUT + "/old/diffusion_pytorch_model.bin")
    again = AutoencoderKL.from_pretrained(OUT + "/old").state_dict()
    assert all(torch.equal(again[k], v.half().float()) for k, v in state.items()) and len(again) == len(state)

    # which of diffusers' tensors an LDM name is: diffusers' own converter says
    names = [k + s for k in ldm_names(config["block_out_channels"], config["layers_per_block"]) for s in (".weight", ".bias")]
    marked = {k: torch.full((1, 1, 1, 1) if ".attn_1." in k and k.endswith("weight") and ".norm." not in k else (1,), float(i))
              for i, k in enumerate(names)}
    theirs = {k: names[int(v.flatten()[0])] for k, v in convert_ldm_vae_checkpoint(marked, full).items()}
    assert sorted(theirs) == sorted(state), sorted(set(theirs) ^ set(state))[:5]
    ldm = {}
    for k, v in state.items():
        conv = ".attn_1." in theirs[k] and v.ndim == 2
        ldm["first_stage_model." + theirs[k]] = (v[:, :, None, None] if conv else v).half()
    ldm["model.diffusion_model.out.2.bias"] = torch.zeros(4)
    ldm["first_stage_model.loss.logvar"] = torch.zeros(1)
    torch.save({"state_dict": ldm, "global_step": 7}, OUT + "/ldm/model.ckpt")
    print("%d tensors" % len(state))


main()
