/* engine/model/base_model.h - the frozen base: architecture, tensors in f32 on the host, identity.
 *
 * File: safetensors with the names of the base's architecture (F32 or BF16), and the configuration
 * as JSON in __metadata__["diffscaler.config"].  Identity = SHA-256 of the file's bytes.  Read-only
 * after open; shareable between threads.  An open base takes no more memory than its file, or
 * DS_BASE_UNPACKED.  Errors: DS_EINTEGRITY (digest, shapes, damage), DS_EINVAL, as
 * ds_fs_read.
 */
#ifndef DS_ENGINE_MODEL_BASE_MODEL_H
#define DS_ENGINE_MODEL_BASE_MODEL_H

#include "base/digest.h"
#include "base/json.h"
#include "engine/model/arch.h"

typedef struct {
    const ds_arch *arch;
    void *config; /* what the arch knows of it: of arch->config_size bytes */
    ds_facts facts;
    char name[64];
    char sha256[DS_HEX_SIZE]; /* empty while it has no file */
    ds_params table;
    ds_layer_shape *layers;
    int layer_count;
    int classes_entry; /* of the table: the class table, (facts.classes + 1, row_width) */
    int row_width;
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

/* A fresh, initialised base (pretraining, tests); config is copied.  The same, as another base is
 * but with so many blocks. */
int ds_base_new(ds_base **out, const ds_arch *arch, const void *config, uint64_t seed,
                ds_error *err);
int ds_base_new_blocks(ds_base **out, const ds_base *like, int blocks, uint64_t seed,
                       ds_error *err);

/* Write the file (weights BF16 when bf16 is set); extra metadata as pairs key, value, ..., NULL. */
int ds_base_save(const ds_base *base, const char *path, int bf16, const char *const *meta,
                 ds_error *err);

/* The configuration as the file's JSON has it; new reference. */
json_t *ds_base_config(const ds_base *base);

/* Figures for plans (ds_arch). */
double ds_base_workspace(const ds_base *base, const ds_device *dev, int rows);
double ds_base_block_flop(const ds_base *base, int full);
double ds_base_pass_flop(const ds_base *base);

/* Are they alike but for their classes? */
int ds_base_alike(const ds_base *a, const ds_base *b);

void ds_base_free(ds_base *base); /* NULL is fine */

#endif
