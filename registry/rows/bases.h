/* registry/rows/bases.h - the frozen models and feature networks that adapters and numbers refer
 * to.
 *
 * Rows are found by digest; the file's place may change, the digest of a row never does.  Rows stay
 * for ever, because adapters name them: what a person removes gets removed_at and is not found by
 * name any more; registering the same digest again brings it back.
 * One base is the default (meta 'active_base'): work is derived for it, except for datasets that
 * chose another one (datasets.base_id).
 * A reference to a base is its name, "default", "sha256:" and at least 8 digits, or 64 digits.
 */
#ifndef DS_REGISTRY_ROWS_BASES_H
#define DS_REGISTRY_ROWS_BASES_H

#include "registry/core/handle.h"

/* What is known of a model file.  Texts NULL and numbers 0: not known; a row that is there already
 * keeps what it has.  config NULL likewise. */
typedef struct {
    const char *name, *path, *sha256; /* needed; sha256 of the uncompressed bytes */
    const json_t *config;
    const char *vae_path, *vae_sha256; /* bases: both or none */
    const char *kind;                  /* feature networks */
    const char *source, *source_format, *source_sha256, *license;
    int64_t parameters, bytes;
    int64_t feature_net;  /* bases: id, 0 = none */
    const json_t *report; /* of the import; a new one replaces the one that is there */
} ds_model_facts;

/* Register, or find by sha256 and bring up to date (also: bring back). */
int ds_base_register(ds_registry *r, const ds_model_facts *f, int64_t *id, ds_error *err);
int ds_feature_net_register(ds_registry *r, const ds_model_facts *f, int64_t *id, ds_error *err);

/* The same with the little that is known of a bundled file. */
int ds_feature_net_put(ds_registry *r, const char *name, const char *path, const char *sha256,
                       int64_t *id, ds_error *err);
int ds_base_put(ds_registry *r, const char *name, const char *path, const char *sha256,
                const json_t *config, int64_t feature_net, int64_t *id, ds_error *err);

/* DS_ENOTFOUND for a name that no base has; then DS_EINVAL for what cannot be a reference.  Of
 * several bases with one name the default is meant, else the newest. */
int ds_base_resolve(ds_registry *r, const char *ref, int64_t *id, ds_error *err);

/* May a base (or feature network) of this name and digest be registered?  DS_EINVAL for a bad name;
 * DS_ECONFLICT when another one has the name.  sha256 NULL: not known yet. */
int ds_base_name_free(ds_registry *r, const char *name, const char *sha256, ds_error *err);
int ds_feature_net_name_free(ds_registry *r, const char *name, const char *sha256, ds_error *err);

/* The same before an import, whose digest is not known yet: a name that belongs to a model from
 * another source, or to an import under way from one, is DS_ECONFLICT. */
int ds_model_import_free(ds_registry *r, int net, const char *name, const char *source,
                         ds_error *err);

/* Make it the one that work is derived for: at start ... */
int ds_base_activate(ds_registry *r, int64_t id, ds_error *err);
/* ... and because a person said so: remembered (ds_base_chosen is 1 afterwards), event
 * base.default, queued trainings of datasets that follow the default start anew. */
int ds_base_choose(ds_registry *r, int64_t id, ds_error *err);
int ds_base_chosen(ds_registry *r);

/* {id,name,path,sha256,config,feature_net:{id,name,path,sha256}|null,vae:{path,sha256}|null,latent,
 * predicts:"noise"|"velocity",flow:null|"linear"|"gvp",
 * missing:["vae"],source,source_format,source_sha256,license,parameters,bytes,default,removed,
 * created_at,report:{...}|null}, in lists without report; id 0 = the default.  DS_ENOTFOUND when
 * there is none. */
int ds_base_get(ds_registry *r, int64_t id, json_t **out, ds_error *err);
/* Does the base of such an object predict a velocity? */
int ds_base_velocity(const json_t *base);
/* Adds "datasets" and "adapters" to such an object: how many use it.  The list has them, and "task"
 * (registry/rows/base_tasks.h). */
int ds_base_usage(ds_registry *r, json_t *base, ds_error *err);
int ds_base_list(ds_registry *r, ds_page page, json_t **out, ds_error *err);

/* Forget it: removed_at, event base.removed.  DS_ECONFLICT, saying by what, while it is the default
 * or a dataset, an adapter that is not deleted or a live job needs it.  The file is the caller's
 * business; *out is the base as it was. */
int ds_base_remove(ds_registry *r, int64_t id, json_t **out, ds_error *err);

/* Internal, in the caller's transaction: without a VAE it is not measured what a base predicts, so
 * that the same source with its VAE (f) may be another file.  The base of this name that f takes
 * the place of is removed, and *id is it: from the same source, without a VAE, and used by nothing
 * (it may be the default, which is the caller's business).  *id 0: there is none. */
int base_give_way(ds_registry *r, const ds_model_facts *f, int64_t *id, ds_error *err);

/* 1 when a row, removed or not, names the file: gc leaves it then.  Removed rows name none. */
int ds_model_file_known(ds_registry *r, const char *path);

#endif
