/* kernels/ref/autoencoder.c - normalisation over groups, frames, wide attention: f32, NHWC. */
#include "kernels/ref/ref.h"

void ds_ref_group_norm_affine(ds_device *dev, float *scale, float *shift, const float *x,
                              const float *gamma, const float *beta, int groups, float eps,
                              int pixels, int C) {
    (void)dev;
    DS_ASSERT(groups > 0 && C % groups == 0 && pixels > 0);
    int each = C / groups;
    for (int g = 0; g < groups; g++) {
        double sum = 0, square = 0, n = (double)pixels * each;
        for (int i = 0; i < pixels; i++)
            for (int c = g * each; c < (g + 1) * each; c++)
                sum += x[(size_t)i * (size_t)C + (size_t)c];
        for (int i = 0; i < pixels; i++)
            for (int c = g * each; c < (g + 1) * each; c++) {
                double d = x[(size_t)i * (size_t)C + (size_t)c] - sum / n;
                square += d * d;
            }
        for (int c = g * each; c < (g + 1) * each; c++) {
            double a = gamma[c] / sqrt(square / n + (double)eps);
            scale[c] = (float)a;
            shift[c] = (float)(beta[c] - sum / n * a);
        }
    }
}

static float framed(const float *x, const float *scale, const float *shift, int silu, int c) {
    double u = x[c];
    if (scale)
        u = u * scale[c] + shift[c];
    return (float)(silu ? u / (1 + exp(-u)) : u);
}

void ds_ref_frame_forward(ds_device *dev, float *y, const float *x, const float *scale,
                          const float *shift, int silu, int zoom, int rows, int width, int C,
                          int left, int right) {
    (void)dev;
    DS_ASSERT(zoom > 0 && left >= 0 && right >= 0);
    for (int row = 0; row < rows * zoom; row++)
        for (int column = -left; column < width * zoom + right; column++) {
            int inside = column >= 0 && column < width * zoom;
            const float *in = x;
            if (inside)
                in += ((size_t)(row / zoom) * (size_t)width + (size_t)(column / zoom)) * (size_t)C;
            for (int c = 0; c < C; c++)
                *y++ = inside ? framed(in, scale, shift, silu, c) : 0;
        }
}

void ds_ref_attention_wide(ds_device *dev, float *out, const float *q, const float *k,
                           const float *v, int T, int D) {
    (void)dev;
    double *p = ds_xmalloc((size_t)T * sizeof *p), *sum = ds_xmalloc((size_t)D * sizeof *sum);
    for (int i = 0; i < T; i++) {
        double top = -INFINITY, all = 0;
        for (int j = 0; j < T; j++) {
            p[j] = dot(q + (size_t)i * (size_t)D, k + (size_t)j * (size_t)D, D) / sqrt(D);
            top = fmax(top, p[j]);
        }
        for (int d = 0; d < D; d++)
            sum[d] = 0;
        for (int j = 0; j < T; j++) {
            double e = exp(p[j] - top);
            all += e;
            for (int d = 0; d < D; d++)
                sum[d] += e * v[(size_t)j * (size_t)D + (size_t)d];
        }
        for (int d = 0; d < D; d++)
            out[(size_t)i * (size_t)D + (size_t)d] = (float)(sum[d] / all);
    }
    free(p);
    free(sum);
}
