/* kernels/cuda/affiner.cu - the adapter unfolded: y (+=) a y + bias + b + s U phi(V x), with one
 * set or a set per sample; and the small steps between sweeps (affiner.h).
 *
 * Bytes: x is read once (sweep), y read and written once (expand), as the formula asks; h is 4 r a
 * row.  Several tasks in one batch cost what one costs: a block's rows belong to one sample, so to
 * one set, and the sets come as kernel parameters.
 */
#include "kernels/cuda/affiner.h"

#include "kernels/cuda/lowrank.h"

/* ---------------------------------------------------------------- P for a sweep
 * A thread writes the words of one lane of one window and group, in the layout that warp_work reads
 * (affiner_sweep.cu).  bf16: word 2q+i of lane (g, t) is columns 32 (q/2) + 8t + 4 (q%2) + 2i and
 * the next, of hidden column g.  f32: words 2k, 2k+1 are columns 2 lane, 2 lane + 1 of hidden k. */

struct panel_source {
    const float *at; /* of hidden column 0 of the group, column 0 of the window */
    size_t per_hidden, per_column;
    int hidden, columns; /* that there are */
};

__device__ static float panel_number(const panel_source &s, int k, int col) {
    return k < s.hidden && col < s.columns
               ? s.at[(size_t)k * s.per_hidden + (size_t)col * s.per_column]
               : 0.0f;
}

/* Where group `group` (of all segments) of a set lies; hidden columns beyond its rank are zeros. */
__device__ static panel_source source_of(const ds_panel_args &p, int set, int group, int window) {
    int r = p.r[set], groups = (r + 7) / 8, seg, k;
    groups = groups > 3 && groups % 2 && groups % 3 ? groups + 1 : groups; /* ds_groups_of */
    panel_source s = {p.matrix[set], 0, 0, 0, p.side.cols - window * WINDOW};
    if (r == 0 || group >= p.segs * groups)
        return s;
    seg = group / groups;
    k = group % groups * 8;
    s.hidden = r - k;
    size_t col = (size_t)window * WINDOW;
    if (p.from_v) {
        s.per_hidden = (size_t)p.side.cols;
        s.per_column = 1;
        s.at += (size_t)(seg * r + k) * s.per_hidden + col;
    } else {
        s.per_hidden = 1;
        s.per_column = (size_t)r;
        s.at += ((size_t)(seg * p.side.cols) + col) * s.per_column + (size_t)k;
    }
    return s;
}

template <bool BF16> __global__ void panel(ds_panel_args p) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x), lane = i % 32, set = (int)blockIdx.y;
    int window = i / 32 % p.side.windows, group = i / 32 / p.side.windows;
    if (group >= p.side.segs * p.side.groups)
        return;
    panel_source s = source_of(p, set, group, window);
    enum { WORDS = BF16 ? 8 : 16 };
    uint32_t *out = p.out + (size_t)set * p.words + (size_t)i * WORDS;
    int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int w = 0; w < WORDS; w++) {
        int col = BF16 ? 32 * (w / 4) + 8 * t + 4 * (w / 2 % 2) + 2 * (w % 2) : 2 * lane + w % 2;
        float low = panel_number(s, BF16 ? g : w / 2, col);
        if (BF16)
            out[w] = ds_pack_bf16(low, panel_number(s, g, col + 1));
        else
            memcpy(out + w, &low, 4);
    }
}

size_t ds_panel_words(const ds_side *side, size_t act_size) {
    return (size_t)(side->segs * side->groups) * (size_t)side->windows * 32 *
           (act_size == 2 ? 8 : 16);
}

void ds_panel_run(ds_cuda *c, const ds_panel_args *p, size_t act_size) {
    size_t lanes = (size_t)(p->side.segs * p->side.groups) * (size_t)p->side.windows * 32;
    dim3 grid((unsigned)ds_ceil_div(lanes, 128), (unsigned)p->sets);
    if (act_size == 2)
        ds_cuda_launch(c, panel<true>, grid, 128, 0, *p);
    else
        ds_cuda_launch(c, panel<false>, grid, 128, 0, *p);
}

/* ---------------------------------------------------------------- Z from a sweep
 * A thread has rows 2t, 2t+1, 2t+8, 2t+9 of a tile of 16 and hidden column g of a group: what one
 * lane holds of the right side of a product over those rows. */

__device__ static float settled(const ds_settle_args &s, int row, int k) {
    if (row >= s.rows)
        return 0;
    size_t at = (size_t)row * (size_t)s.hidden + (size_t)k;
    float z = 0;
    for (int tile = 0; tile < s.tiles; tile++)
        z += s.thin[(size_t)tile * (size_t)s.rows * (size_t)s.hidden + at];
    if (s.units.relu >> s.units.set[row / s.units.unit] & 1 && !(z > 0))
        z = z != z ? z : 0.0f;
    if (s.mask && !(s.mask[at] > 0))
        z = 0;
    if (s.out)
        s.out[at] = z;
    return z;
}

__global__ void settle(ds_settle_args s) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    int lane = (int)(i % 32), groups = s.hidden / 8, group = (int)(i / 32 % (size_t)groups);
    int row = (int)(i / 32 / (size_t)groups) * TILE_ROWS + 2 * (lane % 4);
    if (row >= s.rows + TILE_ROWS)
        return;
    float z[4];
#pragma unroll
    for (int e = 0; e < 4; e++)
        z[e] = settled(s, row + e / 2 * 8 + e % 2, group * 8 + lane / 4);
    if (!s.parts || row / TILE_ROWS * TILE_ROWS >= s.rows)
        return;
    ds_word2 *out = (ds_word2 *)s.parts + i / 32 * 96 + (size_t)lane;
#pragma unroll
    for (int part = 0; part < 3; part++) { /* what is left after two roundings has 8 bits */
        out[32 * part] = ds_word2{{ds_pack_bf16(z[0], z[1]), ds_pack_bf16(z[2], z[3])}};
#pragma unroll
        for (int e = 0; e < 4; e++)
            z[e] -= ds_float(ds_round_bf16(z[e]));
    }
}

void ds_settle_run(ds_cuda *c, const ds_settle_args *s) {
    size_t lanes = ds_parts_words(s->rows, s->hidden) / 6;
    ds_cuda_launch(c, settle, dim3((unsigned)ds_ceil_div(lanes, 128)), 128, 0, *s);
}

/* ---------------------------------------------------------------- back to the width */

struct expand_place {
    int set, seg, row0, end, col0; /* col0: in the segment */
    int depth;                     /* hidden columns that there are */
};

/* P scaled by s, and z, for hidden columns k0.. of the tile at `row`. */
__device__ static void expand_stage(const ds_expand_args &e, const expand_place &p, float *panel,
                                    float *coef, int row, int k0, int depth, bool with_panel) {
    const ds_expand_set &set = e.set[p.set];
    for (int at = (int)threadIdx.x; with_panel && at < depth * LOW_COLS; at += LOW_BLOCK) {
        int k = e.from_v ? at / LOW_COLS : at % depth, j = e.from_v ? at % LOW_COLS : at / depth;
        int col = p.col0 + j, kk = k0 + k;
        size_t from = e.from_v ? (size_t)kk * (size_t)e.cols + (size_t)col
                               : (size_t)(p.seg * e.cols + col) * (size_t)set.r + (size_t)kk;
        float s = set.s[e.from_v ? kk / set.r : p.seg];
        panel[ds_low_panel_at(k, j)] = col < e.cols ? s * set.P[from] : 0.0f;
    }
    for (int at = (int)threadIdx.x; at < depth * LOW_ROWS; at += LOW_BLOCK) {
        int i = at / depth, k = at % depth, kk = k0 + k;
        int hidden =
            e.from_v ? kk / set.r * set.groups * 8 + kk % set.r : p.seg * set.groups * 8 + kk;
        size_t from = (size_t)(row + i) * (size_t)e.hidden + (size_t)hidden;
        coef[k * LOW_ROWS + i] = row + i < p.end ? e.z[from] : 0.0f;
    }
}

/* y of one row, eight columns. */
template <class T, bool VEC>
__device__ static void expand_row(const ds_expand_args &e, const expand_place &p,
                                  const float add[8], const float scale[8], const float uz[8],
                                  int row, int col, int left) {
    T *y = (T *)e.y + (size_t)row * (size_t)(e.segs * e.cols) + (size_t)(p.seg * e.cols + col);
    float v[8];
    ds_load8<VEC>(v, y, left);
#pragma unroll
    for (int i = 0; i < 8; i++)
        v[i] = scale[i] * v[i] + add[i] + uz[i];
    ds_store8<VEC>(y, v, left);
}

/* Grid: (segments x column tiles, units x blocks of rows). */
template <class T, bool VEC>
__global__ void __launch_bounds__(LOW_BLOCK, 2) expand(ds_expand_args e) {
    DS_SHARED(float, panel);
    int tiles = (int)gridDim.x / e.segs, unit = (int)blockIdx.y / e.blocks;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    expand_place p;
    p.set = e.units.set[unit];
    p.seg = (int)blockIdx.x / tiles;
    p.col0 = (int)blockIdx.x % tiles * LOW_COLS;
    p.row0 = unit * e.units.unit + (int)blockIdx.y % e.blocks * e.band;
    int stop = (unit + 1) * e.units.unit;
    p.end = p.row0 + e.band < stop ? p.row0 + e.band : stop;
    const ds_expand_set &set = e.set[p.set];
    p.depth = set.r * (e.from_v ? e.v_segs : 1);
    float *coef = panel + (p.depth < LOW_DEPTH ? p.depth : LOW_DEPTH) * LOW_COLS;
    int col = p.col0 + lane * 8, left = e.cols - col;
    float add[8], scale[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        size_t at = (size_t)(p.seg * e.cols + col + i);
        scale[i] = set.a && i < left ? set.a[at] : 1.0f;
        add[i] = e.bias && i < left ? e.bias[at] : 0.0f;
        add[i] += set.b && i < left ? set.b[at] : 0.0f;
    }
    for (int row = p.row0; row < p.end; row += LOW_ROWS) {
        float uz[4][8] = {};
        for (int k = 0; k < p.depth; k += LOW_DEPTH) {
            int depth = p.depth - k < LOW_DEPTH ? p.depth - k : LOW_DEPTH;
            __syncthreads();
            expand_stage(e, p, panel, coef, row, k, depth, row == p.row0 || p.depth > LOW_DEPTH);
            __syncthreads();
            ds_low_product(uz, panel, coef, depth);
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (row + warp * 4 + i < p.end && left > 0)
                expand_row<T, VEC>(e, p, add, scale, uz[i], row + warp * 4 + i, col, left);
    }
}

template <class T> static void expand_as(ds_cuda *c, ds_expand_args *e) {
    int depth = 0, tiles = ds_ceil_div((size_t)e->cols, LOW_COLS);
    for (int i = 0; i < AFFINER_SETS; i++) {
        int d = e->set[i].r * (e->from_v ? e->v_segs : 1);
        depth = d > depth ? d : depth;
    }
    e->band = 128;
    e->blocks = ds_ceil_div((size_t)e->units.unit, (size_t)e->band);
    dim3 grid((unsigned)(e->segs * tiles), (unsigned)(e->units.count * e->blocks));
    if (e->cols % 8 == 0 && ds_rows_aligned((T *)e->y, e->segs * e->cols))
        ds_cuda_launch(c, expand<T, true>, grid, LOW_BLOCK, ds_low_shared(depth), *e);
    else
        ds_cuda_launch(c, expand<T, false>, grid, LOW_BLOCK, ds_low_shared(depth), *e);
}

void ds_expand_run(ds_cuda *c, ds_expand_args *e, float) { expand_as<float>(c, e); }
void ds_expand_run(ds_cuda *c, ds_expand_args *e, ds_bf16) { expand_as<ds_bf16>(c, e); }

/* ---------------------------------------------------------------- the two ops */

/* Samples that go in one launch: at most AFFINER_UNITS, of at most AFFINER_SETS sets. */
struct forward {
    ds_units units;
    int sets, first; /* first sample */
    const ds_affiner *set[AFFINER_SETS];
};

static size_t align256(size_t n) { return (n + 255) & ~(size_t)255; }

static int widest(const forward *f) {
    int groups = 0;
    for (int i = 0; i < f->sets; i++) {
        int g = ds_groups_of(f->set[i]->r);
        groups = g > groups ? g : groups;
    }
    return groups;
}

/* h (rows, hidden) of these samples: a panel per set, a sweep over x, and its partial sums. */
template <class T>
static const float *hidden_of(ds_cuda *c, const forward *f, const T *x, int groups) {
    ds_side side = ds_side_x(f->set[0], groups);
    int rows = f->units.count * f->units.unit, hidden = ds_hidden(&side);
    ds_sweep s = {};
    s.side = side;
    s.plan = ds_sweep_plan_of(&side, f->units.unit, f->units.count, 1, 0);
    s.units = f->units;
    s.rows = rows;
    s.vec = ds_rows_aligned(x, side.cols);
    s.a = x;
    s.panel_words = ds_panel_words(&side, sizeof(T));
    size_t panels = align256((size_t)f->sets * s.panel_words * sizeof(uint32_t));
    size_t each = (size_t)rows * (size_t)hidden * sizeof(float);
    char *room = (char *)ds_cuda_scratch(c, panels + align256(each) + (size_t)s.plan.tiles * each);
    float *h = (float *)(room + panels);
    s.panel = (uint32_t *)room;
    s.thin = (float *)(room + panels + align256(each));
    ds_panel_args p = {};
    p.segs = f->set[0]->segs;
    p.sets = f->sets;
    p.side = side;
    p.from_v = 1;
    p.out = (uint32_t *)room;
    p.words = s.panel_words;
    for (int i = 0; i < f->sets; i++) {
        p.matrix[i] = f->set[i]->V;
        p.r[i] = f->set[i]->r;
    }
    ds_panel_run(c, &p, sizeof(T));
    ds_sweep_run(c, &s, 1, 0, 0, T{});
    ds_settle_args z = {s.thin, s.plan.tiles, rows, hidden, f->units, NULL, h, NULL};
    ds_settle_run(c, &z);
    return h;
}

/* whole: also a, b and bias.  y (rows, m) of type Y, x (rows, n) of type T, from sample 0 on. */
template <class T, class Y>
static void run(ds_cuda *c, const forward *f, Y *y, const T *x, const float *bias, int whole) {
    const ds_affiner *ad = f->set[0];
    size_t row = (size_t)f->first * (size_t)f->units.unit;
    int groups = widest(f);
    ds_expand_args e = {};
    if (groups > 0) {
        e.z = hidden_of(c, f, x + row * (size_t)ad->n, groups);
        e.hidden = ad->segs * groups * 8;
    }
    for (int i = 0; i < f->sets; i++) {
        const ds_affiner *set = f->set[i];
        e.set[i] =
            ds_expand_set{whole ? set->a : NULL, whole ? set->b : NULL, set->s, set->U, set->r,
                          ds_groups_of(set->r)};
    }
    e.units = f->units;
    e.bias = whole ? bias : NULL;
    e.y = y + row * (size_t)ad->m;
    e.segs = ad->segs;
    e.cols = ad->m / ad->segs;
    ds_expand_run(c, &e, Y{});
}

static void check(const ds_affiner *ad) {
    DS_ASSERT(ad->m > 0 && ad->n > 0 && ad->r >= 0 && ad->segs >= 1 && ad->m % ad->segs == 0);
    DS_ASSERT(ad->r == 0 || (ad->s && ad->U && ad->V));
}

void ds_cuda_lowrank_forward(ds_device *dev, ds_act *y, const ds_act *x, const ds_affiner *ad,
                             int rows) {
    ds_cuda *c = ds_cuda_begin(dev);
    check(ad);
    if (ad->r == 0 || rows == 0)
        return;
    forward f = {};
    f.units.unit = rows;
    f.units.count = 1;
    f.units.relu = ad->phi_relu ? 1 : 0;
    f.sets = 1;
    f.set[0] = ad;
    ds_cuda_by_act(dev, [&](auto zero) {
        using T = decltype(zero);
        run(c, &f, ds_ptr<T>(y), ds_ptr<T>(x), NULL, 0);
    });
}

/* The next samples that fit in one launch. */
static forward take(const ds_affiner *sets, const int *task, int first, int B, int T) {
    forward f = {};
    f.first = first;
    f.units.unit = T;
    for (int b = first; b < B && f.units.count < AFFINER_UNITS; b++) {
        const ds_affiner *set = &sets[task[b]];
        int i = 0;
        while (i < f.sets && f.set[i] != set)
            i++;
        if (i == AFFINER_SETS)
            break;
        if (i == f.sets) {
            check(set);
            DS_ASSERT(!set->side_in && set->m == sets[task[0]].m && set->n == sets[task[0]].n &&
                      set->segs == sets[task[0]].segs);
            f.set[f.sets++] = set;
            f.units.relu |= (unsigned)(set->phi_relu ? 1 : 0) << i;
        }
        f.units.set[f.units.count++] = (uint8_t)i;
    }
    return f;
}

void ds_cuda_affiner_rows_forward(ds_device *dev, ds_act *y, float *yf, const ds_act *x,
                                  const float *bias, const ds_affiner *sets, const int *task, int B,
                                  int T) {
    ds_cuda *c = ds_cuda_begin(dev);
    for (int b = 0; b < B;) {
        forward f = take(sets, task, b, B, T);
        ds_cuda_by_act(dev, [&](auto zero) {
            using A = decltype(zero);
            if (y)
                run(c, &f, ds_ptr<A>(y), ds_ptr<A>(x), bias, 1);
            else
                run(c, &f, yf, ds_ptr<A>(x), bias, 1);
        });
        b += f.units.count;
    }
}
