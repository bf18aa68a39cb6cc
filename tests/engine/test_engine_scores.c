/* tests/engine/test_engine_scores.c - what is measured of features, by hand: precision and recall, the
 * Inception Score, KID, statistics; what each asks of its sets, and which networks are refused. */
#include "base/mem.h"
#include "base/zio.h"
#include "engine/metrics/features.h"
#include "engine/metrics/fid_suite.h"
#include "engine/metrics/linalg.h"
#include "engine/files/safetensors.h"
#include "tests/harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void near(double is, double want) {
    ck_assert_msg(fabs(is - want) <= 1e-9 * fmax(1, fabs(want)), "%.12g, not %.12g", is, want);
}

/* Points on a line, the radius of each is the way to its k-th neighbour. */
START_TEST(precision_and_recall) {
    static const float real[4] = {0, 1, 2, 10}, fake[3] = {0.5f, 1.5f, 30};
    ds_pr_result pr;
    ds_error err = {0};
    ck_assert_int_eq(ds_precision_recall(real, 4, fake, 3, 1, 1, &pr, &err), 0);
    near(pr.precision, 2.0 / 3); /* 30 is further than 8 from 10 */
    near(pr.recall, 1);          /* the ball of 30 reaches to 1.5 */
    ck_assert(pr.n_real == 4 && pr.n_fake == 3 && pr.k == 1);
    ck_assert_int_eq(ds_precision_recall(real, 3, fake, 2, 1, 1, &pr, &err), 0);
    near(pr.precision, 1);
    near(pr.recall, 1); /* on the edge is inside: 0 and 2 are 0.5 away, the radius is 1 */
    static const float far[2] = {5, 5.25f};
    ck_assert_int_eq(ds_precision_recall(real, 3, far, 2, 1, 1, &pr, &err), 0);
    near(pr.precision, 0);
    near(pr.recall, 0);
    ck_assert_int_eq(ds_precision_recall(real, 4, fake, 3, 1, 2, &pr, &err), 0);
    static const struct {
        int n_real, n_fake, k;
    } few[] = {{3, 3, 3}, {4, 3, 3}, {3, 1, 1}, {1, 3, 1}};
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(
            ds_precision_recall(real, few[i].n_real, fake, few[i].n_fake, 1, few[i].k, &pr, &err),
            DS_EINVAL);
        ck_assert_ptr_nonnull(strstr(err.message, "too few pictures for precision and recall"));
    }
}
END_TEST

static ds_fid_suite *suite(int want, int dim, int total, int splits) {
    ds_fid_options o = {.want = want, .dim = dim, .total = total, .splits = splits, .seed = 5};
    snprintf(o.net, sizeof o.net, "n");
    snprintf(o.preprocess, sizeof o.preprocess, "p");
    return ds_fid_suite_new(&o);
}

/* exp of the mean divergence of each picture's classes from those of all. */
START_TEST(inception_score) {
    static float logits[DS_INCEPTION_LOGITS];
    static const struct {
        double first[2]; /* of two pictures: the first class's share, the rest is the second's */
        double want;
    } cases[] = {{{1, 0}, 2}, {{0.5, 0.5}, 1}, {{1, 1}, 1}, {{0.75, 0.25}, 0}};
    const float x = 1;
    for (int c = 0; c < 4; c++) {
        ds_fid_suite *s = suite(DS_FID_WANT_IS, 1, 2, 1);
        ds_is_result is;
        for (int i = 0; i < 2; i++) {
            for (int j = 0; j < DS_INCEPTION_LOGITS; j++)
                logits[j] = -1000;
            double p = cases[c].first[i];
            logits[3] = p > 0 ? (float)log(p) + 7 : -1000; /* any offset is the same */
            logits[800] = p < 1 ? (float)log(1 - p) + 7 : -1000;
            ck_assert_int_eq(ds_fid_suite_add(s, i, &x, NULL, logits, NULL), 0);
        }
        ck_assert_int_eq(ds_fid_suite_is(s, &is, NULL), 0);
        double want = cases[c].want;
        if (want == 0)
            want = exp(0.75 * log(1.5) + 0.25 * log(0.5));
        ck_assert_msg(fabs(is.mean - want) < 1e-6, "case %d: %.9g, not %.9g", c, is.mean,
                      want); /* f32 logits */
        ck_assert(is.std == 0 && is.n == 2 && is.splits == 1);
        ds_fid_suite_free(s);
    }
    /* of two parts with scores 1 (one picture each): no spread; a part without pictures is none */
    ds_fid_suite *s = suite(DS_FID_WANT_IS, 1, 2, 2);
    ds_is_result is;
    ds_error err = {0};
    ck_assert_int_eq(ds_fid_suite_add(s, 0, &x, NULL, logits, NULL), 0);
    ck_assert_int_eq(ds_fid_suite_is(s, &is, &err), DS_EINVAL);
    ck_assert_ptr_nonnull(
        strstr(err.message, "too few pictures for an Inception Score of 2 parts: have 1"));
    ck_assert_int_eq(ds_fid_suite_add(s, 1, &x, NULL, logits, NULL), 0);
    ck_assert_int_eq(ds_fid_suite_is(s, &is, NULL), 0);
    near(is.mean, 1);
    near(is.std, 0);
    ds_fid_suite_free(s);
}
END_TEST

/* The cubic kernel (x y / d + 1)^3, without the diagonal within a set. */
START_TEST(kid_by_hand) {
    static const float real[4] = {0, 1, 2, 1}, fake[4] = {1, 0, 0, 3};
    ds_feature_set a = {.x = real, .n = 4, .dim = 1, .resize = "r", .net = "n"}, b = a;
    ds_kid_result r;
    ds_error err = {0};
    double rr = 0, ff = 0, rf = 0;
    b.x = fake;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            rr += i == j ? 0 : pow(real[i] * real[j] + 1, 3);
            ff += i == j ? 0 : pow(fake[i] * fake[j] + 1, 3);
            rf += pow(real[i] * fake[j] + 1, 3);
        }
    ck_assert_int_eq(ds_kid_compare(&a, &b, 2, 2, 1, &r, NULL), 0);
    near(r.kid, rr / 12 + ff / 12 - rf / 8);
    near(r.lo, r.kid - 1.96 * r.std_error);
    near(r.hi, r.kid + 1.96 * r.std_error);
    ck_assert(r.subset_size == 2 && r.subsets == 2 && r.n_real == 4 && r.n_fake == 4 &&
              r.seed == 1 && r.dim == 1 && !strcmp(r.net, "n") && !strcmp(r.resize, "r"));
    for (int k = 0; k < 2; k++) {
        ds_feature_set x = a, y = b;
        (k ? &x : &y)->n = 3;
        ck_assert_int_eq(ds_kid_compare(&x, &y, 2, 2, 1, &r, &err), DS_EINVAL);
        ck_assert_ptr_nonnull(strstr(err.message, "too few pictures for KID"));
    }
    for (int k = 0; k < 2; k++) { /* a number that is none, on either side */
        static const float none[4] = {0, 1, NAN, 1};
        ds_feature_set x = a, y = b;
        (k ? &x : &y)->x = none;
        ck_assert_int_eq(ds_kid_compare(&x, &y, 2, 2, 1, &r, &err), DS_EFAILED);
        ck_assert_ptr_nonnull(strstr(err.message, "features are not finite"));
    }
    /* a subset is drawn from each set in an order of its own */
    static float many[2][40];
    for (int i = 0; i < 40; i++)
        many[0][i] = many[1][i] = (float)(i * i % 37) / 37;
    a.x = many[0];
    b.x = many[1];
    a.n = b.n = 40;
    ck_assert_int_eq(ds_kid_compare(&a, &b, 8, 5, 1, &r, NULL), 0);
    double first = r.subset_mean;
    ck_assert_int_eq(ds_kid_compare(&a, &b, 8, 5, 2, &r, NULL), 0);
    ck_assert(r.subset_mean != first);
}
END_TEST

/* Of more than 2,048 rows so many are drawn, and not the first ones. */
START_TEST(kid_of_many_rows) {
    enum { MANY = DS_KID_ROWS_MAX + 100 };
    static float zeros[MANY], some[MANY];
    for (int i = DS_KID_ROWS_MAX; i < MANY; i++)
        some[i] = 5;
    ds_feature_set a = {.x = zeros, .n = MANY, .dim = 1}, b = {.x = some, .n = MANY, .dim = 1};
    ds_kid_result r, again, other;
    ds_error err = {0};
    ck_assert_int_eq(ds_kid_compare(&a, &b, 4, 1000, 1, &r, NULL), 0);
    ck_assert(r.subset_mean != 0);
    ck_assert_int_eq(ds_kid_compare(&a, &b, 4, 1000, 1, &again, NULL), 0);
    ck_assert_int_eq(ds_kid_compare(&a, &b, 4, 1000, 2, &other, NULL), 0);
    ck_assert(r.subset_mean == again.subset_mean && r.subset_mean != other.subset_mean);
    a.n = b.n = DS_KID_ROWS_MAX; /* all of them: the same */
    ck_assert_int_eq(ds_kid_compare(&a, &b, 4, 1000, 1, &r, NULL), 0);
    ck_assert(r.subset_mean == 0);
    some[DS_KID_ROWS_MAX - 1] = NAN;
    ck_assert_int_eq(ds_kid_compare(&a, &b, 4, 1000, 1, &r, &err), DS_EFAILED);
    ck_assert_str_eq(err.message, "features are not finite");
}
END_TEST

/* A matrix with a number that is none, in the half that is read. */
START_TEST(matrices_that_are_not_finite) {
    static const double none[] = {NAN, INFINITY, -INFINITY};
    for (int k = 0; k < 3; k++)
        for (int at = 0; at < 4; at++) {
            double a[4] = {2, 0, 0, 1}, f[4], w[2];
            int rank = -1;
            ds_error err = {0};
            a[at] = none[k];
            ck_assert_int_eq(ds_factor_psd(f, &rank, a, 2, &err), at == 2 ? 0 : DS_EFAILED);
            ck_assert(at == 2 || !strcmp(err.message,
                                         "cannot decompose a matrix whose numbers are not finite"));
            ck_assert_int_eq(ds_eigen_symmetric(a, w, 2, 0, &err), at == 2 ? 0 : DS_EFAILED);
            ck_assert(at != 2 || (w[0] == 1 && w[1] == 2));
        }
}
END_TEST

START_TEST(what_sets_must_have) {
    ds_feature_set good = {.n = 5, .dim = 4, .net = "one", .resize = "r"}, bad;
    ds_error err = {0};
    ck_assert_int_eq(ds_feature_sets_match(&good, &good, NULL), 0);
    for (int i = 0; i < 7; i++)
        for (int side = 0; side < 2; side++) {
            static const char *const says[] = {"of two networks, one... and two...",
                                               "two resizings, 'r' and 's'",
                                               "of 4 and of 5 numbers",
                                               "limit 4096",
                                               "limit 4096",
                                               "and -1 pictures",
                                               "limit 10000000"};
            bad = good;
            if (i == 0)
                snprintf(bad.net, sizeof bad.net, "two");
            if (i == 1)
                snprintf(bad.resize, sizeof bad.resize, "s");
            bad.dim = i == 2 ? 5 : i == 3 ? 0 : i == 4 ? DS_FEATURE_DIM_MAX + 1 : 4;
            bad.n = i == 5 ? -1 : i == 6 ? DS_FEATURE_ROWS_MAX + 1 : 5;
            int rc = side ? ds_feature_sets_match(&bad, i == 3 || i == 4 ? &bad : &good, &err)
                          : ds_feature_sets_match(i == 3 || i == 4 ? &bad : &good, &bad, &err);
            ck_assert_int_eq(rc, i > 4 ? DS_ELIMIT : DS_EINVAL);
            if (!side)
                ck_assert_msg(strstr(err.message, says[i]) != NULL, "%s", err.message);
        }
    bad = good;
    bad.dim = DS_FEATURE_DIM_MAX;
    bad.n = DS_FEATURE_ROWS_MAX;
    ck_assert_int_eq(ds_feature_sets_match(&bad, &bad, NULL), 0);
    good.n = 0;
    ck_assert_int_eq(ds_feature_sets_match(&good, &good, NULL), 0);
}
END_TEST

/* Mean and covariance (over n - 1), each alone where only that is asked for. */
START_TEST(statistics) {
    static const float x[6] = {1, 2, 3, 6, 5, 10};
    double mean[2] = {0}, cov[4] = {0};
    ds_error err = {0};
    ds_stats *s = ds_stats_new(2);
    ds_stats_add(s, x, 1);
    ck_assert_int_eq(ds_stats_finish(s, mean, cov, &err), DS_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "needs at least 2 pictures, have 1"));
    ds_stats_add(s, x + 2, 2);
    ck_assert_int_eq(ds_stats_finish(s, mean, NULL, NULL), 0);
    ck_assert(mean[0] == 3 && mean[1] == 6 && cov[0] == 0);
    memset(mean, 0, sizeof mean);
    ck_assert_int_eq(ds_stats_finish(s, NULL, cov, NULL), 0);
    ck_assert(mean[0] == 0);
    static const double want[4] = {4, 8, 8, 16};
    for (int i = 0; i < 4; i++)
        near(cov[i], want[i]);
    ds_stats_free(s);
    ds_stats_free(NULL);
}
END_TEST

/* What a suite keeps is what is asked for; numbers that are not finite are refused, where they are
 * used. */
START_TEST(suites) {
    enum {
        ALL = DS_FID_WANT_FID | DS_FID_WANT_SFID | DS_FID_WANT_KID | DS_FID_WANT_PR | DS_FID_WANT_IS
    };
    static float logits[DS_INCEPTION_LOGITS], spatial[DS_INCEPTION_SPATIAL];
    float x[2] = {1, 2};
    ds_error err = {0};
    ds_npz_stats st;
    for (int k = 0; k < 4; k++) {
        ds_fid_suite *s = suite(k == 3 ? DS_FID_WANT_FID : ALL, 2, 2, 1);
        float *bad = k == 0 ? &x[1] : k == 1 ? &spatial[7] : &logits[9];
        *bad = k == 1 ? INFINITY : NAN;
        int rc = ds_fid_suite_add(s, 1, x, k == 3 ? NULL : spatial, logits, &err);
        ck_assert_int_eq(rc, k == 3 ? 0 : DS_EFAILED);
        ck_assert(!rc || strstr(err.message, "features of picture 1 are not finite"));
        ck_assert_int_eq(ds_fid_suite_count(s), !rc);
        *bad = 2;
        ds_fid_suite_free(s);
    }
    ds_fid_suite *s = suite(DS_FID_WANT_FID, 2, 3, 1);
    for (int i = 0; i < 3; i++) {
        x[0] = (float)i;
        x[1] = 2;
        ck_assert_int_eq(ds_fid_suite_add(s, i, x, NULL, NULL, NULL), 0);
    }
    ck_assert_int_eq(ds_fid_suite_stats(s, &st, NULL), 0);
    ck_assert(st.known && st.n == 3 && st.seed == 5 && st.dim == 2 && !st.mu_s &&
              !strcmp(st.net, "n") && !strcmp(st.preprocess, "p"));
    near(st.mu[0], 1);
    near(st.mu[1], 2);
    near(st.sigma[0], 1);
    near(st.sigma[1], 0);
    near(st.sigma[3], 0);
    ds_npz_stats_release(&st);
    ds_fid_suite_free(s);
    s = suite(DS_FID_WANT_SFID, 2, 2, 1);
    ck_assert_int_eq(ds_fid_suite_add(s, 0, x, spatial, NULL, NULL), 0);
    ck_assert_int_eq(ds_fid_suite_stats(s, &st, &err), DS_EINVAL); /* of one picture */
    ck_assert(!st.mu_s && !st.sigma_s);
    ds_fid_suite_free(s);
    ds_fid_suite_free(NULL);
    /* the plan: rows of 4 bytes a number, places of 4 */
    ds_fid_options o = {.want = DS_FID_WANT_KID, .dim = 10, .total = 3000};
    size_t kid = ds_fid_suite_bytes(&o);
    ck_assert_uint_eq(kid, DS_KID_ROWS_MAX * 10 * 4 + 3000 * 4);
    o.want = DS_FID_WANT_PR;
    ck_assert_uint_eq(ds_fid_suite_bytes(&o), 3000 * 10 * 4 + 3000 * 4);
    o.pr_rows = 500;
    size_t pr = ds_fid_suite_bytes(&o);
    ck_assert_uint_eq(pr, 500 * 10 * 4 + 3000 * 4);
    o.want = DS_FID_WANT_IS;
    size_t is = ds_fid_suite_bytes(&o);
    ck_assert_uint_eq(is, 3000 * 4 + 10 * DS_INCEPTION_LOGITS * 8);
    o.want = ALL;
    ck_assert_uint_eq(ds_fid_suite_bytes(&o),
                      kid + pr + is + ds_stats_bytes(10) + ds_stats_bytes(DS_INCEPTION_SPATIAL));
}
END_TEST

/* A file that is whole and not the feature network. */
START_TEST(other_networks) {
    char path[400], sha[DS_HEX_SIZE], *bytes;
    size_t n;
    const float x[2] = {1, 2};
    ds_device *dev;
    ds_features *f = NULL;
    ds_error err = {0};
    snprintf(path, sizeof path, "%s/net.zst", ds_test_tmpdir());
    ds_st_writer *w = ds_st_writer_new();
    ds_st_writer_add(w, "x", DS_ST_F32, 1, (int64_t[]){2}, x);
    ck_assert_int_eq(ds_st_writer_finish(w, &bytes, &n, NULL), 0);
    ds_digest(bytes, n, sha);
    ck_assert_int_eq(ds_zio_write_file(path, bytes, n, 3, NULL), 0);
    ck_assert_int_eq(ds_device_open(&dev, &(ds_device_options){.kind = "ref"}, NULL), 0);
    ck_assert_int_eq(ds_features_open(dev, path, NULL, &f, &err), DS_EINTEGRITY); /* its digest */
    ck_assert(!strncmp(err.message, "cannot use the feature network", 30));
    ck_assert_int_eq(ds_features_open(dev, path, sha, &f, &err), DS_EINTEGRITY); /* its tensors */
    ck_assert_ptr_null(f);
    ds_features_close(NULL);
    ds_device_close(dev);
    ds_st_writer_free(w);
    free(bytes);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, precision_and_recall);
    tcase_add_test(tc, inception_score);
    tcase_add_test(tc, kid_by_hand);
    tcase_add_test(tc, kid_of_many_rows);
    tcase_add_test(tc, matrices_that_are_not_finite);
    tcase_add_test(tc, what_sets_must_have);
    tcase_add_test(tc, statistics);
    tcase_add_test(tc, suites);
    tcase_add_test(tc, other_networks);
}

int main(void) { return ds_test_main("engine scores", cases); }
