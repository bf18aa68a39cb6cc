/* kernels/cpu/gemm.inl - products: tile (MR x NR) kernels, and a driver over tiles with epilogues.
 *
 * C[row, col] = sum over steps of A[row, step] B[step, col].  A step is one number (f32) or a pair
 * of bf16.  B lies in packed panels.  A is read where it lies, as 32-bit elements with any strides.
 * An element's sum runs over the steps in order in one accumulator, whatever the tile it falls in:
 * so a row's result does not depend on its neighbours, and tasks may run in any order. The tile
 * goes through a small buffer in L1 to the epilogue, which adds, transforms and stores.
 */

typedef struct epilogue epilogue;
/* tile: rows of NR floats; writes rows [row, row+nr) x columns [col, col+nc). */
typedef void epilogue_fn(const epilogue *e, const float *tile, int row, int nr, int col, int nc);

/* A union of what the epilogues need; each uses some. */
struct epilogue {
    epilogue_fn *fn;
    const float *bias; /* per column, or NULL */
    act_t *y;          /* stored result, row stride ld */
    act_t *pre;
    const act_t *in; /* pre-activation of the backward epilogue */
    float *yf;       /* f32 result, row stride ld */
    const float *res_in, *gate;
    int gate_stride, T;
    size_t ld;
    float scale;
    int relu;
    int plain;                   /* fn is epi_f32 without bias: whole tiles are stored in place */
    int touch;                   /* outputs are likely to be far away: prefetch them */
    const float *extra, *extra2; /* by epilogue */
    size_t extra_ld;
};

typedef struct {
    const char *a;
    ptrdiff_t rs, ks; /* bytes between rows, between steps */
    ptrdiff_t as;     /* A in panels of NR rows (rs 4, ks NR * 4): bytes between them; else 0 */
    const char *b;    /* panels */
    int rows, cols, steps;
    int pairs;
    const epilogue *epi;
} product;

/* acc[r][v] += A[r] B[v] over all steps. */
#define TILE_BODY(ROWS, VECS, STEP)                                                                \
    vf c[ROWS][VECS];                                                                              \
    _Pragma("GCC unroll 12") for (int r = 0; r < ROWS; r++)                                        \
        _Pragma("GCC unroll 2") for (int v = 0; v < VECS; v++) c[r][v] = vzero();                  \
    const char *p[4] = {a, a + 3 * rs, a + 6 * rs, a + 9 * rs};                                    \
    for (int s = 0; s < steps; s++) {                                                              \
        vf bv[VECS];                                                                               \
        _Pragma("GCC unroll 2") for (int v = 0; v < VECS; v++) bv[v] = vload(b + v * VL);          \
        _Pragma("GCC unroll 12") for (int r = 0; r < ROWS; r++) {                                  \
            float e;                                                                               \
            memcpy(&e, p[r / 3] + (r % 3) * rs, sizeof e);                                         \
            vf x = vset(e);                                                                        \
            _Pragma("GCC unroll 2") for (int v = 0; v < VECS; v++) c[r][v] =                       \
                STEP(c[r][v], x, bv[v]);                                                           \
        }                                                                                          \
        b += NR;                                                                                   \
        _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) p[i] += ks;                            \
    }                                                                                              \
    _Pragma("GCC unroll 12") for (int r = 0; r < ROWS; r++)                                        \
        _Pragma("GCC unroll 2") for (int v = 0; v < VECS; v++)                                     \
            vstore(tile + r * ld + v * VL, c[r][v]);

#define STEP_F32(c, x, y) vfma(x, y, c)
#define STEP_PAIR(c, x, y) _mm512_dpbf16_ps(c, (__m512bh)(x), (__m512bh)(y))

/* The tile goes to rows of `ld` floats. */
typedef void tile_fn(float *tile, ptrdiff_t ld, const char *a, ptrdiff_t rs, ptrdiff_t ks,
                     const float *b, int steps);

#if defined(__SANITIZE_ADDRESS__)
/* The address sanitizer looks at each load, which takes most of the time of every sanitized test of
 * a feature network.  Here all bytes that a tile reads and writes are looked at before it begins,
 * and the same is reported. */
void *__asan_region_is_poisoned(void *begin, size_t size);
void __asan_report_error(void *pc, void *bp, void *sp, void *addr, int is_write, size_t size);

INLINE void expect_room(const void *p, size_t size, int write) {
    void *bad = __asan_region_is_poisoned((void *)(uintptr_t)p, size);
    if (bad) {
        void *at = __builtin_frame_address(0);
        __asan_report_error(__builtin_return_address(0), at, at, bad, write, sizeof(float));
    }
}

static void expect_tile(int rows, int vecs, const float *tile, ptrdiff_t ld, const char *a,
                        ptrdiff_t rs, ptrdiff_t ks, const float *b, int steps) {
    const int lines = ks == sizeof(float) ? rows : steps, each = rows + steps - lines;
    const ptrdiff_t to_next = lines == rows ? rs : ks, within = lines == rows ? ks : rs;
    for (int i = 0; i < lines && each; i++) {
        const char *line = a + i * to_next;
        if (within == sizeof(float))
            expect_room(line, (size_t)each * sizeof(float), 0);
        for (int k = 0; k < each && within != sizeof(float); k++)
            expect_room(line + k * within, sizeof(float), 0);
    }
    for (int s = 0; s < steps; s++)
        expect_room(b + (ptrdiff_t)s * NR, (size_t)(vecs * VL) * sizeof(float), 0);
    for (int r = 0; r < rows; r++)
        expect_room(tile + r * ld, (size_t)(vecs * VL) * sizeof(float), 1);
}

#define TILE_FN(NAME, ROWS, VECS, STEP)                                                            \
    __attribute__((no_sanitize("address", "undefined"))) static void NAME##_looked_at(             \
        float *tile, ptrdiff_t ld, const char *a, ptrdiff_t rs, ptrdiff_t ks, const float *b,      \
        int steps) {                                                                               \
        TILE_BODY(ROWS, VECS, STEP)                                                                \
    }                                                                                              \
    static void NAME(float *tile, ptrdiff_t ld, const char *a, ptrdiff_t rs, ptrdiff_t ks,         \
                     const float *b, int steps) {                                                  \
        expect_tile(ROWS, VECS, tile, ld, a, rs, ks, b, steps);                                    \
        NAME##_looked_at(tile, ld, a, rs, ks, b, steps);                                           \
    }
#else
#define TILE_FN(NAME, ROWS, VECS, STEP)                                                            \
    static void NAME(float *tile, ptrdiff_t ld, const char *a, ptrdiff_t rs, ptrdiff_t ks,         \
                     const float *b, int steps) {                                                  \
        TILE_BODY(ROWS, VECS, STEP)                                                                \
    }
#endif
#define TILES_LOW(X) X(1) X(2) X(3) X(4) X(5) X(6)
#define TILES_HIGH(X) X(7) X(8) X(9) X(10) X(11) X(12)
#define TILE_NAME(R) tile_f32_##R##_1, tile_f32_##R##_2,
#define TILE_NAME_PAIR(R) tile_pair_##R##_1, tile_pair_##R##_2,
#define TILE_F32(R)                                                                                \
    TILE_FN(tile_f32_##R##_1, R, 1, STEP_F32) TILE_FN(tile_f32_##R##_2, R, 2, STEP_F32)
#define TILE_PAIR(R)                                                                               \
    TILE_FN(tile_pair_##R##_1, R, 1, STEP_PAIR) TILE_FN(tile_pair_##R##_2, R, 2, STEP_PAIR)

TILES_LOW(TILE_F32)
#if UNIT_AVX512
TILES_HIGH(TILE_F32)
#endif
#if NATIVE
TILES_LOW(TILE_PAIR)
TILES_HIGH(TILE_PAIR)
#endif

static tile_fn *const tiles_f32[] = {TILES_LOW(TILE_NAME)
#if UNIT_AVX512
                                         TILES_HIGH(TILE_NAME)
#endif
};
#if NATIVE
static tile_fn *const tiles_pair[] = {TILES_LOW(TILE_NAME_PAIR) TILES_HIGH(TILE_NAME_PAIR)};
#endif

INLINE tile_fn *tile_for(int pairs, int rows, int cols) {
    int at = (rows - 1) * 2 + (cols > VL);
#if NATIVE
    if (pairs)
        return tiles_pair[at];
#else
    (void)pairs;
#endif
    return tiles_f32[at];
}

/* Bring what the epilogue reads and writes near while the tile is being computed. */
INLINE void touch_rows(const void *base, size_t size, size_t ld, int row, int nr, int col, int nc) {
    const char *at = (const char *)base + ((size_t)row * ld + (size_t)col) * size;
    size_t last = (size_t)nc * size - 1;
    for (int r = 0; r < nr; r++, at += ld * size) {
        for (size_t i = 0; i < last; i += 64)
            __builtin_prefetch(at + i, 1, 3);
        __builtin_prefetch(at + last, 1, 3);
    }
}
INLINE void touch_tile(const epilogue *e, int row, int nr, int col, int nc) {
    if (e->y)
        touch_rows(e->y, sizeof(act_t), e->ld, row, nr, col, nc);
    if (e->pre)
        touch_rows(e->pre, sizeof(act_t), e->ld, row, nr, col, nc);
    if (e->in)
        touch_rows(e->in, sizeof(act_t), e->ld, row, nr, col, nc);
    if (e->yf)
        touch_rows(e->yf, sizeof(float), e->ld, row, nr, col, nc);
    if (e->res_in && e->res_in != e->yf)
        touch_rows(e->res_in, sizeof(float), e->ld, row, nr, col, nc);
}

/* Rows of the next tile: `left` rows in as few tiles as MR allows, of nearly equal height. */
INLINE int tile_height(int left) {
    int tiles = (left + MR - 1) / MR;
    return (left + tiles - 1) / tiles;
}

/* Rows [row0, row1) x panels [p0, p1); `a` is the address of row0.  A in panels: row0 starts one.
 */
static void product_block(const product *g, const char *a, int row0, int row1, int p0, int p1) {
    _Alignas(64) float tile[MR * NR];
    size_t panel = (size_t)g->steps * NR * 4;
    for (int p = p0; p < p1; p++) {
        int col = p * NR, nc = imin(NR, g->cols - col), nr;
        const float *b = (const float *)(const void *)(g->b + (size_t)p * panel);
        for (int row = row0; row < row1; row += nr) {
            const char *at;
            if (g->as) {
                int in = (row - row0) % NR;
                nr = tile_height(imin(NR - in, row1 - row));
                at = a + (row - row0) / NR * g->as + in * 4;
            } else {
                nr = tile_height(row1 - row);
                at = a + (row - row0) * g->rs;
            }
            if (g->epi->touch)
                touch_tile(g->epi, row, nr, col, nc);
            tile_fn *fn = tile_for(g->pairs, nr, nc);
            if (g->epi->plain && nc == NR) {
                fn(g->epi->yf + (size_t)row * g->epi->ld + (size_t)col, (ptrdiff_t)g->epi->ld, at,
                   g->rs, g->ks, b, g->steps);
                continue;
            }
            fn(tile, NR, at, g->rs, g->ks, b, g->steps);
            g->epi->fn(g->epi, tile, row, nr, col, nc);
        }
    }
}

/* The whole product in this thread. */
static void product_here(const product *g) {
    product_block(g, g->a, 0, g->rows, 0, ceil_div(g->cols, NR));
}

/* How rows of A become what product_block reads: fills `to` (rows x depth, contiguous) and is given
 * the thread's scratch. */
typedef void fetch_fn(const void *ctx, void *to, int row0, int row1);

typedef struct {
    product g;
    ds_cpu *cpu;
    fetch_fn *fetch; /* NULL: A is read in place */
    const void *fetch_ctx;
    int row_block, row_blocks, groups;
} product_job;

static void product_task(void *ctx, int task, int thread) {
    const product_job *job = ctx;
    const product *g = &job->g;
    int block = task / job->groups, group = task % job->groups, panels = ceil_div(g->cols, NR);
    int row0 = block * job->row_block, row1 = imin(row0 + job->row_block, g->rows);
    int p0 = (int)((long)panels * group / job->groups);
    int p1 = (int)((long)panels * (group + 1) / job->groups);
    const char *a = g->a + (g->as ? row0 / NR * g->as : row0 * g->rs);
    if (job->fetch) {
        a = ds_cpu_scratch(job->cpu, thread);
        job->fetch(job->fetch_ctx, ds_cpu_scratch(job->cpu, thread), row0, row1);
    }
    product_block(g, a, row0, row1, p0, p1);
}

/* Split over the team: row blocks whose A stays in the second-level cache, and groups of panels
 * when the rows are few. */
static void product_run(ds_cpu *cpu, product_job *job) {
    const product *g = &job->g;
    size_t row_bytes = (size_t)g->steps * 4;
    int unit = g->as ? NR : MR, panels = ceil_div(g->cols, NR);
    int rows = (int)(((size_t)256 << 10) / row_bytes) / unit * unit, least = job->fetch ? 48 : 96;
    job->cpu = cpu;
    rows = rows < least ? least : rows > 192 ? 192 : rows;
    job->row_block = rows;
    job->row_blocks = ceil_div(g->rows, rows);
    job->groups = 1;
    if (cpu->threads > 1 && (double)g->rows * g->cols * g->steps > 1e5) {
        int wanted = ceil_div(8 * cpu->threads, job->row_blocks);
        job->groups = imin(panels, wanted < 1 ? 1 : wanted);
    }
    if (job->fetch) {
        if (job->groups > 2)
            job->groups = 2; /* each group fetches again */
        ds_cpu_scratch_reserve(cpu, row_bytes * (size_t)rows + 64);
    }
    ds_team_run(cpu->team, product_task, job, job->row_blocks * job->groups);
}
