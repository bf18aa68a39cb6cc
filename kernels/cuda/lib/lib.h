/* kernels/cuda/lib/lib.h - all that the device takes from NVIDIA's libraries and the CUDA runtime.
 *
 * Everything else under kernels/cuda/ is our own and also runs in the emulation; this interface is
 * implemented twice:
 *   lib_runtime.cu, lib_blas.cu, lib_dnn.cu     the CUDA runtime, cuBLASLt, cuDNN (dnn_graph.cu)
 *   tests/emu/lib_emu.cc                        plain loops over host memory (CI)
 *
 * Threads: that of the device.  All work goes to the device's one stream, in order.
 * Errors: opening and allocating return errors.  A call that fails later is a sticky error of the
 * device: ds_cuda_fatal ends the process, and the job goes on from its checkpoint.  So does one for
 * which there is no room (ds_cuda_no_room), with another exit status: that is nobody's fault.
 */
#ifndef DS_KERNELS_CUDA_LIB_LIB_H
#define DS_KERNELS_CUDA_LIB_LIB_H

#include "kernels/cuda/num.h"

extern "C" {
#include "kernels/device.h"
}

struct ds_cuda;
struct ds_lib; /* handles and caches: the implementation's own */

/* ---------------------------------------------------------------- runtime */

/* Opens device `ordinal` (-1: the one with the most free memory): fills c->lib, c->sm, c->sms,
 * c->gpu. */
int ds_lib_open(ds_cuda *c, int ordinal, ds_error *err);
void ds_lib_close(ds_cuda *c);                /* c->lib NULL is fine */
void *ds_lib_alloc(ds_cuda *c, size_t bytes); /* NULL: no room */
void ds_lib_free(ds_cuda *c, void *p);        /* waits for the stream */
/* src may be changed when upload returns (it was staged); dst is there when download returns. */
void ds_lib_upload(ds_cuda *c, void *dst, const void *src_host, size_t bytes);
void ds_lib_download(ds_cuda *c, void *dst_host, const void *src, size_t bytes);
void ds_lib_fetch(ds_cuda *c, int slot, const void *src, size_t bytes); /* see ds_device.fetch */
void ds_lib_fetched(ds_cuda *c, int slot, void *dst_host, size_t bytes);
void ds_lib_sync(ds_cuda *c);
size_t ds_lib_free_bytes(ds_cuda *c);
size_t ds_lib_total_bytes(ds_cuda *c);
size_t ds_lib_workspace_bytes(ds_cuda *c); /* that the libraries' calls share; it grows */

/* Recording of what goes to the stream (a CUDA graph), see ds_device.replay.  begin: 0 = recording;
 * not 0 = cannot record here.  end gives the graph, which launch runs. */
int ds_lib_record_begin(ds_cuda *c);
void *ds_lib_record_end(ds_cuda *c);
void ds_lib_graph_launch(ds_cuda *c, void *graph);
void ds_lib_graph_free(ds_cuda *c, void *graph);

/* ---------------------------------------------------------------- products */

enum ds_lib_type { DS_LIB_F32, DS_LIB_BF16 };
enum ds_lib_epilogue {
    DS_LIB_NONE,
    DS_LIB_BIAS,      /* + bias (n), of the type of d */
    DS_LIB_BIAS_GELU, /* aux (m,n) (=) d + bias when not NULL, d (=) gelu_tanh of it */
    DS_LIB_DGELU,     /* d (=) d * gelu_tanh'(aux) */
    DS_LIB_BIAS_RELU
};

/* runs > 1: as many such products, their a, b, d and bias one behind the other.
 * d (m,n) (=, or += if add) op(a) (m,k) op(b) (k,n) + epilogue.  Row-major, leading dimensions in
 * elements.  ta: a is stored (k,m);  tb: b is stored (n,k).  Types of a and b are the same.
 * exact: f32 products without TF32 on a device of that precision.
 * The algorithm depends on everything here but m and runs, and never splits k: a row of d has the
 * same bytes whatever m is. */
struct ds_gemm {
    int m, n, k, ta, tb, lda, ldb, ldd;
    ds_lib_type ab, d;
    int add, exact, runs;
    ds_lib_epilogue epilogue;
    const void *bias; /* (n) */
    void *aux;        /* (m,n), leading dimension n, of the type of d */
};

/* 0 = done; not 0 = the library has no algorithm for this epilogue, these runs and alignment: the
 * caller does the epilogue itself, or one run at a time.  DS_LIB_NONE of one run is always done. */
int ds_lib_gemm(ds_cuda *c, const ds_gemm *g, void *d, const void *a, const void *b);

/* ---------------------------------------------------------------- attention, convolution
 * Arguments as in kernels/ops.def.  0 = done; not 0 = not for this shape: own kernels do it. */
int ds_lib_attention_forward(ds_cuda *c, void *out, float *lse, const void *qkv, int B, int T,
                             int D, int H);
int ds_lib_attention_backward(ds_cuda *c, void *dqkv, const void *dout, const void *out,
                              const float *lse, const void *qkv, int B, int T, int D, int H);
/* y (B,oh,ow,out_channels) packed (=) conv(x), f32, w (out, kh, kw, in); tf32: of the numbers'
 * first 10 bits of mantissa, cut or rounded as the library likes. */
int ds_lib_conv(ds_cuda *c, float *y, const float *x, const float *w, const ds_conv *geo, int tf32);

#endif
