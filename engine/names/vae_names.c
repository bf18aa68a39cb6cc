/* engine/names/vae_names.c - from other programs' VAE files to the names of current diffusers. */
#include "engine/names/vae_names.h"
#include "base/mem.h"
#include "engine/files/foreign_config.h"

#include <stdio.h>
#include <stdlib.h>

enum spelling { CURRENT, OLD, LDM };
enum { NAME_SIZE = 192 };

static const char mark[] = "encoder.conv_in.weight";

static const char *const spelling_names[] = {"diffusers", "diffusers before 0.18", "LDM"};

/* Pieces of canonical names and what stands there instead. */
typedef struct {
    const char *ours, *theirs;
} piece;
static const piece old_pieces[] = {{".to_q.", ".query."},
                                   {".to_k.", ".key."},
                                   {".to_v.", ".value."},
                                   {".to_out.0.", ".proj_attn."},
                                   {NULL, NULL}};
static const piece ldm_pieces[] = {{".to_q.", ".q."},
                                   {".to_k.", ".k."},
                                   {".to_v.", ".v."},
                                   {".to_out.0.", ".proj_out."},
                                   {".group_norm.", ".norm."},
                                   {".mid_block.attentions.0", ".mid.attn_1"},
                                   {".mid_block.resnets.0", ".mid.block_1"},
                                   {".mid_block.resnets.1", ".mid.block_2"},
                                   {".conv_norm_out.", ".norm_out."},
                                   {".conv_shortcut.", ".nin_shortcut."},
                                   {".downsamplers.0.", ".downsample."},
                                   {".upsamplers.0.", ".upsample."},
                                   {".resnets.", ".block."},
                                   {".down_blocks.", ".down."},
                                   {NULL, NULL}};

static void replace(char name[NAME_SIZE], const char *ours, const char *theirs) {
    char *at = strstr(name, ours), rest[NAME_SIZE];
    if (!at)
        return;
    snprintf(rest, sizeof rest, "%s", at + strlen(ours));
    size_t head = (size_t)(at - name);
    snprintf(at, NAME_SIZE - head, "%s%s", theirs, rest);
}

/* LDM counts the decoder's levels from the picture, diffusers from the latents. */
static void turn_levels(char name[NAME_SIZE], int blocks) {
    static const char up[] = ".up_blocks.";
    char *at = strstr(name, up), *end, rest[NAME_SIZE];
    if (!at)
        return;
    long level = strtol(at + sizeof up - 1, &end, 10);
    snprintf(rest, sizeof rest, "%s", end);
    snprintf(at, NAME_SIZE - (size_t)(at - name), ".up.%ld%s", blocks - 1 - level, rest);
}

static void spell(char out[NAME_SIZE], const char *name, enum spelling s, int blocks) {
    snprintf(out, NAME_SIZE, "%s", name);
    for (const piece *p = s == CURRENT ? NULL
                          : s == OLD   ? old_pieces
                                       : ldm_pieces;
         p && p->ours; p++)
        replace(out, p->ours, p->theirs);
    if (s == LDM)
        turn_levels(out, blocks);
}

/* Which spelling the chosen model has. */
static int find_spelling(const ds_weights *w, enum spelling *s, ds_error *err) {
    char name[NAME_SIZE];
    int rc = ds_weights_readable(w, mark, err);
    if (rc)
        return rc;
    if (!ds_weights_find(w, mark))
        return ds_fail(err, DS_EINVAL, "'%.200s' is no VAE (AutoencoderKL): it has no tensor '%s'",
                       ds_weights_path(w), mark);
    for (int k = LDM; k >= 0; k--) {
        *s = (enum spelling)k;
        spell(name, "encoder.mid_block.attentions.0.to_q.weight", *s, 1);
        if (ds_weights_find(w, name))
            return 0;
    }
    return ds_fail(
        err, DS_EINVAL,
        "'%.200s' has no attention in the middle of its encoder: this kind of VAE is not known",
        ds_weights_path(w));
}

/* ---------------------------------------------------------------- configuration */

json_t *ds_vae_config_to_json(const ds_vae_config *c) {
    json_t *channels = json_array();
    for (int i = 0; i < c->blocks; i++)
        json_array_append_new(channels, json_integer(c->channels[i]));
    return json_pack("{s:i, s:i, s:i, s:o, s:i, s:i, s:f}", "in_channels", c->in_channels,
                     "out_channels", c->out_channels, "latent_channels", c->latent_channels,
                     "block_out_channels", channels, "layers_per_block", c->layers,
                     "norm_num_groups", c->groups, "scaling_factor", c->scaling_factor);
}

static int64_t size_of(const ds_weights *w, enum spelling s, const char *name, int dim) {
    char full[NAME_SIZE];
    spell(full, name, s, 1);
    const ds_weights_tensor *t = ds_weights_find(w, full);
    return t && dim < t->ndim ? t->shape[dim] : 0;
}

/* The shapes as a config.json. */
static json_t *config_of_shapes(const ds_weights *w, enum spelling s) {
    json_t *channels = json_array();
    char name[NAME_SIZE];
    int layers = 0;
    for (int i = 0; i < DS_VAE_BLOCKS_MAX; i++) {
        snprintf(name, sizeof name, "encoder.down_blocks.%d.resnets.0.conv1.weight", i);
        int64_t n = size_of(w, s, name, 0);
        if (!n)
            break;
        json_array_append_new(channels, json_integer(n));
    }
    for (; layers < 16; layers++) {
        snprintf(name, sizeof name, "encoder.down_blocks.0.resnets.%d.conv1.weight", layers);
        if (!size_of(w, s, name, 0))
            break;
    }
    return json_pack("{s:I, s:I, s:I, s:o, s:i, s:i}", "in_channels",
                     (json_int_t)size_of(w, s, "encoder.conv_in.weight", 1), "out_channels",
                     (json_int_t)size_of(w, s, "decoder.conv_out.weight", 0), "latent_channels",
                     (json_int_t)size_of(w, s, "post_quant_conv.weight", 0), "block_out_channels",
                     channels, "layers_per_block", layers, "norm_num_groups", 32);
}

static int read_config(const ds_weights *w, enum spelling s, ds_vae_config *c, ds_error *err) {
    const char *own = ds_weights_meta(w, "diffscaler.vae");
    if (own && s == CURRENT)
        return ds_vae_config_parse(c, ds_weights_path(w), own, err);
    const json_t *doc = ds_weights_config(w);
    ds_import_report *report = ds_weights_report(w);
    if (doc && ds_weights_is_file(w) &&
        (strncmp(ds_json_string(doc, "_class_name", "Autoencoder"), "Autoencoder", 11) != 0 ||
         !ds_foreign_is(DS_FOREIGN_VAE, doc))) {
        ds_import_report_ignored(report, "config.json", "it is not of a VAE");
        doc = NULL;
    }
    int rc = doc ? ds_foreign_check(DS_FOREIGN_VAE, "config.json of the VAE", doc, report, err) : 0;
    if (rc)
        return ds_error_prefix(err, "'%.160s'", ds_weights_path(w));
    const char *why = doc ? "config.json does not say it" : "no config.json beside the file";
    if (!json_is_number(json_object_get(doc, "scaling_factor")))
        ds_import_report_assumed(report, "scaling_factor", json_real(0.18215), why);
    if (!doc)
        ds_import_report_assumed(report, "norm_num_groups", json_integer(32), why);
    json_t *made = doc ? NULL : config_of_shapes(w, s);
    char *text = ds_json_canonical(doc ? doc : made);
    rc = ds_vae_config_parse(c, ds_weights_path(w), text, err);
    free(text);
    json_decref(made);
    return rc;
}

/* ---------------------------------------------------------------- tensors */

static int find_tensor(const ds_weights *w, enum spelling s, int blocks, const char *name, int ndim,
                       const int64_t *shape, const ds_weights_tensor **out, ds_error *err) {
    char full[NAME_SIZE];
    spell(full, name, s, blocks);
    const ds_weights_tensor *t;
    int rc = ds_weights_need(w, full, -1, NULL, &t, err);
    if (rc)
        return rc;
    int same = t->ndim >= ndim;
    for (int i = 0; same && i < t->ndim; i++) /* (m,n) may come as a convolution (m,n,1,1) */
        same = t->shape[i] == (i < ndim ? shape[i] : 1);
    return same ? (*out = t, 0) : ds_weights_need(w, full, ndim, shape, out, err);
}

int ds_vae_names_find(const ds_weights *w, const ds_vae_config *c, const char *name, int ndim,
                      const int64_t *shape, const ds_weights_tensor **out, ds_error *err) {
    enum spelling s;
    int rc = find_spelling(w, &s, err);
    return rc ? rc : find_tensor(w, s, c->blocks, name, ndim, shape, out, err);
}

typedef struct {
    const ds_weights *w;
    enum spelling s;
    int blocks, rc;
    size_t count;
    ds_error *err;
} check_state;

static void check_one(void *user, const char *name, int ndim, const int64_t *shape) {
    check_state *k = user;
    const ds_weights_tensor *t;
    if (!k->rc)
        k->rc = find_tensor(k->w, k->s, k->blocks, name, ndim, shape, &t, k->err);
    k->count++;
}

/* Losses and the like, beside the two networks. */
static void say_rest(const ds_weights *w, size_t used) {
    static const char *const own[] = {"encoder.", "decoder.", "quant_conv.", "post_quant_conv."};
    char text[200];
    for (size_t i = 0; ds_weights_count(w) > used && i < ds_weights_count(w); i++) {
        const char *name = ds_weights_at(w, i)->name;
        int known = 0;
        for (int k = 0; k < 4; k++)
            known |= !strncmp(name, own[k], strlen(own[k]));
        if (known)
            continue;
        snprintf(text, sizeof text, "%zu tensors beside the VAE, as '%.100s'",
                 ds_weights_count(w) - used, name);
        ds_import_report_ignored(ds_weights_report(w), text, "no part of an AutoencoderKL");
        return;
    }
}

int ds_vae_names_open(ds_weights *w, ds_vae_config *c, const char **spelling, ds_error *err) {
    static const char *const marks[] = {mark, NULL}, *const side[] = {"encoder.", "decoder."};
    enum spelling s;
    int rc = ds_weights_choose(w, marks, err);
    rc = rc ? rc : find_spelling(w, &s, err);
    rc = rc ? rc : read_config(w, s, c, err);
    if (rc)
        return rc;
    check_state k = {.w = w, .s = s, .blocks = c->blocks, .err = err};
    ds_vae_tensors(c, check_one, &k);
    if (k.rc)
        return k.rc;
    size_t has = 0; /* losses and the like may stand beside, but nothing else in the two networks */
    for (size_t i = 0; i < ds_weights_count(w); i++)
        for (int d = 0; d < 2; d++)
            has += !strncmp(ds_weights_at(w, i)->name, side[d], strlen(side[d]));
    if (has != k.count - 4) /* the two quant convolutions stand outside */
        return ds_fail(err, DS_EINVAL,
                       "'%.200s': its encoder and decoder have %zu tensors, an AutoencoderKL of "
                       "this shape %zu",
                       ds_weights_path(w), has, k.count - 4);
    say_rest(w, k.count);
    *spelling = spelling_names[s];
    return 0;
}
