/* engine/model/net_forward.c - DiT.forward, line by line beside facebookresearch/DiT models.py.
 *
 * R = B*T rows of the token stream, D width, F = mlp_ratio * D.  The residual stream is f32. */
#include "engine/model/net_internal.h"

#include <string.h>

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
void ds_net_give(ds_net *net, const ds_conditioning *k, int *task, const ds_net_sample *samples,
                 int rows) {
    int *given = net->given;
    DS_ASSERT(rows <= net->batch || rows <= DS_NET_TABLE_CHUNK);
    for (int b = 0; b < rows; b++) {
        const ds_net_sample *s = &samples[b];
        int set = ds_net_several(net) ? (s->task < 0 ? net->tasks : s->task) : 0;
        int first = 0;
        DS_ASSERT(set <= net->tasks && (s->row < 0) != (s->base_row < 0));
        DS_ASSERT(s->base_row <= ds_net_cfg(net)->classes);
        DS_ASSERT(s->row < 0 || (set < net->tasks && s->row < net->set_rows[set]));
        for (int i = 0; s->row >= 0 && i < set; i++)
            first += net->set_rows[i];
        memcpy(&given[b], &s->t, sizeof given[b]);
        given[rows + b] = s->row < 0 ? -1 : first + s->row;
        given[2 * rows + b] = s->base_row;
        task[b] = set;
    }
    net->dev->upload(net->dev, k->given, given, (size_t)rows * 3 * sizeof *given);
}

/* c = t_embedder(t) + y_embedder(y);  sc = SiLU(c) */
void ds_net_condition(ds_net *net, const ds_conditioning *k, const int *task, int rows) {
    const struct ds_ops *ops = net->dev->ops;
    ds_device *dev = net->dev;
    const ds_dit_config *c = ds_net_cfg(net);
    const ds_rows each = {task, rows, 1};
    const size_t n = (size_t)rows * (size_t)c->width, f = (size_t)rows * (size_t)c->freq_dim;
    ops->timestep_embedding(dev, k->temb, ds_given_t(k), rows, c->freq_dim, 10000.0f,
                            c->time_shift); /* (rows,256) */
    ops->act_from_f32(dev, k->temb_act, k->temb, f);
    ds_layers_forward_f32(&net->layers, DS_LIN_TIME0, k->t0, k->temb_act, each); /* (rows,D) */
    ops->silu_forward(dev, k->t0s, k->t0, n);
    ops->act_from_f32(dev, k->t0s_act, k->t0s, n);
    ds_layers_forward_f32(&net->layers, DS_LIN_TIME2, k->c, k->t0s_act, each); /* (rows,D) */
    const float *classes = ds_net_several(net) ? net->rows_all : net->rows[0];
    if (classes)
        ops->embedding_forward(dev, k->c, classes, ds_given_row(k, rows), rows, c->width);
    ops->embedding_forward(dev, k->c, net->table, ds_given_base_row(k, rows), rows, c->width);
    ops->silu_forward(dev, k->sc, k->c, n);
    ops->act_from_f32(dev, k->sc_act, k->sc, n);
}

void ds_net_modulate(ds_net *net, int layer, float *mod, const ds_conditioning *k, const int *task,
                     int rows) {
    ds_layers_forward_f32(&net->layers, layer, mod, k->sc_act, (ds_rows){task, rows, 1});
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
    ds_layers *layers = &net->layers;
    const ds_rows r = {net->task, B, T};
    const int l = ds_lin_block(i, 0);
    const float *shift1 = mod, *scale1 = mod + D, *gate1 = mod + 2 * D;
    const float *shift2 = mod + 3 * D, *scale2 = mod + 4 * D, *gate2 = mod + 5 * D;

    k->adaln_forward(dev, a->ln1, a->mean1, a->rstd1, a->x0, shift1, scale1, M, norm_eps, B, T,
                     D);                                          /* (R,D) */
    ds_layers_forward(layers, l + DS_LIN_QKV, a->qkv, a->ln1, r); /* (R,3D) */
    k->attention_forward(dev, a->att, train ? a->lse : NULL, a->qkv, B, T, D, c->heads); /* (R,D) */
    ds_layers_forward_residual(layers, l + DS_LIN_PROJ, a->proj, a->x1, a->x0, gate1, M, a->att,
                               r); /* (R,D) */

    k->adaln_forward(dev, a->ln2, a->mean2, a->rstd2, a->x1, shift2, scale2, M,
                     norm_eps * (float)c->norm2_eps_e6, B, T, D);               /* (R,D) */
    ds_layers_forward_gelu(layers, l + DS_LIN_FC1, a->pre, a->gelu, a->ln2, r); /* (R,F) */
    ds_layers_forward_residual(layers, l + DS_LIN_FC2, a->fc2, out, a->x1, gate2, M, a->gelu,
                               r); /* (R,D) */
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
    const ds_rows r = {net->task, B, T};
    k->patchify(dev, net->patches, x, B, c->channels, c->side, c->patch); /* (R,Cpp) */
    ds_layers_forward_f32(&net->layers, DS_LIN_PATCH, net->acts[0].x0, net->patches, r);
    if (net->kind == DS_NET_TRAIN && ds_layers_adapted(&net->layers, DS_LIN_PATCH))
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
    ds_layers_forward_f32(&net->layers, ds_lin_final(c), net->tokens, net->lnf,
                          r); /* (R,pp outC) */
    k->unpatchify(dev, out, net->tokens, B, ds_dit_out_channels(c), c->side, c->patch);
}

static void pass(ds_net *net, const ds_segment *key, float *out, const float *x,
                 const ds_net_table *t) {
    if (ds_device_replay(net->dev, key))
        return;
    forward(net, out, x, t, key->batch);
    ds_device_segment_end(net->dev);
}

void ds_net_forward(ds_net *net, float *out, const ds_net_input *in, int B) {
    DS_ASSERT(B > 0 && B <= net->batch && !in->condition);
    ds_net_give(net, &net->cond, net->next_task, in->samples, B);
    take_tasks(net, net->next_task, B);
    ds_segment key = {.owner = net,
                      .kind = DS_NET_SEGMENT_FORWARD,
                      .batch = B,
                      .in = in->x,
                      .out = out,
                      .state = net->bound};
    pass(net, &key, out, in->x, NULL);
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
