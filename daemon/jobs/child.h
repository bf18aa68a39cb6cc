/* daemon/jobs/child.h - one worker process of a job directory.
 *
 * The worker is started through a trampoline (this program again, with a private first argument),
 * because libuv has no hook between fork and exec: it becomes a session leader (a terminal's Ctrl-C
 * reaches the daemon alone, and the whole group can be killed), is niced, offers itself first to
 * the OOM killer, and gets SIGTERM when the daemon dies (PR_SET_PDEATHSIG), so that it writes a
 * checkpoint.  stdout and stderr go to DIR/worker.log.
 * Thread: loop thread.
 */
#ifndef DS_DAEMON_JOBS_CHILD_H
#define DS_DAEMON_JOBS_CHILD_H

#include "base/error.h"

#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

#define DS_CHILD_LOG_MAX (8 << 20) /* worker.log beyond this loses its older part */

typedef struct ds_child ds_child;

/* exit_code is -1 when a signal ended it.  The process is freed after the call. */
typedef void (*ds_child_exit)(void *ctx, int exit_code, int signal);

typedef struct {
    const char *self;   /* the daemon's own executable, for the trampoline */
    const char *worker; /* path of diffscaler-worker */
    const char *dir;    /* job directory */
    int nice;
    ds_child_exit on_exit;
    void *ctx;
} ds_child_options;

int ds_child_start(ds_child **out, uv_loop_t *loop, const ds_child_options *o, ds_error *err);
pid_t ds_child_pid(const ds_child *p);
void ds_child_terminate(ds_child *p); /* SIGTERM to the worker */
void ds_child_kill(ds_child *p);      /* SIGKILL to its whole group */

/* It was killed and does not end: a call of its hangs in a file system.  Its end is not told any
 * more; the process is the caller's to wait for.  Frees p. */
void ds_child_abandon(ds_child *p);

/* Cut DIR/worker.log to its last part when it is over the limit. */
void ds_child_bound_log(const char *dir);

/* main() calls this first: runs the trampoline and does not return if argv asks for it. */
void ds_child_trampoline(int argc, char **argv);

#endif
