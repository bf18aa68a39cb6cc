/* daemon/watch.h - changes in dataset folders, as hints.
 *
 * One inotify descriptor under a uv_poll for all folders.  A folder's directories are watched
 * recursively (links are not followed), at most `max_dirs` in all; they are added in slices of a
 * few milliseconds so that a large tree does not stop the loop.  A burst of changes is reported
 * once, when the folder has been quiet for `settle_ms` (or has changed for 12 times as long without
 * a pause).  A lost event is never believed away: on IN_Q_OVERFLOW every folder is reported and its
 * watches are made again.  What is reported says only "look again"; the scan is the truth.
 *
 * Thread: loop thread.  Errors: ds_watch_open only; later trouble (limits) is in ds_watch_note().
 */
#ifndef DS_DAEMON_WATCH_H
#define DS_DAEMON_WATCH_H

#include "base/error.h"

#include <stdint.h>
#include <uv.h>

typedef struct ds_watch ds_watch;

typedef struct {
    int settle_ms;
    unsigned max_dirs;
    void (*changed)(void *ctx, int64_t id); /* the folder `id` settled after changes */
    void (*armed)(void *ctx, int64_t id);   /* its directories are all watched now */
    void *ctx;
} ds_watch_options;

int ds_watch_open(ds_watch **out, uv_loop_t *loop, const ds_watch_options *o, ds_error *err);
void ds_watch_close(ds_watch *w); /* NULL is fine; run the loop afterwards */

void ds_watch_add(ds_watch *w, int64_t id, const char *root); /* a known id is left as it is */
void ds_watch_remove(ds_watch *w, int64_t id);

/* Watch exactly what a list says: mark (n = 0: forget all marks), then drop the unmarked. */
void ds_watch_keep(ds_watch *w, const int64_t *ids, int n);
void ds_watch_drop_others(ds_watch *w);

int ds_watch_arming(const ds_watch *w, int64_t id);
double ds_watch_arming_seconds(const ds_watch *w, int64_t id); /* since it was added; 0 if armed */
void ds_watch_tick(ds_watch *w); /* about once a second: settle times */

uint64_t ds_watch_overflows(const ds_watch *w);
unsigned ds_watch_dirs(const ds_watch *w);
const char *ds_watch_note(const ds_watch *w); /* "" or why some folders are not watched */

#endif
