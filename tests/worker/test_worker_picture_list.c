/* tests/worker/test_worker_picture_list.c - which files of a folder count: as pathlib's glob, os.walk and
 * glob.glob list it for the three tools, and what is said of the rest; then `evaluate` on files on
 * which a tool ends. */
#include "tests/fixtures/evaluate_fixture.h"
#include "tests/fixtures/picture_files.h"
#include "worker/images/picture_list.h"

#include <math.h>

static char *root;

static void put(const char *name) {
    char *path = ds_xasprintf("%s/%s", root, name);
    ds_error err;
    char *slash = strrchr(path, '/');
    *slash = 0;
    must(ds_fs_mkdirs(path, &err), &err);
    *slash = '/';
    must(ds_fs_write(path, "x", 1, &err), &err);
    free(path);
}

static void put_link(const char *name, const char *to) {
    char *path = ds_xasprintf("%s/%s", root, name);
    ck_assert_int_eq(symlink(to, path), 0);
    free(path);
}

/* The list as one line. */
static char *listed(enum ds_fid_mode mode, int recursive, ds_picture_list *l) {
    ds_buf b = {0};
    ds_error err = {0};
    ck_assert_msg(!ds_picture_list_make(l, root, mode, recursive, &err), "%s", err.message);
    ds_buf_add(&b, "", 0);
    for (int64_t i = 0; i < l->count; i++)
        ds_buf_addf(&b, "%s%s", i ? " " : "", l->paths[i]);
    return b.data;
}

static void expect(enum ds_fid_mode mode, int recursive, const char *want, int others, int folders,
                   int links) {
    ds_picture_list l;
    char *got = listed(mode, recursive, &l);
    ck_assert_str_eq(got, want);
    ck_assert_int_eq(l.others.count, others);
    ck_assert_int_eq(l.folders, folders);
    ck_assert_int_eq(l.links, links);
    free(got);
    ds_picture_list_release(&l);
}

/* Beside each expectation: the line of Python that says so of the same tree (3.11). */
START_TEST(as_the_tools_list) {
    static const char *const files[] = {
        "b.png",      "B.PNG",      "c.jpeg",        ".h.png",    "j.JPEG",    "k.tif",
        "w.webp",     "n.npy",      "g.gif",         "notes.txt", "sub/d.png", "sub/deep/e.jpg",
        ".hid/f.png", "sub/.g.png", "dir.png/x.png", "png",       ".png",      "a.b.jpg"};
    root = in_tmp("tree");
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        put(files[i]);
    put_link("a-link.png", "w.webp");
    put_link("nowhere.png", "/nonexistent/x.png");
    /* sorted(f for e in IMAGE_EXTENSIONS for f in pathlib.Path(d).glob('*.' + e)) */
    expect(DS_FID_PYTORCH_FID, 0,
           ".h.png .png a-link.png a.b.jpg b.png c.jpeg dir.png k.tif nowhere.png w.webp", 4, 3, 0);
    /* glob_samples_paths(d, False, 'png,jpg,jpeg'): a-link.png is w.webp, so it comes last (that
     * which leads nowhere, on which the tool ends, it has elsewhere) */
    expect(DS_FID_TORCH_FIDELITY, 0,
           ".h.png B.PNG a.b.jpg b.png c.jpeg j.JPEG nowhere.png a-link.png", 5, 3, 0);
    /* glob_samples_paths(d, True, 'png,jpg,jpeg') */
    expect(DS_FID_TORCH_FIDELITY, 1,
           ".h.png .hid/f.png B.PNG a.b.jpg b.png c.jpeg dir.png/x.png j.JPEG nowhere.png "
           "sub/.g.png sub/d.png sub/deep/e.jpg a-link.png",
           5, 0, 0);
    /* sorted(f for e in EXTENSIONS for f in glob.glob(d + '/' + '**' + '/' + '*.' + e, recursive=True)) */
    expect(DS_FID_CLEAN, 0,
           "B.PNG a-link.png a.b.jpg b.png c.jpeg dir.png dir.png/x.png j.JPEG k.tif n.npy "
           "nowhere.png sub/d.png sub/deep/e.jpg w.webp",
           4, 0, 0);
    ds_picture_list l;
    free(listed(DS_FID_CLEAN, 0, &l));
    ck_assert_int_eq(l.unread.count, 1); /* a NumPy array, which only clean-fid reads */
    ck_assert_str_eq(l.unread.items[0].path, "n.npy");
    ds_picture_list_release(&l);
    free(root);
}
END_TEST

/* Links to folders: clean-fid looks behind them, and one that leads back would never end. */
START_TEST(links_to_folders) {
    root = in_tmp("linked");
    put("sub/d.png");
    char *outside = in_tmp("outside");
    ds_error err = {0};
    must(ds_fs_mkdirs(outside, &err), &err);
    char *file = ds_xasprintf("%s/o.png", outside);
    must(ds_fs_write(file, "x", 1, &err), &err);
    put_link("far", outside);
    expect(DS_FID_CLEAN, 0, "far/o.png sub/d.png", 0, 0, 0);
    expect(DS_FID_TORCH_FIDELITY, 1, "sub/d.png", 0, 0, 1);
    expect(DS_FID_PYTORCH_FID, 1, "sub/d.png", 0, 0, 1);
    put("sub/z.gif");
    put("a.gif");
    ds_picture_list sorted;
    free(listed(DS_FID_PYTORCH_FID, 1, &sorted));
    ck_assert_str_eq(sorted.others.items[0].path, "a.gif"); /* whatever order the disk has */
    ds_picture_list_release(&sorted);
    put("sub/\x1b[31m/q.png");
    put_link("sub/\x1b[31m/loop", "..");
    ds_picture_list l;
    ck_assert_int_eq(ds_picture_list_make(&l, root, DS_FID_CLEAN, 0, &err), DS_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "leads back"));
    ck_assert_ptr_nonnull(strstr(err.message, "\\x1b[31m/loop"));
    ds_picture_list_release(&l);
    ck_assert_int_eq(ds_picture_list_make(&l, file, DS_FID_CLEAN, 0, &err), DS_ENOTFOUND);
    ds_picture_list_release(&l);
    free(root), free(outside), free(file);
}
END_TEST

/* ---------------------------------------------------------------- evaluate */

static int has_note(const json_t *doc, const char *text) {
    size_t i;
    json_t *n;
    int found = 0;
    json_array_foreach(json_object_get(doc, "notes"), i, n)
        found |= strstr(json_string_value(n), text) != NULL;
    return found;
}

static void put_words(const char *dir, const char *name, const char *text) {
    char *path = ds_xasprintf("%s/%s", dir, name);
    ds_error err;
    must(ds_fs_write(path, text, strlen(text), &err), &err);
    free(path);
}

/* Files on which the tool ends: all of them named and exit 1; those that are only not supported here:
 * exit 2; left out when that is asked for. */
START_TEST(where_the_tool_ends) {
    if (SANITIZED) {
        ds_test_skip("where_the_tool_ends", "minutes under the address sanitizer");
        return;
    }
    char *net = write_net("whole.safetensors", NULL, DS_INCEPTION_LOGITS);
    char *a = make_folder("broken", 0, 3, 24, 20), *b = make_folder("whole", 50, 3, 24, 20);
    put_words(a, "zz-broken.png", "no picture");
    put_words(a, "not-counted.gif", "GIF89a");
    put_words(a, "empty.jpg", "");
#define IN(mode, ...)                                                                              \
    run(a, "--against", b, "--feature-net", net, "--metrics", "fid", "--mode", mode, __VA_ARGS__,  \
        NULL)
    said s = IN("pytorch-fid", "--quiet");
    ck_assert_msg(s.exit == 1 && strstr(s.err, "zz-broken.png") && strstr(s.err, "empty.jpg") &&
                      strstr(s.err, "pytorch-fid fails on them too") && !*s.out,
                  "%d %s", s.exit, s.err);
    ck_assert_ptr_null(strstr(s.err, "not-counted"));
    said_free(&s);
    s = IN("torch-fidelity", "--skip-broken", "--json");
    json_t *doc = document(&s);
    ck_assert_int_eq(ds_json_int(metric(doc, "fid"), "n", 0), 3);
    ck_assert_str_eq(ds_json_string(metric(doc, "fid"), "decode", ""), "pillow-13");
    const json_t *left = json_object_get(json_object_get(doc, "folder"), "left_out_files");
    ck_assert_uint_eq(json_array_size(left), 2);
    ck_assert(has_note(doc, "2 files of") && has_note(doc, "not counted, as in torch-fidelity"));
    json_decref(doc);
    said_free(&s);
    put_words(a, "picture.tif", "II*\0 and more");
    char *path = ds_xasprintf("%s/zz-broken.png", a);
    ck_assert(!unlink(path));
    free(path);
    path = ds_xasprintf("%s/empty.jpg", a);
    ck_assert(!unlink(path));
    free(path);
    char tiff[16] = "II*\0\10\0\0\0";
    path = ds_xasprintf("%s/picture.tif", a);
    ds_error err;
    must(ds_fs_write(path, tiff, sizeof tiff, &err), &err);
    free(path);
    s = IN("clean", "--quiet");
    ck_assert_msg(s.exit == 2 && strstr(s.err, "picture.tif") &&
                      strstr(s.err, "not supported here"),
                  "%d %s", s.exit, s.err);
    said_free(&s);
    put_words(a, "array.npy", "x"); /* known before any work */
    s = IN("clean", "--threads", "2");
    ck_assert_msg(s.exit == 2 && strstr(s.err, "array.npy") && !strstr(s.err, "/s\n"), "%d %s",
                  s.exit, s.err);
    said_free(&s);
    free(a), free(b), free(net);
}
END_TEST

/* Of NumPy arrays only those among the first N cost pictures; a long name is cut between letters. */
START_TEST(few_and_long_names) {
    if (SANITIZED) {
        ds_test_skip("few_and_long_names", "minutes under the address sanitizer");
        return;
    }
    char *net = write_net("net3.safetensors", NULL, DS_INCEPTION_LOGITS);
    char *a = make_folder("arrays", 0, 4, 24, 20), *b = make_folder("whole3", 50, 4, 24, 20);
    for (int i = 0; i < 6; i++) {
        char name[32];
        snprintf(name, sizeof name, "z%d.npy", i);
        put_words(a, name, "x");
    }
    said s = IN("clean", "--skip-broken", "--json", "--n", "5");
    json_t *doc = document(&s);
    ck_assert_int_eq(ds_json_int(metric(doc, "fid"), "n", 0), 4);
    json_decref(doc);
    said_free(&s);
    ds_buf name = {0};
    ds_buf_addf(&name, "x");
    for (int i = 0; i < 80; i++)
        ds_buf_addf(&name, "\u00e9");
    ds_buf_addf(&name, ".png");
    put_words(b, name.data, "x");
    ds_buf_release(&name);
    s = run(a, "--against", b, "--feature-net", net, "--metrics", "fid", "--json", "--skip-broken",
            NULL);
    doc = document(&s);
    ck_assert_msg(has_note(doc, "left out: 'x\u00e9"), "%s", s.out);
    json_decref(doc);
    said_free(&s);
    free(net), free(a), free(b);
}
END_TEST

/* What was special is said, and torch-fidelity's other precision; sFID alone is a number. */
START_TEST(what_was_special_is_said) {
    if (SANITIZED) {
        ds_test_skip("what_was_special_is_said", "minutes under the address sanitizer");
        return;
    }
    char *net = write_net("net2.safetensors", NULL, DS_INCEPTION_LOGITS);
    char *a = make_folder("special", 0, 4, 24, 20), *b = make_folder("plain", 50, 4, 24, 20);
    char *other = ds_xasprintf("%s/other-size.png", a);
    uint8_t rgb[30 * 10 * 3];
    ds_error err;
    fid_picture(rgb, 9, 30, 10);
    must(ds_png_write(other, rgb, 30, 10, &err), &err);
    uint8_t rgba[8 * 8 * 4];
    for (size_t i = 0; i < sizeof rgba; i++)
        rgba[i] = (uint8_t)(i * 3);
    ds_buf webp = make_webp(8, 8, rgba);
    char *to = ds_xasprintf("%s/x.png", a), *deep = in_tmp("special/below");
    must(ds_fs_write(to, webp.data, webp.len, &err), &err); /* what it is, not what it is called */
    must(ds_fs_mkdirs(deep, &err), &err);
    said s = run(a, "--against", b, "--feature-net", net, "--metrics", "sfid,pr", "--mode",
                 "torch-fidelity", "--json", NULL);
    json_t *doc = document(&s);
    ck_assert(isfinite(ds_json_number(metric(doc, "sfid"), "value", NAN)));
    ck_assert(has_note(doc, "1 of 6 pictures"));
    ck_assert(has_note(doc, "have transparency: dropped, as in torch-fidelity"));
    ck_assert(has_note(doc, "differ in size"));
    ck_assert(has_note(doc, "default is VGG16"));
    ck_assert(has_note(doc, "1 folder below"));
    json_decref(doc);
    said_free(&s);
    s = IN("clean", "--json", "--n", "4");
    doc = document(&s);
    ck_assert(has_note(doc, "the first 4 of 6 pictures"));
    ck_assert(!has_note(doc, "transparency") && !has_note(doc, "folder below"));
    json_decref(doc);
    said_free(&s);
    free(net), free(a), free(b), free(other), free(deep), free(to);
    ds_buf_release(&webp);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_set_timeout(tc, 300);
    tcase_add_test(tc, as_the_tools_list);
    tcase_add_test(tc, links_to_folders);
    tcase_add_test(tc, where_the_tool_ends);
    tcase_add_test(tc, few_and_long_names);
    tcase_add_test(tc, what_was_special_is_said);
}

int main(int argc, char **argv) {
    int rc = fixture_dispatch(argc, argv);
    return rc >= 0 ? rc : ds_test_main("worker_picture_list", register_cases);
}
