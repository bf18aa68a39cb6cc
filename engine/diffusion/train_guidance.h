/* engine/diffusion/train_guidance.h - domain guidance that is trained into a set, so that sampling
 * takes one pass: DogFit (Bahram et al. 2025, arXiv 2508.05685), parametrised as guidance-free
 * training is (Chen et al. 2025, arXiv 2501.15420).  Internal to engine/diffusion/.
 *
 * The set's answer v stands for what guidance of weight W would make, u + W (n - u), u being the
 * frozen base's answer without class.  So the loss is formed of the answer without guidance that v
 * implies, n = v / W + (1 - 1/W) u, and v gets the gradient of that loss by n.  This is the
 * gradient of DogFit's target, t + (w - 1) (v - u) with v and u held, for w = 2 - 1/W.  Below a
 * noise level n is v.  docs/math.md 8.1 has the derivation.
 *
 * Thread: that of the trainer.  Errors: DS_ENOMEM.
 */
#ifndef DS_ENGINE_DIFFUSION_TRAIN_GUIDANCE_H
#define DS_ENGINE_DIFFUSION_TRAIN_GUIDANCE_H

#include "engine/diffusion/train_options.h"
#include "engine/model/net.h"

typedef struct {
    ds_net *base; /* NULL: nothing is trained in, and the rest is not used */
    ds_device *dev;
    ds_net_sample *samples; /* of a micro-batch */
    float *out;             /* device: the base's answers (mb,outC,S,S) */
    int planes;             /* outC */
} ds_train_guidance;

/* Release it whatever is returned. */
int ds_train_guidance_open(ds_train_guidance *g, const ds_model *model, const ds_train_options *o,
                           ds_error *err);
void ds_train_guidance_release(ds_train_guidance *g);

/* Bytes on the device, before it is opened: weights of the base's net; activations and answers. */
void ds_train_guidance_bytes(ds_device *dev, const ds_base *base, const ds_train_options *o,
                             double *weights, double *activations);

/* Floats that a sample brings with it: the shares of v and of u in each plane of n.  0: none. */
size_t ds_train_guidance_floats(const ds_facts *c, const ds_train_options *o);

/* Those of sample i of mb at this noise level, host memory: own and base are (mb,outC). */
void ds_train_guidance_shares(const ds_train_options *o, const ds_facts *c, double level,
                              float *own, float *base);

/* out (mb,outC,S,S), the set's answers to x of these samples: v becomes n.  own, base: the shares,
 * host_own: the same in host memory. */
void ds_train_guidance_take(ds_train_guidance *g, float *out, const float *x,
                            const ds_net_sample *samples, const float *own, const float *base,
                            const float *host_own, int mb);

#endif
