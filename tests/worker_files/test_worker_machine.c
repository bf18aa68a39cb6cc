/* tests/worker_files/test_worker_machine.c - a disk that fails, a server that is away, no descriptors: nothing is
 * decided of a picture then, neither by a scan nor by a preparation nor by an evaluation.
 *
 * This program has openat, fstatat and read of its own, which every library in it calls. */
#include "tests/fixtures/worker_fixture.h"
#include "worker/images/picture_stream.h"
#include "worker/images/prepare.h"

#include <errno.h>
#include <seccomp.h>
#include <stdarg.h>
#include <sys/syscall.h>

static struct {
    const char *call, *name; /* which call fails, on a file of which name */
    int code;
} fault;

static int fails(const char *call, const char *path) {
    const char *name = strrchr(path, '/');
    if (!fault.call || strcmp(fault.call, call) || strcmp(name ? name + 1 : path, fault.name))
        return 0;
    errno = fault.code;
    return 1;
}

int openat(int dir, const char *path, int flags, ...) {
    va_list ap;
    va_start(ap, flags);
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, int) : 0;
    va_end(ap);
    return fails("openat", path) ? -1 : (int)syscall(SYS_openat, dir, path, flags, mode);
}

int fstatat(int dir, const char *path, struct stat *st, int flags) {
    return fails("fstatat", path) ? -1 : (int)syscall(SYS_newfstatat, dir, path, st, flags);
}

ssize_t read(int fd, void *buf, size_t n) {
    char link[40], path[400];
    int was = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = fault.call ? readlink(link, path, sizeof path - 1) : 0;
    path[length > 0 ? length : 0] = 0;
    if (fails("read", path))
        return -1;
    errno = was;
    return syscall(SYS_read, fd, buf, n);
}

/* Of the kernel, so for all of this process. */
static void deny_openat2(int code) {
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);
    ck_assert(!seccomp_rule_add(f, SCMP_ACT_ERRNO((unsigned)code), SCMP_SYS(openat2), 0) &&
              !seccomp_load(f));
    seccomp_release(f);
}

static const struct {
    const char *call, *name;
    int code, want; /* 0: the file is left out, and the scan goes on */
} faults[] = {
    {"openat", "a", EMFILE, DS_EBUSY},
    {"openat", "a", ENFILE, DS_EBUSY},
    {"openat", "a", EIO, DS_EIO},
    {"openat", "a", ESTALE, DS_EIO},
    {"openat", "a", EACCES, 0},
    {"fstatat", "1.png", EIO, DS_EIO},
    {"fstatat", "1.png", ENOMEM, DS_EBUSY},
    {"fstatat", "1.png", EOVERFLOW, 0},
    {"openat2", "", EIO, DS_EIO},
    {"openat2", "", EMFILE, DS_EBUSY},
    {"openat2", "", ETIMEDOUT, DS_EIO},
    {"openat2", "", ENOTCONN, DS_EIO},
    {"openat2", "", EACCES, 0},
    {"read", "1.png", EIO, DS_EIO},
    {"read", "1.png", ESTALE, DS_EIO},
    {"read", "1.png", EISDIR, 0},
};

static void put_fault(int i) {
    if (!strcmp(faults[i].call, "openat2"))
        deny_openat2(faults[i].code);
    fault.call = faults[i].call;
    fault.name = faults[i].name;
    fault.code = faults[i].code;
}

/* set/a and set/b of two pictures each. */
static char *make_set(void) {
    static uint8_t px[16 * 16 * 3];
    ds_error err;
    for (int c = 0; c < 2; c++)
        for (int k = 0; k < 2; k++) {
            char name[40], *path;
            snprintf(name, sizeof name, "set/%c", 'a' + c);
            path = in_tmp(name);
            must(ds_fs_mkdirs(path, &err), &err);
            free(path);
            pattern(px, 16, 0, c, k);
            snprintf(name, sizeof name, "set/%c/%d.png", 'a' + c, k);
            path = in_tmp(name);
            must(ds_png_write(path, px, 16, 16, &err), &err);
            free(path);
        }
    return in_tmp("set");
}

START_TEST(no_verdict_of_a_scan) {
    char *root = make_set(), *cache = in_tmp("hashes");
    ds_scan_options o = {
        .root = root, .dataset = "set", .program = "/proc/self/exe", .hash_cache = cache};
    ds_scan_result r;
    ds_error err;
    put_fault(_i);
    int rc = ds_scan(&o, &r, NULL, NULL, &err);
    ck_assert_msg(rc == faults[_i].want || (!faults[_i].want && rc == DS_EINVAL), "%s %d: %d %s",
                  faults[_i].call, faults[_i].code, rc, rc ? err.message : "");
    if (faults[_i].want) {
        ck_assert_ptr_nonnull(strstr(err.message, strerror(faults[_i].code)));
        ck_assert_int_eq(strstr(err.message, "nothing is decided") != NULL, rc == DS_EIO);
    } else {
        ck_assert_int_gt(r.rejected.count, 0);
    }
    ds_scan_release(&r);
    fault.call = NULL; /* the disk is well again, and nothing is remembered */
    if (strcmp(faults[_i].call, "openat2")) { /* which stays denied */
        must(ds_scan(&o, &r, NULL, NULL, &err), &err);
        ck_assert_int_eq(r.images, 4);
        ck_assert_int_eq(r.rejected.count, 0);
        ds_scan_release(&r);
    }
    free(cache);
    free(root);
}
END_TEST

/* Scanned while the disk was well. */
START_TEST(no_verdict_of_a_preparation) {
    char *root = make_set(), *manifest = in_tmp("manifest"), *cache = in_tmp("prepared"),
         digest[DS_HEX_SIZE];
    ds_prepare_options o = {.root = root,
                            .manifest = manifest,
                            .cache_dir = cache,
                            .program = "/proc/self/exe",
                            .side = 16,
                            .channels = 3};
    ds_images *images;
    ds_error err;
    must(ds_fs_mkdirs(cache, &err), &err);
    make_manifest(root, manifest, digest);
    if (*faults[_i].name != 'a' && strcmp(faults[_i].call, "fstatat")) { /* it lists no folder */
        put_fault(_i);
        int rc = ds_prepare_open(&images, &o, NULL, NULL, &err),
            want = faults[_i].want ? faults[_i].want : DS_ECONFLICT;
        ck_assert_msg(rc == want, "%s %d: %d %s", faults[_i].call, faults[_i].code, rc,
                      rc ? err.message : "");
        ck_assert_int_eq(strstr(err.message, "changed since it was scanned") != NULL,
                         rc == DS_ECONFLICT);
    }
    free(cache);
    free(manifest);
    free(root);
}
END_TEST

START_TEST(no_verdict_of_an_evaluation) {
    static const char *const files[] = {"a/0.png", "a/1.png"};
    char *root = make_set();
    for (int follow = 0; follow < 2; follow++) {
        ds_picture_options o = {.folder = root,
                                .mode = DS_FID_PYTORCH_FID,
                                .use = DS_DECODE_PILLOW,
                                .files = files,
                                .file_count = 2,
                                .follow_links = follow,
                                .batch = 2,
                                .decoders = 1};
        ds_picture_stream *s;
        ds_error err;
        const float *images[2];
        int64_t at[2];
        int count = 0, rc;
        fault.call = NULL;
        must(ds_picture_stream_open(&s, &o, &err), &err);
        fault.call = _i < 2 ? "read" : "openat"; /* the latter: where links are followed */
        fault.name = "1.png";
        fault.code = _i % 2 ? EISDIR : EIO;
        do
            rc = ds_picture_stream_next(s, images, at, &count, &err);
        while (!rc && count);
        int failed = _i % 2 == 0 && (_i < 2 || follow);
        ck_assert_msg(rc == (failed ? DS_EIO : 0), "%d: %d %s", _i, rc, rc ? err.message : "");
        if (!failed)
            ck_assert_int_eq(ds_picture_stream_rejected(s)->count, _i == 1 || (_i == 3 && follow));
        fault.call = NULL;
        ds_picture_stream_close(s);
    }
    free(root);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_loop_test(tc, no_verdict_of_a_scan, 0, sizeof faults / sizeof *faults);
    tcase_add_loop_test(tc, no_verdict_of_a_preparation, 0, sizeof faults / sizeof *faults);
    tcase_add_loop_test(tc, no_verdict_of_an_evaluation, 0, 4);
}

int main(int argc, char **argv) {
    int rc = fixture_dispatch(argc, argv);
    return rc >= 0 ? rc : ds_test_main("worker_machine", cases);
}
