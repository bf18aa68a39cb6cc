/* engine/model/net_table.c - modulations of several times and classes, computed once.
 *
 * A row is what the forward pass computes for a sample from its time, class and adapter, not from
 * its picture; and since a row of a product does not depend on how many rows there are
 * (kernels/ops.def), it has the bytes that it would have in a pass.  Many rows at a time read each
 * layer's weight once: DiT-XL/2's adaLN layers are a third of all its weights.  What a row consists
 * of is the architecture's matter. */
#include "base/mem.h"
#include "engine/model/net_internal.h"

#include <stdlib.h>

static int chunk_of(int rows) { return rows < DS_NET_TABLE_CHUNK ? rows : DS_NET_TABLE_CHUNK; }

/* One pass over the buffers; block NULL: only counts. */
static size_t plan_table(ds_net_table *t, const ds_base *base, const ds_device *dev, int batch,
                         char *block) {
    const ds_net_table_size size = {dev, t->rows, t->chunk, batch};
    ds_room room = {block, 0};
    t->idx = ds_room_take(&room, (size_t)batch * sizeof(int));
    t->given = ds_room_take(&room, 3 * (size_t)t->chunk * sizeof(int));
    return room.used + base->arch->table_plan(t->acts, base->config, &size, ds_room_rest(&room));
}

size_t ds_net_table_row_bytes(const ds_base *base) {
    return base->arch->table_row_bytes ? base->arch->table_row_bytes(base->config) : 0;
}

size_t ds_net_table_bytes(const ds_base *base, const ds_device *dev, int rows, int batch) {
    if (!ds_net_table_row_bytes(base))
        return 0;
    ds_net_table t = {
        .rows = rows, .chunk = chunk_of(rows), .acts = ds_xcalloc(1, base->arch->table_acts_size)};
    size_t bytes = plan_table(&t, base, dev, batch, NULL);
    free(t.acts);
    return bytes;
}

ds_net_table *ds_net_table_new(ds_net *net, int rows) {
    ds_device *dev = net->dev;
    DS_ASSERT(rows > 0);
    size_t bytes = ds_net_table_bytes(net->base, dev, rows, net->batch);
    /* As much again stays free: scratch of the ops may have to grow, and has no other way out. */
    if (!bytes || (dev->free_bytes && dev->free_bytes(dev) / 2 < bytes))
        return NULL;
    void *block = dev->alloc(dev, bytes);
    if (!block)
        return NULL;
    ds_net_table *t = ds_xcalloc(1, sizeof *t);
    *t = (ds_net_table){.net = net,
                        .rows = rows,
                        .chunk = chunk_of(rows),
                        .block = block,
                        .acts = ds_xcalloc(1, net->base->arch->table_acts_size)};
    plan_table(t, net->base, dev, net->batch, block);
    t->task = ds_xcalloc((size_t)rows, sizeof *t->task);
    t->batch_task = ds_xcalloc((size_t)net->batch, sizeof *t->batch_task);
    return t;
}

void ds_net_table_free(ds_net_table *t) {
    if (!t)
        return;
    ds_device_forget(t->net->dev, t->net);
    t->net->dev->free(t->net->dev, t->block);
    free(t->acts);
    free(t->task);
    free(t->batch_task);
    free(t);
}

void ds_net_table_fill(ds_net_table *t, const ds_net_input *in, int count) {
    ds_net *net = t->net;
    DS_ASSERT(count <= t->rows && !in->condition);
    for (int first = 0; first < count; first += t->chunk) {
        int n = count - first < t->chunk ? count - first : t->chunk;
        ds_net_give(net, t->given, t->task + first, in->samples + first, n);
        net->base->arch->table_fill(t, first, n);
    }
}
