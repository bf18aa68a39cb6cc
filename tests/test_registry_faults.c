/* tests/test_registry_faults.c - the database fails at any moment of any change, once: the change
 * says so and has changed nothing, and made again it gives what it gives undisturbed.
 *
 * The moment is chosen by counting SQLite's instructions.  A second registry does the same without
 * a fault; both must hold the same rows after each change, times apart. */
#include "registry/db.h"
#include "tests/registry_fixture.h"

#include "base/digest.h"
#include "base/mem.h"

static int countdown, fired; /* instructions until the fault; 0 = none will come */

static int strike(void *unused) {
    (void)unused;
    if (!countdown || --countdown)
        return 0;
    fired = 1;
    return 1;
}

static void arm(ds_registry *r, int after) {
    countdown = after;
    if (after)
        fired = 0;
    sqlite3_progress_handler(r->db, after ? 1 : 0, after ? strike : NULL, NULL);
}

static int is_time(const char *column) {
    size_t n = strlen(column);
    return !strcmp(column, "at") || !strcmp(column, "run_after") ||
           (n > 3 && !strcmp(column + n - 3, "_at"));
}

/* Digest of all rows, without times, and without what names the registry itself. */
static void rows_of(ds_registry *r, char sha[DS_HEX_SIZE]) {
    ds_buf b = {0};
    sqlite3_stmt *tables, *q;
    ck_assert_int_eq(sqlite3_prepare_v2(r->db,
                                        "SELECT name FROM sqlite_schema WHERE type = 'table' AND"
                                        " name NOT IN ('migrations') ORDER BY name",
                                        -1, &tables, NULL),
                     SQLITE_OK);
    while (sqlite3_step(tables) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(tables, 0);
        char *text = ds_xasprintf("SELECT * FROM \"%s\"%s ORDER BY 1, 2", name,
                                  strcmp(name, "meta") ? "" : " WHERE key = 'active_base'");
        ck_assert_int_eq(sqlite3_prepare_v2(r->db, text, -1, &q, NULL), SQLITE_OK);
        ds_buf_addf(&b, "= %s\n", name);
        while (sqlite3_step(q) == SQLITE_ROW) {
            for (int i = 0; i < sqlite3_column_count(q); i++) {
                const char *v = (const char *)sqlite3_column_text(q, i);
                if (!is_time(sqlite3_column_name(q, i)))
                    ds_buf_addf(&b, "%s|", v ? v : "-");
            }
            ds_buf_addf(&b, "\n");
        }
        sqlite3_finalize(q);
        free(text);
    }
    sqlite3_finalize(tables);
    ds_digest(b.data, b.len, sha);
    if (getenv("DS_TEST_SHOW"))
        printf("%s\n", b.data);
    ds_buf_release(&b);
}

/* ---------------------------------------------------------------- the changes */

static ds_job taken(ds_registry *r, enum ds_job_kind kind) {
    ds_job list[4];
    int n, wait = countdown; /* this is no part of the change */
    countdown = 0;
    MUST(ds_jobs_running(r, list, 4, &n, err));
    countdown = wait;
    for (int i = 0; i < n; i++)
        if (list[i].kind == kind)
            return list[i];
    ck_abort_msg("no such job runs");
}

static int add(ds_registry *r, ds_error *err) {
    ds_dataset_new d = {.name = "d", .path = "/a", .watch = -1};
    int64_t id, seq;
    int created;
    return ds_dataset_add(r, &d, &id, &created, &seq, err);
}

static int add_again(ds_registry *r, ds_error *err) {
    json_t *options = json_pack("{si}", "steps", 5);
    ds_dataset_new d = {.name = "d",
                        .path = "/a",
                        .watch = 0,
                        .options = options,
                        .base_id = 1,
                        .publish_worse = 1};
    int64_t id, seq;
    int created;
    int rc = ds_dataset_add(r, &d, &id, &created, &seq, err);
    json_decref(options);
    return rc;
}

static int rescan(ds_registry *r, ds_error *err) { return ds_dataset_rescan(r, "d", NULL, err); }
static int reconcile(ds_registry *r, ds_error *err) { return ds_reconcile(r, NULL, err); }

static int claim(ds_registry *r, ds_error *err) {
    ds_job j;
    int rc = ds_job_next(r, ~0u, INT64_MAX, &j, NULL, err);
    return rc ? rc : ds_job_claim(r, j.id, err);
}

static int scanned(ds_registry *r, const char *content, ds_error *err) {
    return fx_scan_finish(r, taken(r, DS_JOB_SCAN).id, content, NULL, err);
}
static int scan_one(ds_registry *r, ds_error *err) { return scanned(r, "one", err); }
static int scan_two(ds_registry *r, ds_error *err) { return scanned(r, "two", err); }

static int published(ds_registry *r, int passed, const char *content, ds_error *err) {
    ds_job j = taken(r, DS_JOB_TRAIN);
    int wait = countdown;
    char name[DS_HEX_SIZE + 16];
    ds_blob a, f;
    json_t *spec, *result;
    countdown = 0;
    ck_assert_int_eq(ds_store_put_bytes(r->store, content, strlen(content), &a, NULL), 0);
    ck_assert_int_eq(ds_store_put_bytes(r->store, "reference", 9, &f, NULL), 0);
    fx_training(r, &j, passed, &a, &f, &spec, &result);
    countdown = wait;
    ds_publication p = {
        .job = j.id, .spec = spec, .result = result, .adapter = &a, .reference = &f};
    int rc = ds_publish(r, &p, name, err);
    json_decref(spec);
    json_decref(result);
    return rc;
}
static int publish_one(ds_registry *r, ds_error *err) { return published(r, 1, "one", err); }
static int publish_two(ds_registry *r, ds_error *err) { return published(r, 0, "two", err); }

static const ds_job_failure failure = {
    .exit_code = 1, .exit_signal = -1, .code = "DS_EIO", .message = "no luck", .retry = 1};
static int fail_train(ds_registry *r, ds_error *err) {
    return ds_job_fail(r, taken(r, DS_JOB_TRAIN).id, &failure, NULL, err);
}
static int postpone(ds_registry *r, ds_error *err) {
    return ds_job_postpone(r, taken(r, DS_JOB_TRAIN).id, 0, &failure, err);
}
static int requeue(ds_registry *r, ds_error *err) {
    return ds_job_requeue(r, taken(r, DS_JOB_TRAIN).id, "the daemon stops", err);
}
static int progress(ds_registry *r, ds_error *err) {
    json_t *p = json_pack("{si}", "done", 3);
    int rc = ds_job_progress(r, taken(r, DS_JOB_TRAIN).id, "train", p, err);
    json_decref(p);
    return rc;
}
static int cancel_running(ds_registry *r, ds_error *err) {
    int running;
    return ds_job_cancel(r, taken(r, DS_JOB_SCAN).id, &running, err);
}
static int cancelled(ds_registry *r, ds_error *err) {
    return ds_job_cancelled(r, taken(r, DS_JOB_SCAN).id, 130, -1, err);
}
static int set_alias(ds_registry *r, ds_error *err) {
    json_t *o = NULL;
    int rc = ds_alias_set(r, "d", "prod", 1, -1, "as it was", &o, err);
    json_decref(o);
    return rc;
}
static int add_sample(ds_registry *r, ds_error *err) {
    int64_t id;
    json_t *payload = json_pack("{ss}", "ref", "d@v1");
    int rc = ds_job_add(r, DS_JOB_SAMPLE, "d", payload, 1, &id, err);
    json_decref(payload);
    return rc;
}
static int sampled(ds_registry *r, ds_error *err) {
    json_t *result = json_pack("{si}", "n", 1);
    int rc = ds_job_done(r, taken(r, DS_JOB_SAMPLE).id, result, err);
    json_decref(result);
    return rc;
}
static int delete_rejected(ds_registry *r, ds_error *err) {
    return ds_adapter_delete(r, "d@v2", err);
}
static int remove_set(ds_registry *r, ds_error *err) { return ds_dataset_remove(r, "d", err); }
static int add_base(ds_registry *r, ds_error *err) {
    int64_t id;
    return ds_base_put(r, "xl", "/xl", NET_SHA, NULL, 0, &id, err);
}
static int choose_base(ds_registry *r, ds_error *err) { return ds_base_choose(r, 2, err); }
static int back_to_first(ds_registry *r, ds_error *err) { return ds_base_choose(r, 1, err); }
static int remove_base(ds_registry *r, ds_error *err) { return ds_base_remove(r, 2, NULL, err); }

static const struct {
    const char *name;
    int (*make)(ds_registry *r, ds_error *err);
} changes[] = {
    {"add", add},
    {"reconcile: scan", reconcile},
    {"claim scan", claim},
    {"scan finished", scan_one},
    {"reconcile: train", reconcile},
    {"claim train", claim},
    {"progress", progress},
    {"postpone", postpone},
    {"claim again", claim},
    {"requeue", requeue},
    {"claim a third time", claim},
    {"fail and retry", fail_train},
    {"claim a fourth time", claim},
    {"publish", publish_one},
    {"set alias", set_alias},
    {"rescan", rescan},
    {"reconcile: rescan", reconcile},
    {"claim rescan", claim},
    {"scan of another content", scan_two},
    {"reconcile: second training", reconcile},
    {"claim second training", claim},
    {"publish a rejected one", publish_two},
    {"sample", add_sample},
    {"claim sample", claim},
    {"sample done", sampled},
    {"add again", add_again},
    {"reconcile: third scan", reconcile},
    {"claim third scan", claim},
    {"cancel", cancel_running},
    {"cancelled", cancelled},
    {"delete", delete_rejected},
    {"add base", add_base},
    {"choose base", choose_base},
    {"first base again", back_to_first},
    {"remove base", remove_base},
    {"remove dataset", remove_set},
    {"reconcile: nothing", reconcile},
};
enum { CHANGES = sizeof changes / sizeof *changes, POINTS = 30 };

/* Instructions that a change takes. */
static int length_of(int i, ds_registry *r) {
    ds_error err;
    arm(r, 1 << 30);
    int rc = changes[i].make(r, &err), n = (1 << 30) - countdown;
    arm(r, 0);
    ck_assert_msg(rc == 0, "%s without a fault: %s", changes[i].name, err.message);
    return n;
}

START_TEST(a_fault_at_any_moment) {
    char dir[PATH_MAX], want[DS_HEX_SIZE], before[DS_HEX_SIZE], after[DS_HEX_SIZE];
    ds_registry *undisturbed = fx_open(fx_dir("undisturbed"));
    snprintf(dir, sizeof dir, "%s", fx_dir("disturbed"));
    ds_registry *r = fx_open(dir);
    int faults = 0, survived = 0;
    for (int i = 0; i < CHANGES; i++) {
        int length = length_of(i, undisturbed), step = length / POINTS + 1, made = 0;
        rows_of(undisturbed, want);
        rows_of(r, before);
        for (int at = 1 + i % step; !made; at += step) {
            ds_error err = {0};
            arm(r, at);
            int rc = changes[i].make(r, &err);
            arm(r, 0);
            rows_of(r, after);
            faults += fired;
            survived += fired && !rc;
            ck_assert_msg(sqlite3_get_autocommit(r->db), "%s, fault at %d: a transaction is open",
                          changes[i].name, at);
            if (rc && strcmp(before, after) && !strcmp(want, after))
                rc = 0; /* SQLite asks once more after it has committed: made, and said to fail */
            if (rc) {
                ck_assert_msg(fired, "%s: %s", changes[i].name, err.message);
                ck_assert_msg(!strcmp(before, after), "%s failed at %d and changed something",
                              changes[i].name, at);
                continue;
            }
            made = 1;
            ck_assert_msg(!strcmp(want, after), "%s with a fault at %d: other rows",
                          changes[i].name, at);
        }
    }
    printf("%d faults in %d changes, %d of no consequence\n", faults, CHANGES, survived);
    ck_assert_int_gt(faults, 10 * CHANGES);
    MUST(ds_registry_check(r, err));
    ds_registry_close(r);
    ds_registry_close(undisturbed);
}
END_TEST

static void cases(TCase *tc) { tcase_add_test(tc, a_fault_at_any_moment); }

int main(void) {
    fx_fast_tmp();
    return ds_test_main("registry_faults", cases);
}
