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

/* Where nobody knows how many there will be, it is counted. */
START_TEST(numbers_without_an_end) {
    ds_cli c = {.utf8 = 0};
    json_t *p = json_pack("{s:i, s:s}", "done", 1234, "unit", "tasks");
    ds_buf b = {0};
    ds_progress_numbers(&c, p, 60, 24, &b);
    ck_assert_str_eq(b.data, "1,234 tasks");
    ds_buf_release(&b);
    json_decref(p);
}
END_TEST

/* The end of a stage is told once, with what was done; a quiet one says nothing. */
START_TEST(a_stage_ends_once) {
    static const struct {
        const char *unit, *says;
    } units[] = {{"steps", "  (48,200 of 80000)\n"}, {"bytes", "  (48 kB)\n"}};
    for (int quiet = 0; quiet < 2; quiet++)
        for (int i = 0; i < 2; i++) {
            char *text = NULL;
            size_t n;
            ds_cli c = {.err = open_memstream(&text, &n), .quiet = quiet};
            ds_progress p;
            json_t *o = some_progress(0);
            json_object_set_new(o, "unit", json_string(units[i].unit));
            ds_progress_start(&p, &c);
            ds_progress_finish(&p); /* of nothing */
            ds_progress_update(&p, "train", o);
            ds_progress_finish(&p);
            ds_progress_finish(&p);
            fclose(c.err);
            char *first = strstr(text, units[i].says);
            if (quiet)
                ck_assert_str_eq(text, "");
            else
                ck_assert_msg(first && !first[strlen(units[i].says)], "'%s'", text);
            json_decref(o);
            free(text);
        }
}
END_TEST

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

#define WAITING(id) JOB(id, "scan", "queued", "\"x\":1")
#define FAILED(id)                                                                                 \
    JOB(id, "train", "failed",                                                                     \
        "\"finished_at\":\"2001-02-03T04:05:06Z\",\"error\":{\"message\":\"why " id "\"}")
#define ADAPTER(v)                                                                                 \
    "{\"ref\":\"d@v" v "\",\"status\":\"published\",\"fd\":1" v ".25,\"fd_base\":90.5,"            \
    "\"stored_bytes\":521000,\"created_at\":\"2001-02-03T04:05:06Z\"}"

static const fake_route crowded[] = {
    {.request = "GET /v1/status",
     .body = "{\"version\":\"9.9\",\"datasets\":3,\"adapters\":8,\"disk_free_bytes\":47000000000}",
     .times = 1},
    {.request = "GET /v1/status", .kind = FAKE_CLOSE},
    {.request = "GET /v1/jobs?limit=50",
     .body =
         "{\"items\":[" WAITING("18") "," WAITING("17") "," WAITING("16") "," WAITING("15") "," WAITING("14") "," WAITING(
             "13") "," WAITING("12") "," FAILED("9") "," FAILED("8") "," FAILED("7") "," FAILED("6") "]}"},
    {.request = "GET /v1/adapters?limit=8",
     .body = "{\"items\":[" ADAPTER("8") "," ADAPTER("7") "," ADAPTER("6") "," ADAPTER(
         "5") "," ADAPTER("4") "," ADAPTER("3") "," ADAPTER("2") "," ADAPTER("1") "]}"},
    {.request = NULL}};

static int lines_with(const char *text, const char *part) {
    int n = 0;
    while ((text = strstr(text, part)))
        text += strlen(part), n++;
    return n;
}

/* Nothing runs: what waits (the first five, oldest first), what failed (the newest three), the six
 * latest adapters; and then a daemon that is away, in their place. */
START_TEST(the_live_view_of_many) {
    fake_server s;
    terminal t = open_terminal(120, 60);
    char *argv[] = {"dsctl", "--socket", NULL, "watch", "--count", "2", "--interval", "0.1", NULL};
    fake_start(&s, crowded);
    argv[2] = s.socket;
    ck_assert_int_eq(ds_cli_run(8, argv, t.slave, t.slave), 0);
    ds_buf b = written(&t);
    char *away = strstr(b.data + 12, "diffscalerd is not reachable; waiting for it");
    ck_assert_ptr_nonnull(away);
    ck_assert_int_eq(strncmp(b.data, "\033[?1049h\033[?25l", 14), 0);
    ck_has(away, "\033[?25h\033[?1049l");
    ck_has(away, "Ctrl-C ends this view");
    ck_assert_int_eq(lines_with(away, "d@v"), 0);
    *away = 0;
    ck_has(b.data, "diffscaler 9.9  datasets 3  adapters 8  47 GB free  ");
    ck_has(b.data, "Nothing is running");
    ck_has_not(b.data, "Running");
    ck_assert_int_eq(lines_with(b.data, "  scan   a-dataset"), 5);
    char *first = strstr(b.data, "  12  scan"), *last = strstr(b.data, "  16  scan");
    ck_assert(first && last && first < last);
    ck_has(last, "  and 2 more");
    ck_assert_int_eq(lines_with(b.data, "  train  a-dataset"), 3);
    ck_has(b.data, "  9  train  a-dataset-with-a-long-name  2001-02-03  why 9");
    ck_has_not(b.data, "why 6");
    ck_has(b.data, "LATEST ADAPTERS");
    ck_assert_int_eq(lines_with(b.data, "d@v"), 6);
    char *row = strstr(b.data, "d@v8");
    ck_assert(row && row < strstr(b.data, "d@v3"));
    row = ds_xasprintf("%.*s", (int)strcspn(row, "\r\n"), row);
    ck_has(row, "published");
    ck_has(row, "  18.2  90.5  521 kB  2001-02-03");
    free(row);
    ds_buf_release(&b);
    close_terminal(&t);
    fake_stop(&s);
}
END_TEST

/* Ctrl-C: the screen is given back, and a script sees that it was no end. */
START_TEST(a_view_that_is_ended) {
    static fake_route routes[sizeof watched / sizeof *watched];
    fake_server s;
    cli_result r;
    memcpy(routes, watched, sizeof watched);
    routes[2].kind = FAKE_INTERRUPT;
    fake_start(&s, routes);
    ck_run(r, &s, 130, "watch --interval 0.1 --json");
    ck_has(r.err, "interrupted");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

/* A log is another program's words: tabs stay apart, nothing steers the terminal, and a last line
 * without an end is shown. */
START_TEST(a_log_on_a_terminal) {
    static const fake_route routes[] = {
        {.request = "GET /v1/jobs/4", .body = "{\"id\":4,\"state\":\"done\"}"},
        {.request = "GET /v1/jobs/4/log?offset=0", .body = "a\tb\033[31mc\n\nlast\x07"},
        {.request = "GET /v1/jobs/4/log?offset=16"},
        {.request = NULL}};
    fake_server s;
    terminal t = open_terminal(80, 24);
    char *argv[] = {"dsctl", "--socket", NULL, "logs", "4", NULL, NULL};
    fake_start(&s, routes);
    argv[2] = s.socket;
    ck_assert_int_eq(ds_cli_run(5, argv, t.slave, t.slave), 0);
    ds_buf b = written(&t);
    ck_assert_str_eq(b.data, "a b?[31mc\r\n\r\nlast?");
    ds_buf_release(&b);
    close_terminal(&t);
    cli_result r; /* a file gets it as it is */
    ck_run(r, &s, 0, "logs 4");
    ck_assert_str_eq(r.out, "a\tb\033[31mc\n\nlast\x07");
    cli_free(&r);
    FILE *full = fopen("/dev/full", "w");
    char *text = NULL;
    size_t n;
    FILE *err = open_memstream(&text, &n);
    ck_assert_int_eq(ds_cli_run(5, argv, full, err), 1);
    fclose(full);
    fclose(err);
    ck_has(text, "cannot write to standard output");
    free(text);
    static const fake_route running[] = {
        /* and nobody goes on following for nobody */
        {.request = "GET /v1/jobs/4", .body = "{\"id\":4,\"state\":\"running\"}", .times = 3},
        {.request = "GET /v1/jobs/4", .body = "{\"id\":4,\"state\":\"done\"}"},
        {.request = "GET /v1/jobs/4/log?offset=*", .body = "a line\n"},
        {.request = NULL}};
    fake_stop(&s);
    fake_start(&s, running);
    argv[2] = s.socket;
    argv[5] = (char *)(uintptr_t) "-f";
    full = fopen("/dev/full", "w");
    err = open_memstream(&text, &n);
    ck_assert_int_eq(ds_cli_run(6, argv, full, err), 1);
    fclose(full);
    fclose(err);
    free(text);
    ck_assert_int_eq(s.served[2], 1);
    fake_stop(&s);
}
END_TEST

/* What is fetched is worth a line from 1 MiB on (pictures: 8 MiB), and the line goes away. */
START_TEST(downloads_are_shown) {
    static const struct {
        const char *line, *shows;
        size_t n;
    } cases[] = {
        {"pull-adapter d -o %s", "download   [", 1 << 20},
        {"pull-adapter d -o %s", NULL, (1 << 20) - 1},
        {"sample d -o %s.npz", "fetch      [", 8 << 20},
        {"sample d -o %s.npz", NULL, (8 << 20) - 1},
    };
    char target[300], line[400], *words[12] = {"dsctl", "--socket"};
    char *body = ds_xcalloc(1, cases[_i].n);
    fake_route routes[] = {
        {.request = "GET /v1/adapters/d",
         .body =
             "{\"ref\":\"d@v1\",\"digest\":\"fefefefefefefefefefefefefefefefefefefefefefefefefefe"
             "fefefefefefe\"}"},
        {.request = "GET /v1/adapters/d@v1/file", .body = body, .length = cases[_i].n},
        {.request = "POST /v1/samples", .status = 202, .body = "{\"id\":4,\"state\":\"queued\"}"},
        {.request = "GET /v1/jobs/4", .body = "{\"id\":4,\"state\":\"done\"}"},
        {.request = "GET /v1/jobs/4/files*", .body = body, .length = cases[_i].n},
        {.request = NULL}};
    fake_server s;
    int n = 2;
    terminal t = open_terminal(80, 24);
    fake_start(&s, routes);
    words[n++] = s.socket;
    snprintf(target, sizeof target, "%s/x%d", ds_test_tmpdir(), _i);
    snprintf(line, sizeof line, cases[_i].line, target); /* NOLINT: the rows above */
    for (char *p = strtok(line, " "); p; p = strtok(NULL, " "))
        words[n++] = p;
    FILE *null = fopen("/dev/null", "w");
    ck_assert_int_eq(ds_cli_run(n, words, null, t.slave),
                     9); /* zeros are no adapter, no pictures */
    fclose(null);
    ds_buf b = written(&t);
    if (cases[_i].shows) {
        char *at = strstr(b.data, cases[_i].shows);
        ck_assert_msg(at != NULL, "%s", b.data);
        ck_has(at, _i ? " of 8.4 MB" : "/1,024 kB");
        ck_has(at, "\r\033[Jdsctl: "); /* cleared before the next word */
    } else
        ck_assert_int_eq(strncmp(b.data, "dsctl: ", 7), 0);
    ds_buf_release(&b);
    close_terminal(&t);
    fake_stop(&s);
    free(body);
}
END_TEST

/* Colour is for a terminal that knows it and a person who wants it; --color decides before both. */
START_TEST(when_there_is_colour) {
    static const struct {
        const char *term, *no_color, *option;
        int terminal, colour;
    } rows[] = {{"xterm", NULL, NULL, 1, 1},    {NULL, NULL, NULL, 1, 1},
                {"dumb", NULL, NULL, 1, 0},     {"xterm", "1", NULL, 1, 0},
                {"xterm", "", NULL, 1, 1},      {"xterm", NULL, NULL, 0, 0},
                {"xterm", NULL, "never", 1, 0}, {"dumb", "1", "always", 1, 1},
                {"dumb", "1", "always", 0, 1},  {"xterm", "1", "auto", 1, 0}};
    static const fake_route routes[] = {
        {.request = "GET /v1/datasets?limit=100",
         .body = "{\"items\":[{\"name\":\"a\",\"state\":\"failed\"}],\"next\":null}"},
        {.request = NULL}};
    fake_server s;
    terminal t = open_terminal(80, 24);
    char *argv[] = {"dsctl", "--socket", NULL, "list-datasets", "--color", NULL, NULL},
         *text = NULL;
    size_t n = 0;
    rows[_i].term ? setenv("TERM", rows[_i].term, 1) : unsetenv("TERM");
    rows[_i].no_color ? setenv("NO_COLOR", rows[_i].no_color, 1) : unsetenv("NO_COLOR");
    fake_start(&s, routes);
    argv[2] = s.socket;
    argv[5] = (char *)(uintptr_t)rows[_i].option;
    FILE *file = open_memstream(&text, &n);
    ck_assert_int_eq(
        ds_cli_run(rows[_i].option ? 6 : 4, argv, rows[_i].terminal ? t.slave : file, t.slave), 0);
    fclose(file);
    ds_buf b = written(&t);
    const char *out = rows[_i].terminal ? b.data : text;
    ck_has(out, "failed");
    ck_assert_int_eq(strstr(out, "\033[31mfailed\033[0m") != NULL, rows[_i].colour);
    ck_assert_int_eq(strchr(out, '\033') != NULL, rows[_i].colour);
    free(text);
    ds_buf_release(&b);
    close_terminal(&t);
    fake_stop(&s);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_loop_test(tc, when_there_is_colour, 0, 10);
    tcase_add_test(tc, numbers_without_an_end);
    tcase_add_test(tc, a_stage_ends_once);
    tcase_add_test(tc, the_live_view_of_many);
    tcase_add_test(tc, a_view_that_is_ended);
    tcase_add_test(tc, a_log_on_a_terminal);
    tcase_add_loop_test(tc, downloads_are_shown, 0, 4);

    tcase_add_test(tc, numbers_fit);
    tcase_add_test(tc, a_window_that_becomes_narrower);
    tcase_add_loop_test(tc, the_live_view, 0, 4);
}

int main(void) { return ds_test_main("cli_terminal", cases); }
