/* kernels/cpu/cpu.h - what the files of the CPU device share.
 *
 * The ops are written once, in the .inl files, over a few vector primitives (simd.h), and compiled
 * once per unit: unit_avx2_f32.c, unit_avx2_bf16.c, unit_avx512_f32.c, unit_avx512_bf16.c.  Each
 * unit is one table of ops; device.c chooses by cpuid.  Nothing outside the units needs more than
 * SSE2.
 *
 * Weights are packed in panels of NR columns (NR = 2 vectors): panel p holds, for each step of the
 * product's depth, the NR numbers of columns [p NR, p NR + NR), zeros beyond the edge.  `pairs`: a
 * step is two numbers of the depth, bf16, side by side in 32 bits (what vdpbf16ps takes).
 *
 * Memory: `shared` is one workspace for the whole op, `scratch` one piece per thread.  Both grow
 * and never shrink; both belong to the running op only.
 */
#ifndef DS_KERNELS_CPU_CPU_H
#define DS_KERNELS_CPU_CPU_H

#include "base/mem.h"
#include "kernels/cpu/team.h"
#include "kernels/device.h"

struct ds_weight {
    int m, n;
    int pairs;   /* panels of bf16 pairs, else f32 */
    int rounded; /* f32 panels whose numbers are rounded to bf16 (bf16 without vdpbf16ps) */
    char *fw;    /* columns = m, depth = n */
    char *bw;    /* columns = n, depth = m; NULL without grad */
};

/* One compiled set of ops. */
typedef struct {
    const char *device_class;
    const struct ds_ops *ops;
    int nr;     /* columns of a panel */
    int native; /* has products of bf16 pairs */
    int bf16;   /* activations are bf16 */
} ds_cpu_unit;

typedef struct {
    const ds_cpu_unit *unit;
    ds_team *team;
    int threads;
    void *shared, *scratch;
    size_t shared_bytes, scratch_bytes; /* scratch_bytes: of one thread */
} ds_cpu;

extern const ds_cpu_unit ds_cpu_unit_avx2_f32, ds_cpu_unit_avx2_bf16, ds_cpu_unit_avx512_f32,
    ds_cpu_unit_avx512_bf16;

/* A scale below it is not divided by: its gradient is summed from the frozen matrix. */
#define DS_CPU_SMALL_SCALE 0x1p-6f

static inline ds_cpu *ds_cpu_of(ds_device *dev) { return dev->impl; }

/* Workspace of at least `bytes`, 64-byte aligned; valid until the next call. */
void *ds_cpu_shared(ds_cpu *cpu, size_t bytes);

/* Make sure that every thread has `bytes`; thread i's piece is ds_cpu_scratch(cpu, i).  Call before
 * the team runs. */
void ds_cpu_scratch_reserve(ds_cpu *cpu, size_t bytes);
static inline void *ds_cpu_scratch(const ds_cpu *cpu, int thread) {
    return (char *)cpu->scratch + (size_t)thread * cpu->scratch_bytes;
}

/* Bytes of the panels of a (depth, columns) operand. */
size_t ds_cpu_panel_bytes(int nr, int depth, int columns, int pairs);

#endif
