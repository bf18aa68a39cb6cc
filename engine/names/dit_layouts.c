/* engine/names/dit_layouts.c - see dit_layouts.h. */
#include "engine/names/dit_layouts.h"
#include "base/mem.h"
#include "engine/model/dit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

const char *ds_layout_reader(enum ds_layout layout) {
    return layout == DS_LAYOUT_DIFFUSERS ? "diffusers" : "facebookresearch/DiT";
}

/* diffusers computes the positions. */
static int positions_are_standard(const ds_base *base) {
    const size_t n = base->table.items[DS_DIT_POSITIONS].count;
    float *want = ds_xmalloc(n * sizeof *want), worst = 0;
    const float *have = ds_base_held(base, DS_DIT_POSITIONS);
    ds_dit_positions(want, ds_dit_config_of(base));
    for (size_t i = 0; i < n; i++)
        worst = fmaxf(worst, fabsf(want[i] - have[i]));
    free(want);
    return worst <= 1e-4f;
}

int ds_layout_check(const ds_base *base, enum ds_layout layout, ds_error *err) {
    if (base->arch != &ds_dit_arch)
        return ds_fail(err, DS_EINVAL,
                       "the names of %s are those of a DiT; base '%s' is of the architecture %s: "
                       "use format safetensors",
                       ds_layout_reader(layout), base->name, base->arch->name);
    const ds_dit_config *c = ds_dit_config_of(base);
    if (layout != DS_LAYOUT_DIFFUSERS)
        return 0;
    if (c->freq_dim != 256 || c->mlp_ratio != 4)
        return ds_fail(err, DS_EINVAL,
                       "diffusers knows freq_dim 256 and mlp_ratio 4 only; this base has %d and "
                       "%d: use format dit or safetensors",
                       c->freq_dim, c->mlp_ratio);
    const ds_flow *f = &c->flow;
    if (f->path != DS_FLOW_NONE &&
        (f->path != DS_FLOW_LINEAR || f->to_data || f->scale < 2 || f->scale != floor(f->scale)))
        return ds_fail(err, DS_EINVAL,
                       "diffusers' schedulers of flows know the linear path, a velocity noise - "
                       "data and a time that counts; this base has the %s path, %s and a time of 0 "
                       "to %g: use format dit or safetensors",
                       f->path == DS_FLOW_LINEAR ? "linear" : "gvp",
                       f->to_data ? "data - noise" : "noise - data", f->scale);
    if (!positions_are_standard(base))
        return ds_fail(err, DS_EINVAL,
                       "diffusers computes position embeddings itself, and those "
                       "of this base are others: use format dit or safetensors");
    return 0;
}

/* ---------------------------------------------------------------- properties */

static int eps6(int e6) { return e6 ? e6 : 1; }

/* What readers assume, whatever is written. */
static ds_layout_properties assumed(const ds_dit_config *c, enum ds_layout layout) {
    return layout == DS_LAYOUT_DIFFUSERS ? (ds_layout_properties){1, c->norm2_eps_e6}
                                         : (ds_layout_properties){0, 1};
}

char *ds_layout_differences(const ds_base *base, enum ds_layout layout) {
    const ds_dit_config *c = ds_dit_config_of(base);
    const ds_layout_properties is = assumed(c, layout);
    int shift = c->time_shift != is.time_shift,
        eps = eps6(c->norm2_eps_e6) != eps6(is.norm2_eps_e6);
    ds_buf b = {0};
    if (shift)
        ds_buf_addf(&b, " it spaces the frequencies of timesteps by 1/%d, the base by 1/%d%s",
                    c->freq_dim / 2 - is.time_shift, c->freq_dim / 2 - c->time_shift,
                    eps ? ";" : ".");
    if (eps)
        ds_buf_addf(&b, " its second LayerNorm has eps %de-6, the base's %de-6.",
                    eps6(is.norm2_eps_e6), eps6(c->norm2_eps_e6));
    return b.data;
}

ds_layout_properties ds_layout_assume(ds_base *base, enum ds_layout layout) {
    ds_dit_config *c = ds_dit_config_of(base);
    const ds_layout_properties was = {c->time_shift, c->norm2_eps_e6};
    ds_layout_undo(base, assumed(c, layout));
    return was;
}

void ds_layout_undo(ds_base *base, ds_layout_properties was) {
    ds_dit_config *c = ds_dit_config_of(base);
    c->time_shift = was.time_shift;
    c->norm2_eps_e6 = was.norm2_eps_e6;
}

/* ---------------------------------------------------------------- names */

static int is_time(int i) { return i == DS_LIN_TIME0 || i == DS_LIN_TIME2; }

void ds_layout_module(const ds_base *base, int i, int g, int block, char out[96]) {
    const ds_dit_config *c = ds_dit_config_of(base);
    static const char *const in_block[] = {NULL, "attn1.to_out.0", "ff.net.0.proj", "ff.net.2",
                                           "norm1.linear"};
    static const char *const qkv[] = {"attn1.to_q", "attn1.to_k", "attn1.to_v"};
    if (i == DS_LIN_PATCH)
        snprintf(out, 96, "pos_embed.proj");
    else if (is_time(i))
        snprintf(out, 96, "transformer_blocks.%d.norm1.emb.timestep_embedder.linear_%d", block,
                 i == DS_LIN_TIME0 ? 1 : 2);
    else if (i == ds_lin_final_adaln(c))
        snprintf(out, 96, "proj_out_1");
    else if (i == ds_lin_final(c))
        snprintf(out, 96, "proj_out_2");
    else {
        int own = (i - DS_LIN_BLOCKS) / DS_LIN_PER_BLOCK,
            which = (i - DS_LIN_BLOCKS) % DS_LIN_PER_BLOCK;
        snprintf(out, 96, "transformer_blocks.%d.%s", own,
                 which == DS_LIN_QKV ? qkv[g] : in_block[which]);
    }
}

int ds_layout_copies(const ds_base *base, int i) {
    return is_time(i) ? ds_dit_config_of(base)->depth : 1;
}

static void layer_tensors(const ds_base *base, int i, int block, ds_layout_tensor *tensor,
                          void *user) {
    const ds_layer_shape *l = &base->layers[i];
    size_t rows = (size_t)(l->m / l->segs);
    char module[96], name[128];
    for (int bias = 0; bias < 2; bias++)
        for (int g = 0; g < l->segs; g++) {
            ds_layout_module(base, i, g, block, module);
            snprintf(name, sizeof name, "%s.%s", module, bias ? "bias" : "weight");
            tensor(user, name, bias ? l->bias : l->weight, (size_t)g * rows, rows);
        }
}

void ds_layout_tensors(const ds_base *base, ds_layout_tensor *tensor, void *user) {
    const ds_dit_config *c = ds_dit_config_of(base);
    char name[128];
    layer_tensors(base, DS_LIN_PATCH, 0, tensor, user);
    for (int i = 0; i < c->depth; i++) {
        layer_tensors(base, DS_LIN_TIME0, i, tensor, user); /* the same in every block */
        layer_tensors(base, DS_LIN_TIME2, i, tensor, user);
        snprintf(name, sizeof name,
                 "transformer_blocks.%d.norm1.emb.class_embedder.embedding_table.weight", i);
        tensor(user, name, base->classes_entry, 0, 0);
        layer_tensors(base, ds_lin_block(i, DS_LIN_ADALN), i, tensor, user);
        for (int which = DS_LIN_QKV; which <= DS_LIN_FC2; which++)
            layer_tensors(base, ds_lin_block(i, which), i, tensor, user);
    }
    layer_tensors(base, ds_lin_final_adaln(c), 0, tensor, user);
    layer_tensors(base, ds_lin_final(c), 0, tensor, user);
}

/* ---------------------------------------------------------------- configurations */

json_t *ds_layout_config(const ds_base *base, int classes) {
    const ds_dit_config *c = ds_dit_config_of(base);
    json_t *doc = json_pack(
        "{s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f}", "_class_name",
        "DiTTransformer2DModel", "_diffusers_version", "0.18.0", "num_attention_heads", c->heads,
        "attention_head_dim", c->width / c->heads, "in_channels", c->channels, "out_channels",
        ds_dit_out_channels(c), "num_layers", c->depth, "sample_size", c->side, "patch_size",
        c->patch, "num_embeds_ada_norm", classes, "norm_eps", 1e-6 * eps6(c->norm2_eps_e6));
    json_object_update_new(doc, json_pack("{s:b, s:s, s:s, s:b, s:f, s:i, s:b}", "attention_bias",
                                          1, "activation_fn", "gelu-approximate", "norm_type",
                                          "ada_norm_zero", "norm_elementwise_affine", 0, "dropout",
                                          0.0, "norm_num_groups", 32, "upcast_attention", 0));
    return doc;
}

char *ds_layout_constructor(const ds_base *base, int classes) {
    const ds_dit_config *c = ds_dit_config_of(base);
    return ds_xasprintf("DiT(input_size=%d, patch_size=%d, in_channels=%d, hidden_size=%d, "
                        "depth=%d, num_heads=%d, num_classes=%d, learn_sigma=%s)",
                        c->side, c->patch, c->channels, c->width, c->depth, c->heads, classes,
                        c->learn_sigma ? "True" : "False");
}
