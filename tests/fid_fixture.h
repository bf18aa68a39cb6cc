/* tests/fid_fixture.h - weights of FID's network and pictures by a formula: the same numbers as
 * tools/parity/fid_weights.py, so that 24 M random weights need not be stored. */
#ifndef DS_TESTS_FID_FIXTURE_H
#define DS_TESTS_FID_FIXTURE_H

#include "base/mem.h"
#include "engine/fid_net.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    uint32_t h;
} fid_values;

static inline fid_values fid_values_of(const char *name) {
    uint32_t h = 0x811C9DC5u;
    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * 0x01000193u;
    return (fid_values){h};
}

static inline uint32_t fid_word(fid_values v, uint32_t i) {
    uint32_t u = v.h + 0x9E3779B9u * (i + 1);
    u = (u ^ u >> 16) * 0x85EBCA6Bu;
    u = (u ^ u >> 13) * 0xC2B2AE35u;
    return u ^ u >> 16;
}

static inline float fid_value(fid_values v, uint32_t i) {
    return (float)(fid_word(v, i) >> 8) * 0x1p-23f - 1.0f;
}

static inline int fid_ends_with(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return n >= m && !strcmp(name + n - m, end);
}

/* x[i] = base + scale v_i, by the kind of tensor. */
static inline void fid_fill(float *x, const char *name, size_t n, int64_t fan_in) {
    fid_values v = fid_values_of(name);
    float base = 0, scale = 1;
    if (fid_ends_with(name, "conv.weight"))
        scale = (float)sqrt(6.0 / (double)fan_in);
    else if (fid_ends_with(name, "bn.weight"))
        base = 1, scale = 0.25f;
    else if (fid_ends_with(name, "bn.bias") || fid_ends_with(name, "running_mean"))
        scale = 0.25f;
    else if (fid_ends_with(name, "running_var"))
        base = 1, scale = 0.5f;
    else if (!strcmp(name, "fc.weight"))
        scale = (float)(4 * sqrt(3.0 / 2048));
    for (size_t i = 0; i < n; i++) {
        float u = scale * fid_value(v, (uint32_t)i);
        x[i] = base + u;
    }
}

/* Every tensor of the network in file order: fn gets name, shape and numbers. */
typedef void fid_tensor_fn(void *ctx, const char *name, int ndim, const int64_t *shape,
                           const float *x);
static inline void fid_each_tensor(fid_tensor_fn *fn, void *ctx) {
    static const char *const bn[] = {"weight", "bias", "running_mean", "running_var"};
    char unit[64], name[96];
    int64_t shape[4], fc[2] = {DS_INCEPTION_LOGITS, DS_INCEPTION_POOL};
    float *x = ds_xmalloc(sizeof *x * 3000000);
    for (int i = 0; ds_inception_part_unit(DS_INCEPTION_FID, i, unit); i++) {
        ds_inception_unit_shape(DS_INCEPTION_FID, i, shape);
        size_t n = (size_t)(shape[0] * shape[1] * shape[2] * shape[3]);
        snprintf(name, sizeof name, "%s.conv.weight", unit);
        fid_fill(x, name, n, shape[1] * shape[2] * shape[3]);
        fn(ctx, name, 4, shape, x);
        for (int k = 0; k < 4; k++) {
            snprintf(name, sizeof name, "%s.bn.%s", unit, bn[k]);
            fid_fill(x, name, (size_t)shape[0], 0);
            fn(ctx, name, 1, shape, x);
        }
    }
    fid_fill(x, "fc.weight", (size_t)(fc[0] * fc[1]), 0);
    fn(ctx, "fc.weight", 2, fc, x);
    fid_fill(x, "fc.bias", (size_t)fc[0], 0);
    fn(ctx, "fc.bias", 1, fc, x);
    free(x);
}

static inline void fid_add_tensor(void *ctx, const char *name, int ndim, const int64_t *shape,
                                  const float *x) {
    ds_st_writer_add_f32(ctx, name, DS_ST_F32, ndim, shape, x);
}

/* The network as a safetensors file; kind: its metadata diffscaler.kind, or NULL for none. */
static inline char *fid_weights_file(const char *kind, size_t *n) {
    ds_st_writer *w = ds_st_writer_new();
    char *bytes = NULL;
    ds_error err = {0};
    if (kind)
        ds_st_writer_meta(w, "diffscaler.kind", kind);
    fid_each_tensor(fid_add_tensor, w);
    if (ds_st_writer_finish(w, &bytes, n, &err)) {
        fprintf(stderr, "%s\n", err.message);
        abort();
    }
    ds_st_writer_free(w);
    return bytes;
}

/* out (h,w,3): waves whose lengths depend on the picture, and noise. */
static inline void fid_picture(uint8_t *out, int index, int w, int h) {
    char name[32];
    snprintf(name, sizeof name, "picture%d", index);
    fid_values v = fid_values_of(name);
    int share = 32 + index * 37 % 97;
    uint32_t i = 0;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            for (int c = 0; c < 3; c++, i++) {
                int period = 5 + (index * 7 + c * 3) % 23;
                int wave =
                    (x * (1 + index % 3) + y * (1 + (index + c) % 4)) % period * 255 / (period - 1);
                int noise = (int)(fid_word(v, i) >> 24);
                out[i] = (uint8_t)((wave * (128 - share) + noise * share) >> 7);
            }
}

#endif
