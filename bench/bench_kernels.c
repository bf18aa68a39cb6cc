/* bench/bench_kernels.c - rates of the kernels of one device, without the engine.
 *
 *   bench_kernels [f32|bf16] [threads] [model] [batch] [full|adapter|sample] [isa]
 *
 * Prints the processor's own peak (measured here), the rate of the matrix products, and the time of
 * every op in the sequence of one step of a DiT: ms, GFLOP/s and share of the peak.  Products count
 * a multiply-add as 2.  Times are medians over the repetitions; other load on the machine shows as
 * a gap between the median step and the best one.
 */
#include "base/mem.h"
#include "base/rng.h"
#include "bench/times.h"
#include "kernels/device.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_ROWS = 64, MAX_REPS = 64 };

/* With one thread its processor time is measured, which other load disturbs less. */
static clockid_t clock_used = CLOCK_MONOTONIC;

static double clock_ms(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static double now(void) { return clock_ms(clock_used); }

/* ---------------------------------------------------------------- the processor's peak */

#if defined(__x86_64__)
#include <immintrin.h>

#define PEAK(NAME, TARGET, TYPE, INIT, STEP, SUM)                                                  \
    __attribute__((target(TARGET))) static double NAME(long n) {                                   \
        TYPE a[12], x = INIT, y = INIT;                                                            \
        for (int i = 0; i < 12; i++)                                                               \
            a[i] = INIT;                                                                           \
        for (long k = 0; k < n; k++) {                                                             \
            __asm__ volatile("" : "+x"(x), "+x"(y));                                               \
            _Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) a[i] = STEP;                     \
        }                                                                                          \
        for (int i = 1; i < 12; i++)                                                               \
            a[0] = a[0] + a[i];                                                                    \
        return (double)SUM;                                                                        \
    }
PEAK(peak_avx2, "avx2,fma", __m256, _mm256_set1_ps(1e-6f), _mm256_fmadd_ps(x, y, a[i]), a[0][0])
#define PEAK512(NAME, TARGET, STEP)                                                                \
    __attribute__((target(TARGET))) static double NAME(long n) {                                   \
        __m512 a[24], x = _mm512_set1_ps(1e-6f), y = x;                                            \
        for (int i = 0; i < 24; i++)                                                               \
            a[i] = x;                                                                              \
        for (long k = 0; k < n; k++) {                                                             \
            __asm__ volatile("" : "+v"(x), "+v"(y));                                               \
            _Pragma("GCC unroll 24") for (int i = 0; i < 24; i++) a[i] = STEP;                     \
        }                                                                                          \
        for (int i = 1; i < 24; i++)                                                               \
            a[0] = a[0] + a[i];                                                                    \
        return (double)a[0][0];                                                                    \
    }
PEAK512(peak_avx512, "avx512f", _mm512_fmadd_ps(x, y, a[i]))
PEAK512(peak_bf16, "avx512f,avx512bf16", _mm512_dpbf16_ps(a[i], (__m512bh)x, (__m512bh)y))

/* GFLOP/s of one thread in the device's own products. */
static double peak_of(const char *device_class) {
    double (*fn)(long) = peak_avx2, flops = 12 * 16, best = 0;
    if (strstr(device_class, "avx512-f32"))
        fn = peak_avx512, flops = 24 * 32;
    else if (strstr(device_class, "avx512-bf16"))
        fn = peak_bf16, flops = 24 * 64;
    volatile double sink = 0;
    for (int i = 0; i < 20; i++) {
        double t = now();
        sink += fn(200000);
        t = now() - t;
        double rate = 200000 * flops / t * 1e-6;
        best = rate > best ? rate : best;
    }
    return best;
}
#else
static double peak_of(const char *device_class) {
    (void)device_class;
    return 0;
}
#endif

/* ---------------------------------------------------------------- the table */

typedef struct {
    const char *name;
    double flops, ms[MAX_REPS];
    int calls;
} row;

static row rows[MAX_ROWS];
static int row_count, rep;
static double peak;

static row *row_of(const char *name) {
    for (int i = 0; i < row_count; i++)
        if (strcmp(rows[i].name, name) == 0)
            return &rows[i];
    rows[row_count] = (row){.name = name};
    return &rows[row_count++];
}

static void count(const char *name, double flops, double ms) {
    row *r = row_of(name);
    r->ms[rep] += ms;
    if (rep == 0) {
        r->flops += flops;
        r->calls++;
    }
}

#define TIMED(name, flops, call)                                                                   \
    do {                                                                                           \
        double t0_ = now();                                                                        \
        call;                                                                                      \
        count(name, flops, now() - t0_);                                                           \
    } while (0)

static double median(const double *v, int n) {
    double copy[MAX_REPS];
    memcpy(copy, v, (size_t)n * sizeof *v);
    return ds_median(copy, n);
}

static void print_table(int reps, int batch) {
    double total[MAX_REPS] = {0}, flops = 0, best = 1e30;
    for (int i = 0; i < row_count; i++) {
        flops += rows[i].flops;
        for (int k = 0; k < reps; k++)
            total[k] += rows[i].ms[k];
    }
    for (int k = 0; k < reps; k++)
        best = total[k] < best ? total[k] : best;
    double mid = median(total, reps);
    printf("%-28s %5s %9s %9s %7s %9s %7s\n", "op", "calls", "median ms", "best ms", "share",
           "GFLOP/s", "peak");
    for (int i = 0; i < row_count; i++) {
        double ms = median(rows[i].ms, reps), low = ms, rate;
        for (int k = 0; k < reps; k++)
            low = rows[i].ms[k] < low ? rows[i].ms[k] : low;
        rate = rows[i].flops / low * 1e-6;
        printf("%-28s %5d %9.3f %9.3f %6.1f%%", rows[i].name, rows[i].calls, ms, low,
               100 * ms / mid);
        if (rows[i].flops > 0)
            printf(" %9.1f %6.1f%%", rate, 100 * rate / peak);
        printf("\n");
    }
    printf("%-28s %5s %9.3f (best %.3f) %.0f images/s (best %.0f) %.1f GFLOP/s, %.1f%% of peak\n\n",
           "step", "", mid, best, batch / mid * 1e3, batch / best * 1e3, flops / mid * 1e-6,
           100 * flops / mid * 1e-6 / peak);
}

/* ---------------------------------------------------------------- a model's buffers */

typedef struct {
    int m, n;
    float *W, *bias, *dW, *db;
    ds_weight *w;
    ds_affiner ad;
    ds_affiner_grad grad;
} layer;

static ds_device *dev;
static uint64_t streams = 1;

static float *floats(size_t n, float scale) {
    float *p = dev->alloc(dev, n * sizeof *p);
    DS_ASSERT(p);
    ds_rng_normal(p, n, streams++, DS_STREAM_TEST, 0, 0);
    for (size_t i = 0; i < n; i++)
        p[i] *= scale;
    return p;
}

static ds_act *activations(size_t n) {
    float *p = floats(n, 1);
    ds_act *a = dev->alloc(dev, n * dev->act_size);
    DS_ASSERT(a);
    dev->ops->act_from_f32(dev, a, p, n);
    dev->free(dev, p);
    return a;
}

static layer layer_new(int m, int n, int segs) {
    size_t mn = (size_t)m * (size_t)n, r = 8;
    layer l = {
        .m = m, .n = n, .W = floats(mn, 1 / sqrtf((float)n)), .bias = floats((size_t)m, 0.1f)};
    l.dW = floats(mn, 0);
    l.db = floats((size_t)m, 0);
    l.w = dev->weight_new(dev, m, n, 0, 1);
    DS_ASSERT(l.w);
    float *a = floats((size_t)m, 0.1f);
    for (int i = 0; i < m; i++)
        a[i] += 1;
    l.ad = (ds_affiner){.m = m,
                        .n = n,
                        .r = (int)r,
                        .segs = segs,
                        .a = a,
                        .b = floats((size_t)m, 0.1f),
                        .s = floats((size_t)segs, 0.1f),
                        .U = floats((size_t)m * r, 0.1f),
                        .V = floats((size_t)segs * r * (size_t)n, 0.1f)};
    l.grad = (ds_affiner_grad){floats((size_t)m, 0), floats((size_t)m, 0), floats((size_t)segs, 0),
                               floats((size_t)m * r, 0), floats((size_t)segs * r * (size_t)n, 0)};
    dev->ops->weight_pack(dev, l.w, l.W, NULL);
    return l;
}

enum { BLOCKS = 6 }; /* measured blocks; deeper models are scaled by depth / BLOCKS */
enum mode { FULL, ADAPTER, SAMPLE };

typedef struct {
    const char *name;
    int D, heads, depth, S, p;
} shape;

static const shape shapes[] = {{"tiny", 192, 3, 6, 32, 4},
                               {"small", 384, 6, 12, 32, 2},
                               {"base", 768, 12, 12, 32, 2},
                               {"xl", 1152, 16, 28, 32, 2}};

typedef struct {
    layer ada, qkv, proj, fc1, fc2;
    ds_act *in1, *qkv_y, *att, *proj_y, *in2, *pre, *mid, *fc2_y;
    float *x1, *x2, *mean1, *rstd1, *mean2, *rstd2, *lse, *mod, *dmod;
} block;

static struct {
    shape s;
    int B, T, mode;
    size_t rows, D;
    block blocks[BLOCKS];
    layer patch, final;
    float *x0, *dx, *cond, *dcond, *img, *noise, *out, *dout, *flat[5], *coef, *mse, *vb;
    ds_act *tokens, *cond_act, *gate_d, *wide_d, *row_d, *qkv_d, *dmod_act;
    size_t parameters;
} net;

static void net_init(shape s, int B, int mode) {
    net.s = s;
    net.B = B;
    net.mode = mode;
    net.T = (s.S / s.p) * (s.S / s.p);
    net.D = (size_t)s.D;
    net.rows = (size_t)B * (size_t)net.T;
    int D = s.D, patch = 3 * s.p * s.p;
    size_t n = net.rows * net.D, rows_n = net.rows;
    for (int i = 0; i < BLOCKS; i++) {
        block *b = &net.blocks[i];
        b->ada = layer_new(6 * D, D, 1);
        b->qkv = layer_new(3 * D, D, 3);
        b->proj = layer_new(D, D, 1);
        b->fc1 = layer_new(4 * D, D, 1);
        b->fc2 = layer_new(D, 4 * D, 1);
        b->in1 = activations(n), b->qkv_y = activations(3 * n), b->att = activations(n);
        b->proj_y = activations(n), b->in2 = activations(n), b->pre = activations(4 * n);
        b->mid = activations(4 * n), b->fc2_y = activations(n);
        b->x1 = floats(n, 1), b->x2 = floats(n, 1);
        b->mean1 = floats(rows_n, 0), b->rstd1 = floats(rows_n, 0);
        b->mean2 = floats(rows_n, 0), b->rstd2 = floats(rows_n, 0);
        b->lse = floats(rows_n * (size_t)s.heads, 0);
        b->mod = floats((size_t)B * 6 * net.D, 0.1f), b->dmod = floats((size_t)B * 6 * net.D, 0);
    }
    net.parameters = BLOCKS * 18 * net.D * net.D;
    net.patch = layer_new(D, patch, 1);
    net.final = layer_new(2 * patch, D, 1);
    size_t picture = (size_t)B * 3 * (size_t)s.S * (size_t)s.S;
    net.x0 = floats(n, 1), net.dx = floats(n, 1);
    net.cond = floats((size_t)B * net.D, 1), net.dcond = floats((size_t)B * net.D, 0);
    net.img = floats(picture, 1), net.noise = floats(picture, 1);
    net.out = floats(2 * picture, 1), net.dout = floats(2 * picture, 1);
    net.coef = floats((size_t)B * 8, 0.1f), net.mse = floats((size_t)B, 0),
    net.vb = floats((size_t)B, 0);
    net.tokens = activations(2 * picture), net.cond_act = activations((size_t)B * net.D);
    net.gate_d = activations(n), net.wide_d = activations(4 * n), net.row_d = activations(n);
    net.qkv_d = activations(3 * n), net.dmod_act = activations((size_t)B * 6 * net.D);
    for (int i = 0; i < B; i++)
        net.coef[8 * i + 6] = 0; /* no sample at t = 0 */
    for (int i = 0; i < 5; i++)
        net.flat[i] = floats(net.parameters, 0.01f);
    for (size_t i = 0; i < net.parameters; i++)
        net.flat[2][i] = fabsf(net.flat[2][i]);
}

/* ---------------------------------------------------------------- one step */

#define OPS dev->ops

static double product(const layer *l, size_t n) { return 2.0 * l->m * l->n * (double)n; }

static void pack_all(void) {
    for (int i = 0; i < BLOCKS; i++) {
        layer *l = &net.blocks[i].ada;
        for (int k = 0; k < 5; k++)
            TIMED("weight_pack", 0,
                  OPS->weight_pack(dev, l[k].w, l[k].W, net.mode == ADAPTER ? &l[k].ad : NULL));
    }
}

static void block_forward(block *b, const float *x) {
    int T = net.T, B = net.B, D = net.s.D, n = (int)net.rows, st = 6 * D, keep = net.mode != SAMPLE;
    double attention = 4.0 * T * (double)net.rows * D;
    const float *mod = b->mod;
    TIMED("adaLN linear", product(&b->ada, (size_t)B),
          OPS->linear_f32_forward(dev, b->mod, net.cond_act, b->ada.w, b->ada.bias, B));
    TIMED("adaln_forward", 0,
          OPS->adaln_forward(dev, b->in1, b->mean1, b->rstd1, x, mod, mod + D, st, 1e-6f, B, T, D));
    TIMED("qkv", product(&b->qkv, net.rows),
          OPS->linear_forward(dev, b->qkv_y, b->in1, b->qkv.w, b->qkv.bias, n));
    TIMED(
        "attention_forward", attention,
        OPS->attention_forward(dev, b->att, keep ? b->lse : NULL, b->qkv_y, B, T, D, net.s.heads));
    TIMED("proj + residual", product(&b->proj, net.rows),
          OPS->linear_residual_forward(dev, keep ? b->proj_y : NULL, b->x1, x, mod + 2 * D, st,
                                       b->att, b->proj.w, b->proj.bias, B, T));
    TIMED("adaln_forward", 0,
          OPS->adaln_forward(dev, b->in2, b->mean2, b->rstd2, b->x1, mod + 3 * D, mod + 4 * D, st,
                             1e-6f, B, T, D));
    TIMED("fc1 + gelu", product(&b->fc1, net.rows),
          OPS->linear_gelu_forward(dev, keep ? b->pre : NULL, b->mid, b->in2, b->fc1.w, b->fc1.bias,
                                   n));
    TIMED("fc2 + residual", product(&b->fc2, net.rows),
          OPS->linear_residual_forward(dev, keep ? b->fc2_y : NULL, b->x2, b->x1, mod + 5 * D, st,
                                       b->mid, b->fc2.w, b->fc2.bias, B, T));
}

/* Gradients of the layer's own parameters. */
static void parameters(layer *l, const ds_act *dy, const ds_act *y, const ds_act *x, size_t n) {
    if (net.mode == FULL)
        TIMED("linear_backward_weight", product(l, n),
              OPS->linear_backward_weight(dev, l->dW, l->db, dy, x, l->m, l->n, (int)n));
    else
        TIMED("affiner_backward", (double)n * 8 * 4.0 * (l->m + (double)l->n * l->ad.segs),
              OPS->affiner_backward(dev, &l->grad, &l->ad, dy, y, x, NULL, NULL, l->W, l->bias,
                                    (int)n));
}

static void block_backward(block *b, const float *x) {
    int T = net.T, B = net.B, D = net.s.D, n = (int)net.rows, st = 6 * D;
    double attention = 10.0 * T * (double)net.rows * D;
    float *dx = net.dx, *dmod = b->dmod;
    const float *mod = b->mod;
    TIMED("gate_backward", 0,
          OPS->gate_backward(dev, net.gate_d, dmod + 5 * D, st, dx, b->fc2_y, mod + 5 * D, st, B, T,
                             D));
    parameters(&b->fc2, net.gate_d, b->fc2_y, b->mid, net.rows);
    TIMED("fc2 dx + gelu'", product(&b->fc2, net.rows),
          OPS->linear_gelu_backward_input(dev, net.wide_d, net.gate_d, b->fc2.w, b->pre, n));
    parameters(&b->fc1, net.wide_d, b->pre, b->in2, net.rows);
    TIMED("fc1 dx", product(&b->fc1, net.rows),
          OPS->linear_backward_input(dev, net.row_d, net.wide_d, b->fc1.w, n));
    TIMED("adaln_backward", 0,
          OPS->adaln_backward(dev, dx, dmod + 3 * D, dmod + 4 * D, st, net.row_d, b->x1, b->mean2,
                              b->rstd2, mod + 4 * D, st, B, T, D));
    TIMED("gate_backward", 0,
          OPS->gate_backward(dev, net.gate_d, dmod + 2 * D, st, dx, b->proj_y, mod + 2 * D, st, B,
                             T, D));
    parameters(&b->proj, net.gate_d, b->proj_y, b->att, net.rows);
    TIMED("proj dx", product(&b->proj, net.rows),
          OPS->linear_backward_input(dev, net.row_d, net.gate_d, b->proj.w, n));
    TIMED("attention_backward", attention,
          OPS->attention_backward(dev, net.qkv_d, net.row_d, b->att, b->lse, b->qkv_y, B, T, D,
                                  net.s.heads));
    parameters(&b->qkv, net.qkv_d, b->qkv_y, b->in1, net.rows);
    TIMED("qkv dx", product(&b->qkv, net.rows),
          OPS->linear_backward_input(dev, net.row_d, net.qkv_d, b->qkv.w, n));
    TIMED("adaln_backward", 0,
          OPS->adaln_backward(dev, dx, dmod, dmod + D, st, net.row_d, x, b->mean1, b->rstd1,
                              mod + D, st, B, T, D));
    TIMED("act_from_f32", 0, OPS->act_from_f32(dev, net.dmod_act, dmod, (size_t)B * 6 * net.D));
    parameters(&b->ada, net.dmod_act, net.dmod_act, net.cond_act, (size_t)B);
    TIMED("adaLN linear dx", product(&b->ada, (size_t)B),
          OPS->linear_f32_backward_input(dev, net.dcond, net.dmod_act, b->ada.w, B));
}

static void head(void) {
    int B = net.B, S = net.s.S, p = net.s.p, n = (int)net.rows;
    block *last = &net.blocks[BLOCKS - 1];
    TIMED("final linear", product(&net.final, net.rows),
          OPS->linear_f32_forward(dev, net.out, last->in1, net.final.w, net.final.bias, n));
    TIMED("unpatchify", 0, OPS->unpatchify(dev, net.dout, net.out, B, 6, S, p));
    if (net.mode == SAMPLE)
        return;
    TIMED("diffusion_loss", 0,
          OPS->diffusion_loss(dev, net.mse, net.vb, net.dout, net.out, net.img, net.noise, net.img,
                              net.coef, 1, 1e-3f, B, 3, (size_t)S * (size_t)S));
    TIMED("unpatchify_backward", 0,
          OPS->unpatchify_backward(dev, net.tokens, net.dout, B, 6, S, p));
    TIMED("final linear dx", product(&net.final, net.rows),
          OPS->linear_backward_input(dev, net.row_d, net.tokens, net.final.w, n));
}

static void step(void) {
    int B = net.B, S = net.s.S, p = net.s.p, n = (int)net.rows;
    uint32_t steps[4096] = {0};
    uint64_t samples[4096] = {0};
    if (net.mode != SAMPLE)
        pack_all();
    TIMED("normal", 0,
          OPS->normal(dev, net.noise, 1, DS_STREAM_TEST, steps, samples, B,
                      3 * (size_t)S * (size_t)S));
    TIMED("patchify", 0, OPS->patchify(dev, net.tokens, net.img, B, 3, S, p));
    TIMED("patch linear", product(&net.patch, net.rows),
          OPS->linear_f32_forward(dev, net.x0, net.tokens, net.patch.w, net.patch.bias, n));
    TIMED("add_position", 0, OPS->add_position(dev, net.x0, net.blocks[0].x1, B, net.T, net.s.D));
    for (int i = 0; i < BLOCKS; i++)
        block_forward(&net.blocks[i], i ? net.blocks[i - 1].x2 : net.x0);
    head();
    if (net.mode == SAMPLE)
        return;
    for (int i = BLOCKS - 1; i >= 0; i--)
        block_backward(&net.blocks[i], i ? net.blocks[i - 1].x2 : net.x0);
    double *norm = dev->alloc(dev, sizeof *norm);
    size_t count_of = net.mode == FULL ? net.parameters : net.parameters / 12;
    TIMED("sum_squares", 0, OPS->sum_squares(dev, norm, net.flat[4], count_of));
    TIMED("adamw", 0,
          OPS->adamw(dev, net.flat[0], net.flat[1], net.flat[2], net.flat[3], net.flat[4], NULL,
                     count_of, 1e-4f, 0.9f, 0.999f, 1e-8f, 0, 1, norm, 0.999f, 10));
    dev->free(dev, norm);
}

/* ---------------------------------------------------------------- products alone */

static void product_rate(int m, int n, int count_rows) {
    layer l = layer_new(m, n, 1);
    ds_act *x = activations((size_t)count_rows * (size_t)n);
    ds_act *y = activations((size_t)count_rows * (size_t)m);
    double ms[3][9], flops = product(&l, (size_t)count_rows);
    for (int i = 0; i < 9; i++) {
        double t = now();
        OPS->linear_forward(dev, y, x, l.w, l.bias, count_rows);
        ms[0][i] = now() - t;
        t = now();
        OPS->linear_backward_input(dev, x, y, l.w, count_rows);
        ms[1][i] = now() - t;
        t = now();
        OPS->linear_backward_weight(dev, l.dW, l.db, y, x, m, n, count_rows);
        ms[2][i] = now() - t;
    }
    printf("%5d x %5d x %5d ", count_rows, m, n);
    for (int k = 0; k < 3; k++) {
        double rate = flops / median(ms[k], 9) * 1e-6;
        printf(" %8.1f %5.1f%%", rate, 100 * rate / peak);
    }
    printf("\n");
    dev->free(dev, x);
    dev->free(dev, y);
}

static void product_rates(void) {
    static const int widths[] = {192, 384, 768, 1152};
    printf("rows x outputs x inputs       forward        dx           dW   (GFLOP/s)\n");
    for (int i = 0; i < 4; i++) {
        int D = widths[i];
        product_rate(3 * D, D, 4096);
        product_rate(D, D, 4096);
        product_rate(4 * D, D, 4096);
        product_rate(D, 4 * D, 4096);
    }
    printf("\n");
}

static const shape *shape_named(const char *name) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (strcmp(shapes[i].name, name) == 0)
            return &shapes[i];
    return NULL;
}

int main(int argc, char **argv) {
    const char *precision = argc > 1 ? argv[1] : "f32", *model = argc > 3 ? argv[3] : "tiny";
    const char *mode = argc > 5 ? argv[5] : "full";
    ds_device_options opt = {.kind = "cpu",
                             .precision = strcmp(precision, "bf16") == 0 ? DS_PRECISION_BF16
                                                                         : DS_PRECISION_F32,
                             .threads = argc > 2 ? (int)strtol(argv[2], NULL, 10) : 0,
                             .isa = argc > 6 ? argv[6] : NULL};
    ds_error err;
    if (ds_device_open(&dev, &opt, &err)) {
        fprintf(stderr, "bench_kernels: %s\n", err.message);
        return 1;
    }
    if (dev->threads == 1)
        clock_used = CLOCK_THREAD_CPUTIME_ID;
    peak = peak_of(dev->device_class) * dev->threads;
    printf("%s, %d threads, peak %.0f GFLOP/s (measured, one thread times threads)\n\n",
           dev->device_class, dev->threads, peak);
    if (strcmp(model, "products") == 0) {
        product_rates();
        ds_device_close(dev);
        return 0;
    }
    const shape *s = shape_named(model);
    int batch = argc > 4 ? (int)strtol(argv[4], NULL, 10) : 64, reps = 20;
    if (!s || batch < 1 || batch > 4096) {
        fprintf(stderr,
                "bench_kernels: models are tiny, small, base, xl or products; batch 1..4096\n");
        return 2;
    }
    net_init(*s, batch,
             strcmp(mode, "adapter") == 0  ? ADAPTER
             : strcmp(mode, "sample") == 0 ? SAMPLE
                                           : FULL);
    printf("%s, batch %d, %s: %d blocks measured of %d\n", s->name, batch, mode, BLOCKS, s->depth);
    step(); /* warm */
    row_count = 0;
    double start = now(), used = clock_ms(CLOCK_PROCESS_CPUTIME_ID);
    for (rep = 0; rep < reps && (rep < 3 || now() - start < 8000); rep++)
        step();
    used = (clock_ms(CLOCK_PROCESS_CPUTIME_ID) - used) / rep;
    print_table(rep, batch);
    printf("processor time of a step: %.1f ms in all, %.1f ms a thread = %.0f images/s at most\n",
           used, used / dev->threads, batch * dev->threads / used * 1e3);
    ds_device_close(dev);
    return 0;
}
