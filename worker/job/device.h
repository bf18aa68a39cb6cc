/* worker/job/device.h - opening the device of a job or a command.
 *
 * Thread: the main one.  Errors: as ds_device_open.
 */
#ifndef DS_WORKER_JOB_DEVICE_H
#define DS_WORKER_JOB_DEVICE_H

#include "kernels/device.h"

/* ds_device_open for a job or a command: a line in the log says why "auto" took the processor where
 * a driver is there, and large eigenvalue problems of this thread go to the device if it can
 * (until ds_worker_device_close). */
int ds_worker_device_open(ds_device **out, const ds_device_options *o, ds_error *err);
void ds_worker_device_close(ds_device *dev); /* NULL is fine */

/* One line for each CUDA device that can be opened, or why there is none. */
void ds_worker_device_report(void);

#endif
