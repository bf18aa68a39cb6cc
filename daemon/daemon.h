/* daemon/daemon.h - what the parts of the daemon share.
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
#ifndef DS_DAEMON_DAEMON_H
#define DS_DAEMON_DAEMON_H

#include "daemon/api/http.h"
#include "daemon/options.h"
#include "daemon/api/tcp.h"
#include "daemon/folders/watch.h"
#include "daemon/jobs/workers.h"
#include "registry/registry.h"

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
    ds_http *http, *tcp;      /* tcp NULL: no --listen */
    char listen[DS_TCP_NAME]; /* where tcp listens, "" = nowhere */
    char token[DS_HEX_SIZE];  /* digest of the token it needs */
    ds_watch *watch;
    ds_workers *workers;
    uv_timer_t tick, work, watchdog;
    uv_signal_t sigterm, sigint, sighup;
    int64_t started_ms; /* time of day, to be shown */
    double started;     /* monotonic seconds */
    int stopping;       /* 1 = asked to stop, 2 = asked twice */
    int poked;
    int removing;            /* model files on their way out: no import begins */
    int tidying;             /* a gc is under way */
    struct ds_check *checks; /* files that the pool hashes (serve.c) */
    struct ds_verified *verified;
    ds_error fatal;       /* why it stops by itself; code 0: it does not */
    int64_t roots_number; /* the list of folders that is watched (ds_dataset_roots_number) */
    int rescan_due;       /* all folders are to be scanned */
    int models_due, announce_due; /* could not be written at the start */
    double locked_since;          /* another program holds the registry's lock; 0: no */
    unsigned ticks;
    double expected_tick, stop_started, trim_at;
    uv_work_t reading; /* of all of a large registry, after the start */
    _Atomic int stop_reading;
    ds_error read_err;
    ds_counters n;
    char device_class[64]; /* of the newest result; "" = none yet */
} ds_daemon;

/* daemon/start.c: the whole program; returns its exit code. */
int ds_daemon_main(int argc, char **argv);

int ds_daemon_open(ds_daemon *d, const ds_options *o, ds_error *err);
void ds_daemon_run(ds_daemon *d);   /* until a signal has stopped it */
void ds_daemon_close(ds_daemon *d); /* also after a failed open */

void ds_daemon_wake(ds_daemon *d);                   /* readers of streams may go on */
void ds_daemon_poke(ds_daemon *d);                   /* there may be something to do */
void ds_daemon_poke_after(ds_daemon *d, int64_t ms); /* in ms at the latest; < 0: never */

/* rc of a write that could not be made: says once that the lock is another program's, what else it
 * was each time.  1: it is to be tried again soon. */
int ds_daemon_locked(ds_daemon *d, int rc, const char *what, const ds_error *err);

/* daemon/folders/reach.c: what the folders of datasets answer, for the registry and for people. */
int ds_reach_changed(void *ctx, int64_t id, enum ds_reach is, const char *text);
json_t *ds_reach_json(const ds_daemon *d, int64_t id); /* {state,since,why}, null: nothing wrong */

/* daemon/models.c: register the base and the feature network of the options; a missing bundled file
 * is a warning (datasets wait), one that was named is an error.  The base becomes the default
 * unless a person chose one (PUT /v1/default-base). */
int ds_models_register(ds_daemon *d, ds_error *err);
/* Folder of imported models: "bases" or "feature_nets" of the state folder. */
void ds_models_dir(const ds_daemon *d, int nets, char out[PATH_MAX]);
/* 0, or DS_EINVAL saying what a base (an object of ds_base_get) lacks and how to add it. */
int ds_models_complete(const json_t *base, ds_error *err);

/* daemon/api/routes.c */
extern const ds_route ds_routes[];
extern const size_t ds_route_count;

/* daemon/api/metrics.c */
void ds_metrics_write(ds_daemon *d, ds_buf *out);

#endif
