/* daemon/folders/helper.c - the daemon's side of helper.h: lanes of questions, helpers, deadlines.
 * */
#include "daemon/folders/helper.h"

#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MOST_STUCK_IN_LANE 3
#define MOST_STUCK 24
#define IDLE_SECONDS 60.0
#define PACKETS_AT_ONCE 16 /* read before others have their turn */

typedef struct proc proc;
typedef struct lane lane;

struct ds_ask {
    ds_ask *next; /* in its lane's queue */
    lane *lane;
    proc *proc; /* that has it; NULL: it waits */
    uint32_t op, flag, room;
    char word[20], *path;
    ds_ask_to to; /* answer NULL: forgotten */
    double since; /* of waiting, then of the last sign of life */
    int late;
};

/* One process.  It is freed when it has ended and its descriptors are closed. */
struct proc {
    proc *next;
    struct ds_helpers *h;
    lane *lane;
    uv_process_t process;
    uv_poll_t poll;
    int fd, running, handles, stuck, answering;
    ds_ask *ask; /* what it works at */
    double idle_since;
};

struct lane {
    lane *next;
    char *mount;
    int walks;
    ds_ask *first, **last;
    proc *proc; /* the one that takes questions; NULL: none yet */
    int stuck;  /* processes that were set aside */
};

struct ds_helpers {
    uv_loop_t *loop;
    const char *self, *state;
    int inotify, closing;
    double patience;
    lane *lanes;
    proc *procs;
    unsigned stuck;
    uv_poll_t mounts;
    int mounts_fd, mounts_changed, handles;
    char *table; /* of /proc/self/mountinfo, NULL: to be read again */
    ds_answer packet;
};

/* ---- which mount a path is on ---- */

/* Octal escapes of the kernel, in place: "\040" is a space. */
static void unescape(char *s) {
    char *to = s;
    for (; *s; s++)
        if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] && s[3]) {
            *to++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
            s += 3;
        } else
            *to++ = *s;
    *to = 0;
}

/* The mount points, zero-terminated one after the other, an empty one last.  Reading the table asks
 * no file system. */
static void read_mounts(ds_helpers *h) {
    ds_buf b = {0};
    char *line = NULL;
    size_t room = 0;
    FILE *f = fopen("/proc/self/mountinfo", "re");
    while (f && getline(&line, &room, f) > 0) {
        char *p = line; /* id parent major:minor root MOUNT-POINT ... */
        for (int i = 0; i < 4 && p; i++)
            p = strchr(p + (i > 0), ' ');
        char *end = p ? strchr(++p, ' ') : NULL;
        if (!end)
            continue;
        *end = 0;
        unescape(p);
        ds_buf_add(&b, p, strlen(p) + 1);
    }
    if (f)
        fclose(f);
    free(line);
    ds_buf_add(&b, "", 1);
    free(h->table);
    h->table = b.data;
}

static const char *mount_of(ds_helpers *h, const char *path) {
    const char *best = "/";
    if (!h->table)
        read_mounts(h);
    for (const char *m = h->table; *m; m += strlen(m) + 1) {
        size_t n = strlen(m);
        if (n > strlen(best) && !strncmp(path, m, n) && (path[n] == '/' || !path[n]))
            best = m;
    }
    return best;
}

static lane *lane_of(ds_helpers *h, const ds_question *q) {
    const char *mount = mount_of(h, q->path);
    int walks = q->op == DS_ASK_WATCH;
    for (lane *l = h->lanes; l; l = l->next)
        if (l->walks == walks && !strcmp(l->mount, mount))
            return l;
    lane *l = ds_xcalloc(1, sizeof *l);
    l->mount = ds_xstrdup(mount);
    l->walks = walks;
    l->last = &l->first;
    l->next = h->lanes;
    h->lanes = l;
    return l;
}

static void free_ask(ds_ask *a) {
    if (a)
        free(a->path);
    free(a);
}

/* ---- processes ---- */

static void serve(ds_helpers *h, lane *l);
static void on_packet(uv_poll_t *poll, int status, int events);

static void on_handle_closed(uv_handle_t *handle) {
    proc *p = handle->data;
    if (--p->handles == 0)
        free(p);
}

/* Its socket is closed, so that it ends when it can; its process handle stays until it has. */
static void let_go(proc *p) {
    if (p->fd < 0)
        return;
    uv_close((uv_handle_t *)&p->poll, on_handle_closed);
    close(p->fd);
    p->fd = -1;
    if (p->lane->proc == p)
        p->lane->proc = NULL;
    if (p->stuck) {
        p->stuck = 0;
        p->lane->stuck--;
        p->h->stuck--;
    }
}

static void unlink_proc(proc *p) {
    for (proc **q = &p->h->procs; *q; q = &(*q)->next)
        if (*q == p) {
            *q = p->next;
            break;
        }
    uv_close((uv_handle_t *)&p->process, on_handle_closed);
}

static void finish(proc *p, const ds_answer *a) {
    ds_ask *ask = p->ask;
    ds_ask_to to = ask->to;
    if (a->last) {
        p->ask = NULL;
        p->idle_since = ds_monotonic();
        free_ask(ask);
    } else {
        ask->since = ds_monotonic();
        ask->late = 0;
    }
    if (to.answer)
        to.answer(to.ctx, a);
}

/* What it was asked is answered with this, when it can answer no more. */
static void give_up(proc *p) {
    let_go(p);
    if (!p->ask)
        return;
    ds_answer a; /* its own: this can happen while another packet is being read */
    memset(&a, 0, offsetof(ds_answer, text));
    a.last = 1;
    a.code = DS_EBUSY;
    a.place = DS_ROOT_ERROR;
    a.size = (uint32_t)snprintf(a.text, sizeof a.text, "the helper that looked at it ended") + 1;
    finish(p, &a);
}

static void on_exit_cb(uv_process_t *process, int64_t status, int signal) {
    (void)status, (void)signal;
    proc *p = process->data;
    ds_helpers *h = p->h;
    lane *l = p->lane;
    p->running = 0;
    give_up(p);
    unlink_proc(p);
    serve(h, l);
}

static proc *start(ds_helpers *h, lane *l) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        return NULL;
    proc *p = ds_xcalloc(1, sizeof *p);
    char *args[] = {(char *)(uintptr_t)h->self, DS_HELPER_ARG, (char *)(uintptr_t)h->state, NULL};
    uv_stdio_container_t stdio[4] = {{.flags = UV_INHERIT_FD, .data.fd = pair[1]},
                                     {.flags = UV_IGNORE},
                                     {.flags = UV_INHERIT_FD, .data.fd = 2},
                                     {.flags = UV_INHERIT_FD, .data.fd = h->inotify}};
    uv_process_options_t o = {.exit_cb = on_exit_cb,
                              .file = h->self,
                              .args = args,
                              .stdio = stdio,
                              .stdio_count = h->inotify < 0 ? 3 : 4};
    p->h = h;
    p->lane = l;
    p->fd = pair[0];
    p->process.data = p->poll.data = p;
    int rc = uv_spawn(h->loop, &p->process, &o);
    close(pair[1]);
    p->handles = 1;
    if (rc) {
        ds_log(DS_LOG_WARN, "cannot start a helper for '%s': %s", l->mount, uv_strerror(rc));
        close(pair[0]);
        uv_close((uv_handle_t *)&p->process, on_handle_closed);
        return NULL;
    }
    fcntl(p->fd, F_SETFL, O_NONBLOCK);
    p->running = 1;
    p->handles = 2;
    uv_poll_init(h->loop, &p->poll, p->fd);
    uv_poll_start(&p->poll, UV_READABLE, on_packet);
    p->next = h->procs;
    h->procs = p;
    l->proc = p;
    return p;
}

/* ---- questions ---- */

/* Gives the next question of a lane to its helper, if that has nothing to do. */
static void serve(ds_helpers *h, lane *l) {
    while (l->first && !h->closing) {
        ds_ask *ask = l->first;
        proc *p = l->proc;
        if (!p && (l->stuck >= MOST_STUCK_IN_LANE || h->stuck >= MOST_STUCK))
            return;
        if (!p)
            p = start(h, l);
        if (!p || p->ask || p->answering)
            return;
        l->first = ask->next;
        if (!l->first)
            l->last = &l->first;
        ask->next = NULL;
        ask->proc = p;
        ask->since = ds_monotonic();
        p->ask = ask;
        ds_question q = {.op = ask->op, .flag = ask->flag, .room = ask->room};
        memcpy(q.word, ask->word, sizeof q.word);
        snprintf(q.path, sizeof q.path, "%s", ask->path);
        /* One that has ended does not take it; its exit, which comes, answers.  No callback is made
         * from here: who asks has not got the ask yet. */
        if (send(p->fd, &q, sizeof q, MSG_NOSIGNAL) != (ssize_t)sizeof q)
            ds_log(DS_LOG_DEBUG, "helper %ld takes no question", (long)p->process.pid);
    }
}

static void on_packet(uv_poll_t *poll, int status, int events) {
    (void)status, (void)events;
    proc *p = poll->data;
    ds_helpers *h = p->h;
    lane *l = p->lane;
    for (int i = 0; i < PACKETS_AT_ONCE && p->fd >= 0; i++) {
        ds_answer *a = &h->packet;
        ssize_t n = recv(p->fd, a, sizeof *a, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        if (n < (ssize_t)offsetof(ds_answer, text) || !p->ask ||
            (size_t)n != offsetof(ds_answer, text) + a->size) {
            give_up(p); /* its end, or nonsense */
            break;
        }
        int last = a->last;
        p->answering = 1; /* a callback that asks must not start it while the packet is read */
        finish(p, a);
        p->answering = 0;
        if (h->closing)
            return;
        if (last && p->stuck) { /* another one has its place by now */
            let_go(p);
            break;
        }
        if (last)
            break;
    }
    serve(h, l);
}

ds_ask *ds_helpers_ask(ds_helpers *h, const ds_question *q, const ds_ask_to *to) {
    ds_ask *ask = ds_xcalloc(1, sizeof *ask);
    ask->op = q->op;
    ask->flag = q->flag;
    ask->room = q->room;
    memcpy(ask->word, q->word, sizeof ask->word);
    ask->path = ds_xstrdup(q->path);
    ask->to = *to;
    ask->since = ds_monotonic();
    ask->lane = lane_of(h, q);
    *ask->lane->last = ask;
    ask->lane->last = &ask->next;
    serve(h, ask->lane);
    return ask;
}

void ds_ask_forget(ds_ask *a) {
    if (!a)
        return;
    a->to = (ds_ask_to){0};
    if (a->proc)
        return; /* its answer frees it */
    lane *l = a->lane;
    for (ds_ask **p = &l->first; *p; p = &(*p)->next)
        if (*p == a) {
            *p = a->next;
            if (!*p)
                l->last = p;
            break;
        }
    free_ask(a);
}

/* ---- deadlines ---- */

static void tell_late(ds_ask *a) {
    if (a->late)
        return;
    a->late = 1;
    if (a->to.late)
        a->to.late(a->to.ctx);
}

/* One whose asker has waited for too long and does not know; whoever is told may forget any ask. */
static ds_ask *overdue(const lane *l, double before) {
    for (ds_ask *a = l->first; a; a = a->next)
        if (!a->late && a->since < before)
            return a;
    return NULL;
}

static void set_aside(proc *p) {
    lane *l = p->lane;
    ds_log(DS_LOG_WARN, "'%.300s' has not answered for %g s: its helper %ld is set aside",
           p->ask->path, p->h->patience, (long)p->process.pid);
    p->stuck = 1;
    l->stuck++;
    p->h->stuck++;
    if (l->proc == p)
        l->proc = NULL;
}

void ds_helpers_tick(ds_helpers *h) {
    double now = ds_monotonic();
    for (proc *p = h->procs; p; p = p->next) {
        if (p->ask && !p->stuck && p->fd >= 0 && now - p->ask->since > h->patience) {
            set_aside(p);
            tell_late(p->ask);
        } else if (!p->ask && p->fd >= 0 && now - p->idle_since > IDLE_SECONDS && !p->lane->first)
            let_go(p);
    }
    for (lane *l = h->lanes; l; l = l->next) {
        serve(h, l);
        for (ds_ask *a; !l->proc && (a = overdue(l, now - h->patience));)
            tell_late(a);
    }
}

unsigned ds_helpers_stuck(const ds_helpers *h) { return h->stuck; }

/* ---- life cycle ---- */

static void on_mounts(uv_poll_t *poll, int status, int events) {
    (void)status, (void)events;
    ds_helpers *h = poll->data;
    h->mounts_changed = 1;
    free(h->table);
    h->table = NULL;
}

int ds_helpers_mounts_changed(ds_helpers *h) {
    int is = h->mounts_changed;
    h->mounts_changed = 0;
    return is;
}

ds_helpers *ds_helpers_open(uv_loop_t *loop, const char *self, const char *state, int inotify) {
    ds_helpers *h = ds_xcalloc(1, sizeof *h);
    const char *patience = getenv(DS_HELPER_ENV);
    h->loop = loop;
    h->self = self;
    h->state = state;
    h->inotify = inotify;
    h->patience = patience ? strtod(patience, NULL) : 0;
    if (!(h->patience >= 0.1 && h->patience <= 3600))
        h->patience = DS_HELPER_SECONDS;
    h->mounts_fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
    if (h->mounts_fd >= 0 && !uv_poll_init(loop, &h->mounts, h->mounts_fd)) {
        h->mounts.data = h;
        h->handles = 1;
        uv_poll_start(&h->mounts, UV_PRIORITIZED, on_mounts);
    }
    return h;
}

static void free_helpers(ds_helpers *h) {
    if (h->mounts_fd >= 0)
        close(h->mounts_fd);
    free(h->table);
    free(h);
}

static void on_mounts_closed(uv_handle_t *handle) { free_helpers(handle->data); }

void ds_helpers_close(ds_helpers *h) {
    if (!h)
        return;
    h->closing = 1;
    while (h->procs) {
        proc *p = h->procs;
        ds_ask *ask = p->ask;
        p->ask = NULL;
        free_ask(ask);
        let_go(p);
        if (p->running)
            uv_process_kill(&p->process, SIGKILL); /* one that hangs dies when it can */
        unlink_proc(p);
    }
    while (h->lanes) {
        lane *l = h->lanes;
        h->lanes = l->next;
        while (l->first) {
            ds_ask *a = l->first;
            l->first = a->next;
            free_ask(a);
        }
        free(l->mount);
        free(l);
    }
    if (h->handles)
        uv_close((uv_handle_t *)&h->mounts, on_mounts_closed);
    else
        free_helpers(h);
}
