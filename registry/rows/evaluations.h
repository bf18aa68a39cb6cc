/* registry/rows/evaluations.h - measured numbers and verdicts, with everything needed to repeat
 * them. */
#ifndef DS_REGISTRY_ROWS_EVALUATIONS_H
#define DS_REGISTRY_ROWS_EVALUATIONS_H

#include "registry/core/handle.h"

typedef struct {
    const char *adapter; /* REF; NULL = any */
    const char *dataset, *metric;
} ds_evaluation_filter;

/* Newest first; also as text. */
int ds_evaluation_list(ds_registry *r, ds_page page, const ds_evaluation_filter *f, json_t **out,
                       ds_error *err);

/* 0 for a metric that this program measures or some row has; else DS_EINVAL with those that are. */
int ds_evaluation_metric_check(ds_registry *r, const char *metric, ds_error *err);

/* The gate of a job as in docs/jobs.md, or json null when it had none. */
int ds_gate_of_job(ds_registry *r, int64_t job, json_t **out, ds_error *err);

#endif
