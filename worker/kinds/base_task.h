/* worker/kinds/base_task.h - task 0: the base's own classes.
 *
 * The paper's promise is that the old classes do not degrade, and the oldest are those that the
 * base came with.  Their record is made once for a base, from the base alone and by one recipe
 * (constants below), whatever job it happens in: a probe, and features of DS_BASE_TASK_N samples of
 * one seed as the reference that as many samples of another seed are measured against, FD and KID.
 * Classes in equal parts; a base without classes makes its samples without a label.  Afterwards
 * worker/kinds/gate.c verifies it as it does any task, only that there is no adapter.
 *
 * The samples of a large base would take hours on a processor: where
 *     (FLOP of a forward pass) steps 2 N  >  DS_BASE_TASK_FLOP
 * the record is the probe alone, and says so.  The rule is arithmetic, so that every machine has
 * the same record.  It is the probe alone as well where the spec says "base_probe_only".
 *
 * Thread: the main one.  Errors: memory, a full disk, a network that cannot be loaded.
 */
#ifndef DS_WORKER_KINDS_BASE_TASK_H
#define DS_WORKER_KINDS_BASE_TASK_H

#include "worker/measure/measure.h"
#include "worker/measure/tools.h"

enum {
    DS_BASE_TASK_N = 128,
    DS_BASE_TASK_STEPS = 20, /* dpmpp2m without guidance */
    DS_BASE_TASK_PROBE_N = 4,
    DS_BASE_TASK_PROBE_SEED = 11,
    DS_BASE_TASK_SEED = 7, /* of the samples that are measured */
    DS_BASE_TASK_REFERENCE_SEED = 8
};
#define DS_BASE_TASK_FLOP 4e13 /* some ten minutes of one core */

/* Is a record asked for and possible?  Never of a base that is not the registered one. */
int ds_base_task_wanted(const ds_tools *tools);

/* FLOP of the samples of a base. */
double ds_base_task_flop(const ds_base *base);

/* Makes the record: *out = "base_task" of result.json; writes the reference into the job folder. */
int ds_base_task_record(ds_tools *tools, json_t **out, ds_error *err);

#endif
