/* registry/jobs/process.h - which process, told apart from a later one with the same number.
 *
 * A pid alone is reused; (boot id, pid, start time in clock ticks since boot) is not.
 * Source: /proc/sys/kernel/random/boot_id and field 22 of /proc/<pid>/stat (proc(5)).
 */
#ifndef DS_REGISTRY_JOBS_PROCESS_H
#define DS_REGISTRY_JOBS_PROCESS_H

#include <stdint.h>

typedef struct {
    char boot_id[37]; /* "" = unknown */
    int64_t pid;      /* 0 = none yet */
    int64_t start;    /* ticks since boot */
} ds_process;

/* Fill *p for a process that runs now; -1 (pid and boot id filled, start 0) when it is gone. */
int ds_process_identify(int64_t pid, ds_process *p);

/* 1: stopped (SIGSTOP, a debugger). */
int ds_process_stopped(int64_t pid);

/* 1 while exactly this process exists and is not a zombie. */
int ds_process_alive(const ds_process *p);

#endif
