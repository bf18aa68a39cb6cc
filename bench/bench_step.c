/* bench/bench_step.c - whole training and sampling steps of a model, for comparison with
 * bench/peer_dit.py.
 *
 *   bench_step MODEL train|sample|kept f32|bf16 [batch [threads [affiner|full [cpu|cuda]]]]
 *
 * The same work as the peer: adapters of rank 8 on every linear layer, 1000 new class rows, hybrid
 * loss, AdamW; `sample` is one DDPM step with learned variance and one task folded.  Prints one
 * JSON line: median and least ms, images/s, GFLOP/s (matrix products, multiply-add = 2, counted as
 * the peer counts), peak RSS, and what the device's own memory has less at the end than at the
 * start.  `kept` is whole sampling runs with guidance, in turn with and without modulations that
 * are kept for many steps (engine/diffusion/sampler_table.h): wall clock and processor time of
 * each.  More of a GPU (guidance, several tasks in a batch, features): bench/gpu/bench_gpu.c. */
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/model/dit.h"
#include "bench/times.h"
#include "engine/diffusion/sampler.h"
#include "engine/diffusion/trainer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static const struct {
    const char *name;
    int depth, width, heads, patch, side, channels;
} models[] = {{"tiny", 6, 192, 3, 4, 32, 3},
              {"S/2", 12, 384, 6, 2, 32, 4},
              {"B/4", 12, 768, 12, 4, 32, 4},
              {"XL/2", 28, 1152, 16, 2, 32, 4}};

enum { TIMED = 7, WARM = 2, RANK = 8, CLASSES = 1000 };

/* Matrix-product FLOP of one image, as peer_dit.py's flops(). */
static double flop(const ds_base *base, int train, int full) {
    const ds_dit_config *c = ds_dit_config_of(base);
    double linear = 0, low = 0, T = ds_dit_tokens(c), attention = c->depth * 4.0 * T * T * c->width;
    for (int i = 0; i < ds_lin_count(c); i++) {
        const ds_layer_shape *l = &base->layers[i];
        int conditioning = strstr(l->name, "adaLN") || strstr(l->name, "t_embedder");
        double rows = conditioning ? 1 : T;
        linear += 2.0 * l->m * l->n * rows;
        low += 2.0 * RANK * (l->m + l->n) * rows;
    }
    if (!train)
        return linear + attention; /* folded */
    if (full)
        return 3 * linear + 3 * attention;
    return 2 * linear + 3 * attention + 3 * low;
}

typedef struct {
    ds_device *dev;
    ds_base *base;
    ds_model *model;
    int batch, full;
    size_t room, used; /* of the device's own memory: at the start; taken at the end of the work */
} ds_bench;

static void look_at_memory(ds_bench *b) {
    b->used = b->room ? b->room - b->dev->free_bytes(b->dev) : 0;
}

static ds_method_spec spec_of(const ds_bench *b) {
    return (ds_method_spec){.method = b->full ? DS_METHOD_FULL : DS_METHOD_AFFINER,
                            .rank = RANK,
                            .targets = 1023,
                            .classes = CLASSES,
                            .seed = 1};
}

static void bench_train(ds_bench *b, double ms[TIMED]) {
    const ds_dit_config *c = ds_dit_config_of(b->base);
    size_t one = (size_t)(c->side * c->side * c->channels);
    int n = b->batch;
    uint8_t *pixels = ds_xmalloc((size_t)n * one);
    int *labels = ds_xmalloc((size_t)n * sizeof *labels);
    for (int i = 0; i < n; i++) {
        labels[i] = i % CLASSES;
        for (size_t j = 0; j < one; j++)
            pixels[(size_t)i * one + j] =
                (uint8_t)ds_rng_u32(1, DS_STREAM_TEST, 0, (uint64_t)i, (uint32_t)j);
    }
    ds_image_set set = {.pixels = pixels,
                        .labels = labels,
                        .n = n,
                        .side = c->side,
                        .channels = c->channels,
                        .classes = CLASSES};
    ds_train_options o = {.steps = 1000,
                          .batch = n,
                          .lr = 1e-4,
                          .label_dropout = 0.1,
                          .vb_weight = 1,
                          .ema = 0.999,
                          .clip = 1,
                          .seed = 1};
    ds_method_spec spec = spec_of(b);
    ds_trainer *t;
    ds_train_report r;
    ds_error err;
    if (ds_trainer_new(&t, b->model, &spec, &o, &set, &err)) {
        fprintf(stderr, "error: %s\n", err.message);
        exit(1);
    }
    for (int i = 0; i < WARM + TIMED; i++) {
        double start = ds_monotonic();
        DS_ASSERT(!ds_trainer_step(t, &r, &err));
        if (i >= WARM)
            ms[i - WARM] = (ds_monotonic() - start) * 1e3;
    }
    look_at_memory(b);
    ds_trainer_free(t);
    free(pixels);
    free(labels);
}

static void bench_sample(ds_bench *b, double ms[TIMED]) {
    const ds_dit_config *c = ds_dit_config_of(b->base);
    size_t one = (size_t)(c->side * c->side * c->channels);
    ds_method_spec spec = spec_of(b);
    ds_adapter *a;
    ds_net *net;
    ds_sample_options so = {.sampler = DS_SAMPLER_DDPM,
                            .steps = 4,
                            .guide = {1, 1},
                            .seed = 1,
                            .table_rows = -1}; /* every step computes all of it, as the peer's */
    ds_sample_request *q = ds_xcalloc((size_t)b->batch, sizeof *q);
    uint8_t *pixels = ds_xmalloc((size_t)b->batch * one);
    DS_ASSERT(!ds_adapter_new(&a, b->base, &spec, NULL));
    DS_ASSERT(!ds_net_new(&net, b->model, DS_NET_INFER, (const ds_adapter *const[]){a}, 1, b->batch,
                          NULL));
    for (int i = 0; i < b->batch; i++)
        q[i] = (ds_sample_request){.index = (uint64_t)i, .label = i % CLASSES};
    for (int i = 0; i < WARM + TIMED; i++) {
        double start = ds_monotonic();
        DS_ASSERT(!ds_sample(pixels, NULL, net, NULL, &so, q, b->batch, NULL, NULL, NULL));
        if (i >= WARM)
            ms[i - WARM] = (ds_monotonic() - start) * 1e3 / so.steps;
    }
    look_at_memory(b);
    ds_net_free(net);
    ds_adapter_free(a);
    free(q);
    free(pixels);
}

static void bench_kept(ds_bench *b) {
    enum { RUNS = 15, WITHOUT = 0, WITH = 1 };
    const ds_dit_config *c = ds_dit_config_of(b->base);
    const int large = c->depth > 6 || b->batch > 8, runs = c->depth > 6 ? 3 : large ? 5 : RUNS;
    ds_method_spec spec = spec_of(b);
    ds_adapter *a;
    ds_net *net;
    ds_sample_options o = {.sampler = DS_SAMPLER_DDIM,
                           .steps = large ? 20 : 50,
                           .guide = ds_guidance_of(DS_GUIDANCE_CFG, 1.5),
                           .seed = 1};
    ds_sample_request *q = ds_xcalloc((size_t)b->batch, sizeof *q);
    size_t bytes = (size_t)b->batch * (size_t)(c->side * c->side * c->channels) * sizeof(float);
    float *raw[2] = {ds_xmalloc(bytes), ds_xmalloc(bytes)};
    double wall[2][RUNS], cpu[2][RUNS];
    DS_ASSERT(!ds_adapter_new(&a, b->base, &spec, NULL));
    DS_ASSERT(!ds_net_new(&net, b->model, DS_NET_INFER, (const ds_adapter *const[]){a}, 1,
                          2 * b->batch, NULL));
    for (int i = 0; i < b->batch; i++)
        q[i] = (ds_sample_request){.index = (uint64_t)i, .label = i % CLASSES};
    for (int i = -2; i < 2 * runs; i++) { /* the first two warm up */
        int with = i & 1, at = i < 0 ? 0 : i / 2;
        double start = ds_monotonic(), spent = ds_processor_time();
        o.table_rows = with ? 0 : -1;
        DS_ASSERT(!ds_sample(NULL, raw[with], net, NULL, &o, q, b->batch, NULL, NULL, NULL));
        cpu[with][at] = (ds_processor_time() - spent) * 1e3 / o.steps;
        wall[with][at] = (ds_monotonic() - start) * 1e3 / o.steps;
    }
    printf("{\"engine\": \"%s\", \"batch\": %d, \"steps\": %d, \"threads\": %d, \"ms\": %.3f, "
           "\"ms_without\": %.3f, \"cpu_ms\": %.3f, \"cpu_ms_without\": %.3f, \"same\": %s}\n",
           b->dev->device_class, b->batch, o.steps, b->dev->threads, ds_median(wall[WITH], runs),
           ds_median(wall[WITHOUT], runs), ds_median(cpu[WITH], runs),
           ds_median(cpu[WITHOUT], runs), memcmp(raw[0], raw[1], bytes) ? "false" : "true");
    ds_net_free(net);
    ds_adapter_free(a);
    free(q);
    free(raw[0]);
    free(raw[1]);
}

static void report(const ds_bench *b, char **argv, double ms[TIMED], int train) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    double gflop = flop(b->base, train, b->full) * b->batch / 1e9, median = ds_median(ms, TIMED);
    printf("{\"engine\": \"%s\", \"model\": \"%s\", \"batch\": %d, \"mode\": \"%s\", \"dtype\": "
           "\"%s\", \"adapter\": \"%s\", "
           "\"threads\": %d, \"ms\": %.2f, \"ms_min\": %.2f, \"img_s\": %.2f, \"gflop\": %.2f, "
           "\"gflop_s\": %.1f, \"rss_MB\": %ld, \"device_MB\": %zu}\n",
           b->dev->device_class, argv[1], b->batch, argv[2], argv[3],
           train ? (b->full ? "full" : "affiner") : "folded", b->dev->threads, median, ms[0],
           b->batch / median * 1e3, gflop, gflop / median * 1e3, u.ru_maxrss / 1024, b->used >> 20);
}

int main(int argc, char **argv) {
    int m = -1;
    for (int i = 0; argc > 3 && i < (int)(sizeof models / sizeof models[0]); i++)
        m = strcmp(argv[1], models[i].name) ? m : i;
    if (m < 0) {
        fprintf(stderr,
                "usage: bench_step tiny|S/2|B/4|XL/2 train|sample|kept f32|bf16 [batch [threads "
                "[affiner|full [cpu|cuda]]]]\n");
        return 2;
    }
    int train = !strcmp(argv[2], "train"), kept = !strcmp(argv[2], "kept"),
        bf16 = !strcmp(argv[3], "bf16");
    ds_bench b = {.batch = argc > 4 ? (int)strtol(argv[4], NULL, 10) : 64,
                  .full = argc > 6 && !strcmp(argv[6], "full")};
    ds_device_options opt = {.kind = argc > 7 ? argv[7] : "cpu",
                             .precision = bf16 ? DS_PRECISION_BF16 : DS_PRECISION_F32,
                             .threads = argc > 5 ? (int)strtol(argv[5], NULL, 10) : 0};
    ds_dit_config c = {.channels = models[m].channels,
                       .side = models[m].side,
                       .patch = models[m].patch,
                       .width = models[m].width,
                       .depth = models[m].depth,
                       .heads = models[m].heads,
                       .mlp_ratio = 4,
                       .classes = CLASSES,
                       .learn_sigma = 1,
                       .freq_dim = 256,
                       .train_steps = 1000,
                       .beta_start = 1e-4,
                       .beta_end = 2e-2};
    ds_error err;
    if (ds_device_open(&b.dev, &opt, &err)) {
        fprintf(stderr, "error: %s\n", err.message);
        return 1;
    }
    b.room = b.dev->free_bytes ? b.dev->free_bytes(b.dev) : 0;
    if (ds_dit_base_new(&b.base, &c, 1, &err) || ds_model_new(&b.model, b.dev, b.base, &err)) {
        fprintf(stderr, "error: %s\n", err.message);
        return 1;
    }
    if (kept)
        bench_kept(&b);
    else {
        double ms[TIMED];
        (train ? bench_train : bench_sample)(&b, ms);
        report(&b, argv, ms, train);
    }
    ds_model_free(b.model);
    ds_base_free(b.base);
    ds_device_close(b.dev);
    return 0;
}
