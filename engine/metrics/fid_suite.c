#include "engine/metrics/fid_suite.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/metrics/linalg.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PR_ROWS = 10000, SPLITS_MAX = 1000, PR_BLOCK = 512 };

/* Rows chosen beforehand: place[index] is where a row goes, or -1. */
typedef struct {
    int32_t *place;
    float *x; /* (room, dim) */
    uint8_t *filled;
    int64_t room;
} kept_rows;

struct ds_fid_suite {
    ds_fid_options o;
    ds_stats *fid, *sfid;
    int64_t count;
    kept_rows kid, pr;
    int32_t *split_of; /* (total) */
    double *split_p;   /* (splits, 1008) sums of p */
    double *split_plogp;
    int64_t *split_n;
};

static int64_t pr_room(const ds_fid_options *o) { return o->pr_rows ? o->pr_rows : PR_ROWS; }

static void keep_init(kept_rows *k, const ds_fid_options *o, uint32_t step, int64_t most) {
    uint32_t total = (uint32_t)o->total;
    k->room = o->total < most ? o->total : most;
    k->place = ds_xmalloc((size_t)total * sizeof *k->place);
    k->x = ds_xmalloc((size_t)k->room * (size_t)o->dim * sizeof *k->x);
    k->filled = ds_xcalloc((size_t)k->room, 1);
    if (k->room == o->total) {
        for (uint32_t i = 0; i < total; i++)
            k->place[i] = (int32_t)i;
        return;
    }
    uint32_t *order = ds_xmalloc((size_t)total * sizeof *order);
    ds_rng_permutation(order, total, o->seed, DS_STREAM_KID, step);
    for (uint32_t i = 0; i < total; i++)
        k->place[order[i]] = (int64_t)i < k->room ? (int32_t)i : -1;
    free(order);
}

static void keep_add(kept_rows *k, int64_t index, const float *x, int dim) {
    int32_t at = k->place[index];
    if (at < 0)
        return;
    memcpy(k->x + (size_t)at * (size_t)dim, x, (size_t)dim * sizeof *x);
    k->filled[at] = 1;
}

/* Rows that came, closed up: malloc'ed (count, dim). */
static float *keep_compact(const kept_rows *k, int dim, int64_t *count) {
    float *x = ds_xmalloc((size_t)k->room * (size_t)dim * sizeof *x + 1);
    *count = 0;
    for (int64_t i = 0; i < k->room; i++)
        if (k->filled[i])
            memcpy(x + (size_t)(*count)++ * (size_t)dim, k->x + (size_t)i * (size_t)dim,
                   (size_t)dim * sizeof *x);
    return x;
}

static void keep_free(kept_rows *k) {
    free(k->place);
    free(k->x);
    free(k->filled);
}

static void splits_init(ds_fid_suite *s) {
    uint32_t total = (uint32_t)s->o.total;
    size_t splits = (size_t)s->o.splits;
    uint32_t *order = ds_xmalloc((size_t)total * sizeof *order);
    s->split_of = ds_xmalloc((size_t)total * sizeof *s->split_of);
    ds_rng_permutation(order, total, s->o.seed, DS_STREAM_KID, DS_FID_STEP_IS);
    for (uint32_t i = 0; i < total; i++)
        s->split_of[order[i]] = (int32_t)((uint64_t)i * splits / total);
    free(order);
    s->split_p = ds_xcalloc(splits * DS_INCEPTION_LOGITS, sizeof *s->split_p);
    s->split_plogp = ds_xcalloc(splits, sizeof *s->split_plogp);
    s->split_n = ds_xcalloc(splits, sizeof *s->split_n);
}

ds_fid_suite *ds_fid_suite_new(const ds_fid_options *o) {
    DS_ASSERT(o->dim >= 1 && o->dim <= DS_FEATURE_DIM_MAX && o->want);
    DS_ASSERT(o->total >= 1 && o->total <= DS_FEATURE_ROWS_MAX);
    DS_ASSERT(o->splits >= 0 && o->splits <= SPLITS_MAX);
    DS_ASSERT(o->pr_rows >= 0 && o->pr_rows <= DS_FID_PR_ROWS_MAX);
    ds_fid_suite *s = ds_xcalloc(1, sizeof *s);
    s->o = *o;
    s->o.splits = o->splits ? o->splits : DS_FID_SPLITS;
    if (o->want & DS_FID_WANT_FID)
        s->fid = ds_stats_new(o->dim);
    if (o->want & DS_FID_WANT_SFID)
        s->sfid = ds_stats_new(DS_INCEPTION_SPATIAL);
    if (o->want & DS_FID_WANT_KID)
        keep_init(&s->kid, o, DS_FID_STEP_KID, DS_KID_ROWS_MAX);
    if (o->want & DS_FID_WANT_PR)
        keep_init(&s->pr, o, DS_FID_STEP_PR, pr_room(o));
    if (o->want & DS_FID_WANT_IS)
        splits_init(s);
    return s;
}

void ds_fid_suite_free(ds_fid_suite *s) {
    if (!s)
        return;
    ds_stats_free(s->fid);
    ds_stats_free(s->sfid);
    keep_free(&s->kid);
    keep_free(&s->pr);
    free(s->split_of);
    free(s->split_p);
    free(s->split_plogp);
    free(s->split_n);
    free(s);
}

size_t ds_fid_suite_bytes(const ds_fid_options *o) {
    size_t dim = (size_t)o->dim, total = (size_t)o->total, n = 0;
    size_t kid = total < DS_KID_ROWS_MAX ? total : DS_KID_ROWS_MAX;
    size_t pr = total < (size_t)pr_room(o) ? total : (size_t)pr_room(o);
    n += o->want & DS_FID_WANT_FID ? ds_stats_bytes(o->dim) : 0;
    n += o->want & DS_FID_WANT_SFID ? ds_stats_bytes(DS_INCEPTION_SPATIAL) : 0;
    n += o->want & DS_FID_WANT_KID ? kid * dim * 4 + total * 4 : 0;
    n += o->want & DS_FID_WANT_PR ? pr * dim * 4 + total * 4 : 0;
    n += o->want & DS_FID_WANT_IS ? total * 4 + DS_FID_SPLITS * DS_INCEPTION_LOGITS * 8 : 0;
    return n;
}

/* ---------------------------------------------------------------- rows */

/* log p_j = (l_j - top) - log sum exp(l - top) in double. */
static void splits_add(ds_fid_suite *s, int64_t index, const float *logits) {
    double e[DS_INCEPTION_LOGITS], top = logits[0], sum = 0, entropy = 0;
    size_t split = (size_t)s->split_of[index];
    double *p = s->split_p + split * DS_INCEPTION_LOGITS;
    for (int j = 1; j < DS_INCEPTION_LOGITS; j++)
        top = logits[j] > top ? logits[j] : top;
    for (int j = 0; j < DS_INCEPTION_LOGITS; j++)
        sum += e[j] = exp(logits[j] - top);
    double log_sum = log(sum);
    for (int j = 0; j < DS_INCEPTION_LOGITS; j++) {
        double q = e[j] / sum;
        p[j] += q;
        entropy += q * (logits[j] - top - log_sum);
    }
    s->split_plogp[split] += entropy;
    s->split_n[split]++;
}

static int finite_row(const float *x, int n) {
    for (int i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return 0;
    return 1;
}

int ds_fid_suite_add(ds_fid_suite *s, int64_t index, const float *features, const float *spatial,
                     const float *logits, ds_error *err) {
    DS_ASSERT(index >= 0 && index < s->o.total);
    if (!finite_row(features, s->o.dim) ||
        (s->sfid && !finite_row(spatial, DS_INCEPTION_SPATIAL)) ||
        (s->split_of && !finite_row(logits, DS_INCEPTION_LOGITS)))
        return ds_fail(err, DS_EFAILED, "features of picture %lld are not finite",
                       (long long)index);
    if (s->fid)
        ds_stats_add(s->fid, features, 1);
    if (s->sfid)
        ds_stats_add(s->sfid, spatial, 1);
    if (s->kid.place)
        keep_add(&s->kid, index, features, s->o.dim);
    if (s->pr.place)
        keep_add(&s->pr, index, features, s->o.dim);
    if (s->split_of)
        splits_add(s, index, logits);
    s->count++;
    return 0;
}

int64_t ds_fid_suite_count(const ds_fid_suite *s) { return s->count; }

/* Mean and covariance of one stream of rows; NULL: nothing. */
static int finish(ds_stats *from, int dim, int *dim_out, double **mu, double **sigma,
                  ds_error *err) {
    size_t d = (size_t)dim;
    if (!from)
        return 0;
    *dim_out = dim;
    *mu = ds_xmalloc(d * sizeof **mu);
    *sigma = ds_xmalloc(d * d * sizeof **sigma);
    return ds_stats_finish(from, *mu, *sigma, err);
}

int ds_fid_suite_stats(ds_fid_suite *s, ds_npz_stats *out, ds_error *err) {
    DS_ASSERT(s->fid || s->sfid);
    *out = (ds_npz_stats){.known = 1, .n = s->count, .seed = s->o.seed};
    snprintf(out->net, sizeof out->net, "%s", s->o.net);
    snprintf(out->preprocess, sizeof out->preprocess, "%s", s->o.preprocess);
    int rc = finish(s->fid, s->o.dim, &out->dim, &out->mu, &out->sigma, err);
    rc = rc ? rc
            : finish(s->sfid, DS_INCEPTION_SPATIAL, &out->dim_s, &out->mu_s, &out->sigma_s, err);
    ds_stats_free(s->fid);
    ds_stats_free(s->sfid);
    s->fid = s->sfid = NULL;
    if (rc)
        ds_npz_stats_release(out);
    return rc;
}

/* ---------------------------------------------------------------- Inception Score */

int ds_fid_suite_is(const ds_fid_suite *s, ds_is_result *out, ds_error *err) {
    DS_ASSERT(s->split_of);
    int splits = s->o.splits;
    *out = (ds_is_result){.splits = splits, .n = s->count};
    double *score = ds_xmalloc((size_t)splits * sizeof *score), squares = 0;
    int rc = 0;
    for (int i = 0; !rc && i < splits; i++) {
        double n = (double)s->split_n[i], cross = 0;
        const double *p = s->split_p + (size_t)i * DS_INCEPTION_LOGITS;
        if (n < 1) {
            rc = ds_fail(err, DS_EINVAL,
                         "too few pictures for an Inception Score of %d parts: have %lld", splits,
                         (long long)s->count);
            break;
        }
        for (int j = 0; j < DS_INCEPTION_LOGITS; j++)
            cross += p[j] > 0 ? p[j] / n * log(p[j] / n) : 0;
        score[i] = exp(s->split_plogp[i] / n - cross);
        out->mean += score[i] / splits;
    }
    for (int i = 0; !rc && i < splits; i++)
        squares += (score[i] - out->mean) * (score[i] - out->mean);
    out->std = sqrt(squares / splits);
    free(score);
    return rc;
}

/* ---------------------------------------------------------------- KID, precision and recall */

static int same_kind(const ds_fid_suite *a, const ds_fid_suite *b, ds_error *err) {
    ds_feature_set x = {.n = 1, .dim = a->o.dim}, y = {.n = 1, .dim = b->o.dim};
    snprintf(x.net, sizeof x.net, "%s", a->o.net);
    snprintf(x.resize, sizeof x.resize, "%s", a->o.preprocess);
    snprintf(y.net, sizeof y.net, "%s", b->o.net);
    snprintf(y.resize, sizeof y.resize, "%s", b->o.preprocess);
    return ds_feature_sets_match(&x, &y, err);
}

static ds_feature_set as_set(const ds_fid_suite *s, const float *x, int64_t n) {
    ds_feature_set set = {.x = x, .n = n, .dim = s->o.dim};
    snprintf(set.net, sizeof set.net, "%s", s->o.net);
    snprintf(set.resize, sizeof set.resize, "%s", s->o.preprocess);
    return set;
}

int ds_fid_suite_kid(const ds_fid_suite *real, const ds_fid_suite *fake, int subsets,
                     int subset_size, uint64_t seed, ds_kid_result *out, ds_error *err) {
    DS_ASSERT(real->kid.place && fake->kid.place);
    int64_t n, m;
    float *x = keep_compact(&real->kid, real->o.dim, &n);
    float *y = keep_compact(&fake->kid, fake->o.dim, &m);
    ds_feature_set a = as_set(real, x, n), b = as_set(fake, y, m);
    int rc = ds_kid_compare(&a, &b, subsets, subset_size, seed, out, err);
    free(x);
    free(y);
    return rc;
}

typedef struct {
    const float *x;
    double *norm; /* |x|^2 */
    int64_t n;
    int dim;
} point_set;

static point_set points_new(const float *x, int64_t n, int dim) {
    point_set p = {x, ds_xcalloc((size_t)n, sizeof(double)), n, dim};
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < dim; j++) {
            double v = x[(size_t)i * (size_t)dim + (size_t)j];
            p.norm[i] += v * v;
        }
    return p;
}

static void widen_rows(double *to, const point_set *p, int64_t at, int64_t rows) {
    const float *from = p->x + (size_t)at * (size_t)p->dim;
    for (size_t i = 0; i < (size_t)rows * (size_t)p->dim; i++)
        to[i] = from[i];
}

/* Squared distances (rows, cols) of a's rows at `ai` and b's at `bi`; not below 0. */
static void distances(double *d, const point_set *a, int64_t ai, int64_t rows, const point_set *b,
                      int64_t bi, int64_t cols, double *xa, double *xb) {
    widen_rows(xa, a, ai, rows);
    widen_rows(xb, b, bi, cols);
    ds_matmul(d, (int)rows, (int)cols, a->dim, -2, xa, 0, xb, 1);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            double v = d[i * cols + j] + a->norm[ai + i] + b->norm[bi + j];
            d[i * cols + j] = a == b && ai + i == bi + j ? 0 : v > 0 ? v : 0;
        }
}

/* near (k+1): the smallest so far, ascending. */
static void insert_nearest(double *near, int count, double v) {
    if (v >= near[count - 1])
        return;
    int i = count - 1;
    for (; i > 0 && near[i - 1] > v; i--)
        near[i] = near[i - 1];
    near[i] = v;
}

typedef struct {
    double *d, *xa, *xb;
} workspace;

/* radius (n): squared distance to the k-th nearest other row (the row itself is the 0-th). */
static void radii(double *radius, const point_set *p, int k, const workspace *w) {
    double *near = ds_xmalloc(PR_BLOCK * (size_t)(k + 1) * sizeof *near);
    for (int64_t i = 0; i < p->n; i += PR_BLOCK) {
        int64_t rows = p->n - i < PR_BLOCK ? p->n - i : PR_BLOCK;
        for (size_t j = 0; j < PR_BLOCK * (size_t)(k + 1); j++)
            near[j] = DBL_MAX;
        for (int64_t j = 0; j < p->n; j += PR_BLOCK) {
            int64_t cols = p->n - j < PR_BLOCK ? p->n - j : PR_BLOCK;
            distances(w->d, p, i, rows, p, j, cols, w->xa, w->xb);
            for (int64_t r = 0; r < rows; r++)
                for (int64_t c = 0; c < cols; c++)
                    insert_nearest(near + r * (k + 1), k + 1, w->d[r * cols + c]);
        }
        for (int64_t r = 0; r < rows; r++)
            radius[i + r] = near[r * (k + 1) + k];
    }
    free(near);
}

/* Share of `rows` that lie within some radius of a row of `balls`. */
static double covered(const point_set *rows, const point_set *balls, const double *radius,
                      const workspace *w) {
    int64_t inside = 0;
    for (int64_t i = 0; i < rows->n; i += PR_BLOCK) {
        int64_t m = rows->n - i < PR_BLOCK ? rows->n - i : PR_BLOCK;
        uint8_t hit[PR_BLOCK] = {0};
        for (int64_t j = 0; j < balls->n; j += PR_BLOCK) {
            int64_t n = balls->n - j < PR_BLOCK ? balls->n - j : PR_BLOCK;
            distances(w->d, rows, i, m, balls, j, n, w->xa, w->xb);
            for (int64_t r = 0; r < m; r++)
                for (int64_t c = 0; !hit[r] && c < n; c++)
                    hit[r] = w->d[r * n + c] <= radius[j + c];
        }
        for (int64_t r = 0; r < m; r++)
            inside += hit[r];
    }
    return (double)inside / (double)rows->n;
}

int ds_precision_recall(const float *real, int64_t n_real, const float *fake, int64_t n_fake,
                        int dim, int k, ds_pr_result *out, ds_error *err) {
    DS_ASSERT(k >= 1 && k <= 64 && dim >= 1 && dim <= DS_FEATURE_DIM_MAX);
    if (n_real <= k || n_fake <= k)
        return ds_fail(err, DS_EINVAL,
                       "too few pictures for precision and recall: %lld real, %lld fake, need %d",
                       (long long)n_real, (long long)n_fake, k + 1);
    point_set r = points_new(real, n_real, dim), f = points_new(fake, n_fake, dim);
    double *radius = ds_xmalloc((size_t)(n_real > n_fake ? n_real : n_fake) * sizeof *radius);
    size_t block = (size_t)PR_BLOCK * (size_t)dim;
    workspace w = {ds_xmalloc((size_t)PR_BLOCK * PR_BLOCK * sizeof(double)),
                   ds_xmalloc(block * sizeof(double)), ds_xmalloc(block * sizeof(double))};
    *out = (ds_pr_result){.k = k, .n_real = n_real, .n_fake = n_fake};
    radii(radius, &r, k, &w);
    out->precision = covered(&f, &r, radius, &w);
    radii(radius, &f, k, &w);
    out->recall = covered(&r, &f, radius, &w);
    free(w.d);
    free(w.xa);
    free(w.xb);
    free(radius);
    free(r.norm);
    free(f.norm);
    return 0;
}

int ds_fid_suite_pr(const ds_fid_suite *real, const ds_fid_suite *fake, ds_pr_result *out,
                    ds_error *err) {
    DS_ASSERT(real->pr.place && fake->pr.place);
    int rc = same_kind(real, fake, err);
    if (rc)
        return rc;
    int64_t n, m;
    float *x = keep_compact(&real->pr, real->o.dim, &n);
    float *y = keep_compact(&fake->pr, fake->o.dim, &m);
    rc = ds_precision_recall(x, n, y, m, real->o.dim, DS_FID_PR_K, out, err);
    free(x);
    free(y);
    return rc;
}
