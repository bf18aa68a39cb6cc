/* registry/rows/gate_rows.h - the "gate" member of a result (docs/jobs.md) to rows.  Internal. */
#ifndef DS_REGISTRY_ROWS_GATE_ROWS_H
#define DS_REGISTRY_ROWS_GATE_ROWS_H

#include "registry/core/handle.h"

/* DS_EINVAL naming the member at fault.  spec: that of the training; NULL for a verification. */
int gate_check(const json_t *gate, const json_t *spec, int *passed, ds_error *err);

/* DS_EINVAL unless each task of the spec, the base's own classes among them, is judged once. */
int gate_check_tasks(const json_t *gate, const json_t *spec, ds_error *err);

/* gates, gate_tasks, gate_self, gate_bars and the event gate.passed or gate.refused about
 * `subject`, in the caller's transaction.  rule: the tolerances (spec's "gate"), may be NULL;
 * base_id: that of the job, 0 = not known; *id = of the row. */
int gate_insert(ds_registry *r, int64_t job, const json_t *gate, const json_t *rule,
                const char *subject, int64_t base_id, int64_t *id, ds_error *err);

#endif
