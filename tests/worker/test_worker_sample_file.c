/* tests/worker/test_worker_sample_file.c - samples.safetensors as it is written portion by portion: whole
 * at its end, absent before, and nothing left behind by what fails. */
#include "tests/fixtures/durable.h"

#include "base/fs.h"
#include "engine/files/safetensors.h"
#include "tests/harness.h"
#include "worker/commands/worker.h"
#include "worker/kinds/sample_file.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char path[PATH_MAX], tmp[PATH_MAX + 8], digest[DS_HEX_SIZE];
static const int labels[3] = {7, 8, -1};
static uint8_t pixels[36];

static void setup(void) {
    static int n;
    char dir[PATH_MAX];
    snprintf(dir, sizeof dir, "%s/job%d-%d", ds_test_tmpdir(), (int)getpid(), n++);
    ck_assert_int_eq(mkdir(dir, 0700), 0);
    ds_fs_join(path, sizeof path, dir, "samples.safetensors");
    snprintf(tmp, sizeof tmp, "%s.tmp", path);
    for (int i = 0; i < 36; i++)
        pixels[i] = (uint8_t)(200 - i);
    ds_digest(pixels, 36, digest);
}

static ds_sample_file *begin(const char *classes) {
    ds_sample_file *f = NULL;
    ds_error err;
    ck_assert_msg(!ds_sample_file_open(&f, path, 3, 2, labels, classes, &err), "%s", err.message);
    ck_assert(ds_fs_exists(tmp) && !ds_fs_exists(path));
    return f;
}

static void whole(const char *classes) {
    ds_st *st;
    ds_error err;
    ck_assert_msg(!ds_st_open_file(path, 1 << 20, 0, &st, &err), "%s", err.message);
    const ds_st_tensor *l = ds_st_find(st, "labels"), *p = ds_st_find(st, "images");
    ck_assert(l->dtype == DS_ST_I32 && l->ndim == 1 && l->bytes == sizeof labels);
    ck_assert_mem_eq(l->data, labels, sizeof labels);
    ck_assert(p->dtype == DS_ST_U8 && p->ndim == 4 && p->shape[0] == 3 && p->shape[1] == 2 &&
              p->shape[2] == 2 && p->shape[3] == 3);
    ck_assert_mem_eq(p->data, pixels, 36);
    ck_assert_str_eq(ds_st_meta(st, "digest"), digest);
    ck_assert(classes ? !strcmp(ds_st_meta(st, "classes"), classes) : !ds_st_meta(st, "classes"));
    ds_st_free(st);
    ck_assert(!ds_fs_exists(tmp));
}

START_TEST(portions_make_a_file) {
    ds_error err;
    /* what a run that was killed left goes, and is not written through */
    char other[PATH_MAX + 16], *text;
    size_t n;
    snprintf(other, sizeof other, "%s.other", path);
    ck_assert(!ds_fs_write(other, "kept", 4, &err) && !symlink(other, tmp));
    ds_sample_file *f = begin("[\"digest\\\":\\\"\"]"); /* a name like the key that is looked for */
    ck_assert(!ds_sample_file_put(f, pixels, 5, &err) &&
              !ds_sample_file_put(f, pixels + 5, 31, &err));
    ck_assert(!ds_sample_file_finish(f, digest, &err));
    whole("[\"digest\\\":\\\"\"]");
    ck_assert(!ds_fs_read(other, 100, &text, &n, &err) && n == 4);
    free(text);
    ck_assert_int_eq(unlink(path), 0);
    f = begin(NULL);
    ck_assert(!ds_sample_file_put(f, pixels, 36, &err) && !ds_sample_file_finish(f, digest, &err));
    whole(NULL);
}
END_TEST

START_TEST(what_fails_leaves_nothing) {
    ds_error err = {0};
    ds_sample_file *f = begin(NULL);
    ds_sample_file_abort(f);
    ds_sample_file_abort(NULL);
    ck_assert(!ds_fs_exists(tmp) && !ds_fs_exists(path));
    f = begin(NULL);
    ck_assert(!ds_sample_file_put(f, pixels, 36, &err) && mkdir(path, 0700) == 0);
    ck_assert_int_ne(ds_sample_file_finish(f, digest, &err), 0); /* its name is a folder */
    ck_assert(strstr(err.message, "cannot rename") && !ds_fs_exists(tmp));
    ck_assert_int_eq(rmdir(path), 0);
    ck_assert_int_eq(ds_sample_file_open(&f, "/none/x", 3, 2, labels, NULL, &err), DS_ENOTFOUND);
    /* no room: said before anything is written */
    int n = 1 << 20, *many = calloc((size_t)n, sizeof *many);
    ck_assert_int_eq(ds_sample_file_open(&f, path, n, 16384, many, NULL, &err), DS_ENOSPC);
    ck_assert(strstr(err.message, "the pictures need") && !ds_fs_exists(tmp));
    free(many);
}
END_TEST

/* Whole or absent after a power cut: synced before it has its name, or it has none. */
START_TEST(it_is_synced_before_it_is_named) {
    ds_error err = {0};
    ds_sample_file *f = begin(NULL);
    ck_assert_int_eq(ds_sample_file_put(f, pixels, 36, &err), 0);
    durable_begin();
    ck_assert_int_eq(ds_sample_file_finish(f, digest, &err), 0);
    durable_expect_whole(path);
    ck_assert_int_eq(unlink(path), 0);
    f = begin(NULL);
    ck_assert_int_eq(ds_sample_file_put(f, pixels, 36, &err), 0);
    durable_begin();
    durable_fail = 1;
    ck_assert_int_eq(ds_sample_file_finish(f, digest, &err), DS_EIO);
    ck_assert(!ds_fs_exists(path) && !ds_fs_exists(tmp));
}
END_TEST

/* The disk is full at the header, the labels, the pictures. */
START_TEST(a_full_disk) {
    ds_error err = {0};
    ds_sample_file *f = NULL;
    char limit[16];
    snprintf(limit, sizeof limit, "%d", _i + 1);
    setenv("DS_TEST_ENOSPC", limit, 1);
    int rc = ds_sample_file_open(&f, path, 3, 2, labels, NULL, &err);
    ck_assert_int_eq(rc, _i < 2 ? DS_ENOSPC : 0);
    if (_i == 2) {
        ck_assert_int_eq(ds_sample_file_put(f, pixels, 36, &err), DS_ENOSPC);
        ds_sample_file_abort(f);
    }
    ck_assert(strstr(err.message, ".tmp'"));
    ck_assert(!ds_fs_exists(tmp) && !ds_fs_exists(path));
}
END_TEST

/* What a run that was killed had not finished goes at the start of the next one, whatever becomes of
 * that; a job's own files and those in other folders stay. */
START_TEST(left_overs_of_a_killed_run) {
    static const char *const files[] = {"samples.tmp",         "checkpoints/3.tmp", "stage/x.tmp",
                                        "other/y.tmp",         "checkpoints/3",     ".tmp",
                                        "checkpoints/tmp.txt", "spec.json"};
    char dir[PATH_MAX], file[PATH_MAX + 32];
    int status;
    snprintf(dir, sizeof dir, "%.*s", (int)(strrchr(path, '/') - path), path);
    for (int i = 1; i < 4; i++) {
        snprintf(file, sizeof file, "%s/%.*s", dir, (int)strcspn(files[i], "/"), files[i]);
        ck_assert_int_eq(mkdir(file, 0700), 0);
    }
    for (int i = 0; i < 8; i++) {
        snprintf(file, sizeof file, "%s/%s", dir, files[i]);
        ck_assert_int_eq(ds_fs_write(file, "{}", 2, NULL), 0);
    }
    pid_t pid = fork();
    if (!pid) {
        char *argv[] = {dir, NULL};
        _exit(ds_worker_run(1, argv));
    }
    ck_assert(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 2); /* the spec says nothing */
    for (int i = 0; i < 8; i++) {
        snprintf(file, sizeof file, "%s/%s", dir, files[i]);
        ck_assert_msg(ds_fs_exists(file) == (i >= 3), "%s", files[i]);
    }
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, left_overs_of_a_killed_run);
    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_test(tc, portions_make_a_file);
    tcase_add_test(tc, what_fails_leaves_nothing);
    tcase_add_test(tc, it_is_synced_before_it_is_named);
    tcase_add_loop_test(tc, a_full_disk, 0, 3);
}

int main(void) { return ds_test_main("worker_sample_file", cases); }
