/* engine/net_forward.c - DiT.forward, line by line beside facebookresearch/DiT models.py.
 *
 * R = B*T rows of the token stream, D width, F = mlp_ratio * D.  The residual stream is f32. */
#include "base/mem.h"
#include "engine/net_internal.h"

#include <stdlib.h>
#include <string.h>

/* How a layer's adapter is applied: folded into the weight (nothing to do), as a low-rank branch
 * after the product (phi = ReLU), or as a set per sample (stacked). */
static int unfolded(const ds_net *net, const ds_layer *l) {
    return l->adapted && (net->kind == DS_NET_STACKED || (l->ad.phi_relu && !l->asleep));
}

static const float *bias_of(const ds_layer *l) {
    return l->adapted && !l->sets ? l->bias_eff : l->bias;
}

/* y = layer(x), plain.  rows_per_sample: T for the token stream, 1 for the conditioning. */
static void linear(ds_net *net, ds_layer *l, ds_act *y, const ds_act *x, int B,
                   int rows_per_sample) {
    const struct ds_ops *k = net->dev->ops;
    int rows = B * rows_per_sample;
    if (l->adapted && l->sets) {
        k->linear_forward(net->dev, y, x, l->w, NULL, rows);
        k->affiner_rows_forward(net->dev, y, NULL, x, l->bias, l->sets, net->task, B,
                                rows_per_sample);
        return;
    }
    k->linear_forward(net->dev, y, x, l->w, bias_of(l), rows);
    if (unfolded(net, l))
        k->lowrank_forward(net->dev, y, x, &l->ad, rows);
}

/* The same with an f32 result. */
static void linear_f32(ds_net *net, ds_layer *l, float *y, const ds_act *x, int B,
                       int rows_per_sample) {
    const struct ds_ops *k = net->dev->ops;
    int rows = B * rows_per_sample;
    if (!unfolded(net, l)) {
        k->linear_f32_forward(net->dev, y, x, l->w, bias_of(l), rows);
        return;
    }
    k->linear_f32_forward(net->dev, y, x, l->w, NULL, rows);
    ds_affiner branch = l->ad; /* a and b are folded already: only the low-rank branch is left */
    branch.a = branch.b = NULL;
    k->affiner_rows_forward(net->dev, NULL, y, x, l->sets ? l->bias : l->bias_eff,
                            l->sets ? l->sets : &branch, net->task, B, rows_per_sample);
}

static void linear_gelu(ds_net *net, ds_layer *l, ds_act *pre, ds_act *y, const ds_act *x, int B,
                        int T) {
    const struct ds_ops *k = net->dev->ops;
    if (unfolded(net, l)) {
        linear(net, l, pre, x, B, T);
        k->gelu_forward(net->dev, y, pre, (size_t)B * (size_t)T * (size_t)l->lin->m);
    } else
        k->linear_gelu_forward(net->dev, net->kind == DS_NET_TRAIN ? pre : NULL, y, x, l->w,
                               bias_of(l), B * T);
}

/* res_out = res_in + gate * layer(x); y keeps layer(x) for the backward pass. */
static void linear_residual(ds_net *net, ds_layer *l, ds_act *y, float *res_out,
                            const float *res_in, const float *gate, int stride, const ds_act *x,
                            int B, int T) {
    const struct ds_ops *k = net->dev->ops;
    if (unfolded(net, l)) {
        linear(net, l, y, x, B, T);
        k->gate_forward(net->dev, res_out, res_in, gate, stride, y, B, T, l->lin->m);
    } else
        k->linear_residual_forward(net->dev, net->kind == DS_NET_TRAIN ? y : NULL, res_out, res_in,
                                   gate, stride, x, l->w, bias_of(l), B, T);
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

/* Labels to the device; class rows of a stacked net are indexed over all sets. */
static void upload_conditions(ds_net *net, const ds_condition *cond, int B) {
    float *t = ds_xmalloc((size_t)B * sizeof *t);
    int *idx = ds_xmalloc((size_t)B * 3 * sizeof *idx);
    for (int b = 0; b < B; b++) {
        int task = net->kind == DS_NET_STACKED ? (cond[b].task < 0 ? net->tasks : cond[b].task) : 0;
        int first = 0;
        DS_ASSERT(task <= net->tasks && (cond[b].row < 0) != (cond[b].base_row < 0));
        DS_ASSERT(cond[b].base_row <= ds_net_cfg(net)->classes);
        DS_ASSERT(cond[b].row < 0 || (task < net->tasks && cond[b].row < net->set_rows[task]));
        for (int i = 0; cond[b].row >= 0 && i < task; i++)
            first += net->set_rows[i];
        t[b] = cond[b].t;
        idx[b] = cond[b].row < 0 ? -1 : first + cond[b].row;
        idx[B + b] = cond[b].base_row;
        idx[2 * B + b] = task;
    }
    net->dev->upload(net->dev, net->tvalue, t, (size_t)B * sizeof *t);
    net->dev->upload(net->dev, net->row, idx, (size_t)B * sizeof *idx);
    net->dev->upload(net->dev, net->base_row, idx + B, (size_t)B * sizeof *idx);
    take_tasks(net, idx + 2 * B, B);
    free(t);
    free(idx);
}

/* c = t_embedder(t) + y_embedder(y);  sc = SiLU(c), the input of every adaLN layer */
static void condition(ds_net *net, int B) {
    const struct ds_ops *k = net->dev->ops;
    ds_device *dev = net->dev;
    const ds_dit_config *c = ds_net_cfg(net);
    const size_t D = (size_t)c->width, n = (size_t)B * D, f = (size_t)B * (size_t)c->freq_dim;
    k->timestep_embedding(dev, net->temb, net->tvalue, B, c->freq_dim, 10000.0f,
                          c->time_shift); /* (B,256) */
    k->act_from_f32(dev, net->temb_act, net->temb, f);
    linear_f32(net, &net->layers[DS_LIN_TIME0], net->t0, net->temb_act, B, 1); /* (B,D) */
    k->silu_forward(dev, net->t0s, net->t0, n);
    k->act_from_f32(dev, net->t0s_act, net->t0s, n);
    linear_f32(net, &net->layers[DS_LIN_TIME2], net->c, net->t0s_act, B, 1); /* (B,D) */
    const float *rows = net->kind == DS_NET_STACKED ? net->rows_all : net->rows[0];
    if (rows)
        k->embedding_forward(dev, net->c, rows, net->row, B, c->width);
    k->embedding_forward(dev, net->c, net->table, net->base_row, B, c->width);
    k->silu_forward(dev, net->sc, net->c, n);
    k->act_from_f32(dev, net->sc_act, net->sc, n);
}

/* Of all normalisations but a block's second, whose eps differs between publications of DiT. */
static const float norm_eps = 1e-6f;

void ds_net_block_forward(ds_net *net, int i, float *out, int B) {
    const struct ds_ops *k = net->dev->ops;
    ds_device *dev = net->dev;
    const ds_dit_config *c = ds_net_cfg(net);
    const int D = c->width, T = ds_dit_tokens(c), M = 6 * D;
    const int train = net->kind == DS_NET_TRAIN;
    ds_block_acts *a = &net->acts[i];
    ds_layer *l = &net->layers[ds_lin_block(i, 0)];
    linear_f32(net, &l[DS_LIN_ADALN], a->mod, net->sc_act, B, 1); /* (B,6D) */
    const float *shift1 = a->mod, *scale1 = a->mod + D, *gate1 = a->mod + 2 * D;
    const float *shift2 = a->mod + 3 * D, *scale2 = a->mod + 4 * D, *gate2 = a->mod + 5 * D;

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

static void forward(ds_net *net, float *out, const float *x, int B) {
    const struct ds_ops *k = net->dev->ops;
    ds_device *dev = net->dev;
    const ds_dit_config *c = ds_net_cfg(net);
    const int D = c->width, T = ds_dit_tokens(c), last = c->depth - 1;
    condition(net, B);
    const float *pos =
        net->model->data ? net->model->data : ds_base_held(net->base, 0); /* the first entry */
    ds_layer *patch = &net->layers[DS_LIN_PATCH];
    k->patchify(dev, net->patches, x, B, c->channels, c->side, c->patch); /* (R,Cpp) */
    linear_f32(net, patch, net->acts[0].x0, net->patches, B, T);
    if (net->kind == DS_NET_TRAIN && patch->adapted)
        k->act_from_f32(dev, net->ypatch, net->acts[0].x0, (size_t)B * (size_t)T * (size_t)D);
    k->add_position(dev, net->acts[0].x0, pos, B, T, D); /* (R,D) */
    for (int i = 0; i <= last; i++)
        ds_net_block_forward(net, i, i < last ? net->acts[i + 1].x0 : net->xf, B);
    int fa = ds_lin_final_adaln(c), fl = ds_lin_final(c);
    linear_f32(net, &net->layers[fa], net->modf, net->sc_act, B, 1); /* (B,2D) shift, scale */
    k->adaln_forward(dev, net->lnf, net->meanf, net->rstdf, net->xf, net->modf, net->modf + D,
                     2 * D, norm_eps, B, T, D);
    linear_f32(net, &net->layers[fl], net->tokens, net->lnf, B, T); /* (R,pp outC) */
    k->unpatchify(dev, out, net->tokens, B, ds_dit_out_channels(c), c->side, c->patch);
}

void ds_net_forward(ds_net *net, float *out, const float *x, const ds_condition *cond, int B) {
    DS_ASSERT(B > 0 && B <= net->batch);
    upload_conditions(net, cond, B);
    ds_segment key = {.owner = net,
                      .kind = DS_NET_SEGMENT_FORWARD,
                      .batch = B,
                      .in = x,
                      .out = out,
                      .state = net->bound};
    if (ds_device_replay(net->dev, &key))
        return;
    forward(net, out, x, B);
    ds_device_segment_end(net->dev);
}
