/* daemon/defaults.c - the table of options, and the few defaults that depend on the dataset.
 *
 * This is the one place to tune what a training does when nobody says anything.
 */
#include "daemon/defaults.h"

#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum type { INT, NUM, BOOL, ENUM, LIST };

typedef struct {
    const char *option;  /* name in "options" */
    const char *section; /* place in spec.json ... */
    const char *key;     /* ... and name there; NULL: the same */
    enum type type;
    double least, most;    /* of INT and NUM */
    const char *values;    /* of ENUM and LIST: "a|b|c" */
    const char *otherwise; /* default as text; NULL: from the dataset (see from_facts) */
} option;

#define TARGETS "q|k|v|proj|fc1|fc2|adaln|final"

/* clang-format off */
static const option options_table[] = {
    /* option               section     key      type  least most      values         default */
    {"rank",                 "method",   NULL,    INT,  1,    64,       NULL,          "8"},
    {"side",                 "method",   NULL,    ENUM, 0,    0,        "out|in",      "out"},
    {"phi", "method", NULL, ENUM, 0, 0, "identity|relu", "identity"},
    {"freeze_v",             "method",   NULL,    BOOL, 0,    0,        NULL,          "false"},
    {"targets",              "method",   NULL,    LIST, 0,    0,        TARGETS,       TARGETS},
    {"steps",                "train",    NULL,    INT,  1,    1e7,      NULL,          NULL},
    {"batch",                "train",    NULL,    INT,  1,    65536,    NULL,          "64"},
    {"micro_batch",          "train",    NULL,    INT,  1,    65536,    NULL,          NULL},
    {"lr",                   "train",    NULL,    NUM,  1e-9, 1,        NULL,          "0.006"},
    {"warmup",               "train",    NULL,    INT,  0,    1e6,      NULL,          NULL},
    {"clip",                 "train",    NULL,    NUM,  0,    1e6,      NULL,          "1.0"},
    {"weight_decay",         "train",    NULL,    NUM,  0,    1,        NULL,          "0.0"},
    {"ema",                  "train",    NULL,    NUM,  0,    0.999999, NULL,          "0.99"},
    {"label_dropout",        "train",    NULL,    NUM,  0,    1,        NULL,          NULL},
    {"flip",                 "train",    NULL,    BOOL, 0,    0,        NULL,          "false"},
    {"seed",                 "train",    NULL,    INT,  0,    9e15,     NULL,          "1"},
    {"vb_weight",            "train",    NULL,    NUM,  0,    1e3,      NULL,          "1.0"},
    {"focus",                "train",    NULL,    NUM,  0,    10,       NULL,          "0.8"},
    {"focus_mean",           "train",    NULL,    NUM,  -10,  10,       NULL,          "-0.6"},
    {"cosine",               "train",    NULL,    BOOL, 0,    0,        NULL,          "true"},
    {"checkpoint_every",     "train",    NULL,    INT,  1,    1e7,      NULL,          "100"},
    {"heldout_every",        "train",    NULL,    INT,  1,    1e7,      NULL,          "100"},
    {"heldout",              "train",    NULL,    INT,  0,    65536,    NULL,          NULL},
    {"sampler", "sample", NULL, ENUM, 0, 0, "dpmpp2m|ddim|ddpm", "dpmpp2m"},
    {"sample_steps",         "sample",   "steps", INT,  1,    1000,     NULL,          "20"},
    {"guidance",             "sample",   NULL,    NUM,  0,    100,      NULL,          "1.5"},
    {"guidance_mode", "sample", NULL, ENUM, 0, 0, "cfg|domain|none", "domain"},
    {"n",                    "evaluate", NULL,    INT,  4,    100000,   NULL,          "512"},
    {"eval_seed",            "evaluate", "seed",  INT,  0,    9e15,     NULL,          "7"},
    {"kid_subsets",          "evaluate", NULL,    INT,  2,    10000,    NULL,          "100"},
    {"kid_subset_size",      "evaluate", NULL,    INT,  2,    10000,    NULL,          NULL},
    {"probe_n",              "probe",    "n",     INT,  1,    64,       NULL,          "4"},
    {"probe_seed",           "probe",    "seed",  INT,  0,    9e15,     NULL,          "11"},
    {"verify",               "gate",     NULL,    ENUM, 0,    0,        "auto|full",   "auto"},
    {"fd_tolerance",         "gate",     NULL,    NUM,  0,    10,       NULL,          "0.02"},
    {"kid_tolerance_sigmas", "gate",     NULL,    NUM,  0,    100,      NULL,          "3.0"},
    {"device", "device", "kind", ENUM, 0, 0, "auto|ref|cpu|cuda|cuda:N", "auto"},
    {"precision",            "device",   NULL,    ENUM, 0,    0,        "bf16|f32|tf32", "bf16"},
    {"threads",              "device",   NULL,    INT,  0,    1024,     NULL,          "0"},
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

/* word (n) is the value (m): itself, or for "cuda:N" with a number of up to four digits as N. */
static int is_value(const char *value, size_t m, const char *word, size_t n) {
    if (m < 2 || memcmp(value + m - 2, ":N", 2) != 0)
        return m == n && memcmp(value, word, n) == 0;
    size_t digits = n < m ? 0 : n - (m - 1);
    return digits >= 1 && digits <= 4 && memcmp(value, word, m - 1) == 0 &&
           strspn(word + m - 1, "0123456789") == digits;
}

static int in_list(const char *values, const char *word, size_t n) {
    for (const char *p = values; *p;) {
        size_t m = strcspn(p, "|");
        if (is_value(p, m, word, n))
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
    }
    return 0;
}

static const option *find(const char *name) {
    for (size_t i = 0; i < OPTIONS; i++)
        if (strcmp(options_table[i].option, name) == 0)
            return &options_table[i];
    return NULL;
}

/* The known option that shares the longest beginning: enough for "step" -> "steps". */
static const char *nearest(const char *name) {
    const char *best = "steps";
    size_t most = 0;
    for (size_t i = 0; i < OPTIONS; i++) {
        size_t n = 0;
        while (name[n] && name[n] == options_table[i].option[n])
            n++;
        if (n > most) {
            most = n;
            best = options_table[i].option;
        }
    }
    return best;
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
            return ds_fail(err, DS_EINVAL, "option '%s' is not known: did you mean '%s'?", key,
                           nearest(key));
        if (json_is_null(value))
            continue;
        int rc = check_value(o, value, err);
        if (rc)
            return rc;
    }
    return 0;
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
        DS_ASSERT(value);
        if (o->type == NUM && json_is_integer(value)) { /* one type for one key, whoever wrote it */
            json_t *real = json_real((double)json_integer_value(value));
            json_decref(value);
            value = real;
        }
        json_object_set_new(section(spec, o->section), o->key ? o->key : o->option, value);
    }
    const json_t *train = json_object_get(spec, "train");
    if (ds_json_int(train, "micro_batch", 1) > ds_json_int(train, "batch", 1))
        return ds_fail(err, DS_EINVAL, "option 'micro_batch' is larger than 'batch'");
    return 0;
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
