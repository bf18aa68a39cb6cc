/* tests/kernels/test_kernels_rest.c - conditioning, layout, diffusion, optimiser and feature network of
 * every kernel set against the reference.  Outputs without a tolerance are exact. */
#include "tests/fixtures/kernels_ladder.h"

/* All 24 bits, the same for a number whatever the sample it is asked with. */
static float *fine_numbers(run *r, size_t per_sample, uint64_t seed, int e) {
    float *x = numbers(r, per_sample, seed, e);
    for (size_t i = 0; i < (size_t)r->B * per_sample; i++)
        x[i] *= 1 + ldexpf((float)(((size_t)r->first * per_sample + i) * 40503 % 65521), -24);
    return x;
}

static void tolerate_both(run *r, int o, size_t i, double tol) { tolerate(r, o, i, tol, tol); }

/* ---------------------------------------------------------------- element-wise */

/* x sigmoid(z) and its derivative: relative error of a sigmoid whose argument is rounded. */
static double sigmoid_rounding(double z) { return (12 + 4 * fmin(fabs(z), 90)) * EPS32; }
static double sigmoid_of(double z) { return 1 / (1 + exp(-z)); }

/* Of  s(z) + x z' s(z) s(-z)  and, since s(-z) may be formed as 1 - s, of x z' s(z) 2 EPS32. */
static double slope_rounding(double x, double z, double dz) {
    double s = sigmoid_of(z), t = fabs(x * dz) * s;
    return (s + t * sigmoid_of(-z)) * sigmoid_rounding(z) + t * 2 * EPS32 + 1e-30;
}

static void activations(run *r) {
    size_t n = (size_t)r->k->n, count = n * (size_t)r->B;
    const struct ds_ops *ops = r->dev->ops;
    float *x = numbers(r, n, 1, 3), *g = numbers(r, n, 2, 0);
    ds_act *x_act = act_of(r, x, count), *g_act = act_of(r, g, count);
    float *silu = out_f32(r, "silu", n), *dsilu = out_f32(r, "silu backward", n);
    ds_act *gelu = out_act(r, "gelu", n), *dgelu = out_act(r, "gelu backward", n);
    ds_act *inside = out_new(r, "gelu backward in place", n, 1, 0, ADDED, 2, 0)->data;
    ops->silu_forward(r->dev, silu, x, count);
    ops->silu_backward(r->dev, dsilu, g, x, count);
    ops->gelu_forward(r->dev, gelu, x_act, count);
    ops->gelu_backward(r->dev, dgelu, g_act, x_act, count);
    ops->gelu_backward(r->dev, inside, inside, x_act, count);
    for (size_t i = 0; r->ref && i < count; i++) {
        double u = x[i], z = 1.5957691216057308 * u * (1 + 0.044715 * u * u);
        double dz = 1.5957691216057308 * (1 + 3 * 0.044715 * u * u),
               slope = slope_rounding(u, z, dz);
        double gi = fabs((double)g[i]), su = sigmoid_of(u), sz = sigmoid_of(z);
        double rcp_gelu = RCP14 * sz * (1 + fabs(u) * dz * sz);
        double tol[5] = {
            fabs((double)silu[i]) * sigmoid_rounding(u) + 1e-30, gi * slope_rounding(u, u, 1),
            fabs(u) * sigmoid_of(z) * sigmoid_rounding(z) + 1e-30, gi * slope, gi * slope};
        double more[5] = {RCP14 * fabs(u) * su, RCP14 * gi * su * (1 + fabs(u) * su),
                          RCP14 * fabs(u) * sz, gi * rcp_gelu, gi * rcp_gelu};
        for (int o = 0; o < 5; o++)
            tolerate(r, o, i, tol[o], tol[o] + more[o]);
    }
}

static void simple(run *r) {
    size_t n = (size_t)r->k->n, count = n * (size_t)r->B;
    const struct ds_ops *ops = r->dev->ops;
    float *x = fine_numbers(r, n, 3, 2), *y = fine_numbers(r, n, 4, 0);
    float *ca = numbers(r, 1, 5, 0), *cb = numbers(r, 1, 6, 1), *wide = out_f32(r, "to f32", n);
    float *filled = out_f32(r, "fill", n), *mixed = out_f32(r, "axpby", n);
    float *sum = out_new(r, "add", n, 0, 0, ADDED, 7, 2)->data;
    float *inside = out_new(r, "axpby in place", n, 0, 0, ADDED, 8, 2)->data;
    ops->act_to_f32(r->dev, wide, act_of(r, numbers(r, n, 9, 2), count), count);
    ops->fill(r->dev, filled, -0.37f, count);
    ops->axpby(r->dev, mixed, ca, x, cb, y, r->B, n);
    ops->axpby(r->dev, inside, ca, inside, cb, y, r->B, n);
    ops->add(r->dev, sum, x, count);
    float *before = numbers(r, n, 8, 2);
    for (size_t i = 0; r->ref && i < count; i++) {
        size_t b = i / n;
        double a2 = fabs((double)cb[b] * y[i]);
        tolerate_both(r, 2, i, EPS32 * (fabs((double)ca[b] * x[i]) + a2));
        tolerate_both(r, 4, i, EPS32 * (fabs((double)ca[b] * before[i]) + a2));
    }
}

/* ---------------------------------------------------------------- conditioning */

static void timesteps(run *r) {
    enum { DIM = 38 };
    float *out = out_f32(r, "embedding", DIM), *diffusers = out_f32(r, "with shift", DIM);
    float *t = keep(r, ds_xmalloc((size_t)r->B * sizeof *t));
    for (int b = 0; b < r->B; b++)
        t[b] = (float)((r->first + b) * 333);
    r->dev->ops->timestep_embedding(r->dev, out, t, r->B, DIM, 10000, 0);
    r->dev->ops->timestep_embedding(r->dev, diffusers, t, r->B, DIM, 10000, 1);
    for (size_t i = 0; r->ref && i < (size_t)r->B * DIM; i++)
        for (int o = 0; o < 2; o++) /* angles up to 1000 need more than f32: 1e-9 is double */
            tolerate_both(r, o, i, 1e-9);
}

static void embedding(run *r) {
    enum { ROWS = 4 };
    size_t D = (size_t)r->k->n;
    int *idx = keep(r, ds_xmalloc((size_t)r->B * sizeof *idx));
    for (int b = 0; b < r->B; b++)
        idx[b] = (r->first + b) % 5 == 4 ? -1 : (r->first + b) * 3 % ROWS;
    float *table = fixed(r, ROWS * D, 10, 0), *g = fine_numbers(r, D, 11, 0);
    float *out = out_new(r, "out", D, 0, 0, ADDED, 12, 0)->data;
    float *dtable = out_new(r, "dtable", ROWS * D, 0, 1, ADDED, 13, 0)->data;
    r->dev->ops->embedding_forward(r->dev, out, table, idx, r->B, (int)D);
    r->dev->ops->embedding_backward(r->dev, dtable, g, idx, r->B, (int)D);
}

static void taken_rows(run *r) {
    enum { ROWS = 4, LAYERS = 3 };
    size_t D = (size_t)r->k->n;
    int *idx = keep(r, ds_xmalloc((size_t)r->B * sizeof *idx));
    for (int b = 0; b < r->B; b++)
        idx[b] = ((r->first + b) * 3 + 1) % ROWS;
    float *table = fixed(r, LAYERS * ROWS * D, 31, 0);
    float *one = out_f32(r, "row of one table", D);
    float *all =
        out_new(r, "rows of three tables", LAYERS * (size_t)r->B * D, 0, 1, WRITTEN, 0, 0)->data;
    r->dev->ops->embedding_take(r->dev, one, table, idx, 1, ROWS, r->B, (int)D);
    r->dev->ops->embedding_take(r->dev, all, table, idx, LAYERS, ROWS, r->B, (int)D);
}

/* ---------------------------------------------------------------- layout */

static void layout(run *r) {
    int C = r->k->D, S = r->k->n, p = r->k->m, B = r->B;
    size_t n = (size_t)(C * S * S);
    const struct ds_ops *ops = r->dev->ops;
    float *img = numbers(r, n, 14, 0), *tokens = fine_numbers(r, n, 15, 0),
          *pos = fixed(r, n, 16, 0);
    ds_act *patches = out_act(r, "tokens", n), *dtokens = out_act(r, "dtokens", n);
    float *back = out_f32(r, "img", n), *x = out_new(r, "x", n, 0, 0, ADDED, 17, 0)->data;
    ops->patchify(r->dev, patches, img, B, C, S, p);
    ops->unpatchify(r->dev, back, tokens, B, C, S, p);
    ops->unpatchify_backward(r->dev, dtokens, img, B, C, S, p);
    ops->add_position(r->dev, x, pos, B, S / p * (S / p), C * p * p);
}

/* ---------------------------------------------------------------- diffusion */

static void normal(run *r) {
    size_t n = (size_t)r->k->n;
    uint32_t *step = keep(r, ds_xmalloc((size_t)r->B * sizeof *step));
    uint64_t *sample = keep(r, ds_xmalloc((size_t)r->B * sizeof *sample));
    for (int b = 0; b < r->B; b++) {
        step[b] = (uint32_t)(r->first + b) * 77;
        sample[b] = (uint64_t)(r->first + b) << 33 | 5;
    }
    float *out = out_f32(r, "normal numbers", n);
    r->dev->ops->normal(r->dev, out, 0x123456789abcdefull, DS_STREAM_NOISE, step, sample, r->B, n);
    for (int b = 0; b < r->B; b++) {
        float *own = ds_xmalloc(n * sizeof *own);
        ds_rng_normal(own, n, 0x123456789abcdefull, DS_STREAM_NOISE, step[b], sample[b]);
        EXPECT(!memcmp(out + (size_t)b * n, own, n * sizeof *own),
               "%s: normals differ from base/rng.c", r->dev->device_class);
        free(own);
    }
}

/* Rounding of the KL term of one element in f32, nats; *slope: of its derivative by log sigma^2.
 * KL = (e^-d - 1 + d + square) / 2 with d = log p - log q; exponents are rounded before exp, and
 * for small d the three terms may not be formed apart (excess ~ d^2 / 2). */
static double kl_rounding(const float *c, double eps, double v, double x0, double xt,
                          double *slope) {
    double d = 0.5 * (v + 1) * ((double)c[0] - c[1]), log_p = d + c[1];
    double x0_hat = (double)c[4] * xt - (double)c[5] * eps, diff = c[2] * (x0 - x0_hat);
    double square = diff * diff * exp(-log_p),
           excess = fmin(10 * d * d, 8 * (exp(-d) + 1 + fabs(d)));
    double error = EPS32 * (square * (20 + fabs(log_p)) + excess);
    *slope = error + 4 * EPS32 * fabs(d);
    return error;
}

static void loss(run *r) {
    enum { C = 2 };
    static const int steps[] = {0, 999, 1, 20, 500};
    size_t n = (size_t)r->k->n, half = C * n, count = half * (size_t)r->B;
    float *out = numbers(r, 2 * half, 18, 0), *x0 = numbers(r, half, 19, 0),
          *noise = fine_numbers(r, half, 20, 1);
    float *xt = keep(r, ds_xmalloc(count * sizeof *xt)),
          *coef = keep(r, ds_xmalloc((size_t)r->B * 8 * sizeof *coef));
    for (size_t i = 0; i < count; i++) {
        size_t b = i / half, at = b * 2 * half + i % half;
        float *c = coef + 8 * b;
        if (i % half == 0)
            test_schedule(c, steps[((size_t)r->first + b) % COUNT(steps)],
                          0.25f + 0.5f * (float)((size_t)r->first + b));
        size_t which = (size_t)r->first * half + i;
        if (which % 3 == 0)
            x0[i] = which % 2 ? -1 : 1; /* the open ends of the first step */
        xt[i] = (x0[i] + c[5] * noise[i]) / c[4];
        out[at] = noise[i] + 0.25f * out[at];
    }
    float *mse = out_f32(r, "mse", 1), *vb = out_f32(r, "vb", 1),
          *dout = out_f32(r, "dout", 2 * half);
    float *mse1 = out_f32(r, "mse, fixed variance", 1), *vb1 = out_f32(r, "vb, fixed variance", 1);
    float *dout1 = out_f32(r, "dout, fixed variance", half);
    float *eps = numbers(r, half, 35, 0);
    const struct ds_ops *ops = r->dev->ops;
    ops->diffusion_loss(r->dev, mse, vb, dout, out, x0, noise, xt, coef, 1, 0.75f, r->B, C, n);
    ops->diffusion_loss(r->dev, mse1, vb1, dout1, eps, x0, noise, xt, coef, 0, 0.5f, r->B, C, n);
    for (int b = 0; r->ref && b < r->B; b++) {
        const float *c = coef + 8 * b;
        size_t at = (size_t)b * half, wide = 2 * at;
        double nats = 0,
               scale = c[7] * 0.75 * 0.5 * ((double)c[0] - c[1]) / ((double)half * log(2));
        for (size_t i = 0; i < half; i++) {
            double slope, error = kl_rounding(c, out[wide + i], out[wide + half + i], x0[at + i],
                                              xt[at + i], &slope);
            /* the first step is computed in double; its probabilities are differences of numbers
             * near 1 */
            nats += c[6] != 0 ? 1e-9 : error;
            tolerate_both(r, 2, wide + i, 3 * EPS32 * fabs((double)dout[wide + i]));
            tolerate_both(r, 2, wide + half + i,
                          fabs(scale) * (c[6] != 0 ? 1e-7 : slope) +
                              3 * EPS32 * fabs((double)dout[wide + half + i]));
            tolerate_both(r, 5, at + i, 3 * EPS32 * fabs((double)dout1[at + i]));
        }
        tolerate_both(r, 0, (size_t)b, 3 * EPS32 * mse[b]);
        tolerate_both(r, 1, (size_t)b,
                      nats / ((double)half * log(2)) + 2 * EPS32 * fabs((double)vb[b]));
        tolerate_both(r, 3, (size_t)b, 3 * EPS32 * mse1[b]);
    }
}

/* The velocity's loss; of the model's output a part beyond px is not used.  Each element is two
 * products and a difference in f32 on terms of at most `terms`; the square adds twice that. */
static void velocity(run *r) {
    size_t px = (size_t)r->k->n, outpx = px + px / 2;
    float *out = numbers(r, outpx, 90, 0), *x0 = numbers(r, px, 91, 0),
          *noise = fine_numbers(r, px, 92, 1),
          *coef = keep(r, ds_xcalloc((size_t)r->B * 8, sizeof *coef));
    for (int b = 0; b < r->B; b++) {
        coef[8 * b] = (r->first + b) % 2 ? -1 : 0.7f;
        coef[8 * b + 1] = 1 - 0.125f * (float)((r->first + b) % 3);
        coef[8 * b + 7] = 0.25f + (float)(r->first + b);
    }
    float *mse = out_f32(r, "mse", 1), *dout = out_f32(r, "dout", outpx),
          *only = out_f32(r, "mse without dout", 1);
    r->dev->ops->flow_loss(r->dev, mse, dout, out, x0, noise, coef, r->B, px, outpx);
    r->dev->ops->flow_loss(r->dev, only, NULL, out, x0, noise, coef, r->B, px, outpx);
    for (int b = 0; r->ref && b < r->B; b++) {
        double error = 0;
        for (size_t i = 0; i < px; i++) {
            size_t at = (size_t)b * px + i, o = (size_t)b * outpx + i;
            double terms = fabs(out[o]) + fabs(x0[at]) + fabs(noise[at]), off = 3 * EPS32 * terms;
            tolerate_both(r, 1, o, 2 * coef[8 * b + 7] / (double)px * off + EPS32 * fabs(dout[o]));
            error += 2 * off * terms + off * off;
        }
        tolerate_both(r, 0, (size_t)b, error / (double)px + EPS32 * mse[b]);
        tolerate_both(r, 2, (size_t)b, error / (double)px + EPS32 * mse[b]);
    }
}

/* ---------------------------------------------------------------- optimiser */

static void adamw(run *r) {
    size_t n = (size_t)r->k->n, count = n * (size_t)r->B;
    float *g = fine_numbers(r, n, 21, 0), *mul = numbers(r, n, 22, 0);
    float *p = out_new(r, "p", n, 0, 0, ADDED, 23, 1)->data,
          *m = out_new(r, "m", n, 0, 0, ADDED, 24, -3)->data;
    float *v = out_new(r, "v", n, 0, 0, ADDED, 25, -6)->data,
          *ema = out_new(r, "ema", n, 0, 0, ADDED, 26, 1)->data;
    float *p0 = numbers(r, n, 23, 1), *m0 = numbers(r, n, 24, -3), *v0 = numbers(r, n, 25, -6),
          *e0 = numbers(r, n, 26, 1);
    const float lr = 1e-2f, b1 = 0.9f, b2 = 0.999f, eps = 1e-8f, wd = 0.05f, clip = 0.7f,
                decay = 0.99f;
    enum { STEP = 3 };
    for (size_t i = 0; i < count; i++) {
        v[i] = v0[i] = fabsf(v0[i]);
        mul[i] = ((size_t)r->first * n + i) % 4 == 0 ? 0 : fabsf(mul[i]);
    }
    double one = 1; /* the norm: above the limit, so that clip is the factor */
    ds_mirror_add(r->dev, &one, sizeof one);
    r->dev->ops->adamw(r->dev, p, m, v, ema, g, mul, count, lr, b1, b2, eps, wd, clip, &one, decay,
                       STEP);
    ds_mirror_remove(r->dev, &one);
    double c1 = 1 - pow(b1, STEP), c2 = 1 - pow(b2, STEP);
    for (size_t i = 0; i < count; i++) {
        EXPECT(mul[i] != 0 || p[i] == p0[i], "%s: a frozen parameter moves", r->dev->device_class);
        if (!r->ref)
            continue;
        double grad = fabs((double)g[i] * clip), rate = (double)lr * mul[i];
        double e_m = 3 * EPS32 * (fabs((double)b1 * m0[i]) + (1 - b1) * grad);
        double e_v = 4 * EPS32 * v[i], root = sqrt(v[i] / c2) + eps;
        double e_p = rate / c1 / root * (e_m + 12 * EPS32 * fabs((double)m[i])) +
                     2 * EPS32 * fabs((double)p0[i]) * rate * wd;
        tolerate_both(r, 0, i, e_p + EPS32 * fabs((double)p0[i]));
        tolerate_both(r, 1, i, e_m);
        tolerate_both(r, 2, i, e_v);
        tolerate_both(r, 3, i, 2 * EPS32 * (fabs((double)e0[i]) + fabs((double)p[i])) + e_p);
    }
}

/* lr_mul NULL is ones, ema NULL is left out. */
START_TEST(adamw_without_extras) {
    enum { N = 103 };
    for (int set = 0; set < KERNEL_SETS; set++) {
        ds_device *dev = open_set(set, 1);
        float p[2][N], m[2][N], v[2][N], ema[N], ones[N];
        float *shown[] = {p[0], p[1], m[0], m[1], v[0], v[1], ema, ones};
        for (int i = 0; i < COUNT(shown); i++)
            ds_mirror_add(dev, shown[i], N * sizeof(float));
        for (int k = 0; dev && k < 2; k++) {
            float *g = test_random(N, 40, 0);
            ds_mirror_add(dev, g, N * sizeof *g);
            test_fill(p[k], N, 41, 0);
            test_fill(m[k], N, 42, -3);
            for (int i = 0; i < N; i++) {
                ema[i] = ones[i] = 1;
                v[k][i] = fabsf(m[k][i]);
            }
            dev->ops->adamw(dev, p[k], m[k], v[k], k ? NULL : ema, g, k ? NULL : ones, N, 0.01f,
                            0.9f, 0.99f, 1e-8f, 0.1f, 0, NULL, 0.5f, 2);
            ds_mirror_remove(dev, g);
            free(g);
        }
        EXPECT(!dev || (!memcmp(p[0], p[1], sizeof p[0]) && !memcmp(m[0], m[1], sizeof m[0]) &&
                        !memcmp(v[0], v[1], sizeof v[0])),
               "%s: ones or a missing ema change a step", dev->device_class);
        ds_device_close(dev);
    }
}
END_TEST

/* A norm below the limit scales nothing, and one that is not finite leaves every number alone. */
START_TEST(adamw_norms) {
    enum { N = 9, RUNS = 4 };
    static const double norms[RUNS] = {0.25, 0, INFINITY, NAN}; /* squares; the limit is 1 */
    for (int set = 0; set < KERNEL_SETS; set++) {
        ds_device *dev = open_set(set, 1);
        float p[RUNS][N], m[RUNS][N], v[RUNS][N], g[N];
        double squares;
        ds_mirror_add(dev, g, sizeof g);
        ds_mirror_add(dev, p, sizeof p);
        ds_mirror_add(dev, m, sizeof m);
        ds_mirror_add(dev, v, sizeof v);
        ds_mirror_add(dev, &squares, sizeof squares);
        for (int k = 0; dev && k < RUNS; k++) {
            for (int i = 0; i < N; i++)
                p[k][i] = m[k][i] = v[k][i] = g[i] = 1;
            squares = norms[k];
            dev->ops->adamw(dev, p[k], m[k], v[k], NULL, g, NULL, N, 0.1f, 0.9f, 0.99f, 1e-8f, 0, 1,
                            k == 1 ? NULL : &squares, 0, 1);
        }
        for (int i = 0; dev && i < N; i++) {
            EXPECT(p[0][i] < 1 && p[0][i] == p[1][i], "%s: a small norm scales", dev->device_class);
            for (int k = 2; k < RUNS; k++)
                EXPECT(p[k][i] == 1 && m[k][i] == 1 && v[k][i] == 1,
                       "%s: a norm of %g changes numbers", dev->device_class, norms[k]);
        }
        ds_device_close(dev);
    }
}
END_TEST

START_TEST(opening) {
    static const struct {
        ds_device_options opt;
        int rc;
    } tries[] = {{{.kind = "ref"}, 0},
                 {{.kind = "ref", .precision = DS_PRECISION_BF16}, DS_EINVAL},
                 {{.kind = "gpu"}, DS_EINVAL},
                 {{.kind = "cpu", .isa = "sse9"}, DS_EINVAL}};
    for (int i = 0; i < COUNT(tries); i++) {
        ds_device *dev = NULL;
        ds_error err = {0};
        int rc = ds_device_open(&dev, &tries[i].opt, &err);
        EXPECT(rc == tries[i].rc && !dev == (rc != 0), "try %d gives %d, not %d", i, rc,
               tries[i].rc);
        EXPECT(rc == 0 || (err.code == rc && strlen(err.message) > 10), "try %d has no message", i);
        ds_device_close(dev);
    }
    ds_device *dev = NULL;
    ck_assert_int_eq(ds_device_open(&dev, NULL, NULL), 0); /* auto: the fastest present, in f32 */
    EXPECT(dev->act_size == 4 && dev->threads >= 1, "%s", dev->device_class);
    ds_device_close(dev);
    for (int a = 0; a < KERNEL_SETS; a++) {
        ds_device *one = open_set(a, 3);
        if (!one)
            continue;
        EXPECT(one->threads == (strcmp(one->name, "cuda") ? 3 : 1), "%s: %d threads",
               one->device_class, one->threads);
        EXPECT(one->act_size == (kernel_sets[a].precision == DS_PRECISION_BF16 ? 2 : 4),
               "act_size of %s", one->device_class);
        for (int b = 0; b < a; b++) {
            ds_device *other = open_set(b, 1);
            EXPECT(!other || strcmp(one->device_class, other->device_class) != 0,
                   "two kernel sets are called %s: probe digests would be mixed up",
                   one->device_class);
            ds_device_close(other);
        }
        ds_device_close(one);
    }
}
END_TEST

START_TEST(sum_squares) {
    static const size_t sizes[] = {1, 7, 65, 16385, 200003};
    for (int set = 0; set < KERNEL_SETS; set++) {
        ds_device *dev[2] = {open_set(set, 1), open_set(set, 2)};
        for (int i = 0; dev[0] && i < COUNT(sizes); i++) {
            size_t n = sizes[i];
            float *x = test_random(n, 27, 10);
            double want = 0, got[2];
            for (size_t k = 0; k < n; k++)
                want += (double)x[k] * x[k]; /* whole numbers of 2^-6 or so: exact in double */
            for (int k = 0; k < 2; k++) {
                ds_mirror_add(dev[k], x, n * sizeof *x);
                ds_mirror_add(dev[k], &got[k], sizeof got[k]);
                dev[k]->ops->sum_squares(dev[k], &got[k], x, n);
                ds_mirror_remove(dev[k], &got[k]);
                ds_mirror_remove(dev[k], x);
            }
            EXPECT(got[0] == want && got[1] == want,
                   "%s: sum of %zu squares is %.17g, %.17g, not %.17g", dev[0]->device_class, n,
                   got[0], got[1], want);
            free(x);
        }
        for (int k = 0; k < 2; k++)
            ds_device_close(dev[k]);
    }
}
END_TEST

/* Round to nearest even, bit by bit: ties, overflow to infinity, infinity, zeros, NaN stays NaN.
 * (Numbers below 2^-126 may become zero: the instruction of AVX-512 does that.) */
START_TEST(rounding_to_bf16) {
    enum { N = 3000 };
    static float x[N];
    static const uint32_t special[] = {0x3f808000, 0x3f818000, 0x3f807fff, 0x3f808001, 0xbf808000,
                                       0xbf818000, 0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000,
                                       0,          0x80000000, 0x00800000, 0x7f7f7fff, 0x7f7f8000};
    for (uint32_t i = 0; i < N; i++) {
        uint32_t u = ds_rng_u32(28, DS_STREAM_TEST, 0, 0, i);
        if (i < sizeof special / sizeof *special)
            u = special[i];
        else if ((u & 0x7f800000) == 0 || (u & 0x7f800000) == 0x7f800000)
            u = 0x3f800000;
        memcpy(x + i, &u, 4);
    }
    for (int set = 0; set < KERNEL_SETS; set++) {
        ds_device *dev = open_set(set, 1);
        if (!dev || dev->act_size != 2) {
            ds_device_close(dev);
            continue;
        }
        static uint16_t out[N];
        static float back[N];
        float nan = NAN;
        ds_mirror_add(dev, x, sizeof x);
        ds_mirror_add(dev, out, sizeof out);
        ds_mirror_add(dev, back, sizeof back);
        ds_mirror_add(dev, &nan, sizeof nan);
        dev->ops->act_from_f32(dev, (ds_act *)(void *)out, x, N);
        dev->ops->act_to_f32(dev, back, (const ds_act *)(const void *)out, N);
        for (int i = 0; i < N; i++) {
            EXPECT(out[i] == test_bf16(x[i]), "%s: %a becomes %04x, not %04x", dev->device_class,
                   (double)x[i], out[i], test_bf16(x[i]));
            EXPECT(back[i] == test_bf16_float(out[i]), "%s: back from %04x", dev->device_class,
                   out[i]);
        }
        dev->ops->act_from_f32(dev, (ds_act *)(void *)out, &nan, 1);
        EXPECT(isnan(test_bf16_float(out[0])), "%s: NaN becomes %04x", dev->device_class, out[0]);
        ds_device_close(dev);
    }
}
END_TEST

/* ---------------------------------------------------------------- sampler step */

/* A step in the middle of a schedule, or its last one. */
static ds_step step_of(enum ds_step_kind kind, int pixel, int last, size_t limit) {
    return (ds_step){.kind = kind,
                     .pixel = pixel,
                     .learned = 1,
                     .last = last,
                     .limit = limit,
                     .domain = 1.5f,
                     .classes = 2.5f,
                     .a = 0.8f,
                     .b = 0.6f,
                     .a_prev = 0.96f,
                     .b_prev = 0.28f,
                     .x0_x = 0.9f,
                     .x0_v = -0.4f,
                     .mean_x0 = 0.3,
                     .mean_xt = 0.68,
                     .log_variance = -3,
                     .log_beta = -2,
                     .ratio = 0.47,
                     .gain = 0.6,
                     .c_now = last ? 1 : 1.5,
                     .c_before = last ? 0 : -0.5};
}

/* Every kind of step, with each guidance (of the first half of a sample's elements).  Each
 * result is a handful of f32 operations (x0 and eps; or in double with one rounding) on terms of at
 * most `terms`; guidance makes eps up to 1 + 2 * 1.5 + 2 * 2.5 = 9 times as large; exp(lv/2) differs
 * by two roundings. */
static void sampler(run *r) {
    size_t px = (size_t)r->k->n, outpx = 2 * px;
    float *out = numbers(r, outpx, 61, 0), *base = numbers(r, outpx, 62, 0),
          *null = numbers(r, outpx, 65, 0), *draw = numbers(r, px, 63, 1);
    for (int i = 0; i < 32; i++) {
        ds_step s = step_of((enum ds_step_kind)(i % 4), i >= 16, i % 8 == 7, px / 2 + 1);
        s.velocity = i >= 20;
        s.learned = !s.velocity;
        s.keep = s.kind == DS_STEP_DDIM && i % 8 == 1;
        s.spread = s.kind == DS_STEP_DDIM && i >= 12 ? 0.3f : 0;
        float *x = out_new(r, "x", px, 0, 0, ADDED, (uint64_t)(64 + i), 1)->data;
        float *before = out_new(r, "x0 before", px, 0, 0, ADDED, 80, 0)->data;
        float *twin = out_f32(r, "twin", px);
        r->dev->ops->sampler_step(r->dev, x, i % 2 ? twin : NULL, before, out,
                                  i / 3 % 4 & 1 ? null : NULL, i / 3 % 4 & 2 ? base : NULL,
                                  s.last ? NULL : draw, &s, r->B, px, outpx);
        double eps = 9, x0 = (2 + s.b * eps) / s.a, terms = 2 * (x0 + 2 + s.b * eps) + 2;
        for (size_t j = 0; r->ref && j < px * (size_t)r->B; j++)
            for (int o = 3; o >= 1; o--)
                tolerate_both(r, r->outs - o, j, 12 * EPS32 * terms);
    }
}

/* ---------------------------------------------------------------- feature network */

static void absolute(float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        x[i] = fabsf(x[i]);
}

/* f32 on every device.  With numbers on the grid the sums are exact; with fine ones they show
 * whether a bf16 device rounds what it must not. */
static void conv(run *r) {
    ds_conv geo = r->k->geo;
    geo.batch = r->B;
    int depth = geo.kernel_h * geo.kernel_w * geo.in_channels, m = geo.out_channels, gap = 3;
    int oh = (geo.height + 2 * geo.pad_h - geo.kernel_h) / geo.stride + 1;
    int ow = (geo.width + 2 * geo.pad_w - geo.kernel_w) / geo.stride + 1;
    size_t in = (size_t)(geo.height * geo.width * geo.in_channels), size = (size_t)(m * depth);
    float *x = numbers(r, in, 29, 0), *fine = fine_numbers(r, in, 30, 0);
    float *W = fixed(r, size, 31, -2), *fine_w = fixed(r, size, 32, -2),
          *bias = fixed(r, (size_t)m, 33, 0);
    for (size_t i = 0; i < size; i++)
        fine_w[i] *= 1 + ldexpf((float)(i * 40503 % 65521), -24);
    ds_weight *w = weight(r, W, m, depth, NULL, 1), *w_fine = weight(r, fine_w, m, depth, NULL, 1);
    size_t per_sample = (size_t)(oh * ow * (m + gap));
    float *y = out_f32(r, "y", per_sample), *z = out_f32(r, "y of fine numbers", per_sample);
    r->dev->ops->conv_forward(r->dev, y, m + gap, x, w, bias, 1, &geo);
    r->dev->ops->conv_forward(r->dev, z, m + gap, fine, w_fine, bias, 0, &geo);
    if (!r->ref)
        return;
    size_t count = per_sample * (size_t)r->B;
    float *mag = keep(r, ds_xmalloc(count * sizeof *mag));
    absolute(fine, in * (size_t)r->B);
    absolute(fine_w, size);
    absolute(bias, (size_t)m);
    r->dev->ops->conv_forward(r->dev, mag, m + gap, fine, weight(r, fine_w, m, depth, NULL, 1),
                              bias, 0, &geo);
    for (size_t i = 0; i < count; i++)
        if (i % (size_t)(m + gap) < (size_t)m)
            tolerate_both(r, 1, i, (depth + 2) * EPS32 * mag[i]);
}

static void pool(run *r) {
    ds_conv geo = r->k->geo;
    geo.batch = r->B;
    int C = geo.in_channels, gap = 2,
        oh = (geo.height + 2 * geo.pad_h - geo.kernel_h) / geo.stride + 1;
    int ow = (geo.width + 2 * geo.pad_w - geo.kernel_w) / geo.stride + 1,
        pixels = geo.height * geo.width;
    float *x = numbers(r, (size_t)(pixels * C), 34, 0); /* negative ones too: an edge is no zero */
    size_t per_sample = (size_t)(oh * ow * (C + gap));
    float *top = out_f32(r, "max", per_sample), *mean = out_f32(r, "average", per_sample);
    float *whole = out_f32(r, "spatial mean", (size_t)C);
    r->dev->ops->pool_forward(r->dev, top, C + gap, x, 0, &geo);
    r->dev->ops->pool_forward(r->dev, mean, C + gap, x, 1, &geo);
    r->dev->ops->spatial_mean(r->dev, whole, x, r->B, pixels, C);
    for (size_t i = 0; r->ref && i < per_sample * (size_t)r->B; i++)
        if (i % (size_t)(C + gap) < (size_t)C) { /* exact sums; times a rounded 1/cells, perhaps */
            tolerate_both(r, 1, i, EPS32 * fabs((double)mean[i]));
            tolerate_tf32(r, 1, i,
                          EPS_TF32 / 2 * fabs((double)mean[i])); /* what convolutions read */
        }
}

#define DS_FLAT_CASE(use, label, b, count) KEEP_##use({.name = label, .B = b, .n = count}, )
static const shape flats[] = {
#include "tests/cases.def"
};
#define DS_IMAGE_CASE(use, label, b, c, side, patch)                                               \
    KEEP_##use({.name = label, .B = b, .D = c, .n = side, .m = patch}, )
static const shape images[] = {
#include "tests/cases.def"
};
#define DS_CONV_CASE(use, label, b, h, w, cin, cout, kh, kw, s, ph, pw)                            \
    KEEP_##use({.name = label, .B = b, .geo = {b, h, w, cin, cout, kh, kw, s, ph, pw}}, )
static const shape convs[] = {
#include "tests/cases.def"
};
#define DS_POOL_CASE(use, label, b, h, w, c, kh, kw, s, ph, pw)                                    \
    KEEP_##use({.name = label, .B = b, .geo = {b, h, w, c, 0, kh, kw, s, ph, pw}}, )
static const shape pools[] = {
#include "tests/cases.def"
};
static const rung flat_rungs[] = {{activations, 1}, {simple, 1},     {timesteps, 1},
                                  {embedding, 1},   {taken_rows, 1}, {normal, 1},
                                  {loss, 1},        {adamw, 1},      {velocity, 1}};

START_TEST(flat) {
    const rung *g = &flat_rungs[_i / COUNT(flats)];
    ladder(&flats[_i % COUNT(flats)], g->body, g->alone);
}
END_TEST

START_TEST(sampler_step) { ladder(&flats[_i], sampler, 1); }
END_TEST

START_TEST(image) { ladder(&images[_i], layout, 1); }
END_TEST

START_TEST(convolution) { ladder(&convs[_i], conv, 1); }
END_TEST

START_TEST(pooling) { ladder(&pools[_i], pool, 1); }
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, flat, 0, COUNT(flats) * COUNT(flat_rungs));
    tcase_add_loop_test(tc, sampler_step, 0, COUNT(flats));
    tcase_add_loop_test(tc, image, 0, COUNT(images));
    tcase_add_loop_test(tc, convolution, 0, COUNT(convs));
    tcase_add_loop_test(tc, pooling, 0, COUNT(pools));
    tcase_add_test(tc, adamw_without_extras);
    tcase_add_test(tc, adamw_norms);
    tcase_add_test(tc, opening);
    tcase_add_test(tc, sum_squares);
    tcase_add_test(tc, rounding_to_bf16);
}

int main(void) { return ds_test_main("kernels_rest", register_cases); }
