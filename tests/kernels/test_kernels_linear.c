/* tests/kernels/test_kernels_linear.c - linear layers of every kernel set against the reference.
 *
 * Two kinds of weights.  `exact`: all numbers are k 2^e with |k| <= 127, so a sum of n <= 1039
 * products is a whole number below 2^24 in units of its last place, and exact in f32 in any order:
 * the tolerance is the rounding of the stored result and nothing else.  `fine`: weights with all 24
 * bits, which a bf16 device rounds once: n U sum|terms|, and H sum|terms| there.
 */
#include "tests/fixtures/kernels_ladder.h"

/* sum_j |W_ij x_tj| (+ |bias_i|) for every output; transposed: sum_i |W_ij dy_ti|. */
static double *magnitude(run *r, const float *W, const float *x, const float *bias, int rows, int m,
                         int n, int transposed) {
    int out = transposed ? n : m, in = transposed ? m : n;
    double *mag = keep(r, ds_xcalloc((size_t)rows * (size_t)out, sizeof *mag));
    for (int t = 0; t < rows; t++)
        for (int i = 0; i < m; i++)
            for (int j = 0; j < n; j++)
                mag[t * out + (transposed ? j : i)] +=
                    fabs((double)W[i * n + j] * x[t * in + (transposed ? i : j)]);
    for (int i = 0; bias && i < rows * m; i++)
        mag[i] += fabs((double)bias[i % m]);
    return mag;
}

/* Weights of about n^-1/2, so that results are about 1. */
static int scale_of(int n) { return 1 - (int)lround(log2(n) / 2); }

typedef struct {
    int m, n, rows;
    float *W, *fine, *x, *bias;
    ds_weight *w, *w_fine;
    ds_act *a;
} layer;

/* Every bit of the mantissa in use. */
static void make_fine(float *W, size_t n) {
    for (size_t i = 0; i < n; i++)
        W[i] *= 1 + ldexpf((float)(i * 40503 % 65521), -24);
}

/* Layer and input of the case; x has m or n numbers per row. */
static layer layer_of(run *r, int transposed) {
    layer l = {.m = r->k->m, .n = r->k->n, .rows = r->B};
    size_t size = (size_t)l.m * (size_t)l.n;
    int width = transposed ? l.m : l.n;
    l.W = fixed(r, size, 1, scale_of(width));
    l.fine = fixed(r, size, 1, scale_of(width));
    make_fine(l.fine, size);
    l.x = numbers(r, (size_t)width, 2, 1);
    l.bias = fixed(r, (size_t)l.m, 3, 0);
    l.w = weight(r, l.W, l.m, l.n, NULL, 0);
    l.w_fine = weight(r, l.fine, l.m, l.n, NULL, 0);
    l.a = act_of(r, l.x, (size_t)width * (size_t)l.rows);
    return l;
}

/* Result of fine weights; outputs that no body mentions have tolerance 0: exact. */
static void tolerate_sums(run *r, int o, const double *mag, int terms) {
    for (size_t i = 0; r->ref && i < r->out[o].count; i++)
        tolerate(r, o, i, terms * EPS32 * mag[i], (terms * EPS32 + EPS16) * mag[i]);
}

static void linear_forward(run *r) {
    layer l = layer_of(r, 0);
    ds_act *y = out_act(r, "y", (size_t)l.m), *y0 = out_act(r, "y without bias", (size_t)l.m);
    float *yf = out_f32(r, "y in f32", (size_t)l.m), *exact = out_f32(r, "exact y", (size_t)l.m);
    float *wide = out_f32(r, "y of an f32 weight", (size_t)l.m);
    const struct ds_ops *ops = r->dev->ops;
    ops->linear_f32_forward(r->dev, wide, l.a, weight(r, l.fine, l.m, l.n, NULL, 1), l.bias,
                            l.rows);
    ops->linear_forward(r->dev, y, l.a, l.w, l.bias, l.rows);
    ops->linear_forward(r->dev, y0, l.a, l.w, NULL, l.rows);
    ops->linear_f32_forward(r->dev, yf, l.a, l.w_fine, l.bias, l.rows);
    ops->linear_f32_forward(r->dev, exact, l.a, l.w, l.bias, l.rows);
    if (!r->ref)
        return;
    double *mag = magnitude(r, l.fine, l.x, l.bias, l.rows, l.m, l.n, 0);
    tolerate_sums(r, 2, mag, l.n + 1);
    for (size_t i = 0; i < r->out[4].count; i++)
        tolerate(r, 4, i, (l.n + 1) * EPS32 * mag[i], (l.n + 1) * EPS32 * mag[i]);
}

/* gelu(u) = u sigmoid(z), z = 2k(u + c u^3): a few roundings, and those of z, which the exponential
 * turns from absolute into relative ones; |z| < 90 where sigmoid is not 0.  The derivative
 * sigmoid + u z' sigmoid (1 - sigmoid) likewise, of its two terms. */
static double gelu_rounding(double u) {
    double z = fmin(90, 1.6 * fabs(u) * (1 + 0.0447 * u * u));
    return (12 + 4 * z) * EPS32;
}

static double gelu_sigmoid(double u) {
    return 1 / (1 + exp(-1.5957691216057308 * u * (1 + 0.044715 * u * u)));
}

/* cuBLASLt has its own tanh, perhaps the instruction with an error of 2^-11 of |tanh z| <= 1 (PTX
 * ISA, "tanh.approx.f32"): what that is in gelu = u (1 + tanh z) / 2 and in its derivative
 * (1 + tanh z) / 2 + u (1 - tanh z ^ 2) z' / 2 on a bf16 device; in f32 its GELU is not taken. */
static double library_tanh(double u, int slope) {
    double dz = 0.8 * (1 + 0.134 * u * u);
    return only_cuda() ? 0x1p-11 * (slope ? 0.5 + fabs(u) * dz : fabs(u) / 2) : 0;
}

static double slope_terms(double u) {
    double s = gelu_sigmoid(u);
    return s + fabs(u) * 1.6 * (1 + 0.134 * u * u) * s * (1 - s);
}

static void linear_gelu_forward(run *r) {
    layer l = layer_of(r, 0);
    ds_act *pre = out_act(r, "pre", (size_t)l.m), *y = out_act(r, "y", (size_t)l.m);
    ds_act *alone = out_act(r, "y without pre", (size_t)l.m);
    r->dev->ops->linear_gelu_forward(r->dev, pre, y, l.a, l.w, l.bias, l.rows);
    r->dev->ops->linear_gelu_forward(r->dev, NULL, alone, l.a, l.w, l.bias, l.rows);
    for (size_t i = 0; r->ref && i < r->out[1].count; i++) {
        double u = out_value(r, &r->out[0], i), value = fabs(out_value(r, &r->out[1], i));
        /* sampling and training must agree: pre is not rounded to bf16 before the GELU */
        double tol = value * gelu_rounding(u);
        double t16 = tol + RCP14 * value + library_tanh(u, 0);
        tolerate(r, 1, i, tol, t16);
        tolerate(r, 2, i, tol, t16);
    }
}

static void linear_backward_input(run *r) {
    layer l = layer_of(r, 1);
    ds_act *dx = out_act(r, "dx", (size_t)l.n);
    float *dxf = out_f32(r, "dx in f32", (size_t)l.n);
    r->dev->ops->linear_backward_input(r->dev, dx, l.a, l.w, l.rows);
    r->dev->ops->linear_f32_backward_input(r->dev, dxf, l.a, l.w_fine, l.rows);
    if (r->ref)
        tolerate_sums(r, 1, magnitude(r, l.fine, l.x, NULL, l.rows, l.m, l.n, 1), l.m);
}

static void linear_gelu_backward_input(run *r) {
    layer l = layer_of(r, 1);
    float *pre = numbers(r, (size_t)l.n, 4, 2);
    ds_act *pre_act = act_of(r, pre, (size_t)l.n * (size_t)l.rows);
    ds_act *dpre = out_act(r, "dpre", (size_t)l.n);
    r->dev->ops->linear_gelu_backward_input(r->dev, dpre, l.a, l.w, pre_act, l.rows);
    if (!r->ref)
        return;
    float *dh = keep(r, ds_xmalloc(r->out[0].count * sizeof *dh)); /* exact */
    r->dev->ops->linear_f32_backward_input(r->dev, dh, l.a, l.w, l.rows);
    for (size_t i = 0; i < r->out[0].count; i++) {
        double tol = fabs((double)dh[i]) * slope_terms(pre[i]) * gelu_rounding(pre[i]);
        double u = pre[i], sigmoid = gelu_sigmoid(u), dz = 1.6 * (1 + 0.134 * u * u);
        double rcp = RCP14 * sigmoid * (1 + fabs(u) * dz * sigmoid);
        tolerate(r, 0, i, tol, tol + fabs((double)dh[i]) * (rcp + library_tanh(u, 1)));
    }
}

static void linear_backward_weight(run *r) {
    int m = r->k->m, n = r->k->n, rows = r->B;
    float *dy = numbers(r, (size_t)m, 5, 0), *x = numbers(r, (size_t)n, 6, 0);
    ds_act *dy_act = act_of(r, dy, (size_t)rows * (size_t)m),
           *x_act = act_of(r, x, (size_t)rows * (size_t)n);
    float *dW = out_new(r, "dW", (size_t)m * (size_t)n, 0, 1, ADDED, 7, 1)->data;
    float *db = out_new(r, "db", (size_t)m, 0, 1, ADDED, 8, 1)->data;
    float *dW2 = out_new(r, "dW without db", (size_t)m * (size_t)n, 0, 1, ADDED, 7, 1)->data;
    r->dev->ops->linear_backward_weight(r->dev, dW, db, dy_act, x_act, m, n, rows);
    r->dev->ops->linear_backward_weight(r->dev, dW2, NULL, dy_act, x_act, m, n, rows);
}

/* y (rows of all samples) into a gated residual; here a sample has T rows. */
static void linear_residual_forward(run *r) {
    int m = r->k->m, n = r->k->n, T = r->k->T, rows = r->B * T, stride = 2 * m + 3;
    float *W = fixed(r, (size_t)m * (size_t)n, 1, scale_of(n)), *bias = fixed(r, (size_t)m, 3, 0);
    float *x = numbers(r, (size_t)(T * n), 2, 1), *res = numbers(r, (size_t)(T * m), 9, 2);
    float *gate = numbers(r, (size_t)stride, 10, 1) + m;
    ds_weight *w = weight(r, W, m, n, NULL, 0);
    ds_act *a = act_of(r, x, (size_t)(rows * n)), *y = out_act(r, "y", (size_t)(T * m));
    float *out = out_f32(r, "res_out", (size_t)(T * m));
    float *inside = out_new(r, "res in place", (size_t)(T * m), 0, 0, ADDED, 9, 2)->data;
    r->dev->ops->linear_residual_forward(r->dev, y, out, res, gate, stride, a, w, bias, r->B, T);
    r->dev->ops->linear_residual_forward(r->dev, NULL, inside, inside, gate, stride, a, w, bias,
                                         r->B, T);
    if (!r->ref)
        return;
    for (int i = 0; i < rows * m; i++) { /* res + g y: product and sum are rounded */
        double after = out_value(r, &r->out[1], (size_t)i), branch = fabs(after - (double)res[i]),
               tol = EPS32 * branch;
        /* a GPU's y is in bf16 between the product and the sum */
        double tol16 = tol + (EPS16 + EPS32) * branch;
        tolerate(r, 1, (size_t)i, tol, tol16);
        tolerate(r, 2, (size_t)i, tol, tol16);
    }
}

#define DS_LINEAR_CASE(use, label, b, t, rows, columns)                                            \
    KEEP_##use({.name = label, .B = (b) * (t), .T = 1, .m = rows, .n = columns}, )
static const shape by_rows[] = {
#include "tests/cases.def"
};
#define DS_LINEAR_CASE(use, label, b, t, rows, columns)                                            \
    KEEP_##use({.name = label, .B = b, .T = t, .m = rows, .n = columns}, )
static const shape by_samples[] = {
#include "tests/cases.def"
};

static const rung rungs[] = {{linear_forward, 1},
                             {linear_gelu_forward, 1},
                             {linear_backward_input, 1},
                             {linear_gelu_backward_input, 1},
                             {linear_backward_weight, 0}};

START_TEST(linear) {
    const rung *g = &rungs[_i / COUNT(by_rows)];
    ladder(&by_rows[_i % COUNT(by_rows)], g->body, g->alone);
}
END_TEST

START_TEST(residual) { ladder(&by_samples[_i], linear_residual_forward, 1); }
END_TEST

/* A weight packed with a = 1, b = 0, s = 0 is the weight: an adapter at step 0 changes no bit. */
START_TEST(fresh_adapter_is_the_base) {
    enum { M = 57, N = 35, R = 4, SEGS = 3, ROWS = 9 };
    for (int set = 0; set < KERNEL_SETS; set++) {
        ds_device *dev = open_set(set, 1);
        for (int side_in = 0; dev && side_in < 2; side_in++) {
            run r = {.dev = dev, .B = ROWS};
            float *W = fixed(&r, M * N, 1, 0), *bias = fixed(&r, M, 2, 0), *a = fixed(&r, M, 3, 0);
            float *b = fixed(&r, M, 4, 0), *s = fixed(&r, SEGS, 5, 0);
            for (int i = 0; i < M * N; i++)
                W[i] *= 1 + (float)i * 0x1p-20f; /* not exact in bf16 */
            for (int i = 0; i < M; i++) {
                a[i] = 1;
                b[i] = 0;
            }
            memset(s, 0, SEGS * sizeof *s);
            ds_affiner ad = {M,
                             N,
                             R,
                             SEGS,
                             side_in,
                             0,
                             a,
                             b,
                             s,
                             fixed(&r, M * R, 6, 0),
                             fixed(&r, SEGS * R * N, 7, 0)};
            ds_weight *w[2] = {weight(&r, W, M, N, NULL, 0), weight(&r, W, M, N, &ad, 0)};
            ds_act *x = act_of(&r, fixed(&r, ROWS * M, 8, 0), ROWS * M);
            float y[2][ROWS * M], dx[2][ROWS * N], folded[M];
            ds_mirror_add(dev, y, sizeof y);
            ds_mirror_add(dev, dx, sizeof dx);
            ds_mirror_add(dev, folded, sizeof folded);
            dev->ops->bias_fold(dev, folded, bias, W, &ad);
            EXPECT(!memcmp(folded, bias, sizeof folded), "%s: the folded bias differs",
                   dev->device_class);
            for (int i = 0; i < 2; i++) {
                dev->ops->linear_f32_forward(dev, y[i], x, w[i], i ? folded : bias, ROWS);
                dev->ops->linear_f32_backward_input(dev, dx[i], x, w[i], ROWS);
            }
            EXPECT(!memcmp(y[0], y[1], sizeof y[0]) && !memcmp(dx[0], dx[1], sizeof dx[0]),
                   "%s, side %d: a fresh adapter changes the layer", dev->device_class, side_in);
            run_release(&r);
            ds_mirror_remove(dev, y);
            ds_mirror_remove(dev, dx);
            ds_mirror_remove(dev, folded);
        }
        ds_device_close(dev);
    }
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, linear, 0, COUNT(by_rows) * COUNT(rungs));
    tcase_add_loop_test(tc, residual, 0, COUNT(by_samples));
    tcase_add_test(tc, fresh_adapter_is_the_base);
}

int main(void) { return ds_test_main("kernels_linear", register_cases); }
