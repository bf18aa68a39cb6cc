/* worker/measure/plan.h - what a training will take, before it starts: bytes by part, seconds per
 * step.
 *
 * Bytes are counted from the same tables that the allocations are made from.
 *
 * Seconds come from a short calibration: whole training steps of a model of the same width with few
 * blocks (all of them where that is quick), at one and at two micro-batches.  Time is linear in
 * both (docs/speed.md).
 *
 * When the activations do not fit, those of the first blocks are computed again in the backward
 * pass, of as few blocks as needed.  The numbers that come out are the same, so this is decided
 * here and is no option.
 *
 * A need is compared with two limits: what is free now, and what there would be if nothing else
 * ran.  On a GPU the first is 95 % of what is free or held by this process.  The second is 95 % of
 * its memory, less 1 GiB for the driver and our context.  For CUDA graphs and the libraries' code
 * an allowance of 256 MiB is added; it is not measured.
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

/* A plan has one or two sides.  Where the device's memory is main memory there is one: peak is
 * compared with limit.  A GPU (own = 1) has memory of its own: peak and limit are the GPU's, and
 * what the job takes beside it in main memory is `host`, compared with host_limit. */
typedef struct {
    /* While it trains. */
    double program;    /* what the process takes already, without the base */
    double base;       /* tensors of the base as they lie in main memory */
    double copy;       /* .. and once more on a GPU; else 0 */
    double images;     /* pictures or latents that are trained on */
    ds_trainer_plan t; /* the trainer's own */
    double workspace;  /* scratch of the kernels: a bound before the calibration, measured by it */
    double checkpoint; /* while one is written: copies of the state, and the file */
    double libraries;  /* on a GPU: an allowance for code and graphs of the libraries */
    /* While the result is measured. */
    double sampling; /* the nets that sample; in main memory, the distance if that takes more */
    double features; /* the network that looks at the pictures */
    double distance; /* beside a GPU: main memory of a distance; else it is in `sampling` */

    double train, evaluate; /* sums of the above */
    double peak;            /* the larger one */
    double limit;           /* what may be taken now */
    double most;            /* what could be taken if nothing else ran */
    int own;                /* 1: these are of a GPU */
    double free, total;     /* .. of which so much is free now, of so much */
    double host;            /* .. and what it takes in main memory beside it */
    double host_limit, host_most;
    int never; /* refused: the GPU could not hold it if it were empty */

    int batch, micro_batch, steps;
    double max_time;          /* seconds of training after which it ends; 0: never */
    int recompute, depth;     /* so many of the base's blocks are computed again */
    double step_seconds;      /* NaN: not calibrated */
    double step_cpu_seconds;  /* processor time of all threads */
    double calibrate_seconds; /* what finding out took */
    double feature_seconds;   /* of the pictures that measure the result; 0: not asked for */
    char device_class[48], label[64];
    int threads;
} ds_plan;

/* What the plan cannot know.  A limit of 0 is not known. */
typedef struct {
    double images;   /* bytes of what is trained on */
    double features; /* bytes of the network that measures */
    double distance; /* bytes of a distance; nothing samples while it is computed */
    double limit;    /* main memory that may be taken now */
    double most;     /* .. if nothing else ran; 0: the limit is all there is */
    double held;     /* bytes of this plan that lie on the GPU already */
    double program;  /* what the process takes without the base; 0: what it takes now */
    int nets;        /* nets that sample at a time: 2 where the base guides */
} ds_plan_input;

/* Main memory that may be taken: `asked` where it is > 0, else what this process has and most of
 * what is free.  Most, because a plan may be 15 % too low. */
double ds_plan_limit(double asked);
/* .. if nothing else ran: `asked` where it is > 0, else most of what the machine (or the cgroup)
 * has. */
double ds_plan_most(double asked);

/* The bytes.  Raises o->recompute until it fits; what it says already is the least.  The plan is
 * filled also when it does not fit. */
int ds_plan_memory(ds_plan *p, ds_device *dev, const ds_base *base, const ds_method_spec *spec,
                   ds_train_options *o, const ds_plan_input *in, ds_error *err);

/* The seconds per step, and the workspace.  Takes a few training steps, and less memory than the
 * training.  A workspace that is larger than thought may raise o->recompute again. */
int ds_plan_time(ds_plan *p, ds_device *dev, const ds_base *base, const ds_method_spec *spec,
                 ds_train_options *o, ds_error *err);

json_t *ds_plan_json(const ds_plan *p);
void ds_plan_print(FILE *f, const ds_plan *p);

#endif
