/* worker/measure/feature_net.h - what makes the features of a job's pictures: the bundled network,
 * or the network of FID in one of its three preprocessings.
 *
 * A mode (engine/metrics/fid_net.h) and a file belong together.  Numbers carry the digest of the
 * file and the id of the preprocessing; sets of different ones are never compared
 * (ds_feature_sets_match). What the bundled mode computes is what engine/metrics/features.h
 * computes, bit for bit.
 *
 * Ownership: open/close; the device outlives it.  Thread: as the device.
 * Errors: DS_ENOTFOUND, DS_EINTEGRITY (another file, damage), DS_EINVAL (mode and file do not fit),
 * DS_ENOMEM, DS_ECANCELED.
 */
#ifndef DS_WORKER_MEASURE_FEATURE_NET_H
#define DS_WORKER_MEASURE_FEATURE_NET_H

#include "engine/metrics/fid_net.h"

typedef struct ds_feature_net ds_feature_net;

/* want: SHA-256 that the (uncompressed) file must have. */
int ds_feature_net_open(ds_device *dev, enum ds_fid_mode mode, const char *path, const char *want,
                        ds_feature_net **out, ds_error *err);
void ds_feature_net_close(ds_feature_net *net); /* NULL is fine */

/* The digest of a network's file without loading it. */
int ds_feature_net_digest(enum ds_fid_mode mode, const char *path, char sha256[DS_HEX_SIZE],
                          ds_error *err);

int ds_feature_net_dim(const ds_feature_net *net);
const char *ds_feature_net_sha256(const ds_feature_net *net);
const char *ds_feature_net_preprocess(const ds_feature_net *net);
/* What distances made with a mode are called in files. */
const char *ds_feature_net_metric(enum ds_fid_mode mode);
/* The mode that a preprocessing's id belongs to; DS_EINVAL for one that this program has not. */
int ds_feature_net_mode_of(const char *preprocess, enum ds_fid_mode *mode, ds_error *err);
/* Memory for planning, in bytes. */
size_t ds_feature_net_bytes(ds_device *dev, enum ds_fid_mode mode);
/* Seconds that the network takes for a picture, measured without its file. */
int ds_feature_net_seconds(ds_device *dev, enum ds_fid_mode mode, double *seconds, ds_error *err);

/* out (n, dim) from images (n, side, side, 3), 8-bit RGB.  The same bytes whatever n and the number
 * of threads. */
int ds_feature_net_compute(ds_feature_net *net, const uint8_t *images, int64_t n, int side,
                           float *out, ds_error *err);
/* Fill a set that borrows x. */
void ds_feature_net_describe(const ds_feature_net *net, const float *x, int64_t n,
                             ds_feature_set *set);

#endif
