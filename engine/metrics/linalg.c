#include "engine/metrics/linalg.h"
#include "base/mem.h"

#include <cblas.h>
#include <float.h>
#include <lapacke.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* The split of a product among OpenBLAS's threads changes the order of its sums. */
static void one_thread(void) {
    if (openblas_get_num_threads() != 1)
        openblas_set_num_threads(1);
}

/* ---------------------------------------------------------------- who does it */

static _Thread_local ds_device *helper;

void ds_linalg_use(ds_device *dev) { helper = dev; }

int ds_linalg_threads(void) {
    int n = helper ? helper->threads : 1;
    return n < 1 ? 1 : n < DS_LINALG_THREADS_MAX ? n : DS_LINALG_THREADS_MAX;
}

int ds_linalg_helped(void) { return helper && helper->dense; }

/* The device's means for a problem of so many multiplications, NULL: too small to be sent. */
static const ds_dense *means(double multiplications) {
    const double worth_sending = 256.0 * 256 * 256;
    return ds_linalg_helped() && multiplications >= worth_sending ? helper->dense : NULL;
}

typedef struct {
    ds_linalg_task *task;
    void *ctx;
    int tasks;
    atomic_int next;
} crew;

typedef struct {
    crew *crew;
    int worker;
    pthread_t thread;
} hand;

static void *work(void *arg) {
    const hand *h = arg;
    for (int i; (i = atomic_fetch_add(&h->crew->next, 1)) < h->crew->tasks;)
        h->crew->task(h->crew->ctx, i, h->worker);
    return NULL;
}

void ds_linalg_parallel(int tasks, int threads, ds_linalg_task *task, void *ctx) {
    crew c = {.task = task, .ctx = ctx, .tasks = tasks};
    hand hands[DS_LINALG_THREADS_MAX];
    int most = threads < tasks ? threads : tasks, n = 1;
    DS_ASSERT(threads >= 1 && threads <= DS_LINALG_THREADS_MAX);
    one_thread(); /* before there are several */
    for (; n < most; n++) {
        hands[n] = (hand){.crew = &c, .worker = n};
        if (pthread_create(&hands[n].thread, NULL, work, &hands[n]))
            break;
    }
    hands[0] = (hand){.crew = &c};
    work(&hands[0]);
    for (int i = 1; i < n; i++)
        pthread_join(hands[i].thread, NULL);
}

/* ---------------------------------------------------------------- products */

/* Rows of a result that are one call: enough that packing the other operand again costs little. */
enum { STRIPE = 256 };

typedef struct {
    double *c;
    const double *a, *b;
    int m, n, k, ta, tb, add, upper;
    double alpha;
} product;

static void stripe(void *ctx, int i, int worker) {
    const product *p = ctx;
    (void)worker;
    int first = i * STRIPE, rows = p->m - first < STRIPE ? p->m - first : STRIPE;
    int left = p->upper ? first : 0; /* columns that are not wanted */
    const double *a = p->a + (size_t)first * (p->ta ? 1 : (size_t)p->k),
                 *b = p->b + (size_t)left * (p->tb ? (size_t)p->k : 1);
    cblas_dgemm(CblasRowMajor, p->ta ? CblasTrans : CblasNoTrans, p->tb ? CblasTrans : CblasNoTrans,
                rows, p->n - left, p->k, p->alpha, a, p->ta ? p->m : p->k, b, p->tb ? p->k : p->n,
                p->add, p->c + (size_t)first * (size_t)p->n + left, p->n);
}

static void run(product p) {
    const double worth_threads = 1e7;
    int threads = (double)p.m * p.n * p.k < worth_threads ? 1 : ds_linalg_threads();
    ds_linalg_parallel((p.m + STRIPE - 1) / STRIPE, threads, stripe, &p);
}

void ds_matmul(double *c, int m, int n, int k, double alpha, const double *a, int a_transposed,
               const double *b, int b_transposed) {
    const ds_dense *dense = means((double)m * n * k);
    if (dense && dense->product(helper, c, m, n, k, alpha, a, a_transposed, b, b_transposed) == 0)
        return;
    run((product){.c = c,
                  .a = a,
                  .b = b,
                  .m = m,
                  .n = n,
                  .k = k,
                  .ta = a_transposed,
                  .tb = b_transposed,
                  .alpha = alpha});
}

/* c += the device's x^T x. */
static int gram_add_there(const ds_dense *dense, double *c, const double *x, int rows, int n) {
    double *sum = ds_xmalloc((size_t)n * (size_t)n * sizeof *sum);
    int rc = dense->gram(helper, sum, x, rows, n, 0);
    for (size_t i = 0; !rc && i < (size_t)n; i++)
        for (size_t j = i; j < (size_t)n; j++)
            c[i * (size_t)n + j] += sum[i * (size_t)n + j];
    free(sum);
    return rc;
}

void ds_gram_add(double *c, const double *x, int rows, int n) {
    const ds_dense *dense = means((double)n * n * rows);
    if (dense && gram_add_there(dense, c, x, rows, n) == 0)
        return;
    run((product){.c = c,
                  .a = x,
                  .b = x,
                  .m = n,
                  .n = n,
                  .k = rows,
                  .ta = 1,
                  .add = 1,
                  .upper = 1,
                  .alpha = 1});
}

void ds_gram_rows(double *c, const double *x, int rows, int n) {
    const ds_dense *dense = means((double)rows * rows * n);
    if (dense && dense->gram(helper, c, x, rows, n, 1) == 0)
        return;
    run((product){
        .c = c, .a = x, .b = x, .m = rows, .n = rows, .k = n, .tb = 1, .upper = 1, .alpha = 1});
}

void ds_mirror_upper(double *c, int n) {
    enum { TILE = 32 }; /* both sides of a tile stay in the cache */
    for (int top = 0; top < n; top += TILE)
        for (int left = top; left < n; left += TILE)
            for (int i = top; i < top + TILE && i < n; i++)
                for (int j = left > i ? left : i + 1; j < left + TILE && j < n; j++)
                    c[(size_t)j * (size_t)n + (size_t)i] = c[(size_t)i * (size_t)n + (size_t)j];
}

/* ---------------------------------------------------------------- eigenvalues
 * LAPACK reads a row-major upper triangle as its own lower one, and writes eigenvectors into
 * columns, our rows: nothing is transposed. */

static int upper_is_finite(const double *a, int n) {
    for (size_t i = 0; i < (size_t)n; i++)
        for (size_t j = i; j < (size_t)n; j++)
            if (!isfinite(a[i * (size_t)n + j]))
                return 0;
    return 1;
}

int ds_eigen_symmetric(double *a, double *w, int n, int vectors, ds_error *err) {
    DS_ASSERT(n > 0);
    if (!upper_is_finite(a, n))
        return ds_fail(err, DS_EFAILED, "cannot decompose a matrix whose numbers are not finite");
    const ds_dense *dense = means((double)n * n * n);
    if (dense && dense->eigen(helper, w, a, n, vectors) == 0)
        return 0;
    one_thread();
    int info = LAPACKE_dsyevd(LAPACK_COL_MAJOR, vectors ? 'V' : 'N', 'L', n, a, n, w);
    if (info)
        return ds_fail(err, DS_EFAILED, "eigen-decomposition of %d x %d did not converge (%d)", n,
                       n, info);
    return 0;
}

/* Eigenvalues -> square roots, tiny and negative ones -> 0 (w ascending).  What the solver leaves
 * of a zero grows with n only at first; a threshold of n eps for large n drops true eigenvalues,
 * which are squares in a product of covariances: at n = 2048 it moved an FID of 0.540 by 0.009. */
static void clamp_sqrt(double *w, int n) {
    double least = (n < 32 ? n : 32) * DBL_EPSILON * fmax(fabs(w[0]), fabs(w[n - 1]));
    for (int i = 0; i < n; i++)
        w[i] = w[i] > least ? sqrt(w[i]) : 0;
}

/* f (=) Cholesky's factor.  0: a is not safely positive definite.  The condition number in the
 * 1-norm is not below that in the 2-norm, so every eigenvalue of what is taken is far above the
 * threshold of clamp_sqrt, and f is as good as a root: f^T f = a to some eps of its largest. */
static int cholesky(double *f, const double *a, int n) {
    const double least = 1e-12;
    double norm, inverse = 0;
    one_thread();
    for (size_t i = 0; i < (size_t)n; i++) {
        memset(f + i * (size_t)n, 0, i * sizeof *f);
        memcpy(f + i * (size_t)n + i, a + i * (size_t)n + i, ((size_t)n - i) * sizeof *f);
    }
    norm = LAPACKE_dlansy(LAPACK_COL_MAJOR, '1', 'L', n, f, n);
    if (LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'L', n, f, n) ||
        LAPACKE_dpocon(LAPACK_COL_MAJOR, 'L', n, f, n, norm, &inverse))
        return 0;
    return inverse > least;
}

int ds_factor_psd(double *f, int *rank, const double *a, int n, ds_error *err) {
    size_t width = (size_t)n, zeros = 0;
    if (!upper_is_finite(a, n))
        return ds_fail(err, DS_EFAILED, "cannot decompose a matrix whose numbers are not finite");
    *rank = n;
    if (cholesky(f, a, n))
        return 0;
    double *w = ds_xmalloc(width * sizeof *w);
    memcpy(f, a, width * width * sizeof *f);
    int rc = ds_eigen_symmetric(f, w, n, 1, err);
    if (!rc) { /* f = diag(sqrt w) V^T without its zeros, which come first */
        clamp_sqrt(w, n);
        while (zeros < width && w[zeros] == 0)
            zeros++;
        for (size_t i = zeros; i < width; i++)
            for (size_t j = 0; j < width; j++)
                f[(i - zeros) * width + j] = w[i] * f[i * width + j];
        *rank = n - (int)zeros;
    }
    free(w);
    return rc;
}

int ds_trace_sqrt_psd(double *trace, double *a, int n, ds_error *err) {
    double *w = ds_xmalloc((size_t)n * sizeof *w);
    int rc = ds_eigen_symmetric(a, w, n, 0, err);
    if (!rc) {
        clamp_sqrt(w, n);
        *trace = 0;
        for (int i = 0; i < n; i++)
            *trace += w[i];
    }
    free(w);
    return rc;
}
