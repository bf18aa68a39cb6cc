/* tests/registry/test_registry_rows.c - single rows: what filters leave out, what an object tells, and that a
 * row which cannot be written ends the call with its error and without a trace. */
#include "base/log.h"
#include "registry/rows/bars.h"
#include "registry/core/db.h"
#include "registry/rows/rejected.h"
#include "tests/fixtures/registry_fixture.h"

#include <math.h>
#include <signal.h>
#include <sys/wait.h>

static ds_registry *start(const char *name) { return fx_open(fx_dir(name)); }

static void sql(ds_registry *r, const char *text) {
    ck_assert_msg(fx_foreign(r, text) == SQLITE_OK, "%s", text);
}

static int64_t number(ds_registry *r, const char *query) {
    int64_t n = 0;
    MUST(db_int(r, &n, err, query, ""));
    return n;
}

/* From here on this is refused; "DROP TRIGGER no" ends it. */
static void refuse(ds_registry *r, const char *when) {
    char text[400];
    snprintf(text, sizeof text, "CREATE TRIGGER no %s BEGIN SELECT RAISE(ABORT, 'not now'); END",
             when);
    sql(r, text);
}

/* d@v1 published, d@v2 rejected; e@v1 published. */
static void three_adapters(ds_registry *r) {
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    fx_train(r, 1, "one", NULL);
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    fx_scan(r, "two");
    fx_train(r, 0, "two", NULL);
    fx_add(r, "e", "/e");
    fx_scan(r, "three");
    fx_train(r, 1, "three", NULL);
}

/* ---------------------------------------------------------------- filters */

static int jobs(ds_registry *r, ds_job_filter f) {
    json_t *o = NULL;
    MUST(ds_job_list(r, (ds_page){0}, &f, &o, err));
    int n = (int)json_array_size(json_object_get(o, "items"));
    json_decref(o);
    return n;
}

static int adapters(ds_registry *r, ds_adapter_filter f) {
    json_t *o = NULL;
    MUST(ds_adapter_list(r, (ds_page){0}, &f, &o, err));
    int n = (int)json_array_size(json_object_get(o, "items"));
    json_decref(o);
    return n;
}

static int evaluations(ds_registry *r, ds_evaluation_filter f) {
    json_t *o = NULL;
    MUST(ds_evaluation_list(r, (ds_page){0}, &f, &o, err));
    int n = (int)json_array_size(json_object_get(o, "items"));
    json_decref(o);
    return n;
}

START_TEST(filters_leave_out_the_rest) {
    ds_registry *r = start("filters");
    json_t *o = NULL;
    three_adapters(r);
    ck_assert_int_eq(jobs(r, (ds_job_filter){0}), 6);
    ck_assert_int_eq(jobs(r, (ds_job_filter){.kind = "scan"}), 3);
    ck_assert_int_eq(jobs(r, (ds_job_filter){.kind = "train", .dataset = "d"}), 2);
    ck_assert_int_eq(jobs(r, (ds_job_filter){.kind = "sample"}), 0);
    ck_assert_int_eq(jobs(r, (ds_job_filter){.dataset = "e"}), 2);
    ck_assert_int_eq(jobs(r, (ds_job_filter){.state = "rejected"}), 1);
    ck_assert_int_eq(jobs(r, (ds_job_filter){.state = "done", .kind = "train"}), 2);
    FAILS(DS_EINVAL, "kind 'no'",
          ds_job_list(r, (ds_page){0}, &(ds_job_filter){.kind = "no"}, &o, err));
    ck_assert_int_eq(adapters(r, (ds_adapter_filter){.max_fd = NAN}), 3);
    ck_assert_int_eq(adapters(r, (ds_adapter_filter){.max_fd = NAN, .status = "published"}), 2);
    ck_assert_int_eq(adapters(r, (ds_adapter_filter){.max_fd = NAN, .status = "rejected"}), 1);
    ck_assert_int_eq(adapters(r, (ds_adapter_filter){.max_fd = NAN, .dataset = "d"}), 2);
    ck_assert_int_eq(adapters(r, (ds_adapter_filter){.max_fd = 12.25}), 3);
    ck_assert_int_eq(adapters(r, (ds_adapter_filter){.max_fd = 12.24}), 0);
    int64_t now = ds_now_ms();
    ck_assert_int_eq(adapters(r, (ds_adapter_filter){.max_fd = NAN, .since_ms = now - 60000}), 3);
    ck_assert_int_eq(adapters(r, (ds_adapter_filter){.max_fd = NAN, .since_ms = now + 60000}), 0);
    FAILS(DS_EINVAL, "'good' does not exist",
          ds_adapter_list(r, (ds_page){0}, &(ds_adapter_filter){.max_fd = NAN, .status = "good"},
                          &o, err));
    ck_assert_int_eq(evaluations(r, (ds_evaluation_filter){0}), 9);
    ck_assert_int_eq(evaluations(r, (ds_evaluation_filter){.metric = "kid"}), 3);
    ck_assert_int_eq(evaluations(r, (ds_evaluation_filter){.dataset = "d", .metric = "fd"}), 4);
    ck_assert_int_eq(evaluations(r, (ds_evaluation_filter){.adapter = "e"}), 3);
    FAILS(DS_ENOTFOUND, "'x' does not exist",
          ds_evaluation_list(r, (ds_page){0}, &(ds_evaluation_filter){.adapter = "x"}, &o, err));
    ds_registry_close(r);
}
END_TEST

/* The beginning of a digest that two adapters have is no name. */
START_TEST(a_digest_that_fits_two) {
    ds_registry *r = start("digest");
    ds_adapter_ref a, b;
    char text[600], ref[80], twin[DS_HEX_SIZE];
    three_adapters(r);
    MUST(ds_adapter_resolve(r, "d", &a, err));
    snprintf(ref, sizeof ref, "sha256:%.10s", a.blob.sha256);
    MUST(ds_adapter_resolve(r, ref, &b, err));
    ck_assert_str_eq(b.ref, "d@v1");
    snprintf(twin, sizeof twin, "%.10s%054d", a.blob.sha256, 7);
    snprintf(text, sizeof text,
             "INSERT INTO blobs(digest, raw_bytes, stored_bytes, stored_sha256, media_type,"
             " created_at) VALUES ('%s', 1, 1, '%s', 'x', 1); DROP TRIGGER adapter_versions_fixed;"
             " UPDATE adapter_versions SET digest = '%s' WHERE id = 3",
             twin, twin, twin);
    sql(r, text);
    FAILS(DS_ECONFLICT, "fits 2 adapters", ds_adapter_resolve(r, ref, &b, err));
    snprintf(ref, sizeof ref, "sha256:%s", twin);
    MUST(ds_adapter_resolve(r, ref, &b, err));
    ck_assert_str_eq(b.ref, "e@v1");
    ds_registry_close(r);
}
END_TEST

START_TEST(an_adapter_has_one_base) {
    ds_registry *r = start("ofbase");
    ds_adapter_ref a;
    int64_t other;
    three_adapters(r);
    MUST(ds_adapter_resolve(r, "d", &a, err));
    MUST(ds_base_put(r, "other", "/o", NET_SHA, NULL, 0, &other, err));
    MUST(ds_adapter_check_base(r, &a, 1, err));
    FAILS(DS_ECONFLICT, "belongs to base 'emoji-dit'", ds_adapter_check_base(r, &a, other, err));
    FAILS(DS_ENOTFOUND, "base 9 does not exist", ds_adapter_check_base(r, &a, 9, err));
    ds_registry_close(r);
}
END_TEST

/* Set, moved, removed and set again: a number is never given twice. */
START_TEST(the_life_of_an_alias) {
    ds_registry *r = start("alias");
    json_t *o = NULL;
    ds_adapter_ref a;
    three_adapters(r);
    FAILS(DS_ENOTFOUND, "adapter 'x' does not exist", ds_alias_remove(r, "x", "prod", -1, err));
    FAILS(DS_ENOTFOUND, "adapter 'd' has no alias 'prod'",
          ds_alias_remove(r, "d", "prod", -1, err));
    FAILS(DS_ECONFLICT, "'d' alone means", ds_alias_remove(r, "d", "Latest", -1, err));
    FAILS(DS_EINVAL, "", ds_alias_remove(r, "a b", "prod", -1, err));
    FAILS(DS_EINVAL, "looks like a version", ds_alias_remove(r, "d", "v1", -1, err));
    MUST(ds_alias_set(r, "d", "prod", 1, 0, NULL, NULL, err));
    MUST(ds_alias_set(r, "d", "prod", 1, 1, "again", NULL, err));
    FAILS(DS_ECONFLICT, "generation 2, not 1", ds_alias_remove(r, "d", "prod", 1, err));
    MUST(ds_alias_remove(r, "d", "prod", 2, err));
    FAILS(DS_ENOTFOUND, "no alias 'prod'", ds_adapter_resolve(r, "d@prod", &a, err));
    ck_assert_int_eq(fx_count(r, "alias.removed"), 1);
    FAILS(DS_ECONFLICT, "generation 0, not 2", ds_alias_set(r, "d", "prod", 1, 2, "", NULL, err));
    MUST(ds_alias_set(r, "d", "prod", 1, 0, "back", &o, err));
    ck_assert_int_eq(fx_int(o, "generation"), 3);
    json_decref(o);
    MUST(ds_alias_history(r, "d", "prod", &o, err));
    ck_assert_int_eq((int)json_array_size(o), 3);
    ck_assert_str_eq(fx_string(json_array_get(o, 0), "reason"), "back");
    ck_assert_int_eq(fx_int(json_array_get(o, 0), "generation"), 3);
    json_decref(o);
    /* pages: of two adapters, by name and alias */
    static const char *const pages[] = {"d@latest", "d@prod", "e@latest"};
    char cursor[40] = "";
    for (int i = 0; i < 3; i++) {
        MUST(ds_alias_list_all(r, (ds_page){.limit = 1, .cursor = i ? cursor : NULL}, &o, err));
        json_t *items = json_object_get(o, "items"), *one = json_array_get(items, 0);
        ck_assert_int_eq((int)json_array_size(items), 1);
        snprintf(cursor, sizeof cursor, "%s@%s", fx_string(one, "name"), fx_string(one, "alias"));
        ck_assert_str_eq(cursor, pages[i]);
        ck_assert(i < 2 ? !strcmp(fx_string(o, "next"), cursor)
                        : json_is_null(json_object_get(o, "next")));
        json_decref(o);
    }
    FAILS(DS_EINVAL, "is none of a list of aliases",
          ds_alias_list_all(r, (ds_page){.limit = 1, .cursor = "x"}, &o, err));
    FAILS(DS_ENOTFOUND, "adapter 'x' does not exist", ds_alias_list(r, "x", &o, err));
    /* with its version both go, or neither */
    FAILS(DS_ECONFLICT, "the aliases latest, prod", ds_adapter_delete(r, "d@v1", 0, err));
    refuse(r, "BEFORE DELETE ON aliases WHEN old.alias = 'prod'");
    FAILS(DS_ECONFLICT, "not now", ds_adapter_delete(r, "d@v1", 1, err));
    MUST(ds_adapter_resolve(r, "d@latest", &a, err));
    sql(r, "DROP TRIGGER no");
    MUST(ds_adapter_delete(r, "d@v1", 1, err));
    FAILS(DS_ENOTFOUND, "no version that passed the gate; its newest is 'd@v2'",
          ds_adapter_resolve(r, "d", &a, err));
    MUST(ds_adapter_delete(r, "d@v2", 0, err));
    FAILS(DS_ENOTFOUND, "all versions of adapter 'd' were removed",
          ds_adapter_resolve(r, "d", &a, err));
    ds_registry_close(r);
}
END_TEST

/* ---------------------------------------------------------------- jobs */

START_TEST(what_a_job_tells) {
    ds_registry *r = start("job");
    json_t *o = NULL, *p = fx_json("{\"done\":3,\"total\":9,\"unit\":\"steps\"}");
    ds_process of = {.identity = "local:b:77:5", .pid = 77};
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    ds_job j = fx_claim(r, DS_JOB_TRAIN);
    MUST(ds_job_process(r, j.id, &of, err));
    MUST(ds_job_progress(r, j.id, "train", p, err));
    MUST(ds_job_metric(r, j.id, "loss", 2, 0.5, err));
    MUST(ds_job_metric(r, j.id, "loss", 1, 0.75, err));
    MUST(ds_job_metric(r, j.id, "loss", 2, 0.25, err)); /* again: the newer value */
    MUST(ds_job_get(r, j.id, &o, err));
    ck_assert_str_eq(fx_string(o, "stage"), "train");
    ck_assert(json_equal(json_object_get(o, "progress"), p));
    ck_assert_str_eq(fx_string(o, "kind"), "train");
    ck_assert_str_eq(fx_string(o, "dataset"), "d");
    ck_assert_str_eq(fx_string(o, "base"), "emoji-dit");
    ck_assert(fx_int(o, "dataset_version") == 1 && fx_int(o, "pid") == 77);
    ck_assert(fx_int(o, "attempts") == 1 && fx_int(o, "max_attempts") == 3);
    ck_assert(json_is_null(json_object_get(o, "run_after")));
    ck_assert(json_is_false(json_object_get(o, "cancel")));
    ck_assert(fx_string(o, "started_at") && !fx_string(o, "finished_at"));
    json_t *a = json_array_get(json_object_get(o, "attempt_list"), 0);
    ck_assert(fx_int(a, "attempt") == 1 && fx_int(a, "pid") == 77 && fx_string(a, "started_at"));
    json_decref(o);
    MUST(ds_job_metrics(r, j.id, "loss", &o, err));
    ck_assert_int_eq((int)json_array_size(o), 2);
    ck_assert_int_eq(fx_int(json_array_get(o, 0), "step"), 1);
    ck_assert(json_number_value(json_object_get(json_array_get(o, 1), "value")) == 0.25);
    json_decref(o);
    MUST(ds_job_metrics(r, j.id, "other", &o, err));
    ck_assert_int_eq((int)json_array_size(o), 0);
    json_decref(o);
    json_decref(p);
    /* nothing but the stage: the progress stays */
    MUST(ds_job_progress(r, j.id, "evaluate", NULL, err));
    ck_assert_int_eq(number(r, "SELECT count(*) FROM jobs WHERE stage = 'evaluate' AND done = 3"
                               " AND total = 9 AND progress LIKE '%steps%'"),
                     1);
    ds_registry_close(r);
}
END_TEST

START_TEST(jobs_that_are_not_there) {
    ds_registry *r = start("nojob");
    ds_job j;
    ds_process p = {0};
    json_t *o = NULL;
    int running;
    int64_t id;
    FAILS(DS_ENOTFOUND, "job 99 does not exist", ds_job_claim(r, 99, err));
    FAILS(DS_ENOTFOUND, "job 99 does not exist", ds_job_read(r, 99, &j, err));
    FAILS(DS_ENOTFOUND, "job 99 does not exist", ds_job_get(r, 99, &o, err));
    FAILS(DS_ENOTFOUND, "job 99 does not exist", ds_job_payload(r, 99, &o, err));
    FAILS(DS_ENOTFOUND, "job 99 does not exist", ds_job_cancel(r, 99, &running, err));
    FAILS(DS_ENOTFOUND, "job 99 does not exist", ds_job_process(r, 99, &p, err));
    FAILS(DS_ENOTFOUND, "job 99 does not exist", ds_job_requeue(r, 99, "", err));
    FAILS(DS_ENOTFOUND, "job 99 does not exist", ds_job_cancelled(r, 99, 0, 0, err));
    MUST(ds_job_add(r, DS_JOB_SAMPLE, "", NULL, 0, &id, err));
    FAILS(DS_ECONFLICT, "queued, not running", ds_job_process(r, id, &p, err));
    ck_assert_int_eq(number(r, "SELECT max_attempts FROM jobs"), 1);
    ds_registry_close(r);
}
END_TEST

/* How the worker ended, in words. */
START_TEST(words_for_the_end_of_a_worker) {
    static const struct {
        ds_job_failure f;
        const char *code, *says;
    } ends[] = {
        {{.exit_code = -1, .exit_signal = 9},
         "DS_EFAILED",
         "worker was killed by signal 9 (Killed)"},
        {{.exit_code = 3, .exit_signal = -1}, "DS_EFAILED", "worker ended with exit code 3"},
        {{.exit_code = 3, .exit_signal = -1, .code = "DS_EIO", .message = "disk"},
         "DS_EIO",
         "disk"}};
    ds_registry *r = start("words");
    for (int i = 0; i < 3; i++) {
        int64_t id;
        json_t *o = NULL;
        MUST(ds_job_add(r, DS_JOB_SAMPLE, "", NULL, 1, &id, err));
        MUST(ds_job_claim(r, id, err));
        MUST(ds_job_fail(r, id, &ends[i].f, NULL, err));
        MUST(ds_job_get(r, id, &o, err));
        json_t *a = json_array_get(json_object_get(o, "attempt_list"), 0);
        ck_assert_str_eq(fx_string(json_object_get(o, "error"), "code"), ends[i].code);
        ck_assert_str_eq(fx_string(json_object_get(o, "error"), "message"), ends[i].says);
        ck_assert_str_eq(fx_string(json_object_get(a, "error"), "message"), ends[i].says);
        ck_assert_str_eq(fx_string(a, "outcome"), "failed");
        ck_assert(json_is_null(json_object_get(a, i ? "exit_signal" : "exit_code")));
        ck_assert_int_eq(fx_int(a, i ? "exit_code" : "exit_signal"), i ? 3 : 9);
        ck_assert(fx_string(a, "ended_at") && fx_string(o, "finished_at"));
        json_decref(o);
    }
    ds_registry_close(r);
}
END_TEST

/* A cancel is for what runs, not for what is over. */
START_TEST(a_removed_set_asks_its_jobs_to_stop) {
    ds_registry *r = start("stop");
    ds_job_failure f = {.exit_code = 1, .exit_signal = -1, .retry = 1};
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    fx_train(r, 1, "one", NULL);
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    fx_scan(r, "two");
    ds_job j = fx_claim(r, DS_JOB_TRAIN);
    MUST(ds_job_fail(r, j.id, &f, NULL, err)); /* queued again */
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    ds_job scan = fx_claim(r, DS_JOB_SCAN);
    MUST(ds_dataset_remove(r, "d", err));
    ck_assert_int_eq(number(r, "SELECT count(*) FROM jobs WHERE cancel"), 1);
    ck_assert_int_eq(number(r, "SELECT id FROM jobs WHERE cancel"), scan.id);
    MUST(ds_job_read(r, j.id, &j, err));
    ck_assert_int_eq(j.state, DS_JOB_CANCELLED);
    ds_registry_close(r);
}
END_TEST

/* The kinds that only their own function ends. */
START_TEST(each_kind_has_its_own_end) {
    ds_registry *r = start("kinds");
    ds_blob b;
    int64_t id;
    json_t *result = fx_json("{\"gate\":{\"verdict\":\"passed\",\"tasks\":[]}}");
    MUST(ds_store_put_bytes(ds_registry_store(r), "m", 1, &b, err));
    MUST(ds_job_add(r, DS_JOB_VERIFY, "", NULL, 1, &id, err));
    MUST(ds_job_claim(r, id, err));
    FAILS(DS_EINVAL, "finished with its own function", ds_job_done(r, id, NULL, err));
    json_t *scan =
        fx_json("{\"tree_digest\":\"%s\",\"images\":1,\"bytes\":1,\"classes\":[{\"name\":"
                "\"a\",\"images\":1}],\"rejected\":[]}",
                b.sha256);
    FAILS(DS_EINVAL, "is not a scan", ds_scan_finish(r, id, scan, &b, NULL, err));
    MUST(ds_job_add(r, DS_JOB_SAMPLE, "", NULL, 1, &id, err));
    MUST(ds_job_claim(r, id, err));
    FAILS(DS_EINVAL, "does not verify", fx_verify_finish(r, id, result, err));
    MUST(ds_job_done(r, id, scan, err));
    json_t *o = NULL;
    MUST(ds_job_get(r, id, &o, err));
    ck_assert(json_equal(json_object_get(o, "result"), scan));
    json_decref(o);
    json_decref(scan);
    json_decref(result);
    ds_registry_close(r);
}
END_TEST

/* What a folder of a job is marked with; what the next start finds of running jobs. */
START_TEST(jobs_of_an_earlier_daemon) {
    ds_registry *r = start("earlier");
    char tree[DS_HEX_SIZE];
    json_t *v = NULL;
    ds_process me;
    int made = -1;
    fx_add(r, "d", "/a");
    int64_t scan = fx_scan(r, "one");
    ds_job j = fx_claim(r, DS_JOB_TRAIN);
    MUST(ds_dataset_version_get(r, 1, &v, err));
    ds_job_tree_digest(r, j.id, tree);
    ck_assert_str_eq(tree, fx_string(v, "tree_digest"));
    json_decref(v);
    ds_job_tree_digest(r, scan, tree);
    ck_assert_str_eq(tree, "");
    ck_assert_int_eq(ds_process_identify(getpid(), &me), 0);
    MUST(ds_job_process(r, j.id, &me, err));
    MUST(ds_jobs_recover(r, &made, err)); /* it is there */
    ck_assert_int_eq(made, 0);
    fx_other_start(&me, 1);
    MUST(ds_job_process(r, j.id, &me, err));
    MUST(ds_jobs_recover(r, &made, err)); /* another one has its number */
    ck_assert_int_eq(made, 1);
    MUST(ds_job_read(r, j.id, &j, err));
    ck_assert(j.state == DS_JOB_QUEUED && j.attempts == 0);
    MUST(ds_jobs_recover(r, NULL, err));
    ds_registry_close(r);
}
END_TEST

/* The first training of a base brings its record. */
START_TEST(a_training_records_the_base) {
    ds_registry *r = start("record");
    ds_blob a, f;
    json_t *spec, *result, *o = NULL;
    char ref[DS_HEX_SIZE + 16];
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    ds_job j = fx_claim(r, DS_JOB_TRAIN);
    MUST(ds_store_put_bytes(ds_registry_store(r), "adapter", 7, &a, err));
    MUST(ds_store_put_bytes(ds_registry_store(r), "reference", 9, &f, err));
    fx_training(r, &j, 1, &a, &f, &spec, &result);
    json_object_set_new(result, "base_task",
                        fx_json("{\"probe\":{\"device_class\":\"cpu-test\",\"sha256\":\"" NET_SHA
                                "\",\"n\":4,\"seed\":11},\"reference\":null,\"fd\":7.5,\"n\":256,"
                                "\"classes\":6}"));
    ds_publication p = {
        .job = j.id, .spec = spec, .result = result, .adapter = &a, .reference = &f};
    MUST(ds_publish(r, &p, ref, err));
    ck_assert_int_eq(fx_count(r, "base.recorded"), 1);
    ck_assert_int_eq(number(r, "SELECT count(*) FROM base_tasks WHERE fd = 7.5 AND classes = 6"),
                     1);
    ck_assert_int_eq(number(r, "SELECT count(*) FROM base_probes"), 1);
    MUST(ds_job_get(r, j.id, &o, err));
    json_t *task = json_object_get(json_object_get(o, "result"), "base_task");
    ck_assert_str_eq(fx_string(task, "ref"), "base:emoji-dit");
    ck_assert(json_is_true(json_object_get(task, "recorded")));
    json_decref(o);
    json_decref(spec);
    json_decref(result);
    ds_registry_close(r);
}
END_TEST

/* What is recorded are the steps that were done, not those that were asked for. */
START_TEST(a_training_may_end_before) {
    ds_registry *r = start("ended");
    ds_blob a, f;
    json_t *spec, *result;
    char ref[DS_HEX_SIZE + 16];
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    ds_job j = fx_claim(r, DS_JOB_TRAIN);
    MUST(ds_store_put_bytes(ds_registry_store(r), "adapter", 7, &a, err));
    MUST(ds_store_put_bytes(ds_registry_store(r), "reference", 9, &f, err));
    fx_training(r, &j, 1, &a, &f, &spec, &result);
    json_object_set_new(result, "steps", json_integer(25));
    json_object_set_new(result, "ended", json_string("patience"));
    ds_publication p = {
        .job = j.id, .spec = spec, .result = result, .adapter = &a, .reference = &f};
    MUST(ds_publish(r, &p, ref, err));
    ck_assert_int_eq(number(r, "SELECT steps FROM adapters_v1"), 25);
    json_decref(spec);
    json_decref(result);
    ds_registry_close(r);
}
END_TEST

START_TEST(a_process_that_is_stopped) {
    ds_process p;
    int status;
    pid_t child = fork();
    if (!child)
        for (;;)
            pause();
    ck_assert_int_eq(ds_process_identify(child, &p), 0);
    ck_assert(ds_process_alive(p.identity) && !ds_process_stopped(p.identity));
    kill(child, SIGSTOP);
    ck_assert_int_eq(waitpid(child, &status, WUNTRACED), child);
    ck_assert(ds_process_alive(p.identity) && ds_process_stopped(p.identity));
    kill(child, SIGCONT);
    ck_assert_int_eq(waitpid(child, &status, WCONTINUED), child);
    ck_assert(ds_process_alive(p.identity) && !ds_process_stopped(p.identity));
    kill(child, SIGKILL);
    siginfo_t end;
    ck_assert(!waitid(P_PID, (id_t)child, &end, WEXITED | WNOWAIT)); /* a zombie does nothing */
    ck_assert(!ds_process_alive(p.identity) && !ds_process_stopped(p.identity));
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(!ds_process_alive(p.identity));
}
END_TEST

/* This very process: its boot, its start, and when it is another one. */
START_TEST(processes_are_told_apart) {
    ds_process p, other;
    char boot[64] = "", want[96];
    ck_assert_int_eq(ds_process_identify(getpid(), &p), 0);
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");
    ck_assert(f && fgets(boot, sizeof boot, f));
    fclose(f);
    boot[strcspn(boot, "\n")] = 0;
    snprintf(want, sizeof want, "local:%s:%ld:", boot, (long)getpid());
    ck_assert_msg(!strncmp(p.identity, want, strlen(want)), "%s, not %s", p.identity, want);
    ck_assert(strtoll(p.identity + strlen(want), NULL, 10) > 0);
    ck_assert(p.pid == getpid() && ds_process_pid(p.identity) == p.pid);
    ck_assert(ds_process_alive(p.identity) && !ds_process_stopped(p.identity));
    other = p;
    fx_other_start(&other, 1);
    ck_assert(ds_process_pid(other.identity) == p.pid && !ds_process_alive(other.identity));
    other = p;
    other.identity[strlen("local:")] ^= 1;
    ck_assert(!ds_process_alive(other.identity));
    ck_assert(ds_process_identify(INT64_MAX, &other) != 0 && !ds_process_alive(other.identity));
    static const char *const none[] = {"",
                                       "local",
                                       "local:",
                                       "local:b",
                                       "local:b:1",
                                       "local:b:1:2:3",
                                       "slurm:77",
                                       "local:b:9x:2",
                                       "local:b:9:2x",
                                       "local:b:1:2",
                                       "local:b:0:2",
                                       "local:b:-9:2",
                                       "local:b:4294967298:2"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        ck_assert_msg(!ds_process_pid(none[i]) && !ds_process_alive(none[i]), "'%s'", none[i]);
    /* the start is compared whole, and so is the number */
    other = p;
    memcpy(other.identity + strlen(p.identity), "0", 2);
    ck_assert(!ds_process_alive(other.identity));
}
END_TEST

/* ---------------------------------------------------------------- rows that are refused */

static int make(ds_registry *r, ds_error *err) { return ds_reconcile(r, NULL, err); }

/* While nothing can be done a call does not take that for "nothing to do". */
static void never_settled(ds_registry *r, const char *when, const char *done) {
    refuse(r, when);
    for (int i = 0; i < 3; i++)
        FAILS(DS_ECONFLICT, "not now", make(r, err));
    ck_assert_int_eq(number(r, done), 0);
    sql(r, "DROP TRIGGER no");
    MUST(make(r, err));
    ck_assert_int_eq(number(r, done), 1);
}

START_TEST(work_that_cannot_be_queued) {
    ds_registry *r = start("queue");
    fx_add(r, "d", "/a");
    never_settled(r, "BEFORE INSERT ON jobs WHEN new.kind = 'scan'",
                  "SELECT count(*) FROM jobs WHERE kind = 'scan'");
    fx_scan(r, "one");
    never_settled(r, "BEFORE INSERT ON jobs WHEN new.kind = 'train'",
                  "SELECT count(*) FROM jobs WHERE kind = 'train'");
    fx_train(r, 1, "one", NULL);
    ds_dataset_new d = {.name = "d", .path = "/a", .watch = -1, .publish_worse = 1};
    int64_t id, seq;
    int created;
    MUST(ds_dataset_add(r, &d, &id, &created, &seq, err));
    fx_scan(r, "one");
    never_settled(r, "BEFORE UPDATE OF publish_worse ON datasets WHEN new.publish_worse = 0",
                  "SELECT publish_worse = 0 FROM datasets");
    ds_registry_close(r);
}
END_TEST

/* A set that cannot be changed keeps its jobs, one whose jobs cannot go stays. */
START_TEST(sets_that_cannot_be_changed) {
    ds_registry *r = start("change");
    int64_t id, seq, other;
    int created;
    MUST(ds_base_put(r, "other", "/o", NET_SHA, NULL, 0, &other, err));
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    MUST(ds_reconcile(r, NULL, err)); /* a training waits */
    ds_dataset_new d = {.name = "d", .path = "/a", .watch = 0, .base_id = other};
    refuse(r, "BEFORE UPDATE OF watch ON datasets");
    FAILS(DS_ECONFLICT, "not now", ds_dataset_add(r, &d, &id, &created, &seq, err));
    ck_assert_int_eq(number(r, "SELECT count(*) FROM jobs WHERE state = 'queued'"), 1);
    sql(r, "DROP TRIGGER no");
    refuse(r, "BEFORE UPDATE OF state ON jobs WHEN new.state = 'cancelled'");
    FAILS(DS_ECONFLICT, "not now", ds_dataset_remove(r, "d", err));
    FAILS(DS_ECONFLICT, "not now", ds_dataset_add(r, &d, &id, &created, &seq, err));
    ck_assert_int_eq(number(r, "SELECT count(*) FROM datasets WHERE state = 'removed'"), 0);
    ck_assert_int_eq(number(r, "SELECT count(*) FROM datasets WHERE base_id IS NOT NULL"), 0);
    sql(r, "DROP TRIGGER no");
    MUST(ds_dataset_add(r, &d, &id, &created, &seq, err));
    ck_assert_int_eq(number(r, "SELECT base_id FROM datasets"), other);
    ck_assert_int_eq(number(r, "SELECT watch FROM datasets"), 0);
    ck_assert_int_eq(number(r, "SELECT count(*) FROM jobs WHERE kind = 'train' AND state ="
                               " 'cancelled' AND error_code = 'DS_ECANCELED'"),
                     1);
    MUST(ds_dataset_remove(r, "d", err));
    ds_registry_close(r);
}
END_TEST

/* The bar that was best cannot be made out: no list, rather than one without it. */
START_TEST(bars_that_cannot_be_read) {
    ds_registry *r = start("bars");
    json_t *bars = NULL, *spec = fx_json("{\"dataset\":{\"tree_digest\":\"" NET_SHA "\"}}");
    three_adapters(r);
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    fx_scan(r, "four");
    fx_train(r, 1, "four", NULL);
    sql(r, "DROP TRIGGER adapter_versions_fixed; UPDATE adapter_versions SET dataset_version_id ="
           " (SELECT dataset_version_id FROM adapter_versions WHERE id = 4) WHERE id = 1");
    sql(r, "UPDATE adapter_versions SET fd = 11 WHERE id = 1");
    MUST(ds_bars(r, "d", spec, &bars, err));
    ck_assert_int_eq((int)json_array_size(bars), 2);
    ck_assert_str_eq(fx_string(json_array_get(bars, 0), "ref"), "d@v3");
    ck_assert_str_eq(fx_string(json_array_get(bars, 1), "ref"), "d@v1");
    json_decref(bars);
    sql(r, "PRAGMA foreign_keys = OFF; UPDATE adapter_versions SET digest = 'x' WHERE id = 1");
    FAILS(DS_EINVAL, "not a sha256", ds_bars(r, "d", spec, &bars, err));
    json_decref(spec);
    ds_registry_close(r);
}
END_TEST

/* Types of events that exist: those of this program, their groups, and what others have written. */
START_TEST(types_of_events) {
    ds_registry *r = start("types");
    static const char *const good[] = {"job.done", "job.", "adapter.published", "my.own"};
    sql(r, "INSERT INTO events(at, type, subject, payload) VALUES (1, 'my.own', 'x', '{}')");
    for (int i = 0; i < 4; i++)
        MUST(ds_event_type_check(r, good[i], err));
    FAILS(DS_EINVAL, "of type 'job'", ds_event_type_check(r, "job", err));
    FAILS(DS_EINVAL, "of type 'my.'", ds_event_type_check(r, "my.", err));
    FAILS(DS_EINVAL, "of type ''", ds_event_type_check(r, "", err));
    FAILS(DS_EINVAL, "did you mean 'job.done'?", ds_event_type_check(r, "job.don", err));
    FAILS(DS_EINVAL, "docs/api.md lists them", ds_event_type_check(r, "quite.another", err));
    ds_registry_close(r);
}
END_TEST

/* A number that is another one when folders are to be watched anew, and only then. */
START_TEST(changes_of_roots_are_counted) {
    ds_registry *r = start("roots");
    static const struct {
        const char *text;
        int changes;
    } what[] = {{"UPDATE datasets SET watch = 0", 1},
                {"UPDATE datasets SET source_path = '/b'", 1},
                {"UPDATE datasets SET scan_wanted = 7", 0},
                {"UPDATE datasets SET state = 'removed', deleted_at = 1", 1}};
    int64_t before = ds_dataset_roots_number(r), now;
    fx_add(r, "d", "/a");
    ck_assert_int_gt(now = ds_dataset_roots_number(r), before);
    for (int i = 0; i < 4; i++) {
        before = now;
        sql(r, what[i].text);
        now = ds_dataset_roots_number(r);
        ck_assert_msg((now != before) == what[i].changes, "%s", what[i].text);
    }
    ds_registry_close(r);
}
END_TEST

/* ---------------------------------------------------------------- long lists */

START_TEST(rejected_files_are_bounded) {
    json_t *list = json_array();
    for (int i = 0; i < REJECTED_MAX; i++)
        json_array_append_new(list, json_pack("{ss ss}", "path", "x", "reason", "y"));
    MUST(rejected_check(list, err));
    json_array_append_new(list, json_pack("{ss ss}", "path", "x", "reason", "y"));
    FAILS(DS_ELIMIT, "10001 rejected files, limit 10000", rejected_check(list, err));
    json_decref(list);
    list = fx_json("[{\"path\":\"x\",\"reason\":\"y\"},{\"path\":\"x\"}]");
    FAILS(DS_EINVAL, "entry 1 of 'rejected'", rejected_check(list, err));
    json_decref(list);
    FAILS(DS_EINVAL, "not a list", rejected_check(NULL, err));
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, filters_leave_out_the_rest);
    tcase_add_test(tc, a_digest_that_fits_two);
    tcase_add_test(tc, an_adapter_has_one_base);
    tcase_add_test(tc, the_life_of_an_alias);
    tcase_add_test(tc, what_a_job_tells);
    tcase_add_test(tc, jobs_that_are_not_there);
    tcase_add_test(tc, words_for_the_end_of_a_worker);
    tcase_add_test(tc, a_removed_set_asks_its_jobs_to_stop);
    tcase_add_test(tc, each_kind_has_its_own_end);
    tcase_add_test(tc, jobs_of_an_earlier_daemon);
    tcase_add_test(tc, a_training_records_the_base);
    tcase_add_test(tc, a_training_may_end_before);
    tcase_add_test(tc, processes_are_told_apart);
    tcase_add_test(tc, a_process_that_is_stopped);
    tcase_add_test(tc, work_that_cannot_be_queued);
    tcase_add_test(tc, sets_that_cannot_be_changed);
    tcase_add_test(tc, bars_that_cannot_be_read);
    tcase_add_test(tc, types_of_events);
    tcase_add_test(tc, changes_of_roots_are_counted);
    tcase_add_test(tc, rejected_files_are_bounded);
}

int main(void) {
    fx_fast_tmp();
    return ds_test_main("registry_rows", cases);
}
