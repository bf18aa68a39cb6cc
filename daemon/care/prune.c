/* daemon/care/prune.c - see prune.h.
 *
 * Steps:  pool: read jobs/   ->  loop: what some folders are of use for
 *                            ->  pool: remove them   ->  loop: the next ones, then some rows at a
 *                                                        time, to the end
 */
#include "daemon/care/prune.h"

#include "base/age.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "daemon/jobs/workers.h"
#include "daemon/care/gc.h"
#include "registry/jobs/cleanup.h"
#include "registry/jobs/jobs.h"
#include "registry/jobs/prune.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIRST_TICK 300
#define EVERY_TICKS 86400
#define FOLDERS_AT_ONCE 64
#define CACHE_MS (86400 * 1000) /* of no use for so long at least, or just made */
#define LEFT_OVER_MS (3600 * 1000)
#define START_LEFT_OVER_MS (10 * 1000)

typedef struct {
    char name[NAME_MAX + 1];
    int64_t job, changed; /* 0: foreign; mtime in ms */
    int whole;            /* all of it goes, else what only another run could have used */
} folder;

typedef struct {
    uv_work_t work;
    ds_daemon *d;
    ds_prune_options o;
    ds_prune_rows rows;
    json_t *facts; /* owned; for the caches */
    int64_t now, last_id;
    folder *list; /* read by the pool; [from, to) are the present ones */
    size_t n, cap, from, to;
    int looked, rows_done;
    ds_prune_result out;
    ds_prune_done done;
    void *ctx;
} prune;

void ds_prune_defaults(const ds_daemon *d, ds_prune_options *o) {
    *o = (ds_prune_options){.jobs = 86400.0 * d->o.keep_jobs_days,
                            .folders = 86400.0 * d->o.keep_folders_days,
                            .events = 86400.0 * d->o.keep_events_days};
}

/* ---- on the pool ---- */

static int64_t mtime_ms(const struct stat *st) {
    return (int64_t)st->st_mtim.tv_sec * 1000 + st->st_mtim.tv_nsec / 1000000;
}

static void read_jobs(prune *p) {
    char jobs[PATH_MAX], path[PATH_MAX];
    ds_fs_join(jobs, sizeof jobs, p->d->o.state, "jobs");
    DIR *dir = opendir(jobs);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        struct stat st;
        size_t digits = strspn(e->d_name, "0123456789");
        int foreign = strncmp(e->d_name + digits, ".foreign-", 9) == 0;
        ds_fs_join(path, sizeof path, jobs, e->d_name);
        if (!digits || digits > 18 || (e->d_name[digits] && !foreign) || lstat(path, &st) ||
            !S_ISDIR(st.st_mode))
            continue;
        if (p->n == p->cap) {
            p->cap = p->cap ? 2 * p->cap : 64;
            p->list = ds_xrealloc(p->list, p->cap * sizeof *p->list);
        }
        folder *f = &p->list[p->n++];
        *f = (folder){.job = foreign ? 0 : strtoll(e->d_name, NULL, 10), .changed = mtime_ms(&st)};
        snprintf(f->name, sizeof f->name, "%s", e->d_name);
    }
    if (dir)
        closedir(dir);
}

/* Whoever writes for long holds a lock on its file. */
static int locked(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    int yes = fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) && errno == EWOULDBLOCK;
    if (fd >= 0)
        close(fd);
    return yes;
}

/* Named by mkostemps: what a killed program was writing.  The blob store and job folders tidy their
 * own. */
static void remove_left_overs(const ds_daemon *d, int64_t least_ms, int dry_run,
                              ds_prune_result *out) {
    static const char *const folders[] = {"cache", "cache/base",   "cache/hashes",
                                          "bases", "feature_nets", "backups"};
    char dir[PATH_MAX], path[PATH_MAX];
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        ds_fs_join(dir, sizeof dir, d->o.state, folders[i]);
        DIR *list = opendir(dir);
        for (struct dirent *e; list && (e = readdir(list));) {
            struct stat st;
            ds_fs_join(path, sizeof path, dir, e->d_name);
            if (!ds_fs_ends_with(e->d_name, ".tmp") || lstat(path, &st) || !S_ISREG(st.st_mode) ||
                ds_age_ms(st.st_mtim) < least_ms || locked(path))
                continue;
            if (!dry_run && unlink(path))
                continue;
            out->files++;
            out->bytes += st.st_size;
        }
        if (list)
            closedir(list);
    }
}

void ds_prune_left_overs(ds_daemon *d) {
    ds_prune_result r = {0};
    if (!ds_workers_busy(d->workers))
        remove_left_overs(d, START_LEFT_OVER_MS, 0, &r);
    if (r.files)
        ds_log(DS_LOG_INFO, "removed %lld temporary files that were left behind",
               (long long)r.files);
}

static _Thread_local int64_t tree_bytes;
static int add_bytes(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
    (void)path, (void)ftw;
    tree_bytes += flag == FTW_F ? st->st_size : 0;
    return 0;
}

static int64_t bytes_of(const char *path) {
    tree_bytes = 0;
    nftw(path, add_bytes, 16, FTW_PHYS);
    return tree_bytes;
}

static void remove_folder(prune *p, const folder *f) {
    char jobs[PATH_MAX], path[PATH_MAX], inner[PATH_MAX];
    ds_error err;
    ds_fs_join(jobs, sizeof jobs, p->d->o.state, "jobs");
    ds_fs_join(path, sizeof path, jobs, f->name);
    ds_fs_join(inner, sizeof inner, path, DS_DIR_CHECKPOINTS);
    if (!f->whole && !ds_fs_exists(inner))
        return;
    int64_t bytes = bytes_of(f->whole ? path : inner);
    if (!p->o.dry_run && ds_fs_remove(f->whole ? path : inner, &err)) {
        ds_log(DS_LOG_WARN, "cannot prune: %s", err.message);
        return;
    }
    p->out.bytes += bytes;
    p->out.folders += f->whole;
    p->out.checkpoints += !f->whole;
}

static void on_work(uv_work_t *work) {
    prune *p = work->data;
    if (!p->looked) {
        ds_gc_part caches;
        read_jobs(p);
        ds_gc_caches(p->d, p->facts, CACHE_MS, p->o.dry_run, &caches);
        p->out.caches = caches.files;
        p->out.bytes += caches.bytes;
        remove_left_overs(p->d, LEFT_OVER_MS, p->o.dry_run, &p->out);
    }
    for (size_t i = p->from; i < p->to; i++)
        if (*p->list[i].name)
            remove_folder(p, &p->list[i]);
    p->looked = 1;
}

/* ---- on the loop ---- */

static int some_rows(prune *p, ds_error *err) {
    int rc = ds_prune_some(p->d->registry, &p->rows, err);
    p->out.jobs = p->rows.jobs;
    p->out.events = p->rows.events;
    p->rows_done = rc <= 0;
    return rc < 0 ? rc : 0;
}

/* What the next folders are of use for; the name is emptied where one stays as it is. */
static int some_folders(prune *p, ds_error *err) {
    int64_t before = p->o.folders > 0 ? p->now - (int64_t)(p->o.folders * 1000) : 0;
    int rc = 0;
    p->from = p->to;
    p->to = p->n - p->from > FOLDERS_AT_ONCE ? p->from + FOLDERS_AT_ONCE : p->n;
    for (size_t i = p->from; !rc && i < p->to; i++) {
        folder *f = &p->list[i];
        enum ds_folder_use use = DS_FOLDER_NONE;
        if (f->job)
            rc = ds_prune_folder(p->d->registry, f->job, before, &use, err);
        f->whole = use == DS_FOLDER_OLD ||
                   (use == DS_FOLDER_NONE && f->changed < before && f->job <= p->last_id);
        if (rc || use == DS_FOLDER_LIVE || (use == DS_FOLDER_NONE && !f->whole))
            *f->name = 0;
    }
    return rc;
}

static void end(prune *p, int rc, const ds_error *err) {
    p->d->tidying = 0;
    if (rc)
        ds_log(DS_LOG_WARN, "prune: %s", err->message);
    p->done(p->ctx, &p->out, rc, err);
    json_decref(p->facts);
    free(p->list);
    free(p);
}

/* Folders first: what they are of use for is asked of the rows. */
static void on_done(uv_work_t *work, int status) {
    prune *p = work->data;
    ds_error err = {0};
    (void)status;
    int rc = 0, more = !p->d->stopping;
    if (more && p->to < p->n)
        rc = some_folders(p, &err);
    else if (more && !p->rows_done) {
        p->from = p->to;
        rc = some_rows(p, &err);
    } else
        more = 0;
    if (rc || !more)
        end(p, rc, &err);
    else
        uv_queue_work(&p->d->loop, &p->work, on_work, on_done);
}

int ds_prune_start(ds_daemon *d, const ds_prune_options *o, ds_prune_done done, void *ctx,
                   ds_error *err) {
    int64_t last = 0;
    json_t *facts = NULL;
    int rc = ds_daemon_tidying(d, err);
    if (!rc)
        rc = ds_job_last_id(d->registry, &last, err);
    if (!rc)
        rc = ds_cleanup_facts(d->registry, &facts, err);
    if (rc)
        return rc;
    prune *p = ds_xcalloc(1, sizeof *p);
    *p = (prune){.d = d,
                 .o = *o,
                 .facts = facts,
                 .now = ds_age_now_ms(),
                 .last_id = last,
                 .done = done,
                 .ctx = ctx};
    p->rows =
        (ds_prune_rows){.jobs_before = o->jobs > 0 ? p->now - (int64_t)(o->jobs * 1000) : 0,
                        .events_before = o->events > 0 ? p->now - (int64_t)(o->events * 1000) : 0,
                        .jobs_most = o->jobs > 0 ? DS_PRUNE_JOBS_MOST : 0,
                        .events_most = o->events > 0 ? DS_PRUNE_EVENTS_MOST : 0,
                        .dry_run = o->dry_run};
    p->work.data = p;
    d->tidying = 1;
    uv_queue_work(&d->loop, &p->work, on_work, on_done);
    return 0;
}

static void told(void *ctx, const ds_prune_result *r, int rc, const ds_error *err) {
    (void)ctx, (void)err;
    if (!rc && (r->jobs || r->events || r->folders || r->checkpoints || r->caches || r->files))
        ds_log(DS_LOG_INFO,
               "pruned %lld jobs, %lld events, %lld job folders, %lld with checkpoints, %lld "
               "caches, %lld left-over files",
               (long long)r->jobs, (long long)r->events, (long long)r->folders,
               (long long)r->checkpoints, (long long)r->caches, (long long)r->files);
}

void ds_prune_tick(ds_daemon *d) {
    ds_prune_options o;
    ds_error err;
    if (d->ticks % EVERY_TICKS != FIRST_TICK)
        return;
    ds_prune_defaults(d, &o);
    ds_prune_start(d, &o, told, NULL, &err); /* busy: tomorrow */
}
