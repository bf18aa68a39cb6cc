/* worker/commands/evaluate_print.c - what `diffscaler-worker evaluate` says: notes and progress on
 * stderr, results on stdout. */
#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "worker/commands/evaluate_cmd.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BAR = 28, LISTED = 100 };

const char *ds_ev_count(char out[32], int64_t n) {
    char digits[24];
    int length = snprintf(digits, sizeof digits, "%lld", (long long)n), at = 0;
    for (int i = 0; i < length; i++) {
        if (i && digits[i - 1] != '-' && (length - i) % 3 == 0)
            out[at++] = ',';
        out[at++] = digits[i];
    }
    out[at] = 0;
    return out;
}

void ds_ev_note(ds_ev_run *e, const char *fmt, ...) {
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    ds_text_whole(text); /* long names are cut, maybe within a character */
    json_array_append_new(e->notes, json_string(text));
    if (!e->o.quiet)
        fprintf(stderr, "note: %s\n", text);
}

/* ---------------------------------------------------------------- progress */

void ds_ev_meter_start(ds_ev_meter *m, const ds_ev_options *o, const char *what) {
    *m = (ds_ev_meter){.what = what, .show = !o->quiet, .tty = isatty(STDERR_FILENO), .tenth = -1};
    m->started = ds_monotonic();
}

void ds_ev_meter_update(ds_ev_meter *m, int64_t done, int64_t total) {
    double now = ds_monotonic(), took = now - m->started, rate = took > 0 ? (double)done / took : 0;
    int tenth = (int)(10 * done / total), last = done == total;
    if (!m->show || (m->tty ? now - m->drawn < 0.1 && !last : tenth <= m->tenth))
        return;
    if (m->tty) {
        char bar[BAR + 1];
        int full = (int)(BAR * done / total);
        for (int i = 0; i < BAR; i++)
            bar[i] = i < full ? '#' : '.';
        bar[BAR] = 0;
        fprintf(stderr, "\r%-10s [%s] %3d %%  %lld/%lld  %.1f pictures/s", m->what, bar,
                (int)(100 * done / total), (long long)done, (long long)total, rate);
        if (rate > 0 && !last)
            fprintf(stderr, "  %.0f s left", (double)(total - done) / rate);
        fputs(last ? "\033[K\n" : "\033[K", stderr);
    } else
        fprintf(stderr, "%s: %lld of %lld pictures, %.1f/s\n", m->what, (long long)done,
                (long long)total, rate);
    fflush(stderr);
    m->tenth = tenth;
    m->drawn = now;
}

/* Matrices take seconds, and there is no telling how far they are; a signal leaves at once. */
void ds_ev_say_computing(const ds_ev_run *e, const char *what) {
    if (e->o.quiet)
        return;
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%s%s%s\033[K", *what ? "computing " : "", what, *what ? " ..." : "");
    else if (*what)
        fprintf(stderr, "computing %s ...\n", what);
    fflush(stderr);
}

/* ---------------------------------------------------------------- results */

/* A value of a metric that could not be had. */
static json_t *lost_row(const ds_ev_run *e, int k) {
    const ds_ev_metric *m = &ds_ev_metrics[k];
    json_t *r = json_object();
    char *why = ds_name_escape(e->lost[k].message);
    json_object_set_new(r, "metric", json_string(m->word));
    json_object_set_new(r, "name", json_string(ds_ev_metric_name(e, m)));
    json_object_set_new(r, "value", json_null());
    json_object_set_new(r, "why", json_string(why));
    free(why);
    return r;
}

static void print_count(const json_t *r, const char *key, const char *what) {
    const json_t *n = json_object_get(r, key);
    char text[32];
    if (n)
        printf("  %s %s", what,
               json_is_integer(n) ? ds_ev_count(text, json_integer_value(n)) : "?");
}

static void print_row(const json_t *r, int width) {
    const json_t *error = json_object_get(r, "std_error"), *std = json_object_get(r, "std");
    int64_t n = ds_json_int(r, "n", -1), all = ds_json_int(r, "n_available", -1);
    char text[32];
    printf("%-*s  ", width, ds_json_string(r, "name", ""));
    if (json_is_null(json_object_get(r, "value"))) {
        printf("not measured: %s\n", ds_json_string(r, "why", ""));
        return;
    }
    printf("%.6g", ds_json_number(r, "value", 0));
    if (error || std)
        printf(" +- %.2g", json_number_value(error ? error : std));
    print_count(r, "n", " n");
    if (n < all)
        printf(" of %s", ds_ev_count(text, all));
    print_count(r, "n_reference", "reference");
    if (json_object_get(r, "chance"))
        printf("  real pictures %.3g  chance %.3g", ds_json_number(r, "real", 0),
               ds_json_number(r, "chance", 0));
    printf("  network %.12s  preprocess %s  device %s  seed %lld\n",
           ds_json_string(r, "feature_net", ""), ds_json_string(r, "preprocess", ""),
           ds_json_string(r, "device_class", ""), (long long)ds_json_int(r, "seed", 0));
}

static void set_escaped(json_t *o, const char *key, const char *path) {
    char *shown = ds_name_escape(path);
    json_object_set_new(o, key, json_string(shown));
    free(shown);
}

static json_t *side_json(const ds_ev_side *s) {
    json_t *o = json_object();
    set_escaped(o, "path", s->path);
    int64_t n = s->from_pictures ? s->n : s->stats.n;
    json_object_set_new(o, "n", n >= 0 ? json_integer((json_int_t)n) : json_null());
    if (*s->pictures)
        json_object_set_new(o, "pictures_sha256", json_string(s->pictures));
    if (s->seconds > 0) {
        json_object_set_new(o, "left_out", json_integer((json_int_t)s->left_out));
        json_object_set_new(o, "seconds", json_real(s->seconds));
        json_object_set_new(o, "pictures_per_second", json_real((double)s->n / s->seconds));
    }
    if (s->dropped.count) {
        json_t *files = json_array();
        for (int64_t i = 0; i < s->dropped.listed && i < LISTED; i++) {
            json_t *f = json_object();
            json_object_set_new(f, "path", json_string(s->dropped.items[i].path));
            json_object_set_new(f, "reason", json_string(s->dropped.items[i].reason));
            json_array_append_new(files, f);
        }
        json_object_set_new(o, "left_out_files", files);
    }
    return o;
}

static void print_document(const ds_ev_run *e) {
    json_t *doc = json_object();
    json_object_set_new(doc, "schema", json_string("diffscaler.evaluation/1"));
    json_object_set_new(doc, "mode", json_string(ds_fid_mode_name(e->o.mode)));
    json_object_set_new(doc, "engine", json_string(DS_VERSION));
    json_object_set_new(doc, "device_class", json_string(e->dev->device_class));
    json_object_set_new(doc, "folder", side_json(&e->fake));
    json_object_set_new(doc, "against", e->o.against ? side_json(&e->real) : json_null());
    json_object_set(doc, "metrics", e->rows);
    json_object_set(doc, "notes", e->notes);
    char *text = ds_need(json_dumps(doc, JSON_INDENT(2)));
    puts(text);
    free(text);
    json_decref(doc);
}

int ds_ev_print(const ds_ev_run *e, ds_error *err) {
    int width = 0;
    size_t i;
    json_t *r;
    for (int k = 0; k < DS_EV_METRICS; k++)
        if (e->lost[k].code)
            json_array_append_new(e->rows, lost_row(e, k));
    json_array_foreach(e->rows, i, r) {
        int n = (int)strlen(ds_json_string(r, "name", ""));
        width = n > width ? n : width;
    }
    if (e->o.json)
        print_document(e);
    else
        json_array_foreach(e->rows, i, r)
            print_row(r, width);
    return ds_fs_flush(stdout, "standard output", err);
}
