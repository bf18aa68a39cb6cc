/* kernels/cuda/affiner.h - the parts of the adapter's unfolded forms and gradients.
 *
 * All work is sweeps over a tall matrix A (rows, ld) of activations, which bounds it by memory:
 *   thin    Z = A P       (rows, hidden): h = V x, or U^T dy before s and phi'
 *   outer   O = C^T A     (hidden, ld): the sums behind dU and dV
 *   sums    column sums of A, and of A * A2
 * One sweep can do all three in one reading of A and A2 (affiner_sweep.cu).
 *
 * Hidden columns are in groups of eight, padded with zeros; each segment has `groups` of them
 * (groups_of), so column k of segment g is g * 8 groups + k.
 * bf16 activations use tensor cores: P is rounded to bf16 once, C is split into three bf16 (exact),
 * all sums are in f32.  f32 activations use f32 throughout.
 * What a sweep leaves are partial sums, per tile of columns (thin) or per slot of rows (outer,
 * sums), added afterwards in a fixed order.
 *
 * Memory: everything here is the device's scratch; see affiner_backward.cu for how much.
 */
#ifndef DS_KERNELS_CUDA_AFFINER_H
#define DS_KERNELS_CUDA_AFFINER_H

#include "kernels/cuda/cuda.h"

enum { WINDOW = 64, TILE_ROWS = 16, AFFINER_SETS = 16, AFFINER_UNITS = 256 };

struct alignas(8) ds_word2 {
    uint32_t w[2];
};

/* Which set the rows use: rows [u unit, (u+1) unit) that of set[u].  Plain: one unit, set 0. */
struct ds_units {
    int unit, count;
    unsigned relu; /* bit i: set i has phi = ReLU */
    uint8_t set[AFFINER_UNITS];
};

/* Columns and hidden groups of one side of a layer.  Side x: one segment of n columns that all
 * segs * groups hidden groups use.  Side y: segs segments of m / segs columns. */
struct ds_side {
    int segs, cols, groups; /* of a segment */
    int windows;            /* of WINDOW columns, in a segment */
};

/* A block: cw windows of columns x rw bands of rows, a warp each. */
struct ds_sweep_plan {
    int cw, rw, tiles; /* tiles of cw windows in a segment */
    int span, slots;   /* rows of a slot; slots of a unit */
};

struct ds_sweep {
    ds_side side;
    ds_sweep_plan plan;
    ds_units units;
    int rows, vec;
    const void *a, *a2; /* (rows, segs*cols);  a2 NULL: no product */
    /* thin */
    const uint32_t *panel;
    size_t panel_words; /* of a set */
    float *thin;        /* [tile][row][hidden] */
    /* outer and sums */
    const void *coef; /* f32: (rows, hidden); bf16: fragments of ds_settle_run */
    float *slots;     /* [slot][slot_floats] */
    long slot_floats, at_outer, at_sum, at_product; /* -1: not wanted */
};

/* Groups for rank r: a multiple of what one launch takes. */
static inline int ds_groups_of(int r) {
    int g = (r + 7) / 8;
    return g > 3 && g % 2 && g % 3 ? g + 1 : g;
}

static inline int ds_hidden(const ds_side *s) { return s->segs * s->groups * 8; }

ds_side ds_side_x(const ds_affiner *ad, int groups);
ds_side ds_side_y(const ds_affiner *ad, int groups);

/* thin, outer: what the sweep does (sums go with either).  unit, units: rows of a unit and their
 * number.  The partition of the columns is a function of the side; that of the rows in slots, where
 * sums depend on it, of side and rows. */
ds_sweep_plan ds_sweep_plan_of(const ds_side *side, int unit, int units, int thin, int outer);

/* Launches a sweep over activations of the type of T (zero): float or ds_bf16. */
void ds_sweep_run(ds_cuda *c, const ds_sweep *s, int thin, int outer, int sums, float zero);
void ds_sweep_run(ds_cuda *c, const ds_sweep *s, int thin, int outer, int sums, ds_bf16 zero);

/* ---------------------------------------------------------------- P for a sweep */

struct ds_panel_args {
    const float *matrix[AFFINER_SETS]; /* U (m,r) or V (segs r, n) of each set; NULL where r is 0 */
    int r[AFFINER_SETS];
    int segs, sets; /* segments of the layer */
    ds_side side;
    int from_v; /* matrix is V, side is x; else U and y */
    uint32_t *out;
    size_t words; /* of a set */
};

/* Words of the panel of one set, for activations of act_size bytes. */
size_t ds_panel_words(const ds_side *side, size_t act_size);
void ds_panel_run(ds_cuda *c, const ds_panel_args *p, size_t act_size);

/* ---------------------------------------------------------------- Z from a sweep */

struct ds_settle_args {
    const float *thin; /* [tile][row][hidden] */
    int tiles, rows, hidden;
    ds_units units;    /* where set's relu bit is set: Z (=) max(Z, 0) */
    const float *mask; /* (rows, hidden) or NULL: Z (=) 0 where mask is not > 0 */
    float *out;        /* (rows, hidden) or NULL */
    uint32_t *parts;   /* or NULL: fragments of three bf16 for ds_mma_bf16, ds_parts_words words */
};

static inline size_t ds_parts_words(int rows, int hidden) {
    return (size_t)ds_ceil_div((size_t)rows, TILE_ROWS) * (size_t)(hidden / 8) * 32 * 6;
}
void ds_settle_run(ds_cuda *c, const ds_settle_args *s);

/* ---------------------------------------------------------------- back to the width
 * y_row (=) a y_row + bias + b + s P^T z_row, in place. */

struct ds_expand_set {
    const float *a, *b, *s, *P; /* NULL: ones, zeros; no branch */
    int r, groups;
};

struct ds_expand_args {
    ds_expand_set set[AFFINER_SETS];
    ds_units units;
    const float *z; /* (rows, hidden) */
    int hidden;
    const float *bias;
    void *y;               /* (rows, segs*cols) */
    int segs, cols;        /* of y */
    int from_v, v_segs;    /* P is V (v_segs r, cols): all hidden columns; else U (segs cols, r) */
    int blocks, band, vec; /* blocks of `band` rows in a unit */
};

void ds_expand_run(ds_cuda *c, ds_expand_args *e, float zero);
void ds_expand_run(ds_cuda *c, ds_expand_args *e, ds_bf16 zero);

#endif
