/* worker/measure/classes.c - see classes.h. */
#include "worker/measure/classes.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int ds_classes_fit(int k, int classes, int64_t n_real) {
    return k > 0 && classes > 1 && n_real > k && n_real >= (int64_t)k * classes;
}

/* x NULL: the real pictures themselves, each judged by the others. */
static int hits_of(const ds_classes_input *in, const ds_feature_set *x, const int *labels,
                   uint8_t *hit, ds_error *err) {
    const size_t n = (size_t)(x ? x->n : in->real.n), k = (size_t)in->k;
    int32_t *at = ds_xmalloc((n * k + 1) * sizeof *at);
    int rc = ds_nearest(&in->real, x, in->k, at, in->progress, in->user, err);
    for (size_t i = 0; !rc && i < n; i++)
        hit[i] = ds_vote(at + i * k, in->k, in->real_labels) == labels[i];
    free(at);
    return rc;
}

int ds_classes_hits(const ds_classes_input *in, uint8_t *hit, ds_error *err) {
    return hits_of(in, &in->samples, in->labels, hit, err);
}

/* Of all rows, or of one class (label < 0: all). */
static ds_share share_of(const uint8_t *hit, const int *labels, int64_t n, int label) {
    int64_t hits = 0, count = 0;
    for (int64_t i = 0; i < n; i++)
        if (label < 0 || labels[i] == label) {
            hits += hit[i];
            count++;
        }
    return ds_share_of(hits, count);
}

static double chance_of(const ds_classes_input *in) {
    size_t n = (size_t)in->classes;
    int64_t *real = ds_xcalloc(n, sizeof *real), *samples = ds_xcalloc(n, sizeof *samples);
    double sum = 0;
    for (int64_t i = 0; i < in->real.n; i++)
        real[in->real_labels[i]]++;
    for (int64_t i = 0; i < in->samples.n; i++)
        samples[in->labels[i]]++;
    for (size_t c = 0; c < n; c++)
        sum += (double)real[c] * (double)samples[c];
    free(real);
    free(samples);
    return sum / ((double)in->real.n * (double)in->samples.n);
}

/* The rows of one class; x is the caller's to free. */
static ds_feature_set rows_of(const ds_feature_set *from, const int *labels, int label, int64_t n,
                              float **x) {
    const size_t one = (size_t)from->dim;
    ds_feature_set set = *from;
    set.x = *x = ds_xmalloc((size_t)n * one * sizeof **x);
    set.n = 0;
    for (int64_t i = 0; i < from->n; i++)
        if (labels[i] == label)
            memcpy(*x + (size_t)set.n++ * one, from->x + (size_t)i * one, one * sizeof **x);
    return set;
}

static int distance_of(const ds_classes_input *in, ds_class *c, ds_error *err) {
    float *x, *y;
    ds_fd_result fd = {0};
    ds_feature_set real = rows_of(&in->real, in->real_labels, c->label, c->real.n, &x),
                   samples = rows_of(&in->samples, in->labels, c->label, c->samples.n, &y);
    int rc = ds_fd_compare(&real, &samples, 0, in->seed, in->progress, in->user, &fd, err);
    c->fd = fd.fd;
    free(x);
    free(y);
    return rc;
}

static int each_class(ds_classes *out, const ds_classes_input *in, const uint8_t *samples,
                      const uint8_t *real, ds_error *err) {
    int rc = 0;
    out->each = ds_xmalloc((size_t)in->classes * sizeof *out->each);
    for (int l = 0; !rc && l < in->classes; l++) {
        ds_class c = {.label = l,
                      .samples = share_of(samples, in->labels, in->samples.n, l),
                      .real = share_of(real, in->real_labels, in->real.n, l)};
        if (c.samples.n < DS_CLASS_SAMPLES_MIN || c.real.n < DS_CLASS_REAL_MIN)
            continue;
        rc = distance_of(in, &c, err);
        out->each[out->count++] = c;
    }
    return rc;
}

int ds_classes_measure(ds_classes *out, const ds_classes_input *in, ds_error *err) {
    *out = (ds_classes){.chance = NAN};
    if (!ds_classes_fit(in->k, in->classes, in->real.n) || in->samples.n < 1)
        return 0;
    uint8_t *samples = ds_xmalloc((size_t)in->samples.n), *real = ds_xmalloc((size_t)in->real.n);
    int rc = ds_classes_hits(in, samples, err);
    if (!rc)
        rc = hits_of(in, NULL, in->real_labels, real, err);
    if (!rc)
        rc = each_class(out, in, samples, real, err);
    if (!rc) {
        out->samples = share_of(samples, in->labels, in->samples.n, -1);
        out->real = share_of(real, in->real_labels, in->real.n, -1);
        out->chance = chance_of(in);
    } else
        ds_classes_release(out);
    free(samples);
    free(real);
    return rc;
}

void ds_classes_release(ds_classes *c) {
    free(c->each);
    *c = (ds_classes){.chance = NAN};
}
