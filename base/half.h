/* base/half.h - numbers of 16 bits: BF16 (the upper half of an F32) and F16 (IEEE 754 binary16).
 *
 * To 16 bits: round to nearest even; NaN stays NaN (quiet), overflow becomes infinity.  To 32 bits:
 * exact.  Pure; any thread.
 */
#ifndef DS_BASE_HALF_H
#define DS_BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint16_t ds_bf16_from_f32(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x0040u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

static inline float ds_bf16_to_f32(uint16_t h) {
    uint32_t u = (uint32_t)h << 16;
    float x;
    memcpy(&x, &u, 4);
    return x;
}

/* x as a file of BF16 gives it back. */
static inline float ds_bf16_round(float x) { return ds_bf16_to_f32(ds_bf16_from_f32(x)); }

uint16_t ds_f16_from_f32(float x);
float ds_f16_to_f32(uint16_t h);

#endif
