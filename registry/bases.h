/* registry/bases.h - the frozen models and feature networks that adapters and numbers refer to.
 *
 * Rows are found by digest; the file's place may change, the digest of a row never does.  One base
 * is active: work is derived for it.
 */
#ifndef DS_REGISTRY_BASES_H
#define DS_REGISTRY_BASES_H

#include "registry/registry.h"

/* Register (or find by sha256 and update name and path) a feature network. */
int ds_feature_net_put(ds_registry *r, const char *name, const char *path, const char *sha256,
                       int64_t *id, ds_error *err);

/* The same for a base; config (may be NULL) is kept as JSON; feature_net 0 = none. */
int ds_base_put(ds_registry *r, const char *name, const char *path, const char *sha256,
                const json_t *config, int64_t feature_net, int64_t *id, ds_error *err);

/* Make it the one that work is derived for. */
int ds_base_activate(ds_registry *r, int64_t id, ds_error *err);

/* {id,name,path,sha256,config,feature_net:{id,name,path,sha256}|null}; id 0 = the active one.
 * DS_ENOTFOUND when there is none. */
int ds_base_get(ds_registry *r, int64_t id, json_t **out, ds_error *err);

#endif
