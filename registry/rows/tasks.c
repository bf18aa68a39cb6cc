#include "registry/rows/tasks.h"
#include "base/json.h"
#include "base/log.h"
#include "registry/core/db.h"
#include "registry/rows/refs.h"
#include "registry/store/store.h"

#include <limits.h>
#include <string.h>

int task_blob(ds_registry *r, json_t *o, const char *key, const char *sha256, ds_error *err) {
    char path[PATH_MAX];
    if (!sha256) {
        json_object_set_new(o, key, json_null());
        return 0;
    }
    int rc = ds_store_path(r->store, sha256, path, err);
    if (!rc)
        json_object_set_new(o, key,
                            json_pack("{s:o,s:s}", "path", js_string(path), "sha256", sha256));
    return rc;
}

int task_nets(ds_registry *r, json_t *tasks, ds_error *err) {
    json_t *known = json_object(), *task, *row;
    size_t i;
    int rc;
    sqlite3_stmt *q = db_query(
        r, err, "SELECT sha256, name, path FROM feature_nets WHERE removed_at IS NULL", "");
    while ((rc = db_step(r, q, err)) > 0) {
        row = json_object();
        js_text(row, "name", q, 1);
        js_text(row, "path", q, 2);
        json_object_set_new(known, (const char *)sqlite3_column_text(q, 0), row);
    }
    json_array_foreach(tasks, i, task) {
        json_t *net = json_object_get(task, "feature_net");
        if (net)
            json_object_update(net, json_object_get(known, ds_json_string(net, "sha256", "")));
    }
    json_decref(known);
    return rc;
}

int task_probes(ds_registry *r, int64_t id, json_t *o, ds_error *err) {
    sqlite3_stmt *q = db_query(r, err,
                               "SELECT device_class, sha256, n, seed FROM probes WHERE"
                               " adapter_version_id = ?1 ORDER BY created_at",
                               "i", id);
    json_t *list = json_array();
    int rc;
    while ((rc = db_step(r, q, err)) > 0) {
        json_t *p = json_object();
        js_text(p, "device_class", q, 0);
        js_text(p, "sha256", q, 1);
        js_int(p, "n", q, 2);
        js_int(p, "seed", q, 3);
        json_array_append_new(list, p);
    }
    json_object_set_new(o, "probes", list);
    return rc;
}

/* Every device class that its samples are known of: a pass of level 2 adds one. */
static int add_probes(ds_registry *r, json_t *tasks, ds_error *err) {
    size_t i;
    json_t *task;
    json_array_foreach(tasks, i, task) {
        int rc = task_probes(r, ds_json_int(task, "id", 0), task, err);
        json_object_del(task, "id");
        if (rc)
            return rc;
    }
    return 0;
}

static int old_task(ds_registry *r, sqlite3_stmt *q, json_t **out, ds_error *err) {
    json_t *config = NULL, *o = json_object(), *probe = json_null();
    js_text(o, "name", q, 0);
    json_object_set_new(o, "ref",
                        json_sprintf("%s@v%lld", (const char *)sqlite3_column_text(q, 0),
                                     (long long)sqlite3_column_int64(q, 1)));
    int rc = task_blob(r, o, "adapter", (const char *)sqlite3_column_text(q, 2), err);
    if (!rc)
        rc = task_blob(r, o, "reference", (const char *)sqlite3_column_text(q, 3), err);
    js_num(o, "fd", q, 4);
    js_num(o, "kid", q, 5);
    if (sqlite3_column_type(q, 8) != SQLITE_NULL) {
        probe = json_object();
        js_text(probe, "device_class", q, 7);
        js_text(probe, "sha256", q, 8);
        js_int(probe, "n", q, 9);
        js_int(probe, "seed", q, 10);
    }
    json_object_set_new(o, "probe", probe);
    js_text(o, "base_sha256", q, 11);
    js_int(o, "id", q, 12);
    if (!rc)
        rc = ds_json_parse("config", (const char *)sqlite3_column_text(q, 6),
                           (size_t)sqlite3_column_bytes(q, 6), &config, err);
    json_t *net = json_object_get(config, "feature_net"), *sha = json_object_get(net, "sha256");
    json_object_set(o, "feature_net_sha256", sha ? sha : json_null());
    if (sha)
        json_object_set_new(o, "feature_net",
                            json_pack("{s:s, s:n, s:O}", "name", ds_json_string(net, "name", "?"),
                                      "path", "sha256", sha));
    json_t *sample = json_object_get(config, "sample"), *ev = json_object_get(config, "evaluate");
    json_object_set(o, "sample", sample ? sample : json_null());
    json_object_set(o, "evaluate", ev ? ev : json_null());
    json_decref(config);
    *out = o;
    return rc;
}

int ds_old_tasks(ds_registry *r, int64_t base_id, const char *except_name, const char *only_ref,
                 json_t **out, ds_error *err) {
    ds_adapter_ref only = {0};
    int rc = only_ref ? ds_adapter_resolve(r, only_ref, &only, err) : 0;
    if (rc)
        return rc;
    /* `probe` is that of publication, which is the oldest.  A name may have versions on several
     * bases: the task on this base is @latest if that is on it, else its newest one. */
    sqlite3_stmt *q = db_query(
        r, err,
        "SELECT a.name, av.version, av.digest, av.reference_digest, av.fd, av.kid, av.config,"
        " p.device_class, p.sha256, p.n, p.seed, s.sha256, av.id FROM adapters a"
        " JOIN adapter_versions av ON av.adapter_id = a.id JOIN bases s ON s.id = av.base_id"
        " LEFT JOIN probes p ON p.adapter_version_id = av.id AND p.device_class = (SELECT"
        " x.device_class FROM probes x WHERE x.adapter_version_id = av.id"
        " ORDER BY x.created_at, x.device_class LIMIT 1)"
        " WHERE av.deleted_at IS NULL AND CASE WHEN ?3 IS NOT NULL THEN av.id = ?3"
        "  ELSE av.base_id = ?1 AND a.name IS NOT ?2 AND av.id = (SELECT x.id FROM adapter_versions"
        "  x LEFT JOIN aliases l ON l.version_id = x.id AND l.alias = 'latest'"
        "  WHERE x.adapter_id = a.id AND x.base_id = ?1 AND x.deleted_at IS NULL"
        "  AND x.status = 'published' ORDER BY l.alias IS NULL, x.version DESC LIMIT 1)"
        " END ORDER BY a.name",
        "isI", base_id, except_name, only.id);
    json_t *items = json_array(), *o;
    while ((rc = db_step(r, q, err)) > 0) {
        rc = old_task(r, q, &o, err);
        json_array_append_new(items, o);
        if (rc) {
            db_reset(q);
            break;
        }
    }
    if (!rc)
        rc = add_probes(r, items, err);
    if (!rc)
        rc = task_nets(r, items, err);
    if (rc) {
        json_decref(items);
        return rc;
    }
    *out = items;
    return 0;
}
