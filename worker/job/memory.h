/* worker/job/memory.h - how much memory a job may still take on this machine.
 *
 * The smaller of MemAvailable and what the cgroup (v2 or v1, any level) leaves; pages of files that
 * are not in use count as free.  Source: Linux Documentation/admin-guide/cgroup-v2.rst, proc(5).
 * Thread: any.
 */
#ifndef DS_WORKER_JOB_MEMORY_H
#define DS_WORKER_JOB_MEMORY_H

double ds_memory_available(void); /* bytes; 0 = not known */
double ds_memory_total(void);     /* bytes of the machine, or the least limit; 0 = not known */
double ds_memory_now(void);       /* bytes of this process that are in memory */
double ds_memory_peak(void);      /* bytes of this process so far */

#endif
