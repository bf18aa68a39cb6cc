/* worker/kinds/train_job.c - job kind "train": pictures in, a verified adapter out.
 *
 *   check     base, feature network and old adapters are the registered bytes
 *   prepare   decode, crop, resize (cached by content)
 *   train     checkpoints; the only stage that stops with one when asked to
 *   evaluate  FD and KID of base and adapter, sheets
 *   verify    the gate
 *   package   the adapter file and its probe, result.json
 *
 * A retry goes through the same stages; what is finished is found and kept.  The adapter's bytes
 * depend on spec and device class alone, so nothing about time or place goes into them; but for
 * max_time, where somebody wants the clock to decide how many steps it has. */
#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/zio.h"
#include "worker/kinds/kinds.h"
#include "worker/kinds/base_task.h"
#include "worker/kinds/checkpoint.h"
#include "worker/kinds/evaluate.h"
#include "worker/kinds/evaluate_rows.h"
#include "worker/kinds/gate.h"
#include "worker/images/latents.h"
#include "worker/job/memory.h"
#include "worker/measure/plan.h"
#include "worker/measure/serve.h"
#include "worker/job/stop.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LEVEL_ADAPTER = 19, LISTED_MAX = 20 };

typedef struct {
    const ds_work *job;
    const ds_spec *spec;
    ds_tools tools;
    ds_images *images;
    ds_latents *latents;   /* of a latent base */
    ds_method_spec method; /* with the number of classes */
    ds_train_options options;
    ds_plan plan;
    ds_train_record record;
    int resumed_from;
    int steps;           /* that were done */
    const char *ended;   /* why they are less than were asked for; NULL: they are not */
    ds_adapter *adapter; /* decoded from the bytes it will be published with */
    ds_evaluation evaluation;
    ds_gate gate;
    json_t *base_task; /* recorded by this job; NULL: nothing to record */
} train_job;

/* ---------------------------------------------------------------- memory */

/* Of what is trained on: pixels, or mean and log variance, and those of the mirror images. */
static double image_bytes(const train_job *t) {
    const ds_facts *c = &t->tools.base->facts;
    double one = (double)c->side * c->side * c->channels;
    return !t->images ? 0 : t->images->n * one * (c->pixel ? 1 : t->options.flip ? 16 : 8);
}

/* Of the VAE: the encoder before training, the decoder after it. */
static double vae_bytes(const train_job *t) {
    size_t e = 0, d = 0;
    if (!t->tools.base->facts.pixel)
        ds_tools_vae_bytes(&t->tools, &e, &d);
    return (double)(e > d ? e : d);
}

static double feature_bytes(const train_job *t) {
    return (double)ds_feature_net_bytes(t->tools.dev, t->spec->feature_net.mode);
}

/* Refuse what cannot fit, saying what would; recompute activations if that helps. */
static int plan_memory(train_job *t, ds_error *err) {
    const ds_spec *s = t->spec;
    ds_plan_input in = {.images = image_bytes(t),
                        .features = feature_bytes(t) + vae_bytes(t),
                        .distance = (double)ds_measure_distance_bytes(s->feature_net.mode),
                        .limit = ds_plan_limit(s->device.memory_limit),
                        .most = ds_plan_most(s->device.memory_limit),
                        .held = (double)ds_model_bytes(t->tools.dev, t->tools.base),
                        .nets = 1 + ds_guidance_needs_base(ds_spec_guidance(&s->sample, 0))};
    t->options.recompute = 0;
    return ds_plan_memory(&t->plan, t->tools.dev, t->tools.base, &t->method, &t->options, &in, err);
}

/* How long it will take, measured; then the plan is said, before anything is trained. */
static int plan_time(train_job *t, ds_error *err) {
    int rc = ds_plan_time(&t->plan, t->tools.dev, t->tools.base, &t->method, &t->options, err);
    if (rc)
        return rc;
    json_t *doc = ds_plan_json(&t->plan);
    ds_events_plan(t->job->events, doc);
    json_decref(doc);
    ds_plan_print(stderr, &t->plan);
    return 0;
}

/* ---------------------------------------------------------------- prepare */

static int on_prepare(void *user, double done, double total) {
    const train_job *t = user;
    ds_events_progress(t->job->events, (double)done, (double)total, "images", NAN, NAN);
    return 0;
}

/* Pictures -> latents, as far as they are not in the cache. */
static int encode(train_job *t, ds_error *err) {
    const ds_spec *s = t->spec;
    const ds_facts *c = &t->tools.base->facts;
    ds_latents_options o = {.images = t->images,
                            .dev = t->tools.dev,
                            .vae_path = s->vae.path,
                            .vae_sha256 = s->vae.sha256,
                            .cache_dir = s->cache_dir,
                            .channels = c->channels,
                            .side = c->side,
                            .mirrored = t->options.flip};
    ds_events_stage(t->job->events, "encode", "%dx%d images to %dx%dx%d latents%s",
                    t->tools.picture_side, t->tools.picture_side, c->channels, c->side, c->side,
                    t->options.flip ? ", both ways round" : "");
    int rc = ds_latents_open(&t->latents, &o, on_prepare, t, err);
    if (!rc && t->latents->damaged)
        ds_events_warning(t->job->events, "%lld cached latents were damaged and are computed again",
                          (long long)t->latents->damaged);
    return rc;
}

static int prepare(train_job *t, ds_error *err) {
    const ds_spec *s = t->spec;
    const ds_facts *c = &t->tools.base->facts;
    int rc = plan_memory(t, err); /* fills the plan also when it refuses */
    ds_events_stage(t->job->events, "prepare",
                    "%dx%d; device %s, %d thread%s; training needs %.0f MiB of %.0f MiB",
                    t->tools.picture_side, t->tools.picture_side, t->tools.dev->device_class,
                    t->tools.dev->threads, t->tools.dev->threads == 1 ? "" : "s",
                    t->plan.peak / (1 << 20), t->plan.limit / (1 << 20));
    if (rc)
        return rc;
    if ((rc = ds_sampler_check(s->sample.sampler, c, err))) /* long before it is needed */
        return rc;
    if (c->pixel && c->channels != 3)
        return ds_fail(err, DS_EINVAL, "base '%s' works on %d channels; images have 3",
                       s->base.name, c->channels);
    ds_prepare_options o = {.root = s->dataset.root,
                            .no_links = 1,
                            .manifest = s->dataset.manifest,
                            .cache_dir = s->cache_dir,
                            .side = t->tools.picture_side,
                            .channels = 3};
    if ((rc = ds_prepare_open(&t->images, &o, on_prepare, t, err)))
        return rc;
    const ds_images *im = t->images;
    if (strcmp(im->manifest_digest, s->dataset.tree_digest))
        return ds_fail(err, DS_EINTEGRITY,
                       "the manifest of dataset '%s' is damaged: its sha256 is %s, must be %s",
                       s->dataset.name, im->manifest_digest, s->dataset.tree_digest);
    if (im->cache_was_damaged)
        ds_events_warning(t->job->events,
                          "the cache of prepared images was damaged and is rebuilt");
    for (int64_t i = 0; i < im->rejected.listed && i < LISTED_MAX; i++)
        ds_events_warning(t->job->events, "image '%s' is left out: %s", im->rejected.items[i].path,
                          im->rejected.items[i].reason);
    if (im->rejected.count > LISTED_MAX)
        ds_events_warning(t->job->events, "and %lld more images are left out",
                          (long long)(im->rejected.count - LISTED_MAX));
    t->method.classes = im->class_count;
    if (!s->train.dropout_given)
        t->options.label_dropout = im->class_count > 1 ? 0.1 : 0;
    rc = plan_memory(t, err);
    if (!rc)
        rc = plan_time(t, err);
    return rc || c->pixel ? rc : encode(t, err);
}

/* ---------------------------------------------------------------- train */

static void note_loss(ds_train_record *r, double loss) {
    if (!isfinite(r->first_loss))
        r->first_loss = r->loss = loss;
    r->loss += 0.05 * (loss - r->loss);
}

static int heldout(train_job *t, ds_trainer *tr, ds_error *err) {
    ds_train_record *r = &t->record;
    int rc = ds_trainer_heldout(tr, &r->heldout, err);
    if (rc)
        return rc;
    if (!isfinite(r->heldout_start))
        r->heldout_start = r->heldout;
    ds_events_metric(t->job->events, "heldout_loss", ds_trainer_done(tr), r->heldout);
    return 0;
}

static void say_progress(const train_job *t, const ds_trainer *tr) {
    const ds_train_record *r = &t->record;
    const int done = ds_trainer_done(tr);
    ds_events_progress(t->job->events, done, ds_trainer_course(tr)->last, "steps", r->loss,
                       done * (double)t->options.batch / fmax(r->step_seconds, 1e-9));
}

static int one_step(train_job *t, ds_trainer *tr, ds_error *err) {
    ds_train_record *r = &t->record;
    ds_train_report report;
    double begin = ds_monotonic();
    int rc = ds_trainer_step(tr, &report, err);
    if (rc)
        return rc;
    r->step_seconds += ds_monotonic() - begin;
    note_loss(r, report.loss);
    say_progress(t, tr);
    return 0;
}

static int every(int step, int period, int last) { return step % period == 0 || step == last; }

/* The step after which the parameters are looked at next, or the clock where that may end it. */
static int next_look(const train_job *t, const ds_trainer *tr) {
    const int h = t->spec->train.o.heldout_every, e = t->spec->train.o.checkpoint_every;
    const int done = ds_trainer_done(tr), held = (done / h + 1) * h, save = (done / e + 1) * e;
    double left = ds_trainer_deadline(tr) - t->record.seconds;
    int look = ds_trainer_course(tr)->last;
    look = held < look ? held : look;
    look = save < look ? save : look;
    if (isfinite(left)) /* at the pace so far */
        look = (int)fmin(look, done + fmax(1, floor(left * done / t->record.seconds)));
    return look;
}

/* Says that the end is another one now. */
static void say_ending(const train_job *t, const ds_trainer *tr, const char *why) {
    const ds_train_course *c = ds_trainer_course(tr);
    say_progress(t, tr); /* of the new total, where this step is the end */
    if (c->last == ds_trainer_done(tr))
        ds_events_ending(t->job->events, why, c->from, c->last,
                         "max_time of %.4g s is over: the end is this step, %d",
                         t->options.max_time, c->last);
    else if (!strcmp(why, "patience"))
        ds_events_ending(t->job->events, why, c->from, c->last,
                         "the held-out loss has not fallen for %d look%s: the rate falls from step "
                         "%d on, the end is step %d",
                         c->waited, c->waited == 1 ? "" : "s", c->from, c->last);
    else
        ds_events_ending(t->job->events, why, c->from, c->last,
                         "max_time of %.4g s is nearly over: the rate falls from step %d on, the "
                         "end is step %d",
                         t->options.max_time, c->from, c->last);
}

/* What the clock, and the held-out loss where it is looked at, make of the course of the run. */
static int look(train_job *t, ds_trainer *tr, ds_error *err) {
    if (ds_trainer_time(tr, t->record.seconds))
        say_ending(t, tr, "time");
    const int done = ds_trainer_done(tr), period = t->spec->train.o.heldout_every;
    if (!every(done, period, ds_trainer_course(tr)->last))
        return 0;
    int rc = heldout(t, tr, err);
    if (!rc && done % period == 0 && ds_trainer_look(tr, t->record.heldout))
        say_ending(t, tr, "patience");
    return rc;
}

static int loop(train_job *t, ds_trainer *tr, ds_error *err) {
    const double before = t->record.seconds, begin = ds_monotonic();
    int rc = 0;
    if (!isfinite(t->record.heldout_start))
        rc = heldout(t, tr, err);
    while (!rc && ds_trainer_done(tr) < ds_trainer_course(tr)->last) {
        ds_trainer_ahead(tr, ds_stop_asked() ? 0 : next_look(t, tr));
        rc = one_step(t, tr, err);
        t->record.seconds = before + ds_monotonic() - begin;
        if (rc || ds_trainer_busy(tr))
            continue;
        int stop = ds_stop_asked();
        rc = look(t, tr, err);
        const int done = ds_trainer_done(tr), last = ds_trainer_course(tr)->last;
        t->record.seconds = before + ds_monotonic() - begin;
        if (!rc && (every(done, t->spec->train.o.checkpoint_every, last) || stop))
            rc = ds_checkpoint_save(t->job, tr, &t->record, err);
        if (!rc && stop && done < last) {
            ds_events_stopped(t->job->events, "asked to stop; a checkpoint is saved");
            rc = ds_fail(err, DS_ECANCELED, "stopped at step %d of %d", done, last);
        }
    }
    return rc;
}

static int train(train_job *t, ds_adapter **result, ds_error *err) {
    const ds_images *im = t->images;
    const ds_facts *c = &t->tools.base->facts;
    ds_image_set set = {.pixels = im->pixels,
                        .labels = im->labels,
                        .n = im->n,
                        .side = c->side,
                        .channels = c->channels,
                        .classes = im->class_count};
    if (t->latents) {
        set.pixels = NULL;
        set.latents[0] = t->latents->of[0];
        set.latents[1] = t->latents->of[1];
        set.latents_digest = t->latents->digest;
        set.latent_scale = t->tools.latent_scale;
    }
    ds_trainer *tr = NULL;
    ds_events_stage(
        t->job->events, "train",
        "%s on %d images of %d class%s, %s%d steps of %d; planned: %.0f MiB, %.3g s a step",
        ds_method_name(t->method.method), im->n, im->class_count, im->class_count == 1 ? "" : "es",
        t->options.patience > 0 || t->options.max_time > 0 ? "at most " : "", t->options.steps,
        t->options.batch, t->plan.peak / (1 << 20), t->plan.step_seconds);
    t->record =
        (ds_train_record){.first_loss = NAN, .loss = NAN, .heldout_start = NAN, .heldout = NAN};
    int rc = ds_trainer_new(&tr, t->tools.model, &t->method, &t->options, &set, err);
    if (rc)
        return rc;
    ds_stop_defer(1);
    rc = ds_checkpoint_resume(t->job, tr, &t->record, err);
    t->resumed_from = ds_trainer_done(tr);
    snprintf(t->record.device_class, sizeof t->record.device_class, "%s",
             t->tools.dev->device_class);
    if (!rc)
        rc = loop(t, tr, err);
    if (rc != DS_ECANCELED)
        ds_stop_defer(0);
    t->steps = ds_trainer_done(tr);
    t->ended = ds_trainer_course(tr)->ended;
    int held = ds_train_heldout(im->n, t->options.heldout);
    t->record.heldout_images = held ? held : im->n < 64 ? im->n : 64;
    if (!rc)
        rc = ds_trainer_result(tr, result, err);
    ds_trainer_free(tr);
    return rc;
}

/* ---------------------------------------------------------------- the adapter file */

static void name_classes(ds_adapter *a, const ds_images *im) {
    a->class_names = ds_xcalloc((size_t)im->class_count + 1, sizeof *a->class_names);
    for (int i = 0; i < im->class_count; i++)
        a->class_names[i] = ds_xstrdup(im->class_names[i]);
}

static json_t *train_json(const train_job *t) {
    const ds_train_options *o = &t->options;
    json_t *doc = json_object();
#define OF_INT(value) json_integer(value)
#define OF_SEED(value) json_integer((json_int_t)(value))
#define OF_NUM(value) json_real(value)
#define OF_BOOL(value) json_boolean(value)
#define TRAIN(name, flag, key, member, type, ...)                                                  \
    json_object_set_new(doc, #key, OF_##type(o->member));
#include "contract/options.def"
    json_object_set_new(doc, "warmup", json_real(o->warmup)); /* as it has been from the first */
    json_object_del(doc, "checkpoint_every"); /* what is trained does not depend on these two */
    if (o->patience <= 0 && o->max_time <= 0) /* .. but where a look may end it */
        json_object_del(doc, "heldout_every");
    if (o->patience <= 0) /* as it was written before there were these */
        json_object_del(doc, "patience");
    if (o->max_time <= 0)
        json_object_del(doc, "max_time");
    if (o->trained_guidance <= 0) {
        json_object_del(doc, "trained_guidance");
        json_object_del(doc, "trained_guidance_low");
    }
    return doc;
}

/* All of "diffscaler" that ds_adapter_encode does not add itself (docs/formats.md). */
static json_t *metadata(const train_job *t) {
    const ds_spec *s = t->spec;
    json_t *doc = json_object(), *rows = t->evaluation.metrics;
    json_object_set_new(doc, "name", json_string(s->name));
    json_object_set_new(doc, "dataset",
                        json_pack("{s:s, s:s, s:i, s:O}", "name", s->dataset.name, "tree_digest",
                                  s->dataset.tree_digest, "images", t->images->n, "class_images",
                                  t->evaluation.counts));
    json_object_set_new(doc, "prepare", json_string(DS_PREPARE_ID));
    if (!t->tools.base->facts.pixel)
        json_object_set_new(doc, "vae",
                            json_pack("{s:s, s:f}", "sha256", s->vae.sha256, "latent_scale",
                                      t->tools.latent_scale));
    json_object_set_new(doc, "train", train_json(t));
    json_object_set_new(doc, "steps", json_integer(t->steps));
    if (t->ended)
        json_object_set_new(doc, "ended", json_string(t->ended));
    json_object_set_new(doc, "seed", json_integer((json_int_t)t->options.seed));
    json_object_set_new(doc, "sample", ds_spec_sample_json(&s->sample));
    json_object_set_new(doc, "evaluate", ds_spec_evaluate_json(&s->evaluate));
    json_object_set_new(doc, "feature_net",
                        json_pack("{s:s, s:s, s:s}", "name", s->feature_net.name, "sha256",
                                  s->feature_net.sha256, "metric",
                                  ds_feature_net_metric(s->feature_net.mode)));
    json_object_set_new(doc, "resize", json_string(ds_fid_mode_preprocess(s->feature_net.mode)));
    json_object_set(doc, "metrics", rows);
    json_object_set_new(doc, "sample_digest", json_string(t->evaluation.sample_digest));
    json_object_set_new(doc, "engine", json_string(DS_VERSION));
    json_object_set_new(doc, "rng", json_integer(DS_RNG_VERSION));
    json_object_set_new(doc, "device_class", json_string(t->tools.dev->device_class));
    return doc;
}

/* Replace *a by what a reader of its file gets, so that exactly that is evaluated and probed. */
static int through_file(const train_job *t, ds_adapter **a, json_t *meta, char **bytes, size_t *n,
                        ds_error *err) {
    ds_adapter *read = NULL;
    int rc = ds_adapter_encode(*a, t->tools.base, meta, bytes, n, err);
    if (!rc && (rc = ds_adapter_decode(&read, t->tools.base, "the new adapter", *bytes, *n, err)))
        free(*bytes);
    if (rc)
        return rc;
    ds_adapter_free(*a);
    *a = read;
    return 0;
}

static size_t stored_floats(const ds_params *table) { return ds_params_trained(table); }

/* Writes the file; *entry = "adapter" of result.json. */
static int package(train_job *t, json_t **entry, json_t **probe, ds_error *err) {
    const ds_spec *s = t->spec;
    char *bytes = NULL, *z = NULL, zsha[DS_HEX_SIZE], psha[DS_HEX_SIZE];
    size_t n = 0, zn = 0;
    json_t *meta = metadata(t);
    ds_events_stage(t->job->events, "package", "%zu parameters, zstd level %d",
                    stored_floats(&t->adapter->table), LEVEL_ADAPTER);
    int rc = through_file(t, &t->adapter, meta, &bytes, &n, err);
    json_decref(meta);
    if (!rc)
        rc = ds_zio_compress(bytes, n, LEVEL_ADAPTER, &z, &zn, err);
    char *path = ds_job_path(t->job, DS_FILE_ADAPTER);
    if (!rc)
        rc = ds_fs_write(path, z, zn, err);
    if (!rc)
        rc = ds_probe(t->tools.model, t->adapter, &s->sample, s->probe.n, s->probe.seed, psha, err);
    if (!rc) {
        ds_digest(z, zn, zsha);
        *entry = json_pack("{s:s, s:s, s:I, s:I, s:s, s:I}", "file", DS_FILE_ADAPTER, "sha256",
                           t->adapter->sha256, "raw_bytes", (json_int_t)n, "stored_bytes",
                           (json_int_t)zn, "stored_sha256", zsha, "parameters",
                           (json_int_t)stored_floats(&t->adapter->table));
        *probe = json_pack("{s:s, s:s, s:i, s:I}", "device_class", t->tools.dev->device_class,
                           "sha256", psha, "n", s->probe.n, "seed", (json_int_t)s->probe.seed);
    }
    free(path);
    free(bytes);
    free(z);
    return rc;
}

/* ---------------------------------------------------------------- result */

static void add_heldout(const train_job *t, json_t *rows) {
    const ds_train_record *r = &t->record;
    ds_evaluation_value v = {.subject = "adapter",
                             .metric = "heldout_loss",
                             .value = r->heldout,
                             .lo = NAN,
                             .hi = NAN,
                             .n_real = r->heldout_images,
                             .n_fake = -1,
                             .seed = t->options.seed};
    json_array_append_new(rows, ds_evaluation_row(&v, &t->tools));
    v.metric = "heldout_loss_start";
    v.value = r->heldout_start;
    json_array_append_new(rows, ds_evaluation_row(&v, &t->tools));
}

/* Pictures that the scan took and that could not be decoded. */
static void add_rejected(const train_job *t, json_t *doc) {
    json_t *list = json_array();
    for (int64_t i = 0; t->images && i < t->images->rejected.listed; i++)
        json_array_append_new(list,
                              json_pack("{s:s, s:s}", "path", t->images->rejected.items[i].path,
                                        "reason", t->images->rejected.items[i].reason));
    json_object_set_new(doc, "rejected", list);
    json_object_set_new(doc, "rejected_count",
                        json_integer(t->images ? t->images->rejected.count : 0));
}

/* Takes adapter and probe, which are NULL when nothing was trained. */
static json_t *result_json(const train_job *t, json_t *adapter, json_t *probe) {
    const ds_train_record *r = &t->record;
    int trained = adapter != NULL;
    json_t *doc = json_pack("{s:s, s:s, s:s}", "schema", DS_SCHEMA_TRAIN, "status",
                            ds_gate_refuses(&t->gate) ? "rejected" : "ok", "device_class",
                            t->tools.dev->device_class);
    json_object_set_new(doc, "adapter", trained ? adapter : json_null());
    json_object_set_new(doc, "probe", trained ? probe : json_null());
    json_object_set(doc, "reference", trained ? t->evaluation.reference : json_null());
    json_t *rows = trained ? json_copy(t->evaluation.rows) : json_array();
    if (trained)
        add_heldout(t, rows);
    json_object_set_new(doc, "evaluations", rows);
    json_object_set_new(doc, "gate", ds_gate_json(&t->gate));
    if (t->base_task)
        json_object_set(doc, "base_task", t->base_task);
    json_object_set_new(doc, "images", json_integer(t->images ? t->images->n : 0));
    json_object_set_new(doc, "classes", json_integer(t->images ? t->images->class_count : 0));
    add_rejected(t, doc);
    json_object_set_new(doc, "steps", json_integer(trained ? t->steps : 0));
    if (trained && t->ended)
        json_object_set_new(doc, "ended", json_string(t->ended));
    json_object_set_new(doc, "resumed_from_step", json_integer(t->resumed_from));
    json_object_set_new(doc, "train_seconds", json_real(r->seconds));
    json_object_set_new(doc, "images_per_second",
                        ds_json_real(r->step_seconds > 0
                                         ? (double)t->steps * t->options.batch / r->step_seconds
                                         : 0));
    json_object_set_new(doc, "loss",
                        json_pack("{s:o, s:o}", "first",
                                  ds_json_real(trained ? r->first_loss : NAN), "last",
                                  ds_json_real(trained ? r->loss : NAN)));
    json_object_set_new(doc, "grid", trained ? json_string(DS_FILE_GRID) : json_null());
    json_object_set_new(doc, "samples", trained ? json_string(DS_FILE_SHEET) : json_null());
    json_object_set_new(doc, "peak_bytes", ds_json_real(ds_memory_peak()));
    json_object_set_new(doc, "plan", trained ? ds_plan_json(&t->plan) : json_null());
    return doc;
}

/* Something that is registered is not what it was: measure what that does, and train nothing.
 * There is no adapter to reject, so the job fails for its integrity; result.json has the verdict.
 */
static int refuse_early(train_job *t, ds_error *err) {
    int rc = ds_gate_run(&t->tools, &t->gate, err);
    if (rc)
        return rc;
    if (!t->gate.refused && t->tools.features_finding[0]) /* no old task needs it, this one does */
        return ds_fail(err, DS_EINTEGRITY, "%s", t->tools.features_finding);
    if (!t->gate.refused) /* it was repaired in the meantime */
        return ds_fail(err, DS_EBUSY, "a registered file changed while it was being checked");
    rc = ds_job_finish(t->job, result_json(t, NULL, NULL), err);
    return rc ? rc
              : ds_fail(err, DS_EINTEGRITY, "refused by the gate before training: %.450s",
                        t->gate.reason);
}

static int finish(train_job *t, json_t *adapter, json_t *probe, ds_error *err) {
    int rc = ds_job_finish(t->job, result_json(t, adapter, probe), err);
    if (!rc && ds_gate_refuses(&t->gate))
        rc = ds_fail(err, DS_EREFUSED, "refused by the gate: %.450s", t->gate.reason);
    return rc;
}

static int run(train_job *t, ds_error *err) {
    json_t *entry = NULL, *probe = NULL;
    char *bytes = NULL;
    size_t n;
    int rc = prepare(t, err);
    if (!rc)
        rc = train(t, &t->adapter, err);
    if (rc)
        return rc;
    name_classes(t->adapter, t->images);
    rc = through_file(t, &t->adapter, NULL, &bytes, &n, err);
    if (rc)
        return rc;
    free(bytes);
    rc = ds_evaluate(&t->tools, t->images, t->adapter, &t->evaluation, err);
    if (!rc)
        rc = ds_gate_run(&t->tools, &t->gate, err);
    if (!rc)
        rc = ds_gate_new_version(&t->tools, t->images, t->adapter, &t->gate, err);
    if (!rc && ds_base_task_wanted(&t->tools))
        rc = ds_base_task_record(&t->tools, &t->base_task, err);
    if (!rc)
        rc = package(t, &entry, &probe, err);
    return rc ? rc : finish(t, entry, probe, err);
}

static int made_on_gpu(const ds_work *job) {
    char made[48];
    ds_checkpoint_device(job, made);
    return !strncmp(made, "cuda", 4);
}

/* A checkpoint goes on only on the kind of device that made it (its numbers are of that one): where
 * nobody insisted on a device, one from a GPU waits for the GPU. */
static int same_device(const train_job *t, ds_error *err) {
    const char *why = t->tools.dev->no_gpu;
    if (strcmp(ds_job_device(t->job), "auto") || !t->tools.dev->host_memory || !made_on_gpu(t->job))
        return 0;
    return ds_fail(err, DS_EBUSY,
                   "its checkpoint was made on a GPU, which cannot be used now%s%.200s: bring the "
                   "GPU back, or cancel the job and train again on the device cpu",
                   *why ? ": " : "", why);
}

/* *too_large: no room on a GPU, and there would be none if nothing else ran there. */
static int train_once(const ds_work *job, int *too_large, ds_error *err) {
    const ds_spec *s = job->spec;
    train_job t = {.job = job, .spec = s, .method = s->method, .options = s->train.o};
    t.gate.worst = -1;
    t.method.classes = 1; /* not known before prepare */
    if (t.options.micro_batch == 0)
        t.options.micro_batch = t.options.batch;
    int rc = ds_tools_open(&t.tools, job, s->task_count + s->base_task_known > 0, err);
    if (rc)
        return rc;
    rc = same_device(&t, err);
    if (!rc)
        rc = ds_gate_check_newer(s, err);
    if (!rc)
        rc = ds_gate_preflight(&t.tools) ? refuse_early(&t, err) : run(&t, err);
    *too_large = rc && t.plan.own && t.plan.never;
    if (*too_large && made_on_gpu(job)) { /* it fitted, when less else was there */
        *too_large = 0;
        ds_error e = *err;
        rc = ds_fail(err, DS_ENOMEM, "%s", e.message);
    }
    json_decref(t.base_task);
    ds_gate_release(&t.gate);
    ds_evaluation_release(&t.evaluation);
    ds_adapter_free(t.adapter);
    ds_latents_close(t.latents);
    ds_images_close(t.images);
    ds_tools_close(&t.tools);
    return rc;
}

int ds_job_train(const ds_work *job, ds_error *err) {
    ds_work on_cpu = *job;
    int too_large = 0, rc = train_once(job, &too_large, err);
    if (!rc || !too_large || strcmp(ds_job_device(job), "auto"))
        return rc;
    ds_events_warning(job->events, "the processor does it: %s", err->message);
    on_cpu.device = "cpu";
    return train_once(&on_cpu, &too_large, err);
}
