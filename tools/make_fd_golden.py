#!/usr/bin/python3
"""Make tests/golden/fd.safetensors: feature sets with their statistics, Frechet distance and KID.

NumPy and SciPy compute everything by other ways than the engine does (np.cov; a nuclear norm, checked
against scipy.linalg.sqrtm and the eigenvalues of the product; explicit kernel sums), in float64.  The
Philox subsets of engine/metrics/kid.c are drawn by a small Philox of its own.  Needs python3-numpy and
python3-scipy; developer's tool, the build does not use it.
"""
import json
import struct

import numpy as np
import scipy.linalg

OUT = "tests/golden/fd.safetensors"
KID_STREAM, SUBSETS, SUBSET_SIZE, SEED = 9, 20, 30, 0x123456789


def philox(seed, stream, step, block):
    c = [block, step, 0, stream]
    k0, k1 = seed & 0xffffffff, seed >> 32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & 0xffffffff, (p0 >> 32) ^ c[3] ^ k1, p0 & 0xffffffff]
        k0, k1 = (k0 + 0x9E3779B9) & 0xffffffff, (k1 + 0xBB67AE85) & 0xffffffff
    return c


def permutation(n, seed, stream, step):
    out = list(range(n))
    for i in range(n, 1, -1):
        j = (philox(seed, stream, step, i // 4)[i % 4] * i) >> 32
        out[i - 1], out[j] = out[j], out[i - 1]
    return out


def frechet(x, y):
    """The cross term is the nuclear norm of S1^1/2 S2^1/2, and that is the one of Xc Yc^T: exact at any
    rank and without a square root.  SciPy's sqrtm and eigenvalues must agree where they can."""
    m1, m2, s1, s2 = x.mean(0), y.mean(0), np.cov(x.T), np.cov(y.T)
    cross = np.linalg.svd((x - m1) @ (y - m2).T, compute_uv=False).sum()
    cross /= np.sqrt((len(x) - 1.0) * (len(y) - 1.0))
    by_eig = np.sqrt(np.maximum(scipy.linalg.eigvals(s1 @ s2).real, 0)).sum()
    assert abs(by_eig - cross) < 1e-5 * cross, (by_eig, cross)
    if min(len(x), len(y)) > x.shape[1]:
        by_sqrtm = np.trace(scipy.linalg.sqrtm(s1 @ s2)).real
        assert abs(by_sqrtm - cross) < 1e-10 * cross, (by_sqrtm, cross)
    return ((m1 - m2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * cross


def kernel(x, y):
    return (x @ y.T / x.shape[1] + 1) ** 3


def mmd2(x, y):
    m, n = len(x), len(y)
    kx, ky = kernel(x, x), kernel(y, y)
    return ((kx.sum() - np.trace(kx)) / (m * (m - 1)) + (ky.sum() - np.trace(ky)) / (n * (n - 1))
            - 2 * kernel(x, y).mean())


def kid(x, y):
    values = []
    for i in range(SUBSETS):
        a = permutation(len(x), SEED, KID_STREAM, 2 * i)[:SUBSET_SIZE]
        b = permutation(len(y), SEED, KID_STREAM, 2 * i + 1)[:SUBSET_SIZE]
        values.append(mmd2(x[a], y[b]))
    n = min(len(x), len(y))
    error = np.sqrt(np.var(values, ddof=1) * SUBSET_SIZE / (n - SUBSET_SIZE))
    return [mmd2(x, y), np.mean(values), error]


def features(rng, n, dim, shift, spread):
    """Non-negative, correlated and skewed, as pooled ReLU features are."""
    mix = np.random.default_rng(dim).normal(size=(dim, dim)) / np.sqrt(dim)
    return np.maximum(rng.normal(size=(n, dim)) @ mix * spread + shift, 0).astype(np.float32)


def main():
    rng = np.random.default_rng(20240501)
    tensors, meta = {}, {}
    cases = {"full": (24, 200, 150), "deficient": (64, 40, 50), "wide": (24, 100, 25000 // 24)}
    for name, (dim, n, m) in cases.items():
        x, y = features(rng, n, dim, 0.3, 0.5), features(rng, m, dim, 0.4, 0.6)
        x64, y64 = x.astype(np.float64), y.astype(np.float64)
        tensors[name + ".real"], tensors[name + ".fake"] = x, y
        tensors[name + ".mean"], tensors[name + ".cov"] = y64.mean(0), np.cov(y64.T)
        tensors[name + ".fd"] = np.array(frechet(x64, y64))
    x64 = tensors["full.real"].astype(np.float64)
    y64 = tensors["full.fake"].astype(np.float64)
    tensors["full.kid"] = np.array(kid(x64, y64))
    meta.update(kid_subsets=str(SUBSETS), kid_subset_size=str(SUBSET_SIZE), kid_seed=str(SEED),
                about="tools/make_fd_golden.py")
    header, body = {"__metadata__": meta}, b""
    for name, a in tensors.items():
        dtype = {"float32": "F32", "float64": "F64"}[str(a.dtype)]
        data = np.ascontiguousarray(a).tobytes()
        header[name] = {"dtype": dtype, "shape": list(a.shape),
                        "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(OUT, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + body)
    for name in cases:
        print(name, float(tensors[name + ".fd"]))
    print("kid", tensors["full.kid"], len(text) + len(body), "bytes")


if __name__ == "__main__":
    main()
