/* engine/names/vae_names.h - the three spellings of an AutoencoderKL's tensors, and their way to
 * the canonical one.
 *
 * Canonical = current diffusers ("encoder.mid_block.attentions.0.to_q.weight", (512,512)), listed
 * by ds_vae_tensors (engine/vae/vae.h).  Also read: diffusers before 0.18
 * (query/key/value/proj_attn) and CompVis LDM ("encoder.mid.attn_1.q.weight", (512,512,1,1), levels
 * of the decoder counted from the other end, with or without "first_stage_model.").
 * Sources: diffusers modeling_utils and convert_ldm_vae_checkpoint; latent-diffusion model.py.
 */
#ifndef DS_ENGINE_NAMES_VAE_NAMES_H
#define DS_ENGINE_NAMES_VAE_NAMES_H

#include "engine/vae/vae.h"
#include "engine/files/weights.h"

/* Configuration of a source: its config.json, else from the shapes (then norm_num_groups 32 and
 * scaling_factor 0.18215); and every canonical tensor is there with the right number of values.
 * *spelling, for people: "diffusers", "diffusers before 0.18" or "LDM".  DS_EINVAL names what is
 * missing, wrong, or not known. */
int ds_vae_names_open(ds_weights *w, ds_vae_config *c, const char **spelling, ds_error *err);

/* The source's tensor for a canonical one; DS_EINVAL when there is none of that size. */
int ds_vae_names_find(const ds_weights *w, const ds_vae_config *c, const char *name, int ndim,
                      const int64_t *shape, const ds_weights_tensor **out, ds_error *err);

json_t *ds_vae_config_to_json(const ds_vae_config *c); /* new reference */

#endif
