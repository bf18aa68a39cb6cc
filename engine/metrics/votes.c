/* engine/metrics/votes.c - see votes.h. */
#include "engine/metrics/votes.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

enum { LANES = 8, SAY_EVERY = 16 };

/* Eight sums beside each other, so that a compiler may use vectors; what they are does not depend
 * on whether it does. */
static double distance(const float *x, const float *y, int dim) {
    double lane[LANES] = {0};
    int j = 0;
    for (; j + LANES <= dim; j += LANES)
        for (int l = 0; l < LANES; l++) {
            double v = (double)x[j + l] - (double)y[j + l];
            lane[l] += v * v;
        }
    for (int l = 0; j < dim; j++, l++) {
        double v = (double)x[j] - (double)y[j];
        lane[l] += v * v;
    }
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) +
           ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

/* near, at (k): the nearest so far, ascending.  Rows come in order, so of equals the first stays
 * before the later ones. */
static void insert(double *near, int32_t *at, int k, double d, int32_t row) {
    if (d >= near[k - 1])
        return;
    int i = k - 1;
    for (; i > 0 && near[i - 1] > d; i--) {
        near[i] = near[i - 1];
        at[i] = at[i - 1];
    }
    near[i] = d;
    at[i] = row;
}

/* Row `left_out` of real is none of them. */
static void nearest_of(const ds_feature_set *real, const float *x, int64_t left_out, int k,
                       int32_t *at) {
    const size_t one = (size_t)real->dim;
    double near[DS_VOTES_K_MAX];
    for (int i = 0; i < k; i++)
        near[i] = INFINITY;
    for (int64_t r = 0; r < real->n; r++)
        if (r != left_out)
            insert(near, at, k, distance(x, real->x + (size_t)r * one, real->dim), (int32_t)r);
}

static int all_finite(const ds_feature_set *s) {
    for (size_t i = 0; i < (size_t)s->n * (size_t)s->dim; i++)
        if (!isfinite(s->x[i]))
            return 0;
    return 1;
}

int ds_nearest(const ds_feature_set *real, const ds_feature_set *x, int k, int32_t *at,
               ds_progress *progress, void *user, ds_error *err) {
    DS_ASSERT(k >= 1 && k <= DS_VOTES_K_MAX);
    const ds_feature_set *rows = x ? x : real;
    int64_t least = x ? k : k + 1;
    int rc = ds_feature_sets_match(real, rows, err);
    if (rc)
        return rc;
    if (real->n < least)
        return ds_fail(err, DS_EINVAL, "too few real pictures for %d nearest ones: %lld, need %lld",
                       k, (long long)real->n, (long long)least);
    if (!all_finite(real) || (x && !all_finite(x)))
        return ds_fail(err, DS_EFAILED, "features are not finite");
    for (int64_t i = 0; i < rows->n; i++) {
        nearest_of(real, rows->x + (size_t)i * (size_t)rows->dim, x ? -1 : i, k,
                   at + (size_t)i * (size_t)k);
        if ((i + 1) % SAY_EVERY == 0 && ds_progress_say(progress, user, i + 1, rows->n))
            return ds_fail(err, DS_ECANCELED, "looking for neighbours was stopped");
    }
    return 0;
}

int ds_vote(const int32_t *at, int k, const int *labels) {
    int winner = -1, most = 0;
    for (int i = 0; i < k; i++) { /* a class is met first at its nearest voter */
        int votes = 0;
        for (int j = 0; j < k; j++)
            votes += labels[at[j]] == labels[at[i]];
        if (votes > most) {
            most = votes;
            winner = labels[at[i]];
        }
    }
    return winner;
}

ds_share ds_share_of(int64_t hits, int64_t n) {
    const double z = 1.959963984540054; /* of the normal law, 97.5 % */
    if (n < 1)
        return (ds_share){.share = NAN, .std_error = NAN, .lo = NAN, .hi = NAN};
    double m = (double)n, p = (double)hits / m, scale = 1 / (1 + z * z / m),
           middle = p + z * z / (2 * m), half = z * sqrt(p * (1 - p) / m + z * z / (4 * m * m));
    return (ds_share){.n = n,
                      .hits = hits,
                      .share = p,
                      .std_error = sqrt(p * (1 - p) / m),
                      .lo = hits ? (middle - half) * scale : 0,
                      .hi = hits < n ? (middle + half) * scale : 1};
}

ds_share_pair ds_share_pair_of(const uint8_t *now, const uint8_t *bar, int64_t n) {
    int64_t hits = 0, hits_bar = 0, differ = 0;
    for (int64_t i = 0; i < n; i++) {
        hits += now[i];
        hits_bar += bar[i];
        differ += now[i] != bar[i];
    }
    double m = (double)n, d = (double)(hits - hits_bar) / m;
    ds_share_pair p = {.now = (double)hits / m, .bar = (double)hits_bar / m, .difference = d};
    /* variance of differences that are -1, 0 or 1 */
    p.std_error = n < 2 ? NAN : sqrt(fmax(0, (double)differ / m - d * d) / (m - 1));
    p.z = d == 0 ? 0 : d / p.std_error;
    return p;
}
