#!/usr/bin/env python3
"""gpu_flatten.py - golden tensors for machines without a JSON library: text index and raw f32.

  tools/gpu_flatten.py OUT FILE.safetensors ...

Writes OUT/<path with _ for />.index, a line "name ndim dims... first count" per tensor, and .f32,
all numbers as f32; read by tests/gpu/flat_st.c.  Needs python3 alone.  Only F64 and F32 are taken:
other tensors are left out.
"""
import array, json, os, struct, sys


def flatten(path, out):
    data = open(path, 'rb').read()
    (size,) = struct.unpack('<Q', data[:8])
    header, body = json.loads(data[8:8 + size]), data[8 + size:]
    index, first = [], 0
    flat = os.path.join(out, path.replace('/', '_'))
    with open(flat + '.f32', 'wb') as f:
        for name, t in header.items():
            kind = {'F64': 'd', 'F32': 'f'}.get(t.get('dtype')) if name != '__metadata__' else None
            if not kind:
                continue
            begin, end = t['data_offsets']
            numbers = array.array('f', array.array(kind, body[begin:end]))
            numbers.tofile(f)
            index.append(' '.join(map(str, [name, len(t['shape'])] + t['shape'] + [first, len(numbers)])))
            first += len(numbers)
    with open(flat + '.index', 'w') as f:
        f.write('\n'.join(index) + '\n')


if __name__ == '__main__':
    os.makedirs(sys.argv[1], exist_ok=True)
    for p in sys.argv[2:]:
        flatten(p, sys.argv[1])
