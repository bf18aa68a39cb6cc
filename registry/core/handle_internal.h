/* registry/core/handle_internal.h - what a ds_registry is made of.
 *
 * Internal to registry/.  Thread: the registry's.
 */
#ifndef DS_REGISTRY_CORE_HANDLE_INTERNAL_H
#define DS_REGISTRY_CORE_HANDLE_INTERNAL_H

#include "registry/core/handle.h"

#include <limits.h>
#include <sqlite3.h>
#include <sys/types.h>

enum { PLACE_FILES = 4 }; /* registry/core/place.c names them */
struct place {
    dev_t dev;
    ino_t ino; /* 0 = not known */
};

#define DB_CACHE 256 /* statements kept prepared; a power of two */

struct ds_registry {
    sqlite3 *db;
    ds_store *store;
    int lock_fd;
    int unread; /* the file is large, and not all of its pages were looked at */
    int schema;
    char dir[PATH_MAX];
    struct db_cached {
        char *sql; /* owned */
        sqlite3_stmt *st;
        struct db_cached *next; /* of `more` */
    } cache[DB_CACHE], *more;   /* those that found all their places in use; owned */
    int tx_depth, tx_failed;
    int64_t data_version; /* as of the last ds_registry_foreign_change */
    int64_t told_seq;     /* newest event that on_events was told of */
    void (*on_events)(void *ctx, int64_t last_seq);
    void *on_events_ctx;
    int lock_seen; /* a call failed because another program has the lock (ds_registry_lock_seen) */
    int64_t settled_seq, settled_data; /* ds_reconcile found nothing to do at these */
    int64_t pass_after; /* of its pass that is not over: datasets after this one; 0: none is */
    int64_t pass_seq, pass_data, pass_made; /* when the pass began; jobs that it made */
    struct place place[PLACE_FILES];        /* of the files, when they were opened */
    ds_error broken; /* why nothing is written any more; code 0 = all is well */
};

#endif
