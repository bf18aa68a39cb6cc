/* cli/commands/cmd_manage.c - aliases listed and removed, adapters removed, datasets paused and
 * resumed, the daemon stopped. */
#include "base/log.h"
#include "base/mem.h"
#include "cli/client.h"
#include "cli/follow.h"
#include "cli/format.h"
#include "cli/list.h"

#include <stdlib.h>
#include <string.h>

static void adapter_path(ds_buf *b, const char *name, const char *rest) {
    ds_buf_addf(b, "/v1/adapters/");
    ds_url_segment(b, name);
    ds_buf_addf(b, "%s", rest);
}

int ds_cmd_remove_adapter(ds_cli *c, ds_error *err) {
    ds_buf path = {0};
    json_t *a = NULL;
    adapter_path(&path, c->args[0], ds_opt_given(c, "force") ? "?force=1" : "");
    int rc = ds_client_call(c->http, "DELETE", path.data, NULL, &a, err);
    ds_buf_release(&path);
    if (rc) {
        ds_suggest_name(c, c->args[0], 1, err);
        return rc;
    }
    const char *ref = ds_json_string(a, "ref", c->args[0]);
    if (c->json)
        ds_print_json(c, "adapter", a, 0);
    else if (c->quiet)
        fprintf(c->out, "%s\n", ref);
    else
        ds_say(c, "removed %s; dsctl gc frees its room, add-dataset trains its images anew", ref);
    json_decref(a);
    return 0;
}

/* ---- aliases ---- */

static void print_aliases(ds_cli *c, const json_t *items) {
    size_t i;
    const json_t *a;
    ds_table *t = ds_table_new("ALIAS~|VERSION|MOVES>|SINCE");
    json_array_foreach((json_t *)(uintptr_t)items, i, a) {
        char text[2 * DS_TEXT];
        snprintf(text, sizeof text, "%s@%s", ds_json_string(a, "name", "?"),
                 ds_json_string(a, "alias", "?"));
        ds_cell(t, text);
        snprintf(text, sizeof text, "v%lld", (long long)ds_json_int(a, "version", 0));
        ds_cell(t, text);
        ds_cell(t, ds_fmt_count(text, ds_json_int(a, "generation", -1)));
        ds_cell(t, ds_fmt_time(text, ds_json_string(a, "updated_at", NULL)));
    }
    ds_table_print(t, c, c->out, 0);
    ds_table_free(t);
}

static void print_refs(ds_cli *c, const json_t *items) {
    size_t i;
    const json_t *a;
    json_array_foreach((json_t *)(uintptr_t)items, i, a) {
        ds_put_clean(c, c->out, ds_json_string(a, "name", ""));
        fputc('@', c->out);
        ds_put_clean(c, c->out, ds_json_string(a, "alias", ""));
        fputc('\n', c->out);
    }
}

int ds_cmd_list_aliases(ds_cli *c, ds_error *err) {
    static const ds_list_view view = {
        .kind = "aliases",
        .quiet = print_refs,
        .none = "no aliases; a published adapter gets @latest, set-alias makes others",
        .table = print_aliases};
    if (!c->arg_count)
        return ds_list(c, "/v1/aliases", &view, err);
    ds_buf path = {0}; /* all of one adapter, in one answer */
    json_t *page = NULL;
    adapter_path(&path, c->args[0], "/aliases");
    int rc = ds_client_call(c->http, "GET", path.data, NULL, &page, err);
    ds_buf_release(&path);
    if (rc) {
        ds_suggest_name(c, c->args[0], 1, err);
        return rc;
    }
    json_t *items = json_incref(json_object_get(page, "items"));
    json_decref(page);
    return ds_list_show(c, &view, items, NULL);
}

int ds_cmd_remove_alias(ds_cli *c, ds_error *err) {
    ds_buf path = {0};
    json_t *a = NULL;
    char match[64];
    adapter_path(&path, c->args[0], "/aliases/");
    ds_url_segment(&path, c->args[1]);
    snprintf(match, sizeof match, "If-Match: %lld",
             (long long)ds_opt_number(c, "if-generation", 0));
    int rc = ds_client_call_with(c->http, "DELETE", path.data,
                                 ds_opt_given(c, "if-generation") ? match : NULL, NULL, &a, err);
    ds_buf_release(&path);
    if (rc) {
        ds_suggest_name(c, c->args[0], 1, err);
        return rc;
    }
    if (c->json)
        ds_print_json(c, "alias", a, 0);
    else
        ds_say(c, "removed the alias %s@%s; the version stays", c->args[0], c->args[1]);
    json_decref(a);
    return 0;
}

/* ---- datasets ---- */

static int set_paused(ds_cli *c, const char *verb, const char *said, ds_error *err) {
    ds_buf path = {0};
    json_t *d = NULL;
    ds_buf_addf(&path, "/v1/datasets/");
    ds_url_segment(&path, c->args[0]);
    ds_buf_addf(&path, "/%s", verb);
    int rc = ds_client_call(c->http, "POST", path.data, NULL, &d, err);
    ds_buf_release(&path);
    if (rc) {
        ds_suggest_name(c, c->args[0], 0, err);
        return rc;
    }
    const char *name = ds_json_string(d, "name", c->args[0]);
    if (c->json)
        ds_print_json(c, "dataset", d, 0);
    else
        ds_say(c, "%s %s", name, said);
    json_decref(d);
    return 0;
}

int ds_cmd_pause(ds_cli *c, ds_error *err) {
    return set_paused(c, "pause",
                      "is paused: what runs writes a checkpoint and stops, and nothing new begins "
                      "until dsctl resume",
                      err);
}

int ds_cmd_resume(ds_cli *c, ds_error *err) {
    return set_paused(c, "resume", "goes on where it stopped", err);
}

/* ---- the daemon ---- */

/* The socket answers no more, or another daemon does. */
static int is_gone(ds_cli *c, int64_t pid) {
    json_t *v = NULL;
    int rc = ds_client_call(c->http, "GET", "/v1/version", NULL, &v, NULL);
    int64_t now = ds_json_int(v, "pid", 0);
    json_decref(v);
    return rc == DS_EUNREACHABLE || (!rc && now != pid);
}

int ds_cmd_stop(ds_cli *c, ds_error *err) {
    json_t *answer = NULL;
    double timeout = ds_opt_number(c, "timeout", 60), end = ds_monotonic() + timeout;
    int rc = ds_client_call(c->http, "POST", "/v1/stop", NULL, &answer, err);
    int64_t pid = ds_json_int(answer, "pid", 0);
    json_decref(answer);
    while (!rc && !is_gone(c, pid)) {
        if (ds_monotonic() > end)
            return ds_fail(err, DS_ETIMEOUT,
                           "diffscalerd (pid %lld) has not stopped within %.0f s; it goes on "
                           "stopping, and kills its workers when it gets a second signal",
                           (long long)pid, timeout);
        rc = ds_cli_sleep(0.05, err);
    }
    if (rc)
        return rc;
    if (c->json) {
        json_t *doc = json_pack("{s:b, s:I}", "stopped", 1, "pid", (json_int_t)pid);
        ds_print_json(c, "stop", doc, 0);
        json_decref(doc);
    } else if (c->quiet)
        fprintf(c->out, "%lld\n", (long long)pid);
    else
        ds_say(c, "diffscalerd (pid %lld) has stopped; its work goes on at its next start",
               (long long)pid);
    return 0;
}
