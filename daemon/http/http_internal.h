/* daemon/http/http_internal.h - what the files of the server share.
 *
 *   http.c           libmicrohttpd under the loop, connections and their limits, dispatch
 *   http_request.c   what a handler asks of its request; handlers that wait
 *   http_reply.c     what it answers; streams
 *
 * Internal to daemon/http/.  Thread: loop thread.
 */
#ifndef DS_DAEMON_HTTP_HTTP_INTERNAL_H
#define DS_DAEMON_HTTP_HTTP_INTERNAL_H

#include "daemon/http/http.h"

#include <microhttpd.h>
#include <sys/queue.h>
#include <sys/un.h>

#define HTTP_REPLY_HEADERS 6

/* One accepted connection: only what the rules for slow clients need. */
typedef struct http_conn {
    LIST_ENTRY(http_conn) link;
    int fd;
    double since;  /* when the request that is being read could have begun */
    int answering; /* its request is complete: libmicrohttpd's own time-out guards the rest */
    int cut;
    struct ds_request *rq; /* that is being read or answered */
    const char *bad_url;   /* what is wrong with the URL that is being read; NULL: nothing */
} http_conn;

typedef struct http_stream {
    LIST_ENTRY(http_stream) link;
    struct ds_http *http;
    struct MHD_Connection *connection;
    ds_stream_source src;
    ds_buf pending;
    size_t sent;
    double last_sent;
    int suspended, ended, heartbeat, fd;
} http_stream;

struct ds_http {
    uv_loop_t *loop;
    uv_poll_t poll;
    uv_timer_t timer;
    uv_timer_t retry; /* for the handlers that a lock has stopped */
    int handles, closing;
    struct MHD_Daemon *mhd;
    ds_http_options o;
    char socket_path[sizeof((struct sockaddr_un *)0)->sun_path];
    int listening, listen_fd;
    LIST_HEAD(, http_conn) conns;
    unsigned conn_count;
    LIST_HEAD(, http_stream) streams;
    LIST_HEAD(, ds_request) waiting; /* asleep until ds_request_go_on */
    size_t body_bytes;               /* of all requests that are arriving */
    uint64_t answered;
};

struct ds_request {
    ds_http *http;
    struct MHD_Connection *connection;
    http_conn *owner;
    const char *method, *url;
    char params[DS_HTTP_PARAMS][DS_HTTP_PARAM_MAX];
    ds_buf body;
    size_t discarded;
    int replied;
    LIST_ENTRY(ds_request) link;    /* among those that wait */
    int waiting, locked, for_retry; /* asleep; because of a lock; until ds_http_retry */
    double locked_since;            /* 0: it never was */
    void *state;
    void (*release)(void *state);
    json_t *json;
    struct {
        char key[40], value[200];
    } headers[HTTP_REPLY_HEADERS];
    int header_count;
};

/* What was resumed is looked at only when libmicrohttpd is run: now, not at the next tick. */
void http_run_soon(ds_http *h);

/* The request is handled again after ds_request_go_on. */
void http_sleep(ds_request *rq);
/* 1: the handler could not write because another program does, and will be called again. */
int http_wait_for_lock(ds_request *rq);

/* problem+json; 0. */
int http_reply_problem(ds_request *rq, const ds_error *e);
int http_reply_problem_status(ds_request *rq, int status, int code, const char *title,
                              const char *detail);

void http_stream_resume(http_stream *s);
void http_streams_tick(ds_http *h, double now); /* heartbeats, vanished readers */

#endif
