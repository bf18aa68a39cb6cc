/* kernels/cuda/cuda.h - what the files of the CUDA device share.
 *
 * An op of kernels/ops.def is a host function ds_cuda_<op> that takes the stream's device with
 * ds_cuda_begin and launches kernels, or calls lib.h.  Nothing in an op waits for the GPU but
 * download.  Activations are float or ds_bf16 by dev->act_size: ds_cuda_by_act
 * instantiates a template for the right one.
 *
 * A weight is one row-major copy (m,n) in bf16 or f32: cuBLASLt reads it both ways at full rate, so
 * there is no second one for the input gradient.
 */
#ifndef DS_KERNELS_CUDA_CUDA_H
#define DS_KERNELS_CUDA_CUDA_H

#include "kernels/cuda/lib/lib.h"

extern "C" {
#include "base/mem.h"
#define DS_OP(op, args) void ds_cuda_##op args;
#include "kernels/ops.def"
#undef DS_OP
}

struct ds_weight {
    int m, n;
    int f32;  /* f32 products, even on a bf16 device */
    int tf32; /* convolutions with it take TF32; its numbers are rounded to that */
    void *w;  /* (m,n) float or ds_bf16 */
    int runs; /* 1; or it is all of several (ds_device.weights_new), one behind the other */
    int part; /* one of several: the memory is that of all */
};

/* An op that was asked for and not yet launched: if the next op takes its result, both are one
 * kernel (norm.h). */
enum ds_cuda_waiting { DS_CUDA_NOTHING, DS_CUDA_GATE_FORWARD, DS_CUDA_NORM_BACKWARD };

struct ds_cuda_pending {
    ds_cuda_waiting waiting;
    int B, T, D, stride;
    /* gate_forward; stride is that of gate */
    float *res_out;
    const float *res_in, *gate;
    const ds_act *y;
    /* adaln_backward; stride is that of scale */
    float *dx, *dshift, *dscale;
    int dstride;
    const ds_act *dout;
    const float *x, *mean, *rstd, *scale;
};

struct ds_cuda {
    ds_lib *lib;
    int ordinal, sm, sms; /* sm: 90 for Hopper; sms: number of multiprocessors */
    int bf16, tf32;       /* products of the token stream */
    char gpu[64];         /* "NVIDIA H100 80GB HBM3" */
    void *stream;         /* cudaStream_t */
    void *scratch;        /* of the op that runs; grows */
    size_t scratch_bytes;
    void *branch; /* output of a layer that only a pending sum reads (linear.cu); grows */
    size_t branch_bytes;
    unsigned generation; /* counts moves of scratch and branch: a recorded graph holds them */
    int recording;
    ds_cuda_pending pending;
    struct ds_cuda_graphs *graphs;
};

static inline ds_cuda *ds_cuda_of(ds_device *dev) { return (ds_cuda *)dev->impl; }

/* gate.cu: launches what is pending. */
void ds_cuda_flush(ds_device *dev);

/* gate.cu: gate_forward, launched with the next op; y and gate stay as they are until then.  The
 * caller has called ds_cuda_begin. */
void ds_cuda_gate_later(ds_device *dev, float *res_out, const float *res_in, const float *gate,
                        int gate_stride, const ds_act *y, int B, int T, int D);

/* The device of an op; what was pending goes first. */
static inline ds_cuda *ds_cuda_begin(ds_device *dev) {
    ds_cuda *c = ds_cuda_of(dev);
    if (c->pending.waiting)
        ds_cuda_flush(dev);
    return c;
}

/* Room for the op that runs, 256-byte aligned, not initialised; the next op uses it again.  One
 * call an op: take it once and divide it. */
void *ds_cuda_scratch(ds_cuda *c, size_t bytes);

/* A sticky error: says what and where, and ends the process (exit code of DS_EBUSY: try again). */
[[noreturn]] void ds_cuda_fatal(const char *what, const char *why);
/* bytes 0: not known.  A caller that frees memory first has less to ask for. */
[[noreturn]] void ds_cuda_no_room(ds_cuda *c, const char *what, size_t bytes);

/* f(T{}) with T the type of an activation. */
template <class F> inline void ds_cuda_by_act(ds_device *dev, F f) {
    if (dev->act_size == 2)
        f(ds_bf16{});
    else
        f(float{});
}

template <class T> inline T *ds_ptr(ds_act *p) { return reinterpret_cast<T *>(p); }
template <class T> inline const T *ds_ptr(const ds_act *p) {
    return reinterpret_cast<const T *>(p);
}

inline int ds_ceil_div(size_t n, size_t by) { return (int)((n + by - 1) / by); }

#ifndef DS_CUDA_EMU
void ds_lib_enter(ds_cuda *c); /* the device of the calling thread; cheap when it is already */
void ds_cuda_check_launch(ds_cuda *c, const void *kernel);
#endif

/* kernel<<<grid, block, shared>>>(args) on the device's stream.  shared: bytes of DS_SHARED. */
template <class... P, class... A>
inline void ds_cuda_launch(ds_cuda *c, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
                           A... args) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0)
        return;
#ifdef DS_CUDA_EMU
    (void)c;
    ds_emu_launch(grid, block, shared, [=] { kernel(static_cast<P>(args)...); });
#else
    ds_lib_enter(c);
    if (shared > 48 * 1024) /* more than the default limit has to be asked for */
        cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             (int)shared);
    kernel<<<grid, block, shared, (cudaStream_t)c->stream>>>(static_cast<P>(args)...);
    ds_cuda_check_launch(c, (const void *)kernel);
#endif
}

#endif
