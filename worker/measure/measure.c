#include "worker/measure/measure.h"
#include "base/mem.h"
#include "engine/vae/vae.h"

#include <stdlib.h>
#include <string.h>

/* Groups of the jackknife: enough pictures must be left in each, and each costs one more
 * decomposition. */
static int groups_for(int64_t n) { return n >= 64 ? DS_MEASURE_GROUPS : n >= 16 ? 4 : 0; }

size_t ds_measure_distance_bytes(enum ds_fid_mode mode) {
    const int dim = mode == DS_FID_BUNDLED ? DS_FEATURE_DIM : DS_INCEPTION_POOL;
    return ds_fd_bytes(dim, DS_REFERENCE_IMAGES_MAX, DS_SPEC_IMAGES_MAX, DS_MEASURE_GROUPS);
}

int ds_measure_features(ds_measure *out, const ds_reference *ref, const ds_feature_set *fake,
                        const ds_spec_evaluate *e, int interval, ds_progress *progress, void *user,
                        ds_error *err) {
    ds_feature_set real = ds_reference_set(ref);
    int rc = ds_fd_compare(&real, fake, interval ? groups_for(fake->n) : 0, e->seed, progress, user,
                           &out->fd, err);
    if (!rc && (real.n < 4 || fake->n < 4))
        out->kid = (ds_kid_result){0}; /* not defined; subsets == 0 says so */
    else if (!rc)
        rc = ds_kid_compare(&real, fake, e->kid_subsets, e->kid_subset_size, e->seed, &out->kid,
                            err);
    return rc;
}

enum { PORTION = 64 }; /* pictures in memory: 12 MB at 256 px, 50 at 512 */

/* Progress of a portion: made is half, looked at the other. */
typedef struct {
    const ds_measure_source *s;
    double before, n; /* pictures of earlier portions; of all */
} portion;

static int made(void *user, double done, double total) {
    const portion *p = user;
    (void)total;
    return p->s->progress ? p->s->progress(p->s->user, 2 * p->before + done, 2 * p->n) : 0;
}

/* Pictures first .. first + B of n; x: where their features go. */
static int measure_portion(const ds_measure_source *s, const int *labels, int first, int B, int n,
                           float *x, uint8_t *px, ds_error *err) {
    portion p = {s, first, n};
    ds_serve_request q = {.seed = s->seed,
                          .first = first,
                          .n = B,
                          .labels = labels + first,
                          .pixels = px,
                          .progress = made,
                          .user = &p};
    int rc = ds_serve_run(s->serve, &q, err);
    if (!rc)
        rc = ds_feature_net_compute(s->features, px, B, s->side, x, err);
    if (!rc && s->progress && s->progress(s->user, 2.0 * (first + B), 2.0 * n))
        rc = ds_fail(err, DS_ECANCELED, "measuring was stopped");
    for (int i = 0; !rc && s->keep && i < B; i++)
        s->keep(s->keep_user, first + i, px + (size_t)i * s->one);
    return rc;
}

int ds_measure_pictures(const ds_measure_source *s, const int *labels, int n, float *x,
                        char digest[DS_HEX_SIZE], ds_error *err) {
    int most = n < PORTION ? n : PORTION, rc = 0;
    uint8_t *px = ds_xmalloc((size_t)most * s->one);
    ds_sha256 *h = ds_sha256_new();
    for (int first = 0, B; !rc && first < n; first += B ? B : 1) {
        for (B = 0; B < most && first + B < n && labels[first + B] != DS_LABEL_SKIPPED;)
            B++;
        if (!B)
            continue;
        rc = measure_portion(s, labels, first, B, n, x, px, err);
        if (!rc)
            ds_sha256_add(h, px, (size_t)B * s->one);
        x += (size_t)B * (size_t)ds_feature_net_dim(s->features);
    }
    ds_sha256_hex(h, digest);
    ds_sha256_free(h);
    free(px);
    return rc;
}

int ds_measure_task(ds_measure *out, const ds_measure_input *t, ds_error *err) {
    const ds_reference *ref = t->reference;
    const ds_spec_evaluate *e = t->evaluate;
    ds_measure_source source = {.features = t->features,
                                .side = ds_picture_side(t->model),
                                .one = ds_picture_bytes(t->model),
                                .seed = e->seed,
                                .keep = t->keep,
                                .keep_user = t->keep_user,
                                .progress = t->progress,
                                .user = t->user};
    size_t n = (size_t)e->n;
    int classes = t->adapter ? t->adapter->spec.classes : t->model->base->facts.classes;
    if (ref->classes != (classes ? classes : 1))
        return ds_fail(err, DS_EINTEGRITY, "the reference has %d classes, the %s %d", ref->classes,
                       t->adapter ? "adapter" : "base", classes);
    int *labels = ds_xcalloc(n, sizeof *labels);
    float *own =
              t->x ? NULL : ds_xmalloc(n * (size_t)ds_feature_net_dim(t->features) * sizeof *own),
          *x = t->x ? t->x : own;
    ds_class_labels(labels, e->n, ref->counts, ref->classes);
    for (size_t i = 0; !classes && i < n; i++)
        labels[i] = -1;
    int rc = ds_serve_new(&source.serve, t->model, t->adapter, t->sample, err);
    if (!rc)
        rc = ds_measure_pictures(&source, labels, e->n, x, out->sample_digest, err);
    ds_serve_free(source.serve);
    if (!rc) {
        ds_feature_set fake;
        ds_feature_net_describe(t->features, x, e->n, &fake);
        if (t->any_net)
            memcpy(fake.net, ref->net, sizeof fake.net);
        rc = ds_measure_features(out, ref, &fake, e, 1, t->distance, t->user, err);
    }
    free(labels);
    free(own);
    return rc;
}
