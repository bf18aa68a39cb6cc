/* tests/base/test_base_error.c - the list of errors, messages, and broken invariants. */
#include "base/error.h"

#include "tests/harness.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

START_TEST(list_of_codes) {
    static const int codes[] = {
#define X(code, value, http, exit_code, title) code,
        DS_ERROR_MAP(X)
#undef X
    };
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        ck_assert_msg(codes[i] < 0, "codes are negative");
        ck_assert_msg(!strncmp(ds_error_name(codes[i]), "DS_E", 4), "name of %d", codes[i]);
        ck_assert_msg(strlen(ds_error_title(codes[i])) > 4, "title of %d", codes[i]);
        int http = ds_error_http(codes[i]), code = ds_error_exit(codes[i]);
        ck_assert_msg(http >= 400 && http < 600, "http of %d is %d", codes[i], http);
        ck_assert_msg(code > 0 && code < 256, "exit of %d is %d", codes[i], code);
        ck_assert_msg(ds_error_exit(ds_error_from_exit(code)) == code,
                      "exit code %d does not come back", code);
        for (size_t k = 0; k < i; k++)
            ck_assert_msg(codes[k] != codes[i], "%d is there twice", codes[i]);
    }
    ck_assert_str_eq(ds_error_name(0), "DS_OK");
    ck_assert_int_eq(ds_error_exit(0), 0);
    ck_assert_int_eq(ds_error_http(0), 200);
    ck_assert_int_eq(ds_error_from_exit(0), 0);
    ck_assert_str_eq(ds_error_name(-999), "DS_EFAILED");
    ck_assert_int_eq(ds_error_from_exit(99), DS_EFAILED);
}
END_TEST

/* What scripts rely on. */
START_TEST(promised_exit_codes) {
    static const struct {
        int code, exit_code;
    } promised[] = {{DS_EFAILED, 1},      {DS_EINVAL, 2},  {DS_ENOTFOUND, 3}, {DS_ECONFLICT, 4},
                    {DS_EUNREACHABLE, 5}, {DS_EPERM, 6},   {DS_ETIMEOUT, 7},  {DS_EREFUSED, 8},
                    {DS_EINTEGRITY, 9},   {DS_ENEWER, 10}, {DS_EBUSY, 75},    {DS_ENOSPC, 75},
                    {DS_ECANCELED, 130}};
    for (size_t i = 0; i < sizeof promised / sizeof *promised; i++)
        ck_assert_int_eq(ds_error_exit(promised[i].code), promised[i].exit_code);
}
END_TEST

START_TEST(messages) {
    ds_error err = {0};
    ck_assert_int_eq(ds_fail(&err, DS_ELIMIT, "cannot open '%s': %d", "x", 7), DS_ELIMIT);
    ck_assert_int_eq(err.code, DS_ELIMIT);
    ck_assert_str_eq(err.message, "cannot open 'x': 7");
    ck_assert_int_eq(ds_error_prefix(&err, "job %d", 3), DS_ELIMIT);
    ck_assert_str_eq(err.message, "job 3: cannot open 'x': 7");
    ck_assert_int_eq(ds_fail(NULL, DS_EIO, "nobody listens"), DS_EIO);
    ck_assert_int_eq(ds_error_prefix(NULL, "nobody"), DS_EFAILED);
    char longer[1000];
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    ds_fail(&err, DS_EIO, "%s", longer);
    ck_assert_uint_eq(strlen(err.message), sizeof err.message - 1);
    ck_assert_int_eq(ds_error_prefix(&err, "%s", longer), DS_EIO);
    ck_assert_uint_eq(strlen(err.message), sizeof err.message - 1);
}
END_TEST

START_TEST(messages_of_errno) {
    static const struct {
        int number, code;
    } map[] = {{ENOENT, DS_ENOTFOUND}, {ENOTDIR, DS_ENOTFOUND}, {EACCES, DS_EPERM},
               {EPERM, DS_EPERM},      {ENOSPC, DS_ENOSPC},     {EDQUOT, DS_ENOSPC},
               {EIO, DS_EIO},          {ENOMEM, DS_ENOMEM}};
    for (size_t i = 0; i < sizeof map / sizeof *map; i++) {
        ds_error err = {0};
        char want[200];
        errno = map[i].number;
        ck_assert_int_eq(ds_fail_errno(&err, "cannot read '%s'", "y"), map[i].code);
        ck_assert_int_eq(errno, map[i].number);
        snprintf(want, sizeof want, "cannot read 'y': %s", strerror(map[i].number));
        ck_assert_str_eq(err.message, want);
        ck_assert_int_eq(err.code, map[i].code);
        errno = map[i].number;
        ck_assert_int_eq(ds_fail_errno(NULL, "nobody"), map[i].code);
    }
}
END_TEST

/* In a child: DS_ASSERT names the place on stderr and aborts. */
START_TEST(broken_invariant) {
    int pipes[2], status;
    char text[200] = "";
    ck_assert_int_eq(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(pipes[1], 2);
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        DS_ASSERT(1 + 1 == 2);
        DS_ASSERT(1 + 1 == 3);
        _exit(0);
    }
    close(pipes[1]);
    ssize_t n = read(pipes[0], text, sizeof text - 1);
    close(pipes[0]);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg(WIFSIGNALED(status), "a broken invariant does not abort");
    ck_assert_msg(n > 0 && strstr(text, "1 + 1 == 3") && strstr(text, "test_base_error.c"),
                  "message: %s", text);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, list_of_codes);
    tcase_add_test(tc, promised_exit_codes);
    tcase_add_test(tc, messages);
    tcase_add_test(tc, messages_of_errno);
    tcase_add_test(tc, broken_invariant);
}

int main(void) { return ds_test_main("base_error", register_cases); }
