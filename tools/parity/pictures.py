"""Picture files of every kind that the decoder takes, small, each in one way special; made from nothing but Pillow.

    pictures.make(folder, jpeg_kinds) -> number of files

jpeg_kinds: program made from jpeg_kinds.c, for what Pillow cannot write; None leaves that out.
"""
import io
import os
import struct
import subprocess
import zlib

import numpy as np
from PIL import Image


# ---------------------------------------------------------------- material
def rgb(w, h, seed=0):
    """Slopes, edges and a little noise."""
    r = np.random.default_rng(seed)
    y, x = np.mgrid[0:h, 0:w]
    a = np.stack([x * 7 + y * 2, x * 3 + y * 9, 255 - x * 5 + y * 4], -1) + r.integers(0, 24, (h, w, 3))
    a[(x // 5 + y // 4) % 2 == 0] += 70
    return (a % 256).astype(np.uint8)


def grey(w, h, seed=0):
    return rgb(w, h, seed)[..., 1].copy()


def alpha(w, h):
    y, x = np.mgrid[0:h, 0:w]
    a = (x * 255 // max(1, w - 1)).astype(np.uint8)
    a[: h // 3] = 0
    a[-(h // 4 or 1):] = 255
    return a


def exif(orientation, kind=3, big=False, count=1, prefix=b"Exif\0\0"):
    e = ">" if big else "<"
    value = struct.pack(e + {1: "B3x", 3: "HH", 4: "I", 8: "hh", 9: "i", 11: "f", 5: "I", 12: "I"}[kind],
                        *((orientation, 0) if kind in (3, 8) else (orientation,)))
    head = (b"MM\0*" if big else b"II*\0") + struct.pack(e + "I", 8)
    return prefix + head + struct.pack(e + "HHHI", 1, 0x112, kind, count) + value + struct.pack(e + "I", 0)


# ---------------------------------------------------------------- PNG
PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def chunk(kind, data=b""):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pack(a, depth):
    """(h, w, channels) -> list of rows of bytes."""
    h, w = a.shape[:2]
    a = a.reshape(h, -1)
    if depth == 16:
        return [r.astype(">u2").tobytes() for r in a]
    if depth == 8:
        return [r.astype(np.uint8).tobytes() for r in a]
    per = 8 // depth
    rows = []
    for r in a:
        r = np.concatenate([r, np.zeros(-len(r) % per, r.dtype)]).reshape(-1, per)
        rows.append(bytes(int(sum(int(v) << (8 - depth * (i + 1)) for i, v in enumerate(g))) for g in r))
    return rows


def filtered(rows, bpp, which):
    """Rows with their filter byte; which: a number, or None to go through all."""
    out, above = [], None
    for n, row in enumerate(rows):
        f = n % 5 if which is None else which
        above = above or bytes(len(row))
        line = bytearray()
        for i, v in enumerate(row):
            a = row[i - bpp] if i >= bpp else 0
            b = above[i]
            c = above[i - bpp] if i >= bpp else 0
            p = a + b - c
            paeth = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
            line.append((v - (0, a, b, (a + b) // 2, paeth)[f]) & 255)
        out.append(bytes([f]) + bytes(line))
        above = row
    return out


def scanlines(a, depth, colour, interlaced=False, which=None):
    bpp = max(1, CHANNELS[colour] * depth // 8)
    if not interlaced:
        return b"".join(filtered(pack(a, depth), bpp, which))
    parts = []
    for x, y, sx, sy in PASSES:
        sub = a[y::sy, x::sx]
        if sub.shape[0] and sub.shape[1]:
            parts += filtered(pack(sub, depth), bpp, which)
    return b"".join(parts)


def ihdr(w, h, depth, colour, interlaced=0):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, interlaced))


SIGNATURE = b"\x89PNG\r\n\x1a\n"


def samples(w, h, depth, colour, seed=0):
    top = (1 << depth) - 1
    n = CHANNELS[colour]
    y, x = np.mgrid[0:h, 0:w]
    r = np.random.default_rng(seed)
    a = np.stack([(x * (k + 2) * top // 29 + y * (5 - k) * top // 23 + r.integers(0, top // 6 + 1, (h, w))) % (top + 1)
                  for k in range(n)], -1)
    if depth == 16:
        a[0, 0] = 0
        a[0, -1] = 255
        a[-1, 0] = 256
        a[-1, -1] = 65535
    return a.astype(np.int64)


def png(w=21, h=13, depth=8, colour=2, interlaced=0, which=None, before=b"", after=b"", data=None, split=None, a=None,
        level=6, end=chunk(b"IEND")):
    a = samples(w, h, depth, colour) if a is None else a
    raw = scanlines(a, depth, colour, bool(interlaced), which) if data is None else data
    z = zlib.compress(raw, level)
    step = split or len(z)
    idat = b"".join(chunk(b"IDAT", z[i:i + step]) for i in range(0, len(z), step))
    return SIGNATURE + ihdr(w, h, depth, colour, interlaced) + before + idat + after + end


def plte(n, seed=3):
    return chunk(b"PLTE", np.random.default_rng(seed).integers(0, 256, n * 3, dtype=np.uint8).tobytes())


def spoil_crc(b, kind):
    i = b.index(kind)
    n = struct.unpack(">I", b[i - 4:i])[0]
    return b[:i + 4 + n] + bytes(4) + b[i + 8 + n:]


def raw_profile(block):
    t = block.hex()
    lines = "\n".join(t[i:i + 72] for i in range(0, len(t), 72))
    return f"\nexif\n{len(block):8}\n{lines}\n".encode()


def png_kinds():
    for depth, colour in [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2), (1, 3), (2, 3), (4, 3), (8, 3),
                          (8, 4), (16, 4), (8, 6), (16, 6)]:
        before = plte(1 << depth) if colour == 3 else b""
        for interlaced in (0, 1):
            yield f"png-{depth}bit-type{colour}{'-adam7' if interlaced else ''}", png(
                depth=depth, colour=colour, interlaced=interlaced, before=before)
    for w, h in [(1, 1), (1, 17), (17, 1), (2, 3), (3, 2), (5, 5), (9, 33)]:
        yield f"png-{w}x{h}", png(w, h)
        yield f"png-{w}x{h}-adam7", png(w, h, interlaced=1)
        yield f"png-{w}x{h}-1bit-adam7", png(w, h, 1, 0, 1)
    for f in range(5):
        yield f"png-filter{f}", png(which=f, depth=16, colour=6)
        yield f"png-filter{f}-grey", png(which=f, depth=2, colour=0)
    yield "png-stored", png(level=0)
    yield "png-split-idat", png(split=7)
    yield "png-empty-idat", png(split=11).replace(b"\x00\x00\x00\x0bIDAT", chunk(b"IDAT") + b"\0\0\0\x0bIDAT", 1)
    yield "png-trns-grey", png(colour=0, before=chunk(b"tRNS", struct.pack(">H", 130)))
    yield "png-trns-grey-1bit", png(depth=1, colour=0, before=chunk(b"tRNS", struct.pack(">H", 1)))
    yield "png-trns-grey-16bit", png(depth=16, colour=0, before=chunk(b"tRNS", struct.pack(">H", 255)))
    yield "png-trns-rgb", png(before=chunk(b"tRNS", struct.pack(">HHH", *samples(21, 13, 8, 2)[4, 4])))
    yield "png-trns-rgb-16bit", png(depth=16, before=chunk(b"tRNS", struct.pack(">HHH", *samples(21, 13, 16, 2)[4, 4])))
    yield "png-palette-trns-many", png(colour=3, before=plte(256) + chunk(b"tRNS", bytes(range(200))))
    yield "png-palette-trns-one", png(colour=3, before=plte(256) + chunk(b"tRNS", b"\xff\xff\0\xff"))
    yield "png-palette-trns-4bit", png(depth=4, colour=3, before=plte(16) + chunk(b"tRNS", b"\0\x80\xff\x10"))
    yield "png-palette-short", png(colour=3, before=plte(60))
    yield "png-palette-odd-bytes", png(colour=3, before=chunk(b"PLTE", bytes(range(100))))
    yield "png-palette-missing", png(colour=3)
    yield "png-palette-missing-trns-one", png(colour=3, before=chunk(b"tRNS", b"\xff\0"))
    yield "png-palette-257", png(colour=3, before=plte(257))
    yield "png-rgb-with-plte", png(before=plte(16))
    yield "png-gamma", png(before=chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(b"cHRM", bytes(32)))
    yield "png-srgb-phys-time", png(before=chunk(b"sRGB", b"\0") + chunk(b"pHYs", struct.pack(">IIB", 2835, 2835, 1)),
                                   after=chunk(b"tIME", bytes(7)))
    profile = b"name\0\0" + zlib.compress(bytes(600))
    yield "png-iccp", png(before=chunk(b"iCCP", profile))
    yield "png-iccp-damaged", png(before=chunk(b"iCCP", b"name\0\0" + bytes(20)))
    yield "png-iccp-method", png(before=chunk(b"iCCP", b"name\0\1" + bytes(20)))
    yield "png-iccp-bomb", png(before=chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(3 << 20))))
    yield "png-sbit-bkgd", png(before=chunk(b"sBIT", b"\5\6\5") + chunk(b"bKGD", bytes(6)))
    yield "png-text", png(before=chunk(b"tEXt", b"Title\0x") + chunk(b"zTXt", b"a\0\0" + zlib.compress(b"text")),
                          after=chunk(b"iTXt", b"b\0\0\0\0\0text"))
    yield "png-text-no-zero", png(before=chunk(b"tEXt", b"Title"))
    yield "png-private-chunk", png(before=chunk(b"prVt", b"data"), after=chunk(b"prVt", b"more"))
    yield "png-critical-unknown", png(before=chunk(b"ABCD", b"data"))
    for o in range(1, 9):
        yield f"png-exif{o}", png(before=chunk(b"eXIf", exif(o, prefix=b"", big=o % 2 == 0)))
    yield "png-exif6-after", png(after=chunk(b"eXIf", exif(6, prefix=b"")))
    yield "png-exif6-long", png(before=chunk(b"eXIf", exif(6, 4, prefix=b"")))
    yield "png-exif6-byte", png(before=chunk(b"eXIf", exif(6, 1, prefix=b"")))
    yield "png-exif6-two", png(before=chunk(b"eXIf", exif(6, 3, prefix=b"", count=2)))
    yield "png-exif6-float", png(before=chunk(b"eXIf", exif(6, 1, prefix=b"", count=4)))
    yield "png-exif9", png(before=chunk(b"eXIf", exif(9, prefix=b"")))
    yield "png-exif-damaged", png(before=chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"))
    yield "png-raw-exif6", png(before=chunk(b"tEXt", b"Raw profile type exif\0" + raw_profile(exif(6))))
    yield "png-raw-exif8-packed", png(after=chunk(b"zTXt", b"Raw profile type exif\0\0" +
                                                  zlib.compress(raw_profile(exif(8)))))
    yield "png-raw-exif-and-chunk", png(before=chunk(b"tEXt", b"Raw profile type exif\0" + raw_profile(exif(6))) +
                                        chunk(b"eXIf", exif(3, prefix=b"")))
    yield from png_damage()
    yield from apng()


def png_damage():
    whole = png()
    yield "png-crc-idat", spoil_crc(whole, b"IDAT")
    yield "png-crc-ihdr", spoil_crc(whole, b"IHDR")
    yield "png-crc-text", spoil_crc(png(before=chunk(b"tEXt", b"a\0b")), b"tEXt")
    yield "png-crc-text-after", spoil_crc(png(after=chunk(b"tEXt", b"a\0b")), b"tEXt")
    yield "png-crc-iend", spoil_crc(whole, b"IEND")
    yield "png-no-iend", png(end=b"")
    yield "png-half-iend", png(end=b"\0\0\0\0IE")
    rows = scanlines(samples(21, 13, 8, 2), 8, 2)
    yield "png-missing-rows", png(data=rows[:64 * 9])
    yield "png-missing-half-row", png(data=rows[:64 * 9 + 20])
    yield "png-missing-rows-adam7", png(interlaced=1, data=scanlines(samples(21, 13, 8, 2), 8, 2, True)[:400])
    yield "png-extra-rows", png(data=rows + rows)
    yield "png-bad-filter", png(data=b"\7" + rows[1:])
    z = zlib.compress(rows)
    head = SIGNATURE + ihdr(21, 13, 8, 2)
    yield "png-bad-adler", head + chunk(b"IDAT", z[:-4] + bytes(4)) + chunk(b"IEND")
    yield "png-no-adler", head + chunk(b"IDAT", z[:-4]) + chunk(b"IEND")
    yield "png-adler-apart", head + chunk(b"IDAT", z[:-4]) + chunk(b"IDAT", z[-4:]) + chunk(b"IEND")
    yield "png-cut-in-data", whole[:-80]
    yield "png-cut-in-adler", whole[:-19]
    yield "png-cut-text-after", png(after=chunk(b"tEXt", b"a\0bcdefgh")[:-6], end=b"")
    yield "png-trailing", whole + b"trailing bytes"
    yield "png-idat-after-text", head + chunk(b"IDAT", z[:40]) + chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", z[40:]) + \
        chunk(b"IEND")
    yield "png-idat-twice", head + chunk(b"IDAT", z) + chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", z) + chunk(b"IEND")
    yield "png-short-gama", png(before=chunk(b"gAMA", b"\0\0"))
    yield "png-short-trns", png(before=chunk(b"tRNS", b"\0\0"))
    yield "png-bad-type", png(colour=2).replace(b"\x08\x02\0\0\0", b"\x08\x05\0\0\0", 1)
    yield "png-zero-width", SIGNATURE + ihdr(0, 13, 8, 2) + chunk(b"IDAT", z) + chunk(b"IEND")
    yield "png-no-idat", SIGNATURE + ihdr(21, 13, 8, 2) + chunk(b"IEND")
    yield "png-text-first", SIGNATURE + chunk(b"tEXt", b"a\0b") + whole[8:]
    yield "png-filter-method", SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 21, 13, 8, 2, 0, 1, 0)) + \
        chunk(b"IDAT", z) + chunk(b"IEND")


def apng():
    def control(n, w, h, x=0, y=0):
        return chunk(b"fcTL", struct.pack(">IIIIIHHBB", n, w, h, x, y, 1, 10, 0, 0))

    def data(n, a):
        return chunk(b"fdAT", struct.pack(">I", n) + zlib.compress(scanlines(a, 8, 2)))

    other = samples(21, 13, 8, 2, seed=9)
    animation = chunk(b"acTL", struct.pack(">II", 2, 0))
    yield "apng", png(before=animation + control(0, 21, 13), after=control(1, 21, 13) + data(2, other))
    yield "apng-default-apart", png(before=animation, after=control(0, 21, 13) + data(1, other) + control(2, 9, 7) +
                                    data(3, other[:7, :9]))
    yield "apng-one", png(before=chunk(b"acTL", struct.pack(">II", 1, 0)) + control(0, 21, 13))
    yield "apng-zero", png(before=chunk(b"acTL", struct.pack(">II", 0, 0)) + control(0, 21, 13))
    yield "apng-twice", png(before=animation + animation + control(0, 21, 13),
                            after=control(1, 21, 13) + data(2, other))
    yield "apng-sequence", png(before=animation + control(1, 21, 13))
    yield "apng-outside", png(before=animation + control(0, 21, 13, 4))
    yield "apng-smaller", png(before=animation + control(0, 9, 7, 3, 2), data=scanlines(other[:7, :9], 8, 2),
                              after=control(1, 21, 13) + data(2, other))
    yield "apng-alpha", png(colour=6, before=animation + control(0, 21, 13), after=control(1, 21, 13) + chunk(
        b"fdAT", struct.pack(">I", 2) + zlib.compress(scanlines(samples(21, 13, 8, 6, 5), 8, 6))))


# ---------------------------------------------------------------- JPEG
def save(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def jpeg(w=35, h=21, **options):
    options.setdefault("quality", 85)
    return save(Image.fromarray(rgb(w, h)), "JPEG", **options)


def segment(marker, data):
    return bytes([255, marker]) + struct.pack(">H", len(data) + 2) + data


def find(b, marker):
    """Offset of the first segment with that marker before the scan, and its length with both."""
    at = 2
    while b[at + 1] != marker:
        at += 2 + struct.unpack(">H", b[at + 2:at + 4])[0]
    return at, 2 + struct.unpack(">H", b[at + 2:at + 4])[0]


def without(b, marker):
    at, n = find(b, marker)
    return b[:at] + b[at + n:]


def before(b, marker, data):
    at = find(b, marker)[0]
    return b[:at] + data + b[at:]


def cmyk(w=19, h=13):
    a = np.concatenate([255 - rgb(w, h), (grey(w, h, 4) // 3)[..., None]], -1)
    return Image.fromarray(a, "CMYK")


def jpeg_kinds_by_pillow():
    for sampling in ("4:4:4", "4:2:2", "4:2:0"):
        for quality in (1, 30, 75, 100):
            yield f"jpeg-{sampling.replace(':', '')}-q{quality}", jpeg(subsampling=sampling, quality=quality)
        yield f"jpeg-{sampling.replace(':', '')}-progressive", jpeg(subsampling=sampling, progressive=True)
    for w, h in [(1, 1), (1, 17), (17, 1), (7, 9), (8, 8), (16, 16), (15, 33)]:
        yield f"jpeg-{w}x{h}", jpeg(w, h)
    yield "jpeg-optimized", jpeg(optimize=True)
    yield "jpeg-restart", jpeg(restart_marker_blocks=2)
    yield "jpeg-restart-rows", jpeg(restart_marker_rows=1)
    yield "jpeg-grey", save(Image.fromarray(grey(19, 13)), "JPEG", quality=90)
    yield "jpeg-grey-progressive", save(Image.fromarray(grey(19, 13)), "JPEG", quality=90, progressive=True)
    yield "jpeg-keep-rgb", jpeg(keep_rgb=True)
    yield "jpeg-icc-comment", jpeg(icc_profile=bytes(700), comment="a comment")
    yield "jpeg-cmyk", save(cmyk(), "JPEG", quality=95)
    for transform in (0, 1, 2, 3):
        b = save(cmyk(), "JPEG", quality=95)
        yield f"jpeg-cmyk-no-adobe{'' if not transform else '-%d' % transform}", without(b, 0xee) if not transform else \
            before(without(b, 0xee), 0xdb, segment(0xee, b"Adobe\0\x64\0\0\0\0" + bytes([transform])))
        b = jpeg(subsampling="4:4:4")
        yield f"jpeg-rgb-adobe-transform{transform}", before(without(b, 0xe0), 0xdb, segment(
            0xee, b"Adobe\0\x64\0\0\0\0" + bytes([transform])))
    for o in range(1, 9):
        yield f"jpeg-exif{o}", jpeg(exif=exif(o, big=o % 2 == 0))
    yield "jpeg-exif6-long", jpeg(exif=exif(6, 4))
    yield "jpeg-exif6-long-big", jpeg(exif=exif(6, 4, big=True))
    yield "jpeg-exif6-signed", jpeg(exif=exif(6, 8))
    yield "jpeg-exif6-byte", jpeg(exif=exif(6, 1))
    yield "jpeg-exif6-two", jpeg(exif=exif(6, 3, count=2))
    yield "jpeg-exif0", jpeg(exif=exif(0))
    yield "jpeg-exif9", jpeg(exif=exif(9))
    yield "jpeg-exif-damaged", jpeg(exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    yield "jpeg-exif-short", jpeg(exif=b"Exif\0\0II")
    b = jpeg()
    yield "jpeg-exif-behind-xmp", before(b, 0xdb, segment(0xe1, b"http://ns.adobe.com/xap/1.0/\0<x/>") +
                                         segment(0xe1, exif(8)))
    yield from jpeg_damage()


def jpeg_damage():
    b = jpeg(restart_marker_blocks=1)
    yield "jpeg-stray-bytes", before(before(b, 0xc0, b"\0\x12\x34"), 0xdb, b"stray")
    yield "jpeg-stray-ff00", before(b, 0xc4, b"\xff\0\xff\0")
    yield "jpeg-fill-bytes", before(b, 0xc4, b"\xff\xff\xff")
    yield "jpeg-rst-between", before(b, 0xc4, b"\xff\xd0")
    yield "jpeg-unknown-marker", before(b, 0xc4, b"\xff\x05")
    yield "jpeg-no-eoi", b[:-2]
    yield "jpeg-cut-eoi", b[:-1]
    yield "jpeg-trailing", b + b"trailing bytes"
    yield "jpeg-trailing-picture", b + jpeg(9, 9)
    for n in (3, 6, 30, 200):
        yield f"jpeg-cut-{n}", b[:-n]
    yield "jpeg-cut-progressive", jpeg(progressive=True)[:-20]
    yield "jpeg-early-eoi", jpeg()[:-60] + b"\xff\xd9"
    yield "jpeg-early-eoi-progressive", jpeg(progressive=True)[:-150] + b"\xff\xd9"
    at = b.index(b"\xff\xd1")
    yield "jpeg-wrong-restart", b[:at + 1] + b"\xd3" + b[at + 2:]
    yield "jpeg-missing-restart", b[:at] + b[at + 2:]
    yield "jpeg-flipped-bits", b[:at + 7] + bytes([b[at + 7] ^ 0x55, b[at + 8] ^ 0x0f]) + b[at + 9:]
    yield "jpeg-marker-in-scan", b[:at + 5] + b"\xff\xfe\0\4ab" + b[at + 5:]
    yield "jpeg-short-jfif", before(without(b, 0xe0), 0xdb, segment(0xe0, b"JFIF\0"))
    yield "jpeg-short-adobe", before(b, 0xdb, segment(0xee, b"Adobe"))
    yield "jpeg-photoshop", before(b, 0xdb, segment(0xed, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\2ab"))
    yield "jpeg-photoshop-cut", before(b, 0xdb, segment(0xed, b"Photoshop 3.0\0" + b"8BIM\4\4"))
    yield "jpeg-photoshop-cut-2", before(b, 0xdb, segment(0xed, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0"))
    at, n = find(b, 0xc0)
    yield "jpeg-12bit", b[:at + 4] + b"\x0c" + b[at + 5:]
    yield "jpeg-two-components", b[:at + 9] + b"\2" + b[at + 10:]
    yield "jpeg-no-height", b[:at + 5] + b"\0\0" + b[at + 7:]
    yield "jpeg-two-frames", b[:at] + b[at:at + n] + b[at:]
    yield "jpeg-no-tables", without(b, 0xdb)
    yield "jpeg-only-head", b[:find(b, 0xda)[0]]
    yield "jpeg-lossless-frame", b[:at + 1] + b"\xc3" + b[at + 2:]
    yield "jpeg-hierarchical-frame", b[:at + 1] + b"\xc5" + b[at + 2:]


# ---------------------------------------------------------------- WebP
def riff(chunks):
    body = b"".join(k + struct.pack("<I", len(d)) + d + bytes(len(d) & 1) for k, d in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def webp_kinds():
    picture = Image.fromarray(rgb(35, 21))
    clear = Image.fromarray(np.concatenate([rgb(35, 21), alpha(35, 21)[..., None]], -1), "RGBA")
    for q in (0, 40, 80, 100):
        yield f"webp-lossy-q{q}", save(picture, "WEBP", quality=q)
    yield "webp-lossless", save(picture, "WEBP", lossless=True)
    yield "webp-lossless-alpha", save(clear, "WEBP", lossless=True)
    yield "webp-lossless-alpha-exact", save(clear, "WEBP", lossless=True, exact=True)
    yield "webp-lossy-alpha", save(clear, "WEBP", quality=60)
    yield "webp-lossy-alpha-q0", save(clear, "WEBP", quality=60, alpha_quality=0)
    yield "webp-lossy-alpha-exact", save(clear, "WEBP", quality=60, exact=True)
    yield "webp-few-colours", save(Image.fromarray(rgb(35, 21) // 100 * 100), "WEBP", lossless=True)
    yield "webp-two-colours", save(Image.fromarray(rgb(35, 21)[..., :1].repeat(3, 2) // 128 * 255), "WEBP", lossless=True)
    yield "webp-icc", save(picture, "WEBP", quality=80, icc_profile=bytes(600))
    for w, h in [(1, 1), (1, 17), (17, 1), (16, 16), (33, 15)]:
        yield f"webp-{w}x{h}", save(Image.fromarray(rgb(w, h)), "WEBP", quality=70)
        yield f"webp-{w}x{h}-lossless", save(Image.fromarray(rgb(w, h)), "WEBP", lossless=True)
    for o in range(1, 9):
        yield f"webp-exif{o}", save(picture, "WEBP", quality=70, lossless=o == 3,
                                    exif=exif(o, big=o % 2 == 0, prefix=b"" if o == 4 else b"Exif\0\0"))
    yield "webp-exif6-long", save(picture, "WEBP", quality=70, exif=exif(6, 4))
    yield "webp-exif-damaged", save(picture, "WEBP", quality=70, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    frames = [Image.fromarray(rgb(35, 21, s)) for s in (1, 2, 3)]
    yield "webp-animated", save(frames[0], "WEBP", save_all=True, append_images=frames[1:], duration=100, quality=70)
    yield "webp-animated-alpha", save(clear, "WEBP", save_all=True, append_images=[clear.rotate(180)], duration=100,
                                      lossless=True)
    still = save(clear, "WEBP", lossless=True)
    frame = next(d for k, d in chunks_of(still) if k == b"VP8L")
    anmf = (10).to_bytes(3, "little") + (4).to_bytes(3, "little") + (34).to_bytes(3, "little") + \
        (20).to_bytes(3, "little") + (100).to_bytes(3, "little") + b"\0" + b"VP8L" + struct.pack("<I", len(frame)) + \
        frame + bytes(len(frame) & 1)
    vp8x = bytes([0x12, 0, 0, 0]) + (63).to_bytes(3, "little") + (35).to_bytes(3, "little")
    yield "webp-animated-offset", riff([(b"VP8X", vp8x), (b"ANIM", b"\x40\x80\xc0\xff\0\0"), (b"ANMF", anmf)])
    lossy = save(picture, "WEBP", quality=60)
    yield "webp-cut", lossy[:-9]
    yield "webp-cut-lossless", still[:-30]
    yield "webp-trailing", lossy + b"trailing bytes"
    yield "webp-flipped", lossy[:90] + bytes([lossy[90] ^ 0x3c]) + lossy[91:]
    yield "webp-size-too-small", lossy[:4] + struct.pack("<I", 60) + lossy[8:]
    yield "webp-unknown-first", riff([(b"JUNK", b"data")] + list(chunks_of(lossy)))
    yield "webp-unknown-after", riff(list(chunks_of(still)) + [(b"JUNK", b"data")])


def chunks_of(b):
    at = 12
    while at + 8 <= len(b):
        n = struct.unpack("<I", b[at + 4:at + 8])[0]
        yield b[at:at + 4], b[at + 8:at + 8 + n]
        at += 8 + n + (n & 1)


# ---------------------------------------------------------------- PNM
def pnm_kinds():
    g, c = grey(13, 7), rgb(13, 7)
    bits = g > 128
    text = " ".join(map(str, g.ravel()))
    yield "pnm-p1.pbm", b"P1\n13 7\n" + "".join(str(int(v)) for v in bits.ravel()).encode() + b"\n"
    yield "pnm-p1-spaced.pbm", b"P1 # comment\n13 7\n" + " ".join(str(int(v)) for v in bits.ravel()).encode()
    yield "pnm-p1-bad.pbm", b"P1\n13 7\n" + b"012" * 31
    yield "pnm-p2.pgm", f"P2\n13 7\n255\n{text}\n".encode()
    yield "pnm-p2-no-newline.pgm", f"P2\n13 7\n255\n{text}".encode()
    yield "pnm-p2-comment.pgm", f"P2\n13 7\n255\n# a comment\n{text[:50]} # another\n{text[50:]}\n".encode()
    yield "pnm-p2-max100.pgm", ("P2\n13 7\n100\n" + " ".join(str(int(v) * 100 // 255) for v in g.ravel())).encode()
    yield "pnm-p2-max1000.pgm", ("P2\n13 7\n1000\n" + " ".join(str(int(v) * 3) for v in g.ravel())).encode()
    yield "pnm-p2-small-16bit.pgm", ("P2\n13 7\n65535\n" + " ".join(str(v) for v in g.ravel())).encode()
    yield "pnm-p2-too-large.pgm", f"P2\n13 7\n200\n{text}\n".encode()
    yield "pnm-p2-short.pgm", f"P2\n13 7\n255\n{text[:100]}\n".encode()
    yield "pnm-p2-negative.pgm", f"P2\n13 7\n255\n-1 {text}\n".encode()
    yield "pnm-p2-plus.pgm", f"P2\n13 7\n255\n+1 1_0 {text}\n".encode()
    colours = " ".join(map(str, c.ravel()))
    yield "pnm-p3.ppm", f"P3\n13 7\n255\n{colours}\n".encode()
    yield "pnm-p3-max1000.ppm", ("P3\n13 7\n1000\n" + " ".join(str(int(v) * 3) for v in c.ravel())).encode()
    packed = np.packbits(bits, axis=1).tobytes()
    yield "pnm-p4.pbm", b"P4\n13 7\n" + packed
    yield "pnm-p4-short.pbm", b"P4\n13 7\n" + packed[:-1]
    yield "pnm-p5.pgm", b"P5\n13 7\n255\n" + g.tobytes()
    yield "pnm-p5-trailing.pgm", b"P5\n13 7\n255\n" + g.tobytes() + b"more"
    yield "pnm-p5-short.pgm", b"P5\n13 7\n255\n" + g.tobytes()[:-1]
    for top in (1, 3, 31, 100, 254):
        yield f"pnm-p5-max{top}.pgm", b"P5\n13 7\n%d\n" % top + (g.astype(int) * top // 255).astype(np.uint8).tobytes()
    yield "pnm-p5-over-max.pgm", b"P5\n13 7\n100\n" + g.tobytes()
    for top in (256, 1000, 4095, 65535):
        deep = (g.astype(int) * top // 255).astype(">u2")
        deep[0, :3] = 0, 200, 255
        yield f"pnm-p5-max{top}.pgm", b"P5\n13 7\n%d\n" % top + deep.tobytes()
    yield "pnm-p6.ppm", b"P6\n13 7\n255\n" + c.tobytes()
    for top in (15, 100, 254):
        yield f"pnm-p6-max{top}.ppm", b"P6\n13 7\n%d\n" % top + (c.astype(int) * top // 255).astype(np.uint8).tobytes()
    for top in (1000, 65535):
        yield f"pnm-p6-max{top}.ppm", b"P6\n13 7\n%d\n" % top + (c.astype(int) * top // 255).astype(">u2").tobytes()
    yield "pnm-p6-comments.ppm", b"P6\n# one\n13 # two\n7\n# three\n255\n" + c.tobytes()
    yield "pnm-p6-comment-in-number.ppm", b"P6\n13 7\n2#x\n55\n" + c.tobytes()
    yield "pnm-p6-cr.ppm", b"P6\r13 7\r255\r" + c.tobytes()
    yield "pnm-p6-tight.ppm", b"P6 13 7 255 " + c.tobytes()
    yield "pnm-p6-short.ppm", b"P6\n13 7\n255\n" + c.tobytes()[:-2]
    yield "pnm-p6-short-max100.ppm", b"P6\n13 7\n100\n" + c.tobytes()[:-2]
    yield "pnm-p6-zero.ppm", b"P6\n0 7\n255\n"
    yield "pnm-p6-max0.ppm", b"P6\n13 7\n0\n" + c.tobytes()
    yield "pnm-p6-max65536.ppm", b"P6\n13 7\n65536\n" + c.tobytes()
    yield "pnm-p6-no-space.ppm", b"P6#c\n13 7\n255\n" + c.tobytes()


# ---------------------------------------------------------------- large
def large_kinds():
    """Files of more than the 64 kB that Pillow reads at once; not among the goldens."""
    a = np.asarray(Image.fromarray(np.random.default_rng(1).integers(0, 256, (250, 350, 3), dtype=np.uint8)).resize(
        (701, 437), Image.BICUBIC))
    picture = Image.fromarray(a)
    for quality in (75, 95):
        for sampling in ("4:4:4", "4:2:0"):
            for progressive in (False, True):
                yield f"large-{quality}-{sampling.replace(':', '')}-{progressive}.jpg", save(
                    picture, "JPEG", quality=quality, subsampling=sampling, progressive=progressive)
    b = save(picture, "JPEG", quality=90, restart_marker_rows=1)
    yield "large-restart.jpg", b
    yield "large-cut.jpg", b[:-5000]
    yield "large-no-eoi.jpg", b[:-2]
    yield "large-segments.jpg", before(b, 0xdb, segment(0xe5, bytes(65000)) * 5 + segment(0xfe, bytes(30000)) * 4)
    yield "large-cmyk.jpg", save(picture.convert("CMYK"), "JPEG", quality=90)
    for mode in ("RGB", "RGBA", "L", "P", "1"):
        yield f"large-{mode}.png", save(picture.convert(mode), "PNG", compress_level=1)
    yield "large-cut.png", save(picture, "PNG")[:-40000]
    yield "large-16bit.png", png(701, 437, 16, 0, a=a[..., :1].astype(np.int64) * 200, which=0)
    yield "large-lossy.webp", save(picture, "WEBP", quality=90)
    yield "large-lossless.webp", save(picture, "WEBP", lossless=True, method=0)
    yield "large.ppm", save(picture, "PPM")
    yield "large.pgm", save(picture.convert("L"), "PPM")


# ---------------------------------------------------------------- all
def make_large(folder):
    os.makedirs(folder, exist_ok=True)
    for name, data in large_kinds():
        with open(os.path.join(folder, name), "wb") as f:
            f.write(data)


def make(folder, jpeg_kinds):
    os.makedirs(folder, exist_ok=True)
    count = 0
    for kinds, ending in ((png_kinds(), ".png"), (jpeg_kinds_by_pillow(), ".jpg"), (webp_kinds(), ".webp"),
                          (pnm_kinds(), "")):
        for name, data in kinds:
            with open(os.path.join(folder, name + ending), "wb") as f:
                f.write(data)
            count += 1
    if jpeg_kinds:
        subprocess.run([jpeg_kinds, folder], check=True)
        count = len(os.listdir(folder))
    return count
