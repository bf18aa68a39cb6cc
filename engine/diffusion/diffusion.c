/* engine/diffusion/diffusion.c - schedules in float64. */
#include "engine/diffusion/diffusion.h"
#include "base/mem.h"
#include "engine/diffusion/flow.h"

#include <math.h>
#include <stdlib.h>

enum { FLOW_STEPS_MAX = 1000 };

static double *alpha_bars(const ds_facts *c) {
    double *bar = ds_xmalloc((size_t)c->train_steps * sizeof *bar), product = 1;
    for (int i = 0; i < c->train_steps; i++) {
        double beta = c->beta_start + (c->beta_end - c->beta_start) * i / (c->train_steps - 1);
        product *= 1 - beta;
        bar[i] = product;
    }
    return bar;
}

void ds_schedule_subset(ds_schedule *s, const ds_facts *c, const int *t, int steps) {
    *s = (ds_schedule){0};
    double *bar = alpha_bars(c), prev = 1;
    double **lists[] = {
        &s->beta,    &s->alpha_bar, &s->alpha_bar_prev, &s->log_beta, &s->posterior_log_variance,
        &s->mean_x0, &s->mean_xt};
    for (int i = 0; i < 7; i++)
        *lists[i] = ds_xmalloc((size_t)steps * sizeof(double));
    s->t = ds_xmalloc((size_t)steps * sizeof *s->t);
    s->time = ds_xmalloc((size_t)steps * sizeof *s->time);
    s->steps = steps;
    for (int i = 0; i < steps; i++) {
        DS_ASSERT(t[i] >= 0 && t[i] < c->train_steps && (i == 0 || t[i] > t[i - 1]));
        double a = bar[t[i]], beta = 1 - a / prev, variance = beta * (1 - prev) / (1 - a);
        s->t[i] = t[i];
        s->time[i] = (float)t[i];
        s->beta[i] = beta;
        s->alpha_bar[i] = a;
        s->alpha_bar_prev[i] = prev;
        s->log_beta[i] = log(beta);
        s->posterior_log_variance[i] = i ? log(variance) : 0;
        s->mean_x0[i] = beta * sqrt(prev) / (1 - a);
        s->mean_xt[i] = (1 - prev) * sqrt(1 - beta) / (1 - a);
        prev = a;
    }
    s->posterior_log_variance[0] = steps > 1 ? s->posterior_log_variance[1] : s->log_beta[0];
    free(bar);
}

void ds_schedule_init(ds_schedule *s, const ds_facts *c) {
    *s = (ds_schedule){0};
    if (c->flow.path != DS_FLOW_NONE)
        return;
    int *t = ds_xmalloc((size_t)c->train_steps * sizeof *t);
    for (int i = 0; i < c->train_steps; i++)
        t[i] = i;
    ds_schedule_subset(s, c, t, c->train_steps);
    free(t);
}

static void levels(ds_schedule *s, const ds_flow *flow, int steps) {
    *s = (ds_schedule){.steps = steps};
    s->time = ds_xmalloc((size_t)steps * sizeof *s->time);
    s->level = ds_xmalloc((size_t)steps * sizeof *s->level);
    for (int i = 0; i < steps; i++) {
        s->level[i] = ds_flow_level(flow, (i + 1.0) / steps);
        s->time[i] = ds_flow_time(flow, s->level[i]);
    }
}

int ds_schedule_respace(ds_schedule *s, const ds_facts *c, int steps, ds_error *err) {
    const int flow = c->flow.path != DS_FLOW_NONE, most = flow ? FLOW_STEPS_MAX : c->train_steps;
    if (steps < 1 || steps > most)
        return ds_fail(err, DS_EINVAL, "sampling steps are %d, must be 1 to %d", steps, most);
    if (flow) {
        levels(s, &c->flow, steps);
        return 0;
    }
    int *t = ds_xmalloc((size_t)steps * sizeof *t);
    double stride = steps > 1 ? (double)(c->train_steps - 1) / (steps - 1) : 1, at = 0;
    for (int i = 0; i < steps; i++, at += stride)
        t[i] = steps > 1 ? (int)rint(at) : c->train_steps - 1;
    ds_schedule_subset(s, c, t, steps);
    free(t);
    return 0;
}

void ds_schedule_release(ds_schedule *s) {
    free(s->t);
    free(s->time);
    free(s->level);
    double *lists[] = {
        s->beta,    s->alpha_bar, s->alpha_bar_prev, s->log_beta, s->posterior_log_variance,
        s->mean_x0, s->mean_xt};
    for (int i = 0; i < 7; i++)
        free(lists[i]);
    *s = (ds_schedule){0};
}

void ds_schedule_loss_coef(const ds_schedule *s, int i, float weight, float out[8]) {
    out[0] = (float)s->log_beta[i];
    out[1] = (float)s->posterior_log_variance[i];
    out[2] = (float)s->mean_x0[i];
    out[3] = (float)s->mean_xt[i];
    out[4] = (float)sqrt(1 / s->alpha_bar[i]);
    out[5] = (float)sqrt(1 / s->alpha_bar[i] - 1);
    out[6] = s->t[i] == 0 ? 1.0f : 0.0f;
    out[7] = weight;
}
