/* daemon/care/fsck_internal.h - what the parts of fsck share.  Private to fsck*.c. */
#ifndef DS_DAEMON_CARE_FSCK_INTERNAL_H
#define DS_DAEMON_CARE_FSCK_INTERNAL_H

#include "daemon/care/fsck.h"

#include <sqlite3.h>

typedef struct {
    const ds_fsck_options *o;
    ds_fsck_result *out;
    sqlite3 *db;
    sqlite3_stmt *known;
    int readable; /* what rows say can be used */
    int64_t lone, lone_bytes;
} fsck;

/* repaired: what was done, NULL = nothing. */
void fsck_tell(fsck *k, int damage, const char *repaired, const char *way_out, const char *thing,
               const char *cause);
json_t *fsck_text(const char *s);
void fsck_caches(fsck *k);

#endif
