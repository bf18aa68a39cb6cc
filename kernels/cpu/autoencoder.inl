/* kernels/cpu/autoencoder.inl - normalisation over groups, frames, attention with one wide head:
 * f32, NHWC, one picture. */

/* ---------------------------------------------------------------- group normalisation
 * Sums of pieces of the picture, added in the order of the pieces; a piece depends on C alone. */

enum { MOMENT_FLOATS = 32768 }; /* of one piece: stays in the second-level cache */

typedef struct {
    const float *x;
    double *sums; /* (pieces, 2, C) */
    int pixels, piece, C;
} moment_job;

static void moment_task(void *ctx, int task, int thread) {
    (void)thread;
    const moment_job *job = ctx;
    size_t C = (size_t)job->C;
    int first = task * job->piece, n = imin(job->piece, job->pixels - first);
    const float *x = job->x + (size_t)first * C;
    double *to = job->sums + (size_t)task * 2 * C;
    for (int c = 0; c < job->C; c += VL) {
        int width = imin(VL, job->C - c);
        vdw sum = {0}, square = {0};
        for (int i = 0; i < n; i++) {
            vdw v = WIDEN(vload_n(x + (size_t)i * C + c, width));
            sum += v;
            square += v * v;
        }
        for (int k = 0; k < width; k++) {
            to[c + k] = sum[k];
            to[C + (size_t)(c + k)] = square[k];
        }
    }
}

static void ds_cpu_group_norm_affine(ds_device *dev, float *scale, float *shift, const float *x,
                                     const float *gamma, const float *beta, int groups, float eps,
                                     int pixels, int C) {
    DS_ASSERT(groups > 0 && C % groups == 0 && pixels > 0);
    ds_cpu *cpu = ds_cpu_of(dev);
    int piece = MOMENT_FLOATS / C < 16 ? 16 : MOMENT_FLOATS / C, pieces = ceil_div(pixels, piece);
    size_t c2 = 2 * (size_t)C;
    moment_job job = {x, ds_cpu_shared(cpu, (size_t)pieces * c2 * sizeof(double)), pixels, piece,
                      C};
    ds_team_run(cpu->team, moment_task, &job, pieces);
    for (int p = 1; p < pieces; p++)
        for (size_t c = 0; c < c2; c++)
            job.sums[c] += job.sums[(size_t)p * c2 + c];
    int each = C / groups;
    double n = (double)pixels * each;
    for (int g = 0; g < groups; g++) {
        double sum = 0, square = 0;
        for (int c = g * each; c < (g + 1) * each; c++) {
            sum += job.sums[c];
            square += job.sums[C + c];
        }
        double mean = sum / n, var = square / n - mean * mean;
        for (int c = g * each; c < (g + 1) * each; c++) {
            double a = gamma[c] / sqrt((var > 0 ? var : 0) + (double)eps);
            scale[c] = (float)a;
            shift[c] = (float)(beta[c] - mean * a);
        }
    }
}

/* ---------------------------------------------------------------- frames */

typedef struct {
    float *y;
    const float *x, *scale, *shift;
    int silu, zoom, width, C, left, right;
} frame_job;

INLINE void frame_pixel(const frame_job *job, float *to, const float *from) {
    int C = job->C;
    for (int c = 0; c < C; c += VL) {
        int n = imin(VL, C - c);
        vf u = vload_n(from + c, n);
        if (job->scale)
            u = vfma(u, vload_n(job->scale + c, n), vload_n(job->shift + c, n));
        if (job->silu)
            u = u * sigmoid(u);
        for (int z = 0; z < job->zoom; z++)
            vstore_n(to + z * C + c, u, n);
    }
}

static void frame_task(void *ctx, int row, int thread) {
    (void)thread;
    const frame_job *job = ctx;
    int C = job->C, wide = job->left + job->width * job->zoom + job->right;
    float *to = job->y + (size_t)row * (size_t)wide * (size_t)C;
    const float *from = job->x + (size_t)(row / job->zoom) * (size_t)job->width * (size_t)C;
    zero_floats(to, job->left * C);
    to += job->left * C;
    for (int i = 0; i < job->width; i++, from += C, to += job->zoom * C)
        frame_pixel(job, to, from);
    zero_floats(to, job->right * C);
}

static void ds_cpu_frame_forward(ds_device *dev, float *y, const float *x, const float *scale,
                                 const float *shift, int silu, int zoom, int rows, int width, int C,
                                 int left, int right) {
    DS_ASSERT(zoom > 0 && left >= 0 && right >= 0);
    frame_job job = {y, x, scale, shift, silu, zoom, width, C, left, right};
    ds_team_run(ds_cpu_of(dev)->team, frame_task, &job, rows * zoom);
}

/* ---------------------------------------------------------------- attention
 * Keys and values are packed once for all; a task is a block of queries with whole rows of scores.
 */

typedef struct {
    ds_cpu *cpu;
    float *out, *kt, *vn;
    const float *q, *k, *v;
    int T, D;
} wide_job;

static void wide_pack_task(void *ctx, int task, int thread) {
    (void)thread;
    const wide_job *job = ctx;
    int keys = ceil_div(job->T, NR), p = task < keys ? task : task - keys, at = p * NR;
    size_t D = (size_t)job->D;
    if (task < keys)
        panel_t_f32(job->kt + (size_t)at * D, job->k + (size_t)at * D, D, imin(NR, job->T - at),
                    job->D);
    else
        panel_n_f32(job->vn + (size_t)at * (size_t)job->T, job->v + at, D, job->T,
                    imin(NR, job->D - at));
}

/* Scores of T keys -> e^(scale (s - max)) in place; 1 over their sum. */
static float wide_softmax(float *s, int T, float scale) {
    vf most = vset(-INFINITY), sum = vzero(), vs = vset(scale);
    int whole = T / VL * VL;
    for (int j = 0; j < whole; j += VL)
        most = vmax(most, vload(s + j));
    for (int j = whole; j < T; j++)
        most = vmax(most, vset(s[j]));
    vf top = vset(vtop(most));
    for (int j = 0; j < T; j += VL) {
        int n = imin(VL, T - j);
        vf e = vexp((vload_n(s + j, n) - top) * vs);
        vstore_n(s + j, e, n);
        sum = sum + vload_n(s + j, n);
    }
    return 1 / vsum(sum);
}

static void epi_wide(const epilogue *e, const float *tile, int row, int nr, int col, int nc) {
    FOR_TILE(vstore_n(e->yf + at, u * vset(e->extra[row + r]), n);)
}

static void wide_task(void *ctx, int task, int thread) {
    const wide_job *job = ctx;
    int T = job->T, D = job->D, tp = padded(T), i0 = task * QUERIES, rows = imin(QUERIES, T - i0);
    float *s = ds_cpu_scratch(job->cpu, thread), inverse[QUERIES], scale = 1 / sqrtf((float)D);
    epilogue es = {.fn = epi_f32, .plain = 1, .yf = s, .ld = (size_t)tp};
    product scores = {.a = (const char *)(job->q + (size_t)i0 * (size_t)D),
                      .rs = (ptrdiff_t)D * 4,
                      .ks = 4,
                      .b = (const char *)job->kt,
                      .rows = rows,
                      .cols = T,
                      .steps = D,
                      .epi = &es};
    product_here(&scores);
    for (int i = 0; i < rows; i++)
        inverse[i] = wide_softmax(s + (size_t)i * (size_t)tp, T, scale);
    epilogue eo = {
        .fn = epi_wide, .yf = job->out + (size_t)i0 * (size_t)D, .ld = (size_t)D, .extra = inverse};
    product mix = {.a = (const char *)s,
                   .rs = (ptrdiff_t)tp * 4,
                   .ks = 4,
                   .b = (const char *)job->vn,
                   .rows = rows,
                   .cols = D,
                   .steps = T,
                   .epi = &eo};
    product_here(&mix);
}

static void ds_cpu_attention_wide(ds_device *dev, float *out, const float *q, const float *k,
                                  const float *v, int T, int D) {
    ds_cpu *cpu = ds_cpu_of(dev);
    size_t kt = (size_t)padded(T) * (size_t)D, vn = (size_t)padded(D) * (size_t)T;
    float *panels = ds_cpu_shared(cpu, (kt + vn) * sizeof(float));
    wide_job job = {cpu, out, panels, panels + kt, q, k, v, T, D};
    ds_cpu_scratch_reserve(cpu, (size_t)QUERIES * (size_t)padded(T) * sizeof(float));
    ds_team_run(cpu->team, wide_pack_task, &job, ceil_div(T, NR) + ceil_div(D, NR));
    ds_team_run(cpu->team, wide_task, &job, ceil_div(T, QUERIES));
}
