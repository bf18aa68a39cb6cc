/* daemon/http/http.h - HTTP/1.1 on a unix socket or a TCP port, driven by the libuv loop.
 *
 * libmicrohttpd parses; this file owns the listening socket, the limits, the dispatch over one
 * table of routes, problem+json, and long streams that sleep (suspended connections) until
 * ds_http_wake().  No thread of its own: libmicrohttpd's epoll descriptor sits under a uv_poll and
 * its next time-out under a uv_timer, so an idle server costs no wake-up.
 *
 * Limits: body 1 MiB (413), headers 16 KiB (431), all bodies that are arriving 16 MiB,
 * `idle_seconds` for a request to arrive in full and for every pause while it is answered,
 * `max_connections`.  Where the last two limits are near, who has been idle for longest is cut
 * off, so that nobody is shut out by those who send nothing.
 * Thread: loop thread only.  A handler answers in the call, or returns DS_HTTP_WAIT and is called
 * again later, or returns a negative code, which becomes a problem+json document.
 */
#ifndef DS_DAEMON_HTTP_HTTP_H
#define DS_DAEMON_HTTP_HTTP_H

#include "base/error.h"
#include "base/mem.h"

#include <jansson.h>
#include <stdint.h>
#include <uv.h>

#define DS_HTTP_BODY_MAX (1 << 20)
#define DS_HTTP_BODIES_MAX (16 << 20) /* of all requests that are arriving, together */
#define DS_HTTP_HEADER_MAX (16 << 10)
#define DS_HTTP_PARAMS 3
#define DS_HTTP_PARAM_MAX 256

typedef struct ds_http ds_http;
typedef struct ds_request ds_request;

/* 0 after exactly one ds_reply_*; DS_HTTP_WAIT after it saw to it that ds_request_go_on will be
 * called, which calls it again from its beginning; a negative code (err filled) and no reply
 * otherwise. */
#define DS_HTTP_WAIT 1
typedef int (*ds_handler)(ds_request *rq, void *ctx, ds_error *err);

/* pattern: "/v1/datasets/{}/rejected"; each {} is one non-empty path segment.
 * query: the parameters that it knows, "limit|follow?": one with a '?' is a flag.  body: the
 * members that it knows, "path|name"; NULL: it takes none.  What is not named there, is there twice
 * or is empty is answered with 400, so that a misspelt filter does not mean "all". */
typedef struct {
    const char *method, *pattern;
    ds_handler fn;
    const char *query, *body;
} ds_route;

typedef struct {
    const char *socket_path; /* or, when NULL: */
    int listen_fd;           /* a listening TCP socket, taken over also on failure ... */
    const char *token; /* ... and the digest of the token (daemon/http/tcp.h) each request needs */
    const ds_route *routes;
    size_t route_count;
    void *ctx; /* for the handlers */
    /* DS_EBUSY from a handler, which has changed nothing: whether (probe 0) or still (probe 1) a
     * lock is the reason.  Then the handler is called again when it is free, for up to 5 s.  NULL:
     * never. */
    int (*locked)(void *ctx, int probe);
    unsigned max_connections, idle_seconds;
} ds_http_options;

/* Makes the socket (mode 0660).  A socket file that nobody answers on is replaced: call only with
 * the state lock held.  DS_ECONFLICT when another program answers there, DS_EINVAL for a path that
 * does not fit a socket address. */
int ds_http_open(ds_http **out, uv_loop_t *loop, const ds_http_options *o, ds_error *err);
void ds_http_quiesce(ds_http *h); /* no new connections; the socket file goes away */
void ds_http_close(ds_http *h); /* ends streams and connections; NULL is fine; run the loop after */
/* These take NULL for a server that is not there. */
void ds_http_wake(ds_http *h);  /* something that streams may wait for has happened */
void ds_http_retry(ds_http *h); /* requests that wait are handled again */
void ds_http_tick(ds_http *h);  /* once a second: slow clients, heartbeats, vanished readers */
unsigned ds_http_connections(const ds_http *h);
uint64_t ds_http_requests(const ds_http *h); /* answered since the start */

/* What a handler that waits remembers: zeroed at the first call, then the same; released (the
 * memory is not the handler's to free) when the request ends, whether it was answered or not. */
void *ds_request_state(ds_request *rq, size_t size, void (*release)(void *state));
void ds_request_go_on(ds_request *rq);

/* Request: all pointers live until the reply is sent. */
const char *ds_request_param(const ds_request *rq, int i);
const char *ds_request_query(ds_request *rq, const char *key); /* NULL when absent */
const char *ds_request_header(ds_request *rq, const char *key);
int ds_request_int(ds_request *rq, const char *key, int64_t least, int64_t most, int64_t otherwise,
                   int64_t *out, ds_error *err);
int ds_request_flag(ds_request *rq, const char *key); /* "1", "true", "yes", or without a value */
int ds_request_accepts(ds_request *rq, const char *mime); /* named in Accept */
/* The body as one JSON object (borrowed); an empty body gives an empty object. */
int ds_request_json(ds_request *rq, json_t **out, ds_error *err);

/* The answer comes later: the handler, which returns what this returns, is called again with the
 * same request after ds_http_retry.  0, or DS_EBUSY while the server closes. */
int ds_request_wait(ds_request *rq, ds_error *err);

/* Replies.  Headers set before the reply are added to it (at most 6). */
void ds_reply_header(ds_request *rq, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
int ds_reply_json(ds_request *rq, int status, json_t *doc); /* takes doc over; returns 0 */
int ds_reply_bytes(ds_request *rq, int status, const char *type, const void *p, size_t n);
/* takes p (malloc'ed) over */
int ds_reply_take(ds_request *rq, int status, const char *type, char *p, size_t n);
int ds_reply_text(ds_request *rq, int status, const char *type, const char *text);
/* The bytes [offset, offset+n) of a file; takes fd over. */
int ds_reply_fd(ds_request *rq, const char *type, int fd, int64_t offset, int64_t n);

/* A stream: fill appends what there is now (about 64 KiB at most) and returns 0, or 1 at the end.
 * Nothing appended = sleep until ds_http_wake().  release runs once, also when the client goes. */
typedef struct {
    int (*fill)(void *state, ds_buf *out);
    void (*release)(void *state);
    void *state;
    const char *heartbeat; /* sent after 15 s of silence; NULL: none */
} ds_stream_source;
int ds_reply_stream(ds_request *rq, const char *type, const ds_stream_source *src);

#endif
