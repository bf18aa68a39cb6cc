/* tests/engine/test_engine_votes.c - nearest neighbours and their votes: by hand, and against a search
 * that sorts all distances. */
#include "base/mem.h"
#include "base/rng.h"
#include "engine/metrics/votes.h"
#include "tests/harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ds_feature_set set_of(const float *x, int64_t n, int dim) {
    return (ds_feature_set){.x = x, .n = n, .dim = dim, .resize = "none"};
}

static void nearest(const ds_feature_set *real, const ds_feature_set *x, int k, int32_t *at) {
    ds_error err = {0};
    ck_assert_msg(!ds_nearest(real, x, k, at, NULL, NULL, &err), "%s", err.message);
}

/* On a line: of equal distances the first row, of equal votes the class of the nearest. */
START_TEST(by_hand) {
    static const float real[] = {0, 1, 2, 4, 8, 9}, x[] = {1.25f, 3, 8.5f, 100};
    static const int labels[] = {0, 0, 1, 1, 2, 2};
    static const int32_t want[] = {1, 2, 0, 2, 3, 1, 4, 5, 3, 5, 4, 3};
    const ds_feature_set a = set_of(real, 6, 1), b = set_of(x, 4, 1);
    int32_t at[12];
    nearest(&a, &b, 3, at);
    ck_assert(!memcmp(at, want, sizeof at));
    ck_assert_int_eq(ds_vote(at, 3, labels), 0);
    ck_assert_int_eq(ds_vote(at + 3, 3, labels), 1);
    ck_assert_int_eq(ds_vote(at + 6, 3, labels), 2);
    /* one vote each: the nearest */
    ck_assert_int_eq(ds_vote((const int32_t[]){3, 1, 4}, 3, labels), 1);
    ck_assert_int_eq(ds_vote((const int32_t[]){4, 1, 3}, 3, labels), 2);
    /* two votes each, the nearest voter alone: those with two win, by their nearer one */
    ck_assert_int_eq(ds_vote((const int32_t[]){4, 2, 1, 0, 3}, 5, labels), 1);
    ck_assert_int_eq(ds_vote((const int32_t[]){4, 1, 2, 3, 0}, 5, labels), 0);
    /* each real picture among the others */
    static const int32_t others[] = {1, 0, 1, 2, 5, 4};
    nearest(&a, NULL, 1, at);
    ck_assert(!memcmp(at, others, sizeof others));
}
END_TEST

typedef struct {
    double d;
    int32_t row;
} entry;

static int by_distance(const void *a, const void *b) {
    const entry *x = a, *y = b;
    return x->d < y->d ? -1 : x->d > y->d ? 1 : (x->row > y->row) - (x->row < y->row);
}

/* Votes counted in a table; of equals the class that stands first. */
static int brute_vote(const entry *e, int k, const int *labels, int classes) {
    int votes[16] = {0}, most = 0;
    for (int i = 0; i < k; i++)
        if (++votes[labels[e[i].row]] > most)
            most = votes[labels[e[i].row]];
    ck_assert_int_le(classes, 16);
    for (int i = 0; i < k; i++)
        if (votes[labels[e[i].row]] == most)
            return labels[e[i].row];
    return -1;
}

/* Whole numbers, so that sums are exact in any order and many distances are equal. */
static void whole_numbers(float *x, size_t n, uint32_t step) {
    for (size_t i = 0; i < n; i++)
        x[i] = (float)ds_rng_below(4, 5, DS_STREAM_TEST, step, i / 1000, (uint32_t)(i % 1000));
}

START_TEST(against_sorting) {
    enum { R = 90, N = 70, K = 5, C = 7 };
    static const int dims[] = {1, 3, 7, 8, 9, 16, 37, 768};
    int labels[R], ties = 0;
    for (int i = 0; i < R; i++)
        labels[i] = (int)ds_rng_below(C, 3, DS_STREAM_TEST, 1, 0, (uint32_t)i);
    for (size_t t = 0; t < 2 * sizeof dims / sizeof *dims; t++) {
        const int dim = dims[t / 2], alone = t % 2, n = alone ? R : N;
        float *real = ds_xmalloc(R * (size_t)dim * sizeof *real),
              *x = ds_xmalloc(N * (size_t)dim * sizeof *x);
        int32_t at[R * K];
        whole_numbers(real, R * (size_t)dim, 2);
        whole_numbers(x, N * (size_t)dim, 3);
        const ds_feature_set a = set_of(real, R, dim), b = set_of(x, N, dim);
        nearest(&a, alone ? NULL : &b, K, at);
        for (int i = 0; i < n; i++) {
            entry e[R];
            int count = 0;
            const float *row = (alone ? real : x) + (size_t)i * (size_t)dim;
            for (int r = 0; r < R; r++) {
                double d = 0;
                for (int j = 0; j < dim; j++)
                    d += pow(row[j] - real[(size_t)r * (size_t)dim + (size_t)j], 2);
                if (!alone || r != i)
                    e[count++] = (entry){d, r};
            }
            qsort(e, (size_t)count, sizeof *e, by_distance);
            ties += e[0].d == e[1].d;
            for (int k = 0; k < K; k++)
                ck_assert_msg(at[i * K + k] == e[k].row, "dim %d, row %d, neighbour %d", dim, i, k);
            ck_assert_int_eq(ds_vote(at + (size_t)i * K, K, labels), brute_vote(e, K, labels, C));
        }
        free(real), free(x);
    }
    ck_assert_int_gt(ties, 100); /* the rule for equals was needed */
}
END_TEST

/* A row's neighbours do not depend on what else is asked about. */
START_TEST(row_by_row) {
    enum { R = 50, N = 20, D = 45, K = 4 };
    float real[R * D], x[N * D];
    int32_t whole[N * K], one[K];
    ds_rng_normal(real, R * D, 1, DS_STREAM_TEST, 0, 0);
    ds_rng_normal(x, N * D, 1, DS_STREAM_TEST, 1, 0);
    const ds_feature_set a = set_of(real, R, D), b = set_of(x, N, D);
    nearest(&a, &b, K, whole);
    for (int i = 0; i < N; i++) {
        const ds_feature_set c = set_of(x + (size_t)i * D, 1, D);
        nearest(&a, &c, K, one);
        ck_assert(!memcmp(one, whole + (size_t)i * K, sizeof one));
    }
}
END_TEST

static int stop(void *user, double done, double total) {
    *(int *)user = done < total;
    return 1;
}

START_TEST(what_is_refused) {
    float x[40 * 2];
    int32_t at[40 * 3];
    int stopped = 0;
    ds_error err = {0};
    for (int i = 0; i < 80; i++)
        x[i] = (float)i;
    ds_feature_set few = set_of(x, 3, 2), all = set_of(x, 40, 2), other = all;
    ck_assert_int_eq(ds_nearest(&few, &all, 4, at, NULL, NULL, &err), DS_EINVAL);
    ck_assert_int_eq(ds_nearest(&few, NULL, 3, at, NULL, NULL, &err), DS_EINVAL);
    ck_assert_int_eq(ds_nearest(&few, &all, 3, at, NULL, NULL, &err), 0);
    strcpy(other.resize, "another");
    ck_assert_int_eq(ds_nearest(&all, &other, 3, at, NULL, NULL, &err), DS_EINVAL);
    ck_assert_int_eq(ds_nearest(&all, NULL, 3, at, stop, &stopped, &err), DS_ECANCELED);
    ck_assert(stopped);
    x[79] = NAN;
    ck_assert_int_eq(ds_nearest(&all, &few, 3, at, NULL, NULL, &err), DS_EFAILED);
    ck_assert_int_eq(ds_nearest(&few, &all, 3, at, NULL, NULL, &err), DS_EFAILED);
}
END_TEST

static void close_to(double x, double want) {
    ck_assert_msg(fabs(x - want) < 5e-5, "%.6f, expected %.6f", x, want);
}

/* Wilson's intervals: Newcombe 1998, Statistics in Medicine 17, table I, method 3. */
START_TEST(shares) {
    static const struct {
        int64_t hits, n;
        double lo, hi;
    } cases[] = {
        {81, 263, .2553, .3662}, {15, 148, .0624, .1605}, {0, 20, 0, .1611}, {1, 29, .0061, .1718}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_share s = ds_share_of(cases[i].hits, cases[i].n);
        close_to(s.lo, cases[i].lo);
        close_to(s.hi, cases[i].hi);
        close_to(s.share, (double)cases[i].hits / (double)cases[i].n);
    }
    ds_share none = ds_share_of(0, 0), all = ds_share_of(20, 20);
    ck_assert(isnan(none.share) && isnan(none.lo) && none.n == 0);
    close_to(all.lo, 1 - .1611);
    ck_assert(all.hi == 1 && all.std_error == 0);
    close_to(ds_share_of(50, 100).std_error, .05);
}
END_TEST

START_TEST(pairs) {
    uint8_t now[100], bar[100];
    for (int i = 0; i < 100; i++) {
        now[i] = i < 60;
        bar[i] = i >= 5 && i < 80; /* 5 gained, 20 lost */
    }
    ds_share_pair p = ds_share_pair_of(now, bar, 100);
    double squares = 0;
    for (int i = 0; i < 100; i++)
        squares += pow(now[i] - bar[i] + 0.15, 2);
    close_to(p.now, .6);
    close_to(p.bar, .75);
    close_to(p.difference, -.15);
    ck_assert(fabs(p.std_error - sqrt(squares / 99 / 100)) < 1e-12);
    ck_assert(fabs(p.z + .15 / p.std_error) < 1e-12);
    /* pairing pays: apart they would have a larger error */
    ck_assert(p.std_error < hypot(ds_share_of(60, 100).std_error, ds_share_of(75, 100).std_error));
    p = ds_share_pair_of(now, now, 100);
    ck_assert(p.difference == 0 && p.std_error == 0 && p.z == 0);
    ck_assert(isnan(ds_share_pair_of(now, bar, 1).std_error));
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, by_hand);
    tcase_add_test(tc, against_sorting);
    tcase_add_test(tc, row_by_row);
    tcase_add_test(tc, what_is_refused);
    tcase_add_test(tc, shares);
    tcase_add_test(tc, pairs);
}

int main(void) { return ds_test_main("engine_votes", register_cases); }
