/* tests/daemon/test_daemon_api.c - what requests do on a real daemon: conditions of HTTP, filters that
 * leave out what they should, members of the wrong type, files of jobs, and damage of blobs. */
#include "tests/fixtures/daemon_rig.h"

#include <time.h>

static rig r;
static char photos[400];

/* flags@v1 published, digits@v1 published, digits@v2 rejected. */
static void setup(void) {
    static int n;
    char name[32], path[500];
    snprintf(name, sizeof name, "api%d-%d", (int)getpid(), n++);
    rig_open(&r, name);
    rig_images(&r, "digits", 3, photos);
    rig_start(&r, NULL);
    rig_add(&r, "digits", photos, 201);
    rig_wait_adapter(&r, "digits", 1, 20000);
    rig_images(&r, "flags", 3, path);
    rig_add(&r, "flags", path, 201);
    rig_wait_adapter(&r, "flags", 1, 20000);
    rig_fake(&r, "train", "refuse");
    snprintf(path, sizeof path, "%s/more.png", photos);
    rig_write(path, "\x89PNG more");
    rig_wait_job(&r, "train", "digits", "|rejected|", 20000);
}

static void teardown(void) {
    if (r.pid)
        ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
}

/* The whole answer, head and body, malloc'ed. */
static char *answer(const char *method, const char *path, const char *headers, const char *body,
                    int want) {
    ds_buf q = {0};
    int fd = rig_connect(&r);
    ck_assert_int_ge(fd, 0);
    ds_buf_addf(&q, "%s %s HTTP/1.1\r\nHost: d\r\nConnection: close\r\n%s", method, path,
                headers ? headers : "");
    ds_buf_addf(&q, "Content-Length: %zu\r\n\r\n%s", body ? strlen(body) : 0, body ? body : "");
    char *text = rig_exchange(fd, q.data, q.len, 0);
    ds_buf_release(&q);
    int status = strncmp(text, "HTTP/1.1 ", 9) ? 0 : (int)strtol(text + 9, NULL, 10);
    ck_assert_msg(status == want, "%s %s %s: %d, not %d: %s", method, path, headers ? headers : "",
                  status, want, text);
    return text;
}

static const char *body_of(const char *text) { return strstr(text, "\r\n\r\n") + 4; }

/* Value of a header, without quotes; "" when it is not there. */
static const char *header(const char *text, const char *name) {
    static char value[300];
    char key[60];
    snprintf(key, sizeof key, "\r\n%s: ", name);
    const char *p = strcasestr(text, key);
    value[0] = 0;
    if (p && p < body_of(text)) {
        p += strlen(key);
        snprintf(value, sizeof value, "%.*s", (int)strcspn(p, "\r"), p);
    }
    return value;
}

static void answers(const char *method, const char *path, const char *headers, const char *body,
                    int want) {
    free(answer(method, path, headers, body, want));
}

static int count(const char *path) {
    json_t *doc = rig_want(&r, 200, "GET", path, NULL);
    int n = (int)json_array_size(json_object_get(doc, "items"));
    json_decref(doc);
    return n;
}

static void counts(const char *path, int want) {
    int n = count(path);
    ck_assert_msg(n == want, "%s has %d, not %d", path, n, want);
}

/* ---------------------------------------------------------------- conditions */

START_TEST(what_is_known_is_not_sent_again) {
    char path[120], head[200], sha[80], url[120];
    static const char *const files[] = {"/v1/adapters/digits@v1/file", "blob"};
    char *text = answer("GET", files[0], NULL, NULL, 200);
    snprintf(sha, sizeof sha, "%.64s", header(text, "ETag") + 1);
    ck_assert(ds_digest_valid(sha));
    ck_assert_str_eq(header(text, "X-Diffscaler-Ref"), "digits@v1");
    snprintf(head, sizeof head, "sha256:%s", sha);
    ck_assert_str_eq(header(text, "X-Diffscaler-Digest"), head);
    ck_assert(strstr(header(text, "Content-Disposition"), "digits-v1.safetensors.zst") != NULL);
    long whole = strtol(header(text, "Content-Length"), NULL, 10);
    ck_assert_int_gt(whole, 10);
    free(text);
    snprintf(path, sizeof path, "/v1/blobs/%s", sha);
    for (int i = 0; i < 2; i++) {
        const char *at = i ? path : files[0];
        static const char *const known[] = {"If-None-Match: \"%s\"\r\n",
                                            "If-None-Match: \"x\", \"%s\"\r\n",
                                            "If-None-Match: *\r\n"};
        for (int k = 0; k < 3; k++) {
            ds_buf b = {0};
            ds_buf_addf(&b, "%.*s", (int)strcspn(known[k], "%"), known[k]);
            if (k < 2)
                ds_buf_addf(&b, "%s%s", sha, strchr(known[k], '%') + 2);
            text = answer("GET", at, b.data, NULL, 304);
            ck_assert_str_eq(body_of(text), "");
            ck_assert_int_eq(strncmp(header(text, "ETag") + 1, sha, 64), 0);
            free(text);
            ds_buf_release(&b);
        }
        text = answer("GET", at, "If-None-Match: \"0123\"\r\n", NULL, 200);
        ck_assert_int_eq(strtol(header(text, "Content-Length"), NULL, 10), whole);
        free(text);
    }
    snprintf(url, sizeof url, "/v1/blobs/sha256:%s", sha);
    answers("GET", url, NULL, NULL, 200);
    sha[0] = sha[0] == 'a' ? 'b' : 'a';
    snprintf(url, sizeof url, "/v1/blobs/%s", sha);
    answers("GET", url, NULL, NULL, 404);
    sha[0] = 'A';
    snprintf(url, sizeof url, "/v1/blobs/%s", sha);
    answers("GET", url, NULL, NULL, 400);
    rig_says(&r, 400, "GET", "/v1/blobs/12", NULL, "'12' is not a digest of 64 lower-case hex");
    /* a manifest is named by its digest too */
    text = answer("GET", "/v1/datasets/flags/manifest", NULL, NULL, 200);
    char made[DS_HEX_SIZE];
    ds_digest(body_of(text), strlen(body_of(text)), made);
    ck_assert_int_eq(strncmp(header(text, "ETag") + 1, made, 64), 0);
    free(text);
}
END_TEST

/* An alias is set where it is still what the client saw. */
START_TEST(aliases_are_set_on_condition) {
    static const char at[] = "/v1/adapters/digits/aliases/prod", v1[] = "{\"version\":1}";
    char head[80];
    char *text = answer("PUT", at, NULL, v1, 200);
    ck_assert_str_eq(header(text, "ETag"), "\"1\"");
    free(text);
    answers("PUT", at, "If-Match: 7\r\n", v1, 409);
    answers("PUT", at, "If-Match: \"0\"\r\n", v1, 409);
    static const char *const bad[] = {"x", "-1", "1x", "\"\"", "1.5"};
    for (int i = 0; i < 5; i++) {
        snprintf(head, sizeof head, "If-Match: %s\r\n", bad[i]);
        answers("PUT", at, head, v1, 400);
    }
    static const char *const good[] = {"1", "\"2\"", "*"};
    for (int i = 0; i < 3; i++) {
        snprintf(head, sizeof head, "If-Match: %s\r\n", good[i]);
        text = answer("PUT", at, head, v1, 200);
        ck_assert_int_eq(strtol(header(text, "ETag") + 1, NULL, 10), i + 2);
        free(text);
    }
    rig_says(&r, 404, "PUT", at, "{\"version\":9}", "v9");
    rig_says(&r, 400, "PUT", at, "{}", "version");
    rig_says(&r, 400, "PUT", at, "{\"version\":\"1\"}", "version");
    rig_says(&r, 400, "PUT", at, "{\"version\":1,\"reason\":5}", "'reason' must be a text");
    json_decref(rig_want(&r, 200, "PUT", at, "{\"version\":1,\"reason\":\"as it was\"}"));
    text = answer("GET", at, NULL, NULL, 200);
    ck_assert(strstr(text, "as it was") != NULL);
    free(text);
    counts("/v1/adapters/digits/aliases", 2);
    counts(at, 5);
}
END_TEST

/* ---------------------------------------------------------------- filters */

START_TEST(filters_leave_out_the_rest) {
    static const struct {
        const char *path;
        int n;
    } lists[] = {
        {"/v1/adapters", 3},
        {"/v1/adapters?dataset=digits", 2},
        {"/v1/adapters?dataset=DIGITS", 2},
        {"/v1/adapters?status=rejected", 1},
        {"/v1/adapters?status=published", 2},
        {"/v1/adapters?status=published&dataset=digits", 1},
        {"/v1/adapters?max_fd=4.9", 0},
        {"/v1/adapters?max_fd=5", 3},
        {"/v1/adapters?max_fd=0", 0},
        {"/v1/adapters?since=2001-02-03", 3},
        {"/v1/adapters?since=2001-02-03T04:05:06.7Z", 3},
        {"/v1/adapters?since=2900-01-01", 0},
        {"/v1/adapters?since=1", 3},
        {"/v1/adapters?since=32503680000000", 0},
        {"/v1/adapters?limit=2", 2},
        {"/v1/jobs?kind=train", 3},
        {"/v1/jobs?kind=train&dataset=digits", 2},
        {"/v1/jobs?state=rejected", 1},
        {"/v1/jobs?state=rejected&dataset=flags", 0},
        {"/v1/jobs?kind=sample", 0},
        {"/v1/jobs?dataset=flags&kind=scan&state=done", 1},
        {"/v1/datasets", 2},
        {"/v1/datasets?limit=1", 1},
        {"/v1/evaluations?adapter=flags&metric=fd&limit=50", 2},
    };
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        counts(lists[i].path, lists[i].n);
    char since[80]; /* an hour ago and in an hour, in milliseconds */
    for (int i = -1; i < 2; i += 2) {
        snprintf(since, sizeof since, "/v1/adapters?since=%lld",
                 (long long)(time(NULL) + i * 3600) * 1000);
        counts(since, i < 0 ? 3 : 0);
    }
    int all = count("/v1/evaluations"), digits = count("/v1/evaluations?dataset=digits");
    ck_assert_msg(all > digits && digits > 0, "%d of %d", digits, all);
    /* pages: what follows begins after what was given */
    json_t *doc = rig_want(&r, 200, "GET", "/v1/adapters?limit=2", NULL);
    char path[200];
    snprintf(path, sizeof path, "/v1/adapters?limit=2&cursor=%s", ds_json_string(doc, "next", "x"));
    json_t *rest = rig_want(&r, 200, "GET", path, NULL);
    ck_assert_int_eq((int)json_array_size(json_object_get(rest, "items")), 1);
    ck_assert(json_is_null(json_object_get(rest, "next")));
    const char *last = ds_json_string(json_array_get(json_object_get(rest, "items"), 0), "ref", "");
    ck_assert_str_eq(last, "digits@v1"); /* newest first */
    json_decref(doc);
    json_decref(rest);
    json_decref(rig_want(&r, 200, "DELETE", "/v1/datasets/flags", NULL));
    counts("/v1/datasets", 1);
    counts("/v1/datasets?removed=1", 2);
    counts("/v1/datasets?removed=0", 1);
    json_decref(rig_want(&r, 404, "DELETE", "/v1/datasets/flags", NULL));
    rig_says(&r, 404, "POST", "/v1/datasets/flags/rescan", NULL, "was removed");
    json_decref(rig_want(&r, 404, "POST", "/v1/datasets/nope/rescan", NULL));
}
END_TEST

/* ---------------------------------------------------------------- jobs */

START_TEST(files_and_logs_of_a_job) {
    char state[16], path[120];
    long long id = rig_job(&r, "train", "digits", state);
    static const struct {
        const char *name;
        int status;
    } files[] = {{"spec.json", 200},      {"result.json", 200}, {"events.ndjson", 200},
                 {"worker.log", 200},     {"lock", 404},        {"..%2Fregistry.db", 404},
                 {"manifest.ndjson", 404}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "/v1/jobs/%lld/files/%s", id, files[i].name);
        answers("GET", path, NULL, NULL, files[i].status);
    }
    /* a link where a file should be is not followed */
    char file[500];
    snprintf(file, sizeof file, "%s/jobs/%lld/samples.png", r.state, id);
    unlink(file);
    ck_assert_int_eq(symlink("/etc/passwd", file), 0);
    snprintf(path, sizeof path, "/v1/jobs/%lld/files/samples.png", id);
    char *text;
    int status;
    text = rig_text(&r, "GET", path, NULL, NULL, &status);
    ck_assert(status >= 400 && !strstr(text, "root:"));
    free(text);
    ck_assert_int_eq(unlink(file), 0);
    ck_assert_int_eq(mkfifo(file, 0644), 0); /* and a pipe is not waited for */
    answers("GET", path, NULL, NULL, 404);
    snprintf(path, sizeof path, "/v1/jobs/%lld/log", id);
    text = answer("GET", path, NULL, NULL, 200);
    ck_assert(strncmp(body_of(text), "fake worker: train", 18) == 0);
    long whole = strtol(header(text, "X-Next-Offset"), NULL, 10);
    ck_assert_int_eq(whole, (long)strlen(body_of(text)));
    free(text);
    snprintf(path, sizeof path, "/v1/jobs/%lld/log?offset=5", id);
    text = answer("GET", path, NULL, NULL, 200);
    ck_assert(strncmp(body_of(text), "worker: train", 13) == 0);
    ck_assert_int_eq(strtol(header(text, "X-Next-Offset"), NULL, 10), whole);
    free(text);
    snprintf(path, sizeof path, "/v1/jobs/%lld/log?offset=%ld", id, whole);
    text = answer("GET", path, NULL, NULL, 200);
    ck_assert_str_eq(body_of(text), "");
    free(text);
    snprintf(path, sizeof path, "/v1/jobs/%lld/log?offset=100000", id); /* it was shortened */
    text = answer("GET", path, NULL, NULL, 200);
    ck_assert(strncmp(body_of(text), "fake worker", 11) == 0);
    free(text);
    /* the same to its end, as it grows: it has ended */
    for (int from = 0; from < 10; from += 5) {
        snprintf(path, sizeof path, "/v1/jobs/%lld/log?follow=1&offset=%d", id, from);
        text = rig_text(&r, "GET", path, NULL, NULL, &status);
        ck_assert_str_eq(text, "fake worker: train refuse\n" + from);
        free(text);
    }
    snprintf(path, sizeof path, "/v1/jobs/%lld/log?follow=1&offset=100000", id);
    text = rig_text(&r, "GET", path, NULL, NULL, &status);
    ck_assert_str_eq(text, "fake worker: train refuse\n");
    free(text);
    static const char *const numbers[] = {"0", "-1", "x", "1x", "99999999999999999999"};
    for (int i = 0; i < 5; i++) {
        snprintf(path, sizeof path, "/v1/jobs/%s", numbers[i]);
        rig_says(&r, 400, "GET", path, NULL, "named by its number");
    }
    static const char *const forms[] = {"", "/log", "/events", "/metrics", "/files/spec.json"};
    for (int i = 0; i < 5; i++) {
        snprintf(path, sizeof path, "/v1/jobs/999%s", forms[i]);
        answers("GET", path, NULL, NULL, 404);
    }
    answers("POST", "/v1/jobs/999/cancel", NULL, NULL, 404);
    snprintf(path, sizeof path, "/v1/jobs/%lld/cancel", id); /* it has ended */
    answers("POST", path, NULL, NULL, 409);
}
END_TEST

/* ---------------------------------------------------------------- bodies */

/* 260 characters: no name is as long */
#define TEN "abcdefghij"
#define LONG                                                                                       \
    TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN    \
        TEN TEN TEN

static const struct {
    const char *method, *path, *body;
    int status;
    const char *words;
} bodies[] = {
    {"POST", "/v1/datasets", "[]", 400, "must be a JSON object"},
    {"POST", "/v1/datasets", "{", 400, "JSON"},
    {"POST", "/v1/datasets", "{}", 400, "path"},
    {"POST", "/v1/datasets", "{\"path\":5}", 400, "path"},
    {"POST", "/v1/datasets", "{\"path\":\"/tmp\",\"name\":5}", 400, "'name' must be a text"},
    {"POST", "/v1/datasets", "{\"path\":\"/tmp\",\"method\":5}", 400, "'method' must be a text"},
    {"POST", "/v1/datasets", "{\"path\":\"/tmp\",\"base\":5}", 400, "'base' must be a text"},
    {"POST", "/v1/datasets", "{\"path\":\"/tmp\",\"feature_net\":[]}", 400, "must be a text"},
    {"POST", "/v1/datasets", "{\"path\":\"/tmp\",\"watch\":1}", 400, "must be true or false"},
    {"POST", "/v1/datasets", "{\"path\":\"/tmp\",\"publish_worse\":\"yes\"}", 400,
     "must be true or false"},
    {"POST", "/v1/datasets", "{\"path\":\"/tmp\",\"options\":[]}", 400, "options"},
    {"POST", "/v1/datasets", "{\"path\":\"/tmp\",\"options\":{\"rank\":\"8\"}}", 400, "rank"},
    {"POST", "/v1/datasets", "{\"path\":\"/tmp\",\"options\":{\"rnk\":8}}", 400, "rnk"},
    {"POST", "/v1/datasets", "{\"path\":\"/tmp\",\"method\":\"lora\"}", 400, "lora"},
    {"POST", "/v1/datasets", "{\"path\":\"/tmp\",\"base\":\"nope\"}", 404, "nope"},
    {"POST", "/v1/datasets", "{\"path\":\"/none/at/all\"}", 404, "/none/at/all"},
    {"POST", "/v1/datasets", "{\"path\":\"tmp\"}", 400, "tmp"},
    {"POST", "/v1/datasets", "{\"path\":\"/tmp\",\"options\":{\"targets\":[\"q\",\"q\"]}}", 400,
     "option 'targets' names 'q' twice"},
    {"POST", "/v1/gc", "{\"dry_run\":1}", 400, "'dry_run' must be true or false"},
    /* of two things that are wrong the first is told */
    {"POST", "/v1/gc", "{\"dry_run\":1,\"grace_seconds\":5}", 400, "'dry_run' must be"},
    {"POST", "/v1/datasets", "{\"watch\":5}", 400, "path"},
    {"POST", "/v1/datasets", "{\"path\":\"/tmp\",\"watch\":5,\"options\":[]}", 400, "'watch'"},
    {"POST", "/v1/datasets", "{\"path\":\"x\",\"options\":[],\"name\":\"a b\"}", 400, "options"},
    {"POST", "/v1/datasets", "{\"path\":\"x\",\"name\":\"a b\"}", 400, "a b"},
    {"POST", "/v1/bases", "{\"source\":\"x\",\"heads\":-1}", 400, "heads"},
    {"POST", "/v1/bases", "{\"license\":5,\"heads\":-1}", 400, "license"},
    {"POST", "/v1/bases", "{\"name\":5,\"license\":5}", 400, "'name'"},
    {"POST", "/v1/bases", "{\"heads\":-1,\"objective\":\"no\"}", 400, "heads"},
    {"POST", "/v1/bases", "{\"objective\":\"no\",\"source\":\"x\"}", 400, "'objective'"},
    {"POST", "/v1/samples", "{\"ref\":\"nope\",\"base\":\"none\"}", 404, "'nope'"},
    {"POST", "/v1/samples", "{\"ref\":\"nope\",\"class\":\"x\"}", 404, "'nope'"},
    {"PUT", "/v1/adapters/digits/aliases/prod", "{\"reason\":5}", 400, "version"},
    {"GET", "/v1/jobs?limit=0&dataset=nope", NULL, 400, "limit"},
    {"GET", "/v1/adapters?limit=0&since=x", NULL, 400, "limit"},
    {"GET", "/v1/adapters?dataset=nope&since=x", NULL, 404, "nope"},
    {"GET", "/v1/evaluations?dataset=nope&metric=none", NULL, 404, "nope"},
    {"GET", "/v1/evaluations?metric=none&adapter=nope", NULL, 400, "none"},
    {"GET", "/v1/events?since=x&type=nope", NULL, 400, "since"},
    {"GET", "/v1/jobs/x/log?offset=x", NULL, 400, "named by its number"},
    {"GET", "/v1/jobs/999/log?offset=x", NULL, 400, "offset"},
    {"GET", "/v1/jobs/999/events?since=x", NULL, 400, "since"},
    {"POST", "/v1/gc", "{\"grace_seconds\":59}", 400, "from 60 to 1e9"},
    {"POST", "/v1/gc", "{\"grace_seconds\":2e9}", 400, "from 60 to 1e9"},
    {"POST", "/v1/gc", "{\"grace_seconds\":\"60\"}", 400, "from 60 to 1e9"},
    {"POST", "/v1/gc", "{\"grace_seconds\":60}", 200, NULL},
    {"POST", "/v1/gc", "{\"dry_run\":true}", 200, NULL},
    {"POST", "/v1/gc", "", 200, NULL},
    {"POST", "/v1/samples", "{\"ref\":\"base\",\"n\":0}", 400, "'n' must be"},
    {"POST", "/v1/samples", "{\"ref\":\"base\",\"n\":1.5}", 400, "'n' must be a whole number"},
    {"POST", "/v1/samples", "{\"ref\":\"base\",\"sampler\":\"euler2\"}", 400, "sampler"},
    {"POST", "/v1/samples", "{\"ref\":\"base\",\"sampler\":\"ddim|ddpm\"}", 400,
     "'sampler' must be one of dpmpp2m|ddim|ddpm"},
    {"POST", "/v1/samples", "{\"ref\":\"base\",\"guidance\":\"2\"}", 400, "guidance"},
    {"POST", "/v1/samples", "{\"ref\":\"nope\"}", 404, "nope"},
    {"POST", "/v1/samples", "{\"ref\":7}", 400, "ref"},
    {"POST", "/v1/samples", "{\"ref\":\"" LONG "\"}", 400, "'ref' must be a text"},
    {"POST", "/v1/samples", "{\"n\":50001}", 400, "'n' must be"},
    {"POST", "/v1/samples", "{\"seed\":-1}", 400, "'seed' must be"},
    {"POST", "/v1/samples", "{\"sheet\":1}", 400, "'sheet' must be true or false"},
    {"POST", "/v1/samples", "{\"guidance_mode\":\"cf\"}", 400, "must be one of cfg|domain|none"},
    {"POST", "/v1/samples", "{\"base\":\"nope\"}", 404, "nope"},
    {"POST", "/v1/verify", "{\"base_task\":1}", 400, "'base_task' must be true or false"},
    {"POST", "/v1/verify", "{\"full\":\"yes\"}", 400, "'full' must be true or false"},
    {"POST", "/v1/verify", "{\"ref\":\"nope@v1\"}", 404, "nope"},
    {"PUT", "/v1/default-base", "{\"base\":\"nope\"}", 404, "nope"},
    {"PUT", "/v1/default-base", "{}", 400, "base"},
    {"PUT", "/v1/default-feature-net", "{\"feature_net\":\"nope\"}", 404, "nope"},
    {"POST", "/v1/bases", "{\"source\":\"x\"}", 400, "source"},
    {"POST", "/v1/bases", "{}", 400, "source"},
    {"POST", "/v1/bases", "{\"source\":\"/etc/passwd\",\"heads\":-1}", 400, "heads"},
    {"POST", "/v1/bases", "{\"source\":\"/etc/passwd\",\"license\":5}", 400, "license"},
    {"POST", "/v1/feature_nets", "{\"source\":\"/etc/passwd\",\"name\":\"a b\"}", 400, "name"},
};
enum { BODIES = sizeof bodies / sizeof *bodies };

START_TEST(bodies_are_checked) {
    for (int i = 0; i < BODIES; i++) {
        int status = 0;
        for (int k = 0; k < 100; k++, usleep(20000)) { /* one gc at a time */
            json_t *doc = rig_call(&r, bodies[i].method, bodies[i].path, bodies[i].body, &status);
            const char *detail = ds_json_string(doc, "detail", "");
            if (status == 503 && strstr(detail, "is under way; wait for it")) {
                json_decref(doc);
                continue;
            }
            ck_assert_msg(status == bodies[i].status, "%s %s: %d, not %d: %s", bodies[i].path,
                          bodies[i].body ? bodies[i].body : "", status, bodies[i].status, detail);
            ck_assert_msg(!bodies[i].words || strstr(detail, bodies[i].words),
                          "%s: '%s' has no '%s'", bodies[i].path, detail, bodies[i].words);
            json_decref(doc);
            break;
        }
    }
    counts("/v1/datasets", 2);
    counts("/v1/jobs?kind=import", 0);
    counts("/v1/jobs?kind=sample", 0);
}
END_TEST

START_TEST(a_full_body_is_sent_as_it_is) {
    static const char text[] = "{\"ref\":\"flags@v1\",\"n\":9,\"class\":\"all\",\"steps\":7,"
                               "\"guidance\":2.5,\"guidance_mode\":\"none\",\"sampler\":\"ddim\","
                               "\"seed\":11}";
    rig_fake(&r, "sample", "hang");
    json_t *job = rig_want(&r, 202, "POST", "/v1/samples", text), *spec = NULL;
    long long id = ds_json_int(job, "id", 0);
    json_decref(job);
    rig_wait_job(&r, "sample", NULL, "|running|", 10000);
    char path[500];
    json_t *s = rig_want(&r, 200, "GET", "/v1/status", NULL), *runs = json_object_get(s, "running");
    ck_assert_int_eq((int)json_array_size(runs), 1);
    ck_assert_int_eq(ds_json_int(json_array_get(runs, 0), "id", 0), id);
    json_decref(s);
    snprintf(path, sizeof path, "%s/jobs/%lld/spec.json", r.state, id);
    for (int i = 0; i < 500 && ds_json_read_file(path, 1 << 20, &spec, NULL); i++)
        usleep(20000); /* claimed first, written then */
    ck_assert_ptr_nonnull(spec);
    char *said = json_dumps(spec, JSON_SORT_KEYS | JSON_COMPACT);
    static const char *const parts[] = {"\"n\":9",
                                        "\"steps\":7",
                                        "\"guidance\":2.5",
                                        "\"guidance_mode\":\"none\"",
                                        "\"sampler\":\"ddim\"",
                                        "\"seed\":11",
                                        "\"all\""};
    for (int i = 0; i < 7; i++)
        ck_assert_msg(strstr(said, parts[i]) != NULL, "%s is not in %s", parts[i], said);
    free(said);
    json_decref(spec);
    snprintf(path, sizeof path, "/v1/jobs/%lld/cancel", id);
    answers("POST", path, NULL, NULL, 202);
    rig_wait_job(&r, "sample", NULL, "|cancelled|", 10000);
}
END_TEST

/* Two jobs run: each is shown with its own process, stage and progress, and as it is now rather than
 * as it was written down last. */
START_TEST(each_job_as_it_runs) {
    char path[500];
    int64_t ids[2];
    rig_fake(&r, "sample", "hang");
    rig_fake(&r, "train", "hang");
    json_decref(rig_want(&r, 202, "POST", "/v1/samples", "{\"base\":\"emoji\",\"n\":1}"));
    ids[0] = rig_wait_job(&r, "sample", NULL, "|running|", 10000);
    snprintf(path, sizeof path, "%s/x.png", photos);
    rig_write(path, "\x89PNG x");
    rig_wait_job(&r, "train", "digits", "|running|", 20000);
    char state[16];
    ids[1] = rig_job(&r, "train", "digits", state);
    pid_t pids[2];
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "/v1/jobs/%lld", (long long)ids[i]);
        json_t *job = NULL, *p = NULL;
        for (int k = 0; k < 500 && !json_is_object(p); k++, usleep(20000)) {
            json_decref(job);
            job = rig_want(&r, 200, "GET", path, NULL);
            p = json_object_get(job, "progress");
        }
        ck_assert_str_eq(ds_json_string(job, "stage", ""), i ? "train" : "sample");
        pids[i] = (pid_t)ds_json_int(job, "pid", 0);
        json_decref(job);
    }
    ck_assert(pids[0] > 0 && pids[1] > 0 && pids[0] != pids[1]);
    usleep(300000); /* it is written down at once, and then only when there is news */
    rig_sql(&r, "UPDATE jobs SET progress = '{\"done\":1}', stage = 'old' WHERE state = 'running'");
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "/v1/jobs/%lld", (long long)ids[i]);
        json_t *job = rig_want(&r, 200, "GET", path, NULL);
        ck_assert_int_eq(ds_json_int(json_object_get(job, "progress"), "done", 0), 10);
        ck_assert_str_eq(ds_json_string(job, "stage", ""), i ? "train" : "sample");
        json_decref(job);
        snprintf(path, sizeof path, "/v1/jobs/%lld/cancel", (long long)ids[i]);
        answers("POST", path, NULL, NULL, 202);
    }
    rig_wait_job(&r, "sample", NULL, "|cancelled|", 4000);
    rig_wait_job(&r, "train", "digits", "|cancelled|", 4000);
}
END_TEST

/* A client that was there before hears that the daemon stops. */
START_TEST(not_ready_while_it_stops) {
    static const char ask[] = "GET /readyz HTTP/1.1\r\nHost: d\r\n\r\n";
    char buf[2000];
    rig_fake(&r, "sample", "stubborn");
    json_decref(rig_want(&r, 202, "POST", "/v1/samples", "{\"n\":1}"));
    rig_worker_of(&r, rig_wait_job(&r, "sample", NULL, "|running|", 10000)); /* it is deaf */
    int fd = rig_connect(&r);
    for (int i = 0, stops = 0; i < 500 && !stops; i++, usleep(20000)) {
        ck_assert_int_eq(send(fd, ask, sizeof ask - 1, MSG_NOSIGNAL), (ssize_t)sizeof ask - 1);
        ssize_t n = recv(fd, buf, sizeof buf - 1, 0);
        buf[n > 0 ? n : 0] = 0;
        stops = i && strncmp(buf, "HTTP/1.1 503", 12) == 0;
        ck_assert_msg(stops || strncmp(buf, "HTTP/1.1 200", 12) == 0, "%s", buf);
        ck_assert_msg(!stops || strstr(buf, "the daemon is stopping"), "%s", buf);
        ck_assert_msg(stops || i < 499, "it stays ready");
        if (!i)
            kill(r.pid, SIGTERM);
    }
    close(fd);
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0); /* the second time: at once */
}
END_TEST

/* A rehearsal removes nothing, and says that it is one. */
START_TEST(gc_can_be_rehearsed) {
    char orphan[400];
    struct timespec old[2] = {{1000000000, 0}, {1000000000, 0}};
    snprintf(orphan, sizeof orphan, "%s/bases/orphan.safetensors", r.state);
    rig_write(orphan, "x");
    ck_assert_int_eq(utimensat(AT_FDCWD, orphan, old, 0), 0);
    for (int dry = 1; dry >= 0; dry--) {
        json_t *doc = rig_want(&r, 200, "POST", "/v1/gc",
                               dry ? "{\"dry_run\":true,\"grace_seconds\":60}"
                                   : "{\"dry_run\":false,\"grace_seconds\":60.5}");
        ck_assert_int_eq(ds_json_bool(doc, "dry_run", -1), dry);
        ck_assert(ds_json_number(doc, "grace_seconds", 0) == (dry ? 60 : 60.5));
        json_t *models = json_object_get(doc, "models");
        ck_assert(ds_json_int(models, "removed", 0) == 1 && ds_json_int(models, "bytes", 0) == 1);
        ck_assert_int_eq(ds_fs_exists(orphan), dry);
        json_decref(doc);
    }
    /* a row that cannot be marked: said, and nothing is removed */
    rig_write(orphan, "x");
    ck_assert_int_eq(utimensat(AT_FDCWD, orphan, old, 0), 0);
    rig_sql(&r, "INSERT INTO blobs(digest, raw_bytes, stored_bytes, stored_sha256, media_type,"
                " created_at) VALUES (replace(hex(zeroblob(32)), '0', 'a'), 1, 1,"
                " replace(hex(zeroblob(32)), '0', 'a'), 'x', 1);"
                "CREATE TRIGGER no BEFORE UPDATE OF state ON blobs BEGIN SELECT RAISE(ABORT, 'not"
                " now'); END");
    rig_says(&r, 409, "POST", "/v1/gc", "{}", "not now");
    ck_assert(ds_fs_exists(orphan));
    rig_sql(&r, "DROP TRIGGER no");
    json_decref(rig_want(&r, 200, "POST", "/v1/gc", "{}"));
    ck_assert(!ds_fs_exists(orphan));
}
END_TEST

/* A row that cannot be written is an answer, never "done". */
START_TEST(changes_that_are_refused) {
    static const struct {
        const char *when, *method, *path, *body;
    } cases[] = {
        {"UPDATE ON meta", "PUT", "/v1/default-base", "{\"base\":\"emoji\"}"},
        {"INSERT ON meta", "PUT", "/v1/default-base", "{\"base\":\"emoji\"}"},
        {"INSERT ON jobs", "POST", "/v1/samples", "{\"n\":1}"},
        {"INSERT ON jobs", "POST", "/v1/verify", "{}"},
        {"INSERT ON aliases", "PUT", "/v1/adapters/digits/aliases/prod", "{\"version\":1}"},
        {"DELETE ON aliases", "DELETE", "/v1/adapters/flags?force=1", NULL},
        {"UPDATE ON datasets", "POST", "/v1/datasets/digits/rescan", NULL},
        {"UPDATE ON datasets", "DELETE", "/v1/datasets/digits", NULL},
        {"INSERT ON events", "POST", "/v1/datasets/digits/pause", NULL},
    };
    int refused = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char sql[200];
        int status;
        snprintf(sql, sizeof sql,
                 "CREATE TRIGGER no BEFORE %s BEGIN SELECT RAISE(ABORT, 'not now'); END",
                 cases[i].when);
        rig_sql(&r, sql);
        json_t *doc = rig_call(&r, cases[i].method, cases[i].path, cases[i].body, &status);
        rig_sql(&r, "DROP TRIGGER no");
        int is = status == 409 && strstr(ds_json_string(doc, "detail", ""), "not now");
        ck_assert_msg(is || i < 2, "%s %s: %d", cases[i].method, cases[i].path, status);
        refused += is; /* of the first two one, as the row is there or not */
        json_decref(doc);
    }
    ck_assert_int_ge(refused, (int)(sizeof cases / sizeof *cases) - 1);
    counts("/v1/datasets", 2);
    counts("/v1/adapters", 3);
}
END_TEST

/* What is null is not said; what adding a folder again changes is told. */
START_TEST(adding_again) {
    char body[700];
    snprintf(body, sizeof body,
             "{\"path\":\"%s\",\"name\":null,\"method\":null,\"base\":null,\"feature_net\":null,"
             "\"watch\":null,\"publish_worse\":null,\"options\":null}",
             photos);
    json_t *doc = rig_want(&r, 200, "POST", "/v1/datasets", body);
    ck_assert_str_eq(ds_json_string(doc, "name", ""), "digits");
    ck_assert_int_eq((int)json_array_size(json_object_get(doc, "changes")), 0);
    json_decref(doc);
    snprintf(body, sizeof body, "{\"path\":\"%s\",\"base\":\"emoji\"}", photos);
    doc = rig_want(&r, 200, "POST", "/v1/datasets", body);
    json_t *list = json_object_get(doc, "changes");
    ck_assert_int_eq((int)json_array_size(list), 1);
    ck_assert_str_eq(ds_json_string(json_array_get(list, 0), "option", ""), "base");
    json_decref(doc);
    char other[400];
    rig_images(&r, "other", 2, other);
    snprintf(body, sizeof body, "{\"path\":\"%s\",\"name\":\"digits\"}", other);
    rig_says(&r, 409, "POST", "/v1/datasets", body, "is already");
    snprintf(body, sizeof body, "{\"path\":\"%s\",\"base\":\"emoji\",\"feature_net\":\"nope\"}",
             other);
    rig_says(&r, 404, "POST", "/v1/datasets", body, "nope");
    snprintf(body, sizeof body,
             "{\"path\":\"%s\",\"name\":\"base\",\"base\":\"emoji\",\"feature_net\":\"net\"}",
             other);
    rig_says(&r, 400, "POST", "/v1/datasets", body, "choose another name");
}
END_TEST

/* ---------------------------------------------------------------- events */

static int lines(const char *path, const char *words) {
    int status, n = 0;
    char *text = rig_text(&r, "GET", path, NULL, NULL, &status);
    ck_assert_int_eq(status, 200);
    for (char *p = text; (p = strstr(p, words)); p++)
        n++;
    free(text);
    return n;
}

START_TEST(events_by_number_and_type) {
    char path[100];
    ck_assert_int_eq(lines("/v1/events?type=adapter.published", "\"adapter.published\""), 2);
    ck_assert_int_eq(lines("/v1/events?type=adapter.published", "\"seq\""), 2);
    ck_assert_int_eq(lines("/v1/events?type=adapter.rejected", "\"seq\""), 1);
    int all = lines("/v1/events", "\"seq\""), jobs = lines("/v1/events?type=job.", "\"seq\"");
    ck_assert(jobs > 5 && jobs < all);
    snprintf(path, sizeof path, "/v1/events?since=%d", all - 2);
    ck_assert_int_eq(lines(path, "\"seq\""), 2);
    snprintf(path, sizeof path, "/v1/events?since=%d", all);
    ck_assert_int_eq(lines(path, "\"seq\""), 0);
    char head[60], *text;
    snprintf(head, sizeof head, "Accept: text/event-stream\r\nLast-Event-ID: %d\r\n", all - 1);
    text = answer("GET", "/v1/events", head, NULL, 200);
    ck_assert(strstr(header(text, "Content-Type"), "text/event-stream") != NULL);
    char *data = strstr(text, "data: ");
    ck_assert(data && !strstr(data + 6, "data: "));
    free(text);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, what_is_known_is_not_sent_again);
    tcase_add_test(tc, aliases_are_set_on_condition);
    tcase_add_test(tc, filters_leave_out_the_rest);
    tcase_add_test(tc, files_and_logs_of_a_job);
    tcase_add_test(tc, bodies_are_checked);
    tcase_add_test(tc, a_full_body_is_sent_as_it_is);
    tcase_add_test(tc, each_job_as_it_runs);
    tcase_add_test(tc, not_ready_while_it_stops);
    tcase_add_test(tc, gc_can_be_rehearsed);
    tcase_add_test(tc, changes_that_are_refused);
    tcase_add_test(tc, adding_again);
    tcase_add_test(tc, events_by_number_and_type);
}

int main(int argc, char **argv) {
    rig_main(argc, argv);
    return ds_test_main("daemon_api", cases);
}
