/* kernels/cpu/simd.h - the vector primitives that the .inl files are written over.
 *
 * vf is a vector of VL floats (16 with AVX-512, 8 with AVX2); + - * / are GCC's vector operators
 * and are not contracted; a fused product is always written vfma.  act_t is one activation. exp:
 * |relative error| < 2e-7 (degree-6 polynomial, Cephes expf coefficients).
 */
#ifndef DS_KERNELS_CPU_SIMD_H
#define DS_KERNELS_CPU_SIMD_H

#define INLINE static inline __attribute__((always_inline))
#define NATIVE (UNIT_AVX512 && UNIT_BF16)

#if UNIT_BF16
typedef uint16_t act_t;
#else
typedef float act_t;
#endif

#if UNIT_AVX512
enum { VL = 16, MR = 12 };
typedef __m512 vf;
typedef __m512i vi;
INLINE vf vzero(void) { return _mm512_setzero_ps(); }
INLINE vf vset(float x) { return _mm512_set1_ps(x); }
INLINE vf vload(const float *p) { return _mm512_loadu_ps(p); }
INLINE void vstore(float *p, vf x) { _mm512_storeu_ps(p, x); }
INLINE vf vfma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }   /* a b + c */
INLINE vf vfnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a b */
INLINE vf vmax(vf a, vf b) { return _mm512_max_ps(a, b); }
INLINE vf vmin(vf a, vf b) { return _mm512_min_ps(a, b); }
INLINE vf vsqrt(vf a) { return _mm512_sqrt_ps(a); }
INLINE __mmask16 lanes(int n) { return (__mmask16)((1u << n) - 1); }
/* The first n <= VL numbers, zeros behind. */
INLINE vf vload_n(const float *p, int n) {
    return n >= VL ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(lanes(n), p);
}
INLINE void vstore_n(float *p, vf x, int n) {
    if (n >= VL)
        _mm512_storeu_ps(p, x);
    else
        _mm512_mask_storeu_ps(p, lanes(n), x);
}
/* x where a > 0, else 0. */
INLINE vf vpositive(vf a, vf x) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, vzero(), _CMP_GT_OQ), x);
}
INLINE vf vexp(vf x) {
    x = vmin(vmax(x, vset(-87.3f)), vset(88.0f));
    vf n = _mm512_roundscale_ps(x * vset(1.44269504088896341f), 0x08);
    vf r = vfnma(n, vset(0.693359375f), x);
    r = vfnma(n, vset(-2.12194440e-4f), r);
    vf p = vset(1.9875691500e-4f);
    p = vfma(p, r, vset(1.3981999507e-3f));
    p = vfma(p, r, vset(8.3334519073e-3f));
    p = vfma(p, r, vset(4.1665795894e-2f));
    p = vfma(p, r, vset(1.6666665459e-1f));
    p = vfma(p, r, vset(5.0000001201e-1f));
    p = vfma(p, r * r, r) + vset(1.0f);
    return _mm512_scalef_ps(p, n);
}
INLINE vf vround_even(vf x) { return _mm512_roundscale_ps(x, 0x08); }
INLINE vf vscale2(vf x, vf n) { return _mm512_scalef_ps(x, n); } /* x 2^n, n whole */
/* 1/x for x in [1, 1e35]: the estimate (2^-14), and after one Newton step (error < 2e-7). */
INLINE vf vrecip_near(vf x) { return _mm512_rcp14_ps(x); }
INLINE vf vrecip(vf x) {
    vf r = _mm512_rcp14_ps(x);
    return vfma(r, vfnma(x, r, vset(1.0f)), r);
}
#else
enum { VL = 8, MR = 6 };
typedef __m256 vf;
typedef __m256i vi;
INLINE vf vzero(void) { return _mm256_setzero_ps(); }
INLINE vf vset(float x) { return _mm256_set1_ps(x); }
INLINE vf vload(const float *p) { return _mm256_loadu_ps(p); }
INLINE void vstore(float *p, vf x) { _mm256_storeu_ps(p, x); }
INLINE vf vfma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vf vfnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
INLINE vf vmax(vf a, vf b) { return _mm256_max_ps(a, b); }
INLINE vf vmin(vf a, vf b) { return _mm256_min_ps(a, b); }
INLINE vf vsqrt(vf a) { return _mm256_sqrt_ps(a); }
INLINE vi lanes(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE vf vload_n(const float *p, int n) {
    return n >= VL ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, lanes(n));
}
INLINE void vstore_n(float *p, vf x, int n) {
    if (n >= VL)
        _mm256_storeu_ps(p, x);
    else
        _mm256_maskstore_ps(p, lanes(n), x);
}
INLINE vf vpositive(vf a, vf x) { return _mm256_and_ps(_mm256_cmp_ps(a, vzero(), _CMP_GT_OQ), x); }
INLINE vf vexp(vf x) {
    x = vmin(vmax(x, vset(-87.3f)), vset(88.0f));
    vf n = _mm256_round_ps(x * vset(1.44269504088896341f), 0x08);
    vf r = vfnma(n, vset(0.693359375f), x);
    r = vfnma(n, vset(-2.12194440e-4f), r);
    vf p = vset(1.9875691500e-4f);
    p = vfma(p, r, vset(1.3981999507e-3f));
    p = vfma(p, r, vset(8.3334519073e-3f));
    p = vfma(p, r, vset(4.1665795894e-2f));
    p = vfma(p, r, vset(1.6666665459e-1f));
    p = vfma(p, r, vset(5.0000001201e-1f));
    p = vfma(p, r * r, r) + vset(1.0f);
    vi e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return p * _mm256_castsi256_ps(e);
}
INLINE vf vround_even(vf x) { return _mm256_round_ps(x, 0x08); }
INLINE vf vscale2(vf x, vf n) {
    vi e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return x * _mm256_castsi256_ps(e);
}
INLINE vf vrecip_near(vf x) { return vset(1.0f) / x; }
INLINE vf vrecip(vf x) { return vset(1.0f) / x; }
#endif

/* 2^x for |x| <= 126: degree 5 at Chebyshev nodes, |relative error| < 2.5e-7. */
INLINE vf vexp2(vf x) {
    vf n = vround_even(x), r = x - n;
    vf p = vset(0.00133908633f);
    p = vfma(p, r, vset(0.00967603177f));
    p = vfma(p, r, vset(0.0555035695f));
    p = vfma(p, r, vset(0.240221068f));
    p = vfma(p, r, vset(0.693147182f));
    p = vfma(p, r, vset(1.0f));
    return vscale2(p, n);
}

enum { NV = 2, NR = NV * VL };

/* Sums and maxima across lanes, in a fixed tree. */
#if UNIT_AVX512
INLINE float vsum(vf x) { return _mm512_reduce_add_ps(x); }
INLINE float vtop(vf x) { return _mm512_reduce_max_ps(x); }
#else
INLINE float vsum(vf x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
INLINE float vtop(vf x) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}
#endif

/* bf16 <-> f32, round to nearest even, NaN kept. */
INLINE uint16_t bf16_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}
INLINE float bf16_float(uint16_t h) {
    uint32_t u = (uint32_t)h << 16;
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

#if UNIT_BF16 && UNIT_AVX512
INLINE __m256i vbf16(vf x) { return (__m256i)_mm512_cvtneps_pbh(x); }
INLINE vf vwiden(__m256i h) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
INLINE vf ald(const act_t *p) { return vwiden(_mm256_loadu_si256((const void *)p)); }
INLINE void ast(act_t *p, vf x) { _mm256_storeu_si256((void *)p, vbf16(x)); }
INLINE vf ald_n(const act_t *p, int n) {
    return n >= VL ? ald(p) : vwiden(_mm256_maskz_loadu_epi16(lanes(n), p));
}
INLINE void ast_n(act_t *p, vf x, int n) {
    if (n >= VL)
        ast(p, x);
    else
        _mm256_mask_storeu_epi16(p, lanes(n), vbf16(x));
}
#elif UNIT_BF16
INLINE vf ald(const act_t *p) {
    __m128i h = _mm_loadu_si128((const void *)p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
INLINE vi vround(vf x) { /* the upper halves, rounded */
    vi u = _mm256_castps_si256(x);
    vi odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    vi r = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
    vf nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    vf quiet = _mm256_castsi256_ps(_mm256_or_si256(u, _mm256_set1_epi32(0x400000)));
    return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(r), quiet, nan));
}
INLINE void ast(act_t *p, vf x) {
    vi r = _mm256_srli_epi32(vround(x), 16);
    vi packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0xD8);
    _mm_storeu_si128((void *)p, _mm256_castsi256_si128(packed));
}
INLINE vf ald_n(const act_t *p, int n) {
    if (n >= VL)
        return ald(p);
    act_t t[VL] = {0};
    for (int i = 0; i < n; i++)
        t[i] = p[i];
    return ald(t);
}
INLINE void ast_n(act_t *p, vf x, int n) {
    if (n >= VL) {
        ast(p, x);
        return;
    }
    act_t t[VL];
    ast(t, x);
    for (int i = 0; i < n; i++)
        p[i] = t[i];
}
#else
INLINE vf ald(const act_t *p) { return vload(p); }
INLINE void ast(act_t *p, vf x) { vstore(p, x); }
INLINE vf ald_n(const act_t *p, int n) { return vload_n(p, n); }
INLINE void ast_n(act_t *p, vf x, int n) { vstore_n(p, x, n); }
#endif

/* Number i of an activation buffer as float, and back. */
#if UNIT_BF16
INLINE float aget(act_t x) { return bf16_float(x); }
INLINE act_t aput(float x) { return bf16_of(x); }
#else
INLINE float aget(act_t x) { return x; }
INLINE act_t aput(float x) { return x; }
#endif

INLINE act_t *acts(ds_act *p) { return (act_t *)(void *)p; }
INLINE const act_t *cacts(const ds_act *p) { return (const act_t *)(const void *)p; }
INLINE int imin(int a, int b) { return a < b ? a : b; }
INLINE int ceil_div(int a, int b) { return (a + b - 1) / b; }

/* gelu_tanh(u) = u sigmoid(2 k (u + c u^3)), k = sqrt(2/pi), c = 0.044715; in powers of two:
 * sigmoid(z) = 1 / (1 + 2^(-z log2 e)). */
INLINE vf gelu_sigmoid(vf u) {
    const float k = -2.302208198f; /* -2 sqrt(2/pi) log2 e */
    vf z = u * vfma(u * u, vset(k * 0.044715f), vset(k));
    vf d = vset(1.0f) + vexp2(vmin(vmax(z, vset(-115.0f)), vset(115.0f)));
    return UNIT_BF16 ? vrecip_near(d) : vrecip(d); /* bf16 results need no more */
}
INLINE vf gelu(vf u) { return u * gelu_sigmoid(u); }
INLINE vf gelu_slope(vf u) {
    vf s = gelu_sigmoid(u);
    vf dz = vfma(u * u, vset(1.5957691216f * 3 * 0.044715f), vset(1.5957691216f));
    return vfma(u * dz, s * (vset(1.0f) - s), s);
}
INLINE vf sigmoid(vf x) { return vrecip(vset(1.0f) + vexp(vmin(vzero() - x, vset(80.0f)))); }

#endif
