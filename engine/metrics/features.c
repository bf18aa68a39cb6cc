#include "engine/metrics/features.h"
#include "base/mem.h"
#include "engine/metrics/inception.h"
#include "engine/metrics/resize.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Large enough for good matrix products, small enough for about 110 MB of maps. */
#define BATCH 8

struct ds_features {
    ds_inception *net;
    char digest[DS_HEX_SIZE];
    int side;        /* that the network reads */
    size_t pixels;   /* numbers of one picture */
    float *batch;    /* (BATCH,side,side,3) */
    uint8_t *scaled; /* (side,side,3) */
};

int ds_feature_sets_match(const ds_feature_set *a, const ds_feature_set *b, ds_error *err) {
    if (strcmp(a->net, b->net))
        return ds_fail(err, DS_EINVAL,
                       "cannot compare features of two networks, %.12s... and %.12s...", a->net,
                       b->net);
    if (strcmp(a->resize, b->resize))
        return ds_fail(err, DS_EINVAL, "cannot compare features of two resizings, '%s' and '%s'",
                       a->resize, b->resize);
    if (a->dim != b->dim || a->dim < 1 || a->dim > DS_FEATURE_DIM_MAX)
        return ds_fail(err, DS_EINVAL, "cannot compare features of %d and of %d numbers, limit %d",
                       a->dim, b->dim, DS_FEATURE_DIM_MAX);
    if (a->n < 0 || b->n < 0 || a->n > DS_FEATURE_ROWS_MAX || b->n > DS_FEATURE_ROWS_MAX)
        return ds_fail(err, DS_ELIMIT, "cannot compare %lld and %lld pictures, limit %d",
                       (long long)a->n, (long long)b->n, DS_FEATURE_ROWS_MAX);
    return 0;
}

int ds_features_open(ds_device *dev, const char *path, const char *want, ds_features **out,
                     ds_error *err) {
    ds_st *st;
    ds_features *f = ds_xcalloc(1, sizeof *f);
    int rc = ds_st_open_zst(path, DS_FEATURE_NET_MAX, want ? want : DS_FEATURE_NET_SHA256,
                            f->digest, &st, err);
    if (rc) {
        ds_error_prefix(err, "cannot use the feature network");
        free(f);
        return rc;
    }
    rc = ds_inception_new(dev, st, BATCH, &f->net, err);
    ds_st_free(st);
    if (rc) {
        free(f);
        return rc;
    }
    f->side = ds_inception_side(f->net);
    f->pixels = (size_t)f->side * (size_t)f->side * 3;
    f->batch = ds_xmalloc(BATCH * f->pixels * sizeof *f->batch);
    f->scaled = ds_xmalloc(f->pixels);
    *out = f;
    return 0;
}

void ds_features_close(ds_features *f) {
    if (!f)
        return;
    ds_inception_free(f->net);
    free(f->batch);
    free(f->scaled);
    free(f);
}

const char *ds_features_net(const ds_features *f) { return f->digest; }

/* One picture -> (side,side,3) in [0,1].  Pictures that are not square are stretched, as every FID
 * tool does. */
static void load_picture(const ds_features *f, float *to, const uint8_t *from, int height,
                         int width) {
    if (height != f->side || width != f->side) {
        ds_resize_bicubic(f->scaled, f->side, f->side, from, width, height, (size_t)width * 3, 3);
        from = f->scaled;
    }
    for (size_t i = 0; i < f->pixels; i++)
        to[i] = (float)from[i] / 255.0f;
}

int ds_features_compute(ds_features *f, const uint8_t *images, int64_t n, int height, int width,
                        float *out, ds_progress *progress, void *ud, ds_error *err) {
    if (height < 1 || width < 1 || height > DS_FEATURE_IMAGE_SIDE_MAX ||
        width > DS_FEATURE_IMAGE_SIDE_MAX)
        return ds_fail(err, DS_EINVAL, "cannot compute features of %d x %d pictures, limit %d",
                       width, height, DS_FEATURE_IMAGE_SIDE_MAX);
    if (n < 0 || n > DS_FEATURE_ROWS_MAX)
        return ds_fail(err, DS_ELIMIT, "cannot compute features of %lld pictures, limit %d",
                       (long long)n, DS_FEATURE_ROWS_MAX);
    size_t picture = (size_t)height * (size_t)width * 3;
    for (int64_t at = 0; at < n; at += BATCH) {
        int B = n - at < BATCH ? (int)(n - at) : BATCH;
        for (int b = 0; b < B; b++)
            load_picture(f, f->batch + (size_t)b * f->pixels, images + (size_t)(at + b) * picture,
                         height, width);
        ds_inception_forward(f->net, f->batch, B, NULL, out + (size_t)at * DS_FEATURE_DIM);
        if (ds_progress_say(progress, ud, at + B, n))
            return ds_fail(err, DS_ECANCELED, "cancelled after %lld of %lld pictures",
                           (long long)(at + B), (long long)n);
    }
    return 0;
}

void ds_features_describe(const ds_features *f, const float *x, int64_t n, ds_feature_set *set) {
    *set = (ds_feature_set){.x = x, .n = n, .dim = DS_FEATURE_DIM};
    snprintf(set->net, sizeof set->net, "%s", f->digest);
    snprintf(set->resize, sizeof set->resize, "%s", DS_RESIZE_ID);
}
