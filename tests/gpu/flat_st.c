/* tests/gpu/flat_st.c - the reading half of engine/files/safetensors.h over what tools/gpu_flatten.py
 * wrote, for machines without a JSON library.
 *
 * `a/b.safetensors` is read from $DS_FLAT/a_b.safetensors.index, a line per tensor
 * "name ndim dims... first count" in text, and $DS_FLAT/a_b.safetensors.f32, all numbers as f32,
 * native byte order.  Both are our own: they are checked for size, not against an enemy. */
#include "tests/gpu/flat_st.h"

#include <stdio.h>
#include <stdlib.h>

struct ds_st {
    char *name;
    ds_st_tensor *items;
    size_t count;
    float *all; /* what the tensors of a file lie in; NULL: each has its own */
};

ds_st *ds_flat_new(void) { return ds_xcalloc(1, sizeof(ds_st)); }

static ds_st_tensor *append(ds_st *st, const char *name, int ndim, const int64_t *shape) {
    st->items = ds_xrealloc(st->items, (st->count + 1) * sizeof *st->items);
    ds_st_tensor *t = &st->items[st->count++];
    *t = (ds_st_tensor){.name = ds_xstrdup(name), .dtype = DS_ST_F32, .ndim = ndim, .count = 1};
    for (int i = 0; i < ndim; i++) {
        t->shape[i] = shape[i];
        t->count *= (size_t)shape[i];
    }
    t->bytes = t->count * sizeof(float);
    return t;
}

void ds_flat_add(ds_st *st, const char *name, int ndim, const int64_t *shape, float *data) {
    append(st, name, ndim, shape)->data = data;
}

void ds_st_free(ds_st *st) {
    if (!st)
        return;
    for (size_t i = 0; i < st->count; i++) {
        free((void *)(uintptr_t)st->items[i].name);
        if (!st->all)
            free((void *)(uintptr_t)st->items[i].data);
    }
    free(st->all);
    free(st->items);
    free(st->name);
    free(st);
}

static void *read_all(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    fseek(f, 0, SEEK_END);
    long size = ftell(f);
    rewind(f);
    char *data = ds_xmalloc((size_t)size + 1);
    *n = fread(data, 1, (size_t)size, f);
    data[*n] = 0;
    fclose(f);
    return data;
}

/* One line of the index; 0 = at its end. */
static int read_line(ds_st *st, char **at, size_t floats) {
    char name[200];
    int ndim, used;
    int64_t shape[DS_ST_DIMS_MAX];
    size_t first, count;
    if (sscanf(*at, "%199s %d%n", name, &ndim, &used) != 2 || ndim < 0 || ndim > DS_ST_DIMS_MAX)
        return 0;
    *at += used;
    for (int i = 0; i < ndim; i++)
        shape[i] = strtoll(*at, at, 10);
    first = strtoull(*at, at, 10);
    count = strtoull(*at, at, 10);
    ds_st_tensor *t = append(st, name, ndim, shape);
    if (t->count != count || first > floats || count > floats - first)
        return -1;
    t->data = st->all + first;
    return 1;
}

int ds_st_open_file(const char *path, size_t max, int use_mmap, ds_st **out, ds_error *err) {
    (void)max, (void)use_mmap;
    const char *folder = getenv("DS_FLAT");
    char flat[300], file[600];
    size_t index_size, bytes;
    int more = 1;
    *out = NULL;
    snprintf(flat, sizeof flat, "%s", path);
    for (char *c = flat; *c; c++)
        *c = *c == '/' ? '_' : *c;
    snprintf(file, sizeof file, "%s/%s.index", folder ? folder : "build/gpu/flat", flat);
    char *index = read_all(file, &index_size), *at = index;
    snprintf(file, sizeof file, "%s/%s.f32", folder ? folder : "build/gpu/flat", flat);
    ds_st *st = ds_flat_new();
    st->all = read_all(file, &bytes);
    st->name = ds_xstrdup(path);
    while (index && st->all && (more = read_line(st, &at, bytes / sizeof(float))) == 1)
        ;
    int bad = !index || !st->all || more < 0;
    free(index);
    if (bad) {
        ds_st_free(st);
        return ds_fail(err, DS_ENOTFOUND,
                       "%s cannot be read: run tools/gpu_flatten.py, which writes %s", path, file);
    }
    *out = st;
    return 0;
}

const char *ds_st_file_name(const ds_st *st) { return st->name ? st->name : "memory"; }
size_t ds_st_count(const ds_st *st) { return st->count; }
const ds_st_tensor *ds_st_at(const ds_st *st, size_t i) { return &st->items[i]; }
const char *ds_st_meta(const ds_st *st, const char *key) {
    (void)st, (void)key;
    return NULL;
}

const ds_st_tensor *ds_st_find(const ds_st *st, const char *name) {
    for (size_t i = 0; i < st->count; i++)
        if (!strcmp(st->items[i].name, name))
            return &st->items[i];
    return NULL;
}

int ds_st_read_f32(const ds_st *st, const ds_st_tensor *t, float *dst, ds_error *err) {
    (void)st, (void)err;
    memcpy(dst, t->data, t->bytes);
    return 0;
}

int ds_st_need(const ds_st *st, const char *name, int ndim, const int64_t *shape,
               const ds_st_tensor **out, ds_error *err) {
    const ds_st_tensor *t = ds_st_find(st, name);
    int same = t && (ndim < 0 || t->ndim == ndim);
    for (int i = 0; same && i < ndim; i++)
        same = t->shape[i] == shape[i];
    *out = t;
    return same ? 0
                : ds_fail(err, DS_EINTEGRITY, "%s: tensor '%s' is missing or of another shape",
                          ds_st_file_name(st), name);
}

int ds_st_need_f32(const ds_st *st, const char *name, int ndim, const int64_t *shape, float *dst,
                   ds_error *err) {
    const ds_st_tensor *t;
    int rc = ds_st_need(st, name, ndim, shape, &t, err);
    return rc ? rc : ds_st_read_f32(st, t, dst, err);
}
