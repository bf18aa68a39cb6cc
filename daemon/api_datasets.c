/* daemon/api_datasets.c - /v1/datasets. */
#include "base/json.h"
#include "daemon/api.h"
#include "daemon/defaults.h"
#include "daemon/look.h"
#include "registry/datasets.h"

#include <stdlib.h>
#include <string.h>

static int reply_dataset(ds_request *rq, ds_daemon *d, int status, const char *name, int64_t seq,
                         ds_error *err) {
    json_t *doc = NULL;
    int rc = ds_dataset_get(d->registry, name, &doc, err);
    if (rc)
        return rc;
    if (seq)
        json_object_set_new(doc, "scan_seq", json_integer(seq));
    return ds_reply_json(rq, status, doc);
}

static int check_types(const json_t *body, ds_error *err) {
    static const char *const strings[] = {"name", "method", "base", "feature_net"};
    for (int i = 0; i < 4; i++) {
        const json_t *v = json_object_get(body, strings[i]);
        if (v && !json_is_string(v) && !json_is_null(v))
            return ds_fail(err, DS_EINVAL, "'%s' must be a text", strings[i]);
    }
    static const char *const flags[] = {"watch", "publish_worse"};
    for (int i = 0; i < 2; i++) {
        const json_t *v = json_object_get(body, flags[i]);
        if (v && !json_is_boolean(v) && !json_is_null(v))
            return ds_fail(err, DS_EINVAL, "'%s' must be true or false", flags[i]);
    }
    return 0;
}

/* The name given, or that of the folder when it is known, or one made from its path. */
static int choose_name(ds_daemon *d, const char *given, const char *path, char name[DS_NAME_SIZE],
                       ds_error *err) {
    if (given) {
        int rc = ds_name_check("dataset", given, err);
        if (!rc)
            memcpy(name, given, strlen(given) + 1);
        return rc;
    }
    ds_error none;
    int rc = ds_dataset_by_path(d->registry, path, name, &none);
    if (rc == DS_ENOTFOUND) {
        ds_name_from_path(path, name);
        return ds_name_check("dataset", name, err);
    }
    return rc ? ds_fail(err, rc, "%s", none.message) : 0;
}

int ds_api_dataset_add(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    json_t *body = NULL;
    const char *path;
    char real[PATH_MAX], name[DS_NAME_SIZE];
    int rc = ds_request_json(rq, &body, err);
    if (!rc)
        rc = ds_json_need_string(body, "path", &path, err);
    if (!rc)
        rc = check_types(body, err);
    if (!rc)
        rc = ds_options_check(ds_json_string(body, "method", NULL),
                              json_object_get(body, "options"), err);
    if (!rc && ds_json_string(body, "name", NULL)) /* a bad name first: it needs no disk */
        rc = ds_name_check("dataset", ds_json_string(body, "name", NULL), err);
    if (!rc)
        rc = ds_look_at_folder(path, real, err);
    if (!rc)
        rc = choose_name(d, ds_json_string(body, "name", NULL), real, name, err);
    const char *base = rc ? NULL : ds_json_string(body, "base", NULL);
    int64_t base_id = 0;
    const char *net = rc ? NULL : ds_json_string(body, "feature_net", NULL);
    ds_feature_choice choice;
    if (!rc && net)
        rc = ds_feature_choice_resolve(d->registry, net, &choice, err);
    if (!rc && base)
        rc = ds_api_usable_base(d, base, &base_id, NULL, err);
    if (!rc && base && strcmp(base, "default") == 0)
        base_id = -1; /* follows the default, whatever that will be */
    if (rc)
        return rc;
    const json_t *watch = json_object_get(body, "watch"),
                 *options = json_object_get(body, "options");
    ds_dataset_new new = {.name = name,
                          .path = real,
                          .method = ds_json_string(body, "method", NULL),
                          .options = json_is_object(options) ? options : NULL,
                          .watch = json_is_boolean(watch) ? json_is_true(watch) : -1,
                          .base_id = base_id,
                          .net = net ? &choice : NULL,
                          .publish_worse = ds_json_bool(body, "publish_worse", 0)};
    int64_t id, seq = 0;
    int created = 0;
    rc = ds_dataset_add(d->registry, &new, &id, &created, &seq, err);
    if (rc)
        return rc;
    ds_daemon_poke(d); /* a known dataset has no event that would wake the reconciler */
    return reply_dataset(rq, d, created ? 201 : 200, name, seq, err);
}

int ds_api_dataset_list(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    ds_page page;
    json_t *doc = NULL;
    int rc = ds_api_page(rq, &page, err);
    if (!rc)
        rc = ds_dataset_list(d->registry, page, ds_request_flag(rq, "removed"), &doc, err);
    return rc ? rc : ds_reply_json(rq, 200, doc);
}

int ds_api_dataset_get(ds_request *rq, void *ctx, ds_error *err) {
    return reply_dataset(rq, ctx, 200, ds_request_param(rq, 0), 0, err);
}

/* Of a list that is there as a whole: the cursor is how many came before. */
static void keep_page(json_t *doc, size_t from, size_t limit) {
    json_t *all = json_object_get(doc, "items"), *part = json_array();
    size_t n = json_array_size(all), end = limit < n && from < n - limit ? from + limit : n;
    for (size_t i = from; i < end; i++)
        json_array_append(part, json_array_get(all, i));
    json_object_set_new(doc, "items", part);
    if (end < n)
        json_object_set_new(doc, "next", json_sprintf("%zu", end));
}

int ds_api_dataset_rejected(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    json_t *doc = NULL;
    int64_t from = 0, limit;
    const char *cursor = ds_request_query(rq, "cursor");
    int rc = ds_request_int(rq, "limit", 1, DS_LIST_MAX, INT32_MAX, &limit, err); /* or all */
    if (!rc && cursor)
        rc = ds_request_int(rq, "cursor", 0, INT32_MAX, 0, &from, err);
    if (!rc)
        rc = ds_dataset_rejected(d->registry, ds_request_param(rq, 0), &doc, err);
    if (!rc)
        keep_page(doc, (size_t)from, (size_t)limit);
    return rc ? rc : ds_reply_json(rq, 200, doc);
}

int ds_api_dataset_manifest(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    int64_t version;
    char sha[DS_HEX_SIZE], *data = NULL;
    size_t n = 0;
    int rc = ds_request_int(rq, "version", 0, INT64_MAX, 0, &version, err);
    if (!rc)
        rc = ds_dataset_manifest(d->registry, ds_request_param(rq, 0), version, sha, err);
    if (!rc)
        rc = ds_store_read(ds_registry_store(d->registry), sha, (size_t)1 << 30, &data, &n, err);
    if (rc)
        return rc;
    ds_reply_header(rq, "ETag", "\"%s\"", sha);
    return ds_reply_take(rq, 200, "application/x-ndjson", data, n);
}

int ds_api_dataset_rescan(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    int64_t seq = 0;
    int rc = ds_dataset_rescan(d->registry, ds_request_param(rq, 0), &seq, err);
    if (rc)
        return rc;
    ds_daemon_poke(d);
    return reply_dataset(rq, d, 202, ds_request_param(rq, 0), seq, err);
}

int ds_api_dataset_remove(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    int rc = ds_dataset_remove(d->registry, ds_request_param(rq, 0), err);
    if (rc)
        return rc;
    ds_daemon_poke(d); /* its running jobs are stopped there */
    return reply_dataset(rq, d, 200, ds_request_param(rq, 0), 0, err);
}
