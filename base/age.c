#include "base/age.h"

#include <pthread.h>
#include <string.h>

void ds_ages_look(ds_ages *a, int64_t wall, int64_t boot) {
    int64_t passed = boot - a->boot, step = wall - a->wall - passed;
    if (!a->count) {
        a->wall_0 = wall;
        a->boot_0 = boot;
    }
    if (a->count && step < DS_AGE_STEP_MS && step > -DS_AGE_STEP_MS) {
        a->list[a->count - 1].to = wall;
    } else {
        /* When between the two looks the clock was set is not known: both stretches have it all. */
        if (a->count)
            a->list[a->count - 1].to = a->wall + passed;
        if (a->count == DS_AGE_STRETCHES)
            memmove(a->list, a->list + 1, sizeof a->list - sizeof a->list[0]), a->count--;
        int64_t since = a->count ? passed : 0;
        a->list[a->count].from = wall - since;
        a->list[a->count].to = wall;
        a->list[a->count++].boot = boot - since;
    }
    a->wall = wall;
    a->boot = boot;
}

int64_t ds_ages_of(const ds_ages *a, int64_t date) {
    int64_t age = INT64_MAX;
    for (int i = 0; i < a->count; i++) {
        /* file systems date by a coarser clock, some ms behind */
        if (date < a->list[i].from - DS_AGE_STEP_MS || date > a->list[i].to)
            continue;
        int64_t here = a->boot - (a->list[i].boot + (date - a->list[i].from));
        age = here < age ? here : age;
    }
    if (age == INT64_MAX)
        age = a->wall - date;
    return age > 0 ? age : 0;
}

int64_t ds_ages_now(const ds_ages *a) {
    const int64_t set = INT64_C(1577836800000); /* 2020 */
    int64_t steady = a->wall_0 + a->boot - a->boot_0;
    return a->wall_0 >= set && steady < a->wall ? steady : a->wall;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static ds_ages ages; /* under lock */

static int64_t ms_of(struct timespec t) { return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000; }

static void look(void) {
    struct timespec wall, boot;
    clock_gettime(CLOCK_REALTIME, &wall);
    clock_gettime(CLOCK_BOOTTIME, &boot);
    ds_ages_look(&ages, ms_of(wall), ms_of(boot));
}

void ds_age_look(void) {
    pthread_mutex_lock(&lock);
    look();
    pthread_mutex_unlock(&lock);
}

int64_t ds_age_ms(struct timespec date) {
    pthread_mutex_lock(&lock);
    look();
    int64_t age = ds_ages_of(&ages, ms_of(date));
    pthread_mutex_unlock(&lock);
    return age;
}

int64_t ds_age_now_ms(void) {
    pthread_mutex_lock(&lock);
    look();
    int64_t now = ds_ages_now(&ages);
    pthread_mutex_unlock(&lock);
    return now;
}
