/* kernels/cuda/feature.cu - convolution and pools of the feature network and the autoencoder: f32,
 * NHWC.
 *
 * A convolution is one of three:
 *   1 x 1, stride 1, no padding   a plain product of the pixels (pixels, Cin) with the weight
 *   what cuDNN takes              ds_lib_conv, then bias, ReLU and stride in one pass
 *   else                          patches in scratch, PIECE_BYTES at a time, and a product
 * Products take TF32 where the weight says so (ops.def), else they are exact.  What tensor cores do
 * with the bits below TF32 is the library's matter; where they are cut off, maps shrink a little
 * with every layer.  So operands have no such bits: weights are rounded when they are packed, maps
 * by the pass that adds the bias.  A row of a product has the same bytes however many rows there
 * are, so neither batch nor chunk shows in a sample.
 *
 * Element-wise kernels: one thread for 4 channels of a pixel, 16 bytes an access where aligned.
 */
#include "kernels/cuda/four.h"

enum { BLOCK = 256 };

static int out_height(const ds_conv *g) {
    return (g->height + 2 * g->pad_h - g->kernel_h) / g->stride + 1;
}
static int out_width(const ds_conv *g) {
    return (g->width + 2 * g->pad_w - g->kernel_w) / g->stride + 1;
}

/* ---------------------------------------------------------------- bias, ReLU, stride */

/* y (pixels, C), y_stride apart (=) [round to TF32]([relu](x + bias));  x may be y */
template <bool VEC>
__global__ void conv_finish(float *y, int y_stride, const float *x, int x_stride, const float *bias,
                            int relu, int tf32, size_t pixels, int C) {
    int groups = (C + GROUP - 1) / GROUP;
    size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    /* a division of 32 bits takes a fifth of one of 64, and this pass little else */
    size_t pixel = at >> 32 ? at / (size_t)groups : (uint32_t)at / (uint32_t)groups;
    if (pixel >= pixels)
        return;
    int channel = (int)(at - pixel * (size_t)groups) * GROUP, left = C - channel;
    four v = load4<VEC>(x + pixel * (size_t)x_stride + channel, left), b = {};
    if (bias)
        b = load4<VEC>(bias + channel, left);
#pragma unroll
    for (int i = 0; i < GROUP; i++) {
        v.v[i] += b.v[i];
        v.v[i] = relu && v.v[i] < 0 ? 0.0f : v.v[i];
        v.v[i] = tf32 ? ds_round_tf32(v.v[i]) : v.v[i];
    }
    store4<VEC>(y + pixel * (size_t)y_stride + channel, v, left);
}

struct conv_out {
    float *y;
    int stride, C, relu, tf32;
    const float *bias;
};

static void finish(ds_cuda *c, const conv_out &o, float *y, const float *x, int x_stride,
                   size_t pixels) {
    if (!o.bias && !o.relu && !o.tf32 && x == y)
        return;
    size_t threads = pixels * (size_t)((o.C + GROUP - 1) / GROUP);
    bool aligned = o.C % GROUP == 0 && aligned4(y, o.stride) && aligned4(x, x_stride) &&
                   (uintptr_t)o.bias % 16 == 0;
    by_alignment(aligned, [&](auto vec) {
        ds_cuda_launch(c, conv_finish<decltype(vec)::value>,
                       dim3((unsigned)ds_ceil_div(threads, BLOCK)), dim3(BLOCK), 0, y, o.stride, x,
                       x_stride, o.bias, o.relu, o.tf32, pixels, o.C);
    });
}

/* Pixels [first, first + pixels) of o (=) [relu](x w^T + bias);  x (pixels, k) */
static void product(ds_cuda *c, const conv_out &o, size_t first, const float *x, const float *w,
                    int pixels, int k) {
    float *y = o.y + first * (size_t)o.stride;
    ds_gemm g = {};
    g.m = pixels;
    g.n = o.C;
    g.k = g.lda = g.ldb = k;
    g.tb = 1;
    g.ldd = o.stride;
    g.ab = g.d = DS_LIB_F32;
    g.exact = !o.tf32;
    g.bias = o.bias;
    g.epilogue = o.relu ? DS_LIB_BIAS_RELU : DS_LIB_BIAS;
    if (o.bias && !o.tf32 && ds_lib_gemm(c, &g, y, x, w) == 0)
        return;
    g.epilogue = DS_LIB_NONE;
    g.bias = NULL;
    ds_lib_gemm(c, &g, y, x, w);
    finish(c, o, y, y, o.stride, (size_t)pixels);
}

/* ---------------------------------------------------------------- convolution */

/* patches (rows of output, out width, kh, kw, Cin) (=) what each output pixel sees, zeros outside,
 * rounded if `tf32`; output rows [first, first + rows) counted over all samples. */
template <bool VEC>
__global__ void conv_patches(float *patches, const float *x, ds_conv g, int first, int rows, int oh,
                             int ow, int tf32) {
    int groups = (g.in_channels + GROUP - 1) / GROUP, cells = g.kernel_h * g.kernel_w;
    int at = (int)(blockIdx.x * blockDim.x + threadIdx.x), cell = at / groups;
    if (cell >= ow * cells)
        return;
    int channel = at % groups * GROUP, left = g.in_channels - channel, ox = cell / cells;
    int ky = cell % cells / g.kernel_w, kx = cell % g.kernel_w;
    int column = ox * g.stride + kx - g.pad_w;
    for (int r = (int)blockIdx.y; r < rows; r += (int)gridDim.y) {
        int b = (first + r) / oh, row = (first + r) % oh * g.stride + ky - g.pad_h;
        bool inside = row >= 0 && row < g.height && column >= 0 && column < g.width;
        size_t from =
            ((size_t)b * (size_t)g.height + (size_t)(inside ? row : 0)) * (size_t)g.width +
            (size_t)(inside ? column : 0);
        four v = {};
        if (inside)
            v = load4<VEC>(x + from * (size_t)g.in_channels + channel, left);
        for (int i = 0; tf32 && i < GROUP; i++)
            v.v[i] = ds_round_tf32(v.v[i]);
        size_t to = (size_t)r * (size_t)(ow * cells) + (size_t)cell;
        store4<VEC>(patches + to * (size_t)g.in_channels + channel, v, left);
    }
}

static void conv_by_patches(ds_cuda *c, const conv_out &o, const float *x, const float *w, int k,
                            const ds_conv *geo) {
    int oh = out_height(geo), ow = out_width(geo), rows = geo->batch * oh;
    size_t row_bytes = (size_t)ow * (size_t)k * sizeof(float);
    size_t at_once = row_bytes < PIECE_BYTES ? PIECE_BYTES / row_bytes : 1;
    if (at_once > (size_t)rows)
        at_once = (size_t)rows;
    float *patches = (float *)ds_cuda_scratch(c, at_once * row_bytes);
    size_t threads = (size_t)(ow * geo->kernel_h * geo->kernel_w) *
                     (size_t)((geo->in_channels + GROUP - 1) / GROUP);
    for (int first = 0; first < rows; first += (int)at_once) {
        int some = rows - first < (int)at_once ? rows - first : (int)at_once;
        by_alignment(aligned4(x, geo->in_channels), [&](auto vec) {
            ds_cuda_launch(c, conv_patches<decltype(vec)::value>,
                           cover_rows(threads, (size_t)some, BLOCK), dim3(BLOCK), 0, patches, x,
                           *geo, first, some, oh, ow, o.tf32);
        });
        product(c, o, (size_t)first * (size_t)ow, patches, w, some * ow, k);
    }
}

/* 0 = done */
static int conv_by_library(ds_cuda *c, const conv_out &o, const float *x, const float *w,
                           size_t pixels, const ds_conv *geo) {
    const size_t in = (size_t)geo->batch * (size_t)geo->height * (size_t)geo->width;
    size_t out = pixels * (size_t)o.C, values = in * (size_t)geo->in_channels;
    bool picture = o.tf32 && geo->in_channels < GROUP; /* nothing of ours has rounded it */
    float *packed = o.y, *room = NULL;
    if (o.stride != o.C || picture) {
        out = (out + 63) & ~(size_t)63;
        room = (float *)ds_cuda_scratch(c, (out + (picture ? values : 0)) * sizeof(float));
        packed = o.stride != o.C ? room : o.y;
    }
    if (picture) {
        conv_out flat = {room + out, (int)in, (int)in, 0, 1, NULL};
        finish(c, flat, flat.y, x, flat.stride, (size_t)geo->in_channels);
        x = flat.y;
    }
    if (ds_lib_conv(c, packed, x, w, geo, o.tf32))
        return 1;
    finish(c, o, o.y, packed, o.C, pixels);
    return 0;
}

void ds_cuda_conv_forward(ds_device *dev, float *y, int y_stride, const float *x,
                          const ds_weight *w, const float *bias, int relu, const ds_conv *geo) {
    ds_cuda *c = ds_cuda_begin(dev);
    int k = geo->kernel_h * geo->kernel_w * geo->in_channels;
    DS_ASSERT(w->m == geo->out_channels && w->n == k && y_stride >= w->m);
    DS_ASSERT(w->f32 || dev->act_size == 4);
    size_t pixels = (size_t)geo->batch * (size_t)out_height(geo) * (size_t)out_width(geo);
    DS_ASSERT(pixels <= INT32_MAX);
    if (pixels == 0)
        return;
    const float *W = (const float *)w->w;
    conv_out o = {y, y_stride, geo->out_channels, relu, w->tf32, bias};
    if (geo->kernel_h * geo->kernel_w == 1 && geo->stride == 1 && !geo->pad_h && !geo->pad_w)
        product(c, o, 0, x, W, (int)pixels, k);
    else if (conv_by_library(c, o, x, W, pixels, geo))
        conv_by_patches(c, o, x, W, k, geo);
}

/* ---------------------------------------------------------------- pools */

template <bool VEC>
__global__ void pool(float *y, int y_stride, const float *x, int average, int tf32, ds_conv g,
                     int oh, int ow) {
    int C = g.in_channels, groups = (C + GROUP - 1) / GROUP;
    int at = (int)(blockIdx.x * blockDim.x + threadIdx.x), ox = at / groups;
    if (ox >= ow)
        return;
    int channel = at % groups * GROUP, left = C - channel;
    for (int r = (int)blockIdx.y; r < g.batch * oh; r += (int)gridDim.y) {
        const float *picture =
            x + (size_t)(r / oh) * (size_t)g.height * (size_t)g.width * (size_t)C;
        four sum = {}, top = {{-INFINITY, -INFINITY, -INFINITY, -INFINITY}};
        int cells = 0;
        for (int ky = 0; ky < g.kernel_h; ky++)
            for (int kx = 0; kx < g.kernel_w; kx++) {
                int row = r % oh * g.stride + ky - g.pad_h, column = ox * g.stride + kx - g.pad_w;
                if (row < 0 || row >= g.height || column < 0 || column >= g.width)
                    continue;
                size_t from = (size_t)row * (size_t)g.width + (size_t)column;
                four v = load4<VEC>(picture + from * (size_t)C + channel, left);
                cells++;
#pragma unroll
                for (int i = 0; i < GROUP; i++) {
                    sum.v[i] += v.v[i];
                    top.v[i] = fmaxf(top.v[i], v.v[i]);
                }
            }
#pragma unroll
        for (int i = 0; i < GROUP; i++) {
            top.v[i] = average ? sum.v[i] / (float)cells : top.v[i];
            top.v[i] = average && tf32 ? ds_round_tf32(top.v[i]) : top.v[i];
        }
        size_t to = (size_t)r * (size_t)ow + (size_t)ox;
        store4<VEC>(y + to * (size_t)y_stride + channel, top, left);
    }
}

void ds_cuda_pool_forward(ds_device *dev, float *y, int y_stride, const float *x, int average,
                          const ds_conv *geo) {
    ds_cuda *c = ds_cuda_begin(dev);
    int C = geo->in_channels, oh = out_height(geo), ow = out_width(geo);
    DS_ASSERT(y_stride >= C);
    size_t threads = (size_t)ow * (size_t)((C + GROUP - 1) / GROUP);
    by_alignment(aligned4(x, C) && aligned4(y, y_stride), [&](auto vec) {
        ds_cuda_launch(c, pool<decltype(vec)::value>,
                       cover_rows(threads, (size_t)geo->batch * (size_t)oh, BLOCK), dim3(BLOCK), 0,
                       y, y_stride, x, average, c->tf32, *geo, oh, ow);
    });
}

/* One thread a channel of a sample; neighbours read neighbours. */
__global__ void mean_of_pixels(float *out, const float *x, size_t n, int pixels, int C) {
    size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= n)
        return;
    const float *p = x + at / (size_t)C * (size_t)pixels * (size_t)C + at % (size_t)C;
    double sum = 0;
#pragma unroll 8
    for (int i = 0; i < pixels; i++)
        sum += (double)p[(size_t)i * (size_t)C];
    out[at] = (float)(sum / pixels);
}

void ds_cuda_spatial_mean(ds_device *dev, float *out, const float *x, int B, int pixels, int C) {
    size_t n = (size_t)B * (size_t)C;
    ds_cuda_launch(ds_cuda_begin(dev), mean_of_pixels, dim3((unsigned)ds_ceil_div(n, 64)), dim3(64),
                   0, out, x, n, pixels, C);
}
