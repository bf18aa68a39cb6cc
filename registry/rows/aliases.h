/* registry/rows/aliases.h - movable names of versions (@latest, @prod), with history.
 *
 * generation counts the moves of one alias from 1; give the one you saw to move it only if nobody
 * else has (compare and swap).
 */
#ifndef DS_REGISTRY_ROWS_ALIASES_H
#define DS_REGISTRY_ROWS_ALIASES_H

#include "registry/core/handle.h"

/* Create or move.  if_generation: -1 = always, 0 = only create, else must be the present one
 * (DS_ECONFLICT).  A rejected version is DS_EREFUSED.  *out (may be NULL): the alias object. */
int ds_alias_set(ds_registry *r, const char *name, const char *alias, int64_t version,
                 int64_t if_generation, const char *reason, json_t **out, ds_error *err);

/* DS_ENOTFOUND without that adapter or alias; DS_ECONFLICT of "latest", which is what the name
 * alone means.  if_generation as above.  Made again, it goes on counting where it was. */
int ds_alias_remove(ds_registry *r, const char *name, const char *alias, int64_t if_generation,
                    ds_error *err);

/* Array of those of one adapter (DS_ENOTFOUND without it); a page of all of them, by name. */
int ds_alias_list(ds_registry *r, const char *name, json_t **out, ds_error *err);
int ds_alias_list_all(ds_registry *r, ds_page page, json_t **out, ds_error *err);

/* [{generation,version,old_version,reason,at}] newest first. */
int ds_alias_history(ds_registry *r, const char *name, const char *alias, json_t **out,
                     ds_error *err);

/* Inside a transaction: all that point to a version of `name` go, @latest too. */
int aliases_drop(ds_registry *r, const char *name, int64_t version_id, ds_error *err);

#endif
