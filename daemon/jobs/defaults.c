/* daemon/jobs/defaults.c - options checked, and the few defaults that depend on the dataset; the
 * rows are in contract/options.def. */
#include "daemon/jobs/defaults.h"

#include "base/json.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/suggest.h"
#include "contract/options.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int is_given(const json_t *options, const char *name) {
    const json_t *v = json_object_get(options, name);
    return v && !json_is_null(v);
}

static double clamp(double v, double least, double most) { return fmin(fmax(v, least), most); }

/* Defaults that depend on the dataset, on other options, or on those that are in the spec already
 * (the table is walked in order: batch comes before micro_batch, steps before warmup). */
static json_t *from_facts(const ds_option *o, const json_t *spec, const json_t *options,
                          const ds_dataset_facts *f) {
    const json_t *train = json_object_get(spec, "train");
    const int guided = ds_json_number(train, "trained_guidance", 0) > 0;
    double images = (double)f->images;
    if (!o->by)
        return NULL; /* left out of the spec */
    if (strcmp(o->name, "steps") == 0)
        /* 64 images a step: 32 passes over the images, within what a person waits for */
        return json_integer((json_int_t)clamp(images * 32 / 64, 900, 3000));
    if (strcmp(o->name, "lr") == 0) {
        const char *method = ds_json_string(json_object_get(spec, "method"), "name", "");
        return json_real(f->velocity && !strcmp(method, "affiner") ? 0.012 : 0.006);
    }
    if (strcmp(o->name, "micro_batch") == 0)
        return json_integer(ds_json_int(train, "batch", 64));
    if (strcmp(o->name, "warmup") == 0)
        return json_integer(
            (json_int_t)clamp((double)ds_json_int(train, "steps", 600) / 10, 0, 50));
    if (strcmp(o->name, "label_dropout") == 0)
        return json_real(f->classes > 1 ? 0.1 : 0.0);
    if (strcmp(o->name, "heldout") == 0)
        return json_integer((json_int_t)clamp(floor(images / 10), images > 1 ? 1 : 0, 64));
    /* of DDPM's schedule those at which shape is decided; a flow's are shifted by its base */
    if (strcmp(o->name, "focus") == 0)
        return json_real(f->velocity ? 0.0 : 0.8);
    if (strcmp(o->name, "focus_mean") == 0)
        return json_real(f->velocity ? 0.0 : -0.6);
    if (strcmp(o->name, "sample_steps") == 0)
        return json_integer(f->velocity ? 50 : 20);
    if (strcmp(o->name, "guidance_mode") == 0)
        return json_string(guided && !is_given(options, "guidance") ? "none" : "domain");
    if (strcmp(o->name, "guidance_domain") == 0 || strcmp(o->name, "guidance_class") == 0)
        return json_real(guided ? 1.0 : 1.5);
    if (strcmp(o->name, "guidance_low") == 0 || strcmp(o->name, "trained_guidance_low") == 0)
        return json_real(f->velocity ? 0.5 : 0.0);
    DS_ASSERT(strcmp(o->name, "kid_subset_size") == 0);
    double n = (double)ds_json_int(json_object_get(spec, "evaluate"), "n", 512);
    return json_integer((json_int_t)clamp(fmin(images, n), 2, 100));
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

static json_t *default_value(const ds_option *o, const json_t *spec, const json_t *options,
                             const ds_dataset_facts *f) {
    if (!o->otherwise)
        return from_facts(o, spec, options, f);
    switch (o->type) {
    case DS_OPTION_INT:
    case DS_OPTION_SEED:
    case DS_OPTION_NUM:
    case DS_OPTION_BOOL: return json_loads(o->otherwise, JSON_DECODE_ANY, NULL);
    case DS_OPTION_DEVICE:
    case DS_OPTION_ENUM: return json_string(o->otherwise);
    case DS_OPTION_LIST: return split(o->words);
    }
    return NULL;
}

static int check_list(const ds_option *o, const json_t *v, ds_error *err) {
    size_t i;
    const json_t *item;
    if (!json_is_array(v) || !json_array_size(v))
        return ds_fail(err, DS_EINVAL, "option '%s' must be a list of %s", o->name, o->words);
    json_array_foreach((json_t *)(uintptr_t)v, i, item) {
        const char *s = json_string_value(item);
        if (!s || !ds_word_in(o->words, s, strlen(s)))
            return ds_fail(err, DS_EINVAL, "option '%s' names '%s': known are %s", o->name,
                           s ? s : "something that is no text", o->words);
    }
    return 0;
}

static int check_value(const ds_option *o, const json_t *v, ds_error *err) {
    switch (o->type) {
    case DS_OPTION_INT:
    case DS_OPTION_SEED:
        if (!json_is_integer(v))
            return ds_fail(err, DS_EINVAL, "option '%s' must be a whole number", o->name);
        /* fall through */
    case DS_OPTION_NUM:
        if (!json_is_number(v))
            return ds_fail(err, DS_EINVAL, "option '%s' must be a number", o->name);
        if (!(json_number_value(v) >= o->least && json_number_value(v) <= o->most))
            return ds_fail(err, DS_EINVAL, "option '%s' must be from %g to %g", o->name, o->least,
                           o->most);
        return 0;
    case DS_OPTION_BOOL:
        if (!json_is_boolean(v))
            return ds_fail(err, DS_EINVAL, "option '%s' must be true or false", o->name);
        return 0;
    case DS_OPTION_ENUM:
        if (!json_is_string(v) ||
            !ds_word_in(o->words, json_string_value(v), json_string_length(v)))
            return ds_fail(err, DS_EINVAL, "option '%s' must be one of %s", o->name, o->words);
        return 0;
    case DS_OPTION_LIST: return check_list(o, v, err);
    case DS_OPTION_DEVICE:
        if (!json_is_string(v) || !ds_device_word(json_string_value(v)))
            return ds_fail(err, DS_EINVAL, "option '%s' must be %s", o->name, DS_DEVICE_WORDS);
        return 0;
    }
    return 0;
}

static int unknown(const char *name, ds_error *err) {
    const char **names = ds_xcalloc(ds_option_count, sizeof *names);
    ds_buf all = {0};
    for (size_t i = 0; i < ds_option_count; i++) {
        names[i] = ds_option_table[i].name;
        ds_buf_addf(&all, "%s%s", i ? ", " : "", names[i]);
    }
    const char *near = ds_suggest(name, names, ds_option_count);
    int rc = near ? ds_fail(err, DS_EINVAL, "option '%.60s' is not known: did you mean '%s'?", name,
                            near)
                  : ds_fail(err, DS_EINVAL, "option '%.60s' is not known: there are %.380s", name,
                            all.data);
    ds_buf_release(&all);
    free(names);
    return rc;
}

static int64_t whole(const json_t *options, const char *name, int64_t otherwise) {
    return is_given(options, name) ? ds_json_int(options, name, otherwise) : otherwise;
}

/* ---- guidance: two forms (contract/options.def) ---- */

/* Of a form: its first key that is given. */
static const char *given_of(const json_t *options, int weights) {
    static const char *const forms[2][2] = {{"guidance", "guidance_mode"},
                                            {"guidance_domain", "guidance_class"}};
    return is_given(options, forms[weights][0])   ? forms[weights][0]
           : is_given(options, forms[weights][1]) ? forms[weights][1]
                                                  : NULL;
}

static int one_form(const json_t *options, ds_error *err) {
    const char *by_mode = given_of(options, 0), *weight = given_of(options, 1);
    return by_mode && weight
               ? ds_fail(err, DS_EINVAL,
                         "'%s' and '%s' exclude each other: guidance_domain and guidance_class "
                         "are the two weights that guidance and guidance_mode stand for",
                         by_mode, weight)
               : 0;
}

/* Is the option of the form that a training with these options has not? */
static int of_other_form(const ds_option *o, const json_t *options) {
    int by_mode = !strcmp(o->name, "guidance") || !strcmp(o->name, "guidance_mode"),
        weight = !strcmp(o->name, "guidance_domain") || !strcmp(o->name, "guidance_class"),
        weights = given_of(options, 1)   ? 1
                  : given_of(options, 0) ? 0
                                         : DS_GUIDANCE_BY_WEIGHTS;
    return weights ? by_mode : weight;
}

/* The weights that a sample's settings stand for (engine/diffusion/sampler.h). */
static void weights_of(const json_t *sample, int own_base, double *domain, double *classes) {
    const char *mode = ds_json_string(sample, "guidance_mode", "none");
    double w = ds_json_number(sample, "guidance", 1);
    int is_domain = !strcmp(mode, "domain") && !own_base;
    *domain = ds_json_number(sample, "guidance_domain", is_domain ? w : 1);
    *classes = ds_json_number(sample, "guidance_class", is_domain || !strcmp(mode, "cfg") ? w : 1);
}

/* Of an adapter with two weights: guidance and its mode are both asked for, or none of it. */
static int take_mode(json_t *sample, const json_t *given, ds_error *err) {
    int none = !strcmp(ds_json_string(given, "guidance_mode", ""), "none");
    if (given_of(sample, 1) && !none &&
        !(is_given(given, "guidance") && is_given(given, "guidance_mode")))
        return ds_fail(err, DS_EINVAL,
                       "it was evaluated with guidance_domain %g and guidance_class %g, so '%s' "
                       "needs '%s' beside it; or give guidance_domain or guidance_class",
                       ds_json_number(sample, "guidance_domain", 1),
                       ds_json_number(sample, "guidance_class", 1), given_of(given, 0),
                       is_given(given, "guidance") ? "guidance_mode" : "guidance");
    if (given_of(sample, 1))
        json_object_set_new(sample, "guidance", json_real(1));
    for (int i = 0; i < 2; i++) {
        const char *key = i ? "guidance_mode" : "guidance";
        if (is_given(given, key))
            json_object_set(sample, key, json_object_get(given, key));
    }
    json_object_del(sample, "guidance_domain");
    json_object_del(sample, "guidance_class");
    return 0;
}

int ds_guidance_take(json_t *sample, const json_t *given, int own_base, ds_error *err) {
    double domain, classes;
    int rc = one_form(given, err);
    if (!rc && is_given(given, "guidance_low"))
        json_object_set(sample, "guidance_low", json_object_get(given, "guidance_low"));
    if (rc || given_of(given, 0))
        return rc ? rc : take_mode(sample, given, err);
    if (!given_of(given, 1))
        return 0;
    weights_of(sample, own_base, &domain, &classes);
    if (is_given(given, "guidance_domain"))
        domain = ds_json_number(given, "guidance_domain", 1);
    if (is_given(given, "guidance_class"))
        classes = ds_json_number(given, "guidance_class", 1);
    json_object_set_new(sample, "guidance_domain", json_real(domain));
    json_object_set_new(sample, "guidance_class", json_real(classes));
    json_object_del(sample, "guidance");
    json_object_del(sample, "guidance_mode");
    return 0;
}

/* What the engine asks of two options together. */
static int check_together(const json_t *options, ds_error *err) {
    if (one_form(options, err))
        return DS_EINVAL;
    int64_t batch = whole(options, "batch", 64), part = whole(options, "micro_batch", batch);
    if (part > batch || batch % part)
        return ds_fail(err, DS_EINVAL,
                       "option 'batch' is %lld, must be a multiple of 'micro_batch', %lld",
                       (long long)batch, (long long)part);
    const char *ends = ds_json_int(options, "patience", 0) > 0      ? "patience"
                       : ds_json_number(options, "max_time", 0) > 0 ? "max_time"
                                                                    : NULL;
    if (ends && !ds_json_bool(options, "cosine", 1))
        return ds_fail(err, DS_EINVAL,
                       "with option '%s' the learning rate falls at the end, and with 'cosine' "
                       "false it must not: choose one of them",
                       ends);
    const json_t *targets = json_object_get(options, "targets"), *t;
    size_t i;
    int qkv = 0;
    json_array_foreach((json_t *)(uintptr_t)targets, i, t)
        qkv |= !strcmp(json_string_value(t), "q")   ? 1
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
    if (method && !ds_preset_find(method))
        return ds_fail(err, DS_EINVAL, "method '%s' is not known: one of %s", method,
                       DS_WORDS(DS_METHODS));
    if (!options || json_is_null(options))
        return 0;
    if (!json_is_object(options))
        return ds_fail(err, DS_EINVAL, "'options' must be an object");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)options, key, value) {
        const ds_option *o = ds_option_find(key);
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
    json_object_set_new(section(spec, "method"), "name",
                        json_string(method ? method : DS_METHOD_OTHERWISE));
    for (const ds_option *o = ds_option_table; o->name; o++) {
        json_t *given = json_object_get(options, o->name);
        if (of_other_form(o, options))
            continue;
        json_t *value = is_given(options, o->name) ? json_incref(given)
                                                   : default_value(o, spec, options, facts);
        if (!value)
            continue;
        if (o->type == DS_OPTION_NUM &&
            json_is_integer(value)) { /* one type for one key, whoever wrote it */
            json_t *real = json_real((double)json_integer_value(value));
            json_decref(value);
            value = real;
        }
        json_object_set_new(section(spec, o->section), o->key, value);
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

static json_t *value_in(const json_t *spec, const ds_option *o) {
    return json_object_get(json_object_get(spec, o->section), o->key);
}

json_t *ds_options_changes(const char *method_was, const json_t *was, const char *method_is,
                           const json_t *is, const ds_dataset_facts *facts) {
    json_t *list = json_array(), *a = spec_of(method_was, was, facts),
           *b = spec_of(method_is, is, facts);
    if (strcmp(method_was, method_is) != 0)
        json_array_append_new(list,
                              json_pack("{ss ss ss sb sb}", "option", "method", "from", method_was,
                                        "to", method_is, "from_default", 0, "to_default", 0));
    for (const ds_option *o = ds_option_table; o->name; o++) {
        int ga = is_given(was, o->name), gb = is_given(is, o->name);
        json_t *va = value_in(a, o), *vb = value_in(b, o);
        if ((ga || gb) && (ga != gb || !json_equal(va, vb)))
            json_array_append_new(list,
                                  json_pack("{ss sO? sO? sb sb}", "option", o->name, "from", va,
                                            "to", vb, "from_default", !ga, "to_default", !gb));
    }
    json_decref(a);
    json_decref(b);
    return list;
}

/* Patience needs a look at the held-out loss to begin with, and then so many more, before the rate
 * falls by itself (engine/diffusion/train_course.c). */
static void patience_without_effect(const json_t *options, json_t *list) {
    const int64_t otherwise = strtol(ds_option_find("heldout_every")->otherwise, NULL, 10),
                  patience = whole(options, "patience", 0), steps = whole(options, "steps", 0),
                  every = whole(options, "heldout_every", otherwise), from = DS_FALL_BEGINS(steps);
    if (patience > 0 && steps > 0 && patience >= (from - 1) / every)
        json_array_append_new(
            list, json_sprintf("patience %lld never acts: the rate falls by itself at step %lld, "
                               "and there is a look at the held-out loss every %lld steps",
                               (long long)patience, (long long)from, (long long)every));
}

/* An option that does nothing where another one is 0; velocity: the base's, whose laws of timesteps
 * are uniform unless a width is given. */
static void switched_off(const json_t *options, int velocity, json_t *list) {
    static const struct {
        const char *option, *other;
        int off; /* the other one is 0 by default: 1 on a flow, 2 everywhere */
    } pairs[] = {
        {"heldout_every", "heldout", 0},   {"patience", "heldout", 0},
        {"class_margin", "neighbours", 0}, {"class_sigmas", "neighbours", 0},
        {"focus_mean", "focus", 1},        {"trained_guidance_low", "trained_guidance", 2}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        const char *other = pairs[i].other;
        int off = is_given(options, other) ? ds_json_number(options, other, 1) == 0
                                           : pairs[i].off > !velocity;
        if (off && ds_json_number(options, pairs[i].option, 0) != 0)
            json_array_append_new(
                list, json_sprintf("%s has no effect with %s 0", pairs[i].option, other));
    }
    int64_t warmup = whole(options, "warmup", 0), steps = whole(options, "steps", 0);
    if (steps > 0 && warmup >= steps)
        json_array_append_new(list, json_sprintf("warmup %lld is as long as the training or "
                                                 "longer: the learning rate is never reached",
                                                 (long long)warmup));
}

static int guides_in_training(const json_t *options) {
    return ds_json_number(options, "trained_guidance", 0) > 0;
}

/* The weights of a training with these options are 1 and 1. */
static int is_unguided(const json_t *options) {
    const double otherwise = guides_in_training(options) ? 1 : 0;
    if (given_of(options, 1))
        return ds_json_number(options, "guidance_domain", otherwise) == 1 &&
               ds_json_number(options, "guidance_class", otherwise) == 1;
    if (guides_in_training(options) && !given_of(options, 0))
        return 1;
    return !strcmp(ds_json_string(options, "guidance_mode", ""), "none") ||
           ds_json_number(options, "guidance", 0) == 1;
}

json_t *ds_options_without_effect(const char *method, const json_t *options, int velocity) {
    const char *name = method ? method : DS_METHOD_OTHERWISE,
               *device = ds_json_string(options, "device", ""),
               *mode = ds_json_string(options, "guidance_mode", "");
    const ds_preset *p = ds_preset_find(name);
    json_t *list = json_array();
    for (const ds_option *o = ds_option_table; o->name; o++)
        if (!strcmp(o->section, "method") && is_given(options, o->name) &&
            !ds_preset_takes(p, o->name))
            json_array_append_new(list,
                                  json_sprintf("%s has no effect with method %s", o->name, name));
    if (velocity && is_given(options, "vb_weight"))
        json_array_append_new(
            list, json_string("vb_weight is not used by a base that predicts a velocity"));
    if (is_given(options, "guidance") && !strcmp(mode, "none"))
        json_array_append_new(list, json_string("guidance has no effect with guidance_mode none"));
    if (ds_json_number(options, "guidance_low", 0) > 0 && is_unguided(options))
        json_array_append_new(list, json_string("guidance_low has no effect where nothing guides"));
    if (!strcmp(ds_json_string(options, "precision", ""), "tf32") &&
        (!strcmp(device, "cpu") || !strcmp(device, "ref")))
        json_array_append_new(list, json_string("precision tf32 is f32 on the processor"));
    if (whole(options, "heldout", 1) != 0)
        patience_without_effect(options, list);
    switched_off(options, velocity, list);
    return list;
}

int ds_options_plain(json_t *spec, const char *const *members, ds_error *err) {
    static const ds_dataset_facts none = {.images = 0, .classes = 1};
    /* without a record it is as it was before there were weights, whatever trainings begin with */
    json_t *all = json_object(), *mode = json_pack("{ss}", "guidance_mode", "domain");
    int rc = ds_options_apply(all, NULL, mode, &none, err);
    for (; !rc && *members; members++)
        if (!json_object_get(spec, *members))
            json_object_set(spec, *members, json_object_get(all, *members));
    json_decref(mode);
    json_decref(all);
    return rc;
}
