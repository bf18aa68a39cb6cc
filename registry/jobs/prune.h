/* registry/jobs/prune.h - rows that have had their time: ended jobs, and events that tell no
 * history.
 *
 * A job goes, with its attempts and curves, when it ended before the horizon and nothing refers to
 * it: no adapter version, gate, evaluation or record of a base, and not the present content of a
 * dataset (a failed or cancelled training keeps that content from being trained again).  Events go
 * by age as well, but never those of publications, gates, aliases, bases and networks, and of
 * datasets added and removed (migrations/0006_prune.sql).  Beyond the limits the oldest go whatever
 * their age.
 *
 * Thread: the registry's.  Each call looks at the next DS_PRUNE_WINDOW numbers of jobs and of
 * events, whatever became of them, so it takes milliseconds in a registry of any size; what goes,
 * goes in one transaction.
 */
#ifndef DS_REGISTRY_JOBS_PRUNE_H
#define DS_REGISTRY_JOBS_PRUNE_H

#include "registry/core/handle.h"

#define DS_PRUNE_WINDOW 2000
#define DS_PRUNE_JOBS_MOST 100000    /* ended ones that could go */
#define DS_PRUNE_EVENTS_MOST 1000000 /* numbers given out since */

typedef struct {
    int64_t jobs_before, events_before; /* ms since 1970; 0 = whatever their age, they stay */
    int64_t jobs_most, events_most;     /* 0 = no limit */
    int dry_run;                        /* count only */
    /* out: how far it is; 0 at first */
    int64_t job, event;
    int64_t jobs, events; /* that went */
} ds_prune_rows;

/* 1: there may be more; 0: that was all; or a code. */
int ds_prune_some(ds_registry *r, ds_prune_rows *p, ds_error *err);

/* What a job's folder is of use for. */
enum ds_folder_use {
    DS_FOLDER_LIVE,  /* the job is not over: all of it */
    DS_FOLDER_ENDED, /* log and result, no checkpoints */
    DS_FOLDER_OLD,   /* it ended before `before` */
    DS_FOLDER_NONE   /* no row has this number */
};
int ds_prune_folder(ds_registry *r, int64_t job, int64_t before, enum ds_folder_use *out,
                    ds_error *err);

#endif
