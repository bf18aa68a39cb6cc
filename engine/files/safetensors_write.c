/* engine/files/safetensors_write.c - makes a safetensors file: tensors and metadata are collected,
 * then the header and the data are written in one piece. */
#include "base/fs.h"
#include "base/mem.h"
#include "engine/files/safetensors_internal.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    char *name;
    enum ds_st_dtype dtype;
    int ndim;
    int64_t shape[DS_ST_DIMS_MAX];
    const void *data;
    void *own; /* NULL when data is borrowed */
    size_t bytes;
} pending;

typedef struct {
    char *key, *value;
} meta_pair;

struct ds_st_writer {
    pending *tensors;
    size_t count, cap;
    meta_pair *meta;
    size_t meta_count, meta_cap;
};

ds_st_writer *ds_st_writer_new(void) { return ds_xcalloc(1, sizeof(ds_st_writer)); }

void ds_st_writer_free(ds_st_writer *w) {
    if (!w)
        return;
    for (size_t i = 0; i < w->count; i++) {
        free(w->tensors[i].name);
        free(w->tensors[i].own);
    }
    for (size_t i = 0; i < w->meta_count; i++) {
        free(w->meta[i].key);
        free(w->meta[i].value);
    }
    free(w->tensors);
    free(w->meta);
    free(w);
}

static size_t elements(int ndim, const int64_t *shape) {
    DS_ASSERT(ndim >= 0 && ndim <= DS_ST_DIMS_MAX);
    size_t count = 1;
    for (int i = 0; i < ndim; i++)
        DS_ASSERT(shape[i] >= 0 && !__builtin_mul_overflow(count, (size_t)shape[i], &count));
    DS_ASSERT(count <= SIZE_MAX / 8);
    return count;
}

static pending *add_pending(ds_st_writer *w, const char *name, enum ds_st_dtype dtype, int ndim,
                            const int64_t *shape) {
    if (w->count == w->cap) {
        w->cap = w->cap ? 2 * w->cap : 64;
        w->tensors = ds_xrealloc(w->tensors, w->cap * sizeof *w->tensors);
    }
    pending *t = &w->tensors[w->count++];
    *t = (pending){.name = ds_xstrdup(name), .dtype = dtype, .ndim = ndim};
    t->bytes = elements(ndim, shape) * ds_st_dtype_size(dtype);
    for (int i = 0; i < ndim; i++)
        t->shape[i] = shape[i];
    return t;
}

void ds_st_writer_add(ds_st_writer *w, const char *name, enum ds_st_dtype dtype, int ndim,
                      const int64_t *shape, const void *data) {
    add_pending(w, name, dtype, ndim, shape)->data = data;
}

void ds_st_writer_add_f32(ds_st_writer *w, const char *name, enum ds_st_dtype store, int ndim,
                          const int64_t *shape, const float *data) {
    DS_ASSERT(store == DS_ST_F32 || store == DS_ST_BF16 || store == DS_ST_F16);
    pending *t = add_pending(w, name, store, ndim, shape);
    t->data = t->own = ds_xmalloc(t->bytes);
    size_t count = elements(ndim, shape);
    uint16_t *half = t->own;
    if (store == DS_ST_F32 && count)
        memcpy(t->own, data, t->bytes);
    for (size_t i = 0; store != DS_ST_F32 && i < count; i++)
        half[i] = store == DS_ST_BF16 ? ds_bf16_from_f32(data[i]) : ds_f16_from_f32(data[i]);
}

void ds_st_writer_meta(ds_st_writer *w, const char *key, const char *value) {
    if (w->meta_count == w->meta_cap) {
        w->meta_cap = w->meta_cap ? 2 * w->meta_cap : 16;
        w->meta = ds_xrealloc(w->meta, w->meta_cap * sizeof *w->meta);
    }
    w->meta[w->meta_count++] = (meta_pair){ds_xstrdup(key), ds_xstrdup(value)};
}

/* Append s as a JSON string; refuses what is not UTF-8. */
static int add_quoted(ds_buf *b, const char *s, ds_error *err) {
    json_t *j = json_string(s);
    char *text = j ? json_dumps(j, JSON_ENCODE_ANY) : NULL;
    json_decref(j);
    if (!text)
        return ds_fail(err, DS_EINVAL, "cannot write safetensors: text is not UTF-8");
    ds_buf_add(b, text, strlen(text));
    free(text);
    return 0;
}

static int by_key(const void *a, const void *b) {
    return strcmp(((const meta_pair *)a)->key, ((const meta_pair *)b)->key);
}

static int write_meta(ds_st_writer *w, ds_buf *b, ds_error *err) {
    if (!w->meta_count)
        return 0;
    qsort(w->meta, w->meta_count, sizeof *w->meta, by_key);
    ds_buf_addf(b, "\"%s\":{", DS_ST_META_KEY);
    for (size_t i = 0; i < w->meta_count; i++) {
        if (i && !strcmp(w->meta[i - 1].key, w->meta[i].key))
            return ds_fail(err, DS_EINVAL,
                           "cannot write safetensors: metadata '%.120s' is given twice",
                           w->meta[i].key);
        if (i)
            ds_buf_add(b, ",", 1);
        int rc = add_quoted(b, w->meta[i].key, err);
        ds_buf_add(b, ":", 1);
        rc = rc ? rc : add_quoted(b, w->meta[i].value, err);
        if (rc)
            return rc;
    }
    ds_buf_add(b, "}", 1);
    return 0;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int check_names(const ds_st_writer *w, ds_error *err) {
    if (w->count > DS_ST_TENSORS_MAX)
        return ds_fail(err, DS_EINVAL, "cannot write safetensors: %zu tensors, limit %d", w->count,
                       DS_ST_TENSORS_MAX);
    const char **names = ds_xcalloc(w->count + 1, sizeof *names);
    for (size_t i = 0; i < w->count; i++)
        names[i] = w->tensors[i].name;
    qsort(names, w->count, sizeof *names, by_text);
    int rc = 0;
    for (size_t i = 0; !rc && i < w->count; i++)
        if ((i && !strcmp(names[i - 1], names[i])) || !strcmp(names[i], DS_ST_META_KEY) ||
            ds_st_has_control_byte(names[i]))
            rc = ds_fail(
                err, DS_EINVAL,
                "cannot write safetensors: tensor name '%.120s' is used twice or not allowed",
                names[i]);
    free(names);
    return rc;
}

static int write_header(ds_st_writer *w, ds_buf *b, size_t *data_bytes, ds_error *err) {
    ds_buf_add(b, "{", 1);
    int rc = write_meta(w, b, err);
    size_t at = 0;
    for (size_t i = 0; !rc && i < w->count; i++) {
        const pending *t = &w->tensors[i];
        char shape[DS_ST_DIMS_MAX * 21 + 8];
        ds_st_shape_text(shape, sizeof shape, (ds_st_shape){t->ndim, t->shape});
        if (i || w->meta_count)
            ds_buf_add(b, ",", 1);
        rc = add_quoted(b, t->name, err);
        ds_buf_addf(b, ":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
                    ds_st_dtype_name(t->dtype), shape, at, at + t->bytes);
        DS_ASSERT(!__builtin_add_overflow(at, t->bytes, &at));
    }
    if (rc)
        return rc;
    ds_buf_add(b, "}", 1);
    while (b->len % 8)
        ds_buf_add(b, " ", 1);
    if (b->len > DS_ST_HEADER_MAX)
        return ds_fail(err, DS_EINVAL, "cannot write safetensors: header of %zu bytes, limit %zu",
                       b->len, DS_ST_HEADER_MAX);
    *data_bytes = at;
    return 0;
}

int ds_st_writer_header(ds_st_writer *w, ds_buf *out, size_t *data_bytes, ds_error *err) {
    ds_buf header = {0};
    int rc = check_names(w, err);
    rc = rc ? rc : write_header(w, &header, data_bytes, err);
    if (!rc) {
        uint64_t size = header.len;
        ds_buf_add(out, &size, sizeof size);
        ds_buf_add(out, header.data, header.len);
    }
    ds_buf_release(&header);
    return rc;
}

int ds_st_writer_finish(ds_st_writer *w, char **out, size_t *n, ds_error *err) {
    ds_buf header = {0};
    size_t data_bytes = 0;
    int rc = ds_st_writer_header(w, &header, &data_bytes, err);
    if (rc)
        return rc;
    char *p = ds_xmalloc(header.len + data_bytes), *at = p + header.len;
    memcpy(p, header.data, header.len);
    for (size_t i = 0; i < w->count; i++) {
        if (w->tensors[i].bytes)
            memcpy(at, w->tensors[i].data, w->tensors[i].bytes);
        at += w->tensors[i].bytes;
    }
    ds_buf_release(&header);
    *out = p;
    *n = (size_t)(at - p);
    return 0;
}
