/* tests/fuzz/fuzz_safetensors.c - libFuzzer target: the safetensors reader on hostile bytes.
 *
 *     clang -std=c17 -g -O1 -fsanitize=fuzzer,address,undefined -D_GNU_SOURCE -I. \
 *         tests/fuzz/fuzz_safetensors.c engine/files/safetensors.c $(find base -name '*.c') \
 *         -lcrypto -lzstd -ljansson -lm -o build/fuzz_safetensors
 *
 * Invariant: what the reader accepts lies inside the buffer, every byte of the data belongs to one
 * tensor, and writing it again gives a file that reads as the same tensors.
 */
#include "engine/files/safetensors.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_tensor(const ds_st *st, const ds_st_tensor *t, const uint8_t *data, size_t n) {
    const uint8_t *at = t->data;
    DS_ASSERT(at >= data && at + t->bytes <= data + n);
    DS_ASSERT(t->dtype == DS_ST_OTHER || t->bytes == t->count * ds_st_dtype_size(t->dtype));
    DS_ASSERT(ds_st_find(st, t->name) == t);
    if (t->count <= 4096) {
        float x[4096];
        ds_st_read_f32(st, t, x, NULL);
    }
}

static void write_again(const ds_st *st) {
    ds_st_writer *w = ds_st_writer_new();
    for (size_t i = 0; i < ds_st_meta_count(st); i++)
        ds_st_writer_meta(w, ds_st_meta_key(st, i), ds_st_meta(st, ds_st_meta_key(st, i)));
    for (size_t i = 0; i < ds_st_count(st); i++) {
        const ds_st_tensor *t = ds_st_at(st, i);
        ds_st_writer_add(w, t->name, t->dtype, t->ndim, t->shape, t->data);
    }
    char *bytes;
    size_t n;
    ds_st *again;
    DS_ASSERT(!ds_st_writer_finish(w, &bytes, &n, NULL));
    DS_ASSERT(!ds_st_open_owned("again", bytes, n, &again, NULL));
    DS_ASSERT(ds_st_count(again) == ds_st_count(st));
    DS_ASSERT(ds_st_meta_count(again) == ds_st_meta_count(st));
    for (size_t i = 0; i < ds_st_count(st); i++) {
        const ds_st_tensor *t = ds_st_at(st, i), *u = ds_st_find(again, t->name);
        DS_ASSERT(u && u->bytes == t->bytes && (!t->bytes || !memcmp(u->data, t->data, t->bytes)));
    }
    ds_st_free(again);
    ds_st_writer_free(w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    ds_st *st;
    ds_error err;
    if (ds_st_open_memory("fuzz", data, n, &st, &err))
        return 0;
    size_t bytes = 0;
    int known = 1; /* types that can be written */
    for (size_t i = 0; i < ds_st_count(st); i++) {
        check_tensor(st, ds_st_at(st, i), data, n);
        bytes += ds_st_at(st, i)->bytes;
        known &= ds_st_at(st, i)->dtype != DS_ST_OTHER;
    }
    DS_ASSERT(bytes <= n);
    if (known)
        write_again(st);
    ds_st_free(st);
    return 0;
}
