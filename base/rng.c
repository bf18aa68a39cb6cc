/* base/rng.c - Philox4x32-10 and normals without libm.  Built with -ffp-contract=off (Makefile). */
#include "base/rng.h"

#include <math.h>
#include <string.h>

void ds_rng_block(uint32_t out[4], uint64_t seed, uint32_t stream, uint32_t step, uint64_t sample,
                  uint32_t block) {
    uint32_t c0 = block, c1 = step, c2 = (uint32_t)sample;
    uint32_t c3 = stream ^ ((uint32_t)(sample >> 32) * 0x9E3779B9u);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
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

/* Natural logarithm of x in (0,1], to about 1e-15: x = 2^e m, m in [sqrt(1/2), sqrt(2)),
 * log m = 2 atanh(z), z = (m-1)/(m+1), odd series in z up to z^19. */
static inline double log_positive(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int64_t e = (int64_t)(bits >> 52) - 1023;
    bits = (bits & 0x000FFFFFFFFFFFFFull) | 0x3FF0000000000000ull;
    double m;
    memcpy(&m, &bits, sizeof m);
    int big = m > 1.4142135623730951;
    m = big ? m * 0.5 : m;
    e += big;
    double z = (m - 1.0) / (m + 1.0), q = z * z;
    double s = 1.0 / 19;
    s = s * q + 1.0 / 17;
    s = s * q + 1.0 / 15;
    s = s * q + 1.0 / 13;
    s = s * q + 1.0 / 11;
    s = s * q + 1.0 / 9;
    s = s * q + 1.0 / 7;
    s = s * q + 1.0 / 5;
    s = s * q + 1.0 / 3;
    s = s * q + 1.0;
    return (double)e * 0.6931471805599453 + 2.0 * z * s;
}

/* cos and sin of 2 pi u, u in [0,1): quadrant by the top two bits of the 32-bit word, Taylor series
 * of an angle in [0, pi/2) centred at pi/4. */
static inline void sincos_turn(uint32_t w, double *c, double *s) {
    uint32_t quadrant = w >> 30;
    double a = ((double)(w & 0x3FFFFFFFu) - 536870912.0) * (1.5707963267948966 / 1073741824.0);
    double q = a * a; /* |a| <= pi/4 */
    double sn =
        a * (1 + q * (-1.0 / 6 +
                      q * (1.0 / 120 + q * (-1.0 / 5040 +
                                            q * (1.0 / 362880 + q * (-1.0 / 39916800 +
                                                                     q * (1.0 / 6227020800.0)))))));
    double cs =
        1 + q * (-0.5 + q * (1.0 / 24 +
                             q * (-1.0 / 720 + q * (1.0 / 40320 + q * (-1.0 / 3628800 +
                                                                       q * (1.0 / 479001600.0))))));
    double r = 0.7071067811865476; /* rotate by pi/4 */
    double c1 = r * (cs - sn), s1 = r * (cs + sn);
    double cc = (quadrant & 1) ? -s1 : c1, ss = (quadrant & 1) ? c1 : s1;
    *c = (quadrant & 2) ? -cc : cc;
    *s = (quadrant & 2) ? -ss : ss;
}

static inline void box_muller(float out[2], uint32_t w0, uint32_t w1) {
    double u = ((double)w0 + 0.5) * 0x1p-32; /* in (0,1): log is finite */
    double radius = sqrt(-2.0 * log_positive(u)), c, s;
    sincos_turn(w1, &c, &s);
    out[0] = (float)(radius * c);
    out[1] = (float)(radius * s);
}

void ds_rng_normal(float *out, size_t n, uint64_t seed, uint32_t stream, uint32_t step,
                   uint64_t sample) {
    for (size_t i = 0; i < n; i += 4) {
        uint32_t w[4];
        float z[4];
        ds_rng_block(w, seed, stream, step, sample, (uint32_t)(i / 4));
        box_muller(z, w[0], w[1]);
        box_muller(z + 2, w[2], w[3]);
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
