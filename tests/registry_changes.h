/* tests/registry_changes.h - a life of a registry as a list of changes, each of which is one
 * transaction: from the first dataset to its removal.
 *
 * `countdown` is suspended (0) while a change asks for what is no part of it. */
#ifndef DS_TESTS_REGISTRY_CHANGES_H
#define DS_TESTS_REGISTRY_CHANGES_H

#include "registry/db.h"
#include "tests/registry_fixture.h"

static int countdown;

static ds_job taken(ds_registry *r, enum ds_job_kind kind) {
    ds_job list[4];
    int n, wait = countdown; /* this is no part of the change */
    countdown = 0;
    MUST(ds_jobs_running(r, list, 4, &n, err));
    countdown = wait;
    for (int i = 0; i < n; i++)
        if (list[i].kind == kind)
            return list[i];
    ck_abort_msg("no such job runs");
}

static int add(ds_registry *r, ds_error *err) {
    ds_dataset_new d = {.name = "d", .path = "/a", .watch = -1};
    int64_t id, seq;
    int created;
    return ds_dataset_add(r, &d, &id, &created, &seq, err);
}

static int add_again(ds_registry *r, ds_error *err) {
    json_t *options = json_pack("{si}", "steps", 5);
    ds_dataset_new d = {.name = "d",
                        .path = "/a",
                        .watch = 0,
                        .options = options,
                        .base_id = 1,
                        .publish_worse = 1};
    int64_t id, seq;
    int created;
    int rc = ds_dataset_add(r, &d, &id, &created, &seq, err);
    json_decref(options);
    return rc;
}

static int rescan(ds_registry *r, ds_error *err) { return ds_dataset_rescan(r, "d", NULL, err); }
static int reconcile(ds_registry *r, ds_error *err) { return ds_reconcile(r, NULL, err); }

static int claim(ds_registry *r, ds_error *err) {
    ds_job j;
    int rc = ds_job_next(r, ~0u, INT64_MAX, &j, NULL, err);
    return rc ? rc : ds_job_claim(r, j.id, err);
}

static int scanned(ds_registry *r, const char *content, ds_error *err) {
    return fx_scan_finish(r, taken(r, DS_JOB_SCAN).id, content, NULL, err);
}
static int scan_one(ds_registry *r, ds_error *err) { return scanned(r, "one", err); }
static int scan_two(ds_registry *r, ds_error *err) { return scanned(r, "two", err); }

static int published(ds_registry *r, int passed, const char *content, ds_error *err) {
    ds_job j = taken(r, DS_JOB_TRAIN);
    int wait = countdown;
    char name[DS_HEX_SIZE + 16];
    ds_blob a, f;
    json_t *spec, *result;
    countdown = 0;
    ck_assert_int_eq(ds_store_put_bytes(r->store, content, strlen(content), &a, NULL), 0);
    ck_assert_int_eq(ds_store_put_bytes(r->store, "reference", 9, &f, NULL), 0);
    fx_training(r, &j, passed, &a, &f, &spec, &result);
    countdown = wait;
    ds_publication p = {
        .job = j.id, .spec = spec, .result = result, .adapter = &a, .reference = &f};
    int rc = ds_publish(r, &p, name, err);
    json_decref(spec);
    json_decref(result);
    return rc;
}
static int publish_one(ds_registry *r, ds_error *err) { return published(r, 1, "one", err); }
static int publish_two(ds_registry *r, ds_error *err) { return published(r, 0, "two", err); }

static const ds_job_failure failure = {
    .exit_code = 1, .exit_signal = -1, .code = "DS_EIO", .message = "no luck", .retry = 1};
static int fail_train(ds_registry *r, ds_error *err) {
    return ds_job_fail(r, taken(r, DS_JOB_TRAIN).id, &failure, NULL, err);
}
static int postpone(ds_registry *r, ds_error *err) {
    return ds_job_postpone(r, taken(r, DS_JOB_TRAIN).id, 0, &failure, err);
}
static int requeue(ds_registry *r, ds_error *err) {
    return ds_job_requeue(r, taken(r, DS_JOB_TRAIN).id, "the daemon stops", err);
}
static int progress(ds_registry *r, ds_error *err) {
    json_t *p = json_pack("{si}", "done", 3);
    int rc = ds_job_progress(r, taken(r, DS_JOB_TRAIN).id, "train", p, err);
    json_decref(p);
    return rc;
}
static int cancel_running(ds_registry *r, ds_error *err) {
    int running;
    return ds_job_cancel(r, taken(r, DS_JOB_SCAN).id, &running, err);
}
static int cancelled(ds_registry *r, ds_error *err) {
    return ds_job_cancelled(r, taken(r, DS_JOB_SCAN).id, 130, -1, err);
}
static int set_alias(ds_registry *r, ds_error *err) {
    json_t *o = NULL;
    int rc = ds_alias_set(r, "d", "prod", 1, -1, "as it was", &o, err);
    json_decref(o);
    return rc;
}
static int add_sample(ds_registry *r, ds_error *err) {
    int64_t id;
    json_t *payload = json_pack("{ss}", "ref", "d@v1");
    int rc = ds_job_add(r, DS_JOB_SAMPLE, "d", payload, 1, &id, err);
    json_decref(payload);
    return rc;
}
static int sampled(ds_registry *r, ds_error *err) {
    json_t *result = json_pack("{si}", "n", 1);
    int rc = ds_job_done(r, taken(r, DS_JOB_SAMPLE).id, result, err);
    json_decref(result);
    return rc;
}
static int delete_rejected(ds_registry *r, ds_error *err) {
    return ds_adapter_delete(r, "d@v2", 0, err);
}
static int remove_set(ds_registry *r, ds_error *err) { return ds_dataset_remove(r, "d", err); }
static int add_base(ds_registry *r, ds_error *err) {
    int64_t id;
    return ds_base_put(r, "xl", "/xl", NET_SHA, NULL, 0, &id, err);
}
static int choose_base(ds_registry *r, ds_error *err) { return ds_base_choose(r, 2, err); }
static int back_to_first(ds_registry *r, ds_error *err) { return ds_base_choose(r, 1, err); }
static int remove_base(ds_registry *r, ds_error *err) { return ds_base_remove(r, 2, NULL, err); }

static const struct {
    const char *name;
    int (*make)(ds_registry *r, ds_error *err);
} changes[] = {
    {"add", add},
    {"reconcile: scan", reconcile},
    {"claim scan", claim},
    {"scan finished", scan_one},
    {"reconcile: train", reconcile},
    {"claim train", claim},
    {"progress", progress},
    {"postpone", postpone},
    {"claim again", claim},
    {"requeue", requeue},
    {"claim a third time", claim},
    {"fail and retry", fail_train},
    {"claim a fourth time", claim},
    {"publish", publish_one},
    {"set alias", set_alias},
    {"rescan", rescan},
    {"reconcile: rescan", reconcile},
    {"claim rescan", claim},
    {"scan of another content", scan_two},
    {"reconcile: second training", reconcile},
    {"claim second training", claim},
    {"publish a rejected one", publish_two},
    {"sample", add_sample},
    {"claim sample", claim},
    {"sample done", sampled},
    {"add again", add_again},
    {"reconcile: third scan", reconcile},
    {"claim third scan", claim},
    {"cancel", cancel_running},
    {"cancelled", cancelled},
    {"delete", delete_rejected},
    {"add base", add_base},
    {"choose base", choose_base},
    {"first base again", back_to_first},
    {"remove base", remove_base},
    {"last rescan", rescan},
    {"reconcile: last scan", reconcile},
    {"claim last scan", claim},
    {"remove dataset", remove_set},
    {"reconcile: nothing", reconcile},
};
enum { CHANGES = sizeof changes / sizeof *changes };

#endif
