/* tests/gpu/check.h - the part of libcheck that the tests use, for machines without it.
 *
 * Stands in for <check.h> in the build of `make gpu-check` only.  No test is forked, because a CUDA
 * context does not survive that: a test that fails jumps out (what it held is not released), one
 * that crashes ends the program.  Thread: one. */
#ifndef DS_TESTS_GPU_CHECK_H
#define DS_TESTS_GPU_CHECK_H

#include <stdint.h>
#include <string.h>

typedef struct ds_check_case TCase;
typedef struct ds_check_case Suite;
typedef struct ds_check_case SRunner;
typedef struct {
    const char *name;
    void (*fn)(int _i);
} TTest;
enum { CK_NORMAL };

#define START_TEST(test)                                                                           \
    static void test##_fn(int _i);                                                                 \
    static const TTest test##_ttest = {#test, test##_fn};                                          \
    static const TTest *const test = &test##_ttest;                                                \
    static void test##_fn(int _i __attribute__((unused)))
#define END_TEST

Suite *suite_create(const char *name);
TCase *tcase_create(const char *name);
void tcase_set_timeout(TCase *tc, double seconds); /* nothing: gpu_check.sh limits the program */
void suite_add_tcase(Suite *suite, TCase *tc);
SRunner *srunner_create(Suite *suite);
void srunner_run_all(SRunner *runner, int mode);
int srunner_ntests_failed(SRunner *runner);
int srunner_ntests_run(SRunner *runner);
void srunner_free(SRunner *runner);

/* signal, exit_value: ignored, since no test is a process. */
void _tcase_add_test(TCase *tc, const TTest *test, int signal, int exit_value, int start, int end);
#define tcase_add_test(tc, test) _tcase_add_test(tc, test, 0, 0, 0, 1)
#define tcase_add_loop_test(tc, test, start, end) _tcase_add_test(tc, test, 0, 0, start, end)

/* Prints the place and ends the test. */
_Noreturn void ds_check_fail(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define ck_abort_msg(...) ds_check_fail(__FILE__, __LINE__, __VA_ARGS__)
#define ck_assert_msg(condition, ...)                                                              \
    do {                                                                                           \
        if (!(condition))                                                                          \
            ck_abort_msg(__VA_ARGS__);                                                             \
    } while (0)
#define ck_assert(condition) ck_assert_msg(condition, "%s", "failed: " #condition)
#define DS_CHECK_COMPARE(type, format, a, op, b)                                                   \
    do {                                                                                           \
        type a_ = (a), b_ = (b);                                                                   \
        if (!(a_ op b_))                                                                           \
            ck_abort_msg("%s is " format ", not " #op " " format, #a, a_, b_);                     \
    } while (0)
#define ck_assert_int_eq(a, b) DS_CHECK_COMPARE(intmax_t, "%jd", a, ==, b)
#define ck_assert_int_gt(a, b) DS_CHECK_COMPARE(intmax_t, "%jd", a, >, b)
#define ck_assert_uint_eq(a, b) DS_CHECK_COMPARE(uintmax_t, "%ju", a, ==, b)
#define ck_assert_double_le(a, b) DS_CHECK_COMPARE(double, "%.9g", a, <=, b)
#define ck_assert_double_lt(a, b) DS_CHECK_COMPARE(double, "%.9g", a, <, b)
#define ck_assert_ptr_nonnull(a) ck_assert((a) != NULL)
#define ck_assert_str_eq(a, b)                                                                     \
    do {                                                                                           \
        const char *a_ = (a), *b_ = (b);                                                           \
        if (strcmp(a_, b_) != 0)                                                                   \
            ck_abort_msg("%s is '%s', not '%s'", #a, a_, b_);                                      \
    } while (0)

#endif
