/* engine/model/dit.c - the list of a DiT's tensors and layers, and its initialisation. */
#include "engine/model/dit.h"
#include "base/rng.h"
#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

int ds_dit_check(const ds_dit_config *c, ds_error *err) {
    const int flow = c->flow.path != DS_FLOW_NONE;
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
                  {"train_steps", c->train_steps, flow ? 0 : 2, flow ? 0 : 100000},
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
    if (flow && !(c->flow.scale > 0 && c->flow.scale <= 1e6))
        return ds_fail(err, DS_EINVAL, "model shape: flow_scale is %g, must be above 0, to 1e6",
                       c->flow.scale);
    if (flow && !(c->flow.shift >= 0.01 && c->flow.shift <= 100))
        return ds_fail(err, DS_EINVAL, "model shape: flow_shift is %g, must be 0.01 to 100",
                       c->flow.shift);
    if (c->freq_dim % 2)
        return ds_fail(err, DS_EINVAL, "model shape: freq_dim %d is odd", c->freq_dim);
    return 0;
}

ds_facts ds_dit_facts(const ds_dit_config *c) {
    return (ds_facts){.channels = c->channels,
                      .side = c->side,
                      .out_channels = ds_dit_out_channels(c),
                      .classes = c->classes,
                      .learn_sigma = c->learn_sigma,
                      .guidance_channels = c->guidance_channels,
                      .pixel = c->pixel,
                      .train_steps = c->train_steps,
                      .beta_start = c->beta_start,
                      .beta_end = c->beta_end,
                      .flow = c->flow,
                      .latent_scale = c->latent_scale,
                      .blocks = c->depth};
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
ds_layer_shape ds_dit_layer(const ds_dit_config *c, int i) {
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
    ds_layer_shape l = ds_dit_layer(c, i);
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
        const unsigned target = p->linear < 0 ? 0 : ds_dit_layer(c, p->linear).targets;
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

/* ---------------------------------------------------------------- in files */

/* Configuration fields as the file spells them: one list for reading and writing. */
/* clang-format off */
#define CONFIG_FIELDS(X)                                                                           \
    X(channels) X(side) X(patch) X(width) X(depth) X(heads) X(mlp_ratio) X(classes) X(learn_sigma) \
    X(freq_dim) X(time_shift) X(guidance_channels) X(pixel) X(train_steps)
/* clang-format on */

static const char *const flow_names[DS_FLOW_PATHS] = {"none", "linear", "gvp"};

/* A file without "flow" predicts noise.  One with it has train_steps 0, which programs that know no
 * flow refuse. */
static int read_flow(ds_flow *f, const json_t *doc, ds_error *err) {
    const char *name = ds_json_string(doc, "flow", flow_names[DS_FLOW_NONE]);
    int path = 0;
    while (path < DS_FLOW_PATHS && strcmp(name, flow_names[path]))
        path++;
    if (path == DS_FLOW_PATHS)
        return ds_fail(err, DS_EINVAL,
                       "the flow '%.40s' is not known to this version: none, linear or gvp", name);
    if (path)
        *f = (ds_flow){.path = (enum ds_flow_path)path,
                       .to_data = ds_json_int(doc, "flow_to_data", 0) != 0,
                       .scale = ds_json_number(doc, "flow_scale", 1),
                       .shift = ds_json_number(doc, "flow_shift", 1)};
    return 0;
}

static void write_flow(json_t *doc, const ds_flow *f) {
    if (f->path == DS_FLOW_NONE)
        return;
    json_object_set_new(doc, "flow", json_string(flow_names[f->path]));
    json_object_set_new(doc, "flow_to_data", json_integer(f->to_data));
    json_object_set_new(doc, "flow_scale", json_real(f->scale));
    json_object_set_new(doc, "flow_shift", json_real(f->shift));
}

int ds_dit_config_read(ds_dit_config *c, const json_t *doc, ds_error *err) {
    *c = (ds_dit_config){0};
    int rc = 0;
    int64_t v = 0;
#define X(field)                                                                                   \
    if (!rc && !(rc = ds_json_need_int(doc, #field, &v, err)))                                     \
        c->field = v < -1 || v > 100000000 ? -1 : (int)v;
    CONFIG_FIELDS(X)
#undef X
    /* Properties that came later: what files without them mean. */
    c->norm2_eps_e6 = (int)ds_json_int(doc, "norm2_eps_e6", 1);
    c->latent_scale = ds_json_number(doc, "latent_scale", c->pixel ? 0 : 0.18215);
    if (!rc)
        rc = ds_json_need_number(doc, "beta_start", &c->beta_start, err);
    if (!rc)
        rc = ds_json_need_number(doc, "beta_end", &c->beta_end, err);
    return rc ? rc : read_flow(&c->flow, doc, err);
}

int ds_dit_config_from_json(ds_dit_config *c, const char *file, const char *text, ds_error *err) {
    json_t *doc;
    int rc = ds_json_parse(file, text, strlen(text), &doc, err);
    if (rc)
        return rc;
    rc = ds_dit_config_read(c, doc, err);
    json_decref(doc);
    if (!rc)
        rc = ds_dit_check(c, err);
    return rc ? ds_error_prefix(err, "base '%s'", file) : 0;
}

json_t *ds_dit_config_to_json(const ds_dit_config *c) {
    json_t *doc = json_object();
#define X(field) json_object_set_new(doc, #field, json_integer(c->field));
    CONFIG_FIELDS(X)
#undef X
    json_object_set_new(doc, "beta_start", json_real(c->beta_start));
    json_object_set_new(doc, "norm2_eps_e6", json_integer(c->norm2_eps_e6));
    json_object_set_new(doc, "beta_end", json_real(c->beta_end));
    json_object_set_new(doc, "latent_scale", json_real(c->latent_scale));
    write_flow(doc, &c->flow);
    return doc;
}
