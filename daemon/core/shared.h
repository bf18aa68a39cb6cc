/* daemon/core/shared.h - what the parts of the daemon share.
 *
 * One loop thread owns everything in here: the registry, the sockets, the watches, the workers.
 * Only file work (hashing and compressing blobs, unpacking a manifest, removing what gc chose) runs
 * in libuv's thread pool, on data that the loop thread does not touch meanwhile
 * (daemon/jobs/finish.h).
 *
 * Work is never pushed: whatever happens (a request, a folder, an exit, a row written by somebody
 * else) ends in ds_daemon_poke(), and the next turn of the loop derives from the registry what
 * there is to do.  So a lost poke costs at most a second (the tick), never a dataset.
 */
#ifndef DS_DAEMON_CORE_SHARED_H
#define DS_DAEMON_CORE_SHARED_H

#include "base/digest.h"
#include "contract/job.h"
#include "daemon/core/options.h"
#include "daemon/http/tcp.h"
#include "registry/registry.h"

#include <limits.h>
#include <stdint.h>
#include <uv.h>

/* Counters for /metrics, since the start of the daemon. */
typedef struct {
    uint64_t job_count[DS_JOB_KIND_COUNT]; /* finished attempts */
    double job_seconds[DS_JOB_KIND_COUNT];
    uint64_t restarts_crash, restarts_exit, restarts_temporary, restarts_stopped;
    uint64_t train_steps, gate_refusals, reconciles;
    double loop_lag_seconds, loop_lag_max_seconds;
    double work_seconds_max; /* longest reconcile, its commits included */
} ds_counters;

typedef struct ds_daemon {
    uv_loop_t loop;
    ds_options o;
    ds_registry *registry;
    struct ds_http *http, *tcp; /* tcp NULL: no --listen */
    struct ds_watch *watch;
    struct ds_workers *workers;
    struct ds_executor *executor; /* starts the processes of jobs */
    struct ds_check *checks;      /* files that the pool hashes (daemon/api/serve.c) */
    struct ds_verified *verified;
    char listen[DS_TCP_NAME]; /* where tcp listens, "" = nowhere */
    int64_t started_ms;       /* time of day, to be shown */
    double started;           /* monotonic seconds */
    int stopping;             /* 1 = asked to stop, 2 = asked twice */
    int removing;             /* model files on their way out: no import begins */
    int tidying;              /* a gc, an fsck or a prune is under way */
    unsigned ticks;           /* seconds since the start */
    double trim_at;           /* when free memory goes back to the system; 0 = not */
    ds_counters n;
    char device_class[64]; /* of the newest result; "" = none yet */

    /* of daemon/core/shared.c and daemon/daemon.c */
    uv_timer_t tick, work, watchdog;
    void (*on_work)(uv_timer_t *work); /* one turn of deriving work */
    uv_signal_t sigterm, sigint, sighup;
    char token[DS_HEX_SIZE]; /* digest of the token that tcp needs */
    int poked;
    int working;          /* within a turn of deriving work */
    ds_error fatal;       /* why it stops by itself; code 0: it does not */
    int64_t roots_number; /* the list of folders that is watched (ds_dataset_roots_number) */
    int rescan_due;       /* all folders are to be scanned */
    int models_due, announce_due; /* could not be written at the start */
    double locked_since;          /* another program holds the registry's lock; 0: no */
    double expected_tick;
    uv_thread_t reader; /* of all of a large registry, after the start */
    uv_async_t read_over;
    int reading; /* the two above are there */
    ds_registry_check_run check;
    ds_error read_err;
} ds_daemon;

void ds_daemon_wake(ds_daemon *d);                   /* readers of streams may go on */
void ds_daemon_poke(ds_daemon *d);                   /* there may be something to do */
void ds_daemon_poke_after(ds_daemon *d, int64_t ms); /* in ms at the latest; < 0: never */

/* rc of a write that could not be made: says once that the lock is another program's, what else it
 * was each time.  1: it is to be tried again soon. */
int ds_daemon_locked(ds_daemon *d, int rc, const char *what, const ds_error *err);

/* DS_EBUSY while a gc, an fsck or a prune is under way: they would sweep from under each other. */
int ds_daemon_tidying(const ds_daemon *d, ds_error *err);

/* DIR of a job: state folder, "jobs", id. */
void ds_job_dir(const ds_daemon *d, int64_t job, char out[PATH_MAX]);

#endif
