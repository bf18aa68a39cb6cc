#include "engine/metrics/kid.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/metrics/linalg.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    double *rr, *ff, *rf; /* kernel values (nr,nr), (nf,nf), (nr,nf) */
    uint32_t nr, nf;
} kernels;

static int choose_rows(const ds_feature_set *set, uint64_t seed, uint32_t step, double **x,
                       uint32_t *n, ds_error *err) {
    size_t d = (size_t)set->dim;
    uint32_t total = (uint32_t)set->n;
    *n = total < DS_KID_ROWS_MAX ? total : DS_KID_ROWS_MAX;
    uint32_t *order = ds_xmalloc(total * sizeof *order);
    if (*n < total)
        ds_rng_permutation(order, total, seed, DS_STREAM_KID, step);
    else
        for (uint32_t i = 0; i < total; i++)
            order[i] = i;
    *x = ds_xmalloc(*n * d * sizeof **x);
    int finite = 1;
    for (size_t i = 0; i < *n; i++)
        for (size_t j = 0; j < d; j++) {
            float v = set->x[order[i] * d + j];
            finite &= isfinite(v) != 0;
            (*x)[i * d + j] = v;
        }
    free(order);
    return finite ? 0 : ds_fail(err, DS_EFAILED, "features are not finite");
}

/* (n,m) kernel values of the rows of x (n,dim) and y (m,dim) */
static double *kernel_matrix(const double *x, uint32_t n, const double *y, uint32_t m, int dim) {
    double *k = ds_xmalloc((size_t)n * m * sizeof *k);
    ds_matmul(k, (int)n, (int)m, dim, 1.0 / dim, x, 0, y, 1);
    for (size_t i = 0; i < (size_t)n * m; i++) {
        double v = k[i] + 1;
        k[i] = v * v * v;
    }
    return k;
}

/* Sum of k (., columns) over rows a[0..m) and columns b[0..m); skip_diagonal leaves out i == j. */
static double subset_sum(const double *k, uint32_t columns, const uint32_t *a, uint32_t na,
                         const uint32_t *b, uint32_t nb, int skip_diagonal) {
    double sum = 0;
    for (uint32_t i = 0; i < na; i++) {
        const double *row = k + (size_t)a[i] * columns;
        double part = 0;
        for (uint32_t j = 0; j < nb; j++)
            part += row[b[j]];
        sum += part - (skip_diagonal ? row[a[i]] : 0);
    }
    return sum;
}

static double mmd2(const kernels *k, const uint32_t *r, uint32_t m, const uint32_t *f, uint32_t n) {
    double rr = subset_sum(k->rr, k->nr, r, m, r, m, 1) / ((double)m * (m - 1));
    double ff = subset_sum(k->ff, k->nf, f, n, f, n, 1) / ((double)n * (n - 1));
    return rr + ff - 2 * subset_sum(k->rf, k->nf, r, m, f, n, 0) / ((double)m * n);
}

static void estimate(const kernels *k, ds_kid_result *out) {
    uint32_t *r = ds_xmalloc(k->nr * sizeof *r), *f = ds_xmalloc(k->nf * sizeof *f);
    double *value = ds_xmalloc((size_t)out->subsets * sizeof *value);
    uint32_t m = (uint32_t)out->subset_size, least = k->nr < k->nf ? k->nr : k->nf;
    double squares = 0;
    for (uint32_t i = 0; i < k->nr; i++)
        r[i] = i;
    for (uint32_t i = 0; i < k->nf; i++)
        f[i] = i;
    out->kid = mmd2(k, r, k->nr, f, k->nf);
    out->subset_mean = 0;
    for (int i = 0; i < out->subsets; i++) {
        ds_rng_permutation(r, k->nr, out->seed, DS_STREAM_KID, 2 * (uint32_t)i);
        ds_rng_permutation(f, k->nf, out->seed, DS_STREAM_KID, 2 * (uint32_t)i + 1);
        value[i] = mmd2(k, r, m, f, m);
        out->subset_mean += value[i] / out->subsets;
    }
    for (int i = 0; i < out->subsets; i++)
        squares += (value[i] - out->subset_mean) * (value[i] - out->subset_mean);
    out->std_error = sqrt(squares / (out->subsets - 1) * m / (least - m));
    out->lo = out->kid - 1.96 * out->std_error;
    out->hi = out->kid + 1.96 * out->std_error;
    free(r);
    free(f);
    free(value);
}

int ds_kid_compare(const ds_feature_set *real, const ds_feature_set *fake, int subsets,
                   int subset_size, uint64_t seed, ds_kid_result *out, ds_error *err) {
    DS_ASSERT(subsets >= 2 && subsets <= DS_KID_SUBSETS_MAX && subset_size >= 2);
    int rc = ds_feature_sets_match(real, fake, err);
    if (rc)
        return rc;
    if (real->n < 4 || fake->n < 4)
        return ds_fail(err, DS_EINVAL, "too few pictures for KID: %lld real, %lld fake, need 4",
                       (long long)real->n, (long long)fake->n);
    ds_kid_result res = {.subsets = subsets, .seed = seed, .dim = real->dim};
    double *x = NULL, *y = NULL;
    kernels k = {0};
    rc = choose_rows(real, seed, UINT32_MAX - 1, &x, &k.nr, err);
    rc = rc ? rc : choose_rows(fake, seed, UINT32_MAX - 2, &y, &k.nf, err);
    if (!rc) {
        k.rr = kernel_matrix(x, k.nr, x, k.nr, real->dim);
        k.ff = kernel_matrix(y, k.nf, y, k.nf, real->dim);
        k.rf = kernel_matrix(x, k.nr, y, k.nf, real->dim);
        int half = (int)(k.nr < k.nf ? k.nr : k.nf) / 2;
        res.subset_size = subset_size < half ? subset_size : half;
        res.n_real = k.nr;
        res.n_fake = k.nf;
        snprintf(res.net, sizeof res.net, "%s", real->net);
        snprintf(res.resize, sizeof res.resize, "%s", real->resize);
        estimate(&k, &res);
        *out = res;
    }
    free(x);
    free(y);
    free(k.rr);
    free(k.ff);
    free(k.rf);
    return rc;
}
