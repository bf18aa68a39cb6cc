/* tests/cli/test_cli_manage.c - what is taken away, paused and stopped; and failed trainings, which every
 * list has to show. */
#include "base/fs.h"
#include "tests/fixtures/cli_fake.h"

#include <sys/stat.h>

#define FAILED                                                                                     \
    "{\"id\":1,\"name\":\"digits\",\"path\":\"/x\",\"state\":\"ready\",\"adapter\":null,"          \
    "\"version\":{\"version\":1,\"images\":1},\"training\":{\"job\":4,\"state\":\"failed\","       \
    "\"error\":{\"code\":\"DS_EFAILED\",\"message\":\"the loss is not finite\"}}}"
#define PAUSED                                                                                     \
    "{\"id\":2,\"name\":\"flags\",\"path\":\"/y\",\"state\":\"ready\",\"paused\":true,"            \
    "\"training\":{\"job\":5,\"state\":\"queued\",\"error\":null}}"
#define ALIAS "{\"name\":\"digits\",\"alias\":\"prod\",\"version\":2,\"generation\":3}"

static const fake_route routes[] = {
    {.request = "GET /v1/datasets?limit=1000", .body = "{\"items\":[" FAILED "," PAUSED "]}"},
    {.request = "GET /v1/datasets?limit=100", .body = "{\"items\":[" FAILED "," PAUSED "]}"},
    {.request = "GET /v1/datasets/digits", .body = FAILED},
    {.request = "GET /v1/datasets/flags", .body = PAUSED},
    {.request = "GET /v1/bases*", .body = "{\"items\":[],\"next\":null}"},
    {.request = "GET /v1/feature_nets*", .body = "{\"items\":[],\"next\":null}"},
    {.request = "GET /v1/status",
     .body = "{\"version\":\"" DS_VERSION "\",\"pid\":7,\"default_feature_net\":{\"bundled\":true},"
             "\"failed_trainings\":{\"count\":12,"
             "\"items\":[{\"dataset\":\"digits\",\"job\":4,\"error\":{\"message\":"
             "\"the loss is not finite\"}}]}}"},
    {.request = "DELETE /v1/adapters/digits@v2",
     .body = "{\"ref\":\"digits@v2\",\"name\":\"digits\"}"},
    {.request = "DELETE /v1/adapters/digits?force=1", .body = "{\"ref\":\"digits@v1\"}"},
    {.request = "DELETE /v1/adapters/digits/aliases/prod", .body = "{\"removed\":true}"},
    {.request = "GET /v1/adapters/digits/aliases", .body = "{\"items\":[" ALIAS "]}"},
    {.request = "GET /v1/aliases?limit=100", .body = "{\"items\":[" ALIAS "],\"next\":null}"},
    {.request = "POST /v1/datasets/flags/pause", .body = PAUSED},
    {.request = "POST /v1/datasets/flags/resume", .body = PAUSED},
    {.request = NULL}};

/* line, on stdout, on stderr, what was asked */
static const struct {
    const char *line, *out, *err, *asked;
} cases_of[] = {
    {"list-datasets", "training failed", "digits: its newest training failed (job 4): the loss",
     ""},
    {"list-datasets", "paused", "", ""},
    {"show-dataset digits", "the loss is not finite; dsctl logs 4", "", ""},
    {"show-dataset flags", "ready, paused", "", ""},
    {"report", "digits: its newest training failed (job 4): the loss is not finite", "", ""},
    {"status", "training of digits (job 4): the loss is not finite", "", ""},
    {"status", "and 11 more; list-datasets shows them", "", ""},
    {"remove-adapter digits@v2", "", "removed digits@v2; dsctl gc",
     "DELETE /v1/adapters/digits@v2"},
    {"remove-adapter digits --force", "", "removed digits@v1", "?force=1"},
    {"remove-adapter digits@v2 -q", "digits@v2\n", "", ""},
    {"list-aliases", "digits@prod  v2", "", ""},
    {"list-aliases digits", "digits@prod  v2", "", ""},
    {"list-aliases -q", "digits@prod\n", "", ""},
    {"remove-alias digits prod", "", "removed the alias digits@prod", "DELETE"},
    {"remove-alias digits prod --if-generation 3", "", "", "If-Match:3"},
    {"pause flags", "", "flags is paused", "POST /v1/datasets/flags/pause"},
    {"resume flags", "", "flags goes on", "POST /v1/datasets/flags/resume"},
};

START_TEST(managing_commands) {
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, 0, "%s", cases_of[_i].line);
    ck_has(r.out, cases_of[_i].out);
    ck_has(r.err, cases_of[_i].err);
    ck_has_not(r.out, "measured with"); /* the bundled network is no news */
    ck_has(s.log.data, cases_of[_i].asked);
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

static const char *const documents[][2] = {{"remove-adapter digits@v2", "dsctl.v1/adapter"},
                                           {"list-aliases", "dsctl.v1/aliases"},
                                           {"list-aliases digits", "dsctl.v1/aliases"},
                                           {"remove-alias digits prod", "dsctl.v1/alias"},
                                           {"pause flags", "dsctl.v1/dataset"},
                                           {"resume flags", "dsctl.v1/dataset"}};

START_TEST(as_json) {
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    for (size_t i = 0; i < sizeof documents / sizeof *documents; i++) {
        ck_run(r, &s, 0, "%s --json", documents[i][0]);
        json_decref(cli_json(&r, documents[i][1]));
        ck_assert_str_eq(r.err, "");
        cli_free(&r);
    }
    ck_run(r, &s, 0, "report --json");
    json_t *doc = cli_json(&r, "dsctl.v1/report");
    json_t *row = json_array_get(json_object_get(doc, "datasets"), 0);
    ck_assert_str_eq(ds_json_string(json_object_get(row, "training"), "state", ""), "failed");
    json_decref(doc);
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

START_TEST(doctor_tells_of_failed_trainings) {
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    r = cli_run(&s, "doctor"); /* other checks may fail here */
    ck_has(r.out, "that of digits failed (job 4): the loss is not finite");
    ck_has(r.out, "11 more failed");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

/* Of a name that nobody has: not found, with the nearest one. */
START_TEST(names_that_are_not_there) {
    static const char *const lines[] = {"remove-adapter digts",
                                        "list-aliases digts",
                                        "remove-alias digts prod",
                                        "pause digts",
                                        "resume digts",
                                        "set-alias digts prod 2",
                                        "show-dataset digts --rejected"};
    static const fake_route only[] = {
        {.request = "GET /v1/adapters?limit=1000",
         .body = "{\"items\":[{\"name\":\"digits\",\"ref\":\"digits@v1\"}],\"next\":null}"},
        {.request = "GET /v1/datasets?limit=1000", .body = "{\"items\":[" FAILED "]}"},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, only);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        ck_run(r, &s, 3, "%s", lines[i]);
        ck_has(r.err, "did you mean 'digits'?");
        ck_assert_str_eq(r.out, "");
        cli_free(&r);
    }
    fake_stop(&s);
}
END_TEST

#define VERSION(pid) "{\"version\":\"x\",\"pid\":" pid "}"

/* It waits until the daemon that said so is gone: nobody answers, or another one does. */
START_TEST(stop_waits_for_the_end) {
    const fake_route stop[] = {
        {.request = "POST /v1/stop", .status = 202, .body = "{\"stopping\":true,\"pid\":7}"},
        {.request = "GET /v1/version", .body = VERSION("7"), .times = 2},
        {.request = "GET /v1/version", .body = VERSION("8")},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, stop);
    ck_run(r, &s, 0, "stop");
    ck_has(r.err, "diffscalerd (pid 7) has stopped");
    ck_assert_int_eq(s.served[1], 2);
    cli_free(&r);
    s.served[1] = 0; /* an answer that is an error says nothing of its end */
    s.fail_at = s.requests + 2;
    ck_run(r, &s, 0, "stop");
    ck_assert_int_eq(s.served[1], 2);
    cli_free(&r);
    s.routes[1].times = 0;
    ck_run(r, &s, 7, "stop --timeout 0.3");
    ck_has(r.err, "diffscalerd (pid 7) has not stopped within 0 s");
    cli_free(&r);
    s.routes[1] = (fake_route){.request = "GET /v1/version", .kind = FAKE_CLOSE};
    ck_run(r, &s, 0, "stop --json");
    json_decref(cli_json(&r, "dsctl.v1/stop"));
    cli_free(&r);
    fake_stop(&s);
    r = cli_line("/nonexistent/socket", "stop");
    ck_assert_int_eq(r.exit, 5);
    cli_free(&r);
}
END_TEST

/* Without a daemon the program itself looks, and its end is ours. */
START_TEST(fsck_without_a_daemon) {
    static const struct {
        const char *line, *script, *args;
        int exit;
        const char *out, *err;
    } runs[] = {
        {"fsck",
         "echo '{\"damage\":1,\"findings\":[{\"thing\":\"blob aa\",\"damage\":true}]}'; exit 9",
         "full", 9, "damage  blob aa", "1 finding of damage"},
        {"fsck --quick", "echo '{\"damage\":0,\"more\":3,\"checked\":{\"blobs\":7}}'", "quick", 0,
         "", "and 3 findings more\n7 blobs"},
        {"fsck --quick", "echo '{\"damage\":0}'", "quick", 0, "",
         "no damage that shows without reading the files"},
        {"fsck --repair", "echo '{\"damage\":2}'; exit 9", "repair", 9, "",
         "2 findings of damage could not be mended"},
        {"fsck", "echo 'no registry there' >&2; echo more; exit 3", "full", 3, "",
         "cannot check the state folder: no registry there\n"},
        {"fsck", "kill -9 $$", "full", 1, "",
         "cannot check the state folder: diffscalerd was killed"},
        {"fsck", "echo nonsense", "full", 1, "", "cannot check the state folder: nonsense"},
    };
    char path[300], *args, want[400];
    size_t n;
    snprintf(path, sizeof path, "%s/bin", ds_test_tmpdir());
    ck_assert_int_eq(mkdir(path, 0700), 0);
    setenv("PATH", path, 1);
    cli_result r = cli_line("/nonexistent/socket", "fsck");
    ck_assert_int_eq(r.exit, 5); /* no program either: that the daemon is away says more */
    ck_has(r.err, "cannot reach diffscalerd");
    cli_free(&r);
    snprintf(path, sizeof path, "%s/bin/diffscalerd", ds_test_tmpdir());
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        char *script =
            ds_xasprintf("#!/bin/sh\necho \"$*\" >'%s.args'\n%s\n", path, runs[i].script);
        ck_assert(!ds_fs_write(path, script, strlen(script), NULL) && !chmod(path, 0700));
        snprintf(want, sizeof want, "--state /s %s", runs[i].line);
        r = cli_line("/nonexistent/socket", want);
        ck_assert_msg(r.exit == runs[i].exit, "%zu: exit %d: %s", i, r.exit, r.err);
        ck_has(r.out, runs[i].out);
        ck_has(r.err, runs[i].err);
        snprintf(want, sizeof want, "--state /s --fsck %s\n", runs[i].args);
        snprintf(path + strlen(path), 6, ".args");
        ck_assert_int_eq(ds_fs_read(path, 1000, &args, &n, NULL), 0);
        ck_assert_str_eq(args, want);
        path[strlen(path) - 5] = 0;
        free(args);
        free(script);
        cli_free(&r);
    }
}
END_TEST

/* The daemon answers, and what it answers is that it could not. */
START_TEST(fsck_that_fails) {
    const fake_route fails[] = {
        {.request = "POST /v1/fsck", .body = "{\"damage\":0,\"error\":\"the disk failed\"}"},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, fails);
    ck_run(r, &s, 1, "fsck --json");
    ck_has(r.err, "cannot check the state folder: the disk failed");
    ck_assert_str_eq(r.out, "");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, fsck_without_a_daemon);
    tcase_add_test(tc, fsck_that_fails);
    tcase_add_loop_test(tc, managing_commands, 0, sizeof cases_of / sizeof *cases_of);
    tcase_add_test(tc, as_json);
    tcase_add_test(tc, doctor_tells_of_failed_trainings);
    tcase_add_test(tc, names_that_are_not_there);
    tcase_add_test(tc, stop_waits_for_the_end);
}

int main(void) { return ds_test_main("cli_manage", cases); }
