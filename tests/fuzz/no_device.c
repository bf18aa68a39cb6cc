/* tests/fuzz/no_device.c - stands in for kernels/, which reading files does without. */
#include "kernels/device.h"

#include <stdlib.h>

int ds_device_no_room(ds_device *dev, size_t bytes, ds_error *err, const char *format, ...) {
    (void)dev, (void)bytes, (void)err, (void)format;
    abort();
}
