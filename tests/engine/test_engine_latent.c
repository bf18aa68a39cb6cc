/* tests/engine/test_engine_latent.c - training on latents: what is drawn from a posterior, and that a
 * resumed run draws the same. */
#include "base/mem.h"
#include "base/rng.h"
#include "engine/model/dit.h"
#include "engine/diffusion/trainer.h"
#include "tests/harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 8, C = 3, N = 4, PX = C * SIDE * SIDE };

static ds_device *dev;
static ds_base *base;
static ds_model *model;
static const ds_method_spec method = {
    .method = DS_METHOD_AFFINER, .rank = 2, .targets = DS_TARGET_DEFAULT, .classes = 2, .seed = 1};
static const ds_train_options plain = {
    .steps = 8, .batch = 4, .lr = 0.001, .ema = 0.5, .vb_weight = 1, .seed = 9, .flip = 1};

static void setup(void) {
    ds_dit_config cfg = {.channels = C,
                         .side = SIDE,
                         .patch = 2,
                         .width = 16,
                         .depth = 1,
                         .heads = 2,
                         .mlp_ratio = 2,
                         .classes = 2,
                         .learn_sigma = 1,
                         .freq_dim = 32,
                         .norm2_eps_e6 = 1,
                         .latent_scale = 0.5,
                         .train_steps = 1000,
                         .beta_start = 1e-4,
                         .beta_end = 0.02};
    ds_error err = {0};
    ds_device_options o = {.kind = "cpu", .precision = DS_PRECISION_F32, .threads = 1};
    ck_assert_msg(!ds_device_open(&dev, &o, &err), "%s", err.message);
    ck_assert_msg(!ds_dit_base_new(&base, &cfg, 1, &err), "%s", err.message);
    for (size_t i = 0; i < base->table.total;
         i++) /* a fresh model's output is 0 whatever it sees */
        base->data[i] += 0.05f * (ds_rng_uniform(2, DS_STREAM_TEST, 0, i, 0) - 0.5f);
    ck_assert_msg(!ds_model_new(&model, dev, base, &err), "%s", err.message);
}

static void teardown(void) {
    ds_model_free(model);
    ds_base_free(base);
    ds_device_close(dev);
}

/* Posteriors of N pictures, and of their mirror images. */
typedef struct {
    float numbers[2][N][2 * PX];
    const float *at[2][N];
    int labels[N];
    ds_image_set set;
} posteriors;

static void describe(posteriors *p, int n, double scale) {
    p->set = (ds_image_set){.labels = p->labels,
                            .n = n,
                            .side = SIDE,
                            .channels = C,
                            .classes = 2,
                            .latents = {p->at[0], p->at[1]},
                            .latents_digest = "test",
                            .latent_scale = scale};
    for (int i = 0; i < N; i++) {
        p->labels[i] = i % 2;
        p->at[0][i] = p->numbers[0][i];
        p->at[1][i] = p->numbers[1][i];
    }
}

/* Gradients of the last of `steps` steps; free them. */
static float *gradients(const ds_image_set *set, const ds_train_options *o, int steps, size_t *n) {
    ds_trainer *t;
    ds_train_report r;
    ds_error err = {0};
    ck_assert_msg(!ds_trainer_new(&t, model, &method, o, set, &err), "%s", err.message);
    for (int i = 0; i < steps; i++)
        ck_assert_msg(!ds_trainer_step(t, &r, &err), "%s", err.message);
    float *g = ds_trainer_copy(t, 1);
    ds_params table = {0};
    ds_adapter_table(&table, base, &method);
    *n = table.total;
    ds_params_release(&table);
    ds_trainer_free(t);
    return g;
}

static double apart(const float *a, const float *b, size_t n) {
    double most = 0, top = 0;
    for (size_t i = 0; i < n; i++) {
        most = fmax(most, fabs((double)a[i] - b[i]));
        top = fmax(top, fabs((double)b[i]));
    }
    return most / top;
}

/* Posteriors without variance (e^-15 of deviation) are pictures: same gradients as from pixels,
 * with flips. */
START_TEST(certain_posteriors_are_pixels) {
    static posteriors p;
    static uint8_t pixels[N * PX];
    size_t n;
    describe(&p, N, 0.5);
    for (int i = 0; i < N; i++)
        for (int y = 0; y < SIDE; y++)
            for (int x = 0; x < SIDE; x++)
                for (int c = 0; c < C; c++) {
                    uint8_t v = (uint8_t)ds_rng_u32(3, DS_STREAM_TEST, (uint32_t)i,
                                                    (uint64_t)(y * SIDE + x), (uint32_t)c);
                    float f = ((float)v / 127.5f - 1.0f) / 0.5f;
                    int at = (c * SIDE + y) * SIDE;
                    pixels[((i * SIDE + y) * SIDE + x) * C + c] = v;
                    p.numbers[0][i][at + x] = p.numbers[1][i][at + SIDE - 1 - x] = f;
                    p.numbers[0][i][PX + at + x] = p.numbers[1][i][PX + at + x] = -30;
                }
    ds_image_set set = {
        .pixels = pixels, .labels = p.labels, .n = N, .side = SIDE, .channels = C, .classes = 2};
    float *a = gradients(&set, &plain, 3, &n), *b = gradients(&p.set, &plain, 3, &n);
    ck_assert_msg(apart(b, a, n) < 1e-5, "off by %g", apart(b, a, n));
    ds_train_options upright = plain;
    upright.flip = 0;
    float *c = gradients(&p.set, &upright, 3, &n);
    ck_assert(apart(c, a, n) > 1e-3); /* flips were in it */
    free(a);
    free(b);
    free(c);
}
END_TEST

/* One picture, one sample: what is drawn at a step is mean + e^(logvar/2) eps with eps named by
 * (seed, step), scaled; and another step draws anew. */
START_TEST(each_use_draws_anew) {
    static posteriors p, q;
    float eps[PX];
    size_t n;
    ds_train_options o = plain;
    o.batch = 1;
    o.flip = 0;
    describe(&p, 1, 0.7);
    describe(&q, 1, 0.7);
    for (uint32_t step = 0; step < 2; step++) {
        ds_rng_normal(eps, PX, o.seed, DS_STREAM_LATENT, step, 0);
        for (int i = 0; i < PX; i++) {
            float lv = -4 + 5 * ds_rng_uniform(4, DS_STREAM_TEST, 0, (uint64_t)i, 0);
            p.numbers[0][0][i] = 2 * ds_rng_uniform(4, DS_STREAM_TEST, 1, (uint64_t)i, 0) - 1;
            p.numbers[0][0][PX + i] = lv;
            q.numbers[0][0][i] = (float)(p.numbers[0][0][i] + exp(0.5 * lv) * eps[i]);
            q.numbers[0][0][PX + i] = -30;
        }
        /* both runs must come to this step alike: the rate moves nothing */
        o.lr = 1e-9;
        float *a = gradients(&p.set, &o, 1 + (int)step, &n),
              *b = gradients(&q.set, &o, 1 + (int)step, &n);
        ck_assert_msg(apart(a, b, n) < 1e-5, "step %u off by %g", step, apart(a, b, n));
        free(a);
        free(b);
    }
}
END_TEST

/* Stopped after three steps and resumed: the same parameters as without. */
START_TEST(resume_draws_the_same) {
    static posteriors p;
    describe(&p, N, 0.18215);
    for (int v = 0; v < 2; v++)
        for (int i = 0; i < N; i++)
            for (int k = 0; k < 2 * PX; k++)
                p.numbers[v][i][k] =
                    2 * ds_rng_uniform(6, DS_STREAM_TEST, (uint32_t)(v * N + i), (uint64_t)k, 0) -
                    1;
    ds_trainer *t[2];
    ds_train_report r;
    ds_error err = {0};
    char *path = ds_xasprintf("%s/state", ds_test_tmpdir());
    for (int i = 0; i < 2; i++)
        ck_assert(!ds_trainer_new(&t[i], model, &method, &plain, &p.set, &err));
    double loss[2];
    for (int i = 0; i < 8; i++) {
        ck_assert(!ds_trainer_step(t[0], &r, &err));
        if (i == 2) {
            ck_assert(!ds_trainer_save(t[0], path, &err));
            ck_assert_msg(!ds_trainer_load(t[1], path, &err), "%s", err.message);
        } else if (i > 2)
            ck_assert(!ds_trainer_step(t[1], &r, &err));
    }
    size_t n;
    free(gradients(&p.set, &plain, 1, &n));
    float *a = ds_trainer_copy(t[0], 0), *b = ds_trainer_copy(t[1], 0);
    ck_assert(!memcmp(a, b, n * sizeof *a));
    for (int i = 0; i < 2; i++) /* the held-out loss draws the same ones each time */
        ck_assert(!ds_trainer_heldout(t[i], &loss[i], &err));
    ck_assert(loss[0] == loss[1]);
    p.set.latents_digest = "others";
    ds_trainer *other;
    ck_assert(!ds_trainer_new(&other, model, &method, &plain, &p.set, &err));
    ck_assert_int_eq(ds_trainer_load(other, path, &err), DS_EINTEGRITY);
    ds_trainer_free(other);
    ds_trainer_free(t[0]);
    ds_trainer_free(t[1]);
    free(a);
    free(b);
    free(path);
}
END_TEST

/* Data that breaks off into infinity: the step fails, and neither parameters nor moments move. */
START_TEST(a_step_that_is_not_finite_changes_nothing) {
    static posteriors p;
    ds_trainer *t, *u;
    ds_train_report r;
    ds_error err = {0};
    char *path = ds_xasprintf("%s/before-infinity", ds_test_tmpdir());
    describe(&p, N, 0.18215);
    ck_assert(!ds_trainer_new(&t, model, &method, &plain, &p.set, &err));
    ck_assert(!ds_trainer_new(&u, model, &method, &plain, &p.set, &err));
    for (int i = 0; i < 2; i++)
        ck_assert(!ds_trainer_step(t, &r, &err));
    ck_assert(!ds_trainer_save(t, path, &err));
    ck_assert(!ds_trainer_load(u, path, &err));
    for (int v = 0; v < 2; v++)
        for (int i = 0; i < N; i++)
            p.numbers[v][i][0] = INFINITY;
    ck_assert_int_eq(ds_trainer_step(t, &r, &err), DS_EINVAL);
    ck_assert_msg(strstr(err.message, "the loss is not finite at step 3"), "%s", err.message);
    ck_assert_int_eq(ds_trainer_done(t), 2);
    memset(p.numbers, 0, sizeof p.numbers);
    for (int i = 0; i < 2; i++) {
        ck_assert(!ds_trainer_step(t, &r, &err));
        ck_assert(!ds_trainer_step(u, &r, &err));
    }
    size_t n;
    free(gradients(&p.set, &plain, 1, &n));
    float *a = ds_trainer_copy(t, 0), *b = ds_trainer_copy(u, 0);
    ck_assert(!memcmp(a, b, n * sizeof *a));
    free(a);
    free(b);
    free(path);
    ds_trainer_free(t);
    ds_trainer_free(u);
}
END_TEST

START_TEST(incomplete_sets_are_refused) {
    static posteriors p;
    ds_trainer *t;
    ds_error err = {0};
    describe(&p, N, 0.18215);
    p.set.latents[1] = NULL; /* but flips are wanted */
    ck_assert_int_eq(ds_trainer_new(&t, model, &method, &plain, &p.set, &err), DS_EINVAL);
    ck_assert(strstr(err.message, "mirrored"));
    describe(&p, N, 0);
    ck_assert_int_eq(ds_trainer_new(&t, model, &method, &plain, &p.set, &err), DS_EINVAL);
    describe(&p, N, 1);
    p.set.latents[0] = NULL;
    ck_assert_int_eq(ds_trainer_new(&t, model, &method, &plain, &p.set, &err), DS_EINVAL);
    ck_assert(strstr(err.message, "no pixels"));
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, certain_posteriors_are_pixels);
    tcase_add_test(tc, each_use_draws_anew);
    tcase_add_test(tc, resume_draws_the_same);
    tcase_add_test(tc, a_step_that_is_not_finite_changes_nothing);
    tcase_add_test(tc, incomplete_sets_are_refused);
}

int main(void) { return ds_test_main("engine_latent", register_cases); }
