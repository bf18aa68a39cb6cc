/* kernels/cpu/team.h - a persistent team of threads that drains a queue of numbered tasks.
 *
 * ds_team_run calls fn(ctx, task, thread) once for each task in [0, tasks) and returns when all are
 * done.  The caller works too, as thread 0.  Tasks are taken one by one from an atomic counter, so
 * a thread that lost its processor only delays the task it holds; a thread that wakes up too late
 * finds the run closed and sleeps on.  Workers spin for some microseconds and then sleep in a
 * futex: an idle team uses no processor.  One caller at a time; runs do not nest.
 */
#ifndef DS_KERNELS_CPU_TEAM_H
#define DS_KERNELS_CPU_TEAM_H

typedef struct ds_team ds_team;
typedef void ds_team_fn(void *ctx, int task, int thread);

/* A team of `threads` >= 1 (the caller among them), or NULL when no thread can be made. */
ds_team *ds_team_new(int threads);
void ds_team_free(ds_team *team); /* NULL is fine */
int ds_team_threads(const ds_team *team);
void ds_team_run(ds_team *team, ds_team_fn *fn, void *ctx, int tasks);

/* Processors this process may use: sched_getaffinity, capped by the cgroup quota (v2 cpu.max, v1
 * cpu.cfs_quota_us), at least 1. */
int ds_team_default_threads(void);

#endif
