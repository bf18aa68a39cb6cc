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

#include "contract/options.h"
#include "engine/model/net.h"

/* The options of a training (contract/options.def).
 *   micro_batch     divides batch; 0 = batch
 *   warmup          linear, over so many steps; then, with cosine, a cosine decay to 0
 *   clip            global gradient norm; 0 = off
 *   ema             decay, itself warmed up: min(ema, (1+step)/(10+step))
 *   label_dropout   probability of the null row
 *   focus           density of timesteps: 0 = uniform; else logit(t/T) = focus_mean + focus *
 *                   logit(u), u uniform: the middle of the schedule, where the shape of a picture
 *                   is decided, is seen more often (as the logit-normal law of Esser et al. 2024,
 *                   with a logistic one).  The loss is not reweighted
 *   heldout         images kept out of training for the held-out loss (at most a tenth of the set)
 *   ..._every       who makes the steps looks at them, the trainer does not */
typedef struct {
#define TRAIN(...) DS_OPTION_MEMBER(__VA_ARGS__)
#include "contract/options.def"
    int recompute; /* blocks whose activations are computed again in the backward pass (net.h);
                    * changes memory and time, never the numbers */
    int replan; /* 1: ds_trainer_load takes a checkpoint of another schedule (steps, lr, warm-up) */
} ds_train_options;

/* What is trained on, n of side x side x channels, borrowed: images, uint8 RGB, HWC interleaved;
 * or, with latents[0], what a VAE says of the images: latents[0][i] is the posterior's mean, then
 * its log variance, each (channels, side, side) f32; latents[1][i] that of the mirrored image,
 * needed with flip only.  Each use draws anew: (mean + exp(logvar/2) eps) * latent_scale. */
typedef struct {
    const uint8_t *pixels;
    const int *labels; /* class ids, 0..classes-1 */
    int n, side, channels, classes;
    const float *const *latents[2];
    const char *latents_digest; /* of all of them: names them in a checkpoint */
    double latent_scale;
} ds_image_set;

typedef struct {
    int step;             /* the step just done, from 1 */
    double loss, mse, vb; /* means over the batch */
    double grad_norm;     /* before clipping */
    double lr;
} ds_train_report;

typedef struct ds_trainer ds_trainer;

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

/* How many of `images` are held out when `asked` are wished for: a tenth at most. */
int ds_train_heldout(int images, int asked);

int ds_trainer_step(ds_trainer *t, ds_train_report *report, ds_error *err);
int ds_trainer_done(const ds_trainer *t); /* steps done so far (absolute) */

/* Steps below `until` (absolute, from 0; 0 = none) may begin on a device with memory of its own
 * before ds_trainer_step asks for them, so that it never waits for the host.  busy: one has begun;
 * until a ds_trainer_step has reported it, the trainer can be freed, but not looked at (heldout,
 * save, result, copy).  It changes no number. */
void ds_trainer_ahead(ds_trainer *t, int until);
int ds_trainer_busy(const ds_trainer *t);

/* Mean loss over the held-out images (training images if there are none) at fixed noise and
 * timesteps, with the EMA parameters. */
int ds_trainer_heldout(ds_trainer *t, double *loss, ds_error *err);

/* Checkpoint: a safetensors file (atomic); load refuses one of other options, data or base. */
int ds_trainer_save(ds_trainer *t, const char *path, ds_error *err);
int ds_trainer_load(ds_trainer *t, const char *path, ds_error *err);

/* The result: the EMA parameters as an adapter, rounded to the storage type. */
int ds_trainer_result(ds_trainer *t, ds_adapter **out, ds_error *err);

/* Gradients of the last step and current parameters, for tests (host copies, malloc'ed). */
float *ds_trainer_copy(ds_trainer *t, int gradients);

#endif
