/* kernels/cuda/attention/attention_flash.cu - attention forward with bf16 tensor cores.
 *
 * A block of four warps takes 64 MT queries of one head and walks over the keys in tiles of 64; a
 * warp owns 16 MT queries, so softmax needs no other warp.  Per tile, with m the largest score so
 * far and sums O, l relative to it (Milakov & Gimelshein 2018; Dao 2023, FlashAttention-2):
 *   S = Q K^T,  m' = max(m, rows of S),  P = exp(scale (S - m')),  r = exp(scale (m - m')),
 *   l = r l + sums of P,  O = r O + P V;      at the end  out = O / l,  lse = scale m + ln l.
 * Q, S and O stay in registers: the result S of one product is, rounded to bf16, already laid out
 * as the left side of the next.  The next tile is copied while this one is computed.
 * exp is 2^(S c - m c), c = scale log2 e: one fused multiply-add and one instruction a score.
 *
 * With 32 queries a warp (MT = 2), a fragment of K or V read from shared memory (512 bytes, 4
 * cycles) serves 4 products of 2048 multiply-adds: the tensor cores, not shared memory, are the
 * limit.  Heads of more than 72 have no registers for that: MT = 1.
 */
#include "kernels/cuda/attention/attention.h"

template <int HD, int MT> struct flash {
    using size = ds_head_size<HD>;
    static constexpr int QUERIES = 64 * MT;
    static constexpr size_t BYTES =
        sizeof(ds_bf16) * (size_t)(QUERIES + 4 * TILE) * (size_t)size::STRIDE;

    /* One warp's rows: two of each of its MT fragments a thread, 16 f + lane / 4 (+ 8). */
    float sum[MT][size::COLUMNS][4]; /* O */
    float top[MT][2], all[MT][2];    /* m; l, of this thread's columns */
    float s[MT][TILE / 8][4];

    __device__ void start() {
#pragma unroll
        for (int f = 0; f < MT; f++) {
            top[f][0] = top[f][1] = -INFINITY;
            all[f][0] = all[f][1] = 0;
#pragma unroll
            for (int n = 0; n < size::COLUMNS; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    sum[f][n][i] = 0;
        }
    }

    /* s (=) Q K^T, minus infinity from column `left` on; rows: the warp's queries */
    __device__ void scores(const ds_bf16 *rows, const ds_bf16 *keys, int left) {
#pragma unroll
        for (int f = 0; f < MT; f++)
#pragma unroll
            for (int n = 0; n < TILE / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    s[f][n][i] = 0;
#pragma unroll
        for (int k = 0; k < size::STEPS; k++) {
            uint32_t q[MT][4];
#pragma unroll
            for (int f = 0; f < MT; f++)
                ds_tile_left<size::STRIDE>(q[f], rows, f * 16, k * 16);
#pragma unroll
            for (int n = 0; n < TILE / 8; n += 2) {
                uint32_t r[4];
                ds_tile_right<size::STRIDE>(r, keys, n * 8, k * 16);
#pragma unroll
                for (int f = 0; f < MT; f++) {
                    ds_mma_bf16(s[f][n], q[f], r);
                    ds_mma_bf16(s[f][n + 1], q[f], r + 2);
                }
            }
        }
        if (left >= TILE)
            return;
        int column = (int)threadIdx.x % 4 * 2;
#pragma unroll
        for (int n = 0; n < TILE / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (n * 8 + column + i % 2 >= left)
#pragma unroll
                    for (int f = 0; f < MT; f++)
                        s[f][n][i] = -INFINITY;
    }

    /* Row lane/4 + 8 h of fragment f: s becomes P, and O and l are made relative to the new m. */
    __device__ void softmax_row(int f, int h, float c) {
        float most = s[f][0][2 * h];
#pragma unroll
        for (int n = 0; n < TILE / 8; n++)
            most = fmaxf(most, fmaxf(s[f][n][2 * h], s[f][n][2 * h + 1]));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
        most = fmaxf(most, top[f][h]);
        float before = ds_exp2((top[f][h] - most) * c), offset = most * c, sums = 0;
        top[f][h] = most;
#pragma unroll
        for (int n = 0; n < TILE / 8; n++)
#pragma unroll
            for (int i = 2 * h; i < 2 * h + 2; i++) {
                s[f][n][i] = ds_exp2(fmaf(s[f][n][i], c, -offset));
                sums += s[f][n][i];
            }
        all[f][h] = all[f][h] * before + sums;
#pragma unroll
        for (int n = 0; n < size::COLUMNS; n++) {
            sum[f][n][2 * h] *= before;
            sum[f][n][2 * h + 1] *= before;
        }
    }

    /* O += P V */
    __device__ void add_values(const ds_bf16 *values) {
#pragma unroll
        for (int k = 0; k < TILE / 16; k++) {
            uint32_t p[MT][4];
#pragma unroll
            for (int f = 0; f < MT; f++)
                ds_left_of(p[f], s[f][2 * k], s[f][2 * k + 1]);
#pragma unroll
            for (int n = 0; n < size::COLUMNS; n += 2) {
                uint32_t r[4];
                ds_tile_right_trans<size::STRIDE>(r, values, k * 16, n * 8);
#pragma unroll
                for (int f = 0; f < MT; f++) {
                    ds_mma_bf16(sum[f][n], p[f], r);
                    if (n + 1 < size::COLUMNS)
                        ds_mma_bf16(sum[f][n + 1], p[f], r + 2);
                }
            }
        }
    }

    /* The warp's rows of a tile (=) O / l; lse (first row of the warp) where not NULL. */
    __device__ void finish(ds_bf16 *rows, float *lse, int left, float scale) {
        int lane = (int)threadIdx.x % 32;
#pragma unroll
        for (int f = 0; f < MT; f++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                all[f][h] += __shfl_xor_sync(0xffffffffu, all[f][h], 1);
                all[f][h] += __shfl_xor_sync(0xffffffffu, all[f][h], 2);
                int row = f * 16 + h * 8 + lane / 4;
                if (lse && lane % 4 == 0 && row < left)
                    lse[row] = fmaf(top[f][h], scale, logf(all[f][h]));
            }
            ds_tile_put<HD>(rows + f * 16 * size::STRIDE, sum[f], 1.0f / all[f][0],
                            1.0f / all[f][1]);
        }
        __syncwarp();
    }
};

template <int HD, int MT>
__global__ void __launch_bounds__(ATTENTION_THREADS, 2)
    attention_flash(ds_bf16 *out, float *lse, const ds_bf16 *qkv, ds_heads a, int blocks) {
    using kernel = flash<HD, MT>;
    constexpr int STRIDE = kernel::size::STRIDE;
    DS_SHARED(ds_bf16, shared);
    ds_bf16 *queries = shared, *keys = queries + kernel::QUERIES * STRIDE,
            *values = keys + 2 * TILE * STRIDE;
    int bh = (int)blockIdx.x / blocks, first = (int)blockIdx.x % blocks * kernel::QUERIES;
    int warp = (int)threadIdx.x / 32, mine = warp * 16 * MT;
    size_t ld = 3 * (size_t)a.D, D = (size_t)a.D;
    const ds_bf16 *q = qkv + ds_head_at(a, bh, 3, 0);
    ds_tile_load<HD, kernel::QUERIES>(queries, q + (size_t)first * ld, ld, a.T - first, a);
    ds_tile_load<HD, TILE>(keys, q + D, ld, a.T, a);
    ds_tile_load<HD, TILE>(values, q + 2 * D, ld, a.T, a);
    ds_copy_commit();
    kernel my;
    my.start();
    for (int key = 0, stage = 0; key < a.T; key += TILE, stage ^= 1) {
        int next = key + TILE;
        if (next < a.T) {
            const ds_bf16 *p = q + (size_t)next * ld;
            int to = (stage ^ 1) * TILE * STRIDE;
            ds_tile_load<HD, TILE>(keys + to, p + D, ld, a.T - next, a);
            ds_tile_load<HD, TILE>(values + to, p + 2 * D, ld, a.T - next, a);
        }
        ds_copy_commit();
        ds_copy_wait(1);
        __syncthreads();
        my.scores(queries + mine * STRIDE, keys + stage * TILE * STRIDE, a.T - key);
#pragma unroll
        for (int f = 0; f < MT; f++) {
            my.softmax_row(f, 0, a.scale2);
            my.softmax_row(f, 1, a.scale2);
        }
        my.add_values(values + stage * TILE * STRIDE);
        __syncthreads();
    }
    int row = first + mine, left = a.T - row;
    my.finish(queries + mine * STRIDE, lse ? lse + (size_t)bh * (size_t)a.T + row : NULL, left,
              a.scale);
    ds_tile_store<HD, 16 * MT>(out + ds_head_at(a, bh, 1, 0) + (size_t)row * D, D,
                               queries + mine * STRIDE, left, a);
}

template <int HD, int MT>
static void launch(ds_cuda *c, ds_bf16 *out, float *lse, const ds_bf16 *qkv, const ds_heads &a) {
    int blocks = ds_ceil_div((size_t)a.T, flash<HD, MT>::QUERIES);
    ds_cuda_launch(c, attention_flash<HD, MT>, dim3((unsigned)(blocks * a.B * a.H)),
                   dim3(ATTENTION_THREADS), flash<HD, MT>::BYTES, out, lse, qkv, a, blocks);
}

void ds_attention_flash_forward(ds_cuda *c, ds_bf16 *out, float *lse, const ds_bf16 *qkv,
                                const ds_heads &a) {
    ds_attention_by_size(a.hd, [&](auto size) {
        constexpr int HD = decltype(size)::value, MT = HD <= 72 ? 2 : 1;
        if (a.T <= 64) /* half the block would have nothing to do */
            launch<HD, 1>(c, out, lse, qkv, a);
        else
            launch<HD, MT>(c, out, lse, qkv, a);
    });
}
