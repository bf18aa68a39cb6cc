/* tests/daemon/test_daemon_limits.c - the options of a training, at dsctl and the daemon: what one lets
 * through the other does, and nothing else (the worker's part: test_worker_spec.c). */
#include "cli/cli.h"
#include "daemon/jobs/defaults.h"
#include "tests/harness.h"
#include "tests/fixtures/limits_walk.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int by_dsctl(const char *option, const char *value, ds_error *err) {
    ds_cli *c = ds_xcalloc(1, sizeof *c);
    char *argv[] = {(char *)(uintptr_t) "dsctl", (char *)(uintptr_t) "add-dataset",
                    (char *)(uintptr_t) ".", ds_xasprintf("--%s=%s", option, value), NULL};
    int rc = ds_cli_parse(c, 4, argv, err);
    free(argv[3]);
    free(c);
    return rc;
}

/* The same value as a person writes it: no quotes, no brackets. */
static int by_dsctl_json(const ds_option *o, const char *json, ds_error *err) {
    char text[80];
    size_t n = 0;
    for (; *json; json++)
        if (!strchr("[]\"", *json))
            text[n++] = *json;
    text[n] = 0;
    return by_dsctl(o->flag, text, err);
}

static int by_daemon(const char *member, json_t *value, ds_error *err) {
    json_t *o = json_pack("{s:o}", member, value);
    if (!strcmp(member, "micro_batch")) /* which a batch must be a multiple of */
        json_object_set(o, "batch", value);
    else if (!strcmp(member, "batch"))
        json_object_set_new(o, "micro_batch", json_integer(1));
    int rc = ds_options_check("affiner", o, err);
    json_decref(o);
    return rc;
}

START_TEST(each_is_let_through_alike) {
    for (const ds_option *o = ds_option_table; o->name; o++) {
        char text[80];
        int good = 0, goods = 0, k = 0;
        for (; limit_value(o, k, text, &good); k++) {
            ds_error err = {0};
            json_t *v = json_loads(text, JSON_DECODE_ANY, NULL);
            ck_assert_ptr_nonnull(v);
            int rc = by_daemon(o->name, v, &err);
            ck_assert_msg((rc == 0) == good && (good || strstr(err.message, o->name)),
                          "daemon: %s = %s: %d %s", o->name, text, rc, err.message);
            goods += good;
            if (o->type == DS_OPTION_BOOL) /* takes no value */
                continue;
            err = (ds_error){0};
            rc = by_dsctl_json(o, text, &err);
            ck_assert_msg((rc == 0) == good && (good || strstr(err.message, o->flag)),
                          "dsctl: --%s %s: %d %s", o->flag, text, rc, err.message);
        }
        ck_assert_msg(goods && goods < k, "%s: %d of %d are good", o->name, goods, k);
    }
}
END_TEST

START_TEST(odd_numbers) {
    static const char *const odd[] = {"nan", "inf", "-inf", "1e999", "0x10", " 8", "8 ", "", "1,5"};
    for (const ds_option *o = ds_option_table; o->name; o++)
        for (size_t k = 0; is_number(o) && k < sizeof odd / sizeof *odd; k++) {
            ds_error err = {0};
            ck_assert_msg(by_dsctl(o->flag, odd[k], &err) == DS_EINVAL, "--%s '%s'", o->flag,
                          odd[k]);
        }
}
END_TEST

/* --flip says true, --no-cosine says false; each row has a name, and one that can be guessed. */
START_TEST(rows_are_sane) {
    for (const ds_option *o = ds_option_table; o->name; o++) {
        char flag[64];
        int n = snprintf(flag, sizeof flag, "%s%s",
                         o->type == DS_OPTION_BOOL && !strcmp(o->otherwise, "true") ? "no-" : "",
                         o->name);
        for (int i = 0; i < n; i++)
            flag[i] = flag[i] == '_' ? '-' : flag[i];
        ck_assert_str_eq(o->flag, flag);
        ck_assert_ptr_eq(ds_option_find(o->name), o);
        ck_assert_msg(!o->metavar == (o->type == DS_OPTION_BOOL), "%s", o->name);
        ck_assert_msg(!o->words == (o->type != DS_OPTION_ENUM && o->type != DS_OPTION_LIST), "%s",
                      o->name);
        ck_assert_msg(!o->otherwise + !o->by == 1 || (o->absent && !o->by), "%s: which default?",
                      o->name);
        for (const ds_option *p = ds_option_table; p < o; p++)
            ck_assert_msg(strcmp(p->section, o->section) || strcmp(p->key, o->key), "%s and %s",
                          p->name, o->name);
    }
    ck_assert_ptr_null(ds_option_find("ranks"));
}
END_TEST

/* A default is a value that may be given. */
START_TEST(defaults_are_allowed) {
    ds_dataset_facts facts = {.images = 100, .classes = 2};
    json_t *spec = json_object(), *other = json_object(),
           *weight = json_loads("{\"guidance_domain\":2}", 0, NULL);
    ds_error err = {0};
    ck_assert_int_eq(ds_options_apply(spec, NULL, NULL, &facts, NULL), 0);
    ck_assert_int_eq(ds_options_apply(other, NULL, weight, &facts, NULL), 0);
    for (const ds_option *o = ds_option_table; o->name; o++) {
        json_t *v = json_object_get(json_object_get(spec, o->section), o->key);
        if (!v) /* the other form of guidance */
            v = json_object_get(json_object_get(other, o->section), o->key);
        ck_assert_msg(v || (!o->otherwise && !o->by), "%s is left out", o->name);
        if (v)
            ck_assert_msg(!by_daemon(o->name, json_incref(v), &err), "%s", err.message);
    }
    json_decref(spec), json_decref(other), json_decref(weight);
}
END_TEST

/* Without the keys of options that came after `then` was made. */
static void forget_later(json_t *spec, const json_t *then) {
    for (const ds_option *o = ds_option_table; o->name; o++)
        if (o->absent && (o->otherwise || o->by) &&
            !json_object_get(json_object_get(then, o->section), o->key))
            json_object_del(json_object_get(spec, o->section), o->key);
}

/* The spec of a request has the bytes that it had when tests/golden/options.ndjson was made: names,
 * order and defaults. */
START_TEST(specs_are_what_they_were) {
    char line[8192];
    int lines = 0;
    FILE *f = fopen("tests/golden/options.ndjson", "r");
    ck_assert_ptr_nonnull(f);
    for (; fgets(line, sizeof line, f); lines++) {
        json_t *r = json_loads(line, 0, NULL), *spec = json_object();
        ds_dataset_facts facts = {.images = json_integer_value(json_object_get(r, "images")),
                                  .classes = json_integer_value(json_object_get(r, "classes"))};
        ds_error err = {0};
        ck_assert_ptr_nonnull(r);
        int rc = ds_options_apply(spec, json_string_value(json_object_get(r, "method")),
                                  json_object_get(r, "options"), &facts, &err);
        ck_assert_msg(!rc, "%s", err.message);
        const char *must = json_string_value(json_object_get(r, "spec"));
        json_t *then = json_loads(must, 0, NULL);
        forget_later(spec, then);
        char *text = json_dumps(spec, JSON_COMPACT);
        ck_assert_str_eq(text, must);
        free(text);
        json_decref(r), json_decref(spec), json_decref(then);
    }
    fclose(f);
    ck_assert_int_eq(lines, 7);
}
END_TEST

START_TEST(together) {
    static const struct {
        const char *options, *says;
    } bad[] = {
        {"{\"batch\":64,\"micro_batch\":48}", "multiple of 'micro_batch'"},
        {"{\"batch\":4,\"micro_batch\":8}", "multiple of 'micro_batch'"},
        {"{\"micro_batch\":48}", "multiple of 'micro_batch'"},
        {"{\"side\":\"in\",\"targets\":[\"q\"]}", "all three of them or none"},
        {"{\"guidance\":2,\"guidance_class\":3}",
         "'guidance' and 'guidance_class' exclude each other"},
        {"{\"guidance_mode\":\"none\",\"guidance_domain\":1,\"guidance_class\":1}",
         "'guidance_mode' and 'guidance_domain' exclude each other"},
        {"{\"patience\":3,\"cosine\":false}", "with option 'patience' the learning rate falls"},
        {"{\"max_time\":0.5,\"cosine\":false}", "with option 'max_time' the learning rate falls"}};
    static const char *const good[] = {"{\"batch\":64,\"micro_batch\":16}",
                                       "{\"side\":\"in\",\"targets\":[\"q\",\"k\",\"v\",\"fc1\"]}",
                                       "{\"side\":\"in\",\"targets\":[\"fc1\"]}",
                                       "{\"targets\":[\"q\"]}",
                                       "{\"guidance\":2,\"guidance_mode\":\"cfg\"}",
                                       "{\"guidance\":null,\"guidance_class\":3}",
                                       "{\"guidance_domain\":0,\"guidance_class\":3}",
                                       "{\"patience\":3,\"max_time\":60}",
                                       "{\"patience\":3,\"cosine\":true}",
                                       "{\"patience\":0,\"max_time\":0,\"cosine\":false}"};
    ds_error err = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *o = json_loads(bad[i].options, 0, NULL);
        ck_assert_msg(ds_options_check(NULL, o, &err) == DS_EINVAL, "%s", bad[i].options);
        ck_assert_msg(strstr(err.message, bad[i].says) != NULL, "%s", err.message);
        json_decref(o);
    }
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        json_t *o = json_loads(good[i], 0, NULL);
        ck_assert_msg(!ds_options_check(NULL, o, &err), "%s: %s", good[i], err.message);
        json_decref(o);
    }
}
END_TEST

START_TEST(changes_are_told) {
    ds_dataset_facts facts = {.images = 100, .classes = 2};
    json_t *was = json_loads("{\"rank\":8,\"lr\":0.01}", 0, NULL),
           *is = json_loads("{\"rank\":4,\"seed\":1}", 0, NULL), *c;
    json_t *list = ds_options_changes("affiner", was, "embedding", is, &facts);
    char *text = json_dumps(list, JSON_COMPACT | JSON_SORT_KEYS);
    ck_assert_uint_eq(json_array_size(list), 4); /* method, rank, lr, seed */
    c = json_array_get(list, 1);
    ck_assert_str_eq(json_string_value(json_object_get(c, "option")), "rank");
    ck_assert_int_eq(json_integer_value(json_object_get(c, "from")), 8);
    ck_assert_int_eq(json_integer_value(json_object_get(c, "to")), 4);
    ck_assert(json_is_false(json_object_get(c, "from_default")));
    c = json_array_get(list, 2); /* back to the default, which is named */
    ck_assert_str_eq(json_string_value(json_object_get(c, "option")), "lr");
    ck_assert(json_is_true(json_object_get(c, "to_default")));
    ck_assert(fabs(json_number_value(json_object_get(c, "to")) - 0.006) < 1e-12);
    json_decref(list);
    list = ds_options_changes("affiner", was, "affiner", was, &facts);
    ck_assert_uint_eq(json_array_size(list), 0);
    json_decref(list);
    list = ds_options_without_effect("embedding", is, 0);
    ck_assert_uint_eq(json_array_size(list), 1);
    ck_assert_str_eq(json_string_value(json_array_get(list, 0)),
                     "rank has no effect with method embedding");
    json_decref(list), json_decref(was), json_decref(is);
    free(text);
}
END_TEST

static json_t *apply(const char *options, int64_t images, int64_t classes) {
    ds_dataset_facts facts = {.images = images, .classes = classes};
    json_t *spec = json_object(), *o = options ? json_loads(options, 0, NULL) : NULL;
    ds_error err = {0};
    ck_assert_msg(!ds_options_apply(spec, NULL, o, &facts, &err), "%s", err.message);
    json_decref(o);
    return spec;
}

static double at(const json_t *spec, const char *section, const char *key) {
    const json_t *v = json_object_get(json_object_get(spec, section), key);
    ck_assert_msg(json_is_number(v), "%s.%s is no number", section, key);
    return json_number_value(v);
}

/* Defaults that depend on the dataset: around each place where they bend. */
START_TEST(defaults_of_a_dataset) {
    static const struct {
        int64_t images;
        double steps, heldout, subset;
    } sets[] = {{0, 900, 0, 2},        {1, 900, 0, 2},        {2, 900, 1, 2},
                {3, 900, 1, 3},        {19, 900, 1, 19},      {20, 900, 2, 20},
                {99, 900, 9, 99},      {100, 900, 10, 100},   {101, 900, 10, 100},
                {639, 900, 63, 100},   {640, 900, 64, 100},   {650, 900, 64, 100},
                {1800, 900, 64, 100},  {1802, 901, 64, 100},  {5998, 2999, 64, 100},
                {6000, 3000, 64, 100}, {6002, 3000, 64, 100}, {1000000, 3000, 64, 100}};
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        json_t *spec = apply(NULL, sets[i].images, 1);
        ck_assert_msg(at(spec, "train", "steps") == sets[i].steps &&
                          at(spec, "train", "heldout") == sets[i].heldout &&
                          at(spec, "evaluate", "kid_subset_size") == sets[i].subset,
                      "%lld images: %g %g %g", (long long)sets[i].images,
                      at(spec, "train", "steps"), at(spec, "train", "heldout"),
                      at(spec, "evaluate", "kid_subset_size"));
        ck_assert(at(spec, "train", "label_dropout") == 0 && at(spec, "train", "warmup") == 50);
        ck_assert(at(spec, "train", "micro_batch") == 64);
        json_decref(spec);
    }
    static const struct {
        const char *options, *section, *key;
        double want;
    } given[] = {{"{\"steps\":499}", "train", "warmup", 49},
                 {"{\"steps\":500}", "train", "warmup", 50},
                 {"{\"steps\":9}", "train", "warmup", 0},
                 {"{\"steps\":10,\"warmup\":null}", "train", "warmup", 1},
                 {"{\"batch\":24}", "train", "micro_batch", 24},
                 {"{\"n\":7}", "evaluate", "kid_subset_size", 7},
                 {"{\"heldout\":0}", "train", "heldout", 0},
                 {"{\"sample_steps\":3}", "sample", "steps", 3},
                 {"{\"eval_seed\":8}", "evaluate", "seed", 8},
                 {"{\"probe_seed\":12}", "probe", "seed", 12},
                 {"{\"lr\":1}", "train", "lr", 1}};
    for (size_t i = 0; i < sizeof given / sizeof *given; i++) {
        json_t *spec = apply(given[i].options, 1000, 2);
        ck_assert_msg(at(spec, given[i].section, given[i].key) == given[i].want, "%s: %s is %g",
                      given[i].options, given[i].key, at(spec, given[i].section, given[i].key));
        ck_assert(at(spec, "train", "label_dropout") == 0.1);
        json_decref(spec);
    }
    json_t *spec = apply("{\"lr\":1}", 1000, 2), *gate = json_object_get(spec, "gate");
    ck_assert(json_is_real(json_object_get(json_object_get(spec, "train"), "lr")));
    ck_assert(!json_object_get(gate, "worse_margin") && !json_object_get(gate, "worse_sigmas"));
    ck_assert_uint_eq(json_array_size(json_object_get(json_object_get(spec, "method"), "targets")),
                      8);
    json_decref(spec);
}
END_TEST

static void is_sample(const json_t *sample, const char *want, const char *of) {
    json_t *w = json_loads(want, 0, NULL);
    char *is = json_dumps(sample, JSON_COMPACT | JSON_SORT_KEYS);
    ck_assert_ptr_nonnull(w);
    ck_assert_msg(json_equal(sample, w), "%s: %s", of, is);
    free(is);
    json_decref(w);
}

/* One form of guidance is in a spec: the one that is asked for, else that of today's records. */
START_TEST(guidance_has_one_form) {
    static const struct {
        const char *options, *want;
    } cases[] = {{NULL, "{\"guidance\":1.5,\"guidance_mode\":\"domain\"}"},
                 {"{\"guidance_class\":null}", "{\"guidance\":1.5,\"guidance_mode\":\"domain\"}"},
                 {"{\"guidance\":3}", "{\"guidance\":3.0,\"guidance_mode\":\"domain\"}"},
                 {"{\"guidance_mode\":\"cfg\"}", "{\"guidance\":1.5,\"guidance_mode\":\"cfg\"}"},
                 {"{\"guidance_class\":3}", "{\"guidance_domain\":1.5,\"guidance_class\":3.0}"},
                 {"{\"guidance_domain\":3}", "{\"guidance_domain\":3.0,\"guidance_class\":1.5}"},
                 {"{\"guidance_domain\":0,\"guidance_class\":2.5,\"guidance_mode\":null}",
                  "{\"guidance_domain\":0.0,\"guidance_class\":2.5}"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *spec = apply(cases[i].options ? cases[i].options : "{}", 100, 2),
               *sample = json_object_get(spec, "sample");
        json_object_del(sample, "sampler");
        json_object_del(sample, "steps");
        ck_assert(json_real_value(json_object_get(sample, "guidance_low")) == 0);
        json_object_del(sample, "guidance_low");
        is_sample(sample, cases[i].want, cases[i].options ? cases[i].options : "nothing");
        json_decref(spec);
    }
}
END_TEST

/* What a request changes of the settings that an adapter was evaluated with. */
START_TEST(guidance_of_a_sample) {
#define MODE(w, m) "{\"guidance\":" #w ",\"guidance_mode\":\"" #m "\"}"
#define WEIGHTS(d, c) "{\"guidance_domain\":" #d ",\"guidance_class\":" #c "}"
    static const struct {
        const char *was, *given;
        int own_base;
        const char *want, *says; /* says: why it is refused */
    } cases[] = {{MODE(2, cfg), "{\"steps\":3}", 0, MODE(2, cfg), NULL},
                 {MODE(2, cfg), "{\"guidance_domain\":null}", 0, MODE(2, cfg), NULL},
                 {WEIGHTS(2, 3), "{\"n\":3}", 0, WEIGHTS(2, 3), NULL},
                 {MODE(2, cfg), "{\"guidance\":3}", 0, MODE(3, cfg), NULL},
                 {MODE(2, cfg), "{\"guidance_mode\":\"domain\"}", 0, MODE(2, domain), NULL},
                 /* one weight: the other is the one that it was */
                 {MODE(2, cfg), "{\"guidance_domain\":3.0}", 0, WEIGHTS(3.0, 2.0), NULL},
                 {MODE(2, cfg), "{\"guidance_class\":3.0}", 0, WEIGHTS(1.0, 3.0), NULL},
                 {MODE(2, domain), "{\"guidance_class\":3.0}", 0, WEIGHTS(2.0, 3.0), NULL},
                 {MODE(2, domain), "{\"guidance_domain\":3.0}", 0, WEIGHTS(3.0, 2.0), NULL},
                 {MODE(2, none), "{\"guidance_class\":3.0}", 0, WEIGHTS(1.0, 3.0), NULL},
                 {WEIGHTS(2.0, 4.0), "{\"guidance_class\":3.0}", 0, WEIGHTS(2.0, 3.0), NULL},
                 {WEIGHTS(2.0, 4.0), "{\"guidance_domain\":3.0}", 0, WEIGHTS(3.0, 4.0), NULL},
                 {"{}", "{\"guidance_class\":3.0}", 0, WEIGHTS(1.0, 3.0), NULL},
                 {MODE(2, cfg), WEIGHTS(0, 3), 0, WEIGHTS(0.0, 3.0), NULL},
                 /* the base is not guided away from itself */
                 {MODE(1.5, domain), "{\"guidance_class\":3.0}", 1, WEIGHTS(1.0, 3.0), NULL},
                 {MODE(1.5, domain), "{\"guidance_domain\":3.0}", 1, WEIGHTS(3.0, 1.0), NULL},
                 {WEIGHTS(2, 3), MODE(4, cfg), 0, MODE(4, cfg), NULL},
                 {WEIGHTS(2, 3), "{\"guidance_mode\":\"none\"}", 0, MODE(1.0, none), NULL},
                 /* where it rests is beside either form */
                 {MODE(2, cfg), "{\"guidance_low\":0.5}", 0,
                  "{\"guidance\":2,\"guidance_mode\":\"cfg\",\"guidance_low\":0.5}", NULL},
                 {"{\"guidance\":2,\"guidance_mode\":\"cfg\",\"guidance_low\":0.5}",
                  "{\"guidance_domain\":3.0}", 0,
                  "{\"guidance_domain\":3.0,\"guidance_class\":2.0,\"guidance_low\":0.5}", NULL},
                 {"{\"guidance\":2,\"guidance_mode\":\"cfg\",\"guidance_low\":0.5}",
                  "{\"guidance_low\":0,\"guidance\":3}", 0,
                  "{\"guidance\":3,\"guidance_mode\":\"cfg\",\"guidance_low\":0}", NULL},
                 {WEIGHTS(2, 3), "{\"guidance\":4}", 0, NULL,
                  "evaluated with guidance_domain 2 and guidance_class 3, so 'guidance' needs "
                  "'guidance_mode'"},
                 {WEIGHTS(2, 3), "{\"guidance_mode\":\"cfg\"}", 0, NULL,
                  "'guidance_mode' needs 'guidance' beside it"},
                 {MODE(2, cfg), "{\"guidance\":4,\"guidance_class\":3}", 0, NULL,
                  "'guidance' and 'guidance_class' exclude each other"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *sample = json_loads(cases[i].was, 0, NULL),
               *given = json_loads(cases[i].given, 0, NULL);
        ds_error err = {0};
        int rc = ds_guidance_take(sample, given, cases[i].own_base, &err);
        ck_assert_msg(rc == (cases[i].says ? DS_EINVAL : 0), "%s, %s: %s", cases[i].was,
                      cases[i].given, err.message);
        if (rc)
            ck_assert_msg(strstr(err.message, cases[i].says) != NULL, "%s", err.message);
        is_sample(sample, rc ? cases[i].was : cases[i].want, cases[i].given);
        json_decref(sample), json_decref(given);
    }
}
END_TEST

/* What is refused as a whole, with the word that is wrong and those that would do. */
START_TEST(odd_options) {
    static const struct {
        const char *method, *options, *says;
    } bad[] = {{"affine", "{}", "method 'affine' is not known: one of affiner|embedding|full"},
               {"aff", "{}", "method 'aff' is not known"},
               {"", "{}", "method '' is not known"},
               {NULL, "[]", "'options' must be an object"},
               {NULL, "{\"rnak\":4}", "did you mean 'rank'?"},
               {NULL, "{\"qqqqqqqqqqqq\":4}", "there are rank, side, phi"},
               {NULL, "{\"rank\":4.0}", "option 'rank' must be a whole number"},
               {NULL, "{\"lr\":\"1\"}", "option 'lr' must be a number"},
               {NULL, "{\"flip\":1}", "option 'flip' must be true or false"},
               {NULL, "{\"targets\":[]}", "option 'targets' must be a list of q|k|v"},
               {NULL, "{\"targets\":\"q\"}", "option 'targets' must be a list of q|k|v"},
               {NULL, "{\"targets\":[\"q\",\"f\"]}", "option 'targets' names 'f': known are q|k"},
               {NULL, "{\"targets\":[\"\"]}", "option 'targets' names ''"},
               {NULL, "{\"targets\":[7]}", "names 'something that is no text'"},
               {NULL, "{\"device\":7}", "option 'device' must be auto, cpu"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *o = json_loads(bad[i].options, 0, NULL);
        ds_error err = {0};
        ck_assert_msg(ds_options_check(bad[i].method, o, &err) == DS_EINVAL, "%s", bad[i].options);
        ck_assert_msg(strstr(err.message, bad[i].says) != NULL, "%s", err.message);
        json_t *spec = json_object();
        ck_assert_int_eq(ds_options_apply(spec, bad[i].method, o, &(ds_dataset_facts){0}, &err),
                         DS_EINVAL);
        ck_assert_uint_eq(json_object_size(spec), 0);
        json_decref(spec);
        json_decref(o);
    }
    ck_assert_int_eq(ds_options_check(NULL, NULL, NULL), 0);
    for (const ds_preset *p = ds_preset_table; p->name; p++)
        ck_assert_int_eq(ds_options_check(p->name, NULL, NULL), 0);
}
END_TEST

static const struct {
    const char *method, *options, *says;
    int velocity;
} effects[] = {
    {NULL, "{\"vb_weight\":0.5}", "vb_weight is not used by a base that predicts a velocity", 1},
    {NULL, "{\"vb_weight\":0.5}", NULL, 0},
    {NULL, "{\"vb_weight\":null}", NULL, 1},
    {"full", "{\"targets\":[\"q\"]}", "targets has no effect with method full", 0},
    {"bitfit", "{\"targets\":[\"q\"]}", "targets has no effect with method bitfit", 0},
    {"bitfit", "{\"side\":\"in\"}", "side has no effect with method bitfit", 0},
    {"bitfit", "{\"freeze_v\":true}", "freeze_v has no effect with method bitfit", 0},
    {"bitfit", "{\"steps\":9}", NULL, 0},
    {"affiner", "{\"targets\":[\"q\"]}", NULL, 0},
    {"affiner", "{\"side\":\"in\"}", NULL, 0},
    {"affiner", "{\"phi\":\"relu\"}", NULL, 0},
    {NULL, "{\"rank\":4}", NULL, 0},
    {"full", "{\"rank\":null}", NULL, 0},
    {NULL, "{\"guidance\":2,\"guidance_mode\":\"none\"}",
     "guidance has no effect with guidance_mode none", 0},
    {NULL, "{\"guidance\":2,\"guidance_mode\":\"cfg\"}", NULL, 0},
    {NULL, "{\"guidance_mode\":\"none\"}", NULL, 0},
    {NULL, "{\"guidance_mode\":\"none\",\"guidance_low\":0.5}",
     "guidance_low has no effect where nothing guides", 1},
    {NULL, "{\"guidance\":1,\"guidance_low\":0.5}",
     "guidance_low has no effect where nothing guides", 0},
    {NULL, "{\"guidance_domain\":1,\"guidance_class\":1,\"guidance_low\":0.5}",
     "guidance_low has no effect where nothing guides", 0},
    {NULL, "{\"guidance_domain\":1,\"guidance_class\":2,\"guidance_low\":0.5}", NULL, 0},
    {NULL, "{\"guidance_low\":0.5}", NULL, 0},
    {NULL, "{\"guidance_mode\":\"none\",\"guidance_low\":0}", NULL, 0},
    {NULL, "{\"trained_guidance\":2,\"guidance_low\":0.5}",
     "guidance_low has no effect where nothing guides", 1},
    {NULL, "{\"trained_guidance\":2,\"guidance_domain\":1,\"guidance_low\":0.5}",
     "guidance_low has no effect where nothing guides", 1},
    {NULL, "{\"trained_guidance\":2,\"guidance_class\":2,\"guidance_low\":0.5}", NULL, 1},
    {NULL, "{\"trained_guidance\":2,\"guidance\":1.5,\"guidance_low\":0.5}", NULL, 1},
    {NULL, "{\"trained_guidance\":2,\"trained_guidance_low\":0.5}", NULL, 1},
    {NULL, "{\"trained_guidance\":0,\"trained_guidance_low\":0.25}",
     "trained_guidance_low has no effect with trained_guidance 0", 1},
    {NULL, "{\"trained_guidance_low\":0.25}",
     "trained_guidance_low has no effect with trained_guidance 0", 0},
    {NULL, "{\"trained_guidance_low\":0}", NULL, 1},
    {NULL, "{\"precision\":\"tf32\",\"device\":\"cpu\"}", "precision tf32 is f32 on the processor",
     0},
    {NULL, "{\"precision\":\"tf32\",\"device\":\"ref\"}", "precision tf32 is f32 on the processor",
     0},
    {NULL, "{\"precision\":\"tf32\",\"device\":\"cuda\"}", NULL, 0},
    {NULL, "{\"precision\":\"f32\",\"device\":\"cpu\"}", NULL, 0},
    {NULL, "{\"patience\":3,\"steps\":500}",
     "patience 3 never acts: the rate falls by itself at step 400, and there is a "
     "look at the held-out loss every 100 steps",
     0},
    {NULL, "{\"patience\":4,\"steps\":501}",
     "patience 4 never acts: the rate falls by itself at step 401, and there is a "
     "look at the held-out loss every 100 steps",
     0},
    {NULL, "{\"patience\":3,\"steps\":501}", NULL, 0},
    {NULL, "{\"patience\":4,\"steps\":500,\"heldout_every\":50}", NULL, 0},
    {NULL, "{\"patience\":400}", NULL, 0},
    {NULL, "{\"patience\":0,\"steps\":1}", NULL, 0},
    {NULL, "{\"patience\":4,\"heldout\":0,\"steps\":500}", "patience has no effect with heldout 0",
     0},
    {NULL, "{\"heldout_every\":40,\"heldout\":0}", "heldout_every has no effect with heldout 0", 0},
    {NULL, "{\"heldout_every\":40,\"heldout\":1}", NULL, 0},
    {NULL, "{\"class_margin\":0.2,\"neighbours\":0}",
     "class_margin has no effect with neighbours 0", 0},
    {NULL, "{\"class_sigmas\":2,\"neighbours\":0}", "class_sigmas has no effect with neighbours 0",
     0},
    {NULL, "{\"class_sigmas\":2}", NULL, 0},
    {NULL, "{\"focus_mean\":0.5,\"focus\":0}", "focus_mean has no effect with focus 0", 0},
    {NULL, "{\"focus_mean\":0.5}", NULL, 0},
    {NULL, "{\"focus_mean\":0.5}", "focus_mean has no effect with focus 0", 1},
    {NULL, "{\"focus_mean\":0.5,\"focus\":1}", NULL, 1},
    {NULL, "{\"warmup\":100,\"steps\":100}",
     "warmup 100 is as long as the training or longer: the learning rate is never reached", 0},
    {NULL, "{\"warmup\":99,\"steps\":100}", NULL, 0},
    {NULL, "{\"warmup\":100}", NULL, 0}};

/* Each pair that has no effect, and its neighbour that has one. */
START_TEST(options_without_effect) {
    for (size_t i = 0; i < sizeof effects / sizeof *effects; i++) {
        json_t *o = json_loads(effects[i].options, 0, NULL),
               *list = ds_options_without_effect(effects[i].method, o, effects[i].velocity);
        ck_assert_msg(json_array_size(list) == (effects[i].says != NULL), "%s", effects[i].options);
        if (effects[i].says)
            ck_assert_str_eq(json_string_value(json_array_get(list, 0)), effects[i].says);
        json_decref(list);
        json_decref(o);
    }
    json_t *none = ds_options_without_effect(NULL, NULL, 1);
    ck_assert_uint_eq(json_array_size(none), 0);
    json_decref(none);
}
END_TEST

/* The noise levels that a training dwells on depend on what the base predicts, and a person may say
 * otherwise; so do the steps of the samples. */
START_TEST(focus_is_the_base_s) {
    for (int velocity = 0; velocity < 2; velocity++)
        for (int given = 0; given < 2; given++) {
            ds_dataset_facts facts = {.images = 100, .classes = 2, .velocity = velocity};
            json_t *spec = json_object(),
                   *o = given ? json_pack("{s:f, s:i}", "focus", 0.5, "focus_mean", 1) : NULL;
            ck_assert_int_eq(ds_options_apply(spec, NULL, o, &facts, NULL), 0);
            const json_t *train = json_object_get(spec, "train");
            ck_assert(ds_json_number(train, "lr", 9) == (velocity ? 0.012 : 0.006));
            ck_assert(ds_json_number(train, "focus", 9) == (given ? 0.5 : velocity ? 0.0 : 0.8));
            ck_assert(ds_json_number(train, "focus_mean", 9) == (given ? 1 : velocity ? 0 : -0.6));
            ck_assert_int_eq(ds_json_int(json_object_get(spec, "sample"), "steps", 0),
                             velocity ? 50 : 20);
            ck_assert(ds_json_number(json_object_get(spec, "sample"), "guidance_low", 9) ==
                      (velocity ? 0.5 : 0));
            json_decref(spec);
            json_decref(o);
        }
}
END_TEST

/* Samples of an adapter that guidance is trained into are guided where somebody asks for it, and the
 * level below which it is not trained in follows from the base. */
START_TEST(trained_guidance_guides_no_samples) {
    static const struct {
        const char *options, *sample;
    } cases[] = {{"{}", "{\"guidance\":1.5,\"guidance_mode\":\"domain\"}"},
                 {"{\"trained_guidance\":0}", "{\"guidance\":1.5,\"guidance_mode\":\"domain\"}"},
                 {"{\"trained_guidance\":2}", "{\"guidance\":1.5,\"guidance_mode\":\"none\"}"},
                 {"{\"trained_guidance\":2,\"guidance\":3.0}",
                  "{\"guidance\":3.0,\"guidance_mode\":\"domain\"}"},
                 {"{\"trained_guidance\":2,\"guidance_mode\":\"cfg\"}",
                  "{\"guidance\":1.5,\"guidance_mode\":\"cfg\"}"},
                 {"{\"trained_guidance\":2,\"guidance_class\":3.0}",
                  "{\"guidance_domain\":1.0,\"guidance_class\":3.0}"},
                 {"{\"trained_guidance\":2,\"guidance_domain\":3.0}",
                  "{\"guidance_domain\":3.0,\"guidance_class\":1.0}"},
                 {"{\"guidance_domain\":3.0}", "{\"guidance_domain\":3.0,\"guidance_class\":1.5}"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_dataset_facts facts = {.images = 100, .classes = 2, .velocity = (int)i % 2};
        json_t *spec = json_object(), *o = json_loads(cases[i].options, 0, NULL),
               *want = json_loads(cases[i].sample, 0, NULL);
        ck_assert_int_eq(ds_options_apply(spec, NULL, o, &facts, NULL), 0);
        json_t *sample = json_object_get(spec, "sample");
        ck_assert(ds_json_number(json_object_get(spec, "train"), "trained_guidance_low", 9) ==
                  (facts.velocity ? 0.5 : 0));
        json_object_del(sample, "sampler"), json_object_del(sample, "steps");
        json_object_del(sample, "guidance_low");
        ck_assert_msg(json_equal(sample, want), "%s", cases[i].options);
        json_decref(spec), json_decref(o), json_decref(want);
    }
}
END_TEST

/* Every sampler is one of a base that predicts noise, or a velocity, and one is of both. */
START_TEST(samplers_are_of_bases) {
    int both = 0;
    ds_error err;
    for (const char *p = DS_WORDS(DS_SAMPLERS); *p;) {
        char word[20];
        size_t n = strcspn(p, "|");
        snprintf(word, sizeof word, "%.*s", (int)n, p);
        int noise = !ds_sampler_word_check(word, 0, &err),
            velocity = !ds_sampler_word_check(word, 1, &err);
        ck_assert_msg(noise || velocity, "%s", word);
        both += noise && velocity;
        p += n + (p[n] == '|');
    }
    ck_assert_int_eq(both, 1);
    ck_assert_int_eq(ds_sampler_word_check("ddim", 1, &err), DS_EINVAL);
    ck_assert_str_eq(err.message,
                     "the sampler ddim is not for a base that predicts a velocity: use "
                     "dpmpp2m, euler, heun or sde");
    ck_assert_int_eq(ds_sampler_word_check("sde", 0, &err), DS_EINVAL);
    ck_assert_str_eq(err.message, "the sampler sde is not for a base that predicts noise: use "
                                  "dpmpp2m, ddim or ddpm");
}
END_TEST

/* Each option of section "method" asks for parts of its own, whatever methods there are. */
START_TEST(options_are_about_parts) {
    static const struct {
        unsigned parts;
        const char *takes;
    } cases[] = {{DS_PART_LOWRANK, "rank phi freeze_v targets "},
                 {DS_PART_SCALE, "side targets "},
                 {DS_PART_SHIFT | DS_PART_ROWS, "side targets "},
                 {DS_PARTS_AFFINER, "rank side phi freeze_v targets "},
                 {DS_PART_BIASES | DS_PART_ROWS | DS_PART_BASE | DS_PART_GAMMA, ""}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_preset p = {.name = "one", .parts = cases[i].parts};
        int taken = 0, want = 0;
        for (const ds_option *o = ds_option_table; o->name; o++) {
            char word[32];
            snprintf(word, sizeof word, "%s ", o->name);
            int is = ds_preset_takes(&p, o->name);
            ck_assert_msg(!is || strstr(cases[i].takes, word) != NULL, "%zu takes %s", i, o->name);
            ck_assert(!is || !strcmp(o->section, "method"));
            taken += is;
        }
        for (const char *s = cases[i].takes; *s; s++)
            want += *s == ' ';
        ck_assert_int_eq(taken, want);
        ck_assert(!ds_preset_takes(NULL, "rank") && ds_preset_keeps(NULL, "rank"));
    }
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, each_is_let_through_alike);
    tcase_add_test(tc, odd_numbers);
    tcase_add_test(tc, rows_are_sane);
    tcase_add_test(tc, defaults_are_allowed);
    tcase_add_test(tc, specs_are_what_they_were);
    tcase_add_test(tc, together);
    tcase_add_test(tc, changes_are_told);
    tcase_add_test(tc, defaults_of_a_dataset);
    tcase_add_test(tc, odd_options);
    tcase_add_test(tc, guidance_has_one_form);
    tcase_add_test(tc, guidance_of_a_sample);
    tcase_add_test(tc, options_without_effect);
    tcase_add_test(tc, focus_is_the_base_s);
    tcase_add_test(tc, trained_guidance_guides_no_samples);
    tcase_add_test(tc, samplers_are_of_bases);
    tcase_add_test(tc, options_are_about_parts);
}

int main(void) { return ds_test_main("daemon_limits", cases); }
