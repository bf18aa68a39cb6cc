/* daemon/api_prune.c - POST /v1/prune.
 *
 * As with gc, the answer is a stream that says nothing until it is done; the work goes on when the
 * reader is gone. */
#include "base/json.h"
#include "daemon/api.h"
#include "daemon/prune.h"

#include <stdlib.h>

typedef struct {
    ds_daemon *d;
    ds_prune_options o;
    int done, gone; /* the work is done; the reader is gone */
    char *text;     /* the answer */
} wait;

static void finish(wait *w) {
    if (!w->done || !w->gone)
        return;
    free(w->text);
    free(w);
}

static void done(void *ctx, const ds_prune_result *r, int rc, const ds_error *err) {
    wait *w = ctx;
    json_t *doc = json_pack(
        "{sb sI sI sI sI sI sI sI so}", "dry_run", w->o.dry_run, "jobs", (json_int_t)r->jobs,
        "events", (json_int_t)r->events, "folders", (json_int_t)r->folders, "checkpoints",
        (json_int_t)r->checkpoints, "caches", (json_int_t)r->caches, "files", (json_int_t)r->files,
        "bytes", (json_int_t)r->bytes, "error", rc ? json_string(err->message) : json_null());
    w->text = doc ? json_dumps(doc, JSON_COMPACT) : NULL;
    json_decref(doc);
    w->done = 1;
    if (!w->d->stopping)
        ds_daemon_wake(w->d);
    finish(w);
}

static int fill(void *state, ds_buf *out) {
    wait *w = state;
    if (!w->done)
        return 0;
    ds_buf_addf(out, "%s\n", w->text ? w->text : "{}");
    return 1;
}

static void reader_gone(void *state) {
    wait *w = state;
    w->gone = 1;
    finish(w);
}

static int seconds_of(const json_t *body, const char *key, double *out, ds_error *err) {
    const json_t *v = json_object_get(body, key);
    if (!v)
        return 0;
    if (!json_is_number(v) || json_number_value(v) < 0 || json_number_value(v) > 1e10)
        return ds_fail(err, DS_EINVAL, "'%s' must be a number from 0 to 1e10", key);
    *out = json_number_value(v);
    return 0;
}

int ds_api_prune(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    json_t *body = NULL;
    ds_prune_options o;
    ds_prune_defaults(d, &o);
    int rc = ds_request_json(rq, &body, err);
    const json_t *dry = json_object_get(body, "dry_run");
    if (!rc && dry && !json_is_boolean(dry))
        rc = ds_fail(err, DS_EINVAL, "'dry_run' must be true or false");
    if (!rc)
        rc = seconds_of(body, "jobs_seconds", &o.jobs, err);
    if (!rc)
        rc = seconds_of(body, "folders_seconds", &o.folders, err);
    if (!rc)
        rc = seconds_of(body, "events_seconds", &o.events, err);
    if (rc)
        return rc;
    o.dry_run = json_is_true(dry);
    wait *w = ds_xcalloc(1, sizeof *w);
    w->d = d;
    w->o = o;
    rc = ds_prune_start(d, &o, done, w, err);
    if (rc) {
        free(w);
        return rc;
    }
    ds_stream_source src = {fill, reader_gone, w, NULL};
    return ds_reply_stream(rq, "application/json", &src);
}
