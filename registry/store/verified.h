/* registry/store/verified.h - which files were compared with their digest since this process began.
 *
 * A stored file is hashed once, before it is first handed out; then its size is looked at each
 * time, and it counts as another file when device, inode, size, or a time of it changed.  What was
 * found damaged is remembered in the same way, until the file is another one.
 *
 * Memory: a table of fixed size (about 1 MB, touched as it is used); a file that falls out of it is
 * hashed again.  Thread: any.
 */
#ifndef DS_REGISTRY_STORE_VERIFIED_H
#define DS_REGISTRY_STORE_VERIFIED_H

#include "base/digest.h"
#include "base/error.h"

#include <sys/stat.h>

typedef struct ds_verified ds_verified;

ds_verified *ds_verified_new(void);
void ds_verified_free(ds_verified *v); /* NULL is fine */

enum ds_verdict {
    DS_VERDICT_UNKNOWN,
    DS_VERDICT_GOOD,
    DS_VERDICT_DAMAGED,
    DS_VERDICT_TOLD /* damaged, and an event says so */
};

/* What is known of the file with this stat, whose bytes must have this digest. */
enum ds_verdict ds_verified_get(ds_verified *v, const char *sha256, const struct stat *st);
void ds_verified_put(ds_verified *v, const char *sha256, const struct stat *st,
                     enum ds_verdict verdict);

/* Hash an open file from its beginning and remember the answer: 0 = it has this digest,
 * DS_EINTEGRITY (with both) = it has not, or it changed meanwhile; DS_EIO.  The offset of fd is not
 * moved. */
int ds_verified_hash(ds_verified *v, const char *sha256, int fd, ds_error *err);

#endif
