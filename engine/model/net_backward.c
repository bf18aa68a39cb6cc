/* engine/model/net_backward.c - the backward pass of DiT: from d loss / d out to the adapter's
 * gradients. Derivations: docs/math.md.  dx is the f32 gradient of the residual stream, accumulated
 * in place.
 */
#include "engine/model/net_internal.h"

/* Gradient of an adaLN linear: dmod (B,m) f32 and its output mod; adds to dsc. */
static void modulation_backward(ds_net *net, int layer, const float *mod, int B) {
    const struct ds_ops *k = net->dev->ops;
    const ds_layer_shape *l = &net->base->layers[layer];
    size_t n = (size_t)B * (size_t)l->m, nd = (size_t)B * (size_t)l->n;
    k->act_from_f32(net->dev, net->dmod_act, net->dmod, n);
    if (ds_layers_adapted(&net->layers, layer))
        k->act_from_f32(net->dev, net->mod_act, mod, n);
    ds_layers_backward(&net->layers, layer, NULL, net->room_cond, net->dmod_act, net->mod_act,
                       net->cond.sc_act, net->room_cond_act, (ds_rows){net->task, B, 1});
    k->add(net->dev, net->dsc, net->room_cond, nd);
}

static void block_backward(ds_net *net, int i, int B) {
    const struct ds_ops *k = net->dev->ops;
    ds_device *dev = net->dev;
    const ds_dit_config *c = ds_net_cfg(net);
    const int D = c->width, T = ds_dit_tokens(c), M = 6 * D;
    ds_block_acts *a = &net->acts[i];
    ds_layers *layers = &net->layers;
    const ds_rows r = {net->task, B, T};
    const int l = ds_lin_block(i, 0);
    const float *scale1 = a->mod + D, *gate1 = a->mod + 2 * D;
    const float *scale2 = a->mod + 4 * D, *gate2 = a->mod + 5 * D;
    float *dshift1 = net->dmod, *dscale1 = net->dmod + D, *dgate1 = net->dmod + 2 * D;
    float *dshift2 = net->dmod + 3 * D, *dscale2 = net->dmod + 4 * D, *dgate2 = net->dmod + 5 * D;
    ds_act *dy = net->room_a, *dln = net->room_b, *datt = net->room_b; /* (R,D) */
    ds_act *wide = net->room_wide;                                     /* (R,F) or (R,3D) */

    k->gate_backward(dev, dy, dgate2, M, net->dx, a->fc2, gate2, M, B, T, D); /* of fc2's output */
    ds_layers_backward_gelu(layers, l + DS_LIN_FC2, wide, dy, a->fc2, a->gelu, a->pre,
                            r); /* (R,F) */
    ds_layers_backward(layers, l + DS_LIN_FC1, dln, NULL, wide, a->pre, a->ln2, NULL, r);
    k->adaln_backward(dev, net->dx, dshift2, dscale2, M, dln, a->x1, a->mean2, a->rstd2, scale2, M,
                      B, T, D);

    k->gate_backward(dev, dy, dgate1, M, net->dx, a->proj, gate1, M, B, T, D); /* of proj's */
    ds_layers_backward(layers, l + DS_LIN_PROJ, datt, NULL, dy, a->proj, a->att, NULL, r);
    k->attention_backward(dev, wide, datt, a->att, a->lse, a->qkv, B, T, D, c->heads); /* (R,3D) */
    dln = net->room_a; /* datt was read, dy as well */
    ds_layers_backward(layers, l + DS_LIN_QKV, dln, NULL, wide, a->qkv, a->ln1, NULL, r);
    k->adaln_backward(dev, net->dx, dshift1, dscale1, M, dln, a->x0, a->mean1, a->rstd1, scale1, M,
                      B, T, D);

    modulation_backward(net, l + DS_LIN_ADALN, a->mod, B);
}

static void final_backward(ds_net *net, const float *dout, int B) {
    const struct ds_ops *k = net->dev->ops;
    ds_device *dev = net->dev;
    const ds_dit_config *c = ds_net_cfg(net);
    const int D = c->width, T = ds_dit_tokens(c), R = B * T;
    const int last = ds_lin_final(c);
    k->unpatchify_backward(dev, net->dtok, dout, B, ds_dit_out_channels(c), c->side, c->patch);
    if (ds_layers_adapted(&net->layers, last))
        k->act_from_f32(dev, net->tok_act, net->tokens,
                        (size_t)R * (size_t)net->base->layers[last].m);
    ds_layers_backward(&net->layers, last, net->room_a, NULL, net->dtok, net->tok_act, net->lnf,
                       NULL, (ds_rows){net->task, B, T});
    k->fill(dev, net->dx, 0.0f, (size_t)R * (size_t)D);
    k->fill(dev, net->dsc, 0.0f, (size_t)B * (size_t)D);
    k->adaln_backward(dev, net->dx, net->dmod, net->dmod + D, 2 * D, net->room_a, net->xf,
                      net->meanf, net->rstdf, net->modf + D, 2 * D, B, T, D);
    modulation_backward(net, ds_lin_final_adaln(c), net->modf, B);
}

/* Timestep MLP and class rows, from dsc = d loss / d SiLU(c). */
static void condition_backward(ds_net *net, int B) {
    const struct ds_ops *k = net->dev->ops;
    ds_device *dev = net->dev;
    const ds_dit_config *c = ds_net_cfg(net);
    const size_t n = (size_t)B * (size_t)c->width;
    k->silu_backward(dev, net->dc, net->dsc, net->cond.c, n);
    if (net->drows)
        k->embedding_backward(dev, net->drows, net->dc, ds_given_row(&net->cond, B), B, c->width);
    if (net->dtable)
        k->embedding_backward(dev, net->dtable, net->dc, ds_given_base_row(&net->cond, B), B,
                              c->width);
    ds_layers *layers = &net->layers;
    const ds_rows r = {net->task, B, 1};
    if (!ds_layers_learns(layers, DS_LIN_TIME0) && !ds_layers_learns(layers, DS_LIN_TIME2))
        return;
    k->act_from_f32(dev, net->dmod_act, net->dc, n);
    if (ds_layers_adapted(layers, DS_LIN_TIME2)) /* its output, without the class rows, again */
        ds_layers_forward(layers, DS_LIN_TIME2, net->mod_act, net->cond.t0s_act, r);
    ds_layers_backward(layers, DS_LIN_TIME2, NULL, net->room_cond, net->dmod_act, net->mod_act,
                       net->cond.t0s_act, net->room_cond_act, r);
    k->silu_backward(dev, net->room_cond, net->room_cond, net->cond.t0, n);
    k->act_from_f32(dev, net->dmod_act, net->room_cond, n);
    if (ds_layers_adapted(layers, DS_LIN_TIME0))
        k->act_from_f32(dev, net->mod_act, net->cond.t0, n);
    ds_layers_backward(layers, DS_LIN_TIME0, NULL, NULL, net->dmod_act, net->mod_act,
                       net->cond.temb_act, net->room_cond_act, r);
}

static void backward(ds_net *net, const float *dout, int B) {
    const ds_dit_config *c = ds_net_cfg(net);
    final_backward(net, dout, B);
    for (int i = c->depth - 1; i >= 0; i--) {
        /* the shared buffers still hold the last of the recomputed blocks; the block's output is
         * the same bits as before */
        if (i < net->recompute - 1)
            ds_net_block_forward(net, i, net->acts[i + 1].x0, B);
        block_backward(net, i, B);
    }
    condition_backward(net, B);
    if (ds_layers_learns(&net->layers, DS_LIN_PATCH)) {
        size_t R = (size_t)B * (size_t)ds_dit_tokens(c);
        net->dev->ops->act_from_f32(net->dev, net->room_a, net->dx, R * (size_t)c->width);
        ds_layers_backward(&net->layers, DS_LIN_PATCH, NULL, NULL, net->room_a, net->ypatch,
                           net->patches, net->room_wide, (ds_rows){net->task, B, ds_dit_tokens(c)});
    }
}

void ds_net_backward(ds_net *net, const float *dout, int B) {
    DS_ASSERT(net->kind == DS_NET_TRAIN && B > 0 && B <= net->batch);
    ds_segment key = {
        .owner = net, .kind = DS_NET_SEGMENT_BACKWARD, .batch = B, .in = dout, .state = net->bound};
    if (ds_device_replay(net->dev, &key))
        return;
    backward(net, dout, B);
    ds_device_segment_end(net->dev);
}
