/* kernels/cuda/dense.h - what dense.cu takes from the libraries, and what it gives to device.cu.
 *
 * Implemented by lib_dense.cu (cuBLAS, cuSOLVER) and tests/emu/lib_dense.cc (plain loops).
 * All pointers are to the device's memory; matrices row-major, contiguous, double, sums in double.
 * The same call gives the same bytes each time on one kind of GPU.
 * 0 = done; else the library refuses, and what the result pointed to is anything.
 */
#ifndef DS_KERNELS_CUDA_DENSE_H
#define DS_KERNELS_CUDA_DENSE_H

#include "kernels/cuda/cuda.h"

/* d (m,n) (=) alpha op(a) (m,k) op(b) (k,n); at: a is stored (k,m), bt: b is stored (n,k). */
int ds_lib_dgemm(ds_cuda *c, double *d, int m, int n, int k, double alpha, const double *a, int at,
                 const double *b, int bt);

/* Upper triangle of d: x^T x (n,n), or of_rows: x x^T (rows,rows).  x (rows,n). */
int ds_lib_dsyrk(ds_cuda *c, double *d, const double *x, int rows, int n, int of_rows);

/* Eigenvalues w (n), ascending, of the symmetric a (n,n), of which the upper triangle is read;
 * vectors: a (=) eigenvectors as rows, else it is destroyed.  Waits for the GPU. */
int ds_lib_dsyevd(ds_cuda *c, double *w, double *a, int n, int vectors);

extern const struct ds_dense ds_cuda_dense;

#endif
