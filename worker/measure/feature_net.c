#include "worker/measure/feature_net.h"
#include "base/fs.h"
#include "base/mem.h"
#include "base/zio.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 8 };

struct ds_feature_net {
    enum ds_fid_mode mode;
    ds_features *trunk; /* bundled mode ... */
    ds_fid_net *whole;  /* ... or FID's network, and what it reads */
    float *batch;       /* (BATCH,299,299,3) */
};

static int read_bytes(enum ds_fid_mode mode, const char *path, char **bytes, size_t *n,
                      ds_error *err) {
    return mode == DS_FID_BUNDLED ? ds_zio_read_file(path, DS_FEATURE_NET_MAX, bytes, n, err)
                                  : ds_fs_read(path, DS_FID_NET_MAX, bytes, n, err);
}

int ds_feature_net_digest(enum ds_fid_mode mode, const char *path, char sha256[DS_HEX_SIZE],
                          ds_error *err) {
    char *bytes;
    size_t n;
    int rc = read_bytes(mode, path, &bytes, &n, err);
    if (rc)
        return rc;
    ds_digest(bytes, n, sha256);
    free(bytes);
    return 0;
}

static int open_whole(ds_device *dev, enum ds_fid_mode mode, const char *path, const char *want,
                      ds_fid_net **out, ds_error *err) {
    char *bytes, sha[DS_HEX_SIZE];
    size_t n;
    int rc = read_bytes(mode, path, &bytes, &n, err);
    if (rc)
        return rc;
    ds_digest(bytes, n, sha);
    rc = strcmp(sha, want)
             ? ds_fail(err, DS_EINTEGRITY, "'%.300s' has sha256 %s, the registered one is %s", path,
                       sha, want)
             : ds_fid_net_open_bytes(dev, mode, path, bytes, n, BATCH, out, err);
    free(bytes);
    return rc;
}

int ds_feature_net_open(ds_device *dev, enum ds_fid_mode mode, const char *path, const char *want,
                        ds_feature_net **out, ds_error *err) {
    ds_feature_net *net = ds_xcalloc(1, sizeof *net);
    net->mode = mode;
    int rc = mode == DS_FID_BUNDLED ? ds_features_open(dev, path, want, &net->trunk, err)
                                    : open_whole(dev, mode, path, want, &net->whole, err);
    if (rc) {
        free(net);
        return mode == DS_FID_BUNDLED ? rc : ds_error_prefix(err, "cannot use the feature network");
    }
    if (net->whole)
        net->batch = ds_xmalloc(BATCH * DS_INCEPTION_PIXELS * sizeof *net->batch);
    *out = net;
    return 0;
}

void ds_feature_net_close(ds_feature_net *net) {
    if (!net)
        return;
    ds_features_close(net->trunk);
    ds_fid_net_close(net->whole);
    free(net->batch);
    free(net);
}

int ds_feature_net_dim(const ds_feature_net *net) { return ds_fid_mode_dim(net->mode); }

const char *ds_feature_net_sha256(const ds_feature_net *net) {
    return net->trunk ? ds_features_net(net->trunk) : ds_fid_net_digest(net->whole);
}

const char *ds_feature_net_preprocess(const ds_feature_net *net) {
    return ds_fid_mode_preprocess(net->mode);
}

const char *ds_feature_net_metric(enum ds_fid_mode mode) {
    return mode == DS_FID_BUNDLED ? DS_FEATURE_METRIC_NAME : DS_FID_METRIC_NAME;
}

int ds_feature_net_mode_of(const char *preprocess, enum ds_fid_mode *mode, ds_error *err) {
    for (int i = 0; i < DS_FID_MODE_COUNT; i++)
        if (!strcmp(ds_fid_mode_preprocess((enum ds_fid_mode)i), preprocess)) {
            *mode = (enum ds_fid_mode)i;
            return 0;
        }
    return ds_fail(err, DS_EINVAL,
                   "this program has no preprocessing '%.40s': a newer one made the file",
                   preprocess);
}

size_t ds_feature_net_bytes(ds_device *dev, enum ds_fid_mode mode) {
    if (mode == DS_FID_BUNDLED)
        return ds_inception_bytes(dev, BATCH);
    return ds_inception_part_bytes(dev, DS_INCEPTION_FID, BATCH) +
           BATCH * DS_INCEPTION_PIXELS * sizeof(float);
}

int ds_feature_net_seconds(ds_device *dev, enum ds_fid_mode mode, double *seconds, ds_error *err) {
    int rc = ds_inception_seconds(
        dev, mode == DS_FID_BUNDLED ? DS_INCEPTION_TRUNK : DS_INCEPTION_FID, BATCH, seconds, err);
    *seconds /= BATCH;
    return rc;
}

static int compute_whole(ds_feature_net *net, const uint8_t *images, int64_t n, int side,
                         float *out) {
    const size_t picture = (size_t)side * (size_t)side * 3, dim = (size_t)ds_feature_net_dim(net);
    const float *at[BATCH];
    for (int64_t first = 0; first < n; first += BATCH) {
        int B = n - first < BATCH ? (int)(n - first) : BATCH;
        for (int b = 0; b < B; b++) {
            float *to = net->batch + (size_t)b * DS_INCEPTION_PIXELS;
            ds_fid_preprocess(net->mode, DS_INCEPTION_SIDE, to,
                              images + (size_t)(first + b) * picture, side, side);
            at[b] = to;
        }
        ds_fid_net_run(net->whole, at, B, out + (size_t)first * dim, NULL, NULL);
    }
    return 0;
}

int ds_feature_net_compute(ds_feature_net *net, const uint8_t *images, int64_t n, int side,
                           float *out, ds_error *err) {
    if (net->trunk)
        return ds_features_compute(net->trunk, images, n, side, side, out, NULL, NULL, err);
    if (side < 1 || side > DS_FID_PICTURE_SIDE_MAX)
        return ds_fail(
            err, DS_EINVAL,
            "cannot compute features of %d x %d pictures: the sides must be 1 to %d pixels", side,
            side, DS_FID_PICTURE_SIDE_MAX);
    return compute_whole(net, images, n, side, out);
}

void ds_feature_net_describe(const ds_feature_net *net, const float *x, int64_t n,
                             ds_feature_set *set) {
    *set = (ds_feature_set){.x = x, .n = n, .dim = ds_feature_net_dim(net)};
    snprintf(set->net, sizeof set->net, "%s", ds_feature_net_sha256(net));
    snprintf(set->resize, sizeof set->resize, "%s", ds_feature_net_preprocess(net));
}
