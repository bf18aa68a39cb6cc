/* tests/worker/test_worker_records.c - files that the worker keeps and reads again: references, encoded
 * pictures, hashes of a scan.  What is damaged, or cannot be, is not believed. */
#include "engine/files/safetensors.h"
#include "tests/fixtures/worker_fixture.h"
#include "worker/images/hash_cache.h"
#include "worker/images/latents.h"
#include "worker/measure/reference.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <sys/file.h>

static const char other_sha[] = "00000000000000000000000000000000"
                                "00000000000000000000000000000000";

static void flip_byte(const char *path, size_t at) {
    char *bytes;
    size_t n;
    ds_error err;
    must(ds_fs_read(path, 1 << 26, &bytes, &n, &err), &err);
    bytes[at] ^= 16;
    must(ds_fs_write(path, bytes, n, &err), &err);
    free(bytes);
}

/* ---------------------------------------------------------------- references */

/* TMP/name: a file with these settings and rows x columns of features. */
static char *reference_file(const char *name, const char *settings, int rows, int columns,
                            float first) {
    char *path = in_tmp(name), *bytes;
    size_t n, count = (size_t)rows * (size_t)(columns ? columns : 1);
    float *x = ds_xcalloc(count, sizeof *x);
    ds_st_writer *w = ds_st_writer_new();
    ds_error err;
    x[0] = first;
    if (settings)
        ds_st_writer_meta(w, "diffscaler", settings);
    ds_st_writer_add(w, "features", DS_ST_F32, columns ? 2 : 1, (int64_t[]){rows, columns}, x);
    must(ds_st_writer_finish(w, &bytes, &n, &err), &err);
    must(ds_zio_write_file(path, bytes, n, 1, &err), &err);
    ds_st_writer_free(w);
    free(bytes);
    free(x);
    return path;
}

START_TEST(references_are_checked) {
#define SETTINGS(counts)                                                                           \
    "{\"schema\":\"" DS_REFERENCE_SCHEMA "\",\"feature_net\":\"net\",\"resize\":\"r\","            \
    "\"tree_digest\":\"t\",\"class_images\":" counts "}"
    static const struct {
        const char *settings;
        int rows, columns;
        float first;
        const char *says; /* NULL: it is good */
    } cases[] = {
        {SETTINGS("[2,0,1]"), 3, 5, 0.5f, NULL},
        {SETTINGS("[1099511627776]"), 1, 1, 0, NULL},
        {NULL, 3, 5, 0, "no metadata 'diffscaler'"},
        {"{", 3, 5, 0, "not valid JSON"},
        {"{\"schema\":\"x/1\"}", 3, 5, 0, "is not of schema"},
        {SETTINGS("[]"), 3, 5, 0, "class_images has 0 entries"},
        {SETTINGS("[1,-1]"), 3, 5, 0, "class_images[1] is out of range"},
        {SETTINGS("[1099511627777]"), 3, 5, 0, "class_images[0] is out of range"},
        {SETTINGS("[1099511627776,1]"), 3, 5, 0, "counts no picture"},
        {SETTINGS("[0,0]"), 3, 5, 0, "counts no picture"},
        {SETTINGS("[1]"), 3, 0, 0, "has a wrong shape"},
        {SETTINGS("[1]"), 2, DS_FEATURE_DIM_MAX + 1, 0, "has a wrong shape"},
        {SETTINGS("[1]"), 3, 5, NAN, "a feature is not finite"},
    };
    ds_reference r;
    ds_error err;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *path = reference_file("case.zst", cases[i].settings, cases[i].rows, cases[i].columns,
                                    cases[i].first);
        int rc = ds_reference_read(&r, path, NULL, &err);
        ck_assert_msg(!rc == !cases[i].says && (!rc || strstr(err.message, cases[i].says)),
                      "case %zu: %d %s", i, rc, rc ? err.message : "");
        if (!i)
            ck_assert(r.n == 3 && r.dim == 5 && r.classes == 3 && r.counts[0] == 2 &&
                      r.counts[2] == 1 && r.x[0] == 0.5f && !strcmp(r.net, "net") &&
                      !strcmp(r.resize, "r") && !strcmp(r.tree_digest, "t"));
        ck_assert(!rc || (!r.x && !r.counts && !r.n));
        ds_reference_release(&r);
        ck_assert_int_eq(ds_reference_read(&r, path, other_sha, &err), DS_EINTEGRITY);
        free(path);
    }
    ds_buf many = {0}; /* one class more than there can be */
    ds_buf_addf(&many, "{\"schema\":\"" DS_REFERENCE_SCHEMA "\",\"class_images\":[1");
    for (int i = 0; i < 100000; i++)
        ds_buf_addf(&many, ",1");
    ds_buf_addf(&many, "]}");
    char *path = reference_file("many.zst", many.data, 1, 1, 0);
    ck_assert_int_eq(ds_reference_read(&r, path, NULL, &err), DS_EINTEGRITY);
    ck_assert_msg(strstr(err.message, "has 100001 entries") != NULL, "%s", err.message);
    ds_buf_release(&many);
    free(path);
}
END_TEST

/* What is made is what is read again. */
START_TEST(references_come_back) {
    static const float x[2][3] = {{1, 2, 3}, {4, 5, 6}};
    static const int32_t labels[] = {2, 0, 2};
    static const char *names[] = {"a", "b", "c"};
    ds_images im = {.n = 3, .labels = labels, .class_count = 3, .class_names = names};
    ds_feature_set set = {.x = x[0], .n = 2, .dim = 3, .net = "net", .resize = "way"};
    ds_reference made = {0}, r;
    char *path = in_tmp("made.zst"), sha[DS_HEX_SIZE];
    ds_error err;
    must(ds_reference_make(&made, &im, "tree", &set, "FD-3", &err), &err);
    ds_digest(made.bytes, made.size, sha);
    ck_assert_str_eq(made.sha256, sha);
    must(ds_zio_write_file(path, made.bytes, made.size, 1, &err), &err);
    must(ds_reference_read(&r, path, sha, &err), &err);
    const ds_reference *both[] = {&made, &r};
    for (int i = 0; i < 2; i++) {
        ds_feature_set back = ds_reference_set(both[i]);
        ck_assert(back.n == 2 && back.dim == 3 && !memcmp(back.x, x, sizeof x));
        ck_assert_str_eq(back.net, "net");
        ck_assert_str_eq(back.resize, "way");
        ck_assert_str_eq(both[i]->tree_digest, "tree");
        ck_assert(both[i]->classes == 3 && both[i]->counts[0] == 1 && both[i]->counts[1] == 0 &&
                  both[i]->counts[2] == 2);
    }
    ds_st *st;
    must(ds_st_open_memory("made", made.bytes, made.size, &st, &err), &err);
    const char *text = ds_st_meta(st, "diffscaler");
    ck_assert(strstr(text, "\"images\":3") && strstr(text, "\"metric\":\"FD-3\"") &&
              strstr(text, "\"prepare\":\"" DS_PREPARE_ID "\""));
    ds_st_free(st);
    ds_reference_release(&made);
    ds_reference_release(&r);
    free(path);
}
END_TEST

/* All pictures of a small set; of a large one as many as there may be, each once, in order, drawn by
 * the seed. */
START_TEST(references_are_drawn) {
    enum { MOST = DS_REFERENCE_IMAGES_MAX };
    static uint32_t a[MOST], b[MOST];
    ck_assert_int_eq(ds_reference_choose(a, MOST, 1), MOST);
    for (uint32_t i = 0; i < MOST; i++)
        ck_assert_uint_eq(a[i], i);
    ck_assert_int_eq(ds_reference_choose(a, 5 * MOST, 1), MOST);
    for (int i = 0; i < MOST; i++)
        ck_assert(a[i] < 5 * MOST && (!i || a[i] > a[i - 1]));
    ck_assert_uint_gt(a[MOST - 1], 3 * MOST);
    ds_reference_choose(b, 5 * MOST, 1);
    ck_assert_mem_eq(a, b, sizeof a);
    ds_reference_choose(b, 5 * MOST, 2);
    ck_assert(memcmp(a, b, sizeof a));
}
END_TEST

/* ---------------------------------------------------------------- latents */

#define VAE "tests/golden/vae.safetensors" /* 4 channels, 4 pixels a latent */
enum { LATENT = 4, PICTURE = 16, PICTURES = 5, RECORD = 128 + 2 * 4 * LATENT * LATENT * 4 };

static ds_latents *open_latents(const ds_latents_options *o, int64_t encoded, int64_t damaged) {
    ds_latents *l;
    ds_error err;
    must(ds_latents_open(&l, o, NULL, NULL, &err), &err);
    ck_assert_int_eq(l->encoded, encoded);
    ck_assert_int_eq(l->damaged, damaged);
    ck_assert_int_eq(l->n, PICTURES);
    return l;
}

static int stop_at_once(void *user, double done, double total) {
    (void)done, (void)total;
    ++*(int *)user;
    return 1;
}

/* The one file of a folder. */
static char *only_file(const char *dir) {
    DIR *d = opendir(dir);
    char *found = NULL;
    ck_assert_ptr_nonnull(d);
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.') {
            ck_assert_ptr_null(found);
            found = ds_xasprintf("%s/%s", dir, e->d_name);
        }
    closedir(d);
    ck_assert_ptr_nonnull(found);
    return found;
}

static off_t size_of(const char *path) {
    struct stat st;
    ck_assert(!stat(path, &st));
    return st.st_size;
}

/* Another job ends while it is waited for. */
typedef struct {
    int *held, calls;
} letting;

static int let_go_at_third(void *user, double done, double total) {
    letting *l = user;
    (void)done, (void)total;
    if (++l->calls == 3) {
        close(*l->held);
        *l->held = -1;
    }
    return 0;
}

/* Another job encodes: it is waited for until it ends, or until somebody cancels. */
static void who_waits_may_be_cancelled(const char *file, const ds_latents_options *o) {
    ds_latents *l;
    ds_error err;
    int asked = 0, held = open(file, O_RDWR | O_CLOEXEC);
    ck_assert(held >= 0 && !flock(held, LOCK_EX | LOCK_NB));
    alarm(60);
    ck_assert_int_eq(ds_latents_open(&l, o, stop_at_once, &asked, &err), DS_ECANCELED);
    ck_assert_int_eq(asked, 1);
    must(ds_latents_open(&l, o, let_go_at_third, &(letting){&held, 0}, &err), &err);
    alarm(0);
    ck_assert_int_eq(held, -1); /* it was waited for */
    ck_assert_int_eq(l->encoded, 0);
    ds_latents_close(l);
}

START_TEST(latents_are_encoded_once) {
    static uint8_t px[PICTURES * PICTURE * PICTURE * 3];
    ds_images im = {.n = PICTURES, .side = PICTURE, .channels = 3, .class_count = 1, .pixels = px};
    char sha[DS_HEX_SIZE], *dir = in_tmp("latents"), first[DS_HEX_SIZE];
    ds_device_options cpu = {.kind = "cpu", .precision = DS_PRECISION_F32, .threads = 1};
    ds_latents_options o = {.images = &im,
                            .vae_path = VAE,
                            .vae_sha256 = sha,
                            .cache_dir = dir,
                            .channels = 4,
                            .side = LATENT};
    ds_error err;
    ds_latents *l;
    int asked = 0;
    for (size_t i = 0; i < sizeof px; i++)
        px[i] = (uint8_t)(i * 2654435761u >> 24);
    const size_t one = sizeof px / PICTURES;
    memcpy(px + 4 * one, px + one, one); /* the last is the second again */
    file_digest(VAE, sha);
    must(ds_device_open(&o.dev, &cpu, &err), &err);
    ck_assert_int_eq(ds_latents_open(&l, &o, stop_at_once, &asked, &err), DS_ECANCELED);
    ck_assert_int_eq(asked, 1);
    setenv("DS_TEST_ENOSPC", "1", 1);
    ck_assert_int_eq(ds_latents_open(&l, &o, NULL, NULL, &err), DS_ENOSPC);
    unsetenv("DS_TEST_ENOSPC");
    l = open_latents(&o, 4, 0);
    snprintf(first, sizeof first, "%s", l->digest);
    ck_assert(!l->of[1] && l->of[0][4] == l->of[0][1] && l->of[0][2] != l->of[0][1]);
    float mean = l->of[0][3][5];
    ds_latents_close(l);
    char *file = only_file(dir);
    ck_assert_int_eq(size_of(file), 4096 + 4 * RECORD);
    who_waits_may_be_cancelled(file, &o);
    l = open_latents(&o, 0, 0); /* all are there */
    ck_assert_str_eq(l->digest, first);
    ck_assert(l->of[0][3][5] == mean);
    ds_latents_close(l);
    ck_assert_int_eq(size_of(file), 4096 + 4 * RECORD);
    /* one is damaged: in the numbers, then in what it is of (which is then that of no picture) */
    flip_byte(file, 4096 + RECORD + 200);
    l = open_latents(&o, 1, 1);
    ck_assert_str_eq(l->digest, first);
    ds_latents_close(l);
    l = open_latents(&o, 0, 0);
    ds_latents_close(l);
    flip_byte(file, 4096 + 2 * RECORD + 3);
    l = open_latents(&o, 1, 0);
    ck_assert_str_eq(l->digest, first);
    ds_latents_close(l);
    /* the last record is torn */
    off_t whole = size_of(file);
    ck_assert(!truncate(file, whole - 1));
    ds_latents_close(open_latents(&o, 1, 0));
    ck_assert_int_eq(size_of(file), whole);
    /* a file that is none of ours, and one with nothing in it, are begun anew */
    for (int i = 0; i < 3; i++) {
        if (i < 2)
            flip_byte(file, i ? 80 : 3);
        else
            ck_assert(!truncate(file, 100));
        l = open_latents(&o, 4, 0);
        ck_assert_str_eq(l->digest, first);
        ds_latents_close(l);
        ds_latents_close(open_latents(&o, 0, 0));
    }
    /* both ways round: the mirrored ones beside them, and they are others */
    o.mirrored = 1;
    l = open_latents(&o, 4, 0);
    ck_assert(l->of[1] && l->of[1][4] == l->of[1][1] && l->of[1][0] != l->of[0][0]);
    ck_assert(memcmp(l->of[1][0], l->of[0][0], 4 * LATENT * LATENT * sizeof(float)));
    ck_assert_str_ne(l->digest, first);
    ds_latents_close(l);
    /* a folder where the file would be */
    ck_assert(!unlink(file) && !mkdir(file, 0700));
    ck_assert_int_ne(ds_latents_open(&l, &o, NULL, NULL, &err), 0);
    ck_assert_msg(strstr(err.message, "cannot open '") != NULL, "%s", err.message);
    ck_assert_int_eq(rmdir(file), 0);
    ds_device_close(o.dev);
    free(file);
    free(dir);
}
END_TEST

/* ---------------------------------------------------------------- hashes */

/* Two pictures that are known, as bytes with their digest at the end; times long ago. */
static const struct stat known[] = {
    {.st_dev = 1, .st_ino = 2, .st_size = 3, .st_mtim = {900, 5}, .st_ctim = {1000, 6}},
    {.st_dev = 1, .st_ino = 7, .st_size = 4, .st_mtim = {901, 5}, .st_ctim = {1001, 6}},
    {.st_dev = 2, .st_ino = 2, .st_size = 5, .st_mtim = {902, 5}, .st_ctim = {1002, 6}}};

static void remember(ds_hash_cache *c, int i) {
    ds_file_facts f = {
        .ok = i != 1,
        .info = {.format = DS_IMAGE_PNG, .width = 20 + i, .height = 30 + i, .orientation = 1 + i}};
    memset(f.sha256, 'a' + i, 64);
    f.sha256[64] = 0;
    snprintf(f.reason, sizeof f.reason, "%s", f.ok ? "" : "it is blue");
    ds_hash_cache_put(c, &known[i], &f, INT64_C(5000000000000));
}

static void expect_known(ds_hash_cache *c, int i, int there) {
    ds_file_facts f;
    ck_assert_int_eq(ds_hash_cache_find(c, &known[i], &f), there);
    if (!there)
        return;
    ck_assert(f.ok == (i != 1) && f.info.width == 20 + i && f.info.height == 30 + i &&
              f.info.orientation == 1 + i && f.info.format == DS_IMAGE_PNG);
    ck_assert(f.sha256[0] == 'a' + i && f.sha256[63] == 'a' + i && strlen(f.sha256) == 64);
    ck_assert_str_eq(f.reason, f.ok ? "" : "it is blue");
}

/* The file with one number changed, and the digest at its end that fits; at < 0: cut off there. */
static int damaged_hashes(const char *path, const char *data, size_t n, long at, int bytes,
                          uint64_t value) {
    char *copy = ds_xmalloc(n), hex[DS_HEX_SIZE];
    int damaged = -1;
    ds_error err;
    memcpy(copy, data, n);
    if (at < 0)
        n -= (size_t)-at;
    for (int i = 0; at >= 0 && i < bytes; i++)
        copy[at + i] = (char)(value >> (8 * i));
    ds_digest(copy, n - 32, hex);
    for (int i = 0; i < 32; i++) {
        unsigned v;
        ck_assert(sscanf(hex + 2 * i, "%2x", &v) == 1);
        copy[n - 32 + (size_t)i] = (char)v;
    }
    must(ds_fs_write(path, copy, n, &err), &err);
    ds_hash_cache *c = ds_hash_cache_open(path, &damaged);
    for (int i = 0; damaged && i < 2; i++)
        expect_known(c, i, 0); /* none of it is believed */
    ds_hash_cache_close(c);
    free(copy);
    return damaged;
}

START_TEST(hashes_that_cannot_be) {
    char *path = in_tmp("hashes"), *data;
    int damaged;
    size_t n;
    ds_error err;
    ds_hash_cache *c = ds_hash_cache_open(path, &damaged);
    ck_assert(!damaged);
    for (int i = 0; i < 2; i++)
        remember(c, i);
    must(ds_hash_cache_save(c, &err), &err);
    ds_hash_cache_close(c);
    c = ds_hash_cache_open(path, &damaged);
    ck_assert(!damaged);
    for (int i = 0; i < 2; i++)
        expect_known(c, i, 1);
    expect_known(c, 2, 0);
    ds_hash_cache_close(c);
    must(ds_fs_read(path, 1 << 20, &data, &n, &err), &err);
    ck_assert_uint_eq(n, 16 + 2 * 86 + 10 + 32);
    /* where the length of the first entry's reason stands */
    long first = 16, length = first + 84;
    int reason = (uint8_t)data[length];
    ck_assert(!damaged_hashes(path, data, n, 16 + 72, 4, 99)); /* a width that can be */
    static const struct {
        int at, bytes;
        uint64_t value;
    } wrong[] = {{0, 1, 'X'},
                 {7, 1, '2'},
                 {8, 8, 3},
                 {8, 8, UINT64_MAX},
                 {16 + 72, 4, 1u << 31},
                 {16 + 76, 4, 1u << 31},
                 {16 + 84, 2, 160},
                 {16 + 84, 2, 65535}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        ck_assert_msg(damaged_hashes(path, data, n, wrong[i].at, wrong[i].bytes, wrong[i].value) ==
                          1,
                      "%zu was not noticed", i);
    ck_assert_int_eq(damaged_hashes(path, data, n, length, 2, (uint64_t)reason + 120), 1);
    static const long cuts[] = {1, 5, 90, 182, 186};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++)
        ck_assert_msg(damaged_hashes(path, data, n, -cuts[i], 0, 0) == 1, "cut %ld", cuts[i]);
    free(data);
    free(path);
}
END_TEST

/* What no scan has asked for so many times is forgotten, and nothing is written for nothing. */
START_TEST(old_hashes_are_forgotten) {
    char *path = in_tmp("old-hashes");
    struct stat before, after;
    ds_error err;
    ds_hash_cache *c = ds_hash_cache_open(path, NULL);
    remember(c, 0);
    remember(c, 1);
    must(ds_hash_cache_save(c, &err), &err);
    ds_hash_cache_close(c);
    ck_assert(!stat(path, &before));
    c = ds_hash_cache_open(path, NULL);
    expect_known(c, 0, 1);
    must(ds_hash_cache_save(c, &err), &err);
    ds_hash_cache_close(c);
    ck_assert(!stat(path, &after) && before.st_ino == after.st_ino); /* not written again */
    for (int k = 1; k <= DS_HASH_CACHE_KEEP; k++) { /* the first is asked for, the second never */
        c = ds_hash_cache_open(path, NULL);
        expect_known(c, 0, 1);
        remember(c, 2);
        must(ds_hash_cache_save(c, &err), &err);
        ds_hash_cache_close(c);
    }
    char *kept = ds_xasprintf("%s-kept", path);
    must(ds_fs_copy(path, kept, &err), &err);
    c = ds_hash_cache_open(kept, NULL); /* as old as may be: found, it is young again */
    expect_known(c, 1, 1);
    ds_hash_cache_close(c);
    for (int k = 0; k < 2; k++) {
        c = ds_hash_cache_open(path, NULL);
        expect_known(c, 0, 1);
        remember(c, 2);
        must(ds_hash_cache_save(c, &err), &err);
        ds_hash_cache_close(c);
    }
    c = ds_hash_cache_open(path, NULL);
    expect_known(c, 1, 0);
    expect_known(c, 0, 1);
    ds_hash_cache_close(c);
    free(kept);
    free(path);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, references_are_checked);
    tcase_add_test(tc, references_come_back);
    tcase_add_test(tc, references_are_drawn);
    tcase_add_test(tc, latents_are_encoded_once);
    tcase_add_test(tc, hashes_that_cannot_be);
    tcase_add_test(tc, old_hashes_are_forgotten);
}

int main(void) { return ds_test_main("worker_records", register_cases); }
