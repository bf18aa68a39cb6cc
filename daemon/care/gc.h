/* daemon/care/gc.h - removes files of the state folder that nothing refers to any more.
 *
 *   blobs    registry/store/blobs.h: not named by an adapter, a manifest, a reference or a lease
 *   caches   prepared images, features and file hashes of contents that no dataset has now and no
 *            job works on, features of bases and latents of VAEs that were removed; whatever is not
 *            recognised stays
 *   models   files in bases/ and feature_nets/ that no row names; not while an import runs
 *
 * Everything younger than the grace stays.  Caches are only time: what is removed by mistake is
 * made again; a worker that has a file open keeps it.
 * Folders are read and files removed on a thread of the pool.  Meanwhile no import begins
 * (ds_daemon.removing), so no row can come to name a model's file that is on its way out; blobs are
 * asked about again right before they go (registry/store/blobs.h).
 */
#ifndef DS_DAEMON_CARE_GC_H
#define DS_DAEMON_CARE_GC_H

#include "daemon/core/shared.h"

typedef struct {
    int64_t files, bytes, young; /* removed (or, dry, that would be); kept for their age alone */
} ds_gc_part;

typedef struct {
    ds_gc_part blobs, caches, models;
    int importing; /* models were left alone */
} ds_gc_result;

/* begin, then files and next in turns until next gives 0 or a code, then end, which frees.  Files
 * on any thread, the others on the loop's. */
typedef struct ds_gc ds_gc;
int ds_gc_begin(ds_daemon *d, int64_t grace_ms, int dry_run, ds_gc **out, ds_error *err);
void ds_gc_files(ds_gc *g);
int ds_gc_next(ds_gc *g, ds_error *err); /* > 0: files has something to do */
int ds_gc_end(ds_gc *g, ds_gc_result *out, ds_error *err);

/* The caches alone, for prune: facts are those of ds_cleanup_facts.  Any thread. */
void ds_gc_caches(ds_daemon *d, json_t *facts, int64_t grace_ms, int dry_run, ds_gc_part *out);

/* Remove the file of a base or network, on the pool: only what an import wrote, and only when no
 * row names it (bases may share a VAE). */
void ds_gc_remove_model(ds_daemon *d, int nets, const char *path);

#endif
