/* kernels/cuda/four.h - f32 pictures, four channels of a pixel at a time: 16 bytes an access where
 * aligned, the same mapping of channels to threads where not. */
#ifndef DS_KERNELS_CUDA_FOUR_H
#define DS_KERNELS_CUDA_FOUR_H

#include "kernels/cuda/cuda.h"

#include <type_traits>

enum { GROUP = 4 };

/* Scratch of an op that goes piece by piece: patches of a convolution, scores of an attention. */
#ifdef DS_CUDA_EMU
static const size_t PIECE_BYTES = (size_t)16 << 10; /* so that tests see several */
#else
static const size_t PIECE_BYTES = (size_t)128 << 20;
#endif

struct four {
    float v[GROUP];
};

/* p[0..left), at most four, zeros beyond.  VEC: p is 16-byte aligned, left >= 4. */
template <bool VEC> __device__ inline four load4(const float *p, int left) {
    four x;
    if constexpr (VEC) {
        ds_word4 w = *reinterpret_cast<const ds_word4 *>(p);
        memcpy(&x, &w, sizeof x);
    } else {
#pragma unroll
        for (int i = 0; i < GROUP; i++)
            x.v[i] = i < left ? p[i] : 0.0f;
    }
    return x;
}

template <bool VEC> __device__ inline void store4(float *p, const four &x, int left) {
    if constexpr (VEC) {
        ds_word4 w;
        memcpy(&w, &x, sizeof w);
        *reinterpret_cast<ds_word4 *>(p) = w;
    } else {
#pragma unroll
        for (int i = 0; i < GROUP; i++)
            if (i < left)
                p[i] = x.v[i];
    }
}

/* f(true or false) as a type: may 4 channels be read at once? */
template <class F> inline void by_alignment(bool aligned, F f) {
    if (aligned)
        f(std::true_type{});
    else
        f(std::false_type{});
}

inline bool aligned4(const void *p, int stride) {
    return stride % GROUP == 0 && (uintptr_t)p % 16 == 0;
}

/* Blocks of `block` threads: `each` threads for every one of `rows` rows; x inside a row, y over
 * rows, which a kernel strides over by gridDim.y. */
inline dim3 cover_rows(size_t each, size_t rows, size_t block) {
    const size_t most = 65535;
    return dim3((unsigned)ds_ceil_div(each, block), (unsigned)(rows < most ? rows : most));
}

#endif
