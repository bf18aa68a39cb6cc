/* worker/decode/sandbox_internal.h - what parent and child of the decoder agree on.  Both are the
 * same program, so messages are plain structs. */
#ifndef DS_WORKER_DECODE_SANDBOX_INTERNAL_H
#define DS_WORKER_DECODE_SANDBOX_INTERNAL_H

#include "base/limits.h"
#include "worker/decode/sandbox.h"

/* Descriptors of the child. */
enum { DS_CHILD_SOCKET = 3, DS_CHILD_INPUT = 4, DS_CHILD_OUTPUT = 5 };

#define DS_CHILD_OUTPUT_SIZE ((size_t)DS_DECODE_MAX_PIXELS * 3)
#define DS_CHILD_MEMORY DS_DECODER_MEMORY
#define DS_CHILD_CPU_SECONDS 600
/* Processor time, then a fresh child: RLIMIT_CPU never hits an innocent picture. */
#define DS_CHILD_BUSY_MS 300000

typedef struct {
    int32_t op, side, use, pad;
    uint64_t size;
    int64_t max_pixels;
} ds_sandbox_message;

#endif
