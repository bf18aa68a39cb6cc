/* engine/model/dit_net.h - the buffers of a DiT's net, and what its passes share.
 *
 * R = B*T rows of the token stream, D width, F = mlp_ratio * D. */
#ifndef DS_ENGINE_MODEL_DIT_NET_H
#define DS_ENGINE_MODEL_DIT_NET_H

#include "engine/model/dit.h"
#include "engine/model/net_internal.h"

/* Activations of one block.  INFER nets share one set among all blocks, TRAIN nets one among the
 * blocks that are recomputed (all but x0, which each of them keeps). */
typedef struct {
    float *x0, *x1;                       /* (R,D) residual stream: input, after attention */
    float *mean1, *rstd1, *mean2, *rstd2; /* (R) */
    float *lse;                           /* (B,H,T) */
    float *mod; /* (B,6D) shift, scale, gate (msa), shift, scale, gate (mlp) */
    ds_act *ln1, *qkv, *att, *proj, *ln2; /* (R,D) (R,3D) (R,D) (R,D) (R,D) */
    ds_act *pre, *gelu, *fc2;             /* (R,F) (R,F) (R,D) */
} ds_dit_block;

/* Conditioning of `rows` samples. */
typedef struct {
    float *temb, *t0, *t0s, *c, *sc;     /* (rows,freq), then (rows,D) */
    ds_act *temb_act, *t0s_act, *sc_act; /* their activations */
} ds_dit_conditioning;

typedef struct {
    ds_dit_conditioning cond; /* of a batch */
    float *modf, *meanf, *rstdf, *xf, *tokens;
    ds_act *lnf, *patches, *ypatch;
    /* Gradients: of the residual stream (R,D), of a layer of modulations (B,6D), of c and SiLU(c)
     * (B,D), of the tokens (R,pp outC).  mod_act, tok_act: what they are the gradients of. */
    float *dx, *dmod, *dc, *dsc;
    ds_act *dmod_act, *mod_act, *dtok, *tok_act;
    /* Scratch: a buffer holds what the op after it reads.  (R,D), (R,D), (R,max(F,3D,Cpp)); of the
     * conditioning (B,D) in f32 and (B,max(6D,freq)). */
    ds_act *room_a, *room_b, *room_wide;
    float *room_cond;
    ds_act *room_cond_act;
    ds_dit_block blocks[]; /* depth */
} ds_dit_acts;

/* Modulations of all layers for the rows of a table (time and class), and of a batch.  A device
 * with memory of its own gathers a batch's at once, which is one launch; on the processor that
 * would only cost memory, and each layer's are gathered where the block has its own (mod). */
typedef struct {
    ds_dit_conditioning cond; /* chunk */
    float *mod, *modf;        /* (depth,rows,6D) (rows,2D) */
    float *batch_mod;         /* (depth,B,6D), or NULL */
} ds_dit_table;

static inline const ds_dit_config *ds_dit_of(const ds_net *net) { return net->base->config; }
static inline ds_dit_acts *ds_dit_acts_of(const ds_net *net) { return net->acts; }

/* dit_forward.c.  From what was given to SiLU(c), the input of every adaLN layer. */
void ds_dit_condition(ds_net *net, const ds_dit_conditioning *k, const ds_given *given);
/* mod (rows,m) = an adaLN layer of it. */
void ds_dit_modulate(ds_net *net, int layer, float *mod, const ds_dit_conditioning *k,
                     const ds_given *given);
/* Block i from its x0 to out; also what the backward pass recomputes. */
void ds_dit_block_forward(ds_net *net, int i, float *out, int B);
void ds_dit_forward(ds_net *net, float *out, const float *x, const ds_net_table *t, int B);

/* dit_backward.c */
void ds_dit_backward(ds_net *net, const float *dout, int B);

#endif
