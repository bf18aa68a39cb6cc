#include "registry/core/events.h"
#include "base/json.h"
#include "base/log.h"
#include "base/suggest.h"
#include "registry/core/db.h"

#include <stdlib.h>
#include <string.h>

/* clang-format off */
const char *const ds_event_types[] = {
    "adapter.deleted", "adapter.published", "adapter.rejected", "alias.removed", "alias.set",
    "base.added", "base.default", "base.recorded", "base.removed",
    "blob.damaged",
    "daemon.started", "daemon.stopped",
    "dataset.added", "dataset.changed", "dataset.failed", "dataset.missing", "dataset.paused",
    "dataset.publish_worse", "dataset.reachable", "dataset.removed", "dataset.resolved",
    "dataset.resumed", "dataset.scanned", "dataset.unchanged", "dataset.unreachable",
    "feature_net.added", "feature_net.default", "feature_net.removed",
    "gate.passed", "gate.refused",
    "job.cancelled", "job.done", "job.failed", "job.folder_foreign",
    "job.progress", "job.queued", "job.rejected",
    "job.retrying", "job.started", "job.waiting",
    NULL};
/* clang-format on */

int ds_event_type_check(ds_registry *r, const char *type, ds_error *err) {
    size_t n = strlen(type), count = 0;
    int64_t seq;
    for (; ds_event_types[count]; count++)
        if (!strcmp(type, ds_event_types[count]) ||
            (n && type[n - 1] == '.' && !strncmp(type, ds_event_types[count], n)))
            return 0;
    int rc = db_int(r, &seq, err, "SELECT seq FROM events WHERE type = ?1 LIMIT 1", "s", type);
    if (rc != DS_ENOTFOUND)
        return rc;
    const char *near = ds_suggest(type, ds_event_types, count);
    return ds_fail(err, DS_EINVAL, "there are no events of type '%.60s'%s%s%s", type,
                   near ? ": did you mean '" : " (docs/api.md lists them)", near ? near : "",
                   near ? "'?" : "");
}

int ds_event_put(ds_registry *r, const char *type, const char *subject, json_t *payload,
                 ds_error *err) {
    char *text = payload ? ds_json_canonical(payload) : NULL;
    int rc =
        db_run(r, err, "INSERT INTO events(at, type, subject, payload) VALUES (?1, ?2, ?3, ?4)",
               "isss", ds_now_ms(), type, subject, text ? text : "{}");
    free(text);
    json_decref(payload);
    return rc;
}

int ds_event_add(ds_registry *r, const char *type, const char *subject, const json_t *payload,
                 ds_error *err) {
    int rc = db_begin(r, err);
    if (rc)
        return rc;
    rc = ds_event_put(r, type, subject, payload ? json_deep_copy(payload) : NULL, err);
    return db_end(r, rc, err);
}

int64_t ds_event_last_seq(ds_registry *r) { return db_last_event(r); }

int ds_events_list(ds_registry *r, int64_t since, const char *type, int limit, json_t **out,
                   ds_error *err) {
    ds_page page = {.limit = limit};
    int64_t n = page_limit(page);
    size_t len = type ? strlen(type) : 0;
    sqlite3_stmt *q;
    if (len && type[len - 1] == '.') /* '/' is the character after '.': a range instead of LIKE */
        q = db_query(r, err,
                     "SELECT seq, at, type, subject, payload FROM events WHERE seq > ?1"
                     " AND type >= ?2 AND type < substr(?2, 1, length(?2) - 1) || '/'"
                     " ORDER BY seq LIMIT ?3",
                     "isi", since, type, n);
    else if (len)
        q = db_query(
            r, err,
            "SELECT seq, at, type, subject, payload FROM events WHERE seq > ?1 AND type = ?2"
            " ORDER BY seq LIMIT ?3",
            "isi", since, type, n);
    else
        q = db_query(r, err,
                     "SELECT seq, at, type, subject, payload FROM events WHERE seq > ?1"
                     " ORDER BY seq LIMIT ?2",
                     "ii", since, n);
    json_t *items = json_array();
    int rc;
    while ((rc = db_step(r, q, err)) > 0) {
        json_t *e = json_object();
        js_int(e, "seq", q, 0);
        js_time(e, "at", q, 1);
        js_text(e, "type", q, 2);
        js_text(e, "subject", q, 3);
        js_doc(e, "payload", q, 4);
        json_array_append_new(items, e);
    }
    if (rc) {
        json_decref(items);
        return rc;
    }
    *out = items;
    return 0;
}
