/* engine/model/dit.h - the shape of a DiT, and the one list of its tensors and layers.
 *
 * Exactly facebookresearch/DiT models.py: any patch, width,
 * depth, heads, side, channels and class count; pixel space or latents.  Names are those of its
 * state_dict.
 */
#ifndef DS_ENGINE_MODEL_DIT_H
#define DS_ENGINE_MODEL_DIT_H

#include "engine/model/base_model.h"

typedef struct ds_dit_config {
    int channels, side, patch; /* image (channels, side, side), tokens of patch x patch */
    int width, depth, heads, mlp_ratio;
    int classes;           /* base classes; the unconditional ("null") row is row `classes` */
    int learn_sigma;       /* 1: 2*channels outputs [eps | v] */
    int freq_dim;          /* timestep features, 256 */
    int time_shift;        /* 0: facebook (i/half), 1: diffusers (i/(half-1)) */
    int guidance_channels; /* guidance acts on the first so many channels; 0 = all */
    int norm2_eps_e6;      /* eps of a block's second LayerNorm, in 1e-6: facebook 1, diffusers 10;
                              0 counts as 1 */
    int pixel;             /* 1: pixel space in [-1,1]: x0 is clipped while sampling */
    int train_steps;       /* T of the noise schedule, 1000; 0 of a flow, and so are the betas */
    double beta_start, beta_end;
    ds_flow flow;
    double latent_scale; /* latents are the VAE's times this, 0.18215; 0: pixels */
} ds_dit_config;

/* Order of layers: three embedders, five a block, two at the end. */
enum { DS_LIN_PATCH, DS_LIN_TIME0, DS_LIN_TIME2, DS_LIN_BLOCKS };
enum { DS_LIN_QKV, DS_LIN_PROJ, DS_LIN_FC1, DS_LIN_FC2, DS_LIN_ADALN, DS_LIN_PER_BLOCK };
static inline int ds_lin_block(int block, int which) {
    return DS_LIN_BLOCKS + block * DS_LIN_PER_BLOCK + which;
}
static inline int ds_lin_final_adaln(const ds_dit_config *c) { return ds_lin_block(c->depth, 0); }
static inline int ds_lin_final(const ds_dit_config *c) { return ds_lin_block(c->depth, 0) + 1; }
static inline int ds_lin_count(const ds_dit_config *c) { return ds_lin_block(c->depth, 0) + 2; }

/* Entry of the table with the position embedding. */
enum { DS_DIT_POSITIONS };

static inline int ds_dit_tokens(const ds_dit_config *c) {
    return (c->side / c->patch) * (c->side / c->patch);
}
static inline int ds_dit_out_channels(const ds_dit_config *c) {
    return c->channels * (c->learn_sigma ? 2 : 1);
}

/* Refuses shapes that the kernels or the limits cannot take, naming the field. */
int ds_dit_check(const ds_dit_config *c, ds_error *err);
ds_facts ds_dit_facts(const ds_dit_config *c);

/* The tensors of the state_dict in file order, and layer i of ds_lin_count. */
void ds_dit_tensors(ds_params *table, const ds_dit_config *c);
ds_layer_shape ds_dit_layer(const ds_dit_config *c, int i);

/* The 2-D sin-cos position embedding, (tokens, width). */
void ds_dit_positions(float *pos, const ds_dit_config *c);

/* Initialise a fresh model as DiT.initialize_weights (xavier, sin-cos positions, adaLN-Zero). */
void ds_dit_init(float *data, const ds_params *table, const ds_dit_config *c, uint64_t seed);

/* The configuration as a file's JSON has it; `file` is for messages. */
int ds_dit_config_from_json(ds_dit_config *c, const char *file, const char *text, ds_error *err);
int ds_dit_config_read(ds_dit_config *c, const json_t *doc, ds_error *err); /* not checked */
json_t *ds_dit_config_to_json(const ds_dit_config *c);                      /* new reference */

/* A base that is a DiT. */
static inline int ds_dit_base_new(ds_base **out, const ds_dit_config *c, uint64_t seed,
                                  ds_error *err) {
    return ds_base_new(out, &ds_dit_arch, c, seed, err);
}
static inline ds_dit_config *ds_dit_config_of(const ds_base *base) {
    DS_ASSERT(base->arch == &ds_dit_arch);
    return base->config;
}

#endif
