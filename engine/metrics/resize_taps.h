/* engine/metrics/resize_taps.h - bicubic weights of one axis, shared by the resamplers of
 * engine/metrics/resize.h.
 *
 * a = -0.5, antialiased: the kernel is widened by the scale when shrinking.  Output i is the sum
 * over k < count[i] of weight[i * width + k] times input first[i] + k; weights are double and sum
 * to 1.  Internal to resize*.c.  Ownership: ds_taps_free.  Thread: any.  Errors: none.
 * Source: Pillow, src/libImaging/Resample.c (formula only).
 */
#ifndef DS_ENGINE_METRICS_RESIZE_TAPS_H
#define DS_ENGINE_METRICS_RESIZE_TAPS_H

typedef struct {
    int width;
    int *first, *count;
    double *weight;
} ds_taps;

ds_taps ds_taps_new(int in, int out);
void ds_taps_free(ds_taps *t);

#endif
