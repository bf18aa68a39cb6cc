/* engine/model/dit_arch.c - DiT as an architecture: layout of its buffers, modulations made ahead,
 * figures for plans, and shapes that have a name. */
#include "base/limits.h"
#include "base/mem.h"
#include "engine/model/dit_net.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* ---------------------------------------------------------------- configuration */

static int config_read(void *config, const json_t *doc, ds_error *err) {
    return ds_dit_config_read(config, doc, err);
}
static json_t *config_write(const void *config) { return ds_dit_config_to_json(config); }
static int config_check(const void *config, ds_error *err) { return ds_dit_check(config, err); }
static void facts(const void *config, ds_facts *out) { *out = ds_dit_facts(config); }
static void set_classes(void *config, int classes) { ((ds_dit_config *)config)->classes = classes; }
static void set_blocks(void *config, int blocks) { ((ds_dit_config *)config)->depth = blocks; }

static void complete(void *config) {
    ds_dit_config *c = config;
    if (!c->norm2_eps_e6)
        c->norm2_eps_e6 = 1;
}

static void set_flow(void *config, const ds_flow *flow) {
    ds_dit_config *c = config;
    c->flow = *flow;
    if (flow->path == DS_FLOW_NONE)
        return;
    c->learn_sigma = c->train_steps = 0;
    c->beta_start = c->beta_end = 0;
}

static char *words(const void *config) {
    const ds_dit_config *c = config;
    return ds_xasprintf("width %d, depth %d, %d heads, patch %d", c->width, c->depth, c->heads,
                        c->patch);
}

/* ---------------------------------------------------------------- new bases */

static const ds_arch_size sizes[] = {
    {"--side", offsetof(ds_dit_config, side), 4, 512, "side of a picture, in pixels"},
    {"--patch", offsetof(ds_dit_config, patch), 1, 64, ".. and of a patch"},
    {"--width", offsetof(ds_dit_config, width), 8, 4096, "width of a token"},
    {"--depth", offsetof(ds_dit_config, depth), 1, 64, "blocks"},
    {"--heads", offsetof(ds_dit_config, heads), DS_RANGE_HEADS, "heads of attention"},
    {NULL, 0, 0, 0, NULL}};

static void fresh(void *config) {
    *(ds_dit_config *)config = (ds_dit_config){.channels = 3,
                                               .side = 32,
                                               .patch = 4,
                                               .width = 192,
                                               .depth = 6,
                                               .heads = 3,
                                               .mlp_ratio = 4,
                                               .learn_sigma = 1,
                                               .freq_dim = 256,
                                               .pixel = 1,
                                               .train_steps = 1000,
                                               .beta_start = 1e-4,
                                               .beta_end = 2e-2};
}

/* Shapes of facebookresearch/DiT at 256 px, and the bundled base's. */
static int named(void *config, const char *name, ds_error *err) {
    static const struct {
        const char *name;
        int depth, width, heads, patch;
    } list[] = {{"tiny", 6, 192, 3, 4},
                {"S/2", 12, 384, 6, 2},
                {"B/2", 12, 768, 12, 2},
                {"L/2", 24, 1024, 16, 2},
                {"XL/2", 28, 1152, 16, 2}};
    ds_dit_config *c = config;
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++)
        if (!strcmp(name, list[i].name)) {
            fresh(c);
            c->channels = i ? 4 : 3;
            c->patch = list[i].patch;
            c->width = list[i].width;
            c->depth = list[i].depth;
            c->heads = list[i].heads;
            c->classes = 1000;
            c->norm2_eps_e6 = 1;
            c->pixel = i == 0;
            c->latent_scale = i ? 0.18215 : 0;
            return 0;
        }
    return ds_fail(err, DS_EINVAL, "unknown shape '%.20s': use tiny, S/2, B/2, L/2 or XL/2", name);
}

/* ---------------------------------------------------------------- tensors and layers */

static void tensors(ds_params *table, const void *config) { ds_dit_tensors(table, config); }
static int layer_count(const void *config) { return ds_lin_count(config); }
static ds_layer_shape layer(const void *config, int i) { return ds_dit_layer(config, i); }
static void init(float *data, const ds_params *table, const void *config, uint64_t seed) {
    ds_dit_init(data, table, config, seed);
}

/* ---------------------------------------------------------------- buffers */

static size_t acts_size(const void *config) {
    return sizeof(ds_dit_acts) +
           (size_t)((const ds_dit_config *)config)->depth * sizeof(ds_dit_block);
}

static void plan_block(ds_room *room, ds_dit_block *a, const ds_dit_config *c, size_t act, int B) {
    size_t T = (size_t)ds_dit_tokens(c), R = (size_t)B * T, D = (size_t)c->width,
           F = D * (size_t)c->mlp_ratio;
    float **stats[] = {&a->mean1, &a->rstd1, &a->mean2, &a->rstd2};
    for (int i = 0; i < 4; i++)
        *stats[i] = ds_room_take(room, R * 4);
    a->x1 = ds_room_take(room, R * D * 4);
    a->lse = ds_room_take(room, R * (size_t)c->heads * 4);
    a->mod = ds_room_take(room, (size_t)B * 6 * D * 4);
    a->ln1 = ds_room_take(room, R * D * act);
    a->qkv = ds_room_take(room, R * 3 * D * act);
    a->att = ds_room_take(room, R * D * act);
    a->proj = ds_room_take(room, R * D * act);
    a->ln2 = ds_room_take(room, R * D * act);
    a->pre = ds_room_take(room, R * F * act);
    a->gelu = ds_room_take(room, R * F * act);
    a->fc2 = ds_room_take(room, R * D * act);
}

static void plan_conditioning(ds_room *room, ds_dit_conditioning *k, const ds_dit_config *c,
                              size_t act, int rows) {
    size_t freq = (size_t)rows * (size_t)c->freq_dim, D = (size_t)rows * (size_t)c->width;
    k->temb = ds_room_take(room, freq * 4);
    k->temb_act = ds_room_take(room, freq * act);
    float **wide[] = {&k->t0, &k->t0s, &k->c, &k->sc};
    for (int i = 0; i < 4; i++)
        *wide[i] = ds_room_take(room, D * 4);
    k->t0s_act = ds_room_take(room, D * act);
    k->sc_act = ds_room_take(room, D * act);
}

static void plan_shared(ds_room *room, ds_dit_acts *n, const ds_dit_config *c,
                        const ds_net_size *size) {
    const size_t act = size->act, b = (size_t)size->batch, R = b * (size_t)ds_dit_tokens(c),
                 D = (size_t)c->width, F = D * (size_t)c->mlp_ratio;
    const size_t out = (size_t)(c->patch * c->patch * ds_dit_out_channels(c)),
                 in = (size_t)(c->patch * c->patch * c->channels);
    plan_conditioning(room, &n->cond, c, act, size->batch);
    n->room_cond_act =
        ds_room_take(room, b * (6 * D > (size_t)c->freq_dim ? 6 * D : (size_t)c->freq_dim) * act);
    n->modf = ds_room_take(room, b * 2 * D * 4);
    n->meanf = ds_room_take(room, R * 4);
    n->rstdf = ds_room_take(room, R * 4);
    n->lnf = ds_room_take(room, R * D * act);
    n->patches = ds_room_take(room, R * in * act);
    n->ypatch = ds_room_take(room, R * D * act);
    n->tokens = ds_room_take(room, R * out * 4);
    n->tok_act = ds_room_take(room, R * out * act);
    if (!size->train)
        return;
    n->dx = ds_room_take(room, R * D * 4);
    n->dmod = ds_room_take(room, b * 6 * D * 4);
    float **of_cond[] = {&n->dc, &n->dsc, &n->room_cond};
    for (int i = 0; i < 3; i++)
        *of_cond[i] = ds_room_take(room, b * D * 4);
    n->room_a = ds_room_take(room, R * D * act);
    n->room_b = ds_room_take(room, R * D * act);
    size_t wide = F > 3 * D ? F : 3 * D;
    n->room_wide = ds_room_take(room, R * (wide > in ? wide : in) * act);
    n->dmod_act = ds_room_take(room, b * 6 * D * act);
    n->mod_act = ds_room_take(room, b * 6 * D * act);
    n->dtok = ds_room_take(room, R * out * act);
}

static size_t plan(void *acts, const void *config, const ds_net_size *size, char *block) {
    ds_dit_acts *n = acts;
    const ds_dit_config *c = config;
    ds_room room = {block, 0};
    const int own = size->train ? size->recompute : c->depth;
    size_t stream = (size_t)size->batch * (size_t)ds_dit_tokens(c) * (size_t)c->width * 4;
    plan_shared(&room, n, c, size);
    float *x = ds_room_take(&room, stream);
    for (int i = 0; i < c->depth; i++) {
        if (i == 0 || i >= own)
            plan_block(&room, &n->blocks[i], c, size->act, size->batch);
        else
            n->blocks[i] = n->blocks[0];
        n->blocks[i].x0 = x;
        if (size->train)
            x = ds_room_take(&room, stream); /* the block's output = the next one's input */
        else
            n->blocks[i].x1 = x; /* the stream is updated in place */
    }
    n->xf = x;
    return room.used;
}

/* ---------------------------------------------------------------- modulations made ahead
 * A row is what the forward pass computes for a sample: sc = SiLU(t_embedder(t) + y_embedder(y)),
 * then every adaLN layer of sc. */

static size_t table_row_bytes(const void *config) {
    const ds_dit_config *c = config;
    return (6 * (size_t)c->depth + 2) * (size_t)c->width * sizeof(float);
}

static size_t table_plan(void *acts, const void *config, const ds_net_table_size *size,
                         char *block) {
    ds_dit_table *t = acts;
    const ds_dit_config *c = config;
    const size_t D = (size_t)c->width, depth = (size_t)c->depth, rows = (size_t)size->rows,
                 B = size->dev->host_memory ? 0 : (size_t)size->batch;
    ds_room room = {block, 0};
    t->mod = ds_room_take(&room, depth * rows * 6 * D * sizeof(float));
    t->modf = ds_room_take(&room, rows * 2 * D * sizeof(float));
    t->batch_mod = ds_room_take(&room, depth * B * 6 * D * sizeof(float));
    plan_conditioning(&room, &t->cond, c, size->dev->act_size, size->chunk);
    return room.used;
}

static void table_fill(ds_net_table *t, int first, int count) {
    const ds_dit_config *c = ds_dit_of(t->net);
    const ds_dit_table *own = t->acts;
    const size_t D = (size_t)c->width;
    const ds_given given = ds_net_table_given(t, first, count);
    ds_dit_condition(t->net, &own->cond, &given);
    for (int i = 0; i < c->depth; i++)
        ds_dit_modulate(t->net, ds_lin_block(i, DS_LIN_ADALN),
                        own->mod + ((size_t)i * (size_t)t->rows + (size_t)first) * 6 * D,
                        &own->cond, &given);
    ds_dit_modulate(t->net, ds_lin_final_adaln(c), own->modf + (size_t)first * 2 * D, &own->cond,
                    &given);
}

/* ---------------------------------------------------------------- plans */

/* Packed operands of the largest products and partial sums of a thread, never more than this in the
 * tests.  A GPU: the scores' gradient of a micro-batch in 16 bits (the form of it whose sums have a
 * fixed order), an f32 copy of a layer's rows, and the output of a layer. */
static double workspace(const void *config, const ds_device *dev, int rows) {
    const ds_dit_config *c = config;
    double T = ds_dit_tokens(c);
    if (!dev->host_memory)
        return rows * T *
               (2.0 * c->heads * T + ((double)sizeof(float) + (double)dev->act_size) * c->width);
    return (double)dev->threads * 64.0 * c->width * c->mlp_ratio * sizeof(float);
}

static double block_flop(const void *config, int full) {
    const ds_dit_config *c = config;
    double T = ds_dit_tokens(c), D = c->width;
    return (full ? 3 : 2) * 2 * T * D * D * (4 + 2 * c->mlp_ratio) + 12 * T * T * D;
}

static double pass_flop(const void *config, double parameters) {
    return 2 * parameters * ds_dit_tokens(config);
}

const ds_arch ds_dit_arch = {.name = "dit",
                             .config_size = sizeof(ds_dit_config),
                             .read = config_read,
                             .write = config_write,
                             .complete = complete,
                             .check = config_check,
                             .facts = facts,
                             .words = words,
                             .set_classes = set_classes,
                             .set_flow = set_flow,
                             .set_blocks = set_blocks,
                             .fresh = fresh,
                             .sizes = sizes,
                             .named = named,
                             .tensors = tensors,
                             .layer_count = layer_count,
                             .layer = layer,
                             .init = init,
                             .acts_size = acts_size,
                             .plan = plan,
                             .forward = ds_dit_forward,
                             .backward = ds_dit_backward,
                             .table_row_bytes = table_row_bytes,
                             .table_acts_size = sizeof(ds_dit_table),
                             .table_plan = table_plan,
                             .table_fill = table_fill,
                             .workspace = workspace,
                             .block_flop = block_flop,
                             .pass_flop = pass_flop};
