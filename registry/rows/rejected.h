/* registry/rows/rejected.h - the files of a dataset version that are left out, and who found them.
 *
 * Internal to registry/.  A scan finds files whose container is no picture, a training those whose
 * pixels cannot be decoded.  Both are in one list with the version, {path, reason} of a scan and
 * {path, reason, "stage":"decode"} of a training, so that a rescan of the same content replaces
 * what scans found and keeps the rest.  Thread: the registry's.
 */
#ifndef DS_REGISTRY_ROWS_REJECTED_H
#define DS_REGISTRY_ROWS_REJECTED_H

#include "registry/core/handle.h"

#define REJECTED_MAX 10000      /* in the list; the count is the true number */
#define REJECTED_TEXT (4 << 20) /* bytes of their paths and reasons; the rest is counted only */

enum rejected_stage { REJECTED_SCAN, REJECTED_DECODE };

/* 0, or DS_EINVAL, DS_ELIMIT: `list` is no list of at most REJECTED_MAX {path, reason}. */
int rejected_check(const json_t *list, ds_error *err);

/* In the present transaction: what this stage found replaces what it found before. */
int rejected_put(ds_registry *r, int64_t version_id, enum rejected_stage stage, const json_t *list,
                 int64_t count, ds_error *err);

#endif
