/* kernels/cpu/linear.inl - linear layers: packing with the adapter folded in, products and their
 * epilogues, weight gradients. */

/* ---------------------------------------------------------------- epilogues */

INLINE vf bias_of(const epilogue *e, int col, int n) {
    return e->bias ? vload_n(e->bias + col, n) : vzero();
}

/* Loop over the vectors of a tile: `u` is the biased value at (row+r, col+v), `n` lanes of it
 * count, `at` its index in the output.  Whole vectors run without masks. */
#define TILE_ROWS(...)                                                                             \
    for (int r = 0; r < nr; r++) {                                                                 \
        size_t at = (size_t)(row + r) * e->ld + (size_t)(col + v);                                 \
        vf u = vload(tile + r * NR + v) + bias;                                                    \
        __VA_ARGS__                                                                                \
    }
#define FOR_TILE(...)                                                                              \
    for (int v = 0; v < nc; v += VL) {                                                             \
        vf bias = bias_of(e, col + v, nc - v);                                                     \
        if (nc - v >= VL) {                                                                        \
            enum { n = VL };                                                                       \
            TILE_ROWS(__VA_ARGS__)                                                                 \
        } else {                                                                                   \
            const int n = nc - v;                                                                  \
            TILE_ROWS(__VA_ARGS__)                                                                 \
        }                                                                                          \
    }

static void epi_act(const epilogue *e, const float *tile, int row, int nr, int col, int nc) {
    FOR_TILE(ast_n(e->y + at, u, n);)
}
static void epi_f32(const epilogue *e, const float *tile, int row, int nr, int col, int nc) {
    FOR_TILE(vstore_n(e->yf + at, u, n);)
}
static void epi_add_f32(const epilogue *e, const float *tile, int row, int nr, int col, int nc) {
    FOR_TILE(vstore_n(e->yf + at, vload_n(e->yf + at, n) + u, n);)
}
static void epi_add_act(const epilogue *e, const float *tile, int row, int nr, int col, int nc) {
    FOR_TILE(ast_n(e->y + at, ald_n(e->y + at, n) + u, n);)
}
static void epi_gelu(const epilogue *e, const float *tile, int row, int nr, int col, int nc) {
    FOR_TILE(ast_n(e->y + at, gelu(u), n);)
}
static void epi_pre_gelu(const epilogue *e, const float *tile, int row, int nr, int col, int nc) {
    FOR_TILE(ast_n(e->pre + at, u, n); ast_n(e->y + at, gelu(u), n);)
}
static void epi_gelu_back(const epilogue *e, const float *tile, int row, int nr, int col, int nc) {
    FOR_TILE(ast_n(e->y + at, u * gelu_slope(ald_n(e->in + at, n)), n);)
}
static void epi_residual(const epilogue *e, const float *tile, int row, int nr, int col, int nc) {
    const float *gates[MR];
    int sample = row / e->T, token = row - sample * e->T;
    for (int r = 0; r < nr; r++, token++) {
        if (token == e->T)
            sample++, token = 0;
        gates[r] = e->gate + (size_t)sample * (size_t)e->gate_stride;
    }
    FOR_TILE(if (e->y) ast_n(e->y + at, u, n);
             vf sum = vfma(vload_n(gates[r] + col + v, n), u, vload_n(e->res_in + at, n));
             vstore_n(e->yf + at, sum, n);)
}

/* ---------------------------------------------------------------- products with a packed weight */

typedef struct {
    const act_t *x;
    int depth;
} rows_source;

/* bf16 rows as f32, for panels that are f32. */
#if UNIT_BF16
static void fetch_wide(const void *ctx, void *to, int row0, int row1) {
    const rows_source *src = ctx;
    size_t n = (size_t)(row1 - row0) * (size_t)src->depth;
    const act_t *x = src->x + (size_t)row0 * (size_t)src->depth;
    float *out = to;
    for (size_t i = 0; i < n; i += VL) {
        int left = n - i < VL ? (int)(n - i) : VL;
        vstore_n(out + i, ald_n(x + i, left), left);
    }
}
#endif

/* bf16 rows of odd depth, padded to whole pairs. */
#if NATIVE
static void fetch_odd(const void *ctx, void *to, int row0, int row1) {
    const rows_source *src = ctx;
    size_t depth = (size_t)src->depth;
    for (int row = row0; row < row1; row++) {
        act_t *out = (act_t *)to + (size_t)(row - row0) * (depth + 1);
        memcpy(out, src->x + (size_t)row * depth, depth * sizeof *out);
        out[depth] = 0;
    }
}
#endif

/* cols outputs of panels `b` over x (rows, depth). */
static void linear_product(ds_device *dev, const epilogue *epi, const ds_act *x, const char *b,
                           int pairs, int rows, int cols, int depth) {
    DS_ASSERT(b);
    rows_source src = {cacts(x), depth};
    int steps = pairs ? (depth + 1) / 2 : depth;
    product_job job = {.g = {.a = (const char *)src.x,
                             .rs = (ptrdiff_t)depth * (ptrdiff_t)sizeof(act_t),
                             .ks = 4,
                             .b = b,
                             .rows = rows,
                             .cols = cols,
                             .steps = steps,
                             .pairs = pairs,
                             .epi = epi},
                       .fetch_ctx = &src};
#if UNIT_BF16
    if (!pairs) {
        job.fetch = fetch_wide;
        job.g.rs = (ptrdiff_t)depth * 4;
    }
#endif
#if NATIVE
    if (pairs && depth % 2) {
        job.fetch = fetch_odd;
        job.g.rs = (ptrdiff_t)steps * 4;
    }
#endif
    product_run(ds_cpu_of(dev), &job);
}

INLINE void forward(ds_device *dev, const epilogue *epi, const ds_act *x, const ds_weight *w,
                    int rows) {
    linear_product(dev, epi, x, w->fw, w->pairs, rows, w->m, w->n);
}
INLINE void backward(ds_device *dev, const epilogue *epi, const ds_act *dy, const ds_weight *w,
                     int rows) {
    linear_product(dev, epi, dy, w->bw, w->pairs, rows, w->n, w->m);
}

static void ds_cpu_linear_forward(ds_device *dev, ds_act *y, const ds_act *x, const ds_weight *w,
                                  const float *bias, int rows) {
    epilogue e = {.fn = epi_act, .touch = 1, .bias = bias, .y = acts(y), .ld = (size_t)w->m};
    forward(dev, &e, x, w, rows);
}

static void ds_cpu_linear_f32_forward(ds_device *dev, float *y, const ds_act *x, const ds_weight *w,
                                      const float *bias, int rows) {
    epilogue e = {.fn = epi_f32, .touch = 1, .bias = bias, .yf = y, .ld = (size_t)w->m};
    forward(dev, &e, x, w, rows);
}

static void ds_cpu_linear_gelu_forward(ds_device *dev, ds_act *pre, ds_act *y, const ds_act *x,
                                       const ds_weight *w, const float *bias, int rows) {
    epilogue e = {.fn = pre ? epi_pre_gelu : epi_gelu,
                  .touch = 1,
                  .bias = bias,
                  .pre = pre ? acts(pre) : NULL,
                  .y = acts(y),
                  .ld = (size_t)w->m};
    forward(dev, &e, x, w, rows);
}

static void ds_cpu_linear_residual_forward(ds_device *dev, ds_act *y, float *res_out,
                                           const float *res_in, const float *gate, int gate_stride,
                                           const ds_act *x, const ds_weight *w, const float *bias,
                                           int B, int T) {
    epilogue e = {.fn = epi_residual,
                  .touch = 1,
                  .bias = bias,
                  .y = y ? acts(y) : NULL,
                  .yf = res_out,
                  .res_in = res_in,
                  .gate = gate,
                  .gate_stride = gate_stride,
                  .T = T,
                  .ld = (size_t)w->m};
    forward(dev, &e, x, w, B * T);
}

static void ds_cpu_linear_backward_input(ds_device *dev, ds_act *dx, const ds_act *dy,
                                         const ds_weight *w, int rows) {
    epilogue e = {.fn = epi_act, .touch = 1, .y = acts(dx), .ld = (size_t)w->n};
    backward(dev, &e, dy, w, rows);
}

static void ds_cpu_linear_gelu_backward_input(ds_device *dev, ds_act *dpre, const ds_act *dy,
                                              const ds_weight *w, const ds_act *pre, int rows) {
    epilogue e = {
        .fn = epi_gelu_back, .touch = 1, .y = acts(dpre), .in = cacts(pre), .ld = (size_t)w->n};
    backward(dev, &e, dy, w, rows);
}

static void ds_cpu_linear_f32_backward_input(ds_device *dev, float *dx, const ds_act *dy,
                                             const ds_weight *w, int rows) {
    epilogue e = {.fn = epi_f32, .touch = 1, .yf = dx, .ld = (size_t)w->n};
    backward(dev, &e, dy, w, rows);
}

/* ---------------------------------------------------------------- packing */

typedef struct {
    ds_cpu *cpu;
    ds_weight *w;
    const float *W;
    const ds_affiner *ad;
} pack_job;

/* out (n) (=) row i of W'. */
static void folded_row(float *out, const pack_job *job, int i) {
    const ds_affiner *ad = job->ad;
    int n = job->w->n;
    const float *W = job->W + (size_t)i * (size_t)n;
    int seg = ad ? i / (ad->m / ad->segs) : 0;
    int branch = ad && ad->r > 0 && !ad->phi_relu && ad->s[seg] != 0;
    vf a = vset(ad && ad->a && !ad->side_in ? ad->a[i] : 1.0f);
    for (int j = 0; j < n; j += VL) {
        int left = n - j;
        vf x = vload_n(W + j, left) * a;
        if (ad && ad->a && ad->side_in)
            x = x * vload_n(ad->a + j, left);
        if (branch) {
            const float *U = ad->U + (size_t)i * (size_t)ad->r;
            const float *V = ad->V + (size_t)seg * (size_t)ad->r * (size_t)n + j;
            vf uv = vzero();
            for (int k = 0; k < ad->r; k++)
                uv = vfma(vset(U[k]), vload_n(V + (size_t)k * (size_t)n, left), uv);
            x = vfma(vset(ad->s[seg]), uv, x);
        }
        vstore_n(out + j, x, left);
    }
}

static void round_row(float *row, int n) {
    for (int j = 0; j < n; j++)
        row[j] = bf16_float(bf16_of(row[j]));
}

/* Panels of NR folded rows from scratch: one forward panel, and NR steps of every backward panel.
 */
static void pack_rows_f32(const pack_job *job, const float *rows, int i0, int count) {
    const ds_weight *w = job->w;
    size_t n = (size_t)w->n;
    panel_t_f32((float *)(void *)w->fw + (size_t)i0 * n, rows, n, count, w->n);
    for (int j = 0; w->bw && j < w->n; j += NR)
        panel_n_f32((float *)(void *)w->bw + (size_t)j * (size_t)w->m + (size_t)i0 * NR, rows + j,
                    n, count, imin(NR, w->n - j));
}

#if NATIVE
static void pack_rows_pair(const pack_job *job, float *rows, int i0, int count) {
    const ds_weight *w = job->w;
    size_t n = (size_t)w->n;
    act_t *half = (act_t *)(void *)rows; /* in place: row r moves to the left */
    for (size_t i = 0; i < (size_t)count * n; i += VL) {
        int left = (size_t)count * n - i < VL ? (int)((size_t)count * n - i) : VL;
        ast_n(half + i, vload_n(rows + i, left), left);
    }
    size_t fw_panel = ACT_PANEL_BYTES(w->n), bw_panel = ACT_PANEL_BYTES(w->m);
    panel_t_act(w->fw + (size_t)(i0 / NR) * fw_panel, half, n, count, w->n);
    for (int j = 0; w->bw && j < w->n; j += NR)
        panel_n_act(w->bw + (size_t)(j / NR) * bw_panel + (size_t)i0 / 2 * NR * 4, half + j, n,
                    count, imin(NR, w->n - j));
}
#endif

static void pack_task(void *ctx, int task, int thread) {
    const pack_job *job = ctx;
    float *rows = ds_cpu_scratch(job->cpu, thread);
    int i0 = task * NR, count = imin(NR, job->w->m - i0);
    for (int i = 0; i < count; i++) {
        float *row = rows + (size_t)i * (size_t)job->w->n;
        folded_row(row, job, i0 + i);
        if (job->w->rounded)
            round_row(row, job->w->n);
    }
#if NATIVE
    if (job->w->pairs) {
        pack_rows_pair(job, rows, i0, count);
        return;
    }
#endif
    pack_rows_f32(job, rows, i0, count);
}

static void ds_cpu_weight_pack(ds_device *dev, ds_weight *w, const float *W, const ds_affiner *ad) {
    ds_cpu *cpu = ds_cpu_of(dev);
    DS_ASSERT(!ad || (ad->m == w->m && ad->n == w->n && ad->segs >= 1 && ad->m % ad->segs == 0));
    pack_job job = {cpu, w, W, ad};
    ds_cpu_scratch_reserve(cpu, (size_t)NR * (size_t)w->n * sizeof(float));
    ds_team_run(cpu->team, pack_task, &job, ceil_div(w->m, NR));
}

/* a . b in vector order, n numbers. */
static float dot_f32(const float *a, const float *b, int n) {
    vf sum = vzero();
    for (int j = 0; j < n; j += VL)
        sum = vfma(vload_n(a + j, n - j), vload_n(b + j, n - j), sum);
    return vsum(sum);
}

static void ds_cpu_bias_fold(ds_device *dev, float *out, const float *bias, const float *W,
                             const ds_affiner *ad) {
    (void)dev;
    for (int i = 0; i < ad->m; i++) {
        out[i] = bias ? bias[i] : 0;
        if (ad->b)
            out[i] += ad->side_in ? dot_f32(W + (size_t)i * (size_t)ad->n, ad->b, ad->n) : ad->b[i];
    }
}

/* ---------------------------------------------------------------- weight gradient */

enum { GRAD_ROWS = 512 }; /* rows summed at once: fixed, since it fixes the order of the sum */

typedef struct {
    const act_t *dy, *x;
    float *db;
    char *left, *right;
    int m, n, rows; /* of this chunk */
    int left_tasks;
} grad_pack;

static void grad_pack_task(void *ctx, int task, int thread) {
    (void)thread;
    const grad_pack *job = ctx;
    size_t panel = ACT_PANEL_BYTES(job->rows);
    if (task >= job->left_tasks) {
        int col = (task - job->left_tasks) * NR;
        panel_n_act(job->right + (size_t)(col / NR) * panel, job->x + col, (size_t)job->n,
                    job->rows, imin(NR, job->n - col));
        return;
    }
    int col = task * NR, cols = imin(NR, job->m - col);
    char *to = job->left + (size_t)task * panel;
    if (job->db)
        panel_n_sums(to, job->dy + col, (size_t)job->m, job->rows, cols, job->db + col);
    else
        panel_n_act(to, job->dy + col, (size_t)job->m, job->rows, cols);
}

static void ds_cpu_linear_backward_weight(ds_device *dev, float *dW, float *db, const ds_act *dy,
                                          const ds_act *x, int m, int n, int rows) {
    ds_cpu *cpu = ds_cpu_of(dev);
    size_t most = ACT_PANEL_BYTES(imin(rows, GRAD_ROWS));
    size_t left_bytes = (size_t)ceil_div(m, NR) * most;
    char *ws = ds_cpu_shared(cpu, left_bytes + (size_t)ceil_div(n, NR) * most);
    epilogue e = {.fn = epi_add_f32, .touch = 1, .yf = dW, .ld = (size_t)n};
    for (int row = 0; row < rows; row += GRAD_ROWS) {
        int count = imin(GRAD_ROWS, rows - row);
        grad_pack pack = {.dy = cacts(dy) + (size_t)row * (size_t)m,
                          .x = cacts(x) + (size_t)row * (size_t)n,
                          .db = db,
                          .left = ws,
                          .right = ws + left_bytes,
                          .m = m,
                          .n = n,
                          .rows = count,
                          .left_tasks = ceil_div(m, NR)};
        ds_team_run(cpu->team, grad_pack_task, &pack, pack.left_tasks + ceil_div(n, NR));
        product_job job = {.g = {.a = ws,
                                 .rs = 4,
                                 .ks = NR * 4,
                                 .as = (ptrdiff_t)ACT_PANEL_BYTES(count),
                                 .b = ws + left_bytes,
                                 .rows = m,
                                 .cols = n,
                                 .steps = ACT_STEPS(count),
                                 .pairs = NATIVE,
                                 .epi = &e}};
        product_run(cpu, &job);
    }
}
