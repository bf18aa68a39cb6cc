/* daemon/api/api_feature_nets.c - /v1/feature_nets, /v1/default-feature-net. */
#include "base/json.h"
#include "daemon/api/api.h"
#include "daemon/care/gc.h"
#include "registry/rows/feature_nets.h"

int ds_api_feature_net_list(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    ds_page page;
    json_t *doc = NULL;
    int rc = ds_api_page(rq, &page, err);
    if (!rc)
        rc = ds_feature_net_list(d->registry, page, &doc, err);
    return rc ? rc : ds_reply_json(rq, 200, doc);
}

int ds_api_feature_net_get(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    json_t *doc = NULL;
    int rc = ds_feature_net_get(d->registry, ds_request_param(rq, 0), &doc, err);
    return rc ? rc : ds_reply_json(rq, 200, doc);
}

static int reply_default(ds_request *rq, ds_daemon *d, ds_error *err) {
    json_t *doc = NULL;
    int rc = ds_feature_net_default(d->registry, &doc, err);
    return rc ? rc : ds_reply_json(rq, 200, doc);
}

int ds_api_default_net_get(ds_request *rq, void *ctx, ds_error *err) {
    return reply_default(rq, ctx, err);
}

int ds_api_default_net_set(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    json_t *body = NULL;
    const char *words;
    ds_feature_choice c;
    int rc = ds_request_json(rq, &body, err);
    if (!rc)
        rc = ds_json_need_string(body, "feature_net", &words, err);
    if (!rc)
        rc = ds_feature_choice_resolve(d->registry, words, &c, err);
    if (!rc)
        rc = ds_feature_net_choose(d->registry, &c, err);
    return rc ? rc : reply_default(rq, d, err);
}

int ds_api_feature_net_remove(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    json_t *net = NULL;
    int rc = ds_feature_net_remove(d->registry, ds_request_param(rq, 0), &net, err);
    if (rc)
        return rc;
    ds_gc_remove_model(d, 1, ds_json_string(net, "path", NULL));
    json_object_set_new(net, "removed", json_true());
    return ds_reply_json(rq, 200, net);
}
