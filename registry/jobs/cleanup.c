#include "registry/jobs/cleanup.h"
#include "registry/core/db.h"
#include "registry/core/words.h"

static int collect(ds_registry *r, json_t *o, const char *key, const char *sql, ds_error *err) {
    json_t *set = json_object();
    json_object_set_new(o, key, set);
    sqlite3_stmt *q = db_query(r, err, sql, "");
    int rc;
    while ((rc = db_step(r, q, err)) > 0)
        json_object_set_new(set, (const char *)sqlite3_column_text(q, 0), json_true());
    return rc;
}

int ds_cleanup_facts(ds_registry *r, json_t **out, ds_error *err) {
    json_t *o = json_object();
    int64_t importing = 0;
    int rc = collect(r, o, "manifests",
                     "SELECT v.manifest_digest FROM datasets d JOIN dataset_versions v"
                     " ON v.id = d.version_id WHERE d.state <> 'removed'"
                     " UNION SELECT v.manifest_digest FROM jobs j JOIN dataset_versions v"
                     " ON v.id = j.dataset_version_id WHERE j.state IN " SQL_LIVE,
                     err);
    if (!rc)
        rc = collect(r, o, "bases", "SELECT sha256 FROM bases WHERE removed_at IS NULL", err);
    if (!rc)
        rc = collect(r, o, "vaes",
                     "SELECT vae_sha256 FROM bases WHERE removed_at IS NULL AND vae_sha256 IS NOT"
                     " NULL",
                     err);
    if (!rc)
        rc = collect(r, o, "datasets",
                     "SELECT CAST(id AS TEXT) FROM datasets WHERE state <> 'removed'", err);
    if (!rc)
        rc = db_int(
            r, &importing, err,
            "SELECT count(*) FROM jobs WHERE kind = " SQL_IMPORT " AND state IN " SQL_LIVE "", "");
    json_object_set_new(o, "importing", json_boolean(importing > 0));
    if (rc) {
        json_decref(o);
        return rc;
    }
    *out = o;
    return 0;
}
