/* tests/daemon/test_daemon_effects.c - options of a dataset and what becomes of them: each reaches the
 * worker's spec, what is not given has its default, a folder that is not watched is not looked at,
 * and gc leaves models alone while one is being imported. */
#include "tests/fixtures/daemon_rig.h"

#include <sys/time.h>
#include <time.h>

static rig r;
static char photos[400];

static void setup(void) {
    static int n;
    char name[32];
    snprintf(name, sizeof name, "eff%d-%d", (int)getpid(), n++);
    rig_open(&r, name);
    rig_images(&r, "digits", 20, photos);
    rig_start(&r, NULL);
}

static void teardown(void) {
    if (r.pid)
        ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
}

/* spec.json of the training of `name`, whose worker hangs. */
static json_t *spec_of(const char *name) {
    char path[500];
    json_t *spec = NULL;
    int64_t id = rig_wait_job(&r, "train", name, "|running|", 10000);
    snprintf(path, sizeof path, "%s/jobs/%lld/spec.json", r.state, (long long)id);
    for (int i = 0; i < 500 && ds_json_read_file(path, 1 << 20, &spec, NULL); i++)
        usleep(10000); /* claimed first, written then */
    ck_assert_ptr_nonnull(spec);
    snprintf(path, sizeof path, "/v1/jobs/%lld/cancel", (long long)id);
    json_decref(rig_want(&r, 202, "POST", path, NULL));
    return spec;
}

/* option; section and name in spec.json; what a set of 20 images in 1 class has; another value */
static const struct {
    const char *option, *section, *key, *otherwise, *given;
} options[] = {
    {"rank", "method", "rank", "8", "3"},
    {"side", "method", "side", "\"out\"", "\"in\""},
    {"phi", "method", "phi", "\"identity\"", "\"relu\""},
    {"freeze_v", "method", "freeze_v", "false", "true"},
    {"targets", "method", "targets",
     "[\"q\", \"k\", \"v\", \"proj\", \"fc1\", \"fc2\", \"adaln\", \"final\"]", "[\"fc2\"]"},
    {"steps", "train", "steps", "900", "77"},
    {"batch", "train", "batch", "64", "6"},
    {"micro_batch", "train", "micro_batch", "64", "3"},
    {"lr", "train", "lr", "0.006", "0.25"},
    {"warmup", "train", "warmup", "50", "4"},
    {"clip", "train", "clip", "1.0", "0.125"},
    {"weight_decay", "train", "weight_decay", "0.0", "0.5"},
    {"ema", "train", "ema", "0.99", "0.75"},
    {"label_dropout", "train", "label_dropout", "0.0", "0.25"},
    {"flip", "train", "flip", "false", "true"},
    {"seed", "train", "seed", "1", "5"},
    {"vb_weight", "train", "vb_weight", "1.0", "0.5"},
    {"focus", "train", "focus", "0.8", "0.5"},
    {"focus_mean", "train", "focus_mean", "-0.6", "0.5"},
    {"trained_guidance", "train", "trained_guidance", "0.0", "1.75"},
    {"trained_guidance_low", "train", "trained_guidance_low", "0.0", "0.25"},
    {"cosine", "train", "cosine", "true", "false"},
    {"checkpoint_every", "train", "checkpoint_every", "100", "7"},
    {"heldout_every", "train", "heldout_every", "100", "9"},
    {"heldout", "train", "heldout", "2", "1"},
    {"sampler", "sample", "sampler", "\"dpmpp2m\"", "\"ddim\""},
    {"sample_steps", "sample", "steps", "20", "11"},
    {"guidance", "sample", "guidance", "1.5", "2.5"},
    {"guidance_mode", "sample", "guidance_mode", "\"domain\"", "\"cfg\""},
    {"guidance_low", "sample", "guidance_low", "0.0", "0.75"},
    {"n", "evaluate", "n", "512", "64"},
    {"eval_seed", "evaluate", "seed", "7", "8"},
    {"kid_subsets", "evaluate", "kid_subsets", "100", "12"},
    {"kid_subset_size", "evaluate", "kid_subset_size", "20", "10"},
    {"neighbours", "evaluate", "neighbours", "5", "3"},
    {"probe_n", "probe", "n", "4", "2"},
    {"probe_seed", "probe", "seed", "11", "12"},
    {"verify", "gate", "verify", "\"auto\"", "\"full\""},
    {"fd_tolerance", "gate", "fd_tolerance", "0.02", "0.125"},
    {"kid_tolerance_sigmas", "gate", "kid_tolerance_sigmas", "3.0", "4.0"},
    {"class_margin", "gate", "class_margin", "0.05", "0.25"},
    {"class_sigmas", "gate", "class_sigmas", "3.5", "5.0"},
    {"device", "device", "kind", "\"auto\"", "\"cpu\""},
    {"precision", "device", "precision", "\"bf16\"", "\"f32\""},
    {"threads", "device", "threads", "0", "2"},
};
enum { OPTIONS = sizeof options / sizeof *options };

/* Every value of the spec equals `given` or the default. */
static void expect_values(const json_t *spec, int given) {
    for (int i = 0; i < OPTIONS; i++) {
        const char *text = given ? options[i].given : options[i].otherwise;
        json_t *want = json_loads(text, JSON_DECODE_ANY, NULL),
               *is = json_object_get(json_object_get(spec, options[i].section), options[i].key);
        ck_assert_ptr_nonnull(want);
        char *said = is ? json_dumps(is, JSON_ENCODE_ANY) : NULL;
        int same = json_equal(want, is) || (json_is_number(is) && json_is_number(want) &&
                                            json_number_value(is) == json_number_value(want));
        ck_assert_msg(same, "%s.%s is %s, must be %s", options[i].section, options[i].key,
                      said ? said : "absent", text);
        free(said);
        json_decref(want);
    }
}

START_TEST(options_reach_the_worker) {
    ds_buf b = {0};
    rig_fake(&r, "train", "hang");
    rig_add(&r, "digits", photos, 201);
    json_t *spec = spec_of("digits");
    expect_values(spec, 0);
    json_decref(spec);
    ds_buf_addf(&b, "{\"path\":\"%s\",\"name\":\"all\",\"options\":{", photos);
    for (int i = 0; i < OPTIONS; i++)
        ds_buf_addf(&b, "%s\"%s\":%s", i ? "," : "", options[i].option, options[i].given);
    ds_buf_addf(&b, "}}");
    json_decref(rig_want(&r, 201, "POST", "/v1/datasets", b.data));
    spec = spec_of("all");
    expect_values(spec, 1);
    json_decref(spec);
    ds_buf_release(&b);
}
END_TEST

/* The two that need the cosine, which is off above. */
START_TEST(options_that_end_it_reach_the_worker) {
    char body[700];
    rig_fake(&r, "train", "hang");
    for (int given = 0; given < 2; given++) {
        snprintf(body, sizeof body, "{\"path\":\"%s\",\"name\":\"e%d\",\"options\":{%s}}", photos,
                 given, given ? "\"patience\":3,\"max_time\":90" : "");
        json_decref(rig_want(&r, 201, "POST", "/v1/datasets", body));
        snprintf(body, sizeof body, "e%d", given);
        json_t *spec = spec_of(body), *train = json_object_get(spec, "train");
        ck_assert_int_eq(ds_json_int(train, "patience", -1), given ? 3 : 0);
        ck_assert(json_is_real(json_object_get(train, "max_time")) || !given);
        ck_assert(ds_json_number(train, "max_time", -1) == (given ? 90 : 0));
        json_decref(spec);
    }
    snprintf(body, sizeof body,
             "{\"path\":\"%s\",\"name\":\"no\",\"options\":{\"patience\":3,\"cosine\":false}}",
             photos);
    json_t *doc = rig_want(&r, 400, "POST", "/v1/datasets", body);
    json_decref(doc);
}
END_TEST

/* What follows from other options and from the images. */
START_TEST(defaults_follow_from_the_data) {
    static const struct {
        const char *options, *key;
        double want;
    } cases[] = {
        {"{\"steps\":300}", "warmup", 30},   {"{\"steps\":5}", "warmup", 0},
        {"{\"steps\":9000}", "warmup", 50},  {"{\"batch\":8}", "micro_batch", 8},
        {"{\"n\":6}", "kid_subset_size", 6},
    };
    char body[700], name[16];
    rig_fake(&r, "train", "hang");
    for (int i = 0; i < 5; i++) {
        snprintf(name, sizeof name, "f%d", i);
        snprintf(body, sizeof body, "{\"path\":\"%s\",\"name\":\"%s\",\"options\":%s}", photos,
                 name, cases[i].options);
        json_decref(rig_want(&r, 201, "POST", "/v1/datasets", body));
        json_t *spec = spec_of(name);
        double is =
            ds_json_number(json_object_get(spec, i < 4 ? "train" : "evaluate"), cases[i].key, -1);
        ck_assert_msg(is == cases[i].want, "%s: %s is %g", cases[i].options, cases[i].key, is);
        json_decref(spec);
    }
}
END_TEST

static void one_more(const char *dir, const char *name) {
    char path[500];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    rig_write(path, "\x89PNG one more");
}

static int64_t version_of(const char *name) {
    char path[80];
    snprintf(path, sizeof path, "/v1/datasets/%s", name);
    json_t *d = rig_want(&r, 200, "GET", path, NULL);
    int64_t v = ds_json_int(json_object_get(d, "version"), "version", 0);
    json_decref(d);
    return v;
}

/* Both folders change; only the watched one is looked at, the other one when it is asked for. */
START_TEST(a_folder_is_watched_or_not) {
    char other[400], body[600];
    rig_images(&r, "still", 3, other);
    snprintf(body, sizeof body, "{\"path\":\"%s\",\"watch\":false}", other);
    json_decref(rig_want(&r, 201, "POST", "/v1/datasets", body));
    rig_add(&r, "digits", photos, 201);
    rig_wait_adapter(&r, "still", 1, 10000);
    rig_wait_adapter(&r, "digits", 1, 10000);
    one_more(other, "x.png");
    one_more(photos, "x.png");
    rig_wait_adapter(&r, "digits", 2, 10000);
    usleep(600000); /* twice as long as a folder takes to settle here */
    ck_assert_int_eq(version_of("digits"), 2);
    ck_assert_int_eq(version_of("still"), 1);
    json_decref(rig_want(&r, 202, "POST", "/v1/datasets/still/rescan", NULL));
    rig_wait_adapter(&r, "still", 2, 10000);
    /* watched from now on */
    snprintf(body, sizeof body, "{\"path\":\"%s\",\"watch\":true}", other);
    json_decref(rig_want(&r, 200, "POST", "/v1/datasets", body));
    usleep(600000);
    one_more(other, "y.png");
    rig_wait_adapter(&r, "still", 3, 10000);
}
END_TEST

/* A file that an import has written has no row yet. */
START_TEST(gc_waits_for_imports) {
    char orphan[400], body[600];
    struct timeval old[2] = {{.tv_sec = time(NULL) - 90000}, {.tv_sec = time(NULL) - 90000}};
    snprintf(orphan, sizeof orphan, "%s/bases/orphan.safetensors", r.state);
    rig_write(orphan, "x");
    ck_assert_int_eq(utimes(orphan, old), 0);
    rig_fake(&r, "import", "hang");
    snprintf(body, sizeof body, "{\"source\":\"%s/emoji.safetensors\",\"name\":\"new\"}", r.dir);
    json_t *job = rig_want(&r, 202, "POST", "/v1/bases", body);
    long long id = ds_json_int(job, "id", 0);
    json_decref(job);
    json_t *doc = rig_want(&r, 200, "POST", "/v1/gc", NULL);
    ck_assert(json_is_true(json_object_get(doc, "importing")));
    ck_assert_int_eq(ds_json_int(json_object_get(doc, "models"), "removed", -1), 0);
    ck_assert(ds_fs_exists(orphan));
    json_decref(doc);
    rig_wait_job(&r, "import", NULL, "|running|", 10000);
    doc = rig_want(&r, 200, "POST", "/v1/gc", NULL);
    ck_assert(ds_fs_exists(orphan));
    json_decref(doc);
    snprintf(body, sizeof body, "/v1/jobs/%lld/cancel", id);
    json_decref(rig_want(&r, 202, "POST", body, NULL));
    rig_wait_job(&r, "import", NULL, "|cancelled|", 10000);
    doc = rig_want(&r, 200, "POST", "/v1/gc", NULL);
    ck_assert(json_is_false(json_object_get(doc, "importing")));
    ck_assert_int_eq(ds_json_int(json_object_get(doc, "models"), "removed", -1), 1);
    ck_assert(!ds_fs_exists(orphan));
    json_decref(doc);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, options_reach_the_worker);
    tcase_add_test(tc, options_that_end_it_reach_the_worker);
    tcase_add_test(tc, defaults_follow_from_the_data);
    tcase_add_test(tc, a_folder_is_watched_or_not);
    tcase_add_test(tc, gc_waits_for_imports);
}

int main(int argc, char **argv) {
    rig_main(argc, argv);
    return ds_test_main("daemon_effects", cases);
}
