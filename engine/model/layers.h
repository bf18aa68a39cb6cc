/* engine/model/layers.h - the layers of a net: frozen weights, packed for its device, and what
 * adapters make of them.
 *
 * Knows no architecture: which layers there are is the base's list (ds_base.layers), and which one
 * is applied to what is the architecture's business.  An adapter is applied to a layer in one of
 * three ways: folded into the weight; with what cannot be folded (phi = ReLU) as a low-rank branch
 * after the product; or as a set per sample (STACKED).
 *
 * A batch falls into stretches of neighbours with equal weights: all of it where there is one
 * adapter, the samples of each task in a folded net.  Forward and backward run over the same
 * stretches.
 *
 * Ownership: open/close; the model is borrowed.  Nothing allocates after open.  Thread: as the net.
 * Errors: DS_ENOMEM with both numbers. */
#ifndef DS_ENGINE_MODEL_LAYERS_H
#define DS_ENGINE_MODEL_LAYERS_H

#include "engine/model/adapter.h"
#include "engine/model/model.h"

/* A layer as it is for one task of a FOLDED net. */
typedef struct {
    ds_weight *w; /* packed with the adapter; NULL: the task has none here, use the layer's */
    float *bias;
    const float *own_bias; /* the task's, in its array, in place of the base's; NULL: it has none */
    ds_affiner ad;
    int branch; /* its low-rank branch could not be folded (phi = ReLU) */
} ds_folded;

typedef struct {
    const ds_layer_shape *shape;
    const float *W, *bias; /* frozen (device), or inside the adapter's array, which replaces them; W
                              NULL: the base holds it in 16 bits */
    ds_weight *w;          /* packed, folded */
    float *bias_eff;       /* folded bias, or NULL: use bias */
    int adapted;           /* has the Affiner ad */
    int asleep;       /* every s of its low-rank branch is 0: no branch, the base bit for bit */
    int full;         /* W is replaced */
    ds_affiner ad;    /* single adapter */
    ds_affiner *sets; /* STACKED: one per task, then identity for the base; NULL: no task has any */
    ds_folded *folded; /* FOLDED: one per task, then none for the base */
    ds_weight *every;  /* FOLDED: the tasks' weights as one (ds_device.weights_new), or NULL */
    float *every_bias; /* (tasks,m) */
    ds_affiner_grad g;
    float *dW, *db; /* of W and bias where they are trained, else NULL */
    ds_adapter_slot slot;
} ds_layer;

typedef struct {
    const ds_model *model;
    ds_device *dev;
    const ds_base *base;
    enum ds_net_kind kind;
    int count, tasks;
    ds_layer *items;
    float *wide; /* room for the largest weight, where the base holds some in 16 bits; or NULL */
    ds_method_spec spec; /* of a single adapter */
    float **sets_data;   /* device copies of the adapters' arrays, `tasks` of them */
    float *identity;     /* STACKED: ones for samples of the base itself */
    int *first_set;      /* zeros, as many as a batch has samples: all rows take the only set */
} ds_layers;

/* adapters (tasks): uploaded and bound; for TRAIN only their method is taken, ds_layers_bind comes
 * later.  samples: in a batch, at most.  close takes what open left after an error, too. */
int ds_layers_open(ds_layers *s, const ds_model *model, enum ds_net_kind kind,
                   const ds_adapter *const *adapters, int tasks, int samples, ds_error *err);
void ds_layers_close(ds_layers *s);

/* Packed weights, folded biases and the room to unpack a weight that the base holds in 16 bits. */
size_t ds_layers_bytes(ds_device *dev, const ds_base *base, enum ds_net_kind kind);

/* TRAIN: parameters p and gradients g (device, flat, of that table); refold packs what p changes.
 */
void ds_layers_bind(ds_layers *s, const ds_params *table, const float *p, float *g);
void ds_layers_refold(ds_layers *s);

/* Does layer i have an adapter; does it have gradients at all? */
static inline int ds_layers_adapted(const ds_layers *s, int i) { return s->items[i].adapted; }
static inline int ds_layers_learns(const ds_layers *s, int i) {
    return s->items[i].adapted || s->items[i].full || s->items[i].db;
}

/* Rows that go through a layer: `each` of every one of B samples (tokens, or 1 for conditioning).
 * task (B): the set of each sample, as ops take it. */
typedef struct {
    const int *task;
    int B, each;
} ds_rows;

/* y (rows,m) = layer(x), x (rows,n). */
void ds_layers_forward(ds_layers *s, int i, ds_act *y, const ds_act *x, ds_rows r);
/* The same with an f32 result. */
void ds_layers_forward_f32(ds_layers *s, int i, float *y, const ds_act *x, ds_rows r);
/* pre = layer(x), y = gelu(pre); pre is kept for the backward pass only. */
void ds_layers_forward_gelu(ds_layers *s, int i, ds_act *pre, ds_act *y, const ds_act *x,
                            ds_rows r);
/* res_out = res_in + gate * layer(x), all (rows,m); y keeps layer(x) for the backward pass.  gate:
 * sample b's row at gate + b*stride. */
void ds_layers_forward_residual(ds_layers *s, int i, ds_act *y, float *res_out, const float *res_in,
                                const float *gate, int stride, const ds_act *x, ds_rows r);

/* Input gradient and parameter gradients (+=) of layer i, from dy and its input and output:
 *   dx (=) in activations, or dx32 (=) in f32, or neither when the input needs no gradient.
 *   dy, y (rows,m)  x (rows,n);  room: (rows,n), for layers whose gradients need dx although nobody
 * asks for it; may be NULL with dx. */
void ds_layers_backward(ds_layers *s, int i, ds_act *dx, float *dx32, const ds_act *dy,
                        const ds_act *y, const ds_act *x, ds_act *room, ds_rows r);
/* The same for a layer whose input is x = gelu(pre): dpre (=), gradient through the GELU. */
void ds_layers_backward_gelu(ds_layers *s, int i, ds_act *dpre, const ds_act *dy, const ds_act *y,
                             const ds_act *x, const ds_act *pre, ds_rows r);

#endif
