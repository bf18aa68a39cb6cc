"""Weights of an Inception network by a formula, so that nobody has to store 24 M numbers.

tests/fixtures/fid_fixture.h makes the same numbers in C.  A tensor's numbers come from its name and their
position alone: h = FNV-1a(name), u = mix(h + 0x9E3779B9 (i + 1)) (the finaliser of MurmurHash3, 32
bit), v = (u >> 8) 2^-23 - 1 in [-1, 1), exact in float32.  Then, in float32,
    conv.weight   v * sqrt(6 / fan_in)          (He: keeps the second moment under ReLU)
    bn.weight     1 + 0.25 v                    bn.bias      0.25 v
    running_mean  0.25 v                        running_var  1 + 0.5 v
    fc.weight     v * sqrt(3 / 2048) * 4        fc.bias      v
so activations stay of order one and the classes' scores differ.
"""
import math

import numpy as np


def values(name, n):
    h = 0x811C9DC5
    for c in name.encode():
        h = ((h ^ c) * 0x01000193) & 0xFFFFFFFF
    i = np.arange(1, n + 1, dtype=np.uint32)
    u = np.uint32(h) + i * np.uint32(0x9E3779B9)
    u ^= u >> np.uint32(16)
    u *= np.uint32(0x85EBCA6B)
    u ^= u >> np.uint32(13)
    u *= np.uint32(0xC2B2AE35)
    u ^= u >> np.uint32(16)
    return (u >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)


def tensor(name, shape):
    n = int(np.prod(shape))
    v = values(name, n)
    if name.endswith("conv.weight"):
        v = v * np.float32(math.sqrt(6.0 / (n // shape[0])))
    elif name.endswith("bn.weight"):
        v = np.float32(1) + np.float32(0.25) * v
    elif name.endswith("bn.bias") or name.endswith("running_mean"):
        v = np.float32(0.25) * v
    elif name.endswith("running_var"):
        v = np.float32(1) + np.float32(0.5) * v
    elif name == "fc.weight":
        v = v * np.float32(4 * math.sqrt(3.0 / 2048))
    elif name != "fc.bias":
        raise KeyError(name)
    return v.reshape(shape)


def state_dict(template):
    """Of a torch module's state_dict: the same names and shapes, without num_batches_tracked."""
    import torch

    return {
        k: torch.from_numpy(tensor(k, tuple(t.shape)))
        for k, t in template.items()
        if not k.endswith("num_batches_tracked")
    }


def picture(index, width, height):
    """(height, width, 3) uint8: waves whose lengths depend on the picture, and noise."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    period = 5 + (index * 7 + c * 3) % 23
    wave = (x * (1 + index % 3) + y * (1 + (index + c) % 4)) % period * 255 // (period - 1)
    noise = values("picture%d" % index, height * width * 3).reshape(height, width, 3)
    share = 32 + index * 37 % 97
    return np.clip((wave * (128 - share) + np.floor(noise * 128 + 128).astype(np.int64) * share) >> 7,
                   0, 255).astype(np.uint8)
