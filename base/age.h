/* base/age.h - how old a file is, whatever was done to the clock meanwhile.
 *
 * Purpose: what is removed for its age must not look old because the clock was set.  A file's time
 * is a time of day; this process remembers which times of day it has lived through, as stretches
 * between two steps of the clock, with the time since boot at which each began.  A file dated
 * inside a stretch has the age that the boot clock says (the least, where stretches overlap).  A
 * file dated outside all of them is none of this process's time: its age is now less its date, and
 * 0 when that lies in the future.  A step while no process looks is not seen: what is older than
 * the process is not being made by it.
 *
 * Thread: any.  Units: ms since 1970.
 */
#ifndef DS_BASE_AGE_H
#define DS_BASE_AGE_H

#include <stdint.h>
#include <time.h>

void ds_age_look(void); /* notices steps of the clock: call it at start and every second or so */
int64_t ds_age_ms(struct timespec date); /* looks, too */

/* The time of day by which rows are old enough to go: where the clock was set forth since the first
 * look, that of the boot clock.  So a wrong clock makes nothing old before the next start.  A first
 * look before 2020 saw a clock that was not set yet, and does not count. */
int64_t ds_age_now_ms(void);

/* The same on given clocks (ms), for tests. */
#define DS_AGE_STRETCHES 256 /* of older ones nothing is known */
#define DS_AGE_STEP_MS 1000  /* a difference below is the clock being slewed */
typedef struct {
    int count;
    int64_t wall, boot;     /* of the last look */
    int64_t wall_0, boot_0; /* of the first */
    struct {
        int64_t from, to, boot; /* times of day; boot clock at from */
    } list[DS_AGE_STRETCHES];
} ds_ages;
void ds_ages_look(ds_ages *a, int64_t wall, int64_t boot);
int64_t ds_ages_of(const ds_ages *a, int64_t date); /* at the last look */
int64_t ds_ages_now(const ds_ages *a);              /* likewise */

#endif
