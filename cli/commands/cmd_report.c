/* cli/commands/cmd_report.c - report: what each dataset became, as one document.
 *
 * {"datasets":[{name, state, paused, training, images, classes, steps, train_seconds,
 * images_per_second, fd_base,
 * fd_adapter, kid_adapter, class_accuracy, class_real, class_chance, memorised,
 * memorised_chance, n, feature_net, status,
 * adapter, digest, stored_bytes, raw_bytes, self,
 * bar:{role, ref, verdict, fd_bar, fd_now, delta, class_bar, class_now}|null,
 * old_tasks:[{name, level, unchanged, fd_recorded, fd_now}]}],
 * bases:[{name, sha256, default, adapters, task}]}, datasets in the order in which they were added;
 * "bar" is what the version was measured against, "task" what the base's own samples are. */
#include "base/fs.h"
#include "base/mem.h"
#include "cli/bars.h"
#include "cli/client.h"
#include "cli/format.h"
#include "cli/list.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void copy(json_t *to, const char *name, const json_t *from, const char *key) {
    json_t *v = json_object_get(from, key);
    json_object_set(to, name, v ? v : json_null());
}

/* The gate's rows of an adapter, with the fields of the report. */
static json_t *old_tasks(const json_t *adapter) {
    static const char *const keys[] = {"name", "level", "unchanged", "fd_recorded", "fd_now"};
    json_t *out = json_array(), *task;
    size_t i;
    json_array_foreach(json_object_get(json_object_get(adapter, "gate"), "tasks"), i, task) {
        json_t *row = json_object();
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
            copy(row, keys[k], task, keys[k]);
        json_array_append_new(out, row);
    }
    return out;
}

static void set_real(json_t *to, const char *name, double value) {
    json_object_set_new(to, name, isfinite(value) ? json_real(value) : json_null());
}

/* One dataset of the report; an adapter that is not there yet leaves its fields null. */
static json_t *report_row(const json_t *dataset, const json_t *adapter) {
    static const char *const keys[][2] = {{"steps", "steps"},
                                          {"train_seconds", "train_seconds"},
                                          {"images_per_second", "images_per_second"},
                                          {"fd_base", "fd_base"},
                                          {"fd_adapter", "fd"},
                                          {"kid_adapter", "kid"},
                                          {"class_accuracy", "class_accuracy"},
                                          {"class_real", "class_real"},
                                          {"class_chance", "class_chance"},
                                          {"n", "n"},
                                          {"status", "status"},
                                          {"adapter", "ref"},
                                          {"digest", "digest"},
                                          {"feature_net", "feature_net"},
                                          {"self", "self"},
                                          {"bar", "bar"},
                                          {"stored_bytes", "stored_bytes"},
                                          {"raw_bytes", "raw_bytes"}};
    const json_t *version = json_object_get(dataset, "version");
    json_t *row = json_object();
    copy(row, "name", dataset, "name");
    copy(row, "state", dataset, "state");
    copy(row, "paused", dataset, "paused");
    copy(row, "training", dataset, "training");
    copy(row, "images", version, "images");
    copy(row, "classes", version, "classes");
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
        copy(row, keys[k][0], adapter, keys[k][1]);
    set_real(row, "memorised", ds_measured(adapter, "adapter", "memorised", "value"));
    set_real(row, "memorised_chance", ds_measured(adapter, "chance", "memorised", "value"));
    json_object_set_new(row, "old_tasks", old_tasks(adapter));
    return row;
}

static int append_dataset(ds_cli *c, const json_t *dataset, json_t *rows, ds_error *err) {
    const char *ref = ds_json_string(dataset, "adapter", NULL);
    json_t *adapter = NULL;
    int rc = 0;
    if (ref) {
        ds_buf path = {0};
        ds_buf_addf(&path, "/v1/adapters/");
        ds_url_segment(&path, ref);
        rc = ds_client_call(c->http, "GET", path.data, NULL, &adapter, err);
        ds_buf_release(&path);
    }
    if (!rc)
        json_array_append_new(rows, report_row(dataset, adapter));
    json_decref(adapter);
    return rc;
}

static void print_table(ds_cli *c, const json_t *rows) {
    int classes = ds_any_class(rows), nets = ds_several_nets(rows), bars = ds_any_bar(rows);
    char spec[160];
    snprintf(spec, sizeof spec,
             "DATASET|ADAPTER|IMAGES>|CLASSES>|FD BASE>|FD ADAPTER>|RATIO>|KID>%s|SIZE>|TRAIN>|"
             "OLD TASKS%s%s",
             classes ? "|RIGHT CLASS>" : "", bars ? "|BAR" : "", nets ? "|NETWORK" : "");
    ds_table *t = ds_table_new(spec);
    size_t i;
    json_t *r;
    json_array_foreach((json_t *)(uintptr_t)rows, i, r) {
        char a[DS_TEXT], ratio[DS_TEXT] = "-", tasks[DS_TEXT] = "-";
        double base = ds_json_real(r, "fd_base"), fd = ds_json_real(r, "fd_adapter");
        const json_t *old = json_object_get(r, "old_tasks"), *task;
        size_t k, same = 0;
        json_array_foreach((json_t *)(uintptr_t)old, k, task)
            same += (size_t)ds_json_bool(task, "unchanged", 0);
        if (isfinite(base) && isfinite(fd) && base > 0)
            snprintf(ratio, sizeof ratio, "%.2f", fd / base);
        if (json_array_size(old))
            snprintf(tasks, sizeof tasks, "%zu of %zu unchanged", same, json_array_size(old));
        ds_cell(t, ds_json_string(r, "name", ""));
        ds_cell(t, ds_json_string(r, "adapter", NULL));
        ds_cell(t, ds_fmt_count(a, ds_json_int(r, "images", -1)));
        ds_cell(t, ds_fmt_count(a, ds_json_int(r, "classes", -1)));
        ds_cell(t, ds_fmt_number(a, base));
        ds_cell(t, ds_fmt_number(a, fd));
        ds_cell(t, ratio);
        ds_cell(t, ds_fmt_number(a, ds_json_real(r, "kid_adapter")));
        if (classes)
            ds_cell(t, ds_fmt_classes(a, r));
        ds_cell(t, ds_fmt_bytes(a, ds_json_number(r, "stored_bytes", -1)));
        ds_cell(t, ds_fmt_duration(a, ds_json_real(r, "train_seconds")));
        ds_cell(t, tasks);
        ds_buf bar = {0};
        if (bars)
            ds_cell(t, ds_bar_words(&bar, r));
        ds_buf_release(&bar);
        if (nets)
            ds_cell(t, ds_fmt_net(a, r));
    }
    ds_table_print(t, c, c->out, 0);
    ds_table_free(t);
}

/* Bases with a record of their own samples: the default, and those that adapters are made on. */
static json_t *base_rows(ds_cli *c) {
    static const char *const keys[] = {"name", "sha256", "default", "adapters", "task"};
    json_t *page = NULL, *rows = json_array(), *base;
    size_t i;
    if (ds_client_call(c->http, "GET", "/v1/bases?limit=1000", NULL, &page, NULL))
        page = NULL; /* the table is worth having without them */
    json_array_foreach(json_object_get(page, "items"), i, base) {
        if (!json_is_object(json_object_get(base, "task")) ||
            (!ds_json_bool(base, "default", 0) && !ds_json_int(base, "adapters", 0)))
            continue;
        json_t *row = json_object();
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
            copy(row, keys[k], base, keys[k]);
        json_array_append_new(rows, row);
    }
    json_decref(page);
    return rows;
}

/* A table of what became of datasets must not be silent about those that nothing became of. */
static void print_failed(ds_cli *c, const json_t *rows) {
    size_t i;
    const json_t *r;
    json_array_foreach((json_t *)(uintptr_t)rows, i, r) {
        ds_buf words = {0};
        ds_training_words(&words, r);
        ds_put_clean(c, c->out, words.data ? words.data : "");
        if (words.len)
            fputc('\n', c->out);
        ds_buf_release(&words);
    }
}

static void print_bases(ds_cli *c, const json_t *rows) {
    size_t i;
    const json_t *base;
    json_array_foreach((json_t *)(uintptr_t)rows, i, base) {
        ds_buf words = {0};
        ds_buf_addf(&words, "base %s: ", ds_json_string(base, "name", "?"));
        ds_base_task_words(&words, json_object_get(base, "task"));
        ds_put_clean(c, c->out, words.data);
        fputc('\n', c->out);
        ds_buf_release(&words);
    }
}

/* All datasets, oldest first. */
static int collect(ds_cli *c, json_t *rows, ds_error *err) {
    json_t *all = NULL, *d;
    char *next;
    size_t i;
    int rc = ds_fetch_list(c, "/v1/datasets", 0, &all, &next, err);
    int64_t last = -1; /* by id: a selection sort over few rows, whatever order the API has */
    for (size_t n = json_array_size(all); !rc && n > 0; n--) {
        const json_t *least = NULL;
        json_array_foreach(all, i, d)
            if (ds_json_int(d, "id", 0) > last &&
                (!least || ds_json_int(d, "id", 0) < ds_json_int(least, "id", 0)))
                least = d;
        if (!least)
            break;
        last = ds_json_int(least, "id", 0);
        rc = append_dataset(c, least, rows, err);
    }
    json_decref(all);
    return rc;
}

static int write_report(const char *out, const json_t *doc, int force, ds_error *err) {
    char *text = json_dumps(doc, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(17)),
         *line = ds_xasprintf("%s\n", text ? text : "{}");
    int rc = ds_fs_output_write(out, line, strlen(line), force, err);
    free(text);
    free(line);
    return rc;
}

int ds_cmd_report(ds_cli *c, ds_error *err) {
    const char *out = ds_opt_text(c, "output", NULL);
    int force = ds_opt_given(c, "force");
    if (out && !strcmp(out, "-"))
        return ds_fail(err, DS_EINVAL, "-o takes a file; --json writes to standard output");
    if (out && ds_fs_output_check(out, force, err))
        return err->code;
    if (force && !out)
        return ds_fail(err, DS_EINVAL, "option --force needs --output");
    json_t *doc = json_object(), *rows = json_array();
    json_object_set_new(doc, "schema", json_string("dsctl.v1/report"));
    json_object_set_new(doc, "datasets", rows);
    int rc = collect(c, rows, err);
    json_t *bases = rc ? json_array() : base_rows(c);
    json_object_set_new(doc, "bases", bases);
    if (!rc && out)
        rc = write_report(out, doc, force, err);
    if (!rc && c->json)
        ds_print_json(c, "report", doc, 0);
    else if (!rc && c->quiet)
        fprintf(c->out, "%zu\n", json_array_size(rows));
    else if (!rc) {
        print_table(c, rows);
        print_failed(c, rows);
        print_bases(c, bases);
    }
    json_decref(doc);
    return rc;
}
