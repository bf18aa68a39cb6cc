/* tests/test_registry_faults.c - the database fails at any moment of any change, once: the change
 * says so and has changed nothing, and made again it gives what it gives undisturbed.
 *
 * The moment is chosen by counting SQLite's instructions.  A second registry does the same without
 * a fault; both must hold the same rows after each change, times apart. */
#include "tests/registry_changes.h"

#include "base/digest.h"
#include "base/mem.h"

/* countdown: instructions until the fault; 0 = none will come */
static int fired;

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

enum { POINTS = 20 };

static struct {
    int length, next;       /* instructions without a fault; where the next fault comes */
    char rows[DS_HEX_SIZE]; /* after it */
} undisturbed[CHANGES];

static void without_a_fault(void) {
    ds_registry *r = fx_open(fx_dir("undisturbed"));
    for (int i = 0; i < CHANGES; i++) {
        ds_error err;
        arm(r, 1 << 30);
        int rc = changes[i].make(r, &err), n = (1 << 30) - countdown;
        arm(r, 0);
        ck_assert_msg(rc == 0, "%s without a fault: %s", changes[i].name, err.message);
        undisturbed[i].length = n;
        undisturbed[i].next = 1 + i % (n / POINTS + 1);
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
        arm(r, at);
        int rc = changes[i].make(r, &err);
        arm(r, 0);
        rows_of(r, after);
        ck_assert_msg(sqlite3_get_autocommit(r->db), "%s, fault at %d: a transaction is open", name,
                      at);
        faults += fired;
        if (fired)
            undisturbed[i].next += undisturbed[i].length / POINTS + 1;
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
    printf("%d faults in %d changes, %d of no consequence\n", faults, CHANGES, survived);
    ck_assert_int_gt(faults, 15 * CHANGES);
    ck_assert_int_lt(survived, faults / 4);
}
END_TEST

static void cases(TCase *tc) { tcase_add_test(tc, a_fault_at_any_moment); }

int main(void) {
    fx_fast_tmp();
    return ds_test_main("registry_faults", cases);
}
