/* tests/daemon/test_daemon_store.c - files that rows refer to, on the real daemon: nothing that is in use
 * or just being published is removed, nothing damaged is handed out, and a registry that is taken
 * away ends the daemon. */
#include "registry/store/blobs.h"
#include "registry/registry.h"
#include "tests/fixtures/daemon_rig.h"
#include "tests/fixtures/read_fails.h"

#include <sqlite3.h>

static rig r;

static void setup(void) {
    static int n;
    char name[32];
    snprintf(name, sizeof name, "store%d-%d", (int)getpid(), n++);
    rig_open(&r, name);
}

static void teardown(void) {
    if (r.pid)
        ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
}

/* ---- gc while adapters are published ---- */

static int two_days_older(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
    (void)ftw;
    struct timespec t[2] = {{0, UTIME_OMIT}, {st->st_mtim.tv_sec - 2 * 86400, 0}};
    if (flag == FTW_F)
        utimensat(AT_FDCWD, path, t, AT_SYMLINK_NOFOLLOW); /* it may be gone already */
    return 0;
}

/* For every file and ended job a clock that jumped two days ahead, a foreign lock every now and then, and gc and prune with
 * the least grace all the time.  A lock that is held for longer than the daemon waits for it makes
 * rows come long after their files; of hundreds of adapters one each twenty locks, and half a
 * second between two, or the daemon would meet a lock most of the time and it would take half an hour. */
static void disturb(int seconds, int long_ones) {
    char blobs[400], registry[400];
    snprintf(blobs, sizeof blobs, "%s/blobs/sha256", r.state);
    snprintf(registry, sizeof registry, "%s/registry.db", r.state);
    double end = ds_monotonic() + seconds, next = 0;
    int locks = 0;
    for (int i = 0; ds_monotonic() < end; i++) {
        nftw(blobs, two_days_older, 16, FTW_PHYS);
        json_decref(rig_call(&r, "POST", "/v1/gc", "{\"grace_seconds\":60}", NULL));
        json_decref(rig_call(&r, "POST", "/v1/prune",
                             "{\"jobs_seconds\":60,\"folders_seconds\":60,\"events_seconds\":60}",
                             NULL));
        if (long_ones ? ds_monotonic() > next : i % 8 == 0) {
            sqlite3 *db;
            if (!sqlite3_open(registry, &db) &&
                !sqlite3_exec(db,
                              "PRAGMA wal_autocheckpoint=0; BEGIN IMMEDIATE; UPDATE jobs SET"
                              " finished_at = finished_at - 172800000",
                              0, 0, 0)) {
                usleep(long_ones && locks++ % 20 == 0 ? 5300000 : 150000);
                sqlite3_exec(db, "COMMIT", 0, 0, 0);
            }
            sqlite3_close(db);
            next = ds_monotonic() + 0.5;
        }
        usleep(2000);
    }
    _exit(0);
}

/* For tests/long/power_cuts.sh, which takes the machine away meanwhile: what we were told. */
static void acknowledged(const char *what, const char *name) {
    const char *log = getenv("POWER_CUTS_LOG");
    int fd = log ? open(log, O_WRONLY | O_APPEND | O_CREAT, 0644) : -1;
    if (fd >= 0)
        ck_assert(dprintf(fd, "%s %s\n", what, name) > 0);
    close(fd);
}

static void add_in_time(const char *name, const char *folder) {
    char body[700];
    int status = 0;
    snprintf(body, sizeof body, "{\"name\":\"%s\",\"path\":\"%s\"}", name, folder);
    for (int i = 0; i < 100 && status != 201; i++) {
        json_decref(rig_call(&r, "POST", "/v1/datasets", body, &status));
        if (status != 201)
            usleep(100000);
    }
    ck_assert_int_eq(status, 201);
    acknowledged("dataset", name);
}

START_TEST(gc_while_adapters_are_published) {
    const char *wanted = getenv("GC_LOAD"); /* tests/long/gc_load.sh asks for 300 */
    int n = wanted ? (int)strtol(wanted, NULL, 10) : 8;
    char folder[400], name[32];
    rig_start(&r, (const char *const[]){"--workers", "2", NULL});
    pid_t child = fork();
    ck_assert(child >= 0);
    if (!child)
        disturb(60 + 4 * n, wanted && !getenv("POWER_CUTS_LOG"));
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "d%d", i);
        rig_images(&r, name, 1, folder);
        add_in_time(name, folder);
    }
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "d%d", i);
        rig_wait_adapter(&r, name, 1, 60000 + 2000 * n);
        acknowledged("adapter", name);
    }
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    json_t *failed = rig_want(&r, 200, "GET", "/v1/jobs?state=failed", NULL);
    ck_assert_int_eq((int)json_array_size(json_object_get(failed, "items")), 0);
    json_decref(failed);
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    ds_registry *reg = NULL;
    ds_error err;
    ck_assert_msg(!ds_registry_open(r.state, &reg, &err), "%s", err.message);
    ck_assert_msg(!ds_registry_check(reg, &err), "%s", err.message);
    ck_assert_msg(!ds_blobs_verify(reg, NULL, NULL, &err), "%s", err.message);
    ds_registry_close(reg);
    printf("daemon_store: %d adapters published while gc ran, 0 lost\n", n);
}
END_TEST

/* ---- damage ---- */

static void blob_file(const char *sha, char out[400]) {
    snprintf(out, 400, "%s/blobs/sha256/%.2s/%s.zst", r.state, sha, sha);
}

static void flip(const char *path, int64_t at) {
    char c;
    int fd = open(path, O_RDWR);
    ck_assert(fd >= 0 && pread(fd, &c, 1, at) == 1);
    c ^= 4;
    ck_assert(pwrite(fd, &c, 1, at) == 1);
    close(fd);
}

static int status_of(const char *path) {
    int status;
    free(rig_text(&r, "GET", path, NULL, NULL, &status));
    return status;
}

static int events_of(const char *type) {
    char path[100];
    snprintf(path, sizeof path, "/v1/events?type=%s", type);
    char *text = rig_text(&r, "GET", path, NULL, NULL, &(int){0});
    int n = 0;
    for (const char *p = text; (p = strstr(p, type)); p++)
        n++;
    free(text);
    return n;
}

/* Both ways to an adapter's file say 500, with the word, and no digest. */
static void refused(const char *blob, const char *word) {
    const char *const paths[] = {"/v1/adapters/digits/file", blob};
    for (int i = 0; i < 2; i++) {
        int status;
        char *text = rig_text(&r, "GET", paths[i], NULL, NULL, &status);
        ck_assert_msg(status == 500 && strstr(text, word) && strstr(text, "DS_EINTEGRITY"),
                      "%s: %d %s", paths[i], status, text);
        free(text);
    }
}

START_TEST(damage_is_never_served) {
    char folder[400], path[400], blob[120], sha[DS_HEX_SIZE], *good, *text;
    size_t n;
    int status;
    ds_error err;
    rig_start(&r, NULL);
    rig_images(&r, "digits", 2, folder);
    rig_add(&r, "digits", folder, 201);
    rig_wait_adapter(&r, "digits", 1, 10000);
    rig_digest(&r, "digits", sha);
    snprintf(blob, sizeof blob, "/v1/blobs/%s", sha);
    blob_file(sha, path);
    ck_assert_int_eq(ds_fs_read(path, 1 << 20, &good, &n, &err), 0);
    ck_assert_int_eq(status_of("/v1/adapters/digits/file"), 200);
    flip(path, (int64_t)n - 3); /* since it was verified: its times say that it is another file */
    refused(blob, "another digest");
    refused(blob, "another digest");
    ck_assert_int_eq(events_of("blob.damaged"), 1);
    ck_assert_int_eq(truncate(path, (off_t)n - 1), 0);
    refused(blob, "bytes, not");
    ck_assert_int_eq(unlink(path), 0);
    refused(blob, "missing");
    ck_assert_int_eq(events_of("blob.damaged"), 3);
    ck_assert_int_eq(symlink("/etc/passwd", path), 0);
    refused(blob, "missing");
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(ds_fs_write(path, good, n, &err), 0); /* put back: it is good again */
    text = rig_text(&r, "GET", blob, NULL, NULL, &status);
    ck_assert_int_eq(status, 200);
    free(text);
    ck_assert_int_eq(unlink(path), 0); /* a job that is given it: said before the worker finds it */
    json_decref(rig_want(&r, 202, "POST", "/v1/samples", "{\"ref\":\"digits\"}"));
    rig_wait_job(&r, "sample", NULL, "|done|failed|", 5000);
    ck_assert_int_eq(events_of("blob.damaged"), 4);
    ck_assert_int_eq(ds_fs_write(path, good, n, &err), 0);
    free(good);
}
END_TEST

/* A disk that does not answer is no damage: nothing is said of the blob, and it is served later. */
START_TEST(a_blob_that_cannot_be_read) {
    char dir[400], sha[DS_HEX_SIZE], flag[400];
    snprintf(flag, sizeof flag, "%s/unreadable", r.dir);
    setenv("DS_TEST_READ", flag, 1);
    rig_start(&r, NULL);
    rig_images(&r, "digits", 3, dir);
    rig_add(&r, "digits", dir, 201);
    rig_wait_adapter(&r, "digits", 1, 20000);
    rig_digest(&r, "digits", sha);
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0); /* the next one has looked at no blob yet */
    rig_start(&r, NULL);
    rig_write(flag, sha);
    rig_says(&r, 500, "GET", "/v1/adapters/digits/file", NULL, "cannot read blob '");
    rig_says(&r, 500, "GET", "/v1/adapters/digits/file", NULL, "Input/output error");
    ck_assert_int_eq(rig_number(&r, "SELECT count(*) FROM events WHERE type = 'blob.damaged'"), 0);
    ck_assert_int_eq(unlink(flag), 0);
    ck_assert_int_eq(status_of("/v1/adapters/digits/file"), 200);
    unsetenv("DS_TEST_READ");
}
END_TEST

/* The list of a dataset's files, 0: missing, 1: with a flipped bit: not handed out; a training that
 * needs it waits for the scan that puts it again. */
START_TEST(a_lost_manifest_comes_back) {
    char folder[400], path[400], sha[DS_HEX_SIZE];
    rig_fake(&r, "train", "hang");
    rig_start(&r, NULL);
    rig_images(&r, "digits", 2, folder);
    rig_add(&r, "digits", folder, 201);
    rig_wait_job(&r, "train", "digits", "|running|", 10000);
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    json_t *spec = NULL;
    snprintf(path, sizeof path, "%s/jobs/2/spec.json", r.state);
    ck_assert_int_eq(ds_json_read_file(path, 1 << 20, &spec, NULL), 0);
    snprintf(sha, sizeof sha, "%.64s",
             ds_json_string(json_object_get(spec, "dataset"), "tree_digest", "?"));
    json_decref(spec);
    snprintf(path, sizeof path, "%s/jobs/2/manifest.ndjson", r.state);
    ck_assert_int_eq(unlink(path), 0);
    blob_file(sha, path);
    if (_i)
        flip(path, 20);
    else
        ck_assert_int_eq(unlink(path), 0);
    rig_fake(&r, "train", "ok");
    rig_fake(&r, "scan", "slow 1500"); /* so that the damage can be looked at */
    rig_start(&r, NULL);
    ck_assert_int_eq(status_of("/v1/datasets/digits/manifest"), 500);
    for (int i = 0; i < 100; i++) { /* it would wait for ten seconds */
        rig_sql(&r, "UPDATE jobs SET run_after = 0 WHERE kind = 'train' AND run_after > 0");
        char state[16];
        rig_job(&r, "train", "digits", state);
        if (!strcmp(state, "done") || !strcmp(state, "failed"))
            break;
        usleep(100000);
    }
    rig_wait_adapter(&r, "digits", 1, 1000);
    ck_assert_int_eq(status_of("/v1/datasets/digits/manifest"), 200);
    ck_assert_int_ge(events_of("blob.damaged"), 1);
}
END_TEST

/* Too large for the loop: the pool hashes it, several ask at once, and one gives up. */
START_TEST(large_files_are_checked_on_the_pool) {
    enum { N = 3 << 20, CLIENTS = 6 };
    char path[400], url[120];
    char *data = ds_xmalloc(N);
    ds_registry *reg = NULL;
    ds_error err;
    ds_blob b;
    for (size_t i = 0, x = 1; i < N; i++)
        data[i] = (char)((x = x * 6364136223846793005u + 1442695040888963407u) >> 56);
    ck_assert_int_eq(ds_registry_open(r.state, &reg, &err), 0);
    ck_assert_int_eq(ds_store_put_bytes(ds_registry_store(reg), data, N, &b, &err), 0);
    ck_assert_int_eq(ds_blob_add(reg, &b, "x", &err), 0);
    ds_registry_close(reg);
    free(data);
    snprintf(url, sizeof url, "/v1/blobs/%s", b.sha256);
    blob_file(b.sha256, path);
    rig_start(&r, NULL);
    for (int round = 0; round < 2; round++) {
        pid_t clients[CLIENTS];
        for (int i = 0; i < CLIENTS; i++)
            if (!(clients[i] = fork())) {
                if (i == 0) { /* asks, and goes away */
                    int fd = rig_connect(&r);
                    dprintf(fd, "GET %s HTTP/1.1\r\nHost: d\r\n\r\n", url);
                    close(fd);
                    _exit(0);
                }
                _exit(status_of(url) == (round ? 500 : 200) ? 0 : 1);
            }
        for (int i = 0; i < CLIENTS; i++) {
            int status = -1;
            ck_assert(waitpid(clients[i], &status, 0) == clients[i]);
            ck_assert_msg(status == 0, "client %d in round %d", i, round);
        }
        flip(path, N / 2);
    }
    ck_assert_int_eq(events_of("blob.damaged"), 1);
}
END_TEST

/* ---- a registry that is taken away ---- */

static const char *const taken[] = {"rm %s/registry.db",
                                    "cp %s/registry.db %s/x && mv %s/x %s/registry.db",
                                    "rm %s/registry.db-wal", "rm %s/lock", "mv %s %s.elsewhere"};

START_TEST(registry_taken_away) {
    char command[2000], folder[400], body[700], *log;
    int status, rc;
    size_t n;
    rig_start(&r, NULL);
    rig_images(&r, "digits", 2, folder);
    snprintf(command, sizeof command, taken[_i], r.state, r.state, r.state, r.state);
    ck_assert_int_eq(system(command), 0);
    snprintf(body, sizeof body, "{\"path\":\"%s\"}", folder);
    json_decref(rig_call(&r, "POST", "/v1/datasets", body, &status));
    ck_assert_msg(status == 0 || status >= 500, "acknowledged with %d", status);
    free(rig_text(&r, "GET", "/readyz", NULL, NULL, &status));
    ck_assert_msg(status == 0 || status == 503, "ready: %d", status);
    rc = rig_wait_exit(&r, 5000);
    ck_assert_int_eq(rc, 9);
    snprintf(command, sizeof command, "%s/daemon.log", r.dir);
    ck_assert_int_eq(ds_fs_read(command, 1 << 20, &log, &n, NULL), 0);
    ck_assert_msg(strstr(log, "while it was in use"), "%s", log);
    free(log);
}
END_TEST

/* ---- a large registry ---- */

static void spoil_page(int64_t page) {
    char path[400], junk[512];
    snprintf(path, sizeof path, "%s/registry.db", r.state);
    memset(junk, 0xff, sizeof junk);
    int fd = open(path, O_WRONLY);
    ck_assert_int_eq(pwrite(fd, junk, sizeof junk, (page - 1) * 4096), sizeof junk);
    close(fd);
}

/* Its pages are looked at after the start, by a niced thread; damage ends the daemon. */
START_TEST(a_large_registry_is_read_meanwhile) {
    rig_start(&r, NULL);
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    rig_sql(&r, "CREATE TABLE pad(x); CREATE TABLE other(x);"
                "INSERT INTO other VALUES (1); INSERT INTO pad VALUES (zeroblob(70000000));"
                "PRAGMA wal_checkpoint(TRUNCATE)");
    ck_assert_int_eq(rig_number(&r, "PRAGMA page_size"), 4096);
    int64_t page = rig_number(&r, "SELECT rootpage FROM sqlite_master WHERE name = 'other'");
    rig_start(&r, NULL);
    json_decref(rig_want(&r, 200, "GET", "/v1/status", NULL));
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0); /* it may be reading still */
    spoil_page(page);
    rig_spawn(&r, NULL);
    ck_assert_int_eq(rig_wait_exit(&r, 90000), ds_error_exit(DS_EINTEGRITY));
    rig_wait_log(&r, "is damaged");
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, getenv("GC_LOAD") ? 3600 : 120);
    tcase_add_test(tc, gc_while_adapters_are_published);
    tcase_add_test(tc, damage_is_never_served);
    tcase_add_test(tc, a_blob_that_cannot_be_read);
    tcase_add_loop_test(tc, a_lost_manifest_comes_back, 0, 2);
    tcase_add_test(tc, large_files_are_checked_on_the_pool);
    tcase_add_loop_test(tc, registry_taken_away, 0, sizeof taken / sizeof *taken);
    tcase_add_test(tc, a_large_registry_is_read_meanwhile);
}

int main(int argc, char **argv) {
    rig_main(argc, argv);
    return ds_test_main("daemon_store", cases);
}
