/* engine/metrics/fid_net.h - pictures -> features, in each of the ways that published numbers use.
 *
 * A mode is a network and a preprocessing that belong together.  Each has a versioned id that is
 * stored with every number; features of different ids are never compared (ds_feature_sets_match).
 *
 *   mode            network      resize to 299 x 299                    then
 *   pytorch-fid     FID          bilinear, half-pixel centres, no       2 (x/255) - 1
 *                                antialias, on [0,1] (torch F.interpolate)
 *   torch-fidelity  FID          TensorFlow 1 bilinear: src = dst in/out  (x - 128)/128
 *   clean           FID          Pillow bicubic, antialiased, per channel (x - 128)/128
 *                                in float, clipped to [0,255] (clean-fid)
 *   bundled         Mixed_6c     Pillow bicubic on 8 bits                x/255
 *
 * All read 8-bit RGB, whatever its size, and stretch pictures that are not square.
 * Sources: pytorch-fid inception.py; torch-fidelity interpolate_compat_tensorflow.py; clean-fid
 * resize.py; docs/formats.md for the identity of a network.
 *
 * Ownership: open/close; the device outlives the net.  Thread: preprocessing any; running as the
 * device.  Errors: DS_EINTEGRITY (file), DS_EINVAL (mode does not fit the network), DS_ENOMEM.
 */
#ifndef DS_ENGINE_METRICS_FID_NET_H
#define DS_ENGINE_METRICS_FID_NET_H

#include "engine/metrics/features.h"
#include "engine/metrics/inception.h"

#define DS_FID_NET_KIND "inception-fid"    /* metadata diffscaler.kind of the file */
#define DS_FID_NET_MAX ((size_t)256 << 20) /* limit for the file */
#define DS_FID_PICTURE_SIDE_MAX 65535      /* of a source picture */
#define DS_FID_METRIC_NAME "FID (Inception-v3 2015-12-05 layout, 2048-d pool)"

/*    id (also the option's word)  name           preprocess id           part   dim */
#define DS_FID_MODE_MAP(X)                                                                         \
    X(PYTORCH_FID, "pytorch-fid", "torch-bilinear/2x-1/1", DS_INCEPTION_FID, DS_INCEPTION_POOL)    \
    X(TORCH_FIDELITY, "torch-fidelity", "tf1-bilinear/128/1", DS_INCEPTION_FID, DS_INCEPTION_POOL) \
    X(CLEAN, "clean", "pil-bicubic-f32/128/1", DS_INCEPTION_FID, DS_INCEPTION_POOL)                \
    X(BUNDLED, "bundled", "pil-bicubic-1", DS_INCEPTION_TRUNK, DS_FEATURE_DIM)

enum ds_fid_mode {
#define X(id, name, preprocess, part, dim) DS_FID_##id,
    DS_FID_MODE_MAP(X)
#undef X
        DS_FID_MODE_COUNT
};

const char *ds_fid_mode_name(enum ds_fid_mode mode);
const char *ds_fid_mode_preprocess(enum ds_fid_mode mode); /* the id to store */
int ds_fid_mode_dim(enum ds_fid_mode mode);                /* of the features: 2048 or 768 */
int ds_fid_mode_find(const char *name, enum ds_fid_mode *out, ds_error *err);

/* out (side,side,3) = what the network of this mode reads for a picture (h,w,3), packed rows.
 * side: ds_fid_net_side; that of all modes but the bundled one is DS_INCEPTION_SIDE. */
void ds_fid_preprocess(enum ds_fid_mode mode, int side, float *out, const uint8_t *rgb, int w,
                       int h);

typedef struct ds_fid_net ds_fid_net;

/* From the bytes of a canonical file; `name` for messages.  bytes are not needed afterwards. */
int ds_fid_net_open_bytes(ds_device *dev, enum ds_fid_mode mode, const char *name,
                          const void *bytes, size_t n, int batch_max, ds_fid_net **out,
                          ds_error *err);
/* From a file: .safetensors for FID modes, .safetensors.zst for the bundled mode. */
int ds_fid_net_open(ds_device *dev, enum ds_fid_mode mode, const char *path, int batch_max,
                    ds_fid_net **out, ds_error *err);
void ds_fid_net_close(ds_fid_net *net); /* NULL is fine */

const char *ds_fid_net_digest(const ds_fid_net *net); /* SHA-256 of the file */
int ds_fid_net_side(const ds_fid_net *net);           /* of the pictures that it reads */
const ds_inception *ds_fid_net_inception(const ds_fid_net *net);

/* features (B,dim); spatial (B,2023) and logits (B,1008, no bias) may be NULL and exist in FID
 * modes only. */
void ds_fid_net_run(ds_fid_net *net, const float *const *images, int B, float *features,
                    float *spatial, float *logits);

#endif
