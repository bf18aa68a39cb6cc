/* tests/worker/test_worker_stages.c - stages of a job one at a time, in this process, on a base that learned
 * nothing: the evaluation and its caches, checkpoints, the class of a sample.  Whole jobs:
 * test_worker_job.c, test_worker_gate.c. */
#include "engine/model/adapter.h"
#include "engine/files/safetensors.h"
#include "tests/fixtures/open_fails.h"
#include "tests/fixtures/worker_fixture.h"
#include "worker/kinds/checkpoint.h"
#include "worker/kinds/evaluate.h"
#include "worker/kinds/evaluate_rows.h"
#include "worker/kinds/kinds.h"

#include <dirent.h>
#include <math.h>

/* ---------------------------------------------------------------- a job's surroundings */

enum { MANY = 9, FEW = 3, ALL = MANY + FEW, SAMPLES = 8 };

/* Two classes that no one takes for the other, three times as many pictures in the first. */
static void make_uneven_set(void) {
    char *root = in_tmp("uneven"), *manifest = ds_xasprintf("%s.ndjson", root), sha[DS_HEX_SIZE];
    ds_error err;
    for (int i = 0; i < ALL; i++) {
        char *dir = ds_xasprintf("%s/%s", root, i < MANY ? "a-many" : "b-few"),
             *path = ds_xasprintf("%s/%02d.png", dir, i);
        uint8_t px[24 * 24 * 3];
        pattern(px, 24, 0, i < MANY, i);
        must(ds_fs_mkdirs(dir, &err), &err);
        must(ds_png_write(path, px, 24, 24, &err), &err);
        free(path);
        free(dir);
    }
    make_manifest(root, manifest, sha);
    free(root);
    free(manifest);
}

typedef struct {
    char *dir;
    ds_spec *spec;
    ds_work job;
    ds_tools tools;
    ds_images *images;
    ds_adapter *adapter; /* as it begins */
} world;

static json_t *uneven_spec(void) {
    json_t *s = train_spec("uneven");
    json_object_set_new(json_object_get(s, "evaluate"), "n", json_integer(SAMPLES));
    return s;
}

static world open_world(const char *name, json_t *spec) {
    world w = {.dir = make_job(name, spec)};
    char *path = ds_xasprintf("%s/spec.json", w.dir);
    ds_error err;
    must(ds_spec_read(path, &w.spec, &err), &err);
    w.job = (ds_work){.dir = w.dir, .spec = w.spec};
    must(ds_events_open(&w.job.events, w.dir, &err), &err);
    free(path);
    return w;
}

/* With the tools of the job; they know where it is. */
static void open_tools(world *w) {
    const ds_spec *s = w->spec;
    ds_prepare_options o = {.root = s->dataset.root,
                            .manifest = s->dataset.manifest,
                            .cache_dir = s->cache_dir,
                            .side = SIDE,
                            .channels = 3};
    ds_method_spec method = s->method;
    ds_error err;
    method.classes = 2;
    must(ds_tools_open(&w->tools, &w->job, 0, &err), &err);
    must(ds_prepare_open(&w->images, &o, NULL, NULL, &err), &err);
    must(ds_adapter_new(&w->adapter, w->tools.base, &method, &err), &err);
}

static void close_world(world *w) {
    ds_adapter_free(w->adapter);
    ds_images_close(w->images);
    if (w->tools.dev)
        ds_tools_close(&w->tools);
    ds_events_close(w->job.events);
    ds_spec_free(w->spec);
    free(w->dir);
}

/* How often the job's events have these words. */
static int said(const world *w, const char *words) {
    char *path = ds_xasprintf("%s/events.ndjson", w->dir), *text;
    size_t n;
    int count = 0;
    ds_error err;
    must(ds_fs_read(path, 1 << 22, &text, &n, &err), &err);
    for (char *at = text; (at = strstr(at, words)); at++)
        count++;
    free(text);
    free(path);
    return count;
}

static char *of_job(const world *w, const char *name) {
    return ds_xasprintf("%s/%s", w->dir, name);
}

static void flip_byte(const char *path, long at) {
    char *bytes;
    size_t n;
    ds_error err;
    must(ds_fs_read(path, 1 << 26, &bytes, &n, &err), &err);
    bytes[at >= 0 ? (size_t)at : n - (size_t)-at] ^= 16;
    must(ds_fs_write(path, bytes, n, &err), &err);
    free(bytes);
}

/* ---------------------------------------------------------------- the evaluation */

static void expect_numbers(const world *w, const ds_evaluation *e) {
    static const char *const subjects[] = {"base", "adapter"};
    ck_assert_uint_eq(json_array_size(e->rows), 4);
    for (size_t i = 0; i < 4; i++) {
        const json_t *row = json_array_get(e->rows, i);
        ck_assert_str_eq(text_at(row, "subject", NULL), subjects[i / 2]);
        ck_assert_str_eq(text_at(row, "metric", NULL), i % 2 ? "kid" : "fd");
        ck_assert_int_eq(ds_json_int(row, "n_real", -1), ALL);
        ck_assert_int_eq(ds_json_int(row, "n_fake", -1), SAMPLES);
        ck_assert_int_eq(ds_json_int(row, "seed", -1), 7);
        ck_assert_str_eq(text_at(row, "feature_net", NULL), w->spec->feature_net.sha256);
        ck_assert(ds_digest_valid(text_at(row, "sample_digest", NULL)));
        ck_assert(isfinite(ds_json_number(row, "value", NAN)));
        const json_t *m = json_array_get(e->metrics, i);
        double value = ds_json_number(row, "value", 0);
        ck_assert(fabs(ds_json_number(m, "value", NAN) - value) <= 1e-5 * fabs(value));
        ck_assert(!json_object_get(m, "ci_low") && json_object_get(m, "n_fake"));
    }
    ck_assert_str_eq(text_at(json_array_get(e->rows, 2), "sample_digest", NULL), e->sample_digest);
    ck_assert_uint_eq(json_array_size(e->metrics), 4);
    ck_assert_int_eq(json_integer_value(json_array_get(e->counts, 0)), MANY);
    ck_assert_int_eq(json_integer_value(json_array_get(e->counts, 1)), FEW);
    char *path = of_job(w, "reference.safetensors.zst");
    ds_reference r;
    ds_error err;
    must(ds_reference_read(&r, path, text_at(e->reference, "sha256", NULL), &err), &err);
    ck_assert(r.n == ALL && r.classes == 2 && r.counts[0] == MANY && r.counts[1] == FEW);
    ck_assert_int_eq(ds_json_int(e->reference, "n", 0), ALL);
    ds_reference_release(&r);
    free(path);
}

/* A sheet as it was drawn: cells of SIDE pixels, enlarged. */
typedef struct {
    uint8_t *rgb;
    int width, scale;
} sheet;

static sheet read_sheet(const world *w, const char *name, int rows, int columns) {
    char *path = of_job(w, name), *bytes, reason[DS_REASON_SIZE];
    size_t n;
    ds_image_info info;
    sheet s = {.scale = 96 / SIDE};
    ds_error err;
    must(ds_fs_read(path, 1 << 24, &bytes, &n, &err), &err);
    ck_assert_msg(
        !ds_decode_rgb(DS_DECODE_TRAIN, (uint8_t *)bytes, n, 1 << 24, &info, &s.rgb, reason), "%s",
        reason);
    ck_assert_int_eq(info.width, columns * 96 + (columns + 1) * 4);
    ck_assert_int_eq(info.height, rows * 96 + (rows + 1) * 4);
    s.width = info.width;
    free(bytes);
    free(path);
    return s;
}

static void cell(const sheet *s, int row, int column, uint8_t px[SIDE * SIDE * 3]) {
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++) {
            int sx = 4 + column * 100 + x * s->scale, sy = 4 + row * 100 + y * s->scale;
            memcpy(px + (y * SIDE + x) * 3,
                   s->rgb + ((size_t)sy * (size_t)s->width + (size_t)sx) * 3, 3);
        }
}

/* Row 0: a picture of the dataset, of the class that the sample below it is of; row 2: the samples
 * that the other sheet has. */
static void expect_sheets(const world *w) {
    enum { BYTES = SIDE * SIDE * 3 };
    uint8_t real[BYTES], base[BYTES], task[BYTES], other[BYTES];
    sheet grid = read_sheet(w, "grid.png", 3, SAMPLES), all = read_sheet(w, "samples.png", 3, 3);
    for (int c = 0; c < SAMPLES; c++) {
        int label = c < 6 ? 0 : 1, found = -1; /* 9 to 3 of 8 samples */
        cell(&grid, 0, c, real);
        cell(&grid, 1, c, base);
        cell(&grid, 2, c, task);
        cell(&all, c / 3, c % 3, other);
        for (int i = 0; i < w->images->n; i++)
            if (!memcmp(w->images->pixels + (size_t)i * BYTES, real, BYTES))
                found = w->images->labels[i];
        ck_assert_msg(found == label, "column %d shows class %d", c, found);
        ck_assert_mem_eq(task, other, BYTES);
        ck_assert(memcmp(base, task, BYTES) || memcmp(base, real, BYTES));
        uint8_t low = 255, high = 0;
        for (int i = 0; i < BYTES; i++) {
            low = base[i] < low ? base[i] : low;
            high = base[i] > high ? base[i] : high;
        }
        ck_assert_int_gt(high, low); /* not an empty cell */
    }
    free(grid.rgb);
    free(all.rgb);
}

/* Measured, as before or not: the numbers are these. */
static void evaluate_again(world *w, const ds_evaluation *want, int kept) {
    ds_evaluation e;
    ds_error err;
    int before = said(w, "as measured before");
    must(ds_evaluate(&w->tools, w->images, w->adapter, &e, &err), &err);
    ck_assert_int_eq(said(w, "as measured before") - before, kept);
    ck_assert(json_equal(e.rows, want->rows) && json_equal(e.reference, want->reference) &&
              json_equal(e.metrics, want->metrics) && json_equal(e.counts, want->counts));
    ck_assert_str_eq(e.sample_digest, want->sample_digest);
    expect_sheets(w);
    ds_evaluation_release(&e);
}

/* The files of features that begin so in their key; NULL ends. */
static char *features_file(const world *w, const char *folder, const char *key) {
    char *dir = ds_xasprintf("%s%s", w->spec->cache_dir, folder), *found = NULL;
    DIR *d = opendir(dir);
    ck_assert_ptr_nonnull(d);
    for (struct dirent *e; !found && (e = readdir(d));) {
        char *path = ds_xasprintf("%s/%s", dir, e->d_name);
        ds_st *st;
        if (!strncmp(e->d_name, "features-", 9) &&
            !ds_st_open_zst(path, 1 << 26, NULL, NULL, &st, NULL)) {
            if (!strncmp(ds_st_meta(st, "key"), key, strlen(key)))
                found = ds_xstrdup(path);
            ds_st_free(st);
        }
        free(path);
    }
    closedir(d);
    free(dir);
    ck_assert_msg(found != NULL, "no features of %s", key);
    return found;
}

/* A folder stands where the file of features is to be: the evaluation ends with that error. */
static void expect_failure(world *w, const char *folder, const char *key) {
    char *file = features_file(w, folder, key), *aside = ds_xasprintf("%s.aside", file),
         *in = ds_xasprintf("%s/x", file), *stage = of_job(w, "stage/evaluate.json");
    ds_evaluation e;
    ds_error err;
    ck_assert(!rename(file, aside));
    must(ds_fs_mkdirs(in, &err), &err);
    ck_assert_int_ne(ds_evaluate(&w->tools, w->images, w->adapter, &e, &err), 0);
    ck_assert_msg(strstr(err.message, file) != NULL, "%s", err.message);
    ck_assert(!e.rows && !e.reference && !e.metrics && !e.counts);
    must(ds_fs_remove(file, &err), &err);
    ck_assert(!rename(aside, file));
    free(file), free(stage), free(aside), free(in);
}

static void spoil(const world *w, const char *name) {
    char *path = of_job(w, name);
    flip_byte(path, -9);
    free(path);
}

START_TEST(an_evaluation_is_measured_once) {
    world w = open_world("evaluate", uneven_spec());
    ds_evaluation e, none;
    ds_error err;
    open_tools(&w);
    must(ds_evaluate(&w.tools, w.images, w.adapter, &e, &err), &err);
    expect_numbers(&w, &e);
    expect_sheets(&w);
    evaluate_again(&w, &e, 1);
    /* it is measured again where something of it is damaged, and ends where it cannot write */
    spoil(&w, "reference.safetensors.zst");
    expect_failure(&w, "", "reference/1");
    must(ds_evaluate(&w.tools, w.images, w.adapter, &none, &err), &err);
    ds_evaluation_release(&none);
    char *path = of_job(&w, "samples.png");
    must(ds_fs_remove(path, &err), &err);
    expect_failure(&w, "", "task/1");
    free(path);
    /* features that were kept and are damaged are computed again, and that is said */
    static const char *const of[][3] = {{"", "reference/1", "cached features of the dataset are"},
                                        {"/base", "base/1", "cached features of the base are"}};
    for (int i = 0; i < 2; i++) {
        path = features_file(&w, of[i][0], of[i][1]);
        flip_byte(path, -30);
        ck_assert_int_eq(said(&w, of[i][2]), !i); /* a folder was there once */
        free(path);
    }
    evaluate_again(&w, &e, 0);
    ck_assert(said(&w, of[0][2]) == 2 && said(&w, of[1][2]) == 1);
    json_t *doc = read_json(w.dir, "stage/evaluate.json"); /* of something else */
    json_object_set_new(doc, "key", json_string("x"));
    path = of_job(&w, "stage/evaluate.json");
    must(ds_json_write_file(path, doc, &err), &err);
    expect_failure(&w, "/base", "base/1");
    free(path);
    json_decref(doc);
    ds_evaluation_release(&e);
    close_world(&w);
}
END_TEST

START_TEST(rows_say_what_is_not_known) {
    world w = open_world("rows", uneven_spec());
    ds_tools t = {.job = &w.job};
    ds_evaluation_value v = {"adapter", "fd", 2.5, 1, NAN, 0, -1, 9, NULL};
    json_t *r = ds_evaluation_row(&v, &t);
    ck_assert(ds_json_number(r, "value", 0) == 2.5 && ds_json_number(r, "ci_low", 0) == 1);
    ck_assert(json_is_null(json_object_get(r, "ci_high")));
    ck_assert_int_eq(ds_json_int(r, "n_real", -1), 0);
    ck_assert(json_is_null(json_object_get(r, "n_fake")));
    ck_assert(json_is_null(json_object_get(r, "sample_digest")));
    ck_assert_int_eq(ds_json_int(r, "seed", 0), 9);
    ck_assert_str_eq(text_at(r, "resize", NULL), "pil-bicubic-1");
    json_decref(r);
    close_world(&w);
}
END_TEST

/* ---------------------------------------------------------------- checkpoints */

static ds_trainer *new_trainer(const world *w) {
    ds_image_set set = {.pixels = w->images->pixels,
                        .labels = w->images->labels,
                        .n = w->images->n,
                        .side = SIDE,
                        .channels = 3,
                        .classes = 2};
    ds_train_options o = w->spec->train.o;
    ds_method_spec method = w->spec->method;
    ds_trainer *t;
    ds_error err;
    method.classes = 2;
    must(ds_trainer_new(&t, w->tools.model, &method, &o, &set, &err), &err);
    return t;
}

static int open_files(void) {
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void put_text(const char *dir, const char *name, const char *text) {
    char *path = ds_xasprintf("%s/%s", dir, name);
    ds_error err;
    must(ds_fs_write(path, text, strlen(text), &err), &err);
    free(path);
}

static void expect_resumed(const world *w, int step, ds_train_record *r) {
    ds_trainer *t = new_trainer(w);
    ds_error err;
    must(ds_checkpoint_resume(&w->job, t, r, &err), &err);
    ck_assert_int_eq(ds_trainer_done(t), step);
    ds_trainer_free(t);
}

START_TEST(checkpoints_are_kept_and_found) {
    world w = open_world("checkpoints", uneven_spec());
    open_tools(&w);
    ds_trainer *t = new_trainer(&w);
    ds_train_report report;
    ds_train_record r = {.seconds = -1}, back;
    char *dir = of_job(&w, "checkpoints"), device[48] = "x";
    ds_error err;
    int files = open_files();
    must(ds_checkpoint_resume(&w.job, t, &r, &err), &err); /* none is there */
    ck_assert(r.seconds == -1 && ds_trainer_done(t) == 0);
    ds_checkpoint_device(&w.job, device);
    ck_assert_str_eq(device, "");
    for (int i = 1; i <= DS_CHECKPOINTS_KEPT + 2; i++) {
        must(ds_trainer_step(t, &report, &err), &err);
        r = (ds_train_record){.seconds = i + 0.25,
                              .step_seconds = i,
                              .first_loss = 0.5,
                              .loss = 0.125 * i,
                              .heldout_start = NAN,
                              .heldout = 3,
                              .heldout_images = 7,
                              .device_class = "cpu-of-the-test"};
        must(ds_checkpoint_save(&w.job, t, &r, &err), &err);
        ck_assert_int_eq(said(&w, "\"type\":\"checkpoint\""), i);
    }
    const int last = DS_CHECKPOINTS_KEPT + 2;
    for (int i = 1; i <= last; i++)
        for (int k = 0; k < 2; k++) { /* the newest ones alone */
            char *path = ds_xasprintf("%s/step-%08d.%s", dir, i, k ? "json" : "safetensors");
            ck_assert_int_eq(ds_fs_exists(path), i > last - DS_CHECKPOINTS_KEPT);
            free(path);
        }
    /* what only looks like one */
    put_text(dir, "step-00000090.safetensors.old", "x");
    put_text(dir, "step-00000000.safetensors", "x");
    put_text(dir, "step-91.json", "{}");
    put_text(dir, "step-.safetensors", "x");
    expect_resumed(&w, last, &back);
    ck_assert(back.seconds == r.seconds && back.step_seconds == r.step_seconds &&
              back.first_loss == 0.5 && back.loss == r.loss && isnan(back.heldout_start) &&
              back.heldout == 3 && back.heldout_images == 7);
    ck_assert_str_eq(back.device_class, "cpu-of-the-test");
    ds_checkpoint_device(&w.job, device);
    ck_assert_str_eq(device, "cpu-of-the-test");
    ck_assert_int_eq(said(&w, "\"type\":\"resumed\""), 1);
    ck_assert_int_eq(open_files(), files);
    /* damaged: the one before it, and it is said; without its record nothing is known of it */
    char *newest = ds_xasprintf("%s/step-%08d.safetensors", dir, last),
         *record = ds_xasprintf("%s/step-%08d.json", dir, last - 1);
    flip_byte(newest, -9);
    must(ds_fs_remove(record, &err), &err);
    expect_resumed(&w, last - 1, &back);
    ck_assert(isnan(back.first_loss) && isnan(back.heldout) && back.seconds == 0 &&
              !*back.device_class);
    ck_assert_int_eq(said(&w, "is damaged; trying the one before it"), 1);
    ck_assert(!ds_fs_exists(newest));
    /* a disk that cannot be read is not damage: nothing is begun anew */
    char *kept = ds_xasprintf("%s/step-%08d.safetensors", dir, last - 1);
    ds_trainer *again = new_trainer(&w);
    open_fails(EIO, 1, "step-0000");
    ck_assert_int_eq(ds_checkpoint_resume(&w.job, again, &back, &err), DS_EIO);
    open_fails(0, 0, NULL);
    ck_assert(ds_fs_exists(kept) && ds_trainer_done(again) == 0);
    ds_trainer_free(again);
    free(kept);
    ds_trainer_free(t);
    free(newest);
    free(record);
    free(dir);
    close_world(&w);
}
END_TEST

/* Whatever cannot be written is an error, and no checkpoint is taken for one. */
START_TEST(checkpoints_that_cannot_be_written) {
    world w = open_world("unwritable", uneven_spec());
    open_tools(&w);
    ds_trainer *t = new_trainer(&w);
    ds_train_report report;
    ds_train_record r = {0};
    char *dir = of_job(&w, "checkpoints");
    ds_error err;
    must(ds_trainer_step(t, &report, &err), &err);
    put_text(w.dir, "checkpoints", "a file");
    ck_assert_int_ne(ds_checkpoint_save(&w.job, t, &r, &err), 0);
    must(ds_fs_remove(dir, &err), &err);
    static const char *const names[] = {"json", "safetensors"};
    for (int i = 0; i < 2; i++) {
        char *path = ds_xasprintf("%s/step-00000001.%s/x", dir, names[i]);
        must(ds_fs_mkdirs(path, &err), &err);
        ck_assert_msg(ds_checkpoint_save(&w.job, t, &r, &err) != 0, "%s", names[i]);
        must(ds_fs_remove(dir, &err), &err);
        free(path);
    }
    ck_assert_int_eq(said(&w, "\"type\":\"checkpoint\""), 0);
    must(ds_checkpoint_save(&w.job, t, &r, &err), &err);
    ds_trainer_free(t);
    free(dir);
    close_world(&w);
}
END_TEST

/* ---------------------------------------------------------------- samples */

/* The classes of the base are numbers below 4. */
START_TEST(classes_of_the_base_are_numbers) {
    static const char *const good[] = {"0", "3"}, *const bad[] = {"-1",
                                                                  "4",
                                                                  "x",
                                                                  "1x",
                                                                  "1.0",
                                                                  "",
                                                                  "99999999999999999999"};
    for (int i = 0; i < 9; i++) {
        json_t *s = json_object();
        set_common(s, "sample");
        json_object_set_new(s, "adapter", json_null());
        json_object_set_new(s, "sample", sample_json());
        json_object_set_new(s, "n", json_integer(1));
        json_object_set_new(s, "seed", json_integer(1));
        json_object_set_new(s, "class", json_string(i < 2 ? good[i] : bad[i - 2]));
        ds_error err = {0};
        if (i >= 2 && !*bad[i - 2]) { /* no text at all is no class in a spec */
            json_decref(s);
            continue;
        }
        world w = open_world("class", s);
        int rc = ds_job_sample(&w.job, &err);
        ck_assert_msg(rc == (i < 2 ? 0 : DS_EINVAL), "%d: %d %s", i, rc, err.message);
        if (rc) {
            char *want = ds_xasprintf("the base has classes 0 to 3, not '%s'", bad[i - 2]);
            ck_assert_str_eq(err.message, want);
            free(want);
        } else {
            json_t *r = read_json(w.dir, "result.json");
            ck_assert_int_eq(ds_json_int(r, "n", 0), 1);
            json_decref(r);
        }
        close_world(&w);
    }
}
END_TEST

/* An adapter with so many classes under TMP/name, of the plain base. */
static json_t *adapter_of(const char *name, int classes) {
    char *base = in_tmp("base.safetensors"), *path = in_tmp(name), *bytes, sha[DS_HEX_SIZE];
    ds_method_spec m = {
        .method = DS_METHOD_EMBEDDING, .rank = 1, .targets = 1, .classes = classes, .seed = 1};
    ds_base *b;
    ds_adapter *a;
    ds_error err;
    size_t n;
    must(ds_base_open(&b, base, NULL, &err), &err);
    must(ds_adapter_new(&a, b, &m, &err), &err);
    a->class_names = ds_xcalloc((size_t)classes + 1, sizeof *a->class_names);
    for (int i = 0; i < classes; i++)
        a->class_names[i] = ds_xasprintf("c%d", i);
    must(ds_adapter_encode(a, b, NULL, &bytes, &n, &err), &err);
    must(ds_zio_write_file(path, bytes, n, 1, &err), &err);
    ds_digest(bytes, n, sha);
    json_t *o = file_json(NULL, path, sha);
    ds_adapter_free(a);
    ds_base_free(b);
    free(bytes);
    free(path);
    free(base);
    return o;
}

/* What is no class is told which there are: all, or the first and how many more. */
START_TEST(classes_of_an_adapter_are_named) {
    static const struct {
        int classes;
        const char *says;
    } cases[] = {{2, "the adapter has no class 'x': it has c0, c1"},
                 {8, "the adapter has no class 'x': it has c0, c1, c2, c3, c4, c5, c6, c7"},
                 {11, "the adapter has no class 'x': it has c0, c1, c2, c3, c4, c5, c6, c7 and 3 "
                      "more"}};
    for (int i = 0; i < 3; i++) {
        json_t *s = json_object();
        set_common(s, "sample");
        json_object_set_new(s, "adapter", adapter_of("classes.zst", cases[i].classes));
        json_object_set_new(s, "sample", sample_json());
        json_object_set_new(s, "n", json_integer(1));
        json_object_set_new(s, "seed", json_integer(1));
        json_object_set_new(s, "class", json_string("x"));
        world w = open_world("named", s);
        ds_error err;
        ck_assert_int_eq(ds_job_sample(&w.job, &err), DS_EINVAL);
        ck_assert_str_eq(err.message, cases[i].says);
        close_world(&w);
    }
}
END_TEST

static json_t *samples_spec(int n, int columns, const char *class) {
    json_t *s = json_object();
    set_common(s, "sample");
    json_object_set_new(s, "adapter", adapter_of("three.zst", 3));
    json_object_set_new(s, "sample", sample_json());
    json_object_set_new(s, "n", json_integer(n));
    json_object_set_new(s, "seed", json_integer(1));
    json_object_set_new(s, "columns", json_integer(columns));
    json_object_set_new(s, "class", class ? json_string(class) : json_null());
    return s;
}

/* As many columns as were asked for, no more than pictures, or about as many as rows; the classes in
 * turn, or the one that was asked for. */
START_TEST(sheets_of_samples) {
    static const struct {
        int n, columns;
        const char *class;
        int wide, high;
    } cases[] = {{1, 0, NULL, 1, 1}, {2, 0, NULL, 2, 1},  {5, 0, NULL, 3, 2}, {5, 2, NULL, 2, 3},
                 {5, 5, "c1", 5, 1}, {5, 99, "c2", 5, 1}, {6, 3, NULL, 3, 2}, {7, 3, NULL, 3, 3}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        world w = open_world("sheets", samples_spec(cases[i].n, cases[i].columns, cases[i].class));
        ds_error err;
        ds_st *st;
        must(ds_job_sample(&w.job, &err), &err);
        sheet s = read_sheet(&w, "grid.png", cases[i].high, cases[i].wide);
        char *path = of_job(&w, "samples.safetensors");
        must(ds_st_open_file(path, 1 << 24, 0, &st, &err), &err);
        const ds_st_tensor *labels = ds_st_find(st, "labels"), *images = ds_st_find(st, "images");
        ck_assert(labels && images && labels->shape[0] == cases[i].n);
        ck_assert_str_eq(ds_st_meta(st, "classes"), "[\"c0\",\"c1\",\"c2\"]");
        for (int k = 0; k < cases[i].n; k++) {
            uint8_t px[SIDE * SIDE * 3];
            int32_t label;
            memcpy(&label, (const char *)labels->data + 4 * k, 4);
            ck_assert_int_eq(label, cases[i].class ? cases[i].class[1] - '0' : k % 3);
            cell(&s, k / cases[i].wide, k % cases[i].wide, px);
            ck_assert_mem_eq(px, (const uint8_t *)images->data + (size_t)k * sizeof px, sizeof px);
        }
        ds_st_free(st);
        free(s.rgb);
        free(path);
        close_world(&w);
    }
}
END_TEST

static void register_cases(TCase *tc) {
    char *base = in_tmp("base.safetensors");
    make_plain_base(base, SIDE, 1); /* so that what it makes is not all the same */
    free(base);
    make_uneven_set();
    tcase_add_test(tc, rows_say_what_is_not_known);
    tcase_add_test(tc, checkpoints_are_kept_and_found);
    tcase_add_test(tc, checkpoints_that_cannot_be_written);
    tcase_add_test(tc, classes_of_the_base_are_numbers);
    tcase_add_test(tc, classes_of_an_adapter_are_named);
    tcase_add_test(tc, sheets_of_samples);
    if (SANITIZED) /* it looks at some hundred pictures */
        return;
    tcase_add_test(tc, an_evaluation_is_measured_once);
}

int main(int argc, char **argv) {
    int status = fixture_dispatch(argc, argv);
    return status >= 0 ? status : ds_test_main("worker_stages", register_cases);
}
