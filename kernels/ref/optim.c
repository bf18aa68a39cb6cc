/* kernels/ref/optim.c - gradient norm and AdamW; every element in double, rounded once when stored.
 */
#include "kernels/ref/ref.h"

void ds_ref_sum_squares(ds_device *dev, double *out, const float *x, size_t n) {
    (void)dev;
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    *out = sum;
}

void ds_ref_adamw(ds_device *dev, float *p, float *m, float *v, float *ema, const float *g,
                  const float *lr_mul, size_t n, float lr, float b1, float b2, float eps, float wd,
                  double clip, const double *squares, float ema_decay, int step) {
    (void)dev;
    if (squares && !isfinite(*squares))
        return;
    double norm = squares ? sqrt(*squares) : 0;
    float gscale = clip > 0 && norm > clip ? (float)(clip / norm) : 1;
    double correct1 = 1 - pow(b1, step), correct2 = 1 - pow(b2, step);
    for (size_t i = 0; i < n; i++) {
        double rate = lr_mul ? (double)lr * lr_mul[i] : lr, grad = (double)g[i] * gscale;
        double m1 = b1 * (double)m[i] + (1.0 - b1) * grad;
        double m2 = b2 * (double)v[i] + (1.0 - b2) * grad * grad;
        double decayed = p[i] * (1 - rate * wd);
        m[i] = (float)m1;
        v[i] = (float)m2;
        p[i] = (float)(decayed - rate / correct1 * m1 / (sqrt(m2 / correct2) + eps));
        if (ema)
            ema[i] = (float)((double)ema_decay * ema[i] + (1.0 - ema_decay) * p[i]);
    }
}
