/* tests/daemon/test_daemon_slot.c - what a slot makes of its job: each way in which a worker can end, one that somebody else
 * ended, a result that contradicts its exit code, cancels at every stage, starts that fail half way.  See test_daemon_stall.c. */
#include "tests/fixtures/daemon_rig.h"

#include <sys/resource.h>

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

/* Code and signal of the newest attempt; -1: it has none. */
static void expect_attempt(int64_t id, int code, int signal) {
    json_t *job = job_of(id), *list = json_object_get(job, "attempt_list"),
           *last = json_array_get(list, json_array_size(list) - 1);
    const json_t *c = json_object_get(last, "exit_code"), *s = json_object_get(last, "exit_signal");
    int is_code = json_is_null(c) ? -1 : (int)json_integer_value(c),
        is_signal = json_is_null(s) ? -1 : (int)json_integer_value(s);
    ck_assert_msg(is_code == code && is_signal == signal,
                  "job %lld: code %d, signal %d, not %d, %d", (long long)id, is_code, is_signal,
                  code, signal);
    json_decref(job);
}

static void wait_error(int64_t id, const char *words) {
    for (int i = 0; i < 500; i++, usleep(20000)) {
        json_t *job = job_of(id);
        const char *is = ds_json_string(json_object_get(job, "error"), "message", "");
        int there = strstr(is, words) != NULL;
        json_decref(job);
        if (there)
            return;
    }
    ck_abort_msg("job %lld does not say '%s'", (long long)id, words);
}

static void run_now(void) { rig_sql(&r, "UPDATE jobs SET run_after = 0 WHERE state = 'queued'"); }

/* How a worker ends, what becomes of its job, what is recorded. */
static const struct {
    const char *how, *state, *code, *words;
    int64_t attempts;
    int exit_code, exit_signal;
} ways[] = {{"exit 2", "|failed|", "DS_EIO", "told to fail", 1, 2, -1},
            {"exit 6", "|failed|", "DS_EIO", "told to fail", 1, 6, -1},
            {"exit 9", "|failed|", "DS_EIO", "told to fail", 1, 9, -1},
            {"exit 10", "|failed|", "DS_EIO", "told to fail", 1, 10, -1},
            {"exit 1", "|queued|", "DS_EIO", "told to fail", 1, 1, -1},
            {"exit 75", "|queued|", "DS_EIO", "told to fail", 0, 75, -1},
            {"quiet 75", "|queued|", "DS_EBUSY", "fatal: the end", 0, 75, -1},
            {"wordy 3", "|queued|", "DS_EFAILED", "fatal: the very end", 1, 3, -1},
            /* a GPU that failed: as a crash, unless it got on to a new checkpoint */
            {"quiet 70", "|queued|", "DS_EFAILED", "fatal: the end", 1, 70, -1},
            {"saved 70", "|queued|", "DS_EFAILED", "fatal: the end", 0, 70, -1},
            {"crash", "|queued|", "DS_EFAILED", "worker was killed by signal 9 (Killed)", 1, -1, 9},
            {"liar", "|queued|", "DS_ENOTFOUND", "result.json", 1, 0, -1},
            {"flip", "|queued|", "DS_EINTEGRITY", "adapter.safetensors.zst", 1, 0, -1},
            /* whole, and refused by the registry: no better the next time */
            {"odd", "|failed|", "DS_EINVAL", "'evaluations' is missing", 1, 0, -1}};

static void fails_so(int i) {
    char name[32], dir[400], state[16], want[24], path[64];
    snprintf(name, sizeof name, "set%d", i);
    rig_images(&r, name, 3, dir);
    rig_fake(&r, "train", ways[i].how);
    rig_add(&r, name, dir, 201);
    int64_t id = 0;
    json_t *job = NULL;
    for (int k = 0, over = 0; k < 400 && !over; k++, usleep(20000)) { /* until it has an error */
        json_decref(job);
        id = rig_job(&r, "train", name, state);
        job = id ? job_of(id) : json_object();
        snprintf(want, sizeof want, "|%s|", state);
        over = json_is_object(json_object_get(job, "error")) && strstr(ways[i].state, want);
    }
    const json_t *e = json_object_get(job, "error");
    const char *says = ds_json_string(e, "message", "");
    ck_assert_msg(!strcmp(ds_json_string(e, "code", ""), ways[i].code) &&
                      strstr(says, ways[i].words) != NULL,
                  "%s: %s '%s'", ways[i].how, ds_json_string(e, "code", ""), says);
    /* the last line of a log is whole, and alone */
    ck_assert_msg(strncmp(ways[i].how, "wordy", 5) || !strcmp(says, ways[i].words), "%s", says);
    ck_assert_msg(ds_json_int(job, "attempts", -1) == ways[i].attempts, "%s", ways[i].how);
    json_decref(job);
    expect_attempt(id, ways[i].exit_code, ways[i].exit_signal);
    snprintf(path, sizeof path, "/v1/jobs/%lld/cancel", (long long)id);
    int done = strcmp(ways[i].state, "|failed|") == 0;
    json_decref(rig_want(&r, done ? 409 : 202, "POST", path, NULL));
}

START_TEST(ways_to_fail) {
    char dir[400];
    for (int i = 0; i < (int)(sizeof ways / sizeof *ways); i++)
        fails_so(i);
    ck_assert(RESTARTS("failed") == 5 && RESTARTS("crash") == 1 && RESTARTS("temporary") == 3);
    /* a torn line in events.ndjson harms nothing */
    rig_images(&r, "torn", 3, dir);
    rig_fake(&r, "train", "torn");
    rig_add(&r, "torn", dir, 201);
    rig_wait_adapter(&r, "torn", 1, 10000);
    /* a failed one is tried again when it is added again */
    rig_fake(&r, "train", "ok");
    snprintf(dir, sizeof dir, "%s/set0", r.dir);
    rig_add(&r, "set0", dir, 200);
    rig_wait_adapter(&r, "set0", 1, 10000);
}
END_TEST

START_TEST(attempts_are_limited) {
    rig_fake(&r, "train", _i ? "quiet 70" : "crash");
    rig_add(&r, "digits", photos, 201);
    int64_t id = 0;
    char state[16] = "";
    for (int i = 0; i < 600 && strcmp(state, "failed") != 0; i++, usleep(20000)) {
        id = rig_job(&r, "train", "digits", state);
        if (strcmp(state, "queued") == 0 && i % 10 == 9)
            rig_sql(&r, "UPDATE jobs SET run_after = 0 WHERE state = 'queued'");
    }
    ck_assert_str_eq(state, "failed");
    json_t *job = job_of(id);
    ck_assert_int_eq(ds_json_int(job, "attempts", 0), ds_json_int(job, "max_attempts", -1));
    ck_assert_int_ge(ds_json_int(job, "attempts", 0), 2);
    json_decref(job);
}
END_TEST

/* Somebody else ends it: it waits a little and goes on, and no attempt is counted.  _i: by its own
 * exit 143, by the signal. */
START_TEST(ended_by_somebody_else) {
    int64_t id = training(_i ? "mortal" : "hang", "|running|");
    kill(rig_worker_of(&r, id), SIGTERM);
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
    rig_worker_of(&r, id);
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

/* A manifest that was damaged in the job's folder is unpacked again before the next start; one that
 * is good stays. */
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
    rig_worker_of(&r, id);
    char *again;
    ck_assert_int_eq(ds_fs_read(path, 1 << 20, &again, &m, NULL), 0);
    ck_assert(n == m && !memcmp(text, again, n));
    free(text);
    free(again);
    struct stat before, after;
    pid_t first = rig_worker_of(&r, id);
    ck_assert(stat(path, &before) == 0 && kill(first, SIGTERM) == 0);
    json_decref(back_in_queue(id));
    run_now();
    for (int i = 0; i < 500 && rig_worker_of(&r, id) == first; i++)
        usleep(20000);
    ck_assert(stat(path, &after) == 0 && before.st_ino == after.st_ino);
    ck_assert_int_eq(after.st_mtim.tv_nsec, before.st_mtim.tv_nsec);
    cancel_job(id, 202);
    rig_wait_job(&r, "train", "digits", "|cancelled|", 10000);
}
END_TEST

/* Whatever it does when it is told to stop, it is cancelled, and how it ended is recorded.  By
 * itself it can say so too. */
START_TEST(cancelled_ways) {
    static const struct {
        const char *how;
        int code, signal;
    } cases[] = {
        {"hang", 130, -1}, {"mortal", -1, SIGTERM}, {"sulky", 5, -1}, {"exit 130", 130, -1}};
    for (int i = 0; i < 4; i++) {
        char name[16], dir[400];
        snprintf(name, sizeof name, "set%d", i);
        rig_images(&r, name, 2, dir);
        rig_fake(&r, "train", cases[i].how);
        rig_add(&r, name, dir, 201);
        int64_t id = rig_wait_job(&r, "train", name, "|running|cancelled|", 10000);
        if (i < 3) {
            rig_worker_of(&r, id);
            cancel_job(id, 202);
        }
        ck_assert_int_eq(rig_wait_job(&r, "train", name, "|cancelled|", 4000), id);
        expect_attempt(id, cases[i].code, cases[i].signal);
        json_t *job = job_of(id);
        ck_assert(json_is_null(json_object_get(job, "pid")));
        ck_assert_int_eq(ds_json_int(job, "attempts", 0), 1);
        json_decref(job);
    }
    ck_assert(RESTARTS("failed") == 0 && RESTARTS("crash") == 0 && RESTARTS("temporary") == 0);
}
END_TEST

/* What a worker tells is counted, kept up to a bound, and shown. */
START_TEST(what_a_worker_says) {
    int64_t id = training("busy", "|done|");
    char path[80];
    ck_assert_msg(metric("diffscaler_train_steps_total") == 25, "%g steps",
                  metric("diffscaler_train_steps_total"));
    ck_assert(metric("diffscaler_job_duration_seconds_count{kind=\"train\"}") == 1);
    ck_assert(metric("diffscaler_job_duration_seconds_count{kind=\"scan\"}") == 1);
    double took = metric("diffscaler_job_duration_seconds_sum{kind=\"train\"}");
    ck_assert_msg(took > 0 && took < 60, "%g s", took);
    snprintf(path, sizeof path, "/v1/jobs/%lld/metrics?key=loss", (long long)id);
    json_t *list = rig_want(&r, 200, "GET", path, NULL), *items = json_object_get(list, "items");
    ck_assert_int_eq((int)json_array_size(items), 8); /* of ten at once */
    for (int i = 0; i < 8; i++) {
        json_t *m = json_array_get(items, (size_t)i);
        ck_assert(ds_json_int(m, "step", -1) == i && ds_json_number(m, "value", -1) == i + 0.5);
    }
    json_decref(list);
    snprintf(path, sizeof path, "job %lld: be careful", (long long)id);
    rig_wait_log(&r, path);
}
END_TEST

/* The tenth time in a row it waits longer, and somebody is told. */
START_TEST(postponed_again_and_again) {
    static const char wait[] = "SELECT run_after - max(ended_at) FROM jobs JOIN job_attempts"
                               " ON job_id = id WHERE kind = 'train'";
    int64_t id = training("exit 75", "|queued|running|");
    json_decref(back_in_queue(id));
    int64_t ms = rig_number(&r, wait);
    ck_assert_msg(ms > 3000 && ms < 12000, "%lld ms", (long long)ms);
    for (int k = 8; k < 10; k++) {
        char sql[120];
        snprintf(sql, sizeof sql, "UPDATE jobs SET postponed = %d, run_after = 0 WHERE id = %lld",
                 k, (long long)id);
        rig_sql(&r, sql);
        snprintf(sql, sizeof sql, "SELECT postponed FROM jobs WHERE id = %lld", (long long)id);
        for (int i = 0; i < 500 && rig_number(&r, sql) != k + 1; i++)
            usleep(20000);
        ck_assert_int_eq(rig_number(&r, sql), k + 1);
        ms = rig_number(&r, wait);
        ck_assert_msg(k == 8 ? ms > 3000 && ms < 12000 : ms > 40000 && ms < 62000, "%d: %lld ms", k,
                      (long long)ms);
    }
    rig_wait_log(&r, "could not run 10 times in a row: told to fail");
    ck_assert_int_eq(rig_number(&r, "SELECT count(*) FROM events WHERE type = 'job.waiting'"), 1);
    ck_assert(RESTARTS("temporary") == 3);
}
END_TEST

/* Something is where a file of the job should be: it waits and says so, and no worker runs. */
START_TEST(inputs_that_cannot_be_written) {
    static const char *const names[] = {"manifest.ndjson", "spec.json"};
    char path[500], inside[520];
    int64_t id = training("exit 75", "|queued|running|");
    json_decref(back_in_queue(id));
    rig_fake(&r, "train", "ok");
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/jobs/%lld/%s", r.state, (long long)id, names[i]);
        snprintf(inside, sizeof inside, "%s/x", path);
        ck_assert(unlink(path) == 0 && mkdir(path, 0755) == 0 && mkdir(inside, 0755) == 0);
        run_now();
        wait_error(id, names[i]);
        json_t *job = job_of(id);
        ck_assert_str_eq(ds_json_string(job, "state", ""), "queued");
        json_decref(job);
        ck_assert_int_eq(ds_fs_remove(path, NULL), 0);
    }
    run_now();
    rig_wait_adapter(&r, "digits", 1, 10000);
}
END_TEST

/* A whole result that cannot be kept just now waits, and its attempt does not count. */
START_TEST(a_result_that_cannot_be_stored) {
    char sha[DS_HEX_SIZE], path[500];
    ds_digest("statistics", 10, sha); /* the reference of each training here */
    snprintf(path, sizeof path, "%s/blobs/sha256/%.2s/%s.zst", r.state, sha, sha);
    ck_assert_int_eq(ds_fs_mkdirs(path, NULL), 0);
    int64_t id = training("ok", "|queued|running|");
    wait_error(id, "cannot rename");
    json_t *job = job_of(id);
    ck_assert_str_eq(ds_json_string(json_object_get(job, "error"), "code", ""), "DS_EIO");
    ck_assert_str_eq(ds_json_string(job, "state", ""), "queued");
    ck_assert_int_eq(ds_json_int(job, "attempts", -1), 0);
    json_decref(job);
    ck_assert_int_eq(rmdir(path), 0);
    run_now();
    rig_wait_adapter(&r, "digits", 1, 10000);
}
END_TEST

static void trigger(const char *text) {
    char sql[400];
    snprintf(sql, sizeof sql, "CREATE TRIGGER no %s END", text);
    rig_sql(&r, sql);
}

static int folder_of_newest(const char *kind) {
    char path[500], state[16];
    snprintf(path, sizeof path, "%s/jobs/%lld", r.state,
             (long long)rig_job(&r, kind, "digits", state));
    return ds_fs_exists(path);
}

/* A row that cannot say "running" starts nothing. */
START_TEST(a_start_that_cannot_be_recorded) {
    trigger("BEFORE UPDATE OF state ON jobs WHEN new.kind = 'train' AND new.state = 'running'"
            " BEGIN SELECT RAISE(ABORT, 'not this one');");
    rig_add(&r, "digits", photos, 201);
    rig_wait_log(&r, "cannot start a job: ");
    rig_wait_job(&r, "train", "digits", "|queued|", 5000);
    usleep(300000);
    ck_assert(!folder_of_newest("train"));
    rig_sql(&r, "DROP TRIGGER no");
    rig_wait_adapter(&r, "digits", 1, 10000);
}
END_TEST

/* A worker whose number cannot be written down runs all the same. */
START_TEST(a_process_that_cannot_be_recorded) {
    trigger("BEFORE UPDATE OF pid ON jobs WHEN new.pid IS NOT NULL"
            " BEGIN SELECT RAISE(ABORT, 'not this one');");
    rig_add(&r, "digits", photos, 201);
    rig_wait_adapter(&r, "digits", 1, 10000);
    rig_wait_log(&r, "cannot record the process of job 1: ");
}
END_TEST

/* Asked for between the claim and the first step: nothing is begun. */
START_TEST(cancelled_before_it_begins) {
    trigger("AFTER UPDATE OF state ON jobs WHEN new.kind = 'train' AND new.state = 'running'"
            " BEGIN UPDATE jobs SET cancel = 1 WHERE id = new.id;");
    rig_add(&r, "digits", photos, 201);
    int64_t id = rig_wait_job(&r, "train", "digits", "|cancelled|", 10000);
    ck_assert(!folder_of_newest("train"));
    expect_attempt(id, -1, -1);
}
END_TEST

static char blob[500];

/* The job begins again, and hangs where it reads its manifest from the store. */
static char *hang_before_the_worker(int64_t id, size_t *n) {
    char path[500], *stored;
    json_t *d = rig_want(&r, 200, "GET", "/v1/datasets/digits", NULL);
    const char *sha = ds_json_string(json_object_get(d, "version"), "tree_digest", "");
    snprintf(blob, sizeof blob, "%s/blobs/sha256/%.2s/%s.zst", r.state, sha, sha);
    json_decref(d);
    ck_assert_int_eq(ds_fs_read(blob, 1 << 20, &stored, n, NULL), 0);
    ck_assert(unlink(blob) == 0 && mkfifo(blob, 0600) == 0);
    snprintf(path, sizeof path, "%s/jobs/%lld/manifest.ndjson", r.state, (long long)id);
    ck_assert_int_eq(unlink(path), 0);
    run_now();
    rig_wait_job(&r, "train", "digits", "|running|", 10000);
    return stored;
}

/* Stopped before its worker runs.  _i: cancelled, paused, the daemon stops. */
START_TEST(stopped_while_it_is_prepared) {
    char path[500];
    size_t n, m;
    int64_t id = training("exit 75", "|queued|running|");
    json_decref(back_in_queue(id));
    rig_fake(&r, "train", "ok");
    char *stored = hang_before_the_worker(id, &n), *log;
    if (_i == 0)
        cancel_job(id, 202);
    else if (_i == 1)
        json_decref(rig_want(&r, 200, "POST", "/v1/datasets/digits/pause", NULL));
    else {
        kill(r.pid, SIGTERM);
        rig_wait_log(&r, "asked to stop: "); /* it takes no new connection that could tell */
    }
    int fd = open(blob, O_WRONLY);
    ck_assert(fd >= 0 && write(fd, stored, n) == (ssize_t)n);
    close(fd);
    ck_assert(unlink(blob) == 0 && ds_fs_write(blob, stored, n, NULL) == 0);
    free(stored);
    if (_i == 2) {
        ck_assert_int_eq(rig_wait_exit(&r, 10000), 0);
        ck_assert_int_eq(rig_number(&r, "SELECT count(*) FROM jobs WHERE kind = 'train' AND"
                                        " state = 'queued' AND attempts = 0"),
                         1);
    } else
        rig_wait_job(&r, "train", "digits", _i ? "|queued|" : "|cancelled|", 5000);
    snprintf(path, sizeof path, "%s/jobs/%lld/worker.log", r.state, (long long)id);
    ck_assert_int_eq(ds_fs_read(path, 1 << 20, &log, &m, NULL), 0);
    ck_assert_msg(!strstr(log, "train ok"), "a worker ran: %s", log);
    free(log);
    if (_i == 2)
        rig_start(&r, NULL);
    if (_i == 1)
        json_decref(rig_want(&r, 200, "POST", "/v1/datasets/digits/resume", NULL));
    if (_i)
        rig_wait_adapter(&r, "digits", 1, 10000);
}
END_TEST

/* The worker itself cannot be run: a person has to see to it, or it is a slip of the moment. */
START_TEST(workers_that_cannot_be_run) {
    char worker[400], name[16], dir[400];
    snprintf(worker, sizeof worker, "%s/worker", r.dir);
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "set%d", i);
        rig_images(&r, name, 1, dir);
        unlink(worker);
        if (i)
            rig_write(worker, "\x01 no program\n");
        chmod(worker, i == 1 ? 0644 : 0755);
        rig_add(&r, name, dir, 201);
        int64_t id = rig_wait_job(&r, "scan", name, "|queued|failed|", 10000);
        wait_error(id, "cannot run worker");
        expect_attempt(id, i == 2 ? 1 : 6, -1);
        json_t *job = job_of(id);
        ck_assert_str_eq(ds_json_string(job, "state", ""), i == 2 ? "queued" : "failed");
        json_decref(job);
    }
}
END_TEST

/* What a worker has started goes with it. */
START_TEST(a_worker_and_its_children) {
    char path[500], *text;
    size_t n;
    int64_t id = training("family", "|running|");
    pid_t worker = rig_worker_of(&r, id);
    snprintf(path, sizeof path, "%s/jobs/%lld/child", r.state, (long long)id);
    for (int i = 0; i < 500 && ds_fs_read(path, 64, &text, &n, NULL); i++)
        usleep(20000);
    pid_t child = (pid_t)strtol(text, NULL, 10);
    free(text);
    ck_assert(rig_alive(worker) && rig_alive(child));
    kill(r.pid, SIGTERM);
    usleep(300000);
    ck_assert(rig_alive(worker));
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    for (int i = 0; i < 100 && rig_alive(child); i++)
        usleep(20000);
    ck_assert(!rig_alive(worker) && !rig_alive(child));
}
END_TEST

static long proc_field(pid_t pid, const char *file) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, file);
    FILE *f = fopen(path, "r");
    long v = -1;
    ck_assert(f && fscanf(f, "%ld", &v) == 1);
    fclose(f);
    return v;
}

/* It gives way to everything else, has a session of its own, and only its own files open. */
START_TEST(the_place_of_a_worker) {
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    rig_start(&r, (const char *const[]){"--nice", "7", NULL});
    pid_t worker = rig_worker_of(&r, training("hang", "|running|"));
    ck_assert_int_eq(getpriority(PRIO_PROCESS, (id_t)worker), 7);
    ck_assert_int_eq(proc_field(worker, "oom_score_adj"), 500);
    ck_assert(getsid(worker) == worker && getsid(worker) != getsid(r.pid));
    char path[64], to[PATH_MAX];
    snprintf(path, sizeof path, "/proc/%d/fd/0", (int)worker);
    ssize_t n = readlink(path, to, sizeof to - 1);
    ck_assert(n == 9 && !strncmp(to, "/dev/null", 9));
}
END_TEST

/* Nothing but its time has to come. */
START_TEST(it_starts_when_it_is_due) {
    int64_t id = training("exit 75", "|queued|running|");
    json_decref(back_in_queue(id));
    rig_fake(&r, "train", "ok");
    double began = ds_monotonic();
    rig_sql(&r, "UPDATE jobs SET run_after = (CAST(strftime('%s', 'now') AS INTEGER) + 4) * 1000"
                " WHERE state = 'queued'");
    rig_wait_adapter(&r, "digits", 1, 2500);
    double took = ds_monotonic() - began;
    ck_assert_msg(took > 2.9 && took < 15, "%g s", took);
}
END_TEST

/* It outlives its daemon, and goes when the next one asks it. */
START_TEST(a_worker_that_outlived_its_daemon) {
    int64_t id = training("deaf", "|running|");
    pid_t worker = rig_worker_of(&r, id);
    char path[500];
    snprintf(path, sizeof path, "%s/jobs/%lld/deaf", r.state, (long long)id);
    rig_stop(&r, SIGKILL);
    for (int i = 0; i < 500 && !ds_fs_exists(path); i++)
        usleep(20000);
    ck_assert(ds_fs_exists(path) && rig_alive(worker));
    rig_fake(&r, "train", "ok");
    double began = ds_monotonic();
    rig_start(&r, NULL);
    rig_wait_adapter(&r, "digits", 1, 1500);
    ck_assert_double_lt(ds_monotonic() - began, 10); /* killed it would be after 15 s */
    ck_assert(!rig_alive(worker));
}
END_TEST

/* A log that grows for days keeps its end. */
START_TEST(logs_are_bounded) {
    char dir[PATH_MAX], path[PATH_MAX], *text;
    size_t n, size = DS_TAIL_LOG_MAX;
    static const char note[] = "[older lines were dropped: the log is bounded]\n";
    snprintf(dir, sizeof dir, "%s/logs", r.dir);
    ck_assert_int_eq(mkdir(dir, 0755), 0);
    ds_fs_join(path, sizeof path, dir, "worker.log");
    ds_tail_bound_log(dir); /* there is none */
    ck_assert(!ds_fs_exists(path));
    char *log = ds_xmalloc(size + 1);
    for (size_t i = 0; i <= size; i++)
        log[i] = (char)('a' + i % 23);
    for (size_t k = 0; k < 2; k++) {
        ck_assert_int_eq(ds_fs_write(path, log, size + k, NULL), 0);
        ds_tail_bound_log(dir);
        ck_assert_int_eq(ds_fs_read(path, 1 << 24, &text, &n, NULL), 0);
        if (!k)
            ck_assert(n == size && !memcmp(text, log, n));
        else
            ck_assert(n == sizeof note - 1 + (1 << 20) && !memcmp(text, note, sizeof note - 1) &&
                      !memcmp(text + sizeof note - 1, log + size + 1 - (1 << 20), 1 << 20));
        free(text);
    }
    free(log);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, ways_to_fail);
    tcase_add_loop_test(tc, attempts_are_limited, 0, 2);
    tcase_add_loop_test(tc, ended_by_somebody_else, 0, 2);
    tcase_add_test(tc, restarts_have_their_reason);
    tcase_add_test(tc, cancel_after_postpone);
    tcase_add_test(tc, a_result_against_its_exit_code);
    tcase_add_test(tc, stopped_jobs_go_on);
    tcase_add_test(tc, inputs_are_checked_at_each_start);
    tcase_add_test(tc, cancelled_ways);
    tcase_add_test(tc, what_a_worker_says);
    tcase_add_test(tc, postponed_again_and_again);
    tcase_add_test(tc, inputs_that_cannot_be_written);
    tcase_add_test(tc, a_result_that_cannot_be_stored);
    tcase_add_test(tc, a_start_that_cannot_be_recorded);
    tcase_add_test(tc, a_process_that_cannot_be_recorded);
    tcase_add_test(tc, cancelled_before_it_begins);
    tcase_add_loop_test(tc, stopped_while_it_is_prepared, 0, 3);
    tcase_add_test(tc, workers_that_cannot_be_run);
    tcase_add_test(tc, a_worker_and_its_children);
    tcase_add_test(tc, a_worker_that_outlived_its_daemon);
    tcase_add_test(tc, the_place_of_a_worker);
    tcase_add_test(tc, it_starts_when_it_is_due);
    tcase_add_test(tc, logs_are_bounded);
}

int main(int argc, char **argv) {
    rig_main(argc, argv);
    return ds_test_main("daemon_slot", cases);
}
