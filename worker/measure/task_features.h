/* worker/measure/task_features.h - features of a version's samples, made once.
 *
 * They are kept in the job's cache folder (worker/measure/feature_cache.h) under all that they
 * depend on: base, VAE, the adapter's numbers, sampler settings, seed, labels, feature network,
 * device class. So a version that was measured when it was new costs nothing as the bar of the next
 * one.
 *
 * Ownership: everything is borrowed.  Thread: the main one.
 */
#ifndef DS_WORKER_MEASURE_TASK_FEATURES_H
#define DS_WORKER_MEASURE_TASK_FEATURES_H

#include "worker/measure/measure.h"
#include "worker/measure/tools.h"

typedef struct {
    ds_tools *tools;           /* feature network and decoder are loaded */
    const ds_model *model;     /* on tools->dev; of the job's base or another one */
    const ds_adapter *adapter; /* NULL: the base itself */
    const ds_spec_sample *sample;
    const int *labels; /* (n); -1: no class, DS_LABEL_SKIPPED: not made */
    int n;
    uint64_t seed;
    ds_progress *progress; /* as in ds_measure_source; may be NULL */
    void *user;
} ds_task_samples;

/* How many of them are made. */
int ds_task_samples_count(const ds_task_samples *t);

/* x (count, dim of tools->features), from the cache or made and kept there. */
int ds_task_features(const ds_task_samples *t, float *x, ds_error *err);

/* Keep features that were made otherwise. */
int ds_task_features_save(const ds_task_samples *t, float *x, const char *sample_digest,
                          ds_error *err);

#endif
