/* tests/base/test_base_fs.c - where results go: what is refused before the work, what is never replaced,
 * and that what was printed has arrived. */
#include "base/digest.h"
#include "base/fs.h"
#include "base/mem.h"

#include "tests/harness.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

static char *in_tmp(const char *name) { return ds_xasprintf("%s/%s", ds_test_tmpdir(), name); }

static void expect_text(const char *path, const char *text) {
    char *data;
    size_t n;
    ck_assert_int_eq(ds_fs_read(path, 1 << 16, &data, &n, NULL), 0);
    ck_assert_str_eq(data, text);
    free(data);
}

static void expect_refused(const char *path, int force, int code, const char *says) {
    ds_error err = {0};
    int rc = ds_fs_output_check(path, force, &err);
    ck_assert_msg(rc == code && strstr(err.message, says), "'%s': %d '%s', want %d '%s'", path, rc,
                  err.message, code, says);
    err = (ds_error){0};
    rc = ds_fs_output_write(path, "x", 1, force, &err); /* and the work itself keeps the rule */
    ck_assert_msg(rc == code, "written to '%s': %d '%s', want %d", path, rc, err.message, code);
}

static int count_entries(const char *path) {
    DIR *d = opendir(path);
    int n = 0;
    ck_assert_ptr_nonnull(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

START_TEST(joined_paths) {
    char out[8];
    ds_fs_join(out, sizeof out, "abc", "def");
    ck_assert_str_eq(out, "abc/def");
    ds_fs_join(out, sizeof out, "abc", "defg"); /* too long: nothing, and not a part of it */
    ck_assert_str_eq(out, "");
    ds_fs_join(out, sizeof out, "", "d"); /* and not the root's */
    ck_assert_str_eq(out, "");
}
END_TEST

START_TEST(places_for_results) {
    char *dir = in_tmp("out"), *file = in_tmp("out/file"), *under = in_tmp("out/file/x"),
         *none = in_tmp("out/nodir/x"), *slash = in_tmp("out/new/"), *fresh = in_tmp("out/new");
    ds_error err = {0};
    ck_assert_int_eq(ds_fs_mkdirs(dir, &err), 0);
    ck_assert_msg(!ds_fs_output_check(fresh, 0, &err), "%s", err.message);
    ck_assert_int_eq(count_entries(dir), 0); /* asking leaves nothing */
    ck_assert_int_eq(ds_fs_output_write(file, "old", 3, 0, &err), 0);
    expect_refused(file, 0, DS_ECONFLICT, "--force");
    expect_text(file, "old");
    ck_assert_int_eq(ds_fs_output_check(file, 1, &err), 0);
    ck_assert_int_eq(ds_fs_output_write(file, "new", 3, 1, &err), 0);
    expect_text(file, "new");
    for (int force = 0; force < 2; force++) {
        expect_refused("", force, DS_EINVAL, "name is empty");
        expect_refused(dir, force, DS_EINVAL, "it is a folder");
        expect_refused(none, force, DS_ENOTFOUND, "nodir");
        expect_refused(under, force, DS_ENOTFOUND, "Not a directory");
        expect_refused(slash, force, DS_ENOTFOUND, "folder");
    }
    ck_assert_int_eq(count_entries(dir), 1);
    if (geteuid()) {
        ck_assert_int_eq(chmod(dir, 0500), 0);
        expect_refused(fresh, 0, DS_EPERM, "new");
        ck_assert_int_eq(chmod(dir, 0700), 0);
    }
    free(dir), free(file), free(under), free(none), free(slash), free(fresh);
}
END_TEST

/* Everything that is no file stays what it is, whatever is asked. */
START_TEST(special_files_stay) {
    char *pipe = in_tmp("pipe"), *sock = in_tmp("sock"), *node = in_tmp("null"),
         *link = in_tmp("l"), *plain = in_tmp("plain"), *to_plain = in_tmp("to-plain"),
         *tmp = in_tmp("tmp");
    ds_error err;
    struct stat st;
    ck_assert_int_eq(mkfifo(pipe, 0600), 0);
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", sock);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    int device = mknod(node, S_IFCHR | 0666, makedev(1, 3)) == 0; /* as root */
    if (!device)
        ds_test_skip("special_files_stay", "a device can only be made by root");
    ck_assert_int_eq(symlink("/dev/null", link), 0);
    ck_assert_int_eq(ds_fs_write(plain, "kept", 4, NULL), 0);
    ck_assert_int_eq(symlink("plain", to_plain), 0);
    for (int force = 0; force < 2; force++) {
        expect_refused(pipe, force, DS_EINVAL, "it is a pipe");
        expect_refused(sock, force, DS_EINVAL, "it is a socket");
        expect_refused(link, force, DS_EINVAL, "it is a link to '/dev/null'");
        expect_refused(to_plain, force, DS_EINVAL, "it is a link to 'plain'");
        if (device)
            expect_refused(node, force, DS_EINVAL, "it is a device");
    }
    const char *const never[] = {pipe, sock, link, device ? node : pipe};
    for (size_t i = 0; i < 4; i++) { /* nor by what the programs write themselves */
        ck_assert_int_eq(ds_fs_write(never[i], "x", 1, &err), DS_EINVAL);
        ck_assert_int_eq(ds_fs_write(tmp, "x", 1, &err), 0);
        ck_assert_int_eq(ds_fs_rename(tmp, never[i], &err), DS_EINVAL);
        ck_assert_int_eq(ds_fs_output_rename(tmp, never[i], 1, &err), DS_EINVAL);
        ck_assert_int_eq(lstat(never[i], &st), 0);
        ck_assert(!S_ISREG(st.st_mode));
    }
    expect_text(plain, "kept");
    close(fd);
    free(pipe), free(sock), free(node), free(link), free(plain), free(to_plain), free(tmp);
}
END_TEST

/* A file that appeared after the check is not lost. */
START_TEST(a_pipe_is_not_waited_for) {
    char *pipe = in_tmp("reads"), *data, sha[DS_HEX_SIZE];
    size_t n;
    ds_error err;
    ck_assert_int_eq(mkfifo(pipe, 0600), 0);
    alarm(20); /* nobody writes to it */
    ck_assert_int_eq(ds_fs_read(pipe, 1 << 16, &data, &n, &err), DS_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "not a regular file"));
    ck_assert_int_eq(ds_digest_file(pipe, sha, &err), DS_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "not a regular file"));
    alarm(0);
    free(pipe);
}
END_TEST

START_TEST(appeared_in_the_meantime) {
    char *from = in_tmp("from"), *to = in_tmp("to");
    ds_error err;
    ck_assert_int_eq(ds_fs_output_check(to, 0, &err), 0);
    ck_assert_int_eq(ds_fs_write(to, "theirs", 6, &err), 0);
    ck_assert_int_eq(ds_fs_write(from, "ours", 4, &err), 0);
    ck_assert_int_eq(ds_fs_output_rename(from, to, 0, &err), DS_ECONFLICT);
    expect_text(to, "theirs");
    expect_text(from, "ours");
    ck_assert_int_eq(ds_fs_output_rename(from, to, 1, &err), 0);
    expect_text(to, "ours");
    ck_assert(!ds_fs_exists(from));
    free(from), free(to);
}
END_TEST

START_TEST(full_output) {
    ds_error err = {0};
    FILE *f = fopen("/dev/full", "w");
    if (!f) {
        ds_test_skip("full_output", "no /dev/full");
        return;
    }
    ck_assert_int_eq(ds_fs_flush(f, "standard output", &err), 0); /* nothing was printed */
    fputs("words", f);
    ck_assert_int_eq(ds_fs_flush(f, "standard output", &err), DS_ENOSPC);
    ck_assert_ptr_nonnull(strstr(err.message, "cannot write to standard output"));
    ck_assert_int_ne(ds_fs_flush(f, "standard output", &err), 0); /* lost earlier: still said */
    fclose(f);
    f = tmpfile();
    fputs("words", f);
    ck_assert_int_eq(ds_fs_flush(f, "a file", &err), 0);
    fclose(f);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, joined_paths);
    tcase_add_test(tc, places_for_results);
    tcase_add_test(tc, special_files_stay);
    tcase_add_test(tc, a_pipe_is_not_waited_for);
    tcase_add_test(tc, appeared_in_the_meantime);
    tcase_add_test(tc, full_output);
}

int main(void) { return ds_test_main("base_fs", register_cases); }
