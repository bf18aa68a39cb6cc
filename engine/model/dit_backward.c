/* engine/model/dit_backward.c - the backward pass of DiT: from d loss / d out to the adapter's
 * gradients. Derivations: docs/math.md.  dx is the f32 gradient of the residual stream, accumulated
 * in place.
 */
#include "engine/model/dit_net.h"

/* Gradient of an adaLN layer: dmod (B,m) f32 and its output mod; adds to dsc. */
static void modulation_backward(ds_net *net, int layer, const float *mod, int B) {
    const struct ds_ops *k = net->dev->ops;
    const ds_layer_shape *l = &net->base->layers[layer];
    ds_dit_acts *n = ds_dit_acts_of(net);
    k->act_from_f32(net->dev, n->dmod_act, n->dmod, (size_t)B * (size_t)l->m);
    if (ds_layers_adapted(&net->layers, layer))
        k->act_from_f32(net->dev, n->mod_act, mod, (size_t)B * (size_t)l->m);
    ds_layers_backward(&net->layers, layer, NULL, n->room_cond, n->dmod_act, n->mod_act,
                       n->cond.sc_act, n->room_cond_act, (ds_rows){net->task, B, 1});
    k->add(net->dev, n->dsc, n->room_cond, (size_t)B * (size_t)l->n);
}

static void block_backward(ds_net *net, int i, int B) {
    const struct ds_ops *k = net->dev->ops;
    ds_device *dev = net->dev;
    const ds_dit_config *c = ds_dit_of(net);
    const int D = c->width, T = ds_dit_tokens(c), M = 6 * D;
    ds_dit_acts *n = ds_dit_acts_of(net);
    ds_dit_block *a = &n->blocks[i];
    ds_layers *layers = &net->layers;
    const ds_rows r = {net->task, B, T};
    const int l = ds_lin_block(i, 0);
    const float *scale1 = a->mod + D, *gate1 = a->mod + 2 * D;
    const float *scale2 = a->mod + 4 * D, *gate2 = a->mod + 5 * D;
    float *dshift1 = n->dmod, *dscale1 = n->dmod + D, *dgate1 = n->dmod + 2 * D;
    float *dshift2 = n->dmod + 3 * D, *dscale2 = n->dmod + 4 * D, *dgate2 = n->dmod + 5 * D;
    ds_act *dy = n->room_a, *dln = n->room_b, *datt = n->room_b; /* (R,D) */
    ds_act *wide = n->room_wide;                                 /* (R,F) or (R,3D) */

    k->gate_backward(dev, dy, dgate2, M, n->dx, a->fc2, gate2, M, B, T, D); /* of fc2's output */
    ds_layers_backward_gelu(layers, l + DS_LIN_FC2, wide, dy, a->fc2, a->gelu, a->pre,
                            r); /* (R,F) */
    ds_layers_backward(layers, l + DS_LIN_FC1, dln, NULL, wide, a->pre, a->ln2, NULL, r);
    k->adaln_backward(dev, n->dx, dshift2, dscale2, M, dln, a->x1, a->mean2, a->rstd2, scale2, M, B,
                      T, D);

    k->gate_backward(dev, dy, dgate1, M, n->dx, a->proj, gate1, M, B, T, D); /* of proj's */
    ds_layers_backward(layers, l + DS_LIN_PROJ, datt, NULL, dy, a->proj, a->att, NULL, r);
    k->attention_backward(dev, wide, datt, a->att, a->lse, a->qkv, B, T, D, c->heads); /* (R,3D) */
    dln = n->room_a; /* datt was read, dy as well */
    ds_layers_backward(layers, l + DS_LIN_QKV, dln, NULL, wide, a->qkv, a->ln1, NULL, r);
    k->adaln_backward(dev, n->dx, dshift1, dscale1, M, dln, a->x0, a->mean1, a->rstd1, scale1, M, B,
                      T, D);

    modulation_backward(net, l + DS_LIN_ADALN, a->mod, B);
}

static void final_backward(ds_net *net, const float *dout, int B) {
    const struct ds_ops *k = net->dev->ops;
    ds_device *dev = net->dev;
    const ds_dit_config *c = ds_dit_of(net);
    ds_dit_acts *n = ds_dit_acts_of(net);
    const int D = c->width, T = ds_dit_tokens(c), R = B * T, last = ds_lin_final(c);
    const float *scale = n->modf + D;
    float *dshift = n->dmod, *dscale = n->dmod + D;
    k->unpatchify_backward(dev, n->dtok, dout, B, ds_dit_out_channels(c), c->side, c->patch);
    if (ds_layers_adapted(&net->layers, last))
        k->act_from_f32(dev, n->tok_act, n->tokens, (size_t)R * (size_t)net->base->layers[last].m);
    ds_layers_backward(&net->layers, last, n->room_a, NULL, n->dtok, n->tok_act, n->lnf, NULL,
                       (ds_rows){net->task, B, T});
    k->fill(dev, n->dx, 0.0f, (size_t)R * (size_t)D);
    k->fill(dev, n->dsc, 0.0f, (size_t)B * (size_t)D);
    k->adaln_backward(dev, n->dx, dshift, dscale, 2 * D, n->room_a, n->xf, n->meanf, n->rstdf,
                      scale, 2 * D, B, T, D);
    modulation_backward(net, ds_lin_final_adaln(c), n->modf, B);
}

/* Timestep MLP and class rows, from dsc = d loss / d SiLU(c). */
static void condition_backward(ds_net *net, int B) {
    const struct ds_ops *k = net->dev->ops;
    ds_device *dev = net->dev;
    ds_dit_acts *n = ds_dit_acts_of(net);
    ds_layers *layers = &net->layers;
    const ds_given given = ds_net_given(net, B);
    const ds_rows r = {net->task, B, 1};
    const size_t count = (size_t)B * (size_t)ds_dit_of(net)->width;
    k->silu_backward(dev, n->dc, n->dsc, n->cond.c, count);
    ds_net_classes_backward(net, n->dc, &given);
    if (!ds_layers_learns(layers, DS_LIN_TIME0) && !ds_layers_learns(layers, DS_LIN_TIME2))
        return;
    k->act_from_f32(dev, n->dmod_act, n->dc, count);
    if (ds_layers_adapted(layers, DS_LIN_TIME2)) /* its output, without the class rows, again */
        ds_layers_forward(layers, DS_LIN_TIME2, n->mod_act, n->cond.t0s_act, r);
    ds_layers_backward(layers, DS_LIN_TIME2, NULL, n->room_cond, n->dmod_act, n->mod_act,
                       n->cond.t0s_act, n->room_cond_act, r);
    k->silu_backward(dev, n->room_cond, n->room_cond, n->cond.t0, count);
    k->act_from_f32(dev, n->dmod_act, n->room_cond, count);
    if (ds_layers_adapted(layers, DS_LIN_TIME0))
        k->act_from_f32(dev, n->mod_act, n->cond.t0, count);
    ds_layers_backward(layers, DS_LIN_TIME0, NULL, NULL, n->dmod_act, n->mod_act, n->cond.temb_act,
                       n->room_cond_act, r);
}

void ds_dit_backward(ds_net *net, const float *dout, int B) {
    const ds_dit_config *c = ds_dit_of(net);
    ds_dit_acts *n = ds_dit_acts_of(net);
    const int T = ds_dit_tokens(c);
    final_backward(net, dout, B);
    for (int i = c->depth - 1; i >= 0; i--) {
        /* the shared buffers still hold the last of the recomputed blocks; the block's output is
         * the same bits as before */
        if (i < net->recompute - 1)
            ds_dit_block_forward(net, i, n->blocks[i + 1].x0, B);
        block_backward(net, i, B);
    }
    condition_backward(net, B);
    if (ds_layers_learns(&net->layers, DS_LIN_PATCH)) {
        net->dev->ops->act_from_f32(net->dev, n->room_a, n->dx,
                                    (size_t)B * (size_t)T * (size_t)c->width);
        ds_layers_backward(&net->layers, DS_LIN_PATCH, NULL, NULL, n->room_a, n->ypatch, n->patches,
                           n->room_wide, (ds_rows){net->task, B, T});
    }
}
