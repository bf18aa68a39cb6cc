/* tests/daemon/test_daemon_options.c - options of diffscalerd, and values that are words with a number. */
#include "daemon/jobs/defaults.h"
#include "daemon/core/options.h"
#include "tests/harness.h"

#include <fcntl.h>
#include <getopt.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int check(const char *option, const char *value, ds_error *err) {
    json_t *o = json_pack("{s:s}", option, value);
    int rc = ds_options_check("affiner", o, err);
    json_decref(o);
    return rc;
}

START_TEST(device) {
    static const char *const good[] = {"auto", "cpu", "ref", "cuda", "cuda:0", "cuda:15"};
    static const char *const bad[] = {"cuda:", "cuda:N",  "cuda:1x", "cuda:12345",
                                      "gpu",   "cuda:-1", ""};
    ds_error err;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        ck_assert_msg(!check("device", good[i], &err), "'%s': %s", good[i], err.message);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ck_assert_msg(check("device", bad[i], &err) == DS_EINVAL, "'%s'", bad[i]);
        ck_assert_msg(strstr(err.message, "auto, cpu, cuda, cuda:N or ref") != NULL, "%s",
                      err.message);
    }
    ck_assert_int_eq(check("precision", "tf32", &err), 0);
    ck_assert_int_eq(check("precision", "f16", &err), DS_EINVAL);
}
END_TEST

/* Options of diffscalerd; a worker that is there is any file that may be run. */
static int parse(ds_options *o, ds_error *err, const char *a, const char *b, const char *c,
                 const char *d) {
    const char *argv[] = {
        "diffscalerd", "--state", "/tmp/x", "--worker-path", "/bin/sh", a, b, c, d, NULL};
    int argc = 5;
    while (argv[argc])
        argc++;
    optind = 0; /* glibc: begin anew */
    *err = (ds_error){0};
    return ds_options_parse(argc, (char **)(uintptr_t)argv, o, err);
}

START_TEST(options_of_the_daemon) {
    static const struct {
        const char *a, *b, *c, *d, *says;
    } bad[] = {{"--workers", "1.5", NULL, NULL, "a whole number is needed"},
               {"--workers", "65", NULL, NULL, "from 0 to 64"},
               {"--workers", "-1", NULL, NULL, "from 0 to 64"},
               {"--workers", "0x1", NULL, NULL, "--workers '0x1'"},
               {"--workers", "nan", NULL, NULL, "--workers 'nan'"},
               {"--idle", "1.5", NULL, NULL, "whole number"},
               {"--rescan", "0.5", NULL, NULL, "whole number"},
               {"--settle", "inf", NULL, NULL, "--settle 'inf'"},
               {"--nice", "", NULL, NULL, "option --nice: the value is empty"},
               {"--base", "", NULL, NULL, "option --base: the value is empty"},
               {"--base", "/tmp", NULL, NULL, "which is no file"},
               {"--feature-net", "/dev/null", NULL, NULL, "which is no file"},
               {"--workers", "1", "--workers", "2", "--workers is given twice"},
               {"--state", "/tmp/y", NULL, NULL, "--state is given twice"},
               {"--worker-path", "/tmp", NULL, NULL, "given twice"},
               {"--base", "/tmp/a\xff", NULL, NULL, "is not UTF-8"},
               {"--stall", "604801", NULL, NULL, "--stall '604801': a number from 0 to 604800"},
               {"--base-task", "none", NULL, NULL, "--base-task 'none': use full or probe"},
               {"--frob", NULL, NULL, NULL, "not known"},
               {"extra", NULL, NULL, NULL, "one argument too many"}};
    static ds_options o;
    ds_error err;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int rc = parse(&o, &err, bad[i].a, bad[i].b, bad[i].c, bad[i].d);
        ck_assert_msg(rc == DS_EINVAL && strstr(err.message, bad[i].says), "%s %s: %d '%s'",
                      bad[i].a, bad[i].b ? bad[i].b : "", rc, err.message);
    }
    ck_assert_msg(!parse(&o, &err, "--workers", "2", "--settle", "0.5"), "%s", err.message);
    ck_assert_int_eq(o.workers, 2);
    ck_assert_int_eq(o.settle_ms, 500);
    ck_assert_msg(!parse(&o, &err, "--workers", "2", "--workers", "2"), "%s", err.message);
    ck_assert_msg(!parse(&o, &err, "--idle", "7", "--rescan", "0"), "%s", err.message);
    ck_assert_uint_eq(o.idle_seconds, 7);
    ck_assert_int_eq(o.stall_seconds, 3600);
    ck_assert(!o.base_probe_only);
    ck_assert_msg(!parse(&o, &err, "--base-task", "probe", NULL, NULL), "%s", err.message);
    ck_assert(o.base_probe_only);
    ck_assert_msg(!parse(&o, &err, "--stall", "0", NULL, NULL), "%s", err.message);
    ck_assert_int_eq(o.stall_seconds, 0);
}
END_TEST

/* A file of the test with this content. */
static const char *file(const char *name, const char *text) {
    static char path[3][400];
    static int turn;
    char *out = path[turn++ % 3];
    snprintf(out, 400, "%s/%s", ds_test_tmpdir(), name);
    int fd = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ck_assert(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && !close(fd));
    return out;
}

/* Help and version are printed and nothing else is done. */
START_TEST(help_and_version) {
    static const struct {
        const char *option, *says;
    } forms[] = {{"--help", "Usage: diffscalerd"},
                 {"-h", "Usage: diffscalerd"},
                 {"--version", "diffscalerd "}};
    static ds_options o;
    ds_error err;
    char path[400], text[200];
    snprintf(path, sizeof path, "%s/out", ds_test_tmpdir());
    for (int i = 0; i < 3; i++) {
        fflush(stdout);
        int was = dup(1), fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
        dup2(fd, 1);
        int rc = parse(&o, &err, forms[i].option, "extra", NULL, NULL);
        fflush(stdout);
        dup2(was, 1);
        close(was);
        ssize_t n = pread(fd, text, sizeof text - 1, 0);
        close(fd);
        text[n > 0 ? n : 0] = 0;
        ck_assert_int_eq(rc, 1);
        ck_assert_msg(!strncmp(text, forms[i].says, strlen(forms[i].says)), "%s", text);
    }
}
END_TEST

/* The address and the token belong together, and each is looked at. */
START_TEST(listening_needs_both) {
    char token[400], shared[400];
    snprintf(token, sizeof token, "%s", file("token", "0123456789abcdef0123\n"));
    snprintf(shared, sizeof shared, "%s", file("shared", "0123456789abcdef0123\n"));
    ck_assert(!chmod(shared, 0644));
    const struct {
        const char *listen, *token, *says; /* NULL: accepted */
    } cases[] = {{"127.0.0.1:0", token, NULL},
                 {"127.0.0.1:8080", NULL, "--listen needs --token-file"},
                 {NULL, token, "is of no use without --listen"},
                 {"127.0.0.1", token, "127.0.0.1"},
                 {"127.0.0.1:70000", token, "70000"},
                 {"127.0.0.1:x", token, "x"},
                 {"127.0.0.1:8080", "/nonexistent/token", "/nonexistent/token"},
                 {"127.0.0.1:8080", shared, "shared"},
                 {"127.0.0.1:8080", file("short", "0123456789abcde"), "16"}};
    static ds_options o;
    ds_error err;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *a[4] = {NULL};
        int n = 0;
        if (cases[i].listen)
            a[n++] = "--listen", a[n++] = cases[i].listen;
        if (cases[i].token)
            a[n++] = "--token-file", a[n++] = cases[i].token;
        int rc = parse(&o, &err, a[0], a[1], a[2], a[3]);
        ck_assert_msg(!rc == !cases[i].says && (!rc || strstr(err.message, cases[i].says)),
                      "case %zu: %d %s", i, rc, err.message);
    }
    char text[400];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = 0;
    ck_assert_int_eq(parse(&o, &err, "--listen", text, "--token-file", token), DS_EINVAL);
    ck_assert_msg(strstr(err.message, "is too long") != NULL, "%s", err.message);
}
END_TEST

/* Both ends of every number. */
START_TEST(numbers_of_the_daemon) {
    static const struct {
        const char *option, *least, *most, *below, *above;
    } cases[] = {{"--workers", "0", "64", "-1", "65"},
                 {"--nice", "0", "19", "-1", "20"},
                 {"--settle", "0", "3600", "-0.1", "3600.1"},
                 {"--rescan", "0", "1000000", "-1", "1000001"},
                 {"--keep-jobs", "0", "36500", "-1", "36501"},
                 {"--keep-folders", "0", "36500", "-1", "36501"},
                 {"--keep-events", "0", "36500", "-1", "36501"},
                 {"--stall", "0", "604800", "-1", "604801"},
                 {"--idle", "1", "3600", "0", "3601"}};
    static ds_options o;
    ds_error err;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *name = cases[i].option;
        ck_assert_msg(!parse(&o, &err, name, cases[i].least, NULL, NULL), "%s", err.message);
        ck_assert_msg(!parse(&o, &err, name, cases[i].most, NULL, NULL), "%s", err.message);
        ck_assert_int_eq(parse(&o, &err, name, cases[i].below, NULL, NULL), DS_EINVAL);
        ck_assert_int_eq(parse(&o, &err, name, cases[i].above, NULL, NULL), DS_EINVAL);
        ck_assert_msg(strstr(err.message, name) && strstr(err.message, cases[i].above), "%s",
                      err.message);
    }
    ck_assert(!parse(&o, &err, "--keep-jobs", "3", "--keep-folders", "4"));
    ck_assert(o.keep_jobs_days == 3 && o.keep_folders_days == 4 && o.keep_events_days == 365);
    ck_assert(!parse(&o, &err, "--keep-events", "5", "--nice", "6"));
    ck_assert(o.keep_jobs_days == 90 && o.keep_folders_days == 30 && o.keep_events_days == 5);
    ck_assert(o.nice == 6 && o.workers == 1 && o.settle_ms == 5000 && o.rescan_seconds == 600 &&
              o.idle_seconds == 30);
    static const char *const levels[] = {"debug", "info", "warn", "error"};
    for (int i = 0; i < 4; i++) {
        ck_assert(!parse(&o, &err, "--log-level", levels[i], NULL, NULL));
        ck_assert_int_eq((int)o.log_level, i);
    }
    ck_assert_int_eq(parse(&o, &err, "--log-level", "loud", NULL, NULL), DS_EINVAL);
    static const char *const checks[] = {"quick", "full", "repair"};
    for (int i = 0; i < 3; i++) {
        ck_assert(!parse(&o, &err, "--fsck", checks[i], NULL, NULL));
        ck_assert_str_eq(o.fsck, checks[i]);
    }
    ck_assert_int_eq(parse(&o, &err, "--fsck", "all", NULL, NULL), DS_EINVAL);
}
END_TEST

/* Paths: absolute ones as they are, without the slashes at their end; others from where we are. */
START_TEST(paths_of_the_daemon) {
    static ds_options o;
    ds_error err;
    char here[PATH_MAX], want[PATH_MAX + 8], text[PATH_MAX];
    ck_assert_ptr_nonnull(getcwd(here, sizeof here));
    ck_assert(!parse(&o, &err, "--socket", "/a/b///", NULL, NULL));
    ck_assert_str_eq(o.socket, "/a/b");
    ck_assert_str_eq(o.state, "/tmp/x");
    ck_assert(!parse(&o, &err, "--socket", "s", NULL, NULL));
    snprintf(want, sizeof want, "%s/s", here);
    ck_assert_str_eq(o.socket, want);
    ck_assert(!parse(&o, &err, NULL, NULL, NULL, NULL));
    ck_assert_str_eq(o.socket, "/tmp/x/socket");
    memset(text, 'a', sizeof text);
    text[0] = '/';
    text[PATH_MAX - 257] = 0; /* as long as it may be, and one more */
    ck_assert_msg(!parse(&o, &err, "--socket", text, NULL, NULL), "%s", err.message);
    text[PATH_MAX - 257] = 'a';
    text[PATH_MAX - 256] = 0;
    ck_assert_int_eq(parse(&o, &err, "--socket", text, NULL, NULL), DS_EINVAL);
    ck_assert_msg(strstr(err.message, "is empty or too long") != NULL, "%s", err.message);
    /* a variable of the environment is what an option says nothing of, and is named */
    setenv("DIFFSCALER_WORKERS", "7", 1);
    ck_assert(!parse(&o, &err, NULL, NULL, NULL, NULL));
    ck_assert_int_eq(o.workers, 7);
    ck_assert(!parse(&o, &err, "--workers", "3", NULL, NULL));
    ck_assert_int_eq(o.workers, 3);
    setenv("DIFFSCALER_WORKERS", "many", 1);
    ck_assert_int_eq(parse(&o, &err, "--workers", "3", NULL, NULL), DS_EINVAL);
    ck_assert_msg(strstr(err.message, "environment variable DIFFSCALER_WORKERS") != NULL, "%s",
                  err.message);
    unsetenv("DIFFSCALER_WORKERS");
    ck_assert_int_eq(parse(&o, &err, "--base", "/nonexistent/base", NULL, NULL), DS_ENOTFOUND);
    ck_assert_msg(strstr(err.message, "cannot read base model '/nonexistent/base'"), "%s",
                  err.message);
    ck_assert_int_eq(parse(&o, &err, "--feature-net", "/nonexistent/net", NULL, NULL),
                     DS_ENOTFOUND);
    ck_assert_msg(strstr(err.message, "cannot read feature network"), "%s", err.message);
    ck_assert(!parse(&o, &err, "--check-config", NULL, NULL, NULL) && o.check_config);
}
END_TEST

/* Where nothing is said of the state: that of the person, as dsctl has it. */
START_TEST(the_state_of_a_person) {
    static const struct {
        const char *xdg, *home, *is; /* NULL: refused */
    } homes[] = {{"/x", "/h", "/x/diffscaler"},
                 {"/x/", NULL, "/x//diffscaler"},
                 {NULL, "/h", "/h/.local/state/diffscaler"},
                 {"", "/h", "/h/.local/state/diffscaler"},
                 {"x", "/h", "/h/.local/state/diffscaler"}, /* the standard wants a whole path */
                 {NULL, "h", NULL},
                 {"x", "", NULL},
                 {NULL, NULL, NULL}};
    static ds_options o;
    ds_error err;
    char *argv[] = {"diffscalerd", "--worker-path", "/bin/sh", NULL};
    unsetenv("DIFFSCALER_STATE");
    for (size_t i = 0; i < sizeof homes / sizeof *homes; i++) {
        homes[i].xdg ? setenv("XDG_STATE_HOME", homes[i].xdg, 1) : unsetenv("XDG_STATE_HOME");
        homes[i].home ? setenv("HOME", homes[i].home, 1) : unsetenv("HOME");
        optind = 0;
        int rc = ds_options_parse(3, argv, &o, &err);
        ck_assert_msg(rc == (homes[i].is ? 0 : (int)DS_EINVAL), "%zu: %d %s", i, rc, err.message);
        if (homes[i].is)
            ck_assert_str_eq(o.state, homes[i].is);
        else
            ck_assert(strstr(err.message, "no state folder: give --state DIR (neither HOME nor"));
    }
    static char home[PATH_MAX];
    memset(home, 'h', sizeof home - 10);
    home[0] = '/';
    setenv("HOME", home, 1);
    optind = 0;
    ck_assert_int_eq(ds_options_parse(3, argv, &o, &err), DS_EINVAL);
    ck_assert(strstr(err.message, "HOME is too long: give --state DIR"));
    char *no_worker[] = {"diffscalerd",
                         "--state",
                         "/tmp/x",
                         "--worker-path",
                         (char *)(uintptr_t)file("worker", "#!/bin/sh\n"),
                         NULL};
    optind = 0;
    ck_assert_int_eq(ds_options_parse(5, no_worker, &o, &err), DS_EPERM);
    ck_assert(strstr(err.message, "cannot run worker '") && strstr(err.message, "--worker-path"));
    char *here = strdup(ds_test_tmpdir()), gone[400];
    snprintf(gone, sizeof gone, "%s/gone", here);
    ck_assert(!mkdir(gone, 0700) && !chdir(gone) && !rmdir(gone));
    ck_assert_int_eq(parse(&o, &err, "--socket", "s", NULL, NULL), DS_ENOTFOUND);
    ck_assert(strstr(err.message, "cannot find the current folder"));
    free(here);
}
END_TEST

/* --check-config: what was understood, line by line. */
START_TEST(what_is_printed) {
    static ds_options o;
    ds_error err;
    char path[400], text[2000], want[900], token[400];
    snprintf(token, sizeof token, "%s", file("token2", "0123456789abcdef0123\n"));
    for (int listens = 0; listens < 2; listens++) {
        ck_assert(
            !parse(&o, &err, listens ? "--listen" : NULL, "127.0.0.1:0", "--token-file", token));
        *o.base = *o.feature_net = 0;
        snprintf(path, sizeof path, "%s/printed", ds_test_tmpdir());
        fflush(stdout);
        int saved = dup(1), fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
        dup2(fd, 1);
        ds_options_print(&o);
        fflush(stdout);
        dup2(saved, 1);
        close(saved);
        ssize_t n = pread(fd, text, sizeof text - 1, 0);
        close(fd);
        text[n > 0 ? n : 0] = 0;
        static const char first[] = "state = /tmp/x\nsocket = /tmp/x/socket\nworker = /bin/sh\n"
                                    "base = (none found: datasets wait)\n"
                                    "feature-net = (none found: datasets wait)\n";
        ck_assert_msg(!strncmp(text, first, sizeof first - 1), "%s", text);
        snprintf(want, sizeof want, "listen = 127.0.0.1:0\ntoken-file = %s\n", token);
        ck_assert(!strstr(text, want) == !listens && !strstr(text, "listen = ") == !listens);
        ck_assert(strstr(text, "workers = 1\nnice = ") && strstr(text, "\nidle = 30\n"));
    }
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, device);
    tcase_add_test(tc, options_of_the_daemon);
    tcase_add_test(tc, help_and_version);
    tcase_add_test(tc, listening_needs_both);
    tcase_add_test(tc, numbers_of_the_daemon);
    tcase_add_test(tc, paths_of_the_daemon);
    tcase_add_test(tc, what_is_printed);
    tcase_add_test(tc, the_state_of_a_person);
}

int main(void) { return ds_test_main("daemon_options", register_cases); }
