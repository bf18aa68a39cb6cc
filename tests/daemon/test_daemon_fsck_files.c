/* tests/daemon/test_daemon_fsck_files.c - fsck in the test's own process, on a folder made for it: every
 * kind of cache, left-over, model and folder, each good and each in all its ways of being bad. */
#include "base/zio.h"
#include "daemon/care/fsck.h"
#include "tests/fixtures/registry_fixture.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>

static ds_registry *r;
static char state[PATH_MAX];

static void setup(void) {
    static const char *const folders[] = {"cache/base", "cache/hashes", "jobs",
                                          "bases",      "feature_nets", "backups"};
    static int n;
    char name[32], path[PATH_MAX];
    snprintf(name, sizeof name, "s%d-%d", (int)getpid(), n++);
    snprintf(state, sizeof state, "%s", fx_dir(name));
    MUST(ds_registry_open(state, &r, err));
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        ds_fs_join(path, sizeof path, state, folders[i]);
        MUST(ds_fs_mkdirs(path, err));
    }
}

static void teardown(void) { ds_registry_close(r); }

static const char *in_state(const char *name) {
    static char path[2][PATH_MAX];
    static int k;
    ds_fs_join(path[k ^= 1], PATH_MAX, state, name);
    return path[k];
}

static void put(const char *name, const void *data, size_t n) {
    MUST(ds_fs_write(in_state(name), data, n, err));
}

/* What was found; NULL for `how` is full. */
static json_t *look(const char *how) {
    ds_fsck_options o = {.state = state, .store = ds_registry_store(r)};
    ds_fsck_result f;
    o.quick = how && !strcmp(how, "quick");
    o.repair = how && !strcmp(how, "repair");
    MUST(ds_fsck_run(&o, &f, err));
    MUST(ds_fsck_rows(r, &f, err));
    json_t *doc = ds_fsck_json(&f, o.quick, o.repair);
    ds_fsck_release(&f, o.store);
    ck_assert(json_is_boolean(json_object_get(doc, "quick")) &&
              json_is_true(json_object_get(doc, "repair")) == o.repair);
    return doc;
}

/* The document has this one finding (cause NULL: none), and says so much damage. */
static void finds(const char *how, const char *thing, const char *cause, int damage) {
    json_t *doc = look(how), *list = json_object_get(doc, "findings"), *f = json_array_get(list, 0);
    char *text = json_dumps(doc, 0);
    ck_assert_msg(json_array_size(list) == (cause ? 1 : 0), "%s: %s", thing, text);
    if (cause) {
        ck_assert_msg(strstr(fx_string(f, "thing"), thing) && strstr(fx_string(f, "cause"), cause),
                      "%s, %s: %s", thing, cause, text);
        ck_assert_msg(json_is_true(json_object_get(f, "damage")) == damage, "%s", text);
    }
    ck_assert_msg(fx_int(doc, "damage") == damage, "%s", text);
    free(text);
    json_decref(doc);
}

static int64_t checked(const char *what) {
    json_t *doc = look(NULL);
    int64_t n = fx_int(json_object_get(doc, "checked"), what);
    json_decref(doc);
    return n;
}

/* ---- caches ---- */

typedef struct { /* as worker/images/prepare_cache.c writes it */
    char magic[8];
    uint64_t n, side, channels, meta_size, file_size;
    char key[64], rest[64], payload[64], header[64];
} images_header;

enum { PIXELS = 12, INTS = 8, META = 5, SIZE = 4096 + PIXELS + 2 * INTS + META };

/* Two pictures of 2 x 1 x 3; `seal`: the header's digest is right. */
static void images(unsigned char file[SIZE], void (*change)(images_header *x), int seal) {
    images_header x = {.magic = "DSIMG001", .n = 2, .side = 2, .channels = 3, .meta_size = META};
    char hex[DS_HEX_SIZE];
    x.file_size = SIZE;
    for (int i = 0; i < SIZE; i++)
        file[i] = (unsigned char)(i < 4096 ? 0 : i * 3);
    ds_sha256 *h = ds_sha256_new();
    ds_sha256_add(h, file + 4096 + PIXELS, INTS);
    ds_sha256_add(h, file + 4096, PIXELS);
    ds_sha256_hex(h, hex);
    ds_sha256_free(h);
    memcpy(x.payload, hex, 64);
    if (change)
        change(&x);
    ds_digest(&x, offsetof(images_header, header), hex);
    memcpy(x.header, hex, 64);
    x.header[3] ^= (char)!seal;
    memcpy(file, &x, sizeof x);
}

static void other_magic(images_header *x) { x->magic[7] = '2'; }
static void more_meta(images_header *x) { x->meta_size = SIZE; }
static void all_meta(images_header *x) { x->meta_size = SIZE - 2 * INTS; }
static void longer(images_header *x) { x->file_size++; }

START_TEST(caches_of_images) {
    unsigned char f[SIZE];
    static const char name[] = "cache/images-x.bin";
    images(f, NULL, 1);
    put(name, f, SIZE);
    finds(NULL, name, NULL, 0);
    ck_assert_int_eq(checked("caches"), 1);
    static const int places[] = {4096, 4096 + PIXELS - 1, 4096 + PIXELS, 4096 + PIXELS + INTS - 1};
    for (int i = 0; i < 4; i++) { /* a picture, a label */
        f[places[i]] ^= 1;
        put(name, f, SIZE);
        finds(NULL, name, "its pictures are damaged", 0);
        finds("quick", name, NULL, 0);
        f[places[i]] ^= 1;
    }
    put(name, f, SIZE - 1);
    finds(NULL, name, "another size than its header says", 0);
    finds("quick", name, "another size than its header says", 0);
    images(f, NULL, 0);
    put(name, f, SIZE);
    finds("quick", name, "its header is damaged", 0);
    images(f, longer, 1);
    put(name, f, SIZE);
    finds(NULL, name, "another size", 0);
    images(f, more_meta, 1);
    put(name, f, SIZE);
    finds(NULL, name, "another size", 0);
    images(f, all_meta, 1);
    put(name, f, SIZE);
    finds(NULL, name, "its pictures are damaged", 0); /* it fits, at least */
    images(f, other_magic, 0);
    put(name, f, SIZE);
    finds(NULL, name, NULL, 0); /* of another program, perhaps */
    put(name, f, 20);
    finds(NULL, name, NULL, 0);
    f[0] = 'X';
    put("cache/images-y.bin.old", f, 20); /* none of them by its name */
    put("cache/image-y.bin", f, 20);
    ck_assert_int_eq(checked("caches"), 1);
    images(f, NULL, 0);
    put(name, f, SIZE);
    finds("repair", name, "its header is damaged", 0);
    ck_assert(!ds_fs_exists(in_state(name)));
    finds(NULL, name, NULL, 0);
}
END_TEST

START_TEST(caches_of_features_and_hashes) {
    char *packed, file[100];
    unsigned char hash[32];
    char hex[DS_HEX_SIZE];
    size_t n;
    MUST(ds_zio_compress("numbers", 7, 3, &packed, &n, err));
    static const char *const features[] = {"cache/features-a.zst", "cache/base/features-b.zst"};
    for (int i = 0; i < 2; i++) {
        put(features[i], packed, n);
        finds(NULL, features[i], NULL, 0);
        packed[n - 1] ^= 1;
        put(features[i], packed, n);
        finds(NULL, features[i], "it is damaged", 0);
        finds("quick", features[i], NULL, 0);
        finds("repair", features[i], "it is damaged", 0);
        packed[n - 1] ^= 1;
    }
    free(packed);
    memcpy(file, "DSHASH01", 8);
    memset(file + 8, 'x', 12);
    ds_digest(file, 20, hex);
    for (int i = 0; i < 32; i++) {
        unsigned v;
        ck_assert_int_eq(sscanf(hex + 2 * i, "%2x", &v), 1);
        hash[i] = (unsigned char)v;
    }
    memcpy(file + 20, hash, 32);
    put("cache/hashes/1", file, 52);
    finds(NULL, "cache/hashes/1", NULL, 0);
    file[19] ^= 1;
    put("cache/hashes/1", file, 52);
    finds(NULL, "cache/hashes/1", "it is damaged", 0);
    finds("quick", "cache/hashes/1", NULL, 0);
    put("cache/hashes/1", file, 7);
    finds(NULL, "cache/hashes/1", "it is cut", 0);
    put("cache/hashes/1", "DSHASH02 and more than forty-eight bytes, of a later program.", 61);
    finds(NULL, "cache/hashes/1", NULL, 0);
    put("cache/hashes/1", "DSHASH01", 8); /* nothing in it yet */
    finds(NULL, "cache/hashes/1", NULL, 0);
    put("cache/hashes/1", "", 0);
    finds("repair", "cache/hashes/1", "it is cut", 0);
    ck_assert(!ds_fs_exists(in_state("cache/hashes/1")));
    finds(NULL, "cache/hashes/1", NULL, 0);
}
END_TEST

static void made(const char *name, int minutes_ago) {
    struct timespec t[2] = {{0, UTIME_OMIT}, {time(NULL) - 60 * minutes_ago, 0}};
    put(name, "x", 1);
    ck_assert_int_eq(utimensat(AT_FDCWD, in_state(name), t, 0), 0);
}

START_TEST(left_overs) {
    static const char *const names[] = {
        "cache/images-x.abcdef.tmp", "cache/base/f.abcdef.tmp", "bases/b.tmp",
        "feature_nets/n.tmp",        "backups/r.tmp",           "cache/hashes/1.abcdef.tmp"};
    ck_assert(mkdir(in_state("cache/folder.tmp"), 0700) == 0);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        made(names[i], 59); /* perhaps it is being written */
        finds("repair", names[i], NULL, 0);
        ck_assert(ds_fs_exists(in_state(names[i])));
        made(names[i], 61);
        finds(NULL, names[i], "left by a program that was killed", 0);
        finds("quick", names[i], "left by a program that was killed", 0);
        ck_assert(ds_fs_exists(in_state(names[i])));
        finds("repair", names[i], "left by a program that was killed", 0);
        ck_assert(!ds_fs_exists(in_state(names[i])));
    }
    made("cache/x.tmp.old", 99);
    made("cache/.tmp", 99); /* no name before it */
    finds(NULL, "", NULL, 0);
}
END_TEST

/* ---- models, folders, blobs ---- */

static int64_t add_base(const char *name, const char *path, const char *sha) {
    int64_t id = 0, net = 0;
    MUST(ds_feature_net_put(r, "net", in_state("feature_nets/n"), NET_SHA, &net, err));
    MUST(ds_base_put(r, name, path, sha, NULL, net, &id, err));
    return id;
}

START_TEST(models) {
    char sha[DS_HEX_SIZE], *packed, sql[400];
    size_t n;
    put("feature_nets/n", "net", 3);
    ds_digest("base", 4, sha);
    MUST(ds_zio_compress("base", 4, 3, &packed, &n, err));
    put("bases/b.zst", packed, n);
    add_base("plain", in_state("bases/b.zst"), sha); /* of what it unpacks to */
    finds(NULL, "feature network net", "another digest", 1);
    finds("quick", "", NULL, 0);
    ds_digest("net", 3, sha);
    snprintf(sql, sizeof sql,
             "DROP TRIGGER feature_nets_fixed; UPDATE feature_nets SET sha256 = '%s'", sha);
    ck_assert_int_eq(fx_foreign(r, sql), SQLITE_OK);
    finds(NULL, "", NULL, 0);
    ck_assert_int_eq(checked("models"), 2);
    packed[n / 2] ^= 4;
    put("bases/b.zst", packed, n);
    finds(NULL, "base plain", "b.zst", 1);
    packed[n / 2] ^= 4;
    put("bases/b.zst", packed, n);
    snprintf(sql, sizeof sql, "UPDATE bases SET vae_path = '%s', vae_sha256 = '%s'",
             in_state("bases/vae"), NET_SHA);
    ck_assert_int_eq(fx_foreign(r, sql), SQLITE_OK);
    finds("quick", "VAE of base plain", "its file is missing", 1);
    put("bases/vae", "vae", 3);
    finds(NULL, "VAE of base plain", "another digest", 1);
    ck_assert_int_eq(fx_foreign(r, "UPDATE bases SET removed_at = 5"), SQLITE_OK);
    finds(NULL, "", NULL, 0); /* what was removed need not be there */
    ck_assert_int_eq(checked("models"), 1);
    free(packed);
}
END_TEST

START_TEST(folders) {
    ck_assert(mkdir(in_state("jobs/.hidden"), 0700) == 0);
    finds(NULL, "", NULL, 0);
    ck_assert_int_eq(checked("folders"), 0);
    ck_assert(mkdir(in_state("jobs/abc"), 0700) == 0);
    finds("quick", "jobs/abc", "no job has such a folder", 0);
    ck_assert(rename(in_state("jobs/abc"), in_state("jobs/12")) == 0);
    finds(NULL, "jobs/12", "a folder of a job that this registry does not have", 0);
    ck_assert(rename(in_state("jobs/12"), in_state("jobs/1.foreign-2")) == 0);
    finds(NULL, "jobs/1.foreign-2", "a folder of another registry, moved aside", 0);
    ck_assert_int_eq(checked("folders"), 1);
    fx_add(r, "d", "/a");
    MUST(ds_reconcile(r, NULL, err));
    ck_assert(rename(in_state("jobs/1.foreign-2"), in_state("jobs/1")) == 0);
    finds(NULL, "", NULL, 0);
    /* many: a hundred are told, the rest is counted */
    char name[32];
    for (int i = 0; i < 105; i++) {
        snprintf(name, sizeof name, "jobs/%d", 1000 + i);
        ck_assert(mkdir(in_state(name), 0700) == 0);
    }
    json_t *doc = look(NULL);
    ck_assert_uint_eq(json_array_size(json_object_get(doc, "findings")), 100);
    ck_assert_int_eq(fx_int(doc, "more"), 5);
    ck_assert_int_eq(fx_int(doc, "damage"), 0);
    json_decref(doc);
}
END_TEST

static void blob_path(const char *sha, char out[PATH_MAX]) {
    MUST(ds_store_path(ds_registry_store(r), sha, out, err));
}

START_TEST(blobs_that_nobody_names) {
    ds_blob b;
    char want[100];
    MUST(ds_store_put_bytes(ds_registry_store(r), "lone", 4, &b, err));
    snprintf(want, sizeof want, "1 files of %lld bytes that no row names",
             (long long)b.stored_bytes);
    finds("quick", "blobs", want, 0);
    MUST(ds_blob_add(r, &b, "x", err));
    finds(NULL, "", NULL, 0);
    json_t *doc = look(NULL), *c = json_object_get(doc, "checked");
    ck_assert(fx_int(c, "blobs") == 1 && fx_int(c, "bytes") == b.stored_bytes);
    json_decref(doc);
    MUST(ds_store_put_bytes(ds_registry_store(r), "another one", 11, &b, err));
    snprintf(want, sizeof want, "1 files of %lld bytes that no row names",
             (long long)b.stored_bytes);
    finds("quick", "blobs", want, 0); /* of that one alone */
    char path[PATH_MAX];
    blob_path(b.sha256, path);
    ck_assert(unlink(path) == 0 && symlink("0b", in_state("blobs/sha256/0b")) == 0);
    finds("quick", "blobs", "/0b': Too many levels of symbolic links", 1); /* cannot be read */
}
END_TEST

/* A manifest is put anew from the folder of its scan, unpacked as it lies there; not from one that
 * is another, nor through a link. */
START_TEST(a_manifest_from_its_scan) {
    char path[PATH_MAX];
    ds_blob b;
    static const char line[] = "{\"path\":\"a\"}\n";
    put("feature_nets/n", "net", 3);
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    json_t *d = NULL;
    MUST(ds_dataset_get(r, "d", &d, err));
    snprintf(b.sha256, sizeof b.sha256, "%s",
             fx_string(json_object_get(d, "version"), "tree_digest"));
    json_decref(d);
    blob_path(b.sha256, path);
    char *text;
    size_t n;
    MUST(ds_zio_read_file(path, 1 << 20, &text, &n, err));
    ck_assert_int_eq(unlink(path), 0);
    finds(NULL, "of dataset d v1", "its file is missing", 1);
    ck_assert(mkdir(in_state("jobs/1"), 0700) == 0);
    put("jobs/1/manifest.ndjson", line, sizeof line - 1);
    finds("repair", "of dataset d v1", "its file is missing", 1);
    put("jobs/1/kept", text, n);
    ck_assert(unlink(in_state("jobs/1/manifest.ndjson")) == 0 &&
              symlink("kept", in_state("jobs/1/manifest.ndjson")) == 0);
    finds("repair", "of dataset d v1", "its file is missing", 1);
    ck_assert(unlink(in_state("jobs/1/manifest.ndjson")) == 0);
    put("jobs/1/manifest.ndjson", text, n);
    json_t *doc = look("repair"), *f = json_array_get(json_object_get(doc, "findings"), 0);
    ck_assert(strstr(fx_string(f, "repaired"), "jobs/1/manifest.ndjson"));
    ck_assert_int_eq(fx_int(doc, "damage"), 0);
    json_decref(doc);
    finds(NULL, "", NULL, 0);
    /* cut, and its copy gone: moved away, and said so; the second one beside the first */
    unlink(in_state("jobs/1/manifest.ndjson"));
    for (int i = 0; i < 2; i++) {
        char moved[100];
        MUST(ds_fs_write(path, "bad", 3, err));
        snprintf(moved, sizeof moved, "quarantine/%s.%d.zst", b.sha256, i);
        finds("repair", "of dataset d v1", moved, 1);
        ck_assert(ds_fs_exists(in_state(moved)) && !ds_fs_exists(path));
    }
    free(text);
}
END_TEST

/* ---- the registry itself ---- */

static void empty_state(const char *name, const void *data, size_t n) {
    snprintf(state, sizeof state, "%s", fx_dir(name));
    MUST(ds_fs_mkdirs(state, err));
    if (data)
        put("registry.db", data, n);
}

START_TEST(registries) {
    ds_fsck_options o = {.state = state, .store = ds_registry_store(r)};
    ds_fsck_result f;
    char *sql;
    size_t n;
    sqlite3 *db;
    empty_state("none", NULL, 0);
    FAILS(DS_ENOTFOUND, "has no registry.db", ds_fsck_run(&o, &f, err));
    ds_fsck_release(&f, o.store);
    empty_state("folder", NULL, 0);
    MUST(ds_fs_mkdirs(in_state("registry.db"), err));
    FAILS(DS_EIO, "cannot open '", ds_fsck_run(&o, &f, err));
    ds_fsck_release(&f, o.store);
    empty_state("empty", "", 0);
    finds(NULL, "registry.db", "it has no tables yet", 0);
    empty_state("garbage", "this is no registry at all, whatever its name says ..............", 65);
    MUST(ds_fs_mkdirs(in_state("cache"), err));
    made("cache/x.tmp", 99); /* caches are looked at all the same */
    json_t *doc = look(NULL);
    ck_assert_int_eq(fx_int(doc, "damage"), 1);
    ck_assert_uint_eq(json_array_size(json_object_get(doc, "findings")), 2);
    json_decref(doc);
    empty_state("newer", NULL, 0);
    ck_assert_int_eq(sqlite3_open(in_state("registry.db"), &db), SQLITE_OK);
    ck_assert_int_eq(sqlite3_exec(db,
                                  "CREATE TABLE migrations (version INTEGER, sha256 TEXT);"
                                  "PRAGMA user_version = 99; PRAGMA application_id = "
                                  "1146307410",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
    sqlite3_close(db);
    FAILS(DS_ENEWER, "", ds_fsck_run(&o, &f, err));
    ds_fsck_release(&f, o.store);
    if (ds_fs_read("tests/golden/registry-v1.sql", 1 << 20, &sql, &n, NULL)) {
        ds_test_skip("registries", "not run from the repository's root");
        return;
    }
    empty_state("older", NULL, 0);
    ck_assert_int_eq(sqlite3_open(in_state("registry.db"), &db), SQLITE_OK);
    ck_assert_int_eq(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    free(sql);
    finds(NULL, "registry.db", "it is of an earlier program", 0);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, caches_of_images);
    tcase_add_test(tc, caches_of_features_and_hashes);
    tcase_add_test(tc, left_overs);
    tcase_add_test(tc, models);
    tcase_add_test(tc, folders);
    tcase_add_test(tc, blobs_that_nobody_names);
    tcase_add_test(tc, a_manifest_from_its_scan);
    tcase_add_test(tc, registries);
}

int main(void) {
    fx_fast_tmp();
    return ds_test_main("daemon_fsck_files", cases);
}
