/* engine/metrics/linalg.h - dense symmetric linear algebra in double, on LAPACKE and CBLAS.
 *
 * Matrices are (n,n) row-major, not packed; of symmetric ones the upper triangle is read and
 * written unless it says otherwise.
 * Where: large problems go to the device that ds_linalg_use named, if it has the means
 * (dev->dense); what it refuses is done here.  Products done here are cut into stripes of fixed
 * height, which as many threads do as that device has.
 * Determinism: OpenBLAS itself is held to one thread and the stripes do not depend on the number
 * of threads, so results do not either; they may differ in the last bits between types of
 * processor (OpenBLAS chooses kernels by type), and between processor and GPU.
 * Thread: any; calls in parallel are allowed.
 * Errors: DS_EFAILED when an eigen-decomposition does not converge or the input is not finite.
 */
#ifndef DS_ENGINE_METRICS_LINALG_H
#define DS_ENGINE_METRICS_LINALG_H

#include "base/error.h"
#include "kernels/device.h"

#include <stddef.h>

/* From now on the algebra that this thread asks for is the device's business, and spreads over
 * dev->threads threads where it stays on the processor; NULL: no more, and one thread.  dev
 * outlives its use. */
void ds_linalg_use(ds_device *dev);

/* How many threads that is, 1..DS_LINALG_THREADS_MAX. */
enum { DS_LINALG_THREADS_MAX = 16 };
int ds_linalg_threads(void);
/* Is there a device for large problems? */
int ds_linalg_helped(void);

/* task(ctx, i, worker) for i = 0..tasks-1, in any order, worker = 0..threads-1 for the thread that
 * runs it; 0 is the caller.  threads: at most ds_linalg_threads().  Tasks on other threads than the
 * caller's use no device.  If no thread can be had, fewer do it. */
typedef void ds_linalg_task(void *ctx, int i, int worker);
void ds_linalg_parallel(int tasks, int threads, ds_linalg_task *task, void *ctx);

/* c (m,n) (=) alpha a b.  a (m,k), or its transpose (k,m) if a_transposed; b (k,n) or (n,k). */
void ds_matmul(double *c, int m, int n, int k, double alpha, const double *a, int a_transposed,
               const double *b, int b_transposed);

/* Upper triangle of c (n,n) (+=) x^T x.  x (rows,n). */
void ds_gram_add(double *c, const double *x, int rows, int n);

/* Upper triangle of c (rows,rows) (=) x x^T.  x (rows,n). */
void ds_gram_rows(double *c, const double *x, int rows, int n);

/* Lower triangle (=) upper triangle. */
void ds_mirror_upper(double *c, int n);

/* Eigenvalues w (n), ascending; vectors != 0: a (=) eigenvectors as rows, else a is destroyed. */
int ds_eigen_symmetric(double *a, double *w, int n, int vectors, ds_error *err);

/* f (rank,n) with f^T f = a, positive semi-definite.  By Cholesky's decomposition where no
 * eigenvalue is near the rounding of zero; else by the eigen-decomposition, where eigenvalues below
 * min(n,32) eps max(w) (negative ones included) count as zero and leave no row.  f has room for
 * (n,n) and is not a. */
int ds_factor_psd(double *f, int *rank, const double *a, int n, ds_error *err);

/* Sum of the square roots of the eigenvalues of a, which is destroyed; same rule for tiny ones. */
int ds_trace_sqrt_psd(double *trace, double *a, int n, ds_error *err);

#endif
