/* worker/kinds/evaluate.h - the numbers and pictures that a new adapter is published with.
 *
 * Samples with labels in the dataset's proportions, features, FD and KID with interval, against up
 * to DS_REFERENCE_IMAGES_MAX real pictures; the same for the base without the adapter (its samples
 * do not depend on the dataset, so their features are cached for all of them).  And what share of
 * the samples shows its class (worker/measure/classes.h), beside the real pictures' own share.
 * Writes into the job
 * directory: reference.safetensors.zst, grid.png (rows real, base, adapter), samples.png and, last,
 * stage/evaluate.json; when that is there for the same adapter and settings nothing is done again.
 *
 * Ownership: ds_evaluation_release.  Thread: the main one.
 */
#ifndef DS_WORKER_KINDS_EVALUATE_H
#define DS_WORKER_KINDS_EVALUATE_H

#include "worker/images/prepare.h"
#include "worker/measure/tools.h"

typedef struct {
    json_t *rows;      /* "evaluations" of result.json: fd and kid of base and adapter */
    json_t *reference; /* "reference" of result.json */
    json_t *metrics;   /* for the adapter's metadata: rounded, without intervals */
    json_t *counts;    /* pictures of each class */
    char sample_digest[DS_HEX_SIZE];
} ds_evaluation;

int ds_evaluate(ds_tools *tools, const ds_images *images, const ds_adapter *adapter,
                ds_evaluation *out, ds_error *err);
void ds_evaluation_release(ds_evaluation *e);

/* The features that ds_evaluate measured, from the caches; what is not there any more is computed
 * again.  Picture i of base and task was made from the same noise. */
typedef struct {
    ds_reference real; /* of the dataset's pictures */
    int *real_labels;  /* (real.n) */
    float *base;       /* (n, real.dim) of the base's own samples, without labels */
    float *task;       /* (n, real.dim) of the new version's */
    int *labels;       /* (n) of those */
    int n;
} ds_evaluated;
int ds_evaluate_sets(ds_tools *tools, const ds_images *images, const ds_adapter *adapter,
                     ds_evaluated *out, ds_error *err);
void ds_evaluated_release(ds_evaluated *e);

#endif
