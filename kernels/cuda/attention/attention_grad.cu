/* kernels/cuda/attention/attention_grad.cu - attention backward with bf16 tensor cores.
 *
 *   P = exp(scale Q K^T - lse),  delta = rows of dO * O,  dS = P (dO V^T - delta),
 *   dQ = scale dS K,  dK = scale dS^T Q,  dV = P^T dO.        Source: docs/math.md
 *
 * Two kernels, so that every sum has one owner and a fixed order without atomics; the price is
 * that Q K^T and dO V^T are computed twice (7 products instead of 5):
 *   attention_grad_queries  a block owns queries and walks over tiles of keys: delta, dQ
 *   attention_grad_keys     a block owns 64 keys and walks over tiles of queries: dK, dV.  It
 *                           computes S^T = K Q^T, so that P^T and dS^T are, as they come out of
 *                           the product, the left sides of the next ones.
 * What a warp owns (Q, dO or K, V, and the sums) stays in registers.  P and dS are rounded to bf16
 * for the products.  The next tile is copied while this one is computed.
 */
#include "kernels/cuda/attention/attention.h"

#define LOG2E 1.44269504f

template <int FRAGMENTS, int N> __device__ static inline void clear(float (&x)[FRAGMENTS][N][4]) {
#pragma unroll
    for (int f = 0; f < FRAGMENTS; f++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                x[f][n][i] = 0;
}

/* x, y (16 F x 16) (=) left_x, left_y times the transpose of 16 rows of tiles x and y */
template <int HD, int F>
__device__ static inline void two_products(float (&x)[F][2][4], float (&y)[F][2][4],
                                           const uint32_t (&left_x)[F][ds_head_size<HD>::STEPS][4],
                                           const uint32_t (&left_y)[F][ds_head_size<HD>::STEPS][4],
                                           const ds_bf16 *tile_x, const ds_bf16 *tile_y, int row) {
    clear(x);
    clear(y);
#pragma unroll
    for (int k = 0; k < ds_head_size<HD>::STEPS; k++) {
        uint32_t rx[4], ry[4];
        ds_tile_right<ds_head_size<HD>::STRIDE>(rx, tile_x, row, k * 16);
        ds_tile_right<ds_head_size<HD>::STRIDE>(ry, tile_y, row, k * 16);
#pragma unroll
        for (int f = 0; f < F; f++) {
            ds_mma_bf16(x[f][0], left_x[f][k], rx);
            ds_mma_bf16(x[f][1], left_x[f][k], rx + 2);
            ds_mma_bf16(y[f][0], left_y[f][k], ry);
            ds_mma_bf16(y[f][1], left_y[f][k], ry + 2);
        }
    }
}

/* ---------------------------------------------------------------- dQ and delta */

template <int HD, int MT> struct grad_queries {
    using size = ds_head_size<HD>;
    static constexpr int QUERIES = 64 * MT, STRIDE = size::STRIDE;
    static constexpr size_t BYTES =
        sizeof(ds_bf16) * (size_t)(2 * QUERIES + 4 * TILE) * (size_t)STRIDE +
        sizeof(float) * QUERIES;

    uint32_t q[MT][size::STEPS][4], g[MT][size::STEPS][4];
    float sum[MT][size::COLUMNS][4];
    float offset[MT][2], delta[MT][2]; /* lse log2 e */

    __device__ void load(const ds_bf16 *queries, const ds_bf16 *grads, const float *deltas,
                         const float *lse, int left) {
        int row = (int)threadIdx.x % 32 / 4;
        clear(sum);
#pragma unroll
        for (int f = 0; f < MT; f++) {
#pragma unroll
            for (int k = 0; k < size::STEPS; k++) {
                ds_tile_left<STRIDE>(q[f][k], queries, f * 16, k * 16);
                ds_tile_left<STRIDE>(g[f][k], grads, f * 16, k * 16);
            }
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int at = f * 16 + h * 8 + row;
                offset[f][h] = at < left ? lse[at] * LOG2E : 0.0f;
                delta[f][h] = deltas[at];
            }
        }
    }

    /* sum += dS K for keys [row, row+16) of the tile, of which the first `left` are there */
    __device__ void step(const ds_bf16 *keys, const ds_bf16 *values, int row, int left, float c) {
        float s[MT][2][4], dp[MT][2][4];
        two_products<HD, MT>(s, dp, q, g, keys, values, row);
        int column = row + (int)threadIdx.x % 4 * 2;
#pragma unroll
        for (int f = 0; f < MT; f++)
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float p = ds_exp2(fmaf(s[f][n][i], c, -offset[f][i / 2]));
                    bool on = column + n * 8 + i % 2 < left;
                    s[f][n][i] = on ? p * (dp[f][n][i] - delta[f][i / 2]) : 0.0f;
                }
        uint32_t ds[MT][4];
#pragma unroll
        for (int f = 0; f < MT; f++)
            ds_left_of(ds[f], s[f][0], s[f][1]);
#pragma unroll
        for (int n = 0; n < size::COLUMNS; n += 2) {
            uint32_t r[4];
            ds_tile_right_trans<STRIDE>(r, keys, row, n * 8);
#pragma unroll
            for (int f = 0; f < MT; f++) {
                ds_mma_bf16(sum[f][n], ds[f], r);
                if (n + 1 < size::COLUMNS)
                    ds_mma_bf16(sum[f][n + 1], ds[f], r + 2);
            }
        }
    }
};

/* room, delta (ROWS) (=) <dout, out> of the warp's rows, a lane each; dout from its tile. */
template <int HD, int ROWS>
__device__ static inline void row_deltas(float *room, float *delta, const ds_bf16 *grads,
                                         const ds_bf16 *out, const ds_heads &a, int left) {
    int lane = (int)threadIdx.x % 32;
    float sum = 0;
    for (int d = 0; lane < ROWS && lane < left && d < a.hd; d += 8) {
        float x[8], y[8];
        const ds_bf16 *p = out + (size_t)lane * (size_t)a.D + (size_t)d;
        ds_load8<true>(x, grads + lane * ds_head_size<HD>::STRIDE + d, 8);
        if (a.aligned)
            ds_load8<true>(y, p, 8);
        else
            ds_load8<false>(y, p, 8);
#pragma unroll
        for (int i = 0; i < 8; i++)
            sum = fmaf(x[i], y[i], sum);
    }
    if (lane < ROWS) {
        room[lane] = sum;
        if (lane < left)
            delta[lane] = sum;
    }
    __syncwarp();
}

template <int HD, int MT>
__global__ void __launch_bounds__(ATTENTION_THREADS, 2)
    attention_grad_queries(ds_bf16 *dqkv, float *delta, const ds_bf16 *dout, const ds_bf16 *out,
                           const float *lse, const ds_bf16 *qkv, ds_heads a, int blocks) {
    using kernel = grad_queries<HD, MT>;
    constexpr int STRIDE = kernel::STRIDE, QUERIES = kernel::QUERIES, STAGE = TILE * STRIDE;
    DS_SHARED(ds_bf16, shared);
    ds_bf16 *queries = shared, *grads = queries + QUERIES * STRIDE,
            *keys = grads + QUERIES * STRIDE, *values = keys + 2 * STAGE;
    float *deltas = reinterpret_cast<float *>(values + 2 * STAGE);
    int bh = (int)blockIdx.x / blocks, first = (int)blockIdx.x % blocks * QUERIES;
    int mine = (int)threadIdx.x / 32 * 16 * MT, row = first + mine, left = a.T - row;
    size_t ld = 3 * (size_t)a.D, D = (size_t)a.D, head = ds_head_at(a, bh, 3, 0),
           head1 = ds_head_at(a, bh, 1, 0), at = (size_t)bh * (size_t)a.T + (size_t)row;
    const ds_bf16 *q = qkv + head;
    ds_tile_load<HD, QUERIES>(grads, dout + head1 + (size_t)first * D, D, a.T - first, a);
    ds_tile_load<HD, QUERIES>(queries, q + (size_t)first * ld, ld, a.T - first, a);
    ds_copy_commit();
    ds_tile_load<HD, TILE>(keys, q + D, ld, a.T, a);
    ds_tile_load<HD, TILE>(values, q + 2 * D, ld, a.T, a);
    ds_copy_commit();
    ds_copy_wait(1);
    __syncthreads();
    row_deltas<HD, 16 * MT>(deltas + mine, delta + at, grads + mine * STRIDE,
                            out + head1 + (size_t)row * D, a, left);
    kernel my;
    my.load(queries + mine * STRIDE, grads + mine * STRIDE, deltas + mine, lse + at, left);
    for (int key = 0, stage = 0; key < a.T; key += TILE, stage ^= 1) {
        int next = key + TILE, to = (stage ^ 1) * STAGE;
        if (next < a.T) {
            const ds_bf16 *p = q + (size_t)next * ld;
            ds_tile_load<HD, TILE>(keys + to, p + D, ld, a.T - next, a);
            ds_tile_load<HD, TILE>(values + to, p + 2 * D, ld, a.T - next, a);
        }
        ds_copy_commit();
        ds_copy_wait(1);
        __syncthreads();
#pragma unroll 1
        for (int i = 0; i < TILE; i += 16)
            my.step(keys + stage * STAGE, values + stage * STAGE, i, a.T - key, a.scale2);
        __syncthreads();
    }
#pragma unroll
    for (int f = 0; f < MT; f++)
        ds_tile_put<HD>(queries + (mine + f * 16) * STRIDE, my.sum[f], a.scale, a.scale);
    __syncwarp();
    ds_tile_store<HD, 16 * MT>(dqkv + head + (size_t)row * ld, ld, queries + mine * STRIDE, left,
                               a);
}

/* ---------------------------------------------------------------- dK and dV */

template <int HD> struct grad_keys {
    using size = ds_head_size<HD>;
    static constexpr int STRIDE = size::STRIDE;
    static constexpr size_t BYTES = sizeof(ds_bf16) * (size_t)(6 * TILE) * (size_t)STRIDE +
                                    sizeof(float) * 2 * ATTENTION_THREADS;

    uint32_t k[1][size::STEPS][4], v[1][size::STEPS][4];
    float dk[1][size::COLUMNS][4], dv[1][size::COLUMNS][4];

    __device__ void load(const ds_bf16 *keys, const ds_bf16 *values) {
        clear(dk);
        clear(dv);
#pragma unroll
        for (int i = 0; i < size::STEPS; i++) {
            ds_tile_left<STRIDE>(k[0][i], keys, 0, i * 16);
            ds_tile_left<STRIDE>(v[0][i], values, 0, i * 16);
        }
    }

    /* Queries [row, row+16) of the tile; offsets: lse log2 e, and behind TILE of them delta. */
    __device__ void step(const ds_bf16 *queries, const ds_bf16 *grads, const float *offsets,
                         int row, float c) {
        float s[1][2][4], dp[1][2][4];
        two_products<HD, 1>(s, dp, k, v, queries, grads, row);
        const float *mine = offsets + row + (int)threadIdx.x % 4 * 2;
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float p = ds_exp2(fmaf(s[0][n][i], c, -mine[n * 8 + i % 2]));
                s[0][n][i] = p;
                dp[0][n][i] = p * (dp[0][n][i] - mine[TILE + n * 8 + i % 2]);
            }
        uint32_t p[4], ds[4];
        ds_left_of(p, s[0][0], s[0][1]);
        ds_left_of(ds, dp[0][0], dp[0][1]);
        ds_tile_add<HD>(dv[0], p, grads, row);
        ds_tile_add<HD>(dk[0], ds, queries, row);
    }
};

/* Thread i < TILE: lse log2 e of query i of a tile, else delta of query i - TILE; first: row of
 * lse and delta where the head begins.  A query that is not there weighs nothing:
 * exp(S - infinity) = 0. */
__device__ static inline float query_offset(const float *lse, const float *delta, int first,
                                            int query, int T) {
    int i = (int)threadIdx.x, at = query + i % TILE;
    if (i < TILE)
        return at < T ? lse[first + at] * LOG2E : INFINITY;
    return at < T ? delta[first + at] : 0.0f;
}

template <int HD>
__global__ void __launch_bounds__(ATTENTION_THREADS, HD <= 72 ? 3 : 2)
    attention_grad_keys(ds_bf16 *dqkv, const ds_bf16 *dout, const float *lse, const float *delta,
                        const ds_bf16 *qkv, ds_heads a, int blocks) {
    using kernel = grad_keys<HD>;
    constexpr int STRIDE = kernel::STRIDE, STAGE = TILE * STRIDE;
    static_assert(ATTENTION_THREADS == 2 * TILE, "a thread for each lse and delta");
    DS_SHARED(ds_bf16, shared);
    ds_bf16 *keys = shared, *values = keys + STAGE, *queries = values + STAGE,
            *grads = queries + 2 * STAGE;
    float *offsets = reinterpret_cast<float *>(grads + 2 * STAGE);
    int bh = (int)blockIdx.x / blocks, first = (int)blockIdx.x % blocks * TILE;
    int mine = (int)threadIdx.x / 32 * 16, row = first + mine;
    size_t ld = 3 * (size_t)a.D, D = (size_t)a.D, head = ds_head_at(a, bh, 3, 0);
    const ds_bf16 *q = qkv + head, *g = dout + ds_head_at(a, bh, 1, 0);
    ds_tile_load<HD, TILE>(keys, q + D + (size_t)first * ld, ld, a.T - first, a);
    ds_tile_load<HD, TILE>(values, q + 2 * D + (size_t)first * ld, ld, a.T - first, a);
    ds_tile_load<HD, TILE>(queries, q, ld, a.T, a);
    ds_tile_load<HD, TILE>(grads, g, D, a.T, a);
    ds_copy_commit();
    offsets[threadIdx.x] = query_offset(lse, delta, bh * a.T, 0, a.T);
    kernel my;
    for (int query = 0, stage = 0; query < a.T; query += TILE, stage ^= 1) {
        int next = query + TILE, other = stage ^ 1;
        float offset = 0;
        if (next < a.T) {
            ds_tile_load<HD, TILE>(queries + other * STAGE, q + (size_t)next * ld, ld, a.T - next,
                                   a);
            ds_tile_load<HD, TILE>(grads + other * STAGE, g + (size_t)next * D, D, a.T - next, a);
            offset = query_offset(lse, delta, bh * a.T, next, a.T);
        }
        ds_copy_commit();
        ds_copy_wait(1);
        __syncthreads();
        if (query == 0)
            my.load(keys + mine * STRIDE, values + mine * STRIDE);
#pragma unroll 1
        for (int i = 0; i < TILE; i += 16)
            my.step(queries + stage * STAGE, grads + stage * STAGE,
                    offsets + stage * ATTENTION_THREADS, i, a.scale2);
        offsets[other * ATTENTION_THREADS + (int)threadIdx.x] = offset;
        __syncthreads();
    }
    ds_tile_put<HD>(keys + mine * STRIDE, my.dk[0], a.scale, a.scale);
    ds_tile_put<HD>(values + mine * STRIDE, my.dv[0], 1, 1);
    __syncwarp();
    ds_bf16 *to = dqkv + head + D + (size_t)row * ld;
    ds_tile_store<HD, 16>(to, ld, keys + mine * STRIDE, a.T - row, a);
    ds_tile_store<HD, 16>(to + D, ld, values + mine * STRIDE, a.T - row, a);
}

template <int HD, int MT>
static void launch_queries(ds_cuda *c, ds_bf16 *dqkv, float *delta, const ds_bf16 *dout,
                           const ds_bf16 *out, const float *lse, const ds_bf16 *qkv,
                           const ds_heads &a) {
    int blocks = ds_ceil_div((size_t)a.T, grad_queries<HD, MT>::QUERIES);
    ds_cuda_launch(c, attention_grad_queries<HD, MT>, dim3((unsigned)(blocks * a.B * a.H)),
                   dim3(ATTENTION_THREADS), grad_queries<HD, MT>::BYTES, dqkv, delta, dout, out,
                   lse, qkv, a, blocks);
}

void ds_attention_flash_backward(ds_cuda *c, ds_bf16 *dqkv, const ds_bf16 *dout, const ds_bf16 *out,
                                 const float *lse, const ds_bf16 *qkv, const ds_heads &a) {
    size_t rows = (size_t)a.B * (size_t)a.H * (size_t)a.T;
    DS_ASSERT(rows <= INT32_MAX);
    float *delta = (float *)ds_cuda_scratch(c, rows * sizeof *delta);
    ds_attention_by_size(a.hd, [&](auto size) {
        constexpr int HD = decltype(size)::value, MT = HD <= 72 ? 2 : 1;
        if (a.T <= 64)
            launch_queries<HD, 1>(c, dqkv, delta, dout, out, lse, qkv, a);
        else
            launch_queries<HD, MT>(c, dqkv, delta, dout, out, lse, qkv, a);
        int blocks = ds_ceil_div((size_t)a.T, TILE);
        ds_cuda_launch(c, attention_grad_keys<HD>, dim3((unsigned)(blocks * a.B * a.H)),
                       dim3(ATTENTION_THREADS), grad_keys<HD>::BYTES, dqkv, dout, lse, delta, qkv,
                       a, blocks);
    });
}
