/* tests/base/test_base_files.c - folders for results, trees that go, packed files, JSON and digests:
 * what is right, and each way in which it is not. */
#include "base/digest.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/zio.h"
#include "tests/harness.h"

#include <dirent.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

static const char *in(const char *name) {
    static char paths[4][PATH_MAX];
    static int turn;
    char *out = paths[turn++ & 3];
    ds_fs_join(out, PATH_MAX, ds_test_tmpdir(), name);
    return out;
}

static void put(const char *name, const char *text) {
    ck_assert_int_eq(ds_fs_write(in(name), text, strlen(text), NULL), 0);
}

static int entries(const char *path) {
    DIR *d = opendir(path);
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

START_TEST(folders_for_results) {
    ds_error err = {0};
    const char *dir = in("out");
    ck_assert_int_eq(ds_fs_output_dir_check(dir, 0, &err), 0);
    ck_assert(!ds_fs_exists(dir)); /* only asked */
    ck_assert_int_eq(entries(ds_test_tmpdir()), 0);
    ck_assert_int_eq(mkdir(dir, 0755), 0);
    ck_assert_int_eq(ds_fs_output_dir_check(in("out/"), 0, &err), 0); /* empty */
    ck_assert_int_eq(entries(ds_test_tmpdir()), 1);
    put("out/x", "x");
    says(ds_fs_output_dir_check(in("out"), 0, &err), DS_ECONFLICT, &err, "--force");
    ck_assert_int_eq(ds_fs_output_dir_check(in("out///"), 1, &err), 0);
    put("file", "x");
    ck_assert_int_eq(symlink("out", in("link")), 0);
    for (int force = 0; force < 2; force++) {
        says(ds_fs_output_dir_check(in("file"), force, &err), DS_EINVAL, &err, "it is a file");
        says(ds_fs_output_dir_check(in("link"), force, &err), DS_EINVAL, &err, "it is a link");
        says(ds_fs_output_dir_check("/dev/null", force, &err), DS_EINVAL, &err, "it is a device");
        says(ds_fs_output_dir_check("", force, &err), DS_EINVAL, &err, "empty");
        says(ds_fs_output_dir_check(in("none/x"), force, &err), DS_ENOTFOUND, &err, "folder");
        says(ds_fs_output_dir_check(in("file/x"), force, &err), DS_ENOTFOUND, &err, "cannot write");
    }
    char *longest = ds_xmalloc(PATH_MAX + 1);
    memset(longest, 'a', PATH_MAX);
    longest[PATH_MAX - 20] = 0;
    says(ds_fs_output_dir_check(longest, 0, &err), DS_EINVAL, &err, "too long");
    free(longest);
}
END_TEST

START_TEST(trees_go) {
    ds_error err = {0};
    ck_assert_int_eq(ds_fs_remove(in("nothing"), &err), 0); /* is gone already */
    ck_assert_int_eq(ds_fs_mkdirs(in("tree/a/b/c"), &err), 0);
    ck_assert_int_eq(ds_fs_mkdirs(in("tree/a/b/c"), &err), 0); /* and again */
    put("tree/.hidden", "x");
    put("tree/a/..x", "x");
    put("tree/a/b/y", "x");
    put("beside", "x");
    ck_assert_int_eq(symlink("../beside", in("tree/link")), 0);
    ck_assert_int_eq(ds_fs_mkdirs(in("kept"), &err), 0);
    put("kept/z", "x");
    ck_assert_int_eq(symlink(in("kept"), in("tree/a/folder")), 0);
    ck_assert_int_eq(ds_fs_remove(in("tree"), &err), 0);
    ck_assert(!ds_fs_exists(in("tree")));
    ck_assert(ds_fs_exists(in("beside")) && ds_fs_exists(in("kept/z"))); /* links go, not theirs */
    says(ds_fs_mkdirs(in("beside/x"), &err), DS_ENOTFOUND, &err, "cannot create directory");
    says(ds_fs_mkdirs(in("beside"), &err), DS_EINVAL, &err, "is not a folder");
    says(ds_fs_mkdirs("", &err), DS_EINVAL, &err, "bad path");
    /* deeper than anything of ours */
    char deep[PATH_MAX];
    size_t n = (size_t)snprintf(deep, sizeof deep, "%s", in("deep"));
    for (int i = 0; i < 80; i++)
        n += (size_t)snprintf(deep + n, sizeof deep - n, "/d");
    ck_assert_int_eq(ds_fs_mkdirs(deep, &err), 0);
    ck_assert_int_ne(ds_fs_remove(in("deep"), &err), 0);
    ck_assert(strstr(err.message, "cannot remove") && ds_fs_exists(deep));
    *strstr(deep + n - 60, "/d") = 0;
    ck_assert_int_eq(ds_fs_remove(deep, &err), 0); /* in two parts */
    ck_assert_int_eq(ds_fs_remove(in("deep"), &err), 0);
}
END_TEST

START_TEST(files_are_read_whole) {
    ds_error err = {0};
    char *data;
    size_t n;
    put("ten", "0123456789");
    ck_assert_int_eq(ds_fs_read(in("ten"), 10, &data, &n, &err), 0);
    ck_assert(n == 10 && !strcmp(data, "0123456789"));
    free(data);
    says(ds_fs_read(in("ten"), 9, &data, &n, &err), DS_ELIMIT, &err, "ten");
    says(ds_fs_read(in("none"), 9, &data, &n, &err), DS_ENOTFOUND, &err, "none");
    says(ds_fs_read(ds_test_tmpdir(), 9, &data, &n, &err), DS_EINVAL, &err, "not a regular file");
    ck_assert_int_eq(ds_fs_copy(in("ten"), in("copy"), &err), 0);
    ck_assert_int_eq(ds_fs_read(in("copy"), 10, &data, &n, &err), 0);
    ck_assert_int_eq((int)n, 10);
    free(data);
    says(ds_fs_copy(in("none"), in("copy"), &err), DS_ENOTFOUND, &err, "none");
    ck_assert(ds_fs_ends_with("a.zst", ".zst") && !ds_fs_ends_with("zst", ".zst"));
    ck_assert(!ds_fs_ends_with("a.zst.x", ".zst"));
    ck_assert(ds_fs_free_bytes(ds_test_tmpdir()) > 0 && ds_fs_free_bytes(in("none")) < 0);
}
END_TEST

START_TEST(packed_files) {
    ds_error err = {0};
    char *out, *z, text[5000];
    size_t n, zn;
    memset(text, 'q', sizeof text);
    static const int levels[] = {0, 3, 19, 22};
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(ds_zio_write_file(in("p"), text, sizeof text, levels[i], &err), 0);
        ck_assert_int_eq(ds_zio_read_file(in("p"), sizeof text, &out, &n, &err), 0);
        ck_assert(n == sizeof text && !memcmp(out, text, n) && !out[n]);
        free(out);
    }
    says(ds_zio_read_file(in("p"), sizeof text - 1, &out, &n, &err), DS_ELIMIT, &err, "5000 bytes");
    says(ds_zio_read_file(in("none"), 9, &out, &n, &err), DS_ENOTFOUND, &err, "none");
    ck_assert_int_eq(ds_zio_compress(text, sizeof text, 3, &z, &zn, &err), 0);
    for (size_t cut = 1; cut < zn; cut++) {
        int rc = ds_zio_decompress("z", z, zn - cut, 1 << 20, &out, &n, &err);
        ck_assert_msg(rc == DS_EINTEGRITY, "cut by %zu: %d", cut, rc);
    }
    char *longer = ds_xcalloc(zn + 1, 1);
    memcpy(longer, z, zn);
    says(ds_zio_decompress("z", longer, zn + 1, 1 << 20, &out, &n, &err), DS_EINTEGRITY, &err,
         "after its zstd frame");
    says(ds_zio_decompress("z", "no zstd", 7, 99, &out, &n, &err), DS_EINTEGRITY, &err,
         "not a zstd frame");
    free(longer);
    free(z);
    /* a stream that does not say how long it is */
    ZSTD_CCtx *c = ZSTD_createCCtx();
    char packed[200];
    ZSTD_CCtx_setParameter(c, ZSTD_c_contentSizeFlag, 0);
    size_t m = ZSTD_compress2(c, packed, sizeof packed, text, 100);
    ZSTD_freeCCtx(c);
    says(ds_zio_decompress("z", packed, m, 1 << 20, &out, &n, &err), DS_EINTEGRITY, &err,
         "content size");
    put("plain", "not packed");
    says(ds_zio_read_file(in("plain"), 99, &out, &n, &err), DS_EINTEGRITY, &err, "plain");
    says(ds_zio_write_file(in("none/x"), text, 9, 3, &err), DS_ENOTFOUND, &err, "none");
}
END_TEST

START_TEST(foreign_text_is_mended) {
    static const struct {
        const char *text, *mended;
    } cases[] = {{"", ""},
                 {"a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"},
                 {"a\xc3", "a"}, /* cut inside a character */
                 {"a\xe2\x82", "a"},
                 {"a\xf0\x9f\x98", "a"},
                 {"a\xc3z", "a?z"},
                 {"\xe2\x82\xc3\xa9", "??\xc3\xa9"},
                 {"\xff\x80z", "??z"},
                 {"\xed\xa0\x80z", "???z"},         /* half a pair */
                 {"\xc0\xaf\xe0\x80\xaf", "?????"}, /* longer than needed */
                 {"\xf4\x90\x80\x80", "????"}};     /* beyond the last */
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char s[32];
        snprintf(s, sizeof s, "%s", cases[i].text);
        ds_json_mend_text(s);
        ck_assert_msg(!strcmp(s, cases[i].mended), "%zu: %s", i, s);
        json_t *v = ds_json_text(cases[i].text);
        ck_assert_str_eq(json_string_value(v), cases[i].mended);
        json_decref(v);
    }
}
END_TEST

START_TEST(documents) {
    ds_error err = {0};
    json_t *doc = NULL;
    const char *text;
    int64_t i;
    double x;
    json_t *o;
    put("good", "{\"s\":\"t\",\"i\":3,\"x\":0.5,\"o\":{\"a\":1}}");
    ck_assert_int_eq(ds_json_read_file(in("good"), 1000, &doc, &err), 0);
    ck_assert_int_eq(ds_json_need_string(doc, "s", &text, &err), 0);
    ck_assert_str_eq(text, "t");
    ck_assert(!ds_json_need_int(doc, "i", &i, &err) && i == 3);
    ck_assert(!ds_json_need_number(doc, "x", &x, &err) && x == 0.5);
    ck_assert(!ds_json_need_number(doc, "i", &x, &err) && x == 3);
    ck_assert(!ds_json_need_object(doc, "o", &o, &err) && ds_json_int(o, "a", 0) == 1);
    says(ds_json_need_string(doc, "i", &text, &err), DS_EINVAL, &err, "'i' must be a string");
    says(ds_json_need_string(doc, "z", &text, &err), DS_EINVAL, &err, "'z' is missing");
    says(ds_json_need_int(doc, "x", &i, &err), DS_EINVAL, &err, "'x' must be an integer");
    says(ds_json_need_int(doc, "s", &i, &err), DS_EINVAL, &err, "'s' must be an integer");
    says(ds_json_need_number(doc, "s", &x, &err), DS_EINVAL, &err, "'s' must be a number");
    says(ds_json_need_object(doc, "s", &o, &err), DS_EINVAL, &err, "'s' must be an object");
    ck_assert_int_eq(ds_json_int(doc, "s", 9), 9);
    ck_assert_int_eq(ds_json_bool(doc, "i", 1), 1);
    ck_assert_str_eq(ds_json_string(doc, "i", "else"), "else");
    ck_assert_int_eq(ds_json_write_file(in("written"), doc, &err), 0);
    json_decref(doc);
    ck_assert_int_eq(ds_json_read_file(in("written"), 1000, &doc, &err), 0);
    ck_assert_int_eq(ds_json_int(doc, "i", 0), 3);
    json_decref(doc);
    char *bytes;
    size_t n;
    ck_assert_int_eq(ds_fs_read(in("written"), 1000, &bytes, &n, &err), 0);
    ck_assert(bytes[n - 1] == '\n');
    free(bytes);
    put("twice", "{\"a\":1,\"a\":2}");
    put("cut", "{\"a\":1");
    says(ds_json_read_file(in("twice"), 1000, &doc, &err), DS_EINVAL, &err, "not valid JSON");
    says(ds_json_read_file(in("cut"), 1000, &doc, &err), DS_EINVAL, &err, "not valid JSON");
    says(ds_json_read_file(in("cut"), 3, &doc, &err), DS_ELIMIT, &err, "cut");
    says(ds_json_read_file(in("none"), 3, &doc, &err), DS_ENOTFOUND, &err, "none");
}
END_TEST

/* As jansson writes it, whose text others have read and kept. */
START_TEST(texts_of_documents) {
    static const char *const kinds[] = {
        "{}",
        "[]",
        "[[],{}]",
        "null",
        "[true,false,null]",
        "\"\"",
        "{\"\":[{\"a\":1},2]}",
        "[0,-1,9223372036854775807,-9223372036854775808,10,99]",
        "[0.0,-0.0,1.0,0.1,-2.5e-7,1e300,4.9e-324,123456789012345678.0,3.0000000000000004]",
        "\"\\u0000 nul, \\u0001\\u001f\\u007f \\b\\f\\n\\r\\t \\\"q\\\" back\\\\slash /\"",
        "\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\"",
        "{\"k\\\"\\n\":\"v\",\"b\":1,\"a\":2}"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        json_t *doc = json_loads(kinds[i], JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        ck_assert_msg(doc != NULL, "%s", kinds[i]);
        char *want = json_dumps(doc, JSON_COMPACT | JSON_ENCODE_ANY);
        ds_buf b = {0};
        ds_buf_add(&b, "before ", 7);
        ds_json_add(&b, doc);
        ck_assert_str_eq(b.data + 7, want);
        ck_assert(!strncmp(b.data, "before ", 7) && b.len == 7 + strlen(want));
        ds_buf_release(&b);
        free(want);
        json_decref(doc);
    }
}
END_TEST

/* FIPS 180-2, appendix B.1, and the empty message. */
START_TEST(digests) {
    static const char abc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                      empty[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    char sha[DS_HEX_SIZE];
    ds_error err = {0};
    ds_digest("abc", 3, sha);
    ck_assert_str_eq(sha, abc);
    ds_digest("", 0, sha);
    ck_assert_str_eq(sha, empty);
    put("abc", "abc");
    put("empty", "");
    ck_assert_int_eq(ds_digest_file(in("abc"), sha, &err), 0);
    ck_assert_str_eq(sha, abc);
    ck_assert_int_eq(ds_digest_file(in("empty"), sha, &err), 0);
    ck_assert_str_eq(sha, empty);
    says(ds_digest_file(in("none"), sha, &err), DS_ENOTFOUND, &err, "none");
    char big[200000], whole[DS_HEX_SIZE];
    for (size_t i = 0; i < sizeof big; i++)
        big[i] = (char)(i * 7);
    ck_assert_int_eq(ds_fs_write(in("big"), big, sizeof big, &err), 0);
    ds_digest(big, sizeof big, whole);
    ck_assert_int_eq(ds_digest_file(in("big"), sha, &err), 0);
    ck_assert_str_eq(sha, whole);
    ck_assert(ds_digest_valid(abc) && !ds_digest_valid("abc") && !ds_digest_valid(""));
    snprintf(sha, sizeof sha, "%s", abc);
    sha[5] = 'G';
    ck_assert(!ds_digest_valid(sha));
    sha[5] = 'F'; /* capitals are another spelling */
    ck_assert(!ds_digest_valid(sha));
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, folders_for_results);
    tcase_add_test(tc, trees_go);
    tcase_add_test(tc, files_are_read_whole);
    tcase_add_test(tc, packed_files);
    tcase_add_test(tc, documents);
    tcase_add_test(tc, foreign_text_is_mended);
    tcase_add_test(tc, texts_of_documents);
    tcase_add_test(tc, digests);
}

int main(void) { return ds_test_main("base_files", cases); }
