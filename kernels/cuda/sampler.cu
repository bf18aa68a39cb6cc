/* kernels/cuda/sampler.cu - one step of a sampler, guidance included: an image never leaves the
 * device between two steps.  One thread an element; reads x, the outputs and the noise once. */
#include "kernels/cuda/cuda.h"

enum { BLOCK = 256 };

struct step_args {
    float *x, *twin, *x0_prev;
    const float *out, *null, *base, *noise;
    ds_step s;
    size_t px, outpx, n;
};

/* The guided output of element i. */
__device__ static float guided(const step_args &a, size_t i) {
    const float c = a.out[i];
    if (a.null && a.base)
        return a.base[i] + a.s.domain * (a.null[i] - a.base[i]) + a.s.classes * (c - a.null[i]);
    if (a.null)
        return a.null[i] + a.s.classes * (c - a.null[i]);
    return a.base ? a.base[i] + a.s.domain * (c - a.base[i]) : c;
}

__device__ static float step_ddpm(const ds_step &s, float x, float x0, float v, float noise) {
    double mean = s.mean_x0 * x0 + s.mean_xt * x, log_variance = s.log_variance;
    if (s.learned) {
        double f = (v + 1.0) / 2;
        log_variance = f * s.log_beta + (1 - f) * s.log_variance;
    }
    return (float)(s.last ? mean : mean + exp(0.5 * log_variance) * noise);
}

__device__ static float step_dpmpp2m(const ds_step &s, float x, float x0, float *x0_prev) {
    float before = s.c_before != 0 ? *x0_prev : 0;
    *x0_prev = x0;
    return s.last ? x0 : (float)(s.ratio * x + s.gain * (s.c_now * x0 + s.c_before * before));
}

__global__ void sampler_step(step_args a) {
    size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= a.n)
        return;
    const ds_step &s = a.s;
    size_t b = at / a.px, i = at % a.px, o = b * a.outpx + i;
    float x = a.x[at], eps = i < s.limit ? guided(a, o) : a.out[o];
    float x0 = s.velocity ? s.x0_x * x + s.x0_v * eps : (x - s.b * eps) / s.a;
    if (s.pixel)
        x0 = x0 < -1 ? -1 : x0 > 1 ? 1 : x0;
    if (s.pixel || s.velocity)
        eps = (x - s.a * x0) / s.b;
    if (s.kind == DS_STEP_DDPM)
        x = step_ddpm(s, x, x0, s.learned ? a.out[o + a.px] : 0, s.last ? 0 : a.noise[at]);
    else if (s.kind == DS_STEP_DDIM) {
        if (s.keep)
            a.x0_prev[at] = x;
        x = s.a_prev * x0 + s.b_prev * eps;
        if (s.spread != 0)
            x += s.spread * a.noise[at];
    } else if (s.kind == DS_STEP_HEUN)
        x = 0.5f * (a.x0_prev[at] + x) + s.a_prev * x0 + s.b_prev * eps;
    else
        x = step_dpmpp2m(s, x, x0, a.x0_prev + at);
    a.x[at] = x;
    if (a.twin)
        a.twin[at] = x;
}

void ds_cuda_sampler_step(ds_device *dev, float *x, float *twin, float *x0_prev, const float *out,
                          const float *null, const float *base, const float *noise,
                          const ds_step *s, int B, size_t px, size_t outpx) {
    size_t n = (size_t)B * px;
    step_args a = {x, twin, x0_prev, out, null, base, noise, *s, px, outpx, n};
    ds_cuda_launch(ds_cuda_begin(dev), sampler_step, dim3((unsigned)ds_ceil_div(n, BLOCK)), BLOCK,
                   0, a);
}
