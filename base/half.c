/* base/half.c - see half.h. */
#include "base/half.h"

float ds_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h >> 15) << 31, e = (h >> 10) & 31, f = h & 0x3ff, u;
    float x;
    if (e == 0) { /* zero or subnormal: f * 2^-24, exact */
        x = (float)f * 0x1p-24f;
        return sign ? -x : x;
    }
    u = sign | (e == 31 ? 0x7f800000u : (e + 112) << 23) | f << 13;
    memcpy(&x, &u, 4);
    return x;
}

uint16_t ds_f16_from_f32(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    uint32_t sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | ((a >> 13) & 0x3ffu));
    if (a >= 0x477ff000u) /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (a < 0x38800000u) { /* below 2^-14: a multiple of 2^-24; adding 0.5 rounds it to even */
        float f, half = 0.5f;
        memcpy(&f, &a, 4);
        f += half;
        memcpy(&u, &f, 4);
        return (uint16_t)(sign | (u - 0x3f000000u));
    }
    return (uint16_t)(sign | ((a - 0x38000000u + 0xfffu + ((a >> 13) & 1u)) >> 13));
}
