/* registry/flow/imports.h - the end of an import job: a model file becomes a row.
 *
 * The files lie under their final names and their digests were compared with their content before
 * this is called (daemon/jobs/finish.c).
 */
#ifndef DS_REGISTRY_FLOW_IMPORTS_H
#define DS_REGISTRY_FLOW_IMPORTS_H

#include "registry/core/handle.h"

typedef struct {
    int64_t job;
    const json_t *spec, *result; /* docs/jobs.md, kind "import" */
    const char *path;            /* of the base or feature network */
    const char *vae_path;        /* NULL: none */
} ds_import;

/* One transaction: row (new, or known by its digest and brought up to date), job done, events.  A
 * base gets the feature network of the default base; the first base of all becomes the default.
 * DS_EINVAL when the document is malformed or the name belongs to another model by now. */
int ds_import_finish(ds_registry *r, const ds_import *i, ds_error *err);

#endif
