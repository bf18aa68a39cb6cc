/* worker/measure/plan.h - what a training will take, before it starts: bytes by part, seconds per
 * step.
 *
 * Bytes are counted from the same tables that the allocations are made from.  Seconds come from a
 * short calibration: whole training steps of a model of the same width with few blocks (all of
 * them, where that is quick), at one and two micro-batches; time is linear in both (docs/speed.md).
 * When activations do not fit, the first blocks' are recomputed in the backward pass, as few as
 * needed; the numbers that come out are the same, so this is decided here and is no option.
 *
 * A need is compared with what is free, and with what there would be if nothing else ran.  On a GPU
 * the first is 95 % of what is free or held by this process, the second 95 % of its memory less
 * 1 GiB for the driver and our context.  What CUDA graphs and the libraries' code take beyond the
 * parts that are counted is an allowance of 256 MiB (not measured).
 *
 * Thread: the main one.  Units: bytes, seconds.  Errors, with the figures: DS_ENOMEM when it would
 * fit if nothing else ran (try again later), DS_EINVAL when it never can (or not into what the user
 * allows); as ds_trainer_new.
 */
#ifndef DS_WORKER_MEASURE_PLAN_H
#define DS_WORKER_MEASURE_PLAN_H

#include "base/json.h"
#include "engine/diffusion/trainer.h"

#include <stdio.h>

typedef struct {
    double program; /* what the process takes already, without the base */
    double base;    /* tensors of the base, as they lie in memory */
    double copy;    /* of the base on a device with memory of its own */
    double images;  /* pictures or latents that are trained on */
    ds_trainer_plan t;
    double workspace;             /* of the kernels; known after the calibration, a bound before */
    double checkpoint;            /* while one is written */
    double sampling;              /* net that evaluates the result, or a distance after it */
    double features;              /* network that measures it */
    double train, evaluate, peak; /* sums: while training, while evaluating, the larger */
    double libraries;             /* graphs and code on a GPU: an allowance */
    double limit, most;           /* now; if nothing else ran.  0: not known */
    int own;                      /* peak and limit are of a device with memory of its own, .. */
    double host, host_limit, host_most; /* .. and this is beside it in main memory */
    double free, total;                 /* .. of which so much is free, and there is so much */
    double distance;                    /* main memory of a distance, beside such a device */
    int never;                          /* refused: the device could not hold it if it were empty */
    int batch, micro_batch, steps;
    int recompute, depth;     /* blocks that are computed again, of so many */
    double step_cpu_seconds;  /* processor time of all threads */
    double step_seconds;      /* NaN: not calibrated */
    double calibrate_seconds; /* what finding out took */
    double feature_seconds;   /* of the pictures that measure the result; 0: not asked for */
    char device_class[48], label[64];
    int threads;
} ds_plan;

typedef struct {
    double images;   /* bytes */
    double features; /* bytes of the feature network and what else the evaluation needs */
    double distance; /* bytes of a distance between features, computed after the sampling */
    double limit;    /* bytes of main memory that may be taken; 0 = not known */
    double most;     /* .. that might be if nothing else ran; 0: the limit is all there is */
    double held;     /* bytes of the plan that lie on a device of its own already */
    double program;  /* what the process takes without the base; 0: as it is now */
    int nets;        /* sampling nets at a time: 2 with domain guidance */
} ds_plan_input;

/* asked, if > 0; else what this process has and most of what is free: a plan may be 15 % too low.
 */
double ds_plan_limit(double asked);
/* asked, if > 0; else most of what the machine, or the cgroup, has. */
double ds_plan_most(double asked);

/* Bytes; chooses o->recompute (what it says already is the least).  The plan is filled also when
 * it does not fit. */
int ds_plan_memory(ds_plan *p, ds_device *dev, const ds_base *base, const ds_method_spec *spec,
                   ds_train_options *o, const ds_plan_input *in, ds_error *err);

/* Seconds per step, and the workspace.  Takes less than budget_s seconds or so, and less memory
 * than the training.  A workspace that is larger than thought may raise o->recompute again. */
int ds_plan_time(ds_plan *p, ds_device *dev, const ds_base *base, const ds_method_spec *spec,
                 ds_train_options *o, ds_error *err);

json_t *ds_plan_json(const ds_plan *p);
void ds_plan_print(FILE *f, const ds_plan *p);

#endif
