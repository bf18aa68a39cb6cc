/* daemon/jobs/executor.h - what starts the process of a job, wherever that runs.
 *
 * A slot (daemon/jobs/slot.h) knows a process by its identity alone: a text that the executor
 * makes, that the registry keeps, and that means the same process after a restart of the daemon, or
 * none.
 * daemon/jobs/local.h runs processes on this machine.
 *
 * Contract of an executor:
 *   start   begins `diffscaler-worker run DIR`: 0 and its identity, or an error and nothing runs.
 *           on_exit is called once, on the loop thread, never inside start, and not after forget.
 *   signal  STOP: write a checkpoint and end.  KILL: end now, with all that it has started.  What
 *           is gone already gets none.
 *   poll    how it is, also of one that an earlier daemon started.  GONE where what has the number
 *           now is another process, and for an identity of another executor.
 *   forget  killed, and it does not end: on_exit is not called any more.  signal and poll go on.
 *
 * What reaches the job directory (events, log, result) is the worker's doing and read from there.
 * Thread: loop thread.  Errors of start: DS_EBUSY where it may succeed later, DS_EPERM, DS_EIO.
 */
#ifndef DS_DAEMON_JOBS_EXECUTOR_H
#define DS_DAEMON_JOBS_EXECUTOR_H

#include "base/error.h"
#include "registry/jobs/process.h"

enum ds_exec_signal { DS_EXEC_STOP, DS_EXEC_KILL };
enum ds_exec_state {
    DS_EXEC_GONE,
    DS_EXEC_RUNS,
    DS_EXEC_HALTED /* it is there and cannot go on for now: stopped, suspended */
};

typedef struct {
    const char *dir;                                       /* job directory */
    void (*on_exit)(void *ctx, int exit_code, int signal); /* exit_code -1: a signal ended it */
    void *ctx;
} ds_launch;

typedef struct ds_executor ds_executor;
struct ds_executor {
    int (*start)(ds_executor *x, const ds_launch *l, ds_process *out, ds_error *err);
    void (*signal)(ds_executor *x, const char *identity, enum ds_exec_signal what);
    enum ds_exec_state (*poll)(ds_executor *x, const char *identity);
    void (*forget)(ds_executor *x, const char *identity);
};

#endif
