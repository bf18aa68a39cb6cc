/* worker/job/stop.h - SIGTERM and SIGINT: leave at once, or at the next good moment.
 *
 * Outside of a deferred part the handler ends the process at once: every file is written whole
 * (ds_fs_write), so there is nothing to tidy up.  Training defers: it looks at ds_stop_asked()
 * after each step, saves a checkpoint and leaves by itself.
 *
 * Exit status: DS_EXIT_CANCELLED when the file DS_FILE_CANCEL exists, else DS_EXIT_STOPPED.
 * Thread: the main one.
 */
#ifndef DS_WORKER_JOB_STOP_H
#define DS_WORKER_JOB_STOP_H

#include "base/error.h"
#include "contract/job.h"

/* Install the handlers for this job directory (NULL: a command without one); parent > 0: also stop
 * when that process, which must be our parent, dies.  DS_ECANCELED: it is gone already. */
int ds_stop_install(const char *dir, long parent, ds_error *err);

void ds_stop_defer(int on); /* off: leaves here if it was asked for meanwhile */
int ds_stop_asked(void);
int ds_stop_status(void); /* the exit status as of now */

#endif
