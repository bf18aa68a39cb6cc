/* kernels/ref/affiner.c - folding of an adapter, the unfolded forms, and its gradients.
 * Derivations: docs/math.md. */
#include "kernels/ref/ref.h"

void ds_ref_affiner_check(const ds_affiner *ad) {
    DS_ASSERT(ad->m > 0 && ad->n > 0 && ad->r >= 0 && ad->segs >= 1 && ad->m % ad->segs == 0);
    DS_ASSERT(ad->r == 0 || (ad->s && ad->U && ad->V));
}

void ds_ref_lowrank_hidden(double *h, const float *x, const ds_affiner *ad) {
    for (int k = 0; k < ad->segs * ad->r; k++) {
        h[k] = dot(x, ad->V + (size_t)k * (size_t)ad->n, ad->n);
        if (ad->phi_relu && h[k] < 0)
            h[k] = 0;
    }
}

double ds_ref_lowrank_output(const double *h, const ds_affiner *ad, int i) {
    int g = affiner_segment(ad, i);
    double sum = 0;
    for (int k = 0; k < ad->r; k++)
        sum += (double)ad->U[(size_t)i * (size_t)ad->r + (size_t)k] * h[g * ad->r + k];
    return ad->r ? ad->s[g] * sum : 0;
}

/* a W of one element; exactly W where a == 1. */
static double scaled(const ds_affiner *ad, float w, int i, int j) {
    return ad->a ? (double)(ad->side_in ? ad->a[j] : ad->a[i]) * w : w;
}

void ds_ref_weight_pack(ds_device *dev, ds_weight *w, const float *W, const ds_affiner *ad) {
    (void)dev;
    int m = w->m, n = w->n;
    if (!ad) {
        memcpy(w->w, W, (size_t)m * (size_t)n * sizeof *W);
        return;
    }
    ds_ref_affiner_check(ad);
    DS_ASSERT(ad->m == m && ad->n == n);
    for (int i = 0; i < m; i++) {
        int g = affiner_segment(ad, i);
        int branch = ad->r > 0 && !ad->phi_relu && ad->s[g] != 0;
        for (int j = 0; j < n; j++) {
            size_t at = (size_t)i * (size_t)n + (size_t)j;
            double sum = scaled(ad, W[at], i, j), uv = 0;
            for (int k = 0; branch && k < ad->r; k++)
                uv += (double)ad->U[(size_t)i * (size_t)ad->r + (size_t)k] *
                      ad->V[((size_t)g * (size_t)ad->r + (size_t)k) * (size_t)n + (size_t)j];
            w->w[at] = (float)(branch ? sum + ad->s[g] * uv : sum);
        }
    }
}

void ds_ref_bias_fold(ds_device *dev, float *out, const float *bias, const float *W,
                      const ds_affiner *ad) {
    (void)dev;
    for (int i = 0; i < ad->m; i++) {
        double sum = bias ? bias[i] : 0;
        if (ad->b)
            sum += ad->side_in ? dot(W + (size_t)i * (size_t)ad->n, ad->b, ad->n) : ad->b[i];
        out[i] = (float)sum;
    }
}

void ds_ref_lowrank_forward(ds_device *dev, ds_act *y, const ds_act *x, const ds_affiner *ad,
                            int rows) {
    (void)dev;
    ds_ref_affiner_check(ad);
    if (ad->r == 0)
        return;
    double *h = ds_xcalloc((size_t)(ad->segs * ad->r), sizeof *h);
    for (int t = 0; t < rows; t++) {
        ds_ref_lowrank_hidden(h, act_f32_const(x) + (size_t)t * (size_t)ad->n, ad);
        for (int i = 0; i < ad->m; i++) {
            float *out = act_f32(y) + (size_t)t * (size_t)ad->m + (size_t)i;
            *out = (float)(*out + ds_ref_lowrank_output(h, ad, i));
        }
    }
    free(h);
}

void ds_ref_affiner_rows_forward(ds_device *dev, ds_act *y, float *yf, const ds_act *x,
                                 const float *bias, const ds_affiner *sets, const int *task, int B,
                                 int T) {
    (void)dev;
    float *out = y ? act_f32(y) : yf;
    for (int t = 0; t < B * T; t++) {
        const ds_affiner *ad = &sets[task[t / T]];
        ds_ref_affiner_check(ad);
        DS_ASSERT(!ad->side_in);
        double *h = ds_xcalloc((size_t)(ad->segs * ad->r), sizeof *h);
        ds_ref_lowrank_hidden(h, act_f32_const(x) + (size_t)t * (size_t)ad->n, ad);
        for (int i = 0; i < ad->m; i++) {
            float *at = out + (size_t)t * (size_t)ad->m + (size_t)i;
            double sum = ad->a ? (double)ad->a[i] * *at : *at;
            sum += bias ? bias[i] : 0;
            sum += ad->b ? ad->b[i] : 0;
            *at = (float)(sum + ds_ref_lowrank_output(h, ad, i));
        }
        free(h);
    }
}

/* Sums over the rows, in double; added to the f32 gradients once, at the end. */
typedef struct {
    double *da, *db, *ds, *dU, *dV; /* the shapes of ds_affiner */
    double *h, *dz;                 /* (segs*r) of one row */
} affiner_sums;

/* Contribution of one row to a and b, side out: z = W x, da += g z, db += g. */
static void row_scale_out(affiner_sums *sum, const ds_affiner *ad, const float *g, const float *x,
                          const float *W, int want_da) {
    for (int i = 0; i < ad->m; i++) {
        sum->db[i] += g[i];
        if (want_da)
            sum->da[i] += g[i] * dot(W + (size_t)i * (size_t)ad->n, x, ad->n);
    }
}

/* The same, side in: q = W^T g, da += q x, db += q. */
static void row_scale_in(affiner_sums *sum, const ds_affiner *ad, const float *g, const float *x,
                         const float *W) {
    for (int i = 0; i < ad->m; i++)
        for (int j = 0; j < ad->n; j++) {
            double q = (double)g[i] * W[(size_t)i * (size_t)ad->n + (size_t)j];
            sum->da[j] += q * x[j];
            sum->db[j] += q;
        }
}

/* Contribution of one row to s, U, V; leaves dz in sum->dz. */
static void row_lowrank(affiner_sums *sum, const ds_affiner *ad, const float *g, const float *x) {
    int r = ad->r;
    ds_ref_lowrank_hidden(sum->h, x, ad);
    memset(sum->dz, 0, (size_t)(ad->segs * r) * sizeof *sum->dz);
    for (int i = 0; i < ad->m; i++) {
        int seg = affiner_segment(ad, i);
        for (int k = 0; k < r; k++) {
            size_t at = (size_t)i * (size_t)r + (size_t)k;
            double h = sum->h[seg * r + k], s = ad->s[seg];
            sum->ds[seg] += g[i] * ad->U[at] * h;
            sum->dU[at] += s * g[i] * h;
            sum->dz[seg * r + k] += s * ad->U[at] * g[i];
        }
    }
    for (int k = 0; k < ad->segs * r; k++) {
        if (ad->phi_relu && !(sum->h[k] > 0)) /* relu'(z) = [z > 0] */
            sum->dz[k] = 0;
        for (int j = 0; j < ad->n; j++)
            sum->dV[(size_t)k * (size_t)ad->n + (size_t)j] += sum->dz[k] * x[j];
    }
}

static void accumulate(float *out, const double *sum, size_t n) {
    for (size_t i = 0; out && i < n; i++)
        out[i] = (float)(out[i] + sum[i]);
}

static affiner_sums sums_new(const ds_affiner *ad) {
    size_t side = (size_t)(ad->side_in ? ad->n : ad->m), hidden = (size_t)(ad->segs * ad->r);
    return (affiner_sums){
        .da = ds_xcalloc(side, sizeof(double)),
        .db = ds_xcalloc(side, sizeof(double)),
        .ds = ds_xcalloc((size_t)ad->segs, sizeof(double)),
        .dU = ds_xcalloc((size_t)ad->m * (size_t)ad->r, sizeof(double)),
        .dV = ds_xcalloc(hidden * (size_t)ad->n, sizeof(double)),
        .h = ds_xcalloc(hidden, sizeof(double)),
        .dz = ds_xcalloc(hidden, sizeof(double)),
    };
}

static void sums_free(affiner_sums *sum) {
    free(sum->da);
    free(sum->db);
    free(sum->ds);
    free(sum->dU);
    free(sum->dV);
    free(sum->h);
    free(sum->dz);
}

void ds_ref_affiner_backward(ds_device *dev, const ds_affiner_grad *g, const ds_affiner *ad,
                             const ds_act *dy, const ds_act *y, const ds_act *x, const ds_act *dx,
                             ds_act *dx_extra, const float *W, const float *bias, int rows) {
    (void)dev, (void)y, (void)dx, (void)bias; /* routes to da that this device does not take */
    ds_ref_affiner_check(ad);
    int m = ad->m, n = ad->n, want_da = g->da && ad->a, want_db = g->db && ad->b;
    affiner_sums sum = sums_new(ad);
    for (int t = 0; t < rows; t++) {
        const float *gt = act_f32_const(dy) + (size_t)t * (size_t)m;
        const float *xt = act_f32_const(x) + (size_t)t * (size_t)n;
        if (!ad->side_in)
            row_scale_out(&sum, ad, gt, xt, W, want_da);
        else if (want_da || want_db)
            row_scale_in(&sum, ad, gt, xt, W);
        if (ad->r > 0)
            row_lowrank(&sum, ad, gt, xt);
        for (int j = 0; dx_extra && ad->phi_relu && ad->r > 0 && j < n; j++) {
            double extra = 0;
            for (int k = 0; k < ad->segs * ad->r; k++)
                extra += sum.dz[k] * ad->V[(size_t)k * (size_t)n + (size_t)j];
            float *out = act_f32(dx_extra) + (size_t)t * (size_t)n + (size_t)j;
            *out = (float)(*out + extra);
        }
    }
    size_t side = (size_t)(ad->side_in ? n : m);
    accumulate(want_da ? g->da : NULL, sum.da, side);
    accumulate(want_db ? g->db : NULL, sum.db, side);
    if (ad->r > 0) {
        accumulate(g->ds, sum.ds, (size_t)ad->segs);
        accumulate(g->dU, sum.dU, (size_t)m * (size_t)ad->r);
        accumulate(g->dV, sum.dV, (size_t)(ad->segs * ad->r) * (size_t)n);
    }
    sums_free(&sum);
}
