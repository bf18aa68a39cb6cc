/* bench/bench_gate.c - how often the comparison of a new version with its bar is wrong.
 *
 *     bench_gate features BASE NET REFERENCE OUT N STEPS [--noise A] ADAPTER...
 *
 * Features of N paired samples (the same noise and labels for each) of every adapter, one file each
 * in OUT, named by the folder that the adapter lies in, with "-A" behind it when noise of A times
 * the root mean square of its numbers was added to them.  tools/gate_bench.sh does it all.
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
#include "engine/metrics/linalg.h"
#include "engine/files/safetensors.h"
#include "engine/vae/vae.h"
#include "worker/kinds/bars.h"
#include "worker/job/device.h"
#include "worker/measure/measure.h"

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
    char *name = noise > 0 ? ds_xasprintf("%s-%g", start ? start + 1 : copy, noise)
                           : ds_xstrdup(start ? start + 1 : copy);
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
    char digest[DS_HEX_SIZE], *name = stem(path, noise),
                              *file = ds_xasprintf("%s/%s.features", out, name);
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

/* ---------------------------------------------------------------- judge */

enum { SETS_MAX = 200, ROW = 20, ROWS = 3, SPLITS = 5 };
#define STEP 0.03 /* of each version of the row */

typedef struct {
    const char *file;
    ds_feature_set set;
    float *x;
    ds_fd_parts parts;
} version;

static ds_spec_gate rule; /* the one that is taken when nobody says one */

static void measure(version *v, const ds_feature_set *real) {
    ds_error err;
    must(ds_fd_parts_of(real, &v->set, ds_bar_groups(v->set.n), 7, NULL, NULL, &v->parts, &err),
         &err);
}

static void load(version *v, const char *file, const ds_feature_set *real) {
    ds_error err;
    ds_st *st;
    const ds_st_tensor *t;
    must(ds_st_open_zst(file, (size_t)1 << 30, NULL, NULL, &st, &err), &err);
    must(ds_st_need(st, "features", -1, NULL, &t, &err), &err);
    *v = (version){.file = file, .set = *real, .x = ds_xmalloc(t->count * sizeof *v->x)};
    must(ds_st_read_f32(st, t, v->x, &err), &err);
    v->set.x = v->x;
    v->set.n = t->shape[0];
    ds_st_free(st);
    measure(v, real);
}

static enum ds_bar_verdict judged(const version *bar, const version *now, ds_fd_pair *p) {
    *p = ds_fd_pair_of(&now->parts, &bar->parts);
    return ds_bar_judge(bar->parts.fd[0], now->parts.fd[0], p->std_error, &rule);
}

static double worse_by(const version *bar, const version *now) {
    return now->parts.fd[0] / bar->parts.fd[0] - 1;
}

static void same_settings(const version *v, int count) {
    int pairs = 0, refused = 0, margin = 0, sigmas = 0;
    double most = 0, least = INFINITY, largest = 0;
    for (int i = 0; i < count; i++) {
        least = fmin(least, v[i].parts.fd[0]);
        largest = fmax(largest, v[i].parts.fd[0]);
        for (int j = 0; j < count; j++) {
            ds_fd_pair p;
            if (i == j)
                continue;
            pairs++;
            refused += judged(&v[i], &v[j], &p) == DS_BAR_REFUSED;
            margin += worse_by(&v[i], &v[j]) > rule.worse_margin;
            sigmas += p.z >= rule.worse_sigmas;
            most = fmax(most, worse_by(&v[i], &v[j]));
        }
    }
    printf(
        "same settings, other seeds: %d adapters, FD %.2f to %.2f; %d pairs, the worst %+.1f %%, "
        "%d beyond the margin, %d beyond %g sigmas, %d refused\n",
        count, least, largest, pairs, 100 * most, margin, sigmas, rule.worse_sigmas, refused);
}

/* The same adapter against itself on other noise: two random halves of its samples.  They share no
 * picture, so this is harder than what the gate does. */
static void same_adapters(const version *v, int count, const ds_feature_set *real) {
    int pairs = 0, refused = 0, margin = 0;
    double most = 0;
    for (int i = 0; i < count; i++)
        for (uint32_t s = 0; s < SPLITS; s++) {
            uint32_t n = (uint32_t)v[i].set.n, *order = ds_xmalloc(n * sizeof *order);
            size_t d = (size_t)v[i].set.dim;
            version half[2];
            ds_rng_permutation(order, n, 4, DS_STREAM_TEST, s);
            for (uint32_t h = 0; h < 2; h++) {
                half[h] = v[i];
                half[h].x = ds_xmalloc((size_t)n * d * sizeof *half[h].x);
                half[h].set.x = half[h].x;
                half[h].set.n = n / 2;
                for (uint32_t k = 0; k < n / 2; k++)
                    memcpy(half[h].x + k * d, v[i].x + order[2 * k + h] * d, d * sizeof *half[h].x);
                measure(&half[h], real);
            }
            for (int h = 0; h < 2; h++) {
                ds_fd_pair p;
                pairs++;
                refused += judged(&half[h], &half[!h], &p) == DS_BAR_REFUSED;
                margin += worse_by(&half[h], &half[!h]) > rule.worse_margin;
                most = fmax(most, worse_by(&half[h], &half[!h]));
            }
            free(half[0].x), free(half[1].x), free(order);
        }
    printf("the same adapter, other noise: %d pairs of %lld samples, the worst %+.1f %%, %d beyond "
           "the margin, %d refused\n",
           pairs, (long long)(count ? v[0].set.n / 2 : 0), 100 * most, margin, refused);
    fflush(stdout);
}

/* Pairs of a good bar and a worse version in a band. */
static void worse_ones(const version *good, int count, const version *worse, int more, double from,
                       double to) {
    int pairs = 0, refused = 0, versions = 0;
    double z = INFINITY;
    for (int j = 0; j < more; j++) {
        int any = 0;
        for (int i = 0; i < count; i++) {
            ds_fd_pair p;
            double by = worse_by(&good[i], &worse[j]);
            if (by < from || by >= to)
                continue;
            any = 1;
            pairs++;
            refused += judged(&good[i], &worse[j], &p) == DS_BAR_REFUSED;
            z = fmin(z, p.z);
        }
        versions += any;
    }
    printf("worse by %2.0f to %2.0f %%: %d versions, %d pairs, the least z %.1f, %d refused (%.1f "
           "%%)\n",
           100 * from, 100 * to, versions, pairs, z, refused, pairs ? 100.0 * refused / pairs : 0);
}

/* The first `k` pictures of a fixed random order are those of the worse one. */
static void blend(version *out, const version *good, const version *worse, uint32_t k,
                  const uint32_t *order, const ds_feature_set *real) {
    size_t d = (size_t)good->set.dim;
    memcpy(out->x, good->x, (size_t)good->set.n * d * sizeof *out->x);
    for (uint32_t i = 0; i < k; i++)
        memcpy(out->x + order[i] * d, worse->x + order[i] * d, d * sizeof *out->x);
    measure(out, real);
}

/* The least k above `least` whose blend is 3 % worse than `latest`; n when there is none. */
static uint32_t next_worse(version *now, const version *latest, const version *good,
                           const version *worse, uint32_t least, const uint32_t *order,
                           const ds_feature_set *real) {
    uint32_t low = least + 1, high = (uint32_t)good->set.n;
    while (low < high) {
        uint32_t k = (low + high) / 2;
        blend(now, good, worse, k, order, real);
        if (worse_by(latest, now) < STEP)
            low = k + 1;
        else
            high = k;
    }
    blend(now, good, worse, low, order, real);
    return low;
}

/* Versions, each 3 % worse than the one before, which is @latest while the first one is the best:
 * which is stopped (0: none) and by how much the last that was published is worse than the best. */
static int row_of_versions(const version *good, const version *worse, const ds_feature_set *real,
                           double *published, double *stopped_at) {
    uint32_t n = (uint32_t)good->set.n, *order = ds_xmalloc(n * sizeof *order), k = 0;
    version latest = *good, now = *good;
    int stopped = 0;
    now.x = ds_xmalloc((size_t)n * (size_t)good->set.dim * sizeof *now.x);
    now.set.x = now.x;
    ds_rng_permutation(order, n, 3, DS_STREAM_TEST, 0);
    *published = *stopped_at = 0;
    for (int number = 1; number <= ROW && !stopped && k < n; number++) {
        ds_fd_pair p;
        k = next_worse(&now, &latest, good, worse, k, order, real);
        *stopped_at = worse_by(good, &now);
        if (judged(&latest, &now, &p) == DS_BAR_REFUSED || judged(good, &now, &p) == DS_BAR_REFUSED)
            stopped = number;
        else
            *published = *stopped_at;
        latest.parts = now.parts;
    }
    free(now.x);
    free(order);
    return stopped;
}

static int judge(int argc, char **argv) {
    static version good[SETS_MAX], worse[SETS_MAX];
    int count = 0, more = 0, bars = 1;
    ds_reference ref;
    ds_error err;
    if (argc < 4)
        return usage();
    ds_device dev = {.threads = 1};
    ds_linalg_use(&dev);
    must(ds_reference_read(&ref, argv[2], NULL, &err), &err);
    ds_feature_set real = ds_reference_set(&ref);
    for (int i = 3; i < argc && count < SETS_MAX && more < SETS_MAX; i++)
        if (!strcmp(argv[i], "--"))
            bars = 0;
        else
            load(bars ? &good[count++] : &worse[more++], argv[i], &real);
    printf("margin %g, sigmas %g, %d real, %lld samples, %d groups\n", rule.worse_margin,
           rule.worse_sigmas, (int)real.n, (long long)(count ? good[0].set.n : 0),
           count ? good[0].parts.groups : 0);
    if (getenv("BENCH_GATE_ALL"))
        for (int i = 0; i < count + more; i++) {
            const version *v = i < count ? &good[i] : &worse[i - count];
            printf("  %s: FD %.3f\n", v->file, v->parts.fd[0]);
        }
    same_adapters(good, count, &real);
    same_settings(good, count);
    static const double bands[] = {0, 0.05, 0.10, 0.15, 0.20, 0.25, 0.30, 0.5, 10};
    for (size_t i = 0; i + 1 < sizeof bands / sizeof *bands; i++)
        worse_ones(good, count, worse, more, bands[i], bands[i + 1]);
    worse_ones(good, count, worse, more, 0.25, 10);
    for (int i = 0; i < count && i < ROWS && i < more; i++) {
        double published, at;
        int number = row_of_versions(&good[i], &worse[more - 1 - i], &real, &published, &at);
        printf("a row of versions, each 3 %% worse, from %s towards %s: number %d is stopped at "
               "%+.1f %%, published up to %+.1f %%\n",
               good[i].file, worse[more - 1 - i].file, number, 100 * at, 100 * published);
        fflush(stdout);
    }
    return 0;
}

int main(int argc, char **argv) {
    rule.worse_margin = strtod(ds_option_find("worse_margin")->absent, NULL);
    rule.worse_sigmas = strtod(ds_option_find("worse_sigmas")->absent, NULL);
    if (argc > 1 && !strcmp(argv[1], "judge"))
        return judge(argc, argv);

    if (argc > 1 && !strcmp(argv[1], "features"))
        return features(argc, argv);
    return usage();
}
