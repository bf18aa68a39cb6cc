/* daemon/jobs/local.h - the executor of this machine: a worker is a child process.
 *
 * It is started through a trampoline (this program again, with a private first argument), because
 * libuv has no hook between fork and exec: it becomes a session leader (a terminal's Ctrl-C reaches
 * the daemon alone, and the whole group can be killed), is niced, offers itself first to the OOM
 * killer, and gets SIGTERM when the daemon dies (PR_SET_PDEATHSIG), so that it writes a checkpoint.
 * stdout and stderr go to DIR/worker.log.
 * Thread: loop thread.
 */
#ifndef DS_DAEMON_JOBS_LOCAL_H
#define DS_DAEMON_JOBS_LOCAL_H

#include "daemon/jobs/executor.h"

#include <uv.h>

typedef struct {
    const char *self;   /* the daemon's own executable, for the trampoline; borrowed */
    const char *worker; /* path of diffscaler-worker; borrowed */
    int nice;
} ds_local_options;

ds_executor *ds_local_new(uv_loop_t *loop, const ds_local_options *o);
void ds_local_free(ds_executor *x); /* when no child runs and the loop has turned; NULL is fine */

/* main() calls this first: runs the trampoline and does not return if argv asks for it. */
void ds_local_trampoline(int argc, char **argv);

#endif
