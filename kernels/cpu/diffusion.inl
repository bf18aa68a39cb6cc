/* kernels/cpu/diffusion.inl - noising, normal numbers, hybrid loss. */

typedef struct {
    float *out;
    const float *ca, *cb, *x, *y;
    size_t n;
} axpby_job;

static void axpby_task(void *ctx, int b, int thread) {
    (void)thread;
    const axpby_job *job = ctx;
    vf ca = vset(job->ca[b]), cb = vset(job->cb[b]);
    size_t i1 = (size_t)(b + 1) * job->n;
    for (size_t i = (size_t)b * job->n; i < i1; i += VL) {
        int n = i1 - i < VL ? (int)(i1 - i) : VL;
        vstore_n(job->out + i, vfma(ca, vload_n(job->x + i, n), cb * vload_n(job->y + i, n)), n);
    }
}

static void ds_cpu_axpby(ds_device *dev, float *out, const float *ca, const float *x,
                         const float *cb, const float *y, int B, size_t n) {
    axpby_job job = {out, ca, cb, x, y, n};
    ds_team_run(ds_cpu_of(dev)->team, axpby_task, &job, B);
}

/* ---------------------------------------------------------------- sampler step
 * Scalar, with libm's exp: the same bits for every instruction set.  A task is a stretch of one
 * sample. */

enum { STEP_STRETCH = 4096 };

typedef struct {
    float *x, *twin, *x0_prev;
    const float *out, *null, *base, *noise;
    const ds_step *s;
    size_t px, outpx;
    int stretches; /* of a sample */
} step_job;

/* The guided output of element i. */
static float guided(const step_job *j, size_t i) {
    const float c = j->out[i], *n = j->null, *u = j->base;
    if (n && u)
        return u[i] + j->s->domain * (n[i] - u[i]) + j->s->classes * (c - n[i]);
    if (n)
        return n[i] + j->s->classes * (c - n[i]);
    return u ? u[i] + j->s->domain * (c - u[i]) : c;
}

static float step_ddpm(const ds_step *s, float x, float x0, float v, float noise) {
    double mean = s->mean_x0 * x0 + s->mean_xt * x, log_variance = s->log_variance;
    if (s->learned) {
        double f = (v + 1.0) / 2;
        log_variance = f * s->log_beta + (1 - f) * s->log_variance;
    }
    return (float)(s->last ? mean : mean + exp(0.5 * log_variance) * noise);
}

static float step_dpmpp2m(const ds_step *s, float x, float x0, float *x0_prev) {
    float before = s->c_before != 0 ? *x0_prev : 0;
    *x0_prev = x0;
    return s->last ? x0 : (float)(s->ratio * x + s->gain * (s->c_now * x0 + s->c_before * before));
}

static void step_task(void *ctx, int task, int thread) {
    (void)thread;
    const step_job *j = ctx;
    const ds_step *s = j->s;
    size_t b = (size_t)(task / j->stretches),
           i = (size_t)(task % j->stretches) * (size_t)STEP_STRETCH,
           end = i + STEP_STRETCH < j->px ? i + STEP_STRETCH : j->px;
    for (; i < end; i++) {
        size_t at = b * j->px + i, o = b * j->outpx + i;
        float x = j->x[at], eps = i < s->limit ? guided(j, o) : j->out[o];
        float x0 = s->velocity ? s->x0_x * x + s->x0_v * eps : (x - s->b * eps) / s->a;
        if (s->pixel)
            x0 = x0 < -1 ? -1 : x0 > 1 ? 1 : x0;
        if (s->pixel || s->velocity)
            eps = (x - s->a * x0) / s->b;
        switch (s->kind) {
        case DS_STEP_DDPM:
            x = step_ddpm(s, x, x0, s->learned ? j->out[o + j->px] : 0, s->last ? 0 : j->noise[at]);
            break;
        case DS_STEP_DDIM:
            if (s->keep)
                j->x0_prev[at] = x;
            x = s->a_prev * x0 + s->b_prev * eps;
            if (s->spread != 0)
                x += s->spread * j->noise[at];
            break;
        case DS_STEP_HEUN:
            x = 0.5f * (j->x0_prev[at] + x) + s->a_prev * x0 + s->b_prev * eps;
            break;
        case DS_STEP_DPMPP2M: x = step_dpmpp2m(s, x, x0, j->x0_prev + at); break;
        }
        j->x[at] = x;
        if (j->twin)
            j->twin[at] = x;
    }
}

static void ds_cpu_sampler_step(ds_device *dev, float *x, float *twin, float *x0_prev,
                                const float *out, const float *null, const float *base,
                                const float *noise, const ds_step *s, int B, size_t px,
                                size_t outpx) {
    int stretches = (int)((px + STEP_STRETCH - 1) / STEP_STRETCH);
    step_job job = {x, twin, x0_prev, out, null, base, noise, s, px, outpx, stretches};
    ds_team_run(ds_cpu_of(dev)->team, step_task, &job, B * stretches);
}

/* ---------------------------------------------------------------- normal numbers
 * The arithmetic of base/rng.c, lane by lane: the same bits.  Each lane is one Philox block. */

enum { BLOCKS = VL / 2 };
typedef double vd __attribute__((vector_size(BLOCKS * 8)));
typedef uint64_t vu __attribute__((vector_size(BLOCKS * 8)));
typedef int64_t vl __attribute__((vector_size(BLOCKS * 8)));
typedef float vh __attribute__((vector_size(BLOCKS * 4)));

INLINE vu mul32(vu a, uint64_t b) { /* low 32 bits of each lane times b < 2^32 */
#if UNIT_AVX512
    return (vu)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64((long long)b));
#else
    return (vu)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x((long long)b));
#endif
}

INLINE vd vdsqrt(vd x) {
#if UNIT_AVX512
    return (vd)_mm512_sqrt_pd((__m512d)x);
#else
    return (vd)_mm256_sqrt_pd((__m256d)x);
#endif
}

/* v < 2^52 as double, exactly. */
INLINE vd double_of(vu v) { return (vd)(v | 0x4330000000000000ull) - 0x1p52; }

INLINE vd pick(vl mask, vd a, vd b) { return (vd)(((vl)a & mask) | ((vl)b & ~mask)); }

INLINE vd log_positive(vd x) {
    vl e = (vl)((vu)x >> 52) - 1023;
    vd m = (vd)(((vu)x & 0x000FFFFFFFFFFFFFull) | 0x3FF0000000000000ull);
    vl big = m > 1.4142135623730951;
    m = pick(big, m * 0.5, m);
    e -= big; /* a true lane is -1 */
    vd z = (m - 1.0) / (m + 1.0), q = z * z;
    vd s = q * 0.0 + 1.0 / 19;
    s = s * q + 1.0 / 17;
    s = s * q + 1.0 / 15;
    s = s * q + 1.0 / 13;
    s = s * q + 1.0 / 11;
    s = s * q + 1.0 / 9;
    s = s * q + 1.0 / 7;
    s = s * q + 1.0 / 5;
    s = s * q + 1.0 / 3;
    s = s * q + 1.0;
    vd ed = double_of((vu)(e + 4096)) - 4096.0; /* e is in [-33, 1] */
    return ed * 0.6931471805599453 + 2.0 * z * s;
}

INLINE void sincos_turn(vu w, vd *c, vd *s) {
    vd a = (double_of(w & 0x3FFFFFFFu) - 536870912.0) * (1.5707963267948966 / 1073741824.0);
    vd q = a * a;
    vd sn =
        a * (1 + q * (-1.0 / 6 +
                      q * (1.0 / 120 + q * (-1.0 / 5040 +
                                            q * (1.0 / 362880 + q * (-1.0 / 39916800 +
                                                                     q * (1.0 / 6227020800.0)))))));
    vd cs =
        1 + q * (-0.5 + q * (1.0 / 24 +
                             q * (-1.0 / 720 + q * (1.0 / 40320 + q * (-1.0 / 3628800 +
                                                                       q * (1.0 / 479001600.0))))));
    double r = 0.7071067811865476;
    vd c1 = r * (cs - sn), s1 = r * (cs + sn);
    vl odd = -(vl)(w >> 30 & 1), half = -(vl)(w >> 31 & 1);
    vd cc = pick(odd, -s1, c1), ss = pick(odd, c1, s1);
    *c = pick(half, -cc, cc);
    *s = pick(half, -ss, ss);
}

INLINE void box_muller(vh out[2], vu w0, vu w1) {
    vd u = (double_of(w0) + 0.5) * 0x1p-32, c, s;
    vd radius = vdsqrt(-2.0 * log_positive(u));
    sincos_turn(w1, &c, &s);
    out[0] = __builtin_convertvector(radius * c, vh);
    out[1] = __builtin_convertvector(radius * s, vh);
}

/* Numbers [4 block, 4 (block + BLOCKS)) of the stream. */
static void normal_blocks(float *out, uint64_t seed, uint32_t stream, uint32_t step,
                          uint64_t sample, uint32_t block) {
    const uint64_t low = 0xFFFFFFFFull;
    vu zero = {0}, c0, c1 = zero + step, c2 = zero + (uint32_t)sample;
    vu c3 = zero + (uint32_t)(stream ^ ((uint32_t)(sample >> 32) * 0x9E3779B9u));
    for (int i = 0; i < BLOCKS; i++)
        c0[i] = (uint32_t)(block + (uint32_t)i);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        vu p0 = mul32(c0, 0xD2511F53u), p1 = mul32(c2, 0xCD9E8D57u);
        vu n0 = (p1 >> 32) ^ c1 ^ k0, n2 = (p0 >> 32) ^ c3 ^ k1;
        c1 = p1 & low;
        c3 = p0 & low;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    vh z[4];
    box_muller(z, c0, c1);
    box_muller(z + 2, c2, c3);
    for (int i = 0; i < BLOCKS; i++)
        for (int k = 0; k < 4; k++)
            out[4 * i + k] = z[k][i];
}

typedef struct {
    float *out;
    uint64_t seed;
    uint32_t stream;
    const uint32_t *step;
    const uint64_t *sample;
    size_t n;
} normal_job;

static void normal_task(void *ctx, int b, int thread) {
    (void)thread;
    const normal_job *job = ctx;
    float *out = job->out + (size_t)b * job->n, some[4 * BLOCKS];
    for (size_t i = 0; i < job->n; i += 4 * BLOCKS) {
        int whole = job->n - i >= 4 * BLOCKS;
        normal_blocks(whole ? out + i : some, job->seed, job->stream, job->step[b], job->sample[b],
                      (uint32_t)(i / 4));
        if (!whole)
            memcpy(out + i, some, (job->n - i) * sizeof *some);
    }
}

static void ds_cpu_normal(ds_device *dev, float *out, uint64_t seed, uint32_t stream,
                          const uint32_t *step, const uint64_t *sample, int B, size_t n) {
    normal_job job = {out, seed, stream, step, sample, n};
    ds_team_run(ds_cpu_of(dev)->team, normal_task, &job, B);
}

/* ---------------------------------------------------------------- loss */

typedef struct {
    float *mse, *vb, *dout;
    const float *out, *x0, *noise, *xt, *coef;
    int learned;
    float vb_weight;
    size_t half; /* elements of one sample's picture */
} loss_job;

static float normal_cdf(double x, double *slope) {
    const double k = 0.79788456080286535588, c = 0.044715;
    double t = tanh(k * (x + c * x * x * x));
    *slope = 0.5 * (1 - t * t) * k * (1 + 3 * c * x * x);
    return (float)t;
}

/* The first step's discretised likelihood of one element, and its derivative by the log variance.
 */
static double first_term(double x0, double mean, double log_var, double *dlog_var) {
    double inv = exp(-0.5 * log_var), hi = inv * (x0 - mean + 1.0 / 255), hi_d;
    double lo = inv * (x0 - mean - 1.0 / 255), lo_d, p, dp;
    const double k = 0.79788456080286535588, c = 0.044715;
    double cdf_hi = 0.5 * (1 + tanh(k * (hi + c * hi * hi * hi)));
    double cdf_lo = 0.5 * (1 + tanh(k * (lo + c * lo * lo * lo)));
    normal_cdf(hi, &hi_d);
    normal_cdf(lo, &lo_d);
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
    *dlog_var = p < 1e-12 ? 0 : -dp / p;
    return -log(p < 1e-12 ? 1e-12 : p);
}

static double first_sample(const loss_job *job, int b, float *dv_out, double dv_scale) {
    const float *c = job->coef + 8 * (size_t)b;
    size_t base = (size_t)b * job->half;
    const float *out = job->out + 2 * base;
    double sum = 0;
    for (size_t i = 0; i < job->half; i++) {
        double fraction = 0.5 * ((double)out[job->half + i] + 1), dlog;
        double log_var = fraction * c[0] + (1 - fraction) * c[1];
        double x0_hat = (double)c[4] * job->xt[base + i] - (double)c[5] * out[i];
        double mean = c[2] * x0_hat + (double)c[3] * job->xt[base + i];
        sum += first_term(job->x0[base + i], mean, log_var, &dlog);
        if (dv_out)
            dv_out[i] = (float)(dv_scale * dlog);
    }
    return sum;
}

/* KL of one vector in nats; *dlog: its derivative by the log variance of p.
 * With d = log_p - log_q:  e^-d - 1 + d and 1 - e^-d lose digits for small d, so those come from
 * the series  e^-d = 1 - d + d^2 s(d). */
INLINE vf kl_vector(const float *c, vf eps, vf v, vf x0, vf xt, vf *dlog) {
    vf fraction = vfma(v, vset(0.5f), vset(0.5f)), d = fraction * vset(c[0] - c[1]);
    vf log_p = d + vset(c[1]);
    vdw x0_hat = (double)c[4] * WIDEN(xt) - (double)c[5] * WIDEN(eps);
    vdw wide = (double)c[2] * (WIDEN(x0) - x0_hat);
    typedef float vnarrow __attribute__((vector_size(VL * 4)));
    vf diff = (vf) __builtin_convertvector(wide, vnarrow);
    vf square = diff * diff * vexp(vzero() - log_p);
    vf s = vset(-1.0f / 5040);
    s = vfma(s, d, vset(1.0f / 720));
    s = vfma(s, d, vset(-1.0f / 120));
    s = vfma(s, d, vset(1.0f / 24));
    s = vfma(s, d, vset(-1.0f / 6));
    s = vfma(s, d, vset(0.5f));
    vf near_d2 = d * d * s; /* e^-d - 1 + d */
    vf far_d2 = vexp(vzero() - d) - vset(1.0f) + d;
    vf small = vpositive(vset(0.25f) - d * d, vset(1.0f)); /* 1 where |d| < 1/2 */
    vf excess = small * near_d2 + (vset(1.0f) - small) * far_d2;
    *dlog = vset(0.5f) * (d - excess - square);
    return vset(0.5f) * (excess + square);
}

static void loss_task(void *ctx, int b, int thread) {
    (void)thread;
    const loss_job *job = ctx;
    const float *c = job->coef + 8 * (size_t)b;
    size_t half = job->half, base = (size_t)b * half, wide = base * (job->learned ? 2 : 1);
    const float *out = job->out + wide;
    float *dout = job->dout ? job->dout + wide : NULL;
    double dv_scale = (double)c[7] * job->vb_weight * 0.5 * ((double)c[0] - c[1]) /
                      ((double)half * 0.69314718055994530942);
    vf grad = vset((float)(2.0 * c[7] / (double)half)), vscale = vset((float)dv_scale);
    int kl = job->learned && c[6] == 0;
    vdw mse = {0}, vb = {0};
    for (size_t i = 0; i < half; i += VL) {
        int n = half - i < VL ? (int)(half - i) : VL;
        vf eps = vload_n(out + i, n), diff = eps - vload_n(job->noise + base + i, n);
        mse += WIDEN(diff) * WIDEN(diff);
        if (dout)
            vstore_n(dout + i, diff * grad, n);
        if (!kl)
            continue;
        vf dlog,
            nats = kl_vector(c, eps, vload_n(out + half + i, n), vload_n(job->x0 + base + i, n),
                             vload_n(job->xt + base + i, n), &dlog);
        float lane[VL];
        vstore(lane, nats);
        vb += WIDEN(vload_n(lane, n));
        if (dout)
            vstore_n(dout + half + i, dlog * vscale, n);
    }
    double sum_mse = 0, sum_vb = 0;
    for (int i = 0; i < VL; i++) {
        sum_mse += mse[i];
        sum_vb += vb[i];
    }
    if (job->learned && !kl)
        sum_vb = first_sample(job, b, dout ? dout + half : NULL, dv_scale);
    job->mse[b] = (float)(sum_mse / (double)half);
    job->vb[b] = (float)(sum_vb / ((double)half * 0.69314718055994530942));
}

static void ds_cpu_diffusion_loss(ds_device *dev, float *mse, float *vb, float *dout,
                                  const float *out, const float *x0, const float *noise,
                                  const float *xt, const float *coef, int learned, float vb_weight,
                                  int B, int C, size_t n) {
    loss_job job = {mse, vb, dout, out, x0, noise, xt, coef, learned, vb_weight, (size_t)C * n};
    ds_team_run(ds_cpu_of(dev)->team, loss_task, &job, B);
}

/* ---------------------------------------------------------------- loss of a velocity */

typedef struct {
    float *mse, *dout;
    const float *out, *x0, *noise, *coef;
    size_t px, outpx;
} flow_job;

static void flow_task(void *ctx, int b, int thread) {
    (void)thread;
    const flow_job *job = ctx;
    const size_t px = job->px, at = (size_t)b * px, wide = (size_t)b * job->outpx;
    const float *c = job->coef + 8 * (size_t)b, *out = job->out + wide;
    float *dout = job->dout ? job->dout + wide : NULL;
    vf cx = vset(c[0]), ce = vset(c[1]), grad = vset((float)(2.0 * c[7] / (double)px));
    vdw mse = {0};
    for (size_t i = 0; i < px; i += VL) {
        int n = px - i < VL ? (int)(px - i) : VL;
        vf want = vfma(cx, vload_n(job->x0 + at + i, n), ce * vload_n(job->noise + at + i, n)),
           diff = vload_n(out + i, n) - want;
        mse += WIDEN(diff) * WIDEN(diff);
        if (dout)
            vstore_n(dout + i, diff * grad, n);
    }
    if (dout)
        memset(dout + px, 0, (job->outpx - px) * sizeof *dout);
    double sum = 0;
    for (int i = 0; i < VL; i++)
        sum += mse[i];
    job->mse[b] = (float)(sum / (double)px);
}

static void ds_cpu_flow_loss(ds_device *dev, float *mse, float *dout, const float *out,
                             const float *x0, const float *noise, const float *coef, int B,
                             size_t px, size_t outpx) {
    flow_job job = {mse, dout, out, x0, noise, coef, px, outpx};
    ds_team_run(ds_cpu_of(dev)->team, flow_task, &job, B);
}
