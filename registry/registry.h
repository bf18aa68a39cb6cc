/* registry/registry.h - one state folder: its lock, its SQLite registry and its blob store.
 *
 *   DIR/lock           flock'ed while a registry is open for writing; holds the owner's pid
 *   DIR/registry.db    SQLite, WAL, synchronous=FULL; the truth about everything
 *   DIR/backups/       a copy made before each schema upgrade
 *   DIR/blobs/         content-addressed files (registry/store/store.h)
 *   DIR/jobs/<id>/     job directories (docs/jobs.md); only their names matter here
 *
 * Thread: everything that takes a ds_registry runs on the thread that opened it (the daemon's loop
 * thread); only ds_store functions may run elsewhere.  There is exactly one read-write connection
 * and it does all checkpoints (SQLite before 3.51.3 can damage a WAL that two connections write or
 * checkpoint at the same moment).
 * Ownership: json_t results are new references; free them with json_decref.  Strings given in are
 * copied.  Reading functions give objects in the shapes of docs/api.md (times RFC 3339, unknown
 * values null), so rows become objects in one place.
 * Transactions: every writing function is one transaction, its events included; when it fails
 * nothing has changed.
 * Errors: DS_ENOTFOUND, DS_ECONFLICT, DS_EINVAL from what was asked; DS_EINTEGRITY (damaged),
 * DS_ENEWER, DS_EPERM (read-only), DS_ENOSPC, DS_EBUSY (another program holds the write lock for
 * longer than 5 s), DS_EIO from the store.
 */
#ifndef DS_REGISTRY_REGISTRY_H
#define DS_REGISTRY_REGISTRY_H

#include "registry/core/handle.h"

#include <pthread.h>

/* Open the state folder, creating what is missing: take the lock (DS_ECONFLICT naming the pid of
 * the process that has it), check and migrate the registry (backup first), remove half-written
 * files, and put `running` jobs whose process is gone back to `queued` (ds_jobs_recover; not while
 * another program holds the registry's lock: then they are still among ds_jobs_running). */
int ds_registry_open(const char *state_dir, ds_registry **out, ds_error *err);

/* A registry file of more than 64 MiB is not read in full before ds_registry_open returns: 1 then.
 * ds_registry_check_file reads the file of a state folder in full, on a connection of its own and
 * on any thread, beside the daemon's: DS_EINTEGRITY when it is damaged.  ds_registry_check_stop, of
 * any thread before or during it, ends it within milliseconds, with 0.  `check` outlives both. */
typedef struct {
    pthread_mutex_t lock;
    struct sqlite3 *db; /* while it can be interrupted */
    int stop;
} ds_registry_check_run;
#define DS_REGISTRY_CHECK_RUN                                                                      \
    { .lock = PTHREAD_MUTEX_INITIALIZER }
int ds_registry_unread(const ds_registry *r);
int ds_registry_check_file(const char *dir, ds_registry_check_run *check, ds_error *err);
void ds_registry_check_stop(ds_registry_check_run *check);

/* Closes, checkpoints, releases the lock.  NULL is fine. */
void ds_registry_close(ds_registry *r);

const char *ds_registry_dir(const ds_registry *r); /* absolute path of the state folder */
ds_store *ds_registry_store(ds_registry *r);
int ds_registry_schema(const ds_registry *r); /* number of the last migration */

/* How long a call waits for another program's lock before it gives DS_EBUSY: 5 s at first, which is
 * too long for a loop that others wait for. */
void ds_registry_patience(ds_registry *r, int ms);
int ds_registry_lock_seen(ds_registry *r); /* such a DS_EBUSY since the last call of this? */
int ds_registry_locked(ds_registry *r);    /* does another program have the write lock now? */
/* Which registry this is: 32 hex digits, made with it; a copy of it has the same. */
void ds_registry_instance(ds_registry *r, char *out, size_t size);

/* 1 when another connection (another program) has committed since the last call, else 0 (PRAGMA
 * data_version; microseconds): call it every second, and reconcile when it says 1. */
int ds_registry_foreign_change(ds_registry *r);

/* What is written between the two is one transaction, waits for the disk once, and is kept if rc is
 * 0 and all of it went well; ds_registry_end gives what became of it. */
int ds_registry_begin(ds_registry *r, ds_error *err);
int ds_registry_end(ds_registry *r, int rc, ds_error *err);

/* Called on the loop thread after each committed transaction that wrote events, outside of any
 * transaction, with the newest seq: wake event followers, start work.  One function; NULL = none.
 */
void ds_registry_on_events(ds_registry *r, void (*fn)(void *ctx, int64_t last_seq), void *ctx);

/* {"datasets":n,"adapters":n,"jobs":{"queued":n,...},"blobs":{"count":n,"bytes":n},
 *  "base":{...}|null,"feature_net":{...}|null,"waiting":[...] (ds_jobs_waiting),"event_seq":n,
 *  "schema":n}: the counts of /v1/status (adapters = published versions; bytes = stored). */
int ds_registry_counts(ds_registry *r, json_t **out, ds_error *err);

/* integrity_check, foreign_key_check and the invariants listed in docs/registry.md; DS_EINTEGRITY
 * with the first finding.  Seconds on large registries. */
int ds_registry_check(ds_registry *r, ds_error *err);

/* A consistent copy while running (VACUUM INTO), synced; `path` must not exist. */
int ds_registry_backup(ds_registry *r, const char *path, ds_error *err);

#endif
