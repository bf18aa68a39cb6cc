/* tests/engine_files/test_engine_weights_args.c - settings in a checkpoint: each pickle and the document that it
 * gives, or none. */
#include "engine/files/weights_internal.h"
#include "tests/harness.h"

#include <stdlib.h>
#include <string.h>

#define P(text) text, sizeof(text) - 1
#define ARGS(value) P("}Vargs\n" value "s.")
#define NUMPY(type, order, bytes)                                                                  \
    "cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(V" type "\nI00\nI01\ntR(K\x03V" order        \
    "\ntb" bytes "tR"
#define X12 "}Va\n}Va\n}Va\n}Va\n}Va\n}Va\n}Va\n}Va\n}Va\n}Va\n}Va\n}Va\n"

static const struct {
    const char *bytes;
    size_t n;
    const char *want; /* canonical JSON; NULL: none */
} cases_[] = {
    {P("N."), NULL},
    {P("]."), NULL},
    {P("}."), NULL},
    {P("}Vother\n}Va\nK\x01ss."), NULL},
    {ARGS("K\x01"), NULL}, /* no document */
    {ARGS("}Va\nK\x01s"), "{\"a\":1}"},
    {P("}VARGS\n}Va\nK\x01ss."), "{\"a\":1}"},
    {P("}Vargs2\n}Va\nK\x01ss."), NULL},
    {P("}Varg\n}Va\nK\x01ss."), NULL},
    {P("}Vhyper_parameters\n}Va\nK\x01ss."), "{\"a\":1}"},
    {P("}K\x01}Va\nK\x01ss."), NULL},
    {ARGS("}(Va\nNVb\n\x88Vc\n\x89Vd\nVx\nVe\nG\x3f\xf8\0\0\0\0\0\0u"),
     "{\"a\":null,\"b\":true,\"c\":false,\"d\":\"x\",\"e\":1.5}"},
    {ARGS("}Va\nJ\xfe\xff\xff\xffs"), "{\"a\":-2}"},
    {ARGS("}Va\nG\x7f\xf0\0\0\0\0\0\0s"), NULL}, /* not finite: as if it were not there */
    {ARGS("}Va\n](K\x01K\x02\x86Nes"), "{\"a\":[[1,2],null]}"},
    {ARGS("}Va\n](G\x7f\xf0\0\0\0\0\0\0K\x02"
          "es"),
     "{\"a\":[null,2]}"},
    {ARGS("}(K\x01K\x02Vb\nK\x03u"), "{\"b\":3}"}, /* keys are texts */
    {ARGS("}Va\n}Vb\nK\x01ss"), "{\"a\":{\"b\":1}}"},
    {P("}q\0Vargs\nh\0s."), NULL}, /* in itself */
    {P("}Vargs\n}q\1Va\nh\1ss."), NULL},
    {ARGS(X12 "K\1ssssssssssss"), "{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{"
                                  "\"a\":{\"a\":{\"a\":1}}}}}}}}}}}}"},
    {ARGS(X12 "}Va\nK\1sssssssssssss"), "{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{"
                                        "\"a\":{\"a\":{\"a\":{\"a\":{}}}}}}}}}}}}}"},
    /* objects: by their attributes, members, or what they are called */
    {ARGS("cargparse\nNamespace\n)\x81}Va\nK\x03sb"), "{\"a\":3}"},
    {ARGS("comegaconf\nDictConfig\n)\x81}V_content\n}Va\nK\x03ssb"), "{\"a\":3}"},
    {ARGS("}Va\ncomegaconf\nAnyNode\n)\x81}V_val\nK\x07sbs"), "{\"a\":7}"},
    {ARGS("}Va\nct\nK\n)Rs"), "{\"a\":\"t.K\"}"},
    {ARGS("}Va\nct\nK\nK\x02\x85Rs"), "{\"a\":\"t.K(2)\"}"},
    {ARGS("}Va\nct\nK\nVflow\n\x85Rs"), "{\"a\":\"flow\"}"},
    {ARGS("}Va\nct\nK\nF1.5\n\x85Rs"), "{\"a\":\"t.K\"}"},
    {ARGS("}Va\nct\nK\nVflow\nK\x02\x86Rs"), "{\"a\":\"t.K\"}"},
    {ARGS("}Va\nct\nK\nK\x02K\x03\x86Rs"), "{\"a\":\"t.K\"}"},
    {P("}Vopt\n}Va\nK\x01ss."), NULL}, /* an optimizer's, unless it is an object */
    {P("}Vopt\ncargparse\nNamespace\n)\x81}Va\nK\x01sbs."), "{\"a\":1}"},
    /* what stands alone, of a known name */
    {P("}Vnum_heads\nK\x06s."), "{\"num_heads\":6}"},
    {P("}Vprediction\nVv\ns."), "{\"prediction\":\"v\"}"},
    {P("}Vlr\nK\x06s."), NULL},
    {P("}Vnum_heads\n]s."), NULL},
    {P("}Vnum_heads\nNs."), NULL},
    {P("}Vpredict_xstart\n\x88s."), "{\"predict_xstart\":true}"},
    {P("}Vbeta_end\nF0.5\ns."), "{\"beta_end\":0.5}"},
    /* several documents: the first one, what others say otherwise below their keys */
    {P("}(Vconfig\n}Va\nK\x01sVargs\n}Vb\nK\x02su."), "{\"a\":1,\"b\":2}"},
    {P("}(Vconfig\n}Va\nK\x01sVargs\n}Va\nK\x01su."), "{\"a\":1}"},
    {P("}(Vconfig\n}Va\nK\x01sVargs\n}Va\nK\x02su."), "{\"a\":1,\"args\":{\"a\":2}}"},
    {P("}(Vconfig\n}Vnum_heads\nK\x01sVargs\n}Vnum_heads\nK\x02su."),
     "{\"(conflict)\":\"num_heads\",\"args\":{\"num_heads\":2},\"num_heads\":1}"},
    {P("}(Vconfig\n}Vnum_heads\nK\x01sVnum_heads\nK\x02u."),
     "{\"(conflict)\":\"num_heads\",\"checkpoint\":{\"num_heads\":2},\"num_heads\":1}"},
    /* NumPy's scalars: little-endian numbers of at most eight bytes */
    {ARGS("}Va\n" NUMPY("b1", "|", "C\x01\x01") "s"), "{\"a\":true}"},
    {ARGS("}Va\n" NUMPY("b1", "|", "C\x01\0") "s"), "{\"a\":false}"},
    {ARGS("}Va\n" NUMPY("u1", "|", "C\x01\xff") "s"), "{\"a\":255}"},
    {ARGS("}Va\n" NUMPY("i1", "|", "C\x01\xff") "s"), "{\"a\":-1}"},
    {ARGS("}Va\n" NUMPY("i2", "<", "C\x02\x01\x02") "s"), "{\"a\":513}"},
    {ARGS("}Va\n" NUMPY("i2", "<", "C\x02\0\x80") "s"), "{\"a\":-32768}"},
    {ARGS("}Va\n" NUMPY("i8", "<", "C\x08\xfe\xff\xff\xff\xff\xff\xff\xff") "s"), "{\"a\":-2}"},
    {ARGS("}Va\n" NUMPY("f4", "<", "C\x04\0\0\xc0\x3f") "s"), "{\"a\":1.5}"},
    {ARGS("}Va\n" NUMPY("f8", "<", "C\x08\0\0\0\0\0\0\xf8\x3f") "s"), "{\"a\":1.5}"},
    {ARGS("}Va\n" NUMPY("f8", ">", "C\x08\x3f\xf8\0\0\0\0\0\0") "s"),
     "{\"a\":\"numpy.core.multiarray.scalar\"}"},
    {ARGS("}Va\n" NUMPY("f2", "<", "C\x02\0\x3e") "s"), "{\"a\":\"numpy.core.multiarray.scalar\"}"},
    {ARGS("}Va\n" NUMPY("i8", "<", "C\x04\1\0\0\0") "s"),
     "{\"a\":\"numpy.core.multiarray.scalar\"}"},
    {ARGS("}Va\n" NUMPY("i9", "<", "C\x09\1\0\0\0\0\0\0\0\0") "s"),
     "{\"a\":\"numpy.core.multiarray.scalar\"}"},
    {ARGS("}Va\n" NUMPY("U12", "<", "C\x01x") "s"), "{\"a\":\"numpy.core.multiarray.scalar\"}"},
    {ARGS("}Va\n" NUMPY("M8", "<", "C\x08\0\0\0\0\0\0\0\0") "s"),
     "{\"a\":\"numpy.core.multiarray.scalar\"}"},
    /* bytes as Python 3 puts them into protocol 2 */
    {ARGS("}Va\n" NUMPY("u1", "|", "c_codecs\nencode\n(X\2\0\0\0\xc3\xbfVlatin1\ntR") "s"),
     "{\"a\":255}"},
    {ARGS("}Va\n" NUMPY("u1", "|", "cother\nencode\n(X\2\0\0\0\xc3\xbfVlatin1\ntR") "s"),
     "{\"a\":\"numpy.core.multiarray.scalar\"}"},
};

START_TEST(document_of_a_pickle) {
    ds_pickle *p = NULL;
    ds_error err = {0};
    ck_assert_msg(!ds_pickle_read(&p, "x", cases_[_i].bytes, cases_[_i].n, NULL, &err),
                  "case %d: %s", _i, err.message);
    json_t *doc = ds_weights_read_args(p);
    char *text = doc ? ds_json_canonical(doc) : NULL;
    ck_assert_msg(!text == !cases_[_i].want, "case %d: %s", _i, text ? text : "none");
    if (text)
        ck_assert_msg(!strcmp(text, cases_[_i].want), "case %d: %s", _i, text);
    free(text);
    json_decref(doc);
    ds_pickle_free(p);
}
END_TEST

/* A list keeps its first 64 members. */
START_TEST(long_lists_are_cut) {
    for (int n = 64; n <= 65; n++) {
        char bytes[400] = "}Vargs\n}Va\n](";
        size_t at = strlen(bytes);
        for (int i = 0; i < n; i++)
            at = (size_t)(stpcpy(bytes + at, "I7\n") - bytes);
        at = (size_t)(stpcpy(bytes + at, "ess.") - bytes);
        ds_pickle *p = NULL;
        ck_assert_int_eq(ds_pickle_read(&p, "x", bytes, at, NULL, NULL), 0);
        json_t *doc = ds_weights_read_args(p);
        ck_assert_int_eq((int)json_array_size(json_object_get(doc, "a")), 64);
        json_decref(doc);
        ds_pickle_free(p);
    }
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, document_of_a_pickle, 0, (int)(sizeof cases_ / sizeof *cases_));
    tcase_add_test(tc, long_lists_are_cut);
}

int main(void) { return ds_test_main("engine_weights_args", register_cases); }
