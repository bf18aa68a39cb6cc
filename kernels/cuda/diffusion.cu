/* kernels/cuda/diffusion.cu - noising, normal numbers and the hybrid loss.
 *
 * Built with -fmad=false (Makefile): normal numbers are those of base/rng.c bit for bit, which is
 * built without contraction too. */
#include "kernels/cuda/cuda.h"

#define DS_RNG_FN __device__ static inline
#include "base/rng_core.h"

enum { BLOCK = 256 };

/* ---------------------------------------------------------------- noising */

__global__ void axpby(float *out, const float *ca, const float *x, const float *cb, const float *y,
                      size_t each, size_t n) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    size_t b = i / each;
    out[i] = fmaf(ca[b], x[i], cb[b] * y[i]);
}

void ds_cuda_axpby(ds_device *dev, float *out, const float *ca, const float *x, const float *cb,
                   const float *y, int B, size_t n) {
    size_t all = (size_t)B * n;
    ds_cuda_launch(ds_cuda_begin(dev), axpby, (unsigned)ds_ceil_div(all, BLOCK), BLOCK, 0, out, ca,
                   x, cb, y, n, all);
}

/* ---------------------------------------------------------------- normal numbers
 * base/rng.h defines them. */

enum { DRAWS = 256 }; /* samples of a launch: their steps and numbers are arguments of the kernel */

struct draw_args {
    uint64_t sample[DRAWS];
    uint32_t step[DRAWS];
    uint64_t seed;
    uint32_t stream;
    uint32_t blocks; /* of four numbers, of a sample */
    size_t n;
};

/* One thread four numbers; blockIdx.y is the sample. */
__global__ void normal(float *out, draw_args a) {
    uint32_t block = blockIdx.x * blockDim.x + threadIdx.x;
    if (block >= a.blocks)
        return;
    float z[4];
    ds_rng_core_normals(z, a.seed, a.stream, a.step[blockIdx.y], a.sample[blockIdx.y], block);
    size_t i = 4 * (size_t)block;
    float *to = out + (size_t)blockIdx.y * a.n + i;
#pragma unroll
    for (int k = 0; k < 4; k++)
        if (i + (size_t)k < a.n)
            to[k] = z[k];
}

void ds_cuda_normal(ds_device *dev, float *out, uint64_t seed, uint32_t stream,
                    const uint32_t *step, const uint64_t *sample, int B, size_t n) {
    ds_cuda *c = ds_cuda_begin(dev);
    draw_args a = {};
    a.seed = seed;
    a.stream = stream;
    a.n = n;
    a.blocks = (uint32_t)ds_ceil_div(n, 4);
    for (int first = 0; first < B; first += DRAWS) {
        int count = B - first < DRAWS ? B - first : (int)DRAWS;
        memcpy(a.step, step + first, (size_t)count * sizeof *step);
        memcpy(a.sample, sample + first, (size_t)count * sizeof *sample);
        ds_cuda_launch(c, normal, dim3((unsigned)ds_ceil_div(a.blocks, BLOCK), (unsigned)count),
                       BLOCK, 0, out + (size_t)first * n, a);
    }
}

/* ---------------------------------------------------------------- hybrid loss
 * All in double, as kernels/ref/diffusion.c: differences of nearly equal numbers decide here, and
 * an image has few numbers beside its tokens. */

enum { LOSS_BLOCK = 512 };

struct loss_args {
    float *mse, *vb, *dout;
    const float *out, *x0, *noise, *xt, *coef;
    int learned;
    float vb_weight;
    size_t half; /* C n */
};

struct coefficients {
    double log_beta, log_var_clipped, mean_x0, mean_xt, recip, recipm1, is_first, weight;
};

/* KL(q || p) of two normals in nats, and its derivative by the log variance of p. */
__device__ static double kl_term(double mean_q, double log_q, double mean_p, double log_p,
                                 double *dlog_p) {
    double square = (mean_q - mean_p) * (mean_q - mean_p) * exp(-log_p), ratio = exp(log_q - log_p);
    *dlog_p = 0.5 * (1 - ratio - square);
    return 0.5 * (-1 + log_p - log_q + ratio + square);
}

/* tanh approximation of the standard normal distribution function, and its derivative. */
__device__ static double cdf(double x, double *derivative) {
    const double k = 0.79788456080286535588, c = 0.044715;
    double t = tanh(k * (x + c * x * x * x));
    *derivative = 0.5 * (1 - t * t) * k * (1 + 3 * c * x * x);
    return 0.5 * (1 + t);
}

/* -log of the probability of the bin around x0 under N(mean, exp(log_var)), and its derivative by
 * log_var (kernels/ops.def, diffusion_loss). */
__device__ static double discretised_nll(double x0, double mean, double log_var, double *dlog_var) {
    double inv = exp(-0.5 * log_var), hi = inv * (x0 - mean + 1.0 / 255), hi_d;
    double lo = inv * (x0 - mean - 1.0 / 255), lo_d;
    double cdf_hi = cdf(hi, &hi_d), cdf_lo = cdf(lo, &lo_d), p, dp;
    if (x0 < -0.999) {
        p = cdf_hi;
        dp = -0.5 * hi * hi_d;
    } else if (x0 > 0.999) {
        p = 1 - cdf_lo;
        dp = 0.5 * lo * lo_d;
    } else {
        p = cdf_hi - cdf_lo;
        dp = -0.5 * (hi * hi_d - lo * lo_d);
    }
    *dlog_var = p < 1e-12 ? 0 : -dp / p;
    return -log(p < 1e-12 ? 1e-12 : p);
}

/* vb of one element in nats; dv: its derivative by v. */
__device__ static double vb_term(const coefficients &c, double eps, double v, double x0, double xt,
                                 double *dv) {
    double fraction = 0.5 * (v + 1), dlog;
    double log_var = fraction * c.log_beta + (1 - fraction) * c.log_var_clipped;
    double mean_p = c.mean_x0 * (c.recip * xt - c.recipm1 * eps) + c.mean_xt * xt;
    double mean_q = c.mean_x0 * x0 + c.mean_xt * xt;
    double nats = c.is_first != 0 ? discretised_nll(x0, mean_p, log_var, &dlog)
                                  : kl_term(mean_q, c.log_var_clipped, mean_p, log_var, &dlog);
    *dv = dlog * 0.5 * (c.log_beta - c.log_var_clipped);
    return nats;
}

/* A block a sample; thread i sums the elements i, i + blockDim, .. and the block its threads. */
__global__ void __launch_bounds__(LOSS_BLOCK) loss(loss_args a) {
    DS_SHARED(double, room);
    const double ln2 = 0.69314718055994530942;
    size_t b = blockIdx.x, full = a.learned ? 2 * a.half : a.half;
    const float *p = a.coef + 8 * b;
    coefficients c = {p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]};
    double sum_mse = 0, sum_vb = 0;
    for (size_t i = threadIdx.x; i < a.half; i += blockDim.x) {
        size_t at = b * a.half + i, at_eps = b * full + i, at_v = at_eps + a.half;
        double eps = a.out[at_eps], diff = eps - a.noise[at], dv = 0;
        sum_mse += diff * diff;
        if (a.learned)
            sum_vb += vb_term(c, eps, a.out[at_v], a.x0[at], a.xt[at], &dv);
        if (a.dout)
            a.dout[at_eps] = (float)(c.weight * 2 * diff / (double)a.half);
        if (a.dout && a.learned)
            a.dout[at_v] = (float)(c.weight * a.vb_weight * dv / ((double)a.half * ln2));
    }
    sum_mse = ds_block_sum(sum_mse, room);
    sum_vb = ds_block_sum(sum_vb, room);
    if (threadIdx.x == 0) {
        a.mse[b] = (float)(sum_mse / (double)a.half);
        a.vb[b] = (float)(sum_vb / ((double)a.half * ln2));
    }
}

void ds_cuda_diffusion_loss(ds_device *dev, float *mse, float *vb, float *dout, const float *out,
                            const float *x0, const float *noise, const float *xt, const float *coef,
                            int learned, float vb_weight, int B, int C, size_t n) {
    loss_args a = {mse, vb, dout, out, x0, noise, xt, coef, learned, vb_weight, (size_t)C * n};
    ds_cuda_launch(ds_cuda_begin(dev), loss, (unsigned)B, LOSS_BLOCK, 32 * sizeof(double), a);
}

struct flow_args {
    float *mse, *dout;
    const float *out, *x0, *noise, *coef;
    size_t px, outpx;
};

/* A block a sample, as loss. */
__global__ void __launch_bounds__(LOSS_BLOCK) flow(flow_args a) {
    DS_SHARED(double, room);
    const size_t b = blockIdx.x;
    const float *c = a.coef + 8 * b;
    double sum = 0;
    for (size_t i = threadIdx.x; i < a.outpx; i += blockDim.x) {
        double diff = 0;
        if (i < a.px)
            diff = a.out[b * a.outpx + i] -
                   ((double)c[0] * a.x0[b * a.px + i] + (double)c[1] * a.noise[b * a.px + i]);
        sum += diff * diff;
        if (a.dout)
            a.dout[b * a.outpx + i] = (float)(c[7] * 2 * diff / (double)a.px);
    }
    sum = ds_block_sum(sum, room);
    if (threadIdx.x == 0)
        a.mse[b] = (float)(sum / (double)a.px);
}

void ds_cuda_flow_loss(ds_device *dev, float *mse, float *dout, const float *out, const float *x0,
                       const float *noise, const float *coef, int B, size_t px, size_t outpx) {
    flow_args a = {mse, dout, out, x0, noise, coef, px, outpx};
    ds_cuda_launch(ds_cuda_begin(dev), flow, (unsigned)B, LOSS_BLOCK, 32 * sizeof(double), a);
}
