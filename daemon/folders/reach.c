/* daemon/folders/reach.c - see reach.h. */
#include "daemon/folders/reach.h"

#include "base/json.h"
#include "base/log.h"
#include "registry/rows/datasets.h"
#include "registry/core/events.h"

#include <stdio.h>
#include <string.h>

static void words(enum ds_reach is, const char *text, char out[600]) {
    switch (is) {
    case DS_REACH_MISSING: snprintf(out, 600, "%s; it is looked for until it is back", text); break;
    case DS_REACH_LINK:
        snprintf(out, 600,
                 "a link, to '%.400s', is where a folder was: it is not followed; add the folder "
                 "that it leads to, or put a folder in its place",
                 text);
        break;
    case DS_REACH_UNREACHABLE:
        snprintf(out, 600,
                 "%s: its work waits, and goes on by itself when the folder answers again", text);
        break;
    default: snprintf(out, 600, "%s", text);
    }
    size_t n = strlen(out);
    while (n && n + 4 >= 600 && ((unsigned char)out[n - 1] & 0x80)) /* cut in a character */
        out[--n] = 0;
}

/* A row of another program may name a folder by way of a link: that is resolved once. */
static int resolve(ds_daemon *d, int64_t id, const char *to, int *done, ds_error *err) {
    *done = 0;
    return to[0] == '/' ? ds_dataset_resolve(d->registry, id, to, done, err) : 0;
}

int ds_reach_changed(void *ctx, int64_t id, enum ds_reach is, const char *text) {
    ds_daemon *d = ctx;
    json_t *ds = NULL;
    ds_error err;
    int done = 0;
    if (d->stopping)
        return 0;
    int rc = is == DS_REACH_LINK ? resolve(d, id, text, &done, &err) : 0;
    if (!rc && !done)
        rc = ds_dataset_get_id(d->registry, id, &ds, &err);
    if (!rc && !done) {
        char why[600], subject[DS_NAME_SIZE + 16];
        words(is, text, why);
        const char *name = ds_json_string(ds, "name", "");
        snprintf(subject, sizeof subject, "dataset:%s", name);
        json_t *payload = json_pack("{sI ss ss*}", "id", (json_int_t)id, "state", ds_reach_name(is),
                                    "why", *why ? why : NULL);
        rc = ds_event_add(d->registry,
                          is == DS_REACH_OK            ? "dataset.reachable"
                          : is == DS_REACH_UNREACHABLE ? "dataset.unreachable"
                                                       : "dataset.missing",
                          subject, payload, &err);
        json_decref(payload);
        if (!rc)
            ds_log(is == DS_REACH_OK ? DS_LOG_INFO : DS_LOG_WARN, "dataset %s: %s", name,
                   is == DS_REACH_OK ? "its folder can be had again" : why);
    }
    json_decref(ds);
    ds_daemon_poke(d);
    return rc && rc != DS_ENOTFOUND ? ds_daemon_locked(d, rc, "record a change", &err) : 0;
}

json_t *ds_reach_json(const ds_daemon *d, int64_t id) {
    const char *text;
    int64_t since;
    char why[600], at[32];
    enum ds_reach is = ds_watch_reach(d->watch, id, &text, &since);
    if (is == DS_REACH_OK || is == DS_REACH_UNKNOWN)
        return json_null();
    words(is, text, why);
    ds_time_rfc3339(at, since);
    json_t *o = json_pack("{ss ss ss*}", "state", ds_reach_name(is), "since", at, "why", why);
    return o ? o : json_pack("{ss ss}", "state", ds_reach_name(is), "since", at);
}
