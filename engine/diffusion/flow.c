/* engine/diffusion/flow.c - see flow.h. */
#include "engine/diffusion/flow.h"

#include <math.h>

static const double half_pi = 1.57079632679489661923;

ds_flow_point ds_flow_at(enum ds_flow_path path, double u) {
    if (path == DS_FLOW_LINEAR)
        return (ds_flow_point){.a = 1 - u, .s = u, .da = -1, .ds = 1};
    double a = u == 1 ? 0 : cos(half_pi * u), s = sin(half_pi * u);
    return (ds_flow_point){.a = a, .s = s, .da = -half_pi * s, .ds = half_pi * a};
}

/* Quantile of the standard normal law by halving: exact to the last bits of its distribution
 * function, and monotone. */
static double normal_quantile(double p) {
    double low = -40, high = 40;
    for (int i = 0; i < 64; i++) {
        double middle = 0.5 * (low + high);
        if (0.5 * erfc(-middle * 0.70710678118654752440) < p)
            low = middle;
        else
            high = middle;
    }
    return 0.5 * (low + high);
}

double ds_flow_logit_normal(double mean, double width, double p) {
    return 1 / (1 + exp(-mean - width * normal_quantile(p)));
}
