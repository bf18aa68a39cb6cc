/* tests/worker/test_worker_walks.c - folders that cannot be listed to their end: by the scan and by the
 * lists of `evaluate`.  What is lost is said, or nothing is taken at all. */
#include "tests/fixtures/picture_files.h"
#include "tests/fixtures/worker_fixture.h"
#include "worker/images/picture_list.h"
#include "worker/images/scan_internal.h"

#include <dirent.h>
#include <errno.h>
#include <seccomp.h>
#include <sys/resource.h>

/* TMP/name with `depth` folders in each other, a picture in the innermost. */
static char *nested(const char *name, int depth) {
    ds_buf path = {0};
    ds_error err;
    ds_buf_addf(&path, "%s/%s", ds_test_tmpdir(), name);
    for (int i = 0; i < depth; i++)
        ds_buf_addf(&path, "/d");
    must(ds_fs_mkdirs(path.data, &err), &err);
    put_file(path.data, "x.png", make_slope_png(20, 20, 1));
    ds_buf_release(&path);
    return in_tmp(name);
}

typedef struct {
    int rc, pictures, rejected;
    char reason[DS_REASON_SIZE]; /* of the first that was rejected */
    ds_error err;
} walked;

static walked walk(int fd) {
    ds_candidate_list list = {0};
    ds_rejected_list rejected = {0};
    walked w = {0};
    w.rc = ds_walk(fd, 1000, &list, &rejected, NULL, NULL, &w.err);
    w.pictures = (int)list.count;
    w.rejected = (int)rejected.count;
    if (rejected.listed)
        snprintf(w.reason, sizeof w.reason, "%s", rejected.items[0].reason);
    ds_candidates_release(&list);
    ds_rejected_release(&rejected);
    return w;
}

static int open_dir(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    return fd;
}

static int list_of(const char *root, enum ds_fid_mode mode, int64_t *count, ds_error *err) {
    ds_picture_list l;
    int rc = ds_picture_list_make(&l, root, mode, 1, err);
    *count = l.count;
    ds_picture_list_release(&l);
    return rc;
}

/* Both walks go so deep and no deeper: the scan leaves out what is below, the lists end. */
START_TEST(deep_folders) {
    for (int more = 0; more < 2; more++) {
        char *root = nested(more ? "scan-deep" : "scan-fits", DS_WALK_DEPTH - 1 + more);
        int fd = open_dir(root);
        walked w = walk(fd);
        ck_assert_int_eq(w.rc, 0);
        ck_assert_int_eq(w.pictures, !more);
        ck_assert_int_eq(w.rejected, more);
        ck_assert_str_eq(w.reason, more ? "folders nested deeper than 32" : "");
        close(fd);
        free(root);
        int64_t count;
        ds_error err = {0};
        root = nested(more ? "list-deep" : "list-fits", 63 + more);
        ck_assert_int_eq(list_of(root, DS_FID_CLEAN, &count, &err), more ? DS_ELIMIT : 0);
        ck_assert_msg(more ? strstr(err.message, "nested deeper than 64") != NULL : count == 1,
                      "%s", err.message);
        free(root);
    }
}
END_TEST

/* Folders with names of 250 letters, more than a path can have; taken away again here. */
START_TEST(long_paths) {
    enum { LEVELS = 17 };
    char name[251], *root = in_tmp("long");
    int fds[LEVELS + 1];
    int64_t count;
    ds_error err = {0};
    memset(name, 'n', 250);
    name[250] = 0;
    must(ds_fs_mkdirs(root, &err), &err);
    fds[0] = open_dir(root);
    for (int i = 0; i < LEVELS; i++) {
        ck_assert(!mkdirat(fds[i], name, 0700));
        fds[i + 1] = openat(fds[i], name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ck_assert_int_ge(fds[i + 1], 0);
    }
    walked w = walk(fds[0]);
    int rc = list_of(root, DS_FID_CLEAN, &count, &err);
    for (int i = LEVELS; i > 0; i--) {
        close(fds[i]);
        unlinkat(fds[i - 1], name, AT_REMOVEDIR);
    }
    close(fds[0]);
    ck_assert(w.rc == 0 && w.rejected == 1);
    ck_assert_str_eq(w.reason, "path longer than 4095 bytes");
    ck_assert_int_eq(rc, DS_ELIMIT);
    ck_assert_msg(strstr(err.message, "has a path longer than 4095 bytes") != NULL, "%s",
                  err.message);
    free(root);
}
END_TEST

/* In a child: the kernel gives no more entries of any folder. */
static int without_entries(int fd, const char *root) {
    int64_t count;
    ds_error err = {0};
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);
    if (seccomp_rule_add(f, SCMP_ACT_ERRNO(EIO), SCMP_SYS(getdents64), 0) || seccomp_load(f))
        return 1;
    walked w = walk(fd);
    if (w.rc != DS_EIO || !strstr(w.err.message, "cannot list folder"))
        return 2;
    if (list_of(root, DS_FID_PYTORCH_FID, &count, &err) != DS_EIO ||
        !strstr(err.message, "cannot list folder"))
        return 3;
    return list_of(root, DS_FID_BUNDLED, &count, &err) == DS_EIO ? 0 : 4;
}

START_TEST(a_disk_that_fails_is_no_empty_folder) {
    char *root = nested("failing", 1);
    int fd = open_dir(root), status;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        _exit(without_entries(fd, root));
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    close(fd);
    free(root);
}
END_TEST

/* A folder that may not be opened, and one whose files may not be looked at. */
START_TEST(folders_without_permission) {
    char *root = nested("closed", 1), *shut = in_tmp("closed/d");
    int fd = open_dir(root), as_root = geteuid() == 0;
    ck_assert(!fchmod(fd, 0755));
    static const struct {
        mode_t mode;
        const char *says;
    } cases[] = {{0, "folder cannot be read: Permission denied"},
                 {0444, "cannot be read: Permission denied"}};
    for (int i = 0; i < 2; i++) {
        ck_assert(!chmod(shut, cases[i].mode));
        if (as_root)
            ck_assert(!seteuid(65534));
        walked w = walk(fd);
        if (as_root)
            ck_assert(!seteuid(0));
        ck_assert(!chmod(shut, 0700));
        ck_assert_msg(!w.rc && !w.pictures && w.rejected == 1, "%d %d", w.rc, w.pictures);
        ck_assert_str_eq(w.reason, cases[i].says);
    }
    close(fd);
    free(shut);
    free(root);
}
END_TEST

/* A process without descriptors lists nothing, and says which is the cause. */
START_TEST(too_few_descriptors) {
    char *root = nested("descriptors", 40);
    struct rlimit was, few;
    int64_t count;
    ds_error err = {0};
    ck_assert(!getrlimit(RLIMIT_NOFILE, &was));
    few = was;
    few.rlim_cur = 30;
    ck_assert(!setrlimit(RLIMIT_NOFILE, &few));
    int rc = list_of(root, DS_FID_CLEAN, &count, &err);
    ck_assert(!setrlimit(RLIMIT_NOFILE, &was));
    ck_assert_int_eq(rc, DS_EIO);
    ck_assert_msg(strstr(err.message, "Too many open files") != NULL, "%s", err.message);
    free(root);
}
END_TEST

/* Without its decoder a scan says nothing of the pictures. */
START_TEST(without_a_decoder_there_is_no_scan) {
    char *root = nested("undecoded", 1);
    ds_scan_options o = {.root = root, .dataset = "x", .program = "/nonexistent/decoder"};
    ds_scan_result r;
    ds_error err = {0};
    ck_assert_int_eq(ds_scan(&o, &r, NULL, NULL, &err), DS_EFAILED);
    ck_assert_msg(strstr(err.message, "cannot start the image decoder '/nonexistent/decoder'") !=
                      NULL,
                  "%s", err.message);
    ck_assert(!r.manifest && r.rejected.count == 0);
    ds_scan_release(&r);
    free(root);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, deep_folders);
    tcase_add_test(tc, long_paths);
    tcase_add_test(tc, a_disk_that_fails_is_no_empty_folder);
    tcase_add_test(tc, folders_without_permission);
    tcase_add_test(tc, too_few_descriptors);
    tcase_add_test(tc, without_a_decoder_there_is_no_scan);
}

int main(int argc, char **argv) {
    int status = fixture_dispatch(argc, argv);
    return status >= 0 ? status : ds_test_main("worker_walks", register_cases);
}
