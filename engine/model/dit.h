/* engine/model/dit.h - the shape of a DiT, and the one list of its tensors and linear layers.
 *
 * Exactly facebookresearch/DiT models.py: any patch, width,
 * depth, heads, side, channels and class count; pixel space or latents.  Names are those of its
 * state_dict.
 */
#ifndef DS_ENGINE_MODEL_DIT_H
#define DS_ENGINE_MODEL_DIT_H

#include "base/error.h"
#include "engine/model/params.h"

typedef struct {
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
    int train_steps;       /* T of the noise schedule, 1000 */
    double beta_start, beta_end;
    double latent_scale; /* latents are the VAE's times this, 0.18215; 0: pixels */
} ds_dit_config;

/* Adapter targets, as bits and as the names of spec.json ("q", "k", "v", "proj", ...). */
enum {
    DS_TARGET_Q = 1,
    DS_TARGET_K = 2,
    DS_TARGET_V = 4,
    DS_TARGET_PROJ = 8,
    DS_TARGET_FC1 = 16,
    DS_TARGET_FC2 = 32,
    DS_TARGET_ADALN = 64,  /* of the blocks and of the final layer */
    DS_TARGET_FINAL = 128, /* final_layer.linear */
    DS_TARGET_PATCH = 256, /* x_embedder.proj */
    DS_TARGET_TIME = 512,  /* t_embedder.mlp */
    DS_TARGET_DEFAULT = 255,
    DS_TARGET_EVERY = 1023
};
const char *ds_target_name(unsigned bit);
unsigned ds_target_bit(const char *name); /* 0: no such target */

enum ds_layer_kind { DS_LAYER_LINEAR };

/* A layer that an adapter can have: y = W x + bias, W (m,n), of `segs` equal output segments. */
typedef struct {
    char name[64]; /* "blocks.0.attn.qkv" */
    int m, n, segs;
    unsigned targets; /* bit of each segment's target; qkv has three */
    int weight, bias; /* entries in the base's parameter table */
    enum ds_layer_kind kind;
} ds_layer_shape;
typedef ds_layer_shape ds_linear;

/* Order of layers: three embedders, five a block, two at the end. */
enum { DS_LIN_PATCH, DS_LIN_TIME0, DS_LIN_TIME2, DS_LIN_BLOCKS };
enum { DS_LIN_QKV, DS_LIN_PROJ, DS_LIN_FC1, DS_LIN_FC2, DS_LIN_ADALN, DS_LIN_PER_BLOCK };
static inline int ds_lin_block(int block, int which) {
    return DS_LIN_BLOCKS + block * DS_LIN_PER_BLOCK + which;
}
static inline int ds_lin_final_adaln(const ds_dit_config *c) { return ds_lin_block(c->depth, 0); }
static inline int ds_lin_final(const ds_dit_config *c) { return ds_lin_block(c->depth, 0) + 1; }
static inline int ds_lin_count(const ds_dit_config *c) { return ds_lin_block(c->depth, 0) + 2; }

static inline int ds_dit_tokens(const ds_dit_config *c) {
    return (c->side / c->patch) * (c->side / c->patch);
}
static inline int ds_dit_out_channels(const ds_dit_config *c) {
    return c->channels * (c->learn_sigma ? 2 : 1);
}

/* Refuses shapes that the kernels or the limits cannot take, naming the field. */
int ds_dit_check(const ds_dit_config *c, ds_error *err);

/* The tensors of the state_dict in file order, and the linear layers (array of ds_lin_count,
 * malloc'ed). */
void ds_dit_tensors(ds_params *table, const ds_dit_config *c);
ds_layer_shape *ds_dit_layers(const ds_dit_config *c, const ds_params *table);

/* The 2-D sin-cos position embedding, (tokens, width). */
void ds_dit_positions(float *pos, const ds_dit_config *c);

/* Initialise a fresh model as DiT.initialize_weights (xavier, sin-cos positions, adaLN-Zero). */
void ds_dit_init(float *data, const ds_params *table, const ds_dit_config *c, uint64_t seed);

#endif
