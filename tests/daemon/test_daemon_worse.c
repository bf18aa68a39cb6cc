/* tests/daemon/test_daemon_worse.c - versions that are worse than what they would replace, and the base as a task. */
#include "tests/fixtures/daemon_versions.h"
#include "base/rng.h"
#include "tests/fixtures/daemon_rig.h"
#include <math.h>
#include <sqlite3.h>
#include <time.h>

/* A second task sees the first among its old tasks; the gate's refusal keeps it from @latest. */
START_TEST(refused_by_the_gate) {
    char flags[400], path[100];
    int status;
    rig_start(&r, NULL);
    rig_add(&r, "digits", photos, 201);
    rig_wait_adapter(&r, "digits", 1, 10000);
    rig_fake(&r, "train", "refuse");
    rig_images(&r, "flags", 4, flags);
    rig_add(&r, "flags", flags, 201);
    int64_t id = rig_wait_job(&r, "train", "flags", "|rejected|", 10000);
    snprintf(path, sizeof path, "/v1/jobs/%lld/files/spec.json", (long long)id);
    json_t *spec = rig_call(&r, "GET", path, NULL, &status);
    const json_t *task = json_array_get(json_object_get(spec, "old_tasks"), 0);
    ck_assert_str_eq(ds_json_string(task, "ref", ""), "digits@v1");
    ck_assert(json_is_object(json_object_get(task, "probe")));
    ck_assert(json_is_object(json_object_get(task, "reference")));
    json_decref(spec);
    json_decref(rig_call(&r, "GET", "/v1/adapters/flags", NULL, &status));
    ck_assert_int_eq(status, 404);
    json_t *a = rig_call(&r, "GET", "/v1/adapters/flags@v1", NULL, &status);
    ck_assert_str_eq(ds_json_string(a, "status", ""), "rejected");
    json_decref(a);
}
END_TEST

static json_t *spec_of(int64_t job) {
    char path[100];
    snprintf(path, sizeof path, "/v1/jobs/%lld/files/spec.json", (long long)job);
    return rig_want(&r, 200, "GET", path, NULL);
}

/* Another seed for the photos, and what POST answers. */
static json_t *again(int seed, const char *more) {
    char body[700];
    if (seed)
        snprintf(body, sizeof body,
                 "{\"path\":\"%s\",\"name\":\"digits\",\"options\":{\"seed\":%d}%s}", photos, seed,
                 more);
    else
        snprintf(body, sizeof body, "{\"path\":\"%s\",\"name\":\"digits\"%s}", photos, more);
    return rig_want(&r, 200, "POST", "/v1/datasets", body);
}

/* Training number `version` of digits is over in this state; its job. */
static int64_t wait_version(int version, const char *status) {
    char path[64];
    snprintf(path, sizeof path, "/v1/adapters/digits@v%d", version);
    for (int i = 0; i < 500; i++, usleep(20000)) {
        int http;
        json_t *a = rig_call(&r, "GET", path, NULL, &http);
        int64_t job = ds_json_int(a, "job", 0);
        int is = http == 200 && !strcmp(ds_json_string(a, "status", ""), status);
        json_decref(a);
        if (is)
            return job;
    }
    rig_dump_log(&r);
    ck_abort_msg("%s is not %s", path, status);
    return 0;
}

static void expect_latest(const char *ref) {
    json_t *a = rig_want(&r, 200, "GET", "/v1/adapters/digits", NULL);
    ck_assert_str_eq(ds_json_string(a, "ref", ""), ref);
    json_decref(a);
}

static int wish(void) {
    json_t *d = rig_want(&r, 200, "GET", "/v1/datasets/digits", NULL);
    int yes = ds_json_bool(d, "publish_worse", 0);
    json_decref(d);
    return yes;
}

/* Each metric in its order, by type; and what two trainings, one of them refused, make of them. */
static void check_metrics(const char *text) {
    static const char types[] =
        "build_info g,jobs g,datasets g,adapters g,blobs g,blob_bytes g,events_total c,"
        "job_duration_seconds s,worker_restarts_total c,train_steps_total c,"
        "eval_regressions_total c,eval_fd g,eval_class_accuracy g,adapter_bar_fd g,"
        "adapter_bar_change g,"
        "http_requests_total c,http_connections g,inotify_overflows_total c,watched_directories g,"
        "reconciles_total c,work_seconds_max g,loop_lag_seconds g,loop_lag_seconds_max g,";
    static const char *const lines[] = {
        "\ndiffscaler_jobs{state=\"rejected\"} 1\n",
        "\ndiffscaler_datasets 1\n",
        "\ndiffscaler_adapters 1\n",
        "\ndiffscaler_job_duration_seconds_count{kind=\"train\"} 2\n",
        "\ndiffscaler_eval_regressions_total 1\n",
        "\ndiffscaler_eval_fd{task=\"digits\",net=\"",
        "\",preprocess=\"pil-bicubic-1\"} 5\n",
        "\ndiffscaler_eval_class_accuracy{task=\"digits\",net=\"",
        "\",preprocess=\"pil-bicubic-1\"} 0.25\n",
        "bar=\"digits@v1\",verdict=\"refused\"} 3\n"};
    ds_buf got = {0};
    for (const char *p = text; (p = strstr(p, "# TYPE diffscaler_")); p++) {
        char name[80], type[20];
        ck_assert_int_eq(sscanf(p + 18, "%79s %19s", name, type), 2);
        ds_buf_addf(&got, "%s %c,", name, *type);
    }
    ck_assert_str_eq(got.data, types);
    ds_buf_release(&got);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        ck_assert_msg(strstr(text, lines[i]) != NULL, "%s is not in:\n%s", lines[i], text);
    const char *started = strstr(text, "\nprocess_start_time_seconds ");
    ck_assert(started && fabs(strtod(started + 28, NULL) - (double)time(NULL)) < 600);
}

/* A worse version stays rejected, a force counts once and outlives a restart, the next is judged. */
START_TEST(worse_than_latest) {
    int status;
    rig_start(&r, NULL);
    rig_add(&r, "digits", photos, 201);
    int64_t id = wait_version(1, "published");
    json_t *spec = spec_of(id), *a, *bar, *d;
    ck_assert_int_eq((int)json_array_size(json_object_get(spec, "bars")), 0);
    ck_assert(json_is_false(json_object_get(spec, "publish_worse")));
    json_decref(spec);
    rig_fake(&r, "train", "worse");
    json_decref(again(2, ""));
    id = wait_version(2, "rejected");
    spec = spec_of(id);
    bar = json_array_get(json_object_get(spec, "bars"), 0);
    ck_assert_str_eq(ds_json_string(bar, "ref", ""), "digits@v1");
    ck_assert_str_eq(ds_json_string(bar, "role", ""), "latest");
    ck_assert(ds_fs_exists(ds_json_string(json_object_get(bar, "base"), "path", "")));
    ck_assert(ds_fs_exists(ds_json_string(json_object_get(bar, "adapter"), "path", "")));
    json_decref(spec);
    expect_latest("digits@v1");
    a = rig_want(&r, 200, "GET", "/v1/adapters/digits@v2", NULL);
    ck_assert_str_eq(
        ds_json_string(json_object_get(json_object_get(a, "gate"), "self"), "verdict", ""),
        "refused");
    ck_assert_str_eq(ds_json_string(json_object_get(a, "bar"), "ref", ""), "digits@v1");
    json_decref(a);
    char *text = rig_text(&r, "GET", "/metrics", NULL, NULL, &status);
    ck_assert_msg(strstr(text, "# TYPE diffscaler_adapter_bar_fd gauge\n"
                               "diffscaler_adapter_bar_fd{task=\"digits\",role=\"latest\",bar="
                               "\"digits@v1\",verdict=\"refused\"} 5\n") != NULL,
                  "%s", text);
    check_metrics(text);
    free(text);
    usleep(500000); /* a verdict is an answer: no other training comes */
    ck_assert_int_eq(ds_json_int((d = get_job(id)), "id", 0), id);
    json_decref(d);
    /* the wish waits in the registry while nothing can run, and through a restart */
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    const char *const paused[] = {"--workers", "0", NULL};
    rig_start(&r, paused);
    d = again(0, ",\"publish_worse\":true");
    ck_assert(json_is_true(json_object_get(d, "publish_worse")));
    ck_assert(json_object_get(json_object_get(d, "options"), "publish_worse") == NULL);
    json_decref(d);
    rig_wait_job(&r, "train", "digits", "|queued|", 5000);
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    rig_start(&r, NULL);
    id = wait_version(3, "published");
    expect_latest("digits@v3");
    ck_assert_int_eq(wish(), 0);
    spec = spec_of(id);
    ck_assert(json_is_true(json_object_get(spec, "publish_worse")));
    json_decref(spec);
    a = rig_want(&r, 200, "GET", "/v1/adapters/digits@v3", NULL);
    ck_assert_str_eq(ds_json_string(a, "self", ""), "forced");
    ck_assert(json_object_get(json_object_get(a, "metadata"), "bars") == NULL);
    json_decref(a);
    json_decref(again(3, ""));
    id = wait_version(4, "rejected");
    spec = spec_of(id);
    ck_assert_int_eq((int)json_array_size(json_object_get(spec, "bars")), 2);
    ck_assert_str_eq(ds_json_string(json_array_get(json_object_get(spec, "bars"), 1), "ref", ""),
                     "digits@v1");
    ck_assert(json_is_false(json_object_get(spec, "publish_worse")));
    json_decref(spec);
}
END_TEST

/* @latest goes back by hand, and is the bar then; a wish without anything to force goes away. */
START_TEST(back_to_an_older_one) {
    json_t *spec;
    rig_start(&r, NULL);
    rig_add(&r, "digits", photos, 201);
    wait_version(1, "published");
    rig_fake(&r, "train", "worse");
    json_decref(again(2, ",\"publish_worse\":true"));
    wait_version(2, "published");
    json_decref(again(3, ""));
    wait_version(3, "rejected");
    json_decref(rig_want(&r, 200, "PUT", "/v1/adapters/digits/aliases/latest", "{\"version\":1}"));
    expect_latest("digits@v1");
    rig_says(&r, 422, "PUT", "/v1/adapters/digits/aliases/latest", "{\"version\":3}",
             "was rejected by the gate");
    rig_fake(&r, "train", "ok");
    json_decref(again(4, ",\"publish_worse\":false"));
    spec = spec_of(wait_version(4, "published"));
    ck_assert_int_eq((int)json_array_size(json_object_get(spec, "bars")), 1);
    json_decref(spec);
    /* nothing to force: the wish is gone again */
    json_decref(again(0, ",\"publish_worse\":true"));
    for (int i = 0; i < 250 && wish(); i++)
        usleep(20000);
    ck_assert_int_eq(wish(), 0);
    rig_says(&r, 400, "POST", "/v1/datasets", "{\"path\":\"/tmp\",\"publish_worse\":1}",
             "'publish_worse' must be true or false");
}
END_TEST

/* The first training of a base records what it can do itself; whatever follows verifies that. */
START_TEST(the_base_is_a_task) {
    char flags[400];
    rig_start(&r, NULL);
    json_t *d = rig_want(&r, 200, "GET", "/v1/bases/emoji", NULL), *task, *spec;
    ck_assert(json_is_null(json_object_get(d, "task")));
    json_decref(d);
    rig_add(&r, "digits", photos, 201);
    int64_t id = wait_version(1, "published");
    ck_assert(!job_file_exists(id, "base_reference.safetensors.zst"));
    spec = spec_of(id);
    ck_assert(json_is_null(json_object_get(spec, "base_task")));
    json_decref(spec);
    d = rig_want(&r, 200, "GET", "/v1/bases/emoji", NULL);
    task = json_object_get(d, "task");
    ck_assert_double_eq(ds_json_number(task, "fd", 0), 7.5);
    ck_assert_int_eq(ds_json_int(task, "classes", 0), 6);
    ck_assert(json_is_null(json_object_get(task, "last")));
    json_decref(d);
    rig_images(&r, "flags", 4, flags);
    rig_add(&r, "flags", flags, 201);
    id = rig_wait_job(&r, "train", "flags", "|done|", 10000);
    spec = spec_of(id);
    task = json_object_get(spec, "base_task");
    ck_assert_str_eq(ds_json_string(task, "ref", ""), "base:emoji");
    ck_assert(ds_fs_exists(ds_json_string(json_object_get(task, "reference"), "path", "")));
    ck_assert(ds_fs_exists(ds_json_string(json_object_get(task, "feature_net"), "path", "")));
    ck_assert_int_eq((int)json_array_size(json_object_get(task, "probes")), 1);
    json_decref(spec);
    d = rig_want(&r, 200, "GET", "/v1/bases", NULL);
    task = json_object_get(json_array_get(json_object_get(d, "items"), 0), "task");
    ck_assert_str_eq(ds_json_string(json_object_get(task, "last"), "adapter", ""), "flags@v1");
    ck_assert_str_eq(ds_json_string(json_object_get(task, "last"), "verdict", ""), "passed");
    json_decref(d);
    json_decref(rig_want(&r, 202, "POST", "/v1/verify", "{}"));
    id = rig_wait_job(&r, "verify", NULL, "|done|", 5000);
    d = get_job(id);
    const json_t *tasks =
        json_object_get(json_object_get(json_object_get(d, "result"), "gate"), "tasks");
    ck_assert_int_eq((int)json_array_size(tasks), 3);
    ck_assert_str_eq(ds_json_string(json_array_get(tasks, 0), "ref", ""), "base:emoji");
    ck_assert_str_eq(ds_json_string(d, "base", ""), "emoji");
    json_decref(d);
}
END_TEST

START_TEST(the_base_is_probed_only) {
    rig_start(&r, (const char *const[]){"--base-task", "probe", NULL});
    rig_add(&r, "digits", photos, 201);
    json_t *spec = spec_of(wait_version(1, "published"));
    ck_assert(json_is_true(json_object_get(spec, "base_probe_only")));
    json_decref(spec);
    json_t *job = rig_want(&r, 202, "POST", "/v1/verify", "{}");
    spec = spec_of(rig_wait_job(&r, "verify", NULL, "|done|", 5000));
    ck_assert_msg(!json_object_get(spec, "base_probe_only"), "nothing is to be recorded");
    json_decref(spec);
    json_decref(job);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, refused_by_the_gate);
    tcase_add_test(tc, worse_than_latest);
    tcase_add_test(tc, back_to_an_older_one);
    tcase_add_test(tc, the_base_is_a_task);
    tcase_add_test(tc, the_base_is_probed_only);
}

int main(int argc, char **argv) {
    rig_main(argc, argv);
    return ds_test_main("daemon_worse", cases);
}
