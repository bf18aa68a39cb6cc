/* tests/registry/test_registry_reconcile.c - which work is missing: a scan before a training, in parts of
 * 500, for live datasets on live bases only, once; also after a commit of another program and after
 * a call that failed.  And what gc is told to leave alone. */
#include "registry/jobs/cleanup.h"
#include "tests/fixtures/registry_fixture.h"

static int reconcile(ds_registry *r) {
    int made = -1;
    MUST(ds_reconcile(r, &made, err));
    return made;
}

static int64_t number(ds_registry *r, const char *sql) {
    char path[PATH_MAX];
    sqlite3 *db;
    sqlite3_stmt *q;
    ds_fs_join(path, sizeof path, ds_registry_dir(r), "registry.db");
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    ck_assert_msg(sqlite3_prepare_v2(db, sql, -1, &q, NULL) == SQLITE_OK, "%s", sql);
    ck_assert_int_eq(sqlite3_step(q), SQLITE_ROW);
    int64_t n = sqlite3_column_int64(q, 0);
    sqlite3_finalize(q);
    sqlite3_close(db);
    return n;
}

static int64_t live(ds_registry *r, const char *kind) {
    char sql[200];
    snprintf(sql, sizeof sql,
             "SELECT count(*) FROM jobs WHERE kind = '%s' AND state IN ('queued', 'running')",
             kind);
    return number(r, sql);
}

static void sql(ds_registry *r, const char *text) {
    ck_assert_msg(fx_foreign(r, text) == SQLITE_OK, "%s", text);
}

static ds_registry *start(const char *name) { return fx_open(fx_dir(name)); }

static void finish(ds_registry *r) {
    MUST(ds_registry_check(r, err));
    ds_registry_close(r);
}

/* What was asked for first is looked at first: no training on a content that may be old. */
START_TEST(a_rescan_comes_before_the_training) {
    ds_registry *r = start("order");
    int changed;
    fx_add(r, "d", "/a");
    ck_assert_int_eq(reconcile(r), 1);
    ck_assert(live(r, "scan") == 1 && live(r, "train") == 0);
    fx_scan(r, "one");
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    ck_assert_int_eq(reconcile(r), 1);
    ck_assert(live(r, "scan") == 1 && live(r, "train") == 0);
    ds_job j = fx_claim(r, DS_JOB_SCAN);
    MUST(ds_dataset_rescan(r, "d", NULL, err)); /* and once more, while it runs */
    ck_assert_int_eq(reconcile(r), 0);          /* one scan at a time */
    MUST(fx_scan_finish(r, j.id, "two", &changed, err));
    ck_assert_int_eq(reconcile(r), 1);
    ck_assert(live(r, "scan") == 1 && live(r, "train") == 0);
    fx_scan(r, "two");
    ck_assert_int_eq(reconcile(r), 1);
    ck_assert(live(r, "scan") == 0 && live(r, "train") == 1);
    /* the scan of another set overtakes a training that waits */
    fx_add(r, "e", "/e");
    ck_assert_int_eq(reconcile(r), 1);
    MUST(ds_job_next(r, DS_KIND_BIT(DS_JOB_SCAN) | DS_KIND_BIT(DS_JOB_TRAIN), INT64_MAX, &j, NULL,
                     err));
    ck_assert_int_eq(j.kind, DS_JOB_SCAN);
    finish(r);
}
END_TEST

START_TEST(a_job_says_whose_it_is) {
    ds_registry *r = start("row");
    fx_add(r, "d", "/a");
    ck_assert_int_eq(reconcile(r), 1);
    ck_assert_int_eq(number(r, "SELECT count(*) FROM jobs WHERE kind = 'scan' AND base_id IS NULL"
                               " AND dataset_version_id IS NULL AND dedupe_key LIKE 'scan:%'"),
                     1);
    fx_scan(r, "one");
    ck_assert_int_eq(reconcile(r), 1);
    ck_assert_int_eq(number(r, "SELECT count(*) FROM jobs j JOIN datasets d ON j.dataset_id = d.id"
                               " WHERE j.kind = 'train' AND j.name = 'd'"
                               " AND j.dedupe_key = 'train:' || d.id AND j.max_attempts = 3"
                               " AND j.dataset_version_id = d.version_id AND j.base_id = 1"
                               " AND j.generation = d.generation AND j.created_at > 0"),
                     1);
    json_t *list = NULL;
    MUST(ds_events_list(r, 0, "job.queued", 10, &list, err));
    ck_assert_int_eq((int)json_array_size(list), 2);
    json_t *e = json_array_get(list, 1), *payload = json_object_get(e, "payload");
    ck_assert_str_eq(fx_string(payload, "kind"), "train");
    ck_assert_str_eq(fx_string(payload, "name"), "d");
    ck_assert_int_eq(fx_int(payload, "id"), 2);
    json_decref(list);
    finish(r);
}
END_TEST

/* 100 in a transaction, the rest in the next calls. */
START_TEST(more_than_100_sets) {
    ds_registry *r = start("many");
    sql(r, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 243)"
           " INSERT INTO datasets(name, source_path) SELECT 's' || i, '/s/' || i FROM n");
    ck_assert_int_eq(reconcile(r), 100);
    ck_assert_int_eq(live(r, "scan"), 100);
    ck_assert_int_eq(reconcile(r), 100);
    ck_assert_int_eq(reconcile(r), 43);
    ck_assert_int_eq(reconcile(r), 0);
    ck_assert_int_eq(number(r, "SELECT count(DISTINCT dataset_id) FROM jobs"), 243);
    finish(r);
}
END_TEST

/* A call looks at 500 of them; whatever changes before all were looked at is seen. */
START_TEST(sets_in_parts) {
    ds_registry *r = start("parts");
    sql(r, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200)"
           " INSERT INTO datasets(id, name, source_path, state, scan_wanted, scan_done)"
           " SELECT 7 * i, 's' || i, '/s/' || i, 'failed', 1, i NOT IN (500, 501, 1200) FROM n");
    ck_assert_int_eq(reconcile(r), 1);
    ck_assert_int_eq(live(r, "scan"), 1);
    ck_assert(!ds_reconcile_settled(r));
    MUST(ds_dataset_rescan(r, "s3", NULL, err)); /* that part is over */
    ck_assert_int_eq(reconcile(r), 1);
    ck_assert_int_eq(reconcile(r), 1);
    ck_assert(!ds_reconcile_settled(r));
    ck_assert_int_eq(reconcile(r), 1); /* from the first on again: that one */
    ck_assert(reconcile(r) == 0 && reconcile(r) == 0 && !ds_reconcile_settled(r));
    for (int i = 0; i < 3; i++) {
        ck_assert(!ds_reconcile_settled(r)); /* the pass before this one made jobs */
        ck_assert_int_eq(reconcile(r), 0);
    }
    ck_assert(ds_reconcile_settled(r));
    ck_assert_int_eq(number(r, "SELECT count(DISTINCT dataset_id) FROM jobs"), 4);
    finish(r);
}
END_TEST

/* All watched sets are looked at again, as soon as that is asked for; no event tells it. */
START_TEST(a_rescan_of_all_is_seen) {
    ds_registry *r = start("all");
    sql(r, "INSERT INTO datasets(name, source_path, state, watch, scan_wanted, scan_done) VALUES"
           " ('a', '/a', 'failed', 1, 1, 1), ('b', '/b', 'failed', 1, 1, 1),"
           " ('c', '/c', 'failed', 0, 1, 1), ('d', '/d', 'removed', 1, 1, 1)");
    while (!ds_reconcile_settled(r))
        ck_assert_int_eq(reconcile(r), 0);
    MUST(ds_dataset_rescan_all(r, err));
    ck_assert(!ds_reconcile_settled(r));
    ck_assert_int_eq(reconcile(r), 2);
    ck_assert_int_eq(number(r, "SELECT count(*) FROM jobs j JOIN datasets d ON d.id = j.dataset_id"
                               " WHERE d.name IN ('a', 'b')"),
                     2);
    finish(r);
}
END_TEST

static void first_part(ds_registry *r) {
    ck_assert(ds_reconcile_settled(r));
    MUST(ds_event_add(r, "test.news", "daemon", NULL, err));
    ck_assert(reconcile(r) == 0 && !ds_reconcile_settled(r));
}

/* A change that no event tells, while the last part is due, is one too. */
/* What follows from a scan is there with its end, whatever else waits. */
START_TEST(a_set_whose_scan_ended) {
    ds_registry *r = start("ended");
    int changed;
    fx_add(r, "d", "/a");
    ck_assert_int_eq(reconcile(r), 1);
    ds_job j = fx_claim(r, DS_JOB_SCAN);
    fx_add(r, "c", "/c");
    fx_add(r, "e", "/e");
    MUST(fx_scan_finish(r, j.id, "one", &changed, err));
    MUST(ds_reconcile_of_job(r, j.id, err));
    ck_assert(live(r, "scan") == 0 && live(r, "train") == 1);
    MUST(ds_reconcile_of_job(r, j.id, err)); /* once */
    ck_assert_int_eq(live(r, "train"), 1);
    ck_assert_int_eq(ds_reconcile_of_job(r, 999, NULL), DS_ENOTFOUND);
    ck_assert_int_eq(reconcile(r), 2); /* the others are not forgotten */
    finish(r);
}
END_TEST

START_TEST(changes_between_parts) {
    ds_registry *r = start("between");
    sql(r, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600)"
           " INSERT INTO datasets(name, source_path, state, scan_wanted, scan_done)"
           " SELECT 's' || i, '/s/' || i, 'failed', 1, 1 FROM n");
    ck_assert(reconcile(r) == 0 && !ds_reconcile_settled(r));
    sql(r, "UPDATE datasets SET scan_wanted = 2 WHERE name = 's1'");
    ck_assert(reconcile(r) == 0 && !ds_reconcile_settled(r));
    ck_assert_int_eq(reconcile(r), 1);
    ck_assert_int_eq(reconcile(r), 0);
    ck_assert(reconcile(r) == 0 && reconcile(r) == 0);
    ck_assert(ds_reconcile_settled(r));
    first_part(r);
    MUST(ds_dataset_rescan(r, "s2", NULL, err));
    ck_assert(reconcile(r) == 0 && !ds_reconcile_settled(r));
    ck_assert_int_eq(reconcile(r), 1);
    ds_job j = fx_claim(r, DS_JOB_SCAN);
    MUST(ds_dataset_rescan(r, j.name, NULL, err));
    while (!ds_reconcile_settled(r))
        ck_assert_int_eq(reconcile(r), 0); /* it has a live one */
    first_part(r);
    ds_job_failure f = {.exit_code = 1, .exit_signal = -1, .code = "DS_EFAILED", .message = "so"};
    MUST(ds_job_fail(r, j.id, &f, NULL, err));
    ck_assert(reconcile(r) == 0 && !ds_reconcile_settled(r));
    ck_assert_int_eq(reconcile(r), 1);
    finish(r);
}
END_TEST

/* Nothing to do is remembered; a commit of another program is seen all the same, with an event of
 * its own (a row) or without (a number). */
START_TEST(commits_of_others_are_seen) {
    ds_registry *r = start("foreign");
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    fx_train(r, 1, "one", NULL);
    ck_assert(reconcile(r) == 0 && reconcile(r) == 0);
    sql(r, "UPDATE datasets SET scan_wanted = scan_wanted + 1");
    ck_assert_int_eq(reconcile(r), 1);
    ck_assert_int_eq(reconcile(r), 0);
    fx_scan(r, "one");
    ck_assert(reconcile(r) == 0 && reconcile(r) == 0);
    sql(r, "INSERT INTO datasets(name, source_path) VALUES ('e', '/e')");
    ck_assert_int_eq(reconcile(r), 1);
    /* and what this connection does */
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    ck_assert_int_eq(reconcile(r), 1);
    finish(r);
}
END_TEST

/* A call that failed has made nothing, and the next one makes all of it. */
START_TEST(a_failed_call_changes_nothing) {
    ds_registry *r = start("failed");
    fx_add(r, "d", "/d");
    fx_add(r, "e", "/e");
    sql(r, "CREATE TRIGGER stop BEFORE INSERT ON jobs WHEN new.name = 'e'"
           " BEGIN SELECT RAISE(ABORT, 'not this one'); END");
    int made = -1;
    ds_error err = {0};
    for (int i = 0; i < 2; i++) {
        ck_assert_int_ne(ds_reconcile(r, &made, &err), 0);
        ck_assert_int_eq(made, 0);
        ck_assert_int_eq(number(r, "SELECT count(*) FROM jobs"), 0);
        ck_assert_int_eq(fx_count(r, "job.queued"), 0);
    }
    sql(r, "DROP TRIGGER stop");
    ck_assert_int_eq(reconcile(r), 2);
    finish(r);
}
END_TEST

START_TEST(removed_sets_are_left_alone) {
    ds_registry *r = start("removed");
    fx_add(r, "d", "/a");
    fx_add(r, "e", "/e");
    MUST(ds_dataset_remove(r, "e", err));
    ck_assert_int_eq(reconcile(r), 1); /* of d alone */
    fx_scan(r, "one");
    MUST(ds_dataset_remove(r, "d", err));
    ck_assert_int_eq(reconcile(r), 0);
    sql(r, "UPDATE datasets SET scan_wanted = scan_wanted + 1");
    ck_assert_int_eq(reconcile(r), 0);
    finish(r);
}
END_TEST

/* A set whose last scan failed waits for the next one. */
START_TEST(a_failed_scan_trains_nothing) {
    ds_registry *r = start("badscan");
    ds_job_failure f = {.exit_code = 2, .exit_signal = -1, .code = "DS_EINVAL", .message = "no"};
    int retried;
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    ds_job j = fx_claim(r, DS_JOB_SCAN);
    MUST(ds_job_fail(r, j.id, &f, &retried, err));
    ck_assert_int_eq(retried, 0);
    ck_assert_int_eq(reconcile(r), 0);
    finish(r);
}
END_TEST

/* No base, no training; a removed one is no base; a set's own goes before the default. */
START_TEST(bases_of_trainings) {
    ds_registry *r = start("bases");
    int64_t second;
    MUST(ds_base_put(r, "second", "/second", NET_SHA, NULL, 0, &second, err));
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    sql(r, "DELETE FROM meta WHERE key = 'active_base'");
    ck_assert_int_eq(reconcile(r), 0);
    sql(r, "UPDATE datasets SET base_id = 2");
    ck_assert_int_eq(reconcile(r), 1);
    ck_assert_int_eq(number(r, "SELECT base_id FROM jobs WHERE kind = 'train'"), second);
    sql(r, "DELETE FROM jobs WHERE kind = 'train'");
    sql(r, "UPDATE bases SET removed_at = 1 WHERE id = 2");
    ck_assert_int_eq(reconcile(r), 0);
    sql(r, "UPDATE datasets SET base_id = NULL");
    sql(r, "INSERT INTO meta VALUES ('active_base', '2')");
    ck_assert_int_eq(reconcile(r), 0);
    sql(r, "UPDATE meta SET value = '1' WHERE key = 'active_base'");
    ck_assert_int_eq(reconcile(r), 1);
    ck_assert_int_eq(number(r, "SELECT base_id FROM jobs WHERE kind = 'train'"), 1);
    finish(r);
}
END_TEST

/* What ended without an adapter does not come back by itself; a later generation does. */
START_TEST(ended_trainings_stay_ended) {
    ds_registry *r = start("ended");
    ds_job_failure f = {.exit_code = 2, .exit_signal = -1, .code = "DS_EINVAL", .message = "no"};
    int retried;
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    ds_job j = fx_claim(r, DS_JOB_TRAIN);
    ck_assert_int_eq(reconcile(r), 0); /* it runs */
    if (_i)
        MUST(ds_job_cancelled(r, j.id, 130, -1, err));
    else
        MUST(ds_job_fail(r, j.id, &f, &retried, err));
    ck_assert_int_eq(reconcile(r), 0);
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    fx_scan(r, "one"); /* the same content */
    ck_assert_int_eq(reconcile(r), 0);
    sql(r, "UPDATE datasets SET generation = generation + 1");
    ck_assert_int_eq(reconcile(r), 1);
    ck_assert_int_eq(number(r, "SELECT max(generation) FROM jobs WHERE kind = 'train'"), 2);
    finish(r);
}
END_TEST

/* ---------------------------------------------------------------- rows of datasets */

START_TEST(datasets_that_cannot_be) {
    ds_registry *r = start("cannot");
    json_t *list = json_array();
    char longest[PATH_MAX + 8], method[80];
    memset(longest, 'a', sizeof longest);
    longest[0] = '/', longest[PATH_MAX] = 0;
    memset(method, 'm', sizeof method);
    method[70] = 0;
    const ds_dataset_new bad[] = {
        {.name = "d"},
        {.name = "d", .path = "rel"},
        {.name = "d", .path = ""},
        {.name = "d", .path = longest},
        {.name = "d", .path = "/a\nb"},
        {.name = "d", .path = "/a\x7f"},
        {.name = "d", .path = "/a\xff"},
        {.name = "d", .path = "/a", .options = list},
        {.name = "d", .path = "/a", .method = method},
        {.name = "a b", .path = "/a"},
    };
    static const char *const words[] = {
        "not absolute", "not absolute", "not absolute", "not absolute", "0x0a",
        "0x7f",         "not UTF-8",    "options",      "too long",     "a b"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int64_t id, seq;
        int created;
        FAILS(DS_EINVAL, words[i], ds_dataset_add(r, &bad[i], &id, &created, &seq, err));
    }
    json_decref(list);
    ck_assert_int_eq(number(r, "SELECT count(*) FROM datasets"), 0);
    finish(r);
}
END_TEST

START_TEST(what_is_told_of_a_dataset) {
    ds_registry *r = start("told");
    json_t *o = NULL;
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    MUST(ds_dataset_get(r, "d", &o, err));
    json_t *v = json_object_get(o, "version");
    ck_assert_int_eq((int)strlen(fx_string(v, "created_at")), 24);
    ck_assert_int_eq((int)strlen(fx_string(o, "created_at")), 24);
    ck_assert_int_eq(strncmp(fx_string(v, "created_at"), "20", 2), 0);
    ck_assert(fx_int(v, "images") == 3 && fx_int(v, "classes") == 1 && fx_int(v, "bytes") == 30);
    ck_assert(fx_int(v, "rejected") == 1 && fx_int(v, "version") == 1 &&
              fx_int(o, "versions") == 1);
    ck_assert_str_eq(fx_string(o, "path"), "/a");
    ck_assert_str_eq(fx_string(o, "method"), "affiner");
    ck_assert(json_is_true(json_object_get(o, "watch")));
    ck_assert(json_is_null(json_object_get(o, "error")) &&
              json_is_null(json_object_get(o, "base")));
    ck_assert(fx_int(json_object_get(o, "scan"), "seq") == 1);
    ck_assert(fx_int(json_object_get(o, "scan"), "done") == 1);
    json_decref(o);
    /* a removed one cannot be scanned or removed, a running scan of it is to stop */
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    ds_job j = fx_claim(r, DS_JOB_SCAN);
    MUST(ds_dataset_remove(r, "d", err));
    ck_assert_int_eq(number(r, "SELECT cancel FROM jobs ORDER BY id DESC LIMIT 1"), 1);
    FAILS(DS_ENOTFOUND, "was removed", ds_dataset_rescan(r, "d", NULL, err));
    MUST(ds_job_cancelled(r, j.id, 130, -1, err));
    finish(r);
}
END_TEST

START_TEST(lists_of_events) {
    ds_registry *r = start("events");
    json_t *list = NULL;
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    int64_t last = ds_event_last_seq(r);
    ck_assert_int_eq(last, number(r, "SELECT max(seq) FROM events"));
    MUST(ds_events_list(r, 0, NULL, 1000, &list, err));
    ck_assert_int_eq((int)json_array_size(list), last);
    json_t *e = json_array_get(list, 0);
    ck_assert(fx_string(e, "type") && fx_string(e, "subject") && fx_string(e, "at"));
    json_decref(list);
    MUST(ds_events_list(r, last - 2, NULL, 1000, &list, err));
    ck_assert_int_eq((int)json_array_size(list), 2);
    json_decref(list);
    MUST(ds_events_list(r, 0, NULL, 3, &list, err));
    ck_assert_int_eq((int)json_array_size(list), 3);
    json_decref(list);
    ck_assert_int_eq(fx_count(r, "job.queued"), 1);
    ck_assert_int_eq(fx_count(r, "job"), 0); /* a type, not the beginning of one */
    ck_assert_int_gt(fx_count(r, "job."), 1);
    finish(r);
}
END_TEST

/* ---------------------------------------------------------------- what gc leaves alone */

static int has(const json_t *facts, const char *set, const char *key) {
    return json_object_get(json_object_get(facts, set), key) != NULL;
}

static json_t *facts_of(ds_registry *r) {
    json_t *o = NULL;
    MUST(ds_cleanup_facts(r, &o, err));
    return o;
}

START_TEST(what_caches_are_needed) {
    ds_registry *r = start("facts");
    char one[DS_HEX_SIZE], two[DS_HEX_SIZE];
    int changed;
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    MUST(ds_dataset_manifest(r, "d", 1, one, err));
    ds_job train = fx_claim(r, DS_JOB_TRAIN); /* works on version 1 ... */
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    ds_job scan = fx_claim(r, DS_JOB_SCAN);
    MUST(fx_scan_finish(r, scan.id, "two", &changed, err));
    MUST(ds_dataset_manifest(r, "d", 2, two, err));
    json_t *o = facts_of(r); /* ... while version 2 is the present one */
    ck_assert(has(o, "manifests", one) && has(o, "manifests", two));
    ck_assert(has(o, "datasets", "1") && has(o, "bases", BASE_SHA));
    ck_assert(json_is_false(json_object_get(o, "importing")));
    json_decref(o);
    MUST(ds_job_cancelled(r, train.id, 130, -1, err));
    o = facts_of(r);
    ck_assert(!has(o, "manifests", one) && has(o, "manifests", two));
    json_decref(o);
    MUST(ds_dataset_remove(r, "d", err));
    sql(r, "UPDATE bases SET vae_sha256 = '" NET_SHA "'");
    o = facts_of(r);
    ck_assert(!has(o, "manifests", two) && !has(o, "datasets", "1"));
    ck_assert(has(o, "vaes", NET_SHA));
    json_decref(o);
    sql(r, "UPDATE bases SET removed_at = 1");
    o = facts_of(r);
    ck_assert(!has(o, "bases", BASE_SHA) && !has(o, "vaes", NET_SHA));
    json_decref(o);
    sql(r, "INSERT INTO jobs(kind, name, created_at) VALUES ('import', 'x', 1)");
    for (int i = 0; i < 3; i++) { /* queued, running, cancelled */
        ds_job j;
        o = facts_of(r);
        ck_assert_msg(json_is_true(json_object_get(o, "importing")) == (i < 2), "%d", i);
        json_decref(o);
        if (i == 0) {
            MUST(ds_job_next(r, DS_KIND_BIT(DS_JOB_IMPORT), INT64_MAX, &j, NULL, err));
            MUST(ds_job_claim(r, j.id, err));
        } else if (i == 1)
            sql(r, "UPDATE jobs SET state = 'cancelled', finished_at = 2 WHERE kind = 'import'");
    }
    ds_registry_close(r);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, a_rescan_comes_before_the_training);
    tcase_add_test(tc, a_job_says_whose_it_is);
    tcase_add_test(tc, more_than_100_sets);
    tcase_add_test(tc, sets_in_parts);
    tcase_add_test(tc, a_rescan_of_all_is_seen);
    tcase_add_test(tc, a_set_whose_scan_ended);
    tcase_add_test(tc, changes_between_parts);
    tcase_add_test(tc, commits_of_others_are_seen);
    tcase_add_test(tc, a_failed_call_changes_nothing);
    tcase_add_test(tc, removed_sets_are_left_alone);
    tcase_add_test(tc, a_failed_scan_trains_nothing);
    tcase_add_test(tc, bases_of_trainings);
    tcase_add_loop_test(tc, ended_trainings_stay_ended, 0, 2);
    tcase_add_test(tc, datasets_that_cannot_be);
    tcase_add_test(tc, what_is_told_of_a_dataset);
    tcase_add_test(tc, lists_of_events);
    tcase_add_test(tc, what_caches_are_needed);
}

int main(void) {
    fx_fast_tmp();
    return ds_test_main("registry_reconcile", cases);
}
