/* kernels/ref/device.c - the reference device: host memory, one thread, f32. */
#include "kernels/ref/host.h"
#include "kernels/ref/ref.h"

#include <stdint.h>
#include <stdio.h>

static size_t ref_weight_bytes(ds_device *dev, int m, int n, int f32, int grad) {
    (void)dev, (void)f32, (void)grad;
    return sizeof(ds_weight) + (size_t)m * (size_t)n * sizeof(float);
}

static ds_weight *ref_weight_new(ds_device *dev, int m, int n, int f32, int grad) {
    (void)f32, (void)grad;
    DS_ASSERT(m > 0 && n > 0);
    ds_weight *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    w->m = m;
    w->n = n;
    w->w = ds_host_alloc(dev, (size_t)m * (size_t)n * sizeof *w->w);
    if (!w->w) {
        free(w);
        return NULL;
    }
    return w;
}

static void ref_weight_free(ds_device *dev, ds_weight *w) {
    (void)dev;
    if (w)
        free(w->w);
    free(w);
}

static size_t ref_workspace_bytes(ds_device *dev) {
    (void)dev;
    return 0; /* taken and given back by each op */
}

static int ref_reads_matrix(ds_device *dev, const ds_affiner *ad) {
    (void)dev, (void)ad;
    return 1; /* sums are made from their definition */
}

static void ref_close(ds_device *dev) { free(dev); }

static const struct ds_ops ref_ops = {
#define DS_OP(op, args) .op = ds_ref_##op,
#include "kernels/ops.def"
#undef DS_OP
};

int ds_device_open_ref(ds_device **out, const ds_device_options *opt, ds_error *err) {
    *out = NULL;
    if (opt && opt->precision != DS_PRECISION_F32)
        return ds_fail(
            err, DS_EINVAL,
            "the reference device computes in f32 only: ask for precision f32 or for the "
            "cpu device");
    ds_device *dev = calloc(1, sizeof *dev);
    if (!dev)
        return ds_fail(err, DS_ENOMEM, "cannot open the reference device: not enough memory");
    dev->name = "ref";
    snprintf(dev->device_class, sizeof dev->device_class, "ref-f32");
    dev->act_size = sizeof(float);
    dev->threads = 1;
    dev->host_memory = 1;
    dev->ops = &ref_ops;
    dev->alloc = ds_host_alloc;
    dev->free = ds_host_free;
    dev->upload = ds_host_upload;
    dev->download = ds_host_download;
    dev->sync = ds_host_sync;
    dev->weight_new = ref_weight_new;
    dev->weight_free = ref_weight_free;
    dev->weight_bytes = ref_weight_bytes;
    dev->workspace_bytes = ref_workspace_bytes;
    dev->reads_matrix = ref_reads_matrix;
    dev->close = ref_close;
    *out = dev;
    return 0;
}
