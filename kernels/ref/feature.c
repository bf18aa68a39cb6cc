/* kernels/ref/feature.c - convolution and pools of the feature network, NHWC. */
#include "kernels/ref/ref.h"

static int out_height(const ds_conv *g) {
    return (g->height + 2 * g->pad_h - g->kernel_h) / g->stride + 1;
}
static int out_width(const ds_conv *g) {
    return (g->width + 2 * g->pad_w - g->kernel_w) / g->stride + 1;
}

/* The channels of input pixel (y,x) of sample b, or NULL outside the picture. */
static const float *pixel(const float *x, const ds_conv *g, int b, int row, int column) {
    if (row < 0 || row >= g->height || column < 0 || column >= g->width)
        return NULL;
    return x + (((size_t)b * (size_t)g->height + (size_t)row) * (size_t)g->width + (size_t)column) *
                   (size_t)g->in_channels;
}

static double conv_at(const float *x, const ds_weight *w, const ds_conv *g, int b, int oy, int ox,
                      int channel) {
    double sum = 0;
    for (int ky = 0; ky < g->kernel_h; ky++)
        for (int kx = 0; kx < g->kernel_w; kx++) {
            const float *in =
                pixel(x, g, b, oy * g->stride + ky - g->pad_h, ox * g->stride + kx - g->pad_w);
            if (in)
                sum += dot(in,
                           w->w + (size_t)channel * (size_t)w->n +
                               (size_t)(ky * g->kernel_w + kx) * (size_t)g->in_channels,
                           g->in_channels);
        }
    return sum;
}

void ds_ref_conv_forward(ds_device *dev, float *y, int y_stride, const float *x, const ds_weight *w,
                         const float *bias, int relu, const ds_conv *geo) {
    (void)dev;
    DS_ASSERT(w->m == geo->out_channels);
    DS_ASSERT(w->n == geo->kernel_h * geo->kernel_w * geo->in_channels);
    float *out = y;
    for (int b = 0; b < geo->batch; b++)
        for (int oy = 0; oy < out_height(geo); oy++)
            for (int ox = 0; ox < out_width(geo); ox++, out += y_stride)
                for (int c = 0; c < geo->out_channels; c++) {
                    double sum = conv_at(x, w, geo, b, oy, ox, c) + (bias ? bias[c] : 0);
                    out[c] = (float)(relu && sum < 0 ? 0 : sum);
                }
}

static double pool_at(const float *x, int average, const ds_conv *g, int b, int oy, int ox, int c) {
    double sum = 0, top = -INFINITY;
    int cells = 0;
    for (int ky = 0; ky < g->kernel_h; ky++)
        for (int kx = 0; kx < g->kernel_w; kx++) {
            const float *in =
                pixel(x, g, b, oy * g->stride + ky - g->pad_h, ox * g->stride + kx - g->pad_w);
            if (!in)
                continue;
            sum += in[c];
            top = fmax(top, in[c]);
            cells++;
        }
    return average ? sum / cells : top;
}

void ds_ref_pool_forward(ds_device *dev, float *y, int y_stride, const float *x, int average,
                         const ds_conv *geo) {
    (void)dev;
    float *out = y;
    for (int b = 0; b < geo->batch; b++)
        for (int oy = 0; oy < out_height(geo); oy++)
            for (int ox = 0; ox < out_width(geo); ox++, out += y_stride)
                for (int c = 0; c < geo->in_channels; c++)
                    out[c] = (float)pool_at(x, average, geo, b, oy, ox, c);
}

void ds_ref_spatial_mean(ds_device *dev, float *out, const float *x, int B, int pixels, int C) {
    (void)dev;
    for (int b = 0; b < B; b++)
        for (int c = 0; c < C; c++) {
            double sum = 0;
            for (int i = 0; i < pixels; i++)
                sum += x[((size_t)b * (size_t)pixels + (size_t)i) * (size_t)C + (size_t)c];
            out[(size_t)b * (size_t)C + (size_t)c] = (float)(sum / pixels);
        }
}
