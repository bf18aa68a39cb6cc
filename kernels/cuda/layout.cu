/* kernels/cuda/layout.cu - element-wise ops, and the way between images and tokens. */
#include "kernels/cuda/cuda.h"

enum { BLOCK = 256 };

static dim3 cover(size_t n) { return dim3((unsigned)ds_ceil_div(n, BLOCK)); }

__device__ static inline size_t global_thread() {
    return (size_t)blockIdx.x * blockDim.x + threadIdx.x;
}

template <class To, class From> __global__ void convert(To *out, const From *x, size_t n) {
    size_t i = global_thread();
    if (i < n)
        out[i] = ds_store<To>(ds_float(x[i]));
}

__global__ void fill(float *out, float value, size_t n) {
    size_t i = global_thread();
    if (i < n)
        out[i] = value;
}

__global__ void add(float *out, const float *x, size_t n) {
    size_t i = global_thread();
    if (i < n)
        out[i] += x[i];
}

__global__ void add_position(float *x, const float *pos, size_t per_sample, size_t n) {
    size_t i = global_thread();
    if (i < n)
        x[i] += pos[i % per_sample];
}

void ds_cuda_act_from_f32(ds_device *dev, ds_act *out, const float *x, size_t n) {
    ds_cuda *c = ds_cuda_begin(dev);
    ds_cuda_by_act(dev, [&](auto zero) {
        using T = decltype(zero);
        ds_cuda_launch(c, convert<T, float>, cover(n), BLOCK, 0, ds_ptr<T>(out), x, n);
    });
}

void ds_cuda_act_to_f32(ds_device *dev, float *out, const ds_act *x, size_t n) {
    ds_cuda *c = ds_cuda_begin(dev);
    ds_cuda_by_act(dev, [&](auto zero) {
        using T = decltype(zero);
        ds_cuda_launch(c, convert<float, T>, cover(n), BLOCK, 0, out, ds_ptr<T>(x), n);
    });
}

void ds_cuda_fill(ds_device *dev, float *out, float value, size_t n) {
    ds_cuda_launch(ds_cuda_begin(dev), fill, cover(n), BLOCK, 0, out, value, n);
}

void ds_cuda_add(ds_device *dev, float *out, const float *x, size_t n) {
    ds_cuda_launch(ds_cuda_begin(dev), add, cover(n), BLOCK, 0, out, x, n);
}

void ds_cuda_add_position(ds_device *dev, float *x, const float *pos, int B, int T, int D) {
    size_t each = (size_t)T * (size_t)D, n = each * (size_t)B;
    ds_cuda_launch(ds_cuda_begin(dev), add_position, cover(n), BLOCK, 0, x, pos, each, n);
}

/* ---------------------------------------------------------------- patches
 * One thread for a pixel of the image; side patches a row, patches of p x p. */

struct patch_place {
    size_t token; /* b, patch row, patch column */
    int c, row, column;
};

__device__ static patch_place place_of(size_t pixel, int C, int S, int p) {
    int x = (int)(pixel % (size_t)S);
    size_t rest = pixel / (size_t)S;
    int y = (int)(rest % (size_t)S);
    rest /= (size_t)S;
    int c = (int)(rest % (size_t)C);
    size_t b = rest / (size_t)C, side = (size_t)(S / p);
    return patch_place{(b * side + (size_t)(y / p)) * side + (size_t)(x / p), c, y % p, x % p};
}

template <class T>
__global__ void patchify(T *tokens, const float *img, size_t pixels, int C, int S, int p) {
    size_t i = global_thread();
    if (i >= pixels)
        return;
    patch_place at = place_of(i, C, S, p);
    size_t inside = (size_t)((at.c * p + at.row) * p + at.column);
    tokens[at.token * (size_t)(C * p * p) + inside] = ds_store<T>(img[i]);
}

__global__ void unpatchify(float *img, const float *tokens, size_t pixels, int C, int S, int p) {
    size_t i = global_thread();
    if (i >= pixels)
        return;
    patch_place at = place_of(i, C, S, p);
    size_t inside = (size_t)((at.row * p + at.column) * C + at.c);
    img[i] = tokens[at.token * (size_t)(C * p * p) + inside];
}

template <class T>
__global__ void unpatchify_backward(T *dtokens, const float *dimg, size_t pixels, int C, int S,
                                    int p) {
    size_t i = global_thread();
    if (i >= pixels)
        return;
    patch_place at = place_of(i, C, S, p);
    size_t inside = (size_t)((at.row * p + at.column) * C + at.c);
    dtokens[at.token * (size_t)(C * p * p) + inside] = ds_store<T>(dimg[i]);
}

static size_t pixels_of(int B, int C, int S) {
    return (size_t)B * (size_t)C * (size_t)S * (size_t)S;
}

void ds_cuda_patchify(ds_device *dev, ds_act *tokens, const float *img, int B, int C, int S,
                      int p) {
    ds_cuda *c = ds_cuda_begin(dev);
    size_t n = pixels_of(B, C, S);
    DS_ASSERT(S % p == 0);
    ds_cuda_by_act(dev, [&](auto zero) {
        using T = decltype(zero);
        ds_cuda_launch(c, patchify<T>, cover(n), BLOCK, 0, ds_ptr<T>(tokens), img, n, C, S, p);
    });
}

void ds_cuda_unpatchify(ds_device *dev, float *img, const float *tokens, int B, int C, int S,
                        int p) {
    size_t n = pixels_of(B, C, S);
    DS_ASSERT(S % p == 0);
    ds_cuda_launch(ds_cuda_begin(dev), unpatchify, cover(n), BLOCK, 0, img, tokens, n, C, S, p);
}

void ds_cuda_unpatchify_backward(ds_device *dev, ds_act *dtokens, const float *dimg, int B, int C,
                                 int S, int p) {
    ds_cuda *c = ds_cuda_begin(dev);
    size_t n = pixels_of(B, C, S);
    DS_ASSERT(S % p == 0);
    ds_cuda_by_act(dev, [&](auto zero) {
        using T = decltype(zero);
        ds_cuda_launch(c, unpatchify_backward<T>, cover(n), BLOCK, 0, ds_ptr<T>(dtokens), dimg, n,
                       C, S, p);
    });
}
