/* tests/base/test_base_calls.c - calls of the kernel that do half of what they are asked, are interrupted, or fail: what
 * files, digests and lines of the log are then.
 *
 * The program has these calls of its own, which base/ calls instead of the C library's. */
#include "base/digest.h"
#include "base/error.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/zio.h"
#include "tests/harness.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The next calls fail with `code`: `fails` times after `passes` more; most > 0: no call moves more bytes. */
typedef struct {
    int code, fails, passes;
    size_t most;
} calls;
static calls reads, writes, stats, opens, noreplace, links, renames, folders;

static void as_ever(void) {
    reads = writes = stats = opens = noreplace = links = renames = folders = (calls){0};
}

static int to_fail(calls *c) {
    if (c->passes > 0) {
        c->passes--;
        return 0;
    }
    if (c->fails <= 0)
        return 0;
    c->fails--;
    errno = c->code;
    return 1;
}

ssize_t read(int fd, void *p, size_t n) {
    if (to_fail(&reads))
        return reads.code ? -1 : 0; /* 0: the file ends here */
    return syscall(SYS_read, fd, p, reads.most && n > reads.most ? reads.most : n);
}

ssize_t write(int fd, const void *p, size_t n) {
    if (to_fail(&writes))
        return -1;
    return syscall(SYS_write, fd, p, writes.most && n > writes.most ? writes.most : n);
}

ssize_t pwrite(int fd, const void *p, size_t n, off_t at) {
    if (to_fail(&writes))
        return -1;
    return syscall(SYS_pwrite64, fd, p, writes.most && n > writes.most ? writes.most : n, at);
}

int fstat(int fd, struct stat *st) {
    if (to_fail(&stats))
        return -1;
    return (int)syscall(SYS_newfstatat, fd, "", st, AT_EMPTY_PATH);
}

int open(const char *path, int flags, ...) {
    va_list ap;
    va_start(ap, flags);
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, int) : 0;
    va_end(ap);
    if (to_fail(flags & O_DIRECTORY ? &folders : &opens))
        return -1;
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    if (to_fail(&noreplace))
        return -1;
    return (int)syscall(SYS_renameat2, a, from, b, to, flags);
}

int rename(const char *from, const char *to) {
    if (to_fail(&renames))
        return -1;
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int link(const char *from, const char *to) {
    if (to_fail(&links))
        return -1;
    return (int)syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
}

/* A folder of the case's own. */
static char place[PATH_MAX / 2];

static void new_place(void) {
    snprintf(place, sizeof place, "%s/XXXXXX", ds_test_tmpdir());
    ck_assert_ptr_nonnull(mkdtemp(place));
}

static const char *in(const char *name) {
    static char paths[4][PATH_MAX];
    static int turn;
    char *out = paths[turn++ & 3];
    ds_fs_join(out, PATH_MAX, place, name);
    return out;
}

static int entries(void) {
    DIR *d = opendir(place);
    int n = -2; /* . and .. */
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void says(int rc, int code, const ds_error *err, const char *words) {
    ck_assert_msg(rc == code, "code %d, must be %d (%s): %s", rc, code, words, err->message);
    ck_assert_msg(strstr(err->message, words) != NULL, "'%s' has no '%s'", err->message, words);
}

static void has(const char *name, const char *text) {
    char *data;
    size_t n;
    ck_assert_int_eq(ds_fs_read(in(name), 1000, &data, &n, NULL), 0);
    ck_assert_str_eq(data, text);
    free(data);
}

/* In pieces of three bytes, the second of which is interrupted twice. */
START_TEST(pieces_and_interruptions) {
    ds_error err = {0};
    char *data, sha[DS_HEX_SIZE], whole[DS_HEX_SIZE];
    size_t n;
    writes = (calls){EINTR, 2, 1, 3};
    ck_assert_int_eq(ds_fs_write(in("f"), "0123456789", 10, &err), 0);
    as_ever();
    reads = (calls){EINTR, 2, 1, 3};
    ck_assert_int_eq(ds_fs_read(in("f"), 10, &data, &n, &err), 0);
    ck_assert(n == 10 && !strcmp(data, "0123456789"));
    free(data);
    reads = (calls){EINTR, 2, 1, 3};
    ck_assert_int_eq(ds_digest_file(in("f"), sha, &err), 0);
    ds_digest("0123456789", 10, whole);
    ck_assert_str_eq(sha, whole);
    as_ever();
    int fd = open(in("f"), O_RDWR | O_CLOEXEC);
    writes = (calls){EINTR, 2, 1, 3};
    ck_assert_int_eq(ds_fs_pwrite_all(fd, "abcdefg", 7, 2), 0);
    as_ever();
    has("f", "01abcdefg9");
    writes = (calls){ENOSPC, 1, 1, 3};
    ck_assert_int_eq(ds_fs_pwrite_all(fd, "XXXXXXX", 7, 2), -1);
    ck_assert_int_eq(errno, ENOSPC);
    as_ever();
    has("f", "01XXXdefg9");
    close(fd);
}
END_TEST

/* What fails while a file is read: said with its name, and nothing is given. */
START_TEST(reads_that_fail) {
    ds_error err = {0};
    char *data = NULL, sha[DS_HEX_SIZE];
    size_t n;
    ck_assert_int_eq(ds_fs_write(in("f"), "0123456789", 10, &err), 0);
    reads = (calls){EIO, 1, 1, 3};
    says(ds_fs_read(in("f"), 10, &data, &n, &err), DS_EIO, &err, "/f': Input/output error");
    reads = (calls){0, 1, 1, 3};
    says(ds_fs_read(in("f"), 10, &data, &n, &err), DS_EIO, &err,
         "/f': it became shorter while being read");
    as_ever();
    stats = (calls){EIO, 1, 0, 0};
    says(ds_fs_read(in("f"), 10, &data, &n, &err), DS_EIO, &err, "cannot stat");
    reads = (calls){EIO, 1, 1, 3};
    says(ds_digest_file(in("f"), sha, &err), DS_EIO, &err, "cannot read");
    as_ever();
    stats = (calls){EIO, 1, 0, 0};
    says(ds_digest_file(in("f"), sha, &err), DS_EINVAL, &err, "/f': not a regular file");
    says(ds_digest_file(place, sha, &err), DS_EINVAL, &err, "': not a regular file");
    as_ever();
    reads = (calls){EIO, 1, 0, 0};
    says(ds_fs_copy(in("f"), in("copy"), &err), DS_EIO, &err, "/f'");
    as_ever();
    ck_assert(!ds_fs_exists(in("copy")));
}
END_TEST

/* What fails while a file is written: the old one stays, and nothing is left beside it. */
START_TEST(writes_that_fail) {
    static const struct {
        calls *which;
        calls how;
        int code;
        const char *says;
    } cases[] = {{&writes, {ENOSPC, 1, 1, 2}, DS_ENOSPC, "/f"},
                 {&writes, {EIO, 1, 0, 0}, DS_EIO, "/f"},
                 {&renames, {EXDEV, 1, 0, 0}, DS_EIO, "cannot rename"}};
    ds_error err = {0};
    ck_assert_int_eq(ds_fs_write(in("f"), "old", 3, &err), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int output = 0; output < 2; output++) {
            *cases[i].which = cases[i].how;
            int rc = output ? ds_fs_output_write(in("f"), "newer", 5, 1, &err)
                            : ds_fs_write(in("f"), "newer", 5, &err);
            as_ever();
            says(rc, cases[i].code, &err, cases[i].says);
            has("f", "old");
            ck_assert_int_eq(entries(), 1);
        }
    /* the file is there, but perhaps not after a power cut: that is said */
    folders = (calls){EMFILE, 1, 0, 0};
    int rc = ds_fs_write(in("f"), "newer", 5, &err);
    as_ever();
    ck_assert_msg(rc != 0 && strstr(err.message, "cannot open directory"), "%d %s", rc,
                  err.message);
    has("f", "newer");
}
END_TEST

/* A file system without a rename that keeps what is there: a link does it, and keeps it as well. */
START_TEST(results_without_such_a_rename) {
    static const int none[] = {EINVAL, ENOSYS};
    ds_error err = {0};
    for (int i = 0; i < 2; i++) {
        noreplace = (calls){none[i], 1, 0, 0};
        ck_assert_msg(!ds_fs_output_write(in("f"), "text", 4, 0, &err), "%s", err.message);
        has("f", "text");
        ck_assert_int_eq(entries(), 1);
        ck_assert_int_eq(unlink(in("f")), 0);
    }
    /* somebody's file appears in the meantime */
    ck_assert_int_eq(ds_fs_write(in("new"), "mine", 4, &err), 0);
    noreplace = (calls){EINVAL, 1, 0, 0};
    links = (calls){EEXIST, 1, 0, 0};
    says(ds_fs_output_rename(in("new"), in("f"), 0, &err), DS_ECONFLICT, &err, "/f': File exists");
    has("new", "mine");
    noreplace = (calls){EIO, 1, 0, 0}; /* any other failure is one */
    says(ds_fs_output_rename(in("new"), in("f"), 0, &err), DS_EIO, &err, "/f'");
    ck_assert(!ds_fs_exists(in("f")));
    noreplace = (calls){ENOSYS, 1, 0, 0};
    ck_assert_int_eq(ds_fs_output_rename(in("new"), in("f"), 0, &err), 0);
    has("f", "mine");
    ck_assert_int_eq(entries(), 1);
    as_ever();
}
END_TEST

/* A document that cannot be one of JSON is not written. */
START_TEST(documents_that_cannot_be_written) {
    ds_error err = {0};
    ck_assert_int_eq(ds_fs_write(in("doc"), "old", 3, &err), 0);
    json_t *doc = json_pack("{s:f}", "x", 1.5);
    ck_assert_ptr_nonnull(doc);
    json_object_set_new_nocheck(doc, "t", json_stringn_nocheck("\xff\xfe", 2));
    says(ds_json_write_file(in("doc"), doc, &err), DS_EFAILED, &err,
         "/doc': a number in it is not finite or a text is not UTF-8");
    has("doc", "old");
    json_decref(doc);
}
END_TEST

/* What is packed is not packed if the file cannot be written; and what cannot be read is said. */
START_TEST(packed_files_that_fail) {
    ds_error err = {0};
    char *out;
    size_t n;
    ck_assert_int_eq(ds_zio_write_file(in("z"), "text", 4, 3, &err), 0);
    writes = (calls){ENOSPC, 1, 0, 0};
    says(ds_zio_write_file(in("z"), "other", 5, 3, &err), DS_ENOSPC, &err, "/z");
    as_ever();
    ck_assert_int_eq(entries(), 1);
    reads = (calls){EIO, 1, 0, 0};
    says(ds_zio_read_file(in("z"), 99, &out, &n, &err), DS_EIO, &err, "/z");
    as_ever();
    ck_assert_int_eq(ds_zio_read_file(in("z"), 99, &out, &n, &err), 0);
    ck_assert_str_eq(out, "text");
    free(out);
}
END_TEST

/* The number after an errno's name is looked up too. */
START_TEST(codes_of_calls) {
    ds_error err = {0};
    errno = EEXIST;
    ck_assert_int_eq(ds_fail_errno(&err, "x"), DS_ECONFLICT);
    errno = EMFILE;
    ck_assert_int_eq(ds_fail_errno(&err, "x"), DS_EIO);
    ck_assert_str_eq(ds_error_title(0), "ok");
}
END_TEST

/* What ds_log(level, text) writes with this JOURNAL_STREAM ("?": that of the standard error). */
static void logged(char out[4000], const char *stream, enum ds_log_level level, const char *text) {
    char own[64];
    int kept = dup(2), fd = open(in("log"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    struct stat st;
    ck_assert(kept >= 0 && fd >= 0 && dup2(fd, 2) == 2 && !fstat(2, &st));
    snprintf(own, sizeof own, "%llu:%llu", (unsigned long long)st.st_dev,
             (unsigned long long)st.st_ino);
    if (stream)
        setenv("JOURNAL_STREAM", *stream == '?' ? own : stream, 1);
    else
        unsetenv("JOURNAL_STREAM");
    ds_log_init("part", DS_LOG_INFO);
    ds_log(level, "%s", text);
    ck_assert(dup2(kept, 2) == 2 && !close(kept));
    ssize_t n = syscall(SYS_pread64, fd, out, 3999, 0);
    out[n > 0 ? n : 0] = 0;
    close(fd);
    unsetenv("JOURNAL_STREAM");
}

/* Under journald a line has its priority and no time; what is no file of its own has a time. */
START_TEST(lines_of_the_log) {
    static const struct {
        enum ds_log_level level;
        const char *line;
    } lines[] = {{DS_LOG_DEBUG, ""},
                 {DS_LOG_INFO, "<6>level=info comp=part msg=\"a \\\"b\\\" \\\\ c d\"\n"},
                 {DS_LOG_WARN, "<4>level=warn comp=part msg=\"a \\\"b\\\" \\\\ c d\"\n"},
                 {DS_LOG_ERROR, "<3>level=error comp=part msg=\"a \\\"b\\\" \\\\ c d\"\n"}};
    char got[4000];
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        logged(got, "?", lines[i].level, "a \"b\" \\ c\nd");
        ck_assert_str_eq(got, lines[i].line);
        logged(got, "1:2", lines[i].level,
               "a \"b\" \\ c\x7f"
               "d");
        ck_assert_msg(!*lines[i].line ? !*got : !strncmp(got, "ts=2", 4), "%s", got);
        ck_assert_msg(!*got || !strcmp(strstr(got, " level=") + 1, lines[i].line + 3), "%s", got);
        logged(got, NULL, lines[i].level, "x");
        ck_assert_msg(!*lines[i].line ? !*got : !strncmp(got, "ts=2", 4), "%s", got);
    }
    char *longer = ds_xmalloc(3000); /* is cut, and still a line */
    memset(longer, '"', 2999);
    longer[2999] = 0;
    logged(got, "?", DS_LOG_ERROR, longer);
    size_t n = strlen(got);
    ck_assert_msg(n == strlen("<3>level=error comp=part msg=\"") + 2 * 1023 + 2, "%zu bytes", n);
    ck_assert_str_eq(got + n - 5, "\"\\\"\"\n");
    free(longer);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_checked_fixture(tc, new_place, as_ever);
    tcase_add_test(tc, pieces_and_interruptions);
    tcase_add_test(tc, reads_that_fail);
    tcase_add_test(tc, writes_that_fail);
    tcase_add_test(tc, results_without_such_a_rename);
    tcase_add_test(tc, documents_that_cannot_be_written);
    tcase_add_test(tc, packed_files_that_fail);
    tcase_add_test(tc, codes_of_calls);
    tcase_add_test(tc, lines_of_the_log);
}

int main(void) { return ds_test_main("base_calls", register_cases); }
