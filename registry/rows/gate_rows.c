#include "registry/rows/gate_rows.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/log.h"
#include "registry/core/events.h"
#include "registry/rows/refs.h"
#include "registry/rows/bars_internal.h"
#include "registry/rows/base_tasks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TASKS 100000

static int verdict_of(const json_t *o, int *passed) {
    const char *v = ds_json_string(o, "verdict", "");
    *passed = !strcmp(v, "passed");
    return *passed || !strcmp(v, "refused") ? 0 : -1;
}

int gate_check(const json_t *gate, const json_t *spec, int *passed, ds_error *err) {
    json_t *tasks = json_object_get(gate, "tasks"), *t;
    size_t i;
    int all = 1, one, refused = 0;
    if (!json_is_object(gate) || verdict_of(gate, passed))
        return ds_fail(err, DS_EINVAL, "result: 'gate.verdict' is neither passed nor refused");
    if (!json_is_array(tasks) || json_array_size(tasks) > MAX_TASKS)
        return ds_fail(err, DS_EINVAL, "result: 'gate.tasks' is missing or too long");
    json_array_foreach(tasks, i, t) {
        int64_t level = ds_json_int(t, "level", -1);
        if (!json_is_string(json_object_get(t, "name")) ||
            !json_is_string(json_object_get(t, "ref")) || level < 0 || level > 2 ||
            verdict_of(t, &one) ||
            /* neither proven nor measured: only a base without classes may be neither */
            (level == 0 && one && !base_task_ref(ds_json_string(t, "ref", ""))))
            return ds_fail(err, DS_EINVAL, "result: 'gate.tasks[%zu]' is malformed", i);
        all = all && one;
    }
    if (*passed && !all)
        return ds_fail(err, DS_EINVAL, "result: the gate passed although a task was refused");
    int rc = bars_check(gate, spec, &refused, err);
    if (!rc && *passed && refused)
        rc = ds_fail(err, DS_EINVAL, "result: the gate passed although its bars refused");
    return rc;
}

static int check_task_answered(const json_t *gate, const json_t *task, ds_error *err) {
    const char *name = ds_json_string(task, "name", ""), *ref = ds_json_string(task, "ref", "");
    size_t i;
    int n = 0;
    json_t *t;
    json_array_foreach(json_object_get(gate, "tasks"), i, t)
        n += !strcmp(ds_json_string(t, "name", ""), name) &&
             !strcmp(ds_json_string(t, "ref", ""), ref);
    return n == 1
               ? 0
               : ds_fail(err, DS_EINVAL, "result: the job's task %.80s is judged %d times", ref, n);
}

int gate_check_tasks(const json_t *gate, const json_t *spec, ds_error *err) {
    const json_t *base = json_object_get(spec, "base_task");
    size_t i;
    json_t *t;
    int rc = json_is_object(base) ? check_task_answered(gate, base, err) : 0;
    json_array_foreach(json_object_get(spec, "old_tasks"), i, t) {
        if (rc)
            break;
        rc = check_task_answered(gate, t, err);
    }
    return rc;
}

static int insert_task(ds_registry *r, int64_t gate, int64_t at, const json_t *t, ds_error *err) {
    return db_run(r, err,
                  "INSERT INTO gate_tasks(gate_id, position, name, ref, level, unchanged, verdict,"
                  " reason, fd_recorded, fd_now, fd_ci_low, fd_ci_high, kid_now, probe_recorded,"
                  " probe_now) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14,"
                  " ?15)",
                  "iissiissdddddss", gate, at, ds_json_string(t, "name", ""),
                  ds_json_string(t, "ref", ""), ds_json_int(t, "level", 0),
                  (int64_t)ds_json_bool(t, "unchanged", 0), ds_json_string(t, "verdict", ""),
                  ds_json_string(t, "reason", ""), ds_json_number(t, "fd_recorded", NAN),
                  ds_json_number(t, "fd_now", NAN), ds_json_number(t, "fd_ci_low", NAN),
                  ds_json_number(t, "fd_ci_high", NAN), ds_json_number(t, "kid_now", NAN),
                  ds_json_string(t, "probe_recorded", NULL), ds_json_string(t, "probe_now", NULL));
}

/* Measured and found good on a device whose samples were not known: from now on they are, and the
 * next time their digest is enough (level 1).  What is recorded is never replaced. */
static int record_probe(ds_registry *r, const json_t *t, int64_t base_id, ds_error *err) {
    const char *class = ds_json_string(t, "probe_class", NULL);
    const char *sha = ds_json_string(t, "probe_now", NULL);
    int base = base_task_ref(ds_json_string(t, "ref", ""));
    if (ds_json_int(t, "level", 0) == 1 || /* level 0 passes for a base only */
        strcmp(ds_json_string(t, "verdict", ""), "passed") || !class || !*class ||
        strlen(class) > 64 || !ds_digest_valid(sha))
        return 0;
    if (base)
        return base_task_probe(r, base_id, class, sha, ds_json_int(t, "probe_n", 0),
                               ds_json_int(t, "probe_seed", 0), err);
    ds_adapter_ref a;
    int rc = ds_adapter_resolve(r, ds_json_string(t, "ref", ""), &a, err);
    if (rc == DS_ENOTFOUND || rc == DS_EINVAL) /* deleted meanwhile: nothing to remember */
        return 0;
    if (rc)
        return rc;
    return db_run(r, err,
                  "INSERT INTO probes(adapter_version_id, device_class, sha256, n, seed,"
                  " created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
                  " ON CONFLICT (adapter_version_id, device_class) DO NOTHING",
                  "issiii", a.id, class, sha, ds_json_int(t, "probe_n", 0),
                  ds_json_int(t, "probe_seed", 0), ds_now_ms());
}

int gate_insert(ds_registry *r, int64_t job, const json_t *gate, const json_t *rule,
                const char *subject, int64_t base_id, int64_t *gate_id, ds_error *err) {
    char *rule_text = rule ? ds_json_canonical(rule) : NULL;
    int passed = !strcmp(ds_json_string(gate, "verdict", ""), "passed");
    int rc = db_run(r, err,
                    "INSERT INTO gates(job_id, verdict, reason, worst_task, delta, rule, at)"
                    " VALUES (?1, ?2, ?3, ?4, ?5, coalesce(?6, '{}'), ?7)",
                    "isssdsi", job, ds_json_string(gate, "verdict", ""),
                    ds_json_string(gate, "reason", ""), ds_json_string(gate, "worst_task", NULL),
                    ds_json_number(gate, "delta", NAN), rule_text, ds_now_ms());
    free(rule_text);
    if (rc)
        return rc;
    int64_t id = *gate_id = db_rowid(r);
    size_t i;
    json_t *t, *tasks = json_object_get(gate, "tasks");
    json_array_foreach(tasks, i, t) {
        if ((rc = insert_task(r, id, (int64_t)i, t, err)) ||
            (rc = record_probe(r, t, base_id, err)))
            return rc;
    }
    const json_t *self = json_object_get(gate, "self");
    if ((rc = bars_insert(r, id, self, err)))
        return rc;
    json_t *payload =
        json_pack("{s:I,s:I}", "job", (json_int_t)job, "tasks", (json_int_t)json_array_size(tasks));
    static const char *const copied[] = {"reason", "worst_task", "delta"};
    for (i = 0; i < 3; i++)
        if (json_object_get(gate, copied[i]))
            json_object_set(payload, copied[i], json_object_get(gate, copied[i]));
    if (json_is_object(self))
        json_object_set(payload, "self", json_object_get(self, "verdict"));
    return ds_event_put(r, passed ? "gate.passed" : "gate.refused", subject, payload, err);
}
