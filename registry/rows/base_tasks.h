/* registry/rows/base_tasks.h - task 0: what a base's own samples were when they were first
 * recorded.
 *
 * One row for each base, never replaced; recorded by the first training or verification of a base
 * that has none, and verified like any old task from then on.  Thread: the registry's.
 */
#ifndef DS_REGISTRY_ROWS_BASE_TASKS_H
#define DS_REGISTRY_ROWS_BASE_TASKS_H

#include "registry/jobs/jobs.h"
#include "registry/core/handle.h"
#include "registry/store/store.h"

/* The "base_task" of a train or verify spec (docs/jobs.md); json null while nothing is recorded. */
int ds_base_task_get(ds_registry *r, int64_t base_id, json_t **out, ds_error *err);

/* Adds "task" to an object of ds_base_get: null, or {ref,fd,kid,n,classes,feature_net:{name,sha256,
 * mode}|null,device_classes,note,job,created_at,last:{job,adapter,level,unchanged,verdict,fd_now,
 * at}|null}; last = the newest verdict about it. */
int ds_base_task_show(ds_registry *r, json_t *base, ds_error *err);

/* ---- internal: in the caller's transaction ---- */

/* 1 for "base:NAME". */
int base_task_ref(const char *ref);

/* The member "base_task" of a result: DS_EINVAL naming the member at fault, DS_EINTEGRITY when the
 * stored reference is another one than it names.  *there = the job recorded one. */
int base_task_check(const json_t *result, const ds_blob *reference, int *there, ds_error *err);

/* Rows and the event base.recorded, unless the base has a record; *kept (owned) = the result with
 * "ref" and "recorded" added to its base_task. */
int base_task_record(ds_registry *r, const ds_job *j, int64_t base_id, const json_t *spec,
                     const json_t *result, const ds_blob *reference, json_t **kept, ds_error *err);

/* Samples of a device class that were found good; what is recorded stays. */
int base_task_probe(ds_registry *r, int64_t base_id, const char *class, const char *sha256,
                    int64_t n, int64_t seed, ds_error *err);

/* Queue the job that records the base (an object of ds_base_get), if nothing is recorded and no
 * such job is live, and the base can be used. */
int base_task_queue(ds_registry *r, const json_t *base, ds_error *err);

/* Cancel that job while it waits: nobody asked for it, so it must not keep a base from being
 * removed. */
int base_task_unqueue(ds_registry *r, int64_t base_id, ds_error *err);

#endif
