/* tests/open_fails.h - a file that cannot be opened, for a program and for the jobs that it starts
 * as itself.
 *
 * The test program has an open of its own, which every library in it calls instead of the C
 * library's.  DS_TEST_OPEN="ERRNO FROM TEXT" in the environment: the FROM-th open of a path that
 * contains TEXT, and all later ones, fail with this errno.  Other calls (openat, fopen) are as they
 * were.
 */
#ifndef DS_TESTS_OPEN_FAILS_H
#define DS_TESTS_OPEN_FAILS_H

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int open_is_to_fail(const char *path) {
    static int seen;
    const char *how = getenv("DS_TEST_OPEN");
    int code = 0, from = 0, used = 0;
    if (!how || sscanf(how, "%d %d %n", &code, &from, &used) < 2 || !strstr(path, how + used))
        return 0;
    errno = code;
    return ++seen >= from;
}

int open(const char *path, int flags, ...) {
    va_list ap;
    va_start(ap, flags);
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, int) : 0;
    va_end(ap);
    if (open_is_to_fail(path))
        return -1;
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

/* From now on, until TEXT is NULL. */
static inline void open_fails(int code, int from, const char *text) {
    char how[600];
    snprintf(how, sizeof how, "%d %d %s", code, from, text ? text : "");
    if (text)
        setenv("DS_TEST_OPEN", how, 1);
    else
        unsetenv("DS_TEST_OPEN");
}

#endif
