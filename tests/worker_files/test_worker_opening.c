/* tests/worker_files/test_worker_opening.c - files of other people's folders: opened on kernels that lack a call, read while they
 * change, listed, and streamed to a feature network. */
#include "tests/fixtures/picture_files.h"
#include "tests/fixtures/worker_fixture.h"
#include "worker/images/picture_list.h"
#include "worker/images/picture_stream.h"
#include "worker/images/scan_internal.h"

#include <errno.h>
#include <seccomp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <zip.h>

/* From now on, in this case's process, a call of the kernel fails. */
static void deny(int number, int code) {
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);
    ck_assert(!seccomp_rule_add(f, SCMP_ACT_ERRNO((unsigned)code), number, 0) && !seccomp_load(f));
    seccomp_release(f);
}

static int open_dir(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    return fd;
}

static void put_plain(const char *dir, const char *name, const char *text) {
    ds_buf b = {0};
    ds_buf_add(&b, text, strlen(text));
    put_file(dir, name, b);
}

static void link_at(const char *dir, const char *name, const char *to) {
    char *path = ds_xasprintf("%s/%s", dir, name);
    ck_assert_int_eq(symlink(to, path), 0);
    free(path);
}

/* ---------------------------------------------------------------- opening */

static const struct {
    const char *path;
    const char *now;   /* NULL: is opened; else why not */
    const char *older; /* .. without openat2, which follows no link */
} places[] = {
    {"f", NULL, NULL},
    {"a/b/f", NULL, NULL},
    {"a/link", NULL, "link cannot be followed"},
    {"la/b/f", NULL, "cannot be opened: Not a directory"},
    {"out", "link leaves the folder (cp -rL makes a copy without links)",
     "link cannot be followed"},
    {"up/outside", "link leaves the folder (cp -rL makes a copy without links)",
     "cannot be opened: Not a directory"},
    {"round", "link cannot be followed", "link cannot be followed"},
    {"nowhere", "missing", "link cannot be followed"},
    {"none", "missing", "missing"},
    {"a/none/f", "missing", "missing"},
    {"f/x", "cannot be opened: Not a directory", "cannot be opened: Not a directory"},
    {"pipe", "not a regular file", "not a regular file"},
    {"socket", "not a regular file", "not a regular file"},
    {"a/b", "link to a folder is not followed (cp -rL makes a copy without links)",
     "link to a folder is not followed (cp -rL makes a copy without links)"},
    {"../outside", "path leaves the folder", "path leaves the folder"},
    {"a/../f", "path leaves the folder", "path leaves the folder"},
    {"/etc/passwd", "path leaves the folder", "path leaves the folder"},
    {"a//f", "path leaves the folder", "path leaves the folder"},
    {"./f", "path leaves the folder", "path leaves the folder"},
    {"f/", "path leaves the folder", "path leaves the folder"},
    {"", "path leaves the folder", "path leaves the folder"},
};

static int make_places(const char *name) {
    char *dir = in_tmp(name);
    put_plain(dir, "a/b/f", "inside");
    put_plain(dir, "f", "inside");
    put_plain(ds_test_tmpdir(), "outside", "outside");
    link_at(dir, "a/link", "b/f");
    link_at(dir, "la", "a");
    link_at(dir, "out", "../outside");
    link_at(dir, "up", "..");
    link_at(dir, "round", "round");
    link_at(dir, "nowhere", "none");
    int at = open_dir(dir), s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(mkfifoat(at, "pipe", 0600), 0);
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%.80s/socket", dir);
    ck_assert_int_eq(bind(s, (struct sockaddr *)&a, sizeof a), 0);
    close(s);
    free(dir);
    return at;
}

static void expect_places(int at, int older) {
    char *own = ds_xasprintf("/proc/%d/fd", (int)getpid());
    int before = files_in(own);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        const char *want = older ? places[i].older : places[i].now;
        char reason[DS_REASON_SIZE] = "", text[7] = "";
        struct stat st;
        int fd = ds_open_beneath(at, places[i].path, &st, reason);
        ck_assert_msg((fd >= 0) == !want, "'%s': %d %s", places[i].path, fd, reason);
        if (want)
            ck_assert_msg(!strcmp(reason, want), "'%s': %s", places[i].path, reason);
        else
            ck_assert(st.st_size == 6 && read(fd, text, 6) == 6 && !strcmp(text, "inside") &&
                      !close(fd));
    }
    ck_assert_int_eq(files_in(own), before); /* nothing is left open */
    free(own);
}

START_TEST(what_is_opened) {
    int at = make_places((const char *[]){"places", "older", "container"}[_i]);
    expect_places(at, 0);
    char longer[400], reason[DS_REASON_SIZE];
    struct stat st;
    int codes[] = {ENOSYS, EPERM};
    if (_i < 2) { /* an older kernel; a container that forbids what it does not know */
        deny(SCMP_SYS(openat2), codes[_i]);
        expect_places(at, 1);
    }
    memset(longer, 'n', sizeof longer);
    memcpy(longer, "a/", 2);
    for (int n = 255; n <= 256; n++) {
        longer[2 + n] = 0;
        ck_assert_int_lt(ds_open_beneath(at, longer, &st, reason), 0);
        ck_assert_str_eq(reason, n == 255 ? "missing" : "cannot be opened: File name too long");
        longer[2 + n] = 'n';
    }
    close(at);
}
END_TEST

/* A kernel that always asks to try again is not asked for ever. */
START_TEST(a_kernel_that_hesitates) {
    int at = make_places("hesitates");
    char reason[DS_REASON_SIZE];
    struct stat st;
    deny(SCMP_SYS(openat2), EAGAIN);
    alarm(60);
    ck_assert_int_lt(ds_open_beneath(at, "f", &st, reason), 0);
    ck_assert_str_eq(reason, "cannot be opened: Resource temporarily unavailable");
    close(at);
}
END_TEST

/* A file that is longer or shorter than it was, or that cannot be read. */
START_TEST(files_that_change) {
    char reason[DS_REASON_SIZE], sha[DS_HEX_SIZE], want[DS_HEX_SIZE];
    uint8_t room[8];
    put_plain(ds_test_tmpdir(), "six", "inside");
    char *path = in_tmp("six");
    for (size_t size = 5; size <= 7; size++) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        *reason = 0;
        ck_assert_int_eq(ds_read_hashed(fd, room, size, sha, reason), size == 6 ? 0 : -1);
        ck_assert_str_eq(reason, size == 6 ? "" : "changed while reading");
        close(fd);
    }
    ds_digest("inside", 6, want);
    ck_assert_str_eq(sha, want);
    int dir = open_dir(ds_test_tmpdir());
    ck_assert_int_eq(ds_read_hashed(dir, room, 6, sha, reason), -1);
    ck_assert_str_eq(reason, "cannot be read: Is a directory");
    close(dir);
    free(path);
}
END_TEST

/* Text that was cut inside a letter; what is no UTF-8 goes, the rest stays. */
START_TEST(text_that_was_cut) {
    static const struct {
        const char *text, *whole;
    } cases[] = {{"", ""},
                 {"plain\n\t\x7f", "plain\n\t\x7f"},
                 {"caf\xc3\xa9", "caf\xc3\xa9"},
                 {"caf\xc3", "caf"},
                 {"\xe2\x82", ""},
                 {"a\xe2\x82\xac"
                  "b\xf0\x9f\x98",
                  "a\xe2\x82\xac"
                  "b"},
                 {"a\xff"
                  "b\x80"
                  "c",
                  "abc"},
                 {"\xc0\xaf", ""},
                 {"\xed\xa0\x80z", "z"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[40];
        snprintf(text, sizeof text, "%s", cases[i].text);
        ds_text_whole(text);
        ck_assert_msg(!strcmp(text, cases[i].whole), "case %zu: %s", i, text);
    }
}
END_TEST

/* ---------------------------------------------------------------- lists */

/* Without a descriptor to spare nothing is listed, and it is said. */
START_TEST(lists_without_descriptors) {
    char *root = in_tmp("spare");
    put_plain(root, "x.png", "x");
    int fd = open_dir(root);
    struct rlimit was, few;
    ck_assert(!getrlimit(RLIMIT_NOFILE, &was));
    few = was;
    few.rlim_cur = (rlim_t)fd + 1;
    ds_candidate_list list = {0};
    ds_rejected_list rejected = {0};
    ds_picture_list l;
    ds_error err = {0};
    ck_assert(!setrlimit(RLIMIT_NOFILE, &few));
    int rc = ds_walk(fd, 10, &list, &rejected, NULL, NULL, &err);
    ck_assert_msg(rc == DS_EIO &&
                      !strcmp(err.message, "cannot list the folder: Too many open files"),
                  "%d %s", rc, err.message);
    ck_assert(!list.count && !rejected.count);
    rc = ds_picture_list_make(&l, root, DS_FID_CLEAN, 0, &err);
    ck_assert_msg(rc == DS_EIO && strstr(err.message, "cannot open folder"), "%d %s", rc,
                  err.message);
    ds_picture_list_release(&l);
    rc = ds_open_folder(root, 1, &fd, &err);
    ck_assert_msg(rc == DS_EIO && strstr(err.message, "cannot open folder"), "%d %s", rc,
                  err.message);
    ck_assert(!setrlimit(RLIMIT_NOFILE, &was) && !close(fd));
    free(root);
}
END_TEST

START_TEST(what_is_no_folder) {
    char *dir = in_tmp("no-folder"), *file = ds_xasprintf("%s/f", dir), *none, *longest;
    int fd = -1;
    ds_error err = {0};
    ds_picture_list l;
    put_plain(dir, "f", "x");
    none = ds_xasprintf("%s/none", dir);
    longest = ds_xasprintf("%s/%0*d", dir, 256, 0);
    for (int links = 0; links < 2; links++) {
        ck_assert_int_eq(ds_open_folder(file, links, &fd, &err), DS_EINVAL);
        ck_assert_msg(strstr(err.message, "f' is not a folder") != NULL, "%s", err.message);
        ck_assert_int_eq(ds_open_folder(none, links, &fd, &err), DS_ENOTFOUND);
        ck_assert_int_ne(ds_open_folder(longest, links, &fd, &err), 0);
        ck_assert_msg(strstr(err.message, "File name too long") != NULL, "%s", err.message);
        ck_assert_int_eq(ds_open_folder(dir, links, &fd, &err), 0);
        ck_assert_int_eq(close(fd), 0);
    }
    ck_assert_int_eq(ds_picture_list_make(&l, file, DS_FID_CLEAN, 0, &err), DS_ENOTFOUND);
    ck_assert_msg(strstr(err.message, "cannot open folder '") != NULL, "%s", err.message);
    ds_picture_list_release(&l);
    free(dir), free(file), free(none), free(longest);
}
END_TEST

/* clean-fid counts arrays too: how many of the first ones; and links to folders are no pictures for us. */
START_TEST(lists_with_arrays_and_links) {
    char *root = in_tmp("arrays");
    static const char *const names[] = {"a.npy", "b.png", "c.npy", "d.png", "x/y.jpg"};
    for (int i = 0; i < 5; i++)
        put_plain(root, names[i], "x");
    link_at(root, "l.png", "x");
    ds_picture_list l;
    ds_error err = {0};
    must(ds_picture_list_make(&l, root, DS_FID_CLEAN, 0, &err), &err);
    ck_assert_int_eq(l.count, 7); /* l.png, and what is behind it */
    static const int first[] = {0, 1, 1, 2, 2, 2, 2, 2, 2};
    for (int n = 0; n < 9; n++)
        ck_assert_int_eq(ds_picture_list_unread(&l, n), first[n]);
    ds_picture_list_release(&l);
    must(ds_picture_list_make(&l, root, DS_FID_BUNDLED, 0, &err), &err);
    ck_assert_int_eq(l.count, 5);
    ck_assert_int_eq(l.walked.count, 1);
    ck_assert_str_eq(l.walked.items[0].path, "l.png");
    ck_assert_str_eq(l.walked.items[0].reason, "link to a folder is not followed");
    ck_assert_int_eq(ds_picture_list_unread(&l, 9), 0);
    ds_picture_list_release(&l);
    free(root);
}
END_TEST

/* ---------------------------------------------------------------- streams */

static int all_of(ds_picture_stream *s, int *given, ds_error *err) {
    const float *images[4];
    int64_t at[4];
    int count, rc;
    *given = 0;
    while (!(rc = ds_picture_stream_next(s, images, at, &count, err)) && count)
        *given += count;
    return rc;
}

/* Without its decoder a stream gives nothing and says why, however many threads there are. */
START_TEST(streams_without_a_decoder) {
    char *root = in_tmp("undecoded");
    for (int i = 0; i < 9; i++) {
        char name[20];
        snprintf(name, sizeof name, "%d.png", i);
        put_file(root, name, make_slope_png(20, 20, i));
    }
    for (int decoders = 1; decoders <= 4; decoders += 3) {
        ds_picture_options o = {.folder = root,
                                .program = "/nonexistent/decoder",
                                .mode = DS_FID_PYTORCH_FID,
                                .batch = 4,
                                .decoders = decoders};
        ds_picture_stream *s;
        ds_error err = {0};
        int given;
        must(ds_picture_stream_open(&s, &o, &err), &err);
        ck_assert_int_eq(all_of(s, &given, &err), DS_EFAILED);
        ck_assert_msg(
            strstr(err.message, "cannot start the image decoder '/nonexistent/decoder'") != NULL,
            "%s", err.message);
        ck_assert_int_eq(given, 0);
        ck_assert_int_eq(ds_picture_stream_rejected(s)->count, 0);
        ds_picture_stream_close(s);
    }
    free(root);
}
END_TEST

/* What is no picture is left out with its reason; a folder of nothing is refused. */
START_TEST(streams_of_other_files) {
    char *root = in_tmp("others"), *empty = in_tmp("empty"), *none = in_tmp("gone"),
         *single = in_tmp("single");
    static const char *const files[] = {"dir", "empty.png", "big.png", "good.png", "wide.png"};
    ds_error err = {0};
    put_file(root, "good.png", make_slope_png(20, 20, 1));
    put_file(root, "wide.png", make_slope_png(DS_FID_PICTURE_SIDE_MAX + 1, 1, 1));
    put_file(root, "empty.png", (ds_buf){0});
    put_file(root, "big.png", (ds_buf){0});
    put_file(single, "one.png", make_slope_png(20, 20, 2));
    char *big = ds_xasprintf("%s/big.png", root), *dir = ds_xasprintf("%s/dir", root);
    ck_assert(!truncate(big, (off_t)DS_FILE_MAX + 1) && !mkdir(dir, 0700) && !mkdir(empty, 0700));
    for (int follow = 0; follow < 2; follow++) {
        ds_picture_options o = {.folder = root,
                                .mode = DS_FID_PYTORCH_FID,
                                .files = files,
                                .file_count = 5,
                                .follow_links = follow,
                                .batch = 2,
                                .decoders = 2};
        ds_picture_stream *s;
        int given;
        must(ds_picture_stream_open(&s, &o, &err), &err);
        must(all_of(s, &given, &err), &err);
        ck_assert_int_eq(given, 1);
        ck_assert_int_eq(ds_picture_stream_left_out(s), 4);
        const ds_rejected_list *r = ds_picture_stream_rejected(s);
        ck_assert_int_eq(r->count, 4);
        for (int i = 0; i < 4; i++) {
            const char *p = r->items[i].path, *why = r->items[i].reason;
            const char *want = !strcmp(p, "dir") ? (follow ? "not a regular file" : "link to")
                               : !strcmp(p, "empty.png") ? "empty"
                               : !strcmp(p, "big.png")   ? "larger than 128 MiB"
                                                         : "too long a side";
            ck_assert_msg(!strncmp(why, want, strlen(want)), "%s: %s", p, why);
        }
        r = ds_picture_stream_broken(s);
        ck_assert_int_eq(r->count, 2);
        for (int i = 0; i < 2; i++)
            ck_assert(!strcmp(r->items[i].path, "dir") || !strcmp(r->items[i].path, "empty.png"));
        ck_assert_str_eq(ds_picture_stream_path(s, 3), "good.png");
        ds_picture_stream_close(s);
    }
    ds_picture_options o = {.folder = empty, .mode = DS_FID_PYTORCH_FID, .batch = 2, .decoders = 1};
    ds_picture_stream *s = NULL;
    ck_assert_int_eq(ds_picture_stream_open(&s, &o, &err), DS_EINVAL);
    ck_assert_msg(strstr(err.message, "empty' has no picture file") != NULL, "%s", err.message);
    o.folder = single;
    must(ds_picture_stream_open(&s, &o, &err), &err);
    ck_assert_int_eq(ds_picture_stream_total(s), 1);
    ds_picture_stream_close(s);
    o.folder = none;
    ck_assert_int_eq(ds_picture_stream_open(&s, &o, &err), DS_ENOTFOUND);
    ck_assert_msg(strstr(err.message, "cannot open folder '") != NULL, "%s", err.message);
    free(root), free(empty), free(none), free(single), free(big), free(dir);
}
END_TEST

/* An .npz file of n pictures of w x h whose bytes are 0, 1, 2, ...; the last `less` of them are not there. */
static char *make_npz(const char *name, int n, int h, int w, int less) {
    char *path = in_tmp(name), head[128];
    size_t bytes = (size_t)n * (size_t)h * (size_t)w * 3;
    memset(head, ' ', sizeof head);
    memcpy(head, "\x93NUMPY\1\0\x76\0", 10);
    int len =
        snprintf(head + 10, 110,
                 "{'descr': '|u1', 'fortran_order': False, 'shape': (%d, %d, %d, 3), }", n, h, w);
    head[10 + len] = ' ';
    head[127] = '\n';
    ds_buf b = {0};
    ds_buf_add(&b, head, sizeof head);
    for (size_t i = 0; i < bytes - (size_t)less; i++)
        ds_buf_add(&b, &(uint8_t){(uint8_t)i}, 1);
    zip_t *z = zip_open(path, ZIP_CREATE | ZIP_TRUNCATE, NULL);
    ck_assert(zip_file_add(z, "arr_0.npy", zip_source_buffer(z, b.data, b.len, 0), 0) >= 0);
    zip_set_file_compression(z, 0, ZIP_CM_STORE, 0);
    ck_assert_int_eq(zip_close(z), 0);
    ds_buf_release(&b);
    return path;
}

/* Pictures of an array in their order, the first n, with the digest of their pixels. */
START_TEST(streams_of_arrays) {
    enum { N = 11, SIDE_A = 4, ONE = SIDE_A * SIDE_A * 3 };
    char *path = make_npz("pictures.npz", N, SIDE_A, SIDE_A, 0), sha[DS_HEX_SIZE],
         want[DS_HEX_SIZE];
    uint8_t pixels[N * ONE];
    ds_error err = {0};
    for (int i = 0; i < N * ONE; i++)
        pixels[i] = (uint8_t)i;
    for (int n = 0; n <= 12; n += 3)
        for (int decoders = 1; decoders <= 3; decoders += 2) {
            ds_npz_pictures *npz;
            must(ds_npz_pictures_open(path, &npz, &err), &err);
            ds_picture_options o = {.npz = npz,
                                    .mode = DS_FID_BUNDLED,
                                    .side = SIDE_A,
                                    .n = n,
                                    .first_n = 1,
                                    .batch = 4,
                                    .decoders = decoders};
            const int all = n && n < N ? n : N;
            ds_picture_stream *s;
            must(ds_picture_stream_open(&s, &o, &err), &err);
            ck_assert_int_eq(ds_picture_stream_total(s), all);
            const float *images[4];
            int64_t at[4], next = 0;
            int count;
            for (;;) {
                must(ds_picture_stream_next(s, images, at, &count, &err), &err);
                if (!count)
                    break;
                for (int i = 0; i < count; i++, next++) {
                    float one[ONE];
                    ds_fid_preprocess(o.mode, SIDE_A, one, pixels + next * ONE, SIDE_A, SIDE_A);
                    ck_assert(at[i] == next && !memcmp(one, images[i], sizeof one));
                }
            }
            const char *other = "x";
            ck_assert_int_eq(next, all);
            ck_assert_int_eq(ds_picture_stream_done(s), all);
            ck_assert_int_eq(ds_picture_stream_left_out(s), 0);
            ck_assert_int_eq(ds_picture_stream_other_sizes(s, &other), 0);
            ck_assert_ptr_null(other);
            ck_assert_str_eq(ds_picture_stream_path(s, 0), "");
            ds_picture_stream_digest(s, sha);
            ds_digest(pixels, (size_t)all * ONE, want);
            ck_assert_str_eq(sha, want);
            ds_picture_stream_close(s);
            ds_npz_pictures_close(npz);
        }
    free(path);
}
END_TEST

/* An array that is damaged at its end: those before it come or do not, the damage is said. */
START_TEST(streams_of_damaged_arrays) {
    char *path = make_npz("damaged.npz", 9, 4, 4, 0);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    ck_assert(fd >= 0 && pwrite(fd, "\xaa\xbb\xcc", 3, 200) == 3 && !close(fd));
    for (int decoders = 1; decoders <= 3; decoders += 2) {
        ds_npz_pictures *npz;
        ds_error err = {0};
        int given;
        must(ds_npz_pictures_open(path, &npz, &err), &err);
        ds_picture_options o = {
            .npz = npz, .mode = DS_FID_BUNDLED, .side = 4, .batch = 4, .decoders = decoders};
        ds_picture_stream *s;
        must(ds_picture_stream_open(&s, &o, &err), &err);
        ck_assert_int_eq(all_of(s, &given, &err), DS_EINTEGRITY);
        ck_assert_msg(strstr(err.message, "damaged.npz") != NULL, "%s", err.message);
        ck_assert_int_lt(given, 9);
        ds_picture_stream_close(s);
        ds_npz_pictures_close(npz);
    }
    free(path);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, what_is_opened, 0, 3);
    tcase_add_test(tc, a_kernel_that_hesitates);
    tcase_add_test(tc, files_that_change);
    tcase_add_test(tc, text_that_was_cut);
    tcase_add_test(tc, lists_without_descriptors);
    tcase_add_test(tc, what_is_no_folder);
    tcase_add_test(tc, lists_with_arrays_and_links);
    tcase_add_test(tc, streams_without_a_decoder);
    tcase_add_test(tc, streams_of_other_files);
    tcase_add_test(tc, streams_of_arrays);
    tcase_add_test(tc, streams_of_damaged_arrays);
}

int main(int argc, char **argv) {
    int status = fixture_dispatch(argc, argv);
    return status >= 0 ? status : ds_test_main("worker_opening", register_cases);
}
