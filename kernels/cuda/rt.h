/* kernels/cuda/rt.h - what every file of kernels/cuda/ is written against: CUDA, or its emulation.
 *
 * nvcc compiles these files for a GPU.  g++ compiles the same files (DS_CUDA_EMU) for the host,
 * where tests/emu/emu.h runs the threads of a block as fibers, so that `make test` checks every
 * kernel's logic against kernels/ref/ on machines without a GPU.  What kernels may use is what both
 * know:
 *   __global__, __device__, threadIdx, blockIdx, blockDim, gridDim, __syncthreads, __syncwarp,
 *   __shfl_xor_sync, __shfl_down_sync, __shfl_sync, __ldg, and from here:
 *   DS_SHARED(type, name)   the block's dynamic shared memory (the only shared memory there is: its
 *                           size is that of the launch, so the emulation sees a step beyond it)
 *   ds_mma_bf16             one tensor-core product
 *   ds_transpose_bf16       an 8 x 8 matrix transposed between the lanes of a warp
 *   ds_cuda_launch          instead of <<<>>> (cuda.h)
 * No float atomics: the order of a sum may not depend on the clock.
 */
#ifndef DS_KERNELS_CUDA_RT_H
#define DS_KERNELS_CUDA_RT_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef DS_CUDA_EMU

#include <emu.h> /* tests/emu */

#else

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#define DS_SHARED(type, name)                                                                      \
    extern __shared__ __align__(128) unsigned char ds_shared_bytes[];                              \
    type *name = reinterpret_cast<type *>(ds_shared_bytes)

/* d (16,8) += a (16,16) b (16,8): mma.sync.m16n8k16, row.col, bf16 in, f32 out.  Lane l holds, with
 * g = l / 4, t = l % 4 (PTX ISA, "Matrix Fragments for mma.m16n8k16"):
 *   a[0..3] = pairs (g, 2t) (g+8, 2t) (g, 2t+8) (g+8, 2t+8)      pair = two neighbours in k, the
 *   b[0..1] = pairs (k 2t, n g) (k 2t+8, n g)                    first in the low half
 *   d[0..3] = (g, 2t) (g, 2t+1) (g+8, 2t) (g+8, 2t+1) */
__device__ __forceinline__ void ds_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Lane (g, t) gives elements (g, 2t) and (g, 2t+1) of an 8 x 8 matrix of 16-bit numbers and gets
 * (2t, g) and (2t+1, g) of it: movmatrix. */
__device__ __forceinline__ uint32_t ds_transpose_bf16(uint32_t pair) {
    uint32_t d;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(d) : "r"(pair));
    return d;
}

#endif
#endif
