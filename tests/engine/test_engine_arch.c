/* tests/engine/test_engine_arch.c - another architecture than DiT goes through net, trainer, sampler
 * and files (tests/fixtures/arch/mixer.h). */
#include "base/mem.h"
#include "base/rng.h"
#include "engine/diffusion/sampler.h"
#include "engine/diffusion/trainer.h"
#include "engine/model/dit.h"
#include "tests/fixtures/arch/mixer.h"
#include "tests/harness.h"

#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 8, CLASSES = 3, IMAGES = 24, ONE = SIDE * SIDE * 3 };
static const mixer_config config = {
    .channels = 3, .side = SIDE, .patch = 2, .width = 24, .depth = 2, .hidden = 40, .classes = 4};
static const ds_device_options ref = {.kind = "ref"}, f32 = {.kind = "cpu", .threads = 1},
                               bf16 = {.kind = "cpu", .precision = DS_PRECISION_BF16, .threads = 2};
static const ds_method_spec affiner = {.method = DS_METHOD_AFFINER,
                                       .rank = 3,
                                       .targets = DS_TARGET_EVERY,
                                       .classes = CLASSES,
                                       .seed = 5};
static const ds_sample_options few = {
    .sampler = DS_SAMPLER_DPMPP2M, .steps = 4, .guide = {1, 1.5}, .seed = 1};

typedef struct {
    ds_device *dev;
    ds_base *base;
    ds_model *model;
} world;

static world open_world(const ds_device_options *o) {
    world w;
    ck_assert_int_eq(ds_device_open(&w.dev, o, NULL), 0);
    ck_assert_int_eq(mixer_base_new(&w.base, &config, 3, NULL), 0);
    ck_assert_int_eq(ds_model_new(&w.model, w.dev, w.base, NULL), 0);
    return w;
}

static void close_world(world *w) {
    ds_model_free(w->model);
    ds_base_free(w->base);
    ds_device_close(w->dev);
}

/* An adapter whose every number differs from where it starts. */
static ds_adapter *moved(const ds_base *base, const ds_method_spec *spec) {
    ds_adapter *a;
    ck_assert_int_eq(ds_adapter_new(&a, base, spec, NULL), 0);
    for (int i = 0; i < a->table.count; i++) {
        const ds_param *p = &a->table.items[i];
        float *noise = ds_xmalloc(p->count * sizeof *noise);
        ds_rng_normal(noise, p->count, spec->seed, DS_STREAM_TEST, (uint32_t)i, 1);
        for (size_t j = 0; j < p->count; j++)
            a->data[p->offset + j] += 0.2f * noise[j];
        free(noise);
    }
    return a;
}

/* ---------------------------------------------------------------- gradients */

enum { B = 3 };

typedef struct {
    world w;
    ds_net *net;
    ds_net_sample samples[B];
    float *x, *out, *dout, *p, *g; /* device, which is the host's memory */
    size_t count;
} slope;

/* The loss is the product of the output with dout, so that dout is its gradient. */
static double loss_at(slope *s) {
    double sum = 0;
    ds_net_refold(s->net);
    ds_net_forward(s->net, s->out, &(ds_net_input){.x = s->x, .samples = s->samples}, B);
    for (size_t i = 0; i < (size_t)2 * B * ONE; i++)
        sum += (double)s->out[i] * s->dout[i];
    return sum;
}

static slope slope_of(const ds_method_spec *spec) {
    slope s = {.w = open_world(&ref)};
    ds_device *dev = s.w.dev;
    ds_adapter *a = moved(s.w.base, spec);
    for (int b = 0; b < B; b++)
        s.samples[b] = (ds_net_sample){
            .t = 30.0f + 400.0f * (float)b, .row = b ? b : -1, .base_row = b ? -1 : 2};
    s.count = a->table.total;
    s.x = dev->alloc(dev, (size_t)B * ONE * 4);
    s.out = dev->alloc(dev, (size_t)2 * B * ONE * 4);
    s.dout = dev->alloc(dev, (size_t)2 * B * ONE * 4);
    s.p = dev->alloc(dev, s.count * 4);
    s.g = dev->alloc(dev, s.count * 4);
    ds_rng_normal(s.x, (size_t)B * ONE, 1, DS_STREAM_TEST, 0, 0);
    ds_rng_normal(s.dout, (size_t)2 * B * ONE, 2, DS_STREAM_TEST, 0, 0);
    memcpy(s.p, a->data, s.count * 4);
    memset(s.g, 0, s.count * 4);
    ck_assert_int_eq(ds_net_new_train(&s.net, s.w.model, a, B, 0, NULL), 0);
    ds_net_bind(s.net, s.p, s.g);
    loss_at(&s);
    ds_net_backward(s.net, s.dout, B);
    ds_adapter_free(a);
    return s;
}

static void slope_free(slope *s) {
    ds_device *dev = s->w.dev;
    ds_net_free(s->net);
    float *all[] = {s->x, s->out, s->dout, s->p, s->g};
    for (int i = 0; i < 5; i++)
        dev->free(dev, all[i]);
    close_world(&s->w);
}

/* Each entry of the table along a direction of its own, so that every number counts: the derivative
 * is the product of gradient and direction.  Central differences: they err by h^2 times a third
 * derivative, up to 0.5 % of slopes of 1 to 200, and by the rounding of two losses over 2 h: a loss
 * sums 1152 terms of size 1 to 10 that are exact to some 1e-6, so 5e-6 in all, and 0.02 at h = 1e-4.
 * phi = ReLU needs it as small as that: no hidden number of the branches may pass 0. */
START_TEST(gradients_are_the_slopes) {
    ds_method_spec spec[] = {affiner, affiner, affiner, affiner, affiner};
    spec[1].side_in = 1;
    spec[2].phi_relu = 1;
    spec[3].method = DS_METHOD_FULL;
    spec[4].method = DS_METHOD_BITFIT;
    const float h = spec[_i].phi_relu ? 1e-4f : 4e-3f;
    slope s = slope_of(&spec[_i]);
    ds_params table = {0};
    float *at = ds_xmalloc(s.count * sizeof *at), *way = ds_xmalloc(s.count * sizeof *way);
    ds_adapter_table(&table, s.w.base, &spec[_i]);
    memcpy(at, s.p, s.count * sizeof *at);
    for (int i = 0; i < table.count; i++) {
        const ds_param *p = &table.items[i];
        double said = 0, size = 0, loss[2];
        ds_rng_normal(way, p->count, 9, DS_STREAM_TEST, (uint32_t)i, 0);
        for (size_t j = 0; j < p->count; j++) {
            way[j] /= sqrtf((float)p->count);
            said += (double)way[j] * s.g[p->offset + j];
            size += fabs((double)way[j] * s.g[p->offset + j]);
        }
        for (int side = 0; side < 2; side++) {
            for (size_t j = 0; j < p->count; j++)
                s.p[p->offset + j] = at[p->offset + j] + (side ? h : -h) * way[j];
            loss[side] = loss_at(&s);
        }
        memcpy(s.p, at, s.count * sizeof *at);
        double fd = (loss[1] - loss[0]) / (2 * (double)h), off = fabs(fd - said);
        ck_assert_msg(off < (spec[_i].phi_relu ? 0.06 : 0.01) + 5e-3 * size,
                      "%s: slope %.5f, gradient %.5f (of terms %.5f)", p->name, fd, said, size);
        ck_assert_msg(size > 0, "%s has no gradient", p->name);
    }
    ds_params_release(&table);
    free(at);
    free(way);
    slope_free(&s);
}
END_TEST

/* ---------------------------------------------------------------- training */

static uint8_t pixels[IMAGES * ONE];
static int labels[IMAGES];
static const ds_image_set images = {.pixels = pixels,
                                    .labels = labels,
                                    .n = IMAGES,
                                    .side = SIDE,
                                    .channels = 3,
                                    .classes = CLASSES};
static const ds_train_options options = {.steps = 40,
                                         .batch = 8,
                                         .micro_batch = 4,
                                         .lr = 1e-2,
                                         .clip = 1,
                                         .ema = 0.9,
                                         .label_dropout = 0.1,
                                         .vb_weight = 0.01,
                                         .heldout = 2,
                                         .seed = 4};

static void make_images(void) {
    for (int i = 0; i < IMAGES; i++) {
        labels[i] = i % CLASSES;
        for (int j = 0; j < ONE; j++)
            pixels[i * ONE + j] = (uint8_t)(80 * labels[i] + 7 * (j % 3) + (j * i) % 5);
    }
}

static ds_trainer *new_trainer(const world *w, const ds_method_spec *spec) {
    ds_trainer *t;
    ds_error err;
    ck_assert_msg(!ds_trainer_new(&t, w->model, spec, &options, &images, &err), "%s", err.message);
    return t;
}

static void steps(ds_trainer *t, int n) {
    ds_train_report r;
    ds_error err;
    for (int i = 0; i < n; i++)
        ck_assert_msg(!ds_trainer_step(t, &r, &err), "%s", err.message);
}

static void encode(ds_trainer *t, const ds_base *base, char **bytes, size_t *n) {
    ds_adapter *a;
    ck_assert_int_eq(ds_trainer_result(t, &a, NULL), 0);
    ck_assert_int_eq(ds_adapter_encode(a, base, NULL, bytes, n, NULL), 0);
    ds_adapter_free(a);
}

/* Trains, stops at a checkpoint and goes on, to the same file; the file comes back as it was. */
START_TEST(it_trains_to_a_file) {
    const ds_device_options *opts[] = {&f32, &bf16};
    char path[PATH_MAX], *whole, *resumed, *again;
    size_t n, m, k;
    double before, after;
    world w = open_world(opts[_i]);
    snprintf(path, sizeof path, "%s/checkpoint", ds_test_tmpdir());
    ds_trainer *t = new_trainer(&w, &affiner);
    ck_assert_int_eq(ds_trainer_heldout(t, &before, NULL), 0);
    steps(t, options.steps);
    ck_assert_int_eq(ds_trainer_heldout(t, &after, NULL), 0);
    ck_assert_msg(after < 0.8 * before, "held-out loss %g, then %g", before, after);
    encode(t, w.base, &whole, &n);
    ds_trainer_free(t);

    t = new_trainer(&w, &affiner);
    steps(t, 15);
    ck_assert_int_eq(ds_trainer_save(t, path, NULL), 0);
    ds_trainer_free(t);
    t = new_trainer(&w, &affiner);
    ck_assert_int_eq(ds_trainer_load(t, path, NULL), 0);
    steps(t, options.steps - 15);
    encode(t, w.base, &resumed, &m);
    ds_trainer_free(t);
    ck_assert(n == m && !memcmp(whole, resumed, n));

    ds_adapter *back;
    ck_assert_int_eq(ds_adapter_decode(&back, w.base, "it", whole, n, NULL), 0);
    ck_assert_int_eq(ds_adapter_encode(back, w.base, NULL, &again, &k, NULL), 0);
    ck_assert(n == k && !memcmp(whole, again, n));
    ds_adapter_free(back);
    free(whole);
    free(resumed);
    free(again);
    close_world(&w);
}
END_TEST

static float *draw(const world *w, enum ds_net_kind kind, ds_adapter **a, int count,
                   const ds_sample_request *q, int n) {
    ds_net *net;
    float *raw = ds_xmalloc((size_t)n * ONE * sizeof *raw);
    ck_assert_int_eq(
        ds_net_new(&net, w->model, kind, (const ds_adapter *const *)a, count, 16, NULL), 0);
    ck_assert(!ds_net_table_new(net, 4)); /* it makes nothing ahead, and samples without */
    ck_assert_int_eq(ds_sample(NULL, raw, net, NULL, &few, q, n, NULL, NULL, NULL), 0);
    ds_net_free(net);
    return raw;
}

/* Two adapters and the base in one batch: folded, each has the bytes that it has alone; a set per
 * sample rounds otherwise (f32: a few ulp through two blocks and four steps). */
START_TEST(tasks_share_a_batch) {
    enum { N = 9 };
    world w = open_world(_i ? &bf16 : &f32);
    ds_method_spec other = affiner;
    other.seed = 77;
    other.phi_relu = 1;
    ds_adapter *sets[] = {moved(w.base, &affiner), moved(w.base, &other)};
    ds_sample_request q[N];
    for (int i = 0; i < N; i++)
        q[i] = (ds_sample_request){
            .index = (uint64_t)i, .task = i % 3, .base = i % 3 == 2, .label = i % CLASSES};
    float *folded = draw(&w, DS_NET_FOLDED, sets, 2, q, N),
          *stacked = draw(&w, DS_NET_STACKED, sets, 2, q, N);
    for (int task = 0; task < 3; task++) {
        float *alone = draw(&w, DS_NET_INFER, task < 2 ? &sets[task] : NULL, task < 2, &q[task], 1);
        ck_assert(!memcmp(alone, folded + task * ONE, ONE * sizeof *alone));
        for (int j = 0; !_i && j < ONE; j++)
            ck_assert_msg(fabsf(alone[j] - stacked[task * ONE + j]) < 2e-4f, "task %d: %g and %g",
                          task, (double)alone[j], (double)stacked[task * ONE + j]);
        free(alone);
    }
    ck_assert(memcmp(folded, folded + ONE, ONE * sizeof *folded) != 0);
    free(folded);
    free(stacked);
    ds_adapter_free(sets[0]);
    ds_adapter_free(sets[1]);
    close_world(&w);
}
END_TEST

/* ---------------------------------------------------------------- files */

START_TEST(its_base_says_what_it_is) {
    char path[PATH_MAX];
    ds_base *b, *back;
    ds_error err;
    snprintf(path, sizeof path, "%s/mixer.safetensors", ds_test_tmpdir());
    ck_assert_int_eq(mixer_base_new(&b, &config, 3, NULL), 0);
    ck_assert_int_eq(ds_base_save(b, path, 0, NULL, NULL), 0);
    ck_assert_msg(!ds_base_open(&back, path, NULL, &err), "%s", err.message);
    ck_assert(back->arch == &mixer_arch && ds_base_alike(b, back));
    ck_assert_int_eq(back->facts.blocks, 2);
    ck_assert_int_eq(back->row_width, config.width);
    ck_assert(!memcmp(back->data, b->data, b->table.total * sizeof *b->data));
    ds_base_free(back);
    ck_assert_int_eq(ds_base_new_blocks(&back, b, 1, 3, NULL), 0);
    ck_assert_int_eq(back->facts.blocks, 1);
    ck_assert(!ds_base_alike(b, back));
    ds_base_free(back);
    ds_base_free(b);
}
END_TEST

/* In the file of a program that has an architecture more. */
START_TEST(an_unknown_architecture_is_refused) {
    static ds_arch strange;
    char path[PATH_MAX];
    ds_base *b, *back;
    ds_error err;
    strange = mixer_arch;
    strange.name = "strange";
    snprintf(path, sizeof path, "%s/strange.safetensors", ds_test_tmpdir());
    ck_assert_int_eq(ds_base_new(&b, &strange, &config, 3, NULL), 0);
    ck_assert_int_eq(ds_base_save(b, path, 0, NULL, NULL), 0);
    ck_assert_int_eq(ds_base_open(&back, path, NULL, &err), DS_EINVAL);
    ck_assert_msg(strstr(err.message, path) && strstr(err.message, "architecture 'strange'"), "%s",
                  err.message);
    ds_base_free(b);
}
END_TEST

/* The first architecture is not named in files: they are those of before there were others. */
START_TEST(a_dit_names_no_architecture) {
    const ds_dit_config c = {.channels = 3,
                             .side = 8,
                             .patch = 4,
                             .width = 16,
                             .depth = 1,
                             .heads = 2,
                             .mlp_ratio = 2,
                             .freq_dim = 16,
                             .pixel = 1,
                             .train_steps = 1000,
                             .beta_start = 1e-4,
                             .beta_end = 0.02};
    ds_base *b;
    ck_assert_int_eq(ds_dit_base_new(&b, &c, 3, NULL), 0);
    json_t *doc = ds_base_config(b);
    ck_assert(!json_object_get(doc, "arch"));
    json_decref(doc);
    ds_base_free(b);
}
END_TEST

/* A condition has its place in the input, and no net takes one yet. */
START_TEST(a_condition_is_refused) {
    world w = open_world(&f32);
    ds_net *net;
    float x[ONE] = {0}, out[2 * ONE];
    ds_net_sample one = {.t = 3, .row = -1, .base_row = 0};
    ck_assert_int_eq(ds_net_new(&net, w.model, DS_NET_INFER, NULL, 0, 1, NULL), 0);
    ds_net_forward(net, out, &(ds_net_input){.x = x, .samples = &one, .condition = x}, 1);
}
END_TEST

static void register_cases(TCase *tc) {
    make_images();
    ds_arch_register(&mixer_arch);
    tcase_add_loop_test(tc, gradients_are_the_slopes, 0, 5);
    tcase_add_loop_test(tc, it_trains_to_a_file, 0, 2);
    tcase_add_loop_test(tc, tasks_share_a_batch, 0, 2);
    tcase_add_test(tc, its_base_says_what_it_is);
    tcase_add_test(tc, an_unknown_architecture_is_refused);
    tcase_add_test(tc, a_dit_names_no_architecture);
    tcase_add_test_raise_signal(tc, a_condition_is_refused, SIGABRT);
}

int main(void) { return ds_test_main("engine_arch", register_cases); }
