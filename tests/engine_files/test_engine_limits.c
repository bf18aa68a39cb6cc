/* tests/engine_files/test_engine_limits.c - files of weights and statistics that cannot be written or read to their end, or
 * hold more than is taken: each is said, and nothing is left. */
#include "tests/engine_files/weights_places.h"
#include "engine/files/import_report.h"
#include "engine/files/st_stream.h"
#include "engine/metrics/npz.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* pread of this program fails with this code, after so many calls. */
static int pread_code, pread_passes;

ssize_t pread(int fd, void *p, size_t n, off_t at) {
    if (pread_code && pread_passes-- <= 0) {
        int interrupted = pread_code == EINTR;
        errno = pread_code;
        pread_code = interrupted ? 0 : pread_code;
        return -1;
    }
    return syscall(SYS_pread64, fd, p, n, at);
}

static int entries(const char *dir) {
    DIR *d = opendir(dir);
    int n = -2; /* . and .. */
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static char *new_dir(const char *name) {
    char *dir = tmp(name);
    ck_assert_int_eq(mkdir(dir, 0700), 0);
    return dir;
}

static void says(int rc, int code, const ds_error *err, const char *words) {
    ck_assert_msg(rc == code, "code %d, must be %d (%s): %s", rc, code, words, err->message);
    ck_assert_msg(strstr(err->message, words) != NULL, "'%s' has no '%s'", err->message, words);
}

/* From here files may have so many bytes; 0: as many as they like. */
static void files_have(rlim_t most) {
    struct rlimit r;
    ck_assert(!getrlimit(RLIMIT_FSIZE, &r));
    r.rlim_cur = most ? most : r.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    ck_assert(!setrlimit(RLIMIT_FSIZE, &r));
}

/* ---------------------------------------------------------------- statistics */

static int write_stats(const char *path, int force, ds_error *err) {
    double mu[2] = {1, 2}, sigma[4] = {1, 0, 0, 1};
    ds_npz_stats s = {.mu = mu,
                      .sigma = sigma,
                      .dim = 2,
                      .known = 1,
                      .net = "x",
                      .preprocess = "p",
                      .decode = "d",
                      .n = 3};
    return ds_npz_write_stats(path, &s, force, err);
}

START_TEST(statistics_that_cannot_be_written) {
    char *dir = new_dir("stats"), *path = ds_xasprintf("%s/s.npz", dir),
         *none = ds_xasprintf("%s/none/s.npz", dir);
    ds_error err = {0};
    setenv("DS_TEST_ENOSPC", "1", 1);
    says(write_stats(path, 0, &err), DS_ENOSPC, &err, "s.npz': no space left on device");
    unsetenv("DS_TEST_ENOSPC");
    ck_assert_int_eq(entries(dir), 0);
    files_have(200);
    int rc = write_stats(path, 0, &err);
    files_have(0);
    says(rc, DS_EIO, &err, "cannot write '");
    ck_assert_int_eq(entries(dir), 0);
    ck_assert_int_eq(write_stats(none, 0, &err), DS_ENOTFOUND);
    ck_assert_int_eq(write_stats(path, 0, &err), 0);
    says(write_stats(path, 0, &err), DS_ECONFLICT, &err, "--force");
    ck_assert_int_eq(entries(dir), 1);
    ck_assert_int_eq(write_stats(path, 1, &err), 0);
    ck_assert_int_eq(entries(dir), 1);
    free(dir), free(path), free(none);
}
END_TEST

/* ---------------------------------------------------------------- models */

static ds_st_writer *declares(int64_t floats) {
    ds_st_writer *w = ds_st_writer_new();
    ds_st_writer_add(w, "x", DS_ST_F32, 1, &floats, NULL);
    return w;
}

START_TEST(models_that_cannot_be_written) {
    char *dir = new_dir("models"), *file = ds_xasprintf("%s/file", dir),
         *below = ds_xasprintf("%s/file/x", dir), *fresh_dir = ds_xasprintf("%s/a/b", dir);
    ds_st_stream *s = NULL;
    ds_error err = {0};
    float numbers_of[4] = {1, 2, 3, 4};
    put(dir, "file", "x", 1);
    ds_st_writer *small = declares(4), *large = declares((int64_t)1 << 50);
    says(ds_st_stream_open(&s, small, file, &err), DS_EINVAL, &err, "is not a folder");
    says(ds_st_stream_open(&s, small, below, &err), DS_ENOTFOUND, &err, "cannot create directory");
    says(ds_st_stream_open(&s, large, fresh_dir, &err), DS_ENOSPC, &err,
         "MiB free, the file needs 4294967296 MiB");
    ck_assert_int_eq(entries(fresh_dir), 0);
    setenv("DS_TEST_ENOSPC", "1", 1);
    says(ds_st_stream_open(&s, small, fresh_dir, &err), DS_ENOSPC, &err, ".tmp'");
    unsetenv("DS_TEST_ENOSPC");
    ck_assert_int_eq(entries(fresh_dir), 0);
    ck_assert_int_eq(ds_st_stream_open(&s, small, fresh_dir, &err), 0);
    ck_assert_int_eq(ds_st_stream_put(s, numbers_of, 8, &err), 0);
    ck_assert_int_eq(entries(fresh_dir), 1);
    files_have(10);
    says(ds_st_stream_put(s, numbers_of, 8, &err), DS_EIO, &err, "cannot write '");
    files_have(0);
    ds_st_stream_abort(s);
    ck_assert_int_eq(entries(fresh_dir), 0);
    ds_st_stream_abort(NULL);
    ds_st_writer_free(small);
    ds_st_writer_free(large);
    /* names that no file can have */
    static const char *const names[] = {"twice", "__metadata__", "a\x01"};
    for (int i = 0; i < 3; i++) {
        ds_st_writer *w = ds_st_writer_new();
        for (int k = 0; k < 2 - (i > 0); k++)
            ds_st_writer_add(w, names[i], DS_ST_F32, 1, (int64_t[]){1}, numbers_of);
        s = NULL;
        says(ds_st_stream_open(&s, w, fresh_dir, &err), DS_EINVAL, &err,
             "is used twice or not allowed");
        ck_assert_ptr_null(s);
        ck_assert_int_eq(entries(fresh_dir), 0);
        ds_st_writer_free(w);
    }
    free(dir), free(file), free(below), free(fresh_dir);
}
END_TEST

/* 100,000 tensors make a file, one more does not; nor does a header of more than its limit. */
START_TEST(files_of_too_many_tensors) {
    ds_error err = {0};
    ds_st_writer *w = ds_st_writer_new();
    ds_buf b = {0};
    char name[300];
    size_t data;
    for (int i = 0; i < DS_ST_TENSORS_MAX; i++) {
        snprintf(name, sizeof name, "%d", i);
        ds_st_writer_add(w, name, DS_ST_F32, 0, NULL, NULL);
    }
    ck_assert_int_eq(ds_st_writer_header(w, &b, &data, &err), 0);
    ck_assert_uint_eq(data, 4 * (size_t)DS_ST_TENSORS_MAX);
    ds_st_writer_add(w, "more", DS_ST_F32, 0, NULL, NULL);
    says(ds_st_writer_header(w, &b, &data, &err), DS_EINVAL, &err,
         "cannot write safetensors: 100001 tensors, limit 100000");
    ds_st_writer_free(w);
    w = ds_st_writer_new();
    char *longer = ds_xmalloc(DS_ST_HEADER_MAX + 1);
    memset(longer, 'm', DS_ST_HEADER_MAX);
    longer[DS_ST_HEADER_MAX] = 0;
    ds_st_writer_meta(w, "k", longer);
    says(ds_st_writer_header(w, &b, &data, &err), DS_EINVAL, &err,
         "cannot write safetensors: header of ");
    ds_st_writer_free(w);
    free(longer);
    ds_buf_release(&b);
}
END_TEST

/* Too short for anything; a type that nobody knows; a disk that fails while tensors are read. */
START_TEST(models_that_cannot_be_read) {
    char *dir = new_dir("reading"), *path = ds_xasprintf("%s/m.safetensors", dir);
    ds_st *st;
    ds_error err = {0};
    for (size_t n = 0; n < 16; n++) {
        put(dir, "m.safetensors", "\x08\0\0\0\0\0\0\0{       ", n);
        char text[60];
        snprintf(text, sizeof text, "is not a file of weights: it has %zu bytes", n);
        refuses(path, DS_EINTEGRITY, text, "short");
        if (n < 8)
            says(ds_st_open_file(path, 1000, 1, &st, &err), DS_EINTEGRITY, &err, "it is truncated");
    }
    static const char header[] =
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
        "\"b\":{\"dtype\":\"F4_NEW\",\"shape\":[4],\"data_offsets\":[8,10]}}";
    ds_buf b = {0};
    number(&b, sizeof header - 1, 8);
    ds_buf_add(&b, header, sizeof header - 1);
    ds_buf_add(&b, numbers, 10);
    put(dir, "m.safetensors", b.data, b.len);
    ds_weights *w = opens(path, NULL);
    float x[2] = {0};
    ck_assert_int_eq(ds_weights_read_f32(w, ds_weights_find(w, "a"), x, &err), 0);
    ck_assert(x[0] == 1 && x[1] == 2);
    ck_assert_ptr_null(w->items[0].what);
    ck_assert_str_eq(w->items[1].what, "of type F4_NEW");
    pread_code = EINTR;
    x[0] = x[1] = 0;
    ck_assert_int_eq(ds_weights_read_f32(w, ds_weights_find(w, "a"), x, &err), 0);
    ck_assert(x[0] == 1 && x[1] == 2);
    pread_code = EIO;
    says(ds_weights_read_f32(w, ds_weights_find(w, "a"), x, &err), DS_EIO, &err,
         "m.safetensors': Input/output error");
    ds_weights_close(w);
    refuses(path, DS_EIO, "m.safetensors': Input/output error", "the first bytes");
    pread_code = 0;
    ds_buf_release(&b);
    free(dir), free(path);
}
END_TEST

/* A folder of so many files and no more. */
START_TEST(folders_of_too_many_files) {
    char *dir = new_dir("shards"), *index = ds_xasprintf("%s/model.safetensors.index.json", dir);
    for (int more = 0; more < 2; more++) {
        json_t *map = json_object();
        for (int i = 0; i < DS_WEIGHTS_SHARDS_MAX + more; i++) {
            char name[40], header[100];
            snprintf(name, sizeof name, "s%d.safetensors", i);
            int n =
                snprintf(header, sizeof header,
                         "{\"t%d\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", i);
            ds_buf b = {0};
            number(&b, (size_t)n, 8);
            ds_buf_add(&b, header, (size_t)n);
            ds_buf_add(&b, numbers, 4);
            put(dir, name, b.data, b.len);
            ds_buf_release(&b);
            snprintf(header, sizeof header, "t%d", i);
            json_object_set_new(map, header, json_string(name));
        }
        json_t *doc = json_pack("{s:o}", "weight_map", map);
        ck_assert_int_eq(ds_json_write_file(index, doc, NULL), 0);
        json_decref(doc);
        if (more)
            refuses(dir, DS_ELIMIT, "has more than 1000 files", "one more");
        else {
            ds_weights *w = opens(dir, NULL);
            ck_assert_uint_eq(ds_weights_count(w), DS_WEIGHTS_SHARDS_MAX);
            ds_weights_close(w);
        }
    }
    free(dir), free(index);
}
END_TEST

/* ---------------------------------------------------------------- what an import says */

static void count_line(void *user, int warning, const char *text) {
    (void)text;
    ++((int *)user)[warning];
}

/* Two hundred of a kind are listed, the rest is counted; without a report nothing is kept. */
START_TEST(long_reports) {
    ds_import_report *r = ds_import_report_new();
    for (int k = 0; k < 203; k++) {
        json_t *v = json_integer(k);
        char name[20];
        snprintf(name, sizeof name, "f%d", k);
        for (int none = 0; none < 2; none++) {
            ds_import_report *to = none ? NULL : r;
            ds_import_report_field(to, "config.json", name, v, k % 4 ? "used" : "harmless");
            ds_import_report_assumed(to, name, json_integer(k), "why");
            ds_import_report_ignored(to, name, "why");
        }
        json_decref(v);
    }
    const json_t *doc = ds_import_report_json(r);
    static const char *const lists[] = {"fields", "assumed", "ignored"};
    for (int i = 0; i < 3; i++) {
        char more[20];
        snprintf(more, sizeof more, "%s_more", lists[i]);
        ck_assert_uint_eq(json_array_size(json_object_get(doc, lists[i])), 200);
        ck_assert_int_eq((int)ds_json_int(doc, more, 0), 3);
    }
    int lines[2] = {0};
    ds_import_report_lines(r, count_line, lines);
    ck_assert_int_eq(lines[1], 200);       /* assumed */
    ck_assert_int_eq(lines[0], 200 + 150); /* ignored, and fields that are used */
    ds_import_report_not_assumed(r, "f7");
    lines[1] = 0;
    ds_import_report_lines(r, count_line, lines);
    ck_assert_int_eq(lines[1], 199);
    ck_assert_uint_eq(json_array_size(json_object_get(doc, "assumed")), 199);
    ds_import_report_not_assumed(NULL, "f7");
    ds_import_report_set(NULL, "k", json_integer(1), 0, "line");
    ds_import_report_set(r, "k", json_integer(1), 0, "line");
    ds_import_report_set(r, "k", json_integer(2), 1, "line");
    ck_assert_int_eq((int)ds_json_int(doc, "k", 0), 2);
    ck_assert_ptr_null(ds_import_report_json(NULL));
    ds_import_report_free(r);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, statistics_that_cannot_be_written);
    tcase_add_test(tc, models_that_cannot_be_written);
    tcase_add_test(tc, files_of_too_many_tensors);
    tcase_add_test(tc, models_that_cannot_be_read);
    tcase_add_test(tc, folders_of_too_many_files);
    tcase_add_test(tc, long_reports);
}

int main(void) { return ds_test_main("engine_limits", register_cases); }
