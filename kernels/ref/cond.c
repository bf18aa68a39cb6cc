/* kernels/ref/cond.c - conditioning path: timestep and class embedding, SiLU. */
#include "kernels/ref/ref.h"

void ds_ref_timestep_embedding(ds_device *dev, float *out, const float *t, int B, int dim,
                               float max_period, int shift) {
    (void)dev;
    int half = dim / 2;
    DS_ASSERT(dim % 2 == 0 && half > shift);
    for (int b = 0; b < B; b++)
        for (int i = 0; i < half; i++) {
            double angle = t[b] * exp(-log(max_period) * i / (half - shift));
            out[(size_t)b * (size_t)dim + (size_t)i] = (float)cos(angle);
            out[(size_t)b * (size_t)dim + (size_t)(half + i)] = (float)sin(angle);
        }
}

void ds_ref_silu_forward(ds_device *dev, float *out, const float *x, size_t n) {
    (void)dev;
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(x[i] / (1 + exp(-(double)x[i])));
}

void ds_ref_silu_backward(ds_device *dev, float *dx, const float *dout, const float *x, size_t n) {
    (void)dev;
    for (size_t i = 0; i < n; i++) {
        double sigmoid = 1 / (1 + exp(-(double)x[i]));
        dx[i] = (float)(dout[i] * sigmoid * (1 + x[i] * (1 - sigmoid)));
    }
}

void ds_ref_embedding_forward(ds_device *dev, float *out, const float *table, const int *idx, int B,
                              int D) {
    (void)dev;
    for (int b = 0; b < B; b++)
        for (int j = 0; idx[b] >= 0 && j < D; j++)
            out[(size_t)b * (size_t)D + (size_t)j] += table[(size_t)idx[b] * (size_t)D + (size_t)j];
}

void ds_ref_embedding_take(ds_device *dev, float *out, const float *table, const int *idx,
                           int layers, int rows, int B, int D) {
    (void)dev;
    for (int l = 0; l < layers; l++)
        for (int b = 0; b < B; b++) {
            DS_ASSERT(idx[b] >= 0 && idx[b] < rows);
            const float *from = table + ((size_t)l * (size_t)rows + (size_t)idx[b]) * (size_t)D;
            for (int j = 0; j < D; j++)
                out[((size_t)l * (size_t)B + (size_t)b) * (size_t)D + (size_t)j] = from[j];
        }
}

void ds_ref_embedding_backward(ds_device *dev, float *dtable, const float *dout, const int *idx,
                               int B, int D) {
    (void)dev;
    for (int b = 0; b < B; b++)
        for (int j = 0; idx[b] >= 0 && j < D; j++)
            dtable[(size_t)idx[b] * (size_t)D + (size_t)j] +=
                dout[(size_t)b * (size_t)D + (size_t)j];
}
