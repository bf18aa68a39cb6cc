/* kernels/cuda/lib/handles.h - what lib_runtime.cu, lib_blas.cu and lib_dnn.cu share: struct
 * ds_lib.
 *
 * One of them for a device; all of it belongs to lib_runtime.cu's open and close, which call the
 * openers and closers below.  Never seen by the emulation.
 */
#ifndef DS_KERNELS_CUDA_LIB_HANDLES_H
#define DS_KERNELS_CUDA_LIB_HANDLES_H

#include "kernels/cuda/cuda.h"

struct ds_lib_blas; /* lib_blas.cu */
struct ds_lib_dnn;  /* lib_dnn.cu */

/* Uploads and downloads go through two pinned buffers in turn: the host fills (or empties) one
 * while the other one travels. */
enum { DS_STAGES = 2, DS_FETCHES = 2 };
static const size_t DS_STAGE_BYTES = (size_t)8 << 20;

struct ds_lib {
    cudaStream_t stream;
    void *stage[DS_STAGES];
    cudaEvent_t staged[DS_STAGES]; /* the last copy from or to the stage */
    int turn;
    void *fetch[DS_FETCHES]; /* pinned, DS_FETCH_BYTES each */
    cudaEvent_t came[DS_FETCHES];
    size_t workspace_bytes; /* of blas and dnn */
    ds_lib_blas *blas;
    ds_lib_dnn *dnn;
};

/* Ends the process unless status is cudaSuccess. */
void ds_lib_must(cudaError_t status, const char *what);

int ds_lib_blas_open(ds_cuda *c, ds_error *err);
void ds_lib_blas_close(ds_cuda *c); /* not opened is fine, here and below */
int ds_lib_dnn_open(ds_cuda *c, ds_error *err);
void ds_lib_dnn_close(ds_cuda *c);

#endif
