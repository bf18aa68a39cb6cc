/* contract/job.h - what diffscalerd, diffscaler-worker and dsctl agree about jobs: kinds, states,
 * the worker's exit codes, the names of the files in a job directory.  docs/jobs.md has what is in
 * the files.
 *
 * Constants only.  Thread: any.
 */
#ifndef DS_CONTRACT_JOB_H
#define DS_CONTRACT_JOB_H

/* Their words in rows, in spec.json and in the API, for where a text is put together. */
#define DS_WORD_SCAN "scan"
#define DS_WORD_TRAIN "train"
#define DS_WORD_SAMPLE "sample"
#define DS_WORD_VERIFY "verify"
#define DS_WORD_IMPORT "import"
#define DS_WORD_QUEUED "queued"
#define DS_WORD_RUNNING "running"
#define DS_WORD_DONE "done"
#define DS_WORD_REJECTED "rejected"
#define DS_WORD_FAILED "failed"
#define DS_WORD_CANCELLED "cancelled"

/* X(name, word) */
#define DS_JOB_KINDS(X)                                                                            \
    X(DS_JOB_SCAN, DS_WORD_SCAN)                                                                   \
    X(DS_JOB_TRAIN, DS_WORD_TRAIN)                                                                 \
    X(DS_JOB_SAMPLE, DS_WORD_SAMPLE)                                                               \
    X(DS_JOB_VERIFY, DS_WORD_VERIFY)                                                               \
    X(DS_JOB_IMPORT, DS_WORD_IMPORT)
#define DS_JOB_STATES(X)                                                                           \
    X(DS_JOB_QUEUED, DS_WORD_QUEUED)                                                               \
    X(DS_JOB_RUNNING, DS_WORD_RUNNING)                                                             \
    X(DS_JOB_DONE, DS_WORD_DONE)                                                                   \
    X(DS_JOB_REJECTED, DS_WORD_REJECTED)                                                           \
    X(DS_JOB_FAILED, DS_WORD_FAILED)                                                               \
    X(DS_JOB_CANCELLED, DS_WORD_CANCELLED)
/* X(name, exit code of the worker, what it means) */
#define DS_WORKER_EXITS(X)                                                                         \
    X(DS_EXIT_DONE, 0, "done: read the result")                                                    \
    X(DS_EXIT_FAILED, 1, "failed: trying again may help")                                          \
    X(DS_EXIT_BAD, 2, "bad spec or data: trying again cannot help")                                \
    X(DS_EXIT_PERMISSION, 6, "permission: trying again cannot help")                               \
    X(DS_EXIT_REFUSED, 8, "refused by the gate: read the result")                                  \
    X(DS_EXIT_INTEGRITY, 9, "integrity: trying again cannot help")                                 \
    X(DS_EXIT_NEWER, 10, "a file is of a newer program: trying again cannot help")                 \
    X(DS_EXIT_GPU, 70, "the GPU failed: like 1, after a checkpoint like 75")                       \
    X(DS_EXIT_AGAIN, 75, "temporary: run again when there may be room, without counting")          \
    X(DS_EXIT_CANCELLED, 130, "cancelled: the file DS_FILE_CANCEL was there")                      \
    X(DS_EXIT_STOPPED, 143, "stopped by SIGTERM: goes on when run again")

#define X(name, word) name,
enum ds_job_kind { DS_JOB_KINDS(X) DS_JOB_KIND_COUNT };
enum ds_job_state { DS_JOB_STATES(X) DS_JOB_STATE_COUNT };
#undef X
#define X(name, code, meaning) name = code,
enum ds_worker_exit { DS_WORKER_EXITS(X) };
#undef X

const char *ds_job_kind_name(enum ds_job_kind k);
const char *ds_job_state_name(enum ds_job_state s);
int ds_job_kind_parse(const char *s);  /* -1 if unknown; s may be NULL */
int ds_job_state_parse(const char *s); /* -1 if unknown; s may be NULL */

int ds_job_state_over(int s); /* neither queued nor running; of ds_job_state_parse */

/* Will a job that ended with this code be run again, if attempts are left? */
int ds_exit_may_retry(int code);

/* In a job directory; written by the daemon: */
#define DS_FILE_OWNER "owner.json" /* whose it is, before anything else */
#define DS_FILE_SPEC "spec.json"
#define DS_FILE_CANCEL "cancel"            /* it is there when SIGTERM means the end */
#define DS_FILE_MANIFEST "manifest.ndjson" /* of a training; a scan writes it */
/* .. by the worker: */
#define DS_FILE_LOCK "lock"
#define DS_FILE_LOG "worker.log" /* its stderr */
#define DS_FILE_EVENTS "events.ndjson"
#define DS_FILE_RESULT "result.json" /* last */
#define DS_DIR_CHECKPOINTS "checkpoints"
#define DS_DIR_STAGE "stage" /* pictures being decoded */
#define DS_FILE_ADAPTER "adapter.safetensors.zst"
#define DS_FILE_REFERENCE "reference.safetensors.zst"
#define DS_FILE_BASE_REFERENCE "base_reference.safetensors.zst"
#define DS_FILE_GRID "grid.png"
#define DS_FILE_SHEET "samples.png"
#define DS_FILE_SAMPLES "samples.safetensors"

/* "schema" of spec.json and of each kind's result.json. */
#define DS_SCHEMA_JOB "diffscaler.job/1"
#define DS_SCHEMA_SCAN "diffscaler.scan/1"
#define DS_SCHEMA_TRAIN "diffscaler.train/1"
#define DS_SCHEMA_SAMPLE "diffscaler.sample/1"
#define DS_SCHEMA_VERIFY "diffscaler.verify/1"
#define DS_SCHEMA_IMPORT "diffscaler.import/1"
#define DS_SCHEMA_OWNER "diffscaler.owner/1"

/* The reason of a bar begins with it when its classes refused what its distance let pass. */
#define DS_BAR_BY_CLASSES "fewer samples show their class"

#endif
