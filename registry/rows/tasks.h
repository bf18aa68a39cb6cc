/* registry/rows/tasks.h - the old tasks of a spec: what has to stay as it was published.
 *
 * Thread: the registry's.
 */
#ifndef DS_REGISTRY_ROWS_TASKS_H
#define DS_REGISTRY_ROWS_TASKS_H

#include "registry/core/handle.h"

/* The old_tasks array of a train or verify spec (docs/jobs.md), in order of name: of every name but
 * `except_name` (NULL = none excepted) its @latest if that is on this base, else its newest
 * published version on it; only_ref: just this one. */
int ds_old_tasks(ds_registry *r, int64_t base_id, const char *except_name, const char *only_ref,
                 json_t **out, ds_error *err);

/* ---- internal to registry/: members that tasks, bars and bases of a spec have in common ---- */

/* o[key] = {"path","sha256"} of a blob, or null when sha256 is NULL. */
int task_blob(ds_registry *r, json_t *o, const char *key, const char *sha256, ds_error *err);

/* name and path of the "feature_net" of each of these objects; path null when it is not here. */
int task_nets(ds_registry *r, json_t *tasks, ds_error *err);

/* o["probes"]: [{device_class,sha256,n,seed}] of a version, the oldest first. */
int task_probes(ds_registry *r, int64_t version_id, json_t *o, ds_error *err);

#endif
