/* tests/test_engine_pickle.c - opcodes of pickles one by one: what each makes, and what is damage.
 * Source of the encodings: pickletools.py of CPython. */
#include "engine/pickle.h"
#include "tests/harness.h"

#include <math.h>
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
};

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
}

int main(void) { return ds_test_main("engine_pickle", cases); }
