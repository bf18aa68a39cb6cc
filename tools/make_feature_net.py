#!/usr/bin/python3
"""Cut the Inception-v3 trunk that ends at Mixed_6c out of the one that ends at Mixed_6e.

    tools/make_feature_net.py inception-v3-mixed6e.safetensors.zst inception-golden.safetensors

writes models/inception-v3-mixed6c.safetensors.zst (zstd level 19, checksum, content size) and
tests/golden/inception-golden.safetensors (pictures and the features of the two taps), and prints their
digests; that of the uncompressed network belongs into engine/metrics/features.h.  Needs the zstd program.
Developer's tool: the build does not use it.  Source of the inputs: models/README-inception.md.
"""
import hashlib
import json
import struct
import subprocess
import sys

OUT_NET = "models/inception-v3-mixed6c.safetensors.zst"
OUT_GOLDEN = "tests/golden/inception-golden.safetensors"
BLOCKS = ("Conv2d_", "Mixed_5", "Mixed_6a", "Mixed_6b", "Mixed_6c")


def read(data):
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    return header, data[8 + size:]


def cut(data, keep, meta):
    """The tensors whose name `keep` accepts, in the order of their data."""
    header, body = read(data)
    header.pop("__metadata__", None)
    names = sorted((n for n in header if keep(n)), key=lambda n: header[n]["data_offsets"])
    out, parts, at = {"__metadata__": meta}, [], 0
    for n in names:
        begin, end = header[n]["data_offsets"]
        out[n] = {"dtype": header[n]["dtype"], "shape": header[n]["shape"],
                  "data_offsets": [at, at + end - begin]}
        parts.append(body[begin:end])
        at += end - begin
    text = json.dumps(out, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(parts), len(names)


def main():
    trunk = subprocess.run(["zstd", "-dc", sys.argv[1]], check=True, stdout=subprocess.PIPE).stdout
    meta = dict(read(trunk)[0]["__metadata__"])
    meta["cut"] = "convolutions through Mixed_6c only; values unchanged"
    net, count = cut(trunk, lambda n: n.startswith(BLOCKS), dict(sorted(meta.items())))
    with open(OUT_NET + ".raw", "wb") as f:
        f.write(net)
    subprocess.run(["zstd", "-q", "-f", "-19", "--check", "--no-progress", "--rm", OUT_NET + ".raw",
                    "-o", OUT_NET], check=True)
    print(count, "tensors,", len(net), "bytes, uncompressed sha256", hashlib.sha256(net).hexdigest())
    golden, count = cut(open(sys.argv[2], "rb").read(),
                        lambda n: n in ("images", "Mixed_5d", "Mixed_6c"),
                        {"about": "4 pictures (U8 NCHW RGB 299x299) and the mean-pooled block outputs,"
                                  " computed in float64; sources: models/README-inception.md"})
    with open(OUT_GOLDEN, "wb") as f:
        f.write(golden)
    print(count, "tensors in", OUT_GOLDEN, hashlib.sha256(golden).hexdigest())


if __name__ == "__main__":
    main()
