/* tests/engine/test_engine_durable.c - files are whole or absent after a power cut: whatever is written
 * under its own name is synced, then named, then its folder is synced; and where a sync fails the
 * name keeps what it had. */
#include "tests/fixtures/durable.h"

#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/zio.h"
#include "engine/metrics/npz.h"
#include "engine/files/safetensors.h"
#include "engine/files/st_stream.h"
#include "tests/harness.h"

#include <stdlib.h>

enum { IMAGES = 8, DEPTH = 1 };
#include "tests/fixtures/engine_small.h"

static char path[PATH_MAX];

static int plain(ds_error *err) { return ds_fs_write(path, "new", 3, err); }
static int packed(ds_error *err) { return ds_zio_write_file(path, "new", 3, 3, err); }
static int document(ds_error *err) {
    json_t *doc = json_pack("{si}", "a", 1);
    int rc = ds_json_write_file(path, doc, err);
    json_decref(doc);
    return rc;
}
static int copied(ds_error *err) { return ds_fs_copy("/proc/self/cmdline", path, err); }
static int asked_for(ds_error *err) { return ds_fs_output_write(path, "new", 3, 1, err); }
static int statistics(ds_error *err) {
    static double mu[2] = {1, 2}, sigma[4] = {1, 0, 0, 1};
    ds_npz_stats s = {.dim = 2, .mu = mu, .sigma = sigma, .known = 1, .n = 5};
    return ds_npz_write_stats(path, &s, 1, err);
}

static ds_trainer *trainer;
static int checkpoint(ds_error *err) { return ds_trainer_save(trainer, path, err); }
static ds_base *model_base;
static int base_file(ds_error *err) { return ds_base_save(model_base, path, 0, NULL, err); }

static int (*const writers[])(ds_error *err) = {plain,     packed,     document,   copied,
                                                asked_for, statistics, checkpoint, base_file};

static void train(void) {
    static ds_device *dev;
    static ds_model *model;
    const ds_device_options f32 = {.kind = "cpu", .precision = DS_PRECISION_F32, .threads = 1};
    const ds_method_spec spec = {
        .method = DS_METHOD_AFFINER, .rank = 1, .targets = DS_TARGET_Q, .classes = CLASSES};
    const ds_train_options opt = {.steps = 2, .batch = 2, .lr = 1e-3, .vb_weight = 1};
    label_images();
    ck_assert_int_eq(ds_device_open(&dev, &f32, NULL), 0);
    model_base = base_without_zeros();
    memset(model_base->sha256, 'a', 64);
    ck_assert_int_eq(ds_model_new(&model, dev, model_base, NULL), 0);
    ck_assert_int_eq(ds_trainer_new(&trainer, model, &spec, &opt, &images, NULL), 0);
}

START_TEST(written_files_are_whole_or_absent) {
    ds_error err;
    struct stat before, after;
    if (_i >= 6)
        train();
    ds_fs_join(path, sizeof path, ds_test_tmpdir(), "file");
    durable_begin();
    ck_assert_msg(writers[_i](&err) == 0, "%s", err.message);
    durable_expect_whole(path);
    int syncs = 0;
    for (int i = 0; i < durable_count; i++)
        syncs += durable_log[i].what == 's';
    /* the first sync fails: the old file keeps its name, and nothing is left beside it */
    ck_assert_int_eq(stat(path, &before), 0);
    durable_begin();
    durable_fail = 1;
    ck_assert_int_eq(writers[_i](&err), DS_EIO);
    ck_assert_int_eq(stat(path, &after), 0);
    ck_assert_int_eq((int)(before.st_ino - after.st_ino), 0);
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_msg(rmdir(ds_test_tmpdir()) == 0, "a temporary file is left");
    ck_assert_int_eq(mkdir(ds_test_tmpdir(), 0700), 0);
    /* so does one of a later sync: it is said */
    for (int n = 2; n <= syncs; n++) {
        durable_begin();
        durable_fail = n;
        ck_assert_int_eq(writers[_i](&err), DS_EIO);
        unlink(path);
    }
}
END_TEST

/* An imported model, written piece by piece under the name of its digest. */
START_TEST(an_import_is_whole_or_absent) {
    ds_st_stream *s;
    ds_error err;
    char sha[DS_HEX_SIZE], *name = NULL;
    float numbers[4] = {1, 2, 3, 4};
    int64_t shape[1] = {4}, bytes_of_it;
    int fresh;
    for (int fail = 0; fail < 2; fail++) {
        ds_st_writer *w = ds_st_writer_new();
        ds_st_writer_add(w, "x", DS_ST_F32, 1, shape, NULL);
        ck_assert_int_eq(ds_st_stream_open(&s, w, ds_test_tmpdir(), &err), 0);
        numbers[0] += (float)fail;
        ck_assert_int_eq(ds_st_stream_put(s, numbers, sizeof numbers, &err), 0);
        durable_begin();
        durable_fail = fail;
        ck_assert_int_eq(ds_st_stream_finish(s, sha, &name, &bytes_of_it, &fresh, &err),
                         fail ? DS_EIO : 0);
        ds_st_writer_free(w);
        if (fail)
            continue;
        ck_assert_int_eq(fresh, 1);
        durable_expect_whole(name);
        free(name);
    }
    /* a part of it is there under that name: it is no part of a whole one */
    for (int torn = 1; torn >= 0; torn--) {
        ds_st_writer *w = ds_st_writer_new();
        char *bytes;
        size_t n;
        numbers[0] = 9;
        ds_st_writer_add(w, "x", DS_ST_F32, 1, shape, NULL);
        ck_assert_int_eq(ds_st_stream_open(&s, w, ds_test_tmpdir(), &err), 0);
        ck_assert_int_eq(ds_st_stream_put(s, numbers, sizeof numbers, &err), 0);
        durable_begin();
        ck_assert_int_eq(ds_st_stream_finish(s, sha, &name, &bytes_of_it, &fresh, &err), 0);
        ck_assert_int_eq(fresh, 1);
        ck_assert_int_eq(ds_fs_read(name, 1 << 20, &bytes, &n, NULL), 0);
        ck_assert_int_eq((int)n, (int)bytes_of_it);
        if (torn)
            ck_assert_int_eq(truncate(name, 10), 0);
        ds_st_writer_free(w);
        free(bytes);
        free(name);
    }
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_loop_test(tc, written_files_are_whole_or_absent, 0,
                        (int)(sizeof writers / sizeof *writers));
    tcase_add_test(tc, an_import_is_whole_or_absent);
}

int main(void) { return ds_test_main("engine durable", cases); }
