/* engine/model/net.c - nets: layout of activations, class rows of adapters, life cycle. */
#include "base/mem.h"
#include "engine/model/net_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- layout of activations
 * One pass over the list of buffers; with block == NULL it only counts. */

typedef struct {
    char *block;
    size_t used;
} ds_net_plan;

static void *take(ds_net_plan *plan, size_t bytes) {
    void *p = plan->block ? plan->block + plan->used : NULL;
    plan->used += (bytes + 63) / 64 * 64;
    return p;
}

static void plan_block(ds_net_plan *plan, ds_block_acts *a, const ds_dit_config *c, size_t act,
                       int B) {
    size_t T = (size_t)ds_dit_tokens(c), R = (size_t)B * T, D = (size_t)c->width,
           F = D * (size_t)c->mlp_ratio;
    float **stats[] = {&a->mean1, &a->rstd1, &a->mean2, &a->rstd2};
    for (int i = 0; i < 4; i++)
        *stats[i] = take(plan, R * 4);
    a->x1 = take(plan, R * D * 4);
    a->lse = take(plan, R * (size_t)c->heads * 4);
    a->mod = take(plan, (size_t)B * 6 * D * 4);
    a->ln1 = take(plan, R * D * act);
    a->qkv = take(plan, R * 3 * D * act);
    a->att = take(plan, R * D * act);
    a->proj = take(plan, R * D * act);
    a->ln2 = take(plan, R * D * act);
    a->pre = take(plan, R * F * act);
    a->gelu = take(plan, R * F * act);
    a->fc2 = take(plan, R * D * act);
}

size_t ds_net_plan_conditioning(ds_conditioning *k, const ds_dit_config *c, size_t act, int rows,
                                char *block) {
    ds_net_plan plan = {block, 0};
    size_t b = (size_t)rows, freq = b * (size_t)c->freq_dim, D = b * (size_t)c->width;
    k->given = take(&plan, 3 * b * sizeof *k->given);
    k->temb = take(&plan, freq * 4);
    k->temb_act = take(&plan, freq * act);
    float **wide[] = {&k->t0, &k->t0s, &k->c, &k->sc};
    for (int i = 0; i < 4; i++)
        *wide[i] = take(&plan, D * 4);
    k->t0s_act = take(&plan, D * act);
    k->sc_act = take(&plan, D * act);
    return plan.used;
}

static void plan_shared(ds_net_plan *plan, ds_net *n, const ds_dit_config *c, size_t act, int B,
                        int train) {
    size_t T = (size_t)ds_dit_tokens(c), R = (size_t)B * T, D = (size_t)c->width,
           F = D * (size_t)c->mlp_ratio, b = (size_t)B;
    size_t out = (size_t)(c->patch * c->patch * ds_dit_out_channels(c)),
           in = (size_t)(c->patch * c->patch * c->channels);
    plan->used += ds_net_plan_conditioning(&n->cond, c, act, B,
                                           plan->block ? plan->block + plan->used : NULL);
    n->room_cond_act =
        take(plan, b * (6 * D > (size_t)c->freq_dim ? 6 * D : (size_t)c->freq_dim) * act);
    n->modf = take(plan, b * 2 * D * 4);
    n->meanf = take(plan, R * 4);
    n->rstdf = take(plan, R * 4);
    n->lnf = take(plan, R * D * act);
    n->patches = take(plan, R * in * act);
    n->ypatch = take(plan, R * D * act);
    n->tokens = take(plan, R * out * 4);
    n->tok_act = take(plan, R * out * act);
    if (!train)
        return;
    n->dx = take(plan, R * D * 4);
    n->dmod = take(plan, b * 6 * D * 4);
    float **of_cond[] = {&n->dc, &n->dsc, &n->room_cond};
    for (int i = 0; i < 3; i++)
        *of_cond[i] = take(plan, b * D * 4);
    n->room_a = take(plan, R * D * act);
    n->room_b = take(plan, R * D * act);
    size_t wide = F > 3 * D ? F : 3 * D;
    n->room_wide = take(plan, R * (wide > in ? wide : in) * act);
    n->dmod_act = take(plan, b * 6 * D * act);
    n->mod_act = take(plan, b * 6 * D * act);
    n->dtok = take(plan, R * out * act);
}

static size_t plan_net(ds_net *n, const ds_dit_config *c, size_t act, enum ds_net_kind kind, int B,
                       char *block) {
    ds_net_plan plan = {block, 0};
    int train = kind == DS_NET_TRAIN, own = train ? n->recompute : c->depth;
    size_t stream = (size_t)B * (size_t)ds_dit_tokens(c) * (size_t)c->width * 4;
    plan_shared(&plan, n, c, act, B, train);
    float *x = take(&plan, stream);
    for (int i = 0; i < c->depth; i++) {
        if (i == 0 || i >= own)
            plan_block(&plan, &n->acts[i], c, act, B);
        else
            n->acts[i] = n->acts[0];
        n->acts[i].x0 = x;
        if (train)
            x = take(&plan, stream); /* the block's output = the next one's input */
        else
            n->acts[i].x1 = x; /* the stream is updated in place */
    }
    n->xf = x;
    return plan.used;
}

size_t ds_net_bytes(const ds_dit_config *cfg, const ds_device *dev, enum ds_net_kind kind,
                    int batch) {
    ds_net n = {0};
    n.acts = ds_xcalloc((size_t)cfg->depth, sizeof *n.acts);
    size_t bytes = plan_net(&n, cfg, dev->act_size, kind, batch, NULL);
    free(n.acts);
    return bytes;
}

size_t ds_net_train_bytes(const ds_dit_config *cfg, const ds_device *dev, int batch,
                          int recompute) {
    ds_net n = {.recompute = recompute};
    n.acts = ds_xcalloc((size_t)cfg->depth, sizeof *n.acts);
    size_t bytes = plan_net(&n, cfg, dev->act_size, DS_NET_TRAIN, batch, NULL);
    free(n.acts);
    return bytes;
}

size_t ds_net_weight_bytes(ds_device *dev, const ds_base *base, enum ds_net_kind kind) {
    return ds_layers_bytes(dev, base, kind);
}

/* ---------------------------------------------------------------- class rows */

static int table_entry(const ds_base *base) {
    const ds_param *p = ds_params_find(&base->table, "y_embedder.embedding_table.weight");
    return (int)(p - base->table.items);
}

/* The rows of a single adapter, or, of method full, the base's table itself. */
static void bind_only_rows(ds_net *net, const ds_params *table, const float *p, float *g) {
    for (int i = 0; i < table->count; i++)
        if (table->items[i].kind == DS_PARAM_TABLE) {
            net->table = p + table->items[i].offset;
            net->dtable = g ? g + table->items[i].offset : NULL;
        }
    size_t rows = ds_adapter_rows(table);
    net->rows[0] = rows == SIZE_MAX ? NULL : p + rows;
    net->drows = rows == SIZE_MAX || !g ? NULL : g + rows;
}

/* Class rows of all tasks, one after the other. */
static int bind_rows(ds_net *net, const ds_adapter *const *adapters, ds_error *err) {
    const size_t D = (size_t)ds_net_cfg(net)->width;
    size_t rows = 0;
    for (int t = 0; t < net->tasks; t++) {
        const ds_method_spec *s = &adapters[t]->spec;
        if ((ds_method_parts(s->method) & DS_PART_BASE) ||
            (s->side_in && net->kind == DS_NET_STACKED))
            return ds_fail(err, DS_EINVAL,
                           "an adapter of method full or side in cannot share a batch with others");
        rows += (size_t)s->classes;
    }
    net->rows_all = net->dev->alloc(net->dev, (rows + 1) * D * sizeof(float));
    if (!net->rows_all)
        return ds_device_no_room(net->dev, (rows + 1) * D * sizeof(float), err,
                                 "class rows of %d adapters", net->tasks);
    rows = 0;
    for (int t = 0; t < net->tasks; t++) {
        size_t at = ds_adapter_rows(&adapters[t]->table);
        size_t n = (size_t)adapters[t]->spec.classes;
        if (n)
            net->dev->upload(net->dev, net->rows_all + rows * D, adapters[t]->data + at,
                             n * D * sizeof(float));
        net->rows[t] = net->rows_all + rows * D;
        rows += n;
    }
    return 0;
}

/* ---------------------------------------------------------------- life cycle */

void ds_net_refold(ds_net *net) {
    ds_segment key = {
        .owner = net, .kind = DS_NET_SEGMENT_REFOLD, .batch = net->batch, .state = net->bound};
    if (ds_device_replay(net->dev, &key))
        return;
    ds_layers_refold(&net->layers);
    ds_device_segment_end(net->dev);
}

void ds_net_bind(ds_net *net, const float *p, float *g) {
    DS_ASSERT(net->kind == DS_NET_TRAIN);
    ds_params table = {0};
    ds_adapter_table(&table, net->base, &net->layers.spec);
    ds_layers_bind(&net->layers, &table, p, g);
    bind_only_rows(net, &table, p, g);
    net->bound = p;
    ds_params_release(&table);
    ds_net_refold(net);
}

static int setup(ds_net *net, const ds_adapter *const *adapters, ds_error *err) {
    const ds_dit_config *c = ds_net_cfg(net);
    size_t bytes = net->kind == DS_NET_TRAIN
                       ? ds_net_train_bytes(c, net->dev, net->batch, net->recompute)
                       : ds_net_bytes(c, net->dev, net->kind, net->batch);
    net->acts = ds_xcalloc((size_t)c->depth, sizeof *net->acts);
    net->set_rows = ds_xcalloc((size_t)net->tasks + 1, sizeof *net->set_rows);
    net->rows = ds_xcalloc((size_t)net->tasks + 1, sizeof *net->rows);
    for (int t = 0; t < net->tasks; t++)
        net->set_rows[t] = adapters[t]->spec.classes;
    net->block = net->dev->alloc(net->dev, bytes);
    if (!net->block)
        return ds_device_no_room(net->dev, bytes, err, "a batch of %d images", net->batch);
    plan_net(net, c, net->dev->act_size, net->kind, net->batch, net->block);
    net->table = ds_model_tensor(net->model, table_entry(net->base));
    int rc = ds_net_several(net) ? bind_rows(net, adapters, err) : 0;
    if (!rc)
        rc = ds_layers_open(&net->layers, net->model, net->kind, adapters, net->tasks,
                            net->batch + DS_NET_TABLE_CHUNK, err);
    if (!rc && net->kind == DS_NET_INFER && net->tasks == 1)
        bind_only_rows(net, &adapters[0]->table, net->layers.sets_data[0], NULL);
    return rc;
}

static int open_net(ds_net **out, const ds_model *model, enum ds_net_kind kind,
                    const ds_adapter *const *adapters, int count, int batch, int recompute,
                    ds_error *err) {
    DS_ASSERT(batch > 0 && (kind == DS_NET_STACKED || kind == DS_NET_FOLDED || count <= 1));
    DS_ASSERT(recompute >= 0 && recompute <= model->base->cfg.depth);
    ds_net *net = ds_xcalloc(1, sizeof *net);
    net->model = model;
    net->dev = model->dev;
    net->base = model->base;
    net->kind = kind;
    net->batch = batch;
    net->tasks = count;
    net->recompute = recompute;
    net->task = ds_xcalloc((size_t)batch, sizeof *net->task);
    net->next_task = ds_xcalloc((size_t)batch, sizeof *net->next_task);
    net->given = ds_xcalloc(3 * ((size_t)batch + DS_NET_TABLE_CHUNK), sizeof *net->given);
    int rc = setup(net, adapters, err);
    if (rc)
        ds_net_free(net);
    else
        *out = net;
    return rc;
}

int ds_net_new(ds_net **out, const ds_model *model, enum ds_net_kind kind,
               const ds_adapter *const *adapters, int count, int batch, ds_error *err) {
    return open_net(out, model, kind, adapters, count, batch, 0, err);
}

int ds_net_new_train(ds_net **out, const ds_model *model, const ds_adapter *adapter, int batch,
                     int recompute, ds_error *err) {
    return open_net(out, model, DS_NET_TRAIN, &adapter, 1, batch, recompute, err);
}

void ds_net_free(ds_net *net) {
    if (!net)
        return;
    ds_device_forget(net->dev, net);
    ds_layers_close(&net->layers);
    net->dev->free(net->dev, net->rows_all);
    net->dev->free(net->dev, net->block);
    free(net->set_rows);
    free(net->given);
    free(net->next_task);
    free(net->rows);
    free(net->task);
    free(net->acts);
    free(net);
}
