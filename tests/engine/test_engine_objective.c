/* tests/engine/test_engine_objective.c - what a network predicts is found by its loss: every hypothesis by
 * networks that are it, and none by networks that are nothing. */
#include "base/mem.h"
#include "base/rng.h"
#include "engine/model/dit.h"
#include "engine/diffusion/diffusion.h"
#include "engine/diffusion/objective.h"
#include "tests/harness.h"

#include <math.h>
#include <string.h>

static void must(int rc, const ds_error *err) { ck_assert_msg(!rc, "%s", err->message); }

enum { SIDE = 16, N = 3, CHANNELS = 3, COUNT = CHANNELS * SIDE * SIDE };

static const ds_dit_config config = {.channels = CHANNELS,
                                     .side = SIDE,
                                     .patch = 4,
                                     .width = 32,
                                     .depth = 1,
                                     .heads = 4,
                                     .mlp_ratio = 4,
                                     .classes = 2,
                                     .freq_dim = 256,
                                     .pixel = 1,
                                     .train_steps = 1000,
                                     .beta_start = 1e-4,
                                     .beta_end = 2e-2};

/* Smooth pictures: waves of several lengths. */
static void make_pictures(float x[N][COUNT]) {
    for (int i = 0; i < N; i++)
        for (int c = 0; c < CHANNELS; c++)
            for (int k = 0; k < SIDE * SIDE; k++)
                x[i][c * SIDE * SIDE + k] =
                    0.7f * (float)sin(0.2 * (i + 1) * (k % SIDE) + 0.1 * (c + 1) * (k / SIDE));
}

/* A network that knows the pictures, and says what its hypothesis demands, a little off.  It takes
 * the time as its own clock says, whatever it is told. */
typedef struct {
    enum ds_prediction prediction;
    int clock; /* 0: DDPM; else linear: 1 data, 2 noise, 3 1000 data, 4 1000 noise */
    float (*x)[COUNT];
    double off;
    const ds_schedule *schedule;
    int passes;
} oracle;

static const char *const clock_words[] = {"t of 0..T-1", "t, 1 is data", "t, 1 is noise",
                                          "1000 t, 1 is data", "1000 t, 1 is noise"};

static void shares(const oracle *o, float t, double *a, double *s) {
    if (!o->clock) {
        int i = (int)fmin(fmax(rint(t), 0), 999);
        *a = sqrt(o->schedule->alpha_bar[i]), *s = sqrt(1 - o->schedule->alpha_bar[i]);
        return;
    }
    double u = fmin(fmax(o->clock > 2 ? t / 1000 : t, 0.01), 0.99);
    *a = o->clock % 2 ? u : 1 - u;
    *s = 1 - *a;
}

static int answer(void *user, float *out, const float *noisy, float t, int n, ds_error *err) {
    oracle *o = user;
    double a, s;
    (void)err;
    shares(o, t, &a, &s);
    o->passes += n;
    for (int i = 0; i < n; i++) {
        float off[COUNT];
        ds_rng_normal(off, COUNT, 3, DS_STREAM_TEST, (uint32_t)o->passes, (uint64_t)i);
        for (int k = 0; k < COUNT; k++) {
            double x = o->x[i][k], e = (noisy[i * COUNT + k] - a * x) / s;
            double kx = o->clock ? 1 : s, ke = o->clock ? 1 : a;
            double say[DS_PREDICTIONS] = {e, kx * x - ke * e, ke * e - kx * x, x};
            out[i * COUNT + k] = (float)(say[o->prediction] + o->off * off[k]);
        }
    }
    return 0;
}

START_TEST(each_hypothesis_is_found) {
    const ds_facts facts = ds_dit_facts(&config);
    float x[N][COUNT];
    ds_schedule schedule;
    ds_error err;
    ds_objective found;
    make_pictures(x);
    ds_schedule_init(&schedule, &facts);
    for (int p = 0; p < DS_PREDICTIONS; p++)
        for (int clock = 0; clock < 5; clock++) {
            oracle o = {(enum ds_prediction)p, clock, x, 0.15, &schedule, 0};
            must(ds_objective_measure(&found, &facts, answer, &o, &x[0][0], N, NULL, NULL, &err),
                 &err);
            const ds_objective_row *best = &found.rows[0];
            int path = p == DS_PREDICT_X0 || best->path == (clock ? DS_PATH_LINEAR : DS_PATH_DDPM);
            ck_assert_msg((int)best->prediction == p && path && found.clear,
                          "%s, %s: found %s, %s (%s), margin %g", ds_prediction_name(o.prediction),
                          clock_words[clock], ds_prediction_name(best->prediction),
                          ds_noise_path_name(best->path), best->time, found.margin);
            if (p != DS_PREDICT_X0) /* which is the same whatever path and time */
                ck_assert_str_eq(best->time, clock_words[clock]);
            ck_assert_int_eq(o.passes, ds_objective_passes(N));
            for (int i = 1; i < DS_OBJECTIVE_ROWS; i++)
                ck_assert(found.rows[i].loss >= found.rows[i - 1].loss);
        }
    ds_schedule_release(&schedule);
}
END_TEST

/* The numbers themselves, of a network that says 0: every answer is off by all of it; the picture is
 * x_t / a, x_t and a x_t, 0. */
static int nothing(void *user, float *out, const float *noisy, float t, int n, ds_error *err) {
    (void)user, (void)noisy, (void)t, (void)err;
    memset(out, 0, sizeof(float) * (size_t)n * COUNT);
    return 0;
}

static int loud(void *user, float *out, const float *noisy, float t, int n, ds_error *err) {
    (void)noisy, (void)t, (void)err;
    ds_rng_normal(out, (size_t)n * COUNT, 5, DS_STREAM_TEST, 0, 0);
    for (int k = 0; k < n * COUNT; k++)
        out[k] *= *(float *)user;
    return 0;
}

static int not_a_number(void *user, float *out, const float *noisy, float t, int n, ds_error *err) {
    (void)user, (void)noisy, (void)t, (void)err;
    for (int k = 0; k < n * COUNT; k++)
        out[k] = k % 7 ? 0 : NAN;
    return 0;
}

START_TEST(nothing_is_not_something) {
    const ds_facts facts = ds_dit_facts(&config);
    float x[N][COUNT], size[] = {0.3f, 1, 3, 30};
    ds_error err;
    ds_objective f;
    make_pictures(x);
    must(ds_objective_measure(&f, &facts, nothing, NULL, &x[0][0], N, NULL, NULL, &err), &err);
    for (int i = 0; i < DS_OBJECTIVE_ROWS; i++) {
        ck_assert_double_eq_tol(f.rows[i].answer, 1, 1e-6);
        if (f.rows[i].prediction == DS_PREDICT_X0)
            ck_assert_double_eq_tol(f.rows[i].picture, 1, 1e-6);
        ck_assert_double_eq_tol(f.rows[i].loss,
                                pow(f.rows[i].answer, 0.6) * pow(f.rows[i].picture, 0.4), 1e-6);
    }
    ck_assert(!f.clear);
    for (int i = 0; i < 4; i++) {
        must(ds_objective_measure(&f, &facts, loud, &size[i], &x[0][0], N, NULL, NULL, &err), &err);
        ck_assert_msg(!f.clear && f.rows[0].answer > 0.95, "noise of size %g", size[i]);
    }
    must(ds_objective_measure(&f, &facts, not_a_number, NULL, &x[0][0], N, NULL, NULL, &err), &err);
    ck_assert(!f.clear && isfinite(f.rows[0].loss));
}
END_TEST

static int stop(void *user, double done, double total) {
    ck_assert(done <= total && total == ds_objective_passes(N));
    return ++*(int *)user == 2;
}

START_TEST(stops_when_told) {
    const ds_facts facts = ds_dit_facts(&config);
    float x[N][COUNT];
    int steps = 0;
    ds_error err;
    ds_objective f;
    make_pictures(x);
    ck_assert_int_eq(
        ds_objective_measure(&f, &facts, nothing, NULL, &x[0][0], N, stop, &steps, &err),
        DS_ECANCELED);
    ck_assert_int_eq(steps, 2);
}
END_TEST

START_TEST(names_go_both_ways) {
    ds_error err;
    for (int p = 0; p < DS_PREDICTIONS; p++) {
        enum ds_prediction q;
        must(ds_prediction_from_name(ds_prediction_name((enum ds_prediction)p), &q, &err), &err);
        ck_assert_int_eq((int)q, p);
    }
    enum ds_prediction q;
    ck_assert_int_eq(ds_prediction_from_name("velocity", &q, &err), DS_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "data-noise"));
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, each_hypothesis_is_found);
    tcase_add_test(tc, nothing_is_not_something);
    tcase_add_test(tc, stops_when_told);
    tcase_add_test(tc, names_go_both_ways);
}

int main(void) { return ds_test_main("engine_objective", register_cases); }
