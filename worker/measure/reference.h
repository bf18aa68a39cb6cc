/* worker/measure/reference.h - features of real pictures, kept with an adapter so that it can be
 * measured again on any machine, without the pictures.
 *
 * File (docs/formats.md): one zstd frame around a safetensors file with the tensor "features"
 * (n, dim) F32; identity = SHA-256 of the uncompressed bytes.
 *
 * Ownership: read/make/release.  Thread: any.  Errors: DS_EINTEGRITY (damage, other digest,
 * lengths).
 */
#ifndef DS_WORKER_MEASURE_REFERENCE_H
#define DS_WORKER_MEASURE_REFERENCE_H

#include "engine/metrics/features.h"
#include "worker/images/prepare.h"

#define DS_REFERENCE_SCHEMA "diffscaler.reference/1"
#define DS_REFERENCE_IMAGES_MAX 1024 /* sets up to this are taken whole */

typedef struct {
    float *x; /* (n, dim) */
    int64_t n;
    int dim;
    char net[DS_HEX_SIZE], resize[32], tree_digest[DS_HEX_SIZE];
    int64_t *counts; /* (classes) pictures of each class in the whole dataset */
    int classes;
    char sha256[DS_HEX_SIZE]; /* of the uncompressed file */
    char *bytes;              /* the uncompressed file; NULL after ds_reference_read */
    size_t size;
} ds_reference;

void ds_reference_release(ds_reference *r);

/* Which pictures stand for a dataset: all up to the maximum, else that many drawn with
 * DS_STREAM_SPLIT, ascending.  Returns how many; out has room for DS_REFERENCE_IMAGES_MAX. */
int ds_reference_choose(uint32_t *out, int n, uint64_t seed);

/* Serialise r->x and what belongs to it into r->bytes, r->sha256.  class counts from images;
 * metric: what distances made with the set are called. */
int ds_reference_make(ds_reference *r, const ds_images *images, const char *tree_digest,
                      const ds_feature_set *set, const char *metric, ds_error *err);

/* The same for features that are not of a dataset's pictures: counts (classes), how many in all and
 * how they were prepared are given. */
int ds_reference_make_of(ds_reference *r, const int64_t *counts, int classes, int images,
                         const char *prepare, const char *tree_digest, const ds_feature_set *set,
                         const char *metric, ds_error *err);

/* From the zstd file; want = SHA-256 of the uncompressed bytes, or NULL. */
int ds_reference_read(ds_reference *r, const char *path, const char *want, ds_error *err);

/* As a set for comparison (borrows). */
ds_feature_set ds_reference_set(const ds_reference *r);

#endif
