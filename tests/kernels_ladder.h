/* tests/kernels_ladder.h - one op of one device against the reference.
 *
 * A test is a function body(run *) that makes inputs, outputs, and calls an op.  It runs on the
 * reference, where it also states a tolerance for every number of every output, and then on every
 * compiled set of kernels that this processor has:
 *
 * - twice: with 1 thread and 64-byte aligned, with 2 threads and one element off; same bytes
 *   (on a real GPU within the tolerance: ladder_again);
 *
 * - alone: every sample by itself; its bytes must be those it has in the batch.
 *
 * Outputs lie between guard zones.  Before the call, an output that is written (=) holds NaN, one
 * that is accumulated (+=) holds numbers; where the reference leaves NaN, the device must too (the
 * gaps of strided rows).  Inputs end where their allocation ends, so ASan sees a read beyond.
 *
 * Tolerances come from arithmetic.  EPS32 = 2^-24 is half a unit in the last place of f32: n
 * additions lose at most n EPS32 sum|terms|.  EPS16 = 2^-8 is the same for bf16.  t32 is for a
 * device that computes in f32; t16, for a bf16 device, counts the roundings to bf16 beside it.
 * Added here is the rounding of the stored result, the reference's and the device's.  Tolerance 0
 * says that the result is exact before it is stored: then an f32 device must give the same number.
 * A third column is for products in TF32 (a GPU's tensor cores on f32): the hardware keeps 10 bits
 * of each operand's mantissa and cuts the rest, an error below EPS_TF32 = 2^-10 of each of the two
 * operands.  Unless tolerate_tf32 says more, it is derived from t16, which counts EPS16 = 4
 * EPS_TF32 for one operand of the same products.  (Numbers k 2^e, |k| <= 127, are exact in TF32 as
 * well.)
 *
 * Devices: the processor's kernel sets and the emulated GPU.
 * DS_TEST_DEVICES=cuda: only the CUDA library that DIFFSCALER_CUDA_LIBRARY names or that lies where
 * a program finds it, on a real GPU.  A device with memory of its own is tested through a mirror
 * (tests/mirror.h).
 */
#ifndef DS_TESTS_KERNELS_LADDER_H
#define DS_TESTS_KERNELS_LADDER_H

#include "tests/kernels_common.h"
#include "tests/mirror.h"

#include <malloc.h>

#define EPS32 0x1p-24
#define EPS16 0x1p-8
#define EPS_TF32 0x1p-10
/* A bf16 device may take the reciprocal in a sigmoid from the instruction of 14 bits; in a
 * derivative s + x z' s (1 - s) that error is in s and in 1 - s. */
#define RCP14 0x1p-14

/* Rows of tests/cases.def that tests take. */
#define KEEP_ODD(...) __VA_ARGS__
#define KEEP_MODEL(...) __VA_ARGS__
#define KEEP_BENCH(...)
#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

enum { MAX_OUT = 36, MAX_KEPT = 128 };
enum out_kind { WRITTEN, ADDED };

typedef struct {
    const char *name;
    int B, T, D, heads, m, n, r, segs, side_in, relu, small_a; /* by family */
    ds_conv geo;
} shape;

typedef struct {
    const char *name;
    void *data;
    size_t count, per_sample, offset;
    int act, whole; /* whole: not split by samples */
    float *value;   /* reference: as f32; device: bytes in data */
    double *t32, *t16, *tf32;
} output;

typedef struct {
    ds_device *dev;
    const shape *k;
    int ref;      /* this is the reference: state tolerances */
    int first, B; /* samples of this run */
    size_t nudge; /* elements by which buffers are off their alignment */
    output out[MAX_OUT];
    int outs, kepts, weights;
    void *kept[MAX_KEPT];
    ds_weight *weight[8];
} run;

typedef void body_fn(run *r);

static inline void *keep(run *r, void *p) {
    DS_ASSERT(r->kepts < MAX_KEPT);
    ds_mirror_add(r->dev, p, malloc_usable_size(p));
    return r->kept[r->kepts++] = p;
}

/* Numbers of samples [first, first+B) of an array of per_sample numbers each. */
static inline float *numbers(run *r, size_t per_sample, uint64_t seed, int e) {
    size_t skip = (size_t)r->first * per_sample, n = (size_t)r->B * per_sample;
    float *all = test_random(skip + n, seed, e);
    float *p = keep(r, ds_xmalloc((n + r->nudge) * sizeof *p));
    memcpy(p + r->nudge, all + skip, n * sizeof *p);
    free(all);
    return p + r->nudge;
}

/* The same for an array that does not depend on the samples. */
static inline float *fixed(run *r, size_t n, uint64_t seed, int e) {
    float *p = keep(r, ds_xmalloc((n + r->nudge) * sizeof *p));
    test_fill(p + r->nudge, n, seed, e);
    return p + r->nudge;
}

static inline uint16_t test_bf16(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    uint32_t half = 0x7fff + (u >> 16 & 1);
    return (uint16_t)((u + half) >> 16);
}

static inline float test_bf16_float(uint16_t h) {
    uint32_t u = (uint32_t)h << 16;
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* Activations with the values x (n), rounded to the device's type. */
static inline ds_act *act_rounded(run *r, const float *x, size_t n) {
    size_t size = r->dev->act_size;
    char *p = (char *)keep(r, ds_xmalloc((n + r->nudge) * size)) + r->nudge * size;
    for (size_t i = 0; i < n; i++) {
        uint16_t h = test_bf16(x[i]);
        memcpy(p + i * size, size == 2 ? (void *)&h : (void *)(uintptr_t)(x + i), size);
    }
    return (ds_act *)(void *)p;
}

/* The same for values that every device can hold. */
static inline ds_act *act_of(run *r, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        DS_ASSERT(test_bf16_float(test_bf16(x[i])) == x[i]);
    return act_rounded(r, x, n);
}

static inline ds_weight *weight(run *r, const float *W, int m, int n, const ds_affiner *ad,
                                int f32) {
    ds_weight *w = r->dev->weight_new(r->dev, m, n, f32, 1);
    DS_ASSERT(w && r->weights < 8);
    r->dev->ops->weight_pack(r->dev, w, W, ad);
    return r->weight[r->weights++] = w;
}

static inline output *out_new(run *r, const char *name, size_t per_sample, int act, int whole,
                              enum out_kind kind, uint64_t seed, int e) {
    DS_ASSERT(r->outs < MAX_OUT);
    output *o = &r->out[r->outs++];
    size_t size = act ? r->dev->act_size : sizeof(float);
    size_t n = whole ? per_sample : per_sample * (size_t)r->B;
    *o = (output){.name = name, .count = n, .per_sample = per_sample, .act = act, .whole = whole};
    o->offset = r->nudge * size;
    o->data = guard_new(n * size, o->offset);
    ds_mirror_add(r->dev, guard_start(o->data, o->offset), guard_bytes(n * size));
    if (r->ref) {
        o->t32 = ds_xcalloc(n, sizeof *o->t32);
        o->t16 = ds_xcalloc(n, sizeof *o->t16);
        o->tf32 = ds_xcalloc(n, sizeof *o->tf32);
    }
    if (kind == WRITTEN) {
        for (size_t i = 0; i < n * size / 2; i++)
            memcpy((char *)o->data + 2 * i, &(uint16_t){0x7fc1}, 2);
        return o;
    }
    float *x = whole ? fixed(r, n, seed, e) : numbers(r, per_sample, seed, e);
    memcpy(o->data, act ? (void *)act_of(r, x, n) : (void *)x, n * size);
    return o;
}

static inline float *out_f32(run *r, const char *name, size_t per_sample) {
    return out_new(r, name, per_sample, 0, 0, WRITTEN, 0, 0)->data;
}
static inline ds_act *out_act(run *r, const char *name, size_t per_sample) {
    return out_new(r, name, per_sample, 1, 0, WRITTEN, 0, 0)->data;
}

/* Tolerance of number i of output o; a body calls it on the reference only. */
static inline void tolerate(run *r, int o, size_t i, double t32, double t16) {
    DS_ASSERT(r->ref && o < r->outs && i < r->out[o].count);
    r->out[o].t32[i] = t32;
    r->out[o].t16[i] = t16;
    r->out[o].tf32[i] = t32 + fmax(0, t16 - t32) * (2 * EPS_TF32 / EPS16);
}
/* Where TF32 is used on operands that have more bits, and bf16 is not; after tolerate. */
static inline void tolerate_tf32(run *r, int o, size_t i, double tf32) {
    DS_ASSERT(r->ref && o < r->outs && i < r->out[o].count);
    r->out[o].tf32[i] = fmax(r->out[o].tf32[i], tf32);
}

static inline float out_value(const run *r, const output *o, size_t i) {
    if (o->act && r->dev->act_size == 2) {
        uint16_t h;
        memcpy(&h, (const char *)o->data + 2 * i, 2);
        return test_bf16_float(h);
    }
    float x;
    memcpy(&x, (const char *)o->data + 4 * i, 4);
    return x;
}

static inline size_t out_size(const run *r, const output *o) {
    return o->act ? r->dev->act_size : sizeof(float);
}

static inline run *run_new(ds_device *dev, const shape *k, body_fn *body, int first, int B,
                           size_t nudge) {
    run *r = ds_xcalloc(1, sizeof *r);
    *r = (run){.dev = dev,
               .k = k,
               .ref = !strcmp(dev->name, "ref"),
               .first = first,
               .B = B,
               .nudge = nudge};
    body(r);
    for (int i = 0; i < r->outs; i++)
        EXPECT(guard_check(r->out[i].data, r->out[i].count * out_size(r, &r->out[i]),
                           r->out[i].offset),
               "%s, case '%s': %s is written beyond its end", dev->device_class, k->name,
               r->out[i].name);
    return r;
}

/* All that a run holds; the run itself is the caller's. */
static inline void run_release(run *r) {
    for (int i = 0; i < r->outs; i++) {
        ds_mirror_remove(r->dev, guard_start(r->out[i].data, r->out[i].offset));
        guard_free(r->out[i].data, r->out[i].offset);
        free(r->out[i].t32);
        free(r->out[i].t16);
        free(r->out[i].tf32);
    }
    for (int i = 0; i < r->kepts; i++) {
        ds_mirror_remove(r->dev, r->kept[i]);
        free(r->kept[i]);
    }
    for (int i = 0; i < r->weights; i++)
        r->dev->weight_free(r->dev, r->weight[i]);
}

static inline void run_free(run *r) {
    run_release(r);
    free(r);
}

static inline void compare_values(const run *ref, const run *r) {
    const char *class = r->dev->device_class;
    for (int o = 0; o < ref->outs; o++) {
        const output *a = &ref->out[o], *b = &r->out[o];
        int bf16 = r->dev->act_size == 2, tf32 = strstr(class, "tf32") != NULL;
        for (size_t i = 0; i < a->count; i++) {
            double want = out_value(ref, a, i), got = out_value(r, b, i);
            double tol = bf16 ? a->t16[i] : tf32 ? a->tf32[i] : a->t32[i];
            double stored = bf16 && a->act ? EPS16 + EPS32 : tol > 0 ? 2 * EPS32 : 0;
            tol = (tol + stored * fabs(want)) * 1.01;
            if (isnan(want))
                EXPECT(isnan(got), "%s, case '%s': %s[%zu] is in a gap and was written", class,
                       r->k->name, a->name, i);
            else
                EXPECT(fabs(want - got) <= tol,
                       "%s, case '%s': %s[%zu] is %.9g, reference %.9g, off by %.3g, "
                       "tolerance %.3g",
                       class, r->k->name, a->name, i, got, want, fabs(want - got), tol);
        }
    }
}

/* The same bytes; `part` starts at sample part->first of `whole`. */
static inline void compare_bytes(const run *whole, const run *part, const char *why) {
    for (int o = 0; o < whole->outs; o++) {
        const output *a = &whole->out[o], *b = &part->out[o];
        size_t size = out_size(whole, a), skip = (size_t)part->first * a->per_sample * size;
        if (a->whole && part->B != whole->B)
            continue;
        EXPECT(!memcmp((const char *)a->data + (a->whole ? 0 : skip), b->data, b->count * size),
               "%s, case '%s', sample %d: %s depends on %s", whole->dev->device_class,
               whole->k->name, part->first, a->name, why);
    }
}

/* Kernel sets to test: every cap with either precision; sets this processor lacks are skipped.
 * "cuda" is the emulated device (tests/emu/emu.h): the GPU's kernels on this processor; or a GPU.
 */
static const struct {
    const char *isa;
    enum ds_precision precision;
} kernel_sets[] = {{"avx2", DS_PRECISION_F32},  {"avx512", DS_PRECISION_F32},
                   {"avx2", DS_PRECISION_BF16}, {"avx512bf16", DS_PRECISION_BF16},
                   {"cuda", DS_PRECISION_F32},  {"cuda", DS_PRECISION_BF16},
                   {"cuda", DS_PRECISION_TF32}};
enum { KERNEL_SETS = sizeof kernel_sets / sizeof kernel_sets[0] };

/* 1: only a GPU is tested, or what DIFFSCALER_CUDA_LIBRARY names in its place. */
static inline int only_cuda(void) {
    const char *devices = getenv("DS_TEST_DEVICES");
    return devices && !strcmp(devices, "cuda");
}

static inline int is_emulated(const ds_device *dev) {
    return strstr(dev->device_class, "emulated") != NULL;
}

static inline ds_device *open_emulated(const ds_device_options *opt) {
    ds_device *dev = NULL;
    ds_error err = {0};
    ds_test_emulated_gpu();
    EXPECT(ds_device_open_cuda(&dev, opt, &err) == 0, "%s", err.message);
    unsetenv("DIFFSCALER_CUDA_LIBRARY"); /* other tests mean the processor by "auto" */
    return dev;
}

/* NULL: this machine has no such set. */
static inline ds_device *open_set(int set, int threads) {
    ds_device *dev = NULL;
    ds_error err = {0};
    const char *isa = kernel_sets[set].isa;
    int cuda = !strcmp(isa, "cuda");
    ds_device_options opt = {
        .kind = "cpu", .precision = kernel_sets[set].precision, .threads = threads, .isa = isa};
    if (cuda != only_cuda() && (only_cuda() || opt.precision == DS_PRECISION_TF32))
        return NULL; /* the emulation's products do not know TF32 */
    if (cuda && !only_cuda())
        return ds_mirror(open_emulated(&opt));
    int rc = cuda ? ds_device_open_cuda(&dev, &opt, &err) : ds_device_open_cpu(&dev, &opt, &err);
    EXPECT(rc == 0 || (!cuda && rc == DS_ENOTFOUND), "%s", err.message);
    if (dev && is_emulated(dev) && opt.precision == DS_PRECISION_TF32) {
        ds_device_close(dev);
        return NULL;
    }
    return ds_mirror(dev);
}

/* The devices of the ladder: a GPU's are opened once, the others for each case. */
static ds_device *kept_devices[KERNEL_SETS][2];

static inline ds_device *ladder_device(int set, int threads) {
    ds_device **kept = &kept_devices[set][threads - 1];
    ds_device *dev = *kept ? *kept : open_set(set, threads);
    if (only_cuda())
        *kept = dev;
    ds_mirror_clear(dev);
    return dev;
}

static inline void ladder_close(ds_device *dev) {
    if (!only_cuda())
        ds_device_close(dev);
}

/* An op under test and whether samples are independent of each other in it. */
typedef struct {
    body_fn *body;
    int alone;
} rung;

/* On a GPU how an array lies decides which kernel of NVIDIA's libraries takes it, or whether one of
 * ours does. */
static inline int place_matters(const ds_device *dev) { return only_cuda() && !is_emulated(dev); }

/* The op once more, by another device and with every array one element off: the same bytes, or
 * numbers that are as right, and the same bytes when it lies as the first. */
static inline void ladder_again(const run *want, const run *a, ds_device *two, body_fn *body) {
    run *b = run_new(two, a->k, body, 0, a->B, 1);
    if (place_matters(two)) {
        compare_values(want, b);
        run_free(b);
        b = run_new(two, a->k, body, 0, a->B, 0);
    }
    compare_bytes(a, b, "the number of threads or the alignment");
    run_free(b);
}

/* `alone`: whether samples are independent (the op has no sum over them). */
static inline void ladder(const shape *k, body_fn *body, int alone) {
    ds_device *ref = NULL;
    ck_assert_int_eq(ds_device_open_ref(&ref, NULL, NULL), 0);
    run *want = run_new(ref, k, body, 0, k->B, 0);
    for (int set = 0; set < KERNEL_SETS; set++) {
        ds_device *one = ladder_device(set, 1), *two = one ? ladder_device(set, 2) : NULL;
        if (!one) {
            if (!only_cuda() && kernel_sets[set].precision != DS_PRECISION_TF32)
                ds_test_skip(kernel_sets[set].isa, "this machine has no such kernels");
            continue;
        }
        run *a = run_new(one, k, body, 0, k->B, 0);
        compare_values(want, a);
        ladder_again(want, a, two, body);
        for (int sample = 0; alone && k->B > 1 && sample < k->B; sample++) {
            if (k->B > 8 && sample % (k->B / 5) != 0 && sample != k->B - 1)
                continue; /* some are enough */
            run *c = run_new(two, k, body, sample, 1, 0);
            compare_bytes(a, c, "its neighbours");
            run_free(c);
        }
        run_free(a);
        ladder_close(one);
        ladder_close(two);
    }
    run_free(want);
    ds_device_close(ref);
}

#endif
