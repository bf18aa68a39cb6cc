/* tests/weights_files.h - PyTorch checkpoints made by hand: pickles opcode by opcode, zips with any
 * lie in their headers. Used by tests/test_engine_weights.c and tests/fuzz/. */
#ifndef DS_TESTS_WEIGHTS_FILES_H
#define DS_TESTS_WEIGHTS_FILES_H

#include "base/mem.h"

#include <stdint.h>
#include <string.h>

#define UNUSED __attribute__((unused))

/* ---------------------------------------------------------------- pickle */

static UNUSED void number(ds_buf *b, uint64_t v, size_t bytes) {
    uint8_t p[8];
    for (size_t i = 0; i < 8; i++)
        p[i] = (uint8_t)(v >> (8 * i));
    ds_buf_add(b, p, bytes);
}

static UNUSED void pk_text(ds_buf *b, const char *s) {
    ds_buf_add(b, "X", 1);
    number(b, strlen(s), 4);
    ds_buf_add(b, s, strlen(s));
}

static UNUSED void pk_int(ds_buf *b, int64_t v) {
    ds_buf_add(b, "\x8a\x08", 2);
    number(b, (uint64_t)v, 8);
}

static UNUSED void pk_global(ds_buf *b, const char *module, const char *name) {
    ds_buf_addf(b, "c%s\n%s\n", module, name);
}

static UNUSED void pk_ints(ds_buf *b, int n, const int64_t *v) {
    ds_buf_add(b, "(", 1);
    for (int i = 0; i < n; i++)
        pk_int(b, v[i]);
    ds_buf_add(b, "t", 1);
}

typedef struct {
    const char *type, *key; /* "FloatStorage" */
    int64_t elements, offset;
    int ndim;
    int64_t shape[10], stride[10];
} pk_tensor_spec;

static UNUSED void pk_tensor(ds_buf *b, const pk_tensor_spec *t, int legacy) {
    pk_global(b, "torch._utils", "_rebuild_tensor_v2");
    ds_buf_add(b, "((", 2);
    pk_text(b, "storage");
    pk_global(b, "torch", t->type);
    pk_text(b, t->key);
    pk_text(b, "cpu");
    pk_int(b, t->elements);
    ds_buf_add(b, legacy ? "NtQ" : "tQ", legacy ? 3 : 2);
    pk_int(b, t->offset);
    pk_ints(b, t->ndim, t->shape);
    pk_ints(b, t->ndim, t->stride);
    ds_buf_add(b, "\x89", 1);
    pk_global(b, "collections", "OrderedDict");
    ds_buf_add(b, ")RtR", 4);
}

/* {"w": tensor} */
static UNUSED void pk_model(ds_buf *b, const pk_tensor_spec *t, int legacy) {
    ds_buf_add(b, "\x80\x02}", 3);
    pk_text(b, "w");
    pk_tensor(b, t, legacy);
    ds_buf_add(b, "s.", 2);
}

/* ---------------------------------------------------------------- zip */

typedef struct {
    ds_buf file, central;
    unsigned count;
} zip_maker;

static UNUSED uint32_t crc_of(const void *data, size_t n) {
    const uint8_t *p = data;
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

/* An entry whose headers say what they are told; data may be NULL: then only the central entry is
 * written, and it points at `at`. */
static UNUSED void zm_entry(zip_maker *z, const char *name, const void *data, size_t n, int method,
                            int flags, uint32_t crc, uint32_t packed, uint32_t size, size_t at) {
    size_t len = strlen(name);
    if (data) {
        at = z->file.len;
        number(&z->file, 0x04034b50u, 4);
        number(&z->file, 20, 2);
        number(&z->file, (unsigned)flags, 2);
        number(&z->file, (unsigned)method, 2);
        number(&z->file, 0x21 << 16, 4);
        number(&z->file, crc, 4);
        number(&z->file, packed, 4);
        number(&z->file, size, 4);
        number(&z->file, len, 2);
        number(&z->file, 0, 2);
        ds_buf_add(&z->file, name, len);
        ds_buf_add(&z->file, data, n);
    }
    number(&z->central, 0x02014b50u, 4);
    number(&z->central, 20, 2);
    number(&z->central, 20, 2);
    number(&z->central, (unsigned)flags, 2);
    number(&z->central, (unsigned)method, 2);
    number(&z->central, 0x21 << 16, 4);
    number(&z->central, crc, 4);
    number(&z->central, packed, 4);
    number(&z->central, size, 4);
    number(&z->central, len, 2);
    number(&z->central, 0, 6);
    number(&z->central, 0, 6);
    number(&z->central, at, 4);
    ds_buf_add(&z->central, name, len);
    z->count++;
}

static UNUSED void zm_add(zip_maker *z, const char *name, const void *data, size_t n) {
    zm_entry(z, name, data, n, 0, 0, crc_of(data, n), (uint32_t)n, (uint32_t)n, 0);
}

/* The file; releases the maker. */
static UNUSED ds_buf zm_done(zip_maker *z) {
    size_t at = z->file.len;
    ds_buf_add(&z->file, z->central.data, z->central.len);
    number(&z->file, 0x06054b50u, 4);
    number(&z->file, 0, 4);
    number(&z->file, z->count, 2);
    number(&z->file, z->count, 2);
    number(&z->file, z->central.len, 4);
    number(&z->file, at, 4);
    number(&z->file, 0, 2);
    ds_buf file = z->file;
    ds_buf_release(&z->central);
    *z = (zip_maker){0};
    return file;
}

/* A checkpoint of one pickle and one storage. */
static UNUSED ds_buf zip_of(const ds_buf *pickle, const void *storage, size_t n) {
    zip_maker z = {0};
    zm_add(&z, "a/data.pkl", pickle->data, pickle->len);
    zm_add(&z, "a/byteorder", "little", 6);
    zm_add(&z, "a/data/0", storage, n);
    zm_add(&z, "a/version", "3\n", 2);
    return zm_done(&z);
}

/* ---------------------------------------------------------------- before the zip */

static UNUSED ds_buf legacy_of(const ds_buf *object, const char *keys, uint64_t count,
                               const void *storage, size_t n) {
    ds_buf b = {0};
    ds_buf_add(&b, "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15);
    ds_buf_add(&b, "\x80\x02M\xe9\x03.", 6);
    ds_buf_add(&b, "\x80\x02}", 3);
    pk_text(&b, "little_endian");
    ds_buf_add(&b, "\x88s.", 3);
    ds_buf_add(&b, object->data, object->len);
    ds_buf_add(&b, "\x80\x02](", 4);
    for (; *keys; keys++)
        pk_text(&b, (char[]){*keys, 0});
    ds_buf_add(&b, "e.", 2);
    number(&b, count, 8);
    ds_buf_add(&b, storage, n);
    return b;
}

#endif
