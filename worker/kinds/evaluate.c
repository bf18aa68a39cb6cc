/* worker/kinds/evaluate.c - reference features, base, adapter, sheets. */
#include "worker/kinds/evaluate.h"
#include "base/fs.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/zio.h"
#include "worker/measure/classes.h"
#include "worker/measure/feature_cache.h"
#include "worker/images/grid.h"
#include "worker/kinds/evaluate_rows.h"
#include "worker/measure/measure.h"
#include "worker/job/stop.h"
#include "worker/measure/task_features.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS_MIN = 8, COLUMNS_MAX = 16, SHEET_MAX = 64, CELL = 96, LEVEL_REFERENCE = 3 };
enum { PORTION = 64 };      /* pictures in memory at a time */
enum { SHEET_SIDE = 2048 }; /* sheets of large pictures hold fewer of them */

/* The work of the stage in pictures, over its three parts. */
typedef struct {
    const ds_work *job;
    double before, part, total; /* done before this part, its size, all */
} progress_state;

static void report(progress_state *p, double done, double total) {
    double share = total > 0 ? done / total : 0;
    ds_events_progress(p->job->events, p->before + share * p->part, p->total, "pictures", NAN, NAN);
}

static int on_sample(void *user, double done, double total) {
    report(user, done, total);
    return 0;
}

/* Eigenvalues take seconds where features are many. */
static int on_distance(void *user, double done, double total) {
    const progress_state *p = user;
    ds_events_progress(p->job->events, done, total, "parts of the distance", NAN, NAN);
    return ds_stop_asked();
}

static void next_part(progress_state *p, double size) {
    p->before += p->part;
    p->part = size;
}

typedef struct {
    ds_tools *tools;
    const ds_spec *spec;
    const ds_images *images;
    const ds_adapter *adapter;
    progress_state progress;
    ds_reference reference;
    int *real_labels;   /* (reference.n) */
    uint8_t *real_held; /* (reference.n) 1: was held out of training */
    ds_measure base, task;
    ds_classes classes;
    ds_memorised memorised;
    uint8_t *base_pixels; /* COLUMNS_MAX pictures: the first of the base */
    uint8_t *row, *sheet; /* of the adapter: those of grid.png, of samples.png */
    int row_count, sheet_count, row_kept, sheet_kept;
    size_t one; /* bytes of a picture */
} evaluation;

static size_t base_shown(const evaluation *e) {
    size_t n = (size_t)e->spec->evaluate.n;
    return n < COLUMNS_MAX ? n : COLUMNS_MAX;
}

/* ---------------------------------------------------------------- reference */

static void cached_or_warn(evaluation *e, int found, const char *what) {
    if (found < 0)
        ds_events_warning(e->tools->job->events,
                          "the cached %s are damaged; they are computed again", what);
}

static size_t feature_dim(const evaluation *e) {
    return (size_t)ds_feature_net_dim(e->tools->features);
}

static int compute_chosen(evaluation *e, const uint32_t *chosen, int n, float *x, ds_error *err) {
    const ds_images *im = e->images;
    const int most = n < PORTION ? n : PORTION;
    uint8_t *px = ds_xmalloc((size_t)most * e->one);
    int rc = 0;
    for (int first = 0; !rc && first < n; first += most) {
        int B = n - first < most ? n - first : most;
        for (int i = 0; i < B; i++)
            memcpy(px + (size_t)i * e->one, im->pixels + chosen[first + i] * e->one, e->one);
        rc = ds_feature_net_compute(e->tools->features, px, B, im->side,
                                    x + (size_t)first * feature_dim(e), err);
        report(&e->progress, first + B, n);
    }
    free(px);
    return rc;
}

/* What is known of the pictures of the reference. */
static void know_chosen(evaluation *e, const uint32_t *chosen, int n) {
    const ds_train_options *o = &e->spec->train.o;
    const int all = e->images->n;
    uint32_t *order = ds_xmalloc((size_t)all * sizeof *order);
    uint8_t *held = ds_xcalloc((size_t)all, sizeof *held);
    for (int i = all - ds_train_split(order, all, o->heldout, o->seed); i < all; i++)
        held[order[i]] = 1;
    e->real_labels = ds_xmalloc((size_t)n * sizeof *e->real_labels);
    e->real_held = ds_xmalloc((size_t)n * sizeof *e->real_held);
    for (int i = 0; i < n; i++) {
        e->real_labels[i] = e->images->labels[chosen[i]];
        e->real_held[i] = held[chosen[i]];
    }
    free(order);
    free(held);
}

static int make_reference(evaluation *e, const uint32_t *chosen, int n, ds_error *err) {
    const ds_spec *s = e->spec;
    know_chosen(e, chosen, n);
    ds_cached_features c = {.n = n, .dim = ds_feature_net_dim(e->tools->features)};
    ds_feature_set set;
    c.x = ds_xmalloc((size_t)n * feature_dim(e) * sizeof *c.x);
    char *key = ds_xasprintf(
        "reference/1 images=%s n=%d seed=%llu net=%s resize=%s device=%s", e->images->digest, n,
        (unsigned long long)s->evaluate.seed, ds_feature_net_sha256(e->tools->features),
        ds_feature_net_preprocess(e->tools->features), e->tools->dev->device_class);
    int rc = 0, found = ds_feature_cache_load(s->cache_dir, key, &c);
    cached_or_warn(e, found, "features of the dataset");
    if (found <= 0) {
        rc = compute_chosen(e, chosen, n, c.x, err);
        if (!rc)
            rc = ds_feature_cache_save(s->cache_dir, key, &c, err);
    }
    ds_feature_net_describe(e->tools->features, c.x, n, &set);
    if (!rc)
        rc = ds_reference_make(&e->reference, e->images, s->dataset.tree_digest, &set,
                               ds_feature_net_metric(s->feature_net.mode), err);
    free(c.x);
    free(key);
    return rc;
}

/* ---------------------------------------------------------------- base */

/* The base's first pictures are kept with its features. */
static void keep_base(void *user, int i, const uint8_t *rgb) {
    evaluation *e = user;
    if ((size_t)i < base_shown(e))
        memcpy(e->base_pixels + (size_t)i * e->one, rgb, e->one);
}

static int sample_base(evaluation *e, ds_cached_features *c, ds_error *err) {
    const ds_spec *s = e->spec;
    ds_spec_sample how = s->sample;
    how.mode = DS_GUIDANCE_NONE; /* without a label there is nothing to guide by */
    ds_measure_source source = {.features = e->tools->features,
                                .side = e->images->side,
                                .one = e->one,
                                .seed = s->evaluate.seed,
                                .keep = keep_base,
                                .keep_user = e,
                                .progress = on_sample,
                                .user = &e->progress};
    int n = s->evaluate.n, *labels = ds_xmalloc((size_t)n * sizeof *labels);
    for (int i = 0; i < n; i++)
        labels[i] = -1;
    next_part(&e->progress, 2.0 * n);
    int rc = ds_serve_new(&source.serve, e->tools->model, NULL, &how, err);
    if (!rc)
        rc = ds_measure_pictures(&source, labels, n, c->x, c->sample_digest, err);
    ds_serve_free(source.serve);
    free(labels);
    return rc;
}

/* What pictures depend on beside the base: its VAE. */
static const char *vae_of(const evaluation *e) {
    return e->tools->base->facts.pixel ? "" : e->spec->vae.sha256;
}

/* Features of the base's own samples, which depend on no dataset; c->x is the caller's then. */
static int base_features(evaluation *e, ds_cached_features *out, ds_error *err) {
    const ds_spec *s = e->spec;
    int n = s->evaluate.n, rc = 0;
    ds_cached_features c = {.n = n,
                            .dim = ds_feature_net_dim(e->tools->features),
                            .pixel_bytes = base_shown(e) * e->one};
    c.x = ds_xmalloc((size_t)n * feature_dim(e) * sizeof *c.x);
    c.pixels = e->base_pixels = ds_xmalloc(c.pixel_bytes);
    char *key = ds_xasprintf(
        "base/1 base=%s sampler=%s steps=%d n=%d seed=%llu net=%s resize=%s "
        "device=%s rng=%d%s%s",
        e->tools->base->sha256, ds_sampler_name(s->sample.sampler), s->sample.steps, n,
        (unsigned long long)s->evaluate.seed, ds_feature_net_sha256(e->tools->features),
        ds_feature_net_preprocess(e->tools->features), e->tools->dev->device_class, DS_RNG_VERSION,
        vae_of(e)[0] ? " vae=" : "", vae_of(e));
    int found = ds_feature_cache_load(s->base_cache, key, &c);
    cached_or_warn(e, found, "features of the base");
    if (found > 0)
        next_part(&e->progress, 2.0 * n);
    else {
        rc = sample_base(e, &c, err);
        if (!rc)
            rc = ds_feature_cache_save(s->base_cache, key, &c, err);
    }
    free(key);
    *out = c;
    return rc;
}

/* FD and KID of the base itself on this dataset. */
static int measure_base(evaluation *e, ds_error *err) {
    ds_cached_features c;
    ds_feature_set set;
    int rc = base_features(e, &c, err);
    ds_feature_net_describe(e->tools->features, c.x, c.n, &set);
    if (!rc)
        rc = ds_measure_features(&e->base, &e->reference, &set, &e->spec->evaluate, 0, on_distance,
                                 &e->progress, err);
    memcpy(e->base.sample_digest, c.sample_digest, sizeof c.sample_digest);
    free(c.x);
    return rc;
}

/* ---------------------------------------------------------------- the new version */

/* The samples that it is published with; labels has room for them. */
static ds_task_samples new_samples(const evaluation *e, int *labels) {
    const ds_spec *s = e->spec;
    ds_class_labels(labels, s->evaluate.n, e->reference.counts, e->reference.classes);
    return (ds_task_samples){.tools = e->tools,
                             .model = e->tools->model,
                             .adapter = e->adapter,
                             .sample = &s->sample,
                             .labels = labels,
                             .n = s->evaluate.n,
                             .seed = s->evaluate.seed};
}

/* ---------------------------------------------------------------- sheets */

/* Pictures beside each other. */
static int columns_for(int side, int most, int least) {
    int fit = SHEET_SIDE / side < least ? least : SHEET_SIDE / side;
    return fit < most ? fit : most;
}

/* Sample number k of `count` that are shown, spread over all n. */
static int shown_sample(int k, int count, int n) {
    return (int)((2 * (int64_t)k + 1) * n / (2 * count));
}

static void keep_task(void *user, int i, const uint8_t *rgb) {
    evaluation *e = user;
    int n = e->spec->evaluate.n;
    if (e->row_kept < e->row_count && i == shown_sample(e->row_kept, e->row_count, n))
        memcpy(e->row + (size_t)e->row_kept++ * e->one, rgb, e->one);
    if (e->sheet_kept < e->sheet_count && i == shown_sample(e->sheet_kept, e->sheet_count, n))
        memcpy(e->sheet + (size_t)e->sheet_kept++ * e->one, rgb, e->one);
}

/* How many samples are shown, and room for them. */
static void plan_sheets(evaluation *e) {
    int n = e->spec->evaluate.n, side = e->images->side,
        columns = columns_for(side, COLUMNS_MAX, COLUMNS_MIN / 2),
        fit = columns_for(side, COLUMNS_MAX, 2),
        most = fit * fit < SHEET_MAX ? fit * fit : SHEET_MAX;
    e->row_count = n < columns ? n : columns;
    e->sheet_count = n < most ? n : most;
    e->row = ds_xmalloc((size_t)e->row_count * e->one);
    e->sheet = ds_xmalloc((size_t)e->sheet_count * e->one);
}

static int scale_for(int side) { return side < CELL ? CELL / side : 1; }

/* The k-th real picture of a class in a fixed order that depends on the seed; any when the class
 * has none. */
static const uint8_t *real_picture(const evaluation *e, int label, int k) {
    const ds_images *im = e->images;
    uint32_t count = 0, wanted;
    for (int i = 0; i < im->n; i++)
        count += im->labels[i] == label;
    if (!count)
        return im->pixels + (size_t)(k % im->n) * e->one;
    wanted = ds_rng_below(count, e->spec->evaluate.seed, DS_STREAM_SPLIT, 2, (uint64_t)label,
                          (uint32_t)k);
    for (int i = 0; i < im->n; i++)
        if (im->labels[i] == label && wanted-- == 0)
            return im->pixels + (size_t)i * e->one;
    return im->pixels;
}

/* Rows real, base, adapter; a column's real picture and sample are of the same class. */
static int write_grid(const evaluation *e, ds_error *err) {
    int n = e->spec->evaluate.n, side = e->images->side, columns = e->row_count,
        wide = columns_for(side, COLUMNS_MIN, COLUMNS_MIN / 2);
    int *labels = ds_xmalloc((size_t)n * sizeof *labels);
    ds_grid *g = ds_grid_new(3, columns < wide ? wide : columns, side, scale_for(side), 4, 255);
    ds_class_labels(labels, n, e->reference.counts, e->reference.classes);
    for (int c = 0; c < columns; c++) {
        int i = shown_sample(c, columns, n);
        ds_grid_put(g, 0, c, real_picture(e, labels[i], c));
        ds_grid_put(g, 1, c, e->base_pixels + (size_t)c * e->one);
        ds_grid_put(g, 2, c, e->row + (size_t)c * e->one);
    }
    char *path = ds_job_path(e->tools->job, DS_FILE_GRID);
    int rc = ds_grid_write(g, path, err);
    ds_grid_free(g);
    free(path);
    free(labels);
    return rc;
}

static int write_samples(const evaluation *e, ds_error *err) {
    int side = e->images->side, shown = e->sheet_count, columns = ds_grid_columns(shown);
    ds_grid *g =
        ds_grid_new((shown + columns - 1) / columns, columns, side, scale_for(side), 4, 255);
    for (int k = 0; k < shown; k++)
        ds_grid_put(g, k / columns, k % columns, e->sheet + (size_t)k * e->one);
    char *path = ds_job_path(e->tools->job, DS_FILE_SHEET);
    int rc = ds_grid_write(g, path, err);
    ds_grid_free(g);
    free(path);
    return rc;
}

/* ---------------------------------------------------------------- the stage */

/* All that the results depend on. */
static char *stage_key(const evaluation *e) {
    char adapter[DS_HEX_SIZE];
    ds_digest(e->adapter->data, e->adapter->table.total * sizeof(float), adapter);
    json_t *sample = ds_spec_sample_json(&e->spec->sample),
           *how = ds_spec_evaluate_json(&e->spec->evaluate);
    char *a = ds_json_canonical(sample), *b = ds_json_canonical(how);
    char *key = ds_xasprintf(
        "evaluate/1 %s adapter=%s images=%s base=%s net=%s preprocess=%s device=%s sample=%s "
        "evaluate=%s%s%s",
        DS_VERSION, adapter, e->images->digest, e->tools->base->sha256, e->spec->feature_net.sha256,
        ds_fid_mode_preprocess(e->spec->feature_net.mode), e->tools->dev->device_class, a, b,
        vae_of(e)[0] ? " vae=" : "", vae_of(e));
    free(a);
    free(b);
    json_decref(sample);
    json_decref(how);
    return key;
}

/* 1 when an earlier run of this job has finished the stage. */
static int load_stage(const evaluation *e, const char *key, ds_evaluation *out) {
    static const char *const files[] = {DS_FILE_GRID, DS_FILE_SHEET};
    char *path = ds_job_path(e->tools->job, DS_DIR_STAGE "/evaluate.json"),
         *file = ds_job_path(e->tools->job, DS_FILE_REFERENCE);
    json_t *doc = NULL, *rows = NULL, *ref = NULL;
    ds_reference r = {0};
    int ok = !ds_json_read_file(path, 1 << 20, &doc, NULL) &&
             !strcmp(ds_json_string(doc, "key", ""), key) &&
             (rows = json_object_get(doc, "rows")) && (ref = json_object_get(doc, "reference")) &&
             json_is_array(rows) && ds_digest_valid(ds_json_string(ref, "sha256", "")) &&
             !ds_reference_read(&r, file, ds_json_string(ref, "sha256", ""), NULL);
    for (int i = 0; i < 2 && ok; i++) {
        char *p = ds_job_path(e->tools->job, files[i]);
        ok = ds_fs_exists(p);
        free(p);
    }
    if (ok) {
        out->rows = json_incref(rows);
        out->reference = json_incref(ref);
        snprintf(out->sample_digest, sizeof out->sample_digest, "%s",
                 ds_json_string(doc, "sample_digest", ""));
    }
    ds_reference_release(&r);
    json_decref(doc);
    free(path);
    free(file);
    return ok;
}

static int save_stage(const evaluation *e, const char *key, const ds_evaluation *out,
                      ds_error *err) {
    char *dir = ds_job_path(e->tools->job, DS_DIR_STAGE),
         *path = ds_job_path(e->tools->job, DS_DIR_STAGE "/evaluate.json");
    json_t *doc = json_pack("{s:s, s:O, s:O, s:s}", "key", key, "rows", out->rows, "reference",
                            out->reference, "sample_digest", out->sample_digest);
    int rc = ds_fs_mkdirs(dir, err);
    if (!rc)
        rc = ds_json_write_file(path, doc, err);
    json_decref(doc);
    free(dir);
    free(path);
    return rc;
}

static int write_files(evaluation *e, ds_evaluation *out, ds_error *err) {
    char *path = ds_job_path(e->tools->job, DS_FILE_REFERENCE);
    int rc = ds_zio_write_file(path, e->reference.bytes, e->reference.size, LEVEL_REFERENCE, err);
    if (!rc)
        rc = write_grid(e, err);
    if (!rc)
        rc = write_samples(e, err);
    free(path);
    if (rc)
        return rc;
    ds_evaluation_numbers numbers = {.tools = e->tools,
                                     .images = e->images,
                                     .base = &e->base,
                                     .task = &e->task,
                                     .classes = &e->classes,
                                     .memorised = &e->memorised,
                                     .n_real = e->reference.n};
    out->rows = ds_evaluation_rows(&numbers);
    out->reference = json_pack("{s:s, s:s, s:I}", "file", DS_FILE_REFERENCE, "sha256",
                               e->reference.sha256, "n", (json_int_t)e->reference.n);
    memcpy(out->sample_digest, e->task.sample_digest, sizeof out->sample_digest);
    return 0;
}

/* What the real pictures nearest to the samples x tell, which were made for these labels. */
static int measure_nearest(evaluation *e, const float *x, const int *labels, ds_error *err) {
    const ds_spec_evaluate *how = &e->spec->evaluate;
    ds_classes_input in = {.real = ds_reference_set(&e->reference),
                           .real_labels = e->real_labels,
                           .labels = labels,
                           .classes = e->reference.classes,
                           .k = how->neighbours,
                           .seed = how->seed,
                           .progress = on_distance,
                           .user = &e->progress};
    ds_feature_net_describe(e->tools->features, x, how->n, &in.samples);
    if (!how->neighbours) /* as in a spec of before */
        return 0;
    int rc = ds_classes_measure(&e->classes, &in, err);
    return rc ? rc
              : ds_memorised_measure(&e->memorised, &in.real, e->real_held, &in.samples,
                                     on_distance, &e->progress, err);
}

/* Its features are kept for the comparison with its bars, and for when it is one itself. */
static int measure_new(evaluation *e, ds_error *err) {
    const ds_spec *s = e->spec;
    size_t n = (size_t)s->evaluate.n;
    int *labels = ds_xmalloc(n * sizeof *labels);
    float *x = ds_xmalloc(n * feature_dim(e) * sizeof *x);
    ds_task_samples samples = new_samples(e, labels);
    ds_measure_input in = {.model = e->tools->model,
                           .adapter = e->adapter,
                           .features = e->tools->features,
                           .reference = &e->reference,
                           .sample = &s->sample,
                           .evaluate = &s->evaluate,
                           .x = x,
                           .keep = keep_task,
                           .keep_user = e,
                           .progress = on_sample,
                           .distance = on_distance,
                           .user = &e->progress};
    int rc = ds_measure_task(&e->task, &in, err);
    if (!rc)
        rc = ds_task_features_save(&samples, x, e->task.sample_digest, err);
    if (!rc)
        rc = measure_nearest(e, x, labels, err);
    free(labels);
    free(x);
    return rc;
}

static int run_stage(evaluation *e, ds_evaluation *out, ds_error *err) {
    const ds_spec *s = e->spec;
    uint32_t *chosen = ds_xmalloc(DS_REFERENCE_IMAGES_MAX * sizeof *chosen);
    int n = s->evaluate.n, real = ds_reference_choose(chosen, e->images->n, s->evaluate.seed);
    e->progress = (progress_state){.job = e->tools->job, .part = real, .total = real + 4.0 * n};
    int rc = ds_tools_features(e->tools, err);
    if (!rc)
        rc = ds_tools_decoder(e->tools, err);
    if (!rc)
        rc = make_reference(e, chosen, real, err);
    if (!rc)
        rc = measure_base(e, err);
    next_part(&e->progress, 2.0 * n);
    plan_sheets(e);
    if (!rc)
        rc = measure_new(e, err);
    if (!rc)
        rc = write_files(e, out, err);
    free(chosen);
    return rc;
}

int ds_evaluate(ds_tools *tools, const ds_images *images, const ds_adapter *adapter,
                ds_evaluation *out, ds_error *err) {
    evaluation e = {.tools = tools, .spec = tools->job->spec, .images = images, .adapter = adapter};
    e.one = (size_t)images->side * (size_t)images->side * (size_t)images->channels;
    *out = (ds_evaluation){0};
    char *key = stage_key(&e);
    int rc = 0, kept = load_stage(&e, key, out);
    ds_events_stage(tools->job->events, "evaluate", "%d samples%s", e.spec->evaluate.n,
                    kept ? ", as measured before" : "");
    if (!kept && !(rc = run_stage(&e, out, err)))
        rc = save_stage(&e, key, out, err);
    if (!rc) {
        out->metrics = ds_evaluation_metrics(out->rows);
        out->counts = ds_evaluation_counts(images);
    }
    ds_reference_release(&e.reference);
    ds_classes_release(&e.classes);
    free(e.real_labels);
    free(e.real_held);
    free(e.base_pixels);
    free(e.row);
    free(e.sheet);
    free(key);
    if (rc)
        ds_evaluation_release(out);
    return rc;
}

/* ---------------------------------------------------------------- what was measured */

static int load_sets(evaluation *e, ds_evaluated *out, ds_error *err) {
    const ds_spec *s = e->spec;
    uint32_t *chosen = ds_xmalloc(DS_REFERENCE_IMAGES_MAX * sizeof *chosen);
    int real = ds_reference_choose(chosen, e->images->n, s->evaluate.seed);
    ds_cached_features base = {0};
    e->progress =
        (progress_state){.job = e->tools->job, .part = real, .total = real + 4.0 * out->n};
    int rc = make_reference(e, chosen, real, err);
    out->real_labels = e->real_labels;
    free(chosen);
    if (rc)
        return rc;
    rc = base_features(e, &base, err);
    out->base = base.x;
    out->labels = ds_xmalloc((size_t)out->n * sizeof *out->labels);
    out->task = ds_xmalloc((size_t)out->n * feature_dim(e) * sizeof *out->task);
    ds_task_samples samples = new_samples(e, out->labels);
    samples.progress = on_sample;
    samples.user = &e->progress;
    next_part(&e->progress, 2.0 * out->n);
    return rc ? rc : ds_task_features(&samples, out->task, err);
}

int ds_evaluate_sets(ds_tools *tools, const ds_images *images, const ds_adapter *adapter,
                     ds_evaluated *out, ds_error *err) {
    evaluation e = {.tools = tools, .spec = tools->job->spec, .images = images, .adapter = adapter};
    e.one = (size_t)images->side * (size_t)images->side * (size_t)images->channels;
    *out = (ds_evaluated){.n = e.spec->evaluate.n};
    int rc = ds_tools_features(tools, err);
    if (!rc)
        rc = ds_tools_decoder(tools, err);
    if (!rc)
        rc = load_sets(&e, out, err);
    out->real = e.reference;
    free(e.real_held);
    free(e.base_pixels);
    if (rc)
        ds_evaluated_release(out);
    return rc;
}

void ds_evaluated_release(ds_evaluated *e) {
    ds_reference_release(&e->real);
    free(e->real_labels);
    free(e->base);
    free(e->task);
    free(e->labels);
    *e = (ds_evaluated){0};
}

void ds_evaluation_release(ds_evaluation *e) {
    json_decref(e->rows);
    json_decref(e->reference);
    json_decref(e->metrics);
    json_decref(e->counts);
    *e = (ds_evaluation){0};
}
