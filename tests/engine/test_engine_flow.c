/* tests/engine/test_engine_flow.c - bases that predict a velocity: paths, laws of noise levels, what
 * a trainer asks of the device, exact resume, samplers and neighbours, and how files say it.  The
 * numbers of whole passes are in test_engine_golden.c. */
#include "base/fs.h"
#include "base/mem.h"
#include "engine/diffusion/diffusion.h"
#include "engine/diffusion/flow.h"
#include "engine/diffusion/sampler.h"
#include "tests/harness.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { IMAGES = 30, DEPTH = 1, HELD = 3 };
#include "tests/fixtures/engine_small.h"

static const ds_flow to_noise = {DS_FLOW_LINEAR, 0, 1000, 1}, to_data = {DS_FLOW_GVP, 1, 1, 3};
static const ds_flow *const flows[] = {&to_noise, &to_data};
static const ds_method_spec affiner = {
    .method = DS_METHOD_AFFINER, .rank = 2, .targets = DS_TARGET_DEFAULT, .classes = CLASSES};
static const ds_train_options plain = {.steps = 40,
                                       .batch = 8,
                                       .micro_batch = 4,
                                       .lr = 1e-2,
                                       .clip = 1,
                                       .ema = 0.5,
                                       .vb_weight = 1,
                                       .seed = 5,
                                       .heldout = HELD};

static ds_device *dev;
static ds_base *base;
static ds_model *model;

static void open_flow(const ds_flow *flow, int learn_sigma) {
    const ds_device_options f32 = {.kind = "cpu", .precision = DS_PRECISION_F32, .threads = 2};
    ds_dit_config c = config;
    ds_dit_arch.set_flow(&c, flow);
    c.learn_sigma = learn_sigma;
    label_images();
    for (int i = 0; i < IMAGES * ONE; i++)
        pixels[i] = (uint8_t)(ds_rng_u32(1, DS_STREAM_TEST, 0, (uint64_t)i, 0) % 64 +
                              60 * (uint32_t)labels[i / ONE]);
    ck_assert_int_eq(ds_device_open(&dev, &f32, NULL), 0);
    ck_assert_int_eq(ds_dit_base_new(&base, &c, 3, NULL), 0);
    ds_rng_normal(base->data, base->table.total, 5, DS_STREAM_TEST, 1, 0);
    for (size_t i = 0; i < base->table.total; i++)
        base->data[i] *= 0.15f;
    ck_assert_int_eq(ds_model_new(&model, dev, base, NULL), 0);
}

static void close_flow(void) {
    ds_model_free(model);
    ds_base_free(base);
    ds_device_close(dev);
}

static ds_trainer *trainer(const ds_train_options *o) {
    ds_trainer *t;
    ck_assert_int_eq(ds_trainer_new(&t, model, &affiner, o, &images, NULL), 0);
    return t;
}

static double heldout(ds_trainer *t) {
    double loss;
    ck_assert_int_eq(ds_trainer_heldout(t, &loss, NULL), 0);
    return loss;
}

static ds_train_report steps(ds_trainer *t, int n) {
    ds_train_report r = {0};
    for (int i = 0; i < n; i++)
        ck_assert_int_eq(ds_trainer_step(t, &r, NULL), 0);
    return r;
}

/* ---------------------------------------------------------------- paths and laws */

START_TEST(paths) {
    for (int path = DS_FLOW_LINEAR; path < DS_FLOW_PATHS; path++) {
        const ds_flow_point data = ds_flow_at((enum ds_flow_path)path, 0),
                            noise = ds_flow_at((enum ds_flow_path)path, 1);
        ck_assert(data.a == 1 && data.s == 0 && noise.a == 0 && noise.s == 1);
        for (double u = 0.1; u < 1; u += 0.2) {
            const double h = 1e-5;
            const ds_flow_point p = ds_flow_at((enum ds_flow_path)path, u),
                                q = ds_flow_at((enum ds_flow_path)path, u + h),
                                o = ds_flow_at((enum ds_flow_path)path, u - h);
            ck_assert(fabs((q.a - o.a) / (2 * h) - p.da) < 1e-8);
            ck_assert(fabs((q.s - o.s) / (2 * h) - p.ds) < 1e-8);
            ck_assert(fabs(path == DS_FLOW_GVP ? p.a * p.a + p.s * p.s - 1 : p.a + p.s - 1) <
                      1e-15);
        }
    }
    ck_assert(ds_flow_at(DS_FLOW_LINEAR, 0.25).a == 0.75);
    ck_assert(fabs(ds_flow_at(DS_FLOW_GVP, 1.0 / 3).s - 0.5) < 1e-15);
}
END_TEST

START_TEST(clocks) {
    ck_assert(ds_flow_time(&to_noise, 0.25) == 250 && ds_flow_time(&to_data, 0.25) == 0.75f);
    ck_assert(ds_flow_sign(&to_noise) == 1 && ds_flow_sign(&to_data) == -1);
}
END_TEST

/* Odds are multiplied: from 1 : 3 to 1 : 1. */
START_TEST(shifts) {
    const ds_flow three = {DS_FLOW_LINEAR, 0, 1, 3};
    ck_assert(ds_flow_level(&three, 0) == 0 && ds_flow_level(&three, 1) == 1);
    for (double s = 0.01; s <= 100; s += s < 1 ? 0.001 : 0.1) {
        const ds_flow any = {DS_FLOW_LINEAR, 0, 1, s};
        ck_assert(ds_flow_level(&any, 0) == 0 && ds_flow_level(&any, 1) == 1);
    }
    ck_assert(ds_flow_level(&three, 0.25) == 0.5 && ds_flow_level(&to_noise, 0.25) == 0.25);
    ds_facts c = ds_dit_facts(&config);
    c.flow = three;
    ds_schedule s;
    ck_assert_int_eq(ds_schedule_respace(&s, &c, 4, NULL), 0);
    ck_assert(s.level[0] == 0.5 && s.level[3] == 1 && s.time[0] == 0.5f);
    ds_schedule_release(&s);
}
END_TEST

/* Phi(1) is 0.841344746: the logit there is mean + width. */
START_TEST(logit_normal_levels) {
    const double at[][2] = {{0.5, 0}, {0.84134474606854293, 1}, {0.022750131948179195, -2}};
    for (int i = 0; i < 3; i++)
        for (double mean = -1; mean <= 1; mean++) {
            double u = ds_flow_logit_normal(mean, 0.7, at[i][0]);
            ck_assert_msg(fabs(log(u / (1 - u)) - mean - 0.7 * at[i][1]) < 1e-9, "%g at %g", u,
                          at[i][0]);
        }
}
END_TEST

/* ---------------------------------------------------------------- what a trainer asks for */

enum { MOST = 2000 };
static const struct ds_ops *real;
static struct ds_ops watched;
static float seen[MOST][4]; /* a, s of the mix; coefficients of the loss */
static int mixed, asked;

static void watch_axpby(ds_device *d, float *out, const float *ca, const float *x, const float *cb,
                        const float *y, int B, size_t n) {
    for (int i = 0; i < B && mixed < MOST; i++, mixed++)
        seen[mixed][0] = ca[i], seen[mixed][1] = cb[i];
    real->axpby(d, out, ca, x, cb, y, B, n);
}

static void watch_loss(ds_device *d, float *mse, float *dout, const float *out, const float *x0,
                       const float *noise, const float *coef, int B, size_t px, size_t outpx) {
    for (int i = 0; i < B && asked < MOST; i++, asked++)
        seen[asked][2] = coef[8 * i], seen[asked][3] = coef[8 * i + 1];
    real->flow_loss(d, mse, dout, out, x0, noise, coef, B, px, outpx);
}

static void watch(void) {
    real = dev->ops;
    watched = *real;
    watched.axpby = watch_axpby;
    watched.flow_loss = watch_loss;
    dev->ops = &watched;
    mixed = asked = 0;
}

/* Level of sample i, of which everything else follows. */
static double level_seen(const ds_flow *flow, int i) {
    const double u = flow->path == DS_FLOW_LINEAR
                         ? seen[i][1]
                         : atan2(seen[i][1], seen[i][0]) / 1.57079632679489661923;
    const ds_flow_point p = ds_flow_at(flow->path, u);
    const double sign = flow->to_data ? -1 : 1;
    ck_assert(fabs(seen[i][0] - p.a) < 3e-7 && fabs(seen[i][2] - sign * p.da) < 2e-6 &&
              fabs(seen[i][3] - sign * p.ds) < 2e-6);
    return u;
}

/* Sample i of B has its level in the i-th part of the law. */
START_TEST(levels_are_stratified) {
    const ds_flow *flow = flows[_i % 2];
    const double width = _i / 2 ? 0.8 : 0, mean = _i / 2 ? 0.4 : 0;
    open_flow(flow, 0);
    ds_train_options o = plain;
    o.focus = width;
    o.focus_mean = mean;
    watch();
    ds_trainer *t = trainer(&o);
    ds_train_report r = steps(t, 10);
    ck_assert_int_eq(asked, 80);
    ck_assert(r.vb == 0 && r.loss == r.mse);
    int changes = 0;
    for (int i = 0; i < asked; i++) {
        double low = (double)(i % 8) / 8, high = (i % 8 + 1.0) / 8, u = level_seen(flow, i);
        if (width > 0) {
            low = i % 8 ? ds_flow_logit_normal(mean, width, low) : 0;
            high = i % 8 < 7 ? ds_flow_logit_normal(mean, width, high) : 1;
        }
        low = ds_flow_level(flow, low);
        high = ds_flow_level(flow, high);
        ck_assert_msg(u >= low - 1e-6 && u <= high + 1e-6, "sample %d has level %g, not %g..%g",
                      i % 8, u, low, high);
        changes += i >= 8 && seen[i][1] != seen[i - 8][1];
    }
    ck_assert_int_gt(changes, 60);
    asked = mixed = 0;
    heldout(t);
    for (int i = 0; i < HELD; i++) /* the middle of equal parts, whatever the law */
        ck_assert(fabs(level_seen(flow, i) - ds_flow_level(flow, (i + 0.5) / HELD)) < 1e-6);
    ds_trainer_free(t);
    dev->ops = real;
    close_flow();
}
END_TEST

START_TEST(training_lowers_the_heldout_loss) {
    open_flow(flows[_i % 2], _i / 2);
    ds_trainer *t = trainer(&plain);
    double before = heldout(t);
    steps(t, 40);
    double after = heldout(t);
    ck_assert_msg(after < 0.97 * before, "held-out loss %.4f -> %.4f", before, after);
    ds_trainer_free(t);
    close_flow();
}
END_TEST

START_TEST(resume_gives_the_same_bytes) {
    char path[PATH_MAX];
    ds_fs_join(path, sizeof path, ds_test_tmpdir(), "checkpoint");
    open_flow(flows[_i], 0);
    ds_trainer *t = trainer(&plain);
    steps(t, 9);
    float *whole = ds_trainer_copy(t, 0);
    ds_trainer_free(t);
    t = trainer(&plain);
    steps(t, 4);
    heldout(t);
    ck_assert_int_eq(ds_trainer_save(t, path, NULL), 0);
    ds_trainer_free(t);
    t = trainer(&plain);
    ck_assert_int_eq(ds_trainer_load(t, path, NULL), 0);
    steps(t, 5);
    float *resumed = ds_trainer_copy(t, 0);
    ds_params table = {0};
    ds_adapter_table(&table, base, &affiner);
    ck_assert_int_eq(memcmp(whole, resumed, table.total * sizeof *whole), 0);
    ds_params_release(&table);
    free(whole);
    free(resumed);
    ds_trainer_free(t);
    close_flow();
}
END_TEST

/* A fresh base has no digest: what it predicts must tell one run from another. */
START_TEST(a_checkpoint_is_of_one_objective) {
    static const ds_flow others[] = {{DS_FLOW_GVP, 0, 1000, 1},
                                     {DS_FLOW_LINEAR, 1, 1000, 1},
                                     {DS_FLOW_LINEAR, 0, 1, 1},
                                     {DS_FLOW_LINEAR, 0, 1000, 3}};
    char path[PATH_MAX];
    ds_error err;
    ds_fs_join(path, sizeof path, ds_test_tmpdir(), "objective");
    open_flow(&to_noise, 0);
    ds_trainer *t = trainer(&plain);
    ck_assert_int_eq(ds_trainer_save(t, path, NULL), 0);
    ds_trainer_free(t);
    for (int i = 0; i < 4; i++) {
        base->facts.flow = others[i];
        t = trainer(&plain);
        ck_assert_int_eq(ds_trainer_load(t, path, &err), DS_EINTEGRITY);
        ds_trainer_free(t);
    }
    base->facts.flow = to_noise;
    t = trainer(&plain);
    ck_assert_int_eq(ds_trainer_load(t, path, NULL), 0);
    ds_trainer_free(t);
    close_flow();
}
END_TEST

/* ---------------------------------------------------------------- sampling */

static float *draw(const ds_sample_options *o, int n, int batch) {
    float *x = ds_xmalloc((size_t)n * ONE * sizeof *x);
    ds_sample_request *q = ds_xcalloc((size_t)n, sizeof *q);
    ds_adapter *a;
    ds_net *net, *plain_net;
    ds_error err;
    for (int i = 0; i < n; i++)
        q[i] = (ds_sample_request){.index = (uint64_t)i, .label = i % CLASSES};
    ck_assert_int_eq(ds_adapter_new(&a, base, &affiner, NULL), 0);
    for (size_t i = 0; i < a->table.total; i += 3)
        a->data[i] += 0.1f;
    ck_assert_int_eq(
        ds_net_new(&net, model, DS_NET_INFER, (const ds_adapter *const[]){a}, 1, batch, NULL), 0);
    ck_assert_int_eq(ds_net_new(&plain_net, model, DS_NET_INFER, NULL, 0, batch, NULL), 0);
    ck_assert_msg(!ds_sample(NULL, x, net, plain_net, o, q, n, NULL, NULL, &err), "%s",
                  err.message);
    ds_net_free(net);
    ds_net_free(plain_net);
    ds_adapter_free(a);
    free(q);
    return x;
}

START_TEST(a_sample_does_not_depend_on_its_neighbours) {
    static const enum ds_sampler samplers[] = {DS_SAMPLER_EULER, DS_SAMPLER_HEUN, DS_SAMPLER_SDE,
                                               DS_SAMPLER_DPMPP2M};
    open_flow(flows[_i % 2], 1);
    for (int i = 0; i < 4; i++)
        for (int guided = 0; guided < 2; guided++) {
            ds_sample_options o = {.sampler = samplers[i],
                                   .steps = 5,
                                   .guide = {guided ? 1.2 : 1, guided ? 2 : 1},
                                   .seed = 3};
            float *many = draw(&o, 7, 16), *few = draw(&o, 7, 3);
            o.table_rows = -1; /* modulations made in each pass */
            float *bare = draw(&o, 2, 2);
            ck_assert_int_eq(memcmp(many, few, 7 * ONE * sizeof *many), 0);
            ck_assert_int_eq(memcmp(many, bare, 2 * ONE * sizeof *many), 0);
            free(many);
            free(few);
            free(bare);
        }
    close_flow();
}
END_TEST

/* A flow begins at noise level 1, so that there is always a step that is guided. */
START_TEST(guidance_of_the_first_step_alone) {
    open_flow(flows[_i % 2], 1);
    ds_sample_options o = {
        .sampler = DS_SAMPLER_HEUN, .steps = 3, .guide = {1.2, 2}, .guide_low = 1, .seed = 3};
    float *first = draw(&o, 2, 4);
    o.guide_low = 0;
    float *all = draw(&o, 2, 4);
    o.guide = (ds_guidance){1, 1};
    float *none = draw(&o, 2, 4);
    ck_assert(memcmp(first, none, 2 * ONE * sizeof *first));
    ck_assert(memcmp(first, all, 2 * ONE * sizeof *first));
    free(first);
    free(all);
    free(none);
    close_flow();
}
END_TEST

/* The better the sampler, the nearer to many small steps. */
START_TEST(orders_of_samplers) {
    static const enum ds_sampler samplers[] = {DS_SAMPLER_EULER, DS_SAMPLER_DPMPP2M,
                                               DS_SAMPLER_HEUN};
    double off[3];
    open_flow(&(ds_flow){DS_FLOW_LINEAR, 0, 1, 1}, 0); /* smooth in time */
    base->facts.pixel = 0;
    ds_sample_options fine = {.sampler = DS_SAMPLER_HEUN, .steps = 200, .guide = {1, 1}, .seed = 3};
    float *exact = draw(&fine, 4, 4);
    for (int i = 0; i < 3; i++) {
        ds_sample_options o = fine;
        o.sampler = samplers[i];
        o.steps = 16;
        float *x = draw(&o, 4, 4);
        off[i] = 0;
        for (int j = 0; j < 4 * ONE; j++)
            off[i] += (x[j] - exact[j]) * (x[j] - exact[j]);
        free(x);
    }
    ck_assert_msg(off[1] < off[0] / 9 && off[2] < off[0] / 9, "%g %g %g", off[0], off[1], off[2]);
    free(exact);
    close_flow();
}
END_TEST

START_TEST(samplers_of_the_other_kind_are_refused) {
    ds_facts noise = ds_dit_facts(&config), flow = noise;
    ds_error err;
    flow.flow = to_noise;
    for (int s = DS_SAMPLER_DDPM; s <= DS_SAMPLER_SDE; s++) {
        ck_assert_int_eq(ds_sampler_check((enum ds_sampler)s, &noise, &err) == 0,
                         s <= DS_SAMPLER_DPMPP2M);
        ck_assert_int_eq(ds_sampler_check((enum ds_sampler)s, &flow, &err) == 0,
                         s >= DS_SAMPLER_DPMPP2M);
    }
    ck_assert_int_eq(ds_sampler_check(DS_SAMPLER_DDIM, &flow, &err), DS_EINVAL);
    ck_assert_str_eq(err.message,
                     "the sampler ddim is not for a base that predicts a velocity: use "
                     "dpmpp2m, euler, heun or sde");
}
END_TEST

/* ---------------------------------------------------------------- files */

START_TEST(a_file_says_it) {
    char path[PATH_MAX];
    ds_fs_join(path, sizeof path, ds_test_tmpdir(), "flow.safetensors");
    open_flow(flows[_i], 0);
    const char *none[] = {NULL};
    ck_assert_int_eq(ds_base_save(base, path, 0, none, NULL), 0);
    ds_base *again;
    ck_assert_int_eq(ds_base_open(&again, path, NULL, NULL), 0);
    ck_assert_int_eq(again->facts.flow.path, flows[_i]->path);
    ck_assert_int_eq(again->facts.flow.to_data, flows[_i]->to_data);
    ck_assert(again->facts.flow.scale == flows[_i]->scale);
    ck_assert(again->facts.flow.shift == flows[_i]->shift);
    /* what programs that know no flow refuse */
    ck_assert_int_eq(again->facts.train_steps, 0);
    ds_base_free(again);
    close_flow();
}
END_TEST

START_TEST(what_a_file_cannot_say) {
    static const struct {
        const char *key, *value, *message;
    } wrong[] = {{"flow", "\"cosine\"",
                  "the flow 'cosine' is not known to this version: none, linear or gvp"},
                 {"flow_scale", "0", "model shape: flow_scale is 0, must be above 0, to 1e6"},
                 {"flow_scale", "1e7", "model shape: flow_scale is 1e+07, must be above 0, to 1e6"},
                 {"flow_shift", "0", "model shape: flow_shift is 0, must be 0.01 to 100"},
                 {"flow_shift", "101", "model shape: flow_shift is 101, must be 0.01 to 100"},
                 {"train_steps", "1000", "model shape: train_steps is 1000, must be 0 to 0"},
                 {"flow", "\"none\"", "model shape: train_steps is 0, must be 2 to 100000"}};
    ds_dit_config c = config, got;
    ds_dit_arch.set_flow(&c, &to_noise);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        ds_error err;
        json_t *doc = ds_dit_config_to_json(&c);
        json_object_set_new(doc, wrong[i].key, json_loads(wrong[i].value, JSON_DECODE_ANY, NULL));
        int rc = ds_dit_config_read(&got, doc, &err);
        rc = rc ? rc : ds_dit_check(&got, &err);
        ck_assert_int_eq(rc, DS_EINVAL);
        ck_assert_str_eq(err.message, wrong[i].message);
        json_decref(doc);
    }
    json_t *plain_doc = ds_dit_config_to_json(&config); /* files of noise are what they were */
    ck_assert(!json_object_get(plain_doc, "flow") && !json_object_get(plain_doc, "flow_scale"));
    json_decref(plain_doc);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, paths);
    tcase_add_test(tc, clocks);
    tcase_add_test(tc, shifts);
    tcase_add_test(tc, logit_normal_levels);
    tcase_add_loop_test(tc, levels_are_stratified, 0, 4);
    tcase_add_loop_test(tc, training_lowers_the_heldout_loss, 0, 4);
    tcase_add_loop_test(tc, resume_gives_the_same_bytes, 0, 2);
    tcase_add_test(tc, a_checkpoint_is_of_one_objective);
    tcase_add_loop_test(tc, a_sample_does_not_depend_on_its_neighbours, 0, 2);
    tcase_add_loop_test(tc, guidance_of_the_first_step_alone, 0, 2);
    tcase_add_test(tc, orders_of_samplers);
    tcase_add_test(tc, samplers_of_the_other_kind_are_refused);
    tcase_add_loop_test(tc, a_file_says_it, 0, 2);
    tcase_add_test(tc, what_a_file_cannot_say);
}

int main(void) { return ds_test_main("engine flow", cases); }
