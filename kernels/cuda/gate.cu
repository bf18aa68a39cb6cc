/* kernels/cuda/gate.cu - gates, GELU, and the ops that wait for the next one (norm.h).
 *
 * Bytes per element, bf16:  gate_forward 10 (res_in 4, y 2, res_out 4), unless joined with the next
 * normalisation;  gate_backward 8 (dx1 4, y 2, dy 2);  gelu_forward 4, gelu_backward 6. */
#include "kernels/cuda/norm.h"

enum { ROWS = 4, MAX_THREADS = 384, BLOCK = 256 };

/* Blocks of a sum over columns: DS_CHUNK tokens of a sample, tiles of at most MAX_THREADS quads. */
struct gate_shape {
    int T, D, chunks, stride;
};

static unsigned tiles_of(int D) { return (unsigned)ds_ceil_div((size_t)D, 4 * MAX_THREADS); }

static unsigned threads_of(int D) {
    return ds_quad_threads(ds_ceil_div((size_t)ds_ceil_div((size_t)D, 4), tiles_of(D)));
}

/* Thread: four columns, DS_CHUNK tokens, ROWS at a time (all their loads before the first store:
 * res_out may be res_in).  res_out (=) res_in + gate y. */
template <class T, bool VEC>
__global__ void __launch_bounds__(MAX_THREADS)
    gate_rows(float *res_out, const float *res_in, const float *gate, const T *y, gate_shape s) {
    int b = (int)blockIdx.x / s.chunks, first = (int)blockIdx.x % s.chunks * DS_CHUNK;
    int end = first + DS_CHUNK < s.T ? first + DS_CHUNK : s.T;
    int j = 4 * (int)(blockIdx.y * blockDim.x + threadIdx.x), left = s.D - j;
    ds_quad<float> g = ds_load_quad<VEC>(gate + (size_t)b * (size_t)s.stride + j, left);
    size_t base = (size_t)b * (size_t)s.T * (size_t)s.D + (size_t)j;
    for (int t = first; t < end; t += ROWS) {
        ds_quad<float> x[ROWS];
        ds_quad<T> u[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            size_t at = base + (size_t)(t + r) * (size_t)s.D;
            x[r] = ds_load_quad<VEC>(res_in + at, t + r < end ? left : 0);
            u[r] = ds_load_quad<VEC>(y + at, t + r < end ? left : 0);
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int k = 0; k < 4; k++)
                x[r].v[k] = fmaf(g.v[k], ds_float(u[r].v[k]), x[r].v[k]);
            ds_store_quad<VEC>(res_out + base + (size_t)(t + r) * (size_t)s.D, x[r],
                               t + r < end ? left : 0);
        }
    }
}

/* The same threads:  dy (=) gate dx1,  part (B, chunks, D) (=) sums of dx1 y over the chunk. */
template <class T, bool VEC>
__global__ void __launch_bounds__(MAX_THREADS)
    gate_chunk(T *dy, float *part, const float *dx1, const T *y, const float *gate, gate_shape s) {
    int b = (int)blockIdx.x / s.chunks, first = (int)blockIdx.x % s.chunks * DS_CHUNK;
    int end = first + DS_CHUNK < s.T ? first + DS_CHUNK : s.T;
    int j = 4 * (int)(blockIdx.y * blockDim.x + threadIdx.x), left = s.D - j;
    ds_quad<float> g = ds_load_quad<VEC>(gate + (size_t)b * (size_t)s.stride + j, left), total = {};
    size_t base = (size_t)b * (size_t)s.T * (size_t)s.D + (size_t)j;
    for (int t = first; t < end; t += ROWS) {
        ds_quad<float> d[ROWS];
        ds_quad<T> u[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            size_t at = base + (size_t)(t + r) * (size_t)s.D;
            d[r] = ds_load_quad<VEC>(dx1 + at, t + r < end ? left : 0);
            u[r] = ds_load_quad<VEC>(y + at, t + r < end ? left : 0);
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int k = 0; k < 4; k++) {
                total.v[k] = fmaf(d[r].v[k], ds_float(u[r].v[k]), total.v[k]);
                d[r].v[k] *= g.v[k];
            }
            ds_store_quad<VEC>(dy + base + (size_t)(t + r) * (size_t)s.D, d[r],
                               t + r < end ? left : 0);
        }
    }
    ds_store_quad<VEC>(part + (size_t)blockIdx.x * (size_t)s.D + j, total, left);
}

/* One thread a sum. */
__global__ void sum_chunks(ds_chunk_sums s, const float *part, int B, int chunks, int D) {
    int j = (int)(blockIdx.x * blockDim.x + threadIdx.x), k = (int)blockIdx.y;
    float *to = k == 0 ? s.to[0] : k == 1 ? s.to[1] : s.to[2];
    int stride = k == 0 ? s.stride[0] : k == 1 ? s.stride[1] : s.stride[2];
    if (j >= D)
        return;
    for (int b = (int)blockIdx.z; b < B; b += (int)gridDim.z) {
        const float *from =
            part + ((size_t)b * (size_t)chunks * (size_t)s.count + (size_t)k) * (size_t)D + j;
        float total = 0;
#pragma unroll 8
        for (int i = 0; i < chunks; i++)
            total += from[(size_t)i * (size_t)s.count * (size_t)D];
        to[(size_t)b * (size_t)stride + j] = total;
    }
}

void ds_cuda_sum_chunks(ds_cuda *c, const ds_chunk_sums *s, const float *part, int B, int T,
                        int D) {
    enum { THREADS = 128, MAX_Z = 65535 };
    dim3 grid((unsigned)ds_ceil_div((size_t)D, THREADS), (unsigned)s->count,
              (unsigned)(B < MAX_Z ? B : MAX_Z));
    ds_cuda_launch(c, sum_chunks, grid, THREADS, 0, *s, part, B, ds_ceil_div((size_t)T, DS_CHUNK),
                   D);
}

/* ---------------------------------------------------------------- waiting */

static gate_shape shape_of(int B, int T, int D, int stride) {
    gate_shape s = {T, D, ds_ceil_div((size_t)T, DS_CHUNK), stride};
    DS_ASSERT((long long)B * s.chunks < INT32_MAX);
    return s;
}

static void launch_gate_forward(ds_device *dev, const ds_cuda_pending *p) {
    gate_shape s = shape_of(p->B, p->T, p->D, p->stride);
    bool vec = ds_quads_fit(p->res_in, s.D) && ds_quads_fit(p->res_out, s.D) &&
               ds_quads_fit(p->gate, p->stride);
    ds_cuda_by_act(dev, [&](auto zero) {
        using A = decltype(zero);
        const A *y = ds_ptr<A>(p->y);
        ds_cuda_launch(ds_cuda_of(dev),
                       vec && ds_quads_fit(y, s.D) ? gate_rows<A, true> : gate_rows<A, false>,
                       dim3((unsigned)(p->B * s.chunks), tiles_of(s.D)), threads_of(s.D), 0,
                       p->res_out, p->res_in, p->gate, y, s);
    });
}

void ds_cuda_flush(ds_device *dev) {
    ds_cuda *c = ds_cuda_of(dev);
    ds_cuda_pending p = c->pending;
    c->pending.waiting = DS_CUDA_NOTHING;
    if (p.waiting == DS_CUDA_GATE_FORWARD)
        launch_gate_forward(dev, &p);
    else if (p.waiting == DS_CUDA_NORM_BACKWARD)
        ds_cuda_norm_backward(dev, &p, NULL);
}

void ds_cuda_gate_later(ds_device *dev, float *res_out, const float *res_in, const float *gate,
                        int gate_stride, const ds_act *y, int B, int T, int D) {
    ds_cuda_pending *p = &ds_cuda_of(dev)->pending;
    DS_ASSERT(p->waiting == DS_CUDA_NOTHING);
    *p = {};
    p->waiting = DS_CUDA_GATE_FORWARD;
    p->B = B, p->T = T, p->D = D, p->stride = gate_stride;
    p->res_out = res_out, p->res_in = res_in, p->gate = gate, p->y = y;
}

void ds_cuda_gate_forward(ds_device *dev, float *res_out, const float *res_in, const float *gate,
                          int gate_stride, const ds_act *y, int B, int T, int D) {
    ds_cuda_begin(dev);
    ds_cuda_gate_later(dev, res_out, res_in, gate, gate_stride, y, B, T, D);
}

/* May this gate_backward run in the kernel of the adaln_backward that waits?  dy may be the
 * normalisation's dout (a thread reads its numbers of a row before it writes them), but share
 * nothing else with what is read there. */
static bool joins(ds_device *dev, const ds_cuda_pending *p, const ds_act *dy, const float *dx1,
                  int B, int T, int D) {
    size_t n = (size_t)B * (size_t)T * (size_t)D, size = dev->act_size;
    return p->waiting == DS_CUDA_NORM_BACKWARD && p->dx == dx1 && p->B == B && p->T == T &&
           p->D == D && (dy == p->dout || !ds_overlap(dy, n * size, p->dout, n * size)) &&
           !ds_overlap(dy, n * size, p->x, n * sizeof(float));
}

void ds_cuda_gate_backward(ds_device *dev, ds_act *dy, float *dgate, int dstride, const float *dx1,
                           const ds_act *y, const float *gate, int stride, int B, int T, int D) {
    ds_cuda *c = ds_cuda_of(dev);
    if (joins(dev, &c->pending, dy, dx1, B, T, D)) {
        ds_cuda_pending p = c->pending;
        ds_gate_backward g = {dy, dgate, dstride, y, gate, stride};
        c->pending.waiting = DS_CUDA_NOTHING;
        ds_cuda_norm_backward(dev, &p, &g);
        return;
    }
    ds_cuda_begin(dev);
    gate_shape s = shape_of(B, T, D, stride);
    float *part =
        (float *)ds_cuda_scratch(c, (size_t)B * (size_t)s.chunks * (size_t)D * sizeof *part);
    bool vec = ds_quads_fit(dx1, D) && ds_quads_fit(gate, stride);
    ds_cuda_by_act(dev, [&](auto zero) {
        using A = decltype(zero);
        A *to = ds_ptr<A>(dy);
        const A *u = ds_ptr<A>(y);
        bool fit = vec && ds_quads_fit(to, D) && ds_quads_fit(u, D);
        ds_cuda_launch(c, fit ? gate_chunk<A, true> : gate_chunk<A, false>,
                       dim3((unsigned)(B * s.chunks), tiles_of(D)), threads_of(D), 0, to, part, dx1,
                       u, gate, s);
    });
    ds_chunk_sums out = {{dgate, NULL, NULL}, {dstride, 0, 0}, 1};
    ds_cuda_sum_chunks(c, &out, part, B, T, D);
}

/* ---------------------------------------------------------------- GELU
 * Eight numbers a thread. */

template <class T, bool VEC> __global__ void gelu(T *y, const T *pre, size_t n) {
    size_t i = 8 * ((size_t)blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n)
        return;
    int left = n - i < 8 ? (int)(n - i) : 8;
    float u[8];
    if (VEC && left == 8)
        ds_load8<VEC>(u, pre + i, left);
    else
        ds_load8<false>(u, pre + i, left);
#pragma unroll
    for (int k = 0; k < 8; k++)
        u[k] = ds_gelu(u[k]);
    if (VEC && left == 8)
        ds_store8<VEC>(y + i, u, left);
    else
        ds_store8<false>(y + i, u, left);
}

template <class T, bool VEC>
__global__ void gelu_slope(T *dpre, const T *dy, const T *pre, size_t n) {
    size_t i = 8 * ((size_t)blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n)
        return;
    int left = n - i < 8 ? (int)(n - i) : 8;
    float u[8], g[8];
    if (VEC && left == 8) {
        ds_load8<VEC>(u, pre + i, left);
        ds_load8<VEC>(g, dy + i, left);
    } else {
        ds_load8<false>(u, pre + i, left);
        ds_load8<false>(g, dy + i, left);
    }
#pragma unroll
    for (int k = 0; k < 8; k++)
        u[k] = g[k] * ds_gelu_slope(u[k]);
    if (VEC && left == 8)
        ds_store8<VEC>(dpre + i, u, left);
    else
        ds_store8<false>(dpre + i, u, left);
}

static unsigned eights(size_t n) { return (unsigned)ds_ceil_div(n, 8 * BLOCK); }

void ds_cuda_gelu_forward(ds_device *dev, ds_act *y, const ds_act *pre, size_t n) {
    ds_cuda *c = ds_cuda_begin(dev);
    ds_cuda_by_act(dev, [&](auto zero) {
        using A = decltype(zero);
        A *to = ds_ptr<A>(y);
        const A *u = ds_ptr<A>(pre);
        bool vec = ds_rows_aligned(to, 8) && ds_rows_aligned(u, 8);
        ds_cuda_launch(c, vec ? gelu<A, true> : gelu<A, false>, eights(n), BLOCK, 0, to, u, n);
    });
}

void ds_cuda_gelu_backward(ds_device *dev, ds_act *dpre, const ds_act *dy, const ds_act *pre,
                           size_t n) {
    ds_cuda *c = ds_cuda_begin(dev);
    ds_cuda_by_act(dev, [&](auto zero) {
        using A = decltype(zero);
        A *to = ds_ptr<A>(dpre);
        const A *g = ds_ptr<A>(dy), *u = ds_ptr<A>(pre);
        bool vec = ds_rows_aligned(to, 8) && ds_rows_aligned(g, 8) && ds_rows_aligned(u, 8);
        ds_cuda_launch(c, vec ? gelu_slope<A, true> : gelu_slope<A, false>, eights(n), BLOCK, 0, to,
                       g, u, n);
    });
}
