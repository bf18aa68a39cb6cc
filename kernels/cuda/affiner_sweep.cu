/* kernels/cuda/affiner_sweep.cu - thin product, outer product and column sums in one reading.
 *
 * A warp owns a window of 64 columns and takes 16 rows at a time; a block is cw windows x rw bands
 * of rows.  What stays in registers over all rows of the slot: P of the window, the outer product
 * and the sums.  The thin product of a step is added over the block's windows in shared memory and
 * leaves as one partial sum per tile of columns.
 *
 * bf16.  Lane (g, t) = (lane/4, lane%4) loads 16 bytes, columns 8t..8t+7, of rows g and g+8 and of
 * both halves (32 columns) of the window: word w of a load is columns 8t+2w, 8t+2w+1.
 *   thin   A operand (rows x columns): the order of k is free, so words 2q and 2q+1 are the k pairs
 *          2t and 2t+8 of product q of the half; P is laid out to match (ds_panel_run).
 *   outer  A operand (columns x rows): the same words, each transposed in its 8 x 8 matrix.  So
 *          index M = g of a product is column 8 (g/2) + 2w + g%2.
 * f32.  Lane l has columns 2l and 2l+1; the thin product of 4 rows x 8 hidden is added over the
 * lanes by halving (31 shuffles), after which lane l has row l/8, hidden column l%8.
 *
 * Bytes per row: those of A and A2, once; partial sums: 4 hidden per tile and row, and per slot and
 * column 4 (hidden + 2).  bf16 work per 16 x 16 tile of A and group: 1 + 3 products (2 cycles of a
 * multiprocessor each) beside 36 cycles of its share of the memory.
 */
#include "kernels/cuda/affiner.h"

/* Where a warp works. */
struct place {
    int warp, cw, rw; /* its window and band in the block */
    int seg, tile;
    int col, left; /* first column, in the whole row; columns left in the segment (may be < 1) */
    int row0, end; /* rows of the block */
    int group;     /* first hidden group, in the segment */
    int set, lane;
    size_t window; /* of the segment */
};

__device__ static place place_of(const ds_sweep &s, int ng) {
    place p;
    const ds_sweep_plan &plan = s.plan;
    p.lane = (int)threadIdx.x % 32;
    p.warp = (int)threadIdx.x / 32;
    p.cw = p.warp % plan.cw;
    p.rw = p.warp / plan.cw;
    p.seg = (int)blockIdx.x / plan.tiles;
    p.tile = (int)blockIdx.x % plan.tiles;
    int window = p.tile * plan.cw + p.cw, unit = (int)blockIdx.y / plan.slots;
    p.window = (size_t)window;
    p.col = p.seg * s.side.cols + window * WINDOW;
    p.left = s.side.cols - window * WINDOW;
    p.row0 = unit * s.units.unit + (int)blockIdx.y % plan.slots * plan.span;
    int stop = (unit + 1) * s.units.unit;
    p.end = p.row0 + plan.span < stop ? p.row0 + plan.span : stop;
    p.group = (int)blockIdx.z * ng;
    p.set = s.units.set[unit];
    return p;
}

/* Index of the panel of group j of this place, in units of a lane's words. */
__device__ static size_t panel_at(const ds_sweep &s, const place &p, int j) {
    size_t group = (size_t)(p.seg * s.side.groups + p.group + j);
    return (group * (size_t)s.side.windows + p.window) * 32 + (size_t)p.lane;
}

/* ---------------------------------------------------------------- a warp, bf16 */

__device__ static void load_words(uint32_t w[4], const ds_bf16 *p, int left) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t low = 2 * i < left ? p[2 * i].bits : 0;
        w[i] = low | (2 * i + 1 < left ? (uint32_t)p[2 * i + 1].bits << 16 : 0);
    }
}

__device__ static float low_half(uint32_t w) { return ds_float(ds_bf16{(uint16_t)w}); }
__device__ static float high_half(uint32_t w) { return ds_float(ds_bf16{(uint16_t)(w >> 16)}); }

template <class T, int NG, bool THIN, bool OUTER, bool SUMS> struct warp_work;

template <int NG, bool THIN, bool OUTER, bool SUMS>
struct warp_work<ds_bf16, NG, THIN, OUTER, SUMS> {
    uint32_t a[2][2][4]; /* [row g, g+8][half][word] of the step */
    uint32_t a2[2][2][4];
    uint32_t coef[NG][6];
    uint32_t panel[NG][8];
    float out[NG][4][4]; /* [group][half, pair of words][element] */
    float sum[16], product[16];

    __device__ void open(const ds_sweep &s, const place &p) {
#pragma unroll
        for (int i = 0; THIN && i < NG * 8; i++)
            panel[i / 8][i % 8] = 0;
#pragma unroll
        for (int j = 0; THIN && j < NG; j++)
            if (p.left > 0) {
                const ds_word4 *from = reinterpret_cast<const ds_word4 *>(
                    s.panel + (size_t)p.set * s.panel_words + panel_at(s, p, j) * 8);
                ds_word4 w[2] = {from[0], from[1]};
                memcpy(panel[j], w, sizeof w);
            }
#pragma unroll
        for (int i = 0; OUTER && i < NG * 16; i++)
            out[i / 16][i / 4 % 4][i % 4] = 0;
#pragma unroll
        for (int i = 0; SUMS && i < 16; i++)
            sum[i] = product[i] = 0;
    }

    __device__ static void load_matrix(uint32_t w[2][2][4], const void *from, const ds_sweep &s,
                                       const place &p, int row) {
        int g = p.lane / 4, t = p.lane % 4;
        size_t ld = (size_t)(s.side.segs * s.side.cols);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int at = row + g + i / 2 * 8, col = i % 2 * 32 + 8 * t, left = p.left - col;
            if (at >= p.end)
                left = 0;
            const ds_bf16 *src = (const ds_bf16 *)from + (size_t)at * ld + (size_t)(p.col + col);
            ds_word4 v = {{0, 0, 0, 0}};
            if (s.vec) {
                if (left > 0)
                    v = *reinterpret_cast<const ds_word4 *>(src);
            } else
                load_words(v.w, src, left);
            memcpy(w[i / 2][i % 2], &v, sizeof v);
        }
    }

    __device__ void load(const ds_sweep &s, const place &p, int row) {
        load_matrix(a, s.a, s, p, row);
        if (SUMS && s.a2)
            load_matrix(a2, s.a2, s, p, row);
        if (OUTER && row < p.end) {
            int all = s.side.segs * s.side.groups, first = p.seg * s.side.groups + p.group;
            const ds_word2 *from = (const ds_word2 *)s.coef +
                                   ((size_t)(row / TILE_ROWS) * (size_t)all + (size_t)first) * 96 +
                                   (size_t)p.lane;
#pragma unroll
            for (int i = 0; i < NG * 3; i++)
                memcpy(coef[i / 3] + i % 3 * 2, from + 32 * i, sizeof *from);
        }
    }

    __device__ void add_sums(const ds_sweep &s) {
#pragma unroll
        for (int i = 0; i < 16; i++) { /* row, half, word */
            int at = i / 4 % 2 * 8 + i % 4 * 2;
            uint32_t w = a[i / 8][i / 4 % 2][i % 4];
            sum[at] += low_half(w);
            sum[at + 1] += high_half(w);
            if (s.a2) {
                uint32_t w2 = a2[i / 8][i / 4 % 2][i % 4];
                product[at] += low_half(w) * low_half(w2);
                product[at + 1] += high_half(w) * high_half(w2);
            }
        }
    }

    /* The thin product of the 16 rows goes to stage (16, 8 NG). */
    __device__ void add_thin(const place &p, float *stage) {
        int g = p.lane / 4, t = p.lane % 4;
#pragma unroll
        for (int j = 0; j < NG; j++) {
            float d[4] = {0, 0, 0, 0};
#pragma unroll
            for (int q = 0; q < 4; q++) {
                int half = q / 2, w = q % 2 * 2;
                uint32_t left[4] = {a[0][half][w], a[1][half][w], a[0][half][w + 1],
                                    a[1][half][w + 1]};
                ds_mma_bf16(d, left, panel[j] + 2 * q);
            }
            float *to = stage + g * (8 * NG) + j * 8 + 2 * t;
            to[0] = d[0];
            to[1] = d[1];
            to[8 * (8 * NG)] = d[2];
            to[8 * (8 * NG) + 1] = d[3];
        }
    }

    __device__ void add_outer() {
#pragma unroll
        for (int q = 0; q < 4; q++) {
            int half = q / 2, w = q % 2 * 2;
            uint32_t left[4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                left[i] = ds_transpose_bf16(a[i / 2][half][w + i % 2]);
#pragma unroll
            for (int j = 0; j < NG; j++) {
                ds_mma_bf16(out[j][q], left, coef[j]);
                ds_mma_bf16(out[j][q], left, coef[j] + 2);
                ds_mma_bf16(out[j][q], left, coef[j] + 4);
            }
        }
    }

    __device__ void use(const ds_sweep &s, const place &p, int row, float *stage) {
        if (SUMS)
            add_sums(s);
        if (THIN)
            add_thin(p, stage);
        if (OUTER && row < p.end)
            add_outer();
    }

    /* Adds (first: writes) what was gathered to room (8 NG + 2 rows of `stride`): the outer
     * product by hidden column, sum, product. */
    __device__ void publish(float *room, int stride, bool first, const place &p) {
        int g = p.lane / 4, t = p.lane % 4;
        room += p.cw * WINDOW;
#pragma unroll
        for (int i = 0; OUTER && i < NG * 16; i++) {
            int j = i / 16, q = i / 4 % 4, e = i % 4, w = q % 2 * 2 + e / 2;
            int col = q / 2 * 32 + 8 * (g / 2) + 2 * w + g % 2;
            float *to = room + (j * 8 + 2 * t + e % 2) * stride + col;
            *to = first ? out[j][q][e] : *to + out[j][q][e];
        }
#pragma unroll
        for (int i = 0; SUMS && i < 16; i++) {
            float u = sum[i], v = product[i];
#pragma unroll
            for (int d = 4; d < 32; d *= 2) {
                u += __shfl_xor_sync(0xffffffffu, u, d);
                v += __shfl_xor_sync(0xffffffffu, v, d);
            }
            float *to = room + NG * 8 * stride + i / 8 * 32 + 8 * t + i % 8;
            if (g == 0) {
                to[0] = first ? u : to[0] + u;
                to[stride] = first ? v : to[stride] + v;
            }
        }
    }
};

/* ---------------------------------------------------------------- a warp, f32 */

/* v[0..N) (=) the half of v[0..2N) that the lane keeps, plus its partner's. */
template <int N> __device__ static inline void halve(float (&v)[32]) {
    bool upper = (int)threadIdx.x & N;
#pragma unroll
    for (int i = 0; i < N; i++) {
        float give = upper ? v[i] : v[i + N], keep = upper ? v[i + N] : v[i];
        v[i] = keep + __shfl_xor_sync(0xffffffffu, give, N);
    }
}

/* Lane l gets the sum over the lanes of v[l].  Written out, so that v stays in registers. */
__device__ static inline float sum_by_lane(float (&v)[32]) {
    halve<16>(v);
    halve<8>(v);
    halve<4>(v);
    halve<2>(v);
    halve<1>(v);
    return v[0];
}

template <int NG, bool THIN, bool OUTER, bool SUMS> struct warp_work<float, NG, THIN, OUTER, SUMS> {
    float panel[NG][8][2], out[NG][8][2], sum[2], product[2];

    __device__ void open(const ds_sweep &s, const place &p) {
#pragma unroll
        for (int i = 0; THIN && i < NG * 16; i++)
            panel[i / 16][i / 2 % 8][i % 2] = 0;
#pragma unroll
        for (int j = 0; THIN && j < NG; j++)
            if (p.left > 0)
                memcpy(panel[j], s.panel + (size_t)p.set * s.panel_words + panel_at(s, p, j) * 16,
                       64);
#pragma unroll
        for (int i = 0; OUTER && i < NG * 16; i++)
            out[i / 16][i / 2 % 8][i % 2] = 0;
        sum[0] = sum[1] = product[0] = product[1] = 0;
    }

    __device__ void load(const ds_sweep &, const place &, int) {}

    __device__ static void load_pair(float v[2], const void *from, const ds_sweep &s,
                                     const place &p, int row) {
        int left = row < p.end ? p.left - 2 * p.lane : 0;
        size_t ld = (size_t)(s.side.segs * s.side.cols);
        const float *src = (const float *)from + (size_t)row * ld + (size_t)(p.col + 2 * p.lane);
        v[0] = v[1] = 0;
        if (s.vec && left > 0)
            memcpy(v, __builtin_assume_aligned(src, 8), 8);
        else if (left > 0) {
            v[0] = src[0];
            v[1] = left > 1 ? src[1] : 0;
        }
    }

    __device__ void add_outer(const ds_sweep &s, const place &p, const float v[2], int row) {
        int first = p.seg * s.side.groups + p.group;
        const float *coef = (const float *)s.coef +
                            (size_t)row * (size_t)(s.side.segs * s.side.groups * 8) + first * 8;
#pragma unroll
        for (int k = 0; k < NG * 8; k++) {
            float c = coef[k];
            out[k / 8][k % 8][0] += c * v[0];
            out[k / 8][k % 8][1] += c * v[1];
        }
    }

    __device__ void use(const ds_sweep &s, const place &p, int row0, float *stage) {
        for (int row = row0; row < row0 + TILE_ROWS; row += 4, stage += 4 * 8 * NG) {
            float v[4][2], v2[4][2];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                load_pair(v[i], s.a, s, p, row + i);
                if (SUMS && s.a2)
                    load_pair(v2[i], s.a2, s, p, row + i);
            }
#pragma unroll
            for (int i = 0; SUMS && i < 8; i++) {
                sum[i % 2] += v[i / 2][i % 2];
                if (s.a2)
                    product[i % 2] += v[i / 2][i % 2] * v2[i / 2][i % 2];
            }
#pragma unroll
            for (int i = 0; OUTER && i < 4; i++)
                if (row + i < p.end)
                    add_outer(s, p, v[i], row + i);
#pragma unroll
            for (int j = 0; THIN && j < NG; j++) {
                float z[32];
#pragma unroll
                for (int i = 0; i < 32; i++)
                    z[i] = v[i / 8][0] * panel[j][i % 8][0] + v[i / 8][1] * panel[j][i % 8][1];
                stage[p.lane / 8 * (8 * NG) + j * 8 + p.lane % 8] = sum_by_lane(z);
            }
        }
    }

    __device__ void publish(float *room, int stride, bool first, const place &p) {
        room += p.cw * WINDOW + 2 * p.lane;
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int k = 0; OUTER && k < NG * 8; k++) {
                float *to = room + k * stride + i;
                *to = first ? out[k / 8][k % 8][i] : *to + out[k / 8][k % 8][i];
            }
            float *to = room + NG * 8 * stride + i;
            if (SUMS) {
                to[0] = first ? sum[i] : to[0] + sum[i];
                to[stride] = first ? product[i] : to[stride] + product[i];
            }
        }
    }
};

/* ---------------------------------------------------------------- the block */

/* Adds the thin products of a step over the block's windows. */
template <int NG>
__device__ static void store_thin(const ds_sweep &s, const place &p, const float *stage, int row) {
    enum { H = 8 * NG, EACH = TILE_ROWS * H };
    size_t hidden = (size_t)(s.side.segs * s.side.groups * 8);
    for (int at = (int)threadIdx.x; at < s.plan.rw * EACH; at += (int)blockDim.x) {
        const float *from = stage + at / EACH * s.plan.cw * EACH + at % EACH;
        float z = from[0];
        for (int w = 1; w < s.plan.cw; w++)
            z += from[w * EACH];
        int t = row + at / H;
        size_t k = (size_t)((p.seg * s.side.groups + p.group) * 8 + at % H);
        if (t < p.end)
            s.thin[((size_t)p.tile * (size_t)s.rows + (size_t)t) * hidden + k] = z;
    }
}

/* The block's outer product and sums to its slot. */
template <int NG, bool OUTER, bool SUMS>
__device__ static void store_slot(const ds_sweep &s, const place &p, const float *room) {
    int stride = s.plan.cw * WINDOW, first = p.tile * stride;
    size_t ld = (size_t)(s.side.segs * s.side.cols);
    float *slot = s.slots + (size_t)blockIdx.y * (size_t)s.slot_floats;
    for (int at = (int)threadIdx.x; at < (8 * NG + 2) * stride; at += (int)blockDim.x) {
        int q = at / stride, col = first + at % stride;
        size_t to = (size_t)(p.seg * s.side.cols + col);
        if (col >= s.side.cols)
            continue;
        if (OUTER && q < 8 * NG)
            slot[(size_t)s.at_outer + (size_t)(p.group * 8 + q) * ld + to] = room[at];
        if (SUMS && q == 8 * NG && s.at_sum >= 0 && p.group == 0)
            slot[(size_t)s.at_sum + to] = room[at];
        if (SUMS && q == 8 * NG + 1 && s.at_product >= 0 && p.group == 0)
            slot[(size_t)s.at_product + to] = room[at];
    }
}

/* Blocks that share a multiprocessor, so that nothing spills; rank 8 has two everywhere. */
constexpr int sweep_blocks(size_t act_size, int ng, bool thin, bool sums) {
    return act_size == 2 && (ng == 1 || (!sums && (!thin || ng == 2))) ? 2 : 1;
}

/* Grid: (segments x tiles, units x slots, batches of NG groups). */
template <class T, int NG, bool THIN, bool OUTER, bool SUMS>
__global__ void __launch_bounds__(256, sweep_blocks(sizeof(T), NG, THIN, SUMS)) sweep(ds_sweep s) {
    DS_SHARED(float, shared);
    const place p = place_of(s, NG);
    enum { EACH = TILE_ROWS * 8 * NG };
    int step = TILE_ROWS * s.plan.rw, odd = 0;
    warp_work<T, NG, THIN, OUTER, SUMS> work;
    work.open(s, p);
    work.load(s, p, p.row0 + TILE_ROWS * p.rw);
#pragma unroll 1
    for (int base = p.row0; base < p.end; base += step) {
        /* Two stages in turn: a warp that is ahead writes the one that is not being read. */
        int row = base + TILE_ROWS * p.rw;
        work.use(s, p, row, shared + odd + p.warp * EACH);
        work.load(s, p, row + step); /* on its way while the block meets */
        if (THIN) {
            __syncthreads();
            store_thin<NG>(s, p, shared + odd, base);
            odd = odd ? 0 : s.plan.cw * s.plan.rw * EACH;
        }
    }
    for (int r = 0; (OUTER || SUMS) && r < s.plan.rw; r++) {
        __syncthreads();
        if (p.rw == r)
            work.publish(shared, s.plan.cw * WINDOW, r == 0, p);
    }
    if (OUTER || SUMS) {
        __syncthreads();
        store_slot<NG, OUTER, SUMS>(s, p, shared);
    }
}

/* ---------------------------------------------------------------- host */

template <class T, int NG, bool THIN, bool OUTER, bool SUMS>
static void launch(ds_cuda *c, const ds_sweep &s) {
    const ds_sweep_plan &p = s.plan;
    size_t thin = THIN ? (size_t)(2 * p.cw * p.rw * TILE_ROWS * 8 * NG) : 0;
    size_t room = OUTER || SUMS ? (size_t)(p.cw * WINDOW * (8 * NG + 2)) : 0;
    dim3 grid((unsigned)(s.side.segs * p.tiles), (unsigned)(s.units.count * p.slots),
              (unsigned)(THIN || OUTER ? s.side.groups / NG : 1));
    ds_cuda_launch(c, sweep<T, NG, THIN, OUTER, SUMS>, grid, dim3((unsigned)(32 * p.cw * p.rw)),
                   (thin > room ? thin : room) * sizeof(float), s);
}

template <class T, int NG>
static void launch_groups(ds_cuda *c, const ds_sweep &s, int thin, int outer, int sums) {
    if (thin && outer && sums)
        launch<T, NG, true, true, true>(c, s);
    else if (thin && outer)
        launch<T, NG, true, true, false>(c, s);
    else if (thin)
        launch<T, NG, true, false, false>(c, s);
    else if (outer && sums)
        launch<T, NG, false, true, true>(c, s);
    else if (outer)
        launch<T, NG, false, true, false>(c, s);
}

template <class T> static void run(ds_cuda *c, const ds_sweep &s, int thin, int outer, int sums) {
    if (s.units.unit == 0)
        return;
    if (sums && !outer) { /* both alone: the sums are a rare sweep then */
        launch<T, 1, false, false, true>(c, s);
        sums = 0;
    }
    if (s.side.groups % 3 == 0)
        launch_groups<T, 3>(c, s, thin, outer, sums);
    else if (s.side.groups % 2 == 0)
        launch_groups<T, 2>(c, s, thin, outer, sums);
    else
        launch_groups<T, 1>(c, s, thin, outer, sums);
}

void ds_sweep_run(ds_cuda *c, const ds_sweep *s, int thin, int outer, int sums, float) {
    run<float>(c, *s, thin, outer, sums);
}

void ds_sweep_run(ds_cuda *c, const ds_sweep *s, int thin, int outer, int sums, ds_bf16) {
    run<ds_bf16>(c, *s, thin, outer, sums);
}

ds_side ds_side_x(const ds_affiner *ad, int groups) {
    return ds_side{1, ad->n, ad->segs * groups, ds_ceil_div((size_t)ad->n, WINDOW)};
}

ds_side ds_side_y(const ds_affiner *ad, int groups) {
    int cols = ad->m / ad->segs;
    return ds_side{ad->segs, cols, groups, ds_ceil_div((size_t)cols, WINDOW)};
}

/* Warps that keep every multiprocessor of a large GPU reading; emulated few, so that tests see
 * spans of several steps. */
#ifdef DS_CUDA_EMU
enum { ENOUGH_WARPS = 16 };
#else
enum { ENOUGH_WARPS = 4096 };
#endif

/* A thin product wants many windows in a block (fewer partial sums), an outer one many bands. */
ds_sweep_plan ds_sweep_plan_of(const ds_side *side, int unit, int units, int thin, int outer) {
    ds_sweep_plan p;
    int most = !outer ? 8 : thin ? 4 : 1;
    p.tiles = ds_ceil_div((size_t)side->windows, (size_t)most);
    p.cw = ds_ceil_div((size_t)side->windows, (size_t)p.tiles);
    p.rw = p.cw > 4 ? 1 : p.cw > 2 ? 2 : p.cw == 2 ? 4 : 8;
    /* Long spans make fewer partial sums, short ones more warps: 2048 keep every multiprocessor of
     * a large GPU reading.  The bytes of sums over rows depend on the span, so the machine does not
     * matter here. */
    int step = TILE_ROWS * p.rw, most_rows = outer ? 2048 : 8 * step;
    size_t warps = (size_t)ds_ceil_div((size_t)unit, (size_t)step) * (size_t)units *
                   (size_t)(p.tiles * side->segs * p.cw * p.rw);
    p.span = step;
    while (p.span < most_rows && p.span < unit && warps > ENOUGH_WARPS) {
        p.span *= 2;
        warps /= 2;
    }
    p.slots = ds_ceil_div((size_t)unit, (size_t)p.span);
    return p;
}
