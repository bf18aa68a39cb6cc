#include "engine/metrics/fid_net.h"
#include "base/fs.h"
#include "base/mem.h"
#include "base/zio.h"
#include "engine/metrics/resize.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name, *preprocess;
    enum ds_inception_part part;
    int dim;
} modes[] = {
#define X(id, name, preprocess, part, dim) {name, preprocess, part, dim},
    DS_FID_MODE_MAP(X)
#undef X
};

const char *ds_fid_mode_name(enum ds_fid_mode mode) { return modes[mode].name; }
const char *ds_fid_mode_preprocess(enum ds_fid_mode mode) { return modes[mode].preprocess; }
int ds_fid_mode_dim(enum ds_fid_mode mode) { return modes[mode].dim; }

int ds_fid_mode_find(const char *name, enum ds_fid_mode *out, ds_error *err) {
    for (int i = 0; i < DS_FID_MODE_COUNT; i++)
        if (!strcmp(modes[i].name, name)) {
            *out = (enum ds_fid_mode)i;
            return 0;
        }
    return ds_fail(err, DS_EINVAL,
                   "no mode '%.40s'; there are pytorch-fid, torch-fidelity, clean and bundled",
                   name);
}

/* The bundled network reads what ds_resize_bicubic gives on 8 bits, over 255. */
static void preprocess_bundled(float *out, int side, const uint8_t *rgb, int w, int h) {
    const size_t n = (size_t)side * (size_t)side * 3;
    uint8_t *bytes = ds_xmalloc(n);
    ds_resize_bicubic(bytes, side, side, rgb, w, h, (size_t)w * 3, 3);
    for (size_t i = 0; i < n; i++)
        out[i] = (float)bytes[i] / 255.0f;
    free(bytes);
}

void ds_fid_preprocess(enum ds_fid_mode mode, int side, float *out, const uint8_t *rgb, int w,
                       int h) {
    enum { S = DS_INCEPTION_SIDE };
    DS_ASSERT(mode == DS_FID_BUNDLED || side == S);
    DS_ASSERT(w >= 1 && h >= 1 && w <= DS_FID_PICTURE_SIDE_MAX && h <= DS_FID_PICTURE_SIDE_MAX);
    switch (mode) {
    case DS_FID_PYTORCH_FID: ds_resize_torch_f32(out, S, S, rgb, w, h); break;
    case DS_FID_TORCH_FIDELITY: ds_resize_tf1_f32(out, S, S, rgb, w, h, 128, 1 / 128.0f); break;
    case DS_FID_CLEAN: ds_resize_pil_f32(out, S, S, rgb, w, h, 128, 1 / 128.0f); break;
    case DS_FID_BUNDLED: preprocess_bundled(out, side, rgb, w, h); break;
    case DS_FID_MODE_COUNT: DS_ASSERT(!"not a mode");
    }
}

struct ds_fid_net {
    enum ds_fid_mode mode;
    ds_inception *net;
    char digest[DS_HEX_SIZE];
};

static int check_kind(const ds_st *st, enum ds_fid_mode mode, ds_error *err) {
    const char *kind = ds_st_meta(st, "diffscaler.kind");
    int whole = kind && !strcmp(kind, DS_FID_NET_KIND);
    if (mode == DS_FID_BUNDLED && whole)
        return ds_fail(err, DS_EINVAL,
                       "'%.200s' is the network of FID: use it with mode pytorch-fid, "
                       "torch-fidelity or clean",
                       ds_st_file_name(st));
    if (mode != DS_FID_BUNDLED && !whole)
        return ds_fail(err, DS_EINVAL,
                       "'%.200s' is not an imported FID network (metadata diffscaler.kind is "
                       "'%.40s'); make one with: diffscaler-worker import-feature-net FILE OUT_DIR",
                       ds_st_file_name(st), kind ? kind : "");
    return 0;
}

int ds_fid_net_open_bytes(ds_device *dev, enum ds_fid_mode mode, const char *name,
                          const void *bytes, size_t n, int batch_max, ds_fid_net **out,
                          ds_error *err) {
    ds_st *st;
    int rc = ds_st_open_memory(name, bytes, n, &st, err);
    if (rc)
        return rc;
    ds_fid_net *net = ds_xcalloc(1, sizeof *net);
    net->mode = mode;
    ds_digest(bytes, n, net->digest);
    rc = check_kind(st, mode, err);
    rc = rc ? rc : ds_inception_open(dev, modes[mode].part, st, batch_max, &net->net, err);
    ds_st_free(st);
    if (rc) {
        free(net);
        return rc;
    }
    *out = net;
    return 0;
}

int ds_fid_net_open(ds_device *dev, enum ds_fid_mode mode, const char *path, int batch_max,
                    ds_fid_net **out, ds_error *err) {
    char *bytes;
    size_t n;
    int rc = mode == DS_FID_BUNDLED ? ds_zio_read_file(path, DS_FEATURE_NET_MAX, &bytes, &n, err)
                                    : ds_fs_read(path, DS_FID_NET_MAX, &bytes, &n, err);
    if (!rc) {
        rc = ds_fid_net_open_bytes(dev, mode, path, bytes, n, batch_max, out, err);
        free(bytes);
    }
    return rc ? ds_error_prefix(err, "cannot use the feature network") : 0;
}

void ds_fid_net_close(ds_fid_net *net) {
    if (!net)
        return;
    ds_inception_free(net->net);
    free(net);
}

const char *ds_fid_net_digest(const ds_fid_net *net) { return net->digest; }
int ds_fid_net_side(const ds_fid_net *net) { return ds_inception_side(net->net); }
const ds_inception *ds_fid_net_inception(const ds_fid_net *net) { return net->net; }

void ds_fid_net_run(ds_fid_net *net, const float *const *images, int B, float *features,
                    float *spatial, float *logits) {
    ds_inception_out out = {0};
    if (modes[net->mode].part == DS_INCEPTION_TRUNK) {
        DS_ASSERT(!spatial && !logits);
        out.mixed_6c = features;
    } else {
        out.pool = features;
        out.spatial = spatial;
        out.logits = logits;
    }
    ds_inception_run(net->net, images, B, &out);
}
