/* daemon/folders/reach.h - what the folders of datasets answer, for the registry and for people.
 * Thread: loop thread. */
#ifndef DS_DAEMON_FOLDERS_REACH_H
#define DS_DAEMON_FOLDERS_REACH_H

#include "daemon/core/shared.h"
#include "daemon/folders/watch.h"

/* For ds_watch_options.reach; ctx is the ds_daemon.  Writes the event. */
int ds_reach_changed(void *ctx, int64_t id, enum ds_reach is, const char *text);

json_t *ds_reach_json(const ds_daemon *d, int64_t id); /* {state,since,why}, null: nothing wrong */

#endif
