/* registry/rows/feature_nets.h - which network measures what, and how pictures are prepared for it.
 *
 * A choice is a network and a mode: "pytorch-fid", "torch-fidelity" or "clean" for the network of
 * FID (kind inception-fid), "bundled" for any other.  In words: NAME or NAME:MODE (FID's default is
 * pytorch-fid), "sha256:<digits>", "bundled" = the network of the base, "default".
 * A dataset has a choice of its own or follows the default; a training is measured with what its
 * first start found, also when it is tried again.
 * Registering and names: registry/rows/bases.h.  Thread: the registry's.
 */
#ifndef DS_REGISTRY_ROWS_FEATURE_NETS_H
#define DS_REGISTRY_ROWS_FEATURE_NETS_H

#include "registry/core/handle.h"

#define DS_FEATURE_MODE_SIZE 16

typedef struct {
    int follow;                      /* the default, whatever that will be */
    int64_t id;                      /* 0: the network of the base */
    char mode[DS_FEATURE_MODE_SIZE]; /* "bundled" with id 0 */
} ds_feature_choice;

/* DS_ENOTFOUND: no such network; DS_EINVAL: no such mode, or not for this network. */
int ds_feature_choice_resolve(ds_registry *r, const char *words, ds_feature_choice *out,
                              ds_error *err);

/* Measure with it from now on; event feature_net.default.  Remembered.  Nothing is trained anew. */
int ds_feature_net_choose(ds_registry *r, const ds_feature_choice *c, ds_error *err);

/* {id,name,path,sha256,mode,bundled:bool}: the default network, for the default base.
 * DS_ENOTFOUND when there is none. */
int ds_feature_net_default(ds_registry *r, json_t **out, ds_error *err);

/* {id,name,path,sha256,mode} that this training is measured with; fixed by the first call. */
int ds_feature_net_of_job(ds_registry *r, int64_t job, json_t **out, ds_error *err);
/* The network of a base, likewise; json null when it has none. */
int ds_feature_net_of_base(ds_registry *r, int64_t base_id, json_t **out, ds_error *err);

/* {id,name,path,sha256,kind,source,source_format,source_sha256,license,parameters,bytes,created_at,
 * default,mode (of the default, else null),preprocessings:[...],datasets,adapters (how many use
 * it),removed}; ref as for bases. */
int ds_feature_net_list(ds_registry *r, ds_page page, json_t **out, ds_error *err);
int ds_feature_net_get(ds_registry *r, const char *ref, json_t **out, ds_error *err);

/* Forget it: removed_at, event feature_net.removed.  DS_ECONFLICT, naming them, while it is the
 * default, comes with a base, or datasets, adapters that are not deleted or live jobs need it.  The
 * file is the caller's business; *out is the network as it was. */
int ds_feature_net_remove(ds_registry *r, const char *ref, json_t **out, ds_error *err);

#endif
