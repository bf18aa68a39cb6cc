/* daemon/api/api_events.c - /v1/events: the registry's events from a cursor, as SSE or NDJSON.
 *
 * A follower sleeps until the registry commits an event or a worker reports progress.  Progress is
 * not stored: it is made here from what the slots know, carries the last stored seq, and moves no
 * cursor. */
#include "base/json.h"
#include "base/log.h"
#include "daemon/api/api.h"
#include "daemon/jobs/workers.h"
#include "registry/core/events.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PER_FILL 200
#define MAX_RUNNING 80

typedef struct {
    ds_daemon *d;
    int64_t since;
    int follow, sse, progress;
    char type[64];
    struct {
        int64_t job;
        uint64_t revision;
    } seen[MAX_RUNNING];
} event_stream;

static void add_event(event_stream *s, ds_buf *out, const json_t *e, int64_t id) {
    char *text = json_dumps(e, JSON_COMPACT);
    if (!text)
        return;
    if (!s->sse)
        ds_buf_addf(out, "%s\n", text);
    else {
        if (id)
            ds_buf_addf(out, "id: %lld\n", (long long)id);
        ds_buf_addf(out, "event: %s\ndata: %s\n\n", ds_json_string(e, "type", "message"), text);
    }
    free(text);
}

static void add_progress(event_stream *s, ds_buf *out) {
    ds_running now[MAX_RUNNING];
    int n = ds_workers_running(s->d->workers, now, MAX_RUNNING);
    for (int i = 0; i < n; i++) {
        uint64_t before = 0;
        for (int j = 0; j < MAX_RUNNING; j++)
            if (s->seen[j].job == now[i].job)
                before = s->seen[j].revision;
        if (!now[i].revision || now[i].revision == before)
            continue;
        char at[32], subject[40];
        ds_time_rfc3339(at, ds_now_ms());
        snprintf(subject, sizeof subject, "job:%lld", (long long)now[i].job);
        json_t *progress = now[i].progress ? json_deep_copy(now[i].progress) : json_null();
        json_t *e = json_pack("{sI ss ss ss s{sI ss ss ss so}}", "seq", (json_int_t)s->since, "at",
                              at, "type", "job.progress", "subject", subject, "payload", "job",
                              (json_int_t)now[i].job, "kind", ds_job_kind_name(now[i].kind),
                              "dataset", now[i].name, "stage", now[i].stage, "progress", progress);
        if (e)
            add_event(s, out, e, 0);
        json_decref(e);
    }
    memset(s->seen, 0, sizeof s->seen);
    for (int i = 0; i < n; i++) {
        s->seen[i].job = now[i].job;
        s->seen[i].revision = now[i].revision;
    }
}

static int fill(void *state, ds_buf *out) {
    event_stream *s = state;
    json_t *list = NULL, *e;
    size_t i;
    ds_error err;
    if (ds_events_list(s->d->registry, s->since, *s->type ? s->type : NULL, PER_FILL, &list,
                       &err)) {
        ds_log(DS_LOG_WARN, "cannot read events: %s", err.message);
        return 1; /* the reader comes back with its cursor */
    }
    json_array_foreach(list, i, e) {
        s->since = ds_json_int(e, "seq", s->since);
        add_event(s, out, e, s->since);
    }
    int more = json_array_size(list) == PER_FILL;
    json_decref(list);
    if (!s->follow)
        return !more;
    if (!more && s->progress)
        add_progress(s, out);
    return 0;
}

/* since, Last-Event-ID, or: all for a list, only what is new for a follower. */
static int cursor(ds_request *rq, ds_daemon *d, int follow, int64_t *since, ds_error *err) {
    const char *last = ds_request_header(rq, "Last-Event-ID");
    if (last && *last) {
        char *end;
        errno = 0;
        *since = strtoll(last, &end, 10);
        if (errno || end == last || *end || *since < 0)
            return ds_fail(err, DS_EINVAL, "Last-Event-ID must be the number of an event");
        return 0;
    }
    int64_t otherwise = follow ? ds_event_last_seq(d->registry) : 0;
    return ds_request_int(rq, "since", 0, INT64_MAX, otherwise, since, err);
}

int ds_api_events(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    int follow = ds_request_flag(rq, "follow");
    int64_t since = 0;
    const char *type = ds_request_query(rq, "type");
    int rc = cursor(rq, d, follow, &since, err);
    if (!rc && type && strlen(type) >= sizeof((event_stream *)0)->type)
        rc = ds_fail(err, DS_EINVAL, "event type is too long");
    if (!rc && type)
        rc = ds_event_type_check(d->registry, type, err);
    if (rc)
        return rc;
    event_stream *s = ds_xcalloc(1, sizeof *s);
    s->d = d;
    s->since = since;
    s->follow = follow;
    s->sse = ds_request_accepts(rq, "text/event-stream");
    snprintf(s->type, sizeof s->type, "%s", type ? type : "");
    s->progress = !*s->type || strcmp(s->type, "job.") == 0 || strcmp(s->type, "job.progress") == 0;
    ds_stream_source src = {fill, free, s, s->sse ? ": heartbeat\n\n" : NULL};
    return ds_reply_stream(rq, s->sse ? "text/event-stream" : "application/x-ndjson", &src);
}
