/* registry/store/store.h - files named by their content.
 *
 *   DIR/blobs/sha256/ab/<64 hex>.zst   one zstd frame; the name is the SHA-256 of the bytes inside
 *   DIR/blobs/tmp/                     being written, or on its way out; emptied when the registry
 *                                      opens
 *
 * A blob file is whole under its final name or not there: written to tmp/, synced, renamed,
 * directory synced; only then may a row (registry/store/blobs.h) refer to it.  Recompression does
 * not change its identity.  Nothing here knows SQL. Thread: any (a store holds its path and one
 * mutex), so hashing and compressing can leave the loop thread.  Memory: bounded buffers, whatever
 * the size of the file (window at most 8 MiB). Errors: DS_EINVAL (a digest that is not 64
 * lower-case hex digits, before any path is made), DS_ENOTFOUND, DS_EINTEGRITY (content does not
 * match its name, or its frame is damaged), DS_ELIMIT, DS_ENOSPC, DS_EIO.
 */
#ifndef DS_REGISTRY_STORE_STORE_H
#define DS_REGISTRY_STORE_STORE_H

#include "base/digest.h"
#include "base/error.h"

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ds_store ds_store;

/* What is known of a stored blob; sizes in bytes. */
typedef struct {
    char sha256[DS_HEX_SIZE]; /* of the bytes inside: its name */
    char
        stored_sha256[DS_HEX_SIZE]; /* of the file: finds damage that leaves the content readable */
    int64_t raw_bytes, stored_bytes;
} ds_blob;

enum ds_store_input {
    DS_STORE_RAW, /* plain bytes: compressed on the way in */
    DS_STORE_ZSTD /* already one zstd frame with content size: kept as it is, content verified */
};

#define DS_BLOB_MAX ((int64_t)1 << 36) /* 64 GiB raw: nothing larger is accepted or read */

int ds_store_open(const char *state_dir, ds_store **out, ds_error *err);
/* Makes and removes nothing: for looking at a folder that somebody else may have. */
int ds_store_open_as_it_is(const char *state_dir, ds_store **out, ds_error *err);
void ds_store_close(ds_store *s); /* NULL is fine */

/* Put a file or bytes.  expected: its sha256 if known (else NULL): anything else is DS_EINTEGRITY
 * and nothing is stored.  Content that is there already is success; its age starts anew, so a sweep
 * leaves it to whoever put it now. */
int ds_store_put_file(ds_store *s, const char *path, enum ds_store_input input,
                      const char *expected, ds_blob *out, ds_error *err);
int ds_store_put_bytes(ds_store *s, const void *data, size_t n, ds_blob *out, ds_error *err);

/* Where the blob is (it need not exist): DS_EINVAL for a bad digest. */
int ds_store_path(const ds_store *s, const char *sha256, char out[PATH_MAX], ds_error *err);

/* Read and re-hash a blob of at most max raw bytes into malloc'ed memory (one extra 0 byte). */
int ds_store_read(ds_store *s, const char *sha256, size_t max, char **data, size_t *n,
                  ds_error *err);

/* Re-hash without keeping; fills *out when not NULL. */
int ds_store_verify(ds_store *s, const char *sha256, ds_blob *out, ds_error *err);

/* Holds: a blob that is held is not taken away, whatever its age says (clocks step, and a row can
 * wait for minutes for another program's lock).  Take it before the put, drop it once a row refers
 * to the blob or nobody will make one.  Every hold needs its drop.  They live in memory: a process
 * that dies holds nothing, and its job puts the blob again.  Thread: any. */
void ds_store_hold(ds_store *s, const char *sha256);
void ds_store_drop(ds_store *s, const char *sha256);

/* Removing, in steps.  Take away moves the file aside: *taken = 0 when it is held, or younger than
 * grace_ms; 1 also when there is none.  Nobody finds it from then on, and a new put is another
 * file.  Then discard it (any thread: a large file takes its time), or bring it back.  May go only
 * asks. */
int ds_store_may_go(ds_store *s, const char *sha256, int64_t grace_ms, int *yes, ds_error *err);
int ds_store_take_away(ds_store *s, const char *sha256, int64_t grace_ms, int *taken,
                       ds_error *err);
int ds_store_bring_back(ds_store *s, const char *sha256, ds_error *err);
int ds_store_discard(ds_store *s, const char *sha256, ds_error *err);

/* Call fn(ctx, sha256, age_ms, stored_bytes) for every blob file; stops at the first non-zero and
 * returns it. */
int ds_store_each(ds_store *s, int (*fn)(void *, const char *, int64_t, int64_t), void *ctx,
                  ds_error *err);

#endif
