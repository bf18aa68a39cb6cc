/* worker/device.c - the words for devices, and opening one for a job. */
#include "worker/device.h"
#include "base/log.h"
#include "engine/linalg.h"
#include "kernels/cuda/entry.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ORDINALS = 1024 };

int ds_device_kind_check(const char *kind, ds_error *err) {
    static const char *const words[] = {"auto", "cpu", "cuda", "ref"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp(kind, words[i]))
            return 0;
    size_t digits = strncmp(kind, "cuda:", 5) ? 0 : strspn(kind + 5, "0123456789");
    if (digits && digits < 5 && !kind[5 + digits] && strtol(kind + 5, NULL, 10) < ORDINALS)
        return 0;
    return ds_fail(err, DS_EINVAL,
                   "device '%.20s' is not known: use auto, cpu, cuda, cuda:N or ref", kind);
}

int ds_precision_from_name(const char *name, enum ds_precision *out, ds_error *err) {
    static const struct {
        const char *name;
        enum ds_precision precision;
    } list[] = {
        {"bf16", DS_PRECISION_BF16}, {"f32", DS_PRECISION_F32}, {"tf32", DS_PRECISION_TF32}};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (!strcmp(name, list[i].name)) {
            *out = list[i].precision;
            return 0;
        }
    return ds_fail(err, DS_EINVAL, "precision '%.20s' is not known: use bf16, f32 or tf32", name);
}

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
    if (!ds_cuda_driver_present()) {
        puts("cuda: this machine has no NVIDIA driver");
        return;
    }
    for (int i = 0; i < ORDINALS; i++) {
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
