/* worker/commands/pretrain_init.h - start a base from another one instead of from noise. */
#ifndef DS_WORKER_COMMANDS_PRETRAIN_INIT_H
#define DS_WORKER_COMMANDS_PRETRAIN_INIT_H

#include "engine/model/base_model.h"
#include "worker/images/prepare.h"

/* Copy into `base` the weights of the base file at `path`.  Its shape must be that of `base` in all
 * but the classes: a class of the same name keeps its row, a new one gets the unconditional row (as
 * a new task does).  Errors: as ds_base_open; DS_EINVAL when the shape differs. */
int ds_pretrain_init(ds_base *base, const char *path, const ds_images *images, ds_error *err);

#endif
