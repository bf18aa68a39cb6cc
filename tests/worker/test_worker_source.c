/* tests/worker/test_worker_source.c - the scan and the preparation know a source and nothing behind it: here it is a
 * list of pictures in memory, no folder anywhere. */
#include "base/digest.h"
#include "base/fs.h"
#include "base/mem.h"
#include "tests/fixtures/picture_files.h"
#include "tests/harness.h"
#include "worker/decode/files.h"
#include "worker/decode/sandbox.h"
#include "worker/images/prepare.h"
#include "worker/images/scan.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct {
    const char *path, *label, *part,
        *refused; /* label NULL: none; part, refused NULL: it is trained on */
    int side;     /* 0: no picture at all */
} spec;

typedef struct {
    ds_source base; /* first */
    const spec *list;
    int count, opened, unused, changed; /* changed: other bytes than the scan saw */
    ds_buf bytes[8];
    pthread_mutex_t lock; /* of opened */
} memory;

static const spec *find(const memory *m, const char *path, int *at) {
    for (*at = 0; *at < m->count; ++*at)
        if (!strcmp(m->list[*at].path, path))
            return &m->list[*at];
    return NULL;
}

static void state_of(const memory *m, int i, struct stat *st) {
    *st = (struct stat){.st_dev = 77,
                        .st_ino = (ino_t)(i + 1),
                        .st_mode = S_IFREG,
                        .st_size = (off_t)m->bytes[i].len};
    st->st_ctim.tv_sec = 1000;
}

static int list(ds_source *s, const ds_source_walk *walk, ds_candidate_list *out, ds_error *err) {
    memory *m = (memory *)s;
    (void)err;
    ck_assert_int_ge(walk->max_files, m->count);
    out->items = ds_xcalloc((size_t)m->count + 1, sizeof *out->items);
    for (int i = 0; i < m->count; i++) {
        out->items[i].path = ds_xstrdup(m->list[i].path);
        state_of(m, i, &out->items[i].st);
    }
    out->count = m->count;
    out->ignored = 5;
    ds_rejected_add(walk->rejected, "lost", "is on the moon");
    return 0;
}

static int open_picture(ds_source *s, const char *path, struct stat *st,
                        char reason[DS_REASON_SIZE]) {
    memory *m = (memory *)s;
    int i;
    if (!find(m, path, &i)) {
        snprintf(reason, DS_REASON_SIZE, "missing");
        return -1;
    }
    state_of(m, i, st);
    int fd = memfd_create("picture", MFD_CLOEXEC);
    ck_assert(fd >= 0 && write(fd, m->bytes[i].data, m->bytes[i].len) == (ssize_t)m->bytes[i].len);
    ck_assert(lseek(fd, m->changed ? 1 : 0, SEEK_SET) >= 0);
    pthread_mutex_lock(&m->lock);
    m->opened++;
    pthread_mutex_unlock(&m->lock);
    return fd;
}

static int label(ds_source *s, const char *path, char **out, char reason[DS_REASON_SIZE]) {
    int i;
    const spec *p = find((memory *)s, path, &i);
    *out = p->label ? ds_xstrdup(p->label) : NULL;
    if (p->refused)
        snprintf(reason, DS_REASON_SIZE, "%s", p->refused);
    return p->refused ? -1 : 0;
}

static const char *split(ds_source *s, const char *path) {
    int i;
    return find((memory *)s, path, &i)->part;
}

static void unused(ds_source *s, ds_rejected_list *rejected) {
    ((memory *)s)->unused++;
    ds_rejected_add(rejected, "promised", "never came");
}

static void close_memory(ds_source *s) { (void)s; }

static const ds_source_ops ops = {list, open_picture, label, split, unused, close_memory};

static memory open_memory(const spec *specs, int count) {
    memory m = {.base = {.ops = &ops,
                         .kind = "list",
                         .name = "numbers",
                         .classes_are = "one word is one class",
                         .no_label = "has no word"},
                .list = specs,
                .count = count,
                .lock = PTHREAD_MUTEX_INITIALIZER};
    for (int i = 0; i < count; i++)
        if (specs[i].side)
            m.bytes[i] = make_slope_png(specs[i].side, specs[i].side + 3, i + 1);
        else
            ds_buf_addf(&m.bytes[i], "no picture");
    return m;
}

static void release(memory *m) {
    for (int i = 0; i < m->count; i++)
        ds_buf_release(&m->bytes[i]);
}

static const spec six[] = {{"a", "cat", NULL, NULL, 20},     {"b/1", "dog", NULL, NULL, 24},
                           {"b/2", "cat", "test", NULL, 20}, {"c", "dog", NULL, "is not meant", 20},
                           {"d", "dog", NULL, NULL, 0},      {"e", "cat", NULL, NULL, 30}};

static const char *reason_of(const ds_scan_result *r, const char *path) {
    for (int64_t i = 0; i < r->rejected.listed; i++)
        if (!strcmp(r->rejected.items[i].path, path))
            return r->rejected.items[i].reason;
    return "(none)";
}

static ds_scan_result scan(memory *m) {
    ds_scan_result r;
    ds_error err = {0};
    ds_scan_options o = {.source = &m->base, .dataset = "set"};
    ck_assert_msg(!ds_scan(&o, &r, NULL, NULL, &err), "%s", err.message);
    return r;
}

START_TEST(a_scan_asks_its_source) {
    memory m = open_memory(six, 6);
    ds_scan_result r = scan(&m);
    ck_assert_int_eq(r.images, 3);
    ck_assert_int_eq(r.ignored, 5);
    ck_assert_int_eq(m.opened, 4); /* what is left out before is not opened */
    ck_assert_int_eq(m.unused, 1);
    ck_assert(r.class_count == 2 && !strcmp(r.classes[0].name, "cat") && r.classes[0].images == 2);
    ck_assert_str_eq(r.classes[1].name, "dog");
    ck_assert_int_eq(r.rejected.count, 5);
    ck_assert_str_eq(reason_of(&r, "b/2"), "of the part 'test', which is not trained on");
    ck_assert_str_eq(reason_of(&r, "c"), "is not meant");
    ck_assert_str_eq(reason_of(&r, "d"), "unknown file type");
    ck_assert_str_eq(reason_of(&r, "lost"), "is on the moon");
    ck_assert_str_eq(reason_of(&r, "promised"), "never came");
    ck_assert(strstr(r.manifest, "{\"path\":\"b/1\",\"size\":") &&
              strstr(r.manifest, "\"class\":\"dog\"}\n"));
    ds_scan_release(&r);
    release(&m);
}
END_TEST

/* The same pictures in a folder: the same bytes of the manifest. */
START_TEST(manifests_are_those_of_a_folder) {
    static const spec four[] = {{"cat/1.png", "cat", NULL, NULL, 20},
                                {"cat/2.png", "cat", NULL, NULL, 30},
                                {"dog/1.png", "dog", NULL, NULL, 24},
                                {"x.png", NULL, NULL, NULL, 24}};
    memory m = open_memory(four, 4);
    char root[400], sub[500];
    ds_error err = {0};
    snprintf(root, sizeof root, "%s/tree", ds_test_tmpdir());
    for (int i = 0; i < 2; i++) {
        snprintf(sub, sizeof sub, "%s/%s", root, i ? "dog" : "cat");
        ck_assert_int_eq(ds_fs_mkdirs(sub, &err), 0);
    }
    for (int i = 0; i < 4; i++)
        put_file(root, four[i].path, make_slope_png(four[i].side, four[i].side + 3, i + 1));
    ds_scan_result one = scan(&m), two;
    ds_scan_options o = {.root = root, .dataset = "set"};
    ck_assert_msg(!ds_scan(&o, &two, NULL, NULL, &err), "%s", err.message);
    ck_assert_str_eq(one.manifest, two.manifest);
    ck_assert_str_eq(one.tree_digest, two.tree_digest);
    ck_assert_str_eq(reason_of(&one, "x.png"), "has no word");
    ck_assert_str_eq(reason_of(&two, "x.png"), "not in a class folder, and other pictures are");
    ds_scan_release(&one);
    ds_scan_release(&two);
    release(&m);
}
END_TEST

START_TEST(what_is_said_names_the_source) {
    static const spec none[] = {{"a", "cat", NULL, NULL, 0}},
                      two[] = {{"a", "x", NULL, NULL, 20}, {"b", "y", NULL, NULL, 20}};
    memory m = open_memory(none, 1);
    ds_scan_result r;
    ds_error err = {0};
    ds_scan_options o = {.source = &m.base, .dataset = "set"};
    ck_assert_int_eq(ds_scan(&o, &r, NULL, NULL, &err), DS_EINVAL);
    ck_assert_msg(strstr(err.message, "list 'numbers' has no usable image: 3 rejected") != NULL,
                  "%s", err.message);
    ds_scan_release(&r);
    release(&m);
    m = open_memory(two, 2);
    o = (ds_scan_options){.source = &m.base, .dataset = "set", .max_classes = 1};
    ck_assert_int_eq(ds_scan(&o, &r, NULL, NULL, &err), DS_EINVAL);
    ck_assert_str_eq(err.message, "the list has 2 classes, the limit is 1 (one word is one class)");
    ds_scan_release(&r);
    release(&m);
}
END_TEST

START_TEST(pictures_are_prepared_from_their_source) {
    memory m = open_memory(six, 6);
    char manifest[400], cache[400];
    ds_images *images;
    ds_error err = {0};
    ds_scan_result r = scan(&m);
    snprintf(manifest, sizeof manifest, "%s/manifest", ds_test_tmpdir());
    snprintf(cache, sizeof cache, "%s/images", ds_test_tmpdir());
    ck_assert_int_eq(ds_fs_write(manifest, r.manifest, r.manifest_size, &err), 0);
    ds_scan_release(&r);
    ds_prepare_options o = {.source = &m.base,
                            .manifest = manifest,
                            .cache_dir = cache,
                            .side = 16,
                            .channels = 3,
                            .children = 3};
    m.changed = 1;
    ck_assert_int_eq(ds_prepare_open(&images, &o, NULL, NULL, &err), DS_ECONFLICT);
    m.changed = m.opened = 0;
    ck_assert_msg(!ds_prepare_open(&images, &o, NULL, NULL, &err), "%s", err.message);
    ck_assert_int_eq(m.opened, 3);
    ck_assert(images->n == 3 && images->class_count == 2 && images->side == 16 &&
              !images->from_cache);
    ck_assert(images->labels[0] == 0 && images->labels[1] == 1 && images->labels[2] == 0);
    ck_assert(memcmp(images->pixels, images->pixels + 16 * 16 * 3, 16 * 16 * 3) != 0);
    ds_images_close(images);
    ck_assert(!ds_prepare_open(&images, &o, NULL, NULL, &err) && images->from_cache);
    ck_assert_int_eq(m.opened, 3); /* the cache needs no source */
    ds_images_close(images);
    release(&m);
}
END_TEST

/* A file is as long as it was when it was looked at, or it changed. */
START_TEST(files_that_change) {
    char path[300], sha256[DS_HEX_SIZE], want[DS_HEX_SIZE], reason[DS_REASON_SIZE] = "";
    uint8_t buf[16];
    snprintf(path, sizeof path, "%s/ten", ds_test_tmpdir());
    ck_assert_int_eq(ds_fs_write(path, "0123456789", 10, NULL), 0);
    ds_digest("0123456789", 10, want);
    for (size_t size = 9; size <= 11; size++) {
        int fd = open(path, O_RDONLY), rc = ds_read_hashed(fd, buf, size, sha256, reason);
        ck_assert_msg((rc == 0) == (size == 10), "%zu: %d", size, rc);
        ck_assert_str_eq(reason, rc ? "changed while reading" : "");
        if (!rc)
            ck_assert_str_eq(sha256, want);
        *reason = 0;
        close(fd);
    }
    int fd = open(ds_test_tmpdir(), O_RDONLY);
    ck_assert_int_eq(ds_read_hashed(fd, buf, 10, sha256, reason), -1);
    ck_assert_str_eq(reason, "cannot be read: Is a directory");
    close(fd);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, files_that_change);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, a_scan_asks_its_source);
    tcase_add_test(tc, manifests_are_those_of_a_folder);
    tcase_add_test(tc, what_is_said_names_the_source);
    tcase_add_test(tc, pictures_are_prepared_from_their_source);
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], DS_SANDBOX_ARG))
        return ds_decode_child_main();
    return ds_test_main("worker_source", register_cases);
}
