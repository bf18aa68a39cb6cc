/* daemon/jobs/tail.h - reading a job's events.ndjson while it grows.
 * A torn last line waits for its end; a line above 64 KiB or one that is no JSON object is skipped.
 * Thread: one. */
#ifndef DS_DAEMON_JOBS_TAIL_H
#define DS_DAEMON_JOBS_TAIL_H

#include "base/mem.h"

#include <jansson.h>
#include <stdint.h>

#define DS_TAIL_LINE_MAX (64 << 10)

typedef struct {
    int fd;         /* -1 until the file is there */
    int64_t offset; /* first byte not yet read */
    ds_buf partial; /* the beginning of a line */
    int skipping;   /* inside a line that is too long */
} ds_tail;

/* from_end: lines that are there already are passed over. */
void ds_tail_init(ds_tail *t, const char *path, int from_end);
void ds_tail_release(ds_tail *t);

/* fn for each new line (text without its newline, length); at most max_bytes are read.
 * Returns the number of bytes read. */
int64_t ds_tail_lines(ds_tail *t, const char *path, int64_t max_bytes,
                      void (*fn)(void *ctx, const char *line, size_t n), void *ctx);

/* Cut DIR/worker.log to its last part when it is over the limit. */
#define DS_TAIL_LOG_MAX (8 << 20)
void ds_tail_bound_log(const char *dir);

#endif
