/* kernels/ref/linear.c - linear layers y = x W^T + bias, their gradients, and the GELU beside them.
 */
#include "kernels/ref/ref.h"

/* gelu_tanh(u) = u/2 (1 + tanh z) = u sigmoid(2z),  z = k (u + c u^3); the second form keeps its
 * digits where tanh z is near -1. */
static const double gelu_k = 0.79788456080286535588, gelu_c = 0.044715; /* k = sqrt(2/pi) */

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

static double gelu(double u) { return u * sigmoid(2 * gelu_k * (u + gelu_c * u * u * u)); }

static double gelu_derivative(double u) {
    double z2 = 2 * gelu_k * (u + gelu_c * u * u * u);
    double dz2 = 2 * gelu_k * (1 + 3 * gelu_c * u * u);
    return sigmoid(z2) + u * dz2 * sigmoid(z2) * sigmoid(-z2);
}

/* Output i of the row x. */
static double product(const float *x, const ds_weight *w, const float *bias, int i) {
    return dot(x, w->w + (size_t)i * (size_t)w->n, w->n) + (bias ? bias[i] : 0.0);
}

void ds_ref_linear_f32_forward(ds_device *dev, float *y, const ds_act *x, const ds_weight *w,
                               const float *bias, int rows) {
    (void)dev;
    for (int t = 0; t < rows; t++)
        for (int i = 0; i < w->m; i++)
            y[(size_t)t * (size_t)w->m + (size_t)i] =
                (float)product(act_f32_const(x) + (size_t)t * (size_t)w->n, w, bias, i);
}

void ds_ref_linear_forward(ds_device *dev, ds_act *y, const ds_act *x, const ds_weight *w,
                           const float *bias, int rows) {
    ds_ref_linear_f32_forward(dev, act_f32(y), x, w, bias, rows);
}

void ds_ref_linear_gelu_forward(ds_device *dev, ds_act *pre, ds_act *y, const ds_act *x,
                                const ds_weight *w, const float *bias, int rows) {
    (void)dev;
    for (int t = 0; t < rows; t++)
        for (int i = 0; i < w->m; i++) {
            size_t at = (size_t)t * (size_t)w->m + (size_t)i;
            double u = product(act_f32_const(x) + (size_t)t * (size_t)w->n, w, bias, i);
            if (pre)
                act_f32(pre)[at] = (float)u;
            act_f32(y)[at] = (float)gelu(u);
        }
}

void ds_ref_linear_residual_forward(ds_device *dev, ds_act *y, float *res_out, const float *res_in,
                                    const float *gate, int gate_stride, const ds_act *x,
                                    const ds_weight *w, const float *bias, int B, int T) {
    (void)dev;
    for (int t = 0; t < B * T; t++)
        for (int i = 0; i < w->m; i++) {
            size_t at = (size_t)t * (size_t)w->m + (size_t)i;
            double u = product(act_f32_const(x) + (size_t)t * (size_t)w->n, w, bias, i);
            double g = gate[(size_t)(t / T) * (size_t)gate_stride + (size_t)i];
            if (y)
                act_f32(y)[at] = (float)u;
            res_out[at] = (float)(res_in[at] + g * u);
        }
}

void ds_ref_gelu_forward(ds_device *dev, ds_act *y, const ds_act *pre, size_t n) {
    (void)dev;
    for (size_t i = 0; i < n; i++)
        act_f32(y)[i] = (float)gelu(act_f32_const(pre)[i]);
}

void ds_ref_gelu_backward(ds_device *dev, ds_act *dpre, const ds_act *dy, const ds_act *pre,
                          size_t n) {
    (void)dev;
    for (size_t i = 0; i < n; i++)
        act_f32(dpre)[i] = (float)(act_f32_const(dy)[i] * gelu_derivative(act_f32_const(pre)[i]));
}

/* sum_i dy_i W_ij for every j, in double; out (n). */
static void transposed_product(double *out, const float *dy, const ds_weight *w) {
    memset(out, 0, (size_t)w->n * sizeof *out);
    for (int i = 0; i < w->m; i++)
        for (int j = 0; j < w->n; j++)
            out[j] += (double)dy[i] * w->w[(size_t)i * (size_t)w->n + (size_t)j];
}

void ds_ref_linear_f32_backward_input(ds_device *dev, float *dx, const ds_act *dy,
                                      const ds_weight *w, int rows) {
    (void)dev;
    double *row = ds_xcalloc((size_t)w->n, sizeof *row);
    for (int t = 0; t < rows; t++) {
        transposed_product(row, act_f32_const(dy) + (size_t)t * (size_t)w->m, w);
        for (int j = 0; j < w->n; j++)
            dx[(size_t)t * (size_t)w->n + (size_t)j] = (float)row[j];
    }
    free(row);
}

void ds_ref_linear_backward_input(ds_device *dev, ds_act *dx, const ds_act *dy, const ds_weight *w,
                                  int rows) {
    ds_ref_linear_f32_backward_input(dev, act_f32(dx), dy, w, rows);
}

void ds_ref_linear_gelu_backward_input(ds_device *dev, ds_act *dpre, const ds_act *dy,
                                       const ds_weight *w, const ds_act *pre, int rows) {
    (void)dev;
    double *row = ds_xcalloc((size_t)w->n, sizeof *row);
    for (int t = 0; t < rows; t++) {
        transposed_product(row, act_f32_const(dy) + (size_t)t * (size_t)w->m, w);
        for (int j = 0; j < w->n; j++) {
            size_t at = (size_t)t * (size_t)w->n + (size_t)j;
            act_f32(dpre)[at] = (float)(row[j] * gelu_derivative(act_f32_const(pre)[at]));
        }
    }
    free(row);
}

void ds_ref_linear_backward_weight(ds_device *dev, float *dW, float *db, const ds_act *dy,
                                   const ds_act *x, int m, int n, int rows) {
    (void)dev;
    const float *g = act_f32_const(dy), *v = act_f32_const(x);
    double *row = ds_xcalloc((size_t)n, sizeof *row);
    for (int i = 0; i < m; i++) {
        double column = 0;
        memset(row, 0, (size_t)n * sizeof *row);
        for (int t = 0; t < rows; t++) {
            double gti = g[(size_t)t * (size_t)m + (size_t)i];
            column += gti;
            for (int j = 0; j < n; j++)
                row[j] += gti * v[(size_t)t * (size_t)n + (size_t)j];
        }
        for (int j = 0; j < n; j++) {
            float *d = dW + (size_t)i * (size_t)n + (size_t)j;
            *d = (float)(*d + row[j]);
        }
        if (db)
            db[i] = (float)(db[i] + column);
    }
    free(row);
}
