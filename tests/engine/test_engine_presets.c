/* tests/engine/test_engine_presets.c - what has been published stays what it is: order and start
 * values of each method's entries, and the bytes of its files.
 *
 * Random start values are named by an entry's position in the table, and with freeze_v they are in
 * no file.  So a published adapter reads the same only while no entry before another one comes or
 * goes.  The digests of affiner, embedding and full were made before methods were made of parts, those
 * of a later method with it; none ever changes. */
#include "base/fs.h"
#include "base/mem.h"
#include "base/zio.h"
#include "tests/harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IMAGES = 1, DEPTH = 1 };
#include "tests/fixtures/engine_small.h"

static const char golden[] = "tests/golden/freeze_v.safetensors.zst";

static const struct {
    const char *name;
    ds_method_spec spec;
    const char *values; /* SHA-256 of the fresh array, with what no file has */
    const char *file;   /* .. of the file, once it was "trained" */
} presets[] = {
    {"affiner",
     {.method = DS_METHOD_AFFINER, .rank = 8, .targets = 255, .classes = CLASSES, .seed = 1},
     "af28bc2652d7ac9de6d5eaefbab21f15fbde69bbaf0bb9548c4aba3312d2a205",
     "c979f21091881870a7fb7f57e861f8661af6760bf6733e568e2eb3fd62e8a655"},
    {"affiner, rank 0",
     {.method = DS_METHOD_AFFINER, .targets = 1023, .classes = CLASSES, .seed = 1},
     "68ce687fee2725dfd9a4b4e4825fe36dbe8e6ca9e314d54263b39bf9b955c395",
     "5bac09301c520e2188cb19232c8b62b53e58ce7931c1d5ab752551280dd756aa"},
    {"affiner, side in, relu",
     {.method = DS_METHOD_AFFINER,
      .rank = 2,
      .side_in = 1,
      .phi_relu = 1,
      .targets = 1023,
      .classes = CLASSES,
      .seed = 3},
     "269b9425585a9315e3afca3883e5e094dc3195b406793c32e28c3192cea4c44d",
     "3f620fa7066c162592e9504af69ee8eb1fdcc60d59382bbeaf83e9e8403582e9"},
    {"embedding",
     {.method = DS_METHOD_EMBEDDING, .rank = 8, .targets = 255, .classes = CLASSES, .seed = 1},
     "60bc09813b156715feff9032d46d77a17bac670ac831c58d1b0ed7dfddb2b029",
     "59dbce74181fe996555887aafe55b4f3756c1a1f9c9a629ee1cd371e851d1c87"},
    {"full",
     {.method = DS_METHOD_FULL, .rank = 8, .targets = 255, .classes = CLASSES, .seed = 1},
     "ba519d13e5d239827a57c7c148c5124597d38da31e1afdc6ac3b34bc96655849",
     "494181976e6dc17789c0707ff9fd48cc165c6db0e6f2354b215992f479ee0c04"},
    {"bitfit",
     {.method = DS_METHOD_BITFIT, .classes = CLASSES, .seed = 1},
     "79eefc33727f30d88cff1b015dcd888d39e88ab025bd283283988502ca3dc679",
     "e79c3f7d09525624818ead901475e851290ffe4f1eb29f689fefa0395fb9fb05"},
    {"freeze_v, as published", /* tests/golden/freeze_v.safetensors.zst */
     {.method = DS_METHOD_AFFINER,
      .rank = 4,
      .freeze_v = 1,
      .targets = 255 & ~DS_TARGET_K,
      .classes = CLASSES,
      .seed = 11},
     "d470df1549a28f6e2ec9ce93a614686c4d8588551d7bdb56ff9b58b194f4d94f",
     "eede53f4a27946ee5dbf0d27c25dccaef6c4ec27f115860d1d57a5ed4321dcfd"},
};
enum { PRESETS = sizeof presets / sizeof presets[0], FREEZE_V = PRESETS - 1 };

static ds_base *base;

static void make_base(void) {
    base = base_without_zeros();
    memset(base->sha256, 'a', 64);
    base->sha256[64] = 0;
}

static ds_adapter *fresh(const ds_method_spec *spec) {
    static const char *const names[] = {"cat", "dog", "hen"};
    ds_adapter *a;
    ds_error err;
    ck_assert_msg(!ds_adapter_new(&a, base, spec, &err), "%s", err.message);
    a->class_names = ds_xcalloc(CLASSES, sizeof *a->class_names);
    for (int i = 0; i < CLASSES; i++)
        a->class_names[i] = ds_xstrdup(names[i]);
    return a;
}

/* As after a training: all that is trained has moved, and is as its file holds it. */
static void move(ds_adapter *a) {
    for (int i = 0; i < a->table.count; i++) {
        const ds_param *p = &a->table.items[i];
        float *by = ds_xmalloc(p->count * sizeof *by);
        ds_rng_normal(by, p->count, 2, DS_STREAM_TEST, (uint32_t)i, 0);
        for (size_t j = 0; j < p->count && !p->frozen; j++)
            a->data[p->offset + j] += by[j] * 0.125f;
        free(by);
    }
    ds_params_round(&a->table, a->data);
}

static void values_digest(const ds_adapter *a, char out[DS_HEX_SIZE]) {
    ds_digest(a->data, a->table.total * sizeof *a->data, out);
}

static char *encoded(const ds_adapter *a, size_t *n) {
    json_t *meta = json_pack("{s:s, s:{s:s, s:i}}", "name", "animals", "dataset", "name", "animals",
                             "images", 30);
    char *bytes;
    ck_assert_int_eq(ds_adapter_encode(a, base, meta, &bytes, n, NULL), 0);
    json_decref(meta);
    return bytes;
}

START_TEST(a_preset_keeps_its_bytes) {
    ds_adapter *a = fresh(&presets[_i].spec);
    char values[DS_HEX_SIZE], file[DS_HEX_SIZE];
    size_t n;
    values_digest(a, values);
    move(a);
    char *bytes = encoded(a, &n);
    ds_digest(bytes, n, file);
    ck_assert_msg(!strcmp(values, presets[_i].values) && !strcmp(file, presets[_i].file),
                  "%s: values %s, file %s", presets[_i].name, values, file);
    free(bytes);
    ds_adapter_free(a);
}
END_TEST

START_TEST(every_method_is_here) {
    for (int m = 0; ds_preset_table[m].name; m++) {
        int found = 0;
        for (int i = 0; i < PRESETS; i++)
            found |= (int)presets[i].spec.method == m;
        ck_assert_msg(found, "method '%s' has no digests here", ds_preset_table[m].name);
    }
}
END_TEST

/* What a method does not take is not in its adapter, whatever was asked for. */
static void expect_kept(int method) {
    const ds_preset *p = &ds_preset_table[method];
    const ds_method_spec all = {.method = (enum ds_method)method,
                                .rank = 3,
                                .phi_relu = 1,
                                .freeze_v = 1,
                                .side_in = 1,
                                .targets = 7,
                                .classes = CLASSES};
    ds_adapter *a = fresh(&all);
    ck_assert_int_eq(a->spec.rank, ds_preset_keeps(p, "rank") ? 3 : 0);
    ck_assert_int_eq(a->spec.phi_relu, ds_preset_keeps(p, "phi"));
    ck_assert_int_eq(a->spec.freeze_v, ds_preset_keeps(p, "freeze_v"));
    ck_assert_int_eq(a->spec.side_in, ds_preset_keeps(p, "side"));
    ck_assert_uint_eq(a->spec.targets,
                      ds_preset_keeps(p, "targets") ? 7 : ds_method_targets(all.method));
    ck_assert(!strcmp(p->name, "bitfit") ? !a->spec.phi_relu : a->spec.phi_relu);
    ds_adapter_free(a);
}

START_TEST(options_that_are_not_kept) {
    for (int m = 0; ds_preset_table[m].name; m++)
        expect_kept(m);
}
END_TEST

/* bitfit has the rows, then each bias as the base has it, and nothing else: no option changes that. */
START_TEST(bitfit_is_biases_and_rows) {
    static const char says[] =
        "{\"freeze_v\":false,\"init_seed\":1,\"name\":\"bitfit\",\"parts\":[\"rows\",\"biases\"],"
        "\"phi\":\"identity\",\"rank\":0,\"rng\":1,\"side\":\"out\",\"targets\":[\"q\",\"k\",\"v\","
        "\"proj\",\"fc1\",\"fc2\",\"adaln\",\"final\",\"patch\",\"time\"]}";
    ds_method_spec spec = {.method = DS_METHOD_BITFIT,
                           .rank = 8,
                           .side_in = 1,
                           .phi_relu = 1,
                           .freeze_v = 1,
                           .targets = DS_TARGET_Q,
                           .classes = CLASSES,
                           .seed = 1},
                   plain = {.method = DS_METHOD_BITFIT, .classes = CLASSES, .seed = 1};
    ds_adapter *a = fresh(&spec), *b = fresh(&plain), *read;
    ck_assert_int_eq(a->table.count, 1 + ds_lin_count(&config));
    ck_assert_str_eq(a->table.items[0].name, "y_embedder.rows");
    for (int i = 0; i < ds_lin_count(&config); i++) {
        const ds_param *p = &a->table.items[1 + i], *of = &base->table.items[base->layers[i].bias];
        ck_assert_str_eq(p->name, of->name);
        ck_assert(p == ds_adapter_bias(&a->table, i) && !p->frozen);
        ck_assert(!memcmp(a->data + p->offset, base->data + of->offset, p->count * sizeof(float)));
    }
    ck_assert_uint_eq(ds_params_trained(&a->table), a->table.total);
    move(a);
    move(b);
    size_t n, m;
    char *bytes = encoded(a, &n), *other = encoded(b, &m);
    ck_assert(n == m && !memcmp(bytes, other, n));
    ck_assert_int_eq(ds_adapter_decode(&read, base, "x", bytes, n, NULL), 0);
    ck_assert(!memcmp(read->data, a->data, a->table.total * sizeof(float)));
    ck_assert_str_eq(ds_json_string(read->meta, "schema", ""), "diffscaler.adapter/2");
    char *method = ds_json_canonical(json_object_get(read->meta, "method"));
    ck_assert_str_eq(method, says);
    free(method);
    free(bytes);
    free(other);
    ds_adapter_free(a);
    ds_adapter_free(b);
    ds_adapter_free(read);
}
END_TEST

/* The committed file is what is written today, and reads as what was published: V of each segment,
 * which is not in it, as it was. */
START_TEST(a_published_freeze_v_adapter_reads_the_same) {
    ds_adapter *made = fresh(&presets[FREEZE_V].spec), *read;
    ds_error err;
    char *bytes, *again, want[DS_HEX_SIZE], got[DS_HEX_SIZE];
    size_t n, m;
    move(made);
    bytes = encoded(made, &n);
    if (getenv("DS_TEST_WRITE_GOLDEN"))
        ck_assert_int_eq(ds_zio_write_file(golden, bytes, n, 19, NULL), 0);
    ck_assert_msg(!ds_adapter_open(&read, base, golden, NULL, &err), "%s", err.message);
    again = encoded(read, &m);
    ck_assert(n == m && !memcmp(bytes, again, n));
    ds_digest(bytes, n, want);
    ck_assert_str_eq(read->sha256, want);
    values_digest(read, got);
    ck_assert_str_eq(got, "d814e76481b837d5805903a6839c8ccbe03b8fe98fbec017976327cd8bf86d05");
    free(bytes);
    free(again);
    ds_adapter_free(made);
    ds_adapter_free(read);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_unchecked_fixture(tc, make_base, NULL);
    tcase_add_loop_test(tc, a_preset_keeps_its_bytes, 0, PRESETS);
    tcase_add_test(tc, every_method_is_here);
    tcase_add_test(tc, options_that_are_not_kept);
    tcase_add_test(tc, bitfit_is_biases_and_rows);
    tcase_add_test(tc, a_published_freeze_v_adapter_reads_the_same);
}

int main(void) { return ds_test_main("engine presets", cases); }
