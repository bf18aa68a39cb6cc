/* daemon/core/models.h - which base and feature network this daemon works with.
 * Thread: loop thread. */
#ifndef DS_DAEMON_CORE_MODELS_H
#define DS_DAEMON_CORE_MODELS_H

#include "daemon/core/shared.h"

/* Register the base and the feature network of the options; a missing bundled file is a warning
 * (datasets wait), one that was named is an error.  The base becomes the default unless a person
 * chose one (PUT /v1/default-base). */
int ds_models_register(ds_daemon *d, ds_error *err);

/* Folder of imported models: "bases" or "feature_nets" of the state folder. */
void ds_models_dir(const ds_daemon *d, int nets, char out[PATH_MAX]);

/* 0, or DS_EINVAL saying what a base (an object of ds_base_get) lacks and how to add it. */
int ds_models_complete(const json_t *base, ds_error *err);

#endif
