/* daemon/api/api.h - handlers of the HTTP API (docs/api.md), grouped by noun; the table that binds
 * them to paths is routes.c.  Private to daemon/.  Thread: loop thread. */
#ifndef DS_DAEMON_API_API_H
#define DS_DAEMON_API_API_H

#include "daemon/core/shared.h"
#include "daemon/folders/helper.h"
#include "daemon/http/http.h"

/* clang-format off */
#define DS_HANDLERS(X)                                                                             \
    X(root) X(health) X(ready) X(metrics) X(version) X(status)                                     \
    X(dataset_add) X(dataset_list) X(dataset_get) X(dataset_rejected) X(dataset_manifest)          \
    X(dataset_rescan) X(dataset_remove) X(dataset_pause) X(dataset_resume) X(stop)                 \
    X(base_list) X(base_get) X(base_add) X(base_remove) X(default_base_get) X(default_base_set)    \
    X(feature_net_list) X(feature_net_get) X(feature_net_add) X(feature_net_remove)                \
    X(default_net_get) X(default_net_set) X(gc) X(fsck) X(prune)                   \
    X(adapter_list) X(adapter_get) X(adapter_file) X(adapter_aliases)                              \
    X(alias_set) X(alias_history) X(alias_remove) X(alias_list) X(adapter_remove)                  \
    X(job_list) X(job_get) X(job_log) X(job_events) X(job_file) X(job_metrics) X(job_cancel)       \
    X(sample_add) X(verify_add) X(evaluation_list) X(events) X(blob_get)
/* clang-format on */
#define X(name) int ds_api_##name(ds_request *rq, void *ctx, ds_error *err);
DS_HANDLERS(X)
#undef X

extern const ds_route ds_routes[]; /* routes.c */
extern const size_t ds_route_count;

void ds_metrics_write(ds_daemon *d, ds_buf *out); /* metrics.c */

/* api_util.c */
int ds_api_page(ds_request *rq, ds_page *page, ds_error *err);
/* The text of a list that rc says is there; releases rows in any case.  Returns rc. */
int ds_api_reply_rows(ds_request *rq, ds_rows *rows, int rc);
/* 0 for NULL and for the name of a dataset, also of a removed one; else DS_ENOTFOUND. */
int ds_api_dataset_known(ds_daemon *d, const char *name, ds_error *err);
/* "2026-01-02T03:04:05Z", "2026-01-02", or ms since 1970; 0 for NULL. */
int ds_api_time(const char *what, const char *text, int64_t *ms, ds_error *err);
int ds_api_id(ds_request *rq, int param, int64_t *id, ds_error *err);
/* serve.c: the stored file of a blob, with ETag and X-Diffscaler-Digest; 304 for the same
 * If-None-Match.  Damage is DS_EINTEGRITY and an event, never a body. */
int ds_api_send_blob(ds_request *rq, ds_daemon *d, const char *sha256, const char *type,
                     ds_error *err);
/* A look at a path that a person named, by a helper (daemon/folders/helper.h): DS_HTTP_WAIT until
 * it has answered, then 0 and the canonical path, or what is wrong with it.  slot: which of the
 * request's looks, 0 to 2.  DS_ETIMEOUT where the file system does not answer. */
int ds_api_look(ds_request *rq, ds_daemon *d, int slot, enum ds_ask_op op, const char *word,
                const char *path, int flag, char real[PATH_MAX], ds_error *err);
/* The job as it is now. */
int ds_api_reply_job(ds_request *rq, ds_daemon *d, int status, int64_t id, ds_error *err);
/* Resolves a base and refuses one that is not complete; *out (may be NULL) as ds_base_get. */
int ds_api_usable_base(ds_daemon *d, const char *ref, int64_t *id, json_t **out, ds_error *err);
/* Stage, progress and pid of a running job, newer than its row. */
void ds_api_overlay(ds_daemon *d, json_t *job);

#endif
