/* registry/rows/datasets.c - states and scan counters: registry/rows/datasets.h. */
#include "registry/rows/datasets.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/suggest.h"
#include "registry/core/events.h"
#include "registry/core/db.h"
#include "registry/core/words.h"
#include "registry/jobs/jobs.h"
#include "registry/jobs/jobs_internal.h"
#include "registry/rows/bars_internal.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int subject_event(ds_registry *r, const char *type, const char *name, json_t *payload,
                         ds_error *err) {
    char subject[DS_NAME_SIZE + 16];
    snprintf(subject, sizeof subject, "dataset:%s", name);
    return ds_event_put(r, type, subject, payload, err);
}

static int check_new(const ds_dataset_new *d, ds_error *err) {
    int rc = ds_name_check("dataset", d->name, err);
    if (rc)
        return rc;
    if (!d->path || d->path[0] != '/' || strlen(d->path) >= PATH_MAX)
        return ds_fail(err, DS_EINVAL, "dataset path '%.120s' is not absolute; give the full path",
                       d->path ? d->path : "");
    for (const char *p = d->path; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return ds_fail(
                err, DS_EINVAL,
                "dataset path has a control character (0x%02x) at position %zu; rename the "
                "folder",
                (unsigned char)*p, (size_t)(p - d->path) + 1);
    json_t *utf8 = json_string(d->path);
    if (!utf8)
        return ds_fail(err, DS_EINVAL, "dataset path is not UTF-8; rename the folder");
    json_decref(utf8);
    if (d->options && !json_is_object(d->options))
        return ds_fail(err, DS_EINVAL, "dataset options are not a JSON object");
    if (d->method && strlen(d->method) > 64)
        return ds_fail(err, DS_EINVAL, "method '%.20s...' is too long", d->method);
    return 0;
}

/* The base that a dataset is trained on. */
#define BASE_OF(t)                                                                                 \
    "coalesce(" t ".base_id, (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'active_base'))"

/* clang-format off */
static const char gets_another_chance[] =
    "UPDATE datasets SET generation = generation + 1 WHERE id = ?1 AND (EXISTS"
    " (SELECT 1 FROM jobs j WHERE j.dataset_version_id = datasets.version_id"
    "  AND j.kind = " SQL_TRAIN " AND j.generation >= datasets.generation"
    "  AND j.state IN (" SQL_FAILED ", " SQL_CANCELLED ")"
    "  AND j.base_id = " BASE_OF("datasets") ")"
    " OR EXISTS (SELECT 1 FROM adapter_versions av WHERE av.deleted_at IS NOT NULL AND "
      BARS_ANSWERED("av", "datasets", BASE_OF("datasets")) "))"
    " AND NOT EXISTS (SELECT 1 FROM adapter_versions av WHERE av.deleted_at IS NULL AND "
      BARS_ANSWERED("av", "datasets", BASE_OF("datasets")) ")";
/* clang-format on */

/* A training that failed or was cancelled for the present content gets another chance, and so does
 * content whose adapters were all removed by hand. */
static int another_chance(ds_registry *r, int64_t id, ds_error *err) {
    return db_run(r, err, gets_another_chance, "i", id);
}

/* NULL and 0: follows the default. */
static int64_t net_id(const ds_dataset_new *d) {
    return d->net && !d->net->follow ? d->net->id : 0;
}
static const char *net_mode(const ds_dataset_new *d) {
    return d->net && !d->net->follow ? d->net->mode : NULL;
}

static int add_new(ds_registry *r, const ds_dataset_new *d, const char *options, int64_t *id,
                   ds_error *err) {
    int rc = db_run(r, err,
                    "INSERT INTO datasets(name, source_path, method, options, watch, base_id,"
                    " feature_net_id, feature_mode, publish_worse, root_resolved) VALUES (?1, ?2,"
                    " coalesce(?3, 'affiner'), coalesce(?4, '{}'), ?5, ?6, ?7, ?8, ?9, 1)",
                    "ssssiIIsi", d->name, d->path, d->method, options,
                    (int64_t)(d->watch < 0 ? 1 : d->watch != 0), d->base_id > 0 ? d->base_id : 0,
                    net_id(d), net_mode(d), (int64_t)d->publish_worse);
    *id = db_rowid(r);
    return rc; /* its event comes from the trigger, as for rows of other programs */
}

static int revive(ds_registry *r, const ds_dataset_new *d, const char *options, int64_t id,
                  ds_error *err) {
    int rc = db_run(r, err,
                    "UPDATE datasets SET source_path = ?2, method = coalesce(?3, 'affiner'),"
                    " options = coalesce(?4, '{}'), watch = ?5, state = 'scanning',"
                    " deleted_at = NULL, error_code = NULL, error_message = NULL, base_id = ?6,"
                    " feature_net_id = ?7, feature_mode = ?8, publish_worse = ?9,"
                    " root_resolved = 1, scan_wanted = scan_wanted + 1 WHERE id = ?1",
                    "isssiIIsi", id, d->path, d->method, options,
                    (int64_t)(d->watch < 0 ? 1 : d->watch != 0), d->base_id > 0 ? d->base_id : 0,
                    net_id(d), net_mode(d), (int64_t)d->publish_worse);
    if (!rc)
        rc = another_chance(r, id, err);
    return rc ? rc
              : subject_event(r, "dataset.added", d->name,
                              json_pack("{s:I,s:b}", "id", (json_int_t)id, "again", 1), err);
}

static int update_known(ds_registry *r, const ds_dataset_new *d, const char *options, int64_t id,
                        ds_error *err) {
    int rc = db_run(r, err,
                    "UPDATE datasets SET method = coalesce(?2, method),"
                    " options = coalesce(?3, options), watch = coalesce(?4, watch),"
                    " base_id = CASE ?5 WHEN 0 THEN base_id WHEN -1 THEN NULL ELSE ?5 END,"
                    " publish_worse = max(publish_worse, ?6), scan_wanted = scan_wanted + 1"
                    " WHERE id = ?1",
                    "isssii", id, d->method, options,
                    d->watch < 0   ? (const char *)NULL
                    : d->watch > 0 ? "1"
                                   : "0",
                    d->base_id, (int64_t)d->publish_worse);
    if (!rc && d->base_id)
        rc = jobs_supersede_base(r, err);
    if (!rc && d->net)
        rc = db_run(r, err,
                    "UPDATE datasets SET feature_net_id = ?2, feature_mode = ?3 WHERE id = ?1",
                    "iIs", id, net_id(d), net_mode(d));
    return rc ? rc : another_chance(r, id, err);
}

static int add(ds_registry *r, const ds_dataset_new *d, const char *options, int64_t *id,
               int *created, ds_error *err) {
    sqlite3_stmt *q = db_query(
        r, err, "SELECT id, source_path, state FROM datasets WHERE name = ?1", "s", d->name);
    int rc = db_step(r, q, err);
    if (rc < 0)
        return rc;
    *created = 1;
    if (rc == 0)
        return add_new(r, d, options, id, err);
    *id = sqlite3_column_int64(q, 0);
    char path[304]; /* for the message */
    const char *whole = (const char *)sqlite3_column_text(q, 1);
    int removed = !strcmp((const char *)sqlite3_column_text(q, 2), "removed");
    int other = !whole || strcmp(whole, d->path) != 0;
    snprintf(path, sizeof path, "%.300s", whole ? whole : "");
    db_reset(q);
    if (removed)
        return revive(r, d, options, *id, err);
    if (other)
        return ds_fail(err, DS_ECONFLICT,
                       "dataset '%s' is already '%s'; choose another name with --name", d->name,
                       path);
    *created = 0;
    return update_known(r, d, options, *id, err);
}

int ds_dataset_add(ds_registry *r, const ds_dataset_new *d, int64_t *id, int *created, int64_t *seq,
                   ds_error *err) {
    int rc = check_new(d, err);
    if (rc || (rc = db_begin(r, err)))
        return rc;
    char *options = d->options ? ds_json_canonical(d->options) : NULL;
    rc = add(r, d, options, id, created, err);
    free(options);
    if (!rc && d->publish_worse)
        rc = subject_event(r, "dataset.publish_worse", d->name,
                           json_pack("{s:I,s:s}", "id", (json_int_t)*id, "state", "asked"), err);
    if (!rc)
        rc = db_int(r, seq, err, "SELECT scan_wanted FROM datasets WHERE id = ?1", "i", *id);
    r->settled_seq = -1;
    return db_end(r, rc, err);
}

/* "dataset 'digit' does not exist; did you mean 'digits'?" */
static int no_dataset(ds_registry *r, const char *name, const char *words, ds_error *err) {
    enum { MOST = 2000 };
    char **names = ds_xcalloc(MOST, sizeof *names);
    size_t n = 0;
    sqlite3_stmt *q = db_query(
        r, NULL, "SELECT name FROM datasets WHERE state <> 'removed' ORDER BY id DESC LIMIT ?1",
        "i", (int64_t)MOST);
    while (db_step(r, q, NULL) > 0)
        names[n++] = ds_xstrdup((const char *)sqlite3_column_text(q, 0));
    const char *near = ds_suggest(name, (const char *const *)names, n);
    int rc = ds_fail(err, DS_ENOTFOUND, "dataset '%.80s' does not exist%s%s%s%s", name, words,
                     near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
    while (n)
        free(names[--n]);
    free(names);
    return rc;
}

int ds_dataset_id(ds_registry *r, const char *name, int64_t *id, ds_error *err) {
    int rc = db_int(r, id, err, "SELECT id FROM datasets WHERE name = ?1", "s", name);
    return rc == DS_ENOTFOUND ? no_dataset(r, name, "", err) : rc;
}

static int live_id(ds_registry *r, const char *name, int64_t *id, ds_error *err) {
    int rc = db_int(r, id, err, "SELECT id FROM datasets WHERE name = ?1 AND state <> 'removed'",
                    "s", name);
    return rc == DS_ENOTFOUND ? no_dataset(r, name, " or was removed", err) : rc;
}

int ds_dataset_rescan(ds_registry *r, const char *name, int64_t *seq, ds_error *err) {
    int64_t id, wanted = 0;
    int rc = live_id(r, name, &id, err);
    if (rc || (rc = db_begin(r, err)))
        return rc;
    rc = db_run(r, err, "UPDATE datasets SET scan_wanted = scan_wanted + 1 WHERE id = ?1", "i", id);
    if (!rc)
        rc = db_int(r, &wanted, err, "SELECT scan_wanted FROM datasets WHERE id = ?1", "i", id);
    if (seq)
        *seq = wanted;
    r->settled_seq = -1;
    return db_end(r, rc, err);
}

int ds_dataset_remove(ds_registry *r, const char *name, ds_error *err) {
    int64_t id;
    int rc = live_id(r, name, &id, err);
    if (rc || (rc = db_begin(r, err)))
        return rc;
    rc = db_run(r, err,
                "UPDATE datasets SET state = 'removed', deleted_at = ?2, publish_worse = 0"
                " WHERE id = ?1",
                "ii", id, ds_now_ms());
    if (!rc)
        rc = jobs_cancel_of_dataset(r, id, err);
    if (!rc)
        rc = subject_event(r, "dataset.removed", name, json_pack("{s:I}", "id", (json_int_t)id),
                           err);
    return db_end(r, rc, err);
}

int ds_dataset_by_path(ds_registry *r, const char *path, char name[DS_NAME_SIZE], ds_error *err) {
    sqlite3_stmt *q = db_query(r, err,
                               "SELECT name FROM datasets WHERE source_path = ?1 AND"
                               " state <> 'removed' ORDER BY id LIMIT 1",
                               "s", path);
    int rc = db_step(r, q, err);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return ds_fail(err, DS_ENOTFOUND, "no dataset has the path '%.300s'", path);
    db_text(name, DS_NAME_SIZE, q, 0);
    db_reset(q);
    return 0;
}

/* Rows to objects ----------------------------------------------------------------------------- */

#define DATASET_SELECT                                                                             \
    "SELECT d.id, d.name, d.source_path, d.state, d.error_code, d.error_message, d.watch, "        \
    "d.method,"                                                                                    \
    " d.options, d.created_at, v.version, v.tree_digest, v.images, v.class_count, v.bytes,"        \
    " v.rejected_count, v.created_at, (SELECT count(*) FROM dataset_versions x WHERE"              \
    " x.dataset_id = d.id), (SELECT max(j.id) FROM jobs j WHERE j.dataset_id = d.id),"             \
    " (SELECT a.name || '@v' || av.version FROM adapters a JOIN aliases l ON l.adapter_id = a.id"  \
    "  AND l.alias = 'latest' JOIN adapter_versions av ON av.id = l.version_id"                    \
    "  WHERE a.name = d.name),"                                                                    \
    " (SELECT j.state FROM jobs j WHERE j.dedupe_key = 'scan:' || d.id"                            \
    "  AND j.state IN " SQL_LIVE "), d.scan_wanted, d.scan_done, d.scan_unchanged,"                \
    " d.generation, v.classes, (SELECT b.name FROM bases b WHERE b.id = d.base_id),"               \
    " (SELECT f.name FROM feature_nets f WHERE f.id = d.feature_net_id), d.feature_mode,"          \
    " d.publish_worse, EXISTS (SELECT 1 FROM meta m WHERE m.key = 'paused:' || d.id), t.id,"       \
    " t.state, t.error_code, t.error_message FROM datasets d"                                      \
    " LEFT JOIN dataset_versions v ON v.id = d.version_id LEFT JOIN jobs t ON t.id ="              \
    " (SELECT max(x.id) FROM jobs x WHERE x.dataset_id = d.id AND x.kind = " SQL_TRAIN ")"

/* The newest training, whatever became of it: a dataset is "ready" all the same. */
static json_t *training_object(sqlite3_stmt *q) {
    json_t *o = json_object(), *e = json_null();
    if (sqlite3_column_type(q, 31) == SQLITE_NULL) {
        json_decref(o);
        return json_null();
    }
    js_int(o, "job", q, 31);
    js_text(o, "state", q, 32);
    if (sqlite3_column_type(q, 34) != SQLITE_NULL) {
        e = json_object();
        js_text(e, "code", q, 33);
        js_text(e, "message", q, 34);
    }
    json_object_set_new(o, "error", e);
    return o;
}

static json_t *scan_object(sqlite3_stmt *q) {
    const char *live = (const char *)sqlite3_column_text(q, 20);
    const char *state = (const char *)sqlite3_column_text(q, 3);
    int waiting = sqlite3_column_int64(q, 22) < sqlite3_column_int64(q, 21);
    json_t *o = json_object();
    json_object_set_new(o, "state",
                        json_string(live                        ? live
                                    : !strcmp(state, "removed") ? DS_WORD_DONE
                                    : waiting                   ? DS_WORD_QUEUED
                                    : !strcmp(state, "failed")  ? DS_WORD_FAILED
                                                                : DS_WORD_DONE));
    json_object_set_new(o, "unchanged", json_boolean(sqlite3_column_int(q, 23)));
    js_int(o, "seq", q, 21);
    js_int(o, "done", q, 22);
    return o;
}

/* "fid:clean", "bundled", or null where it follows the default. */
static json_t *net_words(sqlite3_stmt *q) {
    const char *name = (const char *)sqlite3_column_text(q, 27),
               *mode = (const char *)sqlite3_column_text(q, 28);
    if (!mode)
        return json_null();
    return name ? json_sprintf("%s:%s", name, mode) : json_string(mode);
}

static json_t *dataset_object(sqlite3_stmt *q, int with_classes) {
    json_t *o = json_object(), *v = json_null();
    js_int(o, "id", q, 0);
    js_text(o, "name", q, 1);
    js_text(o, "path", q, 2);
    js_text(o, "state", q, 3);
    js_error(o, "error", q, 4);
    json_object_set_new(o, "watch", json_boolean(sqlite3_column_int(q, 6)));
    js_text(o, "method", q, 7);
    js_doc(o, "options", q, 8);
    js_time(o, "created_at", q, 9);
    if (sqlite3_column_type(q, 10) != SQLITE_NULL) {
        v = json_object();
        js_int(v, "version", q, 10);
        js_text(v, "tree_digest", q, 11);
        js_int(v, "images", q, 12);
        js_int(v, "classes", q, 13);
        js_int(v, "bytes", q, 14);
        js_int(v, "rejected", q, 15);
        js_time(v, "created_at", q, 16);
        if (with_classes)
            js_doc(v, "class_map", q, 25);
    }
    json_object_set_new(o, "version", v);
    js_int(o, "versions", q, 17);
    js_int(o, "job", q, 18);
    js_text(o, "adapter", q, 19);
    json_object_set_new(o, "scan", scan_object(q));
    js_int(o, "generation", q, 24);
    js_text(o, "base", q, 26);
    json_object_set_new(o, "feature_net", net_words(q));
    json_object_set_new(o, "publish_worse", json_boolean(sqlite3_column_int(q, 29)));
    json_object_set_new(o, "paused", json_boolean(sqlite3_column_int(q, 30)));
    json_object_set_new(o, "training", training_object(q));
    return o;
}

int ds_dataset_get_id(ds_registry *r, int64_t id, json_t **out, ds_error *err) {
    sqlite3_stmt *q = db_query(r, err, DATASET_SELECT " WHERE d.id = ?1", "i", id);
    int rc = db_step(r, q, err);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return ds_fail(err, DS_ENOTFOUND, "dataset %lld does not exist", (long long)id);
    *out = dataset_object(q, 1);
    db_reset(q);
    return 0;
}

int ds_dataset_get(ds_registry *r, const char *name, json_t **out, ds_error *err) {
    int64_t id;
    int rc = ds_dataset_id(r, name, &id, err);
    return rc ? rc : ds_dataset_get_id(r, id, out, err);
}

static json_t *dataset_row(sqlite3_stmt *q) { return dataset_object(q, 0); }

int ds_dataset_list(ds_registry *r, ds_page page, int with_removed, json_t **out, ds_error *err) {
    sqlite3_stmt *q = db_query(r, err,
                               DATASET_SELECT " WHERE d.name > ?1 AND (?2 OR d.state <> 'removed')"
                                              " ORDER BY d.name LIMIT ?3",
                               "sii", page.cursor ? page.cursor : "", (int64_t)with_removed,
                               (int64_t)page_limit(page) + 1);
    return page_collect(r, q, page, 1, dataset_row, out, err);
}

int ds_dataset_each_root(ds_registry *r,
                         void (*fn)(void *ctx, int64_t id, const char *path, int watch), void *ctx,
                         ds_error *err) {
    sqlite3_stmt *q = db_query(
        r, err, "SELECT id, source_path, watch FROM datasets WHERE state <> 'removed' ORDER BY id",
        "");
    int rc;
    while ((rc = db_step(r, q, err)) > 0)
        fn(ctx, sqlite3_column_int64(q, 0), (const char *)sqlite3_column_text(q, 1),
           sqlite3_column_int(q, 2));
    return rc;
}

int64_t ds_dataset_roots_number(ds_registry *r) {
    int64_t n = 0;
    db_int(r, &n, NULL, "SELECT value FROM counters WHERE key = 'roots'", "");
    return n;
}

int ds_dataset_resolve(ds_registry *r, int64_t id, const char *real, int *done, ds_error *err) {
    int rc = db_begin(r, err);
    json_t *was = NULL;
    *done = 0;
    if (rc)
        return rc;
    rc = ds_dataset_get_id(r, id, &was, err);
    if (!rc)
        rc = db_run(r, err,
                    "UPDATE datasets SET source_path = ?2, root_resolved = 1 WHERE id = ?1"
                    " AND root_resolved = 0",
                    "is", id, real);
    if (!rc && db_changes(r)) {
        *done = 1;
        rc = subject_event(r, "dataset.resolved", ds_json_string(was, "name", ""),
                           json_pack("{s:I,s:O,s:o}", "id", (json_int_t)id, "from",
                                     json_object_get(was, "path"), "to", js_string(real)),
                           err);
    }
    json_decref(was);
    return db_end(r, rc, err);
}

int ds_dataset_rescan_all(ds_registry *r, ds_error *err) {
    int rc = db_begin(r, err);
    if (rc)
        return rc;
    rc = db_run(r, err,
                "UPDATE datasets SET scan_wanted = scan_wanted + 1 WHERE watch = 1"
                " AND state <> 'removed'",
                "");
    r->settled_seq = -1;
    return db_end(r, rc, err);
}

int ds_dataset_rejected(ds_registry *r, const char *name, json_t **out, ds_error *err) {
    int64_t id;
    int rc = ds_dataset_id(r, name, &id, err);
    if (rc)
        return rc;
    sqlite3_stmt *q = db_query(r, err,
                               "SELECT v.rejected, v.rejected_count FROM datasets d JOIN"
                               " dataset_versions v ON v.id = d.version_id WHERE d.id = ?1",
                               "i", id);
    json_t *o = json_object();
    if ((rc = db_step(r, q, err)) > 0) {
        js_doc(o, "items", q, 0);
        js_int(o, "count", q, 1);
        db_reset(q);
        size_t i;
        json_t *e;
        json_array_foreach(json_object_get(o, "items"), i, e) {
            if (!json_object_get(e, "stage"))
                json_object_set_new(e, "stage", json_string("scan"));
        }
    } else if (rc == 0) { /* not scanned yet */
        json_object_set_new(o, "items", json_array());
        json_object_set_new(o, "count", json_integer(0));
    } else {
        json_decref(o);
        return rc;
    }
    json_object_set_new(o, "next", json_null());
    *out = o;
    return 0;
}

int ds_dataset_manifest(ds_registry *r, const char *name, int64_t version, char sha256[DS_HEX_SIZE],
                        ds_error *err) {
    int64_t id;
    int rc = ds_dataset_id(r, name, &id, err);
    if (rc)
        return rc;
    sqlite3_stmt *q =
        db_query(r, err,
                 "SELECT v.manifest_digest FROM datasets d JOIN dataset_versions v ON"
                 " v.dataset_id = d.id WHERE d.id = ?1 AND"
                 " CASE WHEN ?2 IS NULL THEN v.id = d.version_id ELSE v.version = ?2 END",
                 "iI", id, version);
    rc = db_step(r, q, err);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return version ? ds_fail(err, DS_ENOTFOUND, "dataset '%s' has no version %lld", name,
                                 (long long)version)
                       : ds_fail(err, DS_ENOTFOUND, "dataset '%s' has not been scanned yet", name);
    db_text(sha256, DS_HEX_SIZE, q, 0);
    db_reset(q);
    return 0;
}

int ds_dataset_version_get(ds_registry *r, int64_t dataset_version_id, json_t **out,
                           ds_error *err) {
    char path[PATH_MAX];
    sqlite3_stmt *q = db_query(
        r, err,
        "SELECT d.name, v.version, d.source_path, v.tree_digest, v.manifest_digest, v.images,"
        " v.classes, d.method, d.options, d.generation, d.publish_worse FROM dataset_versions v"
        " JOIN datasets d ON d.id = v.dataset_id WHERE v.id = ?1",
        "i", dataset_version_id);
    int rc = db_step(r, q, err);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return ds_fail(err, DS_ENOTFOUND, "dataset version %lld does not exist",
                       (long long)dataset_version_id);
    json_t *o = json_object();
    js_text(o, "name", q, 0);
    js_int(o, "version", q, 1);
    js_text(o, "root", q, 2);
    js_text(o, "tree_digest", q, 3);
    js_text(o, "manifest_sha256", q, 4);
    rc = ds_store_path(r->store, (const char *)sqlite3_column_text(q, 4), path, err);
    json_object_set_new(o, "manifest_path", js_string(path));
    js_int(o, "images", q, 5);
    js_doc(o, "classes", q, 6);
    js_text(o, "method", q, 7);
    js_doc(o, "options", q, 8);
    js_int(o, "generation", q, 9);
    json_object_set_new(o, "publish_worse", json_boolean(sqlite3_column_int(q, 10)));
    db_reset(q);
    if (!rc && !json_is_object(json_object_get(o, "options")))
        rc = ds_fail(err, DS_EINVAL, "dataset '%s': options are not a JSON object",
                     json_string_value(json_object_get(o, "name")));
    if (rc) {
        json_decref(o);
        return rc;
    }
    *out = o;
    return 0;
}

static int set_paused(ds_registry *r, const char *name, int paused, ds_error *err) {
    int64_t id, have = 0;
    int rc = ds_dataset_id(r, name, &id, err);
    char key[40];
    if (rc)
        return rc;
    snprintf(key, sizeof key, "paused:%lld", (long long)id);
    rc = db_int(r, &have, err, "SELECT count(*) FROM meta WHERE key = ?1", "s", key);
    if (rc || (have != 0) == (paused != 0))
        return rc;
    rc = paused ? db_run(r, err, "INSERT INTO meta(key, value) VALUES (?1, '1')", "s", key)
                : db_run(r, err, "DELETE FROM meta WHERE key = ?1", "s", key);
    return rc ? rc
              : subject_event(r, paused ? "dataset.paused" : "dataset.resumed", name,
                              json_pack("{s:I}", "id", (json_int_t)id), err);
}

int ds_dataset_pause(ds_registry *r, const char *name, int paused, ds_error *err) {
    int rc = db_begin(r, err);
    return rc ? rc : db_end(r, set_paused(r, name, paused, err), err);
}
