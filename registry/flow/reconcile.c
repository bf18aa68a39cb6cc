#include "registry/flow/reconcile.h"
#include "base/log.h"
#include "registry/core/db.h"
#include "registry/core/events.h"
#include "registry/core/words.h"
#include "registry/jobs/jobs_internal.h"
#include "registry/rows/bars_internal.h"

#include <stdio.h>

#define AT_ONCE 100 /* jobs made in one transaction, some ms; the rest follows in the next call */
#define PART 500    /* datasets looked at in one call, less than a ms */
#define PASSING -2  /* settled_seq during a pass; whoever sets -1 meanwhile asks for another one */

struct wish {
    int64_t dataset_id, version_id, generation, base_id;
    char name[DS_NAME_SIZE];
};

/* Live scans and failures are looked for in jobs, accepted work in adapter_versions; nothing is
 * remembered anywhere else. */
/* clang-format off */
static const char scans[] =
    "SELECT d.id, NULL, d.generation, d.name, NULL FROM datasets d"
    " WHERE d.scan_done < d.scan_wanted AND d.state <> 'removed' AND ?1 IS ?1"
    " AND d.id > ?3 AND d.id <= ?4"
    " AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.dedupe_key = 'scan:' || d.id"
    "  AND j.state IN " SQL_LIVE ")"
    " ORDER BY d.id LIMIT ?2";

/* ?1 = the default base, NULL when there is none; a dataset may have chosen another one. */
static const char trainings[] =
    "SELECT d.id, d.version_id, d.generation, d.name, b.id FROM datasets d"
    " JOIN bases b ON b.id = coalesce(d.base_id, ?1) AND b.removed_at IS NULL"
    " WHERE d.state = 'ready' AND d.version_id IS NOT NULL AND d.scan_done >= d.scan_wanted"
    " AND d.id > ?3 AND d.id <= ?4"
    " AND NOT EXISTS (SELECT 1 FROM adapter_versions av WHERE "
      BARS_ANSWERED("av", "d", "b.id") ")"
    " AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.dataset_version_id = d.version_id"
    "  AND j.base_id = b.id AND j.kind = " SQL_TRAIN " AND j.generation >= d.generation"
    "  AND j.state IN (" SQL_FAILED ", " SQL_CANCELLED "))"
    " AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.dedupe_key = 'train:' || d.id"
    "  AND j.state IN " SQL_LIVE ")"
    " ORDER BY d.id LIMIT ?2";

static const char idle_wishes[] =
    "SELECT d.id, NULL, d.generation, d.name, b.id FROM datasets d"
    " JOIN bases b ON b.id = coalesce(d.base_id, ?1)"
    " WHERE d.publish_worse AND d.state = 'ready' AND d.scan_done >= d.scan_wanted"
    " AND d.id > ?3 AND d.id <= ?4"
    " AND (EXISTS (SELECT 1 FROM adapter_versions av WHERE "
      BARS_ANSWERED("av", "d", "b.id") ")"
    " OR EXISTS (SELECT 1 FROM jobs j WHERE j.dataset_version_id = d.version_id"
    "  AND j.base_id = b.id AND j.kind = " SQL_TRAIN " AND j.generation >= d.generation"
    "  AND j.state = " SQL_CANCELLED "))"
    " AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.dedupe_key = 'train:' || d.id"
    "  AND j.state IN " SQL_LIVE ")"
    " ORDER BY d.id LIMIT ?2";
/* clang-format on */

struct part {
    int64_t after, to; /* ids of datasets */
    int made;
};

static int collect(ds_registry *r, const char *sql, int64_t base, struct part *p, struct wish *out,
                   int *n, ds_error *err) {
    sqlite3_stmt *q = db_query(r, err, sql, "Iiii", base, (int64_t)AT_ONCE, p->after, p->to);
    int rc;
    *n = 0;
    while ((rc = db_step(r, q, err)) > 0) {
        struct wish *w = &out[(*n)++];
        w->dataset_id = sqlite3_column_int64(q, 0);
        w->version_id = sqlite3_column_int64(q, 1);
        w->generation = sqlite3_column_int64(q, 2);
        db_text(w->name, sizeof w->name, q, 3);
        w->base_id = sqlite3_column_int64(q, 4);
    }
    return rc;
}

static int enqueue(ds_registry *r, enum ds_job_kind kind, const struct wish *w, ds_error *err) {
    char key[64], subject[32];
    const char *text = ds_job_kind_name(kind);
    snprintf(key, sizeof key, "%s:%lld", text, (long long)w->dataset_id);
    int rc = db_run(r, err,
                    "INSERT INTO jobs(kind, priority, dedupe_key, name, dataset_id,"
                    " dataset_version_id, base_id, generation, max_attempts, created_at)"
                    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 3, ?9)",
                    "sissiIIii", text, (int64_t)(kind == DS_JOB_SCAN ? 20 : 0), key, w->name,
                    w->dataset_id, w->version_id, w->base_id, w->generation, ds_now_ms());
    if (rc)
        return rc;
    int64_t id = db_rowid(r), quiet;
    rc = job_scan_repeats(r, kind, w->dataset_id, &quiet, err);
    if (rc || quiet)
        return rc;
    snprintf(subject, sizeof subject, "job:%lld", (long long)id);
    return ds_event_put(
        r, "job.queued", subject,
        json_pack("{s:I,s:s,s:o}", "id", (json_int_t)id, "kind", text, "name", js_string(w->name)),
        err);
}

static int make(ds_registry *r, enum ds_job_kind kind, int64_t base, struct part *p,
                ds_error *err) {
    struct wish list[AT_ONCE];
    int n, rc = collect(r, kind == DS_JOB_SCAN ? scans : trainings, base, p, list, &n, err);
    for (int i = 0; !rc && i < n; i++)
        rc = enqueue(r, kind, &list[i], err);
    p->made += n;
    return rc;
}

/* A wish to publish a worse version that has nothing left to act on: the content is answered, or
 * its training was cancelled, and none is under way.  It must not wait for one that comes by itself
 * one day. */
static int drop_wishes(ds_registry *r, int64_t base, struct part *p, ds_error *err) {
    struct wish list[AT_ONCE];
    int n, rc = collect(r, idle_wishes, base, p, list, &n, err);
    for (int i = 0; !rc && i < n; i++) {
        char subject[DS_NAME_SIZE + 16];
        snprintf(subject, sizeof subject, "dataset:%s", list[i].name);
        rc = db_run(r, err, "UPDATE datasets SET publish_worse = 0 WHERE id = ?1", "i",
                    list[i].dataset_id);
        if (!rc)
            rc = ds_event_put(r, "dataset.publish_worse", subject,
                              json_pack("{s:I, s:s}", "id", (json_int_t)list[i].dataset_id, "state",
                                        "nothing to force"),
                              err);
    }
    return rc;
}

static int do_part(ds_registry *r, struct part *p, ds_error *err) {
    int64_t base = 0;
    int rc = db_begin(r, err);
    if (rc)
        return rc;
    rc = make(r, DS_JOB_SCAN, 0, p, err);
    if (!rc)
        rc = db_int(r, &base, err,
                    "SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'active_base'", "");
    if (rc == DS_ENOTFOUND) /* there is none */
        rc = 0;
    if (!rc)
        rc = make(r, DS_JOB_TRAIN, base, p, err);
    if (!rc)
        rc = drop_wishes(r, base, p, err);
    return db_end(r, rc, err);
}

static int64_t data_version(ds_registry *r) {
    int64_t data = 0;
    db_int(r, &data, NULL, "PRAGMA data_version", "");
    return data;
}

/* Every change of state writes an event, and a foreign commit moves data_version: if neither moved
 * since nothing was found to do, nothing is to do. */
int ds_reconcile_settled(ds_registry *r) {
    return ds_event_last_seq(r) == r->settled_seq && data_version(r) == r->settled_data;
}

static void end_pass(ds_registry *r) {
    if (r->settled_seq == PASSING && r->pass_made == 0) {
        r->settled_seq = r->pass_seq;
        r->settled_data = r->pass_data;
    }
    r->pass_after = 0;
}

int ds_reconcile_of_job(ds_registry *r, int64_t job, ds_error *err) {
    struct part p = {0};
    int rc = db_int(r, &p.to, err, "SELECT dataset_id FROM jobs WHERE id = ?1", "I", job);
    p.after = p.to - 1;
    return rc ? rc : do_part(r, &p, err);
}

int ds_reconcile(ds_registry *r, int *made, ds_error *err) {
    if (made)
        *made = 0;
    if (ds_reconcile_settled(r))
        return 0;
    if (r->pass_after == 0) {
        r->pass_seq = ds_event_last_seq(r);
        r->pass_data = data_version(r);
        r->pass_made = 0;
        r->settled_seq = PASSING;
    }
    struct part p = {.after = r->pass_after, .to = INT64_MAX};
    int rc = db_int(r, &p.to, err,
                    "SELECT id FROM datasets WHERE id > ?1 ORDER BY id LIMIT 1"
                    " OFFSET ?2",
                    "ii", p.after, (int64_t)PART - 1);
    if (!rc || rc == DS_ENOTFOUND) /* fewer are left */
        rc = do_part(r, &p, err);
    if (rc)
        return rc;
    r->pass_made += p.made;
    r->pass_after = p.to; /* what it left, being too much, the next pass finds */
    if (r->pass_after == INT64_MAX)
        end_pass(r);
    if (made)
        *made = p.made;
    return 0;
}
