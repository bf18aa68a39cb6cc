/* worker/measure/serve.h - pictures of one task, made the one way in which tasks are served.
 *
 * Sampling for people, for evaluation, for probes and for the gate all go through ds_serve: one
 * adapter folded into an inference net.  So what the gate proves is what users get.
 *
 * Ownership: new/free; model and adapter are borrowed and must outlive it.  Thread: as the device.
 * Units: pixels (n, side, side, channels) 8 bit, for a latent base of the side and channels that
 * its VAE makes (engine/vae/vae.h); raw (n, channels, side, side) f32, what the base itself makes.
 */
#ifndef DS_WORKER_MEASURE_SERVE_H
#define DS_WORKER_MEASURE_SERVE_H

#include "worker/job/spec.h"

typedef struct ds_serve ds_serve;

#define DS_SERVE_BATCH 64 /* rows of a pass; pictures do not depend on it */

/* adapter NULL: the base itself. */
int ds_serve_new(ds_serve **out, const ds_model *model, const ds_adapter *adapter,
                 const ds_spec_sample *sample, ds_error *err);
void ds_serve_free(ds_serve *s); /* NULL is fine */

/* Pictures first .. first + n of a row; picture first + i is named by (seed, first + i), so it is
 * the same one however the row is cut. */
typedef struct {
    uint64_t seed;
    int first, n;
    const int *labels;     /* (n); -1: unconditional */
    uint8_t *pixels;       /* or NULL; those of a latent base need model->vae (DS_EINVAL) */
    float *raw;            /* or NULL */
    ds_progress *progress; /* is told pictures; what is decoded counts too */
    void *user;
} ds_serve_request;
int ds_serve_run(ds_serve *s, const ds_serve_request *q, ds_error *err);

/* Labels of n pictures in the proportions of counts (classes of them), in ascending order. */
void ds_class_labels(int *labels, int n, const int64_t *counts, int classes);

/* The probe of a task: SHA-256 of the raw pictures of p->n fixed-seed samples, labels in turn.
 * Depends on base, adapter, sampler settings and device class, on nothing else. */
int ds_probe(const ds_model *model, const ds_adapter *adapter, const ds_spec_sample *sample, int n,
             uint64_t seed, char out[DS_HEX_SIZE], ds_error *err);

#endif
