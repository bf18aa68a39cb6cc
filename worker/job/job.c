/* worker/job/job.c - what every kind of job needs of its directory and its spec. */
#include "worker/job/job.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

char *ds_job_path(const ds_work *job, const char *name) {
    return ds_xasprintf("%s/%s", job->dir, name);
}

const char *ds_job_device(const ds_work *job) {
    return job->device ? job->device : job->spec->device.kind;
}

int ds_job_is_temporary(int code) {
    return code == DS_EBUSY || code == DS_ENOSPC || code == DS_ENOMEM;
}

json_t *ds_json_real(double x) { return isfinite(x) ? json_real(x) : json_null(); }

int ds_job_finish(const ds_work *job, json_t *doc, ds_error *err) {
    char *path = ds_job_path(job, DS_FILE_RESULT);
    json_object_set_new(doc, "spec", json_string(job->spec->digest));
    int rc = ds_json_write_file(path, doc, err);
    json_decref(doc);
    free(path);
    return rc;
}
