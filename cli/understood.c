#include "cli/understood.h"
#include "base/json.h"
#include "base/mem.h"
#include "cli/format.h"

#include <stdlib.h>
#include <string.h>

enum { SHOWN = 8 }; /* items of a list, where not all are asked for */

/* "norm_eps 1e-05" */
static void add_value(ds_buf *b, const char *what, const json_t *value) {
    char *text = json_is_string(value)
                     ? ds_xstrdup(json_string_value(value))
                     : json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(12));
    ds_buf_addf(b, "%s %s", what, text ? text : "?");
    free(text);
}

static const char *path_words(const char *path) {
    return !strcmp(path, "linear")   ? "linear path"
           : !strcmp(path, "gvp")    ? "gvp path"
           : !strcmp(path, "cosine") ? "cosine schedule"
                                     : "DDPM schedule";
}

/* "eps"; "noise-data, linear path, time to 1000" */
static void add_objective(ds_buf *b, const json_t *o) {
    double scale = ds_json_number(o, "time_scale", 0);
    ds_buf_addf(b, "%s", ds_json_string(o, "prediction", "?"));
    if (scale > 0)
        ds_buf_addf(b, ", %s, time to %g", path_words(ds_json_string(o, "path", "")), scale);
}

/* "eps (measured on digits: loss 0.036; next: eps, linear path, 0.091)" */
static void show_objective(const ds_cli *c, const json_t *o) {
    const json_t *m = json_object_get(o, "measured"), *table = json_object_get(m, "table"),
                 *best = json_array_get(table, 0), *next = json_array_get(table, 1);
    const char *said = ds_json_string(o, "said", NULL), *group = ds_json_string(m, "group", ""),
               *why = ds_json_string(o, "not_measured", NULL);
    ds_buf b = {0};
    if (!json_is_object(o))
        return;
    add_objective(&b, o);
    ds_buf_addf(&b, " (");
    if (said)
        ds_buf_addf(&b, "%s; ", said);
    else if (!strcmp(ds_json_string(o, "how", ""), "assumed"))
        ds_buf_addf(&b, "assumed; ");
    if (best && ds_json_bool(m, "clear", 0))
        ds_buf_addf(&b, "measured%s%s: loss %.3g; next: %s, %s, %.3g)", *group ? " on " : "", group,
                    ds_json_number(best, "loss", 0), ds_json_string(next, "prediction", "?"),
                    path_words(ds_json_string(next, "path", "")), ds_json_number(next, "loss", 0));
    else if (best)
        ds_buf_addf(&b, "what was measured does not tell)");
    else
        ds_buf_addf(&b, "not measured: %s)", why ? why : "-");
    ds_field(c, "objective", "%s", b.data);
    ds_buf_release(&b);
}

static void show_table(const ds_cli *c, const json_t *table) {
    char text[DS_TEXT];
    size_t i;
    const json_t *row;
    if (!json_array_size(table))
        return;
    ds_table *t = ds_table_new("PREDICTS|PATH|TIME|LOSS>");
    json_array_foreach((json_t *)(uintptr_t)table, i, row) {
        ds_cell(t, ds_json_string(row, "prediction", NULL));
        ds_cell(t, ds_json_string(row, "path", NULL));
        ds_cell(t, ds_json_string(row, "time", NULL));
        ds_cell(t, ds_fmt_number(text, ds_json_real(row, "loss")));
    }
    ds_table_print(t, c, c->out, 2);
    ds_table_free(t);
}

/* "ema (averaged preferred); not taken: model" */
static void show_weights(const ds_cli *c, const char *label, const json_t *w) {
    size_t i;
    const json_t *other;
    const char *taken = ds_json_string(w, "taken", "");
    ds_buf b = {0};
    if (!json_is_object(w) || (!*taken && !json_array_size(json_object_get(w, "others"))))
        return;
    ds_buf_addf(&b, "%s (%s)", *taken ? taken : "the file's own", ds_json_string(w, "how", "?"));
    json_array_foreach(json_object_get(w, "others"), i, other) {
        ds_buf_addf(&b, "%s%s", i ? ", " : "; not taken: ", ds_json_string(other, "key", "?"));
    }
    ds_field(c, label, "%s", b.data);
    ds_buf_release(&b);
}

/* Fields of one use, by file: "config.json: norm_eps 1e-05, ..." */
static void show_fields(const ds_cli *c, const json_t *list, int used) {
    const char *file = NULL;
    size_t i;
    const json_t *f;
    ds_buf b = {0};
    json_array_foreach((json_t *)(uintptr_t)list, i, f) {
        const char *of = ds_json_string(f, "file", "?");
        if ((strcmp(ds_json_string(f, "use", ""), "used") == 0) != used)
            continue;
        if (!file || strcmp(file, of))
            ds_buf_addf(&b, "%s%s: ", file ? "; " : "", of);
        else
            ds_buf_addf(&b, ", ");
        file = of;
        add_value(&b, ds_json_string(f, "field", "?"), json_object_get(f, "value"));
    }
    if (file)
        ds_field(c, used ? "used" : "harmless", "%s", b.data);
    ds_buf_release(&b);
}

/* One line an item: what it is, and why in brackets. */
static void show_list(const ds_cli *c, const json_t *report, const char *key, const char *label,
                      const char *what, int whole) {
    const json_t *list = json_object_get(report, key), *item;
    char more[DS_TEXT];
    size_t i;
    int64_t rest = 0;
    snprintf(more, sizeof more, "%s_more", key);
    rest = ds_json_int(report, more, 0);
    json_array_foreach((json_t *)(uintptr_t)list, i, item) {
        ds_buf b = {0};
        if (i >= SHOWN && !whole) {
            rest += (int64_t)(json_array_size(list) - i);
            break;
        }
        if (json_object_get(item, "value"))
            add_value(&b, ds_json_string(item, what, "?"), json_object_get(item, "value"));
        else
            ds_buf_addf(&b, "%s", ds_json_string(item, what, "?"));
        ds_field(c, label, "%s (%s)", b.data, ds_json_string(item, "why", "-"));
        ds_buf_release(&b);
    }
    if (rest)
        ds_field(c, label, "%lld more", (long long)rest);
}

void ds_show_understood(const ds_cli *c, const json_t *model, int whole) {
    const json_t *r = json_object_get(model, "report"), *o = json_object_get(r, "objective");
    if (!json_is_object(r)) {
        if (whole)
            ds_field(c, "report", "%s",
                     ds_json_string(model, "source", NULL) ? "imported before reports were kept"
                                                           : "none: it comes with the program");
        return;
    }
    show_objective(c, o);
    if (whole)
        show_table(c, json_object_get(json_object_get(o, "measured"), "table"));
    show_weights(c, "weights", json_object_get(r, "weights"));
    show_weights(c, "vae weights", json_object_get(r, "vae_weights"));
    show_fields(c, json_object_get(r, "fields"), 1);
    if (whole)
        show_fields(c, json_object_get(r, "fields"), 0);
    show_list(c, r, "assumed", "assumed", "what", whole);
    show_list(c, r, "ignored", "left out", "tensors", whole);
}
