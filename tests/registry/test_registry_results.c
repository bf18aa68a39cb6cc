/* tests/registry/test_registry_results.c - results of scans and trainings with one thing wrong: each is
 * refused by name, and no row, event or number changes. */
#include "registry/core/db.h"
#include "tests/fixtures/registry_fixture.h"

/* `path` is "a.b.0" of members and indices; value is JSON, "-" takes the member away. */
typedef struct {
    const char *path, *value;
    int code;
    const char *says;
} change;

static json_t *step_into(json_t *o, const char *word) {
    return json_is_array(o) ? json_array_get(o, (size_t)strtol(word, NULL, 10))
                            : json_object_get(o, word);
}

static json_t *changed(const json_t *good, const change *c) {
    json_t *doc = json_deep_copy(good), *o = doc, *v = NULL;
    char word[64];
    const char *p = c->path;
    for (;;) {
        size_t n = strcspn(p, ".");
        snprintf(word, sizeof word, "%.*s", (int)n, p);
        if (!p[n])
            break;
        o = step_into(o, word);
        ck_assert_msg(o != NULL, "'%s' is not there", c->path);
        p += n + 1;
    }
    if (!strcmp(c->value, "-")) {
        ck_assert_int_eq(json_object_del(o, word), 0);
        return doc;
    }
    v = json_loads(c->value, JSON_DECODE_ANY, NULL);
    ck_assert_msg(v != NULL, "%s", c->value);
    if (json_is_array(o))
        json_array_set_new(o, (size_t)strtol(word, NULL, 10), v);
    else
        json_object_set_new(o, word, v);
    return doc;
}

static int64_t total(ds_registry *r) { return sqlite3_total_changes64(r->db); }

static const change scans[] = {
    {"tree_digest", "-", DS_EINVAL, "tree_digest"},
    {"tree_digest", "\"x\"", DS_EINVAL, "not a sha256"},
    {"tree_digest", "\"" NET_SHA "\"", DS_EINTEGRITY, "manifest has sha256"},
    {"images", "-", DS_EINVAL, "images"},
    {"images", "0", DS_EINVAL, "no images"},
    {"images", "\"3\"", DS_EINVAL, "'images' must be an integer"},
    {"bytes", "-", DS_EINVAL, "bytes"},
    {"bytes", "-1", DS_EINVAL, "no images"},
    {"classes", "-", DS_EINVAL, "'classes' is missing or not a list"},
    {"classes", "{}", DS_EINVAL, "'classes' is missing or not a list"},
    {"classes", "[]", DS_EINVAL, "no classes"},
    {"classes.0", "3", DS_EINVAL, "entry 0 of 'classes'"},
    {"classes.0.name", "7", DS_EINVAL, "entry 0 of 'classes'"},
    {"classes.0.images", "-1", DS_EINVAL, "entry 0 of 'classes'"},
    {"classes.0.images", "1.5", DS_EINVAL, "entry 0 of 'classes'"},
    {"rejected", "-", DS_EINVAL, "'rejected' is missing or not a list"},
    {"rejected", "5", DS_EINVAL, "'rejected' is missing or not a list"},
    {"rejected_count", "-1", DS_EINVAL, "no images"},
};

START_TEST(scans_with_one_thing_wrong) {
    ds_registry *r = fx_open(fx_dir("scans"));
    ds_blob b;
    fx_add(r, "d", "/a");
    ds_job j = fx_claim(r, DS_JOB_SCAN);
    MUST(ds_store_put_bytes(ds_registry_store(r), "m", 1, &b, err));
    json_t *good = fx_json("{\"tree_digest\":\"%s\",\"images\":3,\"bytes\":30,\"classes\":"
                           "[{\"name\":\"0\",\"images\":3},{\"name\":\"1\",\"images\":0}],"
                           "\"rejected\":[{\"path\":\"x\","
                           "\"reason\":\"y\"}],\"rejected_count\":1}",
                           b.sha256);
    int64_t before = total(r);
    for (size_t i = 0; i < sizeof scans / sizeof *scans; i++) {
        json_t *o = changed(good, &scans[i]);
        FAILS(scans[i].code, scans[i].says, ds_scan_finish(r, j.id, o, &b, NULL, err));
        json_decref(o);
        if (scans[i].code == DS_EINVAL)
            ck_assert_msg(total(r) == before, "%s %s", scans[i].path, scans[i].value);
        before = total(r);
    }
    int changed_now = 0;
    MUST(ds_scan_finish(r, j.id, good, &b, &changed_now, err));
    ck_assert_int_eq(changed_now, 1);
    json_decref(good);
    /* what may be long is with the version, not with the job */
    MUST(ds_job_get(r, j.id, &good, err));
    json_t *kept = json_object_get(good, "result");
    ck_assert(json_is_true(json_object_get(kept, "changed")));
    ck_assert(fx_int(kept, "images") == 3 && !json_object_get(kept, "classes"));
    ck_assert_ptr_null(json_object_get(kept, "rejected"));
    json_decref(good);
    ds_registry_close(r);
}
END_TEST

static const change trainings[] = {
    {"status", "-", DS_EINVAL, "status"},
    {"status", "\"rejected\"", DS_EINVAL, "does not fit"},
    {"status", "\"fine\"", DS_EINVAL, "does not fit"},
    {"adapter", "-", DS_EINVAL, "adapter"},
    {"adapter.sha256", "-", DS_EINVAL, "sha256"},
    {"adapter.sha256", "\"" NET_SHA "\"", DS_EINTEGRITY, "result names the adapter"},
    {"reference", "-", DS_EINVAL, "'reference' is missing"},
    {"reference.sha256", "\"" NET_SHA "\"", DS_EINTEGRITY, "reference statistics"},
    {"evaluations", "-", DS_EINVAL, "'evaluations' is missing"},
    {"evaluations", "{}", DS_EINVAL, "'evaluations' is missing"},
    {"evaluations.1", "4", DS_EINVAL, "'evaluations[1]' is malformed"},
    {"evaluations.0.subject", "4", DS_EINVAL, "'evaluations[0]' is malformed"},
    {"evaluations.2.metric", "-", DS_EINVAL, "'evaluations[2]' is malformed"},
    {"probe.sha256", "\"xyz\"", DS_EINVAL, "'probe.sha256'"},
    {"steps", "81", DS_EINVAL, "'steps' is 81, the training was of 80"},
    {"steps", "0", DS_EINVAL, "'steps' is 0, the training was of 80"},
    {"gate", "-", DS_EINVAL, "'gate.verdict'"},
    {"gate.verdict", "\"maybe\"", DS_EINVAL, "'gate.verdict'"},
    {"gate.verdict", "\"refused\"", DS_EINVAL, "does not fit"},
    {"gate.tasks", "-", DS_EINVAL, "'gate.tasks' is missing"},
    {"gate.tasks.0", "[]", DS_EINVAL, "'gate.tasks[0]' is malformed"},
    {"gate.tasks.0.name", "4", DS_EINVAL, "'gate.tasks[0]' is malformed"},
    {"gate.tasks.0.ref", "-", DS_EINVAL, "'gate.tasks[0]' is malformed"},
    {"gate.tasks.0.level", "3", DS_EINVAL, "'gate.tasks[0]' is malformed"},
    {"gate.tasks.0.level", "-1", DS_EINVAL, "'gate.tasks[0]' is malformed"},
    {"gate.tasks.0.level", "0", DS_EINVAL, "'gate.tasks[0]' is malformed"},
    {"gate.tasks.0.verdict", "\"\"", DS_EINVAL, "'gate.tasks[0]' is malformed"},
    {"gate.tasks.0.verdict", "\"refused\"", DS_EINVAL, "although a task was refused"},
    {"rejected", "{}", DS_EINVAL, "'rejected'"},
};

static const change specs[] = {
    {"name", "-", DS_EINVAL, "name"},
    {"name", "\"a b\"", DS_EINVAL, "a b"},
    {"name", "\"other\"", DS_ECONFLICT, "its spec about 'other'"},
    {"version", "-", DS_EINVAL, "version"},
    {"version", "2", DS_ECONFLICT, "the job made version 2"},
    {"method", "-", DS_EINVAL, "method"},
    {"method.name", "-", DS_EINVAL, "name"},
    {"train", "-", DS_EINVAL, "train"},
    {"train.steps", "\"x\"", DS_EINVAL, "steps"},
    {"train.seed", "-", DS_EINVAL, "seed"},
    {"base.sha256", "\"" NET_SHA "\"", DS_ECONFLICT, "another base"},
    {"dataset.tree_digest", "\"" NET_SHA "\"", DS_ECONFLICT, "another content"},
    {"old_tasks", "[{\"name\":\"x\",\"ref\":\"x@v1\"}]", DS_EINVAL, "is judged 0 times"},
};

START_TEST(trainings_with_one_thing_wrong) {
    ds_registry *r = fx_open(fx_dir("trainings"));
    ds_blob a, f;
    json_t *spec, *result;
    char ref[DS_HEX_SIZE + 16];
    enum { RESULTS = sizeof trainings / sizeof *trainings, SPECS = sizeof specs / sizeof *specs };
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    ds_job j = fx_claim(r, DS_JOB_TRAIN);
    MUST(ds_store_put_bytes(ds_registry_store(r), "adapter", 7, &a, err));
    MUST(ds_store_put_bytes(ds_registry_store(r), "reference", 9, &f, err));
    fx_training(r, &j, 1, &a, &f, &spec, &result);
    int64_t seq = ds_event_last_seq(r), next;
    for (int i = 0; i < RESULTS + SPECS; i++) {
        int in_spec = i >= RESULTS;
        const change *c = in_spec ? &specs[i - RESULTS] : &trainings[i];
        json_t *o = changed(in_spec ? spec : result, c);
        ds_publication p = {.job = j.id,
                            .spec = in_spec ? o : spec,
                            .result = in_spec ? result : o,
                            .adapter = &a,
                            .reference = &f};
        FAILS(c->code, c->says, ds_publish(r, &p, ref, err));
        json_decref(o);
    }
    ck_assert_int_eq(ds_event_last_seq(r), seq);
    MUST(ds_adapter_next_version(r, "d", &next, err));
    ck_assert_int_eq(next, 1);
    ds_publication p = {
        .job = j.id, .spec = spec, .result = result, .adapter = &a, .reference = &f};
    ds_job scan_job;
    p.job = 1; /* of the scan */
    FAILS(DS_ECONFLICT, "not running", ds_publish(r, &p, ref, err));
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    scan_job = fx_claim(r, DS_JOB_SCAN);
    p.job = scan_job.id;
    FAILS(DS_EINVAL, "does not train", ds_publish(r, &p, ref, err));
    p.job = j.id;
    json_object_set_new(json_object_get(result, "gate"), "self",
                        fx_json("{\"verdict\":\"passed\",\"fd\":12.25,\"n\":64,\"bars\":[{\"role\":"
                                "\"base\",\"ref\":\"base:emoji-dit\",\"verdict\":\"none\"}]}"));
    MUST(ds_publish(r, &p, ref, err));
    ck_assert_str_eq(ref, "d@v1");
    json_t *list = NULL;
    MUST(ds_events_list(r, 0, "gate.passed", 10, &list, err));
    json_t *said = json_object_get(json_array_get(list, 0), "payload");
    ck_assert_str_eq(fx_string(said, "self"), "passed");
    ck_assert(fx_int(said, "tasks") == 1 && fx_int(said, "job") == j.id);
    json_decref(list);
    json_decref(spec);
    json_decref(result);
    ds_registry_close(r);
}
END_TEST

START_TEST(aliases_and_references) {
    ds_registry *r = fx_open(fx_dir("aliases"));
    json_t *o = NULL;
    ds_adapter_ref a;
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    fx_train(r, 1, "one", NULL);
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    fx_scan(r, "two");
    fx_train(r, 0, "two", NULL);
    FAILS(DS_ENOTFOUND, "v9", ds_alias_set(r, "d", "prod", 9, -1, NULL, &o, err));
    FAILS(DS_ENOTFOUND, "e", ds_alias_set(r, "e", "prod", 1, -1, NULL, &o, err));
    MUST(ds_alias_set(r, "d", "prod", 1, 0, "why", &o, err));
    ck_assert_int_eq(fx_int(o, "generation"), 1);
    ck_assert_int_eq((int)strlen(fx_string(o, "updated_at")), 24);
    json_decref(o);
    FAILS(DS_ECONFLICT, "generation", ds_alias_set(r, "d", "prod", 1, 0, NULL, &o, err));
    FAILS(DS_ECONFLICT, "generation", ds_alias_set(r, "d", "prod", 1, 2, NULL, &o, err));
    MUST(ds_alias_set(r, "d", "prod", 1, 1, NULL, &o, err));
    ck_assert_int_eq(fx_int(o, "generation"), 2);
    json_decref(o);
    MUST(ds_alias_list(r, "d", &o, err));
    ck_assert_int_eq((int)json_array_size(o), 2);
    json_decref(o);
    static const char *const good[] = {"d", "d@v1", "D@v1", "d@latest", "d@prod"};
    for (int i = 0; i < 5; i++) {
        MUST(ds_adapter_resolve(r, good[i], &a, err));
        ck_assert_msg(a.version == 1 && a.published, "%s", good[i]);
        ck_assert_str_eq(a.ref, "d@v1");
    }
    MUST(ds_adapter_resolve(r, "d@v2", &a, err));
    ck_assert(a.version == 2 && !a.published);
    static const char *const bad[] = {"d@v3", "d@v1x", "d@none", "e", "d@v0", "d@v99999999999"};
    for (int i = 0; i < 6; i++) {
        ds_error e = {0};
        ck_assert_msg(ds_adapter_resolve(r, bad[i], &a, &e) != 0, "%s", bad[i]);
    }
    ds_registry_close(r);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, scans_with_one_thing_wrong);
    tcase_add_test(tc, trainings_with_one_thing_wrong);
    tcase_add_test(tc, aliases_and_references);
}

int main(void) {
    fx_fast_tmp();
    return ds_test_main("registry_results", cases);
}
