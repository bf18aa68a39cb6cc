#include "worker/measure/serve.h"
#include "base/mem.h"
#include "engine/vae/vae.h"

#include <stdlib.h>

struct ds_serve {
    const ds_model *model;
    ds_net *net, *base;
    ds_spec_sample sample;
    ds_guidance guide;
    int own_base; /* no adapter: labels are classes of the base */
};

/* More than a device has in all is not waited for. */
static int possible(const ds_model *model, int nets, ds_error *err) {
    ds_device *dev = model->dev;
    size_t need = ds_model_bytes(dev, model->base) +
                  (size_t)nets * (ds_net_weight_bytes(dev, model->base, DS_NET_INFER) +
                                  ds_net_bytes(model->base, dev, DS_NET_INFER, DS_SERVE_BATCH));
    if (!dev->total_bytes || need <= dev->total_bytes(dev))
        return 0;
    return ds_device_no_room(dev, need, err, "sampling %d pictures at a time", DS_SERVE_BATCH);
}

int ds_serve_new(ds_serve **out, const ds_model *model, const ds_adapter *adapter,
                 const ds_spec_sample *sample, ds_error *err) {
    ds_serve *s = ds_xcalloc(1, sizeof *s);
    s->model = model;
    s->sample = *sample;
    s->own_base = adapter == NULL;
    s->guide = ds_spec_guidance(sample, s->own_base);
    int needs_base = ds_guidance_needs_base(s->guide), rc = possible(model, 1 + needs_base, err);
    if (!rc)
        rc = ds_net_new(&s->net, model, DS_NET_INFER, &adapter, adapter ? 1 : 0, DS_SERVE_BATCH,
                        err);
    if (!rc && needs_base)
        rc = ds_net_new(&s->base, model, DS_NET_INFER, NULL, 0, DS_SERVE_BATCH, err);
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

/* Sampling takes most of the time that a picture takes, decoding the rest. */
#define SAMPLING_SHARE 0.9

typedef struct {
    ds_progress *progress;
    void *user;
} sampling;

static int on_sampled(void *user, double done, double total) {
    const sampling *s = user;
    return s->progress ? s->progress(s->user, SAMPLING_SHARE * done, total) : 0;
}

static int decode(const ds_model *m, uint8_t *pixels, const float *latents, int n,
                  ds_progress *progress, void *user, ds_error *err) {
    const ds_facts *c = &m->base->facts;
    const size_t one = (size_t)c->channels * (size_t)c->side * (size_t)c->side,
                 bytes = ds_picture_bytes(m);
    const double scale = c->latent_scale > 0 ? c->latent_scale : ds_vae_cfg(m->vae)->scaling_factor;
    float *z = ds_xmalloc(one * sizeof *z);
    int rc = 0;
    for (int i = 0; !rc && i < n; i++) {
        for (size_t k = 0; k < one; k++)
            z[k] = (float)(latents[(size_t)i * one + k] / scale);
        rc = ds_vae_decode_u8(m->vae, z, c->side, c->side, pixels + (size_t)i * bytes, err);
        double done = n * SAMPLING_SHARE + (i + 1) * (1 - SAMPLING_SHARE);
        if (!rc && progress && progress(user, done, n))
            rc = ds_fail(err, DS_ECANCELED, "decoding was stopped");
    }
    free(z);
    return rc;
}

/* Latents are kept for all pictures: 16 KiB each at 256 px, a twelfth of the pictures. */
static int run_latent(ds_serve *s, const ds_sample_options *o, const ds_sample_request *list,
                      const ds_serve_request *q, ds_error *err) {
    const ds_facts *c = &s->model->base->facts;
    size_t one = (size_t)c->channels * (size_t)c->side * (size_t)c->side;
    sampling half = {q->progress, q->user};
    if (!s->model->vae)
        return ds_fail(err, DS_EINVAL,
                       "the base makes latents and there is no VAE to decode them: add the base "
                       "again with --vae");
    float *own = q->raw ? NULL : ds_xmalloc((size_t)q->n * one * sizeof *own),
          *x = q->raw ? q->raw : own;
    int rc = ds_sample(NULL, x, s->net, s->base, o, list, q->n, on_sampled, &half, err);
    if (!rc)
        rc = decode(s->model, q->pixels, x, q->n, q->progress, q->user, err);
    free(own);
    return rc;
}

int ds_serve_run(ds_serve *s, const ds_serve_request *q, ds_error *err) {
    ds_sample_options o = {.sampler = s->sample.sampler,
                           .steps = s->sample.steps,
                           .guide = s->guide,
                           .guide_low = s->sample.low,
                           .seed = q->seed};
    ds_sample_request *list = ds_xcalloc((size_t)q->n, sizeof *list);
    for (int i = 0; i < q->n; i++)
        list[i] = (ds_sample_request){
            .index = (uint64_t)(q->first + i), .label = q->labels[i], .base = s->own_base};
    int rc = q->pixels && !s->model->base->facts.pixel
                 ? run_latent(s, &o, list, q, err)
                 : ds_sample(q->pixels, q->raw, s->net, s->base, &o, list, q->n, q->progress,
                             q->user, err);
    free(list);
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
    const ds_facts *c = &model->base->facts;
    size_t count = (size_t)n * (size_t)c->channels * (size_t)c->side * (size_t)c->side;
    int *labels = ds_xcalloc((size_t)n, sizeof *labels),
        classes = adapter ? adapter->spec.classes : c->classes;
    float *raw = ds_xmalloc(count * sizeof *raw);
    for (int i = 0; i < n; i++)
        labels[i] = classes ? i % classes : -1;
    ds_serve *s;
    int rc = ds_serve_new(&s, model, adapter, sample, err);
    if (!rc) {
        ds_serve_request q = {.seed = seed, .n = n, .labels = labels, .raw = raw};
        rc = ds_serve_run(s, &q, err);
        ds_serve_free(s);
    }
    if (!rc)
        ds_digest(raw, count * sizeof *raw, out);
    free(raw);
    free(labels);
    return rc;
}
