/* tests/registry/test_registry_crash.c - kill -9 at random moments: what was acknowledged is there, what is
 * there is whole, nothing is left running. */
#include "base/rng.h"
#include "registry/core/migrate.h"
#include "tests/fixtures/registry_fixture.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#define KILLS 100

/* One line of the pipe for each thing that was acknowledged: "d NAME" or "a REF". */
static void acknowledge(int fd, char what, const char *name) {
    char line[160];
    int n = snprintf(line, sizeof line, "%c %s\n", what, name);
    if (write(fd, line, (size_t)n) != n)
        _exit(3);
}

static void work_on_job(ds_registry *r, ds_job *j, uint32_t dice, int fd) {
    char content[128], ref[DS_HEX_SIZE + 16];
    ds_process me;
    int running;
    ds_job_failure f = {.exit_code = 1, .exit_signal = -1, .retry = dice & 1};
    MUST(ds_job_claim(r, j->id, err));
    ds_process_identify(getpid(), &me);
    MUST(ds_job_process(r, j->id, &me, err));
    MUST(ds_job_metric(r, j->id, "loss", dice % 50, 0.5, err));
    snprintf(content, sizeof content, "%s-%u", j->name, dice % 5);
    if (dice % 16 == 0) {
        MUST(ds_job_fail(r, j->id, &f, NULL, err));
    } else if (dice % 16 == 1) {
        MUST(ds_job_cancel(r, j->id, &running, err));
        MUST(ds_job_cancelled(r, j->id, 130, -1, err));
    } else if (j->kind == DS_JOB_SCAN) {
        MUST(fx_scan_finish(r, j->id, content, NULL, err));
    } else {
        MUST(fx_publish(r, j, dice % 8 != 2, content, ref, err));
        acknowledge(fd, 'a', ref);
    }
}

/* Works until it is killed. */
static void victim(const char *dir, uint32_t round, int fd) {
    ds_registry *r = fx_open(dir);
    for (uint32_t i = 0;; i++) {
        uint32_t dice = ds_rng_u32(77, 1, round, 0, i);
        char name[32];
        ds_job j;
        ds_sweep w;
        snprintf(name, sizeof name, "set%u", dice % 97);
        if (dice % 5 == 0) {
            fx_add(r, name, "/a");
            acknowledge(fd, 'd', name);
        } else if (dice % 41 == 0) {
            MUST(ds_blobs_sweep(r, 0, 0, &w, err));
        }
        MUST(ds_reconcile(r, NULL, err));
        if (!ds_job_next(r, DS_KINDS_ALL, INT64_MAX, &j, NULL, NULL))
            work_on_job(r, &j, dice >> 8, fd);
    }
}

static char acknowledged[1 << 20];
static size_t acknowledged_n;

static void drain(int fd) {
    ssize_t n;
    while ((n = read(fd, acknowledged + acknowledged_n, sizeof acknowledged - acknowledged_n - 1)) >
           0)
        acknowledged_n += (size_t)n;
    acknowledged[acknowledged_n] = 0;
}

static void examine(const char *dir, size_t from, int64_t *last_seq) {
    ds_registry *r = NULL;
    int n;
    ds_job j;
    MUST(ds_registry_open(dir, &r, err));
    MUST(ds_registry_check(r, err));
    MUST(ds_jobs_running(r, &j, 1, &n, err));
    ck_assert_msg(n == 0, "job %lld is running without a process", (long long)j.id);
    ck_assert_int_ge(ds_event_last_seq(r), *last_seq);
    *last_seq = ds_event_last_seq(r);
    for (char *p = acknowledged + from, *end; (end = strchr(p, '\n')); p = end + 1) {
        char line[160];
        json_t *o = NULL;
        ds_adapter_ref a;
        snprintf(line, sizeof line, "%.*s", (int)(end - p), p);
        if (*line == 'd') {
            MUST(ds_dataset_get(r, line + 2, &o, err));
            json_decref(o);
        } else {
            MUST(ds_adapter_resolve(r, line + 2, &a, err));
            MUST(ds_blob_check(r, a.blob.sha256, err));
        }
    }
    if (from == 0)
        MUST(ds_blobs_verify(r, NULL, NULL, err));
    ds_registry_close(r);
}

START_TEST(kill_anywhere) {
    static char dir[PATH_MAX];
    snprintf(dir, sizeof dir, "%s", fx_dir("kill"));
    int64_t seq = 0;
    for (uint32_t k = 0; k < KILLS; k++) {
        int fds[2], status;
        ck_assert_int_eq(pipe(fds), 0);
        pid_t child = fork();
        if (child == 0) {
            close(fds[0]);
            victim(dir, k, fds[1]);
        }
        close(fds[1]);
        /* One in four in the middle of opening; else some time after the first acknowledgement. */
        struct pollfd wait = {.fd = fds[0], .events = POLLIN};
        if (k % 4)
            ck_assert_int_eq(poll(&wait, 1, 60000), 1);
        uint32_t us = ds_rng_below(k % 4 ? 20000 : 4000, 78, 1, k, 0, 0);
        nanosleep(&(struct timespec){0, (long)us * 1000}, NULL);
        kill(child, SIGKILL);
        ck_assert_int_eq(waitpid(child, &status, 0), child);
        ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "the victim failed: %d",
                      status);
        size_t before = acknowledged_n;
        drain(fds[0]);
        close(fds[0]);
        examine(dir, before, &seq);
    }
    examine(dir, 0, &seq); /* everything that was ever acknowledged */
    int datasets = 0, adapters = 0;
    for (char *p = acknowledged; *p; p = strchr(p, '\n') + 1)
        *p == 'd' ? datasets++ : adapters++;
    printf(
        "registry_crash: %d kills, %d adds and %d publications acknowledged, 0 lost; %lld events\n",
        KILLS, datasets, adapters, (long long)seq);
    ck_assert_int_ge(datasets + adapters, KILLS * 3 / 4); /* three of four waited for one */
    ck_assert_int_gt(adapters, 10);
}
END_TEST

START_TEST(recovery_looks_at_processes) {
    const char *dir = fx_dir("recovery");
    ds_registry *r = fx_open(dir);
    int64_t id[5];
    ds_process me, gone, other_boot, reused, elsewhere = {"slurm:77", 0};
    ds_job j;
    for (int i = 0; i < 5; i++) {
        MUST(ds_job_add(r, DS_JOB_SAMPLE, "", NULL, 1, &id[i], err));
        MUST(ds_job_claim(r, id[i], err));
    }
    ck_assert_int_eq(ds_process_identify(getpid(), &me), 0);
    ck_assert_int_eq(ds_process_alive(me.identity), 1);
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    siginfo_t info;
    waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT);
    ds_process_identify(child, &gone);
    ck_assert_int_eq(ds_process_alive(gone.identity), 0); /* a zombie is gone */
    waitpid(child, NULL, 0);
    ck_assert_int_eq(ds_process_identify(child, &gone), -1);
    reused = other_boot = me;
    fx_other_start(&reused, -1);
    char *boot = other_boot.identity + strlen("local:");
    *boot = *boot == 'a' ? 'b' : 'a';
    MUST(ds_job_process(r, id[0], &me, err));
    MUST(ds_job_process(r, id[1], &reused, err));
    MUST(ds_job_process(r, id[2], &other_boot, err)); /* id[3] was claimed, never spawned */
    MUST(ds_job_process(r, id[4], &elsewhere, err));  /* whoever started it knows */
    ds_registry_close(r);
    r = fx_open(dir);
    for (int i = 0; i < 5; i++) {
        int runs = i == 0 || i == 4;
        MUST(ds_job_read(r, id[i], &j, err));
        ck_assert_int_eq(j.state, runs ? DS_JOB_RUNNING : DS_JOB_QUEUED);
        ck_assert_int_eq(j.attempts, runs);
    }
    MUST(ds_registry_check(r, err));
    ds_registry_close(r);
}
END_TEST

/* A registry of before processes had one text, with two trainings under way: this very process, and
 * one whose number is ours but whose start is not. */
START_TEST(recovery_after_an_upgrade) {
    const char *dir = fx_dir("upgraded");
    char path[PATH_MAX], sql[800], boot[37];
    int version = 0;
    long long start;
    sqlite3 *db;
    ds_process me;
    ds_job j;
    ck_assert_int_eq(ds_process_identify(getpid(), &me), 0);
    snprintf(boot, sizeof boot, "%.36s", me.identity + strlen("local:"));
    start = strtoll(strrchr(me.identity, ':') + 1, NULL, 10);
    MUST(ds_fs_mkdirs(dir, err));
    ds_fs_join(path, sizeof path, dir, "registry.db");
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    MUST(ds_migrate(db, path, dir, ds_migrations, 7, &version, err));
    ck_assert_int_eq(version, 7);
    for (int i = 0; i < 2; i++) {
        snprintf(sql, sizeof sql,
                 "INSERT INTO jobs(kind, name, state, attempts, starts, created_at, boot_id, pid,"
                 " pid_start) VALUES ('sample', '', 'running', 1, 1, 1, '%s', %ld, %lld);"
                 "INSERT INTO job_attempts(job_id, attempt, started_at, boot_id, pid, pid_start)"
                 " VALUES (last_insert_rowid(), 1, 1, '%s', %ld, %lld);"
                 "INSERT INTO events(at, type, subject, payload) SELECT 1, 'job.started',"
                 " 'job:' || max(id), '{}' FROM jobs",
                 boot, (long)getpid(), start + i, boot, (long)getpid(), start + i);
        ck_assert_int_eq(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    }
    sqlite3_close(db);
    ds_registry *r = fx_open(dir);
    MUST(ds_job_read(r, 1, &j, err));
    ck_assert_int_eq(j.state, DS_JOB_RUNNING);
    ck_assert_str_eq(j.process.identity, me.identity);
    ck_assert_int_eq(j.process.pid, getpid());
    MUST(ds_job_read(r, 2, &j, err));
    ck_assert_int_eq(j.state, DS_JOB_QUEUED);
    ck_assert_str_eq(j.process.identity, "");
    MUST(ds_registry_check(r, err));
    ds_registry_close(r);
}
END_TEST

START_TEST(leftovers_are_removed) {
    const char *dir = fx_dir("leftovers");
    char path[3][PATH_MAX];
    ds_registry *r = fx_open(dir);
    ds_fs_join(path[0], PATH_MAX, dir, "blobs/tmp/put-abc");
    ds_fs_join(path[1], PATH_MAX, dir, "x.abc.tmp");
    ds_fs_join(path[2], PATH_MAX, dir, "keep");
    ds_registry_close(r);
    for (int i = 0; i < 3; i++)
        MUST(ds_fs_write(path[i], "x", 1, err));
    r = fx_open(dir);
    ds_registry_close(r);
    ck_assert(!ds_fs_exists(path[0]) && !ds_fs_exists(path[1]) && ds_fs_exists(path[2]));
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, kill_anywhere);
    tcase_add_test(tc, recovery_looks_at_processes);
    tcase_add_test(tc, recovery_after_an_upgrade);
    tcase_add_test(tc, leftovers_are_removed);
}

int main(void) {
    fx_fast_tmp();
    return ds_test_main("registry_crash", cases);
}
