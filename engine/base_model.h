/* engine/base_model.h - the frozen base: configuration, tensors in f32 on the host, identity.
 *
 * File: safetensors with facebookresearch/DiT names (F32 or BF16), and the configuration as JSON in
 * __metadata__["diffscaler.config"].  Identity = SHA-256 of the file's bytes.  Read-only after
 * open; shareable between threads.  Errors: DS_EINTEGRITY (digest, shapes, damage), DS_EINVAL, as
 * ds_fs_read.
 */
#ifndef DS_ENGINE_BASE_MODEL_H
#define DS_ENGINE_BASE_MODEL_H

#include "base/digest.h"
#include "base/json.h"
#include "engine/dit.h"

typedef struct {
    ds_dit_config cfg;
    char name[64];
    char sha256[DS_HEX_SIZE]; /* empty while it has no file */
    ds_params table;
    ds_linear *linears; /* ds_lin_count(&cfg) */
    float *data;        /* table.total floats */
} ds_base;

/* want: the SHA-256 that the file must have, or NULL. */
int ds_base_open(ds_base **out, const char *path, const char *want, ds_error *err);

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
