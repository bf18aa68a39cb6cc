/* daemon/api/api_adapters.c - /v1/adapters, /v1/evaluations, /v1/blobs. */
#include "base/json.h"
#include "daemon/api/api.h"
#include "registry/rows/adapters.h"
#include "registry/rows/aliases.h"
#include "registry/store/blobs.h"
#include "registry/rows/datasets.h"
#include "registry/rows/evaluations.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *or_null(const char *s) { return s && *s ? s : NULL; }

int ds_api_adapter_list(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    ds_page page;
    ds_rows rows = {0};
    ds_adapter_filter f = {.dataset = or_null(ds_request_query(rq, "dataset")),
                           .status = or_null(ds_request_query(rq, "status")),
                           .max_fd = NAN};
    const char *max_fd = or_null(ds_request_query(rq, "max_fd"));
    if (max_fd) {
        char *end;
        errno = 0;
        f.max_fd = strtod(max_fd, &end);
        if (errno || end == max_fd || *end || !isfinite(f.max_fd) || f.max_fd < 0)
            return ds_fail(err, DS_EINVAL,
                           "query parameter 'max_fd' is '%.40s', must be a number that is not "
                           "negative",
                           max_fd);
    }
    if (f.status && strcmp(f.status, "published") != 0 && strcmp(f.status, "rejected") != 0)
        return ds_fail(err, DS_EINVAL,
                       "query parameter 'status' is '%.40s', must be published or rejected",
                       f.status);
    int rc = ds_api_page(rq, &page, err);
    page.rows = &rows;
    if (!rc)
        rc = ds_api_dataset_known(d, f.dataset, err);
    if (!rc)
        rc = ds_api_time("since", ds_request_query(rq, "since"), &f.since_ms, err);
    if (!rc)
        rc = ds_adapter_list(d->registry, page, &f, NULL, err);
    return ds_api_reply_rows(rq, &rows, rc);
}

int ds_api_adapter_get(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    json_t *doc = NULL;
    int rc = ds_adapter_get(d->registry, ds_request_param(rq, 0), &doc, err);
    return rc ? rc : ds_reply_json(rq, 200, doc);
}

int ds_api_adapter_file(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    ds_adapter_ref a;
    int rc = ds_adapter_resolve(d->registry, ds_request_param(rq, 0), &a, err);
    if (rc)
        return rc;
    ds_reply_header(rq, "X-Diffscaler-Ref", "%s", a.ref);
    ds_reply_header(rq, "Content-Disposition", "attachment; filename=\"%s-v%lld.safetensors.zst\"",
                    a.name, (long long)a.version);
    return ds_api_send_blob(rq, d, a.blob.sha256, "application/zstd", err);
}

int ds_api_adapter_aliases(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    json_t *list = NULL;
    int rc = ds_alias_list(d->registry, ds_request_param(rq, 0), &list, err);
    return rc ? rc : ds_reply_json(rq, 200, json_pack("{so sn}", "items", list, "next"));
}

int ds_api_alias_history(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    json_t *list = NULL;
    int rc =
        ds_alias_history(d->registry, ds_request_param(rq, 0), ds_request_param(rq, 1), &list, err);
    return rc ? rc : ds_reply_json(rq, 200, json_pack("{so sn}", "items", list, "next"));
}

/* If-Match: 3, "3", or * */
static int if_generation(ds_request *rq, int64_t *out, ds_error *err) {
    const char *text = ds_request_header(rq, "If-Match");
    *out = -1;
    if (!text || strcmp(text, "*") == 0)
        return 0;
    char *end;
    text += *text == '"';
    *out = strtoll(text, &end, 10);
    if (end == text || (*end && strcmp(end, "\"") != 0) || *out < 0)
        return ds_fail(err, DS_EINVAL, "If-Match must be the generation of the alias, a number");
    return 0;
}

int ds_api_alias_set(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    json_t *body = NULL, *doc = NULL;
    int64_t version, generation;
    int rc = ds_request_json(rq, &body, err);
    const json_t *reason = json_object_get(body, "reason");
    if (!rc)
        rc = ds_json_need_int(body, "version", &version, err);
    if (!rc && reason && !json_is_string(reason) && !json_is_null(reason))
        rc = ds_fail(err, DS_EINVAL, "'reason' must be a text");
    if (!rc)
        rc = if_generation(rq, &generation, err);
    if (!rc)
        rc = ds_alias_set(d->registry, ds_request_param(rq, 0), ds_request_param(rq, 1), version,
                          generation, ds_json_string(body, "reason", NULL), &doc, err);
    if (rc)
        return rc;
    ds_reply_header(rq, "ETag", "\"%lld\"", (long long)ds_json_int(doc, "generation", 0));
    return ds_reply_json(rq, 200, doc);
}

int ds_api_alias_remove(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    int64_t generation;
    const char *name = ds_request_param(rq, 0), *alias = ds_request_param(rq, 1);
    int rc = if_generation(rq, &generation, err);
    if (!rc)
        rc = ds_alias_remove(d->registry, name, alias, generation, err);
    return rc ? rc
              : ds_reply_json(rq, 200,
                              json_pack("{ss ss sb}", "name", name, "alias", alias, "removed", 1));
}

int ds_api_alias_list(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    ds_page page;
    json_t *doc = NULL;
    int rc = ds_api_page(rq, &page, err);
    if (!rc)
        rc = ds_alias_list_all(d->registry, page, &doc, err);
    return rc ? rc : ds_reply_json(rq, 200, doc);
}

int ds_api_adapter_remove(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    json_t *doc = NULL;
    const char *ref = ds_request_param(rq, 0);
    int rc = ds_adapter_get(d->registry, ref, &doc, err);
    if (!rc) /* by version: an alias may move meanwhile */
        rc = ds_adapter_delete(d->registry, ds_json_string(doc, "ref", ref),
                               ds_request_flag(rq, "force"), err);
    if (rc) {
        json_decref(doc);
        return rc;
    }
    return ds_reply_json(rq, 200, doc);
}

int ds_api_evaluation_list(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    ds_page page;
    ds_rows rows = {0};
    ds_evaluation_filter f = {.adapter = or_null(ds_request_query(rq, "adapter")),
                              .dataset = or_null(ds_request_query(rq, "dataset")),
                              .metric = or_null(ds_request_query(rq, "metric"))};
    int rc = ds_api_page(rq, &page, err);
    page.rows = &rows;
    if (!rc)
        rc = ds_api_dataset_known(d, f.dataset, err);
    if (!rc && f.metric)
        rc = ds_evaluation_metric_check(d->registry, f.metric, err);
    if (!rc)
        rc = ds_evaluation_list(d->registry, page, &f, NULL, err);
    return ds_api_reply_rows(rq, &rows, rc);
}

int ds_api_blob_get(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    const char *sha = ds_request_param(rq, 0);
    ds_blob blob;
    if (strncmp(sha, "sha256:", 7) == 0)
        sha += 7;
    if (!ds_digest_valid(sha))
        return ds_fail(err, DS_EINVAL, "'%.80s' is not a digest of 64 lower-case hex digits", sha);
    int rc = ds_blob_get(d->registry, sha, &blob, err);
    return rc ? rc : ds_api_send_blob(rq, d, blob.sha256, "application/zstd", err);
}
