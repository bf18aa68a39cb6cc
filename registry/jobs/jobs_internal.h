/* registry/jobs/jobs_internal.h - shared by the files that change jobs, and that write results.
 *
 * All run inside the caller's transaction.
 */
#ifndef DS_REGISTRY_JOBS_JOBS_INTERNAL_H
#define DS_REGISTRY_JOBS_JOBS_INTERNAL_H

#include "registry/core/db.h"
#include "registry/jobs/jobs.h"

/* How it ended; exit_code and exit_signal -1 = does not apply; result and code may be NULL. */
typedef struct {
    enum ds_job_state state;
    int exit_code, exit_signal;
    const char *code, *message;
    const json_t *result;
    int64_t adapter_version_id; /* 0 = none */
} job_end;

/* Columns of a row, in the order in which job_from_row takes them. */
#define JOB_FIELDS                                                                                 \
    "id, kind, state, dataset_id, dataset_version_id, base_id, attempts, max_attempts, run_after," \
    " cancel, process, pid, name, postponed, created_at, priority"
void job_from_row(ds_job *j, sqlite3_stmt *q);

/* Read a job and refuse it (DS_ECONFLICT) unless it is running. */
int job_read_running(ds_registry *r, int64_t id, ds_job *out, ds_error *err);

/* running (or, when cancelled, queued) -> a final state: row, attempt, leases, event. */
int job_finish(ds_registry *r, const ds_job *j, const job_end *end, ds_error *err);

/* Is a job of this kind a repeated scan of the dataset?  It leaves no row unless it finds something
 * else than the one before, and what happens to it before its end is no event: folders are scanned
 * every few minutes for years. */
int job_scan_repeats(ds_registry *r, enum ds_job_kind kind, int64_t dataset_id, int64_t *yes,
                     ds_error *err);

/* Instead of an end: job, attempts and curves go. */
int job_forget(ds_registry *r, const ds_job *j, ds_error *err);

/* queued jobs -> cancelled, running ones get the cancel flag. */
int jobs_cancel_of_dataset(ds_registry *r, int64_t dataset_id, ds_error *err);

/* queued trainings of other versions than this one -> cancelled, without blocking that version. */
int jobs_supersede(ds_registry *r, int64_t dataset_id, int64_t version_id, ds_error *err);

/* queued trainings on a base that their dataset does not want any more -> cancelled, likewise. */
int jobs_supersede_base(ds_registry *r, ds_error *err);

/* A scan that ended without a result: its request is answered, the dataset becomes failed (or stays
 * ready, when cancelled and a version exists). */
int scan_gave_up(ds_registry *r, const ds_job *j, const char *code, const char *message,
                 int cancelled, ds_error *err);

/* Scalars of a job's row that ds_job does not have. */
int job_generation(ds_registry *r, int64_t id, int64_t *out, ds_error *err);
int job_scan_seq(ds_registry *r, int64_t id, int64_t *out, ds_error *err);

#endif
