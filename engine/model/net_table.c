/* engine/model/net_table.c - modulations of several timesteps and conditions, computed once.
 *
 * A row is what the forward pass computes for a sample: sc = SiLU(t_embedder(t) + y_embedder(y)),
 * then every adaLN layer of sc.  It depends on timestep, class row and adapter, not on the picture,
 * and since a row of a product does not depend on how many rows there are (kernels/ops.def), it has
 * the bytes that it would have in a pass.  Many rows at a time read each layer's weight once:
 * DiT-XL/2's adaLN layers are a third of all its weights. */
#include "base/mem.h"
#include "engine/model/net_internal.h"

#include <stdlib.h>

static void *part(char *block, size_t *used, size_t bytes) {
    void *p = block && bytes ? block + *used : NULL;
    *used += (bytes + 63) / 64 * 64;
    return p;
}

/* One pass over the buffers; block NULL: only counts. */
static size_t plan_table(ds_net_table *t, const ds_dit_config *c, const ds_device *dev, int batch,
                         char *block) {
    const size_t D = (size_t)c->width, depth = (size_t)c->depth, rows = (size_t)t->rows,
                 B = (size_t)batch;
    size_t used = 0;
    t->mod = part(block, &used, depth * rows * 6 * D * sizeof(float));
    t->modf = part(block, &used, rows * 2 * D * sizeof(float));
    t->batch_mod = part(block, &used, dev->host_memory ? 0 : depth * B * 6 * D * sizeof(float));
    t->idx = part(block, &used, B * sizeof(int));
    return used + ds_net_plan_conditioning(&t->cond, c, dev->act_size, t->chunk,
                                           block ? block + used : NULL);
}

static int chunk_of(int rows) { return rows < DS_NET_TABLE_CHUNK ? rows : DS_NET_TABLE_CHUNK; }

size_t ds_net_table_row_bytes(const ds_dit_config *c) {
    return (6 * (size_t)c->depth + 2) * (size_t)c->width * sizeof(float);
}

size_t ds_net_table_bytes(const ds_dit_config *cfg, const ds_device *dev, int rows, int batch) {
    ds_net_table t = {.rows = rows, .chunk = chunk_of(rows)};
    return plan_table(&t, cfg, dev, batch, NULL);
}

ds_net_table *ds_net_table_new(ds_net *net, int rows) {
    ds_device *dev = net->dev;
    DS_ASSERT(rows > 0);
    size_t bytes = ds_net_table_bytes(ds_net_cfg(net), dev, rows, net->batch);
    /* As much again stays free: scratch of the ops may have to grow, and has no other way out. */
    if (dev->free_bytes && dev->free_bytes(dev) / 2 < bytes)
        return NULL;
    void *block = dev->alloc(dev, bytes);
    if (!block)
        return NULL;
    ds_net_table *t = ds_xcalloc(1, sizeof *t);
    *t = (ds_net_table){.net = net, .rows = rows, .chunk = chunk_of(rows), .block = block};
    plan_table(t, ds_net_cfg(net), dev, net->batch, block);
    t->task = ds_xcalloc((size_t)rows, sizeof *t->task);
    t->batch_task = ds_xcalloc((size_t)net->batch, sizeof *t->batch_task);
    return t;
}

void ds_net_table_free(ds_net_table *t) {
    if (!t)
        return;
    ds_device_forget(t->net->dev, t->net);
    t->net->dev->free(t->net->dev, t->block);
    free(t->task);
    free(t->batch_task);
    free(t);
}

void ds_net_table_fill(ds_net_table *t, const ds_net_input *in, int count) {
    ds_net *net = t->net;
    const ds_dit_config *c = ds_net_cfg(net);
    const size_t D = (size_t)c->width;
    DS_ASSERT(count <= t->rows && !in->condition);
    for (int first = 0; first < count; first += t->chunk) {
        int n = count - first < t->chunk ? count - first : t->chunk;
        int *task = t->task + first;
        ds_net_give(net, &t->cond, task, in->samples + first, n);
        ds_net_condition(net, &t->cond, task, n);
        for (int i = 0; i < c->depth; i++)
            ds_net_modulate(net, ds_lin_block(i, DS_LIN_ADALN),
                            t->mod + ((size_t)i * (size_t)t->rows + (size_t)first) * 6 * D,
                            &t->cond, task, n);
        ds_net_modulate(net, ds_lin_final_adaln(c), t->modf + (size_t)first * 2 * D, &t->cond, task,
                        n);
    }
}
