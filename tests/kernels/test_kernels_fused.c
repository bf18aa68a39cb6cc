/* tests/kernels/test_kernels_fused.c - two ops that the CUDA device joins into one kernel give the bytes
 * that they give apart, in every width, type and alignment; and a joined op never overtakes another
 * one.
 *
 * Apart: the device is waited for between the two, which launches what is pending.  Each body first
 * calls its second op once, so that the mirror has every array there: an upload between the two
 * would part them. */
#include "tests/fixtures/kernels_ladder.h"

enum order { APART, JOINED, WITH_ANOTHER_BETWEEN };
static enum order order;

static void between(run *r, const float *any, float *to) {
    if (order == APART)
        r->dev->sync(r->dev);
    else if (order == WITH_ANOTHER_BETWEEN)
        r->dev->ops->silu_forward(r->dev, to, any, 1);
}

/* gate_forward, then adaln_forward of its result: into another buffer, and in place. */
static void forward(run *r) {
    int T = r->k->T, D = r->k->D, stride = 4 * D + r->k->n;
    size_t n = (size_t)(T * D), count = n * (size_t)r->B;
    const struct ds_ops *ops = r->dev->ops;
    float *mod = numbers(r, (size_t)stride, 1, 0), *x = numbers(r, n, 2, 1);
    ds_act *y = act_of(r, numbers(r, n, 3, 0), count);
    float *res = out_f32(r, "res_out", n),
          *inside = out_new(r, "in place", n, 0, 0, ADDED, 4, 1)->data;
    float *mean = out_f32(r, "mean", (size_t)T), *rstd = out_f32(r, "rstd", (size_t)T);
    float *other = out_f32(r, "another", 1);
    ds_act *out = out_act(r, "out", n), *out2 = out_act(r, "out in place", n);
    const float *shift = mod + D, *scale = mod + 2 * D, *gate = mod + 3 * D;
    ds_mirror_hold(r->dev);
    ops->silu_forward(r->dev, other, mod, 1);
    ops->adaln_forward(r->dev, out, mean, rstd, x, shift, scale, stride, 1e-6f, r->B, T, D);
    ops->gate_forward(r->dev, res, x, gate, stride, y, r->B, T, D);
    between(r, x, other);
    ops->adaln_forward(r->dev, out, mean, rstd, res, shift, scale, stride, 1e-6f, r->B, T, D);
    ops->adaln_forward(r->dev, out2, NULL, NULL, x, shift, scale, stride, 1e-6f, r->B, T, D);
    ops->gate_forward(r->dev, inside, inside, gate, stride, y, r->B, T, D);
    between(r, x, other);
    ops->adaln_forward(r->dev, out2, NULL, NULL, inside, shift, scale, stride, 1e-6f, r->B, T, D);
    ds_mirror_release(r->dev);
}

/* adaln_backward, then gate_backward of its dx; dy over the normalisation's dout too. */
static void backward(run *r) {
    int T = r->k->T, D = r->k->D, stride = 3 * D + r->k->n;
    size_t n = (size_t)(T * D), count = n * (size_t)r->B;
    const struct ds_ops *ops = r->dev->ops;
    float *mod = numbers(r, (size_t)stride, 1, 0), *x = numbers(r, n, 2, 1);
    float *mean = numbers(r, (size_t)T, 3, -1), *rstd = numbers(r, (size_t)T, 4, 0);
    ds_act *y = act_of(r, numbers(r, n, 5, 0), count),
           *dout = act_of(r, numbers(r, n, 6, 0), count);
    float *dx = out_new(r, "dx", n, 0, 0, ADDED, 7, 0)->data,
          *dmod = out_f32(r, "dmod", (size_t)stride);
    float *dx2 = out_new(r, "dx again", n, 0, 0, ADDED, 7, 0)->data;
    float *dmod2 = out_f32(r, "dmod again", (size_t)stride), *other = out_f32(r, "another", 1);
    ds_act *dy = out_act(r, "dy", n),
           *over = out_new(r, "dy over dout", n, 1, 0, ADDED, 6, 0)->data;
    const float *scale = mod + D, *gate = mod + 2 * D;
    ds_mirror_hold(r->dev);
    ops->silu_forward(r->dev, other, mod, 1);
    ops->gate_backward(r->dev, dy, dmod + 2 * D, stride, dx, y, gate, stride, r->B, T, D);
    ops->adaln_backward(r->dev, dx, dmod, dmod + D, stride, dout, x, mean, rstd, scale, stride,
                        r->B, T, D);
    between(r, x, other);
    ops->gate_backward(r->dev, dy, dmod + 2 * D, stride, dx, y, gate, stride, r->B, T, D);
    ops->act_to_f32(r->dev, dmod2, over, 1); /* shows both to the mirror */
    ops->adaln_backward(r->dev, dx2, dmod2, dmod2 + D, stride, over, x, mean, rstd, scale, stride,
                        r->B, T, D);
    between(r, x, other);
    ops->gate_backward(r->dev, over, dmod2 + 2 * D, stride, dx2, y, gate, stride, r->B, T, D);
    ds_mirror_release(r->dev);
}

/* What may not be joined: a sum whose y the next op overwrites, one whose result is normalised as
 * another number of samples or tokens, and two that share a result. */
static void guarded(run *r) {
    int T = r->k->T, D = r->k->D, stride = 4 * D;
    size_t n = (size_t)(T * D), count = n * (size_t)r->B;
    const struct ds_ops *ops = r->dev->ops;
    float *mod = numbers(r, (size_t)stride, 1, 0), *x = numbers(r, n, 2, 1),
          *z = numbers(r, n, 8, 0);
    float *res = out_f32(r, "res_out", n), *other = out_f32(r, "another", 1);
    float *copy = out_f32(r, "copy", n);
    ds_act *y = out_new(r, "y, then out", n, 1, 0, ADDED, 3, 0)->data, *out = out_act(r, "out", n);
    ds_mirror_hold(r->dev);
    ops->silu_forward(r->dev, other, mod, 1);
    ops->act_from_f32(r->dev, out, z, count);
    ops->fill(r->dev, copy, 0, count);
    ops->gate_forward(r->dev, res, x, mod, stride, y, r->B, T, D);
    between(r, x, other);
    ops->adaln_forward(r->dev, y, NULL, NULL, res, mod, mod + D, stride, 1e-6f, r->B, T, D);
    ops->gate_forward(r->dev, res, res, mod, stride, y, r->B, T, D);
    between(r, x, other);
    ops->act_from_f32(r->dev, y, z, count); /* y changes under a sum that waits */
    ops->gate_forward(r->dev, copy, res, mod, stride, y, r->B, T, D);
    between(r, x, other);
    ops->gate_forward(r->dev, res, copy, mod, stride, y, r->B, T, D);
    between(r, x, other);
    ops->adaln_forward(r->dev, out, NULL, NULL, res, mod, mod + D, stride, 1e-6f, 1, r->B * T, D);
    ds_mirror_release(r->dev);
}

/* A gated sum of two parts of a batch, each a product, is one with the norm; and parts that do not
 * follow each other are not taken for one: another gate, a gap in y, samples in another order. */
static void in_parts(run *r) {
    int T = r->k->T, D = r->k->D, stride = 3 * D, half = r->B / 2;
    if (half < 1 || D > 192)
        return;
    size_t n = (size_t)(T * D), count = n * (size_t)r->B, at = n * (size_t)half;
    const struct ds_ops *ops = r->dev->ops;
    float *mod = numbers(r, (size_t)stride, 1, 0), *x = numbers(r, n, 2, 1);
    ds_act *in = act_of(r, numbers(r, n, 3, 0), count), *y = out_act(r, "y", n);
    float *res[] = {out_f32(r, "in order", n), out_f32(r, "the second first", n),
                    out_f32(r, "one gate", n)};
    ds_act *out[] = {out_act(r, "norm, in order", n), out_act(r, "norm, the second first", n),
                     out_act(r, "norm, one gate", n)};
    float *other = out_f32(r, "another", 1);
    ds_weight *w = weight(r, fixed(r, (size_t)(D * D), 6, -3), D, D, NULL, 0);
    const float *gates[] = {mod, mod + (size_t)half * (size_t)stride};
    ds_act *ins[] = {in, ds_act_at(r->dev, in, at)}, *ys[] = {y, ds_act_at(r->dev, y, at)};
    ds_mirror_hold(r->dev);
    ops->silu_forward(r->dev, other, mod, 1);
    for (int kind = 0; kind < 3; kind++) /* every array is there */
        ops->adaln_forward(r->dev, out[kind], NULL, NULL, res[kind], mod, mod, stride, 1e-6f, r->B,
                           T, D);
    ops->linear_forward(r->dev, y, in, w, NULL, r->B * T);
    for (int kind = 0; kind < 3; kind++) {
        for (int i = 0; i < 2; i++) {
            int part = kind == 1 ? 1 - i : i;
            if (i)
                between(r, x, other);
            ops->linear_residual_forward(r->dev, ys[part], res[kind] + (size_t)part * at,
                                         x + (size_t)part * at, gates[kind == 2 ? 0 : part], stride,
                                         ins[part], w, NULL, half, T);
        }
        between(r, x, other);
        ops->adaln_forward(r->dev, out[kind], NULL, NULL, res[kind], mod + D, mod + 2 * D, stride,
                           1e-6f, r->B, T, D);
    }
    ds_mirror_release(r->dev);
}

/* Runs of rows by a weight each: in one op, or (apart) in one for each. */
static void runs(run *r) {
    enum { MOST = 4 };
    int T = r->k->T, D = r->k->D, B = r->B;
    if (!r->dev->weights_new || B < 2 || B > MOST || D > 192)
        return;
    size_t n = (size_t)(T * D), count = n * (size_t)B;
    const struct ds_ops *ops = r->dev->ops;
    float *mod = numbers(r, (size_t)D, 1, 0), *res = numbers(r, n, 2, 1),
          *bias = fixed(r, (size_t)(B * D), 7, 0);
    ds_act *x = act_of(r, numbers(r, n, 3, 0), count);
    ds_act *y = out_act(r, "y", n), *gelu = out_act(r, "gelu", n), *pre = out_act(r, "pre", n),
           *gelu2 = out_act(r, "gelu with pre", n), *kept = out_act(r, "kept", n);
    float *wide = out_f32(r, "f32", n), *sum = out_f32(r, "sum", n);
    ds_weight *each[MOST], *all;
    DS_ASSERT(r->dev->weights_new(r->dev, D, D, B, each, &all) == 0);
    for (int i = 0; i < B; i++) {
        float *W = fixed(r, (size_t)(D * D), 30 + (uint64_t)i, -3);
        ops->weight_pack(r->dev, r->weight[r->weights++] = each[i], W, NULL);
    }
    r->weight[r->weights++] = all;
    for (int i = 0; i < (order == APART ? B : 1); i++) {
        const ds_weight *w = order == APART ? each[i] : all;
        size_t at = (size_t)i * n;
        const float *b = bias + i * D, *gate = mod + i * D;
        const ds_act *in = ds_act_at(r->dev, x, at);
        int samples = order == APART ? 1 : B, rows = samples * T;
        ops->linear_forward(r->dev, ds_act_at(r->dev, y, at), in, w, b, rows);
        ops->linear_f32_forward(r->dev, wide + at, in, w, b, rows);
        ops->linear_gelu_forward(r->dev, NULL, ds_act_at(r->dev, gelu, at), in, w, b, rows);
        ops->linear_gelu_forward(r->dev, ds_act_at(r->dev, pre, at), ds_act_at(r->dev, gelu2, at),
                                 in, w, b, rows);
        ops->linear_residual_forward(r->dev, ds_act_at(r->dev, kept, at), sum + at, res + at, gate,
                                     D, in, w, b, samples, T);
    }
}

/* n: how far the stride of the modulations is off a multiple of D. */
static const shape shapes[] = {
    {.name = "one", .B = 1, .T = 1, .D = 1},
    {.name = "odd", .B = 2, .T = 5, .D = 21, .n = 1},
    {.name = "more than a chunk", .B = 2, .T = 17, .D = 64},
    {.name = "odd stride", .B = 2, .T = 3, .D = 64, .n = 3},
    {.name = "tiny", .B = 2, .T = 33, .D = 192},
    {.name = "L", .B = 1, .T = 2, .D = 1024},
    {.name = "XL", .B = 1, .T = 3, .D = 1152},
    {.name = "wide", .B = 1, .T = 2, .D = 1540},
    {.name = "wider than registers", .B = 1, .T = 2, .D = 2052},
};
static body_fn *const bodies[] = {forward, backward, guarded, in_parts, runs};

static run *run_as(ds_device *dev, int i, enum order how, size_t nudge) {
    const shape *k = &shapes[i % COUNT(shapes)];
    order = how;
    return run_new(dev, k, bodies[i / COUNT(shapes)], 0, k->B, nudge);
}

START_TEST(fused) {
    for (int set = 0; set < KERNEL_SETS; set++) {
        ds_device *dev = strcmp(kernel_sets[set].isa, "cuda") != 0 ? NULL : ladder_device(set, 1);
        if (!dev)
            continue;
        run *apart = run_as(dev, _i, APART, 0);
        for (int i = 0; i < 4; i++) {
            size_t nudge = (size_t)(i / 2);
            if (i == 2 && place_matters(dev)) {
                run_free(apart);
                apart = run_as(dev, _i, APART, nudge);
            }
            run *r = run_as(dev, _i, i % 2 ? WITH_ANOTHER_BETWEEN : JOINED, nudge);
            for (int o = 0; o < r->outs; o++) /* not of the pair */
                if (!strcmp(r->out[o].name, "another"))
                    memcpy(r->out[o].data, apart->out[o].data, r->out[o].count * sizeof(float));
            compare_bytes(apart, r, "whether two ops are joined, or on alignment");
            run_free(r);
        }
        run_free(apart);
        ladder_close(dev);
    }
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, fused, 0, COUNT(shapes) * COUNT(bodies));
}

int main(void) { return ds_test_main("kernels_fused", register_cases); }
