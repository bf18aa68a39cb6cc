/* tests/registry/test_registry_faults.c - the database fails in each statement of any change, once: the change
 * says so and has changed nothing, and made again it gives what it gives undisturbed.
 *
 * The moment is chosen by counting statements, those of triggers among them; when reading, by
 * counting SQLite's instructions.  A second registry does the same without a fault; both must hold
 * the same rows after each change, times apart. */
#include "tests/fixtures/registry_changes.h"

#include "base/digest.h"
#include "base/mem.h"
#include "registry/rows/bars.h"
#include "registry/rows/base_tasks.h"
#include "registry/jobs/cleanup.h"
#include "registry/rows/feature_nets.h"

#include <math.h>

/* countdown: statements, or instructions, until the fault; 0 = none will come */
static int fired, due;

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

static int on_statement(unsigned type, void *unused, void *statement, void *text) {
    (void)type, (void)unused, (void)statement, (void)text;
    due |= countdown && !--countdown;
    return 0;
}

static int strike_when_due(void *unused) {
    (void)unused;
    fired |= due;
    int now = due;
    due = 0;
    return now;
}

/* In the statement with this number. */
static void arm_statement(ds_registry *r, int after) {
    countdown = after;
    due = 0;
    if (after)
        fired = 0;
    sqlite3_trace_v2(r->db, after ? SQLITE_TRACE_STMT : 0, after ? on_statement : NULL, NULL);
    sqlite3_progress_handler(r->db, after ? 1 : 0, after ? strike_when_due : NULL, NULL);
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

static struct {
    int length, next;       /* statements without a fault; where the next fault comes */
    char rows[DS_HEX_SIZE]; /* after it */
} undisturbed[CHANGES];
static int statements;

static void without_a_fault(void) {
    ds_registry *r = fx_open(fx_dir("undisturbed"));
    for (int i = 0; i < CHANGES; i++) {
        ds_error err;
        arm_statement(r, 1 << 30);
        int rc = changes[i].make(r, &err), n = (1 << 30) - countdown;
        arm_statement(r, 0);
        ck_assert_msg(rc == 0, "%s without a fault: %s", changes[i].name, err.message);
        undisturbed[i].length = n;
        undisturbed[i].next = 1;
        statements += n;
        rows_of(r, undisturbed[i].rows);
    }
    ds_registry_close(r);
}

static int faults, survived;

/* One fault after another, until the change is made.  1: it was made in spite of the last one. */
static int disturb(ds_registry *r, int i) {
    char before[DS_HEX_SIZE], after[DS_HEX_SIZE];
    const char *name = changes[i].name;
    rows_of(r, before);
    for (;;) {
        int at = undisturbed[i].next;
        ds_error err = {0};
        arm_statement(r, at);
        int rc = changes[i].make(r, &err);
        arm_statement(r, 0);
        rows_of(r, after);
        ck_assert_msg(sqlite3_get_autocommit(r->db), "%s, fault at %d: a transaction is open", name,
                      at);
        faults += fired;
        undisturbed[i].next += fired;
        if (rc && strcmp(before, after) && !strcmp(undisturbed[i].rows, after))
            rc = 0; /* SQLite asks once more after it has committed: made, and said to fail */
        if (!rc) {
            ck_assert_msg(!strcmp(undisturbed[i].rows, after), "%s, fault at %d: other rows", name,
                          at);
            return fired;
        }
        ck_assert_msg(fired, "%s: %s", name, err.message);
        ck_assert_msg(!strcmp(before, after), "%s failed at %d and changed something", name, at);
    }
}

/* A fault that did no harm leaves no more to disturb: then another life begins, behind it. */
START_TEST(a_fault_at_any_moment) {
    without_a_fault();
    for (int again = 1, life = 0; again; life++) {
        char name[24];
        snprintf(name, sizeof name, "life-%d", life);
        ds_registry *r = fx_open(fx_dir(name));
        again = 0;
        for (int i = 0; !again && i < CHANGES; i++)
            again = disturb(r, i);
        survived += again;
        MUST(ds_registry_check(r, err));
        ds_registry_close(r);
        ck_assert_int_lt(life, 500);
    }
    printf("%d faults in %d statements of %d changes, %d of no consequence\n", faults, statements,
           CHANGES, survived);
    ck_assert_int_gt(faults, statements * 9 / 10);
    ck_assert_int_lt(survived, faults / 4);
}
END_TEST

/* ---------------------------------------------------------------- reading */

#define READ(name, call)                                                                           \
    static int name(ds_registry *r, json_t **out, ds_error *err) { return call; }
READ(one_dataset, ds_dataset_get(r, "d", out, err))
READ(all_datasets, ds_dataset_list(r, (ds_page){0}, 1, out, err))
READ(rejected_files, ds_dataset_rejected(r, "d", out, err))
READ(one_version, ds_dataset_version_get(r, 1, out, err))
READ(one_adapter, ds_adapter_get(r, "d", out, err))
READ(all_adapters, ds_adapter_list(r, (ds_page){0}, &(ds_adapter_filter){.max_fd = NAN}, out, err))
READ(all_aliases, ds_alias_list(r, "d", out, err))
READ(one_history, ds_alias_history(r, "d", "latest", out, err))
READ(one_job, ds_job_get(r, 2, out, err))
READ(all_jobs, ds_job_list(r, (ds_page){0}, &(ds_job_filter){0}, out, err))
READ(waiting, ds_jobs_waiting(r, out, err))
READ(payload, ds_job_payload(r, 2, out, err))
READ(metrics, ds_job_metrics(r, 2, NULL, out, err))
READ(measurements, ds_evaluation_list(r, (ds_page){0}, &(ds_evaluation_filter){0}, out, err))
READ(gate, ds_gate_of_job(r, 2, out, err))
READ(all_events, ds_events_list(r, 0, NULL, 100, out, err))
READ(one_base, ds_base_get(r, 1, out, err))
READ(all_bases, ds_base_list(r, (ds_page){0}, out, err))
READ(all_nets, ds_feature_net_list(r, (ds_page){0}, out, err))
READ(net_of_base, ds_feature_net_of_base(r, 1, out, err))
READ(net_of_job, ds_feature_net_of_job(r, 2, out, err))
READ(default_net, ds_feature_net_default(r, out, err))
READ(old_tasks, ds_old_tasks(r, 1, NULL, NULL, out, err))
READ(base_task, ds_base_task_get(r, 1, out, err))
READ(facts, ds_cleanup_facts(r, out, err))
#define A_NET "abababababababababababababababababababababababababababababababab"
static int chosen_net(ds_registry *r, json_t **out, ds_error *err) {
    ds_feature_choice c;
    int rc = ds_feature_choice_resolve(r, "fid", &c, err); /* its mode says its kind */
    if (!rc)
        *out = json_pack("{sI, ss}", "id", (json_int_t)c.id, "mode", c.mode);
    return rc;
}
static int base_in_use(ds_registry *r, json_t **out, ds_error *err) {
    json_t *base = json_pack("{si}", "id", 1);
    int rc = ds_base_usage(r, base, err);
    if (rc)
        json_decref(base);
    else
        *out = base;
    return rc;
}
static void add_root(void *list, int64_t id, const char *path, int watch) {
    json_array_append_new(list, json_pack("[Isi]", (json_int_t)id, path, watch));
}
static int watched(ds_registry *r, json_t **out, ds_error *err) {
    json_t *list = json_array();
    int rc = ds_dataset_each_root(r, add_root, list, err);
    if (rc)
        json_decref(list);
    else
        *out = list;
    return rc;
}
static json_t *spec; /* of a training to come */
READ(bars, ds_bars(r, "d", spec, out, err))

static int (*const reads[])(ds_registry *r, json_t **out, ds_error *err) = {
    one_dataset,  all_datasets, watched,      rejected_files, one_version, one_adapter,
    all_adapters, all_aliases,  one_history,  one_job,        all_jobs,    waiting,
    payload,      metrics,      measurements, gate,           all_events,  one_base,
    all_bases,    all_nets,     net_of_base,  net_of_job,     default_net, old_tasks,
    base_task,    facts,        bars,         chosen_net,     base_in_use};

static char *read_text(ds_registry *r, int i, int *rc) {
    json_t *doc = NULL;
    ds_error err;
    *rc = reads[i](r, &doc, &err);
    char *text = *rc || !doc ? ds_xstrdup("") : json_dumps(doc, JSON_SORT_KEYS | JSON_ENCODE_ANY);
    if (!*rc)
        json_decref(doc);
    return text;
}

/* What could not be read to its end is an error, never a shorter answer. */
START_TEST(a_fault_while_reading) {
    ds_registry *r = fx_open(fx_dir("reading"));
    int rc, most = 0;
    spec = fx_json("{\"dataset\":{\"tree_digest\":\"" NET_SHA "\"},\"feature_net\":{\"sha256\":"
                   "\"" NET_SHA "\"},\"evaluate\":{\"n\":64}}");
    for (int i = 0; strcmp(changes[i].name, "delete"); i++)
        MUST(changes[i].make(r, err));
    ds_model_facts fid = {.name = "fid", .path = "/fid", .sha256 = A_NET, .kind = "inception-fid"};
    int64_t id;
    MUST(ds_feature_net_register(r, &fid, &id, err));
    for (int i = 0; i < (int)(sizeof reads / sizeof *reads); i++) {
        arm(r, 1 << 30);
        char *want = read_text(r, i, &rc);
        int length = (1 << 30) - countdown;
        arm(r, 0);
        ck_assert_msg(rc == 0, "read %d", i);
        for (int at = 1; at < length; at += length / 40 + 1) {
            arm(r, at);
            char *is = read_text(r, i, &rc);
            arm(r, 0);
            ck_assert_msg(rc || !strcmp(want, is), "read %d, fault at %d of %d: %s", i, at, length,
                          is);
            most += rc != 0;
            free(is);
        }
        free(want);
    }
    ck_assert_int_gt(most, 200);
    json_decref(spec);
    ds_registry_close(r);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, a_fault_at_any_moment);
    tcase_add_test(tc, a_fault_while_reading);
}

int main(void) {
    fx_fast_tmp();
    return ds_test_main("registry_faults", cases);
}
