/* engine/model/net_internal.h - a net from inside: what its architecture sees of it. */
#ifndef DS_ENGINE_MODEL_NET_INTERNAL_H
#define DS_ENGINE_MODEL_NET_INTERNAL_H

#include "engine/model/layers.h"
#include "engine/model/net.h"

struct ds_net {
    const ds_model *model;
    ds_device *dev;
    const ds_base *base;
    enum ds_net_kind kind;
    int batch, tasks, recompute;
    ds_layers layers;
    const float *bound;    /* TRAIN: the parameters of the last ds_net_bind */
    const float **rows;    /* class rows of each adapter (device) */
    int *set_rows;         /* number of rows of each */
    float *rows_all;       /* several tasks: all rows, one after the other */
    const float *table;    /* base class table (device; inside p for method full) */
    float *dtable, *drows; /* gradients or NULL */
    void *block;           /* all buffers */
    int *given;            /* device: what is given of a batch */
    void *acts;            /* the arch's buffers (ds_arch.plan) */
    /* Host: the set of each sample, as ops take it; the longest batch since recorded passes were
     * forgotten last.  Those hold their sets, so they are forgotten when the sets change. */
    int *task, task_count;
    int *next_task, *give_room; /* of the batch that comes, and before it is given */
};

/* Times and classes of some samples. */
typedef struct {
    const float *t;            /* device */
    const int *row, *base_row; /* device; -1: none.  Rows of several tasks are counted over all */
    const int *task;           /* host: the set of each, as ops take it */
    int rows;
} ds_given;

/* Of the batch of B samples that a forward or backward pass is about. */
ds_given ds_net_given(const ds_net *net, int B);

/* c (rows,row_width) (+=) the class of each sample; and the gradients of that. */
void ds_net_add_classes(ds_net *net, float *c, const ds_given *given);
void ds_net_classes_backward(ds_net *net, const float *dc, const ds_given *given);

/* Rows of a table computed at a time: what is between takes room, and a product hardly gains from
 * more. */
enum { DS_NET_TABLE_CHUNK = 256 };

struct ds_net_table {
    ds_net *net;
    int rows, chunk; /* rows that are computed at a time */
    void *block;
    int *given; /* device: of a chunk */
    int *idx;   /* device: rows of a batch */
    void *acts; /* the arch's buffers (ds_arch.table_plan) */
    int *task;  /* host: set of each row */
    int *batch_task;
};

/* Of rows first .. first+count-1, while they are filled. */
ds_given ds_net_table_given(const ds_net_table *t, int first, int count);

/* net_run.c.  Times and classes to the device, where `given` has room for (3,rows).  task (rows):
 * the set of each. */
void ds_net_give(ds_net *net, int *given, int *task, const ds_net_sample *samples, int rows);

/* Runs of ops that a device may record (kernels/device.h). */
enum {
    DS_NET_SEGMENT_FORWARD,
    DS_NET_SEGMENT_BACKWARD,
    DS_NET_SEGMENT_REFOLD,
    DS_NET_SEGMENT_TABLE
};

/* Buffers side by side in one block, each from a line of 64 bytes on.  block NULL: they are only
 * counted. */
typedef struct {
    char *block;
    size_t used;
} ds_room;

static inline void *ds_room_take(ds_room *room, size_t bytes) {
    void *p = room->block && bytes ? room->block + room->used : NULL;
    room->used += (bytes + 63) / 64 * 64;
    return p;
}
/* Where what follows may be laid out, NULL while it is only counted. */
static inline char *ds_room_rest(const ds_room *room) {
    return room->block ? room->block + room->used : NULL;
}

#endif
