#include "engine/metrics/fd.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/metrics/linalg.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- statistics
 * Rows are gathered into blocks of fixed size; a full block's mean and scatter are merged into the
 * total (Chan, Golub & LeVeque 1979).  So sums are short, nothing cancels, and the portions in
 * which rows arrive do not matter. */
enum { BLOCK_ROWS = 256, BLOCK_ROWS_DEVICE = 2048 };

struct ds_stats {
    int dim, fill, room;
    int64_t n;
    double *mean;    /* (dim) of the n merged rows */
    double *scatter; /* (dim,dim) sum of (x - mean)(x - mean)^T, upper triangle */
    double *block;   /* (room+1,dim), the first `fill` rows used; one more for the merge */
    double *sum;     /* (dim) */
};

static int block_rows(void) { return ds_linalg_helped() ? BLOCK_ROWS_DEVICE : BLOCK_ROWS; }

size_t ds_stats_bytes(int dim) {
    size_t d = (size_t)dim;
    return (d * d + ((size_t)block_rows() + 3) * d) * sizeof(double);
}

ds_stats *ds_stats_new(int dim) {
    DS_ASSERT(dim >= 1 && dim <= DS_FEATURE_DIM_MAX);
    ds_stats *s = ds_xcalloc(1, sizeof *s);
    size_t d = (size_t)dim;
    s->dim = dim;
    s->room = block_rows();
    s->mean = ds_xcalloc(d, sizeof(double));
    s->scatter = ds_xcalloc(d * d, sizeof(double));
    s->block = ds_xmalloc(((size_t)s->room + 1) * d * sizeof(double));
    s->sum = ds_xmalloc(d * sizeof(double));
    return s;
}

void ds_stats_free(ds_stats *s) {
    if (!s)
        return;
    free(s->mean);
    free(s->scatter);
    free(s->block);
    free(s->sum);
    free(s);
}

static void merge_block(ds_stats *s) {
    size_t d = (size_t)s->dim, rows = (size_t)s->fill;
    if (!rows)
        return;
    double n = (double)s->n, share = (double)rows / (n + (double)rows);
    double *step = s->block + rows * d; /* its square joins the scatter */
    memset(s->sum, 0, d * sizeof *s->sum);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < d; j++)
            s->sum[j] += s->block[i * d + j];
    for (size_t j = 0; j < d; j++) {
        s->sum[j] /= (double)rows;
        step[j] = s->sum[j] - s->mean[j];
        s->mean[j] += step[j] * share;
        step[j] *= sqrt(n * share);
    }
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < d; j++)
            s->block[i * d + j] -= s->sum[j];
    ds_gram_add(s->scatter, s->block, (int)rows + (n > 0), s->dim);
    s->n += (int64_t)rows;
    s->fill = 0;
}

void ds_stats_add(ds_stats *s, const float *x, int64_t rows) {
    size_t d = (size_t)s->dim;
    for (int64_t i = 0; i < rows; i++) {
        double *to = s->block + (size_t)s->fill * d;
        for (size_t j = 0; j < d; j++)
            to[j] = x[(size_t)i * d + j];
        if (++s->fill == s->room)
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
    if (!cov)
        return 0;
    for (size_t i = 0; i < d; i++)
        for (size_t j = i; j < d; j++)
            cov[i * d + j] = s->scatter[i * d + j] / (double)(s->n - 1);
    ds_mirror_upper(cov, s->dim);
    return 0;
}

/* ---------------------------------------------------------------- distance of two Gaussians */

static double square(double x) { return x * x; }

static double trace(const double *a, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += a[(size_t)i * (size_t)n + (size_t)i];
    return sum;
}

static double mean_term(const double *a, const double *b, int dim) {
    double sum = 0;
    for (int i = 0; i < dim; i++)
        sum += square(a[i] - b[i]);
    return sum;
}

int ds_frechet(const double *mean1, const double *cov1, const double *mean2, const double *cov2,
               int dim, double *fd, ds_error *err) {
    DS_ASSERT(dim >= 1 && dim <= DS_FEATURE_DIM_MAX);
    size_t size = (size_t)dim * (size_t)dim;
    double *factor = ds_xmalloc(2 * size * sizeof *factor), *half = factor + size, cross = 0;
    int rank, rc = ds_factor_psd(factor, &rank, cov1, dim, err);
    if (!rc && rank) {
        ds_matmul(half, rank, dim, dim, 1, factor, 0, cov2, 0);
        double *middle = ds_xmalloc((size_t)rank * (size_t)rank * sizeof *middle);
        ds_matmul(middle, rank, rank, dim, 1, half, 0, factor, 1);
        rc = ds_trace_sqrt_psd(&cross, middle, rank, err);
        free(middle);
    }
    free(factor);
    if (rc)
        return rc;
    double sum = mean_term(mean1, mean2, dim) + trace(cov1, dim) + trace(cov2, dim) - 2 * cross;
    if (!isfinite(sum)) /* fmax would make a NaN 0 */
        return ds_fail(err, DS_EFAILED, "the distance is not finite: numbers are too large");
    *fd = fmax(sum, 0);
    return 0;
}

/* ---------------------------------------------------------------- the real set */

typedef struct {
    int dim, rank;
    double *mean;   /* (dim) */
    double *factor; /* (rank,dim): covariance = factor^T factor */
    double trace;   /* of the covariance */
} real_side;

static void real_free(real_side *r) {
    free(r->mean);
    free(r->factor);
}

static void row_mean(double *mean, const ds_feature_set *set) {
    size_t d = (size_t)set->dim;
    memset(mean, 0, d * sizeof *mean);
    for (int64_t i = 0; i < set->n; i++)
        for (size_t j = 0; j < d; j++)
            mean[j] += set->x[(size_t)i * d + j];
    for (size_t j = 0; j < d; j++)
        mean[j] /= (double)set->n;
}

/* No more pictures than dimensions: they are the factor. */
static int factor_of_rows(real_side *r, const ds_feature_set *set) {
    size_t d = (size_t)set->dim, size = (size_t)set->n * d;
    double scale = 1 / sqrt((double)(set->n - 1));
    row_mean(r->mean, set);
    r->rank = (int)set->n;
    r->factor = ds_xmalloc(size * sizeof *r->factor);
    for (size_t i = 0; i < size; i++) {
        r->factor[i] = (set->x[i] - r->mean[i % d]) * scale;
        r->trace += square(r->factor[i]);
    }
    return 0;
}

static int factor_of_covariance(real_side *r, const ds_feature_set *set, ds_error *err) {
    size_t size = (size_t)set->dim * (size_t)set->dim;
    double *cov = ds_xmalloc(size * sizeof *cov);
    ds_stats *s = ds_stats_new(set->dim);
    ds_stats_add(s, set->x, set->n);
    int rc = ds_stats_finish(s, r->mean, cov, err);
    ds_stats_free(s);
    r->factor = ds_xmalloc(size * sizeof *r->factor);
    rc = rc ? rc : ds_factor_psd(r->factor, &r->rank, cov, set->dim, err);
    r->trace = trace(cov, set->dim);
    free(cov);
    return rc;
}

static int real_open(real_side *r, const ds_feature_set *set, ds_error *err) {
    *r = (real_side){.dim = set->dim, .mean = ds_xmalloc((size_t)set->dim * sizeof *r->mean)};
    return set->n <= set->dim ? factor_of_rows(r, set) : factor_of_covariance(r, set, err);
}

/* ---------------------------------------------------------------- the fake set, by groups
 * Means and squares of each group, in the space of the features; and one of two ways to the
 * eigenvalues of R S2 R^T without a group: `gram` where there are no more pictures than rows of the
 * factor, `scatter` where there are. */

typedef struct {
    const ds_feature_set *set;
    const real_side *real;
    int groups;                          /* at least 1 */
    uint32_t *order;                     /* (n) the rows, group after group */
    int64_t first[DS_FD_GROUPS_MAX + 1]; /* of each group in it */
    double *mean;                        /* (groups,dim) */
    double *centre;                      /* (dim) of all */
    double squares[DS_FD_GROUPS_MAX];    /* sum of |x - mean of the group|^2 */
    double *gram;                        /* (n,n) F F^T, pictures in their own order */
    ds_stats *scatter[DS_FD_GROUPS_MAX]; /* of F */
} fake_side;

static int64_t size_of(const fake_side *f, int group) {
    return f->first[group + 1] - f->first[group];
}

static void fake_free(fake_side *f) {
    free(f->order);
    free(f->mean);
    free(f->centre);
    free(f->gram);
    for (int g = 0; g < f->groups; g++)
        ds_stats_free(f->scatter[g]);
}

/* Group i holds every groups-th picture of a random order, from number i on. */
static void split(fake_side *f, uint64_t seed) {
    uint32_t n = (uint32_t)f->set->n, *all = ds_xmalloc(n * sizeof *all);
    if (f->groups > 1)
        ds_rng_permutation(all, n, seed, DS_STREAM_KID, UINT32_MAX);
    else
        for (uint32_t i = 0; i < n; i++)
            all[i] = i;
    f->order = ds_xmalloc(n * sizeof *f->order);
    for (int g = 0; g < f->groups; g++) {
        int64_t at = f->first[g];
        for (uint32_t i = (uint32_t)g; i < n; i += (uint32_t)f->groups)
            f->order[at++] = all[i];
        f->first[g + 1] = at;
    }
    free(all);
}

static const float *row_of(const fake_side *f, int64_t i) {
    return f->set->x + (size_t)f->order[i] * (size_t)f->set->dim;
}

static void moments(fake_side *f) {
    size_t d = (size_t)f->set->dim;
    f->mean = ds_xcalloc((size_t)f->groups * d, sizeof *f->mean);
    f->centre = ds_xmalloc(d * sizeof *f->centre);
    row_mean(f->centre, f->set);
    for (int g = 0; g < f->groups; g++) {
        double *mean = f->mean + (size_t)g * d;
        for (int64_t i = f->first[g]; i < f->first[g + 1]; i++)
            for (size_t j = 0; j < d; j++)
                mean[j] += row_of(f, i)[j];
        for (size_t j = 0; j < d; j++)
            mean[j] /= (double)size_of(f, g);
        for (int64_t i = f->first[g]; i < f->first[g + 1]; i++)
            for (size_t j = 0; j < d; j++)
                f->squares[g] += square(row_of(f, i)[j] - mean[j]);
    }
}

/* F (rows,rank) of these rows, NULL: of the first so many; x: room for (rows,dim). */
static void project(const fake_side *f, double *F, double *x, const uint32_t *which, int rows) {
    int dim = f->set->dim;
    for (int i = 0; i < rows; i++) {
        const float *from = f->set->x + (size_t)(which ? which[i] : (uint32_t)i) * (size_t)dim;
        for (int j = 0; j < dim; j++)
            x[(size_t)i * (size_t)dim + (size_t)j] = from[j] - f->centre[j];
    }
    ds_matmul(F, rows, f->real->rank, dim, 1, x, 0, f->real->factor, 1);
}

static void make_gram(fake_side *f) {
    size_t n = (size_t)f->set->n;
    double *x = ds_xmalloc(n * (size_t)f->set->dim * sizeof *x),
           *F = ds_xmalloc(n * (size_t)f->real->rank * sizeof *F);
    project(f, F, x, NULL, (int)n);
    free(x);
    f->gram = ds_xmalloc(n * n * sizeof *f->gram);
    ds_gram_rows(f->gram, F, (int)n, f->real->rank);
    free(F);
    ds_mirror_upper(f->gram, (int)n);
}

static void make_scatters(fake_side *f) {
    const int most = block_rows();
    double *x = ds_xmalloc((size_t)most * (size_t)f->set->dim * sizeof *x);
    for (int g = 0; g < f->groups; g++) {
        ds_stats *s = f->scatter[g] = ds_stats_new(f->real->rank);
        for (int64_t i = f->first[g]; i < f->first[g + 1]; i += s->fill) {
            int64_t left = f->first[g + 1] - i;
            merge_block(s);
            s->fill = left < most ? (int)left : most;
            project(f, s->block, x, f->order + i, s->fill);
        }
        merge_block(s);
        free(s->block); /* the scatter is what is kept */
        s->block = NULL;
    }
    free(x);
}

static void fake_open(fake_side *f, const ds_feature_set *set, const real_side *real, int groups,
                      uint64_t seed) {
    *f = (fake_side){.set = set, .real = real, .groups = groups ? groups : 1};
    split(f, seed);
    moments(f);
    if (real->rank == 0)
        return;
    if (set->n <= real->rank)
        make_gram(f);
    else
        make_scatters(f);
}

/* ---------------------------------------------------------------- without a group */

/* `drop` is the group that is left out, -1: none. */
typedef struct {
    double mean_term, trace_term;
} distance;

/* Mean term and trace of the covariance of what is left (Chan, Golub & LeVeque, as above). */
static void first_moments(const fake_side *f, int drop, double *term, double *trace_left) {
    size_t d = (size_t)f->set->dim;
    double *mean = ds_xcalloc(d, sizeof *mean), n = 0, squares = 0;
    for (int g = 0; g < f->groups; g++) {
        double more = (double)size_of(f, g), share = more / (n + more), step = 0;
        if (g == drop)
            continue;
        for (size_t j = 0; j < d; j++) {
            double delta = f->mean[(size_t)g * d + j] - mean[j];
            mean[j] += delta * share;
            step += square(delta);
        }
        squares += f->squares[g] + step * n * share;
        n += more;
    }
    *term = mean_term(f->real->mean, mean, f->set->dim);
    *trace_left = squares / (n - 1);
    free(mean);
}

/* a (m,m) (=) P G P / (m-1): G the rows and columns of gram that are left, P x = x - mean x. */
static int left_of_gram(const fake_side *f, int drop, double *a) {
    size_t n = (size_t)f->set->n, m = 0, *left = ds_xcalloc(n, sizeof *left);
    double *mean = ds_xmalloc(n * sizeof *mean), all = 0;
    if (drop >= 0)
        for (int64_t i = f->first[drop]; i < f->first[drop + 1]; i++)
            left[f->order[i]] = 1;
    for (size_t i = 0; i < n; i++) /* in place: m <= i */
        if (!left[i])
            left[m++] = i;
    for (size_t i = 0; i < m; i++) {
        const double *row = f->gram + left[i] * n;
        mean[i] = 0;
        for (size_t j = 0; j < m; j++) {
            a[i * m + j] = row[left[j]];
            mean[i] += a[i * m + j];
        }
        mean[i] /= (double)m;
        all += mean[i] / (double)m;
    }
    for (size_t i = 0; i < m; i++)
        for (size_t j = i; j < m; j++)
            a[i * m + j] = (a[i * m + j] - mean[i] - mean[j] + all) / (double)(m - 1);
    free(mean);
    free(left);
    return (int)m;
}

/* a (rank,rank) (=) covariance of F over the groups that are left. */
static int left_of_scatters(const fake_side *f, int drop, double *a) {
    size_t r = (size_t)f->real->rank;
    double *mean = ds_xcalloc(2 * r, sizeof *mean), *step = mean + r, n = 0;
    memset(a, 0, r * r * sizeof *a);
    for (int g = 0; g < f->groups; g++) {
        const ds_stats *s = f->scatter[g];
        double share = (double)s->n / (n + (double)s->n), weight = n * share;
        if (g == drop)
            continue;
        for (size_t j = 0; j < r; j++) {
            step[j] = s->mean[j] - mean[j];
            mean[j] += step[j] * share;
        }
        for (size_t i = 0; i < r; i++)
            for (size_t j = i; j < r; j++)
                a[i * r + j] += s->scatter[i * r + j] + weight * step[i] * step[j];
        n += (double)s->n;
    }
    for (size_t i = 0; i < r * r; i++)
        a[i] /= n - 1;
    free(mean);
    return (int)r;
}

static int distance_without(const fake_side *f, int drop, double *a, distance *out, ds_error *err) {
    double cross = 0, left = 0;
    int rc = 0;
    first_moments(f, drop, &out->mean_term, &left);
    if (f->real->rank) {
        int m = f->gram ? left_of_gram(f, drop, a) : left_of_scatters(f, drop, a);
        rc = ds_trace_sqrt_psd(&cross, a, m, err);
    }
    out->trace_term = f->real->trace + left - 2 * cross;
    return rc;
}

/* ---------------------------------------------------------------- all of them */

typedef struct {
    const fake_side *fake;
    ds_progress *progress;
    void *user;
    int tasks;
    atomic_int done, stop;
    double *room[DS_LINALG_THREADS_MAX];     /* of each thread: the matrix that is decomposed */
    distance distance[DS_FD_GROUPS_MAX + 1]; /* of all; without group 0, 1, .. */
    int rc[DS_FD_GROUPS_MAX + 1];
    ds_error err[DS_FD_GROUPS_MAX + 1];
} decompositions;

/* The factor and F count as one, at the beginning. */
static int say(ds_progress *progress, void *user, int done, int tasks, ds_error *err) {
    if (progress && progress(user, done, tasks + 1))
        return ds_fail(err, DS_ECANCELED, "the distance was stopped");
    return 0;
}

static void decompose(void *ctx, int i, int worker) {
    decompositions *d = ctx;
    if (atomic_load(&d->stop))
        return;
    d->rc[i] = distance_without(d->fake, i - 1, d->room[worker], &d->distance[i], &d->err[i]);
    int done = 1 + atomic_fetch_add(&d->done, 1);
    if (!d->rc[i] && worker == 0)
        d->rc[i] = say(d->progress, d->user, 1 + done, d->tasks, &d->err[i]);
    if (d->rc[i])
        atomic_store(&d->stop, 1);
}

static int decompose_all(decompositions *d, ds_error *err) {
    int m = d->fake->gram ? (int)d->fake->set->n : d->fake->real->rank;
    int threads = ds_linalg_threads(), rc = 0;
    size_t size = (size_t)m * (size_t)m;
    threads = threads < d->tasks ? threads : d->tasks;
    for (int t = 0; t < threads; t++)
        d->room[t] = ds_xmalloc((size ? size : 1) * sizeof(double));
    ds_linalg_parallel(d->tasks, threads, decompose, d);
    for (int t = 0; t < threads; t++)
        free(d->room[t]);
    for (int i = 0; !rc && i < d->tasks; i++)
        if ((rc = d->rc[i]) && err)
            *err = d->err[i];
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

static void add_interval(const distance *part, ds_fd_result *r) {
    double mean = 0, squares = 0;
    int g = r->groups;
    for (int i = 0; i < g; i++)
        mean += (part[i].mean_term + part[i].trace_term) / g;
    for (int i = 0; i < g; i++)
        squares += square(part[i].mean_term + part[i].trace_term - mean);
    r->std_error = sqrt(squares * (g - 1) / g);
    r->lo = fmax(r->fd - t975(g) * r->std_error, 0);
    r->hi = r->fd + t975(g) * r->std_error;
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

static int all_finite(const ds_feature_set *set) {
    for (size_t i = 0; i < (size_t)set->n * (size_t)set->dim; i++)
        if (!isfinite(set->x[i]))
            return 0;
    return 1;
}

static void fill_result(ds_fd_result *r, const distance *d) {
    r->std_error = r->lo = r->hi = NAN;
    r->mean_term = d[0].mean_term;
    r->trace_term = fmax(d[0].trace_term, -d[0].mean_term);
    r->fd = r->mean_term + r->trace_term;
    if (r->groups)
        add_interval(d + 1, r);
}

/* distance[0] of all, then without each group. */
static int distances(const ds_feature_set *real, const ds_feature_set *fake, int groups,
                     uint64_t seed, ds_progress *progress, void *user,
                     distance out[DS_FD_GROUPS_MAX + 1], ds_error *err) {
    int rc = check_sets(real, fake, groups, err);
    if (rc)
        return rc;
    if (!all_finite(real) || !all_finite(fake))
        return ds_fail(err, DS_EFAILED, "features are not finite");
    real_side a = {0};
    fake_side b = {0};
    decompositions d = {.fake = &b, .progress = progress, .user = user, .tasks = groups + 1};
    rc = say(progress, user, 0, d.tasks, err);
    rc = rc ? rc : real_open(&a, real, err);
    if (!rc) {
        fake_open(&b, fake, &a, groups, seed);
        rc = say(progress, user, 1, d.tasks, err);
    }
    rc = rc ? rc : decompose_all(&d, err);
    fake_free(&b);
    real_free(&a);
    if (!rc)
        memcpy(out, d.distance, sizeof d.distance);
    return rc;
}

int ds_fd_compare(const ds_feature_set *real, const ds_feature_set *fake, int groups, uint64_t seed,
                  ds_progress *progress, void *user, ds_fd_result *out, ds_error *err) {
    distance d[DS_FD_GROUPS_MAX + 1];
    int rc = distances(real, fake, groups, seed, progress, user, d, err);
    if (rc)
        return rc;
    ds_fd_result r = {.groups = groups, .seed = seed, .n_real = real->n, .n_fake = fake->n};
    r.dim = real->dim;
    snprintf(r.net, sizeof r.net, "%s", real->net);
    snprintf(r.resize, sizeof r.resize, "%s", real->resize);
    fill_result(&r, d);
    *out = r;
    return 0;
}

int ds_fd_parts_of(const ds_feature_set *real, const ds_feature_set *fake, int groups,
                   uint64_t seed, ds_progress *progress, void *user, ds_fd_parts *out,
                   ds_error *err) {
    distance d[DS_FD_GROUPS_MAX + 1];
    DS_ASSERT(groups >= 2);
    int rc = distances(real, fake, groups, seed, progress, user, d, err);
    if (rc)
        return rc;
    *out = (ds_fd_parts){.groups = groups, .n = fake->n, .seed = seed};
    for (int i = 0; i <= groups; i++)
        out->fd[i] = fmax(d[i].mean_term + d[i].trace_term, 0);
    return 0;
}

ds_fd_pair ds_fd_pair_of(const ds_fd_parts *now, const ds_fd_parts *bar) {
    int g = now->groups;
    DS_ASSERT(g >= 2 && g == bar->groups && now->n == bar->n && now->seed == bar->seed);
    ds_fd_pair p = {.difference = now->fd[0] - bar->fd[0]};
    double mean = 0, squares = 0;
    for (int i = 1; i <= g; i++)
        mean += (now->fd[i] - bar->fd[i]) / g;
    for (int i = 1; i <= g; i++)
        squares += square(now->fd[i] - bar->fd[i] - mean);
    p.std_error = sqrt(squares * (g - 1) / g);
    /* the same pictures differ by 0 and have no error */
    p.z = p.difference == 0 ? 0 : p.difference / p.std_error;
    return p;
}

size_t ds_fd_bytes(int dim, int64_t n_real, int64_t n_fake, int groups) {
    size_t d = (size_t)dim, n = (size_t)n_fake, parts = groups > 1 ? (size_t)groups : 1;
    size_t rank = n_real < dim ? (size_t)n_real : d, threads = (size_t)ds_linalg_threads();
    size_t rows = n_real <= dim ? 0 : (3 * d + (size_t)block_rows()) * d, factor = rank * d, work,
           m; /* in doubles */
    threads = threads < parts + 1 ? threads : parts + 1;
    if (n <= rank) {
        m = n;
        work = n * (d > n ? d : n) + n * rank;
    } else {
        m = rank;
        work = parts * rank * rank + (size_t)block_rows() * (d + rank);
    }
    work += threads * m * m;
    return (factor + (work > rows ? work : rows)) * sizeof(double);
}
