/* registry/flow/results.c - scan results, and the ends that need no further rows. */
#include "registry/flow/results.h"
#include "base/json.h"
#include "base/log.h"
#include "registry/core/events.h"
#include "registry/rows/base_tasks.h"
#include "registry/store/blobs.h"
#include "registry/rows/datasets.h"
#include "registry/core/db.h"
#include "registry/rows/gate_rows.h"
#include "registry/jobs/jobs_internal.h"
#include "registry/rows/rejected.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CLASSES 10000 /* as in a scan's spec */

static int check_classes(const json_t *list, ds_error *err) {
    if (!json_is_array(list))
        return ds_fail(err, DS_EINVAL, "scan result: 'classes' is missing or not a list");
    if (json_array_size(list) > MAX_CLASSES)
        return ds_fail(err, DS_ELIMIT, "scan result: %zu classes, limit %d", json_array_size(list),
                       MAX_CLASSES);
    size_t i;
    json_t *e;
    json_array_foreach(list, i, e) {
        const json_t *images = json_object_get(e, "images");
        if (!json_is_string(json_object_get(e, "name")) || !json_is_integer(images) ||
            json_integer_value(images) < 0)
            return ds_fail(err, DS_EINVAL, "scan result: entry %zu of 'classes' is malformed", i);
    }
    return 0;
}

struct scan {
    const char *tree;
    int64_t images, bytes, rejected_count;
    json_t *classes, *rejected;
};

static int read_scan(const json_t *result, struct scan *s, ds_error *err) {
    int rc = ds_json_need_string(result, "tree_digest", &s->tree, err);
    if (rc || (rc = ds_json_need_int(result, "images", &s->images, err)) ||
        (rc = ds_json_need_int(result, "bytes", &s->bytes, err)))
        return rc;
    s->classes = json_object_get(result, "classes");
    s->rejected = json_object_get(result, "rejected");
    if ((rc = check_classes(s->classes, err)) || (rc = rejected_check(s->rejected, err)))
        return rc;
    s->rejected_count =
        ds_json_int(result, "rejected_count", (int64_t)json_array_size(s->rejected));
    if (!ds_digest_valid(s->tree))
        return ds_fail(err, DS_EINVAL, "scan result: tree_digest is not a sha256 digest");
    if (s->images < 1 || s->bytes < 0 || s->rejected_count < 0 || json_array_size(s->classes) < 1)
        return ds_fail(err, DS_EINVAL, "scan result: no images or no classes");
    return 0;
}

static int insert_version(ds_registry *r, int64_t dataset, const json_t *result,
                          const struct scan *s, int64_t *version_id, ds_error *err) {
    json_t *stats = json_object(), *w = json_object_get(result, "width"),
           *h = json_object_get(result, "height");
    json_object_set(stats, "width", w ? w : json_null());
    json_object_set(stats, "height", h ? h : json_null());
    char *stats_text = ds_json_canonical(stats), *classes = ds_json_canonical(s->classes);
    int rc =
        db_run(r, err,
               "INSERT INTO dataset_versions(dataset_id, version, tree_digest, manifest_digest,"
               " images, bytes, class_count, classes, stats, created_at) SELECT ?1,"
               " coalesce(max(version), 0) + 1, ?2, ?2, ?3, ?4, ?5, ?6, ?7, ?8"
               " FROM dataset_versions WHERE dataset_id = ?1",
               "isiiissi", dataset, s->tree, s->images, s->bytes,
               (int64_t)json_array_size(s->classes), classes, stats_text, ds_now_ms());
    *version_id = db_rowid(r);
    free(stats_text);
    free(classes);
    json_decref(stats);
    return rc;
}

/* Find or make the version; *changed tells whether the dataset's content is now another one. */
static int version_of_scan(ds_registry *r, int64_t dataset, const json_t *result,
                           const struct scan *s, int64_t *id, int *changed, int *first,
                           ds_error *err) {
    int64_t before = 0;
    int rc = db_int(r, &before, err, "SELECT version_id FROM datasets WHERE id = ?1", "i", dataset);
    if (rc && rc != DS_ENOTFOUND)
        return rc;
    *first = before == 0;
    rc = db_int(r, id, err,
                "SELECT id FROM dataset_versions WHERE dataset_id = ?1 AND tree_digest = ?2", "is",
                dataset, s->tree);
    if (rc == DS_ENOTFOUND)
        rc = insert_version(r, dataset, result, s, id, err);
    if (rc)
        return rc;
    *changed = *id != before;
    return rejected_put(r, *id, REJECTED_SCAN, s->rejected, s->rejected_count, err);
}

static int scan_event(ds_registry *r, const ds_job *j, int64_t version_id, const struct scan *s,
                      const char *type, ds_error *err) {
    char subject[DS_NAME_SIZE + 16];
    int64_t version = 0;
    int rc = db_int(r, &version, err, "SELECT version FROM dataset_versions WHERE id = ?1", "i",
                    version_id);
    if (rc)
        return rc;
    snprintf(subject, sizeof subject, "dataset:%s", j->name);
    return ds_event_put(r, type, subject,
                        json_pack("{s:I,s:I,s:I,s:I,s:s}", "version", (json_int_t)version, "images",
                                  (json_int_t)s->images, "classes",
                                  (json_int_t)json_array_size(s->classes), "rejected",
                                  (json_int_t)s->rejected_count, "tree_digest", s->tree),
                        err);
}

static int scan_rows(ds_registry *r, const ds_job *j, const json_t *result, const struct scan *s,
                     const ds_blob *manifest, int *changed, ds_error *err) {
    int64_t version_id = 0, was_ready = 0, asked = 0;
    int first = 0, rc = ds_blob_add(r, manifest, "application/x-ndjson", err);
    if (!rc) /* one that had failed is ready again: that is worth an event */
        rc = db_int(r, &was_ready, err,
                    "SELECT state = 'ready' AND scan_done > 0 FROM datasets WHERE id = ?1", "i",
                    j->dataset_id);
    if (!rc)
        rc = job_scan_seq(r, j->id, &asked, err);
    if (!rc)
        rc = version_of_scan(r, j->dataset_id, result, s, &version_id, changed, &first, err);
    if (!rc)
        rc = db_run(r, err,
                    "UPDATE datasets SET version_id = ?2, error_code = NULL, error_message = NULL,"
                    " state = CASE state WHEN 'removed' THEN state ELSE 'ready' END,"
                    " scan_unchanged = ?3, scan_done = max(scan_done, ?4) WHERE id = ?1",
                    "iiii", j->dataset_id, version_id, (int64_t) !*changed, asked);
    if (!rc && !*changed && was_ready)
        return job_forget(r, j, err);
    if (!rc && *changed)
        rc = jobs_supersede(r, j->dataset_id, version_id, err);
    if (!rc)
        rc = db_run(r, err, "UPDATE jobs SET dataset_version_id = ?2 WHERE id = ?1", "ii", j->id,
                    version_id);
    if (!rc)
        rc = scan_event(r, j, version_id, s,
                        !*changed ? "dataset.unchanged"
                        : first   ? "dataset.scanned"
                                  : "dataset.changed",
                        err);
    if (rc)
        return rc;
    json_t *kept = json_deep_copy(result); /* the rejected files are with the version */
    json_object_del(kept, "rejected");
    json_object_del(kept, "classes");
    json_object_set_new(kept, "changed", json_boolean(*changed));
    job_end end = {.state = DS_JOB_DONE, .exit_code = 0, .exit_signal = -1, .result = kept};
    rc = job_finish(r, j, &end, err);
    json_decref(kept);
    return rc;
}

int ds_scan_finish(ds_registry *r, int64_t job, const json_t *result, const ds_blob *manifest,
                   int *changed, ds_error *err) {
    struct scan s;
    ds_job j;
    int ignored, rc = read_scan(result, &s, err);
    if (rc || (rc = job_read_running(r, job, &j, err)))
        return rc;
    if (j.kind != DS_JOB_SCAN)
        return ds_fail(err, DS_EINVAL, "job %lld is not a scan", (long long)job);
    if (strcmp(manifest->sha256, s.tree) != 0)
        return ds_fail(err, DS_EINTEGRITY,
                       "scan result: the manifest has sha256 %s, tree_digest is %s",
                       manifest->sha256, s.tree);
    if ((rc = db_begin(r, err)))
        return rc;
    rc = scan_rows(r, &j, result, &s, manifest, changed ? changed : &ignored, err);
    return db_end(r, rc, err);
}

/* The base that a verification is about: jobs have it only once they ended. */
static int verified_base(ds_registry *r, const ds_verification *v, int64_t *id, ds_error *err) {
    const char *sha = ds_json_string(json_object_get(v->spec, "base"), "sha256", "");
    int rc = db_int(r, id, err, "SELECT id FROM bases WHERE sha256 = ?1", "s", sha);
    if (rc == DS_ENOTFOUND)
        return ds_fail(err, DS_ECONFLICT, "job %lld: its spec is about a base that is not known",
                       (long long)v->job);
    if (!rc)
        rc = db_run(r, err, "UPDATE jobs SET base_id = ?2 WHERE id = ?1", "ii", v->job, *id);
    return rc;
}

static int verify_rows(ds_registry *r, const ds_verification *v, const ds_job *j, int passed,
                       int recorded, ds_error *err) {
    const json_t *gate = json_object_get(v->result, "gate");
    json_t *kept = NULL;
    char subject[32];
    int64_t base = 0, id = 0;
    snprintf(subject, sizeof subject, "job:%lld", (long long)v->job);
    int rc = verified_base(r, v, &base, err);
    if (!rc)
        rc = gate_insert(r, v->job, gate, NULL, subject, base, &id, err);
    if (!rc && recorded)
        rc = base_task_record(r, j, base, v->spec, v->result, v->base_reference, &kept, err);
    job_end end = {.state = passed ? DS_JOB_DONE : DS_JOB_REJECTED,
                   .exit_code = passed ? 0 : ds_error_exit(DS_EREFUSED),
                   .exit_signal = -1,
                   .code = passed ? NULL : "DS_EREFUSED",
                   .message = passed ? NULL : ds_json_string(gate, "reason", "refused by the gate"),
                   .result = kept ? kept : v->result};
    if (!rc)
        rc = job_finish(r, j, &end, err);
    json_decref(kept);
    return rc;
}

int ds_verify_finish(ds_registry *r, const ds_verification *v, ds_error *err) {
    ds_job j;
    int passed = 0, recorded = 0,
        rc = gate_check(json_object_get(v->result, "gate"), NULL, &passed, err);
    if (!rc)
        rc = gate_check_tasks(json_object_get(v->result, "gate"), v->spec, err);
    if (!rc)
        rc = base_task_check(v->result, v->base_reference, &recorded, err);
    if (rc || (rc = job_read_running(r, v->job, &j, err)))
        return rc;
    if (j.kind != DS_JOB_VERIFY)
        return ds_fail(err, DS_EINVAL, "job %lld does not verify", (long long)v->job);
    if ((rc = db_begin(r, err)))
        return rc;
    rc = verify_rows(r, v, &j, passed, recorded, err);
    return db_end(r, rc, err);
}

int ds_job_done(ds_registry *r, int64_t job, const json_t *result, ds_error *err) {
    ds_job j;
    int rc = job_read_running(r, job, &j, err);
    if (rc)
        return rc;
    if (j.kind != DS_JOB_SAMPLE)
        return ds_fail(err, DS_EINVAL, "a %s job is finished with its own function",
                       ds_job_kind_name(j.kind));
    if ((rc = db_begin(r, err)))
        return rc;
    job_end end = {.state = DS_JOB_DONE, .exit_code = 0, .exit_signal = -1, .result = result};
    rc = job_finish(r, &j, &end, err);
    return db_end(r, rc, err);
}
