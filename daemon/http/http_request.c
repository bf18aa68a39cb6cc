/* daemon/http/http_request.c - what a handler asks of its request, and handlers that wait. */
#include "base/json.h"
#include "base/log.h"
#include "daemon/http/http_internal.h"
#include "daemon/http/query.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOCKED_SECONDS 5.0 /* a change waits so long for another program's lock */
#define LOCKED_POLL_MS 20

const char *ds_request_param(const ds_request *rq, int i) {
    DS_ASSERT(i >= 0 && i < DS_HTTP_PARAMS);
    return rq->params[i];
}

const char *ds_request_query(ds_request *rq, const char *key) {
    return MHD_lookup_connection_value(rq->connection, MHD_GET_ARGUMENT_KIND, key);
}

const char *ds_request_header(ds_request *rq, const char *key) {
    return MHD_lookup_connection_value(rq->connection, MHD_HEADER_KIND, key);
}

int ds_request_int(ds_request *rq, const char *key, int64_t least, int64_t most, int64_t otherwise,
                   int64_t *out, ds_error *err) {
    const char *text = ds_request_query(rq, key);
    *out = otherwise;
    if (!text)
        return 0;
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno || end == text || *end || strspn(text, "-0123456789") != strlen(text) || v < least ||
        v > most)
        return ds_fail(err, DS_EINVAL,
                       "query parameter '%s' is '%.40s', must be a number from %lld to %lld", key,
                       text, (long long)least, (long long)most);
    *out = v;
    return 0;
}

int ds_request_flag(ds_request *rq, const char *key) { return ds_query_flag(rq->connection, key); }

int ds_request_accepts(ds_request *rq, const char *mime) {
    const char *accept = ds_request_header(rq, "Accept");
    return accept && strstr(accept, mime) != NULL;
}

int ds_request_json(ds_request *rq, json_t **out, ds_error *err) {
    if (!rq->json) {
        if (!rq->body.len)
            rq->json = json_object();
        else {
            int rc = ds_json_parse("request body", rq->body.data, rq->body.len, &rq->json, err);
            if (rc)
                return rc;
        }
    }
    if (!json_is_object(rq->json))
        return ds_fail(err, DS_EINVAL, "request body must be a JSON object");
    *out = rq->json;
    return 0;
}

/* ---- handlers that wait ---- */

void *ds_request_state(ds_request *rq, size_t size, void (*release)(void *state)) {
    if (!rq->state) {
        rq->state = ds_xcalloc(1, size);
        rq->release = release;
    }
    return rq->state;
}

void http_sleep(ds_request *rq) {
    ds_http *h = rq->http;
    rq->waiting = 1;
    rq->header_count = 0; /* the next call sets them again */
    LIST_INSERT_HEAD(&h->waiting, rq, link);
    MHD_suspend_connection(rq->connection);
}

void ds_request_go_on(ds_request *rq) {
    if (!rq->waiting)
        return;
    rq->waiting = rq->locked = rq->for_retry = 0;
    LIST_REMOVE(rq, link);
    MHD_resume_connection(rq->connection);
    http_run_soon(rq->http);
}

int ds_request_wait(ds_request *rq, ds_error *err) {
    if (rq->http->closing)
        return ds_fail(err, DS_EBUSY, "the daemon is stopping");
    DS_ASSERT(!rq->replied && !rq->waiting);
    rq->for_retry = 1;
    http_sleep(rq);
    return 0;
}

/* Each comes to on_request again, and may wait again. */
void ds_http_retry(ds_http *h) {
    for (ds_request *rq = h ? LIST_FIRST(&h->waiting) : NULL, *next; rq; rq = next) {
        next = LIST_NEXT(rq, link);
        if (rq->for_retry)
            ds_request_go_on(rq);
    }
}

/* All that wait for the lock go on when it is free, or one by one when they have waited enough. */
static void on_retry(uv_timer_t *t) {
    ds_http *h = t->data;
    double now = ds_monotonic();
    int still = h->o.locked(h->o.ctx, 1), left = 0;
    for (ds_request *rq = LIST_FIRST(&h->waiting), *next; rq; rq = next) {
        next = LIST_NEXT(rq, link);
        if (rq->locked && (!still || now - rq->locked_since > LOCKED_SECONDS))
            ds_request_go_on(rq);
        else
            left += rq->locked;
    }
    if (!left)
        uv_timer_stop(t);
}

int http_wait_for_lock(ds_request *rq) {
    ds_http *h = rq->http;
    double now = ds_monotonic();
    if (!h->o.locked || h->closing || !h->o.locked(h->o.ctx, 0))
        return 0;
    if (rq->locked_since == 0)
        rq->locked_since = now;
    if (now - rq->locked_since > LOCKED_SECONDS)
        return 0;
    rq->locked = 1;
    http_sleep(rq);
    if (!uv_is_active((uv_handle_t *)&h->retry))
        uv_timer_start(&h->retry, on_retry, LOCKED_POLL_MS, LOCKED_POLL_MS);
    return 1;
}
