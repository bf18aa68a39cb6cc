/* kernels/cuda/pack.cu - an adapter folded into its layer's weight and bias.
 *
 * weight_pack runs for every adapted layer in every training step: for XL/2 it reads 675 M weights
 * in f32 and writes them in bf16, 4 GB.  W and the result are read and written once, 32 and 16
 * bytes a thread and row; V comes once a block, U once a row.
 */
#include "kernels/cuda/cuda.h"

#include "kernels/cuda/lowrank.h"

struct pack_args {
    void *w;
    const float *W;
    const float *a, *s, *U, *V; /* NULL: ones; no branch */
    int m, n, r, segs, side_in;
    int blocks, rows; /* blocks of so many rows in a segment */
};

/* Rows k0.. of V and columns k0.. of U for the tile at (row, col) of a segment that ends at row
 * `end`. */
__device__ static void stage(const pack_args &p, float *panel, float *coef, int seg, int row,
                             int end, int col, int k0, int depth, bool with_panel) {
    for (int at = (int)threadIdx.x; with_panel && at < depth * LOW_COLS; at += LOW_BLOCK) {
        int k = at / LOW_COLS, j = at % LOW_COLS;
        size_t from = (size_t)(seg * p.r + k0 + k) * (size_t)p.n + (size_t)(col + j);
        panel[ds_low_panel_at(k, j)] = col + j < p.n ? p.V[from] : 0.0f;
    }
    for (int at = (int)threadIdx.x; at < depth * LOW_ROWS; at += LOW_BLOCK) {
        int i = at / depth, k = at % depth;
        size_t from = (size_t)(row + i) * (size_t)p.r + (size_t)(k0 + k);
        coef[k * LOW_ROWS + i] = row + i < end ? p.U[from] : 0.0f;
    }
}

/* W' of the thread's 4 x 8 numbers: w (=) a w + s uv. */
__device__ static void fold(const pack_args &p, float w[8], const float uv[8], float s, int row,
                            int col, int left) {
    float a = p.a && !p.side_in ? p.a[row] : 1.0f;
#pragma unroll
    for (int e = 0; e < 8; e++) {
        if (p.a && p.side_in)
            a = e < left ? p.a[col + e] : 1.0f;
        w[e] *= a;
        if (s != 0)
            w[e] += s * uv[e];
    }
}

/* Grid: (column tiles, segments x blocks of rows). */
template <class T, bool VEC> __global__ void __launch_bounds__(LOW_BLOCK, 2) pack(pack_args p) {
    DS_SHARED(float, panel);
    float *coef = panel + (p.r < LOW_DEPTH ? p.r : LOW_DEPTH) * LOW_COLS;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, ms = p.m / p.segs;
    int seg = (int)blockIdx.y / p.blocks, first = (int)blockIdx.y % p.blocks * p.rows;
    int row0 = seg * ms + first, end = seg * ms + (first + p.rows < ms ? first + p.rows : ms);
    int col0 = (int)blockIdx.x * LOW_COLS, col = col0 + lane * 8, left = p.n - col;
    float s = p.s ? p.s[seg] : 0.0f;
    for (int row = row0; row < end; row += LOW_ROWS) {
        float w[4][8], uv[4][8] = {};
        int mine = row + warp * 4;
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (mine + i < end && left > 0)
                ds_load8<VEC>(w[i], p.W + (size_t)(mine + i) * (size_t)p.n + (size_t)col, left);
        for (int k = 0; s != 0 && k < p.r; k += LOW_DEPTH) {
            int depth = p.r - k < LOW_DEPTH ? p.r - k : LOW_DEPTH;
            __syncthreads();
            stage(p, panel, coef, seg, row, end, col0, k, depth, row == row0 || p.r > LOW_DEPTH);
            __syncthreads();
            ds_low_product(uv, panel, coef, depth);
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (mine + i < end && left > 0) {
                fold(p, w[i], uv[i], s, mine + i, col, left);
                ds_store8<VEC>((T *)p.w + (size_t)(mine + i) * (size_t)p.n + (size_t)col, w[i],
                               left);
            }
    }
}

template <class T> static void pack_as(ds_cuda *c, pack_args p) {
    int ms = p.m / p.segs, tiles = ds_ceil_div((size_t)p.n, LOW_COLS);
    /* Blocks of 32 to 128 rows: the more rows, the fewer times V is read from the cache. */
    p.rows = LOW_ROWS;
    while (p.rows < 128 && ds_ceil_div((size_t)p.m, (size_t)p.rows) * tiles > 8 * c->sms)
        p.rows *= 2;
    p.blocks = ds_ceil_div((size_t)ms, (size_t)p.rows);
    dim3 grid((unsigned)tiles, (unsigned)(p.segs * p.blocks));
    size_t shared = p.s ? ds_low_shared(p.r) : 0;
    if (ds_rows_aligned(p.W, p.n) && ds_rows_aligned((T *)p.w, p.n))
        ds_cuda_launch(c, pack<T, true>, grid, LOW_BLOCK, shared, p);
    else
        ds_cuda_launch(c, pack<T, false>, grid, LOW_BLOCK, shared, p);
}

/* What convolutions in TF32 multiply by (feature.cu). */
__global__ void round_weight(float *w, size_t n) {
    size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (at < n)
        w[at] = ds_round_tf32(w[at]);
}

void ds_cuda_weight_pack(ds_device *dev, ds_weight *w, const float *W, const ds_affiner *ad) {
    ds_cuda *c = ds_cuda_begin(dev);
    pack_args p = {w->w, W, NULL, NULL, NULL, NULL, w->m, w->n, 0, 1, 0, 0, 0};
    if (ad) {
        DS_ASSERT(ad->m == w->m && ad->n == w->n && ad->segs >= 1 && ad->m % ad->segs == 0);
        p.a = ad->a;
        p.side_in = ad->side_in;
        p.segs = ad->segs;
        if (ad->r > 0 && !ad->phi_relu) {
            p.r = ad->r;
            p.s = ad->s, p.U = ad->U, p.V = ad->V;
        }
    }
    if (w->f32)
        pack_as<float>(c, p);
    else
        pack_as<ds_bf16>(c, p);
    size_t n = (size_t)w->m * (size_t)w->n;
    if (w->tf32)
        ds_cuda_launch(c, round_weight, dim3((unsigned)ds_ceil_div(n, 256)), 256, 0, (float *)w->w,
                       n);
}

/* ---------------------------------------------------------------- bias */

struct bias_args {
    float *out;
    const float *bias, *W, *b; /* W NULL: side out */
    int m, n;
};

/* A warp an output: out_i = bias_i + <W_i, b>. */
__global__ void bias_in(bias_args p) {
    int i = (int)(blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32);
    float sum = 0;
    for (int j = (int)threadIdx.x % 32; i < p.m && j < p.n; j += 32)
        sum += p.W[(size_t)i * (size_t)p.n + (size_t)j] * p.b[j];
    sum = ds_warp_sum(sum);
    if (i < p.m && threadIdx.x % 32 == 0)
        p.out[i] = (p.bias ? p.bias[i] : 0.0f) + sum;
}

__global__ void bias_out(bias_args p) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < p.m)
        p.out[i] = (p.bias ? p.bias[i] : 0.0f) + (p.b ? p.b[i] : 0.0f);
}

void ds_cuda_bias_fold(ds_device *dev, float *out, const float *bias, const float *W,
                       const ds_affiner *ad) {
    ds_cuda *c = ds_cuda_begin(dev);
    bias_args p = {out, bias, W, ad->b, ad->m, ad->n};
    if (ad->b && ad->side_in)
        ds_cuda_launch(c, bias_in, dim3((unsigned)ds_ceil_div((size_t)p.m, 8)), 256, 0, p);
    else
        ds_cuda_launch(c, bias_out, dim3((unsigned)ds_ceil_div((size_t)p.m, 256)), 256, 0, p);
}
