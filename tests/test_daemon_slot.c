/* tests/test_daemon_slot.c - the end of a worker and what the daemon makes of it: one that ignores
 * SIGTERM, one that somebody else ended, a result that contradicts its exit code, a cancel while
 * the job waits, restarts by reason. */
#include "tests/daemon_rig.h"

static rig r;
static char photos[400];

static void setup(void) {
    static int n;
    char name[32];
    snprintf(name, sizeof name, "slot%d-%d", (int)getpid(), n++);
    rig_open(&r, name);
    rig_images(&r, "digits", 3, photos);
    rig_start(&r, NULL);
}

static void teardown(void) {
    if (r.pid)
        ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
}

static json_t *job_of(int64_t id) {
    char path[64];
    snprintf(path, sizeof path, "/v1/jobs/%lld", (long long)id);
    return rig_want(&r, 200, "GET", path, NULL);
}

/* Process of a running job, once its worker has said something. */
static pid_t worker_of(int64_t id) {
    for (int i = 0; i < 500; i++, usleep(20000)) {
        json_t *job = job_of(id);
        pid_t pid = (pid_t)ds_json_int(job, "pid", 0);
        int speaks = json_is_object(json_object_get(job, "progress"));
        json_decref(job);
        if (pid > 0 && speaks)
            return pid;
    }
    ck_abort_msg("job %lld has no worker", (long long)id);
    return 0;
}

static void cancel_job(int64_t id, int want) {
    char path[64];
    snprintf(path, sizeof path, "/v1/jobs/%lld/cancel", (long long)id);
    json_decref(rig_want(&r, want, "POST", path, NULL));
}

static double metric(const char *name) {
    int status;
    char *text = rig_text(&r, "GET", "/metrics", NULL, NULL, &status), line[120];
    snprintf(line, sizeof line, "\n%s ", name);
    const char *p = strstr(text, line);
    ck_assert_msg(p != NULL, "there is no %s", name);
    double v = strtod(p + strlen(line), NULL);
    free(text);
    return v;
}

#define RESTARTS(reason) metric("diffscaler_worker_restarts_total{reason=\"" reason "\"}")

static int64_t training(const char *how, const char *states) {
    rig_fake(&r, "train", how);
    rig_add(&r, "digits", photos, 201);
    return rig_wait_job(&r, "train", "digits", states, 10000);
}

/* Wait until the job is queued again with an error. */
static json_t *back_in_queue(int64_t id) {
    for (int i = 0; i < 500; i++, usleep(20000)) {
        json_t *job = job_of(id);
        if (json_is_object(json_object_get(job, "error")) &&
            !strcmp(ds_json_string(job, "state", ""), "queued"))
            return job;
        json_decref(job);
    }
    ck_abort_msg("job %lld is not tried again", (long long)id);
    return NULL;
}

/* SIGTERM is ignored: after 15 s the worker is killed, the job is cancelled, and meanwhile the
 * daemon answers. */
START_TEST(a_worker_that_ignores_the_cancel) {
    int64_t id = training("stubborn", "|running|");
    pid_t worker = worker_of(id);
    double began = ds_monotonic();
    cancel_job(id, 202);
    usleep(1500000);
    json_t *job = job_of(id);
    ck_assert_str_eq(ds_json_string(job, "state", ""), "running");
    json_decref(job);
    ck_assert_int_eq(kill(worker, 0), 0);
    char path[500];
    snprintf(path, sizeof path, "%s/jobs/%lld/cancel", r.state, (long long)id);
    ck_assert(ds_fs_exists(path));
    ck_assert_int_eq(rig_wait_job(&r, "train", "digits", "|cancelled|", 20000), id);
    double took = ds_monotonic() - began;
    ck_assert_msg(took > 14 && took < 19, "%g s", took);
    ck_assert(kill(worker, 0) != 0 && errno == ESRCH);
}
END_TEST

/* Somebody else ends it: it waits a little and goes on, and no attempt is counted.  _i: by its own
 * exit 143, by the signal. */
START_TEST(ended_by_somebody_else) {
    int64_t id = training(_i ? "mortal" : "hang", "|running|");
    kill(worker_of(id), SIGTERM);
    json_t *job = back_in_queue(id);
    ck_assert_int_eq(ds_json_int(job, "attempts", -1), 0);
    json_decref(job);
    ck_assert(RESTARTS("temporary") == 1 && RESTARTS("crash") == 0);
    rig_fake(&r, "train", "ok");
    rig_sql(&r, "UPDATE jobs SET run_after = 0 WHERE state = 'queued'");
    rig_wait_adapter(&r, "digits", 1, 10000);
    ck_assert_int_eq(rig_wait_job(&r, "train", "digits", "|done|", 1000), id);
}
END_TEST

/* Killed, or failed: attempts, told apart. */
START_TEST(restarts_have_their_reason) {
    int64_t id = training("crash", "|queued|running|");
    json_t *job = back_in_queue(id);
    ck_assert_int_eq(ds_json_int(job, "attempts", -1), 1);
    json_decref(job);
    ck_assert(RESTARTS("crash") == 1 && RESTARTS("failed") == 0);
    rig_fake(&r, "train", "exit 1");
    rig_sql(&r, "UPDATE jobs SET run_after = 0 WHERE state = 'queued'");
    for (int i = 0; i < 500 && RESTARTS("failed") == 0; i++)
        usleep(20000);
    ck_assert(RESTARTS("crash") == 1 && RESTARTS("failed") == 1);
    job = back_in_queue(id);
    ck_assert_int_eq(ds_json_int(job, "attempts", -1), 2);
    json_decref(job);
}
END_TEST

/* It waits for its turn again: the cancel is at once and for good. */
START_TEST(cancel_after_postpone) {
    int64_t id = training("exit 75", "|queued|running|");
    json_t *job = back_in_queue(id);
    ck_assert_int_eq(ds_json_int(job, "attempts", -1), 0);
    ck_assert(json_is_string(json_object_get(job, "run_after")));
    json_decref(job);
    ck_assert(RESTARTS("temporary") == 1);
    cancel_job(id, 202);
    job = job_of(id);
    ck_assert_str_eq(ds_json_string(job, "state", ""), "cancelled");
    json_decref(job);
    cancel_job(id, 409);
    rig_fake(&r, "train", "ok");
    json_decref(rig_want(&r, 202, "POST", "/v1/datasets/digits/rescan", NULL));
    usleep(700000); /* it does not come back by itself */
    char state[16];
    ck_assert_int_eq(rig_job(&r, "train", "digits", state), id);
    ck_assert_str_eq(state, "cancelled");
    rig_add(&r, "digits", photos, 200); /* but when it is asked for */
    rig_wait_adapter(&r, "digits", 1, 10000);
}
END_TEST

/* Exit 8 and a result that says "ok": nothing is published, the work is done again. */
START_TEST(a_result_against_its_exit_code) {
    int64_t id = training("mixed", "|queued|running|");
    json_t *job = back_in_queue(id);
    const json_t *e = json_object_get(job, "error");
    ck_assert_str_eq(ds_json_string(e, "code", ""), "DS_EINTEGRITY");
    ck_assert(strstr(ds_json_string(e, "message", ""), "exited with 8 but") != NULL);
    ck_assert_int_eq(ds_json_int(job, "attempts", -1), 1);
    json_decref(job);
    json_decref(rig_want(&r, 404, "GET", "/v1/adapters/digits", NULL));
    ck_assert(metric("diffscaler_eval_regressions_total") == 0);
    rig_fake(&r, "train", "refuse");
    rig_sql(&r, "UPDATE jobs SET run_after = 0 WHERE state = 'queued'");
    rig_wait_job(&r, "train", "digits", "|rejected|", 10000);
    ck_assert(metric("diffscaler_eval_regressions_total") == 1);
}
END_TEST

/* The daemon stops: the job is in the queue, not failed, with what it had reached. */
START_TEST(stopped_jobs_go_on) {
    int64_t id = training("hang", "|running|");
    worker_of(id);
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    rig_fake(&r, "train", "ok");
    rig_start(&r, NULL);
    rig_wait_adapter(&r, "digits", 1, 10000);
    json_t *job = job_of(id);
    ck_assert_str_eq(ds_json_string(job, "state", ""), "done");
    ck_assert_int_eq(ds_json_int(job, "attempts", -1), 1);
    ck_assert_int_eq((int)json_array_size(json_object_get(job, "attempt_list")), 2);
    json_decref(job);
}
END_TEST

/* A manifest that was damaged in the job's folder is unpacked again before the next start. */
START_TEST(inputs_are_checked_at_each_start) {
    int64_t id = training("exit 75", "|queued|running|");
    json_decref(back_in_queue(id));
    char path[500], *text;
    size_t n, m;
    snprintf(path, sizeof path, "%s/jobs/%lld/manifest.ndjson", r.state, (long long)id);
    ck_assert_int_eq(ds_fs_read(path, 1 << 20, &text, &n, NULL), 0);
    text[n / 2] ^= 1;
    ck_assert_int_eq(ds_fs_write(path, text, n, NULL), 0);
    text[n / 2] ^= 1;
    rig_fake(&r, "train", "hang");
    rig_sql(&r, "UPDATE jobs SET run_after = 0 WHERE state = 'queued'");
    rig_wait_job(&r, "train", "digits", "|running|", 10000);
    worker_of(id);
    char *again;
    ck_assert_int_eq(ds_fs_read(path, 1 << 20, &again, &m, NULL), 0);
    ck_assert(n == m && !memcmp(text, again, n));
    free(text);
    free(again);
    cancel_job(id, 202);
    rig_wait_job(&r, "train", "digits", "|cancelled|", 10000);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, a_worker_that_ignores_the_cancel);
    tcase_add_loop_test(tc, ended_by_somebody_else, 0, 2);
    tcase_add_test(tc, restarts_have_their_reason);
    tcase_add_test(tc, cancel_after_postpone);
    tcase_add_test(tc, a_result_against_its_exit_code);
    tcase_add_test(tc, stopped_jobs_go_on);
    tcase_add_test(tc, inputs_are_checked_at_each_start);
}

int main(int argc, char **argv) {
    rig_main(argc, argv);
    return ds_test_main("daemon_slot", cases);
}
