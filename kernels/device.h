/* kernels/device.h - a device: memory, and one table of ops.
 *
 * The engine is written once over `dev->ops->...`; only kernels/ knows what a device is made of.
 * Every op takes the device first, so a process may hold several.
 *
 * Three kinds of memory:
 *   float *      parameters that are trained, gradients, optimiser state, statistics, conditioning
 *                vectors, the residual stream and its gradient, images.  Always f32.
 *   ds_act *     activations of the token stream.  Opaque: f32 or bf16 is the device's matter
 *                (act_size bytes each).  Row-major, contiguous.  The engine only moves pointers,
 *                with ds_act_at().
 *   ds_weight *  a matrix (m,n) packed in the layout and precision that this device's product
 *                likes, both for y = W x and for dx = W^T dy.  Written by ops->weight_pack only.
 *
 * Threads: one thread at a time per device (the device has its own team of workers inside).
 * Errors: opening and allocating can fail (ds_error, NULL).  Ops cannot: wrong arguments are a
 * broken invariant (DS_ASSERT).
 */
#ifndef DS_KERNELS_DEVICE_H
#define DS_KERNELS_DEVICE_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

typedef struct ds_device ds_device;
typedef struct ds_act ds_act;       /* never defined: opaque */
typedef struct ds_weight ds_weight; /* defined by each device */

/* TF32: f32 in memory, products of the GPU's tensor cores with 10 bits of mantissa (cuda only). */
enum ds_precision { DS_PRECISION_F32, DS_PRECISION_BF16, DS_PRECISION_TF32 };
/* By enum ds_precision; NULL ends the list. */
extern const char *const ds_precision_names[];
int ds_precision_from_name(const char *name, enum ds_precision *out, ds_error *err);

/* How a weight multiplies: as the device's precision says; in exact f32 on every device; in exact
 * f32, or with TF32 where that is the device's precision (conv_forward in ops.def). */
enum ds_weight_kind { DS_WEIGHT_DEVICE, DS_WEIGHT_F32, DS_WEIGHT_TF32 };

typedef struct {
    const char *kind; /* "ref", "cpu", "cuda", "cuda:N", or "auto" (= the fastest present) */
    enum ds_precision precision; /* of products and activations; "ref" knows f32 only */
    int threads;                 /* 0 = from sched_getaffinity and the cgroup quota */
    const char *isa; /* NULL = best present; "avx2", "avx512", "avx512bf16" cap it (tests) */
    int ordinal;     /* cuda: which device, from 1; 0 = from kind, else the one with most room */
} ds_device_options;

/* Adapter of one linear layer y = W x + bias, W (m,n), seen by the kernels.
 * The m outputs are `segs` equal segments (3 for fused qkv, else 1); each has its own s, U, V:
 *   side out: y_i = a_i (W x)_i + bias_i + b_i + s_g sum_r U_ir phi(V_g x)_r    g: segment of i
 *   side in:  y   = W (a*x + b) + bias + s_g U phi(V_g x)         segs must be 1, or a, b shared
 * a, b (m) for side out, (n) for side in;  s (segs);  U (m,r);  V (segs*r, n).  All f32.
 * r = 0: no low-rank branch (s, U, V NULL).  a or b may be NULL (= ones, zeros; no gradient).
 * Source: DESIGN "The Affiner"; gradients in docs/math.md. */
typedef struct {
    int m, n, r, segs;
    int side_in;  /* 0 = out (default), 1 = in */
    int phi_relu; /* 0 = identity (folds), 1 = ReLU (does not fold) */
    const float *a, *b, *s, *U, *V;
} ds_affiner;

typedef struct { /* gradients, same shapes; NULL = not wanted.  All accumulate (+=). */
    float *da, *db, *ds, *dU, *dV;
} ds_affiner_grad;

/* Geometry of a 2-D convolution or pool, NHWC. */
typedef struct {
    int batch, height, width, in_channels;
    int out_channels; /* pools: unused */
    int kernel_h, kernel_w, stride, pad_h, pad_w;
} ds_conv;

/* One step of a sampler, from x_t to x_{t-1}, with guidance (ops.def, sampler_step). */
enum ds_step_kind { DS_STEP_DDPM, DS_STEP_DDIM, DS_STEP_DPMPP2M, DS_STEP_HEUN };

typedef struct {
    enum ds_step_kind kind;
    int pixel, learned, last;      /* pixel: x0 is clipped to [-1,1]; last: to the clean image */
    int velocity;                  /* the network says a velocity */
    int keep;                      /* ddim: x0_prev (=) x as it was, for heun */
    size_t limit;                  /* guidance acts on the first so many elements of a sample */
    float domain, classes;         /* weights of guidance */
    float a, b;                    /* sqrt(alpha_bar), sqrt(1 - alpha_bar) of t; a path's a, s */
    float a_prev, b_prev;          /* ddim: the same of t-1; heun, and flows: coefficients */
    float x0_x, x0_v;              /* velocity: x0 = x0_x x + x0_v out */
    float spread;                  /* ddim: of the noise that is added; 0: none */
    double mean_x0, mean_xt;       /* ddpm: posterior mean */
    double log_variance, log_beta; /* ddpm: posterior (clipped) and largest log variance */
    double ratio, gain, c_now, c_before; /* dpmpp2m */
} ds_step;

/* Linear algebra in double that a device may lend to statistics (engine/metrics/linalg.h).  All
 * operands are in host memory, row-major and contiguous: each call sends them there and fetches the
 * result. 0 = done; else (no room, the library refuses) nothing has changed and the processor does
 * it. */
typedef struct ds_dense {
    /* c (m,n) (=) alpha op(a) (m,k) op(b) (k,n); at: a is stored (k,m), bt: b is stored (n,k). */
    int (*product)(ds_device *dev, double *c, int m, int n, int k, double alpha, const double *a,
                   int at, const double *b, int bt);
    /* x (rows,n).  c (n,n) (=) x^T x, or of_rows: c (rows,rows) (=) x x^T.  Of c the upper triangle
     * is set, the rest is anything. */
    int (*gram)(ds_device *dev, double *c, const double *x, int rows, int n, int of_rows);
    /* Eigenvalues w (n), ascending, of the symmetric a (n,n), of which the upper triangle is read.
     * vectors: a (=) eigenvectors as rows, else it is destroyed. */
    int (*eigen)(ds_device *dev, double *w, double *a, int n, int vectors);
} ds_dense;

struct ds_ops {
#define DS_OP(op, args) void(*op) args;
#include "kernels/ops.def"
#undef DS_OP
};

/* A run of ops that comes again with the same arguments: a device may record and replay it. */
typedef struct {
    const void *owner; /* whose buffers it uses: until ds_device_forget(owner) they stay in place */
    int kind, batch;   /* the owner's own number of the run, and its batch size */
    const void *in, *out, *state;
} ds_segment;

enum { DS_FETCH_BYTES = 1 << 20 };

struct ds_device {
    const char *name;      /* "ref", "cpu", "cuda" */
    char device_class[48]; /* kernel set and precision, as "cpu-avx512-bf16"; of probe digests */
    char no_gpu[256];      /* opened by auto: why no GPU was taken; "" where there is no driver */
    char label[64];        /* "NVIDIA H100 80GB HBM3"; "" for the processor */
    size_t act_size;       /* bytes of one activation */
    int act_bf16;          /* 1: an activation is a bf16 number as files have it (ds_act_of_bf16) */
    int threads;
    int host_memory; /* 1: its memory is the host's: what lies there already need not be copied */
    const struct ds_ops *ops;
    /* Memory, 64-byte aligned, not initialised.  NULL when there is no room: the one recoverable
     * error. */
    void *(*alloc)(ds_device *dev, size_t bytes);
    void (*free)(ds_device *dev, void *p);
    void (*upload)(ds_device *dev, void *dst, const void *src_host, size_t bytes); /* src is free */
    void (*download)(ds_device *dev, void *dst_host, const void *src, size_t bytes); /* waits */
    void (*sync)(ds_device *dev);
    /* A weight (m,n) without content.  f32 (enum ds_weight_kind) != 0: f32 products even on a bf16
     * device (feature network, VAE).  grad != 0: also packed for dx = W^T dy. */
    ds_weight *(*weight_new)(ds_device *dev, int m, int n, int f32, int grad);
    void (*weight_free)(ds_device *dev, ds_weight *w);                       /* NULL is fine */
    size_t (*weight_bytes)(ds_device *dev, int m, int n, int f32, int grad); /* for planning */
    /* For planning: scratch that the ops and the libraries below them have taken and keep. */
    size_t (*workspace_bytes)(ds_device *dev);

    /* From here on a pointer is NULL where a device has no such thing. */

    /* Of a device with memory of its own: what is free now, and all of it. */
    size_t (*free_bytes)(ds_device *dev);
    size_t (*total_bytes)(ds_device *dev);
    const struct ds_dense *dense; /* matrices in double precision */
    /* A download in two halves, of at most DS_FETCH_BYTES.  fetch asks for it and returns at once.
     * fetched waits until it is there, but not for ops that were asked for after fetch.  Two can be
     * under way, one in each of the slots 0 and 1. */
    void (*fetch)(ds_device *dev, int slot, const void *src, size_t bytes);
    void (*fetched)(ds_device *dev, int slot, void *dst_host, size_t bytes);
    /* Makes `count` weights of one shape, each[0..count), and *all, which stands for all of them.
     * An op that is given *all cuts its rows into `count` equal runs.  Run i is multiplied by
     * each[i] and has bias + i m.  The ops that take it: linear_forward, linear_f32_forward,
     * linear_gelu_forward, linear_residual_forward.  Not 0: no room.  weight_free frees them, *all
     * last. */
    int (*weights_new)(ds_device *dev, int m, int n, int count, ds_weight **each, ds_weight **all);
    int (*replay)(ds_device *dev, const ds_segment *key); /* see ds_device_replay */
    void (*segment_end)(ds_device *dev);
    /* Will affiner_backward read the frozen matrix for this adapter?  NULL: it lies in the device's
     * memory anyway. */
    int (*reads_matrix)(ds_device *dev, const ds_affiner *ad);
    void (*forget)(ds_device *dev, const void *owner);
    void (*close)(ds_device *dev);
    void *impl; /* the device's own */
};

/* DS_EINVAL unless kind is a word for a device (ds_device_options.kind). */
int ds_device_kind_check(const char *kind, ds_error *err);

/* opt NULL: the processor, in f32. */
int ds_device_open(ds_device **out, const ds_device_options *opt, ds_error *err);
void ds_device_close(ds_device *dev); /* NULL is fine */

/* DS_ENOMEM for an allocation of so many bytes that failed: the thing (format), what it needs, what
 * is free and what there is in all; DS_EINVAL where the device could never hold it. */
int ds_device_no_room(ds_device *dev, size_t bytes, ds_error *err, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* 1 if this machine has the library of an NVIDIA driver (kernels/cuda/load.c). */
int ds_device_cuda_driver(void);
/* Processors that this process may use: what 0 threads stand for (kernels/cpu/open.c). */
int ds_device_default_threads(void);

/* Openers of each device; ds_device_open chooses. */
int ds_device_open_ref(ds_device **out, const ds_device_options *opt, ds_error *err);
int ds_device_open_cpu(ds_device **out, const ds_device_options *opt, ds_error *err);
int ds_device_open_cuda(ds_device **out, const ds_device_options *opt, ds_error *err);

/* How a segment is run:
 *     if (!ds_device_replay(dev, &key)) { ops...; ds_device_segment_end(dev); }
 * 1: the device has done the segment as it was recorded.  0: the ops must be called, and the device
 * may record them.  So between the two calls there is no alloc, free, upload, download or sync, and
 * no argument that is another one the next time. */
static inline int ds_device_replay(ds_device *dev, const ds_segment *key) {
    return dev->replay ? dev->replay(dev, key) : 0;
}
static inline void ds_device_segment_end(ds_device *dev) {
    if (dev->segment_end)
        dev->segment_end(dev);
}
/* Before buffers of owner move or are freed. */
static inline void ds_device_forget(ds_device *dev, const void *owner) {
    if (dev->forget)
        dev->forget(dev, owner);
}

/* Numbers of a BF16 file, in the device's memory, as activations.  NULL where the device's
 * activations are no BF16 numbers. */
static inline const ds_act *ds_act_of_bf16(const ds_device *dev, const uint16_t *p) {
    return dev->act_bf16 ? (const ds_act *)(const void *)p : NULL;
}

/* Element `index` of an activation buffer. */
static inline ds_act *ds_act_at(const ds_device *dev, const ds_act *p, size_t index) {
    return (ds_act *)((char *)(uintptr_t)p + index * dev->act_size);
}

#endif
