/* tests/system/test_system_input.c - bad input through the real programs: the exit status of docs/api.md,
 * and a message that names the thing and the way out. */
#include "tests/fixtures/system_rig.h"

#include "engine/model/base_model.h"
#include "tests/fixtures/picture_files.h"

#include <sqlite3.h>

enum { MANY_CLASSES = SYS_SLOW ? 10001 : 100000 };

static void open_and_start(rig *r, const char *name) {
    rig_open(r, name);
    rig_start(r);
}

static char *new_folder(const char *name, mode_t mode) {
    char *dir = in_tmp(name);
    ds_error err;
    must(ds_fs_mkdirs(dir, &err), &err);
    chmod(dir, mode);
    return dir;
}

/* ---------------------------------------------------------------- folders and names */

START_TEST(folders) {
    rig r;
    open_and_start(&r, "folders");
    char *missing = in_tmp("nowhere"), *empty = new_folder("empty", 0755),
         *texts = new_folder("texts", 0755), *file = in_tmp("texts/note.txt"),
         *tiles = folder("tiles"), *other = folder("blobs");
    spit(file, "no picture", 10);
    EXPECT(&r, 3, "add-dataset", missing);
    EXPECT_SAID(missing);
    EXPECT_SAID("No such file or directory");
    EXPECT(&r, 2, "add-dataset", file);
    EXPECT_SAID("it is a file; give the folder that holds the images");
    EXPECT(&r, 2, "add-dataset", empty);
    EXPECT_SAID(empty);
    EXPECT_SAID("is empty: put images into it first");
    EXPECT(&r, 2, "add-dataset", texts);
    EXPECT_SAID(texts);
    EXPECT_SAID("JPEG, PNG, WebP and PNM are known");
    EXPECT(&r, 0, "add-dataset", tiles, "--name", "one", QUICK);
    EXPECT(&r, 4, "add-dataset", other, "--name", "one", QUICK);
    EXPECT_SAID("'one'");
    EXPECT_SAID(tiles);
    EXPECT_SAID("another name");
    static const char *const names[][2] = {{"a/b", "has a '/'"},
                                           {"a\nb", "control character"},
                                           {"\x1b[31m", "control character"},
                                           {"..", "begins with '.'"},
                                           {"caf\xc3\xa9", "outside ASCII"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        EXPECT(&r, 2, "add-dataset", other, "--name", names[i][0]);
        EXPECT_SAID(names[i][1]);
        ck_assert_msg(!strchr(said.err, 0x1b), "a control character reaches the terminal");
    }
    EXPECT(&r, 0, "list-datasets", "--json");
    json_t *doc = said_json();
    ck_assert_uint_eq(json_array_size(json_object_get(doc, "items")), 1);
    json_decref(doc);
    rig_close(&r);
    free(missing), free(empty), free(texts), free(file), free(tiles), free(other);
}
END_TEST

START_TEST(unreadable_folder) {
    rig r;
    if (geteuid()) {
        ds_test_skip("unreadable_folder", "only root can become another user");
        return;
    }
    rig_open(&r, "unreadable");
    ck_assert(!chown(r.dir, NOBODY, NOBODY));
    r.unprivileged = 1;
    rig_start(&r);
    char *secret = make_tiles("secret", 0, 2);
    chmod(secret, 0700);
    EXPECT(&r, 6, "add-dataset", secret);
    EXPECT_SAID(secret);
    EXPECT_SAID("not readable");
    rig_close(&r);
    free(secret);
}
END_TEST

/* ---------------------------------------------------------------- pictures */

/* A PNG that says it has 30000 x 30000 pixels; whole as far as its chunks go. */
static void write_huge_png(const char *path) {
    static const unsigned char png[] = {
        0x89, 'P',  'N',  'G',  '\r', '\n', 0x1a, '\n', 0,    0,    0,    13,   'I',  'H',  'D',
        'R',  0,    0,    0x75, 0x30, 0,    0,    0x75, 0x30, 8,    2,    0,    0,    0,    0xe9,
        0x45, 0x6f, 0xed, 0,    0,    0,    0,    'I',  'D',  'A',  'T',  0x35, 0xaf, 0x06, 0x1e,
        0,    0,    0,    0,    'I',  'E',  'N',  'D',  0xae, 0x42, 0x60, 0x82};
    spit(path, png, sizeof png);
}

START_TEST(single_image_classes_and_sizes) {
    rig r;
    open_and_start(&r, "rig-sizes");
    char *dir = make_tiles("sizes", 2, 3), *path = in_tmp("sizes/lonely/only.ppm"),
         *one = in_tmp("sizes/class-0/one.png"), *huge = in_tmp("sizes/class-0/huge.png"),
         *torn = in_tmp("sizes/class-1/torn.png"), *lonely = new_folder("sizes/lonely", 0755);
    write_tile(path, 24, 5);
    ds_buf png = make_slope_png(1, 1, 7);
    spit(one, png.data, png.len);
    ds_buf_release(&png);
    write_huge_png(huge);
    png = make_slope_png(24, 24, 3); /* its chunks are whole, its data is not: found at decoding */
    png.data[png.len - 20] ^= 0x55;
    spit(torn, png.data, png.len);
    ds_buf_release(&png);
    EXPECT(&r, 0, "add-dataset", dir, "--wait", QUICK);
    EXPECT_SAID("sizes@v1");
    EXPECT(&r, 0, "show-dataset", "sizes", "--json");
    json_t *doc = said_json(), *v = json_object_get(doc, "version");
    ck_assert_int_eq(ds_json_int(v, "classes", 0), 3);
    ck_assert_int_eq(ds_json_int(v, "images", 0), 8);
    ck_assert_int_eq(ds_json_int(v, "rejected", 0), 3);
    json_decref(doc);
    for (int pass = 0; pass < 2; pass++) {
        EXPECT(&r, 0, "show-dataset", "sizes", "--rejected");
        EXPECT_SAID("class-0/one.png");
        EXPECT_SAID("1 x 1");
        EXPECT_SAID("class-0/huge.png");
        EXPECT_SAID("30000 x 30000");
        EXPECT_SAID("class-1/torn.png");
        EXPECT_SAID("damaged PNG");
        EXPECT(&r, 0, "add-dataset", dir, "--wait"); /* a rescan forgets nothing, makes nothing */
        EXPECT_SAID("sizes@v1");
    }
    free(lonely);
    /* nothing else in the folder: the dataset cannot be used, and says why */
    char *bad = new_folder("bad-sizes", 0755), *only = in_tmp("bad-sizes/huge.png");
    write_huge_png(only);
    EXPECT(&r, 2, "add-dataset", bad, "--wait");
    EXPECT_SAID("bad-sizes");
    EXPECT_SAID("huge.png");
    EXPECT_SAID("30000 x 30000");
    rig_close(&r);
    free(dir), free(path), free(one), free(huge), free(torn), free(bad), free(only);
}
END_TEST

START_TEST(too_many_classes) {
    rig r;
    open_and_start(&r, "classes");
    char *dir = new_folder("many", 0755), *first = in_tmp("many-first.ppm"), path[400];
    write_tile(first, 8, 1);
    for (int i = 0; i < MANY_CLASSES; i++) {
        int n = snprintf(path, sizeof path, "%s/c%06d", dir, i);
        ck_assert(!mkdir(path, 0755));
        snprintf(path + n, sizeof path - (size_t)n, "/a.ppm");
        if (link(first, path)) { /* a file system with few links per file */
            unlink(first);
            write_tile(first, 8, 1);
            ck_assert(!link(first, path));
        }
    }
    EXPECT(&r, 2, "add-dataset", dir, "--wait", "--no-watch");
    snprintf(path, sizeof path, "%d classes, the limit is 10000", MANY_CLASSES);
    EXPECT_SAID(path);
    EXPECT_SAID("one sub-folder is one class");
    printf("%d classes refused after %.1f s\n", MANY_CLASSES, said.seconds);
    rig_close(&r);
    ds_error err;
    must(ds_fs_remove(dir, &err), &err);
    free(dir), free(first);
}
END_TEST

/* ---------------------------------------------------------------- base files */

/* Wherever the fault shows - at the daemon's start or in the first job - it has this status. */
static void expect_base_refused(const char *name, const char *base, const char *why) {
    rig r;
    rig_open(&r, name);
    snprintf(r.base, sizeof r.base, "%s", base);
    char *tiles = folder("tiles");
    rig_start(&r);
    int code = dsctl(&r, "add-dataset", tiles, "--wait", QUICK, NULL);
    ck_assert_msg(code == 2 || code == 9, "%s: exit %d\n%s%s", name, code, said.out, said.err);
    EXPECT_SAID(base);
    EXPECT_SAID(why);
    EXPECT(&r, 0, "list-adapters", "--json");
    json_t *doc = said_json();
    ck_assert_uint_eq(json_array_size(json_object_get(doc, "items")), 0);
    json_decref(doc);
    rig_close(&r);
    free(tiles);
}

START_TEST(bases) {
    char *good = in_tmp("base.safetensors"), *cut = in_tmp("cut.safetensors"),
         *other = in_tmp("other.safetensors"), *text = in_tmp("text.safetensors"), *bytes, *p;
    size_t n;
    ds_error err;
    must(ds_fs_read(good, 1 << 28, &bytes, &n, &err), &err);
    spit(cut, bytes, n * 2 / 3);
    expect_base_refused("base-cut", cut, "not a valid safetensors file");
    /* the configuration of a wider model over the same tensors; the header keeps its length */
    p = memmem(bytes, n, "\\\"width\\\":32", 12);
    ck_assert_msg(p != NULL, "the base does not say \"width\":32");
    memcpy(p, "\\\"width\\\":64", 12);
    spit(other, bytes, n);
    expect_base_refused("base-shape", other, "shape");
    spit(text, "this is not a model at all", 26);
    expect_base_refused("base-text", text, "safetensors");
    free(bytes), free(good), free(cut), free(other), free(text);
}
END_TEST

/* ---------------------------------------------------------------- the state folder */

/* Start a daemon that must end by itself: its status; its last words are in said.err. */
static int failing_daemon(rig *r) {
    rig_spawn(r);
    said.code = wait_status(r->pid, PATIENCE);
    if (said.code < 0)
        rig_stop(r, SIGKILL);
    free(said.out);
    free(said.err);
    said.out = ds_xstrdup("");
    said.err = slurp(r->log);
    return said.code;
}

#define EXPECT_DAEMON(r, want)                                                                     \
    do {                                                                                           \
        int got_ = failing_daemon(r);                                                              \
        ck_assert_msg(got_ == (want), "diffscalerd: exit %d, not %d: %s", got_, (want), said.err); \
    } while (0)

START_TEST(second_daemon) {
    rig first, second;
    char pid[32];
    open_and_start(&first, "first");
    second = first;
    snprintf(second.log, sizeof second.log, "%s/second.log", first.dir);
    EXPECT_DAEMON(&second, 4);
    snprintf(pid, sizeof pid, "process %d", (int)first.pid);
    EXPECT_SAID(pid);
    EXPECT_SAID(first.state);
    EXPECT_SAID("choose another folder");
    EXPECT(&first, 0, "status"); /* the first one is not disturbed */
    rig_close(&first);
    EXPECT(&first, 5, "list-datasets");
    EXPECT_SAID("start it with: diffscalerd");
}
END_TEST

static void in_registry(const rig *r, const char *sql) {
    char file[256], *why = NULL;
    sqlite3 *db;
    snprintf(file, sizeof file, "%s/registry.db", r->state);
    ck_assert_int_eq(sqlite3_open(file, &db), SQLITE_OK);
    ck_assert_msg(sqlite3_exec(db, sql, NULL, NULL, &why) == SQLITE_OK, "%s: %s", sql, why);
    sqlite3_close(db);
}

START_TEST(newer_registry) {
    rig r;
    open_and_start(&r, "newer");
    rig_close(&r);
    in_registry(&r, "PRAGMA user_version = 999");
    unlink(r.log);
    EXPECT_DAEMON(&r, 10);
    EXPECT_SAID("registry.db");
    EXPECT_SAID("999");
    EXPECT_SAID("newer");
    char *tiles = folder("tiles");
    EXPECT(&r, 10, "add-dataset", tiles, "--start");
    EXPECT_SAID("newer");
    free(tiles);
}
END_TEST

START_TEST(corrupt_registry) {
    rig r;
    open_and_start(&r, "corrupt");
    rig_close(&r);
    char file[256], junk[4096];
    memset(junk, 0x5a, sizeof junk);
    snprintf(file, sizeof file, "%s/registry.db", r.state);
    int fd = open(file, O_WRONLY | O_CLOEXEC);
    for (int page = 1; page < 60; page++)
        ck_assert(pwrite(fd, junk, sizeof junk, (off_t)page * 4096) == (ssize_t)sizeof junk);
    close(fd);
    unlink(r.log);
    EXPECT_DAEMON(&r, 9);
    EXPECT_SAID("registry.db");
    EXPECT_SAID("backups");
}
END_TEST

START_TEST(read_only_registry) {
    rig r;
    if (geteuid()) {
        ds_test_skip("read_only_registry", "only root can become another user");
        return;
    }
    open_and_start(&r, "readonly");
    rig_close(&r);
    unlink(r.log);
    EXPECT_SHELL(&r, "chmod 755 '%s' && chmod 644 '%s'/* && chmod 777 '%s'", r.state, r.state,
                 r.dir);
    r.unprivileged = 1; /* may read everything and write nothing */
    EXPECT_DAEMON(&r, 6);
    EXPECT_SAID(r.state);
    EXPECT_SAID("ermission denied");
}
END_TEST

/* ---------------------------------------------------------------- requests */

static char *raw(const rig *r, const char *head, size_t body) {
    ds_buf q = {0};
    ds_buf_addf(&q, "%s", head);
    char *zeros = ds_xcalloc(1, body + 1);
    memset(zeros, 'x', body);
    ds_buf_add(&q, zeros, body);
    char *answer = exchange(rig_connect(r), q.data, q.len);
    free(zeros);
    ds_buf_release(&q);
    return answer;
}

#define EXPECT_ANSWER(text, status)                                                                \
    ck_assert_msg(!strncmp((text), "HTTP/1.1 " status, 12) && strstr((text), "problem+json") &&    \
                      strstr((text), "\"detail\""),                                                \
                  "not a problem with status %s: %.300s", status, (text))

START_TEST(requests) {
    rig r;
    rig_open(&r, "requests");
    r.extra[0] = "--idle";
    r.extra[1] = "1";
    rig_start(&r);
    char *a = raw(&r,
                  "POST /v1/datasets HTTP/1.1\r\nHost: d\r\nConnection: close\r\n"
                  "Content-Length: 2000000\r\n\r\n",
                  2000000);
    EXPECT_ANSWER(a, "413");
    free(a);
    a = raw(&r,
            "POST /v1/datasets HTTP/1.1\r\nHost: d\r\nConnection: close\r\n"
            "Content-Length: 9\r\n\r\n",
            9);
    EXPECT_ANSWER(a, "400");
    ck_assert_msg(strstr(a, "JSON"), "the answer does not speak of JSON: %s", a);
    free(a);
    a = raw(&r,
            "POST /v1/datasets HTTP/1.1\r\nHost: d\r\nConnection: close\r\n"
            "Content-Length: 25\r\n\r\n{\"path\":\"/a\",\"path\":\"/b\"}",
            0);
    EXPECT_ANSWER(a, "400");
    free(a);
    double begin = ds_monotonic(); /* half a request and then nothing */
    a = raw(&r, "POST /v1/datasets HTTP/1.1\r\nHost: d\r\nContent-Length: 100\r\n\r\n{", 0);
    double took = ds_monotonic() - begin;
    ck_assert_msg(took < 60, "a silent client keeps its connection for %.0f s", took);
    free(a);
    a = raw(&r, "BREW /pot HTTP/1.1\r\n\r\n", 40000);
    ck_assert_msg(!*a || !strncmp(a, "HTTP/1.1 4", 10), "nonsense is answered with %.40s", a);
    free(a);
    EXPECT(&r, 0, "status");
    rig_close(&r);
}
END_TEST

/* ---------------------------------------------------------------- outputs */

/* A shell line that ends with this status and says this. */
static void line(const rig *r, int want, const char *says, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static void line(const rig *r, int want, const char *says, const char *fmt, ...) {
    char text[1500];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    int got = shell(r, "%s", text);
    ck_assert_msg(got == want, "%s: exit %d, not %d\n%s%s", text, got, want, said.out, said.err);
    EXPECT_SAID(says);
}

/* The rule of dsctl (test_cli_outputs.c) in diffscaler-worker: asked before any work. */
START_TEST(places_of_the_worker) {
    rig r;
    rig_open(&r, "places");
    const char *w = program("diffscaler-worker");
    char *tiles = folder("tiles"), *old = in_tmp("old.out"), *none = in_tmp("nodir/x"),
         *dir = new_folder("full-folder", 0755), *in = in_tmp("full-folder/x"),
         *picture = in_tmp("one.ppm");
    write_tile(picture, 24, 5);
    spit(in, "kept", 4);
    const char *const writers[] = {"montage -o '%s' %s '%s'", "scan -o '%s' %s '%s'",
                                   "pretrain --out '%s' %s --data '%s'"};
    for (int i = 0; i < 3; i++) {
        char args[900];
        const char *source = i ? tiles : picture;
        spit(old, "old", 3);
        snprintf(args, sizeof args, writers[i], old, "", source); /* NOLINT */
        line(&r, 4, "exists: give another name, or --force to replace it", "%s %s", w, args);
        char *kept = slurp(old);
        ck_assert_str_eq(kept, "old");
        free(kept);
        snprintf(args, sizeof args, writers[i], none, "--force", source); /* NOLINT */
        line(&r, 3, "cannot write", "%s %s", w, args);
        ck_assert_msg(said.seconds < 20, "asked after %.0f s of work", said.seconds);
        snprintf(args, sizeof args, writers[i], tiles, "--force", source); /* NOLINT */
        line(&r, 2, "it is a folder", "%s %s", w, args);
        snprintf(args, sizeof args, writers[i], "/dev/null", "--force", source); /* NOLINT */
        line(&r, 2, "it is a device", "%s %s", w, args);
        if (i < 2) {
            snprintf(args, sizeof args, writers[i], old, "--force", source); /* NOLINT */
            line(&r, 0, "", "%s %s", w, args);
            kept = slurp(old);
            ck_assert_msg(strcmp(kept, "old") != 0, "nothing was written by: %s", args);
            free(kept);
        }
    }
    ck_assert(!ds_fs_exists("/dev/null.work"));
    line(&r, 4, "exists", "%s export --base '%s' --format dit -o '%s'", w, r.base, dir);
    line(&r, 4, "is no export", "%s export --base '%s' --format dit -o '%s' --force", w, r.base,
         dir);
    line(&r, 3, "cannot write", "%s export --base '%s' --format dit -o '%s'", w, r.base, none);
    line(&r, 2, "it is a file", "%s export --base '%s' --format dit -o '%s'", w, r.base, old);
    line(&r, 2, "--no-pt is for", "%s export --base '%s' --format diffusers --no-pt -o x", w,
         r.base);
    line(&r, 2, "given twice", "%s export --base '%s' --base y --format dit -o x", w, r.base);
    line(&r, 2, "given twice", "%s pretrain --data x --out y --steps 5 --steps 6", w);
    line(&r, 2, "given twice", "%s plan --shape tiny --batch 3 --batch 4", w);
    line(&r, 2, "--n is given twice", "%s evaluate x --against y --n 3 --n 4", w);
    line(&r, 2, "--mode is given twice", "%s evaluate x --against y --mode clean --mode bundled",
         w);
    line(&r, 2, "--name is given twice", "%s import-base x -o y --name a --name b", w);
    line(&r, 2, "--heads is given twice", "%s import-base x -o y --heads 2 --heads 3", w);
    line(&r, 2, "--as is given twice", "%s decode x --as train --as pillow", w);
    line(&r, 2, "-o is given twice", "%s decode x -o a -o b", w);
    line(&r, 2, "no effect", "%s plan --shape tiny --method full --rank 4", w);
    line(&r, 2, "-o is given twice", "%s scan '%s' -o a -o b", w, tiles);
    line(&r, 2, "unexpected argument 'b'", "%s scan '%s' b", w, tiles);
    line(&r, 2, "whole number", "%s pretrain --data x --out y --steps 1.5", w);
    free(tiles), free(old), free(none), free(dir), free(in), free(picture);
}
END_TEST

/* A result that did not arrive is a failure of every program and command that prints one. */
START_TEST(full_output) {
    rig r;
    open_and_start(&r, "full");
    char *tiles = folder("tiles");
    const char *w = program("diffscaler-worker"), *d = program("diffscalerd"),
               *c = program("dsctl");
    static const char *const worker[] = {"--version",  "--help",      "devices",       "run --help",
                                         "scan TILES", "plan --help", "export --help", "help"},
                             *const daemon[] = {"--version", "--help", "--check-config"},
                             *const client[] = {"--version",   "help",
                                                "version",     "status",
                                                "list-jobs",   "list-jobs --json",
                                                "show-base",   "list-bases",
                                                "doctor",      "events",
                                                "help sample", "completion bash",
                                                "report",      "list-datasets --json"};
    struct {
        const char *program, *const *lines;
        size_t count;
    } all[] = {{w, worker, 8}, {d, daemon, 3}, {c, client, 14}};
    if (access("/dev/full", W_OK)) {
        ds_test_skip("full_output", "no /dev/full");
        return;
    }
    EXPECT(&r, 0, "add-dataset", tiles, "--no-watch", QUICK);
    for (int i = 0; i < 3; i++)
        for (size_t k = 0; k < all[i].count; k++) {
            const char *args = all[i].lines[k];
            char text[900];
            if (!strcmp(args, "scan TILES"))
                snprintf(text, sizeof text, "scan '%s'", tiles);
            else
                snprintf(text, sizeof text, "%s", args);
            line(&r, 1, "cannot write", "%s %s >/dev/full", all[i].program, text);
            /* a reader that went away, where the signal is ignored; else it ends by the signal */
            line(&r, 0, "1",
                 "(trap '' PIPE; exec 3>&1; (sleep .2; %s %s; echo $? >&3) 2>/dev/null "
                 "| true)",
                 all[i].program, text);
        }
    rig_close(&r);
    free(tiles);
}
END_TEST

START_TEST(sets_that_cannot_be_measured) {
    rig r;
    open_and_start(&r, "few");
    char *one = new_folder("one-picture", 0755), *only = in_tmp("one-picture/a.ppm"),
         *tiles = folder("tiles");
    write_tile(only, 24, 5);
    EXPECT(&r, 2, "add-dataset", one, "--wait", QUICK);
    EXPECT_SAID("1 usable image");
    EXPECT_SAID("a distance needs 2");
    EXPECT(&r, 0, "list-jobs", "--kind", "train", "--quiet");
    ck_assert_str_eq(said.out, ""); /* nothing was trained for it */
    /* the ends of the range of --lr: what is accepted runs, also through the plan's calibration */
    EXPECT(&r, 0, "add-dataset", tiles, "--wait", "--steps", "2", "--n", "4", "--batch", "4",
           "--lr", "1");
    EXPECT(&r, 2, "add-dataset", tiles, "--lr", "1.000001");
    rig_close(&r);
    free(one), free(only), free(tiles);
}
END_TEST

static void register_cases(TCase *tc) {
    system_fixture();
    free(make_tiles("tiles", 2, CLASS_IMAGES));
    tcase_add_test(tc, folders);
    tcase_add_test(tc, unreadable_folder);
    tcase_add_test(tc, single_image_classes_and_sizes);
    tcase_add_test(tc, too_many_classes);
    tcase_add_test(tc, bases);
    tcase_add_test(tc, second_daemon);
    tcase_add_test(tc, newer_registry);
    tcase_add_test(tc, corrupt_registry);
    tcase_add_test(tc, read_only_registry);
    tcase_add_test(tc, requests);
    tcase_add_test(tc, places_of_the_worker);
    tcase_add_test(tc, full_output);
    tcase_add_test(tc, sets_that_cannot_be_measured);
}

int main(int argc, char **argv) { return system_main(argc, argv, "system-input", register_cases); }
