/* tests/engine/test_engine_train.c - promises of the engine: the adapted model starts as the base bit for
 * bit, resume is exact, threads and neighbours do not matter, samplers match PyTorch, stacked sets
 * match folded ones, adapter files refuse what is not theirs. */
#include "base/fs.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/zio.h"
#include "engine/files/safetensors.h"
#include "engine/diffusion/sampler.h"
#include "engine/diffusion/trainer.h"
#include "tests/harness.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IMAGES = 30, DEPTH = 2 };
#include "tests/fixtures/engine_small.h"

static void make_images(void) {
    label_images();
    for (int i = 0; i < IMAGES; i++)
        for (int j = 0; j < ONE; j++)
            pixels[i * ONE + j] =
                (uint8_t)((ds_rng_u32(1, DS_STREAM_TEST, 0, (uint64_t)i, (uint32_t)j) & 63) +
                          60 * (uint32_t)labels[i]);
}

typedef struct {
    ds_device *dev;
    ds_base *base;
    ds_model *model;
} ds_world;

static const ds_device_options f32 = {.kind = "cpu", .precision = DS_PRECISION_F32, .threads = 2};
static const ds_device_options one_thread = {
    .kind = "cpu", .precision = DS_PRECISION_F32, .threads = 1};
static const ds_device_options bf16 = {.kind = "cpu", .precision = DS_PRECISION_BF16, .threads = 2};

static ds_world open_world(const ds_device_options *opt) {
    ds_world w;
    ck_assert_int_eq(ds_device_open(&w.dev, opt, NULL), 0);
    w.base = base_without_zeros();
    memset(w.base->sha256, 'a', 64);
    w.base->sha256[64] = 0;
    ck_assert_int_eq(ds_model_new(&w.model, w.dev, w.base, NULL), 0);
    return w;
}

static void close_world(ds_world *w) {
    ds_model_free(w->model);
    ds_base_free(w->base);
    ds_device_close(w->dev);
}

static const ds_method_spec affiner = {.method = DS_METHOD_AFFINER,
                                       .rank = 4,
                                       .targets = DS_TARGET_DEFAULT,
                                       .classes = CLASSES,
                                       .seed = 9};
static const ds_train_options options = {.steps = 12,
                                         .batch = 6,
                                         .micro_batch = 3,
                                         .lr = 1e-2,
                                         .warmup = 2,
                                         .clip = 1,
                                         .ema = 0.9,
                                         .label_dropout = 0.2,
                                         .flip = 1,
                                         .vb_weight = 1,
                                         .heldout = 3,
                                         .seed = 4};

static ds_trainer *new_trainer(ds_world *w, const ds_method_spec *spec,
                               const ds_train_options *opt) {
    ds_trainer *t;
    ds_error err;
    ck_assert_msg(!ds_trainer_new(&t, w->model, spec, opt, &images, &err), "%s", err.message);
    return t;
}

static void steps(ds_trainer *t, int n) {
    ds_train_report r;
    ds_error err;
    for (int i = 0; i < n; i++)
        ck_assert_msg(!ds_trainer_step(t, &r, &err), "%s", err.message);
}

/* Raw samples of an adapter (or of the base) through a folded net. */
static float *draw(ds_world *w, const ds_adapter *a, int n, int batch,
                   const ds_sample_options *so) {
    ds_net *net, *base = NULL;
    ds_sample_request q[16];
    float *raw = ds_xmalloc((size_t)n * ONE * sizeof *raw);
    ds_error err;
    ck_assert_int_eq(ds_net_new(&net, w->model, DS_NET_INFER, &a, a != NULL, batch, NULL), 0);
    if (ds_guidance_needs_base(so->guide))
        ck_assert_int_eq(ds_net_new(&base, w->model, DS_NET_INFER, NULL, 0, batch, NULL), 0);
    for (int i = 0; i < n; i++)
        q[i] =
            (ds_sample_request){.index = (uint64_t)i, .label = a ? i % CLASSES : i % 4, .base = !a};
    ck_assert_msg(!ds_sample(NULL, raw, net, base, so, q, n, NULL, NULL, &err), "%s", err.message);
    ds_net_free(net);
    ds_net_free(base);
    return raw;
}

static const ds_sample_options fast = {
    .sampler = DS_SAMPLER_DPMPP2M, .steps = 4, .guide = {1, 1.5}, .seed = 3};

START_TEST(fresh_adapter_is_the_base_bit_for_bit) {
    const ds_device_options *opts[] = {&f32, &bf16};
    ds_world w = open_world(opts[_i]);
    for (int variant = 0; variant < 5; variant++) {
        ds_method_spec spec = affiner;
        spec.side_in = variant == 1;
        spec.phi_relu = variant == 2;
        if (variant >= 3)
            spec.method = variant == 3 ? DS_METHOD_FULL : DS_METHOD_BITFIT;
        ds_adapter *a;
        ds_net *net, *plain;
        float *x = w.dev->alloc(w.dev, ONE * 4), *y0 = w.dev->alloc(w.dev, ONE * 8),
              *y1 = w.dev->alloc(w.dev, ONE * 8);
        ds_rng_normal(x, ONE, 1, DS_STREAM_TEST, 0, 0);
        ck_assert_int_eq(ds_adapter_new(&a, w.base, &spec, NULL), 0);
        ck_assert_int_eq(ds_net_new(&plain, w.model, DS_NET_INFER, NULL, 0, 2, NULL), 0);
        ck_assert_int_eq(
            ds_net_new(&net, w.model, DS_NET_INFER, (const ds_adapter *const[]){a}, 1, 2, NULL), 0);
        ds_net_sample null = {.t = 300, .row = -1, .base_row = 4},
                      row = {.t = 300, .row = 1, .base_row = -1};
        ds_net_forward(plain, y0, &(ds_net_input){.x = x, .samples = &null}, 1);
        ds_net_forward(net, y1, &(ds_net_input){.x = x, .samples = &row},
                       1); /* new rows start as the unconditional row */
        ck_assert_msg(!memcmp(y0, y1, ONE * 8), "variant %d differs from the base", variant);
        ds_net_free(net);
        ds_net_free(plain);
        ds_adapter_free(a);
        w.dev->free(w.dev, x);
        w.dev->free(w.dev, y0);
        w.dev->free(w.dev, y1);
    }
    close_world(&w);
}
END_TEST

START_TEST(resume_gives_the_same_bytes) {
    const ds_device_options *opts[] = {&f32, &bf16, &bf16};
    char path[PATH_MAX], whole[DS_HEX_SIZE], resumed[DS_HEX_SIZE];
    ds_fs_join(path, sizeof path, ds_test_tmpdir(), "checkpoint");
    ds_world w = open_world(opts[_i]);
    ds_method_spec spec = affiner;
    if (_i == 2)
        spec.method = DS_METHOD_BITFIT;
    ds_trainer *t = new_trainer(&w, &spec, &options);
    double heldout;
    steps(t, 12);
    result_digest(t, w.base, whole);
    ds_trainer_free(t);
    for (int stop = 0; stop < 12; stop += 5) {
        t = new_trainer(&w, &spec, &options);
        steps(t, stop);
        ck_assert_int_eq(ds_trainer_heldout(t, &heldout, NULL), 0); /* must not disturb the run */
        ck_assert_int_eq(ds_trainer_save(t, path, NULL), 0);
        ds_trainer_free(t);
        t = new_trainer(&w, &spec, &options);
        ck_assert_int_eq(ds_trainer_load(t, path, NULL), 0);
        ck_assert_int_eq(ds_trainer_done(t), stop);
        steps(t, 12 - stop);
        result_digest(t, w.base, resumed);
        ds_trainer_free(t);
        ck_assert_str_eq(whole, resumed);
    }
    close_world(&w);
}
END_TEST

START_TEST(threads_do_not_matter) {
    char digest[2][DS_HEX_SIZE];
    const ds_device_options *opts[] = {&f32, &one_thread};
    for (int i = 0; i < 2; i++) {
        ds_world w = open_world(opts[i]);
        ds_trainer *t = new_trainer(&w, &affiner, &options);
        steps(t, 5);
        result_digest(t, w.base, digest[i]);
        ds_trainer_free(t);
        close_world(&w);
    }
    ck_assert_str_eq(digest[0], digest[1]);
}
END_TEST

START_TEST(damaged_or_foreign_checkpoints_are_refused) {
    char path[PATH_MAX], *bytes;
    size_t n;
    ds_error err;
    ds_fs_join(path, sizeof path, ds_test_tmpdir(), "checkpoint-2");
    ds_world w = open_world(&f32);
    ds_trainer *t = new_trainer(&w, &affiner, &options);
    steps(t, 1);
    ck_assert_int_eq(ds_trainer_save(t, path, NULL), 0);
    ds_train_options other = options;
    other.lr *= 2;
    ds_trainer *u = new_trainer(&w, &affiner, &other);
    ck_assert_int_eq(ds_trainer_load(u, path, &err), DS_EINTEGRITY);
    ck_assert_int_eq(ds_fs_read(path, 1 << 24, &bytes, &n, NULL), 0);
    for (int i = 0; i < 40; i++) {
        size_t at = ds_rng_below((uint32_t)n, 7, DS_STREAM_TEST, 0, 0, (uint32_t)i);
        bytes[at] ^= (char)(1 << (i & 7));
        ck_assert_int_eq(ds_fs_write(path, bytes, n, NULL), 0);
        ck_assert_int_eq(ds_trainer_load(t, path, &err), DS_EINTEGRITY);
        bytes[at] ^= (char)(1 << (i & 7));
    }
    ck_assert_int_eq(ds_fs_write(path, bytes, n / 2, NULL), 0);
    ck_assert_int_eq(ds_trainer_load(t, path, &err), DS_EINTEGRITY);
    free(bytes);
    ds_trainer_free(t);
    ds_trainer_free(u);
    close_world(&w);
}
END_TEST

START_TEST(training_lowers_the_heldout_loss) {
    static const struct {
        ds_method_spec spec;
        double lr;
    } runs[] = {
        {{.method = DS_METHOD_AFFINER, .rank = 4, .targets = DS_TARGET_DEFAULT, .classes = CLASSES},
         1e-2},
        {{.method = DS_METHOD_AFFINER,
          .rank = 4,
          .targets = DS_TARGET_DEFAULT,
          .classes = CLASSES,
          .freeze_v = 1},
         1e-2},
        {{.method = DS_METHOD_AFFINER,
          .rank = 0,
          .targets = DS_TARGET_Q | DS_TARGET_FC2,
          .classes = CLASSES},
         1e-2},
        {{.method = DS_METHOD_AFFINER,
          .rank = 3,
          .side_in = 1,
          .targets = 1023,
          .classes = CLASSES},
         1e-2},
        {{.method = DS_METHOD_AFFINER,
          .rank = 3,
          .phi_relu = 1,
          .targets = 1023,
          .classes = CLASSES},
         1e-2},
        {{.method = DS_METHOD_EMBEDDING, .classes = CLASSES}, 5e-2},
        {{.method = DS_METHOD_FULL, .classes = CLASSES}, 2e-3},
        {{.method = DS_METHOD_BITFIT, .classes = CLASSES}, 2e-2}};
    ds_world w = open_world(&f32);
    ds_train_options o = options;
    o.lr = runs[_i].lr;
    o.label_dropout = 0;
    ds_trainer *t = new_trainer(&w, &runs[_i].spec, &o);
    double before, after;
    ck_assert_int_eq(ds_trainer_heldout(t, &before, NULL), 0);
    steps(t, 30);
    ck_assert_int_eq(ds_trainer_heldout(t, &after, NULL), 0);
    ck_assert_msg(after < 0.97 * before, "held-out loss %.4f -> %.4f", before, after);
    ds_trainer_free(t);
    close_world(&w);
}
END_TEST

START_TEST(frozen_entries_do_not_move) {
    ds_world w = open_world(&f32);
    ds_method_spec spec = affiner;
    spec.targets = DS_TARGET_Q | DS_TARGET_FC1;
    spec.freeze_v = 1;
    ds_adapter *start, *end;
    ck_assert_int_eq(ds_adapter_new(&start, w.base, &spec, NULL), 0);
    ds_params_round(&start->table, start->data);
    ds_trainer *t = new_trainer(&w, &spec, &options);
    steps(t, 4);
    ck_assert_int_eq(ds_trainer_result(t, &end, NULL), 0);
    for (int i = 0; i < end->table.count; i++) {
        const ds_param *p = &end->table.items[i];
        int same =
            !memcmp(start->data + p->offset, end->data + p->offset, p->count * sizeof(float));
        ck_assert_msg(same == p->frozen, "%s", p->name);
        if (strstr(p->name, "attn.k") || p->kind == DS_PARAM_V)
            ck_assert(p->frozen);
    }
    ds_adapter_free(start);
    ds_adapter_free(end);
    ds_trainer_free(t);
    close_world(&w);
}
END_TEST

static ds_adapter *trained(ds_world *w, const ds_method_spec *spec, uint64_t seed) {
    ds_train_options o = options;
    o.seed = seed;
    ds_trainer *t = new_trainer(w, spec, &o);
    ds_adapter *a;
    steps(t, 6);
    ck_assert_int_eq(ds_trainer_result(t, &a, NULL), 0);
    ds_trainer_free(t);
    return a;
}

START_TEST(a_sample_does_not_depend_on_its_neighbours) {
    const ds_device_options *opts[] = {&f32, &bf16};
    ds_world w = open_world(opts[_i]);
    ds_adapter *a = trained(&w, &affiner, 4);
    static const ds_guidance guides[] = {{1, 1}, {1, 1.5}, {1.5, 1.5}, {1.5, 3}};
    for (int i = 0; i < 4; i++) {
        ds_sample_options so = fast;
        so.guide = guides[i];
        so.sampler = (enum ds_sampler)(i % 3);
        float *many = draw(&w, a, 7, 14, &so), *few = draw(&w, a, 7, 3, &so),
              *one = draw(&w, a, 2, 1, &so);
        ck_assert_int_eq(memcmp(many, few, 7 * ONE * sizeof *many), 0);
        ck_assert_int_eq(memcmp(many, one, 2 * ONE * sizeof *many), 0);
        free(many);
        free(few);
        free(one);
    }
    ds_adapter_free(a);
    close_world(&w);
}
END_TEST

/* Four tasks and the base in one batch, against each alone.  f32: the folded product rounds
 * diag(a) W + s U V once, the stacked one rounds its terms, and a bias of its own is the base's plus
 * the difference; a few ulp through two blocks. */
START_TEST(stacked_tasks_match_folded_ones) {
    ds_world w = open_world(&f32);
    ds_method_spec second = affiner, third = affiner, fourth = affiner;
    second.rank = 0;
    second.targets = DS_TARGET_V | DS_TARGET_FC1;
    third.phi_relu = 1;
    third.seed = 77;
    fourth.method = DS_METHOD_BITFIT;
    ds_adapter *sets[] = {trained(&w, &affiner, 4), trained(&w, &second, 5), trained(&w, &third, 6),
                          trained(&w, &fourth, 7)};
    enum { SETS = sizeof sets / sizeof sets[0], N = 2 * (SETS + 1) };
    ds_net *net;
    ck_assert_int_eq(
        ds_net_new(&net, w.model, DS_NET_STACKED, (const ds_adapter *const *)sets, SETS, 20, NULL),
        0);
    ds_sample_request q[N];
    for (int i = 0; i < N; i++) {
        int task = i % (SETS + 1);
        q[i] = (ds_sample_request){.index = (uint64_t)i,
                                   .task = task,
                                   .base = task == SETS,
                                   .label = task == SETS ? i % 4 : i % CLASSES};
    }
    ds_sample_options so = fast;
    so.steps = 3;
    float *mixed = ds_xmalloc(N * ONE * sizeof *mixed);
    ck_assert_int_eq(ds_sample(NULL, mixed, net, NULL, &so, q, N, NULL, NULL, NULL), 0);
    for (int task = 0; task <= SETS; task++) {
        float *alone = draw(&w, task < SETS ? sets[task] : NULL, N, 20, &so);
        for (int i = task; i < N; i += SETS + 1)
            for (int j = 0; j < ONE; j++)
                ck_assert_msg(fabsf(mixed[i * ONE + j] - alone[i * ONE + j]) < 2e-4f,
                              "task %d sample %d: %g, alone %g", task, i,
                              (double)mixed[i * ONE + j], (double)alone[i * ONE + j]);
        free(alone);
    }
    free(mixed);
    ds_net_free(net);
    for (int i = 0; i < SETS; i++)
        ds_adapter_free(sets[i]);
    close_world(&w);
}
END_TEST

/* Each task in weights of its own: the bytes that it has alone, in any order and mixture. */
START_TEST(folded_tasks_are_those_alone) {
    ds_world w = open_world(_i ? &bf16 : &f32);
    ds_method_spec spec[] = {affiner, affiner, affiner, affiner, affiner};
    enum { SETS = 5, N = 16 };
    spec[1].rank = 0;
    spec[1].targets = DS_TARGET_V | DS_TARGET_FC1;
    spec[2].phi_relu = 1;
    spec[2].targets = 1023;
    spec[3].side_in = 1;
    spec[4].method = DS_METHOD_BITFIT;
    ds_adapter *sets[SETS];
    for (int i = 0; i < SETS; i++)
        sets[i] = trained(&w, &spec[i], 3 + (uint64_t)i);
    ds_net *net;
    ck_assert_int_eq(
        ds_net_new(&net, w.model, DS_NET_FOLDED, (const ds_adapter *const *)sets, SETS, 8, NULL),
        0);
    ds_sample_request q[N];
    for (int i = 0; i < N; i++) {
        int task = (i * i + i / 2) % (SETS + 1); /* all of them, some twice */
        q[i] = (ds_sample_request){.index = (uint64_t)i,
                                   .task = task,
                                   .base = task == SETS,
                                   .label = task == SETS ? i % 4 : i % CLASSES};
    }
    ds_sample_options so = fast;
    so.steps = 3;
    float *mixed = ds_xmalloc(N * ONE * sizeof *mixed);
    uint8_t *shown = ds_xmalloc(N * ONE);
    ck_assert_int_eq(ds_sample(shown, mixed, net, NULL, &so, q, N, NULL, NULL, NULL), 0);
    for (int i = 0; i < N; i++) {
        ds_net *alone;
        float raw[ONE];
        uint8_t picture[ONE];
        const ds_adapter *mine[] = {q[i].base ? NULL : sets[q[i].task]};
        ck_assert_int_eq(ds_net_new(&alone, w.model, DS_NET_INFER, mine, !q[i].base, 2, NULL), 0);
        ck_assert_int_eq(ds_sample(picture, raw, alone, NULL, &so, &q[i], 1, NULL, NULL, NULL), 0);
        ck_assert_msg(!memcmp(raw, mixed + i * ONE, sizeof raw), "sample %d, task %d", i,
                      q[i].task);
        ck_assert(!memcmp(picture, shown + i * ONE, sizeof picture));
        ds_net_free(alone);
    }
    free(mixed);
    free(shown);
    ds_net_free(net);
    for (int i = 0; i < SETS; i++)
        ds_adapter_free(sets[i]);
    close_world(&w);
}
END_TEST

static struct ds_ops counted;
static int products;
static void (*product_f32)(ds_device *, float *, const ds_act *, const ds_weight *, const float *,
                           int);

static void count_product(ds_device *dev, float *y, const ds_act *x, const ds_weight *w,
                          const float *bias, int rows) {
    products++;
    product_f32(dev, y, x, w, bias, rows);
}

/* Modulations of all steps are one product a layer and task, not one a step. */
START_TEST(modulations_of_a_task_are_one_product) {
    enum { TASKS = 2, STEPS = 9, MODULATED = DEPTH + 3, EACH_PASS = 2 };
    ds_world w = open_world(&f32);
    ds_method_spec spec = affiner;
    spec.targets = 1023;
    ds_adapter *sets[TASKS];
    for (int i = 0; i < TASKS; i++)
        sets[i] = trained(&w, &spec, 3 + (uint64_t)i);
    ds_net *net;
    ck_assert_int_eq(
        ds_net_new(&net, w.model, DS_NET_FOLDED, (const ds_adapter *const *)sets, TASKS, 4, NULL),
        0);
    const struct ds_ops *ops = w.dev->ops;
    counted = *ops;
    product_f32 = ops->linear_f32_forward;
    counted.linear_f32_forward = count_product;
    w.dev->ops = &counted;
    ds_sample_options so = fast;
    so.steps = STEPS;
    so.guide = (ds_guidance){1, 1};
    ds_sample_request q[4];
    for (int i = 0; i < 4; i++)
        q[i] = (ds_sample_request){.index = (uint64_t)i, .task = i % TASKS, .label = i / TASKS};
    float raw[4 * ONE];
    products = 0;
    ck_assert_int_eq(ds_sample(NULL, raw, net, NULL, &so, q, 4, NULL, NULL, NULL), 0);
    ck_assert_int_eq(products, TASKS * (MODULATED + STEPS * EACH_PASS));
    w.dev->ops = ops;
    ds_net_free(net);
    for (int i = 0; i < TASKS; i++)
        ds_adapter_free(sets[i]);
    close_world(&w);
}
END_TEST

/* Every way in which an adapter can be applied, in every layer. */
START_TEST(trains_and_samples_on_every_side) {
    ds_world w = open_world(_i & 4 ? &bf16 : &f32);
    ds_method_spec spec = affiner;
    spec.side_in = _i & 1;
    spec.phi_relu = _i >> 1 & 1;
    spec.targets = 1023;
    ds_adapter *a = trained(&w, &spec, 3);
    float *x = draw(&w, a, 3, 4, &fast);
    for (int i = 0; i < 3 * ONE; i++)
        ck_assert(isfinite(x[i]));
    free(x);
    ds_adapter_free(a);
    close_world(&w);
}
END_TEST

START_TEST(adapter_file_returns_what_was_stored) {
    ds_world w = open_world(&f32);
    ds_method_spec specs[] = {affiner,
                              {.method = DS_METHOD_EMBEDDING, .classes = CLASSES},
                              {.method = DS_METHOD_FULL, .classes = CLASSES},
                              affiner,
                              {.method = DS_METHOD_BITFIT, .rank = 8, .classes = CLASSES}};
    specs[3].freeze_v = 1;
    specs[3].targets = DS_TARGET_K | DS_TARGET_ADALN;
    for (int i = 0; i < 5; i++) {
        ds_adapter *a = trained(&w, &specs[i], 4), *b;
        char *bytes, *again;
        size_t n, m;
        ds_error err;
        ck_assert_int_eq(ds_adapter_encode(a, w.base, NULL, &bytes, &n, NULL), 0);
        ck_assert_msg(!ds_adapter_decode(&b, w.base, "x", bytes, n, &err), "%s", err.message);
        ck_assert_uint_eq(a->table.total, b->table.total);
        for (int e = 0; e < a->table.count; e++) {
            const ds_param *p = &a->table.items[e];
            ck_assert_msg(
                !memcmp(a->data + p->offset, b->data + p->offset, p->count * sizeof(float)),
                "spec %d: %s", i, p->name);
        }
        ck_assert_int_eq(ds_adapter_encode(b, w.base, NULL, &again, &m, NULL), 0);
        ck_assert(n == m && !memcmp(bytes, again, n));
        w.base->sha256[0] = 'b'; /* another base */
        ds_adapter *c;
        ck_assert_int_eq(ds_adapter_decode(&c, w.base, "x", bytes, n, &err), DS_EINTEGRITY);
        ck_assert(strstr(err.message, "belongs to base aaaa") && strstr(err.message, "baaa"));
        w.base->sha256[0] = 'a';
        free(bytes);
        free(again);
        ds_adapter_free(a);
        ds_adapter_free(b);
    }
    close_world(&w);
}
END_TEST

START_TEST(any_flipped_bit_of_an_adapter_is_refused) {
    ds_world w = open_world(&f32);
    ds_adapter *a = trained(&w, &affiner, 4), *b;
    char path[PATH_MAX], *bytes, *stored, sha[DS_HEX_SIZE];
    size_t n;
    ds_error err;
    ds_fs_join(path, sizeof path, ds_test_tmpdir(), "adapter.zst");
    ck_assert_int_eq(ds_adapter_encode(a, w.base, NULL, &bytes, &n, NULL), 0);
    ds_digest(bytes, n, sha);
    ck_assert_int_eq(ds_zio_write_file(path, bytes, n, 19, NULL), 0);
    free(bytes);
    ck_assert_int_eq(ds_adapter_open(&b, w.base, path, sha, NULL), 0);
    ds_adapter_free(b);
    ck_assert_int_eq(ds_fs_read(path, 1 << 24, &stored, &n, NULL), 0);
    for (int i = 0; i < 200; i++) {
        size_t at = ds_rng_below((uint32_t)n, 8, DS_STREAM_TEST, 0, 0, (uint32_t)i);
        stored[at] ^= (char)(1 << (i & 7));
        ck_assert_int_eq(ds_fs_write(path, stored, n, NULL), 0);
        int rc = ds_adapter_open(&b, w.base, path, sha, &err);
        ck_assert_msg(rc == DS_EINTEGRITY || rc == DS_ELIMIT, "flip %d at %zu of %zu: %d", i, at, n,
                      rc);
        stored[at] ^= (char)(1 << (i & 7));
    }
    free(stored);
    ds_adapter_free(a);
    close_world(&w);
}
END_TEST

static void cases(TCase *tc) {
    make_images();
    tcase_add_loop_test(tc, fresh_adapter_is_the_base_bit_for_bit, 0, 2);
    tcase_add_loop_test(tc, resume_gives_the_same_bytes, 0, 3);
    tcase_add_test(tc, threads_do_not_matter);
    tcase_add_test(tc, damaged_or_foreign_checkpoints_are_refused);
    tcase_add_loop_test(tc, training_lowers_the_heldout_loss, 0, 8);
    tcase_add_test(tc, frozen_entries_do_not_move);
    tcase_add_loop_test(tc, a_sample_does_not_depend_on_its_neighbours, 0, 2);
    tcase_add_test(tc, stacked_tasks_match_folded_ones);
    tcase_add_loop_test(tc, folded_tasks_are_those_alone, 0, 2);
    tcase_add_test(tc, modulations_of_a_task_are_one_product);
    tcase_add_loop_test(tc, trains_and_samples_on_every_side, 0, 8);
    tcase_add_test(tc, adapter_file_returns_what_was_stored);
    tcase_add_test(tc, any_flipped_bit_of_an_adapter_is_refused);
}

int main(void) { return ds_test_main("engine train", cases); }
