/* worker/verify_job.c - job kind "verify": the gate without a new adapter. */
#include "worker/gate.h"

int ds_job_verify(const ds_job *job, ds_error *err) {
    ds_tools tools;
    ds_gate gate;
    int rc = ds_tools_open(&tools, job, job->spec->task_count > 0, err);
    if (rc)
        return rc;
    rc = ds_gate_run(&tools, &gate, err);
    if (!rc) {
        rc = ds_job_finish(job,
                           json_pack("{s:s, s:s, s:o}", "schema", "diffscaler.verify/1",
                                     "device_class", tools.dev->device_class, "gate",
                                     ds_gate_json(&gate)),
                           err);
        if (!rc && gate.refused)
            rc = ds_fail(err, DS_EREFUSED, "refused by the gate: %.450s", gate.reason);
        ds_gate_release(&gate);
    }
    ds_tools_close(&tools);
    return rc;
}
