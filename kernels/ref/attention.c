/* kernels/ref/attention.c - softmax attention, one row of scores at a time. */
#include "kernels/ref/ref.h"

/* One head of one sample: rows of q, k, v are 3D floats apart, rows of out D. */
typedef struct {
    const float *q, *k, *v;
    size_t stride;
    int T, hd;
} head;

static head head_at(const ds_act *qkv, int b, int h, int T, int D, int H) {
    int hd = D / H;
    const float *base = act_f32_const(qkv) + (size_t)b * (size_t)T * 3 * (size_t)D + h * hd;
    return (head){base, base + D, base + 2 * (size_t)D, 3 * (size_t)D, T, hd};
}

/* p (T) (=) softmax of row i of the scaled scores; returns log sum exp. */
static double softmax_row(double *p, const head *a, int i) {
    double scale = 1 / sqrt(a->hd), top = -INFINITY, sum = 0;
    for (int j = 0; j < a->T; j++) {
        p[j] = scale * dot(a->q + (size_t)i * a->stride, a->k + (size_t)j * a->stride, a->hd);
        top = fmax(top, p[j]);
    }
    for (int j = 0; j < a->T; j++)
        sum += p[j] = exp(p[j] - top);
    for (int j = 0; j < a->T; j++)
        p[j] /= sum;
    return top + log(sum);
}

void ds_ref_attention_forward(ds_device *dev, ds_act *out, float *lse, const ds_act *qkv, int B,
                              int T, int D, int H) {
    (void)dev;
    DS_ASSERT(D % H == 0);
    double *p = ds_xcalloc((size_t)T, sizeof *p);
    for (int bh = 0; bh < B * H; bh++) {
        int b = bh / H, h = bh % H;
        head a = head_at(qkv, b, h, T, D, H);
        for (int i = 0; i < T; i++) {
            double total = softmax_row(p, &a, i);
            if (lse)
                lse[(size_t)bh * (size_t)T + (size_t)i] = (float)total;
            for (int d = 0; d < a.hd; d++) {
                double sum = 0;
                for (int j = 0; j < T; j++)
                    sum += p[j] * a.v[(size_t)j * a.stride + (size_t)d];
                act_f32(
                    out)[((size_t)b * (size_t)T + (size_t)i) * (size_t)D + (size_t)(h * a.hd + d)] =
                    (float)sum;
            }
        }
    }
    free(p);
}

/* Gradients of one head into dq, dk, dv (T,hd) in double.
 *   dP_ij = <dout_i, v_j>,  dS_ij = P_ij (dP_ij - sum_j P_ij dP_ij),
 *   dq_i = scale sum_j dS_ij k_j,  dk_j = scale sum_i dS_ij q_i,  dv_j = sum_i P_ij dout_i */
static void head_backward(double *dq, double *dk, double *dv, double *p, double *ds, const head *a,
                          const float *dout, int D) {
    double scale = 1 / sqrt(a->hd);
    for (int i = 0; i < a->T; i++) {
        const float *g = dout + (size_t)i * (size_t)D, *q = a->q + (size_t)i * a->stride;
        double delta = 0;
        softmax_row(p, a, i);
        for (int j = 0; j < a->T; j++) {
            ds[j] = dot(g, a->v + (size_t)j * a->stride, a->hd);
            delta += p[j] * ds[j];
        }
        for (int j = 0; j < a->T; j++) {
            const float *k = a->k + (size_t)j * a->stride;
            double s = scale * p[j] * (ds[j] - delta);
            for (int d = 0; d < a->hd; d++) {
                dq[i * a->hd + d] += s * k[d];
                dk[j * a->hd + d] += s * q[d];
                dv[j * a->hd + d] += p[j] * g[d];
            }
        }
    }
}

void ds_ref_attention_backward(ds_device *dev, ds_act *dqkv, const ds_act *dout, const ds_act *out,
                               const float *lse, const ds_act *qkv, int B, int T, int D, int H) {
    (void)dev, (void)out, (void)lse; /* recomputed */
    DS_ASSERT(D % H == 0);
    size_t n = (size_t)T * (size_t)(D / H);
    double *grad = ds_xcalloc(3 * n, sizeof *grad), *p = ds_xcalloc(2 * (size_t)T, sizeof *p);
    for (int bh = 0; bh < B * H; bh++) {
        int b = bh / H, h = bh % H;
        head a = head_at(qkv, b, h, T, D, H);
        size_t row0 = (size_t)b * (size_t)T, column = (size_t)(h * a.hd);
        memset(grad, 0, 3 * n * sizeof *grad);
        head_backward(grad, grad + n, grad + 2 * n, p, p + T, &a,
                      act_f32_const(dout) + row0 * (size_t)D + column, D);
        for (int t = 0; t < T; t++)
            for (int part = 0; part < 3; part++)
                for (int d = 0; d < a.hd; d++)
                    act_f32(dqkv)[((row0 + (size_t)t) * 3 + (size_t)part) * (size_t)D + column +
                                  (size_t)d] =
                        (float)grad[(size_t)part * n + (size_t)(t * a.hd + d)];
    }
    free(grad);
    free(p);
}
