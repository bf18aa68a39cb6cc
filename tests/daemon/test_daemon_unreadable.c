/* tests/daemon/test_daemon_unreadable.c - what the API answers while a table of the registry cannot be
 * read: all of what it answers otherwise, or that it failed; never a part of it. */
#include "tests/fixtures/daemon_rig.h"

#include "daemon/api/api.h"

extern const ds_route ds_routes[];
extern const size_t ds_route_count;

static rig r;

static void setup(void) {
    char name[32], dir[400];
    snprintf(name, sizeof name, "unread-%d", (int)getpid());
    rig_open(&r, name);
    rig_images(&r, "digits", 3, dir);
    rig_start(&r, NULL);
    rig_add(&r, "digits", dir, 201);
    rig_wait_adapter(&r, "digits", 1, 20000);
    json_decref(rig_want(&r, 202, "POST", "/v1/samples", "{\"ref\":\"digits\",\"n\":1}"));
    rig_wait_job(&r, "sample", NULL, "|done|", 10000);
}

static void teardown(void) { ck_assert_int_eq(rig_stop(&r, SIGTERM), 0); }

/* "/v1/adapters/{}/aliases/{}" with names of what is there. */
static void path_of(const ds_route *t, const char *blob, char out[300]) {
    static const struct {
        const char *under, *name;
    } names[] = {{"/aliases/", "latest"},  {"/files/", "grid.png"},  {"/datasets/", "digits"},
                 {"/bases/", "emoji"},     {"/adapters/", "digits"}, {"/jobs/", "2"},
                 {"/feature_nets/", "net"}};
    size_t n = 0;
    for (const char *p = t->pattern; *p; p++) {
        if (*p != '{') {
            out[n++] = *p;
            continue;
        }
        const char *name = blob; /* of /v1/blobs/ */
        for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
            size_t m = strlen(names[k].under);
            if (n >= m && !strncmp(out + n - m, names[k].under, m))
                name = names[k].name;
        }
        n += (size_t)sprintf(out + n, "%s", name);
        p++;
    }
    out[n] = 0;
}

/* The answer to each GET, undisturbed; what tells of times and processes is not compared. */
typedef struct {
    char path[300], *text;
    int status;
} answer;

static int goes_by_time(const char *path) {
    static const char *const paths[] = {"/", "/metrics", "/v1/status", "/v1/events", "/v1/jobs"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        if (!strcmp(path, paths[i]))
            return 1;
    return 0;
}

static size_t read_all(answer *list, const char *blob) {
    size_t n = 0;
    for (size_t i = 0; i < ds_route_count; i++) {
        if (strcmp(ds_routes[i].method, "GET"))
            continue;
        answer *a = &list[n++];
        path_of(&ds_routes[i], blob, a->path);
        a->text = rig_text(&r, "GET", a->path, NULL, NULL, &a->status);
        ck_assert_msg(a->status == 200, "%s: %d %s", a->path, a->status, a->text);
    }
    return n;
}

/* What may be asked for again and again, and is answered so. */
static const struct {
    const char *method, *path, *body;
    int status;
} writes[] = {
    {"POST", "/v1/samples", "{\"ref\":\"digits\",\"n\":1}", 202},
    {"POST", "/v1/samples", "{\"ref\":null,\"n\":1}", 202},
    {"POST", "/v1/verify", "{}", 202},
    {"PUT", "/v1/adapters/digits/aliases/latest", "{\"version\":1}", 200},
    {"PUT", "/v1/default-base", "{\"base\":\"emoji\"}", 200},
    {"PUT", "/v1/default-feature-net", "{\"feature_net\":\"net\"}", 200},
    {"POST", "/v1/gc", "{\"dry_run\":true}", 200},
    {"POST", "/v1/prune", "{\"dry_run\":true}", 200},
    {"POST", "/v1/fsck", "{\"quick\":true}", 200},
    {"POST", "/v1/jobs/2/cancel", NULL, 409},
};
enum { WRITES = sizeof writes / sizeof *writes };

static void set_name(const char *is, const char *becomes) {
    char sql[200];
    snprintf(sql, sizeof sql,
             "PRAGMA legacy_alter_table = ON; PRAGMA foreign_keys = OFF; ALTER TABLE %s RENAME TO "
             "%s",
             is, becomes);
    rig_sql(&r, sql);
}

/* A whole answer, or a problem that says what is wrong. */
static int holds(const char *table, const char *what, int status, int want, const char *text,
                 const char *good) {
    if (status == want && (!good || !strcmp(text, good)))
        return 0;
    ck_assert_msg(status == 500 && strstr(text, "no such table") && strstr(text, table),
                  "without %s: %s: %d %s", table, what, status, text);
    return 1;
}

/* First all that is read, then what changes something: a change shows in what is read. */
START_TEST(all_or_an_error) {
    static const char *const tables[] = {"datasets",      "dataset_versions",
                                         "adapters",      "adapter_versions",
                                         "aliases",       "evaluations",
                                         "blobs",         "bases",
                                         "feature_nets",  "jobs",
                                         "gates",         "gate_tasks",
                                         "probes",        "job_attempts",
                                         "alias_history", "base_tasks",
                                         "job_metrics",   "meta",
                                         "gate_self",     "gate_bars"};
    answer *list = ds_xcalloc(ds_route_count, sizeof *list);
    json_t *a = rig_want(&r, 200, "GET", "/v1/adapters/digits", NULL);
    char blob[DS_HEX_SIZE];
    snprintf(blob, sizeof blob, "%s", ds_json_string(a, "digest", ""));
    json_decref(a);
    size_t n = read_all(list, blob);
    int status, failed = 0;
    for (size_t k = 0; k < sizeof tables / sizeof *tables; k++) {
        set_name(tables[k], "away");
        for (size_t i = 0; i < n; i++) {
            char *text = rig_text(&r, "GET", list[i].path, NULL, NULL, &status);
            failed += holds(tables[k], list[i].path, status, 200, text,
                            goes_by_time(list[i].path) ? NULL : list[i].text);
            free(text);
        }
        set_name("away", tables[k]);
    }
    for (size_t k = 0; k < sizeof tables / sizeof *tables; k++) {
        set_name(tables[k], "away");
        for (size_t i = 0; i < WRITES; i++) {
            char *text =
                rig_text(&r, writes[i].method, writes[i].path, NULL, writes[i].body, &status);
            failed += holds(tables[k], writes[i].path, status, writes[i].status, text, NULL);
            free(text);
        }
        set_name("away", tables[k]);
    }
    ck_assert_int_gt(failed, 120); /* most tables matter to some answer */
    for (size_t i = 0; i < n; i++)
        free(list[i].text);
    free(list);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, all_or_an_error);
}

int main(int argc, char **argv) {
    rig_main(argc, argv);
    return ds_test_main("daemon_unreadable", cases);
}
