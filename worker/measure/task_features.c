#include "worker/measure/task_features.h"
#include "base/mem.h"
#include "base/rng.h"
#include "worker/measure/feature_cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int ds_task_samples_count(const ds_task_samples *t) {
    int count = 0;
    for (int i = 0; i < t->n; i++)
        count += t->labels[i] != DS_LABEL_SKIPPED;
    return count;
}

/* The numbers themselves: a new version has them before it has a file. */
static char *adapter_key(const ds_adapter *a) {
    char sha[DS_HEX_SIZE];
    if (!a)
        return ds_xstrdup("none");
    ds_digest(a->data, a->table.total * sizeof *a->data, sha);
    const ds_method_spec *m = &a->spec;
    return ds_xasprintf("%s/%s/%d/%d/%d/%u/%d", sha, ds_method_name(m->method), m->rank, m->side_in,
                        m->phi_relu, m->targets, m->classes);
}

static char *key_of(const ds_task_samples *t) {
    const ds_tools *tools = t->tools;
    char labels[DS_HEX_SIZE], *adapter = adapter_key(t->adapter);
    ds_digest(t->labels, (size_t)t->n * sizeof *t->labels, labels);
    json_t *sample = ds_spec_sample_json(t->sample);
    char *how = ds_json_canonical(sample);
    const char *vae = t->model->base->facts.pixel ? "none" : tools->job->spec->vae.sha256;
    char *key = ds_xasprintf(
        "task/1 %s rng=%d base=%s vae=%s adapter=%s sample=%s n=%d seed=%llu labels=%s net=%s "
        "resize=%s device=%s",
        DS_VERSION, DS_RNG_VERSION, t->model->base->sha256, vae, adapter, how, t->n,
        (unsigned long long)t->seed, labels, ds_feature_net_sha256(tools->features),
        ds_feature_net_preprocess(tools->features), tools->dev->device_class);
    free(how);
    free(adapter);
    json_decref(sample);
    return key;
}

static int make(const ds_task_samples *t, ds_cached_features *c, ds_error *err) {
    ds_measure_source source = {.features = t->tools->features,
                                .side = ds_picture_side(t->model),
                                .one = ds_picture_bytes(t->model),
                                .seed = t->seed,
                                .progress = t->progress,
                                .user = t->user};
    int rc = ds_serve_new(&source.serve, t->model, t->adapter, t->sample, err);
    if (!rc)
        rc = ds_measure_pictures(&source, t->labels, t->n, c->x, c->sample_digest, err);
    ds_serve_free(source.serve);
    return rc;
}

int ds_task_features(const ds_task_samples *t, float *x, ds_error *err) {
    const char *dir = t->tools->job->spec->cache_dir;
    ds_cached_features c = {
        .x = x, .n = ds_task_samples_count(t), .dim = ds_feature_net_dim(t->tools->features)};
    char *key = key_of(t);
    int rc = 0, found = ds_feature_cache_load(dir, key, &c);
    if (found < 0)
        ds_events_warning(t->tools->job->events,
                          "the cached features of a version are damaged; they are computed again");
    if (found <= 0) {
        rc = make(t, &c, err);
        if (!rc)
            rc = ds_feature_cache_save(dir, key, &c, err);
    }
    free(key);
    return rc;
}

int ds_task_features_save(const ds_task_samples *t, float *x, const char *sample_digest,
                          ds_error *err) {
    ds_cached_features c = {
        .x = x, .n = ds_task_samples_count(t), .dim = ds_feature_net_dim(t->tools->features)};
    snprintf(c.sample_digest, sizeof c.sample_digest, "%s", sample_digest);
    char *key = key_of(t);
    int rc = ds_feature_cache_save(t->tools->job->spec->cache_dir, key, &c, err);
    free(key);
    return rc;
}
