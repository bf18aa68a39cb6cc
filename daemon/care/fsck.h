/* daemon/care/fsck.h - is everything in a state folder what it should be?
 *
 *   store    each blob's file: there, its size, its digest, the digest of its content
 *   rows     pages, foreign keys and the invariants of docs/registry.md
 *   models   the files of bases, VAEs and feature networks
 *   folders  of jobs that are not there any more, or of another registry
 *   caches   that cannot be read
 *
 * Each finding says the thing, the cause and the way out.  Findings that are no damage (a cache, a
 * left-over) are notes.  A repair does what loses nothing: it puts a blob anew from a copy that has
 * its digest, moves a damaged file to quarantine/, removes caches that cannot be read.
 *
 * Reads by a connection of its own, read-only, so it runs on any thread while the registry is in
 * use; or in a program of its own, with nothing else in the folder.
 */
#ifndef DS_DAEMON_CARE_FSCK_H
#define DS_DAEMON_CARE_FSCK_H

#include "registry/registry.h"
#include "registry/store/store.h"

#include <jansson.h>

typedef struct {
    const char *state;
    ds_store *store;
    int quick;  /* only what can be seen without reading files */
    int repair; /* not together with quick */
} ds_fsck_options;

typedef struct {
    json_t *findings; /* [{thing, cause, way_out, damage, repaired: text|null}], at most 100 */
    int64_t more;     /* findings beyond them */
    int64_t damage;   /* that is still there */
    int64_t blobs, bytes, models, folders, caches; /* looked at */
    struct ds_fsck_put {
        ds_blob blob;
        char media_type[64];
    } * puts; /* blobs that were put anew and are held: rows are owed to them */
    size_t put_count;
} ds_fsck_result;

/* 0, also when there are findings; DS_ENOTFOUND without a registry, DS_ENEWER.  Give the result to
 * ds_fsck_rows, if it has puts, and to ds_fsck_release. */
int ds_fsck_run(const ds_fsck_options *o, ds_fsck_result *out, ds_error *err);
/* Registry's thread: the rows of what was put anew. */
int ds_fsck_rows(ds_registry *r, ds_fsck_result *f, ds_error *err);
/* The answer of POST /v1/fsck. */
json_t *ds_fsck_json(const ds_fsck_result *f, int quick, int repair);
void ds_fsck_release(ds_fsck_result *f, ds_store *store);

/* diffscalerd --fsck quick|full|repair: prints the same document; returns the exit code (9: there
 * is damage).  DS_ECONFLICT while a daemon has the folder. */
int ds_fsck_main(const char *state, const char *how);

#endif
