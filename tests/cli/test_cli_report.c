/* tests/cli/test_cli_report.c - the report in full: every column and member of it, its order, and which bases
 * are told; and what a base was understood as, in each of its forms. */
#include "base/fs.h"
#include "tests/fixtures/cli_fake.h"

#define NET(name, mode) "{\"name\":\"" name "\",\"sha256\":\"abcd\",\"preprocess\":\"" mode "\"}"
#define SET(id, name, adapter, training)                                                           \
    "{\"id\":" id ",\"name\":\"" name                                                              \
    "\",\"state\":\"ready\",\"paused\":false,\"training\":" training ",\"adapter\":" adapter       \
    ",\"version\":{\"version\":1,\"images\":1500,\"classes\":10}}"
#define FAILED "{\"state\":\"failed\",\"job\":9,\"error\":{\"message\":\"no room\"}}"
#define SETS                                                                                       \
    SET("7", "flags", "\"flags@v2\"", "null")                                                      \
    "," SET("5", "none", "null", FAILED) "," SET("2", "digits", "\"digits@v1\"", "null")

/* In the order of the API, newest first: the report has the oldest first. */
static const fake_route routes[] = {
    {.request = "GET /v1/datasets?limit=1000", .body = "{\"items\":[" SETS "],\"next\":null}"},
    {.request = "GET /v1/adapters/digits@v1",
     .body = "{\"ref\":\"digits@v1\",\"status\":\"published\",\"steps\":1600,\"train_seconds\":141,"
             "\"images_per_second\":783,\"fd_base\":32.9,\"fd\":0.6945,\"kid\":0.0025,"
             "\"class_accuracy\":0.836,\"class_real\":0.889,\"class_chance\":0.1,\"n\":512,"
             "\"digest\":\"d1\",\"stored_bytes\":521000,\"raw_bytes\":645000,"
             "\"feature_net\":" NET(
                 "inc",
                 "bicubic") ",\"gate\":{\"tasks\":[]},"
                            "\"evaluations\":[{\"subject\":\"adapter\",\"metric\":\"memorised\","
                            "\"value\":0.01},"
                            "{\"subject\":\"chance\",\"metric\":\"memorised\",\"value\":0.02}]}"},
    {.request = "GET /v1/adapters/flags@v2",
     .body =
         "{\"ref\":\"flags@v2\",\"status\":\"published\",\"fd_base\":0,\"fd\":4.26,"
         "\"feature_net\":" NET(
             "fid",
             "clean") ",\"gate\":{\"tasks\":[{\"name\":\"digits\","
                      "\"level\":1,\"unchanged\":true,\"fd_recorded\":12.5,\"fd_now\":12.5,\"x\":1}"
                      ",{\"name\":"
                      "\"old\",\"level\":2,\"unchanged\":false,\"fd_recorded\":3,\"fd_now\":4}]}}"},
    {.request = "GET /v1/bases?limit=1000",
     .body =
         "{\"items\":[{\"name\":\"one\",\"default\":true,\"adapters\":0,\"sha256\":\"b1\",\"task\":"
         "{\"ref\":\"base:one\",\"fd\":3.41,\"n\":512,\"classes\":146}},{\"name\":\"two\","
         "\"default\":false,\"adapters\":0,\"task\":{\"fd\":1,\"classes\":3}},{\"name\":\"three\","
         "\"default\":false,\"adapters\":2,\"task\":{\"fd\":2.5,\"n\":64,\"classes\":3}},{\"name\":"
         "\"four\",\"default\":true,\"adapters\":2,\"task\":null}],\"next\":null}"},
    {.request = NULL}};

START_TEST(as_a_table) {
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, 0, "report");
    ck_assert_str_eq(
        r.out,
        "DATASET  ADAPTER    IMAGES  CLASSES  FD BASE  FD ADAPTER  RATIO     KID     RIGHT CLASS   "
        " "
        "SIZE       TRAIN  OLD TASKS         NETWORK\n"
        "digits   digits@v1   1,500       10     32.9      0.6945   0.02  0.0025  0.836 of 0.889  "
        "521 kB  2 min 21 s  -                 inc bicubic\n"
        "none     -           1,500       10        -           -      -       -               -  "
        "     -           -  -                 -\n"
        "flags    flags@v2    1,500       10   0.0000        4.26      -       -               -  "
        "     -           -  1 of 2 unchanged  fid clean\n"
        "none: its newest training failed (job 9): no room; dsctl logs 9; add-dataset again tries "
        "it once more\n"
        "base one: the 146 old classes are recorded (FD 3.41)\n"
        "base three: the 3 old classes are recorded (FD 2.50)\n");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

START_TEST(as_a_document) {
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, 0, "report --json");
#define NOTHING                                                                                    \
    "\"steps\":null,\"train_seconds\":null,\"images_per_second\":null,\"kid_adapter\":null,"       \
    "\"class_accuracy\":null,\"class_real\":null,\"class_chance\":null,\"n\":null,\"digest\":"     \
    "null,"                                                                                        \
    "\"self\":null,\"bar\":null,\"stored_bytes\":null,\"raw_bytes\":null,\"memorised\":null,"      \
    "\"memorised_chance\":null,"
#define HEAD(name, training)                                                                       \
    "{\"name\":\"" name "\",\"state\":\"ready\",\"paused\":false,\"training\":" training           \
    ",\"images\":1500,\"classes\":10,"
    json_t *doc = cli_json(&r, "dsctl.v1/report"),
           *want = json_loads(
               "{\"schema\":\"dsctl.v1/report\",\"datasets\":[" HEAD(
                   "digits",
                   "null") "\"steps\":1600,"
                           "\"train_seconds\":141,\"images_per_second\":783,\"fd_base\":32.9,\"fd_"
                           "adapter\":0.6945,"
                           "\"kid_adapter\":0.0025,\"class_accuracy\":0.836,\"class_real\":0.889,"
                           "\"class_chance\":"
                           "0.1,\"n\":512,\"status\":\"published\",\"adapter\":\"digits@v1\","
                           "\"digest\":\"d1\","
                           "\"feature_net\":" NET(
                               "inc", "bicubic") ",\"self\":null,\"bar\":null,\"stored_bytes\":"
                                                 "521000,\"raw_bytes\":645000,\"memorised\":0.01,"
                                                 "\"memorised_chance\":0.02,"
                                                 "\"old_tasks\":[]}," HEAD("none", FAILED) NOTHING
               "\"fd_base\":null,\"fd_adapter\":null,"
               "\"status\":null,\"adapter\":null,\"feature_net\":null,\"old_tasks\":[]}," HEAD(
                   "flags", "null") NOTHING
               "\"fd_base\":0,\"fd_adapter\":4.26,\"status\":"
               "\"published\",\"adapter\":\"flags@v2\",\"feature_net\":" NET(
                   "fid", "clean") ","
                                   "\"old_tasks\":[{\"name\":\"digits\",\"level\":1,\"unchanged\":"
                                   "true,\"fd_recorded\":12.5,"
                                   "\"fd_now\":12.5},{\"name\":\"old\",\"level\":2,\"unchanged\":"
                                   "false,\"fd_recorded\":3,"
                                   "\"fd_now\":4}]}],\"bases\":[{\"name\":\"one\",\"sha256\":"
                                   "\"b1\",\"default\":true,"
                                   "\"adapters\":0,\"task\":{\"ref\":\"base:one\",\"fd\":3.41,"
                                   "\"n\":512,\"classes\":146}},"
                                   "{\"name\":\"three\",\"sha256\":null,\"default\":false,"
                                   "\"adapters\":2,\"task\":{\"fd\":"
                                   "2.5,\"n\":64,\"classes\":3}}]}",
               0, NULL);
    ck_assert_ptr_nonnull(want);
    ck_assert_msg(json_equal(doc, want), "%s", r.out);
    json_decref(want);
    json_decref(doc);
    cli_free(&r);
    ck_run(r, &s, 0, "report -q");
    ck_assert_str_eq(r.out, "3\n");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

/* What a base was understood as: its objective, where that is from, and what else was measured. */
START_TEST(what_was_understood) {
#define OBJECTIVE(prediction, path, scale, more)                                                   \
    "{\"name\":\"xl\",\"report\":{\"objective\":{\"prediction\":\"" prediction                     \
    "\",\"path\":\"" path "\",\"time_scale\":" scale more "}}}"
#define TABLE(clear, group)                                                                        \
    ",\"measured\":{\"group\":\"" group "\",\"clear\":" clear                                      \
    ",\"table\":[{\"prediction\":\"eps\","                                                         \
    "\"path\":\"cosine\",\"loss\":0.0361},{\"prediction\":\"x0\",\"path\":\"gvp\",\"loss\":0.25}]" \
    "}"
    static const struct {
        const char *body, *says;
    } bases[] = {
        {OBJECTIVE("eps", "ddpm", "0", ",\"not_measured\":\"no pictures\""),
         "eps (not measured: no pictures)\n"},
        {OBJECTIVE("eps", "ddpm", "0", ""), "eps (not measured: -)\n"},
        {OBJECTIVE("x0", "cosine", "1000", ",\"how\":\"assumed\""),
         "x0, cosine schedule, time to 1000 (assumed; not measured: -)\n"},
        {OBJECTIVE("v", "linear", "1", ",\"said\":\"its file\",\"how\":\"assumed\""),
         "v, linear path, time to 1 (its file; not measured: -)\n"},
        {OBJECTIVE("v", "gvp", "0.5", TABLE("true", "")),
         "v, gvp path, time to 0.5 (measured: loss 0.0361; next: x0, gvp path, 0.25)\n"},
        {OBJECTIVE("v", "other", "1", TABLE("true", "photos")),
         "v, DDPM schedule, time to 1 (measured on photos: loss 0.0361; next: x0, gvp path, "
         "0.25)\n"},
        {OBJECTIVE("v", "gvp", "-1", TABLE("false", "photos")),
         "v (what was measured does not tell)\n"},
    };
    fake_route one[] = {{.request = "GET /v1/bases/xl", .body = bases[_i].body}, {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, one);
    ck_run(r, &s, 0, "show-base xl");
    char *at = strstr(r.out, "objective");
    ck_assert_msg(at != NULL, "%s", r.out);
    at += strcspn(at, " ");
    at += strspn(at, " ");
    ck_assert_msg(!strncmp(at, bases[_i].says, strlen(bases[_i].says)), "%s", r.out);
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_loop_test(tc, what_was_understood, 0, 7);
    tcase_add_test(tc, as_a_table);
    tcase_add_test(tc, as_a_document);
}

int main(void) { return ds_test_main("cli_report", cases); }
