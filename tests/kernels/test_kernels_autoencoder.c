/* tests/kernels/test_kernels_autoencoder.c - group normalisation, frames and wide attention of every kernel
 * set against the reference.  All are f32 on every device, so both tolerances are the same. */
#include "tests/fixtures/kernels_ladder.h"

static void tolerate_both(run *r, int o, size_t i, double tol) { tolerate(r, o, i, tol, tol); }

/* m groups, n pixels, D channels */
static const shape norms[] = {{.name = "one", .B = 1, .m = 1, .n = 1, .D = 1},
                              {.name = "one pixel", .B = 1, .m = 2, .n = 1, .D = 6},
                              {.name = "odd", .B = 1, .m = 3, .n = 35, .D = 21},
                              {.name = "vector+1", .B = 1, .m = 1, .n = 19, .D = 17},
                              {.name = "pieces", .B = 1, .m = 32, .n = 1031, .D = 128},
                              {.name = "wide", .B = 1, .m = 32, .n = 67, .D = 512}};

/* Sums of at most 2^17 numbers in double lose nothing that f32 could show, but the mean is taken
 * from the squares in one pass: var loses 2^-52 n (mean^2 + var) / var, far below EPS32 here.  Left
 * are the rounding of eps and of the results. */
static void group_norm(run *r) {
    int C = r->k->D, pixels = r->k->n;
    float *x = numbers(r, (size_t)(pixels * C), 1, 2), *gamma = fixed(r, (size_t)C, 2, 0),
          *beta = fixed(r, (size_t)C, 3, 1);
    for (size_t i = 0; i < (size_t)(pixels * C); i++)
        x[i] = x[i] * (1 + ldexpf((float)(i * 40503 % 65521), -24)) + 3;
    float *scale = out_f32(r, "scale", (size_t)C), *shift = out_f32(r, "shift", (size_t)C);
    r->dev->ops->group_norm_affine(r->dev, scale, shift, x, gamma, beta, r->k->m, 1e-6f, pixels, C);
    for (int c = 0; r->ref && c < C; c++) {
        tolerate_both(r, 0, (size_t)c, EPS32 * fabs((double)scale[c]));
        tolerate_both(r, 1, (size_t)c, EPS32 * (fabs((double)scale[c]) * 8 + 2));
    }
}

/* T rows, n columns, D channels, m left, r right, segs zoom */
static const shape frames[] = {
    {.name = "one", .B = 1, .T = 1, .n = 1, .D = 1, .segs = 1},
    {.name = "odd", .B = 1, .T = 3, .n = 5, .D = 7, .m = 1, .r = 1, .segs = 1},
    {.name = "right", .B = 1, .T = 5, .n = 4, .D = 33, .r = 1, .segs = 1},
    {.name = "zoom", .B = 1, .T = 3, .n = 5, .D = 19, .m = 1, .r = 1, .segs = 2},
    {.name = "zoom 3", .B = 1, .T = 2, .n = 2, .D = 16, .m = 2, .segs = 3},
    {.name = "model", .B = 1, .T = 9, .n = 16, .D = 128, .m = 1, .r = 1, .segs = 1}};

static void frame(run *r) {
    const shape *k = r->k;
    int C = k->D, wide = k->m + k->n * k->segs + k->r, rows = k->T * k->segs;
    size_t in = (size_t)(k->T * k->n * C), out = (size_t)(rows * wide * C);
    float *x = numbers(r, in, 4, 2), *scale = fixed(r, (size_t)C, 5, 0),
          *shift = fixed(r, (size_t)C, 6, 1);
    float *copy = out_f32(r, "copy", out), *moved = out_f32(r, "scaled", out),
          *silu = out_f32(r, "silu", out), *plain = out_f32(r, "silu of x", out);
    const struct ds_ops *ops = r->dev->ops;
    ops->frame_forward(r->dev, copy, x, NULL, NULL, 0, k->segs, k->T, k->n, C, k->m, k->r);
    ops->frame_forward(r->dev, moved, x, scale, shift, 0, k->segs, k->T, k->n, C, k->m, k->r);
    ops->frame_forward(r->dev, silu, x, scale, shift, 1, k->segs, k->T, k->n, C, k->m, k->r);
    ops->frame_forward(r->dev, plain, x, NULL, NULL, 1, k->segs, k->T, k->n, C, k->m, k->r);
    for (size_t i = 0; r->ref && i < out; i++) {
        double z[2] = {moved[i], copy[i]}, y[2] = {silu[i], plain[i]};
        tolerate_both(r, 1, i, EPS32 * fabs(z[0]));
        for (int j = 0; j < 2; j++) /* the sigmoid of an argument that is itself rounded */
            tolerate_both(r, 2 + j, i,
                          fabs(y[j]) * (14 + 5 * fmin(fabs(z[j]), 90)) * EPS32 + 1e-30);
    }
}

static const shape heads[] = {{.name = "one", .B = 1, .T = 1, .D = 1},
                              {.name = "odd", .B = 1, .T = 5, .D = 7},
                              {.name = "tile+1", .B = 1, .T = 33, .D = 17},
                              {.name = "blocks", .B = 1, .T = 101, .D = 65},
                              {.name = "wide", .B = 1, .T = 64, .D = 512}};

/* A score is a sum of D products, |q k| <= 1 here, and enters through e^score: each weight is wrong
 * by (D + 4) EPS32 sum|q k| / sqrt(D) <= (D + 4) EPS32 sqrt(D) relative; then a mean of T values
 * <= 2. */
static void attention(run *r) {
    int T = r->k->T, D = r->k->D;
    size_t n = (size_t)(T * D);
    float *q = numbers(r, n, 7, 0), *k = numbers(r, n, 8, 0), *v = numbers(r, n, 9, 1);
    float *out = out_f32(r, "out", n), *over = out_new(r, "over q", n, 0, 0, ADDED, 7, 0)->data;
    r->dev->ops->attention_wide(r->dev, out, q, k, v, T, D);
    r->dev->ops->attention_wide(r->dev, over, over, k, v, T, D);
    for (size_t i = 0; r->ref && i < n; i++)
        for (int o = 0; o < 2; o++)
            tolerate_both(r, o, i, 2 * EPS32 * ((D + 4) * 2 * sqrt(D) + T + 8));
}

START_TEST(group_normalisation) { ladder(&norms[_i], group_norm, 0); }
END_TEST

START_TEST(framing) { ladder(&frames[_i], frame, 0); }
END_TEST

START_TEST(wide_attention) { ladder(&heads[_i], attention, 0); }
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, group_normalisation, 0, COUNT(norms));
    tcase_add_loop_test(tc, framing, 0, COUNT(frames));
    tcase_add_loop_test(tc, wide_attention, 0, COUNT(heads));
}

int main(void) { return ds_test_main("kernels_autoencoder", register_cases); }
