/* engine/linalg.h - dense symmetric linear algebra in double, on LAPACKE and CBLAS.
 *
 * Matrices are (n,n) row-major; symmetric ones are full, not packed.
 * Determinism: OpenBLAS is held to one thread, so results do not depend on the number of threads;
 * they may differ in the last bits between processor types (OpenBLAS chooses kernels by type).
 * Thread: any; calls in parallel are allowed.
 * Errors: DS_EFAILED when an eigen-decomposition does not converge or the input is not finite.
 */
#ifndef DS_ENGINE_LINALG_H
#define DS_ENGINE_LINALG_H

#include "base/error.h"
#include "kernels/device.h"

#include <stddef.h>

/* c (m,n) (=) alpha a b.  a (m,k), or its transpose (k,m) if a_transposed; b (k,n) or (n,k). */
void ds_matmul(double *c, int m, int n, int k, double alpha, const double *a, int a_transposed,
               const double *b, int b_transposed);

/* c (n,n) (+=) x^T x, both triangles.  x (rows,n). */
void ds_gram_add(double *c, const double *x, int rows, int n);

/* From now on eigenvalues without vectors that this thread asks for are the device's business,
 * where it has the means (dev->eigenvalues) and does not refuse; NULL: no more.  dev outlives its
 * use. */
void ds_linalg_use(ds_device *dev);

/* Eigenvalues w (n), ascending; vectors != 0: a (=) eigenvectors as columns, else a is destroyed.
 */
int ds_eigen_symmetric(double *a, double *w, int n, int vectors, ds_error *err);

/* root (=) the positive semi-definite square root of a.  Eigenvalues below n eps max(w) (negative
 * ones included) are rounding of zero and count as zero.  root may be a. */
int ds_sqrt_psd(double *root, const double *a, int n, ds_error *err);

/* Sum of the square roots of the eigenvalues of a, which is destroyed; same rule for tiny ones. */
int ds_trace_sqrt_psd(double *trace, double *a, int n, ds_error *err);

#endif
