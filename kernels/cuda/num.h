/* kernels/cuda/num.h - numbers on the device: bf16, vectors of eight, sums over a warp and a block.
 *
 * ds_bf16 is a storage type; all arithmetic is in float (statistics in double where kernels/ref/
 * is).  Loads of eight have the same mapping of elements to threads whether the pointer is aligned
 * (one or two 16-byte accesses) or not (eight single ones), so results do not depend on alignment.
 */
#ifndef DS_KERNELS_CUDA_NUM_H
#define DS_KERNELS_CUDA_NUM_H

#include "kernels/cuda/rt.h"

struct ds_bf16 {
    uint16_t bits;
};

__host__ __device__ inline float ds_float(float x) { return x; }

__host__ __device__ inline float ds_float(ds_bf16 h) {
    uint32_t u = (uint32_t)h.bits << 16;
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* Round to nearest even; NaN stays NaN. */
__host__ __device__ inline ds_bf16 ds_round_bf16(float x) {
#if defined(__CUDA_ARCH__)
    return ds_bf16{__bfloat16_as_ushort(__float2bfloat16_rn(x))};
#else
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return ds_bf16{(uint16_t)(u >> 16 | 0x40)};
    return ds_bf16{(uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16)};
#endif
}

/* Ten bits of mantissa, to nearest, ties away from zero (cvt.rna.tf32); NaN stays NaN. */
__host__ __device__ inline float ds_round_tf32(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return x;
    u = (u + 0x1000u) & ~0x1fffu;
    memcpy(&x, &u, sizeof x);
    return x;
}

template <class T> __host__ __device__ inline T ds_store(float x);
template <> __host__ __device__ inline float ds_store<float>(float x) { return x; }
template <> __host__ __device__ inline ds_bf16 ds_store<ds_bf16>(float x) {
    return ds_round_bf16(x);
}

/* Two floats as one word of two bf16, the first in the low half (fragments of ds_mma_bf16). */
__host__ __device__ inline uint32_t ds_pack_bf16(float lo, float hi) {
    return (uint32_t)ds_round_bf16(lo).bits | (uint32_t)ds_round_bf16(hi).bits << 16;
}

struct alignas(16) ds_word4 {
    uint32_t w[4];
};

/* v[0..8) (=) p[0..left), zeros beyond.  VEC: p is 16-byte aligned and left >= 8. */
template <bool VEC> __device__ inline void ds_load8(float v[8], const ds_bf16 *p, int left) {
    if constexpr (VEC) {
        ds_word4 w = *reinterpret_cast<const ds_word4 *>(p);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            v[2 * i] = ds_float(ds_bf16{(uint16_t)w.w[i]});
            v[2 * i + 1] = ds_float(ds_bf16{(uint16_t)(w.w[i] >> 16)});
        }
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] = i < left ? ds_float(p[i]) : 0.0f;
    }
}

template <bool VEC> __device__ inline void ds_load8(float v[8], const float *p, int left) {
    if constexpr (VEC) {
        ds_word4 w[2];
        w[0] = reinterpret_cast<const ds_word4 *>(p)[0];
        w[1] = reinterpret_cast<const ds_word4 *>(p)[1];
        memcpy(v, w, 32);
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] = i < left ? p[i] : 0.0f;
    }
}

/* p[0..left) (=) v, at most eight. */
template <bool VEC> __device__ inline void ds_store8(ds_bf16 *p, const float v[8], int left) {
    if constexpr (VEC) {
        ds_word4 w;
#pragma unroll
        for (int i = 0; i < 4; i++)
            w.w[i] = ds_pack_bf16(v[2 * i], v[2 * i + 1]);
        *reinterpret_cast<ds_word4 *>(p) = w;
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (i < left)
                p[i] = ds_round_bf16(v[i]);
    }
}

template <bool VEC> __device__ inline void ds_store8(float *p, const float v[8], int left) {
    if constexpr (VEC) {
        ds_word4 w[2];
        memcpy(w, v, 32);
        reinterpret_cast<ds_word4 *>(p)[0] = w[0];
        reinterpret_cast<ds_word4 *>(p)[1] = w[1];
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (i < left)
                p[i] = v[i];
    }
}

/* Host: may rows of D elements starting at p be read eight at a time? */
template <class T> inline bool ds_rows_aligned(const T *p, int D) {
    return D % 8 == 0 && (uintptr_t)p % 16 == 0;
}

/* The sum over the 32 lanes of a warp, in every lane; the same order everywhere. */
template <class T> __device__ inline T ds_warp_sum(T x) {
#pragma unroll
    for (int d = 16; d; d >>= 1)
        x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}

template <class T> __device__ inline T ds_warp_max(T x) {
#pragma unroll
    for (int d = 16; d; d >>= 1) {
        T y = __shfl_xor_sync(0xffffffffu, x, d);
        x = x > y ? x : y;
    }
    return x;
}

/* The sum over a block whose size is a multiple of 32, in every thread; room: 32 values of shared
 * memory that nothing else uses between two calls. */
template <class T> __device__ inline T ds_block_sum(T x, T *room) {
    int warps = (int)blockDim.x / 32, lane = (int)threadIdx.x % 32;
    x = ds_warp_sum(x);
    __syncthreads();
    if (lane == 0)
        room[threadIdx.x / 32] = x;
    __syncthreads();
    return ds_warp_sum(lane < warps ? room[lane] : T(0));
}

/* s = sigmoid(2z) and 1 - s, z = sqrt(2/pi) (u + 0.044715 u^3), without cancellation: 1 + tanh z =
 * 2s would lose its digits where tanh z is near -1. */
struct ds_gelu_gate {
    float s, rest;
};

__device__ inline ds_gelu_gate ds_gelu_gate_of(float u) {
    float z2 = 1.5957691216057308f * (u + 0.044715f * u * u * u);
    float q = expf(-fabsf(z2)), big = 1.0f / (1.0f + q), small = q * big;
    return z2 < 0 ? ds_gelu_gate{small, big} : ds_gelu_gate{big, small};
}

/* gelu_tanh = u s, and its derivative s + u s (1 - s) d(2z)/du (kernels/ops.def). */
__device__ inline float ds_gelu(float u) { return u * ds_gelu_gate_of(u).s; }

__device__ inline float ds_gelu_slope(float u) {
    ds_gelu_gate g = ds_gelu_gate_of(u);
    float dz2 = 1.5957691216057308f * (1.0f + 3 * 0.044715f * u * u);
    return g.s + u * dz2 * g.s * g.rest;
}

#endif
