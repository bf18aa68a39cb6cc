/* tests/registry/test_registry_feature_nets.c - which network measures what: choice, default, datasets, jobs
 * that keep theirs, old tasks, removal; names before an import. */
#include "base/fs.h"
#include "registry/rows/bases.h"
#include "registry/rows/feature_nets.h"
#include "registry/flow/imports.h"
#include "tests/fixtures/registry_fixture.h"

#define FID_SHA "dd44dd44dd44dd44dd44dd44dd44dd44dd44dd44dd44dd44dd44dd44dd44dd44"

static int64_t put_fid(ds_registry *r) {
    ds_model_facts f = {.name = "fid",
                        .path = "/nets/fid",
                        .sha256 = FID_SHA,
                        .kind = "inception-fid",
                        .source = "/src/fid.pth"};
    int64_t id = 0;
    MUST(ds_feature_net_register(r, &f, &id, err));
    return id;
}

static void choose(ds_registry *r, const char *words) {
    ds_feature_choice c;
    MUST(ds_feature_choice_resolve(r, words, &c, err));
    MUST(ds_feature_net_choose(r, &c, err));
}

static void add_with(ds_registry *r, const char *name, const char *words) {
    ds_feature_choice c;
    if (words)
        MUST(ds_feature_choice_resolve(r, words, &c, err));
    ds_dataset_new d = {.name = name, .path = "/a", .watch = -1, .net = words ? &c : NULL};
    int64_t id, seq;
    int created;
    MUST(ds_dataset_add(r, &d, &id, &created, &seq, err));
}

/* "name:mode" of an object. */
static const char *words_of(json_t *net) {
    static char out[200];
    snprintf(out, sizeof out, "%s:%s", fx_string(net, "name"), fx_string(net, "mode"));
    json_decref(net);
    return out;
}

static const char *net_of_job(ds_registry *r, int64_t job) {
    json_t *net = NULL;
    MUST(ds_feature_net_of_job(r, job, &net, err));
    return words_of(net);
}

static const char *default_net(ds_registry *r) {
    json_t *net = NULL;
    MUST(ds_feature_net_default(r, &net, err));
    return words_of(net);
}

/* Publishes the running training as measured with FID's network. */
static void publish_fid(ds_registry *r, const ds_job *j, const char *content) {
    char ref[DS_HEX_SIZE + 16];
    ds_blob a, f;
    json_t *spec, *result, *e;
    size_t i;
    MUST(ds_store_put_bytes(ds_registry_store(r), content, strlen(content), &a, err));
    MUST(ds_store_put_bytes(ds_registry_store(r), "reference", 9, &f, err));
    fx_training(r, j, 1, &a, &f, &spec, &result);
    json_object_set_new(
        spec, "feature_net",
        json_pack("{s:s, s:s, s:s}", "name", "fid", "sha256", FID_SHA, "mode", "clean"));
    json_array_foreach(json_object_get(result, "evaluations"), i, e) {
        json_object_set_new(e, "feature_net", json_string(FID_SHA));
        json_object_set_new(e, "resize", json_string("pil-bicubic-f32/128/1"));
    }
    ds_publication p = {
        .job = j->id, .spec = spec, .result = result, .adapter = &a, .reference = &f};
    MUST(ds_publish(r, &p, ref, err));
    json_decref(spec);
    json_decref(result);
}

START_TEST(words) {
    ds_registry *r = fx_open(fx_dir("words"));
    ds_feature_choice c;
    int64_t fid = put_fid(r);
    static const struct {
        const char *words, *mode;
    } good[] = {{"fid", "pytorch-fid"},
                {"FID:clean", "clean"},
                {"fid:torch-fidelity", "torch-fidelity"},
                {"sha256:dd44dd44", "pytorch-fid"},
                {"sha256:dd44dd44:clean", "clean"},
                {FID_SHA, "pytorch-fid"},
                {FID_SHA ":clean", "clean"}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        MUST(ds_feature_choice_resolve(r, good[i].words, &c, err));
        ck_assert_int_eq(c.id, fid);
        ck_assert_str_eq(c.mode, good[i].mode);
    }
    MUST(ds_feature_choice_resolve(r, "bundled", &c, err));
    ck_assert(!c.id && !c.follow && !strcmp(c.mode, "bundled"));
    MUST(ds_feature_choice_resolve(r, "default", &c, err));
    ck_assert(c.follow);
    MUST(ds_feature_choice_resolve(r, "inception", &c, err));
    ck_assert_str_eq(c.mode, "bundled");
    FAILS(DS_EINVAL, "no mode 'tf2'; there are pytorch-fid, torch-fidelity and clean",
          ds_feature_choice_resolve(r, "fid:tf2", &c, err));
    FAILS(DS_EINVAL, "no mode 'bundled'", ds_feature_choice_resolve(r, "fid:bundled", &c, err));
    FAILS(DS_EINVAL, "there is bundled", ds_feature_choice_resolve(r, "inception:clean", &c, err));
    FAILS(DS_ENOTFOUND, "dsctl add-feature-net", ds_feature_choice_resolve(r, "none", &c, err));
    FAILS(DS_EINVAL, "no feature network can be called 'bundled'",
          ds_feature_net_name_free(r, "bundled", NULL, err));
    ds_registry_close(r);
}
END_TEST

/* The default of now, a dataset's own, and what a job began with. */
START_TEST(jobs_keep_their_network) {
    ds_registry *r = fx_open(fx_dir("jobs"));
    json_t *d = NULL;
    put_fid(r);
    ck_assert_str_eq(default_net(r), "inception:bundled");
    add_with(r, "follows", NULL);
    fx_scan(r, "one");
    ds_job j = fx_claim(r, DS_JOB_TRAIN);
    ck_assert_str_eq(net_of_job(r, j.id), "inception:bundled");
    choose(r, "fid:clean");
    ck_assert_str_eq(default_net(r), "fid:clean");
    ck_assert_str_eq(net_of_job(r, j.id), "inception:bundled"); /* as it began */
    MUST(fx_publish(r, &j, 1, "one", NULL, err));
    ck_assert_int_eq(fx_count(r, "feature_net.default"), 1);
    /* a new choice of the default trains nothing anew */
    int made = 0;
    MUST(ds_reconcile(r, &made, err));
    ck_assert_int_eq(made, 0);
    add_with(r, "own", "fid:torch-fidelity");
    fx_scan(r, "two");
    MUST(ds_dataset_get(r, "own", &d, err));
    ck_assert_str_eq(fx_string(d, "feature_net"), "fid:torch-fidelity");
    json_decref(d);
    j = fx_claim(r, DS_JOB_TRAIN);
    ck_assert_str_eq(net_of_job(r, j.id), "fid:torch-fidelity");
    choose(r, "bundled");
    ck_assert_str_eq(default_net(r), "inception:bundled");
    ck_assert_str_eq(net_of_job(r, j.id), "fid:torch-fidelity");
    publish_fid(r, &j, "two");
    /* another network for a dataset: its content is worked on anew, once */
    add_with(r, "own", "bundled");
    fx_scan(r, "two");
    j = fx_claim(r, DS_JOB_TRAIN);
    ck_assert_str_eq(j.name, "own");
    ck_assert_str_eq(net_of_job(r, j.id), "inception:bundled");
    MUST(fx_publish(r, &j, 1, "three", NULL, err));
    add_with(r, "own", "bundled");
    fx_scan(r, "two");
    MUST(ds_reconcile(r, &made, err));
    ck_assert_int_eq(made, 0);
    MUST(ds_registry_check(r, err));
    ds_registry_close(r);
}
END_TEST

/* Old tasks name the network of their numbers; its place is null once it is gone. */
START_TEST(old_tasks_name_theirs) {
    ds_registry *r = fx_open(fx_dir("tasks"));
    json_t *list = NULL, *a = NULL;
    put_fid(r);
    add_with(r, "d", "fid:clean");
    fx_scan(r, "one");
    ds_job j = fx_claim(r, DS_JOB_TRAIN);
    publish_fid(r, &j, "one");
    MUST(ds_old_tasks(r, 1, NULL, NULL, &list, err));
    json_t *net = json_object_get(json_array_get(list, 0), "feature_net");
    ck_assert_str_eq(fx_string(net, "name"), "fid");
    ck_assert_str_eq(fx_string(net, "path"), "/nets/fid");
    ck_assert_str_eq(fx_string(net, "sha256"), FID_SHA);
    json_decref(list);
    MUST(ds_adapter_get(r, "d", &a, err));
    net = json_object_get(a, "feature_net");
    ck_assert_str_eq(fx_string(net, "name"), "fid");
    ck_assert_str_eq(fx_string(net, "preprocess"), "pil-bicubic-f32/128/1");
    json_decref(a);
    /* as if it had been lost: only by hand, the registry refuses */
    ck_assert_int_eq(fx_foreign(r, "UPDATE feature_nets SET removed_at = 1 WHERE name = 'fid'"),
                     SQLITE_OK);
    MUST(ds_old_tasks(r, 1, NULL, NULL, &list, err));
    net = json_object_get(json_array_get(list, 0), "feature_net");
    ck_assert_str_eq(fx_string(net, "name"), "fid");
    ck_assert(json_is_null(json_object_get(net, "path")));
    json_decref(list);
    FAILS(DS_EINTEGRITY, "a feature network in use has been removed", ds_registry_check(r, err));
    ds_registry_close(r);
}
END_TEST

START_TEST(removal_names_what_needs_it) {
    ds_registry *r = fx_open(fx_dir("removal"));
    json_t *net = NULL;
    put_fid(r);
    FAILS(DS_ECONFLICT, "1 bases come with it: emoji-dit",
          ds_feature_net_remove(r, "inception", NULL, err));
    choose(r, "fid");
    FAILS(DS_ECONFLICT, "set-default-feature-net", ds_feature_net_remove(r, "fid", NULL, err));
    choose(r, "bundled");
    add_with(r, "photos", "fid");
    FAILS(DS_ECONFLICT,
          "1 datasets are measured with it (dsctl add-dataset DIR --feature-net "
          "OTHER, or remove-dataset): photos",
          ds_feature_net_remove(r, "fid", NULL, err));
    fx_scan(r, "one");
    ds_job j = fx_claim(r, DS_JOB_TRAIN);
    net_of_job(r, j.id);
    add_with(r, "photos", "default");
    FAILS(DS_ECONFLICT, "jobs work with it; wait for them or cancel them: job 2",
          ds_feature_net_remove(r, "fid", NULL, err));
    publish_fid(r, &j, "one");
    FAILS(DS_ECONFLICT,
          "adapters were measured with it, and the gate measures them again: "
          "photos@v1",
          ds_feature_net_remove(r, "fid", NULL, err));
    MUST(ds_feature_net_get(r, "fid", &net, err));
    ck_assert_int_eq(fx_int(net, "adapters"), 1);
    ck_assert_int_eq(fx_int(net, "datasets"), 0);
    ck_assert_int_eq((int)json_array_size(json_object_get(net, "preprocessings")), 3);
    json_decref(net);
    ck_assert_int_eq(fx_foreign(r, "DELETE FROM aliases; UPDATE adapter_versions SET deleted_at ="
                                   " 1"),
                     SQLITE_OK);
    MUST(ds_feature_net_remove(r, "fid", &net, err));
    ck_assert_str_eq(fx_string(net, "path"), "/nets/fid");
    json_decref(net);
    ck_assert_int_eq(ds_model_file_known(r, "/nets/fid"), 0);
    FAILS(DS_ENOTFOUND, "does not exist", ds_feature_net_remove(r, "fid", NULL, err));
    FAILS(DS_ENOTFOUND, "was removed already", ds_feature_net_remove(r, FID_SHA, NULL, err));
    ds_feature_choice c;
    FAILS(DS_ENOTFOUND, "brings it back", ds_feature_choice_resolve(r, FID_SHA, &c, err));
    put_fid(r); /* back again */
    MUST(ds_feature_choice_resolve(r, "fid", &c, err));
    ds_registry_close(r);
}
END_TEST

START_TEST(names_before_an_import) {
    ds_registry *r = fx_open(fx_dir("names"));
    int64_t id;
    put_fid(r);
    MUST(ds_model_import_free(r, 1, "fid", "/src/fid.pth", err)); /* the same again */
    MUST(ds_model_import_free(r, 1, "new", "/other", err));
    MUST(ds_model_import_free(r, 0, "fid", "/other", err)); /* a base may be called so */
    FAILS(DS_ECONFLICT, "choose another --name", ds_model_import_free(r, 1, "FID", "/other", err));
    FAILS(DS_ECONFLICT, "choose another --name",
          ds_model_import_free(r, 0, "emoji-dit", "/other", err));
    FAILS(DS_EINVAL, "no base can be called", ds_model_import_free(r, 0, "default", "/o", err));
    json_t *payload = json_pack("{s:s, s:s}", "what", "base", "source", "/src/x.pt");
    MUST(ds_job_add(r, DS_JOB_IMPORT, "x", payload, 3, &id, err));
    json_decref(payload);
    MUST(ds_model_import_free(r, 0, "x", "/src/x.pt", err));
    MUST(ds_model_import_free(r, 1, "x", "/src/y.pt", err));
    FAILS(DS_ECONFLICT, "job 1 is importing another base as 'X'",
          ds_model_import_free(r, 0, "X", "/src/y.pt", err));
    ds_registry_close(r);
}
END_TEST

static json_t *of_model(ds_registry *r, int net, int64_t id) {
    json_t *o = NULL;
    if (net) {
        char ref[DS_HEX_SIZE];
        snprintf(ref, sizeof ref, "%s", FID_SHA);
        MUST(ds_feature_net_get(r, ref, &o, err));
    } else
        MUST(ds_base_get(r, id, &o, err));
    return o;
}

/* A model is found again by what it is; what is not told this time stays as it was told before, and
 * what is told replaces it. */
START_TEST(what_is_known_of_a_model_stays) {
    ds_registry *r = fx_open(fx_dir("facts"));
    json_t *config = fx_json("{\"latent\":true}"), *report = fx_json("{\"used\":1}"), *list = NULL;
    for (int net = 0; net < 2; net++) {
        ds_model_facts f = {.name = "m",
                            .path = "/m",
                            .sha256 = FID_SHA,
                            .config = net ? NULL : config,
                            .vae_path = net ? NULL : "/vae",
                            .vae_sha256 = net ? NULL : BASE_SHA,
                            .kind = net ? "inception-fid" : NULL,
                            .source = "/s",
                            .source_format = "PyTorch zip",
                            .source_sha256 = NET_SHA,
                            .license = "MIT",
                            .parameters = 7,
                            .bytes = 28,
                            .feature_net = net ? 0 : 1,
                            .report = report};
        int64_t id, same;
        MUST(net ? ds_feature_net_register(r, &f, &id, err) : ds_base_register(r, &f, &id, err));
        json_t *before = of_model(r, net, id);
        ds_model_facts little = {.name = "m", .path = "/m", .sha256 = FID_SHA};
        MUST(net ? ds_feature_net_register(r, &little, &same, err)
                 : ds_base_register(r, &little, &same, err));
        ck_assert_int_eq(same, id);
        json_t *after = of_model(r, net, id);
        char *is = json_dumps(after, JSON_SORT_KEYS), *want = json_dumps(before, JSON_SORT_KEYS);
        ck_assert_str_eq(is, want);
        ck_assert_str_eq(fx_string(after, "license"), "MIT");
        free(is), free(want);
        json_decref(before), json_decref(after);
        little.license = "CC0";
        little.name = "other";
        MUST(net ? ds_feature_net_register(r, &little, &same, err)
                 : ds_base_register(r, &little, &same, err));
        after = of_model(r, net, id);
        ck_assert_str_eq(fx_string(after, "license"), "CC0");
        ck_assert_str_eq(fx_string(after, "name"), "other");
        ck_assert_str_eq(fx_string(after, "source"), "/s");
        json_decref(after);
        /* a removed one is told by its digest, and in no list */
        for (int there = 1; there >= 0; there--) {
            size_t found = 0, i;
            json_t *m;
            MUST(net ? ds_feature_net_list(r, (ds_page){0}, &list, err)
                     : ds_base_list(r, (ds_page){0}, &list, err));
            json_array_foreach(json_object_get(list, "items"), i, m)
                found += !strcmp(fx_string(m, "sha256"), FID_SHA);
            ck_assert_uint_eq(found, (size_t)there);
            json_decref(list);
            if (there)
                MUST(net ? ds_feature_net_remove(r, "other", NULL, err)
                         : ds_base_remove(r, id, NULL, err));
        }
    }
    json_decref(config), json_decref(report);
    ds_registry_close(r);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, what_is_known_of_a_model_stays);
    tcase_add_test(tc, words);
    tcase_add_test(tc, jobs_keep_their_network);
    tcase_add_test(tc, old_tasks_name_theirs);
    tcase_add_test(tc, removal_names_what_needs_it);
    tcase_add_test(tc, names_before_an_import);
}

int main(void) { return ds_test_main("registry_feature_nets", cases); }
