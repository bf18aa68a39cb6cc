/* kernels/cuda/optim.cu - gradient norm, and AdamW with clipping and average in one launch.  The
 * norm stays on the device, so nothing waits between them. */
#include "kernels/cuda/norm.h"

enum { BLOCK = 256 };

/* ---------------------------------------------------------------- sum of squares
 * In double, in an order that depends on n alone: block k sums numbers [PART k, PART (k+1)), thread
 * i of it every BLOCK-th quad; then one block sums the blocks.  4 bytes a number. */

enum { PART = 32 * 4 * BLOCK };

template <bool VEC> __global__ void square_parts(double *part, const float *x, size_t n) {
    DS_SHARED(double, room);
    size_t first = (size_t)blockIdx.x * PART;
    int count = n - first < PART ? (int)(n - first) : (int)PART;
    double sum = 0;
#pragma unroll 4
    for (int i = 4 * (int)threadIdx.x; i < count; i += 4 * BLOCK) {
        ds_quad<float> q;
        if (VEC && count - i >= 4)
            q = ds_load_quad<VEC>(x + first + i, count - i);
        else
            q = ds_load_quad<false>(x + first + i, count - i);
#pragma unroll
        for (int k = 0; k < 4; k++)
            sum += (double)q.v[k] * q.v[k];
    }
    sum = ds_block_sum(sum, room);
    if (threadIdx.x == 0)
        part[blockIdx.x] = sum;
}

__global__ void sum_parts(double *out, const double *part, int count) {
    DS_SHARED(double, room);
    double sum = 0;
    for (int i = (int)threadIdx.x; i < count; i += BLOCK)
        sum += part[i];
    sum = ds_block_sum(sum, room);
    if (threadIdx.x == 0)
        *out = sum;
}

void ds_cuda_sum_squares(ds_device *dev, double *out, const float *x, size_t n) {
    ds_cuda *c = ds_cuda_begin(dev);
    int parts = ds_ceil_div(n, PART);
    double *part = (double *)ds_cuda_scratch(c, (size_t)parts * sizeof *part);
    size_t shared = 32 * sizeof(double);
    ds_cuda_launch(c, ds_quads_fit(x, 4) ? square_parts<true> : square_parts<false>,
                   (unsigned)parts, BLOCK, shared, part, x, n);
    ds_cuda_launch(c, sum_parts, 1, BLOCK, shared, out, part, parts);
}

/* ---------------------------------------------------------------- AdamW
 * Four numbers a thread; 40 bytes a number with ema and lr_mul (reads 24, writes 16). */

struct adamw_args {
    float *p, *m, *v, *ema; /* ema NULL: none */
    const float *g, *lr_mul;
    size_t n;
    double clip;
    const double *squares; /* NULL: no clipping */
    float lr, b1, rest1, b2, rest2, eps, wd, decay, rest_decay;
    float inverse1, inverse2; /* 1 / (1 - b^step) */
};

template <bool VEC>
__device__ static void adamw_quad(const adamw_args &a, float gscale, size_t i, int left) {
    ds_quad<float> p = ds_load_quad<VEC>(a.p + i, left), m = ds_load_quad<VEC>(a.m + i, left);
    ds_quad<float> v = ds_load_quad<VEC>(a.v + i, left), g = ds_load_quad<VEC>(a.g + i, left);
    ds_quad<float> mul = {{1, 1, 1, 1}}, ema = {};
    if (a.lr_mul)
        mul = ds_load_quad<VEC>(a.lr_mul + i, left);
    if (a.ema)
        ema = ds_load_quad<VEC>(a.ema + i, left);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        float rate = a.lr * mul.v[k], grad = g.v[k] * gscale;
        m.v[k] = fmaf(a.b1, m.v[k], a.rest1 * grad);
        v.v[k] = fmaf(a.b2, v.v[k], a.rest2 * grad * grad);
        float root = sqrtf(v.v[k] * a.inverse2) + a.eps;
        float decayed = fmaf(-rate * a.wd, p.v[k], p.v[k]);
        p.v[k] = fmaf(-rate * a.inverse1, m.v[k] / root, decayed);
        ema.v[k] = fmaf(a.decay, ema.v[k], a.rest_decay * p.v[k]);
    }
    ds_store_quad<VEC>(a.p + i, p, left);
    ds_store_quad<VEC>(a.m + i, m, left);
    ds_store_quad<VEC>(a.v + i, v, left);
    if (a.ema)
        ds_store_quad<VEC>(a.ema + i, ema, left);
}

template <bool VEC> __global__ void __launch_bounds__(BLOCK) adamw(adamw_args a) {
    size_t i = 4 * ((size_t)blockIdx.x * BLOCK + threadIdx.x);
    if (i >= a.n)
        return;
    double squares = a.squares ? *a.squares : 0, norm = sqrt(squares);
    if (!isfinite(squares))
        return;
    float gscale = a.clip > 0 && norm > a.clip ? (float)(a.clip / norm) : 1;
    int left = a.n - i < 4 ? (int)(a.n - i) : 4;
    if (VEC && left == 4)
        adamw_quad<VEC>(a, gscale, i, left);
    else
        adamw_quad<false>(a, gscale, i, left);
}

void ds_cuda_adamw(ds_device *dev, float *p, float *m, float *v, float *ema, const float *g,
                   const float *lr_mul, size_t n, float lr, float b1, float b2, float eps, float wd,
                   double clip, const double *squares, float ema_decay, int step) {
    ds_cuda *c = ds_cuda_begin(dev);
    adamw_args a = {};
    a.p = p, a.m = m, a.v = v, a.ema = ema, a.g = g, a.lr_mul = lr_mul, a.n = n;
    a.lr = lr, a.eps = eps, a.wd = wd, a.clip = clip, a.squares = squares;
    a.b1 = b1, a.b2 = b2, a.decay = ema_decay;
    a.rest1 = (float)(1.0 - b1), a.rest2 = (float)(1.0 - b2);
    a.rest_decay = (float)(1.0 - ema_decay);
    a.inverse1 = (float)(1 / (1 - pow(b1, step)));
    a.inverse2 = (float)(1 / (1 - pow(b2, step)));
    bool vec = ds_quads_fit(p, 4) && ds_quads_fit(m, 4) && ds_quads_fit(v, 4) &&
               ds_quads_fit(ema, 4) && ds_quads_fit(g, 4) && ds_quads_fit(lr_mul, 4);
    ds_cuda_launch(c, vec ? adamw<true> : adamw<false>, (unsigned)ds_ceil_div(n, 4 * BLOCK), BLOCK,
                   0, a);
}
