/* tests/daemon/test_daemon_tcp.c - the TCP listener: nothing without the token, everything with it. */
#include "daemon/http/tcp.h"
#include "tests/fixtures/daemon_rig.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#define TOKEN "0123456789abcdef0123456789abcdef"

static rig r;
static char token_file[400];

static void setup(void) {
    static int n;
    char name[32];
    snprintf(name, sizeof name, "tcp%d-%d", (int)getpid(), n++);
    rig_open(&r, name);
    snprintf(token_file, sizeof token_file, "%s/token", r.dir);
    rig_write(token_file, TOKEN "\n");
    chmod(token_file, 0600);
}

static void teardown(void) {
    if (r.pid)
        ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
}

static int port_of_daemon(void) {
    json_t *s = rig_call(&r, "GET", "/v1/status", NULL, NULL);
    const char *listen = ds_json_string(s, "listen", "");
    ck_assert_int_eq(strncmp(listen, "127.0.0.1:", 10), 0);
    int port = (int)strtol(listen + 10, NULL, 10);
    json_decref(s);
    return port;
}

static int dial(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval patience = {.tv_sec = 20};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

/* The whole answer to one request with this header line (may be ""). */
static char *ask(int port, const char *method, const char *path, const char *header,
                 const char *body) {
    ds_buf q = {0};
    ds_buf_addf(&q, "%s %s HTTP/1.1\r\nHost: d\r\nConnection: close\r\n%s", method, path, header);
    ds_buf_addf(&q, "Content-Length: %zu\r\n\r\n%s", strlen(body), body);
    char *answer = rig_exchange(dial(port), q.data, q.len, 0);
    ds_buf_release(&q);
    return answer;
}

static void expect(int port, const char *method, const char *path, const char *header,
                   const char *body, const char *status) {
    char *answer = ask(port, method, path, header, body);
    ck_assert_msg(strncmp(answer, status, strlen(status)) == 0, "%s %s [%s]: %.300s", method, path,
                  header, answer);
    if (strstr(status, "401"))
        ck_assert(strcasestr(answer, "WWW-Authenticate: Bearer") != NULL);
    ck_assert(strstr(answer, TOKEN) == NULL);
    free(answer);
}

static const char *const with_listener[] = {"--listen", "127.0.0.1:0", "--token-file", token_file,
                                            NULL};

START_TEST(nothing_without_the_token) {
    static const char *const wrong[] = {
        "",
        "Authorization: Bearer\r\n",
        "Authorization: Bearer \r\n",
        "Authorization: Basic " TOKEN "\r\n",
        "Authorization: Bearer " TOKEN "0\r\n",
        "Authorization: Bearer 0123456789abcdef0123456789abcdeF\r\n",
        "X-Token: " TOKEN "\r\n"};
    static const char *const paths[] = {"/", "/healthz", "/metrics", "/v1/status", "/no/such"};
    rig_start(&r, with_listener);
    int port = port_of_daemon();
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        expect(port, "GET", "/v1/status", wrong[i], "", "HTTP/1.1 401");
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        expect(port, "GET", paths[i], "", "", "HTTP/1.1 401");
    expect(port, "POST", "/v1/datasets", "", "{\"path\":\"/tmp\"}", "HTTP/1.1 401");
    expect(port, "GET", "/v1/status", "Authorization: bearer " TOKEN "\r\n", "", "HTTP/1.1 200");
    expect(port, "POST", "/v1/datasets", "Authorization: Bearer " TOKEN "\r\n",
           "{\"path\":\"/none\"}", "HTTP/1.1 404");
    int status;
    json_t *list = rig_call(&r, "GET", "/v1/datasets", NULL, &status); /* the socket needs none */
    ck_assert_int_eq(status, 200);
    ck_assert_int_eq((int)json_array_size(json_object_get(list, "items")), 0);
    json_decref(list);
}
END_TEST

/* Reads on until the stream has said this. */
static void until(int fd, char *buf, size_t size, size_t *n, const char *words) {
    while (!strstr(buf, words) && *n < size - 1) {
        ssize_t k = recv(fd, buf + *n, size - 1 - *n, 0);
        ck_assert_msg(k > 0, "'%s' does not arrive", words);
        buf[ *n += (size_t)k] = 0;
    }
    ck_assert(strstr(buf, words) != NULL);
}

/* A follower over TCP is woken by what happens, as on the socket. */
START_TEST(followers_wake) {
    char photos[400], buf[4096] = "";
    size_t n = 0;
    rig_images(&r, "photos", 2, photos);
    rig_start(&r, with_listener);
    int fd = dial(port_of_daemon());
    static const char request[] =
        "GET /v1/events?since=0&follow=1 HTTP/1.1\r\nHost: d\r\nAuthorization: "
        "Bearer " TOKEN "\r\nAccept: application/x-ndjson\r\n\r\n";
    ck_assert_int_eq(send(fd, request, sizeof request - 1, 0), (ssize_t)sizeof request - 1);
    until(fd, buf, sizeof buf, &n, "daemon.started"); /* and now it sleeps */
    rig_add(&r, "digits", photos, 201);
    until(fd, buf, sizeof buf, &n, "dataset.added");
    close(fd);
}
END_TEST

/* Only whether the port is free cannot be told by --check-config. */
static void refused(const char *listen, const char *token, int code) {
    for (int check = 0; check < (code == 4 ? 1 : 2); check++) {
        const char *with[] = {
            "--listen", listen, "--token-file", token, check ? "--check-config" : NULL, NULL};
        const char *without[] = {"--listen", listen, check ? "--check-config" : NULL, NULL};
        rig_spawn(&r, token ? with : without);
        int got = rig_wait_exit(&r, 20000);
        ck_assert_msg(got == code, "--listen %s: exit %d, not %d", listen, got, code);
    }
}

START_TEST(refused_starts) {
    char port[40], file[400];
    refused("127.0.0.1:0", NULL, 2);
    refused("7777", token_file, 2);
    refused("127.0.0.1:70000", token_file, 2);
    refused("::1:7777", token_file, 2);
    refused("127.0.0.1:0", "/none/token", 3);
    refused("127.0.0.1:0", "/dev/null", 2);
    snprintf(file, sizeof file, "%s/fifo", r.dir);
    ck_assert_int_eq(mkfifo(file, 0600), 0);
    refused("127.0.0.1:0", file, 2); /* not: waits for a writer */
    snprintf(file, sizeof file, "%s/open", r.dir);
    rig_write(file, TOKEN); /* mode 0644 */
    refused("127.0.0.1:0", file, 6);
    snprintf(file, sizeof file, "%s/short", r.dir);
    rig_write(file, "0123456789\n");
    chmod(file, 0600);
    refused("127.0.0.1:0", file, 2);
    snprintf(file, sizeof file, "%s/spaced", r.dir);
    rig_write(file, "0123456789 0123456789\n");
    chmod(file, 0600);
    refused("127.0.0.1:0", file, 2);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    ck_assert(!bind(fd, (struct sockaddr *)&a, sizeof a) && !listen(fd, 1) &&
              !getsockname(fd, (struct sockaddr *)&a, &n));
    snprintf(port, sizeof port, "127.0.0.1:%d", ntohs(a.sin_port));
    refused(port, token_file, 4);
    close(fd);
}
END_TEST

/* A free port, and nobody else gets it. */
static void listen_twice(int *fd, char bound[DS_TCP_NAME]) {
    char again[DS_TCP_NAME];
    int second = -1;
    ds_error err;
    errno = EADDRINUSE;
    ck_assert_msg(ds_tcp_listen("127.0.0.1:0", fd, bound, &err) == 0, "%s", err.message);
    ck_assert(*fd >= 0 && !strncmp(bound, "127.0.0.1:", 10) && strcmp(bound, "127.0.0.1:0") != 0);
    ck_assert_int_eq(ds_tcp_listen(bound, &second, again, &err), DS_ECONFLICT);
    ck_assert(second < 0 && strstr(err.message, "another program listens on"));
}

/* HOST:PORT and what is none; what failed before does not matter where one could be had. */
START_TEST(places_to_listen_on) {
    static const char *const good[] = {"127.0.0.1:0", "localhost:65535", "[::1]:7", "a.b:1"};
    static const char *const bad[] = {"",           ":7",          "host:",   "host",
                                      "host:65536", "host:12345a", "host:-1", "host:000007",
                                      "::1:7",      "[::1:7",      "host: 7"};
    char bound[DS_TCP_NAME], again[DS_TCP_NAME], longest[80];
    ds_error err;
    int fd = -1;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        ck_assert_msg(ds_tcp_check(good[i], &err) == 0, "%s: %s", good[i], err.message);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(ds_tcp_check(bad[i], &err) == DS_EINVAL, "'%s'", bad[i]);
    memset(longest, 'h', sizeof longest);
    memcpy(longest + 63, ":7", 3);
    ck_assert_int_eq(ds_tcp_check(longest, &err), 0);
    memcpy(longest + 63, "h:7", 4);
    ck_assert_int_eq(ds_tcp_check(longest, &err), DS_EINVAL);
    int second = -1, rc = DS_ECONFLICT;
    for (int i = 0; i < 20 && rc == DS_ECONFLICT; i++) { /* another program may get the port */
        listen_twice(&fd, bound);
        close(fd);
        rc = ds_tcp_listen(bound, &second, again, &err);
    }
    ck_assert_msg(rc == 0, "%s", err.message);
    ck_assert_str_eq(again, bound);
    close(second);
    ck_assert_int_ne(ds_tcp_listen("203.0.113.7:7", &fd, bound, &err), 0); /* not ours */
    ck_assert_int_eq(ds_tcp_listen("no host:7", &fd, bound, &err), DS_EINVAL);
}
END_TEST

/* Both ends of a token's length, and what may be in it. */
START_TEST(tokens) {
    char text[600], digest[DS_HEX_SIZE], want[DS_HEX_SIZE], header[600];
    static const int lengths[] = {15, 16, 512, 513};
    ds_error err;
    for (int i = 0; i < 4; i++)
        for (int end = 0; end < 2; end++) {
            memset(text, 'k', sizeof text);
            memcpy(text + lengths[i], end ? "\n" : "", end ? 2 : 1);
            rig_write(token_file, text);
            chmod(token_file, 0600);
            int rc = ds_token_read(token_file, digest, &err);
            ck_assert_msg(rc == (i == 1 || i == 2 ? 0 : DS_EINVAL), "%d: %d", lengths[i], rc);
            if (rc)
                continue;
            ds_digest(text, (size_t)lengths[i], want);
            ck_assert_str_eq(digest, want);
        }
    ck_assert(!ds_token_good(digest, NULL) && !ds_token_good(digest, "Bearer"));
    snprintf(header, sizeof header, "BEARER %.512s", text);
    ck_assert_int_eq(ds_token_good(digest, header), 1);
    header[7] = 'l';
    ck_assert_int_eq(ds_token_good(digest, header), 0);
    rig_write(token_file, "0123456789abcdef\n\n"); /* two lines */
    chmod(token_file, 0600);
    ck_assert_int_eq(ds_token_read(token_file, digest, &err), DS_EINVAL);
    rig_write(token_file, "0123456789abcde\x7f\n");
    chmod(token_file, 0600);
    ck_assert_int_eq(ds_token_read(token_file, digest, &err), DS_EINVAL);
    rig_write(token_file, TOKEN);
    for (int mode = 0600; mode < 0700; mode += 010) {
        chmod(token_file, (mode_t)mode);
        ck_assert_int_eq(ds_token_read(token_file, digest, &err), mode == 0600 ? 0 : DS_EPERM);
    }
    chmod(token_file, 0604);
    ck_assert_int_eq(ds_token_read(token_file, digest, &err), DS_EPERM);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, nothing_without_the_token);
    tcase_add_test(tc, followers_wake);
    tcase_add_test(tc, refused_starts);
    tcase_add_test(tc, places_to_listen_on);
    tcase_add_test(tc, tokens);
}

int main(int argc, char **argv) {
    rig_main(argc, argv);
    return ds_test_main("daemon_tcp", cases);
}
