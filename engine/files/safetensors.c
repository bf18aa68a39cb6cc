/* engine/files/safetensors.c - reads a safetensors file; safetensors_write.c makes one. */
#include "engine/files/safetensors.h"
#include "base/fs.h"
#include "base/mem.h"
#include "base/zio.h"
#include "engine/files/safetensors_internal.h"

#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors numbers are little-endian and are copied as they are"
#endif

/* A tensor entry holds 2 members, up to 8 sizes and 2 offsets; 16 values for each of the allowed
 * tensors bound what the JSON parser may allocate (it needs ~50 bytes per value). */
#define STRUCTURE_MAX ((size_t)16 * DS_ST_TENSORS_MAX)
enum { TYPE_MAX = 32 }; /* bytes of the name of a dtype */

struct ds_st {
    char *name;
    void *bytes;     /* what ds_st_free releases, or NULL when borrowed */
    size_t map_size; /* > 0: bytes is a mapping */
    json_t *header;  /* owns names and metadata */
    ds_st_tensor *tensors;
    const ds_st_tensor **by_name;
    size_t count;
    const char **meta_keys;
    size_t meta_count;
};

static const struct {
    const char *name;
    size_t size;
} dtypes[] = {
#define X(name, bytes) {#name, bytes},
    DS_ST_DTYPE_MAP(X)
#undef X
};

const char *ds_st_dtype_name(enum ds_st_dtype dtype) {
    DS_ASSERT((int)dtype >= 0 && dtype < DS_ST_DTYPE_COUNT);
    return dtypes[dtype].name;
}

size_t ds_st_dtype_size(enum ds_st_dtype dtype) {
    DS_ASSERT((int)dtype >= 0 && dtype < DS_ST_DTYPE_COUNT);
    return dtypes[dtype].size;
}

/* ---------------------------------------------------------------- header text
 * A pass over the raw text before the JSON parser sees it: at most three levels deep (file, tensor,
 * shape) and a bounded number of values, so that no header makes the parser recurse or allocate
 * without limit. */
static const char *header_text_problem(const char *p, size_t n) {
    size_t values = 0;
    int depth = 0, in_string = 0;
    for (size_t i = 0; i < n; i++) {
        if (in_string) {
            if (p[i] == '\\')
                i++;
            else if (p[i] == '"')
                in_string = 0;
            continue;
        }
        if (p[i] == '"')
            in_string = 1;
        else if (p[i] == '{' || p[i] == '[')
            depth++, values++;
        else if (p[i] == '}' || p[i] == ']')
            depth--;
        else if (p[i] == ',')
            values++;
        if (depth > 3)
            return "its header is nested too deeply";
        if (values > STRUCTURE_MAX)
            return "its header has too many values";
    }
    return NULL;
}

int ds_st_has_control_byte(const char *s) {
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return 1;
    return 0;
}

/* ---------------------------------------------------------------- one tensor */

static int bad_tensor(const ds_st *st, const char *name, const char *what, ds_error *err) {
    return ds_fail(err, DS_EINTEGRITY,
                   "'%.200s' is not a valid safetensors file: tensor '%.120s' %s", st->name, name,
                   what);
}

/* A type that is not known here is one that this reader does not read; the file may be whole. */
static int find_dtype(const json_t *v, ds_st_tensor *t) {
    t->type = json_string_value(v);
    t->dtype = DS_ST_OTHER;
    if (!t->type || !*t->type || ds_st_has_control_byte(t->type) || strlen(t->type) > TYPE_MAX)
        return 0;
    for (int i = 0; i < DS_ST_OTHER; i++)
        if (!strcmp(t->type, dtypes[i].name))
            t->dtype = (enum ds_st_dtype)i;
    return 1;
}

/* shape -> ndim, shape, count, bytes; NULL or what is wrong. */
static const char *read_shape(const json_t *v, ds_st_tensor *t) {
    if (!json_is_array(v))
        return "has no shape";
    if (json_array_size(v) > DS_ST_DIMS_MAX) { /* whole, but nothing here can hold its shape */
        t->dtype = DS_ST_OTHER;
        t->type = "of too many dimensions";
        return NULL;
    }
    t->ndim = (int)json_array_size(v);
    size_t count = 1;
    for (int i = 0; i < t->ndim; i++) {
        const json_t *d = json_array_get(v, (size_t)i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return "has a size that is not a whole number";
        t->shape[i] = json_integer_value(d);
        if (__builtin_mul_overflow(count, (size_t)t->shape[i], &count))
            return "has an impossible shape";
    }
    t->count = count;
    if (__builtin_mul_overflow(count, ds_st_dtype_size(t->dtype), &t->bytes))
        return "has an impossible shape";
    return NULL;
}

static const char *read_offsets(const json_t *v, const char *data, size_t size, ds_st_tensor *t) {
    if (!json_is_array(v) || json_array_size(v) != 2)
        return "has no data_offsets";
    const json_t *b = json_array_get(v, 0), *e = json_array_get(v, 1);
    if (!json_is_integer(b) || !json_is_integer(e))
        return "has data_offsets that are not whole numbers";
    json_int_t begin = json_integer_value(b), end = json_integer_value(e);
    if (begin < 0 || end < begin || (uint64_t)end > size)
        return "lies outside the file";
    if (t->dtype == DS_ST_OTHER)
        t->bytes = (size_t)(end - begin);
    if ((size_t)(end - begin) != t->bytes)
        return "has data_offsets that do not match its shape";
    t->data = data + begin;
    return NULL;
}

static int read_tensor(const ds_st *st, const char *name, const json_t *v, const char *data,
                       size_t size, ds_st_tensor *t, ds_error *err) {
    t->name = name;
    if (ds_st_has_control_byte(name))
        return ds_fail(err, DS_EINTEGRITY,
                       "'%.200s' is not a valid safetensors file: a tensor name has control "
                       "characters",
                       st->name);
    if (!json_is_object(v) || json_object_size(v) != 3)
        return bad_tensor(st, name, "must have dtype, shape and data_offsets only", err);
    if (!find_dtype(json_object_get(v, "dtype"), t))
        return bad_tensor(st, name, "has no dtype", err);
    const char *wrong = read_shape(json_object_get(v, "shape"), t);
    if (!wrong)
        wrong = read_offsets(json_object_get(v, "data_offsets"), data, size, t);
    return wrong ? bad_tensor(st, name, wrong, err) : 0;
}

/* ---------------------------------------------------------------- the whole header */

static int by_place(const void *a, const void *b) {
    const ds_st_tensor *x = a, *y = b;
    uintptr_t p = (uintptr_t)x->data, q = (uintptr_t)y->data;
    if (p != q)
        return p < q ? -1 : 1;
    if (x->bytes != y->bytes) /* empty tensors first, so that ranges stay contiguous */
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const ds_st_tensor *const *)a)->name, (*(const ds_st_tensor *const *)b)->name);
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int read_meta(ds_st *st, const json_t *meta, ds_error *err) {
    if (!meta || json_is_null(meta)) /* null: of writers that have none */
        return 0;
    if (!json_is_object(meta))
        return ds_fail(err, DS_EINTEGRITY,
                       "'%.200s' is not a valid safetensors file: its metadata is not an object",
                       st->name);
    st->meta_keys = ds_xcalloc(json_object_size(meta) + 1, sizeof *st->meta_keys);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)meta, key, value) {
        if (!json_is_string(value))
            return ds_fail(err, DS_EINTEGRITY,
                           "'%.200s' is not a valid safetensors file: its metadata '%.120s' is not "
                           "text",
                           st->name, key);
        st->meta_keys[st->meta_count++] = key;
    }
    qsort(st->meta_keys, st->meta_count, sizeof *st->meta_keys, by_text);
    return 0;
}

/* Tensors in the order of their data must follow each other and fill the section exactly. */
static int check_places(const ds_st *st, const char *data, size_t size, ds_error *err) {
    const char *at = data;
    for (size_t i = 0; i < st->count; i++) {
        const ds_st_tensor *t = &st->tensors[i];
        if ((const char *)t->data < at)
            return bad_tensor(st, t->name, "overlaps another one", err);
        if ((const char *)t->data > at)
            return bad_tensor(st, t->name, "leaves a hole before its data", err);
        at = (const char *)t->data + t->bytes;
    }
    if (at != data + size)
        return ds_fail(err, DS_EINTEGRITY,
                       "'%.200s' is not a valid safetensors file: %zu bytes after the last tensor",
                       st->name, (size_t)(data + size - at));
    return 0;
}

static int read_tensors(ds_st *st, const char *data, size_t size, ds_error *err) {
    size_t entries = json_object_size(st->header);
    if (json_object_get(st->header, DS_ST_META_KEY))
        entries--;
    if (entries > DS_ST_TENSORS_MAX)
        return ds_fail(err, DS_ELIMIT, "'%.200s' has %zu tensors, limit %d", st->name, entries,
                       DS_ST_TENSORS_MAX);
    st->tensors = ds_xcalloc(entries + 1, sizeof *st->tensors);
    st->by_name = ds_xcalloc(entries + 1, sizeof *st->by_name);
    const char *name;
    json_t *value;
    json_object_foreach(st->header, name, value) {
        if (!strcmp(name, DS_ST_META_KEY))
            continue;
        int rc = read_tensor(st, name, value, data, size, &st->tensors[st->count], err);
        if (rc)
            return rc;
        st->count++;
    }
    qsort(st->tensors, st->count, sizeof *st->tensors, by_place);
    for (size_t i = 0; i < st->count; i++)
        st->by_name[i] = &st->tensors[i];
    qsort(st->by_name, st->count, sizeof *st->by_name, by_name);
    return check_places(st, data, size, err);
}

static int read_header(ds_st *st, const char *p, size_t n, ds_error *err) {
    uint64_t size = 0;
    if (n >= 8)
        memcpy(&size, p, 8);
    if (n < 8 || size < 2 || size > n - 8)
        return ds_fail(
            err, DS_EINTEGRITY,
            "'%.200s' is not a valid safetensors file: it is truncated or of another type",
            st->name);
    if (size > DS_ST_HEADER_MAX)
        return ds_fail(err, DS_ELIMIT, "'%.200s' has a header of %llu bytes, limit %zu", st->name,
                       (unsigned long long)size, DS_ST_HEADER_MAX);
    const char *wrong = p[8] != '{' ? "its header does not begin with '{'"
                                    : header_text_problem(p + 8, (size_t)size);
    json_error_t je = {0};
    if (!wrong && !(st->header = json_loadb(p + 8, (size_t)size, JSON_REJECT_DUPLICATES, &je)))
        wrong = je.text;
    if (wrong)
        return ds_fail(err, DS_EINTEGRITY, "'%.200s' is not a valid safetensors file: %s", st->name,
                       wrong);
    int rc = read_meta(st, json_object_get(st->header, DS_ST_META_KEY), err);
    return rc ? rc : read_tensors(st, p + 8 + size, n - 8 - (size_t)size, err);
}

/* ---------------------------------------------------------------- opening */

void ds_st_free(ds_st *st) {
    if (!st)
        return;
    json_decref(st->header);
    free(st->tensors);
    free(st->by_name);
    free(st->meta_keys);
    if (st->map_size)
        munmap(st->bytes, st->map_size);
    else
        free(st->bytes);
    free(st->name);
    free(st);
}

void ds_st_drop(const ds_st *st, const ds_st_tensor *t) {
    if (!st->map_size || !t)
        return;
    /* whole pages, also those that neighbours share */
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)t->data;
    uintptr_t from = at / page * page;
    madvise((void *)from, at + t->bytes - from, MADV_DONTNEED);
}

static int open_bytes(const char *name, const void *data, size_t n, void *own, size_t map_size,
                      ds_st **out, ds_error *err) {
    ds_st *st = ds_xcalloc(1, sizeof *st);
    st->name = ds_xstrdup(name);
    st->bytes = own;
    st->map_size = map_size;
    int rc = read_header(st, data, n, err);
    if (rc) {
        ds_st_free(st);
        return rc;
    }
    *out = st;
    return 0;
}

int ds_st_open_memory(const char *name, const void *data, size_t n, ds_st **out, ds_error *err) {
    return open_bytes(name, data, n, NULL, 0, out, err);
}

int ds_st_open_owned(const char *name, void *data, size_t n, ds_st **out, ds_error *err) {
    return open_bytes(name, data, n, data, 0, out, err);
}

static int open_mapped(const char *path, size_t max, ds_st **out, ds_error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO is refused, not waited for */
    if (fd < 0)
        return ds_fail_errno(err, "cannot open '%s'", path);
    struct stat sb;
    void *p = MAP_FAILED;
    int rc = 0;
    if (fstat(fd, &sb))
        rc = ds_fail_errno(err, "cannot read '%s'", path);
    else if (!S_ISREG(sb.st_mode))
        rc = ds_fail(err, DS_EINVAL, "cannot read '%s': not a plain file", path);
    else if (sb.st_size < 8)
        rc = ds_fail(err, DS_EINTEGRITY, "'%s' is not a valid safetensors file: it is truncated",
                     path);
    else if ((uint64_t)sb.st_size > max)
        rc = ds_fail(err, DS_ELIMIT, "'%s' has %lld bytes, limit %zu", path, (long long)sb.st_size,
                     max);
    else if ((p = mmap(NULL, (size_t)sb.st_size, PROT_READ, MAP_PRIVATE, fd, 0)) == MAP_FAILED)
        rc = ds_fail_errno(err, "cannot map '%s'", path);
    close(fd);
    return rc ? rc : open_bytes(path, p, (size_t)sb.st_size, p, (size_t)sb.st_size, out, err);
}

int ds_st_open_file(const char *path, size_t max, int use_mmap, ds_st **out, ds_error *err) {
    if (use_mmap)
        return open_mapped(path, max, out, err);
    char *data;
    size_t n;
    int rc = ds_fs_read(path, max, &data, &n, err);
    return rc ? rc : ds_st_open_owned(path, data, n, out, err);
}

int ds_st_open_zst(const char *path, size_t max, const char *want, char got[DS_HEX_SIZE],
                   ds_st **out, ds_error *err) {
    char *data, digest[DS_HEX_SIZE];
    size_t n;
    int rc = ds_zio_read_file(path, max, &data, &n, err);
    if (rc)
        return rc;
    if (want || got)
        ds_digest(data, n, digest);
    if (want && strcmp(digest, want)) {
        free(data);
        return ds_fail(err, DS_EINTEGRITY, "'%.200s' has digest %.12s..., expected %.12s...", path,
                       digest, want);
    }
    if (got)
        memcpy(got, digest, DS_HEX_SIZE);
    return ds_st_open_owned(path, data, n, out, err);
}

/* ---------------------------------------------------------------- looking */

const char *ds_st_file_name(const ds_st *st) { return st->name; }
size_t ds_st_count(const ds_st *st) { return st->count; }

const ds_st_tensor *ds_st_at(const ds_st *st, size_t i) {
    DS_ASSERT(i < st->count);
    return &st->tensors[i];
}

const ds_st_tensor *ds_st_find(const ds_st *st, const char *name) {
    ds_st_tensor key = {.name = name};
    const ds_st_tensor *k = &key;
    const ds_st_tensor **hit = bsearch(&k, st->by_name, st->count, sizeof *st->by_name, by_name);
    return hit ? *hit : NULL;
}

const char *ds_st_meta(const ds_st *st, const char *key) {
    return json_string_value(json_object_get(json_object_get(st->header, DS_ST_META_KEY), key));
}

size_t ds_st_meta_count(const ds_st *st) { return st->meta_count; }

const char *ds_st_meta_key(const ds_st *st, size_t i) {
    DS_ASSERT(i < st->meta_count);
    return st->meta_keys[i];
}

/* ---------------------------------------------------------------- numbers */

int ds_st_read_f32(const ds_st *st, const ds_st_tensor *t, float *dst, ds_error *err) {
    const char *p = t->data;
    switch (t->dtype) {
    case DS_ST_F32:
        if (t->bytes) /* an empty tensor may have data at the very end */
            memcpy(dst, p, t->bytes);
        return 0;
    case DS_ST_F64:
        for (size_t i = 0; i < t->count; i++) {
            double x;
            memcpy(&x, p + 8 * i, 8);
            dst[i] = (float)x;
        }
        return 0;
    case DS_ST_F16:
    case DS_ST_BF16:
        for (size_t i = 0; i < t->count; i++) {
            uint16_t h;
            memcpy(&h, p + 2 * i, 2);
            dst[i] = t->dtype == DS_ST_F16 ? ds_f16_to_f32(h) : ds_bf16_to_f32(h);
        }
        return 0;
    default: break;
    }
    return ds_fail(err, DS_EINTEGRITY,
                   "'%.200s': tensor '%.120s' has type %s, expected F32, F16, "
                   "BF16 or F64",
                   st->name, t->name, t->type);
}

void ds_st_shape_text(char *out, size_t bytes, ds_st_shape shape) {
    size_t n = (size_t)snprintf(out, bytes, "[");
    for (int i = 0; i < shape.ndim && n < bytes; i++)
        n += (size_t)snprintf(out + n, bytes - n, i ? ",%lld" : "%lld", (long long)shape.size[i]);
    if (n < bytes)
        snprintf(out + n, bytes - n, "]");
}

int ds_st_shape_check(const char *file, const char *tensor, ds_st_shape is, ds_st_shape expected,
                      int code, ds_error *err) {
    int same = expected.ndim < 0 || expected.ndim == is.ndim;
    for (int i = 0; same && i < expected.ndim; i++)
        same = expected.size[i] == is.size[i];
    if (same)
        return 0;
    char has[96], must[96];
    ds_st_shape_text(has, sizeof has, is);
    ds_st_shape_text(must, sizeof must, expected);
    return ds_fail(err, code, "'%.200s': tensor '%.80s' has shape %s, expected %s", file, tensor,
                   has, must);
}

int ds_st_need(const ds_st *st, const char *name, int ndim, const int64_t *shape,
               const ds_st_tensor **out, ds_error *err) {
    const ds_st_tensor *t = ds_st_find(st, name);
    if (!t)
        return ds_fail(err, DS_EINTEGRITY, "'%.200s' has no tensor '%.120s'", st->name, name);
    int rc = ds_st_shape_check(st->name, name, (ds_st_shape){t->ndim, t->shape},
                               (ds_st_shape){ndim, shape}, DS_EINTEGRITY, err);
    if (!rc)
        *out = t;
    return rc;
}

int ds_st_need_f32(const ds_st *st, const char *name, int ndim, const int64_t *shape, float *dst,
                   ds_error *err) {
    DS_ASSERT(ndim >= 0);
    const ds_st_tensor *t;
    int rc = ds_st_need(st, name, ndim, shape, &t, err);
    return rc ? rc : ds_st_read_f32(st, t, dst, err);
}
