/* tests/engine/test_engine_fd.c - Frechet distance and KID against closed forms and against numbers made
 * by NumPy and SciPy (tests/golden/fd.safetensors; tools/make_fd_golden.py). */
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/metrics/fd.h"
#include "engine/metrics/kid.h"
#include "engine/metrics/linalg.h"
#include "engine/files/safetensors.h"
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

/* ---------------------------------------------------------------- ways to the same number
 * The real covariance is taken from its rows, by Cholesky or by its root; the fake one as a Gram
 * matrix of rows or as a scatter, with groups left out of either. */

enum { WAYS_DIM = 24 };
static const struct {
    int n_real, n_fake;
} ways[] = {{16, 12}, {16, 60}, {100, 20}, {100, 60}, {25, 24}, {24, 25}};
enum { WAYS = sizeof ways / sizeof *ways };

/* Correlated features; the last is the same in all pictures when `dead`. */
static float *some_features(int n, uint32_t step, int dead) {
    float *x = ds_xmalloc((size_t)n * WAYS_DIM * sizeof *x);
    normals(x, (size_t)n * WAYS_DIM, 9, step);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < WAYS_DIM; j++) {
            float *at = x + (size_t)i * WAYS_DIM + j;
            *at = (*at + (j ? 0.7f * at[-1] : 0)) / (float)(1 + j % 5) + (float)j;
            if (dead && j == WAYS_DIM - 1)
                *at = 0.25f;
        }
    return x;
}

static double by_covariances(const ds_feature_set *a, const ds_feature_set *b) {
    static double m[2][WAYS_DIM], c[2][WAYS_DIM * WAYS_DIM];
    for (int k = 0; k < 2; k++) {
        ds_stats *s = ds_stats_new(WAYS_DIM);
        ds_stats_add(s, (k ? b : a)->x, (k ? b : a)->n);
        ck_assert(!ds_stats_finish(s, m[k], c[k], NULL));
        ds_stats_free(s);
    }
    return frechet(m[0], c[0], m[1], c[1], WAYS_DIM);
}

/* Variances up to 4, so each of the 24 directions is known to sqrt(eps) * 4 at worst (fd.h). */
static const double ways_tolerance = WAYS_DIM * 4 * 1.5e-8;

START_TEST(rows_and_covariances_agree) {
    for (int dead = 0; dead < 2; dead++) {
        float *x = some_features(ways[_i].n_real, 1, dead),
              *y = some_features(ways[_i].n_fake, 2, dead);
        ds_feature_set a = set_of(x, ways[_i].n_real, WAYS_DIM),
                       b = set_of(y, ways[_i].n_fake, WAYS_DIM);
        ds_fd_result r;
        ck_assert(!ds_fd_compare(&a, &b, 0, 0, NULL, NULL, &r, NULL));
        close_to(r.fd, by_covariances(&a, &b), ways_tolerance);
        free(x), free(y);
    }
}
END_TEST

/* The interval is what comes out when each group is taken out of the features by hand. */
START_TEST(groups_are_left_out) {
    enum { GROUPS = 4, SEED = 5 };
    int n = ways[_i].n_fake;
    float *x = some_features(ways[_i].n_real, 1, 0), *y = some_features(n, 2, 0),
          *left = ds_xmalloc((size_t)n * WAYS_DIM * sizeof *left);
    uint32_t *order = ds_xmalloc((size_t)n * sizeof *order);
    ds_feature_set a = set_of(x, ways[_i].n_real, WAYS_DIM), b = set_of(y, n, WAYS_DIM);
    double part[GROUPS], mean = 0, squares = 0;
    ds_fd_result r, one;
    for (int i = 0; i < n; i++) /* every row has an offset, so that a centre left in would show */
        for (int j = 0; j < WAYS_DIM; j++)
            y[i * WAYS_DIM + j] += (float)(i % 7) * 0.3f;
    ck_assert(!ds_fd_compare(&a, &b, GROUPS, SEED, NULL, NULL, &r, NULL));
    ds_rng_permutation(order, (uint32_t)n, SEED, DS_STREAM_KID, UINT32_MAX);
    for (int g = 0; g < GROUPS; g++) {
        int count = 0;
        for (int i = 0; i < n; i++)
            if (i % GROUPS != g)
                memcpy(left + WAYS_DIM * count++, y + (size_t)order[i] * WAYS_DIM,
                       WAYS_DIM * sizeof *left);
        ds_feature_set rest = set_of(left, count, WAYS_DIM);
        ck_assert(!ds_fd_compare(&a, &rest, 0, 0, NULL, NULL, &one, NULL));
        part[g] = one.fd;
        mean += one.fd / GROUPS;
    }
    for (int g = 0; g < GROUPS; g++)
        squares += (part[g] - mean) * (part[g] - mean);
    close_to(r.std_error, sqrt(squares * (GROUPS - 1) / GROUPS), ways_tolerance);
    free(x), free(y), free(left), free(order);
}
END_TEST

/* A pair leaves the same pictures out of both: its error is that of the differences, each taken by
 * hand, and far below that of either set when the two share their noise. */
START_TEST(pairs_share_their_groups) {
    enum { GROUPS = 4, SEED = 5 };
    int n = ways[_i].n_fake;
    float *x = some_features(ways[_i].n_real, 1, 0), *y = some_features(n, 2, 0),
          *z = some_features(n, 3, 0);
    for (int i = 0; i < n * WAYS_DIM; i++) /* the same pictures, but for a little */
        z[i] = y[i] + 0.02f * (z[i] - y[i]);
    ds_feature_set a = set_of(x, ways[_i].n_real, WAYS_DIM), b = set_of(y, n, WAYS_DIM),
                   c = set_of(z, n, WAYS_DIM);
    ds_fd_parts bar, now;
    ds_fd_result alone, whole;
    ck_assert(!ds_fd_parts_of(&a, &b, GROUPS, SEED, NULL, NULL, &bar, NULL));
    ck_assert(!ds_fd_parts_of(&a, &c, GROUPS, SEED, NULL, NULL, &now, NULL));
    ck_assert(!ds_fd_compare(&a, &b, GROUPS, SEED, NULL, NULL, &alone, NULL));
    ck_assert(!ds_fd_compare(&a, &c, GROUPS, SEED, NULL, NULL, &whole, NULL));
    ck_assert(bar.fd[0] == alone.fd && now.fd[0] == whole.fd && bar.n == n && bar.groups == GROUPS);
    double mean = 0, squares = 0;
    for (int g = 1; g <= GROUPS; g++)
        mean += (now.fd[g] - bar.fd[g]) / GROUPS;
    for (int g = 1; g <= GROUPS; g++)
        squares += pow(now.fd[g] - bar.fd[g] - mean, 2);
    ds_fd_pair p = ds_fd_pair_of(&now, &bar), same = ds_fd_pair_of(&bar, &bar);
    ck_assert(p.difference == now.fd[0] - bar.fd[0]);
    close_to(p.std_error, sqrt(squares * (GROUPS - 1) / GROUPS), 1e-12);
    ck_assert(p.z == p.difference / p.std_error);
    ck_assert_msg(p.std_error < 0.3 * alone.std_error, "%g of %g", p.std_error, alone.std_error);
    ck_assert(same.difference == 0 && same.std_error == 0 && same.z == 0);
    free(x), free(y), free(z);
}
END_TEST

/* f^T f = a: well conditioned, of low rank, and zero. */
START_TEST(factors) {
    enum { N = 30 };
    static double q[N * N], a[N * N], f[N * N];
    double d[N];
    int rank = -1, want = _i == 0 ? N : _i == 1 ? 12 : 0;
    orthogonal(q, N, 2);
    for (int i = 0; i < N; i++)
        d[i] = i < want ? 1.0 / (1 + i) : 0;
    rotate(a, q, d, N);
    ck_assert(!ds_factor_psd(f, &rank, a, N, NULL));
    ck_assert_int_eq(rank, want);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            double sum = 0;
            for (int k = 0; k < rank; k++)
                sum += f[k * N + i] * f[k * N + j];
            close_to(sum, a[i * N + j], 100 * N * DBL_EPSILON);
        }
}
END_TEST

typedef struct {
    int calls, stop_at;
    double last, total;
} listener;

static int listen(void *user, double done, double total) {
    listener *l = user;
    ck_assert(done >= l->last && done <= total);
    l->last = done;
    l->total = total;
    return ++l->calls == l->stop_at;
}

START_TEST(a_distance_says_how_far_it_is_and_stops) {
    float *x = some_features(30, 1, 0), *y = some_features(40, 2, 0);
    ds_feature_set a = set_of(x, 30, WAYS_DIM), b = set_of(y, 40, WAYS_DIM);
    ds_fd_result r = {.fd = -7};
    listener l = {0};
    ds_error err = {0};
    for (l.stop_at = 1; l.stop_at <= 6; l.stop_at++) { /* begin, factor, all, the first groups */
        l.calls = 0;
        l.last = 0;
        ck_assert_int_eq(ds_fd_compare(&a, &b, 8, 1, listen, &l, &r, &err), DS_ECANCELED);
        ck_assert_int_eq(l.calls, l.stop_at);
        ck_assert(r.fd == -7);
    }
    l = (listener){0};
    ck_assert(!ds_fd_compare(&a, &b, 8, 1, listen, &l, &r, &err));
    ck_assert(l.calls == 11 && l.last == 10 && l.total == 10);
    free(x), free(y);
}
END_TEST

/* ---------------------------------------------------------------- devices */

enum { WIDE = 260, WIDE_REAL = 300, WIDE_FAKE = 270 };
static float wide_real[WIDE_REAL * WIDE], wide_fake[2 * WIDE_FAKE * WIDE];

/* n_fake: more than the width, or less. */
static ds_fd_result wide_distance(ds_device *dev, int n_fake) {
    ds_fd_result r;
    ds_error err = {0};
    normals(wide_real, WIDE_REAL * WIDE, 5, 1);
    normals(wide_fake, 2 * WIDE_FAKE * WIDE, 5, 2);
    ds_feature_set a = set_of(wide_real, WIDE_REAL, WIDE), b = set_of(wide_fake, n_fake, WIDE);
    ds_linalg_use(dev);
    ck_assert_msg(!ds_fd_compare(&a, &b, 2, 1, NULL, NULL, &r, &err), "%s", err.message);
    ds_linalg_use(NULL);
    return r;
}

static int same_result(const ds_fd_result *a, const ds_fd_result *b) {
    return a->fd == b->fd && a->std_error == b->std_error && a->mean_term == b->mean_term;
}

START_TEST(own_threads_do_not_matter) {
    ds_device one = {.threads = 1}, more = {.threads = _i ? 2 : 5};
    for (int n = 200; n <= 400; n += 200) {
        ds_fd_result a = wide_distance(&one, n), b = wide_distance(&more, n);
        ck_assert(same_result(&a, &b));
    }
}
END_TEST

/* A device in between counts, and refuses. */
static ds_device *behind;
static int counts[3], refusing;

static int a_product(ds_device *dev, double *c, int m, int n, int k, double alpha, const double *a,
                     int at, const double *b, int bt) {
    (void)dev;
    counts[0]++;
    return refusing || behind->dense->product(behind, c, m, n, k, alpha, a, at, b, bt);
}
static int a_gram(ds_device *dev, double *c, const double *x, int rows, int n, int of_rows) {
    (void)dev;
    counts[1]++;
    return refusing || behind->dense->gram(behind, c, x, rows, n, of_rows);
}
static int an_eigen(ds_device *dev, double *w, double *a, int n, int vectors) {
    (void)dev;
    counts[2]++;
    return refusing || behind->dense->eigen(behind, w, a, n, vectors);
}

/* All of a large distance is the device's business; what it refuses is done here. */
START_TEST(a_device_takes_the_algebra) {
    static const ds_dense between = {a_product, a_gram, an_eigen};
    ds_error err = {0};
    ds_device_options o = {.kind = "cuda"};
    ds_device dev = {.threads = 1, .dense = &between};
    int n_fake = _i ? 2 * WIDE_FAKE : 258;
    ds_test_emulated_gpu();
    ck_assert_msg(!ds_device_open_cuda(&behind, &o, &err), "%s", err.message);
    ds_fd_result want = wide_distance(NULL, n_fake), got = wide_distance(&dev, n_fake);
    /* squares: the real covariance, then F once or each group's; decompositions: all, and without
     * each group where that leaves 256 rows or more */
    ck_assert_int_eq(counts[0], _i ? 2 : 1);
    ck_assert_int_eq(counts[1], _i ? 3 : 2);
    ck_assert_int_eq(counts[2], _i ? 3 : 1);
    close_to(got.fd, want.fd, WIDE * 1.5e-8);
    close_to(got.std_error, want.std_error, WIDE * 1.5e-8);
    refusing = 1;
    got = wide_distance(&dev, n_fake);
    ck_assert_int_eq(counts[2], _i ? 6 : 2);
    close_to(got.fd, want.fd, 1e-11); /* more rows were gathered for it, so sums are longer */
    refusing = 0;
    ds_device_close(behind);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, rows_and_covariances_agree, 0, WAYS);
    tcase_add_loop_test(tc, groups_are_left_out, 0, WAYS);
    tcase_add_loop_test(tc, pairs_share_their_groups, 0, WAYS);
    tcase_add_loop_test(tc, factors, 0, 3);
    tcase_add_test(tc, a_distance_says_how_far_it_is_and_stops);
    tcase_add_loop_test(tc, own_threads_do_not_matter, 0, 2);
    tcase_add_loop_test(tc, a_device_takes_the_algebra, 0, 2);
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
