/* tests/cli/test_cli_streams.c - logs, events and watch: what follows a stream until it ends. */
#include "tests/fixtures/cli_waiting.h"
#include "base/fs.h"
#include "base/log.h"
#include "tests/fixtures/cli_fake.h"
#include <sys/stat.h>

START_TEST(logs_once_and_following) {
    fake_route routes[] = {
        {.request = "GET /v1/jobs/4", .body = JOB("running", ""), .times = 2},
        {.request = "GET /v1/jobs/4", .body = JOB("done", "")},
        {.request = "GET /v1/jobs/4/log?offset=0",
         .body = "one\n",
         .headers = "X-Next-Offset: 4\r\n"},
        {.request = "GET /v1/jobs/4/log?offset=4", .headers = "X-Next-Offset: 4\r\n", .times = 2},
        {.request = "GET /v1/jobs/4/log?offset=4",
         .body = "two\n",
         .headers = "X-Next-Offset: 8\r\n"},
        {.request = "GET /v1/jobs/4/log?offset=8", .headers = "X-Next-Offset: 8\r\n"},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, 0, "logs 4");
    ck_assert_str_eq(r.out, "one\n");
    cli_free(&r);
    ck_run(r, &s, 0, "logs 4 -f");
    ck_assert_str_eq(r.out, "one\ntwo\n");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

#define EVENT(seq, at, type)                                                                       \
    "{\"seq\":" #seq ",\"at\":\"" at "\",\"type\":\"" type                                         \
    "\",\"subject\":\"adapter:digits@v1\",\"payload\":{\"fd\":42.125,\"name\":\"x\"}}\n"

#define OLD EVENT(1, "2001-02-03T04:05:06Z", "adapter.published")

#define NEW EVENT(2, "2031-02-03T04:05:06Z", "alias.set")

START_TEST(events_once) {
    static const fake_route routes[] = {
        {.request = "GET /v1/events?since=0", .body = "\n" OLD "\r\n" NEW "\n\n"},
        {.request = "GET /v1/events?since=1", .body = "\r\n\n" NEW "\n"},
        {.request = "GET /v1/events?since=1&type=alias.set", .body = NEW},
        {.request = "GET /v1/events?since=2*", .body = ""},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, 0, "events");
    ck_has(r.out,
           "     1  2001-02-03    adapter.published   adapter:digits@v1  fd=42.125  name=x\n");
    ck_has(r.out, "alias.set");
    cli_free(&r);
    ck_run(r, &s, 0, "events --json --since 1 --type alias.set");
    json_t *doc = cli_json(&r, "dsctl.v1/events");
    ck_assert_uint_eq(json_array_size(json_object_get(doc, "items")), 1);
    ck_assert_str_eq(ds_json_string(doc, "next", ""), "2");
    json_decref(doc);
    cli_free(&r);
    ck_run(r, &s, 0, "events -q --since 1h");
    ck_assert_str_eq(r.out, "2\n");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

/* The stream is cut off twice; each event comes once, and the cursor goes on. */
START_TEST(events_following) {
    static const fake_route routes[] = {
        {.request = "GET /v1/status", .body = "{\"event_seq\":0}"},
        {.request = "GET /v1/events?since=0&follow=1", .body = OLD, .kind = FAKE_TRUNCATED},
        {.request = "GET /v1/events?since=1&follow=1", .kind = FAKE_CLOSE, .times = 1},
        {.request = "GET /v1/events?since=1&follow=1",
         .body = OLD NEW "{\"seq\":2,\"type\":\"job.progress\"}\n",
         .kind = FAKE_INTERRUPT},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, 130, "events --follow --json");
    ck_assert_int_eq(cli_ndjson(&r, "dsctl.v1/event"), 3);
    ck_has(r.out, "adapter.published");
    ck_has(r.out, "alias.set");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

START_TEST(watch_prints_changes) {
#define WJOB(state, stage, done)                                                                   \
    "{\"items\":[{\"id\":5,\"kind\":\"scan\",\"state\":\"done\",\"dataset\":\"old\"},"             \
    "{\"id\":4,\"kind\":\"train\",\"state\":\"" state                                              \
    "\",\"dataset\":\"digits\",\"stage\":\"" stage                                                 \
    "\",\"adapter\":\"digits@v1\",\"progress\":{\"done\":" #done ",\"total\":10}}],\"next\":null}"
    fake_route routes[] = {
        {.request = "GET /v1/status", .body = "{}", .times = 3},
        {.request = "GET /v1/status", .kind = FAKE_CLOSE, .times = 1},
        {.request = "GET /v1/status", .body = "{}"},
        {.request = "GET /v1/adapters?limit=8", .body = NO_JOBS},
        {.request = "GET /v1/jobs?limit=50", .body = WJOB("running", "train", 1), .times = 2},
        {.request = "GET /v1/jobs?limit=50", .body = WJOB("running", "train", 5), .times = 1},
        {.request = "GET /v1/jobs?limit=50", .body = WJOB("done", "", 10)},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, 0, "watch --interval 0.1 --count 6");
    ck_assert_str_eq(r.out, "job 4 train digits running train 10 %  1/10 \n"
                            "job 4 train digits running train 50 %  5/10 \n"
                            "job 4 train digits done: digits@v1\n");
    ck_has(r.err, "not reachable; waiting");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

/* What is longer than an answer may be is told, and nothing of it is taken for the whole. */
START_TEST(answers_without_an_end) {
    static const struct {
        const char *line, *request;
    } asks[] = {{"status", "GET /v1/status"},
                {"logs 4", "GET /v1/jobs/4/log?offset=0"},
                {"events", "GET /v1/events?since=0"}};
    const size_t n = ((size_t)64 << 20) + 4096;
    char *body = malloc(n);
    memset(body, ' ', n);
    memcpy(body, "{}", 2);
    fake_route routes[] = {{.request = "GET /v1/jobs/4", .body = JOB("done", "")},
                           {.request = asks[_i].request, .body = body, .length = n},
                           {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, 1, "%s", asks[_i].line);
    ck_has(r.err, asks[_i].request + 4);
    ck_has(r.err, " is larger than 64 MiB");
    ck_assert_uint_eq(r.out_n, 0);
    cli_free(&r);
    fake_stop(&s);
    free(body);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_loop_test(tc, answers_without_an_end, 0, 3);
    tcase_add_test(tc, logs_once_and_following);
    tcase_add_test(tc, events_once);
    tcase_add_test(tc, events_following);
    tcase_add_test(tc, watch_prints_changes);
}

int main(void) { return ds_test_main("cli_streams", cases); }
