/* worker/measure/memorised.h - are samples nearer to pictures that were trained on than to others?
 *
 * The nearest real picture of each sample (engine/metrics/votes.h) was trained on or held out.
 * Which of the set's pictures were held out was drawn.  So if samples do not remember single ones,
 * the share whose nearest one was trained on is that of the pictures themselves, trained / all.
 *
 * Some pictures are the nearest of many samples; a binomial error would take these for evidence.
 * With c_r samples nearest to picture r, and h of R pictures held out by chance, the number of
 * samples nearest to held-out ones has the variance h (1 - h/R) S^2, S^2 that of c (sampling
 * without replacement).  std_error is its root over n.
 *
 * Thread: any.  Errors: those of ds_nearest.
 */
#ifndef DS_WORKER_MEASURE_MEMORISED_H
#define DS_WORKER_MEASURE_MEMORISED_H

#include "engine/metrics/votes.h"

#define DS_MEMORISED_HELD_MIN 16 /* fewer say nothing */

typedef struct {
    int64_t n, trained, held; /* samples, and real pictures of each kind; n 0: not measured */
    double share, chance, std_error;
} ds_memorised;

/* held (real->n): 1 where the picture was held out. */
int ds_memorised_measure(ds_memorised *out, const ds_feature_set *real, const uint8_t *held,
                         const ds_feature_set *samples, ds_progress *progress, void *user,
                         ds_error *err);

#endif
