/* engine/metrics/npz.c - statistics in .npz files: reader and writer (npz.h). */
#include "engine/metrics/npz.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"
#include "engine/metrics/features.h"
#include "engine/metrics/npz_internal.h"
#include "engine/files/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TEXT_MAX = 65536 };

void ds_npz_stats_release(ds_npz_stats *s) {
    free(s->mu);
    free(s->sigma);
    free(s->mu_s);
    free(s->sigma_s);
    *s = (ds_npz_stats){0};
}

/* ---------------------------------------------------------------- reading */

/* Item i of an array of any of the types that are taken. */
static double number_at(const npy_header *h, const char *raw, size_t i) {
    unsigned char b[8];
    uint16_t half;
    float single;
    double x;
    size_t width = (size_t)h->width;
    for (size_t k = 0; k < width; k++)
        b[h->big ? width - 1 - k : k] = (unsigned char)raw[i * width + k];
    switch (width) {
    case 2: memcpy(&half, b, 2); return (double)ds_f16_to_f32(half);
    case 4: memcpy(&single, b, 4); return (double)single;
    default: memcpy(&x, b, 8); return x;
    }
}

/* The numbers behind a header, as double, C order. */
static int read_numbers(const npz_reader *r, const npy_header *h, double **out) {
    size_t rows = (size_t)h->shape[0], cols = h->ndim == 2 ? (size_t)h->shape[1] : 1;
    size_t n = rows * cols, width = (size_t)h->width;
    char *raw = ds_xmalloc(n * width);
    double *x = ds_xmalloc(n * sizeof *x);
    int rc = ds_npz_take(r, raw, n * width), finite = 1, small = 1;
    rc = rc ? rc : ds_npz_at_end(r);
    for (size_t i = 0; !rc && i < n; i++) {
        size_t to = h->fortran && h->ndim == 2 ? i % rows * cols + i / rows : i;
        x[to] = number_at(h, raw, i);
        finite &= isfinite(x[to]) != 0;
        small &= fabs(x[to]) <= DS_NPZ_LARGEST;
    }
    if (!rc && !finite)
        rc = ds_npz_bad(r, "has numbers that are not finite");
    if (!rc && !small)
        rc = ds_npz_bad(r, "has numbers above 1e100, no distance can be computed from them");
    free(raw);
    if (rc)
        free(x);
    else
        *out = x;
    return rc;
}

/* 1 = absent.  dim: 0 = take it from here, else it must agree. */
static int read_array(npz_reader *r, const char *name, int ndim, int *dim, double **out) {
    npy_header h;
    int rc = ds_npz_open_member(r, name);
    if (rc)
        return rc;
    rc = ds_npz_read_header(r, &h);
    if (!rc && (h.kind != 'f' || (h.width != 2 && h.width != 4 && h.width != 8)))
        rc = ds_fail(r->err, DS_EINVAL,
                     "'%.200s': member '%s' has numbers of type '%s', which is not supported: want "
                     "f8, f4 or f2",
                     r->path, name, h.type);
    if (!rc && (h.ndim != ndim || h.shape[0] < 1 || (ndim == 2 && h.shape[1] != h.shape[0]) ||
                h.shape[0] > DS_FEATURE_DIM_MAX || (*dim && h.shape[0] != *dim)))
        rc =
            ds_fail(r->err, DS_EINVAL,
                    "'%.200s': member '%s' has a wrong shape, want %s of at most %d numbers a side",
                    r->path, name, ndim == 2 ? "a square matrix" : "a vector", DS_FEATURE_DIM_MAX);
    if (!rc) {
        *dim = (int)h.shape[0];
        rc = read_numbers(r, &h, out);
    }
    ds_npz_close_member(r);
    return rc;
}

static int check_covariance(const npz_reader *r, const char *member, const double *a, int n) {
    double top = 0;
    npz_reader named = *r;
    named.member = member;
    for (int i = 0; i < n; i++) {
        double v = a[(size_t)i * (size_t)n + (size_t)i];
        if (v < 0)
            return ds_npz_bad(&named, "is no covariance: a variance is negative");
        top = v > top ? v : top;
    }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++) /* 1e-5: room for float32 products */
            if (fabs(a[(size_t)i * (size_t)n + (size_t)j] - a[(size_t)j * (size_t)n + (size_t)i]) >
                1e-5 * top)
                return ds_npz_bad(&named, "is no covariance: not symmetric");
    return 0;
}

/* A vector and its matrix; 1 = neither is there. */
static int read_pair(npz_reader *r, const char *mean, const char *cov, int *dim, double **mu,
                     double **sigma) {
    *dim = 0;
    int rc = read_array(r, mean, 1, dim, mu);
    if (rc)
        return rc;
    rc = read_array(r, cov, 2, dim, sigma);
    if (rc == 1) {
        r->member = cov;
        return ds_npz_bad(r, "is missing");
    }
    return rc ? rc : check_covariance(r, cov, *sigma, *dim);
}

/* ---------------------------------------------------------------- provenance */

static int read_text(npz_reader *r, char **text, size_t *n) {
    npy_header h;
    int rc = ds_npz_open_member(r, "diffscaler.npy");
    if (rc)
        return rc;
    rc = ds_npz_read_header(r, &h);
    long size = 0;
    if (!rc) {
        char *end = NULL;
        if (!strncmp(h.type, "|S", 2))
            size = strtol(h.type + 2, &end, 10);
        if (!end || *end || size < 1 || size > TEXT_MAX || h.ndim)
            rc = ds_npz_bad(r, "is not a byte string");
    }
    if (!rc) {
        *text = ds_xcalloc(1, (size_t)size + 1);
        rc = ds_npz_take(r, *text, (size_t)size);
        rc = rc ? rc : ds_npz_at_end(r);
        *n = strlen(*text);
    }
    ds_npz_close_member(r);
    return rc;
}

static int read_provenance(npz_reader *r, ds_npz_stats *s) {
    char *text = NULL;
    size_t n = 0;
    json_t *doc = NULL;
    s->n = -1;
    int rc = read_text(r, &text, &n);
    if (!rc)
        rc = ds_json_parse(r->path, text, n, &doc, r->err);
    if (!rc) {
        snprintf(s->net, sizeof s->net, "%s", ds_json_string(doc, "feature_net", ""));
        snprintf(s->preprocess, sizeof s->preprocess, "%s", ds_json_string(doc, "preprocess", ""));
        snprintf(s->decode, sizeof s->decode, "%s", ds_json_string(doc, "decode", ""));
        s->n = ds_json_int(doc, "n", -1);
        s->seed = (uint64_t)ds_json_int(doc, "seed", 0);
        s->known = 1;
        if (!ds_digest_valid(s->net) || !*s->preprocess || s->n < 2)
            rc = ds_npz_bad(r, "does not say which network and preprocessing made it");
    }
    json_decref(doc);
    free(text);
    return rc == 1 ? 0 : rc;
}

static int read_all(npz_reader *r, ds_npz_stats *s) {
    int rc = read_pair(r, "mu.npy", "sigma.npy", &s->dim, &s->mu, &s->sigma);
    if (rc == 1)
        return ds_fail(r->err, DS_EINVAL,
                       "'%.200s' has no member 'mu.npy': not a file of feature statistics",
                       r->path);
    rc = rc ? rc : read_pair(r, "mu_s.npy", "sigma_s.npy", &s->dim_s, &s->mu_s, &s->sigma_s);
    if (rc == 1)
        rc = 0;
    return rc ? rc : read_provenance(r, s);
}

int ds_npz_read_stats(const char *path, ds_npz_stats *out, ds_error *err) {
    npz_reader r;
    *out = (ds_npz_stats){0};
    int rc = ds_npz_open(&r, path, err);
    rc = rc ? rc : read_all(&r, out);
    ds_npz_close(&r);
    if (rc)
        ds_npz_stats_release(out);
    return rc;
}

/* ---------------------------------------------------------------- writing */

/* An .npy of version 1: header padded so that the numbers begin at a multiple of 64. */
static void npy_bytes(ds_buf *b, const char *type, const char *shape, const void *data, size_t n) {
    ds_buf h = {0};
    ds_buf_addf(&h, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }", type, shape);
    while ((10 + h.len + 1) % 64)
        ds_buf_add(&h, " ", 1);
    ds_buf_add(&h, "\n", 1);
    unsigned char head[10] = {0x93,
                              'N',
                              'U',
                              'M',
                              'P',
                              'Y',
                              1,
                              0,
                              (unsigned char)(h.len & 255),
                              (unsigned char)(h.len >> 8)};
    ds_buf_add(b, head, sizeof head);
    ds_buf_add(b, h.data, h.len);
    ds_buf_add(b, data, n);
    ds_buf_release(&h);
}

/* The zip takes the bytes over; no times, so that equal statistics are equal files. */
static int add_member(zip_t *zip, const char *name, ds_buf *b) {
    zip_source_t *src = zip_source_buffer(zip, b->data, b->len, 1);
    if (!src) {
        ds_buf_release(b);
        return -1;
    }
    zip_int64_t at = zip_file_add(zip, name, src, ZIP_FL_ENC_UTF_8);
    if (at < 0) {
        zip_source_free(src);
        return -1;
    }
    zip_file_set_dostime(zip, (zip_uint64_t)at, 0, 0x21, 0); /* 1980-01-01 */
    return zip_set_file_compression(zip, (zip_uint64_t)at, ZIP_CM_STORE, 0);
}

static int add_array(zip_t *zip, const char *name, const double *x, int rows, int square) {
    char shape[64];
    if (square)
        snprintf(shape, sizeof shape, "(%d, %d)", rows, rows);
    else
        snprintf(shape, sizeof shape, "(%d,)", rows);
    ds_buf b = {0};
    size_t n = (size_t)rows * (square ? (size_t)rows : 1);
    npy_bytes(&b, "<f8", shape, x, n * sizeof *x);
    return add_member(zip, name, &b);
}

static int add_provenance(zip_t *zip, const ds_npz_stats *s) {
    json_t *doc = json_pack("{s:s, s:s, s:s, s:s, s:I, s:I}", "schema", "diffscaler.stats/1",
                            "feature_net", s->net, "preprocess", s->preprocess, "decode", s->decode,
                            "n", (json_int_t)s->n, "seed", (json_int_t)s->seed);
    DS_ASSERT(doc);
    char *text = ds_json_canonical(doc), type[24];
    json_decref(doc);
    ds_buf b = {0};
    snprintf(type, sizeof type, "|S%zu", strlen(text));
    npy_bytes(&b, type, "()", text, strlen(text));
    free(text);
    return add_member(zip, "diffscaler.npy", &b);
}

int ds_npz_write_stats(const char *path, const ds_npz_stats *s, int force, ds_error *err) {
    DS_ASSERT(s->known && s->mu && s->sigma);
    if (ds_fs_test_full())
        return ds_fail(err, DS_ENOSPC, "cannot write '%s': no space left on device", path);
    char *temporary = ds_xasprintf("%s.%d.tmp", path, (int)getpid());
    int why = 0, rc = 0;
    zip_t *zip = zip_open(temporary, ZIP_CREATE | ZIP_TRUNCATE, &why);
    if (!zip) {
        rc = ds_fail_errno(err, "cannot write '%s'", path);
        free(temporary);
        return rc;
    }
    int failed = add_array(zip, "mu.npy", s->mu, s->dim, 0) ||
                 add_array(zip, "sigma.npy", s->sigma, s->dim, 1);
    if (!failed && s->mu_s)
        failed = add_array(zip, "mu_s.npy", s->mu_s, s->dim_s, 0) ||
                 add_array(zip, "sigma_s.npy", s->sigma_s, s->dim_s, 1);
    failed = failed || add_provenance(zip, s);
    if (failed || zip_close(zip)) {
        zip_error_t *e = zip_get_error(zip);
        errno = zip_error_system_type(e) == ZIP_ET_SYS ? zip_error_code_system(e) : EIO;
        rc = ds_fail_errno(err, "cannot write '%s'", path);
        zip_discard(zip);
    }
    int fd = rc ? -1 : open(temporary, O_RDONLY | O_CLOEXEC);
    if (!rc && (fd < 0 || fsync(fd)))
        rc = ds_fail_errno(err, "cannot write '%s'", path);
    if (fd >= 0)
        close(fd);
    rc = rc ? rc : ds_fs_output_rename(temporary, path, force, err);
    if (rc)
        unlink(temporary);
    free(temporary);
    return rc;
}
