/* engine/model/params.h - a set of parameters: one flat f32 array and a table of names.
 *
 * AdamW, EMA, gradient norm, checkpoint, file and tests are each one pass over the array; the table
 * says what lies where.  The same table describes a base, an Affiner set or a full copy.
 */
#ifndef DS_ENGINE_MODEL_PARAMS_H
#define DS_ENGINE_MODEL_PARAMS_H

#include <stddef.h>
#include <stdint.h>

enum ds_param_kind {
    DS_PARAM_WEIGHT, /* matrix of a linear layer */
    DS_PARAM_BIAS,
    DS_PARAM_TABLE, /* the base's class embedding */
    DS_PARAM_FIXED, /* position embedding */
    DS_PARAM_A,     /* Affiner scale, init 1 */
    DS_PARAM_B,     /* Affiner shift, init 0 */
    DS_PARAM_S,     /* low-rank scalar, init 0 */
    DS_PARAM_U,     /* Kaiming normal */
    DS_PARAM_V,     /* Kaiming normal */
    DS_PARAM_ROWS   /* new class rows, init = the base's unconditional row */
};

typedef struct {
    char name[80];
    enum ds_param_kind kind;
    int ndim, shape[4];
    size_t offset, count; /* floats, in the flat array */
    int frozen;           /* not trained (lr factor 0) and not stored */
    int linear;           /* index of the linear layer it belongs to, or -1 */
} ds_param;

typedef struct {
    ds_param *items;
    int count;
    size_t total; /* floats */
} ds_params;

/* Append an entry; returns its index. */
int ds_params_add(ds_params *p, const char *name, enum ds_param_kind kind, int ndim,
                  const int *shape, int frozen, int linear);
const ds_param *ds_params_find(const ds_params *p, const char *name); /* NULL: not there */
size_t ds_params_trained(const ds_params *p); /* floats that are not frozen */
void ds_params_release(ds_params *p);

/* Storage type of an entry in a file: U, V and weights BF16, all else F32. */
int ds_param_stored_bf16(const ds_param *e);

/* Round the entries that are stored as BF16 to what the file will hold (nearest even).  Frozen
 * entries are not stored: they are made again from the seed, so they keep their bits. */
void ds_params_round(const ds_params *p, float *data);

#endif
