/* engine/model/net.c - nets: their buffers, class rows of adapters, life cycle. */
#include "base/mem.h"
#include "engine/model/net_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- buffers */

/* One pass over the buffers: what is given of a batch, then the arch's; block NULL: only counts. */
static size_t plan_net(int **given, void *acts, const ds_arch *arch, const void *config,
                       const ds_net_size *size, char *block) {
    ds_room room = {block, 0};
    *given = ds_room_take(&room, 3 * (size_t)size->batch * sizeof(int));
    return room.used + arch->plan(acts, config, size, ds_room_rest(&room));
}

static size_t count_bytes(const ds_arch *arch, const void *config, const ds_net_size *size) {
    int *given;
    void *acts = ds_xcalloc(1, arch->acts_size(config));
    size_t bytes = plan_net(&given, acts, arch, config, size, NULL);
    free(acts);
    return bytes;
}

size_t ds_net_bytes(const ds_base *base, const ds_device *dev, enum ds_net_kind kind, int batch) {
    const ds_net_size size = {.act = dev->act_size, .batch = batch, .train = kind == DS_NET_TRAIN};
    return count_bytes(base->arch, base->config, &size);
}

size_t ds_net_train_bytes(const ds_base *base, const ds_device *dev, int batch, int recompute) {
    const ds_net_size size = {
        .act = dev->act_size, .batch = batch, .train = 1, .recompute = recompute};
    return count_bytes(base->arch, base->config, &size);
}

size_t ds_net_blocks_bytes(const ds_base *base, int blocks, const ds_device *dev, int batch) {
    const ds_net_size size = {.act = dev->act_size, .batch = batch, .train = 1};
    void *config = ds_xmalloc(base->arch->config_size);
    memcpy(config, base->config, base->arch->config_size);
    base->arch->set_blocks(config, blocks);
    size_t bytes = count_bytes(base->arch, config, &size);
    free(config);
    return bytes;
}

size_t ds_net_weight_bytes(ds_device *dev, const ds_base *base, enum ds_net_kind kind) {
    return ds_layers_bytes(dev, base, kind);
}

/* ---------------------------------------------------------------- class rows */

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
    const size_t D = (size_t)net->base->row_width;
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
    const ds_arch *arch = net->base->arch;
    const ds_net_size size = {.act = net->dev->act_size,
                              .batch = net->batch,
                              .train = net->kind == DS_NET_TRAIN,
                              .recompute = net->recompute};
    size_t bytes = count_bytes(arch, net->base->config, &size);
    net->acts = ds_xcalloc(1, arch->acts_size(net->base->config));
    net->set_rows = ds_xcalloc((size_t)net->tasks + 1, sizeof *net->set_rows);
    net->rows = ds_xcalloc((size_t)net->tasks + 1, sizeof *net->rows);
    for (int t = 0; t < net->tasks; t++)
        net->set_rows[t] = adapters[t]->spec.classes;
    net->block = net->dev->alloc(net->dev, bytes);
    if (!net->block)
        return ds_device_no_room(net->dev, bytes, err, "a batch of %d images", net->batch);
    plan_net(&net->given, net->acts, arch, net->base->config, &size, net->block);
    net->table = ds_model_tensor(net->model, net->base->classes_entry);
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
    DS_ASSERT(recompute >= 0 && recompute <= model->base->facts.blocks);
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
    net->give_room = ds_xcalloc(3 * ((size_t)batch + DS_NET_TABLE_CHUNK), sizeof *net->give_room);
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
    free(net->give_room);
    free(net->next_task);
    free(net->rows);
    free(net->task);
    free(net->acts);
    free(net);
}

/* ---------------------------------------------------------------- what others may know */

ds_device *ds_net_device(const ds_net *net) { return net->dev; }
const ds_base *ds_net_base(const ds_net *net) { return net->base; }
enum ds_net_kind ds_net_kind_of(const ds_net *net) { return net->kind; }
int ds_net_batch(const ds_net *net) { return net->batch; }
int ds_net_tasks(const ds_net *net) { return net->tasks; }
int ds_net_several(const ds_net *net) { return ds_net_kind_several(net->kind); }

int ds_net_classes(const ds_net *net, int task) {
    return task < net->tasks ? net->set_rows[task] : 0;
}
