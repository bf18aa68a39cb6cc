/* kernels/cpu/element.inl - element-wise ops, layout, conditioning, optimiser. */

enum { ELEMENTS = 16384 }; /* of one task */

typedef struct element_job element_job;
struct element_job {
    void (*fn)(const element_job *job, size_t i, int n); /* one vector at i, n lanes */
    size_t count;
    float *out;
    const float *x, *y;
    act_t *aout;
    const act_t *ax, *ay;
    float value;
};

static void element_task(void *ctx, int task, int thread) {
    (void)thread;
    const element_job *job = ctx;
    size_t i0 = (size_t)task * ELEMENTS,
           i1 = i0 + ELEMENTS < job->count ? i0 + ELEMENTS : job->count;
    for (size_t i = i0; i < i1; i += VL)
        job->fn(job, i, i1 - i < VL ? (int)(i1 - i) : VL);
}

static void element_run(ds_device *dev, element_job *job, size_t n) {
    job->count = n;
    ds_team_run(ds_cpu_of(dev)->team, element_task, job, (int)((n + ELEMENTS - 1) / ELEMENTS));
}

static void from_f32(const element_job *e, size_t i, int n) {
    ast_n(e->aout + i, vload_n(e->x + i, n), n);
}
static void to_f32(const element_job *e, size_t i, int n) {
    vstore_n(e->out + i, ald_n(e->ax + i, n), n);
}
static void set(const element_job *e, size_t i, int n) { vstore_n(e->out + i, vset(e->value), n); }
static void sum2(const element_job *e, size_t i, int n) {
    vstore_n(e->out + i, vload_n(e->out + i, n) + vload_n(e->x + i, n), n);
}
static void gelu1(const element_job *e, size_t i, int n) {
    ast_n(e->aout + i, gelu(ald_n(e->ax + i, n)), n);
}
static void gelu_back(const element_job *e, size_t i, int n) {
    ast_n(e->aout + i, ald_n(e->ax + i, n) * gelu_slope(ald_n(e->ay + i, n)), n);
}
static void silu(const element_job *e, size_t i, int n) {
    vf x = vload_n(e->x + i, n);
    vstore_n(e->out + i, x * sigmoid(x), n);
}
static void silu_back(const element_job *e, size_t i, int n) {
    vf x = vload_n(e->y + i, n), s = sigmoid(x), one = vset(1.0f);
    vstore_n(e->out + i, vload_n(e->x + i, n) * s * vfma(x, one - s, one), n);
}

static void ds_cpu_act_from_f32(ds_device *dev, ds_act *out, const float *x, size_t n) {
    element_run(dev, &(element_job){.fn = from_f32, .aout = acts(out), .x = x}, n);
}
static void ds_cpu_act_to_f32(ds_device *dev, float *out, const ds_act *x, size_t n) {
    element_run(dev, &(element_job){.fn = to_f32, .out = out, .ax = cacts(x)}, n);
}
static void ds_cpu_fill(ds_device *dev, float *out, float value, size_t n) {
    element_run(dev, &(element_job){.fn = set, .out = out, .value = value}, n);
}
static void ds_cpu_add(ds_device *dev, float *out, const float *x, size_t n) {
    element_run(dev, &(element_job){.fn = sum2, .out = out, .x = x}, n);
}
static void ds_cpu_gelu_forward(ds_device *dev, ds_act *y, const ds_act *pre, size_t n) {
    element_run(dev, &(element_job){.fn = gelu1, .aout = acts(y), .ax = cacts(pre)}, n);
}
static void ds_cpu_gelu_backward(ds_device *dev, ds_act *dpre, const ds_act *dy, const ds_act *pre,
                                 size_t n) {
    element_run(
        dev, &(element_job){.fn = gelu_back, .aout = acts(dpre), .ax = cacts(dy), .ay = cacts(pre)},
        n);
}
static void ds_cpu_silu_forward(ds_device *dev, float *out, const float *x, size_t n) {
    element_run(dev, &(element_job){.fn = silu, .out = out, .x = x}, n);
}
static void ds_cpu_silu_backward(ds_device *dev, float *dx, const float *dout, const float *x,
                                 size_t n) {
    element_run(dev, &(element_job){.fn = silu_back, .out = dx, .x = dout, .y = x}, n);
}

/* ---------------------------------------------------------------- conditioning */

static void ds_cpu_timestep_embedding(ds_device *dev, float *out, const float *t, int B, int dim,
                                      float max_period, int shift) {
    (void)dev;
    int half = dim / 2;
    DS_ASSERT(dim % 2 == 0 && half > shift);
    double rate = -log((double)max_period);
    for (int i = 0; i < half; i++) {
        double f = exp(rate * i / (half - shift));
        for (int b = 0; b < B; b++) {
            double angle = (double)t[b] * f;
            out[(size_t)b * (size_t)dim + (size_t)i] = (float)cos(angle);
            out[(size_t)b * (size_t)dim + (size_t)(half + i)] = (float)sin(angle);
        }
    }
}

static void add_row(float *out, const float *x, int D) {
    for (int j = 0; j < D; j += VL)
        vstore_n(out + j, vload_n(out + j, D - j) + vload_n(x + j, D - j), D - j);
}

static void ds_cpu_embedding_forward(ds_device *dev, float *out, const float *table, const int *idx,
                                     int B, int D) {
    (void)dev;
    for (int b = 0; b < B; b++)
        if (idx[b] >= 0)
            add_row(out + (size_t)b * (size_t)D, table + (size_t)idx[b] * (size_t)D, D);
}

static void ds_cpu_embedding_backward(ds_device *dev, float *dtable, const float *dout,
                                      const int *idx, int B, int D) {
    (void)dev;
    for (int b = 0; b < B; b++)
        if (idx[b] >= 0)
            add_row(dtable + (size_t)idx[b] * (size_t)D, dout + (size_t)b * (size_t)D, D);
}

typedef struct {
    float *out;
    const float *table;
    const int *idx;
    int rows, B, D;
} take_job;

enum { TAKEN = 8 }; /* samples of a task, of one layer */

static void take_task(void *ctx, int task, int thread) {
    (void)thread;
    const take_job *job = ctx;
    const size_t D = (size_t)job->D;
    const int parts = ceil_div(job->B, TAKEN), layer = task / parts, first = task % parts * TAKEN;
    for (int b = first; b < job->B && b < first + TAKEN; b++) {
        DS_ASSERT(job->idx[b] >= 0 && job->idx[b] < job->rows);
        size_t from = (size_t)layer * (size_t)job->rows + (size_t)job->idx[b];
        size_t to = (size_t)layer * (size_t)job->B + (size_t)b;
        memcpy(job->out + to * D, job->table + from * D, D * sizeof(float));
    }
}

static void ds_cpu_embedding_take(ds_device *dev, float *out, const float *table, const int *idx,
                                  int layers, int rows, int B, int D) {
    take_job job = {out, table, idx, rows, B, D};
    ds_team_run(ds_cpu_of(dev)->team, take_task, &job, layers * ceil_div(B, TAKEN));
}

/* ---------------------------------------------------------------- layout */

typedef struct {
    act_t *tokens;
    float *img;
    const float *src;
    int C, S, p, T, D;
} layout_job;

static void add_position_task(void *ctx, int b, int thread) {
    (void)thread;
    const layout_job *job = ctx;
    for (int t = 0; t < job->T; t++)
        add_row(job->img + ((size_t)b * (size_t)job->T + (size_t)t) * (size_t)job->D,
                job->src + (size_t)t * (size_t)job->D, job->D);
}

static void ds_cpu_add_position(ds_device *dev, float *x, const float *pos, int B, int T, int D) {
    layout_job job = {.img = x, .src = pos, .T = T, .D = D};
    ds_team_run(ds_cpu_of(dev)->team, add_position_task, &job, B);
}

static void patchify_task(void *ctx, int b, int thread) {
    (void)thread;
    const layout_job *job = ctx;
    int C = job->C, S = job->S, p = job->p, side = S / p, size = C * p * p;
    size_t n = (size_t)C * (size_t)S * (size_t)S;
    const float *img = job->src + (size_t)b * n;
    act_t *tokens = job->tokens + (size_t)b * n;
    for (int c = 0; c < C; c++)
        for (int y = 0; y < S; y++)
            for (int px = 0; px < side; px++) {
                act_t *to = tokens + ((size_t)(y / p) * (size_t)side + (size_t)px) * (size_t)size +
                            (size_t)((c * p + y % p) * p);
                const float *from = img + ((size_t)c * (size_t)S + (size_t)y) * (size_t)S + px * p;
                for (int x = 0; x < p; x++)
                    to[x] = aput(from[x]);
            }
}

static void ds_cpu_patchify(ds_device *dev, ds_act *tokens, const float *img, int B, int C, int S,
                            int p) {
    DS_ASSERT(S % p == 0);
    layout_job job = {.tokens = acts(tokens), .src = img, .C = C, .S = S, .p = p};
    ds_team_run(ds_cpu_of(dev)->team, patchify_task, &job, B);
}

/* Address inside tokens of (row y, column x, channel 0) of a picture; channels follow. */
INLINE size_t unpatch_at(const layout_job *job, int y, int x) {
    int p = job->p, side = job->S / p;
    return ((size_t)(y / p) * (size_t)side + (size_t)(x / p)) * (size_t)(job->C * p * p) +
           (size_t)((y % p * p + x % p) * job->C);
}

static void unpatchify_task(void *ctx, int b, int thread) {
    (void)thread;
    const layout_job *job = ctx;
    int C = job->C, S = job->S;
    size_t plane = (size_t)S * (size_t)S, n = (size_t)C * plane;
    float *img = job->img + (size_t)b * n;
    for (int y = 0; y < S; y++)
        for (int x = 0; x < S; x++)
            for (int c = 0; c < C; c++)
                img[(size_t)c * plane + (size_t)(y * S + x)] =
                    job->src[(size_t)b * n + unpatch_at(job, y, x) + (size_t)c];
}

static void ds_cpu_unpatchify(ds_device *dev, float *img, const float *tokens, int B, int C, int S,
                              int p) {
    DS_ASSERT(S % p == 0);
    layout_job job = {.img = img, .src = tokens, .C = C, .S = S, .p = p};
    ds_team_run(ds_cpu_of(dev)->team, unpatchify_task, &job, B);
}

static void unpatchify_back_task(void *ctx, int b, int thread) {
    (void)thread;
    const layout_job *job = ctx;
    int C = job->C, S = job->S;
    size_t plane = (size_t)S * (size_t)S, n = (size_t)C * plane;
    const float *img = job->src + (size_t)b * n;
    for (int y = 0; y < S; y++)
        for (int x = 0; x < S; x++)
            for (int c = 0; c < C; c++)
                job->tokens[(size_t)b * n + unpatch_at(job, y, x) + (size_t)c] =
                    aput(img[(size_t)c * plane + (size_t)(y * S + x)]);
}

static void ds_cpu_unpatchify_backward(ds_device *dev, ds_act *dtokens, const float *dimg, int B,
                                       int C, int S, int p) {
    DS_ASSERT(S % p == 0);
    layout_job job = {.tokens = acts(dtokens), .src = dimg, .C = C, .S = S, .p = p};
    ds_team_run(ds_cpu_of(dev)->team, unpatchify_back_task, &job, B);
}

/* ---------------------------------------------------------------- optimiser */

/* VL doubles, in as many registers as that takes. */
typedef double vdw __attribute__((vector_size(VL * 8)));
#define WIDEN(x) __builtin_convertvector(x, vdw)

typedef struct {
    const float *x;
    double *partial;
    size_t n;
} square_job;

static void square_task(void *ctx, int task, int thread) {
    (void)thread;
    const square_job *job = ctx;
    size_t i0 = (size_t)task * ELEMENTS, i1 = i0 + ELEMENTS < job->n ? i0 + ELEMENTS : job->n;
    vdw sum = {0};
    for (size_t i = i0; i < i1; i += VL) {
        vdw x = WIDEN(vload_n(job->x + i, i1 - i < VL ? (int)(i1 - i) : VL));
        sum += x * x;
    }
    double total = 0;
    for (int i = 0; i < VL; i++)
        total += sum[i];
    job->partial[task] = total;
}

static void ds_cpu_sum_squares(ds_device *dev, double *out, const float *x, size_t n) {
    ds_cpu *cpu = ds_cpu_of(dev);
    int tasks = (int)((n + ELEMENTS - 1) / ELEMENTS);
    square_job job = {x, ds_cpu_shared(cpu, (size_t)tasks * sizeof(double) + 64), n};
    ds_team_run(cpu->team, square_task, &job, tasks);
    *out = 0;
    for (int i = 0; i < tasks; i++)
        *out += job.partial[i];
}

typedef struct {
    float *p, *m, *v, *ema;
    const float *g, *lr_mul;
    size_t n;
    float lr, b1, b2, eps, wd, gscale, ema_decay, correct1, root2; /* 1/(1-b1^s), 1/sqrt(1-b2^s) */
} adam_job;

static void adam_task(void *ctx, int task, int thread) {
    (void)thread;
    const adam_job *a = ctx;
    size_t i0 = (size_t)task * ELEMENTS, i1 = i0 + ELEMENTS < a->n ? i0 + ELEMENTS : a->n;
    vf b1 = vset(a->b1), b2 = vset(a->b2), c1 = vset((float)(1.0 - (double)a->b1));
    vf c2 = vset((float)(1.0 - (double)a->b2)), decay = vset(a->ema_decay);
    vf fresh = vset((float)(1.0 - (double)a->ema_decay));
    for (size_t i = i0; i < i1; i += VL) {
        int n = i1 - i < VL ? (int)(i1 - i) : VL;
        vf rate = vset(a->lr);
        if (a->lr_mul)
            rate = rate * vload_n(a->lr_mul + i, n);
        vf g = vload_n(a->g + i, n) * vset(a->gscale);
        vf m = vfma(c1, g, b1 * vload_n(a->m + i, n));
        vf v = vfma(c2 * g, g, b2 * vload_n(a->v + i, n));
        vf p = vload_n(a->p + i, n);
        p = p * (vset(1.0f) - rate * vset(a->wd));
        vf step = m * vset(a->correct1) / (vsqrt(v) * vset(a->root2) + vset(a->eps));
        p = vfnma(rate, step, p);
        vstore_n(a->m + i, m, n);
        vstore_n(a->v + i, v, n);
        vstore_n(a->p + i, p, n);
        if (a->ema)
            vstore_n(a->ema + i, vfma(fresh, p, decay * vload_n(a->ema + i, n)), n);
    }
}

static void ds_cpu_adamw(ds_device *dev, float *p, float *m, float *v, float *ema, const float *g,
                         const float *lr_mul, size_t n, float lr, float b1, float b2, float eps,
                         float wd, double clip, const double *squares, float ema_decay, int step) {
    if (squares && !isfinite(*squares))
        return;
    double norm = squares ? sqrt(*squares) : 0;
    adam_job job = {.p = p,
                    .m = m,
                    .v = v,
                    .ema = ema,
                    .g = g,
                    .lr_mul = lr_mul,
                    .n = n,
                    .lr = lr,
                    .b1 = b1,
                    .b2 = b2,
                    .eps = eps,
                    .wd = wd,
                    .gscale = clip > 0 && norm > clip ? (float)(clip / norm) : 1,
                    .ema_decay = ema_decay,
                    .correct1 = (float)(1 / (1 - pow(b1, step))),
                    .root2 = (float)(1 / sqrt(1 - pow(b2, step)))};
    ds_team_run(ds_cpu_of(dev)->team, adam_task, &job, (int)((n + ELEMENTS - 1) / ELEMENTS));
}
