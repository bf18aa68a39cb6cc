#include "worker/measure.h"
#include "base/mem.h"
#include "engine/vae.h"

#include <stdlib.h>
#include <string.h>

/* Groups of the jackknife: enough pictures must be left in each, and each costs one more
 * decomposition. */
static int groups_for(int64_t n) { return n >= 64 ? 8 : n >= 16 ? 4 : 0; }

int ds_measure_features(ds_measure *out, const ds_reference *ref, const ds_feature_set *fake,
                        const ds_spec_evaluate *e, int interval, ds_error *err) {
    ds_feature_set real = ds_reference_set(ref);
    int rc = ds_fd_compare(&real, fake, interval ? groups_for(fake->n) : 0, e->seed, &out->fd, err);
    if (!rc && (real.n < 4 || fake->n < 4))
        out->kid = (ds_kid_result){0}; /* not defined; subsets == 0 says so */
    else if (!rc)
        rc = ds_kid_compare(&real, fake, e->kid_subsets, e->kid_subset_size, e->seed, &out->kid,
                            err);
    return rc;
}

/* Sampling is the first half of the work, features are the second. */
typedef struct {
    ds_progress *progress;
    void *user;
    double n;
} halves;

static int sampled(void *user, double done, double total) {
    const halves *h = user;
    (void)total;
    return h->progress ? h->progress(h->user, done, 2 * h->n) : 0;
}

static int seen(void *user, int64_t done, int64_t total) {
    const halves *h = user;
    (void)total;
    return h->progress ? h->progress(h->user, h->n + (double)done, 2 * h->n) : 0;
}

int ds_measure_task(ds_measure *out, const ds_model *model, const ds_adapter *adapter,
                    ds_features *features, const ds_reference *ref, const ds_spec_sample *sample,
                    const ds_spec_evaluate *e, int any_net, uint8_t *pixels, ds_progress *progress,
                    void *user, ds_error *err) {
    const int side = ds_picture_side(model);
    size_t one = ds_picture_bytes(model), n = (size_t)e->n;
    int classes = adapter->spec.classes, rc = 0;
    ds_serve *s = NULL;
    halves h = {progress, user, e->n};
    if (ref->classes != classes)
        return ds_fail(err, DS_EINTEGRITY, "the reference has %d classes, the adapter %d",
                       ref->classes, classes);
    int *labels = ds_xcalloc(n, sizeof *labels);
    uint8_t *own = pixels ? NULL : ds_xmalloc(n * one), *px = pixels ? pixels : own;
    float *x = ds_xmalloc(n * DS_FEATURE_DIM * sizeof *x);
    ds_class_labels(labels, e->n, ref->counts, classes);
    rc = ds_serve_new(&s, model, adapter, sample, err);
    if (!rc)
        rc = ds_serve_run(s, e->seed, labels, e->n, px, NULL, sampled, &h, err);
    ds_serve_free(s);
    if (!rc)
        rc = ds_features_compute(features, px, e->n, side, side, x, seen, &h, err);
    if (!rc) {
        ds_feature_set fake;
        ds_digest(px, n * one, out->sample_digest);
        ds_features_describe(features, x, e->n, &fake);
        if (any_net)
            memcpy(fake.net, ref->net, sizeof fake.net);
        rc = ds_measure_features(out, ref, &fake, e, 1, err);
    }
    free(labels);
    free(own);
    free(x);
    return rc;
}
