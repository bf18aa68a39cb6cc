/* registry/rows/bars_internal.h - the member "self" of a result's gate (docs/jobs.md) to rows and
 * back.
 *
 * Internal to registry/; in the caller's transaction; thread: the registry's.
 */
#ifndef DS_REGISTRY_ROWS_BARS_INTERNAL_H
#define DS_REGISTRY_ROWS_BARS_INTERNAL_H

#include "registry/rows/bars.h"
#include "registry/core/db.h"

/* DS_EINVAL naming the member at fault, also when it does not fit the spec: a bar left out or
 * invented, a force that nobody asked for.  spec NULL: a verification, which has no "self".
 * *refused = this alone refuses the version. */
int bars_check(const json_t *gate, const json_t *spec, int *refused, ds_error *err);
int bars_insert(ds_registry *r, int64_t gate, const json_t *self, ds_error *err);

/* The rows of a gate: {verdict,fd,n,bars:[...]}, or null. */
int bars_object(ds_registry *r, int64_t gate, json_t **out, ds_error *err);

/* SQL: position of the bar that decided a gate: the first that refused (of @latest, the best, the
 * base), else the first that could be compared. */
#define BARS_DECIDING(gate)                                                                        \
    "(SELECT x.position FROM gate_bars x WHERE x.gate_id = " gate " AND x.verdict <> 'none'"       \
    " ORDER BY x.verdict <> 'refused', x.position LIMIT 1)"
/* {role,ref,verdict,fd_bar,fd_now,delta,class_bar,class_now} of it, or null; from a row, its
 * columns from `col` on. */
#define BARS_COLUMNS(b)                                                                            \
    b ".role, " b ".ref, " b ".verdict, " b ".fd_bar, " b ".fd_now, " b ".delta, " b               \
      ".class_bar, " b ".class_now"
#define BARS_COLUMN_COUNT 8
int bars_deciding(ds_registry *r, int64_t gate, json_t **out, ds_error *err);
json_t *bars_deciding_row(sqlite3_stmt *q, int col);

/* SQL: this version was refused by its own bars, and by nothing else: what a force would change. */
#define BARS_ALONE_REFUSED(av)                                                                     \
    "EXISTS (SELECT 1 FROM gates bg JOIN gate_self bs ON bs.gate_id = bg.id WHERE bg.job_id = " av \
    ".job_id AND bs.verdict = 'refused' AND NOT EXISTS (SELECT 1 FROM gate_tasks bt"               \
    " WHERE bt.gate_id = bg.id AND bt.verdict = 'refused'))"

/* SQL: version `av` answers what dataset `d` wants of base `b` (three names of tables; a verdict is
 * an answer too).  While a worse version may be published, one that only its bars refused is none.
 */
#define BARS_ANSWERED(av, d, b)                                                                    \
    av ".dataset_version_id = " d ".version_id AND " av ".base_id = " b " AND " av                 \
       ".generation >= " d ".generation AND NOT (" d ".publish_worse AND"                          \
       " " BARS_ALONE_REFUSED(av) ")"

#endif
