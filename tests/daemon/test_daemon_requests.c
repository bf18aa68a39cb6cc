/* tests/daemon/test_daemon_requests.c - what a request says is known, or it is refused by name: parameters,
 * members, names, and filters that would otherwise mean "nothing" or "all". */
#include "tests/fixtures/daemon_rig.h"

#include "daemon/api/api.h"
#include "daemon/http/query.h"
#include "registry/core/events.h"

extern const ds_route ds_routes[];
extern const size_t ds_route_count;

static rig r;

static void setup(void) {
    static int n;
    char name[32];
    snprintf(name, sizeof name, "req%d-%d", (int)getpid(), n++);
    rig_open(&r, name);
    rig_start(&r, NULL);
}

static void teardown(void) {
    if (r.pid)
        ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
}

static void refused(int want, const char *method, const char *path, const char *body,
                    const char *words) {
    rig_says(&r, want, method, path, body, words);
}

/* "/v1/jobs/{}/log" -> "/v1/jobs/1/log" */
static void path_of(const ds_route *route, char out[200]) {
    size_t n = 0;
    for (const char *p = route->pattern; *p && n < 190; p++)
        if (p[0] == '{')
            out[n++] = '1', p++;
        else
            out[n++] = *p;
    out[n] = 0;
}

START_TEST(every_route_knows_its_words) {
    char path[200], url[300], word[40], words[120];
    for (size_t i = 0; i < ds_route_count; i++) {
        const ds_route *t = &ds_routes[i];
        path_of(t, path);
        snprintf(url, sizeof url, "%s?nonsense=1", path);
        refused(400, t->method, url, NULL, "query parameter 'nonsense' is not known here");
        for (const char *p = t->query; p && *p;) {
            size_t m = strcspn(p, "|"), flag = p[m - 1] == '?';
            snprintf(word, sizeof word, "%.*s", (int)(m - flag), p);
            snprintf(url, sizeof url, "%s?nonsense=1", path);
            refused(400, t->method, url, NULL, word); /* the message lists it */
            snprintf(url, sizeof url, "%s?%s=1&%s=1", path, word, word);
            snprintf(words, sizeof words, "'%s' is given twice", word);
            refused(400, t->method, url, NULL, words);
            snprintf(url, sizeof url, "%s?%s=%s", path, word, flag ? "maybe" : "");
            snprintf(words, sizeof words, "query parameter '%s' %s", word,
                     flag ? "is 'maybe', must be 1 or 0" : "has no value");
            refused(400, t->method, url, NULL, words);
            snprintf(url, sizeof url, "%s?%.*s=1", path, (int)strlen(word) - 1, word); /* cut */
            refused(400, t->method, url, NULL, "is not known here");
            snprintf(url, sizeof url, "%s?%sx=1", path, word);
            refused(400, t->method, url, NULL, "is not known here");
            p += m + (p[m] == '|');
        }
        if (!strcmp(t->method, "GET")) {
            refused(400, t->method, path, "{\"a\":1}", "takes no body");
            continue;
        }
        refused(400, t->method, path, "{\"nonsense\":1}", "member 'nonsense' is not known here");
        refused(400, t->method, path, "[]", "must be a JSON object");
        for (const char *p = t->body; p && *p; p += strcspn(p, "|") + (p[strcspn(p, "|")] == '|')) {
            snprintf(word, sizeof word, "%.*s", (int)strcspn(p, "|"), p);
            refused(400, t->method, path, "{\"nonsense\":1}", word);
            snprintf(url, sizeof url, "{\"%s\":1,\"%s\":1}", word, word);
            refused(400, t->method, path, url, "duplicate");
        }
    }
    refused(400, "GET", "/v1/adapters?datset=x", NULL, "did you mean 'dataset'?");
    refused(400, "POST", "/v1/samples", "{\"sed\":1}", "did you mean 'seed'?");
}
END_TEST

START_TEST(urls_that_cannot_be_read) {
    char dir[400];
    rig_images(&r, "digits", 3, dir);
    rig_add(&r, "digits", dir, 201);
    refused(400, "GET", "/v1/datasets/digits%00junk", NULL, "zero byte");
    refused(400, "DELETE", "/v1/datasets/digits%00junk", NULL, "zero byte");
    refused(400, "GET", "/v1/jobs?dataset=digits%00junk", NULL, "zero byte");
    refused(400, "GET", "/v1/jobs?data%00set=digits", NULL, "zero byte");
    refused(400, "GET", "/v1/datasets/digits%zz", NULL, "two hex digits");
    refused(400, "GET", "/v1/datasets/digits%2", NULL, "two hex digits");
    json_decref(rig_want(&r, 200, "GET", "/v1/datasets/d%69gits", NULL));
    static const char lengths[] =
        "POST /v1/gc HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\nContent-Length: 20\r\n"
        "Connection: close\r\n\r\n{}";
    char *text = rig_exchange(rig_connect(&r), lengths, sizeof lengths - 1, 0);
    ck_assert_msg(!strncmp(text, "HTTP/1.1 400", 12), "%s", text);
    free(text);
}
END_TEST

START_TEST(numbers) {
    static const char *const bad[] = {"limit=abc",  "limit=0",   "limit=-1",
                                      "limit=1001", "limit=1e2", "limit=%201",
                                      "limit=+1",   "limit=1x",  "limit=99999999999999999999"};
    char path[100];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(path, sizeof path, "/v1/jobs?%s", bad[i]);
        refused(400, "GET", path, NULL, "must be a number from 1 to 1000");
    }
    refused(400, "GET", "/v1/events?since=yesterday", NULL, "'since'");
    refused(400, "GET", "/v1/events?since=-1", NULL, "'since'");
    refused(400, "GET", "/v1/adapters?since=yesterday", NULL, "give a time");
    refused(400, "GET", "/v1/adapters?since=2026-13-01", NULL, "give a time");
    static const char *const fd[] = {"nan", "inf", "-1", "x", "1x", "1e999"};
    for (size_t i = 0; i < sizeof fd / sizeof *fd; i++) {
        snprintf(path, sizeof path, "/v1/adapters?max_fd=%s", fd[i]);
        refused(400, "GET", path, NULL, "'max_fd'");
    }
    static const char *const lists[] = {"adapters",     "jobs",    "bases",
                                        "feature_nets", "aliases", "evaluations"};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        snprintf(path, sizeof path, "/v1/%s?cursor=x", lists[i]);
        refused(400, "GET", path, NULL, "cursor");
    }
    refused(400, "GET", "/v1/datasets/x/rejected?cursor=x", NULL, "cursor");
    refused(400, "GET", "/v1/jobs/+1", NULL, "named by its number");
    int status;
    free(rig_text(&r, "GET", "/v1/events", "Last-Event-ID: x\r\n", NULL, &status));
    ck_assert_int_eq(status, 400);
}
END_TEST

START_TEST(filters_name_what_exists) {
    char dir[400];
    rig_images(&r, "digits", 3, dir);
    rig_add(&r, "digits", dir, 201);
    rig_wait_adapter(&r, "digits", 1, 20000);
    static const char *const lists[] = {"/v1/adapters", "/v1/jobs", "/v1/evaluations"};
    char path[200];
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s?dataset=digit", lists[i]);
        refused(404, "GET", path, NULL, "did you mean 'digits'?");
        snprintf(path, sizeof path, "%s?dataset=digits", lists[i]);
        json_decref(rig_want(&r, 200, "GET", path, NULL));
    }
    refused(404, "GET", "/v1/datasets/digit", NULL, "did you mean 'digits'?");
    refused(404, "GET", "/v1/evaluations?adapter=digit", NULL, "digit");
    refused(400, "GET", "/v1/evaluations?metric=fid", NULL, "there are fd, kid");
    json_decref(rig_want(&r, 200, "GET", "/v1/evaluations?metric=kid", NULL));
    refused(400, "GET", "/v1/adapters?status=good", NULL, "published or rejected");
    refused(400, "GET", "/v1/jobs?state=runing", NULL, "queued, running");
    refused(400, "GET", "/v1/jobs?kind=training", NULL, "scan, train");
    refused(400, "GET", "/v1/events?type=typo", NULL, "'typo'");
    refused(400, "GET", "/v1/events?type=adapter.publishd", NULL, "'adapter.published'?");
    refused(400, "GET", "/v1/events?type=jobs.", NULL, "'jobs.'");
    refused(
        400, "GET",
        "/v1/events?type=a.very.long.name.of.a.type.of.events.that.nobody.can.have.given.ever.x",
        NULL, "event type is too long");
    int64_t id = rig_wait_job(&r, "train", "digits", "|done|", 5000);
    snprintf(path, sizeof path, "/v1/jobs/%lld/metrics?key=nothing", (long long)id);
    refused(404, "GET", path, NULL, "no metric 'nothing'");
    /* a removed dataset still has a history; what another program wrote is found */
    json_decref(rig_want(&r, 200, "DELETE", "/v1/datasets/digits", NULL));
    json_decref(rig_want(&r, 200, "GET", "/v1/jobs?dataset=digits", NULL));
    rig_sql(&r, "INSERT INTO events(at, type, subject, payload) VALUES (1, 'my.own', 'x', '{}')");
    int status;
    free(rig_text(&r, "GET", "/v1/events?type=my.own", NULL, NULL, &status));
    ck_assert_int_eq(status, 200);
}
END_TEST

/* Every type that some source file names is in the list, so that no filter refuses it. */
START_TEST(every_event_type_is_listed) {
    char file[400], command[700];
    snprintf(file, sizeof file, "%s/types", r.dir);
    /* gate.x are places in a result */
    snprintf(
        command, sizeof command,
        "grep -ohE \"[\\\"'](dataset|job|adapter|alias|base|feature_net|daemon)\\.[a-z_]+"
        "[\\\"']\" registry/*/*.c daemon/*/*.c migrations/*.sql | tr -d \"\\\"'\" | sort -u >'%s'",
        file);
    ck_assert_int_eq(system(command), 0);
    FILE *f = fopen(file, "re");
    char line[100];
    int n = 0;
    ck_assert_ptr_nonnull(f);
    for (; fgets(line, sizeof line, f); n++) {
        int known = 0;
        line[strcspn(line, "\n")] = 0;
        for (size_t i = 0; ds_event_types[i]; i++)
            known |= !strcmp(ds_event_types[i], line);
        ck_assert_msg(known, "'%s' is not in ds_event_types", line);
    }
    fclose(f);
    ck_assert_msg(n > 20, "only %d types found: run this in the project's folder", n);
}
END_TEST

START_TEST(rejected_files_in_pages) {
    char dir[400];
    rig_images(&r, "digits", 3, dir);
    rig_add(&r, "digits", dir, 201);
    rig_wait_job(&r, "scan", "digits", "|done|", 20000);
    rig_sql(&r, "UPDATE dataset_versions SET rejected_count = 3, rejected = '[{\"path\":\"a\","
                "\"reason\":\"x\"},{\"path\":\"b\",\"reason\":\"x\"},"
                "{\"path\":\"c\",\"reason\":\"x\"}]'");
    json_t *all = rig_want(&r, 200, "GET", "/v1/datasets/digits/rejected", NULL),
           *a = rig_want(&r, 200, "GET", "/v1/datasets/digits/rejected?limit=2", NULL),
           *b = rig_want(&r, 200, "GET", "/v1/datasets/digits/rejected?limit=2&cursor=2", NULL);
    ck_assert_uint_eq(json_array_size(json_object_get(all, "items")), 3);
    ck_assert_uint_eq(json_array_size(json_object_get(a, "items")), 2);
    ck_assert_str_eq(ds_json_string(a, "next", ""), "2");
    ck_assert_uint_eq(json_array_size(json_object_get(b, "items")), 1);
    ck_assert(json_is_null(json_object_get(b, "next")));
    json_decref(all), json_decref(a), json_decref(b);
    a = rig_want(&r, 200, "GET", "/v1/datasets/digits/rejected?limit=3", NULL);
    ck_assert_uint_eq(json_array_size(json_object_get(a, "items")), 3);
    ck_assert(json_is_null(json_object_get(a, "next")));
    b = rig_want(&r, 200, "GET", "/v1/datasets/digits/rejected?limit=1&cursor=7", NULL);
    ck_assert_uint_eq(json_array_size(json_object_get(b, "items")), 0);
    ck_assert(json_is_null(json_object_get(b, "next")));
    json_decref(a), json_decref(b);
}
END_TEST

/* ---- names and places of datasets ---- */

/* A folder of images with this name in the rig; its path and a body that adds it. */
static void folder(const char *name, char body[900]) {
    char dir[400];
    rig_images(&r, name, 3, dir);
    snprintf(body, 900, "{\"path\":\"%s\"}", dir);
}

/* What the job of this number was given to do. */
static void expect_payload(int64_t id, const char *want) {
    char path[400];
    sqlite3 *db;
    sqlite3_stmt *q;
    snprintf(path, sizeof path, "%s/registry.db", r.state);
    ck_assert_int_eq(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    ck_assert_int_eq(sqlite3_prepare_v2(db, "SELECT payload FROM jobs WHERE id = ?1", -1, &q, NULL),
                     SQLITE_OK);
    sqlite3_bind_int64(q, 1, id);
    ck_assert_int_eq(sqlite3_step(q), SQLITE_ROW);
    const char *is = (const char *)sqlite3_column_text(q, 0);
    json_t *a = json_loads(is, 0, NULL), *b = json_loads(want, 0, NULL);
    ck_assert_msg(b && json_equal(a, b), "is %s\nwant %s", is, want);
    json_decref(a), json_decref(b);
    sqlite3_finalize(q);
    sqlite3_close(db);
}

START_TEST(reserved_names) {
    static const char *const names[] = {"base", "latest", "default", "v1", "V12", "Base"};
    char body[900], named[1100], dir[400];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        folder(names[i], body);
        refused(400, "POST", "/v1/datasets", body, "give it a name with --name");
        rig_images(&r, "plain", 3, dir);
        snprintf(named, sizeof named, "{\"path\":\"%s\",\"name\":\"%s\"}", dir, names[i]);
        refused(400, "POST", "/v1/datasets", named, "choose another name");
    }
    static const char *const fine[] = {"v", "v1x", "bases", "vv2"};
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) {
        folder(fine[i], body);
        json_decref(rig_want(&r, 201, "POST", "/v1/datasets", body));
    }
    /* models: what the words of --base and --feature-net mean */
    snprintf(dir, sizeof dir, "%s/default.pt", r.dir);
    rig_write(dir, "weights");
    snprintf(body, sizeof body, "{\"source\":\"%s\"}", dir);
    refused(400, "POST", "/v1/bases", body, "give it a name with --name");
    refused(400, "POST", "/v1/feature_nets", body, "'default', as its file is: ");
    refused(400, "POST", "/v1/feature_nets", body, "give it a name with --name");
    snprintf(body, sizeof body, "{\"source\":\"%s\",\"name\":\"bundled\"}", dir);
    refused(400, "POST", "/v1/feature_nets", body, "the network of the base");
    refused(400, "POST", "/v1/feature_nets", body, "choose another name");
    snprintf(body, sizeof body, "{\"source\":\"%s\",\"name\":\"default\"}", dir);
    refused(400, "POST", "/v1/bases", body, "a base cannot be called 'default': ");
    refused(400, "POST", "/v1/bases", body, "choose another name");
    snprintf(body, sizeof body, "{\"source\":\"%s\",\"name\":\"\"}", dir);
    refused(400, "POST", "/v1/bases", body, "name is empty");
    snprintf(body, sizeof body, "{\"source\":\"%s\",\"name\":\"x\",\"heads\":129}", dir);
    refused(400, "POST", "/v1/bases", body, "from 1 to 128");
}
END_TEST

/* What has such a name since before goes on, is added again, and is told. */
START_TEST(reserved_names_of_old) {
    char body[900], dir[400], sql[700];
    rig_images(&r, "base", 3, dir);
    snprintf(sql, sizeof sql, "INSERT INTO datasets(name, source_path) VALUES ('base', '%s')", dir);
    rig_sql(&r, sql);
    rig_wait_adapter(&r, "base", 1, 20000);
    snprintf(body, sizeof body, "{\"path\":\"%s\"}", dir);
    json_t *d = rig_want(&r, 200, "POST", "/v1/datasets", body);
    const char *note = json_string_value(json_array_get(json_object_get(d, "notes"), 0));
    ck_assert_msg(note && strstr(note, "write base@latest"), "%s", note ? note : "no note");
    json_decref(d);
    d = rig_want(&r, 200, "GET", "/v1/datasets", NULL);
    const json_t *first = json_array_get(json_object_get(d, "items"), 0);
    ck_assert_int_ge((int)json_array_size(json_object_get(first, "notes")), 1);
    json_decref(d);
    json_decref(rig_want(&r, 202, "POST", "/v1/samples", "{\"ref\":\"base@latest\",\"n\":1}"));
}
END_TEST

START_TEST(names_made_from_paths) {
    char body[900], name[2][80];
    static const char *const folders[] = {"\xe6\x97\xa5\xe6\x9c\xac", "\xe4\xb8\xad\xe5\x9b\xbd"};
    for (int i = 0; i < 2; i++) {
        folder(folders[i], body);
        json_t *d = rig_want(&r, 201, "POST", "/v1/datasets", body);
        snprintf(name[i], sizeof name[i], "%s", ds_json_string(d, "name", ""));
        ck_assert_msg(!strncmp(name[i], "dataset-", 8) && strlen(name[i]) == 16, "%s", name[i]);
        const char *note = json_string_value(json_array_get(json_object_get(d, "notes"), 0));
        ck_assert_msg(note && strstr(note, folders[i]) && strstr(note, "--name"), "%s",
                      note ? note : "no note");
        json_decref(d);
        d = rig_want(&r, 200, "POST", "/v1/datasets", body); /* again: the same dataset */
        ck_assert_str_eq(ds_json_string(d, "name", ""), name[i]);
        json_decref(d);
    }
    ck_assert_str_ne(name[0], name[1]);
}
END_TEST

START_TEST(places_of_datasets) {
    char body[900], real[PATH_MAX];
    refused(400, "POST", "/v1/datasets", "{\"path\":\"/\"}", "whole file system");
    refused(400, "POST", "/v1/datasets", "{\"path\":\"/../\"}", "whole file system");
    snprintf(body, sizeof body, "%s/one.png", r.dir);
    rig_write(body, "\x89PNG");
    snprintf(body, sizeof body, "{\"path\":\"%s\"}", r.dir); /* holds the state folder */
    refused(400, "POST", "/v1/datasets", body, "holds the state folder");
    snprintf(body, sizeof body, "%s/cache/one.png", r.state);
    rig_write(body, "\x89PNG");
    snprintf(body, sizeof body, "{\"path\":\"%s/cache\"}", r.state);
    refused(400, "POST", "/v1/datasets", body, "lies in the state folder");
    snprintf(body, sizeof body, "{\"path\":\"%s/cache/../jobs/../cache\"}", r.state);
    refused(400, "POST", "/v1/datasets", body, "lies in the state folder");
    /* a row of another program: the scan fails, and nothing of it is watched */
    ck_assert_ptr_nonnull(realpath(r.dir, real));
    snprintf(body, sizeof body, "INSERT INTO datasets(name, source_path) VALUES ('self', '%.700s')",
             real);
    rig_sql(&r, body);
    rig_wait_job(&r, "scan", "self", "|failed|", 10000);
    json_t *status = rig_want(&r, 200, "GET", "/v1/status", NULL);
    ck_assert_int_eq(ds_json_int(json_object_get(status, "watch"), "directories", -1), 0);
    json_decref(status);
    json_t *jobs = rig_want(&r, 200, "GET", "/v1/jobs?dataset=self", NULL);
    ck_assert_uint_eq(json_array_size(json_object_get(jobs, "items")), 1);
    json_decref(jobs);
    /* a folder whose name only begins like it is another one */
    char dir[400];
    rig_images(&r, "state-of-art", 2, dir);
    snprintf(body, sizeof body, "{\"path\":\"%s\"}", dir);
    json_decref(rig_want(&r, 201, "POST", "/v1/datasets", body));
}
END_TEST

START_TEST(adding_again_tells_changes) {
    char body[900], dir[400];
    rig_images(&r, "digits", 5, dir);
    snprintf(body, sizeof body, "{\"path\":\"%s\",\"options\":{\"rank\":8}}", dir);
    json_t *d = rig_want(&r, 201, "POST", "/v1/datasets", body), *c;
    ck_assert_uint_eq(json_array_size(json_object_get(d, "changes")), 0);
    json_decref(d);
    rig_wait_adapter(&r, "digits", 1, 20000);
    d = rig_want(&r, 200, "POST", "/v1/datasets", body);
    ck_assert_uint_eq(json_array_size(json_object_get(d, "changes")), 0);
    ck_assert(json_is_null(json_object_get(d, "trained_anew")));
    json_decref(d);
    snprintf(body, sizeof body, "{\"path\":\"%s\",\"options\":{\"rank\":4},\"watch\":false}", dir);
    d = rig_want(&r, 200, "POST", "/v1/datasets", body);
    ck_assert_uint_eq(json_array_size(json_object_get(d, "changes")), 2);
    c = json_array_get(json_object_get(d, "changes"), 0);
    ck_assert_str_eq(ds_json_string(c, "option", ""), "rank");
    ck_assert_int_eq(ds_json_int(c, "from", 0), 8);
    ck_assert_int_eq(ds_json_int(c, "to", 0), 4);
    c = json_array_get(json_object_get(d, "changes"), 1);
    ck_assert_str_eq(ds_json_string(c, "option", ""), "watch");
    ck_assert_str_eq(ds_json_string(d, "trained_anew", ""), "digits@v2");
    json_decref(d);
    rig_wait_adapter(&r, "digits", 2, 20000);
    snprintf(body, sizeof body,
             "{\"path\":\"%s\",\"method\":\"embedding\",\"options\":{\"rank\":4,\"n\":8}}", dir);
    d = rig_want(&r, 200, "POST", "/v1/datasets", body);
    char *notes = json_dumps(json_object_get(d, "notes"), 0);
    ck_assert_msg(strstr(notes, "rank has no effect with method embedding") != NULL, "%s", notes);
    ck_assert_msg(strstr(notes, "with n = 8 samples FD has no interval") != NULL, "%s", notes);
    free(notes);
    json_decref(d);
}
END_TEST

/* A sampler that the base cannot use is refused when it is asked for, long before it would be used;
 * an option that it does not use is told. */
START_TEST(samplers_fit_the_base) {
    char body[900], dir[400];
    rig_images(&r, "digits", 5, dir);
    refused(400, "POST", "/v1/samples", "{\"sampler\":\"euler\"}",
            "the sampler euler is not for a base that predicts noise: use dpmpp2m, ddim or ddpm");
    snprintf(body, sizeof body, "{\"path\":\"%s\",\"options\":{\"sampler\":\"heun\"}}", dir);
    refused(400, "POST", "/v1/datasets", body, "the sampler heun is not for a base that predicts");
    refused(404, "GET", "/v1/datasets/digits", NULL, "digits");
    rig_sql(&r, "UPDATE bases SET config = '{\"classes\":3,\"flow\":\"linear\"}'");
    json_t *b = rig_want(&r, 200, "GET", "/v1/default-base", NULL);
    ck_assert_str_eq(ds_json_string(b, "predicts", ""), "velocity");
    ck_assert_str_eq(ds_json_string(b, "flow", ""), "linear");
    json_decref(b);
    refused(400, "POST", "/v1/samples", "{\"sampler\":\"ddim\"}",
            "the sampler ddim is not for a base that predicts a velocity: use dpmpp2m, euler, heun "
            "or sde");
    json_decref(rig_want(&r, 202, "POST", "/v1/samples", "{\"sampler\":\"euler\"}"));
    json_decref(rig_want(&r, 202, "POST", "/v1/samples", "{}"));
    snprintf(body, sizeof body,
             "{\"path\":\"%s\",\"base\":\"emoji\",\"options\":{\"sampler\":\"ddpm\"}}", dir);
    refused(400, "POST", "/v1/datasets", body,
            "the sampler ddpm is not for a base that predicts a");
    snprintf(body, sizeof body,
             "{\"path\":\"%s\",\"options\":{\"sampler\":\"sde\",\"vb_weight\":2}}", dir);
    json_t *d = rig_want(&r, 201, "POST", "/v1/datasets", body);
    char *notes = json_dumps(json_object_get(d, "notes"), 0);
    ck_assert_msg(strstr(notes, "vb_weight is not used by a base that predicts a velocity") != NULL,
                  "%s", notes);
    free(notes);
    json_decref(d);
    /* options that stay are asked for too */
    rig_sql(&r, "UPDATE bases SET config = '{\"classes\":3}'");
    snprintf(body, sizeof body, "{\"path\":\"%s\"}", dir);
    refused(400, "POST", "/v1/datasets", body, "the sampler sde is not for a base that predicts");
    /* but not those of one that was removed */
    json_decref(rig_want(&r, 200, "DELETE", "/v1/datasets/digits", NULL));
    json_decref(rig_want(&r, 201, "POST", "/v1/datasets", body));
}
END_TEST

/* Nobody knows yet what the base will predict. */
START_TEST(any_sampler_before_a_base) {
    static const char *const samplers[] = {"euler", "ddim"};
    char body[900], dir[400];
    rig_images(&r, "digits", 5, dir);
    rig_sql(&r, "DELETE FROM meta WHERE key = 'active_base'");
    for (int i = 0; i < 2; i++) {
        snprintf(body, sizeof body, "{\"path\":\"%s\",\"options\":{\"sampler\":\"%s\"}}", dir,
                 samplers[i]);
        json_decref(rig_want(&r, i ? 200 : 201, "POST", "/v1/datasets", body));
    }
}
END_TEST

START_TEST(few_images_are_told) {
    char body[900], dir[400];
    rig_images(&r, "three", 3, dir);
    snprintf(body, sizeof body, "{\"path\":\"%s\"}", dir);
    json_decref(rig_want(&r, 201, "POST", "/v1/datasets", body));
    rig_wait_job(&r, "scan", "three", "|done|", 10000);
    json_t *d = rig_want(&r, 200, "GET", "/v1/datasets/three", NULL);
    const char *note = json_string_value(json_array_get(json_object_get(d, "notes"), 0));
    ck_assert_msg(note && strstr(note, "3 images are too few for KID"), "%s", note ? note : "none");
    json_decref(d);
}
END_TEST

START_TEST(classes_of_samples) {
    char dir[400];
    rig_images(&r, "digits", 5, dir);
    rig_add(&r, "digits", dir, 201);
    rig_wait_adapter(&r, "digits", 1, 20000);
    json_t *a = rig_want(&r, 200, "GET", "/v1/adapters/digits", NULL);
    const json_t *k = json_array_get(json_object_get(a, "class_map"), 0);
    ck_assert_str_eq(ds_json_string(k, "name", ""), "all");
    json_decref(a);
    refused(400, "POST", "/v1/samples", "{\"ref\":\"digits\",\"class\":\"al\"}",
            "adapter 'digits@v1' has no class 'al': it has all; did you mean 'all'?");
    json_decref(rig_want(&r, 202, "POST", "/v1/samples", "{\"ref\":\"digits\",\"class\":\"all\"}"));
    rig_sql(&r, "DROP TRIGGER dataset_versions_fixed; UPDATE dataset_versions SET classes = "
                "'[{\"name\":\"a\"},{\"name\":\"b\"},"
                "{\"name\":\"c\"},{\"name\":\"d\"},{\"name\":\"e\"},{\"name\":\"f\"},"
                "{\"name\":\"g\"},{\"name\":\"h\"},{\"name\":\"i\"},{\"name\":\"j\"}]'");
    refused(400, "POST", "/v1/samples", "{\"ref\":\"digits\",\"class\":\"x\"}",
            "it has a, b, c, d, e, f, g, h and 2 more");
    rig_sql(&r, "UPDATE bases SET config = '{\"classes\":3}'");
    json_decref(rig_want(&r, 202, "POST", "/v1/samples", "{\"base\":\"emoji\",\"n\":1}"));
    json_decref(rig_want(&r, 202, "POST", "/v1/samples",
                         "{\"base\":\"emoji\",\"ref\":\"digits\",\"n\":1}"));
    refused(400, "POST", "/v1/samples", "{\"class\":\"3\"}", "has classes 0 to 2, not '3'");
    refused(400, "POST", "/v1/samples", "{\"class\":\"red\"}", "has classes 0 to 2, not 'red'");
    json_t *job = rig_want(&r, 202, "POST", "/v1/samples", "{\"class\":\"2\",\"guidance\":2}");
    ck_assert_uint_eq(json_array_size(json_object_get(job, "notes")), 1); /* nothing to guide by */
    json_decref(job);
    refused(400, "POST", "/v1/samples", "{\"guidance\":2,\"guidance_class\":3}",
            "'guidance' and 'guidance_class' exclude each other");
    refused(400, "POST", "/v1/samples",
            "{\"ref\":\"digits\",\"guidance_mode\":\"none\",\"guidance_domain\":3}",
            "'guidance_mode' and 'guidance_domain' exclude each other");
    refused(400, "POST", "/v1/samples", "{\"guidance_class\":101}",
            "'guidance_class' must be a number from 0 to 100");
    refused(400, "POST", "/v1/samples", "{\"guidance_low\":1.5}",
            "'guidance_low' must be a number from 0 to 1");
    static const struct {
        const char *body, *note;
    } weights[] = {{"{\"class\":\"2\",\"guidance_class\":2}", NULL},
                   {"{\"guidance_class\":2}", "guidance_class has no effect"},
                   {"{\"class\":\"2\",\"guidance_domain\":2}", "guidance_domain has no effect"},
                   {"{\"guidance_low\":0.5}", "nothing guides: guidance_low has no effect"},
                   {"{\"class\":\"2\",\"guidance_low\":0.5}", "guidance_low has no effect"},
                   {"{\"class\":\"2\",\"guidance_class\":2,\"guidance_low\":0.5}", NULL},
                   {"{\"ref\":\"digits\",\"guidance_low\":0.5}", NULL},
                   {"{\"ref\":\"digits\",\"guidance_mode\":\"none\",\"guidance_low\":0.5}",
                    "guidance_low has no effect"},
                   {"{\"ref\":\"digits\",\"guidance_domain\":2,\"guidance_class\":3}", NULL}};
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++) {
        job = rig_want(&r, 202, "POST", "/v1/samples", weights[i].body);
        const json_t *notes = json_object_get(job, "notes");
        ck_assert_uint_eq(json_array_size(notes), weights[i].note != NULL);
        if (weights[i].note)
            ck_assert(strstr(json_string_value(json_array_get(notes, 0)), weights[i].note));
        json_decref(job);
    }
    job = rig_want(&r, 202, "POST", "/v1/samples", "{\"ref\":\"digits\",\"guidance\":2}");
    ck_assert_uint_eq(json_array_size(json_object_get(job, "notes")), 0);
    json_decref(job);
}
END_TEST

/* What waits in the queue is what was asked for, and of the version that the name meant then. */
START_TEST(requests_are_kept) {
    char dir[400], body[1400], want[1600], sha[DS_HEX_SIZE], path[2][400];
    rig_images(&r, "digits", 3, dir);
    rig_add(&r, "digits", dir, 201);
    rig_wait_adapter(&r, "digits", 1, 20000);
    json_t *base = rig_want(&r, 200, "GET", "/v1/bases/emoji", NULL);
    snprintf(sha, sizeof sha, "%s", ds_json_string(base, "sha256", ""));
    json_decref(base);
    rig_sql(&r, "UPDATE jobs SET state = 'cancelled' WHERE state = 'queued'");
    static const char *const kinds[] = {"sample", "verify", "import", "import"},
                             *const posts[] = {"/v1/samples", "/v1/verify", "/v1/bases",
                                               "/v1/feature_nets"};
    for (int i = 0; i < 2; i++) {
        snprintf(path[i], sizeof path[i], "%s/weights%d.pt", r.dir, i);
        rig_write(path[i], "weights");
    }
    for (int i = 0; i < 4; i++) {
        static const char sample[] =
            "\"n\":3,\"class\":\"all\",\"steps\":9,\"seed\":5,\"columns\":2,\"sheet\":false,"
            "\"sampler\":\"ddim\",\"guidance_domain\":2,\"guidance_class\":3";
        if (i == 0) {
            snprintf(body, sizeof body, "{\"ref\":\"digits\",%s}", sample);
            snprintf(want, sizeof want, "{\"ref\":\"digits@v1\",\"base\":\"%s\",%s}", sha, sample);
        } else if (i == 1) {
            snprintf(body, sizeof body,
                     "{\"ref\":\"digits@latest\",\"full\":true,\"base_task\":false}");
            snprintf(want, sizeof want,
                     "{\"ref\":\"digits@v1\",\"base\":\"%s\",\"full\":true,\"base_task\":false}",
                     sha);
        } else {
            const char *more = i == 2 ? "\"heads\":6,\"objective\":\"x0\"" : "\"heads\":0";
            snprintf(body, sizeof body,
                     "{\"source\":\"%s\",\"name\":\"mine\",\"license\":\"MIT\",\"weights\":\"ema\""
                     "%s%s}",
                     path[0], i == 2 ? "," : "", i == 2 ? more : "");
            snprintf(want, sizeof want,
                     "{\"what\":\"%s\",\"source\":\"%s\",\"vae\":null,\"probe\":null,\"name\":"
                     "\"mine\",\"license\":\"MIT\",\"weights\":\"ema\",%s%s}",
                     i == 2 ? "base" : "feature_net", path[0], more,
                     i == 2 ? "" : ",\"objective\":\"\"");
        }
        json_t *job = rig_want(&r, 202, "POST", posts[i], body);
        ck_assert_str_eq(ds_json_string(job, "kind", ""), kinds[i]);
        expect_payload(ds_json_int(job, "id", 0), want);
        json_decref(job);
    }
    snprintf(body, sizeof body,
             "{\"source\":\"%s\",\"vae\":\"%s\",\"probe\":\"%s\",\"name\":\"n\"}", path[0], path[1],
             dir);
    json_t *job = rig_want(&r, 202, "POST", "/v1/bases", body);
    snprintf(want, sizeof want,
             "{\"what\":\"base\",\"source\":\"%s\",\"vae\":\"%s\",\"probe\":\"%s\",\"name\":\"n\","
             "\"license\":\"\",\"weights\":\"\",\"heads\":0,\"objective\":\"\"}",
             path[0], path[1], dir);
    expect_payload(ds_json_int(job, "id", 0), want);
    json_decref(job);
}
END_TEST

START_TEST(sources_of_imports) {
    char body[900], path[400];
    refused(400, "POST", "/v1/bases", "{\"source\":\"/dev/zero\"}", "no file or folder");
    refused(400, "POST", "/v1/feature_nets", "{\"source\":\"/tmp\"}", "which is no file");
    snprintf(path, sizeof path, "%s/fifo", r.dir);
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    snprintf(body, sizeof body, "{\"source\":\"%s\"}", path);
    refused(400, "POST", "/v1/bases", body, "no file or folder");
    snprintf(path, sizeof path, "%s/empty.pt", r.dir);
    rig_write(path, "");
    snprintf(body, sizeof body, "{\"source\":\"%s\"}", path);
    refused(400, "POST", "/v1/bases", body, "which is empty");
    refused(400, "POST", "/v1/bases", "{\"source\":\"x.pt\"}", "absolute");
    refused(404, "POST", "/v1/bases", "{\"source\":\"/nowhere/x.pt\"}", "/nowhere/x.pt");
    /* called as their files are */
    static const char *const files[][2] = {{"DiT-S-2-256x256.pt", "DiT-S-2-256x256"},
                                           {"other.safetensors.zst", "other"},
                                           {"My net (2).PTH", "My-net-2"},
                                           {"plain", "plain"}};
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", r.dir, files[i][0]);
        rig_write(path, "weights");
        snprintf(body, sizeof body, "{\"source\":\"%s\"}", path);
        json_t *job = rig_want(&r, 202, "POST", i ? "/v1/feature_nets" : "/v1/bases", body);
        ck_assert_str_eq(ds_json_string(job, "name", ""), files[i][1]);
        json_decref(job);
    }
    /* words of a licence */
    static const struct {
        const char *license, *note;
    } licenses[] = {{"CC-BY-NC 4.0", "its licence is non-commercial"},
                    {"NC", "its licence is non-commercial"},
                    {"for Non-Commercial use", "its licence is non-commercial"},
                    {"UIUC/NCSA", NULL},
                    {"INC", NULL},
                    {"MIT", NULL},
                    {"", "it looks like the DiT-XL/2 weights"}};
    snprintf(path, sizeof path, "%s/DiT-XL-2.pt", r.dir);
    rig_write(path, "weights");
    for (int i = 0; i < 7; i++) {
        snprintf(body, sizeof body, "{\"source\":\"%s\",\"name\":\"m%d\",\"license\":\"%s\"}", path,
                 i, licenses[i].license);
        json_t *job = rig_want(&r, 202, "POST", "/v1/bases", body);
        const char *note = ds_json_string(job, "note", NULL);
        ck_assert_msg(!note == !licenses[i].note &&
                          (!note || !strncmp(note, licenses[i].note, strlen(licenses[i].note))),
                      "'%s': %s", licenses[i].license, note ? note : "no note");
        json_decref(job);
    }
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, every_route_knows_its_words);
    tcase_add_test(tc, urls_that_cannot_be_read);
    tcase_add_test(tc, numbers);
    tcase_add_test(tc, filters_name_what_exists);
    tcase_add_test(tc, every_event_type_is_listed);
    tcase_add_test(tc, rejected_files_in_pages);
    tcase_add_test(tc, reserved_names);
    tcase_add_test(tc, reserved_names_of_old);
    tcase_add_test(tc, names_made_from_paths);
    tcase_add_test(tc, places_of_datasets);
    tcase_add_test(tc, adding_again_tells_changes);
    tcase_add_test(tc, samplers_fit_the_base);
    tcase_add_test(tc, any_sampler_before_a_base);
    tcase_add_test(tc, few_images_are_told);
    tcase_add_test(tc, classes_of_samples);
    tcase_add_test(tc, sources_of_imports);
    tcase_add_test(tc, requests_are_kept);
}

int main(int argc, char **argv) {
    rig_main(argc, argv);
    return ds_test_main("daemon_requests", cases);
}
