/* kernels/cpu/attention.inl - softmax attention, one (sample, head) per task, in the thread's
 * scratch.
 *
 * Keys and values of the head are packed once into panels; queries go by in blocks of QUERIES rows,
 * whose whole rows of scores lie in scratch, so the softmax is the plain two-pass one in f32.
 * Products are those of the linear layers (bf16 pairs where there are such products, else f32).
 * Backward, per block:  P = exp(S - lse), dP = dO V^T, dS = scale P (dP - <dO, O>),
 *   dQ = dS K, dK += dS^T Q, dV += P^T dO; blocks in order.
 */

enum { QUERIES = 8 * MR }; /* even */

/* An element of P and dS as the left side of a product. */
#if NATIVE
typedef uint16_t prob_t;
#else
typedef float prob_t;
#endif

typedef struct {
    ds_cpu *cpu;
    const act_t *qkv, *out_in, *dout;
    act_t *out, *dqkv;
    float *lse;
    const float *lse_in;
    int B, T, D, H;
} attention_job;

/* Pieces of scratch, taken one after another. */
typedef struct {
    uintptr_t at; /* from 0 it measures */
} carver;
INLINE void *carve(carver *c, size_t bytes) {
    uintptr_t p = c->at;
    c->at += round64(bytes);
    return (void *)p;
}

INLINE int padded(int T) { return ceil_div(T, NR) * NR; }
INLINE size_t operand_bytes(int depth, int cols) {
    return (size_t)ceil_div(cols, NR) * ACT_PANEL_BYTES(depth);
}

/* Rows of one head, far apart in memory: what the hardware does not foresee. */
static void touch_head(const act_t *p, size_t ld, int rows, int hd) {
    for (int t = 0; t < rows; t++)
        for (int d = 0; d < hd; d += 64 / (int)sizeof(act_t))
            __builtin_prefetch(p + (size_t)t * ld + d, 0, 2);
}

static size_t forward_scratch(int T, int hd) {
    size_t tp = (size_t)padded(T), q = (size_t)QUERIES;
    return round64(operand_bytes(hd, T)) + round64(operand_bytes(T, hd)) + round64(q * tp * 4) +
           round64(q * tp * sizeof(prob_t)) + view_bytes(QUERIES, hd) + 512;
}

/* Row of scores -> unnormalised probabilities; returns the sum, sets the (scaled) maximum. */
INLINE float softmax_row(prob_t *p, float *s, int T, int tp, float scale, float *top) {
    vf most = vset(-INFINITY);
    for (int j = 0; j < T; j += VL) {
        int n = T - j;
        if (n < VL)
            for (int k = n; k < VL; k++)
                s[j + k] = -INFINITY;
        most = vmax(most, vload(s + j));
    }
    *top = vtop(most) * scale;
    vf sum = vzero(), vs = vset(scale), vt = vset(*top);
    for (int j = 0; j < tp; j += VL) {
        int n = T - j;
        vf e = n > 0 ? vexp(vfma(vload(s + j), vs, vzero() - vt)) : vzero();
        if (n > 0 && n < VL) {
            float t[VL];
            vstore(t, e);
            e = vload_n(t, n);
        }
        sum = sum + e;
#if NATIVE
        ast(p + j, e);
#else
        vstore(p + j, e);
#endif
    }
    return vsum(sum);
}

/* Rows divided by their sums (extra = 1/sum). */
static void epi_attention(const epilogue *e, const float *tile, int row, int nr, int col, int nc) {
    FOR_TILE(ast_n(e->y + at, u * vset(e->extra[row + r]), n);)
}

static void attention_task(void *ctx, int task, int thread) {
    const attention_job *job = ctx;
    int T = job->T, D = job->D, hd = D / job->H, tp = padded(T);
    int b = task / job->H, head = task % job->H;
    size_t ld = 3 * (size_t)D, row0 = (size_t)b * (size_t)T;
    const act_t *q = job->qkv + row0 * ld + (size_t)(head * hd), *k = q + D, *v = k + D;
    carver c = {(uintptr_t)ds_cpu_scratch(job->cpu, thread)};
    void *kt = carve(&c, operand_bytes(hd, T)), *vn = carve(&c, operand_bytes(T, hd));
    float *s = carve(&c, (size_t)QUERIES * (size_t)tp * 4);
    prob_t *p = carve(&c, (size_t)QUERIES * (size_t)tp * sizeof(prob_t));
    float inverse[QUERIES], scale = 1 / sqrtf((float)hd);
    touch_head(q, ld, imin(QUERIES, T), hd);
    touch_head(v, ld, T, hd);
    pack_t_act(kt, k, ld, T, hd);
    pack_n_act(vn, v, ld, T, hd);
    for (int i0 = 0; i0 < T; i0 += QUERIES) {
        int rows = imin(QUERIES, T - i0);
        epilogue es = {.fn = epi_f32, .plain = 1, .yf = s, .ld = (size_t)tp};
        view_product(view_rows(q + (size_t)i0 * ld, ld, hd, rows, (void *)c.at), kt, rows, T, &es);
        for (int i = 0; i < rows; i++) {
            float top, sum = softmax_row(p + (size_t)i * (size_t)tp, s + (size_t)i * (size_t)tp, T,
                                         tp, scale, &top);
            inverse[i] = 1 / sum;
            if (job->lse)
                job->lse[(size_t)task * (size_t)T + (size_t)(i0 + i)] = top + logf(sum);
        }
        epilogue eo = {.fn = epi_attention,
                       .y = job->out + (row0 + (size_t)i0) * (size_t)D + (size_t)(head * hd),
                       .ld = (size_t)D,
                       .extra = inverse};
        rows_view pv = {(const char *)p, (ptrdiff_t)((size_t)tp * sizeof(prob_t)), ACT_STEPS(T),
                        NATIVE};
        view_product(pv, vn, rows, hd, &eo);
    }
}

static void ds_cpu_attention_forward(ds_device *dev, ds_act *out, float *lse, const ds_act *qkv,
                                     int B, int T, int D, int H) {
    DS_ASSERT(D % H == 0);
    attention_job job = {.cpu = ds_cpu_of(dev),
                         .qkv = cacts(qkv),
                         .out = acts(out),
                         .lse = lse,
                         .B = B,
                         .T = T,
                         .D = D,
                         .H = H};
    ds_cpu_scratch_reserve(job.cpu, forward_scratch(T, D / H));
    ds_team_run(job.cpu->team, attention_task, &job, B * H);
}

/* ---------------------------------------------------------------- backward */

typedef struct {
    void *kt, *vt, *kn, *qn, *gn; /* operands; qn, gn of one block of queries */
    float *s, *dp;                /* (QUERIES, tp) */
    prob_t *ds;                   /* (QUERIES, tp): left side of dQ */
    char *pt, *dst;               /* P and dS with the queries as steps: [step][tp] of 32 bits */
    float *dk, *dv;               /* (T, hd), when there are several blocks */
    void *view;
} back_scratch;

static back_scratch back_carve(carver *c, int T, int hd) {
    size_t tp = (size_t)padded(T), q = QUERIES, th = (size_t)T * (size_t)hd * 4;
    return (back_scratch){.kt = carve(c, operand_bytes(hd, T)),
                          .vt = carve(c, operand_bytes(hd, T)),
                          .kn = carve(c, operand_bytes(T, hd)),
                          .qn = carve(c, operand_bytes(QUERIES, hd)),
                          .gn = carve(c, operand_bytes(QUERIES, hd)),
                          .s = carve(c, q * tp * 4),
                          .dp = carve(c, q * tp * 4),
                          .ds = carve(c, q * tp * sizeof(prob_t)),
                          .pt = carve(c, q * tp * 4),
                          .dst = carve(c, q * tp * 4),
                          .dk = carve(c, th),
                          .dv = carve(c, th),
                          .view = carve(c, view_bytes(QUERIES, hd))};
}

INLINE float delta_of(const act_t *a, const act_t *b, int n) {
    vf sum = vzero();
    for (int j = 0; j < n; j += VL)
        sum = vfma(ald_n(a + j, n - j), ald_n(b + j, n - j), sum);
    return vsum(sum);
}

/* P and dS of one vector of one row; lanes beyond T are zero. */
INLINE void back_vector(vf *p, vf *ds, const float *s, const float *dp, float scale, float lse,
                        float delta, int left) {
    if (left <= 0) {
        *p = *ds = vzero();
        return;
    }
    vf e = vexp(vfma(vload_n(s, left), vset(scale), vset(-lse)));
    vf d = (vload_n(dp, left) - vset(delta)) * vset(scale);
    *ds = e * d;
    *p = e;
    if (left < VL) {
        float t[VL];
        vstore(t, *p);
        *p = vload_n(t, left);
        vstore(t, *ds);
        *ds = vload_n(t, left);
    }
}

/* Scores and dP of a block -> ds, pt, dst. */
static void back_elements(const back_scratch *w, int rows, int T, float scale, const float *lse,
                          const float *delta) {
    size_t tp = (size_t)padded(T);
    for (int i = 0; i < rows; i += NATIVE ? 2 : 1)
        for (int j = 0; j < (int)tp; j += VL) {
            size_t at = (size_t)i * tp + (size_t)j;
            vf p, ds;
            back_vector(&p, &ds, w->s + at, w->dp + at, scale, lse[i], delta[i], T - j);
#if NATIVE
            vf p2 = vzero(), ds2 = vzero();
            if (i + 1 < rows)
                back_vector(&p2, &ds2, w->s + at + tp, w->dp + at + tp, scale, lse[i + 1],
                            delta[i + 1], T - j);
            __m256i d1 = vbf16(ds), d2 = vbf16(ds2);
            _mm256_storeu_si256((void *)(w->ds + at), d1);
            if (i + 1 < rows)
                _mm256_storeu_si256((void *)(w->ds + at + tp), d2);
            size_t to = ((size_t)(i / 2) * tp + (size_t)j) * 4;
            _mm512_storeu_si512(w->dst + to,
                                _mm512_or_si512(_mm512_cvtepu16_epi32(d1),
                                                _mm512_slli_epi32(_mm512_cvtepu16_epi32(d2), 16)));
            _mm512_storeu_si512(
                w->pt + to,
                _mm512_or_si512(_mm512_cvtepu16_epi32(vbf16(p)),
                                _mm512_slli_epi32(_mm512_cvtepu16_epi32(vbf16(p2)), 16)));
#else
            vstore(w->ds + at, ds);
            vstore((float *)(void *)w->dst + at, ds);
            vstore((float *)(void *)w->pt + at, p);
#endif
        }
}

/* out (T,hd) (=, += after the first block) left^T b, left = [step][tp]. */
static void back_sum(const char *left, const void *b, int steps, int T, int hd, const epilogue *e) {
    product g = {.a = left,
                 .rs = 4,
                 .ks = (ptrdiff_t)padded(T) * 4,
                 .b = b,
                 .rows = T,
                 .cols = hd,
                 .steps = steps,
                 .pairs = NATIVE,
                 .epi = e};
    product_here(&g);
}

static void back_store(act_t *out, size_t ld, const float *from, int T, int hd) {
    for (int t = 0; t < T; t++)
        for (int d = 0; d < hd; d += VL)
            ast_n(out + (size_t)t * ld + d, vload_n(from + (size_t)t * (size_t)hd + d, hd - d),
                  hd - d);
}

/* dK and dV of a block: straight into dqkv when it is the only one. */
static void back_keys(const back_scratch *w, act_t *dk, act_t *dv, size_t ld, int i0, int rows,
                      int T, int hd) {
    int single = T <= QUERIES, steps = ACT_STEPS(rows);
    epilogue_fn *fn = single ? epi_act : i0 ? epi_add_f32 : epi_f32;
    epilogue ek = {.fn = fn, .y = dk, .yf = w->dk, .ld = single ? ld : (size_t)hd};
    epilogue ev = {.fn = fn, .y = dv, .yf = w->dv, .ld = single ? ld : (size_t)hd};
    back_sum(w->dst, w->qn, steps, T, hd, &ek);
    back_sum(w->pt, w->gn, steps, T, hd, &ev);
}

static void attention_back_task(void *ctx, int task, int thread) {
    const attention_job *job = ctx;
    int T = job->T, D = job->D, hd = D / job->H, tp = padded(T);
    int b = task / job->H, head = task % job->H;
    size_t ld = 3 * (size_t)D, d = (size_t)D, row0 = (size_t)b * (size_t)T,
           col = (size_t)(head * hd);
    const act_t *q = job->qkv + row0 * ld + col, *k = q + D, *v = k + D;
    const act_t *g = job->dout + row0 * d + col, *o = job->out_in + row0 * d + col;
    act_t *dq = job->dqkv + row0 * ld + col, *dk = dq + D, *dv = dk + D;
    carver c = {(uintptr_t)ds_cpu_scratch(job->cpu, thread)};
    back_scratch w = back_carve(&c, T, hd);
    float delta[QUERIES], scale = 1 / sqrtf((float)hd);
    touch_head(v, ld, T, hd);
    touch_head(q, ld, imin(QUERIES, T), hd);
    touch_head(g, d, imin(QUERIES, T), hd);
    touch_head(o, d, imin(QUERIES, T), hd);
    pack_t_act(w.kt, k, ld, T, hd);
    pack_t_act(w.vt, v, ld, T, hd);
    pack_n_act(w.kn, k, ld, T, hd);
    for (int i0 = 0; i0 < T; i0 += QUERIES) {
        int rows = imin(QUERIES, T - i0);
        const act_t *qi = q + (size_t)i0 * ld, *gi = g + (size_t)i0 * d;
        epilogue es = {.fn = epi_f32, .plain = 1, .yf = w.s, .ld = (size_t)tp};
        epilogue ep = {.fn = epi_f32, .plain = 1, .yf = w.dp, .ld = (size_t)tp};
        view_product(view_rows(qi, ld, hd, rows, w.view), w.kt, rows, T, &es);
        view_product(view_rows(gi, d, hd, rows, w.view), w.vt, rows, T, &ep);
        for (int i = 0; i < rows; i++)
            delta[i] = delta_of(gi + (size_t)i * d, o + (size_t)(i0 + i) * d, hd);
        back_elements(&w, rows, T, scale, job->lse_in + (size_t)task * (size_t)T + (size_t)i0,
                      delta);
        pack_n_act(w.qn, qi, ld, rows, hd);
        pack_n_act(w.gn, gi, d, rows, hd);
        epilogue eq = {.fn = epi_act, .y = dq + (size_t)i0 * ld, .ld = ld};
        rows_view left = {(const char *)w.ds, (ptrdiff_t)((size_t)tp * sizeof(prob_t)),
                          ACT_STEPS(T), NATIVE};
        view_product(left, w.kn, rows, hd, &eq);
        back_keys(&w, dk, dv, ld, i0, rows, T, hd);
    }
    if (T > QUERIES) {
        back_store(dk, ld, w.dk, T, hd);
        back_store(dv, ld, w.dv, T, hd);
    }
}

static void ds_cpu_attention_backward(ds_device *dev, ds_act *dqkv, const ds_act *dout,
                                      const ds_act *out, const float *lse, const ds_act *qkv, int B,
                                      int T, int D, int H) {
    DS_ASSERT(D % H == 0);
    attention_job job = {.cpu = ds_cpu_of(dev),
                         .qkv = cacts(qkv),
                         .out_in = cacts(out),
                         .dout = cacts(dout),
                         .dqkv = acts(dqkv),
                         .lse_in = lse,
                         .B = B,
                         .T = T,
                         .D = D,
                         .H = H};
    carver measure = {0};
    back_carve(&measure, T, D / H);
    ds_cpu_scratch_reserve(job.cpu, (size_t)measure.at + 64);
    ds_team_run(job.cpu->team, attention_back_task, &job, B * H);
}
