/* daemon/core/damage.h - blobs that turn out to be damaged: one event for each state of the file.
 * Thread: loop thread. */
#ifndef DS_DAEMON_CORE_DAMAGE_H
#define DS_DAEMON_CORE_DAMAGE_H

#include "daemon/core/shared.h"
#include "registry/store/store.h"

#include <sys/stat.h>

/* DS_EINTEGRITY, and the event blob.damaged unless it was told of this state of the file before.
 * st: the file as it is, all 0: there is none. */
int ds_damage_found(ds_daemon *d, const ds_blob *b, const struct stat *st, const char *why,
                    ds_error *err);

/* The same for who found a blob missing or damaged (why) by reading it. */
int ds_damage_read(ds_daemon *d, const char *sha256, const char *why, ds_error *err);

/* Events for what a spec names in the store and what is missing there, or has another size. */
void ds_damage_look(ds_daemon *d, const json_t *spec);

#endif
