/* tests/cli/test_cli_pictures.c - many samples into a folder of PNG files or into an .npz file: names,
 * pixels, what is replaced, what is left behind when it fails, and memory. */
#include "tests/fixtures/durable.h"

#include "base/digest.h"
#include "base/fs.h"
#include "base/png_write.h"
#include "cli/npz_write.h"
#include "cli/pictures.h"
#include "tests/fixtures/cli_fake.h"

#include <dirent.h>
#include <limits.h>
#include <malloc.h>
#include <png.h>
#include <sys/stat.h>

#define JOB(state, more) "{\"id\":4,\"kind\":\"sample\",\"state\":\"" state "\"" more "}"

/* samples.safetensors of n pictures of side x side; picture i has all bytes i % 251, label i % 3. */
static ds_buf make_file(int n, int side, const char *classes) {
    ds_buf b = {0}, head = {0};
    size_t one = (size_t)(side * side * 3);
    ds_buf_addf(
        &head,
        "{\"__metadata__\":{%s%s%s\"digest\":\"x\"},\"labels\":{\"dtype\":\"I32\",\"shape\":"
        "[%d],\"data_offsets\":[0,%d]},\"images\":{\"dtype\":\"U8\",\"shape\":[%d,%d,%d,3],"
        "\"data_offsets\":[%d,%zu]}}",
        classes ? "\"classes\":\"" : "", classes ? classes : "", classes ? "\"," : "", n, 4 * n, n,
        side, side, 4 * n, 4 * (size_t)n + (size_t)n * one);
    uint64_t length = head.len;
    ds_buf_add(&b, &length, 8);
    ds_buf_add(&b, head.data, head.len);
    for (int32_t i = 0, label; i < n; i++) {
        label = classes ? i % 3 : -1;
        ds_buf_add(&b, &label, 4);
    }
    char *px = ds_xmalloc(one);
    for (int i = 0; i < n; i++) {
        memset(px, i % 251, one);
        ds_buf_add(&b, px, one);
    }
    free(px);
    ds_buf_release(&head);
    return b;
}

static int entries(const char *path) {
    DIR *dir = opendir(path);
    int n = 0;
    while (dir && readdir(dir))
        n++;
    if (dir)
        closedir(dir);
    return dir ? n - 2 : -1;
}

static void has_picture(const char *dir, const char *name, int value, int side) {
    char path[PATH_MAX], *data, *want;
    size_t n, m, one = (size_t)(side * side * 3);
    uint8_t *px = ds_xmalloc(one);
    memset(px, value, one);
    ds_fs_join(path, sizeof path, dir, name);
    ck_assert_msg(!ds_fs_read(path, 1 << 20, &data, &n, NULL), "no %s", path);
    ck_assert_int_eq(ds_png_encode(px, side, side, &want, &m, NULL), 0);
    ck_assert(n == m && !memcmp(data, want, n));
    free(data);
    free(want);
    free(px);
}

static void start(fake_server *s, const ds_buf *file, fake_kind kind) {
    const fake_route routes[] = {
        {.request = "POST /v1/samples", .status = 202, .body = JOB("queued", "")},
        {.request = "GET /v1/jobs/4", .body = JOB("done", ",\"result\":{\"n\":4,\"seconds\":1}")},
        {.request = "GET /v1/jobs/4/events*", .body = ""},
        {.request = "GET /v1/jobs/4/files/samples.safetensors",
         .body = file->data,
         .length = file->len,
         .kind = kind},
        {.request = NULL}};
    fake_start(s, routes);
}

START_TEST(folder_of_pictures) {
    ds_buf file = make_file(4, 5, "[\\\"seven\\\",\\\"a/b c\\\",\\\"\\u00e9\\\"]");
    fake_server s;
    cli_result r;
    struct stat st;
    start(&s, &file, FAKE_PLAIN);
    ck_assert_int_eq(chdir(ds_test_tmpdir()), 0);
    ck_run(r, &s, 0, "sample digits -n 4 -o many/");
    ck_has(r.err, "4 images of digits in 1.0 s, written to many/");
    ck_has(s.log.data, "\"sheet\":false");
    cli_free(&r);
    ck_assert_int_eq(entries("many"), 4);
    has_picture("many", "00000-seven.png", 0, 5);
    has_picture("many", "00001-a_b_c.png", 1, 5);
    has_picture("many", "00002-__.png", 2, 5);
    has_picture("many", "00003-seven.png", 3, 5);
    ck_assert(!stat("many", &st) && (st.st_mode & 0777) == 0755);
    ds_buf_release(&s.log);
    ck_run(r, &s, 4, "sample digits -n 4 -o many/");
    ck_has(r.err, "'many/' exists: give another name, or --force to replace it");
    ck_assert(!s.log.len);
    cli_free(&r);
    ck_assert_int_eq(ds_fs_write("many/00009-old.png", "", 0, NULL), 0);
    ck_run(r, &s, 0, "sample digits -n 4 -o many --force --json"); /* a folder, without the '/' */
    json_t *doc = cli_json(&r, "dsctl.v1/job");
    ck_assert_int_eq(ds_json_int(doc, "pictures", 0), 4);
    json_decref(doc);
    cli_free(&r);
    ck_assert_int_eq(entries("many"), 4); /* none of the earlier run is left among them */
    ck_assert_int_eq(ds_fs_write("many/notes.txt", "", 0, NULL), 0);
    ck_run(r, &s, 4, "sample digits -n 4 -o many/ --force");
    ck_has(r.err, "holds more than samples ('notes.txt')");
    cli_free(&r);
    ck_assert_int_eq(entries("many"), 5);
    fake_stop(&s);
    ds_buf_release(&file);
}
END_TEST

START_TEST(npz_of_pictures) {
    ds_buf file = make_file(4, 5, NULL);
    fake_server s;
    cli_result r;
    char *data;
    size_t n;
    start(&s, &file, FAKE_PLAIN);
    ck_assert_int_eq(chdir(ds_test_tmpdir()), 0);
    ck_run(r, &s, 0, "sample base -n 4 -o four.npz");
    cli_free(&r);
    ck_assert_int_eq(ds_fs_read("four.npz", 1 << 20, &data, &n, NULL), 0);
    /* local header of 30 bytes, its name, ZIP64; then .npy: 128 bytes before the numbers */
    size_t at = 30 + 9 + 20;
    ck_assert(!memcmp(data, "PK\x03\x04", 4) && !memcmp(data + 30, "arr_0.npy", 9));
    ck_assert(!memcmp(data + at, "\x93NUMPY\x01\x00", 8));
    ck_assert_ptr_nonnull(strstr(data + at + 10, "'descr': '|u1'"));
    ck_assert_ptr_nonnull(strstr(data + at + 10, "'shape': (4, 5, 5, 3)"));
    for (int i = 0; i < 300; i++)
        ck_assert_int_eq(data[at + 128 + (size_t)i], i / 75);
    free(data);
    ck_run(r, &s, 4, "sample base -n 4 -o four.npz");
    cli_free(&r);
    ck_run(r, &s, 0, "sample base -n 4 -o four.npz -f");
    cli_free(&r);
    char whole[300];
    snprintf(whole, sizeof whole, "%s/whole.npz", ds_test_tmpdir());
    durable_begin();
    ck_run(r, &s, 0, "sample base -n 4 -o %s", whole);
    durable_expect_whole(whole);
    cli_free(&r);
    fake_stop(&s);
    ds_buf_release(&file);
}
END_TEST

static const struct {
    fake_kind kind;
    int cut; /* bytes that are missing at the end; < 0: too many */
    int code;
    const char *says;
} broken[] = {{FAKE_TRUNCATED, 0, 9, "ended early"},
              {FAKE_PLAIN, 10, 9, "ended after 3 of 4"},
              {FAKE_PLAIN, -10, 9, "no file of samples"}};

/* What does not arrive whole leaves nothing behind, and the way to the pictures is told. */
START_TEST(broken_streams_leave_nothing) {
    ds_buf file = make_file(4, 5, NULL);
    fake_server s;
    cli_result r;
    const char *dir = ds_test_tmpdir();
    if (broken[_i].cut < 0)
        ds_buf_add(&file, "0123456789", 10);
    else
        file.len -= (size_t)broken[_i].cut;
    ck_assert_int_eq(chdir(dir), 0);
    start(&s, &file, broken[_i].kind);
    int before = entries(dir);
    for (int npz = 0; npz < 2; npz++) {
        ck_run(r, &s, broken[_i].code, "sample base -n 4 -o %s", npz ? "bad.npz" : "bad/");
        ck_has(r.err, broken[_i].says);
        ck_has(r.err, "job 4 keeps the pictures: curl --unix-socket '");
        cli_free(&r);
        ck_assert_int_eq(entries(dir), before);
    }
    fake_stop(&s);
    ds_buf_release(&file);
}
END_TEST

static int64_t in_use(void) {
    struct mallinfo2 m = mallinfo2();
    return (int64_t)(m.uordblks + m.hblkhd);
}

static void put_all(ds_pictures *p, const char *data, size_t n, size_t step) {
    ds_error err = {0};
    for (size_t at = 0; at < n; at += step)
        ck_assert_msg(!ds_pictures_put(p, data + at, n - at < step ? n - at : step, &err), "%s",
                      err.message);
}

/* However the stream is cut into pieces; and 50,000 take no more memory than one and the labels. */
START_TEST(pieces_and_memory) {
    char npz[300], folder[300];
    int64_t count;
    ds_pictures *p;
    ds_error err;
    ds_buf few = make_file(7, 3, "[\\\"x\\\"]"), many = make_file(50000, 8, NULL);
    snprintf(folder, sizeof folder, "%s/pieces/", ds_test_tmpdir());
    snprintf(npz, sizeof npz, "%s/many.npz", ds_test_tmpdir());
    ck_assert_int_eq(ds_pictures_open(&p, folder, 0, &err), 0);
    put_all(p, few.data, few.len, 1);
    ck_assert_int_eq(ds_pictures_finish(p, &count, &err), 0);
    ck_assert_int_eq(count, 7);
    has_picture(folder, "00003-x.png", 3, 3);
    has_picture(folder, "00004-1.png", 4, 3); /* a label without a name */
    int64_t before = in_use();
    ck_assert_int_eq(ds_pictures_open(&p, npz, 0, &err), 0);
    put_all(p, many.data, many.len - 1, 65536 + 7);
    int64_t during = in_use() - before;
    put_all(p, many.data + many.len - 1, 1, 1);
    ck_assert_int_eq(ds_pictures_finish(p, &count, &err), 0);
    ck_assert_int_eq(count, 50000);
    ck_assert_msg(during < 600000, "%lld bytes were held", (long long)during); /* labels: 200,000 */
    ds_buf_release(&few);
    ds_buf_release(&many);
}
END_TEST

/* What is written is a picture to any reader: each pixel in its place. */
START_TEST(a_png_has_its_pixels) {
    enum { W = 7, H = 5 };
    uint8_t px[W * H * 3], got[W * H * 3];
    char *png, path[300], *file;
    size_t n, m;
    ds_error err;
    for (int i = 0; i < W * H * 3; i++)
        px[i] = (uint8_t)(i * 37 + i / W);
    ck_assert_int_eq(ds_png_encode(px, W, H, &png, &n, &err), 0);
    png_image image = {.version = PNG_IMAGE_VERSION};
    ck_assert(png_image_begin_read_from_memory(&image, png, n));
    ck_assert(image.width == W && image.height == H && image.format == PNG_FORMAT_RGB);
    ck_assert(png_image_finish_read(&image, NULL, got, 0, NULL));
    ck_assert_mem_eq(px, got, sizeof px);
    snprintf(path, sizeof path, "%s/one.png", ds_test_tmpdir());
    ck_assert_int_eq(ds_png_write(path, px, W, H, &err), 0);
    ck_assert_int_eq(ds_fs_read(path, 1 << 20, &file, &m, &err), 0);
    ck_assert(m == n && !memcmp(file, png, n));
    free(file);
    free(png);
    ck_assert_int_eq(ds_png_write("/none/x.png", px, W, H, &err), DS_ENOTFOUND);
}
END_TEST

/* Header and first bytes of files that are none of samples, beside one that is. */
#define LABELS(dtype, shape, at)                                                                   \
    "\"labels\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" at "}"
#define IMAGES(dtype, shape, at)                                                                   \
    "\"images\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" at "}"
#define ONE LABELS("I32", "[1]", "[0,4]")
static const struct {
    const char *header;
    int good;
} headers[] = {
    {"{" ONE "," IMAGES("U8", "[1,2,1,3]", "[4,10]") "}", 1},
    {"{" ONE "," IMAGES("U8", "[1,16384,1,3]", "[4,49156]") "}", 1},
    {"{" ONE "," IMAGES("U8", "[1,1,16384,3]", "[4,49156]") "}", 1},
    {"{" LABELS("I64", "[1]", "[0,4]") "," IMAGES("U8", "[1,2,1,3]", "[4,10]") "}", 0},
    {"{" LABELS("I32", "[1,1]", "[0,4]") "," IMAGES("U8", "[1,2,1,3]", "[4,10]") "}", 0},
    {"{" IMAGES("U8", "[1,2,1,3]", "[4,10]") "}", 0},
    {"{" ONE "}", 0},
    {"{" ONE "," IMAGES("I8", "[1,2,1,3]", "[4,10]") "}", 0},
    {"{" ONE "," IMAGES("U8", "[1,2,3]", "[4,10]") "}", 0},
    {"{" LABELS("I32", "[1]", "[1,5]") "," IMAGES("U8", "[1,2,1,3]", "[4,10]") "}", 0},
    {"{" LABELS("I32", "[0]", "[0,0]") "," IMAGES("U8", "[0,2,1,3]", "[0,0]") "}", 0},
    {"{" LABELS("I32", "[1]", "[0,8]") "," IMAGES("U8", "[1,2,1,3]", "[8,14]") "}", 0},
    {"{" ONE "," IMAGES("U8", "[1,2,1,3]", "[6,12]") "}", 0},
    {"{" ONE "," IMAGES("U8", "[2,2,1,3]", "[4,10]") "}", 0},
    {"{" ONE "," IMAGES("U8", "[1,0,1,3]", "[4,4]") "}", 0},
    {"{" ONE "," IMAGES("U8", "[1,2,0,3]", "[4,4]") "}", 0},
    {"{" ONE "," IMAGES("U8", "[1,16385,1,3]", "[4,49159]") "}", 0},
    {"{" ONE "," IMAGES("U8", "[1,1,16385,3]", "[4,49159]") "}", 0},
    {"{" ONE "," IMAGES("U8", "[1,2,1,4]", "[4,10]") "}", 0},
    {"{" ONE "," IMAGES("U8", "[1,2,1,3]", "[4,11]") "}", 0},
    {"{" ONE "," ONE "," IMAGES("U8", "[1,2,1,3]", "[4,10]") "}", 0},
    {"{" LABELS("I32", "[16777217]", "[0,67108868]") "," IMAGES("U8", "[16777217,1,1,3]",
                                                                "[67108868,117440519]") "}",
     0},
    {"[]", 0},
    {"{}", 0},
    {"{", 0},
};

static int nothing(void *ud, int64_t index, const uint8_t *rgb, int w, int h, ds_error *err) {
    (void)rgb;
    *(int *)ud += w * 100 + h;
    return index == 1 ? ds_fail(err, DS_ELIMIT, "enough") : 0;
}

static int put_header(const void *header, uint64_t length, size_t n) {
    ds_pictures *p;
    int calls = 0;
    ds_buf b = {0};
    ds_error err = {0};
    ds_pictures_open_fn(&p, nothing, &calls);
    ds_buf_add(&b, &length, 8);
    ds_buf_add(&b, header, n);
    int rc = ds_pictures_put(p, b.data, b.len, &err);
    ck_assert_int_eq(rc, err.code);
    ck_assert(!rc || strstr(err.message, "no file of samples"));
    ds_pictures_abort(p);
    ds_buf_release(&b);
    return rc;
}

START_TEST(headers_are_checked) {
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        size_t n = strlen(headers[i].header);
        ck_assert_msg(put_header(headers[i].header, n, n) ==
                          (headers[i].good ? 0 : (int)DS_EINTEGRITY),
                      "%s", headers[i].header);
    }
    ck_assert_int_eq(put_header("", 1, 0), DS_EINTEGRITY);
    ck_assert_int_eq(put_header("", (64 << 20) + 1, 0), DS_EINTEGRITY);
    ck_assert_int_eq(put_header("", 64 << 20, 0), 0); /* the rest may come */
    /* whoever takes the pictures may say stop */
    ds_buf file = make_file(4, 5, NULL);
    ds_pictures *p;
    ds_error err = {0};
    int calls = 0;
    ds_pictures_open_fn(&p, nothing, &calls);
    ck_assert_int_eq(ds_pictures_put(p, file.data, file.len, &err), DS_ELIMIT);
    ck_assert_int_eq(calls, 2 * 505);
    ds_pictures_abort(p);
    ds_buf_release(&file);
}
END_TEST

static int finish_over(const char *target, int force, const char *made, ds_error *err) {
    ds_buf file = make_file(2, 3, NULL);
    ds_pictures *p;
    int64_t count;
    char path[PATH_MAX];
    ck_assert_int_eq(ds_pictures_open(&p, target, force, err), 0);
    put_all(p, file.data, file.len, file.len);
    snprintf(path, sizeof path, "%s%s", target, made); /* comes while the pictures do */
    ck_assert(ds_fs_ends_with(path, "/") ? mkdir(path, 0755) == 0
                                         : !ds_fs_write(path, "mine", 4, NULL));
    ds_buf_release(&file);
    return ds_pictures_finish(p, &count, err);
}

/* Only pictures of an earlier sample are replaced, also when others come in the last moment. */
START_TEST(what_is_not_ours_stays) {
    static const struct {
        const char *name;
        int ours;
    } names[] = {{"00001.png", 1},   {"000001-x.png", 1}, {"0001-x.png", 0},  {"00001x.png", 0},
                 {"00001-x.txt", 0}, {"x00001-x.png", 0}, {"00001-x.png.", 0}};
    char dir[300], path[400], npz[300], *text;
    size_t n;
    ds_error err = {0};
    const char *tmp = ds_test_tmpdir();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(dir, sizeof dir, "%s/ours%zu", tmp, i);
        snprintf(path, sizeof path, "%s/%s", dir, names[i].name);
        ck_assert(mkdir(dir, 0755) == 0 && !ds_fs_write(path, "", 0, NULL));
        ck_assert_int_eq(ds_pictures_check(dir, 0, &err), DS_ECONFLICT);
        ck_assert_msg(ds_pictures_check(dir, 1, &err) == (names[i].ours ? 0 : (int)DS_ECONFLICT),
                      "%s", names[i].name);
    }
    snprintf(dir, sizeof dir, "%s/late/", tmp);
    ck_assert_int_eq(finish_over(dir, 0, "", &err), 0); /* an empty folder is none to keep */
    ck_assert_int_eq(entries(dir), 2);
    has_picture(dir, "00001.png", 1, 3); /* no label, no name */
    int before = entries(tmp);
    snprintf(dir, sizeof dir, "%s/file", tmp);
    ck_assert(mkdir(dir, 0755) == 0);
    for (int force = 0; force < 2; force++) {
        snprintf(path, sizeof path, "%s/mine%d.txt", dir, force);
        ck_assert_int_eq(finish_over(dir, force, force ? "/mine1.txt" : "/mine0.txt", &err),
                         DS_ECONFLICT);
        ck_assert(ds_fs_exists(path));
        ck_assert(unlink(path) == 0);
    }
    snprintf(npz, sizeof npz, "%s/late.npz", tmp);
    ck_assert_int_eq(finish_over(npz, 0, "", &err), DS_ECONFLICT);
    ck_assert_int_eq(ds_fs_read(npz, 100, &text, &n, &err), 0);
    ck_assert(n == 4 && !memcmp(text, "mine", 4));
    free(text);
    ck_assert_int_eq(entries(tmp), before + 2); /* dir and late.npz: nothing is left beside them */
}
END_TEST

/* The disk is full at the first, second, .. write: an error, and nothing is left. */
START_TEST(a_full_disk_leaves_nothing) {
    ds_buf file = make_file(3, 3, NULL);
    char target[300], limit[16];
    ds_pictures *p = NULL;
    int64_t count;
    ds_error err = {0};
    int before = entries(ds_test_tmpdir()), npz = _i / 3;
    snprintf(target, sizeof target, "%s/full%s", ds_test_tmpdir(), npz ? ".npz" : "/");
    snprintf(limit, sizeof limit, "%d", _i % 3 + 1);
    setenv("DS_TEST_ENOSPC", limit, 1);
    int rc = ds_pictures_open(&p, target, 0, &err);
    if (!rc)
        rc = ds_pictures_put(p, file.data, file.len, &err);
    ck_assert_int_eq(rc, DS_ENOSPC);
    ck_assert(strstr(err.message, "cannot write '"));
    if (p)
        ds_pictures_abort(p);
    ck_assert_int_eq(entries(ds_test_tmpdir()), before);
    unsetenv("DS_TEST_ENOSPC");
    ck_assert_int_eq(ds_pictures_open(&p, target, 0, &err), 0); /* ended early: neither */
    put_all(p, file.data, file.len - 1, file.len);
    ck_assert_int_eq(ds_pictures_finish(p, &count, &err), DS_EINTEGRITY);
    ck_assert_int_eq(count, 2);
    ck_assert_int_eq(entries(ds_test_tmpdir()), before);
    ds_buf_release(&file);
}
END_TEST

/* Names are cut and cleaned; the whole .npz is what zipfile and numpy open: its bytes are pinned. */
START_TEST(names_and_bytes) {
    char names[300] = "[\\\"", folder[300], long_name[200] = "00000-", npz[300], sha[DS_HEX_SIZE];
    int64_t count;
    ds_pictures *p;
    ds_error err;
    memset(names + 3, 'n', 150);
    snprintf(names + 153, 20, "\\\"]");
    memset(long_name + 6, 'n', 100);
    snprintf(long_name + 106, 10, ".png");
    ds_buf file = make_file(2, 3, names);
    snprintf(folder, sizeof folder, "%s/long/", ds_test_tmpdir());
    ck_assert_int_eq(ds_pictures_open(&p, folder, 0, &err), 0);
    put_all(p, file.data, file.len, file.len);
    ck_assert_int_eq(ds_pictures_finish(p, &count, &err), 0);
    has_picture(folder, long_name, 0, 3);
    has_picture(folder, "00001-1.png", 1, 3);
    snprintf(npz, sizeof npz, "%s/two.npz", ds_test_tmpdir());
    ck_assert_int_eq(ds_pictures_open(&p, npz, 0, &err), 0);
    put_all(p, file.data, file.len, 50);
    ck_assert_int_eq(ds_pictures_finish(p, &count, &err), 0);
    ck_assert_int_eq(ds_digest_file(npz, sha, &err), 0);
    ck_assert_str_eq(sha, "6491abc0903080061e35892844c520c750e847d502885c07358facfdab1541c4");
    struct stat st;
    ck_assert(!stat(npz, &st) && (st.st_mode & 0777) == 0644);
    ds_buf_release(&file);
}
END_TEST

/* More than any disk has, a name that leaves no room for the temporary one, and a disk that fails in
 * the end. */
START_TEST(places_that_do_not_do) {
    char target[PATH_MAX] = "";
    ds_pictures *p = NULL;
    ds_npz_writer *w = NULL;
    int64_t count;
    ds_error err = {0};
    int before = entries(ds_test_tmpdir());
    snprintf(target, sizeof target, "%s/huge.npz", ds_test_tmpdir());
    ck_assert_int_eq(ds_npz_writer_open(&w, target, 0, INT64_C(1) << 36, 1024, 1024, &err),
                     DS_ENOSPC);
    ck_assert_ptr_null(w);
    ck_has(err.message, "there are ");
    ck_has(err.message, "huge.npz', it needs 206158430208 MiB");
    ck_assert_int_eq(chdir(ds_test_tmpdir()), 0);
    ck_assert_int_eq(ds_npz_writer_open(&w, "huge.npz", 0, INT64_C(1) << 36, 1024, 1024, &err),
                     DS_ENOSPC); /* here, without a folder in its name */
    for (int n = 0; n < 1900; n++)
        memcpy(target + 2 * n, "./", 3);
    memcpy(target + 3800, "x.npz", 6);
    ck_assert_int_eq(ds_pictures_open(&p, target, 0, &err), DS_EINVAL);
    ck_has(err.message, "...': the name is too long");
    ck_assert_ptr_null(p);
    ck_assert_int_eq(entries("."), before);
    for (int rename = 0; rename < 2; rename++) {
        ds_buf file = make_file(2, 3, NULL);
        ck_assert_int_eq(ds_pictures_open(&p, "late.npz", rename, &err), 0);
        put_all(p, file.data, file.len, file.len);
        durable_begin();
        durable_fail = !rename;
        durable_fail_rename = rename;
        ck_assert_int_eq(ds_pictures_finish(p, &count, &err), DS_EIO);
        ck_has(err.message, rename ? " to 'late.npz': Input/output error"
                                   : "cannot write 'late.npz': Input/output error");
        durable_fail = durable_fail_rename = 0;
        ds_buf_release(&file);
        ck_assert_int_eq(entries("."), before);
    }
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, places_that_do_not_do);
    tcase_add_test(tc, a_png_has_its_pixels);
    tcase_add_test(tc, headers_are_checked);
    tcase_add_test(tc, what_is_not_ours_stays);
    tcase_add_loop_test(tc, a_full_disk_leaves_nothing, 0, 6);
    tcase_add_test(tc, names_and_bytes);
    tcase_add_test(tc, folder_of_pictures);
    tcase_add_test(tc, npz_of_pictures);
    tcase_add_loop_test(tc, broken_streams_leave_nothing, 0, sizeof broken / sizeof *broken);
    tcase_add_test(tc, pieces_and_memory);
}

int main(void) { return ds_test_main("cli_pictures", cases); }
