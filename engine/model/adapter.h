/* engine/model/adapter.h - an adapter: method, parameter table, values, and its file.
 *
 * A method is a set of parts (contract/methods.h), and a part is some entries of the table.
 * Layout of an Affiner on one linear layer, contiguous so that the kernels see stacked segments:
 *   a (m)  b (m)  s (segs)  U (m,r)  V (segs*r, n)      side in: a, b have n elements
 * with one named entry per segment and part ("blocks.0.attn.q.U"); segments that are not targeted
 * are frozen at their start values and not stored.
 *
 * File: one zstd frame around a safetensors file; identity = SHA-256 of the uncompressed file;
 * __metadata__ as docs/formats.md.  What is published is what was evaluated: ds_params_round first.
 * Errors: DS_EINTEGRITY (damage, other base, wrong lengths), DS_EINVAL, DS_ELIMIT, DS_ENEWER (the
 * file is of a newer program).
 */
#ifndef DS_ENGINE_MODEL_ADAPTER_H
#define DS_ENGINE_MODEL_ADAPTER_H

#include "base/json.h"
#include "contract/options.h"
#include "engine/model/base_model.h"
#include "kernels/device.h"

/* What is trained (contract/options.def).  Of no effect where the method has no such part.
 *   rank       0..64; 0 = no low-rank branch
 *   side_in    0 = out;  phi_relu: 0 = identity
 *   freeze_v   V stays at its seeded start and costs nothing in the file
 *   targets    DS_TARGET_* */
typedef struct {
    enum ds_method method;
#define METHOD(...) DS_OPTION_MEMBER(__VA_ARGS__)
#include "contract/options.def"
    int classes;   /* new class rows, M >= 0 (0 only for pretraining) */
    uint64_t seed; /* of the initialisation */
} ds_method_spec;

const char *ds_method_name(enum ds_method m);
int ds_method_from_name(const char *name, enum ds_method *out, ds_error *err);
unsigned ds_method_parts(enum ds_method m);   /* of enum ds_part */
unsigned ds_method_targets(enum ds_method m); /* where no option names any */

typedef struct {
    ds_method_spec spec;
    ds_params table;
    float *data;        /* host, table.total floats */
    char **class_names; /* spec.classes names, owned; NULL when not known */
    json_t *meta; /* the adapter's "diffscaler" metadata object (after reading), owned; or NULL */
    char sha256[DS_HEX_SIZE]; /* of the uncompressed file; empty before it has one */
} ds_adapter;

/* The table of a method on a base. */
void ds_adapter_table(ds_params *table, const ds_base *base, const ds_method_spec *spec);

/* A fresh adapter: at its start the adapted model is the base, bit for bit. */
int ds_adapter_new(ds_adapter **out, const ds_base *base, const ds_method_spec *spec,
                   ds_error *err);
void ds_adapter_free(ds_adapter *a); /* NULL is fine */

/* Where layer `linear`'s adapter lies in a flat array with this table; 0 if it has none.  Offsets
 * are in floats; n counts of each part. */
typedef struct {
    size_t a, b, s, U, V;
    unsigned parts; /* which of them it has, of DS_PARTS_AFFINER */
    int frozen[3];  /* per segment: not targeted */
} ds_adapter_slot;
int ds_adapter_find(const ds_params *table, int linear, int rank, ds_adapter_slot *out);
/* The entry that takes the place of the layer's bias; NULL: the base's stays. */
const ds_param *ds_adapter_bias(const ds_params *table, int linear);
/* Offset of the class rows; SIZE_MAX when there are none. */
size_t ds_adapter_rows(const ds_params *table);

/* Kernel view of a layer's adapter over the flat array p (device memory). */
ds_affiner ds_adapter_view(const ds_method_spec *spec, const ds_layer_shape *lin,
                           const ds_adapter_slot *slot, const float *p);

/* Serialise (uncompressed safetensors bytes, malloc'ed).  meta: JSON object that becomes
 * __metadata__["diffscaler"]; the method, base digest and class names are added here. */
int ds_adapter_encode(const ds_adapter *a, const ds_base *base, json_t *meta, char **out, size_t *n,
                      ds_error *err);

/* DS_ENEWER if the file is of a newer program, by its schema and its method; DS_EINVAL if it is no
 * adapter.  Nothing else is looked at. */
int ds_adapter_check_newer(const char *name, const void *bytes, size_t n, ds_error *err);

/* From the uncompressed bytes (not kept).  Checks the base digest and every length before use. */
int ds_adapter_decode(ds_adapter **out, const ds_base *base, const char *name, const void *bytes,
                      size_t n, ds_error *err);

/* From the zstd file; want = SHA-256 of the uncompressed file or NULL. */
int ds_adapter_open(ds_adapter **out, const ds_base *base, const char *path, const char *want,
                    ds_error *err);

#endif
