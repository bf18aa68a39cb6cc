/* engine/names/dit_names.c - from other programs' DiT files to ours. */
#include "engine/names/dit_names.h"
#include "base/fs.h"
#include "base/mem.h"
#include "engine/model/dit.h"
#include "engine/files/foreign_config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { PIECES_MAX = 3, PIPELINE_MAX = 16 << 20, PUBLISHED_STEPS = 1000 };
static const double published_start = 1e-4, published_end = 2e-2;

struct ds_dit_names {
    ds_weights *w;
    ds_dit_config cfg;
    ds_params table;
    int diffusers;
    int rows_known;    /* something says how many classes there are */
    size_t projectors; /* tensors that REPA aligned features with while it trained */
};

/* Facebook's name of a part of the network and what it is called in diffusers, '#' = block. */
static const struct {
    const char *ours, *theirs[PIECES_MAX];
} parts[] = {
    {"x_embedder.proj", {"pos_embed.proj"}},
    {"t_embedder.mlp.0", {"transformer_blocks.#.norm1.emb.timestep_embedder.linear_1"}},
    {"t_embedder.mlp.2", {"transformer_blocks.#.norm1.emb.timestep_embedder.linear_2"}},
    {"y_embedder.embedding_table",
     {"transformer_blocks.#.norm1.emb.class_embedder.embedding_table"}},
    {"blocks.#.adaLN_modulation.1", {"transformer_blocks.#.norm1.linear"}},
    {"blocks.#.attn.qkv",
     {"transformer_blocks.#.attn1.to_q", "transformer_blocks.#.attn1.to_k",
      "transformer_blocks.#.attn1.to_v"}},
    {"blocks.#.attn.proj", {"transformer_blocks.#.attn1.to_out.0"}},
    {"blocks.#.mlp.fc1", {"transformer_blocks.#.ff.net.0.proj"}},
    {"blocks.#.mlp.fc2", {"transformer_blocks.#.ff.net.2"}},
    {"final_layer.linear", {"proj_out_2"}},
    {"final_layer.adaLN_modulation.1", {"proj_out_1"}},
};
enum { PARTS = sizeof parts / sizeof parts[0], FIRST_COPIED = 1, LAST_COPIED = 3 };

typedef char source_name[192];

/* ---------------------------------------------------------------- names */

/* pattern with its '#' replaced, and the suffix behind it. */
static void spell(source_name out, const char *pattern, int block, const char *suffix) {
    const char *hash = strchr(pattern, '#');
    if (hash)
        snprintf(out, sizeof(source_name), "%.*s%d%s%s", (int)(hash - pattern), pattern, block,
                 hash + 1, suffix);
    else
        snprintf(out, sizeof(source_name), "%s%s", pattern, suffix);
}

/* The source's names of a tensor of ours, to be put below each other; 0: it has none. */
static int source_names(const ds_dit_names *d, const ds_param *p, source_name out[PIECES_MAX]) {
    if (!d->diffusers) {
        snprintf(out[0], sizeof out[0], "%s", p->name);
        return 1;
    }
    if (p->kind == DS_PARAM_FIXED) {
        snprintf(out[0], sizeof out[0], "pos_embed.pos_embed");
        return ds_weights_find(d->w, out[0]) ? 1 : 0;
    }
    const char *suffix = strrchr(p->name, '.');
    int block = 0;
    if (!strncmp(p->name, "blocks.", 7))
        block = (int)strtol(p->name + 7, NULL, 10);
    for (int i = 0; i < PARTS; i++) {
        source_name ours;
        spell(ours, parts[i].ours, block, suffix);
        int n = 0;
        if (strcmp(ours, p->name))
            continue;
        for (; n < PIECES_MAX && parts[i].theirs[n]; n++)
            spell(out[n], parts[i].theirs[n], block, suffix);
        return n;
    }
    return 0;
}

/* The model that is meant, and which layout it has. */
static int find_layout(ds_dit_names *d, ds_error *err) {
    static const char *const marks[] = {"x_embedder.proj.weight", "pos_embed.proj.weight", NULL};
    int rc = ds_weights_choose(d->w, marks, err);
    for (int i = 0; !rc && marks[i]; i++) /* of 8 bits, say: a DiT all the same */
        rc = ds_weights_readable(d->w, marks[i], err);
    if (rc)
        return rc;
    d->diffusers = !ds_weights_find(d->w, marks[0]);
    if (d->diffusers && !ds_weights_find(d->w, marks[1]))
        return ds_fail(
            err, DS_EINVAL,
            "'%.200s' is no DiT: it has neither '%s' (facebookresearch/DiT) nor '%s' (diffusers)",
            ds_weights_path(d->w), marks[0], marks[1]);
    return 0;
}

/* ---------------------------------------------------------------- configuration from shapes */

static int need_dims(const ds_dit_names *d, const char *name, int ndim,
                     const ds_weights_tensor **out, ds_error *err) {
    const ds_weights_tensor *t;
    int rc = ds_weights_need(d->w, name, -1, NULL, &t, err);
    if (!rc && t->ndim != ndim)
        rc = ds_fail(err, DS_EINVAL, "'%.200s': tensor '%s' has %d dimensions, expected %d",
                     ds_weights_path(d->w), name, t->ndim, ndim);
    for (int i = 0; !rc && i < ndim; i++)
        if (t->shape[i] < 1 || t->shape[i] > 100000000)
            rc = ds_fail(err, DS_EINVAL, "'%.200s': tensor '%s' has an impossible shape",
                         ds_weights_path(d->w), name);
    *out = rc ? NULL : t;
    return rc;
}

/* Of facebook's layout and of diffusers': every block has its bias. */
static const char *const block_bias[] = {"blocks.#.attn.qkv", "transformer_blocks.#.norm1.linear"};

static int count_blocks(const ds_dit_names *d) {
    for (int n = 0;; n++) {
        source_name name;
        spell(name, block_bias[d->diffusers], n, ".bias");
        if (n > 1000 || !ds_weights_find(d->w, name))
            return n;
    }
}

/* Positions are tokens, so the side follows; diffusers does not store them. */
static int side_from_positions(ds_dit_names *d, ds_error *err) {
    const ds_weights_tensor *t;
    if (d->diffusers)
        return 0;
    int rc = need_dims(d, "pos_embed", 3, &t, err);
    if (rc)
        return rc;
    int grid = (int)lround(sqrt((double)t->shape[1]));
    if ((int64_t)grid * grid != t->shape[1] || grid > 4096)
        return ds_fail(err, DS_EINVAL, "'%.200s': pos_embed has %lld tokens, which are no square",
                       ds_weights_path(d->w), (long long)t->shape[1]);
    d->cfg.side = grid * d->cfg.patch;
    return 0;
}

/* Without it there is no depth.  PEFT puts the weights that it adapts under another name. */
static int need_first_block(const ds_dit_names *d, ds_error *err) {
    const ds_weights_tensor *t;
    for (size_t i = 0; i < ds_weights_count(d->w); i++) {
        const char *name = ds_weights_at(d->w, i)->name;
        if (strstr(name, ".base_layer."))
            return ds_fail(err, DS_EINVAL,
                           "'%.160s' has adapters of PEFT inside ('%.80s'): merge them "
                           "(merge_and_unload) and save the model again",
                           ds_weights_path(d->w), name);
    }
    source_name name;
    spell(name, block_bias[d->diffusers], 0, ".bias");
    return ds_weights_need(d->w, name, -1, NULL, &t, err);
}

static int from_shapes(ds_dit_names *d, ds_error *err) {
    static const char *const names[2][4] = {
        {"x_embedder.proj.weight", "t_embedder.mlp.0.weight", "y_embedder.embedding_table.weight",
         "final_layer.linear.weight"},
        {"pos_embed.proj.weight",
         "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1.weight",
         "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight",
         "proj_out_2.weight"}};
    const ds_weights_tensor *patch, *time, *table, *last, *fc1;
    int rc = need_first_block(d, err);
    rc = rc ? rc : need_dims(d, names[d->diffusers][0], 4, &patch, err);
    rc = rc ? rc : need_dims(d, names[d->diffusers][1], 2, &time, err);
    rc = rc ? rc : need_dims(d, names[d->diffusers][2], 2, &table, err);
    rc = rc ? rc : need_dims(d, names[d->diffusers][3], 2, &last, err);
    rc = rc ? rc
            : need_dims(d,
                        d->diffusers ? "transformer_blocks.0.ff.net.0.proj.weight"
                                     : "blocks.0.mlp.fc1.weight",
                        2, &fc1, err);
    if (rc)
        return rc;
    ds_dit_config *c = &d->cfg;
    *c = (ds_dit_config){.channels = (int)patch->shape[1],
                         .patch = (int)patch->shape[2],
                         .width = (int)patch->shape[0],
                         .depth = count_blocks(d),
                         .classes = (int)table->shape[0] - 1,
                         .freq_dim = (int)time->shape[1],
                         .mlp_ratio = (int)(fc1->shape[0] / patch->shape[0]),
                         .train_steps = PUBLISHED_STEPS,
                         .beta_start = published_start,
                         .beta_end = published_end,
                         .norm2_eps_e6 = d->diffusers ? 10 : 1,
                         .time_shift = d->diffusers};
    int64_t outputs = last->shape[0], plain = (int64_t)c->channels * c->patch * c->patch;
    if (outputs != plain && outputs != 2 * plain)
        return ds_fail(
            err, DS_EINVAL,
            "'%.200s' is no DiT of a known kind: %lld outputs a token, expected %lld or %lld",
            ds_weights_path(d->w), (long long)outputs, (long long)plain, (long long)(2 * plain));
    c->learn_sigma = outputs == 2 * plain;
    /* Pictures have 1 or 3 channels; all else is latents, with the VAE's scale of Stable Diffusion
     * unless the import finds another one. */
    c->pixel = c->channels == 1 || c->channels == 3;
    c->latent_scale = c->pixel ? 0 : 0.18215;
    c->guidance_channels = !d->diffusers && c->channels == 4 ? 3 : 0;
    return side_from_positions(d, err);
}

/* ---------------------------------------------------------------- config.json */

/* Which table is for the config.json beside the weights; -1: it is not about this model, and that
 * is said. */
static int config_kind(const ds_dit_names *d, const json_t *doc) {
    const char *class = ds_json_string(doc, "_class_name", "");
    int other = ds_weights_is_file(d->w) && !strncmp(class, "Autoencoder", 11);
    int diffusers = d->diffusers || strstr(class, "Transformer2DModel");
    if (!other && diffusers && (!ds_weights_is_file(d->w) || ds_foreign_is(DS_FOREIGN_DIT, doc)))
        return DS_FOREIGN_DIT;
    if (!other && !diffusers && ds_foreign_is(DS_FOREIGN_FACEBOOK, doc))
        return DS_FOREIGN_FACEBOOK;
    ds_import_report_ignored(ds_weights_report(d->w), "config.json",
                             "it is not of a DiT of this layout");
    return -1;
}

static int field_agrees(const ds_dit_names *d, const json_t *doc, const char *key, int64_t is,
                        ds_error *err) {
    const json_t *v = json_object_get(doc, key);
    if (!v || json_is_null(v) || (json_is_integer(v) && json_integer_value(v) == is))
        return 0;
    return ds_fail(err, DS_EINVAL,
                   "'%.200s': config.json has another %s than the tensors, which say %lld",
                   ds_weights_path(d->w), key, (long long)is);
}

/* The table of classes has one row more than there are classes, for "no class"; trained with a
 * class dropout of 0 it has not, and its last row is a class as any other. */
static int class_rows(ds_dit_names *d, const json_t *doc, const char *key, const char *where,
                      ds_error *err) {
    int64_t n = ds_json_int(doc, key, -1), rows = (int64_t)d->cfg.classes + 1;
    double dropout =
        ds_json_number(doc, "class_dropout_prob", ds_json_number(doc, "class_dropout", 1));
    if (n == rows || (n < 0 && dropout <= 0))
        return ds_fail(err, DS_EINVAL,
                       "'%.160s': its table of %lld classes has no row for 'no class' (%s: %s): "
                       "it was trained without class dropout, and guidance needs one; such models "
                       "are not supported",
                       ds_weights_path(d->w), (long long)rows, where,
                       n == rows ? key : "class dropout 0");
    if (n >= 0 && n + 1 != rows)
        return ds_fail(err, DS_EINVAL,
                       "'%.200s': %s has another %s than the tensors, which say %lld",
                       ds_weights_path(d->w), where, key, (long long)(rows - 1));
    d->rows_known |= n >= 0;
    return 0;
}

/* Nothing says how many classes there are.  A thousand rows are ImageNet's classes without one for
 * none: of the published models none has 999. */
static int assume_rows(ds_dit_names *d, ds_error *err) {
    int rows = d->cfg.classes + 1;
    if (d->rows_known)
        return 0;
    if (rows == 1000)
        return ds_fail(err, DS_EINVAL,
                       "'%.160s': its table has 1000 rows, as for the classes of ImageNet and none "
                       "for 'no class'; if they are 999 classes and that row, say so in a "
                       "config.json beside it: {\"num_classes\": 999}",
                       ds_weights_path(d->w));
    ds_import_report_assumed(ds_weights_report(d->w), "classes", json_integer(rows - 1),
                             "the last row of its table is taken for 'no class'");
    return 0;
}

static void assume(const ds_dit_names *d, const char *what, json_t *value, const char *why) {
    ds_import_report_assumed(ds_weights_report(d->w), what, value, why);
}

/* config.json of diffusers. */
static int from_config(ds_dit_names *d, const json_t *doc, ds_error *err) {
    ds_dit_config *c = &d->cfg;
    int64_t heads = ds_json_int(doc, "num_attention_heads", 0);
    c->heads = heads > 0 && heads <= 1024 ? (int)heads : 0;
    int64_t side = ds_json_int(doc, "sample_size", 0);
    if (!c->side)
        c->side = side > 0 && side <= 100000 ? (int)side : 0;
    if (d->diffusers) {
        double eps = ds_json_number(doc, "norm_eps", 1e-5);
        if (!json_is_number(json_object_get(doc, "norm_eps")))
            assume(d, "norm_eps", json_real(eps), "config.json does not say it");
        c->norm2_eps_e6 = (int)lround(fmin(fmax(eps, 0), 1) * 1e6);
        if (c->norm2_eps_e6 < 1 || fabs(c->norm2_eps_e6 * 1e-6 - eps) > 1e-9)
            return ds_fail(err, DS_EINVAL,
                           "'%.200s': config.json has norm_eps %g; supported are whole millionths",
                           ds_weights_path(d->w), eps);
    }
    int rc = field_agrees(d, doc, "sample_size", c->side, err);
    rc = rc ? rc : field_agrees(d, doc, "patch_size", c->patch, err);
    rc = rc ? rc : field_agrees(d, doc, "in_channels", c->channels, err);
    rc = rc ? rc : field_agrees(d, doc, "out_channels", ds_dit_out_channels(c), err);
    rc = rc ? rc : field_agrees(d, doc, "num_layers", c->depth, err);
    rc = rc ? rc : class_rows(d, doc, "num_embeds_ada_norm", "config.json", err);
    int64_t head = ds_json_int(doc, "attention_head_dim", 0);
    if (!rc && c->heads && head && (head > 100000 || head * c->heads != c->width))
        rc = ds_fail(err, DS_EINVAL,
                     "'%.200s': config.json has %d heads of %lld, the tensors a width of %d",
                     ds_weights_path(d->w), c->heads, (long long)head, c->width);
    return rc;
}

/* config.json beside a facebook layout: arguments of the model's constructor. */
static int from_arguments(ds_dit_names *d, const json_t *doc, ds_error *err) {
    ds_dit_config *c = &d->cfg;
    int64_t heads = ds_json_int(doc, "num_heads", ds_json_int(doc, "num_attention_heads", 0));
    c->heads = heads > 0 && heads <= 1024 ? (int)heads : 0;
    int rc = field_agrees(d, doc, "hidden_size", c->width, err);
    rc = rc ? rc : field_agrees(d, doc, "depth", c->depth, err);
    rc = rc ? rc : field_agrees(d, doc, "patch_size", c->patch, err);
    rc = rc ? rc : field_agrees(d, doc, "in_channels", c->channels, err);
    rc = rc ? rc : field_agrees(d, doc, "input_size", c->side, err);
    if (!rc && !ds_foreign_agrees(doc, "mlp_ratio", c->mlp_ratio))
        rc = field_agrees(d, doc, "mlp_ratio", c->mlp_ratio, err);
    return rc ? rc : class_rows(d, doc, "num_classes", "config.json", err);
}

/* What the checkpoint keeps of its training program's settings. */
static int from_args(ds_dit_names *d, ds_error *err) {
    const json_t *args = ds_weights_args(d->w), *dropout;
    if (!args)
        return 0;
    int rc = ds_foreign_check(DS_FOREIGN_ARGS, "args in the checkpoint", args,
                              ds_weights_report(d->w), err);
    if (rc) {
        ds_error_prefix(err, "'%.160s'", ds_weights_path(d->w));
        return rc;
    }
    int64_t heads = ds_json_int(args, "num_heads", 0);
    if (!d->cfg.heads && heads > 0 && heads <= 1024)
        d->cfg.heads = (int)heads;
    json_t *rows = json_object();
    if (json_is_integer(json_object_get(args, "num_classes")))
        json_object_set(rows, "num_classes", json_object_get(args, "num_classes"));
    if (!(dropout = ds_foreign_find(args, "class_dropout_prob", 0)))
        dropout = json_object_get(args, "class_dropout");
    if (dropout)
        json_object_set(rows, "class_dropout_prob", (json_t *)(uintptr_t)dropout);
    rc = class_rows(d, rows, "num_classes", "args in the checkpoint", err);
    json_decref(rows);
    return rc;
}

static int is_flow(const json_t *scheduler) {
    return !strncmp(ds_json_string(scheduler, "_class_name", ""), "FlowMatch", 9);
}

/* A document of a diffusers pipeline, beside the model's folder; *doc NULL: there is none. */
static int pipeline_file(const ds_dit_names *d, enum ds_foreign what, const char *name,
                         json_t **doc, ds_error *err) {
    char *path = ds_xasprintf("%s/../%s", ds_weights_dir(d->w), name);
    *doc = NULL;
    int rc = ds_fs_exists(path) ? ds_foreign_read(path, PIPELINE_MAX, doc, err) : 0;
    if (what == DS_FOREIGN_SCHEDULER && is_flow(*doc))
        what = DS_FOREIGN_FLOW;
    if (!rc && *doc)
        rc = ds_foreign_check(what, name, *doc, ds_weights_report(d->w), err);
    if (rc && *doc) {
        json_decref(*doc);
        *doc = NULL;
        ds_error_prefix(err, "'%.160s'", ds_weights_path(d->w));
    }
    free(path);
    return rc;
}

/* The first of the names that the document, or else the checkpoint, has a number for. */
static double schedule_number(const ds_dit_names *d, const json_t *doc, const char *const names[3],
                              double otherwise, int *missing) {
    for (int i = 0; i < 3; i++) {
        const json_t *v = doc ? json_object_get(doc, names[i])
                              : ds_foreign_find(ds_weights_args(d->w), names[i], 0);
        if (json_is_number(v))
            return json_number_value(v);
    }
    ++*missing;
    return otherwise;
}

/* The noise schedule: of a diffusers folder, else of the settings in the checkpoint. */
static int from_scheduler(ds_dit_names *d, ds_error *err) {
    static const char *const start[3] = {"beta_start", "", ""},
                             *const end[3] = {"beta_end", "", ""},
                             *const count[3] = {"num_train_timesteps", "diffusion_steps",
                                                "num_diffusion_timesteps"};
    json_t *doc;
    int rc = d->diffusers ? pipeline_file(d, DS_FOREIGN_SCHEDULER,
                                          "scheduler/scheduler_config.json", &doc, err)
                          : (doc = NULL, 0);
    if (rc)
        return rc;
    if (is_flow(doc)) {
        const int dynamic = ds_json_bool(doc, "use_dynamic_shifting", 0);
        const ds_flow told = {.path = DS_FLOW_LINEAR,
                              .scale = ds_json_number(doc, "num_train_timesteps", 1000),
                              .shift = dynamic ? 1 : ds_json_number(doc, "shift", 1)};
        ds_dit_names_set_flow(d, &told);
        json_decref(doc);
        return 0;
    }
    const char *where = doc ? "scheduler_config.json" : "its settings";
    int missing = 0;
    double steps = schedule_number(d, doc, count, PUBLISHED_STEPS, &missing);
    d->cfg.train_steps = steps < 0 || steps > 1000000 ? 0 : (int)steps;
    d->cfg.beta_start = schedule_number(d, doc, start, published_start, &missing);
    d->cfg.beta_end = schedule_number(d, doc, end, published_end, &missing);
    if (missing) {
        char text[100];
        snprintf(text, sizeof text, "linear, betas %g to %g in %d steps", d->cfg.beta_start,
                 d->cfg.beta_end, d->cfg.train_steps);
        assume(d, "noise schedule", json_string(text),
               doc           ? "scheduler_config.json does not say all of it"
               : missing < 3 ? "the file does not say all of it"
                             : "the file does not say it");
    }
    if (!(d->cfg.beta_start > 0 && d->cfg.beta_start < d->cfg.beta_end && d->cfg.beta_end < 1))
        rc =
            ds_fail(err, DS_EINVAL, "'%.200s': unusable betas in %s", ds_weights_path(d->w), where);
    json_decref(doc);
    return rc;
}

static int from_pipeline(ds_dit_names *d, ds_error *err) {
    json_t *doc;
    int rc = pipeline_file(d, DS_FOREIGN_PIPELINE, "model_index.json", &doc, err);
    size_t labels = json_object_size(json_object_get(doc, "id2label"));
    if (!rc && labels == (size_t)d->cfg.classes + 1) {
        json_t *count = json_pack("{s:I}", "id2label", (json_int_t)labels);
        rc = class_rows(d, count, "id2label", "model_index.json", err);
        json_decref(count);
    }
    json_decref(doc);
    return rc;
}

static int heads_differ(const ds_dit_names *d, int given, ds_error *err) {
    return given && d->cfg.heads && given != d->cfg.heads
               ? ds_fail(err, DS_EINVAL, "'%.200s' has %d heads, not %d", ds_weights_path(d->w),
                         d->cfg.heads, given)
               : 0;
}

/* Heads do not show in the shapes: of the published models they follow from depth and width. */
static int find_heads(ds_dit_names *d, int given, ds_error *err) {
    static const struct {
        int depth, width, heads;
    } published[] = {{12, 384, 6}, {12, 768, 12}, {24, 1024, 16}, {28, 1152, 16}};
    ds_dit_config *c = &d->cfg;
    for (size_t i = 0; !c->heads && i < sizeof published / sizeof published[0]; i++)
        if (published[i].depth == c->depth && published[i].width == c->width) {
            c->heads = published[i].heads;
            assume(d, "heads", json_integer(c->heads),
                   "those of the published model of this depth and width");
        }
    int rc = heads_differ(d, given, err);
    if (given)
        c->heads = given;
    if (!rc && !c->heads)
        return ds_fail(err, DS_EINVAL,
                       "'%.200s': the number of heads of a DiT of depth %d and width %d cannot be "
                       "known from its tensors: "
                       "give it (--heads N)",
                       ds_weights_path(d->w), c->depth, c->width);
    return rc;
}

static int make_config(ds_dit_names *d, int heads, ds_error *err) {
    const char *own = ds_weights_meta(d->w, "diffscaler.config");
    int rc;
    if (own && !d->diffusers) {
        rc = ds_dit_config_from_json(&d->cfg, ds_weights_path(d->w), own, err);
        return rc ? rc : heads_differ(d, heads, err);
    }
    rc = from_shapes(d, err);
    const json_t *doc = ds_weights_config(d->w);
    int kind = !rc && doc ? config_kind(d, doc) : -1;
    if (kind >= 0 && (rc = ds_foreign_check((enum ds_foreign)kind, "config.json", doc,
                                            ds_weights_report(d->w), err)))
        ds_error_prefix(err, "'%.160s'", ds_weights_path(d->w));
    if (!rc && kind >= 0)
        rc = kind == DS_FOREIGN_DIT ? from_config(d, doc, err) : from_arguments(d, doc, err);
    rc = rc ? rc : from_args(d, err);
    rc = rc ? rc : from_pipeline(d, err);
    rc = rc ? rc : assume_rows(d, err);
    rc = rc ? rc : from_scheduler(d, err);
    if (!rc && !d->cfg.side)
        rc = ds_fail(err, DS_EINVAL,
                     "'%.200s': diffusers keeps the side of the pictures in config.json only: give "
                     "the folder that has it",
                     ds_weights_path(d->w));
    rc = rc ? rc : find_heads(d, heads, err);
    if (!rc && (rc = ds_dit_check(&d->cfg, err)))
        ds_error_prefix(err, "'%.200s'", ds_weights_path(d->w));
    return rc;
}

/* ---------------------------------------------------------------- every tensor, and only those */

static int check_entry(const ds_dit_names *d, const ds_param *p, size_t *used, ds_error *err) {
    source_name names[PIECES_MAX];
    int pieces = source_names(d, p, names), rc = 0;
    for (int k = 0; !rc && k < pieces; k++) {
        const ds_weights_tensor *t;
        int64_t shape[4];
        for (int i = 0; i < p->ndim; i++)
            shape[i] = i ? p->shape[i] : p->shape[i] / pieces;
        rc = ds_weights_need(d->w, names[k], p->ndim, shape, &t, err);
    }
    *used += (size_t)pieces;
    return rc;
}

/* Equal as numbers; both are read, so memory is two tensors. */
static int same_numbers(const ds_dit_names *d, const ds_weights_tensor *a,
                        const ds_weights_tensor *b, int *same, ds_error *err) {
    float *x = ds_xmalloc(a->count * sizeof *x), *y = ds_xmalloc(b->count * sizeof *y);
    int rc = ds_weights_read_f32(d->w, a, x, err);
    rc = rc ? rc : ds_weights_read_f32(d->w, b, y, err);
    *same = !rc && !memcmp(x, y, a->count * sizeof *x);
    free(x);
    free(y);
    return rc;
}

/* diffusers has the embedders once per block, but only one of each can be ours. */
static int check_copies(const ds_dit_names *d, size_t *used, ds_error *err) {
    static const char *const suffixes[] = {".weight", ".bias"};
    for (int block = 1; block < d->cfg.depth; block++)
        for (int part = FIRST_COPIED; part <= LAST_COPIED; part++)
            for (int k = 0; k < (part == LAST_COPIED ? 1 : 2); k++) {
                source_name first, copy;
                const ds_weights_tensor *a, *b;
                int same;
                spell(first, parts[part].theirs[0], 0, suffixes[k]);
                spell(copy, parts[part].theirs[0], block, suffixes[k]);
                int rc = ds_weights_need(d->w, first, -1, NULL, &a, err);
                rc = rc ? rc : ds_weights_need(d->w, copy, a->ndim, a->shape, &b, err);
                rc = rc ? rc : same_numbers(d, a, b, &same, err);
                if (rc)
                    return rc;
                if (!same)
                    return ds_fail(err, DS_EINVAL,
                                   "'%.120s': '%s' differs from the copy in block 0: this model "
                                   "was trained with an embedder of "
                                   "its own in each block, which a DiT has not",
                                   ds_weights_path(d->w), copy);
                ++*used;
            }
    return 0;
}

/* "projectors.N.M.weight": of REPA (Yu et al. 2025), whose training alone needs them. */
static int is_projector(const char *name) {
    int n = 0;
    return sscanf(name, "projectors.%*9[0-9].%*9[0-9].%n", &n) == 0 && n > 0 &&
           (!strcmp(name + n, "weight") || !strcmp(name + n, "bias"));
}

/* A tensor that nothing asked for: for the message. */
static const char *first_unknown(const ds_dit_names *d) {
    for (size_t i = 0; i < ds_weights_count(d->w); i++) {
        const char *name = ds_weights_at(d->w, i)->name;
        int known = 0;
        for (int e = 0; !known && e < d->table.count; e++) {
            source_name names[PIECES_MAX];
            for (int k = source_names(d, &d->table.items[e], names) - 1; k >= 0; k--)
                known |= !strcmp(name, names[k]);
        }
        if (!known && !(d->diffusers ? strstr(name, ".norm1.emb.") != NULL : is_projector(name)))
            return name;
    }
    return "?";
}

static void leave_projectors(ds_dit_names *d) {
    for (size_t i = 0; !d->diffusers && i < ds_weights_count(d->w); i++)
        d->projectors += (size_t)is_projector(ds_weights_at(d->w, i)->name);
    if (!d->projectors)
        return;
    d->cfg.guidance_channels = 0; /* its samplers guide all channels */
    ds_import_report_ignored(ds_weights_report(d->w), "projectors.*",
                             "of REPA's training: the network works without them");
}

static int check_tensors(const ds_dit_names *d, ds_error *err) {
    size_t used = d->projectors;
    int rc = 0;
    for (int i = 0; !rc && i < d->table.count; i++)
        rc = check_entry(d, &d->table.items[i], &used, err);
    if (!rc && d->diffusers)
        rc = check_copies(d, &used, err);
    if (!rc && used != ds_weights_count(d->w))
        rc = ds_fail(err, DS_EINVAL,
                     "'%.160s' is no plain DiT: it has %zu tensors, a DiT of this shape %zu; '%s' "
                     "is not known",
                     ds_weights_path(d->w), ds_weights_count(d->w), used, first_unknown(d));
    return rc;
}

int ds_dit_names_open(ds_dit_names **out, ds_weights *w, int heads, ds_error *err) {
    ds_dit_names *d = ds_xcalloc(1, sizeof *d);
    d->w = w;
    int rc = find_layout(d, err);
    rc = rc ? rc : make_config(d, heads, err);
    if (!rc) {
        leave_projectors(d);
        ds_dit_tensors(&d->table, &d->cfg);
        rc = check_tensors(d, err);
    }
    if (rc)
        ds_dit_names_free(d);
    else
        *out = d;
    return rc;
}

void ds_dit_names_free(ds_dit_names *d) {
    if (!d)
        return;
    ds_params_release(&d->table);
    free(d);
}

const ds_dit_config *ds_dit_names_config(const ds_dit_names *d) { return &d->cfg; }
ds_facts ds_dit_names_facts(const ds_dit_names *d) { return ds_dit_facts(&d->cfg); }

json_t *ds_dit_names_json(const ds_dit_names *d, double latent_scale) {
    ds_dit_config c = d->cfg;
    c.latent_scale = latent_scale;
    return ds_dit_config_to_json(&c);
}

int ds_dit_names_repa(const ds_dit_names *d) { return d->projectors > 0; }

void ds_dit_names_set_flow(ds_dit_names *d, const ds_flow *flow) {
    ds_dit_config *c = &d->cfg;
    c->flow = *flow;
    if (flow->path != DS_FLOW_NONE) {
        c->train_steps = 0;
        c->beta_start = c->beta_end = 0;
        ds_import_report_not_assumed(ds_weights_report(d->w), "noise schedule");
    } else if (!c->train_steps) {
        c->train_steps = PUBLISHED_STEPS;
        c->beta_start = published_start;
        c->beta_end = published_end;
    }
}

const ds_params *ds_dit_names_table(const ds_dit_names *d) { return &d->table; }

const char *ds_dit_names_layout(const ds_dit_names *d) {
    return d->diffusers ? "diffusers DiT" : "facebook DiT";
}

/* ---------------------------------------------------------------- reading */

enum ds_st_dtype ds_dit_names_dtype(const ds_dit_names *d, int i) {
    source_name names[PIECES_MAX];
    int pieces = source_names(d, &d->table.items[i], names), bf16 = pieces > 0;
    for (int k = 0; k < pieces; k++)
        bf16 &= ds_weights_find(d->w, names[k])->dtype == DS_ST_BF16;
    return bf16 ? DS_ST_BF16 : DS_ST_F32;
}

static int read_pieces(const ds_dit_names *d, int i, int bf16, void *dst, ds_error *err) {
    source_name names[PIECES_MAX];
    const ds_param *p = &d->table.items[i];
    int pieces = source_names(d, p, names), rc = 0;
    if (!pieces) { /* positions that are computed, not stored */
        ds_dit_positions(dst, &d->cfg);
        return 0;
    }
    for (int k = 0; !rc && k < pieces; k++) {
        const ds_weights_tensor *t = ds_weights_find(d->w, names[k]);
        size_t at = p->count / (size_t)pieces * (size_t)k;
        rc = bf16 ? ds_weights_read_bf16(d->w, t, (uint16_t *)dst + at, err)
                  : ds_weights_read_f32(d->w, t, (float *)dst + at, err);
    }
    return rc;
}

int ds_dit_names_read(const ds_dit_names *d, int i, void *dst, ds_error *err) {
    return read_pieces(d, i, ds_dit_names_dtype(d, i) == DS_ST_BF16, dst, err);
}

int ds_dit_names_read_f32(const ds_dit_names *d, int i, float *dst, ds_error *err) {
    return read_pieces(d, i, 0, dst, err);
}
