/* engine/vae_names.h - an AutoencoderKL's tensors: canonical names, and the three spellings they
 * come in.
 *
 * Canonical = current diffusers ("encoder.mid_block.attentions.0.to_q.weight", (512,512)).  Also
 * read: diffusers before 0.18 (query/key/value/proj_attn) and CompVis LDM
 * ("encoder.mid.attn_1.q.weight", (512,512,1,1), levels of the decoder counted from the other end,
 * with or without "first_stage_model.").  Sources: reference section 2.7; diffusers modeling_utils
 * and convert_ldm_vae_checkpoint.
 *
 * The canonical file is safetensors with exactly these tensors (F32 or BF16) and __metadata__
 * diffscaler.kind = "vae", diffscaler.vae = the configuration as JSON.  A network is built from
 * that file only.
 */
#ifndef DS_ENGINE_VAE_NAMES_H
#define DS_ENGINE_VAE_NAMES_H

#include "engine/weights.h"

enum { DS_VAE_LEVELS_MAX = 8 };

typedef struct {
    int in_channels, out_channels, latent_channels;
    int levels, block_out[DS_VAE_LEVELS_MAX]; /* channels of each level: 128 256 512 512 */
    int layers_per_block;                     /* of the encoder; the decoder has one more */
    int norm_groups;                          /* 32, eps 1e-6 */
    double scaling_factor;                    /* 0.18215 */
} ds_vae_config;

typedef struct {
    char name[96];
    int ndim;
    int64_t shape[4];
} ds_vae_tensor;

int ds_vae_config_check(const ds_vae_config *c, ds_error *err);
int ds_vae_config_from_json(ds_vae_config *c, const char *file, const char *text, ds_error *err);
json_t *ds_vae_config_to_json(const ds_vae_config *c); /* new reference */

/* The canonical tensors in file order (248 for sd-vae-ft); malloc'ed, returns how many. */
int ds_vae_tensors(const ds_vae_config *c, ds_vae_tensor **out);

/* Configuration of a source: its config.json, else from the shapes; and every canonical tensor
 * found with the right number of values under one spelling (*spelling: for people).  DS_EINVAL
 * names what is missing or wrong. */
int ds_vae_names_open(const ds_weights *w, ds_vae_config *c, const char **spelling, ds_error *err);

/* The source's tensor for a canonical one; DS_EINVAL when it has none of that size. */
int ds_vae_names_find(const ds_weights *w, const ds_vae_config *c, const ds_vae_tensor *t,
                      const ds_weights_tensor **out, ds_error *err);

#endif
