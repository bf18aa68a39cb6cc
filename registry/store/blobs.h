/* registry/store/blobs.h - rows about blobs: which exist, who needs them, and the sweep.
 *
 * A blob is needed while an adapter version that is not deleted, a manifest, a reference or a live
 * lease names it: references are foreign keys and the sweep asks SQL, there is no counter to drift.
 * Order when putting:
 *   1  ds_store_hold
 *   2  ds_store_put_*              the file is durable
 *   3  ds_blob_add, ds_publish     the row
 *   4  ds_store_drop
 * A file without a row, and a row without a reference, are left alone until older than the grace.
 */
#ifndef DS_REGISTRY_STORE_BLOBS_H
#define DS_REGISTRY_STORE_BLOBS_H

#include "registry/core/handle.h"
#include "registry/store/store.h"

/* Row for a blob whose file is in the store (checked: DS_EINTEGRITY if absent).  media_type such as
 * "application/vnd.safetensors", "application/x-ndjson". */
int ds_blob_add(ds_registry *r, const ds_blob *b, const char *media_type, ds_error *err);

/* Re-hash content and file of one blob against its row: DS_EINTEGRITY for any flipped bit. */
int ds_blob_check(ds_registry *r, const char *sha256, ds_error *err);

int ds_blob_get(ds_registry *r, const char *sha256, ds_blob *out, ds_error *err);

/* Keep a blob until `until_ms` (wall clock) or until the job ends; job 0 = nobody's. */
int ds_blob_lease(ds_registry *r, const char *sha256, int64_t job, int64_t until_ms, ds_error *err);

/* Keep every blob whose file the job's spec names ({"path","sha256"} at any depth, the path in the
 * store) until the job ends, instead of those that an earlier spec of it named: what a running job
 * reads may be removed by a person, or replaced, meanwhile.  One transaction. */
int ds_blob_lease_spec(ds_registry *r, int64_t job, const json_t *spec, ds_error *err);

typedef struct {
    int64_t removed, removed_bytes; /* files removed (or, dry, that would be) */
    int64_t kept_young;             /* unreferenced but within the grace */
} ds_sweep;

/* Remove what nothing needs and what is older than grace_ms (DS_SWEEP_GRACE_MS unless told). */
#define DS_SWEEP_GRACE_MS (3600 * 1000)
int ds_blobs_sweep(ds_registry *r, int64_t grace_ms, int dry_run, ds_sweep *out, ds_error *err);

/* The same in steps, for files that go on another thread:
 *
 *   begin (registry's thread)  marks rows that nothing needs
 *   look  (any thread)         lists files, also those without a row
 *   while (ds_blobs_sweep_take(...) > 0)  (registry's thread)  takes some aside, in one transaction
 *       files (any thread)     removes what was taken
 *   end   (registry's thread)  frees; the numbers
 *
 * Take asks again, with the write lock held, whether the blob is needed or held, so a blob that was
 * published or put since the step before stays.  When it fails nothing was taken.  It gives the
 * number of blobs it has dealt with, 0 at the end, or a code.  Begin is followed by end. */
typedef struct ds_blob_sweep ds_blob_sweep;
int ds_blobs_sweep_begin(ds_registry *r, int64_t grace_ms, int dry_run, ds_blob_sweep **out,
                         ds_error *err);
void ds_blobs_sweep_look(ds_blob_sweep *s);
int ds_blobs_sweep_take(ds_blob_sweep *s, ds_error *err);
void ds_blobs_sweep_files(ds_blob_sweep *s);
int ds_blobs_sweep_end(ds_blob_sweep *s, ds_sweep *out, ds_error *err);

/* Re-hash every present blob; fn (may be NULL) is told of each bad one; returns DS_EINTEGRITY when
 * any was bad (message names the first and the number).  Also stamps verified_at. */
int ds_blobs_verify(ds_registry *r, void (*fn)(void *, const char *sha256, const char *why),
                    void *ctx, ds_error *err);

#endif
