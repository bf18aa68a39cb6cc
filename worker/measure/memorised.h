/* worker/measure/memorised.h - are samples nearer to pictures that were trained on than to others?
 *
 * Which of the set's pictures were held out was drawn.  So if samples do not remember single ones,
 * the nearest of a sample's real pictures is as likely one of H held-out ones as one of H that were
 * trained on, drawn from all T of these.  With k trained-on pictures nearer to it than the nearest
 * held-out one, a draw has one of those with probability
 *
 *     P(k) = 1 - C(T-k,H) / C(T,H)
 *
 * and the share is the mean of P over the samples: exactly the mean over all draws.  Chance is 1/2,
 * whatever T and H are; samples that are copies of what was trained on come near 1.
 * At most the DS_VOTES_K_MAX nearest are looked at, which P is nearly 1 for unless H is far less
 * than T.
 *
 * Some pictures are the nearest of many samples; a binomial error would take these for evidence.
 * std_error is that of the draw: the root mean square of share - 1/2 over 400 other choices of the
 * H held-out ones (seed 0), the samples staying as they are.
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
