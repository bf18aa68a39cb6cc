/* tests/engine_files/test_engine_weights_choose.c - which of several models in a file is taken, in the spellings
 * of the libraries that write them; and what lies beside a model does no harm to it. */
#include "tests/engine_files/weights_models.h"
#include "base/fs.h"
#include "engine/files/weights.h"
#include "tests/harness.h"
#include "tests/engine_files/weights_files.h"
#include <stdio.h>
#include <stdlib.h>

/* ---------------------------------------------------------------- flat names, safetensors */

static const struct {
    const char *what;
    const char *raw, *averaged; /* before the names; NULL: not there */
    char joint;                 /* of the averaged names: '.', 0 = left out */
    const char *constant;       /* before the averaged one's pos_embed; NULL: none */
    const char *which;
    int want; /* model or code */
    const char *says;
} flat[] = {
    {"alone", "", NULL, '.', NULL, NULL, RAW, ""},
    {"alone behind wrappers", "module._orig_mod.", NULL, '.', NULL, NULL, RAW, ""},
    {"ema before the alphabet", "model.", "ema.", '.', "ema.", NULL, AVERAGED, ""},
    {"ema after the alphabet", "a_model.", "z_ema.", '.', "z_ema.", NULL, AVERAGED, ""},
    {"beside the top level", "", "ema_model.", '.', "ema_model.", NULL, AVERAGED, ""},
    {"ema-pytorch", "online_model.", "ema_model.", '.', "ema_model.", NULL, AVERAGED, ""},
    {"ema-pytorch inside", "ema.online_model.", "ema.ema_model.", '.', "ema.ema_model.", NULL,
     AVERAGED, ""},
    {"camel case", "netModel.", "netEMA.", '.', "netEMA.", NULL, AVERAGED, ""},
    {"swa", "net.", "swa_model.module.", '.', "swa_model.module.", NULL, AVERAGED, ""},
    {"LitEma", "model.net.", "model_ema.net", 0, NULL, NULL, AVERAGED, ""},
    {"LitEma of the whole", "model.", "model_ema.", 0, NULL, NULL, AVERAGED, ""},
    {"buffers with underscores", "", "ema_", '_', NULL, NULL, AVERAGED, ""},
    {"the raw one is asked for", "model.", "ema.", '.', "ema.", "model", RAW, ""},
    {"a key is asked for", "model.", "ema.", '.', "ema.", "ema", AVERAGED, ""},
    {"a key with its dot", "net.", "avg.", '.', "avg.", "net.", RAW, ""},
    {"no such key", "model.", "ema.", '.', "ema.", "other", DS_EINVAL, "'ema', 'model'"},
    {"what an EMA keeps of the raw one", "ema.backup.", "ema.shadow.", '.', "ema.shadow.", NULL,
     AVERAGED, ""},
    {"no averaged one", "model.", NULL, '.', NULL, "ema", DS_EINVAL, "no averaged weights"},
    {"two of equal right", "generator.", "critic.", '.', "critic.", NULL, DS_EINVAL,
     "'critic', 'generator'"},
    {"words that only end like ema", "model.", "schema.", '.', "schema.", NULL, DS_EINVAL,
     "holds 2 models"},
    {"non_ema is raw", "model_non_ema.", "model_ema.", '.', "model_ema.", NULL, AVERAGED, ""},
};

START_TEST(flat_names) {
    ds_st_writer *w = ds_st_writer_new();
    for (int i = 0; i < 3; i++)
        add(w, flat[_i].raw, names[i], '.', i, RAW);
    for (int i = 0; flat[_i].averaged && i < 3; i++)
        if (i < 2 || flat[_i].constant)
            add(w, flat[_i].averaged, names[i], flat[_i].joint, i, AVERAGED);
    char *path = write_st(w, "flat.safetensors");
    ds_error err = {0};
    int got = taken(path, flat[_i].which, NULL, &err);
    ck_assert_msg(got == flat[_i].want, "%s: %d %s", flat[_i].what, got, err.message);
    ck_assert_msg(strstr(err.message, flat[_i].says) != NULL, "%s: %s", flat[_i].what, err.message);
    free(path);
}
END_TEST

/* ---------------------------------------------------------------- dicts, pickles */

enum shape_of_file {
    PLAIN,          /* {model, ema} */
    SHADOW,         /* {model, ema: {decay, shadow}} */
    SHADOW_TRAINED, /* the same without what is not trained */
    MODULE,         /* {model, ema: {module}} */
    TIMM,           /* {state_dict, state_dict_ema} */
    COUNTED,        /* {model, smooth: {n_averaged, module.x}} */
    LIST,           /* {model, ema: {shadow_params: [...]}} */
    LIST_TRAINED,   /* the same without what is not trained */
    LIST_SHORT,     /* one is missing */
    LIST_TURNED,    /* of as many, but other shapes */
    OBJECT,         /* {model, ema: <object with shadow>} */
    NUMBERED,       /* {model, ema: {0: tensor, ...}} */
    TWO,            /* {model, ema: {emas: [dict, dict]}} */
    TIED,           /* {model, state_dict}: two that share their first tensor */
    ALIAS,          /* {model, state_dict}: one object twice */
    WHOLE,          /* a module that was pickled whole */
    FILES
};

static const struct {
    const char *what, *which;
    int want;
    const char *key, *says;
} dicts[FILES] = {
    [PLAIN] = {"ema", NULL, AVERAGED, "ema", ""},
    [SHADOW] = {"ema.shadow", NULL, AVERAGED, "ema.shadow", ""},
    [SHADOW_TRAINED] = {"ema.shadow of what is trained", NULL, AVERAGED, "ema.shadow", ""},
    [MODULE] = {"ema.module", NULL, AVERAGED, "ema.module", ""},
    [TIMM] = {"state_dict_ema", NULL, AVERAGED, "state_dict_ema", ""},
    [COUNTED] = {"AveragedModel", NULL, AVERAGED, "smooth", ""},
    [LIST] = {"EMAModel", NULL, AVERAGED, "ema.shadow_params", ""},
    [LIST_TRAINED] = {"torch_ema", NULL, AVERAGED, "ema.shadow_params", ""},
    [LIST_SHORT] = {"a list that does not fit", NULL, DS_EINVAL, NULL,
                    "'ema.shadow_params' are a list of 1"},
    [LIST_TURNED] = {"a list of other shapes", NULL, DS_EINVAL, NULL,
                     "'ema.shadow_params' are a list of 3"},
    [OBJECT] = {"an object's attributes", NULL, AVERAGED, "ema.shadow", ""},
    [NUMBERED] = {"numbered", NULL, DS_EINVAL, NULL,
                  "holds 'model' and averaged weights in a form that is not known, as 'ema'"},
    [TWO] = {"two averages", NULL, DS_EINVAL, NULL, "'ema.emas.0', 'ema.emas.1'"},
    [TIED] = {"two that share", NULL, DS_EINVAL, NULL, "'model', 'state_dict'"},
    [ALIAS] = {"one twice", NULL, RAW, "model", ""},
    [WHOLE] = {"whole module", NULL, RAW, "", ""},
};

/* obj.__dict__ = {"_modules": {}, "_parameters": {name: tensor}}, nested as the names are. */
static void whole_module(ds_buf *p) {
    pk_global(p, "nets", "Net");
    ds_buf_add(p, ")\x81}(", 4);
    key(p, "_parameters");
    ds_buf_add(p, "}(", 2);
    key(p, "pos_embed");
    tensor(p, 2, RAW);
    ds_buf_add(p, "u", 1);
    key(p, "_modules");
    ds_buf_add(p, "}(", 2);
    for (int i = 0; i < 2; i++) {
        key(p, i ? "c" : "a");
        pk_global(p, "nets", "Part");
        ds_buf_add(p, ")\x81}(", 4);
        key(p, i ? "_parameters" : "_modules");
        ds_buf_add(p, "}(", 2);
        key(p, i ? "w" : "b");
        if (i)
            tensor(p, 1, RAW);
        else {
            pk_global(p, "nets", "Part");
            ds_buf_add(p, ")\x81}(", 4);
            key(p, "_modules");
            ds_buf_add(p, "}", 1);
            key(p, "_parameters");
            ds_buf_add(p, "}(", 2);
            key(p, "w");
            tensor(p, 0, RAW);
            ds_buf_add(p, "uub", 3);
        }
        ds_buf_add(p, "u", 1);
        if (i) {
            key(p, "_modules");
            ds_buf_add(p, "}", 1);
        }
        ds_buf_add(p, "ub", 2);
    }
    ds_buf_add(p, "uub", 3);
}

static void averaged_part(ds_buf *p, enum shape_of_file f) {
    static const pk_tensor_spec counter = {"LongStorage", "1", 1, 0, 0, {0}, {0}};
    switch (f) {
    case SHADOW:
    case SHADOW_TRAINED:
        ds_buf_add(p, "}(", 2);
        key(p, "decay");
        ds_buf_add(p, "G\x3f\xef\xf7\xce\xd9\x16\x87\x2b", 9);
        key(p, "shadow");
        model_dict(p, AVERAGED, "", f == SHADOW);
        ds_buf_add(p, "u", 1);
        break;
    case MODULE:
        ds_buf_add(p, "}", 1);
        key(p, "module");
        model_dict(p, AVERAGED, "", 1);
        ds_buf_add(p, "s", 1);
        break;
    case COUNTED:
        model_dict(p, AVERAGED, "module.", 1);
        key(p, "n_averaged");
        pk_tensor(p, &counter, 0);
        ds_buf_add(p, "s", 1);
        break;
    case LIST:
    case LIST_TRAINED:
    case LIST_SHORT:
    case LIST_TURNED:
        ds_buf_add(p, "}", 1);
        key(p, "shadow_params");
        if (f == LIST_SHORT) {
            ds_buf_add(p, "]", 1);
            tensor(p, 0, AVERAGED);
            ds_buf_add(p, "a", 1);
        } else if (f == LIST_TURNED) {
            ds_buf_add(p, "](", 2);
            for (int i = 2; i >= 0; i--)
                tensor(p, i, AVERAGED);
            ds_buf_add(p, "e", 1);
        } else
            model_list(p, AVERAGED, f == LIST);
        ds_buf_add(p, "s", 1);
        break;
    case OBJECT:
        pk_global(p, "train", "EMA");
        ds_buf_add(p, ")\x81}", 3);
        key(p, "shadow");
        model_dict(p, AVERAGED, "", 1);
        ds_buf_add(p, "sb", 2);
        break;
    case NUMBERED:
        ds_buf_add(p, "}(", 2);
        for (int i = 0; i < 3; i++) {
            pk_int(p, i);
            tensor(p, i, AVERAGED);
        }
        ds_buf_add(p, "u", 1);
        break;
    case TWO:
        ds_buf_add(p, "}", 1);
        key(p, "emas");
        ds_buf_add(p, "](", 2);
        model_dict(p, AVERAGED, "", 1);
        model_dict(p, OTHER, "", 1);
        ds_buf_add(p, "es", 2);
        break;
    case TIED:
        ds_buf_add(p, "}(", 2);
        for (int i = 0; i < 3; i++) {
            key(p, names[i]);
            tensor(p, i, i ? OTHER : RAW);
        }
        ds_buf_add(p, "u", 1);
        break;
    default: model_dict(p, AVERAGED, "", 1);
    }
}

static char *dict_file(enum shape_of_file f) {
    ds_buf p = {0};
    ds_buf_add(&p, "\x80\x02", 2);
    if (f == WHOLE)
        whole_module(&p);
    else {
        ds_buf_add(&p, "}(", 2);
        key(&p, f == TIMM ? "state_dict" : "model");
        model_dict(&p, RAW, "", 1);
        ds_buf_add(&p, f == ALIAS ? "q\x01" : "", f == ALIAS ? 2 : 0);
        key(&p, f == TIMM      ? "state_dict_ema"
                : f == COUNTED ? "smooth"
                : f == ALIAS   ? "state_dict"
                : f == TIED    ? "state_dict"
                               : "ema");
        if (f == ALIAS)
            ds_buf_add(&p, "h\x01", 2);
        else
            averaged_part(&p, f);
        ds_buf_add(&p, "u", 1);
    }
    ds_buf_add(&p, ".", 1);
    zip_maker z = {0};
    const int64_t counter = 5;
    zm_add(&z, "a/data.pkl", p.data, p.len);
    zm_add(&z, "a/data/0", storage, sizeof storage);
    zm_add(&z, "a/data/1", &counter, sizeof counter);
    ds_buf file = zm_done(&z);
    char *path = tmp("dict.pt");
    FILE *out = fopen(path, "wb");
    ck_assert(out && fwrite(file.data, 1, file.len, out) == file.len && !fclose(out));
    ds_buf_release(&file);
    ds_buf_release(&p);
    return path;
}

START_TEST(dicts_of_models) {
    char *path = dict_file((enum shape_of_file)_i);
    ds_import_report *report = ds_import_report_new();
    ds_error err = {0};
    int got = taken(path, dicts[_i].which, report, &err);
    ck_assert_msg(got == dicts[_i].want, "%s: %d %s", dicts[_i].what, got, err.message);
    ck_assert_msg(strstr(err.message, dicts[_i].says) != NULL, "%s: %s", dicts[_i].what,
                  err.message);
    const json_t *said = json_object_get(ds_import_report_json(report), "weights");
    if (dicts[_i].key)
        ck_assert_str_eq(ds_json_string(said, "taken", "?"), dicts[_i].key);
    if (got == AVERAGED) {
        ck_assert_str_eq(ds_json_string(said, "how", ""), "averaged preferred");
        const json_t *other = json_array_get(json_object_get(said, "others"), 0);
        ck_assert_str_eq(ds_json_string(other, "key", ""), _i == TIMM ? "state_dict" : "model");
        ck_assert_int_eq(ds_json_int(other, "tensors", 0), 3);
    }
    const json_t *from =
        json_array_get(json_object_get(ds_import_report_json(report), "assumed"), 0);
    int constant = _i == SHADOW_TRAINED || _i == LIST_TRAINED;
    ck_assert_str_eq(ds_json_string(from, "what", ""), constant ? "pos_embed" : "");
    if (_i < WHOLE && _i != ALIAS) { /* the raw one is always to be had */
        memset(&err, 0, sizeof err);
        ck_assert_msg(taken(path, "model", NULL, &err) == RAW, "%s: %s", dicts[_i].what,
                      err.message);
    }
    ds_import_report_free(report);
    free(path);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, flat_names, 0, (int)(sizeof flat / sizeof flat[0]));
    tcase_add_loop_test(tc, dicts_of_models, 0, FILES);
}

int main(void) { return ds_test_main("engine_weights_choose", register_cases); }
