/* engine/metrics/resize_float.c - the resamplers behind published FID numbers (contract in
 * resize.h). Each is two separable passes over rows of w*3 or out_w*3 floats; the order of
 * operations is that of the program that defines it, so results agree to rounding of a single
 * operation. */
#include "base/error.h"
#include "base/mem.h"
#include "engine/metrics/resize.h"
#include "engine/metrics/resize_taps.h"

#include <math.h>
#include <stdlib.h>

static void check(int out_w, int out_h, int w, int h) {
    DS_ASSERT(w > 0 && h > 0 && out_w > 0 && out_h > 0);
    DS_ASSERT(w <= DS_RESIZE_MAX_SIDE && h <= DS_RESIZE_MAX_SIDE);
    DS_ASSERT(out_w <= DS_RESIZE_MAX_SIDE && out_h <= DS_RESIZE_MAX_SIDE);
}

/* ---------------------------------------------------------------- Pillow, float planes */

/* out (out_w, 3) from one row of 8-bit pixels. */
static void narrow_row(float *out, int out_w, const ds_taps *t, const uint8_t *row) {
    for (int x = 0; x < out_w; x++, out += 3) {
        const double *w = t->weight + (size_t)x * (size_t)t->width;
        const uint8_t *p = row + (size_t)t->first[x] * 3;
        double r = 0, g = 0, b = 0;
        for (int k = 0; k < t->count[x]; k++, p += 3) {
            r += p[0] * w[k];
            g += p[1] * w[k];
            b += p[2] * w[k];
        }
        out[0] = (float)r;
        out[1] = (float)g;
        out[2] = (float)b;
    }
}

void ds_resize_pil_f32(float *out, int out_w, int out_h, const uint8_t *in, int w, int h,
                       float minus, float times) {
    check(out_w, out_h, w, h);
    size_t row = (size_t)out_w * 3;
    float *narrow = ds_xmalloc((size_t)h * row * sizeof *narrow);
    if (out_w != w) { /* an axis that keeps its size is not touched */
        ds_taps t = ds_taps_new(w, out_w);
        for (int y = 0; y < h; y++)
            narrow_row(narrow + (size_t)y * row, out_w, &t, in + (size_t)y * (size_t)w * 3);
        ds_taps_free(&t);
    } else {
        for (size_t i = 0; i < (size_t)h * row; i++)
            narrow[i] = in[i];
    }
    ds_taps t = ds_taps_new(h, out_h);
    double *sum = ds_xmalloc(row * sizeof *sum);
    for (int y = 0; y < out_h; y++) {
        const double *wt = t.weight + (size_t)y * (size_t)t.width;
        for (size_t i = 0; i < row; i++)
            sum[i] = 0;
        for (int k = 0; k < t.count[y]; k++) {
            const float *p = narrow + (size_t)(t.first[y] + k) * row;
            for (size_t i = 0; i < row; i++)
                sum[i] += p[i] * wt[k];
        }
        for (size_t i = 0; i < row; i++) {
            float v = out_h == h ? narrow[(size_t)y * row + i] : (float)sum[i];
            v = v < 0 ? 0 : v > 255 ? 255 : v;
            out[(size_t)y * row + i] = (v - minus) * times;
        }
    }
    free(sum);
    ds_taps_free(&t);
    free(narrow);
}

/* ---------------------------------------------------------------- bilinear */

typedef struct {
    int lo, hi;
    float far; /* weight of hi */
} pair;

static pair *tf1_pairs(int in, int out) {
    pair *p = ds_xmalloc((size_t)out * sizeof *p);
    float scale = (float)((double)in / out);
    for (int i = 0; i < out; i++) {
        float at = (float)i * scale;
        int lo = (int)at;
        p[i] = (pair){lo < in ? lo : in - 1, lo + 1 < in ? lo + 1 : in - 1, at - (float)lo};
    }
    return p;
}

static pair *torch_pairs(int in, int out) {
    pair *p = ds_xmalloc((size_t)out * sizeof *p);
    float scale = (float)in / (float)out;
    for (int i = 0; i < out; i++) {
        float at = scale * ((float)i + 0.5f) - 0.5f;
        at = at < 0 ? 0 : at;
        int lo = (int)at < in - 1 ? (int)at : in - 1;
        float far = at - (float)lo;
        p[i] = (pair){lo, lo + (lo < in - 1), far < 0 ? 0 : far > 1 ? 1 : far};
    }
    return p;
}

/* to (out_w,3): a + (b - a) f, with a and b the pixels beside. */
static void tf1_row(float *to, int out_w, const pair *px, const uint8_t *row) {
    for (int x = 0; x < out_w; x++, to += 3) {
        const uint8_t *a = row + (size_t)px[x].lo * 3, *b = row + (size_t)px[x].hi * 3;
        for (int c = 0; c < 3; c++)
            to[c] = (float)a[c] + ((float)b[c] - (float)a[c]) * px[x].far;
    }
}

/* to (out_w,3): a (1 - f) + b f on [0,1]; unit: the 256 values of v/255. */
static void torch_row(float *to, int out_w, const pair *px, const uint8_t *row, const float *unit) {
    for (int x = 0; x < out_w; x++, to += 3) {
        const uint8_t *a = row + (size_t)px[x].lo * 3, *b = row + (size_t)px[x].hi * 3;
        float near = 1.0f - px[x].far;
        for (int c = 0; c < 3; c++)
            to[c] = unit[a[c]] * near + unit[b[c]] * px[x].far;
    }
}

/* Rows are narrowed once each and kept while they are needed: two at a time. */
typedef struct {
    float *row[2];
    int at[2];
} row_cache;

static const float *cached_row(row_cache *c, int y, int keep, int out_w, const pair *px,
                               const uint8_t *in, size_t stride, const float *unit) {
    for (int i = 0; i < 2; i++)
        if (c->at[i] == y)
            return c->row[i];
    int i = c->at[0] == keep ? 1 : 0;
    if (unit)
        torch_row(c->row[i], out_w, px, in + (size_t)y * stride, unit);
    else
        tf1_row(c->row[i], out_w, px, in + (size_t)y * stride);
    c->at[i] = y;
    return c->row[i];
}

void ds_resize_tf1_f32(float *out, int out_w, int out_h, const uint8_t *in, int w, int h,
                       float minus, float times) {
    check(out_w, out_h, w, h);
    pair *px = tf1_pairs(w, out_w), *py = tf1_pairs(h, out_h);
    size_t row = (size_t)out_w * 3, stride = (size_t)w * 3;
    float *rows = ds_xmalloc(2 * row * sizeof *rows);
    row_cache c = {{rows, rows + row}, {-1, -1}};
    for (int y = 0; y < out_h; y++) {
        const float *a = cached_row(&c, py[y].lo, py[y].hi, out_w, px, in, stride, NULL);
        const float *b = cached_row(&c, py[y].hi, py[y].lo, out_w, px, in, stride, NULL);
        float *to = out + (size_t)y * row;
        for (size_t i = 0; i < row; i++)
            to[i] = (a[i] + (b[i] - a[i]) * py[y].far - minus) * times;
    }
    free(rows);
    free(px);
    free(py);
}

void ds_resize_torch_f32(float *out, int out_w, int out_h, const uint8_t *in, int w, int h) {
    check(out_w, out_h, w, h);
    pair *px = torch_pairs(w, out_w), *py = torch_pairs(h, out_h);
    size_t row = (size_t)out_w * 3, stride = (size_t)w * 3;
    float *rows = ds_xmalloc(2 * row * sizeof *rows), unit[256];
    for (int v = 0; v < 256; v++)
        unit[v] = (float)v / 255.0f;
    row_cache c = {{rows, rows + row}, {-1, -1}};
    for (int y = 0; y < out_h; y++) {
        const float *a = cached_row(&c, py[y].lo, py[y].hi, out_w, px, in, stride, unit);
        const float *b = cached_row(&c, py[y].hi, py[y].lo, out_w, px, in, stride, unit);
        float *to = out + (size_t)y * row, far = py[y].far, near = 1.0f - far;
        for (size_t i = 0; i < row; i++)
            to[i] = 2.0f * (a[i] * near + b[i] * far) - 1.0f;
    }
    free(rows);
    free(px);
    free(py);
}
