/* worker/kinds/kinds.h - the kinds of jobs.
 *
 * A kind's function does the whole job and writes result.json last.  It returns 0, or a negative
 * code; DS_EREFUSED means that result.json is there and its verdict is "refused".
 * Thread: the main one.
 */
#ifndef DS_WORKER_KINDS_KINDS_H
#define DS_WORKER_KINDS_KINDS_H

#include "worker/job/job.h"

int ds_job_scan(const ds_work *job, ds_error *err);
int ds_job_train(const ds_work *job, ds_error *err);
int ds_job_sample(const ds_work *job, ds_error *err);
int ds_job_verify(const ds_work *job, ds_error *err);
int ds_job_import(const ds_work *job, ds_error *err);

#endif
