/* kernels/cpu/open.c - opening the CPU device: choice of the unit, memory, weights. */
#include "kernels/cpu/cpu.h"
#include "kernels/ref/host.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ISA_NONE, ISA_AVX2, ISA_AVX512, ISA_AVX512BF16 };

#if defined(__x86_64__)
static int isa_present(void) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return ISA_NONE;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return ISA_AVX2;
    return __builtin_cpu_supports("avx512bf16") ? ISA_AVX512BF16 : ISA_AVX512;
}
#else
static int isa_present(void) { return ISA_NONE; }
#endif

static int isa_named(const char *name) {
    if (!name)
        return ISA_AVX512BF16;
    if (strcmp(name, "avx2") == 0)
        return ISA_AVX2;
    if (strcmp(name, "avx512") == 0)
        return ISA_AVX512;
    return strcmp(name, "avx512bf16") == 0 ? ISA_AVX512BF16 : -1;
}

static const ds_cpu_unit *unit_for(int isa, enum ds_precision precision) {
#if defined(__x86_64__)
    if (precision == DS_PRECISION_F32)
        return isa >= ISA_AVX512 ? &ds_cpu_unit_avx512_f32 : &ds_cpu_unit_avx2_f32;
    return isa >= ISA_AVX512BF16 ? &ds_cpu_unit_avx512_bf16 : &ds_cpu_unit_avx2_bf16;
#else
    (void)isa, (void)precision;
    return NULL;
#endif
}

/* Workspaces hold what the plan of a job counted in; running out here is an exhausted process. */
static void grow(void **p, size_t *have, size_t bytes, size_t pieces) {
    if (bytes <= *have)
        return;
    bytes = (bytes + bytes / 4 + 4095) & ~(size_t)4095;
    free(*p);
    *p = ds_xaligned(bytes * pieces);
    *have = bytes;
}

void *ds_cpu_shared(ds_cpu *cpu, size_t bytes) {
    grow(&cpu->shared, &cpu->shared_bytes, bytes, 1);
    return cpu->shared;
}

void ds_cpu_scratch_reserve(ds_cpu *cpu, size_t bytes) {
    grow(&cpu->scratch, &cpu->scratch_bytes, bytes, (size_t)cpu->threads);
}

size_t ds_cpu_panel_bytes(int nr, int depth, int columns, int pairs) {
    size_t steps = (size_t)(pairs ? (depth + 1) / 2 : depth);
    return steps * (size_t)nr * 4 * (size_t)((columns + nr - 1) / nr);
}

static size_t cpu_weight_bytes(ds_device *dev, int m, int n, int f32, int grad) {
    const ds_cpu_unit *unit = ds_cpu_of(dev)->unit;
    int pairs = unit->native && !f32;
    size_t bytes = sizeof(ds_weight) + ds_cpu_panel_bytes(unit->nr, n, m, pairs);
    return grad ? bytes + ds_cpu_panel_bytes(unit->nr, m, n, pairs) : bytes;
}

static void cpu_weight_free(ds_device *dev, ds_weight *w) {
    (void)dev;
    if (!w)
        return;
    free(w->fw);
    free(w->bw);
    free(w);
}

static ds_weight *cpu_weight_new(ds_device *dev, int m, int n, int f32, int grad) {
    const ds_cpu_unit *unit = ds_cpu_of(dev)->unit;
    DS_ASSERT(m > 0 && n > 0);
    ds_weight *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    w->m = m;
    w->n = n;
    w->pairs = unit->native && !f32;
    w->rounded = unit->bf16 && !f32 && !w->pairs;
    w->fw = ds_host_alloc(dev, ds_cpu_panel_bytes(unit->nr, n, m, w->pairs));
    w->bw = grad ? ds_host_alloc(dev, ds_cpu_panel_bytes(unit->nr, m, n, w->pairs)) : NULL;
    if (!w->fw || (grad && !w->bw)) {
        cpu_weight_free(dev, w);
        return NULL;
    }
    return w;
}

static size_t cpu_workspace_bytes(ds_device *dev) {
    const ds_cpu *cpu = ds_cpu_of(dev);
    return cpu->shared_bytes + cpu->scratch_bytes * (size_t)cpu->threads;
}

/* As affiner_backward: side in, and rows whose scale is too small to divide by. */
static int cpu_reads_matrix(ds_device *dev, const ds_affiner *ad) {
    (void)dev;
    int reads = ad->side_in;
    for (int i = 0; !reads && ad->a && i < ad->m; i++)
        reads = !(fabsf(ad->a[i]) >= DS_CPU_SMALL_SCALE);
    return reads;
}

static void cpu_close(ds_device *dev) {
    ds_cpu *cpu = ds_cpu_of(dev);
    ds_team_free(cpu->team);
    free(cpu->shared);
    free(cpu->scratch);
    free(cpu);
    free(dev);
}

static ds_device *device_new(const ds_cpu_unit *unit, ds_team *team) {
    ds_device *dev = ds_xcalloc(1, sizeof *dev);
    ds_cpu *cpu = ds_xcalloc(1, sizeof *cpu);
    *cpu = (ds_cpu){.unit = unit, .team = team, .threads = ds_team_threads(team)};
    dev->name = "cpu";
    snprintf(dev->device_class, sizeof dev->device_class, "%s", unit->device_class);
    dev->act_size = unit->bf16 ? 2 : 4;
    dev->act_bf16 = unit->bf16;
    dev->threads = cpu->threads;
    dev->host_memory = 1;
    dev->ops = unit->ops;
    dev->alloc = ds_host_alloc;
    dev->free = ds_host_free;
    dev->upload = ds_host_upload;
    dev->download = ds_host_download;
    dev->sync = ds_host_sync;
    dev->weight_new = cpu_weight_new;
    dev->weight_free = cpu_weight_free;
    dev->weight_bytes = cpu_weight_bytes;
    dev->workspace_bytes = cpu_workspace_bytes;
    dev->reads_matrix = cpu_reads_matrix;
    dev->close = cpu_close;
    dev->impl = cpu;
    return dev;
}

int ds_device_default_threads(void) { return ds_team_default_threads(); }

int ds_device_open_cpu(ds_device **out, const ds_device_options *opt, ds_error *err) {
    *out = NULL;
    const char *name = opt ? opt->isa : NULL;
    int cap = isa_named(name), present = isa_present();
    if (cap < 0)
        return ds_fail(err, DS_EINVAL,
                       "unknown instruction set '%s': use avx2, avx512 or avx512bf16", name);
    if (opt && opt->precision == DS_PRECISION_TF32)
        return ds_fail(err, DS_EINVAL,
                       "the cpu device knows no tf32: ask for precision f32 or bf16");
    if (present == ISA_NONE)
        return ds_fail(err, DS_ENOTFOUND,
                       "cannot open the cpu device: this processor has no AVX2 with FMA; use the "
                       "device 'ref'");
    if (name && cap > present)
        return ds_fail(err, DS_ENOTFOUND, "cannot open the cpu device: this processor has no '%s'",
                       name);
    int threads = opt && opt->threads > 0 ? opt->threads : ds_team_default_threads();
    ds_team *team = ds_team_new(threads);
    if (!team)
        return ds_fail(err, DS_ENOMEM, "cannot start %d threads: lower the number of threads",
                       threads);
    enum ds_precision precision = opt ? opt->precision : DS_PRECISION_F32;
    *out = device_new(unit_for(cap < present ? cap : present, precision), team);
    return 0;
}
