/* worker/job/events.c - the writer of events.ndjson. */
#include "worker/job/events.h"
#include "base/log.h"
#include "base/mem.h"
#include "contract/job.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct ds_events {
    int fd;
    int torn;   /* the last line may have no newline */
    int failed; /* said so on stderr */
    char stage[24];
    double start, last;     /* monotonic: of the stage, of its last progress event */
    double origin;          /* done at the first progress of the stage */
    int has_origin, at_end; /* at_end: done == total was written */
};

int ds_events_open(ds_events **out, const char *dir, ds_error *err) {
    char path[PATH_MAX], last = '\n';
    snprintf(path, sizeof path, "%s/" DS_FILE_EVENTS, dir);
    int fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
    if (fd < 0)
        return ds_fail_errno(err, "cannot open '%s'", path);
    off_t size = lseek(fd, 0, SEEK_END);
    if (size > 0 && pread(fd, &last, 1, size - 1) != 1)
        last = 0;
    ds_events *e = ds_xcalloc(1, sizeof *e);
    e->fd = fd;
    e->torn = last != '\n';
    *out = e;
    return 0;
}

void ds_events_close(ds_events *e) {
    if (!e)
        return;
    close(e->fd);
    free(e);
}

/* Takes the object.  The time goes first. */
static void put(ds_events *e, json_t *members) {
    json_t *doc = json_pack("{s:I}", "t", (json_int_t)ds_now_ms());
    json_object_update(doc, members);
    json_decref(members);
    char *text = json_dumps(doc, JSON_COMPACT | JSON_REAL_PRECISION(8));
    json_decref(doc);
    DS_ASSERT(text);
    ds_buf b = {0};
    ds_buf_addf(&b, "%s%s\n", e->torn ? "\n" : "", text);
    free(text);
    ssize_t n;
    do
        n = write(e->fd, b.data, b.len);
    while (n < 0 && errno == EINTR);
    if (n != (ssize_t)b.len && !e->failed) {
        e->failed = 1;
        ds_log(DS_LOG_WARN, "cannot write " DS_FILE_EVENTS ": %s",
               n < 0 ? strerror(errno) : "cut off");
    }
    e->torn = n > 0 ? n != (ssize_t)b.len : n < 0 && e->torn;
    ds_buf_release(&b);
}

static json_t *event(const char *type) { return json_pack("{s:s}", "type", type); }

static void set_text(json_t *doc, const char *key, const char *text) {
    json_object_set_new(doc, key, ds_json_text(text)); /* as a foreign path may not be */
}

static void set_number(json_t *doc, const char *key, double x) {
    if (isfinite(x))
        json_object_set_new(doc, key, json_real(x));
}

void ds_events_stage(ds_events *e, const char *stage, const char *fmt, ...) {
    char detail[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(detail, sizeof detail, fmt, ap);
    va_end(ap);
    snprintf(e->stage, sizeof e->stage, "%s", stage);
    e->start = ds_monotonic();
    e->last = -1;
    e->has_origin = e->at_end = 0;
    json_t *doc = event("stage");
    json_object_set_new(doc, "stage", json_string(stage));
    set_text(doc, "detail", detail);
    put(e, doc);
    ds_log(DS_LOG_INFO, "%s%s%s", stage, *detail ? ": " : "", detail);
}

void ds_events_progress(ds_events *e, double done, double total, const char *unit, double loss,
                        double images_per_second) {
    double now = ds_monotonic();
    int end = total > 0 && done >= total;
    if (!e->has_origin) {
        e->has_origin = 1;
        e->origin = done;
        e->start = now;
    }
    if ((end && e->at_end) || (!end && e->last >= 0 && now - e->last < 1.0 / DS_EVENTS_PER_SECOND))
        return;
    e->last = now;
    e->at_end = end;
    json_t *doc = event("progress");
    json_object_set_new(doc, "stage", json_string(e->stage));
    json_object_set_new(doc, "done", json_integer((json_int_t)done));
    json_object_set_new(doc, "total", json_integer((json_int_t)total));
    json_object_set_new(doc, "unit", json_string(unit));
    double rate = now > e->start ? (done - e->origin) / (now - e->start) : 0;
    if (rate > 0) {
        set_number(doc, "rate", rate);
        if (total > 0)
            set_number(doc, "eta_seconds", (total - done) / rate);
    }
    set_number(doc, "loss", loss);
    set_number(doc, "images_per_second", images_per_second);
    put(e, doc);
}

void ds_events_metric(ds_events *e, const char *key, int step, double value) {
    json_t *doc = event("metric");
    json_object_set_new(doc, "key", json_string(key));
    json_object_set_new(doc, "step", json_integer(step));
    set_number(doc, "value", value);
    put(e, doc);
}

static void step_event(ds_events *e, const char *type, int step) {
    json_t *doc = event(type);
    json_object_set_new(doc, "step", json_integer(step));
    put(e, doc);
}

void ds_events_plan(ds_events *e, const json_t *plan) {
    json_t *doc = event("plan");
    json_object_set_new(doc, "plan", json_deep_copy(plan));
    put(e, doc);
}

void ds_events_checkpoint(ds_events *e, int step) { step_event(e, "checkpoint", step); }

void ds_events_resumed(ds_events *e, int step) {
    step_event(e, "resumed", step);
    ds_log(DS_LOG_INFO, "resumed from the checkpoint of step %d", step);
}

void ds_events_ending(ds_events *e, const char *why, int from, int last, const char *fmt, ...) {
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    json_t *doc = event("ending");
    json_object_set_new(doc, "why", json_string(why));
    json_object_set_new(doc, "from", json_integer(from));
    json_object_set_new(doc, "last", json_integer(last));
    set_text(doc, "message", text);
    put(e, doc);
    ds_log(DS_LOG_INFO, "%s", text);
}

void ds_events_stopped(ds_events *e, const char *reason) {
    json_t *doc = event("stopped");
    set_text(doc, "reason", reason);
    put(e, doc);
    ds_log(DS_LOG_INFO, "stopped: %s", reason);
}

void ds_events_warning(ds_events *e, const char *fmt, ...) {
    char text[768];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    json_t *doc = event("warning");
    set_text(doc, "message", text);
    put(e, doc);
    ds_log(DS_LOG_WARN, "%s", text);
}

void ds_events_note(ds_events *e, const char *fmt, ...) {
    char text[768];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    json_t *doc = event("note");
    set_text(doc, "message", text);
    put(e, doc);
    ds_log(DS_LOG_INFO, "%s", text);
}

void ds_events_error(ds_events *e, const ds_error *err) {
    json_t *doc = event("error");
    json_object_set_new(doc, "code", json_string(ds_error_name(err->code)));
    set_text(doc, "message", err->message);
    put(e, doc);
}

void ds_events_done(ds_events *e) { put(e, event("done")); }
