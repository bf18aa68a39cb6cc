/* tests/registry/test_registry_place.c - a registry that was taken away, or whose disk fails, acknowledges
 * nothing; one whose upgrade is killed at any write goes on with it. */
#include "registry/core/migrate.h"
#include "registry/core/place.h"
#include "tests/fixtures/registry_fixture.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

/* SQLite's own file layer with one call that fails: SQLite asks the default one when the registry
 * opens. */
static sqlite3_vfs layer;
static sqlite3_vfs *real;
static int fail_sync, fail_write; /* the result code, 0 = work */
static int fail_errno;            /* of a write that fails */
static int last_errno;            /* as the file keeps it */
static int writes, kill_at;       /* the write at which the process is killed; 0 = never */
struct file {
    sqlite3_file base;
    sqlite3_io_methods methods;
    const sqlite3_io_methods *real;
};
static struct file *files[65536];
static int file_count;

static const sqlite3_io_methods *real_of(sqlite3_file *f) {
    for (int i = 0; i < file_count; i++)
        if (f->pMethods == &files[i]->methods)
            return files[i]->real;
    ck_abort_msg("a file that was not opened here");
    return NULL;
}
static int x_sync(sqlite3_file *f, int flags) {
    return fail_sync ? fail_sync : real_of(f)->xSync(f, flags);
}
static int x_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at) {
    if (++writes == kill_at)
        kill(getpid(), SIGKILL);
    if (fail_write)
        last_errno = fail_errno;
    return fail_write ? fail_write : real_of(f)->xWrite(f, p, n, at);
}
static int x_control(sqlite3_file *f, int op, void *p) {
    if (op != SQLITE_FCNTL_LAST_ERRNO)
        return real_of(f)->xFileControl(f, op, p);
    *(int *)p = last_errno;
    return SQLITE_OK;
}
static int x_open(sqlite3_vfs *v, const char *name, sqlite3_file *f, int flags, int *out) {
    (void)v;
    int rc = real->xOpen(real, name, f, flags, out);
    if (rc != SQLITE_OK || !f->pMethods || file_count == (int)(sizeof files / sizeof *files))
        return rc;
    struct file *mine = files[file_count++] = calloc(1, sizeof *mine); /* as long as the test */
    mine->real = f->pMethods;
    mine->methods = *f->pMethods;
    mine->methods.xSync = x_sync;
    mine->methods.xWrite = x_write;
    mine->methods.xFileControl = x_control;
    f->pMethods = &mine->methods;
    return rc;
}

static void setup(void) {
    real = sqlite3_vfs_find(NULL);
    layer = *real;
    layer.zName = "failing";
    layer.xOpen = x_open;
    fail_sync = fail_write = fail_errno = last_errno = writes = kill_at = 0;
    ck_assert_int_eq(sqlite3_vfs_register(&layer, 1), SQLITE_OK);
}
static void teardown(void) { sqlite3_vfs_register(real, 1); }

static int add(ds_registry *r, ds_error *err) {
    return ds_event_add(r, "daemon.started", "daemon", NULL, err);
}

/* Nothing is written any more, and the reason stays. */
static void stays_broken(ds_registry *r, int code, const char *word) {
    FAILS(code, word, add(r, err));
    FAILS(code, word, ds_registry_in_place(r, err));
    FAILS(code, word, ds_registry_broken(r, err));
    FAILS(code, word, ds_dataset_rescan(r, "d", NULL, err));
}

START_TEST(a_failed_sync) {
    char dir[PATH_MAX];
    snprintf(dir, sizeof dir, "%s", fx_dir("sync"));
    ds_registry *r = fx_open(dir);
    fx_add(r, "d", "/a");
    fail_sync = SQLITE_IOERR_FSYNC;
    FAILS(DS_EIO, "", add(r, err));
    fail_sync = 0; /* what the failed one left is not known: a later success means nothing */
    stays_broken(r, DS_EIO, "the disk of registry");
    ds_registry_close(r);
    MUST(ds_registry_open(dir, &r, err));
    MUST(add(r, err));
    MUST(ds_registry_check(r, err));
    ds_registry_close(r);
}
END_TEST

START_TEST(a_failed_write) {
    ds_registry *r = fx_open(fx_dir("write"));
    fx_add(r, "d", "/a");
    fail_write = SQLITE_IOERR_WRITE;
    FAILS(DS_EIO, "", add(r, err));
    fail_write = 0;
    stays_broken(r, DS_EIO, "the disk of registry");
    ds_registry_close(r);
}
END_TEST

/* Of what a write can give, what keeps us from writing on: 0 nothing, else the code of all that
 * follows. */
static const struct {
    int result, os_error, code, after;
    const char *word;
} results[] = {
    {SQLITE_IOERR_FSYNC, EIO, DS_EIO, DS_EIO, "the disk of registry"},
    {SQLITE_IOERR_DIR_FSYNC, EIO, DS_EIO, DS_EIO, "the disk of registry"},
    {SQLITE_IOERR_WRITE, EIO, DS_EIO, DS_EIO, "the disk of registry"},
    {SQLITE_IOERR_TRUNCATE, EIO, DS_EIO, DS_EIO, "the disk of registry"},
    {SQLITE_IOERR_READ, EIO, DS_EIO, DS_EIO, "the disk of registry"},
    {SQLITE_IOERR_FSTAT, EIO, DS_EIO, DS_EIO, "the disk of registry"},
    {SQLITE_IOERR_CORRUPTFS, EIO, DS_EIO, DS_EIO, "the disk of registry"},
    {SQLITE_CORRUPT, 0, DS_EINTEGRITY, DS_EINTEGRITY, "is damaged"},
    {SQLITE_NOTADB, 0, DS_EINTEGRITY, DS_EINTEGRITY, "is damaged"},
    {SQLITE_IOERR_WRITE, EDQUOT, 0, 0, ""}, /* a quota is room, and may be given */
    {SQLITE_IOERR_LOCK, EIO, 0, 0, ""},
    {SQLITE_IOERR_NOMEM, 0, 0, 0, ""},
};

START_TEST(what_a_write_can_give) {
    char dir[32];
    ds_error e;
    snprintf(dir, sizeof dir, "result%d", _i);
    ds_registry *r = fx_open(fx_dir(dir));
    fx_add(r, "d", "/a");
    fail_write = results[_i].result;
    fail_errno = results[_i].os_error;
    int rc = add(r, &e);
    ck_assert(rc != 0 && (!results[_i].code || rc == results[_i].code));
    fail_write = fail_errno = 0;
    if (results[_i].after)
        stays_broken(r, results[_i].after, results[_i].word);
    else {
        MUST(ds_registry_broken(r, err));
        MUST(add(r, err));
    }
    ds_registry_close(r);
}
END_TEST

/* A folder that cannot be looked at for a moment is no other one. */
START_TEST(a_look_that_fails_says_nothing) {
    char dir[PATH_MAX], away[PATH_MAX + 8];
    snprintf(dir, sizeof dir, "%s", fx_dir("looked"));
    snprintf(away, sizeof away, "%s.away", dir);
    ds_registry *r = fx_open(dir);
    ck_assert(rename(dir, away) == 0 && symlink(dir, dir) == 0);
    MUST(ds_registry_in_place(r, err)); /* ELOOP: not known */
    ck_assert(unlink(dir) == 0 && rename(away, dir) == 0);
    MUST(add(r, err));
    ck_assert(rename(dir, away) == 0);
    MUST(ds_fs_write(dir, "a file", 6, err));
    FAILS(DS_EINTEGRITY, "was removed while it was in use", ds_registry_in_place(r, err));
    ds_registry_close(r);
}
END_TEST

/* Some keep the file elsewhere: what the link leads to is looked at as well. */
START_TEST(another_file_behind_a_link) {
    char dir[PATH_MAX], file[PATH_MAX], kept[PATH_MAX], other[PATH_MAX];
    snprintf(dir, sizeof dir, "%s", fx_dir("linked"));
    ds_registry *r = fx_open(dir);
    ds_registry_close(r);
    ds_fs_join(file, sizeof file, dir, "registry.db");
    ds_fs_join(kept, sizeof kept, dir, "kept.db");
    ds_fs_join(other, sizeof other, dir, "other");
    ck_assert(rename(file, kept) == 0 && symlink("kept.db", file) == 0);
    MUST(ds_registry_open(dir, &r, err));
    MUST(add(r, err));
    MUST(ds_fs_write(other, "another", 7, err));
    ck_assert_int_eq(rename(other, kept), 0);
    FAILS(DS_EINTEGRITY, "registry.db' was replaced", ds_registry_in_place(r, err));
    ds_registry_close(r);
}
END_TEST

START_TEST(a_full_disk_is_no_broken_one) {
    ds_registry *r = fx_open(fx_dir("full"));
    fail_write = SQLITE_FULL;
    FAILS(DS_ENOSPC, "no space", add(r, err));
    fail_write = 0;
    MUST(add(r, err));
    MUST(ds_registry_in_place(r, err));
    ds_registry_close(r);
}
END_TEST

static const char *const names[] = {"registry.db", "registry.db-wal", "registry.db-shm", "lock"};
START_TEST(another_file_of_the_name) {
    char dir[32], path[PATH_MAX], other[PATH_MAX];
    ds_error e;
    snprintf(dir, sizeof dir, "moved%d", _i);
    ds_registry *r = fx_open(fx_dir(dir));
    fx_add(r, "d", "/a");
    MUST(ds_registry_in_place(r, err));
    ds_fs_join(path, sizeof path, ds_registry_dir(r), names[_i / 2]);
    ds_fs_join(other, sizeof other, ds_registry_dir(r), "other");
    if (_i % 2)
        ck_assert_int_eq(unlink(path), 0);
    else {
        MUST(ds_fs_write(other, "another", 7, err));
        ck_assert_int_eq(rename(other, path), 0);
    }
    ck_assert(add(r, &e) == DS_EINTEGRITY); /* written, perhaps; never acknowledged */
    ck_assert_msg(strstr(e.message, _i % 2 ? "removed" : "replaced"), "%s", e.message);
    stays_broken(r, DS_EINTEGRITY, "while it was in use");
    ds_registry_close(r);
    if (_i % 2 == 0) { /* what is there now is somebody else's: untouched, not removed */
        char *text;
        size_t n;
        MUST(ds_fs_read(path, 100, &text, &n, err));
        ck_assert_msg(n == 7 || _i == 6, "%zu bytes", n); /* (the lock has our pid, if anything) */
        free(text);
    }
}
END_TEST

/* A state folder with the registry that version 1 wrote; 0: not run from the repository's root. */
static int old_registry(char dir[PATH_MAX], const char *name) {
    char path[PATH_MAX], *sql;
    size_t n;
    sqlite3 *db;
    if (ds_fs_read("tests/golden/registry-v1.sql", 1 << 20, &sql, &n, NULL))
        return 0;
    snprintf(dir, PATH_MAX, "%s", fx_dir(name));
    MUST(ds_fs_mkdirs(dir, err));
    ds_fs_join(path, sizeof path, dir, "registry.db");
    ck_assert_int_eq(
        sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, real->zName),
        SQLITE_OK);
    ck_assert_int_eq(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    free(sql);
    return 1;
}

/* Every KILL_STEP-th write (tests/long/migration_kills.sh: every one), each in a process of its own;
 * every second time the next attempt is killed as well. */
START_TEST(an_upgrade_that_is_killed) {
    const char *wanted = getenv("KILL_STEP");
    int step = wanted ? (int)strtol(wanted, NULL, 10) : 23, kills = 0, ended = 0;
    char dir[PATH_MAX];
    for (int at = 1; !ended; at += step) {
        if (!old_registry(dir, "killed")) {
            ds_test_skip("an_upgrade_that_is_killed", "not run from the repository's root");
            return;
        }
        for (int again = 0; again <= kills % 2 && !ended; again++) {
            pid_t pid = fork();
            if (!pid) {
                ds_registry *r = NULL;
                writes = 0;
                kill_at = again ? at / 2 + 1 : at;
                _exit(ds_registry_open(dir, &r, NULL) ? 1 : 0);
            }
            int status = 0;
            ck_assert(waitpid(pid, &status, 0) == pid);
            ck_assert_msg(WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) == 0),
                          "write %d: exit %d", at, WEXITSTATUS(status));
            ended = !again && WIFEXITED(status); /* it has no such write */
        }
        kills += !ended;
        ds_registry *r = NULL;
        json_t *o = NULL;
        MUST(ds_registry_open(dir, &r, err));
        MUST(ds_registry_check(r, err));
        ck_assert_int_eq(ds_registry_schema(r), ds_migration_count);
        MUST(ds_adapter_get(r, "digits", &o, err));
        ck_assert_int_eq((int)json_array_size(json_object_get(o, "evaluations")), 3);
        json_decref(o);
        ds_registry_close(r);
    }
    printf("registry_place: %d upgrades killed, each went on\n", kills);
    ck_assert_int_gt(kills, 3);
}
END_TEST

static void cases(TCase *tc) {
    if (getenv("KILL_STEP"))
        tcase_set_timeout(tc, 3600);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, a_failed_sync);
    tcase_add_test(tc, a_failed_write);
    tcase_add_loop_test(tc, what_a_write_can_give, 0, sizeof results / sizeof *results);
    tcase_add_test(tc, a_look_that_fails_says_nothing);
    tcase_add_test(tc, another_file_behind_a_link);
    tcase_add_test(tc, a_full_disk_is_no_broken_one);
    tcase_add_loop_test(tc, another_file_of_the_name, 0, 8);
    tcase_add_test(tc, an_upgrade_that_is_killed);
}

int main(void) {
    fx_fast_tmp();
    return ds_test_main("registry_place", cases);
}
