/* tests/cli/test_cli_texts.c - every word that the commands print, and how each request that fails is
 * told.
 *
 * tests/golden/cli/answers.json is what the server says, texts.txt a transcript: a line "$ COMMAND",
 * then its standard output ("| "), standard error ("! ") and exit code ("= N", when not 0).  Then,
 * for each request of the command, the same where that one is answered with an error ("~ N").
 * CLI_TEXTS_WRITE=FILE writes the transcript of now, to be read before it becomes the file.
 */
#include "base/fs.h"
#include "cli/bars.h"
#include "contract/job.h"
#include "tests/fixtures/cli_fake.h"

#include <sys/stat.h>

#define ANSWERS "tests/golden/cli/answers.json"
#define TEXTS "tests/golden/cli/texts.txt"

static const char png[] = "\x89PNG\r\n\x1a\n and more";
static fake_route routes[FAKE_ROUTES];

/* The routes of answers.json; 0: not run from the repository's root. */
static int load(void) {
    json_t *doc = json_load_file(ANSWERS, JSON_REJECT_DUPLICATES, NULL), *body;
    const char *request;
    int n = 0;
    if (!doc)
        return 0;
    json_object_foreach(doc, request, body) {
        ck_assert_int_lt(n, FAKE_ROUTES - 2);
        routes[n++] = (fake_route){.request = request,
                                   .body = json_is_string(body) ? json_string_value(body)
                                                                : json_dumps(body, JSON_COMPACT)};
    }
    routes[n++] = (fake_route){
        .request = "GET /v1/jobs/51/files/grid.png", .body = png, .length = sizeof png - 1};
    routes[n] = (fake_route){0};
    return 1; /* doc stays: the routes point into it */
}

/* Lines of text with a mark before each; the folder of the test is %T, the socket %S, the version of
 * dsctl %V. */
static void add_lines(ds_buf *out, const char *mark, const char *text, const char *socket) {
    const char *dir = ds_test_tmpdir();
    for (const char *p = text; *p; p += *p == '\n') {
        ds_buf_addf(out, "%s", mark);
        while (*p && *p != '\n')
            if (!strncmp(p, socket, strlen(socket))) {
                ds_buf_addf(out, "%%S");
                p += strlen(socket);
            } else if (!strncmp(p, dir, strlen(dir))) {
                ds_buf_addf(out, "%%T");
                p += strlen(dir);
            } else if (!strncmp(p, DS_VERSION, strlen(DS_VERSION))) {
                ds_buf_addf(out, "%%V");
                p += strlen(DS_VERSION);
            } else
                ds_buf_add(out, p++, 1);
        while (out->len && out->data[out->len - 1] == ' ')
            out->data[--out->len] = 0;
        ds_buf_addf(out, "\n");
    }
}

/* One run into the transcript; the number of requests that it made. */
static int run(ds_buf *out, const char *line, int fail_at) {
    fake_server s;
    char real[2000];
    const char *at = strstr(line, "%T");
    if (at)
        snprintf(real, sizeof real, "%.*s%s%s", (int)(at - line), line, ds_test_tmpdir(), at + 2);
    else
        snprintf(real, sizeof real, "%s", line);
    fake_start(&s, routes);
    s.fail_at = fail_at;
    cli_result r = cli_run(&s, "%s", real);
    char *text = ds_xasprintf("%.*s", (int)r.out_n, r.out);
    add_lines(out, "| ", text, s.socket);
    add_lines(out, "! ", r.err, s.socket);
    if (r.exit)
        ds_buf_addf(out, "= %d\n", r.exit);
    free(text);
    cli_free(&r);
    fake_stop(&s);
    return s.requests;
}

static void differs(const char *is, const char *want) {
    char command[200] = "";
    int number = 1;
    while (*is && *is == *want) {
        const char *nl = strchr(is, '\n');
        size_t n = nl ? (size_t)(nl - is) + 1 : strlen(is);
        if (strncmp(is, want, n))
            break;
        if (*is == '$')
            snprintf(command, sizeof command, "%.*s", (int)n - 1, is);
        is += n;
        want += n;
        number++;
    }
    ck_abort_msg(TEXTS ":%d: after '%s'\n  is:   %.*s\n  want: %.*s", number, command,
                 (int)strcspn(is, "\n"), is, (int)strcspn(want, "\n"), want);
}

START_TEST(transcript) {
    const char *write_to = getenv("CLI_TEXTS_WRITE");
    char *want, path[300];
    size_t n;
    ds_buf out = {0};
    if (!load() || ds_fs_read(TEXTS, 1 << 20, &want, &n, NULL)) {
        ds_test_skip("transcript", "not run from the repository's root");
        return;
    }
    ck_assert(chdir(ds_test_tmpdir()) == 0);
    snprintf(path, sizeof path, "%s/pics", ds_test_tmpdir());
    ck_assert(mkdir(path, 0700) == 0 && !ds_fs_write("w.pt", "x", 1, NULL));
    for (const char *p = want; *p; p += strcspn(p, "\n"), p += *p == '\n') {
        if (p[0] != '$')
            continue;
        char *line = ds_xasprintf("%.*s", (int)strcspn(p, "\n") - 2, p + 2);
        ds_buf_addf(&out, "$ %s\n", line);
        int requests = run(&out, line, 0);
        int comfort = !strncmp(line, "add-dataset", 11) && !strstr(line, "--wait");
        for (int i = 1; i <= (comfort ? 1 : requests); i++) { /* the rest goes by time */
            ds_buf_addf(&out, "~ %d\n", i);
            run(&out, line, i);
        }
        free(line);
    }
    if (write_to)
        ck_assert(!ds_fs_write(write_to, out.data, out.len, NULL));
    else if (strcmp(out.data, want))
        differs(out.data, want);
    free(want);
    ds_buf_release(&out);
}
END_TEST

/* A distance beyond the margin may be noise: who was refused by classes is told of classes. */
START_TEST(forced_for_its_reason) {
    static const char
        *const by[] = {DS_BAR_BY_CLASSES "; FD 10.00 -> 13.00 (+30.0 %), z 2.0",
                       "FD 10.00 -> 13.00 (+30.0 %), z 9.0"},
               *const says[] = {
                   "it was published by force; right class 0.620 is worse than 0.810 of digits@v1",
                   "it was published by force; FD 13.0 is worse than 10.0 of digits@v1"};
    for (int i = 0; i < 2; i++) {
        json_t *gate = json_pack(
            "{s:{s:s,s:[{s:s,s:s,s:s,s:f,s:f,s:f,s:f,s:f,s:f}]}}", "self", "verdict", "forced",
            "bars", "ref", "digits@v1", "verdict", "refused", "reason", by[i], "fd_bar", 10.0,
            "fd_now", 13.0, "delta", 0.3, "margin", 0.14, "class_bar", 0.81, "class_now", 0.62);
        ds_buf out = {0};
        ds_forced_words(&out, "it", gate);
        ck_assert_str_eq(out.data, says[i]);
        ds_buf_release(&out);
        json_decref(gate);
    }
}
END_TEST

/* Each command that takes --json, and what the document is of. */
START_TEST(documents) {
    static const char *const of[][2] = {{"list-datasets", "datasets"},
                                        {"list-adapters", "adapters"},
                                        {"list-aliases", "aliases"},
                                        {"list-evaluations", "evaluations"},
                                        {"list-jobs", "jobs"},
                                        {"list-bases", "bases"},
                                        {"list-feature-nets", "feature-nets"},
                                        {"show-dataset digits", "dataset"},
                                        {"remove-dataset digits", "dataset"},
                                        {"rescan-dataset digits", "dataset"},
                                        {"pause digits", "dataset"},
                                        {"resume digits", "dataset"},
                                        {"add-dataset %s/more", "dataset"},
                                        {"show-adapter digits@v3", "adapter"},
                                        {"remove-adapter digits@v3", "adapter"},
                                        {"set-alias digits prod 2", "alias"},
                                        {"remove-alias digits prod", "alias"},
                                        {"show-job 9", "job"},
                                        {"cancel-job 9", "job"},
                                        {"show-base xl", "base"},
                                        {"set-default-base xl", "base"},
                                        {"remove-base xl", "base"},
                                        {"set-default-feature-net fid", "feature-net"},
                                        {"remove-feature-net fid", "feature-net"},
                                        {"add-base %s/w.pt", "job"},
                                        {"add-feature-net %s/w.pt", "job"},
                                        {"add-base %s/w.pt --wait", "base"},
                                        {"add-feature-net %s/w.pt --wait", "feature-net"},
                                        {"sample digits -o %s/x.png --force", "job"},
                                        {"verify flags", "job"},
                                        {"compare digits@v3 flags@v1 --no-sheet", "compare"},
                                        {"events", "events"},
                                        {"watch --count 1", "watch"},
                                        {"gc", "gc"},
                                        {"prune", "prune"},
                                        {"fsck", "fsck"},
                                        {"report", "report"},
                                        {"status", "status"},
                                        {"version", "version"},
                                        {"stop", "stop"}};
    char path[300], line[400], want[60];
    if (!load()) {
        ds_test_skip("documents", "not run from the repository's root");
        return;
    }
    snprintf(path, sizeof path, "%s/more", ds_test_tmpdir());
    ck_assert(mkdir(path, 0700) == 0);
    snprintf(path, sizeof path, "%s/w.pt", ds_test_tmpdir());
    ck_assert_int_eq(ds_fs_write(path, "x", 1, NULL), 0);
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        fake_server s;
        fake_start(&s, routes);
        const char *at = strstr(of[i][0], "%s");
        if (at)
            snprintf(line, sizeof line, "%.*s%s%s", (int)(at - of[i][0]), of[i][0],
                     ds_test_tmpdir(), at + 2);
        else
            snprintf(line, sizeof line, "%s", of[i][0]);
        cli_result r = cli_run(&s, "%s --json", line);
        const char *last = r.out; /* what is waited for comes in lines, the outcome last */
        for (const char *p = r.out; *p; p += strcspn(p, "\n") + 1)
            if (*p == '{')
                last = p;
        json_error_t je;
        json_t *doc = json_loads(last, JSON_REJECT_DUPLICATES, &je);
        ck_assert_msg(doc != NULL, "%s: %s\n%s\n%s", line, je.text, r.out, r.err);
        snprintf(want, sizeof want, "dsctl.v1/%s", of[i][1]);
        ck_assert_msg(!strcmp(ds_json_string(doc, "schema", ""), want), "%s: %s", line, r.out);
        ck_assert_uint_gt(json_object_size(doc), 1);
        json_decref(doc);
        cli_free(&r);
        fake_stop(&s);
    }
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, documents);
    tcase_add_test(tc, forced_for_its_reason);
    tcase_add_test(tc, transcript);
}

int main(void) {
    setenv("TZ", "UTC", 1);
    return ds_test_main("cli_texts", cases);
}
