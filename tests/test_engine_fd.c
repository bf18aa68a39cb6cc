/* tests/test_engine_fd.c - Frechet distance and KID against closed forms and against numbers made
 * by NumPy and SciPy (tests/golden/fd.safetensors; tools/make_fd_golden.py). */
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/fd.h"
#include "engine/kid.h"
#include "engine/linalg.h"
#include "engine/safetensors.h"
#include "tests/harness.h"

#include <cblas.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN_FILE "tests/golden/fd.safetensors"

static void close_to(double x, double want, double tolerance) {
    ck_assert_msg(fabs(x - want) <= tolerance * fmax(1, fabs(want)), "%.17g, expected %.17g", x,
                  want);
}

static double frechet(const double *m1, const double *s1, const double *m2, const double *s2,
                      int n) {
    double fd = -1;
    ds_error err = {0};
    ck_assert_msg(!ds_frechet(m1, s1, m2, s2, n, &fd, &err), "%s", err.message);
    return fd;
}

static void normals(float *x, size_t n, uint64_t seed, uint32_t step) {
    ds_rng_normal(x, n, seed, DS_STREAM_TEST, step, 0);
}

static ds_feature_set set_of(const float *x, int64_t n, int dim) {
    return (ds_feature_set){.x = x, .n = n, .dim = dim, .resize = "none"};
}

/* ---------------------------------------------------------------- closed forms */

/* Diagonal: sum (m1-m2)^2 + sum (sqrt a - sqrt b)^2, with zeros on either side. */
START_TEST(diagonal) {
    enum { N = 5 };
    double m1[N] = {0, 1, -2, 3, 0.5}, m2[N] = {1, 1, 2, 3, 0}, s1[N * N] = {0}, s2[N * N] = {0};
    const double a[N] = {4, 1, 0, 9, 1e-4}, b[N] = {1, 1, 2, 0, 4e4};
    double want = 0;
    for (int i = 0; i < N; i++) {
        s1[i * N + i] = a[i];
        s2[i * N + i] = b[i];
        want += pow(m1[i] - m2[i], 2) + pow(sqrt(a[i]) - sqrt(b[i]), 2);
    }
    close_to(frechet(m1, s1, m2, s2, N), want, 1e-12);
    close_to(frechet(m2, s2, m1, s1, N), want, 1e-12);
}
END_TEST

/* One large direction and hundreds of small ones, whose products are near 1e-14 of the largest:
 * they count.  A product is known to eps, so its root to eps / (2 root): that, N times, twice. */
START_TEST(many_small_directions) {
    enum { N = 600 };
    const double small[2] = {1e-7, 4e-7}, root = sqrt(small[0] * small[1]);
    double *s[2], *zero = ds_xcalloc(N, sizeof *zero);
    for (int k = 0; k < 2; k++) {
        s[k] = ds_xcalloc((size_t)N * N, sizeof **s);
        for (int i = 0; i < N; i++)
            s[k][i * N + i] = i ? small[k] : 1;
    }
    double want = (N - 1) * pow(sqrt(small[1]) - sqrt(small[0]), 2);
    double got = frechet(zero, s[0], zero, s[1], N);
    ck_assert_msg(fabs(got - want) <= 2 * N * DBL_EPSILON / (2 * root), "%.17g, not %.17g", got,
                  want);
    free(s[0]);
    free(s[1]);
    free(zero);
}
END_TEST

/* A random orthogonal matrix: the eigenvectors of a random symmetric one. */
static void orthogonal(double *q, int n, uint32_t step) {
    float *r = ds_xmalloc((size_t)(n * n) * sizeof *r);
    double *w = ds_xmalloc((size_t)n * sizeof *w);
    normals(r, (size_t)(n * n), 1, step);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            q[i * n + j] = r[i * n + j] + (double)r[j * n + i];
    ck_assert(!ds_eigen_symmetric(q, w, n, 1, NULL));
    free(r);
    free(w);
}

/* q diag(d) q^T */
static void rotate(double *out, const double *q, const double *d, int n) {
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int k = 0; k < n; k++)
                sum += q[i * n + k] * d[k] * q[j * n + k];
            out[i * n + j] = sum;
        }
}

/* Commuting covariances share eigenvectors; `zeros` of the 40 directions have no variance in the
 * first, others none in the second. */
START_TEST(commuting_and_rank_deficient) {
    enum { N = 40 };
    static double q[N * N], s1[N * N], s2[N * N];
    double m[N] = {0}, a[N], b[N], want = 0;
    int zeros = _i * 10;
    orthogonal(q, N, 0);
    for (int i = 0; i < N; i++) {
        a[i] = i < zeros ? 0 : 0.01 * (i + 1) * (i + 1);
        b[i] = i >= N - zeros / 2 ? 0 : 3.0 / (i + 1);
        want += pow(sqrt(a[i]) - sqrt(b[i]), 2);
    }
    rotate(s1, q, a, N);
    rotate(s2, q, b, N);
    /* i = 3: the two have no direction in common, all of the cross term is rounding (see fd.h) */
    close_to(frechet(m, s1, m, s2, N), want, _i < 3 ? 1e-11 : 1e-8);
}
END_TEST

/* S2 = c S1: (1 - sqrt c)^2 Tr S1.  Same covariance: the mean term alone. */
START_TEST(scaled_and_identical) {
    enum { N = 30 };
    static double q[N * N], s1[N * N], s2[N * N];
    double m1[N], m2[N], d[N], trace = 0, shift = 0;
    orthogonal(q, N, 1);
    for (int i = 0; i < N; i++) {
        d[i] = exp(-i);
        trace += d[i];
        m1[i] = i;
        m2[i] = i + 0.25;
        shift += 0.0625;
    }
    rotate(s1, q, d, N);
    for (int i = 0; i < N * N; i++)
        s2[i] = 2.25 * s1[i];
    /* variances down to 1e-13 of the largest, which is 1: sqrt(eps) for each direction (fd.h) */
    double bound = N * sqrt(DBL_EPSILON);
    close_to(frechet(m1, s1, m1, s2, N), 0.25 * trace, bound);
    close_to(frechet(m1, s1, m2, s1, N), shift, bound);
    close_to(frechet(m1, s1, m1, s1, N), 0, bound);
}
END_TEST

/* Two-dimensional covariances that do not commute: Tr (S1 S2)^1/2 = sqrt(Tr S1 S2 + 2 sqrt det). */
START_TEST(two_by_two) {
    double m[2] = {0, 0}, s1[4] = {2, 0.5, 0.5, 1}, s2[4] = {1, -0.3, -0.3, 3};
    double product = s1[0] * s2[0] + 2 * s1[1] * s2[1] + s1[3] * s2[3];
    double det = (s1[0] * s1[3] - s1[1] * s1[2]) * (s2[0] * s2[3] - s2[1] * s2[2]);
    close_to(frechet(m, s1, m, s2, 2), 3 + 4 - 2 * sqrt(product + 2 * sqrt(det)), 1e-13);
}
END_TEST

/* ---------------------------------------------------------------- NumPy and SciPy */

static ds_st *golden(void) {
    ds_st *st;
    ds_error err = {0};
    ck_assert_msg(!ds_st_open_file(GOLDEN_FILE, 4 << 20, 0, &st, &err), "%s", err.message);
    return st;
}

static float *golden_set(const ds_st *st, const char *what, const char *which,
                         ds_feature_set *set) {
    char name[64];
    const ds_st_tensor *t;
    ds_error err = {0};
    snprintf(name, sizeof name, "%s.%s", what, which);
    ck_assert_msg(!ds_st_need(st, name, -1, NULL, &t, &err), "%s", err.message);
    float *x = ds_xmalloc(t->bytes);
    ck_assert(!ds_st_read_f32(st, t, x, &err));
    *set = set_of(x, t->shape[0], (int)t->shape[1]);
    return x;
}

/* Doubles of a golden tensor */
static double *golden_doubles(const ds_st *st, const char *what, const char *which) {
    char name[64];
    const ds_st_tensor *t;
    ds_error err = {0};
    snprintf(name, sizeof name, "%s.%s", what, which);
    ck_assert_msg(!ds_st_need(st, name, -1, NULL, &t, &err), "%s", err.message);
    ck_assert_int_eq(t->dtype, DS_ST_F64);
    double *x = ds_xmalloc(t->bytes);
    memcpy(x, t->data, t->bytes);
    return x;
}

static const char *const cases[] = {"full", "deficient", "wide"};

START_TEST(statistics_as_numpy) {
    ds_st *st = golden();
    ds_feature_set set;
    float *x = golden_set(st, cases[_i], "fake", &set);
    double *mean = golden_doubles(st, cases[_i], "mean"),
           *cov = golden_doubles(st, cases[_i], "cov");
    size_t d = (size_t)set.dim;
    double *m = ds_xmalloc(d * sizeof *m), *c = ds_xmalloc(d * d * sizeof *c),
           *c2 = ds_xmalloc(d * d * sizeof *c2);
    ds_stats *s = ds_stats_new(set.dim);
    ds_stats_add(s, x, set.n);
    ck_assert_int_eq(ds_stats_count(s), set.n);
    ck_assert(!ds_stats_finish(s, m, c, NULL));
    for (size_t i = 0; i < d; i++)
        close_to(m[i], mean[i], 1e-14);
    for (size_t i = 0; i < d * d; i++)
        close_to(c[i], cov[i], 1e-14);
    ds_stats_free(s);
    s = ds_stats_new(set.dim); /* in odd portions: the same bytes */
    for (int64_t at = 0, step = 1; at < set.n; at += step, step = step * 2 + 1) {
        step = step < set.n - at ? step : set.n - at;
        ds_stats_add(s, x + (size_t)at * d, step);
    }
    ck_assert(!ds_stats_finish(s, m, c2, NULL));
    ck_assert(!memcmp(c, c2, d * d * sizeof *c));
    ds_stats_free(s);
    free(x), free(mean), free(cov), free(m), free(c), free(c2);
    ds_st_free(st);
}
END_TEST

START_TEST(distance_as_scipy) {
    ds_st *st = golden();
    ds_feature_set real, fake;
    float *x = golden_set(st, cases[_i], "real", &real),
          *y = golden_set(st, cases[_i], "fake", &fake);
    double *want = golden_doubles(st, cases[_i], "fd");
    ds_fd_result r, back, same;
    ds_error err = {0};
    ck_assert_msg(!ds_fd_compare(&real, &fake, 0, 0, NULL, NULL, &r, &err), "%s", err.message);
    printf("  %s: FD %.15g, SciPy %.15g\n", cases[_i], r.fd, *want);
    close_to(r.fd, *want, 1e-10);
    ck_assert(isnan(r.std_error) && isnan(r.lo) && r.groups == 0);
    ck_assert_int_eq(r.n_real, real.n);
    ck_assert_int_eq(r.n_fake, fake.n);
    ck_assert(!ds_fd_compare(&fake, &real, 0, 0, NULL, NULL, &back, &err));
    close_to(back.fd, r.fd, 1e-10);
    ck_assert(!ds_fd_compare(&real, &real, 0, 0, NULL, NULL, &same, &err));
    close_to(same.fd, 0, 1e-10);
    free(x), free(y), free(want);
    ds_st_free(st);
}
END_TEST

START_TEST(kid_as_numpy) {
    ds_st *st = golden();
    ds_feature_set real, fake;
    float *x = golden_set(st, "full", "real", &real), *y = golden_set(st, "full", "fake", &fake);
    double *want = golden_doubles(st, "full", "kid");
    int subsets = (int)strtol(ds_st_meta(st, "kid_subsets"), NULL, 10);
    int size = (int)strtol(ds_st_meta(st, "kid_subset_size"), NULL, 10);
    uint64_t seed = strtoull(ds_st_meta(st, "kid_seed"), NULL, 10);
    ds_kid_result r;
    ds_error err = {0};
    ck_assert_msg(!ds_kid_compare(&real, &fake, subsets, size, seed, &r, &err), "%s", err.message);
    close_to(r.kid, want[0], 1e-12);
    close_to(r.subset_mean, want[1], 1e-12);
    close_to(r.std_error, want[2], 1e-12);
    close_to(r.hi - r.lo, 2 * 1.96 * want[2], 1e-12);
    ck_assert_int_eq(r.subset_size, size);
    ck_assert(r.seed == seed && r.n_real == real.n && r.n_fake == fake.n);
    ck_assert(!ds_kid_compare(&real, &fake, subsets, 1000, seed, &r, &err));
    ck_assert_int_eq(r.subset_size, 75); /* half of 150 */
    free(x), free(y), free(want);
    ds_st_free(st);
}
END_TEST

/* ---------------------------------------------------------------- intervals
 * Many pairs of sets from known distributions: the spread of the estimates over the pairs is what
 * std_error claims to estimate. */
enum { TRIALS = 60, PER_SET = 96, WIDTH = 6 };

typedef struct {
    double mean, spread, claimed;
    int covered;
} study;

static void draw(float *x, uint32_t step, float shift, float spread) {
    normals(x, PER_SET * WIDTH, 77, step);
    for (int i = 0; i < PER_SET * WIDTH; i++)
        x[i] = x[i] * spread + shift;
}

static study run_study(int use_kid) {
    static float real[PER_SET * WIDTH], fake[PER_SET * WIDTH];
    double value[TRIALS], lo[TRIALS], hi[TRIALS];
    study s = {0};
    ds_feature_set a = set_of(real, PER_SET, WIDTH), b = set_of(fake, PER_SET, WIDTH);
    draw(real, 0, 0, 1);
    for (int i = 0; i < TRIALS; i++) {
        ds_fd_result f = {0};
        ds_kid_result k = {0};
        if (use_kid) /* both sets are random; the interval of FD holds the real one fixed */
            draw(real, 1000 + (uint32_t)i, 0, 1);
        draw(fake, 1 + (uint32_t)i, 0.7f, 1.3f);
        if (use_kid)
            ck_assert(!ds_kid_compare(&a, &b, 100, 1000, (uint64_t)i, &k, NULL));
        else
            ck_assert(!ds_fd_compare(&a, &b, 8, (uint64_t)i, NULL, NULL, &f, NULL));
        value[i] = use_kid ? k.kid : f.fd;
        lo[i] = use_kid ? k.lo : f.lo;
        hi[i] = use_kid ? k.hi : f.hi;
        s.mean += value[i] / TRIALS;
        s.claimed += (use_kid ? k.std_error : f.std_error) / TRIALS;
    }
    for (int i = 0; i < TRIALS; i++) {
        s.spread += (value[i] - s.mean) * (value[i] - s.mean) / (TRIALS - 1);
        s.covered += lo[i] <= s.mean && s.mean <= hi[i];
    }
    s.spread = sqrt(s.spread);
    printf("  %s %.4f: spread %.4f, claimed %.4f, interval holds the mean %d of %d times\n",
           use_kid ? "KID" : "FD", s.mean, s.spread, s.claimed, s.covered, TRIALS);
    return s;
}

START_TEST(intervals_are_honest) {
    study s = run_study(_i);
    ck_assert_double_gt(s.claimed, 0.7 * s.spread);
    ck_assert_double_lt(s.claimed, 1.5 * s.spread);
    ck_assert_int_ge(s.covered, TRIALS * 85 / 100);
}
END_TEST

/* ---------------------------------------------------------------- determinism, limits, refusals */

enum { D = DS_FEATURE_DIM, N512 = 512 };

static void big_sets(float **x, float **y, ds_feature_set *real, ds_feature_set *fake) {
    *x = ds_xmalloc(sizeof(float) * N512 * D);
    *y = ds_xmalloc(sizeof(float) * N512 * D);
    normals(*x, N512 * D, 5, 1);
    normals(*y, N512 * D, 5, 2);
    for (size_t i = 0; i < N512 * D; i++)
        (*y)[i] = (*y)[i] * 1.1f + 0.05f;
    *real = set_of(*x, N512, D);
    *fake = set_of(*y, N512, D);
}

START_TEST(threads_do_not_matter) {
    float *x, *y;
    ds_feature_set real, fake;
    ds_fd_result a, b;
    ds_kid_result k, l;
    big_sets(&x, &y, &real, &fake);
    openblas_set_num_threads(2);
    double begin = ds_monotonic();
    ck_assert(!ds_fd_compare(&real, &fake, 0, 0, NULL, NULL, &a, NULL));
    double one = ds_monotonic();
    ck_assert(!ds_kid_compare(&real, &fake, 100, 100, 3, &k, NULL));
    printf("  512 x 768: FD %.6f in %.2f s, KID %.6f +- %.6f in %.2f s\n", a.fd, one - begin, k.kid,
           k.std_error, ds_monotonic() - one);
    openblas_set_num_threads(1);
    ck_assert(!ds_fd_compare(&real, &fake, 0, 0, NULL, NULL, &b, NULL));
    ck_assert(!ds_kid_compare(&real, &fake, 100, 100, 3, &l, NULL));
    ck_assert(!memcmp(&a.fd, &b.fd, sizeof a.fd));
    ck_assert(!memcmp(&k.kid, &l.kid, sizeof k.kid));
    ck_assert(!memcmp(&k.std_error, &l.std_error, sizeof k.kid));
    free(x);
    free(y);
}
END_TEST

START_TEST(refusals) {
    float x[40] = {1, 2, 3, 4, 5, 6, 7, 8};
    ds_feature_set a = set_of(x, 10, 4), b = a;
    ds_fd_result r;
    ds_kid_result k;
    ds_error err = {0};
    ck_assert_int_eq(ds_fd_compare(&a, &b, 0, 0, NULL, NULL, &r, &err), 0);
    snprintf(b.net, sizeof b.net, "abc");
    ck_assert_int_eq(ds_fd_compare(&a, &b, 0, 0, NULL, NULL, &r, &err), DS_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "two networks"));
    b = a;
    snprintf(b.resize, sizeof b.resize, "tf1-bilinear-1");
    ck_assert_int_eq(ds_kid_compare(&a, &b, 10, 4, 0, &k, &err), DS_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "two resizings"));
    b = set_of(x, 8, 5);
    ck_assert_int_eq(ds_fd_compare(&a, &b, 0, 0, NULL, NULL, &r, &err), DS_EINVAL);
    b = set_of(x, 1, 4);
    ck_assert_int_eq(ds_fd_compare(&a, &b, 0, 0, NULL, NULL, &r, &err), DS_EINVAL);
    ck_assert_int_eq(ds_fd_compare(&b, &a, 0, 0, NULL, NULL, &r, &err), DS_EINVAL);
    ck_assert_int_eq(ds_kid_compare(&a, &b, 10, 4, 0, &k, &err), DS_EINVAL);
    ck_assert_int_eq(ds_fd_compare(&a, &a, 8, 0, NULL, NULL, &r, &err), DS_EINVAL); /* 10 < 2 * 8 */
    ck_assert_int_eq(ds_fd_compare(&a, &a, 4, 0, NULL, NULL, &r, &err), 0);
    ck_assert(r.fd < 1e-12 && r.lo == 0 && r.hi >= r.fd && r.groups == 4);
    x[7] = NAN;
    ck_assert_int_eq(ds_fd_compare(&a, &a, 0, 0, NULL, NULL, &r, &err), DS_EFAILED);
    ck_assert_int_eq(ds_kid_compare(&a, &a, 10, 4, 0, &k, &err), DS_EFAILED);
    ck_assert_ptr_nonnull(strstr(err.message, "not finite"));
}
END_TEST

/* Large offset, small spread: float64 sums of squares would lose the covariance. */
START_TEST(nothing_cancels) {
    enum { ROWS = 1000 };
    float x[ROWS * 2];
    double m[2], c[4];
    for (int i = 0; i < ROWS; i++) {
        x[2 * i] = 1e7f + (float)(i % 2);
        x[2 * i + 1] = (float)(i % 2);
    }
    ds_stats *s = ds_stats_new(2);
    ds_stats_add(s, x, ROWS);
    ck_assert(!ds_stats_finish(s, m, c, NULL));
    ds_stats_free(s);
    close_to(m[0], 1e7 + 0.5, 1e-15);
    for (int i = 0; i < 4; i++)
        close_to(c[i], 250.0 / 999, 1e-12);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, diagonal);
    tcase_add_test(tc, many_small_directions);
    tcase_add_loop_test(tc, commuting_and_rank_deficient, 0, 4);
    tcase_add_test(tc, scaled_and_identical);
    tcase_add_test(tc, two_by_two);
    tcase_add_loop_test(tc, statistics_as_numpy, 0, 3);
    tcase_add_loop_test(tc, distance_as_scipy, 0, 3);
    tcase_add_test(tc, kid_as_numpy);
    tcase_add_loop_test(tc, intervals_are_honest, 0, 2);
    tcase_add_test(tc, threads_do_not_matter);
    tcase_add_test(tc, refusals);
    tcase_add_test(tc, nothing_cancels);
}

int main(void) { return ds_test_main("engine_fd", register_cases); }
