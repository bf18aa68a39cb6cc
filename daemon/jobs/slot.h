/* daemon/jobs/slot.h - one job from claim to final row (states: daemon/jobs/workers.h).
 * Private to workers.c and slot.c.  Thread: loop thread. */
#ifndef DS_DAEMON_JOBS_SLOT_H
#define DS_DAEMON_JOBS_SLOT_H

#include "daemon/core/shared.h"
#include "daemon/jobs/executor.h"
#include "daemon/jobs/finish.h"
#include "daemon/jobs/spec.h"
#include "daemon/jobs/tail.h"

enum ds_slot_phase {
    DS_SLOT_FREE,
    DS_SLOT_PREPARING,
    DS_SLOT_RUNNING,
    DS_SLOT_FINISHING,
    DS_SLOT_SETTLING
};

/* What the end of a process means for the row. */
enum ds_outcome {
    DS_OUTCOME_PUBLISH,  /* ds_finish_commit */
    DS_OUTCOME_FAIL,     /* counts as an attempt; tried again while that may help */
    DS_OUTCOME_POSTPONE, /* tried again later, not counted: disk full, asked to stop by others */
    DS_OUTCOME_REQUEUE,  /* the daemon stops: goes on at the next start */
    DS_OUTCOME_CANCEL
};

typedef struct ds_slot {
    ds_daemon *d;
    unsigned kinds; /* DS_KIND_BIT()s that may run here */
    /* The process of this job was killed and does not end: it is the callee's from now on. */
    void (*on_abandoned)(void *ctx, const ds_job *job, const ds_process *process);
    void *ctx;
    enum ds_slot_phase phase;
    ds_job job;
    char dir[PATH_MAX], events[PATH_MAX];
    ds_process process;                            /* while it runs */
    double started, term_at, settle_at, killed_at; /* monotonic seconds; 0 = not */
    int cancel, stop, pause, killed;               /* pause: stop of this job alone */
    double polled_at, quiet; /* monotonic; seconds that it ran and said nothing */
    int stalled;             /* ended for that */

    ds_tail tail;
    char stage[32];
    json_t *progress; /* owned; NULL = none */
    uint64_t revision, committed;
    double committed_at;
    int64_t log_size;  /* of worker.log when its followers were last woken */
    int64_t last_done; /* steps counted so far, for the metric */
    unsigned metrics_left, polls;
    int checkpoints; /* saved in this attempt */

    int exit_code, exit_signal;
    char error_code[32], error_message[512];
    enum ds_outcome outcome;
    int retry;

    uv_work_t work;
    int work_rc;
    ds_error work_err;
    ds_built_spec spec;
    json_t *mark; /* of the folder; owned */
    ds_finish finish;
} ds_slot;

void ds_slot_start(ds_slot *s, const ds_job *claimed); /* free -> preparing (or settling) */
void ds_slot_poll(ds_slot *s);                         /* 4 times a second while running */
void ds_slot_tick(ds_slot *s);                         /* once a second */
void ds_slot_cancel(ds_slot *s);
void ds_slot_pause(ds_slot *s);
void ds_slot_stop(ds_slot *s, int hurry);

#endif
