/* daemon/api/api_prune.c - POST /v1/prune. */
#include "base/json.h"
#include "daemon/api/api.h"
#include "daemon/api/later.h"
#include "daemon/care/prune.h"

#include <stdlib.h>

typedef struct {
    ds_later *answer;
    int dry_run;
} wait;

static void done(void *ctx, const ds_prune_result *r, int rc, const ds_error *err) {
    wait *w = ctx;
    json_t *doc = json_pack(
        "{sb sI sI sI sI sI sI sI so}", "dry_run", w->dry_run, "jobs", (json_int_t)r->jobs,
        "events", (json_int_t)r->events, "folders", (json_int_t)r->folders, "checkpoints",
        (json_int_t)r->checkpoints, "caches", (json_int_t)r->caches, "files", (json_int_t)r->files,
        "bytes", (json_int_t)r->bytes, "error", rc ? json_string(err->message) : json_null());
    ds_later_tell(w->answer, doc);
    free(w);
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
    w->answer = ds_later_new(d);
    w->dry_run = o.dry_run;
    rc = ds_prune_start(d, &o, done, w, err);
    if (!rc)
        return ds_later_reply(w->answer, rq);
    ds_later_drop(w->answer);
    free(w);
    return rc;
}
