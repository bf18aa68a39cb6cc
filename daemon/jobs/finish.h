/* daemon/jobs/finish.h - from the files of a finished job to rows.
 *
 * Two halves: ds_finish_collect reads result.json, checks every digest and size it names against
 * the files, and puts them into the blob store (thread pool: it touches only the job directory,
 * the folder that an import wrote to, and the store); ds_finish_commit is the one registry
 * transaction (loop thread).  Both can be repeated after a crash between any two steps: blobs are
 * named by content and the transaction refuses a job that is not running.
 */
#ifndef DS_DAEMON_JOBS_FINISH_H
#define DS_DAEMON_JOBS_FINISH_H

#include "base/error.h"
#include "registry/jobs/jobs.h"
#include "registry/store/store.h"

#include <jansson.h>
#include <limits.h>

typedef struct {
    enum ds_job_kind kind;
    int64_t job;
    int refused; /* the worker exited with 8 */
    char dir[PATH_MAX];
    ds_store *store;
    json_t *spec, *result;   /* owned */
    ds_blob blob, reference; /* manifest or adapter; reference statistics */
    ds_blob base_reference;  /* those of the base's own samples, where the job recorded them */
    int has_reference, has_base_reference;
    char held[3][DS_HEX_SIZE]; /* no sweep takes these before the row is there; until release */
    int held_count;
    char model[PATH_MAX], vae[PATH_MAX]; /* of an import; vae "" = none */
    int unchanged;                       /* out of commit: a scan that found nothing new */
    char ref[DS_HEX_SIZE + 16];          /* out of commit: "digits@v1" */
} ds_finish;

int ds_finish_collect(ds_finish *f, ds_error *err);
int ds_finish_commit(ds_finish *f, ds_registry *r, ds_error *err);
void ds_finish_clean(const ds_finish *f); /* after the commit: what the store now holds, scratch */
/* After an end without a result: what only another run of the job could have used. */
void ds_finish_scrap(enum ds_job_kind kind, const char *dir);
void ds_finish_release(ds_finish *f);

#endif
