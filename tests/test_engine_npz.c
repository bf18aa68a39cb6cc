/* tests/test_engine_npz.c - statistics files of NumPy (tools/parity/make_npz_golden.py), ours, and
 * files that must be refused. */
#include "base/fs.h"
#include "base/mem.h"
#include "engine/npz.h"
#include "tests/harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN "tests/golden/npz/"

static void check_pair(const double *mu, const double *sigma, int n) {
    for (int i = 0; i < n; i++) {
        ck_assert_double_eq(mu[i], i / 8.0);
        for (int j = 0; j < n; j++)
            ck_assert_double_eq(sigma[i * n + j], (i == j) + 1 / 16.0);
    }
}

START_TEST(written_by_numpy) {
    static const struct {
        const char *name;
        int spatial;
    } files[] = {{"plain", 0},      {"packed", 3}, {"narrow", 0}, {"fortran", 0},
                 {"big-endian", 0}, {"half", 0},   {"adm", 3},    {"python2", 0}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[128];
        ds_npz_stats s;
        ds_error err = {0};
        snprintf(path, sizeof path, GOLDEN "%s.npz", files[i].name);
        ck_assert_msg(!ds_npz_read_stats(path, &s, &err), "%s", err.message);
        ck_assert_int_eq(s.dim, 6);
        ck_assert_int_eq(s.dim_s, files[i].spatial);
        ck_assert(!s.known && s.n == -1);
        check_pair(s.mu, s.sigma, 6);
        ck_assert_int_eq(s.mu_s != NULL, files[i].spatial > 0);
        if (s.mu_s)
            check_pair(s.mu_s, s.sigma_s, s.dim_s);
        ds_npz_stats_release(&s);
    }
}
END_TEST

static const struct {
    const char *name, *says;
    int unsupported; /* whole, but of another kind */
} refused[] = {{"bad-nan", "not finite", 0},
               {"bad-skew", "not symmetric", 0},
               {"bad-negative", "variance is negative", 0},
               {"bad-shape", "wrong shape", 1},
               {"bad-sizes", "wrong shape", 1},
               {"bad-type", "'<i8'", 1},
               {"bad-large", "above 1e100", 0},
               {"bad-missing", "'sigma.npy' is missing", 0},
               {"bad-no-mu", "no member 'mu.npy'", 1},
               {"bad-short", "shorter than its header", 0},
               {"bad-long", "longer than its header", 0},
               {"bad-pickle", "'|O'", 1},
               {"bad-structured", "numbers of type '[(", 1},
               {"bad-huge", "wrong shape", 1},
               {"bad-side", "shape", 1},
               {"bad-bomb", "longer than its header", 0},
               {"bad-members", "more than 64", 0},
               {"bad-magic", "not an .npy array", 0},
               {"bad-header", "cannot be read", 0},
               {"bad-twice", "cannot be read", 0},
               {"bad-cut", "not a whole .npz", 0},
               {"bad-text", "not a whole .npz", 0},
               {"bad-flip", "damaged", 0}};

START_TEST(refused_with_a_reason) {
    char path[128];
    ds_npz_stats s;
    ds_error err = {0};
    snprintf(path, sizeof path, GOLDEN "%s.npz", refused[_i].name);
    int rc = ds_npz_read_stats(path, &s, &err);
    ck_assert_msg(refused[_i].unsupported ? rc == DS_EINVAL
                                          : rc == DS_EINTEGRITY || rc == DS_ELIMIT,
                  "%s: %d %s", path, rc, err.message);
    ck_assert_msg(strstr(err.message, refused[_i].says) && strstr(err.message, refused[_i].name),
                  "%s: %s", path, err.message);
    ck_assert(!s.mu && !s.sigma && !s.mu_s);
}
END_TEST

/* Every byte changed, every length: refused, or the very same numbers. */
START_TEST(any_damage) {
    char *data, path[512];
    size_t n;
    ds_error err = {0};
    ds_npz_stats s;
    ck_assert(!ds_fs_read(GOLDEN "plain.npz", 1 << 20, &data, &n, &err));
    snprintf(path, sizeof path, "%s/damaged.npz", ds_test_tmpdir());
    int accepted = 0;
    for (size_t i = 0; i < 2 * n; i++) {
        size_t length = i < n ? n : i - n;
        if (i < n)
            data[i] ^= (char)(1 + i % 255);
        FILE *f = fopen(path, "wb");
        ck_assert(f && fwrite(data, 1, length, f) == length && !fclose(f));
        if (i < n)
            data[i] ^= (char)(1 + i % 255);
        if (!ds_npz_read_stats(path, &s, &err)) {
            check_pair(s.mu, s.sigma, 6);
            ds_npz_stats_release(&s);
            accepted++;
        }
    }
    printf("%d of %zu damaged files still hold the numbers\n", accepted, 2 * n);
    ck_assert_int_lt(accepted, (int)n / 8); /* times, versions, attributes */
    free(data);
}
END_TEST

START_TEST(round_trip) {
    enum { D = 70, S = 5 };
    static double mu[D], sigma[D * D], mu_s[S], sigma_s[S * S];
    char path[512], again[512];
    ds_error err = {0};
    ds_npz_stats got, s = {.mu = mu,
                           .sigma = sigma,
                           .dim = D,
                           .mu_s = mu_s,
                           .sigma_s = sigma_s,
                           .dim_s = S,
                           .known = 1,
                           .preprocess = "torch-bilinear/2x-1/1",
                           .decode = "rgb8-white-exif-1",
                           .n = 123,
                           .seed = 77};
    memset(s.net, 'a', 64);
    for (int i = 0; i < D; i++) {
        mu[i] = 1.0 / (i + 3);
        for (int j = 0; j < D; j++)
            sigma[i * D + j] = (i == j ? 2.0 : 0) + 1.0 / (i + j + 1);
    }
    for (int i = 0; i < S * S; i++)
        sigma_s[i] = i % (S + 1) ? 0 : 1 + i;
    snprintf(path, sizeof path, "%s/ours.npz", ds_test_tmpdir());
    snprintf(again, sizeof again, "%s/again.npz", ds_test_tmpdir());
    ck_assert_msg(!ds_npz_write_stats(path, &s, 0, &err), "%s", err.message);
    ck_assert_msg(!ds_npz_read_stats(path, &got, &err), "%s", err.message);
    ck_assert_mem_eq(got.mu, mu, sizeof mu);
    ck_assert_mem_eq(got.sigma, sigma, sizeof sigma);
    ck_assert_mem_eq(got.sigma_s, sigma_s, sizeof sigma_s);
    ck_assert(got.known && got.n == 123 && got.seed == 77 && got.dim == D && got.dim_s == S);
    ck_assert_str_eq(got.net, s.net);
    ck_assert_str_eq(got.preprocess, s.preprocess);
    ck_assert_str_eq(got.decode, s.decode);
    ck_assert(!ds_npz_write_stats(again, &got, 0, &err));
    char *a, *b;
    size_t na, nb;
    ck_assert(!ds_fs_read(path, 1 << 20, &a, &na, &err) &&
              !ds_fs_read(again, 1 << 20, &b, &nb, &err));
    ck_assert(na == nb && !memcmp(a, b, na)); /* equal statistics are equal files */
    free(a);
    free(b);
    ck_assert_int_eq(ds_npz_write_stats(path, &s, 0, &err), DS_ECONFLICT);
    ck_assert_int_eq(ds_npz_write_stats(path, &s, 1, &err), 0);
    ds_npz_stats_release(&got);
    ck_assert_int_eq(ds_npz_write_stats("/nonexistent/x.npz", &s, 0, &err), DS_ENOTFOUND);
    ck_assert_int_eq(ds_npz_read_stats("/nonexistent/x.npz", &got, &err), DS_ENOTFOUND);
}
END_TEST

/* ---------------------------------------------------------------- pictures */

START_TEST(pictures_in_order) {
    static const char *const files[] = {"samples", "samples-packed"};
    for (size_t f = 0; f < 2; f++) {
        char path[128];
        uint8_t rgb[2 * 5 * 3];
        ds_npz_contents c;
        ds_npz_pictures *p;
        ds_error err = {0};
        snprintf(path, sizeof path, GOLDEN "%s.npz", files[f]);
        ck_assert_msg(!ds_npz_look(path, &c, &err), "%s", err.message);
        ck_assert(c.pictures == 4 && c.height == 2 && c.width == 5 && !c.stats && !c.spatial);
        ck_assert_msg(!ds_npz_pictures_open(path, &p, &err), "%s", err.message);
        ck_assert_int_eq(ds_npz_pictures_count(p), 4);
        ck_assert_int_eq(ds_npz_pictures_width(p), 5);
        ck_assert_int_eq(ds_npz_pictures_height(p), 2);
        for (int i = 0; i < 4; i++) {
            ck_assert_msg(!ds_npz_pictures_next(p, rgb, &err), "%s", err.message);
            for (int j = 0; j < 30; j++)
                ck_assert_int_eq(rgb[j], i * 30 + j);
        }
        ds_npz_pictures_close(p);
    }
    ds_npz_contents c;
    ck_assert_int_eq(ds_npz_look(GOLDEN "adm.npz", &c, NULL), 0);
    ck_assert(c.stats && c.spatial && c.pictures == 2 && c.width == 4);
    ck_assert_int_eq(ds_npz_look(GOLDEN "plain.npz", &c, NULL), 0);
    ck_assert(c.stats && !c.spatial && !c.pictures);
}
END_TEST

static const struct {
    const char *name;
    int code;
    const char *says;
} not_pictures[] = {{"samples-float", DS_EINVAL, "'<f4'"},
                    {"samples-nchw", DS_EINVAL, "shape"},
                    {"samples-rgba", DS_EINVAL, "shape"},
                    {"samples-flat", DS_EINVAL, "shape"},
                    {"samples-fortran", DS_EINVAL, "C order"},
                    {"samples-empty", DS_EINVAL, "no picture"},
                    {"samples-five", DS_EINVAL, "shape"},
                    {"plain", DS_EINVAL, "no pictures"},
                    {"samples-short", DS_EINTEGRITY, "shorter than its header"},
                    {"samples-long", DS_EINTEGRITY, "longer than its header"},
                    {"samples-flip", DS_EINTEGRITY, "damaged"}};

START_TEST(pictures_refused) {
    char path[128];
    uint8_t rgb[2 * 5 * 3];
    ds_npz_pictures *p = NULL;
    ds_error err = {0};
    snprintf(path, sizeof path, GOLDEN "%s.npz", not_pictures[_i].name);
    int rc = ds_npz_pictures_open(path, &p, &err);
    for (int i = 0; !rc && i < 4; i++)
        rc = ds_npz_pictures_next(p, rgb, &err);
    ck_assert_msg(rc == not_pictures[_i].code && strstr(err.message, not_pictures[_i].says),
                  "%s: %d %s", path, rc, err.message);
    ds_npz_pictures_close(p);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, pictures_in_order);
    tcase_add_loop_test(tc, pictures_refused, 0, sizeof not_pictures / sizeof *not_pictures);
    tcase_add_test(tc, written_by_numpy);
    tcase_add_loop_test(tc, refused_with_a_reason, 0, sizeof refused / sizeof *refused);
    tcase_add_test(tc, any_damage);
    tcase_add_test(tc, round_trip);
}

int main(void) { return ds_test_main("engine_npz", register_cases); }
