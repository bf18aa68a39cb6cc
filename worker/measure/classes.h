/* worker/measure/classes.h - do the samples of a set show the class that they were made for?
 *
 * The real pictures of the reference vote (engine/metrics/votes.h), in the space of the network
 * that FD is measured in, about the very samples that FD is measured of: nothing is sampled for
 * it.  The real pictures are judged as well, each by the others: nearly all of them were trained
 * on and few are held out, so leave-one-out is the fair figure beside it.
 *
 * Not measured (n 0): k 0, fewer than two classes, fewer than k real pictures a class on average,
 * where a class could not win.
 * A class is measured by itself, with a Frechet distance, from DS_CLASS_SAMPLES_MIN samples and
 * DS_CLASS_REAL_MIN real pictures on.
 *
 * Ownership: ds_classes_release.  Thread: any.  Errors: those of ds_nearest and ds_fd_compare.
 */
#ifndef DS_WORKER_MEASURE_CLASSES_H
#define DS_WORKER_MEASURE_CLASSES_H

#include "engine/metrics/fd.h"
#include "engine/metrics/votes.h"

#define DS_CLASS_SAMPLES_MIN 32
#define DS_CLASS_REAL_MIN 16

typedef struct {
    ds_feature_set real, samples;
    const int *real_labels, *labels; /* of each row, 0 .. classes - 1 */
    int classes, k;
    uint64_t seed; /* said with the distances; nothing is drawn */
    ds_progress *progress;
    void *user;
} ds_classes_input;

typedef struct {
    int label;
    ds_share samples, real;
    double fd;
} ds_class;

typedef struct {
    ds_share samples, real; /* n 0: not measured */
    double chance;          /* of a vote that is drawn among the real pictures */
    ds_class *each;         /* those with enough pictures, by label */
    int count;
} ds_classes;

/* Can k neighbours of n_real pictures judge this many classes? */
int ds_classes_fit(int k, int classes, int64_t n_real);

int ds_classes_measure(ds_classes *out, const ds_classes_input *in, ds_error *err);
void ds_classes_release(ds_classes *c);

/* hit (samples.n): 1 where the vote is for the sample's class. */
int ds_classes_hits(const ds_classes_input *in, uint8_t *hit, ds_error *err);

#endif
