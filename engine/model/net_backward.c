/* engine/model/net_backward.c - the backward pass of DiT: from d loss / d out to the adapter's
 * gradients. Derivations: docs/math.md.  dx is the f32 gradient of the residual stream, accumulated
 * in place.
 */
#include "engine/model/net_internal.h"

/* The frozen matrix for affiner_backward; one that is held in 16 bits is unpacked only where the
 * device will read it. */
static const float *frozen_matrix(ds_net *net, const ds_layer *l) {
    ds_device *dev = net->dev;
    if (l->W || (dev->reads_matrix && dev->reads_matrix(dev, &l->ad)))
        return ds_net_matrix(net, l);
    return NULL;
}

/* Gradients of what is trained in the place of the base's own: W and bias, or the bias alone. */
static void replaced_backward(ds_net *net, ds_layer *l, const ds_act *dy, const ds_act *x,
                              int rows) {
    const struct ds_ops *k = net->dev->ops;
    ds_affiner shift = {.m = l->lin->m, .n = l->lin->n, .segs = 1, .b = l->bias};
    ds_affiner_grad g = {.db = l->db};
    if (l->full && l->dW)
        k->linear_backward_weight(net->dev, l->dW, l->db, dy, x, l->lin->m, l->lin->n, rows);
    else if (l->db)
        k->affiner_backward(net->dev, &g, &shift, dy, NULL, x, NULL, NULL, NULL, NULL, rows);
}

/* Input gradient and parameter gradients of one layer.
 *   dx (=) in activations, or dx32 (=) in f32, or neither when the input needs no gradient
 *   dy, y (rows,m)  x (rows,n);  scratch: an activation buffer of (rows,n) for the cases that need
 * dx */
static void layer_backward(ds_net *net, ds_layer *l, ds_act *dx, float *dx32, const ds_act *dy,
                           const ds_act *y, const ds_act *x, ds_act *scratch, int rows) {
    const struct ds_ops *k = net->dev->ops;
    ds_device *dev = net->dev;
    int needs_dx = l->adapted && (l->ad.side_in || l->ad.phi_relu);
    ds_act *d = dx ? dx : (needs_dx ? scratch : NULL);
    if (d)
        k->linear_backward_input(dev, d, dy, l->w, rows);
    else if (dx32)
        k->linear_f32_backward_input(dev, dx32, dy, l->w, rows);
    replaced_backward(net, l, dy, x, rows);
    if (l->adapted)
        k->affiner_backward(dev, &l->g, &l->ad, dy, y, x, d, l->ad.phi_relu ? d : NULL,
                            frozen_matrix(net, l), l->bias, rows);
    if (dx32 && d)
        k->act_to_f32(dev, dx32, d, (size_t)rows * (size_t)l->lin->n);
}

/* dpre (=): gradient of fc2's input through the GELU, and fc2's own gradients. */
static void fc2_backward(ds_net *net, ds_layer *l, ds_act *dpre, const ds_act *dy,
                         const ds_block_acts *a, int rows) {
    const struct ds_ops *k = net->dev->ops;
    if (l->adapted && (l->ad.side_in || l->ad.phi_relu)) {
        layer_backward(net, l, dpre, NULL, dy, a->fc2, a->gelu, NULL, rows);
        k->gelu_backward(net->dev, dpre, dpre, a->pre, (size_t)rows * (size_t)l->lin->n);
        return;
    }
    k->linear_gelu_backward_input(net->dev, dpre, dy, l->w, a->pre, rows);
    replaced_backward(net, l, dy, a->gelu, rows);
    if (l->adapted)
        k->affiner_backward(net->dev, &l->g, &l->ad, dy, a->fc2, a->gelu, NULL, NULL,
                            frozen_matrix(net, l), l->bias, rows);
}

/* Gradient of an adaLN linear: dmod (B,m) f32 and its output mod; adds to dsc. */
static void modulation_backward(ds_net *net, ds_layer *l, const float *mod, int B) {
    const struct ds_ops *k = net->dev->ops;
    size_t n = (size_t)B * (size_t)l->lin->m, nd = (size_t)B * (size_t)l->lin->n;
    k->act_from_f32(net->dev, net->dmod_act, net->dmod, n);
    if (l->adapted)
        k->act_from_f32(net->dev, net->mod_act, mod, n);
    layer_backward(net, l, NULL, net->room_cond, net->dmod_act, net->mod_act, net->cond.sc_act,
                   net->room_cond_act, B);
    k->add(net->dev, net->dsc, net->room_cond, nd);
}

static void block_backward(ds_net *net, int i, int B) {
    const struct ds_ops *k = net->dev->ops;
    ds_device *dev = net->dev;
    const ds_dit_config *c = ds_net_cfg(net);
    const int D = c->width, T = ds_dit_tokens(c), R = B * T, M = 6 * D;
    ds_block_acts *a = &net->acts[i];
    ds_layer *l = &net->layers[ds_lin_block(i, 0)];
    const float *scale1 = a->mod + D, *gate1 = a->mod + 2 * D;
    const float *scale2 = a->mod + 4 * D, *gate2 = a->mod + 5 * D;
    float *dshift1 = net->dmod, *dscale1 = net->dmod + D, *dgate1 = net->dmod + 2 * D;
    float *dshift2 = net->dmod + 3 * D, *dscale2 = net->dmod + 4 * D, *dgate2 = net->dmod + 5 * D;
    ds_act *dy = net->room_a, *dln = net->room_b, *datt = net->room_b; /* (R,D) */
    ds_act *wide = net->room_wide;                                     /* (R,F) or (R,3D) */

    k->gate_backward(dev, dy, dgate2, M, net->dx, a->fc2, gate2, M, B, T, D); /* of fc2's output */
    fc2_backward(net, &l[DS_LIN_FC2], wide, dy, a, R);                        /* (R,F) */
    layer_backward(net, &l[DS_LIN_FC1], dln, NULL, wide, a->pre, a->ln2, NULL, R);
    k->adaln_backward(dev, net->dx, dshift2, dscale2, M, dln, a->x1, a->mean2, a->rstd2, scale2, M,
                      B, T, D);

    k->gate_backward(dev, dy, dgate1, M, net->dx, a->proj, gate1, M, B, T, D); /* of proj's */
    layer_backward(net, &l[DS_LIN_PROJ], datt, NULL, dy, a->proj, a->att, NULL, R);
    k->attention_backward(dev, wide, datt, a->att, a->lse, a->qkv, B, T, D, c->heads); /* (R,3D) */
    dln = net->room_a; /* datt was read, dy as well */
    layer_backward(net, &l[DS_LIN_QKV], dln, NULL, wide, a->qkv, a->ln1, NULL, R);
    k->adaln_backward(dev, net->dx, dshift1, dscale1, M, dln, a->x0, a->mean1, a->rstd1, scale1, M,
                      B, T, D);

    modulation_backward(net, &l[DS_LIN_ADALN], a->mod, B);
}

static void final_backward(ds_net *net, const float *dout, int B) {
    const struct ds_ops *k = net->dev->ops;
    ds_device *dev = net->dev;
    const ds_dit_config *c = ds_net_cfg(net);
    const int D = c->width, T = ds_dit_tokens(c), R = B * T;
    ds_layer *lin = &net->layers[ds_lin_final(c)], *mod = &net->layers[ds_lin_final_adaln(c)];
    k->unpatchify_backward(dev, net->dtok, dout, B, ds_dit_out_channels(c), c->side, c->patch);
    if (lin->adapted)
        k->act_from_f32(dev, net->tok_act, net->tokens, (size_t)R * (size_t)lin->lin->m);
    layer_backward(net, lin, net->room_a, NULL, net->dtok, net->tok_act, net->lnf, NULL, R);
    k->fill(dev, net->dx, 0.0f, (size_t)R * (size_t)D);
    k->fill(dev, net->dsc, 0.0f, (size_t)B * (size_t)D);
    k->adaln_backward(dev, net->dx, net->dmod, net->dmod + D, 2 * D, net->room_a, net->xf,
                      net->meanf, net->rstdf, net->modf + D, 2 * D, B, T, D);
    modulation_backward(net, mod, net->modf, B);
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
    ds_layer *t0 = &net->layers[DS_LIN_TIME0], *t2 = &net->layers[DS_LIN_TIME2];
    if (!ds_layer_trained(t0) && !ds_layer_trained(t2))
        return;
    k->act_from_f32(dev, net->dmod_act, net->dc, n);
    if (t2->adapted) { /* its output, without the class rows, again */
        k->linear_forward(dev, net->mod_act, net->cond.t0s_act, t2->w, t2->bias_eff, B);
        if (t2->ad.phi_relu)
            k->lowrank_forward(dev, net->mod_act, net->cond.t0s_act, &t2->ad, B);
    }
    layer_backward(net, t2, NULL, net->room_cond, net->dmod_act, net->mod_act, net->cond.t0s_act,
                   net->room_cond_act, B);
    k->silu_backward(dev, net->room_cond, net->room_cond, net->cond.t0, n);
    k->act_from_f32(dev, net->dmod_act, net->room_cond, n);
    if (t0->adapted)
        k->act_from_f32(dev, net->mod_act, net->cond.t0, n);
    layer_backward(net, t0, NULL, NULL, net->dmod_act, net->mod_act, net->cond.temb_act,
                   net->room_cond_act, B);
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
    ds_layer *patch = &net->layers[DS_LIN_PATCH];
    if (ds_layer_trained(patch)) {
        size_t R = (size_t)B * (size_t)ds_dit_tokens(c);
        net->dev->ops->act_from_f32(net->dev, net->room_a, net->dx, R * (size_t)c->width);
        layer_backward(net, patch, NULL, NULL, net->room_a, net->ypatch, net->patches,
                       net->room_wide, (int)R);
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
