/* daemon/http/http_reply.c - answers: bytes, documents, problems, files, and streams. */
#include "base/json.h"
#include "base/log.h"
#include "daemon/http/http_internal.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEARTBEAT_SECONDS 15.0

void ds_reply_header(ds_request *rq, const char *key, const char *fmt, ...) {
    DS_ASSERT(rq->header_count < HTTP_REPLY_HEADERS);
    int i = rq->header_count++;
    snprintf(rq->headers[i].key, sizeof rq->headers[i].key, "%s", key);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(rq->headers[i].value, sizeof rq->headers[i].value, fmt, ap);
    va_end(ap);
}

static int queue_reply(ds_request *rq, int status, const char *type, struct MHD_Response *r) {
    ds_need(r);
    DS_ASSERT(!rq->replied);
    rq->replied = status;
    MHD_add_response_header(r, "Content-Type", type);
    MHD_add_response_header(r, "Cache-Control", "no-store");
    for (int i = 0; i < rq->header_count; i++)
        MHD_add_response_header(r, rq->headers[i].key, rq->headers[i].value);
    if (MHD_queue_response(rq->connection, (unsigned)status, r) != MHD_YES)
        ds_log(DS_LOG_DEBUG, "cannot queue the answer to %s %s", rq->method, rq->url);
    MHD_destroy_response(r);
    rq->http->answered++;
    ds_log(DS_LOG_DEBUG, "%s %s %d", rq->method, rq->url, status);
    return 0;
}

int ds_reply_bytes(ds_request *rq, int status, const char *type, const void *p, size_t n) {
    return queue_reply(
        rq, status, type,
        MHD_create_response_from_buffer(n, (void *)(uintptr_t)p, MHD_RESPMEM_MUST_COPY));
}

int ds_reply_take(ds_request *rq, int status, const char *type, char *p, size_t n) {
    return queue_reply(rq, status, type,
                       MHD_create_response_from_buffer(n, p, MHD_RESPMEM_MUST_FREE));
}

int ds_reply_text(ds_request *rq, int status, const char *type, const char *text) {
    return ds_reply_bytes(rq, status, type, text, strlen(text));
}

static int reply_document(ds_request *rq, int status, const char *type, json_t *doc) {
    ds_buf text = {0};
    if (doc)
        ds_json_add(&text, doc);
    else /* of text from outside that is not UTF-8; it cannot get here: say it rather than die */
        ds_buf_addf(&text, "{\"title\":\"answer is not representable\",\"code\":\"DS_EFAILED\"}");
    ds_buf_add(&text, "\n", 1);
    json_decref(doc);
    return ds_reply_take(rq, status, type, text.data, text.len);
}

int ds_reply_json(ds_request *rq, int status, json_t *doc) {
    return reply_document(rq, status, "application/json", doc);
}

/* "not found" -> ".../not-found" */
static void problem_type(char *out, size_t size, const char *title) {
    int n = snprintf(out, size, "https://diffscaler.dev/errors/%s", title);
    DS_ASSERT(n > 0 && (size_t)n < size);
    for (char *p = out; *p; p++)
        if (*p == ' ')
            *p = '-';
}

int http_reply_problem_status(ds_request *rq, int status, int code, const char *title,
                              const char *detail) {
    char type[128];
    problem_type(type, sizeof type, title);
    json_t *doc =
        json_pack("{ss ss si ss+ ss si}", "type", type, "title", title, "status", status, "detail",
                  detail, "", "code", ds_error_name(code), "exit", ds_error_exit(code));
    if (!doc) /* detail quoting bytes that are not UTF-8 */
        doc = json_pack("{ss ss si ss ss si}", "type", type, "title", title, "status", status,
                        "detail", "the detail is not valid UTF-8", "code", ds_error_name(code),
                        "exit", ds_error_exit(code));
    return reply_document(rq, status, "application/problem+json", doc);
}

int http_reply_problem(ds_request *rq, const ds_error *e) {
    if (ds_error_http(e->code) >= 500)
        ds_log(DS_LOG_WARN, "%s %s: %s", rq->method, rq->url, e->message);
    if (ds_error_http(e->code) == 503)
        ds_reply_header(rq, "Retry-After", "1");
    return http_reply_problem_status(rq, ds_error_http(e->code), e->code, ds_error_title(e->code),
                                     e->message);
}

int ds_reply_fd(ds_request *rq, const char *type, int fd, int64_t offset, int64_t n) {
    struct MHD_Response *r =
        MHD_create_response_from_fd_at_offset64((uint64_t)n, fd, (uint64_t)offset);
    if (!r)
        close(fd);
    return queue_reply(rq, 200, type, r);
}

/* ---- streams ---- */

static void stream_free(void *cls) {
    http_stream *s = cls;
    LIST_REMOVE(s, link);
    if (s->src.release)
        s->src.release(s->src.state);
    ds_buf_release(&s->pending);
    free(s);
}

static ssize_t stream_read(void *cls, uint64_t pos, char *buf, size_t max) {
    http_stream *s = cls;
    (void)pos;
    if (s->sent == s->pending.len) {
        ds_buf_release(&s->pending);
        s->sent = 0;
        if (!s->ended)
            s->ended = s->src.fill(s->src.state, &s->pending);
        if (!s->pending.len && s->heartbeat && !s->ended)
            ds_buf_addf(&s->pending, "%s", s->src.heartbeat);
        s->heartbeat = 0;
    }
    size_t n = s->pending.len - s->sent;
    if (n == 0) {
        if (s->ended)
            return MHD_CONTENT_READER_END_OF_STREAM;
        s->suspended = 1;
        MHD_suspend_connection(s->connection);
        return 0;
    }
    if (n > max)
        n = max;
    memcpy(buf, s->pending.data + s->sent, n);
    s->sent += n;
    s->last_sent = ds_monotonic();
    return (ssize_t)n;
}

int ds_reply_stream(ds_request *rq, const char *type, const ds_stream_source *src) {
    http_stream *s = ds_xcalloc(1, sizeof *s);
    s->http = rq->http;
    s->connection = rq->connection;
    s->src = *src;
    s->last_sent = ds_monotonic();
    s->fd = rq->owner ? rq->owner->fd : -1;
    LIST_INSERT_HEAD(&rq->http->streams, s, link);
    return queue_reply(
        rq, 200, type,
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, stream_read, s, stream_free));
}

void http_stream_resume(http_stream *s) {
    if (!s->suspended)
        return;
    s->suspended = 0;
    MHD_resume_connection(s->connection);
    http_run_soon(s->http);
}

void ds_http_wake(ds_http *h) {
    if (!h)
        return;
    http_stream *s;
    LIST_FOREACH(s, &h->streams, link)
        http_stream_resume(s);
}

void http_streams_tick(ds_http *h, double now) {
    http_stream *s;
    LIST_FOREACH(s, &h->streams, link) {
        if (!s->suspended)
            continue;
        struct pollfd p = {.fd = s->fd};
        int gone = s->fd >= 0 && poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR));
        if (gone)
            s->ended = 1;
        else if (s->src.heartbeat && now - s->last_sent >= HEARTBEAT_SECONDS)
            s->heartbeat = 1;
        else
            continue;
        http_stream_resume(s);
    }
}
