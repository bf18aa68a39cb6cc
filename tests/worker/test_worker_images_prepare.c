/* tests/worker/test_worker_images_prepare.c - manifest -> cached images: content, order, damage, change.
 */
#include "tests/fixtures/durable.h"

#include "base/digest.h"
#include "engine/metrics/resize.h"
#include "tests/harness.h"
#include "tests/fixtures/picture_files.h"
#include "worker/images/prepare_internal.h"
#include "worker/decode/sandbox.h"
#include "worker/images/scan.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[300], cache_dir[300], manifest[300];
static ds_error err;

static void fresh(const char *name) {
    snprintf(root, sizeof root, "%s/%s", ds_test_tmpdir(), name);
    snprintf(cache_dir, sizeof cache_dir, "%s/%s-cache", ds_test_tmpdir(), name);
    snprintf(manifest, sizeof manifest, "%s/%s.ndjson", ds_test_tmpdir(), name);
    ck_assert_int_eq(ds_fs_mkdirs(root, NULL), 0);
}

static void picture(const char *name, int w, int h, int seed) {
    put_file(root, name, make_slope_png(w, h, seed));
}

static void scan(void) {
    ds_scan_options o = {.root = root, .dataset = "set"};
    ds_scan_result r;
    ck_assert_msg(!ds_scan(&o, &r, NULL, NULL, &err), "%s", err.message);
    ck_assert_int_eq(ds_fs_write(manifest, r.manifest, r.manifest_size, NULL), 0);
    ds_scan_release(&r);
}

static int prepare(ds_images **im, int side, ds_progress *progress) {
    ds_prepare_options o = {
        .root = root, .manifest = manifest, .cache_dir = cache_dir, .side = side, .channels = 3};
    err = (ds_error){0};
    return ds_prepare_open(im, &o, progress, NULL, &err);
}

static ds_images *prepare_ok(int side) {
    ds_images *im;
    ck_assert_msg(!prepare(&im, side, NULL), "%s", err.message);
    return im;
}

/* Is image i the picture make_slope(w, h, seed)? */
static void check_image(const ds_images *im, int i, int w, int h, int seed) {
    uint8_t *p = make_slope(w, h, seed), *want = ds_xmalloc((size_t)(im->side * im->side * 3));
    ds_resize_square(want, im->side, p, w, h, 3);
    ck_assert_mem_eq(im->pixels + (size_t)i * (size_t)(im->side * im->side * 3), want,
                     (size_t)(im->side * im->side * 3));
    free(p);
    free(want);
}

/* Path of the one cache file. */
static void cache_file(char *out, size_t size) {
    DIR *d = opendir(cache_dir);
    int found = 0;
    ck_assert_ptr_nonnull(d);
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.') {
            snprintf(out, size, "%s/%.255s", cache_dir, e->d_name);
            found++;
        }
    closedir(d);
    ck_assert_int_eq(found, 1);
}

START_TEST(images_are_decoded_in_order) {
    fresh("order");
    for (int i = 0; i < 40; i++) {
        char name[32];
        snprintf(name, sizeof name, "%c/%02d.png", 'c' - i % 3, i);
        picture(name, 20 + i, 20 + i % 7, i);
    }
    scan();
    ds_images *im = prepare_ok(16), *again;
    ck_assert_int_eq(im->n, 40);
    ck_assert_int_eq(im->class_count, 3);
    ck_assert_str_eq(im->class_names[0], "a");
    ck_assert_str_eq(im->class_names[2], "c");
    ck_assert(!im->from_cache && !im->cache_was_damaged);
    int n = 0;
    for (int c = 0; c < 3; c++)
        for (int i = 2 - c; i < 40; i += 3, n++) {
            ck_assert_int_eq(im->labels[n], c);
            ck_assert_int_eq((int)im->lines[n], n);
            check_image(im, n, 20 + i, 20 + i % 7, i);
        }
    again = prepare_ok(16);
    ck_assert(again->from_cache);
    ck_assert_str_eq(again->digest, im->digest);
    ck_assert_mem_eq(again->pixels, im->pixels, 40 * 16 * 16 * 3);
    ds_images_close(again);
    again = prepare_ok(8); /* another side is another file */
    ck_assert(!again->from_cache);
    ck_assert_str_ne(again->digest, im->digest);
    ds_images_close(again);
    ds_images_close(im);
}
END_TEST

/* A picture whose container is whole and whose data is not: found at decoding. */
static void damage(const char *name) {
    ds_buf b = make_slope_png(20, 20, 5);
    b.data[b.len - 20] ^= 0x55;
    put_file(root, name, b);
}

START_TEST(undecodable_images_cost_themselves) {
    fresh("undecodable");
    damage("a/0.png");
    picture("a/1.png", 20, 20, 1);
    damage("b/2.png");
    picture("b/3.png", 20, 20, 3);
    damage("c/4.png");
    scan();
    for (int pass = 0; pass < 2; pass++) { /* decoded, then from the cache */
        ds_images *im = prepare_ok(16);
        ck_assert_int_eq(im->from_cache, pass);
        ck_assert_int_eq(im->n, 2);
        ck_assert_int_eq(im->class_count, 3); /* class ids do not move */
        ck_assert_int_eq(im->labels[0], 0);
        ck_assert_int_eq(im->labels[1], 1);
        ck_assert_int_eq((int)im->lines[0], 1);
        ck_assert_int_eq((int)im->lines[1], 3);
        check_image(im, 0, 20, 20, 1);
        check_image(im, 1, 20, 20, 3);
        ck_assert_int_eq(im->rejected.count, 3);
        ck_assert_str_eq(im->rejected.items[1].path, "b/2.png");
        ck_assert_ptr_nonnull(strstr(im->rejected.items[1].reason, "damaged PNG"));
        ds_images_close(im);
    }
}
END_TEST

START_TEST(nothing_decodable_is_an_error) {
    fresh("nothing");
    damage("a.png");
    scan();
    ds_images *im;
    ck_assert_int_eq(prepare(&im, 16, NULL), DS_EINVAL);
    ck_assert_ptr_null(im);
    ck_assert_ptr_nonnull(strstr(err.message, "no image of"));
    ck_assert_ptr_nonnull(strstr(err.message, "'a.png': damaged PNG"));
}
END_TEST

START_TEST(changed_files_are_a_conflict) {
    fresh("changed");
    picture("a.png", 20, 20, 1);
    picture("b.png", 20, 20, 2);
    scan();
    ds_images *im;
    char path[700];
    struct stat st;
    snprintf(path, sizeof path, "%s/b.png", root);
    ck_assert_int_eq(stat(path, &st), 0);
    if (_i == 0) {
        unlink(path);
    } else if (_i == 1) {
        FILE *f = fopen(path, "ab");
        fputc('x', f);
        fclose(f);
    } else { /* same size, other content */
        FILE *f = fopen(path, "r+b");
        fseek(f, st.st_size - 1, SEEK_SET);
        fputc('x', f);
        fclose(f);
    }
    ck_assert_int_eq(prepare(&im, 16, NULL), DS_ECONFLICT);
    ck_assert_msg(strstr(err.message, "'b.png' changed since it was scanned") != NULL, "%s",
                  err.message);
    DIR *d = opendir(cache_dir);
    int left = 0;
    for (struct dirent *e; (e = readdir(d));)
        left += e->d_name[0] != '.';
    closedir(d);
    ck_assert_int_eq(left, 0); /* no half file stays */
}
END_TEST

/* A file that a version with another decoding left: whole, of this manifest, with other pixels. */
START_TEST(pixels_of_an_older_decoding_are_not_used) {
    fresh("older");
    picture("a.png", 20, 20, 4);
    scan();
    char *text, path[700], digest[DS_HEX_SIZE], key[DS_HEX_SIZE];
    size_t n;
    ck_assert_int_eq(ds_fs_read(manifest, 1 << 20, &text, &n, NULL), 0);
    ds_digest(text, n, digest);
    free(text);
    text = ds_xasprintf("%s %d %d %s", digest, 16, 3, DS_PREPARE_ID);
    ds_digest(text, strlen(text), key);
    free(text);
    ck_assert_int_eq(ds_fs_mkdirs(cache_dir, NULL), 0);
    snprintf(path, sizeof path, "%s/images-%.32s.bin", cache_dir, key);
    ds_images_file f;
    json_t *meta = json_pack("{s:[s], s:[], s:i, s:s, s:s}", "classes", "set", "rejected",
                             "rejected_count", 0, "manifest", digest, "prepare", DS_PREPARE_ID);
    ck_assert_int_eq(ds_images_create(&f, path, 1, 16 * 16 * 3, &err), 0);
    memset(ds_images_slot(&f, 0), 7, 16 * 16 * 3);
    durable_begin();
    ck_assert_int_eq(
        ds_images_finish(&f, key, 1, 16, 3, (int32_t[]){0}, (uint32_t[]){0}, meta, &err), 0);
    durable_expect_whole(path);
    ds_images_abandon(&f);
    json_decref(meta);
    ds_images *im;
    ck_assert_int_eq(ds_images_open(&im, path, key, &err), 0); /* it could be used */
    ds_images_close(im);
    im = prepare_ok(16);
    ck_assert(!im->from_cache);
    check_image(im, 0, 20, 20, 4);
    ds_images_close(im);
}
END_TEST

START_TEST(damaged_cache_is_rebuilt) {
    fresh("damaged");
    for (int i = 0; i < 3; i++) {
        char name[16];
        snprintf(name, sizeof name, "%d.png", i);
        picture(name, 24, 24, i);
    }
    scan();
    ds_images *im = prepare_ok(8);
    char digest[DS_HEX_SIZE], path[600], *data;
    size_t n;
    memcpy(digest, im->digest, sizeof digest);
    ds_images_close(im);
    cache_file(path, sizeof path);
    ck_assert_int_eq(ds_fs_read(path, 1 << 20, &data, &n, NULL), 0);
    static const long spots[] = {0, 8, 16, 24, 32, 40, 60, 150, 200, 250, 4096, 4300, -1, -30};
    enum { SPOTS = sizeof spots / sizeof *spots };
    for (size_t k = 0; k < SPOTS + 2; k++) {
        size_t keep = n;
        char *copy = ds_xmalloc(n);
        memcpy(copy, data, n);
        if (k < SPOTS)
            copy[spots[k] >= 0 ? (size_t)spots[k] : n - (size_t)-spots[k]] ^= 8;
        else
            keep = k == SPOTS ? n - 1 : 100;
        FILE *f = fopen(path, "wb");
        ck_assert_uint_eq(fwrite(copy, 1, keep, f), keep);
        fclose(f);
        free(copy);
        im = prepare_ok(8);
        ck_assert_msg(!im->from_cache && im->cache_was_damaged, "damage %zu was not noticed", k);
        ck_assert_str_eq(im->digest, digest);
        ds_images_close(im);
    }
    free(data);
    im = prepare_ok(8);
    ck_assert(im->from_cache && !im->cache_was_damaged);
    ds_images_close(im);
}
END_TEST

static const char *const bad_manifests[] = {
    "",
    "{\"path\":\"a.png\"}\n",
    "{\"path\":\"../a.png\",\"size\":9,\"sha256\":"
    "\"0000000000000000000000000000000000000000000000000000000000000000\",\"class\":\"x\"}\n",
    "{\"path\":\"a.png\",\"size\":9,\"sha256\":\"00\",\"class\":\"x\"}\n",
    "{\"path\":\"a.png\",\"size\":99999999999,\"sha256\":"
    "\"0000000000000000000000000000000000000000000000000000000000000000\",\"class\":\"x\"}\n",
    "not json\n",
    "{\"path\":\"a.png\",\"size\":9",
};

START_TEST(bad_manifests_are_refused) {
    fresh("bad");
    ck_assert_int_eq(ds_fs_write(manifest, bad_manifests[_i], strlen(bad_manifests[_i]), NULL), 0);
    ds_images *im;
    ck_assert_int_eq(prepare(&im, 16, NULL), DS_EINVAL);
}
END_TEST

START_TEST(sides_and_channels_are_bounded) {
    static const struct {
        int side, channels;
        const char *says;
    } bad[] = {{0, 3, "a side of 1 to"},
               {-1, 3, "a side of 1 to"},
               {DS_SANDBOX_MAX_SIDE + 1, 3, "a side of 1 to"},
               {16, 1, "with 3 channels, not 1"},
               {16, 4, "with 3 channels, not 4"}};
    fresh("bounds");
    picture("a.png", 20, 20, 1);
    scan();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ds_prepare_options o = {.root = root,
                                .manifest = manifest,
                                .cache_dir = cache_dir,
                                .side = bad[i].side,
                                .channels = bad[i].channels};
        ds_images *im = (ds_images *)&o;
        ck_assert_int_eq(ds_prepare_open(&im, &o, NULL, NULL, &err), DS_EINVAL);
        ck_assert_msg(strstr(err.message, bad[i].says) != NULL, "%s", err.message);
        ck_assert_ptr_null(im);
    }
    ds_images *im = prepare_ok(1);
    ck_assert(im->n == 1 && im->side == 1);
    ds_images_close(im);
    ds_prepare_options o = {
        .root = root, .manifest = manifest, .cache_dir = cache_dir, .side = 12, .channels = 3};
    char *gone = ds_xasprintf("%s.none", manifest);
    o.manifest = gone;
    ck_assert_int_eq(ds_prepare_open(&im, &o, NULL, NULL, &err), DS_ENOTFOUND);
    o.manifest = manifest;
    o.program = "/nonexistent/decoder";
    ck_assert_int_eq(ds_prepare_open(&im, &o, NULL, NULL, &err), DS_EFAILED);
    ck_assert_msg(strstr(err.message, "cannot start the image decoder") != NULL, "%s", err.message);
    o.program = NULL;
    o.root = gone;
    ck_assert_int_ne(ds_prepare_open(&im, &o, NULL, NULL, &err), 0);
    free(gone);
}
END_TEST

START_TEST(full_disk_is_said) {
    fresh("full");
    picture("a.png", 20, 20, 1);
    scan();
    ds_images *im;
    setenv("DS_TEST_ENOSPC", "1", 1);
    ck_assert_int_eq(prepare(&im, 16, NULL), DS_ENOSPC);
    unsetenv("DS_TEST_ENOSPC");
    im = prepare_ok(16);
    ds_images_close(im);
}
END_TEST

static int cancel(void *user, double done, double total) {
    (void)user, (void)done, (void)total;
    return 1;
}

START_TEST(prepare_can_be_cancelled) {
    fresh("cancel");
    for (int i = 0; i < 50; i++) {
        char name[16];
        snprintf(name, sizeof name, "%d.png", i);
        picture(name, 200, 200, i);
    }
    scan();
    ds_images *im;
    int rc = prepare(&im, 16, cancel);
    ck_assert_int_eq(rc, DS_ECANCELED);
}
END_TEST

START_TEST(leftovers_of_dead_processes_are_removed) {
    fresh("leftover");
    picture("a.png", 20, 20, 1);
    scan();
    char old[600];
    put_text(cache_dir, "images-0123.abcdef.tmp", "half");
    snprintf(old, sizeof old, "%s/images-0123.abcdef.tmp", cache_dir);
    int fd = open(old, O_RDONLY | O_CLOEXEC); /* somebody writes it: its lock is held */
    ck_assert_int_eq(flock(fd, LOCK_EX), 0);
    ds_images_close(prepare_ok(16));
    ck_assert_int_eq(access(old, F_OK), 0);
    close(fd);
    ds_images_close(prepare_ok(24));
    ck_assert_int_eq(access(old, F_OK), -1);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, images_are_decoded_in_order);
    tcase_add_test(tc, undecodable_images_cost_themselves);
    tcase_add_test(tc, nothing_decodable_is_an_error);
    tcase_add_loop_test(tc, changed_files_are_a_conflict, 0, 3);
    tcase_add_test(tc, pixels_of_an_older_decoding_are_not_used);
    tcase_add_test(tc, damaged_cache_is_rebuilt);
    tcase_add_loop_test(tc, bad_manifests_are_refused, 0,
                        (int)(sizeof bad_manifests / sizeof *bad_manifests));
    tcase_add_test(tc, sides_and_channels_are_bounded);
    tcase_add_test(tc, full_disk_is_said);
    tcase_add_test(tc, prepare_can_be_cancelled);
    tcase_add_test(tc, leftovers_of_dead_processes_are_removed);
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], DS_SANDBOX_ARG))
        return ds_decode_child_main();
    return ds_test_main("worker_images_prepare", cases);
}
