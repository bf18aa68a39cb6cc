/* engine/npz.c - a strict .npy reader on libzip, and the writer (contract in npz.h). */
#include "engine/npz.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"
#include "engine/features.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zip.h>

enum { HEADER_MAX = 4096, MEMBERS_MAX = 64, TEXT_MAX = 65536 };

void ds_npz_stats_release(ds_npz_stats *s) {
    free(s->mu);
    free(s->sigma);
    free(s->mu_s);
    free(s->sigma_s);
    *s = (ds_npz_stats){0};
}

/* ---------------------------------------------------------------- one member */

typedef struct {
    char type[8]; /* "<f8" */
    int fortran, ndim;
    int64_t shape[2];
} npy_header;

typedef struct {
    const char *path, *member; /* for messages */
    zip_t *zip;
    zip_file_t *file;
    ds_error *err;
} reader;

static int bad(const reader *r, const char *what) {
    return ds_fail(r->err, DS_EINTEGRITY, "'%.200s': member '%s' %s", r->path, r->member, what);
}

/* Exactly n bytes. */
static int take(const reader *r, void *to, size_t n) {
    for (size_t got = 0; got < n;) {
        zip_int64_t k = zip_fread(r->file, (char *)to + got, n - got);
        if (k < 0)
            return bad(r, "is damaged");
        if (k == 0)
            return bad(r, "is shorter than its header says");
        got += (size_t)k;
    }
    return 0;
}

static const char *skip_spaces(const char *p) {
    while (*p == ' ')
        p++;
    return p;
}

/* p behind `word`, or NULL. */
static const char *expect(const char *p, const char *word) {
    p = skip_spaces(p);
    size_t n = strlen(word);
    return strncmp(p, word, n) ? NULL : p + n;
}

/* "(5,)", "(5, 5)", "()"; digits of at most 9 places. */
static const char *parse_shape(const char *p, npy_header *h) {
    h->ndim = 0;
    if (!(p = expect(p, "(")))
        return NULL;
    for (;;) {
        p = skip_spaces(p);
        if (*p == ')')
            return p + 1;
        int digits = 0;
        int64_t v = 0;
        for (; *p >= '0' && *p <= '9'; p++, digits++)
            v = digits < 9 ? v * 10 + (*p - '0') : v;
        if (!digits || digits > 9 || h->ndim == 2)
            return NULL;
        h->shape[h->ndim++] = v;
        p = skip_spaces(p);
        if (*p == ',')
            p++;
        else if (*p != ')')
            return NULL;
    }
}

/* The three members in any order, each once: {'descr': '<f8', 'fortran_order': False, 'shape': ..}
 */
static int parse_header(const char *p, npy_header *h) {
    int seen = 0;
    if (!(p = expect(p, "{")))
        return -1;
    for (;;) {
        const char *q;
        p = skip_spaces(p);
        if (*p == '}')
            break;
        if ((q = expect(p, "'descr':"))) {
            q = skip_spaces(q);
            const char *end = *q == '\'' ? strchr(q + 1, '\'') : NULL;
            if (!end || (size_t)(end - q - 1) >= sizeof h->type || seen & 1)
                return -1;
            snprintf(h->type, sizeof h->type, "%.*s", (int)(end - q - 1), q + 1);
            p = end + 1;
            seen |= 1;
        } else if ((q = expect(p, "'fortran_order':"))) {
            const char *no = expect(q, "False"), *yes = expect(q, "True");
            if ((!no && !yes) || seen & 2)
                return -1;
            h->fortran = yes != NULL;
            p = yes ? yes : no;
            seen |= 2;
        } else if ((q = expect(p, "'shape':"))) {
            if (seen & 4 || !(p = parse_shape(q, h)))
                return -1;
            seen |= 4;
        } else
            return -1;
        p = skip_spaces(p);
        if (*p == ',')
            p++;
        else if (*p != '}')
            return -1;
    }
    p = skip_spaces(p + 1);
    if (*p == '\n')
        p++;
    return seen == 7 && !*p ? 0 : -1;
}

static int read_header(const reader *r, npy_header *h) {
    unsigned char head[12];
    char text[HEADER_MAX + 1];
    *h = (npy_header){0};
    int rc = take(r, head, 10);
    if (rc)
        return rc;
    if (memcmp(head, "\x93NUMPY", 6) || head[6] < 1 || head[6] > 3 || head[7] != 0)
        return bad(r, "is not an .npy array of version 1 to 3");
    size_t n = head[8] | (size_t)head[9] << 8;
    if (head[6] >= 2) {
        if ((rc = take(r, head + 10, 2)))
            return rc;
        n |= (size_t)head[10] << 16 | (size_t)head[11] << 24;
    }
    if (n > HEADER_MAX)
        return bad(r, "has too long a header");
    if ((rc = take(r, text, n)))
        return rc;
    text[n] = 0;
    if (strlen(text) != n || parse_header(text, h))
        return bad(r, "has a header that cannot be read");
    return 0;
}

/* Opens the member; 1 = there is none. */
static int open_member(reader *r, const char *name) {
    r->member = name;
    zip_int64_t at = zip_name_locate(r->zip, name, 0);
    if (at < 0)
        return 1;
    r->file = zip_fopen_index(r->zip, (zip_uint64_t)at, 0);
    return r->file ? 0 : bad(r, "cannot be opened (encrypted, or packed in an unknown way)");
}

static int at_end(const reader *r) {
    char more;
    zip_int64_t k = zip_fread(r->file, &more, 1);
    return k == 0 ? 0 : k < 0 ? bad(r, "is damaged") : bad(r, "is longer than its header says");
}

/* The numbers behind a header, as double, C order. */
static int read_numbers(const reader *r, const npy_header *h, double **out) {
    size_t rows = (size_t)h->shape[0], cols = h->ndim == 2 ? (size_t)h->shape[1] : 1;
    size_t n = rows * cols, width = !strcmp(h->type, "<f4") ? 4 : 8;
    char *raw = ds_xmalloc(n * width);
    double *x = ds_xmalloc(n * sizeof *x);
    int rc = take(r, raw, n * width), finite = 1;
    rc = rc ? rc : at_end(r);
    for (size_t i = 0; !rc && i < n; i++) {
        size_t to = h->fortran && h->ndim == 2 ? i % rows * cols + i / rows : i;
        float narrow;
        if (width == 4) {
            memcpy(&narrow, raw + i * 4, 4);
            x[to] = narrow;
        } else
            memcpy(&x[to], raw + i * 8, 8);
        finite &= isfinite(x[to]) != 0;
    }
    if (!rc && !finite)
        rc = bad(r, "has numbers that are not finite");
    free(raw);
    if (rc)
        free(x);
    else
        *out = x;
    return rc;
}

/* 1 = absent.  dim: 0 = take it from here, else it must agree. */
static int read_array(reader *r, const char *name, int ndim, int *dim, double **out) {
    npy_header h;
    int rc = open_member(r, name);
    if (rc)
        return rc;
    rc = read_header(r, &h);
    if (!rc && strcmp(h.type, "<f8") && strcmp(h.type, "<f4"))
        rc = ds_fail(r->err, DS_EINTEGRITY,
                     "'%.200s': member '%s' has numbers of type '%s', want '<f8' or '<f4'", r->path,
                     name, h.type);
    if (!rc && (h.ndim != ndim || h.shape[0] < 1 || (ndim == 2 && h.shape[1] != h.shape[0]) ||
                h.shape[0] > DS_FEATURE_DIM_MAX || (*dim && h.shape[0] != *dim)))
        rc =
            ds_fail(r->err, DS_EINTEGRITY,
                    "'%.200s': member '%s' has a wrong shape, want %s of at most %d numbers a side",
                    r->path, name, ndim == 2 ? "a square matrix" : "a vector", DS_FEATURE_DIM_MAX);
    if (!rc) {
        *dim = (int)h.shape[0];
        rc = read_numbers(r, &h, out);
    }
    zip_fclose(r->file);
    return rc;
}

static int check_covariance(const reader *r, const char *member, const double *a, int n) {
    double top = 0;
    reader named = *r;
    named.member = member;
    for (int i = 0; i < n; i++) {
        double v = a[(size_t)i * (size_t)n + (size_t)i];
        if (v < 0)
            return bad(&named, "is no covariance: a variance is negative");
        top = v > top ? v : top;
    }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++) /* 1e-5: room for float32 products */
            if (fabs(a[(size_t)i * (size_t)n + (size_t)j] - a[(size_t)j * (size_t)n + (size_t)i]) >
                1e-5 * top)
                return bad(&named, "is no covariance: not symmetric");
    return 0;
}

/* A vector and its matrix; 1 = neither is there. */
static int read_pair(reader *r, const char *mean, const char *cov, int *dim, double **mu,
                     double **sigma) {
    *dim = 0;
    int rc = read_array(r, mean, 1, dim, mu);
    if (rc)
        return rc;
    rc = read_array(r, cov, 2, dim, sigma);
    if (rc == 1) {
        r->member = cov;
        return bad(r, "is missing");
    }
    return rc ? rc : check_covariance(r, cov, *sigma, *dim);
}

/* ---------------------------------------------------------------- provenance */

static int read_text(reader *r, char **text, size_t *n) {
    npy_header h;
    int rc = open_member(r, "diffscaler.npy");
    if (rc)
        return rc;
    rc = read_header(r, &h);
    long size = 0;
    if (!rc) {
        char *end = NULL;
        if (!strncmp(h.type, "|S", 2))
            size = strtol(h.type + 2, &end, 10);
        if (!end || *end || size < 1 || size > TEXT_MAX || h.ndim)
            rc = bad(r, "is not a byte string");
    }
    if (!rc) {
        *text = ds_xcalloc(1, (size_t)size + 1);
        rc = take(r, *text, (size_t)size);
        rc = rc ? rc : at_end(r);
        *n = strlen(*text);
    }
    zip_fclose(r->file);
    return rc;
}

static int read_provenance(reader *r, ds_npz_stats *s) {
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
            rc = bad(r, "does not say which network and preprocessing made it");
    }
    json_decref(doc);
    free(text);
    return rc == 1 ? 0 : rc;
}

static int read_all(reader *r, ds_npz_stats *s) {
    if (zip_get_num_entries(r->zip, 0) > MEMBERS_MAX)
        return ds_fail(r->err, DS_ELIMIT, "'%.200s' has more than %d members", r->path,
                       MEMBERS_MAX);
    int rc = read_pair(r, "mu.npy", "sigma.npy", &s->dim, &s->mu, &s->sigma);
    if (rc == 1)
        return ds_fail(r->err, DS_EINTEGRITY,
                       "'%.200s' has no member 'mu.npy': not a file of feature statistics",
                       r->path);
    rc = rc ? rc : read_pair(r, "mu_s.npy", "sigma_s.npy", &s->dim_s, &s->mu_s, &s->sigma_s);
    if (rc == 1)
        rc = 0;
    return rc ? rc : read_provenance(r, s);
}

int ds_npz_read_stats(const char *path, ds_npz_stats *out, ds_error *err) {
    *out = (ds_npz_stats){0};
    int why = 0, fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return ds_fail_errno(err, "cannot open '%s'", path);
    close(fd);
    reader r = {.path = path, .member = "", .err = err};
    r.zip = zip_open(path, ZIP_RDONLY | ZIP_CHECKCONS, &why);
    if (!r.zip) {
        zip_error_t e;
        zip_error_init_with_code(&e, why);
        ds_fail(err, DS_EINTEGRITY, "'%.200s' is not a whole .npz file: %s", path,
                zip_error_strerror(&e));
        zip_error_fini(&e);
        return DS_EINTEGRITY;
    }
    int rc = read_all(&r, out);
    zip_discard(r.zip);
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

int ds_npz_write_stats(const char *path, const ds_npz_stats *s, ds_error *err) {
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
    rc = rc ? rc : ds_fs_rename(temporary, path, err);
    if (rc)
        unlink(temporary);
    free(temporary);
    return rc;
}
