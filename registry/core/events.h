/* registry/core/events.h - what happened, in order; append only.
 *
 * Every state change writes its event in the same transaction; only committed rows are seen.
 * seq grows by one and is never reused: it is the cursor of SSE and NDJSON readers.
 * Types: docs/api.md.  subject: "dataset:digits", "job:4", "adapter:digits@v1",
 * "alias:digits@latest", "daemon".
 */
#ifndef DS_REGISTRY_CORE_EVENTS_H
#define DS_REGISTRY_CORE_EVENTS_H

#include "registry/core/handle.h"

/* For daemon.started, daemon.stopped; the rest is written by the functions that change state.
 * payload may be NULL. */
int ds_event_add(ds_registry *r, const char *type, const char *subject, const json_t *payload,
                 ds_error *err);

int64_t ds_event_last_seq(ds_registry *r);

/* Every type that this program writes (docs/api.md), job.progress included, which is not stored;
 * ends with NULL. */
extern const char *const ds_event_types[];

/* 0 for such a type, a group of them ("job."), and one that another program's events have; else
 * DS_EINVAL that names the nearest. */
int ds_event_type_check(ds_registry *r, const char *type, ds_error *err);

/* Array of at most limit events with seq > since, oldest first.  type NULL = all; "job." (ending in
 * a dot) = all of that group. */
int ds_events_list(ds_registry *r, int64_t since, const char *type, int limit, json_t **out,
                   ds_error *err);

/* Internal to registry/: an event in the present transaction; steals payload (may be NULL). */
int ds_event_put(ds_registry *r, const char *type, const char *subject, json_t *payload,
                 ds_error *err);

#endif
