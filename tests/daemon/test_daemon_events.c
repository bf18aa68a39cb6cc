/* tests/daemon/test_daemon_events.c - streams: cursors that resume, followers that wake, readers that go.
 */
#include "tests/fixtures/daemon_rig.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

/* Seconds that the clock of this program is ahead, in all its lives: what is waited for for long
 * comes at once.  They are in the file that the environment names. */
static const volatile int *ahead;

int clock_gettime(clockid_t id, struct timespec *t) {
    int rc = (int)syscall(SYS_clock_gettime, id, t);
    if (id == CLOCK_MONOTONIC && ahead)
        t->tv_sec += *ahead;
    return rc;
}

static volatile int *map_ahead(void) {
    const char *path = getenv("DS_TEST_AHEAD");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return NULL;
    void *p = mmap(NULL, sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return p == MAP_FAILED ? NULL : p;
}

static rig r;
static char photos[400];

static void setup(void) {
    static int n;
    char name[32];
    snprintf(name, sizeof name, "events%d-%d", (int)getpid(), n++);
    rig_open(&r, name);
    rig_images(&r, "photos", 3, photos);
    rig_start(&r, NULL);
}

static void teardown(void) {
    if (r.pid)
        ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
}

/* Open a stream; what it says is read with read_until. */
static int open_stream(const char *path, const char *headers) {
    char q[500];
    int fd = rig_connect(&r);
    ck_assert_int_ge(fd, 0);
    int n = snprintf(q, sizeof q, "GET %s HTTP/1.1\r\nHost: d\r\n%s\r\n", path, headers);
    ck_assert_int_eq(send(fd, q, (size_t)n, MSG_NOSIGNAL), n);
    return fd;
}

/* Append to b until it holds `words` or ms have passed; 1 if it does. */
static int read_until(int fd, ds_buf *b, const char *words, int ms) {
    char buf[4096];
    for (double end = ds_monotonic() + ms / 1000.0; ds_monotonic() < end;) {
        if (b->data && strstr(b->data, words))
            return 1;
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, 50) != 1)
            continue;
        ssize_t n = recv(fd, buf, sizeof buf, 0);
        if (n <= 0)
            break;
        ds_buf_add(b, buf, (size_t)n);
    }
    return b->data && strstr(b->data, words);
}

START_TEST(cursor_resumes) {
    int status;
    char path[64];
    rig_add(&r, "digits", photos, 201);
    rig_wait_adapter(&r, "digits", 1, 10000);
    char *all = rig_text(&r, "GET", "/v1/events", NULL, NULL, &status);
    ck_assert_int_eq(status, 200);
    ck_assert(strstr(all, "\"daemon.started\"") && strstr(all, "\"adapter.published\""));
    /* in two halves it is the same */
    char *middle = all;
    for (int i = 0; i < 3; i++)
        middle = strchr(middle, '\n') + 1;
    json_t *e = json_loads(middle, JSON_DISABLE_EOF_CHECK, NULL);
    snprintf(path, sizeof path, "/v1/events?since=%lld", (long long)ds_json_int(e, "seq", 0) - 1);
    json_decref(e);
    char *rest = rig_text(&r, "GET", path, NULL, NULL, &status);
    ck_assert_str_eq(rest, middle);
    free(rest);
    free(all);
    char *only = rig_text(&r, "GET", "/v1/events?type=adapter.published", NULL, NULL, &status);
    ck_assert(strchr(only, '\n') && !strchr(strchr(only, '\n') + 1, '\n'));
    free(only);
    char *sse = rig_text(&r, "GET", "/v1/events",
                         "Accept: text/event-stream\r\nLast-Event-ID: 1\r\n", NULL, &status);
    ck_assert_msg(strncmp(sse, "id: 2\nevent: ", 13) == 0, "%.60s", sse);
    free(sse);
    free(rig_text(&r, "GET", "/v1/events?since=x", NULL, NULL, &status));
    ck_assert_int_eq(status, 400);
}
END_TEST

/* Nothing but the event wakes a stream before its heartbeat after 15 s. */
enum { WOKEN_MS = 10000 };

/* Whatever wakes a stream, it tells a progress once. */
static void expect_no_repeats(int fd, ds_buf *sse) {
    static const char train[] = "\"stage\":\"train\",\"progress\":{";
    char id[40];
    int n = 0;
    ck_assert(read_until(fd, sse, train, 10000));
    for (int i = 0; i < 2; i++) {
        json_t *job = rig_want(&r, 202, "POST", "/v1/samples", "{\"ref\":null,\"n\":2}");
        snprintf(id, sizeof id, "\"job:%lld\"", (long long)ds_json_int(job, "id", 0));
        json_decref(job);
        ck_assert(read_until(fd, sse, id, WOKEN_MS));
    }
    for (const char *p = sse->data; (p = strstr(p, train)); p++)
        n++;
    ck_assert_msg(n == 1, "%d times in %s", n, sse->data);
}

START_TEST(followers_wake) {
    ds_buf all = {0}, sse = {0}, job = {0}, log = {0};
    int a = open_stream("/v1/events?follow=1&since=0", "");
    int b = open_stream("/v1/events?follow=1", "Accept: text/event-stream\r\n");
    ck_assert(read_until(a, &all, "daemon.started", 2000)); /* the past, since it is asked for */
    rig_fake(&r, "train", "hang");
    double began = ds_monotonic();
    rig_add(&r, "digits", photos, 201);
    ck_assert(read_until(a, &all, "dataset.added", WOKEN_MS));
    ck_assert(read_until(b, &sse, "event: dataset.added", WOKEN_MS));
    ck_assert(!strstr(sse.data, "daemon.started")); /* without a cursor only what is new */
    ck_assert_double_lt(ds_monotonic() - began, WOKEN_MS / 1000.0);
    ck_assert(read_until(b, &sse, "event: job.progress\ndata: ", 10000));
    int64_t id = rig_wait_job(&r, "train", "digits", "|running|", 10000);
    expect_no_repeats(b, &sse);
    char path[100];
    snprintf(path, sizeof path, "/v1/jobs/%lld/events?follow=1", (long long)id);
    int c = open_stream(path, "");
    ck_assert(read_until(c, &job, "\"done\":10", 5000));
    snprintf(path, sizeof path, "/v1/jobs/%lld/log?follow=1", (long long)id);
    int d = open_stream(path, "");
    ck_assert(read_until(d, &log, "train hang", 5000));
    snprintf(path, sizeof path, "/v1/jobs/%lld/cancel", (long long)id);
    json_decref(rig_call(&r, "POST", path, NULL, NULL));
    ck_assert(read_until(c, &job, "\"checkpoint\"", 5000));
    ck_assert(read_until(c, &job, "0\r\n\r\n", 5000)); /* the stream ends with the job */
    ck_assert(read_until(d, &log, "0\r\n\r\n", 5000));
    ck_assert(read_until(a, &all, "job.cancelled", 5000));
    /* with no job running it is the event alone that wakes; a look at who is gone comes between */
    usleep(1300000);
    json_decref(rig_call(&r, "DELETE", "/v1/datasets/digits", NULL, NULL));
    ck_assert(read_until(a, &all, "dataset.removed", WOKEN_MS));
    ck_assert(read_until(b, &sse, "event: dataset.removed", WOKEN_MS));
    /* the daemon's end is the last that a follower hears */
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    ck_assert(read_until(a, &all, "daemon.stopped", 2000));
    int fds[] = {a, b, c, d};
    for (int i = 0; i < 4; i++)
        close(fds[i]);
    ds_buf_release(&all);
    ds_buf_release(&sse);
    ds_buf_release(&job);
    ds_buf_release(&log);
}
END_TEST

static double connections(void) {
    int status;
    char *text = rig_text(&r, "GET", "/metrics", NULL, NULL, &status);
    const char *line = strstr(text, "\ndiffscaler_http_connections ");
    double v = line ? strtod(line + 29, NULL) : -1;
    free(text);
    return v;
}

/* A follower that goes away is noticed although nothing is sent to it. */
START_TEST(vanished_readers) {
    enum { N = 100 };
    int fds[N];
    for (int i = 0; i < N; i++)
        fds[i] = open_stream(i % 2 ? "/v1/events?follow=1" : "/v1/events?follow=1&since=0", "");
    usleep(200000);
    ck_assert_double_eq(connections(), N + 1);
    for (int i = 0; i < N; i++)
        close(fds[i]);
    usleep(1300000);
    double left = 0;
    for (int i = 0; i < 20 && (left = connections()) > 1; i++)
        usleep(100000);
    ck_assert_double_eq(left, 1);
}
END_TEST

/* Readers that do not read cost bounded memory and no time of others. */
START_TEST(reader_that_does_not_read) {
    int fd = open_stream("/v1/events?follow=1&since=0", "");
    char name[32], dir[400];
    for (int i = 0; i < 5; i++) {
        snprintf(name, sizeof name, "s%d", i);
        rig_images(&r, name, 1, dir);
        rig_add(&r, name, dir, 201);
    }
    rig_wait_adapter(&r, "s4", 1, 10000);
    close(fd);
}
END_TEST

/* Where nothing happens a stream of events says after 15 seconds that it is there, each time; one of
 * lines does not, since it has no word for it. */
START_TEST(heartbeats) {
    char path[400];
    ds_buf sse = {0}, job = {0}, lines = {0};
    int zero = 0;
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    snprintf(path, sizeof path, "%s/ahead", r.dir);
    ck_assert_int_eq(ds_fs_write(path, &zero, sizeof zero, NULL), 0);
    setenv("DS_TEST_AHEAD", path, 1);
    rig_start(&r, NULL);
    volatile int *seconds = map_ahead(); /* of the daemon; this process has its own time */
    ck_assert(seconds != NULL);
    rig_fake(&r, "train", "hang");
    rig_add(&r, "digits", photos, 201);
    int64_t id = rig_wait_job(&r, "train", "digits", "|running|", 10000);
    int a = open_stream("/v1/events?follow=1", "Accept: text/event-stream\r\n");
    int b = open_stream("/v1/events?follow=1", "");
    snprintf(path, sizeof path, "/v1/jobs/%lld/events?follow=1", (long long)id);
    int c = open_stream(path, "Accept: text/event-stream\r\n");
    ck_assert(read_until(c, &job, "\"done\":10", 5000));
    usleep(1500000);
    *seconds = 7;
    ck_assert(!read_until(a, &sse, "heartbeat", 1300));
    for (int i = 0; i < 2; i++) {
        *seconds += 16;
        sse.len = job.len = 0;
        ck_assert(read_until(a, &sse, "\n: heartbeat\n\n", 5000));
        ck_assert(read_until(c, &job, "\n: heartbeat\n\n", 5000));
        char *first = strstr(sse.data, "heartbeat");
        ck_assert_ptr_null(strstr(first + 1, "heartbeat"));
    }
    ck_assert(!read_until(b, &lines, "heartbeat", 300));
    close(a), close(b), close(c);
    ds_buf_release(&sse);
    ds_buf_release(&job);
    ds_buf_release(&lines);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, cursor_resumes);
    tcase_add_test(tc, followers_wake);
    tcase_add_test(tc, vanished_readers);
    tcase_add_test(tc, heartbeats);
    tcase_add_test(tc, reader_that_does_not_read);
}

int main(int argc, char **argv) {
    ahead = map_ahead();
    rig_main(argc, argv);
    return ds_test_main("daemon_events", cases);
}
