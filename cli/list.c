/* cli/list.c - see list.h. */
#include "cli/list.h"
#include "base/mem.h"
#include "cli/client.h"
#include "cli/format.h"

#include <stdlib.h>

int ds_fetch_list(ds_cli *c, const char *path, int64_t limit, json_t **items, char **next,
                  ds_error *err) {
    char *cursor = NULL;
    int rc = 0;
    *items = json_array();
    do {
        int64_t have = (int64_t)json_array_size(*items), rest = limit > 0 ? limit - have : 1000;
        ds_buf url = {0};
        ds_buf_addf(&url, "%s", path);
        ds_url_query_int(&url, "limit", rest < 1000 ? rest : 1000);
        if (cursor)
            ds_url_query(&url, "cursor", cursor);
        json_t *page = NULL;
        rc = ds_client_call(c->http, "GET", url.data, NULL, &page, err);
        json_t *part = json_object_get(page, "items");
        if (!rc && !json_is_array(part))
            rc = ds_fail(err, DS_EFAILED, "the answer to %s has no 'items'", url.data);
        free(cursor);
        cursor = NULL;
        if (!rc) {
            const char *at = ds_json_string(page, "next", NULL);
            cursor = at && json_array_size(part) ? ds_xstrdup(at) : NULL;
            json_array_extend(*items, part);
        }
        json_decref(page);
        ds_buf_release(&url);
    } while (!rc && cursor && (limit <= 0 || (int64_t)json_array_size(*items) < limit));
    *next = cursor;
    if (rc) {
        json_decref(*items);
        *items = NULL;
    }
    return rc;
}

int ds_fetch_page(ds_cli *c, const char *path, json_t **items, char **next, ds_error *err) {
    if (ds_opt_given(c, "all") && ds_opt_given(c, "limit"))
        return ds_fail(err, DS_EINVAL, "options --all and --limit exclude each other");
    int64_t limit = ds_opt_given(c, "all") ? 0 : (int64_t)ds_opt_number(c, "limit", 100);
    int rc = ds_fetch_list(c, path, limit, items, next, err);
    if (!rc && *next)
        ds_say(c, "showing the first %zu; --all shows the rest", json_array_size(*items));
    return rc;
}

static void print_member(ds_cli *c, const json_t *items, const char *key) {
    size_t i;
    const json_t *item;
    json_array_foreach((json_t *)(uintptr_t)items, i, item) {
        const json_t *v = json_object_get(item, key);
        if (json_is_integer(v))
            fprintf(c->out, "%lld", (long long)json_integer_value(v));
        else
            ds_put_clean(c, c->out, json_is_string(v) ? json_string_value(v) : "");
        fputc('\n', c->out);
    }
}

int ds_list_show(ds_cli *c, const ds_list_view *v, json_t *items, char *next) {
    if (c->json)
        ds_print_json_list(c, v->kind, items, next);
    else if (c->quiet && v->id)
        print_member(c, items, v->id);
    else if (c->quiet && v->quiet)
        v->quiet(c, items);
    else if (!json_array_size(items))
        ds_say(c, "%s", v->none);
    else
        v->table(c, items);
    json_decref(items);
    free(next);
    return 0;
}

int ds_list(ds_cli *c, const char *path, const ds_list_view *v, ds_error *err) {
    json_t *items;
    char *next;
    int rc = ds_fetch_page(c, path, &items, &next, err);
    return rc ? rc : ds_list_show(c, v, items, next);
}
