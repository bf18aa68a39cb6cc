/* kernels/cuda/lib/lib_blas.cu - matrix products of the ops by cuBLASLt.
 *
 * cuBLASLt is column-major, so the row-major d (m,n) = a b is asked for as its transpose:
 * d^T (n,m) = b^T a^T, where b is the library's A, a its B, and a bias along n is one per row of
 * the library's D, as its epilogues want it.
 *
 * An algorithm is chosen once for a shape without its number of rows, at ROWS rows, from those that
 * do not split the sum (no reduction scheme), and then serves every number of rows: a row of d is
 * the same bytes in any batch.  If it does not check for a number of rows, the next of the list
 * does.  The library also has kernels that share out the tiles left over at the end along their
 * sums ("stream K", no attribute says which); their workspace gives them away, and they come last.
 * Source: cuBLAS documentation, "Using the cuBLASLt API".
 */
#include "kernels/cuda/lib/handles.h"

#include <cublasLt.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROWS = 8192, CANDIDATES = 16, ALIGNMENT = 16 };
static const size_t WORKSPACE = (size_t)32 << 20;
static const size_t COUNTERS = 4096; /* less than the smallest tile of partial sums */

/* All that the choice depends on; zeroed before it is filled, since it is compared as bytes.
 * bias, aux: is there one (how they lie: epilogue_fits). */
struct product_key {
    int n, k, m; /* m: 0 but for products whose rows are not tokens (ta) */
    int ta, tb, lda, ldb, ldd, ab, d, add, exact, epilogue, bias, aux;
    unsigned align_a, align_b, align_d;
};

struct choice {
    product_key key;
    int count;
    cublasLtMatmulAlgo_t algo[CANDIDATES];
    int rows, pick; /* the last number of rows, and which one it took */
    int runs;       /* .. and so many of them at once */
};

struct ds_lib_blas {
    cublasLtHandle_t handle;
    void *workspace;
    choice *choices;
    int count, room;
};

static void must(cublasStatus_t status, const char *what) {
    if (status != CUBLAS_STATUS_SUCCESS)
        ds_cuda_fatal(what, cublasLtGetStatusString(status));
}

int ds_lib_blas_open(ds_cuda *c, ds_error *err) {
    ds_lib_blas *blas = (ds_lib_blas *)calloc(1, sizeof *blas);
    c->lib->blas = blas;
    cublasStatus_t status = cublasLtCreate(&blas->handle);
    if (status != CUBLAS_STATUS_SUCCESS)
        return ds_fail(err, DS_EBUSY, "cannot open cuda:%d: cuBLASLt: %s", c->ordinal,
                       cublasLtGetStatusString(status));
    blas->workspace = ds_lib_alloc(c, WORKSPACE);
    if (!blas->workspace)
        return ds_fail(err, DS_ENOMEM, "cannot open cuda:%d: no room for %zu MiB of workspace",
                       c->ordinal, WORKSPACE >> 20);
    c->lib->workspace_bytes += WORKSPACE;
    return 0;
}

void ds_lib_blas_close(ds_cuda *c) {
    ds_lib_blas *blas = c->lib->blas;
    if (!blas)
        return;
    ds_lib_free(c, blas->workspace);
    if (blas->handle)
        cublasLtDestroy(blas->handle);
    free(blas->choices);
    free(blas);
    c->lib->blas = NULL;
}

/* ---------------------------------------------------------------- descriptors */

struct product {
    cublasLtMatmulDescOpaque_t what;
    cublasLtMatrixLayoutOpaque_t A, B, D; /* the library's: A is b, B is a */
};

static cudaDataType type_of(int type) { return type == DS_LIB_BF16 ? CUDA_R_16BF : CUDA_R_32F; }

static cublasComputeType_t compute_of(const ds_cuda *c, const ds_gemm *g) {
    if (g->ab == DS_LIB_F32 && c->tf32 && !g->exact)
        return CUBLAS_COMPUTE_32F_FAST_TF32;
    return CUBLAS_COMPUTE_32F;
}

static cublasLtEpilogue_t epilogue_of(const ds_gemm *g) {
    switch (g->epilogue) {
    case DS_LIB_BIAS: return g->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    case DS_LIB_BIAS_GELU:
        if (g->aux)
            return g->bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
        return g->bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
    case DS_LIB_DGELU: return CUBLASLT_EPILOGUE_DGELU;
    case DS_LIB_BIAS_RELU: return g->bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
    default: return CUBLASLT_EPILOGUE_DEFAULT;
    }
}

template <class V> static void set(product *p, cublasLtMatmulDescAttributes_t name, const V &v) {
    must(cublasLtMatmulDescSetAttribute(&p->what, name, &v, sizeof v), "a matrix product");
}

static void layout(cublasLtMatrixLayoutOpaque_t *l, int type, int rows, int columns, int ld) {
    must(cublasLtMatrixLayoutInit(l, type_of(type), (uint64_t)rows, (uint64_t)columns, ld),
         "a matrix product");
}

static void repeat(cublasLtMatrixLayoutOpaque_t *l, int32_t runs, int64_t apart) {
    must(
        cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &runs, sizeof runs),
        "a matrix product");
    must(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &apart,
                                          sizeof apart),
         "a matrix product");
}

static void describe(product *p, const ds_cuda *c, const ds_gemm *g, int rows) {
    must(cublasLtMatmulDescInit(&p->what, compute_of(c, g), CUDA_R_32F), "a matrix product");
    set(p, CUBLASLT_MATMUL_DESC_TRANSA, g->tb ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(p, CUBLASLT_MATMUL_DESC_TRANSB, g->ta ? CUBLAS_OP_T : CUBLAS_OP_N);
    cublasLtEpilogue_t epilogue = epilogue_of(g);
    set(p, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
    if (g->bias && g->epilogue != DS_LIB_NONE && g->epilogue != DS_LIB_DGELU) {
        set(p, CUBLASLT_MATMUL_DESC_BIAS_POINTER, g->bias);
        set(p, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type_of(g->d));
    }
    if (g->aux && (g->epilogue == DS_LIB_BIAS_GELU || g->epilogue == DS_LIB_DGELU)) {
        int64_t ld = g->n;
        set(p, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, g->aux);
        set(p, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, ld);
    }
    layout(&p->A, g->ab, g->tb ? g->k : g->n, g->tb ? g->n : g->k, g->ldb);
    layout(&p->B, g->ab, g->ta ? rows : g->k, g->ta ? g->k : rows, g->lda);
    layout(&p->D, g->d, g->n, rows, g->ldd);
    if (g->runs <= 1)
        return;
    if (g->bias)
        set(p, CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, (int64_t)g->n);
    repeat(&p->A, g->runs, (int64_t)g->n * g->ldb);
    repeat(&p->B, g->runs, (int64_t)rows * g->lda);
    repeat(&p->D, g->runs, (int64_t)rows * g->ldd);
}

/* May the library be asked for this epilogue?  It wants a leading dimension of aux in eights, and
 * its heuristics do not look at how bias and aux lie: a kernel that reads 16 bytes of them at a
 * time would fault.  Source: cublasLtMatmulDescAttributes_t, EPILOGUE_AUX_LD;
 * github.com/pytorch/pytorch/pull/194497 (bias). */
static int epilogue_fits(const ds_gemm *g) {
    if (g->epilogue == DS_LIB_NONE)
        return 1;
    return (uintptr_t)g->bias % ALIGNMENT == 0 && (uintptr_t)g->aux % ALIGNMENT == 0 &&
           (!g->aux || g->n % 8 == 0);
}

/* ---------------------------------------------------------------- choice of the algorithm */

static unsigned alignment(const void *p) {
    uintptr_t low = (uintptr_t)p & (~(uintptr_t)p + 1);
    return low && low < ALIGNMENT ? (unsigned)low : ALIGNMENT;
}

static product_key key_of(const ds_gemm *g, const void *d, const void *a, const void *b) {
    product_key key;
    memset(&key, 0, sizeof key);
    key.n = g->n;
    key.k = g->k;
    key.m = g->ta ? g->m : 0;
    key.ta = g->ta;
    key.tb = g->tb;
    key.lda = g->lda;
    key.ldb = g->ldb;
    key.ldd = g->ldd;
    key.ab = g->ab;
    key.d = g->d;
    key.add = g->add;
    key.exact = g->exact;
    key.epilogue = g->epilogue;
    key.bias = g->bias != NULL;
    key.aux = g->aux != NULL;
    key.align_a = alignment(b); /* the library's names */
    key.align_b = alignment(a);
    key.align_d = alignment(d);
    return key;
}

template <class V>
static void prefer(cublasLtMatmulPreferenceOpaque_t *p, cublasLtMatmulPreferenceAttributes_t name,
                   const V &v) {
    must(cublasLtMatmulPreferenceSetAttribute(p, name, &v, sizeof v), "a matrix product");
}

static int splits(const cublasLtMatmulAlgo_t *algo) {
    int32_t parts = 1;
    size_t written;
    cublasStatus_t status = cublasLtMatmulAlgoConfigGetAttribute(
        algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &parts, sizeof parts, &written);
    return status == CUBLAS_STATUS_SUCCESS && parts != 1 && parts != 0;
}

/* The workspace of an algorithm for p; SIZE_MAX: it does not take p. */
static size_t wants(ds_cuda *c, product *p, const cublasLtMatmulAlgo_t *algo) {
    cublasLtMatmulHeuristicResult_t result;
    cublasStatus_t status = cublasLtMatmulAlgoCheck(c->lib->blas->handle, &p->what, &p->A, &p->B,
                                                    &p->D, &p->D, algo, &result);
    return status == CUBLAS_STATUS_SUCCESS ? result.workspaceSize : SIZE_MAX;
}

/* Without partial sums in its workspace, whatever the rows: numbers that leave other tiles over. */
static bool is_whole(ds_cuda *c, const ds_gemm *g, const cublasLtMatmulAlgo_t *algo) {
    static const int rows[] = {64, 640, 2176, 4992, ROWS};
    for (int m : rows) {
        product p;
        describe(&p, c, g, g->ta ? g->m : m);
        size_t bytes = wants(c, &p, algo);
        if (bytes != SIZE_MAX && bytes > COUNTERS)
            return false;
    }
    return true;
}

static void ask(choice *at, ds_cuda *c, const ds_gemm *g, int rows) {
    cublasLtMatmulPreferenceOpaque_t wish;
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    product p;
    int count = 0;
    describe(&p, c, g, rows);
    must(cublasLtMatmulPreferenceInit(&wish), "a matrix product");
    uint32_t whole = CUBLASLT_REDUCTION_SCHEME_NONE;
    prefer(&wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, whole);
    prefer(&wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, WORKSPACE);
    prefer(&wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, (uint32_t)at->key.align_a);
    prefer(&wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, (uint32_t)at->key.align_b);
    prefer(&wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, (uint32_t)at->key.align_d);
    prefer(&wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, (uint32_t)at->key.align_d);
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        c->lib->blas->handle, &p.what, &p.A, &p.B, &p.D, &p.D, &wish, CANDIDATES, found, &count);
    if (status != CUBLAS_STATUS_SUCCESS)
        count = 0;
    cublasLtMatmulAlgo_t last[CANDIDATES];
    int lasts = 0;
    at->count = 0;
    for (int i = 0; i < count; i++) {
        const cublasLtMatmulAlgo_t *algo = &found[i].algo;
        if (found[i].state != CUBLAS_STATUS_SUCCESS || splits(algo))
            continue;
        if (is_whole(c, g, algo))
            at->algo[at->count++] = *algo;
        else
            last[lasts++] = *algo;
    }
    if (lasts && getenv("DIFFSCALER_CUDA_VERBOSE"))
        fprintf(stderr, "cuBLASLt: n %d k %d%s: %d of %d algorithms would share out sums\n", g->n,
                g->k, g->ta ? " (a weight's gradient)" : "", lasts, lasts + at->count);
    for (int i = 0; i < lasts; i++)
        at->algo[at->count++] = last[i];
}

static ds_gemm one_run(const ds_gemm *g) {
    ds_gemm alone = *g;
    alone.runs = 1;
    return alone;
}

static choice *choice_of(ds_cuda *c, const ds_gemm *g, const product_key *key) {
    ds_lib_blas *blas = c->lib->blas;
    for (int i = 0; i < blas->count; i++)
        if (memcmp(&blas->choices[i].key, key, sizeof *key) == 0)
            return &blas->choices[i];
    if (blas->count == blas->room) {
        blas->room = blas->room ? 2 * blas->room : 32;
        blas->choices =
            (choice *)ds_xrealloc(blas->choices, (size_t)blas->room * sizeof *blas->choices);
    }
    choice *at = &blas->choices[blas->count++];
    memset(at, 0, sizeof *at);
    at->key = *key;
    const ds_gemm alone = one_run(g);
    ask(at, c, &alone, g->ta ? g->m : ROWS);
    return at;
}

static bool takes(const choice *at, ds_cuda *c, product *p) {
    return wants(c, p, &at->algo[at->pick]) <= WORKSPACE;
}

/* at->pick (=) the first of the list, beginning with `from`, that the library takes for the number
 * of rows of p, which is one run; at->count: none. */
static void seek(choice *at, ds_cuda *c, product *p, int from) {
    for (at->pick = from; at->pick < at->count && !takes(at, c, p);)
        at->pick++;
    at->runs = 1;
}

static cublasStatus_t run(const choice *at, ds_cuda *c, const ds_gemm *g, product *p, void *d,
                          const void *a, const void *b) {
    float one = 1, beta = g->add ? 1 : 0;
    cublasStatus_t status = cublasLtMatmul(c->lib->blas->handle, &p->what, &one, b, &p->A, a, &p->B,
                                           &beta, d, &p->D, d, &p->D, &at->algo[at->pick],
                                           c->lib->blas->workspace, WORKSPACE, c->lib->stream);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) /* that one has done nothing */
        must(status, "a matrix product");
    return status;
}

/* Several runs at once, with the algorithm of one or not at all: not all algorithms take several
 * (CUBLASLT_ALGO_CAP_STRIDED_BATCH_SUPPORT), and another one would give other bytes. */
static int run_several(choice *at, ds_cuda *c, const ds_gemm *g, void *d, const void *a,
                       const void *b) {
    product p;
    describe(&p, c, g, g->m);
    if (at->pick == at->count || (at->runs != g->runs && !takes(at, c, &p)))
        return 1;
    at->runs = g->runs;
    return run(at, c, g, &p, d, a, b) != CUBLAS_STATUS_SUCCESS;
}

int ds_lib_gemm(ds_cuda *c, const ds_gemm *g, void *d, const void *a, const void *b) {
    if (g->m <= 0 || g->n <= 0)
        return 0;
    if (!epilogue_fits(g))
        return 1;
    ds_lib_enter(c);
    product p;
    product_key key = key_of(g, d, a, b);
    choice *at = choice_of(c, g, &key);
    const ds_gemm alone = one_run(g);
    describe(&p, c, &alone, g->m);
    if (at->rows != g->m) {
        at->rows = g->m;
        seek(at, c, &p, 0);
    }
    if (g->runs > 1)
        return run_several(at, c, g, d, a, b);
    for (; at->pick < at->count; seek(at, c, &p, at->pick + 1))
        if (run(at, c, g, &p, d, a, b) == CUBLAS_STATUS_SUCCESS)
            return 0;
    if (g->epilogue != DS_LIB_NONE)
        return 1;
    ask(at, c, &alone, g->m); /* whatever takes this number of rows: better than none */
    for (at->pick = 0; at->pick < at->count; at->pick++)
        if (run(at, c, g, &p, d, a, b) == CUBLAS_STATUS_SUCCESS)
            return 0;
    char text[160];
    snprintf(text, sizeof text, "cuBLASLt has no algorithm for m %d n %d k %d (%s%s)", g->m, g->n,
             g->k, g->ab == DS_LIB_BF16 ? "bf16" : "f32", g->add ? ", added" : "");
    ds_cuda_fatal("a matrix product", text);
}
