/* daemon/api/api_fsck.c - POST /v1/fsck. */
#include "base/json.h"
#include "base/log.h"
#include "daemon/api/api.h"
#include "daemon/care/fsck.h"
#include "daemon/api/later.h"

#include <stdlib.h>

typedef struct {
    uv_work_t work;
    ds_daemon *d;
    ds_fsck_options o;
    ds_fsck_result f;
    int rc;
    ds_error err;
    ds_later *answer;
} look;

static void on_work(uv_work_t *work) {
    look *l = work->data;
    l->rc = ds_fsck_run(&l->o, &l->f, &l->err);
}

static void on_done(uv_work_t *work, int status) {
    look *l = work->data;
    (void)status;
    if (!l->rc)
        l->rc = ds_fsck_rows(l->d->registry, &l->f, &l->err);
    json_t *doc = ds_fsck_json(&l->f, l->o.quick, l->o.repair);
    if (l->rc)
        ds_log(DS_LOG_WARN, "fsck: %s", l->err.message);
    json_object_set_new(doc, "error", l->rc ? json_string(l->err.message) : json_null());
    ds_fsck_release(&l->f, l->o.store);
    l->d->tidying = 0;
    ds_later_tell(l->answer, doc);
    free(l);
}

int ds_api_fsck(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    json_t *body = NULL;
    int rc = ds_request_json(rq, &body, err);
    const json_t *quick = json_object_get(body, "quick"), *repair = json_object_get(body, "repair");
    if (!rc && ((quick && !json_is_boolean(quick)) || (repair && !json_is_boolean(repair))))
        rc = ds_fail(err, DS_EINVAL, "'quick' and 'repair' must be true or false");
    if (!rc && json_is_true(quick) && json_is_true(repair))
        rc = ds_fail(err, DS_EINVAL, "'quick' reads no file, so there is nothing to repair by it");
    if (!rc)
        rc = ds_daemon_tidying(d, err);
    if (rc)
        return rc;
    look *l = ds_xcalloc(1, sizeof *l);
    l->d = d;
    l->o = (ds_fsck_options){d->o.state, ds_registry_store(d->registry), json_is_true(quick),
                             json_is_true(repair)};
    l->work.data = l;
    l->answer = ds_later_new(d);
    d->tidying = 1;
    uv_queue_work(&d->loop, &l->work, on_work, on_done);
    return ds_later_reply(l->answer, rq);
}
