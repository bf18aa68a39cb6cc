/* cli/commands/cmd_prune.c - what has had its time goes, now instead of some time today. */
#include "base/json.h"
#include "cli/client.h"
#include "cli/format.h"

#include <stdlib.h>

int ds_cmd_prune(ds_cli *c, ds_error *err) {
    static const struct {
        const char *option, *key;
    } horizons[] = {
        {"jobs", "jobs_seconds"}, {"folders", "folders_seconds"}, {"events", "events_seconds"}};
    static const struct {
        const char *key, *one, *many;
    } counts[] = {{"jobs", "job", "jobs"},
                  {"events", "event", "events"},
                  {"folders", "job folder", "job folders"},
                  {"checkpoints", "checkpoint of an ended job", "checkpoints of ended jobs"},
                  {"caches", "cache of no more use", "caches of no more use"},
                  {"files", "left-over file", "left-over files"}};
    json_t *body = json_object(), *r = NULL;
    char text[DS_TEXT];
    int dry = ds_opt_given(c, "dry-run"), any = 0;
    json_object_set_new(body, "dry_run", json_boolean(dry));
    for (size_t i = 0; i < sizeof horizons / sizeof *horizons; i++)
        if (ds_opt_given(c, horizons[i].option))
            json_object_set_new(body, horizons[i].key,
                                json_real(ds_opt_number(c, horizons[i].option, 0)));
    int rc = ds_client_call(c->http, "POST", "/v1/prune", body, &r, err);
    json_decref(body);
    if (rc)
        return rc;
    if (c->json)
        ds_print_json(c, "prune", r, 0);
    else if (c->quiet)
        fprintf(c->out, "%lld\n", (long long)ds_json_int(r, "bytes", 0));
    for (size_t i = 0; i < sizeof counts / sizeof *counts && !c->json && !c->quiet; i++) {
        int64_t n = ds_json_int(r, counts[i].key, 0);
        if (n)
            fprintf(c->out, "%s %s\n", ds_fmt_count(text, n),
                    n == 1 ? counts[i].one : counts[i].many);
        any |= n > 0;
    }
    if (!c->json && !c->quiet)
        ds_say(c,
               !any  ? "nothing has had its time"
               : dry ? "%s would be freed; without --dry-run they go"
                     : "%s freed",
               ds_fmt_bytes(text, ds_json_number(r, "bytes", 0)));
    const char *why = ds_json_string(r, "error", NULL);
    if (why)
        rc = ds_fail(err, DS_EFAILED, "not all of it could go: %.300s", why);
    json_decref(r);
    return rc;
}
