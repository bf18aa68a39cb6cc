/* tests/engine_files/test_engine_weights_files.c - which file of a folder is taken and what lies beside it,
 * shards, digests, changes, shapes and types that are asked for; parts of PyTorch's files one by
 * one. */
#include "tests/engine_files/weights_places.h"
#include "base/fs.h"
#include "engine/files/weights_internal.h"
#include "tests/harness.h"
#include "tests/engine_files/weights_files.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* A safetensors file of one tensor (2). */
static void put_st(const char *dir, const char *name, const char *tensor) {
    ds_st_writer *w = ds_st_writer_new();
    char *bytes;
    size_t n;
    ds_st_writer_add(w, tensor, DS_ST_F32, 1, (int64_t[]){2}, numbers);
    ck_assert_int_eq(ds_st_writer_finish(w, &bytes, &n, NULL), 0);
    put(dir, name, bytes, n);
    free(bytes);
    ds_st_writer_free(w);
}

static char *new_folder(const char *name) {
    char *dir = tmp(name);
    ck_assert_int_eq(ds_fs_remove(dir, NULL), 0);
    ck_assert_int_eq(mkdir(dir, 0700), 0);
    return dir;
}

/* ---------------------------------------------------------------- folders */

/* Each file has one tensor, of the file's name. */
static const struct {
    const char *files[5], *takes; /* takes NULL: refused */
    int code;
    const char *says; /* or what is beside */
} folders[] = {
    {{"model.safetensors", "other.safetensors"}, "model.safetensors", 0, "other.safetensors"},
    {{"z.pt", "model.safetensors", "b.bin", "c.txt"}, "model.safetensors", 0, "b.bin, z.pt"},
    {{"model.fp16.safetensors", "other.safetensors"},
     "model.fp16.safetensors",
     0,
     "other.safetensors"},
    {{"model.a.b.safetensors", "other.safetensors"}, NULL, DS_EINVAL, "2 weight files"},
    {{"model.fp16.safetensors", "model.safetensors"},
     "model.safetensors",
     0,
     "model.fp16.safetensors"},
    {{"model.safetensors", "diffusion_pytorch_model.safetensors"},
     "diffusion_pytorch_model.safetensors",
     0,
     "model.safetensors"},
    {{"model.safetensors", "diffusion_pytorch_model.bin"},
     "model.safetensors",
     0,
     "diffusion_pytorch_model.bin"},
    {{"pytorch_model.bin", "diffusion_pytorch_model.bin"},
     "diffusion_pytorch_model.bin",
     0,
     "pytorch_model.bin"},
    {{"model.fp16.safetensors", "pytorch_model.bin"},
     "pytorch_model.bin",
     0,
     "model.fp16.safetensors"},
    {{"model.fp16.safetensors", "model.bf16.safetensors"}, NULL, DS_EINVAL, "2 weight files"},
    {{"one.pt", "two.pth", "three.ckpt"}, NULL, DS_EINVAL, "3 weight files"},
    {{"only.ckpt", "notes.txt"}, "only.ckpt", 0, ""},
    {{"model-00001-of-00001.safetensors"}, "model-00001-of-00001.safetensors", 0, ""},
    {{".hidden.safetensors"}, NULL, DS_ENOTFOUND, "no weight file"},
    {{"notes.txt", "model.safetensors.old"}, NULL, DS_ENOTFOUND, "no weight file"},
    {{"model.safetensors", ".other.safetensors"}, "model.safetensors", 0, ""},
    {{"model.safetensors", "model_1.safetensors"},
     NULL,
     DS_EINVAL,
     "several models, 'model.safetensors' and 'model_1.safetensors'"},
    {{"model.safetensors", "model_12.safetensors"}, NULL, DS_EINVAL, "several models"},
    {{"model.safetensors", "model_1.bin"}, "model.safetensors", 0, "model_1.bin"},
    {{"model.safetensors", "model_x.safetensors"}, "model.safetensors", 0, "model_x.safetensors"},
    {{"model.safetensors", "model_.safetensors"}, "model.safetensors", 0, "model_.safetensors"},
    {{"model.safetensors", "model1.safetensors"}, "model.safetensors", 0, "model1.safetensors"},
    {{"model.safetensors", "ema.safetensors"},
     NULL,
     DS_EINVAL,
     "has 'model.safetensors' and averaged weights, 'ema.safetensors'"},
    {{"model.safetensors", "custom_ema.pkl"}, "model.safetensors", 0, "custom_ema.pkl"},
    {{"model.safetensors", "ema-00001-of-00002.safetensors"}, "model.safetensors", 0, ""},
    {{"ema.safetensors"}, "ema.safetensors", 0, ""},
    {{"ema.safetensors", "raw.safetensors"}, NULL, DS_EINVAL, "2 weight files"},
};

START_TEST(file_of_a_folder) {
    char *dir = new_folder("folder");
    for (int i = 0; i < 5 && folders[_i].files[i]; i++)
        put_st(dir, folders[_i].files[i], folders[_i].files[i]);
    if (!folders[_i].takes)
        refuses(dir, folders[_i].code, folders[_i].says, folders[_i].files[0]);
    else {
        ds_weights *w = opens(dir, NULL);
        ck_assert_uint_eq(ds_weights_count(w), 1);
        ck_assert_str_eq(ds_weights_at(w, 0)->name, folders[_i].takes);
        ck_assert_str_eq(w->beside, folders[_i].says);
        ck_assert_str_eq(ds_weights_dir(w), dir);
        ck_assert_str_eq(ds_weights_path(w), dir);
        ck_assert_int_eq(ds_weights_is_file(w), 0);
        ds_weights_close(w);
    }
    free(dir);
}
END_TEST

START_TEST(many_files_beside) {
    char *dir = new_folder("many"), name[40];
    put_st(dir, "model.safetensors", "w");
    for (int i = 10; i < 40; i++) {
        snprintf(name, sizeof name, "checkpoint-%d.pt", i);
        put(dir, name, "x", 1);
    }
    ds_weights *w = opens(dir, NULL);
    ck_assert(!strncmp(w->beside, "checkpoint-10.pt, checkpoint-11.pt, ", 36));
    ck_assert_ptr_nonnull(strstr(w->beside, ", ..."));
    ck_assert_uint_lt(strlen(w->beside), sizeof w->beside);
    ck_assert_str_eq(strstr(w->beside, ", ..."), ", ..."); /* once, at the end */
    ds_weights_close(w);
    free(dir);
}
END_TEST

START_TEST(subfolders) {
    char *dir = new_folder("pipeline"), *sub = ds_xasprintf("%s/transformer", dir);
    put_st(dir, "model.safetensors", "outer");
    ds_weights *w = opens(dir, "transformer"); /* there is none */
    ck_assert_str_eq(ds_weights_at(w, 0)->name, "outer");
    ds_weights_close(w);
    put(dir, "transformer", "x", 1); /* no folder */
    w = opens(dir, "transformer");
    ck_assert_str_eq(ds_weights_at(w, 0)->name, "outer");
    ds_weights_close(w);
    unlink(sub);
    mkdir(sub, 0700);
    put_st(sub, "model.safetensors", "inner");
    w = opens(dir, "transformer");
    ck_assert_str_eq(ds_weights_at(w, 0)->name, "inner");
    ck_assert_str_eq(ds_weights_dir(w), sub);
    ds_weights_close(w);
    w = opens(dir, NULL);
    ck_assert_str_eq(ds_weights_at(w, 0)->name, "outer");
    ds_weights_close(w);
    free(sub);
    free(dir);
}
END_TEST

/* config.json beside a file and in a folder; one that cannot be read is no missing one. */
START_TEST(configurations_beside) {
    char *dir = new_folder("config"), *file = ds_xasprintf("%s/model.safetensors", dir);
    put_st(dir, "model.safetensors", "w");
    for (int i = 0; i < 2; i++) {
        ds_weights *w = opens(i ? file : dir, NULL);
        ck_assert_ptr_null(ds_weights_config(w));
        ck_assert_int_eq(ds_weights_is_file(w), i);
        ds_weights_close(w);
    }
    put(dir, "config.json", "{\"depth\":3}", 11);
    for (int i = 0; i < 2; i++) {
        ds_weights *w = opens(i ? file : dir, NULL);
        ck_assert_int_eq(ds_json_int(ds_weights_config(w), "depth", 0), 3);
        ds_weights_close(w);
    }
    put(dir, "config.json", "{\"depth\":3", 10);
    for (int i = 0; i < 2; i++)
        refuses(i ? file : dir, DS_EINVAL, "config.json", "a damaged config.json");
    free(file);
    free(dir);
}
END_TEST

/* ---------------------------------------------------------------- shards */

START_TEST(one_shard_of_several) {
    char *dir = new_folder("shards"),
         *one = ds_xasprintf("%s/model-00001-of-00002.safetensors", dir);
    put_st(dir, "model-00001-of-00002.safetensors", "a");
    ds_weights_close(opens(one, NULL)); /* nothing says that there are others */
    static const char index[] = "{\"weight_map\":{\"a\":\"model-00001-of-00002.safetensors\","
                                "\"b\":\"model-00002-of-00002.safetensors\"}}";
    put(dir, "model.safetensors.index.json", index, sizeof index - 1);
    refuses(one, DS_EINVAL, "is one of several shards: give the folder, or '", "a shard");
    refuses(dir, DS_ENOTFOUND, "00002-of-00002", "a shard is missing");
    put_st(dir, "model-00002-of-00002.safetensors", "c");
    refuses(dir, DS_EINTEGRITY, "00002-of-00002.safetensors' has none of the tensors that the",
            "a shard of another model");
    put_st(dir, "model-00002-of-00002.safetensors", "b");
    ds_weights *w = opens(dir, NULL);
    ck_assert_uint_eq(ds_weights_count(w), 2);
    ck_assert_str_eq(ds_weights_format(w), "safetensors shards");
    ck_assert_ptr_null(ds_weights_meta(w, "format"));
    ds_weights_close(w);
    put_st(dir, "alone.safetensors", "c");
    char *alone = ds_xasprintf("%s/alone.safetensors", dir);
    w = opens(alone, NULL);
    ck_assert_str_eq(ds_weights_format(w), "safetensors");
    ds_weights_close(w);
    free(alone);
    free(one);
    free(dir);
}
END_TEST

/* Names of shards are plain names; and an index has no more tensors than a file may have. */
START_TEST(names_in_an_index) {
    char *dir = new_folder("names"), *index = ds_xasprintf("%s/x.index.json", dir), name[300];
    static const struct {
        int length;
        const char *first;
        int code;
        const char *says;
    } cases[] = {{199, "a", DS_EIO, "cannot open"},
                 {200, "a", DS_EINTEGRITY, "not a plain file name"},
                 {0, "", DS_EINTEGRITY, "not a plain file name"},
                 {9, ".", DS_EINTEGRITY, "not a plain file name"},
                 {9, "a/", DS_EINTEGRITY, "not a plain file name"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        memset(name, 'a', sizeof name);
        memcpy(name, cases[i].first, strlen(cases[i].first));
        name[cases[i].length] = 0;
        char *text = ds_xasprintf("{\"weight_map\":{\"t\":\"%s\"}}", name);
        put(dir, "x.index.json", text, strlen(text));
        ds_weights *w = NULL;
        ds_error err = {0};
        int rc = ds_weights_open(&w, index, NULL, &err);
        ck_assert_msg(rc && (rc == cases[i].code || !i), "case %zu: %d", i, rc);
        ck_assert_msg(strstr(err.message, cases[i].says) != NULL, "case %zu: %s", i, err.message);
        free(text);
    }
    ds_buf b = {0};
    ds_buf_addf(&b, "{\"weight_map\":{");
    for (int i = 0; i <= DS_ST_TENSORS_MAX; i++)
        ds_buf_addf(&b, "%s\"%d\":\"f\"", i ? "," : "", i);
    ds_buf_addf(&b, "}}");
    put(dir, "x.index.json", b.data, b.len);
    refuses(index, DS_EINTEGRITY, "no usable weight_map", "100001 tensors");
    ds_buf_release(&b);
    free(index);
    free(dir);
}
END_TEST

static struct {
    uint64_t done[16], total;
    int calls, stop_at;
} told;

static int tell(void *user, double done, double total) {
    ck_assert(user == &told);
    told.done[told.calls++] = (uint64_t)done;
    told.total = (uint64_t)total;
    return told.calls == told.stop_at;
}

/* Of a file its own digest, of several that of the lines of sha256sum, by name. */
START_TEST(digests) {
    char *dir = new_folder("digest"), sha[2][DS_HEX_SIZE], hex[DS_HEX_SIZE], want[DS_HEX_SIZE];
    static const char *const names[] = {"a.safetensors", "b.safetensors"};
    static const char index[] =
        "{\"weight_map\":{\"x\":\"b.safetensors\",\"y\":\"a.safetensors\"}}";
    uint64_t size[2];
    ds_error err = {0};
    for (int i = 0; i < 2; i++) {
        put_st(dir, names[i], i ? "x" : "y");
        char *path = ds_xasprintf("%s/%s", dir, names[i]);
        struct stat sb;
        ck_assert_int_eq(ds_digest_file(path, sha[i], NULL), 0);
        ck_assert_int_eq(stat(path, &sb), 0);
        size[i] = (uint64_t)sb.st_size;
        ds_weights *w = opens(path, NULL);
        told.calls = told.stop_at = 0;
        ck_assert_int_eq(ds_weights_digest(w, hex, tell, &told, NULL), 0);
        ck_assert_str_eq(hex, sha[i]);
        ck_assert(told.calls == 1 && told.done[0] == size[i] && told.total == size[i]);
        ck_assert(ds_weights_file_bytes(w) == size[i]);
        told.calls = 0;
        told.stop_at = 1;
        ck_assert_int_eq(ds_weights_digest(w, hex, tell, &told, &err), DS_ECANCELED);
        ck_assert_ptr_nonnull(strstr(err.message, "was cancelled"));
        ds_weights_close(w);
        free(path);
    }
    put(dir, "model.safetensors.index.json", index, sizeof index - 1);
    ds_weights *w = opens(dir, NULL);
    char *lines = ds_xasprintf("%s  %s\n%s  %s\n", sha[0], names[0], sha[1], names[1]);
    ds_digest(lines, strlen(lines), want);
    told.calls = told.stop_at = 0;
    ck_assert_int_eq(ds_weights_digest(w, hex, tell, &told, NULL), 0);
    ck_assert_str_eq(hex, want);
    ck_assert(told.calls == 2 && told.done[0] == size[0] && told.done[1] == size[0] + size[1] &&
              told.total == size[0] + size[1]);
    for (int at = 1; at <= 2; at++) {
        told.calls = 0;
        told.stop_at = at;
        ck_assert_int_eq(ds_weights_digest(w, hex, tell, &told, &err), DS_ECANCELED);
        ck_assert_int_eq(told.calls, at);
    }
    ds_weights_close(w);
    free(lines);
    free(dir);
}
END_TEST

/* Another time is another file, if only by a nanosecond. */
START_TEST(changes_while_it_is_open) {
    char *dir = new_folder("changes"), *path = ds_xasprintf("%s/a.safetensors", dir);
    struct timespec times[2] = {{.tv_sec = 1000, .tv_nsec = 5}, {.tv_sec = 1000, .tv_nsec = 5}};
    ds_error err = {0};
    put_st(dir, "a.safetensors", "w");
    ck_assert_int_eq(utimensat(AT_FDCWD, path, times, 0), 0);
    ds_weights *w = opens(path, NULL);
    ck_assert_int_eq(ds_weights_unchanged(w, NULL), 0);
    for (int i = 0; i < 2; i++) {
        struct timespec t[2] = {times[0], times[1]};
        t[1].tv_sec += i;
        t[1].tv_nsec += !i;
        ck_assert_int_eq(utimensat(AT_FDCWD, path, t, 0), 0);
        ck_assert_int_eq(ds_weights_unchanged(w, &err), DS_ECONFLICT);
        ck_assert_ptr_nonnull(strstr(err.message, "changed while it was read"));
    }
    ck_assert_int_eq(utimensat(AT_FDCWD, path, times, 0), 0);
    ck_assert_int_eq(ds_weights_unchanged(w, NULL), 0);
    ck_assert_int_eq(truncate(path, 40), 0);
    ck_assert_int_eq(utimensat(AT_FDCWD, path, times, 0), 0);
    ck_assert_int_eq(ds_weights_unchanged(w, NULL), DS_ECONFLICT);
    float x[2];
    ck_assert_int_eq(ds_weights_read(w, ds_weights_at(w, 0), x, &err), DS_EINTEGRITY);
    ck_assert_ptr_nonnull(strstr(err.message, "ends before its data do"));
    ds_weights_close(w);
    free(path);
    free(dir);
}
END_TEST

/* ---------------------------------------------------------------- safetensors */

/* The second byte of the length is a pickle's version of PyTorch, the first is no mark of one. */
START_TEST(headers_of_any_length) {
    char *dir = new_folder("lengths"), *path = ds_xasprintf("%s/a.safetensors", dir), pad[2000];
    memset(pad, 'x', sizeof pad);
    for (size_t n = 0; n < 1900; n += 64) {
        ds_st_writer *s = ds_st_writer_new();
        char *bytes;
        size_t size;
        float x[2];
        pad[n] = 0;
        ds_st_writer_meta(s, "pad", pad);
        pad[n] = 'x';
        ds_st_writer_add(s, "w", DS_ST_F32, 1, (int64_t[]){2}, numbers);
        ck_assert_int_eq(ds_st_writer_finish(s, &bytes, &size, NULL), 0);
        put(dir, "a.safetensors", bytes, size);
        ds_weights *w = opens(path, NULL);
        ck_assert_str_eq(ds_weights_format(w), "safetensors");
        ck_assert_uint_eq(strlen(ds_weights_meta(w, "pad")), n);
        ck_assert_ptr_null(ds_weights_meta(w, "other"));
        ck_assert_int_eq(ds_weights_read_f32(w, ds_weights_at(w, 0), x, NULL), 0);
        ck_assert(x[0] == 1 && x[1] == 2);
        ds_weights_close(w);
        free(bytes);
        ds_st_writer_free(s);
    }
    static const struct {
        size_t n;
        const char *says;
    } shorts[] = {{0, "it has 0 bytes"}, {1, "it has 1 bytes"}, {15, "it has 15 bytes"}};
    for (int i = 0; i < 3; i++) {
        put(dir, "a.safetensors", "\x08\0\0\0\0\0\0\0{}      ", shorts[i].n);
        refuses(path, DS_EINTEGRITY, shorts[i].says, "a short file");
    }
    put(dir, "a.safetensors", "\x08\0\0\0\0\0\0\0{}      ", 16);
    refuses(path, DS_EINVAL, "has no tensors", "no tensor");
    put(dir, "a.safetensors", "\x1f\x8a\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16);
    refuses(path, DS_EINVAL, "is not a file of weights", "half of gzip's mark");
    put(dir, "a.safetensors", "\x1f\x8b\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16);
    refuses(path, DS_EINVAL, "gzip", "gzip's mark");
    put(dir, "a.safetensors", "\x80\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16);
    refuses(path, DS_EINVAL, "is not a file of weights", "protocol 1");
    put(dir, "a.safetensors", "\x80\6\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16);
    refuses(path, DS_EINVAL, "is not a file of weights", "protocol 6");
    for (char v = 2; v <= 5; v++) {
        put(dir, "a.safetensors", (char[]){'\x80', v, 'N', '.', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
            16);
        refuses(path, DS_EINVAL, "Python pickle but no PyTorch", "a pickle");
    }
    free(path);
    free(dir);
}
END_TEST

START_TEST(shapes_and_types_that_are_asked_for) {
    static const struct {
        const char *name;
        enum ds_st_dtype type;
        const void *bits;
        float want[2]; /* 0: refused */
    } types[] = {{"f64", DS_ST_F64, "\0\0\0\0\0\0\xf8\x3f\0\0\0\0\0\0\x04\xc0", {1.5f, -2.5f}},
                 {"f32", DS_ST_F32, "\0\0\xc0\x3f\0\0\x20\xc0", {1.5f, -2.5f}},
                 {"f16", DS_ST_F16, "\x00\x3e\x00\xc1", {1.5f, -2.5f}},
                 {"bf16", DS_ST_BF16, "\xc0\x3f\x20\xc0", {1.5f, -2.5f}},
                 {"i64", DS_ST_I64, "\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0", {0, 0}}};
    char *dir = new_folder("types"), *path = ds_xasprintf("%s/a.safetensors", dir), *bytes;
    size_t n;
    ds_st_writer *s = ds_st_writer_new();
    for (int i = 0; i < 5; i++)
        ds_st_writer_add(s, types[i].name, types[i].type, 2, (int64_t[]){2, 1}, types[i].bits);
    ck_assert_int_eq(ds_st_writer_finish(s, &bytes, &n, NULL), 0);
    put(dir, "a.safetensors", bytes, n);
    ds_weights *w = opens(path, NULL);
    ds_error err = {0};
    for (int i = 0; i < 5; i++) {
        const ds_weights_tensor *t = ds_weights_find(w, types[i].name);
        float x[2] = {9, 9};
        uint16_t h[2];
        char raw[16];
        ck_assert_ptr_nonnull(t);
        ck_assert(t->count == 2 && t->bytes == 2 * ds_st_dtype_size(types[i].type) && t->ndim == 2);
        ck_assert_int_eq(ds_weights_read(w, t, raw, NULL), 0);
        ck_assert(!memcmp(raw, types[i].bits, t->bytes));
        int rc = ds_weights_read_f32(w, t, x, &err);
        ck_assert_int_eq(rc, i == 4 ? DS_EINVAL : 0);
        ck_assert_int_eq(ds_weights_read_bf16(w, t, h, NULL), rc);
        if (rc)
            ck_assert_msg(strstr(err.message, "'i64' is of type I64, which is not supported") !=
                              NULL,
                          "%s", err.message);
        else
            ck_assert(x[0] == types[i].want[0] && x[1] == types[i].want[1] && h[0] == 0x3fc0 &&
                      h[1] == 0xc020);
    }
    const ds_weights_tensor *t = NULL;
    static const struct {
        const char *name;
        int ndim;
        int64_t shape[3];
        const char *says;
    } needs[] = {{"f32", 2, {2, 1}, NULL},
                 {"f32", -1, {0}, NULL},
                 {"f32", 1, {2}, "has shape [2,1], expected [2]"},
                 {"f32", 2, {2, 2}, "has shape [2,1], expected [2,2]"},
                 {"f32", 2, {1, 1}, "expected [1,1]"},
                 {"f32", 3, {2, 1, 1}, "expected [2,1,1]"},
                 {"f3", -1, {0}, "has no tensor 'f3'"}};
    for (size_t i = 0; i < sizeof needs / sizeof *needs; i++) {
        int rc = ds_weights_need(w, needs[i].name, needs[i].ndim, needs[i].shape, &t, &err);
        ck_assert_msg(rc == (needs[i].says ? DS_EINVAL : 0), "case %zu: %d", i, rc);
        ck_assert_msg(!rc || strstr(err.message, needs[i].says), "case %zu: %s", i, err.message);
    }
    ds_weights_close(w);
    ds_weights_close(NULL);
    ds_st_writer_free(s);
    free(bytes);
    free(path);
    free(dir);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, file_of_a_folder, 0, (int)(sizeof folders / sizeof *folders));
    tcase_add_test(tc, many_files_beside);
    tcase_add_test(tc, subfolders);
    tcase_add_test(tc, configurations_beside);
    tcase_add_test(tc, one_shard_of_several);
    tcase_add_test(tc, names_in_an_index);
    tcase_add_test(tc, digests);
    tcase_add_test(tc, changes_while_it_is_open);
    tcase_add_test(tc, headers_of_any_length);
    tcase_add_test(tc, shapes_and_types_that_are_asked_for);
}

int main(void) { return ds_test_main("engine_weights_files", register_cases); }
