/* worker/kinds/evaluate_rows.h - what ds_evaluate measured, as rows.  Internal to worker/kinds/. */
#ifndef DS_WORKER_KINDS_EVALUATE_ROWS_H
#define DS_WORKER_KINDS_EVALUATE_ROWS_H

#include "worker/kinds/evaluate.h"
#include "worker/measure/classes.h"
#include "worker/measure/measure.h"

/* Borrowed. */
typedef struct {
    const ds_tools *tools;
    const ds_images *images;
    const ds_measure *base, *task;
    const ds_classes *classes;
    int64_t n_real; /* pictures of the reference */
} ds_evaluation_numbers;

/* "evaluations" of result.json. */
json_t *ds_evaluation_rows(const ds_evaluation_numbers *e);
/* Of those the ones that go into the adapter's file, rounded and without intervals. */
json_t *ds_evaluation_metrics(const json_t *rows);
/* Pictures of each class. */
json_t *ds_evaluation_counts(const ds_images *images);

#endif
