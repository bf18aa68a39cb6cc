#include "registry/rows/evaluations.h"
#include "base/mem.h"
#include "registry/rows/refs.h"
#include "registry/rows/bars_internal.h"

#include <math.h>
#include <string.h>

#define EVALUATION_SELECT                                                                          \
    "SELECT e.id, e.at, a.name || '@v' || av.version, d.name, e.subject, e.metric, e.value,"       \
    " e.ci_low, e.ci_high, e.n_real, e.n_fake, e.seed, e.feature_net, e.resize, e.sample_digest,"  \
    " e.job_id FROM evaluations e"                                                                 \
    " LEFT JOIN adapter_versions av ON av.id = e.adapter_version_id"                               \
    " LEFT JOIN adapters a ON a.id = av.adapter_id"                                                \
    " LEFT JOIN dataset_versions dv ON dv.id = e.dataset_version_id"                               \
    " LEFT JOIN datasets d ON d.id = dv.dataset_id"

static json_t *evaluation_row(sqlite3_stmt *q) {
    json_t *o = json_object();
    js_int(o, "id", q, 0);
    js_time(o, "at", q, 1);
    js_text(o, "adapter", q, 2);
    js_text(o, "dataset", q, 3);
    js_text(o, "subject", q, 4);
    js_text(o, "metric", q, 5);
    js_num(o, "value", q, 6);
    js_num(o, "ci_low", q, 7);
    js_num(o, "ci_high", q, 8);
    js_int(o, "n_real", q, 9);
    js_int(o, "n_fake", q, 10);
    js_int(o, "seed", q, 11);
    js_text(o, "feature_net", q, 12);
    js_text(o, "resize", q, 13);
    js_text(o, "sample_digest", q, 14);
    js_int(o, "job", q, 15);
    return o;
}

int ds_evaluation_metric_check(ds_registry *r, const char *metric, ds_error *err) {
    static const char *const known[] = {"fd",        "kid",          "class_accuracy",
                                        "memorised", "heldout_loss", "heldout_loss_start"};
    int64_t id;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(metric, known[i]))
            return 0;
    int rc =
        db_int(r, &id, err, "SELECT id FROM evaluations WHERE metric = ?1 LIMIT 1", "s", metric);
    return rc != DS_ENOTFOUND
               ? rc
               : ds_fail(err, DS_EINVAL,
                         "there is no metric '%.60s': there are fd, kid, class_accuracy, "
                         "memorised, heldout_loss and heldout_loss_start",
                         metric);
}

int ds_evaluation_list(ds_registry *r, ds_page page, const ds_evaluation_filter *f, json_t **out,
                       ds_error *err) {
    static const ds_evaluation_filter any;
    f = f ? f : &any;
    int64_t before, adapter = 0;
    int limit = page_limit(page), rc = page_cursor(page, &before, err);
    if (!rc && f->adapter) {
        ds_adapter_ref ref;
        rc = ds_adapter_resolve(r, f->adapter, &ref, err);
        adapter = rc ? 0 : ref.id;
    }
    if (rc)
        return rc;
    ds_buf sql = {0};
    ds_buf_addf(&sql, "%s WHERE e.id < ?1%s%s%s ORDER BY e.id DESC LIMIT ?2", EVALUATION_SELECT,
                f->adapter ? " AND e.adapter_version_id = ?3" : " AND ?3 IS NULL",
                f->dataset
                    ? " AND e.dataset_version_id IN (SELECT x.id FROM dataset_versions x JOIN"
                      " datasets y ON y.id = x.dataset_id WHERE y.name = ?4)"
                    : " AND ?4 IS NULL",
                f->metric ? " AND e.metric = ?5" : " AND ?5 IS NULL");
    sqlite3_stmt *q = db_query(r, err, sql.data, "iiIss", before, (int64_t)limit + 1, adapter,
                               f->dataset, f->metric);
    ds_buf_release(&sql);
    return page_collect(r, q, page, 0, evaluation_row, out, err);
}

static int gate_tasks(ds_registry *r, int64_t gate, json_t *list, ds_error *err) {
    sqlite3_stmt *q = db_query(r, err,
                               "SELECT name, ref, level, unchanged, verdict, reason, fd_recorded,"
                               " fd_now, fd_ci_low, fd_ci_high, kid_now, probe_recorded, probe_now"
                               " FROM gate_tasks WHERE gate_id = ?1 ORDER BY position",
                               "i", gate);
    int rc;
    while ((rc = db_step(r, q, err)) > 0) {
        json_t *o = json_object();
        js_text(o, "name", q, 0);
        js_text(o, "ref", q, 1);
        js_int(o, "level", q, 2);
        json_object_set_new(o, "unchanged", json_boolean(sqlite3_column_int(q, 3)));
        js_text(o, "verdict", q, 4);
        js_text(o, "reason", q, 5);
        js_num(o, "fd_recorded", q, 6);
        js_num(o, "fd_now", q, 7);
        js_num(o, "fd_ci_low", q, 8);
        js_num(o, "fd_ci_high", q, 9);
        js_num(o, "kid_now", q, 10);
        js_text(o, "probe_recorded", q, 11);
        js_text(o, "probe_now", q, 12);
        json_array_append_new(list, o);
    }
    return rc;
}

int ds_gate_of_job(ds_registry *r, int64_t job, json_t **out, ds_error *err) {
    sqlite3_stmt *q = db_query(r, err,
                               "SELECT id, verdict, reason, worst_task, delta, rule, at FROM gates"
                               " WHERE job_id = ?1",
                               "i", job);
    int rc = db_step(r, q, err);
    if (rc < 0)
        return rc;
    if (rc == 0) {
        *out = json_null();
        return 0;
    }
    int64_t id = sqlite3_column_int64(q, 0);
    json_t *o = json_object(), *tasks = json_array();
    js_text(o, "verdict", q, 1);
    js_text(o, "reason", q, 2);
    js_text(o, "worst_task", q, 3);
    js_num(o, "delta", q, 4);
    js_doc(o, "rule", q, 5);
    js_time(o, "at", q, 6);
    json_object_set_new(o, "tasks", tasks);
    db_reset(q);
    json_t *self = NULL;
    rc = gate_tasks(r, id, tasks, err);
    if (!rc && !(rc = bars_object(r, id, &self, err)))
        json_object_set_new(o, "self", self);
    if (rc) {
        json_decref(o);
        return rc;
    }
    *out = o;
    return 0;
}
