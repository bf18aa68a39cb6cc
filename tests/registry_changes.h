/* tests/registry_changes.h - a life of a registry as a list of changes, each of which is one
 * transaction: from the first dataset to its removal.
 *
 * `countdown` is suspended (0) while a change asks for what is no part of it. */
#ifndef DS_TESTS_REGISTRY_CHANGES_H
#define DS_TESTS_REGISTRY_CHANGES_H

#include "registry/db.h"
#include "registry/prune.h"
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
/* As if it had waited nine times. */
static int nine_times(ds_registry *r, ds_error *err) {
    return db_run(r, err, "UPDATE jobs SET postponed = 9 WHERE state = 'running'", "");
}
static int process(ds_registry *r, ds_error *err) {
    ds_process p = {.pid = 7, .start = 8, .boot_id = "b"};
    return ds_job_process(r, taken(r, DS_JOB_TRAIN).id, &p, err);
}
static int metric(ds_registry *r, ds_error *err) {
    return ds_job_metric(r, taken(r, DS_JOB_TRAIN).id, "loss", 3, 0.5, err);
}
static int lease(ds_registry *r, ds_error *err) {
    char path[PATH_MAX];
    ck_assert_int_eq(ds_store_path(r->store, NET_SHA, path, NULL), 0);
    json_t *spec = json_pack("{s{ss ss} s[{ss ss}]}", "a", "path", path, "sha256", NET_SHA, "b",
                             "path", "/elsewhere", "sha256", BASE_SHA);
    int rc = ds_blob_lease_spec(r, taken(r, DS_JOB_TRAIN).id, spec, err);
    json_decref(spec);
    return rc;
}
static int pause_set(ds_registry *r, ds_error *err) { return ds_dataset_pause(r, "d", 1, err); }
static int resume_set(ds_registry *r, ds_error *err) { return ds_dataset_pause(r, "d", 0, err); }
static int add_verify(ds_registry *r, ds_error *err) {
    int64_t id;
    return ds_job_add(r, DS_JOB_VERIFY, "", NULL, 1, &id, err);
}
/* Task 0 is recorded, and an old task was measured on a new class of devices. */
static int verified(ds_registry *r, ds_error *err) {
    json_t *result = fx_json(
        "{\"gate\":{\"verdict\":\"passed\",\"tasks\":[{\"name\":\"d\",\"ref\":\"d@v1\",\"level\":2,"
        "\"unchanged\":false,\"verdict\":\"passed\",\"probe_class\":\"gpu\",\"probe_now\":"
        "\"" NET_SHA "\",\"probe_n\":4,\"probe_seed\":1}]},\"base_task\":{\"probe\":{"
        "\"device_class\":\"cpu-test\",\"sha256\":\"" NET_SHA "\",\"n\":4,\"seed\":11},"
        "\"reference\":null,\"fd\":7.5,\"n\":256,\"classes\":6}}");
    int rc = fx_verify_finish(r, taken(r, DS_JOB_VERIFY).id, result, err);
    json_decref(result);
    return rc;
}
/* As a row of another program. */
static int forget_root(ds_registry *r, ds_error *err) {
    return db_run(r, err, "UPDATE datasets SET root_resolved = 0 WHERE id = 2", "");
}
static int resolve(ds_registry *r, ds_error *err) {
    int done;
    return ds_dataset_resolve(r, 2, "/real", &done, err);
}
static int rescan_all(ds_registry *r, ds_error *err) { return ds_dataset_rescan_all(r, err); }
static int remove_alias(ds_registry *r, ds_error *err) {
    return ds_alias_remove(r, "d", "prod", -1, err);
}
static int fail_scan(ds_registry *r, ds_error *err) {
    static const ds_job_failure f = {
        .exit_code = 2, .exit_signal = -1, .code = "DS_EINVAL", .message = "empty"};
    return ds_job_fail(r, taken(r, DS_JOB_SCAN).id, &f, NULL, err);
}
static int add_import(ds_registry *r, ds_error *err) {
    int64_t id;
    json_t *payload = json_pack("{ss}", "what", "base");
    int rc = ds_job_add(r, DS_JOB_IMPORT, "third", payload, 1, &id, err);
    json_decref(payload);
    return rc;
}
static int imported(ds_registry *r, ds_error *err) {
    json_t *spec = fx_json("{\"what\":\"base\",\"name\":\"third\",\"source\":\"/src\"}"),
           *result = fx_json("{\"what\":\"base\",\"name\":\"third\",\"sha256\":\"cccc1111cccc1111"
                             "cccc1111cccc1111cccc1111cccc1111cccc1111cccc1111\",\"config\":"
                             "{\"pixel\":true}}");
    ds_import i = {
        .job = taken(r, DS_JOB_IMPORT).id, .spec = spec, .result = result, .path = "/third"};
    int rc = ds_import_finish(r, &i, err);
    json_decref(spec);
    json_decref(result);
    return rc;
}
static int add_third(ds_registry *r, ds_error *err) {
    ds_dataset_new d = {.name = "f", .path = "/f", .watch = -1};
    int64_t id, seq;
    int created;
    return ds_dataset_add(r, &d, &id, &created, &seq, err);
}
static int scan_three(ds_registry *r, ds_error *err) { return scanned(r, "three", err); }
static int choose_third(ds_registry *r, ds_error *err) { return ds_base_choose(r, 3, err); }
static int rescan_third(ds_registry *r, ds_error *err) {
    return ds_dataset_rescan(r, "f", NULL, err);
}
static int requeue_scan(ds_registry *r, ds_error *err) {
    return ds_job_requeue(r, taken(r, DS_JOB_SCAN).id, "the daemon stops", err);
}
static int add_second(ds_registry *r, ds_error *err) {
    ds_dataset_new d = {.name = "e", .path = "/b", .watch = -1};
    int64_t id, seq;
    int created;
    return ds_dataset_add(r, &d, &id, &created, &seq, err);
}
static int remove_second(ds_registry *r, ds_error *err) { return ds_dataset_remove(r, "e", err); }
static int add_event(ds_registry *r, ds_error *err) {
    return ds_event_add(r, "daemon.started", "daemon", NULL, err);
}
static int prune(ds_registry *r, ds_error *err) {
    ds_prune_rows p = {.jobs_before = INT64_MAX, .events_before = INT64_MAX};
    return ds_prune_some(r, &p, err);
}
static int delete_all(ds_registry *r, ds_error *err) {
    return ds_adapter_delete(r, "d@v1", 1, err);
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
    {"process", process},
    {"lease", lease},
    {"metric", metric},
    {"progress", progress},
    {"nine times", nine_times},
    {"postpone", postpone},
    {"claim again", claim},
    {"requeue", requeue},
    {"claim a third time", claim},
    {"fail and retry", fail_train},
    {"claim a fourth time", claim},
    {"publish", publish_one},
    {"set alias", set_alias},
    {"pause", pause_set},
    {"resume", resume_set},
    {"verify", add_verify},
    {"claim verify", claim},
    {"verified", verified},
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
    {"remove alias", remove_alias},
    {"import", add_import},
    {"claim import", claim},
    {"imported", imported},
    {"fourth rescan", rescan},
    {"reconcile: fourth scan", reconcile},
    {"claim fourth scan", claim},
    {"scan fails", fail_scan},
    {"fifth rescan", rescan},
    {"reconcile: fifth scan", reconcile},
    {"claim fifth scan", claim},
    {"scan fails again", fail_scan},
    {"third set", add_third},
    {"reconcile: third set", reconcile},
    {"claim scan of the third set", claim},
    {"third set scanned", scan_three},
    {"reconcile: training of the third set", reconcile},
    {"choose third base", choose_third}, /* that training is not wanted any more */
    {"rescan of the third set", rescan_third},
    {"reconcile: rescan of the third set", reconcile},
    {"claim rescan of the third set", claim},
    {"cancel rescan of the third set", cancel_running},
    {"requeue what is cancelled", requeue_scan},
    {"second set", add_second},
    {"forget its root", forget_root},
    {"resolve", resolve},
    {"rescan all", rescan_all},
    {"reconcile: second set", reconcile},
    {"remove second set", remove_second},
    {"event", add_event},
    {"prune", prune},
    {"last rescan", rescan},
    {"reconcile: last scan", reconcile},
    {"claim last scan", claim},
    {"delete all", delete_all},
    {"remove dataset", remove_set},
    {"reconcile: nothing", reconcile},
};
enum { CHANGES = sizeof changes / sizeof *changes };

#endif
