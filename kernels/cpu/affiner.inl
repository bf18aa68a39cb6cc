/* kernels/cpu/affiner.inl - the low-rank branch unfolded, and the gradients of an adapter.
 *
 * The hidden columns of each segment are padded to r8, a multiple of 8, with zeros; so a row has
 * segs * r8 of them: column seg * r8 + k.
 * The gradients are sums over rows: fixed chunks of CHUNK rows give partial sums, each in a slot of
 * its own, added in the order of the chunks.  Formulas: ops.def, docs/math.md.
 */

enum { SLOT_ROWS = 256, CHUNK = 64 };

INLINE int rank8(const ds_affiner *ad) { return (ad->r + 7) / 8 * 8; }

typedef struct {
    const char *a;
    ptrdiff_t rs;
    int steps, pairs;
} rows_view;

INLINE size_t view_bytes(int rows, int depth) {
    return (size_t)rows * (size_t)(depth + 1) * 4 + 64;
}

/* rows x depth of activations as the left side of a product with act panels: in place where
 * possible, else a copy in `scratch` (view_bytes). */
static rows_view view_rows(const act_t *x, size_t ld, int depth, int rows, void *scratch) {
#if NATIVE
    if (depth % 2 == 0)
        return (rows_view){(const char *)x, (ptrdiff_t)(ld * 2), depth / 2, 1};
    act_t *out = scratch;
    for (int r = 0; r < rows; r++) {
        memcpy(out + (size_t)r * (size_t)(depth + 1), x + (size_t)r * ld, (size_t)depth * 2);
        out[(size_t)r * (size_t)(depth + 1) + (size_t)depth] = 0;
    }
    return (rows_view){scratch, (ptrdiff_t)(depth + 1) * 2, (depth + 1) / 2, 1};
#elif UNIT_BF16
    float *out = scratch;
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < depth; j += VL)
            vstore_n(out + (size_t)r * (size_t)depth + j, ald_n(x + (size_t)r * ld + j, depth - j),
                     depth - j);
    return (rows_view){scratch, (ptrdiff_t)depth * 4, depth, 0};
#else
    (void)rows, (void)scratch;
    return (rows_view){(const char *)x, (ptrdiff_t)(ld * 4), depth, 0};
#endif
}

static void view_product(rows_view v, const void *panels, int rows, int cols, const epilogue *epi) {
    product g = {.a = v.a,
                 .rs = v.rs,
                 .ks = 4,
                 .b = panels,
                 .rows = rows,
                 .cols = cols,
                 .steps = v.steps,
                 .pairs = v.pairs,
                 .epi = epi};
    product_here(&g);
}

INLINE size_t round64(size_t n) { return (n + 63) & ~(size_t)63; }

/* ---------------------------------------------------------------- panels of V and U */

INLINE size_t panels_bytes(int depth, int cols) { /* either kind */
    return (size_t)ceil_div(cols, NR) * (size_t)depth * NR * 4 + (size_t)NR * 8;
}

/* Bytes of hidden_panels' result and of its temporary together. */
INLINE size_t hidden_bytes(const ds_affiner *ad) {
    int cols = ad->segs * rank8(ad);
    return round64(panels_bytes(ad->n, cols)) + (size_t)cols * (size_t)ad->n * 4 + 64;
}

/* Panels for h = x V^T. */
static void hidden_panels(char *dst, const ds_affiner *ad) {
    int r8 = rank8(ad), cols = ad->segs * r8, n = ad->n;
    act_t *rows = (act_t *)(void *)(dst + round64(panels_bytes(n, cols)));
    float *wide = (float *)(void *)rows;
    for (int c = 0; c < cols; c++) {
        const float *V = ad->V + (size_t)(c / r8 * ad->r + c % r8) * (size_t)n;
        for (int j = 0; j < n; j++) {
            float value = c % r8 < ad->r ? V[j] : 0;
            if (NATIVE)
                rows[(size_t)c * (size_t)n + (size_t)j] = aput(value);
            else
                wide[(size_t)c * (size_t)n + (size_t)j] = value;
        }
    }
#if NATIVE
    pack_t_act(dst, rows, (size_t)n, cols, n);
#else
    pack_t_f32((float *)(void *)dst, wide, (size_t)n, cols, n);
#endif
}

/* Panels, per segment, for dz_g = dy_g (s U_g): depth m/segs, r8 columns. */
static size_t outward_segment_bytes(const ds_affiner *ad) {
    return round64(panels_bytes(ad->m / ad->segs, rank8(ad)));
}
static size_t outward_bytes(const ds_affiner *ad) {
    return (size_t)ad->segs * outward_segment_bytes(ad) +
           (size_t)(ad->m / ad->segs) * (size_t)rank8(ad) * 4 + 64;
}
static void outward_panels(char *dst, const ds_affiner *ad) {
    int r8 = rank8(ad), ms = ad->m / ad->segs;
    size_t each = outward_segment_bytes(ad);
    act_t *rows = (act_t *)(void *)(dst + (size_t)ad->segs * each);
    float *wide = (float *)(void *)rows;
    for (int g = 0; g < ad->segs; g++) {
        for (int i = 0; i < ms; i++)
            for (int k = 0; k < r8; k++) {
                float u = k < ad->r ? ad->U[(size_t)(g * ms + i) * (size_t)ad->r + (size_t)k] : 0;
                if (NATIVE)
                    rows[(size_t)i * (size_t)r8 + (size_t)k] = aput(u);
                else
                    wide[(size_t)i * (size_t)r8 + (size_t)k] = u;
            }
#if NATIVE
        pack_n_act(dst + (size_t)g * each, rows, (size_t)r8, ms, r8);
#else
        pack_n_f32((float *)(void *)(dst + (size_t)g * each), wide, (size_t)r8, ms, r8);
#endif
    }
}

/* f32 panels, per segment, for y_g = h_g (s U_g)^T: depth r8, m/segs columns. */
INLINE size_t output_segment_bytes(const ds_affiner *ad) {
    return round64((size_t)ceil_div(ad->m / ad->segs, NR) * NR * (size_t)rank8(ad) * 4);
}
static void output_panels(char *dst, const ds_affiner *ad) {
    int r8 = rank8(ad), ms = ad->m / ad->segs;
    for (int g = 0; g < ad->segs; g++) {
        float *to = (float *)(void *)(dst + (size_t)g * output_segment_bytes(ad));
        for (int p = 0; p < ceil_div(ms, NR); p++)
            for (int k = 0; k < r8; k++)
                for (int c = 0; c < NR; c++) {
                    int i = p * NR + c, used = i < ms && k < ad->r;
                    to[((size_t)p * (size_t)r8 + (size_t)k) * NR + (size_t)c] =
                        used ? ad->s[g] * ad->U[(size_t)(g * ms + i) * (size_t)ad->r + (size_t)k]
                             : 0;
                }
    }
}

/* ---------------------------------------------------------------- unfolded forward */

/* y (+=) or a y + bias + b (+=): extra = a or NULL, extra2 = b or NULL, bias as usual. */
static void epi_rows(const epilogue *e, const float *tile, int row, int nr, int col, int nc) {
    for (int v = 0; v < nc; v += VL) {
        int n = nc - v, at_col = col + v;
        vf a = e->extra ? vload_n(e->extra + at_col, n) : vset(1.0f);
        vf b = bias_of(e, at_col, n);
        if (e->extra2)
            b = b + vload_n(e->extra2 + at_col, n);
        for (int r = 0; r < nr; r++) {
            size_t at = (size_t)(row + r) * e->ld + (size_t)at_col;
            vf u = vload(tile + r * NR + v) + b;
            if (e->yf)
                vstore_n(e->yf + at, vfma(a, vload_n(e->yf + at, n), u), n);
            else
                ast_n(e->y + at, vfma(a, ald_n(e->y + at, n), u), n);
        }
    }
}

static void epi_hidden(const epilogue *e, const float *tile, int row, int nr, int col, int nc) {
    FOR_TILE(vstore_n(e->yf + at, e->relu ? vmax(u, vzero()) : u, n);)
}

/* The branch over `rows` rows: h (rows, segs*r8) then y through epi_rows, for the given panels. */
typedef struct {
    const ds_affiner *ad;
    const char *hidden, *output;
    const float *bias; /* with `whole`: also a, b and bias */
    int whole;
} branch;

static void branch_rows(const branch *br, act_t *y, float *yf, const act_t *x, int rows, float *h,
                        void *scratch) {
    const ds_affiner *ad = br->ad;
    int r8 = rank8(ad), cols = ad->segs * r8, ms = ad->m / ad->segs;
    if (ad->r > 0) {
        epilogue eh = {.fn = epi_hidden, .yf = h, .ld = (size_t)cols, .relu = ad->phi_relu};
        view_product(view_rows(x, (size_t)ad->n, ad->n, rows, scratch), br->hidden, rows, cols,
                     &eh);
    }
    for (int g = 0; g < ad->segs; g++) {
        size_t off = (size_t)g * (size_t)ms;
        epilogue e = {.fn = epi_rows, .ld = (size_t)ad->m};
        if (yf)
            e.yf = yf + off;
        else
            e.y = y + off;
        if (br->whole) {
            e.bias = br->bias ? br->bias + off : NULL;
            e.extra = ad->a ? ad->a + off : NULL;
            e.extra2 = ad->b ? ad->b + off : NULL;
        }
        rows_view v = {(const char *)(h + (size_t)g * (size_t)r8), (ptrdiff_t)cols * 4, r8, 0};
        const char *panels = ad->r ? br->output + (size_t)g * output_segment_bytes(ad) : NULL;
        view_product(v, panels, rows, ms, &e);
    }
}

typedef struct {
    ds_cpu *cpu;
    branch br;
    act_t *y;
    float *yf;
    const act_t *x;
    const ds_affiner *sets;
    const int *task;
    int rows, T;
} branch_job;

static size_t branch_scratch(const ds_affiner *ad, int rows) {
    return round64((size_t)rows * (size_t)(ad->segs * rank8(ad)) * 4 + 64) +
           view_bytes(rows, ad->n);
}

static void lowrank_task(void *ctx, int task, int thread) {
    const branch_job *job = ctx;
    const ds_affiner *ad = job->br.ad;
    int row = task * CHUNK, rows = imin(CHUNK, job->rows - row);
    char *s = ds_cpu_scratch(job->cpu, thread);
    branch_rows(&job->br, job->y + (size_t)row * (size_t)ad->m, NULL,
                job->x + (size_t)row * (size_t)ad->n, rows, (float *)(void *)s,
                s + round64((size_t)rows * (size_t)(ad->segs * rank8(ad)) * 4 + 64));
}

static void ds_cpu_lowrank_forward(ds_device *dev, ds_act *y, const ds_act *x, const ds_affiner *ad,
                                   int rows) {
    ds_cpu *cpu = ds_cpu_of(dev);
    if (ad->r == 0)
        return;
    size_t hidden = round64(hidden_bytes(ad));
    char *ws = ds_cpu_shared(cpu, hidden + (size_t)ad->segs * output_segment_bytes(ad));
    hidden_panels(ws, ad);
    output_panels(ws + hidden, ad);
    branch_job job = {.cpu = cpu,
                      .br = {.ad = ad, .hidden = ws, .output = ws + hidden},
                      .y = acts(y),
                      .x = cacts(x),
                      .rows = rows};
    ds_cpu_scratch_reserve(cpu, branch_scratch(ad, CHUNK));
    ds_team_run(cpu->team, lowrank_task, &job, ceil_div(rows, CHUNK));
}

static void rows_task(void *ctx, int task, int thread) {
    const branch_job *job = ctx;
    const ds_affiner *ad = &job->sets[job->task[task]];
    char *s = ds_cpu_scratch(job->cpu, thread);
    branch br = job->br;
    br.ad = ad;
    if (ad->r > 0) {
        br.hidden = s;
        hidden_panels(s, ad);
        s += round64(hidden_bytes(ad));
        br.output = s;
        output_panels(s, ad);
        s += (size_t)ad->segs * output_segment_bytes(ad);
    }
    size_t row = (size_t)task * (size_t)job->T, m = (size_t)ad->m;
    branch_rows(&br, job->y ? job->y + row * m : NULL, job->yf ? job->yf + row * m : NULL,
                job->x + row * (size_t)ad->n, job->T, (float *)(void *)s,
                s + round64((size_t)job->T * (size_t)(ad->segs * rank8(ad)) * 4 + 64));
}

static void ds_cpu_affiner_rows_forward(ds_device *dev, ds_act *y, float *yf, const ds_act *x,
                                        const float *bias, const ds_affiner *sets, const int *task,
                                        int B, int T) {
    ds_cpu *cpu = ds_cpu_of(dev);
    size_t need = 0;
    for (int b = 0; b < B; b++) {
        const ds_affiner *ad = &sets[task[b]];
        DS_ASSERT(!ad->side_in);
        size_t bytes = round64(hidden_bytes(ad)) + (size_t)ad->segs * output_segment_bytes(ad) +
                       branch_scratch(ad, T);
        need = bytes > need ? bytes : need;
    }
    branch_job job = {.cpu = cpu,
                      .br = {.bias = bias, .whole = 1},
                      .y = y ? acts(y) : NULL,
                      .yf = y ? NULL : yf,
                      .x = cacts(x),
                      .sets = sets,
                      .task = task,
                      .T = T};
    ds_cpu_scratch_reserve(cpu, need);
    ds_team_run(cpu->team, rows_task, &job, B);
}

/* ---------------------------------------------------------------- gradients */

/* Where each sum lies in a slot, in floats; -1 = not wanted. */
typedef struct {
    long sum_g;   /* m: sum g */
    long product; /* m or n: sum g y, or sum x dx */
    long dU;      /* r8 x m: sum h g, transposed */
    long dV;      /* segs*r8 x n: sum dz x */
    long floats;
} slot_layout;

typedef struct {
    ds_cpu *cpu;
    const ds_affiner *ad;
    const act_t *dy, *y, *x, *dx;
    act_t *dx_extra;
    const char *hidden, *outward, *extra;
    float *slots;
    slot_layout at;
    int rows, slots_count, need_dz;
} affiner_job;

enum { OUTER_V = UNIT_AVX512 ? 2 : 1 };

typedef struct {
    int rows;
    int resume;   /* add to what is there */
    size_t ahead; /* rows ahead that the thread reads next: prefetched; 0 = nothing */
} strip_rows;

/* One strip of at most OUTER_V vectors (n columns; `whole`: n = OUTER_V * VL) and 8 hidden columns.
 * out, sum, sum2 may be NULL; where the caller's are constants the tests go away. */
INLINE void outer_strip(float *out, size_t out_ld, float *sum, float *sum2, const float *coef,
                        size_t coef_ld, const act_t *g, size_t ld, const act_t *y, strip_rows t,
                        int n, int whole) {
    vf acc[8][OUTER_V], s1[OUTER_V], s2[OUTER_V];
    _Pragma("GCC unroll 2") for (int v = 0; v < OUTER_V; v++) {
        int left = whole ? VL : n - v * VL, load = t.resume && left > 0;
        s1[v] = sum && load ? vload_n(sum + v * VL, left) : vzero();
        s2[v] = sum2 && load ? vload_n(sum2 + v * VL, left) : vzero();
        _Pragma("GCC unroll 8") for (int k = 0; k < 8; k++) acc[k][v] =
            out && load ? vload_n(out + (size_t)k * out_ld + v * VL, left) : vzero();
    }
    for (int i = 0; i < t.rows; i++) {
        vf x[OUTER_V];
        __builtin_prefetch(g + t.ahead * ld, 0, 2);
        if (sizeof(act_t) == 4 && OUTER_V == 2)
            __builtin_prefetch(g + t.ahead * ld + VL, 0, 2);
        if (sum2) {
            __builtin_prefetch(y + t.ahead * ld, 0, 2);
            if (sizeof(act_t) == 4 && OUTER_V == 2)
                __builtin_prefetch(y + t.ahead * ld + VL, 0, 2);
        }
        _Pragma("GCC unroll 2") for (int v = 0; v < OUTER_V; v++) {
            int left = whole ? VL : n - v * VL;
            x[v] = left > 0 ? ald_n(g + v * VL, left) : vzero();
            if (sum)
                s1[v] = s1[v] + x[v];
            if (sum2 && left > 0)
                s2[v] = vfma(x[v], ald_n(y + v * VL, left), s2[v]);
        }
        if (out)
            _Pragma("GCC unroll 8") for (int k = 0; k < 8; k++) {
                vf c = vset(coef[k]);
                _Pragma("GCC unroll 2") for (int v = 0; v < OUTER_V; v++) acc[k][v] =
                    vfma(c, x[v], acc[k][v]);
            }
        g += ld;
        if (sum2)
            y += ld;
        coef += coef_ld;
    }
    for (int v = 0; v < OUTER_V && v * VL < n; v++) {
        int left = n - v * VL;
        if (sum)
            vstore_n(sum + v * VL, s1[v], left);
        if (sum2)
            vstore_n(sum2 + v * VL, s2[v], left);
        for (int k = 0; out && k < 8; k++)
            vstore_n(out + (size_t)k * out_ld + v * VL, acc[k][v], left);
    }
}

static __attribute__((noinline)) void outer_edge(float *out, size_t out_ld, float *sum, float *sum2,
                                                 const float *coef, size_t coef_ld, const act_t *g,
                                                 size_t ld, const act_t *y, strip_rows rows,
                                                 int n) {
    outer_strip(out, out_ld, sum, sum2, coef, coef_ld, g, ld, y, rows, n, 0);
}

/* out (r8, cols) (=, or += to resume) coef^T g;  sum, sum2 likewise the column
 * sums of g and of g*y; any may be NULL. */
static void outer(float *out, size_t out_ld, float *sum, float *sum2, const float *coef,
                  size_t coef_ld, int r8, const act_t *g, size_t ld, const act_t *y,
                  strip_rows rows, int cols) {
    enum { WHOLE = OUTER_V * VL };
    for (int c = 0; c < cols; c += WHOLE) {
        int n = imin(WHOLE, cols - c), k = 0;
        if (sum || sum2 || !out) {
            float *s1 = sum ? sum + c : NULL, *s2 = sum2 ? sum2 + c : NULL;
            if (n == WHOLE && out && s1 && s2)
                outer_strip(out + c, out_ld, s1, s2, coef, coef_ld, g + c, ld, y + c, rows, n, 1);
            else
                outer_edge(out ? out + c : NULL, out_ld, s1, s2, coef, out ? coef_ld : 0, g + c, ld,
                           s2 ? y + c : NULL, rows, n);
            k = 8;
        }
        for (; out && k < r8; k += 8) {
            float *to = out + (size_t)k * out_ld + c;
            if (n == WHOLE)
                outer_strip(to, out_ld, NULL, NULL, coef + k, coef_ld, g + c, ld, NULL, rows, n, 1);
            else
                outer_edge(to, out_ld, NULL, NULL, coef + k, coef_ld, g + c, ld, NULL, rows, n);
        }
    }
}

/* dz: scaled by s; under ReLU zero where h is not positive (extra = h, same layout). */
static void epi_dz(const epilogue *e, const float *tile, int row, int nr, int col, int nc) {
    vf s = vset(e->scale);
    FOR_TILE(u = u * s; if (e->extra) u = vpositive(vload_n(e->extra + at, n), u);
             vstore_n(e->yf + at, u, n);)
}

static void chunk_hidden(const affiner_job *job, const act_t *g, const act_t *x, int rows, float *h,
                         float *dz, void *scratch) {
    const ds_affiner *ad = job->ad;
    int r8 = rank8(ad), cols = ad->segs * r8, ms = ad->m / ad->segs;
    epilogue eh = {.fn = epi_hidden, .yf = h, .ld = (size_t)cols, .relu = ad->phi_relu};
    view_product(view_rows(x, (size_t)ad->n, ad->n, rows, scratch), job->hidden, rows, cols, &eh);
    for (int k = 0; job->need_dz && k < ad->segs; k++) {
        epilogue e = {.fn = epi_dz,
                      .yf = dz + (size_t)k * (size_t)r8,
                      .ld = (size_t)cols,
                      .scale = ad->s[k],
                      .extra = ad->phi_relu ? h + (size_t)k * (size_t)r8 : NULL};
        view_product(view_rows(g + (size_t)k * (size_t)ms, (size_t)ad->m, ms, rows, scratch),
                     job->outward + (size_t)k * outward_segment_bytes(ad), rows, r8, &e);
    }
}

static void chunk(const affiner_job *job, float *slot, float *h, int row, strip_rows span) {
    const ds_affiner *ad = job->ad;
    const slot_layout *at = &job->at;
    size_t m = (size_t)ad->m, n = (size_t)ad->n;
    int r8 = rank8(ad), cols = ad->segs * r8, ms = ad->m / ad->segs;
    const act_t *g = job->dy + (size_t)row * m, *x = job->x + (size_t)row * n;
    float *dz = h + (size_t)CHUNK * (size_t)cols;
    if (ad->r > 0)
        chunk_hidden(job, g, x, span.rows, h, dz, dz + (size_t)CHUNK * (size_t)cols);
    int out_product = at->product >= 0 && !ad->side_in;
    for (int k = 0; k < ad->segs; k++) {
        size_t off = (size_t)k * (size_t)ms;
        outer(at->dU >= 0 ? slot + at->dU + off : NULL, m,
              at->sum_g >= 0 ? slot + at->sum_g + off : NULL,
              out_product ? slot + at->product + off : NULL, h + (size_t)k * (size_t)r8,
              (size_t)cols, r8, g + off, m, out_product ? job->y + (size_t)row * m + off : NULL,
              span, ms);
    }
    int in_product = at->product >= 0 && ad->side_in;
    if (at->dV >= 0 || in_product)
        outer(at->dV >= 0 ? slot + at->dV : NULL, n, NULL, in_product ? slot + at->product : NULL,
              dz, (size_t)cols, cols, x, n, in_product ? job->dx + (size_t)row * n : NULL, span,
              ad->n);
    if (job->extra) {
        epilogue e = {.fn = epi_add_act, .y = job->dx_extra + (size_t)row * n, .ld = n};
        view_product((rows_view){(const char *)dz, (ptrdiff_t)cols * 4, cols, 0}, job->extra,
                     span.rows, ad->n, &e);
    }
}

static void slot_task(void *ctx, int task, int thread) {
    const affiner_job *job = ctx;
    float *slot = job->slots + (size_t)task * (size_t)job->at.floats;
    int row0 = task * SLOT_ROWS, row1 = imin(row0 + SLOT_ROWS, job->rows);
    int next =
        job->cpu->threads - 1; /* slots between this and the thread's next one, most likely */
    for (int row = row0; row < row1; row += CHUNK) {
        strip_rows span = {.rows = imin(CHUNK, row1 - row), .resume = row > row0};
        size_t ahead = row + CHUNK < row1 ? CHUNK : (size_t)next * SLOT_ROWS + CHUNK;
        if ((size_t)row + ahead + CHUNK <= (size_t)job->rows)
            span.ahead = ahead;
        chunk(job, slot, ds_cpu_scratch(job->cpu, thread), row, span);
    }
}

typedef struct {
    float *slots;
    size_t floats;
    int chunks;
} combine_job;

enum { COMBINE = 2048 };

/* Slot 0 (+=) slots 1.. in order. */
static void combine_task(void *ctx, int task, int thread) {
    (void)thread;
    const combine_job *job = ctx;
    size_t i0 = (size_t)task * COMBINE,
           i1 = i0 + COMBINE < job->floats ? i0 + COMBINE : job->floats;
    for (size_t i = i0; i < i1; i += VL) {
        int left = i1 - i < VL ? (int)(i1 - i) : VL;
        vf sum = vload_n(job->slots + i, left);
        for (int c = 1; c < job->chunks; c++)
            sum = sum + vload_n(job->slots + (size_t)c * job->floats + i, left);
        vstore_n(job->slots + i, sum, left);
    }
}

static int small_scale(float a) { return fabsf(a) < DS_CPU_SMALL_SCALE; }

/* da where a is too small to divide by, straight from the definition. */
static double da_direct(const affiner_job *job, const float *W, int at) {
    const ds_affiner *ad = job->ad;
    size_t m = (size_t)ad->m, n = (size_t)ad->n;
    double sum = 0;
    for (int t = 0; t < job->rows; t++) {
        const act_t *g = job->dy + (size_t)t * m, *x = job->x + (size_t)t * n;
        double dot = 0;
        if (ad->side_in) {
            for (size_t i = 0; i < m; i++)
                dot += (double)aget(g[i]) * W[i * n + (size_t)at];
            sum += dot * aget(x[at]);
        } else {
            for (size_t j = 0; j < n; j++)
                dot += (double)aget(x[j]) * W[(size_t)at * n + j];
            sum += dot * aget(g[at]);
        }
    }
    return sum;
}

static void finish_out(const affiner_job *job, const ds_affiner_grad *g, const float *W,
                       const float *bias) {
    const ds_affiner *ad = job->ad;
    const slot_layout *at = &job->at;
    int ms = ad->m / ad->segs;
    size_t m = (size_t)ad->m, r = (size_t)ad->r;
    for (int seg = 0; seg < ad->segs; seg++) {
        double ds = 0;
        for (size_t i = (size_t)seg * (size_t)ms; i < (size_t)(seg + 1) * (size_t)ms; i++) {
            double uh = 0; /* <U_i, sum g h> */
            for (size_t k = 0; at->dU >= 0 && k < r; k++) {
                float t = job->slots[(size_t)at->dU + k * m + i];
                uh += (double)ad->U[i * r + k] * t;
                if (g->dU)
                    g->dU[i * r + k] += ad->s[seg] * t;
            }
            ds += uh;
            if (g->da && ad->a && !ad->side_in) {
                double shift = (bias ? (double)bias[i] : 0) + (ad->b ? (double)ad->b[i] : 0);
                double sum = (double)job->slots[(size_t)at->product + i] -
                             shift * job->slots[(size_t)at->sum_g + i];
                if (r)
                    sum -= ad->s[seg] * uh;
                g->da[i] +=
                    (float)(small_scale(ad->a[i]) ? da_direct(job, W, (int)i) : sum / ad->a[i]);
            }
            if (g->db && ad->b && !ad->side_in)
                g->db[i] += job->slots[(size_t)at->sum_g + i];
        }
        if (g->ds && r)
            g->ds[seg] += (float)ds;
    }
}

static void finish_in(const affiner_job *job, const ds_affiner_grad *g, const float *W) {
    const ds_affiner *ad = job->ad;
    const slot_layout *at = &job->at;
    size_t m = (size_t)ad->m, n = (size_t)ad->n, r8 = (size_t)rank8(ad);
    if (g->db && ad->b)
        for (size_t i = 0; i < m; i++) {
            vf s = vset(job->slots[(size_t)at->sum_g + i]);
            for (size_t j = 0; j < n; j += VL) {
                int left = n - j < VL ? (int)(n - j) : VL;
                vstore_n(g->db + j, vfma(s, vload_n(W + i * n + j, left), vload_n(g->db + j, left)),
                         left);
            }
        }
    for (size_t j = 0; g->da && ad->a && j < n; j++) {
        double sum = job->slots[(size_t)at->product + j];
        for (int seg = 0; seg < ad->segs && ad->r > 0 && !ad->phi_relu; seg++)
            for (int k = 0; k < ad->r; k++)
                sum -= (double)ad->V[(size_t)(seg * ad->r + k) * n + j] *
                       job->slots[(size_t)at->dV + ((size_t)seg * r8 + (size_t)k) * n + j];
        g->da[j] += (float)(small_scale(ad->a[j]) ? da_direct(job, W, (int)j) : sum / ad->a[j]);
    }
}

static slot_layout layout_of(const ds_affiner_grad *g, const ds_affiner *ad) {
    slot_layout at = {-1, -1, -1, -1, 0};
    int want_da = g->da && ad->a, low = ad->r > 0;
    long r8 = rank8(ad);
    if (want_da || (g->db && ad->b)) {
        at.sum_g = at.floats;
        at.floats += ad->m;
    }
    if (want_da) {
        at.product = at.floats;
        at.floats += ad->side_in ? ad->n : ad->m;
    }
    if (low && (g->dU || g->ds || (want_da && !ad->side_in))) {
        at.dU = at.floats;
        at.floats += r8 * ad->m;
    }
    if (low && (g->dV || (want_da && ad->side_in && !ad->phi_relu))) {
        at.dV = at.floats;
        at.floats += r8 * ad->segs * ad->n;
    }
    at.floats = (at.floats + 15) / 16 * 16;
    return at;
}

/* V as f32 panels for dx_extra += dz V: depth segs*r8, n columns. */
static void extra_panels(float *dst, const ds_affiner *ad) {
    int r8 = rank8(ad), depth = ad->segs * r8;
    for (int p = 0; p < ceil_div(ad->n, NR); p++)
        for (int s = 0; s < depth; s++)
            for (int c = 0; c < NR; c++) {
                int j = p * NR + c, used = j < ad->n && s % r8 < ad->r;
                dst[((size_t)p * (size_t)depth + (size_t)s) * NR + (size_t)c] =
                    used ? ad->V[(size_t)(s / r8 * ad->r + s % r8) * (size_t)ad->n + (size_t)j] : 0;
            }
}

static void ds_cpu_affiner_backward(ds_device *dev, const ds_affiner_grad *g, const ds_affiner *ad,
                                    const ds_act *dy, const ds_act *y, const ds_act *x,
                                    const ds_act *dx, ds_act *dx_extra, const float *W,
                                    const float *bias, int rows) {
    ds_cpu *cpu = ds_cpu_of(dev);
    DS_ASSERT(ad->segs >= 1 && ad->m % ad->segs == 0);
    affiner_job job = {
        .cpu = cpu, .ad = ad, .rows = rows, .slots_count = ceil_div(rows, SLOT_ROWS)};
    job.dy = cacts(dy), job.y = cacts(y), job.x = cacts(x), job.dx = cacts(dx);
    job.at = layout_of(g, ad);
    int cols = ad->segs * rank8(ad), extra = dx_extra && ad->phi_relu && ad->r > 0;
    job.need_dz = job.at.dV >= 0 || extra;
    size_t hidden = ad->r ? round64(hidden_bytes(ad)) : 0;
    size_t outward = ad->r ? round64(outward_bytes(ad)) : 0;
    size_t back = extra ? round64((size_t)ceil_div(ad->n, NR) * NR * (size_t)cols * 4) : 0;
    size_t slots = (size_t)job.slots_count * (size_t)job.at.floats * sizeof(float);
    char *ws = ds_cpu_shared(cpu, hidden + outward + back + slots + 64);
    job.hidden = ws, job.outward = ws + hidden;
    job.slots = (float *)(void *)(ws + hidden + outward + back);
    if (ad->r > 0) {
        hidden_panels(ws, ad);
        outward_panels(ws + hidden, ad);
    }
    if (extra) {
        job.dx_extra = acts(dx_extra);
        job.extra = ws + hidden + outward;
        extra_panels((float *)(void *)(ws + hidden + outward), ad);
    }
    ds_cpu_scratch_reserve(cpu, (size_t)2 * CHUNK * (size_t)cols * sizeof(float) +
                                    view_bytes(CHUNK, ad->n > ad->m ? ad->n : ad->m));
    ds_team_run(cpu->team, slot_task, &job, job.slots_count);
    combine_job combine = {job.slots, (size_t)job.at.floats, job.slots_count};
    if (job.slots_count > 1)
        ds_team_run(cpu->team, combine_task, &combine, ceil_div((int)job.at.floats, COMBINE));
    finish_out(&job, g, W, bias);
    if (ad->side_in)
        finish_in(&job, g, W);
    size_t n = (size_t)ad->n, r8 = (size_t)rank8(ad);
    for (size_t k = 0; g->dV && k < (size_t)(ad->segs * ad->r); k++) {
        const float *from =
            job.slots + (size_t)job.at.dV + (k / (size_t)ad->r * r8 + k % (size_t)ad->r) * n;
        for (size_t j = 0; j < n; j++)
            g->dV[k * n + j] += from[j];
    }
}
