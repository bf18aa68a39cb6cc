/* registry/rows/adapters.h - adapters and their versions.
 *
 * Versions are numbered per name from 1, never reused, and immutable (triggers) but for status and
 * deleted_at.
 */
#ifndef DS_REGISTRY_ROWS_ADAPTERS_H
#define DS_REGISTRY_ROWS_ADAPTERS_H

#include "registry/core/handle.h"
#include "registry/rows/refs.h"

/* The number that the next version of this name gets. */
int ds_adapter_next_version(ds_registry *r, const char *name, int64_t *version, ds_error *err);

/* Object of docs/api.md with evaluations, gate and metadata (spec and result as published). */
int ds_adapter_get(ds_registry *r, const char *ref, json_t **out, ds_error *err);

typedef struct {
    const char *dataset, *status; /* NULL = any */
    double max_fd;                /* NAN = any */
    int64_t since_ms;             /* created at or after; 0 = any */
} ds_adapter_filter;
/* Newest first; also as text. */
int ds_adapter_list(ds_registry *r, ds_page page, const ds_adapter_filter *f, json_t **out,
                    ds_error *err);

/* For each name among the newest `limit` versions, its newest: one that is published, or any.  What
 * is not there is "" or NAN.  The texts live during the call of fn. */
typedef struct {
    const char *name, *net, *preprocess, *self, *role, *bar;
    double fd, fd_bar, delta, class_accuracy;
} ds_adapter_figures;
int ds_adapter_each_newest(ds_registry *r, int limit, int published,
                           void (*fn)(void *ctx, const ds_adapter_figures *f), void *ctx,
                           ds_error *err);

/* deleted_at is set, the file goes with the next sweep; the content it was trained on counts as
 * answered until its dataset is added again.  DS_ECONFLICT, naming them, while aliases point to it;
 * with_aliases: they go as well. */
int ds_adapter_delete(ds_registry *r, const char *ref, int with_aliases, ds_error *err);

#endif
