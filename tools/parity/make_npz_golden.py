#!/usr/bin/env python3
"""Make tests/golden/npz/: statistics files written by NumPy, good ones and ones to refuse.

Only NumPy is needed (make parity).  tests/engine_files/test_engine_npz.c reads them; the numbers are
mu_i = i/8, sigma = I + ones/16, so that the test knows them."""
import io
import os
import zipfile

import numpy as np

OUT = "tests/golden/npz"
D, S = 6, 3
mu, sigma = np.arange(D) / 8, np.eye(D) + 1 / 16
mu_s, sigma_s = np.arange(S) / 8, np.eye(S) + 1 / 16


def path(name):
    return os.path.join(OUT, name + ".npz")


def npy(a):
    b = io.BytesIO()
    np.lib.format.write_array(b, np.asarray(a), allow_pickle=True)
    return b.getvalue()


def pack(name, members, how=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path(name), "w", how) as z:
        for member, data in members:
            info = zipfile.ZipInfo(member)  # dated 1980: the same bytes every time
            info.compress_type = how
            z.writestr(info, data)


def main():
    os.makedirs(OUT, exist_ok=True)
    np.savez(path("plain"), mu=mu, sigma=sigma)
    np.savez_compressed(path("packed"), mu=mu, sigma=sigma, mu_s=mu_s, sigma_s=sigma_s)
    np.savez(path("narrow"), mu=mu.astype("<f4"), sigma=sigma.astype("<f4"))
    np.savez(path("fortran"), mu=mu, sigma=np.asfortranarray(sigma))
    np.savez(path("big-endian"), mu=mu.astype(">f4"), sigma=sigma.astype(">f8"))
    np.savez(path("half"), mu=mu.astype("<f2"), sigma=sigma.astype(">f2"))
    np.savez(path("adm"), arr_0=np.zeros((2, 4, 4, 3), np.uint8), mu=mu, sigma=sigma, mu_s=mu_s,
             sigma_s=sigma_s)
    pictures = np.arange(4 * 2 * 5 * 3, dtype=np.uint8).reshape(4, 2, 5, 3)
    np.savez(path("samples"), arr_0=pictures)
    np.savez_compressed(path("samples-packed"), pictures, np.arange(4))  # arr_1: labels, as ADM's
    for name, a in (("float", pictures.astype("<f4")), ("nchw", pictures.transpose(0, 3, 1, 2).copy()),
                    ("rgba", np.zeros((4, 2, 5, 4), np.uint8)), ("flat", pictures.reshape(-1)),
                    ("fortran", np.asfortranarray(pictures)), ("empty", pictures[:0])):
        pack("samples-" + name, [("arr_0.npy", npy(a))])
    python2 = npy(sigma).replace(b"(6, 6), }  ", b"(6L, 6L), }")
    pack("python2", [("mu.npy", npy(mu).replace(b"(6,), } ", b"(6L,), }")), ("sigma.npy", python2)])
    pack("samples-five", [("arr_0.npy", npy(pictures[None]))])
    pack("samples-short", [("arr_0.npy", npy(pictures)[:-1])])
    pack("samples-long", [("arr_0.npy", npy(pictures) + b"x")])
    whole = bytearray(open(path("samples"), "rb").read())
    whole[whole.index(b"\x93NUMPY") + 128 + 100] ^= 4
    open(path("samples-flip"), "wb").write(whole)
    good = [("mu.npy", npy(mu)), ("sigma.npy", npy(sigma))]
    bad = np.array(sigma)
    bad[1, 2] = np.nan
    skew = np.array(sigma)
    skew[1, 2] = 5
    negative = np.array(sigma)
    negative[3, 3] = -1
    pack("bad-nan", [good[0], ("sigma.npy", npy(bad))])
    pack("bad-skew", [good[0], ("sigma.npy", npy(skew))])
    pack("bad-negative", [good[0], ("sigma.npy", npy(negative))])
    pack("bad-shape", [good[0], ("sigma.npy", npy(sigma[:, :5]))])
    pack("bad-sizes", [good[0], ("sigma.npy", npy(sigma[:5, :5]))])
    pack("bad-type", [good[0], ("sigma.npy", npy(sigma.astype(np.int64)))])
    large = np.array(mu)
    large[2] = 1e160
    pack("bad-large", [("mu.npy", npy(large)), good[1]])
    parts = np.zeros(6, [("a", "<f8"), ("b", "<f8", (2,))])
    pack("bad-structured", [("mu.npy", npy(parts)), good[1]])
    pack("bad-missing", good[:1])
    pack("bad-no-mu", good[1:])
    pack("bad-short", [good[0], ("sigma.npy", npy(sigma)[:-8])])
    pack("bad-long", [good[0], ("sigma.npy", npy(sigma) + b"x")])
    pack("bad-pickle", [good[0], ("sigma.npy", npy(np.array([{"a": 1}], dtype=object)))])
    huge = npy(sigma).replace(b"(6, 6)", b"(999999999, 999999999)")
    pack("bad-huge", [good[0], ("sigma.npy", huge)])
    side = npy(sigma).replace(b"(6, 6), }" + 8 * b" ", b"(4097, 4097), }  ")
    pack("bad-side", [good[0], ("sigma.npy", side)])
    bomb = npy(sigma) + bytes(64 << 20)
    pack("bad-bomb", [good[0], ("sigma.npy", bomb)])
    pack("bad-members", good + [("x%d.npy" % i, b"") for i in range(70)])
    pack("bad-magic", [("mu.npy", b"\x93NUMPX" + npy(mu)[6:]), good[1]])
    pack("bad-header", [("mu.npy", npy(mu).replace(b"'fortran_order'", b"'fortran_odder'")), good[1]])
    pack("bad-twice", [("mu.npy", npy(mu).replace(b"'shape': (6,), }", b"'descr': '<f8', ")), good[1]])
    whole = open(path("plain"), "rb").read()
    open(path("bad-cut"), "wb").write(whole[: len(whole) // 2])
    open(path("bad-text"), "wb").write(b"not a zip file\n")
    flipped = bytearray(whole)
    flipped[whole.index(b"sigma.npy") + 200] ^= 4
    open(path("bad-flip"), "wb").write(flipped)
    print(sum(os.path.getsize(os.path.join(OUT, f)) for f in os.listdir(OUT)))


if __name__ == "__main__":
    main()
