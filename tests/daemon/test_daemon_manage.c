/* tests/daemon/test_daemon_manage.c - failed trainings are told, datasets are paused and resumed, adapters
 * and aliases removed, and the daemon stopped, on the real daemon with a worker that obeys. */
#include "tests/fixtures/daemon_rig.h"

static rig r;
static char photos[400];

static void setup(void) {
    char name[32];
    snprintf(name, sizeof name, "manage%d", (int)getpid()); /* each test is a process of its own */
    rig_open(&r, name);
    rig_images(&r, "photos", 3, photos);
    rig_start(&r, NULL);
}

static void teardown(void) {
    if (r.pid)
        rig_stop(&r, SIGTERM);
}

static json_t *dataset(void) { return rig_want(&r, 200, "GET", "/v1/datasets/digits", NULL); }

static void add_again(const char *more) {
    char body[600];
    snprintf(body, sizeof body, "{\"path\":\"%s\",\"name\":\"digits\"%s}", photos, more);
    json_decref(rig_want(&r, 200, "POST", "/v1/datasets", body));
}

START_TEST(failed_training_is_told) {
    rig_fake(&r, "train", "exit 2");
    rig_add(&r, "digits", photos, 201);
    int64_t id = rig_wait_job(&r, "train", "digits", "|failed|", 10000);
    json_t *d = dataset(), *t = json_object_get(d, "training");
    ck_assert_str_eq(ds_json_string(d, "state", ""), "ready");
    ck_assert_str_eq(ds_json_string(t, "state", ""), "failed");
    ck_assert_int_eq(ds_json_int(t, "job", 0), id);
    ck_assert_str_eq(ds_json_string(json_object_get(t, "error"), "message", ""), "told to fail");
    json_decref(d);
    json_t *s = rig_want(&r, 200, "GET", "/v1/status", NULL),
           *f = json_object_get(s, "failed_trainings");
    ck_assert_int_eq(ds_json_int(f, "count", -1), 1);
    ck_assert_str_eq(ds_json_string(json_array_get(json_object_get(f, "items"), 0), "dataset", ""),
                     "digits");
    json_decref(s);
    rig_fake(&r, "train", "ok");
    add_again("");
    rig_wait_adapter(&r, "digits", 1, 10000);
    s = rig_want(&r, 200, "GET", "/v1/status", NULL);
    ck_assert_int_eq(ds_json_int(json_object_get(s, "failed_trainings"), "count", -1), 0);
    json_decref(s);
    d = dataset();
    ck_assert_str_eq(ds_json_string(json_object_get(d, "training"), "state", ""), "done");
    json_decref(d);
}
END_TEST

/* As `promtool check metrics`: each series has a HELP and a TYPE before it; a training's loss tells
 * whose it is. */
static void check_metrics(int64_t job) {
    int status, n = 0;
    char *text = rig_text(&r, "GET", "/metrics", NULL, NULL, &status), want[100];
    for (char *p = text; *p; p += strcspn(p, "\n") + 1) {
        if (*p == '#')
            continue;
        int length = (int)strcspn(p, "{ ");
        if (length > 4 && !strncmp(p + length - 4, "_sum", 4))
            length -= 4;
        if (length > 6 && !strncmp(p + length - 6, "_count", 6))
            length -= 6;
        for (int k = 0; k < 2; k++) {
            snprintf(want, sizeof want, "# %s %.*s ", k ? "TYPE" : "HELP", length, p);
            char *at = strstr(text, want);
            ck_assert_msg(at && at < p, "no '%s' before %.40s", want, p);
        }
        n++;
    }
    ck_assert_int_gt(n, 30);
    snprintf(want, sizeof want, "\ndiffscaler_train_loss{job=\"%lld\",task=\"digits\"} 0.25\n",
             (long long)job);
    for (int i = 0; i < 100 && !strstr(text, want); i++) { /* once its events are read */
        usleep(50000);
        free(text);
        text = rig_text(&r, "GET", "/metrics", NULL, NULL, &status);
    }
    ck_assert_msg(strstr(text, want) != NULL, "%s not in %s", want, text);
    const char *head = strstr(text, "\n# TYPE diffscaler_train_loss gauge\n");
    ck_assert(head && head < strstr(text, want) && !strstr(head + 2, "# TYPE diffscaler_train_l"));
    free(text);
}

/* The loss that is told is of trainings, whatever another job calls so. */
static void no_loss_of_others(void) {
    int status;
    rig_fake(&r, "sample", "hang");
    json_decref(rig_want(&r, 202, "POST", "/v1/samples", "{\"ref\":null,\"n\":2}"));
    int64_t id = rig_wait_job(&r, "sample", NULL, "|running|", 5000);
    ck_assert(rig_worker_of(&r, id) > 0); /* it has said something */
    char *text = rig_text(&r, "GET", "/metrics", NULL, NULL, &status);
    ck_assert_msg(!strstr(text, "train_loss"), "%s", text);
    free(text);
    rig_fake(&r, "sample", "ok");
    char path[60];
    snprintf(path, sizeof path, "/v1/jobs/%lld/cancel", (long long)id);
    json_decref(rig_want(&r, 202, "POST", path, NULL));
    rig_wait_job(&r, "sample", NULL, "|cancelled|", 5000);
}

/* Its row could not be written while another program held the registry: the daemon knows it. */
static void process_is_known_without_its_row(int64_t id) {
    char path[60];
    pid_t pid = rig_worker_of(&r, id);
    snprintf(path, sizeof path, "/v1/jobs/%lld", (long long)id);
    rig_sql(&r, "UPDATE jobs SET pid = NULL WHERE pid IS NOT NULL");
    json_t *job = rig_want(&r, 200, "GET", path, NULL);
    ck_assert_int_eq(ds_json_int(job, "pid", 0), pid);
    json_decref(job);
}

/* What runs goes back to the queue, its attempt not counted, and stays there over a restart. */
START_TEST(pause_and_resume) {
    char state[16];
    rig_fake(&r, "train", "hang");
    rig_add(&r, "digits", photos, 201);
    int64_t id = rig_wait_job(&r, "train", "digits", "|running|", 10000);
    check_metrics(id);
    process_is_known_without_its_row(id);
    rig_says(&r, 404, "POST", "/v1/datasets/none/pause", NULL, "none");
    json_t *d = rig_want(&r, 200, "POST", "/v1/datasets/digits/pause", NULL);
    ck_assert(json_is_true(json_object_get(d, "paused")));
    char *notes = json_dumps(json_object_get(d, "notes"), 0);
    ck_assert_ptr_nonnull(strstr(notes, "until dsctl resume digits"));
    free(notes);
    json_decref(d);
    ck_assert_int_eq(rig_wait_job(&r, "train", "digits", "|queued|", 5000), id);
    rig_fake(&r, "train", "ok");
    char path[500]; /* a change asks for a scan, which waits as well; samples of others do not */
    snprintf(path, sizeof path, "%s/new.png", photos);
    rig_write(path, "\x89PNG new");
    json_decref(rig_want(&r, 202, "POST", "/v1/datasets/digits/rescan", NULL));
    json_decref(rig_want(&r, 202, "POST", "/v1/samples", "{\"ref\":null,\"n\":2}"));
    rig_wait_job(&r, "sample", NULL, "|done|", 5000);
    no_loss_of_others();
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    rig_start(&r, NULL);
    usleep(600000);
    ck_assert_int_eq(rig_job(&r, "train", "digits", state), id);
    ck_assert_str_eq(state, "queued");
    rig_job(&r, "scan", "digits", state);
    ck_assert_str_eq(state, "queued");
    d = rig_want(&r, 200, "POST", "/v1/datasets/digits/resume", NULL);
    ck_assert(json_is_false(json_object_get(d, "paused")));
    json_decref(d);
    rig_wait_job(&r, "scan", "digits", "|done|", 10000);
    rig_wait_job(&r, "train", "digits", "|done|", 10000);
    snprintf(path, sizeof path, "/v1/jobs/%lld", (long long)id);
    json_t *job = rig_want(&r, 200, "GET", path, NULL);
    /* the paused attempt did not count; a newer version of the folder may have come first */
    ck_assert_int_le(ds_json_int(job, "attempts", 9), 1);
    json_decref(job);
    json_decref(rig_want(&r, 200, "POST", "/v1/datasets/digits/resume", NULL)); /* again: nothing */
    int status;
    char *events = rig_text(&r, "GET", "/v1/events?type=dataset.", NULL, NULL, &status);
    ck_assert_ptr_nonnull(strstr(events, "dataset.paused"));
    char *first = strstr(events, "dataset.resumed");
    ck_assert(first && !strstr(first + 1, "dataset.resumed"));
    free(events);
}
END_TEST

START_TEST(aliases_and_adapters_are_removed) {
    rig_add(&r, "digits", photos, 201);
    rig_wait_adapter(&r, "digits", 1, 10000);
    json_decref(rig_want(&r, 200, "PUT", "/v1/adapters/digits/aliases/prod", "{\"version\":1}"));
    rig_says(&r, 404, "GET", "/v1/adapters/none/aliases", NULL, "adapter 'none' does not exist");
    json_t *list = rig_want(&r, 200, "GET", "/v1/aliases?limit=1", NULL);
    ck_assert_str_eq(ds_json_string(list, "next", ""), "digits@latest");
    json_decref(list);
    list = rig_want(&r, 200, "GET", "/v1/aliases?limit=1&cursor=digits@latest", NULL);
    ck_assert_str_eq(ds_json_string(json_array_get(json_object_get(list, "items"), 0), "alias", ""),
                     "prod");
    ck_assert(json_is_null(json_object_get(list, "next")));
    json_decref(list);
    rig_says(&r, 409, "DELETE", "/v1/adapters/digits/aliases/latest", NULL, "alone means");
    rig_says(&r, 404, "DELETE", "/v1/adapters/digits/aliases/none", NULL, "no alias 'none'");
    rig_says(&r, 409, "DELETE", "/v1/adapters/digits@v1", NULL, "the aliases latest, prod");
    json_decref(rig_want(&r, 200, "DELETE", "/v1/adapters/digits/aliases/prod", NULL));
    rig_says(&r, 404, "GET", "/v1/adapters/digits@prod", NULL, "no alias 'prod'");
    /* made again it counts on: whoever saw generation 1 must not take this one for it */
    json_t *a = rig_want(&r, 200, "PUT", "/v1/adapters/digits/aliases/prod", "{\"version\":1}");
    ck_assert_int_eq(ds_json_int(a, "generation", 0), 2);
    json_decref(a);
    add_again(",\"options\":{\"seed\":2}");
    rig_wait_adapter(&r, "digits", 2, 10000);
    json_decref(rig_want(&r, 200, "DELETE", "/v1/adapters/digits@v2?force=1", NULL));
    rig_says(&r, 404, "GET", "/v1/adapters/digits", NULL, "dsctl set-alias digits latest v1");
    rig_says(&r, 404, "GET", "/v1/adapters/digits@v2", NULL, "digits@v2");
    json_decref(rig_want(&r, 200, "DELETE", "/v1/adapters/digits@v1?force=1", NULL));
    rig_says(&r, 404, "GET", "/v1/adapters/digits", NULL, "all versions of adapter 'digits'");
    usleep(300000); /* not trained anew by itself, but when it is added again */
    char state[16];
    int64_t before = rig_job(&r, "train", "digits", state);
    ck_assert_str_eq(state, "done");
    add_again("");
    rig_wait_adapter(&r, "digits", 3, 10000);
    ck_assert_int_gt(rig_job(&r, "train", "digits", state), before);
    a = rig_want(&r, 200, "GET", "/v1/adapters/digits", NULL);
    ck_assert_str_eq(ds_json_string(a, "ref", ""), "digits@v3");
    json_decref(a);
}
END_TEST

/* The base's own samples alone; a list that says a name twice; tolerances of the bars. */
START_TEST(small_requests) {
    char body[600];
    rig_add(&r, "digits", photos, 201);
    rig_wait_adapter(&r, "digits", 1, 10000);
    json_decref(rig_want(&r, 202, "POST", "/v1/verify", "{\"ref\":null,\"base_task\":true}"));
    int64_t id = rig_wait_job(&r, "verify", NULL, "|done|", 5000);
    char *path = ds_xasprintf("%s/jobs/%lld/spec.json", r.state, (long long)id);
    json_t *spec = NULL;
    ck_assert_int_eq(ds_json_read_file(path, 1 << 20, &spec, NULL), 0);
    ck_assert_uint_eq(json_array_size(json_object_get(spec, "old_tasks")), 0);
    ck_assert(json_is_object(json_object_get(spec, "base_task")));
    json_decref(spec);
    free(path);
    snprintf(body, sizeof body, "{\"path\":\"%s\",\"options\":{\"targets\":[\"q\",\"k\",\"q\"]}}",
             photos);
    rig_says(&r, 400, "POST", "/v1/datasets", body, "option 'targets' names 'q' twice");
    add_again(",\"options\":{\"worse_margin\":0.5,\"seed\":2}");
    rig_wait_adapter(&r, "digits", 2, 10000);
    char state[16];
    path = ds_xasprintf("%s/jobs/%lld/spec.json", r.state,
                        (long long)rig_job(&r, "train", "digits", state));
    ck_assert_int_eq(ds_json_read_file(path, 1 << 20, &spec, NULL), 0);
    const json_t *gate = json_object_get(spec, "gate");
    ck_assert_double_eq(ds_json_number(gate, "worse_margin", 0), 0.5);
    ck_assert_ptr_null(json_object_get(gate, "worse_sigmas")); /* the worker's own */
    json_decref(spec);
    free(path);
    /* nobody waits in silence for a training that cannot begin */
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    const char *const none[] = {"--workers", "0", NULL};
    rig_start(&r, none);
    json_t *d = dataset();
    char *notes = json_dumps(json_object_get(d, "notes"), 0);
    ck_assert_msg(strstr(notes, "runs with --workers 0") != NULL, "%s", notes);
    free(notes);
    json_decref(d);
}
END_TEST

START_TEST(stop_ends_the_daemon) {
    rig_fake(&r, "train", "hang");
    rig_add(&r, "digits", photos, 201);
    rig_wait_job(&r, "train", "digits", "|running|", 10000);
    json_t *a = rig_want(&r, 202, "POST", "/v1/stop", NULL);
    ck_assert_int_eq(ds_json_int(a, "pid", 0), r.pid);
    json_decref(a);
    ck_assert_int_eq(rig_wait_exit(&r, 10000), 0);
    rig_start(&r, NULL); /* the state folder is free, and the work goes on */
    rig_fake(&r, "train", "ok");
    rig_wait_job(&r, "train", "digits", "|running|done|", 10000);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, failed_training_is_told);
    tcase_add_test(tc, pause_and_resume);
    tcase_add_test(tc, aliases_and_adapters_are_removed);
    tcase_add_test(tc, small_requests);
    tcase_add_test(tc, stop_ends_the_daemon);
}

int main(int argc, char **argv) {
    rig_main(argc, argv);
    return ds_test_main("daemon_manage", cases);
}
