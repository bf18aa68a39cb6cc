/* registry/jobs/jobs.c - the life of a job. */
/*-
 *                   +---------+                +---------+        done
 *   ds_job_add ---> |         | -- claimed --> |         | -----> rejected
 *   ds_reconcile -> | queued  |                | running |        failed
 *                   |         | <-- again ---- |         |        cancelled
 *                   +---------+                +---------+            ^
 *                        |                                            |
 *                        +----------------- cancelled ----------------+
 *
 * Every arrow is one transaction, with its event, by one function:
 *
 *           -> queued      job.queued     ds_reconcile, ds_job_add
 *   queued  -> running     job.started    ds_job_claim
 *   running -> queued      job.retrying   ds_job_fail       may help, attempts are left: it counts
 *                                         ds_job_postpone   not its fault: it does not count
 *                                         ds_job_requeue    the daemon stops: it does not count
 *                                         ds_jobs_recover   its process was gone: it does not count
 *   running -> done        job.done       ds_scan_finish, ds_job_done, ds_import_finish
 *                                         ds_publish, ds_verify_finish: the gate passed
 *   running -> rejected    job.rejected   ds_publish, ds_verify_finish: the gate refused
 *   running -> failed      job.failed     ds_job_fail
 *   running -> cancelled   job.cancelled  ds_job_cancelled, once the process is gone
 *   queued  -> cancelled   job.cancelled  ds_job_cancel, ds_dataset_remove, and ds_scan_finish or
 *                                         ds_base_choose where it is of no use any more
 *
 * The trigger jobs_transition refuses all others, by whatever program.  A repeated scan that finds
 * what the one before found leaves no row and no event (job_forget).
 *
 * What may be trusted in each state:
 *
 *   queued      Nothing of it runs that the registry knows: process and pid are NULL, no attempt is
 *               open, cancel is 0.  What it is about (dataset version, base, payload) does not
 *               change.  error_* are of its last attempt; its folder may hold a checkpoint.
 *   running     One attempt is open, number `starts`.  process is NULL from the claim until it is
 *               spawned; from then on it is this job's, alive or not: a daemon that was killed has
 *               told nobody.  cancel = 1: asked to stop, and not gone yet.  stage and progress are
 *               about a second old.  What its spec names is leased.
 *   done,       process is NULL, no attempt is open, finished_at and one event tell of the end, and
 *   rejected,   no blob is leased.  The row does not change any more, but for generation, which
 *   failed,     becomes 0 where the end shall not count as an answer; prune may remove it.
 *   cancelled   A training that is done or rejected has its adapter version, a failed one an error.
 */
#include "registry/jobs/jobs.h"
#include "base/json.h"
#include "base/log.h"
#include "registry/core/db.h"
#include "registry/core/events.h"
#include "registry/core/words.h"
#include "registry/jobs/jobs_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void job_from_row(ds_job *j, sqlite3_stmt *q) {
    memset(j, 0, sizeof *j);
    j->id = sqlite3_column_int64(q, 0);
    j->kind = (enum ds_job_kind)ds_job_kind_parse((const char *)sqlite3_column_text(q, 1));
    j->state = (enum ds_job_state)ds_job_state_parse((const char *)sqlite3_column_text(q, 2));
    j->dataset_id = sqlite3_column_int64(q, 3);
    j->dataset_version_id = sqlite3_column_int64(q, 4);
    j->base_id = sqlite3_column_int64(q, 5);
    j->attempts = sqlite3_column_int64(q, 6);
    j->max_attempts = sqlite3_column_int64(q, 7);
    j->run_after = sqlite3_column_int64(q, 8);
    j->cancel = sqlite3_column_int(q, 9);
    db_text(j->process.identity, sizeof j->process.identity, q, 10);
    j->process.pid = sqlite3_column_int64(q, 11);
    const char *name = (const char *)sqlite3_column_text(q, 12);
    snprintf(j->name, sizeof j->name, "%s", name ? name : "");
    j->postponed = sqlite3_column_int64(q, 13);
    j->created_at = sqlite3_column_int64(q, 14);
    j->priority = sqlite3_column_int64(q, 15);
}

int job_scan_repeats(ds_registry *r, enum ds_job_kind kind, int64_t dataset_id, int64_t *yes,
                     ds_error *err) {
    *yes = 0;
    return kind != DS_JOB_SCAN ? 0
                               : db_int(r, yes, err,
                                        "SELECT count(*) FROM datasets d WHERE d.id = ?1"
                                        " AND d.scan_done > 0 AND d.state IN ('ready', 'failed')",
                                        "i", dataset_id);
}

static int job_event(ds_registry *r, const char *type, const ds_job *j, const char *code,
                     const char *message, ds_error *err) {
    char subject[32];
    int ended =
        strcmp(type, "job.queued") && strcmp(type, "job.started") && strcmp(type, "job.retrying");
    int64_t repeated = 0;
    int rc = ended ? 0 : job_scan_repeats(r, j->kind, j->dataset_id, &repeated, err);
    if (rc || repeated)
        return rc;
    snprintf(subject, sizeof subject, "job:%lld", (long long)j->id);
    json_t *p = json_object();
    json_object_set_new(p, "id", json_integer(j->id));
    json_object_set_new(p, "kind", json_string(ds_job_kind_name(j->kind)));
    json_object_set_new(p, "name", js_string(j->name));
    if (message) {
        json_object_set_new(p, "code", json_string(code ? code : ""));
        json_object_set_new(p, "message", js_string(message));
    }
    return ds_event_put(r, type, subject, p, err);
}

int ds_job_read(ds_registry *r, int64_t id, ds_job *out, ds_error *err) {
    sqlite3_stmt *q = db_query(r, err, "SELECT " JOB_FIELDS " FROM jobs WHERE id = ?1", "i", id);
    int rc = db_step(r, q, err);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return ds_fail(err, DS_ENOTFOUND, "job %lld does not exist", (long long)id);
    job_from_row(out, q);
    db_reset(q);
    return 0;
}

int job_read_running(ds_registry *r, int64_t id, ds_job *out, ds_error *err) {
    int rc = ds_job_read(r, id, out, err);
    if (!rc && out->state != DS_JOB_RUNNING)
        rc = ds_fail(err, DS_ECONFLICT, "job %lld is %s, not running", (long long)id,
                     ds_job_state_name(out->state));
    return rc;
}

int job_generation(ds_registry *r, int64_t id, int64_t *out, ds_error *err) {
    return db_int(r, out, err, "SELECT generation FROM jobs WHERE id = ?1", "i", id);
}
int job_scan_seq(ds_registry *r, int64_t id, int64_t *out, ds_error *err) {
    return db_int(r, out, err, "SELECT scan_seq FROM jobs WHERE id = ?1", "i", id);
}

/* Queueing and starting ----------------------------------------------------------------------- */

int ds_job_add(ds_registry *r, enum ds_job_kind kind, const char *name, const json_t *payload,
               int max_attempts, int64_t *id, ds_error *err) {
    int rc = db_begin(r, err);
    if (rc)
        return rc;
    char *text = payload ? ds_json_canonical(payload) : NULL;
    rc = db_run(r, err,
                "INSERT INTO jobs(kind, priority, name, payload, max_attempts, created_at)"
                " VALUES (?1, 10, ?2, coalesce(?3, '{}'), ?4, ?5)",
                "sssii", ds_job_kind_name(kind), name ? name : "", text,
                (int64_t)(max_attempts > 0 ? max_attempts : 1), ds_now_ms());
    free(text);
    ds_job j;
    if (!rc) {
        *id = db_rowid(r);
        rc = ds_job_read(r, *id, &j, err);
    }
    if (!rc)
        rc = job_event(r, "job.queued", &j, NULL, NULL, err);
    return db_end(r, rc, err);
}

int ds_job_payload(ds_registry *r, int64_t id, json_t **out, ds_error *err) {
    sqlite3_stmt *q = db_query(r, err, "SELECT payload FROM jobs WHERE id = ?1", "i", id);
    int rc = db_step(r, q, err);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return ds_fail(err, DS_ENOTFOUND, "job %lld does not exist", (long long)id);
    rc = ds_json_parse("payload", (const char *)sqlite3_column_text(q, 0),
                       (size_t)sqlite3_column_bytes(q, 0), out, err);
    db_reset(q);
    return rc;
}

int ds_job_claim(ds_registry *r, int64_t id, ds_error *err) {
    int rc = db_begin(r, err);
    if (rc)
        return rc;
    int64_t now = ds_now_ms();
    ds_job j;
    rc = db_run(r, err,
                "UPDATE jobs SET state = " SQL_RUNNING
                ", attempts = attempts + 1, starts = starts + 1,"
                " started_at = coalesce(started_at, ?2), cancel = 0, process = NULL, pid = NULL,"
                " stage = NULL, progress = NULL, done = NULL, total = NULL,"
                " scan_seq = coalesce((SELECT d.scan_wanted FROM datasets d"
                "  WHERE d.id = jobs.dataset_id AND jobs.kind = " SQL_SCAN "), 0)"
                " WHERE id = ?1 AND state = " SQL_QUEUED,
                "ii", id, now);
    if (!rc && db_changes(r) == 0) {
        rc = ds_job_read(r, id, &j, err);
        if (!rc)
            rc = ds_fail(err, DS_ECONFLICT, "job %lld is %s, not queued", (long long)id,
                         ds_job_state_name(j.state));
    }
    if (!rc)
        rc = db_run(r, err,
                    "INSERT INTO job_attempts(job_id, attempt, started_at)"
                    " SELECT id, starts, ?2 FROM jobs WHERE id = ?1",
                    "ii", id, now);
    if (!rc && !(rc = ds_job_read(r, id, &j, err)))
        rc = job_event(r, "job.started", &j, NULL, NULL, err);
    return db_end(r, rc, err);
}

int ds_job_process(ds_registry *r, int64_t id, const ds_process *p, ds_error *err) {
    ds_job j;
    int rc = job_read_running(r, id, &j, err);
    if (rc || (rc = db_begin(r, err)))
        return rc;
    rc = db_run(r, err, "UPDATE jobs SET process = ?2, pid = ?3 WHERE id = ?1", "isI", id,
                p->identity, p->pid);
    if (!rc)
        rc = db_run(r, err,
                    "UPDATE job_attempts SET process = ?2, pid = ?3 WHERE job_id = ?1"
                    " AND attempt = (SELECT starts FROM jobs WHERE id = ?1)",
                    "isI", id, p->identity, p->pid);
    return db_end(r, rc, err);
}

int ds_job_progress(ds_registry *r, int64_t id, const char *stage, const json_t *progress,
                    ds_error *err) {
    char *text = progress ? ds_json_canonical(progress) : NULL;
    int rc =
        db_run(r, err,
               "UPDATE jobs SET stage = coalesce(?2, stage), progress = coalesce(?3, progress),"
               " done = coalesce(?4, done), total = coalesce(?5, total)"
               " WHERE id = ?1 AND state = " SQL_RUNNING,
               "issdd", id, stage, text, ds_json_number(progress, "done", NAN),
               ds_json_number(progress, "total", NAN));
    free(text);
    return rc;
}

int ds_job_metric(ds_registry *r, int64_t id, const char *key, int64_t step, double value,
                  ds_error *err) {
    return db_run(
        r, err,
        "INSERT INTO job_metrics(job_id, key, step, value, at) VALUES (?1, ?2, ?3, ?4, ?5)"
        " ON CONFLICT (job_id, key, step) DO UPDATE SET value = ?4, at = ?5",
        "isidi", id, key, step, value, ds_now_ms());
}

int ds_job_metrics(ds_registry *r, int64_t id, const char *key, json_t **out, ds_error *err) {
    sqlite3_stmt *q = db_query(r, err,
                               "SELECT key, step, value, at FROM job_metrics WHERE job_id = ?1"
                               " AND (?2 IS NULL OR key = ?2) ORDER BY key, step LIMIT 10000",
                               "is", id, key);
    json_t *items = json_array();
    int rc;
    while ((rc = db_step(r, q, err)) > 0) {
        json_t *o = json_object();
        js_text(o, "key", q, 0);
        js_int(o, "step", q, 1);
        js_num(o, "value", q, 2);
        js_time(o, "at", q, 3);
        json_array_append_new(items, o);
    }
    if (rc) {
        json_decref(items);
        return rc;
    }
    *out = items;
    return 0;
}

/* Ending -------------------------------------------------------------------------------------- */

static int end_attempt(ds_registry *r, int64_t id, const char *outcome, int exit_code,
                       int exit_signal, const char *code, const char *message, ds_error *err) {
    char c[16] = "", s[16] = ""; /* -1 becomes NULL */
    snprintf(c, sizeof c, "%d", exit_code);
    snprintf(s, sizeof s, "%d", exit_signal);
    return db_run(r, err,
                  "UPDATE job_attempts SET ended_at = ?2, outcome = ?3,"
                  " exit_code = CAST(nullif(?4, '-1') AS INTEGER),"
                  " exit_signal = CAST(nullif(?5, '-1') AS INTEGER), error_code = ?6,"
                  " error_message = ?7 WHERE job_id = ?1 AND ended_at IS NULL",
                  "iisssss", id, ds_now_ms(), outcome, c, s, code, message);
}

int job_finish(ds_registry *r, const ds_job *j, const job_end *end, ds_error *err) {
    static const char *const events[] = {[DS_JOB_DONE] = "job.done",
                                         [DS_JOB_REJECTED] = "job.rejected",
                                         [DS_JOB_FAILED] = "job.failed",
                                         [DS_JOB_CANCELLED] = "job.cancelled"};
    const char *state = ds_job_state_name(end->state);
    char *result = end->result ? ds_json_canonical(end->result) : NULL;
    int rc = db_run(r, err,
                    "UPDATE jobs SET state = ?2, finished_at = ?3, error_code = ?4,"
                    " error_message = ?5, result = ?6, adapter_version_id = ?7, cancel = 0,"
                    " postponed = 0,"
                    " process = NULL, pid = NULL WHERE id = ?1",
                    "isisssI", j->id, state, ds_now_ms(), end->code, end->message, result,
                    end->adapter_version_id);
    free(result);
    if (!rc)
        rc = end_attempt(r, j->id, state, end->exit_code, end->exit_signal, end->code, end->message,
                         err);
    if (!rc)
        rc = db_run(r, err, "DELETE FROM blob_leases WHERE job_id = ?1", "i", j->id);
    return rc ? rc : job_event(r, events[end->state], j, end->code, end->message, err);
}

int job_forget(ds_registry *r, const ds_job *j, ds_error *err) {
    static const char *const sql[] = {
        "DELETE FROM job_attempts WHERE job_id = ?1", "DELETE FROM job_metrics WHERE job_id = ?1",
        "DELETE FROM blob_leases WHERE job_id = ?1", "DELETE FROM jobs WHERE id = ?1"};
    int rc = 0;
    for (size_t i = 0; !rc && i < sizeof sql / sizeof *sql; i++)
        rc = db_run(r, err, sql[i], "i", j->id);
    r->settled_seq = -1; /* no event tells that it is over, and another may be asked for */
    return rc;
}

static int back_to_queue(ds_registry *r, const ds_job *j, int counts, int64_t run_after,
                         const char *outcome, int exit_code, int exit_signal, const char *code,
                         const char *message, ds_error *err) {
    int rc = db_run(
        r, err,
        "UPDATE jobs SET state = " SQL_QUEUED ", run_after = ?2, attempts = attempts - ?3,"
        " error_code = ?4, error_message = ?5, cancel = 0, process = NULL, pid = NULL,"
        " postponed = CASE ?3 WHEN 0 THEN 0 ELSE postponed END"
        " WHERE id = ?1",
        "iiiss", j->id, run_after, (int64_t)!counts, counts ? code : NULL, counts ? message : NULL);
    if (!rc)
        rc = end_attempt(r, j->id, outcome, exit_code, exit_signal, code, message, err);
    return rc ? rc : job_event(r, "job.retrying", j, code, message, err);
}

int scan_gave_up(ds_registry *r, const ds_job *j, const char *code, const char *message,
                 int cancelled, ds_error *err) {
    char subject[DS_NAME_SIZE + 16];
    int64_t asked = 0;
    int rc = job_scan_seq(r, j->id, &asked, err);
    if (rc)
        return rc;
    rc = db_run(r, err,
                "UPDATE datasets SET scan_done = max(scan_done,"
                " CASE WHEN ?4 THEN scan_wanted ELSE ?5 END),"
                " state = CASE WHEN state = 'removed' THEN state"
                "  WHEN ?4 AND version_id IS NOT NULL THEN 'ready' ELSE 'failed' END,"
                " error_code = ?2, error_message = ?3 WHERE id = ?1",
                "issii", j->dataset_id, code, message, (int64_t)cancelled, asked);
    if (rc || cancelled)
        return rc;
    snprintf(subject, sizeof subject, "dataset:%s", j->name);
    return ds_event_put(r, "dataset.failed", subject,
                        json_pack("{s:s,s:o}", "code", code, "message", js_string(message)), err);
}

int64_t ds_job_backoff_ms(int64_t failed_attempts) {
    int64_t ms = 5000;
    for (int64_t i = 1; i < failed_attempts && ms < 600000; i++)
        ms *= 2;
    return ms < 600000 ? ms : 600000;
}

/* A folder that is away fails every scan in the same way. */
static int fails_again(ds_registry *r, const ds_job *j, const char *code, const char *message,
                       int64_t *yes, ds_error *err) {
    *yes = 0;
    return j->kind != DS_JOB_SCAN
               ? 0
               : db_int(r, yes, err,
                        "SELECT count(*) FROM datasets WHERE id = ?1 AND state = 'failed'"
                        " AND scan_done > 0 AND error_code = ?2 AND error_message = ?3",
                        "iss", j->dataset_id, code, message);
}

static int fail(ds_registry *r, const ds_job *j, const ds_job_failure *f, int retry,
                ds_error *err) {
    char made[128];
    const char *code = f->code ? f->code : "DS_EFAILED", *message = f->message;
    if (!message && f->exit_signal > 0)
        snprintf(made, sizeof made, "worker was killed by signal %d (%s)", f->exit_signal,
                 strsignal(f->exit_signal));
    else if (!message)
        snprintf(made, sizeof made, "worker ended with exit code %d", f->exit_code);
    if (!message)
        message = made;
    if (retry)
        return back_to_queue(r, j, 1, ds_now_ms() + ds_job_backoff_ms(j->attempts), "retry",
                             f->exit_code, f->exit_signal, code, message, err);
    int64_t again = 0, asked = 0;
    int rc = fails_again(r, j, code, message, &again, err);
    if (rc)
        return rc;
    if (again) {
        rc = job_scan_seq(r, j->id, &asked, err);
        if (!rc)
            rc = db_run(r, err, "UPDATE datasets SET scan_done = max(scan_done, ?2) WHERE id = ?1",
                        "ii", j->dataset_id, asked);
        return rc ? rc : job_forget(r, j, err);
    }
    job_end end = {.state = DS_JOB_FAILED,
                   .exit_code = f->exit_code,
                   .exit_signal = f->exit_signal,
                   .code = code,
                   .message = message};
    rc = job_finish(r, j, &end, err);
    if (!rc && j->kind == DS_JOB_SCAN)
        rc = scan_gave_up(r, j, code, message, 0, err);
    return rc;
}

int ds_job_fail(ds_registry *r, int64_t id, const ds_job_failure *f, int *retried, ds_error *err) {
    ds_job j;
    int rc = job_read_running(r, id, &j, err);
    if (rc || (rc = db_begin(r, err)))
        return rc;
    int retry = f->retry && j.attempts < j.max_attempts;
    rc = fail(r, &j, f, retry, err);
    if (retried)
        *retried = retry;
    return db_end(r, rc, err);
}

int ds_job_requeue(ds_registry *r, int64_t id, const char *reason, ds_error *err) {
    ds_job j;
    int rc = job_read_running(r, id, &j, err);
    if (rc || (rc = db_begin(r, err)))
        return rc;
    if (j.cancel) { /* asked for, and the process is gone: that is what was wanted */
        job_end end = {.state = DS_JOB_CANCELLED, .exit_code = -1, .exit_signal = -1};
        rc = job_finish(r, &j, &end, err);
        if (!rc && j.kind == DS_JOB_SCAN)
            rc = scan_gave_up(r, &j, "DS_ECANCELED", "scan was cancelled", 1, err);
    } else
        rc = back_to_queue(r, &j, 0, 0, "requeued", -1, -1, "DS_EBUSY", reason, err);
    return db_end(r, rc, err);
}

/* Nobody looks at a queue that only waits: say it where events and status are read. */
static int waiting_event(ds_registry *r, const ds_job *j, const char *code, const char *message,
                         ds_error *err) {
    char subject[32];
    snprintf(subject, sizeof subject, "job:%lld", (long long)j->id);
    return ds_event_put(r, "job.waiting", subject,
                        json_pack("{s:I,s:s,s:o,s:I,s:s,s:o}", "id", (json_int_t)j->id, "kind",
                                  ds_job_kind_name(j->kind), "name", js_string(j->name),
                                  "postponed", (json_int_t)j->postponed, "code", code, "message",
                                  js_string(message)),
                        err);
}

int ds_job_postpone(ds_registry *r, int64_t id, int64_t delay_ms, const ds_job_failure *f,
                    ds_error *err) {
    ds_job j;
    int rc = job_read_running(r, id, &j, err);
    if (!rc && j.cancel)
        return ds_job_requeue(r, id, f->message, err);
    if (rc || (rc = db_begin(r, err)))
        return rc;
    const char *code = f->code ? f->code : "DS_EBUSY";
    const char *message = f->message ? f->message : "worker asked to be run again later";
    rc = back_to_queue(r, &j, 0, ds_now_ms() + delay_ms, "postponed", f->exit_code, f->exit_signal,
                       code, message, err);
    if (!rc) /* shown while it waits: a person may be able to help */
        rc = db_run(r, err,
                    "UPDATE jobs SET error_code = ?2, error_message = ?3,"
                    " postponed = postponed + 1 WHERE id = ?1",
                    "iss", id, code, message);
    j.postponed++;
    if (!rc && (j.postponed == DS_JOB_WAITS_LONG || j.postponed % 100 == 0))
        rc = waiting_event(r, &j, code, message, err);
    return db_end(r, rc, err);
}

static int cancel_now(ds_registry *r, const ds_job *j, int exit_code, int exit_signal,
                      ds_error *err) {
    job_end end = {.state = DS_JOB_CANCELLED, .exit_code = exit_code, .exit_signal = exit_signal};
    int rc = job_finish(r, j, &end, err);
    if (!rc && j->kind == DS_JOB_SCAN)
        rc = scan_gave_up(r, j, "DS_ECANCELED", "scan was cancelled", 1, err);
    return rc;
}

int ds_job_cancel(ds_registry *r, int64_t id, int *running, ds_error *err) {
    ds_job j;
    int rc = ds_job_read(r, id, &j, err);
    if (rc)
        return rc;
    if (j.state != DS_JOB_QUEUED && j.state != DS_JOB_RUNNING)
        return ds_fail(err, DS_ECONFLICT, "job %lld is already %s", (long long)id,
                       ds_job_state_name(j.state));
    *running = j.state == DS_JOB_RUNNING;
    if ((rc = db_begin(r, err)))
        return rc;
    if (*running)
        rc = db_run(r, err, "UPDATE jobs SET cancel = 1 WHERE id = ?1", "i", id);
    else
        rc = cancel_now(r, &j, -1, -1, err);
    return db_end(r, rc, err);
}

int ds_job_cancelled(ds_registry *r, int64_t id, int exit_code, int exit_signal, ds_error *err) {
    ds_job j;
    int rc = job_read_running(r, id, &j, err);
    if (rc || (rc = db_begin(r, err)))
        return rc;
    rc = cancel_now(r, &j, exit_code, exit_signal, err);
    return db_end(r, rc, err);
}
