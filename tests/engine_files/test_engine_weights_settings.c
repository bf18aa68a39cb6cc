/* tests/engine_files/test_engine_weights_settings.c - settings beside tensors, shards, folders and files that are no weights. */
#include "tests/engine_files/weights_bytes.h"
#include "base/fs.h"
#include "engine/files/pickle.h"
#include "engine/files/weights.h"
#include "tests/harness.h"
#include "tests/engine_files/weights_files.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zip.h>

/* ---------------------------------------------------------------- settings */

/* {"w": tensor, "prediction": "v", "config": {"lr": 1, "depth": 2, "num_heads": 2}, "args": Namespace(depth=3,
 * num_heads=3, kind=Kind(2), name=Kind("flow"), heads=numpy.int64(-2), drop=numpy.float64(0.5))} */
static void settings(ds_buf *p) {
    static const uint8_t two[] = {0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
                         half[] = {0, 0, 0, 0, 0, 0, 0xe0, 0x3f};
    ds_buf_add(p, "\x80\x02}(", 4);
    pk_text(p, "w");
    pk_tensor(p, &plain, 0);
    pk_text(p, "prediction");
    pk_text(p, "v");
    pk_text(p, "epoch");
    pk_int(p, 7);
    pk_text(p, "config");
    ds_buf_add(p, "}(", 2);
    pk_text(p, "lr");
    pk_int(p, 1);
    pk_text(p, "depth");
    pk_int(p, 2);
    pk_text(p, "num_heads");
    pk_int(p, 2);
    ds_buf_add(p, "u", 1);
    pk_text(p, "args");
    pk_global(p, "argparse", "Namespace");
    ds_buf_add(p, ")\x81}(", 4);
    pk_text(p, "depth");
    pk_int(p, 3);
    pk_text(p, "num_heads");
    pk_int(p, 3);
    pk_text(p, "kind");
    pk_global(p, "train", "Kind");
    ds_buf_add(p, "(K\2tR", 5);
    pk_text(p, "name");
    pk_global(p, "train", "Kind");
    ds_buf_add(p, "(", 1);
    pk_text(p, "flow");
    ds_buf_add(p, "tR", 2);
    for (int i = 0; i < 2; i++) {
        pk_text(p, i ? "drop" : "heads");
        pk_global(p, "numpy.core.multiarray", "scalar");
        ds_buf_add(p, "(", 1);
        pk_global(p, "numpy", "dtype");
        ds_buf_add(p, "(", 1);
        pk_text(p, i ? "f8" : "i8");
        ds_buf_add(p, "\x89\x88tR(K\3", 7);
        pk_text(p, "<");
        ds_buf_add(p, "tb", 2);
        pk_global(p, "_codecs", "encode");
        ds_buf_add(p, "(X", 2);
        ds_buf text = {0}; /* Latin-1 as UTF-8 */
        for (int k = 0; k < 8; k++) {
            uint8_t c = i ? half[k] : two[k],
                    utf8[2] = {(uint8_t)(0xc0 | c >> 6), (uint8_t)(0x80 | (c & 0x3f))};
            if (c < 0x80)
                ds_buf_add(&text, (const char *)&c, 1);
            else
                ds_buf_add(&text, (const char *)utf8, 2);
        }
        number(p, text.len, 4);
        ds_buf_add(p, text.data, text.len);
        ds_buf_release(&text);
        pk_text(p, "latin1");
        ds_buf_add(p, "tRtR", 4);
    }
    ds_buf_add(p, "ubu.", 4);
}

START_TEST(settings_are_found) {
    ds_buf p = {0};
    settings(&p);
    ds_buf f = zip_of(&p, numbers, sizeof numbers);
    char *path = tmp("settings.pt");
    put(path, f.data, f.len);
    ds_weights *w;
    ds_error err = {0};
    ck_assert_msg(!ds_weights_open(&w, path, NULL, &err), "%s", err.message);
    const json_t *a = ds_weights_args(w);
    ck_assert_str_eq(ds_json_string(a, "prediction", ""), "v"); /* alone, and of a known name */
    ck_assert_ptr_null(json_object_get(a, "epoch"));
    ck_assert_int_eq(ds_json_int(a, "lr", 0), 1); /* all documents */
    ck_assert_int_eq(ds_json_int(a, "depth", 0), 2);
    ck_assert_int_eq(ds_json_int(json_object_get(a, "args"), "depth", 0), 3); /* both, if not one */
    ck_assert_str_eq(ds_json_string(a, "(conflict)", ""), "num_heads"); /* a number that is used */
    ck_assert_str_eq(ds_json_string(a, "kind", ""), "train.Kind(2)");
    ck_assert_str_eq(ds_json_string(a, "name", ""), "flow");
    ck_assert_int_eq(ds_json_int(a, "heads", 0), -2);
    ck_assert_double_eq(ds_json_number(a, "drop", 0), 0.5);
    ds_weights_close(w);
    ds_buf_release(&f);
    ds_buf_release(&p);
    free(path);
}
END_TEST

/* The metadata of a safetensors file: ModelSpec's names, plain names, documents of JSON. */
START_TEST(settings_in_metadata) {
    ds_st_writer *s = ds_st_writer_new();
    char *bytes, *path = tmp("metadata.safetensors");
    size_t n;
    ds_weights *w;
    ds_error err = {0};
    ds_st_writer_meta(s, "format", "pt");
    ds_st_writer_meta(s, "modelspec.prediction_type", "v");
    ds_st_writer_meta(s, "num_heads", "6");
    ds_st_writer_meta(s, "config", "{\"beta_end\": 0.01}");
    ds_st_writer_add(s, "w", DS_ST_F32, 1, (int64_t[]){2}, numbers);
    ck_assert_int_eq(ds_st_writer_finish(s, &bytes, &n, NULL), 0);
    put(path, bytes, n);
    ck_assert_msg(!ds_weights_open(&w, path, NULL, &err), "%s", err.message);
    const json_t *a = ds_weights_args(w);
    ck_assert_str_eq(ds_json_string(a, "prediction_type", ""), "v");
    ck_assert_int_eq(ds_json_int(a, "num_heads", 0), 6);
    ck_assert_double_eq(ds_json_number(a, "beta_end", 0), 0.01);
    ck_assert_uint_eq(json_object_size(a), 3);
    ds_weights_close(w);
    ds_st_writer_free(s);
    free(bytes);
    free(path);
}
END_TEST

/* ---------------------------------------------------------------- shards, folders, other files */

static void shard(const char *path, const char *name) {
    ds_st_writer *w = ds_st_writer_new();
    char *bytes;
    size_t n;
    ds_st_writer_add(w, name, DS_ST_F32, 1, (int64_t[]){2}, numbers);
    ck_assert_int_eq(ds_st_writer_finish(w, &bytes, &n, NULL), 0);
    put(path, bytes, n);
    free(bytes);
    ds_st_writer_free(w);
}

START_TEST(indexes) {
    static const struct {
        const char *map, *says; /* NULL: is right */
    } maps[] = {
        {"{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}", NULL},
        {"{\"a\":\"1.safetensors\",\"b\":\"3.safetensors\"}", "3.safetensors"},
        {"{\"a\":\"1.safetensors\",\"c\":\"2.safetensors\"}", "none of the tensors"},
        {"{\"a\":\"1.safetensors\",\"b\":\"1.safetensors\"}", "some are missing"},
        {"{\"a\":\"../1.safetensors\"}", "plain file name"},
        {"{\"a\":\"/etc/passwd\"}", "plain file name"},
        {"{\"a\":\"..\"}", "plain file name"},
        {"{\"a\":5}", "plain file name"},
        {"{}", "weight_map"},
        {"[]", "weight_map"},
    };
    char *dir = tmp("shards");
    mkdir(dir, 0700);
    char *one = ds_xasprintf("%s/1.safetensors", dir), *two = ds_xasprintf("%s/2.safetensors", dir),
         *index = ds_xasprintf("%s/model.safetensors.index.json", dir);
    shard(one, "a");
    shard(two, "b");
    char *text = ds_xasprintf("{\"metadata\":{},\"weight_map\":%s}", maps[_i].map);
    put(index, text, strlen(text));
    ds_weights *w;
    ds_error err;
    for (int k = 0; k < 2; k++) { /* the folder and the index itself */
        int rc = ds_weights_open(&w, k ? index : dir, "transformer", &err);
        if (!maps[_i].says) {
            ck_assert_msg(!rc, "%s", err.message);
            ck_assert_uint_eq(ds_weights_count(w), 2);
            char hex[DS_HEX_SIZE];
            ck_assert(!ds_weights_digest(w, hex, NULL, NULL, &err));
            ds_weights_close(w);
        } else
            ck_assert_msg(rc && strstr(err.message, maps[_i].says), "%s", err.message);
    }
    free(text);
    free(one);
    free(two);
    free(index);
    free(dir);
}
END_TEST

START_TEST(folders_and_other_files) {
    ds_weights *w;
    ds_error err;
    char *dir = tmp("folder"), *a = ds_xasprintf("%s/a.pt", dir),
         *b = ds_xasprintf("%s/b.safetensors", dir);
    mkdir(dir, 0700);
    ck_assert_int_eq(ds_weights_open(&w, dir, NULL, &err), DS_ENOTFOUND);
    ck_assert_ptr_nonnull(strstr(err.message, "no weight file"));
    shard(b, "x");
    ck_assert_msg(!ds_weights_open(&w, dir, NULL, &err), "%s", err.message);
    ds_weights_close(w);
    shard(a, "x");
    ck_assert_int_eq(ds_weights_open(&w, dir, NULL, &err), DS_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "2 weight files"));
    static const struct {
        const char *bytes, *says;
    } others[] = {{"version https://git-lfs.github.com/spec/v1\n", "Git LFS"},
                  {"<!DOCTYPE html><html></html>", "web page"},
                  {"\x1f\x8b\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "gzip"},
                  {"hello, this is some text, and no weights", "not a file of weights"},
                  {"short", "5 bytes"}};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        refused(others[i].bytes, i == 2 ? 18 : strlen(others[i].bytes), 0, others[i].says,
                others[i].says);
    char *pieces = tmp("pieces"), *piece = ds_xasprintf("%s/__0_0.distcp", pieces),
         *metadata = ds_xasprintf("%s/.metadata", pieces);
    mkdir(pieces, 0700); /* of torch.distributed.checkpoint: whole, but of another kind */
    put(piece, "PK\3\4 of a zip in pieces", 23);
    put(metadata, "\x80\x02}q\1. of a pickle", 18);
    const char *given[] = {pieces, piece, metadata};
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(ds_weights_open(&w, given[i], NULL, &err), DS_EINVAL);
        ck_assert_msg(strstr(err.message, "torch.distributed") != NULL, "%s", err.message);
    }
    free(metadata);
    free(piece);
    free(pieces);
    char *fifo = tmp("fifo");
    ck_assert_int_eq(mkfifo(fifo, 0600), 0); /* must not wait for a writer */
    ck_assert_int_eq(ds_weights_open(&w, fifo, NULL, &err), DS_EINVAL);
    ck_assert_int_eq(ds_weights_open(&w, "/nonexistent", NULL, &err), DS_ENOTFOUND);
    free(fifo);
    free(dir);
    free(a);
    free(b);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, settings_are_found);
    tcase_add_test(tc, settings_in_metadata);
    tcase_add_loop_test(tc, indexes, 0, 10);
    tcase_add_test(tc, folders_and_other_files);
}

int main(void) { return ds_test_main("engine_weights_settings", register_cases); }
