/* cli/commands/cmd_events.c - events of the registry, from a cursor, once or for ever. */
#include "base/mem.h"
#include "cli/client.h"
#include "cli/format.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    ds_cli *c;
    int64_t last_seq; /* where to go on after a lost connection */
    int64_t since_ms; /* earlier events are left out; 0: none */
    int live;         /* print at once, one document a line */
    json_t *items;    /* else they are collected here */
} reader;

static void payload_text(const json_t *payload, ds_buf *out) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)payload, key, v) {
        if (json_is_string(v)) {
            ds_buf_addf(out, "  %s=%s", key, json_string_value(v));
        } else if (!json_is_null(v)) {
            char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
            ds_buf_addf(out, "  %s=%s", key, text ? text : "");
            free(text);
        }
    }
}

static void print_event(ds_cli *c, const json_t *e) {
    char when[DS_TEXT];
    ds_buf line = {0}, cut = {0};
    ds_buf_addf(&line, "%6lld  %-12s  %-18s  %s", (long long)ds_json_int(e, "seq", 0),
                ds_fmt_time(when, ds_json_string(e, "at", NULL)), ds_json_string(e, "type", "-"),
                ds_json_string(e, "subject", ""));
    payload_text(json_object_get(e, "payload"), &line);
    ds_clean(c, &cut, line.data, c->out_tty ? c->width : 0);
    fprintf(c->out, "%s\n", cut.data);
    fflush(c->out);
    ds_buf_release(&line);
    ds_buf_release(&cut);
}

static int take_event(reader *r, json_t *e) {
    int64_t seq = ds_json_int(e, "seq", 0);
    if (!strcmp(ds_json_string(e, "type", ""), "job.progress")) {
        /* Not stored: it moves no cursor, and is shown to those who ask for everything. */
        if (!r->c->json && !ds_opt_given(r->c, "type"))
            return 0;
    } else if (seq <= r->last_seq) {
        return 0;
    } else {
        r->last_seq = seq;
    }
    if (r->since_ms && ds_time_parse(ds_json_string(e, "at", NULL)) < r->since_ms)
        return 0;
    if (r->c->quiet)
        fprintf(r->c->out, "%lld\n", (long long)seq);
    else if (!r->c->json)
        print_event(r->c, e);
    else if (r->live)
        ds_print_json(r->c, "event", e, 1);
    else
        json_array_append(r->items, e);
    return 0;
}

static int on_line(void *ud, const char *line, size_t n) {
    reader *r = ud;
    size_t i;
    json_t *e = json_loadb(line, n, 0, NULL), *item;
    json_t *items = json_object_get(e, "items");
    if (json_is_array(items)) {
        json_array_foreach(items, i, item) {
            take_event(r, item);
        }
    } else if (json_is_object(e)) {
        take_event(r, e);
    }
    json_decref(e);
    return ds_cli_interrupted != 0;
}

static int read_events(reader *r, int follow, ds_error *err) {
    ds_buf path = {0};
    ds_buf_addf(&path, "/v1/events");
    ds_url_query_int(&path, "since", r->last_seq);
    if (follow)
        ds_url_query(&path, "follow", "1");
    if (ds_opt_given(r->c, "type"))
        ds_url_query(&path, "type", ds_opt_text(r->c, "type", ""));
    int rc = ds_client_lines(r->c->http, path.data, "application/x-ndjson", on_line, r, err);
    ds_buf_release(&path);
    return rc;
}

/* A daemon that restarts or cuts the stream is asked again from the cursor; one that was never
 * there is an error. */
static int follow(reader *r, ds_error *err) {
    for (int first = 1;; first = 0) {
        int rc = read_events(r, 1, err);
        if (ds_cli_interrupted || rc == DS_ECANCELED)
            return ds_fail(err, DS_ECANCELED, "interrupted"); /* a script must see it: exit 130 */
        if (ferror(r->c->out))
            return 0; /* reported at the end */
        if (rc && (first || rc != DS_EUNREACHABLE))
            return rc;
        if ((rc = ds_cli_sleep(0.5, err)))
            return rc;
    }
}

/* Pages of a long history: until an answer brings nothing new. */
static int read_all(reader *r, ds_error *err) {
    int64_t before;
    int rc;
    do {
        before = r->last_seq;
        rc = read_events(r, 0, err);
    } while (!rc && r->last_seq > before);
    return rc;
}

int ds_cmd_events(ds_cli *c, ds_error *err) {
    const char *since = ds_opt_text(c, "since", NULL);
    int live = ds_opt_given(c, "follow"), rc = 0;
    reader r = {.c = c, .live = live};
    if (since) {
        char *end;
        double ms = 0;
        r.last_seq = strtoll(since, &end, 10);
        if (*end) {
            r.last_seq = 0;
            if ((rc = ds_parse_when(since, &ms, err)))
                return ds_error_prefix(err, "option --since");
            r.since_ms = (int64_t)ms;
        }
    }
    if (live && !since) { /* from now on; a cursor also survives a restart of the daemon */
        json_t *status = NULL;
        if ((rc = ds_client_call(c->http, "GET", "/v1/status", NULL, &status, err)))
            return rc;
        r.last_seq = ds_json_int(status, "event_seq", 0);
        json_decref(status);
    }
    r.items = json_array();
    rc = live ? follow(&r, err) : read_all(&r, err);
    if (!rc && c->json && !live) {
        char next[32];
        snprintf(next, sizeof next, "%lld", (long long)r.last_seq);
        ds_print_json_list(c, "events", r.items, next);
    }
    json_decref(r.items);
    return rc;
}
