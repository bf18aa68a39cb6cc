/* tests/registry/test_registry_bars.c - what a new version is measured against, what the registry keeps of
 * it and refuses to believe, the wish to publish a worse one, and task 0 of a base. */
#include "tests/fixtures/registry_train.h"
#include "base/json.h"
#include "registry/rows/bars.h"
#include "registry/rows/base_tasks.h"
#include "tests/fixtures/registry_fixture.h"
#include <math.h>

static void add_worse(ds_registry *r, const char *name, int publish_worse) {
    ds_dataset_new d = {.name = name, .path = "/a", .watch = -1, .publish_worse = publish_worse};
    int64_t id, seq;
    int created;
    MUST(ds_dataset_add(r, &d, &id, &created, &seq, err));
}

/* "latest d@v1, best d@v3" */
static const char *bars_text(const json_t *bars) {
    static char out[400];
    size_t i, n = 0;
    json_t *b;
    out[0] = 0;
    json_array_foreach((json_t *)(uintptr_t)bars, i, b)
        n += (size_t)snprintf(out + n, sizeof out - n, "%s%s %s", n ? ", " : "",
                              fx_string(b, "role"), fx_string(b, "ref"));
    return out;
}

/* ---- a worker that knows the distance beforehand ---- */

typedef struct {
    double fd;
    int64_t n;       /* samples; 0 = 64 */
    const char *net; /* NULL = the usual one */
    double base;     /* FD of the base; 0 = 90.5 */
    int task_refused, no_self;
    double classes; /* share that shows its class; 0: not measured */
} outcome;

/* The margin is 10 %; a bar without a distance is none. */
static json_t *judge(const json_t *spec, double fd, double base, int *bad) {
    json_t *list = json_array(), *b;
    size_t i;
    *bad = 0;
    json_array_foreach(json_object_get(spec, "bars"), i, b) {
        double bar = json_number_value(json_object_get(b, "fd"));
        int none = !json_is_number(json_object_get(b, "fd")), refused = !none && fd > 1.1 * bar;
        *bad += refused;
        json_array_append_new(
            list, json_pack("{s:s,s:s,s:s,s:f,s:f,s:f,s:f,s:f,s:f,s:i,s:i,s:i,s:i,s:s}", "role",
                            fx_string(b, "role"), "ref", fx_string(b, "ref"), "verdict",
                            none      ? "none"
                            : refused ? "refused"
                                      : "passed",
                            "fd_bar", bar, "fd_now", fd, "delta", none ? 0 : fd / bar - 1,
                            "std_error", 0.25, "z", 9.5, "margin", 0.1, "n", 64, "classes", 1,
                            "classes_new", 1, "classes_bar", 2, "reason", "as told"));
    }
    int worse = fd > 1.1 * base;
    *bad += worse;
    json_array_append_new(list, json_pack("{s:s,s:s,s:s,s:f,s:f,s:f}", "role", "base", "ref",
                                          "base:emoji-dit", "verdict", worse ? "refused" : "passed",
                                          "fd_bar", base, "fd_now", fd, "delta", fd / base - 1));
    return list;
}

static void measure_classes(json_t *result, double share) {
    static const char *const subjects[] = {"adapter/0", "real", "adapter", "chance"};
    const double values[] = {0.5, 0.9375, share, 0.125};
    for (int i = 0; i < 4; i++)
        json_array_append_new(json_object_get(result, "evaluations"),
                              json_pack("{s:s,s:s,s:f}", "subject", subjects[i], "metric",
                                        "class_accuracy", "value", values[i]));
}

static void spec_and_result(ds_registry *r, const ds_job *j, const outcome *o, const ds_blob *a,
                            const ds_blob *f, json_t **spec, json_t **result) {
    json_t *v = NULL, *bars = NULL;
    int bad;
    fx_training(r, j, !o->task_refused, a, f, spec, result);
    MUST(ds_dataset_version_get(r, j->dataset_version_id, &v, err));
    json_object_set(*spec, "publish_worse", json_object_get(v, "publish_worse"));
    json_object_set_new(*spec, "base_task", json_null());
    if (o->n)
        json_object_set_new(json_object_get(*spec, "evaluate"), "n", json_integer(o->n));
    if (o->net)
        json_object_set_new(json_object_get(*spec, "feature_net"), "sha256", json_string(o->net));
    json_decref(v);
    MUST(ds_bars(r, j->name, *spec, &bars, err));
    json_object_set_new(*spec, "bars", bars);
    json_object_set_new(json_array_get(json_object_get(*result, "evaluations"), 1), "value",
                        json_real(o->fd));
    if (o->classes > 0)
        measure_classes(*result, o->classes);
    json_t *judged = judge(*spec, o->fd, o->base > 0 ? o->base : 90.5, &bad),
           *gate = json_object_get(*result, "gate");
    if (o->classes > 0)
        json_object_update_new(json_array_get(judged, 0),
                               json_pack("{s:f,s:f,s:f,s:f,s:f}", "class_bar", 0.875, "class_now",
                                         o->classes, "class_error", 0.03125, "class_z", -4.5,
                                         "class_margin", 0.0625));
    int forced = bad && ds_json_bool(*spec, "publish_worse", 0), refused = bad && !forced;
    json_t *self = json_pack("{s:s,s:f,s:i,s:o}", "verdict",
                             refused  ? "refused"
                             : forced ? "forced"
                                      : "passed",
                             "fd", o->fd, "n", 64, "bars", judged);
    if (o->no_self)
        json_object_del(*spec, "bars");
    else
        json_object_set(gate, "self", self);
    json_decref(self);
    if (refused && !o->no_self) {
        json_object_set_new(gate, "verdict", json_string("refused"));
        json_object_set_new(gate, "reason", json_string("worse: FD 12.00 -> 20.00"));
        json_object_set_new(*result, "status", json_string("rejected"));
    }
}

static void publish(ds_registry *r, const ds_job *j, outcome o, char ref[DS_HEX_SIZE + 16]) {
    ds_blob a, f;
    char text[64];
    json_t *spec, *result;
    snprintf(text, sizeof text, "adapter of job %lld", (long long)j->id);
    MUST(ds_store_put_bytes(ds_registry_store(r), text, strlen(text), &a, err));
    MUST(ds_store_put_bytes(ds_registry_store(r), "reference", 9, &f, err));
    spec_and_result(r, j, &o, &a, &f, &spec, &result);
    ds_publication p = {
        .job = j->id, .spec = spec, .result = result, .adapter = &a, .reference = &f};
    MUST(ds_publish(r, &p, ref, err));
    json_decref(spec);
    json_decref(result);
}

static void train(ds_registry *r, outcome o, const char *expect) {
    char ref[DS_HEX_SIZE + 16];
    ds_job j = fx_claim(r, DS_JOB_TRAIN);
    publish(r, &j, o, ref);
    ck_assert_str_eq(ref, expect);
}

/* Train the same content again: another seed. */
static void again(ds_registry *r, int seed, int publish_worse) {
    json_t *options = fx_json("{\"seed\":%d}", seed);
    ds_dataset_new d = {
        .name = "d", .path = "/a", .watch = -1, .options = options, .publish_worse = publish_worse};
    int64_t id, seq;
    int created;
    MUST(ds_dataset_add(r, &d, &id, &created, &seq, err));
    json_decref(options);
}

static int wish(ds_registry *r, const char *name) {
    json_t *o = NULL;
    MUST(ds_dataset_get(r, name, &o, err));
    int yes = json_is_true(json_object_get(o, "publish_worse"));
    ck_assert(json_object_get(json_object_get(o, "options"), "publish_worse") == NULL);
    json_decref(o);
    return yes;
}

static void expect_latest(ds_registry *r, const char *ref) {
    ds_adapter_ref a;
    MUST(ds_adapter_resolve(r, "d", &a, err));
    ck_assert_str_eq(a.ref, ref);
}

static void expect_status(ds_registry *r, const char *ref, int published) {
    ds_adapter_ref a;
    MUST(ds_adapter_resolve(r, ref, &a, err));
    ck_assert_int_eq(a.published, published);
}

/* The bars that the next training of "d" would have, measured like this. */
static const char *bars_next(ds_registry *r, const char *tree, int64_t n, const char *net) {
    json_t *bars = NULL, *spec = fx_json("{\"dataset\":{\"tree_digest\":\"%s\"},\"feature_net\":"
                                         "{\"sha256\":\"%s\"},\"evaluate\":{\"n\":%lld}}",
                                         tree, net, (long long)n);
    MUST(ds_bars(r, "d", spec, &bars, err));
    const char *text = bars_text(bars);
    json_decref(bars);
    json_decref(spec);
    return text;
}

static const char *tree_of(ds_registry *r) {
    static char tree[DS_HEX_SIZE];
    json_t *o = NULL;
    MUST(ds_dataset_get(r, "d", &o, err));
    snprintf(tree, sizeof tree, "%s", fx_string(json_object_get(o, "version"), "tree_digest"));
    json_decref(o);
    return tree;
}

START_TEST(latest_and_best) {
    ds_registry *r = fx_open(fx_dir("bars"));
    json_t *bars = NULL, *b;
    add_worse(r, "d", 0);
    fx_scan(r, "one");
    const char *one = tree_of(r);
    char first[DS_HEX_SIZE];
    snprintf(first, sizeof first, "%s", one);
    ck_assert_str_eq(bars_next(r, first, 64, NET_SHA), "");
    train(r, (outcome){.fd = 12}, "d@v1");
    ck_assert_str_eq(bars_next(r, first, 64, NET_SHA), "latest d@v1");
    again(r, 2, 0);
    fx_scan(r, "one");
    train(r, (outcome){.fd = 20}, "d@v2"); /* rejected: no bar */
    ck_assert_str_eq(bars_next(r, first, 64, NET_SHA), "latest d@v1");
    again(r, 3, 1);
    fx_scan(r, "one");
    train(r, (outcome){.fd = 30}, "d@v3"); /* by force: @latest, and v1 stays the best */
    ck_assert_str_eq(bars_next(r, first, 64, NET_SHA), "latest d@v3, best d@v1");
    again(r, 4, 0);
    fx_scan(r, "one"); /* better than the forced one, not than the best one */
    train(r, (outcome){.fd = 25}, "d@v4");
    expect_status(r, "d@v4", 0);
    MUST(ds_alias_set(r, "d", "latest", 1, -1, "", NULL, err));
    ck_assert_str_eq(bars_next(r, first, 64, NET_SHA), "latest d@v1");
    FAILS(DS_EREFUSED, "rejected by the gate",
          ds_alias_set(r, "d", "latest", 4, -1, "", NULL, err));
    /* other N: nothing was measured so, and the best on @latest's pictures is a bar */
    MUST(ds_alias_set(r, "d", "latest", 3, -1, "", NULL, err));
    ck_assert_str_eq(bars_next(r, first, 128, NET_SHA), "latest d@v3, best d@v1");
    again(r, 5, 1);
    fx_scan(r, "one");
    train(r, (outcome){.fd = 40, .n = 128}, "d@v5");
    /* v1 was measured so too, as a bar of v5 */
    ck_assert_str_eq(bars_next(r, first, 128, NET_SHA), "latest d@v5, best d@v1");
    ck_assert_str_eq(bars_next(r, first, 64, NET_SHA), "latest d@v5, best d@v1");
    /* other pictures: the best of the old ones stays a bar, whatever is forced on the new ones */
    again(r, 6, 1);
    fx_scan(r, "two");
    ck_assert_str_eq(bars_next(r, tree_of(r), 64, NET_SHA), "latest d@v5, best d@v1");
    train(r, (outcome){.fd = 50}, "d@v6");
    ck_assert_str_eq(bars_next(r, tree_of(r), 64, NET_SHA), "latest d@v6, best d@v1");
    /* another network: what its distances say is not known yet, those of @latest's do */
    ck_assert_str_eq(bars_next(r, tree_of(r), 64, VAE_SHA), "latest d@v6, best d@v1");
    again(r, 7, 1);
    fx_scan(r, "two");
    train(r, (outcome){.fd = 0.5, .net = VAE_SHA}, "d@v7");
    ck_assert_str_eq(bars_next(r, tree_of(r), 64, NET_SHA), "latest d@v7, best d@v1");
    json_t *spec = fx_json("{\"dataset\":{\"tree_digest\":\"%s\"},\"feature_net\":{\"sha256\":"
                           "\"" NET_SHA "\"},\"evaluate\":{\"n\":64}}",
                           first);
    MUST(ds_bars(r, "d", spec, &bars, err));
    ck_assert_str_eq(bars_text(bars), "latest d@v7, best d@v1");
    b = json_array_get(bars, 1);
    ck_assert_double_eq(json_number_value(json_object_get(b, "fd")), 12);
    ck_assert_str_eq(fx_string(b, "tree_digest"), first);
    ck_assert_str_eq(fx_string(b, "feature_net_sha256"), NET_SHA);
    ck_assert_int_eq(fx_int(json_object_get(b, "sample"), "steps"), 20);
    ck_assert(ds_fs_exists(fx_string(json_object_get(b, "adapter"), "path")));
    ck_assert_str_eq(fx_string(json_object_get(b, "base"), "sha256"), BASE_SHA);
    ck_assert(json_is_null(json_object_get(json_object_get(b, "base"), "path"))); /* no file */
    json_decref(bars);
    json_decref(spec);
    finish(r);
}
END_TEST

START_TEST(base_of_a_bar) {
    ds_registry *r = fx_open(fx_dir("barbase"));
    char file[PATH_MAX];
    int64_t id;
    json_t *bars = NULL, *spec = fx_json("{}"), *base;
    ds_fs_join(file, sizeof file, ds_registry_dir(r), "base.safetensors");
    MUST(ds_fs_write(file, "x", 1, err));
    MUST(ds_base_put(r, "emoji-dit", file, BASE_SHA, NULL, 1, &id, err));
    add_worse(r, "d", 0);
    fx_scan(r, "one");
    train(r, (outcome){.fd = 12}, "d@v1");
    for (int k = 0; k < 3; k++) {
        MUST(ds_bars(r, "d", spec, &bars, err));
        base = json_object_get(json_array_get(bars, 0), "base");
        if (k == 0)
            ck_assert_str_eq(fx_string(base, "path"), file);
        else
            ck_assert(json_is_null(json_object_get(base, "path")));
        ck_assert(json_is_null(json_object_get(base, "vae")));
        json_decref(bars);
        if (k == 0)
            ck_assert_int_eq(fx_foreign(r, "UPDATE bases SET removed_at = 1"), SQLITE_OK);
        else {
            ck_assert_int_eq(fx_foreign(r, "UPDATE bases SET removed_at = NULL"), SQLITE_OK);
            MUST(ds_fs_remove(file, err));
        }
    }
    char text[PATH_MAX + 200]; /* its VAE, while the file is there */
    snprintf(text, sizeof text, "UPDATE bases SET vae_path = '%s', vae_sha256 = '" VAE_SHA "'",
             file);
    ck_assert_int_eq(fx_foreign(r, text), SQLITE_OK);
    for (int there = 1; there >= 0; there--) {
        MUST(there ? ds_fs_write(file, "x", 1, err) : ds_fs_remove(file, err));
        MUST(ds_bars(r, "d", spec, &bars, err));
        base = json_object_get(json_object_get(json_array_get(bars, 0), "base"), "vae");
        ck_assert_int_eq(json_is_object(base), there);
        if (there) {
            ck_assert_str_eq(fx_string(base, "path"), file);
            ck_assert_str_eq(fx_string(base, "sha256"), VAE_SHA);
        }
        json_decref(bars);
    }
    json_decref(spec);
    finish(r);
}
END_TEST

/* The newest event of a type. */
static json_t *last_event(ds_registry *r, const char *type) {
    json_t *list = NULL;
    MUST(ds_events_list(r, 0, type, 1000, &list, err));
    json_t *o = json_incref(json_array_get(list, json_array_size(list) - 1));
    json_decref(list);
    ck_assert_msg(o != NULL, "no event %s", type);
    return o;
}

START_TEST(a_worse_version_is_kept_and_not_latest) {
    ds_registry *r = fx_open(fx_dir("worse"));
    json_t *o = NULL, *self, *bar;
    add_worse(r, "d", 0);
    fx_scan(r, "one");
    train(r, (outcome){.fd = 12}, "d@v1");
    again(r, 2, 0);
    fx_scan(r, "one");
    train(r, (outcome){.fd = 20, .base = 5}, "d@v2"); /* than the base too, and by more */
    expect_latest(r, "d@v1");
    expect_status(r, "d@v2", 0);
    ck_assert_int_eq(made(r), 0); /* a verdict is an answer */
    MUST(ds_adapter_get(r, "d@v2", &o, err));
    self = json_object_get(json_object_get(o, "gate"), "self");
    ck_assert_str_eq(fx_string(self, "verdict"), "refused");
    ck_assert_double_eq(json_number_value(json_object_get(self, "fd")), 20);
    bar = json_array_get(json_object_get(self, "bars"), 0);
    ck_assert_str_eq(fx_string(bar, "ref"), "d@v1");
    ck_assert_str_eq(fx_string(bar, "verdict"), "refused");
    ck_assert_double_eq(json_number_value(json_object_get(bar, "fd_bar")), 12);
    ck_assert_double_eq(json_number_value(json_object_get(bar, "fd_now")), 20);
    ck_assert_double_eq(json_number_value(json_object_get(bar, "z")), 9.5);
    ck_assert_int_eq(fx_int(bar, "classes_bar"), 2);
    ck_assert(json_is_null(json_object_get(bar, "kid_bar")));
    ck_assert_str_eq(fx_string(json_array_get(json_object_get(self, "bars"), 1), "role"), "base");
    static const char *const left_out[] = {"bars", "base_task", "publish_worse", "old_tasks"};
    for (int i = 0; i < 4; i++)
        ck_assert(json_object_get(json_object_get(o, "metadata"), left_out[i]) == NULL);
    ck_assert_str_eq(fx_string(json_object_get(o, "bar"), "ref"), "d@v1");
    json_decref(o);
    MUST(ds_adapter_list(r, (ds_page){0}, NULL, &o, err));
    json_t *row = json_array_get(json_object_get(o, "items"), 0);
    ck_assert_str_eq(fx_string(row, "self"), "refused");
    ck_assert_str_eq(fx_string(json_object_get(row, "bar"), "ref"), "d@v1");
    json_t *older = json_array_get(json_object_get(o, "items"), 1);
    ck_assert_str_eq(fx_string(older, "self"), "passed");
    ck_assert_str_eq(fx_string(json_object_get(older, "bar"), "ref"), "base:emoji-dit");
    json_decref(o);
    o = last_event(r, "adapter.rejected");
    json_t *p = json_object_get(o, "payload");
    ck_assert_str_eq(fx_string(json_object_get(p, "bar"), "ref"), "d@v1");
    ck_assert_double_eq(json_number_value(json_object_get(json_object_get(p, "bar"), "fd_now")),
                        20);
    ck_assert(json_object_get(p, "forced") == NULL);
    json_decref(o);
    /* rows stay as they are */
    ck_assert_int_eq(fx_foreign(r, "UPDATE gate_bars SET verdict = 'passed'"), SQLITE_CONSTRAINT);
    ck_assert_int_eq(fx_foreign(r, "UPDATE gate_self SET verdict = 'passed'"), SQLITE_CONSTRAINT);
    ck_assert_int_eq(fx_foreign(r, "DELETE FROM gate_bars"), SQLITE_CONSTRAINT);
    ck_assert_int_eq(fx_foreign(r, "INSERT OR REPLACE INTO gate_self(gate_id, verdict) VALUES"
                                   " (1, 'forced')"),
                     SQLITE_CONSTRAINT);
    finish(r);
}
END_TEST

static void expect_number(const json_t *o, const char *key, double want) {
    ck_assert_msg(json_is_real(json_object_get(o, key)) &&
                      json_real_value(json_object_get(o, key)) == want,
                  "%s", key);
}

/* Of the version, of what it was compared with, and of the event; null where nothing was measured. */
START_TEST(classes_are_kept) {
    static const char *const of_bars[] = {"class_bar", "class_now", "class_error", "class_z",
                                          "class_margin"};
    const double numbers[] = {0.875, 0.25, 0.03125, -4.5, 0.0625};
    ds_registry *r = fx_open(fx_dir("classes"));
    json_t *o = NULL, *bar, *page = NULL;
    add_worse(r, "d", 0);
    fx_scan(r, "one");
    train(r, (outcome){.fd = 12}, "d@v1");
    MUST(ds_adapter_get(r, "d@v1", &o, err));
    ck_assert(json_is_null(json_object_get(o, "class_accuracy")) &&
              json_is_null(json_object_get(o, "class_real")) &&
              json_is_null(json_object_get(o, "class_chance")));
    ck_assert(json_is_null(json_object_get(json_object_get(o, "bar"), "class_now")));
    json_decref(o);
    again(r, 2, 0);
    fx_scan(r, "one");
    train(r, (outcome){.fd = 11, .classes = 0.25}, "d@v2");
    MUST(ds_adapter_get(r, "d@v2", &o, err));
    expect_number(o, "class_accuracy", 0.25);
    expect_number(o, "class_real", 0.9375);
    expect_number(o, "class_chance", 0.125);
    expect_number(json_object_get(o, "bar"), "class_bar", 0.875);
    expect_number(json_object_get(o, "bar"), "class_now", 0.25);
    bar = json_object_get(json_object_get(json_object_get(o, "gate"), "self"), "bars");
    for (int i = 0; i < 5; i++) {
        expect_number(json_array_get(bar, 0), of_bars[i], numbers[i]);
        ck_assert(json_is_null(json_object_get(json_array_get(bar, 1), of_bars[i])));
    }
    json_decref(o);
    o = last_event(r, "adapter.published");
    expect_number(json_object_get(o, "payload"), "class_accuracy", 0.25);
    json_decref(o);
    ds_evaluation_filter f = {.metric = "class_accuracy"};
    MUST(ds_evaluation_metric_check(r, "class_accuracy", err));
    MUST(ds_evaluation_list(r, (ds_page){.limit = 10}, &f, &page, err));
    ck_assert_uint_eq(json_array_size(json_object_get(page, "items")), 4);
    json_decref(page);
    ds_registry_close(r);
}
END_TEST

START_TEST(a_force_counts_once) {
    ds_registry *r = fx_open(fx_dir("force"));
    json_t *o = NULL;
    add_worse(r, "d", 0);
    fx_scan(r, "one");
    train(r, (outcome){.fd = 12}, "d@v1");
    again(r, 2, 0);
    fx_scan(r, "one");
    train(r, (outcome){.fd = 20}, "d@v2");
    ck_assert_int_eq(made(r), 0);
    /* nothing changed but the wish: the same content is trained again, published, and that's it */
    add_worse(r, "d", 1);
    ck_assert_int_eq(wish(r, "d"), 1);
    fx_scan(r, "one");
    char dir[PATH_MAX];
    snprintf(dir, sizeof dir, "%s", ds_registry_dir(r));
    ds_registry_close(r); /* survives a restart */
    MUST(ds_registry_open(dir, &r, err));
    ck_assert_int_eq(wish(r, "d"), 1);
    ck_assert_int_eq(made(r), 1);
    train(r, (outcome){.fd = 20}, "d@v3");
    expect_latest(r, "d@v3");
    ck_assert_int_eq(wish(r, "d"), 0);
    ck_assert_int_eq(made(r), 0);
    o = last_event(r, "adapter.published");
    json_t *p = json_object_get(o, "payload");
    ck_assert(json_is_true(json_object_get(p, "forced")));
    ck_assert_str_eq(fx_string(json_object_get(p, "bar"), "ref"), "d@v1");
    ck_assert_double_eq(json_number_value(json_object_get(json_object_get(p, "bar"), "fd_bar")),
                        12);
    json_decref(o);
    MUST(ds_adapter_get(r, "d@v3", &o, err));
    ck_assert_str_eq(fx_string(o, "self"), "forced");
    ck_assert_str_eq(fx_string(json_object_get(o, "gate"), "verdict"), "passed");
    json_decref(o);
    /* the next one is judged again, by the best too */
    again(r, 3, 0);
    fx_scan(r, "one");
    train(r, (outcome){.fd = 20}, "d@v4");
    expect_status(r, "d@v4", 0);
    expect_latest(r, "d@v3");
    finish(r);
}
END_TEST

START_TEST(nothing_to_force) {
    ds_registry *r = fx_open(fx_dir("nothing"));
    add_worse(r, "d", 0);
    fx_scan(r, "one");
    train(r, (outcome){.fd = 12}, "d@v1");
    add_worse(r, "d", 1); /* published already */
    ck_assert_int_eq(wish(r, "d"), 1);
    fx_scan(r, "one");
    ck_assert_int_eq(made(r), 0);
    ck_assert_int_eq(wish(r, "d"), 0);
    json_t *o = last_event(r, "dataset.publish_worse");
    ck_assert_str_eq(fx_string(json_object_get(o, "payload"), "state"), "nothing to force");
    json_decref(o);
    /* an old task refused it: a force does not help, and no training is made for it */
    again(r, 2, 0);
    fx_scan(r, "one");
    train(r, (outcome){.fd = 20, .task_refused = 1}, "d@v2");
    add_worse(r, "d", 1);
    fx_scan(r, "one");
    ck_assert_int_eq(made(r), 0);
    ck_assert_int_eq(wish(r, "d"), 0);
    /* used by a version that an old task refuses: used up all the same */
    again(r, 3, 1);
    fx_scan(r, "one");
    train(r, (outcome){.fd = 20, .task_refused = 1}, "d@v3");
    expect_status(r, "d@v3", 0);
    ck_assert_int_eq(wish(r, "d"), 0);
    ck_assert_int_eq(made(r), 0);
    /* cancelled: the training that comes with the next pictures was not meant */
    again(r, 5, 1);
    fx_scan(r, "one");
    ck_assert_int_eq(made(r), 1);
    ck_assert_int_eq(wish(r, "d"), 1);
    ds_job j = fx_claim(r, DS_JOB_TRAIN);
    int running;
    MUST(ds_job_cancel(r, j.id, &running, err));
    MUST(ds_job_cancelled(r, j.id, 130, -1, err));
    ck_assert_int_eq(made(r), 0);
    ck_assert_int_eq(wish(r, "d"), 0);
    /* and by one that needed no force */
    again(r, 4, 1);
    fx_scan(r, "one");
    train(r, (outcome){.fd = 11}, "d@v4");
    ck_assert_int_eq(wish(r, "d"), 0);
    json_decref((o = last_event(r, "adapter.published")));
    ck_assert(json_object_get(json_object_get(o, "payload"), "forced") == NULL);
    finish(r);
}
END_TEST

START_TEST(asked_while_it_trains) {
    ds_registry *r = fx_open(fx_dir("meanwhile"));
    ds_blob a, f;
    json_t *spec, *result;
    char ref[DS_HEX_SIZE + 16];
    add_worse(r, "d", 0);
    fx_scan(r, "one");
    train(r, (outcome){.fd = 12}, "d@v1");
    again(r, 2, 0);
    fx_scan(r, "one");
    ds_job j = fx_claim(r, DS_JOB_TRAIN);
    MUST(ds_store_put_bytes(ds_registry_store(r), "adapter", 7, &a, err));
    MUST(ds_store_put_bytes(ds_registry_store(r), "reference", 9, &f, err));
    spec_and_result(r, &j, &(outcome){.fd = 20}, &a, &f, &spec, &result);
    add_worse(r, "d", 1);
    fx_scan(r, "one");
    ck_assert_int_eq(made(r), 0);
    ck_assert_int_eq(wish(r, "d"), 1); /* it waits: one is under way */
    ds_publication p = {
        .job = j.id, .spec = spec, .result = result, .adapter = &a, .reference = &f};
    MUST(ds_publish(r, &p, ref, err)); /* began without the wish: rejected */
    json_decref(spec);
    json_decref(result);
    expect_latest(r, "d@v1");
    ck_assert_int_eq(wish(r, "d"), 1);
    /* the one that was asked for fails, is asked for again without the wish, and has it still */
    j = fx_claim(r, DS_JOB_TRAIN);
    ds_job_failure bad = {.exit_code = 2, .exit_signal = -1, .retry = 0};
    MUST(ds_job_fail(r, j.id, &bad, NULL, err));
    ck_assert_int_eq(made(r), 0);
    ck_assert_int_eq(wish(r, "d"), 1);
    add_worse(r, "d", 0);
    fx_scan(r, "one");
    train(r, (outcome){.fd = 20}, "d@v3");
    expect_latest(r, "d@v3");
    ck_assert_int_eq(wish(r, "d"), 0);
    finish(r);
}
END_TEST

#define LATEST_PASSED "{\"role\":\"latest\",\"ref\":\"d@v1\",\"verdict\":\"passed\"}"

#define LATEST_REFUSED "{\"role\":\"latest\",\"ref\":\"d@v1\",\"verdict\":\"refused\"}"

#define BASE_PASSED "{\"role\":\"base\",\"ref\":\"base:emoji-dit\",\"verdict\":\"passed\"}"

START_TEST(results_that_do_not_fit) {
    ds_registry *r = fx_open(fx_dir("unfit"));
    add_worse(r, "d", 0);
    fx_scan(r, "one");
    train(r, (outcome){.fd = 12}, "d@v1");
    again(r, 2, 0);
    fx_scan(r, "one");
    ds_job j = fx_claim(r, DS_JOB_TRAIN);
    static const struct {
        const char *self, *says;
        int worse; /* the honest verdict is a refusal */
    } bad[] = {
        {"{\"verdict\":\"good\",\"bars\":[]}", "'gate.self' is malformed", 0},
        {"{\"verdict\":\"passed\"}", "'gate.self' is malformed", 0},
        {"{\"verdict\":\"passed\",\"bars\":[]}", "bar base base:emoji-dit is judged 0 times", 0},
        {"{\"verdict\":\"passed\",\"bars\":[" BASE_PASSED "]}", "bar latest d@v1 is judged 0 times",
         0},
        {"{\"verdict\":\"passed\",\"bars\":[" LATEST_PASSED "]}",
         "bar base base:emoji-dit is judged 0 times", 0},
        {"{\"verdict\":\"passed\",\"bars\":[" LATEST_PASSED "," LATEST_PASSED "," BASE_PASSED "]}",
         "bar latest d@v1 is judged 2 times", 0},
        {NULL, "'gate.self' is missing", 0},
        {"{\"verdict\":\"passed\",\"bars\":[{\"role\":\"best\",\"ref\":\"d@v1\",\"verdict\":"
         "\"passed\"}]}",
         "no bar best d@v1", 0},
        {"{\"verdict\":\"passed\",\"bars\":[{\"role\":\"latest\",\"ref\":\"d@v1\",\"verdict\":"
         "\"good\"}]}",
         "'gate.self.bars[0]' is malformed", 0},
        {"{\"verdict\":\"passed\",\"bars\":[{\"role\":\"latest\",\"ref\":\"\",\"verdict\":"
         "\"passed\"}]}",
         "'gate.self.bars[0]' is malformed", 0},
        {"{\"verdict\":\"passed\",\"bars\":[{\"role\":\"first\",\"ref\":\"d@v1\",\"verdict\":"
         "\"passed\"}]}",
         "'gate.self.bars[0]' is malformed", 0},
        {"{\"verdict\":\"passed\",\"bars\":[{\"role\":\"latest\",\"ref\":\"d@v1\",\"verdict\":"
         "\"passed\"},{\"role\":\"base\",\"ref\":\"base:other\",\"verdict\":\"passed\"}]}",
         "about base:other", 0},
        {"{\"verdict\":\"passed\",\"bars\":[" LATEST_REFUSED "," BASE_PASSED "]}", "1 bars refused",
         0},
        {"{\"verdict\":\"refused\",\"bars\":[" LATEST_PASSED "," BASE_PASSED "]}", "0 bars refused",
         1},
        {"{\"verdict\":\"forced\",\"bars\":[" LATEST_REFUSED "," BASE_PASSED "]}", "nobody asked",
         0},
        {"{\"verdict\":\"refused\",\"bars\":[" LATEST_REFUSED "," BASE_PASSED "]}",
         "passed although its bars refused", 0},
    };
    int64_t seq = ds_event_last_seq(r);
    ds_blob b;
    char ref[DS_HEX_SIZE + 16];
    MUST(ds_store_put_bytes(ds_registry_store(r), "m", 1, &b, err));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *spec, *result;
        spec_and_result(r, &j, &(outcome){.fd = bad[i].worse ? 20 : 12}, &b, &b, &spec, &result);
        json_object_set_new(json_object_get(result, "gate"), "self",
                            bad[i].self ? fx_json("%s", bad[i].self) : json_null());
        ds_publication p = {
            .job = j.id, .spec = spec, .result = result, .adapter = &b, .reference = &b};
        FAILS(DS_EINVAL, bad[i].says, ds_publish(r, &p, ref, err));
        json_decref(spec);
        json_decref(result);
    }
    ck_assert_int_eq(ds_event_last_seq(r), seq);
    /* a job of an earlier version has no bars */
    publish(r, &j, (outcome){.fd = 20, .no_self = 1}, ref);
    expect_latest(r, "d@v2");
    json_t *o = NULL;
    MUST(ds_adapter_get(r, "d@v2", &o, err));
    ck_assert(json_is_null(json_object_get(json_object_get(o, "gate"), "self")));
    ck_assert(json_is_null(json_object_get(o, "bar")));
    json_decref(o);
    finish(r);
}
END_TEST

/* What a result leaves out, or tells twice in two ways. */
START_TEST(results_that_are_not_whole) {
    ds_registry *r = fx_open(fx_dir("whole"));
    add_worse(r, "d", 0);
    fx_scan(r, "one");
    ds_job j = fx_claim(r, DS_JOB_TRAIN);
    int64_t seq = ds_event_last_seq(r);
    ds_blob b;
    char ref[DS_HEX_SIZE + 16];
    MUST(ds_store_put_bytes(ds_registry_store(r), "m", 1, &b, err));
    static const struct {
        const char *spec, *evaluations, *says;
    } unlike[] = {
        {"{\"old_tasks\":[{\"name\":\"other\",\"ref\":\"other@v2\"}]}", NULL,
         "task other@v2 is judged 0 times"},
        {"{\"base_task\":{\"name\":\"base\",\"ref\":\"base:emoji-dit\"}}", NULL,
         "task base:emoji-dit is judged 0 times"},
        {"{}", "[]", "FD of the adapter is nan in 'evaluations', 12"},
        {"{}", "[{\"subject\":\"adapter\",\"metric\":\"fd\",\"value\":-5}]",
         "FD of the adapter is -5 in 'evaluations', 12"},
        {"{}", "[{\"subject\":\"adapter\",\"metric\":\"fd\",\"value\":\"12\"}]",
         "FD of the adapter is nan in 'evaluations', 12"},
    };
    for (size_t i = 0; i < sizeof unlike / sizeof *unlike; i++) {
        json_t *spec, *result, *change = fx_json("%s", unlike[i].spec);
        spec_and_result(r, &j, &(outcome){.fd = 12}, &b, &b, &spec, &result);
        json_object_update(spec, change);
        if (unlike[i].evaluations)
            json_object_set_new(result, "evaluations", fx_json("%s", unlike[i].evaluations));
        ds_publication p = {
            .job = j.id, .spec = spec, .result = result, .adapter = &b, .reference = &b};
        FAILS(DS_EINVAL, unlike[i].says, ds_publish(r, &p, ref, err));
        json_decref(spec);
        json_decref(result);
        json_decref(change);
    }
    ck_assert_int_eq(ds_event_last_seq(r), seq);
    finish(r);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, latest_and_best);
    tcase_add_test(tc, base_of_a_bar);
    tcase_add_test(tc, a_worse_version_is_kept_and_not_latest);
    tcase_add_test(tc, classes_are_kept);
    tcase_add_test(tc, a_force_counts_once);
    tcase_add_test(tc, nothing_to_force);
    tcase_add_test(tc, asked_while_it_trains);
    tcase_add_test(tc, results_that_do_not_fit);
    tcase_add_test(tc, results_that_are_not_whole);
}

int main(void) {
    fx_fast_tmp();
    return ds_test_main("registry_bars", cases);
}
