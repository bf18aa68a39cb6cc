/* worker/convert/export_pt.c - a PyTorch checkpoint: a zip archive of a pickle and one entry per
 * tensor.
 *
 * The pickle is written by hand: an OrderedDict of name -> torch._utils._rebuild_tensor_v2(storage,
 * 0, shape, strides, False, OrderedDict()), which torch.load(weights_only=True) admits.  The data
 * are ranges of the safetensors file written before, so nothing is held in memory.
 * Source: torch/_utils.py, torch/serialization.py (format since 1.6), PEP 307. */
#include "base/fs.h"
#include "worker/convert/export_internal.h"
#include "worker/job/stop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zip.h>

static void op(ds_buf *b, const char *bytes, size_t n) { ds_buf_add(b, bytes, n); }
#define OP(b, text) op(b, text, sizeof(text) - 1)

static void put_text(ds_buf *b, const char *s) { /* BINUNICODE */
    uint32_t n = (uint32_t)strlen(s);
    OP(b, "X");
    ds_buf_add(b, &n, 4);
    ds_buf_add(b, s, n);
}

static void put_int(ds_buf *b, int64_t v) {
    if (v >= 0 && v < 1 << 16) {
        uint16_t u = (uint16_t)v;
        OP(b, "M"); /* BININT2 */
        ds_buf_add(b, &u, 2);
    } else {
        OP(b, "\x8a\x08"); /* LONG1 of eight bytes */
        ds_buf_add(b, &v, 8);
    }
}

static void put_tensor(ds_buf *b, const ds_st_tensor *t, size_t key) {
    char text[24];
    snprintf(text, sizeof text, "%zu", key);
    put_text(b, t->name);
    OP(b, "ctorch._utils\n_rebuild_tensor_v2\n((");
    put_text(b, "storage");
    if (t->dtype == DS_ST_BF16)
        OP(b, "ctorch\nBFloat16Storage\n");
    else
        OP(b, "ctorch\nFloatStorage\n");
    put_text(b, text);
    put_text(b, "cpu");
    put_int(b, (int64_t)t->count);
    OP(b, "tQK\0("); /* TUPLE, BINPERSID, offset 0 */
    for (int d = 0; d < t->ndim; d++)
        put_int(b, t->shape[d]);
    OP(b, "t(");
    for (int d = 0; d < t->ndim; d++) {
        int64_t stride = 1;
        for (int e = d + 1; e < t->ndim; e++)
            stride *= t->shape[e];
        put_int(b, stride);
    }
    OP(b, "t\x89"
          "ccollections\nOrderedDict\n)RtR");
}

static int add_entry(zip_t *z, const char *name, zip_source_t *source, ds_error *err) {
    zip_int64_t i = source ? zip_file_add(z, name, source, ZIP_FL_ENC_UTF_8) : -1;
    if (i < 0 || zip_set_file_compression(z, (zip_uint64_t)i, ZIP_CM_STORE, 0) ||
        zip_file_set_mtime(z, (zip_uint64_t)i, 315619200, 0)) { /* 1980: the same bytes each time */
        ds_fail(err, DS_EIO, "cannot add '%s' to the checkpoint: %s", name, zip_strerror(z));
        if (source && i < 0)
            zip_source_free(source);
        return DS_EIO;
    }
    return 0;
}

static int add_bytes(zip_t *z, const char *name, const void *p, size_t n, ds_error *err) {
    return add_entry(z, name, zip_source_buffer(z, p, n, 0), err);
}

/* Where the data of a safetensors file begin. */
static int data_begin(const char *path, uint64_t *begin, ds_error *err) {
    uint64_t header = 0;
    FILE *f = fopen(path, "rbe");
    int ok = f && fread(&header, 1, sizeof header, f) == sizeof header;
    if (f)
        fclose(f);
    *begin = sizeof header + header;
    return ok ? 0 : ds_fail_errno(err, "cannot read '%s'", path);
}

static int add_all(zip_t *z, const ds_st *st, const char *from, const ds_buf *pickle,
                   ds_error *err) {
    char name[64];
    const char *first = ds_st_at(st, 0)->data;
    uint64_t begin;
    int rc = data_begin(from, &begin, err);
    if (!rc)
        rc = add_bytes(z, "model/data.pkl", pickle->data, pickle->len, err);
    if (!rc)
        rc = add_bytes(z, "model/byteorder", "little", 6, err);
    const char *config = ds_st_meta(st, "diffscaler.config");
    if (!rc && config) /* an extra file, as torch.jit.save has them */
        rc = add_bytes(z, "model/extra/diffscaler.config", config, strlen(config), err);
    for (size_t i = 0; !rc && i < ds_st_count(st); i++) {
        const ds_st_tensor *t = ds_st_at(st, i);
        snprintf(name, sizeof name, "model/data/%zu", i);
        rc = add_entry(z, name,
                       zip_source_file(z, from, begin + (uint64_t)((const char *)t->data - first),
                                       (zip_int64_t)t->bytes),
                       err);
    }
    return rc ? rc : add_bytes(z, "model/version", "3\n", 2, err);
}

static int asked_to_stop(zip_t *z, void *user) {
    (void)z, (void)user;
    return ds_stop_asked();
}

static int write_zip(const ds_st *st, const char *from, const char *path, const ds_buf *pickle,
                     ds_error *err) {
    int code;
    zip_t *z = zip_open(path, ZIP_CREATE | ZIP_EXCL, &code);
    if (!z) {
        zip_error_t e;
        zip_error_init_with_code(&e, code);
        int rc = ds_fail(err, DS_EIO, "cannot write '%s': %s", path, zip_error_strerror(&e));
        zip_error_fini(&e);
        return rc;
    }
    int rc = add_all(z, st, from, pickle, err);
    zip_register_cancel_callback_with_state(z, asked_to_stop, NULL, NULL);
    if (!rc && zip_close(z)) {
        rc = ds_stop_asked() ? ds_export_stopped(err)
                             : ds_fail(err, DS_EIO, "cannot write '%s': %s", path, zip_strerror(z));
        zip_discard(z);
    } else if (rc)
        zip_discard(z);
    return rc;
}

int ds_export_pt(const ds_exporter *x, const char *from, const char *name, ds_error *err) {
    char source[4352], path[4352];
    ds_st *st;
    ds_buf b = {0};
    ds_export_path(x, from, source);
    ds_export_path(x, name, path);
    int rc = ds_st_open_file(source, (size_t)1 << 40, 1, &st, err);
    if (rc)
        return rc;
    OP(&b, "\x80\x02"
           "ccollections\nOrderedDict\n)R(");
    for (size_t i = 0; i < ds_st_count(st); i++)
        put_tensor(&b, ds_st_at(st, i), i);
    OP(&b, "u.");
    rc = write_zip(st, source, path, &b, err);
    ds_buf_release(&b);
    ds_st_free(st);
    return rc;
}
