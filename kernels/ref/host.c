/* kernels/ref/host.c - memory of the host as that of a device. */
#include "kernels/ref/host.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

void *ds_host_alloc(ds_device *dev, size_t bytes) {
    (void)dev;
    if (bytes > SIZE_MAX - 128)
        return NULL;
    return aligned_alloc(64, (bytes + 64) / 64 * 64);
}

void ds_host_free(ds_device *dev, void *p) {
    (void)dev;
    free(p);
}

void ds_host_upload(ds_device *dev, void *dst, const void *src_host, size_t bytes) {
    (void)dev;
    if (bytes)
        memcpy(dst, src_host, bytes);
}

void ds_host_download(ds_device *dev, void *dst_host, const void *src, size_t bytes) {
    ds_host_upload(dev, dst_host, src, bytes);
}

void ds_host_sync(ds_device *dev) { (void)dev; }
