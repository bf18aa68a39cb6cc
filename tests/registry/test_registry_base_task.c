/* tests/registry/test_registry_base_task.c - task 0: what a base does with its own classes, recorded once and kept. */
#include "tests/fixtures/registry_train.h"
#include "base/json.h"
#include "registry/rows/bars.h"
#include "registry/rows/base_tasks.h"
#include "tests/fixtures/registry_fixture.h"
#include <math.h>

#define XL_SHA "cccc1111cccc1111cccc1111cccc1111cccc1111cccc1111cccc1111cccc1111"

#define PROBE_SHA "1010101010101010101010101010101010101010101010101010101010101010"

/* ---- task 0 ---- */

static json_t *base_task(const char *probe, const char *class, const ds_blob *reference) {
    json_t *t = fx_json(
        "{\"probe\":{\"device_class\":\"%s\",\"sha256\":\"%s\",\"n\":4,\"seed\":11},\"reference\":"
        "null,\"fd\":7.5,\"kid\":0.01,\"n\":256,\"sample\":{\"steps\":20},\"evaluate\":{\"n\":256},"
        "\"feature_net\":{\"name\":\"inception\",\"sha256\":\"" NET_SHA "\",\"mode\":\"bundled\"},"
        "\"classes\":6,\"note\":\"as recorded\"}",
        class, probe);
    if (reference)
        json_object_set_new(t, "reference",
                            json_pack("{s:s,s:s,s:i}", "file", "base_reference.safetensors.zst",
                                      "sha256", reference->sha256, "n", 256));
    return t;
}

static int64_t verification(ds_registry *r) {
    int64_t id;
    MUST(ds_job_add(r, DS_JOB_VERIFY, "", NULL, 1, &id, err));
    MUST(ds_job_claim(r, id, err));
    return id;
}

/* A verification that recorded `task`, or (task NULL) verified task 0 with these words. */
static int verify(ds_registry *r, int64_t id, json_t *task, const ds_blob *reference,
                  const char *words, ds_error *err) {
    json_t *result =
               fx_json("{\"gate\":{\"verdict\":\"passed\",\"reason\":\"\",\"tasks\":[%s%s%s]}}",
                       words ? "{\"name\":\"base\",\"ref\":\"base:emoji-dit\",\"verdict\":"
                               "\"passed\","
                             : "",
                       words ? words : "", words ? "}" : ""),
           *spec = fx_json("{\"base\":{\"name\":\"emoji-dit\",\"sha256\":\"" BASE_SHA "\",\"vae\":"
                           "{\"sha256\":\"" VAE_SHA "\"}}}");
    if (task)
        json_object_set_new(result, "base_task", task);
    ds_verification v = {.job = id, .spec = spec, .result = result, .base_reference = reference};
    int rc = ds_verify_finish(r, &v, err);
    json_decref(spec);
    json_decref(result);
    return rc;
}

START_TEST(a_base_is_recorded_once) {
    ds_registry *r = fx_open(fx_dir("task0"));
    ds_blob f, g;
    ds_sweep s;
    json_t *t = NULL, *o = NULL;
    MUST(ds_store_put_bytes(ds_registry_store(r), "features", 8, &f, err));
    MUST(ds_store_put_bytes(ds_registry_store(r), "others", 6, &g, err));
    MUST(ds_base_task_get(r, 1, &t, err));
    ck_assert(json_is_null(t));
    int64_t id = verification(r);
    MUST(verify(r, id, base_task(PROBE_SHA, "cpu-test", &f), &f, NULL, err));
    MUST(ds_base_task_get(r, 1, &t, err));
    ck_assert_str_eq(fx_string(t, "ref"), "base:emoji-dit");
    ck_assert_str_eq(fx_string(t, "name"), "base");
    ck_assert_str_eq(fx_string(t, "base_sha256"), BASE_SHA);
    ck_assert_str_eq(fx_string(json_object_get(t, "probe"), "sha256"), PROBE_SHA);
    ck_assert_str_eq(fx_string(json_object_get(t, "reference"), "sha256"), f.sha256);
    ck_assert_str_eq(fx_string(json_object_get(t, "feature_net"), "path"), "/nets/inception");
    ck_assert_double_eq(json_number_value(json_object_get(t, "fd")), 7.5);
    ck_assert_int_eq(fx_int(json_object_get(t, "evaluate"), "n"), 256);
    json_decref(t);
    MUST(ds_job_get(r, id, &o, err)); /* and the job says so */
    t = json_object_get(json_object_get(o, "result"), "base_task");
    ck_assert_str_eq(fx_string(t, "ref"), "base:emoji-dit");
    ck_assert(json_is_true(json_object_get(t, "recorded")));
    ck_assert_str_eq(fx_string(o, "base"), "emoji-dit");
    json_decref(o);
    ck_assert_int_eq(fx_count(r, "base.recorded"), 1);
    /* a second record never replaces the first, and its file is not kept */
    id = verification(r);
    MUST(verify(r, id, base_task(XL_SHA, "cpu-test", &g), &g, NULL, err));
    MUST(ds_job_get(r, id, &o, err));
    ck_assert(json_is_false(
        json_object_get(json_object_get(json_object_get(o, "result"), "base_task"), "recorded")));
    json_decref(o);
    ck_assert_int_eq(fx_count(r, "base.recorded"), 1);
    MUST(ds_blobs_sweep(r, 0, 0, &s, err));
    ck_assert_int_eq(s.removed, 1);
    ck_assert(ds_blob_get(r, f.sha256, &f, NULL) == 0);
    MUST(ds_base_task_get(r, 1, &t, err));
    ck_assert_str_eq(fx_string(json_object_get(t, "probe"), "sha256"), PROBE_SHA);
    json_decref(t);
    ck_assert_int_eq(fx_foreign(r, "UPDATE base_tasks SET fd = 1"), SQLITE_CONSTRAINT);
    ck_assert_int_eq(fx_foreign(r, "DELETE FROM base_probes"), SQLITE_CONSTRAINT);
    ck_assert_int_eq(fx_foreign(r, "INSERT OR REPLACE INTO base_tasks(base_id, created_at) VALUES"
                                   " (1, 2)"),
                     SQLITE_CONSTRAINT);
    finish(r);
}
END_TEST

START_TEST(probes_of_a_base) {
    ds_registry *r = fx_open(fx_dir("probes0"));
    json_t *o = NULL, *t, *last;
    const char *gpu = "\"unchanged\":false,\"probe_now\":\"" XL_SHA "\",\"probe_class\":\"gpu\","
                      "\"probe_n\":4,\"probe_seed\":11";
    char words[300];
    /* nothing is recorded yet: nothing to add to */
    snprintf(words, sizeof words, "\"level\":2,%s", gpu);
    MUST(verify(r, verification(r), NULL, NULL, words, err));
    MUST(verify(r, verification(r), base_task(PROBE_SHA, "cpu-test", NULL), NULL, NULL, err));
    snprintf(words, sizeof words, "\"level\":1,%s", gpu); /* level 1 proves what is known */
    MUST(verify(r, verification(r), NULL, NULL, words, err));
    MUST(ds_base_task_get(r, 1, &t, err));
    ck_assert_int_eq((int)json_array_size(json_object_get(t, "probes")), 1);
    json_decref(t);
    snprintf(words, sizeof words, "\"level\":2,\"fd_now\":7.75,%s", gpu);
    for (int k = 0; k < 2; k++)
        MUST(verify(r, verification(r), NULL, NULL, words, err));
    MUST(ds_base_task_get(r, 1, &t, err));
    ck_assert_int_eq((int)json_array_size(json_object_get(t, "probes")), 2);
    ck_assert_str_eq(fx_string(json_object_get(t, "probe"), "device_class"), "cpu-test");
    json_decref(t);
    /* only a base may pass at level 0: recorded elsewhere, and there is nothing to measure */
    snprintf(words, sizeof words,
             "\"level\":0,\"unchanged\":false,\"probe_now\":\"" VAE_SHA
             "\",\"probe_class\":\"tpu\",\"probe_n\":4,\"probe_seed\":11");
    MUST(verify(r, verification(r), NULL, NULL, words, err));
    int64_t id = verification(r);
    json_t *bad = fx_json("{\"gate\":{\"verdict\":\"passed\",\"tasks\":[{\"name\":\"d\",\"ref\":"
                          "\"d@v1\",\"level\":0,\"unchanged\":false,\"verdict\":\"passed\"}]}}");
    FAILS(DS_EINVAL, "'gate.tasks[0]' is malformed", fx_verify_finish(r, id, bad, err));
    json_decref(bad);
    MUST(ds_base_get(r, 1, &o, err));
    MUST(ds_base_task_show(r, o, err));
    t = json_object_get(o, "task");
    ck_assert_int_eq((int)json_array_size(json_object_get(t, "device_classes")), 3);
    ck_assert_int_eq(fx_int(t, "classes"), 6);
    ck_assert_str_eq(fx_string(json_object_get(t, "feature_net"), "mode"), "bundled");
    last = json_object_get(t, "last");
    ck_assert_str_eq(fx_string(last, "verdict"), "passed");
    ck_assert_int_eq(fx_int(last, "level"), 0);
    json_decref(o);
    ds_registry_close(r);
}
END_TEST

START_TEST(records_that_do_not_fit) {
    ds_registry *r = fx_open(fx_dir("unfit0"));
    ds_blob f;
    int64_t id = verification(r);
    MUST(ds_store_put_bytes(ds_registry_store(r), "features", 8, &f, err));
    FAILS(DS_EINVAL, "'base_task.probe'",
          verify(r, id, base_task("zz", "cpu-test", NULL), NULL, NULL, err));
    FAILS(DS_EINVAL, "'base_task.probe'",
          verify(r, id, base_task(PROBE_SHA, "", NULL), NULL, NULL, err));
    FAILS(DS_EINVAL, "'base_task.reference'",
          verify(r, id, base_task(PROBE_SHA, "cpu-test", NULL), &f, NULL, err));
    ds_blob g = f;
    memcpy(g.sha256, NET_SHA, sizeof g.sha256);
    FAILS(DS_EINTEGRITY, "the stored one is",
          verify(r, id, base_task(PROBE_SHA, "cpu-test", &g), &f, NULL, err));
    json_t *o = fx_json("{\"gate\":{\"verdict\":\"passed\",\"tasks\":[],\"self\":{\"verdict\":"
                        "\"passed\",\"bars\":[]}}}");
    FAILS(DS_EINVAL, "a verification has no 'gate.self'", fx_verify_finish(r, id, o, err));
    json_object_del(json_object_get(o, "gate"), "self");
    json_t *spec = fx_json("{\"base\":{\"sha256\":\"" XL_SHA "\"}}");
    ds_verification v = {.job = id, .spec = spec, .result = o};
    FAILS(DS_ECONFLICT, "a base that is not known", ds_verify_finish(r, &v, err));
    json_decref(spec);
    json_decref(o);
    json_t *t = NULL;
    MUST(ds_base_task_get(r, 1, &t, err));
    ck_assert(json_is_null(t));
    ds_registry_close(r);
}
END_TEST

/* Imports a base; the number of jobs that are to record one afterwards. */
static int import(ds_registry *r, const char *sha, int latent, int vae) {
    int64_t id;
    json_t *payload = json_pack("{s:s, s:s}", "what", "base", "source", "/src"), *list = NULL, *job;
    MUST(ds_job_add(r, DS_JOB_IMPORT, "xl", payload, 3, &id, err));
    MUST(ds_job_claim(r, id, err));
    json_t *spec = fx_json("{\"what\":\"base\",\"name\":\"xl\",\"source\":\"/src\"}"),
           *result = fx_json("{\"what\":\"base\",\"name\":\"xl\",\"sha256\":\"%s\",\"config\":"
                             "{\"pixel\":%d},\"vae\":{\"sha256\":\"" VAE_SHA "\"}}",
                             sha, !latent);
    ds_import i = {
        .job = id, .spec = spec, .result = result, .path = "/xl", .vae_path = vae ? "/vae" : NULL};
    MUST(ds_import_finish(r, &i, err));
    json_decref(spec);
    json_decref(result);
    json_decref(payload);
    MUST(ds_job_list(r, (ds_page){0}, &(ds_job_filter){.kind = "verify", .state = "queued"}, &list,
                     err));
    int n = (int)json_array_size(json_object_get(list, "items"));
    if (n) {
        job = json_array_get(json_object_get(list, "items"), 0);
        ck_assert_str_eq(fx_string(job, "name"), "xl");
        MUST(ds_job_payload(r, fx_int(job, "id"), &payload, err));
        ck_assert(json_is_true(json_object_get(payload, "base_task")));
        ck_assert_str_eq(fx_string(payload, "base"), sha);
        json_decref(payload);
    }
    json_decref(list);
    return n;
}

START_TEST(a_new_base_is_recorded_by_itself) {
    ds_registry *r = fx_open(fx_dir("import0"));
    ds_job j;
    ck_assert_int_eq(import(r, XL_SHA, 1, 0), 0); /* cannot be used yet */
    ck_assert_int_eq(import(r, XL_SHA, 1, 1), 1);
    ck_assert_int_eq(import(r, XL_SHA, 1, 1), 1); /* one is queued */
    int64_t xl;
    MUST(ds_base_resolve(r, "xl", &xl, err)); /* it keeps nobody from removing the base */
    MUST(ds_base_remove(r, xl, NULL, err));
    ck_assert_int_eq(fx_count(r, "job.cancelled"), 1);
    ck_assert_int_eq(import(r, XL_SHA, 1, 1), 1);
    MUST(ds_job_next(r, DS_KIND_BIT(DS_JOB_VERIFY), INT64_MAX, &j, NULL, err));
    MUST(ds_job_claim(r, j.id, err));
    json_t *spec = fx_json("{\"base\":{\"sha256\":\"" XL_SHA "\"}}"),
           *result = fx_json("{\"gate\":{\"verdict\":\"passed\",\"tasks\":[]}}");
    json_object_set_new(result, "base_task", base_task(PROBE_SHA, "cpu-test", NULL));
    ds_verification v = {.job = j.id, .spec = spec, .result = result};
    MUST(ds_verify_finish(r, &v, err));
    json_decref(spec);
    json_decref(result);
    ck_assert_int_eq(import(r, XL_SHA, 1, 1), 0); /* recorded */
    /* the bundled base has no record, and none is asked for: that is its first training's work */
    ck_assert_int_eq(made(r), 0);
    finish(r);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, a_base_is_recorded_once);
    tcase_add_test(tc, probes_of_a_base);
    tcase_add_test(tc, records_that_do_not_fit);
    tcase_add_test(tc, a_new_base_is_recorded_by_itself);
}

int main(void) {
    fx_fast_tmp();
    return ds_test_main("registry_base_task", cases);
}
