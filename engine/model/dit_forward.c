/* engine/model/dit_forward.c - DiT.forward, line by line beside facebookresearch/DiT models.py.
 *
 * R = B*T rows of the token stream, D width, F = mlp_ratio * D.  The residual stream is f32. */
#include "engine/model/dit_net.h"

/* c = t_embedder(t) + y_embedder(y);  sc = SiLU(c) */
void ds_dit_condition(ds_net *net, const ds_dit_conditioning *k, const ds_given *given) {
    const struct ds_ops *ops = net->dev->ops;
    ds_device *dev = net->dev;
    const ds_dit_config *c = ds_dit_of(net);
    const int rows = given->rows;
    const ds_rows each = {given->task, rows, 1};
    const size_t n = (size_t)rows * (size_t)c->width, f = (size_t)rows * (size_t)c->freq_dim;
    ops->timestep_embedding(dev, k->temb, given->t, rows, c->freq_dim, 10000.0f,
                            c->time_shift); /* (rows,256) */
    ops->act_from_f32(dev, k->temb_act, k->temb, f);
    ds_layers_forward_f32(&net->layers, DS_LIN_TIME0, k->t0, k->temb_act, each); /* (rows,D) */
    ops->silu_forward(dev, k->t0s, k->t0, n);
    ops->act_from_f32(dev, k->t0s_act, k->t0s, n);
    ds_layers_forward_f32(&net->layers, DS_LIN_TIME2, k->c, k->t0s_act, each); /* (rows,D) */
    ds_net_add_classes(net, k->c, given);
    ops->silu_forward(dev, k->sc, k->c, n);
    ops->act_from_f32(dev, k->sc_act, k->sc, n);
}

void ds_dit_modulate(ds_net *net, int layer, float *mod, const ds_dit_conditioning *k,
                     const ds_given *given) {
    ds_layers_forward_f32(&net->layers, layer, mod, k->sc_act,
                          (ds_rows){given->task, given->rows, 1});
}

/* Of all normalisations but a block's second, whose eps differs between publications of DiT. */
static const float norm_eps = 1e-6f;

/* mod (B,6D): the block's modulations. */
static void block(ds_net *net, int i, const float *mod, float *out, int B) {
    const struct ds_ops *k = net->dev->ops;
    ds_device *dev = net->dev;
    const ds_dit_config *c = ds_dit_of(net);
    const int D = c->width, T = ds_dit_tokens(c), M = 6 * D;
    const int train = net->kind == DS_NET_TRAIN;
    ds_dit_block *a = &ds_dit_acts_of(net)->blocks[i];
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

void ds_dit_block_forward(ds_net *net, int i, float *out, int B) {
    ds_dit_acts *a = ds_dit_acts_of(net);
    const ds_given given = ds_net_given(net, B);
    ds_dit_modulate(net, ds_lin_block(i, DS_LIN_ADALN), a->blocks[i].mod, &a->cond, &given);
    block(net, i, a->blocks[i].mod, out, B);
}

/* Modulations of block i for the batch, from the table. */
static const float *taken(ds_net *net, const ds_net_table *t, int i, int B) {
    const ds_dit_table *table = t->acts;
    const size_t M = 6 * (size_t)ds_dit_of(net)->width;
    float *mod = ds_dit_acts_of(net)->blocks[i].mod;
    if (table->batch_mod)
        return table->batch_mod + (size_t)i * (size_t)B * M;
    net->dev->ops->embedding_take(net->dev, mod, table->mod + (size_t)i * (size_t)t->rows * M,
                                  t->idx, 1, t->rows, B, (int)M);
    return mod;
}

/* Conditioning: all of it, or with a table the rows that all layers or only the last one need. */
static void begin(ds_net *net, const ds_net_table *t, const ds_given *given) {
    const struct ds_ops *k = net->dev->ops;
    const ds_dit_config *c = ds_dit_of(net);
    ds_dit_acts *a = ds_dit_acts_of(net);
    const int B = given->rows;
    if (!t) {
        ds_dit_condition(net, &a->cond, given);
        ds_dit_modulate(net, ds_lin_final_adaln(c), a->modf, &a->cond,
                        given); /* (B,2D) shift, scale */
        return;
    }
    const ds_dit_table *table = t->acts;
    if (table->batch_mod)
        k->embedding_take(net->dev, table->batch_mod, table->mod, t->idx, c->depth, t->rows, B,
                          6 * c->width);
    k->embedding_take(net->dev, a->modf, table->modf, t->idx, 1, t->rows, B, 2 * c->width);
}

void ds_dit_forward(ds_net *net, float *out, const float *x, const ds_net_table *t, int B) {
    const struct ds_ops *k = net->dev->ops;
    ds_device *dev = net->dev;
    const ds_dit_config *c = ds_dit_of(net);
    ds_dit_acts *a = ds_dit_acts_of(net);
    const int D = c->width, T = ds_dit_tokens(c), last = c->depth - 1;
    const int train = net->kind == DS_NET_TRAIN;
    const ds_given given = ds_net_given(net, B);
    const ds_rows r = {net->task, B, T};
    float *first = a->blocks[0].x0;
    begin(net, t, &given);
    k->patchify(dev, a->patches, x, B, c->channels, c->side, c->patch); /* (R,Cpp) */
    ds_layers_forward_f32(&net->layers, DS_LIN_PATCH, first, a->patches, r);
    if (train && ds_layers_adapted(&net->layers, DS_LIN_PATCH))
        k->act_from_f32(dev, a->ypatch, first, (size_t)B * (size_t)T * (size_t)D);
    k->add_position(dev, first, ds_model_tensor(net->model, DS_DIT_POSITIONS), B, T, D); /* (R,D) */
    /* Where each block has modulations of its own, they come first: then nothing stands between a
     * block's last sum and the next one's norm, and a device may join them. */
    const int own = !t && train && net->recompute <= 1;
    for (int i = 0; own && i <= last; i++)
        ds_dit_modulate(net, ds_lin_block(i, DS_LIN_ADALN), a->blocks[i].mod, &a->cond, &given);
    for (int i = 0; i <= last; i++) {
        float *to = i < last ? a->blocks[i + 1].x0 : a->xf;
        if (own)
            block(net, i, a->blocks[i].mod, to, B);
        else if (t)
            block(net, i, taken(net, t, i, B), to, B);
        else
            ds_dit_block_forward(net, i, to, B);
    }
    k->adaln_forward(dev, a->lnf, a->meanf, a->rstdf, a->xf, a->modf, a->modf + D, 2 * D, norm_eps,
                     B, T, D);
    ds_layers_forward_f32(&net->layers, ds_lin_final(c), a->tokens, a->lnf, r); /* (R,pp outC) */
    k->unpatchify(dev, out, a->tokens, B, ds_dit_out_channels(c), c->side, c->patch);
}
