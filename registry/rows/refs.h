/* registry/rows/refs.h - references to versions of adapters.
 *
 *   name (= name@latest)   name@vN   name@alias   sha256:<at least 8 hex digits>
 *
 * Thread: the registry's.
 */
#ifndef DS_REGISTRY_ROWS_REFS_H
#define DS_REGISTRY_ROWS_REFS_H

#include "registry/core/handle.h"
#include "registry/core/names.h"
#include "registry/store/store.h"

typedef struct {
    int64_t id;      /* of the version row */
    int64_t version; /* N of @vN */
    int64_t base_id;
    char name[DS_NAME_SIZE];
    char ref[DS_NAME_SIZE + 24]; /* "digits@v1" */
    int published;               /* 0 = rejected */
    ds_blob blob;                /* of the adapter file */
} ds_adapter_ref;

/* DS_ENOTFOUND (saying what there is), DS_ECONFLICT for a prefix that fits several, DS_EINVAL. */
int ds_adapter_resolve(ds_registry *r, const char *ref, ds_adapter_ref *out, ds_error *err);

/* 0, or DS_ECONFLICT with the digests of both bases when the adapter was not made for this one. */
int ds_adapter_check_base(ds_registry *r, const ds_adapter_ref *a, int64_t base_id, ds_error *err);

#endif
