#include "registry/jobs/prune.h"
#include "registry/core/db.h"
#include "registry/core/words.h"

/* ?1 = before, ?2 = id below which they are too many (0 = none), ?3 < id <= ?4. */
#define JOBS_TO_GO                                                                                 \
    "SELECT j.id FROM jobs j WHERE j.id > ?3 AND j.id <= ?4 AND j.finished_at IS NOT NULL"         \
    " AND (j.finished_at < ?1 OR j.id < ?2) AND j.adapter_version_id IS NULL"                      \
    " AND NOT EXISTS (SELECT 1 FROM adapter_versions x WHERE x.job_id = j.id)"                     \
    " AND NOT EXISTS (SELECT 1 FROM evaluations x WHERE x.job_id = j.id)"                          \
    " AND NOT EXISTS (SELECT 1 FROM gates x WHERE x.job_id = j.id)"                                \
    " AND NOT EXISTS (SELECT 1 FROM base_tasks x WHERE x.job_id = j.id)"                           \
    " AND NOT (j.kind = " SQL_TRAIN                                                                \
    " AND EXISTS (SELECT 1 FROM datasets d WHERE d.id = j.dataset_id"                              \
    "  AND d.version_id = j.dataset_version_id AND d.state <> 'removed'))"
/* What the trigger lets go.  Those of live jobs stay. */
#define EVENTS_TO_GO                                                                               \
    "SELECT e.seq FROM events e WHERE e.seq > ?3 AND e.seq <= ?4 AND (e.at < ?1 OR e.seq < ?2)"    \
    " AND NOT (e.type GLOB 'adapter.*' OR e.type GLOB 'gate.*' OR e.type GLOB 'alias.*' OR"        \
    " e.type GLOB 'base.*' OR e.type GLOB 'feature_net.*' OR"                                      \
    " e.type IN ('dataset.added', 'dataset.removed'))"                                             \
    " AND NOT (e.subject GLOB 'job:*' AND EXISTS (SELECT 1 FROM jobs j WHERE"                      \
    "  j.id = CAST(substr(e.subject, 5) AS INTEGER) AND j.state IN " SQL_LIVE "))"

static int last_of(ds_registry *r, const char *table, int64_t *out, ds_error *err) {
    *out = 0;
    int rc = db_int(r, out, err, "SELECT seq FROM sqlite_sequence WHERE name = ?1", "s", table);
    return rc == DS_ENOTFOUND ? 0 : rc;
}

/* The id below which there are too many ended jobs. */
static int too_many_jobs(ds_registry *r, int64_t most, int64_t *below, ds_error *err) {
    *below = 0;
    int rc = most ? db_int(r, below, err,
                           "SELECT id FROM jobs WHERE finished_at IS NOT NULL ORDER BY id DESC"
                           " LIMIT 1 OFFSET ?1",
                           "i", most)
                  : 0;
    return rc == DS_ENOTFOUND ? 0 : rc;
}

/* At most DS_PRUNE_WINDOW ids. */
static int collect(ds_registry *r, const char *sql, int64_t before, int64_t below, int64_t from,
                   int64_t *ids, int *n, ds_error *err) {
    sqlite3_stmt *q = db_query(r, err, sql, "iiii", before, below, from, from + DS_PRUNE_WINDOW);
    int rc;
    *n = 0;
    while ((rc = db_step(r, q, err)) > 0)
        ids[(*n)++] = sqlite3_column_int64(q, 0);
    return rc;
}

static int remove_jobs(ds_registry *r, const int64_t *ids, int n, ds_error *err) {
    static const char *const sql[] = {
        "DELETE FROM job_attempts WHERE job_id = ?1", "DELETE FROM job_metrics WHERE job_id = ?1",
        "DELETE FROM blob_leases WHERE job_id = ?1", "DELETE FROM jobs WHERE id = ?1"};
    int rc = 0;
    for (int i = 0; !rc && i < n; i++)
        for (size_t k = 0; !rc && k < sizeof sql / sizeof *sql; k++)
            rc = db_run(r, err, sql[k], "i", ids[i]);
    return rc;
}

/* From here on a job that is older than the newest of them may have no event (registry/check.c). */
static int remember(ds_registry *r, int64_t newest, ds_error *err) {
    return db_run(r, err,
                  "INSERT INTO meta(key, value) SELECT 'events_pruned_before',"
                  " CAST(max(at) + 1 AS TEXT) FROM events WHERE seq <= ?1"
                  " ON CONFLICT (key) DO UPDATE SET value = CAST(max(CAST(meta.value AS INTEGER),"
                  " CAST(excluded.value AS INTEGER)) AS TEXT)",
                  "i", newest);
}

static int remove_events(ds_registry *r, const int64_t *ids, int n, ds_error *err) {
    if (!n)
        return 0;
    int rc = remember(r, ids[n - 1], err);
    if (!rc)
        rc = db_run(r, err, "INSERT INTO meta(key, value) VALUES ('pruning', '1')", "");
    for (int i = 0; !rc && i < n; i++)
        rc = db_run(r, err, "DELETE FROM events WHERE seq = ?1", "i", ids[i]);
    return rc ? rc : db_run(r, err, "DELETE FROM meta WHERE key = 'pruning'", "");
}

int ds_prune_some(ds_registry *r, ds_prune_rows *p, ds_error *err) {
    int64_t jobs[DS_PRUNE_WINDOW], events[DS_PRUNE_WINDOW], below = 0, last_job, last_event;
    int job_count = 0, event_count = 0, rc = last_of(r, "jobs", &last_job, err);
    if (!rc)
        rc = last_of(r, "events", &last_event, err);
    if (!rc)
        rc = too_many_jobs(r, p->jobs_most, &below, err);
    if (!rc && p->job < last_job)
        rc = collect(r, JOBS_TO_GO, p->jobs_before, below, p->job, jobs, &job_count, err);
    if (!rc && p->event < last_event)
        rc = collect(r, EVENTS_TO_GO, p->events_before,
                     p->events_most ? last_event - p->events_most : 0, p->event, events,
                     &event_count, err);
    if (!rc && !p->dry_run && (job_count || event_count) && !(rc = db_begin(r, err))) {
        rc = remove_jobs(r, jobs, job_count, err);
        if (!rc)
            rc = remove_events(r, events, event_count, err);
        rc = db_end(r, rc, err);
    }
    if (rc)
        return rc;
    p->jobs += job_count;
    p->events += event_count;
    p->job += DS_PRUNE_WINDOW;
    p->event += DS_PRUNE_WINDOW;
    return p->job < last_job || p->event < last_event;
}

int ds_prune_folder(ds_registry *r, int64_t job, int64_t before, enum ds_folder_use *out,
                    ds_error *err) {
    sqlite3_stmt *q =
        db_query(r, err, "SELECT finished_at IS NOT NULL, finished_at < ?2 FROM jobs WHERE id = ?1",
                 "ii", job, before);
    int rc = db_step(r, q, err);
    *out = DS_FOLDER_NONE;
    if (rc <= 0)
        return rc;
    *out = !sqlite3_column_int(q, 0)  ? DS_FOLDER_LIVE
           : sqlite3_column_int(q, 1) ? DS_FOLDER_OLD
                                      : DS_FOLDER_ENDED;
    db_reset(q);
    return 0;
}
