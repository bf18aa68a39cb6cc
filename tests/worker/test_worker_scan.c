/* tests/worker/test_worker_scan.c - folders as people have them -> manifest, classes, reasons. */
#include "base/digest.h"
#include "base/log.h"
#include "tests/harness.h"
#include "tests/fixtures/picture_files.h"
#include "worker/images/hash_cache.h"
#include "worker/decode/sandbox.h"
#include "worker/images/scan.h"

#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char root[512], cache[512];

/* A fresh folder for this test. */
static void fresh(const char *name) {
    snprintf(root, sizeof root, "%s/%s", ds_test_tmpdir(), name);
    snprintf(cache, sizeof cache, "%s/%s.cache", ds_test_tmpdir(), name);
    ck_assert_int_eq(ds_fs_mkdirs(root, NULL), 0);
}

static void picture(const char *name, int w, int h, int seed) {
    put_file(root, name, make_slope_png(w, h, seed));
}

static int scan_with(ds_scan_options o, ds_scan_result *r, ds_error *err) {
    o.root = root;
    o.dataset = o.dataset ? o.dataset : "set";
    *err = (ds_error){0};
    return ds_scan(&o, r, NULL, NULL, err);
}

static ds_scan_result scan_ok(ds_scan_options o) {
    ds_scan_result r;
    ds_error err;
    int rc = scan_with(o, &r, &err);
    ck_assert_msg(!rc, "%s", err.message);
    return r;
}

static const char *reason_of(const ds_scan_result *r, const char *path) {
    for (int64_t i = 0; i < r->rejected.listed; i++)
        if (!strcmp(r->rejected.items[i].path, path))
            return r->rejected.items[i].reason;
    return "(not rejected)";
}

static void check_reason(const ds_scan_result *r, const char *path, const char *start) {
    const char *reason = reason_of(r, path);
    ck_assert_msg(!strncmp(reason, start, strlen(start)), "'%s': %s, not %s", path, reason, start);
}

START_TEST(folders_are_classes) {
    fresh("folders");
    picture("b/2.png", 20, 20, 2);
    picture("b/deep/1.png", 30, 21, 1);
    picture("a/x.png", 9, 12, 3);
    picture("stray.png", 9, 12, 4);
    put_text(root, "README.md", "hello");
    put_text(root, "a/LICENSE", "free");
    put_text(root, "a/.hidden.png", "x");
    ds_scan_result r = scan_ok((ds_scan_options){0});
    ck_assert_int_eq(r.images, 3);
    ck_assert_int_eq(r.class_count, 2);
    ck_assert_str_eq(r.classes[0].name, "a");
    ck_assert_str_eq(r.classes[1].name, "b");
    ck_assert_int_eq(r.classes[1].images, 2);
    ck_assert_int_eq(r.rejected.count, 1);
    check_reason(&r, "stray.png", "not in a class folder");
    ck_assert_int_eq(r.ignored, 3);
    ck_assert_int_eq(r.max_width, 30);
    ck_assert_int_eq(r.min_height, 12);
    ck_assert_int_eq(r.warning_count, 2); /* class a has one image; 3 are too few for KID */
    ck_assert_ptr_nonnull(strstr(r.warnings[0], "3 images: FD needs 2 at least, KID 4"));
    /* the manifest, byte for byte, and its digest as sha256sum computes it */
    char want[1024], sha[3][DS_HEX_SIZE], path[700], digest[DS_HEX_SIZE];
    static const char *const names[] = {"a/x.png", "b/2.png", "b/deep/1.png"};
    long long sizes[3];
    for (int i = 0; i < 3; i++) {
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", root, names[i]);
        ck_assert_int_eq(ds_digest_file(path, sha[i], NULL), 0);
        ck_assert_int_eq(stat(path, &st), 0);
        sizes[i] = st.st_size;
    }
    snprintf(want, sizeof want,
             "{\"path\":\"a/x.png\",\"size\":%lld,\"sha256\":\"%s\",\"class\":\"a\"}\n"
             "{\"path\":\"b/2.png\",\"size\":%lld,\"sha256\":\"%s\",\"class\":\"b\"}\n"
             "{\"path\":\"b/deep/1.png\",\"size\":%lld,\"sha256\":\"%s\",\"class\":\"b\"}\n",
             sizes[0], sha[0], sizes[1], sha[1], sizes[2], sha[2]);
    ck_assert_str_eq(r.manifest, want);
    ds_digest(want, strlen(want), digest);
    ck_assert_str_eq(r.tree_digest, digest);
    ds_scan_release(&r);
}
END_TEST

START_TEST(flat_folder_is_one_class) {
    fresh("flat");
    picture("1.png", 20, 20, 2);
    picture("2 \"quoted\\ \xc3\xa4.png", 20, 20, 3);
    ds_scan_result r = scan_ok((ds_scan_options){.dataset = "holiday"});
    ck_assert_int_eq(r.class_count, 1);
    ck_assert_str_eq(r.classes[0].name, "holiday");
    ck_assert_ptr_nonnull(strstr(r.manifest, "{\"path\":\"2 \\\"quoted\\\\ \xc3\xa4.png\","));
    json_t *doc = ds_scan_result_json(&r);
    ck_assert_ptr_nonnull(doc);
    ck_assert_int_eq(json_integer_value(json_object_get(doc, "images")), 2);
    ck_assert_int_eq(json_integer_value(json_object_get(json_object_get(doc, "width"), "max")), 20);
    json_decref(doc);
    ds_scan_release(&r);
}
END_TEST

static void link_to(const char *name, const char *target) {
    char path[700];
    snprintf(path, sizeof path, "%s/%s", root, name);
    ck_assert_int_eq(symlink(target, path), 0);
}

/* Bytes 16..23 of a PNG are its dimensions. */
static void giant(const char *name, uint16_t side) {
    ds_buf b = make_slope_png(8, 8, 1);
    uint8_t v[8] = {0, 0, (uint8_t)(side >> 8), (uint8_t)side,
                    0, 0, (uint8_t)(side >> 8), (uint8_t)side};
    memcpy(b.data + 16, v, 8);
    put_file(root, name, b);
}

static void fill_with_rubbish(void) {
    char path[700];
    ds_buf b = make_slope_png(30, 30, 5);
    picture("c/good.png", 20, 20, 1);
    b.len -= 20;
    put_file(root, "c/cut.png", b);
    put_text(root, "c/empty.png", "");
    put_text(root, "c/text.png", "this is no picture");
    put_text(root, "c/movie.mp4", "....");
    put_text(root, "c/anim.gif", "GIF89a......");
    picture("c/one.png", 1, 1, 1);
    picture("c/small.png", 40, 7, 1);
    giant("c/giant.png", 30000);
    picture("c/new\nline.png", 20, 20, 1);
    picture("c/bad\xff.png", 20, 20, 1);
    picture("c/c1\xc2\x9b.png", 20, 20, 1);
    picture("ev\x1bil/a.png", 20, 20, 1);
    picture("c/folder.png/inner.png", 20, 20, 9);
    picture("c/unreadable.png", 20, 20, 7);
    snprintf(path, sizeof path, "%s/c/unreadable.png", root);
    ck_assert_int_eq(chmod(path, 0), 0);
    snprintf(path, sizeof path, "%s/c/fifo.png", root);
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    snprintf(path, sizeof path, "%s/c/sock.png", root);
    ck_assert_int_eq(mknod(path, S_IFSOCK | 0600, 0), 0);
    link_to("c/inside.png", "good.png");
    link_to("c/outside.png", "../../outside.png");
    link_to("c/absolute.png", "/etc/passwd");
    link_to("c/dangling.png", "nothing.png");
    link_to("c/loop.png", "loop.png");
    link_to("c/up", "..");
    snprintf(path, sizeof path, "%s/outside.png", ds_test_tmpdir());
    put_file(ds_test_tmpdir(), "outside.png", make_slope_png(20, 20, 1));
}

START_TEST(rubbish_costs_only_itself) {
    fresh("rubbish");
    fill_with_rubbish();
    ds_scan_result r = scan_ok((ds_scan_options){0});
    check_reason(&r, "c/cut.png", "truncated");
    check_reason(&r, "c/empty.png", "empty file");
    check_reason(&r, "c/text.png", "unknown file type");
    check_reason(&r, "c/movie.mp4", "unknown file type");
    check_reason(&r, "c/anim.gif", "unknown file type (GIF");
    check_reason(&r, "c/one.png", "too small: 1 x 1");
    check_reason(&r, "c/small.png", "too small: 40 x 7");
    check_reason(&r, "c/giant.png", "too large: 30000 x 30000 pixels, the limit is 67108864");
    check_reason(&r, "c/new\\x0aline.png", "control character");
    check_reason(&r, "c/bad\\xff.png", "name is not valid UTF-8");
    check_reason(&r, "c/c1\\xc2\\x9b.png", "control character");
    check_reason(&r, "ev\\x1bil", "control character");
    check_reason(&r, "c/fifo.png", "not a regular file");
    check_reason(&r, "c/sock.png", "not a regular file");
    check_reason(&r, "c/outside.png", "link leaves the folder (cp -rL makes a copy");
    check_reason(&r, "c/absolute.png", "link leaves the folder");
    check_reason(&r, "c/dangling.png", "missing");
    check_reason(&r, "c/loop.png", "link cannot be followed");
    check_reason(&r, "c/up", "link to a folder is not followed (cp -rL");
    int as_root = geteuid() == 0; /* whom no mode stops, see unreadable_files_say_so */
    if (!as_root)
        check_reason(&r, "c/unreadable.png", "cannot be read: permission denied");
    ck_assert_int_eq(r.rejected.count, 19 + !as_root);
    ck_assert_int_eq(r.images, 3 + as_root); /* good, inside (a link), folder.png/inner */
    ck_assert_int_eq(r.class_count, 1);
    for (int64_t i = 1; i < r.rejected.listed; i++)
        ck_assert_int_le(strcmp(r.rejected.items[i - 1].path, r.rejected.items[i].path), 0);
    ds_scan_release(&r);
}
END_TEST

START_TEST(unreadable_files_say_so) {
    char path[700], reason[DS_REASON_SIZE];
    struct stat st;
    fresh("unreadable");
    picture("a.png", 20, 20, 7);
    snprintf(path, sizeof path, "%s/a.png", root);
    ck_assert_int_eq(chmod(path, 0), 0);
    int dir = open(root, O_RDONLY | O_DIRECTORY), as_root = geteuid() == 0;
    ck_assert_int_eq(fchmod(dir, 0755), 0);
    if (as_root)
        ck_assert_int_eq(seteuid(65534), 0);
    int fd = ds_open_beneath(dir, "a.png", &st, reason);
    if (as_root)
        ck_assert_int_eq(seteuid(0), 0);
    close(dir);
    ck_assert_int_lt(fd, 0);
    ck_assert_str_eq(reason, "cannot be read: permission denied");
}
END_TEST

/* In a child process of its own: the filter cannot be taken off again. */
static int without_openat2(int dir) {
    char reason[DS_REASON_SIZE];
    struct stat st;
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);
    if (seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(openat2), 0) || seccomp_load(f))
        return 1;
    int fd = ds_open_beneath(dir, "a/b/c.png", &st, reason);
    if (fd < 0 || st.st_size == 0)
        return 2;
    if (ds_open_beneath(dir, "a/link.png", &st, reason) >= 0 ||
        strcmp(reason, "link cannot be followed"))
        return 3;
    if (ds_open_beneath(dir, "up/outside.png", &st, reason) >= 0)
        return 4;
    if (ds_open_beneath(dir, "a/../a/b/c.png", &st, reason) >= 0)
        return 5;
    return ds_open_beneath(dir, "a/b", &st, reason) >= 0 ? 6 : 0;
}

START_TEST(old_kernels_follow_no_link) {
    fresh("old");
    picture("a/b/c.png", 20, 20, 1);
    put_file(ds_test_tmpdir(), "outside.png", make_slope_png(20, 20, 1));
    link_to("a/link.png", "b/c.png");
    link_to("up", "..");
    int dir = open(root, O_RDONLY | O_DIRECTORY), status;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        _exit(without_openat2(dir));
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    close(dir);
    ck_assert_int_eq(status, 0);
}
END_TEST

/* A registered root is not followed through links, neither in its own place nor above it. */
START_TEST(root_without_links) {
    ds_scan_result r;
    ds_error err;
    char link[600], real[520];
    fresh("real/up/set");
    picture("a.png", 20, 20, 1);
    r = scan_ok((ds_scan_options){.no_links = 1});
    ds_scan_release(&r);
    snprintf(real, sizeof real, "%s/real/up", ds_test_tmpdir());
    snprintf(link, sizeof link, "%s/link-up", ds_test_tmpdir());
    ck_assert_int_eq(symlink(real, link), 0);
    snprintf(root, sizeof root, "%s/link-up/set", ds_test_tmpdir());
    r = scan_ok((ds_scan_options){0});
    ds_scan_release(&r);
    ck_assert_int_eq(scan_with((ds_scan_options){.no_links = 1}, &r, &err), DS_EINVAL);
    ck_assert_msg(strstr(err.message, "at 'link-up'") != NULL, "%s", err.message);
    ds_scan_release(&r);
    snprintf(root, sizeof root, "%s/link-set", ds_test_tmpdir());
    snprintf(link, sizeof link, "%s/set", real);
    ck_assert_int_eq(symlink(link, root), 0);
    ck_assert_int_eq(scan_with((ds_scan_options){.no_links = 1}, &r, &err), DS_EINVAL);
    ds_scan_release(&r);
    snprintf(root, sizeof root, "%s/real/up/set/a.png", ds_test_tmpdir());
    ck_assert_int_eq(scan_with((ds_scan_options){.no_links = 1}, &r, &err), DS_EINVAL);
    ck_assert_msg(strstr(err.message, "not a folder") != NULL, "%s", err.message);
    ds_scan_release(&r);
    snprintf(root, sizeof root, "%s/real/none/set", ds_test_tmpdir());
    ck_assert_int_eq(scan_with((ds_scan_options){.no_links = 1}, &r, &err), DS_ENOTFOUND);
    ds_scan_release(&r);
}
END_TEST

START_TEST(limits_are_named) {
    fresh("limits");
    ds_scan_result r;
    ds_error err;
    ck_assert_int_eq(scan_with((ds_scan_options){0}, &r, &err), DS_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "no usable image: there are no picture files"));
    ds_scan_release(&r);
    for (int i = 0; i < 5; i++) {
        char name[32];
        snprintf(name, sizeof name, "class%d/a.png", i);
        picture(name, 20, 20, i);
    }
    ck_assert_int_eq(scan_with((ds_scan_options){.max_classes = 4}, &r, &err), DS_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "5 classes, the limit is 4"));
    ds_scan_release(&r);
    ck_assert_int_eq(scan_with((ds_scan_options){.max_files = 4}, &r, &err), DS_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "more than 4 files"));
    ds_scan_release(&r);
    ck_assert_int_eq(scan_with((ds_scan_options){.min_side = 21}, &r, &err), DS_EINVAL);
    ck_assert_ptr_nonnull(
        strstr(err.message, "no usable image: 5 rejected, the first 'class0/a.png'"));
    ck_assert_int_eq(r.rejected.count, 5);
    ds_scan_release(&r);
    snprintf(root, sizeof root, "%s/absent", ds_test_tmpdir());
    ck_assert_int_eq(scan_with((ds_scan_options){0}, &r, &err), DS_ENOTFOUND);
    ds_scan_release(&r);
}
END_TEST

static int cancel_at_once(void *user, double done, double total) {
    (void)user, (void)done, (void)total;
    return 1;
}

START_TEST(scan_can_be_cancelled) {
    fresh("cancel");
    picture("a.png", 20, 20, 1);
    ds_scan_result r;
    ds_error err = {0};
    ds_scan_options o = {.root = root, .dataset = "set"};
    ck_assert_int_eq(ds_scan(&o, &r, cancel_at_once, NULL, &err), DS_ECANCELED);
    ds_scan_release(&r);
}
END_TEST

/* ---------------------------------------------------------------- metadata.csv */

START_TEST(table_wins) {
    fresh("table");
    picture("x/1.png", 20, 20, 1);
    picture("x/2.png", 20, 20, 2);
    picture("y/3, \"odd\".png", 20, 20, 3);
    picture("unlisted.png", 20, 20, 4);
    put_text(root, "metadata.csv",
             "\xef\xbb\xbfid,file_name,note,label\r\n"
             "1,x/1.png,\"two\nlines\",cat\r\n"
             "2,./x/2.png,,\"big \"\"dog\"\"\"\r\n"
             "3,\"y/3, \"\"odd\"\".png\",,cat\r\n"
             "\r\n"
             "4,missing.png,,cat\n"
             "5,../secret.png,,cat\n"
             "6,x/nolabel.png,,\n");
    ds_scan_result r = scan_ok((ds_scan_options){0});
    ck_assert_int_eq(r.images, 3);
    ck_assert_int_eq(r.class_count, 2);
    ck_assert_str_eq(r.classes[0].name, "big \"dog\"");
    ck_assert_str_eq(r.classes[1].name, "cat");
    ck_assert_int_eq(r.classes[1].images, 2);
    check_reason(&r, "unlisted.png", "not listed in metadata.csv");
    check_reason(&r, "missing.png", "missing (metadata.csv line 7)");
    check_reason(&r, "../secret.png", "path leaves the folder");
    check_reason(&r, "x/nolabel.png", "empty label");
    ck_assert_int_eq(r.rejected.count, 4); /* and nothing that was used */
    ck_assert_ptr_nonnull(strstr(r.manifest, "\"class\":\"big \\\"dog\\\"\"}"));
    ds_scan_release(&r);
}
END_TEST

/* Names of 4 kB: what is listed stays small, what is not is counted, and short ones do not slip in
 * behind the long ones. */
START_TEST(lists_of_rejected_files_are_bounded) {
    ds_rejected_list list = {0};
    char path[4001];
    memset(path, 'x', 4000);
    path[4000] = 0;
    for (int i = 0; i < 20000; i++)
        ds_rejected_add(&list, path, "no picture");
    ds_rejected_add(&list, "a", "b");
    ck_assert_int_eq(list.count, 20001);
    ck_assert_int_eq(list.listed, DS_REJECTED_BYTES / 4010);
    ck_assert_int_le(list.bytes, DS_REJECTED_BYTES);
    ds_rejected_release(&list);
    for (int i = 0; i < 20000; i++)
        ds_rejected_add(&list, "a", "b");
    ck_assert_int_eq(list.listed, DS_REJECTED_LISTED);
    ds_rejected_release(&list);
}
END_TEST

/* Each limit at its end, and one beyond. */
START_TEST(limits_at_their_ends) {
    fresh("ends");
    picture("a/1.png", 20, 30, 1);
    picture("b/2.png", 25, 30, 1);
    const struct {
        ds_scan_options o;
        int images; /* 0: refused */
    } cases[] = {{{.min_side = 20}, 2},    {{.min_side = 21}, 1},    {{.min_side = 25}, 1},
                 {{.min_side = 26}, 0},    {{.max_pixels = 750}, 2}, {{.max_pixels = 749}, 1},
                 {{.max_pixels = 599}, 0}, {{.max_classes = 2}, 2},  {{.max_classes = 1}, 0},
                 {{.max_files = 2}, 2},    {{.max_files = 1}, 0},    {{.max_pixels = -5}, 2}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_scan_result r;
        ds_error err;
        int rc = scan_with(cases[i].o, &r, &err);
        ck_assert_msg(rc == (cases[i].images ? 0 : DS_EINVAL), "case %zu: %d %s", i, rc,
                      err.message);
        if (!rc) {
            ck_assert_msg(r.images == cases[i].images, "case %zu: %lld", i, (long long)r.images);
            ck_assert_int_eq(r.class_count, cases[i].images);
        }
        ds_scan_release(&r);
    }
    ds_scan_result r = scan_ok((ds_scan_options){0});
    ck_assert(r.min_width == 20 && r.max_width == 25 && r.min_height == 30 && r.max_height == 30);
    struct stat st[2];
    char path[700];
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", root, i ? "b/2.png" : "a/1.png");
        ck_assert_int_eq(stat(path, &st[i]), 0);
    }
    ck_assert_int_eq(r.bytes, st[0].st_size + st[1].st_size);
    ck_assert_ptr_nonnull(
        strstr(r.warnings[1], "2 of 2 classes have one image only, the first is 'a'"));
    ds_scan_release(&r);
    ck_assert(!remove(path));
    r = scan_ok((ds_scan_options){0});
    ck_assert_ptr_nonnull(strstr(r.warnings[0], "1 image: FD needs 2 at least"));
    ck_assert_ptr_nonnull(strstr(r.warnings[1], "1 of 1 class has one image only"));
    ds_scan_release(&r);
}
END_TEST

/* ---------------------------------------------------------------- cache */

static void wait_until_not_racy(void) {
    nanosleep(&(struct timespec){.tv_nsec = (long)DS_HASH_CACHE_RACY_NS + 20000000}, NULL);
}

START_TEST(unchanged_files_are_not_read_again) {
    fresh("cached");
    picture("a.png", 20, 20, 1);
    picture("b.png", 20, 20, 2);
    put_text(root, "broken.png", "xx");
    wait_until_not_racy();
    ds_scan_options o = {.hash_cache = cache};
    ds_scan_result r1 = scan_ok(o), r2 = scan_ok(o);
    ck_assert_int_eq(r1.hashed, 3);
    ck_assert_int_eq(r1.cached, 0);
    ck_assert_int_eq(r2.hashed, 0);
    ck_assert_int_eq(r2.cached, 3);
    ck_assert_str_eq(r1.tree_digest, r2.tree_digest);
    ck_assert_str_eq(reason_of(&r2, "broken.png"), "unknown file type");
    ck_assert_int_eq(r2.max_width, 20);
    ds_scan_release(&r1);
    ds_scan_release(&r2);
    /* same size, mtime put back: ctime tells */
    char path[700];
    struct stat st;
    snprintf(path, sizeof path, "%s/b.png", root);
    ck_assert_int_eq(stat(path, &st), 0);
    picture("b.png", 20, 20, 3);
    struct timespec times[2] = {st.st_atim, st.st_mtim};
    ck_assert_int_eq(utimensat(AT_FDCWD, path, times, 0), 0);
    wait_until_not_racy();
    r1 = scan_ok(o);
    ck_assert_int_eq(r1.hashed, 1);
    ck_assert_int_eq(r1.cached, 2);
    ds_scan_release(&r1);
    /* limits are applied to what is remembered */
    o.min_side = 21;
    ds_error err;
    ck_assert_int_eq(scan_with(o, &r1, &err), DS_EINVAL);
    ck_assert_int_eq(r1.cached, 3);
    ds_scan_release(&r1);
}
END_TEST

/* A file may change again within one tick of its file system's clock: what was read that soon after
 * a change is not remembered. */
START_TEST(fresh_files_are_not_trusted) {
    ds_hash_cache *c = ds_hash_cache_open(NULL, NULL);
    struct stat st = {.st_dev = 1, .st_ino = 2, .st_size = 3, .st_ctim = {1000, 0}};
    ds_file_facts facts = {.ok = 1}, found;
    int64_t changed = INT64_C(1000000000000);
    memset(facts.sha256, 'a', 64);
    ds_hash_cache_put(c, &st, &facts, changed + DS_HASH_CACHE_RACY_NS - 1);
    ck_assert(!ds_hash_cache_find(c, &st, &found));
    ds_hash_cache_put(c, &st, &facts, changed + DS_HASH_CACHE_RACY_NS);
    ck_assert(ds_hash_cache_find(c, &st, &found));
    ck_assert_str_eq(found.sha256, facts.sha256);
    st.st_size++;
    ck_assert(!ds_hash_cache_find(c, &st, &found));
    ds_hash_cache_close(c);
}
END_TEST

START_TEST(damaged_cache_is_made_anew) {
    fresh("damaged");
    picture("a.png", 20, 20, 1);
    picture("b.png", 20, 20, 2);
    wait_until_not_racy();
    ds_scan_options o = {.hash_cache = cache};
    ds_scan_result r = scan_ok(o);
    ds_scan_release(&r);
    char *data;
    size_t n;
    ck_assert_int_eq(ds_fs_read(cache, 1 << 20, &data, &n, NULL), 0);
    for (size_t i = 0; i < n + 1; i += 11) { /* flipped bits, and a cut at the end of the loop */
        int damaged = 0;
        data[i < n ? i : 0] ^= 4;
        FILE *f = fopen(cache, "wb");
        ck_assert_uint_eq(fwrite(data, 1, n, f), n);
        fclose(f);
        data[i < n ? i : 0] ^= 4;
        ds_hash_cache *c = ds_hash_cache_open(cache, &damaged);
        ck_assert(damaged);
        ds_hash_cache_close(c);
    }
    free(data);
    r = scan_ok(o);
    ck_assert_int_eq(r.hashed, 2);
    ck_assert_int_ge(r.warning_count, 1);
    ds_scan_release(&r);
    r = scan_ok(o);
    ck_assert_int_eq(r.cached, 2);
    ck_assert_int_eq(r.warning_count, 1); /* of two images, no more */
    ds_scan_release(&r);
}
END_TEST

/* The promise is 20,000 files a second for a folder that did not change. */
START_TEST(rescan_is_fast) {
    enum { FILES = 4000 };
    fresh("many");
    char name[64];
    for (int i = 0; i < FILES; i++) {
        snprintf(name, sizeof name, "%d/%d.pgm", i % 10, i);
        ds_buf b = {0};
        ds_buf_addf(&b, "P5 8 8 255\n%064d", i);
        put_file(root, name, b);
    }
    wait_until_not_racy();
    ds_scan_options o = {.hash_cache = cache};
    ds_scan_result r = scan_ok(o);
    ck_assert_int_eq(r.images, FILES);
    double best = 1e9;
    printf("first scan: %.0f files/s\n", FILES / r.seconds);
    ds_scan_release(&r);
    for (int i = 0; i < 3; i++) {
        r = scan_ok(o);
        ck_assert_int_eq(r.cached, FILES);
        best = r.seconds < best ? r.seconds : best;
        ds_scan_release(&r);
    }
    printf("unchanged: %.0f files/s\n", FILES / best);
#ifndef __SANITIZE_ADDRESS__
    ck_assert_msg(FILES / best > 20000, "%.0f files/s", FILES / best);
#endif
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, folders_are_classes);
    tcase_add_test(tc, flat_folder_is_one_class);
    tcase_add_test(tc, rubbish_costs_only_itself);
    tcase_add_test(tc, unreadable_files_say_so);
    tcase_add_test(tc, old_kernels_follow_no_link);
    tcase_add_test(tc, root_without_links);
    tcase_add_test(tc, limits_are_named);
    tcase_add_test(tc, scan_can_be_cancelled);
    tcase_add_test(tc, table_wins);
    tcase_add_test(tc, limits_at_their_ends);
    tcase_add_test(tc, lists_of_rejected_files_are_bounded);
    tcase_add_test(tc, unchanged_files_are_not_read_again);
    tcase_add_test(tc, fresh_files_are_not_trusted);
    tcase_add_test(tc, damaged_cache_is_made_anew);
    tcase_add_test(tc, rescan_is_fast);
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], DS_SANDBOX_ARG))
        return ds_decode_child_main();
    return ds_test_main("worker_scan", cases);
}
