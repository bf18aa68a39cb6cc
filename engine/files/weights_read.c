/* engine/files/weights_read.c - tensors of an open source: shapes, numbers, digest. */
#include "base/mem.h"
#include "engine/files/weights_internal.h"

#include <stdio.h>
#include <stdlib.h>

enum { CHUNK = 1 << 20 };

/* ---------------------------------------------------------------- looking */

/* The file may be whole; this reader does not read that. */
static int unreadable(const ds_weights *w, const ds_weights_item *it, ds_error *err) {
    return ds_fail(
        err, DS_EINVAL,
        "'%.160s': tensor '%.100s' is %s%.150s, which is not supported: expected a plain "
        "tensor of type F32, F16, BF16 or F64",
        w->path, it->t.name, it->what ? "" : "of type ",
        it->what ? it->what : ds_st_dtype_name(it->t.dtype));
}

int ds_weights_readable(const ds_weights *w, const char *name, ds_error *err) {
    for (size_t i = 0; !ds_weights_find(w, name) && i < w->value_count; i++)
        if (!strcmp(w->values[i].t.name, name))
            return unreadable(w, &w->values[i], err);
    return 0;
}

int ds_weights_need(const ds_weights *w, const char *name, int ndim, const int64_t *shape,
                    const ds_weights_tensor **out, ds_error *err) {
    const ds_weights_tensor *t = ds_weights_find(w, name);
    int rc = ds_weights_readable(w, name, err);
    if (rc)
        return rc;
    if (!t)
        return ds_fail(err, DS_EINVAL, "'%.200s' has no tensor '%.120s'", w->path, name);
    if (((const ds_weights_item *)t)->what)
        return unreadable(w, (const ds_weights_item *)t, err);
    rc = ds_st_shape_check(w->path, name, (ds_st_shape){t->ndim, t->shape},
                           (ds_st_shape){ndim, shape}, DS_EINVAL, err);
    if (!rc)
        *out = t;
    return rc;
}

/* ---------------------------------------------------------------- digest */

static int digest_part(const ds_weights_part *p, char out[DS_HEX_SIZE], ds_progress *step,
                       void *user, uint64_t *done, uint64_t total, ds_error *err) {
    char *buffer = ds_xmalloc(CHUNK);
    ds_sha256 *h = ds_sha256_new();
    uint64_t size = (uint64_t)p->sb.st_size;
    int rc = 0;
    for (uint64_t at = 0; !rc && at < size;) {
        size_t n = size - at < CHUNK ? (size_t)(size - at) : CHUNK;
        if ((rc = ds_weights_pread(p, at, buffer, n, err)))
            break;
        ds_sha256_add(h, buffer, n);
        at += n;
        *done += n;
        if (ds_progress_say(step, user, (int64_t)*done, (int64_t)total))
            rc = ds_fail(err, DS_ECANCELED, "reading '%.200s' was cancelled", p->path);
    }
    if (!rc)
        ds_sha256_hex(h, out);
    ds_sha256_free(h);
    free(buffer);
    return rc;
}

static int by_path(const void *a, const void *b) {
    const ds_weights_part *const *x = a, *const *y = b;
    return strcmp((*x)->path, (*y)->path);
}

int ds_weights_digest(const ds_weights *w, char out[DS_HEX_SIZE], ds_progress *step, void *user,
                      ds_error *err) {
    uint64_t done = 0, total = ds_weights_file_bytes(w);
    if (w->part_count == 1)
        return digest_part(&w->parts[0], out, step, user, &done, total, err);
    const ds_weights_part **sorted = ds_xcalloc((size_t)w->part_count, sizeof *sorted);
    for (int i = 0; i < w->part_count; i++)
        sorted[i] = &w->parts[i];
    qsort(sorted, (size_t)w->part_count, sizeof *sorted, by_path);
    ds_buf lines = {0};
    int rc = 0;
    for (int i = 0; !rc && i < w->part_count; i++) {
        char hex[DS_HEX_SIZE];
        if ((rc = digest_part(sorted[i], hex, step, user, &done, total, err)))
            break;
        const char *slash = strrchr(sorted[i]->path, '/');
        ds_buf_addf(&lines, "%s  %s\n", hex, slash ? slash + 1 : sorted[i]->path);
    }
    if (!rc)
        ds_digest(lines.data, lines.len, out);
    ds_buf_release(&lines);
    free(sorted);
    return rc;
}

int ds_weights_unchanged(const ds_weights *w, ds_error *err) {
    for (int i = 0; i < w->part_count; i++) {
        const struct stat *was = &w->parts[i].sb;
        struct stat is;
        if (fstat(w->parts[i].fd, &is))
            return ds_fail_errno(err, "cannot look at '%s'", w->parts[i].path);
        if (is.st_size != was->st_size || is.st_mtim.tv_sec != was->st_mtim.tv_sec ||
            is.st_mtim.tv_nsec != was->st_mtim.tv_nsec)
            return ds_fail(err, DS_ECONFLICT,
                           "'%.200s' changed while it was read: try again when it is complete",
                           w->parts[i].path);
    }
    return 0;
}

/* ---------------------------------------------------------------- numbers */

static int read_span(const ds_weights *w, const ds_weights_item *it, void *dst, size_t n,
                     ds_error *err) {
    const ds_weights_part *p = &w->parts[it->part];
    if (!n)
        return 0;
    return it->entry < 0 ? ds_weights_pread(p, it->at, dst, n, err)
                         : ds_weights_read_entry(p, it->entry, it->at, dst, n, err);
}

/* Elements that do not follow each other (a transposed matrix, say), out of their span. */
static int read_strided(const ds_weights *w, const ds_weights_item *it, char *dst, ds_error *err) {
    size_t size = ds_st_dtype_size(it->t.dtype), last = 0;
    for (int d = 0; d < it->t.ndim; d++)
        last += (size_t)(it->t.shape[d] - 1) * (size_t)it->stride[d];
    size_t span = (last + 1) * size;
    if (span > 4 * it->t.bytes + ((size_t)64 << 20))
        return ds_fail(
            err, DS_EINVAL,
            "'%.200s': tensor '%s' is a thin slice of a large one: save a contiguous copy of it",
            w->path, it->t.name);
    char *from = ds_xmalloc(span);
    int rc = read_span(w, it, from, span, err);
    int64_t index[DS_ST_DIMS_MAX] = {0};
    size_t at = 0;
    for (size_t i = 0; !rc && i < it->t.count; i++) {
        memcpy(dst + i * size, from + at * size, size);
        for (int d = it->t.ndim - 1; d >= 0; d--) { /* count up, last dimension first */
            at += (size_t)it->stride[d];
            if (++index[d] < it->t.shape[d])
                break;
            at -= (size_t)it->stride[d] * (size_t)it->t.shape[d];
            index[d] = 0;
        }
    }
    free(from);
    return rc;
}

/* The sign is the highest bit of the last byte of each number, whatever its width. */
static void turn_signs(char *data, const ds_weights_tensor *t) {
    size_t size = ds_st_dtype_size(t->dtype);
    for (size_t i = 0; i < t->count; i++)
        data[i * size + size - 1] ^= (char)0x80;
}

int ds_weights_read(ds_weights *w, const ds_weights_tensor *t, void *dst, ds_error *err) {
    const ds_weights_item *it = (const ds_weights_item *)t; /* its first member */
    if (it->what)
        return unreadable(w, it, err);
    int rc = it->strided ? read_strided(w, it, dst, err) : read_span(w, it, dst, t->bytes, err);
    if (!rc && it->negative)
        turn_signs(dst, t);
    return rc;
}

/* The tensor's bytes and how to widen them; chunks are not worth it, tensors are what memory is
 * planned for. */
int ds_weights_read_f32(ds_weights *w, const ds_weights_tensor *t, float *dst, ds_error *err) {
    if (t->dtype == DS_ST_F32)
        return ds_weights_read(w, t, dst, err);
    if (t->dtype != DS_ST_F16 && t->dtype != DS_ST_BF16 && t->dtype != DS_ST_F64)
        return unreadable(w, (const ds_weights_item *)t, err);
    void *raw = ds_xmalloc(t->bytes);
    const uint16_t *half = raw;
    const double *wide = raw;
    int rc = ds_weights_read(w, t, raw, err);
    for (size_t i = 0; !rc && i < t->count; i++)
        dst[i] = t->dtype == DS_ST_F64   ? (float)wide[i]
                 : t->dtype == DS_ST_F16 ? ds_f16_to_f32(half[i])
                                         : ds_bf16_to_f32(half[i]);
    free(raw);
    return rc;
}

int ds_weights_read_bf16(ds_weights *w, const ds_weights_tensor *t, uint16_t *dst, ds_error *err) {
    if (t->dtype == DS_ST_BF16)
        return ds_weights_read(w, t, dst, err);
    float *x = ds_xmalloc(t->count * sizeof *x);
    int rc = ds_weights_read_f32(w, t, x, err);
    for (size_t i = 0; !rc && i < t->count; i++)
        dst[i] = ds_bf16_from_f32(x[i]);
    free(x);
    return rc;
}
