/* engine/metrics/resize.c - fixed-point separable bicubic (contract in resize.h). */
#include "engine/metrics/resize.h"
#include "base/error.h"
#include "base/mem.h"
#include "engine/metrics/resize_taps.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* 8 bits of pixel, 2 bits of head room for the negative lobes and the sum, 22 bits of weight. */
#define PRECISION_BITS 22

/* Weights of one axis: output i is the sum over k < count[i] of weight[i * width + k] times input
 * first[i] + k. */
typedef struct {
    int width;
    int *first, *count;
    int32_t *weight;
} axis_weights;

static void weights_init(axis_weights *aw, int in, int out) {
    ds_taps t = ds_taps_new(in, out);
    size_t n = (size_t)out * (size_t)t.width;
    *aw = (axis_weights){.width = t.width, .first = t.first, .count = t.count};
    aw->weight = ds_xmalloc(n * sizeof *aw->weight);
    for (size_t i = 0; i < n; i++) {
        double v = t.weight[i];
        aw->weight[i] = (int32_t)(v * (1 << PRECISION_BITS) + (v < 0 ? -0.5 : 0.5));
    }
    free(t.weight); /* the rest is ours now */
}

static void weights_release(axis_weights *aw) {
    free(aw->first);
    free(aw->count);
    free(aw->weight);
}

static inline uint8_t to_u8(int32_t v) {
    v >>= PRECISION_BITS; /* arithmetic: rounds down; the half was added before */
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* out (rows, aw's outputs, c) from in (rows, ., c). */
static void pass_horizontal(uint8_t *out, int out_w, const axis_weights *aw, const uint8_t *in,
                            size_t stride, int rows, int c) {
    for (int y = 0; y < rows; y++) {
        const uint8_t *line = in + (size_t)y * stride;
        uint8_t *o = out + (size_t)y * (size_t)out_w * (size_t)c;
        for (int x = 0; x < out_w; x++, o += c) {
            const int32_t *w = aw->weight + (size_t)x * (size_t)aw->width;
            const uint8_t *p = line + (size_t)aw->first[x] * (size_t)c;
            int32_t sum[4];
            for (int ch = 0; ch < c; ch++)
                sum[ch] = 1 << (PRECISION_BITS - 1);
            for (int k = 0; k < aw->count[x]; k++, p += c)
                for (int ch = 0; ch < c; ch++)
                    sum[ch] += p[ch] * w[k];
            for (int ch = 0; ch < c; ch++)
                o[ch] = to_u8(sum[ch]);
        }
    }
}

/* out (out_h, row_bytes) from in (., row_bytes) with `stride`; whole rows at a time. */
static void pass_vertical(uint8_t *out, int out_h, const axis_weights *aw, const uint8_t *in,
                          size_t stride, size_t row_bytes) {
    int32_t *sum = ds_xmalloc(row_bytes * sizeof *sum);
    for (int y = 0; y < out_h; y++) {
        const int32_t *w = aw->weight + (size_t)y * (size_t)aw->width;
        for (size_t i = 0; i < row_bytes; i++)
            sum[i] = 1 << (PRECISION_BITS - 1);
        for (int k = 0; k < aw->count[y]; k++) {
            const uint8_t *p = in + (size_t)(aw->first[y] + k) * stride;
            for (size_t i = 0; i < row_bytes; i++)
                sum[i] += p[i] * w[k];
        }
        for (size_t i = 0; i < row_bytes; i++)
            out[(size_t)y * row_bytes + i] = to_u8(sum[i]);
    }
    free(sum);
}

void ds_resize_bicubic(uint8_t *out, int out_w, int out_h, const uint8_t *in, int w, int h,
                       size_t stride, int channels) {
    DS_ASSERT(w > 0 && h > 0 && out_w > 0 && out_h > 0 && channels > 0 && channels <= 4);
    DS_ASSERT(w <= DS_RESIZE_MAX_SIDE && h <= DS_RESIZE_MAX_SIDE);
    DS_ASSERT(out_w <= DS_RESIZE_MAX_SIDE && out_h <= DS_RESIZE_MAX_SIDE);
    size_t c = (size_t)channels, row = (size_t)out_w * c;
    DS_ASSERT(stride >= (size_t)w * c);
    uint8_t *narrow = NULL; /* (h, out_w, c) */
    if (out_w != w) {       /* an axis that keeps its size is not touched */
        axis_weights aw;
        weights_init(&aw, w, out_w);
        narrow = ds_xmalloc((size_t)h * row);
        pass_horizontal(narrow, out_w, &aw, in, stride, h, channels);
        weights_release(&aw);
        in = narrow;
        stride = row;
    }
    if (out_h != h) {
        axis_weights aw;
        weights_init(&aw, h, out_h);
        pass_vertical(out, out_h, &aw, in, stride, row);
        weights_release(&aw);
    } else {
        for (int y = 0; y < h; y++)
            memcpy(out + (size_t)y * row, in + (size_t)y * stride, row);
    }
    free(narrow);
}

void ds_resize_square(uint8_t *out, int side, const uint8_t *in, int w, int h, int channels) {
    int s = w < h ? w : h;
    size_t stride = (size_t)w * (size_t)channels;
    size_t offset = (size_t)((h - s) / 2) * stride + (size_t)((w - s) / 2) * (size_t)channels;
    ds_resize_bicubic(out, side, side, in + offset, s, s, stride, channels);
}

void ds_resize_unit_f32(float *out, int side, const uint8_t *in, int in_side) {
    size_t n = (size_t)side * (size_t)side * 3;
    uint8_t *bytes = ds_xmalloc(n);
    ds_resize_bicubic(bytes, side, side, in, in_side, in_side, (size_t)in_side * 3, 3);
    for (size_t i = 0; i < n; i++)
        out[i] = (float)bytes[i] / 255.0f;
    free(bytes);
}
