/* tests/evaluate_fixture.h - `diffscaler-worker evaluate` as a process, folders and files for it. */
#ifndef DS_TESTS_EVALUATE_FIXTURE_H
#define DS_TESTS_EVALUATE_FIXTURE_H

#include "tests/fid_fixture.h"
#include "tests/worker_fixture.h"

#include <stdarg.h>
#include <zip.h>

typedef struct {
    int exit;
    char *out, *err;
} said;

static UNUSED void said_free(said *s) {
    free(s->out);
    free(s->err);
}

static UNUSED char *slurp(const char *path) {
    char *text;
    size_t n;
    ds_error err;
    must(ds_fs_read(path, 1 << 20, &text, &n, &err), &err);
    return text;
}

/* The command in a process of its own; arguments end with NULL. */
static UNUSED said run(const char *first, ...) {
    char *argv[32];
    int n = 0;
    va_list ap;
    va_start(ap, first);
    for (const char *a = first; a; a = va_arg(ap, const char *))
        argv[n++] = (char *)(uintptr_t)a;
    va_end(ap);
    argv[n] = NULL;
    char *out = in_tmp("out.txt"), *err = in_tmp("err.txt");
    fflush(NULL);
    pid_t pid = fork();
    if (!pid) {
        if (!freopen(out, "w", stdout) || !freopen(err, "w", stderr))
            _exit(99);
        int rc = ds_worker_evaluate(n, argv);
        fflush(NULL);
        _exit(rc);
    }
    int status;
    ck_assert(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    said s = {WEXITSTATUS(status), slurp(out), slurp(err)};
    free(out);
    free(err);
    return s;
}

/* Pictures first.. of the fixture as PNG files. */
static UNUSED char *make_folder(const char *name, int first, int count, int w, int h) {
    char *dir = in_tmp(name);
    ds_error err;
    must(ds_fs_mkdirs(dir, &err), &err);
    uint8_t *rgb = ds_xmalloc((size_t)(w * h * 3));
    for (int i = 0; i < count; i++) {
        char *path = ds_xasprintf("%s/%06d.png", dir, first + i);
        fid_picture(rgb, first + i, w, h);
        must(ds_png_write(path, rgb, w, h, &err), &err);
        free(path);
    }
    free(rgb);
    return dir;
}

static UNUSED const json_t *metric(const json_t *doc, const char *name) {
    size_t i;
    json_t *m, *found = NULL;
    json_array_foreach(json_object_get(doc, "metrics"), i,
                       m) if (!strcmp(ds_json_string(m, "metric", ""), name)) found = m;
    ck_assert_msg(found != NULL, "no metric %s", name);
    return found;
}

static UNUSED json_t *document(const said *s) {
    json_t *doc;
    ds_error err = {0};
    ck_assert_msg(s->exit == 0, "exit %d: %s", s->exit, s->err);
    ck_assert_msg(!ds_json_parse("out", s->out, strlen(s->out), &doc, &err), "%s", err.message);
    return doc;
}

/* FID's network with random weights; skip: a tensor to leave out. */
static UNUSED char *write_net(const char *name, const char *skip, int classes) {
    ds_st_writer *w = ds_st_writer_new();
    size_t n;
    char *bytes = fid_weights_file(NULL, &n), *path = in_tmp(name), *out;
    ds_st *st;
    ds_error err;
    must(ds_st_open_memory("net", bytes, n, &st, &err), &err);
    for (size_t i = 0; i < ds_st_count(st); i++) {
        const ds_st_tensor *t = ds_st_at(st, i);
        int64_t shape[4] = {t->shape[0], t->shape[1], t->shape[2], t->shape[3]};
        if (skip && !strcmp(t->name, skip))
            continue;
        if (!strncmp(t->name, "fc.", 3))
            shape[0] = classes;
        ds_st_writer_add(w, t->name, t->dtype, t->ndim, shape, t->data);
    }
    int64_t one[1] = {1}; /* the published file has these; they must not matter */
    static const int64_t batches = 5;
    ds_st_writer_add(w, "Conv2d_1a_3x3.bn.num_batches_tracked", DS_ST_I64, 1, one, &batches);
    must(ds_st_writer_finish(w, &out, &n, &err), &err);
    must(ds_fs_write(path, out, n, &err), &err);
    free(out);
    free(bytes);
    ds_st_free(st);
    ds_st_writer_free(w);
    return path;
}

/* An .npy of uint8 or f8 numbers. */
static UNUSED void npy(ds_buf *b, const char *type, const char *shape, const void *data, size_t n) {
    char text[128];
    int length = snprintf(text, sizeof text,
                          "{'descr': '%s', 'fortran_order': False, 'shape': %s, }", type, shape);
    while ((10 + length + 1) % 64)
        text[length++] = ' ';
    text[length++] = '\n';
    char head[10] = {(char)0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (char)length, 0};
    ds_buf_add(b, head, 10);
    ds_buf_add(b, text, (size_t)length);
    ds_buf_add(b, data, n);
}

/* An .npz file with the pictures first.. of the fixture, and mu, sigma of dim numbers each mean and
 * 1 on the diagonal; either is left out where its number is 0. */
static UNUSED char *make_npz(const char *name, int first, int count, int w, int h, int dim,
                             double mean) {
    char *path = in_tmp(name), shape[64];
    int why;
    ds_buf a = {0}, mu = {0}, sigma = {0};
    unlink(path);
    zip_t *zip = zip_open(path, ZIP_CREATE | ZIP_TRUNCATE, &why);
    ck_assert_ptr_nonnull(zip);
    if (count) {
        size_t size = (size_t)(w * h * 3);
        uint8_t *rgb = ds_xmalloc(size * (size_t)count);
        for (int i = 0; i < count; i++)
            fid_picture(rgb + (size_t)i * size, first + i, w, h);
        snprintf(shape, sizeof shape, "(%d, %d, %d, 3)", count, h, w);
        npy(&a, "|u1", shape, rgb, size * (size_t)count);
        free(rgb);
        zip_int64_t at =
            zip_file_add(zip, "arr_0.npy", zip_source_buffer(zip, a.data, a.len, 0), 0);
        zip_set_file_compression(zip, (zip_uint64_t)at, first % 2 ? ZIP_CM_STORE : ZIP_CM_DEFLATE,
                                 0);
    }
    if (dim) {
        double *x = ds_xcalloc((size_t)dim * (size_t)dim, sizeof *x);
        for (int i = 0; i < dim; i++)
            x[i] = mean;
        snprintf(shape, sizeof shape, "(%d,)", dim);
        npy(&mu, "<f8", shape, x, (size_t)dim * sizeof *x);
        for (size_t i = 0; i < (size_t)dim * (size_t)dim; i++)
            x[i] = i % ((size_t)dim + 1) == 0;
        snprintf(shape, sizeof shape, "(%d, %d)", dim, dim);
        npy(&sigma, "<f8", shape, x, (size_t)dim * (size_t)dim * sizeof *x);
        free(x);
        zip_file_add(zip, "mu.npy", zip_source_buffer(zip, mu.data, mu.len, 0), 0);
        zip_file_add(zip, "sigma.npy", zip_source_buffer(zip, sigma.data, sigma.len, 0), 0);
    }
    ck_assert_int_eq(zip_close(zip), 0);
    ds_buf_release(&a);
    ds_buf_release(&mu);
    ds_buf_release(&sigma);
    return path;
}

#endif
