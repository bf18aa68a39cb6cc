/* Every command against canned answers: what a person sees, and what a program gets. */
#include "tests/fixtures/durable.h"

#include "base/digest.h"
#include "base/fs.h"
#include "base/zio.h"
#include "tests/fixtures/cli_fake.h"

#include <signal.h>
#include <sys/resource.h>

#define DATASET                                                                                    \
    "{\"id\":1,\"name\":\"digits\",\"path\":\"/data/digits\",\"state\":\"ready\",\"error\":null,"  \
    "\"watch\":true,\"method\":\"affiner\",\"options\":{\"steps\":800},"                           \
    "\"created_at\":\"2001-02-03T04:05:06.000Z\",\"version\":{\"version\":1,"                      \
    "\"tree_digest\":\"abc\",\"images\":5000,\"classes\":10,\"bytes\":1234567,\"rejected\":2,"     \
    "\"created_at\":\"2001-02-03T04:05:06Z\"},\"versions\":1,\"job\":4,"                           \
    "\"adapter\":\"digits@v1\",\"scan\":{\"state\":\"done\",\"unchanged\":false,\"seq\":1},"       \
    "\"publish_worse\":true,"                                                                      \
    "\"field_of_the_future\":[1]}"
#define GATE                                                                                       \
    "{\"verdict\":\"passed\",\"reason\":\"\",\"worst_task\":null,\"delta\":0.0,\"tasks\":["        \
    "{\"name\":\"flags\",\"ref\":\"flags@v1\",\"level\":1,\"unchanged\":true,"                     \
    "\"verdict\":\"passed\",\"reason\":\"\",\"fd_recorded\":12.3,\"fd_now\":12.3}]}"
#define EVALUATION                                                                                 \
    "{\"id\":7,\"at\":\"2001-02-03T04:05:06Z\",\"adapter\":\"digits@v1\",\"dataset\":\"digits\","  \
    "\"subject\":\"adapter\",\"metric\":\"fd\",\"value\":42.125,\"ci_low\":40,\"ci_high\":44,"     \
    "\"n_real\":5000,\"n_fake\":512,\"seed\":7}"
#define DIGEST "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define ADAPTER                                                                                    \
    "{\"ref\":\"digits@v1\",\"name\":\"digits\",\"version\":1,\"dataset\":\"digits\","             \
    "\"dataset_version\":1,\"status\":\"published\",\"digest\":\"" DIGEST "\","                    \
    "\"stored_bytes\":1200000,\"raw_bytes\":1900000,\"parameters\":240000,"                        \
    "\"method\":\"affiner\",\"rank\":8,\"steps\":800,\"seed\":1,"                                  \
    "\"base\":{\"name\":\"emoji-dit\",\"sha256\":\"beef\"},\"created_at\":\"2001-02-03T04:05:"     \
    "06Z\","                                                                                       \
    "\"job\":4,\"aliases\":[\"latest\",\"prod\"],\"fd\":42.125,\"fd_base\":180.24,\"kid\":0.0123," \
    "\"n\":512,\"classes\":10,\"images\":5000,\"train_seconds\":60.1,"                             \
    "\"images_per_second\":850.0,\"gate\":" GATE ",\"evaluations\":[" EVALUATION "]}"
#define JOB(state)                                                                                 \
    "{\"id\":4,\"kind\":\"train\",\"state\":\"" state "\",\"dataset\":\"digits\","                 \
    "\"dataset_version\":1,\"name\":\"digits\",\"attempts\":1,\"max_attempts\":3,"                 \
    "\"created_at\":\"2001-02-03T04:05:06Z\",\"started_at\":\"2001-02-03T04:05:07Z\","             \
    "\"finished_at\":null,\"run_after\":null,\"error\":null,\"stage\":\"train\",\"progress\":"     \
    "{\"done\":360,\"total\":800,\"unit\":\"steps\",\"rate\":13.2,\"eta_seconds\":33.3,"           \
    "\"loss\":0.31,\"images_per_second\":845.0},\"adapter\":null,\"pid\":77,\"result\":null}"
#define STATUS                                                                                     \
    "{\"version\":\"" DS_VERSION "\",\"pid\":123,\"started_at\":\"2001-02-03T04:05:06Z\","         \
    "\"state_dir\":\"/state\",\"uptime_seconds\":3700,\"workers\":1,\"queue_paused\":false,"       \
    "\"datasets\":3,\"adapters\":2,\"jobs\":{\"queued\":1,\"running\":1,\"done\":9},"              \
    "\"blobs\":{\"count\":12,\"bytes\":3456789},\"base\":{\"name\":\"emoji-dit\","                 \
    "\"sha256\":\"beef\"},\"feature_net\":null,\"device\":{\"kind\":\"cpu\",\"threads\":2},"       \
    "\"running\":[" JOB("running") "],\"disk_free_bytes\":5e9,\"event_seq\":41}"
#define LIST(item) "{\"items\":[" item "],\"next\":null}"

#define ONE_CLASS "{\"path\":\"x.png\",\"reason\":\"truncated\"}"

static const fake_route reading[] = {
    {.request = "GET /v1/datasets?limit=100", .body = LIST(DATASET)},
    {.request = "GET /v1/datasets/digits", .body = DATASET},
    {.request = "GET /v1/datasets/digits/rejected?limit=1000", .body = LIST(ONE_CLASS)},
    {.request = "GET /v1/datasets/digits/manifest", .body = "{\"path\":\"a\"}\n"},
    {.request = "GET /v1/datasets/digits/manifest?version=3", .body = "{\"path\":\"b\"}\n"},
    {.request = "GET /v1/adapters?limit=100", .body = LIST(ADAPTER)},
    {.request = "GET /v1/adapters?dataset=a%20b&status=rejected&max_fd=40.5&since="
                "2026-01-31T08:00:00.000Z&limit=5",
     .body = LIST(ADAPTER)},
    {.request = "GET /v1/adapters/digits@v1", .body = ADAPTER},
    {.request = "GET /v1/jobs?limit=100", .body = LIST(JOB("running"))},
    {.request = "GET /v1/jobs?state=failed&kind=scan&dataset=digits&limit=100", .body = LIST("")},
    {.request = "GET /v1/jobs/4", .body = JOB("running")},
    {.request = "GET /v1/evaluations?limit=100", .body = LIST(EVALUATION)},
    {.request = "GET /v1/evaluations?adapter=digits@v1&dataset=digits&metric=fd&limit=100",
     .body = LIST(EVALUATION)},
    {.request = "GET /v1/status", .body = STATUS},
    {.request = "GET /v1/version",
     .body = "{\"version\":\"9.9\",\"api\":1,\"schema\":4,\"pid\":123}"},
    {.request = "GET /v1/jobs?limit=50", .body = LIST(JOB("running"))},
    {.request = "GET /v1/adapters?limit=8", .body = LIST(ADAPTER)},
    {.request = NULL}};

/* line, texts that must be on stdout (for a person), ids (--quiet), schema (--json) */
static const struct {
    const char *line, *shows[6], *quiet, *schema;
} readers[] = {
    {"list-datasets",
     {"NAME", "digits  v1", "5,000", "1.2 MB", "ready  digits@v1  2001-02-03  /data/digits"},
     "digits\n",
     "dsctl.v1/datasets"},
    {"show-dataset digits",
     {"/data/digits", "v1, made 2001-02-03", "5,000 in 10 classes, 1.2 MB", "sha256:abc",
      "{\"steps\":800}", "even if it is worse, once"},
     "digits\n",
     "dsctl.v1/dataset"},
    {"show-dataset digits --rejected", {"x.png", "truncated"}, NULL, "dsctl.v1/rejected-files"},
    {"list-adapters",
     {"digits@v1", "published", "42.1", "180", "latest prod", "affiner"},
     "digits@v1\n",
     "dsctl.v1/adapters"},
    {"show-adapter digits@v1",
     {"sha256:" DIGEST, "42.1 (base 180, 512 samples)", "1.2 MB (1.9 MB unpacked), 240,000",
      "emoji-dit sha256:beef", "flags@v1  unchanged", "same probe digest"},
     "digits@v1\n",
     "dsctl.v1/adapter"},
    {"list-jobs", {"train  digits v1  running  train 45 %", "2001-02-03"}, "4\n", "dsctl.v1/jobs"},
    {"show-job 4",
     {"360/800 steps  845 images/s  loss 0.3100  0:33 left", "1 of 3", "digits v1", "running"},
     "running\n",
     "dsctl.v1/job"},
    {"list-evaluations", {"fd", "42.1", "512", "digits@v1"}, "7\n", "dsctl.v1/evaluations"},
    {"list-evaluations --adapter digits@v1 -d digits -m fd",
     {"42.1"},
     "7\n",
     "dsctl.v1/evaluations"},
    {"status",
     {"pid 123, up 1 h 1 min", "/state, 5.0 GB free", "1 queued, 1 running, 9 done",
      "emoji-dit sha256:beef", "none found", "job 4 train digits train"},
     "123\n",
     "dsctl.v1/status"},
    {"version",
     {"dsctl " DS_VERSION, "diffscalerd 9.9 (api 1, registry schema 4)"},
     DS_VERSION "\n",
     "dsctl.v1/version"},
    {"watch --count 1", {"job 4 train digits running train 45 %"}, NULL, "dsctl.v1/watch"},
};

START_TEST(reading_commands) {
    fake_server s;
    fake_start(&s, reading);
    cli_result r;
    {
        ck_run(r, &s, 0, "%s", readers[_i].line);
        for (int k = 0; k < 6 && readers[_i].shows[k]; k++)
            ck_has(r.out, readers[_i].shows[k]);
        ck_has_not(r.out, "\033");
        cli_free(&r);
        ck_run(r, &s, 0, "%s --json", readers[_i].line);
        json_decref(cli_json(&r, readers[_i].schema));
        cli_free(&r);
    }
    if (readers[_i].quiet) {
        ck_run(r, &s, 0, "%s -q", readers[_i].line);
        ck_assert_str_eq(r.out, readers[_i].quiet);
        ck_assert_str_eq(r.err, "");
        cli_free(&r);
    }
    fake_stop(&s);
}
END_TEST

/* JSON passes on everything the daemon said, fields of the future included. */
START_TEST(json_is_whole) {
    fake_server s;
    cli_result r;
    fake_start(&s, reading);
    ck_run(r, &s, 0, "--json show-dataset digits");
    json_t *got = cli_json(&r, "dsctl.v1/dataset"), *want = json_loads(DATASET, 0, NULL);
    json_object_del(got, "schema");
    ck_assert(json_equal(got, want));
    json_decref(got);
    json_decref(want);
    cli_free(&r);
    ck_run(r, &s, 0, "list-adapters --json");
    got = cli_json(&r, "dsctl.v1/adapters");
    ck_assert_uint_eq(json_array_size(json_object_get(got, "items")), 1);
    ck_assert(json_is_null(json_object_get(got, "next")));
    json_decref(got);
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

START_TEST(filters_and_raw_output) {
    fake_server s;
    cli_result r;
    fake_start(&s, reading);
    ck_run(r, &s, 0, "list-jobs --status failed --kind scan --dataset digits");
    ck_assert_str_eq(r.out, "");
    ck_assert_str_eq(r.err, "no jobs\n");
    cli_free(&r);
    ck_run(r, &s, 0, "show-dataset digits --manifest");
    ck_assert_str_eq(r.out, "{\"path\":\"a\"}\n");
    cli_free(&r);
    ck_run(r, &s, 0, "show-dataset digits --manifest --dataset-version 3");
    ck_assert_str_eq(r.out, "{\"path\":\"b\"}\n");
    cli_free(&r);
    char *argv[] = {"dsctl",     "--socket", s.socket,   "list-adapters",
                    "--dataset", "a b",      "--status", "rejected",
                    "--max-fd",  "40.5",     "--since",  "2026-01-31T08:00:00Z",
                    "--limit",   "5",        NULL};
    FILE *null = fopen("/dev/null", "w");
    ck_assert_int_eq(ds_cli_run(14, argv, null, null), 0);
    fclose(null);
    fake_stop(&s);
}
END_TEST

START_TEST(pages_are_joined) {
    static const fake_route routes[] = {
        {.request = "GET /v1/jobs?limit=1000",
         .body = "{\"items\":[{\"id\":3},{\"id\":2}],\"next\":\"c/1\"}"},
        {.request = "GET /v1/jobs?limit=1000&cursor=c%2F1",
         .body = "{\"items\":[{\"id\":1}],\"next\":null}"},
        {.request = "GET /v1/jobs?limit=2",
         .body = "{\"items\":[{\"id\":3},{\"id\":2}],\"next\":\"c1\"}"},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, 0, "list-jobs --all -q");
    ck_assert_str_eq(r.out, "3\n2\n1\n");
    cli_free(&r);
    ck_run(r, &s, 0, "list-jobs -l 2");
    ck_has(r.err, "--all shows the rest");
    cli_free(&r);
    ck_run(r, &s, 0, "list-jobs -l 2 --json");
    json_t *doc = cli_json(&r, "dsctl.v1/jobs");
    ck_assert_str_eq(ds_json_string(doc, "next", ""), "c1");
    json_decref(doc);
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

START_TEST(changing_commands) {
    static const fake_route routes[] = {
        {.request = "DELETE /v1/datasets/digits", .body = DATASET},
        {.request = "POST /v1/datasets/digits/rescan", .status = 202, .body = DATASET},
        {.request = "POST /v1/jobs/4/cancel", .status = 202, .body = JOB("running")},
        {.request = "PUT /v1/adapters/digits/aliases/prod",
         .body = "{\"name\":\"digits\",\"alias\":\"prod\",\"version\":2,\"generation\":3}"},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, 0, "remove-dataset digits");
    ck_has(r.err, "its adapters stay");
    cli_free(&r);
    ck_run(r, &s, 0, "rescan-dataset digits --json");
    json_decref(cli_json(&r, "dsctl.v1/dataset"));
    cli_free(&r);
    ck_run(r, &s, 0, "cancel-job 4");
    ck_assert_str_eq(r.err, "job 4 is being cancelled\n");
    cli_free(&r);
    ck_run(r, &s, 0, "set-alias digits prod v2 --if-generation 2");
    ck_has(r.err, "digits@prod is digits@v2 (generation 3)");
    ck_has(s.log.data, "{\"version\":2} If-Match:2");
    cli_free(&r);
    ck_run(r, &s, 0, "set-alias digits prod digits@v2"); /* as every list shows it */
    ck_has(r.err, "digits@prod is digits@v2 (generation 3)");
    cli_free(&r);
    ck_run(r, &s, 0, "set-alias digits prod 2 --json");
    json_decref(cli_json(&r, "dsctl.v1/alias"));
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

#define FORCED(ref, rest)                                                                          \
    "{\"ref\":\"" ref "\",\"name\":\"digits\",\"status\":\"published\",\"fd\":144,\"aliases\":[]"  \
    ",\"self\":\"forced\",\"bar\":{\"role\":\"latest\",\"ref\":\"digits@v1\",\"verdict\":"         \
    "\"refused\",\"fd_bar\":5.12,\"fd_now\":144,\"delta\":27.1}" rest "}"
#define FIRST                                                                                      \
    "{\"ref\":\"flags@v1\",\"status\":\"published\",\"self\":\"passed\",\"bar\":{\"role\":"        \
    "\"base\","                                                                                    \
    "\"ref\":\"base:emoji-dit\",\"verdict\":\"passed\"}}"
#define BASE_OF(classes, fd, last)                                                                 \
    "{\"name\":\"emoji-dit\",\"default\":true,\"adapters\":2,\"task\":{\"classes\":" classes       \
    ",\"fd\":" fd ",\"last\":" last "}}"
#define LAST(level, verdict, now)                                                                  \
    "{\"job\":7,\"adapter\":\"flags@v1\",\"level\":" level ",\"verdict\":\"" verdict               \
    "\",\"fd_now\":" now "}"

/* Which version was the bar, where there was one, and what became of the base's own classes. */
START_TEST(bars_are_shown) {
    static const struct {
        const char *base, *says;
    } bases[] = {
        {BASE_OF("6", "12.3", "null"),
         "base emoji-dit: the 6 old classes are recorded (FD 12.3)\n"},
        {BASE_OF("6", "12.3", LAST("1", "passed", "12.3")),
         "base emoji-dit: the 6 old classes do not degrade: same samples as recorded (FD 12.3), "
         "last with flags@v1\n"},
        {BASE_OF("6", "12.3", LAST("2", "passed", "12.4")),
         "the 6 old classes do not degrade (FD 12.3 -> 12.4), last with flags@v1\n"},
        {BASE_OF("6", "12.3", LAST("2", "refused", "99")),
         "the 6 old classes have changed (FD 12.3 -> 99.0), last with flags@v1\n"},
        {BASE_OF("0", "null", LAST("0", "passed", "null")),
         "the old samples could not be compared on this device, last with flags@v1\n"},
        {"{\"name\":\"emoji-dit\",\"default\":true,\"task\":null}", "digits@v3"}};
    for (size_t i = 0; i < sizeof bases / sizeof *bases; i++) {
        char *list = ds_xasprintf("{\"items\":[%s],\"next\":null}", bases[i].base);
        fake_route routes[] = {
            {.request = "GET /v1/datasets?limit=1000",
             .body = LIST("{\"id\":1,\"name\":\"digits\",\"adapter\":\"digits@v3\"},"
                          "{\"id\":2,\"name\":\"later\",\"adapter\":null}")},
            {.request = "GET /v1/adapters/digits@v3",
             .body = FORCED("digits@v3",
                            ",\"gate\":{\"verdict\":\"passed\",\"tasks\":[],\"self\":{\"verdict\":"
                            "\"forced\",\"bars\":[{\"role\":\"best\",\"ref\":\"digits@v1\","
                            "\"verdict\":\"refused\",\"fd_bar\":5.12,\"fd_now\":144}]}}")},
            {.request = "GET /v1/bases?limit=1000", .body = list},
            {.request = "GET /v1/adapters?limit=100",
             .body = LIST(FORCED("digits@v3", "") "," FIRST)},
            {.request = NULL}};
        fake_server s;
        cli_result r;
        fake_start(&s, routes);
        ck_run(r, &s, 0, "report");
        ck_has(r.out, "digits@v1, forced");
        ck_has_not(r.out, "0.0 s"); /* 'later' was not trained yet */
        ck_has(r.out, bases[i].says);
        cli_free(&r);
        ck_run(r, &s, 0, "report --json");
        json_t *doc = cli_json(&r, "dsctl.v1/report");
        json_t *row = json_array_get(json_object_get(doc, "datasets"), 0);
        ck_assert_str_eq(ds_json_string(row, "self", ""), "forced");
        ck_assert_str_eq(ds_json_string(json_object_get(row, "bar"), "ref", ""), "digits@v1");
        ck_assert_int_eq((int)json_array_size(json_object_get(doc, "bases")),
                         strstr(bases[i].base, "\"task\":null") ? 0 : 1);
        json_decref(doc);
        cli_free(&r);
        ck_run(r, &s, 0, "show-adapter digits@v3");
        ck_has(r.out,
               "published; it was published by force; FD 144 is worse than 5.12 of digits@v1");
        ck_has(r.out, "best  digits@v1  refused");
        ck_has(r.out, "digits@v1, FD 5.12 against 144 (+2710 %)");
        cli_free(&r);
        ck_run(r, &s, 0, "list-adapters");
        ck_has(r.out, "digits@v1, forced");
        ck_has_not(r.out, "base:emoji-dit"); /* the base alone is no news */
        cli_free(&r);
        fake_stop(&s);
        free(list);
    }
}
END_TEST

START_TEST(color_and_control_characters) {
    static const fake_route routes[] = {
        {.request = "GET /v1/datasets?limit=100",
         .body = "{\"items\":[{\"name\":\"a\\u001b[31mb\",\"state\":\"failed\"}],\"next\":null}"},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, 0, "list-datasets");
    ck_has(r.out, "a?[31mb");
    ck_has_not(r.out, "\033");
    cli_free(&r);
    ck_run(r, &s, 0, "list-datasets --color always");
    ck_has(r.out, "a?[31mb");
    ck_has(r.out, "\033[31mfailed\033[0m");
    cli_free(&r);
    ck_run(r, &s, 0, "list-datasets --color never");
    ck_has_not(r.out, "\033");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

/* pull-adapter --------------------------------------------------------------------------------- */

typedef struct {
    char *raw, *packed, *json, name[256];
    size_t raw_n, packed_n;
    fake_route routes[4];
    fake_server server;
} pull_case;

static void pull_start(pull_case *p, fake_kind kind) {
    char hex[DS_HEX_SIZE];
    p->raw_n = 300000;
    p->raw = ds_xmalloc(p->raw_n);
    for (size_t i = 0; i < p->raw_n; i++)
        p->raw[i] = (char)(i * i >> 7);
    ck_assert_int_eq(ds_zio_compress(p->raw, p->raw_n, 3, &p->packed, &p->packed_n, NULL), 0);
    ds_digest(p->raw, p->raw_n, hex);
    p->json = ds_xasprintf("{\"ref\":\"digits@v2\",\"name\":\"digits\",\"version\":2,"
                           "\"digest\":\"%s\",\"raw_bytes\":%zu,\"stored_bytes\":%zu}",
                           hex, p->raw_n, p->packed_n);
    static char header[128];
    snprintf(header, sizeof header, "X-Diffscaler-Digest: sha256:%s\r\n", hex);
    p->routes[0] = (fake_route){.request = "GET /v1/adapters/digits@latest", .body = p->json};
    p->routes[1] = (fake_route){.request = "GET /v1/adapters/digits@v2/file",
                                .body = p->packed,
                                .length = p->packed_n,
                                .headers = header,
                                .kind = kind};
    p->routes[2] = (fake_route){.request = NULL};
    fake_start(&p->server, p->routes);
    snprintf(p->name, sizeof p->name, "%s/out-%d", ds_test_tmpdir(), (int)getpid());
}

static void pull_stop(pull_case *p) {
    fake_stop(&p->server);
    free(p->raw);
    free(p->packed);
    free(p->json);
}

static void check_content(const char *path, const char *want, size_t n) {
    char *got;
    size_t got_n;
    ck_assert_int_eq(ds_fs_read(path, 1 << 24, &got, &got_n, NULL), 0);
    ck_assert_uint_eq(got_n, n);
    ck_assert_mem_eq(got, want, n);
    free(got);
}

static void no_leftovers(const pull_case *p) {
    char line[600];
    snprintf(line, sizeof line, "ls %s.part-* >/dev/null 2>&1", p->name);
    ck_assert_int_ne(system(line), 0);
}

START_TEST(pull_writes_verified_files) {
    pull_case p;
    cli_result r;
    pull_start(&p, FAKE_PLAIN);
    durable_begin();
    ck_run(r, &p.server, 0, "pull-adapter digits@latest -o %s", p.name);
    durable_expect_whole(p.name);
    ck_has(r.err, "digest verified");
    check_content(p.name, p.packed, p.packed_n);
    cli_free(&r);
    ds_buf_release(&p.server.log); /* what is there stays, and nothing is asked for */
    ck_run(r, &p.server, 4, "pull-adapter digits@latest --raw -o %s --json", p.name);
    ck_has(r.err, "exists: give another name, or --force to replace it");
    ck_assert_ptr_null(p.server.log.data);
    check_content(p.name, p.packed, p.packed_n);
    cli_free(&r);
    ck_run(r, &p.server, 0, "pull-adapter digits@latest --raw -o %s --json --force", p.name);
    json_t *doc = cli_json(&r, "dsctl.v1/adapter");
    ck_assert_str_eq(ds_json_string(doc, "file", ""), p.name);
    json_decref(doc);
    check_content(p.name, p.raw, p.raw_n);
    cli_free(&r);
    ck_run(r, &p.server, 2, "pull-adapter digits@latest -o - --json");
    ck_has(r.err, "--json cannot go as well");
    cli_free(&r);
    ck_run(r, &p.server, 0, "pull-adapter digits@latest -o -");
    ck_assert_uint_eq(r.out_n, p.packed_n);
    ck_assert_mem_eq(r.out, p.packed, p.packed_n);
    ck_assert_str_eq(r.err, "");
    cli_free(&r);
    ck_assert_int_eq(chdir(ds_test_tmpdir()), 0);
    ck_run(r, &p.server, 0, "pull-adapter digits@latest -q");
    ck_assert_str_eq(r.out, "digits-v2.safetensors.zst\n");
    check_content("digits-v2.safetensors.zst", p.packed, p.packed_n);
    cli_free(&r);
    no_leftovers(&p);
    pull_stop(&p);
}
END_TEST

/* One flipped bit anywhere, a cut anywhere, bytes behind, another file: exit 9 and no file; a file
 * that was there before stays as it was. */
START_TEST(pull_refuses_damage) {
    pull_case p;
    cli_result r;
    pull_start(&p, FAKE_PLAIN);
    fake_route *file = &p.server.routes[1];
    ck_assert_int_eq(ds_fs_write(p.name, "old", 3, NULL), 0);
    for (size_t i = 0; i < 40; i++) {
        size_t at = i * (p.packed_n - 1) / 39;
        p.packed[at] ^= (char)(1 << i % 8);
        ck_run(r, &p.server, 9, "pull-adapter digits@latest --force -o %s%s", p.name,
               i % 2 ? " --raw" : "");
        ck_has(r.err, "cannot pull 'digits@v2'");
        cli_free(&r);
        p.packed[at] ^= (char)(1 << i % 8);
    }
    for (size_t i = 1; i < 10; i++) {
        file->length = i * p.packed_n / 10;
        ck_run(r, &p.server, 9, "pull-adapter digits@latest --force -o %s", p.name);
        cli_free(&r);
    }
    file->length = p.packed_n;
    file->kind = FAKE_TRUNCATED;
    ck_run(r, &p.server, 9, "pull-adapter digits@latest --force -o %s", p.name);
    ck_has(r.err, "ended early");
    cli_free(&r);
    file->kind = FAKE_PLAIN;
    p.packed = ds_xrealloc(p.packed, p.packed_n + 1);
    p.packed[p.packed_n] = 'x';
    file->body = p.packed;
    file->length = p.packed_n + 1;
    ck_run(r, &p.server, 9, "pull-adapter digits@latest --force -o %s", p.name);
    cli_free(&r);
    file->length = p.packed_n;
    file->headers = "X-Diffscaler-Digest: sha256:" DIGEST "\r\n";
    ck_run(r, &p.server, 9, "pull-adapter digits@latest --force -o %s", p.name);
    ck_has(r.err, "another file was sent");
    cli_free(&r);
    check_content(p.name, "old", 3);
    no_leftovers(&p);
    pull_stop(&p);
}
END_TEST

/* Damage that zstd itself does not see: a whole frame of other content, and one without the end of
 * its checksum. */
START_TEST(pull_checks_the_digest_itself) {
    pull_case p;
    cli_result r;
    char *other;
    size_t other_n;
    pull_start(&p, FAKE_PLAIN);
    fake_route *file = &p.server.routes[1];
    for (size_t cut = 1; cut <= 4; cut++) {
        file->length = p.packed_n - cut;
        ck_run(r, &p.server, 9, "pull-adapter digits@latest -o %s", p.name);
        ck_has(r.err, "it ends early");
        cli_free(&r);
    }
    p.raw[p.raw_n / 2] ^= 1;
    ck_assert_int_eq(ds_zio_compress(p.raw, p.raw_n, 3, &other, &other_n, NULL), 0);
    file->body = other;
    file->length = other_n;
    ck_run(r, &p.server, 9, "pull-adapter digits@latest -o %s", p.name);
    ck_has(r.err, "its content is sha256:");
    cli_free(&r);
    free(other);
    pull_stop(&p);
}
END_TEST

START_TEST(pull_into_nowhere) {
    pull_case p;
    cli_result r;
    pull_start(&p, FAKE_PLAIN);
    ck_run(r, &p.server, 3, "pull-adapter digits@latest -o %s/none/x", ds_test_tmpdir());
    ck_has(r.err, "cannot write");
    cli_free(&r);
    pull_stop(&p);
}
END_TEST

/* A file larger than it should be, one that is packed otherwise, no digest, no room: each has its
 * words, and nothing is there afterwards. */
START_TEST(pull_tells_what_is_wrong) {
    pull_case p;
    cli_result r;
    char *plain, target[300], body[1024];
    pull_start(&p, FAKE_PLAIN);
    plain = p.json;
    static const char format[] = "{\"ref\":\"digits@v2\",\"name\":\"a/b\",\"version\":2%s%s%s}";
    const char *digest = strstr(plain, ",\"digest\"");
    char sized[200];
    int k = (int)strcspn(digest + 1, ",") + 1;
    snprintf(sized, sizeof sized, "%.*s", k, digest);
    static const struct {
        int64_t less;
        int exit;
        const char *stored, *says;
    } cases[] = {{1, 9, "", "it unpacks to more than the 299999 bytes it should"},
                 {0, 9, ",\"stored_digest\":\"" DIGEST "\"", "its file is sha256:"},
                 {0, 0, "", "digits@v2: "}};
    for (int i = 0; i < 3; i++) {
        char raw[64];
        snprintf(raw, sizeof raw, ",\"raw_bytes\":%lld",
                 (long long)((int64_t)p.raw_n - cases[i].less));
        snprintf(body, sizeof body, format, sized, raw, cases[i].stored);
        p.server.routes[0].body = body;
        ck_run(r, &p.server, cases[i].exit, "pull-adapter digits@latest -o %s", p.name);
        ck_has(r.err, cases[i].says);
        ck_assert_int_eq(ds_fs_exists(p.name), !cases[i].exit);
        cli_free(&r);
    }
    ck_assert_int_eq(chdir(ds_test_tmpdir()), 0); /* a name is no path */
    ck_run(r, &p.server, 0, "pull-adapter digits@latest -q --raw");
    ck_assert_str_eq(r.out, "a_b-v2.safetensors\n");
    check_content("a_b-v2.safetensors", p.raw, p.raw_n);
    cli_free(&r);
    snprintf(target, sizeof target, "%s.other", p.name);
    p.server.routes[0].body = "{\"ref\":\"digits@v2\",\"digest\":\"abc\"}";
    ck_run(r, &p.server, 1, "pull-adapter digits@latest -o %s", target);
    ck_has(r.err, "cannot pull 'digits@v2': diffscalerd gave no digest for it");
    cli_free(&r);
    p.server.routes[0].body = plain;
    durable_begin();
    durable_fail = 1;
    ck_run(r, &p.server, 1, "pull-adapter digits@latest -o %s", target);
    ck_has(r.err, "cannot write '");
    ck_has(r.err, ".other': Input/output error");
    cli_free(&r);
    durable_fail = 0;
    /* the disk is full while it comes, at its end, while it is unpacked, at the end of that */
    const size_t rooms[] = {p.packed_n / 2, p.packed_n - 1, (p.packed_n + p.raw_n) / 2,
                            p.raw_n - 1};
    static const char *const full_says[] = {
        "cannot write what /v1/adapters/digits@v2/file gave: File too large",
        "cannot write the file: File too large", "cannot write the file: File too large",
        ".other': File too large"};
    struct rlimit was;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &was);
    for (int i = 0; i < 4; i++) {
        struct rlimit limit = {rooms[i], was.rlim_max}; /* which may be lower than none */
        ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
        r = cli_run(&p.server, "pull-adapter digits@latest%s -o %s", i == 1 ? "" : " --raw",
                    target);
        setrlimit(RLIMIT_FSIZE, &was);
        ck_assert_int_eq(r.exit, 1);
        ck_has(r.err, full_says[i]);
        cli_free(&r);
    }
    ck_assert(!ds_fs_exists(target));
    char *argv[] = {"dsctl", "--socket", p.server.socket, "pull-adapter", "digits@latest",
                    "-o",    "-"};
    FILE *full = fopen("/dev/full", "w"), *said = open_memstream(&r.err, &r.err_n);
    ck_assert_int_eq(ds_cli_run(7, argv, full, said), 1);
    fclose(full);
    fclose(said);
    ck_has(r.err, "cannot write to standard output: No space left");
    cli_free(&r);
    no_leftovers(&p);
    p.json = plain;
    pull_stop(&p);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, pull_tells_what_is_wrong);

    tcase_add_loop_test(tc, reading_commands, 0, sizeof readers / sizeof *readers);
    tcase_add_test(tc, json_is_whole);
    tcase_add_test(tc, filters_and_raw_output);
    tcase_add_test(tc, pages_are_joined);
    tcase_add_test(tc, changing_commands);
    tcase_add_test(tc, bars_are_shown);
    tcase_add_test(tc, color_and_control_characters);
    tcase_add_test(tc, pull_writes_verified_files);
    tcase_add_test(tc, pull_refuses_damage);
    tcase_add_test(tc, pull_checks_the_digest_itself);
    tcase_add_test(tc, pull_into_nowhere);
}

int main(void) { return ds_test_main("cli_commands", cases); }
