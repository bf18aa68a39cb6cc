/* registry/jobs/cleanup.h - what is still referred to, for whoever tidies files that no row names.
 *
 * Blobs are swept by registry/store/blobs.h; this is about caches and model files, which rows do
 * not name directly.
 */
#ifndef DS_REGISTRY_JOBS_CLEANUP_H
#define DS_REGISTRY_JOBS_CLEANUP_H

#include "registry/core/handle.h"

/* {"manifests":{digest:true}: the present content of each live dataset and of each live job,
 *  "bases":{sha256:true}, "vaes":{sha256:true}: not removed, "datasets":{"<id>":true}: those not
 * removed, "importing":bool: an import is queued or running}. */
int ds_cleanup_facts(ds_registry *r, json_t **out, ds_error *err);

#endif
