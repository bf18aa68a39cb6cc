/* tests/registry/test_registry_growth.c - years of rescans leave nothing behind. */
#include "registry/core/db.h"
#include "registry/jobs/prune.h"
#include "tests/fixtures/registry_fixture.h"

#include <sys/resource.h>

static int64_t rows(ds_registry *r, const char *table) {
    char sql[100];
    int64_t n = -1;
    snprintf(sql, sizeof sql, "SELECT count(*) FROM %s", table);
    MUST(db_int(r, &n, err, sql, ""));
    return n;
}

static int64_t all_rows(ds_registry *r) {
    static const char *const tables[] = {"jobs",  "job_attempts", "job_metrics",     "events",
                                         "blobs", "blob_leases",  "dataset_versions"};
    int64_t n = 0;
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        n += rows(r, tables[i]);
    return n;
}

static int64_t pages(ds_registry *r) {
    int64_t n = 0;
    MUST(db_int(r, &n, err, "PRAGMA page_count", ""));
    return n;
}

#if defined(__SANITIZE_ADDRESS__)
enum { SANITIZED = 1 }; /* what is freed is kept for a while */
#else
enum { SANITIZED = 0 };
#endif

static long resident_kib(void) { /* now, not at its greatest */
    long all = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    ck_assert(f && fscanf(f, "%ld %ld", &all, &resident) == 2);
    fclose(f);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static int number(const char *name, int otherwise) {
    const char *s = getenv(name);
    return s && *s ? (int)strtol(s, NULL, 10) : otherwise;
}

/* GROWTH_SETS x GROWTH_RESCANS; tests/long/rescans.sh asks for more. */
START_TEST(unchanged_rescans_leave_no_row) {
    int sets = number("GROWTH_SETS", 3), rescans = number("GROWTH_RESCANS", 100);
    ds_registry *r = fx_open(fx_dir("unchanged"));
    char name[32], path[32];
    for (int i = 0; i < sets; i++) {
        snprintf(name, sizeof name, "d%d", i);
        snprintf(path, sizeof path, "/d%d", i);
        fx_add(r, name, path);
        fx_scan(r, name);
        fx_train(r, 1, name, NULL);
    }
    int64_t before = all_rows(r), size = 0, seq = ds_event_last_seq(r);
    long resident = 0;
    for (int k = 0; k < rescans; k++) {
        for (int i = 0; i < sets; i++) {
            snprintf(name, sizeof name, "d%d", i);
            MUST(ds_dataset_rescan(r, name, NULL, err));
            if (k % 7 == 3) { /* some fail once on the way, which is no news either */
                ds_job_failure f = {.exit_code = 1, .exit_signal = -1, .retry = 1};
                ds_job j = fx_claim(r, DS_JOB_SCAN);
                MUST(ds_job_fail(r, j.id, &f, NULL, err));
                ck_assert_int_eq(ds_event_last_seq(r), seq);
            }
            fx_scan(r, name);
        }
        if (k == 10) {
            size = pages(r);
            resident = resident_kib();
        }
    }
    ck_assert_int_eq(all_rows(r), before);
    ck_assert_int_eq(ds_event_last_seq(r), seq);
    ck_assert_int_le(pages(r), size + 1);
    ck_assert_msg(SANITIZED || resident_kib() < resident + 1024, "%ld KiB, then %ld", resident,
                  resident_kib());
    MUST(ds_registry_check(r, err));
    MUST(ds_dataset_rescan(r, "d0", NULL, err)); /* and news are news */
    int64_t id = fx_scan(r, "other");
    ds_job j;
    MUST(ds_job_read(r, id, &j, err));
    ck_assert_int_eq(fx_count(r, "dataset.changed"), 1);
    ck_assert_int_eq(fx_count(r, "job.done"), 2 * sets + 1);
    printf("registry_growth: %d unchanged rescans left 0 rows\n", sets * rescans);
    ds_registry_close(r);
}
END_TEST

static void fail_scan(ds_registry *r, const char *message) {
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    ds_job j = fx_claim(r, DS_JOB_SCAN);
    ds_job_failure f = {
        .exit_code = 2, .exit_signal = -1, .code = "DS_ENOTFOUND", .message = message};
    MUST(ds_job_fail(r, j.id, &f, NULL, err));
}

/* A disk that is away: said when it goes and when it comes back. */
START_TEST(the_same_failure_again_leaves_no_row) {
    ds_registry *r = fx_open(fx_dir("failing"));
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    fx_train(r, 1, "one", NULL);
    fail_scan(r, "no such folder");
    int64_t before = all_rows(r);
    ck_assert_int_eq(fx_count(r, "dataset.failed"), 1);
    for (int i = 0; i < 30; i++)
        fail_scan(r, "no such folder");
    ck_assert_int_eq(all_rows(r), before);
    json_t *d = NULL;
    MUST(ds_dataset_get(r, "d", &d, err));
    ck_assert_str_eq(fx_string(json_object_get(d, "scan"), "state"), "failed");
    json_decref(d);
    fail_scan(r, "permission denied");
    ck_assert_int_eq(fx_count(r, "dataset.failed"), 2);
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    fx_scan(r, "one");
    ck_assert_int_eq(fx_count(r, "dataset.unchanged"), 1); /* it is back */
    before = all_rows(r);
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    fx_scan(r, "one");
    ck_assert_int_eq(all_rows(r), before);
    MUST(ds_registry_check(r, err));
    ds_registry_close(r);
}
END_TEST

/* A change while an unchanged scan runs: nobody is told that it ended, but the next one is made. */
START_TEST(a_change_during_an_unchanged_scan) {
    ds_registry *r = fx_open(fx_dir("during"));
    int made = 0;
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    fx_train(r, 1, "one", NULL);
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    ds_job j = fx_claim(r, DS_JOB_SCAN);
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    MUST(ds_reconcile(r, &made, err));
    MUST(ds_reconcile(r, &made, err));
    ck_assert_int_eq(made, 0);
    int changed = 1;
    MUST(fx_scan_finish(r, j.id, "one", &changed, err));
    ck_assert_int_eq(changed, 0);
    MUST(ds_reconcile(r, &made, err));
    ck_assert_int_eq(made, 1);
    ds_registry_close(r);
}
END_TEST

/* All that prune finds with these horizons. */
static ds_prune_rows prune_all(ds_registry *r, int64_t jobs_before, int64_t events_before,
                               int dry_run) {
    ds_prune_rows p = {
        .jobs_before = jobs_before, .events_before = events_before, .dry_run = dry_run};
    int more;
    do {
        ds_error e;
        more = ds_prune_some(r, &p, &e);
        ck_assert_msg(more >= 0, "%s", e.message);
    } while (more);
    return p;
}

static int64_t sample_job(ds_registry *r, int fail) {
    int64_t id = 0;
    MUST(ds_job_add(r, DS_JOB_SAMPLE, "d", NULL, 1, &id, err));
    if (fail < 0)
        return id; /* stays queued */
    MUST(ds_job_claim(r, id, err));
    ds_job_failure f = {.exit_code = 2, .exit_signal = -1};
    if (fail)
        MUST(ds_job_fail(r, id, &f, NULL, err));
    else
        MUST(ds_job_done(r, id, NULL, err));
    return id;
}

static int exists(ds_registry *r, int64_t job) {
    ds_job j;
    return ds_job_read(r, job, &j, NULL) == 0;
}

START_TEST(old_rows_go_and_history_stays) {
    ds_registry *r = fx_open(fx_dir("prune"));
    fx_add(r, "d", "/a");
    int64_t scan = fx_scan(r, "one"), train = fx_train(r, 1, "one", NULL).id;
    fx_add(r, "e", "/b");
    fx_scan(r, "two");
    ds_job failed = fx_claim(r, DS_JOB_TRAIN); /* keeps the present content from being trained */
    ds_job_failure f = {.exit_code = 2, .exit_signal = -1};
    MUST(ds_job_fail(r, failed.id, &f, NULL, err));
    int64_t done = sample_job(r, 0), bad = sample_job(r, 1), queued = sample_job(r, -1);
    int64_t seq = ds_event_last_seq(r), published = fx_count(r, "adapter.published");
    ds_prune_rows none = prune_all(r, 1000, 1000, 0); /* nothing is so old */
    ck_assert(none.jobs == 0 && none.events == 0);
    int64_t far = INT64_MAX / 2, before = all_rows(r);
    ds_prune_rows dry = prune_all(r, far, far, 1);
    ck_assert_int_eq(all_rows(r), before);
    ds_prune_rows p = prune_all(r, far, far, 0);
    ck_assert(p.jobs == dry.jobs && p.events >= dry.events); /* those of jobs that went as well */
    ck_assert_int_eq(p.jobs, 4);                             /* two scans and two samples */
    ck_assert(!exists(r, scan) && !exists(r, done) && !exists(r, bad));
    ck_assert(exists(r, train) && exists(r, failed.id) && exists(r, queued));
    ck_assert_int_eq(fx_count(r, "adapter.published"), published);
    ck_assert(fx_count(r, "gate.") == 1 && fx_count(r, "alias.set") == 1);
    ck_assert_int_eq(fx_count(r, "dataset.added"), 2);
    ck_assert_int_eq(fx_count(r, "job."), 1); /* of the one that is queued */
    MUST(ds_registry_check(r, err));
    int made;
    MUST(ds_reconcile(r, &made, err)); /* nothing is trained or scanned anew for it */
    MUST(ds_reconcile(r, &made, err));
    ck_assert_int_eq(made, 0);
    ck_assert_int_eq(ds_event_last_seq(r), seq); /* cursors of readers stay good */
    int64_t next = sample_job(r, 0);
    ck_assert_int_gt(next, queued); /* numbers are not given out again */
    ck_assert_int_gt(ds_event_last_seq(r), seq);
    ck_assert(fx_foreign(r, "DELETE FROM events") != SQLITE_OK);
    ck_assert_int_eq(fx_foreign(r, "BEGIN; INSERT INTO meta VALUES ('pruning', '1'); DELETE FROM"
                                   " events WHERE type = 'adapter.published'; COMMIT"),
                     SQLITE_CONSTRAINT);
    MUST(ds_registry_check(r, err));
    ds_registry_close(r);
}
END_TEST

static int64_t add_event(ds_registry *r, int64_t at) {
    MUST(db_run(r, err,
                "INSERT INTO events(at, type, subject) VALUES (?1, 'daemon.started', 'daemon')",
                "i", at));
    return ds_event_last_seq(r);
}

static int64_t add_ended(ds_registry *r, int64_t at) {
    MUST(db_run(r, err,
                "INSERT INTO jobs(kind, state, name, created_at, started_at, finished_at)"
                " VALUES ('sample', 'done', '', 1, 1, ?1)",
                "i", at));
    int64_t id = 0;
    MUST(db_int(r, &id, err, "SELECT max(id) FROM jobs", ""));
    return id;
}

/* What ended, or happened, at the horizon itself stays; what is older by a ms goes. */
START_TEST(horizons_of_prune) {
    ds_registry *r = fx_open(fx_dir("horizon"));
    int64_t jobs[2] = {add_ended(r, 4999), add_ended(r, 5000)};
    int64_t from = ds_event_last_seq(r), n = 0, newest = 0;
    MUST(db_int(r, &newest, err, "SELECT max(at) FROM events", ""));
    add_event(r, 7999);
    add_event(r, 8000);
    ds_prune_rows p = prune_all(r, 5000, 8000, 0);
    ck_assert(p.jobs == 1 && !exists(r, jobs[0]) && exists(r, jobs[1]));
    MUST(db_int(r, &n, err,
                "SELECT min(seq) FROM events WHERE seq > ?1 AND type ="
                " 'daemon.started'",
                "i", from));
    ck_assert_int_eq(n, from + 2);
    ck_assert_int_eq(p.events, 1);
    MUST(db_int(r, &n, err,
                "SELECT CAST(value AS INTEGER) FROM meta WHERE key ="
                " 'events_pruned_before'",
                ""));
    ck_assert_int_eq(n, newest + 1); /* of all up to the last that went */
    add_event(r, 3000);
    prune_all(r, 0, 4000, 0); /* 0: whatever their age, jobs stay */
    ck_assert(exists(r, jobs[1]));
    MUST(db_int(r, &n, err,
                "SELECT CAST(value AS INTEGER) FROM meta WHERE key ="
                " 'events_pruned_before'",
                ""));
    ck_assert_int_ge(n, newest + 1); /* it never goes back */
    MUST(db_int(r, &n, err, "SELECT count(*) FROM meta WHERE key = 'pruning'", ""));
    ck_assert_int_eq(n, 0);
    /* beyond a number the oldest events go, whatever their age */
    int64_t last = 0;
    for (int i = 0; i < 10; i++)
        last = add_event(r, 9000);
    ds_prune_rows most = {.events_most = 3};
    while (ds_prune_some(r, &most, NULL) > 0)
        ;
    MUST(db_int(r, &n, err, "SELECT min(seq) FROM events WHERE type = 'daemon.started'", ""));
    ck_assert_int_eq(n, last - 3);
    ds_registry_close(r);
}
END_TEST

START_TEST(uses_of_folders) {
    ds_registry *r = fx_open(fx_dir("uses"));
    int64_t ended = add_ended(r, 5000);
    fx_add(r, "d", "/a");
    MUST(ds_reconcile(r, NULL, err));
    ds_job j;
    MUST(ds_job_next(r, DS_KIND_BIT(DS_JOB_SCAN), INT64_MAX, &j, NULL, err));
    const struct {
        int64_t job, before;
        enum ds_folder_use use;
    } want[] = {{ended, 5000, DS_FOLDER_ENDED},
                {ended, 5001, DS_FOLDER_OLD},
                {j.id, INT64_MAX, DS_FOLDER_LIVE},
                {j.id + 1, INT64_MAX, DS_FOLDER_NONE},
                {ended, 0, DS_FOLDER_ENDED}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        enum ds_folder_use use = 99;
        MUST(ds_prune_folder(r, want[i].job, want[i].before, &use, err));
        ck_assert_msg(use == want[i].use, "%zu: %d", i, (int)use);
    }
    /* a registry that cannot be asked says so, and nothing goes */
    ck_assert_int_eq(fx_foreign(r, "ALTER TABLE jobs RENAME COLUMN finished_at TO ended"),
                     SQLITE_OK);
    enum ds_folder_use use = 99;
    ds_error e;
    ck_assert(ds_prune_folder(r, ended, 9999, &use, &e) != 0);
    ck_assert_int_eq(use, DS_FOLDER_NONE);
    ds_prune_rows p = {.jobs_before = 9999};
    ck_assert_int_lt(ds_prune_some(r, &p, &e), 0);
    ds_registry_close(r);
}
END_TEST

/* Whatever their age, the oldest go beyond a number; many windows. */
START_TEST(limits_of_prune) {
    ds_registry *r = fx_open(fx_dir("limits"));
    MUST(db_run(r, err,
                "INSERT INTO jobs(kind, state, name, created_at, started_at, finished_at)"
                " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
                " SELECT 'sample', 'done', '', 1, 1, 1000000 + i FROM n",
                ""));
    ds_prune_rows p = {.jobs_most = 1200, .events_most = 0};
    while (ds_prune_some(r, &p, NULL) > 0)
        ;
    ck_assert_int_eq(rows(r, "jobs"), 1201);
    ck_assert_int_eq(p.jobs, 3799);
    ck_assert(exists(r, 5000) && !exists(r, 3799));
    ds_registry_close(r);
}
END_TEST

static void cases(TCase *tc) {
    tcase_set_timeout(tc, getenv("GROWTH_RESCANS") ? 7200 : 60);
    tcase_add_test(tc, unchanged_rescans_leave_no_row);
    tcase_add_test(tc, the_same_failure_again_leaves_no_row);
    tcase_add_test(tc, a_change_during_an_unchanged_scan);
    tcase_add_test(tc, old_rows_go_and_history_stays);
    tcase_add_test(tc, limits_of_prune);
    tcase_add_test(tc, horizons_of_prune);
    tcase_add_test(tc, uses_of_folders);
}

int main(void) {
    fx_fast_tmp();
    return ds_test_main("registry_growth", cases);
}
