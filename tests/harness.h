/* tests/harness.h - thin layer over Check: one suite per program, one line of result.
 *
 * A test program is  int main(void) { return ds_test_main("name", register_cases); }
 * where register_cases adds loop or plain tests to the given tcase.  Prints Check's normal report
 * and then one line "name: N passed, N failed, N skipped".
 *
 * CK_RUN_CASE="one,other" in the environment: these tests alone; a program that has none of them
 * fails.
 */
#ifndef DS_TESTS_HARNESS_H
#define DS_TESTS_HARNESS_H

#include <check.h>

int ds_test_main(const char *name, void (*register_cases)(TCase *tc));

/* What tcase_add_test and its like call. */
void ds_tcase_add_test(TCase *tc, const TTest *test, int signal, int exit_value, int start,
                       int end);
#define _tcase_add_test ds_tcase_add_test

/* Count and print a visible skip: "SKIPPED test: reason".  Works from forked tests too. */
void ds_test_skip(const char *test, const char *reason);

/* From now on the device cuda is the emulated one (tests/emu/emu.h) of the build that DS_BUILD
 * names. Its library. */
const char *ds_test_emulated_gpu(void);

/* A fresh directory under TMPDIR, removed at exit of the test program. */
const char *ds_test_tmpdir(void);

/* `said` is what FILE has, line by line; the first that differs is shown.  DS_TEST_WRITE=1 writes
 * FILE anew. */
void ds_test_golden(const char *file, char *said);

#endif
