/* daemon/care/prune.h - growth has an end: old jobs, events, folders and left-over files go.
 *
 *   rows      registry/jobs/prune.h
 *   folders   jobs/N of jobs that ended before the horizon or are not there any more, and
 *             jobs/N.foreign-K as old; checkpoints of every job that ended
 *   caches    what gc would remove of them, a day old at least
 *   left-overs  temporary files of programs that are gone: an hour old, or at a start 10 s
 *
 * The daemon does it some minutes after its start and once a day; POST /v1/prune does it now.  Rows
 * go on the loop thread, some hundreds at a time; files on the pool.
 */
#ifndef DS_DAEMON_CARE_PRUNE_H
#define DS_DAEMON_CARE_PRUNE_H

#include "daemon/core/shared.h"

typedef struct {
    double jobs, folders, events; /* seconds that they are kept; 0 = for ever */
    int dry_run;
} ds_prune_options;

typedef struct {
    int64_t jobs, events;                               /* rows */
    int64_t folders, checkpoints, caches, files, bytes; /* bytes of all four */
} ds_prune_result;

void ds_prune_defaults(const ds_daemon *d, ds_prune_options *o);

/* Starts; done(ctx, ...) on the loop thread at its end, also when it fails half-way (rc, err).
 * DS_EBUSY while a gc, an fsck or another prune is under way. */
typedef void (*ds_prune_done)(void *ctx, const ds_prune_result *r, int rc, const ds_error *err);
int ds_prune_start(ds_daemon *d, const ds_prune_options *o, ds_prune_done done, void *ctx,
                   ds_error *err);

/* At a start, when no worker is left of an earlier daemon: temporary files of who was killed. */
void ds_prune_left_overs(ds_daemon *d);

void ds_prune_tick(ds_daemon *d); /* once a second */

#endif
