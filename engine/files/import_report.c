/* engine/files/import_report.c - a JSON document and its lines, grown together. */
#include "engine/files/import_report.h"
#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Items of one list; what is beyond is counted, so that a hostile file makes no large report. */
enum { ITEMS_MAX = 200, VALUE_SHOWN = 80 };

struct ds_import_report {
    json_t *doc;
    char **lines; /* first byte: 'w' or ' ' */
    size_t count, cap;
};

ds_import_report *ds_import_report_new(void) {
    ds_import_report *r = ds_xcalloc(1, sizeof *r);
    r->doc = json_pack("{s:[], s:[], s:[]}", "fields", "assumed", "ignored");
    DS_ASSERT(r->doc);
    return r;
}

void ds_import_report_free(ds_import_report *r) {
    if (!r)
        return;
    for (size_t i = 0; i < r->count; i++)
        free(r->lines[i]);
    free(r->lines);
    json_decref(r->doc);
    free(r);
}

__attribute__((format(printf, 3, 4))) static void say(ds_import_report *r, int warning,
                                                      const char *fmt, ...) {
    char text[512];
    text[0] = warning ? 'w' : ' ';
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text + 1, sizeof text - 1, fmt, ap);
    va_end(ap);
    ds_json_mend_text(text + 1);
    if (r->count == r->cap) {
        r->cap = r->cap ? 2 * r->cap : 16;
        r->lines = ds_xrealloc(r->lines, r->cap * sizeof *r->lines);
    }
    r->lines[r->count++] = ds_xstrdup(text);
}

/* Appends to doc[list]; 0 when the list is full, and then counts in doc[list + "_more"]. */
static int append(ds_import_report *r, const char *list, json_t *item) {
    json_t *to = json_object_get(r->doc, list);
    char more[64];
    if (json_array_size(to) < ITEMS_MAX) {
        json_array_append_new(to, item);
        return 1;
    }
    json_decref(item);
    snprintf(more, sizeof more, "%s_more", list);
    json_object_set_new(r->doc, more, json_integer(ds_json_int(r->doc, more, 0) + 1));
    return 0;
}

void ds_import_report_weights(ds_import_report *r, const char *part, const char *taken,
                              const char *how) {
    if (!r)
        return;
    json_object_set_new(
        r->doc, part,
        json_pack("{s:o, s:[], s:s}", "taken", ds_json_text(taken), "others", "how", how));
    if (*taken)
        say(r, 0, "%s: taken from '%.100s' (%s)",
            strcmp(part, "weights") ? "weights of the VAE" : "weights", taken, how);
}

void ds_import_report_file(ds_import_report *r, const char *part, const char *file, size_t count) {
    json_t *of = r ? json_object_get(r->doc, part) : NULL;
    if (!of)
        return;
    json_object_set_new(of, "file", ds_json_text(file));
    json_object_set_new(of, "files", json_integer((json_int_t)count));
    say(r, 0, "%s: from '%.200s'%s", strcmp(part, "weights") ? "weights of the VAE" : "weights",
        file, count > 1 ? " and the other shards" : "");
}

void ds_import_report_other(ds_import_report *r, const char *part, const char *key,
                            size_t tensors) {
    if (!r)
        return;
    json_t *others = json_object_get(json_object_get(r->doc, part), "others");
    if (json_array_size(others) < ITEMS_MAX)
        json_array_append_new(others, json_pack("{s:o, s:I}", "key", ds_json_text(key), "tensors",
                                                (json_int_t)tensors));
    say(r, 0, "weights: not taken is '%.100s' (%zu tensors)", key, tensors);
}

/* 1: out holds less than all of it, or all that it can. */
static int value_text(const json_t *value, char out[VALUE_SHOWN]) {
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(12));
    size_t n = text ? strlen(text) : 1;
    size_t kept = n < VALUE_SHOWN ? n : VALUE_SHOWN - 4;
    memcpy(out, text ? text : "?", kept);
    out[kept] = 0;
    ds_json_mend_text(out);
    strcat(out, n < VALUE_SHOWN ? "" : "...");
    free(text);
    return n + 1 >= VALUE_SHOWN;
}

void ds_import_report_field(ds_import_report *r, const char *file, const char *field,
                            const json_t *value, const char *use) {
    if (!r)
        return;
    char shown[VALUE_SHOWN];
    json_t *copy = value_text(value, shown) ? ds_json_text(shown) : json_deep_copy(value);
    if (append(r, "fields",
               json_pack("{s:o, s:o, s:o, s:s}", "file", ds_json_text(file), "field",
                         ds_json_text(field), "value", copy, "use", use)) &&
        !strcmp(use, "used")) /* the harmless ones would drown these */
        say(r, 0, "%.80s: %.60s %s", file, field, shown);
}

void ds_import_report_assumed(ds_import_report *r, const char *what, json_t *value,
                              const char *why) {
    if (!r) {
        json_decref(value);
        return;
    }
    char shown[VALUE_SHOWN];
    value = value ? value : json_string("?"); /* made of text that is not UTF-8 */
    value_text(value, shown);
    if (append(r, "assumed",
               json_pack("{s:o, s:o, s:o}", "what", ds_json_text(what), "value", value, "why",
                         ds_json_text(why))))
        say(r, 1, "assumed: %.60s %s (%.200s)", what, shown, why);
}

void ds_import_report_not_assumed(ds_import_report *r, const char *what) {
    json_t *list = r ? json_object_get(r->doc, "assumed") : NULL;
    char line[96];
    snprintf(line, sizeof line, "wassumed: %.60s ", what);
    for (size_t i = json_array_size(list); i-- > 0;)
        if (!strcmp(ds_json_string(json_array_get(list, i), "what", ""), what))
            json_array_remove(list, i);
    for (size_t i = r ? r->count : 0; i-- > 0;)
        if (!strncmp(r->lines[i], line, strlen(line))) {
            free(r->lines[i]);
            memmove(&r->lines[i], &r->lines[i + 1], (--r->count - i) * sizeof *r->lines);
        }
}

void ds_import_report_ignored(ds_import_report *r, const char *tensors, const char *why) {
    if (r &&
        append(r, "ignored",
               json_pack("{s:o, s:o}", "tensors", ds_json_text(tensors), "why", ds_json_text(why))))
        say(r, 0, "left out: %.120s (%.200s)", tensors, why);
}

void ds_import_report_set(ds_import_report *r, const char *key, json_t *value, int warning,
                          const char *line) {
    if (!r) {
        json_decref(value);
        return;
    }
    json_object_set_new(r->doc, key, value);
    say(r, warning, "%s", line);
}

json_t *ds_import_report_json(const ds_import_report *r) { return r ? r->doc : NULL; }

void ds_import_report_lines(const ds_import_report *r, ds_import_line line, void *user) {
    for (size_t i = 0; r && i < r->count; i++)
        line(user, r->lines[i][0] == 'w', r->lines[i] + 1);
}
