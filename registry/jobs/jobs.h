/* registry/jobs/jobs.h - work and its states.  The diagram is at the top of jobs.c.
 *
 * The order that leaves no zombie:
 *   1  ds_job_next
 *   2  ds_job_claim      running, without a process
 *   3  the job directory is written, the process started
 *   4  ds_job_process    its identity
 *   5  it ends
 *   6  exactly one of ds_scan_finish, ds_publish, ds_verify_finish, ds_import_finish, ds_job_done
 *      (registry/flow), ds_job_fail, ds_job_postpone, ds_job_requeue, ds_job_cancelled
 * Those of 6 refuse (DS_ECONFLICT) a job that is not running, so a late or double exit cannot write
 * twice.
 */
#ifndef DS_REGISTRY_JOBS_JOBS_H
#define DS_REGISTRY_JOBS_JOBS_H

#include "base/digest.h"
#include "contract/job.h"
#include "registry/core/names.h"
#include "registry/jobs/process.h"
#include "registry/core/handle.h"

#define DS_KIND_BIT(k) (1u << (k))
#define DS_KINDS_ALL ((1u << DS_JOB_KIND_COUNT) - 1)

/* The fields that decisions are made on; everything else is in ds_job_get. */
typedef struct {
    int64_t id;
    enum ds_job_kind kind;
    enum ds_job_state state;
    int64_t dataset_id, dataset_version_id, base_id; /* 0 = none */
    int64_t attempts, max_attempts, run_after;       /* run_after in ms since 1970 */
    int64_t priority;                                /* greater first */
    int cancel;                                      /* asked for */
    int64_t postponed;                               /* times in a row, see ds_job_postpone */
    int64_t created_at;                              /* ms since 1970 */
    ds_process process;                              /* of the worker, while it is running */
    char name[DS_NAME_SIZE];                         /* dataset (adapter) name or "" */
} ds_job;

/* A sample, verify or import job (scan and train jobs come from ds_reconcile).  payload: the
 * request, kept as JSON and given back by ds_job_payload.  name: "" or the adapter's or model's. */
int ds_job_add(ds_registry *r, enum ds_job_kind kind, const char *name, const json_t *payload,
               int max_attempts, int64_t *id, ds_error *err);

int ds_job_payload(ds_registry *r, int64_t id, json_t **out, ds_error *err); /* {} when none */
int ds_job_read(ds_registry *r, int64_t id, ds_job *out, ds_error *err);

/* The greatest number that a job of this registry has had; numbers are not given out again. */
int ds_job_last_id(ds_registry *r, int64_t *id, ds_error *err);
/* Of the content that a training is about; "" for other jobs. */
void ds_job_tree_digest(ds_registry *r, int64_t id, char out[DS_HEX_SIZE]);

/* The queued job to run next among `kinds` (bits), of no dataset that is paused: highest priority,
 * then oldest; run_after <= now.
 * DS_ENOTFOUND when there is none; then *wait_ms (may be NULL) = ms until the next becomes due, -1
 * if none is queued.  A run_after that lies further off than the job's longest back-off is one of a
 * clock that was set back: the row gets now + that back-off. */
int ds_job_next(ds_registry *r, unsigned kinds, int64_t now, ds_job *out, int64_t *wait_ms,
                ds_error *err);

/* The same, asking about each that is due: 0 take it, 1 not this one, 2 none of the rest either
 * (DS_ENOTFOUND; *wait_ms says nothing about those that were passed over). */
typedef int (*ds_job_pick)(void *ctx, const ds_job *job);
int ds_job_next_of(ds_registry *r, unsigned kinds, int64_t now, ds_job_pick pick, void *ctx,
                   ds_job *out, int64_t *wait_ms, ds_error *err);

/* queued -> running, attempts + 1, event job.started.  DS_ECONFLICT if it is not queued. */
int ds_job_claim(ds_registry *r, int64_t id, ds_error *err);

/* The worker's process, once spawned; the job must be running. */
int ds_job_process(ds_registry *r, int64_t id, const ds_process *p, ds_error *err);

/* What the worker says; no event.  stage and progress may be NULL (unchanged).  One commit (one
 * disk sync) each: call it about every second, not for every line. */
int ds_job_progress(ds_registry *r, int64_t id, const char *stage, const json_t *progress,
                    ds_error *err);
int ds_job_metric(ds_registry *r, int64_t id, const char *key, int64_t step, double value,
                  ds_error *err);
/* [{key,step,value,at}] oldest first, key NULL = all; at most 10,000. */
int ds_job_metrics(ds_registry *r, int64_t id, const char *key, json_t **out, ds_error *err);

/* How a process ended; -1 where it does not apply. */
typedef struct {
    int exit_code, exit_signal;
    const char *code;    /* "DS_EIO"; NULL = "DS_EFAILED" */
    const char *message; /* NULL = made from exit_code and exit_signal */
    int retry;           /* 1: trying again may help */
} ds_job_failure;

/* running -> queued with back-off (event job.retrying) while retry and attempts < max_attempts;
 * else running -> failed (job.failed; a scan's dataset becomes failed).  *retried (may be NULL):
 * which. */
int ds_job_fail(ds_registry *r, int64_t id, const ds_job_failure *f, int *retried, ds_error *err);

/* running -> queued without counting the attempt: the daemon stops or restarts, the worker left a
 * checkpoint.  event job.retrying with the reason. */
int ds_job_requeue(ds_registry *r, int64_t id, const char *reason, ds_error *err);

/* running -> queued without counting the attempt, not before delay_ms have passed: what is in the
 * way (a full disk, no memory) is not the job's fault.  event job.retrying; the error stays shown.
 * After DS_JOB_WAITS_LONG times in a row, and each 100 times, also the event job.waiting: there is
 * no limit, so somebody must be told. */
#define DS_JOB_WAITS_LONG 10
#define DS_JOB_POSTPONE_MS 10000
#define DS_JOB_POSTPONE_LONG_MS 60000 /* once it waits for long; the longest delay_ms */
int ds_job_postpone(ds_registry *r, int64_t id, int64_t delay_ms, const ds_job_failure *f,
                    ds_error *err);

/* [{dataset,job,error}] of datasets whose newest training failed, newest first, at most `most`;
 * *count = how many there are. */
int ds_jobs_failed_trainings(ds_registry *r, int most, json_t **out, int64_t *count, ds_error *err);

/* [{id,kind,name,state,postponed,run_after,error}] of live jobs postponed so often. */
int ds_jobs_waiting(ds_registry *r, json_t **out, ds_error *err);

/* Asked by a user: queued -> cancelled at once (*running = 0); running: cancel flag set, *running =
 * 1 and the caller stops the process, then calls ds_job_cancelled.  DS_ECONFLICT when finished. */
int ds_job_cancel(ds_registry *r, int64_t id, int *running, ds_error *err);
int ds_job_cancelled(ds_registry *r, int64_t id, int exit_code, int exit_signal, ds_error *err);

/* Running jobs, with those to be stopped first; out has room for max; *n = how many there are. */
int ds_jobs_running(ds_registry *r, ds_job *out, int max, int *n, ds_error *err);

/* running -> queued for every job whose process was one of this machine and is gone, or was never
 * started; the caller deals with the others (ds_jobs_running).  Done by ds_registry_open.  *n (may
 * be NULL) = how many. */
int ds_jobs_recover(ds_registry *r, int *n, ds_error *err);

/* Milliseconds to wait before attempt n + 1 when n have failed: 5 s, 10 s, 20 s, ... at most 10
 * min. */
int64_t ds_job_backoff_ms(int64_t failed_attempts);

/* As in docs/api.md; the single one also has "attempt_list" [{attempt,pid,started_at,ended_at,
 * exit_code,exit_signal,outcome,error}]. */
int ds_job_get(ds_registry *r, int64_t id, json_t **out, ds_error *err);

typedef struct {
    const char *state, *kind, *dataset; /* NULL = any */
} ds_job_filter;
/* Newest first; also as text. */
int ds_job_list(ds_registry *r, ds_page page, const ds_job_filter *f, json_t **out, ds_error *err);

#endif
