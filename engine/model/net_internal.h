/* engine/model/net_internal.h - what net.c, net_forward.c and net_backward.c share. */
#ifndef DS_ENGINE_MODEL_NET_INTERNAL_H
#define DS_ENGINE_MODEL_NET_INTERNAL_H

#include "engine/model/layers.h"
#include "engine/model/net.h"

/* Activations of one block; R = B*T rows.  INFER nets share one set among all blocks, TRAIN nets
 * one among the blocks that are recomputed (all but x0, which each of them keeps). */
typedef struct {
    float *x0, *x1;                       /* (R,D) residual stream: input, after attention */
    float *mean1, *rstd1, *mean2, *rstd2; /* (R) */
    float *lse;                           /* (B,H,T) */
    float *mod; /* (B,6D) shift, scale, gate (msa), shift, scale, gate (mlp) */
    ds_act *ln1, *qkv, *att, *proj, *ln2; /* (R,D) (R,3D) (R,D) (R,D) (R,D) */
    ds_act *pre, *gelu, *fc2;             /* (R,F) (R,F) (R,D) */
} ds_block_acts;

/* Conditioning of `rows` samples. */
typedef struct {
    int *given;                          /* (3,rows) t as f32, row, base_row: one upload */
    float *temb, *t0, *t0s, *c, *sc;     /* (rows,freq), then (rows,D) */
    ds_act *temb_act, *t0s_act, *sc_act; /* their activations */
} ds_conditioning;

static inline const float *ds_given_t(const ds_conditioning *k) { return (const float *)k->given; }
static inline const int *ds_given_row(const ds_conditioning *k, int rows) {
    return k->given + rows;
}
static inline const int *ds_given_base_row(const ds_conditioning *k, int rows) {
    return k->given + 2 * (size_t)rows;
}

/* net.c: lays it out in block; NULL: only counts.  Returns the bytes, a multiple of 64. */
size_t ds_net_plan_conditioning(ds_conditioning *k, const ds_dit_config *c, size_t act, int rows,
                                char *block);

struct ds_net {
    const ds_model *model;
    ds_device *dev;
    const ds_base *base;
    enum ds_net_kind kind;
    int batch, tasks, recompute;
    ds_layers layers;
    const float *bound;    /* TRAIN: the parameters of the last ds_net_bind */
    const float **rows;    /* class rows of each adapter (device) */
    int *set_rows;         /* number of rows of each */
    float *rows_all;       /* several tasks: all rows, one after the other */
    const float *table;    /* base class table (device; inside p for method full) */
    float *dtable, *drows; /* gradients or NULL */
    void *block;           /* all activations */
    ds_block_acts *acts;   /* depth */
    ds_conditioning cond;  /* of a batch */
    float *modf, *meanf, *rstdf, *xf, *tokens;
    ds_act *lnf, *patches, *ypatch;
    /* Host: the set of each sample, as ops take it; the longest batch since recorded passes were
     * forgotten last.  Those hold their sets, so they are forgotten when the sets change. */
    int *task, task_count;
    int *given, *next_task; /* host room of ds_net_give, and for the sets of the next batch */
    /* Gradients: of the residual stream (R,D), of a layer of modulations (B,6D), of c and SiLU(c)
     * (B,D), of the tokens (R,pp outC).  mod_act, tok_act: what they are the gradients of. */
    float *dx, *dmod, *dc, *dsc;
    ds_act *dmod_act, *mod_act, *dtok, *tok_act;
    /* Scratch: a buffer holds what the op after it reads.  (R,D), (R,D), (R,max(F,3D,Cpp)); of the
     * conditioning (B,D) in f32 and (B,max(6D,freq)). */
    ds_act *room_a, *room_b, *room_wide;
    float *room_cond;
    ds_act *room_cond_act;
};

/* Rows of a table computed at a time: what is between takes room, and a product hardly gains from
 * more. */
enum { DS_NET_TABLE_CHUNK = 256 };

/* Modulations of all layers for so many rows (timestep and condition), and of a batch.  A device
 * with memory of its own gathers a batch's at once, which is one launch; on the processor that
 * would only cost memory, and each layer's are gathered where the block has its own (acts.mod). */
struct ds_net_table {
    ds_net *net;
    int rows, chunk; /* rows that are computed at a time */
    void *block;
    ds_conditioning cond; /* chunk */
    float *mod, *modf;    /* (depth,rows,6D) (rows,2D) */
    float *batch_mod;     /* (depth,B,6D), or NULL */
    int *idx;             /* device: rows of a batch */
    int *task;            /* host: set of each row */
    int *batch_task;
};

/* Runs of ops that a device may record (kernels/device.h). */
enum {
    DS_NET_SEGMENT_FORWARD,
    DS_NET_SEGMENT_BACKWARD,
    DS_NET_SEGMENT_REFOLD,
    DS_NET_SEGMENT_TABLE
};

/* net_forward.c.  Times and classes to the device; task (rows): the set of each, as ops take it. */
void ds_net_give(ds_net *net, const ds_conditioning *k, int *task, const ds_net_sample *samples,
                 int rows);
/* From what was given to SiLU(c), the input of every adaLN layer. */
void ds_net_condition(ds_net *net, const ds_conditioning *k, const int *task, int rows);
/* mod (rows,m) = an adaLN layer of it. */
void ds_net_modulate(ds_net *net, int layer, float *mod, const ds_conditioning *k, const int *task,
                     int rows);
/* Block i from acts[i].x0 to out; also what the backward pass recomputes. */
void ds_net_block_forward(ds_net *net, int i, float *out, int B);

/* Has each sample a set of its own? */
static inline int ds_net_several(const ds_net *net) { return ds_net_kind_several(net->kind); }

static inline const ds_dit_config *ds_net_cfg(const ds_net *net) { return &net->base->cfg; }

#endif
