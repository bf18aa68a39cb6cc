/* The table of commands, what is made from it, and the small formatters. */
#include "base/fs.h"
#include "cli/format.h"
#include "tests/fixtures/cli_fake.h"

#include <math.h>
#include <sys/wait.h>

static cli_result bare(int status, const char *line) {
    cli_result r = cli_line(NULL, line);
    ck_assert_msg(r.exit == status, "%s: exit %d, not %d\nerr: %s", line, r.exit, status, r.err);
    return r;
}

START_TEST(help_of_every_command) {
    for (const ds_command *k = ds_commands; k->name; k++) {
        char line[64], usage[64];
        snprintf(line, sizeof line, "help %s", k->name);
        snprintf(usage, sizeof usage, "usage: dsctl %s", k->name);
        cli_result a = bare(0, line);
        snprintf(line, sizeof line, "%s --help", k->name);
        cli_result b = bare(0, line);
        ck_assert_str_eq(a.out, b.out);
        ck_has(a.out, usage);
        ck_has(a.out, "Examples\n  ");
        char *example = strstr(a.out, "Examples\n");
        ck_has(example, k->name); /* each shows itself at work */
        ck_has(example, "#");
        for (const ds_opt *o = k->options; o && o->name; o++)
            ck_has(a.out, o->name);
        ck_assert_int_eq(*a.err, 0);
        cli_free(&a);
        cli_free(&b);
    }
}
END_TEST

START_TEST(table_is_sane) {
    for (const ds_command *k = ds_commands; k->name; k++) {
        ck_assert(k->run != NULL);
        ck_assert_int_le(k->max_args, DS_CLI_MAX_ARGS);
        int n = 0;
        for (const ds_opt *o = k->options; o && o->name; o++, n++) {
            for (const ds_opt *g = ds_global_options; g->name; g++) {
                ck_assert_str_ne(o->name, g->name);
                ck_assert(!o->letter || o->letter != g->letter);
            }
            for (const ds_opt *p = k->options; p < o; p++) {
                ck_assert_str_ne(o->name, p->name);
                ck_assert(!o->letter || o->letter != p->letter);
            }
            ck_assert((o->type == DS_OPT_FLAG) == (o->metavar == NULL));
        }
        ck_assert_int_lt(n, DS_CLI_MAX_OPTIONS);
    }
}
END_TEST

/* The table in docs/api.md is the one that is printed. */
START_TEST(options_are_documented) {
    char *argv[] = {(char *)(uintptr_t) "dsctl", (char *)(uintptr_t) "--dump-options", NULL};
    char *table = NULL, *doc = NULL;
    size_t n = 0;
    ds_error err = {0};
    FILE *out = open_memstream(&table, &n);
    ck_assert_int_eq(ds_cli_run(2, argv, out, stderr), 0);
    fclose(out);
    ck_assert_msg(!ds_fs_read("docs/api.md", 1 << 20, &doc, &n, &err), "%s", err.message);
    ck_assert_msg(strstr(doc, table) != NULL,
                  "docs/api.md has not the tables that 'dsctl --dump-options' prints: make docs");
    free(table);
    free(doc);
}
END_TEST

static const struct {
    const char *line, *says;
} wrong[] = {
    {"", "no command given"},
    {"list-dataset", "did you mean 'list-datasets'?"},
    {"datasets", "did you mean 'list-datasets'?"},
    {"frobnicate", "'dsctl help' lists them"},
    {"add-dataset", "add-dataset needs DIR"},
    {"add-dataset a b", "unexpected argument 'b'"},
    {"add-dataset . --step 3", "did you mean --steps?"},
    {"add-dataset . --steps", "option --steps needs a value"},
    {"add-dataset . --steps 0", "option --steps: 0 is not between 1 and"},
    {"add-dataset . --steps 3x", "option --steps: '3x' is not a whole number"},
    {"add-dataset . --lr nan", "option --lr: 'nan' is not a number"},
    {"add-dataset . --lr 11", "option --lr: 11 is not between"},
    {"add-dataset . --side up", "option --side: 'up' is not one of out|in"},
    {"add-dataset . --side ou", "option --side: 'ou' is not one of"},
    {"add-dataset . --flip=yes", "option --flip takes no value"},
    {"add-dataset . --name=", "option --name: the value is empty"},
    {"add-dataset . --timeout 3s", "--timeout needs --wait"},
    {"add-dataset . --wait --timeout 3y", "option --timeout: '3y' is not a duration"},
    {"list-adapters --since yesterday", "option --since: 'yesterday' is neither"},
    {"list-adapters --limit 0", "option --limit: 0 is not between"},
    {"list-adapters --max-fd x", "option --max-fd"},
    {"events --since tomorrow", "option --since"},
    {"verify digits --all", "option --all and REF"},
    {"show-job four", "'four' is not a job number"},
    {"show-job 0", "'0' is not a job number"},
    {"set-alias digits prod x", "'x' is not a version such as 2, v2 or digits@v2"},
    {"set-alias digits prod flags@v1", "'flags@v1' is no version of digits"},
    {"set-alias digits prod digits@latest", "'latest' is not a version"},
    {"set-alias digits prod", "set-alias needs NAME ALIAS VERSION"},
    {"completion tcsh", "give bash, zsh or fish"},
    {"status --color sometimes", "option --color"},
    {"status -x", "unknown option '-x' of status"},
    {"add-dataset . --steps 5 --steps 6", "option --steps is given twice, as '5' and as '6'"},
    {"--state /a list-jobs --state /b", "option --state is given twice"},
    {"add-dataset . --n 3", "option --n: 3 is not between 4 and 100000"},
    {"add-dataset . --lr 1.1", "option --lr: 1.1 is not between 1e-09 and 1"},
    {"add-dataset . --rank 65", "option --rank: 65 is not between 1 and 64"},
    {"add-dataset . --steps 0x10", "option --steps: '0x10' is not a whole number"},
    {"add-dataset . --lr 0x1p-3", "option --lr: '0x1p-3' is not a number"},
    {"add-dataset . --device gpu", "option --device: 'gpu' is not one of auto, cpu"},
    {"add-dataset . --device cuda:1024", "option --device: 'cuda:1024' is not one of"},
    {"add-dataset . --wait --timeout 0", "option --timeout: '0' is not between 0.1 s"},
    {"verify --timeout 0s", "option --timeout: '0s' is not between"},
    {"gc --older-than 5s", "option --older-than: '5s' is not between 60 s"},
    {"add-base . --heads 129", "option --heads: 129 is not between 1 and 128"},
    {"list-jobs --state nice", "'nice' is not one of queued|running"},
    {"list-adapters --state runing", "'runing' is not one of published|rejected"},
    {"list-jobs --state running --status done", "option --status is given twice"},
    {"list-jobs --all --limit 5", "--all and --limit exclude each other"},
    {"show-dataset x --rejected --manifest", "--rejected and --manifest exclude each other"},
    {"show-dataset x --dataset-version 2", "option --dataset-version needs --manifest"},
    {"show-adapter ./digits", "'./digits' is a path; a name is needed here"},
    {"show-dataset a/b", "'a/b' is a path"},
    {"sample x -o - --json", "--json cannot go as well"},
    {"pull-adapter x -o - --json", "--json cannot go as well"},
    {"report -o -", "--json writes to standard output"},
    {"report --force", "option --force needs --output"},
    {"export x", "give --format"},
    {"export x --format dit -o -", "-o takes a folder"},
    {"export x --format diffusers --no-pt", "option --no-pt is for --format dit"},
    {"export x --format peft-like --merge", "option --merge cannot be with"},
    {"export x --format safetensors --dtype bf16", "--dtype bf16 needs --merge"},
    {"--bogus", "unknown option '--bogus' of dsctl"},
    {"show-dataset  ", "an argument is empty; usage: dsctl show-dataset NAME"},
    {"set-alias digits  2", "an argument is empty; usage: dsctl set-alias NAME ALIAS VERSION"},
};

START_TEST(usage_errors) {
    cli_result r = bare(2, wrong[_i].line);
    ck_has(r.err, wrong[_i].says);
    ck_assert_int_eq(*r.out, 0);
    ck_assert_ptr_eq(strchr(r.err, '\n'), r.err + r.err_n - 1); /* one line */
    cli_free(&r);
}
END_TEST

START_TEST(help_and_version_without_daemon) {
    cli_result h = bare(0, "--help"), o = bare(0, "help"), v = bare(0, "--version");
    ck_assert_str_eq(h.out, o.out);
    ck_has(h.out, "add-dataset");
    ck_assert_str_eq(v.out, "dsctl " DS_VERSION "\n");
    ck_assert_str_eq(h.err, "");
    cli_free(&h), cli_free(&o), cli_free(&v);
    cli_result r = bare(0, "help");
    for (const ds_command *k = ds_commands; k->name; k++)
        ck_has(r.out, k->name);
    cli_free(&r);
    r = bare(0, "--version");
    ck_assert_str_eq(r.out, "dsctl " DS_VERSION "\n");
    cli_free(&r);
    r = bare(3, "help nothing");
    cli_free(&r);
}
END_TEST

static int shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int shell(const char *fmt, ...) {
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    int rc = system(line);
    return WIFEXITED(rc) ? WEXITSTATUS(rc) : -1;
}

static void save(const char *name, const char *text, char path[256]) {
    snprintf(path, 256, "%s/%s", ds_test_tmpdir(), name);
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    fclose(f);
}

START_TEST(completions_parse) {
    static const char *const shells[] = {"bash", "zsh", "fish"};
    const char *sh = shells[_i];
    char line[64], path[256];
    snprintf(line, sizeof line, "completion %s", sh);
    cli_result r = bare(0, line);
    for (const ds_command *k = ds_commands; k->name; k++)
        ck_has(r.out, k->name);
    ck_has(r.out, "guidance-mode");
    save(sh, r.out, path);
    cli_free(&r);
    if (shell("command -v %s >/dev/null 2>&1", sh)) {
        ds_test_skip("completions_parse", sh);
        return;
    }
    ck_assert_int_eq(shell("%s -n %s", sh, path), 0);
}
END_TEST

/* The bash function really completes: stub dsctl, call it as readline would. */
static const struct {
    const char *line, *gives;
} completed[] = {{"dsctl list-ad", "list-adapters"},
                 {"dsctl add-dataset . --guidance-m", "--guidance-mode"},
                 {"dsctl add-dataset . --side ", "out in"},
                 {"dsctl --json show-adapter dig", "digits digits@v1"},
                 {"dsctl show-adapter digits@", "v1"}, /* readline replaces only after the @ */
                 {"dsctl completion f", "fish"},
                 {"dsctl list-adapters --sta", "--status --state"}};

START_TEST(bash_completes) {
    char path[256];
    cli_result r = bare(0, "completion bash");
    save("c.bash", r.out, path);
    cli_free(&r);
    ck_assert_int_eq(
        shell("bash -c 'dsctl() { echo digits; echo digits@v1; }; . %s; COMP_LINE=\"%s\"; "
              "COMP_POINT=${#COMP_LINE}; _dsctl; [[ \"${COMPREPLY[*]}\" == \"%s\" ]] || "
              "{ echo \"got: ${COMPREPLY[*]}\"; exit 1; }'",
              path, completed[_i].line, completed[_i].gives),
        0);
}
END_TEST

START_TEST(man_source) {
    cli_result r = bare(0, "--dump-commands");
    for (const ds_command *k = ds_commands; k->name; k++)
        ck_has(r.out, k->name);
    static const char *const status[] = {"*0*", "*1*", "*2*", "*3*",  "*4*",  "*5*",  "*6*",
                                         "*7*", "*8*", "*9*", "*10*", "*75*", "*130*"};
    for (size_t i = 0; i < sizeof status / sizeof *status; i++)
        ck_has(r.out, status[i]);
    char path[256];
    ds_buf page = {0};
    ds_buf_addf(&page, "dsctl(1)\n\n# NAME\n\ndsctl - test\n\n%s", r.out);
    save("m.scd", page.data, path);
    ds_buf_release(&page);
    cli_free(&r);
    if (shell("command -v scdoc >/dev/null 2>&1")) {
        ds_test_skip("man_source", "no scdoc");
        return;
    }
    ck_assert_int_eq(shell("scdoc < %s > /dev/null", path), 0);
}
END_TEST

/* `man dsctl-COMMAND` of each: what --help says, as scdoc takes it. */
START_TEST(page_of_each_command) {
    int have = !shell("command -v scdoc >/dev/null 2>&1");
    char line[100], path[400];
    if (!have)
        ds_test_skip("page_of_each_command", "no scdoc");
    for (const ds_command *k = ds_commands; k->name; k++) {
        snprintf(line, sizeof line, "--dump-command %s", k->name);
        cli_result r = bare(0, line);
        snprintf(line, sizeof line, "dsctl-%s(1)\n", k->name);
        ck_assert_msg(!strncmp(r.out, line, strlen(line)), "%s: %.60s", k->name, r.out);
        ck_has(r.out, "# EXAMPLES");
        for (const ds_opt *o = k->options; o && o->name; o++) {
            snprintf(line, sizeof line, "*--%s*", o->name);
            ck_has(r.out, line);
        }
        ds_buf page = {0};
        ds_buf_addf(&page, "%s", r.out);
        save("page.scd", page.data, path);
        ds_buf_release(&page);
        cli_free(&r);
        if (have)
            ck_assert_msg(!shell("scdoc < %s > /dev/null", path), "%s", k->name);
    }
}
END_TEST

START_TEST(short_texts) {
    char t[DS_TEXT];
    ck_assert_str_eq(ds_fmt_bytes(t, 0), "0 B");
    ck_assert_str_eq(ds_fmt_bytes(t, 999), "999 B");
    ck_assert_str_eq(ds_fmt_bytes(t, 1234567), "1.2 MB");
    ck_assert_str_eq(ds_fmt_bytes(t, 999999), "1.0 MB");
    ck_assert_str_eq(ds_fmt_bytes(t, 45e9), "45 GB");
    ck_assert_str_eq(ds_fmt_bytes(t, NAN), "-");
    ck_assert_str_eq(ds_fmt_count(t, 0), "0");
    ck_assert_str_eq(ds_fmt_count(t, 999), "999");
    ck_assert_str_eq(ds_fmt_count(t, 5000), "5,000");
    ck_assert_str_eq(ds_fmt_count(t, 1234567), "1,234,567");
    ck_assert_str_eq(ds_fmt_count(t, INT64_MAX), "9,223,372,036,854,775,807");
    ck_assert_str_eq(ds_fmt_number(t, 180.24), "180");
    ck_assert_str_eq(ds_fmt_number(t, 12.34), "12.3");
    ck_assert_str_eq(ds_fmt_number(t, 0.01234), "0.0123");
    ck_assert_str_eq(ds_fmt_number(t, NAN), "-");
    ck_assert_str_eq(ds_fmt_number(t, 0), "0.0000");
    ck_assert_str_eq(ds_fmt_number(t, 9999999), "9999999");
    ck_assert_str_eq(ds_fmt_number(t, 1e7), "1.00e+07");
    ck_assert_str_eq(ds_fmt_number(t, -2.5e7), "-2.50e+07");
    ck_assert_str_eq(ds_fmt_number(t, 0.0001), "0.0001");
    ck_assert_str_eq(ds_fmt_number(t, 0.000099), "9.90e-05");
    ck_assert_str_eq(ds_fmt_seconds(t, 33), "0:33");
    ck_assert_str_eq(ds_fmt_seconds(t, 3723), "1:02:03");
    ck_assert_str_eq(ds_fmt_seconds(t, -1), "-");
    ck_assert_str_eq(ds_fmt_duration(t, 0.42), "0.4 s");
    ck_assert_str_eq(ds_fmt_duration(t, 59.4), "59 s");
    ck_assert_str_eq(ds_fmt_duration(t, 185), "3 min 5 s");
    ck_assert_str_eq(ds_fmt_duration(t, 3599), "59 min 59 s");
    ck_assert_str_eq(ds_fmt_duration(t, 3600), "1 h 0 min");
    ck_assert_str_eq(ds_fmt_duration(t, 48 * 3600 - 1), "47 h 59 min");
    ck_assert_str_eq(ds_fmt_duration(t, 48 * 3600), "2 days");
    ck_assert_int_eq(ds_time_parse("1970-01-02T00:00:00.250Z"), 86400250);
    ck_assert_int_eq(ds_time_parse("1970-01-02T00:00:00"), -1);
    ck_assert_int_eq(ds_time_parse("nonsense"), -1);
    ck_assert_str_eq(ds_fmt_time(t, "2001-06-15T12:00:00Z"), "2001-06-15");
    ck_assert_str_ne(ds_fmt_time(t, "1970-01-01T00:00:00Z"), "-"); /* a time like any other */
    ck_assert_str_eq(ds_fmt_time(t, "never"), "-");
}
END_TEST

START_TEST(widths_and_cleaning) {
    ds_cli c = {.utf8 = 1};
    ck_assert_int_eq(ds_width("abc"), 3);
    ck_assert_int_eq(ds_width("漢字"), 4);
    ck_assert_int_eq(ds_width("e\xCC\x81"), 1); /* e + combining acute */
    ck_assert_int_eq(ds_width("🙂"), 2);
    ck_assert_int_eq(ds_width("\xff\xfe"), 2);
    static const struct {
        const char *in, *out;
        int columns;
    } cases[] = {{"plain", "plain", 0},
                 {"a\033[31mb\n\x7f", "a?[31mb??", 0},
                 {"\xC2\x9B"
                  "31m",
                  "?31m", 0}, /* C1 control sequence introducer */
                 {"\xE2\x80\xAE"
                  "evil",
                  "?evil", 0}, /* right-to-left override */
                 {"\xff", "?", 0},
                 {"漢字漢字", "漢字漢字", 8},
                 {"漢字漢字", "漢字漢…", 7},
                 {"漢字漢字", "漢字…", 6},
                 {"abcdef", "abc…", 4}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_buf b = {0};
        ds_clean(&c, &b, cases[i].in, cases[i].columns);
        ck_assert_str_eq(b.data, cases[i].out);
        ds_buf_release(&b);
    }
}
END_TEST

START_TEST(tables_align) {
    ds_cli c = {.utf8 = 1};
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    ds_table *t = ds_table_new("NAME|N>|PATH~");
    static const char *const cells[] = {"漢字", "5", "/a", "e\xCC\x81", "1,234",
                                        "/b",   "",  "-",  NULL};
    for (size_t i = 0; i < 9; i++)
        ds_cell(t, cells[i]);
    ds_table_print(t, &c, f, 0);
    fclose(f);
    ck_assert_str_eq(text, "NAME      N  PATH\n"
                           "漢字      5  /a\n"
                           "e\xCC\x81     1,234  /b\n"
                           "-         -  -\n");
    free(text);
    c.out_tty = 1;
    c.width = 26;
    ds_cell(t, "x"), ds_cell(t, "1"), ds_cell(t, "/a/very/long/path/name");
    f = open_memstream(&text, &n);
    ds_table_print(t, &c, f, 0);
    fclose(f);
    for (char *p = text; *p; p += strcspn(p, "\n") + 1) {
        char line[200];
        snprintf(line, sizeof line, "%.*s", (int)strcspn(p, "\n"), p);
        ck_assert_int_le(ds_width(line), 26);
    }
    free(text);
    ds_table_free(t);
}
END_TEST

START_TEST(bars) {
    ds_cli c = {.utf8 = 0};
    static const struct {
        double fraction;
        const char *text;
    } cases[] = {{0, "[--------]"},
                 {0.5, "[####----]"},
                 {1, "[########]"},
                 {7, "[########]"},
                 {-1, "[--------]"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_buf b = {0};
        ds_bar(&c, &b, cases[i].fraction, 8);
        ck_assert_str_eq(b.data, cases[i].text);
        ds_buf_release(&b);
    }
    c.utf8 = 1;
    for (double x = 0; x <= 1; x += 0.01) {
        ds_buf b = {0};
        ds_bar(&c, &b, x, 8);
        ck_assert_int_eq(ds_width(b.data), 10);
        ds_buf_release(&b);
    }
}
END_TEST

START_TEST(suggestions) {
    static const char *const words[] = {"digits", "flags", "photographs"};
    ck_assert_str_eq(ds_suggest("digts", words, 3), "digits");
    ck_assert_str_eq(ds_suggest("dgiits", words, 3), "digits"); /* neighbours swapped */
    ck_assert_str_eq(ds_suggest("photo", words, 3), "photographs");
    ck_assert_ptr_null(ds_suggest("celeba", words, 3));
    ck_assert_ptr_null(ds_suggest("flags", words, 1));
    char longest[300];
    memset(longest, 'a', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    ck_assert_ptr_null(ds_suggest(longest, words, 3));
}
END_TEST

START_TEST(durations_and_dates) {
    double v;
    ck_assert_int_eq(ds_parse_duration("90", &v, NULL), 0);
    ck_assert_double_eq(v, 90);
    ck_assert_int_eq(ds_parse_duration("1.5h", &v, NULL), 0);
    ck_assert_double_eq(v, 5400);
    static const char *const bad[] = {"", "x", "-1", "1hh", "1 h", "inf", "nan"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_int_eq(ds_parse_duration(bad[i], &v, NULL), DS_EINVAL);
    ck_assert_int_eq(ds_parse_when("2026-01-31T08:00:00Z", &v, NULL), 0);
    ck_assert_double_eq(v, 1769846400000.0);
    ck_assert_int_eq(ds_parse_when("2026-01-31T08:00:00", &v, NULL), DS_EINVAL);
    ck_assert_int_eq(ds_parse_when("2026-13-31", &v, NULL), DS_EINVAL);
    setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3", 1); /* a date is a day where one is */
    tzset();
    ck_assert_int_eq(ds_parse_when("2026-01-31", &v, NULL), 0);
    ck_assert_double_eq(v, 1769814000000.0);
    ck_assert_int_eq(ds_parse_when("2026-07-31", &v, NULL), 0);
    ck_assert_double_eq(v, 1785448800000.0);
}
END_TEST

/* Which daemon is meant: the option, then the environment, then the home; always a whole path. */
START_TEST(places_of_the_daemon) {
    static const struct {
        const char *line, *state, *xdg, *home, *socket, *says;
    } places[] = {
        {"status", NULL, NULL, "/h", NULL, "at '/h/.local/state/diffscaler/socket'"},
        {"status", NULL, "", "/h", NULL, "at '/h/.local/state/diffscaler/socket'"},
        {"status", NULL, "/x", "/h", NULL, "at '/x/diffscaler/socket'"},
        {"status", NULL, NULL, NULL, NULL, "at '/.local/state/diffscaler/socket'"},
        {"status", "/s", "/x", "/h", NULL, "at '/s/socket'"},
        {"status", "s", "/x", "/h", NULL, "at '/usr/s/socket'"},
        {"--state o status", "/s", "/x", "/h", NULL, "at '/usr/o/socket'"},
        {"--state o status", "/s", "/x", "/h", "k", "at '/usr/k'"},
        {"--state o status", "/s", "/x", "/h", "k", "start it with: diffscalerd --state '/usr/o'"},
        {"--socket /l status", "/s", "/x", "/h", "k", "at '/l'"},
        {"--socket l status", "/s", "/x", "/h", "k", "at '/usr/l'"},
    };
    const char *const names[] = {"DIFFSCALER_STATE", "XDG_STATE_HOME", "HOME", "DIFFSCALER_SOCKET"};
    const char *values[] = {places[_i].state, places[_i].xdg, places[_i].home, places[_i].socket};
    ck_assert_int_eq(chdir("/usr"), 0);
    for (int i = 0; i < 4; i++)
        if (values[i])
            setenv(names[i], values[i], 1);
        else
            unsetenv(names[i]);
    cli_result r = bare(5, places[_i].line);
    ck_has(r.err, places[_i].says);
    cli_free(&r);
    static char longest[5000], line[5100];
    memset(longest, 'x', 4200);
    snprintf(line, sizeof line, "--state /%s status", longest);
    r = bare(2, line);
    ck_has(r.err, "the path of the state folder is too long");
    cli_free(&r);
    snprintf(line, sizeof line, "--socket %s status", longest);
    r = bare(2, line);
    ck_has(r.err, "the path of the socket is too long");
    cli_free(&r);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_loop_test(tc, places_of_the_daemon, 0, 11);
    tcase_add_test(tc, help_of_every_command);
    tcase_add_test(tc, table_is_sane);
    tcase_add_test(tc, options_are_documented);
    tcase_add_loop_test(tc, usage_errors, 0, sizeof wrong / sizeof *wrong);
    tcase_add_test(tc, help_and_version_without_daemon);
    tcase_add_loop_test(tc, completions_parse, 0, 3);
    tcase_add_loop_test(tc, bash_completes, 0, sizeof completed / sizeof *completed);
    tcase_add_test(tc, man_source);
    tcase_add_test(tc, page_of_each_command);
    tcase_add_test(tc, short_texts);
    tcase_add_test(tc, widths_and_cleaning);
    tcase_add_test(tc, tables_align);
    tcase_add_test(tc, bars);
    tcase_add_test(tc, suggestions);
    tcase_add_test(tc, durations_and_dates);
}

int main(void) { return ds_test_main("cli_options", cases); }
