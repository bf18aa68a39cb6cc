/* kernels/ref/host.h - memory of devices that compute in the host's: ref and cpu
 * (kernels/device.h).
 *
 * Aligned to a cache line, and at least one long.  Thread: any.  Errors: NULL where there is no
 * room.
 */
#ifndef DS_KERNELS_REF_HOST_H
#define DS_KERNELS_REF_HOST_H

#include "kernels/device.h"

void *ds_host_alloc(ds_device *dev, size_t bytes);
void ds_host_free(ds_device *dev, void *p);
void ds_host_upload(ds_device *dev, void *dst, const void *src_host, size_t bytes);
void ds_host_download(ds_device *dev, void *dst_host, const void *src, size_t bytes);
void ds_host_sync(ds_device *dev);

#endif
