/* kernels/cuda/rt_tile.h - instructions for tiles in shared memory, beside those of rt.h: loading
 * fragments of ds_mma_bf16 (ldmatrix), copying without registers (cp.async), 2^x.
 *
 * The emulation (tests/emu/tile.cc) does a copy only when it is waited for, so that a missing wait
 * shows as NaN.  Source: PTX ISA, "ldmatrix", "cp.async", "ex2.approx".
 */
#ifndef DS_KERNELS_CUDA_RT_TILE_H
#define DS_KERNELS_CUDA_RT_TILE_H

#include "kernels/cuda/rt.h"

#ifdef DS_CUDA_EMU

void ds_ldmatrix4(uint32_t r[4], const void *row);
void ds_ldmatrix4_trans(uint32_t r[4], const void *row);
void ds_copy16(void *shared, const void *global, bool on);
void ds_copy_commit();
void ds_copy_wait(int groups);
static inline float ds_exp2(float x) { return exp2f(x); }

#else

__device__ __forceinline__ uint32_t ds_shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* Four 8 x 8 matrices of bf16 in shared memory: lane l gives the address of row l % 8 of matrix
 * l / 8 (16 bytes, aligned).  With g = l / 4, t = l % 4, r[i] (=) elements (g, 2t) and (g, 2t+1) of
 * matrix i; trans: elements (2t, g) and (2t+1, g).  The whole warp takes part. */
__device__ __forceinline__ void ds_ldmatrix4(uint32_t r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(ds_shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void ds_ldmatrix4_trans(uint32_t r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(ds_shared_address(row))
                 : "memory");
}

/* 16 bytes of shared (=) global, both 16-byte aligned; zeros where !on (global is not read). */
__device__ __forceinline__ void ds_copy16(void *shared, const void *global, bool on) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(ds_shared_address(shared)),
                 "l"(__cvta_generic_to_global(global)), "r"(on ? 16 : 0)
                 : "memory");
}

/* The thread's copies since the last commit are a group; wait: all but its `groups` (0 or 1) newest
 * groups are there.  Other threads see them after a barrier. */
__device__ __forceinline__ void ds_copy_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

__device__ __forceinline__ void ds_copy_wait(int groups) {
    if (groups == 0)
        asm volatile("cp.async.wait_group 0;" ::: "memory");
    else
        asm volatile("cp.async.wait_group 1;" ::: "memory");
}

/* 2^x, 2 units in the last place; subnormal results become 0. */
__device__ __forceinline__ float ds_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif
#endif
