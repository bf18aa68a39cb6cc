/* registry/core/handle.h - the type that every function of the registry takes, and pages of lists.
 *
 * Opened and closed by registry/registry.h, which also says what holds for all of them: thread,
 * ownership, transactions, errors.
 */
#ifndef DS_REGISTRY_CORE_HANDLE_H
#define DS_REGISTRY_CORE_HANDLE_H

#include "base/error.h"
#include "base/mem.h"

#include <jansson.h>
#include <stdint.h>

typedef struct ds_registry ds_registry;
typedef struct ds_store ds_store;

#define DS_LIST_DEFAULT 100
#define DS_LIST_MAX 1000

/* A list as text: each row is written when it is read, so a long list is never there as a tree.
 * `each` (may be NULL) may change a row before that.  The caller releases text, also after an
 * error. */
typedef struct {
    ds_buf text;
    void (*each)(void *ctx, json_t *row);
    void *ctx;
} ds_rows;

/* Which part of a list: limit 0 = DS_LIST_DEFAULT, above DS_LIST_MAX is cut; cursor is the "next"
 * of the page before, or NULL.  List functions give {"items":[...],"next":cursor|null}: as a tree,
 * or, where their header says so and rows is set, as text there, and *out stays as it is. */
typedef struct {
    int limit;
    const char *cursor;
    ds_rows *rows;
} ds_page;

#endif
