#include "registry/bases.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/log.h"
#include "registry/db.h"

#include <stdlib.h>

static int check(const char *what, const char *sha256, ds_error *err) {
    if (ds_digest_valid(sha256))
        return 0;
    return ds_fail(err, DS_EINVAL, "%s: '%.80s' is not a sha256 digest", what,
                   sha256 ? sha256 : "");
}

int ds_feature_net_put(ds_registry *r, const char *name, const char *path, const char *sha256,
                       int64_t *id, ds_error *err) {
    int rc = check("feature network", sha256, err);
    if (rc || (rc = db_begin(r, err)))
        return rc;
    rc = db_run(r, err,
                "INSERT INTO feature_nets(name, path, sha256, created_at) VALUES (?1, ?2, ?3, ?4)"
                " ON CONFLICT (sha256) DO UPDATE SET name = ?1, path = ?2",
                "sssi", name, path, sha256, ds_now_ms());
    if (!rc)
        rc = db_int(r, id, err, "SELECT id FROM feature_nets WHERE sha256 = ?1", "s", sha256);
    return db_end(r, rc, err);
}

int ds_base_put(ds_registry *r, const char *name, const char *path, const char *sha256,
                const json_t *config, int64_t feature_net, int64_t *id, ds_error *err) {
    int rc = check("base", sha256, err);
    if (rc || (rc = db_begin(r, err)))
        return rc;
    char *text = config ? ds_json_canonical(config) : NULL;
    rc =
        db_run(r, err,
               "INSERT INTO bases(name, path, sha256, config, feature_net_id, created_at)"
               " VALUES (?1, ?2, ?3, coalesce(?4, '{}'), ?5, ?6) ON CONFLICT (sha256) DO UPDATE SET"
               " name = ?1, path = ?2, config = coalesce(?4, config),"
               " feature_net_id = coalesce(?5, feature_net_id)",
               "ssssIi", name, path, sha256, text, feature_net, ds_now_ms());
    free(text);
    if (!rc)
        rc = db_int(r, id, err, "SELECT id FROM bases WHERE sha256 = ?1", "s", sha256);
    return db_end(r, rc, err);
}

int ds_base_activate(ds_registry *r, int64_t id, ds_error *err) {
    int rc = db_begin(r, err);
    if (rc)
        return rc;
    rc = db_run(r, err,
                "INSERT INTO meta(key, value) SELECT 'active_base', CAST(id AS TEXT) FROM bases"
                " WHERE id = ?1 ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                "i", id);
    if (!rc && db_changes(r) == 0)
        rc = ds_fail(err, DS_ENOTFOUND, "base %lld does not exist", (long long)id);
    r->settled_seq = -1; /* other work may follow from another base */
    return db_end(r, rc, err);
}

int ds_base_get(ds_registry *r, int64_t id, json_t **out, ds_error *err) {
    sqlite3_stmt *q = db_query(
        r, err,
        "SELECT b.id, b.name, b.path, b.sha256, b.config, f.id, f.name, f.path, f.sha256"
        " FROM bases b LEFT JOIN feature_nets f ON f.id = b.feature_net_id WHERE b.id ="
        " coalesce(?1, (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'active_base'))",
        "I", id);
    int rc = db_step(r, q, err);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return id ? ds_fail(err, DS_ENOTFOUND, "base %lld does not exist", (long long)id)
                  : ds_fail(err, DS_ENOTFOUND, "no base is active; register one first");
    json_t *o = json_object(), *f = json_null();
    js_int(o, "id", q, 0);
    js_text(o, "name", q, 1);
    js_text(o, "path", q, 2);
    js_text(o, "sha256", q, 3);
    js_doc(o, "config", q, 4);
    if (sqlite3_column_type(q, 5) != SQLITE_NULL) {
        f = json_object();
        js_int(f, "id", q, 5);
        js_text(f, "name", q, 6);
        js_text(f, "path", q, 7);
        js_text(f, "sha256", q, 8);
    }
    json_object_set_new(o, "feature_net", f);
    db_reset(q);
    *out = o;
    return 0;
}
