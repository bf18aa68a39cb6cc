/* engine/model/net_run.c - passes of a net: what is common to all architectures. */
#include "engine/model/net_internal.h"

#include <string.h>

/* The sets of a batch.  A pass that was recorded with others would repeat those. */
static void take_tasks(ds_net *net, const int *task, int B) {
    int known = B < net->task_count ? B : net->task_count;
    if (memcmp(net->task, task, (size_t)known * sizeof *task) != 0) {
        ds_device_forget(net->dev, net);
        net->task_count = 0;
    }
    if (B > net->task_count) {
        memcpy(net->task, task, (size_t)B * sizeof *task);
        net->task_count = B;
    }
}

/* Class rows of several tasks are indexed over all of them. */
void ds_net_give(ds_net *net, int *given, int *task, const ds_net_sample *samples, int rows) {
    int *host = net->give_room;
    DS_ASSERT(rows <= net->batch || rows <= DS_NET_TABLE_CHUNK);
    for (int b = 0; b < rows; b++) {
        const ds_net_sample *s = &samples[b];
        int set = ds_net_several(net) ? (s->task < 0 ? net->tasks : s->task) : 0;
        int first = 0;
        DS_ASSERT(set <= net->tasks && (s->row < 0) != (s->base_row < 0));
        DS_ASSERT(s->base_row <= net->base->facts.classes);
        DS_ASSERT(s->row < 0 || (set < net->tasks && s->row < net->set_rows[set]));
        for (int i = 0; s->row >= 0 && i < set; i++)
            first += net->set_rows[i];
        memcpy(&host[b], &s->t, sizeof host[b]);
        host[rows + b] = s->row < 0 ? -1 : first + s->row;
        host[2 * rows + b] = s->base_row;
        task[b] = set;
    }
    net->dev->upload(net->dev, given, host, (size_t)rows * 3 * sizeof *host);
}

static ds_given given_of(const int *given, const int *task, int rows) {
    return (ds_given){.t = (const float *)(const void *)given,
                      .row = given + rows,
                      .base_row = given + 2 * (size_t)rows,
                      .task = task,
                      .rows = rows};
}

ds_given ds_net_given(const ds_net *net, int B) { return given_of(net->given, net->task, B); }

ds_given ds_net_table_given(const ds_net_table *t, int first, int count) {
    return given_of(t->given, t->task + first, count);
}

void ds_net_add_classes(ds_net *net, float *c, const ds_given *given) {
    const struct ds_ops *k = net->dev->ops;
    const float *classes = ds_net_several(net) ? net->rows_all : net->rows[0];
    const int rows = given->rows, width = net->base->row_width;
    if (classes)
        k->embedding_forward(net->dev, c, classes, given->row, rows, width);
    k->embedding_forward(net->dev, c, net->table, given->base_row, rows, width);
}

void ds_net_classes_backward(ds_net *net, const float *dc, const ds_given *given) {
    const struct ds_ops *k = net->dev->ops;
    const int rows = given->rows, width = net->base->row_width;
    if (net->drows)
        k->embedding_backward(net->dev, net->drows, dc, given->row, rows, width);
    if (net->dtable)
        k->embedding_backward(net->dev, net->dtable, dc, given->base_row, rows, width);
}

static void pass(ds_net *net, const ds_segment *key, float *out, const float *x,
                 const ds_net_table *t) {
    if (ds_device_replay(net->dev, key))
        return;
    net->base->arch->forward(net, out, x, t, key->batch);
    ds_device_segment_end(net->dev);
}

void ds_net_forward(ds_net *net, float *out, const ds_net_input *in, int B) {
    DS_ASSERT(B > 0 && B <= net->batch && !in->condition);
    ds_net_give(net, net->given, net->next_task, in->samples, B);
    take_tasks(net, net->next_task, B);
    ds_segment key = {.owner = net,
                      .kind = DS_NET_SEGMENT_FORWARD,
                      .batch = B,
                      .in = in->x,
                      .out = out,
                      .state = net->bound};
    pass(net, &key, out, in->x, NULL);
}

void ds_net_forward_rows(const ds_net_table *t, float *out, const float *x, const int *row, int B) {
    ds_net *net = t->net;
    DS_ASSERT(B > 0 && B <= net->batch);
    for (int b = 0; b < B; b++) {
        DS_ASSERT(row[b] >= 0 && row[b] < t->rows);
        t->batch_task[b] = t->task[row[b]];
    }
    take_tasks(net, t->batch_task, B);
    net->dev->upload(net->dev, t->idx, row, (size_t)B * sizeof *row);
    ds_segment key = {
        .owner = net, .kind = DS_NET_SEGMENT_TABLE, .batch = B, .in = x, .out = out, .state = t};
    pass(net, &key, out, x, t);
}

void ds_net_backward(ds_net *net, const float *dout, int B) {
    DS_ASSERT(net->kind == DS_NET_TRAIN && B > 0 && B <= net->batch);
    ds_segment key = {
        .owner = net, .kind = DS_NET_SEGMENT_BACKWARD, .batch = B, .in = dout, .state = net->bound};
    if (ds_device_replay(net->dev, &key))
        return;
    net->base->arch->backward(net, dout, B);
    ds_device_segment_end(net->dev);
}
