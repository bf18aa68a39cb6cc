/* engine/inception.h - Inception-v3 trunk (Szegedy et al. 2016) through Mixed_6c, forward only.
 *
 * Layers and names are those of torchvision's inception_v3 with the pools of pytorch-fid
 * (FIDInceptionA/C: 3x3 average pools that do not count the padding).  Each convolution is followed
 * by batch normalisation (eps 1e-3) and ReLU; the normalisation is folded into the convolution in
 * double when the weights are loaded:  W' = W g,  bias = beta - mean g,  g = gamma/sqrt(var + eps).
 *
 * Ownership: a ds_inception belongs to the device it was made on and must be freed before it.
 * Thread: as the device, one thread at a time.
 * Units: images f32 NHWC, 299 x 299 x 3, RGB in [0,1]; features f32.
 * Determinism: a row's features do not depend on the batch or on the number of threads.
 */
#ifndef DS_ENGINE_INCEPTION_H
#define DS_ENGINE_INCEPTION_H

#include "engine/safetensors.h"
#include "kernels/device.h"

#define DS_INCEPTION_SIDE 299
#define DS_INCEPTION_BATCH_MAX 16
#define DS_INCEPTION_5D 288 /* channels of the taps */
#define DS_INCEPTION_6C 768

typedef struct ds_inception ds_inception;

/* Weights from an open file (F32/F16/BF16; tensors `<unit>.conv.weight` (O,I,kh,kw) and
 * `<unit>.bn.{weight,bias,running_mean,running_var}`); st is not needed afterwards.
 * batch_max (1..DS_INCEPTION_BATCH_MAX) fixes the memory, about 14 MB of device memory per image.
 * DS_EINTEGRITY: a tensor is missing, of another shape or not finite.  DS_ENOMEM. */
int ds_inception_new(ds_device *dev, const ds_st *st, int batch_max, ds_inception **out,
                     ds_error *err);
void ds_inception_free(ds_inception *net); /* NULL is fine */

/* Device memory that ds_inception_new asks for, in bytes (planning). */
size_t ds_inception_bytes(ds_device *dev, int batch_max);

/* Mean-pooled block outputs of B <= batch_max images.  images (B,299,299,3), mixed_5d (B,288) or
 * NULL, mixed_6c (B,768): host memory. */
void ds_inception_forward(ds_inception *net, const float *images, int B, float *mixed_5d,
                          float *mixed_6c);

/* The units in file order, for tests and tools: NULL after the last. */
const char *ds_inception_unit(int i, char name[64]);

#endif
