/* tests/daemon/test_daemon_caches.c - which files of the caches are of use, and what the files of models say of
 * themselves: each file with one thing wrong, and its neighbour that is right. */
#include "base/zio.h"
#include "daemon/care/gc.h"
#include "daemon/core/models.h"
#include "registry/rows/feature_nets.h"
#include "tests/fixtures/registry_fixture.h"

#include <fcntl.h>
#include <sys/stat.h>

#define MANIFEST "1111111111111111111111111111111111111111111111111111111111111111"
#define OTHER "2222222222222222222222222222222222222222222222222222222222222222"
#define IMAGES "3333333333333333333333333333333333333333333333333333333333333333"
#define IMAGES2 "4444444444444444444444444444444444444444444444444444444444444444"
#define BASE "5555555555555555555555555555555555555555555555555555555555555555"
#define VAE "6666666666666666666666666666666666666666666666666666666666666666"

static char state[PATH_MAX];
static ds_daemon d;

/* An old file STATE/name. */
static void put(const char *name, const void *data, size_t n, int days) {
    char path[PATH_MAX];
    ds_fs_join(path, sizeof path, state, name);
    MUST(ds_fs_write(path, data, n, err));
    time_t when = time(NULL) - (time_t)days * 86400 - (days ? 3600 : 0);
    ck_assert_int_eq(utimensat(AT_FDCWD, path, (struct timespec[2]){{when, 0}, {when, 0}}, 0), 0);
}

typedef struct { /* as worker/images/prepare_cache.c writes it */
    char magic[8];
    uint64_t n, side, channels, meta_size, file_size;
    char key[64], rest[64], payload[64], header[64];
} images_header;

/* An image cache of this manifest; `wrong`: one thing of its header. */
enum wrong { RIGHT, MAGIC, SIZE, EMPTY_META, LARGE_META, SHORT };
static void put_images(const char *name, const char *meta, const char *payload, enum wrong wrong) {
    char file[1000] = "";
    images_header h = {.meta_size = strlen(meta), .file_size = sizeof h + strlen(meta)};
    memcpy(h.magic, wrong == MAGIC ? "DSIMG002" : "DSIMG001", 8);
    memcpy(h.payload, payload, 64);
    if (wrong == EMPTY_META)
        h.meta_size = 1;
    if (wrong == LARGE_META)
        h.meta_size = h.file_size;
    memcpy(file, &h, sizeof h);
    memcpy(file + sizeof h, meta, strlen(meta));
    size_t n = sizeof h + strlen(meta) + (wrong == SIZE); /* one byte more than it says */
    put(name, file, wrong == SHORT ? sizeof h - 1 : n, 40);
}

/* A feature cache whose metadata has this key. */
static void put_features(const char *name, const char *key, int days) {
    char header[400], *packed;
    size_t n;
    ds_buf b = {0};
    snprintf(header, sizeof header, "{\"__metadata__\":{\"key\":\"%s\"}}", key);
    uint64_t size = strlen(header);
    ds_buf_add(&b, &size, 8);
    ds_buf_add(&b, header, size);
    MUST(ds_zio_compress(b.data, b.len, 3, &packed, &n, err));
    put(name, packed, n, days);
    free(packed);
    ds_buf_release(&b);
}

static void put_latents(const char *name, const char *magic, const char *vae, size_t n) {
    char head[144] = "";
    memcpy(head, magic, 8);
    memcpy(head + 80, vae, 64);
    put(name, head, n, 40);
}

/* Files and whether they stay. */
static const struct {
    const char *name;
    int stays;
} caches[] = {{"cache/images-known.bin", 1},
              {"cache/images-unknown.bin", 0},
              {"cache/images-unnamed.bin", 1},
              {"cache/images-magic.bin", 1},
              {"cache/images-size.bin", 1},
              {"cache/images-empty.bin", 1},
              {"cache/images-large.bin", 1},
              {"cache/images-short.bin", 1},
              {"cache/images-text.bin", 1},
              {"cache/images-young.bin", 1},
              {"cache/images-unknown.bin.old", 1},
              {"cache/my-images-unknown.bin", 1},
              {"cache/images-link.bin", 1},
              {"cache/latents-known.bin", 1},
              {"cache/latents-unknown.bin", 0},
              {"cache/latents-magic.bin", 1},
              {"cache/latents-short.bin", 1},
              {"cache/latents-nobody.bin", 1},
              {"cache/features-both.zst", 1},
              {"cache/features-unnamed.zst", 1},
              {"cache/features-images.zst", 0},
              {"cache/features-base.zst", 0},
              {"cache/features-shorter.zst", 1},
              {"cache/features-task.zst", 1},
              {"cache/features-oldtask.zst", 0},
              {"cache/features-old.zst", 1},
              {"cache/features-text.zst", 1},
              {"cache/base/features-base.zst", 0},
              {"cache/base/features-both.zst", 1},
              {"cache/hashes/7", 1},
              {"cache/hashes/8", 0},
              {"cache/hashes/8.tmp", 1},
              {"cache/hashes/9", 1}};

static void put_caches(void) {
    static const char known[] = "{\"manifest\":\"" MANIFEST "\"}",
                      unknown[] = "{\"manifest\":\"" OTHER "\"}";
    put_images("cache/images-known.bin", known, IMAGES, RIGHT);
    put_images("cache/images-unknown.bin", unknown, IMAGES2, RIGHT);
    put_images("cache/images-unnamed.bin", "{\"manifest\":7}", VAE, RIGHT);
    put_images("cache/images-magic.bin", unknown, IMAGES2, MAGIC);
    put_images("cache/images-size.bin", unknown, IMAGES2, SIZE);
    put_images("cache/images-empty.bin", unknown, IMAGES2, EMPTY_META);
    put_images("cache/images-large.bin", unknown, IMAGES2, LARGE_META);
    put_images("cache/images-short.bin", unknown, IMAGES2, SHORT);
    put_images("cache/images-text.bin", "{\"manifest\":\"" OTHER "\"", IMAGES2, RIGHT);
    put_images("cache/images-young.bin", unknown, IMAGES2, RIGHT);
    put_images("cache/images-unknown.bin.old", unknown, IMAGES2, RIGHT);
    put_images("cache/my-images-unknown.bin", unknown, IMAGES2, RIGHT);
    char link[PATH_MAX];
    ds_fs_join(link, sizeof link, state, "cache/images-link.bin");
    unlink(link);
    ck_assert_int_eq(symlink("images-unknown.bin", link), 0);
    ds_fs_join(link, sizeof link, state, "cache/hashes/9");
    unlink(link);
    ck_assert_int_eq(symlink("8", link), 0);
    put_latents("cache/latents-known.bin", "DSLAT001", VAE, 144);
    put_latents("cache/latents-unknown.bin", "DSLAT001", OTHER, 144);
    put_latents("cache/latents-magic.bin", "DSLAT002", OTHER, 144);
    put_latents("cache/latents-short.bin", "DSLAT001", OTHER, 143);
    put_latents("cache/latents-nobody.bin", "DSLAT001",
                "none of a digest, but of the length of one: 64 bytes, 64 bytes..", 144);
    put_features("cache/features-both.zst", "a/1 images=" IMAGES " base=" BASE " n=3", 40);
    put_features("cache/features-unnamed.zst", "images=" VAE, 40);
    put_features("cache/features-images.zst", "images=" IMAGES2 " base=" BASE, 40);
    put_features("cache/features-base.zst", "images=" IMAGES " base=" OTHER, 40);
    put_features("cache/features-shorter.zst", "images=22222222222 base=2222", 40);
    put_features("cache/features-task.zst", "task/1 base=" BASE, 29);
    put_features("cache/features-oldtask.zst", "task/1 base=" BASE, 30);
    put_features("cache/features-old.zst", "tasks/1 base=" BASE, 300);
    put("cache/features-text.zst", "no frame", 8, 300);
    put_features("cache/base/features-base.zst", "base=" OTHER, 40);
    put_features("cache/base/features-both.zst", "images=" IMAGES " base=" BASE, 40);
    put("cache/hashes/7", "x", 1, 40);
    put("cache/hashes/8", "x", 1, 40);
    put("cache/hashes/8.tmp", "x", 1, 40);
    char young[PATH_MAX];
    ds_fs_join(young, sizeof young, state, "cache/images-young.bin");
    ck_assert_int_eq(utimensat(AT_FDCWD, young, NULL, 0), 0);
}

static void setup(void) {
    static const char *const folders[] = {"cache/base", "cache/hashes"};
    snprintf(state, sizeof state, "%s", fx_dir("state"));
    d = (ds_daemon){0};
    memcpy(d.o.state, state, sizeof state);
    for (int i = 0; i < 2; i++) {
        char path[PATH_MAX];
        ds_fs_join(path, sizeof path, state, folders[i]);
        MUST(ds_fs_mkdirs(path, err));
    }
}

START_TEST(what_caches_are_of_use) {
    json_t *facts = json_pack("{s:{s:b}, s:{s:b}, s:{s:b}, s:{s:b}}", "manifests", MANIFEST, 1,
                              "bases", BASE, 1, "vaes", VAE, 1, "datasets", "7", 1);
    put_caches();
    int64_t bytes = 0, files = 0;
    struct stat st;
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof caches / sizeof *caches; i++) {
        ds_fs_join(path, sizeof path, state, caches[i].name);
        ck_assert_msg(!lstat(path, &st), "%s", path);
        if (!caches[i].stays)
            files++, bytes += st.st_size;
    }
    for (int dry = 1; dry >= 0; dry--) {
        ds_gc_part part = {0};
        ds_gc_caches(&d, facts, 60000, dry, &part);
        ck_assert_int_eq(part.files, files);
        ck_assert_int_eq(part.bytes, bytes);
        ck_assert_int_eq(part.young, 1);
        for (size_t i = 0; i < sizeof caches / sizeof *caches; i++) {
            ds_fs_join(path, sizeof path, state, caches[i].name);
            ck_assert_msg(!lstat(path, &st) == (dry || caches[i].stays), "%s", caches[i].name);
        }
    }
    ds_gc_part part = {0}; /* without grace; and there is nothing else to take */
    ds_gc_caches(&d, facts, 0, 0, &part);
    ck_assert(part.files == 1 && part.young == 0);
    MUST(ds_fs_remove(state, err)); /* nor does a state without caches matter */
    ds_gc_caches(&d, facts, 0, 0, &part);
    ck_assert(part.files == 0 && part.bytes == 0 && part.young == 0);
    json_decref(facts);
}
END_TEST

/* ---- models ---- */

static const char *put_model(const char *name, const char *header, int64_t length) {
    static char path[2][PATH_MAX];
    static int turn;
    char *out = path[turn++ % 2];
    ds_buf b = {0};
    uint64_t n = length < 0 ? strlen(header) : (uint64_t)length;
    ds_fs_join(out, PATH_MAX, state, name);
    ds_buf_add(&b, &n, 8);
    ds_buf_add(&b, header, strlen(header));
    MUST(ds_fs_write(out, b.data, b.len, err));
    ds_buf_release(&b);
    return out;
}

static void open_registry(void) { MUST(ds_registry_open(state, &d.registry, err)); }

/* What the head of the file says is told; one that is none says nothing. */
START_TEST(what_a_model_says) {
    static const char good[] =
        "{\"__metadata__\":{\"diffscaler.license\":\"mit\",\"diffscaler.kind\":\"trunk\","
        "\"diffscaler.config\":\"{\\\"width\\\":8}\"},\"a\":{\"shape\":[3,4]},\"b\":{\"shape\":[5]}"
        ","
        "\"c\":{\"shape\":[]}}";
    static const struct {
        const char *name, *is, *header;
        int64_t length, parameters;
        int says;
    } models[] = {
        {"one.safetensors", "one", good, -1, 18, 1},
        {"two.v2.safetensors", "two.v2", good, 5000, 0, 0},
        {"three", "three", good, 1, 0, 0},
        {"four.safetensors", "four", "{\"a\":{\"shape\":[3,4]}", -1, 0, 0},
        {"five.safetensors", "five", "{\"a\":{\"shape\":[1000000000,1000000000]}}", -1, 0, 0},
        {"six.safetensors", "six", "", -1, 0, 0},
        {"seven.safetensors", "seven", good, 1 << 25, 0, 0},
        {"eight.safetensors", "eight", good, INT64_C(1) << 60, 0, 0}};
    open_registry();
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        json_t *o = NULL;
        const char *path = put_model(models[i].name, models[i].header, models[i].length);
        d.o.base_given = 1;
        snprintf(d.o.base, sizeof d.o.base, "%s", path);
        char net[64];
        snprintf(net, sizeof net, "net-%zu", i);
        path = put_model(net, models[i].header, models[i].length);
        snprintf(d.o.feature_net, sizeof d.o.feature_net, "%s", path);
        MUST(ds_models_register(&d, err));
        MUST(ds_base_get(d.registry, 0, &o, err)); /* it is the default now */
        ck_assert_str_eq(fx_string(o, "name"), models[i].is);
        ck_assert_str_eq(fx_string(o, "path"), d.o.base);
        ck_assert_int_eq(fx_int(o, "parameters"), models[i].parameters);
        ck_assert(fx_int(o, "bytes") == 8 + (int64_t)strlen(models[i].header));
        const char *license = fx_string(o, "license");
        ck_assert_msg(models[i].says ? license && !strcmp(license, "mit") : !license, "%s",
                      models[i].name);
        ck_assert_int_eq(fx_int(json_object_get(o, "config"), "width"), models[i].says ? 8 : 0);
        ck_assert_str_eq(fx_string(json_object_get(o, "feature_net"), "name"), net);
        json_decref(o);
        MUST(ds_feature_net_get(d.registry, net, &o, err));
        ck_assert_int_eq(fx_int(o, "parameters"), models[i].parameters);
        const char *kind = fx_string(o, "kind");
        ck_assert_msg(models[i].says ? kind && !strcmp(kind, "trunk") : !kind || !*kind, "%s",
                      kind);
        json_decref(o);
    }
    ds_registry_close(d.registry);
}
END_TEST

/* Without --base the default stays that of the state as long as its file is there. */
START_TEST(which_base_is_the_default) {
    json_t *o = NULL;
    open_registry();
    MUST(ds_models_register(&d, err)); /* none found: it waits for one */
    ck_assert_int_eq(ds_base_get(d.registry, 0, &o, NULL), DS_ENOTFOUND);
    char old[PATH_MAX], new[PATH_MAX], older[PATH_MAX];
    snprintf(old, sizeof old, "%s", put_model("old.safetensors", "{}", -1));
    snprintf(new, sizeof new, "%s", put_model("new.safetensors", "{ }", -1));
    snprintf(older, sizeof older, "%s", put_model("older.safetensors", "{  }", -1));
    static const struct {
        int base, given, gone; /* of the base: 0 old, 1 new; the old one's file is not there */
        const char *is;
    } starts[] = {
        {0, 0, 0, "old"}, {1, 0, 0, "old"}, {1, 1, 0, "new"}, {0, 1, 0, "old"}, {1, 0, 1, "new"}};
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        snprintf(d.o.base, sizeof d.o.base, "%s", starts[i].base ? new : old);
        snprintf(d.o.older_base, sizeof d.o.older_base, "%s", older);
        d.o.base_given = starts[i].given;
        if (starts[i].gone)
            ck_assert_int_eq(unlink(old), 0);
        MUST(ds_models_register(&d, err));
        MUST(ds_base_get(d.registry, 0, &o, err));
        ck_assert_msg(!strcmp(fx_string(o, "name"), starts[i].is), "%zu: %s", i,
                      fx_string(o, "name"));
        json_decref(o);
    }
    MUST(ds_base_list(d.registry, (ds_page){0}, &o, err)); /* nobody knew the older one */
    ck_assert_uint_eq(json_array_size(json_object_get(o, "items")), 2);
    json_decref(o);
    ds_fs_join(d.o.base, sizeof d.o.base, state, "none");
    FAILS(DS_ENOTFOUND, "/none': No such file", ds_models_register(&d, err));
    snprintf(d.o.base, sizeof d.o.base, "%s", put_model("bad.zst", "{}", -1));
    FAILS(DS_EINTEGRITY, "cannot use model '", ds_models_register(&d, err));
    MUST(ds_base_get(d.registry, 0, &o, err));
    ck_assert_str_eq(fx_string(o, "name"), "new");
    json_decref(o);
    ds_registry_close(d.registry);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_test(tc, what_caches_are_of_use);
    tcase_add_test(tc, what_a_model_says);
    tcase_add_test(tc, which_base_is_the_default);
}

int main(void) {
    fx_fast_tmp();
    return ds_test_main("daemon_caches", cases);
}
