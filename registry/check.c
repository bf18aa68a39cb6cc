/* registry/check.c - what must be true of the rows; see check.h. */
#include "registry/check.h"
#include "base/log.h"
#include "registry/core/db.h"
#include "registry/core/words.h"
#include "registry/registry.h"

#include <stdio.h>
#include <string.h>

/* Each gives rows only when something is wrong; the list is in docs/registry.md. */
static const struct {
    const char *what, *sql;
} invariants[] = {
    {"a running job has no open attempt",
     "SELECT 'job ' || id FROM jobs j WHERE state = " SQL_RUNNING " AND NOT EXISTS (SELECT 1 FROM"
     " job_attempts t WHERE t.job_id = j.id AND t.attempt = j.starts AND t.ended_at IS NULL)"},
    {"a job that is not running has an open attempt",
     "SELECT 'job ' || j.id FROM jobs j JOIN job_attempts t ON t.job_id = j.id"
     " WHERE t.ended_at IS NULL AND j.state <> " SQL_RUNNING},
    {"a finished job has no time of its end", "SELECT 'job ' || id FROM jobs WHERE (finished_at IS "
                                              "NULL) <> (state IN " SQL_LIVE ")"},
    {"a finished train job has no adapter version",
     "SELECT 'job ' || id FROM jobs WHERE kind = " SQL_TRAIN " AND state IN (" SQL_DONE
     ", " SQL_REJECTED ")"
     " AND adapter_version_id IS NULL"},
    {"a job's adapter version has the other status",
     "SELECT 'job ' || j.id FROM jobs j JOIN adapter_versions av ON av.id = j.adapter_version_id"
     " WHERE j.kind = " SQL_TRAIN " AND (j.state = " SQL_DONE
     ") <> (av.job_id = j.id AND EXISTS (SELECT 1 FROM"
     " gates g WHERE g.job_id = j.id AND g.verdict = 'passed'))"},
    {"an alias points to a version of another name",
     "SELECT l.alias FROM aliases l JOIN adapter_versions av ON av.id = l.version_id"
     " WHERE av.adapter_id <> l.adapter_id OR av.deleted_at IS NOT NULL"},
    {"an alias moved without history",
     "SELECT l.alias FROM aliases l WHERE NOT EXISTS (SELECT 1 FROM alias_history h WHERE"
     " h.adapter_id = l.adapter_id AND h.alias = l.alias AND h.generation = l.generation"
     " AND h.new_version_id = l.version_id)"},
    {"a version number is beyond the last one given out",
     "SELECT a.name FROM adapters a WHERE a.last_version <>"
     " (SELECT coalesce(max(version), 0) FROM adapter_versions av WHERE av.adapter_id = a.id)"},
    {"an adapter that is not deleted refers to a blob that is not present",
     "SELECT av.digest FROM adapter_versions av JOIN blobs b ON b.digest = av.digest"
     " WHERE av.deleted_at IS NULL AND b.state <> 'present'"},
    {"a version was published although its own bars refused it",
     "SELECT 'job ' || g.job_id FROM gates g JOIN gate_self s ON s.gate_id = g.id WHERE"
     " s.verdict = 'refused' AND g.verdict = 'passed'"},
    {"the record of a base refers to a blob that is not present",
     "SELECT t.base_id FROM base_tasks t JOIN blobs b ON b.digest = t.reference_digest"
     " WHERE b.state <> 'present'"},
    {"a base has a record without a probe",
     "SELECT t.base_id FROM base_tasks t WHERE NOT EXISTS (SELECT 1 FROM base_probes p WHERE"
     " p.base_id = t.base_id)"},
    {"a base in use has been removed",
     "SELECT d.name FROM datasets d JOIN bases b ON b.id = d.base_id WHERE d.state <> 'removed'"
     " AND b.removed_at IS NOT NULL"},
    {"a feature network in use has been removed",
     "SELECT d.name FROM datasets d JOIN feature_nets f ON f.id = d.feature_net_id WHERE d.state <>"
     " 'removed' AND f.removed_at IS NOT NULL UNION ALL SELECT 'the default' FROM meta m JOIN"
     " feature_nets f ON f.id = CAST(m.value AS INTEGER) WHERE m.key = 'default_feature_net' AND"
     " f.removed_at IS NOT NULL"},
    {"a dataset's content belongs to another dataset",
     "SELECT d.name FROM datasets d JOIN dataset_versions v ON v.id = d.version_id"
     " WHERE v.dataset_id <> d.id"},
    {"a count that is kept is not what is counted",
     "SELECT key FROM counters WHERE value <> CASE key"
     " WHEN 'datasets' THEN (SELECT count(*) FROM datasets WHERE state <> 'removed')"
     " WHEN 'adapters' THEN (SELECT count(*) FROM adapter_versions WHERE status = 'published'"
     "  AND deleted_at IS NULL)"
     " WHEN 'blobs' THEN (SELECT count(*) FROM blobs WHERE state = 'present')"
     " WHEN 'blob_bytes' THEN (SELECT coalesce(sum(stored_bytes), 0) FROM blobs"
     "  WHERE state = 'present')"
     " WHEN 'roots' THEN value"
     " ELSE CASE substr(key, 1, 4)"
     " WHEN 'base' THEN (SELECT count(*) FROM adapter_versions WHERE base_id ="
     "  CAST(substr(key, 6) AS INTEGER) AND status = 'published' AND deleted_at IS NULL)"
     " WHEN 'net.' THEN (SELECT count(DISTINCT e.adapter_version_id) FROM evaluations e JOIN"
     "  adapter_versions av ON av.id = e.adapter_version_id WHERE e.feature_net = substr(key, 5)"
     "  AND av.status = 'published' AND av.deleted_at IS NULL)"
     " ELSE (SELECT count(*) FROM jobs WHERE state = substr(key, 6)) END END"},
    {"a change of a job has no event",
     "SELECT 'job ' || id FROM jobs j WHERE NOT EXISTS (SELECT 1 FROM events e WHERE"
     " e.subject = 'job:' || j.id) AND NOT (j.kind = " SQL_SCAN " AND j.state IN " SQL_LIVE ")"
     " AND j.created_at >= coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE key ="
     " 'events_pruned_before'), 0)"
     " AND (SELECT count(*) FROM jobs) < 10000"},
};

typedef struct {
    sqlite3 *db;
    void (*fn)(void *ctx, const char *thing, const char *cause);
    void *ctx;
    int found;
} check;

static void tell(check *c, const char *thing, const char *cause) {
    c->found++;
    c->fn(c->ctx, thing, cause);
}

static void unreadable(check *c, const char *what) {
    char cause[300];
    snprintf(cause, sizeof cause, "%s: %.200s", what, sqlite3_errmsg(c->db));
    tell(c, "registry.db", cause);
}

/* One finding a row; `describe` makes the cause of it. */
static void rows(check *c, const char *sql,
                 void (*describe)(sqlite3_stmt *q, char *cause, size_t size, const char *what),
                 const char *what) {
    sqlite3_stmt *q = NULL;
    char cause[400];
    int n = 0, rc = sqlite3_prepare_v2(c->db, sql, -1, &q, NULL);
    while (rc == SQLITE_OK && (rc = sqlite3_step(q)) == SQLITE_ROW) {
        rc = SQLITE_OK;
        describe(q, cause, sizeof cause, what);
        if (*cause && n++ < DS_CHECK_EACH)
            tell(c, "registry.db", cause);
    }
    if (rc != SQLITE_OK && rc != SQLITE_DONE)
        unreadable(c, what);
    sqlite3_finalize(q);
}

static const char *text_of(sqlite3_stmt *q, int col) {
    const char *s = (const char *)sqlite3_column_text(q, col);
    return s ? s : "";
}

static void page(sqlite3_stmt *q, char *cause, size_t size, const char *what) {
    (void)what;
    if (!strcmp(text_of(q, 0), "ok"))
        *cause = 0;
    else
        snprintf(cause, size, "damaged: %.200s", text_of(q, 0));
}

static void foreign_key(sqlite3_stmt *q, char *cause, size_t size, const char *what) {
    (void)what;
    snprintf(cause, size, "a row of table %.60s refers to a missing row of %.60s", text_of(q, 0),
             text_of(q, 2));
}

static void invariant(sqlite3_stmt *q, char *cause, size_t size, const char *what) {
    snprintf(cause, size, "%s: %.100s", what, text_of(q, 0));
}

int ds_check_rows(sqlite3 *db, int quick, void (*fn)(void *, const char *, const char *),
                  void *ctx) {
    check c = {db, fn, ctx, 0};
    rows(&c, quick ? "PRAGMA quick_check(5)" : "PRAGMA integrity_check(5)", page,
         "its pages cannot be read");
    if (c.found) /* what damaged pages say of the rest means nothing */
        return c.found;
    rows(&c, "PRAGMA foreign_key_check", foreign_key, "its references cannot be read");
    for (size_t i = 0; i < sizeof invariants / sizeof *invariants; i++)
        rows(&c, invariants[i].sql, invariant, invariants[i].what);
    return c.found;
}

static void first_one(void *ctx, const char *thing, const char *cause) {
    ds_error *e = ctx;
    (void)thing;
    if (!e->code)
        ds_fail(e, DS_EINTEGRITY, "registry: %s", cause);
}

int ds_registry_check(ds_registry *r, ds_error *err) {
    ds_error first = {0};
    ds_check_rows(r->db, 0, first_one, &first);
    return first.code ? ds_fail(err, first.code, "%s", first.message) : 0;
}
