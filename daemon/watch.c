/* daemon/watch.c - inotify over dataset folders.
 *
 * A directory that two datasets share has one watch descriptor (the kernel gives the same number
 * again) and one entry for each dataset in the same hash bucket.
 */
#include "daemon/watch.h"

#include "base/log.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUCKETS 1024
#define SLICE_SECONDS 0.004
#define MASK                                                                                       \
    (IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_CLOSE_WRITE | IN_DELETE_SELF |       \
     IN_MOVE_SELF | IN_ONLYDIR | IN_DONT_FOLLOW | IN_EXCL_UNLINK)

typedef struct tree {
    struct tree *next, *same; /* all trees; trees of the same hash bucket */
    int64_t id;
    char *root;
    unsigned pending;         /* directories of it in the work list */
    double added;             /* monotonic seconds */
    double first_ms, last_ms; /* of changes not yet reported; first_ms 0: none */
    int keep;                 /* marked by ds_watch_keep */
    int lost;                 /* the root itself went away: try again */
} tree;

typedef struct entry {
    struct entry *next;
    int wd;
    tree *owner;
    char *path;
} entry;

typedef struct work {
    struct work *next;
    tree *owner;
    char *path;
    DIR *dir; /* open while it is being listed */
} work;

struct ds_watch {
    uv_loop_t *loop;
    uv_poll_t poll;
    uv_idle_t idle;
    int fd, handles;
    ds_watch_options o;
    tree *trees, *by_id[BUCKETS];
    entry *buckets[BUCKETS];
    work *work;
    unsigned dirs;
    uint64_t overflows;
    char note[256];
};

static double now_ms(void) { return ds_monotonic() * 1000.0; }

static void touch(tree *t) {
    t->last_ms = now_ms();
    if (t->first_ms == 0)
        t->first_ms = t->last_ms;
}

static tree *find(const ds_watch *w, int64_t id) {
    for (tree *t = w->by_id[(uint64_t)id % BUCKETS]; t; t = t->same)
        if (t->id == id)
            return t;
    return NULL;
}

/* ---- watch entries ---- */

static void entry_free(ds_watch *w, entry *e) {
    w->dirs--;
    free(e->path);
    free(e);
}

/* Drop the entries of a tree (all trees: NULL) whose path is `prefix` or below it (any: NULL). */
static void drop_entries(ds_watch *w, const tree *owner, const char *prefix) {
    size_t n = prefix ? strlen(prefix) : 0;
    for (int b = 0; b < BUCKETS; b++)
        for (entry **p = &w->buckets[b]; *p;) {
            entry *e = *p;
            int hit = (!owner || e->owner == owner) &&
                      (!prefix || (strncmp(e->path, prefix, n) == 0 &&
                                   (e->path[n] == 0 || e->path[n] == '/')));
            if (!hit) {
                p = &e->next;
                continue;
            }
            *p = e->next;
            int wd = e->wd, shared = 0;
            entry_free(w, e);
            for (entry *o = w->buckets[b]; o; o = o->next)
                shared |= o->wd == wd;
            if (!shared)
                inotify_rm_watch(w->fd, wd);
        }
}

static int add_entry(ds_watch *w, tree *t, const char *path) {
    if (w->dirs >= w->o.max_dirs) {
        snprintf(w->note, sizeof w->note,
                 "more than %u directories: the rest is seen by the periodic rescan only",
                 w->o.max_dirs);
        return 0;
    }
    int wd = inotify_add_watch(w->fd, path, MASK);
    if (wd < 0) {
        if (errno == ENOSPC) {
            snprintf(w->note, sizeof w->note,
                     "the kernel's limit of watches is reached: raise sysctl "
                     "fs.inotify.max_user_watches; until then the periodic rescan sees changes");
            ds_log(DS_LOG_WARN, "cannot watch '%s': %s", path, w->note);
        }
        return 0;
    }
    for (entry *e = w->buckets[wd % BUCKETS]; e; e = e->next)
        if (e->wd == wd && e->owner == t)
            return 1;
    entry *e = ds_xcalloc(1, sizeof *e);
    e->wd = wd;
    e->owner = t;
    e->path = ds_xstrdup(path);
    e->next = w->buckets[wd % BUCKETS];
    w->buckets[wd % BUCKETS] = e;
    w->dirs++;
    return 1;
}

/* ---- arming: list directories in slices ---- */

static void on_idle(uv_idle_t *idle);

static void push_work(ds_watch *w, tree *t, const char *path) {
    work *k = ds_xcalloc(1, sizeof *k);
    k->owner = t;
    k->path = ds_xstrdup(path);
    k->next = w->work;
    w->work = k;
    t->pending++;
    uv_idle_start(&w->idle, on_idle);
}

static void pop_work(ds_watch *w, work *k) {
    for (work **p = &w->work; *p; p = &(*p)->next)
        if (*p == k) {
            *p = k->next;
            break;
        }
    if (k->dir)
        closedir(k->dir);
    k->owner->pending--;
    if (k->owner->pending == 0 && w->o.armed)
        w->o.armed(w->o.ctx, k->owner->id);
    free(k->path);
    free(k);
}

static int is_directory(const char *dir, const struct dirent *d) {
    if (d->d_name[0] == '.') /* hidden entries are not part of a dataset */
        return 0;
    if (d->d_type != DT_UNKNOWN)
        return d->d_type == DT_DIR;
    char path[PATH_MAX];
    struct stat st;
    if (snprintf(path, sizeof path, "%s/%s", dir, d->d_name) >= (int)sizeof path)
        return 0;
    return lstat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* One slice of one directory; 1 when it is finished. */
static int list_some(ds_watch *w, work *k, double until) {
    if (!k->dir) {
        /* The watch comes before the listing, so that nothing falls between the two. */
        if (!add_entry(w, k->owner, k->path))
            return 1;
        k->dir = opendir(k->path);
        if (!k->dir)
            return 1;
    }
    for (unsigned i = 0;; i++) {
        if (i % 64 == 63 && ds_monotonic() > until)
            return 0;
        struct dirent *d = readdir(k->dir);
        if (!d)
            return 1;
        char path[PATH_MAX];
        if (is_directory(k->path, d) &&
            snprintf(path, sizeof path, "%s/%s", k->path, d->d_name) < (int)sizeof path)
            push_work(w, k->owner, path);
    }
}

static void on_idle(uv_idle_t *idle) {
    ds_watch *w = idle->data;
    double until = ds_monotonic() + SLICE_SECONDS;
    while (w->work && ds_monotonic() < until) {
        work *k = w->work;
        if (list_some(w, k, until))
            pop_work(w, k);
    }
    if (!w->work)
        uv_idle_stop(idle);
}

/* ---- events ---- */

static void overflow(ds_watch *w) {
    w->overflows++;
    ds_log(DS_LOG_WARN, "the kernel dropped folder events: every dataset is looked at again");
    for (tree *t = w->trees; t; t = t->next) {
        touch(t);
        push_work(w, t, t->root);
    }
}

static void handle(ds_watch *w, const struct inotify_event *ev) {
    if (ev->mask & IN_Q_OVERFLOW) {
        overflow(w);
        return;
    }
    for (entry **p = &w->buckets[ev->wd % BUCKETS]; *p;) {
        entry *e = *p;
        if (e->wd != ev->wd) {
            p = &e->next;
            continue;
        }
        touch(e->owner);
        if (ev->mask & (IN_IGNORED | IN_UNMOUNT)) {
            e->owner->lost |= strcmp(e->path, e->owner->root) == 0;
            *p = e->next;
            entry_free(w, e);
            continue;
        }
        p = &e->next;
    }
    if (!(ev->mask & IN_ISDIR) || !ev->len || ev->name[0] == '.')
        return;
    for (entry *e = w->buckets[ev->wd % BUCKETS]; e; e = e->next) {
        if (e->wd != ev->wd)
            continue;
        char path[PATH_MAX];
        if (snprintf(path, sizeof path, "%s/%s", e->path, ev->name) >= (int)sizeof path)
            continue;
        if (ev->mask & (IN_CREATE | IN_MOVED_TO))
            push_work(w, e->owner, path);
        else if (ev->mask & IN_MOVED_FROM) {
            drop_entries(w, e->owner, path); /* they would report under a stale name */
            return;                          /* the bucket may have changed under us */
        }
    }
}

static void on_poll(uv_poll_t *poll, int status, int events) {
    (void)status, (void)events;
    ds_watch *w = poll->data;
    _Alignas(struct inotify_event) char buf[32768];
    for (int round = 0; round < 8; round++) { /* the rest comes in the next turn of the loop */
        ssize_t n = read(w->fd, buf, sizeof buf);
        if (n <= 0)
            return;
        for (char *p = buf; p < buf + n;) {
            const struct inotify_event *ev = (const struct inotify_event *)(void *)p;
            handle(w, ev);
            p += sizeof *ev + ev->len;
        }
    }
}

void ds_watch_tick(ds_watch *w) {
    double now = now_ms();
    for (tree *t = w->trees; t; t = t->next) {
        struct stat st;
        if (t->lost && stat(t->root, &st) == 0) {
            t->lost = 0;
            push_work(w, t, t->root);
            touch(t);
        }
        if (t->first_ms == 0)
            continue;
        int quiet = now - t->last_ms >= w->o.settle_ms;
        int overdue = now - t->first_ms >= 12.0 * w->o.settle_ms;
        if (quiet || overdue) {
            t->first_ms = 0;
            w->o.changed(w->o.ctx, t->id);
        }
    }
}

/* ---- folders ---- */

void ds_watch_add(ds_watch *w, int64_t id, const char *root) {
    if (find(w, id))
        return;
    tree *t = ds_xcalloc(1, sizeof *t);
    t->id = id;
    t->root = ds_xstrdup(root);
    t->added = ds_monotonic();
    t->next = w->trees;
    w->trees = t;
    t->same = w->by_id[(uint64_t)id % BUCKETS];
    w->by_id[(uint64_t)id % BUCKETS] = t;
    push_work(w, t, root);
}

void ds_watch_remove(ds_watch *w, int64_t id) {
    for (tree **p = &w->trees; *p; p = &(*p)->next) {
        tree *t = *p;
        if (t->id != id)
            continue;
        *p = t->next;
        for (tree **b = &w->by_id[(uint64_t)id % BUCKETS]; *b; b = &(*b)->same)
            if (*b == t) {
                *b = t->same;
                break;
            }
        for (work **q = &w->work; *q;) {
            work *k = *q;
            if (k->owner != t) {
                q = &k->next;
                continue;
            }
            *q = k->next;
            if (k->dir)
                closedir(k->dir);
            free(k->path);
            free(k);
        }
        drop_entries(w, t, NULL);
        free(t->root);
        free(t);
        return;
    }
}

void ds_watch_keep(ds_watch *w, const int64_t *ids, int n) {
    for (tree *t = w->trees; t && !n; t = t->next)
        t->keep = 0;
    for (int i = 0; i < n; i++) {
        tree *t = find(w, ids[i]);
        if (t)
            t->keep = 1;
    }
}

void ds_watch_drop_others(ds_watch *w) {
    for (tree *t = w->trees, *next; t; t = next) {
        next = t->next;
        if (!t->keep)
            ds_watch_remove(w, t->id);
    }
}

int ds_watch_arming(const ds_watch *w, int64_t id) {
    const tree *t = find(w, id);
    return t && t->pending > 0;
}

double ds_watch_arming_seconds(const ds_watch *w, int64_t id) {
    const tree *t = find(w, id);
    return t && t->pending ? ds_monotonic() - t->added : 0;
}

uint64_t ds_watch_overflows(const ds_watch *w) { return w->overflows; }
unsigned ds_watch_dirs(const ds_watch *w) { return w->dirs; }
const char *ds_watch_note(const ds_watch *w) { return w->note; }

int ds_watch_open(ds_watch **out, uv_loop_t *loop, const ds_watch_options *o, ds_error *err) {
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (fd < 0)
        return ds_fail(err, DS_EFAILED,
                       "cannot watch folders: %s (see sysctl fs.inotify.max_user_instances)",
                       strerror(errno));
    ds_watch *w = ds_xcalloc(1, sizeof *w);
    w->loop = loop;
    w->fd = fd;
    w->o = *o;
    uv_poll_init(loop, &w->poll, fd);
    uv_idle_init(loop, &w->idle);
    w->poll.data = w->idle.data = w;
    w->handles = 2;
    uv_poll_start(&w->poll, UV_READABLE, on_poll);
    *out = w;
    return 0;
}

static void on_closed(uv_handle_t *h) {
    ds_watch *w = h->data;
    if (--w->handles)
        return;
    close(w->fd);
    free(w);
}

void ds_watch_close(ds_watch *w) {
    if (!w)
        return;
    while (w->trees)
        ds_watch_remove(w, w->trees->id);
    uv_close((uv_handle_t *)&w->poll, on_closed);
    uv_close((uv_handle_t *)&w->idle, on_closed);
}
