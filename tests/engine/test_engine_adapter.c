/* tests/engine/test_engine_adapter.c - an adapter's start values, what its file says, and every damage
 * that a file with a good format can have. */
#include "base/fs.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/zio.h"
#include "engine/files/safetensors.h"
#include "tests/harness.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { IMAGES = 1, DEPTH = 1 };
#include "tests/fixtures/engine_small.h"

static ds_base *base;

static const ds_method_spec affiner = {.method = DS_METHOD_AFFINER,
                                       .rank = 4,
                                       .targets = DS_TARGET_Q | DS_TARGET_FC2,
                                       .classes = CLASSES,
                                       .seed = 9};

static void make_base(void) {
    base = base_without_zeros();
    memset(base->sha256, 'a', 64);
    base->sha256[64] = 0;
}

static ds_adapter *adapter(const ds_method_spec *spec) {
    ds_adapter *a;
    ds_error err;
    ck_assert_msg(!ds_adapter_new(&a, base, spec, &err), "%s", err.message);
    return a;
}

static const ds_param *entry(const ds_adapter *a, const char *name) {
    const ds_param *p = ds_params_find(&a->table, name);
    ck_assert_msg(p != NULL, "there is no entry '%s'", name);
    return p;
}

/* ---------------------------------------------------------------- start values */

static void expect_all(const ds_adapter *a, const char *name, float value) {
    const ds_param *p = entry(a, name);
    for (size_t i = 0; i < p->count; i++)
        ck_assert_msg(a->data[p->offset + i] == value, "%s[%zu]", name, i);
}

/* Mean 0, variance 2 / fan-in.  Of n numbers the mean of squares is off by sqrt(2/n), 5 of them. */
static void expect_kaiming(const ds_adapter *a, const char *name, int fan_in) {
    const ds_param *p = entry(a, name);
    double sum = 0, squares = 0, n = (double)p->count, want = 2.0 / fan_in;
    for (size_t i = 0; i < p->count; i++) {
        double x = a->data[p->offset + i];
        sum += x, squares += x * x;
    }
    ck_assert_msg(fabs(sum / n) < 5 * sqrt(want / n), "%s: mean %g", name, sum / n);
    ck_assert_msg(fabs(squares / n / want - 1) < 5 * sqrt(2 / n), "%s: variance %g, must be %g",
                  name, squares / n, want);
}

START_TEST(start_values) {
    ds_method_spec other = affiner;
    other.seed = 10;
    ds_adapter *a = adapter(&affiner), *b = adapter(&affiner), *c = adapter(&other);
    expect_all(a, "blocks.0.attn.q.a", 1);
    expect_all(a, "blocks.0.attn.q.b", 0);
    expect_all(a, "blocks.0.attn.q.s", 0);
    expect_all(a, "blocks.0.mlp.fc2.a", 1);
    expect_all(a, "blocks.0.mlp.fc2.s", 0);
    expect_kaiming(a, "blocks.0.attn.q.U", 4);
    expect_kaiming(a, "blocks.0.attn.q.V", 32);
    expect_kaiming(a, "blocks.0.mlp.fc2.V", 128);
    const ds_param *q = entry(a, "blocks.0.attn.q.U"), *k = entry(a, "blocks.0.attn.k.U");
    ck_assert(!memcmp(a->data, b->data, a->table.total * sizeof(float)));
    ck_assert(memcmp(a->data + q->offset, c->data + q->offset, q->count * sizeof(float)));
    ck_assert(memcmp(a->data + q->offset, a->data + k->offset, q->count * sizeof(float)));
    const ds_param *rows = entry(a, "y_embedder.rows"),
                   *table = ds_params_find(&base->table, "y_embedder.embedding_table.weight");
    for (int r = 0; r < CLASSES; r++) /* each is the base's row 4, the unconditional one */
        ck_assert(!memcmp(a->data + rows->offset + r * config.width,
                          base->data + table->offset + 4 * config.width,
                          (size_t)config.width * sizeof(float)));
    ck_assert_uint_eq(ds_adapter_rows(&a->table), rows->offset);
    ds_adapter_free(a);
    ds_adapter_free(b);
    ds_adapter_free(c);
}
END_TEST

/* Segments of the fused qkv are entries of their own; the ones that are not targeted are frozen. */
START_TEST(segments_are_entries) {
    ds_adapter *a = adapter(&affiner);
    ds_adapter_slot slot;
    ck_assert(!entry(a, "blocks.0.attn.q.a")->frozen && entry(a, "blocks.0.attn.k.a")->frozen);
    ck_assert(entry(a, "blocks.0.attn.v.V")->frozen && !entry(a, "blocks.0.mlp.fc2.U")->frozen);
    ck_assert_ptr_null(ds_params_find(&a->table, "blocks.0.mlp.fc1.a"));
    ck_assert_int_eq(entry(a, "blocks.0.attn.q.a")->shape[0], 32);
    ck_assert_int_eq(entry(a, "blocks.0.mlp.fc2.V")->shape[1], 128);
    int fused = entry(a, "blocks.0.attn.q.a")->linear, fc1 = -1;
    for (int i = 0; i < ds_lin_count(&config); i++)
        if (!strcmp(base->layers[i].name, "blocks.0.mlp.fc1"))
            fc1 = i;
    ck_assert_int_eq(ds_adapter_find(&a->table, fused, 4, &slot), 1);
    ck_assert_uint_eq(slot.a, entry(a, "blocks.0.attn.q.a")->offset);
    ck_assert_uint_eq(slot.U, entry(a, "blocks.0.attn.q.U")->offset);
    ck_assert_uint_eq(slot.V, entry(a, "blocks.0.attn.q.V")->offset);
    ck_assert(!slot.frozen[0] && slot.frozen[1] && slot.frozen[2]);
    ck_assert_int_ge(fc1, 0);
    ck_assert_int_eq(ds_adapter_find(&a->table, fc1, 4, &slot), 0);
    ds_adapter_free(a);
    ds_method_spec in = affiner;
    in.side_in = 1;
    in.targets = 7 | DS_TARGET_FC2;
    a = adapter(&in); /* one scale for the input that q, k and v share */
    ck_assert_int_eq(entry(a, "blocks.0.attn.q.a")->shape[0], 32);
    ck_assert_ptr_null(ds_params_find(&a->table, "blocks.0.attn.k.a"));
    ck_assert_int_eq(entry(a, "blocks.0.mlp.fc2.a")->shape[0], 128);
    ck_assert_int_eq(entry(a, "blocks.0.mlp.fc2.U")->shape[0], 32);
    ds_adapter_free(a);
    ds_method_spec none = affiner;
    none.classes = 0;
    none.method = DS_METHOD_FULL;
    a = adapter(&none);
    ck_assert(ds_adapter_rows(&a->table) == SIZE_MAX);
    ds_adapter_free(a);
}
END_TEST

START_TEST(methods_that_cannot_be) {
    static const struct {
        ds_method_spec spec;
        int code;
        const char *words;
    } bad[] = {
        {{.method = DS_METHOD_AFFINER, .rank = -1, .targets = 1}, DS_EINVAL, "rank is -1"},
        {{.method = DS_METHOD_AFFINER, .rank = 65, .targets = 1}, DS_EINVAL, "must be 0 to 64"},
        {{.method = DS_METHOD_AFFINER, .targets = 1, .classes = -1}, DS_ELIMIT, "-1 classes"},
        {{.method = DS_METHOD_AFFINER, .targets = 1, .classes = 100001}, DS_ELIMIT, "limit 100000"},
        {{.method = DS_METHOD_AFFINER, .targets = 0}, DS_EINVAL, "has no targets"},
        {{.method = DS_METHOD_AFFINER, .side_in = 1, .targets = 3},
         DS_EINVAL,
         "target all three or none"},
    };
    ds_adapter *a;
    ds_error err;
    ck_assert_int_eq(ds_adapter_new(&a, base, &bad[_i].spec, &err), bad[_i].code);
    ck_assert_msg(strstr(err.message, bad[_i].words) != NULL, "%s", err.message);
    enum ds_method m;
    ck_assert_int_eq(ds_method_from_name("lora", &m, &err), DS_EINVAL);
    for (int i = 0; ds_preset_table[i].name; i++) {
        ck_assert_int_eq(ds_method_from_name(ds_method_name((enum ds_method)i), &m, &err), 0);
        ck_assert_int_eq((int)m, i);
    }
}
END_TEST

/* ---------------------------------------------------------------- the file */

static char *encoded(const ds_adapter *a, size_t *n) {
    char *bytes;
    ck_assert_int_eq(ds_adapter_encode(a, base, NULL, &bytes, n, NULL), 0);
    return bytes;
}

static ds_adapter *with_names(const ds_method_spec *spec) {
    static const char *const names[] = {"cat", "dog", "hen"};
    ds_adapter *a = adapter(spec);
    a->class_names = ds_xcalloc(CLASSES, sizeof *a->class_names);
    for (int i = 0; i < CLASSES; i++)
        a->class_names[i] = ds_xstrdup(names[i]);
    ds_params_round(&a->table, a->data);
    return a;
}

START_TEST(a_file_says_its_method) {
    ds_method_spec spec = {.method = DS_METHOD_AFFINER,
                           .rank = 3,
                           .side_in = 1,
                           .phi_relu = 1,
                           .freeze_v = 1,
                           .targets = DS_TARGET_FC1 | DS_TARGET_FINAL,
                           .classes = CLASSES,
                           .seed = 77};
    ds_adapter *a = with_names(&spec), *b;
    char sha[DS_HEX_SIZE];
    size_t n;
    ds_error err;
    char *bytes = encoded(a, &n);
    ds_digest(bytes, n, sha);
    ck_assert_msg(!ds_adapter_decode(&b, base, "x", bytes, n, &err), "%s", err.message);
    ck_assert(b->spec.method == spec.method && b->spec.rank == 3 && b->spec.side_in == 1);
    ck_assert(b->spec.phi_relu == 1 && b->spec.freeze_v == 1 && b->spec.seed == 77);
    ck_assert_uint_eq(b->spec.targets, spec.targets);
    ck_assert_int_eq(b->spec.classes, CLASSES);
    ck_assert_str_eq(b->class_names[0], "cat");
    ck_assert_str_eq(b->class_names[2], "hen");
    ck_assert_str_eq(b->sha256, sha);
    ck_assert_int_eq((int)ds_json_int(b->meta, "null_row", 0), 4);
    ck_assert_int_eq((int)ds_json_int(b->meta, "first_row", 0), 5);
    ck_assert_str_eq(ds_json_string(b->meta, "schema", ""), "diffscaler.adapter/1");
    json_t *of = json_object_get(b->meta, "base");
    ck_assert_str_eq(ds_json_string(of, "sha256", ""), base->sha256);
    /* V is frozen: not in the file, made again from the seed */
    ck_assert(!memcmp(a->data, b->data, a->table.total * sizeof(float)));
    ds_st *st;
    ck_assert_int_eq(ds_st_open_memory("x", bytes, n, &st, &err), 0);
    ck_assert_ptr_null(ds_st_find(st, "blocks.0.mlp.fc1.V"));
    ck_assert_int_eq(ds_st_find(st, "blocks.0.mlp.fc1.U")->dtype, DS_ST_BF16);
    ck_assert_int_eq(ds_st_find(st, "blocks.0.mlp.fc1.a")->dtype, DS_ST_F32);
    ck_assert_str_eq(ds_st_meta(st, "format"), "pt");
    ds_st_free(st);
    free(bytes);
    ds_adapter_free(a);
    ds_adapter_free(b);
}
END_TEST

/* A copy of the file with one thing changed: the text of the metadata (from -> to), or a tensor. */
typedef struct {
    const char *from, *to; /* NULL: the metadata as it is; to NULL: without it */
    const char *tensor;    /* the one that is changed */
    enum { LEAVE, DROP, ADD, SHORTER, POISON } how;
    float poison;
    int code;
    const char *words[2];
    const ds_method_spec *of; /* NULL: affiner */
} damage;

static char *replaced(const char *text, const char *from, const char *to) {
    const char *at = strstr(text, from);
    ck_assert_msg(at != NULL, "'%s' is not in %s", from, text);
    return ds_xasprintf("%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
}

static char *damaged(const char *bytes, size_t n, const damage *d, size_t *size) {
    ds_st *st;
    ds_st_writer *w = ds_st_writer_new();
    char *out;
    ck_assert_int_eq(ds_st_open_memory("good", bytes, n, &st, NULL), 0);
    ds_st_writer_meta(w, "format", "pt");
    if (!d->from || d->to) {
        char *text = d->from ? replaced(ds_st_meta(st, "diffscaler"), d->from, d->to)
                             : ds_xstrdup(ds_st_meta(st, "diffscaler"));
        ds_st_writer_meta(w, "diffscaler", text);
        free(text);
    }
    float numbers[4096] = {0};
    for (size_t i = 0; i < ds_st_count(st); i++) {
        const ds_st_tensor *t = ds_st_at(st, i);
        int64_t shape[DS_ST_DIMS_MAX];
        int hit = d->tensor && !strcmp(t->name, d->tensor);
        memcpy(shape, t->shape, sizeof shape);
        if (hit && d->how == DROP)
            continue;
        ck_assert(t->count <= 4096);
        ck_assert_int_eq(ds_st_read_f32(st, t, numbers, NULL), 0);
        if (hit && d->how == SHORTER)
            shape[0]--;
        if (hit && d->how == POISON)
            numbers[t->count - 1] = d->poison;
        ds_st_writer_add_f32(w, t->name, t->dtype, t->ndim, shape, numbers);
    }
    if (d->how == ADD)
        ds_st_writer_add_f32(w, d->tensor, DS_ST_F32, 1, (int64_t[]){3}, numbers);
    ck_assert_int_eq(ds_st_writer_finish(w, &out, size, NULL), 0);
    ds_st_writer_free(w);
    ds_st_free(st);
    return out;
}

static const ds_method_spec bitfit = {.method = DS_METHOD_BITFIT, .classes = CLASSES};

static const damage damages[] = {
    {.code = 0},
    {.code = 0, .of = &bitfit},
    {.from = "adapter/1", .to = "adapter/3", .code = DS_ENEWER, .words = {"file.st", "adapter/3"}},
    {.from = "adapter/1",
     .to = "adapter/30",
     .code = DS_ENEWER,
     .words = {"reads diffscaler.adapter/1 to 2", "use a program at least as new"}},
    {.from = "adapter/1", .to = "adapter/0", .code = DS_EINVAL, .words = {"file.st", "adapter/0"}},
    {.from = "adapter/1", .to = "adapter/ +1", .code = DS_EINVAL, .words = {"adapter/ +1", ""}},
    {.from = "adapter/1", .to = "adapter/01", .code = DS_EINVAL, .words = {"adapter/01", ""}},
    {.from = "adapter/1", .to = "adapter/1a", .code = DS_EINVAL, .words = {"adapter/1a", "1 to 2"}},
    {.from = "adapter/1", .to = "base/1", .code = DS_EINVAL, .words = {"diffscaler.base/1", ""}},
    {.from = "\"schema\"",
     .to = "\"scheme\"",
     .code = DS_EINVAL,
     .words = {"its schema is ''", ""}},
    /* schema 2 says the parts; what is not known there is of a newer program */
    {.from = "adapter/1", .to = "adapter/2", .code = DS_ENEWER, .words = {"file.st", "'affiner'"}},
    {.from = "adapter/2",
     .to = "adapter/1",
     .code = DS_EINVAL,
     .words = {"file.st", "has no method 'bitfit'"},
     .of = &bitfit},
    {.from = "\"bitfit\"",
     .to = "\"difffit\"",
     .code = DS_ENEWER,
     .words = {"file.st", "method 'difffit'"},
     .of = &bitfit},
    {.from = "\"biases\"",
     .to = "\"biases\",\"gamma\"",
     .code = DS_ENEWER,
     .words = {"other parts", "at least as new"},
     .of = &bitfit},
    {.tensor = "blocks.0.attn.qkv.bias",
     .how = POISON,
     .poison = NAN,
     .code = DS_EINTEGRITY,
     .words = {"blocks.0.attn.qkv.bias", "not finite"},
     .of = &bitfit},
    {.tensor = "x_embedder.proj.bias",
     .how = DROP,
     .code = DS_EINTEGRITY,
     .words = {"x_embedder.proj.bias", ""},
     .of = &bitfit},
    {.tensor = "blocks.0.attn.q.a",
     .how = POISON,
     .poison = NAN,
     .code = DS_EINTEGRITY,
     .words = {"blocks.0.attn.q.a", "not finite"}},
    {.tensor = "blocks.0.mlp.fc2.U",
     .how = POISON,
     .poison = INFINITY,
     .code = DS_EINTEGRITY,
     .words = {"blocks.0.mlp.fc2.U", "not finite"}},
    {.tensor = "y_embedder.rows",
     .how = POISON,
     .poison = -INFINITY,
     .code = DS_EINTEGRITY,
     .words = {"y_embedder.rows", "not finite"}},
    {.tensor = "one.more", .how = ADD, .code = DS_EINTEGRITY, .words = {"tensors", "needs"}},
    {.tensor = "blocks.0.attn.k.a", /* known, but not targeted */
     .how = ADD,
     .code = DS_EINTEGRITY,
     .words = {"tensors", "needs"}},
    {.tensor = "blocks.0.attn.q.V",
     .how = DROP,
     .code = DS_EINTEGRITY,
     .words = {"blocks.0.attn.q.V", ""}},
    {.tensor = "y_embedder.rows",
     .how = SHORTER,
     .code = DS_EINTEGRITY,
     .words = {"y_embedder.rows", ""}},
    {.from = "", .to = NULL, .code = DS_EINVAL, .words = {"is not an adapter", "diffscaler"}},
    {.from = "{", .to = "[", .code = DS_EINVAL, .words = {"file.st", ""}},
    {.from = "\"rng\":1", .to = "\"rng\":2", .code = DS_EINVAL, .words = {"file.st", "version 2"}},
    {.from = "\"rng\":1", .to = "\"dice\":1", .code = DS_EINVAL, .words = {"version 0", "knows 1"}},
    {.from = "\"affiner\"", .to = "\"lora\"", .code = DS_EINVAL, .words = {"file.st", "'lora'"}},
    {.from = "\"rank\":4", .to = "\"rank\":65", .code = DS_EINVAL, .words = {"rank is", ""}},
    {.from = "\"rank\":4",
     .to = "\"rank\":4294967300",
     .code = DS_EINVAL,
     .words = {"rank is", ""}},
    {.from = "\"rank\":4", .to = "\"rank\":-4", .code = DS_EINVAL, .words = {"rank is", ""}},
    {.from = "\"rank\":4", .to = "\"rank\":3", .code = DS_EINTEGRITY, .words = {"attn.q.U", ""}},
    {.from = "\"base\":", .to = "\"bass\":", .code = DS_EINVAL, .words = {"base", ""}},
    {.from = "\"sha256\":\"a",
     .to = "\"sha256\":\"b",
     .code = DS_EINTEGRITY,
     .words = {"belongs to base baaa", "not to base"}},
    {.from = "\"method\":", .to = "\"methods\":", .code = DS_EINVAL, .words = {"method", ""}},
    {.from = "\"cat\",", .to = "", .code = DS_EINTEGRITY, .words = {"y_embedder.rows", ""}},
    {.from = "\"q\"", .to = "\"w\"", .code = DS_EINTEGRITY, .words = {"tensors", "needs"}},
};

START_TEST(a_damaged_file_is_refused) {
    const damage *d = &damages[_i];
    ds_adapter *a = with_names(d->of ? d->of : &affiner), *b = NULL;
    size_t n, m;
    ds_error err;
    char *good = encoded(a, &n), *bad = damaged(good, n, d, &m);
    int rc = ds_adapter_decode(&b, base, "file.st", bad, m, &err);
    ck_assert_msg(rc == d->code, "code %d, must be %d: %s", rc, d->code, rc ? err.message : "");
    for (int i = 0; rc && i < 2; i++)
        ck_assert_msg(strstr(err.message, d->words[i]) != NULL, "'%s' has no '%s'", err.message,
                      d->words[i]);
    free(good);
    free(bad);
    ds_adapter_free(a);
    ds_adapter_free(b);
}
END_TEST

/* A whole file that is not the registered one. */
START_TEST(the_digest_is_asked_for) {
    ds_method_spec other = affiner;
    other.seed = 10;
    char path[PATH_MAX], sha[DS_HEX_SIZE], wrong[DS_HEX_SIZE], *bytes;
    ds_adapter *a = with_names(&affiner), *c = with_names(&other), *b;
    size_t n;
    ds_error err;
    ds_fs_join(path, sizeof path, ds_test_tmpdir(), "a.zst");
    bytes = encoded(c, &n);
    ds_digest(bytes, n, wrong);
    free(bytes);
    bytes = encoded(a, &n);
    ds_digest(bytes, n, sha);
    ck_assert_int_eq(ds_zio_write_file(path, bytes, n, 3, NULL), 0);
    ck_assert_int_eq(ds_adapter_open(&b, base, path, wrong, &err), DS_EINTEGRITY);
    ck_assert(strstr(err.message, sha) && strstr(err.message, wrong) && strstr(err.message, path));
    const char *good[] = {sha, NULL};
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(ds_adapter_open(&b, base, path, good[i], &err), 0);
        ck_assert_str_eq(b->sha256, sha);
        ds_adapter_free(b);
    }
    free(bytes);
    ds_adapter_free(a);
    ds_adapter_free(c);
}
END_TEST

/* The digest is the file's, and the file is not an adapter's. */
START_TEST(a_registered_file_can_be_damaged_too) {
    static const damage nan = {.tensor = "blocks.0.attn.q.a", .how = POISON, .poison = NAN};
    char path[PATH_MAX], sha[DS_HEX_SIZE];
    ds_adapter *a = with_names(&affiner), *b = NULL;
    size_t n, m;
    ds_error err;
    char *good = encoded(a, &n), *bad = damaged(good, n, &nan, &m);
    ds_fs_join(path, sizeof path, ds_test_tmpdir(), "nan.zst");
    ds_digest(bad, m, sha);
    ck_assert_int_eq(ds_zio_write_file(path, bad, m, 3, NULL), 0);
    ck_assert_int_eq(ds_adapter_open(&b, base, path, sha, &err), DS_EINTEGRITY);
    ck_assert(strstr(err.message, "not finite") && strstr(err.message, path));
    free(good);
    free(bad);
    ds_adapter_free(a);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_unchecked_fixture(tc, make_base, NULL);
    tcase_add_test(tc, start_values);
    tcase_add_test(tc, segments_are_entries);
    tcase_add_loop_test(tc, methods_that_cannot_be, 0, 6);
    tcase_add_test(tc, a_file_says_its_method);
    tcase_add_loop_test(tc, a_damaged_file_is_refused, 0, (int)(sizeof damages / sizeof *damages));
    tcase_add_test(tc, the_digest_is_asked_for);
    tcase_add_test(tc, a_registered_file_can_be_damaged_too);
}

int main(void) { return ds_test_main("engine adapter", cases); }
