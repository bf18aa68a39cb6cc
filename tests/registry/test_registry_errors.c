/* tests/registry/test_registry_errors.c - what the system refuses while a registry is opened, upgraded or
 * read, and while a file is stored: the error, its words, and that nothing is left or changed.
 *
 * The test program has flock, getrandom and read of its own, which fail when the test says so. */
#include "base/mem.h"
#include "registry/core/db.h"
#include "registry/core/migrate.h"
#include "registry/rows/bars.h"
#include "registry/rows/base_tasks.h"
#include "tests/fixtures/durable.h"
#include "tests/fixtures/registry_fixture.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <zstd.h>

static int flock_errno, random_errno;         /* 0: as ever */
static int read_skip, read_errno, read_times; /* the next so many; read_errno -1: at its end */
static const char *read_of = "";              /* of files whose path has this */

int flock(int fd, int how) {
    if (flock_errno) {
        errno = flock_errno;
        return -1;
    }
    return (int)syscall(SYS_flock, fd, how);
}

ssize_t getrandom(void *p, size_t n, unsigned flags) {
    if (random_errno) {
        errno = random_errno;
        return -1;
    }
    return syscall(SYS_getrandom, p, n, flags);
}

ssize_t read(int fd, void *p, size_t n) {
    char link[40], path[400];
    if (read_times > 0) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t k = readlink(link, path, sizeof path - 1);
        path[k > 0 ? k : 0] = 0;
        if (strstr(path, read_of) && --read_skip < 0) {
            read_times--;
            if (read_errno < 0)
                return 0;
            errno = read_errno;
            return -1;
        }
    }
    return syscall(SYS_read, fd, p, n);
}

static const char *in(const char *dir, const char *name) {
    static char path[PATH_MAX];
    ds_fs_join(path, sizeof path, dir, name);
    return path;
}

/* A folder of its own, that may be opened afterwards: nothing of the failed call is in the way. */
static const char *fresh(const char *name) {
    static char dir[PATH_MAX];
    snprintf(dir, sizeof dir, "%s", fx_dir(name));
    MUST(ds_fs_mkdirs(dir, err));
    return dir;
}

static void opens(const char *dir) {
    ds_registry *r = NULL;
    MUST(ds_registry_open(dir, &r, err));
    ds_registry_close(r);
}

START_TEST(a_folder_that_cannot_be_locked) {
    const char *dir = fresh("lock");
    ds_registry *r = NULL;
    ck_assert_int_eq(mkdir(in(dir, "lock"), 0750), 0);
    FAILS(DS_EIO, "/lock': Is a directory", ds_registry_open(dir, &r, err));
    ck_assert_int_eq(rmdir(in(dir, "lock")), 0);
    flock_errno = ENOLCK;
    FAILS(DS_EIO, "cannot lock '", ds_registry_open(dir, &r, err));
    flock_errno = 0;
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit all, none;
    ds_error e;
    getrlimit(RLIMIT_FSIZE, &all); /* the hard one may be lower already */
    none = (struct rlimit){0, all.rlim_max};
    setrlimit(RLIMIT_FSIZE, &none);
    int rc = ds_registry_open(dir, &r, &e);
    setrlimit(RLIMIT_FSIZE, &all);
    ck_assert_int_eq(rc, DS_EIO);
    ck_assert(strstr(e.message, "/lock': File too large"));
    ck_assert(!ds_fs_exists(in(dir, "registry.db")) && !ds_fs_exists(in(dir, "blobs")));
    opens(dir);
}
END_TEST

/* A process with the lock that ends after ms; the file has the number of one that is gone. */
static pid_t hold_lock(const char *dir, int ms, int gone) {
    int ready[2];
    ck_assert_int_eq(pipe(ready), 0);
    pid_t child = fork(), dead = fork();
    if (!dead)
        _exit(0);
    if (child)
        waitpid(dead, NULL, 0);
    else {
        char text[32];
        int fd = open(in(dir, "lock"), O_RDWR | O_CREAT, 0640);
        waitpid(dead, NULL, 0);
        int n = snprintf(text, sizeof text, "%d\n", gone ? (int)dead : (int)getpid());
        _exit(flock(fd, LOCK_EX) || write(fd, text, (size_t)n) != n ||
              write(ready[1], "x", 1) != 1 || usleep((useconds_t)ms * 1000));
    }
    char byte;
    close(ready[1]);
    ck_assert_int_eq(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return child;
}

/* A child of a daemon that was killed may have its lock for a moment: that is waited for, and a
 * living owner is not. */
START_TEST(a_lock_that_is_about_to_go) {
    const char *dir = fresh("moment");
    ds_registry *r = NULL;
    struct timespec from, to;
    pid_t child = hold_lock(dir, 400, 1);
    opens(dir);
    waitpid(child, NULL, 0);
    child = hold_lock(dir, 5000, 0);
    clock_gettime(CLOCK_MONOTONIC, &from);
    char says[100];
    snprintf(says, sizeof says, "in use by process %d; stop that one", (int)child);
    FAILS(DS_ECONFLICT, says, ds_registry_open(dir, &r, err));
    clock_gettime(CLOCK_MONOTONIC, &to);
    ck_assert_int_lt(to.tv_sec - from.tv_sec, 2);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    opens(dir);
}
END_TEST

START_TEST(a_registry_that_cannot_be_opened) {
    const char *dir = fresh("open");
    ds_registry *r = NULL;
    ck_assert_int_eq(mkdir(in(dir, "registry.db"), 0750), 0);
    FAILS(DS_EIO, "cannot open the registry: '", ds_registry_open(dir, &r, err));
    ck_assert(rmdir(in(dir, "registry.db")) == 0 && !ds_fs_exists(in(dir, "blobs")));
    random_errno = EIO;
    FAILS(DS_EIO, "cannot get random bytes", ds_registry_open(dir, &r, err));
    random_errno = 0;
    MUST(ds_fs_write(in(dir, "blobs"), "x", 1, err));
    FAILS(DS_ENOTFOUND, "/blobs/sha256': Not a directory", ds_registry_open(dir, &r, err));
    ck_assert_int_eq(unlink(in(dir, "blobs")), 0);
    opens(dir); /* the lock was given back each time */
    /* a job that cannot be taken over from the daemon before */
    r = fx_open(dir);
    fx_add(r, "d", "/a");
    fx_claim(r, DS_JOB_SCAN);
    ck_assert(!fx_foreign(r, "CREATE TRIGGER no BEFORE UPDATE OF state ON jobs BEGIN SELECT"
                             " RAISE(ABORT, 'not now'); END"));
    ds_registry_close(r);
    FAILS(DS_ECONFLICT, "not now", ds_registry_open(dir, &r, err));
    /* a path that is too long for SQLite, by one byte; what is long enough for us is longer */
    char deep[PATH_MAX];
    snprintf(deep, sizeof deep, "%s", fx_dir("deep"));
    size_t n = strlen(deep);
    while (n < 493) {
        size_t part = 493 - n < 200 ? 493 - n : 200;
        deep[n] = '/';
        memset(deep + n + 1, 'x', part - 1);
        deep[n += part] = 0;
    }
    FAILS(DS_EINVAL, "...' has too long a path: 493 bytes, 492 fit",
          ds_registry_open(deep, &r, err));
    ck_assert(!ds_fs_exists(in(deep, "lock")));
    deep[n - 1] = 0;
    MUST(ds_registry_open(deep, &r, err));
    ds_registry_close(r);
    memset(deep, '/', sizeof deep);
    deep[PATH_MAX - 127] = 0;
    FAILS(DS_EINVAL, "...' has too long a path", ds_store_open(deep, &(ds_store *){NULL}, err));
}
END_TEST

/* A table of the program's own that somebody has taken away: each call says so. */
START_TEST(tables_that_are_gone) {
    ds_registry *r = fx_open(fresh("gone"));
    json_t *o = NULL;
    ck_assert_int_eq(fx_foreign(r, "DROP TABLE counters"), SQLITE_OK);
    FAILS(DS_EFAILED, "no such table: counters", ds_registry_counts(r, &o, err));
    ck_assert_ptr_null(o);
    ds_registry_close(r);
}
END_TEST

/* ---------------------------------------------------------------- upgrades */

static int64_t one(sqlite3 *db, const char *sql) {
    sqlite3_stmt *q = NULL;
    ck_assert_msg(sqlite3_prepare_v2(db, sql, -1, &q, NULL) == SQLITE_OK, "%s", sql);
    ck_assert_int_eq(sqlite3_step(q), SQLITE_ROW);
    int64_t n = sqlite3_column_int64(q, 0);
    sqlite3_finalize(q);
    return n;
}

/* An upgrade that cannot be recorded, or whose backup cannot be made, has not happened. */
START_TEST(upgrades_that_fail) {
    static const struct {
        const char *sql, *says;
        int code, backups;
    } cases[] = {
        {"CREATE TABLE more(x TEXT) STRICT; DROP TABLE migrations", "no such table: migrations",
         DS_EFAILED, 1},
        {"CREATE TABLE more(x TEXT) STRICT; CREATE TRIGGER no BEFORE INSERT ON migrations BEGIN"
         " SELECT RAISE(ABORT, 'not now'); END",
         "not now", DS_ECONFLICT, 1},
        {"CREATE TABLE more(x TEXT) STRICT", "cannot sync '", DS_EIO, 0},
        {"CREATE TABLE more(x TEXT) STRICT", "backups", DS_EINVAL, 0},
    };
    const char *dir = fresh("upgrade");
    char backups[PATH_MAX], path[PATH_MAX], says[100];
    ds_registry_close(fx_open(dir));
    snprintf(path, sizeof path, "%s", in(dir, "registry.db"));
    snprintf(backups, sizeof backups, "%s", in(dir, "other-backups"));
    int count = ds_migration_count, version = -7;
    struct ds_migration *list = ds_xcalloc((size_t)count + 1, sizeof *list);
    memcpy(list, ds_migrations, (size_t)count * sizeof *list);
    list[count] = (struct ds_migration){count + 1, "next", cases[_i].sql};
    if (_i == 3)
        MUST(ds_fs_write(backups, "", 0, err));
    sqlite3 *db;
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    durable_begin();
    durable_of = ".tmp";
    durable_fail = _i == 2 ? 2 : 0; /* the first is of SQLite itself */
    ds_error e;
    int rc = ds_migrate(db, path, backups, list, count + 1, &version, &e);
    durable_begin();
    ck_assert_msg(rc == cases[_i].code && strstr(e.message, cases[_i].says), "%d %s", rc,
                  e.message);
    if (_i < 2) {
        snprintf(says, sizeof says, "migration %d (next): ", count + 1);
        ck_assert_int_eq(strncmp(e.message, says, strlen(says)), 0);
    }
    ck_assert_int_eq(version, -7);
    ck_assert_int_eq(one(db, "PRAGMA user_version"), count);
    ck_assert_int_eq(one(db, "SELECT count(*) FROM migrations"), count);
    ck_assert_int_eq(one(db, "SELECT count(*) FROM sqlite_schema WHERE name IN ('more', 'no')"), 0);
    ck_assert(sqlite3_get_autocommit(db));
    sqlite3_close(db);
    int found = 0; /* a copy of before, whole, or none at all */
    char line[PATH_MAX + 40];
    snprintf(line, sizeof line, "ls %s 2>/dev/null", backups);
    FILE *ls = popen(line, "r");
    while (fgets(line, sizeof line, ls) && _i != 3) {
        ck_assert_ptr_null(strstr(line, ".tmp"));
        found++;
    }
    pclose(ls);
    ck_assert_int_eq(found, cases[_i].backups);
    free(list);
    opens(dir);
}
END_TEST

/* ---------------------------------------------------------------- statements and values */

START_TEST(statements_that_fail) {
    ds_registry *r = fx_open(fresh("query"));
    int64_t n;
    ck_assert_int_eq(sqlite3_exec(r->db, "PRAGMA query_only = 1", NULL, NULL, NULL), SQLITE_OK);
    FAILS(DS_EPERM, "is read-only; make it writable",
          db_run(r, err, "UPDATE meta SET value = value", ""));
    ck_assert_int_eq(sqlite3_exec(r->db, "PRAGMA query_only = 0", NULL, NULL, NULL), SQLITE_OK);
    int before = sqlite3_limit(r->db, SQLITE_LIMIT_LENGTH, 100);
    char text[202];
    memset(text, 'x', 201);
    text[201] = 0;
    FAILS(DS_EFAILED, "cannot use the registry",
          db_int(r, &n, err, "SELECT length(?1)", "s", text));
    text[100] = 0;
    MUST(db_int(r, &n, err, "SELECT length(?1)", "s", text)); /* the statement is as it was */
    ck_assert_int_eq(n, 100);
    sqlite3_limit(r->db, SQLITE_LIMIT_LENGTH, before);
    ck_assert_int_eq(db_int(r, &n, NULL, "SELECT NULL", ""), DS_ENOTFOUND);
    ck_assert_int_eq(db_int(r, &n, NULL, "SELECT 1 WHERE 0", ""), DS_ENOTFOUND);
    ds_registry_close(r);
}
END_TEST

/* What another program wrote, as it is told. */
START_TEST(values_of_columns) {
    ds_registry *r = fx_open(fresh("values"));
    ds_error e;
    char four[4] = "zzz", *text;
    json_t *o = json_object();
    sqlite3_stmt *q = db_query(r, &e,
                               "SELECT 'abc', 'abcd', CAST(x'61ff62' AS TEXT), '{\"a\":1}', '{bad',"
                               " 9e999, 2.5, 1000, NULL, 7",
                               "");
    ck_assert_int_eq(db_step(r, q, &e), 1);
    db_text(four, sizeof four, q, 0);
    ck_assert_str_eq(four, "abc");
    db_text(four, sizeof four, q, 1);
    ck_assert_str_eq(four, ""); /* half of it would be another one */
    js_text(o, "bytes", q, 2);
    js_text(o, "no text", q, 8);
    js_doc(o, "doc", q, 3);
    js_doc(o, "bad doc", q, 4);
    js_doc(o, "no doc", q, 8);
    js_num(o, "infinite", q, 5);
    js_num(o, "num", q, 6);
    js_num(o, "no num", q, 8);
    js_time(o, "time", q, 7);
    js_time(o, "no time", q, 8);
    js_int(o, "int", q, 9);
    js_int(o, "no int", q, 8);
    db_reset(q);
    text = json_dumps(o, JSON_COMPACT);
    ck_assert_str_eq(text, "{\"bytes\":\"a?b\",\"no text\":null,\"doc\":{\"a\":1},\"bad doc\":null,"
                           "\"no doc\":null,\"infinite\":null,\"num\":2.5,\"no num\":null,"
                           "\"time\":\"1970-01-01T00:00:01.000Z\",\"no time\":null,\"int\":7,"
                           "\"no int\":null}");
    free(text);
    json_decref(o);
    ds_registry_close(r);
}
END_TEST

/* ---------------------------------------------------------------- the store */

static int files_in(const char *dir) {
    char line[PATH_MAX + 40];
    int n = 0;
    snprintf(line, sizeof line, "find %s -type f | grep -c .", dir);
    FILE *f = popen(line, "r");
    ck_assert(fscanf(f, "%d", &n) == 1);
    pclose(f);
    return n;
}

START_TEST(files_that_cannot_be_stored) {
    const char *dir = fresh("put");
    ds_store *s = NULL;
    ds_blob b;
    char path[PATH_MAX], packed[4000];
    static char data[300000];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (char)(i * i * i >> 9 ^ i);
    MUST(ds_store_open(dir, &s, err));
    snprintf(path, sizeof path, "%s", in(dir, "input"));
    MUST(ds_fs_write(path, data, sizeof data, err));
    read_of = "/input";
    for (int zstd = 0; zstd < 2; zstd++) {
        enum ds_store_input how = zstd ? DS_STORE_ZSTD : DS_STORE_RAW;
        read_errno = EIO, read_times = 1;
        FAILS(DS_EIO, "cannot read '", ds_store_put_file(s, path, how, NULL, &b, err));
    }
    read_errno = -1, read_times = 1, read_skip = 1; /* shorter than it was */
    FAILS(DS_EIO, "cannot compress '", ds_store_put_file(s, path, DS_STORE_RAW, NULL, &b, err));
    read_times = 0;
    ck_assert_int_eq(files_in(dir), 1);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit all, some;
    ds_error e;
    getrlimit(RLIMIT_FSIZE, &all);
    some = (struct rlimit){20000, all.rlim_max};
    setrlimit(RLIMIT_FSIZE, &some);
    int rc = ds_store_put_bytes(s, data, sizeof data, &b, &e);
    setrlimit(RLIMIT_FSIZE, &all);
    ck_assert_msg(rc == DS_EIO && strstr(e.message, "cannot store 'bytes': File too large"),
                  "%d %s", rc, e.message);
    /* a frame that does not say how much is in it */
    ZSTD_CCtx *c = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(c, ZSTD_c_contentSizeFlag, 0);
    size_t n = ZSTD_compress2(c, packed, sizeof packed, "content", 7);
    MUST(ds_fs_write(path, packed, n, err));
    FAILS(DS_EINTEGRITY, "' does not state its content size",
          ds_store_put_file(s, path, DS_STORE_ZSTD, NULL, &b, err));
    ZSTD_CCtx_setParameter(c, ZSTD_c_contentSizeFlag, 1);
    n = ZSTD_compress2(c, packed, sizeof packed, "content", 7);
    ZSTD_freeCCtx(c);
    all.rlim_cur = all.rlim_max; /* a hole of 64 GiB */
    setrlimit(RLIMIT_FSIZE, &all);
    ck_assert_int_eq(truncate(path, DS_BLOB_MAX + 1), 0);
    FAILS(DS_ELIMIT, "68719476737 bytes, limit 68719476736",
          ds_store_put_file(s, path, DS_STORE_RAW, NULL, &b, err));
    FAILS(DS_ELIMIT, "cannot store 68719476737 bytes",
          ds_store_put_bytes(s, data, (size_t)DS_BLOB_MAX + 1, &b, err));
    ck_assert_int_eq(files_in(dir), 1);
    ck_assert_int_eq(rmdir(in(dir, "blobs/sha256")), 0); /* no place for its folder */
    FAILS(DS_ENOTFOUND, "cannot create '", ds_store_put_bytes(s, "content", 7, &b, err));
    ck_assert_int_eq(files_in(dir), 1);
    MUST(ds_fs_mkdirs(in(dir, "blobs/sha256"), err));
    MUST(ds_fs_write(path, packed, n, err));
    MUST(ds_store_put_file(s, path, DS_STORE_ZSTD, NULL, &b, err)); /* and then it goes well */
    ck_assert(b.raw_bytes == 7 && b.stored_bytes == (int64_t)n);
    ds_store_close(s);
}
END_TEST

/* A blob that cannot be moved aside or back is where it was. */
START_TEST(blobs_that_cannot_be_moved) {
    const char *dir = fresh("move");
    ds_store *s = NULL;
    ds_blob b;
    char path[PATH_MAX], aside[PATH_MAX], *slash;
    int taken = -1;
    MUST(ds_store_open(dir, &s, err));
    MUST(ds_store_put_bytes(s, "content", 7, &b, err));
    MUST(ds_store_path(s, b.sha256, path, err));
    snprintf(aside, sizeof aside, "%s/blobs/tmp/gone-%s", dir, b.sha256);
    ck_assert_int_eq(mkdir(aside, 0750), 0);
    FAILS(DS_EIO, "cannot remove '", ds_store_take_away(s, b.sha256, 0, &taken, err));
    ck_assert(taken == 0 && ds_fs_exists(path));
    MUST(ds_store_verify(s, b.sha256, NULL, err));
    ck_assert_int_eq(rmdir(aside), 0);
    MUST(ds_store_take_away(s, b.sha256, 0, &taken, err));
    ck_assert(taken == 1 && !ds_fs_exists(path));
    slash = strrchr(path, '/');
    *slash = 0;
    ck_assert_int_eq(rmdir(path), 0);
    MUST(ds_fs_write(path, "x", 1, err));
    FAILS(DS_ENOTFOUND, "cannot bring back '", ds_store_bring_back(s, b.sha256, err));
    ck_assert(ds_fs_exists(aside));
    ck_assert(unlink(path) == 0 && mkdir(path, 0750) == 0);
    MUST(ds_store_bring_back(s, b.sha256, err));
    MUST(ds_store_verify(s, b.sha256, NULL, err));
    ds_store_close(s);
}
END_TEST

static void said(void *ctx, const char *sha256, const char *why) {
    snprintf(ctx, 400, "%s %s", sha256, why);
}

START_TEST(blobs_and_rows) {
    ds_registry *r = fx_open(fresh("blobs"));
    ds_blob b;
    char told[400] = "", want[400], path[PATH_MAX], text[200];
    MUST(ds_store_put_bytes(ds_registry_store(r), "content", 7, &b, err));
    MUST(ds_blob_add(r, &b, "x", err));
    FAILS(DS_EINVAL, "'abc' is not a sha256 digest", ds_blob_lease(r, "abc", 1, 1, err));
    FAILS(DS_EINVAL, "'' is not a sha256 digest", ds_blob_lease(r, NULL, 1, 1, err));
    MUST(ds_store_path(ds_registry_store(r), b.sha256, path, err));
    MUST(ds_blobs_verify(r, said, told, err));
    ck_assert_str_eq(told, "");
    ck_assert_int_eq(unlink(path), 0);
    snprintf(text, sizeof text, "%s", b.sha256);
    FAILS(DS_EINTEGRITY, text, ds_blobs_verify(r, said, told, err));
    snprintf(want, sizeof want, "%s ", b.sha256);
    ck_assert_int_eq(strncmp(told, want, 65), 0);
    ck_assert(strstr(told + 65, b.sha256));
    ds_registry_close(r);
}
END_TEST

/* ---------------------------------------------------------------- rows */

START_TEST(references_and_numbers) {
    ds_registry *r = fx_open(fresh("refs"));
    char name[300];
    ds_adapter_ref a;
    json_t *o = NULL;
    memset(name, 'n', 299);
    name[299] = 0;
    FAILS(DS_EINVAL, "...' has too long a name", ds_adapter_resolve(r, name, &a, err));
    snprintf(name + DS_NAME_SIZE, 20, "@v1");
    FAILS(DS_EINVAL, "...' has too long a name", ds_adapter_resolve(r, name, &a, err));
    FAILS(DS_ENOTFOUND, "dataset 77 does not exist", ds_dataset_get_id(r, 77, &o, err));
    ck_assert_ptr_null(o);
    fx_add(r, "d", "/a"); /* not scanned yet: nothing was rejected */
    MUST(ds_dataset_rejected(r, "d", &o, err));
    ck_assert_uint_eq(json_array_size(json_object_get(o, "items")), 0);
    ck_assert(json_is_array(json_object_get(o, "items")) && fx_int(o, "count") == 0);
    ck_assert(json_is_integer(json_object_get(o, "count")));
    json_decref(o);
    ds_registry_close(r);
}
END_TEST

/* A job that waits for room and is to be cancelled is not postponed: it goes to its end. */
START_TEST(postponed_and_cancelled) {
    ds_registry *r = fx_open(fresh("postpone"));
    json_t *o = NULL;
    fx_add(r, "d", "/a");
    ds_job j = fx_claim(r, DS_JOB_SCAN);
    ds_job_failure f = {.message = "no room"};
    MUST(ds_job_postpone(r, j.id, 3600000, &f, err));
    MUST(ds_job_get(r, j.id, &o, err));
    ck_assert_str_eq(fx_string(o, "state"), "queued");
    ck_assert_str_eq(fx_string(json_object_get(o, "error"), "code"), "DS_EBUSY");
    ck_assert_int_eq(fx_int(o, "postponed"), 1);
    json_decref(o);
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    ck_assert_int_eq(fx_foreign(r, "UPDATE jobs SET run_after = 0"), SQLITE_OK);
    j = fx_claim(r, DS_JOB_SCAN);
    int running = 0;
    MUST(ds_job_cancel(r, j.id, &running, err));
    ck_assert_int_eq(running, 1);
    MUST(ds_job_postpone(r, j.id, 3600000, &f, err));
    MUST(ds_job_get(r, j.id, &o, err));
    ck_assert_str_eq(fx_string(o, "state"), "cancelled");
    json_decref(o);
    ds_registry_close(r);
}
END_TEST

/* The newest of what failed, at most so many, and how many there are; a set that is removed, or
 * that was trained since, is none of them. */
START_TEST(trainings_that_failed) {
    ds_registry *r = fx_open(fresh("failed"));
    json_t *list = NULL;
    int64_t count = -1, ids[4];
    ds_job_failure f = {.code = "DS_EINVAL", .message = "it broke"};
    for (int i = 0; i < 4; i++) {
        char name[16], path[16];
        snprintf(name, sizeof name, "d%d", i);
        snprintf(path, sizeof path, "/p%d", i);
        fx_add(r, name, path);
        fx_scan(r, name);
        ds_job j = fx_claim(r, DS_JOB_TRAIN);
        ids[i] = j.id;
        MUST(ds_job_fail(r, j.id, &f, NULL, err));
    }
    MUST(ds_dataset_remove(r, "d3", err));
    MUST(ds_jobs_failed_trainings(r, 2, &list, &count, err));
    ck_assert(count == 3 && json_array_size(list) == 2);
    for (int i = 0; i < 2; i++) {
        const json_t *o = json_array_get(list, (size_t)i), *e = json_object_get(o, "error");
        ck_assert_int_eq(fx_int(o, "job"), ids[2 - i]);
        ck_assert_str_eq(fx_string(o, "dataset"), i ? "d1" : "d2");
        ck_assert_str_eq(fx_string(e, "code"), "DS_EINVAL");
        ck_assert_str_eq(fx_string(e, "message"), "it broke");
    }
    json_decref(list);
    MUST(ds_dataset_rescan(r, "d2", NULL, err));
    fx_scan(r, "other");
    fx_train(r, 1, "other", NULL);
    MUST(ds_jobs_failed_trainings(r, 0, &list, &count, err));
    ck_assert(count == 2 && json_array_size(list) == 0);
    json_decref(list);
    ds_registry_close(r);
}
END_TEST

/* Triggers of another program may refuse or undo what was asked for: it is not said to be done. */
START_TEST(what_others_undo) {
    ds_registry *r = fx_open(fresh("undo"));
    json_t *o = NULL;
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    fx_train(r, 1, "one", NULL);
    ck_assert(!fx_foreign(r, "CREATE TRIGGER no AFTER INSERT ON aliases BEGIN DELETE FROM aliases"
                             " WHERE alias = new.alias; END"));
    FAILS(DS_EFAILED, "alias 'prod' of 'd' was not kept",
          ds_alias_set(r, "d", "prod", 1, -1, NULL, &o, err));
    ck_assert_ptr_null(o);
    ck_assert_int_eq(fx_count(r, "alias.set"), 1); /* that of its publication */
    ds_registry_close(r);
}
END_TEST

/* As many classes as a scan may find, and one more. */
START_TEST(too_many_classes) {
    ds_registry *r = fx_open(fresh("classes"));
    ds_blob b;
    int changed = 0;
    fx_add(r, "d", "/a");
    ds_job j = fx_claim(r, DS_JOB_SCAN);
    MUST(ds_store_put_bytes(ds_registry_store(r), "m", 1, &b, err));
    json_t *result = fx_json("{\"tree_digest\":\"%s\",\"images\":3,\"bytes\":30,\"classes\":[],"
                             "\"rejected\":[]}",
                             b.sha256),
           *classes = json_object_get(result, "classes");
    for (int i = 0; i < 10001; i++)
        json_array_append_new(classes, json_pack("{s:s, s:i}", "name", "c", "images", 1));
    FAILS(DS_ELIMIT, "scan result: 10001 classes, limit 10000",
          ds_scan_finish(r, j.id, result, &b, &changed, err));
    json_array_remove(classes, 0);
    MUST(ds_scan_finish(r, j.id, result, &b, &changed, err));
    ck_assert_int_eq(changed, 1);
    json_decref(result);
    ds_registry_close(r);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, trainings_that_failed);
    tcase_add_test(tc, what_others_undo);
    tcase_add_test(tc, too_many_classes);
    tcase_add_test(tc, a_folder_that_cannot_be_locked);
    tcase_add_test(tc, a_lock_that_is_about_to_go);
    tcase_add_test(tc, a_registry_that_cannot_be_opened);
    tcase_add_test(tc, tables_that_are_gone);
    tcase_add_loop_test(tc, upgrades_that_fail, 0, 4);
    tcase_add_test(tc, statements_that_fail);
    tcase_add_test(tc, values_of_columns);
    tcase_add_test(tc, files_that_cannot_be_stored);
    tcase_add_test(tc, blobs_that_cannot_be_moved);
    tcase_add_test(tc, blobs_and_rows);
    tcase_add_test(tc, references_and_numbers);
    tcase_add_test(tc, postponed_and_cancelled);
}

int main(void) {
    fx_fast_tmp();
    return ds_test_main("registry_errors", cases);
}
