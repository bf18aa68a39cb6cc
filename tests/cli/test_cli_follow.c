/* Commands that wait: add-dataset, verify, sample, logs -f, events --follow, watch, --start. */
#include "tests/fixtures/cli_waiting.h"
#include "base/fs.h"
#include "base/log.h"
#include "tests/fixtures/cli_fake.h"
#include <sys/stat.h>

#define V2 "{\"version\":2,\"images\":5001,\"classes\":1,\"bytes\":9,\"rejected\":1}"

#define JOBS(state)                                                                                \
    "{\"items\":[{\"id\":4,\"state\":\"" state "\",\"dataset_version\":1}],\"next\":null}"

#define GATE(verdict, reason)                                                                      \
    ",\"adapter\":\"digits@v1\",\"result\":{\"gate\":{\"verdict\":\"" verdict                      \
    "\",\"reason\":\"" reason                                                                      \
    "\",\"tasks\":[{\"name\":\"flags\",\"ref\":\"flags@v1\",\"level\":1,"                          \
    "\"unchanged\":true,\"verdict\":\"passed\",\"fd_recorded\":12.3,\"fd_now\":12.3}]}}"

#define ADAPTER                                                                                    \
    "{\"ref\":\"digits@v1\",\"fd\":42.1,\"fd_base\":180.2,\"kid\":0.0123,\"stored_bytes\":"        \
    "1200000,"                                                                                     \
    "\"raw_bytes\":1900000,\"parameters\":240000,\"steps\":800,\"train_seconds\":60,"              \
    "\"images_per_second\":850}"

#define EVENTS                                                                                     \
    "{\"seq\":1,\"t\":1,\"type\":\"stage\",\"stage\":\"prepare\"}\n"                               \
    "{\"seq\":2,\"t\":1,\"type\":\"stage\",\"stage\":\"train\"}\n"                                 \
    "{\"seq\":3,\"t\":1,\"type\":\"progress\",\"stage\":\"train\",\"done\":80,\"total\":800,"      \
    "\"unit\":\"steps\",\"rate\":13,\"eta_seconds\":55,\"loss\":0.5,\"images_per_second\":845}\n"  \
    "{\"seq\":4,\"t\":1,\"type\":\"progress\",\"stage\":\"train\",\"done\":81,\"total\":800}\n"    \
    "{\"seq\":5,\"t\":1,\"type\":\"warning\",\"message\":\"careful\"}\n"                           \
    "{\"seq\":6,\"t\":1,\"type\":\"of the future\"}\n"                                             \
    "{\"seq\":7,\"t\":1,\"type\":\"ending\",\"why\":\"patience\",\"from\":500,\"last\":625,"       \
    "\"message\":\"the end is step 625\"}\n"                                                       \
    "{\"seq\":8,\"t\":1,\"type\":\"resumed\",\"step\":40}\n{\"torn"

static const struct {
    const char *posted, *later, *jobs, *says;
    int exit;
} adds[] = {
    {DS("done", "true", V1, "\"digits@v1\""), "", JOBS("done"), "digits: unchanged (v1)\n", 0},
    {DS("queued", "false", "null", "null"), DS("done", "false", V1, "null"), JOBS("queued"),
     "added digits: 5,000 images in 10 classes (v1), training queued as job 4\n", 0},
    {DS("queued", "true", V1, "null"), DS("done", "true", V1, "null"), JOBS("running"),
     "digits: unchanged (v1), training running (job 4)\n", 0},
    {DS("queued", "false", V1, "null"), DS("done", "false", V2, "null"), NO_JOBS,
     "changed digits: 5,001 images in 1 class (v2), 1 file left out "
     "(dsctl show-dataset digits --rejected)\n",
     0},
    {DS("queued", "false", "null", "null"), DS("running", "false", "null", "null"), NO_JOBS,
     "added digits: scanning in the background", 0},
    {DS("queued", "false", "null", "null"),
     "{\"name\":\"digits\",\"state\":\"failed\",\"error\":{\"code\":\"DS_EINVAL\",\"message\":\"no "
     "usable image\"},\"scan\":{\"state\":\"failed\"}}",
     NO_JOBS, "cannot use dataset 'digits': no usable image", 2},
    {"{\"name\":\"digits\",\"scan\":{\"state\":\"queued\"}}",
     "{\"name\":\"digits\",\"error\":{\"code\":\"DS_EPERM\",\"message\":\"cannot read\"},"
     "\"scan\":{\"state\":\"failed\"}}",
     NO_JOBS, "cannot read", 6},
};

START_TEST(add_returns_within_a_second) {
    fake_route routes[] = {
        {.request = "POST /v1/datasets", .status = 201, .body = adds[_i].posted},
        {.request = "GET /v1/datasets/digits", .body = adds[_i].posted, .times = 2},
        {.request = "GET /v1/datasets/digits", .body = adds[_i].later},
        {.request = GET_JOBS, .body = adds[_i].jobs},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    double start = ds_monotonic();
    ck_run(r, &s, adds[_i].exit, "add-dataset %s", ds_test_tmpdir());
    ck_assert_double_lt(ds_monotonic() - start, 1.0);
    ck_has(adds[_i].exit ? r.err : r.out, adds[_i].says);
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

/* A training that is there is asked for once; one that comes a moment later is waited for. */
START_TEST(add_looks_for_its_training) {
    fake_route routes[] = {
        {.request = "POST /v1/datasets", .body = DS("done", "false", V1, "null")},
        {.request = GET_JOBS, .body = NO_JOBS, .times = 2},
        {.request = GET_JOBS,
         .body = JOBS("failed"),
         .times = 1}, /* a successor is about to come */
        {.request = GET_JOBS, .body = JOBS("queued")},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, 0, "add-dataset %s", ds_test_tmpdir());
    ck_has(r.out, "training queued as job 4");
    cli_free(&r);
    ck_assert_int_eq(s.served[3], 1);
    ck_run(r, &s, 0, "add-dataset %s", ds_test_tmpdir());
    ck_assert_int_eq(s.served[3], 2);
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

START_TEST(add_sends_options) {
    fake_route routes[] = {
        {.request = "POST /v1/datasets", .status = 201, .body = DS("done", "true", V1, "null")},
        {.request = GET_JOBS, .body = NO_JOBS},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, 0,
           "add-dataset %s/ --name x --method embedding --rank 4 --steps 10 --seed 3 --lr 0.5 "
           "--batch 8 --flip --side in --phi relu --targets q,k --freeze-v --guidance 2 --n 64 "
           "--no-watch --json",
           ds_test_tmpdir());
    json_decref(cli_json(&r, "dsctl.v1/dataset"));
    cli_free(&r);
    char *body = strstr(s.log.data, "POST /v1/datasets ") + strlen("POST /v1/datasets ");
    json_t *got = json_loadb(body, strcspn(body, "\n"), 0, NULL);
    char *full = realpath(ds_test_tmpdir(), NULL);
    json_t *want = json_loads(
        "{\"name\":\"x\",\"method\":\"embedding\",\"watch\":false,\"options\":{\"rank\":4,"
        "\"steps\":10,\"seed\":3,\"lr\":0.5,\"batch\":8,\"flip\":true,\"side\":\"in\","
        "\"phi\":\"relu\",\"targets\":[\"q\",\"k\"],\"freeze_v\":true,\"guidance\":2.0,\"n\":64}}",
        0, NULL);
    json_object_set_new(want, "path", json_string(full));
    ck_assert_msg(json_equal(got, want), "sent %s", body);
    json_decref(got);
    json_decref(want);
    free(full);
    ck_run(r, &s, 0, "add-dataset %s -q", ds_test_tmpdir());
    ck_assert_str_eq(r.out, "digits\n");
    ck_assert_str_eq(r.err, "");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

/* Job 4 runs for a while, then ends as `end`. */
static void waiting_server(fake_server *s, const char *end) {
    fake_route routes[] = {
        {.request = "POST /v1/datasets", .body = DS("queued", "false", "null", "null")},
        {.request = "GET /v1/datasets/digits", .body = DS("done", "false", V1, "null")},
        {.request = GET_JOBS, .body = JOBS("queued")},
        {.request = "GET /v1/jobs/4", .body = JOB("queued", ",\"attempts\":0"), .times = 1},
        {.request = "GET /v1/jobs/4", .body = JOB("running", ""), .times = 1},
        {.request = "GET /v1/jobs/4", .body = end},
        {.request = "GET /v1/jobs/4/events?since=*", .body = EVENTS},
        {.request = "GET /v1/adapters/digits@v1", .body = ADAPTER},
        {.request = NULL}};
    fake_start(s, routes);
}

START_TEST(wait_shows_progress_and_outcome) {
    fake_server s;
    cli_result r;
    waiting_server(&s, JOB("done", GATE("passed", "")));
    ck_run(r, &s, 0, "add-dataset %s --wait", ds_test_tmpdir());
    ck_has(r.err, "job 4 is queued");
    ck_has(r.err, "prepare    0.0 s\n");
    ck_has(r.err, "train       10 %  80/800 steps  845 images/s  loss 0.5000  0:55 left\n");
    ck_has(r.err, "warning: careful\n");
    ck_has(r.err, "\nthe end is step 625\n");
    ck_has(r.err, "\nresumed at step 40\n");
    ck_has(r.err, "(81 of 800)\n");
    ck_has_not(r.err, "\r");
    ck_assert_ptr_null(strstr(strstr(r.err, "80/800") + 1, "80/800")); /* each event once */
    ck_has(r.out, "published digits@v1");
    ck_has(r.out, "42.1 (base 180, ratio 0.2336)");
    ck_has(r.out, "1.2 MB (1.9 MB unpacked), 240,000 parameters");
    ck_has(r.out, "  1 of 1 old task unchanged: same probe digest\n");
    cli_free(&r);
    fake_stop(&s);
    waiting_server(&s, JOB("done", GATE("passed", "")));
    ck_run(r, &s, 0, "add-dataset %s --wait --json", ds_test_tmpdir());
    ck_assert_int_eq(cli_ndjson(&r, "dsctl.v1/job"), 9); /* 8 events and the job */
    ck_assert_str_eq(r.err, "");
    cli_free(&r);
    fake_stop(&s);
    waiting_server(&s, JOB("done", GATE("passed", "")));
    ck_run(r, &s, 0, "add-dataset %s --wait -q", ds_test_tmpdir());
    ck_assert_str_eq(r.out, "digits@v1\n");
    ck_assert_str_eq(r.err, "");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

static const struct {
    const char *end, *says;
    int exit;
} ends[] = {
    {JOB("rejected", GATE("refused", "flags fell by 3.1")), "flags fell by 3.1", 8},
    {JOB("failed", ",\"error\":{\"code\":\"DS_EINTEGRITY\",\"message\":\"base is damaged\"}"),
     "base is damaged", 9},
    {JOB("failed", ",\"error\":{\"code\":\"DS_ENEWER\",\"message\":\"has schema 3\"}"),
     "has schema 3", 10},
    {JOB("failed", ",\"error\":{\"code\":\"DS_ENOSPC\",\"message\":\"disk full\"}"), "disk full",
     75},
    {JOB("failed", ",\"error\":{\"code\":\"of the future\",\"message\":\"hm\"}"), "dsctl logs 4",
     1},
    {JOB("failed", ""), "no reason recorded", 1},
    {JOB("cancelled", ""), "was cancelled", 130},
};

START_TEST(wait_exit_codes) {
    fake_server s;
    cli_result r;
    waiting_server(&s, ends[_i].end);
    ck_run(r, &s, ends[_i].exit, "add-dataset %s --wait", ds_test_tmpdir());
    ck_has(r.err, ends[_i].says);
    if (ends[_i].exit == 8)
        ck_has(r.out, "rejected digits@v1");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

#define SELF(verdict, of_bar)                                                                      \
    "\"self\":{\"verdict\":\"" verdict "\",\"fd\":144,\"n\":512,\"bars\":[{\"role\":\"latest\","   \
    "\"ref\":\"digits@v1\",\"verdict\":\"" of_bar "\",\"fd_bar\":5.12,\"fd_now\":144,\"delta\":"   \
    "27.13,\"reason\":\"FD 5.12 -> 144.00 (+2713 %), margin 10 %, z 61\"},{\"role\":\"base\","     \
    "\"ref\":\"base:emoji-dit\",\"verdict\":\"none\",\"fd_bar\":null,\"fd_now\":null,"             \
    "\"reason\":\"too few pictures\"}]}"

#define WORSE(verdict, of_self)                                                                    \
    ",\"adapter\":\"digits@v2\",\"result\":{\"gate\":{\"verdict\":\"" verdict                      \
    "\",\"reason\":\"digits@v2 is worse than digits@v1: FD 5.12 -> 144.00\",\"tasks\":[]," SELF(   \
        of_self, "refused") "}}"

/* Both numbers, the bar and the ways out. */
START_TEST(wait_of_a_worse_version) {
    fake_server s;
    cli_result r;
    waiting_server(&s, JOB("rejected", WORSE("refused", "refused")));
    ck_run(r, &s, 8, "add-dataset %s --wait", ds_test_tmpdir());
    ck_has(r.err, "digits@v2 is worse than digits@v1: FD 5.12 -> 144.00");
    ck_has(r.err, "what is published stays");
    ck_has(r.err, "--publish-worse");
    ck_has(r.out, "rejected digits@v2");
    ck_has(r.out, "latest  digits@v1       refused    5.12     144  +2713 %  FD 5.12 -> 144.00");
    ck_has(r.out, "base    base:emoji-dit  no bar        -       -        -  too few pictures");
    cli_free(&r);
    fake_stop(&s);
    waiting_server(&s, JOB("done", WORSE("passed", "forced")));
    ck_run(r, &s, 0, "add-dataset %s --wait --publish-worse", ds_test_tmpdir());
    ck_has(s.log.data, "\"publish_worse\":true");
    ck_has(r.err, "--publish-worse: job 4 is published even if it is worse; this counts once");
    ck_has(r.out, "published digits@v2");
    ck_has(r.err, "digits@v2 was published by force; FD 144 is worse than 5.12 of digits@v1");
    cli_free(&r);
    fake_stop(&s);
    /* a refusal by an old task has no such way out */
    waiting_server(&s, JOB("rejected", GATE("refused", "flags fell by 3.1")));
    ck_run(r, &s, 8, "add-dataset %s --wait", ds_test_tmpdir());
    ck_has_not(r.err, "--publish-worse");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

#define DS_WISH(scan, wish)                                                                        \
    "{\"name\":\"digits\",\"state\":\"ready\",\"version\":" V1 ",\"adapter\":\"digits@v1\","       \
    "\"publish_worse\":" wish ",\"scan\":{\"state\":\"" scan "\",\"unchanged\":true,\"seq\":2}}"

#define JOBS_OF(id, state)                                                                         \
    "{\"items\":[{\"id\":" id ",\"state\":\"" state "\",\"dataset_version\":1},{\"id\":3,"         \
    "\"state\":\"rejected\",\"dataset_version\":1}],\"next\":null}"

#define OLD_JOBS                                                                                   \
    "{\"items\":[{\"id\":3,\"state\":\"rejected\",\"dataset_version\":1}],\"next\":null}"

/* The old refusal is not the answer to a new wish: the training that it makes is, if there is one.
 */
START_TEST(wish_waits_for_its_training) {
    fake_route comes[] = {
        {.request = "POST /v1/datasets", .body = DS_WISH("queued", "true")},
        {.request = "GET /v1/datasets/digits", .body = DS_WISH("done", "true")},
        {.request = GET_JOBS, .body = OLD_JOBS, .times = 3},
        {.request = GET_JOBS, .body = JOBS_OF("4", "queued")},
        {.request = "GET /v1/jobs/4", .body = JOB("running", ""), .times = 1},
        {.request = "GET /v1/jobs/4", .body = JOB("done", WORSE("passed", "forced"))},
        {.request = "GET /v1/jobs/4/events?since=*", .body = ""},
        {.request = NULL}};
    fake_route nothing[] = {
        {.request = "POST /v1/datasets", .body = DS_WISH("queued", "true")},
        {.request = "GET /v1/datasets/digits", .body = DS_WISH("done", "true"), .times = 2},
        {.request = "GET /v1/datasets/digits", .body = DS_WISH("done", "false")},
        {.request = GET_JOBS, .body = OLD_JOBS},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, comes);
    ck_run(r, &s, 0, "add-dataset %s --wait --publish-worse", ds_test_tmpdir());
    ck_has(r.err, "--publish-worse: job 4 is");
    ck_has(r.out, "published digits@v2");
    ck_has_not(s.log.data, "GET /v1/jobs/3");
    cli_free(&r);
    fake_stop(&s);
    for (int wait = 0; wait < 2; wait++) {
        fake_start(&s, nothing);
        ck_run(r, &s, 0, "add-dataset %s --publish-worse%s", ds_test_tmpdir(),
               wait ? " --wait" : "");
        ck_has(r.err, "--publish-worse: nothing to force: digits needs no training");
        cli_free(&r);
        fake_stop(&s);
    }
}
END_TEST

/* One that was under way without the wish is refused; the next one has it. */
START_TEST(wish_comes_too_late_for_one) {
    fake_route routes[] = {
        {.request = "POST /v1/datasets", .body = DS_WISH("queued", "true")},
        {.request = "GET /v1/datasets/digits", .body = DS_WISH("done", "true")},
        {.request = GET_JOBS, .body = JOBS_OF("4", "running"), .times = 2},
        {.request = GET_JOBS, .body = JOBS_OF("5", "queued")},
        {.request = "GET /v1/jobs/4", .body = JOB("rejected", WORSE("refused", "refused"))},
        {.request = "GET /v1/jobs/5", .body = JOB("done", WORSE("passed", "forced"))},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, 0, "add-dataset %s --wait --publish-worse", ds_test_tmpdir());
    ck_has(r.err, "job 4 began before --publish-worse was given");
    ck_has(r.out, "published digits@v2");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

START_TEST(wait_ends_early) {
    fake_server s;
    cli_result r;
    waiting_server(&s, JOB("running", ""));
    ck_run(r, &s, 7, "add-dataset %s --wait --timeout 0.8", ds_test_tmpdir());
    ck_has(r.err, "timed out; job 4 goes on");
    cli_free(&r);
    for (int i = 0; i < s.count; i++) /* at the second look the user presses Ctrl-C */
        if (!strncmp(s.routes[i].request, "GET /v1/jobs/4/events", 21))
            s.routes[i].kind = FAKE_INTERRUPT;
    ck_run(r, &s, 130, "add-dataset %s --wait", ds_test_tmpdir());
    ck_has(r.err, "interrupted; job 4 goes on");
    ck_has_not(s.log.data, "cancel"); /* detaching cancels nothing */
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

/* The daemon is away for some looks (restart): the wait goes on. */
START_TEST(wait_survives_a_restart) {
    fake_route routes[] = {{.request = "POST /v1/verify", .status = 202, .body = JOB("queued", "")},
                           {.request = "GET /v1/jobs/4", .body = JOB("running", ""), .times = 1},
                           {.request = "GET /v1/jobs/4", .kind = FAKE_CLOSE, .times = 2},
                           {.request = "GET /v1/jobs/4", .body = JOB("done", GATE("passed", ""))},
                           {.request = "GET /v1/jobs/4/events*",
                            .body = "{\"type\":\"warning\",\"message\":\"no number\"}\n"
                                    "{\"type\":\"warning\",\"message\":\"nor this\"}\n"},
                           {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, 0, "verify");
    ck_has(r.err, "not reachable; waiting for it");
    ck_has(r.err, "warning: no number\nwarning: nor this\n");
    ck_has(r.out, "passed: 1 task checked");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

START_TEST(verify_outcomes) {
    static const struct {
        const char *end;
        int exit;
    } c[] = {{JOB("done", GATE("passed", "")), 0},
             {JOB("rejected", GATE("refused", "flags fell by 3.1")), 8},
             {JOB("failed", ",\"error\":{\"code\":\"DS_EINTEGRITY\",\"message\":\"bit\"}"), 9}};
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        fake_route routes[] = {{.request = "POST /v1/verify", .body = JOB("queued", "")},
                               {.request = "GET /v1/jobs/4", .body = c[i].end},
                               {.request = NULL}};
        fake_server s;
        cli_result r;
        fake_start(&s, routes);
        ck_run(r, &s, c[i].exit, i ? "verify digits --full" : "verify --all");
        ck_has(s.log.data,
               i ? "{\"ref\":\"digits\",\"full\":true}" : "{\"ref\":null,\"full\":false}");
        cli_free(&r);
        ck_run(r, &s, c[i].exit, "verify --json");
        json_decref(cli_json(&r, "dsctl.v1/job"));
        cli_free(&r);
        fake_stop(&s);
    }
}
END_TEST

START_TEST(verify_records_the_base) {
    fake_route routes[] = {
        {.request = "POST /v1/verify", .body = JOB("queued", "")},
        {.request = "GET /v1/jobs/4",
         .body =
             JOB("done", ",\"result\":{\"gate\":{\"verdict\":\"passed\",\"tasks\":[]},"
                         "\"base_task\":{\"ref\":\"base:emoji-dit\",\"recorded\":true,\"fd\":12.3,"
                         "\"n\":512,\"classes\":6,\"note\":\"\"}}")},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, 0, "verify --all");
    ck_has(r.out, "base:emoji-dit recorded: FD 12.3 of 512 samples, 6 classes\n");
    ck_has(r.out, "passed: 0 tasks checked");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

static const char png[] = "\x89PNG\r\n\x1a\n and more";

START_TEST(sample_saves_the_picture) {
    fake_route routes[] = {
        {.request = "POST /v1/samples", .status = 202, .body = JOB("queued", "")},
        {.request = "GET /v1/jobs/4", .body = JOB("running", ""), .times = 1},
        {.request = "GET /v1/jobs/4", .body = JOB("done", ",\"result\":{\"n\":4,\"seconds\":1.5}")},
        {.request = "GET /v1/jobs/4/events*", .body = ""},
        {.request = "GET /v1/jobs/4/files/grid.png", .body = png, .length = sizeof png - 1},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    char *data;
    size_t n;
    fake_start(&s, routes);
    ck_assert_int_eq(chdir(ds_test_tmpdir()), 0);
    ck_run(r, &s, 0,
           "sample digits@v1 -n 4 -o g.png --class 7 --steps 9 --guidance 2 "
           "--guidance-mode domain --sampler ddim --seed 5");
    ck_has(r.err, "4 images of digits@v1 in 1.5 s, written to g.png");
    ck_has(s.log.data,
           "{\"ref\":\"digits@v1\",\"n\":4,\"class\":\"7\",\"steps\":9,\"guidance\":2.0,"
           "\"guidance_mode\":\"domain\",\"sampler\":\"ddim\",\"seed\":5}");
    ck_assert_int_eq(ds_fs_read("g.png", 100, &data, &n, NULL), 0);
    ck_assert_uint_eq(n, sizeof png - 1);
    ck_assert_mem_eq(data, png, n);
    free(data);
    cli_free(&r);
    const char *plain = s.routes[2].body;
    static const char *const costs[][2] = {
        {"1", "1 pass"}, {"2.0", "2 passes"}, {"1.5333", "1.53 passes"}};
    for (int i = 0; i < 3; i++) { /* a worker that says what it cost, today and before */
        char body[200], want[100];
        snprintf(body, sizeof body,
                 JOB("done", ",\"result\":{\"n\":4,\"seconds\":1.5,\"passes\":%s}"), costs[i][0]);
        s.routes[2].body = body;
        ck_run(r, &s, 0, "sample digits@v1 -n 4 -o g.png --force");
        snprintf(want, sizeof want, "4 images of digits@v1 in 1.5 s (%s a step), written",
                 costs[i][1]);
        ck_has(r.err, want);
        cli_free(&r);
    }
    s.routes[2].body = plain;
    ck_run(r, &s, 0, "sample base -q");
    ck_assert_str_eq(r.out, "base.png\n");
    ck_has(s.log.data, "{\"ref\":null,\"n\":16,\"seed\":1}");
    cli_free(&r);
    s.routes[4].kind = FAKE_TRUNCATED;
    ck_run(r, &s, 9, "sample digits -o cut.png");
    ck_assert(!ds_fs_exists("cut.png"));
    cli_free(&r);
    s.routes[4] = (fake_route){.request = s.routes[4].request, .body = "<html>"};
    ck_run(r, &s, 9, "sample digits -o cut.png");
    ck_assert(!ds_fs_exists("cut.png"));
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

/* --start: this program plays diffscalerd (see main); it is found through PATH. */

static void install_daemon(const char *script) {
    char path[300], self[300];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    ck_assert_int_gt(n, 0);
    self[n] = 0;
    snprintf(path, sizeof path, "%s/bin", ds_test_tmpdir());
    mkdir(path, 0700);
    setenv("PATH", path, 1);
    snprintf(path, sizeof path, "%s/bin/diffscalerd", ds_test_tmpdir());
    unlink(path);
    if (script) {
        ck_assert_int_eq(ds_fs_write(path, script, strlen(script), NULL), 0);
        ck_assert_int_eq(chmod(path, 0700), 0);
    } else {
        ck_assert_int_eq(symlink(self, path), 0);
    }
}

static cli_result add_with_start(const char *state) {
    char line[600];
    snprintf(line, sizeof line, "--state %s add-dataset %s --start", state, ds_test_tmpdir());
    unsetenv("DIFFSCALER_SOCKET");
    return cli_line(NULL, line);
}

START_TEST(start_starts_a_daemon) {
    char state[200];
    ds_cli_interrupted = 0;
    snprintf(state, sizeof state, "%s/st%d", ds_test_tmpdir(), (int)getpid());
    install_daemon(NULL);
    cli_result r = add_with_start(state);
    ck_assert_msg(r.exit == 0, "exit %d: %s", r.exit, r.err);
    ck_has(r.err, "started diffscalerd (pid ");
    ck_has(r.out, "digits: unchanged (v1)");
    cli_free(&r);
    r = add_with_start(state); /* it runs already: not an error, and not a second one */
    ck_assert_int_eq(r.exit, 0);
    ck_has_not(r.err, "started");
    cli_free(&r);
    char line[300];
    snprintf(line, sizeof line, "--state %s status", state);
    r = cli_line(NULL, line); /* ends the stand-in */
    cli_free(&r);
}
END_TEST

START_TEST(start_tells_why_it_failed) {
    char state[200];
    ds_cli_interrupted = 0;
    snprintf(state, sizeof state, "%s/sf%d", ds_test_tmpdir(), (int)getpid());
    install_daemon("#!/bin/sh\necho first >&2\necho 'another daemon has the state folder' >&2\n"
                   "exit 4\n");
    cli_result r = add_with_start(state);
    ck_assert_int_eq(r.exit, 4);
    ck_has(r.err, "ended at once: another daemon has the state folder");
    ck_has(r.err, "diffscalerd.log");
    cli_free(&r);
    setenv("PATH", "/nonexistent", 1);
    r = add_with_start(state);
    ck_assert_int_eq(r.exit, 3);
    ck_has(r.err, "cannot find the program 'diffscalerd'");
    cli_free(&r);
}
END_TEST

START_TEST(doctor_says_what_to_do) {
    char path[300], line[600];
    ds_cli_interrupted = 0;
    install_daemon("#!/bin/sh\necho \"worker = $WORKER\"\necho \"base = $BASE\"\n"
                   "echo 'feature-net = (none found: datasets wait)'\n");
    snprintf(path, sizeof path, "%s/bin/w", ds_test_tmpdir());
    ck_assert_int_eq(ds_fs_write(path, "#!/bin/sh\necho w 1.2\n", 21, NULL), 0);
    chmod(path, 0700);
    setenv("WORKER", path, 1);
    snprintf(path, sizeof path, "%s/base", ds_test_tmpdir());
    ck_assert_int_eq(ds_fs_write(path, "", 0, NULL), 0);
    setenv("BASE", path, 1);
    fake_route routes[] = {{.request = "GET /v1/status",
                            .body =
                                "{\"version\":\"" DS_VERSION "\",\"pid\":5,\"base\":{\"sha256\":"
                                "\"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852"
                                "b855\"}}"},
                           {.request = "GET /readyz", .body = "ok"},
                           {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    snprintf(line, sizeof line, "--state %s doctor", ds_test_tmpdir());
    ck_run(r, &s, 1, "%s", line); /* the feature net is missing */
    ck_has(r.out, "ok    daemon        version " DS_VERSION ", pid 5");
    ck_has(r.out, "ok    socket");
    ck_has(r.out, "ok    state");
    ck_has(r.out, "w: w 1.2");
    ck_has(r.out, "sha256:e3b0c44298fc..., as the daemon has it");
    ck_has(r.out, "fail  feature net   none found");
    ck_has(r.out, "share/diffscaler/models");
    ck_has(r.out, "processors");
    ck_has(r.out, "inotify");
    cli_free(&r);
    ck_assert_int_eq(ds_fs_write(path, "x", 1, NULL), 0);
    ck_run(r, &s, 1, "%s --json", line);
    json_t *doc = cli_json(&r, "dsctl.v1/doctor"), *check;
    size_t i;
    int warned = 0;
    ck_assert(json_is_false(json_object_get(doc, "ok")));
    json_array_foreach(json_object_get(doc, "checks"), i, check) {
        warned |= !strcmp(ds_json_string(check, "name", ""), "base") &&
                  !strcmp(ds_json_string(check, "status", ""), "warn");
    }
    ck_assert(warned); /* the file is not what the daemon loaded */
    json_decref(doc);
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_loop_test(tc, add_returns_within_a_second, 0, sizeof adds / sizeof *adds);
    tcase_add_test(tc, add_looks_for_its_training);
    tcase_add_test(tc, add_sends_options);
    tcase_add_test(tc, wait_shows_progress_and_outcome);
    tcase_add_loop_test(tc, wait_exit_codes, 0, sizeof ends / sizeof *ends);
    tcase_add_test(tc, wait_of_a_worse_version);
    tcase_add_test(tc, wish_waits_for_its_training);
    tcase_add_test(tc, wish_comes_too_late_for_one);
    tcase_add_test(tc, verify_records_the_base);
    tcase_add_test(tc, wait_ends_early);
    tcase_add_test(tc, wait_survives_a_restart);
    tcase_add_test(tc, verify_outcomes);
    tcase_add_test(tc, sample_saves_the_picture);
    tcase_add_test(tc, start_starts_a_daemon);
    tcase_add_test(tc, start_tells_why_it_failed);
    tcase_add_test(tc, doctor_says_what_to_do);
}

/* Called as "diffscalerd --state S --socket P": answers on P until asked for its status, or for 20
 * seconds at most. */
static int play_daemon(const char *path) {
    static fake_server s;
    static const fake_route routes[] = {
        {.request = "GET /readyz", .body = "ok"},
        {.request = "POST /v1/datasets", .body = DS("done", "true", V1, "null")},
        {.request = GET_JOBS, .body = NO_JOBS},
        {.request = "GET /v1/status", .body = "{}"},
        {.request = NULL}};
    alarm(20);
    for (; routes[s.count].request; s.count++)
        s.routes[s.count] = routes[s.count];
    pthread_mutex_init(&s.lock, NULL);
    s.listener = fake_listen(path);
    while (!s.served[3]) {
        int fd = accept(s.listener, NULL, NULL);
        fake_serve(&s, fd);
        close(fd);
    }
    ds_buf_release(&s.log);
    return 0;
}

int main(int argc, char **argv) {
    const char *slash = strrchr(argv[0], '/');
    if (argc == 5 && !strcmp(slash ? slash + 1 : argv[0], "diffscalerd"))
        return play_daemon(argv[4]);
    return ds_test_main("cli_follow", cases);
}
