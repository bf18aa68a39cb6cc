/* kernels/cuda/lib/lib_dense.cu - products by cuBLAS and eigenvalues by cuSOLVER, in double.
 *
 * Both are column-major, so a row-major matrix is its transpose to them: the upper triangle is
 * their lower one, and eigenvectors in columns are rows here.  cuBLAS gives the same bytes each
 * time on the same GPU while one stream uses it (cuBLAS documentation, "Results
 * reproducibility"); the handles live for the call, which is asked for a few times an evaluation.
 */
#include "kernels/cuda/dense.h"
#include "kernels/cuda/lib/handles.h"

#include <cublas_v2.h>
#include <cusolverDn.h>
#include <stdlib.h>

namespace {

struct blas {
    cublasHandle_t handle = NULL;
    int failed;

    explicit blas(ds_cuda *c) {
        ds_lib_enter(c);
        failed = cublasCreate(&handle) != CUBLAS_STATUS_SUCCESS ||
                 cublasSetStream(handle, c->lib->stream) != CUBLAS_STATUS_SUCCESS;
    }
    blas(const blas &) = delete;
    ~blas() {
        if (handle)
            cublasDestroy(handle); /* waits for the GPU */
    }
};

} // namespace

int ds_lib_dgemm(ds_cuda *c, double *d, int m, int n, int k, double alpha, const double *a, int at,
                 const double *b, int bt) {
    const double zero = 0;
    blas with(c);
    return with.failed ||
           cublasDgemm(with.handle, bt ? CUBLAS_OP_T : CUBLAS_OP_N, at ? CUBLAS_OP_T : CUBLAS_OP_N,
                       n, m, k, &alpha, b, bt ? k : n, a, at ? m : k, &zero, d,
                       n) != CUBLAS_STATUS_SUCCESS;
}

int ds_lib_dsyrk(ds_cuda *c, double *d, const double *x, int rows, int n, int of_rows) {
    const double one = 1, zero = 0;
    int side = of_rows ? rows : n, sum = of_rows ? n : rows;
    blas with(c); /* to it x is (n,rows) */
    return with.failed ||
           cublasDsyrk(with.handle, CUBLAS_FILL_MODE_LOWER, of_rows ? CUBLAS_OP_T : CUBLAS_OP_N,
                       side, sum, &one, x, n, &zero, d, side) != CUBLAS_STATUS_SUCCESS;
}

/* ---------------------------------------------------------------- eigenvalues */

namespace {

struct solver {
    ds_cuda *c;
    cusolverDnHandle_t handle = NULL;
    cusolverDnParams_t params = NULL;
    void *room = NULL, *host = NULL;
    int *info = NULL;

    explicit solver(ds_cuda *cuda) : c(cuda) { ds_lib_enter(c); }
    solver(const solver &) = delete;
    ~solver() {
        ds_lib_sync(c);
        ds_lib_free(c, room);
        ds_lib_free(c, info);
        free(host);
        if (params)
            cusolverDnDestroyParams(params);
        if (handle)
            cusolverDnDestroy(handle);
    }

    int open() {
        return cusolverDnCreate(&handle) != CUSOLVER_STATUS_SUCCESS ||
               cusolverDnCreateParams(&params) != CUSOLVER_STATUS_SUCCESS ||
               cusolverDnSetStream(handle, c->lib->stream) != CUSOLVER_STATUS_SUCCESS;
    }

    int solve(double *w, double *a, int n, int vectors) {
        const cusolverEigMode_t mode =
            vectors ? CUSOLVER_EIG_MODE_VECTOR : CUSOLVER_EIG_MODE_NOVECTOR;
        const cublasFillMode_t half = CUBLAS_FILL_MODE_LOWER;
        size_t bytes = 0, host_bytes = 0;
        int result = -1;
        if (cusolverDnXsyevd_bufferSize(handle, params, mode, half, n, CUDA_R_64F, a, n, CUDA_R_64F,
                                        w, CUDA_R_64F, &bytes, &host_bytes))
            return 1;
        room = ds_lib_alloc(c, bytes ? bytes : 1);
        info = (int *)ds_lib_alloc(c, sizeof *info);
        host = malloc(host_bytes ? host_bytes : 1);
        if (!room || !info || !host ||
            cusolverDnXsyevd(handle, params, mode, half, n, CUDA_R_64F, a, n, CUDA_R_64F, w,
                             CUDA_R_64F, room, bytes, host, host_bytes, info))
            return 1;
        ds_lib_download(c, &result, info, sizeof result);
        return result != 0;
    }
};

} // namespace

int ds_lib_dsyevd(ds_cuda *c, double *w, double *a, int n, int vectors) {
    solver s(c);
    return n <= 0 || s.open() || s.solve(w, a, n, vectors);
}
