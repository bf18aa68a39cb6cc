/* tests/gpu/check.c - runs tests one after the other in one process (tests/gpu/check.h). */
#include "tests/gpu/check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MAX_TESTS = 64, MAX_SHOWN = 20 };

struct ds_check_case {
    const char *name;
    struct {
        const TTest *test;
        int start, end;
    } tests[MAX_TESTS];
    int count, run, failed, shown;
};

static struct ds_check_case the_case; /* every program has one suite with one case */
static jmp_buf out;
static const char *running;
static int running_i;

Suite *suite_create(const char *name) {
    the_case.name = name;
    return &the_case;
}
TCase *tcase_create(const char *name) {
    (void)name;
    return &the_case;
}
void tcase_set_timeout(TCase *tc, double seconds) { (void)tc, (void)seconds; }
void suite_add_tcase(Suite *suite, TCase *tc) { (void)suite, (void)tc; }
SRunner *srunner_create(Suite *suite) { return suite; }
int srunner_ntests_failed(SRunner *runner) { return runner->failed; }
int srunner_ntests_run(SRunner *runner) { return runner->run; }
void srunner_free(SRunner *runner) { (void)runner; }

void _tcase_add_test(TCase *tc, const TTest *test, int signal, int exit_value, int start, int end) {
    (void)signal, (void)exit_value;
    if (tc->count == MAX_TESTS) {
        fprintf(stderr, "more than %d tests in a program: raise MAX_TESTS\n", MAX_TESTS);
        exit(2);
    }
    tc->tests[tc->count].test = test;
    tc->tests[tc->count].start = start;
    tc->tests[tc->count++].end = end;
}

_Noreturn void ds_check_fail(const char *file, int line, const char *format, ...) {
    va_list args;
    if (the_case.shown++ < MAX_SHOWN) {
        printf("FAILED %s:%d: %s:%d: ", running, running_i, file, line);
        va_start(args, format);
        vprintf(format, args);
        va_end(args);
        printf("\n");
    }
    longjmp(out, 1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* 1: it failed. */
static int run_one(const TTest *test, int i) {
    running_i = i;
    if (setjmp(out))
        return 1;
    test->fn(i);
    return 0;
}

/* DS_TEST_ONLY names one test of the program; DS_TEST_FIRST limits the cases of each. */
void srunner_run_all(SRunner *runner, int mode) {
    (void)mode;
    const char *only = getenv("DS_TEST_ONLY"), *few = getenv("DS_TEST_FIRST");
    int limit = few ? (int)strtol(few, NULL, 10) : 1 << 30;
    for (int t = 0; t < runner->count; t++) {
        int failed = 0, done = 0;
        double start = now();
        running = runner->tests[t].test->name;
        if (only && strcmp(only, running) != 0)
            continue;
        for (int i = runner->tests[t].start; i < runner->tests[t].end && done < limit; i++, done++)
            failed += run_one(runner->tests[t].test, i);
        runner->run += done;
        runner->failed += failed;
        printf("%-6s %s: %d cases, %d failed, %.1f s\n", failed ? "FAILED" : "ok", running, done,
               failed, now() - start);
        fflush(stdout);
    }
    if (runner->shown > MAX_SHOWN)
        printf("%d more failures are not shown\n", runner->shown - MAX_SHOWN);
}
