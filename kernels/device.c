/* kernels/device.c - choice of a device by kind: "auto" takes a GPU where there is one. */
#include "kernels/device.h"
#include "kernels/cuda/entry.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* N of "cuda:N", -1 for "cuda", -2 if it is neither. */
static int cuda_ordinal(const char *kind) {
    char *end;
    if (strcmp(kind, "cuda") == 0)
        return -1;
    if (strncmp(kind, "cuda:", 5) != 0 || kind[5] < '0' || kind[5] > '9')
        return -2;
    long n = strtol(kind + 5, &end, 10);
    return *end == 0 && n < 1024 ? (int)n : -2;
}

static int open_cuda(ds_device **out, const ds_device_options *opt, int ordinal, ds_error *err) {
    ds_device_options o = opt ? *opt : (ds_device_options){.precision = DS_PRECISION_BF16};
    if (o.ordinal == 0)
        o.ordinal = ordinal + 1;
    return ds_device_open_cuda(out, &o, err);
}

/* The processor's kernels, or the plain ones where it has none. */
static int open_processor(ds_device **out, const ds_device_options *opt, ds_error *err) {
    ds_device_options o = opt ? *opt : (ds_device_options){.precision = DS_PRECISION_F32};
    ds_error why = {0};
    if (o.precision == DS_PRECISION_TF32) /* a GPU's way to f32 */
        o.precision = DS_PRECISION_F32;
    int rc = ds_device_open_cpu(out, opt ? &o : NULL, &why);
    if (rc == DS_ENOTFOUND && o.precision == DS_PRECISION_F32)
        return ds_device_open_ref(out, opt ? &o : NULL, err); /* slow, but right */
    return rc ? ds_fail(err, rc, "%s", why.message) : 0;
}

int ds_device_open(ds_device **out, const ds_device_options *opt, ds_error *err) {
    const char *kind = opt && opt->kind ? opt->kind : "auto";
    *out = NULL;
    if (strcmp(kind, "ref") == 0)
        return ds_device_open_ref(out, opt, err);
    if (strcmp(kind, "cpu") == 0)
        return ds_device_open_cpu(out, opt, err);
    if (cuda_ordinal(kind) > -2)
        return open_cuda(out, opt, cuda_ordinal(kind), err);
    if (strcmp(kind, "auto") != 0)
        return ds_fail(err, DS_EINVAL, "unknown device '%s': use auto, cpu, cuda, cuda:N or ref",
                       kind);
    ds_error why = {0};
    if (opt && open_cuda(out, opt, -1, &why) == 0)
        return 0;
    int rc = open_processor(out, opt, err);
    if (!rc && opt && ds_cuda_driver_present())
        snprintf((*out)->no_gpu, sizeof(*out)->no_gpu, "%.255s", why.message);
    return rc;
}

void ds_device_close(ds_device *dev) {
    if (dev)
        dev->close(dev);
}
