/* tests/mirror.h - a device with memory of its own, behind a device that takes host pointers.
 *
 * Tests of ops make their arrays with malloc and read results where they lie.  A GPU cannot.  The
 * mirror of a device has the same ops; each call copies every array that it names to the device,
 * runs the op there, and copies those back that it may have written (not const in ops.def), with
 * all that stands around them: guard zones too.  So a test is the same on every device, and uploads
 * and downloads are tested with it.
 *
 * Which arrays there are has to be said with ds_mirror_add; an op that is given another pointer
 * ends the test.  What ops take from the host (structs, steps, sample numbers) stays there.
 * Thread: that of the device.  Ownership: the mirror owns the device.
 */
#ifndef DS_TESTS_MIRROR_H
#define DS_TESTS_MIRROR_H

#include "kernels/device.h"

/* The mirror of a device whose memory is its own; another device is given back as it is. */
ds_device *ds_mirror(ds_device *real);

/* An array of the host.  Nothing happens where dev is no mirror. */
void ds_mirror_add(ds_device *dev, const void *host, size_t bytes);
void ds_mirror_remove(ds_device *dev, const void *host); /* before it is freed; absent is fine */
void ds_mirror_clear(ds_device *dev);                    /* all arrays: a test has ended early */

/* Between the two calls nothing is copied back and what was written is not copied there again: for
 * ops that a device joins with the next one. */
void ds_mirror_hold(ds_device *dev);
void ds_mirror_release(ds_device *dev);

#endif
