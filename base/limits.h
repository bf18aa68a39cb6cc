/* base/limits.h - the one range of each number that a person gives, "least, most"; those of a
 * training are in contract/options.h.
 *
 * dsctl's options, the daemon's API and the worker's spec all take them from here, and the engine
 * can do what they allow, so that nothing is accepted at one place and refused at the next.
 */
#ifndef DS_BASE_LIMITS_H
#define DS_BASE_LIMITS_H

#include <stdint.h>

#define DS_RANGE_SAMPLES 1, 50000 /* a sheet takes fewer, by their size */
#define DS_RANGE_COLUMNS 0, 256
#define DS_DEVICE_ORDINALS 1024 /* cuda:N with N below it */
/* imports */
#define DS_RANGE_HEADS 1, 128
#define DS_RANGE_HEADS_OR_NONE 0, 128 /* in a spec, 0: find out */

/* Address space of the process that decodes pictures (worker/decode/sandbox.h).  Under a hard limit
 * below it none starts, unless the worker may raise limits: less would make pictures fail by their
 * size.
 */
#define DS_DECODER_MEMORY ((uint64_t)1536 << 20)
/* MiB of a process's hard limit where that is below it and the user is not root, who may raise it;
 * else 0.  pid 0: this process. */
int64_t ds_address_limit_mib(int64_t pid);

/* What a set needs to be measured: images for a Frechet distance, for KID; samples for an interval
 * of the distance. */
enum { DS_IMAGES_FOR_FD = 2, DS_IMAGES_FOR_KID = 4, DS_SAMPLES_FOR_INTERVAL = 16 };

/* "auto", "cpu", "cuda", "ref", or "cuda:N" with such an N. */
int ds_device_word(const char *word);
#define DS_DEVICE_WORDS "auto, cpu, cuda, cuda:N or ref"

#endif
