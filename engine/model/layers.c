/* engine/model/layers.c - packing, folding and binding (layers_run.c applies them). */
#include "engine/model/layers.h"
#include "base/mem.h"
#include "engine/model/layers_internal.h"

#include <stdlib.h>
#include <string.h>

/* Floats of the largest weight that the base holds in 16 bits on a device that uses it in place. */
static size_t wide_floats(const ds_device *dev, const ds_base *base) {
    size_t n = 0;
    for (int i = 0; dev->host_memory && i < base->table.count; i++)
        if (!ds_base_held(base, i) && base->table.items[i].count > n)
            n = base->table.items[i].count;
    return n;
}

size_t ds_layers_bytes(ds_device *dev, const ds_base *base, enum ds_net_kind kind) {
    size_t bytes = wide_floats(dev, base) * sizeof(float);
    for (int i = 0; i < base->layer_count; i++) {
        const ds_layer_shape *l = &base->layers[i];
        bytes += dev->weight_bytes(dev, l->m, l->n, 0, kind == DS_NET_TRAIN) +
                 (size_t)l->m * sizeof(float);
    }
    return bytes;
}

const float *ds_layers_matrix(ds_layers *s, const ds_layer *l) {
    return l->W ? l->W : ds_model_unpack(s->dev, s->base, l->shape->weight, s->wide);
}

/* Can this adapter be folded into the weight?  phi = ReLU cannot (its a part is). */
static void fold_layer(ds_layers *s, ds_layer *l) {
    const struct ds_ops *k = s->dev->ops;
    const ds_affiner *ad = l->adapted ? &l->ad : NULL;
    const float *W = ds_layers_matrix(s, l);
    k->weight_pack(s->dev, l->w, W, ad);
    if (ad)
        k->bias_fold(s->dev, l->bias_eff, l->bias, W, ad);
}

static int new_layers(ds_layers *s, ds_error *err) {
    ds_device *dev = s->dev;
    const int grad = s->kind == DS_NET_TRAIN;
    size_t wide = wide_floats(dev, s->base);
    if (wide && !(s->wide = dev->alloc(dev, wide * sizeof(float))))
        return ds_device_no_room(dev, wide * sizeof(float), err, "unpacking a weight");
    s->items = ds_xcalloc((size_t)s->count, sizeof *s->items);
    for (int i = 0; i < s->count; i++) {
        ds_layer *l = &s->items[i];
        const ds_layer_shape *shape = l->shape = &s->base->layers[i];
        DS_ASSERT(shape->kind == DS_LAYER_LINEAR);
        l->W = ds_model_tensor(s->model, shape->weight);
        l->bias = ds_model_tensor(s->model, shape->bias);
        l->w = dev->weight_new(dev, shape->m, shape->n, 0, grad);
        l->bias_eff = dev->alloc(dev, (size_t)shape->m * sizeof(float));
        if (!l->w || !l->bias_eff)
            return ds_device_no_room(dev, dev->weight_bytes(dev, shape->m, shape->n, 0, grad), err,
                                     "packing the weights of '%s'", shape->name);
    }
    return 0;
}

/* ---------------------------------------------------------------- one adapter */

/* Entries that replace the base's tensors. */
static void bind_replaced(ds_layers *s, const ds_params *table, const float *p, float *g) {
    for (int i = 0; i < table->count; i++) {
        const ds_param *e = &table->items[i];
        if (e->linear < 0)
            continue;
        ds_layer *l = &s->items[e->linear];
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
    l->ad = ds_adapter_view(spec, l->shape, &slot, p);
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

void ds_layers_bind(ds_layers *s, const ds_params *table, const float *p, float *g) {
    bind_replaced(s, table, p, g);
    for (int i = 0; i < s->count; i++)
        bind_affiner(&s->items[i], &s->spec, table, i, p, g);
}

void ds_layers_refold(ds_layers *s) {
    for (int i = 0; i < s->count; i++)
        if (ds_layers_learns(s, i))
            fold_layer(s, &s->items[i]);
}

/* A branch whose every s is 0 is skipped when serving, so that a fresh adapter is the base bit for
 * bit also where the branch is not folded.  l->slot is where a has the layer. */
static int sleeps(const ds_layer *l, const ds_adapter *a) {
    int asleep = a->spec.rank > 0;
    for (int g = 0; asleep && g < l->shape->segs; g++)
        asleep = a->data[l->slot.s + (size_t)g] == 0;
    return asleep;
}

static void find_asleep(ds_layers *s, const ds_adapter *a) {
    for (int i = 0; i < s->count; i++)
        s->items[i].asleep = s->items[i].adapted && sleeps(&s->items[i], a);
}

/* ---------------------------------------------------------------- several tasks */

/* The neutral adapter (a = 1, no b, no low rank) for every task and for samples of the base itself:
 * `identity` holds ones as many as the widest layer has outputs. */
static ds_affiner *neutral_sets(const ds_layers *s, const ds_layer *l) {
    ds_affiner *sets = ds_xcalloc((size_t)s->tasks + 1, sizeof *sets);
    for (int t = 0; t <= s->tasks; t++)
        sets[t] = (ds_affiner){
            .m = l->shape->m, .n = l->shape->n, .segs = l->shape->segs, .a = s->identity};
    return sets;
}

static int bind_stacked(ds_layers *s, const ds_adapter *const *adapters, ds_error *err) {
    size_t widest = 0;
    for (int i = 0; i < s->count; i++)
        if ((size_t)s->items[i].shape->m > widest)
            widest = (size_t)s->items[i].shape->m;
    s->identity = s->dev->alloc(s->dev, widest * sizeof(float));
    if (!s->identity)
        return ds_device_no_room(s->dev, widest * sizeof(float), err, "a batch of %d adapters",
                                 s->tasks);
    s->dev->ops->fill(s->dev, s->identity, 1.0f, widest);
    for (int i = 0; i < s->count; i++) {
        ds_layer *l = &s->items[i];
        for (int t = 0; t < s->tasks; t++) {
            const ds_param *bias = ds_adapter_bias(&adapters[t]->table, i);
            int has = ds_adapter_find(&adapters[t]->table, i, adapters[t]->spec.rank, &l->slot);
            if (!has && !bias)
                continue;
            if (!l->sets)
                l->sets = neutral_sets(s, l);
            if (has)
                l->sets[t] =
                    ds_adapter_view(&adapters[t]->spec, l->shape, &l->slot, s->sets_data[t]);
            if (bias) /* upload_sets: what it has more than the base's */
                l->sets[t].b = s->sets_data[t] + bias->offset;
        }
    }
    return 0;
}

/* Is the layer folded for every task? */
static int every_task_folds(const ds_layers *s, const ds_layer *l) {
    for (int t = 0; t < s->tasks; t++)
        if (!l->folded[t].ad.m || l->folded[t].branch)
            return 0;
    return s->tasks > 1;
}

/* Weights and biases of the tasks that have the layer; as one where the device can use that. */
static int folded_room(ds_layers *s, ds_layer *l, int index, ds_error *err) {
    ds_device *dev = s->dev;
    const int m = l->shape->m, n = l->shape->n, all = dev->weights_new && every_task_folds(s, l);
    const size_t bytes = dev->weight_bytes(dev, m, n, 0, 0), bias = (size_t)m * sizeof(float);
    ds_weight **each = ds_xcalloc((size_t)s->tasks, sizeof *each);
    int rc = 0;
    if (all) {
        rc = dev->weights_new(dev, m, n, s->tasks, each, &l->every);
        l->every_bias = rc ? NULL : dev->alloc(dev, (size_t)s->tasks * bias);
        rc = rc || !l->every_bias;
    }
    for (int t = 0; t < s->tasks; t++) {
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
    return rc ? ds_device_no_room(dev, (size_t)s->tasks * (bytes + bias), err,
                                  "layer %d of %d tasks", index, s->tasks)
              : 0;
}

static int bind_folded(ds_layers *s, const ds_adapter *const *adapters, ds_error *err) {
    for (int i = 0; i < s->count; i++) {
        ds_layer *l = &s->items[i];
        l->folded = ds_xcalloc((size_t)s->tasks + 1, sizeof *l->folded);
        for (int t = 0; t < s->tasks; t++) {
            const ds_adapter *a = adapters[t];
            const ds_param *bias = ds_adapter_bias(&a->table, i);
            l->folded[t].own_bias = bias ? s->sets_data[t] + bias->offset : NULL;
            if (!ds_adapter_find(&a->table, i, a->spec.rank, &l->slot))
                continue;
            l->folded[t].ad = ds_adapter_view(&a->spec, l->shape, &l->slot, s->sets_data[t]);
            l->folded[t].branch = l->folded[t].ad.phi_relu && !sleeps(l, a);
        }
        int rc = folded_room(s, l, i, err);
        if (rc)
            return rc;
        for (int t = 0; t < s->tasks; t++) {
            const ds_folded *f = &l->folded[t];
            if (!f->w)
                continue;
            const float *W = ds_layers_matrix(s, l);
            s->dev->ops->weight_pack(s->dev, f->w, W, &f->ad);
            s->dev->ops->bias_fold(s->dev, f->bias, f->own_bias ? f->own_bias : l->bias, W, &f->ad);
        }
    }
    return 0;
}

/* ---------------------------------------------------------------- life cycle */

/* STACKED adds a task's shift to the base's bias, so a bias of its own becomes the difference: its
 * sum with the base's is off by a rounding, and is the base's bit for bit where they are equal. */
static void upload_set(ds_layers *s, int t, const ds_adapter *a) {
    size_t bytes = a->table.total * sizeof(float);
    float *set = s->kind == DS_NET_STACKED ? ds_xmalloc(bytes + 1) : NULL;
    if (set)
        memcpy(set, a->data, bytes);
    for (int i = 0; set && i < a->table.count; i++) {
        const ds_param *p = &a->table.items[i];
        if (p->kind != DS_PARAM_BIAS)
            continue;
        const float *was = ds_base_held(s->base, s->base->layers[p->linear].bias);
        for (size_t j = 0; j < p->count; j++)
            set[p->offset + j] -= was[j];
    }
    s->dev->upload(s->dev, s->sets_data[t], set ? set : a->data, bytes);
    free(set);
}

static int upload_sets(ds_layers *s, const ds_adapter *const *adapters, ds_error *err) {
    s->sets_data = ds_xcalloc((size_t)s->tasks + 1, sizeof *s->sets_data);
    for (int t = 0; s->kind != DS_NET_TRAIN && t < s->tasks; t++) {
        const ds_adapter *a = adapters[t];
        size_t bytes = a->table.total * sizeof(float);
        if (!(s->sets_data[t] = s->dev->alloc(s->dev, bytes ? bytes : 1)))
            return ds_device_no_room(s->dev, bytes, err, "an adapter");
        upload_set(s, t, a);
    }
    return 0;
}

int ds_layers_open(ds_layers *s, const ds_model *model, enum ds_net_kind kind,
                   const ds_adapter *const *adapters, int tasks, int samples, ds_error *err) {
    *s = (ds_layers){.model = model,
                     .dev = model->dev,
                     .base = model->base,
                     .kind = kind,
                     .count = model->base->layer_count,
                     .tasks = tasks};
    s->first_set = ds_xcalloc((size_t)samples, sizeof *s->first_set);
    int rc = upload_sets(s, adapters, err), several = ds_net_kind_several(kind);
    rc = rc ? rc : new_layers(s, err);
    if (!rc && several)
        rc =
            kind == DS_NET_STACKED ? bind_stacked(s, adapters, err) : bind_folded(s, adapters, err);
    else if (!rc && tasks == 1) {
        s->spec = adapters[0]->spec;
        if (kind == DS_NET_INFER) {
            ds_layers_bind(s, &adapters[0]->table, s->sets_data[0], NULL);
            find_asleep(s, adapters[0]);
        }
    }
    for (int i = 0; !rc && i < s->count; i++) {
        ds_layer *l = &s->items[i];
        if (several)
            s->dev->ops->weight_pack(s->dev, l->w, ds_layers_matrix(s, l), NULL);
        else
            fold_layer(s, l);
    }
    return rc;
}

static void release_layer(ds_layers *s, ds_layer *l) {
    ds_device *dev = s->dev;
    dev->weight_free(dev, l->w);
    dev->free(dev, l->bias_eff);
    for (int t = 0; l->folded && t < s->tasks; t++) {
        dev->weight_free(dev, l->folded[t].w);
        if (!l->every)
            dev->free(dev, l->folded[t].bias);
    }
    dev->weight_free(dev, l->every);
    dev->free(dev, l->every_bias);
    free(l->folded);
    free(l->sets);
}

void ds_layers_close(ds_layers *s) {
    for (int i = 0; s->items && i < s->count; i++)
        release_layer(s, &s->items[i]);
    for (int t = 0; s->sets_data && t < s->tasks; t++)
        s->dev->free(s->dev, s->sets_data[t]);
    if (s->dev) {
        s->dev->free(s->dev, s->identity);
        s->dev->free(s->dev, s->wide);
    }
    free(s->items);
    free(s->sets_data);
    free(s->first_set);
    *s = (ds_layers){0};
}
