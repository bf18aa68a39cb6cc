/* kernels/cuda/lowrank.h - skinny products in plain f32 arithmetic: a tile of 32 rows x 256 columns
 * of C P, where C (rows, depth) and P (depth, columns) with a small depth (the rank).
 *
 * Used where the tile itself is read or written anyway, so that eight multiplications an element
 * cost less than its bytes: folding (weight_pack) and the unfolded branch (affiner.cu).  A block of
 * 256 threads; thread (warp w, lane l) owns rows 4w..4w+3 and columns 8l..8l+7 of the tile.
 *
 * Shared memory, for a depth of at most LOW_DEPTH:
 *   panel  P, two planes of four columns each, so that a warp reads 512 bytes in a row without a
 *          bank conflict
 *   coef   C transposed: one 16-byte broadcast gives a warp its four rows
 * Per k: 3 reads of 16 bytes for 32 FMA.
 */
#ifndef DS_KERNELS_CUDA_LOWRANK_H
#define DS_KERNELS_CUDA_LOWRANK_H

#include "kernels/cuda/num.h"

enum { LOW_BLOCK = 256, LOW_ROWS = 32, LOW_COLS = 256, LOW_DEPTH = 32 };

/* Bytes of shared memory for `depth`: panel, then coef. */
static inline size_t ds_low_shared(int depth) {
    size_t d = (size_t)(depth < LOW_DEPTH ? depth : LOW_DEPTH);
    return d * (LOW_COLS + LOW_ROWS) * sizeof(float);
}

/* Where column `col` of the tile lies in row k of the panel. */
__device__ static inline int ds_low_panel_at(int k, int col) {
    return (k * 2 + col % 8 / 4) * (LOW_COLS / 2) + col / 8 * 4 + col % 4;
}

__device__ static inline void ds_low_load4(float v[4], const float *p) {
    ds_word4 w = *reinterpret_cast<const ds_word4 *>(p);
    memcpy(v, &w, sizeof w);
}

/* acc[i][e] += sum_{k < depth} coef[k][4 warp + i] panel[k][8 lane + e], k ascending. */
__device__ static inline void ds_low_product(float acc[4][8], const float *panel, const float *coef,
                                             int depth) {
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
#pragma unroll 2
    for (int k = 0; k < depth; k++) {
        float p[8], c[4];
        ds_low_load4(p, panel + k * LOW_COLS + lane * 4);
        ds_low_load4(p + 4, panel + k * LOW_COLS + LOW_COLS / 2 + lane * 4);
        ds_low_load4(c, coef + k * LOW_ROWS + warp * 4);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int e = 0; e < 8; e++)
                acc[i][e] += c[i] * p[e];
    }
}

#endif
