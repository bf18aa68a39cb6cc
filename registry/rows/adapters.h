/* registry/rows/adapters.h - adapters, their versions, and references to them.
 *
 * REF:  name (= name@latest)   name@vN   name@alias   sha256:<at least 8 hex digits>
 * Versions are numbered per name from 1, never reused, and immutable (triggers) but for status and
 * deleted_at.
 */
#ifndef DS_REGISTRY_ROWS_ADAPTERS_H
#define DS_REGISTRY_ROWS_ADAPTERS_H

#include "registry/rows/names.h"
#include "registry/registry.h"
#include "registry/store/store.h"

typedef struct {
    int64_t id;      /* of the version row */
    int64_t version; /* N of @vN */
    int64_t base_id;
    char name[DS_NAME_SIZE];
    char ref[DS_NAME_SIZE + 24]; /* "digits@v1" */
    int published;               /* 0 = rejected */
    ds_blob blob;                /* of the adapter file */
} ds_adapter_ref;

/* DS_ENOTFOUND (saying what there is), DS_ECONFLICT for a prefix that fits several, DS_EINVAL. */
int ds_adapter_resolve(ds_registry *r, const char *ref, ds_adapter_ref *out, ds_error *err);

/* 0, or DS_ECONFLICT with the digests of both bases when the adapter was not made for this one. */
int ds_adapter_check_base(ds_registry *r, const ds_adapter_ref *a, int64_t base_id, ds_error *err);

/* The number that the next version of this name gets. */
int ds_adapter_next_version(ds_registry *r, const char *name, int64_t *version, ds_error *err);

/* Object of docs/api.md with evaluations, gate and metadata (spec and result as published). */
int ds_adapter_get(ds_registry *r, const char *ref, json_t **out, ds_error *err);

typedef struct {
    const char *dataset, *status; /* NULL = any */
    double max_fd;                /* NAN = any */
    int64_t since_ms;             /* created at or after; 0 = any */
} ds_adapter_filter;
int ds_adapter_list(ds_registry *r, ds_page page, const ds_adapter_filter *f, json_t **out,
                    ds_error *err);

/* For each name among the newest `limit` versions, its newest: one that is published, or any.  What
 * is not there is "" or NAN.  The texts live during the call of fn. */
typedef struct {
    const char *name, *net, *preprocess, *self, *role, *bar;
    double fd, fd_bar, delta;
} ds_adapter_figures;
int ds_adapter_each_newest(ds_registry *r, int limit, int published,
                           void (*fn)(void *ctx, const ds_adapter_figures *f), void *ctx,
                           ds_error *err);

/* The old_tasks array of a train or verify spec (docs/jobs.md), in order of name: of every name but
 * `except_name` (NULL = none excepted) its @latest if that is on this base, else its newest
 * published version on it; only_ref: just this one. */
int ds_old_tasks(ds_registry *r, int64_t base_id, const char *except_name, const char *only_ref,
                 json_t **out, ds_error *err);

/* deleted_at is set, the file goes with the next sweep; the content it was trained on counts as
 * answered until its dataset is added again.  DS_ECONFLICT, naming them, while aliases point to it;
 * with_aliases: they go as well. */
int ds_adapter_delete(ds_registry *r, const char *ref, int with_aliases, ds_error *err);

#endif
