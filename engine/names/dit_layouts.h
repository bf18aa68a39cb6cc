/* engine/names/dit_layouts.h - a DiT as other programs lay it out, for writing (dit_names.h reads).
 *
 * FACEBOOK: facebookresearch/DiT's state_dict.  DIFFUSERS: DiTTransformer2DModel (q, k, v apart;
 * timestep and class embedders copied into every block; positions not stored).
 *
 * Thread: any.  Errors: DS_EINVAL, naming what the layout cannot hold.
 * Source: diffusers scripts/convert_dit_to_diffusers.py; facebookresearch/DiT models.py.
 */
#ifndef DS_ENGINE_NAMES_DIT_LAYOUTS_H
#define DS_ENGINE_NAMES_DIT_LAYOUTS_H

#include "engine/model/base_model.h"

enum ds_layout { DS_LAYOUT_FACEBOOK, DS_LAYOUT_DIFFUSERS };

const char *ds_layout_reader(enum ds_layout layout); /* who reads it */

/* Can it hold this base at all? */
int ds_layout_check(const ds_base *base, enum ds_layout layout, ds_error *err);

/* What its readers take for granted although the base has it otherwise, in words; malloc'ed.  NULL:
 * nothing. */
char *ds_layout_differences(const ds_base *base, enum ds_layout layout);

/* Makes the base what readers take it for; undo puts it back. */
typedef struct {
    int time_shift, norm2_eps_e6;
} ds_layout_properties;
ds_layout_properties ds_layout_assume(ds_base *base, enum ds_layout layout);
void ds_layout_undo(ds_base *base, ds_layout_properties was);

/* DIFFUSERS: module of layer i, segment g, in block copy `block`; how many copies there are. */
void ds_layout_module(const ds_base *base, int i, int g, int block, char out[96]);
int ds_layout_copies(const ds_base *base, int i);

/* DIFFUSERS: all tensors in order: `rows` rows from row0 of an entry of the base's table; rows 0:
 * all of it. */
typedef void ds_layout_tensor(void *user, const char *name, int entry, size_t row0, size_t rows);
void ds_layout_tensors(const ds_base *base, ds_layout_tensor *tensor, void *user);

/* DIFFUSERS: the transformer's config.json, new reference.  FACEBOOK: the call that makes the
 * model, malloc'ed.  Both for so many classes. */
json_t *ds_layout_config(const ds_base *base, int classes);
char *ds_layout_constructor(const ds_base *base, int classes);

#endif
