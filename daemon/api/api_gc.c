/* daemon/api/api_gc.c - /v1/gc.  The files go on a thread of the pool; the answer comes later. */
#include "base/json.h"
#include "base/log.h"
#include "daemon/api/api.h"
#include "daemon/care/gc.h"
#include "daemon/api/later.h"
#include "registry/store/blobs.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    uv_work_t work;
    ds_daemon *d;
    ds_gc *gc;
    double grace_seconds;
    int dry_run;
    ds_later *answer;
} tidy;

static json_t *part_json(const ds_gc_part *p) {
    return json_pack("{sI sI sI}", "removed", (json_int_t)p->files, "bytes", (json_int_t)p->bytes,
                     "young", (json_int_t)p->young);
}

static void on_work(uv_work_t *work) {
    tidy *t = work->data;
    ds_gc_files(t->gc);
}

static void answer(tidy *t, int failed, const ds_error *why) {
    ds_gc_result r;
    ds_error err = {0};
    int rc = ds_gc_end(t->gc, &r, &err);
    if (failed)
        err = *why;
    if (rc || failed)
        ds_log(DS_LOG_WARN, "gc: %s", err.message);
    json_t *doc = json_pack(
        "{sb sf so so so sb so}", "dry_run", t->dry_run, "grace_seconds", t->grace_seconds, "blobs",
        part_json(&r.blobs), "caches", part_json(&r.caches), "models", part_json(&r.models),
        "importing", r.importing, "error", rc || failed ? json_string(err.message) : json_null());
    t->d->removing--;
    t->d->tidying = 0;
    if (!t->d->stopping)
        ds_daemon_poke(t->d);
    ds_later_tell(t->answer, doc);
    free(t);
}

/* Some blobs more, or the answer.  Between two turns the loop does whatever else there is. */
static void on_done(uv_work_t *work, int status) {
    tidy *t = work->data;
    ds_error err = {0};
    (void)status;
    int more = t->d->stopping ? 0 : ds_gc_next(t->gc, &err);
    if (more > 0)
        uv_queue_work(&t->d->loop, &t->work, on_work, on_done);
    else
        answer(t, more, &err);
}

static int start(ds_request *rq, ds_daemon *d, int64_t ms, int dry_run, ds_error *err) {
    ds_gc *gc = NULL;
    int rc = ds_gc_begin(d, ms, dry_run, &gc, err);
    if (rc)
        return rc;
    tidy *t = ds_xcalloc(1, sizeof *t);
    t->d = d;
    t->gc = gc;
    t->grace_seconds = (double)ms / 1000;
    t->dry_run = dry_run;
    t->work.data = t;
    t->answer = ds_later_new(d);
    d->tidying = 1;
    d->removing++;
    uv_queue_work(&d->loop, &t->work, on_work, on_done);
    return ds_later_reply(t->answer, rq);
}

int ds_api_gc(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    json_t *body = NULL;
    int rc = ds_request_json(rq, &body, err);
    const json_t *dry = json_object_get(body, "dry_run"),
                 *grace = json_object_get(body, "grace_seconds");
    if (!rc && dry && !json_is_boolean(dry))
        rc = ds_fail(err, DS_EINVAL, "'dry_run' must be true or false");
    /* less than a minute would take blobs from under a result that is being published */
    if (!rc && grace &&
        !(json_is_number(grace) && json_number_value(grace) >= 60 &&
          json_number_value(grace) <= 1e9))
        rc = ds_fail(err, DS_EINVAL, "'grace_seconds' must be a number from 60 to 1e9");
    if (!rc)
        rc = ds_daemon_tidying(d, err);
    if (rc)
        return rc;
    int64_t ms = grace ? (int64_t)(json_number_value(grace) * 1000) : DS_SWEEP_GRACE_MS;
    return start(rq, d, ms, json_is_true(dry), err);
}
