/* worker/measure/memorised.c - see memorised.h. */
#include "worker/measure/memorised.h"
#include "base/mem.h"
#include "base/rng.h"

#include <math.h>
#include <stdlib.h>

enum { DRAWS = 400 };

/* of[k] = 1 - C(T-k,H) / C(T,H), k up to DS_VOTES_K_MAX: among H of the T pictures is one of
 * certain k. */
static void chances(double *of, int64_t T, int64_t H) {
    double none = 1;
    for (int k = 0; k <= DS_VOTES_K_MAX; k++) {
        of[k] = 1 - none;
        none *= fmax(0, (double)(T - H - k)) / fmax(1, (double)(T - k));
    }
}

/* Mean over the n samples of at (n,k).  A sample whose k nearest are all trained on counts as if
 * the next one was held out. */
static double share(const int32_t *at, int64_t n, int k, const uint8_t *held, const double *of) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        int nearer = 0;
        while (nearer < k && !held[at[i * k + nearer]])
            nearer++;
        sum += of[nearer];
    }
    return sum / (double)n;
}

/* Root of the mean square of what the share would be off by had others been held out. */
static double null_error(const ds_memorised *m, const int32_t *at, int k, const double *of) {
    const uint32_t all = (uint32_t)(m->trained + m->held);
    uint32_t *order = ds_xmalloc(all * sizeof *order);
    uint8_t *held = ds_xmalloc(all);
    double squares = 0;
    for (uint32_t d = 0; d < DRAWS; d++) {
        ds_rng_permutation(order, all, 0, DS_STREAM_SPLIT, d);
        for (uint32_t r = 0; r < all; r++)
            held[order[r]] = r < (uint32_t)m->held;
        double off = share(at, m->n, k, held, of) - m->chance;
        squares += off * off;
    }
    free(order);
    free(held);
    return sqrt(squares / DRAWS);
}

int ds_memorised_measure(ds_memorised *out, const ds_feature_set *real, const uint8_t *held,
                         const ds_feature_set *samples, ds_progress *progress, void *user,
                         ds_error *err) {
    ds_memorised m = {.n = samples->n, .chance = 0.5};
    double of[DS_VOTES_K_MAX + 1];
    for (int64_t r = 0; r < real->n; r++)
        m.held += held[r];
    m.trained = real->n - m.held;
    *out = (ds_memorised){0};
    if (m.held < DS_MEMORISED_HELD_MIN || m.trained < m.held || m.n < 1)
        return 0;
    const int k = real->n < DS_VOTES_K_MAX ? (int)real->n : DS_VOTES_K_MAX;
    int32_t *at = ds_xmalloc((size_t)m.n * (size_t)k * sizeof *at);
    int rc = ds_nearest(real, samples, k, at, progress, user, err);
    if (!rc) {
        chances(of, m.trained, m.held);
        m.share = share(at, m.n, k, held, of);
        m.std_error = null_error(&m, at, k, of);
        *out = m;
    }
    free(at);
    return rc;
}
