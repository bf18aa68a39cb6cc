/* kernels/ref/layout.c - element-wise ops, and the way between images and tokens. */
#include "kernels/ref/ref.h"

void ds_ref_act_from_f32(ds_device *dev, ds_act *out, const float *x, size_t n) {
    (void)dev;
    if (n)
        memcpy(out, x, n * sizeof *x);
}

void ds_ref_act_to_f32(ds_device *dev, float *out, const ds_act *x, size_t n) {
    (void)dev;
    if (n)
        memcpy(out, x, n * sizeof *out);
}

void ds_ref_fill(ds_device *dev, float *out, float value, size_t n) {
    (void)dev;
    for (size_t i = 0; i < n; i++)
        out[i] = value;
}

void ds_ref_add(ds_device *dev, float *out, const float *x, size_t n) {
    (void)dev;
    for (size_t i = 0; i < n; i++)
        out[i] += x[i];
}

void ds_ref_add_position(ds_device *dev, float *x, const float *pos, int B, int T, int D) {
    (void)dev;
    size_t n = (size_t)T * (size_t)D;
    for (int b = 0; b < B; b++)
        for (size_t i = 0; i < n; i++)
            x[(size_t)b * n + i] += pos[i];
}

/* Index into an image (B,C,S,S). */
static size_t pixel(int b, int c, int y, int x, int C, int S) {
    return (((size_t)b * (size_t)C + (size_t)c) * (size_t)S + (size_t)y) * (size_t)S + (size_t)x;
}

/* Index into tokens: patch (ph,pw) of an image of side S, element k of size floats. */
static size_t token(int b, int ph, int pw, int k, int S, int p, int size) {
    size_t side = (size_t)(S / p);
    return (((size_t)b * side + (size_t)ph) * side + (size_t)pw) * (size_t)size + (size_t)k;
}

void ds_ref_patchify(ds_device *dev, ds_act *tokens, const float *img, int B, int C, int S, int p) {
    (void)dev;
    DS_ASSERT(S % p == 0);
    for (int b = 0; b < B; b++)
        for (int c = 0; c < C; c++)
            for (int y = 0; y < S; y++)
                for (int x = 0; x < S; x++) {
                    int inside = (c * p + y % p) * p + x % p; /* c, row, column */
                    act_f32(tokens)[token(b, y / p, x / p, inside, S, p, C * p * p)] =
                        img[pixel(b, c, y, x, C, S)];
                }
}

void ds_ref_unpatchify(ds_device *dev, float *img, const float *tokens, int B, int C, int S,
                       int p) {
    (void)dev;
    DS_ASSERT(S % p == 0);
    for (int b = 0; b < B; b++)
        for (int c = 0; c < C; c++)
            for (int y = 0; y < S; y++)
                for (int x = 0; x < S; x++) {
                    int inside = (y % p * p + x % p) * C + c; /* row, column, c */
                    img[pixel(b, c, y, x, C, S)] =
                        tokens[token(b, y / p, x / p, inside, S, p, C * p * p)];
                }
}

void ds_ref_unpatchify_backward(ds_device *dev, ds_act *dtokens, const float *dimg, int B, int C,
                                int S, int p) {
    (void)dev;
    DS_ASSERT(S % p == 0);
    for (int b = 0; b < B; b++)
        for (int c = 0; c < C; c++)
            for (int y = 0; y < S; y++)
                for (int x = 0; x < S; x++) {
                    int inside = (y % p * p + x % p) * C + c;
                    act_f32(dtokens)[token(b, y / p, x / p, inside, S, p, C * p * p)] =
                        dimg[pixel(b, c, y, x, C, S)];
                }
}
