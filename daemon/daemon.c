/* daemon/daemon.c - start, the two timers that everything hangs on, and the orderly end. */
#include "daemon/daemon.h"

#include "base/age.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"
#include "daemon/api/api.h"
#include "daemon/care/prune.h"
#include "daemon/core/models.h"
#include "daemon/core/notify.h"
#include "daemon/folders/look.h"
#include "daemon/folders/reach.h"
#include "daemon/jobs/folders.h"
#include "daemon/jobs/local.h"
#include "daemon/jobs/workers.h"
#include "registry/rows/datasets.h"
#include "registry/core/events.h"
#include "registry/core/place.h"
#include "registry/flow/reconcile.h"
#include "registry/store/verified.h"

#include <malloc.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define TICK_MS 1000
#define MAX_CONNECTIONS 4096 /* less where there are not as many descriptors */
#define OTHER_DESCRIPTORS 128
#define LOCK_PATIENCE_MS 5 /* what the loop waits for another program's lock */
#define LOCK_RETRY_MS 200
#define MAX_WATCHED_DIRS 65536

/* ---- work ---- */

static void lock_over(ds_daemon *d) {
    if (d->locked_since == 0 || ds_registry_locked(d->registry))
        return;
    ds_log(DS_LOG_INFO, "the lock of the registry is free again, after %.1f s",
           ds_monotonic() - d->locked_since);
    d->locked_since = 0;
    ds_daemon_poke(d);
}

static void follow_root(void *ctx, int64_t id, const char *path, int watch) {
    ds_daemon *d = ctx;
    if (ds_look_at_place(path, d->o.state, NULL)) /* each scan would ask for the next */
        return;
    ds_watch_add(d->watch, id, path, watch);
    ds_watch_keep(d->watch, &id, 1);
}

/* Watches follow the rows: whoever inserted a dataset, its folder is watched. */
static void follow_roots(ds_daemon *d) {
    ds_error err;
    int64_t number = ds_dataset_roots_number(d->registry);
    if (number == d->roots_number)
        return;
    ds_watch_keep(d->watch, NULL, 0);
    if (ds_dataset_each_root(d->registry, follow_root, d, &err)) {
        ds_log(DS_LOG_WARN, "cannot list watched folders: %s", err.message);
        return;
    }
    d->roots_number = number;
    ds_watch_drop_others(d->watch);
}

static void on_work(uv_timer_t *t) {
    ds_daemon *d = t->data;
    ds_error err;
    double began = ds_monotonic();
    d->poked = 0;
    if (d->stopping)
        return;
    d->working = 1;
    follow_roots(d);
    d->n.reconciles++;
    int rc = ds_reconcile(d->registry, NULL, &err);
    if (rc)
        ds_daemon_poke_after(d,
                             ds_daemon_locked(d, rc, "look for work", &err) ? LOCK_RETRY_MS : 5000);
    else if (!ds_reconcile_settled(d->registry))
        ds_daemon_poke(d);
    ds_workers_run(d->workers);
    d->working = 0;
    d->n.work_seconds_max = fmax(d->n.work_seconds_max, ds_monotonic() - began);
}

/* Somebody committed events: readers wake, and there may be work. */
static void on_events(void *ctx, int64_t last_seq) {
    (void)last_seq;
    ds_daemon *d = ctx;
    ds_daemon_wake(d);
    ds_daemon_poke(d);
}

static int on_folder_changed(void *ctx, int64_t id) {
    ds_daemon *d = ctx;
    json_t *ds = NULL;
    ds_error err;
    if (d->stopping)
        return 0;
    int rc = ds_dataset_get_id(d->registry, id, &ds, &err);
    if (!rc)
        rc = ds_dataset_rescan(d->registry, ds_json_string(ds, "name", ""), NULL, &err);
    json_decref(ds);
    ds_daemon_poke(d);
    return rc && rc != DS_ENOTFOUND ? ds_daemon_locked(d, rc, "ask for a scan", &err) : 0;
}

static void on_folder_armed(void *ctx, int64_t id) {
    (void)id;
    ds_daemon_poke(ctx);
}

/* A watch is a hint: at start and every --rescan seconds each watched folder is scanned. */
static void rescan_all(ds_daemon *d) {
    ds_error err;
    int rc = ds_dataset_rescan_all(d->registry, &err);
    d->rescan_due = rc && ds_daemon_locked(d, rc, "ask for scans", &err);
    ds_watch_verify(d->watch);
    ds_daemon_poke(d);
}

/* ---- tick ---- */

static void finish_stop(ds_daemon *d);
static int write_start(ds_daemon *d, ds_error *err);
static void stop(ds_daemon *d);

/* The registry was taken away, or its disk failed: nobody would keep what is promised. */
static void stop_if_broken(ds_daemon *d) {
    ds_error err;
    if (!ds_registry_in_place(d->registry, &err))
        return;
    d->fatal = err;
    ds_log(DS_LOG_ERROR, "%s", err.message);
    stop(d);
}

static void on_tick(uv_timer_t *t) {
    ds_daemon *d = t->data;
    double now = ds_monotonic();
    d->n.loop_lag_seconds = fmax(0, now - d->expected_tick);
    d->n.loop_lag_max_seconds = fmax(d->n.loop_lag_max_seconds, d->n.loop_lag_seconds);
    d->expected_tick = now + TICK_MS / 1000.0;
    d->ticks++;
    ds_age_look();
    ds_workers_tick(d->workers);
    ds_http_tick(d->http);
    ds_http_tick(d->tcp);
    if (!d->stopping)
        stop_if_broken(d);
    if (d->stopping)
        return;
    if (ds_registry_foreign_change(d->registry)) {
        ds_daemon_wake(d);
        ds_daemon_poke(d);
    }
    ds_watch_tick(d->watch);
    ds_prune_tick(d);
    lock_over(d);
    ds_error err;
    if (d->announce_due && write_start(d, &err)) {
        ds_log(DS_LOG_ERROR, "%s", err.message);
        d->announce_due = 0;
    }
    if (d->rescan_due || (d->o.rescan_seconds && d->ticks % (unsigned)d->o.rescan_seconds == 0))
        rescan_all(d);
    if (d->trim_at > 0 && now > d->trim_at) {
        d->trim_at = 0;
        malloc_trim(0);
    }
}

static void on_watchdog(uv_timer_t *t) {
    (void)t;
    ds_notify("WATCHDOG=1");
}

/* ---- stop ---- */

/* The workers are gone (or the timer gave up on them): nothing more will change. */
static void on_idle_check(uv_timer_t *t) {
    ds_daemon *d = t->data;
    if (!ds_workers_busy(d->workers))
        finish_stop(d);
}

static void finish_stop(ds_daemon *d) {
    ds_error err;
    if (ds_event_add(d->registry, "daemon.stopped", "daemon", NULL, &err))
        ds_log(DS_LOG_WARN, "cannot record the stop: %s", err.message);
    ds_daemon_wake(d);
    uv_stop(&d->loop);
}

/* Called again: workers are not waited for. */
static void stop(ds_daemon *d) {
    int again = d->stopping > 0;
    d->stopping++;
    ds_registry_check_stop(&d->check);
    if (!again) {
        ds_notify("STOPPING=1\nSTATUS=workers write a checkpoint");
        ds_http_quiesce(d->http);
        ds_http_quiesce(d->tcp);
    }
    ds_workers_stop(d->workers, again);
    uv_timer_start(&d->work, on_idle_check, 0, 20);
}

static void on_signal(uv_signal_t *s, int signum) {
    ds_daemon *d = s->data;
    ds_log(DS_LOG_INFO, "%s: %s", signum == SIGINT ? "interrupted" : "asked to stop",
           d->stopping ? "workers are killed" : "workers write a checkpoint and stop");
    stop(d);
}

/* ---- reading all of a large registry ---- */

/* A thread of its own, so that it alone is niced: seconds of work that nobody waits for. */
static void read_all(void *arg) {
    ds_daemon *d = arg;
    setpriority(PRIO_PROCESS, (id_t)gettid(), 19);
    d->read_err = (ds_error){0};
    ds_registry_check_file(d->o.state, &d->check, &d->read_err);
    uv_async_send(&d->read_over);
}

static void on_read_over(uv_async_t *over) {
    ds_daemon *d = over->data;
    if (d->stopping || !d->read_err.code)
        return;
    ds_log(DS_LOG_ERROR, "%s", d->read_err.message);
    if (d->read_err.code != DS_EINTEGRITY)
        return;
    d->fatal = d->read_err;
    stop(d);
}

static void start_reading(ds_daemon *d) {
    uv_async_init(&d->loop, &d->read_over, on_read_over);
    d->read_over.data = d;
    d->reading = uv_thread_create(&d->reader, read_all, d) == 0;
    if (d->reading)
        return;
    uv_close((uv_handle_t *)&d->read_over, NULL);
    ds_log(DS_LOG_WARN, "cannot start the thread that reads all of the registry");
}

/* ---- start ---- */

static int make_folders(ds_daemon *d, ds_error *err) {
    static const char *const names[] = {"jobs",       "cache", "cache/hashes",
                                        "cache/base", "bases", "feature_nets"};
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        ds_fs_join(path, sizeof path, d->o.state, names[i]);
        int rc = ds_fs_mkdirs(path, err);
        if (rc)
            return rc;
    }
    return 0;
}

static void init_handles(ds_daemon *d) {
    uv_loop_init(&d->loop);
    uv_timer_init(&d->loop, &d->tick);
    uv_timer_init(&d->loop, &d->work);
    uv_timer_init(&d->loop, &d->watchdog);
    uv_signal_init(&d->loop, &d->sigterm);
    uv_signal_init(&d->loop, &d->sigint);
    uv_signal_init(&d->loop, &d->sighup);
    d->tick.data = d->work.data = d->watchdog.data = d->sigterm.data = d->sigint.data =
        d->sighup.data = d;
    d->on_work = on_work;
}

/* As many descriptors as this process may have; the workers' is theirs to know. */
static unsigned most_connections(const ds_daemon *d) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit))
        return 256;
    rlim_t want = 2 * MAX_CONNECTIONS + OTHER_DESCRIPTORS, have = limit.rlim_cur;
    if (have < want) {
        limit.rlim_cur = limit.rlim_max < want ? limit.rlim_max : want;
        have = setrlimit(RLIMIT_NOFILE, &limit) ? have : limit.rlim_cur;
    }
    have = have > 2 * OTHER_DESCRIPTORS ? have - OTHER_DESCRIPTORS : OTHER_DESCRIPTORS;
    have /= *d->o.listen ? 2 : 1;
    return have < MAX_CONNECTIONS ? (unsigned)have : MAX_CONNECTIONS;
}

static int registry_locked(void *ctx, int probe) {
    ds_daemon *d = ctx;
    return probe ? ds_registry_locked(d->registry) : ds_registry_lock_seen(d->registry);
}

static int open_http(ds_daemon *d, ds_error *err) {
    ds_http_options o = {.socket_path = d->o.socket,
                         .routes = ds_routes,
                         .route_count = ds_route_count,
                         .ctx = d,
                         .locked = registry_locked,
                         .max_connections = most_connections(d),
                         .idle_seconds = d->o.idle_seconds};
    int fd = -1, rc = ds_http_open(&d->http, &d->loop, &o, err);
    if (rc || !*d->o.listen)
        return rc;
    rc = ds_token_read(d->o.token_file, d->token, err);
    if (!rc)
        rc = ds_tcp_listen(d->o.listen, &fd, d->listen, err);
    if (rc)
        return rc;
    o.socket_path = NULL;
    o.listen_fd = fd;
    o.token = d->token;
    rc = ds_http_open(&d->tcp, &d->loop, &o, err);
    if (!rc)
        ds_log(DS_LOG_INFO, "listening on %s, for who has the token", d->listen);
    return rc;
}

static int announce(ds_daemon *d, ds_error *err) {
    json_t *payload = json_pack("{ss sI}", "version", DS_VERSION, "pid", (json_int_t)getpid());
    int rc = ds_event_add(d->registry, "daemon.started", "daemon", payload, err);
    json_decref(payload);
    return rc;
}

/* What a start writes; while another program holds the registry's lock it is due. */
static int write_start(ds_daemon *d, ds_error *err) {
    int rc = 0;
    if (d->models_due)
        rc = ds_models_register(d, err);
    d->models_due = rc != 0;
    if (!rc && d->announce_due)
        rc = announce(d, err);
    if (!rc)
        d->announce_due = 0;
    return rc && ds_daemon_locked(d, rc, "record the start", err) ? 0 : rc;
}

int ds_daemon_open(ds_daemon *d, const ds_options *o, ds_error *err) {
    *d = (ds_daemon){.o = *o,
                     .started_ms = ds_now_ms(),
                     .started = ds_monotonic(),
                     .check = DS_REGISTRY_CHECK_RUN};
    ds_age_look();
    d->verified = ds_verified_new();
    signal(SIGPIPE, SIG_IGN);
    init_handles(d);
    int rc = ds_registry_open(o->state, &d->registry, err);
    if (rc)
        return rc;
    snprintf(d->o.state, sizeof d->o.state, "%s", ds_registry_dir(d->registry));
    ds_registry_patience(d->registry, LOCK_PATIENCE_MS);
    rc = make_folders(d, err);
    d->models_due = 1;
    if (!rc)
        rc = ds_folders_start(d, err);
    if (!rc)
        rc = write_start(d, err);
    ds_local_options local = {.self = d->o.self, .worker = d->o.worker, .nice = o->nice};
    d->executor = ds_local_new(&d->loop, &local);
    if (!rc)
        rc = ds_workers_open(&d->workers, d, err);
    if (!rc)
        ds_prune_left_overs(d);
    ds_watch_options watch = {.settle_ms = o->settle_ms,
                              .max_dirs = MAX_WATCHED_DIRS,
                              .self = d->o.self,
                              .state = d->o.state,
                              .changed = on_folder_changed,
                              .armed = on_folder_armed,
                              .reach = ds_reach_changed,
                              .ctx = d};
    if (!rc)
        d->watch = ds_watch_open(&d->loop, &watch);
    d->announce_due = 1;
    if (!rc)
        rc = write_start(d, err);
    if (!rc)
        rc = open_http(d, err);
    if (rc)
        return rc;
    ds_registry_on_events(d->registry, on_events, d);
    uv_signal_start(&d->sigterm, on_signal, SIGTERM);
    uv_signal_start(&d->sigint, on_signal, SIGINT);
    struct sigaction hup;
    if (sigaction(SIGHUP, NULL, &hup) == 0 && hup.sa_handler != SIG_IGN) /* nohup keeps its word */
        uv_signal_start(&d->sighup, on_signal, SIGHUP);
    d->expected_tick = ds_monotonic() + TICK_MS / 1000.0;
    d->trim_at = ds_monotonic() + 0.5;
    uv_timer_start(&d->tick, on_tick, TICK_MS, TICK_MS);
    unsigned watchdog = ds_notify_watchdog_ms();
    if (watchdog)
        uv_timer_start(&d->watchdog, on_watchdog, watchdog, watchdog);
    rescan_all(d);
    ds_daemon_poke(d);
    if (ds_registry_unread(d->registry))
        start_reading(d);
    return 0;
}

void ds_daemon_run(ds_daemon *d) {
    ds_notify("READY=1\nSTATUS=ready");
    ds_log(DS_LOG_INFO, "ready: diffscalerd %s, state '%s', socket '%s'", DS_VERSION, d->o.state,
           d->o.socket);
    uv_run(&d->loop, UV_RUN_DEFAULT);
    ds_log(DS_LOG_INFO, "stopped");
}

void ds_daemon_close(ds_daemon *d) {
    d->stopping = d->stopping ? d->stopping : 1;
    ds_registry_check_stop(&d->check);
    if (d->registry)
        ds_registry_on_events(d->registry, NULL, NULL);
    ds_http_close(d->http);
    ds_http_close(d->tcp);
    d->http = d->tcp = NULL;
    ds_watch_close(d->watch);
    ds_workers_close(d->workers);
    if (d->reading) {
        uv_thread_join(&d->reader);
        uv_close((uv_handle_t *)&d->read_over, NULL);
    }
    uv_handle_t *own[] = {(uv_handle_t *)&d->tick,     (uv_handle_t *)&d->work,
                          (uv_handle_t *)&d->watchdog, (uv_handle_t *)&d->sigterm,
                          (uv_handle_t *)&d->sigint,   (uv_handle_t *)&d->sighup};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        uv_close(own[i], NULL);
    uv_run(&d->loop, UV_RUN_DEFAULT);
    int rc = uv_loop_close(&d->loop);
    DS_ASSERT(rc == 0);
    ds_local_free(d->executor);
    ds_verified_free(d->verified);
    ds_registry_close(d->registry);
}
