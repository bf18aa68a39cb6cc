/* daemon/gc.h - removes files of the state folder that nothing refers to any more.
 *
 *   blobs    registry/blobs.h: not named by an adapter, a manifest, a reference or a lease
 *   caches   prepared images, features and file hashes of contents that no dataset has now and no
 *            job works on, features of bases and latents of VAEs that were removed; whatever is not
 *            recognised stays
 *   models   files in bases/ and feature_nets/ that no row names; not while an import runs
 *
 * Everything younger than the grace stays.  Caches are only time: what is removed by mistake is
 * made again.  Runs on the loop thread, so nothing can begin to refer to a file meanwhile; a worker
 * that has a file open keeps it.  Thread: loop thread.
 */
#ifndef DS_DAEMON_GC_H
#define DS_DAEMON_GC_H

#include "daemon/daemon.h"

typedef struct {
    int64_t files, bytes, young; /* removed (or, dry, that would be); kept for their age alone */
} ds_gc_part;

typedef struct {
    ds_gc_part blobs, caches, models;
    int importing; /* models were left alone */
} ds_gc_result;

int ds_gc(ds_daemon *d, int64_t grace_ms, int dry_run, ds_gc_result *out, ds_error *err);

#endif
