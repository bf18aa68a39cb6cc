/* worker/images/hash_cache.h - what is known of a file as long as its stat does not change.
 *
 * Purpose: scanning an unchanged folder costs one stat per file.  Key (device, inode); an entry
 * counts only while size, mtime and ctime are equal too.  ctime cannot be set by programs, so an
 * edit that restores mtime is noticed.  A file touched less than DS_HASH_CACHE_RACY_NS before it
 * was read is not remembered: clocks of file systems tick coarsely.
 *
 * File: one, rewritten atomically, with a SHA-256 at its end; a damaged one is as good as none
 * (it is only a cache).  Entries unused for DS_HASH_CACHE_KEEP scans are dropped.
 * Ownership: open/close.  Thread: one.
 */
#ifndef DS_WORKER_IMAGES_HASH_CACHE_H
#define DS_WORKER_IMAGES_HASH_CACHE_H

#include "worker/decode/decode.h"

#include <sys/stat.h>

#define DS_HASH_CACHE_RACY_NS INT64_C(200000000)
#define DS_HASH_CACHE_KEEP 16

typedef struct ds_hash_cache ds_hash_cache;

typedef struct {
    char sha256[DS_HEX_SIZE];
    ds_image_info info;
    int ok;
    char reason[DS_REASON_SIZE]; /* when !ok */
} ds_file_facts;

/* path NULL or "": remembers for this process only.  *damaged (may be NULL) tells that a file was
 * there and could not be used. */
ds_hash_cache *ds_hash_cache_open(const char *path, int *damaged);
int ds_hash_cache_find(ds_hash_cache *c, const struct stat *st, ds_file_facts *facts); /* 1 found */
/* read_at_ns: the wall clock (ds_hash_cache_now) just before st was taken and the file read. */
void ds_hash_cache_put(ds_hash_cache *c, const struct stat *st, const ds_file_facts *facts,
                       int64_t read_at_ns);
int64_t ds_hash_cache_now(void);
int ds_hash_cache_save(ds_hash_cache *c, ds_error *err); /* nothing new: does not write */
void ds_hash_cache_close(ds_hash_cache *c);

#endif
