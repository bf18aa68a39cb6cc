/* worker/job/device.c - opening a device for a job. */
#include "worker/job/device.h"
#include "base/log.h"
#include "engine/metrics/linalg.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int ds_worker_device_open(ds_device **out, const ds_device_options *o, ds_error *err) {
    int rc = ds_device_open(out, o, err);
    if (rc)
        return rc;
    if ((*out)->no_gpu[0])
        ds_log(DS_LOG_WARN, "device auto takes the processor: %s", (*out)->no_gpu);
    ds_linalg_use(*out);
    return 0;
}

void ds_worker_device_close(ds_device *dev) {
    ds_linalg_use(NULL);
    ds_device_close(dev);
}

void ds_worker_device_report(void) {
    const char *named = getenv("DIFFSCALER_CUDA_LIBRARY"); /* which needs no driver */
    if (!ds_device_cuda_driver() && (!named || !*named)) {
        puts("cuda: this machine has no NVIDIA driver");
        return;
    }
    for (int i = 0;; i++) { /* until the driver knows no further one */
        ds_device_options o = {.kind = "cuda", .ordinal = i + 1};
        ds_device *dev = NULL;
        ds_error why = {0};
        if (ds_device_open(&dev, &o, &why)) {
            if (i == 0)
                printf("cuda: %s\n", why.message);
            return;
        }
        printf("cuda:%d: %s, %s, %zu MiB free\n", i, dev->label, dev->device_class,
               dev->free_bytes ? dev->free_bytes(dev) >> 20 : 0);
        ds_device_close(dev);
    }
}
