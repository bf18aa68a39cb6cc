/* worker/device.h - choice of a device by the words of a spec or a command line.
 *
 * Kinds: "auto" (a GPU where there is one, else the processor), "cpu", "ref", "cuda", "cuda:N".
 * Precisions: "bf16", "f32", "tf32" (products of a GPU's f32 with 10 bits of mantissa).
 * Thread: the main one.  Errors: DS_EINVAL for a wrong word; as ds_device_open.
 */
#ifndef DS_WORKER_DEVICE_H
#define DS_WORKER_DEVICE_H

#include "kernels/device.h"

int ds_device_kind_check(const char *kind, ds_error *err);
int ds_precision_from_name(const char *name, enum ds_precision *out, ds_error *err);

/* ds_device_open for a job or a command: a line in the log says why "auto" took the processor where
 * a driver is there, and large eigenvalue problems of this thread go to the device if it can
 * (until ds_worker_device_close). */
int ds_worker_device_open(ds_device **out, const ds_device_options *o, ds_error *err);
void ds_worker_device_close(ds_device *dev); /* NULL is fine */

/* One line for each CUDA device that can be opened, or why there is none. */
void ds_worker_device_report(void);

#endif
