/* kernels/device.c - choice of a device by kind. */
#include "kernels/device.h"

#include <string.h>

int ds_device_open(ds_device **out, const ds_device_options *opt, ds_error *err) {
    const char *kind = opt && opt->kind ? opt->kind : "auto";
    *out = NULL;
    if (strcmp(kind, "ref") == 0)
        return ds_device_open_ref(out, opt, err);
    if (strcmp(kind, "cpu") == 0)
        return ds_device_open_cpu(out, opt, err);
    if (strcmp(kind, "auto") != 0)
        return ds_fail(err, DS_EINVAL, "unknown device '%s': use ref, cpu or auto", kind);
    ds_error why;
    int rc = ds_device_open_cpu(out, opt, &why);
    if (rc == DS_ENOTFOUND && (!opt || opt->precision == DS_PRECISION_F32))
        return ds_device_open_ref(out, opt,
                                  err); /* no kernels for this processor: slow, but right */
    return rc ? ds_fail(err, rc, "%s", why.message) : 0;
}

void ds_device_close(ds_device *dev) {
    if (dev)
        dev->close(dev);
}
