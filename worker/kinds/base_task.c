#include "worker/kinds/base_task.h"
#include "base/mem.h"
#include "base/zio.h"
#include "worker/job/stop.h"
#include "worker/measure/task_features.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LEVEL_REFERENCE = 3 };

static const ds_spec_sample how = {.sampler = DS_SAMPLER_DPMPP2M,
                                   .steps = DS_BASE_TASK_STEPS,
                                   .guidance = 1,
                                   .mode = DS_GUIDANCE_NONE};
static const ds_spec_evaluate measured = {
    .n = DS_BASE_TASK_N, .kid_subsets = 100, .kid_subset_size = 50, .seed = DS_BASE_TASK_SEED};

int ds_base_task_wanted(const ds_tools *t) {
    const ds_spec *s = t->job->spec;
    return s->base_task_asked && !s->base_task_known && t->model && !t->base_finding[0] &&
           !t->vae_finding[0] && !t->features_finding[0];
}

double ds_base_task_flop(const ds_base *base) {
    return ds_base_pass_flop(base) * DS_BASE_TASK_STEPS * 2 * DS_BASE_TASK_N;
}

typedef struct {
    ds_tools *tools;
    int classes, *labels; /* (DS_BASE_TASK_N) */
    int64_t *counts;      /* (classes, 1 without any) */
    double before;        /* pictures of the earlier set */
} recording;

static int on_sample(void *user, double done, double total) {
    const recording *r = user;
    (void)total;
    ds_events_progress(r->tools->job->events, r->before + done / 2, 2.0 * DS_BASE_TASK_N,
                       "pictures", NAN, NAN);
    return ds_stop_asked();
}

static int on_distance(void *user, double done, double total) {
    (void)user, (void)done, (void)total;
    return ds_stop_asked();
}

/* Features of the samples of one seed; x is the caller's to free. */
static int features(recording *r, uint64_t seed, ds_feature_set *set, float **x, ds_error *err) {
    ds_feature_net *net = r->tools->features;
    ds_task_samples s = {.tools = r->tools,
                         .model = r->tools->model,
                         .sample = &how,
                         .labels = r->labels,
                         .n = DS_BASE_TASK_N,
                         .seed = seed,
                         .progress = on_sample,
                         .user = r};
    *x = ds_xmalloc((size_t)s.n * (size_t)ds_feature_net_dim(net) * sizeof **x);
    int rc = ds_task_features(&s, *x, err);
    ds_feature_net_describe(net, *x, s.n, set);
    return rc;
}

/* What the reference's samples were made of, in the place of a dataset's digest. */
static void source_digest(const recording *r, char out[DS_HEX_SIZE]) {
    char *text = ds_xasprintf("base=%s n=%d seed=%d steps=%d", r->tools->base->sha256,
                              DS_BASE_TASK_N, DS_BASE_TASK_REFERENCE_SEED, DS_BASE_TASK_STEPS);
    ds_digest(text, strlen(text), out);
    free(text);
}

static int write_reference(recording *r, ds_reference *ref, ds_error *err) {
    char source[DS_HEX_SIZE], *path = ds_job_path(r->tools->job, DS_FILE_BASE_REFERENCE);
    ds_feature_set set;
    float *x;
    source_digest(r, source);
    int rc = features(r, DS_BASE_TASK_REFERENCE_SEED, &set, &x, err);
    if (!rc)
        rc = ds_reference_make_of(
            ref, r->counts, r->classes ? r->classes : 1, DS_BASE_TASK_N, "samples", source, &set,
            ds_feature_net_metric(r->tools->job->spec->feature_net.mode), err);
    if (!rc)
        rc = ds_zio_write_file(path, ref->bytes, ref->size, LEVEL_REFERENCE, err);
    free(path);
    free(x);
    return rc;
}

static int measure(recording *r, json_t *doc, ds_error *err) {
    const ds_spec_net *net = &r->tools->job->spec->feature_net;
    ds_reference ref = {0};
    ds_measure m = {0};
    ds_feature_set set;
    float *x = NULL;
    int rc = ds_tools_features(r->tools, err);
    if (!rc)
        rc = ds_tools_decoder(r->tools, err);
    if (!rc)
        rc = write_reference(r, &ref, err);
    r->before = DS_BASE_TASK_N;
    if (!rc)
        rc = features(r, DS_BASE_TASK_SEED, &set, &x, err);
    if (!rc)
        rc = ds_measure_features(&m, &ref, &set, &measured, 1, on_distance, NULL, err);
    if (!rc) {
        json_object_set_new(doc, "reference",
                            json_pack("{s:s, s:s, s:i}", "file", DS_FILE_BASE_REFERENCE, "sha256",
                                      ref.sha256, "n", DS_BASE_TASK_N));
        json_object_set_new(doc, "fd", ds_json_real(m.fd.fd));
        json_object_set_new(doc, "kid", ds_json_real(m.kid.kid));
        json_object_set_new(doc, "feature_net",
                            json_pack("{s:s, s:s, s:s}", "name", net->name, "sha256", net->sha256,
                                      "mode", ds_fid_mode_name(net->mode)));
    }
    ds_reference_release(&ref);
    free(x);
    return rc;
}

/* Why there is only a probe, or "". */
static void probe_only(const ds_tools *t, char note[256]) {
    double flop = ds_base_task_flop(t->base);
    note[0] = 0;
    if (flop > DS_BASE_TASK_FLOP)
        snprintf(
            note, 256,
            "probe only: %d samples of this base would take %.2g FLOP, more than the %.2g that "
            "are spent on it",
            2 * DS_BASE_TASK_N, flop, DS_BASE_TASK_FLOP);
    else if (t->job->spec->base_probe_only)
        snprintf(note, 256, "probe only: the daemon runs with --base-task probe");
    else if (!t->job->spec->feature_net.path)
        snprintf(note, 256, "probe only: the job had no feature network to measure with");
}

static json_t *new_record(const ds_tools *t, const char *probe, const char *note) {
    const char *const later[] = {"reference", "fd", "kid", "feature_net"};
    json_t *doc = json_pack("{s:{s:s, s:s, s:i, s:i}, s:i, s:i, s:s}", "probe", "device_class",
                            t->dev->device_class, "sha256", probe, "n", DS_BASE_TASK_PROBE_N,
                            "seed", DS_BASE_TASK_PROBE_SEED, "n", *note ? 0 : DS_BASE_TASK_N,
                            "classes", t->base->facts.classes, "note", note);
    for (size_t i = 0; i < sizeof later / sizeof *later; i++)
        json_object_set_new(doc, later[i], json_null());
    json_object_set_new(doc, "sample", ds_spec_sample_json(&how));
    json_object_set_new(doc, "evaluate", ds_spec_evaluate_json(&measured));
    return doc;
}

int ds_base_task_record(ds_tools *t, json_t **out, ds_error *err) {
    char probe[DS_HEX_SIZE], note[256];
    recording r = {.tools = t, .classes = t->base->facts.classes};
    int classes = r.classes ? r.classes : 1;
    probe_only(t, note);
    ds_events_stage(t->job->events, "verify", "recording the base's own %d class%s%s", r.classes,
                    r.classes == 1 ? "" : "es", *note ? ", the probe alone" : "");
    int rc =
        ds_probe(t->model, NULL, &how, DS_BASE_TASK_PROBE_N, DS_BASE_TASK_PROBE_SEED, probe, err);
    if (rc)
        return ds_error_prefix(err, "recording the base's own classes");
    json_t *doc = new_record(t, probe, note);
    r.counts = ds_xmalloc((size_t)classes * sizeof *r.counts);
    r.labels = ds_xmalloc(DS_BASE_TASK_N * sizeof *r.labels);
    for (int i = 0; i < classes; i++)
        r.counts[i] = 1;
    ds_class_labels(r.labels, DS_BASE_TASK_N, r.counts, classes);
    for (int i = 0; !r.classes && i < DS_BASE_TASK_N; i++)
        r.labels[i] = -1;
    if (!*note)
        rc = measure(&r, doc, err);
    free(r.counts);
    free(r.labels);
    if (rc) {
        json_decref(doc);
        return ds_error_prefix(err, "recording the base's own classes");
    }
    *out = doc;
    return 0;
}
