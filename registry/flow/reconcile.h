/* registry/flow/reconcile.h - work is derived from rows, never from a message that could be lost.
 *
 * For every live dataset:
 *   a scan job    where a scan is wanted and no scan job is live
 *   a train job   where its newest version has, for its base and generation, neither an adapter
 *                 (published or rejected) nor a train job that is live, failed or cancelled
 * Call it at start, after every finished job, when ds_registry_foreign_change says 1, and when a
 * timer fires: it is cheap and calling it again changes nothing.  One call looks at a part of the
 * datasets, so that thousands of them do not hold up the loop: call it again until it is settled.
 */
#ifndef DS_REGISTRY_FLOW_RECONCILE_H
#define DS_REGISTRY_FLOW_RECONCILE_H

#include "registry/core/handle.h"

/* Make the missing jobs of the next 500 datasets, at most 100 of a kind, in one transaction; *made
 * (may be NULL) = how many. */
int ds_reconcile(ds_registry *r, int *made, ds_error *err);

/* The same for the dataset of that job alone.  Whoever sees its scan ended sees what follows from
 * it, however many datasets there are, if nobody is answered between the two. */
int ds_reconcile_of_job(ds_registry *r, int64_t job, ds_error *err);

/* 1: all datasets were looked at, and nothing has changed since. */
int ds_reconcile_settled(ds_registry *r);

#endif
