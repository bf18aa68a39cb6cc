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
    int clock; /* 0: DDPM; linear: 1 data, 2 noise, 3 1000 data, 4 1000 noise; gvp: 5 .. 8 the same;
                  9: cosine */
    float (*x)[COUNT];
    double off;
    const ds_schedule *schedule;
    int passes;
} oracle;

enum { LINEAR = 1, GVP = 5, COSINE = 9, CLOCKS = 10 };
static const char *const clock_words[CLOCKS] = {
    "t of 0..T-1",        "t, 1 is data",      "t, 1 is noise", "1000 t, 1 is data",
    "1000 t, 1 is noise", "t, 1 is data",      "t, 1 is noise", "1000 t, 1 is data",
    "1000 t, 1 is noise", "1000 t, 1 is noise"};
static const int is_data[CLOCKS] = {0, 1, 0, 1, 0, 1, 0, 1, 0, 0};
static const double scales[CLOCKS] = {0, 1, 1, 1000, 1000, 1, 1, 1000, 1000, 1000};

static enum ds_noise_path path_of(int clock) {
    return clock < LINEAR   ? DS_PATH_DDPM
           : clock < GVP    ? DS_PATH_LINEAR
           : clock < COSINE ? DS_PATH_GVP
                            : DS_PATH_COSINE;
}

static void shares(const oracle *o, float t, double *a, double *s) {
    if (!o->clock) {
        int i = (int)fmin(fmax(rint(t), 0), 999);
        *a = sqrt(o->schedule->alpha_bar[i]), *s = sqrt(1 - o->schedule->alpha_bar[i]);
        return;
    }
    double u = fmin(fmax(t / scales[o->clock], 0.01), 0.99);
    u = is_data[o->clock] ? 1 - u : u;
    *a = o->clock < GVP ? 1 - u : cos(1.5707963267948966 * u);
    *s = o->clock < GVP ? u : sin(1.5707963267948966 * u);
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
            int linear = path_of(o->clock) == DS_PATH_LINEAR;
            double times = path_of(o->clock) == DS_PATH_GVP ? 1.5707963267948966 : 1,
                   kx = linear ? 1 : times * s, ke = linear ? 1 : times * a;
            double say[DS_PREDICTIONS] = {e, kx * x - ke * e, ke * e - kx * x, x};
            out[i * COUNT + k] = (float)(say[o->prediction] + o->off * off[k]);
        }
    }
    return 0;
}

/* The flow that a row stands for: a velocity along a known path, whose time is 1 where it points. */
static void usable_as(const ds_objective_row *row, int p, int clock) {
    const enum ds_noise_path path = path_of(clock);
    const int to_data = p == DS_PREDICT_DATA_NOISE, eps = p == DS_PREDICT_EPS && clock == 0,
              flow = (to_data || p == DS_PREDICT_NOISE_DATA) &&
                     (path == DS_PATH_LINEAR || path == DS_PATH_GVP);
    ds_flow is;
    const char *why = NULL;
    int usable = ds_objective_flow(row, &is, &why);
    ck_assert_int_eq(usable, eps || (flow && to_data == is_data[clock]));
    if (!usable)
        ck_assert_ptr_nonnull(
            strstr(why, flow ? "runs against its velocity" : "noise with DDPM's schedule"));
    else if (eps)
        ck_assert_int_eq(is.path, DS_FLOW_NONE);
    else
        ck_assert(is.path == (path == DS_PATH_GVP ? DS_FLOW_GVP : DS_FLOW_LINEAR) &&
                  is.to_data == to_data && is.scale == scales[clock]);
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
        for (int clock = 0; clock < CLOCKS; clock++) {
            if (clock >= GVP && (p == DS_PREDICT_EPS || p == DS_PREDICT_X0 ||
                                 (clock == COSINE && p == DS_PREDICT_DATA_NOISE)))
                continue; /* not compared */
            oracle o = {(enum ds_prediction)p, clock, x, 0.15, &schedule, 0};
            must(ds_objective_measure(&found, &facts, answer, &o, &x[0][0], N, NULL, NULL, &err),
                 &err);
            const ds_objective_row *best = &found.rows[0];
            int path = p == DS_PREDICT_X0 || best->path == path_of(clock);
            ck_assert_msg((int)best->prediction == p && path && found.clear,
                          "%s, %s: found %s, %s (%s), margin %g", ds_prediction_name(o.prediction),
                          clock_words[clock], ds_prediction_name(best->prediction),
                          ds_noise_path_name(best->path), best->time, found.margin);
            if (p != DS_PREDICT_X0) /* which is the same whatever path and time */
                ck_assert_str_eq(best->time, clock_words[clock]);
            usable_as(best, p, clock);
            int early = p == DS_PREDICT_EPS && clock == 0; /* gvp is not tried then */
            ck_assert_int_eq(o.passes, early ? 5 * 5 * N : ds_objective_passes(N));
            ck_assert_int_eq(found.count, early ? 8 : DS_OBJECTIVE_ROWS);
            for (int i = 1; i < found.count; i++)
                ck_assert(found.rows[i].out > found.rows[i - 1].out ||
                          (found.rows[i].out == found.rows[i - 1].out &&
                           found.rows[i].loss >= found.rows[i - 1].loss));
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
    ck_assert_int_eq(f.count, DS_OBJECTIVE_ROWS);
    for (int i = 0; i < f.count; i++) {
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

/* What a person says, and what is said of it. */
START_TEST(objectives_have_words) {
    static const struct {
        const char *name;
        ds_flow flow;
        const char *words;
    } cases[] = {{"eps", {DS_FLOW_NONE, 0, 0, 0}, "noise (eps)"},
                 {"data-noise",
                  {DS_FLOW_LINEAR, 1, 1, 1},
                  "velocity (data - noise), linear path, time 0 to 1, 1 is data"},
                 {"noise-data-1000",
                  {DS_FLOW_LINEAR, 0, 1000, 1},
                  "velocity (noise - data), linear path, time 0 to 1000, 1000 is noise"},
                 {"data-noise-gvp",
                  {DS_FLOW_GVP, 1, 1, 1},
                  "velocity (data - noise), gvp path, time 0 to 1, 1 is data"},
                 {"noise-data-gvp-1000",
                  {DS_FLOW_GVP, 0, 1000, 1},
                  "velocity (noise - data), gvp path, time 0 to 1000, 1000 is noise"}};
    static const char *const wrong[] = {"eps-gvp", "x0-1000", "noise-data-1000-gvp", "-gvp",
                                        "",        "gvp",     "data-noise-"};
    enum ds_prediction p;
    ds_flow flow;
    ds_error err;
    char words[100];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        must(ds_objective_from_name(cases[i].name, &p, &flow, &err), &err);
        ck_assert(flow.path == cases[i].flow.path && flow.to_data == cases[i].flow.to_data &&
                  flow.scale == cases[i].flow.scale);
        ds_objective_words(&flow, words, sizeof words);
        ck_assert_str_eq(words, cases[i].words);
    }
    must(ds_objective_from_name("x0", &p, &flow, &err), &err);
    ck_assert(p == DS_PREDICT_X0 && flow.path == DS_FLOW_NONE);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        ck_assert_msg(ds_objective_from_name(wrong[i], &p, &flow, &err) == DS_EINVAL, "%s",
                      wrong[i]);
}
END_TEST

/* The schedule that eps is tried with, where the configuration has none. */
START_TEST(a_flow_base_is_measured_against_the_published_schedule) {
    ds_facts facts = ds_dit_facts(&config), flow = facts;
    float x[N][COUNT];
    ds_schedule schedule;
    ds_error err;
    ds_objective a, b;
    make_pictures(x);
    ds_schedule_init(&schedule, &facts);
    flow.flow = (ds_flow){DS_FLOW_LINEAR, 1, 1, 1};
    flow.train_steps = 0;
    flow.beta_start = flow.beta_end = 0;
    oracle o = {DS_PREDICT_EPS, 0, x, 0.15, &schedule, 0};
    must(ds_objective_measure(&a, &facts, answer, &o, &x[0][0], N, NULL, NULL, &err), &err);
    o.passes = 0;
    must(ds_objective_measure(&b, &flow, answer, &o, &x[0][0], N, NULL, NULL, &err), &err);
    ck_assert(a.count == b.count && a.rows[0].loss == b.rows[0].loss && b.clear);
    ds_schedule_release(&schedule);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, objectives_have_words);
    tcase_add_test(tc, a_flow_base_is_measured_against_the_published_schedule);
    tcase_add_test(tc, each_hypothesis_is_found);
    tcase_add_test(tc, nothing_is_not_something);
    tcase_add_test(tc, stops_when_told);
    tcase_add_test(tc, names_go_both_ways);
}

int main(void) { return ds_test_main("engine_objective", register_cases); }
