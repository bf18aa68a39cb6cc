/* bench/bench_gate.c - how often the comparison of a new version with its bar is wrong.
 *
 *     bench_gate features BASE NET REFERENCE OUT N STEPS [--noise A] ADAPTER...
 *
 * Features of N paired samples (the same noise and labels for each) of every adapter, one file each
 * in OUT, named by the folder that the adapter lies in, with "-A" behind it when noise of A times
 * the root mean square of its numbers was added to them.  tools/gate_bench.sh trains the adapters.
 *
 *     bench_gate judge REFERENCE GOOD... -- WORSE...
 *
 * The figures of docs/math.md: pairs of GOOD ones, in both orders, that are refused (none should
 * be); pairs of a GOOD bar and a WORSE version, by how much worse it is, that are; and a row of 20
 * versions, each 3 % worse than the one before, that replaces ever more of a GOOD one's pictures by
 * a WORSE one's. */
#include "base/fs.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/zio.h"
#include "engine/safetensors.h"
#include "engine/vae.h"
#include "worker/device.h"
#include "worker/measure.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(int rc, const ds_error *err) {
    if (rc) {
        fprintf(stderr, "bench_gate: %s\n", err->message);
        exit(1);
    }
}

static int usage(void) {
    fputs("usage: bench_gate features BASE NET REFERENCE OUT N STEPS [--noise A] ADAPTER...\n"
          "       bench_gate judge REFERENCE GOOD... -- WORSE...\n",
          stderr);
    return 2;
}

/* ---------------------------------------------------------------- features */

static void add_noise(ds_adapter *a, double amount) {
    double squares = 0;
    float *z = ds_xmalloc(a->table.total * sizeof *z);
    for (size_t i = 0; i < a->table.total; i++)
        squares += (double)a->data[i] * a->data[i];
    double size = amount * sqrt(squares / (double)a->table.total);
    ds_rng_normal(z, a->table.total, 5, DS_STREAM_TEST, 0, 0);
    for (size_t i = 0; i < a->table.total; i++)
        a->data[i] += (float)(size * z[i]);
    free(z);
}

static void save(const char *out, const char *name, const ds_feature_set *set) {
    ds_error err;
    char *path = ds_xasprintf("%s/%s.features", out, name), *bytes;
    int64_t shape[2] = {set->n, set->dim};
    size_t n;
    ds_st_writer *w = ds_st_writer_new();
    ds_st_writer_meta(w, "net", set->net);
    ds_st_writer_meta(w, "resize", set->resize);
    ds_st_writer_add(w, "features", DS_ST_F32, 2, shape, set->x);
    must(ds_st_writer_finish(w, &bytes, &n, &err), &err);
    must(ds_zio_write_file(path, bytes, n, 3, &err), &err);
    ds_st_writer_free(w);
    free(bytes);
    free(path);
}

/* "jobs/03/adapter.safetensors.zst" -> "03" */
static char *stem(const char *path, double noise) {
    char *copy = ds_xstrdup(path), *end = strrchr(copy, '/'), *start;
    if (end)
        *end = 0;
    start = strrchr(copy, '/');
    char *name =
        noise > 0 ? ds_xasprintf("%s-%g", start ? start + 1 : copy, noise) : ds_xstrdup(start ? start + 1 : copy);
    free(copy);
    return name;
}

typedef struct {
    ds_device *dev;
    ds_base *base;
    ds_model *model;
    ds_feature_net *net;
    ds_reference ref;
    int *labels, n;
    ds_spec_sample how;
} rig;

static void one_adapter(rig *r, const char *path, double noise, const char *out) {
    ds_error err;
    ds_adapter *a;
    ds_feature_set set;
    char digest[DS_HEX_SIZE], *name = stem(path, noise), *file = ds_xasprintf("%s/%s.features", out, name);
    if (!ds_fs_exists(file)) {
        must(ds_adapter_open(&a, r->base, path, NULL, &err), &err);
        if (noise > 0)
            add_noise(a, noise);
        ds_measure_source s = {.features = r->net,
                               .side = ds_picture_side(r->model),
                               .one = ds_picture_bytes(r->model),
                               .seed = 7};
        float *x = ds_xmalloc((size_t)r->n * (size_t)ds_feature_net_dim(r->net) * sizeof *x);
        must(ds_serve_new(&s.serve, r->model, a, &r->how, &err), &err);
        must(ds_measure_pictures(&s, r->labels, r->n, x, digest, &err), &err);
        ds_feature_net_describe(r->net, x, r->n, &set);
        save(out, name, &set);
        printf("%s\n", file);
        fflush(stdout);
        ds_serve_free(s.serve);
        ds_adapter_free(a);
        free(x);
    }
    free(file);
    free(name);
}

static int features(int argc, char **argv) {
    ds_error err;
    rig r = {.how = {.sampler = DS_SAMPLER_DPMPP2M, .mode = DS_GUIDANCE_NONE}};
    char sha[DS_HEX_SIZE];
    double noise = 0;
    if (argc < 9)
        return usage();
    r.n = atoi(argv[6]);
    r.how.steps = atoi(argv[7]);
    int first = 8;
    if (!strcmp(argv[8], "--noise") && argc > 10) {
        noise = strtod(argv[9], NULL);
        first = 10;
    }
    if (r.n < 4 || r.how.steps < 1)
        return usage();
    ds_device_options o = {.kind = "cpu", .precision = DS_PRECISION_BF16, .threads = 1};
    must(ds_worker_device_open(&r.dev, &o, &err), &err);
    must(ds_base_open(&r.base, argv[2], NULL, &err), &err);
    must(ds_model_new(&r.model, r.dev, r.base, &err), &err);
    must(ds_feature_net_digest(DS_FID_BUNDLED, argv[3], sha, &err), &err);
    must(ds_feature_net_open(r.dev, DS_FID_BUNDLED, argv[3], sha, &r.net, &err), &err);
    must(ds_reference_read(&r.ref, argv[4], NULL, &err), &err);
    must(ds_fs_mkdirs(argv[5], &err), &err);
    r.labels = ds_xcalloc((size_t)r.n, sizeof *r.labels);
    ds_class_labels(r.labels, r.n, r.ref.counts, r.ref.classes);
    for (int i = first; i < argc; i++)
        one_adapter(&r, argv[i], noise, argv[5]);
    ds_reference_release(&r.ref);
    ds_feature_net_close(r.net);
    ds_model_free(r.model);
    ds_base_free(r.base);
    ds_worker_device_close(r.dev);
    free(r.labels);
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "features"))
        return features(argc, argv);
    return usage();
}
