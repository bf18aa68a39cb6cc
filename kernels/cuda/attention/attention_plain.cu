/* kernels/cuda/attention/attention_plain.cu - attention with exact f32 products, for f32
 * activations and for head sizes that the tensor cores do not take.
 *
 * A block of four warps owns 32 rows of one head (queries; for dK and dV keys), a warp 8 of them,
 * and walks over the other side in tiles of 32 rows, held in shared memory as f32.  For the dot
 * products a lane is a row of the tile, for the sums over the tile a column of the head; in between
 * the tile's 8 x 32 weights lie in shared memory.  Rows there are an odd number of 16 bytes apart:
 * eight lanes that read 16 bytes each use every bank once.  Bound by reads of shared memory: 12
 * cycles of them for 32 multiply-adds of a warp, which take 8 (dot products).  Heads of more than
 * 128 have room for half the rows.
 *
 *   P_ij = exp(scale <q_i, k_j> - lse_i),  dS_ij = P_ij (<dout_i, v_j> - delta_i),
 *   delta_i = <dout_i, out_i>,  dq_i = scale sum_j dS_ij k_j,  dk_j = scale sum_i dS_ij q_i,
 *   dv_j = sum_i P_ij dout_i.
 */
#include "kernels/cuda/attention/attention.h"

enum { COLUMNS = 32 };

/* NI * 32 numbers of a row, and four that move the next row by four banks. */
template <int NI> struct plain_room {
    static constexpr int STRIDE = NI * 32 + 4, ROWS = NI <= 4 ? 8 : 4, OWN = ROWS * ATTENTION_WARPS;
    float own[2][OWN * STRIDE];
    float tile[2][COLUMNS * STRIDE];
    float weight[2][OWN * COLUMNS];
};

struct alignas(16) quad {
    float v[4];
};

__device__ static inline quad quad_at(const float *p) { return *reinterpret_cast<const quad *>(p); }

/* rows x STRIDE of shared memory (=) rows of p, ld apart; zeros beyond `left` rows and hd. */
template <int NI, class T>
__device__ static void plain_load(float *to, const T *p, size_t ld, int rows, int left, int hd) {
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    for (int row = warp; row < rows; row += ATTENTION_WARPS)
#pragma unroll
        for (int i = 0; i < NI; i++) {
            int d = i * 32 + lane;
            bool on = row < left && d < hd;
            to[row * plain_room<NI>::STRIDE + d] =
                on ? ds_float(p[(size_t)row * ld + (size_t)d]) : 0.0f;
        }
}

/* dot[r] (=) <row r of mine, row `lane` of the tile> */
template <int NI, int ROWS = plain_room<NI>::ROWS>
__device__ static inline void plain_dots(float (&dot)[ROWS], const float *mine, const float *tile,
                                         int hd) {
    constexpr int STRIDE = plain_room<NI>::STRIDE;
    const float *other = tile + (int)threadIdx.x % 32 * STRIDE;
#pragma unroll
    for (int r = 0; r < ROWS; r++)
        dot[r] = 0;
#pragma unroll 2
    for (int d = 0; d < hd; d += 4) {
        quad x = quad_at(other + d);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            quad y = quad_at(mine + r * STRIDE + d);
#pragma unroll
            for (int i = 0; i < 4; i++)
                dot[r] = fmaf(y.v[i], x.v[i], dot[r]);
        }
    }
}

/* sum[r] += sum_j weight[r][j] (row j of the tile), columns lane + 32 i */
template <int NI, int ROWS = plain_room<NI>::ROWS>
__device__ static inline void plain_add(float (&sum)[ROWS][NI], const float *weight,
                                        const float *tile) {
    const float *column = tile + (int)threadIdx.x % 32;
#pragma unroll 1
    for (int j = 0; j < COLUMNS; j += 4) {
        float x[4][NI];
#pragma unroll
        for (int k = 0; k < 4; k++)
#pragma unroll
            for (int i = 0; i < NI; i++)
                x[k][i] = column[(j + k) * plain_room<NI>::STRIDE + i * 32];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            quad w = quad_at(weight + r * COLUMNS + j);
#pragma unroll
            for (int k = 0; k < 4; k++)
#pragma unroll
                for (int i = 0; i < NI; i++)
                    sum[r][i] = fmaf(w.v[k], x[k][i], sum[r][i]);
        }
    }
}

/* Rows of dst (=) factor[r] sum[r] */
template <int NI, class T, int ROWS = plain_room<NI>::ROWS>
__device__ static inline void plain_store(T *dst, size_t ld, const float (&sum)[ROWS][NI],
                                          const float (&factor)[ROWS], int left, int hd) {
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int i = 0; i < NI; i++)
            if (r < left && i * 32 + lane < hd)
                dst[(size_t)r * ld + (size_t)(i * 32 + lane)] = ds_store<T>(sum[r][i] * factor[r]);
}

template <int ROWS, int NI> __device__ static inline void plain_zero(float (&sum)[ROWS][NI]) {
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int i = 0; i < NI; i++)
            sum[r][i] = 0;
}

/* ---------------------------------------------------------------- forward */

template <class T, int NI>
__global__ void attention_plain(T *out, float *lse, const T *qkv, ds_heads a, int blocks) {
    DS_SHARED(plain_room<NI>, room);
    constexpr int STRIDE = plain_room<NI>::STRIDE, ROWS = plain_room<NI>::ROWS;
    constexpr int OWN = plain_room<NI>::OWN;
    int bh = (int)blockIdx.x / blocks, first = (int)blockIdx.x % blocks * OWN;
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    size_t ld = 3 * (size_t)a.D, D = (size_t)a.D;
    const T *q = qkv + ds_head_at(a, bh, 3, 0);
    float *weight = room->weight[0] + warp * ROWS * COLUMNS;
    float sum[ROWS][NI], top[ROWS], all[ROWS];
    plain_zero(sum);
    for (int r = 0; r < ROWS; r++)
        top[r] = -INFINITY, all[r] = 0;
    plain_load<NI>(room->own[0], q + (size_t)first * ld, ld, OWN, a.T - first, a.hd);
    for (int key = 0; key < a.T; key += COLUMNS) {
        const T *p = q + (size_t)key * ld;
        plain_load<NI>(room->tile[0], p + D, ld, COLUMNS, a.T - key, a.hd);
        plain_load<NI>(room->tile[1], p + 2 * D, ld, COLUMNS, a.T - key, a.hd);
        __syncthreads();
        float s[ROWS];
        plain_dots<NI>(s, room->own[0] + warp * ROWS * STRIDE, room->tile[0], a.hd);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            s[r] = key + lane < a.T ? s[r] * a.scale : -INFINITY;
            float most = fmaxf(top[r], ds_warp_max(s[r])), before = expf(top[r] - most);
            float e = expf(s[r] - most);
            top[r] = most;
            all[r] = all[r] * before + e;
            weight[r * COLUMNS + lane] = e;
#pragma unroll
            for (int i = 0; i < NI; i++)
                sum[r][i] *= before;
        }
        __syncwarp();
        plain_add<NI>(sum, weight, room->tile[1]);
        __syncthreads();
    }
    int row = first + warp * ROWS, left = a.T - row;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        all[r] = ds_warp_sum(all[r]);
        if (lse && lane == 0 && r < left)
            lse[(size_t)bh * (size_t)a.T + (size_t)(row + r)] = top[r] + logf(all[r]);
        all[r] = 1.0f / all[r];
    }
    plain_store<NI>(out + ds_head_at(a, bh, 1, 0) + (size_t)row * D, D, sum, all, left, a.hd);
}

/* ---------------------------------------------------------------- backward */

/* delta (B,H,T) (=) <dout, out> of every head's row; one warp a row. */
template <class T>
__global__ void attention_delta(float *delta, const T *dout, const T *out, ds_heads a,
                                size_t rows) {
    size_t row = (size_t)blockIdx.x * ATTENTION_WARPS + threadIdx.x / 32;
    if (row >= rows)
        return;
    int lane = (int)threadIdx.x % 32, bh = (int)(row / (size_t)a.T);
    size_t at = ds_head_at(a, bh, 1, 0) + row % (size_t)a.T * (size_t)a.D;
    float sum = 0;
    for (int d = lane; d < a.hd; d += 32)
        sum = fmaf(ds_float(dout[at + (size_t)d]), ds_float(out[at + (size_t)d]), sum);
    sum = ds_warp_sum(sum);
    if (lane == 0)
        delta[row] = sum;
}

/* What a pair of rows of one head weighs; query: the row of lse and delta. */
struct plain_pair {
    float p, ds;
};
__device__ static inline plain_pair plain_weigh(float s, float dp, const float *lse,
                                                const float *delta, int query, float scale,
                                                bool on) {
    if (!on)
        return plain_pair{0, 0};
    float p = expf(fmaf(s, scale, -lse[query]));
    return plain_pair{p, p * (dp - delta[query])};
}

/* KEYS: own rows are keys, and dK and dV are wanted; else they are queries, and dQ is. */
template <class T, int NI, bool KEYS>
__global__ void attention_plain_grad(T *dqkv, const T *dout, const float *lse, const float *delta,
                                     const T *qkv, ds_heads a, int blocks) {
    DS_SHARED(plain_room<NI>, room);
    constexpr int STRIDE = plain_room<NI>::STRIDE, ROWS = plain_room<NI>::ROWS;
    constexpr int OWN = plain_room<NI>::OWN;
    int bh = (int)blockIdx.x / blocks, first = (int)blockIdx.x % blocks * OWN;
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, row = first + warp * ROWS;
    size_t ld = 3 * (size_t)a.D, D = (size_t)a.D, head = ds_head_at(a, bh, 3, 0);
    const T *q = qkv + head, *g = dout + ds_head_at(a, bh, 1, 0), *k = q + D, *v = k + D;
    const T *mine[2] = {KEYS ? k : q, KEYS ? v : g}, *other[2] = {KEYS ? q : k, KEYS ? g : v};
    size_t mine_ld[2] = {ld, KEYS ? ld : D}, other_ld[2] = {ld, KEYS ? D : ld};
    float *ds = room->weight[0] + warp * ROWS * COLUMNS,
          *p = room->weight[1] + (ds - room->weight[0]);
    float sum[ROWS][NI], sum_v[KEYS ? ROWS : 1][NI];
    plain_zero(sum);
    plain_zero(sum_v);
    lse += (size_t)bh * (size_t)a.T;
    delta += (size_t)bh * (size_t)a.T;
    for (int i = 0; i < 2; i++)
        plain_load<NI>(room->own[i], mine[i] + (size_t)first * mine_ld[i], mine_ld[i], OWN,
                       a.T - first, a.hd);
    for (int at = 0; at < a.T; at += COLUMNS) {
        for (int i = 0; i < 2; i++)
            plain_load<NI>(room->tile[i], other[i] + (size_t)at * other_ld[i], other_ld[i], COLUMNS,
                           a.T - at, a.hd);
        __syncthreads();
        float s[ROWS], dp[ROWS];
        plain_dots<NI>(s, room->own[0] + warp * ROWS * STRIDE, room->tile[0], a.hd);
        plain_dots<NI>(dp, room->own[1] + warp * ROWS * STRIDE, room->tile[1], a.hd);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            bool on = at + lane < a.T && row + r < a.T;
            plain_pair w =
                plain_weigh(s[r], dp[r], lse, delta, KEYS ? at + lane : row + r, a.scale, on);
            ds[r * COLUMNS + lane] = w.ds;
            p[r * COLUMNS + lane] = w.p;
        }
        __syncwarp();
        plain_add<NI>(sum, ds, room->tile[0]);
        if constexpr (KEYS)
            plain_add<NI>(sum_v, p, room->tile[1]);
        __syncthreads();
    }
    float scale[ROWS], one[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++)
        scale[r] = a.scale, one[r] = 1;
    T *to = dqkv + head + (size_t)row * ld;
    plain_store<NI>(to + (KEYS ? D : 0), ld, sum, scale, a.T - row, a.hd);
    if constexpr (KEYS)
        plain_store<NI>(to + 2 * D, ld, sum_v, one, a.T - row, a.hd);
}

/* ---------------------------------------------------------------- launching */

/* f(NI) with the width that heads of hd are computed as. */
template <class F> static void by_width(ds_cuda *c, int hd, F f) {
    constexpr int WIDEST = DS_ATTENTION_WIDEST / 32;
    if (hd > 128 && sizeof(plain_room<WIDEST>) > ds_most_shared(c->sm))
        ds_cuda_fatal("attention", "this GPU takes heads of up to 128 only: run on the CPU");
    if (hd <= 64)
        f(std::integral_constant<int, 2>{});
    else if (hd <= 96)
        f(std::integral_constant<int, 3>{});
    else if (hd <= 128)
        f(std::integral_constant<int, 4>{});
    else
        f(std::integral_constant<int, WIDEST>{});
}

static dim3 plain_grid(const ds_heads &a, int own) {
    return dim3((unsigned)(ds_ceil_div((size_t)a.T, (size_t)own) * a.B * a.H));
}

template <class T>
void ds_attention_plain_forward(ds_cuda *c, T *out, float *lse, const T *qkv, const ds_heads &a) {
    by_width(c, a.hd, [&](auto width) {
        constexpr int NI = decltype(width)::value, OWN = plain_room<NI>::OWN;
        ds_cuda_launch(c, attention_plain<T, NI>, plain_grid(a, OWN), dim3(ATTENTION_THREADS),
                       sizeof(plain_room<NI>), out, lse, qkv, a, ds_ceil_div((size_t)a.T, OWN));
    });
}

template <class T>
void ds_attention_plain_backward(ds_cuda *c, T *dqkv, const T *dout, const T *out, const float *lse,
                                 const T *qkv, const ds_heads &a) {
    size_t rows = (size_t)a.B * (size_t)a.H * (size_t)a.T;
    float *delta = (float *)ds_cuda_scratch(c, rows * sizeof *delta);
    dim3 threads(ATTENTION_THREADS);
    ds_cuda_launch(c, attention_delta<T>, dim3((unsigned)ds_ceil_div(rows, ATTENTION_WARPS)),
                   threads, 0, delta, dout, out, a, rows);
    by_width(c, a.hd, [&](auto width) {
        constexpr int NI = decltype(width)::value, OWN = plain_room<NI>::OWN;
        size_t bytes = sizeof(plain_room<NI>);
        int blocks = ds_ceil_div((size_t)a.T, OWN);
        ds_cuda_launch(c, attention_plain_grad<T, NI, false>, plain_grid(a, OWN), threads, bytes,
                       dqkv, dout, lse, delta, qkv, a, blocks);
        ds_cuda_launch(c, attention_plain_grad<T, NI, true>, plain_grid(a, OWN), threads, bytes,
                       dqkv, dout, lse, delta, qkv, a, blocks);
    });
}

template void ds_attention_plain_forward(ds_cuda *, float *, float *, const float *,
                                         const ds_heads &);
template void ds_attention_plain_forward(ds_cuda *, ds_bf16 *, float *, const ds_bf16 *,
                                         const ds_heads &);
template void ds_attention_plain_backward(ds_cuda *, float *, const float *, const float *,
                                          const float *, const float *, const ds_heads &);
template void ds_attention_plain_backward(ds_cuda *, ds_bf16 *, const ds_bf16 *, const ds_bf16 *,
                                          const float *, const ds_bf16 *, const ds_heads &);
