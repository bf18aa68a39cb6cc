/* tests/kernels_common.h - what the kernel tests share: numbers, guarded buffers, finite
 * differences.
 *
 * Numbers are k 2^(e-7) with |k| <= 127: exact in bf16 and in f32, and a step of a power of two
 * stays exact, so no tolerance has to pay for the rounding of inputs.
 */
#ifndef DS_TESTS_KERNELS_COMMON_H
#define DS_TESTS_KERNELS_COMMON_H

#include "base/mem.h"
#include "base/rng.h"
#include "kernels/device.h"
#include "tests/harness.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ck_assert_msg writes to a file each time it holds; this only when it does not. */
#define EXPECT(condition, ...)                                                                     \
    do {                                                                                           \
        if (!(condition))                                                                          \
            ck_abort_msg(__VA_ARGS__);                                                             \
    } while (0)

/* x (n) (=) uniform in (-2^e, 2^e) on the grid above. */
static inline void test_fill(float *x, size_t n, uint64_t seed, int e) {
    float unit = ldexpf(1, e - 7);
    for (size_t i = 0; i < n; i += 4) {
        uint32_t w[4];
        ds_rng_block(w, seed, DS_STREAM_TEST, 0, 0, (uint32_t)(i / 4));
        for (size_t k = 0; k < 4 && i + k < n; k++)
            x[i + k] = unit * (float)((int)(((uint64_t)w[k] * 255) >> 32) - 127);
    }
}

static inline float *test_random(size_t n, uint64_t seed, int e) {
    float *x = ds_xmalloc(n * sizeof *x);
    test_fill(x, n, seed, e);
    return x;
}

static inline ds_act *test_act(float *x) { return (ds_act *)(void *)x; }

/* Coefficients of diffusion_loss at step t of the linear schedule of 1000 steps. */
static inline void test_schedule(float coef[8], int t, float weight) {
    double before[2] = {1, 1}, after[2] = {1, 1}, beta[2] = {0, 0}; /* of step t and of step 1 */
    double product = 1;
    for (int i = 0; i <= (t > 1 ? t : 1); i++) {
        double b = 1e-4 + (2e-2 - 1e-4) * i / 999;
        for (int k = 0; k < 2; k++)
            if (i == (k ? 1 : t)) {
                before[k] = product;
                after[k] = product * (1 - b);
                beta[k] = b;
            }
        product *= 1 - b;
    }
    int first = t == 0; /* its posterior variance is 0: that of step 1 stands in */
    double variance = beta[first] * (1 - before[first]) / (1 - after[first]);
    coef[0] = (float)log(beta[0]);
    coef[1] = (float)log(variance);
    coef[2] = (float)(beta[0] * sqrt(before[0]) / (1 - after[0]));
    coef[3] = (float)((1 - before[0]) * sqrt(1 - beta[0]) / (1 - after[0]));
    coef[4] = (float)sqrt(1 / after[0]);
    coef[5] = (float)sqrt(1 / after[0] - 1);
    coef[6] = first ? 1 : 0;
    coef[7] = weight;
}

/* A buffer between two guard zones; guard_check says whether both are untouched. */
enum { GUARD = 192, GUARD_BYTE = 0xA5 };

/* The whole of it, guard zones and all. */
static inline size_t guard_bytes(size_t bytes) { return bytes + 2 * GUARD + 64; }
static inline void *guard_start(void *p, size_t offset) {
    return (unsigned char *)p - GUARD - offset;
}

static inline void *guard_new(size_t bytes, size_t offset) {
    DS_ASSERT(offset < 64);
    unsigned char *raw = ds_xaligned(guard_bytes(bytes));
    memset(raw, GUARD_BYTE, guard_bytes(bytes));
    return raw + GUARD + offset;
}

static inline int guard_check(const void *p, size_t bytes, size_t offset) {
    const unsigned char *q = p;
    for (size_t i = 0; i < GUARD + offset; i++)
        if (q[-1 - (ptrdiff_t)i] != GUARD_BYTE)
            return 0;
    for (size_t i = 0; i < GUARD; i++)
        if (q[bytes + i] != GUARD_BYTE)
            return 0;
    return 1;
}

static inline void guard_free(void *p, size_t offset) {
    if (p)
        free(guard_start(p, offset));
}

#endif
