/* engine/model/net.h - a network on a device: forward, backward, with or without an adapter.
 *
 * ds_net    packed weights plus activation buffers for at most `batch` samples.  Four kinds:
 *   DS_NET_INFER    one adapter (or none) folded into the weights: adapters cost nothing
 *   DS_NET_STACKED  several tasks in one batch: frozen weights, a set per sample
 *   DS_NET_FOLDED   several tasks in one batch, each folded into weights of its own: what INFER
 *                   gives, for the room of as many nets; samples of a task should be neighbours
 *   DS_NET_TRAIN    as INFER, refolded after each optimiser step, activations kept for backward
 *
 * A net never allocates after ds_net_new; its need is ds_net_bytes.  One thread at a time.
 * Errors: DS_ENOMEM with both numbers, DS_EINVAL.
 */
#ifndef DS_ENGINE_MODEL_NET_H
#define DS_ENGINE_MODEL_NET_H

#include "engine/model/adapter.h"
#include "engine/model/model.h"

typedef struct ds_net ds_net;

/* Adapters of the net: count 0 (the base itself), 1, or several for STACKED and FOLDED.  Values are
 * uploaded; for DS_NET_TRAIN they are bound later with ds_net_bind.  adapters may be NULL if count
 * 0. */
int ds_net_new(ds_net **out, const ds_model *model, enum ds_net_kind kind,
               const ds_adapter *const *adapters, int count, int batch, ds_error *err);
void ds_net_free(ds_net *net); /* NULL is fine */
size_t ds_net_bytes(const ds_base *base, const ds_device *dev, enum ds_net_kind kind,
                    int batch); /* activations */

/* What it was made of and for. */
ds_device *ds_net_device(const ds_net *net);
const ds_base *ds_net_base(const ds_net *net);
enum ds_net_kind ds_net_kind_of(const ds_net *net);
int ds_net_batch(const ds_net *net);
int ds_net_tasks(const ds_net *net);
int ds_net_several(const ds_net *net);           /* has each sample a set of its own? */
int ds_net_classes(const ds_net *net, int task); /* class rows of a task's adapter */

/* A DS_NET_TRAIN net in which the first `recompute` blocks (of ds_facts.blocks) keep only their
 * input and are computed again in the backward pass (activation checkpointing; Chen et al. 2016).
 * Gradients are the same bit for bit; a step takes longer by the forward pass of recompute - 1
 * blocks. */
int ds_net_new_train(ds_net **out, const ds_model *model, const ds_adapter *adapter, int batch,
                     int recompute, ds_error *err);
size_t ds_net_train_bytes(const ds_base *base, const ds_device *dev, int batch, int recompute);
/* The same with none recomputed, if the base had so many blocks. */
size_t ds_net_blocks_bytes(const ds_base *base, int blocks, const ds_device *dev, int batch);

/* Packed weights, folded biases and the room to unpack a weight that the base holds in 16 bits.
 * FOLDED: beside it at most as much again for each task. */
size_t ds_net_weight_bytes(ds_device *dev, const ds_base *base, enum ds_net_kind kind);

/* Training: parameters p and gradients g (device, flat, the adapter's table); refold packs the
 * weights from p (call it after each change of p).  A device may record a pass over p, so p goes
 * with one g as long as the net lives. */
void ds_net_bind(ds_net *net, const float *p, float *g);
void ds_net_refold(ds_net *net);

/* Time, class and task of a sample.  Exactly one of row and base_row is >= 0. */
typedef struct {
    float t;      /* timestep, original scale 0..T-1 */
    int row;      /* class row of the sample's adapter, or -1 */
    int base_row; /* row of the base's table (null = its number of classes), or -1 */
    int task;     /* STACKED, FOLDED: which adapter; -1 = the base itself; else ignored */
} ds_net_sample;

/* What a net is given: B samples, side by side. */
typedef struct {
    const float *x;               /* (B,C,S,S), device memory */
    const ds_net_sample *samples; /* (B) */
    const float *condition; /* (B,C,S,S), device memory: an image to each.  NULL: none, and no net
                               takes one yet */
} ds_net_input;

/* out (B,outC,S,S), device memory.  B <= batch. */
void ds_net_forward(ds_net *net, float *out, const ds_net_input *in, int B);

/* Modulations that are computed before the passes that need them, for up to `rows` pairs of
 * timestep and class: a pass then reads none of the layers that make them, and its result is the
 * same bit for bit.  new: NULL when there is no room for it, or the architecture has no such thing,
 * which is no error: the net works without; rows > 0.  Free it before the net, and with it goes
 * what was recorded. */
typedef struct ds_net_table ds_net_table;
ds_net_table *ds_net_table_new(ds_net *net, int rows);
void ds_net_table_free(ds_net_table *t); /* NULL is fine */
size_t ds_net_table_bytes(const ds_base *base, const ds_device *dev, int rows, int batch);
size_t ds_net_table_row_bytes(const ds_base *base); /* 0: it has no tables */

/* Rows 0..count-1, as of now: of the input's samples, its x is not read. */
void ds_net_table_fill(ds_net_table *t, const ds_net_input *in, int count);

/* As ds_net_forward; sample b has time, class and task of row[b]. */
void ds_net_forward_rows(const ds_net_table *t, float *out, const float *x, const int *row, int B);

/* After a forward of a DS_NET_TRAIN net on the same batch: g (+=) gradients, from dout = d loss / d
 * out. */
void ds_net_backward(ds_net *net, const float *dout, int B);

#endif
