/* engine/metrics/inception.h - Inception-v3 (Szegedy et al. 2016), forward only: the trunk through
 * Mixed_6c of the bundled feature network, or the whole network that FID is defined with.
 *
 * Layers and names are those of torchvision's inception_v3 with the pools of pytorch-fid: 3x3
 * average pools that do not count the padding (FIDInceptionA, C, E_1) and a 3x3 maximum in Mixed_7c
 * (FIDInceptionE_2).  Each convolution is followed by batch normalisation (eps 1e-3) and ReLU; the
 * normalisation is folded into the convolution in double when the weights are loaded:  W' = W g,
 * bias = beta - mean g,  g = gamma/sqrt(var + eps).
 *
 * The whole network gives the 2048 means of Mixed_7c (FID, KID, precision), the first 7 channels
 * of Mixed_6d at every pixel (sFID: "mixed_6/conv:0[..., :7]" of the TensorFlow graph, whose
 * mixed_N counts from Mixed_5b = mixed) and the 1008 logits without bias (Inception Score).
 *
 * A trunk's file may state a smaller side for its pictures (metadata diffscaler.side): the layers
 * are the same, the maps smaller, and the features others, as the file's digest is.
 *
 * Ownership: a ds_inception belongs to the device it was made on and must be freed before it.
 * Thread: as the device, one thread at a time.
 * Units: images f32 NHWC, 299 x 299 x 3 RGB (or of the stated side), in the range that the weights
 * were trained with ([0,1] for the bundled network, [-1,1] for FID's); features f32.
 * Determinism: a row's features do not depend on the batch or on the number of threads.
 * Precision: exact f32, but TF32 on a device that was opened with precision tf32 (then its class
 * ends in -tf32).  What that changes: docs/decisions.md.  The logits are always exact.
 */
#ifndef DS_ENGINE_METRICS_INCEPTION_H
#define DS_ENGINE_METRICS_INCEPTION_H

#include "engine/files/safetensors.h"
#include "kernels/device.h"

#define DS_INCEPTION_SIDE 299
#define DS_INCEPTION_SIDE_MIN 75 /* the last maps of the trunk are 3 x 3 */
#define DS_INCEPTION_SIDE_KEY "diffscaler.side"
#define DS_INCEPTION_PIXELS ((size_t)DS_INCEPTION_SIDE * DS_INCEPTION_SIDE * 3)
#define DS_INCEPTION_BATCH_MAX 64
#define DS_INCEPTION_5D 288 /* channels of the taps */
#define DS_INCEPTION_6C 768
#define DS_INCEPTION_POOL 2048             /* means of Mixed_7c */
#define DS_INCEPTION_SPATIAL_CHANNELS 7    /* of Mixed_6d */
#define DS_INCEPTION_SPATIAL (17 * 17 * 7) /* row, column, channel */
#define DS_INCEPTION_LOGITS 1008

typedef struct ds_inception ds_inception;

enum ds_inception_part {
    DS_INCEPTION_TRUNK, /* through Mixed_6c */
    DS_INCEPTION_FID    /* everything */
};

/* Weights from an open file (F32/F16/BF16; tensors `<unit>.conv.weight` (O,I,kh,kw) and
 * `<unit>.bn.{weight,bias,running_mean,running_var}`; the whole network also fc.weight (1008,2048)
 * and fc.bias); st is not needed afterwards.  batch_max (1..DS_INCEPTION_BATCH_MAX) fixes the
 * memory, about 14 MB of device memory per image.
 * DS_EINTEGRITY: a tensor is missing, of another shape or not finite; a side that is out of
 * DS_INCEPTION_SIDE_MIN..DS_INCEPTION_SIDE, or another than that for the whole network.
 * DS_ENOMEM. */
int ds_inception_open(ds_device *dev, enum ds_inception_part part, const ds_st *st, int batch_max,
                      ds_inception **out, ds_error *err);
/* The trunk. */
int ds_inception_new(ds_device *dev, const ds_st *st, int batch_max, ds_inception **out,
                     ds_error *err);
void ds_inception_free(ds_inception *net); /* NULL is fine */

int ds_inception_side(const ds_inception *net); /* of the pictures that it reads */

/* The batch that suits a device: its last maps are 8 x 8 pixels, and a GPU is filled by 64 of them;
 * on the processor 8 make products large enough, and 110 MB of maps. */
int ds_inception_batch(const ds_device *dev);

/* Device memory that opening asks for, in bytes (planning; of pictures of 299); of the trunk. */
size_t ds_inception_bytes(ds_device *dev, int batch_max);
size_t ds_inception_part_bytes(ds_device *dev, enum ds_inception_part part, int batch_max);

/* Seconds that the convolutions of `batch` images take on this device, which are nearly all of a
 * run (planning): measured, with weights of zero.  The memory is that of one map and one weight at
 * a time.  DS_ENOMEM. */
int ds_inception_seconds(ds_device *dev, enum ds_inception_part part, int batch, double *seconds,
                         ds_error *err);

/* Where results of B images go (host memory); NULL = not wanted.  pool, spatial and logits exist in
 * the whole network only. */
typedef struct {
    float *mixed_5d; /* (B,288) */
    float *mixed_6c; /* (B,768) */
    float *pool;     /* (B,2048) */
    float *spatial;  /* (B,17,17,7) */
    float *logits;   /* (B,1008), without bias */
} ds_inception_out;

/* images: B <= batch_max pointers to (side,side,3), host memory. */
void ds_inception_run(ds_inception *net, const float *const *images, int B,
                      const ds_inception_out *out);

/* The trunk's: images (B,side,side,3) contiguous, mixed_5d (B,288) or NULL, mixed_6c (B,768). */
void ds_inception_forward(ds_inception *net, const float *images, int B, float *mixed_5d,
                          float *mixed_6c);

/* fc.bias (1008) of the whole network. */
const float *ds_inception_fc_bias(const ds_inception *net);

/* The units in file order, for tests and tools: NULL after the last. */
const char *ds_inception_unit(int i, char name[64]); /* of the trunk: 50 */
const char *ds_inception_part_unit(enum ds_inception_part part, int i, char name[64]);
/* Shape (O,I,kh,kw) of a unit's convolution; DS_ASSERTs that it exists. */
void ds_inception_unit_shape(enum ds_inception_part part, int i, int64_t shape[4]);

#endif
