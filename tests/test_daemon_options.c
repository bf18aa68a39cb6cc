/* tests/test_daemon_options.c - options of diffscalerd, and values that are words with a number. */
#include "daemon/defaults.h"
#include "daemon/options.h"
#include "tests/harness.h"

#include <getopt.h>
#include <jansson.h>
#include <string.h>

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

static void register_cases(TCase *tc) {
    tcase_add_test(tc, device);
    tcase_add_test(tc, options_of_the_daemon);
}

int main(void) { return ds_test_main("daemon_options", register_cases); }
