/* bench/gpu/profile.h - where the time of a device goes, by op.
 *
 * Between begin and end every op is waited for and its time added up, and nothing is recorded or
 * replayed: so the sum is longer than the work is, by the wait (some 10 us an op) and by what a
 * device does with two ops at once.  It shows where to look, not how long a step takes. Thread:
 * that of the device; one device at a time. */
#ifndef DS_BENCH_GPU_PROFILE_H
#define DS_BENCH_GPU_PROFILE_H

#include "kernels/device.h"

void ds_profile_begin(ds_device *dev);

/* A line of JSON for each op that was called, the longest first: {"who": "diffscaler", "part":
 * part, "op": name, "calls": a run, "ms": a run, "share": of all}. */
void ds_profile_end(ds_device *dev, const char *part, int runs);

#endif
