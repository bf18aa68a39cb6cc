/* worker/kinds/checkpoint.h - checkpoints of a training job:
 * DIR/checkpoints/step-NNNNNNNN.safetensors.
 *
 * The last DS_CHECKPOINTS_KEPT are kept.  Beside each lies step-NNNNNNNN.json with what is known of
 * the run besides its state (time spent, losses), written before it; results need it, the adapter
 * does not.  A checkpoint that is damaged or of another run is passed over with a warning and
 * removed, and the one before it is used.
 * Thread: the main one.
 */
#ifndef DS_WORKER_KINDS_CHECKPOINT_H
#define DS_WORKER_KINDS_CHECKPOINT_H

#include "engine/diffusion/trainer.h"
#include "worker/job/job.h"

#define DS_CHECKPOINTS_KEPT 2

typedef struct {
    double seconds;          /* in training, over all runs that led here */
    double step_seconds;     /* of these in steps alone */
    double first_loss, loss; /* of the first step; smoothed over about the last 20 */
    double heldout_start, heldout;
    int heldout_images;
    char device_class[48]; /* that it was made on; "": not known */
} ds_train_record;

/* Of the newest checkpoint; "" when there is none. */
void ds_checkpoint_device(const ds_work *job, char device_class[48]);

/* The newest usable checkpoint into t and *r; neither is touched when there is none. */
int ds_checkpoint_resume(const ds_work *job, ds_trainer *t, ds_train_record *r, ds_error *err);
int ds_checkpoint_save(const ds_work *job, ds_trainer *t, const ds_train_record *r, ds_error *err);

#endif
