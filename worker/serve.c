#include "worker/serve.h"
#include "base/mem.h"

#include <stdlib.h>

struct ds_serve {
    const ds_model *model;
    ds_net *net, *base;
    ds_spec_sample sample;
    int own_base; /* no adapter: labels are classes of the base */
};

int ds_serve_new(ds_serve **out, const ds_model *model, const ds_adapter *adapter,
                 const ds_spec_sample *sample, ds_error *err) {
    ds_serve *s = ds_xcalloc(1, sizeof *s);
    s->model = model;
    s->sample = *sample;
    s->own_base = adapter == NULL;
    int rc =
        ds_net_new(&s->net, model, DS_NET_INFER, &adapter, adapter ? 1 : 0, DS_SERVE_BATCH, err);
    if (!rc && adapter && sample->mode == DS_GUIDANCE_DOMAIN)
        rc = ds_net_new(&s->base, model, DS_NET_INFER, NULL, 0, DS_SERVE_BATCH, err);
    if (!adapter && sample->mode == DS_GUIDANCE_DOMAIN)
        s->sample.mode = DS_GUIDANCE_NONE; /* the base guided by itself is the base */
    if (rc)
        ds_serve_free(s);
    else
        *out = s;
    return rc;
}

void ds_serve_free(ds_serve *s) {
    if (!s)
        return;
    ds_net_free(s->net);
    ds_net_free(s->base);
    free(s);
}

int ds_serve_run(ds_serve *s, uint64_t seed, const int *labels, int n, uint8_t *pixels, float *raw,
                 ds_progress *progress, void *user, ds_error *err) {
    ds_sample_options o = {.sampler = s->sample.sampler,
                           .steps = s->sample.steps,
                           .guidance = s->sample.guidance,
                           .mode = s->sample.mode,
                           .seed = seed};
    ds_sample_request *q = ds_xcalloc((size_t)n, sizeof *q);
    for (int i = 0; i < n; i++)
        q[i] = (ds_sample_request){.index = (uint64_t)i, .label = labels[i], .base = s->own_base};
    int rc = ds_sample(pixels, raw, s->net, s->base, &o, q, n, progress, user, err);
    free(q);
    return rc;
}

void ds_class_labels(int *labels, int n, const int64_t *counts, int classes) {
    int64_t total = 0, seen = 0;
    for (int c = 0; c < classes; c++)
        total += counts[c];
    DS_ASSERT(total > 0 && total < INT64_MAX / (4 * (int64_t)DS_SPEC_IMAGES_MAX));
    /* picture i stands at (i + 1/2)/n of the row of all images, sorted by class */
    for (int c = 0, i = 0; c < classes; c++) {
        seen += counts[c];
        while (i < n && (2 * (int64_t)i + 1) * total < 2 * seen * n)
            labels[i++] = c;
    }
}

int ds_probe(const ds_model *model, const ds_adapter *adapter, const ds_spec_sample *sample, int n,
             uint64_t seed, char out[DS_HEX_SIZE], ds_error *err) {
    const ds_dit_config *c = &model->base->cfg;
    size_t count = (size_t)n * (size_t)c->channels * (size_t)c->side * (size_t)c->side;
    int *labels = ds_xcalloc((size_t)n, sizeof *labels),
        classes = adapter ? adapter->spec.classes : 0;
    float *raw = ds_xmalloc(count * sizeof *raw);
    for (int i = 0; i < n; i++)
        labels[i] = classes ? i % classes : -1;
    ds_serve *s;
    int rc = ds_serve_new(&s, model, adapter, sample, err);
    if (!rc) {
        rc = ds_serve_run(s, seed, labels, n, NULL, raw, NULL, NULL, err);
        ds_serve_free(s);
    }
    if (!rc)
        ds_digest(raw, count * sizeof *raw, out);
    free(raw);
    free(labels);
    return rc;
}
