/* tests/cli/test_cli_outputs.c - where dsctl writes: one rule of overwriting for every -o, asked before
 * any work; and what add-dataset and the lists tell that was silent before. */
#include "base/fs.h"
#include "base/zio.h"
#include "tests/fixtures/cli_fake.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define JOB(state, more) "{\"id\":4,\"kind\":\"sample\",\"state\":\"" state "\"" more "}"

static const char png[] = "\x89PNG\r\n\x1a\n and more";

static void start(fake_server *s) {
    static const fake_route routes[] = {
        {.request = "POST /v1/samples",
         .status = 202,
         .body = JOB("queued", ",\"notes\":[\"idle\"]")},
        {.request = "GET /v1/jobs/4", .body = JOB("done", ",\"result\":{\"n\":1,\"seconds\":1}")},
        {.request = "GET /v1/jobs/4/events*", .body = ""},
        {.request = "GET /v1/jobs/4/files/grid.png", .body = png, .length = sizeof png - 1},
        {.request = "GET /v1/datasets*", .body = "{\"items\":[],\"next\":null}"},
        {.request = NULL}};
    fake_start(s, routes);
}

/* Every command with an -o, to be completed with a place. */
static const char *const writers[] = {"sample digits -o %s", "pull-adapter digits -o %s",
                                      "report -o %s", "export digits --format dit -o %s"};

static void refused(fake_server *s, const char *line, const char *place, int code,
                    const char *says) {
    char text[700];
    cli_result r;
    snprintf(text, sizeof text, line, place); /* NOLINT: the lines above */
    ck_run(r, s, code, "%s", text);
    ck_has(r.err, says);
    ck_assert_msg(!s->log.len, "'%s' asked before it looked: %s", text, s->log.data);
    cli_free(&r);
}

START_TEST(places_are_asked_for_first) {
    fake_server s;
    char place[300], text[320];
    struct stat st;
    const char *dir = ds_test_tmpdir();
    start(&s);
    int folder = _i == 3; /* export writes one */
    snprintf(place, sizeof place, "%s/there-%d", dir, _i);
    if (folder) {
        ck_assert_int_eq(mkdir(place, 0700), 0);
        snprintf(text, sizeof text, "%s/x", place);
    }
    ck_assert_int_eq(ds_fs_write(folder ? text : place, "old", 3, NULL), 0);
    refused(&s, writers[_i], place, 4, "exists: give another name, or --force to replace it");
    snprintf(place, sizeof place, "%s/none/x", dir);
    refused(&s, writers[_i], place, 3, "cannot write");
    snprintf(place, sizeof place, "%s/there-%d/%s", dir, _i, "x");
    if (!folder)
        refused(&s, writers[_i], place, 3, "Not a directory");
    if (!_i) /* of sample a folder is one for single pictures */
        refused(&s, writers[_i], dir, 4, "exists: give another name");
    refused(&s, writers[_i], folder || !_i ? "/dev/null" : dir, 2,
            folder || !_i ? "it is a device" : "it is a folder");
    snprintf(place, sizeof place, "%s/pipe-%d", dir, _i);
    ck_assert_int_eq(mkfifo(place, 0600), 0);
    refused(&s, writers[_i], place, 2, "it is a pipe");
    char line[200]; /* a pipe stays one, whatever is asked */
    snprintf(line, sizeof line, "%.*s --force%s", (int)strcspn(writers[_i], " "), writers[_i],
             writers[_i] + strcspn(writers[_i], " "));
    refused(&s, line, place, 2, "it is a pipe");
    ck_assert(!lstat(place, &st) && S_ISFIFO(st.st_mode));
    if (!geteuid()) {
        snprintf(place, sizeof place, "%s/null-%d", dir, _i);
        if (!mknod(place, S_IFCHR | 0666, makedev(1, 3))) {
            refused(&s, line, place, 2, "it is a device");
            ck_assert(!lstat(place, &st) && S_ISCHR(st.st_mode));
        }
    }
    fake_stop(&s);
}
END_TEST

START_TEST(sample_keeps_what_is_there) {
    fake_server s;
    cli_result r;
    char *data;
    size_t n;
    start(&s);
    ck_assert_int_eq(chdir(ds_test_tmpdir()), 0);
    ck_run(r, &s, 0, "sample digits@v1 -n 1");
    ck_has(r.err, "note: idle");
    ck_has(r.err, "1 image of digits@v1 in 1.0 s, written to digits-v1.png");
    cli_free(&r);
    ds_buf_release(&s.log);
    refused(&s, "sample digits@v1%s", "", 4, "'digits-v1.png' exists");
    ck_assert_int_eq(ds_fs_write("digits-v1.png", "old", 3, NULL), 0);
    ck_run(r, &s, 0, "sample digits@v1 -n 1 --force -q");
    ck_assert_int_eq(ds_fs_read("digits-v1.png", 100, &data, &n, NULL), 0);
    ck_assert_uint_eq(n, sizeof png - 1);
    free(data);
    cli_free(&r);
    ck_run(r, &s, 0, "sample digits -o -");
    ck_assert_uint_eq(r.out_n, sizeof png - 1);
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

START_TEST(report_keeps_what_is_there) {
    fake_server s;
    cli_result r;
    start(&s);
    ck_assert_int_eq(chdir(ds_test_tmpdir()), 0);
    ck_run(r, &s, 0, "report -o report.json");
    cli_free(&r);
    ck_run(r, &s, 4, "report -o report.json");
    cli_free(&r);
    ck_run(r, &s, 0, "report -o report.json --force");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

/* ---- what is told ---- */

#define DS(more)                                                                                   \
    "{\"id\":1,\"name\":\"digits\",\"path\":\"/"                                                   \
    "x\",\"state\":\"ready\",\"version\":{\"version\":1,"                                          \
    "\"images\":1,\"classes\":1,\"rejected\":0,\"class_map\":[{\"name\":\"one\",\"images\":1},"    \
    "{\"name\":\"two\",\"images\":2000}]},\"scan\":{\"state\":\"done\",\"unchanged\":true,"        \
    "\"seq\":1,\"done\":1}" more "}"

static const struct {
    const char *line, *more, *out, *err;
} told[] = {
    {"", ",\"changes\":[],\"trained_anew\":null,\"notes\":[]", "digits: unchanged (v1)\n", ""},
    {"--rank 4", ",\"changes\":[],\"trained_anew\":null,\"notes\":[]",
     "digits: unchanged (v1); options unchanged\n", ""},
    {"--rank 4",
     ",\"changes\":[{\"option\":\"rank\",\"from\":8,\"to\":4,\"from_default\":true,\"to_default\":"
     "false},{\"option\":\"base\",\"from\":null,\"to\":\"xl\",\"from_default\":true,\"to_default\":"
     "false},{\"option\":\"lr\",\"from\":0.5,\"to\":0.006,\"from_default\":false,\"to_default\":"
     "true}"
     "],\"trained_anew\":\"digits@v2\",\"notes\":[]",
     "digits: unchanged (v1); rank 8 (default) -> 4, base the default -> xl, lr 0.5 -> 0.006 "
     "(default); trained anew as digits@v2\n",
     ""},
    {"--rank 4", ",\"changes\":[],\"trained_anew\":null,\"notes\":[\"rank has no effect\"]",
     "options unchanged", "note: digits: rank has no effect\n"},
    {"", "", "digits: unchanged (v1)\n", ""}, /* a daemon of before */
};

START_TEST(adding_again_says_what_changed) {
    const fake_route routes[] = {
        {.request = "POST /v1/datasets", .body = NULL}, /* below */
        {.request = "GET /v1/jobs*", .body = "{\"items\":[],\"next\":null}"},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    char *body = ds_xasprintf("%.*s%s}", (int)strlen(DS("")) - 1, DS(""), told[_i].more);
    fake_start(&s, routes);
    s.routes[0].body = body;
    ck_run(r, &s, 0, "add-dataset %s%s%s", ds_test_tmpdir(), *told[_i].line ? " " : "",
           told[_i].line);
    ck_has(r.out, told[_i].out);
    ck_assert_str_eq(r.err, told[_i].err);
    cli_free(&r);
    fake_stop(&s);
    free(body);
}
END_TEST

START_TEST(class_names_are_shown) {
    const fake_route routes[] = {
        {.request = "GET /v1/datasets/digits", .body = DS(",\"notes\":[\"look here\"]")},
        {.request = "GET /v1/adapters/digits",
         .body = "{\"ref\":\"digits@v1\",\"images\":1,\"classes\":14,\"class_map\":["
                 "{\"name\":\"a\",\"images\":1},{\"name\":\"b\",\"images\":1},{\"name\":\"c\"},"
                 "{\"name\":\"d\"},{\"name\":\"e\"},{\"name\":\"f\"},{\"name\":\"g\"},"
                 "{\"name\":\"h\"},{\"name\":\"i\"},{\"name\":\"j\"},{\"name\":\"k\"},"
                 "{\"name\":\"l\"},{\"name\":\"m\"},{\"name\":\"n\"}]}"},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, 0, "show-dataset digits");
    ck_has(r.out, "one (1), two (2,000)\n");
    ck_has(r.out, "1 in 1 class,");
    ck_has(r.out, "look here");
    cli_free(&r);
    ck_run(r, &s, 0, "show-adapter digits");
    ck_has(r.out, "a (1), b (1), c");
    ck_has(r.out, " and 2 more (--json has all)");
    ck_has(r.out, "1 image, 14 classes");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

/* After the command, a word that is a state filters; a path is the daemon's folder as before. */
START_TEST(state_of_jobs) {
    const fake_route routes[] = {{.request = "GET /v1/*", .body = "{\"items\":[],\"next\":null}"},
                                 {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, 0, "list-jobs --state running");
    ck_has(s.log.data, "GET /v1/jobs?state=running&limit=100");
    cli_free(&r);
    ck_run(r, &s, 0, "list-adapters --state=rejected");
    ck_has(s.log.data, "GET /v1/adapters?status=rejected&limit=100");
    cli_free(&r);
    ds_buf_release(&s.log);
    ck_run(r, &s, 0, "list-jobs --state %s", ds_test_tmpdir());
    ck_has(s.log.data, "GET /v1/jobs?limit=100");
    cli_free(&r);
    ck_run(r, &s, 0, "status --state running"); /* no list: the folder */
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

START_TEST(devices_that_are_not_there) {
    const fake_route routes[] = {{.request = "POST /v1/datasets", .body = DS("")},
                                 {.request = "GET /v1/jobs*", .body = "{\"items\":[]}"},
                                 {.request = NULL}};
    fake_server s;
    cli_result r;
    char *path = ds_xasprintf("%s/worker", ds_test_tmpdir());
    static const char script[] = "#!/bin/sh\necho 'cuda:0: a card, cuda-90, 5 MiB free'\n",
                      none[] = "#!/bin/sh\necho 'cuda: no driver'\n",
                      other[] = "#!/bin/sh\necho what\n";
    fake_start(&s, routes);
    ck_assert_int_eq(setenv("DIFFSCALER_WORKER", path, 1), 0);
    ck_assert_int_eq(ds_fs_write(path, script, sizeof script - 1, NULL) || chmod(path, 0700), 0);
    ck_run(r, &s, 2, "add-dataset %s --device cuda:9", ds_test_tmpdir());
    ck_has(r.err, "there is no 'cuda:9' here: cuda:0: a card");
    ck_assert_msg(!s.log.len, "%s", s.log.data);
    cli_free(&r);
    ck_run(r, &s, 0, "add-dataset %s --device cuda:0", ds_test_tmpdir());
    cli_free(&r);
    ck_run(r, &s, 0, "add-dataset %s --device cuda", ds_test_tmpdir());
    cli_free(&r);
    ck_assert_int_eq(ds_fs_write(path, none, sizeof none - 1, NULL) || chmod(path, 0700), 0);
    ck_run(r, &s, 2, "add-dataset %s --device cuda", ds_test_tmpdir());
    ck_has(r.err, "no driver");
    cli_free(&r);
    ck_assert_int_eq(ds_fs_write(path, other, sizeof other - 1, NULL) || chmod(path, 0700), 0);
    ck_run(r, &s, 0, "add-dataset %s --device cuda", ds_test_tmpdir()); /* it cannot tell */
    cli_free(&r);
    fake_stop(&s);
    free(path);
}
END_TEST

/* Each command that waits for a job ends as the job did. */
START_TEST(every_wait_tells_how_it_ended) {
    static const char *const lines[] = {"add-base %s --wait", "add-feature-net %s --wait",
                                        "sample digits -o %s.png", "sample digits -o %s.npz",
                                        "verify digits"};
    static const struct {
        const char *job, *says;
        int exit;
    } ends[] = {{JOB("failed", ",\"error\":{\"code\":\"DS_EINTEGRITY\",\"message\":\"it broke\"}"),
                 "job 4 failed: it broke; its log: dsctl logs 4", 9},
                {JOB("failed", ",\"error\":{\"code\":\"DS_ENOSPC\",\"message\":\"no room\"}"),
                 "no room", 75},
                {JOB("cancelled", ""), "job 4 was cancelled", 130}};
    fake_route routes[] = {{.request = "POST /v1/*", .status = 202, .body = JOB("queued", "")},
                           {.request = "GET /v1/jobs/4", .body = ends[_i].job},
                           {.request = "GET /v1/jobs/4/events*", .body = ""},
                           {.request = NULL}};
    fake_server s;
    cli_result r;
    char file[300], line[400];
    snprintf(file, sizeof file, "%s/w%d.pt", ds_test_tmpdir(), _i);
    ck_assert_int_eq(ds_fs_write(file, "x", 1, NULL), 0);
    for (size_t k = 0; k < sizeof lines / sizeof *lines; k++) {
        fake_start(&s, routes);
        snprintf(line, sizeof line, lines[k], file); /* NOLINT: the lines above */
        ck_run(r, &s, ends[_i].exit, "%s", line);
        ck_has(r.err, ends[_i].says);
        cli_free(&r);
        fake_stop(&s);
    }
}
END_TEST

/* A file that appears while the work is done is not replaced, unless that was asked for. */
START_TEST(files_that_appear_meanwhile) {
    char place[300], *text;
    size_t n;
    snprintf(place, sizeof place, "%s/appears.png", ds_test_tmpdir());
    fake_route routes[] = {
        {.request = "POST /v1/samples", .status = 202, .body = JOB("queued", "")},
        {.request = "GET /v1/jobs/4",
         .body = JOB("done", ",\"result\":{\"n\":1,\"seconds\":1}"),
         .creates = place},
        {.request = "GET /v1/jobs/4/events*", .body = ""},
        {.request = "GET /v1/jobs/4/files/grid.png", .body = png, .length = sizeof png - 1},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    for (int force = 0; force < 2; force++) {
        fake_start(&s, routes);
        ck_run(r, &s, force ? 0 : 4, "sample digits -o %s%s", place, force ? " --force" : "");
        ck_assert_int_eq(ds_fs_read(place, 1 << 16, &text, &n, NULL), 0);
        ck_assert_uint_eq(n, force ? sizeof png - 1 : 0);
        free(text);
        cli_free(&r);
        fake_stop(&s);
        ck_assert_int_eq(unlink(place), 0);
    }
}
END_TEST

/* A note comes with the answer to the request, with a later look, or with both: it is told once. */
START_TEST(notes_are_told_once) {
#define LOOKED(scan, notes)                                                                        \
    "{\"name\":\"digits\",\"state\":\"ready\",\"adapter\":\"digits@v1\",\"job\":4,\"version\":"    \
    "{\"version\":1,\"images\":5,\"classes\":1,\"rejected\":0},\"scan\":{\"state\":\"" scan        \
    "\",\"unchanged\":true,\"seq\":1},\"notes\":[" notes "]}"
    static const fake_route routes[] = {
        {.request = "POST /v1/datasets",
         .status = 201,
         .body = LOOKED("queued", "\"of the request\",\"of both\"")},
        {.request = "GET /v1/datasets/digits", .body = LOOKED("done", "\"of both\",\"of later\"")},
        {.request = "GET *", .body = "{\"items\":[],\"next\":null}"},
        {.request = NULL}};
    static const char *const notes[] = {"of the request", "of both", "of later"};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, 0, "add-dataset %s", ds_test_tmpdir());
    for (int i = 0; i < 3; i++) {
        const char *at = strstr(r.err, notes[i]);
        ck_assert_msg(at && !strstr(at + 1, notes[i]), "'%s' in:\n%s", notes[i], r.err);
    }
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

#define SCANNED(state, adapter, more)                                                              \
    "{\"name\":\"digits\",\"state\":\"ready\",\"adapter\":" adapter ",\"version\":{\"version\":1," \
    "\"images\":5,\"classes\":1,\"rejected\":0},\"scan\":{\"state\":\"" state                      \
    "\",\"unchanged\":true,\"seq\":1}" more "}"

/* add-dataset where there is no training to wait for, or a scan that does not end. */
START_TEST(waits_for_nothing) {
    static const struct {
        const char *line, *body, *out, *err;
        int exit;
        fake_kind kind;
    } waits[] = {
        {"--wait", SCANNED("done", "\"digits@v1\"", ""), "digits: unchanged (v1)\n",
         "nothing to do: digits@v1 is published\n", 0, FAKE_PLAIN},
        {"--wait -q", SCANNED("done", "\"digits@v1\"", ""), "digits@v1\n", "", 0, FAKE_PLAIN},
        {"--wait --json", SCANNED("done", "\"digits@v1\"", ""),
         "{\"schema\":\"dsctl.v1/dataset\",\"name\":\"digits\",", "", 0, FAKE_PLAIN},
        {"--wait", SCANNED("done", "null", ""), "",
         "no training was queued for 'digits'; is there a base and a feature network? see dsctl "
         "doctor",
         7, FAKE_PLAIN},
        {"--wait --timeout 0.4", SCANNED("running", "null", ""), "",
         "timed out; the dataset is registered and will be trained", 7, FAKE_PLAIN},
        {"--wait", SCANNED("running", "null", ""), "",
         "interrupted; the dataset is registered and will be trained", 130, FAKE_INTERRUPT},
        {"--publish-worse", SCANNED("running", "\"digits@v1\"", ",\"publish_worse\":true"),
         "digits: scanning again in the background (dsctl watch)\n",
         "--publish-worse: the next version of digits is published even if it is worse; this "
         "counts "
         "once\n",
         0, FAKE_PLAIN},
        {"--steps 4", SCANNED("running", "\"digits@v1\"", ",\"changes\":[]"),
         "digits: scanning again in the background (dsctl watch); options unchanged\n", "", 0,
         FAKE_PLAIN},
    };
    fake_route routes[] = {
        {.request = "POST /v1/datasets", .body = waits[_i].body},
        {.request = "GET /v1/datasets/digits", .body = waits[_i].body, .kind = waits[_i].kind},
        {.request = "GET /v1/jobs?*", .body = "{\"items\":[],\"next\":null}"},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, waits[_i].exit, "add-dataset %s %s", ds_test_tmpdir(), waits[_i].line);
    if (strstr(waits[_i].line, "json"))
        ck_assert_msg(!strncmp(r.out, waits[_i].out, strlen(waits[_i].out)), "%s", r.out);
    else if (*waits[_i].out)
        ck_assert_str_eq(r.out, waits[_i].out);
    if (*waits[_i].err)
        ck_has(r.err, waits[_i].err);
    else
        ck_assert_str_eq(r.err, "");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

/* A job that waits for its second try says why. */
START_TEST(tried_again) {
    static const fake_route routes[] = {
        {.request = "POST /v1/verify", .status = 202, .body = JOB("queued", "")},
        {.request = "GET /v1/jobs/4",
         .body = JOB("queued", ",\"attempts\":1,\"error\":{\"message\":\"it crashed\"}"),
         .times = 2},
        {.request = "GET /v1/jobs/4",
         .body = JOB("running", ",\"stage\":\"gate\",\"progress\":{\"done\":3,\"unit\":\"tasks\"}"),
         .times = 1},
        {.request = "GET /v1/jobs/4", .body = JOB("done", "")},
        {.request = "GET /v1/jobs/4/events*", .body = ""},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, 0, "verify digits");
    const char *at = strstr(r.err, "job 4 will be tried again: it crashed\n");
    ck_assert_msg(at && !strstr(at + 30, "tried again"), "once, in:\n%s", r.err);
    ck_has_not(r.err, "is queued");
    ck_has(at, "\ngate   "); /* no events: what the job itself says */
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_loop_test(tc, waits_for_nothing, 0, 8);
    tcase_add_test(tc, tried_again);
    tcase_add_test(tc, notes_are_told_once);
    tcase_add_loop_test(tc, every_wait_tells_how_it_ended, 0, 3);
    tcase_add_test(tc, files_that_appear_meanwhile);
    tcase_add_loop_test(tc, places_are_asked_for_first, 0, sizeof writers / sizeof *writers);
    tcase_add_test(tc, sample_keeps_what_is_there);
    tcase_add_test(tc, report_keeps_what_is_there);
    tcase_add_loop_test(tc, adding_again_says_what_changed, 0, sizeof told / sizeof *told);
    tcase_add_test(tc, class_names_are_shown);
    tcase_add_test(tc, state_of_jobs);
    tcase_add_test(tc, devices_that_are_not_there);
}

int main(void) { return ds_test_main("cli_outputs", cases); }
