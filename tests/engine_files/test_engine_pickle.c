/* tests/engine_files/test_engine_pickle.c - opcodes of pickles one by one: what each makes, and what is damage.
 * Source of the encodings: pickletools.py of CPython. */
#include "engine/files/pickle.h"
#include "tests/harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A bytes literal with its length. */
#define P(text) text, sizeof(text) - 1

static const struct {
    const char *bytes;
    size_t n;
    enum ds_pickle_kind kind;
    double value;     /* of a number */
    const char *text; /* of a text */
    int count;        /* members; -1: not asked */
} good[] = {
    {P("N."), DS_PICKLE_NONE, 0, NULL, -1},
    {P("\x80\x02\x88."), DS_PICKLE_BOOL, 1, NULL, -1},
    {P("\x80\x02\x89."), DS_PICKLE_BOOL, 0, NULL, -1},
    {P("I01\n."), DS_PICKLE_BOOL, 1, NULL, -1},
    {P("I00\n."), DS_PICKLE_BOOL, 0, NULL, -1},
    {P("I1\n."), DS_PICKLE_INT, 1, NULL, -1},
    {P("I-42\n."), DS_PICKLE_INT, -42, NULL, -1},
    {P("L5L\n."), DS_PICKLE_INT, 5, NULL, -1},
    {P("I5x\n."), DS_PICKLE_OPAQUE, 0, NULL, -1},
    {P("I\n."), DS_PICKLE_OPAQUE, 0, NULL, -1},
    {P("I99999999999999999999\n."), DS_PICKLE_OPAQUE, 0, NULL, -1},
    {P("F1.5\n."), DS_PICKLE_FLOAT, 1.5, NULL, -1},
    {P("G\x3f\xf8\x00\x00\x00\x00\x00\x00."), DS_PICKLE_FLOAT, 1.5, NULL, -1},
    {P("K\xff."), DS_PICKLE_INT, 255, NULL, -1},
    {P("M\x01\x02."), DS_PICKLE_INT, 513, NULL, -1},
    {P("J\xfe\xff\xff\xff."), DS_PICKLE_INT, -2, NULL, -1},
    {P("\x8a\x00."), DS_PICKLE_INT, 0, NULL, -1},
    {P("\x8a\x01\xff."), DS_PICKLE_INT, -1, NULL, -1},
    {P("\x8a\x02\xff\x00."), DS_PICKLE_INT, 255, NULL, -1},
    {P("\x8a\x08\xff\xff\xff\xff\xff\xff\xff\xff."), DS_PICKLE_INT, -1, NULL, -1},
    {P("\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x01."), DS_PICKLE_OPAQUE, 0, NULL, -1},
    {P("S'ab'\n."), DS_PICKLE_TEXT, 0, "ab", -1},
    {P("S\"ab\"\n."), DS_PICKLE_TEXT, 0, "ab", -1},
    {P("S'a\\x00'\n."), DS_PICKLE_OPAQUE, 0, NULL, -1},
    {P("Vab\n."), DS_PICKLE_TEXT, 0, "ab", -1},
    {P("U\x02"
       "ab."),
     DS_PICKLE_TEXT, 0, "ab", -1},
    {P("X\x02\x00\x00\x00"
       "ab."),
     DS_PICKLE_TEXT, 0, "ab", -1},
    {P("\x8c\x02"
       "ab."),
     DS_PICKLE_TEXT, 0, "ab", -1},
    {P(")."), DS_PICKLE_TUPLE, 0, NULL, 0},
    {P("K\x01\x85."), DS_PICKLE_TUPLE, 0, NULL, 1},
    {P("K\x01K\x02\x86."), DS_PICKLE_TUPLE, 0, NULL, 2},
    {P("K\x01K\x02K\x03\x87."), DS_PICKLE_TUPLE, 0, NULL, 3},
    {P("(K\x01K\x02t."), DS_PICKLE_TUPLE, 0, NULL, 2},
    {P("]."), DS_PICKLE_LIST, 0, NULL, 0},
    {P("(K\x01K\x02l."), DS_PICKLE_LIST, 0, NULL, 2},
    {P("]K\x01"
       "a."),
     DS_PICKLE_LIST, 0, NULL, 1},
    {P("](K\x01K\x02K\x03"
       "e."),
     DS_PICKLE_LIST, 0, NULL, 3},
    {P("}."), DS_PICKLE_DICT, 0, NULL, 0},
    {P("(K\x01K\x02"
       "d."),
     DS_PICKLE_DICT, 0, NULL, 2},
    {P("}K\x01K\x02s."), DS_PICKLE_DICT, 0, NULL, 2},
    {P("}(K\x01K\x02K\x03K\x04u."), DS_PICKLE_DICT, 0, NULL, 4},
    {P("K\x07"
       "2\x86."),
     DS_PICKLE_TUPLE, 0, NULL, 2},
    {P("K\x07K\x08"
       "0."),
     DS_PICKLE_INT, 7, NULL, -1},
    {P("(K\x01K\x02"
       "1N."),
     DS_PICKLE_NONE, 0, NULL, -1},
    {P("K\x07q\x05K\x08h\x05\x86."), DS_PICKLE_TUPLE, 0, NULL, 2},
    {P("K\x07p5\nK\x08"
       "0g5\n."),
     DS_PICKLE_INT, 7, NULL, -1},
    {P("K\x07p9\nK\x08"
       "0g9\n."),
     DS_PICKLE_INT, 7, NULL, -1},
    {P("K\x07p00000000005\nK\x08"
       "0g5\n."),
     DS_PICKLE_INT, 7, NULL, -1},
    {P("K\x07\x94K\x08"
       "0h\x00."),
     DS_PICKLE_INT, 7, NULL, -1},
    {P("\x80\x04\x95\x02\x00\x00\x00\x00\x00\x00\x00N."), DS_PICKLE_NONE, 0, NULL, -1},
    {P("\x8f(K\x01\x90."), DS_PICKLE_OPAQUE, 0, NULL, -1},
    {P("(K\x01\x91."), DS_PICKLE_OPAQUE, 0, NULL, -1},
};

START_TEST(what_an_opcode_makes) {
    ds_pickle *p;
    ds_error err;
    size_t used = 0;
    char longer[64];
    ck_assert(good[_i].n + 3 < sizeof longer);
    memcpy(longer, good[_i].bytes, good[_i].n);
    memcpy(longer + good[_i].n, "NN.", 3); /* what comes behind is not its own */
    int rc = ds_pickle_read(&p, "x", longer, good[_i].n + 3, &used, &err);
    ck_assert_msg(rc == 0, "case %d: %s", _i, err.message);
    ck_assert_uint_eq(used, good[_i].n);
    const ds_pickle_node *root = ds_pickle_at(p, ds_pickle_root(p));
    ck_assert_msg(root->kind == good[_i].kind, "case %d: kind %d", _i, (int)root->kind);
    if (root->kind == DS_PICKLE_INT || root->kind == DS_PICKLE_BOOL)
        ck_assert_msg((double)root->i == good[_i].value, "case %d: %lld", _i, (long long)root->i);
    if (root->kind == DS_PICKLE_FLOAT)
        ck_assert(root->f == good[_i].value);
    if (good[_i].text)
        ck_assert(ds_pickle_is_text(root, good[_i].text) && !ds_pickle_is_text(root, "abc"));
    if (good[_i].count >= 0)
        ck_assert_int_eq((int)root->count, good[_i].count);
    ds_pickle_free(p);
    /* cut anywhere before its end */
    for (size_t n = 0; n < good[_i].n; n++) {
        rc = ds_pickle_read(&p, "x", good[_i].bytes, n, NULL, &err);
        /* a memo cannot have more entries than the pickle has bytes */
        ck_assert_msg(rc == DS_EINTEGRITY || rc == DS_ELIMIT, "case %d cut at %zu: %d", _i, n, rc);
    }
}
END_TEST

static const struct {
    const char *bytes;
    size_t n;
    int code;
    const char *words;
} bad[] = {
    {P("."), DS_EINTEGRITY, ""},
    {P("\x80\x06N."), DS_EINTEGRITY, "protocol is unknown"},
    {P("\xfeN."), DS_EINTEGRITY, "unknown opcode"},
    {P("S'ab\n."), DS_EINTEGRITY, "no quotes"},
    {P("Sab\n."), DS_EINTEGRITY, "no quotes"},
    {P("K\x07px\nN."), DS_EINTEGRITY, "number of its memo"},
    {P("K\x07p123456789012\n."), DS_EINTEGRITY, "number of its memo"},
    {P("gx\n."), DS_EINTEGRITY, "number of its memo"},
    {P("h\x05."), DS_EINTEGRITY, ""},
    {P("g5\n."), DS_EINTEGRITY, ""},
    {P("q\x05N."), DS_EINTEGRITY, "nothing to remember"},
    {P("(q\x05N."), DS_EINTEGRITY, "nothing to remember"},
    {P("K\x07r\xff\xff\xff\x7fN."), DS_ELIMIT, "memo"},
    {P("K\x01K\x02"
       "a."),
     DS_EINTEGRITY, "no container"},
    {P("]K\x01K\x02s."), DS_EINTEGRITY, "no container"},
    {P("}K\x01"
       "a."),
     DS_EINTEGRITY, "no container"},
    {P("}(K\x01u."), DS_EINTEGRITY, "no container"},
    {P("](K\x01K\x02u."), DS_EINTEGRITY, "no container"},
    {P("(K\x01"
       "d."),
     DS_EINTEGRITY, "key without value"},
    {P("K\x01(K\x02\x90."), DS_EINTEGRITY, "no set"},
    {P("(K\x02\x90."), DS_EINTEGRITY, "no set"},
    {P("K\x01t."), DS_EINTEGRITY, ""},
    {P("K\x01\x86."), DS_EINTEGRITY, ""},
    {P("0."), DS_EINTEGRITY, ""},
    {P("2."), DS_EINTEGRITY, ""},
    {P("X\xff\xff\xff\x7f"
       "ab."),
     DS_ELIMIT, "bytes in one text"},
    {P("X\x00\x01\x00\x00"
       "ab."),
     DS_EINTEGRITY, ""},
    {P("\x82\x01."), DS_EINVAL, "opcode EXT1"},
    {P("\x97."), DS_EINVAL, "opcode NEXT_BUFFER"},
    {P("\x98."), DS_EINVAL, "opcode READONLY_BUFFER"},
    /* an operand that is cut off, where the bytes that are there would go on as opcodes */
    {P("NJN."), DS_EINTEGRITY, "cut off"},
    {P("NM."), DS_EINTEGRITY, "cut off"},
    {P("NG000000."), DS_EINTEGRITY, "cut off"},
    {P("\x8a\x04N."), DS_EINTEGRITY, "cut off"},
    {P("\x8a\x0cN."), DS_EINTEGRITY, "cut off"},
    {P("N\x8b."), DS_EINTEGRITY, "cut off"},
    {P("\x8b\x04\0\0\0N."), DS_EINTEGRITY, "cut off"},
    {P("NX\x02\0\0\0."), DS_EINTEGRITY, "cut off"},
    {P("NXN."), DS_EINTEGRITY, "cut off"},
    {P("N\x8c\x02."), DS_EINTEGRITY, "cut off"},
    {P("N\x8dN0N0N0."), DS_EINTEGRITY, "cut off"},
    {P("NT\x02\0\0\0."), DS_EINTEGRITY, "cut off"},
    {P("NU\x02."), DS_EINTEGRITY, "cut off"},
    {P("NB\x02\0\0\0."), DS_EINTEGRITY, "cut off"},
    {P("NC\x02."), DS_EINTEGRITY, "cut off"},
    {P("N\x8e\x02\0\0\0\0\0\0\0."), DS_EINTEGRITY, "cut off"},
    {P("N\x96\x02\0\0\0\0\0\0\0."), DS_EINTEGRITY, "cut off"},
    {P("N\x95N0N0N0."), DS_EINTEGRITY, "cut off"},
    {P("Nr0N."), DS_EINTEGRITY, "cut off"},
    {P("NjN0."), DS_EINTEGRITY, "cut off"},
    {P("N\x80"), DS_EINTEGRITY, "cut off"},
    {P("NI5."), DS_EINTEGRITY, "no end"},
    {P("NF5."), DS_EINTEGRITY, "no end"},
    {P("NS'a'."), DS_EINTEGRITY, "no end"},
    {P("NVa."), DS_EINTEGRITY, "no end"},
    {P("Np5."), DS_EINTEGRITY, "no end"},
    {P("Ng5."), DS_EINTEGRITY, "no end"},
    {P("Ncab\ncd."), DS_EINTEGRITY, "no end"},
    /* not enough on the stack, or above the mark */
    {P("\x85."), DS_EINTEGRITY, "stack is empty"},
    {P("N\x87."), DS_EINTEGRITY, "stack is empty"},
    {P("N(a."), DS_EINTEGRITY, "stack is empty"},
    {P("}(Ns."), DS_EINTEGRITY, "stack is empty"},
    {P("(u."), DS_EINTEGRITY, "stack is empty"},
    {P("Nu."), DS_EINTEGRITY, "mark is missing"},
    {P("Ne."), DS_EINTEGRITY, "mark is missing"},
    {P("Nl."), DS_EINTEGRITY, "mark is missing"},
    {P("Nd."), DS_EINTEGRITY, "mark is missing"},
    {P("N1."), DS_EINTEGRITY, "mark is missing"},
    {P("\x8f\x90."), DS_EINTEGRITY, "mark is missing"},
    {P("N\x91."), DS_EINTEGRITY, "mark is missing"},
    {P("No."), DS_EINTEGRITY, "mark is missing"},
    {P("Nia\nb\n."), DS_EINTEGRITY, "mark is missing"},
    {P("Q."), DS_EINTEGRITY, "stack is empty"},
    {P("NR."), DS_EINTEGRITY, "stack is empty"},
    {P(")}\x92."), DS_EINTEGRITY, "stack is empty"},
    {P("}b."), DS_EINTEGRITY, "stack is empty"},
    {P("Vx\n\x93."), DS_EINTEGRITY, "stack is empty"},
    {P("NVx\n\x93."), DS_EINTEGRITY, "global is not text"},
    {P("Vx\nN\x93."), DS_EINTEGRITY, "global is not text"},
    {P("N)R."), DS_EINTEGRITY, "no function"},
    {P("cx\ny\nNR."), DS_EINTEGRITY, "no function"},
    {P("K\x01Nb."), DS_EINTEGRITY, "plain value"},
    {P("ccollections\nOrderedDict\n(K\x01tR."), DS_EINTEGRITY, "else than a list"},
    {P("ccollections\nOrderedDict\n(]]tR."), DS_EINTEGRITY, "else than a list"},
    {P("ccollections\nOrderedDict\n((K\x01ltR."), DS_EINTEGRITY, "else than pairs"},
    {P("ccollections\nOrderedDict\n(((K\x01lltR."), DS_EINTEGRITY, "else than pairs"},
    {P("ccollections\nOrderedDict\n(((K\x01K\x02K\x03lltR."), DS_EINTEGRITY, "else than pairs"},
    {P("ctorch\nSize\n(K\x01tR."), DS_EINTEGRITY, "unusable arguments"},
    {P("ctorch\nSize\n())tR."), DS_EINTEGRITY, "unusable arguments"},
    {P("ctorch\nSize\n)R."), DS_EINTEGRITY, "unusable arguments"},
    {P("ctorch\nfloat32\n)R."), DS_EINTEGRITY, "unusable arguments"},
};

/* ('storage', type, key, 'cpu', elements, ...) and what is wrong with it. */
#define STORAGE "(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nK\x0c"
#define TENSOR "ctorch._utils\n_rebuild_tensor_v2\n"
static const struct {
    const char *bytes;
    size_t n;
    int code;
    const char *words; /* NULL: is right */
} storages[] = {
    {P(STORAGE "tQ."), 0, NULL},
    {P(STORAGE "NtQ."), 0, NULL},
    {P(STORAGE "K\x01tQ."), DS_EINVAL, "view of a storage"},
    {P(STORAGE "NNtQ."), DS_EINTEGRITY, "no storage"},
    {P("(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\ntQ."), DS_EINTEGRITY, "no storage"},
    {P("(Vstored\nctorch\nFloatStorage\nV0\nVcpu\nK\x0ctQ."), DS_EINTEGRITY, "no storage"},
    {P("(Vstorage\nctorch\nfloat32\nV0\nVcpu\nK\x0ctQ."), DS_EINTEGRITY, "type of a storage"},
    {P("(Vstorage\nNV0\nVcpu\nK\x0ctQ."), DS_EINTEGRITY, "type of a storage"},
    {P("(Vstorage\nctorch\nNewStorage\nV0\nVcpu\nK\x0ctQ."), 0, NULL},
    {P("(Vstorage\nctorch\nFloatStorage\nK\x01Vcpu\nK\x0ctQ."), DS_EINTEGRITY, "name of a storage"},
    {P("(Vstorage\nctorch\nFloatStorage\nV\nVcpu\nK\x0ctQ."), DS_EINTEGRITY, "name of a storage"},
    {P("(Vstorage\nctorch\nFloatStorage\n"
       "V0123456789012345678901234567890123456789012345678901234567890123\nVcpu\nK\x0ctQ."),
     0, NULL},
    {P("(Vstorage\nctorch\nFloatStorage\n"
       "V01234567890123456789012345678901234567890123456789012345678901234\nVcpu\nK\x0ctQ."),
     DS_EINTEGRITY, "name of a storage"},
    {P("(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nVx\ntQ."), DS_EINTEGRITY, "size of a storage"},
    {P(TENSOR "(" STORAGE "tQK\0(K\x0ct(K\x01ttR."), 0, NULL},
    {P(TENSOR "(" STORAGE "tQK\0(K\x0dt(K\x01ttR."), DS_EINTEGRITY, "outside its storage"},
    {P(TENSOR "(" STORAGE "tQK\x01(K\x0ct(K\x01ttR."), DS_EINTEGRITY, "outside its storage"},
    {P(TENSOR "(" STORAGE "tQK\x0c(K\0t(K\x01ttR."), 0, NULL},
    {P(TENSOR "(" STORAGE "tQK\x0d(K\0t(K\x01ttR."), DS_EINTEGRITY, "outside its storage"},
    {P(TENSOR "(" STORAGE "tQK\0(K\x0ct)tR."), DS_EINTEGRITY, "shape of a tensor"},
    {P(TENSOR "(" STORAGE "tQK\0])tR."), DS_EINTEGRITY, "shape of a tensor"},
    {P(TENSOR "(" STORAGE "tQK\0)]tR."), DS_EINTEGRITY, "shape of a tensor"},
    {P(TENSOR "(" STORAGE "tQK\0(Nt(K\x01ttR."), DS_EINTEGRITY, "shape of a tensor"},
    {P(TENSOR "(" STORAGE "tQK\0(K\x01t(NttR."), DS_EINTEGRITY, "shape of a tensor"},
    {P(TENSOR "(" STORAGE "tQN))tR."), DS_EINTEGRITY, "no storage"},
    {P(TENSOR "(" STORAGE "tQK\0)tR."), DS_EINTEGRITY, "no storage"},
    {P(TENSOR "(NK\0))tR."), DS_EINTEGRITY, "no storage"},
    /* of a type whose numbers are not known nothing can be outside */
    {P(TENSOR "((Vstorage\nctorch\nNewStorage\nV0\nVcpu\nK\x0ctQK\0(K\x63t(K\x01ttR."), 0, NULL},
};

START_TEST(storages_and_tensors) {
    ds_pickle *p = NULL;
    ds_error err = {0};
    int rc = ds_pickle_read(&p, "x", storages[_i].bytes, storages[_i].n, NULL, &err);
    ck_assert_msg(rc == storages[_i].code, "case %d: %d: %s", _i, rc, err.message);
    if (rc) {
        ck_assert_msg(strstr(err.message, storages[_i].words) != NULL, "case %d: %s", _i,
                      err.message);
        return;
    }
    const ds_pickle_node *root = ds_pickle_at(p, ds_pickle_root(p));
    ck_assert(root->kind == DS_PICKLE_STORAGE || root->kind == DS_PICKLE_TENSOR);
    const ds_pickle_storage *s = root->kind == DS_PICKLE_TENSOR
                                     ? ds_pickle_at(p, root->tensor->storage)->storage
                                     : root->storage;
    int known = !memmem(storages[_i].bytes, storages[_i].n, "NewStorage", 10);
    ck_assert(s->count == 12 && s->dtype == (known ? DS_ST_F32 : DS_ST_OTHER));
    ck_assert_ptr_nonnull(ds_pickle_at(p, s->key)->text);
    if (root->kind == DS_PICKLE_TENSOR)
        ck_assert(root->tensor->dtype == s->dtype && root->tensor->ndim == 1 &&
                  root->tensor->stride[0] == 1);
    ds_pickle_free(p);
}
END_TEST

/* The names of PyTorch's types, and what of them is read. */
START_TEST(types_of_storages) {
    static const struct {
        const char *name;
        enum ds_st_dtype dtype;
    } types[] = {{"FloatStorage", DS_ST_F32},        {"HalfStorage", DS_ST_F16},
                 {"BFloat16Storage", DS_ST_BF16},    {"DoubleStorage", DS_ST_F64},
                 {"LongStorage", DS_ST_I64},         {"IntStorage", DS_ST_I32},
                 {"ShortStorage", DS_ST_I16},        {"CharStorage", DS_ST_I8},
                 {"ByteStorage", DS_ST_U8},          {"BoolStorage", DS_ST_BOOL},
                 {"ComplexFloatStorage", DS_ST_C64}, {"ComplexDoubleStorage", DS_ST_C128},
                 {"QInt8Storage", DS_ST_I8},         {"QInt32Storage", DS_ST_I32},
                 {"UntypedStorage", DS_ST_U8}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        char text[200];
        ds_pickle *p;
        int n =
            snprintf(text, sizeof text, "(Vstorage\nctorch\n%s\nV0\nVcpu\nI12\ntQ.", types[i].name);
        ck_assert_int_eq(ds_pickle_read(&p, "x", text, (size_t)n, NULL, NULL), 0);
        ck_assert_msg(ds_pickle_at(p, ds_pickle_root(p))->storage->dtype == types[i].dtype, "%s",
                      types[i].name);
        ds_pickle_free(p);
    }
    /* in an untyped storage the bytes are counted: 12 of them are 3 numbers of 4, 6 of 2 */
    static const struct {
        const char *name;
        int fits;
        enum ds_st_dtype dtype;
    } views[] = {{"float32", 3, DS_ST_F32},         {"float16", 6, DS_ST_F16},
                 {"bfloat16", 6, DS_ST_BF16},       {"float64", 1, DS_ST_F64},
                 {"uint16", 6, DS_ST_U16},          {"uint32", 3, DS_ST_U32},
                 {"uint64", 1, DS_ST_U64},          {"float8_e4m3fn", 12, DS_ST_F8_E4M3},
                 {"float8_e5m2", 12, DS_ST_F8_E5M2}};
    for (size_t i = 0; i < sizeof views / sizeof *views; i++)
        for (int more = 0; more < 2; more++) {
            char text[300];
            ds_pickle *p;
            int n =
                snprintf(text, sizeof text,
                         "ctorch._utils\n_rebuild_tensor_v3\n((Vstorage\nctorch\nUntypedStorage\n"
                         "V0\nVcpu\nI12\ntQI0\n(I%d\nt(I1\ntNNctorch\n%s\ntR.",
                         views[i].fits + more, views[i].name);
            int rc = ds_pickle_read(&p, "x", text, (size_t)n, NULL, NULL);
            ck_assert_msg(rc == (more ? DS_EINTEGRITY : 0), "%s, %d more: %d", views[i].name, more,
                          rc);
            if (rc)
                continue;
            ck_assert(ds_pickle_at(p, ds_pickle_root(p))->tensor->dtype == views[i].dtype);
            ds_pickle_free(p);
        }
}
END_TEST

/* Python 2's way: OrderedDict([[key, value], ...]), pairs as lists or tuples. */
START_TEST(dicts_of_pairs) {
    static const char text[] = "ccollections\nOrderedDict\n(((Va\nK\x01l(Vb\nK\x02tltR.";
    ds_pickle *p;
    ds_error err = {0};
    ck_assert_msg(!ds_pickle_read(&p, "x", text, sizeof text - 1, NULL, &err), "%s", err.message);
    const ds_pickle_node *root = ds_pickle_at(p, ds_pickle_root(p));
    ck_assert_int_eq(root->kind, DS_PICKLE_DICT);
    ck_assert_int_eq((int)ds_pickle_get(p, root, "a")->i, 1);
    ck_assert_int_eq((int)ds_pickle_get(p, root, "b")->i, 2);
    ds_pickle_free(p);
}
END_TEST

/* Is read, or refused as too much where one more is there than there may be. */
static void expect_limit(const char *text, size_t n, int full) {
    ds_pickle *p = NULL;
    ds_error err = {0};
    int rc = ds_pickle_read(&p, "x", text, n, NULL, &err);
    ck_assert_msg(rc == (full ? DS_ELIMIT : 0), "%d %s", rc, err.message);
    ds_pickle_free(p);
}

/* Members are counted even where an object that nobody makes gets an empty list. */
START_TEST(members_are_counted) {
    const size_t own = 4; /* the object's class has two names, and it two parts */
    const size_t times = DS_PICKLE_ITEMS_MAX - own;
    static const char head[] = "cx\ny\n)R]N\x94", tail[] = "0(e.";
    for (int full = 0; full < 2; full++) {
        size_t n = sizeof head - 1 + 1 + 3 * (times - !full);
        char *text = malloc(n + sizeof tail), *at = text;
        ck_assert_ptr_nonnull(text);
        at = mempcpy(at, head, sizeof head - 1);
        *at++ = '0';
        for (size_t i = 0; i < times - !full; i++)
            at = mempcpy(at, "h\0a", 3);
        at = mempcpy(at, tail, sizeof tail - 1);
        expect_limit(text, (size_t)(at - text), full);
        free(text);
    }
}
END_TEST

/* .. and where lists get theirs all at once: the last one is one too many at its very end. */
START_TEST(members_of_lists) {
    for (int full = 0; full < 2; full++) {
        size_t rest = DS_PICKLE_ITEMS_MAX + (size_t)full;
        char *text = malloc(2 * rest + 100), *at = text;
        ck_assert_ptr_nonnull(text);
        at = mempcpy(at, "N\x94", 2);
        while (rest) {
            size_t n = rest < DS_PICKLE_NODES_MAX ? rest : DS_PICKLE_NODES_MAX;
            at = mempcpy(at, "0(", 2);
            for (size_t i = 0; i < n; i++)
                at = mempcpy(at, "h\0", 2);
            *at++ = 'l';
            rest -= n;
        }
        *at++ = '.';
        expect_limit(text, (size_t)(at - text), full);
        free(text);
    }
}
END_TEST

START_TEST(what_is_damage) {
    ds_pickle *p = NULL;
    ds_error err = {0};
    int rc = ds_pickle_read(&p, "x", bad[_i].bytes, bad[_i].n, NULL, &err);
    ck_assert_msg(rc == bad[_i].code, "case %d: %d, must be %d: %s", _i, rc, bad[_i].code,
                  err.message);
    ck_assert_msg(strstr(err.message, bad[_i].words) != NULL, "case %d: %s", _i, err.message);
}
END_TEST

/* A key twice: the last one counts, as in Python. */
START_TEST(the_last_of_two_keys_counts) {
    static const char text[] = "}(U\x01"
                               "aK\x01U\x01"
                               "bK\x02U\x01"
                               "aK\x03u.";
    ds_pickle *p;
    ck_assert_int_eq(ds_pickle_read(&p, "x", text, sizeof text - 1, NULL, NULL), 0);
    const ds_pickle_node *root = ds_pickle_at(p, ds_pickle_root(p));
    ck_assert_int_eq((int)ds_pickle_get(p, root, "a")->i, 3);
    ck_assert_int_eq((int)ds_pickle_get(p, root, "b")->i, 2);
    ck_assert_ptr_null(ds_pickle_get(p, root, "c"));
    ds_pickle_free(p);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_loop_test(tc, what_an_opcode_makes, 0, (int)(sizeof good / sizeof *good));
    tcase_add_loop_test(tc, what_is_damage, 0, (int)(sizeof bad / sizeof *bad));
    tcase_add_test(tc, the_last_of_two_keys_counts);
    tcase_add_loop_test(tc, storages_and_tensors, 0, (int)(sizeof storages / sizeof *storages));
    tcase_add_test(tc, types_of_storages);
    tcase_add_test(tc, dicts_of_pairs);
    tcase_add_test(tc, members_are_counted);
    tcase_add_test(tc, members_of_lists);
}

int main(void) { return ds_test_main("engine_pickle", cases); }
