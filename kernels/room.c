/* kernels/room.c - what to say when a device has no room. */
#include "kernels/device.h"

#include <stdarg.h>
#include <stdio.h>

int ds_device_no_room(ds_device *dev, size_t bytes, ds_error *err, const char *format, ...) {
    const size_t mib = (size_t)1 << 20;
    char what[200];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    size_t need = (bytes + mib - 1) / mib;
    if (!dev->free_bytes || !dev->total_bytes)
        return ds_fail(err, DS_ENOMEM, "%s needs %zu MiB, and there is not so much memory on %s",
                       what, need, dev->device_class);
    size_t room = dev->free_bytes(dev), all = dev->total_bytes(dev);
    int never = bytes > all;
    return ds_fail(err, never ? DS_EINVAL : DS_ENOMEM,
                   "%s needs %zu MiB, and the GPU (%s) has %zu MiB in all, %zu MiB of them free: "
                   "%suse a smaller batch or micro-batch, or the device cpu",
                   what, need, dev->label, all / mib, room / mib,
                   never ? "" : "end what else runs there ('nvidia-smi' shows it), ");
}
