/* tests/engine/test_engine_values.c - a training step against numbers made here: learning rates, AdamW,
 * the norm and its clipping, the moving average, which images train and which are held out, flips,
 * dropped labels, timesteps. */
#include "tests/fixtures/engine_trainer.h"
#include "base/fs.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/diffusion/diffusion.h"
#include "engine/files/safetensors.h"
#include "tests/harness.h"
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Together so small a rate that no parameter that is in use changes: the first steps of a long warm-up. */
static const double frozen_rate = 1e-9;
static const int frozen_warmup = 1000000;

/* ---------------------------------------------------------------- rates */

static void expect_rate(double is, double want, int at) {
    ck_assert_msg(fabs(is - want) <= 1e-12, "step %d: rate %.15g, must be %.15g", at, is, want);
}

/* Warm-up over 4 steps, cosine over the other 8: 0.5 (1 + cos(k pi / 8)) for k = 0..7. */
START_TEST(rates_at_each_step) {
    static const double ramp[4] = {0.0025, 0.005, 0.0075, 0.01};
    static const double cosine[8] = {1,   0.961939766255643, 0.853553390593274, 0.691341716182545,
                                     0.5, 0.308658283817455, 0.146446609406726, 0.038060233744357};
    for (int bent = 0; bent < 2; bent++) {
        ds_train_options o = plain;
        o.steps = 12;
        o.warmup = 4;
        o.cosine = bent;
        ds_trainer *t = trainer(&o);
        for (int i = 0; i < 12; i++) {
            ds_train_report r = step(t);
            ck_assert_int_eq(r.step, i + 1);
            expect_rate(r.lr, i < 4 ? ramp[i] : bent ? 0.01 * cosine[i - 4] : 0.01, i);
        }
        ds_trainer_free(t);
    }
    ds_trainer *t = trainer(&plain); /* no warm-up: the whole rate at once */
    expect_rate(step(t).lr, 0.01, 0);
    ds_trainer_free(t);
}
END_TEST

/* ---------------------------------------------------------------- AdamW, norm, EMA */

typedef struct {
    double *p, *m, *v, *ema;
    char *frozen; /* neither stepped nor decayed */
    size_t n;
} adam;

/* One step in doubles, as Loshchilov and Hutter write it. */
static void adam_step(adam *a, const float *g, double rate, double clip, double decay, double ema,
                      int t) {
    double norm = 0;
    for (size_t i = 0; i < a->n; i++)
        norm += (double)g[i] * g[i];
    norm = sqrt(norm);
    double scale = clip > 0 && norm > clip ? clip / norm : 1;
    for (size_t i = 0; i < a->n; i++) {
        double x = g[i] * scale;
        a->m[i] = 0.9 * a->m[i] + 0.1 * x;
        a->v[i] = 0.999 * a->v[i] + 0.001 * x * x;
        double mhat = a->m[i] / (1 - pow(0.9, t)), vhat = a->v[i] / (1 - pow(0.999, t));
        a->p[i] -= (a->frozen[i] ? 0 : rate) * (decay * a->p[i] + mhat / (sqrt(vhat) + 1e-8));
        a->ema[i] = ema * a->ema[i] + (1 - ema) * a->p[i];
    }
}

static float *state_of(const char *path, const char *name, size_t n) {
    ds_st *st;
    char *bytes;
    size_t size;
    float *x = ds_xmalloc(n * sizeof *x);
    ds_error err;
    ck_assert_int_eq(ds_fs_read(path, 1 << 26, &bytes, &size, &err), 0);
    ck_assert_int_eq(ds_st_open_memory("checkpoint", bytes, size - 64, &st, &err), 0);
    ck_assert_int_eq(ds_st_need_f32(st, name, 1, (int64_t[]){(int64_t)n}, x, &err), 0);
    ds_st_free(st);
    free(bytes);
    return x;
}

/* An element whose gradient is rounding noise moves by a sign that noise decides: left out.  The
 * rest: m, v, p and ema are each rounded to f32 once a step, 2^-24 of themselves. */
static void expect_state(const char *path, const char *name, const double *want, const double *v,
                         size_t n) {
    float *is = state_of(path, name, n);
    for (size_t i = 0; i < n; i++)
        if (v[i] == 0 || v[i] > 1e-16)
            ck_assert_msg(fabs(is[i] - want[i]) <= 2e-6 * fabs(want[i]) + 2e-7,
                          "%s[%zu] is %.9g, must be %.9g", name, i, (double)is[i], want[i]);
    free(is);
}

static const struct {
    double clip, decay, ema;
} optimisers[] = {
    {0, 0, 0.15},     /* averages: 1/10, then 0.15 where 2/11 would be more */
    {0.01, 0, 0.999}, /* always clipped; averages 1/10, 2/11, 3/12 */
    {1e6, 0.1, 0},    /* never clipped; decayed; no average */
};

START_TEST(a_step_is_adamw) {
    ds_train_options o = plain;
    char path[PATH_MAX];
    o.clip = optimisers[_i].clip;
    o.weight_decay = optimisers[_i].decay;
    o.ema = optimisers[_i].ema;
    ds_fs_join(path, sizeof path, ds_test_tmpdir(), "adam");
    ds_adapter *a, *result;
    ck_assert_int_eq(ds_adapter_new(&a, base, &affiner, NULL), 0);
    const size_t n = a->table.total;
    adam x = {.n = n, .frozen = ds_xcalloc(n, 1)};
    for (int e = 0; e < a->table.count; e++)
        memset(x.frozen + a->table.items[e].offset, a->table.items[e].frozen,
               a->table.items[e].count);
    double **all[] = {&x.p, &x.m, &x.v, &x.ema};
    for (int k = 0; k < 4; k++) {
        *all[k] = ds_xcalloc(n, sizeof **all[k]);
        for (size_t i = 0; (k == 0 || k == 3) && i < n; i++)
            (*all[k])[i] = a->data[i];
    }
    ds_trainer *t = trainer(&o);
    for (int s = 0; s < 3; s++) {
        ds_train_report r = step(t);
        float *g = ds_trainer_copy(t, 1);
        double squares = 0, warmed = (1.0 + s) / (10.0 + s);
        for (size_t i = 0; i < n; i++)
            squares += (double)g[i] * g[i];
        ck_assert_msg(fabs(r.grad_norm - sqrt(squares)) <= 1e-6 * sqrt(squares),
                      "norm %.9g, must be %.9g", r.grad_norm, sqrt(squares));
        ck_assert(o.clip == 0 || (r.grad_norm > o.clip) == (o.clip < 1));
        adam_step(&x, g, o.lr, o.clip, o.weight_decay, warmed < o.ema ? warmed : o.ema, s + 1);
        free(g);
    }
    ck_assert_int_eq(ds_trainer_save(t, path, NULL), 0);
    expect_state(path, "m", x.m, x.v, n);
    expect_state(path, "v", x.v, x.v, n);
    expect_state(path, "p", x.p, x.v, n);
    expect_state(path, "ema", x.ema, x.v, n);
    /* the result is the average, in the precision of the file */
    float *ema = state_of(path, "ema", n);
    ds_params_round(&a->table, ema);
    ck_assert_int_eq(ds_trainer_result(t, &result, NULL), 0);
    for (int e = 0; e < a->table.count; e++) {
        const ds_param *p = &a->table.items[e];
        if (!p->frozen)
            ck_assert_msg(!memcmp(result->data + p->offset, ema + p->offset, p->count * 4), "%s",
                          p->name);
    }
    free(ema);
    ds_trainer_free(t);
    ds_adapter_free(a);
    ds_adapter_free(result);
    free(x.frozen);
    for (int k = 0; k < 4; k++)
        free(*all[k]);
}
END_TEST

/* What is frozen has no gradient, so that it does not count in the norm. */
START_TEST(frozen_entries_do_not_count) {
    ds_method_spec spec = affiner;
    spec.freeze_v = 1;
    ds_adapter *a;
    ck_assert_int_eq(ds_adapter_new(&a, base, &spec, NULL), 0);
    ds_trainer *t = trainer_of(&spec, &plain, &images);
    ds_train_report r;
    for (int s = 0; s < 2; s++)
        r = step(t);
    float *g = ds_trainer_copy(t, 1);
    double squares = 0;
    int frozen = 0;
    for (int e = 0; e < a->table.count; e++) {
        const ds_param *p = &a->table.items[e];
        frozen += p->frozen;
        for (size_t i = 0; i < p->count; i++) {
            double x = g[p->offset + i];
            ck_assert_msg(!p->frozen || x == 0, "%s", p->name);
            squares += x * x;
        }
    }
    ck_assert_int_gt(frozen, 1);
    ck_assert(fabs(r.grad_norm - sqrt(squares)) <= 1e-6 * sqrt(squares));
    free(g);
    ds_trainer_free(t);
    ds_adapter_free(a);
}
END_TEST

/* ---------------------------------------------------------------- which images */

/* Of every image: does it count in the first step's loss, does it count in the held-out loss? */
static void who_counts(const ds_train_options *o, int *train, int *held, int both[IMAGES]) {
    ds_trainer *t = trainer(o);
    double kept = heldout(t), loss = step(t).loss;
    ds_trainer_free(t);
    *train = *held = 0;
    for (int i = 0; i < IMAGES; i++) {
        paint(i, 2);
        t = trainer(o);
        int in_held = heldout(t) != kept, in_train = step(t).loss != loss;
        ds_trainer_free(t);
        paint(i, 1);
        both[i] = in_held && in_train;
        ck_assert_msg(in_held || in_train, "image %d is not used", i);
        *held += in_held;
        *train += in_train;
    }
}

/* A batch as large as the training part sees each of its images once; images that are held out
 * are in no step.  At most a tenth is; without any the loss is that of 64 training images. */
START_TEST(held_out_images_are_not_trained_on) {
    static const struct {
        int heldout, train, held, batch;
    } splits[] = {{20, 63, 7, 63}, {10, 63, 7, 63}, {3, 67, 3, 67}, {0, 70, 64, 70}};
    int train, held, both[IMAGES], shared = 0;
    ds_train_options o = plain;
    o.heldout = splits[_i].heldout;
    o.batch = splits[_i].batch;
    who_counts(&o, &train, &held, both);
    ck_assert_int_eq(train, splits[_i].train);
    ck_assert_int_eq(held, splits[_i].held);
    for (int i = 0; i < IMAGES; i++)
        shared += both[i];
    ck_assert_int_eq(shared, splits[_i].heldout ? 0 : 64);
}
END_TEST

/* Each epoch shows each image once, in an order of its own. */
START_TEST(an_epoch_shows_each_image_once) {
    enum { STEPS = 6, EACH = 3 };
    ds_train_options o = plain;
    double was[STEPS];
    int order = 0;
    o.heldout = 20;
    o.batch = 21;
    o.lr = frozen_rate;
    o.warmup = frozen_warmup;
    ds_trainer *t = trainer(&o);
    for (int s = 0; s < STEPS; s++)
        was[s] = step(t).loss;
    ds_trainer_free(t);
    for (int i = 0; i < IMAGES; i += 3) {
        int seen[2] = {0}, where[2] = {-1, -1};
        paint(i, 2);
        t = trainer(&o);
        for (int s = 0; s < STEPS; s++)
            if (step(t).loss != was[s])
                seen[s / EACH]++, where[s / EACH] = s % EACH;
        ds_trainer_free(t);
        paint(i, 1);
        ck_assert_msg(seen[0] == seen[1] && seen[0] <= 1, "image %d: %d and %d times", i, seen[0],
                      seen[1]);
        order += where[0] != where[1];
    }
    ck_assert_int_gt(order, 4);
}
END_TEST

/* The held-out loss is of the average, not of the parameters. */
START_TEST(held_out_loss_is_of_the_average) {
    ds_train_options o = plain;
    o.heldout = 7;
    o.ema = 0; /* the average is the parameters */
    ds_trainer *t = trainer(&o);
    double start = heldout(t);
    step(t);
    step(t);
    double moved = heldout(t);
    ds_trainer_free(t);
    o.ema = 0.999; /* after two steps: 1/10 and 2/11 of the old one, less than all */
    t = trainer(&o);
    ck_assert(heldout(t) == start);
    step(t);
    step(t);
    ck_assert(heldout(t) != moved);
    ds_trainer_free(t);
}
END_TEST

/* ---------------------------------------------------------------- pictures, labels, times */

static uint8_t mirrored[IMAGES * ONE];

/* One image a step: with flips each step's loss is that of the image or of its mirror image. */
START_TEST(flips_are_mirror_images) {
    enum { STEPS = 40 };
    ds_train_options o = plain;
    ds_image_set mirror = images;
    double loss[3][STEPS];
    int flipped = 0;
    o.batch = 1;
    o.lr = frozen_rate;
    o.warmup = frozen_warmup;
    mirror.pixels = mirrored;
    for (int i = 0; i < IMAGES * SIDE; i++) /* rows */
        for (int x = 0; x < SIDE; x++)
            memcpy(mirrored + (i * SIDE + x) * 3, pixels + (i * SIDE + SIDE - 1 - x) * 3, 3);
    for (int k = 0; k < 3; k++) {
        o.flip = k == 2;
        ds_trainer *t = trainer_of(&affiner, &o, k == 1 ? &mirror : &images);
        for (int s = 0; s < STEPS; s++)
            loss[k][s] = step(t).loss;
        ds_trainer_free(t);
    }
    for (int s = 0; s < STEPS; s++) {
        ck_assert(loss[2][s] == loss[0][s] || loss[2][s] == loss[1][s]);
        flipped += loss[2][s] == loss[1][s];
    }
    /* 20 of 40 are expected, with a deviation of 3.2 */
    ck_assert_msg(flipped > 7 && flipped < 33, "%d of %d", flipped, STEPS);
}
END_TEST

/* A step whose label was dropped leaves the rows alone; else it moves the row of its class. */
static int rows_moved(ds_trainer *t, size_t at) {
    float *g = ds_trainer_copy(t, 1);
    int moved = 0;
    for (int r = 0; r < CLASSES; r++)
        for (int i = 0; i < config.width; i++)
            if (g[at + (size_t)(r * config.width + i)] != 0) {
                moved |= 1 << r;
                break;
            }
    free(g);
    return moved;
}

START_TEST(labels_are_dropped_as_often_as_asked) {
    static const struct {
        double dropout;
        int least, most;
    } shares[] = {{0, 0, 0}, {0.25, 5, 25}, {1, 60, 60}}; /* of 60; 15 +- 3.4 */
    ds_train_options o = plain;
    ds_adapter *a;
    int dropped = 0, rows = 0;
    o.batch = 1;
    o.label_dropout = shares[_i].dropout;
    ck_assert_int_eq(ds_adapter_new(&a, base, &affiner, NULL), 0);
    ds_trainer *t = trainer(&o);
    for (int s = 0; s < 60; s++) {
        step(t);
        int moved = rows_moved(t, ds_adapter_rows(&a->table));
        ck_assert(moved == 0 || moved == 1 || moved == 2 || moved == 4);
        dropped += moved == 0;
        rows |= moved;
    }
    ck_assert_msg(dropped >= shares[_i].least && dropped <= shares[_i].most, "%d of 60", dropped);
    ck_assert_int_eq(rows, _i == 2 ? 0 : 7);
    ds_trainer_free(t);
    ds_adapter_free(a);
}
END_TEST

/* What the device is asked for: the share of the picture names the timestep. */
static struct ds_ops watched;

static const struct ds_ops *real;

static int times[4096], asked;

static float first_pixels[ONE], seen_vb;

static void watch_axpby(ds_device *d, float *out, const float *ca, const float *x, const float *cb,
                        const float *y, int B, size_t n) {
    const ds_facts facts = ds_dit_facts(&config);
    ds_schedule s;
    ds_schedule_init(&s, &facts);
    for (int i = 0; i < B; i++) {
        int t = 0;
        while (t < config.train_steps && (float)sqrt(s.alpha_bar[t]) != ca[i])
            t++;
        ck_assert_int_lt(t, config.train_steps);
        ck_assert(cb[i] == (float)sqrt(1 - s.alpha_bar[t]));
        times[asked++] = t;
    }
    memcpy(first_pixels, x, sizeof first_pixels);
    ds_schedule_release(&s);
    real->axpby(d, out, ca, x, cb, y, B, n);
}

static void watch_loss(ds_device *d, float *mse, float *vb, float *dout, const float *out,
                       const float *x0, const float *eps, const float *xt, const float *coef,
                       int learn_sigma, float vb_weight, int B, int C, size_t hw) {
    seen_vb = vb_weight;
    real->diffusion_loss(d, mse, vb, dout, out, x0, eps, xt, coef, learn_sigma, vb_weight, B, C,
                         hw);
}

static void watch(void) {
    real = dev->ops;
    watched = *real;
    watched.axpby = watch_axpby;
    watched.diffusion_loss = watch_loss;
    dev->ops = &watched;
    asked = 0;
}

/* Uniform: sample i of B has its timestep in the i-th part of the schedule.  With a focus, logit(t)
 * is mean + focus logit(u): the parts' borders are moved, the order stays. */
START_TEST(timesteps_are_stratified) {
    static const struct { double focus, mean; } laws[] = {{0, 0}, {0.5, 0}, {0.5, -1}};
    enum { B = 20 };
    ds_train_options o = plain;
    const double f = laws[_i].focus, mean = laws[_i].mean;
    o.batch = B;
    o.micro_batch = 5;
    o.focus = f;
    o.focus_mean = mean;
    watch();
    ds_trainer *t = trainer(&o);
    for (int s = 0; s < 10; s++)
        step(t);
    ck_assert_int_eq(asked, 10 * B);
    int changes = 0;
    for (int i = 0; i < asked; i++) {
        double low = (double)(i % B) / B, high = (i % B + 1.0) / B;
        if (f > 0) {
            low = 1 / (1 + exp(-mean - f * log(low / (1 - low))));
            high = 1 / (1 + exp(-mean - f * log(high / (1 - high))));
        }
        ck_assert_msg(times[i] >= floor(low * 1000) && times[i] <= high * 1000 + 1e-9,
                      "sample %d has t %d, must be in %g..%g", i % B, times[i], low, high);
        changes += i >= B && times[i] != times[i - B];
    }
    ck_assert_int_gt(changes, 5 * B);
    ds_trainer_free(t);
    dev->ops = real;
}
END_TEST

/* Held-out timesteps lie in the middle of equal parts and never change. */
START_TEST(held_out_timesteps_are_fixed) {
    ds_train_options o = plain;
    o.heldout = 5;
    o.batch = 2;
    o.focus = 0.5;
    watch();
    ds_trainer *t = trainer(&o);
    double first = heldout(t);
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(times[i], 100 + 200 * i);
    ck_assert_int_eq(asked, 5);
    ck_assert(heldout(t) == first);
    ds_trainer_free(t);
    dev->ops = real;
}
END_TEST

/* 0 is -1, 255 is 1; colours become planes. */
START_TEST(pixels_become_planes) {
    ds_train_options o = plain;
    uint8_t one[ONE];
    int label = 0;
    const ds_image_set single = {
        .pixels = one, .labels = &label, .n = 1, .side = SIDE, .channels = 3, .classes = CLASSES};
    o.batch = 1;
    for (int i = 0; i < ONE; i++)
        one[i] = i % 3 == 0 ? 0 : i % 3 == 1 ? 255 : (uint8_t)i;
    watch();
    ds_trainer *t = trainer_of(&affiner, &o, &single);
    step(t);
    for (int i = 0; i < SIDE * SIDE; i++) {
        ck_assert(first_pixels[i] == -1.0f && first_pixels[SIDE * SIDE + i] == 1.0f);
        float want = (float)(uint8_t)(3 * i + 2) / 127.5f - 1.0f;
        ck_assert(first_pixels[2 * SIDE * SIDE + i] == want);
    }
    ds_trainer_free(t);
    dev->ops = real;
}
END_TEST

/* The loss is mse + weight vb, means over the batch however it is cut. */
START_TEST(loss_does_not_depend_on_the_micro_batch) {
    ds_train_options o = plain;
    ds_train_report whole = {0}, r;
    o.batch = 12;
    for (int k = 0; k < 4; k++) {
        o.vb_weight = 0.5;
        o.micro_batch = (const int[]){0, 6, 3, 1}[k];
        watch();
        ds_trainer *t = trainer(&o);
        r = step(t);
        ds_trainer_free(t);
        dev->ops = real;
        ck_assert(seen_vb == 0.5f);
        ck_assert(fabs(r.loss - (r.mse + 0.5 * r.vb)) < 1e-12 && r.vb > 0);
        if (k == 0)
            whole = r;
        /* sums of 12 f32 numbers in another order, gradients through two layers */
        ck_assert(fabs(r.mse - whole.mse) < 1e-6 && fabs(r.vb - whole.vb) < 1e-6);
        ck_assert(fabs(r.grad_norm - whole.grad_norm) < 1e-4 * whole.grad_norm);
    }
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, open_world, close_world);
    tcase_add_test(tc, rates_at_each_step);
    tcase_add_loop_test(tc, a_step_is_adamw, 0, 3);
    tcase_add_test(tc, frozen_entries_do_not_count);
    tcase_add_loop_test(tc, held_out_images_are_not_trained_on, 0, 4);
    tcase_add_test(tc, an_epoch_shows_each_image_once);
    tcase_add_test(tc, held_out_loss_is_of_the_average);
    tcase_add_test(tc, flips_are_mirror_images);
    tcase_add_loop_test(tc, labels_are_dropped_as_often_as_asked, 0, 3);
    tcase_add_loop_test(tc, timesteps_are_stratified, 0, 3);
    tcase_add_test(tc, held_out_timesteps_are_fixed);
    tcase_add_test(tc, pixels_become_planes);
    tcase_add_test(tc, loss_does_not_depend_on_the_micro_batch);
}

int main(void) { return ds_test_main("engine values", cases); }
