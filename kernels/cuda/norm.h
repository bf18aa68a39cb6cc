/* kernels/cuda/norm.h - what normalisation (norm.cu) and gates (gate.cu) share: rows four numbers
 * at a time, sums over the tokens of a sample, and ops that wait for the next one.
 *
 * A thread has four neighbouring columns: 16 bytes of f32, 8 of bf16, so a warp's access is one run
 * of 512 or 256 bytes.
 *
 * Sums over the T tokens of a sample (gradients of the modulations) go in two steps of fixed order,
 * whatever the batch: a block sums DS_CHUNK tokens, column by column, into scratch; a second kernel
 * sums the chunks.  The partial sums are 4 / DS_CHUNK bytes a number and sum, a few per cent of
 * what the first kernel moves, and stay in the L2 cache.
 *
 * Joining.  An op here may wait (ds_cuda_pending) for the next one, which then runs in the same
 * kernel:  gate_forward + adaln_forward of its result  (saves reading the residual stream again),
 *          adaln_backward + gate_backward of its dx    (the same for its gradient).
 * Joined or not, the numbers are the same bytes: these files are compiled without contraction
 * (-fmad=false), what is fused is written fmaf.  Thread: that of the device.
 */
#ifndef DS_KERNELS_CUDA_NORM_H
#define DS_KERNELS_CUDA_NORM_H

#include "kernels/cuda/cuda.h"

enum { DS_CHUNK = 16 };

template <class T> struct alignas(4 * sizeof(T)) ds_quad { T v[4]; };

/* p[0..left), at most four, zeros beyond.  VEC: p is aligned, left is a multiple of four. */
template <bool VEC, class T> __device__ inline ds_quad<T> ds_load_quad(const T *p, int left) {
    ds_quad<T> q = {};
    if constexpr (VEC) {
        if (left > 0)
            q = *reinterpret_cast<const ds_quad<T> *>(p);
    } else {
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (k < left)
                q.v[k] = p[k];
    }
    return q;
}

template <bool VEC, class T>
__device__ inline void ds_store_quad(T *p, const ds_quad<float> &f, int left) {
    ds_quad<T> q;
#pragma unroll
    for (int k = 0; k < 4; k++)
        q.v[k] = ds_store<T>(f.v[k]);
    if constexpr (VEC) {
        if (left > 0)
            *reinterpret_cast<ds_quad<T> *>(p) = q;
    } else {
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (k < left)
                p[k] = q.v[k];
    }
}

/* Host: may rows `stride` elements apart that start at p be read four at a time?  NULL: not read.
 */
template <class T> inline bool ds_quads_fit(const T *p, int stride) {
    return stride % 4 == 0 && (uintptr_t)p % (4 * sizeof(T)) == 0;
}

/* Host: threads of a block for so many quads. */
inline unsigned ds_quad_threads(int quads) {
    return (unsigned)(ds_ceil_div((size_t)quads, 32) * 32);
}

/* Host: do [p, p+n) and [q, q+m) share a byte? */
inline bool ds_overlap(const void *p, size_t n, const void *q, size_t m) {
    return (uintptr_t)p < (uintptr_t)q + m && (uintptr_t)q < (uintptr_t)p + n;
}

/* gate.cu: to[k] rows of `stride` floats (=) sums over the chunks of part (B, chunks, count, D). */
struct ds_chunk_sums {
    float *to[3];
    int stride[3], count;
};
void ds_cuda_sum_chunks(ds_cuda *c, const ds_chunk_sums *s, const float *part, int B, int T, int D);

/* Arguments of gate_backward, to be joined with an adaln_backward that waits. */
struct ds_gate_backward {
    ds_act *dy;
    float *dgate;
    int dstride;
    const ds_act *y;
    const float *gate;
    int stride;
};

/* norm.cu: launches the adaln_backward of *p, joined with gate unless that is NULL. */
void ds_cuda_norm_backward(ds_device *dev, const ds_cuda_pending *p, const ds_gate_backward *gate);

#endif
