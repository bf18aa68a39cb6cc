/* registry/jobs/jobs_several.c - what happens to several jobs at once. */
#include "registry/core/db.h"
#include "registry/core/words.h"
#include "registry/jobs/jobs_internal.h"

#define JOBS_AT_ONCE 64

static int jobs_where(ds_registry *r, const char *sql, int64_t a, int64_t b, ds_job *out, int max,
                      int *n, ds_error *err) {
    sqlite3_stmt *q = db_query(r, err, sql, "ii", a, b);
    int rc;
    *n = 0;
    while ((rc = db_step(r, q, err)) > 0) {
        if (*n < max)
            job_from_row(&out[*n], q);
        ++*n;
    }
    return rc;
}

int ds_jobs_running(ds_registry *r, ds_job *out, int max, int *n, ds_error *err) {
    return jobs_where(r,
                      "SELECT " JOB_FIELDS " FROM jobs WHERE state = " SQL_RUNNING " AND ?1 = ?2"
                      " ORDER BY cancel DESC, id",
                      0, 0, out, max, n, err);
}

int jobs_cancel_of_dataset(ds_registry *r, int64_t dataset_id, ds_error *err) {
    ds_job list[JOBS_AT_ONCE];
    int n, running, rc;
    do { /* per dataset at most one scan and one training are live */
        rc = jobs_where(r,
                        "SELECT " JOB_FIELDS
                        " FROM jobs WHERE dataset_id = ?1 AND state = " SQL_QUEUED " AND ?2 = 0",
                        dataset_id, 0, list, JOBS_AT_ONCE, &n, err);
        for (int i = 0; !rc && i < n && i < JOBS_AT_ONCE; i++)
            rc = ds_job_cancel(r, list[i].id, &running, err);
    } while (!rc && n > JOBS_AT_ONCE);
    if (!rc)
        rc = db_run(r, err,
                    "UPDATE jobs SET cancel = 1 WHERE dataset_id = ?1 AND state = " SQL_RUNNING,
                    "i", dataset_id);
    return rc;
}

static int supersede(ds_registry *r, const ds_job *j, const char *why, ds_error *err) {
    job_end end = {.state = DS_JOB_CANCELLED,
                   .exit_code = -1,
                   .exit_signal = -1,
                   .code = "DS_ECANCELED",
                   .message = why};
    int rc = job_finish(r, j, &end, err);
    if (!rc) /* generation 0: does not block this content, or this base, if it comes back */
        rc = db_run(r, err, "UPDATE jobs SET generation = 0 WHERE id = ?1", "i", j->id);
    return rc;
}

int jobs_supersede(ds_registry *r, int64_t dataset_id, int64_t version_id, ds_error *err) {
    ds_job list[JOBS_AT_ONCE];
    int n, rc = jobs_where(r,
                           "SELECT " JOB_FIELDS
                           " FROM jobs WHERE dataset_id = ?1 AND kind = " SQL_TRAIN
                           " AND state = " SQL_QUEUED " AND dataset_version_id <> ?2",
                           dataset_id, version_id, list, JOBS_AT_ONCE, &n, err);
    for (int i = 0; !rc && i < n && i < JOBS_AT_ONCE; i++)
        rc = supersede(r, &list[i], "a newer version of the dataset came first", err);
    return rc;
}

int jobs_supersede_base(ds_registry *r, ds_error *err) {
    ds_job list[JOBS_AT_ONCE];
    int n = 0, rc;
    do {
        rc = jobs_where(r,
                        "SELECT " JOB_FIELDS " FROM jobs WHERE kind = " SQL_TRAIN
                        " AND state = " SQL_QUEUED
                        " AND ?1 = ?2 AND base_id IS NOT (SELECT coalesce(d.base_id, (SELECT"
                        "  CAST(value AS INTEGER) FROM meta WHERE key = 'active_base'))"
                        "  FROM datasets d WHERE d.id = jobs.dataset_id)",
                        0, 0, list, JOBS_AT_ONCE, &n, err);
        for (int i = 0; !rc && i < n && i < JOBS_AT_ONCE; i++)
            rc = supersede(r, &list[i], "another base was chosen before it began", err);
    } while (!rc && n > JOBS_AT_ONCE);
    return rc;
}

int ds_jobs_recover(ds_registry *r, int *made, ds_error *err) {
    ds_job list[JOBS_AT_ONCE];
    int n, count = 0;
    int64_t after = 0;
    for (;;) {
        int rc =
            jobs_where(r,
                       "SELECT " JOB_FIELDS " FROM jobs WHERE state = " SQL_RUNNING " AND id > ?1"
                       " AND ?2 = 0 ORDER BY id",
                       after, 0, list, JOBS_AT_ONCE, &n, err);
        for (int i = 0; !rc && i < n && i < JOBS_AT_ONCE; i++) {
            after = list[i].id;
            const char *identity = list[i].process.identity;
            if (*identity && (!ds_process_pid(identity) || ds_process_alive(identity)))
                continue;
            rc = ds_job_requeue(r, list[i].id, "its process was gone when the daemon started", err);
            count++;
        }
        if (rc)
            return rc;
        if (n <= JOBS_AT_ONCE)
            break;
    }
    if (made)
        *made = count;
    return 0;
}
