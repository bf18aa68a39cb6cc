/* worker/kinds/import_job.c - job kind "import". */
#include "worker/convert/import.h"
#include "worker/kinds/kinds.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    const ds_work *job;
    const char *stage;
} job_progress;

/* The digests of a base and of its VAE are one stage. */
static void on_stage(void *user, const char *stage) {
    job_progress *p = user;
    if (p->stage && !strcmp(p->stage, stage))
        return;
    p->stage = stage;
    ds_events_stage(p->job->events, stage, "%s", p->job->spec->import.source);
}

static int on_step(void *user, double done, double total) {
    const job_progress *p = user;
    ds_events_progress(p->job->events, done, total,
                       strcmp(p->stage, "objective") ? "bytes" : "pictures", NAN, NAN);
    return 0;
}

static void on_line(void *user, int warning, const char *text) {
    const job_progress *p = user;
    if (warning)
        ds_events_warning(p->job->events, "%s", text);
    else
        ds_events_note(p->job->events, "%s", text);
}

int ds_job_import(const ds_work *job, ds_error *err) {
    const ds_spec_import *s = &job->spec->import;
    job_progress progress = {.job = job};
    ds_import_result r = {0};
    ds_import_options o = {.source = s->source,
                           .vae = s->vae,
                           .name = s->name,
                           .license = s->license,
                           .out_dir = s->out_dir,
                           .heads = s->heads,
                           .weights = s->weights,
                           .objective = s->objective,
                           .probe = s->probe,
                           .device = {.kind = ds_job_device(job),
                                      .precision = job->spec->device.precision,
                                      .threads = job->spec->device.threads},
                           .memory_limit = job->spec->device.memory_limit,
                           .report = ds_import_report_new(),
                           .progress = {on_stage, on_step, &progress}};
    if (s->feature_net)
        ds_events_stage(job->events, "convert", "%s", s->source);
    int rc = s->feature_net ? ds_import_feature_net(&o, &r, err) : ds_import_base(&o, &r, err);
    if (!rc && s->feature_net && *s->name)
        snprintf(r.name, sizeof r.name, "%s", s->name);
    if (!rc && *s->license)
        snprintf(r.license, sizeof r.license, "%s", s->license);
    ds_import_report_lines(o.report, on_line, &progress);
    if (!rc)
        rc = ds_job_finish(
            job, ds_import_result_json(s->feature_net ? "feature_net" : "base", &r, o.report), err);
    ds_import_report_free(o.report);
    ds_import_result_release(&r);
    return rc;
}
