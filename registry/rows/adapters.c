#include "registry/rows/adapters.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "registry/core/events.h"
#include "registry/rows/aliases.h"
#include "registry/rows/bars_internal.h"
#include "registry/rows/evaluations.h"
#include "registry/rows/tasks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int ds_adapter_next_version(ds_registry *r, const char *name, int64_t *version, ds_error *err) {
    int64_t last = 0;
    int rc = db_int(r, &last, err, "SELECT last_version FROM adapters WHERE name = ?1", "s", name);
    if (rc && rc != DS_ENOTFOUND)
        return rc;
    *version = last + 1;
    return 0;
}

/* Objects ------------------------------------------------------------------------------------- */

/* clang-format off */
#define ADAPTER_SELECT                                                                             \
    "SELECT av.id, a.name, av.version, d.name, dv.version, av.status, av.digest, b.stored_bytes,"  \
    " b.raw_bytes, av.parameters, av.method, av.rank, av.steps, av.seed, s.name, s.sha256,"        \
    " av.created_at, av.job_id, av.fd, av.fd_base, av.kid, av.n, av.class_count, av.images,"       \
    " av.train_seconds, av.images_per_second, av.device_class,"                                    \
    " (SELECT group_concat(l.alias, ',') FROM aliases l WHERE l.version_id = av.id),"              \
    " av.config, av.reference_digest, e.feature_net, e.resize, fn.name, gs.verdict, "              \
      BARS_COLUMNS("gb") ", av.class_accuracy, av.class_real, av.class_chance"                     \
    " FROM adapter_versions av JOIN adapters a ON a.id = av.adapter_id"                            \
    " JOIN blobs b ON b.digest = av.digest JOIN bases s ON s.id = av.base_id"                      \
    " LEFT JOIN dataset_versions dv ON dv.id = av.dataset_version_id"                              \
    " LEFT JOIN datasets d ON d.id = dv.dataset_id"                                                \
    " LEFT JOIN evaluations e ON e.id = (SELECT x.id FROM evaluations x WHERE"                     \
    "  x.adapter_version_id = av.id AND x.metric = 'fd' AND x.subject = 'adapter' LIMIT 1)"        \
    " LEFT JOIN feature_nets fn ON fn.sha256 = e.feature_net"                                      \
    " LEFT JOIN gates g ON g.job_id = av.job_id LEFT JOIN gate_self gs ON gs.gate_id = g.id"       \
    " LEFT JOIN gate_bars gb ON gb.gate_id = g.id AND gb.position = " BARS_DECIDING("g.id")
/* clang-format on */

static json_t *alias_array(const char *list) {
    json_t *o = json_array();
    while (list && *list) {
        size_t n = strcspn(list, ",");
        json_array_append_new(o, json_stringn(list, n));
        list += n + (list[n] == ',');
    }
    return o;
}

static json_t *adapter_row(sqlite3_stmt *q) {
    char ref[DS_NAME_SIZE + 24];
    json_t *o = json_object(), *base = json_object(), *net = json_null();
    snprintf(ref, sizeof ref, "%s@v%lld", (const char *)sqlite3_column_text(q, 1),
             (long long)sqlite3_column_int64(q, 2));
    json_object_set_new(o, "ref", json_string(ref));
    js_text(o, "name", q, 1);
    js_int(o, "version", q, 2);
    js_text(o, "dataset", q, 3);
    js_int(o, "dataset_version", q, 4);
    js_text(o, "status", q, 5);
    js_text(o, "digest", q, 6);
    js_int(o, "stored_bytes", q, 7);
    js_int(o, "raw_bytes", q, 8);
    js_int(o, "parameters", q, 9);
    js_text(o, "method", q, 10);
    js_int(o, "rank", q, 11);
    js_int(o, "steps", q, 12);
    js_int(o, "seed", q, 13);
    js_text(base, "name", q, 14);
    js_text(base, "sha256", q, 15);
    json_object_set_new(o, "base", base);
    js_time(o, "created_at", q, 16);
    js_int(o, "job", q, 17);
    js_num(o, "fd", q, 18);
    js_num(o, "fd_base", q, 19);
    js_num(o, "kid", q, 20);
    js_int(o, "n", q, 21);
    js_int(o, "classes", q, 22);
    js_int(o, "images", q, 23);
    js_num(o, "train_seconds", q, 24);
    js_num(o, "images_per_second", q, 25);
    js_text(o, "device_class", q, 26);
    json_object_set_new(o, "aliases", alias_array((const char *)sqlite3_column_text(q, 27)));
    if (sqlite3_column_type(q, 30) != SQLITE_NULL) { /* what its distances were made with */
        net = json_object();
        js_text(net, "name", q, 32);
        js_text(net, "sha256", q, 30);
        js_text(net, "preprocess", q, 31);
    }
    json_object_set_new(o, "feature_net", net);
    js_text(o, "self", q, 33);
    json_object_set_new(o, "bar", bars_deciding_row(q, 34));
    js_num(o, "class_accuracy", q, 34 + BARS_COLUMN_COUNT);
    js_num(o, "class_real", q, 35 + BARS_COLUMN_COUNT);
    js_num(o, "class_chance", q, 36 + BARS_COLUMN_COUNT);
    return o;
}

/* [{name, images}] in order of class id, as the dataset's version had them; null without one. */
static int classes_of(ds_registry *r, int64_t id, json_t *o, ds_error *err) {
    sqlite3_stmt *q = db_query(r, err,
                               "SELECT v.classes FROM adapter_versions av JOIN dataset_versions v"
                               " ON v.id = av.dataset_version_id WHERE av.id = ?1",
                               "i", id);
    int rc = db_step(r, q, err);
    if (rc > 0) {
        js_doc(o, "class_map", q, 0);
        db_reset(q);
        rc = 0;
    } else
        json_object_set_new(o, "class_map", json_null());
    return rc;
}

int ds_adapter_get(ds_registry *r, const char *ref, json_t **out, ds_error *err) {
    ds_adapter_ref a;
    int rc = ds_adapter_resolve(r, ref, &a, err);
    if (rc)
        return rc;
    sqlite3_stmt *q = db_query(r, err, ADAPTER_SELECT " WHERE av.id = ?1", "i", a.id);
    if ((rc = db_step(r, q, err)) < 0)
        return rc;
    if (rc == 0) /* another program, meanwhile */
        return ds_fail(err, DS_ENOTFOUND, "adapter '%s' is gone", ref);
    json_t *o = adapter_row(q), *page = NULL, *gate = NULL;
    json_object_set_new(o, "stored_digest", json_string(a.blob.stored_sha256));
    js_doc(o, "metadata", q, 28);
    js_text(o, "reference_digest", q, 29);
    db_reset(q);
    ds_evaluation_filter f = {.adapter = a.ref};
    rc = classes_of(r, a.id, o, err);
    if (!rc)
        rc = ds_evaluation_list(r, (ds_page){.limit = DS_LIST_MAX}, &f, &page, err);
    if (!rc) {
        json_object_set(o, "evaluations", json_object_get(page, "items"));
        json_decref(page);
        rc = ds_gate_of_job(r, json_integer_value(json_object_get(o, "job")), &gate, err);
    }
    if (!rc) {
        json_object_set_new(o, "gate", gate);
        rc = task_probes(r, a.id, o, err);
    }
    if (rc) {
        json_decref(o);
        return rc;
    }
    *out = o;
    return 0;
}

enum { FEW = 1000 };

/* Whether so few rows fulfil a condition that they can be sorted. */
static int few(ds_registry *r, const char *sql, const char *types, double fd, int64_t since) {
    int64_t n = FEW;
    int rc = *types == 'd' ? db_int(r, &n, NULL, sql, "di", fd, (int64_t)FEW)
                           : db_int(r, &n, NULL, sql, "ii", since, (int64_t)FEW);
    return !rc && n < FEW;
}

/* The index that a list is read by: newest first, stopping at the limit, where what is asked for is
 * frequent; else the one of the condition that few rows fulfil. */
static const char *index_for(ds_registry *r, const ds_adapter_filter *f) {
    if (f->dataset)
        return " INDEXED BY adapter_versions_adapter";
    if (!isnan(f->max_fd) &&
        few(r,
            "SELECT count(*) FROM (SELECT 1 FROM adapter_versions WHERE deleted_at IS NULL AND"
            " fd <= ?1 LIMIT ?2)",
            "d", f->max_fd, 0))
        return " INDEXED BY adapter_versions_fd";
    if (f->since_ms && few(r,
                           "SELECT count(*) FROM (SELECT 1 FROM adapter_versions WHERE deleted_at"
                           " IS NULL AND created_at >= ?1 LIMIT ?2)",
                           "i", 0, f->since_ms))
        return " INDEXED BY adapter_versions_created";
    return f->status && isnan(f->max_fd) && !f->since_ms ? " INDEXED BY adapter_versions_status"
                                                         : " INDEXED BY adapter_versions_listing";
}

#define OF_DATASET "FROM adapters y JOIN datasets z ON z.id = y.dataset_id WHERE z.name = "

/* A dataset has the adapter of its name, whose versions the index has in order; what has several is
 * sorted. */
static const char *of_dataset(ds_registry *r, const char *name) {
    int64_t n = 0;
    return !db_int(r, &n, NULL, "SELECT count(*) " OF_DATASET "?1", "s", name) && n == 1
               ? " AND x.adapter_id = (SELECT y.id " OF_DATASET "?3)"
               : " AND x.adapter_id IN (SELECT y.id " OF_DATASET "?3)";
}

/* The inner query walks an index alone and stops at the limit; only the rows that are shown are
 * read in full. */
int ds_adapter_list(ds_registry *r, ds_page page, const ds_adapter_filter *f, json_t **out,
                    ds_error *err) {
    static const ds_adapter_filter any = {.max_fd = NAN};
    f = f ? f : &any;
    int64_t before;
    int limit = page_limit(page), rc = page_cursor(page, &before, err);
    if (rc)
        return rc;
    if (f->status && strcmp(f->status, "published") != 0 && strcmp(f->status, "rejected") != 0)
        return ds_fail(err, DS_EINVAL, "status '%.40s' does not exist: published or rejected",
                       f->status);
    ds_buf sql = {0};
    ds_buf_addf(
        &sql,
        "%s WHERE av.id IN (SELECT x.id FROM adapter_versions x%s WHERE x.id < ?1"
        " AND x.deleted_at IS NULL%s%s%s%s ORDER BY x.id DESC LIMIT ?2) ORDER BY av.id DESC",
        ADAPTER_SELECT, index_for(r, f), f->dataset ? of_dataset(r, f->dataset) : " AND ?3 IS NULL",
        f->status ? " AND x.status = ?4" : " AND ?4 IS NULL",
        isnan(f->max_fd) ? " AND ?5 IS NULL" : " AND x.fd <= ?5",
        f->since_ms ? " AND x.created_at >= ?6" : " AND ?6 IS NULL");
    sqlite3_stmt *q = db_query(r, err, sql.data, "iissdI", before, (int64_t)limit + 1, f->dataset,
                               f->status, f->max_fd, f->since_ms);
    ds_buf_release(&sql);
    return page_collect(r, q, page, 0, adapter_row, out, err);
}

static const char *text_of(sqlite3_stmt *q, int col) {
    const char *s = (const char *)sqlite3_column_text(q, col);
    return s ? s : "";
}
static double number_of(sqlite3_stmt *q, int col) {
    return sqlite3_column_type(q, col) == SQLITE_NULL ? NAN : sqlite3_column_double(q, col);
}

/* clang-format off */
static const char newest_of_each[] =
    "SELECT a.name, av.fd, e.feature_net, e.resize, gs.verdict, gb.role, gb.ref, gb.fd_bar,"
    " gb.delta, av.class_accuracy"
    " FROM (SELECT max(id) AS id FROM (SELECT id, adapter_id FROM adapter_versions"
    "  INDEXED BY adapter_versions_listing WHERE deleted_at IS NULL"
    "  AND (?2 = 0 OR status = 'published') ORDER BY id DESC LIMIT ?1) GROUP BY adapter_id) n"
    " JOIN adapter_versions av ON av.id = n.id JOIN adapters a ON a.id = av.adapter_id"
    " LEFT JOIN evaluations e ON e.id = (SELECT x.id FROM evaluations x WHERE"
    "  x.adapter_version_id = av.id AND x.metric = 'fd' AND x.subject = 'adapter' LIMIT 1)"
    " LEFT JOIN gates g ON g.job_id = av.job_id LEFT JOIN gate_self gs ON gs.gate_id = g.id"
    " LEFT JOIN gate_bars gb ON gb.gate_id = g.id AND gb.position = " BARS_DECIDING("g.id")
    " ORDER BY n.id DESC";
/* clang-format on */

int ds_adapter_each_newest(ds_registry *r, int limit, int published,
                           void (*fn)(void *ctx, const ds_adapter_figures *f), void *ctx,
                           ds_error *err) {
    sqlite3_stmt *q = db_query(r, err, newest_of_each, "ii", (int64_t)limit, (int64_t)published);
    int rc;
    while ((rc = db_step(r, q, err)) > 0) {
        ds_adapter_figures f = {.name = text_of(q, 0),
                                .fd = number_of(q, 1),
                                .net = text_of(q, 2),
                                .preprocess = text_of(q, 3),
                                .self = text_of(q, 4),
                                .role = text_of(q, 5),
                                .bar = text_of(q, 6),
                                .fd_bar = number_of(q, 7),
                                .delta = number_of(q, 8),
                                .class_accuracy = number_of(q, 9)};
        fn(ctx, &f);
    }
    return rc;
}

int ds_adapter_delete(ds_registry *r, const char *ref, int with_aliases, ds_error *err) {
    ds_adapter_ref a;
    char names[300] = "";
    int rc = ds_adapter_resolve(r, ref, &a, err);
    if (rc)
        return rc;
    sqlite3_stmt *q = db_query(
        r, err, "SELECT group_concat(alias, ', ') FROM aliases WHERE version_id = ?1", "i", a.id);
    if ((rc = db_step(r, q, err)) < 0)
        return rc;
    db_text(names, sizeof names, q, 0);
    db_reset(q);
    if (*names && !with_aliases)
        return ds_fail(err, DS_ECONFLICT,
                       "adapter '%s' has the aliases %s: move them first (dsctl set-alias %s ALIAS "
                       "VERSION), or remove them with it (--force)",
                       a.ref, names, a.name);
    if ((rc = db_begin(r, err)))
        return rc;
    char subject[DS_NAME_SIZE + 40];
    snprintf(subject, sizeof subject, "adapter:%s", a.ref);
    rc = aliases_drop(r, a.name, a.id, err);
    if (!rc)
        rc = db_run(r, err, "UPDATE adapter_versions SET deleted_at = ?2 WHERE id = ?1", "ii", a.id,
                    ds_now_ms());
    if (!rc)
        rc = ds_event_put(r, "adapter.deleted", subject, NULL, err);
    return db_end(r, rc, err);
}
