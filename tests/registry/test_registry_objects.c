/* tests/registry/test_registry_objects.c - every object that the registry tells, in full: a life of a registry
 * (tests/fixtures/registry_changes.h) is lived up to its middle, and each object must be what
 * tests/golden/registry_objects.txt says, times, digests and places apart.
 *
 * DS_TEST_WRITE=1 writes that file anew; read the difference before it is committed. */
#include "tests/fixtures/registry_changes.h"

#include "base/json.h"
#include "base/mem.h"
#include "registry/rows/bars.h"
#include "registry/rows/base_tasks.h"
#include "registry/jobs/cleanup.h"
#include "registry/rows/feature_nets.h"

#include <math.h>

#define GOLDEN "tests/golden/registry_objects.txt"

static ds_registry *r;
static ds_buf said;

/* What differs from run to run. */
static json_t *plain_string(const char *s) {
    size_t n = strlen(s);
    const char *dir = ds_registry_dir(r);
    if (n == 24 && s[4] == '-' && s[10] == 'T' && s[23] == 'Z')
        return json_string("TIME");
    if (n == 64 && strspn(s, "0123456789abcdef") == 64 && strcmp(s, BASE_SHA) && strcmp(s, NET_SHA))
        return json_string("DIGEST");
    if (!strncmp(s, dir, strlen(dir)))
        return json_string(strstr(s, "/blobs/sha256/") ? "BLOB" : "PLACE");
    return json_string(s);
}

static json_t *plain(const json_t *v, const char *of) {
    json_t *o, *e;
    const char *key;
    size_t i;
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        o = json_object();
        json_object_foreach((json_t *)(uintptr_t)v, key, e) {
            json_t *name = plain_string(key);
            const char *is = !strcmp(of, "blobs") && !strcmp(key, "bytes") ? "stored_bytes" : key;
            json_object_set_new(o, json_string_value(name), plain(e, is));
            json_decref(name);
        }
        return o;
    case JSON_ARRAY:
        o = json_array();
        json_array_foreach(v, i, e) {
            json_array_append_new(o, plain(e, of));
        }
        return o;
    case JSON_STRING: return plain_string(json_string_value(v));
    case JSON_INTEGER: /* as this version of zstd packs it; of the newest migration */
        return !strcmp(of, "stored_bytes") ? json_string("SIZE")
               : !strcmp(of, "schema")     ? json_string("NUMBER")
                                           : json_deep_copy(v);
    default: return json_deep_copy(v);
    }
}

static void tell(const char *what, json_t *doc) {
    json_t *o = plain(doc, "");
    char *text =
        json_dumps(o, JSON_SORT_KEYS | JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9));
    ds_buf_addf(&said, "%s %s\n", what, text);
    free(text);
    json_decref(o);
    json_decref(doc);
}

#define TELL(what, call)                                                                           \
    do {                                                                                           \
        json_t *doc = NULL, **out = &doc;                                                          \
        MUST(call);                                                                                \
        tell(what, doc);                                                                           \
    } while (0)

static void mark(void *seen, json_t *row) {
    ++*(int *)seen;
    json_object_set_new(row, "seen", json_integer(*(int *)seen));
}

/* A list as text is the tree as text, whatever `each` did to its rows. */
#define AS_TEXT(call)                                                                              \
    do {                                                                                           \
        for (int limit = 0; limit < 2; limit++) {                                                  \
            json_t *doc = NULL, **out = &doc, *item;                                               \
            size_t i;                                                                              \
            int seen = 0;                                                                          \
            ds_page page = {.limit = limit};                                                       \
            MUST(call);                                                                            \
            ck_assert_int_gt((int)json_array_size(json_object_get(doc, "items")), 0);              \
            json_array_foreach(json_object_get(doc, "items"), i, item)                             \
                json_object_set_new(item, "seen", json_integer((json_int_t)i + 1));                \
            char *want = json_dumps(doc, JSON_COMPACT);                                            \
            ds_rows rows = {.each = mark, .ctx = &seen};                                           \
            page.rows = &rows;                                                                     \
            out = NULL;                                                                            \
            MUST(call);                                                                            \
            ck_assert_str_eq(rows.text.data, want);                                                \
            ds_buf_release(&rows.text);                                                            \
            free(want);                                                                            \
            json_decref(doc);                                                                      \
        }                                                                                          \
    } while (0)

static void figures(void *list, const ds_adapter_figures *f) {
    json_array_append_new(list, json_pack("[s s s s s s f f f]", f->name, f->net, f->preprocess,
                                          f->self, f->role, f->bar, isnan(f->fd) ? -1 : f->fd,
                                          isnan(f->fd_bar) ? -1 : f->fd_bar,
                                          isnan(f->delta) ? -1 : f->delta));
}

static int newest(int published, json_t **out, ds_error *err) {
    *out = json_array();
    return ds_adapter_each_newest(r, 10, published, figures, *out, err);
}

static void add_root(void *list, int64_t id, const char *path, int watch) {
    json_array_append_new(list, json_pack("[I s i]", (json_int_t)id, path, watch));
}

static int roots(json_t **out, ds_error *err) {
    *out = json_array();
    return ds_dataset_each_root(r, add_root, *out, err);
}

static int shown_base(json_t **out, ds_error *err) {
    int rc = ds_base_get(r, 1, out, err);
    if (!rc)
        rc = ds_base_usage(r, *out, err);
    return rc ? rc : ds_base_task_show(r, *out, err);
}

static int count_of_failed(json_t **out, ds_error *err) {
    int64_t n;
    int rc = ds_jobs_failed_trainings(r, 5, out, &n, err);
    if (!rc)
        json_array_append_new(*out, json_integer(n));
    return rc;
}

static void tell_all(void) {
    char what[40];
    json_t *spec = fx_json("{\"dataset\":{\"tree_digest\":\"" NET_SHA "\"},\"feature_net\":{"
                           "\"sha256\":\"" NET_SHA "\"},\"evaluate\":{\"n\":64}}");
    ds_page all = {0};
    TELL("dataset", ds_dataset_get(r, "d", out, err));
    TELL("datasets", ds_dataset_list(r, all, 1, out, err));
    TELL("rejected", ds_dataset_rejected(r, "d", out, err));
    TELL("version 1", ds_dataset_version_get(r, 1, out, err));
    TELL("roots", roots(out, err));
    TELL("adapter 1", ds_adapter_get(r, "d@v1", out, err));
    TELL("adapter 2", ds_adapter_get(r, "d@v2", out, err));
    TELL("adapters", ds_adapter_list(r, all, NULL, out, err));
    TELL("newest", newest(0, out, err));
    TELL("newest published", newest(1, out, err));
    TELL("aliases", ds_alias_list(r, "d", out, err));
    TELL("aliases in pages", ds_alias_list_all(r, (ds_page){.limit = 1}, out, err));
    TELL("aliases, page 2",
         ds_alias_list_all(r, (ds_page){.limit = 1, .cursor = "d@latest"}, out, err));
    TELL("history", ds_alias_history(r, "d", "prod", out, err));
    for (int i = 1; i <= 7; i++) {
        snprintf(what, sizeof what, "job %d", i);
        TELL(what, ds_job_get(r, i, out, err));
        snprintf(what, sizeof what, "gate %d", i);
        TELL(what, ds_gate_of_job(r, i, out, err));
    }
    TELL("jobs", ds_job_list(r, (ds_page){.limit = 3, .cursor = "6"}, NULL, out, err));
    TELL("payload", ds_job_payload(r, 3, out, err));
    TELL("metrics", ds_job_metrics(r, 2, NULL, out, err));
    TELL("waiting", ds_jobs_waiting(r, out, err));
    TELL("failed", count_of_failed(out, err));
    TELL("evaluations", ds_evaluation_list(r, all, NULL, out, err));
    TELL("events", ds_events_list(r, 0, NULL, 1000, out, err));
    TELL("base", shown_base(out, err));
    TELL("bases", ds_base_list(r, all, out, err));
    TELL("task 0", ds_base_task_get(r, 1, out, err));
    TELL("net", ds_feature_net_get(r, "inception", out, err));
    TELL("nets", ds_feature_net_list(r, all, out, err));
    TELL("net of the base", ds_feature_net_of_base(r, 1, out, err));
    TELL("default net", ds_feature_net_default(r, out, err));
    TELL("old tasks", ds_old_tasks(r, 1, NULL, NULL, out, err));
    TELL("bars", ds_bars(r, "d", spec, out, err));
    TELL("counts", ds_registry_counts(r, out, err));
    TELL("facts", ds_cleanup_facts(r, out, err));
    AS_TEXT(ds_dataset_list(r, page, 1, out, err));
    AS_TEXT(ds_adapter_list(r, page, NULL, out, err));
    AS_TEXT(ds_job_list(r, page, NULL, out, err));
    AS_TEXT(ds_evaluation_list(r, page, NULL, out, err));
    json_decref(spec);
}

START_TEST(every_object_in_full) {
    r = fx_open(fx_dir("objects"));
    for (int i = 0; strcmp(changes[i].name, "delete"); i++) {
        MUST(changes[i].make(r, err));
        if (!strcmp(changes[i].name, "postpone")) { /* what is so only for a while */
            TELL("waiting", ds_jobs_waiting(r, out, err));
            TELL("postponed", ds_job_get(r, 2, out, err));
        }
        if (!strcmp(changes[i].name, "progress"))
            TELL("running", ds_job_get(r, 2, out, err));
        if (!strcmp(changes[i].name, "pause"))
            TELL("paused", ds_dataset_get(r, "d", out, err));
        if (!strcmp(changes[i].name, "add again"))
            TELL("asked", ds_dataset_get(r, "d", out, err));
    }
    tell_all();
    ds_test_golden(GOLDEN, said.data);
    ds_buf_release(&said);
    ds_registry_close(r);
}
END_TEST

static void cases(TCase *tc) { tcase_add_test(tc, every_object_in_full); }

int main(void) {
    fx_fast_tmp();
    return ds_test_main("registry_objects", cases);
}
