/* tests/worker_files/test_worker_scanned.c - what a scan and a preparation say of files beside the pictures: a table that
 * cannot be used, rows of hidden files, files that are too large, caches that cannot be written. */
#include "tests/fixtures/picture_files.h"
#include "tests/fixtures/worker_fixture.h"
#include "worker/images/grid.h"
#include "worker/images/hash_cache.h"
#include "worker/images/metadata_csv.h"
#include "worker/images/prepare_internal.h"

#include <sys/resource.h>

static char root[300], cache[300], manifest[300];

static void fresh(const char *name) {
    snprintf(root, sizeof root, "%s/%s", ds_test_tmpdir(), name);
    snprintf(cache, sizeof cache, "%s/%s-cache", ds_test_tmpdir(), name);
    snprintf(manifest, sizeof manifest, "%s/%s.ndjson", ds_test_tmpdir(), name);
    ck_assert_int_eq(ds_fs_mkdirs(root, NULL), 0);
    put_file(root, "a.png", make_slope_png(20, 20, 1));
}

static int scan(ds_scan_result *r, const char *hash_cache, ds_error *err) {
    ds_scan_options o = {.root = root, .dataset = "set", .hash_cache = hash_cache};
    return ds_scan(&o, r, NULL, NULL, err);
}

static ds_scan_result scan_ok(const char *hash_cache) {
    ds_scan_result r;
    ds_error err = {0};
    ck_assert_msg(!scan(&r, hash_cache, &err), "%s", err.message);
    return r;
}

static void expect_rejected(const ds_scan_result *r, const char *path, const char *reason) {
    for (int64_t i = 0; i < r->rejected.listed; i++)
        if (!strcmp(r->rejected.items[i].path, path)) {
            ck_assert_str_eq(r->rejected.items[i].reason, reason);
            return;
        }
    ck_abort_msg("'%s' is not rejected", path);
}

/* ---------------------------------------------------------------- tables */

/* A table that is there and cannot be used ends the scan: without it the classes would be others. */
START_TEST(tables_that_cannot_be_used) {
    static const char *const says[] = {
        "cannot use 'metadata.csv': link leaves the folder (cp -rL makes a copy without links)",
        "cannot use 'metadata.csv': missing", "cannot use 'metadata.csv': not a regular file",
        "'metadata.csv' is larger than 256 MiB, the limit: make several data sets of it",
        "cannot use 'metadata.csv': link to a folder is not followed (cp -rL makes a copy without "
        "links)"};
    char name[20], path[320], outside[320];
    snprintf(name, sizeof name, "table-%d", _i);
    fresh(name);
    snprintf(path, sizeof path, "%s/metadata.csv", root);
    snprintf(outside, sizeof outside, "%s/outside.csv", ds_test_tmpdir());
    put_text(ds_test_tmpdir(), "outside.csv", "file_name,label\na.png,x\n");
    if (_i == 0)
        ck_assert(!symlink(outside, path));
    else if (_i == 1)
        ck_assert(!symlink("none", path));
    else if (_i == 2)
        ck_assert(!mkfifo(path, 0600));
    else if (_i == 3) {
        put_text(root, "metadata.csv", "file_name,label\n");
        ck_assert(!truncate(path, (off_t)DS_CSV_MAX + 1));
    } else
        ck_assert(!mkdir(path, 0700));
    ds_scan_result r;
    ds_error err = {0};
    alarm(60);
    ck_assert_int_eq(scan(&r, NULL, &err), DS_EINVAL);
    ck_assert_str_eq(err.message, says[_i]);
    ck_assert(!r.manifest && !r.images);
    ds_scan_release(&r);
}
END_TEST

/* Rows for what the scan does not look at, each with its line. */
START_TEST(rows_without_a_picture) {
    fresh("rows");
    put_file(root, ".hidden.png", make_slope_png(20, 20, 2));
    put_file(root, "Thumbs.db", make_slope_png(20, 20, 3));
    put_text(root, "metadata.csv",
             "file_name,label\na.png,x\n.hidden.png,x\nThumbs.db,x\nnone.png,x\n");
    ds_scan_result r = scan_ok(NULL);
    ck_assert_int_eq(r.images, 1);
    ck_assert_int_eq(r.rejected.count, 3);
    expect_rejected(&r, ".hidden.png", "hidden or a companion file (metadata.csv line 3)");
    expect_rejected(&r, "Thumbs.db", "hidden or a companion file (metadata.csv line 4)");
    expect_rejected(&r, "none.png", "missing (metadata.csv line 5)");
    json_t *doc = ds_scan_result_json(&r), *list = json_object_get(doc, "rejected"), *row;
    size_t i;
    json_array_foreach(list, i, row) {
        ck_assert_str_eq(ds_json_string(row, "path", ""), r.rejected.items[i].path);
        ck_assert_str_eq(ds_json_string(row, "reason", ""), r.rejected.items[i].reason);
    }
    ck_assert_uint_eq(i, 3);
    json_decref(doc);
    ds_scan_release(&r);
}
END_TEST

/* The line of the names, with quotes that are wrong. */
START_TEST(wrong_quotes_in_the_first_line) {
    static const char *const texts[] = {"\"file_name,label\na,b\n", "\"file_name\"x,label\na,b\n"};
    for (int i = 0; i < 2; i++) {
        ds_csv_table t;
        ds_rejected_list rejected = {0};
        ds_error err = {0};
        ck_assert_int_eq(ds_csv_parse(&t, "m", texts[i], strlen(texts[i]), 9, &rejected, &err),
                         DS_EINVAL);
        ck_assert_msg(strstr(err.message, i ? "line 1: text after the closing quote"
                                            : "line 1: the quote is never closed") != NULL,
                      "%s", err.message);
        ck_assert_int_eq(ds_csv_parse(&t, "m", texts[i], strlen(texts[i]), 9, &rejected, NULL),
                         DS_EINVAL);
    }
}
END_TEST

/* ---------------------------------------------------------------- files */

/* 128 MiB are looked into, more are not. */
START_TEST(files_that_are_too_large) {
    fresh("large");
    put_text(root, "fits.png", "no picture");
    put_text(root, "large.png", "no picture");
    char path[320];
    for (int large = 0; large < 2; large++) {
        snprintf(path, sizeof path, "%s/%s.png", root, large ? "large" : "fits");
        ck_assert(!truncate(path, (off_t)DS_FILE_MAX + large));
    }
    ds_scan_result r = scan_ok(NULL);
    ck_assert_int_eq(r.images, 1);
    ck_assert_int_eq(r.rejected.count, 2);
    expect_rejected(&r, "large.png", "file larger than 128 MiB");
    for (int i = 0; i < 2; i++)
        if (!strcmp(r.rejected.items[i].path, "fits.png"))
            ck_assert(!strstr(r.rejected.items[i].reason, "larger"));
    ds_scan_release(&r);
}
END_TEST

/* More files than a list names: they are counted, and that is said. */
START_TEST(more_rejected_than_listed) {
    fresh("many");
    ds_buf table = {0};
    ds_buf_addf(&table, "file_name,label\na.png,x\n");
    for (int i = 0; i < DS_REJECTED_LISTED + 1; i++)
        ds_buf_addf(&table, "%d,x\n", i);
    put_file(root, "metadata.csv", table);
    ds_scan_result r = scan_ok(NULL);
    ck_assert_int_eq(r.rejected.count, DS_REJECTED_LISTED + 1);
    int said = 0;
    for (int i = 0; i < r.warning_count; i++)
        said += !strcmp(r.warnings[i], "10001 files are left out, the list names 10000 of them");
    ck_assert_int_eq(said, 1);
    ds_scan_release(&r);
}
END_TEST

/* Without room for what it remembers a scan is as good, and says so. */
START_TEST(a_hash_cache_without_room) {
    fresh("cacheless");
    char path[320];
    snprintf(path, sizeof path, "%s/a.png/hashes", root);
    /* a fresh file is not remembered */
    nanosleep(&(struct timespec){.tv_nsec = (long)DS_HASH_CACHE_RACY_NS + 20000000}, NULL);
    ds_scan_result r = scan_ok(path);
    ck_assert_int_eq(r.images, 1);
    ck_assert_int_ge(r.warning_count, 1);
    ck_assert_msg(!strncmp(r.warnings[r.warning_count - 1], "the hash cache was not saved: ", 30),
                  "%s", r.warnings[r.warning_count - 1]);
    ds_scan_release(&r);
}
END_TEST

/* ---------------------------------------------------------------- prepared pictures */

static int prepare(ds_images **im, const char *program, ds_error *err) {
    ds_scan_result r = scan_ok(NULL);
    ck_assert_int_eq(ds_fs_write(manifest, r.manifest, r.manifest_size, NULL), 0);
    ds_scan_release(&r);
    ds_prepare_options o = {.root = root,
                            .manifest = manifest,
                            .cache_dir = cache,
                            .program = program,
                            .side = 16,
                            .channels = 3};
    return ds_prepare_open(im, &o, NULL, NULL, err);
}

/* Where the pictures cannot go, or cannot be decoded: said, and nothing is left there. */
START_TEST(caches_that_cannot_be_written) {
    ds_images *im = NULL;
    ds_error err = {0};
    fresh("unwritten");
    put_text(ds_test_tmpdir(), "unwritten-cache", "a file where the folder would be");
    ck_assert_int_eq(prepare(&im, NULL, &err), DS_EINVAL);
    ck_assert_msg(strstr(err.message, "is not a folder") != NULL, "%s", err.message);
    ck_assert(!unlink(cache));
    ck_assert_int_eq(prepare(&im, "/nonexistent/decoder", &err), DS_EFAILED);
    ck_assert_msg(strstr(err.message, "cannot start the image decoder") != NULL, "%s", err.message);
    ck_assert_int_eq(files_in(cache), 0);
    struct rlimit was, less;
    ck_assert(!getrlimit(RLIMIT_FSIZE, &was));
    less = was;
    less.rlim_cur = 1000;
    signal(SIGXFSZ, SIG_IGN);
    ds_scan_result r = scan_ok(NULL);
    ck_assert_int_eq(ds_fs_write(manifest, r.manifest, r.manifest_size, NULL), 0);
    ds_scan_release(&r);
    ds_prepare_options o = {
        .root = root, .manifest = manifest, .cache_dir = cache, .side = 16, .channels = 3};
    ck_assert(!setrlimit(RLIMIT_FSIZE, &less));
    int rc = ds_prepare_open(&im, &o, NULL, NULL, &err);
    ck_assert(!setrlimit(RLIMIT_FSIZE, &was));
    ck_assert_msg(rc == DS_EIO && strstr(err.message, "cannot reserve"), "%d %s", rc, err.message);
    ck_assert_int_eq(files_in(cache), 0);
    ck_assert_int_eq(ds_prepare_open(&im, &o, NULL, NULL, &err), 0);
    ds_images_close(im);
    ck_assert_int_eq(files_in(cache), 1);
}
END_TEST

/* A cache folder whose files would have names that are too long; and what only looks like a left-over. */
START_TEST(names_in_the_cache) {
    ds_images *im = NULL;
    ds_error err = {0};
    fresh("names");
    char *deep = ds_xasprintf("%s/%0*d", cache, 200, 0), *link = NULL;
    must(ds_fs_mkdirs(cache, &err), &err);
    link = ds_xasprintf("%s/images-x.tmp", cache);
    put_text(cache, "images-y.bin", "another's");
    put_text(cache, "other-z.tmp", "another's");
    put_text(cache, "images-old.tmp", "a left-over");
    put_text(ds_test_tmpdir(), "kept", "another's");
    ck_assert(!symlink("../kept", link));
    ck_assert_int_eq(prepare(&im, NULL, &err), 0);
    ds_images_close(im);
    ck_assert_int_eq(files_in(cache), 4); /* the link, two of another's, ours */
    ck_assert_int_eq(access(link, F_OK), 0);
    while (strlen(deep) < PATH_MAX - 260) {
        char *more = ds_xasprintf("%s/%0*d", deep, 200, 0);
        free(deep);
        deep = more;
    }
    char *end = ds_xasprintf("%s/%0*d", deep, (int)(PATH_MAX - 2 - strlen(deep) - 1), 0);
    end[PATH_MAX - 20] = 0;
    ds_prepare_options o = {
        .root = root, .manifest = manifest, .cache_dir = end, .side = 16, .channels = 3};
    ck_assert_int_eq(ds_prepare_open(&im, &o, NULL, NULL, &err), DS_EINVAL);
    ck_assert_msg(strstr(err.message, "path too long: use a state folder with a shorter one") !=
                      NULL,
                  "%s", err.message);
    free(deep), free(link), free(end);
}
END_TEST

/* A picture in planes is put as one in pixels. */
START_TEST(grids_of_planes) {
    float planes[12], pixels[12];
    for (int i = 0; i < 4; i++)
        for (int c = 0; c < 3; c++)
            planes[c * 4 + i] = pixels[i * 3 + c] = (float)(i * 3 + c) / 12.0f - 0.5f;
    ds_grid *a = ds_grid_new(1, 2, 2, 1, 0, 255), *b = ds_grid_new(1, 2, 2, 1, 0, 255);
    ds_grid_put_f32(a, 0, 1, planes, 1);
    ds_grid_put_f32(b, 0, 1, pixels, 0);
    ck_assert_mem_eq(a->rgb, b->rgb, 24);
    ck_assert(b->rgb[6] == 64 && b->rgb[7] == 74); /* (-0.5 + 1) 127.5, and a twelfth more */
    ds_grid_free(a);
    ds_grid_free(b);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, tables_that_cannot_be_used, 0, 5);
    tcase_add_test(tc, rows_without_a_picture);
    tcase_add_test(tc, wrong_quotes_in_the_first_line);
    tcase_add_test(tc, files_that_are_too_large);
    tcase_add_test(tc, more_rejected_than_listed);
    tcase_add_test(tc, a_hash_cache_without_room);
    tcase_add_test(tc, caches_that_cannot_be_written);
    tcase_add_test(tc, names_in_the_cache);
    tcase_add_test(tc, grids_of_planes);
}

int main(int argc, char **argv) {
    int status = fixture_dispatch(argc, argv);
    return status >= 0 ? status : ds_test_main("worker_scanned", register_cases);
}
