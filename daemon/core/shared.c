/* daemon/core/shared.c - see shared.h. */
#include "daemon/core/shared.h"

#include "base/fs.h"
#include "base/log.h"
#include "daemon/http/http.h"

#include <stdio.h>

void ds_daemon_wake(ds_daemon *d) {
    ds_http_wake(d->http);
    ds_http_wake(d->tcp);
}

void ds_daemon_poke(ds_daemon *d) {
    if (d->poked || d->stopping)
        return;
    d->poked = 1;
    /* before anybody is answered; but a turn that calls for the next one waits a moment, as libuv
     * would run a timer of 0 ms again before it looks at its sockets */
    uv_timer_start(&d->work, d->on_work, d->working ? 1 : 0, 0);
}

void ds_daemon_poke_after(ds_daemon *d, int64_t ms) {
    if (ms < 0 || d->poked || d->stopping)
        return;
    /* the work timer holds only the nearest date: each turn finds the next one again */
    if (uv_is_active((uv_handle_t *)&d->work) && uv_timer_get_due_in(&d->work) <= (uint64_t)ms)
        return;
    uv_timer_start(&d->work, d->on_work, (uint64_t)ms, 0);
}

int ds_daemon_locked(ds_daemon *d, int rc, const char *what, const ds_error *err) {
    int locked = rc == DS_EBUSY && ds_registry_lock_seen(d->registry);
    if (!locked)
        ds_log(DS_LOG_WARN, "cannot %s: %s", what, err->message);
    else if (d->locked_since == 0) {
        d->locked_since = ds_monotonic();
        ds_log(DS_LOG_WARN, "another program holds the lock of the registry: changes wait for it");
    }
    return locked;
}

int ds_daemon_tidying(const ds_daemon *d, ds_error *err) {
    return d->tidying ? ds_fail(err, DS_EBUSY, "a gc, an fsck or a prune is under way; wait for it")
                      : 0;
}

void ds_job_dir(const ds_daemon *d, int64_t job, char out[PATH_MAX]) {
    int n = snprintf(out, PATH_MAX, "%s/jobs/%lld", d->o.state, (long long)job);
    DS_ASSERT(n > 0 && n < PATH_MAX - 64);
}
