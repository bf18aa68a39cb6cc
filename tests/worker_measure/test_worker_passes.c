/* tests/worker_measure/test_worker_passes.c - passes through a model that a step of a picture takes. */
#include "tests/harness.h"
#include "worker/job/spec.h"

/* Noise levels 1/4, 1/2, 3/4 and 1, of which those from `low` on are guided. */
START_TEST(passes_of_a_step) {
    const ds_facts flow = {.flow = {.path = DS_FLOW_LINEAR, .shift = 1, .scale = 1}};
    static const struct {
        double domain, classes, low, adapter, plain, base; /* plain: no class */
    } cases[] = {{1, 1, 0, 1, 1, 1},
                 {1, 2, 0, 2, 1, 2},
                 {2, 2, 0, 2, 2, 2},
                 {2, 3, 0, 3, 2, 2},
                 {2, 3, 0.25, 3, 2, 2},
                 {2, 3, 0.26, 2.5, 1.75, 1.75},
                 {2, 2, 0.5, 1.75, 1.75, 1.75},
                 {1, 2, 1, 1.25, 1, 1.25}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int heun = 0; heun < 2; heun++) {
            const ds_spec_sample s = {.sampler = heun ? DS_SAMPLER_HEUN : DS_SAMPLER_EULER,
                                      .steps = 4,
                                      .mode = DS_GUIDANCE_WEIGHTS,
                                      .domain = cases[i].domain,
                                      .classes = cases[i].classes,
                                      .low = cases[i].low};
            double adapter, plain, base;
            ck_assert_int_eq(ds_spec_passes(&s, &flow, 0, 1, &adapter, NULL), 0);
            ck_assert_int_eq(ds_spec_passes(&s, &flow, 0, 0, &plain, NULL), 0);
            ck_assert_int_eq(ds_spec_passes(&s, &flow, 1, 1, &base, NULL), 0);
            ck_assert(adapter == (heun + 1) * cases[i].adapter);
            ck_assert(plain == (heun + 1) * cases[i].plain);
            ck_assert(base == (heun + 1) * cases[i].base);
        }
}
END_TEST

START_TEST(no_steps_are_an_error) {
    const ds_facts flow = {.flow = {.path = DS_FLOW_LINEAR, .shift = 1, .scale = 1}};
    const ds_spec_sample s = {.steps = 0, .mode = DS_GUIDANCE_NONE};
    double passes;
    ds_error err;
    ck_assert_int_eq(ds_spec_passes(&s, &flow, 0, 0, &passes, &err), DS_EINVAL);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, passes_of_a_step);
    tcase_add_test(tc, no_steps_are_an_error);
}

int main(void) { return ds_test_main("worker_passes", cases); }
