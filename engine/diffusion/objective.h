/* engine/diffusion/objective.h - what a denoising network was trained to say, found by its loss.
 *
 * Names and shapes do not tell: a DiT that predicts noise and one that predicts a velocity (SiT)
 * are the same tensors.  So real pictures x are mixed with noise e as each hypothesis says,
 * x_t = a x + s e, shown to the network, and its answer is compared with what that hypothesis says
 * it is:
 *
 *     eps         e                                  Ho et al. 2020
 *     data-noise  velocity, towards the data:  x - e on the linear path, s x - a e on DDPM's
 *     noise-data  velocity, towards noise: the negative of that     (DDPM's: Salimans & Ho 2022)
 *     x0          x
 *
 * on these paths: DDPM's variance-preserving one with the schedule of the configuration (a^2 + s^2
 * = 1), the linear one (a + s = 1), and gvp, SiT's a = cos(pi u / 2), s = sin(pi u / 2), whose
 * velocity is (pi / 2) (s x - a e).  cosine is gvp as a schedule of DDPM's (Nichol & Dhariwal 2021,
 * without its offset): the same without pi / 2.  On the linear path and on gvp the time is told in
 * the ways that public code has: 1 is data (SiT) or 1 is noise (REPA, minRF), as it is or times
 * 1000 (diffusers); the best of them counts.  gvp and cosine are tried where eps is not clear
 * without them.
 *
 * Two relative mean squares are taken: of the answer (its difference over what should be said; to
 * say nothing has 1), and of the picture that follows from it (its difference over the picture).
 * The loss of a hypothesis is answer^0.6 picture^0.4, each the geometric mean over the same ratios
 * of noise to data on both paths.  The answer alone favours eps: most of a noisy picture is noise,
 * so e is said easily, also by a network that says a velocity.  The picture alone favours what says
 * more of the picture.  The mean is geometric because the ratios are unlike: at one a velocity and
 * noise are almost the same, at another noise cannot be known, and the one that tells them apart
 * must not be drowned.
 *
 * The losses of the linear path and of gvp are near each other.  There the answer itself tells: at
 * ratios of 5 and 10 the velocity of the linear path has all of the noise in it, those of gvp and
 * cosine less than a third.  Which has what it must not have is ruled out.
 *
 * clear: the best is at least DS_OBJECTIVE_MARGIN times below every other that is not ruled out,
 * and its answer at most DS_OBJECTIVE_ANSWER.  Random weights have answers of 1 or worse; a perfect
 * velocity at much noise has the variance of x over that of x and e, 0.5 for latents.  The two
 * hypotheses of x0 say the same of a picture on both paths and are no rivals.
 *
 * Noise is fixed (base/rng.h), so the same network and pictures give the same numbers on a device.
 * Thread: one.  Errors: of the denoiser; DS_ECANCELED.
 */
#ifndef DS_ENGINE_DIFFUSION_OBJECTIVE_H
#define DS_ENGINE_DIFFUSION_OBJECTIVE_H

#include "base/progress.h"
#include "engine/model/net.h"

enum ds_prediction {
    DS_PREDICT_EPS,
    DS_PREDICT_DATA_NOISE,
    DS_PREDICT_NOISE_DATA,
    DS_PREDICT_X0,
    DS_PREDICTIONS
};
enum ds_noise_path { DS_PATH_DDPM, DS_PATH_LINEAR, DS_PATH_GVP, DS_PATH_COSINE, DS_PATHS };

/* "eps", "data-noise", "noise-data", "x0"; in words: "noise", "velocity (data - noise)", ... */
const char *ds_prediction_name(enum ds_prediction p);
const char *ds_prediction_words(enum ds_prediction p);
int ds_prediction_from_name(const char *name, enum ds_prediction *out, ds_error *err);
const char *ds_noise_path_name(enum ds_noise_path p);  /* "ddpm", "linear", "gvp", "cosine" */
const char *ds_noise_path_words(enum ds_noise_path p); /* "DDPM schedule", "linear path", ... */

typedef struct {
    enum ds_prediction prediction;
    enum ds_noise_path path;
    const char *time; /* how the time is told, the best way .. */
    int data;         /* .. of a path with u: 1 is data .. */
    double scale;     /* .. times this */
    double loss, answer, picture;
    double share; /* of the noise in its answer, where there is much of it */
    int out;      /* ruled out by that: a velocity of another path */
} ds_objective_row;

/* An objective as a person says it: a prediction; of a velocity with "-gvp" behind it where its
 * path is not the linear one, and "-1000" where its time is not 0 to 1 but 1000 times that.  *flow
 * is DS_FLOW_NONE of eps and x0. */
int ds_objective_from_name(const char *name, enum ds_prediction *out, ds_flow *flow, ds_error *err);
/* That of a flow in words: "velocity (data - noise), linear path, time 0 to 1, 1 is data"; "noise
 * (eps)". */
void ds_objective_words(const ds_flow *flow, char *out, size_t size);

/* The base that a row says it is: DS_FLOW_NONE of eps with DDPM's schedule.  0: none that can be
 * used, and *why says what there is in its place. */
int ds_objective_flow(const ds_objective_row *row, ds_flow *out, const char **why);

#define DS_OBJECTIVE_ROWS 11
#define DS_OBJECTIVE_MARGIN 2.0
#define DS_OBJECTIVE_ANSWER 0.8

typedef struct {
    ds_objective_row rows[DS_OBJECTIVE_ROWS]; /* the least loss first, those ruled out last */
    int count;                                /* of them: 8, or all */
    double margin;                            /* the nearest rival's loss / the best's */
    int clear;
    int rival; /* row of the nearest rival */
} ds_objective;

/* What the network says of n noisy pictures x (n,C,S,S) that have the time t: the first C channels,
 * out (n,C,S,S).  Host memory. */
typedef int ds_denoiser(void *user, float *out, const float *x, float t, int n, ds_error *err);

/* What step is told: passes, in pictures; fewer are made where eps is clear. */
int64_t ds_objective_passes(int n); /* for n pictures */

/* pictures (n,C,S,S) as the network is trained on them: in [-1,1], or scaled latents. */
int ds_objective_measure(ds_objective *out, const ds_facts *c, ds_denoiser *denoiser, void *user,
                         const float *pictures, int n, ds_progress *step, void *step_user,
                         ds_error *err);

/* A net as a denoiser, under the null condition.  Kind INFER, of `batch` samples; borrowed. */
typedef struct {
    ds_net *net;
    ds_device *dev;
    const ds_facts *c;
    int batch;
    float *x, *out, *host; /* made by init */
    ds_net_sample *samples;
} ds_net_denoiser;
int ds_net_denoiser_init(ds_net_denoiser *d, const ds_model *model, ds_net *net, int batch,
                         ds_error *err);
void ds_net_denoiser_release(ds_net_denoiser *d);
size_t ds_net_denoiser_bytes(const ds_facts *c, int batch);
ds_denoiser ds_net_denoise; /* user: a ds_net_denoiser */

#endif
