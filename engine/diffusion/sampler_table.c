/* engine/diffusion/sampler_table.c - see sampler_table.h. */
#include "engine/diffusion/sampler_table.h"
#include "base/mem.h"
#include "engine/model/net.h"

#include <stdlib.h>
#include <string.h>

/* On a GPU 342 rows of DiT-XL/2: 171 steps of one picture with guidance.  On the processor 42: its
 * adaLN layers, a third of all weights, are read once in 21 steps.  Of a small model no more rows
 * there than one product takes: with them the table stays in the caches. */
static const size_t OWN_BYTES = (size_t)256 << 20, HOST_BYTES = (size_t)32 << 20;
enum { HOST_ROWS = 256 };

struct ds_window {
    ds_net *net;
    const ds_schedule *s;
    ds_net_table *table;
    int rows;           /* of the table */
    int whole;          /* all steps and conditions of the run fit */
    ds_net_sample *set; /* what rows are kept for: `count` different conditions */
    int count;
    int first, steps; /* steps first, first - 1, ... are there: rows of a set, then of the next, so
                         that those of a task follow each other */
    int used;         /* by this batch */
    int *slot;        /* of each sample of a batch: its place in set */
    int *row;
    ds_net_sample *ask; /* rows */
};

int ds_window_rows(const ds_base *base, const ds_device *dev) {
    size_t row = ds_net_table_row_bytes(base);
    size_t rows = row ? (dev->host_memory ? HOST_BYTES : OWN_BYTES) / row : 0;
    return dev->host_memory && rows > HOST_ROWS ? HOST_ROWS : (int)rows;
}

static int same(const ds_net *net, const ds_net_sample *a, const ds_net_sample *b) {
    return a->row == b->row && a->base_row == b->base_row &&
           (!ds_net_several(net) || a->task == b->task);
}

/* Place of c in set (count); count: it is not there. */
static int find(const ds_net *net, const ds_net_sample *set, int count, const ds_net_sample *c) {
    int i = 0;
    while (i < count && !same(net, &set[i], c))
        i++;
    return i;
}

/* The different conditions among n, in order; room + 1: more than room. */
static int distinct(const ds_net *net, ds_net_sample *set, int room, const ds_net_sample *all,
                    int n) {
    int count = 0;
    for (int i = 0; i < n; i++) {
        if (find(net, set, count, &all[i]) < count)
            continue;
        if (count == room)
            return room + 1;
        set[count++] = all[i];
    }
    return count;
}

ds_window *ds_window_new(ds_net *net, const ds_schedule *s, const ds_net_sample *all, int n,
                         int batch, int most) {
    if (most < 1 || n < 1)
        return NULL;
    ds_window *w = ds_xcalloc(1, sizeof *w);
    w->net = net;
    w->s = s;
    w->set = ds_xmalloc((size_t)most * sizeof *w->set);
    w->count = distinct(net, w->set, most / s->steps, all, n);
    w->whole = w->count <= most / s->steps;
    if (!w->whole)
        w->count = 0;
    int need = w->whole ? w->count : batch;
    w->rows = need <= most / s->steps ? need * s->steps : most;
    w->table = ds_net_table_new(net, w->rows);
    w->slot = ds_xmalloc((size_t)batch * sizeof *w->slot);
    w->row = ds_xmalloc((size_t)batch * sizeof *w->row);
    w->ask = ds_xmalloc((size_t)w->rows * sizeof *w->ask);
    if (w->table)
        return w;
    ds_window_free(w);
    return NULL;
}

void ds_window_free(ds_window *w) {
    if (!w)
        return;
    ds_net_table_free(w->table);
    free(w->set);
    free(w->slot);
    free(w->row);
    free(w->ask);
    free(w);
}

/* The batch's own set.  If the last one's was the same, what is there can be used again. */
static void own_set(ds_window *w, const ds_net_sample *samples, int n) {
    ds_net_sample *set = ds_xmalloc((size_t)w->rows * sizeof *set);
    int count = distinct(w->net, set, w->rows, samples, n), equal = count == w->count;
    for (int i = 0; equal && i < count && i < w->rows; i++)
        equal = same(w->net, &set[i], &w->set[i]);
    if (!equal)
        w->steps = 0;
    if (count <= w->rows)
        memcpy(w->set, set, (size_t)count * sizeof *set);
    w->count = count;
    free(set);
}

void ds_window_batch(ds_window *w, const ds_net_sample *samples, int first, int n) {
    if (!w)
        return;
    if (!w->whole)
        own_set(w, samples + first, n);
    w->used = w->count <= w->rows && (w->rows / w->count > 1 || w->count < n);
    for (int i = first; w->used && i < first + n; i++) {
        w->slot[i] = find(w->net, w->set, w->count, &samples[i]);
        DS_ASSERT(w->slot[i] < w->count);
    }
}

/* Step k and the next ones, as many as there is room for. */
static void fill(ds_window *w, int k) {
    int steps = w->rows / w->count < k + 1 ? w->rows / w->count : k + 1;
    w->first = k;
    w->steps = steps;
    for (int j = 0; j < w->count; j++)
        for (int i = 0; i < steps; i++) {
            ds_net_sample *c = &w->ask[j * steps + i];
            *c = w->set[j];
            c->t = w->s->time[k - i];
        }
    ds_net_table_fill(w->table, &(ds_net_input){.samples = w->ask}, steps * w->count);
}

int ds_window_forward(ds_window *w, float *out, const float *x, int first, int n, int k) {
    if (!w || !w->used)
        return 0;
    if (k > w->first || k <= w->first - w->steps)
        fill(w, k);
    for (int i = 0; i < n; i++)
        w->row[i] = w->slot[first + i] * w->steps + w->first - k;
    ds_net_forward_rows(w->table, out, x, w->row, n);
    return 1;
}
