/* worker/job/events.h - events.ndjson of a job directory: what happens, one JSON object a line.
 *
 * Each event is one write(2) to a file opened for appending, so that a reader never sees half of
 * two; a line torn by a crash or a full disk is ended before the next one.  Events inform: if they
 * cannot be written the job goes on and says so once on stderr.  Progress is at most
 * DS_EVENTS_PER_SECOND; what matters is also logged to stderr.
 *
 * Ownership: open/close.  Thread: one.  Format: docs/jobs.md.
 */
#ifndef DS_WORKER_JOB_EVENTS_H
#define DS_WORKER_JOB_EVENTS_H

#include "base/json.h"

#include <stdint.h>

#define DS_EVENTS_PER_SECOND 4

typedef struct ds_events ds_events;

/* Appends to DIR/events.ndjson. */
int ds_events_open(ds_events **out, const char *dir, ds_error *err);
void ds_events_close(ds_events *e); /* NULL is fine */

/* Begins a stage; its clock for rate and time left starts here. */
void ds_events_stage(ds_events *e, const char *stage, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* done of total of the stage (total 0 = not known); left out when one was written a moment ago,
 * unless it is the last.  loss and images_per_second: NaN = none. */
void ds_events_progress(ds_events *e, double done, double total, const char *unit, double loss,
                        double images_per_second);

void ds_events_metric(ds_events *e, const char *key, int step, double value);
/* What the job will take (worker/measure/plan.h); plan is borrowed. */
void ds_events_plan(ds_events *e, const json_t *plan);
void ds_events_checkpoint(ds_events *e, int step);
void ds_events_resumed(ds_events *e, int step);
/* A training ends before the steps that it was asked for: why is "patience" or "time", its rate
 * falls from step `from` on, and `last` is the end. */
void ds_events_ending(ds_events *e, const char *why, int from, int last, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
void ds_events_stopped(ds_events *e, const char *reason);
void ds_events_warning(ds_events *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* What a person may want to know, and need not act on. */
void ds_events_note(ds_events *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void ds_events_error(ds_events *e, const ds_error *err);
void ds_events_done(ds_events *e);

#endif
