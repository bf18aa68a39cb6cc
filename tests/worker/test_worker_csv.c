/* tests/worker/test_worker_csv.c - metadata.csv: what people write, what is refused and with which line. */
#include "base/mem.h"
#include "tests/harness.h"
#include "worker/images/metadata_csv.h"

#include <string.h>

static const struct {
    const char *text, *message;
} bad_tables[] = {
    {"", "must name the columns"},
    {"file_name,class\na,b\n", "must name the columns"},
    {"file_name,label\n\"a,b\n", "line 2: the quote is never closed"},
    {"file_name,label\n\"a\"x,b\n", "line 2: text after the closing quote"},
    {"file_name,label\nok,b\nonly\n", "line 3: too few columns"},
};

START_TEST(bad_tables_are_refused_with_their_line) {
    ds_csv_table t;
    ds_rejected_list rejected = {0};
    ds_error err = {0};
    const char *text = bad_tables[_i].text;
    ck_assert_int_eq(ds_csv_parse(&t, "metadata.csv", text, strlen(text), 100, &rejected, &err),
                     DS_EINVAL);
    ck_assert_msg(strstr(err.message, bad_tables[_i].message) != NULL, "%s", err.message);
    ds_rejected_release(&rejected);
}
END_TEST

START_TEST(tables_with_repeats) {
    ds_csv_table t;
    ds_rejected_list rejected = {0};
    ds_error err = {0};
    const char *text = "label,file_name\ncat,a\ndog,b\ncat,a\ncat,b\ncat,c";
    ck_assert_int_eq(ds_csv_parse(&t, "m", text, strlen(text), 100, &rejected, &err), 0);
    ck_assert_int_eq(t.count, 2);
    ck_assert_str_eq(ds_csv_find(&t, "a")->label, "cat");
    ck_assert_str_eq(ds_csv_find(&t, "c")->label, "cat");
    ck_assert_ptr_null(ds_csv_find(&t, "b"));
    ck_assert_int_eq(rejected.count, 1);
    ds_csv_release(&t);
    ck_assert_int_eq(ds_csv_parse(&t, "m", text, strlen(text), 4, &rejected, &err), DS_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "more than 4 rows"));
    ds_rejected_release(&rejected);
}
END_TEST

/* Rows as people write them, as "path=label ...", and how many were rejected with the first reason. */
static const struct {
    const char *text, *rows, *reason;
    int rejected;
} tables[] = {
    {"file_name,label\ra,b\rc,d", "a=b c=d ", "", 0},
    {"LABEL,File_Name\r\nx,a\r\n", "a=x ", "", 0},
    {"\xef\xbb\xbf"
     "file_name,label\na,b\n\n\n",
     "a=b ", "", 0},
    {"x,label,file_name,y\n1,b,./a,2\n", "a=b ", "", 0},
    {"file_name,label\nc,x\na,y\nb,z\n", "a=y b=z c=x ", "", 0},
    {"file_name,label\n\"a\",\"b\"", "a=b ", "", 0},
    {"file_name,label\n\"a,1\",\"b\"\"c\"\n", "a,1=b\"c ", "", 0},
    {"file_name,label,x\na,b\n", "a=b ", "", 0},
    {"file_name,label\na,b,more,and more\n", "a=b ", "", 0},
    {"file_name,label\na,", "", "empty label (metadata.csv line 2)", 1},
    {"file_name,label\n\n\"\n\",x\nd,\ne,f", "e=f ",
     "control character in the name (metadata.csv line 3)", 2},
    {"file_name,label\n/a,x\nb/../c,x\nd//e,x\n", "", "path leaves the folder", 3},
    {"file_name,label\na,x\ty\n", "", "label is not printable UTF-8", 1},
    {"file_name,label\na,x\na,x\na,x\n", "a=x ", "", 0},
    {"file_name,label\na,x\nb,x\na,y\na,x\n", "b=x ", "two different labels", 1},
};

START_TEST(tables_as_people_write_them) {
    ds_csv_table t;
    ds_rejected_list rejected = {0};
    ds_error err = {0};
    ds_buf rows = {0};
    const char *text = tables[_i].text;
    int rc = ds_csv_parse(&t, "m", text, strlen(text), 100, &rejected, &err);
    ck_assert_msg(!rc, "%s", err.message);
    ds_buf_add(&rows, "", 0);
    for (int64_t i = 0; i < t.count; i++) {
        ds_buf_addf(&rows, "%s=%s ", t.rows[i].path, t.rows[i].label);
        ck_assert(ds_csv_find(&t, t.rows[i].path) == &t.rows[i]);
    }
    ck_assert_str_eq(rows.data, tables[_i].rows);
    ck_assert_int_eq(rejected.count, tables[_i].rejected);
    if (rejected.count)
        ck_assert_msg(strstr(rejected.items[0].reason, tables[_i].reason) != NULL, "%s",
                      rejected.items[0].reason);
    ck_assert_ptr_null(ds_csv_find(&t, "nothing"));
    ds_buf_release(&rows);
    ds_csv_release(&t);
    ds_rejected_release(&rejected);
}
END_TEST

/* A label may be so long; a table may have so many rows; a zero byte ends it. */
START_TEST(tables_at_their_ends) {
    for (int n = 255; n <= 256; n++) {
        ds_csv_table t;
        ds_rejected_list rejected = {0};
        ds_buf b = {0};
        ds_buf_addf(&b, "file_name,label\na,");
        for (int i = 0; i < n; i++)
            ds_buf_addf(&b, "x");
        ck_assert_int_eq(ds_csv_parse(&t, "m", b.data, b.len, 1, &rejected, NULL), 0);
        ck_assert(t.count == (n == 255) && rejected.count == (n == 256));
        ds_csv_release(&t);
        ds_rejected_release(&rejected);
        ds_buf_release(&b);
    }
    static const char two[] = "file_name,label\na,b\nc,d\n", zero[] = "file_name,label\na\0,b\n";
    ds_csv_table t;
    ds_rejected_list rejected = {0};
    ds_error err = {0};
    ck_assert_int_eq(ds_csv_parse(&t, "m", two, sizeof two - 1, 2, &rejected, &err), 0);
    ck_assert_int_eq(t.count, 2);
    ds_csv_release(&t);
    ck_assert_int_eq(ds_csv_parse(&t, "m", two, sizeof two - 1, 1, &rejected, &err), DS_EINVAL);
    ck_assert_int_eq(ds_csv_parse(&t, "m", zero, sizeof zero - 1, 9, &rejected, &err), DS_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "'m' line 2: too few columns"));
    ck_assert(!t.rows && !t.count);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_loop_test(tc, bad_tables_are_refused_with_their_line, 0,
                        (int)(sizeof bad_tables / sizeof *bad_tables));
    tcase_add_test(tc, tables_with_repeats);
    tcase_add_loop_test(tc, tables_as_people_write_them, 0, (int)(sizeof tables / sizeof *tables));
    tcase_add_test(tc, tables_at_their_ends);
}

int main(void) { return ds_test_main("worker_csv", cases); }
