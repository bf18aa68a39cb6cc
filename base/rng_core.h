/* base/rng_core.h - the arithmetic of base/rng.h: Philox4x32-10 and normals without libm.
 *
 * Written once for every device: base/rng.c and kernels/cuda/diffusion.cu include it, each built
 * without contraction (Makefile), so the bits agree.  kernels/cpu/diffusion.inl is the same on
 * vectors.  Nothing else includes it.
 */
#ifndef DS_BASE_RNG_CORE_H
#define DS_BASE_RNG_CORE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifndef DS_RNG_FN /* what a device's compiler wants before a function of its own */
#define DS_RNG_FN static inline
#endif

DS_RNG_FN void ds_rng_core_block(uint32_t out[4], uint64_t seed, uint32_t stream, uint32_t step,
                                 uint64_t sample, uint32_t block) {
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

/* Natural logarithm of x in (0,1], to about 1e-15: x = 2^e m, m in [sqrt(1/2), sqrt(2)),
 * log m = 2 atanh(z), z = (m-1)/(m+1), odd series in z up to z^19. */
DS_RNG_FN double ds_rng_core_log(double x) {
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
DS_RNG_FN void ds_rng_core_sincos(uint32_t w, double *c, double *s) {
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

/* Two normals of two words. */
DS_RNG_FN void ds_rng_core_pair(float out[2], uint32_t w0, uint32_t w1) {
    double u = ((double)w0 + 0.5) * 0x1p-32; /* in (0,1): log is finite */
    double radius = sqrt(-2.0 * ds_rng_core_log(u)), c, s;
    ds_rng_core_sincos(w1, &c, &s);
    out[0] = (float)(radius * c);
    out[1] = (float)(radius * s);
}

/* Four normals: number `block` of the stream. */
DS_RNG_FN void ds_rng_core_normals(float z[4], uint64_t seed, uint32_t stream, uint32_t step,
                                   uint64_t sample, uint32_t block) {
    uint32_t w[4];
    ds_rng_core_block(w, seed, stream, step, sample, block);
    ds_rng_core_pair(z, w[0], w[1]);
    ds_rng_core_pair(z + 2, w[2], w[3]);
}

#endif
