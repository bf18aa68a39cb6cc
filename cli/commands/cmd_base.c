/* cli/commands/cmd_base.c - bases and feature networks: bring them in, list, show, choose, remove;
 * gc. */
#include "base/log.h"
#include "base/mem.h"
#include "cli/bars.h"
#include "cli/client.h"
#include "cli/follow.h"
#include "cli/format.h"
#include "cli/list.h"
#include "cli/start.h"
#include "cli/understood.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- adding ---- */

/* Adds an absolute path to a request; jansson refuses what is not UTF-8. */
static int add_path(json_t *request, const char *key, const char *path, ds_error *err) {
    char *full = realpath(path, NULL);
    if (!full)
        return ds_fail_errno(err, "cannot add '%s'", path);
    json_t *text = json_string(full);
    free(full);
    if (!text)
        return ds_fail(err, DS_EINVAL, "cannot add '%s': its path is not UTF-8; rename it", path);
    json_object_set_new(request, key, text);
    return 0;
}

static int import_request(ds_cli *c, int net, json_t *r, ds_error *err) {
    int rc = add_path(r, "source", c->args[0], err);
    if (!rc && !net && ds_opt_given(c, "vae"))
        rc = add_path(r, "vae", ds_opt_text(c, "vae", ""), err);
    if (ds_opt_given(c, "name"))
        json_object_set_new(r, "name", json_string(ds_opt_text(c, "name", "")));
    if (ds_opt_given(c, "license"))
        json_object_set_new(r, "license", json_string(ds_opt_text(c, "license", "")));
    if (ds_opt_given(c, "weights"))
        json_object_set_new(r, "weights", json_string(ds_opt_text(c, "weights", "")));
    if (!net && ds_opt_given(c, "heads"))
        json_object_set_new(r, "heads", json_integer((json_int_t)ds_opt_number(c, "heads", 0)));
    if (!net && ds_opt_given(c, "objective"))
        json_object_set_new(r, "objective", json_string(ds_opt_text(c, "objective", "")));
    if (!rc && !net && ds_opt_given(c, "probe"))
        rc = add_path(r, "probe", ds_opt_text(c, "probe", ""), err);
    return rc;
}

static void say_missing(ds_cli *c, const json_t *base) {
    if (json_array_size(json_object_get(base, "missing")))
        ds_say(c,
               "it works on latents and has no VAE: add it with the VAE before training, for "
               "example dsctl add-base %s --vae ./sd-vae-ft-ema",
               ds_json_string(base, "source", "SRC"));
}

/* What was added, as the registry has it now. */
static int show_added(ds_cli *c, int net, const json_t *job, ds_error *err) {
    char a[DS_TEXT], b[DS_TEXT];
    const json_t *result = json_object_get(job, "result");
    const char *sha = ds_json_string(result, "sha256", "");
    ds_buf path = {0};
    json_t *model = NULL;
    ds_buf_addf(&path, "/v1/%s/", net ? "feature_nets" : "bases");
    ds_url_segment(&path, sha);
    int rc = ds_client_call(c->http, "GET", path.data, NULL, &model, err);
    ds_buf_release(&path);
    if (rc)
        return rc;
    const char *name = ds_json_string(model, "name", "");
    if (c->json) {
        ds_print_json(c, net ? "feature-net" : "base", model, 1);
    } else if (c->quiet) {
        ds_put_clean(c, c->out, name);
        fputc('\n', c->out);
    } else {
        fprintf(c->out, "added ");
        ds_put_clean(c, c->out, name);
        fprintf(c->out, ", %s parameters, %s, sha256:%s\n",
                ds_fmt_count(a, ds_json_int(model, "parameters", -1)),
                ds_fmt_bytes(b, ds_json_number(model, "bytes", -1)), sha);
        ds_show_understood(c, model, 0);
        if (!net && !json_array_size(json_object_get(model, "missing")))
            ds_say(c, "train on it: dsctl add-dataset DIR --base %s, or dsctl set-default-base %s",
                   name, name);
        say_missing(c, model);
    }
    json_decref(model);
    return 0;
}

static int add_and_wait(ds_cli *c, int net, int64_t id, ds_error *err) {
    double timeout = ds_opt_number(c, "timeout", 0);
    json_t *job = NULL;
    int rc = ds_follow_job(c, id, timeout > 0 ? c->started + timeout : 0, &job, err);
    if (!rc)
        rc = ds_job_verdict(job, err);
    if (!rc)
        rc = show_added(c, net, job, err);
    json_decref(job);
    return rc;
}

static int add_model(ds_cli *c, int net, ds_error *err) {
    json_t *request = json_object(), *job = NULL;
    if (ds_opt_given(c, "timeout") && !ds_opt_given(c, "wait")) {
        json_decref(request);
        return ds_fail(err, DS_EINVAL, "option --timeout needs --wait");
    }
    int rc = import_request(c, net, request, err);
    if (!rc)
        rc = ds_client_call(c->http, "POST", net ? "/v1/feature_nets" : "/v1/bases", request, &job,
                            err);
    json_decref(request);
    if (rc)
        return rc;
    int64_t id = ds_json_int(job, "id", 0);
    const char *note = ds_json_string(job, "note", NULL);
    if (note)
        ds_say(c, "note: %s", note);
    if (ds_opt_given(c, "wait"))
        rc = add_and_wait(c, net, id, err);
    else if (c->json)
        ds_print_json(c, "job", job, 0);
    else if (c->quiet)
        fprintf(c->out, "%lld\n", (long long)id);
    else
        ds_say(c, "importing %s as %s: job %lld (dsctl show-job %lld)", c->args[0],
               ds_json_string(job, "name", "?"), (long long)id, (long long)id);
    json_decref(job);
    return rc;
}

int ds_cmd_add_base(ds_cli *c, ds_error *err) { return add_model(c, 0, err); }
int ds_cmd_add_feature_net(ds_cli *c, ds_error *err) { return add_model(c, 1, err); }

/* ---- listing ---- */

static const char *vae_text(const json_t *base) {
    if (!ds_json_bool(base, "latent", 0))
        return "not needed";
    return json_is_object(json_object_get(base, "vae")) ? "yes" : "missing";
}

static void short_digest(ds_table *t, const json_t *m) {
    char text[DS_TEXT];
    snprintf(text, sizeof text, "%.12s", ds_json_string(m, "sha256", ""));
    ds_cell(t, text);
}

static void base_cells(ds_table *t, const json_t *b) {
    char text[DS_TEXT];
    const char *vae = vae_text(b);
    ds_cell(t, ds_json_string(b, "name", NULL));
    ds_cell(t, ds_json_bool(b, "default", 0) ? "default" : NULL);
    ds_cell(t, ds_json_bool(b, "latent", 0) ? "latent" : "pixel");
    ds_cell(t, ds_json_string(b, "predicts", NULL));
    ds_cell_styled(t, !strcmp(vae, "missing") ? DS_RED : DS_PLAIN, vae);
    ds_cell(t, ds_fmt_count(text, ds_json_int(b, "parameters", -1)));
    ds_cell(t, ds_fmt_bytes(text, ds_json_number(b, "bytes", -1)));
    ds_cell(t, ds_fmt_count(text, ds_json_int(b, "datasets", -1)));
    ds_cell(t, ds_fmt_count(text, ds_json_int(b, "adapters", -1)));
    short_digest(t, b);
    ds_cell(t, ds_json_string(b, "license", NULL));
}

/* "pytorch-fid,clean" */
static void preprocessings(const json_t *n, char out[DS_TEXT]) {
    size_t i, at = 0;
    const json_t *p;
    out[0] = 0;
    json_array_foreach(json_object_get(n, "preprocessings"), i, p) {
        const char *word = json_string_value(p);
        int more = snprintf(out + at, DS_TEXT - at, "%s%s", i ? "," : "", word ? word : "?");
        at = more > 0 && at + (size_t)more < DS_TEXT ? at + (size_t)more : at;
    }
}

static void net_cells(ds_table *t, const json_t *n) {
    char text[DS_TEXT];
    const char *kind = ds_json_string(n, "kind", "");
    ds_cell(t, ds_json_string(n, "name", NULL));
    ds_cell(t, ds_json_bool(n, "default", 0) ? ds_json_string(n, "mode", "default") : NULL);
    ds_cell(t, *kind ? kind : NULL);
    preprocessings(n, text);
    ds_cell(t, text);
    ds_cell(t, ds_fmt_bytes(text, ds_json_number(n, "bytes", -1)));
    ds_cell(t, ds_fmt_count(text, ds_json_int(n, "datasets", -1)));
    ds_cell(t, ds_fmt_count(text, ds_json_int(n, "adapters", -1)));
    short_digest(t, n);
    ds_cell(t, ds_json_string(n, "license", NULL));
}

static void print_bases(ds_cli *c, const json_t *items) {
    size_t i;
    const json_t *m;
    ds_table *t =
        ds_table_new("NAME~|DEFAULT|KIND|PREDICTS|VAE|PARAMETERS>|SIZE>|DATASETS>|ADAPTERS>|"
                     "DIGEST|LICENCE~");
    json_array_foreach((json_t *)(uintptr_t)items, i, m)
        base_cells(t, m);
    ds_table_print(t, c, c->out, 0);
    ds_table_free(t);
}

static void print_nets(ds_cli *c, const json_t *items) {
    size_t i;
    const json_t *m;
    ds_table *t = ds_table_new("NAME~|DEFAULT|KIND|PREPROCESSINGS|SIZE>|DATASETS>|ADAPTERS>|"
                               "DIGEST|LICENCE~");
    json_array_foreach((json_t *)(uintptr_t)items, i, m)
        net_cells(t, m);
    ds_table_print(t, c, c->out, 0);
    ds_table_free(t);
}

int ds_cmd_list_bases(ds_cli *c, ds_error *err) {
    static const ds_list_view view = {.kind = "bases",
                                      .id = "name",
                                      .none = "no bases; add one with: dsctl add-base SRC",
                                      .table = print_bases};
    return ds_list(c, "/v1/bases", &view, err);
}

int ds_cmd_list_feature_nets(ds_cli *c, ds_error *err) {
    static const ds_list_view view = {
        .kind = "feature-nets",
        .id = "name",
        .none = "no feature networks; add one with: dsctl add-feature-net FILE",
        .table = print_nets};
    return ds_list(c, "/v1/feature_nets", &view, err);
}

/* ---- one base ---- */

static int model_call(ds_cli *c, int net, const char *method, json_t **model, ds_error *err) {
    ds_buf path = {0};
    ds_buf_addf(&path, "/v1/%s/", net ? "feature_nets" : "bases");
    ds_url_segment(&path, c->args[0]);
    int rc = ds_client_call(c->http, method, path.data, NULL, model, err);
    ds_buf_release(&path);
    return rc;
}

static void show_config(ds_cli *c, const json_t *config) {
    long long side = ds_json_int(config, "side", 0), patch = ds_json_int(config, "patch", 0);
    if (!side)
        return;
    ds_field(c, "network", "width %lld, depth %lld, %lld heads, patches of %lld on %lldx%lldx%lld",
             (long long)ds_json_int(config, "width", 0), (long long)ds_json_int(config, "depth", 0),
             (long long)ds_json_int(config, "heads", 0), patch, side, side,
             (long long)ds_json_int(config, "channels", 0));
    ds_field(c, "classes", "%lld", (long long)ds_json_int(config, "classes", 0));
}

/* "velocity (noise - data), linear path, time to 1000" */
static void show_predicts(ds_cli *c, const json_t *b) {
    const json_t *config = json_object_get(b, "config");
    const char *what = ds_json_string(b, "predicts", NULL), *flow = ds_json_string(b, "flow", NULL);
    if (what && !flow)
        ds_field(c, "predicts", "%s", what);
    else if (what)
        ds_field(c, "predicts", "%s (%s), %s path, time to %g", what,
                 ds_json_int(config, "flow_to_data", 0) ? "data - noise" : "noise - data", flow,
                 ds_json_number(config, "flow_scale", 1));
}

static void show_base(ds_cli *c, const json_t *b) {
    char x[DS_TEXT], y[DS_TEXT];
    const json_t *vae = json_object_get(b, "vae"), *net = json_object_get(b, "feature_net");
    ds_field(c, "base", "%s%s", ds_json_string(b, "name", "-"),
             ds_json_bool(b, "default", 0) ? " (default)" : "");
    ds_field(c, "digest", "sha256:%s", ds_json_string(b, "sha256", "-"));
    ds_field(c, "file", "%s", ds_json_string(b, "path", "-"));
    ds_field(c, "size", "%s, %s parameters", ds_fmt_bytes(x, ds_json_number(b, "bytes", -1)),
             ds_fmt_count(y, ds_json_int(b, "parameters", -1)));
    show_config(c, json_object_get(b, "config"));
    show_predicts(c, b);
    ds_field(c, "works on", "%s", ds_json_bool(b, "latent", 0) ? "latents" : "pixels");
    ds_field(c, "vae", "%s%s", json_is_object(vae) ? "sha256:" : "",
             json_is_object(vae) ? ds_json_string(vae, "sha256", "-") : vae_text(b));
    ds_field(c, "source", "%s", ds_json_string(b, "source", "comes with the program"));
    ds_field(c, "format", "%s", ds_json_string(b, "source_format", "-"));
    if (ds_json_string(b, "source_sha256", NULL))
        ds_field(c, "source was", "sha256:%s", ds_json_string(b, "source_sha256", "-"));
    ds_field(
        c, "licence", "%s",
        ds_json_string(b, "license",
                       ds_json_string(b, "source", NULL)
                           ? "not stated: add it again with --license"
                           : "not stated in the file; models/README.md (share/diffscaler/models "
                             "where installed) has it, under 'Licences'"));
    ds_field(c, "feature net", "%s", ds_json_string(net, "name", "none"));
    ds_buf task = {0}; /* what it can do itself */
    ds_base_task_words(&task, json_object_get(b, "task"));
    ds_field(c, "own samples", "%s", task.len ? task.data : "not recorded yet");
    ds_buf_release(&task);
    int64_t sets = ds_json_int(b, "datasets", 0), adapters = ds_json_int(b, "adapters", 0);
    ds_field(c, "used by", "%s dataset%s, %s adapter%s", ds_fmt_count(x, sets),
             sets == 1 ? "" : "s", ds_fmt_count(y, adapters), adapters == 1 ? "" : "s");
    ds_field(c, "added", "%s", ds_fmt_time(x, ds_json_string(b, "created_at", NULL)));
    ds_show_understood(c, b, 1);
    say_missing(c, b);
}

int ds_cmd_show_base(ds_cli *c, ds_error *err) {
    json_t *b = NULL;
    int rc = c->arg_count ? model_call(c, 0, "GET", &b, err)
                          : ds_client_call(c->http, "GET", "/v1/default-base", NULL, &b, err);
    if (rc)
        return rc;
    if (c->json)
        ds_print_json(c, "base", b, 0);
    else if (c->quiet)
        fprintf(c->out, "%s\n", ds_json_string(b, "name", ""));
    else
        show_base(c, b);
    json_decref(b);
    return 0;
}

int ds_cmd_set_default_base(ds_cli *c, ds_error *err) {
    json_t *b = NULL, *body = json_object();
    json_object_set_new(body, "base", json_string(c->args[0]));
    int rc = ds_client_call(c->http, "PUT", "/v1/default-base", body, &b, err);
    json_decref(body);
    if (rc)
        return rc;
    if (c->json)
        ds_print_json(c, "base", b, 0);
    else
        ds_say(c, "the default base is %s; %lld dataset%s on it now",
               ds_json_string(b, "name", c->args[0]), (long long)ds_json_int(b, "datasets", 0),
               ds_json_int(b, "datasets", 0) == 1 ? " trains" : "s train");
    json_decref(b);
    return 0;
}

/* ---- one feature network ---- */

int ds_cmd_set_default_feature_net(ds_cli *c, ds_error *err) {
    json_t *n = NULL, *body = json_object();
    json_object_set_new(body, "feature_net", json_string(c->args[0]));
    int rc = ds_client_call(c->http, "PUT", "/v1/default-feature-net", body, &n, err);
    json_decref(body);
    if (rc)
        return rc;
    if (c->json)
        ds_print_json(c, "feature-net", n, 0);
    else
        ds_say(c,
               "trainings are measured with %s (%s) from now on; adapters that exist keep their "
               "numbers",
               ds_json_string(n, "name", c->args[0]), ds_json_string(n, "mode", "-"));
    json_decref(n);
    return 0;
}

int ds_cmd_remove_feature_net(ds_cli *c, ds_error *err) {
    json_t *n = NULL;
    int rc = model_call(c, 1, "DELETE", &n, err);
    if (rc)
        return rc;
    if (c->json)
        ds_print_json(c, "feature-net", n, 0);
    else
        ds_say(c, "removed %s (sha256:%s)", ds_json_string(n, "name", c->args[0]),
               ds_json_string(n, "sha256", "-"));
    json_decref(n);
    return 0;
}

int ds_cmd_remove_base(ds_cli *c, ds_error *err) {
    json_t *b = NULL;
    int rc = model_call(c, 0, "DELETE", &b, err);
    if (rc)
        return rc;
    if (c->json)
        ds_print_json(c, "base", b, 0);
    else
        ds_say(c, "removed %s (sha256:%s)", ds_json_string(b, "name", c->args[0]),
               ds_json_string(b, "sha256", "-"));
    json_decref(b);
    return 0;
}

/* ---- gc ---- */

int ds_cmd_gc(ds_cli *c, ds_error *err) {
    static const char *const parts[] = {"blobs", "caches", "models"};
    json_t *body = json_object(), *r = NULL;
    int dry = ds_opt_given(c, "dry-run");
    json_object_set_new(body, "dry_run", json_boolean(dry));
    if (ds_opt_given(c, "older-than"))
        json_object_set_new(body, "grace_seconds", json_real(ds_opt_number(c, "older-than", 0)));
    int rc = ds_client_call(c->http, "POST", "/v1/gc", body, &r, err);
    json_decref(body);
    if (rc)
        return rc;
    double bytes = 0;
    char text[DS_TEXT], size[DS_TEXT];
    for (int i = 0; i < 3; i++)
        bytes += ds_json_number(json_object_get(r, parts[i]), "bytes", 0);
    if (c->json) {
        ds_print_json(c, "gc", r, 0);
    } else if (c->quiet) {
        fprintf(c->out, "%.0f\n", bytes);
    } else {
        for (int i = 0; i < 3; i++) {
            const json_t *p = json_object_get(r, parts[i]);
            int64_t young = ds_json_int(p, "young", 0);
            char kept[DS_TEXT + 40] = "";
            if (young)
                snprintf(kept, sizeof kept, "; %lld too young to go", (long long)young);
            ds_field(c, parts[i], "%s file%s, %s%s",
                     ds_fmt_count(text, ds_json_int(p, "removed", 0)),
                     ds_json_int(p, "removed", 0) == 1 ? "" : "s",
                     ds_fmt_bytes(size, ds_json_number(p, "bytes", 0)), kept);
        }
        ds_say(c, dry ? "%s would be freed; without --dry-run they go" : "%s freed",
               ds_fmt_bytes(size, bytes));
    }
    const char *why = ds_json_string(r, "error", NULL);
    if (why)
        rc = ds_fail(err, DS_EFAILED, "not all of it could be removed: %.300s", why);
    json_decref(r);
    return rc;
}
