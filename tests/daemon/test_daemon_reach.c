/* tests/daemon/test_daemon_reach.c - folders that cannot be had, and a registry that somebody else has
 * locked: the daemon answers all the same, stops, and starts. */
#include "tests/fixtures/daemon_rig.h"

#include <sys/resource.h>

static rig r;

static void setup(void) {
    static int n;
    char name[32];
    setenv(DS_HELPER_ENV, "1", 1);
    snprintf(name, sizeof name, "reach%d-%d", (int)getpid(), n++);
    rig_open(&r, name);
    char hang[300];
    snprintf(hang, sizeof hang, "%s/hang", r.dir);
    setenv(DS_HELPER_HANG, hang, 1);
    rig_start(&r, NULL);
}

static void teardown(void) {
    if (r.pid)
        ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
}

/* Asks /healthz for so long; the slowest answer but one in a hundred, in ms. */
static double health_once(double seconds) {
    static double took[2000];
    int n = 0, status;
    for (double end = ds_monotonic() + seconds; ds_monotonic() < end && n < 2000; usleep(5000)) {
        double began = ds_monotonic();
        free(rig_text(&r, "GET", "/healthz", NULL, NULL, &status));
        ck_assert_int_eq(status, 200);
        took[n++] = (ds_monotonic() - began) * 1000;
    }
    for (int i = 1; i < n; i++) /* few: sorted as they come */
        for (int k = i; k && took[k] < took[k - 1]; k--) {
            double t = took[k];
            took[k] = took[k - 1];
            took[k - 1] = t;
        }
    return took[n * 99 / 100 - (n >= 100)];
}

/* Sanitized programs run beside others. */
#ifdef __SANITIZE_ADDRESS__
enum { P99_MS = 400 };
#else
enum { P99_MS = 20 };
#endif

/* The best of three: the machine may be busy with other things, the loop is not. */
static double health_p99(double seconds) {
    double best = health_once(seconds);
    for (int i = 0; i < 2 && best >= P99_MS; i++) {
        double next = health_once(seconds);
        best = next < best ? next : best;
    }
    return best;
}

/* The member "reach" of a dataset, as its state: "" when there is nothing wrong. */
static void reach_of(const char *name, char out[20]) {
    char path[100];
    snprintf(path, sizeof path, "/v1/datasets/%s", name);
    json_t *doc = rig_call(&r, "GET", path, NULL, NULL);
    snprintf(out, 20, "%s", ds_json_string(json_object_get(doc, "reach"), "state", ""));
    json_decref(doc);
}

static void wait_reach(const char *name, const char *want) {
    char is[20] = "?";
    for (int i = 0; i < 500; i++, usleep(20000)) {
        reach_of(name, is);
        if (!strcmp(is, want))
            return;
    }
    rig_dump_log(&r);
    ck_abort_msg("%s is '%s', not '%s'", name, is, want);
}

/* An answer is believed for a second, and on a busy machine somebody may have asked just before the
 * folder hung: a scan goes on then, and the next one asks. */
static void rescan_until_unreachable(const char *name) {
    char path[100], is[20] = "";
    snprintf(path, sizeof path, "/v1/datasets/%s/rescan", name);
    for (int tries = 0; tries < 10 && strcmp(is, "unreachable"); tries++) {
        json_decref(rig_want(&r, 202, "POST", path, NULL));
        for (int i = 0; i < 150 && strcmp(is, "unreachable"); i++, usleep(20000))
            reach_of(name, is);
    }
    wait_reach(name, "unreachable");
}

static int has_event(const char *type) {
    char path[100];
    snprintf(path, sizeof path, "/v1/events?type=%s", type);
    int status;
    char *text = rig_text(&r, "GET", path, "Accept: application/x-ndjson\r\n", NULL, &status);
    int is = strstr(text, type) != NULL;
    free(text);
    return is;
}

START_TEST(hung_folder) {
    char dir[400], body[500], file[500], state[16];
    int status;
    rig_images(&r, "set", 3, dir);
    rig_add(&r, "set", dir, 201);
    rig_wait_job(&r, "train", "set", "|done|", 20000);
    rig_write(getenv(DS_HELPER_HANG), dir);
    snprintf(body, sizeof body, "{\"path\":\"%s\",\"name\":\"other\"}", dir);
    json_decref(rig_want(&r, 504, "POST", "/v1/datasets", body)); /* times out, blocks nobody */
    rescan_until_unreachable("set");
    ck_assert(has_event("dataset.unreachable"));
    double p99 = health_p99(1);
    printf("healthz p99 with a hung folder: %.1f ms\n", p99);
    ck_assert_double_lt(p99, P99_MS);
    rig_job(&r, "scan", "set", state);
    ck_assert_str_eq(state, "queued"); /* it waits, and costs no attempt */
    char away[] = "/var/tmp/ds-reach-XXXXXX";
    ck_assert(mkdtemp(away) != NULL);
    snprintf(file, sizeof file, "%s/a.png", away);
    rig_write(file, "\x89PNG other mount");
    rig_add(&r, "elsewhere", away, 201); /* the rest goes on */
    rig_wait_job(&r, "train", "elsewhere", "|done|", 20000);
    unlink(getenv(DS_HELPER_HANG));
    wait_reach("set", "");
    ck_assert(has_event("dataset.reachable"));
    rig_wait_job(&r, "scan", "set", "|done|", 20000);
    /* it stops and starts while it hangs */
    usleep(1200000); /* an answer is believed for a second */
    rig_write(getenv(DS_HELPER_HANG), dir);
    rescan_until_unreachable("set");
    double began = ds_monotonic();
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    ck_assert_double_lt(ds_monotonic() - began, 5);
    rig_start(&r, NULL);
    wait_reach("set", "unreachable");
    json_t *doc = rig_call(&r, "GET", "/v1/datasets", NULL, &status);
    ck_assert_int_eq(status, 200);
    json_decref(doc);
    unlink(getenv(DS_HELPER_HANG));
    rig_wait_job(&r, "scan", "set", "|done|", 20000);
    ds_fs_remove(away, NULL);
}
END_TEST

/* A row of another program that leads through a link is resolved once; a link that comes later, and
 * the state folder behind one, are not followed. */
/* More ask than helpers may hang: those that wait in the queue are told all the same. */
START_TEST(a_queue_that_hangs) {
    enum { CLIENTS = 9 };
    char dir[400], body[500];
    pid_t pid[CLIENTS];
    int end;
    rig_images(&r, "set", 1, dir);
    rig_write(getenv(DS_HELPER_HANG), dir);
    snprintf(body, sizeof body, "{\"path\":\"%s\",\"name\":\"other\"}", dir);
    for (int i = 0; i < CLIENTS; i++) {
        ck_assert((pid[i] = fork()) >= 0);
        if (!pid[i]) {
            int status = 0;
            json_decref(rig_call(&r, "POST", "/v1/datasets", body, &status));
            _exit(status == 504 ? 0 : 1);
        }
    }
    for (int i = 0; i < CLIENTS; i++) {
        ck_assert_int_eq(waitpid(pid[i], &end, 0), pid[i]);
        ck_assert_msg(WIFEXITED(end) && WEXITSTATUS(end) == 0, "client %d", i);
    }
    unlink(getenv(DS_HELPER_HANG));
    rig_add(&r, "other", dir, 201);
}
END_TEST

START_TEST(rows_with_links) {
    char dir[400], link[420], other[400], sql[1000], moved[420];
    rig_images(&r, "real", 3, dir);
    rig_images(&r, "other", 4, other);
    snprintf(link, sizeof link, "%s/link", r.dir);
    ck_assert_int_eq(symlink(dir, link), 0);
    snprintf(sql, sizeof sql,
             "INSERT INTO datasets(name, source_path) VALUES ('linked', '%s'), ('inside', '%s/s')",
             link, r.dir);
    snprintf(moved, sizeof moved, "%s/s", r.dir);
    ck_assert_int_eq(symlink(r.state, moved), 0);
    rig_sql(&r, sql);
    rig_wait_job(&r, "train", "linked", "|done|", 20000);
    json_t *doc = rig_want(&r, 200, "GET", "/v1/datasets/linked", NULL);
    ck_assert_str_eq(ds_json_string(doc, "path", ""), dir);
    json_decref(doc);
    ck_assert(has_event("dataset.resolved"));
    rig_wait_job(&r, "scan", "inside", "|failed|", 20000);
    doc = rig_want(&r, 200, "GET", "/v1/datasets/inside", NULL);
    const char *why = ds_json_string(json_object_get(doc, "error"), "message", "");
    ck_assert_msg(strstr(why, "state folder") != NULL, "%s", why);
    json_decref(doc);
    snprintf(moved, sizeof moved, "%s/real.moved", r.dir);
    ck_assert_int_eq(rename(dir, moved), 0);
    ck_assert_int_eq(symlink(other, dir), 0);
    wait_reach("linked", "link");
    ck_assert(has_event("dataset.missing"));
    doc = rig_want(&r, 200, "GET", "/v1/datasets/linked", NULL);
    why = ds_json_string(json_object_get(doc, "reach"), "why", "");
    snprintf(sql, sizeof sql, "a link, to '%s', is where a folder was: it is not followed", other);
    ck_assert_msg(strstr(why, sql) == why, "%s", why);
    ck_assert_int_eq((int)strlen(ds_json_string(json_object_get(doc, "reach"), "since", "")), 24);
    ck_assert_str_eq(ds_json_string(doc, "path", ""), dir);
    json_decref(doc);
    ck_assert_int_eq(unlink(dir), 0);
    wait_reach("linked", "missing");
    doc = rig_want(&r, 200, "GET", "/v1/datasets/linked", NULL);
    ck_assert_str_eq(ds_json_string(json_object_get(doc, "reach"), "why", ""),
                     "the folder does not exist; it is looked for until it is back");
    json_decref(doc);
    ck_assert_int_eq(rename(moved, dir), 0);
    wait_reach("linked", "");
}
END_TEST

static sqlite3 *lock(void) {
    char path[400];
    sqlite3 *db;
    snprintf(path, sizeof path, "%s/registry.db", r.state);
    ck_assert_int_eq(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    sqlite3_busy_timeout(db, 5000);
    ck_assert_int_eq(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    return db;
}

static void unlock(sqlite3 *db) {
    ck_assert_int_eq(sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

/* Another program holds the write lock: what only reads is answered as ever, what writes waits for
 * it, what happened meanwhile is written afterwards. */
START_TEST(foreign_lock) {
    char dir[400], file[500];
    int status;
    rig_images(&r, "set", 3, dir);
    rig_add(&r, "set", dir, 201);
    rig_wait_adapter(&r, "set", 1, 20000);
    rig_wait_job(&r, "scan", "set", "|done|", 20000);
    rig_fake(&r, "sample", "slow 500");
    json_decref(rig_want(&r, 202, "POST", "/v1/samples", "{\"ref\":\"set\"}"));
    rig_wait_job(&r, "sample", NULL, "|running|", 20000);
    sqlite3 *db = lock();
    snprintf(file, sizeof file, "%s/new.png", dir);
    rig_write(file, "\x89PNG new");
    double p99 = health_p99(1.5);
    printf("healthz p99 with a foreign lock: %.1f ms\n", p99);
    ck_assert_double_lt(p99, P99_MS);
    json_decref(rig_want(&r, 200, "GET", "/v1/datasets", NULL));
    json_decref(rig_want(&r, 200, "GET", "/v1/status", NULL));
    double began = ds_monotonic();
    char *text = rig_text(&r, "POST", "/v1/datasets/set/rescan", NULL, "", &status);
    ck_assert_int_eq(status, 503);
    ck_assert_double_gt(ds_monotonic() - began, 4);
    free(text);
    /* one that is asked for just before the lock goes */
    pid_t child = fork();
    if (child == 0) {
        free(rig_text(&r, "POST", "/v1/verify", NULL, "{\"ref\":\"set\"}", &status));
        _exit(status == 202 ? 0 : 1);
    }
    usleep(500000);
    unlock(db);
    int code;
    ck_assert_int_eq(waitpid(child, &code, 0), child);
    ck_assert(WIFEXITED(code) && WEXITSTATUS(code) == 0);
    rig_wait_job(&r, "sample", NULL, "|done|", 20000);
    rig_wait_adapter(&r, "set", 2, 20000); /* the change of the folder was not forgotten */
    /* and it stops and starts */
    db = lock();
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    rig_start(&r, NULL);
    json_decref(rig_want(&r, 200, "GET", "/v1/datasets/set", NULL));
    unlock(db);
    json_decref(rig_want(&r, 202, "POST", "/v1/datasets/set/rescan", NULL));
}
END_TEST

static long resident_kb(void) {
    char path[64], line[200];
    long kb = 0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)r.pid);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "VmRSS:", 6))
            kb = strtol(line + 6, NULL, 10);
    if (f)
        fclose(f);
    return kb;
}

/* Those who connect and say nothing do not keep others out, whatever their number: the one that was
 * idle for longest is cut off. */
START_TEST(idle_crowd) {
    enum { CROWD = 900 };
    static int fds[CROWD];
    struct rlimit limit, low = {.rlim_cur = 600, .rlim_max = 600};
    int status, cut = 0;
    char c;
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    ck_assert_uint_ge(limit.rlim_max, CROWD + 100);
    rig_spawn(&r, NULL);
    ck_assert_int_eq(prlimit(r.pid, RLIMIT_NOFILE, &low, NULL), 0); /* before it asks */
    rig_ready(&r);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    for (int i = 0; i < CROWD; i++) {
        fds[i] = rig_connect(&r);
        ck_assert_int_ge(fds[i], 0);
        if (i % 100 == 99) {
            free(rig_text(&r, "GET", "/healthz", NULL, NULL, &status));
            ck_assert_int_eq(status, 200);
        }
    }
    double began = ds_monotonic();
    free(rig_text(&r, "GET", "/healthz", NULL, NULL, &status));
    ck_assert_int_eq(status, 200);
    ck_assert_double_lt(ds_monotonic() - began, 1);
    for (int i = 0; i < CROWD; i++) {
        cut += recv(fds[i], &c, 1, MSG_DONTWAIT) == 0;
        if (i == 0)
            ck_assert_int_eq(cut, 1); /* the oldest */
        close(fds[i]);
    }
    ck_assert_int_gt(cut, CROWD - 600);
    ck_assert_int_lt(cut, CROWD - 200);
}
END_TEST

/* 200 bodies that never arrive in full are bounded together, and cost nobody else his answer. */
START_TEST(half_sent_bodies) {
    static int fds[200];
    int status;
    static char part[900 << 10];
    memset(part, ' ', sizeof part);
    long before = resident_kb();
    for (int i = 0; i < 200; i++) {
        static const char head[] = "POST /v1/verify HTTP/1.1\r\nHost: d\r\nContent-Length: 1000000"
                                   "\r\n\r\n";
        fds[i] = rig_connect(&r);
        ck_assert_int_ge(fds[i], 0);
        ck_assert_int_eq(send(fds[i], head, sizeof head - 1, MSG_NOSIGNAL), sizeof head - 1);
        for (size_t k = 0; k < sizeof part;) {
            ssize_t n = send(fds[i], part + k, sizeof part - k, MSG_NOSIGNAL);
            if (n <= 0)
                break;
            k += (size_t)n;
        }
    }
    free(rig_text(&r, "POST", "/v1/verify", NULL, "{\"ref\":\"none\"}", &status));
    ck_assert_int_eq(status, 404);
    long after = resident_kb();
    printf("200 half-sent bodies: %ld kB more\n", after - before);
#ifndef __SANITIZE_ADDRESS__
    ck_assert_int_lt(after - before, 50000);
#endif
    for (int i = 0; i < 200; i++)
        close(fds[i]);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, hung_folder);
    tcase_add_test(tc, a_queue_that_hangs);
    tcase_add_test(tc, rows_with_links);
    tcase_add_test(tc, foreign_lock);
    tcase_add_test(tc, idle_crowd);
    tcase_add_test(tc, half_sent_bodies);
}

int main(int argc, char **argv) {
    rig_main(argc, argv);
    return ds_test_main("daemon_reach", cases);
}
