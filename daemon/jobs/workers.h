/* daemon/jobs/workers.h - the slots in which jobs run, and what their end means.
 *
 *   free
 *   preparing   thread pool: job directory, manifest
 *   running     the worker's process
 *   finishing   thread pool: result and files into the blob store
 *   settling    one registry transaction, tried again while the disk is full; then free
 *
 * Slots: `--workers` for trainings, one for scans, one for samples and verifications, one for
 * imports, so none of these waits behind a training.  A job directory has one worker at a time: a
 * worker that outlived an earlier daemon is ended first (the registry knows its process), and the
 * worker holds a lock on DIR/lock which is tried before each start.  Exit codes: contract/job.h.
 * Thread: loop thread.
 */
#ifndef DS_DAEMON_JOBS_WORKERS_H
#define DS_DAEMON_JOBS_WORKERS_H

#include "base/error.h"
#include "registry/jobs/jobs.h"

#include <jansson.h>
#include <limits.h>
#include <stdint.h>

struct ds_daemon;
typedef struct ds_workers ds_workers;

int ds_workers_open(ds_workers **out, struct ds_daemon *d, ds_error *err);
void ds_workers_close(ds_workers *w); /* only when not busy; NULL is fine */

/* Start what is due and what slots allow; stop what somebody wants cancelled. */
void ds_workers_run(ds_workers *w);
void ds_workers_tick(ds_workers *w); /* once a second: kills what does not stop, settles */

/* SIGTERM to all, nothing new; hurry: SIGKILL. */
void ds_workers_stop(ds_workers *w, int hurry);
int ds_workers_busy(const ds_workers *w); /* slots in use and orphans not yet gone */

/* Jobs of this dataset write a checkpoint and go back to the queue, where they stay while it is
 * paused; the attempt does not count. */
void ds_workers_pause(ds_workers *w, int64_t dataset_id);

/* Ask a running job to stop (its registry flag is set already). */
void ds_workers_cancel(ds_workers *w, int64_t job);

/* What is known of a running job beyond its row; pointers are borrowed until the loop turns. */
typedef struct {
    int64_t job;
    enum ds_job_kind kind;
    const char *name, *stage;
    const json_t *progress; /* NULL = none yet */
    uint64_t revision;      /* grows with each progress line */
    int64_t pid;            /* the number that people see; 0 = none */
} ds_running;
int ds_workers_running(const ds_workers *w, ds_running *out, int max);

#endif
