/* worker/kinds/verify_job.c - job kind "verify": the gate without a new adapter. */
#include "worker/kinds/kinds.h"
#include "worker/kinds/base_task.h"
#include "worker/kinds/gate.h"

static int finish(const ds_work *job, const ds_tools *tools, const ds_gate *gate, json_t *base_task,
                  ds_error *err) {
    json_t *doc = json_pack("{s:s, s:s, s:o}", "schema", DS_SCHEMA_VERIFY, "device_class",
                            tools->dev->device_class, "gate", ds_gate_json(gate));
    if (base_task)
        json_object_set(doc, "base_task", base_task);
    int rc = ds_job_finish(job, doc, err);
    if (!rc && ds_gate_refuses(gate))
        rc = ds_fail(err, DS_EREFUSED, "refused by the gate: %.450s", gate->reason);
    return rc;
}

int ds_job_verify(const ds_work *job, ds_error *err) {
    const ds_spec *s = job->spec;
    ds_tools tools;
    ds_gate gate;
    json_t *base_task = NULL;
    int rc = ds_tools_open(&tools, job, s->task_count + s->base_task_known > 0, err);
    if (rc)
        return rc;
    rc = ds_gate_run(&tools, &gate, err);
    if (!rc && ds_base_task_wanted(&tools))
        rc = ds_base_task_record(&tools, &base_task, err);
    if (!rc)
        rc = finish(job, &tools, &gate, base_task, err);
    json_decref(base_task);
    ds_gate_release(&gate);
    ds_tools_close(&tools);
    return rc;
}
