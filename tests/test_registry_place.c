/* tests/test_registry_place.c - a registry that was taken away, or whose disk fails, acknowledges
 * nothing. */
#include "registry/place.h"
#include "tests/registry_fixture.h"

/* SQLite's own file layer with one call that fails: SQLite asks the default one when the registry
 * opens. */
static sqlite3_vfs layer;
static sqlite3_vfs *real;
static int fail_sync, fail_write; /* the result code, 0 = work */
struct file {
    sqlite3_file base;
    sqlite3_io_methods methods;
    const sqlite3_io_methods *real;
};
static struct file *files[32];
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
    return fail_write ? fail_write : real_of(f)->xWrite(f, p, n, at);
}
static int x_open(sqlite3_vfs *v, const char *name, sqlite3_file *f, int flags, int *out) {
    (void)v;
    int rc = real->xOpen(real, name, f, flags, out);
    if (rc != SQLITE_OK || !f->pMethods || file_count == 32)
        return rc;
    struct file *mine = files[file_count++] = calloc(1, sizeof *mine); /* as long as the test */
    mine->real = f->pMethods;
    mine->methods = *f->pMethods;
    mine->methods.xSync = x_sync;
    mine->methods.xWrite = x_write;
    f->pMethods = &mine->methods;
    return rc;
}

static void setup(void) {
    real = sqlite3_vfs_find(NULL);
    layer = *real;
    layer.zName = "failing";
    layer.xOpen = x_open;
    fail_sync = fail_write = 0;
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

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, a_failed_sync);
    tcase_add_test(tc, a_failed_write);
    tcase_add_test(tc, a_full_disk_is_no_broken_one);
    tcase_add_loop_test(tc, another_file_of_the_name, 0, 8);
}

int main(void) {
    fx_fast_tmp();
    return ds_test_main("registry_place", cases);
}
