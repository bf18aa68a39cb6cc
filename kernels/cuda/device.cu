/* kernels/cuda/device.cu - opening the CUDA device: memory, weights, recording, the table of ops.
 */
#include "kernels/cuda/dense.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/entry.h"

void ds_cuda_fatal(const char *what, const char *why) {
    fprintf(stderr,
            "fatal: the CUDA device failed at %s: %s; the job goes on from its last "
            "checkpoint when it is started again\n",
            what, why);
    fflush(stderr);
    _Exit(DS_CUDA_EXIT_FAILED);
}

void ds_cuda_no_room(ds_cuda *c, const char *what, size_t bytes) {
    const size_t mib = (size_t)1 << 20;
    char some[48] = "more memory";
    if (bytes)
        snprintf(some, sizeof some, "%zu MiB", (bytes + mib - 1) / mib);
    fprintf(stderr,
            "no room on the GPU (%s): %s needs %s, and %zu MiB of %zu MiB are free; the job goes "
            "on from its last checkpoint when it is started again; if nothing else runs there "
            "('nvidia-smi' shows it), lower the micro-batch or use the device cpu\n",
            c->gpu, what, some, ds_lib_free_bytes(c) / mib, ds_lib_total_bytes(c) / mib);
    fflush(stderr);
    _Exit(DS_CUDA_EXIT_NO_ROOM);
}

void *ds_cuda_scratch(ds_cuda *c, size_t bytes) {
    if (bytes <= c->scratch_bytes)
        return c->scratch;
    if (c->recording)
        ds_cuda_fatal("scratch memory", "it grew while a graph was recorded (a bug)");
    ds_lib_free(c, c->scratch);
    c->scratch_bytes = 0;
    bytes = (bytes + bytes / 8 + ((size_t)1 << 20)) & ~(((size_t)1 << 20) - 1);
    c->scratch = ds_lib_alloc(c, bytes);
    if (!c->scratch)
        ds_cuda_no_room(c, "scratch memory", bytes);
    c->scratch_bytes = bytes;
    c->generation++;
    return c->scratch;
}

/* ---------------------------------------------------------------- memory */

static void *cuda_alloc(ds_device *dev, size_t bytes) {
    return bytes > SIZE_MAX / 2 ? NULL : ds_lib_alloc(ds_cuda_begin(dev), bytes ? bytes : 1);
}

static void cuda_free(ds_device *dev, void *p) {
    if (p)
        ds_lib_free(ds_cuda_begin(dev), p);
}

static void cuda_upload(ds_device *dev, void *dst, const void *src_host, size_t bytes) {
    if (bytes)
        ds_lib_upload(ds_cuda_begin(dev), dst, src_host, bytes);
}

static void cuda_download(ds_device *dev, void *dst_host, const void *src, size_t bytes) {
    if (bytes)
        ds_lib_download(ds_cuda_begin(dev), dst_host, src, bytes);
}

static void cuda_fetch(ds_device *dev, int slot, const void *src, size_t bytes) {
    DS_ASSERT((slot == 0 || slot == 1) && bytes <= DS_FETCH_BYTES);
    ds_lib_fetch(ds_cuda_begin(dev), slot, src, bytes);
}

static void cuda_fetched(ds_device *dev, int slot, void *dst_host, size_t bytes) {
    ds_lib_fetched(ds_cuda_begin(dev), slot, dst_host, bytes);
}

static void cuda_sync(ds_device *dev) { ds_lib_sync(ds_cuda_begin(dev)); }

static size_t weight_size(ds_device *dev, int m, int n, int f32) {
    return (size_t)m * (size_t)n * (f32 ? sizeof(float) : dev->act_size);
}

static size_t cuda_weight_bytes(ds_device *dev, int m, int n, int f32, int grad) {
    (void)grad; /* the same copy serves dx */
    return weight_size(dev, m, n, f32);
}

static ds_weight *cuda_weight_new(ds_device *dev, int m, int n, int f32, int grad) {
    (void)grad;
    DS_ASSERT(m > 0 && n > 0);
    ds_weight *w = (ds_weight *)calloc(1, sizeof *w);
    if (!w)
        return NULL;
    w->m = m;
    w->n = n;
    w->runs = 1;
    w->f32 = f32 || dev->act_size == sizeof(float);
    w->tf32 = f32 == DS_WEIGHT_TF32 && ds_cuda_of(dev)->tf32;
    w->w = ds_lib_alloc(ds_cuda_begin(dev), weight_size(dev, m, n, f32));
    if (!w->w) {
        free(w);
        return NULL;
    }
    return w;
}

static void cuda_weight_free(ds_device *dev, ds_weight *w) {
    if (!w)
        return;
    if (!w->part)
        ds_lib_free(ds_cuda_begin(dev), w->w);
    free(w);
}

static int cuda_weights_new(ds_device *dev, int m, int n, int count, ds_weight **each,
                            ds_weight **all) {
    DS_ASSERT(count > 0 && m <= INT_MAX / count);
    *all = cuda_weight_new(dev, m * count, n, 0, 0);
    if (!*all)
        return 1;
    (*all)->m = m;
    (*all)->runs = count;
    for (int i = 0; i < count; i++) {
        each[i] = (ds_weight *)ds_xcalloc(1, sizeof **each);
        *each[i] = **all;
        each[i]->w = (char *)(*all)->w + (size_t)i * weight_size(dev, m, n, 0);
        each[i]->runs = each[i]->part = 1;
    }
    return 0;
}

static size_t cuda_workspace_bytes(ds_device *dev) {
    ds_cuda *c = ds_cuda_of(dev);
    return c->scratch_bytes + c->branch_bytes + ds_lib_workspace_bytes(c);
}

static size_t cuda_free_bytes(ds_device *dev) { return ds_lib_free_bytes(ds_cuda_of(dev)); }

static size_t cuda_total_bytes(ds_device *dev) { return ds_lib_total_bytes(ds_cuda_of(dev)); }

/* ---------------------------------------------------------------- recording
 * A segment is a run of ops that the engine repeats with the same arguments.  The first time it
 * runs plainly (scratch grows, algorithms are chosen), the second time it is recorded, then
 * replayed. */

enum { MAX_GRAPHS = 256 };

struct ds_cuda_graph {
    ds_segment key;
    unsigned generation; /* of scratch when it was recorded */
    int seen;
    void *graph;
};

struct ds_cuda_graphs {
    ds_cuda_graph item[MAX_GRAPHS];
    int count;
    ds_cuda_graph *current; /* being recorded */
};

static int same(const ds_segment *a, const ds_segment *b) {
    return a->owner == b->owner && a->kind == b->kind && a->batch == b->batch && a->in == b->in &&
           a->out == b->out && a->state == b->state;
}

static void drop(ds_cuda *c, ds_cuda_graph *g) {
    if (g->graph)
        ds_lib_graph_free(c, g->graph);
    g->graph = NULL;
}

static ds_cuda_graph *find(ds_cuda *c, const ds_segment *key) {
    ds_cuda_graphs *all = c->graphs;
    for (int i = 0; i < all->count; i++)
        if (same(&all->item[i].key, key))
            return &all->item[i];
    if (all->count == MAX_GRAPHS) { /* more shapes than anybody needs: start again */
        for (int i = 0; i < all->count; i++)
            drop(c, &all->item[i]);
        all->count = 0;
    }
    ds_cuda_graph *g = &all->item[all->count++];
    memset(g, 0, sizeof *g);
    g->key = *key;
    return g;
}

static int cuda_replay(ds_device *dev, const ds_segment *key) {
    ds_cuda *c = ds_cuda_begin(dev);
    DS_ASSERT(!c->recording);
    ds_cuda_graph *g = find(c, key);
    if (g->graph && g->generation != c->generation) {
        drop(c, g);
        g->seen = 0;
    }
    if (g->graph) {
        ds_lib_graph_launch(c, g->graph);
        return 1;
    }
    if (g->seen++ == 0 || ds_lib_record_begin(c))
        return 0;
    c->recording = 1;
    c->graphs->current = g;
    return 0;
}

static void cuda_segment_end(ds_device *dev) {
    ds_cuda *c = ds_cuda_begin(dev);
    if (!c->recording)
        return;
    ds_cuda_graph *g = c->graphs->current;
    c->recording = 0;
    c->graphs->current = NULL;
    g->graph = ds_lib_record_end(c);
    g->generation = c->generation;
    ds_lib_graph_launch(c, g->graph);
}

static void cuda_forget(ds_device *dev, const void *owner) {
    ds_cuda *c = ds_cuda_begin(dev);
    ds_cuda_graphs *all = c->graphs;
    int kept = 0;
    for (int i = 0; i < all->count; i++)
        if (all->item[i].key.owner == owner)
            drop(c, &all->item[i]);
        else
            all->item[kept++] = all->item[i];
    all->count = kept;
}

/* ---------------------------------------------------------------- opening */

static const struct ds_ops cuda_ops = {
#define DS_OP(op, args) ds_cuda_##op,
#include "kernels/ops.def"
#undef DS_OP
};

static void cuda_close(ds_device *dev) {
    ds_cuda *c = ds_cuda_begin(dev);
    ds_lib_sync(c);
    for (int i = 0; i < c->graphs->count; i++)
        drop(c, &c->graphs->item[i]);
    ds_lib_free(c, c->scratch);
    ds_lib_free(c, c->branch);
    ds_lib_close(c);
    free(c->graphs);
    free(c);
    free(dev);
}

static void fill_device(ds_device *dev, ds_cuda *c) {
    dev->name = "cuda";
#ifdef DS_CUDA_EMU
    const char *class_prefix = "cuda-emulated";
#else
    char class_prefix[24];
    snprintf(class_prefix, sizeof class_prefix, "cuda-sm%d", c->sm);
#endif
    snprintf(dev->device_class, sizeof dev->device_class, "%s-%s", class_prefix,
             c->bf16   ? "bf16"
             : c->tf32 ? "tf32"
                       : "f32");
    snprintf(dev->label, sizeof dev->label, "%s", c->gpu);
    dev->act_size = c->bf16 ? 2 : 4;
    dev->act_bf16 = c->bf16;
    dev->threads = 1;
    dev->host_memory = 0;
    dev->ops = &cuda_ops;
    dev->alloc = cuda_alloc;
    dev->free = cuda_free;
    dev->upload = cuda_upload;
    dev->download = cuda_download;
    dev->fetch = cuda_fetch;
    dev->fetched = cuda_fetched;
    dev->sync = cuda_sync;
    dev->weight_new = cuda_weight_new;
    dev->weight_free = cuda_weight_free;
    dev->weight_bytes = cuda_weight_bytes;
    dev->workspace_bytes = cuda_workspace_bytes;
    dev->free_bytes = cuda_free_bytes;
    dev->total_bytes = cuda_total_bytes;
    dev->dense = &ds_cuda_dense;
    dev->weights_new = cuda_weights_new;
    dev->replay = cuda_replay;
    dev->segment_end = cuda_segment_end;
    dev->forget = cuda_forget;
    dev->close = cuda_close;
    dev->impl = c;
}

extern "C" __attribute__((visibility("default"))) int
ds_cuda_device_open(ds_device **out, const ds_device_options *opt, const ds_cuda_abi *abi,
                    ds_error *err) {
    static const ds_cuda_abi mine = DS_CUDA_ABI;
    *out = NULL;
    if (memcmp(abi, &mine, sizeof mine) != 0)
        return ds_fail(err, DS_EINVAL,
                       "the CUDA library is of another version than the program: "
                       "install both from one build");
    ds_device *dev = (ds_device *)calloc(1, sizeof *dev);
    ds_cuda *c = (ds_cuda *)calloc(1, sizeof *c);
    c->graphs = (ds_cuda_graphs *)calloc(1, sizeof *c->graphs);
    c->bf16 = opt->precision == DS_PRECISION_BF16;
    c->tf32 = opt->precision == DS_PRECISION_TF32;
    int rc = ds_lib_open(c, opt->ordinal - 1, err);
    if (rc) {
        free(c->graphs);
        free(c);
        free(dev);
        return rc;
    }
    fill_device(dev, c);
    *out = dev;
    return 0;
}
