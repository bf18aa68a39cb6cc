/* engine/model/net_forward.c - DiT.forward, line by line beside facebookresearch/DiT models.py.
 *
 * R = B*T rows of the token stream, D width, F = mlp_ratio * D.  The residual stream is f32. */
#include "engine/model/net_internal.h"

#include <string.h>

/* How a layer's adapter is applied: as a set per sample (l->sets), or folded into the weight, with
 * what cannot be folded (phi = ReLU) as a low-rank branch after the product (a stretch's branch).
 */

/* Samples [first, first + count) have the same weights: all of a batch, but in a folded net the
 * neighbours of one task, or equal numbers of each task where all its weights are one. */
typedef struct {
    int first, count; /* 0: none is left */
    const ds_weight *w;
    const float *bias;
    const ds_affiner *branch; /* what is not folded of it, or NULL; a and b are */
} stretch;

/* Do all tasks follow each other from sample `first` on, with `each` samples? */
static int all_in_turn(const ds_net *net, const int *task, int first, int each, int B) {
    if (first + net->tasks * each > B)
        return 0;
    for (int i = 0; i < net->tasks * each; i++)
        if (task[first + i] != i / each)
            return 0;
    return 1;
}

static stretch stretch_at(const ds_net *net, const ds_layer *l, const int *task, int first, int B) {
    stretch s = {first, B - first, l->w, l->bias, NULL};
    if (!l->folded) {
        s.bias = l->adapted ? l->bias_eff : l->bias;
        s.branch = l->adapted && l->ad.phi_relu && !l->asleep ? &l->ad : NULL;
        return s;
    }
    const ds_folded *f = first < B ? &l->folded[task[first]] : NULL;
    for (s.count = 0; first + s.count < B && &l->folded[task[first + s.count]] == f;)
        s.count++;
    if (f && f->own_bias)
        s.bias = f->own_bias;
    if (f && f->w) {
        s.w = f->w;
        s.bias = f->bias;
        s.branch = f->branch ? &f->ad : NULL;
    }
    if (f && l->every && all_in_turn(net, task, first, s.count, B)) {
        s.count *= net->tasks;
        s.w = l->every;
        s.bias = l->every_bias;
    }
    return s;
}

#define EACH_STRETCH(s, net, l, task, B)                                                           \
    for (stretch s = stretch_at(net, l, task, 0, B); s.count;                                      \
         s = stretch_at(net, l, task, s.first + s.count, B))

/* Sample `first` of an activation map of `width` numbers a row. */
static ds_act *at_sample(const ds_net *net, const ds_act *p, int first, int rows_per_sample,
                         int width) {
    return ds_act_at(net->dev, p, (size_t)first * (size_t)rows_per_sample * (size_t)width);
}

/* y = layer(x) for the rows of a stretch. */
static void product(ds_net *net, const stretch *s, ds_act *y, const ds_act *x, int rows) {
    const struct ds_ops *k = net->dev->ops;
    k->linear_forward(net->dev, y, x, s->w, s->bias, rows);
    if (s->branch)
        k->lowrank_forward(net->dev, y, x, s->branch, rows);
}

/* y = layer(x), plain.  rows_per_sample: T for the token stream, 1 for the conditioning. */
static void linear(ds_net *net, ds_layer *l, ds_act *y, const ds_act *x, int B,
                   int rows_per_sample) {
    const struct ds_ops *k = net->dev->ops;
    if (l->sets) {
        k->linear_forward(net->dev, y, x, l->w, NULL, B * rows_per_sample);
        k->affiner_rows_forward(net->dev, y, NULL, x, l->bias, l->sets, net->task, B,
                                rows_per_sample);
        return;
    }
    EACH_STRETCH (s, net, l, net->task, B) {
        product(net, &s, at_sample(net, y, s.first, rows_per_sample, l->lin->m),
                at_sample(net, x, s.first, rows_per_sample, l->lin->n), s.count * rows_per_sample);
    }
}

/* The same with an f32 result; task: as net->task. */
static void linear_f32(ds_net *net, ds_layer *l, float *y, const ds_act *x, const int *task, int B,
                       int rows_per_sample) {
    const struct ds_ops *k = net->dev->ops;
    if (l->sets) {
        k->linear_f32_forward(net->dev, y, x, l->w, NULL, B * rows_per_sample);
        k->affiner_rows_forward(net->dev, NULL, y, x, l->bias, l->sets, task, B, rows_per_sample);
        return;
    }
    EACH_STRETCH (s, net, l, task, B) {
        float *out = y + (size_t)(s.first * rows_per_sample) * (size_t)l->lin->m;
        const ds_act *in = at_sample(net, x, s.first, rows_per_sample, l->lin->n);
        k->linear_f32_forward(net->dev, out, in, s.w, s.branch ? NULL : s.bias,
                              s.count * rows_per_sample);
        if (!s.branch)
            continue;
        ds_affiner branch = *s.branch; /* only the low-rank branch is left, which has no side */
        branch.a = branch.b = NULL;
        branch.side_in = 0;
        k->affiner_rows_forward(net->dev, NULL, out, in, s.bias, &branch, net->first_set, s.count,
                                rows_per_sample);
    }
}

static void linear_gelu(ds_net *net, ds_layer *l, ds_act *pre, ds_act *y, const ds_act *x, int B,
                        int T) {
    const struct ds_ops *k = net->dev->ops;
    const size_t F = (size_t)l->lin->m;
    if (l->sets) {
        linear(net, l, pre, x, B, T);
        k->gelu_forward(net->dev, y, pre, (size_t)B * (size_t)T * F);
        return;
    }
    EACH_STRETCH (s, net, l, net->task, B) {
        ds_act *out = at_sample(net, y, s.first, T, l->lin->m);
        ds_act *before = at_sample(net, pre, s.first, T, l->lin->m);
        const ds_act *in = at_sample(net, x, s.first, T, l->lin->n);
        if (s.branch) {
            product(net, &s, before, in, s.count * T);
            k->gelu_forward(net->dev, out, before, (size_t)(s.count * T) * F);
        } else
            k->linear_gelu_forward(net->dev, net->kind == DS_NET_TRAIN ? before : NULL, out, in,
                                   s.w, s.bias, s.count * T);
    }
}

/* res_out = res_in + gate * layer(x); y keeps layer(x) for the backward pass. */
static void linear_residual(ds_net *net, ds_layer *l, ds_act *y, float *res_out,
                            const float *res_in, const float *gate, int stride, const ds_act *x,
                            int B, int T) {
    const struct ds_ops *k = net->dev->ops;
    if (l->sets) {
        linear(net, l, y, x, B, T);
        k->gate_forward(net->dev, res_out, res_in, gate, stride, y, B, T, l->lin->m);
        return;
    }
    const int keep =
        net->kind == DS_NET_TRAIN || l->folded; /* folded: one sum may join the parts */
    EACH_STRETCH (s, net, l, net->task, B) {
        const size_t at = (size_t)(s.first * T) * (size_t)l->lin->m;
        ds_act *part = at_sample(net, y, s.first, T, l->lin->m);
        const ds_act *in = at_sample(net, x, s.first, T, l->lin->n);
        const float *g = gate + (size_t)s.first * (size_t)stride;
        if (s.branch) {
            product(net, &s, part, in, s.count * T);
            k->gate_forward(net->dev, res_out + at, res_in + at, g, stride, part, s.count, T,
                            l->lin->m);
        } else
            k->linear_residual_forward(net->dev, keep ? part : NULL, res_out + at, res_in + at, g,
                                       stride, in, s.w, s.bias, s.count, T);
    }
}

/* The sets of a batch.  A pass that was recorded with others would repeat those. */
static void take_tasks(ds_net *net, const int *task, int B) {
    int known = B < net->task_count ? B : net->task_count;
    if (memcmp(net->task, task, (size_t)known * sizeof *task) != 0) {
        ds_device_forget(net->dev, net);
        net->task_count = 0;
    }
    if (B > net->task_count) {
        memcpy(net->task, task, (size_t)B * sizeof *task);
        net->task_count = B;
    }
}

/* Class rows of several tasks are indexed over all of them. */
void ds_net_give(ds_net *net, const ds_conditioning *k, int *task, const ds_condition *cond,
                 int rows) {
    int *given = net->given;
    DS_ASSERT(rows <= net->batch || rows <= DS_NET_TABLE_CHUNK);
    for (int b = 0; b < rows; b++) {
        int set = ds_net_several(net) ? (cond[b].task < 0 ? net->tasks : cond[b].task) : 0;
        int first = 0;
        DS_ASSERT(set <= net->tasks && (cond[b].row < 0) != (cond[b].base_row < 0));
        DS_ASSERT(cond[b].base_row <= ds_net_cfg(net)->classes);
        DS_ASSERT(cond[b].row < 0 || (set < net->tasks && cond[b].row < net->set_rows[set]));
        for (int i = 0; cond[b].row >= 0 && i < set; i++)
            first += net->set_rows[i];
        memcpy(&given[b], &cond[b].t, sizeof given[b]);
        given[rows + b] = cond[b].row < 0 ? -1 : first + cond[b].row;
        given[2 * rows + b] = cond[b].base_row;
        task[b] = set;
    }
    net->dev->upload(net->dev, k->given, given, (size_t)rows * 3 * sizeof *given);
}

/* c = t_embedder(t) + y_embedder(y);  sc = SiLU(c) */
void ds_net_condition(ds_net *net, const ds_conditioning *k, const int *task, int rows) {
    const struct ds_ops *ops = net->dev->ops;
    ds_device *dev = net->dev;
    const ds_dit_config *c = ds_net_cfg(net);
    const size_t n = (size_t)rows * (size_t)c->width, f = (size_t)rows * (size_t)c->freq_dim;
    ops->timestep_embedding(dev, k->temb, ds_given_t(k), rows, c->freq_dim, 10000.0f,
                            c->time_shift); /* (rows,256) */
    ops->act_from_f32(dev, k->temb_act, k->temb, f);
    linear_f32(net, &net->layers[DS_LIN_TIME0], k->t0, k->temb_act, task, rows, 1); /* (rows,D) */
    ops->silu_forward(dev, k->t0s, k->t0, n);
    ops->act_from_f32(dev, k->t0s_act, k->t0s, n);
    linear_f32(net, &net->layers[DS_LIN_TIME2], k->c, k->t0s_act, task, rows, 1); /* (rows,D) */
    const float *classes = ds_net_several(net) ? net->rows_all : net->rows[0];
    if (classes)
        ops->embedding_forward(dev, k->c, classes, ds_given_row(k, rows), rows, c->width);
    ops->embedding_forward(dev, k->c, net->table, ds_given_base_row(k, rows), rows, c->width);
    ops->silu_forward(dev, k->sc, k->c, n);
    ops->act_from_f32(dev, k->sc_act, k->sc, n);
}

void ds_net_modulate(ds_net *net, int layer, float *mod, const ds_conditioning *k, const int *task,
                     int rows) {
    linear_f32(net, &net->layers[layer], mod, k->sc_act, task, rows, 1);
}

/* Of all normalisations but a block's second, whose eps differs between publications of DiT. */
static const float norm_eps = 1e-6f;

/* mod (B,6D): the block's modulations. */
static void block(ds_net *net, int i, const float *mod, float *out, int B) {
    const struct ds_ops *k = net->dev->ops;
    ds_device *dev = net->dev;
    const ds_dit_config *c = ds_net_cfg(net);
    const int D = c->width, T = ds_dit_tokens(c), M = 6 * D;
    const int train = net->kind == DS_NET_TRAIN;
    ds_block_acts *a = &net->acts[i];
    ds_layer *l = &net->layers[ds_lin_block(i, 0)];
    const float *shift1 = mod, *scale1 = mod + D, *gate1 = mod + 2 * D;
    const float *shift2 = mod + 3 * D, *scale2 = mod + 4 * D, *gate2 = mod + 5 * D;

    k->adaln_forward(dev, a->ln1, a->mean1, a->rstd1, a->x0, shift1, scale1, M, norm_eps, B, T,
                     D);                               /* (R,D) */
    linear(net, &l[DS_LIN_QKV], a->qkv, a->ln1, B, T); /* (R,3D) */
    k->attention_forward(dev, a->att, train ? a->lse : NULL, a->qkv, B, T, D, c->heads); /* (R,D) */
    linear_residual(net, &l[DS_LIN_PROJ], a->proj, a->x1, a->x0, gate1, M, a->att, B,
                    T); /* (R,D) */

    k->adaln_forward(dev, a->ln2, a->mean2, a->rstd2, a->x1, shift2, scale2, M,
                     norm_eps * (float)c->norm2_eps_e6, B, T, D);                      /* (R,D) */
    linear_gelu(net, &l[DS_LIN_FC1], a->pre, a->gelu, a->ln2, B, T);                   /* (R,F) */
    linear_residual(net, &l[DS_LIN_FC2], a->fc2, out, a->x1, gate2, M, a->gelu, B, T); /* (R,D) */
}

void ds_net_block_forward(ds_net *net, int i, float *out, int B) {
    float *mod = net->acts[i].mod;
    ds_net_modulate(net, ds_lin_block(i, DS_LIN_ADALN), mod, &net->cond, net->task, B);
    block(net, i, mod, out, B);
}

/* Modulations of block i for the batch, from the table. */
static const float *taken(ds_net *net, const ds_net_table *t, int i, int B) {
    const int M = 6 * ds_net_cfg(net)->width;
    if (t->batch_mod)
        return t->batch_mod + (size_t)i * (size_t)B * (size_t)M;
    net->dev->ops->embedding_take(net->dev, net->acts[i].mod,
                                  t->mod + (size_t)i * (size_t)t->rows * (size_t)M, t->idx, 1,
                                  t->rows, B, M);
    return net->acts[i].mod;
}

/* Conditioning: all of it, or with a table the rows that all layers or only the last one need. */
static void begin(ds_net *net, const ds_net_table *t, int B) {
    const struct ds_ops *k = net->dev->ops;
    const ds_dit_config *c = ds_net_cfg(net);
    if (!t) {
        ds_net_condition(net, &net->cond, net->task, B);
        ds_net_modulate(net, ds_lin_final_adaln(c), net->modf, &net->cond, net->task,
                        B); /* (B,2D) shift, scale */
        return;
    }
    if (t->batch_mod)
        k->embedding_take(net->dev, t->batch_mod, t->mod, t->idx, c->depth, t->rows, B,
                          6 * c->width);
    k->embedding_take(net->dev, net->modf, t->modf, t->idx, 1, t->rows, B, 2 * c->width);
}

static void forward(ds_net *net, float *out, const float *x, const ds_net_table *t, int B) {
    const struct ds_ops *k = net->dev->ops;
    ds_device *dev = net->dev;
    const ds_dit_config *c = ds_net_cfg(net);
    const int D = c->width, T = ds_dit_tokens(c), last = c->depth - 1;
    begin(net, t, B);
    const float *pos =
        net->model->data ? net->model->data : ds_base_held(net->base, 0); /* the first entry */
    ds_layer *patch = &net->layers[DS_LIN_PATCH];
    k->patchify(dev, net->patches, x, B, c->channels, c->side, c->patch); /* (R,Cpp) */
    linear_f32(net, patch, net->acts[0].x0, net->patches, net->task, B, T);
    if (net->kind == DS_NET_TRAIN && patch->adapted)
        k->act_from_f32(dev, net->ypatch, net->acts[0].x0, (size_t)B * (size_t)T * (size_t)D);
    k->add_position(dev, net->acts[0].x0, pos, B, T, D); /* (R,D) */
    /* Where each block has modulations of its own, they come first: then nothing stands between a
     * block's last sum and the next one's norm, and a device may join them. */
    const int own = !t && net->kind == DS_NET_TRAIN && net->recompute <= 1;
    for (int i = 0; own && i <= last; i++)
        ds_net_modulate(net, ds_lin_block(i, DS_LIN_ADALN), net->acts[i].mod, &net->cond, net->task,
                        B);
    for (int i = 0; i <= last; i++) {
        float *to = i < last ? net->acts[i + 1].x0 : net->xf;
        if (own)
            block(net, i, net->acts[i].mod, to, B);
        else if (t)
            block(net, i, taken(net, t, i, B), to, B);
        else
            ds_net_block_forward(net, i, to, B);
    }
    k->adaln_forward(dev, net->lnf, net->meanf, net->rstdf, net->xf, net->modf, net->modf + D,
                     2 * D, norm_eps, B, T, D);
    linear_f32(net, &net->layers[ds_lin_final(c)], net->tokens, net->lnf, net->task, B,
               T); /* (R,pp outC) */
    k->unpatchify(dev, out, net->tokens, B, ds_dit_out_channels(c), c->side, c->patch);
}

static void pass(ds_net *net, const ds_segment *key, float *out, const float *x,
                 const ds_net_table *t) {
    if (ds_device_replay(net->dev, key))
        return;
    forward(net, out, x, t, key->batch);
    ds_device_segment_end(net->dev);
}

void ds_net_forward(ds_net *net, float *out, const float *x, const ds_condition *cond, int B) {
    DS_ASSERT(B > 0 && B <= net->batch);
    ds_net_give(net, &net->cond, net->next_task, cond, B);
    take_tasks(net, net->next_task, B);
    ds_segment key = {.owner = net,
                      .kind = DS_NET_SEGMENT_FORWARD,
                      .batch = B,
                      .in = x,
                      .out = out,
                      .state = net->bound};
    pass(net, &key, out, x, NULL);
}

void ds_net_forward_rows(const ds_net_table *t, float *out, const float *x, const int *row, int B) {
    ds_net *net = t->net;
    DS_ASSERT(B > 0 && B <= net->batch);
    for (int b = 0; b < B; b++) {
        DS_ASSERT(row[b] >= 0 && row[b] < t->rows);
        t->batch_task[b] = t->task[row[b]];
    }
    take_tasks(net, t->batch_task, B);
    net->dev->upload(net->dev, t->idx, row, (size_t)B * sizeof *row);
    ds_segment key = {
        .owner = net, .kind = DS_NET_SEGMENT_TABLE, .batch = B, .in = x, .out = out, .state = t};
    pass(net, &key, out, x, t);
}
