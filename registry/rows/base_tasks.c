#include "registry/rows/base_tasks.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/log.h"
#include "registry/core/events.h"
#include "registry/store/blobs.h"
#include "registry/core/db.h"
#include "registry/core/words.h"
#include "registry/rows/tasks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLASS_MAX 64 /* bytes of the name of a device class */

int base_task_ref(const char *ref) { return !strncmp(ref, "base:", 5) && ref[5]; }

/* Reading ------------------------------------------------------------------------------------- */

#define TASK_SELECT                                                                                \
    "SELECT b.name, b.sha256, t.reference_digest, t.fd, t.kid, t.n, t.classes, t.sample,"          \
    " t.evaluate, t.feature_net, t.feature_net_name, t.feature_mode, t.note, t.job_id,"            \
    " t.created_at, t.base_id FROM base_tasks t JOIN bases b ON b.id = t.base_id"                  \
    " WHERE t.base_id = ?1"

static json_t *probe_object(sqlite3_stmt *q) {
    json_t *p = json_object();
    js_text(p, "device_class", q, 0);
    js_text(p, "sha256", q, 1);
    js_int(p, "n", q, 2);
    js_int(p, "seed", q, 3);
    return p;
}

/* "probes", the oldest first, and "probe", which is that one. */
static int add_probes(ds_registry *r, int64_t base_id, json_t *o, ds_error *err) {
    json_t *list = json_array(), *first;
    int rc;
    sqlite3_stmt *q = db_query(r, err,
                               "SELECT device_class, sha256, n, seed FROM base_probes WHERE"
                               " base_id = ?1 ORDER BY created_at, device_class",
                               "i", base_id);
    while ((rc = db_step(r, q, err)) > 0)
        json_array_append_new(list, probe_object(q));
    first = json_array_get(list, 0);
    json_object_set(o, "probe", first ? first : json_null());
    json_object_set_new(o, "probes", list);
    return rc;
}

static json_t *ref_of(sqlite3_stmt *q) {
    return json_sprintf("base:%s", (const char *)sqlite3_column_text(q, 0));
}

/* Its network, as a task of the gate names it: task_nets finds the path. */
static void add_net(json_t *o, sqlite3_stmt *q) {
    js_text(o, "feature_net_sha256", q, 9);
    if (sqlite3_column_type(q, 9) == SQLITE_NULL)
        return;
    json_t *net = json_object();
    js_text(net, "name", q, 10);
    json_object_set_new(net, "path", json_null());
    js_text(net, "sha256", q, 9);
    json_object_set_new(o, "feature_net", net);
}

int ds_base_task_get(ds_registry *r, int64_t base_id, json_t **out, ds_error *err) {
    sqlite3_stmt *q = db_query(r, err, TASK_SELECT, "i", base_id);
    int rc = db_step(r, q, err);
    if (rc < 0)
        return rc;
    if (rc == 0) {
        *out = json_null();
        return 0;
    }
    json_t *o = json_object(), *one = json_array();
    json_array_append(one, o);
    json_object_set_new(o, "name", json_string("base"));
    json_object_set_new(o, "ref", ref_of(q));
    js_text(o, "base_sha256", q, 1);
    js_num(o, "fd", q, 3);
    js_num(o, "kid", q, 4);
    js_doc(o, "sample", q, 7);
    js_doc(o, "evaluate", q, 8);
    add_net(o, q);
    rc = task_blob(r, o, "reference", (const char *)sqlite3_column_text(q, 2), err);
    db_reset(q);
    if (!rc)
        rc = add_probes(r, base_id, o, err);
    if (!rc)
        rc = task_nets(r, one, err);
    json_decref(one);
    if (rc)
        json_decref(o);
    else
        *out = o;
    return rc;
}

static int add_last(ds_registry *r, int64_t base_id, json_t *task, ds_error *err) {
    sqlite3_stmt *q = db_query(
        r, err,
        "SELECT g.job_id, (SELECT a.name || '@v' || av.version FROM jobs j JOIN adapter_versions av"
        " ON av.id = j.adapter_version_id JOIN adapters a ON a.id = av.adapter_id WHERE"
        " j.id = g.job_id), t.level, t.unchanged, t.verdict, t.fd_now, g.at FROM gates g"
        " JOIN gate_tasks t ON t.gate_id = g.id AND t.position = 0 AND t.ref GLOB 'base:?*'"
        " JOIN jobs x ON x.id = g.job_id WHERE x.base_id = ?1 ORDER BY g.id DESC LIMIT 1",
        "i", base_id);
    int rc = db_step(r, q, err);
    json_t *o = json_null();
    if (rc > 0) {
        o = json_object();
        js_int(o, "job", q, 0);
        js_text(o, "adapter", q, 1);
        js_int(o, "level", q, 2);
        json_object_set_new(o, "unchanged", json_boolean(sqlite3_column_int(q, 3)));
        js_text(o, "verdict", q, 4);
        js_num(o, "fd_now", q, 5);
        js_time(o, "at", q, 6);
        db_reset(q);
        rc = 0;
    }
    json_object_set_new(task, "last", o);
    return rc;
}

int ds_base_task_show(ds_registry *r, json_t *base, ds_error *err) {
    int64_t id = ds_json_int(base, "id", 0);
    sqlite3_stmt *q = db_query(r, err, TASK_SELECT, "i", id);
    int rc = db_step(r, q, err);
    if (rc < 0)
        return rc;
    json_object_set_new(base, "task", json_null());
    if (rc == 0)
        return 0;
    json_t *o = json_object(), *net = json_null(), *classes = json_array(), *probe;
    size_t i;
    json_object_set_new(o, "ref", ref_of(q));
    js_num(o, "fd", q, 3);
    js_num(o, "kid", q, 4);
    js_int(o, "n", q, 5);
    js_int(o, "classes", q, 6);
    if (sqlite3_column_type(q, 9) != SQLITE_NULL) {
        net = json_object();
        js_text(net, "name", q, 10);
        js_text(net, "sha256", q, 9);
        js_text(net, "mode", q, 11);
    }
    json_object_set_new(o, "feature_net", net);
    js_text(o, "note", q, 12);
    js_int(o, "job", q, 13);
    js_time(o, "created_at", q, 14);
    db_reset(q);
    json_object_set_new(base, "task", o);
    json_object_set_new(o, "device_classes", classes);
    if ((rc = add_probes(r, id, o, err)))
        return rc;
    json_array_foreach(json_object_get(o, "probes"), i, probe)
        json_array_append(classes, json_object_get(probe, "device_class"));
    json_object_del(o, "probes");
    json_object_del(o, "probe");
    return add_last(r, id, o, err);
}

/* Recording ----------------------------------------------------------------------------------- */

int base_task_check(const json_t *result, const ds_blob *reference, int *there, ds_error *err) {
    const json_t *t = json_object_get(result, "base_task"), *probe = json_object_get(t, "probe"),
                 *ref = json_object_get(t, "reference"), *net = json_object_get(t, "feature_net");
    const char *class = ds_json_string(probe, "device_class", "");
    *there = json_is_object(t);
    if (!*there)
        return 0;
    if (!*class || strlen(class) > CLASS_MAX ||
        !ds_digest_valid(ds_json_string(probe, "sha256", NULL)) || ds_json_int(probe, "n", 0) < 1)
        return ds_fail(err, DS_EINVAL, "result: 'base_task.probe' is malformed");
    if (json_is_object(ref) != (reference != NULL))
        return ds_fail(err, DS_EINVAL, "result: 'base_task.reference' is missing");
    if (reference && strcmp(ds_json_string(ref, "sha256", ""), reference->sha256) != 0)
        return ds_fail(err, DS_EINTEGRITY,
                       "result names the reference statistics of the base %.64s, the stored one is"
                       " %s",
                       ds_json_string(ref, "sha256", "?"), reference->sha256);
    if (json_is_object(net) && !ds_digest_valid(ds_json_string(net, "sha256", NULL)))
        return ds_fail(err, DS_EINVAL, "result: 'base_task.feature_net.sha256' is not a digest");
    return 0;
}

int base_task_probe(ds_registry *r, int64_t base_id, const char *class, const char *sha256,
                    int64_t n, int64_t seed, ds_error *err) {
    return db_run(r, err,
                  "INSERT INTO base_probes(base_id, device_class, sha256, n, seed, created_at)"
                  " SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE EXISTS (SELECT 1 FROM base_tasks WHERE"
                  " base_id = ?1) AND NOT EXISTS (SELECT 1 FROM base_probes WHERE base_id = ?1"
                  " AND device_class = ?2)",
                  "issiii", base_id, class, sha256, n, seed, ds_now_ms());
}

static char *object_text(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    return json_is_object(v) ? ds_json_canonical(v) : NULL;
}

static int insert(ds_registry *r, const ds_job *j, int64_t base_id, const json_t *spec,
                  const json_t *t, const ds_blob *reference, ds_error *err) {
    const json_t *net = json_object_get(t, "feature_net"), *probe = json_object_get(t, "probe"),
                 *vae = json_object_get(json_object_get(spec, "base"), "vae");
    char *sample = object_text(t, "sample"), *evaluate = object_text(t, "evaluate");
    int rc = reference ? ds_blob_add(r, reference, "application/vnd.safetensors", err) : 0;
    if (!rc)
        rc = db_run(
            r, err,
            "INSERT INTO base_tasks(base_id, reference_digest, fd, kid, n, classes, sample,"
            " evaluate, feature_net, feature_net_name, feature_mode, vae_sha256, note, job_id,"
            " created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, coalesce(?7, '{}'), coalesce(?8, '{}'),"
            " ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
            "isddIisssssssii", base_id, reference ? reference->sha256 : NULL,
            ds_json_number(t, "fd", NAN), ds_json_number(t, "kid", NAN), ds_json_int(t, "n", 0),
            ds_json_int(t, "classes", 0), sample, evaluate, ds_json_string(net, "sha256", NULL),
            ds_json_string(net, "name", NULL), ds_json_string(net, "mode", NULL),
            ds_json_string(vae, "sha256", NULL), ds_json_string(t, "note", ""), j->id, ds_now_ms());
    free(sample);
    free(evaluate);
    if (!rc)
        rc = base_task_probe(r, base_id, ds_json_string(probe, "device_class", ""),
                             ds_json_string(probe, "sha256", ""), ds_json_int(probe, "n", 0),
                             ds_json_int(probe, "seed", 0), err);
    return rc;
}

static int recorded_event(ds_registry *r, const ds_job *j, const char *ref, const char *sha256,
                          const json_t *t, ds_error *err) {
    json_t *p = json_pack("{s:s,s:s,s:I,s:I}", "name", ref + 5, "sha256", sha256, "job",
                          (json_int_t)j->id, "classes", (json_int_t)ds_json_int(t, "classes", 0)),
           *fd = json_object_get(t, "fd");
    json_object_set(p, "fd", fd ? fd : json_null());
    return ds_event_put(r, "base.recorded", ref, p, err);
}

int base_task_record(ds_registry *r, const ds_job *j, int64_t base_id, const json_t *spec,
                     const json_t *result, const ds_blob *reference, json_t **kept, ds_error *err) {
    int64_t have = 0;
    char sha256[DS_HEX_SIZE];
    int rc = db_int(r, &have, err, "SELECT 1 FROM base_tasks WHERE base_id = ?1", "i", base_id);
    int first = rc == DS_ENOTFOUND;
    if (rc && !first)
        return rc;
    sqlite3_stmt *q =
        db_query(r, err, "SELECT name, sha256 FROM bases WHERE id = ?1", "i", base_id);
    if ((rc = db_step(r, q, err)) <= 0)
        return rc ? rc : ds_fail(err, DS_ENOTFOUND, "base %lld does not exist", (long long)base_id);
    json_t *ref = ref_of(q);
    db_text(sha256, sizeof sha256, q, 1);
    db_reset(q);
    *kept = json_deep_copy(result);
    json_t *t = json_object_get(*kept, "base_task");
    rc = first ? insert(r, j, base_id, spec, t, reference, err) : 0;
    json_object_set_new(t, "ref", ref);
    json_object_set_new(t, "recorded", json_boolean(first));
    if (!rc && first)
        rc = recorded_event(r, j, ds_json_string(t, "ref", ""), sha256, t, err);
    return rc;
}

int base_task_queue(ds_registry *r, const json_t *base, ds_error *err) {
    int64_t there = 0, job = 0, base_id = ds_json_int(base, "id", 0);
    const char *sha = ds_json_string(base, "sha256", "");
    int rc =
        db_int(r, &there, err,
               "SELECT EXISTS (SELECT 1 FROM base_tasks WHERE base_id = ?1) OR EXISTS (SELECT 1"
               " FROM jobs WHERE kind = " SQL_VERIFY " AND state IN " SQL_LIVE " AND"
               " json_extract(payload, '$.base_task') AND json_extract(payload, '$.base') = ?2)",
               "is", base_id, sha);
    if (rc || there || json_array_size(json_object_get(base, "missing")))
        return rc;
    json_t *payload = json_pack("{s:s, s:b}", "base", sha, "base_task", 1);
    rc = ds_job_add(r, DS_JOB_VERIFY, ds_json_string(base, "name", ""), payload, 3, &job, err);
    json_decref(payload);
    if (!rc) /* what a person asks for comes first: a large base may take long */
        rc = db_run(r, err, "UPDATE jobs SET priority = 0, base_id = ?2 WHERE id = ?1", "ii", job,
                    base_id);
    return rc;
}

int base_task_unqueue(ds_registry *r, int64_t base_id, ds_error *err) {
    int64_t job = 0;
    int running = 0, rc = db_int(r, &job, err,
                                 "SELECT id FROM jobs WHERE kind = " SQL_VERIFY
                                 " AND state = " SQL_QUEUED " AND base_id = ?1"
                                 " AND json_extract(payload, '$.base_task')",
                                 "i", base_id);
    if (rc == DS_ENOTFOUND)
        return 0;
    return rc ? rc : ds_job_cancel(r, job, &running, err);
}
