/* engine/metrics/features.h - features of pictures: resize, scale, feature network.
 *
 * One feature set = one network file + one way of resizing; both are named in every result that
 * is made from it, because numbers from different ones must never be compared.
 *
 * The network's weights were quantised to 8 bits by their publisher and the tap is not the one FID
 * is defined with, so the distance made from these features is *not* FID.  Its name is
 * DS_FEATURE_METRIC_NAME.
 */
#ifndef DS_ENGINE_METRICS_FEATURES_H
#define DS_ENGINE_METRICS_FEATURES_H

#include "base/digest.h"
#include "base/progress.h"
#include "kernels/device.h"

#include <stdint.h>

#define DS_FEATURE_METRIC_NAME "FD-768 (nsfwjs Inception-v3, Mixed_6c)"
#define DS_FEATURE_DIM 768
#define DS_FEATURE_IMAGE_SIDE_MAX 512
/* SHA-256 of the bundled models/inception-v3-mixed6c.safetensors.zst, uncompressed. */
#define DS_FEATURE_NET_SHA256 "2ae8fbf39e31e5683772d62d612db4af308d2077faed18426f1dcf3e7c4eed8e"
#define DS_FEATURE_DIM_MAX 4096
#define DS_FEATURE_ROWS_MAX 10000000
#define DS_FEATURE_NET_MAX ((size_t)64 << 20) /* limit for the uncompressed file */

/* Features of n pictures and where they come from.  x (n,dim) row-major; finite. */
typedef struct {
    const float *x;
    int64_t n;
    int dim;
    char net[DS_HEX_SIZE]; /* digest of the network file, "" in tests */
    char resize[32];       /* id of the resampling, e.g. "pil-bicubic-1" */
} ds_feature_set;

/* 0 when the two sets may be compared: same network, resizing and width, within the limits. */
int ds_feature_sets_match(const ds_feature_set *a, const ds_feature_set *b, ds_error *err);

typedef struct ds_features ds_features;

/* Load the network from `path` (.safetensors.zst).  want: digest that its uncompressed bytes must
 * have, NULL = DS_FEATURE_NET_SHA256.  DS_EINTEGRITY when it is another file or damaged. */
int ds_features_open(ds_device *dev, const char *path, const char *want, ds_features **out,
                     ds_error *err);
void ds_features_close(ds_features *f); /* NULL is fine; before the device is closed */

const char *ds_features_net(const ds_features *f); /* digest of the file in use */

/* out (n,768) from images (n,height,width,3) 8-bit RGB, sides 1..DS_FEATURE_IMAGE_SIDE_MAX.
 * Same bytes whatever n and the number of threads.  progress is told images, after each batch. */
int ds_features_compute(ds_features *f, const uint8_t *images, int64_t n, int height, int width,
                        float *out, ds_progress *progress, void *ud, ds_error *err);

/* Fill a set that borrows x. */
void ds_features_describe(const ds_features *f, const float *x, int64_t n, ds_feature_set *set);

#endif
