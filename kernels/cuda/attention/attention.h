/* kernels/cuda/attention/attention.h - what the files of the attention share.
 *
 * attention.cu       the ops: cuDNN first, else by type and head size one of
 * attention_flash.cu   forward, bf16 products of the tensor cores
 * attention_grad.cu    backward, the same
 * attention_plain.cu   both, exact f32 products, any head size up to DS_ATTENTION_WIDEST
 *
 * One "head" is the T tokens of one head of one sample; heads are independent, so a sample's bytes
 * do not depend on its neighbours.  No T x T matrix is ever in memory: blocks of queries walk over
 * tiles of keys, or blocks of keys over tiles of queries.
 *
 * The tensor-core kernels use tiles of TILE rows of bf16 in shared memory.  A row of STRIDE
 * elements holds one head's D/H numbers, zeros up to a multiple of 16, and 8 more that nobody
 * reads: STRIDE is an odd number of 16 bytes, so the eight rows of a fragment lie in different
 * banks.
 */
#ifndef DS_KERNELS_CUDA_ATTENTION_ATTENTION_H
#define DS_KERNELS_CUDA_ATTENTION_ATTENTION_H

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/rt_tile.h"

#include <type_traits>

enum { DS_ATTENTION_WIDEST = 512 };

struct ds_heads {
    int B, T, D, H, hd;  /* hd = D / H */
    int aligned;         /* all activations may be read 16 bytes at a time */
    float scale, scale2; /* hd^-0.5, and times log2 e: exp(scale s) = 2^(scale2 s) */
};

/* Bytes of shared memory that a block can have.  Source: CUDA programming guide, compute
 * capabilities. */
inline size_t ds_most_shared(int sm) {
    if (sm >= 90 && sm < 120)
        return (size_t)227 << 10;
    return (size_t)(sm == 80 || sm == 87 ? 163 : 99) << 10;
}

/* Do the tensor-core kernels take this head size?  Beyond 72 they need 104 KB of shared memory. */
inline bool ds_attention_tiled(int hd, int sm) {
    return hd % 8 == 0 && hd <= (ds_most_shared(sm) > ((size_t)105 << 10) ? 128 : 72);
}

void ds_attention_flash_forward(ds_cuda *c, ds_bf16 *out, float *lse, const ds_bf16 *qkv,
                                const ds_heads &a);
void ds_attention_flash_backward(ds_cuda *c, ds_bf16 *dqkv, const ds_bf16 *dout, const ds_bf16 *out,
                                 const float *lse, const ds_bf16 *qkv, const ds_heads &a);

/* T: float or ds_bf16 */
template <class T>
void ds_attention_plain_forward(ds_cuda *c, T *out, float *lse, const T *qkv, const ds_heads &a);
template <class T>
void ds_attention_plain_backward(ds_cuda *c, T *dqkv, const T *dout, const T *out, const float *lse,
                                 const T *qkv, const ds_heads &a);

/* ---------------------------------------------------------------- tiles (device) */

enum { ATTENTION_THREADS = 128, ATTENTION_WARPS = ATTENTION_THREADS / 32 };
enum { TILE = 64 };

/* Head sizes that kernels are made for: a head of 40 is computed as one of 64 with zeros. */
template <int HD> struct ds_head_size {
    static constexpr int STEPS = (HD + 15) / 16; /* of a product over the head */
    static constexpr int COLUMNS = HD / 8;       /* groups of eight in a result */
    static constexpr int STRIDE = STEPS * 16 + 8;
};

/* Where token 0 of a head begins in an array of `parts` x D numbers a token. */
__device__ inline size_t ds_head_at(const ds_heads &a, int bh, int parts, int part) {
    int b = bh / a.H, h = bh % a.H;
    return ((size_t)b * (size_t)a.T * (size_t)parts + (size_t)part) * (size_t)a.D +
           (size_t)h * (size_t)a.hd;
}

/* ROWS rows of a tile (=) rows of src, ld apart; zeros beyond `left` rows and hd columns.  The
 * whole block takes part; the copies are of the group that is open. */
template <int HD, int ROWS>
__device__ inline void ds_tile_load(ds_bf16 *tile, const ds_bf16 *src, size_t ld, int left,
                                    const ds_heads &a) {
    constexpr int CHUNKS = ds_head_size<HD>::STEPS * 2, STRIDE = ds_head_size<HD>::STRIDE;
    static_assert(ROWS * CHUNKS % ATTENTION_THREADS == 0, "each thread copies as many chunks");
    int row = (int)threadIdx.x / CHUNKS, chunk = (int)threadIdx.x % CHUNKS;
    /* Unrolled, its addresses would be kept in registers that the products need. */
#pragma unroll 1
    for (int i = 0; i < ROWS * CHUNKS / ATTENTION_THREADS; i++) {
        bool on = row < left && chunk * 8 < a.hd;
        const ds_bf16 *p = src + (on ? (size_t)row * ld + (size_t)(chunk * 8) : 0);
        ds_bf16 *to = tile + row * STRIDE + chunk * 8;
        if (a.aligned) {
            ds_copy16(to, p, on);
        } else {
#pragma unroll
            for (int j = 0; j < 8; j++)
                to[j] = on ? p[j] : ds_bf16{0};
        }
        row += ATTENTION_THREADS / CHUNKS;
        chunk += ATTENTION_THREADS % CHUNKS;
        if (chunk >= CHUNKS)
            chunk -= CHUNKS, row++;
    }
}

/* Rows of dst (=) rows of a tile that this warp wrote, at most `left` of ROWS.  One warp. */
template <int HD, int ROWS>
__device__ inline void ds_tile_store(ds_bf16 *dst, size_t ld, const ds_bf16 *tile, int left,
                                     const ds_heads &a) {
    constexpr int CHUNKS = ds_head_size<HD>::COLUMNS, STRIDE = ds_head_size<HD>::STRIDE;
    for (int at = (int)threadIdx.x % 32; at < ROWS * CHUNKS; at += 32) {
        int row = at / CHUNKS, from = at % CHUNKS * 8;
        if (row >= left || from >= a.hd)
            continue;
        const ds_bf16 *p = tile + row * STRIDE + from;
        ds_bf16 *to = dst + (size_t)row * ld + (size_t)from;
        if (a.aligned) {
            *reinterpret_cast<ds_word4 *>(to) = *reinterpret_cast<const ds_word4 *>(p);
        } else {
#pragma unroll
            for (int j = 0; j < 8; j++)
                to[j] = p[j];
        }
    }
}

/* The 16 x 16 numbers of a tile at (row, column) as the left side of ds_mma_bf16; or, transposed,
 * as two right sides r[0..1], r[2..3]: rows of the tile are the depth of the product, and the
 * columns are those of the result. */
template <int STRIDE>
__device__ inline void ds_tile_left(uint32_t r[4], const ds_bf16 *tile, int row, int column) {
    int lane = (int)threadIdx.x % 32;
    ds_ldmatrix4(r, tile + (row + lane % 16) * STRIDE + column + lane / 16 * 8);
}

template <int STRIDE>
__device__ inline void ds_tile_right_trans(uint32_t r[4], const ds_bf16 *tile, int row,
                                           int column) {
    int lane = (int)threadIdx.x % 32;
    ds_ldmatrix4_trans(r, tile + (row + lane % 16) * STRIDE + column + lane / 16 * 8);
}

/* Two right sides: rows of the tile are columns of the result, columns of the tile its depth. */
template <int STRIDE>
__device__ inline void ds_tile_right(uint32_t r[4], const ds_bf16 *tile, int row, int column) {
    int lane = (int)threadIdx.x % 32;
    ds_ldmatrix4(r, tile + (row + lane / 16 * 8 + lane % 8) * STRIDE + column + lane / 8 % 2 * 8);
}

/* Two results of eight columns side by side, as the left side of the next product. */
__device__ inline void ds_left_of(uint32_t r[4], const float x[4], const float y[4]) {
    r[0] = ds_pack_bf16(x[0], x[1]);
    r[1] = ds_pack_bf16(x[2], x[3]);
    r[2] = ds_pack_bf16(y[0], y[1]);
    r[3] = ds_pack_bf16(y[2], y[3]);
}

/* sum (16 x HD) += left (16 x 16) times rows [row, row+16) of a tile. */
template <int HD>
__device__ inline void ds_tile_add(float sum[ds_head_size<HD>::COLUMNS][4], const uint32_t left[4],
                                   const ds_bf16 *tile, int row) {
    constexpr int COLUMNS = ds_head_size<HD>::COLUMNS;
#pragma unroll
    for (int n = 0; n < COLUMNS; n += 2) {
        uint32_t r[4];
        ds_tile_right_trans<ds_head_size<HD>::STRIDE>(r, tile, row, n * 8);
        ds_mma_bf16(sum[n], left, r);
        if (n + 1 < COLUMNS)
            ds_mma_bf16(sum[n + 1], left, r + 2);
    }
}

/* 16 rows of a tile (=) factor[0] times rows g, factor[1] times rows g+8 of a result. */
template <int HD>
__device__ inline void ds_tile_put(ds_bf16 *tile, const float sum[ds_head_size<HD>::COLUMNS][4],
                                   float low, float high) {
    constexpr int STRIDE = ds_head_size<HD>::STRIDE;
    int lane = (int)threadIdx.x % 32;
    ds_bf16 *p = tile + lane / 4 * STRIDE + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < ds_head_size<HD>::COLUMNS; n++) {
        uint32_t first = ds_pack_bf16(sum[n][0] * low, sum[n][1] * low);
        uint32_t second = ds_pack_bf16(sum[n][2] * high, sum[n][3] * high);
        *reinterpret_cast<uint32_t *>(p + n * 8) = first;
        *reinterpret_cast<uint32_t *>(p + 8 * STRIDE + n * 8) = second;
    }
}

/* f(HD) with the head size that hd is computed as. */
template <class F> inline void ds_attention_by_size(int hd, F f) {
    if (hd <= 32)
        f(std::integral_constant<int, 32>{});
    else if (hd <= 64)
        f(std::integral_constant<int, 64>{});
    else if (hd <= 72)
        f(std::integral_constant<int, 72>{});
    else
        f(std::integral_constant<int, 128>{});
}

#endif
