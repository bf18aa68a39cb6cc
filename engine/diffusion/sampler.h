/* engine/diffusion/sampler.h - from noise to images.
 *
 *   ddpm     ancestral, learned variance, respaced      Nichol & Dhariwal 2021
 *   ddim     deterministic, eta = 0                      Song et al. 2021
 *   dpmpp2m  DPM-Solver++(2M), x0 prediction             Lu et al. 2022, algorithm 2
 * and of a base that predicts a velocity (flow.h), with noise levels in equal steps from 1 to 0
 *   euler    deterministic, first order
 *   heun     deterministic, second order, two passes a step but for the last
 *   sde      Euler-Maruyama with the diffusion w(u) = s(u), the last step that of euler
 *                                                        Ma et al. 2024 (SiT), section 2.3
 *   dpmpp2m  the same, with the path's a and s
 *
 * Guidance: eps = u + w_d (n - u) + w_c (c - n).  c is the adapter's output for the class, n that
 * for its null row, u that of the frozen base without adapter and class.  w_c alone is
 * classifier-free guidance (Ho & Salimans 2022), both equal is domain guidance (Zhong et al. 2025,
 * arXiv 2504.01521).  A step takes the passes that the weights need (ds_guidance_passes), and one
 * where the noise level s/(a + s) of x = a x0 + s e is below that at which guidance rests.
 * Sample i of a run is named by (seed, index): it does not depend on its neighbours or on batch
 * size.
 */
#ifndef DS_ENGINE_DIFFUSION_SAMPLER_H
#define DS_ENGINE_DIFFUSION_SAMPLER_H

#include "base/progress.h"
#include "engine/model/net.h"

enum ds_sampler {
    DS_SAMPLER_DDPM,
    DS_SAMPLER_DDIM,
    DS_SAMPLER_DPMPP2M,
    DS_SAMPLER_EULER,
    DS_SAMPLER_HEUN,
    DS_SAMPLER_SDE
};
enum ds_guidance_mode { DS_GUIDANCE_NONE, DS_GUIDANCE_CFG, DS_GUIDANCE_DOMAIN };

const char *ds_sampler_name(enum ds_sampler s);
/* Is it one of such a base?  DS_EINVAL names those that are. */
int ds_sampler_check(enum ds_sampler s, const ds_facts *c, ds_error *err);
const char *ds_guidance_name(enum ds_guidance_mode m);

/* {1, 1}: none. */
typedef struct {
    double domain, classes; /* w_d, w_c */
} ds_guidance;

/* What a mode of strength w stands for: none (1, 1), cfg (1, w), domain (w, w). */
ds_guidance ds_guidance_of(enum ds_guidance_mode m, double w);
int ds_guidance_needs_base(ds_guidance g); /* w_d is not 1 */
/* Passes through a model in a step of one sample: that of its class; of the null row where w_c is
 * not w_d and there is a class; of the base where it is needed. */
int ds_guidance_passes(ds_guidance g, int has_class);
/* Share of `steps` steps whose noise level is not below `low`. */
int ds_guidance_share(double low, const ds_facts *c, int steps, double *share, ds_error *err);

typedef struct {
    enum ds_sampler sampler;
    int steps;
    ds_guidance guide;
    double guide_low; /* noise level, 0 to 1, below which nothing guides: fewer passes, and details
                         are the adapter's own (Kynkaanniemi et al. 2024, lower end) */
    uint64_t seed;
    int table_rows; /* tests: at most so many rows of modulations kept; 0: what a device is given,
                       -1: none.  Samples do not depend on it */
} ds_sample_options;

/* One image to make. */
typedef struct {
    uint64_t index; /* names its noise */
    int label;      /* class of the adapter (or of the base); -1 = unconditional */
    int task;       /* stacked nets: which adapter; else 0 */
    int base;       /* 1: the base itself: label is a base class */
} ds_sample_request;

/* pixels (n,S,S,C) uint8, clamp(127.5 x + 128) truncated; raw (n,C,S,S) f32 or NULL.
 * net: INFER or STACKED.  base: INFER net without adapter, where ds_guidance_needs_base.
 * progress is told images. */
int ds_sample(uint8_t *pixels, float *raw, ds_net *net, ds_net *base, const ds_sample_options *opt,
              const ds_sample_request *requests, int n, ds_progress *progress, void *ctx,
              ds_error *err);

/* Modulations are computed for several timesteps at once and kept (engine/model/net.h,
 * ds_net_table), in no more than this memory for a net of that batch; sampling goes on without
 * where it is not to be had. */
size_t ds_sample_table_bytes(const ds_base *base, const ds_device *dev, int net_batch);

/* Largest number of images per pass for a net of that many rows (images with a class take two where
 * the null row guides). */
int ds_sample_batch(const ds_sample_options *opt, int net_batch);

#endif
