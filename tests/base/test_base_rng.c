/* tests/base/test_base_rng.c - Philox against the published vectors, and the distributions made of it.
 */
#include "base/rng.h"

#include "base/mem.h"
#include "tests/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Known answers of Random123 1.09 (kat_vectors, philox4x32-10). */
START_TEST(known_answers) {
    static const struct {
        uint64_t seed, sample;
        uint32_t stream, step, block, want[4];
    } kat[] = {
        {0, 0, 0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {0xffffffffffffffff,
         0xffffffff,
         0xffffffff,
         0xffffffff,
         0xffffffff,
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x299f31d0a4093822,
         0x13198a2e,
         0x03707344,
         0x85a308d3,
         0x243f6a88,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof kat / sizeof *kat; i++) {
        uint32_t out[4];
        ds_rng_block(out, kat[i].seed, kat[i].stream, kat[i].step, kat[i].sample, kat[i].block);
        for (int k = 0; k < 4; k++)
            ck_assert_uint_eq(out[k], kat[i].want[k]);
    }
}
END_TEST

/* Every coordinate names other numbers, the high half of a sample too. */
START_TEST(coordinates_matter) {
    uint32_t base[4], other[4];
    ds_rng_block(base, 1, 2, 3, 4, 5);
    for (int k = 0; k < 7; k++) {
        uint64_t seed = 1u + (k == 0) + ((uint64_t)(k == 1) << 40), sample = 4u + (k == 2);
        sample += (uint64_t)(k == 3) << 32;
        ds_rng_block(other, seed, 2 + (k == 4), 3 + (k == 5), sample, 5 + (k == 6));
        ck_assert_msg(memcmp(base, other, sizeof base) != 0, "coordinate %d is ignored", k);
    }
    ds_rng_block(other, 1, 2, 3, 4, 5);
    ck_assert_msg(!memcmp(base, other, sizeof base), "not a function of its arguments");
    for (uint32_t i = 0; i < 4; i++)
        ck_assert_uint_eq(ds_rng_u32(1, 2, 3, 4, 20 + i), base[i]);
}
END_TEST

START_TEST(uniform_and_below) {
    enum { N = 100000, BINS = 37 };
    static int count[BINS];
    double sum = 0;
    for (uint32_t i = 0; i < N; i++) {
        float u = ds_rng_uniform(7, DS_STREAM_TEST, 0, 0, i);
        uint32_t k = ds_rng_below(BINS, 7, DS_STREAM_TEST, 1, 0, i);
        if (!(u >= 0 && u < 1) || k >= BINS)
            ck_abort_msg("number %u is out of range: %g, %u", i, (double)u, k);
        sum += (double)u;
        count[k]++;
    }
    /* mean of N uniforms: deviation sqrt(1/12/N) = 9.1e-4; five of them */
    ck_assert_msg(fabs(sum / N - 0.5) < 5 * sqrt(1.0 / 12 / N), "mean %g", sum / N);
    double chi = 0, expected = (double)N / BINS;
    for (int k = 0; k < BINS; k++)
        chi += (count[k] - expected) * (count[k] - expected) / expected;
    ck_assert_msg(chi < 36 + 5 * sqrt(72), "chi squared of 36 degrees is %g", chi);
    ck_assert_uint_eq(ds_rng_below(1, 7, DS_STREAM_TEST, 2, 0, 0), 0);
}
END_TEST

/* Box-Muller by the definition, with libm in double: the polynomials are good to the last bits of
 * f32. */
START_TEST(normals_by_definition) {
    enum { N = 4001 };
    static float z[N];
    ds_rng_normal(z, N, 42, DS_STREAM_NOISE, 9, (uint64_t)3 << 32 | 1);
    for (uint32_t i = 0; i < N; i++) {
        uint32_t w[4];
        ds_rng_block(w, 42, DS_STREAM_NOISE, 9, (uint64_t)3 << 32 | 1, i / 4);
        double u = (w[i % 4 / 2 * 2] + 0.5) / 4294967296.0;
        double angle = 2 * acos(-1) * (w[i % 4 / 2 * 2 + 1] / 4294967296.0),
               radius = sqrt(-2 * log(u));
        double want = radius * (i % 2 ? sin(angle) : cos(angle));
        if (fabs((double)z[i] - want) > 0x1p-24 * fabs(want) * 1.0001 + 1e-14)
            ck_abort_msg("normal %u is %.9g, not %.9g", i, (double)z[i], want);
    }
}
END_TEST

START_TEST(normals_are_normal) {
    enum { N = 200000 };
    float *z = ds_xmalloc(N * sizeof *z);
    double moment[5] = {0}, lag = 0;
    int beyond = 0;
    ds_rng_normal(z, N, 1, DS_STREAM_TEST, 0, 0);
    for (int i = 0; i < N; i++) {
        double power = 1, x = z[i];
        for (int k = 1; k < 5; k++)
            moment[k] += (power *= x) / N;
        lag += i ? x * (double)z[i - 1] / N : 0;
        beyond += fabs(x) > 3;
    }
    /* deviations of the sample moments: sqrt(var(x^k) / N), var = 1, 2, 15, 96 */
    static const double want[5] = {0, 0, 1, 0, 3}, variance[5] = {0, 1, 2, 15, 96};
    for (int k = 1; k < 5; k++)
        ck_assert_msg(fabs(moment[k] - want[k]) < 5 * sqrt(variance[k] / N), "moment %d is %g", k,
                      moment[k]);
    ck_assert_msg(fabs(lag) < 5 / sqrt(N), "neighbours correlate: %g", lag);
    ck_assert_msg(abs(beyond - 540) < 5 * 24, "%d beyond three deviations, not 540", beyond);
    free(z);
}
END_TEST

/* The first n numbers do not depend on n. */
START_TEST(normals_have_prefixes) {
    float all[37], some[37];
    ds_rng_normal(all, 37, 5, DS_STREAM_TEST, 1, 2);
    for (size_t n = 0; n < 37; n++) {
        some[n] = 99;
        ds_rng_normal(some, n, 5, DS_STREAM_TEST, 1, 2);
        ck_assert_msg(!memcmp(all, some, n * sizeof *all), "prefix of %zu differs", n);
        ck_assert_msg(some[n] == 99, "a number beyond %zu is written", n);
    }
}
END_TEST

/* The bits that DS_RNG_VERSION 1 stands for: a change needs a new version. */
START_TEST(version_one) {
    static const uint32_t want[8] = {0xbf54bf3a, 0xbdfaada8, 0x3f8d9bed, 0xbf9af4f1,
                                     0xbeb3ce55, 0xbffdeceb, 0x3e839559, 0x3fd6bcfc};
    float z[8];
    ck_assert_int_eq(DS_RNG_VERSION, 1);
    ds_rng_normal(z, 8, 20240001, DS_STREAM_NOISE, 17, 12345);
    for (int i = 0; i < 8; i++) {
        uint32_t bits;
        memcpy(&bits, z + i, 4);
        ck_assert_msg(bits == want[i], "normal %d is 0x%08x, not 0x%08x", i, bits, want[i]);
    }
}
END_TEST

START_TEST(permutations) {
    enum { N = 1000 };
    static uint32_t a[N], b[N];
    static unsigned char seen[N];
    ds_rng_permutation(a, N, 3, DS_STREAM_SHUFFLE, 0);
    ds_rng_permutation(b, N, 3, DS_STREAM_SHUFFLE, 1);
    int same = 0, fixed = 0;
    for (uint32_t i = 0; i < N; i++) {
        ck_assert_msg(a[i] < N && !seen[a[i]], "not a permutation");
        seen[a[i]] = 1;
        same += a[i] == b[i];
        fixed += a[i] == i;
    }
    ck_assert_msg(same < 10 && fixed < 10, "%d in common, %d at home: one of each is expected",
                  same, fixed);
    ds_rng_permutation(b, N, 3, DS_STREAM_SHUFFLE, 0);
    ck_assert_msg(!memcmp(a, b, sizeof a), "not repeatable");
    b[0] = 77;
    ds_rng_permutation(b, 0, 3, DS_STREAM_SHUFFLE, 0);
    ck_assert_uint_eq(b[0], 77);
    ds_rng_permutation(b, 1, 3, DS_STREAM_SHUFFLE, 0);
    ck_assert_uint_eq(b[0], 0);
    /* three elements: six orders, equally often */
    int orders[6] = {0};
    for (uint32_t step = 0; step < 6000; step++) {
        ds_rng_permutation(b, 3, 3, DS_STREAM_SHUFFLE, step);
        orders[b[0] * 2 + (b[1] > b[2])]++;
    }
    for (int i = 0; i < 6; i++) /* deviation sqrt(6000 * 5 / 36) = 29 */
        ck_assert_msg(abs(orders[i] - 1000) < 5 * 29, "order %d comes %d times in 6000", i,
                      orders[i]);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, known_answers);
    tcase_add_test(tc, coordinates_matter);
    tcase_add_test(tc, uniform_and_below);
    tcase_add_test(tc, normals_by_definition);
    tcase_add_test(tc, normals_are_normal);
    tcase_add_test(tc, normals_have_prefixes);
    tcase_add_test(tc, version_one);
    tcase_add_test(tc, permutations);
}

int main(void) { return ds_test_main("base_rng", register_cases); }
