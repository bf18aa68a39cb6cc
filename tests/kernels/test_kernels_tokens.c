/* tests/kernels/test_kernels_tokens.c - normalisation, gates and attention of every kernel set against the
 * reference.
 *
 * A sum over D or T numbers is expected in at least 8 lanes: D/8 additions in a row and a few to
 * bring the lanes together, terms(D) roundings of partial sums no larger than the sum of absolute
 * values.
 */
#include "tests/fixtures/kernels_ladder.h"

static double terms(int n) { return n / 8 + 12; }

/* ---------------------------------------------------------------- adaLN and gate */

typedef struct {
    int T, D, stride, rows;
    float *x, *mod, *shift, *scale;
    float eps;
} norm_input;

/* Rows of modulations lie `stride` apart, as in a model with other modulations between. */
static norm_input norm_of(run *r) {
    norm_input in = {.T = r->k->T, .D = r->k->D, .rows = r->B * r->k->T};
    in.stride = 6 * in.D + 1;
    in.eps = in.T % 2 ? 1e-2f : 1e-6f;
    in.x = numbers(r, (size_t)(in.T * in.D), 1, 2);
    for (int i = 0, at = r->first * in.T * in.D; i < in.rows * in.D; i++) /* a mean, and all bits */
        in.x[i] = in.x[i] * (1 + ldexpf((float)((at + i) % 4001), -24)) + 1.5f;
    in.mod = numbers(r, (size_t)in.stride, 2, 0);
    in.shift = in.mod + in.D;
    in.scale = in.mod + 3 * in.D;
    return in;
}

/* Of one row: largest |x|, mean |x|, 1/sigma and the normalised numbers, in double. */
static double row_moments(const float *x, int D, double eps, double *mean, double *norm) {
    double var = 0, mu = 0;
    for (int j = 0; j < D; j++)
        mu += x[j] / (double)D;
    for (int j = 0; j < D; j++)
        var += (x[j] - mu) * (x[j] - mu) / D;
    double rstd = 1 / sqrt(var + eps);
    for (int j = 0; j < D; j++)
        norm[j] = (x[j] - mu) * rstd;
    *mean = mu;
    return rstd;
}

static double mean_abs(const float *x, int D) {
    double sum = 0;
    for (int j = 0; j < D; j++)
        sum += fabs((double)x[j]) / D;
    return sum;
}

static void adaln_forward(run *r) {
    norm_input in = norm_of(r);
    int T = in.T, D = in.D;
    ds_act *out = out_act(r, "out", (size_t)(T * D)),
           *alone = out_act(r, "out alone", (size_t)(T * D));
    float *mean = out_f32(r, "mean", (size_t)T), *rstd = out_f32(r, "rstd", (size_t)T);
    const struct ds_ops *ops = r->dev->ops;
    ops->adaln_forward(r->dev, out, mean, rstd, in.x, in.shift, in.scale, in.stride, in.eps, r->B,
                       T, D);
    ops->adaln_forward(r->dev, alone, NULL, NULL, in.x, in.shift, in.scale, in.stride, in.eps, r->B,
                       T, D);
    double *norm = keep(r, ds_xcalloc((size_t)D, sizeof *norm));
    for (int t = 0; r->ref && t < in.rows; t++) {
        const float *x = in.x + t * D, *shift = in.shift + t / T * in.stride;
        const float *scale = in.scale + t / T * in.stride;
        double mu, inv = row_moments(x, D, (double)in.eps, &mu, norm);
        double e_mean = terms(D) * EPS32 * mean_abs(x, D);
        double spread =
            D > 1 ? terms(D) * EPS32 + 2 * e_mean * inv : 0; /* relative error of 1/sigma */
        tolerate(r, 2, (size_t)t, e_mean, e_mean);
        tolerate(r, 3, (size_t)t, inv * (spread + 4 * EPS32), inv * (spread + 4 * EPS32));
        for (int j = 0; j < D; j++) {
            double e_norm = e_mean * inv + fabs(norm[j]) * (spread + 6 * EPS32);
            double tol = fabs(1 + (double)scale[j]) * e_norm +
                         2 * EPS32 * (fabs(norm[j]) * 2 + fabs((double)shift[j]));
            tolerate(r, 0, (size_t)(t * D + j), tol, tol);
            tolerate(r, 1, (size_t)(t * D + j), tol, tol);
        }
    }
}

/* One row of dx (+=) rstd (q - mean q - norm mean(q norm)). */
static void tolerate_dx(run *r, const norm_input *in, const float *g, int t, double rstd,
                        const double *norm) {
    int D = in->D;
    const float *scale = in->scale + t / in->T * in->stride;
    double q = 0, qn = 0;
    for (int j = 0; j < D; j++) {
        double term = fabs(g[j] * (1 + (double)scale[j])) / D;
        q += term;
        qn += term * fabs(norm[j]);
    }
    for (int j = 0; j < D; j++) {
        double own = fabs(g[j] * (1 + (double)scale[j]));
        double tol = rstd * EPS32 * (6 * own + terms(D) * (q + fabs(norm[j]) * qn)) + 8 * EPS32;
        tolerate(r, 0, (size_t)(t * D + j), tol, tol);
    }
}

static void adaln_backward(run *r) {
    norm_input in = norm_of(r);
    int T = in.T, D = in.D, dstride = 2 * D + 3;
    float *g = numbers(r, (size_t)(T * D), 3, 0);
    float *mean = keep(r, ds_xcalloc((size_t)in.rows, 4)),
          *rstd = keep(r, ds_xcalloc((size_t)in.rows, 4));
    double *norm = keep(r, ds_xcalloc((size_t)(in.rows * D), sizeof *norm));
    for (int t = 0; t < in.rows; t++) {
        double mu, inv = row_moments(in.x + t * D, D, (double)in.eps, &mu, norm + t * D);
        mean[t] = (float)mu;
        rstd[t] = (float)inv;
    }
    ds_act *dout = act_of(r, g, (size_t)(in.rows * D));
    float *dx = out_new(r, "dx", (size_t)(T * D), 0, 0, ADDED, 4, 1)->data;
    float *dmod = out_f32(r, "dshift and dscale", (size_t)dstride);
    r->dev->ops->adaln_backward(r->dev, dx, dmod, dmod + D, dstride, dout, in.x, mean, rstd,
                                in.scale, in.stride, r->B, T, D);
    for (int t = 0; r->ref && t < in.rows; t++)
        tolerate_dx(r, &in, g + t * D, t, rstd[t], norm + t * D);
    for (int i = 0; r->ref && i < r->B * D; i++) {
        int b = i / D, j = i % D;
        double shift = 0, scale = 0;
        for (int t = b * T; t < (b + 1) * T; t++) {
            shift += fabs((double)g[t * D + j]);
            /* x - mean is rounded before it is multiplied */
            scale += fabs((double)g[t * D + j]) * (fabs(norm[t * D + j]));
        }
        tolerate(r, 1, (size_t)(b * dstride + j), T * EPS32 * shift, T * EPS32 * shift);
        tolerate(r, 1, (size_t)(b * dstride + D + j), (T + 5) * EPS32 * scale,
                 (T + 5) * EPS32 * scale);
    }
}

static void gate(run *r) {
    norm_input in = norm_of(r);
    int T = in.T, D = in.D, dstride = 2 * D + 1;
    float *y = numbers(r, (size_t)(T * D), 5, 1), *dx1 = numbers(r, (size_t)(T * D), 6, 0);
    ds_act *y_act = act_of(r, y, (size_t)(in.rows * D)), *dy = out_act(r, "dy", (size_t)(T * D));
    float *dgate = out_f32(r, "dgate", (size_t)dstride),
          *res = out_f32(r, "res_out", (size_t)(T * D));
    float *inside = out_new(r, "res in place", (size_t)(T * D), 0, 0, ADDED, 6, 0)->data;
    const struct ds_ops *ops = r->dev->ops;
    ops->gate_backward(r->dev, dy, dgate, dstride, dx1, y_act, in.scale, in.stride, r->B, T, D);
    ops->gate_forward(r->dev, res, in.x, in.scale, in.stride, y_act, r->B, T, D);
    ops->gate_forward(r->dev, inside, inside, in.scale, in.stride, y_act, r->B, T, D);
    for (int i = 0; r->ref && i < in.rows * D;
         i++) { /* dy and dgate are sums of exact products: exact */
        double g = fabs((double)in.scale[i / D / T * in.stride + i % D] * y[i]);
        tolerate(r, 2, (size_t)i, EPS32 * g, EPS32 * g);
        tolerate(r, 3, (size_t)i, EPS32 * g, EPS32 * g);
    }
}

/* ---------------------------------------------------------------- attention
 * q, k, v, dout are exact in bf16, their products and sums in f32.  Rounded are, in this order:
 *   score    scale, and the product: 3 U |s|; exp turns that into a relative error of p
 *   p        terms(T) U from the sum of the row; a bf16 device rounds P to bf16 once: H
 *   out      n U of a sum of T products
 * e_p is the relative error of p. */

typedef struct {
    int T, hd;
    const float *q, *k, *v; /* rows 3D apart */
    size_t ld;
} one_head;

static one_head head_of(const float *qkv, const shape *k, int b, int h) {
    int hd = k->D / k->heads;
    const float *base = qkv + (size_t)(b * k->T) * 3 * (size_t)k->D + h * hd;
    return (one_head){k->T, hd, base, base + k->D, base + 2 * k->D, 3 * (size_t)k->D};
}

static double inner(const float *a, const float *b, int n, int absolute) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += absolute ? fabs((double)a[i] * b[i]) : (double)a[i] * b[i];
    return sum;
}

/* Probabilities of row i, and the largest |score|. */
static double probabilities(double *p, const one_head *a, int i) {
    double sum = 0, most = 0;
    for (int j = 0; j < a->T; j++) {
        double s =
            inner(a->q + (size_t)i * a->ld, a->k + (size_t)j * a->ld, a->hd, 0) / sqrt(a->hd);
        most = fmax(most, fabs(s));
        sum += p[j] = exp(s);
    }
    for (int j = 0; j < a->T; j++)
        p[j] /= sum;
    return most;
}

/* Both the score and the maximum that is taken off; exp itself 4 U; the sum of the row. */
static double error_of_p(double most, int T) { return (6 * most + 8 + terms(T)) * EPS32; }

static float *random_qkv(run *r) { return numbers(r, (size_t)(r->k->T * 3 * r->k->D), 7, 1); }

static void attention_forward(run *r) {
    int T = r->k->T, D = r->k->D, heads = r->k->heads;
    float *qkv = random_qkv(r);
    ds_act *in = act_of(r, qkv, (size_t)(r->B * T * 3 * D)),
           *out = out_act(r, "out", (size_t)(T * D));
    float *lse = out_f32(r, "lse", (size_t)(heads * T));
    ds_act *alone = out_act(r, "out without lse", (size_t)(T * D));
    r->dev->ops->attention_forward(r->dev, out, lse, in, r->B, T, D, heads);
    r->dev->ops->attention_forward(r->dev, alone, NULL, in, r->B, T, D, heads);
    double *p = keep(r, ds_xcalloc((size_t)T, sizeof *p));
    for (int bh = 0; r->ref && bh < r->B * heads; bh++) {
        one_head a = head_of(qkv, r->k, bh / heads, bh % heads);
        for (int i = 0; i < T; i++) {
            double most = probabilities(p, &a, i), e_p = error_of_p(most, T);
            tolerate(r, 1, (size_t)(bh * T + i), e_p + 2 * EPS32 * (most + log(T + 1.0)),
                     e_p + 2 * EPS32 * (most + log(T + 1.0)));
            for (int d = 0; d < a.hd; d++) {
                double sum = 0;
                for (int j = 0; j < T; j++)
                    sum += p[j] * fabs((double)a.v[(size_t)j * a.ld + (size_t)d]);
                size_t at = (size_t)((bh / heads * T + i) * D + bh % heads * a.hd + d);
                double t32 = (e_p + (T + 2) * EPS32) * sum, t16 = t32 + EPS16 * sum;
                tolerate(r, 0, at, t32, t16);
                tolerate(r, 2, at, t32, t16);
            }
        }
    }
}

/* Adds the tolerances of the rows of one head; t is dqkv (3 parts of T x hd), t32 then t16. */
static void head_tolerance(double *t, const one_head *a, const float *dout, const float *out, int D,
                           double *p) {
    int T = a->T, hd = a->hd;
    size_t part = (size_t)(T * hd), half = 3 * part;
    double scale = 1 / sqrt(hd);
    for (int i = 0; i < T; i++) {
        const float *g = dout + i * D;
        double most = probabilities(p, a, i), e_p = error_of_p(most, T),
               delta = inner(g, out + i * D, hd, 0);
        double delta_terms = inner(g, out + i * D, hd, 1);
        for (int j = 0; j < T; j++) {
            const float *k = a->k + (size_t)j * a->ld, *q = a->q + (size_t)i * a->ld;
            double dp = inner(g, a->v + (size_t)j * a->ld, hd, 0),
                   ds = fabs(scale * p[j] * (dp - delta));
            /* delta = <dout, out> with out as it was stored: U or H of each term */
            double e32 =
                e_p * ds + scale * p[j] * EPS32 * (3 * fabs(dp) + (terms(hd) + 2) * delta_terms);
            double e16 = e32 + EPS16 * (ds + scale * p[j] * delta_terms);
            double add = (T + 2) * EPS32;
            for (int d = 0; d < hd; d++) {
                size_t qi = (size_t)(i * hd + d), kj = part + (size_t)(j * hd + d), vj = part + kj;
                t[qi] += (e32 + add * ds) * fabs((double)k[d]);
                t[kj] += (e32 + add * ds) * fabs((double)q[d]);
                t[vj] += (e_p + add) * p[j] * fabs((double)g[d]);
                t[half + qi] += (e16 + add * ds) * fabs((double)k[d]);
                t[half + kj] += (e16 + add * ds) * fabs((double)q[d]);
                t[half + vj] += (e_p + add + EPS16) * p[j] * fabs((double)g[d]);
            }
        }
    }
}

static void attention_backward(run *r) {
    int T = r->k->T, D = r->k->D, heads = r->k->heads, hd = D / heads;
    float *qkv = random_qkv(r), *g = numbers(r, (size_t)(T * D), 8, 0);
    size_t n = (size_t)(r->B * T * D);
    float *out = keep(r, ds_xcalloc(n, sizeof *out)),
          *lse = keep(r, ds_xcalloc((size_t)(r->B * heads * T), 4));
    ds_device *ref = NULL; /* out and lse are inputs: the same for every device */
    ck_assert_int_eq(ds_device_open_ref(&ref, NULL, NULL), 0);
    ref->ops->attention_forward(ref, test_act(out), lse, test_act(qkv), r->B, T, D, heads);
    ds_device_close(ref);
    ds_act *dqkv = out_act(r, "dqkv", (size_t)(T * 3 * D));
    r->dev->ops->attention_backward(r->dev, dqkv, act_of(r, g, n), act_rounded(r, out, n), lse,
                                    act_of(r, qkv, 3 * n), r->B, T, D, heads);
    if (!r->ref)
        return;
    double *p = keep(r, ds_xcalloc((size_t)T, sizeof *p));
    double *t = keep(r, ds_xcalloc((size_t)(6 * T * hd), sizeof *t));
    for (int bh = 0; bh < r->B * heads; bh++) {
        one_head a = head_of(qkv, r->k, bh / heads, bh % heads);
        int row = bh / heads * T, column = bh % heads * hd;
        memset(t, 0, (size_t)(6 * T * hd) * sizeof *t);
        head_tolerance(t, &a, g + row * D + column, out + row * D + column, D, p);
        for (int i = 0; i < 3 * T * hd; i++) {
            int part = i / (T * hd), token = i % (T * hd) / hd, d = i % hd;
            size_t at = (size_t)(((row + token) * 3 + part) * D + column + d);
            tolerate(r, 0, at, t[i], t[3 * T * hd + i]);
        }
    }
}

#define DS_NORM_CASE(use, label, b, t, d) KEEP_##use({.name = label, .B = b, .T = t, .D = d}, )
static const shape norms[] = {
#include "tests/cases.def"
};
#define DS_ATTENTION_CASE(use, label, b, t, d, h)                                                  \
    KEEP_##use({.name = label, .B = b, .T = t, .D = d, .heads = h}, )
static const shape attentions[] = {
#include "tests/cases.def"
};
static const rung norm_rungs[] = {{adaln_forward, 1}, {adaln_backward, 1}, {gate, 1}};
static const rung attention_rungs[] = {{attention_forward, 1}, {attention_backward, 1}};

START_TEST(norm) {
    const rung *g = &norm_rungs[_i / COUNT(norms)];
    ladder(&norms[_i % COUNT(norms)], g->body, g->alone);
}
END_TEST

START_TEST(attention) {
    const rung *g = &attention_rungs[_i / COUNT(attentions)];
    ladder(&attentions[_i % COUNT(attentions)], g->body, g->alone);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, norm, 0, COUNT(norms) * COUNT(norm_rungs));
    tcase_add_loop_test(tc, attention, 0, COUNT(attentions) * COUNT(attention_rungs));
}

int main(void) { return ds_test_main("kernels_tokens", register_cases); }
