/* tests/engine/test_engine_cuda.c - the engine on the CUDA device (emulated: tests/emu/emu.h) beside the
 * CPU: training, sampling and several tasks in a batch give the same results in f32, recorded
 * passes those of plain ones, and a sample does not depend on its neighbours. */
#include "base/mem.h"
#include "base/rng.h"
#include "engine/diffusion/sampler.h"
#include "engine/diffusion/trainer.h"
#include "tests/harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IMAGES = 20, DEPTH = 2 };
#include "tests/fixtures/engine_small.h"

enum { STEPS = 6 };

typedef struct {
    ds_device *dev;
    ds_base *base;
    ds_model *model;
} world;

static world world_new(const char *kind, enum ds_precision precision) {
    world w;
    ds_error err = {0};
    ds_device_options o = {.kind = kind, .precision = precision, .threads = 1};
    ds_test_emulated_gpu();
    ck_assert_msg(!ds_device_open(&w.dev, &o, &err), "%s", err.message);
    ck_assert_int_eq(ds_dit_base_new(&w.base, &config, 7, NULL), 0);
    /* adaLN-Zero would hide the blocks: every entry gets a little noise */
    for (size_t i = 0; i < w.base->table.total; i += 4) {
        uint32_t r[4];
        ds_rng_block(r, 5, DS_STREAM_TEST, 0, 0, (uint32_t)(i / 4));
        for (size_t k = 0; k < 4 && i + k < w.base->table.total; k++)
            w.base->data[i + k] += ((float)r[k] * 0x1p-32f - 0.5f) * 0.2f;
    }
    ck_assert_int_eq(ds_model_new(&w.model, w.dev, w.base, NULL), 0);
    for (int i = 0; i < IMAGES * ONE; i++)
        pixels[i] = (uint8_t)(ds_rng_u32(1, DS_STREAM_TEST, 0, 0, (uint32_t)i) & 255);
    label_images();
    return w;
}

static void world_free(world *w) {
    ds_model_free(w->model);
    ds_base_free(w->base);
    ds_device_close(w->dev);
}

/* ---------------------------------------------------------------- training */

static const ds_method_spec methods[] = {
    {.method = DS_METHOD_AFFINER, .rank = 4, .targets = 1023, .classes = CLASSES, .seed = 1},
    {.method = DS_METHOD_AFFINER,
     .rank = 3,
     .targets = 255,
     .classes = CLASSES,
     .seed = 1,
     .phi_relu = 1},
    {.method = DS_METHOD_AFFINER,
     .rank = 2,
     .targets = 255,
     .classes = CLASSES,
     .seed = 1,
     .side_in = 1},
    {.method = DS_METHOD_FULL, .seed = 1}};
enum { METHODS = sizeof methods / sizeof *methods };

typedef struct {
    double loss[STEPS], norm[STEPS], heldout;
    float *p;
    size_t n;
} course;

static course train(world *w, const ds_method_spec *spec, int recompute) {
    course c = {0};
    ds_train_options o = {.steps = STEPS,
                          .batch = 6,
                          .micro_batch = 3,
                          .lr = 1e-3,
                          .clip = 1,
                          .ema = 0.9,
                          .label_dropout = 0.2,
                          .flip = 1,
                          .vb_weight = 1e-3,
                          .heldout = 2,
                          .recompute = recompute,
                          .seed = 3};
    ds_image_set set = images;
    ds_trainer *t;
    ds_train_report r;
    ds_error err = {0};
    set.classes = spec->classes ? CLASSES : config.classes;
    ck_assert_msg(!ds_trainer_new(&t, w->model, spec, &o, &set, &err), "%s", err.message);
    for (int i = 0; i < STEPS; i++) {
        ck_assert_msg(!ds_trainer_step(t, &r, &err), "%s", err.message);
        c.loss[i] = r.loss;
        c.norm[i] = r.grad_norm;
        if (i == 2)
            ck_assert_int_eq(ds_trainer_heldout(t, &c.heldout, &err), 0);
    }
    c.p = ds_trainer_copy(t, 0);
    ds_params table = {0};
    ds_adapter_table(&table, w->base, spec);
    c.n = table.total;
    ds_params_release(&table);
    ds_trainer_free(t);
    return c;
}

/* Steps begun before they are asked for: losses, norms and parameters are the same bits, and the
 * trainer says when it may not be looked at.  On the processor nothing begins early. */
START_TEST(steps_may_begin_ahead) {
    world w[] = {world_new("cuda", DS_PRECISION_BF16), world_new("cpu", DS_PRECISION_F32)};
    const ds_train_options o = {.steps = STEPS,
                                .batch = 6,
                                .micro_batch = 2,
                                .lr = 1e-3,
                                .clip = 0.1,
                                .ema = 0.9,
                                .seed = 3};
    for (int d = 0; d < 2; d++) {
        ds_train_report r[2][STEPS];
        float *p[2];
        for (int ahead = 0; ahead < 2; ahead++) {
            ds_trainer *t;
            ck_assert_int_eq(ds_trainer_new(&t, w[d].model, &methods[0], &o, &images, NULL), 0);
            for (int i = 0; i < STEPS; i++) {
                ds_trainer_ahead(t, !ahead ? 0 : i < 4 ? 4 : 100); /* looked at after the fourth */
                ck_assert_int_eq(ds_trainer_step(t, &r[ahead][i], NULL), 0);
                ck_assert_int_eq(ds_trainer_busy(t), ahead && d == 0 && i != 3 && i < STEPS - 1);
                ck_assert_int_eq(ds_trainer_done(t), i + 1);
                if (i == 3)
                    free(ds_trainer_copy(t, 0));
            }
            p[ahead] = ds_trainer_copy(t, 0);
            ds_trainer_free(t);
        }
        ds_params table = {0};
        ds_adapter_table(&table, w[d].base, &methods[0]);
        ck_assert(!memcmp(p[0], p[1], table.total * sizeof *p[0]));
        ck_assert(!memcmp(r[0], r[1], sizeof r[0]));
        ck_assert(r[0][0].grad_norm > o.clip); /* clipping was in it */
        ds_params_release(&table);
        free(p[0]);
        free(p[1]);
        world_free(&w[d]);
    }
}
END_TEST

/* f32 on both: sums in another order only.  1e-3 is what a loss curve may differ by after 50 steps;
 * after 6 it is far less. */
START_TEST(training_is_that_of_the_cpu) {
    world cpu = world_new("cpu", DS_PRECISION_F32), gpu = world_new("cuda", DS_PRECISION_F32);
    course a = train(&cpu, &methods[_i], 0), b = train(&gpu, &methods[_i], 0);
    for (int i = 0; i < STEPS; i++) {
        ck_assert_msg(fabs(a.loss[i] - b.loss[i]) < 1e-4 * a.loss[i],
                      "step %d: loss %.8f, cpu %.8f", i + 1, b.loss[i], a.loss[i]);
        ck_assert_msg(fabs(a.norm[i] - b.norm[i]) < 1e-3 * a.norm[i],
                      "step %d: gradient norm %.8f, cpu %.8f", i + 1, b.norm[i], a.norm[i]);
    }
    ck_assert_msg(fabs(a.heldout - b.heldout) < 1e-4 * a.heldout, "held-out loss %.8f, cpu %.8f",
                  b.heldout, a.heldout);
    free(a.p);
    free(b.p);
    world_free(&cpu);
    world_free(&gpu);
}
END_TEST

/* The same spec twice gives the same bytes; recomputed blocks do not change them either. */
START_TEST(training_is_deterministic) {
    world gpu = world_new("cuda", _i ? DS_PRECISION_BF16 : DS_PRECISION_F32);
    course a = train(&gpu, &methods[0], 0), b = train(&gpu, &methods[0], 0),
           c = train(&gpu, &methods[0], 2);
    ck_assert_msg(!memcmp(a.p, b.p, a.n * sizeof *a.p), "two runs differ");
    ck_assert_msg(!memcmp(a.p, c.p, a.n * sizeof *a.p), "recomputed blocks change the result");
    for (int i = 0; i < STEPS; i++)
        ck_assert(isfinite(a.loss[i]) && a.loss[i] > 0);
    free(a.p);
    free(b.p);
    free(c.p);
    world_free(&gpu);
}
END_TEST

/* ---------------------------------------------------------------- sampling */

static ds_adapter *adapter_of(const world *w, uint64_t seed) {
    ds_adapter *a;
    ds_method_spec spec = methods[0];
    spec.seed = seed;
    ck_assert_int_eq(ds_adapter_new(&a, w->base, &spec, NULL), 0);
    for (size_t i = 0; i < a->table.total; i++)
        a->data[i] +=
            ((float)ds_rng_u32(seed, DS_STREAM_TEST, 1, 0, (uint32_t)i) * 0x1p-32f - 0.5f) * 0.1f;
    return a;
}

static void sample(float *raw, world *w, ds_net *net, ds_net *base, int sampler, int mode,
                   int first, int n) {
    ds_sample_options o = {.sampler = (enum ds_sampler)sampler,
                           .steps = 5,
                           .guide = ds_guidance_of((enum ds_guidance_mode)mode, 1.5),
                           .seed = 9};
    ds_sample_request q[8] = {{0}};
    ds_error err = {0};
    (void)w;
    for (int i = 0; i < n; i++)
        q[i] = (ds_sample_request){.index = (uint64_t)(first + i),
                                   .label = (first + i) % CLASSES,
                                   .task = (first + i) % 2};
    ck_assert_msg(!ds_sample(NULL, raw, net, base, &o, q, n, NULL, NULL, &err), "%s", err.message);
}

enum { MANY = 5 };

/* Pixels lie in [-1,1]; five steps of a random model magnify the differences of f32 sums. */
START_TEST(samples_are_those_of_the_cpu) {
    static float raw[2][MANY * ONE];
    for (int d = 0; d < 2; d++) {
        world w = world_new(d ? "cuda" : "cpu", DS_PRECISION_F32);
        ds_adapter *a = adapter_of(&w, 11);
        const ds_adapter *list[] = {a};
        ds_net *net, *base;
        ck_assert_int_eq(ds_net_new(&net, w.model, DS_NET_INFER, list, 1, 4, NULL), 0);
        ck_assert_int_eq(ds_net_new(&base, w.model, DS_NET_INFER, NULL, 0, 4, NULL), 0);
        sample(raw[d], &w, net, base, _i / 3, _i % 3, 0, MANY);
        ds_net_free(net);
        ds_net_free(base);
        ds_adapter_free(a);
        world_free(&w);
    }
    for (int i = 0; i < MANY * ONE; i++)
        ck_assert_msg(fabsf(raw[0][i] - raw[1][i]) < 1e-3f, "element %d: %g, cpu %g", i, raw[1][i],
                      raw[0][i]);
}
END_TEST

/* Several tasks in one batch: a sample has the same bytes alone, and nearly those of its adapter
 * folded. */
START_TEST(tasks_share_a_batch) {
    world w = world_new("cuda", _i ? DS_PRECISION_BF16 : DS_PRECISION_F32);
    ds_adapter *a = adapter_of(&w, 11), *b = adapter_of(&w, 12);
    const ds_adapter *both[] = {a, b};
    static float all[MANY * ONE], one[ONE], folded[ONE];
    static float apart[MANY * ONE];
    ds_net *stacked, *single;
    ck_assert_int_eq(ds_net_new(&stacked, w.model, DS_NET_FOLDED, both, 2, 4, NULL), 0);
    sample(apart, &w, stacked, NULL, DS_SAMPLER_DDIM, DS_GUIDANCE_NONE, 0, MANY);
    ds_net_free(stacked);
    ck_assert_int_eq(ds_net_new(&stacked, w.model, DS_NET_STACKED, both, 2, 4, NULL), 0);
    sample(all, &w, stacked, NULL, DS_SAMPLER_DDIM, DS_GUIDANCE_NONE, 0, MANY);
    for (int i = 0; i < MANY; i++) {
        sample(one, &w, stacked, NULL, DS_SAMPLER_DDIM, DS_GUIDANCE_NONE, i, 1);
        ck_assert_msg(!memcmp(one, all + i * ONE, sizeof one),
                      "sample %d depends on its neighbours", i);
        const ds_adapter *mine[] = {both[i % 2]};
        ck_assert_int_eq(ds_net_new(&single, w.model, DS_NET_INFER, mine, 1, 4, NULL), 0);
        sample(folded, &w, single, NULL, DS_SAMPLER_DDIM, DS_GUIDANCE_NONE, i, 1);
        ds_net_free(single);
        ck_assert_msg(!memcmp(folded, apart + i * ONE, sizeof folded),
                      "sample %d is another one in weights of its own", i);
        for (int j = 0; !_i && j < ONE; j++)
            ck_assert_msg(fabsf(folded[j] - one[j]) < 1e-3f, "sample %d: %g, folded %g", i, one[j],
                          folded[j]);
    }
    ds_net_free(stacked);
    ds_adapter_free(a);
    ds_adapter_free(b);
    world_free(&w);
}
END_TEST

static struct {
    const struct ds_ops *real;
    struct ds_ops ops;
    int products;
} spy;

static void spy_gelu(ds_device *dev, ds_act *pre, ds_act *y, const ds_act *x, const ds_weight *w,
                     const float *bias, int rows) {
    spy.products++;
    spy.real->linear_gelu_forward(dev, pre, y, x, w, bias, rows);
}

/* Folded tasks with as many samples each are one product a layer, others one a task; a pass is
 * asked for twice, then replayed.  Either way a sample has the bytes that it has alone. */
START_TEST(equal_tasks_are_one_product) {
    static const int tasks[2][4] = {{1, 0, 0, 1}, {1, 0, 0, 0}};
    world w = world_new("cuda", _i ? DS_PRECISION_BF16 : DS_PRECISION_F32);
    ds_adapter *a = adapter_of(&w, 11), *b = adapter_of(&w, 12);
    const ds_adapter *both[] = {a, b};
    const ds_sample_options o = {
        .sampler = DS_SAMPLER_DDIM, .steps = 4, .guide = {1, 1}, .seed = 2};
    spy.real = w.dev->ops;
    spy.ops = *w.dev->ops;
    spy.ops.linear_gelu_forward = spy_gelu;
    w.dev->ops = &spy.ops;
    for (int how = 0; how < 2; how++) {
        static float raw[4 * ONE], one[ONE];
        ds_sample_request q[4];
        ds_net *net;
        for (int i = 0; i < 4; i++)
            q[i] = (ds_sample_request){.index = (uint64_t)i, .task = tasks[how][i], .label = i % 3};
        spy.products = 0;
        ck_assert_int_eq(ds_net_new(&net, w.model, DS_NET_FOLDED, both, 2, 4, NULL), 0);
        ck_assert_int_eq(ds_sample(NULL, raw, net, NULL, &o, q, 4, NULL, NULL, NULL), 0);
        ck_assert_int_eq(spy.products, 2 * DEPTH * (how ? 2 : 1));
        ds_net_free(net);
        for (int i = 0; i < 4; i++) {
            ck_assert_int_eq(
                ds_net_new(&net, w.model, DS_NET_INFER, &both[tasks[how][i]], 1, 1, NULL), 0);
            ck_assert_int_eq(ds_sample(NULL, one, net, NULL, &o, &q[i], 1, NULL, NULL, NULL), 0);
            ck_assert_msg(!memcmp(one, raw + i * ONE, sizeof one), "sample %d", i);
            ds_net_free(net);
        }
    }
    w.dev->ops = spy.real;
    ds_adapter_free(a);
    ds_adapter_free(b);
    world_free(&w);
}
END_TEST

/* A pass that was recorded for some tasks is not replayed for others: the same net, buffers and
 * batch size, with the tasks exchanged, and back again. */
START_TEST(tasks_may_change_between_passes) {
    world w = world_new("cuda", DS_PRECISION_F32);
    ds_device *dev = w.dev;
    ds_adapter *a = adapter_of(&w, 11), *b = adapter_of(&w, 12);
    const ds_adapter *both[] = {a, b};
    static float out[2][4 * ONE], zero[2 * ONE];
    ds_net *net;
    ck_assert_int_eq(ds_net_new(&net, w.model, DS_NET_STACKED, both, 2, 2, NULL), 0);
    float *x = dev->alloc(dev, sizeof zero), *y = dev->alloc(dev, sizeof *out);
    ck_assert(x && y);
    dev->upload(dev, x, zero, sizeof zero);
    for (int turn = 0; turn < 9; turn++) {
        int task = turn / 3 % 2;
        ds_net_sample cond[2] = {{.t = 7, .row = 1, .base_row = -1, .task = task},
                                 {.t = 7, .row = 1, .base_row = -1, .task = !task}};
        ds_net_forward(net, y, &(ds_net_input){.x = x, .samples = cond}, 2);
        dev->download(dev, out[turn > 0], y, sizeof *out);
        for (int i = 0; i < 2; i++)
            ck_assert_msg(!memcmp(out[0] + i * 2 * ONE, out[1] + (i ^ task) * 2 * ONE,
                                  2 * ONE * sizeof(float)) ||
                              turn == 0,
                          "turn %d: sample %d has another task's output", turn, i);
    }
    dev->free(dev, x);
    dev->free(dev, y);
    ds_net_free(net);
    ds_adapter_free(a);
    ds_adapter_free(b);
    world_free(&w);
}
END_TEST

#if defined(__SANITIZE_ADDRESS__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

static void register_cases(TCase *tc) {
    if (SANITIZED) {
        ds_test_skip("most of engine_cuda",
                     "minutes under the address sanitizer: one case of each");
        tcase_add_loop_test(tc, training_is_that_of_the_cpu, 0, 1);
        tcase_add_loop_test(tc, samples_are_those_of_the_cpu, 1, 2);
        tcase_add_loop_test(tc, tasks_share_a_batch, 1, 2);
        return;
    }
    tcase_add_loop_test(tc, training_is_that_of_the_cpu, 0, METHODS);
    tcase_add_loop_test(tc, training_is_deterministic, 0, 2);
    tcase_add_test(tc, steps_may_begin_ahead);
    tcase_add_loop_test(tc, samples_are_those_of_the_cpu, 0, 9);
    tcase_add_loop_test(tc, tasks_share_a_batch, 0, 2);
    tcase_add_loop_test(tc, equal_tasks_are_one_product, 0, 2);
    tcase_add_test(tc, tasks_may_change_between_passes);
}

int main(void) { return ds_test_main("engine_cuda", register_cases); }
