/* tests/engine_files/test_engine_dit_names.c - the published sizes of DiT, at 256 and 512 px, known from the
 * shapes alone; and a small one in both layouts with a tensor or a setting that is wrong.  The
 * files have a header and a hole where 2.7 GB of numbers would be. */
#include "base/fs.h"
#include "base/mem.h"
#include "engine/model/dit.h"
#include "engine/names/dit_names.h"
#include "tests/harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Parameters at 256 px as counted from facebookresearch/DiT: patch 2, 4, 8. */
static const struct {
    const char *name;
    int depth, width, heads;
    size_t parameters[3];
} sizes[] = {{"S", 12, 384, 6, {32963360, 32945024, 33148160}},
             {"B", 12, 768, 12, {130512416, 130475648, 130881536}},
             {"L", 24, 1024, 16, {458102816, 458053760, 458594816}},
             {"XL", 28, 1152, 16, {675129632, 675074432, 675683072}}};

/* A file of that shape: every tensor of the table with zeros. */
static char *hollow_file(const ds_dit_config *c, const char *prefix) {
    ds_params table = {0};
    ds_dit_tensors(&table, c);
    ds_st_writer *w = ds_st_writer_new();
    for (int i = 0; i < table.count; i++) {
        const ds_param *p = &table.items[i];
        int64_t shape[4];
        char name[160];
        for (int d = 0; d < p->ndim; d++)
            shape[d] = p->shape[d];
        snprintf(name, sizeof name, "%s%s", prefix, p->name);
        ds_st_writer_add(w, name, DS_ST_F32, p->ndim, shape, NULL);
    }
    ds_buf header = {0};
    size_t bytes;
    ck_assert_int_eq(ds_st_writer_header(w, &header, &bytes, NULL), 0);
    char *path = ds_xasprintf("%s/hollow.safetensors", ds_test_tmpdir());
    FILE *f = fopen(path, "wb");
    ck_assert(f && fwrite(header.data, 1, header.len, f) == header.len && !fflush(f));
    ck_assert_int_eq(ftruncate(fileno(f), (off_t)(header.len + bytes)), 0);
    fclose(f);
    ds_buf_release(&header);
    ds_st_writer_free(w);
    ds_params_release(&table);
    return path;
}

START_TEST(published_sizes) {
    static const char *const prefixes[] = {"", "module.", "ema."};
    int size = _i / 3, k = _i % 3;
    for (int side = 32; side <= 64; side *= 2) {
        ds_dit_config c = {.channels = 4,
                           .side = side,
                           .patch = 2 << k,
                           .width = sizes[size].width,
                           .depth = sizes[size].depth,
                           .heads = sizes[size].heads,
                           .mlp_ratio = 4,
                           .classes = 1000,
                           .learn_sigma = 1,
                           .freq_dim = 256,
                           .train_steps = 1000};
        char *path = hollow_file(&c, prefixes[k]);
        ds_weights *w;
        ds_dit_names *d;
        ds_error err;
        ck_assert_msg(!ds_weights_open(&w, path, NULL, &err), "%s", err.message);
        ck_assert_int_eq(ds_dit_names_open(&d, w, sizes[size].heads + 1, &err), DS_EINVAL);
        ck_assert_msg(!ds_dit_names_open(&d, w, 0, &err), "%s", err.message);
        const ds_dit_config *is = ds_dit_names_config(d);
        ck_assert_msg(is->side == side && is->patch == c.patch && is->width == c.width &&
                          is->depth == c.depth && is->heads == c.heads && is->classes == 1000 &&
                          is->learn_sigma && is->mlp_ratio == 4 && is->channels == 4 &&
                          is->freq_dim == 256,
                      "%s/%d at %d", sizes[size].name, c.patch, side * 8);
        ck_assert(!is->time_shift && is->norm2_eps_e6 == 1 && is->guidance_channels == 3 &&
                  !is->pixel && is->latent_scale == 0.18215 && is->train_steps == 1000 &&
                  is->beta_start == 1e-4 && is->beta_end == 2e-2);
        if (side == 32)
            ck_assert_uint_eq(ds_dit_names_table(d)->total, sizes[size].parameters[k]);
        ds_dit_names_free(d);
        ds_weights_close(w);
        unlink(path);
        free(path);
    }
}
END_TEST

/* ---------------------------------------------------------------- a small one, in both layouts */

enum { SIDE = 8, WIDTH = 16, ROWS = 6 };
static const ds_dit_config small = {.channels = 4,
                                    .side = SIDE,
                                    .patch = 2,
                                    .width = WIDTH,
                                    .depth = 2,
                                    .heads = 2,
                                    .mlp_ratio = 4,
                                    .classes = ROWS - 1,
                                    .learn_sigma = 1,
                                    .freq_dim = 8,
                                    .train_steps = 1000};

/* One tensor of another shape (ndim 0: left out, of another name: one more), or of another type. */
typedef struct {
    const char *name;
    int ndim;
    int64_t shape[4];
    enum ds_st_dtype type; /* 0: F64, which no case wants: F32 */
    const char *meta[2];   /* of the file: settings of a training */
    int blocks;            /* biases of so many more blocks */
} edit;

static int edited;

static void put_tensor(ds_st_writer *w, const char *name, int ndim, const int64_t *shape,
                       const edit *e) {
    int mine = e->name && !strcmp(e->name, name);
    edited |= mine;
    if (!mine)
        ds_st_writer_add(w, name, DS_ST_F32, ndim, shape, NULL);
    else if (e->ndim)
        ds_st_writer_add(w, name, e->type ? e->type : DS_ST_F32, e->ndim, e->shape, NULL);
}

/* What diffusers calls it: up to three that are put below each other. */
static int theirs(const char *ours, char out[3][160]) {
    static const char *const pairs[][2] = {
        {"x_embedder.proj.", "pos_embed.proj."},
        {"t_embedder.mlp.0.", "transformer_blocks.%d.norm1.emb.timestep_embedder.linear_1."},
        {"t_embedder.mlp.2.", "transformer_blocks.%d.norm1.emb.timestep_embedder.linear_2."},
        {"y_embedder.embedding_table.",
         "transformer_blocks.%d.norm1.emb.class_embedder.embedding_table."},
        {"adaLN_modulation.1.", "transformer_blocks.%d.norm1.linear."},
        {"attn.proj.", "transformer_blocks.%d.attn1.to_out.0."},
        {"mlp.fc1.", "transformer_blocks.%d.ff.net.0.proj."},
        {"mlp.fc2.", "transformer_blocks.%d.ff.net.2."},
        {"final_layer.linear.", "proj_out_2."},
        {"final_layer.adaLN_modulation.1.", "proj_out_1."}};
    int block = 0, at = 0, n = 0;
    const char *end = strrchr(ours, '.') + 1;
    if (sscanf(ours, "blocks.%d.%n", &block, &at) == 1 && !strncmp(ours + at, "attn.qkv.", 9))
        for (n = 0; n < 3; n++)
            snprintf(out[n], 160, "transformer_blocks.%d.attn1.to_%c.%s", block, "qkv"[n], end);
    for (size_t i = 0; !n && i < sizeof pairs / sizeof *pairs; i++)
        if (!strncmp(ours + at, pairs[i][0], strlen(pairs[i][0]))) {
            int len = snprintf(out[0], 160, "%s", "");
            const char *hash = strstr(pairs[i][1], "%d");
            if (hash)
                len = snprintf(out[0], 160, "%.*s%d%s", (int)(hash - pairs[i][1]), pairs[i][1],
                               block, hash + 2);
            else
                len = snprintf(out[0], 160, "%s", pairs[i][1]);
            snprintf(out[0] + len, 160 - (size_t)len, "%s", end);
            return 1;
        }
    return n;
}

/* model.safetensors in that folder. */
static void small_file(const char *dir, int diffusers, const ds_dit_config *c, const edit *e) {
    ds_params table = {0};
    ds_dit_tensors(&table, c);
    ds_st_writer *w = ds_st_writer_new();
    edited = !e->name;
    for (int i = 0; i < table.count; i++) {
        const ds_param *p = &table.items[i];
        char names[3][160];
        int64_t shape[4];
        for (int d = 0; d < p->ndim; d++)
            shape[d] = p->shape[d];
        if (!diffusers) {
            put_tensor(w, p->name, p->ndim, shape, e);
            continue;
        }
        int n = theirs(p->name, names), copies = strstr(p->name, "_embedder.") && p->name[0] != 'x';
        shape[0] /= n == 3 ? 3 : 1;
        for (int k = 0; k < n; k++)
            for (int block = 0; block < (copies ? c->depth : 1); block++) {
                if (copies)
                    names[k][19] = (char)('0' + block); /* "transformer_blocks." */
                put_tensor(w, names[k], p->ndim, shape, e);
            }
    }
    for (int i = 0; i < e->blocks; i++) {
        char name[80];
        snprintf(name, sizeof name, "blocks.%d.attn.qkv.bias", c->depth + i);
        ds_st_writer_add(w, name, DS_ST_F32, 1, (int64_t[]){1}, NULL);
    }
    if (!edited)
        ds_st_writer_add(w, e->name, DS_ST_F32, e->ndim, e->shape, NULL);
    if (e->meta[0])
        ds_st_writer_meta(w, e->meta[0], e->meta[1]);
    ds_buf header = {0};
    size_t bytes;
    ck_assert_int_eq(ds_st_writer_header(w, &header, &bytes, NULL), 0);
    char *path = ds_xasprintf("%s/model.safetensors", dir);
    FILE *f = fopen(path, "wb");
    ck_assert(f && fwrite(header.data, 1, header.len, f) == header.len && !fflush(f));
    ck_assert_int_eq(ftruncate(fileno(f), (off_t)(header.len + bytes)), 0);
    fclose(f);
    free(path);
    ds_buf_release(&header);
    ds_st_writer_free(w);
    ds_params_release(&table);
}

static void put_json(const char *dir, const char *name, const char *text) {
    char *path = ds_xasprintf("%s/%s", dir, name), *copy = ds_xstrdup(text);
    for (char *p = copy; *p; p++)
        *p = *p == '\'' ? '"' : *p;
    ck_assert_int_eq(ds_fs_write(path, copy, strlen(copy), NULL), 0);
    free(copy);
    free(path);
}

/* A pipeline's folder with what is given; of facebook's layout the file is opened, of diffusers'
 * its folder. */
static int open_small(int diffusers, const ds_dit_config *c, const edit *e, const char *config,
                      const char *scheduler, const char *index, int heads, ds_dit_config *out,
                      ds_error *err) {
    char *dir = ds_xasprintf("%s/pipe", ds_test_tmpdir()),
         *sub = ds_xasprintf("%s/transformer", dir), *other = ds_xasprintf("%s/scheduler", dir);
    ck_assert_int_eq(ds_fs_remove(dir, NULL), 0);
    ck_assert(!mkdir(dir, 0700) && !mkdir(sub, 0700) && !mkdir(other, 0700));
    small_file(sub, diffusers, c, e);
    if (config)
        put_json(sub, "config.json", config);
    if (scheduler)
        put_json(other, "scheduler_config.json", scheduler);
    if (index)
        put_json(dir, "model_index.json", index);
    char *path = diffusers ? ds_xstrdup(sub) : ds_xasprintf("%s/model.safetensors", sub);
    ds_weights *w = NULL;
    ds_dit_names *d = NULL;
    *err = (ds_error){0};
    int rc = ds_weights_open(&w, path, NULL, err);
    rc = rc ? rc : ds_dit_names_open(&d, w, heads, err);
    if (!rc) {
        *out = *ds_dit_names_config(d);
        ck_assert_str_eq(ds_dit_names_layout(d), diffusers ? "diffusers DiT" : "facebook DiT");
    }
    ds_dit_names_free(d);
    ds_weights_close(w);
    free(path);
    free(other);
    free(sub);
    free(dir);
    return rc;
}

#define OURS 0
#define THEIRS 1
#define EVERYTHING                                                                                 \
    "{'num_attention_heads':2,'sample_size':8,'norm_eps':1e-6,'num_embeds_ada_norm':5}"
#define T0 "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1.weight"
#define T1 "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.weight"
static const struct {
    int layout;
    edit e;
    const char *says; /* NULL: is right */
} tensors[] = {
    {OURS, {0}, NULL},
    {THEIRS, {0}, NULL},
    {OURS, {.name = "x_embedder.proj.weight"}, "is no DiT: it has neither"},
    {OURS,
     {.name = "x_embedder.proj.weight", .ndim = 3, .shape = {16, 4, 4}},
     "'x_embedder.proj.weight' has 3 dimensions, expected 4"},
    {OURS,
     {.name = "x_embedder.proj.weight", .ndim = 4, .shape = {16, 0, 2, 2}},
     "impossible shape"},
    {OURS,
     {.name = "x_embedder.proj.weight", .ndim = 4, .shape = {16, 4, 2, 3}},
     "has shape [16,4,2,3], expected [16,4,2,2]"},
    {OURS, {.name = "x_embedder.proj.bias"}, "no tensor 'x_embedder.proj.bias'"},
    {OURS, {.name = "t_embedder.mlp.0.weight"}, "no tensor 't_embedder.mlp.0.weight'"},
    {OURS,
     {.name = "t_embedder.mlp.0.weight", .ndim = 1, .shape = {16}},
     "'t_embedder.mlp.0.weight' has 1 dimensions, expected 2"},
    {OURS,
     {.name = "y_embedder.embedding_table.weight"},
     "no tensor 'y_embedder.embedding_table.weight'"},
    {OURS,
     {.name = "y_embedder.embedding_table.weight", .ndim = 3, .shape = {6, 16, 1}},
     "'y_embedder.embedding_table.weight' has 3 dimensions, expected 2"},
    {OURS, {.name = "final_layer.linear.weight"}, "no tensor 'final_layer.linear.weight'"},
    {OURS,
     {.name = "final_layer.linear.weight", .ndim = 1, .shape = {32}},
     "'final_layer.linear.weight' has 1 dimensions, expected 2"},
    {OURS,
     {.name = "final_layer.linear.weight", .ndim = 2, .shape = {33, 16}},
     "33 outputs a token, expected 16 or 32"},
    {OURS, {.name = "blocks.0.mlp.fc1.weight"}, "no tensor 'blocks.0.mlp.fc1.weight'"},
    {OURS,
     {.name = "blocks.0.mlp.fc1.weight", .ndim = 3, .shape = {64, 16, 1}},
     "'blocks.0.mlp.fc1.weight' has 3 dimensions, expected 2"},
    {OURS, {.name = "blocks.0.attn.qkv.bias"}, "no tensor 'blocks.0.attn.qkv.bias'"},
    {OURS, {.name = "blocks.1.attn.qkv.bias"}, "'blocks.1.adaLN_modulation.1.bias' is not known"},
    {OURS, {.name = "blocks.1.attn.proj.bias"}, "no tensor 'blocks.1.attn.proj.bias'"},
    {OURS, {.blocks = 1500}, "depth is 1001, must be 1 to 256"},
    {OURS, {.name = "pos_embed"}, "no tensor 'pos_embed'"},
    {OURS,
     {.name = "pos_embed", .ndim = 2, .shape = {16, 16}},
     "'pos_embed' has 2 dimensions, expected 3"},
    {OURS,
     {.name = "pos_embed", .ndim = 3, .shape = {1, 15, 16}},
     "15 tokens, which are no square"},
    {OURS,
     {.name = "pos_embed", .ndim = 3, .shape = {1, 17, 16}},
     "17 tokens, which are no square"},
    {OURS,
     {.name = "pos_embed", .ndim = 3, .shape = {1, 16, 8}},
     "has shape [1,16,8], expected [1,16,16]"},
    {OURS, {.name = "extra.weight", .ndim = 1, .shape = {1}}, "'extra.weight' is not known"},
    {OURS,
     {.name = "blocks.0.attn.qkv.base_layer.weight", .ndim = 1, .shape = {1}},
     "adapters of PEFT"},
    {THEIRS, {.name = "pos_embed.proj.weight"}, "is no DiT: it has neither"},
    {THEIRS, {.name = "pos_embed.proj.weight", .ndim = 3, .shape = {16, 4, 4}}, "has 3 dimensions"},
    {THEIRS, {.name = "pos_embed.pos_embed", .ndim = 3, .shape = {1, 16, 16}}, NULL},
    {THEIRS,
     {.name = "pos_embed.pos_embed", .ndim = 3, .shape = {1, 15, 16}},
     "has shape [1,15,16]"},
    {THEIRS, {.name = T0}, "no tensor '" T0 "'"},
    {THEIRS, {.name = T0, .ndim = 1, .shape = {16}}, "has 1 dimensions"},
    {THEIRS, {.name = T1}, "no tensor '" T1 "'"},
    {THEIRS, {.name = T1, .ndim = 2, .shape = {16, 9}}, "has shape [16,9], expected [16,8]"},
    {THEIRS,
     {.name = "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"},
     "class_embedder"},
    {THEIRS,
     {.name = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_2.bias"},
     "linear_2.bias"},
    {THEIRS, {.name = "transformer_blocks.0.attn1.to_k.weight"}, "attn1.to_k.weight"},
    {THEIRS, {.name = "transformer_blocks.1.norm1.linear.bias"}, "is not known"},
    {THEIRS, {.name = "transformer_blocks.0.norm1.linear.bias"}, "norm1.linear.bias"},
    {THEIRS,
     {.name = "transformer_blocks.0.ff.net.0.proj.weight", .ndim = 1, .shape = {64}},
     "has 1 dim"},
    {THEIRS, {.name = "proj_out_2.weight", .ndim = 2, .shape = {31, 16}}, "31 outputs a token"},
    {THEIRS, {.name = "norm.weight", .ndim = 1, .shape = {1}}, "'norm.weight' is not known"},
};

START_TEST(one_tensor_is_wrong) {
    ds_dit_config c;
    ds_error err;
    int diffusers = tensors[_i].layout;
    int rc = open_small(diffusers, &small, &tensors[_i].e, diffusers ? EVERYTHING : NULL, NULL,
                        NULL, 2, &c, &err);
    ck_assert_msg(rc == (tensors[_i].says ? DS_EINVAL : 0), "case %d: %d %s", _i, rc, err.message);
    if (rc)
        ck_assert_msg(strstr(err.message, tensors[_i].says) != NULL, "case %d: %s", _i,
                      err.message);
    else
        ck_assert(c.side == 8 && c.patch == 2 && c.width == 16 && c.depth == 2 && c.heads == 2 &&
                  c.mlp_ratio == 4 && c.classes == 5 && c.learn_sigma && c.freq_dim == 8 &&
                  !c.pixel && c.guidance_channels == (diffusers ? 0 : 3) &&
                  c.time_shift == diffusers && c.norm2_eps_e6 == 1);
}
END_TEST

#define FB(fields) OURS, "{'num_heads':2" fields "}", NULL, NULL
#define DF(fields)                                                                                 \
    THEIRS, "{'num_attention_heads':2,'sample_size':8,'norm_eps':1e-6" fields "}", NULL, NULL
#define SCHEDULER(text) THEIRS, EVERYTHING, text, NULL
#define LABELS(n)                                                                                  \
    THEIRS, "{'num_attention_heads':2,'sample_size':8,'norm_eps':1e-6}", NULL,                     \
        "{'id2label':{" n "}}"
static const struct {
    int layout;
    const char *config, *scheduler, *index, *meta[2];
    int heads;
    const char *says; /* NULL: is right */
} settings[] = {
    {FB(""), {0}, 0, NULL},
    {FB(""), {0}, 2, NULL},
    {FB(""), {0}, 3, "has 2 heads, not 3"},
    {OURS,
     NULL,
     NULL,
     NULL,
     {0},
     0,
     "number of heads of a DiT of depth 2 and width 16 cannot be known"},
    {OURS, "{'num_heads':1025}", NULL, NULL, {0}, 0, "cannot be known"},
    {OURS, "{'num_heads':0}", NULL, NULL, {0}, 0, "cannot be known"},
    {OURS, "{'num_heads':3}", NULL, NULL, {0}, 0, "multiple of 4 and of heads 3"},
    {OURS, "{'num_attention_heads':2,'hidden_size':16}", NULL, NULL, {0}, 0, NULL},
    {FB(",'hidden_size':16,'depth':2,'patch_size':2,'in_channels':4,'input_size':8,'mlp_ratio':4."
        "0"),
     {0},
     0,
     NULL},
    {FB(",'hidden_size':null,'depth':null"), {0}, 0, NULL},
    {FB(",'hidden_size':17"), {0}, 0, "another hidden_size than the tensors, which say 16"},
    {FB(",'depth':3"), {0}, 0, "another depth than the tensors, which say 2"},
    {FB(",'patch_size':4"), {0}, 0, "another patch_size than the tensors, which say 2"},
    {FB(",'in_channels':3"), {0}, 0, "another in_channels than the tensors, which say 4"},
    {FB(",'input_size':16"), {0}, 0, "another input_size than the tensors, which say 8"},
    {FB(",'mlp_ratio':3"), {0}, 0, "another mlp_ratio than the tensors, which say 4"},
    {FB(",'num_classes':5"), {0}, 0, NULL},
    {FB(",'num_classes':4"),
     {0},
     0,
     "config.json has another num_classes than the tensors, which say 5"},
    {FB(",'num_classes':6"),
     {0},
     0,
     "its table of 6 classes has no row for 'no class' (config.json"},
    {FB(",'num_classes':7"), {0}, 0, "another num_classes"},
    {FB(",'class_dropout_prob':0"), {0}, 0, "class dropout 0"},
    {FB(",'class_dropout_prob':0.1"), {0}, 0, NULL},
    {FB(",'num_classes':5,'class_dropout_prob':0"), {0}, 0, NULL},
    {FB(",'unknown':1"), {0}, 0, "'unknown' is not known"},
    {OURS, NULL, NULL, NULL, {"num_heads", "2"}, 0, NULL},
    {OURS, NULL, NULL, NULL, {"config", "{\"num_heads\":2,\"num_classes\":5}"}, 0, NULL},
    {OURS,
     NULL,
     NULL,
     NULL,
     {"config", "{\"num_heads\":2,\"num_classes\":6}"},
     0,
     "(args in the checkpoint"},
    {OURS,
     NULL,
     NULL,
     NULL,
     {"config", "{\"num_heads\":2,\"num_classes\":4}"},
     0,
     "another num_classes"},
    {OURS,
     NULL,
     NULL,
     NULL,
     {"config", "{\"num_heads\":2,\"class_dropout_prob\":0}"},
     0,
     "class dropout 0"},
    {OURS,
     NULL,
     NULL,
     NULL,
     {"config", "{\"num_heads\":2,\"class_dropout\":0}"},
     0,
     "class dropout 0"},
    {OURS,
     NULL,
     NULL,
     NULL,
     {"config", "{\"num_heads\":2,\"predict_xstart\":true}"},
     0,
     "predict_xstart"},
    {OURS,
     NULL,
     NULL,
     NULL,
     {"config", "{\"num_heads\":2,\"beta_end\":2}"},
     0,
     "unusable betas in its settings"},
    {FB(""), {"num_heads", "4"}, 0, NULL}, /* config.json goes before */
    {DF(""), {0}, 0, NULL},
    {DF(",'num_layers':2,'patch_size':2,'in_channels':4,'out_channels':8,'attention_head_dim':8"),
     {0},
     0,
     NULL},
    {DF(",'num_layers':3"), {0}, 0, "another num_layers than the tensors, which say 2"},
    {DF(",'patch_size':4"), {0}, 0, "another patch_size"},
    {DF(",'in_channels':8"), {0}, 0, "another in_channels"},
    {DF(",'out_channels':4"), {0}, 0, "another out_channels than the tensors, which say 8"},
    {DF(",'out_channels':null"), {0}, 0, NULL},
    {DF(",'num_embeds_ada_norm':6"), {0}, 0, "no row for 'no class'"},
    {DF(",'num_embeds_ada_norm':3"), {0}, 0, "another num_embeds_ada_norm"},
    {DF(",'attention_head_dim':9"), {0}, 0, "2 heads of 9, the tensors a width of 16"},
    {DF(",'attention_head_dim':4294967304"), {0}, 0, "heads of"},
    {THEIRS,
     "{'num_attention_heads':2}",
     NULL,
     NULL,
     {0},
     0,
     "the side of the pictures in config.json"},
    {THEIRS, "{'sample_size':8}", NULL, NULL, {0}, 0, "cannot be known"},
    {THEIRS,
     "{'num_attention_heads':2,'sample_size':9}",
     NULL,
     NULL,
     {0},
     0,
     "side 9 is not a multiple"},
    {THEIRS,
     "{'num_attention_heads':2,'sample_size':-8}",
     NULL,
     NULL,
     {0},
     0,
     "another sample_size"},
    {THEIRS,
     "{'num_attention_heads':2,'sample_size':8,'norm_eps':0}",
     NULL,
     NULL,
     {0},
     0,
     "norm_eps 0; supported are whole millionths"},
    {THEIRS,
     "{'num_attention_heads':2,'sample_size':8,'norm_eps':-1e-6}",
     NULL,
     NULL,
     {0},
     0,
     "norm_eps"},
    {THEIRS,
     "{'num_attention_heads':2,'sample_size':8,'norm_eps':1.5e-6}",
     NULL,
     NULL,
     {0},
     0,
     "norm_eps"},
    {THEIRS, "{'num_attention_heads':2,'sample_size':8,'norm_eps':3e-6}", NULL, NULL, {0}, 0, NULL},
    {SCHEDULER("{'beta_start':0.001,'beta_end':0.01,'num_train_timesteps':500}"), {0}, 0, NULL},
    {SCHEDULER("{}"), {0}, 0, NULL},
    {SCHEDULER("{'beta_start':0.02,'beta_end':0.02}"),
     {0},
     0,
     "unusable betas in scheduler_config.json"},
    {SCHEDULER("{'beta_start':0}"), {0}, 0, "unusable betas"},
    {SCHEDULER("{'beta_end':1}"), {0}, 0, "unusable betas"},
    {SCHEDULER("{'num_train_timesteps':1}"), {0}, 0, "train_steps is 1, must be 2 to 100000"},
    {SCHEDULER("{'num_train_timesteps':-5}"), {0}, 0, "train_steps is 0"},
    {SCHEDULER("{'prediction_type':'sample'}"), {0}, 0, "prediction_type"},
    {SCHEDULER("{'beta_start'"), {0}, 0, "scheduler_config.json"},
    {LABELS("'0':'a'"), {0}, 0, NULL},
    {LABELS("'0':'a','1':'b','2':'c','3':'d','4':'e'"), {0}, 0, NULL},
    {LABELS("'0':'a','1':'b','2':'c','3':'d','4':'e','5':'f'"),
     {0},
     0,
     "(model_index.json: id2label)"},
    {THEIRS, EVERYTHING, NULL, "{'id2label':[1]}", {0}, 0, "id2label"},
    {THEIRS, EVERYTHING, NULL, "{'id2label'", {0}, 0, "model_index.json"},
};

START_TEST(one_setting_is_wrong) {
    ds_dit_config c;
    ds_error err;
    edit e = {.meta = {settings[_i].meta[0], settings[_i].meta[1]}};
    int rc = open_small(settings[_i].layout, &small, &e, settings[_i].config,
                        settings[_i].scheduler, settings[_i].index, settings[_i].heads, &c, &err);
    ck_assert_msg(rc == (settings[_i].says ? DS_EINVAL : 0), "case %d: %d %s", _i, rc, err.message);
    if (rc) {
        ck_assert_msg(strstr(err.message, settings[_i].says) != NULL, "case %d: %s", _i,
                      err.message);
        const char *path = strstr(err.message, "/pipe/"); /* the file is named, once */
        ck_assert_msg(path && !strstr(path + 1, "/pipe/"), "case %d: %s", _i, err.message);
        return;
    }
    const char *scheduler = settings[_i].scheduler;
    int other = scheduler && strlen(scheduler) > 2;
    ck_assert(c.heads == 2 && c.side == 8 && c.train_steps == (other ? 500 : 1000) &&
              c.beta_start == (other ? 0.001 : 1e-4) && c.beta_end == (other ? 0.01 : 2e-2));
    const char *eps = settings[_i].config ? strstr(settings[_i].config, "norm_eps") : NULL;
    ck_assert_int_eq(c.norm2_eps_e6, eps && eps[10] == '3' ? 3 : 1);
}
END_TEST

/* What is not said is assumed; but 1000 rows are ImageNet's classes without one for none. */
START_TEST(a_thousand_rows) {
    ds_dit_config c = small, got;
    ds_error err;
    c.classes = 999;
    ck_assert_int_eq(open_small(0, &c, &(edit){0}, NULL, NULL, NULL, 2, &got, &err), DS_EINVAL);
    ck_assert_msg(strstr(err.message, "has 1000 rows") != NULL, "%s", err.message);
    ck_assert_int_eq(
        open_small(0, &c, &(edit){0}, "{'num_classes':999}", NULL, NULL, 2, &got, &err), 0);
    ck_assert_int_eq(got.classes, 999);
    c.classes = 1000;
    ck_assert_int_eq(open_small(0, &c, &(edit){0}, NULL, NULL, NULL, 2, &got, &err), 0);
    ck_assert_int_eq(open_small(1, &small, &(edit){0}, "{'num_attention_heads':2,'sample_size':8}",
                                NULL, NULL, 0, &got, &err),
                     0);
    ck_assert_int_eq(got.norm2_eps_e6, 10); /* diffusers' own */
}
END_TEST

/* bf16 only where all pieces are; positions that are not stored are computed. */
START_TEST(types_and_positions) {
    char *dir = ds_xasprintf("%s/types", ds_test_tmpdir());
    ck_assert_int_eq(mkdir(dir, 0700), 0);
    put_json(dir, "config.json", EVERYTHING);
    for (int bf16 = 0; bf16 < 2; bf16++) {
        edit e = {.name = bf16 ? "transformer_blocks.0.attn1.to_out.0.weight"
                               : "transformer_blocks.0.attn1.to_k.weight",
                  .ndim = 2,
                  .shape = {16, 16},
                  .type = DS_ST_BF16};
        small_file(dir, 1, &small, &e);
        ds_weights *w;
        ds_dit_names *d;
        ck_assert_int_eq(ds_weights_open(&w, dir, NULL, NULL), 0);
        ck_assert_int_eq(ds_dit_names_open(&d, w, 0, NULL), 0);
        const ds_params *table = ds_dit_names_table(d);
        for (int i = 0; i < table->count; i++) {
            int is = !strcmp(table->items[i].name, "blocks.0.attn.proj.weight") && bf16;
            ck_assert_int_eq(ds_dit_names_dtype(d, i), is ? DS_ST_BF16 : DS_ST_F32);
        }
        float got[16 * WIDTH], want[16 * WIDTH];
        ds_dit_positions(want, ds_dit_names_config(d));
        ck_assert_int_eq(ds_dit_names_read(d, 0, got, NULL), 0);
        ck_assert(!memcmp(got, want, sizeof got));
        ck_assert(want[0] == 0 && want[WIDTH / 4] == 1);
        ds_dit_names_free(d);
        ds_weights_close(w);
    }
    ds_dit_names_free(NULL);
    free(dir);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, published_sizes, 0, 12);
    tcase_add_loop_test(tc, one_tensor_is_wrong, 0, (int)(sizeof tensors / sizeof *tensors));
    tcase_add_loop_test(tc, one_setting_is_wrong, 0, (int)(sizeof settings / sizeof *settings));
    tcase_add_test(tc, a_thousand_rows);
    tcase_add_test(tc, types_and_positions);
}

int main(void) { return ds_test_main("engine_dit_names", register_cases); }
