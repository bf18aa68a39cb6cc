#include "registry/rows/feature_nets.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "registry/rows/models_internal.h"
#include "registry/core/words.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FID_KIND "inception-fid"
#define FID_MODES "pytorch-fid, torch-fidelity and clean"

static const char *const fid_modes[] = {"pytorch-fid", "torch-fidelity", "clean"};
enum { FID_MODE_COUNT = sizeof fid_modes / sizeof *fid_modes };

static int is_fid_mode(const char *word) {
    for (int i = 0; i < FID_MODE_COUNT; i++)
        if (!strcmp(word, fid_modes[i]))
            return 1;
    return 0;
}

/* Finding ------------------------------------------------------------------------------------- */

static int find(ds_registry *r, const char *ref, int64_t *id, ds_error *err) {
    return model_find(r, "feature network", ref,
                      "SELECT id FROM feature_nets WHERE name = ?1 COLLATE NOCASE AND removed_at IS"
                      " NULL ORDER BY id DESC",
                      "SELECT id FROM feature_nets WHERE sha256 >= ?1 AND sha256 < ?1 || 'g'"
                      " LIMIT 3",
                      id, err);
}

/* "fid:clean" -> "fid", "clean"; "sha256:ab..." has no mode unless another colon follows. */
static int split(const char *words, char ref[200], char mode[40], ds_error *err) {
    const char *from = !strncmp(words, "sha256:", 7) ? words + 7 : words,
               *colon = strchr(from, ':');
    size_t n = colon ? (size_t)(colon - words) : strlen(words);
    if (n >= 200)
        return ds_fail(err, DS_EINVAL, "feature network '%.40s...' is too long a name", words);
    memcpy(ref, words, n);
    ref[n] = 0;
    snprintf(mode, 40, "%s", colon ? colon + 1 : "");
    return 0;
}

static int kind_of(ds_registry *r, int64_t id, int *fid, int *removed, ds_error *err) {
    sqlite3_stmt *q = db_query(r, err,
                               "SELECT kind = '" FID_KIND
                               "', removed_at IS NOT NULL FROM feature_nets WHERE id = ?1",
                               "i", id);
    int rc = db_step(r, q, err);
    if (rc < 0)
        return rc;
    *fid = rc && sqlite3_column_int(q, 0);
    *removed = !rc || sqlite3_column_int(q, 1);
    if (rc)
        db_reset(q);
    return 0;
}

int ds_feature_choice_resolve(ds_registry *r, const char *words, ds_feature_choice *out,
                              ds_error *err) {
    char ref[200], mode[40];
    int fid = 0, removed = 0;
    *out = (ds_feature_choice){.mode = "bundled"};
    if (!strcmp(words, "bundled"))
        return 0;
    if (!strcmp(words, "default")) {
        out->follow = 1;
        return 0;
    }
    int rc = split(words, ref, mode, err);
    if (!rc && *mode && (!strcmp(ref, "bundled") || !strcmp(ref, "default")))
        return ds_fail(err, DS_EINVAL, "'%s' has a mode already: give it without ':%s'", ref, mode);
    if (!rc)
        rc = find(r, ref, &out->id, err);
    if (rc == DS_ENOTFOUND)
        return ds_fail(err, rc,
                       "feature network '%.80s' does not exist; see dsctl list-feature-nets, or "
                       "bring it in with dsctl add-feature-net FILE",
                       ref);
    if (!rc)
        rc = kind_of(r, out->id, &fid, &removed, err);
    if (rc)
        return rc;
    if (removed)
        return ds_fail(err, DS_ENOTFOUND,
                       "feature network '%.80s' was removed; dsctl add-feature-net FILE brings it "
                       "back",
                       ref);
    if (*mode && !(fid ? is_fid_mode(mode) : !strcmp(mode, "bundled")))
        return ds_fail(err, DS_EINVAL, "feature network '%.80s' has no mode '%s'; there %s %s", ref,
                       mode, fid ? "are" : "is", fid ? FID_MODES : "bundled");
    snprintf(out->mode, sizeof out->mode, "%.15s", *mode ? mode : fid ? fid_modes[0] : "bundled");
    return 0;
}

/* {id,name,path,sha256,mode} of a row; mode NULL: the usual one of its kind. */
static int describe(ds_registry *r, int64_t id, const char *mode, json_t **out, ds_error *err) {
    int rc;
    sqlite3_stmt *q = db_query(
        r, err, "SELECT id, name, path, sha256, kind FROM feature_nets WHERE id = ?1", "i", id);
    if ((rc = db_step(r, q, err)) < 0)
        return rc;
    if (!rc)
        return ds_fail(err, DS_ENOTFOUND, "feature network %lld does not exist", (long long)id);
    json_t *o = json_object();
    js_int(o, "id", q, 0);
    js_text(o, "name", q, 1);
    js_text(o, "path", q, 2);
    js_text(o, "sha256", q, 3);
    int fid = !strcmp((const char *)sqlite3_column_text(q, 4), FID_KIND);
    if (!mode || !strcmp(mode, "bundled"))
        mode = fid ? fid_modes[0] : "bundled";
    json_object_set_new(o, "mode", json_string(mode));
    db_reset(q);
    *out = o;
    return 0;
}

int ds_feature_net_of_base(ds_registry *r, int64_t base_id, json_t **out, ds_error *err) {
    int64_t id = 0;
    int rc = db_int(r, &id, err,
                    "SELECT feature_net_id FROM bases WHERE id = coalesce(?1, " MODELS_ACTIVE ")",
                    "I", base_id);
    *out = NULL;
    if (rc == DS_ENOTFOUND) {
        *out = json_null();
        return 0;
    }
    return rc ? rc : describe(r, id, NULL, out, err);
}

/* The default ---------------------------------------------------------------------------------- */

static int set_meta(ds_registry *r, const char *key, const char *value, ds_error *err) {
    if (!value)
        return db_run(r, err, "DELETE FROM meta WHERE key = ?1", "s", key);
    return db_run(r, err,
                  "INSERT INTO meta(key, value) VALUES (?1, ?2)"
                  " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                  "ss", key, value);
}

int ds_feature_net_choose(ds_registry *r, const ds_feature_choice *c, ds_error *err) {
    char id[32];
    json_t *net = NULL;
    if (c->follow)
        return ds_fail(err, DS_EINVAL, "which network? give its name, or 'bundled'");
    int rc = db_begin(r, err);
    if (rc)
        return rc;
    snprintf(id, sizeof id, "%lld", (long long)c->id);
    rc = set_meta(r, "default_feature_net", c->id ? id : NULL, err);
    if (!rc)
        rc = set_meta(r, "default_feature_mode", c->id ? c->mode : NULL, err);
    if (!rc && c->id)
        rc = describe(r, c->id, c->mode, &net, err);
    if (!rc)
        rc = model_event(r, "feature_net.default", "feature_net",
                         ds_json_string(net, "name", "bundled"), ds_json_string(net, "sha256", ""),
                         err);
    json_decref(net);
    return db_end(r, rc, err);
}

/* id and mode of meta; id 0 where the base's network is the default. */
static int read_default(ds_registry *r, ds_feature_choice *c, ds_error *err) {
    *c = (ds_feature_choice){.mode = "bundled"};
    sqlite3_stmt *q = db_query(r, err,
                               "SELECT CAST(a.value AS INTEGER), coalesce(b.value, 'bundled')"
                               " FROM meta a LEFT JOIN meta b ON b.key = 'default_feature_mode'"
                               " WHERE a.key = 'default_feature_net'",
                               "");
    int rc = db_step(r, q, err);
    if (rc <= 0)
        return rc;
    c->id = sqlite3_column_int64(q, 0);
    snprintf(c->mode, sizeof c->mode, "%s", (const char *)sqlite3_column_text(q, 1));
    db_reset(q);
    return 0;
}

int ds_feature_net_default(ds_registry *r, json_t **out, ds_error *err) {
    ds_feature_choice c;
    int rc = read_default(r, &c, err);
    if (!rc)
        rc = c.id ? describe(r, c.id, c.mode, out, err) : ds_feature_net_of_base(r, 0, out, err);
    if (!rc && json_is_null(*out))
        return ds_fail(err, DS_ENOTFOUND,
                       "there is no feature network: start the daemon with --feature-net FILE");
    if (!rc)
        json_object_set_new(*out, "bundled", json_boolean(!c.id));
    return rc;
}

/* Jobs ------------------------------------------------------------------------------------------
 */

/* What the job was started with, else what its dataset asks for, else the default. */
static int choice_of_job(ds_registry *r, int64_t job, ds_feature_choice *c, int64_t *base,
                         ds_error *err) {
    sqlite3_stmt *q =
        db_query(r, err,
                 "SELECT j.base_id, CASE WHEN j.feature_mode IS NOT NULL THEN j.feature_net_id ELSE"
                 " d.feature_net_id END, coalesce(j.feature_mode, d.feature_mode) FROM jobs j"
                 " LEFT JOIN datasets d ON d.id = j.dataset_id WHERE j.id = ?1",
                 "i", job);
    int rc = db_step(r, q, err);
    if (rc < 0)
        return rc;
    if (!rc)
        return ds_fail(err, DS_ENOTFOUND, "job %lld does not exist", (long long)job);
    *c = (ds_feature_choice){.id = sqlite3_column_int64(q, 1)};
    *base = sqlite3_column_int64(q, 0);
    const char *mode = (const char *)sqlite3_column_text(q, 2);
    snprintf(c->mode, sizeof c->mode, "%s", mode ? mode : "");
    db_reset(q);
    return *c->mode ? 0 : read_default(r, c, err);
}

int ds_feature_net_of_job(ds_registry *r, int64_t job, json_t **out, ds_error *err) {
    ds_feature_choice c;
    int64_t base = 0;
    int rc = choice_of_job(r, job, &c, &base, err);
    if (!rc)
        rc = c.id ? describe(r, c.id, c.mode, out, err) : ds_feature_net_of_base(r, base, out, err);
    if (rc)
        return rc;
    if (json_is_null(*out))
        return ds_fail(err, DS_ENOTFOUND,
                       "there is no feature network: start the daemon with --feature-net FILE");
    rc = db_run(r, err,
                "UPDATE jobs SET feature_net_id = ?2, feature_mode = ?3 WHERE id = ?1 AND"
                " feature_mode IS NULL",
                "iis", job, ds_json_int(*out, "id", 0), ds_json_string(*out, "mode", ""));
    if (rc) {
        json_decref(*out);
        *out = NULL;
    }
    return rc;
}

/* Objects -------------------------------------------------------------------------------------- */

#define OF_BASE "(SELECT b.feature_net_id FROM bases b WHERE b.id = " MODELS_ACTIVE ")"
#define DEFAULT_ID                                                                                 \
    "coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE key = "                               \
    "'default_feature_net'), " OF_BASE ", 0)"
/* Is the adapter version av there, published, and are its numbers of network `id`? */
#define MEASURED_WITH(id)                                                                          \
    "av.deleted_at IS NULL AND av.status = 'published' AND EXISTS (SELECT 1 FROM evaluations e"    \
    " WHERE e.adapter_version_id = av.id AND e.feature_net = (SELECT sha256 FROM feature_nets"     \
    "  WHERE id = " id "))"
/* Datasets by the network they will be measured with; adapters by what their numbers say. */
#define NET_SELECT                                                                                 \
    "SELECT f.id, f.name, f.path, f.sha256, f.kind, f.source, f.source_format, f.source_sha256,"   \
    " f.license, f.parameters, f.bytes, f.created_at, f.id = " DEFAULT_ID ","                      \
    " (SELECT count(*) FROM datasets d INDEXED BY datasets_uses LEFT JOIN bases b ON b.id = "      \
    "coalesce(d.base_id,"                                                                          \
    "  " MODELS_ACTIVE ") WHERE d.state <> 'removed' AND f.id = CASE"                              \
    "  WHEN d.feature_net_id IS NOT NULL THEN d.feature_net_id"                                    \
    "  WHEN d.feature_mode IS NOT NULL THEN b.feature_net_id"                                      \
    "  ELSE coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'default_feature_net')," \
    "   b.feature_net_id) END),"                                                                   \
    " coalesce((SELECT value FROM counters WHERE key = 'net.' || f.sha256), 0),"                   \
    " f.removed_at IS NOT NULL, (SELECT value FROM meta WHERE key = 'default_feature_mode'),"      \
    " f.report FROM feature_nets f "

static json_t *net_row(sqlite3_stmt *q) {
    json_t *o = json_object(), *modes = json_array();
    js_int(o, "id", q, 0);
    js_text(o, "name", q, 1);
    js_text(o, "path", q, 2);
    js_text(o, "sha256", q, 3);
    js_text(o, "kind", q, 4);
    js_text(o, "source", q, 5);
    js_text(o, "source_format", q, 6);
    js_text(o, "source_sha256", q, 7);
    js_text(o, "license", q, 8);
    js_int(o, "parameters", q, 9);
    js_int(o, "bytes", q, 10);
    js_time(o, "created_at", q, 11);
    int is_default = sqlite3_column_int(q, 12),
        fid = !strcmp((const char *)sqlite3_column_text(q, 4), FID_KIND);
    const char *mode = (const char *)sqlite3_column_text(q, 16);
    for (int i = 0; fid && i < FID_MODE_COUNT; i++)
        json_array_append_new(modes, json_string(fid_modes[i]));
    if (!fid)
        json_array_append_new(modes, json_string("bundled"));
    json_object_set_new(o, "default", json_boolean(is_default));
    json_object_set_new(o, "mode",
                        !is_default ? json_null()
                                    : json_string(mode  ? mode
                                                  : fid ? fid_modes[0]
                                                        : "bundled"));
    json_object_set_new(o, "preprocessings", modes);
    js_int(o, "datasets", q, 13);
    js_int(o, "adapters", q, 14);
    json_object_set_new(o, "removed", json_boolean(sqlite3_column_int(q, 15)));
    return o;
}

int ds_feature_net_list(ds_registry *r, ds_page page, json_t **out, ds_error *err) {
    int64_t before;
    int limit = page_limit(page), rc = page_cursor(page, &before, err);
    if (rc)
        return rc;
    sqlite3_stmt *q = db_query(r, err,
                               NET_SELECT "WHERE f.id < ?1 AND f.removed_at IS NULL"
                                          " ORDER BY f.id DESC LIMIT ?2",
                               "ii", before, (int64_t)limit + 1);
    return page_collect(r, q, page, 0, net_row, out, err);
}

static int get(ds_registry *r, int64_t id, json_t **out, ds_error *err) {
    sqlite3_stmt *q = db_query(r, err, NET_SELECT "WHERE f.id = ?1", "i", id);
    int rc = db_step(r, q, err);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return ds_fail(err, DS_ENOTFOUND, "the feature network is gone");
    *out = net_row(q);
    js_doc(*out, "report", q, 17); /* long: not in lists */
    db_reset(q);
    return 0;
}

int ds_feature_net_get(ds_registry *r, const char *ref, json_t **out, ds_error *err) {
    int64_t id = 0;
    int rc = find(r, ref, &id, err);
    return rc ? rc : get(r, id, out, err);
}

/* Removing ------------------------------------------------------------------------------------- */

static const struct model_use uses[] = {
    {"it is the default; choose another one with dsctl set-default-feature-net",
     "SELECT 1, '' FROM meta WHERE key = 'default_feature_net' AND CAST(value AS INTEGER) = ?1", 1},
    {"bases come with it",
     "SELECT count(*), group_concat(name, ', ') FROM bases WHERE feature_net_id = ?1 AND removed_at"
     " IS NULL",
     0},
    {"datasets are measured with it (dsctl add-dataset DIR --feature-net OTHER, or remove-dataset)",
     "SELECT count(*), (SELECT group_concat(name, ', ') FROM (SELECT name FROM datasets WHERE"
     " feature_net_id = ?1 AND state <> 'removed' ORDER BY name LIMIT 5)) FROM datasets WHERE"
     " feature_net_id = ?1 AND state <> 'removed'",
     0},
    {"adapters were measured with it, and the gate measures them again",
     "SELECT (SELECT count(*) FROM adapter_versions av WHERE " MEASURED_WITH(
         "?1") "), (SELECT"
               " group_concat(ref, ', ') FROM (SELECT a.name || '@v' || av.version AS ref FROM"
               " adapter_versions av JOIN adapters a ON a.id = av.adapter_id WHERE " MEASURED_WITH(
                   "?1") " LIMIT 5))",
     0},
    {"jobs work with it; wait for them or cancel them",
     "SELECT count(*), group_concat('job ' || id, ', ') FROM jobs WHERE state IN " SQL_LIVE
     " AND feature_net_id = ?1",
     0}};

int ds_feature_net_remove(ds_registry *r, const char *ref, json_t **out, ds_error *err) {
    json_t *net = NULL;
    char why[400];
    int64_t id = 0;
    int rc = find(r, ref, &id, err);
    if (rc || (rc = get(r, id, &net, err)))
        return rc;
    const char *name = ds_json_string(net, "name", "");
    if (ds_json_bool(net, "removed", 0))
        rc = ds_fail(err, DS_ENOTFOUND, "feature network '%s' was removed already", name);
    if (rc || (rc = db_begin(r, err))) {
        json_decref(net);
        return rc;
    }
    rc = model_needed_by(r, id, uses, sizeof uses / sizeof *uses, why, err);
    if (!rc && *why)
        rc = ds_fail(err, DS_ECONFLICT, "feature network '%s' is in use: %s", name, why);
    if (!rc)
        rc = db_run(r, err, "UPDATE feature_nets SET removed_at = ?2 WHERE id = ?1", "ii", id,
                    ds_now_ms());
    if (!rc)
        rc = model_event(r, "feature_net.removed", "feature_net", name,
                         ds_json_string(net, "sha256", ""), err);
    rc = db_end(r, rc, err);
    if (rc || !out)
        json_decref(net);
    else
        *out = net;
    return rc;
}
