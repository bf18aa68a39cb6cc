/* kernels/cpu/team.c - see team.h. */
#include "kernels/cpu/team.h"

#include "base/error.h"
#include "base/mem.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SPINS = 4000, MAX_THREADS = 1024 }; /* the range of base/limits.h */
enum { DEFAULT_MOST = 256 };               /* when nobody says how many */

typedef struct {
    ds_team *team;
    int index;
    pthread_t id;
} worker;

/* `run` counts runs in its high half; its low half is 1 + the number of workers inside while a run
 * is open, so joining is one compare-and-swap that fails once the run is closed (low half: workers
 * that are still inside, without the 1). */
struct ds_team {
    _Alignas(64) _Atomic uint32_t generation; /* futex: workers sleep here */
    _Atomic uint32_t sleepers;
    _Alignas(64) _Atomic uint64_t run;
    _Atomic uint32_t inside_zero; /* futex: the caller sleeps here until the last worker leaves */
    _Alignas(64) _Atomic int next;
    int tasks;
    ds_team_fn *fn;
    void *ctx;
    int threads;
    _Atomic int quit;
    worker *workers;
};

static void futex_wait(_Atomic uint32_t *at, uint32_t expected) {
    syscall(SYS_futex, at, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *at, int count) {
    syscall(SYS_futex, at, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static inline void pause_cpu(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void drain(ds_team *team, int thread) {
    int task;
    while ((task = atomic_fetch_add_explicit(&team->next, 1, memory_order_relaxed)) < team->tasks)
        team->fn(team->ctx, task, thread);
}

/* Wait for a generation other than `seen`; returns it. */
static uint32_t await(ds_team *team, uint32_t seen) {
    for (int i = 0; i < SPINS; i++) {
        uint32_t now = atomic_load_explicit(&team->generation, memory_order_acquire);
        if (now != seen)
            return now;
        pause_cpu();
    }
    atomic_fetch_add(&team->sleepers, 1);
    uint32_t now;
    while ((now = atomic_load(&team->generation)) == seen)
        futex_wait(&team->generation, seen);
    atomic_fetch_sub(&team->sleepers, 1);
    return now;
}

/* Enter the run of this generation if it is still open. */
static int join(ds_team *team, uint32_t generation) {
    uint64_t run = atomic_load(&team->run);
    while ((uint32_t)(run >> 32) == generation && (run & 0x10000u))
        if (atomic_compare_exchange_weak(&team->run, &run, run + 1))
            return 1;
    return 0;
}

static void leave(ds_team *team) {
    uint64_t after = atomic_fetch_sub(&team->run, 1) - 1;
    if ((after & 0x1FFFFu) == 0) { /* closed and empty: the caller may be asleep */
        atomic_store(&team->inside_zero, 1);
        futex_wake(&team->inside_zero, 1);
    }
}

static void *work(void *arg) {
    worker *self = arg;
    ds_team *team = self->team;
    uint32_t seen = 0;
    for (;;) {
        seen = await(team, seen);
        if (atomic_load(&team->quit))
            return NULL;
        if (join(team, seen)) {
            drain(team, self->index);
            leave(team);
        }
    }
}

void ds_team_run(ds_team *team, ds_team_fn *fn, void *ctx, int tasks) {
    if (team->threads == 1 || tasks <= 1) {
        for (int task = 0; task < tasks; task++)
            fn(ctx, task, 0);
        return;
    }
    team->fn = fn;
    team->ctx = ctx;
    team->tasks = tasks;
    atomic_store_explicit(&team->next, 0, memory_order_relaxed);
    atomic_store_explicit(&team->inside_zero, 0, memory_order_relaxed);
    uint32_t generation = atomic_load_explicit(&team->generation, memory_order_relaxed) + 1;
    atomic_store(&team->run, (uint64_t)generation << 32 | 0x10000u); /* open, nobody inside */
    atomic_store(&team->generation, generation);
    if (atomic_load(&team->sleepers))
        futex_wake(&team->generation, team->threads);
    drain(team, 0);
    uint64_t after = atomic_fetch_sub(&team->run, 0x10000u) - 0x10000u; /* close */
    for (int i = 0; (after & 0xFFFFu) && i < SPINS; i++) {
        pause_cpu();
        after = atomic_load(&team->run);
    }
    while (atomic_load(&team->run) & 0xFFFFu)
        futex_wait(&team->inside_zero, 0);
}

/* Workers take no signals: they belong to the thread that opened the device. */
static int start(worker *w) {
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    int rc = pthread_create(&w->id, NULL, work, w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc;
}

ds_team *ds_team_new(int threads) {
    DS_ASSERT(threads >= 1);
    if (threads > MAX_THREADS)
        threads = MAX_THREADS;
    ds_team *team = ds_xaligned(sizeof *team);
    memset(team, 0, sizeof *team);
    team->workers = ds_xcalloc((size_t)threads, sizeof *team->workers);
    team->threads = 1;
    for (int i = 1; i < threads; i++) {
        team->workers[i] = (worker){.team = team, .index = i};
        if (start(&team->workers[i])) {
            ds_team_free(team);
            return NULL;
        }
        team->threads++;
    }
    return team;
}

void ds_team_free(ds_team *team) {
    if (!team)
        return;
    atomic_store(&team->quit, 1);
    atomic_fetch_add(&team->generation, 1);
    futex_wake(&team->generation, team->threads);
    for (int i = 1; i < team->threads; i++)
        pthread_join(team->workers[i].id, NULL);
    free(team->workers);
    free(team);
}

int ds_team_threads(const ds_team *team) { return team->threads; }

/* Processors granted by a quota file, rounded up; 0 = no quota. */
static int quota_of(const char *quota_path, const char *period_path) {
    char text[128];
    long long quota = -1, period = 0;
    FILE *f = fopen(quota_path, "re");
    if (!f)
        return 0;
    if (fgets(text, sizeof text, f)) {
        char *end;
        quota = strtoll(text, &end, 10); /* "max 100000": no number, no quota */
        if (end == text)
            quota = -1;
        else
            period = strtoll(end, NULL, 10);
    }
    fclose(f);
    if (period_path && (f = fopen(period_path, "re"))) {
        if (fgets(text, sizeof text, f))
            period = strtoll(text, NULL, 10);
        fclose(f);
    }
    if (quota <= 0 || period <= 0)
        return 0;
    long long n = (quota + period - 1) / period;
    return n < 1 ? 1 : n > DEFAULT_MOST ? DEFAULT_MOST : (int)n;
}

static int least(int n, int quota) { return quota > 0 && quota < n ? quota : n; }

/* The quota of this process's own cgroup (v2) and of the mount's root, which is what a container
 * sees. */
static int cgroup_cap(int n) {
    n = least(n, quota_of("/sys/fs/cgroup/cpu.max", NULL));
    n = least(
        n, quota_of("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"));
    FILE *f = fopen("/proc/self/cgroup", "re");
    char line[512], path[640];
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "0::/", 4) != 0 || !line[4] || line[4] == '\n')
            continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s/cpu.max", line + 4);
        n = least(n, quota_of(path, NULL));
    }
    if (f)
        fclose(f);
    return n;
}

int ds_team_default_threads(void) {
    cpu_set_t set;
    int n = 1;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        n = CPU_COUNT(&set);
    if (n > DEFAULT_MOST)
        n = DEFAULT_MOST;
    return cgroup_cap(n < 1 ? 1 : n);
}
