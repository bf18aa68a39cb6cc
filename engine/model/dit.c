/* engine/model/dit.c - the list of a DiT's tensors and layers, and its initialisation. */
#include "engine/model/dit.h"
#include "base/mem.h"
#include "base/rng.h"
#include "contract/options.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct {
    unsigned bit;
    const char *name;
} known_targets[] = {
#define TARGET(bit, name) {bit, name},
    DS_TARGETS(TARGET)
#undef TARGET
    /* known in files; no option has them */
    {DS_TARGET_PATCH, "patch"},
    {DS_TARGET_TIME, "time"}};
enum { TARGETS = sizeof known_targets / sizeof known_targets[0] };

const char *ds_target_name(unsigned bit) {
    for (int i = 0; i < TARGETS; i++)
        if (known_targets[i].bit == bit)
            return known_targets[i].name;
    return NULL;
}

unsigned ds_target_bit(const char *name) {
    for (int i = 0; i < TARGETS; i++)
        if (!strcmp(known_targets[i].name, name))
            return known_targets[i].bit;
    return 0;
}

int ds_dit_check(const ds_dit_config *c, ds_error *err) {
    const struct {
        const char *name;
        int value, least, most;
    } limits[] = {{"channels", c->channels, 1, 64},
                  {"side", c->side, 1, 1024},
                  {"patch", c->patch, 1, 64},
                  {"width", c->width, 8, 8192},
                  {"depth", c->depth, 1, 256},
                  {"heads", c->heads, 1, 128},
                  {"classes", c->classes, 0, 10000000},
                  {"mlp_ratio", c->mlp_ratio, 1, 16},
                  {"freq_dim", c->freq_dim, 2, 4096},
                  {"train_steps", c->train_steps, 2, 100000},
                  {"learn_sigma", c->learn_sigma, 0, 1},
                  {"time_shift", c->time_shift, 0, 1},
                  {"guidance_channels", c->guidance_channels, 0, c->channels},
                  {"norm2_eps_e6", c->norm2_eps_e6, 0, 1000000},
                  {"pixel", c->pixel, 0, 1}};
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++)
        if (limits[i].value < limits[i].least || limits[i].value > limits[i].most)
            return ds_fail(err, DS_EINVAL, "model shape: %s is %d, must be %d to %d",
                           limits[i].name, limits[i].value, limits[i].least, limits[i].most);
    if (c->side % c->patch)
        return ds_fail(err, DS_EINVAL, "model shape: side %d is not a multiple of patch %d",
                       c->side, c->patch);
    if (c->width % c->heads || c->width % 4)
        return ds_fail(err, DS_EINVAL,
                       "model shape: width %d must be a multiple of 4 and of heads %d", c->width,
                       c->heads);
    if (!(c->latent_scale >= 0 && c->latent_scale <= 1000))
        return ds_fail(err, DS_EINVAL, "model shape: latent_scale is %g, must be 0 to 1000",
                       c->latent_scale);
    if (c->freq_dim % 2)
        return ds_fail(err, DS_EINVAL, "model shape: freq_dim %d is odd", c->freq_dim);
    return 0;
}

static void add(ds_params *t, int linear, enum ds_param_kind kind, const char *prefix,
                const char *suffix, int ndim, int s0, int s1, int s2, int s3) {
    char name[80];
    snprintf(name, sizeof name, "%s%s", prefix, suffix);
    ds_params_add(t, name, kind, ndim, (int[]){s0, s1, s2, s3}, kind == DS_PARAM_FIXED, linear);
}

static ds_layer_shape plain(const char *name, int m, int n, unsigned targets) {
    ds_layer_shape l = {.m = m, .n = n, .segs = 1, .targets = targets};
    snprintf(l.name, sizeof l.name, "%s", name);
    return l;
}

/* Name, shape and target of layer i: the one place that knows. */
static ds_layer_shape describe(const ds_dit_config *c, int i) {
    const int D = c->width, F = c->mlp_ratio * D, P = c->patch * c->patch;
    if (i == DS_LIN_PATCH)
        return plain("x_embedder.proj", D, c->channels * P, DS_TARGET_PATCH);
    if (i == DS_LIN_TIME0)
        return plain("t_embedder.mlp.0", D, c->freq_dim, DS_TARGET_TIME);
    if (i == DS_LIN_TIME2)
        return plain("t_embedder.mlp.2", D, D, DS_TARGET_TIME);
    if (i == ds_lin_final_adaln(c))
        return plain("final_layer.adaLN_modulation.1", 2 * D, D, DS_TARGET_ADALN);
    if (i == ds_lin_final(c))
        return plain("final_layer.linear", P * ds_dit_out_channels(c), D, DS_TARGET_FINAL);
    const struct {
        const char *name;
        int m, n, segs;
        unsigned targets;
    } in_block[DS_LIN_PER_BLOCK] = {
        {"attn.qkv", 3 * D, D, 3, DS_TARGET_Q | DS_TARGET_K | DS_TARGET_V},
        {"attn.proj", D, D, 1, DS_TARGET_PROJ},
        {"mlp.fc1", F, D, 1, DS_TARGET_FC1},
        {"mlp.fc2", D, F, 1, DS_TARGET_FC2},
        {"adaLN_modulation.1", 6 * D, D, 1, DS_TARGET_ADALN}};
    const int block = (i - DS_LIN_BLOCKS) / DS_LIN_PER_BLOCK,
              which = (i - DS_LIN_BLOCKS) % DS_LIN_PER_BLOCK;
    ds_layer_shape l = plain("", in_block[which].m, in_block[which].n, in_block[which].targets);
    l.segs = in_block[which].segs;
    snprintf(l.name, sizeof l.name, "blocks.%d.%s", block, in_block[which].name);
    return l;
}

/* Weight and bias of layer i.  The patch embedding's weight is stored as a convolution's. */
static void add_layer(ds_params *t, const ds_dit_config *c, int i) {
    ds_layer_shape l = describe(c, i);
    if (i == DS_LIN_PATCH)
        add(t, i, DS_PARAM_WEIGHT, l.name, ".weight", 4, l.m, c->channels, c->patch, c->patch);
    else
        add(t, i, DS_PARAM_WEIGHT, l.name, ".weight", 2, l.m, l.n, 1, 1);
    add(t, i, DS_PARAM_BIAS, l.name, ".bias", 1, l.m, 1, 1, 1);
}

void ds_dit_tensors(ds_params *t, const ds_dit_config *c) {
    const int D = c->width;
    add(t, -1, DS_PARAM_FIXED, "pos_embed", "", 3, 1, ds_dit_tokens(c), D, 1);
    for (int i = DS_LIN_PATCH; i < DS_LIN_BLOCKS; i++)
        add_layer(t, c, i);
    add(t, -1, DS_PARAM_TABLE, "y_embedder.embedding_table", ".weight", 2, c->classes + 1, D, 1, 1);
    for (int i = DS_LIN_BLOCKS; i < ds_lin_final_adaln(c); i++)
        add_layer(t, c, i);
    add_layer(t, c, ds_lin_final(c));
    add_layer(t, c, ds_lin_final_adaln(c));
}

ds_layer_shape *ds_dit_layers(const ds_dit_config *c, const ds_params *table) {
    ds_layer_shape *list = ds_xcalloc((size_t)ds_lin_count(c), sizeof *list);
    for (int i = 0; i < ds_lin_count(c); i++)
        list[i] = describe(c, i);
    for (int e = 0; e < table->count; e++) {
        const ds_param *p = &table->items[e];
        if (p->linear < 0)
            continue;
        if (p->kind == DS_PARAM_WEIGHT)
            list[p->linear].weight = e;
        else if (p->kind == DS_PARAM_BIAS)
            list[p->linear].bias = e;
    }
    return list;
}

/* One half of the 2-D sin-cos embedding: out[0..n) = [sin(pos w_i), cos(pos w_i)], w_i =
 * 10000^(-i/(n/2)). Source: DiT get_1d_sincos_pos_embed_from_grid; float64, then float32. */
static void position_half(float *out, int n, int pos) {
    for (int i = 0; i < n / 2; i++) {
        double w = pow(10000.0, -(double)i / (n / 2.0));
        out[i] = (float)sin(pos * w);
        out[n / 2 + i] = (float)cos(pos * w);
    }
}

void ds_dit_positions(float *pos, const ds_dit_config *c) {
    const int grid = c->side / c->patch, D = c->width;
    for (int row = 0; row < grid; row++)
        for (int col = 0; col < grid; col++) {
            float *token = pos + (size_t)(row * grid + col) * (size_t)D;
            position_half(token, D / 2, col);         /* first half: column */
            position_half(token + D / 2, D / 2, row); /* second half: row */
        }
}

void ds_dit_init(float *data, const ds_params *table, const ds_dit_config *c, uint64_t seed) {
    for (int e = 0; e < table->count; e++) {
        const ds_param *p = &table->items[e];
        float *x = data + p->offset;
        memset(x, 0, p->count * sizeof *x);
        if (p->kind == DS_PARAM_FIXED)
            ds_dit_positions(x, c);
        /* adaLN-Zero: modulation and output layers start at zero */
        const unsigned target = p->linear < 0 ? 0 : describe(c, p->linear).targets;
        int zero = (target & (DS_TARGET_ADALN | DS_TARGET_FINAL)) != 0;
        if (p->kind != DS_PARAM_TABLE && (p->kind != DS_PARAM_WEIGHT || zero))
            continue;
        ds_rng_normal(x, p->count, seed, DS_STREAM_INIT, (uint32_t)e, 0);
        double fan_in = (double)p->count / p->shape[0], fan_out = p->shape[0], std = 0.02;
        if (p->kind == DS_PARAM_WEIGHT && target != DS_TARGET_TIME)
            std = sqrt(2.0 / (fan_in + fan_out)); /* xavier: the variance of the uniform law */
        for (size_t i = 0; i < p->count; i++)
            x[i] = (float)(x[i] * std);
    }
}
