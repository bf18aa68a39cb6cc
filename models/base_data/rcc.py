"""Reads Qt's compiled resource files (.rcc, versions 1 to 3): yields (path, bytes)."""
import struct
import zlib


def entries(data):
    if data[:4] != b"qres":
        return
    version, tree, blobs, names = struct.unpack_from(">IIII", data, 4)
    size = 14 if version == 1 else 22  # later versions add a time stamp

    def name_at(offset):
        length = struct.unpack_from(">H", data, names + offset)[0]
        return data[names + offset + 6:names + offset + 6 + 2 * length].decode("utf-16-be")

    def walk(node, prefix):
        at = tree + node * size
        offset, flags = struct.unpack_from(">IH", data, at)
        path = prefix + name_at(offset) if node else ""
        if flags & 2:
            count, first = struct.unpack_from(">II", data, at + 6)
            for i in range(first, first + count):
                yield from walk(i, path + "/" if node else "")
            return
        where = blobs + struct.unpack_from(">I", data, at + 10)[0]
        length = struct.unpack_from(">I", data, where)[0]
        body = data[where + 4:where + 4 + length]
        if flags & 1:
            body = zlib.decompress(body[4:])
        if not flags & 4:  # zstd: no picture is stored so
            yield path, body

    yield from walk(0, "")
