/* tests/registry/test_registry_refused.c - scans and publications that do not fit change nothing. */
#include "tests/fixtures/registry_start.h"
#include "base/log.h"
#include "tests/fixtures/registry_fixture.h"
#include <math.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <unistd.h>

static json_t *train_with(ds_registry *r, const char *content, const char *rejected, ds_error *e) {
    ds_job j = fx_claim(r, DS_JOB_TRAIN);
    json_t *spec, *result, *o = NULL;
    char ref[DS_HEX_SIZE + 16], text[64];
    ds_blob a, f;
    snprintf(text, sizeof text, "adapter of %s", content);
    MUST(ds_store_put_bytes(ds_registry_store(r), text, strlen(text), &a, err));
    MUST(ds_store_put_bytes(ds_registry_store(r), "reference", 9, &f, err));
    fx_training(r, &j, 1, &a, &f, &spec, &result);
    if (rejected)
        json_object_update_new(result, fx_json("%s", rejected));
    ds_publication p = {
        .job = j.id, .spec = spec, .result = result, .adapter = &a, .reference = &f};
    int rc = ds_publish(r, &p, ref, e);
    if (!rc) {
        MUST(ds_job_get(r, j.id, &o, err));
        ck_assert_ptr_null(json_object_get(json_object_get(o, "result"), "rejected"));
        json_decref(o);
        MUST(ds_dataset_rejected(r, "d", &o, err));
    }
    json_decref(spec);
    json_decref(result);
    return o;
}

static const char *stage_of(const json_t *list, size_t i) {
    return fx_string(json_array_get(json_object_get(list, "items"), i), "stage");
}

/* What a scan and what a training left out is with the version; each replaces its own part. */
START_TEST(rejected_at_decoding) {
    ds_registry *r = start("decoding");
    json_t *o;
    fx_add(r, "d", "/a");
    fx_scan(r, "one"); /* leaves one file out */
    MUST(ds_reconcile(r, NULL, err));
    ds_error e;
    ck_assert_ptr_null(train_with(r, "one", "{\"rejected\":[{\"path\":\"x\"}]}", &e));
    ck_assert_int_eq(e.code, DS_EINVAL);
    ck_assert_ptr_nonnull(strstr(e.message, "malformed"));
    finish(r);

    r = start("decoding-count");
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    MUST(ds_reconcile(r, NULL, err));
    ck_assert_ptr_null(train_with(r, "one",
                                  "{\"rejected\":[{\"path\":\"x\",\"reason\":\"y\"},"
                                  "{\"path\":\"z\",\"reason\":\"y\"}],\"rejected_count\":1}",
                                  &e));
    ck_assert_int_eq(e.code, DS_EINVAL);
    ck_assert_ptr_nonnull(strstr(e.message, "'rejected_count' is too small"));
    finish(r);

    r = start("decoding2");
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    MUST(ds_reconcile(r, NULL, err));
    o = train_with(r, "one",
                   "{\"rejected\":[{\"path\":\"a/x.png\",\"reason\":\"damaged PNG: CRC\"},"
                   "{\"path\":\"a/y.png\",\"reason\":\"damaged\"}],\"rejected_count\":2}",
                   &e);
    ck_assert_int_eq(fx_int(o, "count"), 3);
    ck_assert_str_eq(stage_of(o, 0), "scan");
    ck_assert_str_eq(stage_of(o, 1), "decode");
    json_decref(o);
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    fx_scan(r, "one");
    MUST(ds_dataset_rejected(r, "d", &o, err));
    ck_assert_int_eq(fx_int(o, "count"), 3);
    ck_assert_uint_eq(json_array_size(json_object_get(o, "items")), 3);
    ck_assert_str_eq(stage_of(o, 2), "decode");
    json_decref(o);
    int made;
    MUST(ds_reconcile(r, &made, err));
    ck_assert_int_eq(made, 0);
    finish(r);
}
END_TEST

START_TEST(bad_scans_change_nothing) {
    ds_registry *r = start("bad");
    fx_add(r, "d", "/a");
    ds_job j = fx_claim(r, DS_JOB_SCAN);
    ds_blob b;
    MUST(ds_store_put_bytes(ds_registry_store(r), "m", 1, &b, err));
    static const struct {
        int code;
        const char *text, *says;
    } scans[] = {
        {DS_EINVAL, "{}", "tree_digest"},
        {DS_EINVAL,
         "{\"tree_digest\":\"../x\",\"images\":1,\"bytes\":1,\"classes\":[{\"name\":\"a\","
         "\"images\":1}],\"rejected\":[]}",
         "not a sha256"},
        {DS_EINVAL,
         "{\"tree_digest\":\"" NET_SHA "\",\"images\":0,\"bytes\":1,\"classes\":[],"
         "\"rejected\":[]}",
         "no images"},
        {DS_EINVAL,
         "{\"tree_digest\":\"" NET_SHA "\",\"images\":1,\"bytes\":1,\"classes\":[3],"
         "\"rejected\":[]}",
         "entry 0 of 'classes'"},
        {DS_EINTEGRITY,
         "{\"tree_digest\":\"" NET_SHA "\",\"images\":1,\"bytes\":1,\"classes\":"
         "[{\"name\":\"a\",\"images\":1}],\"rejected\":[]}",
         "manifest has sha256"},
    };
    int64_t seq = ds_event_last_seq(r);
    for (size_t i = 0; i < sizeof scans / sizeof *scans; i++) {
        json_t *o = fx_json("%s", scans[i].text);
        FAILS(scans[i].code, scans[i].says, ds_scan_finish(r, j.id, o, &b, NULL, err));
        json_decref(o);
    }
    ck_assert_int_eq(ds_event_last_seq(r), seq);
    MUST(fx_scan_finish(r, j.id, "one", NULL, err));
    FAILS(DS_ECONFLICT, "not running", fx_scan_finish(r, j.id, "one", NULL, err));
    finish(r);
}
END_TEST

START_TEST(bad_publications_change_nothing) {
    ds_registry *r = start("badpub");
    ds_blob b;
    MUST(ds_store_put_bytes(ds_registry_store(r), "m", 1, &b, err));
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    ds_job j = fx_claim(r, DS_JOB_TRAIN);
    int64_t seq = ds_event_last_seq(r);
    json_t *spec, *result;
    fx_training(r, &j, 1, &b, &b, &spec, &result);
    ds_publication p = {
        .job = j.id, .spec = spec, .result = result, .adapter = &b, .reference = &b};
    char ref[DS_HEX_SIZE + 16];
    json_object_set_new(result, "status", json_string("rejected"));
    FAILS(DS_EINVAL, "does not fit", ds_publish(r, &p, ref, err));
    json_object_set_new(result, "status", json_string("ok"));
    json_object_set_new(spec, "version", json_integer(7));
    FAILS(DS_ECONFLICT, "made version 7", ds_publish(r, &p, ref, err));
    json_object_set_new(spec, "version", json_integer(1));
    json_object_set_new(spec, "name", json_string("other"));
    FAILS(DS_ECONFLICT, "its spec about 'other'", ds_publish(r, &p, ref, err));
    json_object_set_new(spec, "name", json_string("d"));
    json_t *base = json_object_get(spec, "base");
    json_object_set_new(base, "sha256", json_string(NET_SHA));
    FAILS(DS_ECONFLICT, "another base", ds_publish(r, &p, ref, err));
    json_object_set_new(base, "sha256", json_string(BASE_SHA));
    ds_blob other = b;
    memcpy(other.sha256, NET_SHA, sizeof other.sha256);
    p.adapter = &other;
    FAILS(DS_EINTEGRITY, "the stored one is", ds_publish(r, &p, ref, err));
    p.adapter = &b;
    ck_assert_int_eq(ds_event_last_seq(r), seq);
    int64_t next = 0;
    MUST(ds_adapter_next_version(r, "d", &next, err));
    ck_assert_int_eq(next, 1);
    MUST(ds_publish(r, &p, ref, err));
    FAILS(DS_ECONFLICT, "not running", ds_publish(r, &p, ref, err));
    json_decref(spec);
    json_decref(result);
    finish(r);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, rejected_at_decoding);
    tcase_add_test(tc, bad_scans_change_nothing);
    tcase_add_test(tc, bad_publications_change_nothing);
}

int main(void) {
    fx_fast_tmp();
    return ds_test_main("registry_refused", cases);
}
