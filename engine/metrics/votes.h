/* engine/metrics/votes.h - which class a picture shows, by its nearest real pictures.
 *
 * The Frechet distance cannot see classes: it compares one cloud of features with another one.
 * Here each picture is looked at by itself.  The k real pictures whose features are nearest to its
 * own vote, each for its class.  The share of samples whose class wins says how well they obey.
 * Beside it stands the share of real pictures whose class wins when the others vote: no better is
 * to be expected.  Source: k nearest neighbours, Cover & Hart 1967; leave one out.
 *
 *     d(x,y) = sum_j (x_j - y_j)^2
 *
 * d is summed in double, in an order that depends on the width alone.  Of equal distances the row
 * that stands first is nearer.  Of classes with equally many votes the one with the nearest voter
 * wins.  So equal features have equal votes, on every machine, however they are cut into portions.
 *
 * Numbers: features f32, everything else double.  Thread: any.  Memory: the arguments.
 */
#ifndef DS_ENGINE_METRICS_VOTES_H
#define DS_ENGINE_METRICS_VOTES_H

#include "engine/metrics/features.h"

#define DS_VOTES_K_MAX 50

/* The k nearest rows of `real` to each row of x: at (x->n, k), the nearest first.  x NULL: to each
 * row of `real` among the others.  progress (NULL is fine) is told rows and may stop it.
 * DS_EINVAL: fewer than k rows to choose from, or sets that do not match.  DS_EFAILED: features
 * that are not finite. */
int ds_nearest(const ds_feature_set *real, const ds_feature_set *x, int k, int32_t *at,
               ds_progress *progress, void *user, ds_error *err);

/* Class that the k voters at[0], at[1], .. choose, labels being those of the real pictures. */
int ds_vote(const int32_t *at, int k, const int *labels);

/* hits of n as a share, with its binomial standard error sqrt(p (1-p) / n), and Wilson's interval
 * of 95 % (Wilson 1927), which is right near 0 and 1 as well.  n 0: all NaN. */
typedef struct {
    int64_t n, hits;
    double share, std_error, lo, hi;
} ds_share;
ds_share ds_share_of(int64_t hits, int64_t n);

/* now - bar of the same n pictures, each 1 (hit) or 0, with the standard error of the mean of the
 * differences, and z = difference / std_error: what both share cancels.  n < 2: std_error NaN. */
typedef struct {
    double now, bar, difference, std_error, z;
} ds_share_pair;
ds_share_pair ds_share_pair_of(const uint8_t *now, const uint8_t *bar, int64_t n);

#endif
