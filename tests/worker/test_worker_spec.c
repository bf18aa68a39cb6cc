/* tests/worker/test_worker_spec.c - spec.json is checked in full: every key, every range. */
#include "tests/fixtures/worker_fixture.h"
#include "tests/fixtures/limits_walk.h"

#include "worker/job/events.h"
#include "worker/measure/serve.h"
#include "worker/job/spec.h"

#include <math.h>
#include <sys/file.h>

static const char digest[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/* A spec as docs/jobs.md has it. */
static json_t *full_spec(void) {
    json_t *file = json_pack("{s:s, s:s, s:s}", "name", "x", "path", "/x", "sha256", digest),
           *blob = json_pack("{s:s, s:s}", "path", "/x", "sha256", digest), *s = json_object();
    json_object_set_new(s, "schema", json_string("diffscaler.job/1"));
    json_object_set_new(s, "kind", json_string("train"));
    json_object_set_new(s, "job", json_integer(4));
    json_object_set_new(
        s, "device",
        json_pack("{s:s, s:s, s:i}", "kind", "auto", "precision", "bf16", "threads", 0));
    json_object_set_new(s, "name", json_string("digits"));
    json_object_set_new(s, "version", json_integer(1));
    json_object_set(s, "base", file);
    json_object_set(s, "feature_net", file);
    json_object_set_new(s, "dataset",
                        json_pack("{s:s, s:i, s:s, s:s, s:s}", "name", "digits", "version", 1,
                                  "root", "/d", "manifest", "/m", "tree_digest", digest));
    json_object_set_new(s, "cache_dir", json_string("/cache"));
    json_object_set_new(s, "method",
                        json_pack("{s:s, s:i, s:s, s:s, s:b, s:[s, s]}", "name", "affiner", "rank",
                                  8, "side", "in", "phi", "relu", "freeze_v", 1, "targets", "q",
                                  "fc1"));
    json_t *t = json_pack("{s:i, s:i, s:i, s:f, s:i, s:f, s:f, s:f}", "steps", 800, "batch", 64,
                          "micro_batch", 64, "lr", 0.001, "warmup", 50, "clip", 1.0, "weight_decay",
                          0.0, "ema", 0.995);
    json_object_update_new(t, json_pack("{s:f, s:b, s:i, s:f, s:f, s:f, s:i, s:i, s:i}",
                                        "label_dropout", 0.1, "flip", 0, "seed", 1, "vb_weight",
                                        1.0, "focus", 0.5, "focus_mean", -0.5, "checkpoint_every",
                                        100, "heldout_every", 100, "heldout", 64));
    json_object_update_new(t, json_pack("{s:i, s:f, s:f, s:f}", "patience", 3, "max_time", 90.5,
                                        "trained_guidance", 1.75, "trained_guidance_low", 0.25));
    json_object_set_new(s, "train", t);
    json_object_set_new(s, "sample", sample_json());
    json_object_set_new(s, "evaluate", evaluate_json());
    json_object_set_new(s, "probe", json_pack("{s:i, s:i}", "n", 4, "seed", 11));
    json_object_set_new(s, "base_reference", json_pack("{s:s}", "cache", "/cache/base"));
    json_object_set_new(s, "gate", gate_json("auto"));
    t = json_pack("{s:s, s:s, s:O, s:O, s:o, s:o, s:f, s:f, s:s, s:s}", "name", "flags", "ref",
                  "flags@v1", "adapter", blob, "reference", blob, "sample", sample_json(),
                  "evaluate", evaluate_json(), "fd", 12.3, "kid", 0.01, "base_sha256", digest,
                  "feature_net_sha256", digest);
    json_object_set_new(t, "probe",
                        json_pack("{s:s, s:s, s:i, s:i}", "device_class", "cpu-f32", "sha256",
                                  digest, "n", 4, "seed", 11));
    json_object_set_new(s, "old_tasks", json_pack("[o]", t));
    json_t *own = json_copy(t);
    json_object_del(own, "adapter");
    json_object_set_new(own, "probes", json_pack("[O]", json_object_get(own, "probe")));
    json_object_set_new(s, "base_task", own);
    json_object_set_new(
        s, "bars",
        json_pack("[{s:s, s:s, s:O, s:{s:s, s:n, s:s, s:{s:s, s:s}}, s:o, s:f, s:f, s:s, s:s}]",
                  "role", "best", "ref", "digits@v1", "adapter", blob, "base", "name", "old",
                  "path", "sha256", digest, "vae", "path", "/v", "sha256", digest, "sample",
                  sample_json(), "fd", 5.5, "kid", 0.1, "feature_net_sha256", digest, "tree_digest",
                  digest));
    json_object_set_new(s, "publish_worse", json_true());
    json_object_update_new(json_object_get(s, "gate"),
                           json_pack("{s:f, s:f, s:f, s:f}", "worse_margin", 0.2, "worse_sigmas",
                                     4.0, "class_margin", 0.25, "class_sigmas", 5.0));
    json_object_set_new(json_object_get(s, "evaluate"), "neighbours", json_integer(3));
    json_decref(file);
    json_decref(blob);
    json_t *copy = json_deep_copy(s);
    json_decref(s);
    return copy;
}

static int parse(json_t *doc, ds_spec **out, ds_error *err) {
    char *text = json_dumps(doc, 0);
    int rc = ds_spec_parse("spec.json", text, strlen(text), out, err);
    free(text);
    return rc;
}

START_TEST(good_spec_is_read) {
    json_t *doc = full_spec();
    ds_spec *s;
    ds_error err;
    ck_assert_msg(!parse(doc, &s, &err), "%s", err.message);
    ck_assert_int_eq(s->kind, DS_JOB_TRAIN);
    ck_assert_int_eq(s->train.o.steps, 800);
    ck_assert_int_eq(s->train.o.checkpoint_every, 100);
    ck_assert(s->train.o.focus == 0.5 && s->train.o.focus_mean == -0.5);
    ck_assert(s->train.o.patience == 3 && s->train.o.max_time == 90.5);
    ck_assert(s->method.side_in && s->method.phi_relu && s->method.freeze_v);
    ck_assert_uint_eq(s->method.targets, DS_TARGET_Q | DS_TARGET_FC1);
    ck_assert_int_eq(s->sample.sampler, DS_SAMPLER_DPMPP2M);
    ck_assert_int_eq(s->task_count, 1);
    ck_assert_str_eq(s->tasks[0].ref, "flags@v1");
    ck_assert(s->tasks[0].fd == 12.3);
    ck_assert(s->train.dropout_given);
    /* the digest names the work: not the job's number, not the device */
    char was[DS_HEX_SIZE];
    memcpy(was, s->digest, sizeof was);
    ds_spec_free(s);
    json_object_set_new(doc, "job", json_integer(99));
    json_object_del(doc, "device");
    ck_assert(!parse(doc, &s, &err));
    ck_assert_str_eq(s->digest, was);
    ds_spec_free(s);
    json_object_set_new(json_object_get(doc, "train"), "steps", json_integer(801));
    ck_assert(!parse(doc, &s, &err));
    ck_assert_str_ne(s->digest, was);
    ds_spec_free(s);
    json_decref(doc);
}
END_TEST

/* What a spec of before has not is as it was; null asks for a record of the base. */
START_TEST(bars_and_the_base_are_optional) {
    json_t *doc = full_spec();
    ds_spec *s;
    ds_error err;
    ck_assert_msg(!parse(doc, &s, &err), "%s", err.message);
    ck_assert(s->bar_count == 1 && s->bars[0].role == DS_BAR_BEST && s->bars[0].fd == 5.5);
    ck_assert_str_eq(s->bars[0].base.name, "old");
    ck_assert(!s->bars[0].base.path && !strcmp(s->bars[0].vae.sha256, digest));
    ck_assert(s->publish_worse && s->base_task_known && s->base_task_asked);
    ck_assert(!s->base_task.adapter.path && s->base_task.probe_count == 1);
    ck_assert(s->gate.worse_margin == 0.2 && s->gate.worse_sigmas == 4);
    ck_assert(s->evaluate.neighbours == 3 && s->gate.class_margin == 0.25 &&
              s->gate.class_sigmas == 5);
    ds_spec_free(s);
    json_object_set_new(doc, "base_task", json_null());
    ck_assert(!parse(doc, &s, &err));
    ck_assert(s->base_task_asked && !s->base_task_known);
    ds_spec_free(s);
    static const char *const later[] = {"base_task", "bars", "publish_worse"};
    for (int i = 0; i < 3; i++)
        json_object_del(doc, later[i]);
    json_object_del(json_object_get(doc, "gate"), "worse_margin");
    json_object_del(json_object_get(doc, "gate"), "worse_sigmas");
    json_object_del(json_object_get(doc, "gate"), "class_margin");
    json_object_del(json_object_get(doc, "gate"), "class_sigmas");
    json_object_del(json_object_get(doc, "evaluate"), "neighbours");
    ck_assert(!parse(doc, &s, &err));
    ck_assert(!s->evaluate.neighbours && s->gate.class_margin == 1);
    ck_assert(!s->base_task_asked && !s->bar_count && !s->publish_worse);
    ck_assert(s->gate.worse_margin == 0.14 && s->gate.worse_sigmas == 3.5);
    ds_spec_free(s);
    json_object_set_new(doc, "bars", json_integer(1));
    ck_assert_int_eq(parse(doc, &s, &err), DS_EINVAL);
    ck_assert_msg(strstr(err.message, "bars must be a list") != NULL, "%s", err.message);
    json_decref(doc);
}
END_TEST

START_TEST(null_is_allowed_where_nothing_is_recorded) {
    json_t *doc = full_spec(), *t = json_array_get(json_object_get(doc, "old_tasks"), 0);
    ds_spec *s;
    ds_error err;
    json_object_set_new(t, "probe", json_null());
    json_object_set_new(t, "reference", json_null());
    json_object_set_new(t, "fd", json_null());
    json_object_set_new(t, "kid", json_null());
    json_object_del(json_object_get(doc, "train"), "label_dropout");
    ck_assert_msg(!parse(doc, &s, &err), "%s", err.message);
    ck_assert(!s->tasks[0].probe.sha256 && !s->tasks[0].reference.path);
    ck_assert(isnan(s->tasks[0].fd) && isnan(s->tasks[0].kid) && !s->train.dropout_given);
    ds_spec_free(s);
    json_decref(doc);
}
END_TEST

enum part { OF_SPEC, OF_TASK, OF_BAR, OF_OWN };

/* An object somewhere in the spec: its members are removed and added one by one. */
static void each_key(const char *object, enum part part) {
    json_t *doc = full_spec(),
           *o = part == OF_TASK  ? json_array_get(json_object_get(doc, "old_tasks"), 0)
                : part == OF_BAR ? json_array_get(json_object_get(doc, "bars"), 0)
                : part == OF_OWN ? json_object_get(doc, "base_task")
                                 : doc,
           *at = object ? json_object_get(o, object) : o, *keys = json_object();
    static const char *const optional[] = {
        "device",       "kind",     "precision",   "threads", "label_dropout", "focus",
        "focus_mean",   "probe",    "reference",   "fd",      "kid",           "worse_margin",
        "worse_sigmas", "vae",      "tree_digest", "probes",  "neighbours",    "class_margin",
        "class_sigmas", "patience", "max_time"};
    json_object_update(keys, at);
    const char *key;
    json_t *v;
    ds_spec *s;
    ds_error err;
    json_object_foreach(keys, key, v) {
        int free_to_go = !strncmp(key, "trained_guidance", 16);
        for (size_t i = 0; i < sizeof optional / sizeof optional[0]; i++)
            free_to_go |= !strcmp(key, optional[i]);
        free_to_go |= part >= OF_BAR && !strcmp(key, "feature_net_sha256");
        json_object_del(at, key);
        static const char *const of_spec[] = {"device", "bars", "base_task", "publish_worse"};
        int required = at == doc;
        for (size_t i = 0; i < sizeof of_spec / sizeof of_spec[0]; i++)
            required &= strcmp(key, of_spec[i]) != 0;
        if (required || (at != doc && !free_to_go)) {
            ck_assert_msg(parse(doc, &s, &err) == DS_EINVAL, "%s may be missing", key);
            ck_assert_msg(strstr(err.message, key) != NULL, "'%s' not in '%s'", key, err.message);
        }
        json_object_set_new(at, key, json_pack("[[]]")); /* of no allowed type */
        ck_assert_msg(parse(doc, &s, &err) == DS_EINVAL, "%s may be a list", key);
        ck_assert_msg(strstr(err.message, key) != NULL, "'%s' not in '%s'", key, err.message);
        json_object_set(at, key, v);
    }
    json_object_set_new(at, "surprise", json_integer(1));
    ck_assert_int_eq(parse(doc, &s, &err), DS_EINVAL);
    ck_assert_msg(strstr(err.message, "surprise is not a known key") != NULL, "%s", err.message);
    json_decref(keys);
    json_decref(doc);
}

START_TEST(every_key_is_checked) {
    static const char *const objects[] = {NULL,     "base",   "feature_net", "dataset",
                                          "method", "train",  "sample",      "evaluate",
                                          "probe",  "device", "gate",        "base_reference"};
    static const char *const of_task[] = {NULL,        "adapter", "probe",
                                          "reference", "sample",  "evaluate"};
    for (size_t i = 0; i < sizeof objects / sizeof objects[0]; i++)
        each_key(objects[i], OF_SPEC);
    for (size_t i = 0; i < sizeof of_task / sizeof of_task[0]; i++)
        each_key(of_task[i], OF_TASK);
    static const char *const of_bar[] = {NULL, "adapter", "base", "sample"}, *const of_own[] = {
                                                                                 NULL, "probe",
                                                                                 "reference",
                                                                                 "sample",
                                                                                 "evaluate"};
    for (size_t i = 0; i < sizeof of_bar / sizeof of_bar[0]; i++)
        each_key(of_bar[i], OF_BAR);
    for (size_t i = 0; i < sizeof of_own / sizeof of_own[0]; i++)
        each_key(of_own[i], OF_OWN);
}
END_TEST

START_TEST(ranges_and_words) {
    static const struct {
        const char *object, *key, *value, *part;
    } bad[] = {
        {"train", "steps", "0", "spec.json: train.steps is 0, must be 1 to 100000000"},
        {"train", "steps", "1.5", "must be an integer"},
        {"train", "lr", "-1", "train.lr"},
        {"train", "seed", "-1", "train.seed"},
        {"train", "ema", "1", "train.ema"},
        {"train", "flip", "1", "must be true or false"},
        {"method", "rank", "65", "must be 1 to 64"},
        {"method", "side", "\"left\"", "must be one of: out, in"},
        {"method", "targets", "[\"q\", \"r\"]", "targets[1] is not a target"},
        {"base", "sha256", "\"ABC\"", "must be a SHA-256"},
        {"base", "path", "\"x/y\"", "must be an absolute path"},
        {"base", "name", "\"\"", "text of 1 to 4096"},
        {"base", "name", "\"a\\u0007b\"", "control characters"},
        {"sample", "sampler", "\"plms\"", "must be one of: dpmpp2m, ddim, ddpm, euler"},
        {"evaluate", "n", "3", "evaluate.n is 3"},
        {"evaluate", "n", "100000000000000000000", "not valid JSON"},
        {"gate", "verify", "\"never\"", "must be one of: auto, full"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        json_t *doc = full_spec();
        json_object_set_new(json_object_get(doc, bad[i].object), bad[i].key, json_string("@@"));
        char *text = json_dumps(doc, 0), *at = strstr(text, "\"@@\""), *whole;
        whole = ds_xasprintf("%.*s%s%s", (int)(at - text), text, bad[i].value, at + 4);
        ds_spec *s;
        ds_error err;
        ck_assert_int_eq(ds_spec_parse("spec.json", whole, strlen(whole), &s, &err), DS_EINVAL);
        ck_assert_msg(strstr(err.message, bad[i].part) != NULL, "%s", err.message);
        free(whole);
        free(text);
        json_decref(doc);
    }
    ds_spec *s;
    ds_error err;
    static const char *const not_specs[] = {"",
                                            "[]",
                                            "null",
                                            "{",
                                            "{\"schema\":1}",
                                            "{\"schema\":\"diffscaler.job/2\"}",
                                            "{\"schema\":\"diffscaler.job/1\",\"kind\":\"dance\"}",
                                            "{\"a\":1,\"a\":2}"};
    for (size_t i = 0; i < sizeof not_specs / sizeof not_specs[0]; i++)
        ck_assert_int_eq(ds_spec_parse("x", not_specs[i], strlen(not_specs[i]), &s, &err),
                         DS_EINVAL);
}
END_TEST

/* Guidance by its two weights, in the place of guidance and its mode. */
static void weights_form(json_t *sample) {
    json_object_del(sample, "guidance");
    json_object_del(sample, "guidance_mode");
    json_object_set_new(sample, "guidance_domain", json_real(1.5));
    json_object_set_new(sample, "guidance_class", json_real(3));
}

/* Form of guidance: two keys, or why it is refused; its weights, and those for the base itself. */
static const struct guide {
    const char *sample, *says;
    double domain, classes, of_base;
    const char *text;
    double low;
} guides[] = {
    {"{\"guidance\":2.0,\"guidance_mode\":\"none\"}", NULL, 1, 1, 1, "guidance 2 none", 0},
    {"{\"guidance\":2.0,\"guidance_mode\":\"cfg\"}", NULL, 1, 2, 2, "guidance 2 cfg", 0},
    {"{\"guidance\":3.0,\"guidance_mode\":\"domain\"}", NULL, 3, 3, 1, "guidance 3 domain", 0},
    {"{\"guidance_domain\":1.5,\"guidance_class\":3.0}", NULL, 1.5, 3, 3,
     "guidance 1.5 domain, 3 class", 0},
    {"{\"guidance_domain\":0.0,\"guidance_class\":0.0}", NULL, 0, 0, 0,
     "guidance 0 domain, 0 class", 0},
    {"{\"guidance\":2.0,\"guidance_low\":0.5,\"guidance_mode\":\"cfg\"}", NULL, 1, 2, 2,
     "guidance 2 cfg above noise level 0.5", 0.5},
    {"{\"guidance_domain\":1.5,\"guidance_class\":3.0,\"guidance_low\":1.0}", NULL, 1.5, 3, 3,
     "guidance 1.5 domain, 3 class above noise level 1", 1},
    {"{\"guidance\":1,\"guidance_mode\":\"cfg\",\"guidance_low\":1.5}",
     "sample.guidance_low is 1.5, must be 0 to 1", 0, 0, 0, NULL, 0},
    {"{}", "sample.guidance is missing", 0, 0, 0, NULL, 0},
    {"{\"guidance_domain\":1}", "sample.guidance_class is missing", 0, 0, 0, NULL, 0},
    {"{\"guidance_class\":1}", "sample.guidance_domain is missing", 0, 0, 0, NULL, 0},
    {"{\"guidance_mode\":\"cfg\"}", "sample.guidance is missing", 0, 0, 0, NULL, 0},
    {"{\"guidance\":1,\"guidance_mode\":\"cfg\",\"guidance_class\":1}",
     "sample has guidance and guidance_class, which exclude each other", 0, 0, 0, NULL, 0},
    {"{\"guidance_mode\":\"cfg\",\"guidance_domain\":1,\"guidance_class\":1}",
     "sample has guidance_mode and guidance_domain, which exclude each other", 0, 0, 0, NULL, 0}};

static void expect_guide(const struct guide *want, const ds_spec_sample *is, const json_t *sample) {
    char text[DS_GUIDANCE_TEXT];
    ds_guidance g = ds_spec_guidance(is, 0), b = ds_spec_guidance(is, 1);
    json_t *again = ds_spec_sample_json(is);
    ds_spec_guidance_text(is, text);
    ck_assert(g.domain == want->domain && g.classes == want->classes);
    ck_assert(b.domain == 1 && b.classes == want->of_base);
    ck_assert_str_eq(text, want->text);
    ck_assert(is->low == want->low);
    ck_assert(json_equal(sample, again));
    json_decref(again);
}

/* Wherever there are settings of samples; and the same form again where they are recorded. */
START_TEST(guidance_has_one_form) {
    const struct guide *g = &guides[_i];
    for (int part = 0; part < 4; part++) {
        json_t *doc = full_spec(), *sample = json_loads(g->sample, 0, NULL),
               *o = part == 0   ? doc
                    : part == 1 ? json_array_get(json_object_get(doc, "old_tasks"), 0)
                    : part == 2 ? json_array_get(json_object_get(doc, "bars"), 0)
                                : json_object_get(doc, "base_task");
        ds_spec *s;
        ds_error err = {0};
        json_object_update_new(sample, json_pack("{s:s, s:i}", "sampler", "ddim", "steps", 4));
        json_object_set(o, "sample", sample);
        int rc = parse(doc, &s, &err);
        ck_assert_msg(rc == (g->says ? DS_EINVAL : 0), "%s: %s", g->sample, err.message);
        ck_assert_msg(!rc || strstr(err.message, g->says), "%s", err.message);
        if (!rc) {
            expect_guide(g,
                         part == 0   ? &s->sample
                         : part == 1 ? &s->tasks[0].sample
                         : part == 2 ? &s->bars[0].sample
                                     : &s->base_task.sample,
                         sample);
            ds_spec_free(s);
        }
        json_decref(sample);
        json_decref(doc);
    }
}
END_TEST

/* The worker's part of the walk of limits_walk.h: the same as dsctl and the daemon. */
static int parse_with(const char *section, const char *key, const char *value, ds_error *err) {
    json_t *doc = full_spec(), *in = json_object_get(doc, section);
    ds_spec *s = NULL;
    if (!strncmp(key, "guidance_", 9) && strcmp(key, "guidance_mode"))
        weights_form(in);
    json_object_set_new(in, key, json_loads(value, JSON_DECODE_ANY, NULL));
    int rc = parse(doc, &s, err);
    if (!rc)
        ds_spec_free(s);
    json_decref(doc);
    return rc;
}

START_TEST(limits) {
    for (const ds_option *o = ds_option_table; o->name; o++) {
        char text[80];
        int good = 0;
        for (int k = 0; limit_value(o, k, text, &good); k++) {
            ds_error err = {0};
            int rc = parse_with(o->section, o->key, text, &err);
            ck_assert_msg((rc == 0) == good && (good || strstr(err.message, o->key)),
                          "%s.%s = %s: %d %s", o->section, o->key, text, rc, err.message);
        }
    }
}
END_TEST

/* A word becomes its value, whatever the order of the words. */
START_TEST(words_have_values) {
    static const struct {
        const char *section, *key, *value;
        size_t at;
        int is;
    } words[] = {
        {"method", "name", "\"embedding\"", offsetof(ds_spec, method.method), DS_METHOD_EMBEDDING},
        {"method", "name", "\"full\"", offsetof(ds_spec, method.method), DS_METHOD_FULL},
        {"method", "name", "\"bitfit\"", offsetof(ds_spec, method.method), DS_METHOD_BITFIT},
        {"method", "side", "\"out\"", offsetof(ds_spec, method.side_in), 0},
        {"method", "phi", "\"identity\"", offsetof(ds_spec, method.phi_relu), 0},
        {"method", "targets", "[\"final\",\"k\"]", offsetof(ds_spec, method.targets),
         DS_TARGET_FINAL | DS_TARGET_K},
        {"sample", "sampler", "\"ddim\"", offsetof(ds_spec, sample.sampler), DS_SAMPLER_DDIM},
        {"sample", "sampler", "\"ddpm\"", offsetof(ds_spec, sample.sampler), DS_SAMPLER_DDPM},
        {"sample", "guidance_mode", "\"cfg\"", offsetof(ds_spec, sample.mode), DS_GUIDANCE_CFG},
        {"sample", "guidance_mode", "\"none\"", offsetof(ds_spec, sample.mode), DS_GUIDANCE_NONE},
        {"gate", "verify", "\"full\"", offsetof(ds_spec, gate.verify), DS_VERIFY_FULL},
        {"device", "precision", "\"f32\"", offsetof(ds_spec, device.precision), DS_PRECISION_F32},
        {"device", "precision", "\"tf32\"", offsetof(ds_spec, device.precision), DS_PRECISION_TF32},
        {"feature_net", "mode", "\"clean\"", offsetof(ds_spec, feature_net.mode), DS_FID_CLEAN},
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        json_t *doc = full_spec();
        ds_spec *s;
        ds_error err = {0};
        int is;
        json_object_set_new(json_object_get(doc, words[i].section), words[i].key,
                            json_loads(words[i].value, JSON_DECODE_ANY, NULL));
        ck_assert_msg(!parse(doc, &s, &err), "%s", err.message);
        memcpy(&is, (char *)s + words[i].at, sizeof is);
        ck_assert_msg(is == words[i].is, "%s is %d", words[i].value, is);
        ds_spec_free(s);
        json_decref(doc);
    }
}
END_TEST

/* What earlier programs queued is read: the sections of tests/golden/options.ndjson as they were,
 * and without the keys that came later.  A new option that must be there would be missing here. */
START_TEST(earlier_specs_are_read) {
    char line[8192];
    FILE *f = fopen("tests/golden/options.ndjson", "r");
    ck_assert_ptr_nonnull(f);
    while (fgets(line, sizeof line, f)) {
        json_t *row = json_loads(line, 0, NULL), *doc = full_spec(),
               *made = json_loads(json_string_value(json_object_get(row, "spec")), 0, NULL);
        ds_spec *s;
        ds_error err = {0};
        json_object_update(doc, made);
        ck_assert_msg(!parse(doc, &s, &err), "%s", err.message);
        ds_spec_free(s);
        for (const ds_option *o = ds_option_table; o->name; o++)
            if (o->absent)
                json_object_del(json_object_get(doc, o->section), o->key);
        ck_assert_msg(!parse(doc, &s, &err), "%s", err.message);
        ck_assert(s->device.precision == DS_PRECISION_BF16 && !strcmp(s->device.kind, "auto"));
        ck_assert(!s->train.o.cosine && s->train.o.focus == 0 && s->gate.worse_sigmas == 3.5);
        ck_assert(s->train.o.patience == 0 && s->train.o.max_time == 0);
        ds_spec_free(s);
        json_object_del(doc, "device");
        ck_assert_msg(!parse(doc, &s, &err), "%s", err.message);
        ck_assert(s->device.precision == DS_PRECISION_BF16 && !strcmp(s->device.kind, "auto"));
        ds_spec_free(s);
        json_decref(made), json_decref(doc), json_decref(row);
    }
    fclose(f);
}
END_TEST

/* Labels follow the proportions of the classes, and every n of them is used. */
START_TEST(labels_in_proportion) {
    static const int64_t counts[] = {1, 0, 7, 2};
    int labels[100], n[4] = {0};
    ds_class_labels(labels, 100, counts, 4);
    for (int i = 0; i < 100; i++) {
        ck_assert(labels[i] >= 0 && labels[i] < 4 && (i == 0 || labels[i] >= labels[i - 1]));
        n[labels[i]]++;
    }
    ck_assert(n[0] == 10 && n[1] == 0 && n[2] == 70 && n[3] == 20);
    static const int64_t odd[] = {3, 3, 1};
    ds_class_labels(labels, 4, odd, 3);
    ck_assert(labels[0] == 0 && labels[3] == 2);
}
END_TEST

START_TEST(torn_event_line_is_ended) {
    char *dir = in_tmp("events"), *path = ds_xasprintf("%s/events.ndjson", dir), *text;
    ds_events *e;
    ds_error err;
    size_t n;
    must(ds_fs_mkdirs(dir, &err), &err);
    must(ds_fs_write(path, "{\"t\":1,\"ty", 10, &err), &err);
    must(ds_events_open(&e, dir, &err), &err);
    ds_events_stage(e, "train", "%s", "a \"quoted\" \xff name");
    for (int i = 1; i <= 1000; i++)
        ds_events_progress(e, i, 1000, "steps", NAN, NAN);
    ds_events_done(e);
    ds_events_close(e);
    must(ds_fs_read(path, 1 << 20, &text, &n, &err), &err);
    int lines = 0, torn = 0;
    char *save = text;
    for (char *end; (end = strchr(text, '\n')); text = end + 1, lines++) {
        json_t *doc;
        if (ds_json_parse("line", text, (size_t)(end - text), &doc, NULL))
            torn++;
        else
            json_decref(doc);
    }
    ck_assert_int_eq(torn, 1);
    ck_assert_msg(lines <= 6, "%d lines: progress is not held back", lines);
    ck_assert(!strncmp(save, "{\"t\":1,\"ty\n{", 12) && strstr(save, "\"done\":1000"));
    free(save);
    free(path);
    free(dir);
}
END_TEST

/* A verification has old tasks as a training has them; there may be so many and no more. */
START_TEST(verifications_have_tasks) {
    json_t *doc = full_spec(), *tasks = json_object_get(doc, "old_tasks");
    static const char *const of_training[] = {"name",  "version",        "dataset",       "method",
                                              "train", "sample",         "evaluate",      "probe",
                                              "bars",  "base_reference", "publish_worse", NULL};
    for (int i = 0; of_training[i]; i++)
        json_object_del(doc, of_training[i]);
    json_object_set_new(doc, "kind", json_string("verify"));
    json_array_append(tasks, json_array_get(tasks, 0));
    ds_spec *s;
    ds_error err;
    ck_assert_msg(!parse(doc, &s, &err), "%s", err.message);
    ck_assert(s->kind == DS_JOB_VERIFY && s->task_count == 2 && s->base_task_known);
    ck_assert_str_eq(s->tasks[1].ref, "flags@v1");
    ck_assert(s->tasks[1].fd == 12.3 && s->tasks[1].kid == 0.01 && s->tasks[1].probe.n == 4);
    ds_spec_free(s);
    json_object_set_new(json_array_get(tasks, 0), "feature_net",
                        json_pack("{s:s, s:n, s:s}", "name", "n", "path", "sha256", digest));
    ck_assert_msg(!parse(doc, &s, &err), "%s", err.message);
    ck_assert(!s->tasks[0].feature_net.path && !strcmp(s->tasks[0].feature_net.name, "n"));
    ds_spec_free(s);
    json_object_del(doc, "old_tasks");
    ck_assert_int_eq(parse(doc, &s, &err), DS_EINVAL);
    json_t *many = json_array(), *none = json_null();
    for (int i = 0; i <= DS_SPEC_TASKS_MAX; i++)
        json_array_append(many, none);
    json_object_set_new(doc, "old_tasks", many);
    ck_assert_int_eq(parse(doc, &s, &err), DS_EINVAL);
    ck_assert_msg(strstr(err.message, "must be a list of at most 100000 tasks") != NULL, "%s",
                  err.message);
    json_array_remove(many, 0); /* as many as there may be: now it is their content */
    ck_assert_int_eq(parse(doc, &s, &err), DS_EINVAL);
    ck_assert_msg(strstr(err.message, "old_tasks[0] must be an object") != NULL, "%s", err.message);
    json_decref(doc);
}
END_TEST

/* Both ends of the other two lists. */
START_TEST(lists_are_bounded) {
    static const struct {
        int most;
        const char *says;
    } lists[] = {{DS_SPEC_BARS_MAX, "bars must be a list of at most 8"},
                 {DS_SPEC_PROBES_MAX, "old_tasks[0].probes must be a list of at most 1000"}};
    for (int i = 0; i < 2; i++)
        for (int more = 0; more < 2; more++) {
            json_t *doc = full_spec(), *task = json_array_get(json_object_get(doc, "old_tasks"), 0),
                   *list = json_array(),
                   *one = i ? json_object_get(task, "probe")
                            : json_array_get(json_object_get(doc, "bars"), 0);
            for (int k = 0; k < lists[i].most + more; k++)
                json_array_append(list, one);
            json_object_set_new(i ? task : doc, i ? "probes" : "bars", list);
            ds_spec *s;
            ds_error err = {0};
            ck_assert_int_eq(parse(doc, &s, &err), more ? DS_EINVAL : 0);
            ck_assert_msg(!more || strstr(err.message, lists[i].says), "%s", err.message);
            if (!more) {
                ck_assert_int_eq(i ? s->tasks[0].probe_count : s->bar_count, lists[i].most);
                ds_spec_free(s);
            }
            json_decref(doc);
        }
}
END_TEST

/* ---------------------------------------------------------------- run */

/* A result of this spec with an adapter is the end: nothing else is looked at, and the files that
 * the spec names are not there. */
START_TEST(a_finished_training_is_not_begun_again) {
    static const struct {
        const char *verdict, *adapter, *spec;
        int status;
    } cases[] = {{"passed", "{}", NULL, 0},
                 {"refused", "{}", NULL, 8},
                 {"passed", "null", NULL, 2}, /* it ended before it had one */
                 {"passed", "{}", digest, 2}, /* of another spec */
                 {"passed", NULL, NULL, 2}};  /* none at all */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *doc = full_spec();
        ds_spec *s;
        ds_error err;
        json_object_set_new(json_object_get(doc, "device"), "kind", json_string("cpu"));
        must(parse(doc, &s, &err), &err);
        char *dir = make_job("finished", doc), *path = ds_xasprintf("%s/result.json", dir),
             *text = ds_xasprintf("{\"spec\":\"%s\",\"adapter\":%s,\"gate\":{\"verdict\":\"%s\","
                                  "\"reason\":\"it fell\"}}",
                                  cases[i].spec ? cases[i].spec : s->digest,
                                  cases[i].adapter ? cases[i].adapter : "1", cases[i].verdict);
        if (cases[i].adapter)
            must(ds_fs_write(path, text, strlen(text), &err), &err);
        run_expect(dir, cases[i].status);
        ck_assert_int_eq(ds_fs_exists(path), cases[i].status != 2);
        free(text);
        free(path);
        must(ds_fs_remove(dir, &err), &err);
        free(dir);
        ds_spec_free(s);
    }
}
END_TEST

/* Who holds the lock gets two seconds to go; then the job is put off. */
START_TEST(a_locked_job_is_put_off) {
    char *dir = make_job("held", full_spec()), *path = ds_xasprintf("%s/lock", dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600), status = -1;
    ck_assert(fd >= 0 && !flock(fd, LOCK_EX | LOCK_NB));
    double begin = ds_monotonic();
    pid_t pid = start_job(dir, NULL, NULL), gone = 0;
    while (!gone && ds_monotonic() - begin < 20) {
        usleep(20000);
        gone = waitpid(pid, &status, WNOHANG);
    }
    if (!gone)
        kill(pid, SIGKILL);
    ck_assert_msg(gone == pid && WIFEXITED(status) && WEXITSTATUS(status) == 75, "status %d",
                  status);
    ck_assert(ds_monotonic() - begin >= 1.9);
    close(fd);
    free(path);
    free(dir);
}
END_TEST

/* A place where no lock can be is an error of its own. */
START_TEST(a_job_must_be_a_folder) {
    char *none = in_tmp("no-such-job"), *file = in_tmp("a-file");
    ds_error err;
    must(ds_fs_write(file, "", 0, &err), &err);
    char *const calls[][5] = {{none, NULL},
                              {file, NULL},
                              {NULL},
                              {none, none, NULL},
                              {"--parent", "0", none, NULL},
                              {"--parent", "1x", none, NULL},
                              {none, "--parent", NULL},
                              {"--device", "gpu", none, NULL},
                              {"--device", "cpu", "--device", "cpu", NULL},
                              {"--frob", NULL}};
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        int n = 0;
        while (n < 5 && calls[i][n])
            n++;
        ck_assert_msg(ds_worker_run(n, (char **)(uintptr_t)calls[i]) == 2, "call %zu", i);
    }
    free(none);
    free(file);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, good_spec_is_read);
    tcase_add_test(tc, bars_and_the_base_are_optional);
    tcase_add_test(tc, null_is_allowed_where_nothing_is_recorded);
    tcase_add_test(tc, every_key_is_checked);
    tcase_add_test(tc, ranges_and_words);
    tcase_add_loop_test(tc, guidance_has_one_form, 0, sizeof guides / sizeof *guides);
    tcase_add_test(tc, limits);
    tcase_add_test(tc, words_have_values);
    tcase_add_test(tc, earlier_specs_are_read);
    tcase_add_test(tc, labels_in_proportion);
    tcase_add_test(tc, torn_event_line_is_ended);
    tcase_add_test(tc, verifications_have_tasks);
    tcase_add_test(tc, lists_are_bounded);
    tcase_add_test(tc, a_finished_training_is_not_begun_again);
    tcase_add_test(tc, a_locked_job_is_put_off);
    tcase_add_test(tc, a_job_must_be_a_folder);
}

int main(int argc, char **argv) {
    int status = fixture_dispatch(argc, argv);
    return status >= 0 ? status : ds_test_main("worker_spec", register_cases);
}
