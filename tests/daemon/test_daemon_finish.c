/* tests/daemon/test_daemon_finish.c - the daemon does not believe a result: every name, size and digest
 * that a worker can get wrong, for each kind of job, and what is left of a job's folder. */
#include "base/digest.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/zio.h"
#include "daemon/jobs/finish.h"
#include "tests/harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MUST(call)                                                                                 \
    do {                                                                                           \
        ds_error e_ = {0}, *err = &e_;                                                             \
        ck_assert_msg((call) == 0, "%s: %s", #call, e_.message);                                   \
    } while (0)

static char state[PATH_MAX], dir[PATH_MAX], outside[PATH_MAX];
static ds_store *store;

static const char *in(const char *folder, const char *name) {
    static char paths[4][PATH_MAX];
    static int turn;
    char *out = paths[turn++ & 3];
    ds_fs_join(out, PATH_MAX, folder, name);
    return out;
}

/* dir/name as a worker leaves it; what result.json says of it. */
static json_t *zst(const char *name, const char *text) {
    char sha[DS_HEX_SIZE], stored[DS_HEX_SIZE];
    struct stat st;
    MUST(ds_zio_write_file(in(dir, name), text, strlen(text), 3, err));
    ds_digest(text, strlen(text), sha);
    MUST(ds_digest_file(in(dir, name), stored, err));
    ck_assert_int_eq(stat(in(dir, name), &st), 0);
    return json_pack("{ss ss sI sI ss}", "file", name, "sha256", sha, "raw_bytes",
                     (json_int_t)strlen(text), "stored_bytes", (json_int_t)st.st_size,
                     "stored_sha256", stored);
}

static json_t *result_of_training(void) {
    return json_pack("{ss ss so so s{so}}", "schema", "diffscaler.train/1", "status", "ok",
                     "adapter", zst("adapter.safetensors.zst", "the adapter"), "reference",
                     zst("reference.safetensors.zst", "the reference"), "base_task", "reference",
                     zst("base_reference.safetensors.zst", "the base"));
}

static char models[PATH_MAX];

static void model_file(const char *text, char path[PATH_MAX], char sha[DS_HEX_SIZE]) {
    char name[DS_HEX_SIZE + 16];
    ds_digest(text, strlen(text), sha);
    snprintf(name, sizeof name, "%s.safetensors", sha);
    ds_fs_join(path, PATH_MAX, models, name);
    MUST(ds_fs_write(path, text, strlen(text), err));
}

static json_t *result_of_import(void) {
    char path[PATH_MAX], sha[DS_HEX_SIZE], vae[PATH_MAX], vae_sha[DS_HEX_SIZE];
    model_file("the model", path, sha);
    model_file("the vae", vae, vae_sha);
    return json_pack("{ss ss ss si s{ss ss}}", "schema", "diffscaler.import/1", "file", path,
                     "sha256", sha, "bytes", 9, "vae", "file", vae, "sha256", vae_sha);
}

static json_t *result_of_scan(void) {
    char sha[DS_HEX_SIZE];
    MUST(ds_fs_write(in(dir, "manifest.ndjson"), "lines\n", 6, err));
    ds_digest("lines\n", 6, sha);
    return json_pack("{ss ss ss}", "schema", "diffscaler.scan/1", "manifest", "manifest.ndjson",
                     "tree_digest", sha);
}

static void setup(void) {
    ds_fs_join(state, sizeof state, ds_test_tmpdir(), "state");
    ds_fs_join(dir, sizeof dir, ds_test_tmpdir(), "job");
    ds_fs_join(models, sizeof models, ds_test_tmpdir(), "models");
    ds_fs_join(outside, sizeof outside, ds_test_tmpdir(), "outside.zst");
    MUST(ds_fs_remove(state, err));
    MUST(ds_fs_remove(dir, err));
    MUST(ds_fs_remove(models, err));
    MUST(ds_fs_mkdirs(state, err));
    MUST(ds_fs_mkdirs(dir, err));
    MUST(ds_fs_mkdirs(models, err));
    MUST(ds_zio_write_file(outside, "the adapter", 11, 3, err));
    MUST(ds_store_open(state, &store, err));
}

static void teardown(void) { ds_store_close(store); }

static int collect_as(enum ds_job_kind kind, int refused, json_t *result, ds_finish *f,
                      ds_error *e) {
    *f = (ds_finish){.kind = kind, .job = 7, .refused = refused, .store = store};
    memcpy(f->dir, dir, sizeof dir);
    json_t *spec = json_pack("{ss}", "out_dir", models);
    MUST(ds_json_write_file(in(dir, "spec.json"), spec, err));
    json_decref(spec);
    if (result)
        MUST(ds_json_write_file(in(dir, "result.json"), result, err));
    json_decref(result);
    return ds_finish_collect(f, e);
}

static void expect(enum ds_job_kind kind, int refused, json_t *result, int code,
                   const char *words) {
    ds_finish f;
    ds_error err = {0};
    int rc = collect_as(kind, refused, result, &f, &err);
    ck_assert_msg(rc == code, "code %d, must be %d ('%s'): %s", rc, code, words, err.message);
    ck_assert_msg(!rc || strstr(err.message, words), "'%s' has no '%s'", err.message, words);
    ds_finish_release(&f);
}

START_TEST(good_results_are_taken) {
    ds_finish f;
    ds_error e;
    char sha[DS_HEX_SIZE], *data;
    size_t n;
    ck_assert_int_eq(collect_as(DS_JOB_TRAIN, 0, result_of_training(), &f, &e), 0);
    ds_digest("the adapter", 11, sha);
    ck_assert_str_eq(f.blob.sha256, sha);
    ck_assert_int_eq((int)f.blob.raw_bytes, 11);
    ck_assert(f.has_reference && f.has_base_reference);
    ds_digest("the reference", 13, sha);
    ck_assert_str_eq(f.reference.sha256, sha);
    ds_digest("the base", 8, sha);
    ck_assert_str_eq(f.base_reference.sha256, sha);
    MUST(ds_store_read(store, f.blob.sha256, 100, &data, &n, err));
    ck_assert(n == 11 && !memcmp(data, "the adapter", 11));
    free(data);
    ds_finish_release(&f);
    for (int i = 0; i < 2; i++) { /* without what may be absent */
        json_t *r = result_of_training();
        if (i)
            json_object_del(r, "reference");
        else
            json_object_set_new(r, "reference", json_null());
        json_object_del(r, "base_task");
        ck_assert_int_eq(collect_as(DS_JOB_TRAIN, 0, r, &f, &e), 0);
        ck_assert(!f.has_reference && !f.has_base_reference);
        ds_finish_release(&f);
        r = result_of_import();
        if (i)
            json_object_del(r, "vae");
        else
            json_object_set_new(r, "vae", json_null());
        ck_assert_int_eq(collect_as(DS_JOB_IMPORT, 0, r, &f, &e), 0);
        ck_assert(*f.model && !*f.vae);
        ds_finish_release(&f);
    }
    ck_assert_int_eq(collect_as(DS_JOB_SCAN, 0, result_of_scan(), &f, &e), 0);
    ck_assert_int_eq((int)f.blob.raw_bytes, 6);
    ds_finish_release(&f);
    ck_assert_int_eq(collect_as(DS_JOB_IMPORT, 0, result_of_import(), &f, &e), 0);
    ck_assert(strncmp(f.model, models, strlen(models)) == 0 && *f.vae);
    ds_finish_release(&f);
}
END_TEST

/* ---------------------------------------------------------------- a training */

static json_t *changed(const char *object, const char *key, json_t *value) {
    json_t *r = result_of_training(), *o = r;
    if (strcmp(object, "base_task") == 0)
        o = json_object_get(json_object_get(r, "base_task"), "reference");
    else if (*object)
        o = json_object_get(r, object);
    if (value)
        json_object_set_new(o, key, value);
    else
        json_object_del(o, key);
    return r;
}

static const char *const file_objects[] = {"adapter", "reference", "base_task"};

/* The same distrust for each of the three files. */
START_TEST(files_of_a_training) {
    const char *o = file_objects[_i];
    char long_name[120], other[DS_HEX_SIZE];
    memset(long_name, 'a', sizeof long_name);
    long_name[101] = 0;
    ds_digest("something else", 14, other);
    const char *names[] = {"../outside.zst", outside, ".hidden.zst", "", "a/b.zst", long_name};
    for (int i = 0; i < 6; i++)
        expect(DS_JOB_TRAIN, 0, changed(o, "file", json_string(names[i])), DS_EINVAL,
               "must be a plain name");
    long_name[100] = 0; /* as long as a name may be, but there is no such file */
    expect(DS_JOB_TRAIN, 0, changed(o, "file", json_string(long_name)), DS_ENOTFOUND,
           "cannot find");
    expect(DS_JOB_TRAIN, 0, changed(o, "file", NULL), DS_EINVAL, "file");
    expect(DS_JOB_TRAIN, 0, changed(o, "sha256", NULL), DS_EINVAL, "sha256");
    expect(DS_JOB_TRAIN, 0, changed(o, "sha256", json_string("abc")), DS_EINVAL, "is not a digest");
    expect(DS_JOB_TRAIN, 0, changed(o, "sha256", json_string(other)), DS_EINTEGRITY, "");
    expect(DS_JOB_TRAIN, 0, changed(o, "stored_sha256", json_string(other)), DS_EINTEGRITY,
           "not the digest");
    expect(DS_JOB_TRAIN, 0, changed(o, "stored_bytes", json_integer(5)), DS_EINTEGRITY,
           "result.json says 5");
    expect(DS_JOB_TRAIN, 0, changed(o, "raw_bytes", json_integer(5)), DS_EINTEGRITY, "unpacks to");
}
END_TEST

/* A link to a good file, and a folder. */
START_TEST(only_files_are_taken) {
    json_t *r = result_of_training();
    char adapter[PATH_MAX];
    ds_fs_join(adapter, sizeof adapter, dir, "adapter.safetensors.zst");
    json_object_del(json_object_get(r, "adapter"), "stored_bytes");
    ck_assert_int_eq(unlink(adapter), 0);
    ck_assert_int_eq(symlink(outside, adapter), 0);
    expect(DS_JOB_TRAIN, 0, json_incref(r), DS_EINTEGRITY, "bytes");
    ck_assert_int_eq(unlink(adapter), 0);
    ck_assert_int_eq(mkdir(adapter, 0755), 0);
    expect(DS_JOB_TRAIN, 0, json_incref(r), DS_EINTEGRITY, "bytes");
    ck_assert_int_eq(rmdir(adapter), 0);
    expect(DS_JOB_TRAIN, 0, r, DS_ENOTFOUND, "cannot find");
}
END_TEST

/* What the exit code says and what the result says must agree. */
START_TEST(status_and_exit_code_agree) {
    expect(DS_JOB_TRAIN, 1, result_of_training(), DS_EINTEGRITY, "exited with 8 but");
    expect(DS_JOB_TRAIN, 0, changed("", "status", json_string("rejected")), DS_EINTEGRITY,
           "exited with 0 but");
    expect(DS_JOB_TRAIN, 1, changed("", "status", json_string("rejected")), 0, "");
    expect(DS_JOB_TRAIN, 0, changed("", "status", NULL), DS_EINVAL, "status");
    expect(DS_JOB_TRAIN, 0, changed("", "adapter", json_null()), DS_EINVAL, "adapter");
}
END_TEST

START_TEST(each_kind_has_its_schema) {
    static const enum ds_job_kind kinds[] = {DS_JOB_SCAN, DS_JOB_TRAIN, DS_JOB_SAMPLE,
                                             DS_JOB_VERIFY, DS_JOB_IMPORT};
    for (int i = 0; i < 5; i++) {
        expect(kinds[i], 0, json_pack("{ss}", "schema", "diffscaler.other/1"), DS_EINVAL,
               "has schema 'diffscaler.other/1'");
        expect(kinds[i], 0, json_object(), DS_EINVAL, "schema");
        ck_assert_int_eq(unlink(in(dir, "result.json")), 0);
        expect(kinds[i], 0, NULL, DS_ENOTFOUND, "result.json");
    }
    expect(DS_JOB_SAMPLE, 0, json_pack("{ss}", "schema", "diffscaler.sample/1"), 0, "");
    expect(DS_JOB_VERIFY, 0, json_pack("{ss}", "schema", "diffscaler.verify/1"), 0, "");
    expect(DS_JOB_KIND_COUNT, 0, json_object(), DS_EINVAL, "unknown kind");
}
END_TEST

/* The base's reference is looked at in a verification too. */
START_TEST(reference_of_a_verification) {
    json_t *file = zst("base_reference.safetensors.zst", "the base");
    json_object_set_new(file, "stored_bytes", json_integer(1));
    expect(DS_JOB_VERIFY, 0,
           json_pack("{ss s{so}}", "schema", "diffscaler.verify/1", "base_task", "reference", file),
           DS_EINTEGRITY, "result.json says 1");
}
END_TEST

/* ---------------------------------------------------------------- a scan, an import */

START_TEST(manifest_of_a_scan) {
    char other[DS_HEX_SIZE];
    ds_digest("other", 5, other);
    static const char *const names[] = {"../outside.zst", "/etc/passwd", ".x", ""};
    for (int i = 0; i < 4; i++) {
        json_t *r = result_of_scan();
        json_object_set_new(r, "manifest", json_string(names[i]));
        expect(DS_JOB_SCAN, 0, r, DS_EINVAL, "must be a plain name");
    }
    json_t *r = result_of_scan();
    json_object_set_new(r, "tree_digest", json_string("0x12"));
    expect(DS_JOB_SCAN, 0, r, DS_EINVAL, "'tree_digest' is not a digest");
    r = result_of_scan();
    json_object_set_new(r, "tree_digest", json_string(other));
    expect(DS_JOB_SCAN, 0, r, DS_EINTEGRITY, "");
    r = result_of_scan();
    json_object_del(r, "tree_digest");
    expect(DS_JOB_SCAN, 0, r, DS_EINVAL, "tree_digest");
    r = result_of_scan();
    json_object_del(r, "manifest");
    expect(DS_JOB_SCAN, 0, r, DS_EINVAL, "manifest");
    r = result_of_scan();
    ck_assert_int_eq(unlink(in(dir, "manifest.ndjson")), 0);
    expect(DS_JOB_SCAN, 0, r, DS_ENOTFOUND, "manifest.ndjson");
}
END_TEST

/* _i 0: the model, 1: its VAE. */
START_TEST(files_of_an_import) {
    char path[PATH_MAX], sha[DS_HEX_SIZE];
    json_t *r = result_of_import(), *o = _i ? json_object_get(r, "vae") : r;
    model_file(_i ? "the vae" : "the model", path, sha);
#define SAYS(key, value, code, words)                                                              \
    do {                                                                                           \
        json_t *copy = json_deep_copy(r), *at = _i ? json_object_get(copy, "vae") : copy;          \
        json_object_set_new(at, key, value);                                                       \
        expect(DS_JOB_IMPORT, 0, copy, code, words);                                               \
    } while (0)
    SAYS("file", json_string("/etc/passwd"), DS_EINVAL, "names the file '/etc/passwd'");
    SAYS("file", json_string(outside), DS_EINVAL, "names the file");
    SAYS("file", json_null(), DS_EINVAL, "file");
    SAYS("sha256", json_string("../../etc/passwd"), DS_EINVAL, "is not a digest");
    SAYS("sha256", json_null(), DS_EINVAL, "sha256");
    if (!_i)
        SAYS("bytes", json_integer(8), DS_EINTEGRITY, "result.json says 8");
    MUST(ds_fs_write(path, _i ? "the vad" : "the modal", _i ? 7 : 9, err));
    expect(DS_JOB_IMPORT, 0, json_deep_copy(r), DS_EINTEGRITY, "it is not what was imported");
    ck_assert_int_eq(unlink(path), 0);
    expect(DS_JOB_IMPORT, 0, json_deep_copy(r), DS_ENOTFOUND, "cannot find");
    MUST(ds_fs_write(in(models, "other"), _i ? "the vae" : "the model", _i ? 7 : 9, err));
    ck_assert_int_eq(symlink(in(models, "other"), path), 0);
    expect(DS_JOB_IMPORT, 0, json_deep_copy(r), DS_EINTEGRITY, "bytes");
    ck_assert(json_is_object(o));
    json_decref(r);
}
END_TEST

/* ---------------------------------------------------------------- tidying */

static const char *const left[] = {"spec.json",
                                   "result.json",
                                   "events.ndjson",
                                   "worker.log",
                                   "grid.png",
                                   "checkpoints",
                                   "stage",
                                   "adapter.safetensors.zst",
                                   "reference.safetensors.zst",
                                   "base_reference.safetensors.zst",
                                   "manifest.ndjson"};
enum { LEFT = sizeof left / sizeof *left };

START_TEST(a_folder_keeps_what_people_read) {
    static const struct {
        enum ds_job_kind kind;
        int unchanged;
        const char *kept; /* one letter a name of `left` */
    } cases[] = {{DS_JOB_TRAIN, 0, "yyyyynnnnnn"},  {DS_JOB_SCAN, 0, "yyyyyynyyyn"},
                 {DS_JOB_SCAN, 1, "nnnnnnnnnnn"},   {DS_JOB_SAMPLE, 0, "yyyyyyyyyny"},
                 {DS_JOB_VERIFY, 0, "yyyyyyyyyny"}, {DS_JOB_IMPORT, 0, "yyyyyyyyyny"}};
    ds_finish f = {.kind = cases[_i].kind, .job = 7, .unchanged = cases[_i].unchanged};
    memcpy(f.dir, dir, sizeof dir);
    for (int i = 0; i < LEFT; i++)
        if (i == 5 || i == 6) {
            MUST(ds_fs_mkdirs(in(dir, left[i]), err));
            MUST(ds_fs_write(in(in(dir, left[i]), "x"), "x", 1, err));
        } else
            MUST(ds_fs_write(in(dir, left[i]), "x", 1, err));
    ds_finish_clean(&f);
    for (int i = 0; i < LEFT; i++)
        ck_assert_msg(ds_fs_exists(in(dir, left[i])) == (cases[_i].kept[i] == 'y'), "case %d: %s",
                      _i, left[i]);
    ck_assert_int_eq(ds_fs_exists(dir), !cases[_i].unchanged);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, good_results_are_taken);
    tcase_add_loop_test(tc, files_of_a_training, 0, 3);
    tcase_add_test(tc, only_files_are_taken);
    tcase_add_test(tc, status_and_exit_code_agree);
    tcase_add_test(tc, each_kind_has_its_schema);
    tcase_add_test(tc, reference_of_a_verification);
    tcase_add_test(tc, manifest_of_a_scan);
    tcase_add_loop_test(tc, files_of_an_import, 0, 2);
    tcase_add_loop_test(tc, a_folder_keeps_what_people_read, 0, 6);
}

int main(void) {
    if (!getenv("TMPDIR") && access("/dev/shm", W_OK) == 0) /* no power cut here: spare the disk */
        setenv("TMPDIR", "/dev/shm", 1);
    return ds_test_main("daemon finish", cases);
}
