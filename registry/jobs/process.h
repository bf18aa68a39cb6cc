/* registry/jobs/process.h - which process, as a text that tells it apart from any later one.
 *
 * An executor (daemon/jobs/executor.h) names what it started by such a text, and it alone knows
 * what is in it.  Those of this machine are "local:BOOT:PID:START": a pid alone is used again, but
 * not with the same boot id and start time (clock ticks since boot).
 * Source: /proc/sys/kernel/random/boot_id and field 22 of /proc/<pid>/stat (proc(5)).
 *
 * Thread: any.
 */
#ifndef DS_REGISTRY_JOBS_PROCESS_H
#define DS_REGISTRY_JOBS_PROCESS_H

#include <stdint.h>

#define DS_IDENTITY_SIZE 96

typedef struct {
    char identity[DS_IDENTITY_SIZE]; /* "" = none yet */
    int64_t pid;                     /* the number that people see; 0 = none.  Never acted upon */
} ds_process;

/* The identity of a process of this machine; -1 when it is gone: an identity that nothing has. */
int ds_process_identify(int64_t pid, ds_process *p);

/* The pid in an identity of this machine; 0: it is none. */
int64_t ds_process_pid(const char *identity);

/* 1 while exactly this process exists on this machine and is not a zombie. */
int ds_process_alive(const char *identity);

/* 1: it is alive and stopped (SIGSTOP, a debugger). */
int ds_process_stopped(const char *identity);

#endif
