/* worker/sandbox.h - a child process that decodes pictures and can do nothing else.
 *
 * Purpose: parsers of foreign bytes run apart.  The child is this program again
 * (`diffscaler-worker --decode-child`), with a socket and two shared memories: the file's bytes
 * (read-only for the child) and the result.  Its seccomp list lets it read and write that socket,
 * take anonymous memory and exit: no open, no socket, no exec, no second process.  Address space,
 * CPU time, descriptors and core dumps are limited; a picture that takes longer than timeout_ms
 * costs the child its life.  A crash or a hang costs that picture, with its reason; the next
 * picture gets a fresh child.
 *
 * Ownership: open/close.  Thread: one thread at a time per sandbox; several sandboxes may run at
 * once.  Errors: ds_sandbox_run returns 0 whenever it has a verdict about the picture; a negative
 * code only when no child can be started (the job cannot go on).
 */
#ifndef DS_WORKER_SANDBOX_H
#define DS_WORKER_SANDBOX_H

#include "worker/decode.h"

#define DS_SANDBOX_ARG "--decode-child"
#define DS_SANDBOX_MAX_SIDE 4096

typedef struct ds_sandbox ds_sandbox;

typedef struct {
    const char *program; /* NULL: this program (/proc/self/exe) */
    int timeout_ms;      /* per picture; 0: 10,000 */
} ds_sandbox_options;

enum ds_sandbox_op {
    DS_SANDBOX_HEADER = 1, /* ds_decode_header */
    DS_SANDBOX_SQUARE = 2, /* decode, centre crop, resize to side x side x 3 */
    DS_SANDBOX_FULL = 3,   /* decode; at most DS_DECODE_MAX_PIXELS */
    /* for tests: what the child must survive or must not be able to do */
    DS_SANDBOX_TRY_OPEN = 100, /* each TRY fills reason with strerror, or "allowed" */
    DS_SANDBOX_TRY_SOCKET,
    DS_SANDBOX_TRY_EXEC,
    DS_SANDBOX_TRY_FORK,
    DS_SANDBOX_TRY_WRITE_INPUT, /* make the input writable */
    DS_SANDBOX_TRY_MEMORY,      /* take 2 GiB */
    DS_SANDBOX_CRASH,
    DS_SANDBOX_HANG
};

typedef struct {
    int ok; /* 0: reason says why not */
    ds_image_info info;
    char reason[DS_REASON_SIZE];
} ds_sandbox_reply;

int ds_sandbox_open(ds_sandbox **out, const ds_sandbox_options *options, ds_error *err);
void ds_sandbox_close(ds_sandbox *s); /* NULL is fine */

uint8_t *ds_sandbox_input(ds_sandbox *s);        /* DS_FILE_MAX bytes to fill before a run */
const uint8_t *ds_sandbox_output(ds_sandbox *s); /* valid until the next run */

/* size bytes are in the input; side only for DS_SANDBOX_SQUARE; DS_SANDBOX_HEADER is for training
 * whatever use is. */
int ds_sandbox_run(ds_sandbox *s, enum ds_sandbox_op op, enum ds_decode_use use, size_t size,
                   int side, int64_t max_pixels, ds_sandbox_reply *reply, ds_error *err);

int ds_sandbox_restarts(const ds_sandbox *s); /* children lost to crashes and time limits */

/* main() calls this when argv[1] is DS_SANDBOX_ARG, before it does anything else.  Never starts a
 * thread; returns the exit status. */
int ds_decode_child_main(void);

#endif
