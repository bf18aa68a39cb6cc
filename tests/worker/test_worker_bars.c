/* tests/worker/test_worker_bars.c - a new version against its bars: the rule, and real jobs. */
#include "tests/fixtures/open_fails.h"
#include "tests/fixtures/worker_fixture.h"

#include "engine/model/adapter.h"
#include "worker/kinds/bars.h"

#include <math.h>

enum { SAMPLES = DS_BAR_PICTURES_MIN };

static char *first; /* directory of the finished job that made blobs@v1 */

/* ---------------------------------------------------------------- the rule */

START_TEST(rule_of_a_bar) {
    static const ds_spec_gate rule = {.worse_margin = 0.1, .worse_sigmas = 3.5};
    static const struct {
        double bar, now, error;
        enum ds_bar_verdict verdict;
    } cases[] = {
        {10, 10, 0, DS_BAR_PASSED},        /* the same */
        {10, 5, 0, DS_BAR_PASSED},         /* better */
        {10, 10.99, 0, DS_BAR_PASSED},     /* certain, within the margin */
        {10, 11.5, 1, DS_BAR_PASSED},      /* beyond the margin, may be noise */
        {10, 11.01, 0.28, DS_BAR_REFUSED}, /* both, by a hair: z 3.6 */
        {10, 11.01, 0.29, DS_BAR_PASSED},  /* z 3.48 */
        {10, 13.5, 1, DS_BAR_REFUSED},     /* z 3.5 exactly */
        {10, 12, 0, DS_BAR_REFUSED},       /* no error at all */
        {0, 0, 0, DS_BAR_PASSED},          /* nothing to be above of */
        {0, 1, 0.1, DS_BAR_REFUSED},       /* anything is worse than 0 */
        {10, NAN, 1, DS_BAR_REFUSED},      /* a new one that cannot be told is no good one */
        {10, INFINITY, 1, DS_BAR_REFUSED}, /* */
        {NAN, 10, 1, DS_BAR_NONE},         /* no bar */
        {INFINITY, 10, 1, DS_BAR_NONE},    /* */
        {10, 12, NAN, DS_BAR_NONE},        /* no interval */
        {10, 12, INFINITY, DS_BAR_PASSED}, /* one that says nothing */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        ck_assert_msg(ds_bar_judge(cases[i].bar, cases[i].now, cases[i].error, &rule) ==
                          cases[i].verdict,
                      "case %zu", i);
    ck_assert_int_eq(ds_bar_groups(DS_BAR_PICTURES_MIN - 1), 0);
    for (int n = DS_BAR_PICTURES_MIN; n < 5000; n++) /* 4 pictures a group and 8 groups at least */
        ck_assert(ds_bar_groups(n) >= 8 && n / ds_bar_groups(n) >= 4);
}
END_TEST

/* ---------------------------------------------------------------- jobs */

/* A training of blobs, measured by enough samples; steps 0: as many as the fixture's. */
static json_t *version_spec(int version, int seed, int steps) {
    json_t *s = train_spec("blobs"), *train = json_object_get(s, "train");
    json_object_set_new(s, "version", json_integer(version));
    json_object_set_new(json_object_get(s, "evaluate"), "n", json_integer(SAMPLES));
    json_object_set_new(train, "seed", json_integer(seed));
    if (steps)
        json_object_set_new(train, "steps", json_integer(steps));
    return s;
}

/* The entry of "bars" for the finished job in dir. */
static json_t *bar_of(const char *dir, const char *role, const char *ref) {
    json_t *spec = read_json(dir, "spec.json"), *res = read_json(dir, "result.json");
    char *path = ds_xasprintf("%s/adapter.safetensors.zst", dir);
    json_t *b = json_pack("{s:s, s:s, s:o, s:O, s:O, s:O}", "role", role, "ref", ref, "adapter",
                          file_json(NULL, path, text_at(res, "adapter", "sha256")), "base",
                          json_object_get(spec, "base"), "sample", json_object_get(spec, "sample"),
                          "fd", json_object_get(evaluation_of(res, "adapter", "fd"), "value"));
    json_t *copy = json_deep_copy(b);
    json_decref(b);
    json_decref(spec);
    json_decref(res);
    free(path);
    return copy;
}

static json_t *with_bar(json_t *spec, json_t *bar) {
    json_object_set_new(spec, "bars", json_pack("[o]", bar));
    return spec;
}

static double number(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    ck_assert_msg(json_is_number(v), "'%s' is no number", key);
    return json_number_value(v);
}

static int whole(const json_t *o, const char *key) {
    return (int)json_integer_value(json_object_get(o, key));
}

/* Run the job and give back its result. */
static json_t *result_of(const char *name, json_t *spec, int status) {
    char *dir = make_job(name, spec);
    run_expect(dir, status);
    json_t *r = read_json(dir, "result.json");
    ck_assert_str_eq(text_at(r, "status", NULL), status ? "rejected" : "ok");
    ck_assert_str_eq(text_at(r, "gate", "verdict"), status ? "refused" : "passed");
    free(dir);
    return r;
}

static const json_t *self_of(const json_t *r) {
    return json_object_get(json_object_get(r, "gate"), "self");
}

static const json_t *bar_at(const json_t *r, size_t i) {
    return json_array_get(json_object_get(self_of(r), "bars"), i);
}

/* The bar at 0 has this verdict, and its reason says that. */
static void expect_bar(const json_t *r, const char *verdict, const char *part) {
    const char *reason = text_at(bar_at(r, 0), "reason", NULL);
    printf("%s: %s\n", verdict, reason);
    ck_assert_str_eq(text_at(bar_at(r, 0), "verdict", NULL), verdict);
    ck_assert_msg(strstr(reason, part) != NULL, "%s", reason);
}

static int has_warning(const char *name, const char *part) {
    char *path = ds_xasprintf("%s/%s/events.ndjson", ds_test_tmpdir(), name), *text;
    size_t n;
    ds_error err;
    must(ds_fs_read(path, 1 << 24, &text, &n, &err), &err);
    int found = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
        found |= strstr(line, "\"warning\"") && strstr(line, part);
    free(text);
    free(path);
    return found;
}

/* As published: of the same features, but in other groups (four there), so sums are in another
 * order. */
static int near(double fd, const json_t *published) {
    double value = number(published, "value");
    return fabs(fd - value) <= 1e-9 * value;
}

/* The first of a name has the base as its bar, and what it was measured with is what is published.
 */
START_TEST(the_first_version_has_the_base) {
    json_t *r = read_json(first, "result.json");
    ck_assert_uint_eq(json_array_size(json_object_get(self_of(r), "bars")), 1);
    ck_assert_str_eq(text_at(bar_at(r, 0), "role", NULL), "base");
    ck_assert_str_eq(text_at(bar_at(r, 0), "ref", NULL), "base:micro");
    ck_assert_str_eq(text_at(bar_at(r, 0), "verdict", NULL), "passed");
    ck_assert(near(number(bar_at(r, 0), "fd_now"), evaluation_of(r, "adapter", "fd")));
    ck_assert(near(number(bar_at(r, 0), "fd_bar"), evaluation_of(r, "base", "fd")));
    ck_assert(number(self_of(r), "fd") == number(bar_at(r, 0), "fd_now"));
    ck_assert_int_eq(whole(bar_at(r, 0), "n"), SAMPLES);
    json_decref(r);
}
END_TEST

/* The bar's numbers are those that it was published with; the new adapter's bytes do
 * not depend on what it is compared with. */
START_TEST(a_bar_is_what_it_was) {
    json_t *r = result_of("again",
                          with_bar(version_spec(2, 1, 0), bar_of(first, "latest", "blobs@v1")), 0),
           *was = read_json(first, "result.json");
    const json_t *b = bar_at(r, 0);
    ck_assert_str_eq(text_at(b, "ref", NULL), "blobs@v1");
    ck_assert_str_eq(text_at(b, "role", NULL), "latest");
    ck_assert(near(number(b, "fd_bar"), evaluation_of(was, "adapter", "fd")));
    ck_assert(number(b, "kid_bar") == number(evaluation_of(was, "adapter", "kid"), "value"));
    ck_assert(number(b, "fd_now") == number(b, "fd_bar"));
    ck_assert(number(b, "z") == 0 && number(b, "std_error") == 0 && number(b, "delta") == 0);
    ck_assert(whole(b, "classes") == 2 && whole(b, "classes_new") == 2 &&
              whole(b, "classes_bar") == 2);
    /* its metadata names version-free facts only, so the same training gives the same file */
    ck_assert_str_eq(text_at(r, "adapter", "sha256"), text_at(was, "adapter", "sha256"));
    json_decref(was);
    json_decref(r);
}
END_TEST

/* A bar that cannot be read now is no verdict: the job waits, and comes to the same one later. */
START_TEST(a_bar_that_cannot_be_read_now) {
    char *dir = make_job("again",
                         with_bar(version_spec(2, 1, 0), bar_of(first, "latest", "blobs@v1"))),
         *result = ds_xasprintf("%s/result.json", dir);
    ds_error err;
    must(ds_fs_remove(result, &err), &err); /* all before the gate is there */
    open_fails(ENOMEM, 1, "blobs-job/adapter");
    run_expect(dir, 75);
    open_fails(0, 0, NULL);
    ck_assert(!ds_fs_exists(result));
    ck_assert(!has_warning("again", "is no bar"));
    run_expect(dir, 0);
    json_t *r = read_json(dir, "result.json");
    ck_assert_str_eq(text_at(bar_at(r, 0), "verdict", NULL), "passed");
    json_decref(r);
    free(result), free(dir);
}
END_TEST

/* Trained with far too large steps: about a tenth worse. */
static json_t *worse_spec(const char *role) {
    json_t *s = version_spec(3, 2, 10);
    json_object_set_new(json_object_get(s, "train"), "lr", json_real(0.3));
    json_object_set_new(json_object_get(s, "gate"), "worse_margin", json_real(0.05));
    return with_bar(s, bar_of(first, role, "blobs@v1"));
}

/* Refused, with both names and both numbers; kept as rejected; asked again, the same. */
START_TEST(a_worse_version_is_refused) {
    json_t *r = result_of("worse", worse_spec("best"), 8);
    const char *reason = text_at(r, "gate", "reason");
    char *dir = in_tmp("worse"), *path = ds_xasprintf("%s/adapter.safetensors.zst", dir),
         sha[DS_HEX_SIZE],
         *both = ds_xasprintf("FD %.2f -> %.2f (+", number(bar_at(r, 0), "fd_bar"),
                              number(bar_at(r, 0), "fd_now"));
    expect_bar(r, "refused", both);
    ck_assert_msg(strstr(reason, "blobs@v3 is worse than blobs@v1: ") && strstr(reason, both), "%s",
                  reason);
    ck_assert_str_eq(text_at(self_of(r), "verdict", NULL), "refused");
    ck_assert_str_eq(text_at(bar_at(r, 0), "role", NULL), "best");
    ck_assert(number(bar_at(r, 0), "delta") > 0.05 && number(bar_at(r, 0), "z") >= 3.5);
    ck_assert(number(bar_at(r, 0), "margin") == 0.05);
    unpacked_digest(path, sha);
    ck_assert_str_eq(text_at(r, "adapter", "sha256"), sha);
    run_expect(dir, 8);
    free(both), free(path), free(dir);
    json_decref(r);
}
END_TEST

/* The margin and the sigmas are the spec's: a bar that high refuses nothing. */
START_TEST(the_rule_is_the_specs) {
    json_t *spec = worse_spec("latest");
    json_object_set_new(json_object_get(spec, "gate"), "worse_margin", json_real(90));
    json_t *r = result_of("lenient", spec, 0);
    expect_bar(r, "passed", "margin 9e+03 %");
    json_decref(r);
    spec = worse_spec("latest");
    json_object_set_new(json_object_get(spec, "gate"), "worse_sigmas", json_real(900));
    r = result_of("uncertain", spec, 0);
    ck_assert_str_eq(text_at(bar_at(r, 0), "verdict", NULL), "passed");
    json_decref(r);
}
END_TEST

START_TEST(a_force_is_said) {
    json_t *spec = worse_spec("latest");
    json_object_set_new(spec, "publish_worse", json_true());
    json_t *r = result_of("forced", spec, 0);
    expect_bar(r, "refused", "FD ");
    ck_assert_str_eq(text_at(self_of(r), "verdict", NULL), "forced");
    ck_assert_str_eq(text_at(r, "gate", "reason"), "");
    ck_assert(has_warning("forced", "published all the same, as asked: blobs@v3 is worse"));
    json_decref(r);
}
END_TEST

/* A kill while the bars are measured: what was made is found again, and the verdict is the same. */
START_TEST(goes_on_after_a_kill) {
    json_t *want = result_of("whole", worse_spec("latest"), 8);
    char *dir = make_job("torn", worse_spec("latest")), *cache = in_tmp("torn-cache"),
         *path = ds_xasprintf("%s/result.json", dir);
    json_t *spec = read_json(dir, "spec.json");
    ds_error err;
    json_object_set_new(spec, "cache_dir", json_string(cache));
    char *file = ds_xasprintf("%s/spec.json", dir);
    must(ds_json_write_file(file, spec, &err), &err);
    pid_t pid = start_job(dir, NULL, NULL);
    for (int i = 0; i < 30000; i++) { /* until the comparison has begun */
        char *events = ds_xasprintf("%s/events.ndjson", dir), *text = NULL;
        size_t n;
        int begun =
            !ds_fs_read(events, 1 << 24, &text, &n, NULL) && strstr(text, "is compared with");
        free(text), free(events);
        if (begun)
            break;
        usleep(5000);
    }
    kill(pid, SIGKILL);
    int status = wait_job(pid);
    ck_assert(status == 1000 + SIGKILL && !ds_fs_exists(path));
    run_expect(dir, 8);
    json_t *got = read_json(dir, "result.json");
    ck_assert(json_equal(self_of(got), self_of(want)));
    json_decref(got), json_decref(want), json_decref(spec);
    free(file), free(path), free(cache), free(dir);
}
END_TEST

/* ---------------------------------------------------------------- no bar */

static json_t *bar_with_file(const char *name, const char *sha) {
    json_t *b = bar_of(first, "latest", "blobs@v1"), *f = json_object_get(b, "adapter");
    char *path = in_tmp(name);
    json_object_set_new(f, "path", json_string(path));
    if (sha)
        json_object_set_new(f, "sha256", json_string(sha));
    free(path);
    return b;
}

static json_t *no_bar(const char *name, json_t *bar, const char *part) {
    json_t *r = result_of(name, with_bar(version_spec(2, 1, 0), bar), 0);
    expect_bar(r, "none", part);
    ck_assert_str_eq(text_at(self_of(r), "verdict", NULL), "passed");
    ck_assert(json_is_null(json_object_get(bar_at(r, 0), "fd_bar")));
    return r;
}

/* Loudly, and the base is still a bar. */
START_TEST(a_damaged_file_is_no_bar) {
    char *from = ds_xasprintf("%s/adapter.safetensors.zst", first), *to = in_tmp("flipped.zst"),
         *bytes;
    size_t n;
    ds_error err;
    must(ds_fs_read(from, 1 << 28, &bytes, &n, &err), &err);
    bytes[n / 2] ^= 16;
    must(ds_fs_write(to, bytes, n, &err), &err);
    json_t *r = no_bar("flipped", bar_with_file("flipped.zst", NULL), "its adapter cannot be used");
    ck_assert(has_warning("flipped", "blobs@v1 is no bar"));
    if (!SANITIZED)
        ck_assert_str_eq(text_at(bar_at(r, 1), "verdict", NULL), "passed");
    json_decref(r);
    json_decref(no_bar("gone", bar_with_file("nowhere.zst", NULL), "its adapter cannot be used"));
    /* whole, and not the registered one */
    r = no_bar("exchanged",
               bar_with_file("blobs-job/adapter.safetensors.zst",
                             "00000000000000000000000000000000"
                             "00000000000000000000000000000000"),
               "the registered one 0000");
    json_decref(r);
    free(bytes), free(from), free(to);
}
END_TEST

/* A base of another side under this name; its digest. */
static void other_base(const char *name, int side, char sha[DS_HEX_SIZE]) {
    char *path = in_tmp(name);
    make_plain_base(path, side, 3);
    file_digest(path, sha);
    free(path);
}

static json_t *bar_on(const char *file, const char *sha, int vae) {
    json_t *b = bar_of(first, "latest", "blobs@v1");
    char *path = file ? in_tmp(file) : NULL;
    json_object_set_new(
        b, "base",
        json_pack("{s:s, s:o, s:s, s:o}", "name", "elder", "path",
                  path ? json_string(path) : json_null(), "sha256", sha, "vae",
                  vae ? json_pack("{s:s, s:s}", "path", "/vae", "sha256", sha) : json_null()));
    free(path);
    return b;
}

START_TEST(another_base_may_be_no_bar) {
    char sha[DS_HEX_SIZE];
    other_base("elder.safetensors", 8, sha);
    json_decref(no_bar("base-gone", bar_on(NULL, sha, 0), "its base 'elder' is not here any more"));
    json_decref(no_bar("base-side", bar_on("elder.safetensors", sha, 0),
                       "its base 'elder' makes 3x8x8, 'micro' 3x16x16"));
    json_decref(no_bar("base-vae", bar_on("elder.safetensors", sha, 1),
                       "its base 'elder' has another VAE than 'micro'"));
    sha[0] = sha[0] == '0' ? '1' : '0';
    json_decref(no_bar("base-other", bar_on("elder.safetensors", sha, 0), "cannot be used"));
    ck_assert(has_warning("base-other", "blobs@v1 is no bar"));
}
END_TEST

/* Made on another base that is still here: measured anew, on this one's reference. */
START_TEST(another_base_is_a_bar) {
    char *path = in_tmp("elder-base.safetensors"), sha[DS_HEX_SIZE];
    make_base(path, 5);
    file_digest(path, sha);
    json_t *spec = version_spec(1, 1, 0);
    json_object_set_new(spec, "base", file_json("elder", path, sha));
    char *dir = make_job("elder-job", spec);
    run_expect(dir, 0);
    json_t *r = result_of("newer-base",
                          with_bar(version_spec(2, 1, 0), bar_of(dir, "latest", "blobs@v1")), 0),
           *was = read_json(dir, "result.json");
    expect_bar(r, "passed", "FD ");
    ck_assert(near(number(bar_at(r, 0), "fd_bar"), evaluation_of(was, "adapter", "fd")));
    json_decref(r), json_decref(was);
    free(dir), free(path);
}
END_TEST

START_TEST(too_few_samples_are_no_bar) {
    json_t *spec = with_bar(version_spec(2, 1, 0), bar_of(first, "latest", "blobs@v1"));
    json_object_set_new(json_object_get(spec, "evaluate"), "n",
                        json_integer(SANITIZED ? EVALUATED : DS_BAR_PICTURES_MIN - 1));
    json_t *r = result_of("few", spec, 0);
    expect_bar(r, "none", "are too few for an interval, which needs 32");
    ck_assert_str_eq(text_at(bar_at(r, 1), "verdict", NULL), "none");
    json_decref(r);
}
END_TEST

/* Settings of the bar that differ are used, and said. */
START_TEST(each_is_sampled_as_it_is_served) {
    json_t *b = bar_of(first, "latest", "blobs@v1");
    json_object_set_new(json_object_get(b, "sample"), "steps", json_integer(3));
    json_t *r = result_of("settings", with_bar(version_spec(2, 1, 0), b), 0),
           *was = read_json(first, "result.json");
    expect_bar(r, "passed", "each with its own sampler settings: dpmpp2m, 4 steps");
    ck_assert(!near(number(bar_at(r, 0), "fd_bar"), evaluation_of(was, "adapter", "fd")));
    json_decref(r), json_decref(was);
}
END_TEST

/* ---------------------------------------------------------------- classes */

/* The first `keep` classes of blobs, under these names. */
static json_t *set_of(const char *name, const char *const names[], int keep, int version) {
    char *root = in_tmp(name), *manifest = ds_xasprintf("%s.ndjson", root), sha[DS_HEX_SIZE];
    ds_error err;
    for (int c = 0; c < keep; c++) {
        char *dir = ds_xasprintf("%s/%s", root, names[c]);
        must(ds_fs_mkdirs(dir, &err), &err);
        for (int k = 0; k < 20; k++) {
            uint8_t px[24 * 24 * 3];
            pattern(px, 24, c / 2, c % 2, k);
            char *path = ds_xasprintf("%s/%02d.png", dir, k);
            must(ds_png_write(path, px, 24, 24, &err), &err);
            free(path);
        }
        free(dir);
    }
    make_manifest(root, manifest, sha);
    json_t *s = version_spec(version, 1, 0);
    json_object_set_new(s, "dataset",
                        json_pack("{s:s, s:i, s:s, s:s, s:s}", "name", name, "version", version,
                                  "root", root, "manifest", manifest, "tree_digest", sha));
    free(root), free(manifest);
    return s;
}

START_TEST(shared_classes_are_compared) {
    static const char *const more[] = {"cool", "new", "other"}, *const strange[] = {"a", "b"};
    json_t *r = result_of(
        "more", with_bar(set_of("more-set", more, 3, 2), bar_of(first, "latest", "blobs@v1")), 0);
    const json_t *b = bar_at(r, 0);
    printf("shared: %s\n", text_at(b, "reason", NULL));
    ck_assert_str_eq(text_at(b, "verdict", NULL), "none"); /* a third */
    ck_assert(strstr(text_at(b, "reason", NULL), "samples of shared classes are too few"));
    ck_assert(whole(b, "classes") == 1 && whole(b, "classes_new") == 3 &&
              whole(b, "classes_bar") == 2);
    json_decref(r);
    json_t *spec = with_bar(set_of("more-set", more, 3, 2), bar_of(first, "latest", "blobs@v1"));
    json_object_set_new(json_object_get(spec, "evaluate"), "n",
                        json_integer(3 * DS_BAR_PICTURES_MIN));
    r = result_of("enough", spec, 0);
    b = bar_at(r, 0);
    printf("shared: %s\n", text_at(b, "reason", NULL));
    ck_assert_int_eq(whole(b, "n"), DS_BAR_PICTURES_MIN);
    ck_assert_str_ne(text_at(b, "verdict", NULL), "none");
    ck_assert(number(b, "fd_bar") > 0 && number(b, "fd_now") > 0);
    /* the whole set is another distance */
    ck_assert(number(bar_at(r, 1), "fd_now") != number(b, "fd_now"));
    ck_assert(number(self_of(r), "fd") == number(bar_at(r, 1), "fd_now"));
    json_decref(r);
    r = result_of(
        "strange",
        with_bar(set_of("strange-set", strange, 2, 2), bar_of(first, "latest", "blobs@v1")), 0);
    expect_bar(r, "none", "no class of 'strange-set' is one of its own");
    json_decref(r);
}
END_TEST

/* By name, not by number: the same pictures under other numbers are the same. */
START_TEST(classes_go_by_name) {
    static const char *const both[] = {"warm", "cool"}, *const renamed[] = {"warm", "cool", "aa"};
    char *dir = make_job("both-job", set_of("both", both, 2, 1));
    run_expect(dir, 0);
    /* a bar whose classes stand elsewhere: of three, the first of which is new */
    char *three = make_job("three-job", set_of("three", renamed, 3, 1));
    run_expect(three, 0);
    json_t *r = result_of(
        "by-name", with_bar(set_of("both", both, 2, 2), bar_of(three, "latest", "three@v1")), 0);
    const json_t *b = bar_at(r, 0);
    printf("by name: %s\n", text_at(b, "reason", NULL));
    ck_assert_str_eq(text_at(b, "verdict", NULL), "passed");
    ck_assert(whole(b, "classes") == 2 && whole(b, "classes_bar") == 3 && whole(b, "n") == SAMPLES);
    /* with the classes mixed up it would be far off */
    ck_assert_msg(number(b, "fd_bar") < 2 * number(b, "fd_now"), "%s", text_at(b, "reason", NULL));
    json_decref(r);
    free(dir), free(three);
}
END_TEST

static void register_cases(TCase *tc) {
    feature_side = "171"; /* the least at which what is worse here is so by its distance */
    fixture_make();
    json_t *spec = version_spec(1, 1, 0);
    if (SANITIZED)
        json_object_set_new(json_object_get(spec, "evaluate"), "n", json_integer(EVALUATED));
    first = make_job("blobs-job", spec);
    if (run_job(first)) {
        show_log(first);
        exit(1);
    }
    tcase_add_test(tc, rule_of_a_bar);
    tcase_add_test(tc, too_few_samples_are_no_bar);
    if (SANITIZED) /* each of the others makes dozens of pictures and looks at them */
        return;
    tcase_add_test(tc, the_first_version_has_the_base);
    tcase_add_test(tc, a_bar_is_what_it_was);
    tcase_add_test(tc, a_bar_that_cannot_be_read_now);
    tcase_add_test(tc, a_worse_version_is_refused);
    tcase_add_test(tc, the_rule_is_the_specs);
    tcase_add_test(tc, a_force_is_said);
    tcase_add_test(tc, goes_on_after_a_kill);
    tcase_add_test(tc, a_damaged_file_is_no_bar);
    tcase_add_test(tc, another_base_may_be_no_bar);
    tcase_add_test(tc, another_base_is_a_bar);
    tcase_add_test(tc, each_is_sampled_as_it_is_served);
    tcase_add_test(tc, shared_classes_are_compared);
    tcase_add_test(tc, classes_go_by_name);
}

int main(int argc, char **argv) {
    int status = fixture_dispatch(argc, argv);
    return status >= 0 ? status : ds_test_main("worker_bars", register_cases);
}
