/* tests/cli/test_cli_compare.c - compare: what is said of two adapters, and the sheet of pairs. */
#include "base/fs.h"
#include "base/png_write.h"
#include "tests/fixtures/cli_fake.h"

#define EVAL(low, high)                                                                            \
    ",\"evaluations\":[{\"metric\":\"kid\",\"subject\":\"adapter\",\"ci_low\":1,\"ci_high\":99},"  \
    "{\"metric\":\"fd\",\"subject\":\"base\",\"ci_low\":1,\"ci_high\":99},{\"metric\":\"fd\","     \
    "\"subject\":\"adapter\",\"ci_low\":" low ",\"ci_high\":" high "}]"
#define ADAPTER(v, fd, more) MEASURED(v, fd, "512", "ab", more)
#define MEASURED(v, fd, n, net, more)                                                              \
    "{\"ref\":\"digits@v" v "\",\"name\":\"digits\",\"version\":" v ",\"dataset\":\"digits\","     \
    "\"dataset_version\":" v ",\"status\":\"published\",\"fd\":" fd ",\"fd_base\":50.8,\"kid\":"   \
    "0.0123,\"n\":" n ",\"steps\":800,\"stored_bytes\":525000,\"method\":\"affiner\",\"rank\":8,"  \
    "\"seed\":1,\"feature_net\":{\"sha256\":\"" net "\"},\"class_map\":[{\"name\":\"x\"}]" more    \
    "}"
#define REFERENCE(digest) ",\"reference_digest\":\"" digest "\""
#define BAR(ref, now, then, error)                                                                 \
    ",\"gate\":{\"self\":{\"bars\":[{\"role\":\"base\",\"ref\":\"base:x\"},{\"role\":\"latest\","  \
    "\"ref\":\"" ref "\",\"fd_now\":" now ",\"fd_bar\":" then ",\"std_error\":" error "}]}}"

/* a, b, what is said, which is better */
static const struct {
    const char *a, *b, *says, *better;
} pairs[] = {
    {ADAPTER("1", "5.5", REFERENCE("r") EVAL("5.0", "6.0")),
     ADAPTER("2", "4.0", REFERENCE("r") EVAL("3.6", "4.4")),
     "digits@v2 is better by FD 1.50 (0.8597 to 2.14, two measurements)", "digits@v2"},
    {ADAPTER("1", "4.0", REFERENCE("r") EVAL("3.6", "4.4")),
     ADAPTER("2", "5.5", REFERENCE("r") EVAL("5.0", "6.0")), "digits@v1 is better by FD 1.50",
     "digits@v1"},
    {ADAPTER("1", "5.5", REFERENCE("r") EVAL("5.0", "6.0")),
     ADAPTER("2", "5.0", REFERENCE("r") EVAL("4.5", "5.5")),
     "neither is better for sure: they differ by FD 0.5000 (-0.2071 to 1.21, two", "neither"},
    /* the paired difference tells what two intervals cannot, also across references */
    {ADAPTER("1", "5.5", REFERENCE("r") EVAL("5.0", "6.0")),
     ADAPTER("2", "5.0", REFERENCE("s") EVAL("4.5", "5.5") BAR("digits@v1", "5.0", "5.4", "0.1")),
     "digits@v2 is better by FD 0.4000 (0.2000 to 0.6000, same pictures and noise)", "digits@v2"},
    {ADAPTER("1", "5.5", BAR("digits@v2", "5.5", "5.0", "0.1")), ADAPTER("2", "5.0", ""),
     "digits@v2 is better by FD 0.5000", "digits@v2"},
    {ADAPTER("1", "5.5", REFERENCE("r")), ADAPTER("2", "5.0", REFERENCE("s")),
     "cannot be compared: they were measured against different images", "neither"},
    {ADAPTER("1", "5.5", REFERENCE("r")), ADAPTER("2", "5.0", REFERENCE("r")),
     "digits@v2 has the smaller FD, by 0.5000; without an interval it may be chance", "neither"},
    {ADAPTER("1", "5.5", REFERENCE("r")), MEASURED("2", "5.0", "512", "cd", REFERENCE("r")),
     "cannot be compared: they were measured with different networks or preprocessings", "neither"},
    {ADAPTER("1", "5.5", REFERENCE("r")), MEASURED("2", "5.0", "513", "ab", REFERENCE("r")),
     "cannot be compared: they were measured with different numbers of samples", "neither"},
    {ADAPTER("1", "5.5", ""), ADAPTER("2", "5.0", ""), "different images", "neither"},
    /* a bar without its error says nothing */
    {ADAPTER("1", "5.5", REFERENCE("r") EVAL("5.0", "6.0")),
     ADAPTER("2", "4.0", REFERENCE("r") EVAL("3.6", "4.4") BAR("digits@v1", "5.0", "5.4", "null")),
     "digits@v2 is better by FD 1.50 (0.8597 to 2.14, two measurements)", "digits@v2"},
    {ADAPTER("1", "null", REFERENCE("r")), ADAPTER("2", "5.0", REFERENCE("r")),
     "there is no FD to compare", "neither"},
};

START_TEST(verdicts) {
    const fake_route routes[] = {{.request = "GET /v1/adapters/digits@v1", .body = pairs[_i].a},
                                 {.request = "GET /v1/adapters/digits@v2", .body = pairs[_i].b},
                                 {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, 0, "compare digits@v1 digits@v2 --no-sheet");
    ck_has(r.out, pairs[_i].says);
    ck_has(r.out, "steps                                 800                      800\n");
    cli_free(&r);
    ck_run(r, &s, 0, "compare digits@v1 digits@v2 --no-sheet -q");
    ck_has(r.out, pairs[_i].better);
    cli_free(&r);
    ck_run(r, &s, 0, "compare digits@v1 digits@v2 --no-sheet --json");
    json_t *doc = cli_json(&r, "dsctl.v1/compare"), *fd = json_object_get(doc, "fd");
    ck_assert_str_eq(ds_json_string(fd, "better", "neither"), pairs[_i].better);
    ck_assert(json_is_null(json_object_get(doc, "sheet")));
    json_decref(doc);
    cli_free(&r);
    ck_assert_ptr_null(strstr(s.log.data, "POST"));
    fake_stop(&s);
}
END_TEST

/* samples.safetensors of n pictures of side x side, picture i all of the byte first + i. */
static ds_buf samples(int n, int side, int first) {
    char head[300], *px = ds_xcalloc((size_t)(side * side), 3);
    size_t one = (size_t)(side * side * 3);
    int length = snprintf(head, sizeof head,
                          "{\"labels\":{\"dtype\":\"I32\",\"shape\":[%d],\"data_offsets\":[0,%d]},"
                          "\"images\":{\"dtype\":\"U8\",\"shape\":[%d,%d,%d,3],\"data_offsets\":"
                          "[%d,%d]}}",
                          n, 4 * n, n, side, side, 4 * n, 4 * n + n * (int)one);
    ds_buf b = {0};
    uint64_t size = (uint64_t)length;
    ds_buf_add(&b, &size, 8);
    ds_buf_add(&b, head, (size_t)length);
    for (int i = 0; i < n; i++)
        ds_buf_add(&b, "\0\0\0\0", 4);
    for (int i = 0; i < n; i++) {
        memset(px, first + i, one);
        ds_buf_add(&b, px, one);
    }
    free(px);
    return b;
}

#define JOB(id, state)                                                                             \
    "{\"id\":" id ",\"kind\":\"sample\",\"state\":\"" state "\",\"result\":{\"n\":4}}"

START_TEST(sheet_of_pairs) {
    ds_buf a = samples(4, 5, 10), b = samples(4, 5, 200);
    const fake_route routes[] = {
        {.request = "GET /v1/adapters/digits@v1", .body = pairs[0].a},
        {.request = "GET /v1/adapters/digits", .body = pairs[0].b},
        {.request = "POST /v1/samples", .status = 202, .body = JOB("4", "queued"), .times = 1},
        {.request = "POST /v1/samples", .status = 202, .body = JOB("5", "queued")},
        {.request = "GET /v1/jobs/4", .body = JOB("4", "done")},
        {.request = "GET /v1/jobs/5", .body = JOB("5", "done")},
        {.request = "GET /v1/jobs/4/files/*", .body = a.data, .length = a.len},
        {.request = "GET /v1/jobs/5/files/*", .body = b.data, .length = b.len},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    char *png;
    size_t n;
    fake_start(&s, routes);
    ck_assert_int_eq(chdir(ds_test_tmpdir()), 0);
    ck_run(r, &s, 0, "compare digits@v1 digits -n 4 --seed 9");
    ck_has(r.err, "digits@v1 left and digits@v2 right, written to digits-v1-digits.png");
    ck_has(s.log.data, "\"ref\":\"digits@v1\",\"n\":4,\"seed\":9,\"sheet\":false");
    ck_has(s.log.data, "\"ref\":\"digits@v2\",\"n\":4,\"seed\":9,\"sheet\":false");
    cli_free(&r);
    ck_assert_int_eq(ds_fs_read("digits-v1-digits.png", 1 << 20, &png, &n, NULL), 0);
    /* two rows of two pairs of 95-pixel cells: 10 + 2 (95 + 2 + 95 + 10) by 10 + 2 (95 + 10) */
    enum { W = 414, H = 220 };
    uint8_t *want = ds_xmalloc(W * H * 3);
    char *same;
    size_t m;
    memset(want, 255, W * H * 3);
    for (int i = 0; i < 4; i++)
        for (int half = 0; half < 2; half++)
            for (int y = 0; y < 95; y++)
                memset(want + ((10 + i / 2 * 105 + y) * W + 10 + i % 2 * 202 + half * 97) * 3,
                       (half ? 200 : 10) + i, 95 * 3);
    ck_assert_int_eq(ds_png_encode(want, W, H, &same, &m, NULL), 0);
    ck_assert(n == m && !memcmp(png, same, n));
    free(want);
    free(same);
    free(png);
    ds_buf_release(&s.log);
    ck_run(r, &s, 4, "compare digits@v1 digits -n 4");
    ck_has(r.err, "'digits-v1-digits.png' exists");
    ck_assert(!s.log.len); /* asked before anything is drawn */
    cli_free(&r);
    ck_run(r, &s, 2, "compare digits@v1 digits --no-sheet -o x.png");
    cli_free(&r);
    fake_stop(&s);
    ds_buf_release(&a);
    ds_buf_release(&b);
}
END_TEST

/* Other sizes side by side, classes that differ, and what goes wrong on the way. */
START_TEST(sheets_of_others) {
    ds_buf a = samples(1, 100, 10), b = samples(1, 5, 200), two = samples(2, 5, 0);
    const fake_route routes[] = {
        {.request = "GET /v1/adapters/digits@v1", .body = pairs[0].a},
        {.request = "GET /v1/adapters/other", .body = "{\"ref\":\"other@v1\",\"class_map\":[]}"},
        {.request = "GET /v1/adapters?limit=1000",
         .body = "{\"items\":[{\"name\":\"other\"}],\"next\":null}"},
        {.request = "POST /v1/samples", .status = 202, .body = JOB("4", "queued"), .times = 1},
        {.request = "POST /v1/samples", .status = 202, .body = JOB("5", "queued")},
        {.request = "GET /v1/jobs/4", .body = JOB("4", "done")},
        {.request = "GET /v1/jobs/5", .body = JOB("5", "done")},
        {.request = "GET /v1/jobs/4/files/*", .body = a.data, .length = a.len},
        {.request = "GET /v1/jobs/5/files/*", .body = b.data, .length = b.len},
        {.request = NULL}};
    enum { POSTED = 3, FIRST = 5, SECOND = 6, FILE_2 = 8 };
    fake_server s;
    cli_result r;
    char *png, *same;
    size_t n, m;
    fake_start(&s, routes);
    ck_assert_int_eq(chdir(ds_test_tmpdir()), 0);
    ck_run(r, &s, 0, "compare digits@v1 other -n 1 -c seven -o o.png");
    ck_has(r.err, "note: their classes differ");
    ck_has(s.log.data, "\"sheet\":false,\"class\":\"seven\"");
    cli_free(&r);
    /* one pair of 100-pixel cells, the small one enlarged */
    enum { W = 222, H = 120 };
    uint8_t *want = ds_xmalloc(W * H * 3);
    memset(want, 255, W * H * 3);
    for (int half = 0; half < 2; half++)
        for (int y = 0; y < 100; y++)
            memset(want + ((10 + y) * W + 10 + half * 102) * 3, half ? 200 : 10, 300);
    ck_assert_int_eq(ds_png_encode(want, W, H, &same, &m, NULL), 0);
    ck_assert_int_eq(ds_fs_read("o.png", 1 << 20, &png, &n, NULL), 0);
    ck_assert(n == m && !memcmp(png, same, n));
    free(want);
    free(same);
    free(png);
    s.routes[FILE_2].body = two.data;
    s.routes[FILE_2].length = two.len;
    s.served[POSTED] = 0;
    ck_run(r, &s, 9, "compare digits@v1 other -n 1 -o bad.png");
    ck_has(r.err, "the two jobs gave 1 and 2 pictures");
    cli_free(&r);
    static const int failing[] = {FIRST, SECOND};
    for (int i = 0; i < 2; i++) {
        s.served[POSTED] = 0;
        const char *was = s.routes[failing[i]].body;
        s.routes[failing[i]].body = "{\"id\":4,\"state\":\"failed\",\"error\":{\"code\":"
                                    "\"DS_ENOSPC\",\"message\":\"full\"}}";
        ck_run(r, &s, 75, "compare digits@v1 other -n 1 -o bad.png --json");
        ck_has(r.err, "full");
        ck_assert_str_eq(r.out, "");
        cli_free(&r);
        s.routes[failing[i]].body = was;
    }
    ck_run(r, &s, 3, "compare othr digits@v1 --no-sheet");
    ck_has(r.err, "did you mean 'other'?");
    cli_free(&r);
    ck_run(r, &s, 3, "compare digits@v1 othr --no-sheet");
    ck_assert_str_eq(r.out, "");
    cli_free(&r);
    ck_assert(!ds_fs_exists("bad.png"));
    fake_stop(&s);
    ds_buf_release(&a);
    ds_buf_release(&b);
    ds_buf_release(&two);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, sheets_of_others);
    tcase_add_loop_test(tc, verdicts, 0, sizeof pairs / sizeof *pairs);
    tcase_add_test(tc, sheet_of_pairs);
}

int main(void) { return ds_test_main("cli_compare", cases); }
