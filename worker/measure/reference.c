#include "worker/measure/reference.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/files/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REFERENCE_MAX_MIB = 256, CLASSES_MAX = 100000 };

void ds_reference_release(ds_reference *r) {
    free(r->x);
    free(r->counts);
    free(r->bytes);
    *r = (ds_reference){0};
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

int ds_reference_choose(uint32_t *out, int n, uint64_t seed) {
    if (n <= DS_REFERENCE_IMAGES_MAX) {
        for (int i = 0; i < n; i++)
            out[i] = (uint32_t)i;
        return n;
    }
    uint32_t *order = ds_xmalloc((size_t)n * sizeof *order);
    ds_rng_permutation(order, (uint32_t)n, seed, DS_STREAM_SPLIT, 1); /* step 0: held-out split */
    memcpy(out, order, DS_REFERENCE_IMAGES_MAX * sizeof *out);
    free(order);
    qsort(out, DS_REFERENCE_IMAGES_MAX, sizeof *out, ascending);
    return DS_REFERENCE_IMAGES_MAX;
}

ds_feature_set ds_reference_set(const ds_reference *r) {
    ds_feature_set set = {.x = r->x, .n = r->n, .dim = r->dim};
    memcpy(set.net, r->net, sizeof set.net);
    memcpy(set.resize, r->resize, sizeof set.resize);
    return set;
}

int ds_reference_make(ds_reference *r, const ds_images *images, const char *tree_digest,
                      const ds_feature_set *set, const char *metric, ds_error *err) {
    int64_t *counts = ds_xcalloc((size_t)images->class_count, sizeof *counts);
    for (int i = 0; i < images->n; i++)
        counts[images->labels[i]]++;
    int rc = ds_reference_make_of(r, counts, images->class_count, images->n, DS_PREPARE_ID,
                                  tree_digest, set, metric, err);
    free(counts);
    return rc;
}

int ds_reference_make_of(ds_reference *r, const int64_t *class_counts, int classes, int images,
                         const char *prepare, const char *tree_digest, const ds_feature_set *set,
                         const char *metric, ds_error *err) {
    json_t *counts = json_array();
    r->classes = classes;
    r->counts = ds_xcalloc((size_t)r->classes, sizeof *r->counts);
    for (int c = 0; c < r->classes; c++) {
        r->counts[c] = class_counts[c];
        json_array_append_new(counts, json_integer(r->counts[c]));
    }
    size_t floats = (size_t)set->n * (size_t)set->dim;
    r->x = ds_xmalloc(floats * sizeof *r->x);
    memcpy(r->x, set->x, floats * sizeof *r->x);
    r->n = set->n;
    r->dim = set->dim;
    snprintf(r->net, sizeof r->net, "%s", set->net);
    snprintf(r->resize, sizeof r->resize, "%s", set->resize);
    snprintf(r->tree_digest, sizeof r->tree_digest, "%s", tree_digest);
    json_t *doc =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:o}", "schema", DS_REFERENCE_SCHEMA,
                  "feature_net", set->net, "metric", metric, "resize", set->resize, "prepare",
                  prepare, "tree_digest", tree_digest, "images", images, "class_images", counts);
    char *text = ds_json_canonical(doc);
    json_decref(doc);
    ds_st_writer *w = ds_st_writer_new();
    int64_t shape[2] = {set->n, set->dim};
    ds_st_writer_meta(w, "diffscaler", text);
    ds_st_writer_add(w, "features", DS_ST_F32, 2, shape, r->x);
    int rc = ds_st_writer_finish(w, &r->bytes, &r->size, err);
    ds_st_writer_free(w);
    free(text);
    if (!rc)
        ds_digest(r->bytes, r->size, r->sha256);
    return rc;
}

static int read_counts(ds_reference *r, const char *path, const json_t *doc, ds_error *err) {
    const json_t *list = json_object_get(doc, "class_images");
    size_t n = json_array_size(list), i;
    json_t *v;
    int64_t total = 0;
    if (n < 1 || n > CLASSES_MAX)
        return ds_fail(err, DS_EINTEGRITY, "'%s': class_images has %zu entries", path, n);
    r->classes = (int)n;
    r->counts = ds_xcalloc(n, sizeof *r->counts);
    json_array_foreach(list, i, v) {
        r->counts[i] = json_integer_value(v);
        if (r->counts[i] < 0 || r->counts[i] > (int64_t)1 << 40)
            return ds_fail(err, DS_EINTEGRITY, "'%s': class_images[%zu] is out of range", path, i);
        total += r->counts[i];
    }
    return total > 0 && total <= (int64_t)1 << 40
               ? 0
               : ds_fail(err, DS_EINTEGRITY, "'%s': class_images counts no picture", path);
}

static int read_features(ds_reference *r, const char *path, const ds_st *st, ds_error *err) {
    const ds_st_tensor *t;
    int rc = ds_st_need(st, "features", -1, NULL, &t, err);
    if (rc)
        return rc;
    if (t->ndim != 2 || t->shape[0] < 1 || t->shape[1] < 1 || t->shape[1] > DS_FEATURE_DIM_MAX)
        return ds_fail(err, DS_EINTEGRITY, "'%s': tensor 'features' has a wrong shape", path);
    r->n = t->shape[0];
    r->dim = (int)t->shape[1];
    r->x = ds_xmalloc((t->count + 1) * sizeof *r->x);
    rc = ds_st_read_f32(st, t, r->x, err);
    for (size_t i = 0; !rc && i < t->count; i++)
        if (!isfinite(r->x[i]))
            rc = ds_fail(err, DS_EINTEGRITY, "'%s': a feature is not finite", path);
    return rc;
}

int ds_reference_read(ds_reference *r, const char *path, const char *want, ds_error *err) {
    ds_st *st;
    json_t *doc = NULL;
    *r = (ds_reference){0};
    int rc = ds_st_open_zst(path, (size_t)REFERENCE_MAX_MIB << 20, want, r->sha256, &st, err);
    if (rc)
        return rc;
    const char *text = ds_st_meta(st, "diffscaler");
    if (!text)
        rc = ds_fail(err, DS_EINTEGRITY, "'%s' is not a reference file: no metadata 'diffscaler'",
                     path);
    if (!rc)
        rc = ds_json_parse(path, text, strlen(text), &doc, err);
    if (!rc && strcmp(ds_json_string(doc, "schema", ""), DS_REFERENCE_SCHEMA))
        rc = ds_fail(err, DS_EINTEGRITY, "'%s' is not of schema '%s'", path, DS_REFERENCE_SCHEMA);
    if (!rc) {
        snprintf(r->net, sizeof r->net, "%s", ds_json_string(doc, "feature_net", ""));
        snprintf(r->resize, sizeof r->resize, "%s", ds_json_string(doc, "resize", ""));
        snprintf(r->tree_digest, sizeof r->tree_digest, "%s",
                 ds_json_string(doc, "tree_digest", ""));
        rc = read_counts(r, path, doc, err);
    }
    if (!rc)
        rc = read_features(r, path, st, err);
    json_decref(doc);
    ds_st_free(st);
    if (rc)
        ds_reference_release(r);
    return rc;
}
