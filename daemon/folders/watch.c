/* daemon/folders/watch.c - inotify over dataset folders.
 *
 * A directory that two datasets share has one watch descriptor (the kernel gives the same number
 * again) and one entry for each dataset in the same hash bucket.  An anchor is a folder above
 * roots: of interest is only whether it moves.
 *
 * Helpers add watches to the descriptor of this process.  Events can arrive before the answer that
 * says which folder their number is: then the trees that are being walked are walked once more.
 */
#include "daemon/folders/watch.h"

#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#define BUCKETS 1024
#define ARMING_SECONDS 2.0
#define FRESH_SECONDS 1.0
#define GONE (IN_MOVE_SELF | IN_DELETE_SELF | IN_IGNORED | IN_UNMOUNT)

enum { WALK_AGAIN = 1, WALK_ANEW };

typedef struct tree {
    struct tree *next, *same; /* all trees; trees of the same hash bucket */
    int64_t id;
    char *root, *text;
    int hints;
    struct question *asked;   /* questions about it that are not answered */
    unsigned walks;           /* of them, those that watch */
    double walk_since;        /* monotonic seconds */
    double seen;              /* the last answer */
    uint64_t dev, ino;        /* what is watched as its root */
    double first_ms, last_ms; /* of changes not yet reported; first_ms 0: none */
    enum ds_reach reach;
    int64_t since_ms; /* wall clock: of this reach */
    double lost_at, retry_at;
    int told;   /* somebody was told of the reach */
    int again;  /* WALK_*: when the questions are answered */
    int verify; /* its root may be another one */
    int stale;  /* changes may have been missed: report one when it is watched */
    int keep;   /* marked by ds_watch_keep */
} tree;

typedef struct entry {
    struct entry *next;
    int wd;
    tree *owner; /* NULL: an anchor */
    char *path;
} entry;

typedef struct question {
    struct question *next;
    struct ds_watch *w;
    tree *t;
    ds_ask *ask;
    enum { CHECK, ROOT, SUB } kind;
} question;

struct ds_watch {
    uv_loop_t *loop;
    uv_poll_t poll;
    int fd, handles;
    ds_helpers *helpers;
    ds_watch_options o;
    tree *trees, *by_id[BUCKETS];
    entry *buckets[BUCKETS];
    unsigned dirs;
    int verify, sweep; /* some tree's flag is set; anchors may be of no use */
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

/* path is dir or lies in it. */
static int within(const char *path, const char *dir) {
    size_t n = strlen(dir);
    return strncmp(path, dir, n) == 0 && (path[n] == 0 || path[n] == '/');
}

/* ---- watch entries ---- */

static void entry_free(ds_watch *w, entry *e) {
    w->dirs -= e->owner != NULL;
    free(e->path);
    free(e);
}

/* Removes *p, and its watch when nobody else needs it. */
static void drop_one(ds_watch *w, entry **p) {
    entry *e = *p;
    int wd = e->wd, shared = 0;
    *p = e->next;
    entry_free(w, e);
    for (entry *o = w->buckets[wd % BUCKETS]; o; o = o->next)
        shared |= o->wd == wd;
    if (!shared)
        inotify_rm_watch(w->fd, wd);
}

/* Drop the entries of a tree whose path is `prefix` or below it (any: NULL). */
static void drop_entries(ds_watch *w, const tree *owner, const char *prefix) {
    for (int b = 0; b < BUCKETS; b++)
        for (entry **p = &w->buckets[b]; *p;) {
            entry *e = *p;
            if (e->owner == owner && (!prefix || within(e->path, prefix)))
                drop_one(w, p);
            else
                p = &e->next;
        }
}

static void add_entry(ds_watch *w, tree *owner, int wd, const char *path) {
    for (entry *e = w->buckets[wd % BUCKETS]; e; e = e->next)
        if (e->wd == wd && e->owner == owner) {
            if (strcmp(e->path, path) != 0) { /* moved within the tree, or a moved anchor */
                free(e->path);
                e->path = ds_xstrdup(path);
            }
            return;
        }
    entry *e = ds_xcalloc(1, sizeof *e);
    e->wd = wd;
    e->owner = owner;
    e->path = ds_xstrdup(path);
    e->next = w->buckets[wd % BUCKETS];
    w->buckets[wd % BUCKETS] = e;
    w->dirs += owner != NULL;
}

/* Anchors that no root lies under any more.  Each time some tree went: seldom. */
static void sweep_anchors(ds_watch *w) {
    w->sweep = 0;
    for (int b = 0; b < BUCKETS; b++)
        for (entry **p = &w->buckets[b]; *p;) {
            entry *e = *p;
            const tree *t = w->trees;
            while (!e->owner && t && !within(t->root, e->path))
                t = t->next;
            if (!e->owner && !t)
                drop_one(w, p);
            else
                p = &e->next;
        }
}

/* ---- questions ---- */

static void ask(ds_watch *w, tree *t, int kind, const char *path);

static void set_reach(ds_watch *w, tree *t, enum ds_reach is, const char *text) {
    double now = ds_monotonic();
    int good = is == DS_REACH_OK, first = good && t->reach == DS_REACH_UNKNOWN;
    if (is == t->reach && (good || !strcmp(text, t->text ? t->text : ""))) {
        t->retry_at = now + fmin(30, fmax(0.1, (now - t->lost_at) / 20));
        return;
    }
    if (t->reach == DS_REACH_OK || t->reach == DS_REACH_UNKNOWN)
        t->lost_at = now;
    if (t->reach != DS_REACH_UNKNOWN)
        touch(t); /* what a scan finds will be another thing */
    t->retry_at = now + 0.1;
    t->reach = is;
    t->since_ms = ds_now_ms();
    free(t->text);
    t->text = ds_xstrdup(good ? "" : text);
    t->told = first || !w->o.reach || w->o.reach(w->o.ctx, t->id, is, t->text) == 0;
}

/* Walks it from its root; anew: with nothing left of what was watched. */
static void walk(ds_watch *w, tree *t, int how) {
    if (t->asked) {
        t->again = how > t->again ? how : t->again;
        return;
    }
    t->again = 0;
    if (how == WALK_ANEW)
        drop_entries(w, t, NULL);
    ask(w, t, t->hints ? ROOT : CHECK, t->root);
}

static enum ds_reach reach_of(const ds_answer *a) {
    switch (a->place) {
    case DS_ROOT_OK: return DS_REACH_OK;
    case DS_ROOT_MISSING: return DS_REACH_MISSING;
    case DS_ROOT_LINK: return DS_REACH_LINK;
    case DS_ROOT_REFUSED: return DS_REACH_REFUSED;
    default: return DS_REACH_UNREACHABLE;
    }
}

static void note_full(ds_watch *w, const tree *t, int full) {
    char before = w->note[0];
    if (full == 2)
        snprintf(w->note, sizeof w->note,
                 "more than %u directories: the rest is seen by the periodic rescan only",
                 w->o.max_dirs);
    else if (full)
        snprintf(w->note, sizeof w->note,
                 "the kernel's limit of watches is reached: raise sysctl "
                 "fs.inotify.max_user_watches; until then the periodic rescan sees changes");
    if (full && !before)
        ds_log(DS_LOG_WARN, "cannot watch all of '%s': %s", t->root, w->note);
}

static void take_records(ds_watch *w, tree *t, const ds_answer *a) {
    const char *p = a->text, *end = p + a->size;
    while (end - p > (ptrdiff_t)sizeof(int32_t) + 1) {
        int32_t wd;
        memcpy(&wd, p, sizeof wd);
        p += sizeof wd;
        char kind = *p++;
        size_t n = strnlen(p, (size_t)(end - p));
        if (p + n >= end || wd < 0)
            return;
        add_entry(w, kind == 'a' ? NULL : t, wd, p);
        p += n + 1;
    }
}

static void unlink_question(question *q) {
    for (question **p = &q->t->asked; *p; p = &(*p)->next)
        if (*p == q) {
            *p = q->next;
            break;
        }
    q->t->walks -= q->kind != CHECK;
    free(q);
}

static void answered(ds_watch *w, tree *t) {
    if (t->again) {
        t->stale = 1;
        walk(w, t, t->again);
        return;
    }
    if (t->stale) {
        t->stale = 0;
        touch(t);
    }
    if (w->o.armed)
        w->o.armed(w->o.ctx, t->id);
}

static void on_answer(void *ctx, const ds_answer *a) {
    question *q = ctx;
    ds_watch *w = q->w;
    tree *t = q->t;
    int good = a->place == DS_ROOT_OK, sub = q->kind == SUB;
    t->seen = ds_monotonic();
    if (good && q->kind != CHECK)
        take_records(w, t, a);
    note_full(w, t, a->full);
    if (!a->last)
        return;
    if (good && q->kind == CHECK && t->hints && (a->dev != t->dev || a->ino != t->ino))
        t->again = WALK_ANEW;
    if (good && q->kind == ROOT) {
        t->dev = a->dev;
        t->ino = a->ino;
    }
    unlink_question(q);
    if (good)
        set_reach(w, t, DS_REACH_OK, "");
    else if (sub && a->place != DS_ROOT_REFUSED) {
        /* a folder that went as it came; or all of it is gone, which the root says */
        if (a->place == DS_ROOT_ERROR)
            t->again = WALK_AGAIN;
    } else {
        drop_entries(w, t, NULL);
        set_reach(w, t, reach_of(a), a->size ? a->text : "");
    }
    if (!t->asked)
        answered(w, t);
}

static void on_late(void *ctx) {
    question *q = ctx;
    q->t->stale = 1;
    set_reach(q->w, q->t, DS_REACH_UNREACHABLE, "its file system does not answer");
}

static void ask(ds_watch *w, tree *t, int kind, const char *path) {
    ds_question what = {.op = kind == CHECK ? DS_ASK_ROOT : DS_ASK_WATCH,
                        .room = w->o.max_dirs > w->dirs ? w->o.max_dirs - w->dirs : 0};
    snprintf(what.path, sizeof what.path, "%s", path);
    snprintf(what.word, sizeof what.word, "%s", kind == SUB ? "sub" : "");
    question *q = ds_xcalloc(1, sizeof *q);
    q->w = w;
    q->t = t;
    q->kind = kind;
    q->next = t->asked;
    t->asked = q;
    if (kind != CHECK && !t->walks++)
        t->walk_since = ds_monotonic();
    ds_ask_to to = {on_answer, on_late, q};
    q->ask = ds_helpers_ask(w->helpers, &what, &to);
}

/* ---- events ---- */

static void verify(ds_watch *w, tree *t) { w->verify = t->verify = 1; }

static void overflow(ds_watch *w) {
    w->overflows++;
    ds_log(DS_LOG_WARN, "the kernel dropped folder events: every dataset is looked at again");
    for (tree *t = w->trees; t; t = t->next) {
        if (t->hints)
            touch(t);
        verify(w, t);
    }
}

/* The folder itself went away, or moved: what is at its path now? */
static void gone(ds_watch *w, const entry *e) {
    if (e->owner && !strcmp(e->path, e->owner->root))
        verify(w, e->owner);
    for (tree *t = e->owner ? NULL : w->trees; t; t = t->next)
        if (within(t->root, e->path))
            verify(w, t);
}

/* Of a folder that no answer has named yet. */
static void unknown(ds_watch *w, const struct inotify_event *ev) {
    int walking = 0;
    for (tree *t = w->trees; t; t = t->next)
        if (t->walks) {
            walking = 1;
            t->stale = 1;
            if (!t->again)
                t->again = WALK_AGAIN;
        }
    if (!walking && !(ev->mask & IN_IGNORED))
        inotify_rm_watch(w->fd, ev->wd);
}

static void handle(ds_watch *w, const struct inotify_event *ev) {
    if (ev->mask & IN_Q_OVERFLOW) {
        overflow(w);
        return;
    }
    int known = 0;
    for (entry **p = &w->buckets[ev->wd % BUCKETS]; *p;) {
        entry *e = *p;
        if (e->wd != ev->wd) {
            p = &e->next;
            continue;
        }
        known = 1;
        if (e->owner)
            touch(e->owner);
        if (ev->mask & GONE)
            gone(w, e);
        if (ev->mask & (IN_IGNORED | IN_UNMOUNT)) {
            *p = e->next;
            entry_free(w, e);
        } else if (!e->owner && (ev->mask & GONE))
            drop_one(w, p); /* what is in its place gets its own */
        else
            p = &e->next;
    }
    if (!known && !(ev->mask & IN_IGNORED))
        unknown(w, ev);
    if (!(ev->mask & IN_ISDIR) || !ev->len || ev->name[0] == '.')
        return;
    for (entry *e = w->buckets[ev->wd % BUCKETS]; e; e = e->next) {
        if (e->wd != ev->wd || !e->owner)
            continue;
        char path[PATH_MAX];
        if (snprintf(path, sizeof path, "%s/%s", e->path, ev->name) >= (int)sizeof path)
            continue;
        if (ev->mask & (IN_CREATE | IN_MOVED_TO))
            ask(w, e->owner, SUB, path);
        else if (ev->mask & IN_MOVED_FROM) {
            drop_entries(w, e->owner, path); /* they would report under a stale name */
            return;                          /* the bucket may have changed under us */
        }
    }
}

static void verify_marked(ds_watch *w) {
    if (!w->verify)
        return;
    w->verify = 0;
    for (tree *t = w->trees; t; t = t->next)
        if (t->verify) {
            t->verify = 0;
            walk(w, t, WALK_ANEW);
        }
}

static void on_poll(uv_poll_t *poll, int status, int events) {
    (void)status, (void)events;
    ds_watch *w = poll->data;
    _Alignas(struct inotify_event) char buf[32768];
    for (int round = 0; round < 8; round++) { /* the rest comes in the next turn of the loop */
        ssize_t n = read(w->fd, buf, sizeof buf);
        if (n <= 0)
            break;
        for (char *p = buf; p < buf + n;) {
            const struct inotify_event *ev = (const struct inotify_event *)(void *)p;
            handle(w, ev);
            p += sizeof *ev + ev->len;
        }
    }
    verify_marked(w);
}

void ds_watch_verify(ds_watch *w) {
    for (tree *t = w->trees; t; t = t->next)
        if (!t->asked)
            ask(w, t, CHECK, t->root);
}

void ds_watch_tick(ds_watch *w) {
    double now = now_ms();
    ds_helpers_tick(w->helpers);
    if (ds_helpers_mounts_changed(w->helpers))
        for (tree *t = w->trees; t; t = t->next)
            verify(w, t);
    verify_marked(w);
    if (w->sweep)
        sweep_anchors(w);
    for (tree *t = w->trees; t; t = t->next) {
        if (!t->told)
            t->told = w->o.reach(w->o.ctx, t->id, t->reach, t->text) == 0;
        if (t->reach > DS_REACH_OK && !t->asked && now / 1000 >= t->retry_at)
            walk(w, t, WALK_ANEW);
        if (t->first_ms == 0)
            continue;
        int quiet = now - t->last_ms >= w->o.settle_ms;
        int overdue = now - t->first_ms >= 12.0 * w->o.settle_ms;
        if (quiet || overdue) {
            double first = t->first_ms;
            t->first_ms = 0;
            if (t->hints && w->o.changed(w->o.ctx, t->id))
                t->first_ms = first; /* it could not be written down */
        }
    }
}

/* ---- folders ---- */

void ds_watch_add(ds_watch *w, int64_t id, const char *root, int hints) {
    tree *t = find(w, id);
    hints = hints && w->fd >= 0;
    if (t && t->hints == hints && !strcmp(t->root, root))
        return;
    if (t)
        ds_watch_remove(w, id);
    t = ds_xcalloc(1, sizeof *t);
    t->id = id;
    t->root = ds_xstrdup(root);
    for (size_t n = strlen(root); n > 1 && t->root[n - 1] == '/'; n--)
        t->root[n - 1] = 0;
    t->hints = hints;
    t->told = 1;
    t->next = w->trees;
    w->trees = t;
    t->same = w->by_id[(uint64_t)id % BUCKETS];
    w->by_id[(uint64_t)id % BUCKETS] = t;
    walk(w, t, WALK_AGAIN);
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
        while (t->asked) {
            ds_ask_forget(t->asked->ask);
            unlink_question(t->asked);
        }
        drop_entries(w, t, NULL);
        w->sweep = 1;
        free(t->root);
        free(t->text);
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

enum ds_gate ds_watch_gate(ds_watch *w, int64_t id) {
    tree *t = find(w, id);
    double now = ds_monotonic();
    if (!t)
        return DS_GATE_OPEN;
    if (t->reach == DS_REACH_UNREACHABLE)
        return DS_GATE_SHUT;
    if (t->reach == DS_REACH_UNKNOWN || !t->told)
        return DS_GATE_WAIT;
    if (t->walks && now - t->walk_since < ARMING_SECONDS)
        return DS_GATE_WAIT;
    if (now - t->seen <= FRESH_SECONDS)
        return DS_GATE_OPEN;
    for (question *q = t->asked; q; q = q->next)
        if (q->kind == CHECK)
            return DS_GATE_WAIT;
    ask(w, t, CHECK, t->root);
    return DS_GATE_WAIT;
}

enum ds_reach ds_watch_reach(const ds_watch *w, int64_t id, const char **text, int64_t *since_ms) {
    const tree *t = find(w, id);
    *text = t && t->text ? t->text : "";
    *since_ms = t ? t->since_ms : 0;
    return t ? t->reach : DS_REACH_UNKNOWN;
}

const char *ds_reach_name(enum ds_reach reach) {
    static const char *const names[] = {"unknown", "ok",      "missing",
                                        "link",    "refused", "unreachable"};
    return names[reach];
}

uint64_t ds_watch_overflows(const ds_watch *w) { return w->overflows; }
unsigned ds_watch_dirs(const ds_watch *w) { return w->dirs; }
const char *ds_watch_note(const ds_watch *w) { return w->note; }
ds_helpers *ds_watch_helpers(ds_watch *w) { return w->helpers; }

ds_watch *ds_watch_open(uv_loop_t *loop, const ds_watch_options *o) {
    ds_watch *w = ds_xcalloc(1, sizeof *w);
    w->loop = loop;
    w->o = *o;
    w->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (w->fd < 0) {
        snprintf(w->note, sizeof w->note,
                 "folders are not watched (%s): raise sysctl fs.inotify.max_user_instances and "
                 "restart; until then the periodic rescan sees changes",
                 strerror(errno));
        ds_log(DS_LOG_WARN, "%s", w->note);
    } else if (!uv_poll_init(loop, &w->poll, w->fd)) {
        w->poll.data = w;
        w->handles = 1;
        uv_poll_start(&w->poll, UV_READABLE, on_poll);
    }
    w->helpers = ds_helpers_open(loop, o->self, o->state, w->fd);
    return w;
}

static void free_watch(ds_watch *w) {
    if (w->fd >= 0)
        close(w->fd);
    free(w);
}

static void on_closed(uv_handle_t *h) { free_watch(h->data); }

void ds_watch_close(ds_watch *w) {
    if (!w)
        return;
    ds_helpers_close(w->helpers); /* no answer comes any more */
    for (tree *t; (t = w->trees);) {
        w->trees = t->next;
        while (t->asked)
            unlink_question(t->asked);
        free(t->root);
        free(t->text);
        free(t);
    }
    for (int b = 0; b < BUCKETS; b++)
        for (entry *e; (e = w->buckets[b]);) {
            w->buckets[b] = e->next;
            entry_free(w, e);
        }
    if (w->handles)
        uv_close((uv_handle_t *)&w->poll, on_closed);
    else
        free_watch(w);
}
