/* registry/jobs/jobs_next.c - which job is next, and when one becomes due. */
#include "registry/core/db.h"
#include "registry/core/words.h"
#include "registry/jobs/jobs_internal.h"

/* The longest that a job in this state can have been told to wait. */
static int64_t longest_wait_ms(const ds_job *j) {
    return j->postponed ? DS_JOB_POSTPONE_LONG_MS : ds_job_backoff_ms(j->attempts);
}

/* Later than any back-off: the clock was set back since the row was written. */
static int clamp_run_after(ds_job *j, int64_t now) {
    int64_t longest = longest_wait_ms(j);
    int late = j->run_after > now && j->run_after - now > longest;
    if (late)
        j->run_after = now + longest;
    return late;
}

/* *due = when the next one of this kind that is not due yet becomes so, if that is before *due. */
static int next_due(ds_registry *r, enum ds_job_kind kind, int64_t now, int64_t *due,
                    ds_error *err) {
    ds_job late[64], j; /* more have their turn with the next call */
    int count = 0, rc;
    int64_t at = INT64_MAX;
    sqlite3_stmt *q = db_query(r, err,
                               "SELECT " JOB_FIELDS " FROM jobs INDEXED BY jobs_due WHERE"
                               " state = " SQL_QUEUED " AND kind = ?1 AND run_after > ?2"
                               " ORDER BY run_after DESC LIMIT 64",
                               "si", ds_job_kind_name(kind), now);
    while ((rc = db_step(r, q, err)) > 0) {
        job_from_row(&j, q);
        if (clamp_run_after(&j, now))
            late[count++] = j;
        at = j.run_after < at ? j.run_after : at;
    }
    for (int i = 0; !rc && i < count; i++) /* what cannot be written is clamped again */
        if (db_run(r, NULL, "UPDATE jobs SET run_after = ?2 WHERE id = ?1 AND state = " SQL_QUEUED,
                   "ii", late[i].id, late[i].run_after))
            break;
    *due = at < *due ? at : *due;
    if (rc)
        return rc;
    rc = db_int(r, &at, err,
                "SELECT min(run_after) FROM jobs WHERE state = " SQL_QUEUED " AND kind = ?1 AND"
                " run_after > ?2",
                "si", ds_job_kind_name(kind), now);
    *due = !rc && at < *due ? at : *due;
    return rc == DS_ENOTFOUND ? 0 : rc;
}

/* The first of one kind that is due and that pick takes: 1, or 0, or an error. */
static int next_of_kind(ds_registry *r, enum ds_job_kind kind, int64_t now, ds_job_pick pick,
                        void *ctx, ds_job *out, ds_error *err) {
    sqlite3_stmt *q = db_query(r, err,
                               "SELECT " JOB_FIELDS " FROM jobs INDEXED BY jobs_next WHERE"
                               " state = " SQL_QUEUED " AND kind = ?1 AND run_after <= ?2"
                               " AND NOT EXISTS (SELECT 1 FROM meta m WHERE"
                               "  m.key = 'paused:' || jobs.dataset_id)"
                               " ORDER BY priority DESC, id",
                               "si", ds_job_kind_name(kind), now);
    int rc;
    while ((rc = db_step(r, q, err)) > 0) {
        job_from_row(out, q);
        int verdict = pick ? pick(ctx, out) : 0;
        if (verdict == 1)
            continue;
        db_reset(q);
        return verdict == 0;
    }
    return rc;
}

int ds_job_next_of(ds_registry *r, unsigned kinds, int64_t now, ds_job_pick pick, void *ctx,
                   ds_job *out, int64_t *wait_ms, ds_error *err) {
    int64_t due = INT64_MAX;
    int found = 0;
    for (int k = 0; k < DS_JOB_KIND_COUNT; k++) {
        ds_job job;
        if (!(kinds & DS_KIND_BIT(k)))
            continue;
        int rc = next_due(r, (enum ds_job_kind)k, now, &due, err);
        if (!rc)
            rc = next_of_kind(r, (enum ds_job_kind)k, now, pick, ctx, &job, err);
        if (rc < 0)
            return rc;
        if (rc && (!found || job.priority > out->priority ||
                   (job.priority == out->priority && job.id < out->id)))
            *out = job;
        found |= rc;
    }
    if (wait_ms)
        *wait_ms = found ? 0 : due == INT64_MAX ? -1 : due - now;
    return found ? 0 : ds_fail(err, DS_ENOTFOUND, "no job is due");
}

int ds_job_next(ds_registry *r, unsigned kinds, int64_t now, ds_job *out, int64_t *wait_ms,
                ds_error *err) {
    return ds_job_next_of(r, kinds, now, NULL, NULL, out, wait_ms, err);
}
