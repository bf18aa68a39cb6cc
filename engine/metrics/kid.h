/* engine/metrics/kid.h - Kernel Inception distance: squared MMD with a polynomial kernel, unbiased.
 *
 *     k(x,y) = (x.y / dim + 1)^3
 *     MMD^2  = sum_{i!=j} k(x_i,x_j) / (m(m-1)) + sum_{i!=j} k(y_i,y_j) / (n(n-1))
 *              - 2 sum_{i,j} k(x_i,y_j) / (m n)
 * Unbiased: its mean does not depend on the numbers of pictures and it may be negative.
 * Source: Binkowski et al. 2018 (arXiv 1801.01401).
 *
 * `kid` is the estimate from all pictures.  `subset_mean` is the usual figure: the mean over random
 * subsets of `subset_size` of each set, drawn without replacement from the Philox stream
 * (seed, DS_STREAM_KID, step 2i for the real, 2i+1 for the fake pictures of subset i).
 *
 * std_error is that of `kid`.  Subsets overlap, so the spread of their values is not it; with n the
 * smaller set and m the subset size it is the delete-d jackknife (Shao & Wu 1989):
 *     std_error^2 = m / (n - m) * variance of the subset values,   interval = kid -+ 1.96 std_error
 * (on the safe side when the sets differ in size, since n is the smaller).  So m must be less than
 * n.
 *
 * Thread: any.  Memory: 3 matrices of doubles, at most DS_KID_ROWS_MAX squared.
 */
#ifndef DS_ENGINE_METRICS_KID_H
#define DS_ENGINE_METRICS_KID_H

#include "engine/metrics/features.h"

#define DS_KID_ROWS_MAX 2048 /* larger sets: the first so many in a random order */
#define DS_KID_SUBSETS_MAX 10000

typedef struct {
    double kid, subset_mean, std_error, lo, hi;
    int subsets, subset_size;
    uint64_t seed;
    int64_t n_real, n_fake; /* used */
    int dim;
    char net[DS_HEX_SIZE], resize[32];
} ds_kid_result;

/* subset_size is lowered to half of the smaller set where it is larger than that (the result says
 * what was used).  DS_EINVAL: fewer than 4 pictures in a set, or sets that do not match. */
int ds_kid_compare(const ds_feature_set *real, const ds_feature_set *fake, int subsets,
                   int subset_size, uint64_t seed, ds_kid_result *out, ds_error *err);

#endif
