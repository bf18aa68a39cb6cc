/* tests/daemon/test_daemon_jobs.c - jobs from the folder to the adapter, and everything that goes wrong on
 * the way: exits, crashes, cancels, kill -9 of either side, bad registries. */
#include "tests/fixtures/daemon_versions.h"
#include "base/rng.h"
#include "tests/fixtures/daemon_rig.h"
#include <math.h>
#include <sqlite3.h>
#include <time.h>

#if defined(__SANITIZE_ADDRESS__)
enum { SLOW = 1 }; /* fewer rounds: each start takes ten times as long */
#else
enum { SLOW = 0 };
#endif

static void expect_error(int64_t id, const char *code, const char *words, int64_t attempts) {
    json_t *job = get_job(id);
    const json_t *e = json_object_get(job, "error");
    ck_assert_str_eq(ds_json_string(e, "code", ""), code);
    ck_assert_msg(strstr(ds_json_string(e, "message", ""), words) != NULL, "'%s' has no '%s'",
                  ds_json_string(e, "message", ""), words);
    ck_assert_int_eq(ds_json_int(job, "attempts", 0), attempts);
    json_decref(job);
}

static void adapter_digest(const char *ref, char out[DS_HEX_SIZE]) {
    char path[100];
    snprintf(path, sizeof path, "/v1/adapters/%s", ref);
    json_t *a = rig_call(&r, "GET", path, NULL, NULL);
    snprintf(out, DS_HEX_SIZE, "%s", ds_json_string(a, "digest", ""));
    json_decref(a);
}

START_TEST(from_folder_to_adapter) {
    rig_start(&r, NULL);
    rig_add(&r, "digits", photos, 201);
    rig_wait_adapter(&r, "digits", 1, 10000);
    int status;
    json_t *a = rig_call(&r, "GET", "/v1/adapters/digits", NULL, &status);
    ck_assert_str_eq(ds_json_string(a, "ref", ""), "digits@v1");
    ck_assert_str_eq(ds_json_string(a, "status", ""), "published");
    ck_assert_double_eq(ds_json_number(a, "fd", 0), 5.0);
    ck_assert_double_eq(ds_json_number(a, "fd_base", 0), 50.0);
    ck_assert_double_eq(ds_json_number(a, "class_accuracy", 0), 0.25);
    ck_assert_double_eq(ds_json_number(a, "class_real", 0), 0.875);
    ck_assert_double_eq(ds_json_number(a, "class_chance", 0), 0.125);
    json_decref(a);
    free(rig_text(&r, "GET", "/v1/adapters/digits@v1/file", NULL, NULL, &status));
    ck_assert_int_eq(status, 200);
    char state[16], path[500];
    int64_t job = rig_wait_job(&r, "train", "digits", "|done|", 5000);
    ck_assert(job_file_exists(job, "spec.json") && job_file_exists(job, "grid.png"));
    ck_assert(!job_file_exists(job, "adapter.safetensors.zst"));
    snprintf(path, sizeof path, "/v1/jobs/%lld/files/grid.png", (long long)job);
    free(rig_text(&r, "GET", path, NULL, NULL, &status));
    ck_assert_int_eq(status, 200);
    snprintf(path, sizeof path, "/v1/jobs/%lld/files/..%%2f..%%2fregistry.db", (long long)job);
    free(rig_text(&r, "GET", path, NULL, NULL, &status));
    ck_assert_int_eq(status, 404);
    snprintf(path, sizeof path, "/v1/jobs/%lld/log", (long long)job);
    char *log = rig_text(&r, "GET", path, NULL, NULL, &status);
    ck_assert_str_eq(log, "fake worker: train ok\n");
    free(log);
    snprintf(path, sizeof path, "/v1/jobs/%lld/events?since=1", (long long)job);
    char *events = rig_text(&r, "GET", path, NULL, NULL, &status);
    ck_assert_msg(strncmp(events, "{\"seq\":2,\"t\":2,", 15) == 0, "%s", events);
    ck_assert(strstr(events, "{\"seq\":3,\"t\":5,\"type\":\"done\"}\n"));
    free(events);
    /* again: nothing new; a new file: a new version and a new adapter */
    rig_add(&r, "digits", photos, 200);
    usleep(600000);
    rig_job(&r, "train", "digits", state);
    ck_assert_str_eq(state, "done");
    snprintf(path, sizeof path, "%s/new.png", photos);
    rig_write(path, "\x89PNG new");
    rig_wait_adapter(&r, "digits", 2, 15000);
}
END_TEST

START_TEST(samples_and_verification) {
    int status;
    rig_start(&r, NULL);
    rig_add(&r, "digits", photos, 201);
    rig_wait_adapter(&r, "digits", 1, 10000);
    json_decref(
        rig_call(&r, "POST", "/v1/samples", "{\"ref\":\"digits\",\"n\":4,\"steps\":5}", &status));
    ck_assert_int_eq(status, 202);
    int64_t id = rig_wait_job(&r, "sample", NULL, "|done|failed|", 5000);
    json_t *job = get_job(id);
    ck_assert_int_eq(ds_json_int(json_object_get(job, "result"), "n", 0), 4);
    json_decref(job);
    char path[100];
    snprintf(path, sizeof path, "/v1/jobs/%lld/files/spec.json", (long long)id);
    json_t *spec = rig_call(&r, "GET", path, NULL, &status);
    const json_t *sample = json_object_get(spec, "sample");
    ck_assert_int_eq(ds_json_int(sample, "steps", 0), 5);               /* asked for */
    ck_assert_str_eq(ds_json_string(sample, "sampler", ""), "dpmpp2m"); /* as evaluated */
    ck_assert(json_is_string(json_object_get(json_object_get(spec, "adapter"), "path")));
    json_decref(spec);
    json_decref(rig_call(&r, "POST", "/v1/samples", "{\"ref\":null,\"n\":2}", &status));
    ck_assert_int_eq(status, 202);
    json_decref(rig_call(&r, "POST", "/v1/verify", "{}", &status));
    ck_assert_int_eq(status, 202);
    id = rig_wait_job(&r, "verify", NULL, "|done|", 5000);
    job = get_job(id);
    const json_t *gate = json_object_get(json_object_get(job, "result"), "gate");
    ck_assert_str_eq(ds_json_string(gate, "verdict", ""), "passed");
    json_decref(job);
    rig_fake(&r, "verify", "refuse");
    json_decref(rig_call(&r, "POST", "/v1/verify", "{\"ref\":\"digits\",\"full\":true}", &status));
    rig_wait_job(&r, "verify", NULL, "|rejected|", 5000);
}
END_TEST

/* A worker that ends before anybody looked: how far it was is recorded with its end, or neither is. */
START_TEST(an_end_is_one_change) {
    rig_start(&r, NULL);
    rig_fake(&r, "train", "exit 2");
    rig_sql(&r, "CREATE TRIGGER no BEFORE UPDATE OF state ON jobs WHEN NEW.state = 'failed'"
                " BEGIN SELECT RAISE(ABORT, 'not now'); END");
    rig_add(&r, "digits", photos, 201);
    rig_wait_log(&r, "cannot record the end of job");
    ck_assert_int_eq(
        rig_number(&r, "SELECT count(*) FROM jobs WHERE kind = 'train' AND progress IS NULL"), 1);
    rig_sql(&r, "DROP TRIGGER no");
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    rig_start(&r, NULL);
    json_t *job = get_job(rig_wait_job(&r, "train", "digits", "|failed|", 10000));
    ck_assert_str_eq(ds_json_string(job, "stage", ""), "train");
    ck_assert_int_eq(ds_json_int(json_object_get(job, "progress"), "done", 0), 10);
    json_decref(job);
}
END_TEST

START_TEST(cancel) {
    int status;
    char path[64];
    rig_start(&r, NULL);
    rig_fake(&r, "train", "hang");
    rig_add(&r, "digits", photos, 201);
    int64_t id = rig_wait_job(&r, "train", "digits", "|running|", 10000);
    pid_t worker = rig_worker_of(&r, id);
    json_t *job = get_job(id);
    ck_assert_str_eq(ds_json_string(job, "stage", ""), "train");
    ck_assert_int_eq(ds_json_int(json_object_get(job, "progress"), "done", 0), 10);
    json_decref(job);
    snprintf(path, sizeof path, "/v1/jobs/%lld/cancel", (long long)id);
    json_decref(rig_call(&r, "POST", path, NULL, &status));
    ck_assert_int_eq(status, 202);
    rig_wait_job(&r, "train", "digits", "|cancelled|", 5000);
    ck_assert(kill(worker, 0) != 0 && errno == ESRCH); /* gone, and no zombie */
    json_decref(rig_call(&r, "POST", path, NULL, &status));
    ck_assert_int_eq(status, 409);
    usleep(500000); /* and it does not come back by itself */
    char state[16];
    ck_assert_int_eq(rig_job(&r, "train", "digits", state), id);
    /* removing a dataset stops its training */
    rig_add(&r, "digits", photos, 200);
    for (int i = 0; i < 250 && rig_job(&r, "train", "digits", state) == id; i++)
        usleep(20000);
    int64_t second = rig_wait_job(&r, "train", "digits", "|running|", 5000);
    ck_assert_int_ne(second, id);
    json_decref(rig_call(&r, "DELETE", "/v1/datasets/digits", NULL, &status));
    ck_assert_int_eq(status, 200);
    rig_wait_job(&r, "train", "digits", "|cancelled|", 5000);
}
END_TEST

static void no_second_worker(int64_t id) {
    char path[400], *text;
    size_t n;
    snprintf(path, sizeof path, "%s/jobs/%lld/events.ndjson", r.state, (long long)id);
    ck_assert_int_eq(ds_fs_read(path, 1 << 20, &text, &n, NULL), 0);
    ck_assert(!strstr(text, "two workers"));
    free(text);
}

START_TEST(stop_and_go_on) {
    rig_start(&r, NULL);
    rig_fake(&r, "train", "hang");
    rig_add(&r, "digits", photos, 201);
    int64_t id = rig_wait_job(&r, "train", "digits", "|running|", 10000);
    rig_worker_of(&r, id);
    double began = ds_monotonic();
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0); /* orderly: the worker wrote a checkpoint */
    ck_assert_double_lt(ds_monotonic() - began, 5.0);
    ck_assert(!ds_fs_exists(r.socket));
    rig_start(&r, NULL);
    ck_assert_int_eq(rig_wait_job(&r, "train", "digits", "|running|", 5000), id);
    pid_t worker = rig_worker_of(&r, id);
    json_t *job = get_job(id);
    ck_assert_int_eq(ds_json_int(job, "attempts", 0), 1); /* a restart is not an attempt */
    json_decref(job);
    /* kill -9 of the daemon: the worker notices, and the next daemon goes on */
    rig_stop(&r, SIGKILL);
    rig_fake(&r, "train", "ok");
    rig_start(&r, NULL);
    rig_wait_adapter(&r, "digits", 1, 10000);
    ck_assert(!rig_alive(worker));
    no_second_worker(id);
    /* kill -9 of the worker: tried again */
    rig_fake(&r, "train", "hang");
    char path[500];
    snprintf(path, sizeof path, "%s/x.png", photos);
    rig_write(path, "\x89PNG x");
    for (int i = 0;
         i < 500 && rig_wait_job(&r, "train", "digits", "|done|running|queued|", 5000) == id; i++)
        usleep(20000);
    id = rig_wait_job(&r, "train", "digits", "|running|", 5000);
    kill(rig_worker_of(&r, id), SIGKILL);
    rig_wait_job(&r, "train", "digits", "|queued|", 5000);
    expect_error(id, "DS_EFAILED", "signal 9", 1);
    rig_fake(&r, "train", "ok");
    rig_sql(&r, "UPDATE jobs SET run_after = 0 WHERE state = 'queued'");
    rig_wait_adapter(&r, "digits", 2, 10000);
}
END_TEST

/* A worker that does not go: the second signal hurries; and when only the daemon was killed, the
 * next one waits for it rather than start another beside it. */
START_TEST(stubborn_worker) {
    rig_start(&r, NULL);
    rig_fake(&r, "train", "stubborn");
    rig_add(&r, "digits", photos, 201);
    int64_t id = rig_wait_job(&r, "train", "digits", "|running|", 10000);
    pid_t worker = rig_worker_of(&r, id);
    kill(r.pid, SIGTERM);
    usleep(500000);
    ck_assert(rig_alive(worker));
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    ck_assert(!rig_alive(worker));
    rig_start(&r, NULL);
    rig_wait_job(&r, "train", "digits", "|running|", 5000);
    worker = rig_worker_of(&r, id);
    rig_stop(&r, SIGKILL);
    usleep(100000);
    ck_assert(rig_alive(worker)); /* it ignores SIGTERM */
    rig_fake(&r, "train", "ok");
    rig_start(&r, NULL);
    usleep(700000);
    ck_assert(rig_alive(worker));
    char state[16];
    rig_job(&r, "train", "digits", state);
    ck_assert_str_eq(state, "running"); /* by the old process: no second one */
    kill(worker, SIGKILL);
    rig_wait_adapter(&r, "digits", 1, 10000);
    no_second_worker(id);
}
END_TEST

/* An acknowledged add is never lost, and whenever either side is killed the same adapter results.
 */
START_TEST(killed_at_any_moment) {
    char name[32], dir[400], want[DS_HEX_SIZE], got[DS_HEX_SIZE];
    rig_images(&r, "same", 3, dir);
    rig_start(&r, NULL);
    rig_add(&r, "same", dir, 201);
    rig_wait_adapter(&r, "same", 1, 10000);
    adapter_digest("same@v1", want);
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    char moved[300];
    snprintf(moved, sizeof moved, "%s/state.undisturbed", r.dir);
    ck_assert_int_eq(rename(r.state, moved), 0);
    rig_fake(&r, "train", "slow 150");
    rig_fake(&r, "scan", "slow 50");
    /* DS_KILL_ROUNDS=100 for the long version */
    const char *asked = getenv("DS_KILL_ROUNDS");
    const int rounds = asked ? (int)strtol(asked, NULL, 10) : SLOW ? 4 : 9;
    for (int i = 0; i < rounds; i++) {
        rig_start(&r, NULL);
        snprintf(name, sizeof name, i ? "set%d" : "same", i);
        if (i)
            rig_images(&r, name, 2, dir);
        rig_add(&r, name, dir, 201);
        usleep(ds_rng_below(400, 7, DS_STREAM_TEST, (uint32_t)i, 0, 0) * 1000);
        if (i % 3 == 1) { /* the worker alone, or both */
            char state[16];
            int64_t id = rig_job(&r, "train", NULL, state);
            json_t *job = id ? get_job(id) : NULL;
            pid_t worker = (pid_t)ds_json_int(job, "pid", 0);
            json_decref(job);
            if (worker > 0)
                kill(worker, SIGKILL);
        }
        rig_stop(&r, SIGKILL);
    }
    rig_fake(&r, "train", "ok");
    rig_fake(&r, "scan", "ok");
    rig_start(&r, NULL);
    rig_sql(&r, "UPDATE jobs SET run_after = 0 WHERE state = 'queued'");
    for (int i = 0; i < rounds; i++) {
        snprintf(name, sizeof name, i ? "set%d" : "same", i);
        rig_wait_adapter(&r, name, 1, 20000);
    }
    adapter_digest("same@v1", got);
    ck_assert_str_eq(want, got);
    json_t *doc = rig_call(&r, "GET", "/v1/jobs?state=running", NULL, NULL), *job;
    size_t i;
    json_array_foreach(json_object_get(doc, "items"), i, job)
        ck_assert_int_ne(ds_json_int(job, "pid", 0), 0);
    json_decref(doc);
}
END_TEST

/* Two trainings where two are allowed, and nothing interactive waits behind them. */
START_TEST(slots) {
    char name[16], dir[400], state[16];
    int status;
    static const char *const options[] = {"--workers", "2", NULL};
    rig_start(&r, options);
    rig_fake(&r, "train", "hang");
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "set%d", i);
        rig_images(&r, name, 2, dir);
        rig_add(&r, name, dir, 201);
        rig_wait_job(&r, "scan", name, "|done|", 10000);
    }
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "set%d", i);
        rig_worker_of(&r, rig_wait_job(&r, "train", name, "|running|", 10000));
    }
    rig_job(&r, "train", "set2", state);
    ck_assert_str_eq(state, "queued");
    json_decref(rig_call(&r, "POST", "/v1/samples", "{\"ref\":null,\"n\":2}", &status));
    ck_assert_int_eq(status, 202);
    rig_wait_job(&r, "sample", NULL, "|done|", 5000);
    json_t *doc = rig_call(&r, "GET", "/v1/status", NULL, &status);
    ck_assert_uint_eq(json_array_size(json_object_get(doc, "running")), 2);
    ck_assert_int_eq(ds_json_int(json_object_get(doc, "jobs"), "queued", 0), 1);
    json_decref(doc);
}
END_TEST

START_TEST(row_from_another_program) {
    char statement[700];
    rig_start(&r, NULL);
    usleep(1200000);
    snprintf(statement, sizeof statement,
             "INSERT INTO datasets(name, source_path) VALUES ('foreign', '%s')", photos);
    rig_sql(&r, statement);
    double began = ds_monotonic();
    rig_wait_job(&r, "scan", "foreign", "|queued|running|done|", 4000);
    printf("a row by another program is work after %.2f s\n", ds_monotonic() - began);
    ck_assert_double_lt(ds_monotonic() - began, 2.0);
    rig_wait_adapter(&r, "foreign", 1, 10000);
}
END_TEST

/* 4,001 characters pass the row's CHECK; they are 8,001 bytes. */
START_TEST(row_with_a_long_path) {
    char statement[8300] = "INSERT INTO datasets(name, source_path) VALUES ('long', '/";
    for (int i = 0; i < 4000; i++)
        memcpy(statement + strlen(statement), "\xc3\xa4", 3);
    memcpy(statement + strlen(statement), "')", 3);
    rig_start(&r, NULL);
    rig_sql(&r, statement);
    int64_t id = rig_wait_job(&r, "scan", "long", "|failed|", 10000);
    expect_error(id, "DS_EINVAL", "has 8001 bytes", 1); /* it would be no better the next time */
    json_t *o = rig_want(&r, 200, "GET", "/v1/datasets/long", NULL);
    const char *why = ds_json_string(json_object_get(o, "error"), "message", "");
    ck_assert_msg(strstr(why, "has 8001 bytes") != NULL, "%s", why);
    json_decref(o);
    rig_add(&r, "long", photos, 409);
    rig_add(&r, "short", photos, 201);
    rig_wait_adapter(&r, "short", 1, 10000);
}
END_TEST

static void expect_exit(int want, const char *words) {
    char path[400], *text;
    size_t n;
    snprintf(path, sizeof path, "%s/daemon.log", r.dir);
    unlink(path);
    pid_t first = r.pid;
    rig_spawn(&r, NULL);
    int code = rig_wait_exit(&r, 10000);
    ck_assert_int_eq(ds_fs_read(path, 1 << 20, &text, &n, NULL), 0);
    ck_assert_msg(code == want, "exit %d, not %d: %s", code, want, text);
    ck_assert_msg(strstr(text, words) != NULL, "'%s' does not say '%s'", text, words);
    free(text);
    r.pid = first;
}

START_TEST(refused_starts) {
    char path[400], pid[32];
    rig_start(&r, NULL);
    snprintf(pid, sizeof pid, "%d", (int)r.pid);
    expect_exit(4, pid); /* says who has it */
    ck_assert(ds_fs_exists(r.socket));
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    /* a socket file that a killed daemon left is replaced; a file of another kind is not */
    rig_start(&r, NULL);
    rig_stop(&r, SIGKILL);
    ck_assert(ds_fs_exists(r.socket));
    rig_start(&r, NULL);
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    rig_write(r.socket, "not a socket");
    expect_exit(4, "not a socket");
    unlink(r.socket);
    /* a state folder of somebody else: readable, not writable */
    r.unprivileged = 1;
    chmod(r.state, geteuid() == 0 ? 0755 : 0555);
    expect_exit(6, "state/lock");
    chmod(r.state, 0750);
    r.unprivileged = 0;
    rig_sql(&r, "PRAGMA user_version = 99");
    expect_exit(10, "newer");
    snprintf(path, sizeof path, "%s/registry.db", r.state);
    rig_write(path, "this is not a database, it is a text of some length to be sure of that");
    expect_exit(9, "backups");
}
END_TEST

/* A full disk is waited for: nothing acknowledged is lost, and the attempt does not count. */
START_TEST(full_disk) {
    static const int from[] = {2, 3, 4, 5, 7};
    char n[8], name[32], dir[400];
    for (size_t i = 0; i < sizeof from / sizeof *from; i += 1 + SLOW) {
        int status;
        snprintf(n, sizeof n, "%d", from[i]);
        snprintf(name, sizeof name, "set%zu", i);
        rig_images(&r, name, 3, dir);
        setenv("DS_TEST_ENOSPC", n, 1); /* the n-th and all later writes of the daemon fail */
        rig_start(&r, NULL);
        rig_add(&r, name, dir, 201);
        json_t *job = NULL;
        const char *code = "";
        for (int k = 0; k < 300 && strcmp(code, "DS_ENOSPC") != 0; k++, usleep(20000)) {
            json_decref(job);
            json_t *list = rig_call(&r, "GET", "/v1/jobs?state=queued", NULL, &status);
            job = json_incref(json_array_get(json_object_get(list, "items"), 0));
            code = ds_json_string(json_object_get(job, "error"), "code", "");
            json_decref(list);
        }
        ck_assert_msg(strcmp(code, "DS_ENOSPC") == 0, "from write %s on: '%s'", n, code);
        ck_assert_int_eq(ds_json_int(job, "attempts", -1), 0);
        json_decref(job);
        ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
        unsetenv("DS_TEST_ENOSPC");
        rig_start(&r, NULL);
        rig_sql(&r, "UPDATE jobs SET run_after = 0 WHERE state = 'queued'");
        rig_wait_adapter(&r, name, 1, 10000);
        ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    }
}
END_TEST

/* The service manager hears that the daemon is ready and that it stops. */
START_TEST(notifies) {
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    snprintf(addr.sun_path, sizeof addr.sun_path, "%.90s/notify", r.dir);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&addr, sizeof addr), 0);
    struct timeval patience = {.tv_sec = 10};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setenv("NOTIFY_SOCKET", addr.sun_path, 1);
    setenv("WATCHDOG_USEC", "200000", 1);
    rig_start(&r, NULL);
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    static const char *const want[] = {"READY=1", "WATCHDOG=1", "WATCHDOG=1"};
    char text[200];
    for (int i = 0; i < 3; i++) {
        ssize_t n = recv(fd, text, sizeof text - 1, 0);
        ck_assert(n > 0);
        text[n] = 0;
        ck_assert_msg(strncmp(text, want[i], strlen(want[i])) == 0, "%s", text);
    }
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    do {
        ssize_t n = recv(fd, text, sizeof text - 1, 0);
        ck_assert(n > 0);
        text[n] = 0;
    } while (strncmp(text, "WATCHDOG", 8) == 0);
    ck_assert_msg(strncmp(text, "STOPPING=1", 10) == 0, "%s", text);
    close(fd);
}
END_TEST

START_TEST(terminated_at_any_time) {
    rig_fake(&r, "train", "slow 100");
    for (int i = 0; i < (SLOW ? 3 : 7); i++) {
        rig_spawn(&r, NULL);
        usleep(ds_rng_below(150, 11, DS_STREAM_TEST, (uint32_t)i, 0, 0) * 1000);
        kill(r.pid, SIGTERM);
        int code = rig_wait_exit(&r, 8000);
        /* before its handlers stand, the signal ends it at once: nothing has begun then */
        ck_assert_msg(code == 0 || code == 128 + SIGTERM, "round %d: exit %d", i, code);
        rig_start(&r, NULL);
        if (i == 0)
            rig_add(&r, "digits", photos, 201);
        ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    }
    rig_start(&r, NULL);
    rig_wait_adapter(&r, "digits", 1, 10000);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, from_folder_to_adapter);
    tcase_add_test(tc, samples_and_verification);
    tcase_add_test(tc, an_end_is_one_change);
    tcase_add_test(tc, cancel);
    tcase_add_test(tc, stop_and_go_on);
    tcase_add_test(tc, stubborn_worker);
    tcase_add_test(tc, killed_at_any_moment);
    tcase_add_test(tc, slots);
    tcase_add_test(tc, row_from_another_program);
    tcase_add_test(tc, row_with_a_long_path);
    tcase_add_test(tc, refused_starts);
    tcase_add_test(tc, full_disk);
    tcase_add_test(tc, notifies);
    tcase_add_test(tc, terminated_at_any_time);
}

int main(int argc, char **argv) {
    rig_main(argc, argv);
    return ds_test_main("daemon_jobs", cases);
}
