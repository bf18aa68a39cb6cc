/* tests/registry/test_registry_jobs.c - datasets, the job state machine, publication, references. */
#include "tests/fixtures/registry_start.h"
#include "base/log.h"
#include "tests/fixtures/registry_fixture.h"
#include <math.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <unistd.h>

START_TEST(names_are_checked) {
    ds_registry *r = start("names");
    ds_dataset_new d = {.path = "/x", .watch = -1};
    int64_t id, seq;
    int created;
    static const struct {
        const char *name, *says;
    } bad[] = {
        {"", "empty"},
        {"a/b", "'/'"},
        {"a@b", "'@'"},
        {"a\nb", "control"},
        {"a\x7f", "control"},
        {".hidden", "begins with '.'"},
        {"-rf", "begins with"},
        {"caf\xc3\xa9", "ASCII"},
        {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "65 characters"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        d.name = bad[i].name;
        FAILS(DS_EINVAL, bad[i].says, ds_dataset_add(r, &d, &id, &created, &seq, err));
    }
    d.name = "ok";
    d.path = "relative";
    FAILS(DS_EINVAL, "not absolute", ds_dataset_add(r, &d, &id, &created, &seq, err));
    d.path = "/a\tb";
    FAILS(DS_EINVAL, "control", ds_dataset_add(r, &d, &id, &created, &seq, err));
    d.path = "/caf\xe9";
    FAILS(DS_EINVAL, "UTF-8", ds_dataset_add(r, &d, &id, &created, &seq, err));
    char name[DS_NAME_SIZE];
    ds_name_from_path("/data/My Photos (2024)/", name);
    ck_assert_str_eq(name, "My-Photos-2024");
    ds_name_from_path("/", name);
    ck_assert_str_eq(name, "dataset");
    finish(r);
}
END_TEST

START_TEST(adding_twice) {
    ds_registry *r = start("twice");
    ds_dataset_new d = {.name = "digits", .path = "/a", .watch = -1};
    int64_t id, id2, seq, seq2;
    int created;
    MUST(ds_dataset_add(r, &d, &id, &created, &seq, err));
    ck_assert_int_eq(created, 1);
    MUST(ds_dataset_add(r, &d, &id2, &created, &seq2, err));
    ck_assert_int_eq(created, 0);
    ck_assert_int_eq(id, id2);
    ck_assert_int_eq(seq2, seq + 1);
    d.path = "/b";
    FAILS(DS_ECONFLICT, "already '/a'", ds_dataset_add(r, &d, &id2, &created, &seq2, err));
    d.name = "DIGITS"; /* names have no case */
    FAILS(DS_ECONFLICT, "already", ds_dataset_add(r, &d, &id2, &created, &seq2, err));
    char name[DS_NAME_SIZE];
    MUST(ds_dataset_by_path(r, "/a", name, err));
    ck_assert_str_eq(name, "digits");
    FAILS(DS_ENOTFOUND, "/b", ds_dataset_by_path(r, "/b", name, err));
    FAILS(DS_ENOTFOUND, "'nope' does not exist", ds_dataset_rescan(r, "nope", NULL, err));
    finish(r);
}
END_TEST

START_TEST(whole_way) {
    ds_registry *r = start("way");
    char ref[DS_HEX_SIZE + 16];
    json_t *o = NULL;
    fx_add(r, "digits", "/a");
    MUST(ds_dataset_get(r, "digits", &o, err));
    ck_assert_str_eq(fx_string(o, "state"), "scanning");
    ck_assert_str_eq(fx_string(json_object_get(o, "scan"), "state"), "queued");
    json_decref(o);
    fx_scan(r, "one");
    ds_job j = fx_train(r, 1, "one", ref);
    ck_assert_str_eq(ref, "digits@v1");
    MUST(ds_dataset_get(r, "digits", &o, err));
    ck_assert_str_eq(fx_string(o, "state"), "ready");
    ck_assert_str_eq(fx_string(o, "adapter"), "digits@v1");
    ck_assert_int_eq(fx_int(json_object_get(o, "version"), "images"), 3);
    ck_assert_int_eq(fx_int(o, "job"), j.id);
    json_decref(o);
    MUST(ds_job_get(r, j.id, &o, err));
    ck_assert_str_eq(fx_string(o, "state"), "done");
    ck_assert_str_eq(fx_string(o, "adapter"), "digits@v1");
    ck_assert_int_eq((int)json_array_size(json_object_get(o, "attempt_list")), 1);
    json_decref(o);
    MUST(ds_adapter_get(r, "digits", &o, err));
    ck_assert_str_eq(fx_string(o, "status"), "published");
    ck_assert(json_real_value(json_object_get(o, "fd")) == 12.25);
    ck_assert(json_real_value(json_object_get(o, "fd_base")) == 90.5);
    ck_assert_int_eq((int)json_array_size(json_object_get(o, "evaluations")), 3);
    ck_assert_str_eq(fx_string(json_object_get(o, "gate"), "verdict"), "passed");
    ck_assert_int_eq((int)json_array_size(json_object_get(json_object_get(o, "gate"), "tasks")), 1);
    ck_assert_str_eq(json_string_value(json_array_get(json_object_get(o, "aliases"), 0)), "latest");
    json_decref(o);
    int made = -1;
    MUST(ds_reconcile(r, &made, err)); /* nothing is left to do */
    ck_assert_int_eq(made, 0);
    MUST(ds_reconcile(r, &made, err));
    ck_assert_int_eq(made, 0);
    MUST(ds_registry_counts(r, &o, err));
    ck_assert_int_eq(fx_int(o, "adapters"), 1);
    ck_assert_int_eq(fx_int(json_object_get(o, "jobs"), "done"), 2);
    ck_assert_int_eq(fx_int(json_object_get(o, "blobs"), "count"), 3);
    ck_assert_str_eq(fx_string(json_object_get(o, "base"), "sha256"), BASE_SHA);
    json_decref(o);
    static const char *const once[] = {"dataset.added", "dataset.scanned", "gate.passed",
                                       "alias.set", "adapter.published"};
    for (size_t i = 0; i < sizeof once / sizeof *once; i++)
        ck_assert_msg(fx_count(r, once[i]) == 1, "%s", once[i]);
    ck_assert_int_eq(fx_count(r, "job."), 6);
    finish(r);
}
END_TEST

START_TEST(versions_of_a_dataset) {
    ds_registry *r = start("versions");
    char sha[DS_HEX_SIZE];
    json_t *o = NULL;
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    fx_train(r, 1, "one", NULL);
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    fx_scan(r, "one");                                     /* the same content */
    ck_assert_int_eq(fx_count(r, "dataset.unchanged"), 0); /* no news (test_registry_growth) */
    MUST(ds_dataset_get(r, "d", &o, err));
    ck_assert(json_is_true(json_object_get(json_object_get(o, "scan"), "unchanged")));
    ck_assert_int_eq(fx_int(o, "versions"), 1);
    json_decref(o);
    int made;
    MUST(ds_reconcile(r, &made, err));
    ck_assert_int_eq(made, 0);
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    fx_scan(r, "two");
    ck_assert_int_eq(fx_count(r, "dataset.changed"), 1);
    char ref[DS_HEX_SIZE + 16];
    fx_train(r, 1, "two", ref);
    ck_assert_str_eq(ref, "d@v2");
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    fx_scan(r, "one"); /* back to the first content, which has its adapter */
    MUST(ds_dataset_get(r, "d", &o, err));
    ck_assert_int_eq(fx_int(json_object_get(o, "version"), "version"), 1);
    ck_assert_int_eq(fx_int(o, "versions"), 2);
    json_decref(o);
    MUST(ds_reconcile(r, &made, err));
    ck_assert_int_eq(made, 0);
    MUST(ds_dataset_manifest(r, "d", 2, sha, err));
    MUST(ds_dataset_manifest(r, "d", 0, sha, err));
    FAILS(DS_ENOTFOUND, "no version 3", ds_dataset_manifest(r, "d", 3, sha, err));
    MUST(ds_dataset_rejected(r, "d", &o, err));
    ck_assert_int_eq(fx_int(o, "count"), 1);
    json_decref(o);
    finish(r);
}
END_TEST

START_TEST(a_newer_version_replaces_a_queued_training) {
    ds_registry *r = start("newer");
    ds_job j;
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    MUST(ds_reconcile(r, NULL, err));
    MUST(ds_job_next(r, DS_KIND_BIT(DS_JOB_TRAIN), INT64_MAX, &j, NULL, err));
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    fx_scan(r, "two");
    int64_t first = j.id;
    MUST(ds_job_read(r, first, &j, err));
    ck_assert_int_eq(j.state, DS_JOB_CANCELLED);
    MUST(ds_reconcile(r, NULL, err));
    MUST(ds_job_next(r, DS_KIND_BIT(DS_JOB_TRAIN), INT64_MAX, &j, NULL, err));
    ck_assert(j.id != first);
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    fx_scan(r, "one"); /* and the first content may be trained after all */
    MUST(ds_reconcile(r, NULL, err));
    MUST(ds_job_next(r, DS_KIND_BIT(DS_JOB_TRAIN), INT64_MAX, &j, NULL, err));
    finish(r);
}
END_TEST

START_TEST(rejected_stays_addressable) {
    ds_registry *r = start("rejected");
    char ref[DS_HEX_SIZE + 16];
    ds_adapter_ref a;
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    ds_job j = fx_train(r, 0, "one", ref);
    ck_assert_str_eq(ref, "d@v1");
    MUST(ds_job_read(r, j.id, &j, err));
    ck_assert_int_eq(j.state, DS_JOB_REJECTED);
    FAILS(DS_ENOTFOUND, "no version that passed the gate", ds_adapter_resolve(r, "d", &a, err));
    MUST(ds_adapter_resolve(r, "d@v1", &a, err));
    ck_assert_int_eq(a.published, 0);
    FAILS(DS_EREFUSED, "rejected by the gate", ds_alias_set(r, "d", "prod", 1, -1, "", NULL, err));
    int made;
    MUST(ds_reconcile(r, &made, err)); /* rejected is an answer: no endless training */
    ck_assert_int_eq(made, 0);
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    fx_scan(r, "two");
    fx_train(r, 1, "two", ref);
    ck_assert_str_eq(ref, "d@v2");
    MUST(ds_adapter_resolve(r, "d", &a, err));
    ck_assert_int_eq(a.version, 2);
    ck_assert_int_eq(fx_count(r, "gate.refused"), 1);
    ck_assert_int_eq(fx_count(r, "adapter.rejected"), 1);
    finish(r);
}
END_TEST

START_TEST(references) {
    ds_registry *r = start("refs");
    ds_adapter_ref a;
    char ref[128];
    json_t *o = NULL;
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    fx_train(r, 1, "one", NULL);
    MUST(ds_adapter_resolve(r, "D", &a, err)); /* names have no case */
    ck_assert_str_eq(a.ref, "d@v1");
    snprintf(ref, sizeof ref, "sha256:%.8s", a.blob.sha256);
    MUST(ds_adapter_resolve(r, ref, &a, err));
    snprintf(ref, sizeof ref, "sha256:%s", a.blob.sha256);
    MUST(ds_adapter_resolve(r, ref, &a, err));
    snprintf(ref, sizeof ref, "sha256:%.7s", a.blob.sha256);
    FAILS(DS_EINVAL, "8 to 64", ds_adapter_resolve(r, ref, &a, err));
    FAILS(DS_EINVAL, "8 to 64", ds_adapter_resolve(r, "sha256:../../../etc", &a, err));
    FAILS(DS_ENOTFOUND, "beginning with", ds_adapter_resolve(r, "sha256:00000000", &a, err));
    FAILS(DS_ENOTFOUND, "'d@v2' does not exist", ds_adapter_resolve(r, "d@v2", &a, err));
    FAILS(DS_ENOTFOUND, "no alias 'prod'", ds_adapter_resolve(r, "d@prod", &a, err));
    FAILS(DS_ENOTFOUND, "'x' does not exist", ds_adapter_resolve(r, "x", &a, err));
    FAILS(DS_EINVAL, "empty", ds_adapter_resolve(r, "d@", &a, err));
    FAILS(DS_EINVAL, "", ds_adapter_resolve(r, "../d", &a, err));
    MUST(ds_alias_set(r, "d", "prod", 1, 0, "first", &o, err));
    ck_assert_int_eq(fx_int(o, "generation"), 1);
    json_decref(o);
    MUST(ds_adapter_resolve(r, "d@prod", &a, err));
    FAILS(DS_ECONFLICT, "generation 1, not 0", ds_alias_set(r, "d", "prod", 1, 0, "", NULL, err));
    MUST(ds_alias_set(r, "d", "prod", 1, 1, "again", &o, err));
    ck_assert_int_eq(fx_int(o, "generation"), 2);
    json_decref(o);
    MUST(ds_alias_history(r, "d", "prod", &o, err));
    ck_assert_int_eq((int)json_array_size(o), 2);
    ck_assert_str_eq(fx_string(json_array_get(o, 0), "reason"), "again");
    json_decref(o);
    FAILS(DS_EINVAL, "looks like a version", ds_alias_set(r, "d", "v7", 1, -1, "", NULL, err));
    FAILS(DS_ENOTFOUND, "d@v9", ds_alias_set(r, "d", "prod", 9, -1, "", NULL, err));
    FAILS(DS_ECONFLICT, "latest, prod", ds_adapter_delete(r, "d@v1", 0, err));
    finish(r);
}
END_TEST

/* A job that was put back waits for so long from now. */
static void expect_wait(ds_registry *r, int64_t id, int64_t before, int64_t delay) {
    ds_job j;
    MUST(ds_job_read(r, id, &j, err));
    ck_assert_int_ge(j.run_after, delay ? before + delay : 0);
    ck_assert_int_le(j.run_after, ds_now_ms() + delay);
}

START_TEST(transitions) {
    ds_registry *r = start("transitions");
    ds_job j;
    int running, retried;
    int64_t id, wait;
    json_t *o = NULL, *payload = fx_json("{\"ref\":\"d\",\"n\":16}");
    FAILS(DS_ENOTFOUND, "no job", ds_job_next(r, DS_KINDS_ALL, 0, &j, &wait, err));
    ck_assert_int_eq(wait, -1);
    MUST(ds_job_add(r, DS_JOB_SAMPLE, "d", payload, 2, &id, err));
    MUST(ds_job_payload(r, id, &o, err));
    ck_assert(json_equal(o, payload));
    json_decref(o);
    json_decref(payload);
    ds_job_failure f = {.exit_code = 1, .exit_signal = -1, .retry = 1};
    FAILS(DS_ECONFLICT, "queued, not running", ds_job_fail(r, id, &f, &retried, err));
    FAILS(DS_ECONFLICT, "not running", ds_job_done(r, id, NULL, err));
    FAILS(DS_ECONFLICT, "not running", ds_job_requeue(r, id, "", err));
    MUST(ds_job_claim(r, id, err));
    FAILS(DS_ECONFLICT, "running, not queued", ds_job_claim(r, id, err));
    int64_t before = ds_now_ms();
    MUST(ds_job_fail(r, id, &f, &retried, err)); /* 1 of 2 */
    ck_assert_int_eq(retried, 1);
    expect_wait(r, id, before, ds_job_backoff_ms(1));
    FAILS(DS_ENOTFOUND, "", ds_job_next(r, DS_KINDS_ALL, 0, &j, &wait, err));
    ck_assert_int_gt(wait, 0); /* back-off */
    MUST(ds_job_claim(r, id, err));
    ds_job_failure full = {.exit_code = 75, .exit_signal = -1, .code = "DS_ENOSPC"};
    before = ds_now_ms();
    MUST(ds_job_postpone(r, id, 77000, &full, err)); /* does not count */
    MUST(ds_job_read(r, id, &j, err));
    ck_assert_int_eq(j.attempts, 1);
    expect_wait(r, id, before, 77000);
    MUST(ds_job_claim(r, id, err));
    MUST(ds_job_requeue(r, id, "daemon stops", err)); /* does not count */
    expect_wait(r, id, before, 0);
    MUST(ds_job_read(r, id, &j, err));
    ck_assert_int_eq(j.attempts, 1);
    MUST(ds_job_claim(r, id, err));
    MUST(ds_job_fail(r, id, &f, &retried, err)); /* 2 of 2 */
    ck_assert_int_eq(retried, 0);
    FAILS(DS_ECONFLICT, "already failed", ds_job_cancel(r, id, &running, err));
    FAILS(DS_ECONFLICT, "failed, not queued", ds_job_claim(r, id, err));
    MUST(ds_job_get(r, id, &o, err));
    ck_assert_int_eq((int)json_array_size(json_object_get(o, "attempt_list")), 4);
    ck_assert_str_eq(fx_string(json_object_get(o, "error"), "message"),
                     "worker ended with exit code 1");
    json_decref(o);
    MUST(ds_job_add(r, DS_JOB_SAMPLE, "", NULL, 1, &id, err));
    MUST(ds_job_cancel(r, id, &running, err));
    ck_assert_int_eq(running, 0);
    MUST(ds_job_add(r, DS_JOB_SAMPLE, "", NULL, 1, &id, err));
    MUST(ds_job_claim(r, id, err));
    MUST(ds_job_cancel(r, id, &running, err));
    ck_assert_int_eq(running, 1);
    int n;
    MUST(ds_jobs_running(r, &j, 1, &n, err));
    ck_assert_int_eq(n, 1);
    ck_assert_int_eq(j.cancel, 1);
    MUST(ds_job_cancelled(r, id, 130, -1, err));
    FAILS(DS_ECONFLICT, "cancelled, not running", ds_job_cancelled(r, id, 130, -1, err));
    ck_assert_int_eq(ds_job_backoff_ms(1), 5000);
    ck_assert_int_eq(ds_job_backoff_ms(3), 20000);
    ck_assert_int_eq(ds_job_backoff_ms(1000), 600000);
    finish(r);
}
END_TEST

/* Both back-offs were written by a clock ten hours ahead; each waits its own length once more, from
 * the first look on, and no longer. */
START_TEST(clock_set_back) {
    ds_registry *r = start("clock_set_back");
    const int64_t now = ds_now_ms() - 36000000;
    ds_job_failure f = {.exit_code = 1, .exit_signal = -1, .retry = 1};
    int64_t failed, postponed, wait;
    ds_job j;
    MUST(ds_job_add(r, DS_JOB_SAMPLE, "", NULL, 5, &failed, err));
    MUST(ds_job_add(r, DS_JOB_VERIFY, "", NULL, 5, &postponed, err));
    for (int i = 0; i < 2; i++) {
        MUST(ds_job_claim(r, failed, err));
        MUST(ds_job_fail(r, failed, &f, NULL, err));
    }
    MUST(ds_job_claim(r, postponed, err));
    MUST(ds_job_postpone(r, postponed, DS_JOB_POSTPONE_LONG_MS, &f, err));
    FAILS(DS_ENOTFOUND, "", ds_job_next(r, DS_KIND_BIT(DS_JOB_SAMPLE), now, &j, &wait, err));
    ck_assert_int_eq(wait, 10000);
    FAILS(DS_ENOTFOUND, "", ds_job_next(r, DS_KIND_BIT(DS_JOB_VERIFY), now, &j, &wait, err));
    ck_assert_int_eq(wait, DS_JOB_POSTPONE_LONG_MS);
    MUST(ds_job_read(r, failed, &j, err));
    ck_assert_int_eq(j.run_after, now + 10000);
    FAILS(DS_ENOTFOUND, "", ds_job_next(r, DS_KINDS_ALL, now + 9999, &j, &wait, err));
    ck_assert_int_eq(wait, 1);
    MUST(ds_job_next(r, DS_KINDS_ALL, now + 10000, &j, &wait, err));
    ck_assert_int_eq(j.id, failed);
    MUST(ds_job_next(r, DS_KIND_BIT(DS_JOB_VERIFY), now + DS_JOB_POSTPONE_LONG_MS, &j, &wait, err));
    finish(r);
}
END_TEST

START_TEST(trigger_refuses_other_transitions) {
    static const char *const states[] = {"queued",   "running", "done",
                                         "rejected", "failed",  "cancelled"};
    static const char allowed[6][7] = {"yy...y", "yyyyyy", "..y...", "...y..", "....y.", ".....y"};
    char path[PATH_MAX], sql[256];
    ds_registry *r = start("trigger");
    ds_fs_join(path, sizeof path, ds_registry_dir(r), "registry.db");
    ds_registry_close(r);
    sqlite3 *db;
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    for (int from = 0; from < 6; from++)
        for (int to = 0; to < 6; to++) {
            snprintf(sql, sizeof sql,
                     "INSERT INTO jobs(kind, state, created_at) VALUES ('sample', '%s', 0);"
                     "UPDATE jobs SET state = '%s' WHERE id = last_insert_rowid()",
                     states[from], states[to]);
            int ok = sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK;
            ck_assert_msg(ok == (allowed[from][to] == 'y'), "%s -> %s", states[from], states[to]);
        }
    sqlite3_close(db);
}
END_TEST

START_TEST(failures_and_another_chance) {
    ds_registry *r = start("chance");
    ds_job_failure f = {.exit_code = 2, .exit_signal = -1, .code = "DS_EINVAL", .message = "bad"};
    json_t *o = NULL;
    int made, retried;
    int64_t id = fx_add(r, "d", "/a"), seq;
    ds_job j = fx_claim(r, DS_JOB_SCAN);
    MUST(ds_job_fail(r, j.id, &f, &retried, err));
    MUST(ds_dataset_get(r, "d", &o, err));
    ck_assert_str_eq(fx_string(o, "state"), "failed");
    ck_assert_str_eq(fx_string(json_object_get(o, "error"), "message"), "bad");
    ck_assert_str_eq(fx_string(json_object_get(o, "scan"), "state"), "failed");
    json_decref(o);
    MUST(ds_reconcile(r, &made, err)); /* a failed scan is not repeated by itself */
    ck_assert_int_eq(made, 0);
    ds_dataset_new d = {.name = "d", .path = "/a", .watch = -1};
    MUST(ds_dataset_add(r, &d, &id, &made, &seq, err));
    fx_scan(r, "one");
    j = fx_claim(r, DS_JOB_TRAIN);
    MUST(ds_job_fail(r, j.id, &f, &retried, err));
    MUST(ds_reconcile(r, &made, err));
    ck_assert_int_eq(made, 0);
    MUST(ds_dataset_add(r, &d, &id, &made, &seq, err)); /* asked for again */
    fx_scan(r, "one");
    j = fx_claim(r, DS_JOB_TRAIN);
    int running;
    MUST(ds_job_cancel(r, j.id, &running, err));
    MUST(ds_job_cancelled(r, j.id, 130, -1, err));
    MUST(ds_reconcile(r, &made, err));
    ck_assert_int_eq(made, 0);
    json_t *options = fx_json("{\"rank\":16}"); /* other options: train anew */
    d.options = options;
    MUST(ds_dataset_add(r, &d, &id, &made, &seq, err));
    json_decref(options);
    fx_scan(r, "one");
    fx_train(r, 1, "one", NULL);
    MUST(ds_reconcile(r, &made, err));
    ck_assert_int_eq(made, 0);
    d.options = NULL;
    MUST(ds_dataset_add(r, &d, &id, &made, &seq, err)); /* nothing new: no training */
    fx_scan(r, "one");
    MUST(ds_reconcile(r, &made, err));
    ck_assert_int_eq(made, 0);
    finish(r);
}
END_TEST

START_TEST(another_base_is_new_work) {
    ds_registry *r = start("base");
    int64_t base;
    int made;
    json_t *tasks = NULL;
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    fx_train(r, 1, "one", NULL);
    MUST(ds_old_tasks(r, 1, NULL, NULL, &tasks, err));
    ck_assert_int_eq((int)json_array_size(tasks), 1);
    json_t *t = json_array_get(tasks, 0);
    ck_assert_str_eq(fx_string(t, "ref"), "d@v1");
    ck_assert_str_eq(fx_string(json_object_get(t, "probe"), "device_class"), "cpu-test");
    ck_assert_str_eq(fx_string(t, "base_sha256"), BASE_SHA);
    ck_assert_str_eq(fx_string(t, "feature_net_sha256"), NET_SHA);
    ck_assert_int_eq(fx_int(json_object_get(t, "evaluate"), "n"), 64);
    ck_assert(ds_fs_exists(fx_string(json_object_get(t, "adapter"), "path")));
    ck_assert(ds_fs_exists(fx_string(json_object_get(t, "reference"), "path")));
    json_decref(tasks);
    MUST(ds_old_tasks(r, 1, "D", NULL, &tasks, err));
    ck_assert_int_eq((int)json_array_size(tasks), 0);
    json_decref(tasks);
    MUST(ds_old_tasks(r, 1, NULL, "d@v1", &tasks, err));
    ck_assert_int_eq((int)json_array_size(tasks), 1);
    json_decref(tasks);
    MUST(ds_base_put(r, "other", "/o", NET_SHA, NULL, 0, &base, err));
    MUST(ds_base_activate(r, base, err));
    MUST(ds_reconcile(r, &made, err));
    ck_assert_int_eq(made, 1);
    FAILS(DS_ENOTFOUND, "base 99", ds_base_activate(r, 99, err));
    finish(r);
}
END_TEST

START_TEST(removing_and_reviving) {
    ds_registry *r = start("remove");
    ds_job j;
    json_t *o = NULL;
    int made, n;
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    fx_train(r, 1, "one", NULL);
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    j = fx_claim(r, DS_JOB_SCAN);
    MUST(ds_dataset_remove(r, "d", err));
    FAILS(DS_ENOTFOUND, "was removed", ds_dataset_remove(r, "d", err));
    MUST(ds_jobs_running(r, &j, 1, &n, err));
    ck_assert_int_eq(j.cancel, 1);
    MUST(ds_job_cancelled(r, j.id, 130, -1, err));
    MUST(ds_reconcile(r, &made, err));
    ck_assert_int_eq(made, 0);
    MUST(ds_dataset_list(r, (ds_page){0}, 0, &o, err));
    ck_assert_int_eq((int)json_array_size(json_object_get(o, "items")), 0);
    json_decref(o);
    MUST(ds_dataset_get(r, "d", &o, err));
    ck_assert_str_eq(fx_string(o, "state"), "removed");
    ck_assert_str_eq(fx_string(o, "adapter"), "d@v1"); /* adapters stay */
    json_decref(o);
    fx_add(r, "d", "/elsewhere");
    fx_scan(r, "two");
    char ref[DS_HEX_SIZE + 16];
    fx_train(r, 1, "two", ref);
    ck_assert_str_eq(ref, "d@v2"); /* numbers are never used again */
    finish(r);
}
END_TEST

START_TEST(verify_jobs) {
    ds_registry *r = start("verify");
    int64_t id;
    ds_job j;
    for (int passed = 0; passed < 2; passed++) {
        json_t *o =
            fx_json("{\"gate\":{\"verdict\":\"%s\",\"reason\":\"flags fell by 2.5\",\"tasks\":"
                    "[{\"name\":\"flags\",\"ref\":\"flags@v1\",\"level\":2,\"unchanged\":false,"
                    "\"verdict\":\"%s\",\"fd_recorded\":1.0,\"fd_now\":3.5}]}}",
                    passed ? "passed" : "refused", passed ? "passed" : "refused");
        json_t *g = NULL;
        MUST(ds_job_add(r, DS_JOB_VERIFY, "", NULL, 1, &id, err));
        MUST(ds_job_claim(r, id, err));
        MUST(fx_verify_finish(r, id, o, err));
        MUST(ds_job_read(r, id, &j, err));
        ck_assert_int_eq(j.state, passed ? DS_JOB_DONE : DS_JOB_REJECTED);
        MUST(ds_gate_of_job(r, id, &g, err));
        ck_assert_str_eq(fx_string(g, "verdict"), passed ? "passed" : "refused");
        json_decref(g);
        json_decref(o);
    }
    json_t *list = NULL;
    MUST(ds_job_list(r, (ds_page){.limit = 1}, NULL, &list, err));
    ck_assert_str_eq(fx_string(list, "next"), "2");
    json_decref(list);
    MUST(ds_job_list(r, (ds_page){.limit = 1, .cursor = "2"}, &(ds_job_filter){.state = "rejected"},
                     &list, err));
    ck_assert_int_eq((int)json_array_size(json_object_get(list, "items")), 1);
    ck_assert(json_is_null(json_object_get(list, "next")));
    json_decref(list);
    FAILS(DS_EINVAL, "cursor",
          ds_job_list(r, (ds_page){.limit = 1, .cursor = "x"}, NULL, &list, err));
    FAILS(DS_EINVAL, "state 'no'",
          ds_job_list(r, (ds_page){.limit = 1}, &(ds_job_filter){.state = "no"}, &list, err));
    finish(r);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, names_are_checked);
    tcase_add_test(tc, adding_twice);
    tcase_add_test(tc, whole_way);
    tcase_add_test(tc, versions_of_a_dataset);
    tcase_add_test(tc, a_newer_version_replaces_a_queued_training);
    tcase_add_test(tc, rejected_stays_addressable);
    tcase_add_test(tc, references);
    tcase_add_test(tc, transitions);
    tcase_add_test(tc, clock_set_back);
    tcase_add_test(tc, trigger_refuses_other_transitions);
    tcase_add_test(tc, failures_and_another_chance);
    tcase_add_test(tc, another_base_is_new_work);
    tcase_add_test(tc, removing_and_reviving);
    tcase_add_test(tc, verify_jobs);
}

int main(void) {
    fx_fast_tmp();
    return ds_test_main("registry_jobs", cases);
}
