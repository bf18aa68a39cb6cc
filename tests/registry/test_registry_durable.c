/* tests/registry/test_registry_durable.c - what is acknowledged is on the disk: each change of the registry
 * is one commit, whose write-ahead log was synced before the call returned; a blob is synced, then
 * named, then its folder is synced, all before a row can refer to it. */
#include "tests/fixtures/durable.h"

#include "base/json.h"
#include "base/zio.h"
#include "tests/fixtures/registry_changes.h"

static int commits;
static int on_commit(void *unused) {
    (void)unused;
    commits++;
    return 0;
}

START_TEST(each_change_is_one_synced_commit) {
    ds_registry *r = fx_open(fx_dir("commits"));
    sqlite3_commit_hook(r->db, on_commit, NULL);
    for (int i = 0; i < CHANGES; i++) {
        ds_error e;
        commits = 0;
        durable_begin();
        ck_assert_msg(changes[i].make(r, &e) == 0, "%s: %s", changes[i].name, e.message);
        ck_assert_msg(commits == 1, "%s: %d commits", changes[i].name, commits);
        if (strcmp(changes[i].name, "reconcile: nothing"))
            ck_assert_msg(durable_syncs_of("/registry.db-wal") >= 1, "%s: not synced",
                          changes[i].name);
    }
    ds_registry_close(r);
}
END_TEST

/* The disk does not take it: said, and nothing more is written.  After the next start the change is
 * there whole or not at all; it may be there, as the log was written before it could not be synced. */
START_TEST(what_cannot_be_synced_is_not_acknowledged) {
    char dir[PATH_MAX];
    ds_error e;
    json_t *o = NULL;
    snprintf(dir, sizeof dir, "%s", fx_dir("eio"));
    ds_registry *r = fx_open(dir);
    ds_dataset_new d = {.name = "d", .path = "/a", .watch = -1};
    int64_t id, seq;
    int created;
    durable_begin();
    durable_fail = 1;
    ck_assert_int_ne(ds_dataset_add(r, &d, &id, &created, &seq, &e), 0);
    durable_begin();
    d.name = "e";
    d.path = "/b";
    FAILS(DS_EIO, "the disk of registry", ds_dataset_add(r, &d, &id, &created, &seq, err));
    FAILS(DS_EIO, "the disk of registry", db_run(r, err, "DELETE FROM events", "")); /* alone */
    ds_registry_close(r);
    MUST(ds_registry_open(dir, &r, err));
    FAILS(DS_ENOTFOUND, "does not exist", ds_dataset_get(r, "e", &o, err));
    int rc = ds_dataset_get(r, "d", &o, &e);
    ck_assert(rc == 0 || rc == DS_ENOTFOUND);
    if (!rc)
        ck_assert_str_eq(ds_json_string(o, "path", ""), "/a");
    json_decref(o);
    MUST(ds_dataset_add(r, &d, &id, &created, &seq, err));
    ds_registry_close(r);
}
END_TEST

/* The same of every change: an error, and made again it is made. */
START_TEST(each_change_says_that_it_was_not_synced) {
    ds_registry *r = fx_open(fx_dir("said"));
    int failed = 0;
    for (int i = 0; i < CHANGES; i++) {
        ds_error e = {0};
        ck_assert_int_eq(sqlite3_exec(r->db, "PRAGMA wal_checkpoint(TRUNCATE)", NULL, NULL, NULL),
                         SQLITE_OK);
        durable_begin();
        durable_fail = 1;
        durable_of = "/registry.db-wal";
        int rc = changes[i].make(r, &e), hit = durable_fail == 0;
        durable_begin();
        ck_assert_msg((rc != 0) == hit, "%s: %d, the sync %s", changes[i].name, rc,
                      hit ? "failed" : "was not asked for");
        failed += hit;
        if (rc) {
            r->broken.code = 0; /* as after a new start */
            ck_assert_msg(changes[i].make(r, &e) == 0, "%s: %s", changes[i].name, e.message);
        }
    }
    ck_assert_int_ge(failed, CHANGES - 2);
    ds_registry_close(r);
}
END_TEST

/* _i: from memory, from a file, from a packed file. */
START_TEST(a_blob_is_whole_before_it_has_its_name) {
    ds_registry *r = fx_open(fx_dir("blob"));
    ds_store *s = ds_registry_store(r);
    char file[PATH_MAX], path[PATH_MAX], *shard;
    ds_blob b;
    ds_error e;
    ds_fs_join(file, sizeof file, ds_test_tmpdir(), "file.zst");
    MUST(_i == 2 ? ds_zio_write_file(file, "content", 7, 3, err)
                 : ds_fs_write(file, "content", 7, err));
    for (int fail = 0; fail < 3; fail++) {
        durable_begin();
        durable_fail = fail;
        int rc = _i == 0 ? ds_store_put_bytes(s, "content", 7, &b, &e)
                         : ds_store_put_file(s, file, _i == 2 ? DS_STORE_ZSTD : DS_STORE_RAW, NULL,
                                             &b, &e);
        ck_assert_int_eq(rc, fail ? DS_EIO : 0);
        if (fail)
            continue;
        MUST(ds_store_path(s, b.sha256, path, err));
        durable_expect_whole(path);
        /* its folder was new: so the folder above was synced too */
        shard = strrchr(path, '/');
        *shard = 0;
        *strrchr(path, '/') = 0;
        ck_assert_int_ge(durable_syncs_of(path), 1);
    }
    ds_registry_close(r);
}
END_TEST

/* A part that failed and whose caller went on: nothing of the whole is kept. */
START_TEST(a_failed_part_ends_the_whole) {
    ds_registry *r = fx_open(fx_dir("nested"));
    ds_error e;
    json_t *o = NULL;
    ck_assert_int_eq(db_begin(r, &e), 0);
    fx_add(r, "d", "/a"); /* a transaction in the transaction */
    ck_assert_int_eq(db_begin(r, &e), 0);
    ck_assert_int_eq(db_end(r, DS_EIO, &e), DS_EIO);
    ck_assert_int_ne(db_end(r, 0, &e), 0);
    ck_assert(sqlite3_get_autocommit(r->db));
    FAILS(DS_ENOTFOUND, "does not exist", ds_dataset_get(r, "d", &o, err));
    ck_assert_int_eq(db_begin(r, &e), 0); /* and the next one is its own */
    fx_add(r, "d", "/a");
    ck_assert_int_eq(db_end(r, 0, &e), 0);
    MUST(ds_dataset_get(r, "d", &o, err));
    json_decref(o);
    ds_registry_close(r);
}
END_TEST

/* The copy that is made before an upgrade. */
START_TEST(a_backup_is_whole) {
    char dir[PATH_MAX], path[PATH_MAX];
    snprintf(dir, sizeof dir, "%s", fx_dir("backup"));
    ds_registry *r = fx_open(dir);
    ds_fs_join(path, sizeof path, dir, "copy.db");
    durable_begin();
    MUST(ds_registry_backup(r, path, err));
    durable_expect_whole(path);
    ds_registry_close(r);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, each_change_is_one_synced_commit);
    tcase_add_test(tc, what_cannot_be_synced_is_not_acknowledged);
    tcase_add_test(tc, each_change_says_that_it_was_not_synced);
    tcase_add_loop_test(tc, a_blob_is_whole_before_it_has_its_name, 0, 3);
    tcase_add_test(tc, a_failed_part_ends_the_whole);
    tcase_add_test(tc, a_backup_is_whole);
}

int main(void) {
    fx_fast_tmp();
    return ds_test_main("registry_durable", cases);
}
