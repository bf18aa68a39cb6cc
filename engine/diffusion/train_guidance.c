/* engine/diffusion/train_guidance.c - see train_guidance.h. */
#include "engine/diffusion/train_guidance.h"
#include "base/mem.h"

#include <stdlib.h>

/* With weight 1 n is v. */
static int wanted(const ds_train_options *o) {
    return o->trained_guidance > 0 && o->trained_guidance != 1;
}

size_t ds_train_guidance_floats(const ds_facts *c, const ds_train_options *o) {
    return wanted(o) ? 2 * (size_t)c->out_channels : 0;
}

int ds_train_guidance_open(ds_train_guidance *g, const ds_model *model, const ds_train_options *o,
                           ds_error *err) {
    const ds_facts *c = &model->base->facts;
    const size_t mb = (size_t)o->micro_batch;
    *g = (ds_train_guidance){.dev = model->dev, .planes = c->out_channels};
    if (!wanted(o))
        return 0;
    int rc = ds_net_new(&g->base, model, DS_NET_INFER, NULL, 0, o->micro_batch, err);
    if (rc)
        return rc;
    g->out = g->dev->alloc(g->dev, mb * ds_facts_out(c) * sizeof(float));
    if (!g->out)
        return ds_fail(err, DS_ENOMEM,
                       "no room for what the base says of %zu images: choose a smaller "
                       "micro_batch, or trained_guidance 0",
                       mb);
    g->samples = ds_xmalloc(mb * sizeof *g->samples);
    return 0;
}

void ds_train_guidance_release(ds_train_guidance *g) {
    if (!g->base)
        return;
    ds_net_free(g->base);
    g->dev->free(g->dev, g->out);
    free(g->samples);
}

void ds_train_guidance_bytes(ds_device *dev, const ds_base *base, const ds_train_options *o,
                             double *weights, double *activations) {
    const int mb = o->micro_batch ? o->micro_batch : o->batch;
    *weights = *activations = 0;
    if (!wanted(o))
        return;
    *weights = (double)ds_net_weight_bytes(dev, base, DS_NET_INFER);
    *activations = (double)ds_net_bytes(base, dev, DS_NET_INFER, mb) +
                   (double)mb * (double)ds_facts_out(&base->facts) * sizeof(float);
}

void ds_train_guidance_shares(const ds_train_options *o, const ds_facts *c, double level,
                              float *own, float *base) {
    const int guided = c->guidance_channels ? c->guidance_channels : c->channels;
    for (int k = 0; k < c->out_channels; k++) {
        const int here = level >= o->trained_guidance_low && k < guided;
        own[k] = here ? (float)(1 / o->trained_guidance) : 1;
        base[k] = here ? (float)(1 - 1 / o->trained_guidance) : 0;
    }
}

/* A batch's noise levels rise from sample to sample, so the first ones may need no answer of the
 * base.  A device that records passes would record one of each size. */
static int first_needed(const ds_train_guidance *g, const float *host_own, int mb) {
    int first = 0;
    while (first < mb && host_own[(size_t)first * (size_t)g->planes] == 1)
        first++;
    return first < mb && !g->dev->host_memory ? 0 : first;
}

void ds_train_guidance_take(ds_train_guidance *g, float *out, const float *x,
                            const ds_net_sample *samples, const float *own, const float *base,
                            const float *host_own, int mb) {
    const ds_facts *c = &ds_net_base(g->base)->facts;
    const int first = first_needed(g, host_own, mb), n = mb - first;
    const size_t at = (size_t)first * ds_facts_out(c), row = (size_t)first * (size_t)g->planes;
    if (!n)
        return;
    for (int i = 0; i < n; i++)
        g->samples[i] = (ds_net_sample){
            .t = samples[first + i].t, .row = -1, .base_row = c->classes, .task = -1};
    ds_net_forward(g->base, g->out,
                   &(ds_net_input){.x = x + (size_t)first * ds_facts_in(c), .samples = g->samples},
                   n);
    g->dev->ops->axpby(g->dev, out + at, own + row, out + at, base + row, g->out, n * g->planes,
                       (size_t)c->side * (size_t)c->side);
}
