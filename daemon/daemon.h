/* daemon/daemon.h - the daemon as a whole: its start, its loop, its orderly end.
 * Thread: the one that becomes the loop thread. */
#ifndef DS_DAEMON_DAEMON_H
#define DS_DAEMON_DAEMON_H

#include "daemon/core/shared.h"

/* daemon/start.c: the whole program; returns its exit code. */
int ds_daemon_main(int argc, char **argv);

int ds_daemon_open(ds_daemon *d, const ds_options *o, ds_error *err);
void ds_daemon_run(ds_daemon *d);   /* until a signal has stopped it */
void ds_daemon_close(ds_daemon *d); /* also after a failed open */

#endif
