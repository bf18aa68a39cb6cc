/* base/rng.c - the numbers of base/rng.h.  Built with -ffp-contract=off (Makefile). */
#include "base/rng.h"
#include "base/rng_core.h"

void ds_rng_block(uint32_t out[4], uint64_t seed, uint32_t stream, uint32_t step, uint64_t sample,
                  uint32_t block) {
    ds_rng_core_block(out, seed, stream, step, sample, block);
}

uint32_t ds_rng_u32(uint64_t seed, uint32_t stream, uint32_t step, uint64_t sample,
                    uint32_t index) {
    uint32_t w[4];
    ds_rng_block(w, seed, stream, step, sample, index / 4);
    return w[index % 4];
}

float ds_rng_uniform(uint64_t seed, uint32_t stream, uint32_t step, uint64_t sample,
                     uint32_t index) {
    return (float)(ds_rng_u32(seed, stream, step, sample, index) >> 8) * 0x1p-24f;
}

uint32_t ds_rng_below(uint32_t bound, uint64_t seed, uint32_t stream, uint32_t step,
                      uint64_t sample, uint32_t index) {
    return (uint32_t)(((uint64_t)ds_rng_u32(seed, stream, step, sample, index) * bound) >> 32);
}

void ds_rng_normal(float *out, size_t n, uint64_t seed, uint32_t stream, uint32_t step,
                   uint64_t sample) {
    for (size_t i = 0; i < n; i += 4) {
        float z[4];
        ds_rng_core_normals(z, seed, stream, step, sample, (uint32_t)(i / 4));
        size_t left = n - i < 4 ? n - i : 4;
        memcpy(out + i, z, left * sizeof *z);
    }
}

void ds_rng_permutation(uint32_t *out, uint32_t n, uint64_t seed, uint32_t stream, uint32_t step) {
    for (uint32_t i = 0; i < n; i++)
        out[i] = i;
    for (uint32_t i = n; i > 1; i--) {
        uint32_t j = ds_rng_below(i, seed, stream, step, 0, i), t = out[i - 1];
        out[i - 1] = out[j];
        out[j] = t;
    }
}
