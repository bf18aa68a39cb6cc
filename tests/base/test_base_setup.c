/* tests/base/test_base_setup.c - set-up waits for apt when another program uses it, says so, and fails at
 * once for every other reason.  apt-get is a script of the test's. */
#include "base/fs.h"
#include "tests/harness.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

static void program(const char *name, const char *text) {
    char path[400];
    snprintf(path, sizeof path, "%s/%s", ds_test_tmpdir(), name);
    ck_assert_int_eq(ds_fs_write(path, text, strlen(text), NULL), 0);
    ck_assert_int_eq(chmod(path, 0755), 0);
}

/* Runs tools/deps.sh with these programs first in PATH; its exit status. */
static int set_up(char out[4096]) {
    char command[1200];
    snprintf(command, sizeof command,
             "PATH='%s':\"$PATH\" DEPS_LOCK_PAUSE=0.1 DEPS_LOCK_SECONDS=2 tools/deps.sh build "
             ">'%s/out' 2>&1",
             ds_test_tmpdir(), ds_test_tmpdir());
    int status = system(command);
    char path[400], *text;
    size_t n;
    snprintf(path, sizeof path, "%s/out", ds_test_tmpdir());
    ck_assert_int_eq(ds_fs_read(path, 4000, &text, &n, NULL), 0);
    snprintf(out, 4096, "%s", text);
    free(text);
    return WEXITSTATUS(status);
}

/* apt-get whose first calls find the lock taken, the others end with `status`. */
static void apt_locked(int calls, int status) {
    char text[900];
    snprintf(
        text, sizeof text,
        "#!/bin/sh\nn=$(cat '%s/n' 2>/dev/null || echo 0)\necho $((n + 1)) >'%s/n'\n"
        "[ $n -ge %d ] || { echo 'E: Could not get lock /var/lib/apt/lists/lock. It is held by "
        "process 77 (unattended-upgr)' >&2; exit 100; }\necho 'E: no such package' >&2\nexit %d\n",
        ds_test_tmpdir(), ds_test_tmpdir(), calls, status);
    program("apt-get", text);
    program("n", "0\n");
}

START_TEST(waits_for_apt) {
    char out[4096];
    program("dpkg-query", "#!/bin/sh\nexit 1\n"); /* nothing is installed */
    program("id", "#!/bin/sh\necho 0\n");
    apt_locked(2, 0);
    ck_assert_int_eq(set_up(out), 0);
    char *said = strstr(out, "waiting for apt, which another program uses");
    ck_assert_msg(said && strstr(said, "process 77"), "%s", out);
    ck_assert_ptr_null(strstr(said + 1, "waiting for apt")); /* once */
    apt_locked(0, 100);                                      /* another trouble is not waited for */
    ck_assert_int_eq(set_up(out), 1);
    ck_assert_ptr_null(strstr(out, "waiting"));
    ck_assert_ptr_nonnull(strstr(out, "no such package"));
    apt_locked(1000, 0); /* nor is the lock waited for without end */
    ck_assert_int_eq(set_up(out), 1);
    ck_assert_ptr_nonnull(strstr(out, "apt is still in use by another program"));
}
END_TEST

static void cases(TCase *tc) { tcase_add_test(tc, waits_for_apt); }

int main(void) { return ds_test_main("base_setup", cases); }
