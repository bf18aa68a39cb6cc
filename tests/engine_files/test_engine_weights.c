/* tests/engine_files/test_engine_weights.c - weight files of other programs: read right, and refused with a
 * reason when they are damaged, lie, or ask for code to be run. */
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

static void accepted(const void *data, size_t n) {
    ds_error err = {0};
    ck_assert_msg(!open_bytes(data, n, &err), "%s", err.message);
}

/* ---------------------------------------------------------------- what is right */

static ds_buf make_zip(const pk_tensor_spec *t) {
    ds_buf p = {0};
    pk_model(&p, t, 0);
    ds_buf f = zip_of(&p, numbers, sizeof numbers);
    ds_buf_release(&p);
    return f;
}

static ds_buf make_legacy(const pk_tensor_spec *t) {
    ds_buf p = {0};
    pk_model(&p, t, 1);
    ds_buf f = legacy_of(&p, "0", 12, numbers, sizeof numbers);
    ds_buf_release(&p);
    return f;
}

static const maker makers[] = {make_zip, make_legacy};

START_TEST(reads_views) {
    static const struct {
        pk_tensor_spec t;
        float want[6];
    } views[] = {
        {{"FloatStorage", "0", 12, 0, 1, {3}, {1}}, {1, 2, 3}},
        {{"FloatStorage", "0", 12, 6, 2, {2, 3}, {3, 1}}, {7, 8, 9, 10, 11, 12}},
        {{"FloatStorage", "0", 12, 0, 2, {3, 2}, {1, 3}}, {1, 4, 2, 5, 3, 6}}, /* transposed */
        {{"FloatStorage", "0", 12, 1, 2, {2, 2}, {6, 2}}, {2, 4, 8, 10}},      /* with steps */
        {{"FloatStorage", "0", 12, 11, 0, {0}, {0}}, {12}},
        {{"FloatStorage", "0", 12, 4, 2, {2, 3}, {0, 1}}, {5, 6, 7, 5, 6, 7}}, /* expanded */
        {{"FloatStorage", "0", 12, 7, 2, {3, 2}, {0, 0}}, {8, 8, 8, 8, 8, 8}},
        {{"FloatStorage", "0", 12, 0, 2, {0, 5}, {5, 1}}, {0}},
        {{"FloatStorage", "0", 12, 0, 3, {1, 2, 1}, {7, 1, 9}}, {1, 2}}};
    for (size_t i = 0; i < sizeof views / sizeof views[0]; i++) {
        ds_buf f = makers[_i](&views[i].t);
        char *path = tmp("view");
        put(path, f.data, f.len);
        ds_weights *w;
        ds_error err;
        float x[12];
        ck_assert_msg(!ds_weights_open(&w, path, NULL, &err), "%s", err.message);
        const ds_weights_tensor *t = ds_weights_find(w, "w");
        ck_assert_ptr_nonnull(t);
        ck_assert_uint_le(t->count, 6);
        ck_assert_msg(!ds_weights_read_f32(w, t, x, &err), "%s", err.message);
        for (size_t k = 0; k < t->count; k++)
            ck_assert_msg(x[k] == views[i].want[k], "view %zu, element %zu: %g", i, k,
                          (double)x[k]);
        ds_weights_close(w);
        ds_buf_release(&f);
        free(path);
    }
}
END_TEST

/* All types, packed with deflate, through libzip as another writer. */
START_TEST(reads_types_and_packed_zips) {
    static const struct {
        const char *type;
        size_t size;
        float want;
        const char *bits;
    } types[] = {{"FloatStorage", 4, 1.5f, "\0\0\xc0\x3f"},
                 {"HalfStorage", 2, -2, "\0\xc0"},
                 {"BFloat16Storage", 2, 3, "\x40\x40"},
                 {"DoubleStorage", 8, 0.5f, "\0\0\0\0\0\0\xe0\x3f"}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        pk_tensor_spec t = {types[i].type, "0", 1, 0, 1, {1}, {1}};
        ds_buf p = {0};
        pk_model(&p, &t, 0);
        char *path = ds_xasprintf("%s/packed%zu", ds_test_tmpdir(), i);
        zip_t *z = zip_open(path, ZIP_CREATE | ZIP_TRUNCATE, NULL);
        ck_assert_ptr_nonnull(z);
        zip_file_add(z, "data.pkl", zip_source_buffer(z, p.data, p.len, 0), 0);
        zip_file_add(z, "data/0", zip_source_buffer(z, types[i].bits, types[i].size, 0), 0);
        zip_set_file_compression(z, 0, ZIP_CM_DEFLATE, 9);
        ck_assert_int_eq(zip_close(z), 0);
        ds_weights *w;
        ds_error err;
        float x = 0;
        uint16_t h = 0;
        ck_assert_msg(!ds_weights_open(&w, path, NULL, &err), "%s", err.message);
        ck_assert_msg(!ds_weights_read_f32(w, ds_weights_at(w, 0), &x, &err), "%s", err.message);
        ck_assert_msg(!ds_weights_read_bf16(w, ds_weights_at(w, 0), &h, &err), "%s", err.message);
        ck_assert(x == types[i].want && ds_bf16_to_f32(h) == x);
        ds_weights_close(w);
        ds_buf_release(&p);
        free(path);
    }
}
END_TEST

/* Of several models the averaged one; what lies beside it does not matter. */
START_TEST(chooses_the_model) {
    ds_buf p = {0};
    ds_buf_add(&p, "\x80\x02}(", 4);
    static const char *const names[] = {"model", "ema", "extra"};
    for (int i = 0; i < 3; i++) {
        pk_tensor_spec t = {"FloatStorage", "0", 12, i, 1, {1}, {1}};
        pk_text(&p, names[i]);
        if (i < 2)
            ds_buf_add(&p, "}", 1);
        if (i < 2)
            pk_text(&p, "w");
        pk_tensor(&p, &t, 0);
        ds_buf_add(&p, "s", i < 2);
    }
    pk_text(&p, "args"); /* argparse.Namespace(x=None) */
    pk_global(&p, "argparse", "Namespace");
    ds_buf_add(&p, ")\x81}", 3);
    pk_text(&p, "x");
    ds_buf_add(&p, "Nsbu.", 5);
    ds_buf f = zip_of(&p, numbers, sizeof numbers);
    char *path = tmp("train.pt");
    put(path, f.data, f.len);
    ds_weights *w;
    ds_error err;
    float x = 0;
    ck_assert_msg(!ds_weights_open(&w, path, NULL, &err), "%s", err.message);
    static const char *const marks[] = {"w", NULL};
    ck_assert_str_eq(ds_json_string(ds_weights_args(w), "x", "null"), "null");
    ck_assert(json_is_null(json_object_get(ds_weights_args(w), "x")));
    ck_assert_msg(!ds_weights_choose(w, marks, &err), "%s", err.message);
    ck_assert_str_eq(ds_weights_wrapper(w), "ema");
    ck_assert_uint_eq(ds_weights_count(w), 1);
    ck_assert_msg(!ds_weights_read_f32(w, ds_weights_at(w, 0), &x, &err), "%s", err.message);
    ck_assert(x == 2);
    char a[DS_HEX_SIZE], b[DS_HEX_SIZE];
    ck_assert(!ds_weights_digest(w, a, NULL, NULL, &err) && !ds_digest_file(path, b, &err));
    ck_assert_str_eq(a, b);
    ck_assert(!ds_weights_unchanged(w, &err));
    put(path, f.data, f.len - 1); /* somebody writes into it */
    ck_assert_int_eq(ds_weights_unchanged(w, &err), DS_ECONFLICT);
    ds_weights_close(w);
    ds_buf_release(&p);
    ds_buf_release(&f);
    free(path);
}
END_TEST

/* ---------------------------------------------------------------- pickles that carry code */

static const char *const functions[][2] = {{"os", "system"},
                                           {"posix", "system"},
                                           {"builtins", "eval"},
                                           {"builtins", "exec"},
                                           {"__builtin__", "eval"},
                                           {"builtins", "getattr"},
                                           {"builtins", "__import__"},
                                           {"subprocess", "Popen"},
                                           {"torch", "load"},
                                           {"torch.hub", "load"},
                                           {"pickle", "loads"},
                                           {"functools", "partial"},
                                           {"importlib", "import_module"},
                                           {"runpy", "_run_code"},
                                           {"", ""}};

START_TEST(code_is_refused) {
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++)
        for (int form = 0; form < 3; form++) {
            ds_buf p = {0};
            char name[120];
            snprintf(name, sizeof name, "'%s.%s'", functions[i][0], functions[i][1]);
            ds_buf_add(&p, "\x80\x04}", 3);
            pk_text(&p, "w");
            if (form == 1) { /* STACK_GLOBAL */
                pk_text(&p, functions[i][0]);
                pk_text(&p, functions[i][1]);
                ds_buf_add(&p, "\x93", 1);
            } else
                pk_global(&p, functions[i][0], functions[i][1]);
            pk_text(&p, "touch /tmp/it-ran");
            ds_buf_add(&p, form == 2 ? "\x85\x81s." : "\x85Rs.", 4);
            ds_buf f = zip_of(&p, numbers, sizeof numbers), g = legacy_of(&p, "", 0, numbers, 0);
            refused(f.data, f.len, DS_EINVAL, name, "zip");
            refused(f.data, f.len, DS_EINVAL, "nothing in a file is run", "zip");
            refused(g.data, g.len, DS_EINVAL, name, "before zip");
            ds_buf_release(&p);
            ds_buf_release(&f);
            ds_buf_release(&g);
        }
}
END_TEST

static const struct {
    const char *what, *bytes;
    size_t n;
    int code;
    const char *says;
} pickles[] = {
#define P(what, bytes, code, says)                                                                 \
    { what, bytes, sizeof bytes - 1, code, says }
    P("empty", "", DS_EINTEGRITY, "no end"),
    P("only stop", ".", DS_EINTEGRITY, "stack is empty"),
    P("no stop", "\x80\x02}", DS_EINTEGRITY, "no end"),
    P("text beyond the end", "X\xff\0\0\0abc", DS_EINTEGRITY, "cut off"),
    P("text of 4 GB",
      "X\xff\xff\xff\xff"
      "abc.",
      DS_ELIMIT, "one text"),
    P("text of 2^60",
      "\x8d\0\0\0\0\0\0\0\x10"
      "abc.",
      DS_ELIMIT, "one text"),
    P("OBJ of nothing", "(o.", DS_EINTEGRITY, "no class"),
    P("a set of nothing", "}(\x90.", DS_EINTEGRITY, "no set"),
    P("PERSID", "Pabc\n.", DS_EINVAL, "PERSID"),
    P("EXT1", "\x82\x01.", DS_EINVAL, "EXT1"),
    P("unknown opcode", "\xff.", DS_EINTEGRITY, "unknown opcode"),
    P("memo never set", "h\x05.", DS_EINTEGRITY, "recalls"),
    P("memo at 2^31", "}r\xff\xff\xff\x7f.", DS_ELIMIT, "memo"),
    P("memo at 2^20 of seven bytes", "}r\x00\x00\x10\x00.", DS_ELIMIT, "memo"),
    P("tuple without mark", "NNt.", DS_EINTEGRITY, "mark"),
    P("pop below a mark", "N(\x85.", DS_EINTEGRITY, "stack is empty"),
    P("odd dict", "(Nd.", DS_EINTEGRITY, "without value"),
    P("fill a number", "K\1(NNu.", DS_EINTEGRITY, "no container"),
    P("call a dict", "})R.", DS_EINTEGRITY, "no function"),
    P("attributes of a number", "K\1}b.", DS_EINTEGRITY, "plain value"),
    P("call a storage type", "ctorch\nFloatStorage\n)R.", DS_EINTEGRITY, "arguments"),
    P("tensor of nothing", "ctorch._utils\n_rebuild_tensor_v2\n)R.", DS_EINTEGRITY, "no storage"),
    P("parameter of nothing", "ctorch._utils\n_rebuild_parameter\n)R.", DS_EINTEGRITY, "arguments"),
    P("storage of a number", "K\1Q.", DS_EINTEGRITY, "no storage"),
    P("name without end", "cos", DS_EINTEGRITY, "no end"),
    P("protocol 9", "\x80\x09}.", DS_EINTEGRITY, "protocol"),
    P("TorchScript", "c__torch__.x\nNet\n.", DS_EINVAL, "TorchScript"),
#undef P
};

START_TEST(pickle_cases) {
    ds_pickle *p = NULL;
    ds_error err = {0};
    int rc = ds_pickle_read(&p, "file", pickles[_i].bytes, pickles[_i].n, NULL, &err);
    ck_assert_msg(rc == pickles[_i].code, "%s: %d %s", pickles[_i].what, rc, err.message);
    ck_assert_msg(strstr(err.message, pickles[_i].says) != NULL, "%s: %s", pickles[_i].what,
                  err.message);
    ck_assert_ptr_nonnull(strstr(err.message, "file"));
}
END_TEST

/* What nothing here understands is kept with its name, and nothing is called. */
static const struct {
    const char *what, *bytes;
    size_t n;
    const char *class;
} opaques[] = {
#define O(what, bytes, class)                                                                      \
    { what, bytes, sizeof bytes - 1, class }
    O("REDUCE", "cos\nsystem\nX\x02\0\0\0ls\x85R.", "os.system"),
    O("NEWOBJ", "cdatetime\ndate\n)\x81.", "datetime.date"),
    O("NEWOBJ_EX", "cx\ny\n)}\x92.", "x.y"),
    O("INST", "(ios\nsystem\n.", "os.system"),
    O("OBJ", "(cos\nsystem\nK\1o.", "os.system"),
    O("what a call of a call makes", "cx\ny\n)R)R.", "x.y"),
    O("filled as a dict and a list", "cx\ny\n)RX\1\0\0\0aK\1sK\1a}b.", "x.y"),
    O("a class itself", "ctorch\nint64\n.", "torch.int64"),
    O("control characters in a name", "cos\x1b[2J\nsys'tem\n.", "os?[2J.sys?tem"),
    O("a set", "\x8f(K\1K\2\x90.", "?"),
    O("a frozen set", "(K\1\x91.", "?"),
    O("a number of 80 bits", "\x8a\x0a\1\2\3\4\5\6\7\x08\x09\x0a.", "?"),
    O("a parameter of an unknown tensor", "ctorch._utils\n_rebuild_parameter\ncx\ny\n)R\x85R.",
      "x.y"),
    O("a tensor of a class that is not known",
      "ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\ncmy\nTensor\n)}"
      "tR.",
      "my.Tensor"),
#undef O
};

START_TEST(unknown_things_are_opaque) {
    ds_pickle *p = NULL;
    ds_error err = {0};
    char class[200];
    ck_assert_msg(!ds_pickle_read(&p, "file", opaques[_i].bytes, opaques[_i].n, NULL, &err),
                  "%s: %s", opaques[_i].what, err.message);
    const ds_pickle_node *root = ds_pickle_at(p, ds_pickle_root(p));
    ck_assert(root->kind == DS_PICKLE_OPAQUE || root->kind == DS_PICKLE_CLASS);
    ds_pickle_class(p, root, class, sizeof class);
    ck_assert_str_eq(class, opaques[_i].class);
    ds_pickle_free(p);
}
END_TEST

/* Protocol 0 writes numbers, texts and places in the memo as lines. */
START_TEST(lines_of_protocol_0) {
    static const char text[] = "(dp0\nS'a'\np1\nI7\nsVb\nL-5L\nsS\"c\"\nF2.5\nsg1\nI01\ns.";
    ds_pickle *p = NULL;
    ds_error err = {0};
    ck_assert_msg(!ds_pickle_read(&p, "f", text, sizeof text - 1, NULL, &err), "%s", err.message);
    const ds_pickle_node *root = ds_pickle_at(p, ds_pickle_root(p));
    ck_assert_uint_eq(root->count, 8);
    ck_assert_int_eq(ds_pickle_get(p, root, "b")->i, -5);
    ck_assert(ds_pickle_get(p, root, "c")->f == 2.5);
    ck_assert_int_eq(ds_pickle_get(p, root, "a")->kind, DS_PICKLE_BOOL); /* the last one wins */
    ds_pickle_free(p);
}
END_TEST

/* What grows without bound must meet one. */
START_TEST(pickle_floods) {
    static const struct {
        const char *head, *unit, *says;
        size_t times;
    } floods[] = {{"", "N", "values", DS_PICKLE_NODES_MAX + 1},
                  {"", "(", "marks", (size_t)2 * DS_PICKLE_NODES_MAX + 1},
                  {"N\x94", "h\0", "stack", (size_t)2 * DS_PICKLE_NODES_MAX + 1},
                  {"]q\0N\x94", "h\1a", "members", DS_PICKLE_ITEMS_MAX + 1}};
    for (size_t i = 0; i < sizeof floods / sizeof floods[0]; i++) {
        ds_buf b = {0};
        size_t unit = i == 2 ? 2 : strlen(floods[i].unit),
               head = i == 3 ? 4 : strlen(floods[i].head);
        ds_buf_add(&b, i == 3 ? "]q\0N" : floods[i].head, head);
        if (i == 3)
            ds_buf_add(&b,
                       "q\1"
                       "0",
                       3);
        char *many = ds_xmalloc(unit * floods[i].times);
        for (size_t k = 0; k < floods[i].times; k++)
            memcpy(many + k * unit, floods[i].unit, unit);
        ds_buf_add(&b, many, unit * floods[i].times);
        ds_pickle *p = NULL;
        ds_error err = {0};
        ck_assert_msg(ds_pickle_read(&p, "f", b.data, b.len, NULL, &err) == DS_ELIMIT, "%s: %s",
                      floods[i].says, err.message);
        ck_assert_msg(strstr(err.message, floods[i].says) != NULL, "%s: %s", floods[i].says,
                      err.message);
        free(many);
        ds_buf_release(&b);
    }
}
END_TEST

/* A list within itself is legal; it must not make anybody walk for ever. */
START_TEST(pickle_in_itself) {
    ds_pickle *p;
    ds_error err;
    static const char loop[] = "\x80\x02]q\0h\0a.";
    ck_assert_msg(!ds_pickle_read(&p, "f", loop, sizeof loop - 1, NULL, &err), "%s", err.message);
    ds_pickle_free(p);
    ds_buf pk = {0};
    ds_buf_add(&pk, loop, sizeof loop - 1);
    ds_buf f = zip_of(&pk, numbers, sizeof numbers);
    refused(f.data, f.len, DS_EINVAL, "no model", "a list in itself");
    ds_buf_release(&pk);
    ds_buf_release(&f);
}
END_TEST

/* ---------------------------------------------------------------- tensors that lie */

static const struct {
    const char *what;
    pk_tensor_spec t;
    int code;
    const char *says;
} liars[] = {
    {"2^60 elements", {"FloatStorage", "0", 1LL << 60, 0, 1, {1LL << 60}, {1}}, 0, ""},
    {"more than 2^60",
     {"FloatStorage", "0", INT64_MAX, 0, 1, {1}, {1}},
     DS_EINTEGRITY,
     "impossible"},
    {"negative storage", {"FloatStorage", "0", -1, 0, 1, {1}, {1}}, DS_EINTEGRITY, "impossible"},
    {"2^62 x 4",
     {"FloatStorage", "0", 12, 0, 2, {1LL << 62, 4}, {4, 1}},
     DS_EINTEGRITY,
     "outside its storage"},
    {"0 x 2^62 x 2^62",
     {"FloatStorage", "0", 12, 0, 3, {1LL << 62, 1LL << 62, 0}, {1, 1, 1}},
     0,
     ""},
    {"negative size", {"FloatStorage", "0", 12, 0, 1, {-3}, {1}}, DS_EINTEGRITY, "shape"},
    {"negative stride", {"FloatStorage", "0", 12, 11, 1, {3}, {-1}}, DS_EINTEGRITY, "shape"},
    {"huge stride", {"FloatStorage", "0", 12, 0, 1, {3}, {INT64_MAX}}, DS_EINTEGRITY, "outside"},
    {"offset beyond", {"FloatStorage", "0", 12, 12, 1, {1}, {1}}, DS_EINTEGRITY, "outside"},
    {"offset 2^62", {"FloatStorage", "0", 12, 1LL << 62, 1, {1}, {1}}, DS_EINTEGRITY, "outside"},
    {"negative offset", {"FloatStorage", "0", 12, -1, 1, {1}, {1}}, DS_EINTEGRITY, "no storage"},
    {"one too many", {"FloatStorage", "0", 12, 1, 2, {3, 4}, {4, 1}}, DS_EINTEGRITY, "outside"},
    {"expanded beyond its storage",
     {"FloatStorage", "0", 12, 11, 2, {1000, 2}, {0, 1}},
     DS_EINTEGRITY,
     "outside"},
    {"expanded to 2^40",
     {"FloatStorage", "0", 12, 0, 2, {1LL << 20, 1LL << 20}, {0, 0}},
     DS_EINVAL,
     "larger than 8 GiB"},
    {"nine dimensions",
     {"FloatStorage", "0", 12, 0, 9, {1, 1, 1, 1, 1, 1, 1, 1, 1}, {1}},
     DS_EINVAL,
     "too many dimensions"},
    {"storage larger than its data", {"FloatStorage", "0", 13, 0, 1, {1}, {1}}, DS_EINTEGRITY, ""},
    {"storage smaller than its data", {"FloatStorage", "0", 11, 0, 1, {1}, {1}}, DS_EINTEGRITY, ""},
    {"wider type", {"DoubleStorage", "0", 12, 0, 1, {1}, {1}}, DS_EINTEGRITY, ""},
    {"no such storage", {"FloatStorage", "7", 12, 0, 1, {1}, {1}}, DS_EINTEGRITY, ""},
    {"storage elsewhere", {"FloatStorage", "../version", 12, 0, 1, {1}, {1}}, DS_EINTEGRITY, ""},
    {"unknown type", {"QInt16Storage", "0", 12, 0, 1, {1}, {1}}, DS_EINVAL, "not supported"},
};

START_TEST(lying_tensors) {
    for (int m = 0; m < 2; m++) {
        ds_buf f = makers[m](&liars[_i].t);
        refused(f.data, f.len, liars[_i].code, liars[_i].says, liars[_i].what);
        ds_buf_release(&f);
    }
}
END_TEST

/* ---------------------------------------------------------------- files cut off, headers that lie
 */

START_TEST(cut_off) {
    ds_buf f = makers[_i](&plain);
    accepted(f.data, f.len);
    for (size_t n = 0; n<f.len; n += n> f.len - 40 ? 1 : 3)
        refused(f.data, n, 0, "", "cut off");
    ds_buf_release(&f);
}
END_TEST

/* Any one byte changed: refused, or a file that reads whole. */
START_TEST(changed_bytes) {
    ds_buf f = makers[_i](&plain);
    size_t bad = 0;
    for (size_t i = 0; i < f.len; i++) {
        ds_error err = {0};
        f.data[i] ^= (char)(1 << i % 8);
        int rc = open_bytes(f.data, f.len, &err);
        bad += rc != 0;
        ck_assert_msg(!rc || *err.message, "byte %zu: no reason", i);
        f.data[i] ^= (char)(1 << i % 8);
    }
    ck_assert_uint_gt(bad, f.len / 3);
    ds_buf_release(&f);
}
END_TEST

static void pickle_for_zip(ds_buf *p) { pk_model(p, &plain, 0); }

START_TEST(lying_zips) {
    ds_buf p = {0}, f;
    zip_maker z = {0};
    pickle_for_zip(&p);
    zm_add(&z, "x/readme", "hi", 2);
    f = zm_done(&z);
    refused(f.data, f.len, DS_EINVAL, "no entry 'data.pkl'", "another zip");
    ds_buf_release(&f);

    zm_add(&z, "a/data.pkl", p.data, p.len);
    zm_add(&z, "b/data.pkl", p.data, p.len);
    f = zm_done(&z);
    refused(f.data, f.len, DS_EINTEGRITY, "several", "two pickles");
    ds_buf_release(&f);

    zm_add(&z, "a/data.pkl", p.data, p.len);
    f = zm_done(&z);
    refused(f.data, f.len, DS_EINTEGRITY, "lacks the data", "no data");
    ds_buf_release(&f);

    zm_add(&z, "a/data.pkl", p.data, p.len);
    zm_add(&z, "a/byteorder", "bigger", 6);
    zm_add(&z, "a/data/0", numbers, sizeof numbers);
    f = zm_done(&z);
    refused(f.data, f.len, DS_EINVAL, "big-endian", "byte order");
    ds_buf_release(&f);

    zm_add(&z, "a/data.pkl", p.data, p.len);
    zm_entry(&z, "a/data/0", numbers, sizeof numbers, 0, 1, crc_of(numbers, sizeof numbers),
             sizeof numbers, sizeof numbers, 0);
    f = zm_done(&z);
    refused(f.data, f.len, 0, "", "encrypted");
    ds_buf_release(&f);

    zm_add(&z, "a/data.pkl", p.data, p.len);
    zm_entry(&z, "a/data/0", numbers, sizeof numbers, 0, 0, 12345, sizeof numbers, sizeof numbers,
             0);
    f = zm_done(&z);
    refused(f.data, f.len, DS_EINTEGRITY, "damaged", "another CRC");
    ds_buf_release(&f);
    ds_buf_release(&p);
}
END_TEST

/* Entries that share their bytes: a small file that would unpack to a large one. */
START_TEST(overlapping_entries) {
    ds_buf p = {0};
    zip_maker z = {0};
    pickle_for_zip(&p);
    zm_add(&z, "a/data.pkl", p.data, p.len);
    size_t at = z.file.len;
    zm_add(&z, "a/data/0", numbers, sizeof numbers);
    for (int i = 1; i < 400; i++) {
        char name[32];
        snprintf(name, sizeof name, "a/data/%03d", i);
        zm_entry(&z, name, NULL, 0, 0, 0, crc_of(numbers, sizeof numbers), sizeof numbers,
                 sizeof numbers, at);
    }
    ds_buf f = zm_done(&z);
    refused(f.data, f.len, DS_EINTEGRITY, "", "overlapping entries");
    ds_buf_release(&f);
    ds_buf_release(&p);
}
END_TEST

/* 64 MB of zeros in 64 kB. */
START_TEST(zip_bomb) {
    enum { SIZE = 64 << 20 };
    char *path = tmp("bomb.pt"), *zeros = ds_xcalloc(1, SIZE);
    ds_buf p = {0};
    pk_tensor_spec t = {"FloatStorage", "0", SIZE / 4, 0, 1, {SIZE / 4}, {1}};
    pk_model(&p, &t, 0);
    zip_t *z = zip_open(path, ZIP_CREATE | ZIP_TRUNCATE, NULL);
    zip_file_add(z, "a/data.pkl", zip_source_buffer(z, p.data, p.len, 0), 0);
    zip_file_add(z, "a/data/0", zip_source_buffer(z, zeros, SIZE, 0), 0);
    zip_set_file_compression(z, 1, ZIP_CM_DEFLATE, 9);
    ck_assert_int_eq(zip_close(z), 0);
    ds_weights *w;
    ds_error err;
    ck_assert_int_eq(ds_weights_open(&w, path, NULL, &err), DS_ELIMIT);
    ck_assert_msg(strstr(err.message, "unpack") != NULL, "%s", err.message);
    ds_buf_release(&p);
    free(zeros);
    free(path);
}
END_TEST

START_TEST(lying_legacy) {
    ds_buf p = {0}, f;
    pk_model(&p, &plain, 1);
    static const struct {
        const char *keys;
        uint64_t count;
        const char *says;
    } lies[] = {{"", 12, "lacks the data"},
                {"00", 12, "twice"},
                {"1", 12, "no tensor"},
                {"0", 11, "another size"},
                {"0", 1ull << 61, "another size"}};
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        f = legacy_of(&p, lies[i].keys, lies[i].count, numbers, sizeof numbers);
        refused(f.data, f.len, DS_EINTEGRITY, lies[i].says, lies[i].says);
        ds_buf_release(&f);
    }
    refused(p.data, p.len, DS_EINVAL, "no PyTorch checkpoint", "a pickle of Python");
    ds_buf_release(&p);
}
END_TEST

/* A quantised tensor beside the weights: it is not made, but its data lie before those of others. */
START_TEST(quantised_beside_in_legacy) {
    static const char quantised[12] = "q";
    pk_tensor_spec q = {"QInt8Storage", "1", 12, 0, 1, {12}, {1}};
    ds_buf p = {0};
    ds_buf_add(&p, "\x80\x02}(", 4);
    pk_text(&p, "q");
    pk_tensor(&p, &q, 1);
    pk_text(&p, "w");
    pk_tensor(&p, &plain, 1);
    ds_buf_add(&p, "u.", 2);
    ds_buf data = {0};
    ds_buf_add(&data, quantised, sizeof quantised);
    number(&data, 12, 8);
    ds_buf_add(&data, (const char *)numbers, sizeof numbers);
    ds_buf f = legacy_of(&p, "10", 12, data.data, data.len);
    char *path = tmp("quantised.pt");
    put(path, f.data, f.len);
    ds_weights *w;
    ds_error err = {0};
    const ds_weights_tensor *t;
    float x[12];
    ck_assert_msg(!ds_weights_open(&w, path, NULL, &err), "%s", err.message);
    ck_assert_msg(!ds_weights_need(w, "w", -1, NULL, &t, &err), "%s", err.message);
    ck_assert_msg(!ds_weights_read_f32(w, t, x, &err), "%s", err.message);
    ck_assert(x[0] == numbers[plain.offset]);
    ds_weights_close(w);
    ds_buf_release(&f);
    ds_buf_release(&data);
    ds_buf_release(&p);
    free(path);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, reads_views, 0, 2);
    tcase_add_test(tc, reads_types_and_packed_zips);
    tcase_add_test(tc, chooses_the_model);
    tcase_add_test(tc, code_is_refused);
    tcase_add_loop_test(tc, pickle_cases, 0, (int)(sizeof pickles / sizeof pickles[0]));
    tcase_add_loop_test(tc, unknown_things_are_opaque, 0,
                        (int)(sizeof opaques / sizeof opaques[0]));
    tcase_add_test(tc, lines_of_protocol_0);
    tcase_add_test(tc, pickle_floods);
    tcase_add_test(tc, pickle_in_itself);
    tcase_add_loop_test(tc, lying_tensors, 0, (int)(sizeof liars / sizeof liars[0]));
    tcase_add_loop_test(tc, cut_off, 0, 2);
    tcase_add_loop_test(tc, changed_bytes, 0, 2);
    tcase_add_test(tc, lying_zips);
    tcase_add_test(tc, overlapping_entries);
    tcase_add_test(tc, zip_bomb);
    tcase_add_test(tc, lying_legacy);
    tcase_add_test(tc, quantised_beside_in_legacy);
}

int main(void) { return ds_test_main("engine_weights", register_cases); }
