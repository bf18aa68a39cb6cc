/* worker/kinds/evaluate_rows.h - what was measured, as rows.  Internal to worker/kinds/. */
#ifndef DS_WORKER_KINDS_EVALUATE_ROWS_H
#define DS_WORKER_KINDS_EVALUATE_ROWS_H

#include "worker/images/prepare.h"
#include "worker/measure/classes.h"
#include "worker/measure/measure.h"
#include "worker/measure/memorised.h"
#include "worker/measure/tools.h"

/* One row of "evaluations".  What is not finite, a count below 0 and a digest that is NULL become
 * null. */
typedef struct {
    const char *subject, *metric;
    double value, lo, hi;
    int64_t n_real, n_fake;
    uint64_t seed;
    const char *sample_digest;
} ds_evaluation_value;
json_t *ds_evaluation_row(const ds_evaluation_value *v, const ds_tools *tools);

/* Borrowed. */
typedef struct {
    const ds_tools *tools;
    const ds_images *images;
    const ds_measure *base, *task;
    const ds_classes *classes;
    const ds_memorised *memorised;
    int64_t n_real; /* pictures of the reference */
} ds_evaluation_numbers;

/* "evaluations" of result.json. */
json_t *ds_evaluation_rows(const ds_evaluation_numbers *e);
/* Of those the ones that go into the adapter's file, rounded and without intervals. */
json_t *ds_evaluation_metrics(const json_t *rows);
/* Pictures of each class. */
json_t *ds_evaluation_counts(const ds_images *images);

#endif
