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

enum { POINTS = 30 };

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
