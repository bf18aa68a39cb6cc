/* tests/engine/test_engine_schedule.c - the steps of samplers: times, coefficients and noise levels,
 * against numbers made here. */
#include "engine/diffusion/diffusion.h"
#include "engine/diffusion/sampler.h"
#include "tests/harness.h"

#include <math.h>
#include <string.h>

enum { IMAGES = 1, DEPTH = 1 };
#include "tests/fixtures/engine_small.h"

static void near(double is, double want, const char *what, int at) {
    ck_assert_msg(fabs(is - want) <= 2e-7 * fabs(want) + 1e-12, "%s of step %d is %.12g, not %.12g",
                  what, at, is, want);
}

/* Cumulative products of 1 - beta, betas in equal steps. */
static void bars(double bar[1000]) {
    double product = 1;
    for (int t = 0; t < 1000; t++)
        bar[t] = product *= 1 - (1e-4 + (2e-2 - 1e-4) * t / 999);
}

/* Steps of equal width from the first time to the last, rounded; one step is the last time. */
START_TEST(times_of_a_schedule) {
    const ds_facts facts = ds_dit_facts(&config);
    static const struct {
        int steps, t[5];
    } lists[] = {{1, {999}}, {2, {0, 999}}, {3, {0, 500, 999}}, {5, {0, 250, 500, 749, 999}}};
    ds_schedule s;
    ds_error err;
    double all[1000];
    float coef[8];
    bars(all);
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        ck_assert_int_eq(ds_schedule_respace(&s, &facts, lists[i].steps, NULL), 0);
        ck_assert_int_eq(s.steps, lists[i].steps);
        for (int k = 0; k < s.steps; k++) {
            ck_assert_int_eq(s.t[k], lists[i].t[k]);
            near(s.alpha_bar[k], all[s.t[k]], "alpha_bar", k);
            near(s.alpha_bar_prev[k], k ? all[s.t[k - 1]] : 1, "alpha_bar_prev", k);
            near(s.beta[k], 1 - s.alpha_bar[k] / s.alpha_bar_prev[k], "beta", k);
        }
        if (s.steps == 1) /* no variance before it: that of the step itself */
            near(s.posterior_log_variance[0], log(1 - all[999]), "log_variance", 0);
        ds_schedule_release(&s);
    }
    static const int wrong[] = {0, -1, 1001};
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(ds_schedule_respace(&s, &facts, wrong[i], &err), DS_EINVAL);
        ck_assert_msg(strstr(err.message, "must be 1 to 1000") != NULL, "%s", err.message);
    }
    ck_assert_int_eq(ds_schedule_respace(&s, &facts, 1000, NULL), 0);
    ck_assert(s.t[0] == 0 && s.t[1] == 1 && s.t[999] == 999);
    ds_schedule_release(&s);
    ds_schedule_init(&s, &facts);
    ck_assert_int_eq(s.steps, 1000);
    static const int at[] = {0, 1, 500, 999};
    for (int i = 0; i < 4; i++) {
        int t = at[i];
        double prev = t ? all[t - 1] : 1, beta = 1e-4 + (2e-2 - 1e-4) * t / 999;
        double variance = t ? beta * (1 - prev) / (1 - all[t])
                            : (1e-4 + (2e-2 - 1e-4) / 999) * (1 - all[0]) / (1 - all[1]);
        const double want[8] = {log(beta),
                                log(variance),
                                beta * sqrt(prev) / (1 - all[t]),
                                (1 - prev) * sqrt(1 - beta) / (1 - all[t]),
                                1 / sqrt(all[t]),
                                sqrt(1 / all[t] - 1),
                                t == 0,
                                0.25};
        ds_schedule_loss_coef(&s, t, 0.25f, coef);
        for (int k = 0; k < 8; k++) /* f32 */
            ck_assert_msg(fabs(coef[k] - want[k]) <= 2e-6 * fabs(want[k]),
                          "t %d, [%d] is %.9g, not %.9g", t, k, (double)coef[k], want[k]);
    }
    ds_schedule_release(&s);
}
END_TEST

/* Steps that are guided, by s/(a + s). */
START_TEST(noise_levels_of_a_path) {
    double share = -1;
    /* levels 0.293, 0.5, 0.707 and 1 of a path that is a quarter of a circle */
    const ds_facts gvp = {.flow = {.path = DS_FLOW_GVP, .shift = 1, .scale = 1}};
    ck_assert_int_eq(ds_guidance_share(0.3, &gvp, 4, &share, NULL), 0);
    ck_assert(share == 0.75);
    ck_assert_int_eq(ds_guidance_share(0.29, &gvp, 4, &share, NULL), 0);
    ck_assert(share == 1);
    ck_assert_int_eq(ds_guidance_share(0.3, &gvp, 0, &share, NULL), DS_EINVAL);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, times_of_a_schedule);
    tcase_add_test(tc, noise_levels_of_a_path);
}

int main(void) { return ds_test_main("engine schedule", cases); }
