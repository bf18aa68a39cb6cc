/* tests/emu/emu.h - CUDA's words on the host, for g++: blocks, threads, barriers, shuffles.
 *
 * A block runs as fibers (ucontext) on one thread of the host, one block after another.  Barriers
 * and shuffles give way to the next fiber until all have arrived.  Even blocks run their fibers
 * forwards, odd ones backwards, so that a missing barrier shows in one of them.  Shared memory is
 * exactly as large as the launch said, filled with NaN before each block.  A barrier that some
 * threads never reach aborts with the place.
 *
 * What it cannot show: races within one warp's step (race.cc finds those), memory spaces,
 * alignment of vector accesses (checked by UBSan), speed.
 */
#ifndef DS_TESTS_EMU_EMU_H
#define DS_TESTS_EMU_EMU_H

#include <functional>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "tests/emu/race.h"

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

/* Of the fiber that runs. */
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

void ds_emu_launch(dim3 grid, dim3 block, size_t shared, const std::function<void()> &body);

/* The stream: work runs at once, or while a graph is recorded, when that is launched.  So `work`
 * holds its arguments by value.  ds_emu_host stands for what may not be done while recording. */
void ds_emu_submit(std::function<void()> work);
void ds_emu_host(const char *what);

/* The device's memory: the host faults when it touches it, but for while work runs (ds_emu_now).
 * With the address sanitizer it is plain memory instead, whose bounds that one knows. */
void *ds_emu_alloc(size_t bytes);
void ds_emu_free(void *p);
void ds_emu_now(const std::function<void()> &work);

void ds_emu_record_begin();
void *ds_emu_record_end();
void ds_emu_graph_launch(void *graph);
void ds_emu_graph_free(void *graph);

void *ds_emu_shared();
void ds_emu_block_barrier();
void ds_emu_warp_barrier();
/* Leaves `mine` (at most 8 words) for the warp and returns what all lanes left: lane l's words are
 * at [l * 8].  Valid until the lane's next exchange. */
const uint32_t *ds_emu_exchange(const uint32_t *mine, int words);
int ds_emu_lane();
void ds_emu_forget_copies(); /* tile.cc */

#define DS_SHARED(type, name) type *name = static_cast<type *>(ds_emu_shared())

static inline void __syncthreads() {
    ds_emu_block_barrier();
    ds_race_syncthreads();
}
static inline void __syncwarp(unsigned = 0xffffffffu) {
    ds_emu_warp_barrier();
    ds_race_syncwarp();
}

template <class T> static inline T ds_emu_shuffle(T x, int from) {
    static_assert(sizeof(T) <= 32, "a shuffle of at most 32 bytes");
    uint32_t mine[8] = {0};
    memcpy(mine, &x, sizeof x);
    const uint32_t *all = ds_emu_exchange(mine, (int)((sizeof x + 3) / 4));
    if (from >= 0 && from < 32)
        memcpy(&x, all + 8 * from, sizeof x);
    return x;
}
template <class T> static inline T __shfl_xor_sync(unsigned, T x, int mask) {
    return ds_emu_shuffle(x, ds_emu_lane() ^ mask);
}
template <class T> static inline T __shfl_down_sync(unsigned, T x, int by) {
    return ds_emu_shuffle(x, ds_emu_lane() + by);
}
template <class T> static inline T __shfl_sync(unsigned, T x, int from) {
    return ds_emu_shuffle(x, from & 31);
}
template <class T> static inline T __ldg(const T *p) { return *p; }
#define __expf(x) expf(x)
static inline float rsqrtf(float x) { return 1 / __builtin_sqrtf(x); }
static inline float __frcp_rn(float x) { return 1 / x; }
static inline float __fdividef(float x, float y) { return x / y; }

/* As kernels/cuda/rt.h says. */
void ds_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]);
uint32_t ds_transpose_bf16(uint32_t pair);

#endif
