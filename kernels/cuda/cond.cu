/* kernels/cuda/cond.cu - conditioning path: timestep and class embedding, SiLU.  Small: B rows. */
#include "kernels/cuda/four.h"

enum { BLOCK = 128 };

static unsigned cover(size_t n) { return (unsigned)ds_ceil_div(n, BLOCK); }

__device__ static inline size_t global_thread() {
    return (size_t)blockIdx.x * blockDim.x + threadIdx.x;
}

/* One thread a frequency, in double: angles of up to 1000 need more than f32. */
__global__ void timestep(float *out, const float *t, int B, int half, double log_period, int less) {
    size_t at = global_thread();
    int b = (int)(at / (size_t)half), i = (int)(at % (size_t)half);
    if (b >= B)
        return;
    double angle = t[b] * exp(-log_period * i / (half - less));
    float *row = out + (size_t)b * 2 * (size_t)half;
    row[i] = (float)cos(angle);
    row[half + i] = (float)sin(angle);
}

__global__ void silu(float *out, const float *x, size_t n) {
    size_t i = global_thread();
    if (i < n)
        out[i] = x[i] / (1.0f + expf(-x[i]));
}

__global__ void silu_slope(float *dx, const float *dout, const float *x, size_t n) {
    size_t i = global_thread();
    if (i >= n)
        return;
    float s = 1.0f / (1.0f + expf(-x[i]));
    dx[i] = dout[i] * s * (1.0f + x[i] * (1.0f - s));
}

__global__ void embed(float *out, const float *table, const int *idx, int D, size_t n) {
    size_t i = global_thread();
    if (i >= n)
        return;
    int row = idx[i / (size_t)D];
    if (row >= 0)
        out[i] += table[(size_t)row * (size_t)D + i % (size_t)D];
}

/* Grid: (column tiles, samples, layers), a thread four columns.  VEC: rows of both in 16 bytes. */
template <bool VEC>
__global__ void take(float *out, const float *table, const int *idx, int layers, int rows, int B,
                     int D) {
    int j = (int)(blockIdx.x * blockDim.x + threadIdx.x) * GROUP;
    if (j >= D)
        return;
    for (int l = (int)blockIdx.z; l < layers; l += (int)gridDim.z)
        for (int b = (int)blockIdx.y; b < B; b += (int)gridDim.y) {
            size_t from = (size_t)l * (size_t)rows + (size_t)idx[b];
            size_t to = (size_t)l * (size_t)B + (size_t)b;
            store4<VEC>(out + to * (size_t)D + j, load4<VEC>(table + from * (size_t)D + j, D - j),
                        D - j);
        }
}

/* Block (column tile, b): if b is the first sample of its row of the table, it adds all samples of
 * that row, in order. */
__global__ void embed_gradient(float *dtable, const float *dout, const int *idx, int B, int D) {
    int j = (int)global_thread(), b = (int)blockIdx.y, row = idx[b];
    if (j >= D || row < 0)
        return;
    for (int before = 0; before < b; before++)
        if (idx[before] == row)
            return;
    float *to = dtable + (size_t)row * (size_t)D + j, sum = *to;
    for (int i = b; i < B; i++)
        if (idx[i] == row)
            sum += dout[(size_t)i * (size_t)D + j];
    *to = sum;
}

void ds_cuda_timestep_embedding(ds_device *dev, float *out, const float *t, int B, int dim,
                                float max_period, int shift) {
    int half = dim / 2;
    DS_ASSERT(dim % 2 == 0 && half > shift);
    ds_cuda_launch(ds_cuda_begin(dev), timestep, cover((size_t)B * (size_t)half), BLOCK, 0, out, t,
                   B, half, log((double)max_period), shift);
}

void ds_cuda_silu_forward(ds_device *dev, float *out, const float *x, size_t n) {
    ds_cuda_launch(ds_cuda_begin(dev), silu, cover(n), BLOCK, 0, out, x, n);
}

void ds_cuda_silu_backward(ds_device *dev, float *dx, const float *dout, const float *x, size_t n) {
    ds_cuda_launch(ds_cuda_begin(dev), silu_slope, cover(n), BLOCK, 0, dx, dout, x, n);
}

void ds_cuda_embedding_forward(ds_device *dev, float *out, const float *table, const int *idx,
                               int B, int D) {
    size_t n = (size_t)B * (size_t)D;
    ds_cuda_launch(ds_cuda_begin(dev), embed, cover(n), BLOCK, 0, out, table, idx, D, n);
}

void ds_cuda_embedding_backward(ds_device *dev, float *dtable, const float *dout, const int *idx,
                                int B, int D) {
    DS_ASSERT(B <= 65535);
    ds_cuda_launch(ds_cuda_begin(dev), embed_gradient, dim3(cover((size_t)D), (unsigned)B), BLOCK,
                   0, dtable, dout, idx, B, D);
}

/* Bound by its bytes, 2 layers B D 4: at B = 64 of DiT-XL/2 99 MB. */
void ds_cuda_embedding_take(ds_device *dev, float *out, const float *table, const int *idx,
                            int layers, int rows, int B, int D) {
    dim3 grid = cover_rows(ds_ceil_div((size_t)D, GROUP), (size_t)B, BLOCK);
    grid.z = (unsigned)(layers < 65535 ? layers : 65535);
    by_alignment(aligned4(out, D) && aligned4(table, D), [&](auto vec) {
        ds_cuda_launch(ds_cuda_begin(dev), take<decltype(vec)::value>, grid, BLOCK, 0, out, table,
                       idx, layers, rows, B, D);
    });
}
