/* base/rng.h - counter-based random numbers: the same on every device, in any batch split, after
 * any resume.
 *
 * Philox4x32-10 (Salmon et al., SC 2011), key = seed, counter = (block, step, sample, stream).  A
 * number is named by (seed, stream, step, sample, index); nothing is stored between calls.
 *   counter words:  c0 = index / 4,  c1 = step,  c2 = low 32 bits of sample,
 *                   c3 = stream ^ (high 32 bits of sample * 0x9E3779B9)
 *   key words:      k0 = low 32 bits of seed,  k1 = high 32 bits
 *
 * Normal numbers: Box-Muller on word pairs (0,1) and (2,3) with a log and sin/cos of its own
 * polynomials in double (only + - * / sqrt, compiled without contraction), so the bits do not
 * depend on a libm.  DS_RNG_VERSION names the definition and is written into adapters.
 */
#ifndef DS_BASE_RNG_H
#define DS_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

#define DS_RNG_VERSION 1

/* One list of streams, so that no two uses share numbers. */
enum ds_stream {
    DS_STREAM_INIT = 1,     /* adapter and base initialisation */
    DS_STREAM_SHUFFLE = 2,  /* order of an epoch */
    DS_STREAM_TIMESTEP = 3, /* t of a training sample */
    DS_STREAM_NOISE = 4,    /* epsilon of a training sample */
    DS_STREAM_DROPOUT = 5,  /* label dropout */
    DS_STREAM_FLIP = 6,     /* horizontal flip */
    DS_STREAM_SAMPLE = 7,   /* sampler: starting noise (step 0) and step noise (step 1..) */
    DS_STREAM_HELDOUT = 8,  /* held-out loss */
    DS_STREAM_KID = 9,      /* KID subsets */
    DS_STREAM_TEST = 10,
    DS_STREAM_SPLIT = 11,    /* held-out split, reference subset */
    DS_STREAM_LATENT = 12,   /* a training latent, drawn from its posterior */
    DS_STREAM_OBJECTIVE = 13 /* noise by which the objective of a base is found */
};

void ds_rng_block(uint32_t out[4], uint64_t seed, uint32_t stream, uint32_t step, uint64_t sample,
                  uint32_t block);

/* Index-th 32-bit word / uniform in [0,1) with 24 bits / integer in [0,bound) / standard normal. */
uint32_t ds_rng_u32(uint64_t seed, uint32_t stream, uint32_t step, uint64_t sample, uint32_t index);
float ds_rng_uniform(uint64_t seed, uint32_t stream, uint32_t step, uint64_t sample,
                     uint32_t index);
uint32_t ds_rng_below(uint32_t bound, uint64_t seed, uint32_t stream, uint32_t step,
                      uint64_t sample, uint32_t index);

/* out[0..n) = the first n normals of the stream. */
void ds_rng_normal(float *out, size_t n, uint64_t seed, uint32_t stream, uint32_t step,
                   uint64_t sample);

/* Fisher-Yates of 0..n-1 into out, keyed by (seed, stream, step). */
void ds_rng_permutation(uint32_t *out, uint32_t n, uint64_t seed, uint32_t stream, uint32_t step);

#endif
