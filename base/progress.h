/* base/progress.h - how far a long piece of work is, told to whoever asked for it. */
#ifndef DS_BASE_PROGRESS_H
#define DS_BASE_PROGRESS_H

#include <stdint.h>

/* Called now and then with what is done of what; total 0: not known yet.  Counts are whole numbers.
 * Another result than 0 stops the work with DS_ECANCELED.  NULL is allowed wherever one is taken.
 * Thread: that of the call which does the work. */
typedef int ds_progress(void *user, double done, double total);

/* 0 where nobody asked. */
static inline int ds_progress_say(ds_progress *progress, void *user, int64_t done, int64_t total) {
    return progress ? progress(user, (double)done, (double)total) : 0;
}

#endif
