/* worker/decode/sandbox.h - a child process that decodes pictures and can do nothing else.
 *
 * Purpose: parsers of foreign bytes run apart.  The child is this program again
 * (`diffscaler-worker --decode-child`), with a socket and two shared memories: the file's bytes
 * (read-only for the child) and the result.  Its seccomp list lets it read and write that socket,
 * take anonymous memory and exit: no open, no socket, no exec, no second process.  Address space,
 * CPU time, descriptors and core dumps are limited.  A crash costs that picture, with its reason;
 * the next picture gets a fresh child.
 *
 * Time: it never decides about a picture.  What is limited is the child's processor time, and a
 * picture that spends it twice ends the call with an error.  A child that takes no processor time
 * for patience_ms (a pause, a machine that swaps), or that was killed from outside, is replaced and
 * the picture asked for again; after five such children the call ends with DS_EBUSY.
 *
 * Ownership: open/close.  Thread: one thread at a time per sandbox; several sandboxes may run at
 * once.  Errors: ds_sandbox_run returns 0 whenever it has a verdict about the picture; a negative
 * code when there is none and the job cannot go on: no child can be started (DS_EFAILED, DS_EBUSY),
 * none came to an end (DS_EBUSY), or the processor time was spent (DS_EFAILED).  The message calls
 * the picture "it"; the caller puts its name before.
 */
#ifndef DS_WORKER_DECODE_SANDBOX_H
#define DS_WORKER_DECODE_SANDBOX_H

#include "worker/decode/decode.h"

#include <sys/types.h>

#define DS_SANDBOX_ARG "--decode-child"
#define DS_SANDBOX_MAX_SIDE 4096
#define DS_SANDBOX_CPU_MS 60000 /* the slowest picture within the limits takes about 10,000 */
#define DS_SANDBOX_PATIENCE_MS 60000

typedef struct ds_sandbox ds_sandbox;

typedef struct {
    const char *program; /* NULL: this program (/proc/self/exe) */
    int cpu_ms;          /* processor time per picture; 0: DS_SANDBOX_CPU_MS */
    int patience_ms;     /* with a child that takes none; 0: DS_SANDBOX_PATIENCE_MS */
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
    DS_SANDBOX_HANG,   /* take processor time for ever */
    DS_SANDBOX_STOPPED /* take none for ever */
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

pid_t ds_sandbox_pid(const ds_sandbox *s);    /* of the child that there is now; -1: none */
int ds_sandbox_restarts(const ds_sandbox *s); /* children lost to crashes and limits */

/* main() calls this when argv[1] is DS_SANDBOX_ARG, before it does anything else.  Never starts a
 * thread; returns the exit status. */
int ds_decode_child_main(void);

#endif
