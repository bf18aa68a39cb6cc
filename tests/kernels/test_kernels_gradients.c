/* tests/kernels/test_kernels_gradients.c - every backward op against central differences of its forward.
 *
 * Loss L = sum_i c_i out_i in double, c fixed.  The five-point stencil
 *     D(h) = (8 (L(x+h) - L(x-h)) - (L(x+2h) - L(x-2h))) / 12 h
 * has truncation h^4 L'''''/30.  x and h are such that x +- 2h is exact in f32.
 *
 * Tolerance of one comparison, from arithmetic:
 *   rounding    an f32 result carries 2^-24 of itself; `noise` is the sum of |c_i| times everything
 *               that is rounded on the way to out_i, so |error of L| <= 2^-24 noise, of D(h)
 *               <= 18/12 2^-24 noise / h.  A device that sums in f32 makes up to `terms` roundings
 *               where the reference makes one.
 *   truncation  D(2h) - D(h) ~ 15 (D(h) - L'): |D(2h) - D(h)| / 15 on its own, doubled for the
 *               higher orders.
 *   gradient    itself rounded: 2^-22 |g| + 2^-24 terms * rms
 * And the test must discriminate (checked): the tolerance may not exceed 1/200 of the largest
 * gradient in the array, 1/50 where sums are in f32 (those devices are compared with the reference
 * as well).
 */
#include "tests/fixtures/kernels_common.h"

typedef struct loss loss;
struct loss {
    ds_device *dev;
    double (*eval)(loss *l, double *noise);
    double h;
    int terms; /* f32 roundings of one sum */
};

/* Devices that compute in f32, by index of the loop tests. */
static const char *device_names[] = {"ref", "cpu"};
enum { DEVICES = sizeof device_names / sizeof device_names[0] };

static ds_device *open_device(int i) {
    ds_device *dev = NULL;
    ds_error err = {0};
    ds_device_options opt = {.kind = device_names[i], .precision = DS_PRECISION_F32, .threads = 1};
    int rc = i == 0 ? ds_device_open_ref(&dev, &opt, &err) : ds_device_open_cpu(&dev, &opt, &err);
    EXPECT(rc == 0, "%s: %s", device_names[i], err.message);
    return dev;
}

static int terms_of(const ds_device *dev, int n) {
    return strcmp(dev->name, "ref") == 0 ? 1 : n + 8;
}

static double stencil(loss *l, float *x, double h, double *noise) {
    float kept = *x;
    double v[4], most = 0;
    static const int at[4] = {1, -1, 2, -2};
    for (int i = 0; i < 4; i++) {
        double s = 0;
        *x = (float)(kept + at[i] * h);
        DS_ASSERT((double)*x == kept + at[i] * h);
        v[i] = l->eval(l, &s);
        most = fmax(most, s);
    }
    *x = kept;
    *noise = 1.5 * 0x1p-24 * l->terms * most / h;
    return (8 * (v[0] - v[1]) - (v[2] - v[3])) / (12 * h);
}

/* grad (n) against the differences of l by x (n). */
static void check_gradient(const char *what, loss *l, float *x, const float *grad, size_t n) {
    double top = 0;
    for (size_t i = 0; i < n; i++)
        top = fmax(top, fabs((double)grad[i]));
    EXPECT(top > 0, "%s: gradient is zero everywhere: nothing is tested", what);
    for (size_t i = 0; i < n; i++) {
        double rounding, unused, near = stencil(l, x + i, l->h, &rounding);
        double far = stencil(l, x + i, 2 * l->h, &unused);
        double tol = rounding + 2 * fabs(far - near) / 15 + 0x1p-22 * fabs((double)grad[i]) +
                     0x1p-24 * l->terms * top;
        EXPECT(tol < top / (l->terms > 1 ? 50 : 200),
               "%s[%zu]: tolerance %g of %g is too weak (rounding %g, %g %g)", what, i, tol, top,
               rounding, near, far);
        EXPECT(fabs(near - (double)grad[i]) <= tol,
               "%s[%zu]: gradient %.9g, differences %.9g, "
               "tolerance %.3g",
               what, i, (double)grad[i], near, tol);
    }
}

static double weighted(const float *out, const float *c, size_t n, double *noise) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)out[i] * c[i];
        *noise += fabs((double)out[i] * c[i]);
    }
    return sum;
}

/* ---------------------------------------------------------------- linear layers */

enum { LB = 2, LT = 5, LR = LB * LT, LM = 9, LN = 13 };

typedef struct {
    loss l;
    ds_weight *w;
    float x[LR * LN], W[LM * LN], bias[LM], c[LR * LM], out[LR * LM], pre[LR * LN];
    int through_gelu;
} linear_loss;

/* sum |c_i| sum_j |W_ij| |x_j|: what a product rounds on its way. */
static double product_noise(const float *c, const float *W, const float *x, int rows, int m,
                            int n) {
    double sum = 0;
    for (int t = 0; t < rows; t++)
        for (int i = 0; i < m; i++)
            for (int j = 0; j < n; j++)
                sum += fabs((double)c[t * m + i] * W[i * n + j] * x[t * n + j]);
    return sum;
}

static double linear_eval(loss *base, double *noise) {
    linear_loss *l = (linear_loss *)base;
    const struct ds_ops *ops = l->l.dev->ops;
    ops->weight_pack(l->l.dev, l->w, l->W, NULL);
    if (l->through_gelu)
        ops->gelu_forward(l->l.dev, test_act(l->x), test_act(l->pre), LR * LN);
    ops->linear_forward(l->l.dev, test_act(l->out), test_act(l->x), l->w, l->bias, LR);
    *noise += 2 * product_noise(l->c, l->W, l->x, LR, LM, LN); /* x is rounded too, after GELU */
    return weighted(l->out, l->c, LR * LM, noise);
}

static linear_loss *linear_new(ds_device *dev) {
    linear_loss *l = ds_xcalloc(1, sizeof *l);
    l->l = (loss){dev, linear_eval, 0.5, terms_of(dev, LN)};
    l->w = dev->weight_new(dev, LM, LN, 0, 1);
    test_fill(l->x, LR * LN, 1, 0);
    test_fill(l->W, LM * LN, 2, 0);
    test_fill(l->bias, LM, 3, 0);
    test_fill(l->c, LR * LM, 4, 0);
    test_fill(l->pre, LR * LN, 5, 1);
    dev->ops->weight_pack(dev, l->w, l->W, NULL);
    return l;
}

static void linear_free(linear_loss *l) {
    l->l.dev->weight_free(l->l.dev, l->w);
    ds_device_close(l->l.dev);
    free(l);
}

START_TEST(linear_gradients) {
    linear_loss *l = linear_new(open_device(_i));
    ds_device *dev = l->l.dev;
    float dx[LR * LN], dW[LM * LN] = {0}, db[LM] = {0};
    dev->ops->linear_backward_input(dev, test_act(dx), test_act(l->c), l->w, LR);
    check_gradient("dx", &l->l, l->x, dx, LR * LN);
    dev->ops->linear_f32_backward_input(dev, dx, test_act(l->c), l->w, LR);
    check_gradient("dx in f32", &l->l, l->x, dx, LR * LN);
    dev->ops->linear_backward_weight(dev, dW, db, test_act(l->c), test_act(l->x), LM, LN, LR);
    check_gradient("dW", &l->l, l->W, dW, LM * LN);
    check_gradient("db", &l->l, l->bias, db, LM);
    linear_free(l);
}
END_TEST

START_TEST(linear_gelu_gradient) {
    linear_loss *l = linear_new(open_device(_i));
    ds_device *dev = l->l.dev;
    float dpre[LR * LN];
    l->through_gelu = 1;
    l->l.h = 0x1p-4;
    dev->ops->linear_gelu_backward_input(dev, test_act(dpre), test_act(l->c), l->w,
                                         test_act(l->pre), LR);
    check_gradient("dpre", &l->l, l->pre, dpre, LR * LN);
    linear_free(l);
}
END_TEST

/* ---------------------------------------------------------------- element-wise */

enum { EN = 97 };

typedef struct {
    loss l;
    int silu;
    float x[EN], c[EN], out[EN];
} element_loss;

static double element_eval(loss *base, double *noise) {
    element_loss *l = (element_loss *)base;
    const struct ds_ops *ops = l->l.dev->ops;
    if (l->silu)
        ops->silu_forward(l->l.dev, l->out, l->x, EN);
    else
        ops->gelu_forward(l->l.dev, test_act(l->out), test_act(l->x), EN);
    double sum = weighted(l->out, l->c, EN, noise);
    for (int i = 0; i < EN; i++) /* 1 + tanh, 1 / (1 + exp): rounded relative to 1, times x */
        *noise += fabs((double)l->c[i] * l->x[i]);
    return sum;
}

START_TEST(element_gradients) {
    ds_device *dev = open_device(_i);
    element_loss *l = ds_xcalloc(1, sizeof *l);
    float dx[EN];
    l->l = (loss){dev, element_eval, 0x1p-4, terms_of(dev, 1)};
    test_fill(l->x, EN, 6, 2); /* (-4,4): both tails and the middle */
    test_fill(l->c, EN, 7, 0);
    dev->ops->gelu_backward(dev, test_act(dx), test_act(l->c), test_act(l->x), EN);
    check_gradient("gelu", &l->l, l->x, dx, EN);
    l->silu = 1;
    dev->ops->silu_backward(dev, dx, l->c, l->x, EN);
    check_gradient("silu", &l->l, l->x, dx, EN);
    ds_device_close(dev);
    free(l);
}
END_TEST

/* ---------------------------------------------------------------- adaLN and gate */

enum { NB = 2, NT = 5, ND = 21, NS = 6 * ND, NR = NB * NT };

typedef struct {
    loss l;
    int gate;
    float x[NR * ND], y[NR * ND], mod[NB * NS], c[NR * ND], out[NR * ND], mean[NR], rstd[NR];
} norm_loss;

static double norm_eval(loss *base, double *noise) {
    norm_loss *l = (norm_loss *)base;
    const struct ds_ops *ops = l->l.dev->ops;
    if (l->gate)
        ops->gate_forward(l->l.dev, l->out, l->x, l->mod + ND, NS, test_act(l->y), NB, NT, ND);
    else
        ops->adaln_forward(l->l.dev, test_act(l->out), l->mean, l->rstd, l->x, l->mod, l->mod + ND,
                           NS, 1e-6f, NB, NT, ND);
    double sum = weighted(l->out, l->c, NR * ND, noise);
    for (int i = 0; i < NR * ND; i++) /* norm is at most sqrt(D), 1 + scale at most 2, shift 1 */
        *noise += 4 * fabs((double)l->c[i]);
    return sum;
}

static norm_loss *norm_new(int device) {
    ds_device *dev = open_device(device);
    norm_loss *l = ds_xcalloc(1, sizeof *l);
    l->l = (loss){dev, norm_eval, 0x1p-5, terms_of(dev, 4)};
    test_fill(l->x, NR * ND, 8, 1);
    test_fill(l->y, NR * ND, 9, 0);
    test_fill(l->mod, NB * NS, 10, 0);
    test_fill(l->c, NR * ND, 11, 0);
    return l;
}

/* Rows of `stride` floats, D of them used, as one array. */
static void gather(float *out, const float *rows, int B, int stride, int D) {
    for (int b = 0; b < B; b++)
        memcpy(out + b * D, rows + b * stride, (size_t)D * sizeof *out);
}

/* check_gradient for modulation rows: parameter and gradient of sample b are `stride` apart. */
static void check_rows(const char *what, loss *l, float *x, const float *grad, int B, int stride,
                       int D) {
    for (int b = 0; b < B; b++)
        check_gradient(what, l, x + b * stride, grad + b * stride, (size_t)D);
}

START_TEST(adaln_gradients) {
    norm_loss *l = norm_new(_i);
    ds_device *dev = l->l.dev;
    float dx[NR * ND] = {0}, dmod[NB * NS], kept[NB * NS];
    double noise = 0;
    memset(dmod, 0x7f, sizeof dmod);
    memcpy(kept, dmod, sizeof kept);
    norm_eval(&l->l, &noise);
    dev->ops->adaln_backward(dev, dx, dmod, dmod + ND, NS, test_act(l->c), l->x, l->mean, l->rstd,
                             l->mod + ND, NS, NB, NT, ND);
    check_gradient("dx", &l->l, l->x, dx, NR * ND);
    check_rows("dshift", &l->l, l->mod, dmod, NB, NS, ND);
    check_rows("dscale", &l->l, l->mod + ND, dmod + ND, NB, NS, ND);
    for (int b = 0; b < NB; b++)
        EXPECT(!memcmp(dmod + b * NS + 2 * ND, kept + b * NS + 2 * ND, 4 * ND * sizeof(float)),
               "adaln_backward writes beside its rows");
    ds_device_close(dev);
    free(l);
}
END_TEST

START_TEST(gate_gradients) {
    norm_loss *l = norm_new(_i);
    ds_device *dev = l->l.dev;
    float dy[NR * ND], dgate[NB * NS], rows[NB * ND];
    l->gate = 1;
    l->l.h = 0.5; /* bilinear */
    dev->ops->gate_backward(dev, test_act(dy), dgate, NS, l->c, test_act(l->y), l->mod + ND, NS, NB,
                            NT, ND);
    gather(rows, dgate, NB, NS, ND);
    check_gradient("dy", &l->l, l->y, dy, NR * ND);
    check_gradient("res_in", &l->l, l->x, l->c, NR * ND);
    check_rows("dgate", &l->l, l->mod + ND, dgate, NB, NS, ND);
    ds_device_close(dev);
    free(l);
}
END_TEST

/* ---------------------------------------------------------------- attention */

enum { AB = 2, AT = 5, AH = 3, AD = 21, AN = AB * AT * AD };

typedef struct {
    loss l;
    float qkv[3 * AN], c[AN], out[AN], lse[AB * AH * AT];
} attention_loss;

static double attention_eval(loss *base, double *noise) {
    attention_loss *l = (attention_loss *)base;
    l->l.dev->ops->attention_forward(l->l.dev, test_act(l->out), l->lse, test_act(l->qkv), AB, AT,
                                     AD, AH);
    double sum = weighted(l->out, l->c, AN, noise);
    /* scores |q||k| hd^-1/2 <= 4 sqrt(7) ~ 10 at most, 3 typical: their rounding moves p by as
     * much, and |v| <= 2 */
    for (int i = 0; i < AN; i++)
        *noise += 2 * 3 * fabs((double)l->c[i]);
    return sum;
}

START_TEST(attention_gradients) {
    ds_device *dev = open_device(_i);
    attention_loss *l = ds_xcalloc(1, sizeof *l);
    float *dqkv = ds_xcalloc(3 * AN, sizeof *dqkv);
    double noise = 0;
    l->l = (loss){dev, attention_eval, 0x1p-4, terms_of(dev, 0)};
    test_fill(l->qkv, 3 * AN, 12, 1);
    test_fill(l->c, AN, 13, 0);
    attention_eval(&l->l, &noise);
    dev->ops->attention_backward(dev, test_act(dqkv), test_act(l->c), test_act(l->out), l->lse,
                                 test_act(l->qkv), AB, AT, AD, AH);
    check_gradient("dqkv", &l->l, l->qkv, dqkv, 3 * AN);
    ds_device_close(dev);
    free(dqkv);
    free(l);
}
END_TEST

/* ---------------------------------------------------------------- embedding, layout: linear maps
 */

enum { XB = 4, XD = 7, XK = 3, XC = 3, XS = 6, XP = 2, XN = XB * XC * XS * XS };

typedef struct {
    loss l;
    int embedding;
    float table[XK * XD], rows[XB * XD], tokens[XN], img[XN], c[XN];
} layout_loss;

static const int indices[XB] = {2, 0, 2, -1};

static double layout_eval(loss *base, double *noise) {
    layout_loss *l = (layout_loss *)base;
    const struct ds_ops *ops = l->l.dev->ops;
    if (l->embedding) {
        memset(l->rows, 0, sizeof l->rows);
        ops->embedding_forward(l->l.dev, l->rows, l->table, indices, XB, XD);
        return weighted(l->rows, l->c, XB * XD, noise);
    }
    ops->unpatchify(l->l.dev, l->img, l->tokens, XB, XC, XS, XP);
    return weighted(l->img, l->c, XN, noise);
}

START_TEST(embedding_and_layout_gradients) {
    ds_device *dev = open_device(_i);
    layout_loss *l = ds_xcalloc(1, sizeof *l);
    float dtable[XK * XD] = {0}, dtokens[XN];
    l->l = (loss){dev, layout_eval, 0.5, 1};
    test_fill(l->table, XK * XD, 14, 0);
    test_fill(l->tokens, XN, 15, 0);
    test_fill(l->c, XN, 16, 0);
    dev->ops->unpatchify_backward(dev, test_act(dtokens), l->c, XB, XC, XS, XP);
    check_gradient("dtokens", &l->l, l->tokens, dtokens, XN);
    l->embedding = 1;
    dev->ops->embedding_backward(dev, dtable, l->c, indices, XB, XD);
    check_gradient("dtable", &l->l, l->table, dtable, XK * XD);
    for (int j = 0; j < XD; j++)
        EXPECT(dtable[XD + j] == 0, "a row that no sample uses has a gradient");
    ds_device_close(dev);
    free(l);
}
END_TEST

/* ---------------------------------------------------------------- hybrid loss */

/* Few elements per sample: the loss is a mean, and its rounding must stay small beside one term. */
enum { HB = 25, HC = 2, HN = 1, HALF = HC * HN };

typedef struct {
    loss l;
    int by_eps, learned, only; /* only: the sample whose loss is differentiated */
    float out[HB * 2 * HALF], x0[HB * HALF], noise[HB * HALF], xt[HB * HALF], coef[HB * 8];
    float mse[HB], vb[HB];
} hybrid_loss;

static const float vb_weight = 0.75f;

static void hybrid_forward(hybrid_loss *l, float *dout) {
    l->l.dev->ops->diffusion_loss(l->l.dev, l->mse, l->vb, dout, l->out, l->x0, l->noise, l->xt,
                                  l->coef, l->learned, vb_weight, HB, HC, HN);
}

/* By eps the variational bound is a constant (detached): only the squared error counts. */
static double hybrid_eval(loss *base, double *noise) {
    hybrid_loss *l = (hybrid_loss *)base;
    double sum;
    hybrid_forward(l, NULL);
    int b = l->only;
    double weight = l->coef[8 * b + 7];
    sum = weight * (l->by_eps ? (double)l->mse[b] : (double)vb_weight * l->vb[b]);
    *noise += 4 * fabs(sum);
    return sum;
}

START_TEST(hybrid_loss_gradients) {
    static const int steps[5] = {0, 1, 37, 500, 999};
    ds_device *dev = open_device(_i);
    hybrid_loss *l = ds_xcalloc(1, sizeof *l);
    float *dout = ds_xmalloc(HB * 2 * HALF * sizeof *dout);
    l->l = (loss){dev, hybrid_eval, 0x1p-5, terms_of(dev, 24)};
    l->learned = 1;
    test_fill(l->out, HB * 2 * HALF, 17, 0);
    test_fill(l->x0, HB * HALF, 18, 0);
    test_fill(l->noise, HB * HALF, 19, 1);
    for (int b = 0; b < HB; b++) {
        float *coef = l->coef + 8 * b;
        test_schedule(coef, steps[b % 5], 0.125f * (float)(b + 1));
        /* the range of log sigma^2 shrinks to 1e-5 at t = 999, too small for differences: widen it
         */
        coef[1] -= steps[b % 5] > 1 ? 1 : 0;
        /* the open ends of the first step, and an error of prediction of the size that occurs there
         */
        for (int i = 0; b % 5 == 0 && i < HALF; i++) {
            float *eps = l->out + (size_t)b * 2 * HALF + i;
            if (b % 3 != 2)
                l->x0[b * HALF + i] = b % 3 ? -1.0f : 1.0f;
            *eps = l->noise[b * HALF + i] + 0.5f * *eps;
        }
        for (int i = b * HALF; i < (b + 1) * HALF; i++)
            l->xt[i] = (l->x0[i] + coef[5] * l->noise[i]) / coef[4];
    }
    hybrid_forward(l, dout);
    for (int b = 0; b < HB; b++) {
        float *eps = l->out + (size_t)b * 2 * HALF, *deps = dout + (size_t)b * 2 * HALF;
        l->only = b;
        l->by_eps = 1; /* a parabola: any h will do */
        l->l.h = 0.5;
        check_gradient("d eps", &l->l, eps, deps, HALF);
        l->by_eps = 0;
        l->l.h = 0x1p-4;
        check_gradient("d v", &l->l, eps + HALF, deps + HALF, HALF);
    }
    l->learned = 0; /* (B,C,n): the first half of the buffer */
    l->by_eps = 1;
    l->l.h = 0.5;
    hybrid_forward(l, dout);
    for (int b = 0; b < HB; b++) {
        l->only = b;
        check_gradient("d eps, fixed variance", &l->l, l->out + b * HALF, dout + b * HALF, HALF);
    }
    for (int b = 0; b < HB; b++)
        EXPECT(l->vb[b] == 0, "vb without learned variance");
    ds_device_close(dev);
    free(dout);
    free(l);
}
END_TEST

/* ---------------------------------------------------------------- Affiner through the folded layer
 */

enum { FT = 7, FM = 12, FN = 8, FR = 3, FSEGS = 3 };

typedef struct {
    loss l;
    ds_affiner ad;
    ds_weight *w;
    float W[FM * FN], bias[FM], x[FT * FN], c[FT * FM], y[FT * FM], folded[FM];
    float a[FM], b[FM], s[FSEGS], U[FM * FR], V[FSEGS * FR * FN];
} affiner_loss;

typedef struct {
    float da[FM], db[FM], ds[FSEGS], dU[FM * FR], dV[FSEGS * FR * FN], dx[FT * FN];
} affiner_result;

static double affiner_eval(loss *base, double *noise) {
    affiner_loss *l = (affiner_loss *)base;
    ds_device *dev = l->l.dev;
    dev->ops->weight_pack(dev, l->w, l->W, &l->ad);
    dev->ops->bias_fold(dev, l->folded, l->bias, l->W, &l->ad);
    dev->ops->linear_forward(dev, test_act(l->y), test_act(l->x), l->w, l->folded, FT);
    if (l->ad.phi_relu)
        dev->ops->lowrank_forward(dev, test_act(l->y), test_act(l->x), &l->ad, FT);
    double sum = weighted(l->y, l->c, FT * FM, noise);
    /* W' = a W + s U V is rounded once: |a| < 3, |s| < 3, r = 3 */
    *noise += 3 * product_noise(l->c, l->W, l->x, FT, FM, FN);
    for (int i = 0; i < FT * FM; i++)
        *noise += 3 * FR * FN * 0.25 * fabs((double)l->c[i]);
    return sum;
}

/* Variants of the loop test, bit by bit. */
enum { SIDE_IN = 1, SEGS3 = 2, RELU = 4, SMALL_A = 8, VARIANTS = 16 };

static affiner_loss *affiner_new(int device, int variant) {
    ds_device *dev = open_device(device);
    affiner_loss *l = ds_xcalloc(1, sizeof *l);
    l->l = (loss){dev, affiner_eval, 2, terms_of(dev, FN + FR)};
    l->w = dev->weight_new(dev, FM, FN, 0, 1);
    test_fill(l->W, FM * FN, 20, 0);
    test_fill(l->bias, FM, 21, 0);
    test_fill(l->x, FT * FN, 22, 0);
    test_fill(l->c, FT * FM, 23, 0);
    test_fill(l->a, FM, 24, -2);
    test_fill(l->b, FM, 25, 0);
    test_fill(l->s, FSEGS, 26, 0);
    test_fill(l->U, FM * FR, 27, 0);
    test_fill(l->V, FSEGS * FR * FN, 28, variant & RELU ? -4 : 0);
    for (int i = 0; i < FM; i++)
        l->a[i] = 1 + l->a[i];
    if (variant & SMALL_A) { /* zero, below and around the switch at 1/64, both signs */
        static const float small[] = {0, 0x1p-20f, -0x1p-8f, 0x1.8p-6f, -0x1p-6f, 0x1.fp-7f};
        memcpy(l->a + 1, small, sizeof small);
    }
    for (int g = 0; g < FSEGS; g++)
        l->s[g] += l->s[g] < 0 ? -0.5f : 0.5f; /* away from zero: s = 0 tests nothing of U and V */
    /* ReLU has a kink: column 0 keeps every V x away from it (|V x| >= 1 - 7/16), with a sign
     * that depends on row and unit, and 4 h |x| or 4 h |V| cannot cross it. */
    for (int k = 0; variant & RELU && k < FSEGS * FR; k++)
        l->V[k * FN] = k % 2 ? -1 : 1;
    for (int t = 0; variant & RELU && t < FT; t++)
        l->x[t * FN] = t % 3 ? 1 : -1;
    l->ad = (ds_affiner){.m = FM,
                         .n = FN,
                         .r = FR,
                         .segs = variant & SEGS3 ? FSEGS : 1,
                         .side_in = variant & SIDE_IN,
                         .phi_relu = (variant & RELU) != 0,
                         .a = l->a,
                         .b = l->b,
                         .s = l->s,
                         .U = l->U,
                         .V = l->V};
    return l;
}

static void affiner_free(affiner_loss *l) {
    l->l.dev->weight_free(l->l.dev, l->w);
    ds_device_close(l->l.dev);
    free(l);
}

/* Adds to the gradients that `g` names; dx gets the whole input gradient. */
static void affiner_gradients(affiner_loss *l, const ds_affiner_grad *g, float *dx) {
    ds_device *dev = l->l.dev;
    double noise = 0;
    affiner_eval(&l->l, &noise);
    dev->ops->linear_backward_input(dev, test_act(dx), test_act(l->c), l->w, FT);
    dev->ops->affiner_backward(dev, g, &l->ad, test_act(l->c), test_act(l->y), test_act(l->x),
                               test_act(dx), l->ad.phi_relu ? test_act(dx) : NULL, l->W, l->bias,
                               FT);
}

static ds_affiner_grad all_of(affiner_result *r) {
    return (ds_affiner_grad){r->da, r->db, r->ds, r->dU, r->dV};
}

START_TEST(affiner_folded_gradients) {
    affiner_loss *l = affiner_new(_i % DEVICES, _i / DEVICES);
    affiner_result r = {0};
    ds_affiner_grad g = all_of(&r);
    size_t side = l->ad.side_in ? FN : FM, hidden = (size_t)l->ad.segs * FR;
    affiner_gradients(l, &g, r.dx);
    check_gradient("da", &l->l, l->a, r.da, side);
    check_gradient("db", &l->l, l->b, r.db, side);
    check_gradient("ds", &l->l, l->s, r.ds, (size_t)l->ad.segs);
    check_gradient("dU", &l->l, l->U, r.dU, FM * FR);
    if (l->ad.phi_relu)
        l->l.h = 0x1p-3; /* the kink */
    check_gradient("dV", &l->l, l->V, r.dV, hidden * FN);
    check_gradient("dx", &l->l, l->x, r.dx, FT * FN);
    affiner_free(l);
}
END_TEST

/* Every member of ds_affiner_grad may be NULL: the others keep their bytes.  Gradients accumulate.
 */
START_TEST(affiner_frozen_members) {
    affiner_loss *l = affiner_new(_i % DEVICES, _i / DEVICES);
    affiner_result all = {0}, twice = {0};
    ds_affiner_grad g = all_of(&all);
    affiner_gradients(l, &g, all.dx);
    for (int frozen = 0; frozen < 5; frozen++) {
        affiner_result r = {0};
        float *parts[5] = {r.da, r.db, r.ds, r.dU, r.dV};
        const float *whole[5] = {all.da, all.db, all.ds, all.dU, all.dV};
        const size_t bytes[5] = {sizeof r.da, sizeof r.db, sizeof r.ds, sizeof r.dU, sizeof r.dV};
        ds_affiner_grad some = all_of(&r);
        float **member[5] = {&some.da, &some.db, &some.ds, &some.dU, &some.dV};
        *member[frozen] = NULL;
        affiner_gradients(l, &some, r.dx);
        for (int i = 0; i < 5; i++)
            EXPECT(i == frozen || !memcmp(parts[i], whole[i], bytes[i]),
                   "freezing member %d changes member %d", frozen, i);
        EXPECT(!memcmp(r.dx, all.dx, sizeof r.dx), "freezing member %d changes dx", frozen);
    }
    g = all_of(&twice);
    affiner_gradients(l, &g, twice.dx);
    affiner_gradients(l, &g, twice.dx);
    for (int i = 0; i < FM * FR; i++)
        EXPECT(twice.dU[i] == 2 * all.dU[i], "dU does not accumulate");
    for (int i = 0; i < (l->ad.side_in ? FN : FM); i++) {
        EXPECT(twice.da[i] == 2 * all.da[i], "da does not accumulate");
        EXPECT(twice.db[i] == 2 * all.db[i], "db does not accumulate");
    }
    for (int i = 0; i < l->ad.segs; i++)
        EXPECT(twice.ds[i] == 2 * all.ds[i], "ds does not accumulate");
    for (int i = 0; i < l->ad.segs * FR * FN; i++)
        EXPECT(twice.dV[i] == 2 * all.dV[i], "dV does not accumulate");
    affiner_free(l);
}
END_TEST

/* a, b NULL or r = 0: the layer without that part, and no gradient for it. */
START_TEST(affiner_missing_parts) {
    affiner_loss *l = affiner_new(_i % DEVICES, _i / DEVICES & (SIDE_IN | SEGS3));
    affiner_result r = {0}, none = {0};
    ds_affiner_grad g = all_of(&r);
    l->ad.a = l->ad.b = NULL;
    affiner_gradients(l, &g, r.dx);
    EXPECT(!memcmp(r.da, none.da, sizeof r.da) && !memcmp(r.db, none.db, sizeof r.db),
           "a gradient for a or b where there is none");
    check_gradient("dV without a, b", &l->l, l->V, r.dV, (size_t)l->ad.segs * FR * FN);
    check_gradient("dU without a, b", &l->l, l->U, r.dU, FM * FR);
    memset(&r, 0, sizeof r);
    l->ad.a = l->a;
    l->ad.b = l->b;
    l->ad.r = 0;
    l->ad.s = l->ad.U = l->ad.V = NULL;
    g = (ds_affiner_grad){.da = r.da, .db = r.db};
    affiner_gradients(l, &g, r.dx);
    check_gradient("da without branch", &l->l, l->a, r.da, l->ad.side_in ? FN : FM);
    check_gradient("db without branch", &l->l, l->b, r.db, l->ad.side_in ? FN : FM);
    check_gradient("dx without branch", &l->l, l->x, r.dx, FT * FN);
    affiner_free(l);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, linear_gradients, 0, DEVICES);
    tcase_add_loop_test(tc, linear_gelu_gradient, 0, DEVICES);
    tcase_add_loop_test(tc, element_gradients, 0, DEVICES);
    tcase_add_loop_test(tc, adaln_gradients, 0, DEVICES);
    tcase_add_loop_test(tc, gate_gradients, 0, DEVICES);
    tcase_add_loop_test(tc, attention_gradients, 0, DEVICES);
    tcase_add_loop_test(tc, embedding_and_layout_gradients, 0, DEVICES);
    tcase_add_loop_test(tc, hybrid_loss_gradients, 0, DEVICES);
    tcase_add_loop_test(tc, affiner_folded_gradients, 0, DEVICES * VARIANTS);
    tcase_add_loop_test(tc, affiner_frozen_members, 0, DEVICES * VARIANTS);
    tcase_add_loop_test(tc, affiner_missing_parts, 0, DEVICES * 4);
}

int main(void) { return ds_test_main("kernels_gradients", register_cases); }
