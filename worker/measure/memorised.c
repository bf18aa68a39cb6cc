/* worker/measure/memorised.c - see memorised.h. */
#include "worker/measure/memorised.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

/* count (R): samples nearest to each of R pictures; their variance over the pictures. */
static double variance(const int64_t *count, int64_t R, int64_t n) {
    double mean = (double)n / (double)R, squares = 0;
    for (int64_t r = 0; r < R; r++)
        squares += ((double)count[r] - mean) * ((double)count[r] - mean);
    return squares / (double)(R - 1);
}

static void conclude(ds_memorised *m, const int64_t *count, const uint8_t *held) {
    int64_t R = m->trained + m->held, of_held = 0;
    for (int64_t r = 0; r < R; r++)
        of_held += held[r] ? count[r] : 0;
    double h = (double)m->held, all = (double)R, n = (double)m->n;
    m->share = 1 - (double)of_held / n;
    m->chance = (double)m->trained / all;
    m->std_error = sqrt(h * (1 - h / all) * variance(count, R, m->n)) / n;
}

int ds_memorised_measure(ds_memorised *out, const ds_feature_set *real, const uint8_t *held,
                         const ds_feature_set *samples, ds_progress *progress, void *user,
                         ds_error *err) {
    ds_memorised m = {.n = samples->n};
    for (int64_t r = 0; r < real->n; r++)
        m.held += held[r];
    m.trained = real->n - m.held;
    *out = (ds_memorised){0};
    if (m.held < DS_MEMORISED_HELD_MIN || !m.trained || m.n < 1)
        return 0;
    int32_t *at = ds_xmalloc((size_t)m.n * sizeof *at);
    int64_t *count = ds_xcalloc((size_t)real->n, sizeof *count);
    int rc = ds_nearest(real, samples, 1, at, progress, user, err);
    for (int64_t i = 0; !rc && i < m.n; i++)
        count[at[i]]++;
    if (!rc) {
        conclude(&m, count, held);
        *out = m;
    }
    free(at);
    free(count);
    return rc;
}
