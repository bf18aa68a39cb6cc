"""Freedoom's pictures (BSD-3-Clause): floors, walls and sprites out of a WAD file."""
import struct

import numpy as np
from PIL import Image


def lumps(data):
    """(name, bytes, section) in order; section is the last marker: F, P or S, else ""."""
    count, at = struct.unpack_from("<II", data, 4)
    section = ""
    for i in range(count):
        offset, size, name = struct.unpack_from("<II8s", data, at + 16 * i)
        name = name.rstrip(b"\0").decode("latin-1")
        if name.endswith("_START"):
            section = name[0] if len(name) < 9 and name[0] in "FPS" else section
        elif name.endswith("_END"):
            section = section if name[1:2].isdigit() else ""
        elif size:
            yield name, data[offset:offset + size], section


def patch(body, palette):
    """A picture of columns and posts -> RGBA, or None."""
    w, h = struct.unpack_from("<HH", body, 0)
    if not (8 <= w <= 512 and 8 <= h <= 256) or len(body) < 8 + 4 * w:
        return None
    out = np.zeros((h, w, 4), np.uint8)
    for x, at in enumerate(struct.unpack_from(f"<{w}I", body, 8)):
        while at < len(body) and body[at] != 255:
            top, n = body[at], body[at + 1]
            pixels = np.frombuffer(body, np.uint8, n, at + 3)[:max(0, h - top)]
            out[top:top + len(pixels), x, :3] = palette[pixels]
            out[top:top + len(pixels), x, 3] = 255
            at += n + 4
    return Image.fromarray(out)


def pictures(path):
    """Yields (section, name, RGBA)."""
    with open(path, "rb") as f:
        data = f.read()
    palette = None
    for name, body, section in lumps(data):
        if name == "PLAYPAL":
            palette = np.frombuffer(body, np.uint8, 768).reshape(256, 3)
        elif section == "F" and len(body) == 4096:
            yield section, name, Image.fromarray(palette[np.frombuffer(body, np.uint8).reshape(64, 64)]).convert("RGBA")
        elif section in ("P", "S") and section:
            try:
                image = patch(body, palette)
            except (struct.error, IndexError, ValueError):
                continue
            if image:
                yield section, name, image
