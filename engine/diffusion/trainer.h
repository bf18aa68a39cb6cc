/* engine/diffusion/trainer.h - one training run: data, optimiser state, exact resume.
 *
 * Everything random is named by (seed, stream, absolute step, sample), so a run that is interrupted
 * and resumed from a checkpoint gives the same bytes as one that never was.  The parameters, Adam
 * moments, EMA and the step are the whole state.
 *
 * Thread: one.  Errors: DS_EINVAL (options), DS_ENOMEM (with figures), DS_EINTEGRITY (checkpoint),
 * DS_EFAILED (loss or gradient not finite: that step has changed nothing).
 */
#ifndef DS_ENGINE_DIFFUSION_TRAINER_H
#define DS_ENGINE_DIFFUSION_TRAINER_H

#include "engine/diffusion/train_options.h"
#include "engine/model/net.h"

typedef struct {
    int step;             /* the step just done, from 1 */
    double loss, mse, vb; /* means over the batch */
    double grad_norm;     /* before clipping */
    double lr;
} ds_train_report;

typedef struct ds_trainer ds_trainer;

/* Ranges of what the trainer uses, and what excludes each other; micro_batch 0 is batch.
 * DS_EINVAL.  ds_trainer_new asks it too. */
int ds_train_options_check(const ds_train_options *opt, ds_error *err);

/* spec.classes == 0 (pretraining, method full) labels index the base's own table. */
int ds_trainer_new(ds_trainer **out, const ds_model *model, const ds_method_spec *spec,
                   const ds_train_options *opt, const ds_image_set *images, ds_error *err);
void ds_trainer_free(ds_trainer *t); /* NULL is fine */

/* What a trainer takes on its device and on the host, before it is made. */
typedef struct {
    double weights;     /* packed for the products, folded */
    double state;       /* parameters, gradients, moments, EMA */
    double activations; /* of one micro-batch */
    double batch;       /* images, noise, losses; staging on the host */
} ds_trainer_plan;
ds_trainer_plan ds_trainer_plan_of(ds_device *dev, const ds_base *base, const ds_method_spec *spec,
                                   const ds_train_options *opt);

int ds_trainer_step(ds_trainer *t, ds_train_report *report, ds_error *err);
int ds_trainer_done(const ds_trainer *t); /* steps done so far (absolute) */

/* Steps below `until` (absolute, from 0; 0 = none) may begin on a device with memory of its own
 * before ds_trainer_step asks for them, so that it never waits for the host.  busy: one has begun;
 * until a ds_trainer_step has reported it, the trainer can be freed, but not looked at (heldout,
 * save, result, copy).  It changes no number. */
void ds_trainer_ahead(ds_trainer *t, int until);
int ds_trainer_busy(const ds_trainer *t);

/* The course of the run so far (train_options.h); the end is course->last, of a run without
 * patience and max_time the steps that were asked for. */
const ds_train_course *ds_trainer_course(const ds_trainer *t);
/* After a step that is a look: its held-out loss.  1: the rate falls from now on.  What follows
 * depends on these looks, so they are the same after a resume. */
int ds_trainer_look(ds_trainer *t, double heldout);
/* After a step: the seconds that the run has taken, over all its parts.  1: the rate falls from now
 * on, or the run is at its end; asked again before `deadline` seconds, it says 0. */
int ds_trainer_time(ds_trainer *t, double seconds);
double ds_trainer_deadline(const ds_trainer *t); /* INFINITY: time decides nothing any more */

/* Mean loss over the held-out images (training images if there are none) at fixed noise and
 * timesteps, with the EMA parameters. */
int ds_trainer_heldout(ds_trainer *t, double *loss, ds_error *err);

/* Checkpoint: a safetensors file (atomic); load refuses one of other options, data or base. */
int ds_trainer_save(ds_trainer *t, const char *path, ds_error *err);
int ds_trainer_load(ds_trainer *t, const char *path, ds_error *err);

/* 1: what was loaded is of another device class (ds_train_options.anywhere). */
int ds_trainer_moved(const ds_trainer *t);

/* The result: the EMA parameters as an adapter, rounded to the storage type. */
int ds_trainer_result(ds_trainer *t, ds_adapter **out, ds_error *err);

/* Gradients of the last step and current parameters, for tests (host copies, malloc'ed). */
float *ds_trainer_copy(ds_trainer *t, int gradients);

#endif
