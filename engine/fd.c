#include "engine/fd.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/linalg.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- statistics
 * Rows are gathered into blocks of fixed size; a full block's mean and scatter are merged into the
 * total (Chan, Golub & LeVeque 1979).  So sums are short, nothing cancels, and the portions in
 * which rows arrive do not matter. */
#define BLOCK_ROWS 256

struct ds_stats {
    int dim, fill;
    int64_t n;
    double *mean;    /* (dim) of the n merged rows */
    double *scatter; /* (dim,dim) sum of (x - mean)(x - mean)^T */
    double *block;   /* (BLOCK_ROWS,dim), the first `fill` rows used */
    double *row;     /* (dim) */
};

ds_stats *ds_stats_new(int dim) {
    DS_ASSERT(dim >= 1 && dim <= DS_FEATURE_DIM_MAX);
    ds_stats *s = ds_xcalloc(1, sizeof *s);
    size_t d = (size_t)dim;
    s->dim = dim;
    s->mean = ds_xcalloc(d, sizeof(double));
    s->scatter = ds_xcalloc(d * d, sizeof(double));
    s->block = ds_xcalloc(BLOCK_ROWS * d, sizeof(double));
    s->row = ds_xcalloc(d, sizeof(double));
    return s;
}

void ds_stats_free(ds_stats *s) {
    if (!s)
        return;
    free(s->mean);
    free(s->scatter);
    free(s->block);
    free(s->row);
    free(s);
}

int64_t ds_stats_count(const ds_stats *s) { return s->n + s->fill; }

static void merge_block(ds_stats *s) {
    int d = s->dim, rows = s->fill;
    if (!rows)
        return;
    double n = (double)s->n, total = n + rows;
    for (int j = 0; j < d; j++) {
        double sum = 0;
        for (int i = 0; i < rows; i++)
            sum += s->block[(size_t)i * (size_t)d + (size_t)j];
        double block_mean = sum / rows;
        for (int i = 0; i < rows; i++)
            s->block[(size_t)i * (size_t)d + (size_t)j] -= block_mean;
        s->row[j] = block_mean - s->mean[j];
        s->mean[j] += s->row[j] * (rows / total);
        s->row[j] *= sqrt(n * rows / total); /* its square joins the scatter */
    }
    ds_gram_add(s->scatter, s->block, rows, d);
    ds_gram_add(s->scatter, s->row, 1, d);
    s->n += rows;
    s->fill = 0;
}

void ds_stats_add(ds_stats *s, const float *x, int64_t rows) {
    size_t d = (size_t)s->dim;
    for (int64_t i = 0; i < rows; i++) {
        double *to = s->block + (size_t)s->fill * d;
        for (size_t j = 0; j < d; j++)
            to[j] = x[(size_t)i * d + j];
        if (++s->fill == BLOCK_ROWS)
            merge_block(s);
    }
}

int ds_stats_finish(ds_stats *s, double *mean, double *cov, ds_error *err) {
    merge_block(s);
    if (s->n < 2)
        return ds_fail(err, DS_EINVAL, "a covariance needs at least 2 pictures, have %lld",
                       (long long)s->n);
    size_t d = (size_t)s->dim;
    if (mean)
        memcpy(mean, s->mean, d * sizeof *mean);
    for (size_t i = 0; cov && i < d * d; i++)
        cov[i] = s->scatter[i] / (double)(s->n - 1);
    return 0;
}

/* ---------------------------------------------------------------- distance */

typedef struct {
    double *mean, *cov;
} gaussian;

static gaussian gaussian_new(int dim) {
    size_t d = (size_t)dim;
    double *p = ds_xmalloc((d + d * d) * sizeof *p);
    return (gaussian){p, p + d};
}
static void gaussian_free(gaussian g) { free(g.mean); }

static double trace(const double *a, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += a[(size_t)i * (size_t)n + (size_t)i];
    return sum;
}

typedef struct {
    double mean_term, trace_term;
} distance;

/* Distance of b from a; root = a.cov^1/2, scratch (2 dim^2). */
static int distance_to(const gaussian *a, const double *root, const gaussian *b, int dim,
                       double *scratch, distance *out, ds_error *err) {
    size_t size = (size_t)dim * (size_t)dim;
    double *half = scratch, *middle = scratch + size, cross = 0;
    ds_matmul(half, dim, dim, dim, 1, root, 0, b->cov, 0);
    ds_matmul(middle, dim, dim, dim, 1, half, 0, root, 0);
    int rc = ds_trace_sqrt_psd(&cross, middle, dim, err);
    if (rc)
        return rc;
    out->mean_term = 0;
    for (int i = 0; i < dim; i++)
        out->mean_term += (a->mean[i] - b->mean[i]) * (a->mean[i] - b->mean[i]);
    out->trace_term = trace(a->cov, dim) + trace(b->cov, dim) - 2 * cross;
    return 0;
}

int ds_frechet(const double *mean1, const double *cov1, const double *mean2, const double *cov2,
               int dim, double *fd, ds_error *err) {
    DS_ASSERT(dim >= 1 && dim <= DS_FEATURE_DIM_MAX);
    size_t size = (size_t)dim * (size_t)dim;
    double *work = ds_xmalloc(3 * size * sizeof *work);
    gaussian a = {(double *)(uintptr_t)mean1, (double *)(uintptr_t)cov1};
    gaussian b = {(double *)(uintptr_t)mean2, (double *)(uintptr_t)cov2};
    distance d = {0};
    int rc = ds_sqrt_psd(work, cov1, dim, err);
    rc = rc ? rc : distance_to(&a, work, &b, dim, work + size, &d, err);
    free(work);
    if (!rc)
        *fd = fmax(d.mean_term + d.trace_term, 0);
    return rc;
}

/* ---------------------------------------------------------------- interval */

/* 0.975 quantiles of Student's t with g-1 degrees of freedom, g = 2.. (any table of t). */
static double t975(int groups) {
    static const double t[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306,
                               2.262,  2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
                               2.110,  2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064,
                               2.060,  2.056, 2.052, 2.048, 2.045, 2.042, 2.040};
    DS_ASSERT(groups >= 2 && groups <= DS_FD_GROUPS_MAX);
    return t[groups - 2];
}

typedef struct {
    const ds_feature_set *fake;
    gaussian real, rest;
    double *root, *scratch;
} jackknife;

/* Distance without group `drop` (-1: with all); order is the random order of the fake set. */
static int distance_without(jackknife *j, const uint32_t *order, int drop, int groups,
                            distance *out, ds_error *err) {
    int dim = j->fake->dim;
    ds_stats *s = ds_stats_new(dim);
    for (int64_t i = 0; i < j->fake->n; i++) {
        int64_t row = order ? (int64_t)order[i] : i;
        if (drop < 0 || i % groups != drop)
            ds_stats_add(s, j->fake->x + (size_t)row * (size_t)dim, 1);
    }
    int rc = ds_stats_finish(s, j->rest.mean, j->rest.cov, err);
    ds_stats_free(s);
    return rc ? rc : distance_to(&j->real, j->root, &j->rest, dim, j->scratch, out, err);
}

static int add_interval(jackknife *j, ds_fd_result *r, ds_error *err) {
    double part[DS_FD_GROUPS_MAX], mean = 0, squares = 0;
    uint32_t *order = ds_xmalloc((size_t)j->fake->n * sizeof *order);
    ds_rng_permutation(order, (uint32_t)j->fake->n, r->seed, DS_STREAM_KID, UINT32_MAX);
    int rc = 0, g = r->groups;
    for (int i = 0; !rc && i < g; i++) {
        distance d = {0};
        rc = distance_without(j, order, i, g, &d, err);
        part[i] = d.mean_term + d.trace_term;
        mean += part[i] / g;
    }
    free(order);
    if (rc)
        return rc;
    for (int i = 0; i < g; i++)
        squares += (part[i] - mean) * (part[i] - mean);
    r->std_error = sqrt(squares * (g - 1) / g);
    r->lo = fmax(r->fd - t975(g) * r->std_error, 0);
    r->hi = r->fd + t975(g) * r->std_error;
    return 0;
}

static int check_sets(const ds_feature_set *real, const ds_feature_set *fake, int groups,
                      ds_error *err) {
    DS_ASSERT(groups == 0 || (groups >= 2 && groups <= DS_FD_GROUPS_MAX));
    int rc = ds_feature_sets_match(real, fake, err);
    if (rc)
        return rc;
    if (real->n < 2 || fake->n < 2 || fake->n < 2 * groups)
        return ds_fail(err, DS_EINVAL,
                       "too few pictures for a distance: %lld real, %lld fake, need 2 and %d",
                       (long long)real->n, (long long)fake->n, groups ? 2 * groups : 2);
    return 0;
}

int ds_fd_compare(const ds_feature_set *real, const ds_feature_set *fake, int groups, uint64_t seed,
                  ds_fd_result *out, ds_error *err) {
    int rc = check_sets(real, fake, groups, err);
    if (rc)
        return rc;
    int dim = real->dim;
    size_t size = (size_t)dim * (size_t)dim;
    jackknife j = {.fake = fake, .real = gaussian_new(dim), .rest = gaussian_new(dim)};
    j.root = ds_xmalloc(3 * size * sizeof *j.root);
    j.scratch = j.root + size;
    ds_fd_result r = {.groups = groups, .seed = seed, .n_real = real->n, .n_fake = fake->n};
    r.dim = dim;
    r.std_error = r.lo = r.hi = NAN;
    snprintf(r.net, sizeof r.net, "%s", real->net);
    snprintf(r.resize, sizeof r.resize, "%s", real->resize);
    ds_stats *s = ds_stats_new(dim);
    ds_stats_add(s, real->x, real->n);
    distance d = {0};
    rc = ds_stats_finish(s, j.real.mean, j.real.cov, err);
    rc = rc ? rc : ds_sqrt_psd(j.root, j.real.cov, dim, err);
    rc = rc ? rc : distance_without(&j, NULL, -1, 0, &d, err);
    if (!rc) {
        r.mean_term = d.mean_term;
        r.trace_term = fmax(d.trace_term, -d.mean_term);
        r.fd = r.mean_term + r.trace_term;
        if (groups)
            rc = add_interval(&j, &r, err);
    }
    ds_stats_free(s);
    gaussian_free(j.real);
    gaussian_free(j.rest);
    free(j.root);
    if (!rc)
        *out = r;
    return rc;
}
