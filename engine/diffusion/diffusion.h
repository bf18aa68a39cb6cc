/* engine/diffusion/diffusion.h - the noise schedule and what is derived from it.
 *
 * Of a flow it holds the noise levels of the sampler's steps only.
 *
 * betas = linspace(beta_start, beta_end, T), alphas_cumprod in float64 (Ho et
 * al. 2020, Nichol & Dhariwal 2021).  Respacing keeps some of the T steps; the model always sees
 * the original t.  Read-only after init; owned by the caller.
 */
#ifndef DS_ENGINE_DIFFUSION_DIFFUSION_H
#define DS_ENGINE_DIFFUSION_DIFFUSION_H

#include "engine/model/arch.h"

typedef struct {
    int steps;     /* kept steps, ascending in t */
    float *time;   /* what the network is told at each */
    double *level; /* of a flow: the noise level of each (flow.h); the rest is NULL then */
    int *t;        /* original timestep of each */
    double *beta, *alpha_bar, *alpha_bar_prev;
    double *log_beta;               /* upper end of the learned variance */
    double *posterior_log_variance; /* clipped: entry 0 = entry 1; the lower end */
    double *mean_x0, *mean_xt;      /* posterior_mean_coef1, coef2 */
} ds_schedule;

/* All T steps; none of a flow, whose levels are drawn. */
void ds_schedule_init(ds_schedule *s, const ds_facts *c);

/* `steps` of the T (space_timesteps(T, "steps") of improved diffusion: fractional stride, rounded
 * to even).  1 <= steps <= T.  Of a flow: the levels of 1/steps, 2/steps, .. 1 (flow.h). */
int ds_schedule_respace(ds_schedule *s, const ds_facts *c, int steps, ds_error *err);

/* Any ascending subset of 0..T-1. */
void ds_schedule_subset(ds_schedule *s, const ds_facts *c, const int *t, int steps);
void ds_schedule_release(ds_schedule *s);

/* The eight loss coefficients of ops->diffusion_loss for step index i; weight in [7]. */
void ds_schedule_loss_coef(const ds_schedule *s, int i, float weight, float out[8]);

#endif
