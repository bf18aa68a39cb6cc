/* daemon/api/api_status.c - is it alive, what is it, how is it doing. */
#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"
#include "daemon/api/api.h"
#include "daemon/folders/watch.h"
#include "daemon/jobs/workers.h"
#include "registry/jobs/jobs.h"
#include "registry/core/place.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

enum { FAILED_SHOWN = 10 }; /* trainings; how many there are is said */

int ds_api_root(ds_request *rq, void *ctx, ds_error *err) {
    (void)ctx, (void)err;
    return ds_reply_text(rq, 200, "text/plain",
                         "diffscalerd " DS_VERSION "\n"
                         "The API is under /v1 (docs/api.md); begin with /v1/status.\n");
}

int ds_api_health(ds_request *rq, void *ctx, ds_error *err) {
    (void)ctx, (void)err;
    return ds_reply_text(rq, 200, "text/plain", "ok\n");
}

int ds_api_ready(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    if (d->stopping)
        return ds_fail(err, DS_EBUSY, "the daemon is stopping");
    ds_error why;
    int rc = ds_registry_in_place(d->registry, &why);
    if (rc)
        return ds_fail(err, DS_EBUSY, "%s", why.message);
    int64_t last;
    if (ds_job_last_id(d->registry, &last, &why))
        return ds_fail(err, DS_EBUSY, "the registry cannot be read: %s", why.message);
    if (access(d->o.state, W_OK))
        return ds_fail(err, DS_EBUSY, "state folder '%s' is not writable", d->o.state);
    return ds_reply_text(rq, 200, "text/plain", "ok\n");
}

int ds_api_metrics(ds_request *rq, void *ctx, ds_error *err) {
    (void)err;
    ds_buf out = {0};
    ds_metrics_write(ctx, &out);
    int rc = ds_reply_bytes(rq, 200, "text/plain; version=0.0.4; charset=utf-8", out.data, out.len);
    ds_buf_release(&out);
    return rc;
}

int ds_api_version(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    (void)err;
    return ds_reply_json(rq, 200,
                         json_pack("{ss si si sI}", "version", DS_VERSION, "api", 1, "schema",
                                   ds_registry_schema(d->registry), "pid", (json_int_t)getpid()));
}

static json_t *running_jobs(ds_daemon *d) {
    ds_running running[80];
    int n = ds_workers_running(d->workers, running, 80);
    json_t *list = json_array(), *job = NULL;
    for (int i = 0; i < n; i++) {
        if (ds_job_get(d->registry, running[i].job, &job, NULL))
            continue;
        ds_api_overlay(d, job);
        json_array_append_new(list, job);
    }
    return list;
}

int ds_api_status(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    json_t *doc = NULL;
    char started[32];
    int rc = ds_registry_counts(d->registry, &doc, err);
    if (rc)
        return rc;
    ds_time_rfc3339(started, d->started_ms);
    json_t *own = json_pack("{ss sI ss ss ss sf si sb sI}", "version", DS_VERSION, "pid",
                            (json_int_t)getpid(), "started_at", started, "state_dir", d->o.state,
                            "socket", d->o.socket, "uptime_seconds", ds_monotonic() - d->started,
                            "workers", d->o.workers, "queue_paused", d->o.workers == 0,
                            "disk_free_bytes", (json_int_t)ds_fs_free_bytes(d->o.state));
    json_object_update_new(doc, own);
    json_object_set_new(
        doc, "device",
        json_pack("{ss ss?}", "kind", "auto", "class", *d->device_class ? d->device_class : NULL));
    json_object_set_new(doc, "watch",
                        json_pack("{si sI ss}", "directories", (int)ds_watch_dirs(d->watch),
                                  "overflows", (json_int_t)ds_watch_overflows(d->watch), "note",
                                  ds_watch_note(d->watch)));
    json_object_set_new(doc, "listen", *d->listen ? json_string(d->listen) : json_null());
    json_object_set_new(doc, "running", running_jobs(d));
    json_t *failed = NULL;
    int64_t count = 0;
    rc = ds_jobs_failed_trainings(d->registry, FAILED_SHOWN, &failed, &count, err);
    json_object_set_new(doc, "failed_trainings",
                        rc ? json_null()
                           : json_pack("{sI so}", "count", (json_int_t)count, "items", failed));
    return ds_reply_json(rq, 200, doc);
}

/* As SIGTERM does: the answer goes out first, since the signal is taken by the loop's next turn. */
int ds_api_stop(ds_request *rq, void *ctx, ds_error *err) {
    (void)ctx;
    if (kill(getpid(), SIGTERM))
        return ds_fail_errno(err, "cannot stop");
    return ds_reply_json(rq, 202, json_pack("{sb sI}", "stopping", 1, "pid", (json_int_t)getpid()));
}
