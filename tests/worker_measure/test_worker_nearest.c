/* tests/worker_measure/test_worker_nearest.c - what the nearest real pictures tell of samples: whether they show
 * their class (real pictures as samples, with right and with wrong labels), whether they are memories of pictures
 * that were trained on; and what jobs record and refuse. */
#include "tests/fixtures/worker_fixture.h"

#include "worker/images/prepare.h"
#include "worker/kinds/bars.h"
#include "worker/measure/classes.h"
#include "worker/measure/feature_net.h"
#include "worker/measure/memorised.h"
#include "worker/measure/serve.h"

#include <math.h>

enum {
    DIGITS = 10,
    REAL = SANITIZED ? 8 : 30,
    FAKE = SANITIZED ? 2 : 10,
    K = 5,
    SAMPLES = 64,
    PICTURES = 24
};

/* Real digits of the example set: REAL of each class as the real pictures, FAKE as samples. */
static float *features;
static int labels[DIGITS * (REAL + FAKE)], dim;

static void make_features(void) {
    char *manifest = in_tmp("digits.ndjson"), *cache = in_tmp("digits-cache"), sha[DS_HEX_SIZE];
    ds_device_options cpu = {.kind = "cpu", .precision = DS_PRECISION_F32, .threads = 2};
    ds_images *images;
    ds_device *dev;
    ds_feature_net *net;
    ds_error err;
    make_manifest("examples/digits", manifest, sha);
    ds_prepare_options o = {.root = "examples/digits",
                            .manifest = manifest,
                            .cache_dir = cache,
                            .side = 32,
                            .channels = 3};
    must(ds_prepare_open(&images, &o, NULL, NULL, &err), &err);
    must(ds_device_open(&dev, &cpu, &err), &err);
    unpacked_digest(fixture_net(), sha);
    must(ds_feature_net_open(dev, DS_FID_BUNDLED, fixture_net(), sha, &net, &err), &err);
    dim = ds_feature_net_dim(net);
    const size_t one = 32 * 32 * 3, each = REAL + FAKE;
    uint8_t *px = ds_xmalloc(DIGITS * each * one);
    for (int i = 0, c = 0, seen = 0; i < images->n && c < DIGITS; i++) {
        if (images->labels[i] != c)
            continue;
        size_t at = seen < REAL ? (size_t)(c * REAL + seen)
                                : (size_t)(DIGITS * REAL + c * FAKE + seen - REAL);
        memcpy(px + at * one, images->pixels + (size_t)i * one, one);
        labels[at] = c;
        if (++seen == REAL + FAKE)
            c++, seen = 0;
    }
    features = ds_xmalloc(DIGITS * each * (size_t)dim * sizeof *features);
    must(ds_feature_net_compute(net, px, DIGITS * (int64_t)each, 32, features, &err), &err);
    ds_feature_net_close(net);
    ds_device_close(dev);
    ds_images_close(images);
    free(px), free(manifest), free(cache);
}

static ds_classes_input digits(void) {
    return (ds_classes_input){.real = {.x = features, .n = DIGITS * REAL, .dim = dim},
                              .samples = {.x = features + (size_t)(DIGITS * REAL) * (size_t)dim,
                                          .n = DIGITS * FAKE,
                                          .dim = dim},
                              .real_labels = labels,
                              .labels = labels + DIGITS * REAL,
                              .classes = DIGITS,
                              .k = K,
                              .seed = 7};
}

static ds_classes measured(const ds_classes_input *in) {
    ds_classes c;
    ds_error err;
    must(ds_classes_measure(&c, in, &err), &err);
    return c;
}

/* FD sees no difference between the two: the pictures are the same. */
START_TEST(right_and_wrong_labels) {
    ds_classes_input in = digits();
    ds_classes right = measured(&in);
    int wrong[DIGITS * FAKE];
    for (int i = 0; i < DIGITS * FAKE; i++)
        wrong[i] = (in.labels[i] + 1 + i % 9) % DIGITS;
    in.labels = wrong;
    ds_classes swapped = measured(&in);
    printf("right %.3f, swapped %.3f, real pictures %.3f, chance %.3f\n", right.samples.share,
           swapped.samples.share, right.real.share, right.chance);
    ck_assert(right.samples.share > (SANITIZED ? 0.5 : 0.8));
    ck_assert(right.real.share > (SANITIZED ? 0.5 : 0.8));
    ck_assert(swapped.samples.share < (SANITIZED ? 0.3 : 0.1)); /* each is some wrong one */
    ck_assert(fabs(right.chance - 0.1) < 1e-12);
    ck_assert(right.samples.n == DIGITS * FAKE && right.real.n == DIGITS * REAL);
    ck_assert(swapped.real.hits == right.real.hits);
    ck_assert_int_eq(right.count, 0); /* too few of each class */
    ds_classes_release(&right), ds_classes_release(&swapped);
}
END_TEST

/* Labels that say nothing of the picture. */
START_TEST(labels_by_chance) {
    ds_classes_input in = digits();
    int drawn[DIGITS * FAKE];
    for (int i = 0; i < DIGITS * FAKE; i++)
        drawn[i] = (int)ds_rng_below(DIGITS, 9, DS_STREAM_TEST, 0, 0, (uint32_t)i);
    in.labels = drawn;
    ds_classes c = measured(&in);
    printf("by chance %.3f (%.3f to %.3f)\n", c.samples.share, c.samples.lo, c.samples.hi);
    ck_assert(c.samples.lo <= 0.1 && c.samples.hi >= 0.1);
    ds_classes_release(&c);
}
END_TEST

/* Two classes of five digits each, so that there are enough of each. */
START_TEST(each_class_by_itself) {
    ds_classes_input in = digits();
    int low[DIGITS * (REAL + FAKE)];
    for (int i = 0; i < DIGITS * (REAL + FAKE); i++)
        low[i] = labels[i] >= 5;
    in.real_labels = low;
    in.labels = low + DIGITS * REAL;
    in.classes = 2;
    ds_classes c = measured(&in);
    ck_assert_int_eq(c.count, 2);
    for (int l = 0; l < 2; l++) {
        ds_feature_set half[2] = {in.real, in.samples};
        half[0].n /= 2, half[1].n /= 2;
        half[0].x += l * half[0].n * dim, half[1].x += l * half[1].n * dim;
        ds_fd_result fd;
        ds_error err;
        must(ds_fd_compare(&half[0], &half[1], 0, 7, NULL, NULL, &fd, &err), &err);
        ck_assert_int_eq(c.each[l].label, l);
        ck_assert(c.each[l].fd == fd.fd);
        ck_assert(c.each[l].samples.n == half[1].n && c.each[l].real.n == half[0].n);
    }
    ck_assert_int_eq(c.each[0].samples.hits + c.each[1].samples.hits, c.samples.hits);
    ck_assert_int_eq(c.each[0].real.hits + c.each[1].real.hits, c.real.hits);
    ds_classes_release(&c);
}
END_TEST

START_TEST(not_measured) {
    ds_classes_input in = digits();
    in.k = 0;
    ck_assert(measured(&in).samples.n == 0);
    in.k = REAL + 1; /* a class could not win */
    ck_assert(measured(&in).samples.n == 0);
    in.k = K;
    in.classes = 1;
    ck_assert(measured(&in).real.n == 0 && isnan(measured(&in).chance));
    ck_assert(ds_classes_fit(5, 2, 10) && !ds_classes_fit(5, 2, 9) && !ds_classes_fit(5, 1, 99));
}
END_TEST

/* ---------------------------------------------------------------- memories */

/* Half of the real pictures, drawn. */
static void draw_held(uint8_t held[DIGITS * REAL], uint32_t step) {
    uint32_t order[DIGITS * REAL];
    ds_rng_permutation(order, DIGITS * REAL, 3, DS_STREAM_TEST, step);
    memset(held, 0, DIGITS * REAL);
    for (int i = 0; i < DIGITS * REAL / 2; i++)
        held[order[i]] = 1;
}

static ds_memorised memorised(const ds_feature_set *samples, const uint8_t *held) {
    const ds_classes_input in = digits();
    ds_memorised m;
    ds_error err;
    must(ds_memorised_measure(&m, &in.real, held, samples, NULL, NULL, &err), &err);
    return m;
}

/* Other real pictures remember nothing; copies of what was trained on do. */
START_TEST(memories_are_seen) {
    uint8_t held[DIGITS * REAL];
    const ds_classes_input in = digits();
    draw_held(held, 0);
    ds_memorised others = memorised(&in.samples, held);
    float *x = ds_xmalloc(DIGITS * REAL * (size_t)dim * sizeof *x);
    ds_feature_set copies = in.samples;
    copies.n = 0;
    for (int i = 0; i < DIGITS * REAL; i++)
        if (!held[i])
            memcpy(x + (size_t)copies.n++ * (size_t)dim, features + (size_t)i * (size_t)dim,
                   (size_t)dim * sizeof *x);
    copies.x = x;
    ds_memorised same = memorised(&copies, held);
    printf("nearest trained: others %.3f (se %.3f), copies %.3f (se %.3f), chance %.3f\n",
           others.share, others.std_error, same.share, same.std_error, same.chance);
    ck_assert(same.share == 1 && same.chance == 0.5 && same.n == DIGITS * REAL / 2);
    ck_assert(same.trained == DIGITS * REAL / 2 && same.held == DIGITS * REAL / 2);
    ck_assert(same.share - same.chance > 5 * same.std_error);
    ck_assert(fabs(others.share - 0.5) < 3 * others.std_error);
    memset(held, 0, sizeof held);
    memset(held, 1, DS_MEMORISED_HELD_MIN - 1);
    ck_assert_int_eq(memorised(&in.samples, held).n, 0); /* too few to say anything */
    memset(held, 1, sizeof held);
    ck_assert_int_eq(memorised(&in.samples, held).n, 0);
    free(x);
}
END_TEST

/* T = 60 on, H = 20 held out: chance is still a half, and one trained-on picture that is nearer than
 * the nearest held-out one is in a draw of 20 with probability 20/60, of two one with
 * 1 - (40 39)/(60 59). */
START_TEST(fewer_held_out) {
    enum { ALL = 80, HELD = 20, DRAWS = 100 };
    float x[ALL], at[3] = {0.1f, 1.9f, 3.9f};
    uint8_t held[ALL] = {1, 0, 0, 1}; /* at 0 one held out, two trained on at 1 and 2 */
    ds_feature_set real = {.x = x, .n = ALL, .dim = 1}, samples = {.x = at, .n = 1, .dim = 1};
    ds_memorised m;
    ds_error err;
    double mean = 0;
    for (int i = 0; i < ALL; i++) {
        x[i] = (float)i;
        held[i] |= i >= ALL - (HELD - 2);
    }
    const double want[3] = {0, 1 - 40.0 * 39 / (60 * 59), 20.0 / 60};
    for (int i = 0; i < 3; i++) {
        samples.x = at + i;
        must(ds_memorised_measure(&m, &real, held, &samples, NULL, NULL, &err), &err);
        ck_assert(m.trained == 60 && m.held == HELD && m.chance == 0.5);
        ck_assert_msg(fabs(m.share - want[i]) < 1e-12, "%d: %g", i, m.share);
    }
    for (uint32_t d = 0; d < DRAWS; d++) {
        uint32_t order[ALL];
        ds_rng_permutation(order, ALL, 4, DS_STREAM_TEST, d);
        for (int r = 0; r < ALL; r++)
            held[order[r]] = r < HELD;
        must(ds_memorised_measure(&m, &real, held, &samples, NULL, NULL, &err), &err);
        mean += m.share / DRAWS;
    }
    ck_assert_msg(fabs(mean - 0.5) < 4 * m.std_error / 10, "mean %g, error %g", mean, m.std_error);
    memset(held, 1, ALL / 2 + 1);
    must(ds_memorised_measure(&m, &real, held, &samples, NULL, NULL, &err), &err);
    ck_assert_int_eq(m.n, 0); /* no draw of as many */
}
END_TEST

/* The error is that of drawing which pictures are held out. */
START_TEST(error_of_chance) {
    enum { DRAWS = SANITIZED ? 20 : 100 };
    const ds_classes_input in = digits();
    uint8_t held[DIGITS * REAL];
    double sum = 0, squares = 0, said = 0;
    for (uint32_t i = 0; i < DRAWS; i++) {
        draw_held(held, i);
        ds_memorised m = memorised(&in.samples, held);
        sum += m.share;
        squares += (m.share - 0.5) * (m.share - 0.5);
        said = m.std_error;
    }
    double seen = sqrt(squares / DRAWS), binomial = sqrt(0.25 / (DIGITS * FAKE));
    printf("standard error %.4f, over draws %.4f, binomial %.4f, mean %.4f\n", said, seen, binomial,
           sum / DRAWS);
    /* a standard deviation of that many draws is known to 1 / sqrt(2 draws) */
    ck_assert(fabs(seen / said - 1) < 4 / sqrt(2.0 * DRAWS));
    ck_assert(fabs(sum / DRAWS - 0.5) < 4 * said / sqrt(DRAWS));
}
END_TEST

/* ---------------------------------------------------------------- the rule */

START_TEST(rule_of_classes) {
    static const ds_spec_gate rule = {.class_margin = 0.05, .class_sigmas = 3.5};
    static const struct {
        double bar, now, error;
        int refused;
    } cases[] = {
        {.8, .8, 0, 0},     /* the same */
        {.5, .9, .01, 0},   /* better */
        {.8, .76, .001, 0}, /* certain, within the margin */
        {.8, .7, .03, 0},   /* beyond the margin, may be noise */
        {.8, .7, .02, 1},   /* both */
        {.8, .7, 0, 1},     /* no error at all */
        {.8, .7, NAN, 0},   /* one picture */
        {NAN, .7, .01, 0},  /* a bar that was not measured */
        {.8, NAN, .01, 0},  /* nor the new one */
        {NAN, NAN, NAN, 0}, /* */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_share_pair p = {.bar = cases[i].bar, .now = cases[i].now, .std_error = cases[i].error};
        ck_assert_msg(ds_bar_judge_classes(&p, &rule) == cases[i].refused, "case %zu", i);
    }
}
END_TEST

/* ---------------------------------------------------------------- jobs */

static const char *const names[] = {"cool", "warm"};

/* A version of "made" whose class rows are so far from anything that a class cannot be mistaken: of
 * a base as small as this one training does not come that far. */
static ds_adapter *make_obedient(const ds_base *base, ds_error *err) {
    ds_method_spec method = {.method = DS_METHOD_EMBEDDING, .classes = 2, .seed = 1};
    ds_adapter *a;
    must(ds_adapter_new(&a, base, &method, err), err);
    for (int i = 0; i < a->table.count; i++) {
        const ds_param *p = &a->table.items[i];
        float *row = a->data + p->offset;
        if (p->kind == DS_PARAM_ROWS)
            ds_rng_normal(row, p->count, 5, DS_STREAM_TEST, 0, 0);
        for (size_t k = 0; p->kind == DS_PARAM_ROWS && k < p->count; k++)
            row[k] *= 8;
    }
    a->class_names = ds_xcalloc(3, sizeof *a->class_names);
    for (int c = 0; c < 2; c++)
        a->class_names[c] = ds_xstrdup(names[c]);
    return a;
}

static void write_adapter(const ds_adapter *a, const ds_base *base) {
    char *bytes, *path = in_tmp("obedient.zst");
    size_t n;
    ds_error err;
    must(ds_adapter_encode(a, base, NULL, &bytes, &n, &err), &err);
    must(ds_zio_write_file(path, bytes, n, 1, &err), &err);
    free(bytes), free(path);
}

/* The set: samples of that version, from other noise. */
static void draw_set(const ds_model *model, const ds_adapter *a) {
    ds_spec_sample how = {.sampler = DS_SAMPLER_DPMPP2M, .steps = 4, .guidance = 1.5};
    enum { N = 2 * PICTURES, ONE = SIDE * SIDE * 3 };
    static uint8_t px[N * ONE];
    int of[N];
    ds_serve *serve;
    ds_error err;
    for (int i = 0; i < N; i++)
        of[i] = i / PICTURES;
    ds_serve_request q = {.seed = 99, .n = N, .labels = of, .pixels = px};
    must(ds_serve_new(&serve, model, a, &how, &err), &err);
    must(ds_serve_run(serve, &q, &err), &err);
    ds_serve_free(serve);
    for (int i = 0; i < N; i++) {
        char *dir = ds_xasprintf("%s/made/%s", ds_test_tmpdir(), names[of[i]]),
             *path = ds_xasprintf("%s/%02d.png", dir, i);
        must(ds_fs_mkdirs(dir, &err), &err);
        must(ds_png_write(path, px + i * ONE, SIDE, SIDE, &err), &err);
        free(dir), free(path);
    }
}

static void make_set(void) {
    ds_device_options cpu = {.kind = "cpu", .precision = DS_PRECISION_F32, .threads = 1};
    char *path = in_tmp("base.safetensors"), *root = in_tmp("made"),
         *manifest = in_tmp("made.ndjson"), sha[DS_HEX_SIZE];
    ds_device *dev;
    ds_base *base;
    ds_model *model;
    ds_error err;
    must(ds_device_open(&dev, &cpu, &err), &err);
    must(ds_base_open(&base, path, NULL, &err), &err);
    must(ds_model_new(&model, dev, base, &err), &err);
    ds_adapter *a = make_obedient(base, &err);
    write_adapter(a, base);
    draw_set(model, a);
    make_manifest(root, manifest, sha);
    ds_adapter_free(a);
    ds_model_free(model);
    ds_base_free(base);
    ds_device_close(dev);
    free(path), free(root), free(manifest);
}

/* k < 0: a spec of before there was a measure of classes. */
static json_t *spec_of(const char *dataset, int k) {
    json_t *s = train_spec(dataset), *gate = json_object_get(s, "gate");
    json_object_set_new(json_object_get(s, "train"), "label_dropout", json_real(1)); /* blind */
    json_object_set_new(json_object_get(s, "evaluate"), "n", json_integer(SAMPLES));
    json_object_set_new(gate, "worse_margin", json_real(90)); /* FD refuses nothing here */
    if (k >= 0) {
        json_object_set_new(json_object_get(s, "evaluate"), "neighbours", json_integer(k));
        json_object_set_new(gate, "class_margin", json_real(0.05));
        json_object_set_new(gate, "class_sigmas", json_real(3.5));
    }
    return s;
}

static json_t *with_obedient_bar(json_t *spec) {
    char *path = in_tmp("obedient.zst"), sha[DS_HEX_SIZE];
    unpacked_digest(path, sha);
    json_object_set_new(spec, "bars",
                        json_pack("[{s:s, s:s, s:o, s:O, s:O}]", "role", "latest", "ref", "made@v1",
                                  "adapter", file_json(NULL, path, sha), "base",
                                  json_object_get(spec, "base"), "sample",
                                  json_object_get(spec, "sample")));
    json_object_set_new(spec, "version", json_integer(2));
    free(path);
    return spec;
}

static json_t *result_of(const char *name, json_t *spec, int status) {
    char *dir = make_job(name, spec);
    run_expect(dir, status);
    json_t *r = read_json(dir, "result.json");
    free(dir);
    return r;
}

static double value_of(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    ck_assert_msg(json_is_number(v), "'%s' is no number", key);
    return json_number_value(v);
}

static const json_t *bar_of(const json_t *r) {
    const json_t *self = json_object_get(json_object_get(r, "gate"), "self");
    return json_array_get(json_object_get(self, "bars"), 0);
}

static double share_in(const json_t *r, const char *subject) {
    return value_of(evaluation_of(r, subject, "class_accuracy"), "value");
}

static int rows_of(const json_t *rows, const char *metric) {
    size_t i;
    const json_t *row;
    int n = 0;
    json_array_foreach((json_t *)(uintptr_t)rows, i, row)
        n += !strcmp(text_at(row, "metric", NULL), metric);
    return n;
}

static json_t *metadata_of_job(const char *job) {
    char *dir = in_tmp(job);
    json_t *doc = metadata_of(dir);
    free(dir);
    return doc;
}

/* Measured, recorded, and refused although its FD would pass: the bar shows its classes. */
START_TEST(a_version_that_lost_its_classes) {
    json_t *r = result_of("lost", with_obedient_bar(spec_of("made", K)), 8);
    const json_t *b = bar_of(r), *rows = json_object_get(r, "evaluations");
    double now = share_in(r, "adapter");
    printf("%s\n", text_at(b, "reason", NULL));
    ck_assert_str_eq(text_at(r, "status", NULL), "rejected");
    ck_assert_str_eq(text_at(b, "verdict", NULL), "refused");
    ck_assert(strstr(text_at(b, "reason", NULL), "fewer samples show their class; FD ") &&
              strstr(text_at(b, "reason", NULL), ", margin 0.05, z -"));
    ck_assert(strstr(text_at(r, "gate", "reason"), "made@v2 is worse than made@v1: fewer"));
    ck_assert(value_of(b, "class_bar") > 0.8 && value_of(b, "class_now") == now && now < 0.7);
    ck_assert(value_of(b, "class_z") < -3.5 && value_of(b, "class_error") > 0 &&
              value_of(b, "class_margin") == 0.05);
    ck_assert(share_in(r, "real") > 0.8 && share_in(r, "chance") == 0.5);
    ck_assert_int_eq(rows_of(rows, "class_accuracy"), 3 + 2 * 2);
    ck_assert_int_eq(rows_of(rows, "fd"), 2 + 2);
    ck_assert(fabs(share_in(r, "adapter/cool") + share_in(r, "adapter/warm") - 2 * now) < 1e-12);
    ck_assert(fabs(share_in(r, "real/cool") + share_in(r, "real/warm") - 2 * share_in(r, "real")) <
              1e-12);
    ck_assert(value_of(evaluation_of(r, "adapter/warm", "fd"), "n_fake") == SAMPLES / 2);
    ck_assert(value_of(evaluation_of(r, "adapter/warm", "fd"), "n_real") == PICTURES);
    /* with the adapter: the set's own numbers, and how they were made */
    json_t *meta = metadata_of_job("lost");
    ck_assert_int_eq(rows_of(json_object_get(meta, "metrics"), "class_accuracy"), 3);
    ck_assert_int_eq(rows_of(json_object_get(meta, "metrics"), "fd"), 2);
    ck_assert(value_of(json_object_get(meta, "evaluate"), "neighbours") == K);
    json_decref(meta);
    json_decref(r);
}
END_TEST

/* Margin and sigmas are the spec's, and either alone lets it pass. */
START_TEST(the_rule_is_the_specs) {
    static const char *const keys[] = {"class_margin", "class_sigmas"};
    for (int i = 0; i < 2; i++) {
        json_t *spec = with_obedient_bar(spec_of("made", K));
        json_object_set_new(json_object_get(spec, "gate"), keys[i], json_real(i ? 900 : 1));
        json_t *r = result_of(keys[i], spec, 0);
        ck_assert_str_eq(text_at(bar_of(r), "verdict", NULL), "passed");
        ck_assert(value_of(bar_of(r), "class_z") < -3.5);
        json_decref(r);
    }
}
END_TEST

/* As itself and as a bar it is the same, and then nothing is lost. */
START_TEST(a_bar_is_what_it_was) {
    json_t *was = result_of("first", spec_of("made", K), 0), *spec = spec_of("made", K), *r = NULL;
    char *path = in_tmp("first/adapter.safetensors.zst");
    with_obedient_bar(spec);
    json_object_set_new(json_array_get(json_object_get(spec, "bars"), 0), "adapter",
                        file_json(NULL, path, text_at(was, "adapter", "sha256")));
    r = result_of("second", spec, 0);
    ck_assert(value_of(bar_of(r), "class_bar") == share_in(was, "adapter"));
    ck_assert(value_of(bar_of(r), "class_now") == value_of(bar_of(r), "class_bar"));
    ck_assert(value_of(bar_of(r), "class_z") == 0 && value_of(bar_of(r), "class_error") == 0);
    /* the base's samples have no class to show */
    const json_t *self = json_object_get(json_object_get(was, "gate"), "self"),
                 *base = json_array_get(json_object_get(self, "bars"), 0);
    ck_assert_str_eq(text_at(base, "role", NULL), "base");
    ck_assert(!json_object_get(base, "class_bar"));
    json_decref(was), json_decref(r);
    free(path);
}
END_TEST

/* A job that an earlier program queued measures what it did, and makes the bytes that it did. */
START_TEST(a_spec_of_before) {
    json_t *r = result_of("before", with_obedient_bar(spec_of("made", -1)), 0),
           *off = result_of("off", with_obedient_bar(spec_of("made", 0)), 0),
           *meta = metadata_of_job("before");
    ck_assert_int_eq(rows_of(json_object_get(r, "evaluations"), "class_accuracy"), 0);
    ck_assert_int_eq(rows_of(json_object_get(r, "evaluations"), "fd"), 2);
    ck_assert(!json_object_get(bar_of(r), "class_bar") &&
              !strstr(text_at(bar_of(r), "reason", NULL), "classes"));
    ck_assert(!json_object_get(json_object_get(meta, "evaluate"), "neighbours"));
    ck_assert_int_eq(rows_of(json_object_get(meta, "metrics"), "class_accuracy"), 0);
    ck_assert_str_eq(text_at(r, "adapter", "sha256"), text_at(off, "adapter", "sha256"));
    json_decref(r), json_decref(off), json_decref(meta);
}
END_TEST

START_TEST(one_class_has_none) {
    char *from = in_tmp("made/cool"), *root = in_tmp("single"), *to = in_tmp("single/cool"),
         *manifest = in_tmp("single.ndjson"), sha[DS_HEX_SIZE];
    ds_error err;
    must(ds_fs_mkdirs(root, &err), &err);
    ck_assert(!rename(from, to));
    make_manifest(root, manifest, sha);
    json_t *r = result_of("single-job", spec_of("single", K), 0);
    ck_assert(!rename(to, from));
    ck_assert_int_eq(rows_of(json_object_get(r, "evaluations"), "class_accuracy"), 0);
    ck_assert_int_eq(rows_of(json_object_get(r, "evaluations"), "fd"), 2);
    json_decref(r);
    free(from), free(root), free(to), free(manifest);
}
END_TEST

/* The first two digits, IMAGES of them. */
static void copy_digits(const char *root) {
    ds_error err;
    for (int c = 0; c < 2; c++) {
        char *from = ds_xasprintf("examples/digits/%d", c), *to = ds_xasprintf("%s/%d", root, c);
        must(ds_fs_mkdirs(to, &err), &err);
        DIR *d = opendir(from);
        for (struct dirent *e; (e = readdir(d));) {
            char *path = ds_xasprintf("%s/%s", from, e->d_name), *bytes,
                 *copy = ds_xasprintf("%s/%s", to, e->d_name);
            size_t n;
            if (e->d_name[0] != '.') {
                must(ds_fs_read(path, 1 << 20, &bytes, &n, &err), &err);
                must(ds_fs_write(copy, bytes, n, &err), &err);
                free(bytes);
            }
            free(path), free(copy);
        }
        closedir(d);
        free(from), free(to);
    }
}

enum { IMAGES = 300, HELD = 20 };

static json_t *short_spec(int k) {
    json_t *spec = spec_of("two", k), *train = json_object_get(spec, "train");
    json_object_set_new(train, "steps", json_integer(2));
    json_object_set_new(train, "heldout", json_integer(HELD));
    return spec;
}

/* Of the pictures that stand for a set, those that its training held out. */
START_TEST(a_job_tells_memories) {
    char *root = in_tmp("two"), *manifest = in_tmp("two.ndjson"), sha[DS_HEX_SIZE];
    copy_digits(root);
    make_manifest(root, manifest, sha);
    json_t *r = result_of("two-job", short_spec(K), 0),
           *row = evaluation_of(r, "adapter", "memorised"),
           *chance = evaluation_of(r, "chance", "memorised"), *meta = metadata_of_job("two-job");
    ck_assert(value_of(row, "n_real") == IMAGES && value_of(row, "n_fake") == SAMPLES);
    ck_assert(value_of(chance, "n_real") == IMAGES - HELD);
    ck_assert(value_of(chance, "value") == 0.5);
    ck_assert(value_of(row, "ci_low") < value_of(row, "value") &&
              value_of(row, "ci_high") >= value_of(row, "value"));
    ck_assert_int_eq(rows_of(json_object_get(meta, "metrics"), "memorised"), 2);
    json_decref(r), json_decref(meta);
    r = result_of("two-off", short_spec(0), 0);
    ck_assert_int_eq(rows_of(json_object_get(r, "evaluations"), "memorised"), 0);
    json_decref(r);
    free(manifest), free(root);
}
END_TEST

static void register_cases(TCase *tc) {
    feature_side = "171";
    make_features();
    if (!SANITIZED) {
        fixture_make();
        make_set();
    }
    tcase_add_test(tc, right_and_wrong_labels);
    tcase_add_test(tc, labels_by_chance);
    tcase_add_test(tc, not_measured);
    tcase_add_test(tc, rule_of_classes);
    tcase_add_test(tc, memories_are_seen);
    tcase_add_test(tc, fewer_held_out);
    tcase_add_test(tc, error_of_chance);
    if (SANITIZED)
        return;
    tcase_add_test(tc, each_class_by_itself);
    tcase_add_test(tc, a_version_that_lost_its_classes);
    tcase_add_test(tc, the_rule_is_the_specs);
    tcase_add_test(tc, a_bar_is_what_it_was);
    tcase_add_test(tc, a_spec_of_before);
    tcase_add_test(tc, one_class_has_none);
    tcase_add_test(tc, a_job_tells_memories);
}

int main(int argc, char **argv) {
    int status = fixture_dispatch(argc, argv);
    return status >= 0 ? status : ds_test_main("worker_nearest", register_cases);
}
