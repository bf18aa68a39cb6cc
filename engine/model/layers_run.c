/* engine/model/layers_run.c - layers applied to a batch, forward and backward.
 *
 * Derivations: docs/math.md. */
#include "engine/model/layers_internal.h"

/* Samples [first, first + count) have the same weights: all of a batch, but in a folded net the
 * neighbours of one task, or equal numbers of each task where all its weights are one. */
typedef struct {
    int first, count; /* 0: none is left */
    const ds_weight *w;
    const float *bias;
    const ds_affiner *branch; /* what is not folded of it, or NULL; a and b are */
    const ds_affiner *ad;     /* backward: the adapter that learns there, or NULL */
    const ds_affiner_grad *g;
} stretch;

/* Do all tasks follow each other from sample `first` on, with `each` samples? */
static int all_in_turn(const ds_layers *s, const int *task, int first, int each, int B) {
    if (first + s->tasks * each > B)
        return 0;
    for (int i = 0; i < s->tasks * each; i++)
        if (task[first + i] != i / each)
            return 0;
    return 1;
}

static stretch stretch_at(const ds_layers *layers, const ds_layer *l, const int *task, int first,
                          int B) {
    stretch s = {.first = first, .count = B - first, .w = l->w, .bias = l->bias};
    if (!l->folded) {
        s.bias = l->adapted ? l->bias_eff : l->bias;
        s.branch = l->adapted && l->ad.phi_relu && !l->asleep ? &l->ad : NULL;
        s.ad = l->adapted ? &l->ad : NULL;
        s.g = &l->g;
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
    if (f && l->every && all_in_turn(layers, task, first, s.count, B)) {
        s.count *= layers->tasks;
        s.w = l->every;
        s.bias = l->every_bias;
    }
    return s;
}

#define EACH_STRETCH(s, layers, l, r)                                                              \
    for (stretch s = stretch_at(layers, l, (r).task, 0, (r).B); s.count;                           \
         s = stretch_at(layers, l, (r).task, s.first + s.count, (r).B))

/* The first row of a stretch in an activation map of `width` numbers a row; NULL stays NULL. */
static ds_act *at(const ds_layers *layers, const ds_act *p, const stretch *s, ds_rows r,
                  int width) {
    size_t index = (size_t)s->first * (size_t)r.each * (size_t)width;
    return p ? ds_act_at(layers->dev, p, index) : NULL;
}

static float *at_f32(float *p, const stretch *s, ds_rows r, int width) {
    return p ? p + (size_t)s->first * (size_t)r.each * (size_t)width : NULL;
}

/* ---------------------------------------------------------------- forward */

/* y = layer(x) for the rows of a stretch. */
static void product(ds_device *dev, const stretch *s, ds_act *y, const ds_act *x, int rows) {
    dev->ops->linear_forward(dev, y, x, s->w, s->bias, rows);
    if (s->branch)
        dev->ops->lowrank_forward(dev, y, x, s->branch, rows);
}

void ds_layers_forward(ds_layers *layers, int i, ds_act *y, const ds_act *x, ds_rows r) {
    ds_device *dev = layers->dev;
    ds_layer *l = &layers->items[i];
    if (l->sets) {
        dev->ops->linear_forward(dev, y, x, l->w, NULL, r.B * r.each);
        dev->ops->affiner_rows_forward(dev, y, NULL, x, l->bias, l->sets, r.task, r.B, r.each);
        return;
    }
    EACH_STRETCH(s, layers, l, r)
        product(dev, &s, at(layers, y, &s, r, l->shape->m), at(layers, x, &s, r, l->shape->n),
                s.count * r.each);
}

void ds_layers_forward_f32(ds_layers *layers, int i, float *y, const ds_act *x, ds_rows r) {
    ds_device *dev = layers->dev;
    const struct ds_ops *k = dev->ops;
    ds_layer *l = &layers->items[i];
    if (l->sets) {
        k->linear_f32_forward(dev, y, x, l->w, NULL, r.B * r.each);
        k->affiner_rows_forward(dev, NULL, y, x, l->bias, l->sets, r.task, r.B, r.each);
        return;
    }
    EACH_STRETCH(s, layers, l, r) {
        float *out = at_f32(y, &s, r, l->shape->m);
        const ds_act *in = at(layers, x, &s, r, l->shape->n);
        k->linear_f32_forward(dev, out, in, s.w, s.branch ? NULL : s.bias, s.count * r.each);
        if (!s.branch)
            continue;
        ds_affiner branch = *s.branch; /* only the low-rank branch is left, which has no side */
        branch.a = branch.b = NULL;
        branch.side_in = 0;
        k->affiner_rows_forward(dev, NULL, out, in, s.bias, &branch, layers->first_set, s.count,
                                r.each);
    }
}

void ds_layers_forward_gelu(ds_layers *layers, int i, ds_act *pre, ds_act *y, const ds_act *x,
                            ds_rows r) {
    ds_device *dev = layers->dev;
    const struct ds_ops *k = dev->ops;
    ds_layer *l = &layers->items[i];
    const int m = l->shape->m, train = layers->kind == DS_NET_TRAIN;
    if (l->sets) {
        ds_layers_forward(layers, i, pre, x, r);
        k->gelu_forward(dev, y, pre, (size_t)r.B * (size_t)r.each * (size_t)m);
        return;
    }
    EACH_STRETCH(s, layers, l, r) {
        const int rows = s.count * r.each;
        ds_act *out = at(layers, y, &s, r, m), *before = at(layers, pre, &s, r, m);
        const ds_act *in = at(layers, x, &s, r, l->shape->n);
        if (s.branch) {
            product(dev, &s, before, in, rows);
            k->gelu_forward(dev, out, before, (size_t)rows * (size_t)m);
        } else
            k->linear_gelu_forward(dev, train ? before : NULL, out, in, s.w, s.bias, rows);
    }
}

void ds_layers_forward_residual(ds_layers *layers, int i, ds_act *y, float *res_out,
                                const float *res_in, const float *gate, int stride, const ds_act *x,
                                ds_rows r) {
    ds_device *dev = layers->dev;
    const struct ds_ops *k = dev->ops;
    ds_layer *l = &layers->items[i];
    const int m = l->shape->m;
    if (l->sets) {
        ds_layers_forward(layers, i, y, x, r);
        k->gate_forward(dev, res_out, res_in, gate, stride, y, r.B, r.each, m);
        return;
    }
    const int keep =
        layers->kind == DS_NET_TRAIN || l->folded; /* folded: one sum may join the parts */
    EACH_STRETCH(s, layers, l, r) {
        const size_t row = (size_t)(s.first * r.each) * (size_t)m;
        ds_act *part = at(layers, y, &s, r, m);
        const ds_act *in = at(layers, x, &s, r, l->shape->n);
        const float *g = gate + (size_t)s.first * (size_t)stride;
        if (s.branch) {
            product(dev, &s, part, in, s.count * r.each);
            k->gate_forward(dev, res_out + row, res_in + row, g, stride, part, s.count, r.each, m);
        } else
            k->linear_residual_forward(dev, keep ? part : NULL, res_out + row, res_in + row, g,
                                       stride, in, s.w, s.bias, s.count, r.each);
    }
}

/* ---------------------------------------------------------------- backward */

/* The frozen matrix for affiner_backward; one that is held in 16 bits is unpacked only where the
 * device will read it. */
static const float *frozen_matrix(ds_layers *s, const ds_layer *l, const ds_affiner *ad) {
    if (l->W || (s->dev->reads_matrix && s->dev->reads_matrix(s->dev, ad)))
        return ds_layers_matrix(s, l);
    return NULL;
}

/* Does the gradient of its adapter need that of the layer's input? */
static int needs_dx(const ds_affiner *ad) { return ad && (ad->side_in || ad->phi_relu); }

/* Gradients of what is trained in the place of the base's own: W and bias, or the bias alone. */
static void replaced_backward(ds_device *dev, const ds_layer *l, const ds_act *dy, const ds_act *x,
                              int rows) {
    const int m = l->shape->m, n = l->shape->n;
    ds_affiner shift = {.m = m, .n = n, .segs = 1, .b = l->bias};
    ds_affiner_grad g = {.db = l->db};
    if (l->full && l->dW)
        dev->ops->linear_backward_weight(dev, l->dW, l->db, dy, x, m, n, rows);
    else if (l->db)
        dev->ops->affiner_backward(dev, &g, &shift, dy, NULL, x, NULL, NULL, NULL, NULL, rows);
}

/* Gradients of a stretch's parameters.  dx (rows,n): its input gradient where needs_dx, to which
 * the branch's part is added; else NULL. */
static void parameters_backward(ds_layers *layers, const ds_layer *l, const stretch *s,
                                const ds_act *dy, const ds_act *y, const ds_act *x, ds_act *dx,
                                int rows) {
    ds_device *dev = layers->dev;
    replaced_backward(dev, l, dy, x, rows);
    if (s->ad)
        dev->ops->affiner_backward(dev, s->g, s->ad, dy, y, x, dx, s->ad->phi_relu ? dx : NULL,
                                   frozen_matrix(layers, l, s->ad), l->bias, rows);
}

void ds_layers_backward(ds_layers *layers, int i, ds_act *dx, float *dx32, const ds_act *dy,
                        const ds_act *y, const ds_act *x, ds_act *room, ds_rows r) {
    ds_device *dev = layers->dev;
    const struct ds_ops *k = dev->ops;
    const ds_layer *l = &layers->items[i];
    const int m = l->shape->m, n = l->shape->n;
    EACH_STRETCH(s, layers, l, r) {
        const int rows = s.count * r.each;
        const ds_act *dout = at(layers, dy, &s, r, m);
        ds_act *d = at(layers, dx ? dx : needs_dx(s.ad) ? room : NULL, &s, r, n);
        float *d32 = at_f32(dx32, &s, r, n);
        if (d)
            k->linear_backward_input(dev, d, dout, s.w, rows);
        else if (d32)
            k->linear_f32_backward_input(dev, d32, dout, s.w, rows);
        parameters_backward(layers, l, &s, dout, at(layers, y, &s, r, m), at(layers, x, &s, r, n),
                            d, rows);
        if (d32 && d)
            k->act_to_f32(dev, d32, d, (size_t)rows * (size_t)n);
    }
}

void ds_layers_backward_gelu(ds_layers *layers, int i, ds_act *dpre, const ds_act *dy,
                             const ds_act *y, const ds_act *x, const ds_act *pre, ds_rows r) {
    ds_device *dev = layers->dev;
    const ds_layer *l = &layers->items[i];
    const int m = l->shape->m, n = l->shape->n;
    EACH_STRETCH(s, layers, l, r) {
        const int rows = s.count * r.each;
        const ds_act *dout = at(layers, dy, &s, r, m), *before = at(layers, pre, &s, r, n);
        ds_act *d = at(layers, dpre, &s, r, n), *through = needs_dx(s.ad) ? d : NULL;
        if (through)
            dev->ops->linear_backward_input(dev, d, dout, s.w, rows);
        else
            dev->ops->linear_gelu_backward_input(dev, d, dout, s.w, before, rows);
        parameters_backward(layers, l, &s, dout, at(layers, y, &s, r, m), at(layers, x, &s, r, n),
                            through, rows);
        if (through)
            dev->ops->gelu_backward(dev, d, d, before, (size_t)rows * (size_t)n);
    }
}
