/* kernels/cuda/affiner_backward.cu - gradients of an adapter (kernels/ops.def, docs/math.md 6.2).
 *
 * Three sweeps over activations (affiner.h), in one of two orders:
 *   x first   x: h = phi(V x)    dy, y: dz, dU, sum g, sum g y           x: dV (, sum x dx)
 *   y first   dy: dz             x: h, dV (, sum x dx)                   dy, y: dU, sum g, sum g y
 * so that the narrower of x and dy is the one that is read twice (ReLU needs h for dz: x first).
 * Bytes a row, E of an activation: E (min(2n + 2m, 3m + n)), e.g. XL/2 bf16 qkv 18 KB, fc1 23 KB,
 * fc2 16 KB; side out without da: E m less.  Beside them, mostly from the cache: partial h and dz,
 * 8 H bytes a tile of columns, and partial sums, 8/span (m (H/segs + 2) + n H): 2 KB for qkv.
 *
 * dz is kept without s, which is a factor of the sums.
 *
 * Scratch, with hidden H = segs * rank rounded up to 8, tiles of 192 to 512 columns, slots of rows:
 *   4 rows H (tiles + 5) + 4 slots (m (H/segs + 2) + n (H + 1)) + 4 H (m/segs + n) bytes at most;
 * slots: 128 of a narrow layer, 16 to 64 of a wide one, and never fewer than rows/2048.
 * XL/2, rank 8: 22 MB at 16384 rows, 70 MB at 65536 (qkv).
 */
#include "kernels/cuda/affiner.h"

enum { BLOCK = 256, DIRECT_COLS = 32, DIRECT_ROWS = 1024, SUM_BANDS = 8 };

__device__ static bool small_scale(float a) { return !(fabsf(a) >= 1.0f / 64); }

/* ---------------------------------------------------------------- sums over the slots
 * The total goes to slot 0.  A block: 32 numbers x 8 bands of slots, then the bands in order. */

struct total_args {
    float *slots[2];
    long floats[2];
    int count[2];
    int blocks; /* of the first */
};

__global__ void total(total_args t) {
    DS_SHARED(float, room);
    int which = (int)blockIdx.x >= t.blocks, lane = (int)threadIdx.x % 32;
    int band = (int)threadIdx.x / 32;
    long at = (long)((int)blockIdx.x - (which ? t.blocks : 0)) * 32 + lane;
    float *slots = which ? t.slots[1] : t.slots[0], sum = 0; /* indexed, t would be copied */
    long floats = which ? t.floats[1] : t.floats[0];
    int count = which ? t.count[1] : t.count[0];
    for (int i = band; at < floats && i < count; i += SUM_BANDS)
        sum += slots[(long)i * floats + at];
    room[threadIdx.x] = sum;
    __syncthreads();
    if (band > 0 || at >= floats)
        return;
    for (int i = 1; i < SUM_BANDS; i++)
        sum += room[i * 32 + lane];
    slots[at] = sum;
}

/* ---------------------------------------------------------------- da where |a| is small
 * From the definition: side out sum_t g_ti <W_i, x_t>, side in sum_t x_tj <W_.j, g_t>.  A block
 * takes 32 numbers of a, looks which are small (mostly none) and goes through a band of rows for
 * each. */

struct direct_args {
    const float *a, *W;
    const void *near, *far; /* the factor of a's side (rows, side), the other (rows, other) */
    int side, other, rows;
    size_t per_side, per_other; /* strides in W */
    float *out;                 /* [band][side], written where a is small */
};

template <class T> __global__ void direct(direct_args d) {
    DS_SHARED(float, room);
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int first = (int)blockIdx.x * DIRECT_COLS, row0 = (int)blockIdx.y * DIRECT_ROWS;
    int end = row0 + DIRECT_ROWS < d.rows ? row0 + DIRECT_ROWS : d.rows;
    for (int i = first; i < first + DIRECT_COLS && i < d.side; i++) {
        if (!small_scale(d.a[i])) /* the same for the whole block */
            continue;
        const float *W = d.W + (size_t)i * d.per_side;
        float sum = 0;
        for (int t = row0 + warp; t < end; t += BLOCK / 32) {
            const T *far = (const T *)d.far + (size_t)t * (size_t)d.other;
            float g = ds_float(((const T *)d.near)[(size_t)t * (size_t)d.side + (size_t)i]);
            float dot = 0;
            for (int j = lane; j < d.other; j += 32)
                dot += ds_float(far[j]) * W[(size_t)j * d.per_other];
            sum += g * dot;
        }
        sum = ds_block_sum(sum, room);
        if (threadIdx.x == 0)
            d.out[(size_t)blockIdx.y * (size_t)d.side + (size_t)i] = sum;
    }
}

/* ---------------------------------------------------------------- the end */

struct finish_args {
    ds_affiner_grad g;
    ds_affiner ad;
    const float *bias, *W;
    /* totals, NULL where not wanted */
    const float *sum_g, *product; /* (m);  (m) side out, (n) side in */
    const float *dU, *dV;         /* (8 groups, m);  (segs * 8 groups, n), both without s */
    const float *direct;          /* [band][side] */
    int groups, bands;
    int out_blocks, in_blocks; /* blocks after the segs of ds: of outputs; of inputs; then dV */
};

__device__ static float direct_sum(const finish_args &f, int i, int side) {
    float sum = 0;
    for (int b = 0; b < f.bands; b++)
        sum += f.direct[(size_t)b * (size_t)side + (size_t)i];
    return sum;
}

/* <U_i, sum g h> */
__device__ static double branch_of(const finish_args &f, int i) {
    double sum = 0;
    for (int k = 0; k < f.ad.r; k++)
        sum += (double)f.ad.U[(size_t)i * (size_t)f.ad.r + (size_t)k] *
               f.dU[(size_t)k * (size_t)f.ad.m + (size_t)i];
    return sum;
}

/* ds of one segment, by a block. */
__device__ static void finish_scale(const finish_args &f, int seg, double *room) {
    int ms = f.ad.m / f.ad.segs;
    double sum = 0;
    for (int i = (int)threadIdx.x; f.dU && f.g.ds && i < ms; i += (int)blockDim.x)
        sum += branch_of(f, seg * ms + i);
    sum = ds_block_sum(sum, room);
    if (threadIdx.x == 0 && f.dU && f.g.ds)
        f.g.ds[seg] += (float)sum;
}

__device__ static void finish_output(const finish_args &f, int i) {
    const ds_affiner &ad = f.ad;
    if (i >= ad.m)
        return;
    float s = f.dU ? ad.s[i / (ad.m / ad.segs)] : 0.0f;
    for (int k = 0; f.dU && f.g.dU && k < ad.r; k++)
        f.g.dU[(size_t)i * (size_t)ad.r + (size_t)k] +=
            s * f.dU[(size_t)k * (size_t)ad.m + (size_t)i];
    if (ad.side_in)
        return;
    if (f.g.da && ad.a) {
        double shift = (f.bias ? (double)f.bias[i] : 0) + (ad.b ? (double)ad.b[i] : 0);
        double sum = (double)f.product[i] - shift * f.sum_g[i];
        if (f.dU)
            sum -= s * branch_of(f, i);
        f.g.da[i] += small_scale(ad.a[i]) ? direct_sum(f, i, ad.m) : (float)(sum / (double)ad.a[i]);
    }
    if (f.g.db && ad.b)
        f.g.db[i] += f.sum_g[i];
}

/* da_j of side in. */
__device__ static void finish_input(const finish_args &f, int j) {
    const ds_affiner &ad = f.ad;
    if (j >= ad.n)
        return;
    double sum = f.product[j];
    for (int k = 0; k < ad.segs * ad.r && !ad.phi_relu; k++) {
        int seg = k / ad.r, row = seg * f.groups * 8 + k % ad.r;
        sum -= (double)ad.s[seg] * ad.V[(size_t)k * (size_t)ad.n + (size_t)j] *
               f.dV[(size_t)row * (size_t)ad.n + (size_t)j];
    }
    f.g.da[j] += small_scale(ad.a[j]) ? direct_sum(f, j, ad.n) : (float)(sum / (double)ad.a[j]);
}

__device__ static void finish_v(const finish_args &f, size_t at) {
    size_t n = (size_t)f.ad.n, k = at / n, j = at % n;
    if (k >= (size_t)(f.ad.segs * f.ad.r))
        return;
    size_t seg = k / (size_t)f.ad.r, row = seg * (size_t)f.groups * 8 + k % (size_t)f.ad.r;
    f.g.dV[at] += f.ad.s[seg] * f.dV[row * n + j];
}

/* Grid: segs blocks for ds, then outputs, inputs, V, a thread each. */
__global__ void finish(finish_args f) {
    DS_SHARED(double, room);
    int block = (int)blockIdx.x, thread = (int)threadIdx.x;
    if (block < f.ad.segs) {
        finish_scale(f, block, room);
        return;
    }
    block -= f.ad.segs;
    if (block < f.out_blocks) {
        finish_output(f, block * BLOCK + thread);
        return;
    }
    block -= f.out_blocks;
    if (block < f.in_blocks) {
        finish_input(f, block * BLOCK + thread);
        return;
    }
    finish_v(f, (size_t)(block - f.in_blocks) * BLOCK + (size_t)thread);
}

/* db of side in: db_j += sum_i W_ij sum_g_i.  A block: 32 columns x 32 bands of rows of W. */
__global__ void __launch_bounds__(1024)
    bias_gradient(float *db, const float *W, const float *sum_g, int m, int n) {
    DS_SHARED(float, room);
    int lane = (int)threadIdx.x % 32, band = (int)threadIdx.x / 32, j = (int)blockIdx.x * 32 + lane;
    float sum = 0;
    for (int i = band; j < n && i < m; i += 32)
        sum += W[(size_t)i * (size_t)n + (size_t)j] * sum_g[i];
    room[threadIdx.x] = sum;
    __syncthreads();
    if (band > 0 || j >= n)
        return;
    for (int i = 1; i < 32; i++)
        sum += room[i * 32 + lane];
    db[j] += sum;
}

/* ---------------------------------------------------------------- host: what is needed */

/* Where each sum lies in a slot, in floats; -1 = not wanted. */
struct slot_layout {
    long sum, product, outer, floats;
};

struct job {
    ds_cuda *c;
    const ds_affiner_grad *g;
    const ds_affiner *ad;
    int rows, groups, hidden;
    bool want_da, want_db, need_h, need_dz, need_g, need_v, extra, x_first;
    ds_side x, y;
    slot_layout in_x, in_y;
    /* scratch */
    uint32_t *panel_v, *panel_u;
    float *thin, *h, *dz, *slots_x, *slots_y, *direct;
    void *coef_h, *coef_dz; /* what an outer product takes */
    int slots_in_x, slots_in_y;
};

static void needs(job *b, const ds_act *dx_extra) {
    const ds_affiner_grad *g = b->g;
    const ds_affiner *ad = b->ad;
    bool low = ad->r > 0;
    b->want_da = g->da && ad->a;
    b->want_db = g->db && ad->b;
    b->need_g = low && (g->dU || g->ds || (b->want_da && !ad->side_in));
    b->need_v = low && (g->dV || (b->want_da && ad->side_in && !ad->phi_relu));
    b->extra = low && dx_extra && ad->phi_relu;
    b->need_dz = b->need_v || b->extra;
    b->need_h = b->need_g || (ad->phi_relu && b->need_dz);
    b->x_first = ad->phi_relu || !b->need_v || !b->need_g || ad->n <= ad->m;
    b->groups = ds_groups_of(ad->r);
    b->x = ds_side_x(ad, b->groups);
    b->y = ds_side_y(ad, b->groups);
    b->hidden = ds_hidden(&b->x);
}

static void layout(job *b) {
    const ds_affiner *ad = b->ad;
    long m = ad->m, n = ad->n;
    slot_layout x = {-1, -1, -1, 0}, y = {-1, -1, -1, 0};
    if (b->want_db || (b->want_da && !ad->side_in))
        y.sum = y.floats, y.floats += m;
    if (b->want_da && !ad->side_in)
        y.product = y.floats, y.floats += m;
    if (b->need_g)
        y.outer = y.floats, y.floats += b->groups * 8 * m;
    if (b->want_da && ad->side_in)
        x.product = x.floats, x.floats += n;
    if (b->need_v)
        x.outer = x.floats, x.floats += b->hidden * n;
    b->in_x = x, b->in_y = y;
}

static ds_sweep_plan plan_of(const job *b, const ds_side *side, int thin, int outer) {
    return ds_sweep_plan_of(side, b->rows, 1, thin, outer);
}

/* Bytes at the end of what has been taken so far. */
static size_t take(size_t *used, size_t bytes) {
    size_t at = *used;
    *used += (bytes + 255) & ~(size_t)255;
    return at;
}

/* Divides the scratch. */
static void allot(job *b, size_t act_size) {
    size_t rows = (size_t)b->rows, number = rows * (size_t)b->hidden * sizeof(float), used = 0;
    size_t parts = act_size == 2 ? ds_parts_words(b->rows, b->hidden) * 4 : 0;
    int tiles = 0;
    ds_side *side[2] = {&b->x, &b->y};
    for (int i = 0; i < 2 && b->hidden; i++)
        for (int outer = 0; outer < 2; outer++) {
            int t = plan_of(b, side[i], 1, outer).tiles;
            tiles = t > tiles ? t : tiles;
        }
    int main_y = b->x_first && b->need_dz, main_x = !b->x_first;
    b->slots_in_x = plan_of(b, &b->x, main_x, 1).slots;
    b->slots_in_y = plan_of(b, &b->y, main_y, 1).slots;
    size_t bands = (size_t)ds_ceil_div(rows, DIRECT_ROWS);
    size_t widest = (size_t)(b->ad->side_in ? b->ad->n : b->ad->m);
    size_t v = take(&used, ds_panel_words(&b->x, act_size) * 4);
    size_t u = take(&used, ds_panel_words(&b->y, act_size) * 4);
    size_t h = take(&used, number), dz = take(&used, number);
    size_t parts_h = take(&used, parts), parts_dz = take(&used, parts);
    size_t thin = take(&used, number * (size_t)tiles);
    size_t x = take(&used, (size_t)b->slots_in_x * (size_t)b->in_x.floats * 4);
    size_t y = take(&used, (size_t)b->slots_in_y * (size_t)b->in_y.floats * 4);
    size_t direct = take(&used, b->want_da ? bands * widest * 4 : 0);
    char *room = (char *)ds_cuda_scratch(b->c, used);
    b->panel_v = (uint32_t *)(room + v), b->panel_u = (uint32_t *)(room + u);
    b->h = (float *)(room + h), b->dz = (float *)(room + dz), b->thin = (float *)(room + thin);
    b->coef_h = room + (parts ? parts_h : h), b->coef_dz = room + (parts ? parts_dz : dz);
    b->slots_x = (float *)(room + x), b->slots_y = (float *)(room + y);
    b->direct = (float *)(room + direct);
}

/* ---------------------------------------------------------------- host: the steps */

static void panels(const job *b, size_t act_size) {
    ds_panel_args p = {};
    p.sets = 1;
    p.segs = b->ad->segs;
    p.r[0] = b->ad->r;
    if (b->need_h) {
        p.matrix[0] = b->ad->V;
        p.side = b->x;
        p.from_v = 1;
        p.out = b->panel_v;
        ds_panel_run(b->c, &p, act_size);
    }
    if (b->need_dz) {
        p.matrix[0] = b->ad->U;
        p.side = b->y;
        p.from_v = 0;
        p.out = b->panel_u;
        ds_panel_run(b->c, &p, act_size);
    }
}

/* One sweep; a thin product is settled as well: h from x, dz from dy. */
template <class T>
static void sweep(const job *b, bool on_x, const T *a, const T *a2, bool thin, bool outer) {
    const ds_affiner *ad = b->ad;
    const slot_layout *at = on_x ? &b->in_x : &b->in_y;
    ds_sweep s = {};
    s.side = on_x ? b->x : b->y;
    s.plan = plan_of(b, &s.side, thin, outer);
    s.units.unit = s.rows = b->rows;
    s.units.count = 1;
    s.a = a;
    s.a2 = at->product >= 0 ? a2 : NULL;
    s.vec = s.side.cols % 8 == 0 && ds_rows_aligned(a, s.side.segs * s.side.cols) &&
            (uintptr_t)s.a2 % 16 == 0;
    s.panel = on_x ? b->panel_v : b->panel_u;
    s.thin = b->thin;
    s.coef = on_x ? b->coef_dz : b->coef_h;
    s.slots = on_x ? b->slots_x : b->slots_y;
    s.slot_floats = at->floats;
    s.at_outer = at->outer, s.at_sum = at->sum, s.at_product = at->product;
    bool sums = outer && (at->sum >= 0 || at->product >= 0);
    ds_sweep_run(b->c, &s, thin, outer && at->outer >= 0, sums, T{});
    if (!thin)
        return;
    ds_settle_args z = {s.thin, s.plan.tiles, b->rows, b->hidden, s.units, NULL, NULL, NULL};
    z.units.relu = on_x && ad->phi_relu ? 1 : 0;
    z.mask = !on_x && ad->phi_relu ? b->h : NULL;
    if (sizeof(T) == 4 || ad->phi_relu)
        z.out = on_x ? b->h : b->dz;
    if (sizeof(T) == 2)
        z.parts = (uint32_t *)(on_x ? b->coef_h : b->coef_dz);
    ds_settle_run(b->c, &z);
}

/* `outer` above means: the sweep that gathers the sums of its side, whichever there are. */
template <class T>
static void sweeps(const job *b, const T *dy, const T *y, const T *x, const T *dx) {
    if (b->x_first) {
        if (b->need_h)
            sweep(b, true, x, dx, true, false);
        if (b->need_dz || b->in_y.floats)
            sweep(b, false, dy, y, b->need_dz, true);
        if (b->in_x.floats)
            sweep(b, true, x, dx, false, true);
        return;
    }
    sweep(b, false, dy, y, true, false);
    sweep(b, true, x, dx, true, true);
    sweep(b, false, dy, y, false, true);
}

template <class T> static void recompute(const job *b, const T *dy, const T *x, const float *W) {
    const ds_affiner *ad = b->ad;
    size_t n = (size_t)ad->n;
    direct_args d = {ad->a, W, dy, x, ad->m, ad->n, b->rows, n, 1, b->direct};
    if (ad->side_in)
        d = direct_args{ad->a, W, x, dy, ad->n, ad->m, b->rows, 1, n, b->direct};
    dim3 grid((unsigned)ds_ceil_div((size_t)d.side, DIRECT_COLS),
              (unsigned)ds_ceil_div((size_t)b->rows, DIRECT_ROWS));
    ds_cuda_launch(b->c, direct<T>, grid, BLOCK, 32 * sizeof(float), d);
}

/* dx_extra (+=) V^T dz. */
template <class T> static void add_extra(const job *b, T *dx_extra) {
    const ds_affiner *ad = b->ad;
    ds_expand_args e = {};
    e.set[0] = ds_expand_set{NULL, NULL, ad->s, ad->V, ad->r, b->groups};
    e.units.unit = b->rows;
    e.units.count = 1;
    e.z = b->dz;
    e.hidden = b->hidden;
    e.y = dx_extra;
    e.segs = 1;
    e.cols = ad->n;
    e.from_v = 1;
    e.v_segs = ad->segs;
    ds_expand_run(b->c, &e, T{});
}

static void add_up(const job *b) {
    total_args t = {{b->slots_x, b->slots_y},
                    {b->in_x.floats, b->in_y.floats},
                    {b->slots_in_x, b->slots_in_y},
                    ds_ceil_div((size_t)b->in_x.floats, 32)};
    int blocks = t.blocks + ds_ceil_div((size_t)b->in_y.floats, 32);
    ds_cuda_launch(b->c, total, dim3((unsigned)blocks), 32 * SUM_BANDS,
                   32 * SUM_BANDS * sizeof(float), t);
}

static void finish_all(const job *b, const float *W, const float *bias) {
    const ds_affiner *ad = b->ad;
    finish_args f = {};
    f.g = *b->g, f.ad = *ad;
    f.bias = bias, f.W = W;
    f.groups = b->groups;
    f.bands = ds_ceil_div((size_t)b->rows, DIRECT_ROWS);
    f.direct = b->direct;
    f.sum_g = b->in_y.sum >= 0 ? b->slots_y + b->in_y.sum : NULL;
    if (b->want_da)
        f.product = ad->side_in ? b->slots_x + b->in_x.product : b->slots_y + b->in_y.product;
    f.dU = b->need_g ? b->slots_y + b->in_y.outer : NULL;
    f.dV = b->need_v ? b->slots_x + b->in_x.outer : NULL;
    f.out_blocks = ds_ceil_div((size_t)ad->m, BLOCK);
    f.in_blocks = b->want_da && ad->side_in ? ds_ceil_div((size_t)ad->n, BLOCK) : 0;
    size_t v = b->need_v && b->g->dV ? (size_t)(ad->segs * ad->r) * (size_t)ad->n : 0;
    int blocks = ad->segs + f.out_blocks + f.in_blocks + ds_ceil_div(v, BLOCK);
    ds_cuda_launch(b->c, finish, dim3((unsigned)blocks), BLOCK, 32 * sizeof(double), f);
    if (b->want_db && ad->side_in)
        ds_cuda_launch(b->c, bias_gradient, dim3((unsigned)ds_ceil_div((size_t)ad->n, 32)), 1024,
                       1024 * sizeof(float), b->g->db, W, f.sum_g, ad->m, ad->n);
}

void ds_cuda_affiner_backward(ds_device *dev, const ds_affiner_grad *g, const ds_affiner *ad,
                              const ds_act *dy, const ds_act *y, const ds_act *x, const ds_act *dx,
                              ds_act *dx_extra, const float *W, const float *bias, int rows) {
    DS_ASSERT(ad->m > 0 && ad->n > 0 && ad->r >= 0 && ad->segs >= 1 && ad->m % ad->segs == 0);
    DS_ASSERT(ad->r == 0 || (ad->s && ad->U && ad->V));
    job b = {};
    b.c = ds_cuda_begin(dev);
    b.g = g, b.ad = ad, b.rows = rows;
    if (rows == 0)
        return;
    needs(&b, dx_extra);
    layout(&b);
    allot(&b, dev->act_size);
    ds_cuda_by_act(dev, [&](auto zero) {
        using T = decltype(zero);
        if (b.need_h || b.need_dz)
            panels(&b, sizeof(T));
        sweeps(&b, ds_ptr<T>(dy), ds_ptr<T>(y), ds_ptr<T>(x), ds_ptr<T>(dx));
        if (b.extra)
            add_extra(&b, ds_ptr<T>(dx_extra));
        if (b.want_da && W)
            recompute(&b, ds_ptr<T>(dy), ds_ptr<T>(x), W);
    });
    if (b.in_x.floats + b.in_y.floats == 0)
        return;
    add_up(&b);
    finish_all(&b, W, bias);
}
