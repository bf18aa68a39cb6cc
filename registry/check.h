/* registry/check.h - what must be true of the rows of a registry (docs/registry.md has the list).
 *
 * Works on any connection, so that a long check can have one of its own, read-only, on another
 * thread while the registry is in use.
 */
#ifndef DS_REGISTRY_CHECK_H
#define DS_REGISTRY_CHECK_H

#include "registry/core/handle.h"

#include <sqlite3.h>

#define DS_CHECK_EACH 5 /* findings that each check tells; the rest is like them */

/* Pages, foreign keys, invariants: fn is told of each finding; their number.  quick: pages are read
 * but not compared with the indexes. */
int ds_check_rows(sqlite3 *db, int quick,
                  void (*fn)(void *ctx, const char *thing, const char *cause), void *ctx);

#endif
