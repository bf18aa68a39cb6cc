/* daemon/jobs/workers.c - which job runs in which slot; see workers.h. */
#include "daemon/jobs/workers.h"

#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "daemon/folders/watch.h"
#include "daemon/jobs/folders.h"
#include "daemon/jobs/slot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define MAX_SLOTS 67
#define POLL_MS 250
#define ORPHAN_SECONDS 15.0
#define MOST_WAITS 8 /* folders that are asked about at a time */
#define MAX_ORPHANS 64

/* A worker that outlived the daemon that started it. */
typedef struct {
    ds_job job;
    double term_at; /* monotonic seconds */
    int killed;
} orphan;

struct ds_workers {
    ds_daemon *d;
    uv_timer_t poll;
    ds_slot slots[MAX_SLOTS];
    int slot_count, stopping;
    orphan orphans[MAX_ORPHANS];
    int orphan_count;
};

/* ---- workers of an earlier daemon ---- */

static void orphan_signal(const ds_workers *w, const orphan *o, enum ds_exec_signal what) {
    w->d->executor->signal(w->d->executor, o->job.process.identity, what);
}

/* 0, or it has to be tried again. */
static int orphan_gone(ds_workers *w, const orphan *o) {
    ds_error err;
    char dir[PATH_MAX], path[PATH_MAX];
    ds_job_dir(w->d, o->job.id, dir);
    ds_fs_join(path, sizeof path, dir, DS_FILE_CANCEL);
    json_t *mark = ds_folder_mark(w->d, &o->job);
    int cancelled = o->job.cancel || (ds_fs_exists(path) && ds_folder_is_own(dir, mark));
    json_decref(mark);
    int rc = cancelled ? ds_job_cancelled(w->d->registry, o->job.id, -1, -1, &err)
                       : ds_job_requeue(w->d->registry, o->job.id,
                                        "its worker had outlived an earlier daemon", &err);
    return rc && ds_daemon_locked(w->d, rc, "put a job back into the queue", &err);
}

static void poll_orphans(ds_workers *w) {
    ds_executor *x = w->d->executor;
    double now = ds_monotonic();
    for (int i = 0; i < w->orphan_count;) {
        orphan *o = &w->orphans[i];
        if (x->poll(x, o->job.process.identity) == DS_EXEC_GONE) {
            if (orphan_gone(w, o)) {
                i++;
                continue;
            }
            *o = w->orphans[--w->orphan_count];
            ds_daemon_poke(w->d);
            continue;
        }
        if (!o->killed && now - o->term_at > ORPHAN_SECONDS) {
            o->killed = 1;
            orphan_signal(w, o, DS_EXEC_KILL);
        }
        i++;
    }
}

static int adopt_orphans(ds_workers *w, ds_error *err) {
    ds_job jobs[MAX_ORPHANS];
    int n = 0;
    int rc = ds_jobs_running(w->d->registry, jobs, MAX_ORPHANS, &n, err);
    for (int i = 0; !rc && i < n && i < MAX_ORPHANS; i++) {
        orphan *o = &w->orphans[w->orphan_count++];
        *o = (orphan){.job = jobs[i], .term_at = ds_monotonic()};
        ds_log(DS_LOG_INFO, "ending process %lld, left by an earlier daemon in job %lld",
               (long long)jobs[i].process.pid, (long long)jobs[i].id);
        orphan_signal(w, o, DS_EXEC_STOP);
    }
    return rc;
}

/* Its slot is given up.  The row stays running until the process is gone, and goes back to the
 * queue then. */
static void on_abandoned(void *ctx, const ds_job *job, const ds_process *process) {
    ds_workers *w = ctx;
    if (w->stopping || w->orphan_count == MAX_ORPHANS)
        return; /* the next start looks for it */
    orphan *o = &w->orphans[w->orphan_count++];
    *o = (orphan){.job = *job, .term_at = ds_monotonic(), .killed = 1};
    o->job.process = *process;
}

/* ---- polling ---- */

static int running_slots(const ds_workers *w) {
    int n = 0;
    for (int i = 0; i < w->slot_count; i++)
        n += w->slots[i].phase != DS_SLOT_FREE;
    return n;
}

static void on_poll(uv_timer_t *t) {
    ds_workers *w = t->data;
    for (int i = 0; i < w->slot_count; i++)
        ds_slot_poll(&w->slots[i]);
    poll_orphans(w);
    if (!ds_workers_busy(w))
        uv_timer_stop(t);
}

static void keep_polling(ds_workers *w) {
    if (ds_workers_busy(w) && !uv_is_active((uv_handle_t *)&w->poll))
        uv_timer_start(&w->poll, on_poll, POLL_MS, POLL_MS);
}

/* ---- scheduling ---- */

/* 1 if some process holds the lock of the job directory: never two workers on one directory. */
static int directory_in_use(const ds_daemon *d, int64_t job) {
    char dir[PATH_MAX], path[PATH_MAX];
    ds_job_dir(d, job, dir);
    ds_fs_join(path, sizeof path, dir, DS_FILE_LOCK);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return 0;
    int busy = flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    close(fd);
    return busy;
}

/* What reads a dataset's folder starts when the folder can be had, and a scan when it is watched,
 * so that no change falls between listing and watching. */
typedef struct {
    ds_workers *w;
    int waits; /* jobs that were passed over because the answer is to come */
} pick;

static int on_pick(void *ctx, const ds_job *job) {
    pick *p = ctx;
    if (job->kind == DS_JOB_IMPORT && p->w->d->removing) {
        p->waits++;
        return 2;
    }
    enum ds_gate gate = DS_GATE_OPEN;
    if (p->w->d->watch && (job->kind == DS_JOB_SCAN || job->kind == DS_JOB_TRAIN))
        gate = ds_watch_gate(p->w->d->watch, job->dataset_id);
    if (gate == DS_GATE_SHUT)
        return 1;
    if (gate == DS_GATE_WAIT || directory_in_use(p->w->d, job->id))
        return ++p->waits < MOST_WAITS ? 1 : 2;
    return 0;
}

static void min_wait(int64_t *least, int64_t ms) {
    if (ms >= 0 && (*least < 0 || ms < *least))
        *least = ms;
}

/* Fill one free slot if its kinds have a job that is due. */
static void fill(ds_workers *w, ds_slot *s, int64_t *wait) {
    ds_error err;
    ds_job job;
    int64_t next = -1;
    pick p = {.w = w};
    int rc = ds_job_next_of(w->d->registry, s->kinds, ds_now_ms(), on_pick, &p, &job, &next, &err);
    if (rc == DS_ENOTFOUND) {
        min_wait(wait, next);
        if (p.waits)
            min_wait(wait, 100);
        return;
    }
    if (!rc)
        rc = ds_job_claim(w->d->registry, job.id, &err);
    if (!rc) { /* as claimed; should this read fail, what ds_job_next said is true enough */
        ds_job claimed;
        if (!ds_job_read(w->d->registry, job.id, &claimed, NULL))
            job = claimed;
    }
    if (rc) {
        min_wait(wait, ds_daemon_locked(w->d, rc, "start a job", &err) ? 200 : 1000);
        return;
    }
    ds_slot_start(s, &job);
}

static void stop_cancelled(ds_workers *w) {
    ds_job jobs[MAX_SLOTS];
    int n = 0;
    if (!running_slots(w) || ds_jobs_running(w->d->registry, jobs, MAX_SLOTS, &n, NULL))
        return;
    for (int i = 0; i < n && i < MAX_SLOTS; i++)
        if (jobs[i].cancel)
            ds_workers_cancel(w, jobs[i].id);
}

void ds_workers_run(ds_workers *w) {
    if (w->stopping)
        return;
    int64_t wait = -1;
    stop_cancelled(w);
    for (int i = 0; i < w->slot_count; i++)
        if (w->slots[i].phase == DS_SLOT_FREE)
            fill(w, &w->slots[i], &wait);
    ds_daemon_poke_after(w->d, wait);
    keep_polling(w);
}

void ds_workers_tick(ds_workers *w) {
    for (int i = 0; i < w->slot_count; i++)
        ds_slot_tick(&w->slots[i]);
}

void ds_workers_stop(ds_workers *w, int hurry) {
    w->stopping = 1;
    for (int i = 0; i < w->slot_count; i++)
        ds_slot_stop(&w->slots[i], hurry);
    w->orphan_count = 0; /* they have their SIGTERM; the next start looks for them again */
    keep_polling(w);
}

int ds_workers_busy(const ds_workers *w) { return running_slots(w) + w->orphan_count; }

void ds_workers_cancel(ds_workers *w, int64_t job) {
    for (int i = 0; i < w->slot_count; i++)
        if (w->slots[i].phase != DS_SLOT_FREE && w->slots[i].job.id == job)
            ds_slot_cancel(&w->slots[i]);
}

void ds_workers_pause(ds_workers *w, int64_t dataset_id) {
    for (int i = 0; i < w->slot_count; i++)
        if (w->slots[i].phase != DS_SLOT_FREE && w->slots[i].job.dataset_id == dataset_id)
            ds_slot_pause(&w->slots[i]);
}

int ds_workers_running(const ds_workers *w, ds_running *out, int max) {
    int n = 0;
    for (int i = 0; i < w->slot_count && n < max; i++) {
        const ds_slot *s = &w->slots[i];
        if (s->phase == DS_SLOT_FREE)
            continue;
        out[n++] = (ds_running){.job = s->job.id,
                                .kind = s->job.kind,
                                .name = s->job.name,
                                .stage = s->phase == DS_SLOT_RUNNING ? s->stage : "",
                                .progress = s->progress,
                                .revision = s->revision,
                                .pid = s->process.pid};
    }
    return n;
}

/* ---- life cycle ---- */

static void add_slot(ds_workers *w, unsigned kinds) {
    DS_ASSERT(w->slot_count < MAX_SLOTS);
    w->slots[w->slot_count++] =
        (ds_slot){.d = w->d, .kinds = kinds, .on_abandoned = on_abandoned, .ctx = w};
}

int ds_workers_open(ds_workers **out, ds_daemon *d, ds_error *err) {
    ds_workers *w = ds_xcalloc(1, sizeof *w);
    w->d = d;
    uv_timer_init(&d->loop, &w->poll);
    w->poll.data = w;
    *out = w;
    add_slot(w, DS_KIND_BIT(DS_JOB_SCAN));
    add_slot(w, DS_KIND_BIT(DS_JOB_SAMPLE) | DS_KIND_BIT(DS_JOB_VERIFY));
    add_slot(w, DS_KIND_BIT(DS_JOB_IMPORT));
    for (int i = 0; i < d->o.workers; i++)
        add_slot(w, DS_KIND_BIT(DS_JOB_TRAIN));
    int rc = adopt_orphans(w, err);
    keep_polling(w);
    return rc;
}

static void on_closed(uv_handle_t *h) { free(h->data); }

void ds_workers_close(ds_workers *w) {
    if (!w)
        return;
    DS_ASSERT(!running_slots(w));
    uv_close((uv_handle_t *)&w->poll, on_closed);
}
