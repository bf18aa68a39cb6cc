/* engine/names/dit_names.h - a DiT in other programs' files: its configuration, and its tensors
 * under our names (those of facebookresearch/DiT).
 *
 * Two layouts: facebook and diffusers
 * (DiTTransformer2DModel: q, k, v apart; timestep and class embedders copied into every block,
 * which must agree; positions not stored).  What differs between the two in behaviour becomes
 * properties of the base: time_shift, norm2_eps_e6, guidance_channels (reference section 2.3).
 *
 * Configuration: __metadata__ "diffscaler.config" (a canonical file), else the shapes, checked
 * against config.json and scheduler_config.json of a diffusers folder where these are there.  Every
 * tensor of the source must be known, so that another architecture is not taken for a DiT.
 *
 * Ownership: open/free; borrows the ds_weights, which must outlive it.  Thread: one at a time.
 * Errors: DS_EINVAL naming tensor or field; as ds_weights_read.
 * Source: facebookresearch/DiT models.py; diffusers scripts/convert_dit_to_diffusers.py.
 */
#ifndef DS_ENGINE_NAMES_DIT_NAMES_H
#define DS_ENGINE_NAMES_DIT_NAMES_H

#include "engine/model/arch.h"
#include "engine/files/weights.h"

typedef struct ds_dit_names ds_dit_names;

/* heads: for a DiT that is none of S, B, L, XL and comes without config.json; 0 = find out. */
int ds_dit_names_open(ds_dit_names **out, ds_weights *w, int heads, ds_error *err);
void ds_dit_names_free(ds_dit_names *d); /* NULL is fine */

struct ds_dit_config;
const struct ds_dit_config *ds_dit_names_config(const ds_dit_names *d);
ds_facts ds_dit_names_facts(const ds_dit_names *d);
/* The configuration for the base's file, with this scale of latents; new reference. */
json_t *ds_dit_names_json(const ds_dit_names *d, double latent_scale);
/* What it predicts, where the source says it by a scheduler or a configuration of ours
 * (DS_FLOW_NONE: noise, or it does not say); and found out otherwise. */
void ds_dit_names_set_flow(ds_dit_names *d, const ds_flow *flow);
/* Has it tensors of REPA's training?  They are left out, which the report says. */
int ds_dit_names_repa(const ds_dit_names *d);
const ds_params *ds_dit_names_table(const ds_dit_names *d); /* ds_dit_tensors of the config */
const char *ds_dit_names_layout(const ds_dit_names *d);     /* "facebook DiT", "diffusers DiT" */

/* Entry i of the table: BF16 where the source has nothing else, F32 in all other cases. */
enum ds_st_dtype ds_dit_names_dtype(const ds_dit_names *d, int i);
/* Its numbers in that type, and always as f32.  dst: count * size. */
int ds_dit_names_read(const ds_dit_names *d, int i, void *dst, ds_error *err);
int ds_dit_names_read_f32(const ds_dit_names *d, int i, float *dst, ds_error *err);

#endif
