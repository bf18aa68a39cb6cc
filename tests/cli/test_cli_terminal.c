/* tests/cli/test_cli_terminal.c - progress and the live view on a terminal: what is always visible, and
 * what a window that becomes narrower or is short does to them. */
#include "cli/follow.h"
#include "cli/format.h"
#include "tests/fixtures/cli_fake.h"

#include <fcntl.h>
#include <pty.h>
#include <sys/ioctl.h>

typedef struct {
    int master;
    FILE *slave;
} terminal;

static void resize(const terminal *t, int columns, int rows) {
    struct winsize ws = {.ws_col = (unsigned short)columns, .ws_row = (unsigned short)rows};
    ck_assert_int_eq(ioctl(t->master, TIOCSWINSZ, &ws), 0);
}

static terminal open_terminal(int columns, int rows) {
    int slave;
    terminal t;
    ck_assert_int_eq(openpty(&t.master, &slave, NULL, NULL, NULL), 0);
    fcntl(t.master, F_SETFL, O_NONBLOCK);
    t.slave = fdopen(slave, "w");
    resize(&t, columns, rows);
    setenv("TERM", "xterm", 1);
    return t;
}

/* Everything that was written so far. */
static ds_buf written(const terminal *t) {
    char part[4096];
    ds_buf b = {0};
    fflush(t->slave);
    for (ssize_t n; (n = read(t->master, part, sizeof part)) > 0;)
        ds_buf_add(&b, part, (size_t)n);
    ds_buf_add(&b, "", 0);
    return b;
}

static void close_terminal(terminal *t) {
    fclose(t->slave);
    close(t->master);
}

static json_t *some_progress(int hours) {
    return json_pack("{s:i, s:i, s:s, s:f, s:f, s:f, s:f}", "done", 48200, "total", 80000, "unit",
                     "steps", "rate", 13.2, "eta_seconds", hours * 3600 + 31.0, "loss", 0.0133,
                     "images_per_second", 664.0);
}

/* Percent and time left at every width; the rest as room allows, never cut in the middle. */
START_TEST(numbers_fit) {
    static const int widths[] = {200, 120, 79, 60, 39, 30, 19};
    static const char *const fields[] = {"48,200/80,000 steps", "664 images/s", "loss 0.0133"};
    ds_cli c = {.utf8 = 0};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        json_t *p = some_progress(3);
        ds_buf b = {0};
        ds_progress_numbers(&c, p, widths[i], 24, &b);
        ck_assert_msg(ds_width(b.data) <= widths[i], "%d: '%s'", widths[i], b.data);
        ck_has(b.data, " 60 %  3:00:31 left");
        for (size_t k = 0; k < 3; k++) /* a field is there as a whole or not at all */
            ck_assert(strstr(b.data, fields[k]) ||
                      !strstr(b.data, (char[]){fields[k][0], fields[k][1], fields[k][2], 0}));
        if (widths[i] >= 120)
            ck_has(b.data, "[######");
        if (widths[i] >= 60)
            ck_has(b.data, "48,200/80,000 steps");
        ds_buf_release(&b);
        json_decref(p);
    }
}
END_TEST

/* The longest stretch between two carriage returns: how much of a row an update takes. */
static int longest(const char *text) {
    int most = 0;
    for (const char *p = text; *p; p += *p != 0) {
        size_t n = strcspn(p, "\r\n");
        char *line = ds_xasprintf("%.*s", (int)n, p), *visible = strstr(line, "\033[J");
        int w = ds_width(visible ? visible + 3 : line);
        most = w > most ? w : most;
        free(line);
        p += n;
    }
    return most;
}

START_TEST(a_window_that_becomes_narrower) {
    terminal t = open_terminal(80, 24);
    ds_cli c = {.err = t.slave, .err_tty = 1, .width = 80};
    ds_progress p;
    json_t *o = some_progress(0);
    ds_progress_start(&p, &c);
    ds_progress_update(&p, "train", o);
    ds_buf b = written(&t);
    ck_has(b.data, " 60 %  0:31 left");
    ck_assert_int_gt(longest(b.data), 60);
    /* the cursor rests at the line's start: what is erased from there is all of the line, also
     * after the terminal broke it in two */
    ck_assert(b.data[b.len - 1] == '\r');
    ds_buf_release(&b);
    for (int columns = 70; columns >= 20; columns -= 10) {
        resize(&t, columns, 24);
        ds_progress_update(&p, "train", o);
        b = written(&t);
        ck_assert_ptr_nonnull(strstr(b.data, "\r\033[J"));
        ck_assert_ptr_null(strchr(b.data, '\n'));
        ck_assert_msg(longest(b.data) < columns, "%d: %s", columns, b.data);
        ck_has(b.data, columns >= 30 ? " 60 %  0:31 left" : " 60 %");
        ds_buf_release(&b);
    }
    json_decref(o);
    close_terminal(&t);
}
END_TEST

#define JOB(id, kind, state, more)                                                                 \
    "{\"id\":" id ",\"kind\":\"" kind "\",\"state\":\"" state "\",\"dataset\":\"a-dataset-with-a-" \
    "long-name\"," more "}"
#define PROGRESS                                                                                   \
    "\"stage\":\"train\",\"progress\":{\"done\":360,\"total\":800,\"unit\":\"steps\","             \
    "\"eta_seconds\":33.3,\"images_per_second\":845.0}"
#define QUEUED(id) JOB(id, "train", "queued", "\"x\":1")

static const fake_route watched[] = {
    {.request = "GET /v1/status", .body = "{\"version\":\"9.9\",\"datasets\":3}"},
    {.request = "GET /v1/jobs*",
     .body = "{\"items\":[" JOB("9", "train", "running", PROGRESS) "," JOB(
         "8", "train", "failed",
         "\"error\":{\"message\":\"no room\"}") "," QUEUED("7") "," QUEUED("6") "," QUEUED("5") "]"
                                                                                                "}"},
    {.request = "GET /v1/adapters*", .body = "{\"items\":[],\"next\":null}"},
    {.request = NULL}};

START_TEST(the_live_view) {
    static const int sizes[][2] = {{80, 24}, {40, 24}, {80, 5}, {80, 2}};
    int columns = sizes[_i][0], rows = sizes[_i][1];
    fake_server s;
    terminal t = open_terminal(columns, rows);
    char *argv[] = {"dsctl", "--socket", NULL, "watch", "--count", "1", NULL};
    fake_start(&s, watched);
    argv[2] = s.socket;
    ck_assert_int_eq(ds_cli_run(6, argv, t.slave, t.slave), 0);
    ds_buf b = written(&t);
    int lines = 0;
    for (const char *p = strstr(b.data, "\033[H"); p && *p; p++)
        lines += *p == '\n';
    ck_has(b.data, "diffscaler 9.9");
    ck_assert_msg(lines < rows, "%d lines in %d rows:\n%s", lines, rows, b.data);
    if (rows == 24) {
        ck_has(b.data, " 45 %  0:33 left");
        ck_has(b.data, "Failed");
        ck_has(b.data, columns == 80 ? "no room" : "  8  train");
        ck_has(b.data, "Ctrl-C ends");
    } else if (rows == 5)
        ck_has(b.data, "more lines: make the window higher");
    ds_buf_release(&b);
    close_terminal(&t);
    fake_stop(&s);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, numbers_fit);
    tcase_add_test(tc, a_window_that_becomes_narrower);
    tcase_add_loop_test(tc, the_live_view, 0, 4);
}

int main(void) { return ds_test_main("cli_terminal", cases); }
