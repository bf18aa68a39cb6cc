/* kernels/cpu/pack.inl - writing panels (cpu.h): from rows that are columns of B ("t", a transpose)
 * and from rows that are steps ("n").  One panel at a time; missing columns and half pairs become
 * zero. */

#if UNIT_AVX512
/* 16 rows of 16 dwords in place. */
INLINE void transpose16(vi r[16]) {
    vi t[16];
    _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
    }
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
        r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
        r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
        r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
    }
}

/* 16 rows, ld bytes apart, 16 dwords of each -> 16 steps of a panel. */
INLINE void panel_t_whole(uint32_t *dst, const char *src, ptrdiff_t ld) {
    vi r[16];
    _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_si512(src + i * ld);
    transpose16(r);
    _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) _mm512_storeu_si512(dst + i * NR, r[i]);
}

/* Rows of `halves` 16-bit numbers, ld bytes apart, cols <= NR of them: dst[step][col], a step = 32
 * bits. */
static void panel_t_dwords(uint32_t *dst, const char *src, ptrdiff_t ld, int cols, int halves) {
    for (int h = 0; h < halves; h += 32) {
        int left = imin(32, halves - h), steps = (left + 1) / 2;
        __mmask32 mask = left == 32 ? 0xffffffffu : (1u << left) - 1;
        for (int v = 0; v < NV; v++) {
            uint32_t *to = dst + (size_t)(h / 2) * NR + v * VL;
            if (left == 32 && (v + 1) * VL <= cols) {
                panel_t_whole(to, src + v * VL * ld + (ptrdiff_t)h * 2, ld);
                continue;
            }
            vi r[16];
            _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) {
                int c = v * VL + i;
                r[i] = c < cols ? _mm512_maskz_loadu_epi16(mask, src + c * ld + (ptrdiff_t)h * 2)
                                : _mm512_setzero_si512();
            }
            transpose16(r);
            for (int s = 0; s < steps; s++)
                _mm512_storeu_si512(to + (size_t)s * NR, r[s]);
        }
    }
}
#endif

static void panel_t_f32(float *dst, const float *src, size_t ld, int cols, int depth) {
#if UNIT_AVX512
    panel_t_dwords((uint32_t *)(void *)dst, (const char *)src, (ptrdiff_t)(ld * 4), cols,
                   depth * 2);
#else
    for (int s = 0; s < depth; s++)
        for (int c = 0; c < NR; c++)
            dst[(size_t)s * NR + (size_t)c] = c < cols ? src[(size_t)c * ld + (size_t)s] : 0;
#endif
}

static void panel_n_f32(float *dst, const float *src, size_t ld, int depth, int cols) {
    if (cols == NR) {
        for (int s = 0; s < depth; s++, src += ld, dst += NR) {
            vf x = vload(src), y = vload(src + VL);
            vstore(dst, x);
            vstore(dst + VL, y);
        }
        return;
    }
    for (int s = 0; s < depth; s++)
        for (int v = 0; v < NV; v++) {
            int n = cols - v * VL;
            vstore(dst + (size_t)s * NR + v * VL,
                   n > 0 ? vload_n(src + (size_t)s * ld + v * VL, n) : vzero());
        }
}

#if NATIVE
/* Up to 16 bf16, zero-extended to dwords. */
INLINE vi halves_n(const uint16_t *p, int n) {
    if (n >= VL)
        return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p));
    return n > 0 ? _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes(n), p))
                 : _mm512_setzero_si512();
}
/* The pairs of rows s and s+1 (or zeros) for up to 16 columns. */
INLINE vi pairs_of_rows(const uint16_t *p, size_t ld, int second, int n) {
    vi low = halves_n(p, n);
    return second ? _mm512_or_si512(low, _mm512_slli_epi32(halves_n(p + ld, n), 16)) : low;
}
#endif

/* Panels whose kind follows the activations: pairs when there are products for them, else f32. */
#define ACT_STEPS(depth) (NATIVE ? ((depth) + 1) / 2 : (depth))
#define ACT_PANEL_BYTES(depth) ((size_t)ACT_STEPS(depth) * NR * 4)

static void panel_n_act(void *dst, const act_t *src, size_t ld, int depth, int cols) {
#if NATIVE
    if (cols == NR && depth % 2 == 0) {
        /* lanes 0-15 of two rows, interleaved: unpack works in 128-bit groups, so permute first */
        const vi order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
        char *to = dst;
        for (int s = 0; s < depth; s += 2, src += 2 * ld, to += NR * 4) {
            vi a = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(src));
            vi b = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(src + ld));
            vi low = _mm512_unpacklo_epi16(a, b), high = _mm512_unpackhi_epi16(a, b);
            _mm512_storeu_si512(to, low);
            _mm512_storeu_si512(to + 64, high);
        }
        return;
    }
    for (int s = 0; s < depth; s += 2)
        for (int v = 0; v < NV; v++)
            _mm512_storeu_si512(
                (uint32_t *)dst + (size_t)(s / 2) * NR + v * VL,
                pairs_of_rows(src + (size_t)s * ld + v * VL, ld, s + 1 < depth, cols - v * VL));
#elif !UNIT_BF16
    panel_n_f32(dst, src, ld, depth, cols);
#else
    for (int s = 0; s < depth; s++)
        for (int v = 0; v < NV; v++) {
            int n = cols - v * VL;
            vstore((float *)dst + (size_t)s * NR + v * VL,
                   n > 0 ? ald_n(src + (size_t)s * ld + v * VL, n) : vzero());
        }
#endif
}

static void panel_t_act(void *dst, const act_t *src, size_t ld, int cols, int depth) {
#if NATIVE
    panel_t_dwords(dst, (const char *)src, (ptrdiff_t)(ld * 2), cols, depth);
#elif UNIT_BF16
    float *to = dst;
    for (int s = 0; s < depth; s++)
        for (int c = 0; c < NR; c++)
            to[(size_t)s * NR + (size_t)c] = c < cols ? aget(src[(size_t)c * ld + (size_t)s]) : 0;
#else
    panel_t_f32(dst, src, ld, cols, depth);
#endif
}

/* Whole operands: all panels of a (depth, cols) matrix whose rows are columns / steps. */
static void pack_t_act(void *dst, const act_t *src, size_t ld, int cols, int depth) {
    for (int c = 0; c < cols; c += NR)
        panel_t_act((char *)dst + (size_t)(c / NR) * ACT_PANEL_BYTES(depth), src + (size_t)c * ld,
                    ld, imin(NR, cols - c), depth);
}
static void pack_n_act(void *dst, const act_t *src, size_t ld, int depth, int cols) {
    for (int c = 0; c < cols; c += NR)
        panel_n_act((char *)dst + (size_t)(c / NR) * ACT_PANEL_BYTES(depth), src + c, ld, depth,
                    imin(NR, cols - c));
}
#if !NATIVE
static void pack_t_f32(float *dst, const float *src, size_t ld, int cols, int depth) {
    for (int c = 0; c < cols; c += NR)
        panel_t_f32(dst + (size_t)c * (size_t)depth, src + (size_t)c * ld, ld, imin(NR, cols - c),
                    depth);
}
static void pack_n_f32(float *dst, const float *src, size_t ld, int depth, int cols) {
    for (int c = 0; c < cols; c += NR)
        panel_n_f32(dst + (size_t)c * (size_t)depth, src + c, ld, depth, imin(NR, cols - c));
}
#endif

/* panel_n_act of a left operand (a sum over rows), with the column sums: sums (NR) (+=). */
static void panel_n_sums(void *dst, const act_t *src, size_t ld, int depth, int cols, float *sums) {
    for (int v = 0; v * VL < cols; v++) {
        vf acc = vzero();
        int n = cols - v * VL;
        for (int s = 0; s < depth; s++)
            acc = acc + ald_n(src + (size_t)s * ld + v * VL, n);
        vstore_n(sums + v * VL, vload_n(sums + v * VL, n) + acc, n);
    }
    panel_n_act(dst, src, ld, depth, cols);
}
