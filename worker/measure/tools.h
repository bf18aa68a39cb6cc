/* worker/measure/tools.h - device, base, VAE and feature network of a job, checked.
 *
 * With `tolerate` a base or feature network that is not the registered one is no error but a
 * finding: it is loaded all the same where that is possible, because the gate then measures what
 * the change does to the tasks.  A job with findings must not train.
 *
 * Ownership: open/close.  Thread: the main one.
 * Errors: DS_EINTEGRITY (not tolerated), DS_ENOTFOUND, DS_ENOMEM, DS_EINVAL.
 */
#ifndef DS_WORKER_MEASURE_TOOLS_H
#define DS_WORKER_MEASURE_TOOLS_H

#include "engine/vae/vae.h"
#include "worker/measure/feature_net.h"
#include "worker/job/job.h"
#include "worker/measure/reference.h"

typedef struct {
    const ds_work *job;
    ds_device *dev;
    ds_base *base;            /* NULL: cannot be loaded (only with a finding) */
    ds_model *model;          /* NULL together with base */
    ds_feature_net *features; /* NULL until ds_tools_features, and if it cannot be loaded */
    ds_feature_net *other;    /* the one an old task was measured with, if it is another */
    ds_vae *decoder;          /* latent bases: NULL until ds_tools_decoder; also model->vae */
    int picture_side;    /* of what the base is trained on and makes; 0: not known (a finding) */
    double latent_scale; /* 0: pixels */
    ds_vae_config vae_config;                                        /* blocks 0: none */
    char base_finding[512], features_finding[512], vae_finding[512]; /* "" = as registered */
} ds_tools;

int ds_tools_open(ds_tools *t, const ds_work *job, int tolerate, ds_error *err);
void ds_tools_close(ds_tools *t);

/* Load the feature network if it is not yet.  It takes some 120 MB, so not before it is needed, and
 * only one is in memory at a time. */
int ds_tools_features(ds_tools *t, ds_error *err);
/* Is the job's network, as it prepares pictures, the one of this task's reference? */
int ds_tools_same_features(const ds_tools *t, const ds_spec_task *task, const ds_reference *ref);
/* The network that the task's reference was made with, loaded: that of the job where it is the
 * same.  DS_ENOTFOUND, by name and with the way out, when it is not here any more. */
int ds_tools_features_of(ds_tools *t, const ds_spec_task *task, const ds_reference *ref,
                         ds_feature_net **out, ds_error *err);
void ds_tools_drop_features(ds_tools *t);

/* What makes pictures of a latent base's samples, if it is not loaded yet; nothing for pixels. */
int ds_tools_decoder(ds_tools *t, ds_error *err);
/* Memory of the VAE's halves for one picture (planning); 0 where it is not known. */
void ds_tools_vae_bytes(const ds_tools *t, size_t *encoder, size_t *decoder);

#endif
