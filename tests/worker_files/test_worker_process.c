/* tests/worker_files/test_worker_process.c - a worker among others: the memory that groups leave it, how it is asked to stop, and
 * its lines of events on a disk that takes them in part or not at all.
 *
 * The program has an fopen of its own, which leads /proc and /sys into a folder of the test. */
#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "tests/harness.h"
#include "worker/job/events.h"
#include "worker/job/memory.h"
#include "worker/job/stop.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char elsewhere[PATH_MAX / 2];

FILE *fopen(const char *path, const char *mode) {
    char other[PATH_MAX];
    int led = *elsewhere && (!strncmp(path, "/proc/", 6) || !strncmp(path, "/sys/", 5));
    snprintf(other, sizeof other, "%s%s", led ? elsewhere : "", path);
    int how = strchr(mode, 'w') ? O_WRONLY | O_CREAT | O_TRUNC : O_RDONLY;
    int fd = open(other, how | O_CLOEXEC, 0644);
    return fd < 0 ? NULL : fdopen(fd, strchr(mode, 'w') ? "w" : "r");
}

static const char *in(const char *name) {
    static char paths[4][PATH_MAX];
    static int turn;
    char *out = paths[turn++ & 3];
    ds_fs_join(out, PATH_MAX, ds_test_tmpdir(), name);
    return out;
}

/* ---------------------------------------------------------------- memory */

static void put(const char *path, const char *text) {
    char full[PATH_MAX];
    snprintf(full, sizeof full, "%s%s", elsewhere, path);
    char *slash = strrchr(full, '/');
    *slash = 0;
    ck_assert_int_eq(ds_fs_mkdirs(full, NULL), 0);
    *slash = '/';
    ck_assert_int_eq(ds_fs_write(full, text, strlen(text), NULL), 0);
}

static void expect_memory(double available, double total, const char *what) {
    double a = ds_memory_available() / 1024, t = ds_memory_total() / 1024;
    ck_assert_msg(a == available && t == total, "%s: %g and %g KiB, must be %g and %g", what, a, t,
                  available, total);
}

/* The least of the machine's and of each group's above us; what a group keeps of files can go. */
START_TEST(memory_of_groups) {
    snprintf(elsewhere, sizeof elsewhere, "%s/machine", ds_test_tmpdir());
    expect_memory(0, 0, "nothing can be read");
    put("/proc/meminfo", "MemTotal:    9000 kB\nMemFree:  100 kB\nMemAvailable:   5000 kB\n");
    expect_memory(5000, 9000, "no groups");
    put("/proc/self/cgroup", "0::/a/b\n");
    expect_memory(5000, 9000, "a group without limits");
    put("/sys/fs/cgroup/a/b/memory.max", "max\n");
    put("/sys/fs/cgroup/a/b/memory.current", "4096\n");
    expect_memory(5000, 9000, "no limit");
    put("/sys/fs/cgroup/a/b/memory.max", "4096000\n"); /* 4000 KiB */
    ck_assert_int_eq(ds_fs_remove(in("machine/sys/fs/cgroup/a/b/memory.current"), NULL), 0);
    expect_memory(4000, 4000, "nothing is said of what is used");
    put("/sys/fs/cgroup/a/b/memory.current", "1024000\n");
    expect_memory(3000, 4000, "a limit");
    put("/sys/fs/cgroup/a/b/memory.stat",
        "anon 1\nx_inactive_file 5\ninactive_file 512000\nactive_file 7\n");
    expect_memory(3500, 4000, "files that can go");
    put("/sys/fs/cgroup/a/memory.max", "2048000\n");
    put("/sys/fs/cgroup/a/memory.current", "1024000\n");
    expect_memory(1000, 2000, "the group above has less");
    put("/sys/fs/cgroup/memory.max", "8192000\n");
    put("/sys/fs/cgroup/memory.current", "8191000\n");
    expect_memory(1000. / 1024, 2000, "the root leaves less");
    put("/sys/fs/cgroup/memory.current", "9191000\n");
    expect_memory(0, 2000, "more is used than allowed");
    put("/proc/self/cgroup", "5:cpu,cpuacct:/a\n3:name=x:/a\n");
    expect_memory(5000, 9000, "groups that are not of memory");
    put("/proc/self/cgroup", "rubbish\n7:memory:/job\n");
    put("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "3072000\n");
    put("/sys/fs/cgroup/memory/job/memory.usage_in_bytes", "2048000\n");
    put("/sys/fs/cgroup/memory/job/memory.stat", "inactive_file 5\ntotal_inactive_file 102400\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    expect_memory(1100, 3000, "the older groups");
    put("/proc/meminfo", "MemTotal:    2500 kB\nMemAvailable:   500 kB\n");
    expect_memory(500, 2500, "the machine has less");
    put("/proc/self/status", "Name: x\nVmRSS:	    77 kB\n");
    ck_assert(ds_memory_now() == 77 * 1024 && ds_memory_peak() > 1e6);
}
END_TEST

/* ---------------------------------------------------------------- being asked to stop */

enum { GOES_ON = 55 };

/* The exit status of a child that is sent a signal while it defers, or while it does not. */
static int stopped(const char *dir, int number, int defers) {
    int status;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        if (ds_stop_install(dir, getppid(), NULL))
            _exit(98);
        ds_stop_defer(defers);
        if (ds_stop_asked())
            _exit(97);
        raise(number);
        if (!ds_stop_asked()) /* of SIGPIPE nothing is noticed */
            _exit(GOES_ON);
        if (!defers)
            _exit(96);
        ds_stop_defer(1); /* still at work */
        if (mkdir(in("at-work"), 0700))
            _exit(94);
        ds_stop_defer(0);
        _exit(95);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(rmdir(in("at-work")) == 0, defers && number != SIGPIPE);
    return WEXITSTATUS(status);
}

START_TEST(asked_to_stop) {
    ds_error err = {0};
    ck_assert_int_eq(ds_fs_mkdirs(in("job"), &err), 0);
    for (int cancel = 0; cancel < 2; cancel++) {
        const int want = cancel ? DS_EXIT_CANCELLED : DS_EXIT_STOPPED;
        if (cancel)
            ck_assert_int_eq(ds_fs_write(in("job/" DS_FILE_CANCEL), "", 0, &err), 0);
        for (int defers = 0; defers < 2; defers++) {
            ck_assert_int_eq(stopped(in("job"), SIGTERM, defers), want);
            ck_assert_int_eq(stopped(in("job"), SIGINT, defers), want);
            ck_assert_int_eq(stopped(in("job"), SIGPIPE, defers), GOES_ON);
            ck_assert_int_eq(stopped(NULL, SIGTERM, defers), DS_EXIT_STOPPED);
        }
    }
    ck_assert_int_eq(ds_stop_install(NULL, 1, &err), DS_ECANCELED);
    ck_assert_str_eq(err.message, "process 1, which started this worker, is gone");
    char *longer = ds_xmalloc(PATH_MAX + 1);
    memset(longer, 'd', PATH_MAX);
    longer[PATH_MAX - 3] = 0;
    ck_assert_int_eq(ds_stop_install(longer, 0, &err), DS_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "job directory is too long"));
    free(longer);
}
END_TEST

/* ---------------------------------------------------------------- events */

/* Until the end of the case the standard error goes to a file. */
static int said_fd = -1;

static void listen_to_log(void) {
    said_fd = open(in("said"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ck_assert(said_fd >= 0 && dup2(said_fd, 2) == 2);
    ds_log_init("worker", DS_LOG_INFO);
}

static int times_said(const char *words) {
    static char text[20000];
    ssize_t n = pread(said_fd, text, sizeof text - 1, 0);
    int times = 0;
    text[n > 0 ? n : 0] = 0;
    for (const char *p = text; (p = strstr(p, words)); p++)
        times++;
    return times;
}

/* A disk that takes nothing: the job goes on, and it is said once. */
START_TEST(events_on_a_full_disk) {
    ds_events *e;
    ds_error err = {0};
    ck_assert_int_eq(ds_fs_mkdirs(in("full"), &err), 0);
    ck_assert_int_eq(symlink("/dev/full", in("full/" DS_FILE_EVENTS)), 0);
    ck_assert_int_eq(ds_events_open(&e, in("full"), &err), 0);
    listen_to_log();
    ds_events_checkpoint(e, 1);
    ds_events_checkpoint(e, 2);
    ds_events_close(e);
    ck_assert_int_eq(times_said("cannot write events.ndjson: No space left on device"), 1);
    ck_assert_int_eq(times_said("cannot write"), 1);
    ck_assert_int_eq(ds_events_open(&e, in("none"), &err), DS_ENOTFOUND);
    ck_assert_ptr_nonnull(strstr(err.message, "cannot open"));
    ck_assert_ptr_nonnull(strstr(err.message, "none/" DS_FILE_EVENTS));
}
END_TEST

/* A line that was cut off is ended before the next one, which is whole. */
START_TEST(events_that_are_cut_off) {
    ds_events *e;
    ds_error err = {0};
    struct rlimit was, less;
    char *text;
    size_t n;
    ck_assert_int_eq(ds_fs_mkdirs(in("cut"), &err), 0);
    ck_assert_int_eq(ds_events_open(&e, in("cut"), &err), 0);
    listen_to_log();
    signal(SIGXFSZ, SIG_IGN);
    ck_assert(!getrlimit(RLIMIT_FSIZE, &was));
    less = was;
    enum { BEFORE = 40 }; /* so that the log has room below the limit */
    for (int i = 0; i < BEFORE; i++)
        ds_events_checkpoint(e, 1);
    ck_assert_int_eq(times_said("cannot write"), 0);
    struct stat st;
    ck_assert(!stat(in("cut/" DS_FILE_EVENTS), &st));
    less.rlim_cur = (rlim_t)st.st_size + 10;
    ck_assert(!setrlimit(RLIMIT_FSIZE, &less));
    ds_events_checkpoint(e, 2); /* ten bytes of it */
    ds_events_checkpoint(e, 3); /* nothing */
    ck_assert(!setrlimit(RLIMIT_FSIZE, &was));
    ds_events_checkpoint(e, 4);
    ds_events_checkpoint(e, 5);
    ds_events_close(e);
    ck_assert_int_eq(times_said("cannot write"), 1);
    ck_assert_int_eq(times_said("cannot write events.ndjson: cut off"), 1);
    ck_assert_int_eq(ds_fs_read(in("cut/" DS_FILE_EVENTS), 9999, &text, &n, NULL), 0);
    int line = 0;
    static const int steps[] = {0, 4, 5};
    for (char *at = text, *end; (end = strchr(at, '\n')); at = end + 1, line++) {
        json_t *doc = NULL;
        int rc = ds_json_parse("line", at, (size_t)(end - at), &doc, NULL);
        ck_assert(line < BEFORE + 3);
        int step = line < BEFORE ? 1 : steps[line - BEFORE];
        ck_assert_msg(!rc == (step > 0), "line %d: %.*s", line, (int)(end - at), at);
        if (!rc)
            ck_assert_int_eq(ds_json_int(doc, "step", 0), step);
        json_decref(doc);
    }
    ck_assert_int_eq(line, BEFORE + 3);
    free(text);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, memory_of_groups);
    tcase_add_test(tc, asked_to_stop);
    tcase_add_test(tc, events_on_a_full_disk);
    tcase_add_test(tc, events_that_are_cut_off);
}

int main(void) { return ds_test_main("worker_process", register_cases); }
