/* tests/cli_fake.h - a small HTTP server on a unix socket with canned answers, and dsctl
 * in-process.
 *
 * A test lists routes, starts the server, and runs command lines.  Each route answers `times`
 * requests (0: all of them), then the next matching one is used; so a job can be running first and
 * done later.  A target ends in '*' to match any rest.  Requests are recorded as "METHOD target
 * body" lines.  One connection at a time, closed after each answer.
 */
#ifndef DS_TESTS_CLI_FAKE_H
#define DS_TESTS_CLI_FAKE_H

#include "base/json.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "tests/harness.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

typedef enum {
    FAKE_PLAIN,
    FAKE_TRUNCATED, /* declares 100 bytes more than it sends */
    FAKE_GARBAGE,   /* body as is, no HTTP around it */
    FAKE_CLOSE,     /* closes without a byte */
    FAKE_INTERRUPT  /* answers, and then "the user presses Ctrl-C" */
} fake_kind;

enum { FAKE_ROUTES = 96 };

typedef struct {
    const char *request; /* "GET /v1/jobs/4" */
    int status;
    const char *body;
    size_t length; /* 0: strlen(body) */
    const char *headers;
    int times;
    fake_kind kind;
} fake_route;

typedef struct {
    fake_route routes[FAKE_ROUTES];
    int served[FAKE_ROUTES], count, listener;
    int requests, fail_at; /* so many came; this one (from 1) is answered with an error, 0: none */
    char socket[200];
    ds_buf log; /* requests */
    pthread_mutex_t lock;
    pthread_t thread;
} fake_server;

static void fake_send(int fd, const void *p, size_t n) {
    while (n) {
        ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
        if (k <= 0)
            return;
        p = (const char *)p + k;
        n -= (size_t)k;
    }
}

static void fake_reply(int fd, const fake_route *r) {
    size_t n = r->length ? r->length : strlen(r->body ? r->body : "");
    ds_buf head = {0};
    if (r->kind == FAKE_CLOSE)
        return;
    if (r->kind != FAKE_GARBAGE)
        ds_buf_addf(&head, "HTTP/1.1 %d X\r\nConnection: close\r\nContent-Length: %zu\r\n%s\r\n",
                    r->status ? r->status : 200, n + (r->kind == FAKE_TRUNCATED ? 100 : 0),
                    r->headers ? r->headers : "");
    fake_send(fd, head.data ? head.data : "", head.len);
    fake_send(fd, r->body ? r->body : "", n);
    ds_buf_release(&head);
    if (r->kind == FAKE_INTERRUPT) {
        char byte;
        shutdown(fd, SHUT_WR);
        while (recv(fd, &byte, 1, 0) > 0) /* until it has read everything and closed */
            ;
        ds_cli_interrupted = 1;
    }
}

static int fake_matches(const char *pattern, const char *request) {
    size_t n = strlen(pattern);
    if (n && pattern[n - 1] == '*')
        return !strncmp(pattern, request, n - 1);
    return !strcmp(pattern, request);
}

/* By value: once the client has its answer, the test may change the routes for the next run while
 * this thread still sees the connection out. */
static fake_route fake_find(fake_server *s, const char *request) {
    static const fake_route none = {
        .status = 404,
        .body = "{\"title\":\"not found\",\"status\":404,\"detail\":\"no such thing\",\"exit\":3}"};
    static const fake_route broken = {
        .status = 500,
        .body = "{\"title\":\"failed\",\"status\":500,\"detail\":\"it broke\",\"exit\":1}"};
    if (++s->requests == s->fail_at)
        return broken;
    for (int i = 0; i < s->count; i++)
        if (fake_matches(s->routes[i].request, request) &&
            (!s->routes[i].times || s->served[i] < s->routes[i].times)) {
            s->served[i]++;
            return s->routes[i];
        }
    return none;
}

/* Reads head and body of one request into b; 0 when the client went away. */
static int fake_read(int fd, ds_buf *b) {
    for (;;) {
        char part[4096];
        ssize_t n = recv(fd, part, sizeof part, 0);
        if (n <= 0)
            return 0;
        ds_buf_add(b, part, (size_t)n);
        char *end = strstr(b->data, "\r\n\r\n"), *length = strcasestr(b->data, "Content-Length:");
        if (!end)
            continue;
        size_t need = length && length < end ? strtoul(length + 15, NULL, 10) : 0;
        if (b->len >= (size_t)(end + 4 - b->data) + need)
            return 1;
    }
}

static void fake_serve(fake_server *s, int fd) {
    ds_buf b = {0};
    if (fake_read(fd, &b)) {
        char *body = strstr(b.data, "\r\n\r\n") + 4, *http = strstr(b.data, " HTTP/1.1");
        char *match = strcasestr(b.data, "If-Match:");
        *http = 0;
        pthread_mutex_lock(&s->lock);
        ds_buf_addf(&s->log, "%s %s%s%.4s\n", b.data, body, match ? " If-Match:" : "",
                    match ? match + 10 : "");
        const fake_route r = fake_find(s, b.data);
        pthread_mutex_unlock(&s->lock);
        fake_reply(fd, &r);
    }
    ds_buf_release(&b);
}

static void *fake_loop(void *ud) {
    fake_server *s = ud;
    for (;;) {
        int fd = accept(s->listener, NULL, NULL);
        if (fd < 0)
            return NULL; /* shut down by fake_stop */
        fake_serve(s, fd);
        shutdown(fd, SHUT_RDWR);
        close(fd);
    }
}

/* A listening socket, or -1; no Check macros, so it also works outside a test. */
static int fake_listen(const char *path) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (strlen(path) >= sizeof a.sun_path)
        return -1;
    memcpy(a.sun_path, path, strlen(path));
    unlink(path);
    return bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 8) ? -1 : fd;
}

/* routes: ends with request NULL */
__attribute__((unused)) static void fake_start(fake_server *s, const fake_route *routes) {
    *s = (fake_server){.lock = PTHREAD_MUTEX_INITIALIZER};
    for (; routes[s->count].request; s->count++) {
        ck_assert_int_lt(s->count, FAKE_ROUTES);
        s->routes[s->count] = routes[s->count];
    }
    snprintf(s->socket, sizeof s->socket, "%s/s%d", ds_test_tmpdir(), (int)getpid());
    s->listener = fake_listen(s->socket);
    ck_assert_int_ge(s->listener, 0);
    ds_cli_interrupted = 0;
    ck_assert_int_eq(pthread_create(&s->thread, NULL, fake_loop, s), 0);
}

__attribute__((unused)) static void fake_stop(fake_server *s) {
    shutdown(s->listener, SHUT_RDWR);
    pthread_join(s->thread, NULL);
    close(s->listener);
    unlink(s->socket);
    ds_buf_release(&s->log);
}

typedef struct {
    int exit;
    char *out, *err;
    size_t out_n, err_n;
} cli_result;

__attribute__((unused)) static void cli_free(cli_result *r) {
    free(r->out);
    free(r->err);
    *r = (cli_result){0};
}

/* Runs "dsctl LINE"; words are separated by single spaces, no quoting. */
static cli_result cli_line(const char *socket, const char *line) {
    char *copy = ds_xstrdup(line), *argv[128] = {(char *)(uintptr_t) "dsctl"};
    int argc = 1;
    cli_result r = {0};
    if (socket) {
        argv[argc++] = (char *)(uintptr_t) "--socket";
        argv[argc++] = (char *)(uintptr_t)socket;
    }
    for (char *p = copy; *p && argc < 127;) {
        size_t n = strcspn(p, " ");
        argv[argc++] = p;
        p += n;
        if (*p)
            *p++ = 0;
    }
    FILE *out = open_memstream(&r.out, &r.out_n), *err = open_memstream(&r.err, &r.err_n);
    r.exit = ds_cli_run(argc, argv, out, err);
    fclose(out);
    fclose(err);
    free(copy);
    return r;
}

static cli_result cli_run(fake_server *s, const char *fmt, ...)
    __attribute__((format(printf, 2, 3), unused));
static cli_result cli_run(fake_server *s, const char *fmt, ...) {
    char line[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    return cli_line(s->socket, line);
}

#define ck_has(text, part)                                                                         \
    ck_assert_msg(strstr((text), (part)) != NULL, "'%s' is not in:\n%s", (part), (text))
#define ck_has_not(text, part)                                                                     \
    ck_assert_msg(strstr((text), (part)) == NULL, "'%s' is in:\n%s", (part), (text))

/* Runs a line and checks the exit status, showing both streams when it differs. */
#define ck_run(result, server, status, ...)                                                        \
    do {                                                                                           \
        (result) = cli_run((server), __VA_ARGS__);                                                 \
        ck_assert_msg((result).exit == (status), "exit %d, not %d\nout: %s\nerr: %s",              \
                      (result).exit, (status), (result).out, (result).err);                        \
    } while (0)

/* The JSON document of r.out, its schema checked. */
__attribute__((unused)) static json_t *cli_json(const cli_result *r, const char *schema) {
    json_error_t je;
    json_t *doc = json_loadb(r->out, r->out_n, JSON_REJECT_DUPLICATES, &je);
    ck_assert_msg(doc != NULL, "not one JSON document: %s\n%s", je.text, r->out);
    ck_assert_str_eq(ds_json_string(doc, "schema", "none"), schema);
    return doc;
}

/* Each line of r.out is a document with a schema that starts so; returns their number. */
__attribute__((unused)) static int cli_ndjson(const cli_result *r, const char *schema) {
    int n = 0;
    for (const char *p = r->out; *p; p += strcspn(p, "\n") + 1, n++) {
        json_t *doc = json_loadb(p, strcspn(p, "\n"), JSON_REJECT_DUPLICATES, NULL);
        ck_assert_msg(doc != NULL, "line %d is not JSON: %s", n, p);
        const char *got = ds_json_string(doc, "schema", "none");
        ck_assert_msg(!strncmp(got, schema, strlen(schema)), "schema %s, not %s", got, schema);
        json_decref(doc);
    }
    return n;
}

#endif
