/* tests/cli/test_cli_effects.c - what an option does: each one alone, and the request (or the worker's
 * argument) that is another one because of it. */
#include "tests/fixtures/cli_fake.h"
#include "tests/fixtures/limits_walk.h"

#include "base/fs.h"
#include "base/log.h"

#include <math.h>
#include <stdio.h>

#define JOB(kind)                                                                                  \
    "{\"id\":5,\"kind\":\"" kind "\",\"state\":\"queued\",\"dataset\":\"digits\",\"name\":"        \
    "\"digits\",\"attempts\":0,\"max_attempts\":3,\"created_at\":\"2001-02-03T04:05:06Z\"}"
#define DATASET                                                                                    \
    "{\"name\":\"digits\",\"path\":\"/d\",\"state\":\"ready\",\"scan\":{\"state\":\"done\","       \
    "\"unchanged\":true,\"seq\":1},\"version\":{\"version\":1,\"images\":5,\"classes\":1,"         \
    "\"rejected\":0},\"adapter\":\"digits@v1\",\"job\":4}"

static const fake_route routes[] = {
    {.request = "POST /v1/datasets", .status = 201, .body = DATASET},
    {.request = "POST /v1/datasets/digits/rescan", .status = 202, .body = DATASET},
    {.request = "POST /v1/bases", .status = 202, .body = JOB("import")},
    {.request = "POST /v1/feature_nets", .status = 202, .body = JOB("import")},
    {.request = "POST /v1/sample", .status = 202, .body = JOB("sample")},
    {.request = "POST /v1/samples", .status = 202, .body = JOB("sample")},
    {.request = "POST /v1/verify", .status = 202, .body = JOB("verify")},
    {.request = "POST /v1/gc",
     .body = "{\"dry_run\":false,\"grace_seconds\":60,\"blobs\":{},\"caches\":{},\"models\":{},"
             "\"importing\":false,\"error\":null}"},
    {.request = "GET /v1/jobs/5", .body = JOB("sample")},
    {.request = "GET /v1/datasets/digits", .body = DATASET},
    {.request = "GET /v1/events*", .body = ""},
    {.request = "GET *", .body = "{\"items\":[],\"next\":null}"},
    {.request = NULL}};

/* %s: a folder, and a file in it.  What comes with --timeout 0.1 ends with 7, as no job ends. */
static const struct {
    const char *line;
    int exit;
    const char *sent; /* a part of a request */
} effects[] = {
    {"add-dataset %s --name x", 0, "\"name\":\"x\""},
    {"add-dataset %s --base xl", 0, "\"base\":\"xl\""},
    {"add-dataset %s --base default", 0, "\"base\":\"default\""},
    {"add-dataset %s --feature-net fid:clean", 0, "\"feature_net\":\"fid:clean\""},
    {"add-dataset %s --no-watch", 0, "\"watch\":false"},
    {"add-dataset %s --publish-worse", 0, "\"publish_worse\":true"},
    {"add-dataset %s --method full", 0, "\"method\":\"full\""},
    {"add-dataset %s --rank 3", 0, "\"options\":{\"rank\":3}"},
    {"add-dataset %s --steps 77", 0, "\"options\":{\"steps\":77}"},
    {"add-dataset %s --seed 9", 0, "\"options\":{\"seed\":9}"},
    {"add-dataset %s --lr 0.25", 0, "\"options\":{\"lr\":0.25}"},
    {"add-dataset %s --batch 7", 0, "\"options\":{\"batch\":7}"},
    {"add-dataset %s --flip", 0, "\"options\":{\"flip\":true}"},
    {"add-dataset %s --side in", 0, "\"options\":{\"side\":\"in\"}"},
    {"add-dataset %s --phi relu", 0, "\"options\":{\"phi\":\"relu\"}"},
    {"add-dataset %s --targets q,fc1", 0, "\"options\":{\"targets\":[\"q\",\"fc1\"]}"},
    {"add-dataset %s --freeze-v", 0, "\"options\":{\"freeze_v\":true}"},
    {"add-dataset %s --guidance 2.5", 0, "\"options\":{\"guidance\":2.5}"},
    {"add-dataset %s --guidance-domain 2", 0, "\"options\":{\"guidance_domain\":2.0}"},
    {"add-dataset %s --guidance-class 3.5", 0, "\"options\":{\"guidance_class\":3.5}"},
    {"add-dataset %s --guidance-low 0.25", 0, "\"options\":{\"guidance_low\":0.25}"},
    {"add-dataset %s --trained-guidance 1.75", 0, "\"options\":{\"trained_guidance\":1.75}"},
    {"add-dataset %s --trained-guidance-low 0.25", 0,
     "\"options\":{\"trained_guidance_low\":0.25}"},
    {"add-dataset %s --guidance-mode none", 0, "\"options\":{\"guidance_mode\":\"none\"}"},
    {"add-dataset %s --sampler ddim", 0, "\"options\":{\"sampler\":\"ddim\"}"},
    {"add-dataset %s --n 99", 0, "\"options\":{\"n\":99}"},
    {"add-dataset %s --verify full", 0, "\"options\":{\"verify\":\"full\"}"},
    {"add-dataset %s --device cpu", 0, "\"options\":{\"device\":\"cpu\"}"},
    {"add-dataset %s --precision f32", 0, "\"options\":{\"precision\":\"f32\"}"},
    {"add-dataset %s --threads 2", 0, "\"options\":{\"threads\":2}"},
    {"rescan-dataset digits", 0, "POST /v1/datasets/digits/rescan"},
    {"add-base %s/w.pt --license MIT", 0, "\"license\":\"MIT\""},
    {"add-base %s/w.pt --name b", 0, "\"name\":\"b\""},
    {"add-base %s/w.pt --heads 6", 0, "\"heads\":6"},
    {"add-base %s/w.pt --weights model", 0, "\"weights\":\"model\""},
    {"add-base %s/w.pt --objective x0", 0, "\"objective\":\"x0\""},
    {"add-feature-net %s/w.pt --license Apache-2.0", 0, "\"license\":\"Apache-2.0\""},
    {"add-feature-net %s/w.pt --name fid", 0, "\"name\":\"fid\""},
    {"add-feature-net %s/w.pt --weights ema", 0, "\"weights\":\"ema\""},
    {"gc --dry-run", 0, "\"dry_run\":true"},
    {"gc --older-than 10m", 0, "\"grace_seconds\":600"},
    {"gc --older-than 90s", 0, "\"grace_seconds\":90"},
    {"gc --older-than 2h", 0, "\"grace_seconds\":7200"},
    {"gc --older-than 3d", 0, "\"grace_seconds\":259200"},
    {"list-adapters --dataset digits", 0, "GET /v1/adapters?dataset=digits&limit=100"},
    {"list-adapters --max-fd 12.5", 0, "GET /v1/adapters?max_fd=12.5&limit=100"},
    {"list-adapters --status rejected", 0, "GET /v1/adapters?status=rejected&limit=100"},
    {"list-adapters --since 2026-01-31T08:00:00Z", 0, "since=2026-01-31T08:00:00.000Z"},
    {"list-adapters --limit 7", 0, "GET /v1/adapters?limit=7"},
    {"list-adapters --all", 0, "GET /v1/adapters?limit=1000"},
    {"list-datasets -l 3", 0, "GET /v1/datasets?limit=3"},
    {"list-jobs --status failed", 0, "GET /v1/jobs?state=failed&limit=100"},
    {"list-jobs --kind import", 0, "GET /v1/jobs?kind=import&limit=100"},
    {"list-jobs --dataset digits", 0, "GET /v1/jobs?dataset=digits&limit=100"},
    {"list-evaluations --adapter a@v1", 0, "GET /v1/evaluations?adapter=a@v1&limit=100"},
    {"list-evaluations -d digits", 0, "GET /v1/evaluations?dataset=digits&limit=100"},
    {"list-evaluations --metric kid", 0, "GET /v1/evaluations?metric=kid&limit=100"},
    {"events --type adapter.published", 0, "type=adapter.published"},
    {"events --since 41", 0, "since=41"},
    {"verify digits --full --timeout 0.1", 7, "\"full\":true"},
    {"verify digits --timeout 0.1", 7, "\"full\":false"},
    {"verify --base xl --timeout 0.1", 7, "\"base\":\"xl\""},
    {"sample digits --timeout 0.1 -o %s/a.png -n 3", 7, "\"n\":3"},
    {"sample digits --timeout 0.1 -o %s/a.png", 7, "\"n\":16"},
    {"sample digits --timeout 0.1 -o %s/a.png --class 4", 7, "\"class\":\"4\""},
    {"sample digits --timeout 0.1 -o %s/a.png --base xl", 7, "\"base\":\"xl\""},
    {"sample digits --timeout 0.1 -o %s/a.png --steps 9", 7, "\"steps\":9"},
    {"sample digits --timeout 0.1 -o %s/a.png --guidance 3", 7, "\"guidance\":3.0"},
    {"sample digits --timeout 0.1 -o %s/a.png --guidance-mode cfg", 7, "\"guidance_mode\":\"cfg\""},
    {"sample digits --timeout 0.1 -o %s/a.png --guidance-domain 2", 7, "\"guidance_domain\":2.0"},
    {"sample digits --timeout 0.1 -o %s/a.png --guidance-class 3", 7, "\"guidance_class\":3.0"},
    {"sample digits --timeout 0.1 -o %s/a.png --guidance-low 0.5", 7, "\"guidance_low\":0.5"},
    {"sample digits --timeout 0.1 -o %s/a.png --sampler ddpm", 7, "\"sampler\":\"ddpm\""},
    {"sample digits --timeout 0.1 -o %s/a.png --seed 6", 7, "\"seed\":6"},
};
enum { EFFECTS = sizeof effects / sizeof *effects };

START_TEST(an_option_reaches_the_request) {
    fake_server s;
    cli_result r;
    char line[600], file[400];
    snprintf(file, sizeof file, "%s/w.pt", ds_test_tmpdir());
    ck_assert_int_eq(ds_fs_write(file, "x", 1, NULL), 0);
    fake_start(&s, routes);
    const char *at = strstr(effects[_i].line, "%s"), *tmp = ds_test_tmpdir();
    if (at)
        snprintf(line, sizeof line, "%.*s%s%s", (int)(at - effects[_i].line), effects[_i].line, tmp,
                 at + 2);
    else
        snprintf(line, sizeof line, "%s", effects[_i].line);
    ck_run(r, &s, effects[_i].exit, "%s", line);
    ck_has(s.log.data, effects[_i].sent);
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

/* What was sent to add a dataset. */
static json_t *sent(const fake_server *s) {
    const char *body = strstr(s->log.data, "POST /v1/datasets {");
    ck_assert_ptr_nonnull(body);
    body += strlen("POST /v1/datasets ");
    json_t *doc = json_loadb(body, strcspn(body, "\n"), 0, NULL);
    ck_assert_ptr_nonnull(doc);
    return doc;
}

/* An allowed value of an option, as JSON; not the default of a BOOL, which has no flag. */
static json_t *value_of(const ds_option *o) {
    char text[80];
    int good = 0;
    if (o->type == DS_OPTION_BOOL)
        return json_boolean(strcmp(o->otherwise, "true"));
    for (int k = 0; !good; k++)
        ck_assert(limit_value(o, k, text, &good));
    return json_loads(text, JSON_DECODE_ANY, NULL);
}

/* Each row of contract/options.def arrives under its name, with its type. */
START_TEST(all_options_of_a_training) {
    fake_server s;
    cli_result r;
    ds_buf line = {0};
    json_t *want = json_object();
    ds_buf_addf(&line, "add-dataset %s", ds_test_tmpdir());
    for (const ds_option *o = ds_option_table; o->name; o++) {
        json_t *v = value_of(o), *first = json_is_array(v) ? json_array_get(v, 0) : v;
        ds_buf_addf(&line, " --%s", o->flag);
        if (json_is_string(first))
            ds_buf_addf(&line, " %s", json_string_value(first));
        else if (json_is_number(first))
            ds_buf_addf(&line, " %.17g", json_number_value(first));
        if (o->type == DS_OPTION_NUM) {
            json_t *real = json_real(json_number_value(v));
            json_decref(v);
            v = real;
        }
        json_object_set_new(want, o->name, v);
    }
    fake_start(&s, routes);
    ck_run(r, &s, 0, "%s", line.data);
    json_t *doc = sent(&s);
    char *is = json_dumps(json_object_get(doc, "options"), JSON_SORT_KEYS),
         *must = json_dumps(want, JSON_SORT_KEYS);
    ck_assert_str_eq(is, must);
    free(is), free(must);
    json_decref(doc), json_decref(want);
    ds_buf_release(&line);
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

/* Without the option nothing of it is sent: the daemon's default counts. */
START_TEST(what_is_not_given_is_not_sent) {
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, 0, "add-dataset %s", ds_test_tmpdir());
    json_t *doc = sent(&s);
    ck_assert_uint_eq(json_object_size(doc), 1); /* the path */
    json_decref(doc);
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

START_TEST(units_of_time) {
    static const struct {
        const char *text;
        double seconds;
    } good[] = {{"90", 90},     {"90s", 90},  {"10m", 600}, {"2h", 7200},
                {"3d", 259200}, {"0.5m", 30}, {"1e2", 100}, {"0", 0}};
    static const char *const bad[] = {"10x", "10mm", "m", "10 m", "-1m", "10M", "1w"};
    double v;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        ck_assert_int_eq(ds_parse_duration(good[i].text, &v, NULL), 0);
        ck_assert_msg(v == good[i].seconds, "%s is %g", good[i].text, v);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(ds_parse_duration(bad[i], &v, NULL) != 0, "%s", bad[i]);
    /* a time ago, and a date with a part of a second */
    double now = (double)ds_now_ms();
    ck_assert_int_eq(ds_parse_when("2h", &v, NULL), 0);
    ck_assert_msg(fabs(now - v - 7200e3) < 5000, "%g", now - v);
    ck_assert_int_eq(ds_parse_when("2026-01-31T08:00:00.250Z", &v, NULL), 0);
    ck_assert_double_eq(v, 1769846400250.0);
    ck_assert_int_eq(ds_parse_when("2026-01-31 08:00:00Z", &v, NULL), 0);
    ck_assert_double_eq(v, 1769846400000.0);
    ck_assert_int_ne(ds_parse_when("2026-01-31T08:00:00Zx", &v, NULL), 0);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_loop_test(tc, an_option_reaches_the_request, 0, EFFECTS);
    tcase_add_test(tc, all_options_of_a_training);
    tcase_add_test(tc, what_is_not_given_is_not_sent);
    tcase_add_test(tc, units_of_time);
}

int main(void) { return ds_test_main("cli_effects", cases); }
