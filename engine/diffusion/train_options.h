/* engine/diffusion/train_options.h - what a training run is asked for, and the pictures it is
 * given.
 *
 * Ownership: pictures are borrowed for as long as the trainer lives.
 */
#ifndef DS_ENGINE_DIFFUSION_TRAIN_OPTIONS_H
#define DS_ENGINE_DIFFUSION_TRAIN_OPTIONS_H

#include "contract/options.h"

#include <stdint.h>

/* The options of a training (contract/options.def).
 *   micro_batch     divides batch; 0 = batch
 *   warmup          linear, over so many steps; then, with cosine, a cosine decay to 0
 *   clip            global gradient norm; 0 = off
 *   ema             decay, itself warmed up: min(ema, (1+step)/(10+step))
 *   label_dropout   probability of the null row
 *   focus           density of timesteps: 0 = uniform; else logit(t/T) = focus_mean + focus *
 *                   logit(u), u uniform: the middle of the schedule, where the shape of a picture
 *                   is decided, is seen more often (as the logit-normal law of Esser et al. 2024,
 *                   with a logistic one).  Of a flow: the noise levels' density, 0 = uniform, else
 *                   logit-normal of that mean and width, both shifted as the base says (flow.h).
 *                   The loss is not reweighted
 *   heldout         images kept out of training for the held-out loss (at most a tenth of the set)
 *   trained_guidance, .._low  weight of domain guidance that is trained in, and the noise level
 *                   below which it is not (train_guidance.h); 0: none
 *   patience, max_time  the run may end before `steps`: ds_train_course below.  They need `cosine`
 *   ..._every       who makes the steps looks at them, the trainer does not */
typedef struct {
#define TRAIN(...) DS_OPTION_MEMBER(__VA_ARGS__)
#include "contract/options.def"
    int recompute; /* blocks whose activations are computed again in the backward pass (net.h);
                    * changes memory and time, never the numbers */
    int replan; /* 1: ds_trainer_load takes a checkpoint of another schedule (steps, lr, warm-up) */
    int anywhere; /* 1: .. and one of another device class, whose rounding is not this one's */
} ds_train_options;

/* The course of a run with patience or max_time: the rate is constant after the warm-up, until it
 * falls as a cosine to 0 at the last step.  It begins to fall a fifth of the steps before the end;
 * or earlier, at step s, when the held-out loss or the clock says so, and then the run ends a
 * quarter of s later.  Counted in steps done. */
typedef struct {
    int from, last;    /* the rate falls from here on; the end */
    const char *ended; /* why `last` is less than opt.steps: "patience", "time"; NULL: it is not */
    int waited;        /* looks since the best held-out loss */
    double best;       /* of all looks; INFINITY: there was none */
} ds_train_course;

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

/* How many of `images` are held out when `asked` are wished for: a tenth at most. */
int ds_train_heldout(int images, int asked);
/* Which: order (images) becomes a permutation, and the last so many of it are held out. */
int ds_train_split(uint32_t *order, int images, int asked, uint64_t seed);

#endif
