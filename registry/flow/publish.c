/* registry/flow/publish.c - ds_publish: one transaction from result.json to a published adapter. */
#include "base/json.h"
#include "base/log.h"
#include "contract/methods.h"
#include "registry/rows/aliases.h"
#include "registry/core/events.h"
#include "registry/rows/bars_internal.h"
#include "registry/rows/base_tasks.h"
#include "registry/store/blobs.h"
#include "registry/rows/datasets.h"
#include "registry/rows/gate_rows.h"
#include "registry/jobs/jobs_internal.h"
#include "registry/rows/rejected.h"
#include "registry/flow/results.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_EVALUATIONS 1000

/* What is taken out of spec and result; strings borrowed from them. */
struct facts {
    const char *name, *method;
    int64_t version, steps, seed, parameters, rank;
    json_t *gate, *evaluations, *probe;
    int passed, forced, recorded; /* recorded: task 0 of the base */
};

static int need_digest(const json_t *doc, const char *member, const char *what, const ds_blob *blob,
                       ds_error *err) {
    const char *sha;
    json_t *o = json_object_get(doc, member);
    if (!json_is_object(o))
        return blob ? ds_fail(err, DS_EINVAL, "result: '%s' is missing", member) : 0;
    int rc = ds_json_need_string(o, "sha256", &sha, err);
    if (!rc && (!blob || strcmp(sha, blob->sha256) != 0))
        rc = ds_fail(err, DS_EINTEGRITY, "result names the %s %s, the stored one is %s", what, sha,
                     blob ? blob->sha256 : "absent");
    return rc;
}

static int check_evaluations(const json_t *list, ds_error *err) {
    size_t i;
    json_t *e;
    if (!json_is_array(list) || json_array_size(list) > MAX_EVALUATIONS)
        return ds_fail(err, DS_EINVAL, "result: 'evaluations' is missing or too long");
    json_array_foreach(list, i, e) {
        if (!json_is_string(json_object_get(e, "subject")) ||
            !json_is_string(json_object_get(e, "metric")))
            return ds_fail(err, DS_EINVAL, "result: 'evaluations[%zu]' is malformed", i);
    }
    return 0;
}

static double measured(const json_t *list, const char *subject, const char *metric, int64_t *n) {
    size_t i;
    json_t *e;
    json_array_foreach(list, i, e) {
        if (!strcmp(ds_json_string(e, "subject", ""), subject) &&
            !strcmp(ds_json_string(e, "metric", ""), metric)) {
            if (n)
                *n = ds_json_int(e, "n_fake", 0);
            return ds_json_number(e, "value", NAN);
        }
    }
    return NAN;
}

/* What was compared with the bars is what is recorded; later versions are compared with that. */
static int check_distance(const struct facts *f, ds_error *err) {
    double fd = measured(f->evaluations, "adapter", "fd", NULL),
           judged = ds_json_number(json_object_get(f->gate, "self"), "fd", NAN);
    if (isnan(judged) || fabs(fd - judged) <= 1e-3 * fabs(judged) + 1e-6)
        return 0;
    return ds_fail(err, DS_EINVAL,
                   "result: FD of the adapter is %g in 'evaluations', %g in 'gate.self'", fd,
                   judged);
}

/* The steps that were done: a training with patience or max_time may have ended before all. */
static int read_steps(const ds_publication *p, int64_t asked, int64_t *steps, ds_error *err) {
    *steps = ds_json_int(p->result, "steps", asked);
    return *steps > 0 && *steps <= asked
               ? 0
               : ds_fail(err, DS_EINVAL, "result: 'steps' is %lld, the training was of %lld",
                         (long long)*steps, (long long)asked);
}

static int read_facts(const ds_publication *p, struct facts *f, ds_error *err) {
    json_t *method, *train, *adapter;
    const char *status;
    int64_t asked = 0;
    int rc;
    if ((rc = ds_json_need_string(p->spec, "name", &f->name, err)) ||
        (rc = ds_name_check("adapter", f->name, err)) ||
        (rc = ds_json_need_int(p->spec, "version", &f->version, err)) ||
        (rc = ds_json_need_object(p->spec, "method", &method, err)) ||
        (rc = ds_json_need_string(method, "name", &f->method, err)) ||
        (rc = ds_json_need_object(p->spec, "train", &train, err)) ||
        (rc = ds_json_need_int(train, "steps", &asked, err)) ||
        (rc = read_steps(p, asked, &f->steps, err)) ||
        (rc = ds_json_need_int(train, "seed", &f->seed, err)) ||
        (rc = ds_json_need_string(p->result, "status", &status, err)) ||
        (rc = ds_json_need_object(p->result, "adapter", &adapter, err)) ||
        (rc = need_digest(p->result, "adapter", "adapter", p->adapter, err)) ||
        (rc = need_digest(p->result, "reference", "reference statistics", p->reference, err)))
        return rc;
    f->parameters = ds_json_int(adapter, "parameters", 0);
    f->rank =
        ds_preset_keeps(ds_preset_find(f->method), "rank") ? ds_json_int(method, "rank", 0) : 0;
    f->gate = json_object_get(p->result, "gate");
    f->evaluations = json_object_get(p->result, "evaluations");
    f->probe = json_object_get(p->result, "probe");
    f->forced = !strcmp(ds_json_string(json_object_get(f->gate, "self"), "verdict", ""), "forced");
    if ((rc = gate_check(f->gate, p->spec, &f->passed, err)) ||
        (rc = gate_check_tasks(f->gate, p->spec, err)) ||
        (rc = base_task_check(p->result, p->base_reference, &f->recorded, err)) ||
        (rc = check_evaluations(f->evaluations, err)) || (rc = check_distance(f, err)))
        return rc;
    if (strcmp(status, f->passed ? "ok" : "rejected") != 0)
        return ds_fail(err, DS_EINVAL, "result: status '%.20s' does not fit the gate's verdict",
                       status);
    const char *probe = ds_json_string(f->probe, "sha256", NULL);
    if (json_is_object(f->probe) && !ds_digest_valid(probe))
        return ds_fail(err, DS_EINVAL, "result: 'probe.sha256' is not a sha256 digest");
    return 0;
}

/* The spec must be about what the job is about: its base and its dataset version. */
static int check_spec(ds_registry *r, const ds_publication *p, const ds_job *j, ds_error *err) {
    const char *base = ds_json_string(json_object_get(p->spec, "base"), "sha256", "");
    const char *tree = ds_json_string(json_object_get(p->spec, "dataset"), "tree_digest", "");
    int64_t ok = 0;
    int rc = db_int(r, &ok, err,
                    "SELECT 1 FROM jobs j JOIN bases b ON b.id = j.base_id JOIN dataset_versions v"
                    " ON v.id = j.dataset_version_id WHERE j.id = ?1 AND b.sha256 = ?2"
                    " AND v.tree_digest = ?3",
                    "iss", j->id, base, tree);
    if (rc == DS_ENOTFOUND)
        return ds_fail(err, DS_ECONFLICT,
                       "job %lld: its spec is about another base or another content of the dataset",
                       (long long)j->id);
    return rc;
}

/* Take the next number of this name; it is used up from now on. */
static int take_version(ds_registry *r, const struct facts *f, int64_t dataset, int64_t *adapter,
                        ds_error *err) {
    int64_t last = 0;
    int rc = db_run(r, err,
                    "INSERT INTO adapters(name, dataset_id, created_at) VALUES (?1, ?2, ?3)"
                    " ON CONFLICT (name) DO UPDATE SET dataset_id = coalesce(?2, dataset_id)",
                    "sIi", f->name, dataset, ds_now_ms());
    if (!rc)
        rc = db_int(r, adapter, err, "SELECT id FROM adapters WHERE name = ?1", "s", f->name);
    if (!rc)
        rc = db_run(r, err, "UPDATE adapters SET last_version = last_version + 1 WHERE id = ?1",
                    "i", *adapter);
    if (!rc)
        rc =
            db_int(r, &last, err, "SELECT last_version FROM adapters WHERE id = ?1", "i", *adapter);
    if (!rc && last != f->version)
        rc =
            ds_fail(err, DS_ECONFLICT, "adapter '%s' is at version %lld; the job made version %lld",
                    f->name, (long long)last - 1, (long long)f->version);
    return rc;
}

static int insert_version(ds_registry *r, const ds_publication *p, const struct facts *f,
                          const ds_job *j, int64_t adapter, int64_t *id, ds_error *err) {
    int64_t n = 0, generation = 0;
    int rc = job_generation(r, j->id, &generation, err);
    if (rc)
        return rc;
    /* what it was compared with is in the gate's rows */
    static const char *const left_out[] = {"old_tasks", "bars", "base_task", "publish_worse"};
    json_t *config = json_deep_copy(p->spec);
    for (size_t i = 0; i < sizeof left_out / sizeof *left_out; i++)
        json_object_del(config, left_out[i]);
    char *text = ds_json_canonical(config);
    json_decref(config);
    double fd = measured(f->evaluations, "adapter", "fd", &n);
    rc = db_run(
        r, err,
        "INSERT INTO adapter_versions(adapter_id, version, status, digest, reference_digest,"
        " dataset_version_id, base_id, job_id, generation, method, rank, steps, seed, parameters,"
        " images, class_count, train_seconds, images_per_second, device_class, fd, fd_base, kid, n,"
        " config, created_at, class_accuracy, class_real, class_chance) VALUES (?1, ?2, ?3, ?4, ?5,"
        " ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23,"
        " ?24, ?25, ?26, ?27, ?28)",
        "iisssiiiisIiiiIIddsdddIsiddd", adapter, f->version, f->passed ? "published" : "rejected",
        p->adapter->sha256, p->reference ? p->reference->sha256 : NULL, j->dataset_version_id,
        j->base_id, j->id, generation, f->method, f->rank, f->steps, f->seed, f->parameters,
        ds_json_int(p->result, "images", 0), ds_json_int(p->result, "classes", 0),
        ds_json_number(p->result, "train_seconds", NAN),
        ds_json_number(p->result, "images_per_second", NAN),
        ds_json_string(p->result, "device_class", ds_json_string(f->probe, "device_class", NULL)),
        fd, measured(f->evaluations, "base", "fd", NULL),
        measured(f->evaluations, "adapter", "kid", NULL), n, text, ds_now_ms(),
        measured(f->evaluations, "adapter", "class_accuracy", NULL),
        measured(f->evaluations, "real", "class_accuracy", NULL),
        measured(f->evaluations, "chance", "class_accuracy", NULL));
    *id = db_rowid(r);
    free(text);
    return rc;
}

static int insert_evaluations(ds_registry *r, const struct facts *f, const ds_job *j,
                              int64_t version_id, ds_error *err) {
    size_t i;
    json_t *e;
    json_array_foreach(f->evaluations, i, e) {
        int rc =
            db_run(r, err,
                   "INSERT INTO evaluations(at, job_id, adapter_version_id, dataset_version_id,"
                   " base_id, subject, metric, value, ci_low, ci_high, n_real, n_fake, seed,"
                   " feature_net, resize, sample_digest) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8,"
                   " ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
                   "iiiiissdddIIisss", ds_now_ms(), j->id, version_id, j->dataset_version_id,
                   j->base_id, ds_json_string(e, "subject", ""), ds_json_string(e, "metric", ""),
                   ds_json_number(e, "value", NAN), ds_json_number(e, "ci_low", NAN),
                   ds_json_number(e, "ci_high", NAN), ds_json_int(e, "n_real", 0),
                   ds_json_int(e, "n_fake", 0), ds_json_int(e, "seed", 0),
                   ds_json_string(e, "feature_net", NULL), ds_json_string(e, "resize", NULL),
                   ds_json_string(e, "sample_digest", NULL));
        if (rc)
            return rc;
    }
    return 0;
}

static int insert_probe(ds_registry *r, const struct facts *f, int64_t version_id, ds_error *err) {
    if (!json_is_object(f->probe))
        return 0;
    return db_run(
        r, err,
        "INSERT INTO probes(adapter_version_id, device_class, sha256, n, seed, created_at)"
        " VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        "issiii", version_id, ds_json_string(f->probe, "device_class", "unknown"),
        ds_json_string(f->probe, "sha256", NULL), ds_json_int(f->probe, "n", 0),
        ds_json_int(f->probe, "seed", 0), ds_now_ms());
}

static json_t *real_or_null(double x) { return isfinite(x) ? json_real(x) : json_null(); }

static int publish_events(ds_registry *r, const ds_publication *p, const struct facts *f,
                          const ds_job *j, const char *ref, ds_error *err) {
    char subject[DS_HEX_SIZE + 32];
    double fd = measured(f->evaluations, "adapter", "fd", NULL);
    double fd_base = measured(f->evaluations, "base", "fd", NULL);
    snprintf(subject, sizeof subject, "adapter:%s", ref);
    json_t *bar = NULL, *self = json_object_get(json_object_get(f->gate, "self"), "verdict");
    int64_t gate = 0;
    int rc = gate_insert(r, p->job, f->gate, json_object_get(p->spec, "gate"), subject, j->base_id,
                         &gate, err);
    if (!rc)
        rc = bars_deciding(r, gate, &bar, err);
    if (rc)
        return rc;
    json_t *payload = json_pack("{s:s,s:s,s:I}", "ref", ref, "digest", p->adapter->sha256, "job",
                                (json_int_t)p->job);
    json_object_set_new(payload, "fd", real_or_null(fd));
    json_object_set_new(payload, "fd_base", real_or_null(fd_base));
    json_object_set_new(payload, "class_accuracy",
                        real_or_null(measured(f->evaluations, "adapter", "class_accuracy", NULL)));
    json_object_set(payload, "self", self ? self : json_null());
    json_object_set_new(payload, "bar", bar);
    if (f->forced && f->passed)
        json_object_set_new(payload, "forced", json_true());
    return ds_event_put(r, f->passed ? "adapter.published" : "adapter.rejected", subject, payload,
                        err);
}

/* Pictures that could not be decoded are with the dataset version, not with the job; results of
 * older workers do not tell them. */
static int keep_rejected(ds_registry *r, const ds_publication *p, const ds_job *j, json_t **result,
                         ds_error *err) {
    json_t *list = json_object_get(p->result, "rejected");
    *result = json_copy((json_t *)(uintptr_t)p->result);
    json_object_del(*result, "rejected");
    if (!list)
        return 0;
    int rc = rejected_check(list, err);
    int64_t listed = (int64_t)json_array_size(list);
    int64_t count = ds_json_int(p->result, "rejected_count", listed);
    if (!rc && count < listed)
        rc = ds_fail(err, DS_EINVAL, "result: 'rejected_count' is too small");
    return rc ? rc : rejected_put(r, j->dataset_version_id, REJECTED_DECODE, list, count, err);
}

static int publish_rows(ds_registry *r, const ds_publication *p, const struct facts *f,
                        const ds_job *j, const char *ref, ds_error *err) {
    int64_t adapter = 0, id = 0;
    json_t *kept = NULL, *result = NULL;
    int rc = ds_blob_add(r, p->adapter, "application/vnd.safetensors", err);
    if (!rc && p->reference)
        rc = ds_blob_add(r, p->reference, "application/vnd.safetensors", err);
    if (!rc)
        rc = take_version(r, f, j->dataset_id, &adapter, err);
    if (!rc)
        rc = insert_version(r, p, f, j, adapter, &id, err);
    if (!rc)
        rc = insert_evaluations(r, f, j, id, err);
    if (!rc)
        rc = insert_probe(r, f, id, err);
    if (!rc)
        rc = publish_events(r, p, f, j, ref, err);
    if (!rc)
        rc = keep_rejected(r, p, j, &result, err);
    if (!rc && f->recorded)
        rc = base_task_record(r, j, j->base_id, p->spec, result, p->base_reference, &kept, err);
    if (!rc && f->passed)
        rc = ds_alias_set(r, f->name, "latest", f->version, -1,
                          f->forced ? "published although it is worse" : "passed the gate", NULL,
                          err);
    if (!rc && ds_json_bool(p->spec, "publish_worse", 0)) /* the wish counts once */
        rc = db_run(r, err, "UPDATE datasets SET publish_worse = 0 WHERE id = ?1", "i",
                    j->dataset_id);
    job_end end = {.state = f->passed ? DS_JOB_DONE : DS_JOB_REJECTED,
                   .exit_code = f->passed ? 0 : ds_error_exit(DS_EREFUSED),
                   .exit_signal = -1,
                   .code = f->passed ? NULL : "DS_EREFUSED",
                   .message =
                       f->passed ? NULL : ds_json_string(f->gate, "reason", "refused by the gate"),
                   .result = kept ? kept : result,
                   .adapter_version_id = id};
    if (!rc)
        rc = job_finish(r, j, &end, err);
    json_decref(kept);
    json_decref(result);
    return rc;
}

int ds_publish(ds_registry *r, const ds_publication *p, char ref[DS_HEX_SIZE + 16], ds_error *err) {
    struct facts f;
    ds_job j;
    int rc = read_facts(p, &f, err);
    if (rc || (rc = job_read_running(r, p->job, &j, err)))
        return rc;
    if (j.kind != DS_JOB_TRAIN)
        return ds_fail(err, DS_EINVAL, "job %lld does not train", (long long)p->job);
    if (strcasecmp(f.name, j.name) != 0)
        return ds_fail(err, DS_ECONFLICT, "job %lld is about '%s', its spec about '%s'",
                       (long long)p->job, j.name, f.name);
    if ((rc = check_spec(r, p, &j, err)))
        return rc;
    snprintf(ref, DS_HEX_SIZE + 16, "%s@v%lld", f.name, (long long)f.version);
    if ((rc = db_begin(r, err)))
        return rc;
    rc = publish_rows(r, p, &f, &j, ref, err);
    return db_end(r, rc, err);
}
