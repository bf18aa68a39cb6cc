/* daemon/jobs/folders.h - whose a job folder is.
 *
 * A folder is named by a number, and numbers come back: a registry that was restored from a copy,
 * or made anew, gives them out again.  So each folder carries a mark (owner.json: the registry's
 * instance id, the job's number, kind and time of creation, the digest of the content that it
 * trains), and a folder of another owner is never read: it is moved to jobs/N.foreign-K, with the
 * event job.folder_foreign.  At a start, folders with numbers that this registry has not given out
 * yet go the same way.
 *
 * A folder without a mark is one of an earlier program's: it is taken over when its spec is about
 * the same job and is not older than it.  Thread: loop thread, but for ds_folder_mark_write.
 */
#ifndef DS_DAEMON_JOBS_FOLDERS_H
#define DS_DAEMON_JOBS_FOLDERS_H

#include "daemon/core/shared.h"
#include "registry/jobs/jobs.h"

/* Once, before any job starts. */
int ds_folders_start(ds_daemon *d, ds_error *err);

/* The mark that this job's folder has to have; a new reference. */
json_t *ds_folder_mark(ds_daemon *d, const ds_job *job);

/* 1: the folder is this job's (or there is none, or an empty one). */
int ds_folder_is_own(const char *dir, const json_t *mark);

/* Moves a folder that is somebody else's out of the way. */
int ds_folder_claim(ds_daemon *d, const char *dir, const json_t *mark, ds_error *err);

/* Writes the mark where there is none. */
int ds_folder_mark_write(const char *dir, const json_t *mark, ds_error *err);

#endif
