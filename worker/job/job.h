/* worker/job/job.h - one job: its directory, its spec, its events.
 *
 * Everything is borrowed from the caller of worker/commands/run.c.  Thread: the main one.
 */
#ifndef DS_WORKER_JOB_JOB_H
#define DS_WORKER_JOB_JOB_H

#include "worker/job/events.h"
#include "worker/job/spec.h"

typedef struct {
    const char *dir; /* of the job, as given */
    const ds_spec *spec;
    ds_events *events;
    const char *device; /* kind, whatever the spec says; NULL: the spec's */
} ds_work;

/* The kind of device that the job is to use. */
const char *ds_job_device(const ds_work *job);

/* DIR/name in malloc'ed memory. */
char *ds_job_path(const ds_work *job, const char *name);

/* result.json (takes doc), with the spec's digest, so that a later run of the same spec knows that
 * nothing is left to do. */
int ds_job_finish(const ds_work *job, json_t *doc, ds_error *err);

/* Does an error of this code pass by itself?  Then the job ends with 75, to be run again, and no
 * verdict may come of it. */
int ds_job_is_temporary(int code);

/* A number for a result; null when it is not finite. */
json_t *ds_json_real(double x);

#endif
