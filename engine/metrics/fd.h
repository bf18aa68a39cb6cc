/* engine/metrics/fd.h - feature statistics and the Frechet distance between two feature sets.
 *
 *     FD = |m1 - m2|^2 + Tr S1 + Tr S2 - 2 Tr (S1^1/2 S2 S1^1/2)^1/2
 *
 * m is the mean, S the covariance with divisor n-1.  The trace is taken by two symmetric
 * eigen-decompositions.  So there are no complex numbers, and a rank-deficient covariance
 * (n <= dim) is no special case.
 * Source: Dowson & Landau 1982; Heusel et al. 2017 (FID); reference code of pytorch-fid for n-1.
 *
 * How it is computed.  Let S1 = R^T R.  Then the trace is the sum of the square roots of the
 * eigenvalues of R S2 R^T.  Any such R will do:
 *   - with no more real pictures than dimensions: their rows, centred and divided by sqrt(n-1);
 *   - else Cholesky's factor of S1, or its root where that fails.
 * F = (x - mean) R^T, over the rows x of the fake set, has the covariance R S2 R^T.  With no more
 * fake pictures than R has rows, F F^T / (n-1) is smaller and has the same non-zero eigenvalues.
 *
 * Accuracy: a covariance is known to eps times its largest eigenvalue, so a direction with almost
 * no variance adds an error of up to sqrt(eps), 1.5e-8, of the largest standard deviations.
 *
 * FD is biased upwards by about 1/n, so only values of equal n can be compared.  That is why a
 * result carries the numbers of both sets, and what made their features.
 *
 * Interval: a delete-group jackknife over the fake set (Wolter 2007, ch. 4).  The fake set is split
 * at random into g groups.  FD_i is the distance without group i:
 *     std_error^2 = (g-1)/g sum_i (FD_i - mean FD_i)^2,   interval = FD -+ t(0.975, g-1) std_error.
 * It covers the noise of the fake pictures: what differs between two evaluations against the same
 * reference.  It does not cover the choice of the reference, nor the bias.
 * FD_i is not computed from pictures again.  Where F F^T is used, the rows and columns of group i
 * are left out of it and it is centred again.  Else the scatters of the other groups are added.
 * Nothing is subtracted, so no digits are lost.
 *
 * Numbers: features f32, everything else double.  Thread: any; inside, and on what device,
 * engine/metrics/linalg.h.  Memory: ds_fd_bytes.
 */
#ifndef DS_ENGINE_METRICS_FD_H
#define DS_ENGINE_METRICS_FD_H

#include "engine/metrics/features.h"

#define DS_FD_GROUPS_MAX 32

/* Mean and scatter of rows seen so far.  Rows may be added in any portions with the same result.
 * Where a device helps (ds_linalg_helped) more rows are gathered before it is asked. */
typedef struct ds_stats ds_stats;

ds_stats *ds_stats_new(int dim);
void ds_stats_free(ds_stats *s); /* NULL is fine */
void ds_stats_add(ds_stats *s, const float *x, int64_t rows);
size_t ds_stats_bytes(int dim); /* memory of one */
/* mean (dim), cov (dim,dim) with divisor n-1; either may be NULL.  DS_EINVAL when n < 2. */
int ds_stats_finish(ds_stats *s, double *mean, double *cov, ds_error *err);

/* The distance of two Gaussians.  DS_EFAILED: it is not finite. */
int ds_frechet(const double *mean1, const double *cov1, const double *mean2, const double *cov2,
               int dim, double *fd, ds_error *err);

typedef struct {
    double fd, mean_term, trace_term; /* fd = mean_term + trace_term, not below 0 */
    double std_error, lo, hi;         /* NaN when groups == 0 */
    int groups;
    uint64_t seed; /* of the split into groups */
    int64_t n_real, n_fake;
    int dim;
    char net[DS_HEX_SIZE], resize[32];
} ds_fd_result;

/* groups: 0 = no interval, else 2..DS_FD_GROUPS_MAX (each costs eigenvalues once more; 8 is usual).
 * progress is called between decompositions.  DS_EINVAL: fewer than
 * 2 rows (2 per group), different networks, resizings or widths.  DS_EFAILED: features that are not
 * finite. */
int ds_fd_compare(const ds_feature_set *real, const ds_feature_set *fake, int groups, uint64_t seed,
                  ds_progress *progress, void *user, ds_fd_result *out, ds_error *err);

/* FD of a set and, without each of its groups, of what is left of it: what a paired comparison is
 * made of.  Sets of equal n, groups and seed are split alike, so that when picture i of two sets
 * was made from the same noise and label the same ones are left out of both. */
typedef struct {
    double fd[DS_FD_GROUPS_MAX + 1]; /* of all; without group 0, 1, .. */
    int groups;                      /* at least 2 */
    int64_t n;
    uint64_t seed;
} ds_fd_parts;
int ds_fd_parts_of(const ds_feature_set *real, const ds_feature_set *fake, int groups,
                   uint64_t seed, ds_progress *progress, void *user, ds_fd_parts *out,
                   ds_error *err);

/* now - bar, its standard error by the jackknife over the differences of the parts,
 *     std_error^2 = (g-1)/g sum_i (D_i - mean D_i)^2,   D_i = FD_now(-i) - FD_bar(-i),
 * and z = difference / std_error.  Noise that both share cancels (docs/math.md). */
typedef struct {
    double difference, std_error, z;
} ds_fd_pair;
ds_fd_pair ds_fd_pair_of(const ds_fd_parts *now, const ds_fd_parts *bar);

/* Memory of ds_fd_compare at its peak, beside the features; as many threads as ds_linalg_threads()
 * now. */
size_t ds_fd_bytes(int dim, int64_t n_real, int64_t n_fake, int groups);

#endif
