/* registry/aliases.h - movable names of versions (@latest, @prod), with history.
 *
 * generation counts the moves of one alias from 1; give the one you saw to move it only if nobody
 * else has (compare and swap).
 */
#ifndef DS_REGISTRY_ALIASES_H
#define DS_REGISTRY_ALIASES_H

#include "registry/registry.h"

/* Create or move.  if_generation: -1 = always, 0 = only create, else must be the present one
 * (DS_ECONFLICT).  A rejected version is DS_EREFUSED.  *out (may be NULL): the alias object. */
int ds_alias_set(ds_registry *r, const char *name, const char *alias, int64_t version,
                 int64_t if_generation, const char *reason, json_t **out, ds_error *err);

int ds_alias_list(ds_registry *r, const char *name, json_t **out, ds_error *err); /* array */

/* [{generation,version,old_version,reason,at}] newest first. */
int ds_alias_history(ds_registry *r, const char *name, const char *alias, json_t **out,
                     ds_error *err);

#endif
