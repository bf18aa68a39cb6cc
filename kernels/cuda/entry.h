/* kernels/cuda/entry.h - the one function of the CUDA library, and the check that both sides agree.
 *
 * The device is a shared object that load.c opens when a CUDA device is asked for, so the programs
 * run where there is no driver.  Plain C and C++.
 */
#ifndef DS_KERNELS_CUDA_ENTRY_H
#define DS_KERNELS_CUDA_ENTRY_H

#include "contract/job.h"
#include "kernels/device.h"

#define DS_CUDA_LIBRARY "libdiffscaler-cuda.so"
/* Exit codes: a sticky error of the device is tried again a few times, like a crash; no room for
 * scratch is tried again until there is. */
#define DS_CUDA_EXIT_FAILED DS_EXIT_GPU
#define DS_CUDA_EXIT_NO_ROOM DS_EXIT_AGAIN

/* Sizes of what both sides share, and the version. */
typedef struct {
    unsigned long device, ops, options, affiner, conv, step, segment, dense;
    char version[16];
} ds_cuda_abi;

#define DS_CUDA_ABI                                                                                \
    {                                                                                              \
        sizeof(ds_device), sizeof(struct ds_ops), sizeof(ds_device_options), sizeof(ds_affiner),   \
            sizeof(ds_conv), sizeof(ds_step), sizeof(ds_segment), sizeof(ds_dense), DS_VERSION     \
    }

typedef int ds_cuda_device_open_fn(ds_device **out, const ds_device_options *opt,
                                   const ds_cuda_abi *abi, ds_error *err);

#endif
