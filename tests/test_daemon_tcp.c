/* tests/test_daemon_tcp.c - the TCP listener: nothing without the token, everything with it. */
#include "tests/daemon_rig.h"

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

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, nothing_without_the_token);
    tcase_add_test(tc, followers_wake);
    tcase_add_test(tc, refused_starts);
}

int main(int argc, char **argv) {
    rig_main(argc, argv);
    return ds_test_main("daemon_tcp", cases);
}
