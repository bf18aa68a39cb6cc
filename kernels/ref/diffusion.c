/* kernels/ref/diffusion.c - noising, normal numbers and the hybrid loss.  Derivation: docs/math.md.
 */
#include "base/rng.h"
#include "kernels/ref/ref.h"

void ds_ref_axpby(ds_device *dev, float *out, const float *ca, const float *x, const float *cb,
                  const float *y, int B, size_t n) {
    (void)dev;
    for (int b = 0; b < B; b++)
        for (size_t i = (size_t)b * n; i < (size_t)(b + 1) * n; i++)
            out[i] = (float)((double)ca[b] * x[i] + (double)cb[b] * y[i]);
}

void ds_ref_normal(ds_device *dev, float *out, uint64_t seed, uint32_t stream, const uint32_t *step,
                   const uint64_t *sample, int B, size_t n) {
    (void)dev;
    for (int b = 0; b < B; b++)
        ds_rng_normal(out + (size_t)b * n, n, seed, stream, step[b], sample[b]);
}

/* The guided output of element i; null and base: what guides, or NULL. */
static float guided(const ds_step *s, const float *out, const float *null, const float *base,
                    size_t i) {
    if (null && base)
        return base[i] + s->domain * (null[i] - base[i]) + s->classes * (out[i] - null[i]);
    if (null)
        return null[i] + s->classes * (out[i] - null[i]);
    if (base)
        return base[i] + s->domain * (out[i] - base[i]);
    return out[i];
}

/* One element; v: the model's variance output; the f32 roundings are part of the definition. */
static float step_element(const ds_step *s, float x, float eps, float v, float noise,
                          float *x0_prev) {
    float x0 = s->velocity ? s->x0_x * x + s->x0_v * eps : (x - s->b * eps) / s->a;
    if (s->pixel)
        x0 = x0 < -1 ? -1 : x0 > 1 ? 1 : x0;
    if (s->pixel || s->velocity)
        eps = (x - s->a * x0) / s->b;
    if (s->kind == DS_STEP_HEUN)
        return 0.5f * (*x0_prev + x) + s->a_prev * x0 + s->b_prev * eps;
    if (s->kind == DS_STEP_DDIM) {
        if (s->keep)
            *x0_prev = x;
        float to = s->a_prev * x0 + s->b_prev * eps;
        return s->spread != 0 ? to + s->spread * noise : to;
    }
    if (s->kind == DS_STEP_DPMPP2M) {
        float before = s->c_before != 0 ? *x0_prev : 0;
        *x0_prev = x0;
        return s->last ? x0
                       : (float)(s->ratio * x + s->gain * (s->c_now * x0 + s->c_before * before));
    }
    double mean = s->mean_x0 * x0 + s->mean_xt * x, log_variance = s->log_variance;
    if (s->learned) {
        double f = (v + 1.0) / 2;
        log_variance = f * s->log_beta + (1 - f) * s->log_variance;
    }
    return (float)(s->last ? mean : mean + exp(0.5 * log_variance) * noise);
}

void ds_ref_sampler_step(ds_device *dev, float *x, float *twin, float *x0_prev, const float *out,
                         const float *null, const float *base, const float *noise, const ds_step *s,
                         int B, size_t px, size_t outpx) {
    (void)dev;
    for (size_t b = 0; b < (size_t)B; b++)
        for (size_t i = 0; i < px; i++) {
            size_t at = b * px + i, o = b * outpx + i;
            float eps = i < s->limit ? guided(s, out, null, base, o) : out[o];
            x[at] = step_element(s, x[at], eps, s->learned ? out[o + px] : 0, noise ? noise[at] : 0,
                                 x0_prev ? x0_prev + at : NULL);
            if (twin)
                twin[at] = x[at];
        }
}

void ds_ref_flow_loss(ds_device *dev, float *mse, float *dout, const float *out, const float *x0,
                      const float *noise, const float *coef, int B, size_t px, size_t outpx) {
    (void)dev;
    for (size_t b = 0; b < (size_t)B; b++) {
        const float *c = coef + 8 * b;
        double sum = 0;
        for (size_t i = 0; i < px; i++) {
            double want = (double)c[0] * x0[b * px + i] + (double)c[1] * noise[b * px + i];
            double diff = out[b * outpx + i] - want;
            sum += diff * diff;
            if (dout)
                dout[b * outpx + i] = (float)(c[7] * 2 * diff / (double)px);
        }
        for (size_t i = px; dout && i < outpx; i++)
            dout[b * outpx + i] = 0;
        mse[b] = (float)(sum / (double)px);
    }
}

/* Named view of one row of coef. */
typedef struct {
    double log_beta, log_var_clipped, mean_x0, mean_xt, recip, recipm1, is_first, weight;
} coefficients;

static coefficients coefficients_of(const float *c) {
    return (coefficients){c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]};
}

/* KL(q || p) of two normals in nats, and its derivative by the log variance of p. */
static double kl_term(double mean_q, double log_q, double mean_p, double log_p, double *dlog_p) {
    double square = (mean_q - mean_p) * (mean_q - mean_p) * exp(-log_p), ratio = exp(log_q - log_p);
    *dlog_p = 0.5 * (1 - ratio - square);
    return 0.5 * (-1 + log_p - log_q + ratio + square);
}

/* tanh approximation of the standard normal distribution function, and its derivative. */
static double cdf(double x, double *derivative) {
    const double k = 0.79788456080286535588, c = 0.044715;
    double t = tanh(k * (x + c * x * x * x));
    *derivative = 0.5 * (1 - t * t) * k * (1 + 3 * c * x * x);
    return 0.5 * (1 + t);
}

/* -log of the probability that N(mean, exp(log_var)) gives the bin of width 2/255 around x0 (open
 * at -1 and 1), and its derivative by log_var.  Probabilities below 1e-12 are held there:
 * derivative 0. */
static double discretised_nll(double x0, double mean, double log_var, double *dlog_var) {
    double inv = exp(-0.5 * log_var), hi = inv * (x0 - mean + 1.0 / 255), hi_d;
    double lo = inv * (x0 - mean - 1.0 / 255), lo_d;
    double cdf_hi = cdf(hi, &hi_d), cdf_lo = cdf(lo, &lo_d);
    double p, dp; /* d hi / d log_var = -hi/2 */
    if (x0 < -0.999) {
        p = cdf_hi;
        dp = -0.5 * hi * hi_d;
    } else if (x0 > 0.999) {
        p = 1 - cdf_lo;
        dp = 0.5 * lo * lo_d;
    } else {
        p = cdf_hi - cdf_lo;
        dp = -0.5 * (hi * hi_d - lo * lo_d);
    }
    if (p < 1e-12) {
        *dlog_var = 0;
        return -log(1e-12);
    }
    *dlog_var = -dp / p;
    return -log(p);
}

/* vb of one element in nats; dv: its derivative by v (eps detached). */
static double vb_term(const coefficients *c, double eps, double v, double x0, double xt,
                      double *dv) {
    double fraction = 0.5 * (v + 1), dlog;
    double log_var = fraction * c->log_beta + (1 - fraction) * c->log_var_clipped;
    double x0_hat = c->recip * xt - c->recipm1 * eps;
    double mean_p = c->mean_x0 * x0_hat + c->mean_xt * xt;
    double mean_q = c->mean_x0 * x0 + c->mean_xt * xt;
    double nats = c->is_first != 0 ? discretised_nll(x0, mean_p, log_var, &dlog)
                                   : kl_term(mean_q, c->log_var_clipped, mean_p, log_var, &dlog);
    *dv = dlog * 0.5 * (c->log_beta - c->log_var_clipped);
    return nats;
}

void ds_ref_diffusion_loss(ds_device *dev, float *mse, float *vb, float *dout, const float *out,
                           const float *x0, const float *noise, const float *xt, const float *coef,
                           int learned, float vb_weight, int B, int C, size_t n) {
    (void)dev;
    const double ln2 = 0.69314718055994530942;
    size_t half = (size_t)C * n, full = learned ? 2 * half : half;
    for (int b = 0; b < B; b++) {
        coefficients c = coefficients_of(coef + 8 * (size_t)b);
        double sum_mse = 0, sum_vb = 0;
        for (size_t i = 0; i < half; i++) {
            size_t at = (size_t)b * half + i, at_eps = (size_t)b * full + i, at_v = at_eps + half;
            double diff = (double)out[at_eps] - noise[at], dv = 0;
            sum_mse += diff * diff;
            if (learned)
                sum_vb += vb_term(&c, out[at_eps], out[at_v], x0[at], xt[at], &dv);
            if (dout)
                dout[at_eps] = (float)(c.weight * 2 * diff / (double)half);
            if (dout && learned)
                dout[at_v] = (float)(c.weight * vb_weight * dv / ((double)half * ln2));
        }
        mse[b] = (float)(sum_mse / (double)half);
        vb[b] = (float)(sum_vb / ((double)half * ln2));
    }
}
