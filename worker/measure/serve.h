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

/* Pixels of a latent base need model->vae (DS_EINVAL). */
/* n pictures with these labels (-1 = unconditional); picture i is named by (seed, i).  pixels or
 * raw may be NULL.  progress as ds_sample. */
int ds_serve_run(ds_serve *s, uint64_t seed, const int *labels, int n, uint8_t *pixels, float *raw,
                 ds_progress *progress, void *user, ds_error *err);

/* The same for pictures first .. first + n of a longer row: picture i is named by (seed, first +
 * i). */
int ds_serve_range(ds_serve *s, uint64_t seed, int first, const int *labels, int n, uint8_t *pixels,
                   float *raw, ds_progress *progress, void *user, ds_error *err);

/* Labels of n pictures in the proportions of counts (classes of them), in ascending order. */
void ds_class_labels(int *labels, int n, const int64_t *counts, int classes);

/* The probe of a task: SHA-256 of the raw pictures of p->n fixed-seed samples, labels in turn.
 * Depends on base, adapter, sampler settings and device class, on nothing else. */
int ds_probe(const ds_model *model, const ds_adapter *adapter, const ds_spec_sample *sample, int n,
             uint64_t seed, char out[DS_HEX_SIZE], ds_error *err);

#endif
