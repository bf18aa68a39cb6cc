/* tests/daemon/test_daemon_http.c - the API as a client sees it, good clients and bad ones. */
#include "daemon/http/http.h"
#include "tests/fixtures/daemon_rig.h"

#include <sys/resource.h>

static rig r;

static void setup(void) {
    static int n;
    char name[32];
    snprintf(name, sizeof name, "http%d-%d", (int)getpid(), n++);
    rig_open(&r, name);
    static const char *const options[] = {"--idle", "1", NULL};
    rig_start(&r, options);
}

static void teardown(void) {
    if (r.pid)
        ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
}

/* The answer to raw bytes; its status. */
static int raw(const char *bytes, size_t n, int half_close) {
    int fd = rig_connect(&r);
    ck_assert_int_ge(fd, 0);
    char *text = rig_exchange(fd, bytes, n, half_close);
    int status = strncmp(text, "HTTP/1.1 ", 9) == 0 ? (int)strtol(text + 9, NULL, 10) : 0;
    free(text);
    return status;
}

static void expect(const char *method, const char *path, const char *body, int want,
                   const char *code, const char *words) {
    int status;
    json_t *doc = rig_call(&r, method, path, body, &status);
    const char *detail = ds_json_string(doc, "detail", "");
    ck_assert_msg(status == want, "%s %s %s: %d, not %d: %s", method, path, body ? body : "",
                  status, want, detail);
    if (code) {
        ck_assert_str_eq(ds_json_string(doc, "code", ""), code);
        ck_assert_int_eq(ds_json_int(doc, "status", 0), want);
        ck_assert(json_is_integer(json_object_get(doc, "exit")));
    }
    if (words)
        ck_assert_msg(strstr(detail, words) != NULL, "'%s' does not say '%s'", detail, words);
    json_decref(doc);
}

START_TEST(basics) {
    int status;
    struct stat st;
    ck_assert_int_eq(stat(r.socket, &st), 0);
    ck_assert_int_eq(st.st_mode & 0777, 0660);
    json_t *v = rig_call(&r, "GET", "/v1/version", NULL, &status);
    ck_assert_int_eq(status, 200);
    ck_assert_int_eq(ds_json_int(v, "api", 0), 1);
    ck_assert_int_eq(ds_json_int(v, "pid", 0), r.pid);
    json_decref(v);
    json_t *s = rig_call(&r, "GET", "/v1/status", NULL, &status);
    ck_assert_int_eq(status, 200);
    ck_assert_str_eq(ds_json_string(json_object_get(s, "base"), "name", ""), "emoji");
    ck_assert_str_eq(ds_json_string(json_object_get(s, "feature_net"), "name", ""), "net");
    ck_assert(json_is_array(json_object_get(s, "running")));
    ck_assert_int_gt(ds_json_int(s, "event_seq", 0), 0);
    json_decref(s);
    char *text = rig_text(&r, "GET", "/healthz", NULL, NULL, &status);
    ck_assert_str_eq(text, "ok\n");
    free(text);
    text = rig_text(&r, "GET", "/metrics", NULL, NULL, &status);
    ck_assert(strstr(text, "diffscaler_jobs{state=\"queued\"} 0\n"));
    ck_assert(strstr(text, "diffscaler_build_info{version="));
    ck_assert(strstr(text, "process_resident_memory_bytes "));
    free(text);
    expect("GET", "/v1/nothing", NULL, 404, "DS_ENOTFOUND", "no such path");
    expect("POST", "/v1/status", NULL, 405, "DS_EINVAL", "only GET");
    expect("GET", "/v1/datasets/none", NULL, 404, "DS_ENOTFOUND", "none");
    expect("GET", "/v1/adapters/none", NULL, 404, "DS_ENOTFOUND", NULL);
    expect("GET", "/v1/jobs/7", NULL, 404, "DS_ENOTFOUND", NULL);
    expect("GET", "/v1/jobs/x", NULL, 400, "DS_EINVAL", NULL);
    expect("GET", "/v1/jobs?limit=0", NULL, 400, "DS_EINVAL", "limit");
    expect("GET", "/v1/jobs?state=nice", NULL, 400, "DS_EINVAL", "nice");
    expect("GET", "/v1/blobs/..", NULL, 400, "DS_EINVAL", "digest");
    expect("GET", "/v1/blobs/%2e%2e%2fregistry.db", NULL, 404, "DS_ENOTFOUND", NULL);
    expect("POST", "/v1/samples", "{\"n\":0}", 400, "DS_EINVAL", "'n'");
    expect("POST", "/v1/samples", "{\"nn\":1}", 400, "DS_EINVAL", "'nn'");
    expect("POST", "/v1/samples", "{\"ref\":\"none\"}", 404, "DS_ENOTFOUND", NULL);
}
END_TEST

START_TEST(bad_datasets) {
    char dir[400], body[900];
    rig_images(&r, "empty", 0, dir);
    snprintf(body, sizeof body, "{\"path\":\"%s\"}", dir);
    expect("POST", "/v1/datasets", body, 400, "DS_EINVAL", "empty");
    snprintf(body, sizeof body, "%s/notes.txt", dir);
    rig_write(body, "no image");
    snprintf(body, sizeof body, "{\"path\":\"%s\"}", dir);
    expect("POST", "/v1/datasets", body, 400, "DS_EINVAL", "no image");
    char linked[500], there[500]; /* a folder of links to class folders */
    snprintf(linked, sizeof linked, "%s/class", dir);
    snprintf(there, sizeof there, "%s/..", dir);
    ck_assert_int_eq(symlink(there, linked), 0);
    expect("POST", "/v1/datasets", body, 400, "DS_EINVAL", "cp -rL");
    snprintf(body, sizeof body, "{\"path\":\"%s/notes.txt\"}", dir);
    expect("POST", "/v1/datasets", body, 400, "DS_EINVAL", "is a file");
    snprintf(body, sizeof body, "{\"path\":\"%s/nowhere\"}", dir);
    expect("POST", "/v1/datasets", body, 404, "DS_ENOTFOUND", "does not exist");
    expect("POST", "/v1/datasets", "{\"path\":\"photos\"}", 400, "DS_EINVAL", "relative");
    expect("POST", "/v1/datasets", "{}", 400, "DS_EINVAL", "path");
    expect("POST", "/v1/datasets", "[1]", 400, "DS_EINVAL", "object");
    expect("POST", "/v1/datasets", "{\"path\":", 400, "DS_EINVAL", "JSON");
    expect("POST", "/v1/datasets", "{\"path\":\"/a\",\"path\":\"/b\"}", 400, "DS_EINVAL",
           "duplicate");
    rig_images(&r, "good", 3, dir);
    static const char *const names[] = {"a/b", "",         ".hidden", "-x",
                                        "a b", "a\\u0007", "x@y",     "a:b"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(body, sizeof body, "{\"name\":\"%s\",\"path\":\"%s\"}", names[i], dir);
        expect("POST", "/v1/datasets", body, 400, "DS_EINVAL", NULL);
    }
    snprintf(body, sizeof body, "{\"path\":\"%s\",\"options\":{\"step\":5}}", dir);
    expect("POST", "/v1/datasets", body, 400, "DS_EINVAL", "steps");
    snprintf(body, sizeof body, "{\"path\":\"%s\",\"options\":{\"rank\":\"8\"}}", dir);
    expect("POST", "/v1/datasets", body, 400, "DS_EINVAL", "whole number");
    snprintf(body, sizeof body, "{\"path\":\"%s\",\"method\":\"magic\"}", dir);
    expect("POST", "/v1/datasets", body, 400, "DS_EINVAL", "magic");
    rig_add(&r, "good", dir, 201);
    rig_add(&r, "good", dir, 200);
    char other[400];
    rig_images(&r, "other", 3, other);
    snprintf(body, sizeof body, "{\"name\":\"good\",\"path\":\"%s\"}", other);
    expect("POST", "/v1/datasets", body, 409, "DS_ECONFLICT", "good");
}
END_TEST

START_TEST(unreadable_folder) {
    char dir[400], body[500];
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    rig_images(&r, "secret", 3, dir);
    r.unprivileged = 1;
    ck_assert(geteuid() != 0 ||
              (chown(r.dir, 65534, 65534) == 0 && ds_fs_remove(r.state, NULL) == 0));
    rig_start(&r, NULL);
    chmod(dir, 0);
    snprintf(body, sizeof body, "{\"path\":\"%s\"}", dir);
    expect("POST", "/v1/datasets", body, 403, "DS_EPERM", "readable");
    chmod(dir, 0755);
}
END_TEST

START_TEST(bad_clients) {
    static const struct {
        const char *bytes;
        int least, most; /* status; 0 = closed without an answer */
    } cases[] = {{"\r\n\r\n\r\n", 0, 499},
                 {"GET\r\n\r\n", 0, 499},
                 {"\x16\x03\x01\x02garbage\r\n\r\n", 0, 499},
                 {"GET / HTTP/9.9\r\nHost: d\r\nConnection: close\r\n\r\n", 0, 505},
                 {"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n", 400, 400},
                 {"POST /v1/datasets HTTP/1.1\r\nHost: d\r\nContent-Length: -5\r\n\r\n", 0, 499},
                 {"POST /v1/datasets HTTP/1.1\r\nHost: d\r\nContent-Length: 9z\r\n\r\n", 0, 499},
                 {"POST /v1/datasets HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n"
                  "Connection: close\r\n\r\nzz\r\n\r\n",
                  0, 499}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int status = raw(cases[i].bytes, strlen(cases[i].bytes), 0);
        ck_assert_msg(status >= cases[i].least && status <= cases[i].most, "case %zu: %d", i,
                      status);
    }
    /* a client that closes its writing side after the request still gets its answer */
    static const char half[] = "GET /healthz HTTP/1.1\r\nHost: d\r\n\r\n";
    ck_assert_int_eq(raw(half, sizeof half - 1, 1), 200);
    /* and one that goes away in the middle costs nothing */
    for (int i = 0; i < 50; i++) {
        int fd = rig_connect(&r);
        if (send(fd, "POST /v1/datasets HTTP/1.1\r\nHost: d\r\nContent-Length: 500\r\n\r\n{", 59,
                 MSG_NOSIGNAL) < 0)
            ck_abort();
        close(fd);
    }
    int status;
    free(rig_text(&r, "GET", "/healthz", NULL, NULL, &status));
    ck_assert_int_eq(status, 200);
}
END_TEST

START_TEST(oversized) {
    ds_buf b = {0};
    ds_buf_addf(&b, "POST /v1/datasets HTTP/1.1\r\nHost: d\r\nContent-Length: 2000000\r\n\r\n");
    ck_assert_int_eq(raw(b.data, b.len, 0), 413);
    ds_buf_release(&b);
    ds_buf_addf(&b, "POST /v1/datasets HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n"
                    "Connection: close\r\n\r\n");
    char *chunk = ds_xcalloc(1, 65536);
    memset(chunk, ' ', 65536);
    for (int i = 0; i < 20; i++) {
        ds_buf_addf(&b, "10000\r\n");
        ds_buf_add(&b, chunk, 65536);
        ds_buf_addf(&b, "\r\n");
    }
    ds_buf_addf(&b, "0\r\n\r\n");
    free(chunk);
    ck_assert_int_eq(raw(b.data, b.len, 0), 413);
    ds_buf_release(&b);
    ds_buf_addf(&b, "GET /healthz HTTP/1.1\r\nHost: d\r\nX-Long: ");
    for (int i = 0; i < 20000; i++)
        ds_buf_add(&b, "x", 1);
    ds_buf_addf(&b, "\r\n\r\n");
    int status = raw(b.data, b.len, 0);
    ck_assert_msg(status == 431 || status == 413, "long header: %d", status);
    ds_buf_release(&b);
    /* the largest body that is allowed is read, and refused for what it says */
    ds_buf_addf(&b,
                "POST /v1/datasets HTTP/1.1\r\nHost: d\r\nConnection: close\r\n"
                "Content-Length: %d\r\n\r\n{\"path\":\"",
                DS_HTTP_BODY_MAX);
    for (int i = 0; i < DS_HTTP_BODY_MAX - 11; i++)
        ds_buf_add(&b, "x", 1);
    ds_buf_addf(&b, "\"}");
    ck_assert_int_eq(raw(b.data, b.len, 0), 400);
    ds_buf_release(&b);
}
END_TEST

/* One byte now and then keeps libmicrohttpd's time-out away; the deadline of the request does not
 * move.  Other clients are answered meanwhile. */
START_TEST(slow_client) {
    static const char request[] =
        "GET /healthz HTTP/1.1\r\nHost: d\r\nX-Slow: aaaaaaaaaaaaaaaaaaaa";
    int fd = rig_connect(&r), cut = 0;
    double began = ds_monotonic();
    for (size_t i = 0; i < sizeof request - 1 && !cut; i++) {
        char c;
        cut = send(fd, request + i, 1, MSG_NOSIGNAL) != 1 || recv(fd, &c, 1, MSG_DONTWAIT) == 0;
        usleep(100000);
        if (i == 5) {
            int status;
            double t = ds_monotonic();
            free(rig_text(&r, "GET", "/healthz", NULL, NULL, &status));
            ck_assert_int_eq(status, 200);
            ck_assert_double_lt(ds_monotonic() - t, 0.5);
        }
    }
    close(fd);
    ck_assert(cut);
    ck_assert_double_lt(ds_monotonic() - began, 4.0);
}
END_TEST

/* More connections than the limit wait; none is answered wrongly, and all is well afterwards. */
START_TEST(many_clients) {
    enum { N = 300 };
    static int fds[N];
    for (int i = 0; i < N; i++) {
        fds[i] = rig_connect(&r);
        ck_assert_int_ge(fds[i], 0);
    }
    usleep(100000);
    for (int i = 0; i < N; i++)
        close(fds[i]);
    int status;
    free(rig_text(&r, "GET", "/healthz", NULL, NULL, &status));
    ck_assert_int_eq(status, 200);
}
END_TEST

/* The row is there before the answer, and the answer is quick for a folder of any size. */
START_TEST(add_is_quick) {
    char dir[400], body[600];
    double took = 1;
    rig_images(&r, "large", 10000, dir);
    for (int i = 0; i < 3 && took >= 0.5; i++) {
        snprintf(body, sizeof body, "{\"name\":\"large%d\",\"path\":\"%s\"}", i, dir);
        double began = ds_monotonic();
        int status;
        json_decref(rig_call(&r, "POST", "/v1/datasets", body, &status));
        took = ds_monotonic() - began;
        ck_assert_int_eq(status, 201);
    }
    printf("add of 10,000 images: answered after %.1f ms\n", took * 1000);
#ifndef __SANITIZE_ADDRESS__
    ck_assert_double_lt(took, 0.5); /* 50 ms on a quiet machine; this one may be busy */
#endif
}
END_TEST

/* Has the head of the answer this line? */
static void says(const char *request, int want, const char *line, int yes) {
    ds_buf q = {0};
    ds_buf_addf(&q, "%s HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
                request);
    char *text = rig_exchange(rig_connect(&r), q.data, q.len, 0), *body = strstr(text, "\r\n\r\n");
    ds_buf_release(&q);
    ck_assert_msg(body && strtol(text + 9, NULL, 10) == want, "%s: %s", request, text);
    if (!strncmp(request, "HEAD", 4))
        ck_assert_str_eq(body, "\r\n\r\n");
    body[2] = 0;
    ck_assert_msg((strcasestr(text, line) != NULL) == yes, "%s: %s in %s", request, line, text);
    free(text);
}

START_TEST(heads_of_answers) {
    says("HEAD /healthz", 200, "\r\nContent-Length: 3\r\n", 1);
    says("GET /healthz", 200, "\r\nContent-Type: text/plain\r\n", 1);
    says("GET /healthz", 200, "\r\nCache-Control: no-store\r\n", 1);
    says("GET /v1/version", 200, "\r\nContent-Type: application/json\r\n", 1);
    says("GET /v1/events", 200, "\r\nContent-Type: application/x-ndjson\r\n", 1);
    says("GET /v1/none", 404, "\r\nContent-Type: application/problem+json\r\n", 1);
    says("GET /v1/none", 404, "\r\nAllow:", 0);
    says("PUT /v1/datasets/x", 405, "\r\nAllow: GET, DELETE\r\n", 1);
    says("DELETE /v1/datasets", 405, "\r\nAllow: POST, GET\r\n", 1);
    says("HEAD /v1/stop", 405, "\r\nAllow: POST\r\n", 1);
    says("GET /v1/datasets//x", 404, "", 1);
    says("GET /v1/version/", 404, "", 1);
    says("GET /v1/versio", 404, "", 1);
    json_t *e = rig_want(&r, 404, "GET", "/v1/none", NULL);
    ck_assert_str_eq(ds_json_string(e, "type", ""), "https://diffscaler.dev/errors/not-found");
    ck_assert_str_eq(ds_json_string(e, "title", ""), "not found");
    ck_assert_int_eq(ds_json_int(e, "exit", 0), 3);
    json_decref(e);
    /* the longest word of a path, and one that is too long */
    char path[400];
    for (int n = DS_HTTP_PARAM_MAX - 1; n <= DS_HTTP_PARAM_MAX; n++) {
        ck_assert_int_lt(n, 300);
        snprintf(path, sizeof path, "/v1/jobs/%0*d", n, 7);
        rig_says(&r, 404, "GET", path, NULL, n < DS_HTTP_PARAM_MAX ? "job 7" : "no such path");
    }
}
END_TEST

static void no_socket(void) { ck_assert(!ds_fs_exists(r.socket)); }

/* Somebody else answers there; a file of another kind is there; the path is too long. */
START_TEST(sockets_of_others) {
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    char text[300];
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    no_socket();
    snprintf(addr.sun_path, sizeof addr.sun_path, "%.107s", r.socket);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), other;
    ck_assert(!bind(fd, (struct sockaddr *)&addr, sizeof addr) && !listen(fd, 4));
    rig_spawn(&r, NULL);
    ck_assert_int_eq(rig_wait_exit(&r, 10000), 4);
    rig_wait_log(&r, "another program answers on socket");
    ck_assert((other = rig_connect(&r)) >= 0); /* and goes on to */
    close(other);
    close(fd);
    rig_start(&r, NULL); /* now it is stale */
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    memset(text, 'x', sizeof text);
    memcpy(text, "/tmp/", 5);
    text[108] = 0;
    rig_spawn(&r, (const char *const[]){"--socket", text, NULL});
    ck_assert_int_eq(rig_wait_exit(&r, 10000), 2);
    rig_wait_log(&r, "has 108 bytes, 107 is the most");
    snprintf(text, sizeof text, "%.200s/none/socket", r.dir);
    rig_spawn(&r, (const char *const[]){"--socket", text, NULL});
    ck_assert_int_ne(rig_wait_exit(&r, 10000), 0);
    snprintf(text, sizeof text, "cannot listen on socket '%.200s/none/socket'", r.dir);
    rig_wait_log(&r, text);
}
END_TEST

/* No descriptor is left for its queue of events: nothing stays behind. */
START_TEST(a_server_that_cannot_start) {
    uv_loop_t loop;
    ds_http *h = NULL;
    ds_error err;
    struct rlimit limit, less;
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    uv_loop_init(&loop);
    int next = dup(2);
    close(next);
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    less = limit;
    less.rlim_cur = (rlim_t)next + 1;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &less), 0);
    ds_http_options o = {.socket_path = r.socket, .max_connections = 10, .idle_seconds = 5};
    int rc = ds_http_open(&h, &loop, &o, &err);
    setrlimit(RLIMIT_NOFILE, &limit);
    ck_assert_int_eq(rc, DS_EFAILED);
    ck_assert_ptr_nonnull(strstr(err.message, "cannot start the HTTP server"));
    ck_assert_ptr_nonnull(strstr(err.message, "ulimit -n"));
    no_socket();
    int again = dup(2);
    ck_assert_int_eq(again, next); /* nor a descriptor */
    close(again);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
}
END_TEST

/* Something is where a folder of the state should be. */
START_TEST(folders_that_cannot_be_made) {
    char path[400];
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    static const char *const names[] = {"jobs", "cache", "bases", "feature_nets"};
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", r.state, names[i]);
        ds_fs_remove(path, NULL);
        rig_write(path, "a file");
        rig_spawn(&r, NULL);
        int code = rig_wait_exit(&r, 10000);
        ck_assert_msg(code > 0, "%s is a file: exit %d", names[i], code);
        ck_assert_int_eq(unlink(path), 0);
        no_socket();
    }
    rig_start(&r, NULL);
}
END_TEST

#if !defined(__SANITIZE_ADDRESS__)
static double proc_value(pid_t pid, const char *file, const char *key) {
    char path[64], line[256];
    double v = -1;
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, file);
    FILE *f = fopen(path, "r");
    ck_assert_ptr_nonnull(f);
    while (fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0)
            v = strtod(line + strlen(key), NULL);
    fclose(f);
    return v;
}

static long cpu_ticks(pid_t pid) {
    char path[64];
    long u = 0, s = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "r");
    ck_assert_ptr_nonnull(f);
    if (fscanf(f, "%*d %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %ld %ld", &u, &s) != 2)
        ck_abort();
    fclose(f);
    return u + s;
}
#endif

START_TEST(idle_costs_nothing) {
#if defined(__SANITIZE_ADDRESS__)
    ds_test_skip("idle_costs_nothing", "memory and time of a sanitizer build say nothing");
#else
    char dir[400];
    rig_images(&r, "photos", 50, dir);
    rig_add(&r, "photos", dir, 201);
    rig_wait_adapter(&r, "photos", 1, 15000);
    sleep(3); /* scratch memory is given back two seconds after a job */
    long ticks = cpu_ticks(r.pid);
    double switches = proc_value(r.pid, "status", "voluntary_ctxt_switches:");
    sleep(2);
    double rss = proc_value(r.pid, "status", "VmRSS:") / 1024.0;
    double wakes = proc_value(r.pid, "status", "voluntary_ctxt_switches:") - switches;
    printf("idle: %.1f MB resident, %.1f wake-ups a second, %ld ticks of CPU in 2 s\n", rss,
           wakes / 2, cpu_ticks(r.pid) - ticks);
    ck_assert_double_lt(rss, 15.0);
    ck_assert_double_le(wakes / 2, 4.0);
    ck_assert_int_le(cpu_ticks(r.pid) - ticks, 1);
#endif
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, basics);
    tcase_add_test(tc, bad_datasets);
    tcase_add_test(tc, unreadable_folder);
    tcase_add_test(tc, bad_clients);
    tcase_add_test(tc, oversized);
    tcase_add_test(tc, slow_client);
    tcase_add_test(tc, many_clients);
    tcase_add_test(tc, add_is_quick);
    tcase_add_test(tc, heads_of_answers);
    tcase_add_test(tc, sockets_of_others);
    tcase_add_test(tc, a_server_that_cannot_start);
    tcase_add_test(tc, folders_that_cannot_be_made);
    tcase_add_test(tc, idle_costs_nothing);
}

int main(int argc, char **argv) {
    rig_main(argc, argv);
    return ds_test_main("daemon_http", cases);
}
