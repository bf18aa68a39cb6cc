/* registry/jobs/jobs_read.c - jobs as the objects of docs/api.md. */
#include "base/mem.h"
#include "registry/core/db.h"
#include "registry/core/words.h"
#include "registry/jobs/jobs.h"

#include <stdlib.h>

#define JOB_SELECT JOB_COLUMNS JOB_JOINS
#define JOB_COLUMNS                                                                                \
    "SELECT j.id, j.kind, j.state, d.name, dv.version, j.name, j.attempts, j.max_attempts,"        \
    " j.created_at, j.started_at, j.finished_at, j.run_after, j.error_code, j.error_message,"      \
    " j.stage, j.progress, a.name || '@v' || av.version, j.pid, j.result, j.cancel, j.postponed,"  \
    " (SELECT b.name FROM bases b WHERE b.id = j.base_id) FROM jobs j"
#define JOB_JOINS                                                                                  \
    " LEFT JOIN datasets d ON d.id = j.dataset_id"                                                 \
    " LEFT JOIN dataset_versions dv ON dv.id = j.dataset_version_id"                               \
    " LEFT JOIN adapter_versions av ON av.id = j.adapter_version_id"                               \
    " LEFT JOIN adapters a ON a.id = av.adapter_id"

static json_t *job_object(sqlite3_stmt *q, int with_result) {
    json_t *o = json_object();
    js_int(o, "id", q, 0);
    js_text(o, "kind", q, 1);
    js_text(o, "state", q, 2);
    js_text(o, "dataset", q, 3);
    js_int(o, "dataset_version", q, 4);
    js_text(o, "name", q, 5);
    js_int(o, "attempts", q, 6);
    js_int(o, "max_attempts", q, 7);
    js_time(o, "created_at", q, 8);
    js_time(o, "started_at", q, 9);
    js_time(o, "finished_at", q, 10);
    if (sqlite3_column_int64(q, 11) > 0)
        js_time(o, "run_after", q, 11);
    else
        json_object_set_new(o, "run_after", json_null());
    js_error(o, "error", q, 12);
    js_text(o, "stage", q, 14);
    js_doc(o, "progress", q, 15);
    js_text(o, "adapter", q, 16);
    js_int(o, "pid", q, 17);
    json_object_set_new(o, "cancel", json_boolean(sqlite3_column_int(q, 19)));
    js_int(o, "postponed", q, 20);
    js_text(o, "base", q, 21);
    if (with_result)
        js_doc(o, "result", q, 18);
    return o;
}

static json_t *job_row(sqlite3_stmt *q) { return job_object(q, 0); }

static int attempts_of(ds_registry *r, int64_t id, json_t *o, ds_error *err) {
    sqlite3_stmt *q = db_query(r, err,
                               "SELECT attempt, pid, started_at, ended_at, exit_code, exit_signal,"
                               " outcome, error_code, error_message FROM job_attempts"
                               " WHERE job_id = ?1 ORDER BY attempt DESC LIMIT 100",
                               "i", id);
    json_t *list = json_array();
    int rc;
    while ((rc = db_step(r, q, err)) > 0) {
        json_t *a = json_object();
        js_int(a, "attempt", q, 0);
        js_int(a, "pid", q, 1);
        js_time(a, "started_at", q, 2);
        js_time(a, "ended_at", q, 3);
        js_int(a, "exit_code", q, 4);
        js_int(a, "exit_signal", q, 5);
        js_text(a, "outcome", q, 6);
        js_error(a, "error", q, 7);
        json_array_insert_new(list, 0, a);
    }
    json_object_set_new(o, "attempt_list", list);
    return rc;
}

int ds_job_get(ds_registry *r, int64_t id, json_t **out, ds_error *err) {
    sqlite3_stmt *q = db_query(r, err, JOB_SELECT " WHERE j.id = ?1", "i", id);
    int rc = db_step(r, q, err);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return ds_fail(err, DS_ENOTFOUND, "job %lld does not exist", (long long)id);
    json_t *o = job_object(q, 1);
    db_reset(q);
    rc = attempts_of(r, id, o, err);
    if (rc) {
        json_decref(o);
        return rc;
    }
    *out = o;
    return 0;
}

int ds_jobs_waiting(ds_registry *r, json_t **out, ds_error *err) {
    sqlite3_stmt *q = db_query(r, err,
                               "SELECT id, kind, name, state, postponed, run_after, error_code,"
                               " error_message FROM jobs INDEXED BY jobs_postponed WHERE"
                               " postponed > 0 AND postponed >= ?1 AND state IN " SQL_LIVE
                               " ORDER BY id LIMIT 100",
                               "i", (int64_t)DS_JOB_WAITS_LONG);
    json_t *list = json_array();
    int rc;
    while ((rc = db_step(r, q, err)) > 0) {
        json_t *o = json_object();
        js_int(o, "id", q, 0);
        js_text(o, "kind", q, 1);
        js_text(o, "name", q, 2);
        js_text(o, "state", q, 3);
        js_int(o, "postponed", q, 4);
        js_time(o, "run_after", q, 5);
        js_error(o, "error", q, 6);
        json_array_append_new(list, o);
    }
    if (rc) {
        json_decref(list);
        return rc;
    }
    *out = list;
    return 0;
}

int ds_job_list(ds_registry *r, ds_page page, const ds_job_filter *f, json_t **out, ds_error *err) {
    static const ds_job_filter any;
    f = f ? f : &any;
    int64_t before;
    int limit = page_limit(page), rc = page_cursor(page, &before, err);
    if (rc)
        return rc;
    if (f->state && ds_job_state_parse(f->state) < 0)
        return ds_fail(err, DS_EINVAL, "job state '%.40s' does not exist", f->state);
    if (f->kind && ds_job_kind_parse(f->kind) < 0)
        return ds_fail(err, DS_EINVAL, "job kind '%.40s' does not exist", f->kind);
    ds_buf sql = {0}; /* only the conditions asked for, so that the right index is used */
    const char *by = f->state && !f->dataset && !f->kind ? " INDEXED BY jobs_state" : "";
    ds_buf_addf(&sql,
                JOB_COLUMNS "%s" JOB_JOINS " WHERE j.id < ?1%s%s%s ORDER BY j.id DESC LIMIT ?2", by,
                f->state ? " AND j.state = ?3" : " AND ?3 IS NULL",
                f->kind ? " AND j.kind = ?4" : " AND ?4 IS NULL",
                f->dataset ? " AND j.dataset_id = (SELECT x.id FROM datasets x WHERE x.name = ?5)"
                           : " AND ?5 IS NULL");
    sqlite3_stmt *q = db_query(r, err, sql.data, "iisss", before, (int64_t)limit + 1, f->state,
                               f->kind, f->dataset);
    ds_buf_release(&sql);
    return page_collect(r, q, page, 0, job_row, out, err);
}

int ds_job_last_id(ds_registry *r, int64_t *id, ds_error *err) {
    *id = 0;
    int rc = db_int(r, id, err, "SELECT seq FROM sqlite_sequence WHERE name = 'jobs'", "");
    return rc == DS_ENOTFOUND ? 0 : rc;
}

void ds_job_tree_digest(ds_registry *r, int64_t id, char out[DS_HEX_SIZE]) {
    sqlite3_stmt *q =
        db_query(r, NULL,
                 "SELECT v.tree_digest FROM jobs j JOIN dataset_versions v"
                 " ON v.id = j.dataset_version_id WHERE j.id = ?1 AND j.kind = " SQL_TRAIN,
                 "i", id);
    out[0] = 0;
    if (db_step(r, q, NULL) > 0) {
        db_text(out, DS_HEX_SIZE, q, 0);
        db_reset(q);
    }
}

int ds_jobs_failed_trainings(ds_registry *r, int most, json_t **out, int64_t *count,
                             ds_error *err) {
    sqlite3_stmt *q =
        db_query(r, err,
                 "SELECT d.name, j.id, j.error_code, j.error_message FROM jobs j JOIN datasets d"
                 " ON d.id = j.dataset_id AND d.state <> 'removed' WHERE j.state = " SQL_FAILED
                 " AND j.kind = " SQL_TRAIN " AND j.id = (SELECT max(x.id) FROM jobs x WHERE"
                 " x.dataset_id = j.dataset_id AND x.kind = " SQL_TRAIN ") ORDER BY j.id DESC",
                 "");
    json_t *items = json_array();
    int rc;
    *count = 0;
    while ((rc = db_step(r, q, err)) > 0) {
        if ((*count)++ >= most)
            continue;
        json_t *o = json_object(), *e = json_object();
        js_text(o, "dataset", q, 0);
        js_int(o, "job", q, 1);
        js_text(e, "code", q, 2);
        js_text(e, "message", q, 3);
        json_object_set_new(o, "error", e);
        json_array_append_new(items, o);
    }
    if (rc) {
        json_decref(items);
        return rc;
    }
    *out = items;
    return 0;
}
