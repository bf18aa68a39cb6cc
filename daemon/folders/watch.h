/* daemon/folders/watch.h - changes in dataset folders, as hints; and whether the folders can be
 * had.
 *
 * One inotify descriptor under a uv_poll for all folders.  A folder's directories are watched
 * recursively (links are not followed), at most `max_dirs` in all.  A burst of changes is reported
 * once, when the folder has been quiet for `settle_ms` (or has changed for 12 times as long without
 * a pause).  A lost event is never believed away: on IN_Q_OVERFLOW every folder is reported and its
 * watches are made again.  What is reported says only "look again"; the scan is the truth.
 *
 * No file system is asked here: helpers do that (daemon/folders/helper.h), so one that hangs makes
 * its dataset `unreachable` and nothing else.  A root is opened without following links, which are
 * resolved once, when a dataset is added: one that is a link later is not followed.  What has the
 * root's name is what is watched: the folders above it are watched for being moved, so another
 * folder that is put in its place, by whatever rename, is watched from then on.  A root that is
 * gone, or that cannot be had, is looked for again until it is there.
 *
 * Without inotify (no instance left) there are no hints, and the periodic rescan sees changes.
 *
 * Thread: loop thread.  Errors: none; trouble (limits) is in ds_watch_note().
 */
#ifndef DS_DAEMON_FOLDERS_WATCH_H
#define DS_DAEMON_FOLDERS_WATCH_H

#include "base/error.h"
#include "daemon/folders/helper.h"

#include <stdint.h>
#include <uv.h>

typedef struct ds_watch ds_watch;

enum ds_reach {
    DS_REACH_UNKNOWN, /* nobody has answered yet */
    DS_REACH_OK,
    DS_REACH_MISSING,
    DS_REACH_LINK,    /* a link is where the folder was; the text says where it leads */
    DS_REACH_REFUSED, /* it is, or holds, the state folder */
    DS_REACH_UNREACHABLE,
};

/* changed, reach: 0, or not 0 to be called again at the next tick. */
typedef struct {
    int settle_ms;
    unsigned max_dirs;
    const char *self, *state; /* the daemon's executable, for helpers; its state folder */
    int (*changed)(void *ctx, int64_t id); /* the folder `id` settled after changes */
    void (*armed)(void *ctx, int64_t id);  /* its directories are all watched now */
    int (*reach)(void *ctx, int64_t id, enum ds_reach is, const char *text); /* NULL: nobody asks */
    void *ctx;
} ds_watch_options;

ds_watch *ds_watch_open(uv_loop_t *loop, const ds_watch_options *o);
void ds_watch_close(ds_watch *w); /* NULL is fine; run the loop afterwards */
ds_helpers *ds_watch_helpers(ds_watch *w);

/* hints 0: only whether it can be had.  What is known with the same root is left as it is. */
void ds_watch_add(ds_watch *w, int64_t id, const char *root, int hints);
void ds_watch_remove(ds_watch *w, int64_t id);

/* Watch exactly what a list says: mark (n = 0: forget all marks), then drop the unmarked. */
void ds_watch_keep(ds_watch *w, const int64_t *ids, int n);
void ds_watch_drop_others(ds_watch *w);

/* Whether a job may read the folder now: it answered within the last second, and is watched (for at
 * most 2 s of waiting: a huge tree is scanned meanwhile, and again when all of it is watched). */
enum ds_gate { DS_GATE_OPEN, DS_GATE_WAIT, DS_GATE_SHUT };
enum ds_gate ds_watch_gate(ds_watch *w, int64_t id);

enum ds_reach ds_watch_reach(const ds_watch *w, int64_t id, const char **text, int64_t *since_ms);
const char *ds_reach_name(enum ds_reach reach); /* "unreachable" */
void ds_watch_verify(ds_watch *w);              /* every root: is it what is watched? */
void ds_watch_tick(ds_watch *w);                /* about once a second: settle times, lost roots */

uint64_t ds_watch_overflows(const ds_watch *w);
unsigned ds_watch_dirs(const ds_watch *w);
const char *ds_watch_note(const ds_watch *w); /* "" or why some folders are not watched */

#endif
