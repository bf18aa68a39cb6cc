/* engine/model/base_model.h - the frozen base: configuration, tensors in f32 on the host, identity.
 *
 * File: safetensors with facebookresearch/DiT names (F32 or BF16), and the configuration as JSON in
 * __metadata__["diffscaler.config"].  Identity = SHA-256 of the file's bytes.  Read-only after
 * open; shareable between threads.  An open base takes no more memory than its file, or
 * DS_BASE_UNPACKED.  Errors: DS_EINTEGRITY (digest, shapes, damage), DS_EINVAL, as
 * ds_fs_read.
 */
#ifndef DS_ENGINE_MODEL_BASE_MODEL_H
#define DS_ENGINE_MODEL_BASE_MODEL_H

#include "base/digest.h"
#include "base/json.h"
#include "engine/model/dit.h"

typedef struct {
    ds_dit_config cfg;
    char name[64];
    char sha256[DS_HEX_SIZE]; /* empty while it has no file */
    ds_params table;
    ds_layer_shape *layers;
    int layer_count;
    float *data; /* table.total floats; NULL: held as the file has them, see ds_base_values */
    struct ds_st *file; /* what data or the held tensors lie in; NULL: data is its own */
    const struct ds_base_tensor *held; /* with data NULL: one per entry of table */
} ds_base;

/* want: the SHA-256 that the file must have, or NULL.  A file of F32 lies in memory once, as it is.
 * One with BF16 or F16 is unpacked to f32, unless that takes more than DS_BASE_UNPACKED bytes: then
 * its matrices stay as the file has them. */
#define DS_BASE_UNPACKED ((size_t)256 << 20)
int ds_base_open(ds_base **out, const char *path, const char *want, ds_error *err);
/* The same with another bound; 0: never unpack. */
int ds_base_open_within(ds_base **out, const char *path, const char *want, size_t unpacked,
                        ds_error *err);

/* Entry i of the table in f32: where it lies, or unpacked into `room` (its count of floats). */
const float *ds_base_values(const ds_base *base, int i, float *room);
/* Where it lies in f32, NULL if it must be unpacked.  Only matrices may have to be. */
const float *ds_base_held(const ds_base *base, int i);

/* Its numbers as the file has them, where that is BF16 and the base holds it so; else NULL. */
const uint16_t *ds_base_bf16(const ds_base *base, int i);

/* Bytes of the tensors of an open base. */
size_t ds_base_bytes(const ds_base *base);

/* A fresh, initialised base (pretraining, tests). */
int ds_base_new(ds_base **out, const ds_dit_config *cfg, uint64_t seed, ds_error *err);

/* Write the file (weights BF16 when bf16 is set); extra metadata as pairs key, value, ..., NULL. */
int ds_base_save(const ds_base *base, const char *path, int bf16, const char *const *meta,
                 ds_error *err);

/* The configuration as the file's JSON has it; `file` is for messages. */
int ds_dit_config_from_json(ds_dit_config *c, const char *file, const char *text, ds_error *err);
json_t *ds_dit_config_to_json(const ds_dit_config *c); /* new reference */

void ds_base_free(ds_base *base); /* NULL is fine */

#endif
