/* daemon/http/http.c - libmicrohttpd under the loop: connections, limits, dispatch. */
#include "base/log.h"
#include "daemon/http/http_internal.h"
#include "daemon/http/query.h"
#include "daemon/http/tcp.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define BACKLOG 1024

/* ---- running libmicrohttpd from the loop ---- */

static void run_mhd(ds_http *h);

static void on_timer(uv_timer_t *t) { run_mhd(t->data); }

static void on_poll(uv_poll_t *p, int status, int events) {
    (void)status, (void)events;
    run_mhd(p->data);
}

static void run_mhd(ds_http *h) {
    unsigned before = h->conn_count;
    MHD_run(h->mhd);
    /* At its limit libmicrohttpd takes the listening socket out of its epoll set, and puts it back
     * only when it is run again: nothing else would wake us for the clients that wait. */
    if (before >= h->o.max_connections && h->conn_count < before)
        MHD_run(h->mhd);
    MHD_UNSIGNED_LONG_LONG ms;
    if (MHD_get_timeout(h->mhd, &ms) == MHD_YES)
        uv_timer_start(&h->timer, on_timer, (uint64_t)ms, 0);
    else
        uv_timer_stop(&h->timer);
}

void http_run_soon(ds_http *h) {
    if (!h->closing)
        uv_timer_start(&h->timer, on_timer, 0, 0);
}

/* ---- dispatch ---- */

/* 1 if url matches; params receive the segments under {}. */
static int match(const char *pattern, const char *url, char params[][DS_HTTP_PARAM_MAX]) {
    int count = 0;
    while (*pattern) {
        if (pattern[0] == '{' && pattern[1] == '}') {
            size_t n = strcspn(url, "/");
            if (n == 0 || n >= DS_HTTP_PARAM_MAX || count >= DS_HTTP_PARAMS)
                return 0;
            memcpy(params[count], url, n);
            params[count++][n] = 0;
            url += n;
            pattern += 2;
        } else if (*pattern++ != *url++)
            return 0;
    }
    return *url == 0;
}

/* Everything that the request says is known to its route. */
static int check_request(ds_request *rq, const ds_route *r, ds_error *err) {
    json_t *body = NULL;
    int rc = ds_query_check(rq->connection, r->query, err);
    if (rc || !rq->body.len)
        return rc;
    if (!r->body && strcmp(r->method, "GET") == 0)
        return ds_fail(err, DS_EINVAL, "%s %s takes no body", r->method, rq->url);
    rc = ds_request_json(rq, &body, err);
    return rc ? rc : ds_body_check(body, r->body, err);
}

static int dispatch(ds_request *rq) {
    ds_http *h = rq->http;
    const char *method = strcmp(rq->method, "HEAD") == 0 ? "GET" : rq->method;
    char allow[64] = "";
    for (size_t i = 0; i < h->o.route_count; i++) {
        const ds_route *r = &h->o.routes[i];
        if (!match(r->pattern, rq->url, rq->params))
            continue;
        if (strcmp(r->method, method) == 0) {
            ds_error err = {0};
            int rc = check_request(rq, r, &err);
            if (!rc && h->closing)
                rc = ds_fail(&err, DS_EBUSY, "the daemon is stopping");
            if (!rc && h->o.locked)
                h->o.locked(h->o.ctx, 0); /* of earlier calls */
            if (!rc)
                rc = r->fn(rq, h->o.ctx, &err);
            if (rc == DS_HTTP_WAIT) {
                http_sleep(rq);
                return 0;
            }
            if (rc == DS_EBUSY && http_wait_for_lock(rq))
                return 0;
            DS_ASSERT(rc ? !rq->replied && err.code : rq->replied || rq->waiting);
            return rc ? http_reply_problem(rq, &err) : 0;
        }
        size_t n = strlen(allow);
        snprintf(allow + n, sizeof allow - n, "%s%s", n ? ", " : "", r->method);
    }
    ds_error err;
    if (*allow) {
        ds_reply_header(rq, "Allow", "%s", allow);
        ds_fail(&err, DS_EINVAL, "method %.16s is not possible here, only %s", rq->method, allow);
        return http_reply_problem_status(rq, 405, DS_EINVAL, "method not allowed", err.message);
    }
    ds_fail(&err, DS_ENOTFOUND, "no such path '%.200s' (see docs/api.md)", rq->url);
    return http_reply_problem(rq, &err);
}

/* Two lengths of one body: who else reads it may believe the other one (RFC 9112, 6.3). */
static enum MHD_Result count_lengths(void *cls, enum MHD_ValueKind kind, const char *key,
                                     const char *value) {
    (void)kind, (void)value;
    *(int *)cls += key && strcasecmp(key, "Content-Length") == 0;
    return MHD_YES;
}

/* The first call for a request: refuse by its header alone what can be refused. */
static int refuse_early(ds_request *rq) {
    if (rq->http->o.token &&
        !ds_token_good(rq->http->o.token, ds_request_header(rq, "Authorization"))) {
        ds_reply_header(rq, "WWW-Authenticate", "Bearer realm=\"diffscaler\"");
        return http_reply_problem_status(rq, 401, DS_EPERM, "not authorized",
                                         "send the header 'Authorization: Bearer TOKEN', with the "
                                         "token of diffscalerd --token-file");
    }
    if (rq->owner && rq->owner->bad_url) {
        const char *why = rq->owner->bad_url;
        rq->owner->bad_url = NULL;
        return http_reply_problem_status(rq, 400, DS_EINVAL, ds_error_title(DS_EINVAL), why);
    }
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(rq->connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    if (info && info->header_size > DS_HTTP_HEADER_MAX)
        return http_reply_problem_status(rq, 431, DS_ELIMIT, "request header too large",
                                         "request header is larger than 16 KiB");
    int lengths = 0;
    MHD_get_connection_values(rq->connection, MHD_HEADER_KIND, count_lengths, &lengths);
    if (lengths > 1)
        return http_reply_problem_status(rq, 400, DS_EINVAL, ds_error_title(DS_EINVAL),
                                         "the request has more than one Content-Length");
    const char *length = ds_request_header(rq, "Content-Length");
    if (length && strtoll(length, NULL, 10) > DS_HTTP_BODY_MAX)
        return http_reply_problem_status(rq, 413, DS_ELIMIT, "limit exceeded",
                                         "request body is larger than 1 MiB");
    return 0;
}

/* Path, names and values of the query, each on its own.  libmicrohttpd's decoder ends a text at
 * %00, so that another path or name than the one that was sent would be looked for, and leaves a
 * stray '%' as it is. */
static size_t on_unescape(void *cls, struct MHD_Connection *connection, char *s) {
    (void)cls;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    http_conn *c = info ? info->socket_context : NULL;
    const char *wrong = ds_query_bad_escape(s);
    if (c && wrong)
        c->bad_url = wrong;
    return MHD_http_unescape(s);
}

/* Who has sent nothing new for longest is cut off: among those whose body is arriving (bodies 1),
 * or among all whose request is not complete. */
static int cut_longest(ds_http *h, const http_conn *but, int bodies) {
    http_conn *c, *oldest = NULL;
    LIST_FOREACH(c, &h->conns, link)
        if (c != but && !c->answering && !c->cut && (!bodies || (c->rq && c->rq->body.len)) &&
            (!oldest || c->since < oldest->since))
            oldest = c;
    if (!oldest)
        return 0;
    if (oldest->rq) { /* its memory goes now, not when the connection is closed */
        h->body_bytes -= oldest->rq->body.len;
        oldest->rq->discarded += oldest->rq->body.len;
        ds_buf_release(&oldest->rq->body);
    }
    oldest->cut = 1;
    shutdown(oldest->fd, SHUT_RDWR);
    return 1;
}

static void take_body(ds_request *rq, const char *data, size_t n) {
    ds_http *h = rq->http;
    if (rq->body.len + n > DS_HTTP_BODY_MAX || rq->discarded || rq->replied) {
        rq->discarded += n;
        return;
    }
    while (h->body_bytes + n > DS_HTTP_BODIES_MAX && cut_longest(h, rq->owner, 1)) {
    }
    ds_buf_add(&rq->body, data, n);
    h->body_bytes += n;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *size, void **state) {
    (void)version;
    ds_request *rq = *state;
    if (!rq) {
        rq = ds_xcalloc(1, sizeof *rq);
        rq->http = cls;
        rq->connection = connection;
        rq->method = method;
        rq->url = url;
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
        rq->owner = info ? info->socket_context : NULL;
        *state = rq;
        if (rq->owner)
            rq->owner->rq = rq;
        refuse_early(rq);
        return MHD_YES;
    }
    if (*size) {
        take_body(rq, data, *size);
        *size = 0;
        return rq->discarded > 8 * (size_t)DS_HTTP_BODY_MAX ? MHD_NO : MHD_YES;
    }
    if (rq->replied)
        return MHD_YES;
    if (rq->owner)
        rq->owner->answering = 1;
    if (rq->discarded)
        http_reply_problem_status(rq, 413, DS_ELIMIT, "limit exceeded",
                                  "request body is larger than 1 MiB");
    else
        dispatch(rq);
    return MHD_YES;
}

static void on_completed(void *cls, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode why) {
    (void)cls, (void)connection, (void)why;
    ds_request *rq = *state;
    if (!rq)
        return;
    if (rq->owner) {
        rq->owner->answering = 0;
        rq->owner->since = ds_monotonic();
        rq->owner->rq = NULL;
    }
    if (rq->release)
        rq->release(rq->state);
    free(rq->state);
    rq->http->body_bytes -= rq->body.len;
    ds_buf_release(&rq->body);
    json_decref(rq->json);
    free(rq);
    *state = NULL;
}

static void on_connection(void *cls, struct MHD_Connection *connection, void **state,
                          enum MHD_ConnectionNotificationCode what) {
    ds_http *h = cls;
    http_conn *c = *state;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        c = ds_xcalloc(1, sizeof *c);
        c->fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
        c->since = ds_monotonic();
        LIST_INSERT_HEAD(&h->conns, c, link);
        h->conn_count++;
        *state = c;
        /* at its limit libmicrohttpd would accept nobody any more */
        if (h->conn_count + h->o.max_connections / 16 >= h->o.max_connections)
            cut_longest(h, c, 0);
    } else if (c) {
        LIST_REMOVE(c, link);
        h->conn_count--;
        free(c);
        *state = NULL;
    }
}

void ds_http_tick(ds_http *h) {
    if (!h)
        return;
    double now = ds_monotonic();
    /* libmicrohttpd's time-out is reset by every byte; a request as a whole has a deadline too. */
    http_conn *c;
    LIST_FOREACH(c, &h->conns, link)
        if (!c->answering && !c->cut && now - c->since > h->o.idle_seconds) {
            c->cut = 1;
            shutdown(c->fd, SHUT_RDWR);
        }
    http_streams_tick(h, now);
    run_mhd(h); /* accepting may have stopped for want of descriptors */
}

unsigned ds_http_connections(const ds_http *h) { return h ? h->conn_count : 0; }
uint64_t ds_http_requests(const ds_http *h) { return h ? h->answered : 0; }

/* ---- life cycle ---- */

static int remove_stale(const char *path, const struct sockaddr_un *addr, ds_error *err) {
    struct stat st;
    if (lstat(path, &st))
        return errno == ENOENT ? 0 : ds_fail_errno(err, "cannot look at socket '%s'", path);
    if (!S_ISSOCK(st.st_mode))
        return ds_fail(err, DS_ECONFLICT,
                       "'%s' exists and is not a socket: move it away or choose another --socket",
                       path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return ds_fail_errno(err, "cannot make a socket");
    int answered = connect(fd, (const struct sockaddr *)addr, sizeof *addr) == 0;
    close(fd);
    if (answered)
        return ds_fail(err, DS_ECONFLICT,
                       "another program answers on socket '%s': stop it or choose another --socket",
                       path);
    if (unlink(path) && errno != ENOENT)
        return ds_fail_errno(err, "cannot remove stale socket '%s'", path);
    return 0;
}

static int listen_on(const char *path, int *out, ds_error *err) {
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof addr.sun_path)
        return ds_fail(err, DS_EINVAL,
                       "socket path '%s' has %zu bytes, %zu is the most: give a shorter --socket",
                       path, strlen(path), sizeof addr.sun_path - 1);
    memcpy(addr.sun_path, path, strlen(path) + 1);
    int rc = remove_stale(path, &addr, err);
    if (rc)
        return rc;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return ds_fail_errno(err, "cannot make a socket");
    mode_t mask = umask(0117); /* the file is born with mode 0660 */
    int bad = bind(fd, (const struct sockaddr *)&addr, sizeof addr);
    umask(mask);
    if (bad || listen(fd, BACKLOG)) {
        rc = ds_fail_errno(err, "cannot listen on socket '%s'", path);
        close(fd);
        return rc;
    }
    *out = fd;
    return 0;
}

static void mhd_log(void *cls, const char *fmt, va_list ap) {
    (void)cls;
    char text[512];
    vsnprintf(text, sizeof text, fmt, ap);
    text[strcspn(text, "\n")] = 0;
    ds_log(DS_LOG_DEBUG, "http: %s", text);
}

int ds_http_open(ds_http **out, uv_loop_t *loop, const ds_http_options *o, ds_error *err) {
    int fd = o->listen_fd;
    int rc = o->socket_path ? listen_on(o->socket_path, &fd, err) : 0;
    if (rc)
        return rc;
    ds_http *h = ds_xcalloc(1, sizeof *h);
    h->loop = loop;
    h->o = *o;
    h->listen_fd = fd;
    if (o->socket_path) {
        snprintf(h->socket_path, sizeof h->socket_path, "%s", o->socket_path);
        h->o.socket_path = h->socket_path;
    }
    h->listening = 1;
    h->mhd = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request, h,
        MHD_OPTION_EXTERNAL_LOGGER, mhd_log, NULL, MHD_OPTION_LISTEN_SOCKET, fd,
        MHD_OPTION_CONNECTION_LIMIT, o->max_connections, MHD_OPTION_CONNECTION_TIMEOUT,
        o->idle_seconds, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)(40 << 10),
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, h, MHD_OPTION_NOTIFY_CONNECTION, on_connection,
        h, MHD_OPTION_UNESCAPE_CALLBACK, on_unescape, h, MHD_OPTION_STRICT_FOR_CLIENT, 1,
        MHD_OPTION_END);
    const union MHD_DaemonInfo *info =
        h->mhd ? MHD_get_daemon_info(h->mhd, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    if (!info || info->epoll_fd < 0) {
        if (*h->socket_path)
            unlink(h->socket_path);
        if (h->mhd)
            MHD_stop_daemon(h->mhd);
        else
            close(fd);
        free(h);
        return ds_fail(err, DS_EFAILED,
                       "cannot start the HTTP server: libmicrohttpd gave no reason; is the limit "
                       "of open files "
                       "(ulimit -n) too low?");
    }
    uv_poll_init(loop, &h->poll, info->epoll_fd);
    uv_timer_init(loop, &h->timer);
    uv_timer_init(loop, &h->retry);
    h->poll.data = h->timer.data = h->retry.data = h;
    h->handles = 3;
    uv_poll_start(&h->poll, UV_READABLE, on_poll);
    *out = h;
    return 0;
}

void ds_http_quiesce(ds_http *h) {
    if (!h || !h->listening)
        return;
    h->listening = 0;
    if (*h->socket_path)
        unlink(h->socket_path);
    int fd = MHD_quiesce_daemon(h->mhd);
    if (fd >= 0)
        close(fd);
}

static void on_closed(uv_handle_t *handle) {
    ds_http *h = handle->data;
    if (--h->handles == 0)
        free(h);
}

void ds_http_close(ds_http *h) {
    if (!h)
        return;
    ds_http_quiesce(h);
    h->closing = 1;
    while (!LIST_EMPTY(&h->waiting)) /* they are told that the daemon stops */
        ds_request_go_on(LIST_FIRST(&h->waiting));
    /* Streams say what there is still to say (the stop itself), then end. */
    for (int round = 0; round < 2; round++) {
        http_stream *s;
        LIST_FOREACH(s, &h->streams, link) {
            s->ended |= round;
            http_stream_resume(s);
        }
        for (int i = 0; i < 4; i++)
            MHD_run(h->mhd);
    }
    uv_poll_stop(&h->poll);
    MHD_stop_daemon(h->mhd);
    uv_close((uv_handle_t *)&h->poll, on_closed);
    uv_close((uv_handle_t *)&h->timer, on_closed);
    uv_close((uv_handle_t *)&h->retry, on_closed);
}
