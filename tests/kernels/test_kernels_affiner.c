/* tests/kernels/test_kernels_affiner.c - adapters of every kernel set against the reference.
 *
 * x, dy, W, U, V are k 2^e with |k| <= 127 (see test_kernels_linear.c), so V x, U^T dy and sum dy
 * are exact in f32; a, b, s have more bits.  What is lost after that is counted in U; in H only
 * what ops.def makes an activation: y and dx, which the cheap routes to da read, and the packed
 * weight W'.
 */
#include "tests/fixtures/kernels_ladder.h"

/* An adapter with its arrays in the run. */
typedef struct {
    ds_affiner ad;
    float *W, *bias;
} layer;

static layer layer_of(run *r, uint64_t seed) {
    const shape *k = r->k;
    size_t m = (size_t)k->m, n = (size_t)k->n, side = k->side_in ? n : m,
           hidden = (size_t)(k->segs * k->r);
    float *a = fixed(r, side, seed + 1, -2), *s = fixed(r, (size_t)k->segs, seed + 2, 0);
    for (size_t i = 0; i < side; i++)
        a[i] = 1 + a[i];
    if (k->small_a) { /* zero, below, around and above the switch at 1/64, both signs */
        static const float small[] = {0, 0x1p-20f, -0x1p-8f, 0x1.8p-6f, -0x1p-6f, 0x1.fp-7f};
        for (size_t i = 0; i < side; i += 5)
            a[i] = small[i / 5 % 6];
    }
    for (int g = 0; g < k->segs; g++)
        s[g] += s[g] < 0 ? -0.5f : 0.5f;
    int e = -(int)lround(log2((double)n) / 2);
    return (layer){{k->m, k->n, k->r, k->segs, k->side_in, k->relu, a, fixed(r, side, seed + 3, 0),
                    k->r ? s : NULL, k->r ? fixed(r, m * (size_t)k->r, seed + 4, 0) : NULL,
                    k->r ? fixed(r, hidden * n, seed + 5, e) : NULL},
                   fixed(r, m * n, 100, e),
                   fixed(r, m, 101, 0)};
}

/* h (segs*r) of a row and z = V x before phi. */
static void hidden(double *h, const ds_affiner *ad, const float *x) {
    for (int k = 0; k < ad->segs * ad->r; k++) {
        h[k] = 0;
        for (int j = 0; j < ad->n; j++)
            h[k] += (double)ad->V[(size_t)k * (size_t)ad->n + (size_t)j] * x[j];
        if (ad->phi_relu && h[k] < 0)
            h[k] = 0;
    }
}

/* sum_k |U_ik h_k| |s|, with or without the absolute values. */
static double branch(const ds_affiner *ad, const double *h, int i, int absolute) {
    int g = i / (ad->m / ad->segs);
    double sum = 0;
    for (int k = 0; k < ad->r; k++) {
        double term =
            ad->s[g] * (double)ad->U[(size_t)i * (size_t)ad->r + (size_t)k] * h[g * ad->r + k];
        sum += absolute ? fabs(term) : term;
    }
    return sum;
}

/* ---------------------------------------------------------------- the folded layer */

/* |a W| + |s| sum |U V| and the packed |W'| of one element. */
static double element(const layer *l, int i, int j, double *packed) {
    const ds_affiner *ad = &l->ad;
    size_t at = (size_t)i * (size_t)ad->n + (size_t)j;
    double value = (double)ad->a[ad->side_in ? j : i] * l->W[at], terms = fabs(value);
    int g = i / (ad->m / ad->segs);
    for (int k = 0; k < ad->r && !ad->phi_relu; k++) {
        double term = (double)ad->s[g] * ad->U[i * ad->r + k] * ad->V[(g * ad->r + k) * ad->n + j];
        value += term;
        terms += fabs(term);
    }
    *packed = fabs(value);
    return terms;
}

static void folded(run *r) {
    layer l = layer_of(r, 200);
    int m = l.ad.m, n = l.ad.n, rows = r->B;
    float *x = numbers(r, (size_t)n, 300, 0), *dy = numbers(r, (size_t)m, 301, 0);
    ds_weight *w = weight(r, l.W, m, n, &l.ad, 0);
    float *y = out_f32(r, "y", (size_t)m), *dx = out_f32(r, "dx", (size_t)n);
    float *bias = out_new(r, "folded bias", (size_t)m, 0, 1, WRITTEN, 0, 0)->data;
    r->dev->ops->bias_fold(r->dev, bias, l.bias, l.W, &l.ad);
    r->dev->ops->linear_f32_forward(r->dev, y, act_of(r, x, (size_t)(rows * n)), w, bias, rows);
    r->dev->ops->linear_f32_backward_input(r->dev, dx, act_of(r, dy, (size_t)(rows * m)), w, rows);
    if (!r->ref)
        return;
    double *t = keep(r, ds_xcalloc((size_t)(2 * rows * (m + n)), sizeof *t));
    double *y32 = t, *y16 = y32 + rows * m, *dx32 = y16 + rows * m, *dx16 = dx32 + rows * n;
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            double packed, terms = element(&l, i, j, &packed);
            for (int k = 0; k < rows; k++) {
                double xv = fabs((double)x[k * n + j]), gv = fabs((double)dy[k * m + i]);
                y32[k * m + i] += ((l.ad.r + 3) * terms + n * packed) * xv * EPS32;
                y16[k * m + i] += EPS16 * packed * xv;
                dx32[k * n + j] += ((l.ad.r + 3) * terms + m * packed) * gv * EPS32;
                dx16[k * n + j] += EPS16 * packed * gv;
            }
        }
    for (int i = 0; i < rows * m; i++)
        tolerate(r, 0, (size_t)i, y32[i] + EPS32 * fabs((double)bias[i % m]), y16[i] + 2 * y32[i]);
    for (int i = 0; i < rows * n; i++)
        tolerate(r, 1, (size_t)i, dx32[i], dx16[i] + 2 * dx32[i]);
}

/* ---------------------------------------------------------------- unfolded forms */

/* With all bits of V in use, a bf16 device rounds V once for its product (H of each term of h), and
 * nothing else. */
static void lowrank(run *r) {
    layer l = layer_of(r, 200);
    int m = l.ad.m, n = l.ad.n, rows = r->B, rank = l.ad.r, hr = l.ad.segs * rank;
    float *x = numbers(r, (size_t)n, 300, 0), *V = keep(r, ds_xcalloc((size_t)(hr * n), sizeof *V));
    for (int i = 0; i < hr * n; i++)
        V[i] = l.ad.V[i] * (1 + ldexpf((float)(i * 40503 % 65521), -24));
    l.ad.V = V;
    ds_act *y = out_new(r, "y", (size_t)m, 1, 0, ADDED, 302, 1)->data;
    r->dev->ops->lowrank_forward(r->dev, y, act_of(r, x, (size_t)(rows * n)), &l.ad, rows);
    if (!r->ref || rank == 0)
        return;
    double *h = keep(r, ds_xcalloc((size_t)hr, sizeof *h));
    for (int t = 0; t < rows; t++) {
        for (int k = 0; k < hr; k++) {
            h[k] = 0; /* sum |V x|: what an error of h is measured by */
            for (int j = 0; j < n; j++)
                h[k] += fabs((double)V[k * n + j] * x[t * n + j]);
        }
        for (int i = 0; i < m; i++) { /* s U is rounded, r products, y added */
            double terms = branch(&l.ad, h, i, 1), t32 = (n + rank + 3) * EPS32 * terms;
            tolerate(r, 0, (size_t)(t * m + i), t32, t32 + EPS16 * terms);
        }
    }
}

enum { SETS = 3 };

/* Sets differ in everything but shape; samples take them in turn, whatever their place in the
 * batch. */
static void rows_forward(run *r) {
    layer l[SETS];
    ds_affiner sets[SETS];
    int T = r->k->T, m = r->k->m, n = r->k->n;
    int *task = keep(r, ds_xmalloc((size_t)r->B * sizeof *task));
    DS_ASSERT(!r->k->side_in);
    for (int i = 0; i < SETS; i++) {
        l[i] = layer_of(r, 200 + 10 * (uint64_t)i);
        sets[i] = l[i].ad;
    }
    sets[1].a = NULL;
    sets[2].b = NULL;
    for (int b = 0; b < r->B; b++)
        task[b] = (r->first + b + 1) % SETS;
    float *x = numbers(r, (size_t)(T * n), 300, 0);
    ds_act *x_act = act_of(r, x, (size_t)(r->B * T * n));
    ds_act *y = out_new(r, "y", (size_t)(T * m), 1, 0, ADDED, 302, 1)->data;
    float *yf = out_new(r, "y in f32", (size_t)(T * m), 0, 0, ADDED, 302, 1)->data;
    float *before = numbers(r, (size_t)(T * m), 302, 1);
    r->dev->ops->affiner_rows_forward(r->dev, y, NULL, x_act, l->bias, sets, task, r->B, T);
    r->dev->ops->affiner_rows_forward(r->dev, NULL, yf, x_act, l->bias, sets, task, r->B, T);
    double *h = keep(r, ds_xcalloc((size_t)(l->ad.segs * l->ad.r), sizeof *h));
    for (int t = 0; r->ref && t < r->B * T; t++) {
        const ds_affiner *ad = &sets[task[t / T]];
        hidden(h, ad, x + t * n);
        for (int i = 0; i < m; i++) {
            double terms = branch(ad, h, i, 1) + fabs((double)l->bias[i]) +
                           (ad->b ? fabs((double)ad->b[i]) : 0) +
                           2 * fabs((double)before[t * m + i]);
            for (int o = 0; o < 2; o++)
                tolerate(r, o, (size_t)(t * m + i), (ad->r + 6) * EPS32 * terms,
                         (ad->r + 6) * EPS32 * terms);
        }
    }
}

/* ---------------------------------------------------------------- gradients */

typedef struct {
    layer l;
    int rows;
    float *dy, *x, *y, *dx;
    double *h, *dz; /* (rows, segs*r), exact */
} problem;

/* y and dx of the layer as it is, in double; kept between the runs of one case. */
static void through_layer(problem *p, const shape *of) {
    static float *y, *dx;
    static const shape *kept;
    const ds_affiner *ad = &p->l.ad;
    int m = ad->m, n = ad->n, hr = ad->segs * ad->r;
    if (kept != of) {
        kept = of;
        free(y);
        free(dx);
        y = ds_xcalloc((size_t)(p->rows * m), sizeof *y);
        dx = ds_xcalloc((size_t)(p->rows * n), sizeof *dx);
        double *in = ds_xcalloc((size_t)n, sizeof *in);
        for (int t = 0; t < p->rows; t++) {
            const float *x = p->x + t * n, *g = p->dy + t * m;
            memset(in, 0, (size_t)n * sizeof *in);
            for (int i = 0; i < m; i++) {
                double sum = p->l.bias[i] + (ad->side_in ? 0 : (double)ad->b[i]), wx = 0;
                for (int j = 0; j < n; j++) {
                    double w = p->l.W[i * n + j], a = ad->a[ad->side_in ? j : i];
                    wx += a * w * x[j] + (ad->side_in ? w * ad->b[j] : 0);
                    in[j] += a * w * g[i];
                }
                y[t * m + i] = (float)(sum + wx + branch(ad, p->h + t * hr, i, 0));
            }
            for (int j = 0; j < n; j++) {
                for (int k = 0; k < hr && !ad->phi_relu; k++)
                    in[j] += p->dz[t * hr + k] * ad->V[k * n + j];
                dx[t * n + j] = (float)in[j];
            }
        }
        free(in);
    }
    p->y = y;
    p->dx = dx;
}

static problem problem_of(run *r) {
    problem p = {.l = layer_of(r, 200), .rows = r->B * r->k->T};
    const ds_affiner *ad = &p.l.ad;
    size_t hr = (size_t)(ad->segs * ad->r);
    p.dy = numbers(r, (size_t)(r->k->T * ad->m), 301, 0);
    p.x = numbers(r, (size_t)(r->k->T * ad->n), 300, 0);
    p.h = keep(r, ds_xcalloc((size_t)p.rows * hr, sizeof *p.h));
    p.dz = keep(r, ds_xcalloc((size_t)p.rows * hr, sizeof *p.dz));
    for (int t = 0; t < p.rows; t++) {
        double *h = p.h + (size_t)t * hr, *dz = p.dz + (size_t)t * hr;
        hidden(h, ad, p.x + t * ad->n);
        for (int i = 0; i < ad->m; i++)
            for (int k = 0, g = i / (ad->m / ad->segs); k < ad->r; k++)
                dz[g * ad->r + k] += (double)ad->s[g] * ad->U[i * ad->r + k] * p.dy[t * ad->m + i];
        for (size_t k = 0; k < hr; k++)
            if (ad->phi_relu && h[k] == 0)
                dz[k] = 0;
    }
    through_layer(&p, r->k);
    return p;
}

enum { DA, DB, DS, DU, DV, EXTRA }; /* order of the outputs */

/* U, V, s: sums over the rows of products of exact numbers. */
static void tolerate_branch(run *r, const problem *p) {
    const ds_affiner *ad = &p->l.ad;
    int m = ad->m, n = ad->n, rank = ad->r, hr = ad->segs * rank, ms = m / ad->segs;
    for (int g = 0; g < ad->segs && rank; g++) {
        double all = 0;
        for (int i = g * ms; i < (g + 1) * ms; i++)
            for (int k = 0; k < rank; k++) {
                double sum = 0;
                for (int t = 0; t < p->rows; t++)
                    sum += fabs(p->dy[t * m + i] * p->h[t * hr + g * rank + k]);
                double tol = (p->rows + 3) * EPS32 * sum * fabs((double)ad->s[g]) + 3 * EPS32;
                tolerate(r, DU, (size_t)(i * rank + k), tol, tol);
                all += sum * fabs((double)ad->U[i * rank + k]);
            }
        /* the sum over i and k is expected to lose less than that over the rows */
        tolerate(r, DS, (size_t)g, 2 * (p->rows + 3) * EPS32 * all,
                 2 * (p->rows + 3) * EPS32 * all);
    }
    for (int k = 0; k < hr; k++)
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int t = 0; t < p->rows; t++)
                sum += fabs(p->dz[t * hr + k] * p->x[t * n + j]);
            tolerate(r, DV, (size_t)(k * n + j), (p->rows + 3) * EPS32 * sum + 3 * EPS32,
                     (p->rows + 3) * EPS32 * sum + 3 * EPS32);
        }
}

/* da_i of side out: from y where |a| >= 1/64, from W and x elsewhere. */
static void tolerate_out(run *r, const problem *p, int i) {
    const ds_affiner *ad = &p->l.ad;
    double a = fabs((double)ad->a[i]), gy = 0, g = 0, gh = 0, direct = 0;
    for (int t = 0; t < p->rows; t++) {
        double gt = fabs((double)p->dy[t * ad->m + i]);
        gy += gt * fabs((double)p->y[t * ad->m + i]);
        gh += gt * branch(ad, p->h + t * ad->segs * ad->r, i, 1);
        g += gt;
        for (int j = 0; a < 1.0 / 64 && j < ad->n; j++)
            direct += gt * fabs((double)p->l.W[i * ad->n + j] * p->x[t * ad->n + j]);
    }
    double offset = fabs((double)p->l.bias[i]) + fabs((double)ad->b[i]);
    double tol = (p->rows + ad->r + 6) * EPS32 * (gy + offset * g + gh) / a,
           rounded = EPS16 * gy / a;
    if (a < 1.0 / 64) {
        tol = (p->rows + ad->n + 2) * EPS32 * direct;
        rounded = 0;
    }
    tolerate(r, DA, (size_t)i, tol + 3 * EPS32, tol + 3 * EPS32 + rounded);
}

/* da_j, db_j of side in: from dx where |a| >= 1/64. */
static void tolerate_in(run *r, const problem *p, int j) {
    const ds_affiner *ad = &p->l.ad;
    double a = fabs((double)ad->a[j]), xdx = 0, zx = 0, direct = 0, column = 0;
    for (int t = 0; t < p->rows; t++) {
        double x = fabs((double)p->x[t * ad->n + j]);
        xdx += x * fabs((double)p->dx[t * ad->n + j]);
        for (int k = 0; k < ad->segs * ad->r && !ad->phi_relu; k++)
            zx += fabs(p->dz[t * ad->segs * ad->r + k] * ad->V[k * ad->n + j]) * x;
        for (int i = 0; i < ad->m; i++) {
            double gw = fabs((double)p->dy[t * ad->m + i] * p->l.W[i * ad->n + j]);
            column += gw;
            direct += gw * x;
        }
    }
    double tol = (p->rows + ad->segs * ad->r + 6) * EPS32 * (xdx + zx) / a,
           rounded = EPS16 * xdx / a;
    if (a < 1.0 / 64) {
        tol = (p->rows + ad->m + 2) * EPS32 * direct;
        rounded = 0;
    }
    tolerate(r, DA, (size_t)j, tol + 3 * EPS32, tol + 3 * EPS32 + rounded);
    tolerate(r, DB, (size_t)j, (ad->m + 2) * EPS32 * column + 3 * EPS32,
             (ad->m + 2) * EPS32 * column + 3 * EPS32);
}

static void gradients(run *r) {
    problem p = problem_of(r);
    const ds_affiner *ad = &p.l.ad;
    size_t m = (size_t)ad->m, n = (size_t)ad->n, side = ad->side_in ? n : m, rows = (size_t)p.rows;
    size_t rank = (size_t)ad->r, hr = (size_t)ad->segs * rank;
    ds_act *dy = act_of(r, p.dy, rows * m), *x = act_of(r, p.x, rows * n);
    ds_act *y = ad->side_in ? NULL : act_rounded(r, p.y, rows * m);
    ds_act *dx = ad->side_in ? act_rounded(r, p.dx, rows * n) : NULL;
    ds_affiner_grad g = {.da = out_new(r, "da", side, 0, 1, ADDED, 400, 1)->data,
                         .db = out_new(r, "db", side, 0, 1, ADDED, 401, 1)->data,
                         .ds = out_new(r, "ds", (size_t)ad->segs, 0, 1, ADDED, 402, 1)->data,
                         .dU = out_new(r, "dU", m * rank, 0, 1, ADDED, 403, 1)->data,
                         .dV = out_new(r, "dV", hr * n, 0, 1, ADDED, 404, 1)->data};
    ds_act *extra = out_new(r, "dx_extra", rows * n, 1, 1, ADDED, 405, 1)->data;
    r->dev->ops->affiner_backward(r->dev, &g, ad, dy, y, x, dx, extra, p.l.W, p.l.bias, p.rows);
    if (!r->ref)
        return;
    tolerate_branch(r, &p);
    for (int i = 0; !ad->side_in && i < ad->m; i++)
        tolerate_out(r, &p, i);
    for (int j = 0; ad->side_in && j < ad->n; j++)
        tolerate_in(r, &p, j);
    for (size_t i = 0; ad->phi_relu && i < rows * n; i++) {
        double sum = 0;
        for (size_t k = 0; k < hr; k++)
            sum += fabs(p.dz[i / n * hr + k] * ad->V[k * n + i % n]);
        tolerate(r, EXTRA, i, (double)(hr + 3) * EPS32 * sum, (double)(hr + 3) * EPS32 * sum);
    }
}

#define CASE(label, b, t, rows, columns, rank, segments, in, phi, small)                           \
    {                                                                                              \
        .name = label, .B = b, .T = t, .m = rows, .n = columns, .r = rank, .segs = segments,       \
        .side_in = in, .relu = phi, .small_a = small                                               \
    }
#define DS_AFFINER_CASE(use, name, B, T, ...) KEEP_##use(CASE(name, (B) * (T), 1, __VA_ARGS__), )
static const shape by_rows[] = {
#include "tests/cases.def"
};
#define DS_AFFINER_CASE(use, name, B, T, ...) KEEP_##use(CASE(name, B, T, __VA_ARGS__), )
static const shape by_samples[] = {
#include "tests/cases.def"
};

START_TEST(affiner_folded) { ladder(&by_rows[_i], folded, 1); }
END_TEST

START_TEST(affiner_lowrank) { ladder(&by_rows[_i], lowrank, 1); }
END_TEST

START_TEST(affiner_rows) {
    if (!by_samples[_i].side_in)
        ladder(&by_samples[_i], rows_forward, 1);
}
END_TEST

START_TEST(affiner_gradients) { ladder(&by_samples[_i], gradients, 0); }
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, affiner_folded, 0, COUNT(by_rows));
    tcase_add_loop_test(tc, affiner_lowrank, 0, COUNT(by_rows));
    tcase_add_loop_test(tc, affiner_rows, 0, COUNT(by_samples));
    tcase_add_loop_test(tc, affiner_gradients, 0, COUNT(by_samples));
}

int main(void) { return ds_test_main("kernels_affiner", register_cases); }
