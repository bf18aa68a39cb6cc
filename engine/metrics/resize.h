/* engine/metrics/resize.h - resampling of 8-bit pictures, defined to the bit because metrics depend
 * on it.
 *
 * Purpose: one resampler for preparing data and for feeding the feature network.  Bicubic (a =
 * -0.5), antialiased (the kernel is widened by the scale when shrinking), separable, horizontal
 * pass first, 22-bit fixed-point coefficients, result of each pass rounded and clamped to 8 bits.
 * That is the arithmetic of Pillow's Image.resize(size, BICUBIC) on 8-bit pictures; the figures
 * agree exactly (tests/engine/test_engine_resize.c).  Changing a bit of it needs a new
 * DS_RESIZE_ID.
 *
 * Shapes: interleaved channels (HWC), `stride` in bytes between rows.  Ownership: the caller's
 * buffers; scratch is allocated and freed inside.  Thread: any.  Errors: none (sizes are
 * DS_ASSERTed: 1..DS_RESIZE_MAX_SIDE, 1..4 channels).
 * Source: Pillow, src/libImaging/Resample.c (formula only).
 */
#ifndef DS_ENGINE_METRICS_RESIZE_H
#define DS_ENGINE_METRICS_RESIZE_H

#include <stddef.h>
#include <stdint.h>

#define DS_RESIZE_ID "pil-bicubic-1"
#define DS_RESIZE_MAX_SIDE (1 << 20)

/* out (out_h, out_w, channels) packed = resize of in (h, w, channels). */
void ds_resize_bicubic(uint8_t *out, int out_w, int out_h, const uint8_t *in, int w, int h,
                       size_t stride, int channels);

/* Centre crop of in (h, w, channels), packed, to the largest square (left = (w - s) / 2, top =
 * (h - s) / 2, rounded down), then ds_resize_bicubic to side x side.  No pixel outside the square
 * has influence.  Pillow: im.crop(box).resize((side, side), BICUBIC). */
void ds_resize_square(uint8_t *out, int side, const uint8_t *in, int w, int h, int channels);

/* What the feature network reads: in (in_side, in_side, 3) resized to side x side by the same
 * 8-bit path, then divided by 255.  out (side, side, 3) f32 in [0, 1]. */
void ds_resize_unit_f32(float *out, int side, const uint8_t *in, int in_side);

/* ---- to float, as the tools that publish FID do it (engine/metrics/resize_float.c).  out (out_h,
 * out_w, 3) f32, in (h, w, 3) 8-bit; both packed.  The result is multiplied by `scale` and `shift`
 * is added, in that order, unless said otherwise.  Sizes 1..DS_RESIZE_MAX_SIDE. */

/* Pillow's Image.resize(BICUBIC) of one 'F' plane per channel: a = -0.5, antialiased, horizontal
 * pass first, weights and sums in double, each pass rounded to f32; clipped to [0,255].
 * Source: Pillow, src/libImaging/Resample.c (formula only); clean-fid resize.py. */
void ds_resize_pil_f32(float *out, int out_w, int out_h, const uint8_t *in, int w, int h,
                       float minus, float times);

/* TensorFlow 1 bilinear without align_corners: source = i * (in/out) in f32, no half-pixel shift,
 * no antialias; x first: a + (b - a) dx, then y.  Source: torch-fidelity. */
void ds_resize_tf1_f32(float *out, int out_w, int out_h, const uint8_t *in, int w, int h,
                       float minus, float times);

/* torch.nn.functional.interpolate(bilinear, align_corners=False) of in/255: source =
 * (in/out)(i + 1/2) - 1/2, not below 0, no antialias; then *2 - 1. */
void ds_resize_torch_f32(float *out, int out_w, int out_h, const uint8_t *in, int w, int h);

#endif
