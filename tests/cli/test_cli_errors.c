/* Exit codes: what goes wrong, which status it gives, and whether the message has a way out. */
#include "cli/client.h"
#include "tests/fixtures/cli_fake.h"

#include <sys/stat.h>
#include <unistd.h>

#define PROBLEM(status_, exit_, detail_)                                                           \
    "{\"type\":\"https://diffscaler.dev/errors/x\",\"title\":\"t\",\"status\":" #status_           \
    ",\"detail\":\"" detail_ "\",\"exit\":" #exit_ "}"

/* The "exit" member decides, whatever the status; without it the status does. */
static const struct {
    int status;
    const char *body;
    int exit;
    const char *says;
} problems[] = {
    {500, PROBLEM(500, 1, "it broke"), 1, "it broke"},
    {400, PROBLEM(400, 2, "bad name"), 2, "bad name"},
    {404, PROBLEM(404, 3, "job 4 does not exist"), 3, "job 4 does not exist"},
    {409, PROBLEM(409, 4, "belongs to another path"), 4, "belongs to"},
    {403, PROBLEM(403, 6, "not allowed"), 6, "not allowed"},
    {504, PROBLEM(504, 7, "too slow"), 7, "too slow"},
    {422, PROBLEM(422, 8, "flags fell"), 8, "flags fell"},
    {500, PROBLEM(500, 9, "damaged"), 9, "damaged"},
    {500, PROBLEM(500, 10, "registry is newer"), 10, "newer"},
    {503, PROBLEM(503, 75, "busy"), 75, "busy"},
    {507, PROBLEM(507, 75, "disk full"), 75, "disk full"},
    {401, "{}", 6, "answered 401"},
    {403, "{}", 6, "answered 403"},
    {422, "{\"detail\":\"flags fell\"}", 8, "flags fell"},
    {504, "{}", 7, "answered 504"},
    {507, "{}", 75, "answered 507"},
    {400, "", 2, "answered 400"},
    {404, "<html>", 3, "answered 404"},
    {409, "[]", 4, "answered 409"},
    {412, "{}", 4, "answered 412"},
    {413, "{\"title\":\"too large\"}", 1, "too large"},
    {503, "{}", 75, "answered 503"},
    {500, "{\"exit\":-3}", 1, "answered 500"},
    {418, "{\"exit\":\"x\"}", 1, "answered 418"},
};

START_TEST(problems_give_exit_codes) {
    fake_route routes[] = {
        {.request = "GET /v1/jobs/4", .status = problems[_i].status, .body = problems[_i].body},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, problems[_i].exit, "show-job 4");
    ck_has(r.err, problems[_i].says);
    ck_assert_str_eq(r.out, "");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

/* Commands that need the daemon, each without one. */
START_TEST(no_daemon) {
    const ds_command *k = &ds_commands[_i];
    char line[512], socket[300];
    snprintf(socket, sizeof socket, "%s/none", ds_test_tmpdir());
    const char *arg = !*k->args                 ? ""
                      : k->kind == DS_ARG_DIR   ? ds_test_tmpdir()
                      : k->kind == DS_ARG_FILE  ? ds_test_tmpdir()
                      : k->kind == DS_ARG_JOB   ? "4"
                      : k->kind == DS_ARG_SHELL ? "bash"
                      : k->min_args == 3        ? "digits prod 2"
                      : k->min_args == 2        ? "digits prod"
                                                : "digits";
    int local =
        !strcmp(k->name, "version") || !strcmp(k->name, "completion") || !strcmp(k->name, "help");
    if (local || !strcmp(k->name, "doctor"))
        return;
    const char *more = !strcmp(k->name, "export")     ? " --format dit"
                       : !strcmp(k->name, "evaluate") ? " --against digits"
                                                      : "";
    snprintf(line, sizeof line, "%s%s%s%s", k->name, *arg ? " " : "", arg, more);
    cli_result r = cli_line(socket, line);
    ck_assert_msg(r.exit == 5, "%s: exit %d: %s", line, r.exit, r.err);
    ck_has(r.err, "start it with: diffscalerd --state");
    ck_has(r.err, "no such socket");
    ck_assert_str_eq(r.out, "");
    cli_free(&r);
}
END_TEST

START_TEST(version_without_daemon) {
    cli_result r = cli_line("/nonexistent/socket", "version");
    ck_assert_int_eq(r.exit, 0);
    ck_has(r.out, "diffscalerd not reachable");
    cli_free(&r);
}
END_TEST

START_TEST(dead_and_forbidden_sockets) {
    char path[200];
    snprintf(path, sizeof path, "%s/dead%d", ds_test_tmpdir(), (int)getpid());
    close(fake_listen(path)); /* the file stays, nobody listens */
    cli_result r = cli_line(path, "status");
    ck_assert_int_eq(r.exit, 5);
    ck_has(r.err, "nobody listens there");
    cli_free(&r);
    char longest[400];
    memset(longest, 'x', sizeof longest - 1);
    longest[0] = '/';
    longest[sizeof longest - 1] = 0;
    r = cli_line(longest, "status");
    ck_assert_int_eq(r.exit, 2);
    ck_has(r.err, "--socket");
    cli_free(&r);
    chmod(path, 0);
    if (!geteuid()) /* root may open everything; each case has a process of its own */
        ck_assert(setuid(65534) == 0);
    r = cli_line(path, "status");
    ck_assert_int_eq(r.exit, 6);
    ck_has(r.err, "permission denied");
    cli_free(&r);
}
END_TEST

static const struct {
    fake_route route;
    int exit;
    const char *says;
} garbage[] = {
    {{.body = "SSH-2.0-OpenSSH_9.2\r\n", .kind = FAKE_GARBAGE}, 1, "does not speak HTTP"},
    {{.body = "\0\0\0\0", .length = 4, .kind = FAKE_GARBAGE}, 1, "does not speak HTTP"},
    {{.body = "HTTP/1.1", .kind = FAKE_GARBAGE}, 1, ""},
    {{.body = "HTTP/1.1 200 OK\r\n", .kind = FAKE_GARBAGE}, 1, ""},
    {{.kind = FAKE_CLOSE}, 5, "closed the connection"},
    {{.body = "{\"version\":", .kind = FAKE_TRUNCATED}, 5, "closed the connection"},
    {{.body = "hello"}, 1, "not a JSON object"},
    {{.body = ""}, 1, "not a JSON object"},
    {{.body = "[1,2]"}, 1, "not a JSON object"},
    {{.body = "{\"a\":1,\"a\":2}"}, 1, "not a JSON object"},
    {{.body = "{\"a\":1} x"}, 1, "not a JSON object"},
    {{.body = "{\"a\":\"\xff\"}"}, 1, "not a JSON object"},
    {{.body = "{}"}, 0, ""}, /* all fields missing: nothing to show, nothing breaks */
    {{.body = "{\"version\":{},\"jobs\":[],\"base\":7,\"running\":{},\"pid\":\"x\"}"}, 0, ""},
};

START_TEST(garbage_answers) {
    fake_route routes[] = {garbage[_i].route, {.request = NULL}};
    routes[0].request = "GET /v1/status";
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    r = cli_run(&s, "status");
    /* A torn status line may count as either kind of nonsense, but never as success. */
    if (!*garbage[_i].says && garbage[_i].exit)
        ck_assert_msg(r.exit == 1 || r.exit == 5, "exit %d", r.exit);
    else
        ck_assert_msg(r.exit == garbage[_i].exit, "exit %d: %s", r.exit, r.err);
    ck_has(r.err, garbage[_i].says);
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

/* Every reading command survives an empty object and objects of wrong types. */
static const char *const odd[] = {
    "{}", "{\"items\":[{}],\"next\":null}", "{\"items\":[1,\"x\",null,[]],\"next\":7}",
    "{\"items\":[{\"name\":5,\"version\":[],\"fd\":\"x\",\"aliases\":{\"a\":1},\"progress\":[],"
    "\"error\":\"e\",\"base\":[],\"gate\":{\"tasks\":[{},7]},\"id\":\"z\"}],\"next\":null}",
    "{\"name\":[],\"version\":{\"images\":\"x\"},\"aliases\":[1,{}],\"gate\":{\"tasks\":[1]},"
    "\"evaluations\":[{},2],\"progress\":3,\"error\":[],\"result\":4,\"state\":9,\"attempts\":[]}"};

START_TEST(odd_answers) {
    static const char *const lines[] = {
        "list-datasets",   "show-dataset d",   "show-dataset d --rejected",
        "list-adapters",   "show-adapter d",   "list-jobs",
        "show-job 4",      "list-evaluations", "events",
        "watch --count 1", "status",           "version"};
    fake_server s;
    for (size_t k = 0; k < sizeof lines / sizeof *lines; k++) {
        fake_route routes[] = {{.request = "GET *", .body = odd[_i]}, {.request = NULL}};
        fake_start(&s, routes);
        for (int json = 0; json < 2; json++) {
            cli_result r = cli_run(&s, "%s%s", lines[k], json ? " --json" : "");
            ck_assert_msg(r.exit == 0 || r.exit == 1, "%s: exit %d: %s", lines[k], r.exit, r.err);
            cli_free(&r);
        }
        fake_stop(&s);
    }
}
END_TEST

#define NOT_FOUND(what) PROBLEM(404, 3, what " does not exist")

static const fake_route unknown[] = {
    {.request = "GET /v1/datasets?limit=1000",
     .body = "{\"items\":[{\"name\":\"digits\"},{\"name\":\"flags\"}],\"next\":null}"},
    {.request = "GET /v1/adapters?limit=1000",
     .body = "{\"items\":[{\"name\":\"digits\",\"ref\":\"digits@v2\",\"aliases\":[\"prod\"]},"
             "{\"name\":\"flags\",\"ref\":\"flags@v1\",\"aliases\":[]}],\"next\":null}"},
    {.request = "GET *", .status = 404, .body = NOT_FOUND("it")},
    {.request = "POST *", .status = 404, .body = NOT_FOUND("it")},
    {.request = "PUT *", .status = 404, .body = NOT_FOUND("it")},
    {.request = "DELETE *", .status = 404, .body = NOT_FOUND("it")},
    {.request = NULL}};

static const struct {
    const char *line, *says;
} suggested[] = {
    {"show-dataset digts", "did you mean 'digits'?"},
    {"show-dataset flag --rejected", "did you mean 'flags'?"},
    {"show-dataset flagz --manifest", "did you mean 'flags'?"},
    {"remove-dataset diigts", "did you mean 'digits'?"},
    {"rescan-dataset flgas", "did you mean 'flags'?"},
    {"show-adapter Digits", "did you mean 'digits'?"},
    {"show-adapter digits@v3", "did you mean 'digits@v2'?"},
    {"pull-adapter digits@prd -o x", "did you mean 'digits@prod'?"},
    {"sample digitz", "did you mean 'digits'?"},
    {"verify flags@v2", "did you mean 'flags@v1'?"},
    {"set-alias digit prod 2", "did you mean 'digits'?"},
    {"show-adapter celeba", "it does not exist\n"},
    {"show-adapter sha256:0123456789", "it does not exist\n"},
};

START_TEST(did_you_mean) {
    fake_server s;
    cli_result r;
    fake_start(&s, unknown);
    ck_run(r, &s, 3, "%s", suggested[_i].line);
    ck_has(r.err, suggested[_i].says);
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

/* Where there is none of its kind, that is said. */
START_TEST(nothing_to_mean) {
    static const fake_route routes[] = {
        {.request = "GET /v1/datasets?limit=1000", .body = "{\"items\":[],\"next\":null}"},
        {.request = "GET /v1/adapters?limit=1000", .body = "{\"items\":[],\"next\":null}"},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, 3, "show-dataset digits");
    ck_has(r.err, "no such thing; there is none yet\n");
    cli_free(&r);
    ck_run(r, &s, 3, "sample digits -o %s/none.png", ds_test_tmpdir());
    ck_has(r.err, "no such thing; there is none yet\n");
    cli_free(&r);
    ck_run(r, &s, 3, "events --follow"); /* needs to know where it begins */
    ck_has(r.err, "no such thing\n");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

START_TEST(bad_folders) {
    fake_server s;
    cli_result r;
    char path[300];
    fake_start(&s, unknown);
    ck_run(r, &s, 3, "add-dataset %s/absent", ds_test_tmpdir());
    ck_has(r.err, "No such file");
    cli_free(&r);
    snprintf(path, sizeof path, "%s/file", ds_test_tmpdir());
    fclose(fopen(path, "w"));
    ck_run(r, &s, 2, "add-dataset %s", path);
    ck_has(r.err, "it is a file");
    cli_free(&r);
    snprintf(path, sizeof path, "%s/\xff\xfe", ds_test_tmpdir());
    ck_assert_int_eq(mkdir(path, 0700), 0);
    ck_run(r, &s, 2, "add-dataset %s", path);
    ck_has(r.err, "not UTF-8");
    cli_free(&r);
    ck_assert(!s.log.data || !strstr(s.log.data, "POST")); /* nothing was asked of the daemon */
    fake_stop(&s);
}
END_TEST

/* A folder that was removed while we are in it, and a name that says nothing of the base. */
START_TEST(answers_that_help_nobody) {
    static const fake_route routes[] = {
        {.request = "GET /v1/adapters?limit=1000",
         .body = "{\"items\":[{\"name\":\"bases\",\"ref\":\"bases@v1\"}],\"next\":null}"},
        {.request = "POST /v1/verify", .body = "{}"},
        {.request = "POST *", .status = 404, .body = NOT_FOUND("it")},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    char path[300];
    fake_start(&s, routes);
    snprintf(path, sizeof path, "%s/removed", ds_test_tmpdir());
    ck_assert(mkdir(path, 0700) == 0 && chdir(path) == 0 && rmdir(path) == 0);
    ck_run(r, &s, 3, "add-dataset .");
    ck_has(r.err, "cannot add '.': No such file");
    cli_free(&r);
    ck_assert_int_eq(chdir("/"), 0);
    ck_run(r, &s, 3, "sample base -o %s/b.png", ds_test_tmpdir());
    ck_has_not(r.err, "did you mean"); /* 'base' is no adapter that was mistyped */
    cli_free(&r);
    ck_run(r, &s, 3, "sample base1 -o %s/b.png", ds_test_tmpdir());
    ck_has(r.err, "did you mean 'bases'?");
    cli_free(&r);
    ck_run(r, &s, 1, "verify");
    ck_has(r.err, "the answer to POST /v1/verify names no job");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

/* No room for what was drawn; and a standard output that takes nothing. */
START_TEST(pictures_that_cannot_be_written) {
    static const fake_route routes[] = {
        {.request = "POST /v1/samples", .status = 202, .body = "{\"id\":4,\"state\":\"queued\"}"},
        {.request = "GET /v1/jobs/4", .body = "{\"id\":4,\"state\":\"done\"}"},
        {.request = "GET /v1/jobs/4/files/grid.png", .body = "\x89PNG\r\n\x1a\n and more"},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    setenv("DS_TEST_ENOSPC", "1", 1);
    ck_run(r, &s, 75, "sample d -o %s/full.png", ds_test_tmpdir());
    ck_has(r.err, "full.png': No space left");
    ck_has_not(r.err, "written to");
    cli_free(&r);
    unsetenv("DS_TEST_ENOSPC");
    char *argv[] = {"dsctl", "--socket", s.socket, "sample", "d", "-o", "-", NULL};
    FILE *full = fopen("/dev/full", "w"), *said = open_memstream(&r.err, &r.err_n);
    ck_assert_int_eq(ds_cli_run(7, argv, full, said), 1);
    fclose(full);
    fclose(said);
    ck_has(r.err, "cannot write to standard output: No space left");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

START_TEST(output_that_cannot_be_written) {
    fake_route routes[] = {{.request = "GET *", .body = "{\"items\":[],\"next\":null}"},
                           {.request = NULL}};
    fake_server s;
    fake_start(&s, routes);
    FILE *full = fopen("/dev/full", "w"), *null = fopen("/dev/null", "w");
    char *argv[] = {"dsctl", "--socket", s.socket, "list-jobs", "--json", NULL};
    ck_assert_int_eq(ds_cli_run(5, argv, full, null), 1);
    fclose(full);
    fclose(null);
    fake_stop(&s);
}
END_TEST

START_TEST(interrupted_request) {
    fake_route routes[] = {{.request = "GET *", .body = "{}"}, {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ds_cli_interrupted = 1;
    ck_run(r, &s, 130, "status");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

static void cases(TCase *tc) {
    int commands = 0;
    while (ds_commands[commands].name)
        commands++;
    tcase_add_loop_test(tc, problems_give_exit_codes, 0, sizeof problems / sizeof *problems);
    tcase_add_loop_test(tc, no_daemon, 0, commands);
    tcase_add_test(tc, version_without_daemon);
    tcase_add_test(tc, dead_and_forbidden_sockets);
    tcase_add_loop_test(tc, garbage_answers, 0, sizeof garbage / sizeof *garbage);
    tcase_add_loop_test(tc, odd_answers, 0, sizeof odd / sizeof *odd);
    tcase_add_loop_test(tc, did_you_mean, 0, sizeof suggested / sizeof *suggested);
    tcase_add_test(tc, nothing_to_mean);
    tcase_add_test(tc, bad_folders);
    tcase_add_test(tc, answers_that_help_nobody);
    tcase_add_test(tc, pictures_that_cannot_be_written);
    tcase_add_test(tc, output_that_cannot_be_written);
    tcase_add_test(tc, interrupted_request);
}

int main(void) { return ds_test_main("cli_errors", cases); }
