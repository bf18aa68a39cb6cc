/* tests/daemon/test_daemon_spec.c - spec.json of each kind of job, from a registry alone: every member, what
 * a request changes of it, and that nothing is built of a registry that cannot be read. */
#include "daemon/jobs/spec.h"
#include "tests/fixtures/registry_fixture.h"

static ds_daemon d;
static ds_registry *r;
static char state[PATH_MAX];

static void setup(void) {
    snprintf(state, sizeof state, "%s", fx_dir("state"));
    r = fx_open(state);
    d = (ds_daemon){.registry = r};
    memcpy(d.o.state, state, sizeof state);
    fx_add(r, "photos", "/d/photos");
    fx_scan(r, "one");
}

static void teardown(void) { ds_registry_close(r); }

/* The dataset `more` beside the published photos@v1: its training. */
static ds_job second_training(void) {
    char ref[DS_HEX_SIZE + 16];
    fx_train(r, 1, "one", ref);
    ck_assert_str_eq(ref, "photos@v1");
    fx_add(r, "more", "/d/more");
    fx_scan(r, "two");
    return fx_claim(r, DS_JOB_TRAIN);
}

static json_t *build(const ds_job *job, const json_t *earlier) {
    ds_built_spec s;
    MUST(ds_spec_build(&d, job, "/jobs/7", earlier, &s, err));
    ck_assert_ptr_nonnull(s.spec);
    ck_assert_int_eq(ds_digest_valid(s.manifest_sha256), job->kind == DS_JOB_TRAIN);
    ck_assert_str_eq(fx_string(s.spec, "schema"), "diffscaler.job/1");
    ck_assert_str_eq(fx_string(s.spec, "kind"), ds_job_kind_name(job->kind));
    ck_assert_int_eq(fx_int(s.spec, "job"), job->id);
    return s.spec;
}

static void fails(const ds_job *job, int code, const char *text) {
    ds_built_spec s = {.spec = (json_t *)&s};
    FAILS(code, text, ds_spec_build(&d, job, "/jobs/7", NULL, &s, err));
    ck_assert_ptr_null(s.spec);
}

/* A member of a member. */
static const json_t *in(const json_t *o, const char *a, const char *b) {
    return json_object_get(json_object_get(o, a), b);
}

static void is_text(const json_t *v, const char *want) {
    ck_assert_msg(json_is_string(v), "no text, want '%s'", want);
    ck_assert_str_eq(json_string_value(v), want);
}

static void is_path(const json_t *v, const char *below_state) {
    char want[PATH_MAX];
    ds_fs_join(want, sizeof want, state, below_state);
    is_text(v, want);
}

static size_t length(const json_t *o, const char *key) {
    ck_assert(json_is_array(json_object_get(o, key)));
    return json_array_size(json_object_get(o, key));
}

static void has_base(const json_t *spec) {
    is_text(in(spec, "base", "name"), "emoji-dit");
    is_text(in(spec, "base", "path"), "/bases/emoji");
    is_text(in(spec, "base", "sha256"), BASE_SHA);
    ck_assert_uint_eq(json_object_size(json_object_get(spec, "base")), 3);
}

/* ---------------------------------------------------------------- a training */

START_TEST(a_training) {
    ds_job j = fx_claim(r, DS_JOB_TRAIN);
    json_t *s = build(&j, NULL), *v = NULL;
    ds_built_spec again;
    MUST(ds_dataset_version_get(r, j.dataset_version_id, &v, err));
    is_text(json_object_get(s, "name"), "photos");
    ck_assert_int_eq(fx_int(s, "version"), 1);
    is_text(in(s, "dataset", "name"), "photos");
    is_text(in(s, "dataset", "root"), "/d/photos");
    is_text(in(s, "dataset", "manifest"), "/jobs/7/manifest.ndjson");
    is_text(in(s, "dataset", "tree_digest"), fx_string(v, "tree_digest"));
    ck_assert_int_eq(json_integer_value(in(s, "dataset", "version")), 1);
    has_base(s);
    is_text(in(s, "feature_net", "name"), "inception");
    is_text(in(s, "feature_net", "path"), "/nets/inception");
    is_text(in(s, "feature_net", "sha256"), NET_SHA);
    ck_assert(length(s, "old_tasks") == 0 && length(s, "bars") == 0);
    ck_assert(json_is_null(json_object_get(s, "base_task")));
    ck_assert(!json_object_get(s, "base_probe_only"));
    ck_assert(json_is_false(json_object_get(s, "publish_worse")));
    is_path(json_object_get(s, "cache_dir"), "cache");
    is_path(in(s, "base_reference", "cache"), "cache/base");
    is_text(in(s, "method", "name"), "affiner");
    ck_assert_int_eq(json_integer_value(in(s, "train", "steps")), 900);
    ck_assert_int_eq(json_integer_value(in(s, "evaluate", "kid_subset_size")), 3); /* 3 images */
    ck_assert(json_number_value(in(s, "train", "label_dropout")) == 0);            /* 1 class */
    MUST(ds_spec_build(&d, &j, "/jobs/7", NULL, &again, err));
    ck_assert_str_eq(again.manifest_sha256, fx_string(v, "manifest_sha256"));
    ck_assert(json_equal(again.spec, s));
    json_decref(again.spec);
    json_decref(s);
    json_decref(v);
    d.o.base_probe_only = 1;
    s = build(&j, NULL);
    ck_assert(json_is_true(json_object_get(s, "base_probe_only")));
    json_decref(s);
}
END_TEST

/* An interrupted one goes on with its choices; places and tasks are those of now. */
START_TEST(an_interrupted_training) {
    ds_job j = fx_claim(r, DS_JOB_TRAIN);
    json_t *s = build(&j, NULL),
           *was =
               fx_json("{\"version\":9,\"train\":{\"steps\":5},\"sample\":{\"steps\":6},"
                       "\"evaluate\":{\"n\":7},\"probe\":{\"n\":8},\"device\":{\"kind\":\"ref\"},"
                       "\"gate\":{\"verify\":\"full\"},\"name\":\"x\",\"old_tasks\":7,"
                       "\"bars\":7,\"publish_worse\":true,\"cache_dir\":\"/x\",\"base\":7}"),
           *t = build(&j, was);
    static const char *const kept[] = {"version", "train",  "sample", "evaluate",
                                       "probe",   "device", "gate"};
    static const char *const anew[] = {"name",   "old_tasks",     "bars",     "base",
                                       "method", "publish_worse", "cache_dir"};
    for (int i = 0; i < 7; i++) {
        ck_assert_msg(json_equal(json_object_get(t, kept[i]), json_object_get(was, kept[i])), "%s",
                      kept[i]);
        ck_assert_msg(json_equal(json_object_get(t, anew[i]), json_object_get(s, anew[i])), "%s",
                      anew[i]);
    }
    json_decref(s), json_decref(t), json_decref(was);
}
END_TEST

START_TEST(old_tasks_and_bars) {
    ds_job j = second_training();
    json_t *s = build(&j, NULL), *task = json_array_get(json_object_get(s, "old_tasks"), 0);
    ck_assert(length(s, "old_tasks") == 1 && length(s, "bars") == 0);
    is_text(json_object_get(task, "ref"), "photos@v1");
    is_text(json_object_get(s, "name"), "more");
    ck_assert_int_eq(fx_int(s, "version"), 1);
    json_decref(s);
    char ref[DS_HEX_SIZE + 16];
    MUST(fx_publish(r, &j, 1, "two", ref, err));
    MUST(ds_dataset_rescan(r, "photos", NULL, err));
    fx_scan(r, "three");
    j = fx_claim(r, DS_JOB_TRAIN);
    s = build(&j, NULL);
    is_text(json_object_get(s, "name"), "photos");
    ck_assert_int_eq(fx_int(s, "version"), 2);
    ck_assert(length(s, "old_tasks") == 1 && length(s, "bars") == 1); /* not itself */
    is_text(json_object_get(json_array_get(json_object_get(s, "old_tasks"), 0), "ref"), "more@v1");
    is_text(json_object_get(json_array_get(json_object_get(s, "bars"), 0), "ref"), "photos@v1");
    is_text(json_object_get(json_array_get(json_object_get(s, "bars"), 0), "role"), "latest");
    json_decref(s);
}
END_TEST

/* A training on a base that predicts a velocity. */
START_TEST(a_training_on_a_flow) {
    ds_job j = second_training();
    ck_assert_int_eq(fx_foreign(r, "UPDATE bases SET config = '{\"flow\":\"linear\"}';"
                                   "UPDATE datasets SET options = '{\"sampler\":\"heun\"}'"),
                     SQLITE_OK);
    json_t *s = build(&j, NULL);
    is_text(in(s, "sample", "sampler"), "heun");
    ck_assert(json_is_real(in(s, "train", "focus"))); /* uniform */
    ck_assert(json_number_value(in(s, "train", "focus")) == 0.0);
    ck_assert(json_number_value(in(s, "train", "focus_mean")) == 0.0);
    json_decref(s);
}
END_TEST

/* Rows as another program may have left them: each is an error, and there is no spec. */
static const struct {
    const char *sql;
    int code;
    const char *text;
} damage[] = {
    {"DROP TRIGGER adapter_versions_fixed; UPDATE adapter_versions SET config = '{'", DS_EINVAL,
     "config"},
    {"DROP TABLE base_tasks", DS_EFAILED, ""},
    {"UPDATE bases SET removed_at = 1", DS_EINVAL, "was removed"},
    {"UPDATE bases SET feature_net_id = NULL", DS_ENOTFOUND, "there is no feature network"},
    {"UPDATE datasets SET options = '[]'", DS_EINVAL, "options are not a JSON object"},
    {"UPDATE datasets SET options = '{\"rank\":0}'", DS_EINVAL, "option 'rank' must be from 1"},
    {"UPDATE datasets SET options = '{\"sampler\":\"sde\"}'", DS_EINVAL,
     "the sampler sde is not for a base that predicts noise"},
    {"UPDATE datasets SET options = '{\"sampler\":\"ddim\"}';"
     "UPDATE bases SET config = '{\"flow\":\"gvp\"}'",
     DS_EINVAL, "the sampler ddim is not for a base that predicts a velocity"},
    {"UPDATE datasets SET method = 'magic'", DS_EINVAL, "method 'magic' is not known"},
    {"DROP TRIGGER dataset_versions_keep; DELETE FROM dataset_versions", DS_ENOTFOUND,
     "does not exist"},
};

START_TEST(no_spec_of_a_damaged_registry) {
    ds_job j = second_training();
    char sql[400];
    snprintf(sql, sizeof sql, "PRAGMA foreign_keys = 0; PRAGMA ignore_check_constraints = 1; %s",
             damage[_i].sql);
    ck_assert_msg(fx_foreign(r, sql) == SQLITE_OK, "%s", damage[_i].sql);
    ds_built_spec s = {.spec = (json_t *)&s};
    ds_error err = {0};
    int rc = ds_spec_build(&d, &j, "/jobs/7", NULL, &s, &err);
    ck_assert_msg(rc < 0 && (damage[_i].code == DS_EFAILED || rc == damage[_i].code), "%d %s", rc,
                  err.message);
    ck_assert_msg(strstr(err.message, damage[_i].text) != NULL, "%s", err.message);
    ck_assert_ptr_null(s.spec);
}
END_TEST

/* ---------------------------------------------------------------- samples, verifications */

static ds_job asked(enum ds_job_kind kind, const char *payload) {
    json_t *p = fx_json("%s", payload);
    int64_t id = 0;
    ds_job j;
    MUST(ds_job_add(r, kind, "", p, 1, &id, err));
    MUST(ds_job_read(r, id, &j, err));
    json_decref(p);
    return j;
}

START_TEST(a_sample) {
    fx_train(r, 1, "one", NULL);
    ds_job j = asked(DS_JOB_SAMPLE, "{}");
    json_t *s = build(&j, NULL);
    has_base(s);
    ck_assert(json_is_null(json_object_get(s, "adapter")));
    ck_assert(fx_int(s, "n") == 16 && fx_int(s, "seed") == 1);
    ck_assert(json_is_integer(json_object_get(s, "columns")) && fx_int(s, "columns") == 0);
    ck_assert(json_is_null(json_object_get(s, "class")) && !json_object_get(s, "sheet"));
    is_text(in(s, "sample", "sampler"), "dpmpp2m");
    ck_assert_int_eq(json_integer_value(in(s, "sample", "steps")), 20);
    is_text(in(s, "device", "kind"), "auto");
    ck_assert(!json_object_get(s, "train") && !json_object_get(s, "gate"));
    json_decref(s);
    /* the adapter's own settings, and what the request has of them */
    j = asked(DS_JOB_SAMPLE, "{\"ref\":\"photos@v1\",\"n\":3,\"seed\":4,\"columns\":2,"
                             "\"class\":\"0\",\"sheet\":false,\"guidance\":2.5,"
                             "\"guidance_mode\":null,\"sampler\":\"ddim\"}");
    s = build(&j, NULL);
    has_base(s);
    ck_assert(json_is_string(in(s, "adapter", "sha256")));
    ck_assert(fx_int(s, "n") == 3 && fx_int(s, "seed") == 4 && fx_int(s, "columns") == 2);
    is_text(json_object_get(s, "class"), "0");
    ck_assert(json_is_false(json_object_get(s, "sheet")));
    json_t *want = fx_json("{\"steps\":20,\"guidance\":2.5,\"sampler\":\"ddim\"}");
    ck_assert(json_equal(json_object_get(s, "sample"), want));
    json_decref(want);
    json_decref(s);
    j = asked(DS_JOB_SAMPLE, "{\"ref\":\"photos@v1\",\"guidance_class\":3.5}");
    s = build(&j, NULL);
    want = fx_json("{\"steps\":20,\"guidance_domain\":1.0,\"guidance_class\":3.5}");
    ck_assert(json_equal(json_object_get(s, "sample"), want));
    json_decref(want);
    json_decref(s);
    j = asked(DS_JOB_SAMPLE, "{\"guidance_class\":3.5,\"class\":\"1\"}"); /* the base alone */
    s = build(&j, NULL);
    ck_assert(json_real_value(in(s, "sample", "guidance_domain")) == 1);
    ck_assert(json_real_value(in(s, "sample", "guidance_class")) == 3.5);
    ck_assert(!in(s, "sample", "guidance") && !in(s, "sample", "guidance_mode"));
    json_decref(s);
    j = asked(DS_JOB_SAMPLE, "{\"ref\":\"photos\",\"steps\":7,\"sheet\":true}");
    s = build(&j, NULL);
    want = fx_json("{\"steps\":7}");
    ck_assert(json_equal(json_object_get(s, "sample"), want) && !json_object_get(s, "sheet"));
    json_decref(want);
    json_decref(s);
}
END_TEST

/* Which base: the adapter's, the one that is named, the default; they must agree. */
START_TEST(the_base_of_a_request) {
    int64_t net = 0, other = 0;
    static const enum ds_job_kind kinds[] = {DS_JOB_SAMPLE, DS_JOB_VERIFY};
    char sha[DS_HEX_SIZE];
    memset(sha, 'c', 64);
    sha[64] = 0;
    fx_train(r, 1, "one", NULL);
    MUST(ds_feature_net_put(r, "inception", "/nets/inception", NET_SHA, &net, err));
    MUST(ds_base_put(r, "other", "/bases/other", sha, NULL, net, &other, err));
    for (int i = 0; i < 2; i++) {
        ds_job j = asked(kinds[i], "{\"base\":\"other\"}");
        json_t *s = build(&j, NULL);
        is_text(in(s, "base", "name"), "other");
        json_decref(s);
        MUST(ds_base_activate(r, other, err)); /* the default is not the adapter's */
        j = asked(kinds[i], "{\"ref\":\"photos@v1\"}");
        s = build(&j, NULL);
        has_base(s);
        json_decref(s);
        j = asked(kinds[i], "{\"ref\":\"photos@v1\",\"base\":\"emoji-dit\"}");
        s = build(&j, NULL);
        has_base(s);
        json_decref(s);
        j = asked(kinds[i], "{}");
        s = build(&j, NULL);
        is_text(in(s, "base", "name"), "other");
        json_decref(s);
        j = asked(kinds[i], "{\"ref\":\"photos@v1\",\"base\":\"other\"}");
        fails(&j, DS_ECONFLICT, sha);
        j = asked(kinds[i], "{\"ref\":\"photos@v1\",\"base\":\"none\"}");
        fails(&j, DS_ENOTFOUND, "base 'none'");
        j = asked(kinds[i], "{\"ref\":\"none@v1\"}");
        fails(&j, DS_ENOTFOUND, "none");
        MUST(ds_base_resolve(r, "emoji-dit", &net, err));
        MUST(ds_base_activate(r, net, err));
    }
}
END_TEST

START_TEST(a_verification) {
    ds_job j = second_training();
    MUST(fx_publish(r, &j, 1, "two", NULL, err));
    j = asked(DS_JOB_VERIFY, "{}");
    json_t *s = build(&j, NULL);
    has_base(s);
    ck_assert_uint_eq(length(s, "old_tasks"), 2);
    ck_assert(json_is_null(json_object_get(s, "base_task")));
    is_text(in(s, "feature_net", "sha256"), NET_SHA);
    is_path(json_object_get(s, "cache_dir"), "cache");
    is_text(in(s, "gate", "verify"), "auto");
    is_text(in(s, "device", "kind"), "auto");
    ck_assert(!json_object_get(s, "train") && !json_object_get(s, "sample"));
    json_decref(s);
    j = asked(DS_JOB_VERIFY, "{\"ref\":\"more@v1\",\"full\":true}");
    s = build(&j, NULL);
    ck_assert_uint_eq(length(s, "old_tasks"), 1);
    is_text(json_object_get(json_array_get(json_object_get(s, "old_tasks"), 0), "ref"), "more@v1");
    is_text(in(s, "gate", "verify"), "full");
    json_decref(s);
    j = asked(DS_JOB_VERIFY, "{\"base_task\":true}"); /* to be recorded, nothing else */
    s = build(&j, NULL);
    ck_assert_uint_eq(length(s, "old_tasks"), 0);
    json_decref(s);
    ck_assert_int_eq(fx_foreign(r, "PRAGMA foreign_keys = 0; DROP TABLE base_tasks"), SQLITE_OK);
    ds_built_spec gone;
    ds_error err = {0};
    ck_assert_int_lt(ds_spec_build(&d, &j, "/jobs/7", NULL, &gone, &err), 0);
    ck_assert_ptr_null(gone.spec);
}
END_TEST

/* A base whose network is gone is verified all the same: each task names its own. */
START_TEST(a_verification_without_a_network) {
    ck_assert_int_eq(fx_foreign(r, "UPDATE bases SET feature_net_id = NULL"), SQLITE_OK);
    ds_job j = asked(DS_JOB_VERIFY, "{}");
    json_t *s = build(&j, NULL);
    ck_assert(json_is_null(json_object_get(s, "feature_net")));
    json_decref(s);
}
END_TEST

/* ---------------------------------------------------------------- an import */

START_TEST(an_import) {
    ds_job j = asked(DS_JOB_IMPORT, "{\"what\":\"base\",\"source\":\"/s/x.pt\",\"vae\":\"/s/vae\","
                                    "\"name\":\"x\",\"license\":\"MIT\",\"heads\":3,"
                                    "\"weights\":\"ema\",\"objective\":\"eps\",\"probe\":\"/p\"}");
    json_t *s = build(&j, NULL);
    static const char *const texts[][2] = {
        {"what", "base"},   {"source", "/s/x.pt"}, {"vae", "/s/vae"},    {"name", "x"},
        {"license", "MIT"}, {"weights", "ema"},    {"objective", "eps"}, {"probe", "/p"}};
    for (int i = 0; i < 8; i++)
        is_text(json_object_get(s, texts[i][0]), texts[i][1]);
    ck_assert_int_eq(fx_int(s, "heads"), 3);
    is_path(json_object_get(s, "out_dir"), "bases");
    ck_assert(ds_fs_exists(fx_string(s, "out_dir")));
    json_decref(s);
    j = asked(DS_JOB_IMPORT, "{\"what\":\"feature_net\",\"source\":\"/s/y.pth\",\"name\":\"\","
                             "\"license\":\"\",\"heads\":0,\"weights\":\"\",\"objective\":null}");
    s = build(&j, NULL);
    is_path(json_object_get(s, "out_dir"), "feature_nets");
    ck_assert(ds_fs_exists(fx_string(s, "out_dir")));
    ck_assert(json_is_null(json_object_get(s, "vae")));
    static const char *const absent[] = {"heads", "weights", "objective", "probe"};
    for (int i = 0; i < 4; i++)
        ck_assert_msg(!json_object_get(s, absent[i]), "%s", absent[i]);
    json_decref(s);
    /* where the folder cannot be made */
    snprintf(d.o.state, sizeof d.o.state, "/dev/null/state");
    ds_built_spec none;
    ds_error err = {0};
    ck_assert_int_ne(ds_spec_build(&d, &j, "/jobs/7", NULL, &none, &err), 0);
    ck_assert_ptr_null(none.spec);
}
END_TEST

/* A job that is not there has no payload. */
START_TEST(jobs_that_are_gone) {
    static const enum ds_job_kind kinds[] = {DS_JOB_SAMPLE, DS_JOB_VERIFY, DS_JOB_IMPORT,
                                             DS_JOB_TRAIN};
    for (int i = 0; i < 4; i++) {
        ds_job j = {.id = 999, .kind = kinds[i], .base_id = 1, .dataset_version_id = 999};
        fails(&j, DS_ENOTFOUND, "");
    }
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, a_training);
    tcase_add_test(tc, an_interrupted_training);
    tcase_add_test(tc, old_tasks_and_bars);
    tcase_add_test(tc, a_training_on_a_flow);
    tcase_add_loop_test(tc, no_spec_of_a_damaged_registry, 0, sizeof damage / sizeof *damage);
    tcase_add_test(tc, a_sample);
    tcase_add_test(tc, the_base_of_a_request);
    tcase_add_test(tc, a_verification);
    tcase_add_test(tc, a_verification_without_a_network);
    tcase_add_test(tc, an_import);
    tcase_add_test(tc, jobs_that_are_gone);
}

int main(void) {
    fx_fast_tmp();
    return ds_test_main("daemon_spec", cases);
}
