/* cli/commands/cmd_status.c - status, version, completion, help. */
#include "base/mem.h"
#include "cli/client.h"
#include "cli/follow.h"
#include "cli/format.h"

#include <string.h>

static void jobs_text(const json_t *jobs, ds_buf *out) {
    const char *state;
    json_t *n;
    json_object_foreach((json_t *)(uintptr_t)jobs, state, n) {
        if (json_integer_value(n))
            ds_buf_addf(out, "%s%lld %s", out->len ? ", " : "", (long long)json_integer_value(n),
                        state);
    }
}

static void show_model(ds_cli *c, const char *label, const json_t *m) {
    if (json_is_object(m))
        ds_field(c, label, "%s sha256:%s", ds_json_string(m, "name", "-"),
                 ds_json_string(m, "sha256", "-"));
    else
        ds_field(c, label, "none found; see dsctl doctor");
}

static void show_device(ds_cli *c, const json_t *device) {
    ds_buf b = {0};
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)device, key, v) {
        if (json_is_string(v))
            ds_buf_addf(&b, "%s%s", b.len ? ", " : "", json_string_value(v));
        else if (json_is_integer(v))
            ds_buf_addf(&b, "%s%lld %s", b.len ? ", " : "", (long long)json_integer_value(v), key);
    }
    if (b.len)
        ds_field(c, "device", "%s", b.data);
    ds_buf_release(&b);
}

static void show_running(ds_cli *c, const json_t *running) {
    size_t i;
    const json_t *job;
    json_array_foreach((json_t *)(uintptr_t)running, i, job) {
        ds_buf text = {0};
        ds_progress_text(json_object_get(job, "progress"), &text);
        ds_field(c, i ? "" : "running", "job %lld %s %s %s  %s",
                 (long long)ds_json_int(job, "id", 0), ds_json_string(job, "kind", ""),
                 ds_json_string(job, "dataset", ""), ds_json_string(job, "stage", ""),
                 text.data ? text.data : "");
        ds_buf_release(&text);
    }
}

/* Jobs that had to wait many times in a row: nobody would look at the queue for them. */
static void show_waiting(ds_cli *c, const json_t *waiting) {
    size_t i;
    const json_t *job;
    json_array_foreach((json_t *)(uintptr_t)waiting, i, job) {
        ds_field(c, i ? "" : "waiting", "job %lld %s %s: could not run %lld times in a row: %s",
                 (long long)ds_json_int(job, "id", 0), ds_json_string(job, "kind", ""),
                 ds_json_string(job, "name", ""), (long long)ds_json_int(job, "postponed", 0),
                 ds_json_string(json_object_get(job, "error"), "message", "no reason recorded"));
    }
}

/* Datasets whose newest training failed: they are "ready" and would say nothing. */
static void show_failed(ds_cli *c, const json_t *failed) {
    size_t i;
    const json_t *f, *items = json_object_get(failed, "items");
    int64_t more = ds_json_int(failed, "count", 0) - (int64_t)json_array_size(items);
    json_array_foreach((json_t *)(uintptr_t)items, i, f) {
        ds_field(c, i ? "" : "failed", "training of %s (job %lld): %s",
                 ds_json_string(f, "dataset", "?"), (long long)ds_json_int(f, "job", 0),
                 ds_json_string(json_object_get(f, "error"), "message", "no reason recorded"));
    }
    if (more > 0)
        ds_field(c, "", "and %lld more; list-datasets shows them", (long long)more);
}

static void show_status(ds_cli *c, const json_t *s) {
    char a[DS_TEXT], b[DS_TEXT];
    const json_t *blobs = json_object_get(s, "blobs");
    ds_buf jobs = {0};
    ds_field(c, "diffscalerd", "%s, pid %lld, up %s", ds_json_string(s, "version", "-"),
             (long long)ds_json_int(s, "pid", 0),
             ds_fmt_duration(a, ds_json_real(s, "uptime_seconds")));
    ds_field(c, "state", "%s, %s free", ds_json_string(s, "state_dir", "-"),
             ds_fmt_bytes(a, ds_json_number(s, "disk_free_bytes", -1)));
    ds_field(c, "datasets", "%s", ds_fmt_count(a, ds_json_int(s, "datasets", -1)));
    ds_field(c, "adapters", "%s", ds_fmt_count(a, ds_json_int(s, "adapters", -1)));
    ds_field(c, "blobs", "%s, %s", ds_fmt_count(a, ds_json_int(blobs, "count", -1)),
             ds_fmt_bytes(b, ds_json_number(blobs, "bytes", -1)));
    jobs_text(json_object_get(s, "jobs"), &jobs);
    ds_field(c, "jobs", "%s%s", jobs.data ? jobs.data : "none",
             ds_json_bool(s, "queue_paused", 0) ? " (queue paused)" : "");
    ds_field(c, "workers", "%lld", (long long)ds_json_int(s, "workers", 0));
    show_model(c, "base", json_object_get(s, "base"));
    show_model(c, "feature net", json_object_get(s, "feature_net"));
    const json_t *net = json_object_get(s, "default_feature_net");
    if (json_is_object(net) && !ds_json_bool(net, "bundled", 1))
        ds_field(c, "measured with", "%s (%s) sha256:%.12s", ds_json_string(net, "name", "-"),
                 ds_json_string(net, "mode", "-"), ds_json_string(net, "sha256", "-"));
    show_device(c, json_object_get(s, "device"));
    show_running(c, json_object_get(s, "running"));
    show_waiting(c, json_object_get(s, "waiting"));
    show_failed(c, json_object_get(s, "failed_trainings"));
    ds_buf_release(&jobs);
}

int ds_cmd_status(ds_cli *c, ds_error *err) {
    json_t *s = NULL;
    int rc = ds_client_call(c->http, "GET", "/v1/status", NULL, &s, err);
    if (rc)
        return rc;
    if (c->json)
        ds_print_json(c, "status", s, 0);
    else if (c->quiet)
        fprintf(c->out, "%lld\n", (long long)ds_json_int(s, "pid", 0));
    else
        show_status(c, s);
    json_decref(s);
    return 0;
}

/* Never fails for want of a daemon: the version of dsctl is known all the same. */
int ds_cmd_version(ds_cli *c, ds_error *err) {
    json_t *v = NULL, *doc = json_object();
    int rc = ds_client_call(c->http, "GET", "/v1/version", NULL, &v, err);
    json_object_set_new(doc, "version", json_string(DS_VERSION));
    json_object_set_new(doc, "daemon", rc ? json_null() : json_incref(v));
    if (c->json) {
        ds_print_json(c, "version", doc, 0);
    } else {
        fprintf(c->out, "%s%s\n", c->quiet ? "" : "dsctl ", DS_VERSION);
        if (!c->quiet && !rc)
            fprintf(c->out, "diffscalerd %s (api %lld, registry schema %lld)\n",
                    ds_json_string(v, "version", "-"), (long long)ds_json_int(v, "api", 0),
                    (long long)ds_json_int(v, "schema", 0));
        else if (!c->quiet)
            fprintf(c->out, "diffscalerd not reachable\n");
    }
    json_decref(doc);
    json_decref(v);
    return 0;
}

int ds_cmd_completion(ds_cli *c, ds_error *err) {
    static const struct {
        const char *shell;
        void (*print)(FILE *f);
    } shells[] = {{"bash", ds_complete_bash}, {"zsh", ds_complete_zsh}, {"fish", ds_complete_fish}};
    for (size_t i = 0; i < sizeof shells / sizeof *shells; i++)
        if (!strcmp(c->args[0], shells[i].shell)) {
            shells[i].print(c->out);
            return 0;
        }
    return ds_fail(err, DS_EINVAL, "'%s' is not a shell that is known; give bash, zsh or fish",
                   c->args[0]);
}

int ds_cmd_help(ds_cli *c, ds_error *err) {
    if (!c->arg_count) {
        ds_help_overview(c->out);
        return 0;
    }
    const ds_command *k = ds_command_find(c->args[0]);
    if (!k)
        return ds_fail(err, DS_ENOTFOUND, "'%s' is not a command; 'dsctl help' lists them",
                       c->args[0]);
    ds_help_command(c->out, k);
    return 0;
}
