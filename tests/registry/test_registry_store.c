/* tests/registry/test_registry_store.c - blob files: whole or refused, named by content, swept only when
 * nothing needs them. */
#include "base/mem.h"
#include "base/rng.h"
#include "base/zio.h"
#include "registry/core/db.h"
#include "tests/fixtures/registry_fixture.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static char *noise(size_t n, uint64_t seed) {
    char *p = ds_xmalloc(n + 1);
    for (size_t i = 0; i < n; i++) /* half compressible */
        p[i] = (char)(ds_rng_u32(seed, 9, 0, 0, (uint32_t)i) & (i & 64 ? 0xff : 3));
    return p;
}

static void blob_path(ds_registry *r, const char *sha, char path[PATH_MAX]) {
    MUST(ds_store_path(ds_registry_store(r), sha, path, err));
}

/* Make file and row of a blob old, as if put long ago. */
static void age(ds_registry *r, const char *sha) {
    char path[PATH_MAX], sql[256];
    struct timespec t[2] = {{1, 0}, {1, 0}};
    blob_path(r, sha, path);
    ck_assert_int_eq(utimensat(AT_FDCWD, path, t, 0), 0);
    snprintf(sql, sizeof sql, "UPDATE blobs SET created_at = 1000 WHERE digest = '%s'", sha);
    ck_assert_int_eq(fx_foreign(r, sql), SQLITE_OK);
}

START_TEST(round_trip) {
    ds_registry *r = fx_open(fx_dir("round"));
    ds_store *s = ds_registry_store(r);
    static const size_t sizes[] = {0, 1, 1000, 131071, 131072, 131073, 1000003};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char *p = noise(sizes[i], i), *back = NULL, sha[DS_HEX_SIZE], path[PATH_MAX],
             file[PATH_MAX];
        size_t n = 0;
        ds_blob a, b, c, d;
        ds_digest(p, sizes[i], sha);
        MUST(ds_store_put_bytes(s, p, sizes[i], &a, err));
        ck_assert_str_eq(a.sha256, sha);
        ck_assert_int_eq(a.raw_bytes, (int64_t)sizes[i]);
        MUST(ds_store_read(s, sha, sizes[i], &back, &n, err));
        ck_assert(n == sizes[i] && !memcmp(back, p, n));
        free(back);
        if (sizes[i])
            FAILS(DS_ELIMIT, "limit", ds_store_read(s, sha, sizes[i] - 1, &back, &n, err));
        MUST(ds_store_verify(s, sha, &b, err));
        ck_assert(!strcmp(b.stored_sha256, a.stored_sha256) && b.stored_bytes == a.stored_bytes);
        blob_path(r, sha, path); /* the file is what any zstd reader opens */
        MUST(ds_zio_read_file(path, 1 << 24, &back, &n, err));
        ck_assert(n == sizes[i] && !memcmp(back, p, n));
        free(back);
        MUST(ds_fs_read(path, 1 << 24, &back, &n, err));
        ck_assert(n > 8 && back[4] & 4); /* the frame says that a checksum is at its end */
        free(back);
        ds_fs_join(file, sizeof file, ds_registry_dir(r), "plain");
        MUST(ds_fs_write(file, p, sizes[i], err));
        MUST(ds_store_put_file(s, file, DS_STORE_RAW, sha, &c, err));
        ck_assert_str_eq(c.stored_sha256, a.stored_sha256);
        MUST(ds_zio_write_file(file, p, sizes[i], 1, err));
        MUST(ds_store_put_file(s, file, DS_STORE_ZSTD, sha, &d, err));
        ck_assert_str_eq(d.sha256, sha);
        MUST(ds_digest_file(file, path, err));
        ck_assert_str_eq(d.stored_sha256, path);
        free(p);
    }
    ds_registry_close(r);
}
END_TEST

START_TEST(refusals) {
    ds_registry *r = fx_open(fx_dir("refusals"));
    ds_store *s = ds_registry_store(r);
    char path[PATH_MAX], file[PATH_MAX], *back;
    size_t n;
    ds_blob b;
    static const char *const bad[] = {
        "",
        "abc",
        "../../../../etc/passwd",
        "B0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0",
        "b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b00",
        "b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0/."};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        FAILS(DS_EINVAL, "not a sha256", ds_store_path(s, bad[i], path, err));
        FAILS(DS_EINVAL, "not a sha256", ds_store_read(s, bad[i], 10, &back, &n, err));
        FAILS(DS_EINVAL, "not a sha256", ds_store_verify(s, bad[i], NULL, err));
        FAILS(DS_EINVAL, "not a sha256", ds_blob_get(r, bad[i], &b, err));
    }
    FAILS(DS_ENOTFOUND, "cannot open blob", ds_store_verify(s, BASE_SHA, NULL, err));
    FAILS(DS_ENOTFOUND, "cannot open", ds_store_put_file(s, "/nope", DS_STORE_RAW, NULL, &b, err));
    FAILS(DS_EINVAL, "not a regular file",
          ds_store_put_file(s, "/dev/null", DS_STORE_RAW, NULL, &b, err));
    FAILS(DS_EINVAL, "not a regular file",
          ds_store_put_file(s, "/tmp", DS_STORE_RAW, NULL, &b, err));
    ds_fs_join(file, sizeof file, ds_registry_dir(r), "file");
    MUST(ds_fs_write(file, "hello", 5, err));
    FAILS(DS_EINTEGRITY, "expected " BASE_SHA,
          ds_store_put_file(s, file, DS_STORE_RAW, BASE_SHA, &b, err));
    FAILS(DS_EINTEGRITY, "not a zstd frame",
          ds_store_put_file(s, file, DS_STORE_ZSTD, NULL, &b, err));
    char *z, two[512];
    size_t zn;
    MUST(ds_zio_compress("hello", 5, 3, &z, &zn, err));
    memcpy(two, z, zn), memcpy(two + zn, z, zn);
    free(z);
    MUST(ds_fs_write(file, two, zn - 1, err));
    FAILS(DS_EINTEGRITY, "truncated", ds_store_put_file(s, file, DS_STORE_ZSTD, NULL, &b, err));
    MUST(ds_fs_write(file, two, 2 * zn, err));
    FAILS(DS_EINTEGRITY, "after its zstd frame",
          ds_store_put_file(s, file, DS_STORE_ZSTD, NULL, &b, err));
    two[zn / 2] ^= 0x55;
    MUST(ds_fs_write(file, two, zn, err));
    FAILS(DS_EINTEGRITY, "is damaged", ds_store_put_file(s, file, DS_STORE_ZSTD, NULL, &b, err));
    MUST(ds_fs_write(file, "", 0, err));
    FAILS(DS_EINTEGRITY, "truncated", ds_store_put_file(s, file, DS_STORE_ZSTD, NULL, &b, err));
    FAILS(DS_EINVAL, "not a sha256", ds_store_put_file(s, file, DS_STORE_RAW, "x", &b, err));
    MUST(ds_fs_remove(file, err));
    ck_assert_int_eq(symlink("/etc/passwd", file), 0); /* not followed */
    FAILS(DS_EIO, "cannot open", ds_store_put_file(s, file, DS_STORE_RAW, NULL, &b, err));
    MUST(ds_fs_remove(file, err));
    /* "unpacks to 2^62 bytes": refused by its header */
    static const unsigned char bomb[] = {0x28, 0xb5, 0x2f, 0xfd, 0xe4, 0, 0, 0,
                                         0,    0,    0,    0,    0x40, 1, 0, 0};
    MUST(ds_fs_write(file, bomb, sizeof bomb, err));
    FAILS(DS_ELIMIT, "would unpack", ds_store_put_file(s, file, DS_STORE_ZSTD, NULL, &b, err));
    ck_assert_int_eq(setenv("DS_TEST_ENOSPC", "1", 1), 0);
    FAILS(DS_ENOSPC, "cannot store", ds_store_put_bytes(s, "x", 1, &b, err));
    unsetenv("DS_TEST_ENOSPC");
    MUST(ds_store_put_bytes(s, "x", 1, &b, err)); /* and goes on when there is space */
    ds_blob ghost = b;
    memcpy(ghost.sha256, BASE_SHA, sizeof ghost.sha256);
    FAILS(DS_EINTEGRITY, "no file", ds_blob_add(r, &ghost, "x", err));
    char tmp[PATH_MAX]; /* nothing is left in tmp/ */
    ds_fs_join(tmp, sizeof tmp, ds_registry_dir(r), "blobs/tmp");
    ck_assert_int_eq(rmdir(tmp), 0);
    ds_registry_close(r);
}
END_TEST

START_TEST(every_flipped_bit_is_refused) {
    ds_registry *r = fx_open(fx_dir("flips"));
    char path[PATH_MAX], *stored, *p = noise(20000, 5), *back;
    size_t n, got;
    ds_blob b;
    MUST(ds_store_put_bytes(ds_registry_store(r), p, 20000, &b, err));
    MUST(ds_blob_add(r, &b, "application/octet-stream", err));
    MUST(ds_blob_check(r, b.sha256, err));
    blob_path(r, b.sha256, path);
    MUST(ds_fs_read(path, 1 << 20, &stored, &n, err));
    int refused = 0, harmless = 0;
    for (uint32_t i = 0; i < 1000; i++) {
        /* the frame's header bit for bit, then anywhere */
        size_t bit = i < 96 ? i : ds_rng_below((uint32_t)(8 * n), 1, 2, i, 0, 0);
        int fd = open(path, O_WRONLY);
        char c = (char)(stored[bit / 8] ^ (1 << bit % 8));
        ck_assert(pwrite(fd, &c, 1, (off_t)(bit / 8)) == 1);
        refused += ds_blob_check(r, b.sha256, NULL) == DS_EINTEGRITY;
        if (!ds_store_read(ds_registry_store(r), b.sha256, 1 << 20, &back, &got, NULL)) {
            ck_assert(got == 20000 && !memcmp(back, p, got)); /* never other content */
            free(back);
            harmless++;
        }
        ck_assert(pwrite(fd, &stored[bit / 8], 1, (off_t)(bit / 8)) == 1);
        close(fd);
    }
    printf("registry_store: %d of 1000 flipped bits refused; %d left the content as it was\n",
           refused, harmless);
    ck_assert_int_eq(refused, 1000);
    MUST(ds_blob_check(r, b.sha256, err));
    ck_assert_int_eq(truncate(path, (off_t)n - 1), 0);
    FAILS(DS_EINTEGRITY, "", ds_blob_check(r, b.sha256, err));
    FAILS(DS_EINTEGRITY, "1 blobs are damaged", ds_blobs_verify(r, NULL, NULL, err));
    MUST(ds_store_put_bytes(ds_registry_store(r), p, 20000, &b, err)); /* putting it again heals */
    MUST(ds_blobs_verify(r, NULL, NULL, err));
    ck_assert_int_eq(unlink(path), 0);
    FAILS(DS_EINTEGRITY, "missing", ds_blob_check(r, b.sha256, err));
    free(stored);
    free(p);
    ds_registry_close(r);
}
END_TEST

static int present(ds_registry *r, const char *sha) {
    char path[PATH_MAX];
    blob_path(r, sha, path);
    return ds_fs_exists(path);
}

START_TEST(sweep_takes_only_what_nothing_needs) {
    ds_registry *r = fx_open(fx_dir("sweep"));
    ds_store *s = ds_registry_store(r);
    ds_blob lone, leased, fileonly, young;
    ds_sweep w, dry;
    ds_adapter_ref a;
    char manifest[DS_HEX_SIZE];
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    fx_train(r, 0, "one", NULL); /* rejected ones are needed too */
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    fx_scan(r, "two");
    fx_train(r, 1, "two", NULL);
    MUST(ds_store_put_bytes(s, "lone", 4, &lone, err));
    MUST(ds_blob_add(r, &lone, "x", err));
    MUST(ds_store_put_bytes(s, "leased", 6, &leased, err));
    MUST(ds_blob_add(r, &leased, "x", err));
    MUST(ds_blob_lease(r, leased.sha256, 0, INT64_MAX, err));
    MUST(ds_store_put_bytes(s, "fileonly", 8, &fileonly, err));
    MUST(ds_store_put_bytes(s, "young", 5, &young, err));
    MUST(ds_blobs_sweep(r, DS_SWEEP_GRACE_MS, 0, &w, err)); /* everything is young */
    ck_assert_int_eq(w.removed, 0);
    MUST(ds_dataset_manifest(r, "d", 1, manifest, err));
    age(r, manifest);
    MUST(ds_adapter_resolve(r, "d@v1", &a, err));
    age(r, a.blob.sha256);
    age(r, lone.sha256);
    age(r, leased.sha256);
    age(r, fileonly.sha256);
    MUST(ds_blobs_sweep(r, DS_SWEEP_GRACE_MS, 1, &dry, err));
    ck_assert(present(r, lone.sha256) && present(r, fileonly.sha256));
    MUST(ds_blobs_sweep(r, DS_SWEEP_GRACE_MS, 0, &w, err));
    ck_assert_int_eq(w.removed, 2);
    ck_assert(dry.removed == w.removed && dry.removed_bytes == w.removed_bytes);
    ck_assert(!present(r, lone.sha256) && !present(r, fileonly.sha256));
    ck_assert(present(r, leased.sha256) && present(r, young.sha256) && present(r, manifest));
    MUST(ds_blobs_verify(r, NULL, NULL, err));
    MUST(ds_adapter_delete(r, "d@v1", 0, err));
    MUST(ds_blobs_sweep(r, DS_SWEEP_GRACE_MS, 0, &w, err)); /* deleted just now: not yet */
    ck_assert(present(r, a.blob.sha256));
    ck_assert_int_eq(
        fx_foreign(r, "UPDATE adapter_versions SET deleted_at = 1000 WHERE version = 1"),
        SQLITE_OK);
    MUST(ds_blobs_sweep(r, DS_SWEEP_GRACE_MS, 0, &w, err));
    ck_assert(!present(r, a.blob.sha256));
    MUST(ds_registry_check(r, err));
    FAILS(DS_ENOTFOUND, "does not exist", ds_adapter_resolve(r, "d@v1", &a, err));
    MUST(ds_adapter_resolve(r, "d", &a, err));
    MUST(ds_blob_check(r, a.blob.sha256, err));
    MUST(ds_blob_lease(r, leased.sha256, 0, 1, err)); /* run out */
    MUST(ds_blobs_sweep(r, DS_SWEEP_GRACE_MS, 0, &w, err));
    ck_assert(!present(r, leased.sha256));
    ds_registry_close(r);
}
END_TEST

/* A sweep with something done between two of its steps. */
typedef struct {
    ds_registry *r;
    ds_blob blob;
    ds_job job;
} between;
static sqlite3 *locker;
static void lock_registry(between *b) {
    char path[PATH_MAX];
    ds_fs_join(path, sizeof path, ds_registry_dir(b->r), "registry.db");
    ck_assert_int_eq(sqlite3_open(path, &locker), SQLITE_OK);
    ck_assert_int_eq(sqlite3_exec(locker, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_busy_timeout(b->r->db, 10);
}

static void sweep_with(between *b, void (*before_look)(between *), void (*before_take)(between *),
                       void (*before_files)(between *), ds_sweep *out) {
    ds_blob_sweep *s = NULL;
    MUST(ds_blobs_sweep_begin(b->r, 0, 0, &s, err));
    if (before_look)
        before_look(b);
    ds_blobs_sweep_look(s);
    if (before_take)
        before_take(b);
    for (ds_error e; ds_blobs_sweep_take(s, &e) > 0; before_files = NULL) {
        if (before_files)
            before_files(b);
        ds_blobs_sweep_files(s);
    }
    ds_error e;
    int rc = ds_blobs_sweep_end(s, out, &e);
    ck_assert(rc == 0 || (rc == DS_EBUSY && before_take == lock_registry));
}

static void put_it(between *b) {
    MUST(ds_store_put_bytes(ds_registry_store(b->r), "adapter of now", 14, &b->blob, err));
}
static void put_and_publish(between *b) {
    put_it(b);
    MUST(fx_publish(b->r, &b->job, 1, "of now", NULL, err));
}

/* Wherever in a sweep a publication falls, and whatever the clock says (a grace of 0 stands for a
 * step forward), its file is there afterwards. */
START_TEST(a_publication_in_the_middle_of_a_sweep) {
    for (int where = 0; where < 4; where++) {
        char name[32], text[] = "adapter of now", sha[DS_HEX_SIZE];
        ds_sweep w;
        ds_adapter_ref a;
        snprintf(name, sizeof name, "between%d", where);
        between b = {.r = fx_open(fx_dir(name))};
        fx_add(b.r, "d", "/a");
        fx_scan(b.r, "one");
        b.job = fx_claim(b.r, DS_JOB_TRAIN);
        ds_digest(text, strlen(text), sha);
        if (where == 3) { /* put long ago by a try that failed: a file without a row, not held */
            put_it(&b);
            sweep_with(&b, NULL, put_and_publish, NULL, &w);
        } else
            sweep_with(&b, where == 0 ? put_and_publish : NULL, where == 1 ? put_and_publish : NULL,
                       where == 2 ? put_and_publish : NULL, &w);
        if (!present(b.r, sha)) /* the last case: nothing was there to be taken */
            put_and_publish(&b);
        MUST(ds_adapter_resolve(b.r, "d", &a, err));
        ck_assert_str_eq(a.blob.sha256, sha);
        MUST(ds_blob_check(b.r, sha, err));
        MUST(ds_registry_check(b.r, err));
        ds_registry_close(b.r);
    }
}
END_TEST

/* Put, but its row waits (another program has the lock): only the hold knows of it. */
START_TEST(a_held_blob_stays) {
    between b = {.r = fx_open(fx_dir("held"))};
    ds_store *s = ds_registry_store(b.r);
    char sha[DS_HEX_SIZE];
    ds_sweep w;
    fx_add(b.r, "d", "/a");
    fx_scan(b.r, "one");
    b.job = fx_claim(b.r, DS_JOB_TRAIN);
    ds_digest("adapter of now", 14, sha);
    ds_store_hold(s, sha);
    ds_store_hold(s, sha); /* two jobs can put the same */
    put_it(&b);
    age(b.r, sha);
    MUST(ds_blobs_sweep(b.r, 0, 0, &w, err));
    ck_assert(present(b.r, sha) && w.removed == 0);
    ds_store_drop(s, sha);
    MUST(ds_blobs_sweep(b.r, 0, 1, &w, err));
    ck_assert_int_eq(w.removed, 0);
    MUST(ds_blobs_sweep(b.r, 0, 0, &w, err));
    ck_assert(present(b.r, sha));
    MUST(fx_publish(b.r, &b.job, 1, "of now", NULL, err));
    ds_store_drop(s, sha);
    age(b.r, sha);
    MUST(ds_blobs_sweep(b.r, 0, 0, &w, err));
    ck_assert(present(b.r, sha));
    MUST(ds_store_put_bytes(s, "nobody's", 8, &b.blob, err));
    ds_store_hold(s, b.blob.sha256);
    ds_store_drop(s, b.blob.sha256);
    MUST(ds_blobs_sweep(b.r, 0, 0, &w, err));
    ck_assert(w.removed == 1 && !present(b.r, b.blob.sha256));
    ds_registry_close(b.r);
}
END_TEST

/* The write lock is somebody else's in the middle of a sweep: nothing is gone. */
START_TEST(a_sweep_that_cannot_write_takes_nothing) {
    between b = {.r = fx_open(fx_dir("locked"))};
    ds_sweep w;
    put_it(&b);
    age(b.r, b.blob.sha256);
    sweep_with(&b, NULL, lock_registry, NULL, &w);
    ck_assert(w.removed == 0 && present(b.r, b.blob.sha256));
    sqlite3_close(locker);
    MUST(ds_blobs_sweep(b.r, 0, 0, &w, err));
    ck_assert(w.removed == 1 && !present(b.r, b.blob.sha256));
    ds_registry_close(b.r);
}
END_TEST

/* Its file is aside already when the row cannot go: it comes back. */
START_TEST(a_sweep_that_fails_half_way_brings_back) {
    between b = {.r = fx_open(fx_dir("half"))};
    ds_sweep w;
    put_it(&b);
    MUST(ds_blob_add(b.r, &b.blob, "x", err));
    age(b.r, b.blob.sha256);
    ck_assert_int_eq(fx_foreign(b.r, "CREATE TRIGGER no BEFORE DELETE ON blobs BEGIN"
                                     " SELECT RAISE(ABORT, 'not now'); END"),
                     SQLITE_OK);
    FAILS(DS_ECONFLICT, "not now", ds_blobs_sweep(b.r, 0, 0, &w, err));
    ck_assert(w.removed == 0 && present(b.r, b.blob.sha256));
    ck_assert_int_eq(fx_foreign(b.r, "DROP TRIGGER no"), SQLITE_OK);
    MUST(ds_blobs_sweep(b.r, 0, 0, &w, err));
    ck_assert(w.removed == 1 && !present(b.r, b.blob.sha256));
    ds_registry_close(b.r);
}
END_TEST

/* An old task that a person deletes while a job that reads it runs. */
START_TEST(what_a_running_job_reads_stays) {
    ds_registry *r = fx_open(fx_dir("inputs"));
    ds_adapter_ref a;
    ds_sweep w;
    char path[PATH_MAX];
    int64_t id = 0;
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    fx_train(r, 0, "one", NULL);
    MUST(ds_adapter_resolve(r, "d@v1", &a, err));
    MUST(ds_job_add(r, DS_JOB_SAMPLE, "d", NULL, 1, &id, err));
    MUST(ds_job_claim(r, id, err));
    blob_path(r, a.blob.sha256, path);
    json_t *spec = fx_json("{\"old_tasks\":[{\"adapter\":{\"path\":\"%s\",\"sha256\":\"%s\"}}],"
                           "\"base\":{\"path\":\"/x\",\"sha256\":\"" BASE_SHA "\"}}",
                           path, a.blob.sha256);
    MUST(ds_blob_lease_spec(r, id, spec, err));
    MUST(ds_adapter_delete(r, "d@v1", 0, err));
    age(r, a.blob.sha256);
    ck_assert_int_eq(fx_foreign(r, "UPDATE adapter_versions SET deleted_at = 1000"), SQLITE_OK);
    MUST(ds_blobs_sweep(r, 0, 0, &w, err));
    ck_assert(present(r, a.blob.sha256));
    MUST(ds_job_requeue(r, id, "stop", err)); /* it still has to be run */
    MUST(ds_blobs_sweep(r, 0, 0, &w, err));
    ck_assert(present(r, a.blob.sha256));
    MUST(ds_job_claim(r, id, err));
    MUST(ds_job_cancelled(r, id, -1, -1, err));
    MUST(ds_blobs_sweep(r, 0, 0, &w, err));
    ck_assert(!present(r, a.blob.sha256));
    json_decref(spec);
    ds_registry_close(r);
}
END_TEST

/* Random adds, deletions and sweeps: what is referenced is there, always; what is not goes. */
START_TEST(many_sweeps) {
    ds_registry *r = fx_open(fx_dir("many"));
    char sha[64][DS_HEX_SIZE] = {{0}};
    int64_t until[64] = {0};
    ds_sweep w;
    int64_t removed = 0;
    for (uint32_t i = 0; i < 600; i++) {
        uint32_t k = ds_rng_below(64, 3, 1, i, 0, 0), what = ds_rng_below(8, 3, 2, i, 0, 0);
        char text[32];
        ds_blob b;
        if (what < 5) {
            snprintf(text, sizeof text, "blob %u %u", k, i / 100);
            until[k] = ds_rng_below(2, 3, 3, i, 0, 0) ? INT64_MAX : 1;
            MUST(ds_store_put_bytes(ds_registry_store(r), text, strlen(text), &b, err));
            MUST(ds_blob_lease(r, b.sha256, 0, until[k], err));
            MUST(ds_blob_add(r, &b, "x", err));
            memcpy(sha[k], b.sha256, DS_HEX_SIZE);
        } else if (what < 7 && sha[k][0]) {
            until[k] = 1;
            MUST(ds_blob_lease(r, sha[k], 0, 1, err));
        } else {
            MUST(ds_blobs_sweep(r, 0, 0, &w, err));
            removed += w.removed;
            for (int n = 0; n < 64; n++)
                if (sha[n][0] && until[n] == INT64_MAX)
                    MUST(ds_blob_check(r, sha[n], err));
            MUST(ds_blobs_verify(r, NULL, NULL, err));
        }
    }
    ck_assert_int_gt(removed, 50);
    ds_registry_close(r);
}
END_TEST

/* The same content packed in another way is another file than the row's. */
START_TEST(packed_anew_is_damage) {
    ds_registry *r = fx_open(fx_dir("anew"));
    char path[PATH_MAX], *p = noise(5000, 3);
    ds_blob b;
    MUST(ds_store_put_bytes(ds_registry_store(r), p, 5000, &b, err));
    MUST(ds_blob_add(r, &b, "x", err));
    blob_path(r, b.sha256, path);
    MUST(ds_zio_write_file(path, p, 5000, 19, err));
    MUST(ds_store_verify(ds_registry_store(r), b.sha256, NULL, err));
    FAILS(DS_EINTEGRITY, "its file has sha256", ds_blob_check(r, b.sha256, err));
    FAILS(DS_ENOTFOUND, "does not exist", ds_blob_check(r, NET_SHA, err));
    char *back;
    size_t n;
    p[7] ^= 1; /* a good file of another content: the store's own digest is of the content */
    MUST(ds_zio_write_file(path, p, 5000, 3, err));
    FAILS(DS_EINTEGRITY, "its content has sha256",
          ds_store_verify(ds_registry_store(r), b.sha256, NULL, err));
    FAILS(DS_EINTEGRITY, "its content has sha256",
          ds_store_read(ds_registry_store(r), b.sha256, 5000, &back, &n, err));
    FAILS(DS_EINTEGRITY, "its content has sha256", ds_blob_check(r, b.sha256, err));
    free(p);
    ds_registry_close(r);
}
END_TEST

/* What a process that was killed left in tmp/ goes with the next start, hidden files do not. */
START_TEST(left_overs_go_at_the_start) {
    char dir[PATH_MAX], path[PATH_MAX], hidden[PATH_MAX];
    snprintf(dir, sizeof dir, "%s", fx_dir("leftovers"));
    ds_registry_close(fx_open(dir));
    ds_fs_join(path, sizeof path, dir, "blobs/tmp/put-abcdef");
    ds_fs_join(hidden, sizeof hidden, dir, "blobs/tmp/.keep");
    MUST(ds_fs_write(path, "half", 4, err));
    MUST(ds_fs_write(hidden, "x", 1, err));
    ds_registry *r = fx_open(dir);
    ck_assert(!ds_fs_exists(path) && ds_fs_exists(hidden));
    ds_registry_close(r);
}
END_TEST

/* Folders of the store that are not what they should be. */
START_TEST(folders_in_the_way) {
    ds_registry *r = fx_open(fx_dir("inway"));
    ds_store *s = ds_registry_store(r);
    char sha[DS_HEX_SIZE], path[PATH_MAX], tmp[PATH_MAX], *shard;
    int yes = -1, taken = -1;
    ds_blob b;
    ds_digest("content", 7, sha);
    blob_path(r, sha, path);
    shard = strrchr(path, '/');
    *shard = 0;
    MUST(ds_fs_write(path, "a file", 6, err)); /* where its folder should be */
    ds_fs_join(tmp, sizeof tmp, ds_registry_dir(r), "blobs/tmp");
    FAILS(DS_ENOTFOUND, "cannot rename", ds_store_put_bytes(s, "content", 7, &b, err));
    ck_assert_int_eq(rmdir(tmp), 0); /* nothing is left there */
    FAILS(DS_ENOTFOUND, "cannot create", ds_store_put_bytes(s, "content", 7, &b, err));
    FAILS(DS_ENOTFOUND, "cannot stat", ds_store_may_go(s, sha, 0, &yes, err));
    FAILS(DS_ENOTFOUND, "cannot stat", ds_store_take_away(s, sha, 0, &taken, err));
    ck_assert(yes == 0 && taken == 0);
    ck_assert(mkdir(tmp, 0750) == 0 && unlink(path) == 0);
    *shard = '/';
    MUST(ds_store_may_go(s, sha, 0, &yes, err)); /* it is not there: nothing keeps it */
    ck_assert_int_eq(yes, 1);
    MUST(ds_store_put_bytes(s, "content", 7, &b, err));
    MUST(ds_store_may_go(s, sha, 3600000, &yes, err));
    ck_assert_int_eq(yes, 0); /* young */
    MUST(ds_store_take_away(s, sha, 0, &taken, err));
    ck_assert(taken == 1 && !present(r, sha));
    MUST(ds_store_bring_back(s, sha, err));
    ck_assert(present(r, sha));
    MUST(ds_store_take_away(s, sha, 0, &taken, err));
    MUST(ds_store_put_bytes(s, "content", 7, &b, err)); /* the younger one stays */
    MUST(ds_store_bring_back(s, sha, err));
    ck_assert(present(r, sha) && rmdir(tmp) == 0);
    ck_assert_int_eq(mkdir(tmp, 0750), 0);
    MUST(ds_store_discard(s, sha, err)); /* there is none: as it should be */
    ds_registry_close(r);
}
END_TEST

static void folder_for_the_file(between *b) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/blobs/tmp/gone-%s", ds_registry_dir(b->r), b->blob.sha256);
    ck_assert(unlink(path) == 0 && mkdir(path, 0755) == 0);
}

/* What was taken aside and cannot be removed is said at the end. */
START_TEST(a_file_that_cannot_be_removed) {
    between b = {.r = fx_open(fx_dir("stuck"))};
    ds_blob_sweep *s = NULL;
    ds_sweep w;
    put_it(&b);
    MUST(ds_blob_add(b.r, &b.blob, "x", err));
    age(b.r, b.blob.sha256);
    MUST(ds_blobs_sweep_begin(b.r, 0, 0, &s, err));
    ds_blobs_sweep_look(s);
    ds_error e;
    ck_assert_int_gt(ds_blobs_sweep_take(s, &e), 0);
    folder_for_the_file(&b);
    ds_blobs_sweep_files(s);
    ck_assert_int_eq(ds_blobs_sweep_take(s, &e), 0);
    FAILS(DS_EIO, "cannot remove", ds_blobs_sweep_end(s, &w, err));
    ck_assert(w.removed == 1 && !present(b.r, b.blob.sha256));
    ds_registry_close(b.r);
}
END_TEST

static int seen_files;
static int count_file(void *ctx, const char *sha256, int64_t age_ms, int64_t bytes) {
    (void)sha256;
    ck_assert(bytes > 0 && age_ms >= 0);
    seen_files++;
    return *(int *)ctx;
}

/* Only what has the name of a digest is one; what the caller says ends the walk is passed on. */
START_TEST(strange_files_are_no_blobs) {
    ds_registry *r = fx_open(fx_dir("strange"));
    ds_store *s = ds_registry_store(r);
    char path[PATH_MAX];
    ds_blob b;
    ds_error e;
    int answer = 0;
    MUST(ds_store_put_bytes(s, "one", 3, &b, err));
    MUST(ds_store_put_bytes(s, "two", 3, &b, err));
    blob_path(r, b.sha256, path);
    char *end = path + strlen(path);
    static const char *const ends[] = {".old", "x.zst", "", ".zst.tmp"};
    for (int i = 0; i < 4; i++) {
        snprintf(end - 4, 16, "%s", ends[i]);
        MUST(ds_fs_write(path, "x", 1, err));
    }
    MUST(ds_store_each(s, count_file, &answer, err));
    ck_assert_int_eq(seen_files, 2);
    seen_files = 0;
    answer = DS_ECANCELED;
    ck_assert_int_eq(ds_store_each(s, count_file, &answer, &e), DS_ECANCELED);
    ck_assert_int_eq(seen_files, 1);
    ds_registry_close(r);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, round_trip);
    tcase_add_test(tc, refusals);
    tcase_add_test(tc, every_flipped_bit_is_refused);
    tcase_add_test(tc, sweep_takes_only_what_nothing_needs);
    tcase_add_test(tc, many_sweeps);
    tcase_add_test(tc, a_publication_in_the_middle_of_a_sweep);
    tcase_add_test(tc, a_held_blob_stays);
    tcase_add_test(tc, a_sweep_that_cannot_write_takes_nothing);
    tcase_add_test(tc, a_sweep_that_fails_half_way_brings_back);
    tcase_add_test(tc, what_a_running_job_reads_stays);
    tcase_add_test(tc, packed_anew_is_damage);
    tcase_add_test(tc, left_overs_go_at_the_start);
    tcase_add_test(tc, folders_in_the_way);
    tcase_add_test(tc, a_file_that_cannot_be_removed);
    tcase_add_test(tc, strange_files_are_no_blobs);
}

int main(void) {
    fx_fast_tmp();
    return ds_test_main("registry_store", cases);
}
