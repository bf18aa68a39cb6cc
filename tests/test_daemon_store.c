/* tests/test_daemon_store.c - files that rows refer to, on the real daemon: nothing that is in use
 * or just being published is removed. */
#include "registry/blobs.h"
#include "registry/registry.h"
#include "tests/daemon_rig.h"

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

/* For every file a clock that jumped two days ahead, a foreign lock every now and then, and gc with
 * the least grace all the time.  A lock that is held for longer than the daemon waits for it makes
 * rows come long after their files. */
static void disturb(int seconds, int long_ones) {
    char blobs[400], registry[400];
    snprintf(blobs, sizeof blobs, "%s/blobs/sha256", r.state);
    snprintf(registry, sizeof registry, "%s/registry.db", r.state);
    double end = ds_monotonic() + seconds;
    for (int i = 0; ds_monotonic() < end; i++) {
        nftw(blobs, two_days_older, 16, FTW_PHYS);
        json_decref(rig_call(&r, "POST", "/v1/gc", "{\"grace_seconds\":60}", NULL));
        if (i % 8 == 0) {
            sqlite3 *db;
            if (!sqlite3_open(registry, &db) &&
                !sqlite3_exec(db, "PRAGMA wal_autocheckpoint=0; BEGIN IMMEDIATE", 0, 0, 0))
                usleep(long_ones && i % 40 == 0 ? 6500000 : 150000);
            sqlite3_close(db);
        }
        usleep(2000);
    }
    _exit(0);
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
}

START_TEST(gc_while_adapters_are_published) {
    const char *wanted = getenv("GC_LOAD"); /* tests/long/gc_load.sh asks for 300 */
    int n = wanted ? (int)strtol(wanted, NULL, 10) : 8;
    char folder[400], name[32];
    rig_start(&r, (const char *const[]){"--workers", "2", NULL});
    pid_t child = fork();
    ck_assert(child >= 0);
    if (!child)
        disturb(60 + 4 * n, wanted != NULL);
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "d%d", i);
        rig_images(&r, name, 1, folder);
        add_in_time(name, folder);
    }
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "d%d", i);
        rig_wait_adapter(&r, name, 1, 60000 + 2000 * n);
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

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, getenv("GC_LOAD") ? 3600 : 120);
    tcase_add_test(tc, gc_while_adapters_are_published);
}

int main(int argc, char **argv) {
    rig_main(argc, argv);
    return ds_test_main("daemon_store", cases);
}
