/* kernels/device.c - the words for devices, and the choice of one: "auto" takes a GPU where there
 * is one. */
#include "kernels/device.h"
#include "base/limits.h"
#include "contract/options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Is kind a word for a device?  *ordinal: N of "cuda:N", else -1. */
static int known(const char *kind, int *ordinal) {
    *ordinal = -1;
    if (!ds_device_word(kind))
        return 0;
    if (!strncmp(kind, "cuda:", 5))
        *ordinal = (int)strtol(kind + 5, NULL, 10);
    return 1;
}

static int unknown(const char *kind, ds_error *err) {
    return ds_fail(err, DS_EINVAL, "device '%.20s' is not known: use " DS_DEVICE_WORDS, kind);
}

int ds_device_kind_check(const char *kind, ds_error *err) {
    int ordinal;
    return known(kind, &ordinal) ? 0 : unknown(kind, err);
}

#define COUNT(value, word) +1
const char *const ds_precision_names[] = {DS_PRECISIONS(DS_WORD_AT)[DS_PRECISIONS(COUNT)] = NULL};
#undef COUNT

int ds_precision_from_name(const char *name, enum ds_precision *out, ds_error *err) {
    for (int i = 0; ds_precision_names[i]; i++)
        if (!strcmp(name, ds_precision_names[i])) {
            *out = (enum ds_precision)i;
            return 0;
        }
    return ds_fail(err, DS_EINVAL, "precision '%.20s' is not known: use bf16, f32 or tf32", name);
}

static int open_cuda(ds_device **out, ds_device_options o, int ordinal, ds_error *err) {
    if (o.ordinal == 0)
        o.ordinal = ordinal + 1;
    return ds_device_open_cuda(out, &o, err);
}

/* The processor's kernels, or the plain ones where it has none. */
static int open_processor(ds_device **out, ds_device_options o, ds_error *err) {
    ds_error why = {0};
    if (o.precision == DS_PRECISION_TF32) /* a GPU's way to f32 */
        o.precision = DS_PRECISION_F32;
    int rc = ds_device_open_cpu(out, &o, &why);
    if (rc == DS_ENOTFOUND && o.precision == DS_PRECISION_F32)
        return ds_device_open_ref(out, &o, err); /* slow, but right */
    return rc ? ds_fail(err, rc, "%s", why.message) : 0;
}

int ds_device_open(ds_device **out, const ds_device_options *opt, ds_error *err) {
    *out = NULL;
    if (!opt)
        return open_processor(out, (ds_device_options){.precision = DS_PRECISION_F32}, err);
    const char *kind = opt->kind ? opt->kind : "auto";
    int ordinal;
    if (!known(kind, &ordinal))
        return unknown(kind, err);
    if (strcmp(kind, "ref") == 0)
        return ds_device_open_ref(out, opt, err);
    if (strcmp(kind, "cpu") == 0)
        return ds_device_open_cpu(out, opt, err);
    if (strcmp(kind, "auto") != 0)
        return open_cuda(out, *opt, ordinal, err);
    ds_error why = {0};
    if (open_cuda(out, *opt, -1, &why) == 0)
        return 0;
    int rc = open_processor(out, *opt, err);
    if (!rc && ds_device_cuda_driver())
        snprintf((*out)->no_gpu, sizeof(*out)->no_gpu, "%.255s", why.message);
    return rc;
}

void ds_device_close(ds_device *dev) {
    if (dev)
        dev->close(dev);
}
