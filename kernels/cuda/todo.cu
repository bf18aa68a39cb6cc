/* kernels/cuda/todo.cu - ops that are not written yet end the process with their name. */
#include "kernels/cuda/cuda.h"

#pragma GCC diagnostic ignored "-Wunused-parameter"
#define DS_OP(op, args)                                                                            \
    extern "C" __attribute__((weak)) void ds_cuda_##op args {                                      \
        ds_cuda_fatal(#op, "this op is not written yet");                                          \
    }
#include "kernels/ops.def"
#undef DS_OP
extern "C++" __attribute__((weak)) void ds_cuda_flush(ds_device *) {}
