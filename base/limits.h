/* base/limits.h - the one range of each number that a person gives, "least, most".
 *
 * dsctl's options, the daemon's table and the worker's spec all take them from here, and the engine
 * can do what they allow, so that nothing is accepted at one place and refused at the next
 * (tests/test_system_limits.c walks both ends and both neighbours through all of them).
 */
#ifndef DS_BASE_LIMITS_H
#define DS_BASE_LIMITS_H

#include <stdint.h>

/* method */
#define DS_RANGE_RANK 1, 64
/* train */
#define DS_RANGE_STEPS 1, 1e8
#define DS_RANGE_BATCH 1, 65536
#define DS_RANGE_LR 1e-9, 1
#define DS_RANGE_WARMUP 0, 1e6
#define DS_RANGE_CLIP 0, 1e6
#define DS_RANGE_WEIGHT_DECAY 0, 1
#define DS_RANGE_EMA 0, 0.999999
#define DS_RANGE_LABEL_DROPOUT 0, 1
#define DS_RANGE_SEED 0, 9e15 /* whole numbers that a double holds */
#define DS_RANGE_VB_WEIGHT 0, 1e3
#define DS_RANGE_FOCUS 0, 10
#define DS_RANGE_FOCUS_MEAN -10, 10
#define DS_RANGE_HELDOUT 0, 65536
/* sample */
#define DS_RANGE_SAMPLE_STEPS 1, 1000
#define DS_RANGE_GUIDANCE 0, 100
#define DS_RANGE_SAMPLES 1, 50000 /* a sheet takes fewer, by their size */
#define DS_RANGE_COLUMNS 0, 256
/* evaluate, probe, gate */
#define DS_RANGE_N 4, 100000
#define DS_RANGE_KID_SUBSETS 2, 10000
#define DS_RANGE_KID_SUBSET_SIZE 2, 10000
#define DS_RANGE_PROBE_N 1, 64
#define DS_RANGE_FD_TOLERANCE 0, 10
#define DS_RANGE_KID_SIGMAS 0, 100
#define DS_RANGE_WORSE_MARGIN 0, 100
#define DS_RANGE_WORSE_SIGMAS 0, 1000
/* device */
#define DS_RANGE_THREADS 0, 1024 /* 0: as many as it may use */
#define DS_DEVICE_ORDINALS 1024  /* cuda:N with N below it */
/* imports */
#define DS_RANGE_HEADS 1, 128
#define DS_RANGE_HEADS_OR_NONE 0, 128 /* in a spec, 0: find out */

/* Address space of the process that decodes pictures (worker/sandbox.h).  Under a hard limit below
 * it none starts, unless the worker may raise limits: less would make pictures fail by their size.
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
