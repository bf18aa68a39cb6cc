/* tests/fuzz/fuzz_pickle.c - libFuzzer target: the pickle reader on hostile bytes (make fuzz
 * FUZZ=pickle).
 *
 * Invariant: every number of a node lies in the list of nodes, text lies in the buffer, a tensor
 * lies in its storage.
 */
#include "engine/files/pickle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_tensor(const ds_pickle *p, const ds_pickle_tensor *t) {
    const ds_pickle_node *s = ds_pickle_at(p, t->storage);
    DS_ASSERT(s->kind == DS_PICKLE_STORAGE && t->ndim >= 0 && t->ndim <= DS_ST_DIMS_MAX);
    unsigned __int128 last = t->offset;
    int empty = 0;
    for (int i = 0; i < t->ndim; i++) {
        DS_ASSERT(t->shape[i] >= 0 && t->stride[i] >= 0);
        empty |= t->shape[i] == 0;
    }
    for (int i = 0; i < t->ndim && !empty; i++) {
        last += (unsigned __int128)(t->shape[i] - 1) * (uint64_t)t->stride[i];
    }
    if (t->dtype == DS_ST_OTHER || empty)
        return; /* never read */
    size_t size = ds_st_dtype_size(s->storage->dtype);
    DS_ASSERT((last + 1) * ds_st_dtype_size(t->dtype) <=
              (unsigned __int128)s->storage->count * size);
}

static void check_node(const ds_pickle *p, const ds_pickle_node *v, const uint8_t *data, size_t n) {
    switch (v->kind) {
    case DS_PICKLE_TEXT:
        /* or a text of the reader's own, for the type of a tensor */
        DS_ASSERT(v->count < 64 || ((const uint8_t *)v->text >= data &&
                                    (const uint8_t *)v->text + v->count <= data + n));
        break;
    case DS_PICKLE_TUPLE:
    case DS_PICKLE_LIST:
    case DS_PICKLE_DICT:
    case DS_PICKLE_CLASS:
    case DS_PICKLE_OPAQUE:
        DS_ASSERT(v->kind != DS_PICKLE_DICT || v->count % 2 == 0);
        for (uint32_t i = 0; i < v->count; i++)
            DS_ASSERT(v->items[i] < ds_pickle_count(p));
        break;
    case DS_PICKLE_STORAGE:
        DS_ASSERT(ds_pickle_at(p, v->storage->key)->kind == DS_PICKLE_TEXT &&
                  v->storage->count <= 1ull << 60);
        break;
    case DS_PICKLE_TENSOR: check_tensor(p, v->tensor); break;
    case DS_PICKLE_NONE:
    case DS_PICKLE_BOOL:
    case DS_PICKLE_INT:
    case DS_PICKLE_FLOAT:
    case DS_PICKLE_GLOBAL: break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    ds_pickle *p;
    ds_error err = {0};
    size_t used;
    if (ds_pickle_read(&p, "fuzz", data, n, &used, &err)) {
        DS_ASSERT(err.code < 0 && *err.message);
        return 0;
    }
    DS_ASSERT(used <= n && data[used - 1] == '.' && ds_pickle_root(p) < ds_pickle_count(p));
    for (uint32_t i = 0; i < ds_pickle_count(p); i++)
        check_node(p, ds_pickle_at(p, i), data, n);
    char name[64];
    ds_pickle_class(p, ds_pickle_at(p, ds_pickle_root(p)), name, sizeof name);
    ds_pickle_get(p, ds_pickle_at(p, ds_pickle_root(p)), "ema");
    ds_pickle_free(p);
    return 0;
}
