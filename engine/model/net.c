/* engine/model/net.c - models and nets: packing of weights, layout of activations. */
#include "base/mem.h"
#include "engine/model/net_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- model */

size_t ds_model_bytes(const ds_device *dev, const ds_base *base) {
    return dev->host_memory ? 0 : base->table.total * sizeof(float);
}

int ds_model_new(ds_model **out, ds_device *dev, const ds_base *base, ds_error *err) {
    ds_model *m = ds_xcalloc(1, sizeof *m);
    size_t bytes = ds_model_bytes(dev, base);
    m->dev = dev;
    m->base = base;
    *out = m;
    if (!bytes)
        return 0;
    m->data = dev->alloc(dev, bytes);
    if (!m->data) {
        free(m);
        return ds_device_no_room(dev, bytes, err, "the base");
    }
    for (int i = 0; i < base->table.count; i++) {
        const ds_param *p = &base->table.items[i];
        float *room = ds_base_held(base, i) ? NULL : ds_xmalloc(p->count * sizeof *room);
        dev->upload(dev, m->data + p->offset, ds_base_values(base, i, room),
                    p->count * sizeof(float));
        free(room);
    }
    return 0;
}

void ds_model_free(ds_model *m) {
    if (!m)
        return;
    m->dev->free(m->dev, m->data);
    free(m);
}

/* ---------------------------------------------------------------- layout of activations
 * One pass over the list of buffers; with block == NULL it only counts. */

typedef struct {
    char *block;
    size_t used;
} ds_net_plan;

static void *take(ds_net_plan *plan, size_t bytes) {
    void *p = plan->block ? plan->block + plan->used : NULL;
    plan->used += (bytes + 63) / 64 * 64;
    return p;
}

static void plan_block(ds_net_plan *plan, ds_block_acts *a, const ds_dit_config *c, size_t act,
                       int B) {
    size_t T = (size_t)ds_dit_tokens(c), R = (size_t)B * T, D = (size_t)c->width,
           F = D * (size_t)c->mlp_ratio;
    float **stats[] = {&a->mean1, &a->rstd1, &a->mean2, &a->rstd2};
    for (int i = 0; i < 4; i++)
        *stats[i] = take(plan, R * 4);
    a->x1 = take(plan, R * D * 4);
    a->lse = take(plan, R * (size_t)c->heads * 4);
    a->mod = take(plan, (size_t)B * 6 * D * 4);
    a->ln1 = take(plan, R * D * act);
    a->qkv = take(plan, R * 3 * D * act);
    a->att = take(plan, R * D * act);
    a->proj = take(plan, R * D * act);
    a->ln2 = take(plan, R * D * act);
    a->pre = take(plan, R * F * act);
    a->gelu = take(plan, R * F * act);
    a->fc2 = take(plan, R * D * act);
}

size_t ds_net_plan_conditioning(ds_conditioning *k, const ds_dit_config *c, size_t act, int rows,
                                char *block) {
    ds_net_plan plan = {block, 0};
    size_t b = (size_t)rows, freq = b * (size_t)c->freq_dim, D = b * (size_t)c->width;
    k->given = take(&plan, 3 * b * sizeof *k->given);
    k->temb = take(&plan, freq * 4);
    k->temb_act = take(&plan, freq * act);
    float **wide[] = {&k->t0, &k->t0s, &k->c, &k->sc};
    for (int i = 0; i < 4; i++)
        *wide[i] = take(&plan, D * 4);
    k->t0s_act = take(&plan, D * act);
    k->sc_act = take(&plan, D * act);
    return plan.used;
}

static void plan_shared(ds_net_plan *plan, ds_net *n, const ds_dit_config *c, size_t act, int B,
                        int train) {
    size_t T = (size_t)ds_dit_tokens(c), R = (size_t)B * T, D = (size_t)c->width,
           F = D * (size_t)c->mlp_ratio, b = (size_t)B;
    size_t out = (size_t)(c->patch * c->patch * ds_dit_out_channels(c)),
           in = (size_t)(c->patch * c->patch * c->channels);
    plan->used += ds_net_plan_conditioning(&n->cond, c, act, B,
                                           plan->block ? plan->block + plan->used : NULL);
    n->room_cond_act =
        take(plan, b * (6 * D > (size_t)c->freq_dim ? 6 * D : (size_t)c->freq_dim) * act);
    n->modf = take(plan, b * 2 * D * 4);
    n->meanf = take(plan, R * 4);
    n->rstdf = take(plan, R * 4);
    n->lnf = take(plan, R * D * act);
    n->patches = take(plan, R * in * act);
    n->ypatch = take(plan, R * D * act);
    n->tokens = take(plan, R * out * 4);
    n->tok_act = take(plan, R * out * act);
    if (!train)
        return;
    n->dx = take(plan, R * D * 4);
    n->dmod = take(plan, b * 6 * D * 4);
    float **of_cond[] = {&n->dc, &n->dsc, &n->room_cond};
    for (int i = 0; i < 3; i++)
        *of_cond[i] = take(plan, b * D * 4);
    n->room_a = take(plan, R * D * act);
    n->room_b = take(plan, R * D * act);
    size_t wide = F > 3 * D ? F : 3 * D;
    n->room_wide = take(plan, R * (wide > in ? wide : in) * act);
    n->dmod_act = take(plan, b * 6 * D * act);
    n->mod_act = take(plan, b * 6 * D * act);
    n->dtok = take(plan, R * out * act);
}

static size_t plan_net(ds_net *n, const ds_dit_config *c, size_t act, enum ds_net_kind kind, int B,
                       char *block) {
    ds_net_plan plan = {block, 0};
    int train = kind == DS_NET_TRAIN, own = train ? n->recompute : c->depth;
    size_t stream = (size_t)B * (size_t)ds_dit_tokens(c) * (size_t)c->width * 4;
    plan_shared(&plan, n, c, act, B, train);
    float *x = take(&plan, stream);
    for (int i = 0; i < c->depth; i++) {
        if (i == 0 || i >= own)
            plan_block(&plan, &n->acts[i], c, act, B);
        else
            n->acts[i] = n->acts[0];
        n->acts[i].x0 = x;
        if (train)
            x = take(&plan, stream); /* the block's output = the next one's input */
        else
            n->acts[i].x1 = x; /* the stream is updated in place */
    }
    n->xf = x;
    return plan.used;
}

size_t ds_net_bytes(const ds_dit_config *cfg, const ds_device *dev, enum ds_net_kind kind,
                    int batch) {
    ds_net n = {0};
    n.acts = ds_xcalloc((size_t)cfg->depth, sizeof *n.acts);
    size_t bytes = plan_net(&n, cfg, dev->act_size, kind, batch, NULL);
    free(n.acts);
    return bytes;
}

size_t ds_net_train_bytes(const ds_dit_config *cfg, const ds_device *dev, int batch,
                          int recompute) {
    ds_net n = {.recompute = recompute};
    n.acts = ds_xcalloc((size_t)cfg->depth, sizeof *n.acts);
    size_t bytes = plan_net(&n, cfg, dev->act_size, DS_NET_TRAIN, batch, NULL);
    free(n.acts);
    return bytes;
}

/* Floats of the largest weight that the base holds in 16 bits on a device that uses it in place. */
static size_t wide_floats(const ds_device *dev, const ds_base *base) {
    size_t n = 0;
    for (int i = 0; dev->host_memory && i < base->table.count; i++)
        if (!ds_base_held(base, i) && base->table.items[i].count > n)
            n = base->table.items[i].count;
    return n;
}

size_t ds_net_weight_bytes(ds_device *dev, const ds_base *base, enum ds_net_kind kind) {
    size_t bytes = wide_floats(dev, base) * sizeof(float);
    for (int i = 0; i < ds_lin_count(&base->cfg); i++) {
        const ds_linear *l = &base->linears[i];
        bytes += dev->weight_bytes(dev, l->m, l->n, 0, kind == DS_NET_TRAIN) +
                 (size_t)l->m * sizeof(float);
    }
    return bytes;
}

/* ---------------------------------------------------------------- layers */

/* NULL: the base holds it in 16 bits. */
static const float *tensor(const ds_net *net, int entry) {
    return net->model->data ? net->model->data + net->base->table.items[entry].offset
                            : ds_base_held(net->base, entry);
}

const float *ds_net_unpack(ds_device *dev, const ds_base *base, int entry, float *room) {
    const uint16_t *half = ds_base_bf16(base, entry);
    const ds_act *act = half ? ds_act_of_bf16(dev, half) : NULL;
    if (ds_base_held(base, entry) || !act)
        return ds_base_values(base, entry, room);
    dev->ops->act_to_f32(dev, room, act, base->table.items[entry].count); /* by all its threads */
    return room;
}

const float *ds_net_matrix(ds_net *net, const ds_layer *l) {
    return l->W ? l->W : ds_net_unpack(net->dev, net->base, l->lin->weight, net->wide);
}

/* Can this adapter be folded into the weight?  phi = ReLU cannot (its a part is). */
static void fold_layer(ds_net *net, ds_layer *l) {
    const struct ds_ops *k = net->dev->ops;
    const ds_affiner *ad = l->adapted ? &l->ad : NULL;
    const float *W = ds_net_matrix(net, l);
    k->weight_pack(net->dev, l->w, W, ad);
    if (ad)
        k->bias_fold(net->dev, l->bias_eff, l->bias, W, ad);
}

static int new_layers(ds_net *net, ds_error *err) {
    const ds_dit_config *c = ds_net_cfg(net);
    size_t wide = wide_floats(net->dev, net->base);
    if (wide && !(net->wide = net->dev->alloc(net->dev, wide * sizeof(float))))
        return ds_device_no_room(net->dev, wide * sizeof(float), err, "unpacking a weight");
    net->layers = ds_xcalloc((size_t)ds_lin_count(c), sizeof *net->layers);
    for (int i = 0; i < ds_lin_count(c); i++) {
        ds_layer *l = &net->layers[i];
        l->lin = &net->base->linears[i];
        l->W = tensor(net, l->lin->weight);
        l->bias = tensor(net, l->lin->bias);
        l->w = net->dev->weight_new(net->dev, l->lin->m, l->lin->n, 0, net->kind == DS_NET_TRAIN);
        l->bias_eff = net->dev->alloc(net->dev, (size_t)l->lin->m * sizeof(float));
        if (!l->w || !l->bias_eff)
            return ds_device_no_room(net->dev,
                                     net->dev->weight_bytes(net->dev, l->lin->m, l->lin->n, 0,
                                                            net->kind == DS_NET_TRAIN),
                                     err, "packing the weights of '%s'", l->lin->name);
    }
    return 0;
}

/* Entries that replace the base's tensors. */
static void bind_replaced(ds_net *net, const ds_params *table, const float *p, float *g) {
    for (int i = 0; i < table->count; i++) {
        const ds_param *e = &table->items[i];
        if (e->kind == DS_PARAM_TABLE) {
            net->table = p + e->offset;
            net->dtable = g ? g + e->offset : NULL;
        }
        if (e->linear < 0)
            continue;
        ds_layer *l = &net->layers[e->linear];
        if (e->kind == DS_PARAM_WEIGHT) {
            l->full = 1;
            l->W = p + e->offset;
            l->dW = g ? g + e->offset : NULL;
        } else if (e->kind == DS_PARAM_BIAS) {
            l->bias = p + e->offset;
            l->db = g ? g + e->offset : NULL;
        }
    }
}

static void bind_affiner(ds_layer *l, const ds_method_spec *spec, const ds_params *table, int index,
                         const float *p, float *g) {
    ds_adapter_slot slot;
    if (!ds_adapter_find(table, index, spec->rank, &slot))
        return;
    l->adapted = 1;
    l->slot = slot;
    l->ad = ds_adapter_view(spec, l->lin, &slot, p);
    l->g = (ds_affiner_grad){0};
    if (!g)
        return;
    l->g.da = g + slot.a;
    l->g.db = g + slot.b;
    if (spec->rank) {
        l->g.ds = g + slot.s;
        l->g.dU = g + slot.U;
        l->g.dV = spec->freeze_v ? NULL : g + slot.V;
    }
}

static void bind_single(ds_net *net, const ds_method_spec *spec, const ds_params *table,
                        const float *p, float *g) {
    net->spec = *spec;
    bind_replaced(net, table, p, g);
    for (int i = 0; i < ds_lin_count(ds_net_cfg(net)); i++)
        bind_affiner(&net->layers[i], spec, table, i, p, g);
    size_t rows = ds_adapter_rows(table);
    net->rows[0] = rows == SIZE_MAX ? NULL : p + rows;
    net->drows = rows == SIZE_MAX || !g ? NULL : g + rows;
}

void ds_net_refold(ds_net *net) {
    ds_segment key = {
        .owner = net, .kind = DS_NET_SEGMENT_REFOLD, .batch = net->batch, .state = net->bound};
    if (ds_device_replay(net->dev, &key))
        return;
    for (int i = 0; i < ds_lin_count(ds_net_cfg(net)); i++)
        if (net->layers[i].adapted || net->layers[i].full)
            fold_layer(net, &net->layers[i]);
    ds_device_segment_end(net->dev);
}

void ds_net_bind(ds_net *net, const float *p, float *g) {
    DS_ASSERT(net->kind == DS_NET_TRAIN);
    ds_params table = {0};
    ds_adapter_table(&table, net->base, &net->spec);
    bind_single(net, &net->spec, &table, p, g);
    net->bound = p;
    ds_params_release(&table);
    ds_net_refold(net);
}

/* A branch whose every s is 0 is skipped when serving, so that a fresh adapter is the base bit for
 * bit also where the branch is not folded.  l->slot is where a has the layer. */
static int sleeps(const ds_layer *l, const ds_adapter *a) {
    int asleep = a->spec.rank > 0;
    for (int g = 0; asleep && g < l->lin->segs; g++)
        asleep = a->data[l->slot.s + (size_t)g] == 0;
    return asleep;
}

static void find_asleep(ds_net *net, const ds_adapter *a) {
    for (int i = 0; i < ds_lin_count(ds_net_cfg(net)); i++)
        net->layers[i].asleep = net->layers[i].adapted && sleeps(&net->layers[i], a);
}

/* ---------------------------------------------------------------- several tasks */

/* The neutral adapter (a = 1, no b, no low rank) for every task and for samples of the base itself:
 * `identity` holds ones as many as the widest layer has outputs. */
static ds_affiner *neutral_sets(const ds_net *net, const ds_layer *l) {
    ds_affiner *sets = ds_xcalloc((size_t)net->tasks + 1, sizeof *sets);
    for (int t = 0; t <= net->tasks; t++)
        sets[t] =
            (ds_affiner){.m = l->lin->m, .n = l->lin->n, .segs = l->lin->segs, .a = net->identity};
    return sets;
}

static int bind_stacked(ds_net *net, const ds_adapter *const *adapters, ds_error *err) {
    const ds_dit_config *c = ds_net_cfg(net);
    size_t widest = 0;
    for (int i = 0; i < ds_lin_count(c); i++)
        widest = (size_t)net->layers[i].lin->m > widest ? (size_t)net->layers[i].lin->m : widest;
    net->identity = net->dev->alloc(net->dev, widest * sizeof(float));
    if (!net->identity)
        return ds_device_no_room(net->dev, widest * sizeof(float), err, "a batch of %d adapters",
                                 net->tasks);
    net->dev->ops->fill(net->dev, net->identity, 1.0f, widest);
    for (int i = 0; i < ds_lin_count(c); i++) {
        ds_layer *l = &net->layers[i];
        for (int t = 0; t < net->tasks; t++) {
            const ds_param *bias = ds_adapter_bias(&adapters[t]->table, i);
            int has = ds_adapter_find(&adapters[t]->table, i, adapters[t]->spec.rank, &l->slot);
            if (!has && !bias)
                continue;
            if (!l->sets)
                l->sets = neutral_sets(net, l);
            if (has)
                l->sets[t] =
                    ds_adapter_view(&adapters[t]->spec, l->lin, &l->slot, net->sets_data[t]);
            if (bias) /* upload_sets: what it has more than the base's */
                l->sets[t].b = net->sets_data[t] + bias->offset;
        }
    }
    return 0;
}

/* Is the layer folded for every task? */
static int every_task_folds(const ds_net *net, const ds_layer *l) {
    for (int t = 0; t < net->tasks; t++)
        if (!l->folded[t].ad.m || l->folded[t].branch)
            return 0;
    return net->tasks > 1;
}

/* Weights and biases of the tasks that have the layer; as one where the device can use that. */
static int folded_room(ds_net *net, ds_layer *l, int index, ds_error *err) {
    ds_device *dev = net->dev;
    const int m = l->lin->m, n = l->lin->n, all = dev->weights_new && every_task_folds(net, l);
    const size_t bytes = dev->weight_bytes(dev, m, n, 0, 0), bias = (size_t)m * sizeof(float);
    ds_weight **each = ds_xcalloc((size_t)net->tasks, sizeof *each);
    int rc = 0;
    if (all) {
        rc = dev->weights_new(dev, m, n, net->tasks, each, &l->every);
        l->every_bias = rc ? NULL : dev->alloc(dev, (size_t)net->tasks * bias);
        rc = rc || !l->every_bias;
    }
    for (int t = 0; t < net->tasks; t++) {
        ds_folded *f = &l->folded[t];
        f->w = each[t];
        f->bias = l->every_bias ? l->every_bias + (size_t)t * (size_t)m : NULL;
        if (all || !f->ad.m)
            continue;
        f->w = dev->weight_new(dev, m, n, 0, 0);
        f->bias = dev->alloc(dev, bias);
        rc = rc || !f->w || !f->bias;
    }
    free(each);
    return rc ? ds_device_no_room(dev, (size_t)net->tasks * (bytes + bias), err,
                                  "layer %d of %d tasks", index, net->tasks)
              : 0;
}

static int bind_folded(ds_net *net, const ds_adapter *const *adapters, ds_error *err) {
    for (int i = 0; i < ds_lin_count(ds_net_cfg(net)); i++) {
        ds_layer *l = &net->layers[i];
        l->folded = ds_xcalloc((size_t)net->tasks + 1, sizeof *l->folded);
        for (int t = 0; t < net->tasks; t++) {
            const ds_adapter *a = adapters[t];
            const ds_param *bias = ds_adapter_bias(&a->table, i);
            l->folded[t].own_bias = bias ? net->sets_data[t] + bias->offset : NULL;
            if (!ds_adapter_find(&a->table, i, a->spec.rank, &l->slot))
                continue;
            l->folded[t].ad = ds_adapter_view(&a->spec, l->lin, &l->slot, net->sets_data[t]);
            l->folded[t].branch = l->folded[t].ad.phi_relu && !sleeps(l, a);
        }
        int rc = folded_room(net, l, i, err);
        if (rc)
            return rc;
        for (int t = 0; t < net->tasks; t++) {
            const ds_folded *f = &l->folded[t];
            if (!f->w)
                continue;
            const float *W = ds_net_matrix(net, l);
            net->dev->ops->weight_pack(net->dev, f->w, W, &f->ad);
            net->dev->ops->bias_fold(net->dev, f->bias, f->own_bias ? f->own_bias : l->bias, W,
                                     &f->ad);
        }
    }
    return 0;
}

/* Class rows of all tasks, one after the other. */
static int bind_rows(ds_net *net, const ds_adapter *const *adapters, ds_error *err) {
    const size_t D = (size_t)ds_net_cfg(net)->width;
    size_t rows = 0;
    for (int t = 0; t < net->tasks; t++) {
        const ds_method_spec *s = &adapters[t]->spec;
        if ((ds_method_parts(s->method) & DS_PART_BASE) ||
            (s->side_in && net->kind == DS_NET_STACKED))
            return ds_fail(err, DS_EINVAL,
                           "an adapter of method full or side in cannot share a batch with others");
        rows += (size_t)s->classes;
    }
    net->rows_all = net->dev->alloc(net->dev, (rows + 1) * D * sizeof(float));
    if (!net->rows_all)
        return ds_device_no_room(net->dev, (rows + 1) * D * sizeof(float), err,
                                 "class rows of %d adapters", net->tasks);
    rows = 0;
    for (int t = 0; t < net->tasks; t++) {
        size_t at = ds_adapter_rows(&adapters[t]->table);
        size_t n = (size_t)adapters[t]->spec.classes;
        if (n)
            net->dev->upload(net->dev, net->rows_all + rows * D, adapters[t]->data + at,
                             n * D * sizeof(float));
        net->rows[t] = net->rows_all + rows * D;
        rows += n;
    }
    return 0;
}

/* ---------------------------------------------------------------- life cycle */

/* STACKED adds a task's shift to the base's bias, so a bias of its own becomes the difference: its
 * sum with the base's is off by a rounding, and is the base's bit for bit where they are equal. */
static void upload_set(ds_net *net, int t, const ds_adapter *a) {
    size_t bytes = a->table.total * sizeof(float);
    float *set = net->kind == DS_NET_STACKED ? ds_xmalloc(bytes + 1) : NULL;
    if (set)
        memcpy(set, a->data, bytes);
    for (int i = 0; set && i < a->table.count; i++) {
        const ds_param *p = &a->table.items[i];
        if (p->kind != DS_PARAM_BIAS)
            continue;
        const float *was = ds_base_held(net->base, net->base->linears[p->linear].bias);
        for (size_t j = 0; j < p->count; j++)
            set[p->offset + j] -= was[j];
    }
    net->dev->upload(net->dev, net->sets_data[t], set ? set : a->data, bytes);
    free(set);
}

static int upload_sets(ds_net *net, const ds_adapter *const *adapters, ds_error *err) {
    net->sets_data = ds_xcalloc((size_t)net->tasks + 1, sizeof *net->sets_data);
    net->set_rows = ds_xcalloc((size_t)net->tasks + 1, sizeof *net->set_rows);
    net->rows = ds_xcalloc((size_t)net->tasks + 1, sizeof *net->rows);
    for (int t = 0; t < net->tasks; t++) {
        const ds_adapter *a = adapters[t];
        size_t bytes = a->table.total * sizeof(float);
        net->set_rows[t] = a->spec.classes;
        if (net->kind == DS_NET_TRAIN)
            continue;
        if (!(net->sets_data[t] = net->dev->alloc(net->dev, bytes ? bytes : 1)))
            return ds_device_no_room(net->dev, bytes, err, "an adapter");
        upload_set(net, t, a);
    }
    return 0;
}

static int setup(ds_net *net, const ds_adapter *const *adapters, ds_error *err) {
    const ds_dit_config *c = ds_net_cfg(net);
    size_t bytes = net->kind == DS_NET_TRAIN
                       ? ds_net_train_bytes(c, net->dev, net->batch, net->recompute)
                       : ds_net_bytes(c, net->dev, net->kind, net->batch);
    net->acts = ds_xcalloc((size_t)c->depth, sizeof *net->acts);
    net->block = net->dev->alloc(net->dev, bytes);
    if (!net->block)
        return ds_device_no_room(net->dev, bytes, err, "a batch of %d images", net->batch);
    plan_net(net, c, net->dev->act_size, net->kind, net->batch, net->block);
    int rc = upload_sets(net, adapters, err);
    if (rc || (rc = new_layers(net, err)))
        return rc;
    net->table =
        tensor(net, (int)(ds_params_find(&net->base->table, "y_embedder.embedding_table.weight") -
                          net->base->table.items));
    if (ds_net_several(net)) {
        rc = bind_rows(net, adapters, err);
        if (!rc)
            rc = net->kind == DS_NET_STACKED ? bind_stacked(net, adapters, err)
                                             : bind_folded(net, adapters, err);
    } else if (net->kind == DS_NET_INFER && net->tasks == 1) {
        bind_single(net, &adapters[0]->spec, &adapters[0]->table, net->sets_data[0], NULL);
        find_asleep(net, adapters[0]);
    } else if (net->tasks == 1)
        net->spec = adapters[0]->spec;
    for (int i = 0; !rc && i < ds_lin_count(c); i++) {
        ds_layer *l = &net->layers[i];
        if (ds_net_several(net))
            net->dev->ops->weight_pack(net->dev, l->w, ds_net_matrix(net, l), NULL);
        else
            fold_layer(net, l);
    }
    return rc;
}

static int open_net(ds_net **out, const ds_model *model, enum ds_net_kind kind,
                    const ds_adapter *const *adapters, int count, int batch, int recompute,
                    ds_error *err) {
    DS_ASSERT(batch > 0 && (kind == DS_NET_STACKED || kind == DS_NET_FOLDED || count <= 1));
    DS_ASSERT(recompute >= 0 && recompute <= model->base->cfg.depth);
    ds_net *net = ds_xcalloc(1, sizeof *net);
    net->model = model;
    net->dev = model->dev;
    net->base = model->base;
    net->kind = kind;
    net->batch = batch;
    net->tasks = count;
    net->recompute = recompute;
    net->task = ds_xcalloc((size_t)batch, sizeof *net->task);
    net->next_task = ds_xcalloc((size_t)batch, sizeof *net->next_task);
    net->first_set = ds_xcalloc((size_t)batch + DS_NET_TABLE_CHUNK, sizeof *net->first_set);
    net->given = ds_xcalloc(3 * ((size_t)batch + DS_NET_TABLE_CHUNK), sizeof *net->given);
    int rc = setup(net, adapters, err);
    if (rc)
        ds_net_free(net);
    else
        *out = net;
    return rc;
}

int ds_net_new(ds_net **out, const ds_model *model, enum ds_net_kind kind,
               const ds_adapter *const *adapters, int count, int batch, ds_error *err) {
    return open_net(out, model, kind, adapters, count, batch, 0, err);
}

int ds_net_new_train(ds_net **out, const ds_model *model, const ds_adapter *adapter, int batch,
                     int recompute, ds_error *err) {
    return open_net(out, model, DS_NET_TRAIN, &adapter, 1, batch, recompute, err);
}

void ds_net_free(ds_net *net) {
    if (!net)
        return;
    ds_device_forget(net->dev, net);
    for (int i = 0; net->layers && i < ds_lin_count(ds_net_cfg(net)); i++) {
        ds_layer *l = &net->layers[i];
        net->dev->weight_free(net->dev, l->w);
        net->dev->free(net->dev, l->bias_eff);
        for (int t = 0; l->folded && t < net->tasks; t++) {
            net->dev->weight_free(net->dev, l->folded[t].w);
            if (!l->every)
                net->dev->free(net->dev, l->folded[t].bias);
        }
        net->dev->weight_free(net->dev, l->every);
        net->dev->free(net->dev, l->every_bias);
        free(l->folded);
        free(l->sets);
    }
    for (int t = 0; net->sets_data && t < net->tasks; t++)
        net->dev->free(net->dev, net->sets_data[t]);
    net->dev->free(net->dev, net->identity);
    net->dev->free(net->dev, net->rows_all);
    net->dev->free(net->dev, net->block);
    net->dev->free(net->dev, net->wide);
    free(net->layers);
    free(net->sets_data);
    free(net->set_rows);
    free(net->first_set);
    free(net->given);
    free(net->next_task);
    free(net->rows);
    free(net->task);
    free(net->acts);
    free(net);
}
