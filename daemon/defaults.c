/* daemon/defaults.c - the table of options, and the few defaults that depend on the dataset.
 *
 * This is the one place to tune what a training does when nobody says anything.
 */
#include "daemon/defaults.h"

#include "base/json.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/suggest.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum type { INT, NUM, BOOL, ENUM, LIST, DEVICE };

typedef struct {
    const char *option;  /* name in "options" */
    const char *section; /* place in spec.json ... */
    const char *key;     /* ... and name there; NULL: the same */
    enum type type;
    double least, most;    /* of INT and NUM: base/limits.h */
    const char *values;    /* of ENUM and LIST: "a|b|c" */
    const char *otherwise; /* default as text; NULL: from the dataset (see from_facts) */
} option;

#define TARGETS "q|k|v|proj|fc1|fc2|adaln|final"

/* clang-format off */
static const option options_table[] = {
    /* option, section, key, type, least and most, values, default */
    {"rank",                 "method",   NULL,    INT,    DS_RANGE_RANK,            NULL, "8"},
    {"side",                 "method",   NULL,    ENUM,   0, 0, "out|in", "out"},
    {"phi",                  "method",   NULL,    ENUM,   0, 0, "identity|relu", "identity"},
    {"freeze_v",             "method",   NULL,    BOOL,   0, 0, NULL, "false"},
    {"targets",              "method",   NULL,    LIST,   0, 0, TARGETS, TARGETS},
    {"steps",                "train",    NULL,    INT,    DS_RANGE_STEPS,           NULL, NULL},
    {"batch",                "train",    NULL,    INT,    DS_RANGE_BATCH,           NULL, "64"},
    {"micro_batch",          "train",    NULL,    INT,    DS_RANGE_BATCH,           NULL, NULL},
    {"lr",                   "train",    NULL,    NUM,    DS_RANGE_LR,              NULL, "0.006"},
    {"warmup",               "train",    NULL,    INT,    DS_RANGE_WARMUP,          NULL, NULL},
    {"clip",                 "train",    NULL,    NUM,    DS_RANGE_CLIP,            NULL, "1.0"},
    {"weight_decay",         "train",    NULL,    NUM,    DS_RANGE_WEIGHT_DECAY,    NULL, "0.0"},
    {"ema",                  "train",    NULL,    NUM,    DS_RANGE_EMA,             NULL, "0.99"},
    {"label_dropout",        "train",    NULL,    NUM,    DS_RANGE_LABEL_DROPOUT,   NULL, NULL},
    {"flip",                 "train",    NULL,    BOOL,   0, 0, NULL, "false"},
    {"seed",                 "train",    NULL,    INT,    DS_RANGE_SEED,            NULL, "1"},
    {"vb_weight",            "train",    NULL,    NUM,    DS_RANGE_VB_WEIGHT,       NULL, "1.0"},
    {"focus",                "train",    NULL,    NUM,    DS_RANGE_FOCUS,           NULL, "0.8"},
    {"focus_mean",           "train",    NULL,    NUM,    DS_RANGE_FOCUS_MEAN,      NULL, "-0.6"},
    {"cosine",               "train",    NULL,    BOOL,   0, 0, NULL, "true"},
    {"checkpoint_every",     "train",    NULL,    INT,    DS_RANGE_STEPS,           NULL, "100"},
    {"heldout_every",        "train",    NULL,    INT,    DS_RANGE_STEPS,           NULL, "100"},
    {"heldout",              "train",    NULL,    INT,    DS_RANGE_HELDOUT,         NULL, NULL},
    {"sampler",              "sample",   NULL,    ENUM,   0, 0, "dpmpp2m|ddim|ddpm", "dpmpp2m"},
    {"sample_steps",         "sample",   "steps", INT,    DS_RANGE_SAMPLE_STEPS,    NULL, "20"},
    {"guidance",             "sample",   NULL,    NUM,    DS_RANGE_GUIDANCE,        NULL, "1.5"},
    {"guidance_mode",        "sample",   NULL,    ENUM,   0, 0, "cfg|domain|none", "domain"},
    {"n",                    "evaluate", NULL,    INT,    DS_RANGE_N,               NULL, "512"},
    {"eval_seed",            "evaluate", "seed",  INT,    DS_RANGE_SEED,            NULL, "7"},
    {"kid_subsets",          "evaluate", NULL,    INT,    DS_RANGE_KID_SUBSETS,     NULL, "100"},
    {"kid_subset_size",      "evaluate", NULL,    INT,    DS_RANGE_KID_SUBSET_SIZE, NULL, NULL},
    {"probe_n",              "probe",    "n",     INT,    DS_RANGE_PROBE_N,         NULL, "4"},
    {"probe_seed",           "probe",    "seed",  INT,    DS_RANGE_SEED,            NULL, "11"},
    {"verify",               "gate",     NULL,    ENUM,   0, 0, "auto|full", "auto"},
    {"fd_tolerance",         "gate",     NULL,    NUM,    DS_RANGE_FD_TOLERANCE,    NULL, "0.02"},
    {"kid_tolerance_sigmas", "gate",     NULL,    NUM,    DS_RANGE_KID_SIGMAS,      NULL, "3.0"},
    {"worse_margin",         "gate",     NULL,    NUM,    DS_RANGE_WORSE_MARGIN,    NULL, NULL},
    {"worse_sigmas",         "gate",     NULL,    NUM,    DS_RANGE_WORSE_SIGMAS,    NULL, NULL},
    {"device",               "device",   "kind",  DEVICE, 0, 0, NULL, "auto"},
    {"precision",            "device",   NULL,    ENUM,   0, 0, "bf16|f32|tf32", "bf16"},
    {"threads",              "device",   NULL,    INT,    DS_RANGE_THREADS,         NULL, "0"},
};
/* clang-format on */
#define OPTIONS (sizeof options_table / sizeof *options_table)

static const char *const methods = "affiner|embedding|full";

static double clamp(double v, double least, double most) { return fmin(fmax(v, least), most); }

/* Defaults that depend on the dataset, or on options that are in the spec already (the table is
 * walked in order: batch comes before micro_batch, steps before warmup). */
static json_t *from_facts(const option *o, const json_t *spec, const ds_dataset_facts *f) {
    const json_t *train = json_object_get(spec, "train");
    double images = (double)f->images;
    if (strncmp(o->option, "worse_", 6) == 0)
        return NULL; /* left out of the spec, where the worker knows what was measured for it */
    if (strcmp(o->option, "steps") == 0)
        /* 64 images a step: 32 passes over the images, within what a person waits for */
        return json_integer((json_int_t)clamp(images * 32 / 64, 900, 3000));
    if (strcmp(o->option, "micro_batch") == 0)
        return json_integer(ds_json_int(train, "batch", 64));
    if (strcmp(o->option, "warmup") == 0)
        return json_integer(
            (json_int_t)clamp((double)ds_json_int(train, "steps", 600) / 10, 0, 50));
    if (strcmp(o->option, "label_dropout") == 0)
        return json_real(f->classes > 1 ? 0.1 : 0.0);
    if (strcmp(o->option, "heldout") == 0)
        return json_integer((json_int_t)clamp(floor(images / 10), images > 1 ? 1 : 0, 64));
    DS_ASSERT(strcmp(o->option, "kid_subset_size") == 0);
    double n = (double)ds_json_int(json_object_get(spec, "evaluate"), "n", 512);
    return json_integer((json_int_t)clamp(fmin(images, n), 2, 100));
}

static int in_list(const char *values, const char *word, size_t n) {
    for (const char *p = values; *p;) {
        size_t m = strcspn(p, "|");
        if (m == n && memcmp(p, word, n) == 0)
            return 1;
        p += m + (p[m] == '|');
    }
    return 0;
}

static json_t *split(const char *values) {
    json_t *list = json_array();
    for (const char *p = values; *p;) {
        size_t m = strcspn(p, "|");
        json_array_append_new(list, json_stringn(p, m));
        p += m + (p[m] == '|');
    }
    return list;
}

static json_t *default_value(const option *o, const json_t *spec, const ds_dataset_facts *f) {
    if (!o->otherwise)
        return from_facts(o, spec, f);
    switch (o->type) {
    case INT:
    case NUM:
    case BOOL: return json_loads(o->otherwise, JSON_DECODE_ANY, NULL);
    case DEVICE:
    case ENUM: return json_string(o->otherwise);
    case LIST: return split(o->otherwise);
    }
    return NULL;
}

static int check_list(const option *o, const json_t *v, ds_error *err) {
    size_t i;
    const json_t *item;
    if (!json_is_array(v) || !json_array_size(v))
        return ds_fail(err, DS_EINVAL, "option '%s' must be a list of %s", o->option, o->values);
    json_array_foreach((json_t *)(uintptr_t)v, i, item) {
        const char *s = json_string_value(item);
        if (!s || !in_list(o->values, s, strlen(s)))
            return ds_fail(err, DS_EINVAL, "option '%s' names '%s': known are %s", o->option,
                           s ? s : "something that is no text", o->values);
    }
    return 0;
}

static int check_value(const option *o, const json_t *v, ds_error *err) {
    switch (o->type) {
    case INT:
        if (!json_is_integer(v))
            return ds_fail(err, DS_EINVAL, "option '%s' must be a whole number", o->option);
        /* fall through */
    case NUM:
        if (!json_is_number(v))
            return ds_fail(err, DS_EINVAL, "option '%s' must be a number", o->option);
        if (!(json_number_value(v) >= o->least && json_number_value(v) <= o->most))
            return ds_fail(err, DS_EINVAL, "option '%s' must be from %g to %g", o->option, o->least,
                           o->most);
        return 0;
    case BOOL:
        if (!json_is_boolean(v))
            return ds_fail(err, DS_EINVAL, "option '%s' must be true or false", o->option);
        return 0;
    case ENUM:
        if (!json_is_string(v) || !in_list(o->values, json_string_value(v), json_string_length(v)))
            return ds_fail(err, DS_EINVAL, "option '%s' must be one of %s", o->option, o->values);
        return 0;
    case LIST: return check_list(o, v, err);
    case DEVICE:
        if (!json_is_string(v) || !ds_device_word(json_string_value(v)))
            return ds_fail(err, DS_EINVAL, "option '%s' must be %s", o->option, DS_DEVICE_WORDS);
        return 0;
    }
    return 0;
}

static const option *find(const char *name) {
    for (size_t i = 0; i < OPTIONS; i++)
        if (strcmp(options_table[i].option, name) == 0)
            return &options_table[i];
    return NULL;
}

static int unknown(const char *name, ds_error *err) {
    const char *names[OPTIONS];
    ds_buf all = {0};
    for (size_t i = 0; i < OPTIONS; i++) {
        names[i] = options_table[i].option;
        ds_buf_addf(&all, "%s%s", i ? ", " : "", names[i]);
    }
    const char *near = ds_suggest(name, names, OPTIONS);
    int rc = near ? ds_fail(err, DS_EINVAL, "option '%.60s' is not known: did you mean '%s'?", name,
                            near)
                  : ds_fail(err, DS_EINVAL, "option '%.60s' is not known: there are %.380s", name,
                            all.data);
    ds_buf_release(&all);
    return rc;
}

static int is_given(const json_t *options, const char *name) {
    const json_t *v = json_object_get(options, name);
    return v && !json_is_null(v);
}

static int64_t whole(const json_t *options, const char *name, int64_t otherwise) {
    return is_given(options, name) ? ds_json_int(options, name, otherwise) : otherwise;
}

/* What the engine asks of two options together. */
static int check_together(const json_t *options, ds_error *err) {
    int64_t batch = whole(options, "batch", 64), part = whole(options, "micro_batch", batch);
    if (part > batch || batch % part)
        return ds_fail(err, DS_EINVAL,
                       "option 'batch' is %lld, must be a multiple of 'micro_batch', %lld",
                       (long long)batch, (long long)part);
    const json_t *targets = json_object_get(options, "targets"), *t;
    size_t i;
    int qkv = 0;
    json_array_foreach((json_t *)(uintptr_t)targets, i, t) qkv |=
        !strcmp(json_string_value(t), "q")   ? 1
        : !strcmp(json_string_value(t), "k") ? 2
        : !strcmp(json_string_value(t), "v") ? 4
                                             : 0;
    if (qkv && qkv != 7 && !strcmp(ds_json_string(options, "side", "out"), "in"))
        return ds_fail(err, DS_EINVAL,
                       "option 'side' in scales the input that q, k and v share: 'targets' names "
                       "all three of them or none");
    return 0;
}

int ds_options_check(const char *method, const json_t *options, ds_error *err) {
    if (method && !in_list(methods, method, strlen(method)))
        return ds_fail(err, DS_EINVAL, "method '%s' is not known: one of %s", method, methods);
    if (!options || json_is_null(options))
        return 0;
    if (!json_is_object(options))
        return ds_fail(err, DS_EINVAL, "'options' must be an object");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)options, key, value) {
        const option *o = find(key);
        if (!o)
            return unknown(key, err);
        if (json_is_null(value))
            continue;
        int rc = check_value(o, value, err);
        if (rc)
            return rc;
    }
    return check_together(options, err);
}

static json_t *section(json_t *spec, const char *name) {
    json_t *s = json_object_get(spec, name);
    if (!s) {
        json_object_set_new(spec, name, json_object());
        s = json_object_get(spec, name);
    }
    return s;
}

int ds_options_apply(json_t *spec, const char *method, const json_t *options,
                     const ds_dataset_facts *facts, ds_error *err) {
    int rc = ds_options_check(method, options, err);
    if (rc)
        return rc;
    json_object_set_new(section(spec, "method"), "name", json_string(method ? method : "affiner"));
    for (size_t i = 0; i < OPTIONS; i++) {
        const option *o = &options_table[i];
        json_t *given = json_object_get(options, o->option);
        json_t *value =
            given && !json_is_null(given) ? json_incref(given) : default_value(o, spec, facts);
        if (!value)
            continue;
        if (o->type == NUM && json_is_integer(value)) { /* one type for one key, whoever wrote it */
            json_t *real = json_real((double)json_integer_value(value));
            json_decref(value);
            value = real;
        }
        json_object_set_new(section(spec, o->section), o->key ? o->key : o->option, value);
    }
    return 0;
}

static json_t *spec_of(const char *method, const json_t *options, const ds_dataset_facts *facts) {
    json_t *spec = json_object();
    if (ds_options_apply(spec, method, options, facts, NULL)) { /* a row of another program */
        json_decref(spec);
        return NULL;
    }
    return spec;
}

static json_t *value_in(const json_t *spec, const option *o) {
    return json_object_get(json_object_get(spec, o->section), o->key ? o->key : o->option);
}

json_t *ds_options_changes(const char *method_was, const json_t *was, const char *method_is,
                           const json_t *is, const ds_dataset_facts *facts) {
    json_t *list = json_array(), *a = spec_of(method_was, was, facts),
           *b = spec_of(method_is, is, facts);
    if (strcmp(method_was, method_is) != 0)
        json_array_append_new(list,
                              json_pack("{ss ss ss sb sb}", "option", "method", "from", method_was,
                                        "to", method_is, "from_default", 0, "to_default", 0));
    for (size_t i = 0; i < OPTIONS; i++) {
        const option *o = &options_table[i];
        int ga = is_given(was, o->option), gb = is_given(is, o->option);
        json_t *va = value_in(a, o), *vb = value_in(b, o);
        if ((ga || gb) && (ga != gb || !json_equal(va, vb)))
            json_array_append_new(list,
                                  json_pack("{ss sO? sO? sb sb}", "option", o->option, "from", va,
                                            "to", vb, "from_default", !ga, "to_default", !gb));
    }
    json_decref(a);
    json_decref(b);
    return list;
}

json_t *ds_options_without_effect(const char *method, const json_t *options) {
    static const char *const low_rank[] = {"rank", "side", "phi", "freeze_v", "targets"};
    const char *name = method ? method : "affiner", *device = ds_json_string(options, "device", ""),
               *mode = ds_json_string(options, "guidance_mode", "");
    json_t *list = json_array();
    for (size_t i = 0; strcmp(name, "affiner") && i < sizeof low_rank / sizeof *low_rank; i++)
        if (is_given(options, low_rank[i]))
            json_array_append_new(
                list, json_sprintf("%s has no effect with method %s", low_rank[i], name));
    if (is_given(options, "guidance") && !strcmp(mode, "none"))
        json_array_append_new(list, json_string("guidance has no effect with guidance_mode none"));
    if (!strcmp(ds_json_string(options, "precision", ""), "tf32") &&
        (!strcmp(device, "cpu") || !strcmp(device, "ref")))
        json_array_append_new(list, json_string("precision tf32 is f32 on the processor"));
    return list;
}

int ds_options_plain(json_t *spec, const char *const *members, ds_error *err) {
    static const ds_dataset_facts none = {.images = 0, .classes = 1};
    json_t *all = json_object();
    int rc = ds_options_apply(all, NULL, NULL, &none, err);
    for (; !rc && *members; members++)
        if (!json_object_get(spec, *members))
            json_object_set(spec, *members, json_object_get(all, *members));
    json_decref(all);
    return rc;
}
