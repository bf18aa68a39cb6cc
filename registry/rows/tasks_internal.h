/* registry/rows/tasks_internal.h - members that the tasks, bars and bases of a spec have in common.
 *
 * Internal to registry/; thread: the registry's.
 */
#ifndef DS_REGISTRY_ROWS_TASKS_INTERNAL_H
#define DS_REGISTRY_ROWS_TASKS_INTERNAL_H

#include "registry/registry.h"

/* o[key] = {"path","sha256"} of a blob, or null when sha256 is NULL. */
int task_blob(ds_registry *r, json_t *o, const char *key, const char *sha256, ds_error *err);

/* name and path of the "feature_net" of each of these objects; path null when it is not here. */
int task_nets(ds_registry *r, json_t *tasks, ds_error *err);

#endif
