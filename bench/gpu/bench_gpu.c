/* bench/gpu/bench_gpu.c - the rows of docs/gpu.md on one device, beside bench/gpu/peer_dit_cuda.py.
 *
 *   bench_gpu DEVICE SECONDS PART ...       SECONDS: budget of all parts together
 *
 *   gemm            rate of one product of 8192^3 in bf16, what the training step is measured by
 *   train-N         DiT-XL/2, batch N, bf16, adapters of rank 8 on every linear layer: ms of a step
 *   ops-N           where the time of such a step goes, by op, each one waited for (profile.h)
 *   sample          DiT-XL/2, 64 images with guidance (128 rows), one folded adapter: ms of a DDPM
 *                   step
 *   sample-base     the same without an adapter
 *   mixed           64 images of 8 tasks in a batch, no guidance, each task in weights of its own;
 *                   and of one folded task
 *   mixed-stacked   the same with one frozen base and unfolded adapters
 *   small           the demo's base, batch 64: training step
 *   inception       FID's network, random weights, in TF32: pictures of 299 x 299 in f32 from host
 *                   memory to features there, 64 at a time
 *   inception-f32   the same in exact f32
 *   inception-8bit  in TF32 from 8-bit pictures of 64 x 64, resized as pytorch-fid does by as many
 *                   threads as there are processors while the network looks at those before
 *   inception-same  features of two pictures against the processor's, in f32 and TF32; and three
 *                   runs (plain, recorded, replayed) and a picture alone, byte for byte
 *   tiny-...        the same on a model of a few thousand parameters (inception: one picture), to
 *                   try the program
 *
 * A line of JSON for each.  A process of its own runs them: behind a part that ends it (no room on
 * the GPU, a fault of the device) or hangs, another goes on with the next.  Random weights, images
 * and labels.  Steps are timed one by one after warm-up (training: by fours), until there are 30 or
 * the part's share of the budget is used up; the median counts.  Memory is what the device has less
 * than just after opening, at most. */
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/model/dit.h"
#include "bench/gpu/profile.h"
#include "bench/times.h"
#include "engine/metrics/inception.h"
#include "engine/metrics/resize.h"
#include "engine/diffusion/sampler.h"
#include "engine/diffusion/trainer.h"
#include "kernels/cpu/team.h"
#include "tests/gpu/flat_st.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

enum { RANK = 8, CLASSES = 1000, TASKS = 8, WARM = 4, MOST = 30, LEAST = 3 };

static const ds_dit_config xl = {.channels = 4,
                                 .side = 32,
                                 .patch = 2,
                                 .width = 1152,
                                 .depth = 28,
                                 .heads = 16,
                                 .mlp_ratio = 4,
                                 .classes = CLASSES,
                                 .learn_sigma = 1,
                                 .freq_dim = 256,
                                 .train_steps = 1000,
                                 .beta_start = 1e-4,
                                 .beta_end = 2e-2};

typedef struct {
    ds_device *dev;
    const char *kind;
    ds_dit_config cfg;
    ds_base *base;
    ds_model *model;
    size_t room;        /* of the device just after opening; 0: not known */
    double least, more; /* least room seen; seconds for the part */
} bench;

/* A part that fails does not stop the others; what it held stays held. */
static jmp_buf next_part;
static const char *running;

static _Noreturn void fail(const char *why) {
    fprintf(stderr, "bench_gpu: %s: %s\n", running, why);
    if (!strcmp(running, "opening"))
        exit(1);
    longjmp(next_part, 1);
}

static void must(int rc, const ds_error *err) {
    if (rc)
        fail(err->message);
}

/* ---------------------------------------------------------------- times */

typedef struct {
    double ms[MOST], start;
    int n, warm;
} times;

static void look_at_memory(bench *b) {
    if (b->dev->free_bytes)
        b->least = fmin(b->least, (double)b->dev->free_bytes(b->dev));
}

/* while (more(...)) { work; } with a step of the work between two calls, and waited for: but where
 * steps begin before the last one is read (ahead), the time between two of them counts. */
static int more(bench *b, times *t, double since, int ahead) {
    if (!ahead)
        b->dev->sync(b->dev);
    double now = ds_monotonic();
    if (t->warm < WARM) {
        t->start = t->warm++ == 0 ? now : t->start;
        look_at_memory(b);
        return 1;
    }
    if (t->warm++ > WARM)
        t->ms[t->n++] = (now - since) * 1e3;
    return t->n < MOST && (t->n < LEAST || now - t->start < b->more);
}

/* Steps that begin ahead may take turns in waiting: as on the other side, four at a time count. */
static void by_fours(times *t) {
    enum { GROUP = 4 };
    if (t->n < 2 * GROUP)
        return;
    t->n /= GROUP;
    for (int i = 0; i < t->n; i++) {
        double sum = 0;
        for (int k = 0; k < GROUP; k++)
            sum += t->ms[GROUP * i + k];
        t->ms[i] = sum / GROUP;
    }
}

static void report(const bench *b, const char *part, times *t, double per_step, const char *unit,
                   int batch) {
    double ms = ds_median(t->ms, t->n);
    printf("{\"who\": \"diffscaler\", \"part\": \"%s\", \"device\": \"%s\", \"batch\": %d, "
           "\"ms\": %.4f, \"ms_min\": %.4f, \"timed\": %d, \"%s\": %.4f, \"memory_MB\": %.0f}\n",
           part, b->dev->device_class, batch, ms, t->ms[0], t->n, unit, per_step / ms * 1e3,
           b->room ? ((double)b->room - b->least) / 1e6 : 0.0);
    fflush(stdout);
}

/* ---------------------------------------------------------------- parts */

/* adaLN-Zero would multiply everything by zero, and zeros take less power than numbers. */
static void random_weights(ds_base *base) {
    uint32_t u = 1;
    for (size_t i = 0; i < base->table.total; i++) {
        u = u * 1664525u + 1013904223u;
        base->data[i] += ((float)u * 0x1p-32f - 0.5f) * 0.02f;
    }
}

static void open_model(bench *b, const ds_dit_config *c) {
    ds_error err = {0};
    if (b->base && !memcmp(&b->cfg, c, sizeof *c))
        return;
    ds_model_free(b->model);
    ds_base_free(b->base);
    b->cfg = *c;
    must(ds_dit_base_new(&b->base, c, 1, &err), &err);
    random_weights(b->base);
    must(ds_model_new(&b->model, b->dev, b->base, &err), &err);
}

static ds_method_spec spec_of(const bench *b, uint64_t seed) {
    return (ds_method_spec){.method = DS_METHOD_AFFINER,
                            .rank = RANK,
                            .targets = 1023,
                            .classes = b->cfg.classes,
                            .seed = seed};
}

/* profiled: by op, instead of a time. */
static void train(bench *b, const char *part, int batch, int profiled) {
    const ds_dit_config *c = &b->cfg;
    size_t one = (size_t)(c->side * c->side * c->channels);
    ds_image_set set = {
        .n = 2 * batch, .side = c->side, .channels = c->channels, .classes = c->classes};
    uint8_t *pixels = ds_xmalloc((size_t)set.n * one);
    int *labels = ds_xmalloc((size_t)set.n * sizeof *labels);
    for (int i = 0; i < set.n; i++) {
        labels[i] = i % c->classes;
        for (size_t j = 0; j < one; j++)
            pixels[(size_t)i * one + j] =
                (uint8_t)ds_rng_u32(1, DS_STREAM_TEST, 0, (uint64_t)i, (uint32_t)j);
    }
    set.pixels = pixels;
    set.labels = labels;
    ds_train_options o = {.steps = 100000,
                          .batch = batch,
                          .lr = 1e-4,
                          .label_dropout = 0.1,
                          .vb_weight = 1,
                          .ema = 0.999,
                          .clip = 1,
                          .seed = 1};
    ds_method_spec spec = spec_of(b, 1);
    ds_trainer *t;
    ds_error err = {0};
    must(ds_trainer_new(&t, b->model, &spec, &o, &set, &err), &err);
    ds_train_report r;
    times at = {0};
    double since = 0;
    if (profiled) {
        enum { RUNS = 3 };
        must(ds_trainer_step(t, &r, &err), &err);
        ds_profile_begin(b->dev);
        for (int i = 0; i < RUNS; i++)
            must(ds_trainer_step(t, &r, &err), &err);
        ds_profile_end(b->dev, part, RUNS);
    } else {
        ds_trainer_ahead(t, o.steps);
        while (more(b, &at, since, 1)) {
            since = ds_monotonic();
            must(ds_trainer_step(t, &r, &err), &err);
        }
        by_fours(&at);
        report(b, part, &at, batch, "img_s", batch);
    }
    ds_trainer_free(t);
    free(pixels);
    free(labels);
}

/* tasks 0: the base; 1: a folded adapter; more: those in turn, by kind. */
static void sample(bench *b, const char *part, int images, int tasks, enum ds_net_kind kind,
                   int guided) {
    enum { STEPS = 5 };
    ds_adapter *a[TASKS];
    ds_net *net;
    ds_error err = {0};
    for (int i = 0; i < tasks; i++) {
        ds_method_spec spec = spec_of(b, (uint64_t)i + 1);
        must(ds_adapter_new(&a[i], b->base, &spec, &err), &err);
    }
    must(ds_net_new(&net, b->model, kind, (const ds_adapter *const *)a, tasks,
                    guided ? 2 * images : images, &err),
         &err);
    ds_sample_options so = {
        .sampler = DS_SAMPLER_DDPM, .steps = STEPS, .guide = {1, guided ? 4 : 1}, .seed = 1};
    ds_sample_request *q = ds_xcalloc((size_t)images, sizeof *q);
    float *raw =
        ds_xmalloc((size_t)(images * b->cfg.side * b->cfg.side * b->cfg.channels) * sizeof *raw);
    for (int i = 0; i < images; i++)
        q[i] = (ds_sample_request){.index = (uint64_t)i,
                                   .label = i % b->cfg.classes,
                                   .task = tasks > 1 ? i % tasks : 0,
                                   .base = tasks == 0};
    times at = {0};
    double since = 0;
    while (more(b, &at, since, 0)) {
        since = ds_monotonic();
        must(ds_sample(NULL, raw, net, NULL, &so, q, images, NULL, NULL, &err), &err);
    }
    for (int i = 0; i < at.n; i++) /* of one step of the network, with its share of start and end */
        at.ms[i] /= STEPS;
    report(b, part, &at, images, "img_s", images);
    ds_net_free(net);
    for (int i = 0; i < tasks; i++)
        ds_adapter_free(a[i]);
    free(q);
    free(raw);
}

/* The product behind linear_forward: n^3, bf16 in and out. */
static void gemm(bench *b, int n) {
    enum { TIMES = 10 };
    size_t size = (size_t)n * (size_t)n;
    ds_device *dev = b->dev;
    float *x = dev->alloc(dev, size * sizeof *x);
    ds_act *in = dev->alloc(dev, size * dev->act_size),
           *out = dev->alloc(dev, size * dev->act_size);
    ds_weight *w = dev->weight_new(dev, n, n, 0, 0);
    if (!x || !in || !out || !w)
        fail("no room for the product");
    uint32_t step = 0;
    uint64_t index = 0;
    dev->ops->normal(dev, x, 1, DS_STREAM_TEST, &step, &index, 1, size);
    dev->ops->act_from_f32(dev, in, x, size);
    dev->ops->weight_pack(dev, w, x, NULL);
    times at = {0};
    double since = 0;
    while (more(b, &at, since, 0)) {
        since = ds_monotonic();
        for (int i = 0; i < TIMES; i++)
            dev->ops->linear_forward(dev, out, in, w, NULL, n);
    }
    for (int i = 0; i < at.n; i++)
        at.ms[i] /= TIMES;
    report(b, "gemm", &at, 2e-12 * n * n * n, "tflop_s", 1);
    dev->weight_free(dev, w);
    dev->free(dev, x);
    dev->free(dev, in);
    dev->free(dev, out);
}

static float *numbers(size_t n, float scale, float offset) {
    float *x = ds_xmalloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = offset +
               scale *
                   ((float)(ds_rng_u32(2, DS_STREAM_TEST, 0, i >> 32, (uint32_t)i)) * 0x1p-31f - 1);
    return x;
}

/* ---------------------------------------------------------------- features */

static ds_inception *network(ds_device *dev, int batch) {
    static const char *const norm[] = {"weight", "bias", "running_mean", "running_var"};
    ds_st *st = ds_flat_new();
    char unit[64], name[128];
    ds_error err = {0};
    for (int i = 0; ds_inception_part_unit(DS_INCEPTION_FID, i, unit); i++) {
        int64_t shape[4];
        ds_inception_unit_shape(DS_INCEPTION_FID, i, shape);
        size_t n = (size_t)(shape[1] * shape[2] * shape[3]);
        snprintf(name, sizeof name, "%s.conv.weight", unit);
        ds_flat_add(st, name, 4, shape,
                    numbers((size_t)shape[0] * n, sqrtf(6 / (float)n), 0)); /* He, uniform */
        for (int k = 0; k < 4; k++) {
            snprintf(name, sizeof name, "%s.bn.%s", unit, norm[k]);
            ds_flat_add(st, name, 1, shape, numbers((size_t)shape[0], 0.1f, k % 3 ? 0 : 1));
        }
    }
    int64_t fc[2] = {DS_INCEPTION_LOGITS, DS_INCEPTION_POOL};
    ds_flat_add(st, "fc.weight", 2, fc, numbers((size_t)(fc[0] * fc[1]), 0.02f, 0));
    ds_flat_add(st, "fc.bias", 1, fc, numbers((size_t)fc[0], 0.02f, 0));
    ds_inception *net;
    must(ds_inception_open(dev, DS_INCEPTION_FID, st, batch, &net, &err), &err);
    ds_st_free(st);
    return net;
}

/* The same benchmark on another device of the same kind. */
static bench beside(const bench *b, const char *kind, enum ds_precision precision) {
    bench own = {.kind = kind, .more = b->more};
    ds_error err = {0};
    ds_device_options o = {.kind = kind, .precision = precision};
    must(ds_device_open(&own.dev, &o, &err), &err);
    own.room = own.dev->free_bytes ? own.dev->free_bytes(own.dev) : 0;
    own.least = (double)own.room;
    return own;
}

/* Pictures of a batch, twice: threads resize one half while the network reads the other. */
enum { BYTES_SIDE = 64, BYTES = BYTES_SIDE * BYTES_SIDE * 3, THREADS_MAX = 64 };

typedef struct {
    const uint8_t *bytes; /* (batch, BYTES), or NULL: nothing to resize */
    float *pictures;      /* (2, batch, 299, 299, 3) */
    int batch, half, first, step;
} resizer;

static void *resize(void *arg) {
    const resizer *r = arg;
    for (int i = r->first; i < r->batch; i += r->step)
        ds_resize_torch_f32(r->pictures + (size_t)(r->half * r->batch + i) * DS_INCEPTION_PIXELS,
                            DS_INCEPTION_SIDE, DS_INCEPTION_SIDE, r->bytes + (size_t)i * BYTES,
                            BYTES_SIDE, BYTES_SIDE);
    return NULL;
}

/* One batch of features, from the half that the last call has filled. */
static void one_batch(ds_inception *net, resizer *all, int threads, const ds_inception_out *out) {
    const float *images[DS_INCEPTION_BATCH_MAX];
    resizer each[THREADS_MAX];
    pthread_t id[THREADS_MAX];
    int half = all->half, started = 0;
    all->half = all->bytes ? !half : half;
    for (int i = 0; i < threads && all->bytes; i++, started++) {
        each[i] = *all;
        each[i].first = i;
        each[i].step = threads;
        if (pthread_create(&id[i], NULL, resize, &each[i]))
            fail("no thread");
    }
    for (int i = 0; i < all->batch; i++)
        images[i] = all->pictures + (size_t)(half * all->batch + i) * DS_INCEPTION_PIXELS;
    ds_inception_run(net, images, all->batch, out);
    for (int i = 0; i < started; i++)
        pthread_join(id[i], NULL);
}

static void inception(const bench *main, const char *part, int batch, enum ds_precision precision,
                      int from_bytes) {
    bench own = beside(main, main->kind, precision), *b = &own;
    ds_inception *net = network(b->dev, batch);
    resizer all = {.batch = batch, .step = 1};
    uint8_t *bytes = ds_xmalloc((size_t)batch * BYTES);
    int threads = ds_team_default_threads();
    float *pool = ds_xmalloc((size_t)batch * DS_INCEPTION_POOL * sizeof *pool);
    all.pictures = numbers((size_t)(2 * batch) * DS_INCEPTION_PIXELS, 1, 0);
    for (size_t i = 0; i < (size_t)batch * BYTES; i++)
        bytes[i] = (uint8_t)(i * 2654435761u >> 13);
    all.bytes = from_bytes ? bytes : NULL;
    ds_inception_out out = {.pool = pool};
    times at = {0};
    double since = 0;
    while (more(b, &at, since, 0)) {
        since = ds_monotonic();
        one_batch(net, &all, threads < THREADS_MAX ? threads : THREADS_MAX, &out);
    }
    report(b, part, &at, batch, "img_s", batch);
    ds_inception_free(net);
    ds_device_close(b->dev);
    free(all.pictures);
    free(bytes);
    free(pool);
}

/* Features (B, 2048) of the first B pictures. */
static void features_of(ds_inception *net, const float *pictures, int B, float *pool) {
    const float *images[2] = {pictures, pictures + DS_INCEPTION_PIXELS};
    ds_inception_out out = {.pool = pool};
    ds_inception_run(net, images, B, &out);
}

/* Limits: rounding of f32 sums in another order leaves some 1e-6 (tests/engine/test_engine_fid.c
 * asks for 1e-5); operands of 10 bits leave 5e-4 (docs/speed.md), four times that is asked for. */
static void inception_same(const bench *main, const char *part, int B) {
    static float want[2 * DS_INCEPTION_POOL], x[3][2 * DS_INCEPTION_POOL], one[DS_INCEPTION_POOL];
    static const double limits[] = {1e-5, 2e-3};
    float *pictures = numbers(2 * DS_INCEPTION_PIXELS, 1, 0);
    double apart[2];
    bench cpu = beside(main, "cpu", DS_PRECISION_F32);
    ds_inception *net = network(cpu.dev, B);
    features_of(net, pictures, B, want);
    ds_inception_free(net);
    ds_device_close(cpu.dev);
    for (int tf32 = 0; tf32 < 2; tf32++) {
        bench own = beside(main, main->kind, tf32 ? DS_PRECISION_TF32 : DS_PRECISION_F32);
        double diff = 0, all = 0;
        net = network(own.dev, B);
        for (int i = 0; i < 3; i++)
            features_of(net, pictures, B, x[i]);
        features_of(net, pictures, 1, one);
        for (int i = 0; i < B * DS_INCEPTION_POOL; i++) {
            diff += pow((double)x[0][i] - want[i], 2);
            all += pow((double)want[i], 2);
        }
        apart[tf32] = sqrt(diff / all);
        if (memcmp(x[0], x[1], sizeof x[0]) || memcmp(x[0], x[2], sizeof x[0]))
            fail("a recorded run gives other features");
        if (memcmp(x[0], one, sizeof one))
            fail("a picture's features depend on those beside it");
        ds_inception_free(net);
        ds_device_close(own.dev);
    }
    free(pictures);
    printf("{\"who\": \"diffscaler\", \"part\": \"%s\", \"f32_apart\": %.3g, \"tf32_apart\": "
           "%.3g}\n",
           part, apart[0], apart[1]);
    for (int tf32 = 0; tf32 < 2; tf32++)
        if (!(apart[tf32] < limits[tf32]))
            fail("features differ from the processor's");
}

static void run_part(bench *b, const char *part) {
    ds_dit_config small = xl, tiny = xl;
    small.channels = 3, small.patch = 4, small.width = 192, small.depth = 6, small.heads = 3;
    tiny.width = 48, tiny.depth = 2, tiny.heads = 2, tiny.side = 8, tiny.classes = 10;
    int is_tiny = !strncmp(part, "tiny-", 5), images = is_tiny ? 8 : 64;
    const char *what = is_tiny ? part + 5 : part;
    b->least = b->dev->free_bytes ? (double)b->dev->free_bytes(b->dev) : 0;
    if (!strncmp(what, "train-", 6) || !strncmp(what, "ops-", 4) || !strncmp(what, "sample", 6) ||
        !strncmp(what, "mixed", 5))
        open_model(b, is_tiny ? &tiny : &xl);
    if (!strcmp(what, "gemm"))
        gemm(b, is_tiny ? 64 : 8192);
    else if (!strncmp(what, "train-", 6))
        train(b, part, (int)strtol(what + 6, NULL, 10), 0);
    else if (!strncmp(what, "ops-", 4))
        train(b, part, (int)strtol(what + 4, NULL, 10), 1);
    else if (!strcmp(what, "sample"))
        sample(b, part, images, 1, DS_NET_INFER, 1);
    else if (!strcmp(what, "sample-base"))
        sample(b, part, images, 0, DS_NET_INFER, 1);
    else if (!strcmp(what, "mixed")) {
        sample(b, is_tiny ? "tiny-one-task" : "one-task", images, 1, DS_NET_INFER, 0);
        sample(b, part, images, TASKS, DS_NET_FOLDED, 0);
    } else if (!strcmp(what, "mixed-stacked"))
        sample(b, part, images, TASKS, DS_NET_STACKED, 0);
    else if (!strcmp(what, "small")) {
        open_model(b, is_tiny ? &tiny : &small);
        train(b, part, images, 0);
    } else if (!strcmp(what, "inception-same"))
        inception_same(b, part, is_tiny ? 1 : 2);
    else if (!strncmp(what, "inception", 9))
        inception(b, part, is_tiny ? 1 : DS_INCEPTION_BATCH_MAX,
                  strcmp(what + 9, "-f32") ? DS_PRECISION_TF32 : DS_PRECISION_F32,
                  !strcmp(what + 9, "-8bit"));
    else
        fail("unknown part: see the head of bench_gpu.c");
}

static void not_run(const char *part, const char *why) {
    printf("{\"who\": \"diffscaler\", \"part\": \"%s\", \"not_run\": \"%s\"}\n", part, why);
    fflush(stdout);
}

/* 1: it failed. */
static int try_part(bench *b, const char *part) {
    running = part;
    if (setjmp(next_part)) {
        not_run(part, "it failed");
        return 1;
    }
    run_part(b, part);
    return 0;
}

/* Seen by both processes. */
typedef struct {
    volatile int next; /* the part under way, or the first one that is left */
    volatile int open; /* the device has been opened */
    volatile double since;
} progress;

static int run_parts(char **argv, int argc, progress *p, double end) {
    bench b = {.kind = argv[1]};
    ds_error err = {0};
    int failed = 0;
    running = "opening";
    ds_device_options o = {.kind = argv[1], .precision = DS_PRECISION_BF16};
    must(ds_device_open(&b.dev, &o, &err), &err);
    p->open = 1;
    b.room = b.dev->free_bytes ? b.dev->free_bytes(b.dev) : 0;
    for (; p->next < argc; p->next++) {
        double left = end - ds_monotonic();
        p->since = ds_monotonic();
        if (left <= 0) {
            not_run(argv[p->next], "the time was used up");
            continue;
        }
        b.more = fmin(6, left / (argc - p->next) / 2);
        failed += try_part(&b, argv[p->next]);
    }
    ds_model_free(b.model);
    ds_base_free(b.base);
    ds_device_close(b.dev);
    return failed != 0;
}

/* Until the process ends, or a part takes longer than `most` seconds.  Its status. */
static int watch(pid_t pid, const progress *p, double most) {
    int status;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (ds_monotonic() - p->since > most)
            kill(pid, SIGKILL);
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    return status;
}

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: bench_gpu DEVICE SECONDS PART ...\n");
        return 2;
    }
    double seconds = strtod(argv[2], NULL), end = ds_monotonic() + seconds;
    progress *p = mmap(NULL, sizeof *p, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int failed = 0;
    if (p == MAP_FAILED)
        return 1;
    for (p->next = 3; p->next < argc; p->next++) {
        p->since = ds_monotonic();
        p->open = 0;
        pid_t pid = fork();
        if (pid == 0) {
            int rc = run_parts(argv, argc, p, end);
            fflush(stdout);
            _exit(rc);
        }
        int status = pid < 0 ? -1 : watch(pid, p, fmax(60, seconds / 2));
        failed |= status != 0;
        if (!p->open)
            return 1;
        if (p->next == argc)
            break;
        not_run(argv[p->next], WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL
                                   ? "it hung"
                                   : "it ended its process");
        fprintf(stderr, "bench_gpu: %s: %s %d\n", argv[p->next],
                WIFSIGNALED(status) ? "signal" : "exit status",
                WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    }
    return failed != 0;
}
