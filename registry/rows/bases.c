#include "registry/rows/bases.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/log.h"
#include "registry/core/events.h"
#include "registry/rows/base_tasks.h"
#include "registry/jobs/jobs_internal.h"
#include "registry/rows/models_internal.h"
#include "registry/core/names.h"
#include "registry/core/words.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define ACTIVE MODELS_ACTIVE

/* Registering --------------------------------------------------------------------------------- */

static int check(const char *what, const char *sha256, ds_error *err) {
    if (ds_digest_valid(sha256))
        return 0;
    return ds_fail(err, DS_EINVAL, "%s: '%.80s' is not a sha256 digest", what,
                   sha256 ? sha256 : "");
}

int model_event(ds_registry *r, const char *type, const char *what, const char *name,
                const char *sha256, ds_error *err) {
    char subject[160];
    snprintf(subject, sizeof subject, "%s:%.100s", what, name);
    return ds_event_put(r, type, subject,
                        json_pack("{s:o,s:s}", "name", js_string(name), "sha256", sha256), err);
}

/* Is it new, or was it removed?  Then people are told. */
static int appears(ds_registry *r, const char *sql, const char *sha256) {
    int64_t there = 0;
    return db_int(r, &there, NULL, sql, "s", sha256) != 0;
}

int ds_feature_net_register(ds_registry *r, const ds_model_facts *f, int64_t *id, ds_error *err) {
    int rc = check("feature network", f->sha256, err);
    if (rc || (rc = db_begin(r, err)))
        return rc;
    char *report = f->report ? ds_json_canonical(f->report) : NULL;
    int new = appears(r, "SELECT 1 FROM feature_nets WHERE sha256 = ?1 AND removed_at IS NULL",
                      f->sha256);
    rc = db_run(r, err,
                "INSERT INTO feature_nets(name, path, sha256, created_at, kind, source,"
                " source_format, source_sha256, license, parameters, bytes, report)"
                " VALUES (?1, ?2, ?3, ?4, coalesce(?5, ''), ?6, ?7, ?8, ?9, ?10, ?11, ?12)"
                " ON CONFLICT (sha256) DO UPDATE SET name = ?1, path = ?2, removed_at = NULL,"
                " kind = coalesce(?5, kind), source = coalesce(?6, source),"
                " source_format = coalesce(?7, source_format),"
                " source_sha256 = coalesce(?8, source_sha256), license = coalesce(?9, license),"
                " parameters = coalesce(?10, parameters), bytes = coalesce(?11, bytes),"
                " report = coalesce(?12, report)",
                "sssisssssIIs", f->name, f->path, f->sha256, ds_now_ms(), f->kind, f->source,
                f->source_format, f->source_sha256, f->license, f->parameters, f->bytes, report);
    free(report);
    if (!rc)
        rc = db_int(r, id, err, "SELECT id FROM feature_nets WHERE sha256 = ?1", "s", f->sha256);
    if (!rc && new)
        rc = model_event(r, "feature_net.added", "feature_net", f->name, f->sha256, err);
    return db_end(r, rc, err);
}

int ds_base_register(ds_registry *r, const ds_model_facts *f, int64_t *id, ds_error *err) {
    int rc = check("base", f->sha256, err);
    if (!rc && f->vae_path)
        rc = check("VAE", f->vae_sha256, err);
    if (rc || (rc = db_begin(r, err)))
        return rc;
    int new = appears(r, "SELECT 1 FROM bases WHERE sha256 = ?1 AND removed_at IS NULL", f->sha256);
    char *text = f->config ? ds_json_canonical(f->config) : NULL,
         *report = f->report ? ds_json_canonical(f->report) : NULL;
    rc = db_run(
        r, err,
        "INSERT INTO bases(name, path, sha256, config, feature_net_id, created_at, vae_path,"
        " vae_sha256, source, source_format, source_sha256, license, parameters, bytes, report)"
        " VALUES (?1, ?2, ?3, coalesce(?4, '{}'), ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14,"
        " ?15)"
        " ON CONFLICT (sha256) DO UPDATE SET name = ?1, path = ?2, removed_at = NULL,"
        " config = coalesce(?4, config), feature_net_id = coalesce(?5, feature_net_id),"
        " vae_path = coalesce(?7, vae_path), vae_sha256 = coalesce(?8, vae_sha256),"
        " source = coalesce(?9, source), source_format = coalesce(?10, source_format),"
        " source_sha256 = coalesce(?11, source_sha256), license = coalesce(?12, license),"
        " parameters = coalesce(?13, parameters), bytes = coalesce(?14, bytes),"
        " report = coalesce(?15, report)",
        "ssssIissssssIIs", f->name, f->path, f->sha256, text, f->feature_net, ds_now_ms(),
        f->vae_path, f->vae_path ? f->vae_sha256 : NULL, f->source, f->source_format,
        f->source_sha256, f->license, f->parameters, f->bytes, report);
    free(text);
    free(report);
    if (!rc)
        rc = db_int(r, id, err, "SELECT id FROM bases WHERE sha256 = ?1", "s", f->sha256);
    if (!rc && new)
        rc = model_event(r, "base.added", "base", f->name, f->sha256, err);
    return db_end(r, rc, err);
}

int ds_feature_net_put(ds_registry *r, const char *name, const char *path, const char *sha256,
                       int64_t *id, ds_error *err) {
    ds_model_facts f = {.name = name, .path = path, .sha256 = sha256};
    return ds_feature_net_register(r, &f, id, err);
}

int ds_base_put(ds_registry *r, const char *name, const char *path, const char *sha256,
                const json_t *config, int64_t feature_net, int64_t *id, ds_error *err) {
    ds_model_facts f = {
        .name = name, .path = path, .sha256 = sha256, .config = config, .feature_net = feature_net};
    return ds_base_register(r, &f, id, err);
}

/* Finding ------------------------------------------------------------------------------------- */

/* "sha256:<8 to 64 digits>" or 64 digits: the digits; else NULL. */
static const char *digits_of(const char *ref) {
    if (!strncmp(ref, "sha256:", 7))
        return ref + 7;
    return ds_digest_valid(ref) ? ref : NULL;
}

static int check_digits(const char *digits, ds_error *err) {
    size_t n = strlen(digits);
    if (n < 8 || n > 64 || strspn(digits, "0123456789abcdef") != n)
        return ds_fail(err, DS_EINVAL,
                       "reference 'sha256:%.70s' needs 8 to 64 lower-case hex digits", digits);
    return 0;
}

int model_find(ds_registry *r, const char *what, const char *ref, const char *by_name,
               const char *by_digest, int64_t *id, ds_error *err) {
    const char *digits = digits_of(ref);
    int rc = digits ? check_digits(digits, err) : ds_name_check(what, ref, err);
    if (rc)
        return rc;
    int hits = 0;
    sqlite3_stmt *q = db_query(r, err, digits ? by_digest : by_name, "s", digits ? digits : ref);
    while ((rc = db_step(r, q, err)) > 0)
        if (hits++ == 0)
            *id = sqlite3_column_int64(q, 0);
    if (rc)
        return rc;
    if (digits && hits > 1)
        return ds_fail(err, DS_EINVAL, "%d %ss have a digest beginning with '%s'; give more digits",
                       hits, what, digits);
    return hits ? 0 : ds_fail(err, DS_ENOTFOUND, "%s '%.80s' does not exist", what, ref);
}

int ds_base_resolve(ds_registry *r, const char *ref, int64_t *id, ds_error *err) {
    if (!ref || !strcmp(ref, "default")) {
        int rc = db_int(r, id, err, "SELECT id FROM bases WHERE id = " ACTIVE, "");
        return rc == DS_ENOTFOUND
                   ? ds_fail(err, rc, "there is no default base yet: dsctl set-default-base NAME")
                   : rc;
    }
    return model_find(r, "base", ref,
                      "SELECT id FROM bases WHERE name = ?1 COLLATE NOCASE AND removed_at IS NULL"
                      " ORDER BY id = " ACTIVE " DESC, id DESC",
                      "SELECT id FROM bases WHERE sha256 >= ?1 AND sha256 < ?1 || 'g' LIMIT 3", id,
                      err);
}

static int name_free(ds_registry *r, const char *what, const char *name, const char *sha256,
                     const char *sql, ds_error *err) {
    char have[DS_HEX_SIZE];
    int rc = ds_name_check(what, name, err);
    if (rc)
        return rc;
    if (!strcasecmp(name, "default") || !strcasecmp(name, "bundled") || ds_digest_valid(name))
        return ds_fail(err, DS_EINVAL, "no %s can be called '%s'; choose another --name", what,
                       name);
    sqlite3_stmt *q = db_query(r, err, sql, "ss", name, sha256);
    if ((rc = db_step(r, q, err)) <= 0)
        return rc;
    db_text(have, sizeof have, q, 0);
    db_reset(q);
    return ds_fail(err, DS_ECONFLICT,
                   "%s '%s' is already sha256:%s; choose another --name, or remove that one first",
                   what, name, have);
}

int ds_base_name_free(ds_registry *r, const char *name, const char *sha256, ds_error *err) {
    return name_free(r, "base", name, sha256,
                     "SELECT sha256 FROM bases WHERE name = ?1 COLLATE NOCASE AND removed_at IS"
                     " NULL AND sha256 IS NOT ?2",
                     err);
}

int ds_feature_net_name_free(ds_registry *r, const char *name, const char *sha256, ds_error *err) {
    return name_free(r, "feature network", name, sha256,
                     "SELECT sha256 FROM feature_nets WHERE name = ?1 COLLATE NOCASE AND"
                     " removed_at IS NULL AND sha256 IS NOT ?2",
                     err);
}

int ds_model_import_free(ds_registry *r, int net, const char *name, const char *source,
                         ds_error *err) {
    const char *what = net ? "feature network" : "base";
    int64_t job = 0;
    int rc = name_free(r, what, name, source,
                       net ? "SELECT sha256 FROM feature_nets WHERE name = ?1 COLLATE NOCASE AND"
                             " removed_at IS NULL AND source IS NOT ?2 AND path IS NOT ?2"
                           : "SELECT sha256 FROM bases WHERE name = ?1 COLLATE NOCASE AND"
                             " removed_at IS NULL AND source IS NOT ?2 AND path IS NOT ?2",
                       err);
    if (rc)
        return rc;
    rc = db_int(r, &job, err,
                "SELECT id FROM jobs WHERE kind = " SQL_IMPORT " AND state IN " SQL_LIVE " AND"
                " name = ?1 COLLATE NOCASE AND json_extract(payload, '$.what') = ?3 AND"
                " json_extract(payload, '$.source') IS NOT ?2 LIMIT 1",
                "sss", name, source, net ? "feature_net" : "base");
    if (rc == DS_ENOTFOUND)
        return 0;
    return rc ? rc
              : ds_fail(err, DS_ECONFLICT,
                        "job %lld is importing another %s as '%s'; choose another --name",
                        (long long)job, what, name);
}

/* The default --------------------------------------------------------------------------------- */

int ds_base_activate(ds_registry *r, int64_t id, ds_error *err) {
    int rc = db_begin(r, err);
    if (rc)
        return rc;
    rc = db_run(r, err,
                "INSERT INTO meta(key, value) SELECT 'active_base', CAST(id AS TEXT) FROM bases"
                " WHERE id = ?1 AND removed_at IS NULL"
                " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                "i", id);
    if (!rc && db_changes(r) == 0)
        rc = ds_fail(err, DS_ENOTFOUND, "base %lld does not exist", (long long)id);
    r->settled_seq = -1; /* other work may follow from another base */
    return db_end(r, rc, err);
}

int ds_base_chosen(ds_registry *r) {
    int64_t chosen = 0;
    return !db_int(r, &chosen, NULL, "SELECT 1 FROM meta WHERE key = 'chosen_base'", "");
}

int ds_base_choose(ds_registry *r, int64_t id, ds_error *err) {
    json_t *base = NULL;
    int rc = db_begin(r, err);
    if (rc)
        return rc;
    rc = ds_base_activate(r, id, err);
    if (!rc)
        rc = db_run(r, err,
                    "INSERT INTO meta(key, value) VALUES ('chosen_base', CAST(?1 AS TEXT))"
                    " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                    "i", id);
    if (!rc)
        rc = jobs_supersede_base(r, err);
    if (!rc && !(rc = ds_base_get(r, id, &base, err)))
        rc = model_event(r, "base.default", "base", ds_json_string(base, "name", ""),
                         ds_json_string(base, "sha256", ""), err);
    json_decref(base);
    return db_end(r, rc, err);
}

/* Objects ------------------------------------------------------------------------------------- */

#define BASE_SELECT                                                                                \
    "SELECT b.id, b.name, b.path, b.sha256, b.config, f.id, f.name, f.path, f.sha256, b.vae_path," \
    " b.vae_sha256, b.source, b.source_format, b.source_sha256, b.license, b.parameters, b.bytes," \
    " coalesce(b.id = " ACTIVE ", 0), b.created_at, b.removed_at IS NOT NULL, b.report"            \
    " FROM bases b LEFT JOIN feature_nets f ON f.id = b.feature_net_id "

static json_t *file_object(sqlite3_stmt *q, int path_col, int sha_col) {
    if (sqlite3_column_type(q, path_col) == SQLITE_NULL)
        return json_null();
    json_t *o = json_object();
    js_text(o, "path", q, path_col);
    js_text(o, "sha256", q, sha_col);
    return o;
}

/* A base that works on latents cannot do anything without its VAE. */
static void add_missing(json_t *o) {
    const json_t *pixel = json_object_get(json_object_get(o, "config"), "pixel");
    int latent = json_is_integer(pixel) && json_integer_value(pixel) == 0;
    json_t *missing = json_array();
    if (latent && json_is_null(json_object_get(o, "vae")))
        json_array_append_new(missing, json_string("vae"));
    json_object_set_new(o, "latent", json_boolean(latent));
    json_object_set_new(o, "missing", missing);
}

/* What it predicts, as its configuration says (docs/formats.md). */
static void add_objective(json_t *o) {
    const char *flow = ds_json_string(json_object_get(o, "config"), "flow", "none");
    int velocity = strcmp(flow, "none") != 0;
    json_object_set_new(o, "predicts", json_string(velocity ? "velocity" : "noise"));
    json_object_set_new(o, "flow", velocity ? json_string(flow) : json_null());
}

int ds_base_velocity(const json_t *base) {
    return !strcmp(ds_json_string(base, "predicts", ""), "velocity");
}

static json_t *base_row(sqlite3_stmt *q) {
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
    json_object_set_new(o, "vae", file_object(q, 9, 10));
    add_missing(o);
    add_objective(o);
    js_text(o, "source", q, 11);
    js_text(o, "source_format", q, 12);
    js_text(o, "source_sha256", q, 13);
    js_text(o, "license", q, 14);
    js_int(o, "parameters", q, 15);
    js_int(o, "bytes", q, 16);
    json_object_set_new(o, "default", json_boolean(sqlite3_column_int(q, 17)));
    json_object_set_new(o, "removed", json_boolean(sqlite3_column_int(q, 19)));
    js_time(o, "created_at", q, 18);
    return o;
}

int ds_base_get(ds_registry *r, int64_t id, json_t **out, ds_error *err) {
    sqlite3_stmt *q =
        db_query(r, err, BASE_SELECT "WHERE b.id = coalesce(?1, " ACTIVE ")", "I", id);
    int rc = db_step(r, q, err);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return id ? ds_fail(err, DS_ENOTFOUND, "base %lld does not exist", (long long)id)
                  : ds_fail(err, DS_ENOTFOUND, "no base is active; register one first");
    *out = base_row(q);
    js_doc(*out, "report", q, 20);
    db_reset(q);
    return 0;
}

int ds_base_usage(ds_registry *r, json_t *base, ds_error *err) {
    sqlite3_stmt *q =
        db_query(r, err,
                 "SELECT (SELECT count(*) FROM datasets d WHERE d.state <> 'removed' AND"
                 " coalesce(d.base_id, " ACTIVE ") = ?1), coalesce((SELECT value FROM counters"
                 " WHERE key = 'base.' || ?1), 0)",
                 "i", ds_json_int(base, "id", 0));
    int rc = db_step(r, q, err);
    if (rc < 0)
        return rc;
    js_int(base, "datasets", q, 0);
    js_int(base, "adapters", q, 1);
    db_reset(q);
    return 0;
}

int ds_base_list(ds_registry *r, ds_page page, json_t **out, ds_error *err) {
    int64_t before;
    int limit = page_limit(page), rc = page_cursor(page, &before, err);
    if (rc)
        return rc;
    sqlite3_stmt *q = db_query(r, err,
                               BASE_SELECT "WHERE b.id < ?1 AND b.removed_at IS NULL"
                                           " ORDER BY b.id DESC LIMIT ?2",
                               "ii", before, (int64_t)limit + 1);
    json_t *list = NULL, *base;
    size_t i;
    rc = page_collect(r, q, page, 0, base_row, &list, err);
    json_array_foreach(json_object_get(list, "items"), i, base) {
        if ((rc = ds_base_usage(r, base, err)) || (rc = ds_base_task_show(r, base, err)))
            break;
    }
    if (rc)
        json_decref(list);
    else
        *out = list;
    return rc;
}

int ds_model_file_known(ds_registry *r, const char *path) {
    int64_t known = 0;
    int rc = db_int(r, &known, NULL,
                    "SELECT 1 WHERE EXISTS (SELECT 1 FROM bases WHERE (path = ?1 OR vae_path = ?1)"
                    " AND removed_at IS NULL) OR EXISTS (SELECT 1 FROM feature_nets WHERE path ="
                    " ?1 AND removed_at IS NULL)",
                    "s", path);
    return rc != DS_ENOTFOUND; /* what cannot be asked is kept */
}

/* Removing ------------------------------------------------------------------------------------ */

/* The first is that of the default. */
static const struct model_use base_uses[] = {
    {"it is the default base; choose another one with dsctl set-default-base",
     "SELECT 1, '' FROM bases WHERE id = ?1 AND id = " ACTIVE, 1},
    {"datasets are trained on it (dsctl add-dataset DIR --base OTHER, or remove-dataset)",
     "SELECT count(*), min(name) FROM datasets WHERE base_id = ?1 AND state <> 'removed'", 0},
    {"adapters were made for it",
     "SELECT count(*), min(a.name || '@v' || av.version) FROM adapter_versions av"
     " JOIN adapters a ON a.id = av.adapter_id WHERE av.base_id = ?1 AND av.deleted_at IS"
     " NULL AND av.status = 'published'",
     0},
    {"jobs work with it; wait for them or cancel them",
     "SELECT count(*), min('job ' || id) FROM jobs WHERE state IN " SQL_LIVE " AND"
     " (base_id = ?1 OR instr(payload, (SELECT sha256 FROM bases WHERE id = ?1)) > 0)",
     0}};
enum { BASE_USES = sizeof base_uses / sizeof *base_uses };

int model_needed_by(ds_registry *r, int64_t id, const struct model_use *uses, size_t count,
                    char out[400], ds_error *err) {
    out[0] = 0;
    for (size_t i = 0; i < count && !*out; i++) {
        sqlite3_stmt *q = db_query(r, err, uses[i].sql, "i", id);
        int rc = db_step(r, q, err);
        if (rc < 0)
            return rc;
        int64_t n = rc ? sqlite3_column_int64(q, 0) : 0;
        const char *names = rc ? (const char *)sqlite3_column_text(q, 1) : "";
        names = names ? names : "";
        int64_t named = 1; /* names have no commas */
        for (const char *p = names; (p = strchr(p, ',')); p++)
            named++;
        const char *more = strlen(names) > 160 || named < n ? ", ..." : "";
        if (n && uses[i].plain)
            snprintf(out, 400, "%s", uses[i].what);
        else if (n)
            snprintf(out, 400, "%lld %s: %.160s%s", (long long)n, uses[i].what, names, more);
        if (rc)
            db_reset(q);
    }
    return 0;
}

static int mark_removed(ds_registry *r, const json_t *base, ds_error *err) {
    int rc = db_run(r, err, "UPDATE bases SET removed_at = ?2 WHERE id = ?1", "ii",
                    ds_json_int(base, "id", 0), ds_now_ms());
    return rc ? rc
              : model_event(r, "base.removed", "base", ds_json_string(base, "name", ""),
                            ds_json_string(base, "sha256", ""), err);
}

int base_give_way(ds_registry *r, const ds_model_facts *f, int64_t *id, ds_error *err) {
    json_t *base = NULL;
    char why[400];
    *id = 0;
    int rc = f->vae_path
                 ? db_int(r, id, err,
                          "SELECT id FROM bases WHERE name = ?1 COLLATE NOCASE AND removed_at IS"
                          " NULL AND sha256 IS NOT ?2 AND source_sha256 = ?3 AND vae_path IS NULL"
                          " ORDER BY id DESC LIMIT 1",
                          "sss", f->name, f->sha256, f->source_sha256)
                 : DS_ENOTFOUND;
    if (rc == DS_ENOTFOUND)
        return 0;
    if (!rc)
        rc = model_needed_by(r, *id, base_uses + 1, BASE_USES - 1, why, err);
    if (!rc && *why)
        *id = 0;
    if (rc || !*id || (rc = ds_base_get(r, *id, &base, err)))
        return rc;
    rc = mark_removed(r, base, err);
    json_decref(base);
    return rc;
}

int ds_base_remove(ds_registry *r, int64_t id, json_t **out, ds_error *err) {
    json_t *base = NULL;
    char why[400];
    int rc = ds_base_get(r, id, &base, err);
    if (rc || (rc = db_begin(r, err))) {
        json_decref(base);
        return rc;
    }
    rc = base_task_unqueue(r, id, err);
    if (!rc)
        rc = model_needed_by(r, id, base_uses, BASE_USES, why, err);
    if (!rc && *why)
        rc = ds_fail(err, DS_ECONFLICT, "base '%s' is in use: %s", ds_json_string(base, "name", ""),
                     why);
    if (!rc)
        rc = mark_removed(r, base, err);
    rc = db_end(r, rc, err);
    if (rc || !out)
        json_decref(base);
    else
        *out = base;
    return rc;
}
