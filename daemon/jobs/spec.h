/* daemon/jobs/spec.h - spec.json of a job: all inputs, no defaults left out (docs/jobs.md).
 * Thread: loop thread (reads the registry).  Errors: DS_EINVAL for options that cannot be, and the
 * registry's. */
#ifndef DS_DAEMON_JOBS_SPEC_H
#define DS_DAEMON_JOBS_SPEC_H

#include "base/digest.h"
#include "daemon/core/shared.h"
#include "registry/jobs/jobs.h"

typedef struct {
    json_t *spec;                      /* owned by the caller */
    char manifest_sha256[DS_HEX_SIZE]; /* to be unpacked to DIR/manifest.ndjson; "" = none */
} ds_built_spec;

/* `earlier` (may be NULL) is the spec of an interrupted attempt: what it trains stays as it was,
 * while places of files, the list of old tasks and the bars are brought up to date. */
int ds_spec_build(ds_daemon *d, const ds_job *job, const char *dir, const json_t *earlier,
                  ds_built_spec *out, ds_error *err);

#endif
