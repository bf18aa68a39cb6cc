/* cli/commands/cmd_adapter.c - list and show adapters and measurements, and move aliases. */
#include "base/log.h"
#include "base/mem.h"
#include "cli/bars.h"
#include "cli/client.h"
#include "cli/follow.h"
#include "cli/format.h"
#include "cli/list.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static void join_aliases(const json_t *a, ds_buf *out) {
    size_t i;
    const json_t *s;
    json_array_foreach(json_object_get(a, "aliases"), i, s) {
        const char *alias =
            json_is_object(s) ? ds_json_string(s, "alias", "") : json_string_value(s);
        ds_buf_addf(out, "%s%s", i ? " " : "", alias ? alias : "");
    }
}

static void add_row(ds_table *t, const json_t *a, int with_class, int with_net, int with_bar) {
    const char *status = ds_json_string(a, "status", "");
    char text[DS_TEXT];
    ds_buf aliases = {0}, bar = {0};
    join_aliases(a, &aliases);
    ds_cell(t, ds_json_string(a, "ref", NULL));
    ds_cell_styled(t, ds_style_of_state(status), status);
    ds_cell(t, ds_fmt_number(text, ds_json_real(a, "fd")));
    ds_cell(t, ds_fmt_number(text, ds_json_real(a, "fd_base")));
    ds_cell(t, ds_fmt_number(text, ds_json_real(a, "kid")));
    if (with_class)
        ds_cell(t, ds_fmt_classes(text, a));
    ds_cell(t, ds_fmt_bytes(text, ds_json_number(a, "stored_bytes", -1)));
    ds_cell(t, ds_fmt_count(text, ds_json_int(a, "images", -1)));
    ds_cell(t, ds_fmt_count(text, ds_json_int(a, "steps", -1)));
    ds_cell(t, ds_json_string(a, "method", NULL));
    ds_cell(t, ds_fmt_time(text, ds_json_string(a, "created_at", NULL)));
    if (with_net) {
        ds_cell(t, ds_fmt_net(text, a));
    }
    if (with_bar)
        ds_cell(t, ds_bar_words(&bar, a));
    ds_cell(t, aliases.data);
    ds_buf_release(&aliases);
    ds_buf_release(&bar);
}

static void print_adapters(ds_cli *c, const json_t *items) {
    size_t i;
    const json_t *a;
    int classes = ds_any_class(items), nets = ds_several_nets(items), bars = ds_any_bar(items);
    char spec[160];
    snprintf(spec, sizeof spec,
             "ADAPTER~|STATUS|FD>|BASE>|KID>%s|SIZE>|IMAGES>|STEPS>|METHOD|MADE%s%s|ALIASES~",
             classes ? "|RIGHT CLASS>" : "", nets ? "|NETWORK~" : "", bars ? "|BAR~" : "");
    ds_table *t = ds_table_new(spec);
    json_array_foreach((json_t *)(uintptr_t)items, i, a) {
        add_row(t, a, classes, nets, bars);
    }
    ds_table_print(t, c, c->out, 0);
    ds_table_free(t);
}

int ds_cmd_list_adapters(ds_cli *c, ds_error *err) {
    static const ds_list_view view = {.kind = "adapters",
                                      .id = "ref",
                                      .none =
                                          "no adapters; dsctl list-jobs shows what is on its way",
                                      .table = print_adapters};
    ds_buf path = {0};
    ds_buf_addf(&path, "/v1/adapters");
    if (ds_opt_given(c, "dataset"))
        ds_url_query(&path, "dataset", ds_opt_text(c, "dataset", ""));
    if (ds_opt_given(c, "status"))
        ds_url_query(&path, "status", ds_opt_text(c, "status", ""));
    if (ds_opt_given(c, "max-fd"))
        ds_url_query(&path, "max_fd", ds_opt_text(c, "max-fd", ""));
    if (ds_opt_given(c, "since")) {
        char when[32];
        ds_time_rfc3339(when, (int64_t)ds_opt_number(c, "since", 0));
        ds_url_query(&path, "since", when);
    }
    int rc = ds_list(c, path.data, &view, err);
    ds_buf_release(&path);
    return rc;
}

/* The class that a measurement is of ("adapter/7": "7"); NULL: of the whole set. */
static const char *class_of(const json_t *e) {
    const char *slash = strchr(ds_json_string(e, "subject", ""), '/');
    return slash ? slash + 1 : NULL;
}

static double of_class(const json_t *list, const char *who, const char *class, const char *metric) {
    size_t i, n = strlen(who);
    const json_t *e;
    json_array_foreach((json_t *)(uintptr_t)list, i, e) {
        const char *of = class_of(e);
        if (of && !strcmp(of, class) && !strncmp(ds_json_string(e, "subject", ""), who, n) &&
            !strcmp(ds_json_string(e, "metric", ""), metric))
            return ds_json_real(e, "value");
    }
    return NAN;
}

/* Those with enough pictures, in the order of their numbers: the list has the newest first. */
static void show_class_table(ds_cli *c, const json_t *list) {
    ds_table *t = NULL;
    for (size_t i = json_array_size(list); i-- > 0;) {
        char text[DS_TEXT];
        const json_t *e = json_array_get(list, i);
        const char *class = class_of(e);
        if (!class || strcmp(ds_json_string(e, "metric", ""), "class_accuracy") ||
            strncmp(ds_json_string(e, "subject", ""), "adapter/", 8))
            continue;
        t = t ? t : ds_table_new("CLASS~|RIGHT>|OF REAL ONES>|FD>|SAMPLES>");
        ds_cell(t, class);
        snprintf(text, sizeof text, "%.3f", ds_json_real(e, "value"));
        ds_cell(t, text);
        snprintf(text, sizeof text, "%.3f", of_class(list, "real/", class, "class_accuracy"));
        ds_cell(t, text);
        ds_cell(t, ds_fmt_number(text, of_class(list, "adapter/", class, "fd")));
        ds_cell(t, ds_fmt_count(text, ds_json_int(e, "n_fake", -1)));
    }
    if (t)
        ds_table_print(t, c, c->out, 2);
    ds_table_free(t);
}

static void show_evaluations(ds_cli *c, const json_t *list) {
    size_t i;
    const json_t *e;
    if (!json_array_size(list))
        return;
    ds_table *t = ds_table_new("MEASURED|SUBJECT|VALUE>|FROM>|TO>|REAL>|SAMPLES>|SEED>|WHEN");
    json_array_foreach((json_t *)(uintptr_t)list, i, e) {
        char text[DS_TEXT];
        if (class_of(e))
            continue;
        ds_cell(t, ds_json_string(e, "metric", NULL));
        ds_cell(t, ds_json_string(e, "subject", NULL));
        ds_cell(t, ds_fmt_number(text, ds_json_real(e, "value")));
        ds_cell(t, ds_fmt_number(text, ds_json_real(e, "ci_low")));
        ds_cell(t, ds_fmt_number(text, ds_json_real(e, "ci_high")));
        ds_cell(t, ds_fmt_count(text, ds_json_int(e, "n_real", -1)));
        ds_cell(t, ds_fmt_count(text, ds_json_int(e, "n_fake", -1)));
        snprintf(text, sizeof text, "%lld", (long long)ds_json_int(e, "seed", 0));
        ds_cell(t, text);
        ds_cell(t, ds_fmt_time(text, ds_json_string(e, "at", NULL)));
    }
    ds_table_print(t, c, c->out, 2);
    ds_table_free(t);
}

/* Those who train on few pictures want to know. */
static void show_memories(ds_cli *c, const json_t *a) {
    double share = ds_measured(a, "adapter", "memorised", "value"),
           low = ds_measured(a, "adapter", "memorised", "ci_low"),
           chance = ds_measured(a, "chance", "memorised", "value");
    if (isfinite(share))
        ds_field(
            c, "memorising",
            "the nearest of equally many pictures trained on and held out was trained on for %.3f "
            "of the samples (chance %.3f +- %.3f)",
            share, chance, share - low);
}

/* "; right class 0.950 against 0.420"; "" where it was not compared. */
static const char *bar_classes(ds_buf *out, const json_t *bar) {
    if (isfinite(ds_json_real(bar, "class_bar")))
        ds_buf_addf(out, "; right class %.3f against %.3f", ds_json_real(bar, "class_bar"),
                    ds_json_real(bar, "class_now"));
    return out->data ? out->data : "";
}

static void show(ds_cli *c, const json_t *a) {
    char x[DS_TEXT], y[DS_TEXT], z[DS_TEXT];
    const json_t *base = json_object_get(a, "base"), *gate = json_object_get(a, "gate");
    ds_buf aliases = {0}, forced = {0};
    join_aliases(a, &aliases);
    ds_forced_words(&forced, "it", gate);
    ds_field(c, "adapter", "%s", ds_json_string(a, "ref", "-"));
    ds_field(c, "status", "%s%s%s", ds_json_string(a, "status", "-"), forced.len ? "; " : "",
             forced.len ? forced.data : "");
    ds_buf_release(&forced);
    ds_field(c, "aliases", "%s", aliases.data ? aliases.data : "-");
    int64_t images = ds_json_int(a, "images", -1), classes = ds_json_int(a, "classes", -1);
    ds_field(c, "dataset", "%s v%lld, %s image%s, %s class%s", ds_json_string(a, "dataset", "-"),
             (long long)ds_json_int(a, "dataset_version", 0), ds_fmt_count(x, images),
             images == 1 ? "" : "s", ds_fmt_count(y, classes), classes == 1 ? "" : "es");
    ds_show_classes(c, json_object_get(a, "class_map"));
    ds_field(c, "digest", "sha256:%s", ds_json_string(a, "digest", "-"));
    ds_field(c, "size", "%s (%s unpacked), %s parameters",
             ds_fmt_bytes(x, ds_json_number(a, "stored_bytes", -1)),
             ds_fmt_bytes(y, ds_json_number(a, "raw_bytes", -1)),
             ds_fmt_count(z, ds_json_int(a, "parameters", -1)));
    ds_field(c, "base", "%s sha256:%s", ds_json_string(base, "name", "-"),
             ds_json_string(base, "sha256", "-"));
    ds_field(c, "method", "%s, %s steps, seed %lld", ds_fmt_method(y, a),
             ds_fmt_count(x, ds_json_int(a, "steps", -1)), (long long)ds_json_int(a, "seed", 0));
    ds_field(c, "training", "%s, %.0f images/s, job %lld",
             ds_fmt_duration(x, ds_json_real(a, "train_seconds")),
             ds_json_number(a, "images_per_second", 0), (long long)ds_json_int(a, "job", 0));
    ds_field(c, "made", "%s", ds_fmt_time(x, ds_json_string(a, "created_at", NULL)));
    ds_field(c, "FD", "%s (base %s, %s samples)", ds_fmt_number(x, ds_json_real(a, "fd")),
             ds_fmt_number(y, ds_json_real(a, "fd_base")),
             ds_fmt_count(z, ds_json_int(a, "n", -1)));
    ds_field(c, "KID", "%s", ds_fmt_number(x, ds_json_real(a, "kid")));
    ds_buf shown = {0}, lost = {0};
    if (ds_class_words(&shown, a))
        ds_field(c, "right class", "%s", shown.data);
    show_memories(c, a);
    const json_t *bar = json_object_get(a, "bar"), *net = json_object_get(a, "feature_net");
    if (json_is_object(bar))
        ds_field(c, "bar", "%s, FD %s against %s (%s)%s", ds_json_string(bar, "ref", "-"),
                 ds_fmt_number(x, ds_json_real(bar, "fd_bar")),
                 ds_fmt_number(y, ds_json_real(bar, "fd_now")),
                 ds_fmt_change(z, ds_json_real(bar, "delta")), bar_classes(&lost, bar));
    if (json_is_object(net))
        ds_field(c, "measured with", "%s sha256:%s, %s", ds_json_string(net, "name", "-"),
                 ds_json_string(net, "sha256", "-"), ds_json_string(net, "preprocess", "-"));
    if (json_is_object(gate))
        ds_field(c, "gate", "%s%s%s", ds_json_string(gate, "verdict", "-"),
                 *ds_json_string(gate, "reason", "") ? ": " : "",
                 ds_json_string(gate, "reason", ""));
    ds_print_gate(c, gate, 0);
    show_class_table(c, json_object_get(a, "evaluations"));
    show_evaluations(c, json_object_get(a, "evaluations"));
    ds_buf_release(&shown), ds_buf_release(&lost);
    ds_buf_release(&aliases);
}

int ds_cmd_show_adapter(ds_cli *c, ds_error *err) {
    ds_buf path = {0};
    json_t *a = NULL;
    ds_buf_addf(&path, "/v1/adapters/");
    ds_url_segment(&path, c->args[0]);
    int rc = ds_client_call(c->http, "GET", path.data, NULL, &a, err);
    ds_buf_release(&path);
    if (rc) {
        ds_suggest_name(c, c->args[0], 1, err);
        return rc;
    }
    if (c->json)
        ds_print_json(c, "adapter", a, 0);
    else if (c->quiet)
        fprintf(c->out, "%s\n", ds_json_string(a, "ref", ""));
    else
        show(c, a);
    json_decref(a);
    return 0;
}

static void print_evaluations(ds_cli *c, const json_t *items) {
    size_t i;
    const json_t *e;
    ds_table *t = ds_table_new(
        "ID>|WHEN|ADAPTER~|DATASET~|SUBJECT|METRIC|VALUE>|FROM>|TO>|REAL>|SAMPLES>|SEED>|NETWORK|"
        "PREPROCESSING");
    json_array_foreach((json_t *)(uintptr_t)items, i, e) {
        char text[DS_TEXT];
        snprintf(text, sizeof text, "%lld", (long long)ds_json_int(e, "id", 0));
        ds_cell(t, text);
        ds_cell(t, ds_fmt_time(text, ds_json_string(e, "at", NULL)));
        ds_cell(t, ds_json_string(e, "adapter", NULL));
        ds_cell(t, ds_json_string(e, "dataset", NULL));
        ds_cell(t, ds_json_string(e, "subject", NULL));
        ds_cell(t, ds_json_string(e, "metric", NULL));
        ds_cell(t, ds_fmt_number(text, ds_json_real(e, "value")));
        ds_cell(t, ds_fmt_number(text, ds_json_real(e, "ci_low")));
        ds_cell(t, ds_fmt_number(text, ds_json_real(e, "ci_high")));
        ds_cell(t, ds_fmt_count(text, ds_json_int(e, "n_real", -1)));
        ds_cell(t, ds_fmt_count(text, ds_json_int(e, "n_fake", -1)));
        snprintf(text, sizeof text, "%lld", (long long)ds_json_int(e, "seed", 0));
        ds_cell(t, text);
        snprintf(text, sizeof text, "%.12s", ds_json_string(e, "feature_net", "-"));
        ds_cell(t, text);
        ds_cell(t, ds_json_string(e, "resize", NULL));
    }
    ds_table_print(t, c, c->out, 0);
    ds_table_free(t);
}

int ds_cmd_list_evaluations(ds_cli *c, ds_error *err) {
    static const ds_list_view view = {.kind = "evaluations",
                                      .id = "id",
                                      .none = "nothing was measured yet",
                                      .table = print_evaluations};
    static const char *const filters[] = {"adapter", "dataset", "metric"};
    ds_buf path = {0};
    ds_buf_addf(&path, "/v1/evaluations");
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (ds_opt_given(c, filters[i]))
            ds_url_query(&path, filters[i], ds_opt_text(c, filters[i], ""));
    int rc = ds_list(c, path.data, &view, err);
    ds_buf_release(&path);
    return rc;
}

int ds_cmd_set_alias(ds_cli *c, ds_error *err) {
    const char *text = c->args[2], *at = strchr(text, '@');
    char *end;
    if (at) { /* NAME@v1, as every list shows it */
        if ((size_t)(at - text) != strlen(c->args[0]) ||
            strncasecmp(text, c->args[0], (size_t)(at - text)))
            return ds_fail(err, DS_EINVAL,
                           "'%s' is no version of %s; an alias points to one of its own: dsctl "
                           "list-adapters --dataset %s",
                           text, c->args[0], c->args[0]);
        text = at + 1;
    }
    long long version = strtoll(text + (text[0] == 'v'), &end, 10);
    if (*end || version < 1)
        return ds_fail(err, DS_EINVAL, "'%s' is not a version such as 2, v2 or %s@v2", text,
                       c->args[0]);
    ds_buf path = {0};
    ds_buf_addf(&path, "/v1/adapters/");
    ds_url_segment(&path, c->args[0]);
    ds_buf_addf(&path, "/aliases/");
    ds_url_segment(&path, c->args[1]);
    char match[64];
    snprintf(match, sizeof match, "If-Match: %lld",
             (long long)ds_opt_number(c, "if-generation", 0));
    json_t *body = json_object(), *alias = NULL;
    json_object_set_new(body, "version", json_integer(version));
    int rc =
        ds_client_call_with(c->http, "PUT", path.data,
                            ds_opt_given(c, "if-generation") ? match : NULL, body, &alias, err);
    json_decref(body);
    ds_buf_release(&path);
    if (rc) {
        ds_suggest_name(c, c->args[0], 1, err);
        return rc;
    }
    if (c->json)
        ds_print_json(c, "alias", alias, 0);
    else
        ds_say(c, "%s@%s is %s@v%lld (generation %lld)", c->args[0], c->args[1], c->args[0],
               version, (long long)ds_json_int(alias, "generation", 0));
    json_decref(alias);
    return 0;
}
