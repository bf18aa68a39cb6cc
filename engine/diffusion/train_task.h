/* engine/diffusion/train_task.h - what one set owns while it is trained: its parameters and their
 * gradients, moments and moving average; its pictures, which of them are held out, and in which
 * order they are seen; its step.  The trainer owns what sets may share: net, device, schedule, room
 * of a batch (trainer.c).  Internal to engine/diffusion/.
 *
 * Everything drawn is named by (seed, stream, step, sample), so what a set draws does not depend on
 * what else is trained beside it.
 * Thread: one.  Errors: DS_ENOMEM, DS_EINTEGRITY (checkpoint).
 */
#ifndef DS_ENGINE_DIFFUSION_TRAIN_TASK_H
#define DS_ENGINE_DIFFUSION_TRAIN_TASK_H

#include "base/rng.h"
#include "engine/diffusion/train_options.h"
#include "engine/model/net.h"

typedef struct {
    const ds_base *base;
    ds_device *dev;
    ds_method_spec spec;
    ds_train_options opt;
    ds_image_set images;
    ds_params table;
    int step;  /* done */
    int moved; /* the checkpoint it goes on from is of another device class */
    ds_train_course course;
    float *p, *g, *m, *v, *ema,
        *lr_mul;            /* device, table.total each; lr_mul NULL when nothing is frozen */
    uint32_t *train, *held; /* indices of images */
    uint32_t n_train, n_held;
    uint32_t *order; /* permutation of the current epoch */
    int64_t epoch;   /* of `order`, -1 = none */
} ds_train_task;

/* One sample of a batch. */
typedef struct {
    uint32_t image;
    int flip, drop; /* mirrored; label dropped */
    double t;       /* timestep, a whole number; of a flow the noise level, 0..1 */
    uint32_t stream, noise_step;
    uint64_t noise_sample;
} ds_draw;

/* opt is checked by the trainer.  start: the set as it begins.  Release it whatever is returned. */
int ds_train_task_init(ds_train_task *t, const ds_model *model, const ds_adapter *start,
                       const ds_train_options *opt, const ds_image_set *images, ds_error *err);
void ds_train_task_release(ds_train_task *t);
size_t ds_train_task_bytes(const ds_params *table); /* its room on the device */

/* Sample i of step (from 0).  Timesteps are stratified over the batch: unbiased, with less
 * variance. */
ds_draw ds_train_task_draw(ds_train_task *t, int step, int i);
/* Held-out image j, 0..n_held-1, always with the same timestep and noise. */
ds_draw ds_train_task_draw_heldout(const ds_train_task *t, uint32_t j);

/* x0 of a sample: (C,S,S) f32 in host memory.  */
void ds_train_task_picture(const ds_train_task *t, float *dst, const ds_draw *d);

/* The rate of a step (from 0). */
double ds_train_task_rate(const ds_train_task *t, int step);

/* train_course.c: the course of a run with patience or max_time; of any other one it ends at
 * opt.steps, and the rest is not used. */
int ds_train_open_ended(const ds_train_options *o); /* has it one of the two? */
void ds_train_course_begin(ds_train_course *c, const ds_train_options *o);
double ds_train_course_rate(const ds_train_course *c, const ds_train_options *o, int step);
/* After `step` steps; what ds_trainer_look and ds_trainer_time say and return. */
int ds_train_course_look(ds_train_course *c, const ds_train_options *o, int step, double heldout);
int ds_train_course_time(ds_train_course *c, const ds_train_options *o, int step, double seconds);
double ds_train_course_deadline(const ds_train_course *c, const ds_train_options *o, int step);
/* As text in a checkpoint (malloc'ed), and back; 0: the text is none of such a run. */
char *ds_train_course_print(const ds_train_course *c);
int ds_train_course_read(ds_train_course *c, const ds_train_options *o, const char *text);

/* One AdamW step from g.  squares (device): the sum of squares of g, for the report; nothing waits
 * for the device, the norm that clips stays there. */
void ds_train_task_optimise(ds_train_task *t, int step, double *squares);

/* train_checkpoint.c */
int ds_train_task_save(const ds_train_task *t, const char *path, ds_error *err);
int ds_train_task_load(ds_train_task *t, const char *path, ds_error *err);

#endif
