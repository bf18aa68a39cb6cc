/* kernels/ref/norm.c - adaLN and gates. */
#include "kernels/ref/ref.h"

void ds_ref_adaln_forward(ds_device *dev, ds_act *out, float *mean, float *rstd, const float *x,
                          const float *shift, const float *scale, int stride, float eps, int B,
                          int T, int D) {
    (void)dev;
    for (int t = 0; t < B * T; t++) {
        const float *row = x + (size_t)t * (size_t)D;
        size_t cond = (size_t)(t / T) * (size_t)stride;
        double mu = 0, var = 0;
        for (int j = 0; j < D; j++)
            mu += row[j];
        mu /= D;
        for (int j = 0; j < D; j++)
            var += (row[j] - mu) * (row[j] - mu);
        double inv = 1 / sqrt(var / D + (double)eps);
        for (int j = 0; j < D; j++) {
            double norm = (row[j] - mu) * inv;
            act_f32(out)[(size_t)t * (size_t)D + (size_t)j] =
                (float)(norm * (1.0 + scale[cond + (size_t)j]) + shift[cond + (size_t)j]);
        }
        if (mean)
            mean[t] = (float)mu;
        if (rstd)
            rstd[t] = (float)inv;
    }
}

/* With q = dout (1 + scale):  dx = rstd (q - mean(q) - norm mean(q norm)). */
void ds_ref_adaln_backward(ds_device *dev, float *dx, float *dshift, float *dscale, int dstride,
                           const ds_act *dout, const float *x, const float *mean, const float *rstd,
                           const float *scale, int stride, int B, int T, int D) {
    (void)dev;
    double *sums = ds_xcalloc(2 * (size_t)D, sizeof *sums), *sum_shift = sums,
           *sum_scale = sums + D;
    for (int b = 0; b < B; b++) {
        const float *scale_b = scale + (size_t)b * (size_t)stride;
        memset(sums, 0, 2 * (size_t)D * sizeof *sums);
        for (int t = b * T; t < (b + 1) * T; t++) {
            const float *row = x + (size_t)t * (size_t)D;
            const float *g = act_f32_const(dout) + (size_t)t * (size_t)D;
            double q_mean = 0, qn_mean = 0;
            for (int j = 0; j < D; j++) {
                double norm = ((double)row[j] - mean[t]) * rstd[t], q = g[j] * (1.0 + scale_b[j]);
                q_mean += q / D;
                qn_mean += q * norm / D;
                sum_shift[j] += g[j];
                sum_scale[j] += g[j] * norm;
            }
            for (int j = 0; j < D; j++) {
                double norm = ((double)row[j] - mean[t]) * rstd[t], q = g[j] * (1.0 + scale_b[j]);
                float *d = dx + (size_t)t * (size_t)D + (size_t)j;
                *d = (float)(*d + rstd[t] * (q - q_mean - norm * qn_mean));
            }
        }
        for (int j = 0; j < D; j++) {
            dshift[(size_t)b * (size_t)dstride + (size_t)j] = (float)sum_shift[j];
            dscale[(size_t)b * (size_t)dstride + (size_t)j] = (float)sum_scale[j];
        }
    }
    free(sums);
}

void ds_ref_gate_forward(ds_device *dev, float *res_out, const float *res_in, const float *gate,
                         int gate_stride, const ds_act *y, int B, int T, int D) {
    (void)dev;
    for (int t = 0; t < B * T; t++)
        for (int j = 0; j < D; j++) {
            size_t at = (size_t)t * (size_t)D + (size_t)j;
            double g = gate[(size_t)(t / T) * (size_t)gate_stride + (size_t)j];
            res_out[at] = (float)(res_in[at] + g * act_f32_const(y)[at]);
        }
}

void ds_ref_gate_backward(ds_device *dev, ds_act *dy, float *dgate, int dstride, const float *dx1,
                          const ds_act *y, const float *gate, int stride, int B, int T, int D) {
    (void)dev;
    for (int b = 0; b < B; b++)
        for (int j = 0; j < D; j++) {
            double g = gate[(size_t)b * (size_t)stride + (size_t)j], sum = 0;
            for (int t = b * T; t < (b + 1) * T; t++) {
                size_t at = (size_t)t * (size_t)D + (size_t)j;
                sum += (double)dx1[at] * act_f32_const(y)[at];
                act_f32(dy)[at] = (float)(g * dx1[at]);
            }
            dgate[(size_t)b * (size_t)dstride + (size_t)j] = (float)sum;
        }
}
