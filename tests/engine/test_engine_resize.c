/* tests/engine/test_engine_resize.c - the resampler against Pillow (tests/golden/images/resize.*). */
#include "base/digest.h"
#include "base/fs.h"
#include "base/mem.h"
#include "engine/metrics/resize.h"
#include "tests/harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The same bytes as pixels() of tests/golden/make_images.py. */
static uint8_t *pixels(int w, int h) {
    uint32_t x = 12345;
    uint8_t *p = ds_xmalloc((size_t)w * (size_t)h * 3);
    for (int i = 0; i < w * h * 3; i++) {
        x = (x * 1103515245u + 12345u) & 0x7fffffffu;
        int noise = (int)(x >> 16 & 255), px = i / 3 % w;
        p[i] = (uint8_t)(px * 8 / w % 2 ? noise : px * 255 / w + noise / 8);
    }
    return p;
}

static int worst_difference(const uint8_t *a, const uint8_t *b, size_t n) {
    int worst = 0;
    for (size_t i = 0; i < n; i++) {
        int d = abs(a[i] - b[i]);
        worst = d > worst ? d : worst;
    }
    return worst;
}

START_TEST(resize_agrees_with_pillow) {
    FILE *f = fopen("tests/golden/images/resize.txt", "r");
    char *stored;
    size_t stored_n;
    ck_assert_ptr_nonnull(f);
    ck_assert_int_eq(
        ds_fs_read("tests/golden/images/resize.bin", 1 << 24, &stored, &stored_n, NULL), 0);
    int w, h, ow, oh, square, cases = 0, compared = 0;
    long offset;
    char want[80], got[DS_HEX_SIZE];
    while (fscanf(f, "%d %d %d %d %d %79s %ld", &w, &h, &ow, &oh, &square, want, &offset) == 7) {
        size_t n = (size_t)ow * (size_t)oh * 3;
        uint8_t *in = pixels(w, h), *out = ds_xmalloc(n);
        if (square)
            ds_resize_square(out, ow, in, w, h, 3);
        else
            ds_resize_bicubic(out, ow, oh, in, w, h, (size_t)w * 3, 3);
        if (offset >= 0) {
            ck_assert_uint_le((size_t)offset + n, stored_n);
            ck_assert_int_eq(worst_difference(out, (uint8_t *)stored + offset, n), 0);
            compared++;
        }
        ds_digest(out, n, got);
        ck_assert_msg(!strcmp(got, want), "%d x %d -> %d x %d differs from Pillow", w, h, ow, oh);
        free(in);
        free(out);
        cases++;
    }
    fclose(f);
    free(stored);
    ck_assert_int_eq(cases, 17);
    ck_assert_int_ge(compared, 10);
}
END_TEST

/* Constants stay constants: weights sum to one after rounding well enough for 8 bits. */
START_TEST(resize_keeps_flat_areas) {
    static const int sides[] = {1, 3, 8, 20, 32, 64, 299, 1000};
    for (size_t a = 0; a < sizeof sides / sizeof *sides; a++)
        for (size_t b = 0; b < sizeof sides / sizeof *sides; b++)
            for (int v = 0; v <= 255; v += 51) {
                int s = sides[a], t = sides[b] > 64 && s > 64 ? 64 : sides[b];
                uint8_t *in = ds_xmalloc((size_t)(s * s * 3)),
                        *out = ds_xmalloc((size_t)(t * t * 3));
                memset(in, v, (size_t)(s * s * 3));
                ds_resize_bicubic(out, t, t, in, s, s, (size_t)s * 3, 3);
                int wrong = 0;
                for (int i = 0; i < t * t * 3; i++)
                    wrong += out[i] != v;
                ck_assert_int_eq(wrong, 0);
                free(in);
                free(out);
            }
}
END_TEST

/* Pixels outside the centre square are without influence. */
START_TEST(square_ignores_the_rest) {
    int w = 50, h = 20;
    uint8_t *a = pixels(w, h), *b = pixels(w, h), x[16 * 16 * 3], y[16 * 16 * 3];
    for (int row = 0; row < h; row++) {
        memset(b + row * w * 3, 7, 15 * 3);
        memset(b + (row * w + 35) * 3, 9, 15 * 3);
    }
    ds_resize_square(x, 16, a, w, h, 3);
    ds_resize_square(y, 16, b, w, h, 3);
    ck_assert_mem_eq(x, y, sizeof x);
    b[(10 * w + 25) * 3] ^= 255;
    ds_resize_square(y, 16, b, w, h, 3);
    ck_assert_mem_ne(x, y, sizeof x);
    free(a);
    free(b);
}
END_TEST

START_TEST(unit_f32_is_the_8_bit_result) {
    uint8_t *in = pixels(32, 32), *bytes = ds_xmalloc(299 * 299 * 3);
    float *out = ds_xmalloc(299 * 299 * 3 * sizeof *out);
    ds_resize_unit_f32(out, 299, in, 32);
    ds_resize_bicubic(bytes, 299, 299, in, 32, 32, 96, 3);
    int wrong = 0;
    for (int i = 0; i < 299 * 299 * 3; i++)
        wrong += out[i] != (float)bytes[i] / 255.0f;
    ck_assert_int_eq(wrong, 0);
    free(in);
    free(bytes);
    free(out);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, resize_agrees_with_pillow);
    tcase_add_test(tc, resize_keeps_flat_areas);
    tcase_add_test(tc, square_ignores_the_rest);
    tcase_add_test(tc, unit_f32_is_the_8_bit_result);
}

int main(void) { return ds_test_main("engine_resize", cases); }
