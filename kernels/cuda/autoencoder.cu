/* kernels/cuda/autoencoder.cu - normalisation over groups, frames, wide attention: f32, NHWC, one
 * picture. */
#include "kernels/cuda/four.h"

enum { BLOCK = 256 };

/* ---------------------------------------------------------------- group normalisation
 * Two passes of fixed order, in double: sums of pieces of some pixels, one thread for each channel
 * of a piece (neighbours read neighbours); then one block a group adds the pieces.  How long a
 * piece is depends on the size of the picture alone.  One read of x. */

struct moments {
    double sum, square;
};

__global__ void norm_pieces(moments *piece, const float *x, size_t n, int each, int pixels, int C) {
    size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= n)
        return;
    int first = (int)(at / (size_t)C) * each, left = pixels - first < each ? pixels - first : each;
    const float *p = x + (size_t)first * (size_t)C + at % (size_t)C;
    moments m = {0, 0};
#pragma unroll 8
    for (int i = 0; i < left; i++) {
        double v = (double)p[(size_t)i * (size_t)C];
        m.sum += v;
        m.square = fma(v, v, m.square);
    }
    piece[at] = m;
}

__global__ void norm_groups(float *scale, float *shift, const moments *piece, const float *gamma,
                            const float *beta, float eps, int pieces, int pixels, int C) {
    DS_SHARED(double, room);
    int wide = C / (int)gridDim.x, first = (int)blockIdx.x * wide;
    double sum = 0, square = 0, n = (double)pixels * wide;
    for (int i = (int)threadIdx.x; i < pieces * wide; i += BLOCK) {
        moments m = piece[(size_t)(i / wide) * (size_t)C + (size_t)(first + i % wide)];
        sum += m.sum;
        square += m.square;
    }
    sum = ds_block_sum(sum, room);
    square = ds_block_sum(square, room);
    double mean = sum / n, var = square / n - mean * mean;
    double rstd = 1 / sqrt((var > 0 ? var : 0) + (double)eps);
    for (int c = first + (int)threadIdx.x; c < first + wide; c += BLOCK) {
        double a = (double)gamma[c] * rstd;
        scale[c] = (float)a;
        shift[c] = (float)((double)beta[c] - mean * a);
    }
}

void ds_cuda_group_norm_affine(ds_device *dev, float *scale, float *shift, const float *x,
                               const float *gamma, const float *beta, int groups, float eps,
                               int pixels, int C) {
    ds_cuda *c = ds_cuda_begin(dev);
    DS_ASSERT(groups > 0 && C % groups == 0 && pixels > 0);
    int each = pixels <= 16384 ? 32 : 128, pieces = ds_ceil_div((size_t)pixels, (size_t)each);
    size_t n = (size_t)pieces * (size_t)C;
    moments *piece = (moments *)ds_cuda_scratch(c, n * sizeof *piece);
    ds_cuda_launch(c, norm_pieces, dim3((unsigned)ds_ceil_div(n, BLOCK)), dim3(BLOCK), 0, piece, x,
                   n, each, pixels, C);
    ds_cuda_launch(c, norm_groups, dim3((unsigned)groups), dim3(BLOCK), 32 * sizeof(double), scale,
                   shift, piece, gamma, beta, eps, pieces, pixels, C);
}

/* ---------------------------------------------------------------- frames
 * One thread for 4 channels of an output pixel: a number is read once for each time it is written,
 * from the caches. */

struct frame_shape {
    int silu, zoom, rows, width, C, left, right;
};

__device__ static inline float framed(float u, float scale, float shift, int affine, int silu) {
    if (affine)
        u = fmaf(u, scale, shift);
    return silu ? u / (1.0f + expf(-u)) : u;
}

template <bool VEC>
__global__ void frame(float *y, const float *x, const float *scale, const float *shift,
                      frame_shape f) {
    int groups = (f.C + GROUP - 1) / GROUP, wide = f.left + f.width * f.zoom + f.right;
    int at = (int)(blockIdx.x * blockDim.x + threadIdx.x), pixel = at / groups;
    if (pixel >= wide)
        return;
    int c = at % groups * GROUP, left = f.C - c, column = pixel - f.left;
    bool inside = column >= 0 && column < f.width * f.zoom;
    four a = {}, b = {};
    if (scale) {
        a = load4<false>(scale + c, left);
        b = load4<false>(shift + c, left);
    }
    for (int row = (int)blockIdx.y; row < f.rows * f.zoom; row += (int)gridDim.y) {
        size_t from =
            (size_t)(row / f.zoom) * (size_t)f.width + (size_t)(inside ? column / f.zoom : 0);
        size_t to = (size_t)row * (size_t)wide + (size_t)pixel;
        four v = {};
        if (inside)
            v = load4<VEC>(x + from * (size_t)f.C + c, left);
#pragma unroll
        for (int i = 0; i < GROUP; i++)
            v.v[i] = inside ? framed(v.v[i], a.v[i], b.v[i], scale != NULL, f.silu) : 0.0f;
        store4<VEC>(y + to * (size_t)f.C + c, v, left);
    }
}

void ds_cuda_frame_forward(ds_device *dev, float *y, const float *x, const float *scale,
                           const float *shift, int silu, int zoom, int rows, int width, int C,
                           int left, int right) {
    ds_cuda *c = ds_cuda_begin(dev);
    DS_ASSERT(zoom > 0 && left >= 0 && right >= 0 && C > 0);
    frame_shape f = {silu, zoom, rows, width, C, left, right};
    size_t row = (size_t)(left + width * zoom + right) * (size_t)((C + GROUP - 1) / GROUP);
    DS_ASSERT(row < INT32_MAX - BLOCK);
    by_alignment(aligned4(x, C) && aligned4(y, C), [&](auto vec) {
        ds_cuda_launch(c, frame<decltype(vec)::value>,
                       cover_rows(row, (size_t)rows * (size_t)zoom, BLOCK), dim3(BLOCK), 0, y, x,
                       scale, shift, f);
    });
}

/* ---------------------------------------------------------------- wide attention
 * A head as wide as the picture's features (512) has no room in registers: scores of a block of
 * queries go to scratch, PIECE_BYTES at most, between two library products.  (T,T) is never there
 * for large T. */

/* Row blockIdx.x of s (=) its softmax, scores times `scale`.  One pass for maximum and sum, one for
 * the result: 2 reads, 1 write. */
__global__ void softmax_rows(float *s, float scale, int T) {
    DS_SHARED(float, room);
    float *row = s + (size_t)blockIdx.x * (size_t)T, top = -INFINITY, sum = 0;
    for (int i = (int)threadIdx.x; i < T; i += BLOCK) {
        float x = row[i] * scale, most = fmaxf(top, x);
        sum = sum * expf(top - most) + expf(x - most);
        top = most;
    }
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    float most = ds_warp_max(top);
    if (lane == 0)
        room[32 + warp] = most;
    __syncthreads();
    most = ds_warp_max(lane < BLOCK / 32 ? room[32 + lane] : -INFINITY);
    float all = ds_block_sum(sum > 0 ? sum * expf(top - most) : 0.0f, room);
    for (int i = (int)threadIdx.x; i < T; i += BLOCK)
        row[i] = expf(row[i] * scale - most) / all;
}

void ds_cuda_attention_wide(ds_device *dev, float *out, const float *q, const float *k,
                            const float *v, int T, int D) {
    ds_cuda *c = ds_cuda_begin(dev);
    if (T == 0)
        return;
    size_t row_bytes = (size_t)T * sizeof(float);
    size_t at_once = row_bytes < PIECE_BYTES ? PIECE_BYTES / row_bytes : 1;
    int queries = at_once < (size_t)T ? (int)at_once : T;
    float *s = (float *)ds_cuda_scratch(c, (size_t)queries * row_bytes);
    float scale = (float)(1 / sqrt((double)D));
    for (int first = 0; first < T; first += queries) {
        size_t at = (size_t)first * (size_t)D;
        ds_gemm score = {}, mix = {};
        score.m = mix.m = T - first < queries ? T - first : queries;
        score.ab = score.d = mix.ab = mix.d = DS_LIB_F32;
        score.exact = mix.exact = 1;
        score.n = score.ldd = T;
        score.k = score.lda = score.ldb = D;
        score.tb = 1;
        mix.n = mix.ldb = mix.ldd = D;
        mix.k = mix.lda = T;
        ds_lib_gemm(c, &score, s, q + at, k);
        ds_cuda_launch(c, softmax_rows, dim3((unsigned)score.m), dim3(BLOCK), 64 * sizeof(float), s,
                       scale, T);
        ds_lib_gemm(c, &mix, out + at, s, v);
    }
}
