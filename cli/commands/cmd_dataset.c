/* cli/commands/cmd_dataset.c - list, show, remove and rescan datasets; add-dataset is in cmd_add.c.
 * */
#include "base/mem.h"
#include "contract/job.h"
#include "cli/client.h"
#include "cli/follow.h"
#include "cli/format.h"
#include "cli/list.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void dataset_path(ds_buf *b, const char *name, const char *rest) {
    ds_buf_addf(b, "/v1/datasets/");
    ds_url_segment(b, name);
    ds_buf_addf(b, "%s", rest);
}

/* One exchange about one dataset, with "did you mean" when there is none of that name. */
static int exchange(ds_cli *c, const char *method, const char *rest, json_t **answer,
                    ds_error *err) {
    ds_buf path = {0};
    dataset_path(&path, c->args[0], rest);
    int rc = ds_client_call(c->http, method, path.data, NULL, answer, err);
    ds_buf_release(&path);
    if (rc)
        ds_suggest_name(c, c->args[0], 0, err);
    return rc;
}

static void add_row(ds_table *t, const json_t *d) {
    const json_t *v = json_object_get(d, "version");
    const char *state = ds_json_string(json_object_get(d, "reach"), "state", /* of its folder */
                                       ds_json_string(d, "state", ""));
    char text[DS_TEXT];
    ds_cell(t, ds_json_string(d, "name", NULL));
    snprintf(text, sizeof text, "v%lld", (long long)ds_json_int(v, "version", 0));
    ds_cell(t, ds_json_int(v, "version", 0) ? text : NULL);
    ds_cell(t, ds_fmt_count(text, ds_json_int(v, "images", -1)));
    ds_cell(t, ds_fmt_count(text, ds_json_int(v, "classes", -1)));
    ds_cell(t, ds_fmt_bytes(text, ds_json_number(v, "bytes", -1)));
    ds_cell_styled(t, ds_style_of_state(ds_training_failed(d) ? DS_WORD_FAILED : state),
                   ds_training_failed(d)          ? "training failed"
                   : ds_json_bool(d, "paused", 0) ? "paused"
                                                  : state);
    ds_cell(t, ds_json_string(d, "adapter", NULL));
    ds_cell(t, ds_fmt_time(text, ds_json_string(d, "created_at", NULL)));
    ds_cell(t, ds_json_string(d, "path", NULL));
}

static void say_notes(ds_cli *c, const json_t *d) {
    size_t i;
    const json_t *n;
    ds_buf why = {0};
    ds_training_words(&why, d);
    if (why.len)
        ds_say(c, "%s", why.data);
    ds_buf_release(&why);
    json_array_foreach(json_object_get(d, "notes"), i, n)
        if (json_is_string(n))
            ds_say(c, "note: %s: %s", ds_json_string(d, "name", ""), json_string_value(n));
}

static void print_datasets(ds_cli *c, const json_t *items) {
    size_t i;
    const json_t *d;
    ds_table *t = ds_table_new("NAME~|VERSION|IMAGES>|CLASSES>|SIZE>|STATE|ADAPTER|ADDED|PATH~");
    json_array_foreach((json_t *)(uintptr_t)items, i, d)
        add_row(t, d);
    ds_table_print(t, c, c->out, 0);
    ds_table_free(t);
    json_array_foreach((json_t *)(uintptr_t)items, i, d)
        say_notes(c, d);
}

int ds_cmd_list_datasets(ds_cli *c, ds_error *err) {
    static const ds_list_view view = {.kind = "datasets",
                                      .id = "name",
                                      .none =
                                          "no datasets yet; add one with: dsctl add-dataset DIR",
                                      .table = print_datasets};
    return ds_list(c, "/v1/datasets", &view, err);
}

static void show_version(ds_cli *c, const json_t *v) {
    char a[DS_TEXT], b[DS_TEXT], when[DS_TEXT];
    int64_t images = ds_json_int(v, "images", -1), classes = ds_json_int(v, "classes", -1);
    if (!json_is_object(v))
        return;
    ds_field(c, "version", "v%lld, made %s", (long long)ds_json_int(v, "version", 0),
             ds_fmt_time(when, ds_json_string(v, "created_at", NULL)));
    ds_field(c, "images", "%s in %s class%s, %s", ds_fmt_count(a, images), ds_fmt_count(b, classes),
             classes == 1 ? "" : "es", ds_fmt_bytes(when, ds_json_number(v, "bytes", -1)));
    ds_show_classes(c, json_object_get(v, "class_map"));
    int64_t rejected = ds_json_int(v, "rejected", 0);
    ds_field(c, "rejected", "%s%s", ds_fmt_count(a, rejected),
             rejected ? " (dsctl show-dataset NAME --rejected)" : "");
    ds_field(c, "digest", "sha256:%s", ds_json_string(v, "tree_digest", "-"));
}

static void show(ds_cli *c, const json_t *d) {
    char when[DS_TEXT];
    const json_t *e = json_object_get(d, "error");
    const char *error = ds_json_string(e, "message", json_string_value(e));
    ds_field(c, "name", "%s", ds_json_string(d, "name", "-"));
    ds_field(c, "path", "%s", ds_json_string(d, "path", "-"));
    const json_t *reach = json_object_get(d, "reach");
    if (json_is_object(reach))
        ds_field(c, "folder", "%s since %s: %s", ds_json_string(reach, "state", "-"),
                 ds_fmt_time(when, ds_json_string(reach, "since", NULL)),
                 ds_json_string(reach, "why", "-"));
    ds_field(c, "state", "%s%s%s%s", ds_json_string(d, "state", "-"),
             ds_json_bool(d, "paused", 0) ? ", paused" : "", error ? ": " : "", error ? error : "");
    ds_buf why = {0};
    ds_training_words(&why, d);
    if (why.len)
        ds_field(c, "training", "%s", why.data);
    ds_buf_release(&why);
    ds_field(c, "watched", "%s", ds_json_bool(d, "watch", 1) ? "yes" : "no");
    ds_field(c, "added", "%s", ds_fmt_time(when, ds_json_string(d, "created_at", NULL)));
    show_version(c, json_object_get(d, "version"));
    ds_field(c, "method", "%s", ds_json_string(d, "method", "-"));
    ds_field(c, "base", "%s", ds_json_string(d, "base", "the default"));
    ds_field(c, "feature net", "%s", ds_json_string(d, "feature_net", "the default"));
    char *options = json_dumps(json_object_get(d, "options"), JSON_COMPACT);
    if (options && strcmp(options, "{}"))
        ds_field(c, "options", "%s", options);
    free(options);
    ds_field(c, "adapter", "%s", ds_json_string(d, "adapter", "none yet"));
    if (ds_json_bool(d, "publish_worse", 0))
        ds_field(c, "wish", "the next version is published even if it is worse, once");
    const json_t *job = json_object_get(d, "job");
    int64_t id = json_is_integer(job) ? json_integer_value(job) : ds_json_int(job, "id", 0);
    if (id)
        ds_field(c, "latest job", "%lld", (long long)id);
    size_t i;
    const json_t *note;
    json_array_foreach(json_object_get(d, "notes"), i, note)
        if (json_is_string(note))
            ds_field(c, "note", "%s", json_string_value(note));
}

static void print_rejected(ds_cli *c, const json_t *items) {
    size_t i;
    const json_t *r;
    ds_table *t = ds_table_new("FILE~|FOUND|WHY");
    json_array_foreach((json_t *)(uintptr_t)items, i, r) {
        int scan = strcmp(ds_json_string(r, "stage", "scan"), "decode") != 0;
        ds_cell(t, ds_json_string(r, "path", NULL));
        ds_cell(t, scan ? "at the scan" : "decoding");
        ds_cell(t, ds_json_string(r, "reason", NULL));
    }
    ds_table_print(t, c, c->out, 0);
    ds_table_free(t);
}

static int show_rejected(ds_cli *c, ds_error *err) {
    static const ds_list_view view = {
        .kind = "rejected-files", .none = "no file was rejected", .table = print_rejected};
    ds_buf path = {0};
    json_t *items = NULL;
    char *next = NULL;
    dataset_path(&path, c->args[0], "/rejected");
    int rc = ds_fetch_list(c, path.data, 0, &items, &next, err);
    ds_buf_release(&path);
    if (!rc)
        return ds_list_show(c, &view, items, next);
    ds_suggest_name(c, c->args[0], 0, err);
    return rc;
}

/* The manifest is data to be hashed: every byte as it comes. */
static int show_manifest(ds_cli *c, ds_error *err) {
    ds_buf path = {0};
    dataset_path(&path, c->args[0], "/manifest");
    if (ds_opt_given(c, "dataset-version"))
        ds_url_query_int(&path, "version", (int64_t)ds_opt_number(c, "dataset-version", 0));
    int rc = ds_client_download(c->http, path.data, c->out, NULL, NULL, NULL, err);
    ds_buf_release(&path);
    if (rc)
        ds_suggest_name(c, c->args[0], 0, err);
    return rc;
}

int ds_cmd_show_dataset(ds_cli *c, ds_error *err) {
    json_t *d = NULL;
    if (ds_opt_given(c, "rejected") && ds_opt_given(c, "manifest"))
        return ds_fail(err, DS_EINVAL, "options --rejected and --manifest exclude each other");
    if (ds_opt_given(c, "dataset-version") && !ds_opt_given(c, "manifest"))
        return ds_fail(err, DS_EINVAL, "option --dataset-version needs --manifest");
    if (ds_opt_given(c, "rejected"))
        return show_rejected(c, err);
    if (ds_opt_given(c, "manifest"))
        return show_manifest(c, err);
    int rc = exchange(c, "GET", "", &d, err);
    if (rc)
        return rc;
    if (c->json)
        ds_print_json(c, "dataset", d, 0);
    else if (c->quiet)
        fprintf(c->out, "%s\n", ds_json_string(d, "name", ""));
    else
        show(c, d);
    json_decref(d);
    return 0;
}

static int change(ds_cli *c, const char *method, const char *rest, const char *said,
                  ds_error *err) {
    json_t *d = NULL;
    int rc = exchange(c, method, rest, &d, err);
    if (rc)
        return rc;
    if (c->json)
        ds_print_json(c, "dataset", d, 0);
    else
        ds_say(c, said, ds_json_string(d, "name", c->args[0]));
    json_decref(d);
    return 0;
}

int ds_cmd_remove_dataset(ds_cli *c, ds_error *err) {
    return change(c, "DELETE", "", "removed %s; its adapters stay", err);
}

int ds_cmd_rescan_dataset(ds_cli *c, ds_error *err) {
    return change(c, "POST", "/rescan", "scanning %s again in the background", err);
}
