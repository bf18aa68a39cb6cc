/* kernels/cuda/norm.cu - adaLN, forward and backward, alone or joined with the gate beside it.
 *
 * Both are bound by memory; per element, f32 residual stream (4 bytes) and bf16 activations (2):
 *   adaln_forward                        x 4, out 2                                      6 bytes
 *   gate_forward + adaln_forward         res_in 4, y 2, res_out 4, out 2                12 (not 16)
 *   adaln_backward                       dout 2, x 4, dx 4 + 4                          14
 *   adaln_backward + gate_backward       and y 2, dy 2                                  18 (not 22)
 * Modulations are read once a row or a chunk, from the caches.
 */
#include "kernels/cuda/norm.h"

enum { WARPS = 4, LANES = 32, SPAN = 4 * LANES }; /* SPAN: columns of a warp's access */

struct norm_forward {
    float *mean, *rstd;         /* or NULL */
    const float *x;             /* joined: res_in */
    const float *shift, *scale; /* rows `stride` apart */
    float *res_out;             /* joined only, as gate */
    const float *gate;
    int stride, gate_stride, T, D, rows;
    float eps;
};

/* First pass over a row: v (=) x, or res_in + gate y, which is res_out; returns the thread's sum.
 * N > 0: all passes are loaded before anything is stored, so that no load waits for a store that
 * might be its own. */
template <bool VEC, int N, bool GATED, class T>
__device__ static inline float first_pass(ds_quad<float> *v, const T *y, const norm_forward &a,
                                          size_t at, int b, int lane, int passes) {
    const float *gate = a.gate + (size_t)b * (size_t)a.gate_stride;
    ds_quad<T> branch[N ? N : 1];
    if constexpr (N > 0) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            int j = SPAN * i + 4 * lane;
            v[i] = ds_load_quad<VEC>(a.x + at + j, a.D - j);
            if constexpr (GATED)
                branch[i] = ds_load_quad<VEC>(y + at + j, a.D - j);
        }
    }
    float sum = 0;
#pragma unroll
    for (int i = 0; i < passes; i++) {
        int j = SPAN * i + 4 * lane, left = a.D - j;
        ds_quad<float> &q = v[N ? i : 0];
        if constexpr (N == 0)
            q = ds_load_quad<VEC>(a.x + at + j, left);
        if constexpr (GATED) {
            ds_quad<T> &u = branch[N ? i : 0];
            if constexpr (N == 0)
                u = ds_load_quad<VEC>(y + at + j, left);
            ds_quad<float> g = ds_load_quad<VEC>(gate + j, left);
#pragma unroll
            for (int k = 0; k < 4; k++)
                q.v[k] = fmaf(g.v[k], ds_float(u.v[k]), q.v[k]);
            if constexpr (N == 0)
                ds_store_quad<VEC>(a.res_out + at + j, q, left);
        }
        sum += (q.v[0] + q.v[1]) + (q.v[2] + q.v[3]);
    }
    if constexpr (N > 0 && GATED) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            int j = SPAN * i + 4 * lane;
            ds_store_quad<VEC>(a.res_out + at + j, v[i], a.D - j);
        }
    }
    return sum;
}

/* One warp a row.  Lane l has columns SPAN i + 4 l .. + 3 of pass i; N passes are held in registers
 * and the row is read once.  N = 0: any number of passes, the row is read again for the variance
 * and for the result; the same bits.
 *   mean = sum x / D;  rstd = 1 / sqrt(sum (x - mean)^2 / D + eps);
 *   out = ((x - mean) rstd) (1 + scale) + shift;  joined: x = res_out (=) res_in + gate y first. */
template <class T, bool VEC, int N, bool GATED>
__global__ void __launch_bounds__(WARPS *LANES) norm_rows(T *out, const T *y, norm_forward a) {
    int lane = (int)threadIdx.x % LANES, row = (int)blockIdx.x * WARPS + (int)threadIdx.x / LANES;
    if (row >= a.rows)
        return;
    int D = a.D, passes = N ? N : (D + SPAN - 1) / SPAN, b = row / a.T;
    size_t at = (size_t)row * (size_t)D, mod = (size_t)b * (size_t)a.stride;
    const float *again = GATED ? a.res_out : a.x;
    ds_quad<float> v[N ? N : 1];
    float sum = first_pass<VEC, N, GATED>(v, y, a, at, b, lane, passes);
    float mean = ds_warp_sum(sum) / (float)D, square = 0;
#pragma unroll
    for (int i = 0; i < passes; i++) {
        int j = SPAN * i + 4 * lane;
        ds_quad<float> &q = v[N ? i : 0];
        if constexpr (N == 0)
            q = ds_load_quad<VEC>(again + at + j, D - j);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float d = q.v[k] - mean;
            square = fmaf(d, k < D - j ? d : 0.0f, square);
        }
    }
    float rstd = 1.0f / sqrtf(ds_warp_sum(square) / (float)D + a.eps);
#pragma unroll
    for (int i = 0; i < passes; i++) {
        int j = SPAN * i + 4 * lane;
        ds_quad<float> &q = v[N ? i : 0], shift, scale;
        if constexpr (N == 0)
            q = ds_load_quad<VEC>(again + at + j, D - j);
        shift = ds_load_quad<VEC>(a.shift + mod + j, D - j);
        scale = ds_load_quad<VEC>(a.scale + mod + j, D - j);
#pragma unroll
        for (int k = 0; k < 4; k++)
            q.v[k] = fmaf((q.v[k] - mean) * rstd, 1.0f + scale.v[k], shift.v[k]);
        if constexpr (N == 0)
            ds_store_quad<VEC>(out + at + j, q, D - j);
    }
    if constexpr (N > 0) {
#pragma unroll
        for (int i = 0; i < N; i++)
            ds_store_quad<VEC>(out + at + SPAN * i + 4 * lane, v[i], D - SPAN * i - 4 * lane);
    }
    if (lane == 0 && a.mean)
        a.mean[row] = mean;
    if (lane == 0 && a.rstd)
        a.rstd[row] = rstd;
}

template <class T> using norm_kernel = void (*)(T *, const T *, norm_forward);

/* Widths of DiT are 3, 6, 8 and 9 passes; the bundled base has 2. */
template <class T, bool GATED> static norm_kernel<T> norm_kernel_of(int D, bool vec) {
    int passes = ds_ceil_div((size_t)D, SPAN);
    if (!vec || passes > 16)
        return norm_rows<T, false, 0, GATED>;
    return passes == 1    ? norm_rows<T, true, 1, GATED>
           : passes == 2  ? norm_rows<T, true, 2, GATED>
           : passes == 3  ? norm_rows<T, true, 3, GATED>
           : passes <= 6  ? norm_rows<T, true, 6, GATED>
           : passes <= 8  ? norm_rows<T, true, 8, GATED>
           : passes == 9  ? norm_rows<T, true, 9, GATED>
           : passes <= 12 ? norm_rows<T, true, 12, GATED>
                          : norm_rows<T, true, 16, GATED>;
}

/* Does the gate x residual sum that waits make this op's x, and may both be one kernel?  A warp
 * reads its row of res_in and y whole before it writes; what else shares memory with the result
 * goes the long way. */
static bool joins(ds_device *dev, const ds_cuda_pending *p, const ds_act *out, const float *x,
                  int B, int T, int D) {
    size_t n = (size_t)B * (size_t)T * (size_t)D, size = dev->act_size;
    return p->waiting == DS_CUDA_GATE_FORWARD && p->res_out == x && p->B == B && p->T == T &&
           p->D == D && !ds_overlap(out, n * size, p->res_in, n * sizeof(float)) &&
           !ds_overlap(out, n * size, p->y, n * size);
}

void ds_cuda_adaln_forward(ds_device *dev, ds_act *out, float *mean, float *rstd, const float *x,
                           const float *shift, const float *scale, int stride, float eps, int B,
                           int T, int D) {
    ds_cuda *c = ds_cuda_of(dev);
    norm_forward a = {mean, rstd, x, shift, scale, NULL, NULL, stride, 0, T, D, B * T, eps};
    const ds_act *y = NULL;
    bool gated = joins(dev, &c->pending, out, x, B, T, D);
    bool vec = ds_quads_fit(x, D) && ds_quads_fit(shift, stride) && ds_quads_fit(scale, stride);
    if (gated) {
        const ds_cuda_pending *p = &c->pending;
        a.x = p->res_in;
        a.res_out = p->res_out;
        a.gate = p->gate;
        a.gate_stride = p->stride;
        y = p->y;
        vec = vec && ds_quads_fit(p->res_in, D) && ds_quads_fit(p->gate, p->stride);
        c->pending.waiting = DS_CUDA_NOTHING;
    } else
        ds_cuda_begin(dev);
    if (a.rows <= 0)
        return;
    ds_cuda_by_act(dev, [&](auto zero) {
        using A = decltype(zero);
        A *to = ds_ptr<A>(out);
        const A *branch = ds_ptr<A>(y);
        bool fit = vec && ds_quads_fit(to, D) && ds_quads_fit(branch, D);
        norm_kernel<A> kernel =
            gated ? norm_kernel_of<A, true>(D, fit) : norm_kernel_of<A, false>(D, fit);
        ds_cuda_launch(c, kernel, (unsigned)ds_ceil_div((size_t)a.rows, WARPS), WARPS * LANES, 0,
                       to, branch, a);
    });
}

/* ---------------------------------------------------------------- backward */

struct norm_backward {
    float *dx, *part; /* part (B, chunks, 2 or 3, D) */
    const float *x, *mean, *rstd, *scale, *gate;
    int stride, gate_stride, T, D, chunks;
};

/* Sums over the block of 2 R numbers a thread, in all threads: over a warp, then the warps in
 * order.  room: (warps, 2 R), another one in the next call. */
template <int R> __device__ static inline void row_sums(float *s, float *room) {
    int warps = (int)blockDim.x / LANES;
#pragma unroll
    for (int i = 0; i < 2 * R; i++) {
        s[i] = ds_warp_sum(s[i]);
        if (threadIdx.x % LANES == 0)
            room[(int)threadIdx.x / LANES * 2 * R + i] = s[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 2 * R; i++)
        s[i] = 0;
    for (int w = 0; w < warps; w++)
#pragma unroll
        for (int i = 0; i < 2 * R; i++)
            s[i] += room[w * 2 * R + i];
}

/* What a thread holds of R rows: G quads of each. */
template <class T, int G, int R> struct chunk_rows {
    ds_quad<float> x[R][G], dx[R][G]; /* x becomes the normalised number */
    ds_quad<T> g[R][G], branch[R][G];
    float rstd[R];
};

__device__ static inline int quad_column(int k) {
    return 4 * ((int)threadIdx.x + k * (int)blockDim.x);
}

/* Rows t.. of sample b; beyond `end` the last one again, with dout and y = 0. */
template <bool VEC, bool GATE, class T, int G, int R>
__device__ static inline void load_rows(chunk_rows<T, G, R> &v, const T *dout, const T *y,
                                        const norm_backward &a, int b, int t, int end) {
#pragma unroll
    for (int r = 0; r < R; r++) {
        int row = b * a.T + (t + r < end ? t + r : end - 1);
#pragma unroll
        for (int k = 0; k < G; k++) {
            int j = quad_column(k), left = a.D - j;
            size_t at = (size_t)row * (size_t)a.D + (size_t)j;
            v.x[r][k] = ds_load_quad<VEC>(a.x + at, left);
            v.g[r][k] = ds_load_quad<VEC>(dout + at, t + r < end ? left : 0);
            v.dx[r][k] = ds_load_quad<VEC>(a.dx + at, left);
            if constexpr (GATE)
                v.branch[r][k] = ds_load_quad<VEC>(y + at, t + r < end ? left : 0);
        }
    }
}

/* The thread's part of sum q and sum q norm of each row; adds to the sums over tokens. */
template <class T, int G, int R>
__device__ static inline void add_rows(float *sums, ds_quad<float> (*total)[3],
                                       chunk_rows<T, G, R> &v, const ds_quad<float> *scale,
                                       const norm_backward &a, int b, int t, int end) {
#pragma unroll
    for (int r = 0; r < R; r++) {
        int row = b * a.T + (t + r < end ? t + r : end - 1);
        float mean = a.mean[row], q_sum = 0, qn_sum = 0;
        v.rstd[r] = a.rstd[row];
#pragma unroll
        for (int k = 0; k < G; k++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                float norm = (v.x[r][k].v[e] - mean) * v.rstd[r], d = ds_float(v.g[r][k].v[e]);
                float q = d * scale[k].v[e];
                v.x[r][k].v[e] = norm;
                q_sum += q;
                qn_sum = fmaf(q, norm, qn_sum);
                total[k][0].v[e] += d;
                total[k][1].v[e] = fmaf(d, norm, total[k][1].v[e]);
            }
        sums[2 * r] = q_sum;
        sums[2 * r + 1] = qn_sum;
    }
}

/* dx, and of a joined gate dy and its part of dgate. */
template <bool VEC, bool GATE, class T, int G, int R>
__device__ static inline void store_rows(T *dy, ds_quad<float> (*total)[3], chunk_rows<T, G, R> &v,
                                         const float *sums, const ds_quad<float> *scale,
                                         const ds_quad<float> *gate, const norm_backward &a, int b,
                                         int t, int end) {
    float inverse = 1.0f / (float)a.D;
#pragma unroll
    for (int r = 0; r < R; r++) {
        float q_mean = sums[2 * r] * inverse, qn_mean = sums[2 * r + 1] * inverse;
#pragma unroll
        for (int k = 0; k < G; k++) {
            int j = quad_column(k), left = t + r < end ? a.D - j : 0;
            size_t at = (size_t)(b * a.T + t + r) * (size_t)a.D + (size_t)j;
            ds_quad<float> &to = v.dx[r][k], back;
#pragma unroll
            for (int e = 0; e < 4; e++) {
                float q = ds_float(v.g[r][k].v[e]) * scale[k].v[e];
                to.v[e] = fmaf(v.rstd[r], fmaf(-v.x[r][k].v[e], qn_mean, q - q_mean), to.v[e]);
                if constexpr (GATE) {
                    float u = ds_float(v.branch[r][k].v[e]);
                    back.v[e] = gate[k].v[e] * to.v[e];
                    total[k][2].v[e] = fmaf(to.v[e], u, total[k][2].v[e]);
                }
            }
            ds_store_quad<VEC>(a.dx + at, to, left);
            if constexpr (GATE)
                ds_store_quad<VEC>(dy + at, back, left);
        }
    }
}

/* A block has DS_CHUNK tokens of one sample and all columns, R rows at a time, all their loads
 * before the first sum; thread i has the quads i and, if G is 2, i + blockDim.  With
 * norm = (x - mean) rstd and q = dout (1 + scale):
 *   dx += rstd (q - mean q - norm mean(q norm));   part[0] = sum dout;  part[1] = sum dout norm;
 *   joined:  dy = gate dx;  part[2] = sum dx y. */
template <class T, bool VEC, int G, int R, bool GATE>
__global__ void __launch_bounds__(G == 1 ? 384 : 1024)
    norm_chunk(T *dy, const T *dout, const T *y, norm_backward a) {
    DS_SHARED(float, room); /* 2 (warps, 2 R): in turn, so that one barrier a turn is enough */
    constexpr int K = GATE ? 3 : 2;
    int D = a.D, b = (int)blockIdx.x / a.chunks, first = (int)blockIdx.x % a.chunks * DS_CHUNK;
    int end = first + DS_CHUNK < a.T ? first + DS_CHUNK : a.T, turn = 0;
    ds_quad<float> scale[G], gate[G], total[G][3] = {};
#pragma unroll
    for (int k = 0; k < G; k++) {
        int j = quad_column(k);
        scale[k] = ds_load_quad<VEC>(a.scale + (size_t)b * (size_t)a.stride + j, D - j);
        if constexpr (GATE)
            gate[k] = ds_load_quad<VEC>(a.gate + (size_t)b * (size_t)a.gate_stride + j, D - j);
#pragma unroll
        for (int e = 0; e < 4; e++)
            scale[k].v[e] += 1.0f;
    }
    for (int t = first; t < end; t += R) {
        chunk_rows<T, G, R> v;
        float sums[2 * R];
        load_rows<VEC, GATE>(v, dout, y, a, b, t, end);
        add_rows(sums, total, v, scale, a, b, t, end);
        row_sums<R>(sums, room + turn * ((int)blockDim.x / LANES * 2 * R));
        turn = !turn;
        store_rows<VEC, GATE>(dy, total, v, sums, scale, gate, a, b, t, end);
    }
#pragma unroll
    for (int k = 0; k < G; k++)
#pragma unroll
        for (int s = 0; s < K; s++) {
            int j = quad_column(k);
            ds_store_quad<VEC>(a.part + ((size_t)blockIdx.x * K + s) * (size_t)D + j, total[k][s],
                               D - j);
        }
}

template <class T> using chunk_kernel = void (*)(T *, const T *, const T *, norm_backward);

/* Rows at a time: as many as leave room for two blocks on a multiprocessor. */
constexpr int rows_at_once(bool gate, bool wide) { return wide ? 1 : gate ? 2 : 4; }

template <class T, bool GATE> static chunk_kernel<T> chunk_kernel_of(bool vec, bool wide) {
    constexpr int R = rows_at_once(GATE, false);
    if (wide)
        return norm_chunk<T, false, 2, rows_at_once(GATE, true), GATE>;
    return vec ? norm_chunk<T, true, 1, R, GATE> : norm_chunk<T, false, 1, R, GATE>;
}

void ds_cuda_norm_backward(ds_device *dev, const ds_cuda_pending *p, const ds_gate_backward *gate) {
    ds_cuda *c = ds_cuda_of(dev);
    int B = p->B, T = p->T, D = p->D, chunks = ds_ceil_div((size_t)T, DS_CHUNK);
    int sums = gate ? 3 : 2, quads = ds_ceil_div((size_t)D, 4), wide = quads > 384;
    DS_ASSERT(D <= 8192 && (long long)B * chunks < INT32_MAX);
    size_t room = (size_t)B * (size_t)chunks * (size_t)sums * (size_t)D * sizeof(float);
    norm_backward a = {p->dx,   (float *)ds_cuda_scratch(c, room),
                       p->x,    p->mean,
                       p->rstd, p->scale,
                       NULL,    p->stride,
                       0,       T,
                       D,       chunks};
    bool vec = ds_quads_fit(p->dx, D) && ds_quads_fit(p->x, D) && ds_quads_fit(p->scale, p->stride);
    if (gate) {
        a.gate = gate->gate;
        a.gate_stride = gate->stride;
        vec = vec && ds_quads_fit(gate->gate, gate->stride);
    }
    unsigned threads = ds_quad_threads(wide ? ds_ceil_div((size_t)quads, 2) : quads);
    size_t shared = 2 * threads / LANES * 2 * (size_t)rows_at_once(gate, wide) * sizeof(float);
    ds_cuda_by_act(dev, [&](auto zero) {
        using A = decltype(zero);
        const A *dout = ds_ptr<A>(p->dout), *y = ds_ptr<A>(gate ? gate->y : NULL);
        A *dy = ds_ptr<A>(gate ? gate->dy : NULL);
        bool fit = vec && ds_quads_fit(dout, D) && ds_quads_fit(y, D) && ds_quads_fit(dy, D);
        chunk_kernel<A> kernel =
            gate ? chunk_kernel_of<A, true>(fit, wide) : chunk_kernel_of<A, false>(fit, wide);
        ds_cuda_launch(c, kernel, (unsigned)(B * chunks), threads, shared, dy, dout, y, a);
    });
    ds_chunk_sums out = {{p->dshift, p->dscale, gate ? gate->dgate : NULL},
                         {p->dstride, p->dstride, gate ? gate->dstride : 0},
                         sums};
    ds_cuda_sum_chunks(c, &out, a.part, B, T, D);
}

void ds_cuda_adaln_backward(ds_device *dev, float *dx, float *dshift, float *dscale, int dstride,
                            const ds_act *dout, const float *x, const float *mean,
                            const float *rstd, const float *scale, int stride, int B, int T,
                            int D) {
    ds_cuda_pending *p = &ds_cuda_begin(dev)->pending;
    *p = {};
    p->waiting = DS_CUDA_NORM_BACKWARD;
    p->B = B, p->T = T, p->D = D, p->stride = stride;
    p->dx = dx, p->dshift = dshift, p->dscale = dscale, p->dstride = dstride;
    p->dout = dout, p->x = x, p->mean = mean, p->rstd = rstd, p->scale = scale;
}
