/* engine/diffusion/flow.h - the path of a flow: what a noisy picture is made of, and what
 * a network that predicts its velocity is told and says.
 *
 *     x_u = a x + s e,  u from 0 (data x) to 1 (noise e);   dx_u/du = a' x + s' e
 *     linear  a = 1 - u,          s = u                 Lipman et al. 2023, Liu et al. 2023
 *     gvp     a = cos(pi u / 2),  s = sin(pi u / 2)     Ma et al. 2024 (SiT), section 3.2
 *
 * From x_u and the velocity v = dx_u/du follow x = (s' x_u - s v) / d and e = (a v - a' x_u) / d
 * with d = a s' - s a', which is 1 and pi/2.  Thread: any. */
#ifndef DS_ENGINE_DIFFUSION_FLOW_H
#define DS_ENGINE_DIFFUSION_FLOW_H

#include "engine/model/arch.h"

typedef struct {
    double a, s;   /* x_u = a x + s e */
    double da, ds; /* their derivatives by u */
} ds_flow_point;

ds_flow_point ds_flow_at(enum ds_flow_path path, double u);

/* What the network says is this times dx_u/du: -1 or 1. */
static inline double ds_flow_sign(const ds_flow *f) { return f->to_data ? -1 : 1; }

/* The time that it is told. */
static inline float ds_flow_time(const ds_flow *f, double u) {
    return (float)((f->to_data ? 1 - u : u) * f->scale);
}

/* The level at share v of 0..1, without a shift v itself: odds u / (1 - u) are shift times those of
 * v, so more levels lie where there is much noise.  There the shape of a picture is decided, the
 * more so the smoother it is (Esser et al. 2024, section 5.3.2). */
static inline double ds_flow_level(const ds_flow *f, double v) {
    return f->shift * v / (f->shift * v + (1 - v)); /* 0 at 0 and 1 at 1, to the bit */
}

/* u whose logit is the p-quantile of the normal law of that mean and width, 0 < p < 1: logit-normal
 * noise levels (Esser et al. 2024). */
double ds_flow_logit_normal(double mean, double width, double p);

#endif
