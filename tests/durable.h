/* tests/durable.h - what a program asked the kernel to make durable, in order.
 *
 * The test program has fsync, fdatasync, rename, renameat2 and link of its own, which every library
 * in it calls instead of the C library's (as a preloaded library would do it); they note the name
 * of what they were given, and do it.  So a sync that somebody drops, or moves behind the rename,
 * is seen without a power cut.  With `durable_fail` = n the n-th sync from now on fails with EIO, with
 * `durable_fail_rename` the n-th rename.
 */
#ifndef DS_TESTS_DURABLE_H
#define DS_TESTS_DURABLE_H

#include <check.h>
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DURABLE_MOST = 4096 };
static struct {
    char what; /* s(ync), r(ename) */
    char from[400], to[400];
} durable_log[DURABLE_MOST];
static int durable_count, durable_fail, durable_fail_rename;
static const char *durable_of; /* only syncs of files whose names end so can fail; NULL: of any */

static void durable_note(char what, const char *from, const char *to) {
    if (durable_count == DURABLE_MOST)
        return;
    durable_log[durable_count].what = what;
    snprintf(durable_log[durable_count].from, 400, "%s", from);
    snprintf(durable_log[durable_count++].to, 400, "%s", to);
}

static int durable_sync(int fd, const char *name) {
    char link[40], path[400];
    int (*real)(int);
    *(void **)&real = dlsym(RTLD_NEXT, name);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    size_t length = strlen(path), end = durable_of ? strlen(durable_of) : 0;
    int meant = length >= end && (!end || !strcmp(path + length - end, durable_of));
    if (meant && durable_fail && --durable_fail == 0) {
        errno = EIO;
        return -1;
    }
    durable_note('s', path, "");
    return real(fd);
}

int fsync(int fd) { return durable_sync(fd, "fsync"); }
int fdatasync(int fd) { return durable_sync(fd, "fdatasync"); }

int rename(const char *from, const char *to) {
    int (*real)(const char *, const char *);
    *(void **)&real = dlsym(RTLD_NEXT, "rename");
    if (durable_fail_rename && --durable_fail_rename == 0) {
        errno = EIO;
        return -1;
    }
    durable_note('r', from, to);
    return real(from, to);
}

int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    int (*real)(int, const char *, int, const char *, unsigned);
    *(void **)&real = dlsym(RTLD_NEXT, "renameat2");
    durable_note('r', from, to);
    return real(a, from, b, to, flags);
}

static inline void durable_begin(void) {
    durable_count = durable_fail = durable_fail_rename = 0;
    durable_of = NULL;
}

static inline int durable_syncs_of(const char *end) {
    int n = 0;
    for (int i = 0; i < durable_count; i++) {
        size_t a = strlen(durable_log[i].from), b = strlen(end);
        n += durable_log[i].what == 's' && a >= b && !strcmp(durable_log[i].from + a - b, end);
    }
    return n;
}

/* `path` got its name by a rename of a file that was synced before, and its folder was synced after
 * it. */
static inline void durable_expect_whole(const char *path) {
    int named = -1, synced = 0, folder = 0;
    char dir[400];
    for (int i = 0; i < durable_count; i++)
        if (durable_log[i].what == 'r' && !strcmp(durable_log[i].to, path))
            named = i;
    ck_assert_msg(named >= 0, "'%s' did not get its name by a rename", path);
    snprintf(dir, sizeof dir, "%s", path);
    *strrchr(dir, '/') = 0;
    for (int i = 0; i < durable_count; i++) {
        if (durable_log[i].what != 's')
            continue;
        synced += i < named && !strcmp(durable_log[i].from, durable_log[named].from);
        folder += i > named && !strcmp(durable_log[i].from, dir);
    }
    ck_assert_msg(synced > 0, "'%s' was named before it was synced", path);
    ck_assert_msg(folder > 0, "the folder of '%s' was not synced after it was named", path);
}

#endif
