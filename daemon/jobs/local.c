/* daemon/jobs/local.c - see local.h. */
#include "daemon/jobs/local.h"

#include "base/fs.h"
#include "base/mem.h"
#include "contract/job.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/queue.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRAMPOLINE "--run-worker" /* argv: self TRAMPOLINE PARENT NICE WORKER DIR */

typedef struct child {
    LIST_ENTRY(child) link;
    uv_process_t handle;
    ds_process process;
    int forgotten; /* its handle is closed: whoever asks about it reaps it */
    void (*on_exit)(void *ctx, int exit_code, int signal);
    void *ctx;
} child;

typedef struct local {
    ds_executor ops;
    uv_loop_t *loop;
    ds_local_options o;
    LIST_HEAD(, child) children;
} local;

/* Settings that a kernel may not have: what cannot be written is left as it is. */
static void write_if_there(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (write(fd, text, strlen(text)) < 0)
        errno = 0;
    close(fd);
}

void ds_local_trampoline(int argc, char **argv) {
    if (argc != 6 || strcmp(argv[1], TRAMPOLINE) != 0)
        return;
    setsid();
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != (pid_t)strtol(argv[2], NULL, 10))
        _exit(DS_EXIT_STOPPED); /* the daemon died before the line above */
    setpriority(PRIO_PROCESS, 0, (int)strtol(argv[3], NULL, 10));
    /* setsid made a scheduling group of its own; niceness inside it would mean nothing outside */
    write_if_there("/proc/self/autogroup", argv[3]);
    write_if_there("/proc/self/oom_score_adj", "500");
    char *args[] = {argv[4], "run", argv[5], NULL};
    execv(argv[4], args);
    fprintf(stderr, "cannot run worker '%s': %s\n", argv[4], strerror(errno));
    _exit(errno == ENOENT || errno == EACCES ? DS_EXIT_PERMISSION : DS_EXIT_FAILED);
}

/* A child that nobody has waited for yet: its pid is nobody else's, whatever can be read of it. */
static child *find(local *x, const char *identity) {
    child *c;
    LIST_FOREACH(c, &x->children, link)
        if (!strcmp(c->process.identity, identity))
            return c;
    return NULL;
}

static void on_freed(uv_handle_t *h) { free(h->data); }
static void on_closed(uv_handle_t *h) { ((child *)h->data)->forgotten = 1; }

static void on_exit_cb(uv_process_t *handle, int64_t status, int signal) {
    child *c = handle->data;
    LIST_REMOVE(c, link);
    c->on_exit(c->ctx, signal ? -1 : (int)status, signal);
    uv_close((uv_handle_t *)handle, on_freed);
}

static int start(ds_executor *x, const ds_launch *l, ds_process *out, ds_error *err) {
    local *own = (local *)x;
    const ds_local_options *o = &own->o;
    char log[PATH_MAX], parent[24], niceness[24];
    ds_fs_join(log, sizeof log, l->dir, DS_FILE_LOG);
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    if (fd < 0)
        return ds_fail_errno(err, "cannot open '%s'", log);
    snprintf(parent, sizeof parent, "%ld", (long)getpid());
    snprintf(niceness, sizeof niceness, "%d", o->nice);
    char *args[] = {
        (char *)(uintptr_t)o->self, TRAMPOLINE, parent, niceness, (char *)(uintptr_t)o->worker,
        (char *)(uintptr_t)l->dir,  NULL};
    uv_stdio_container_t stdio[3] = {{.flags = UV_IGNORE}};
    for (int i = 1; i < 3; i++) {
        stdio[i].flags = UV_INHERIT_FD;
        stdio[i].data.fd = fd;
    }
    child *c = ds_xcalloc(1, sizeof *c);
    *c = (child){.on_exit = l->on_exit, .ctx = l->ctx};
    c->handle.data = c;
    uv_process_options_t options = {
        .exit_cb = on_exit_cb, .file = o->self, .args = args, .stdio = stdio, .stdio_count = 3};
    int rc = uv_spawn(own->loop, &c->handle, &options);
    close(fd);
    if (rc) {
        uv_close((uv_handle_t *)&c->handle, on_freed);
        return ds_fail(err, DS_EBUSY, "cannot start worker '%s' by way of '%s': %s", o->worker,
                       o->self, uv_strerror(rc));
    }
    ds_process_identify(c->handle.pid, &c->process); /* one that ended is reaped by the loop */
    *out = c->process;
    LIST_INSERT_HEAD(&own->children, c, link);
    return 0;
}

static void signal_to(ds_executor *x, const char *identity, enum ds_exec_signal what) {
    pid_t pid = (pid_t)ds_process_pid(identity);
    int sig = what == DS_EXEC_KILL ? SIGKILL : SIGTERM;
    if (!find((local *)x, identity) && !ds_process_alive(identity))
        return;
    if (what == DS_EXEC_KILL)
        kill(-pid, sig);
    kill(pid, sig);
}

static enum ds_exec_state poll_of(ds_executor *x, const char *identity) {
    child *c = find((local *)x, identity);
    if (c && c->forgotten && waitpid(c->handle.pid, NULL, WNOHANG) != 0) {
        LIST_REMOVE(c, link);
        free(c);
        return DS_EXEC_GONE;
    }
    if (!c && !ds_process_alive(identity))
        return DS_EXEC_GONE;
    return ds_process_stopped(identity) ? DS_EXEC_HALTED : DS_EXEC_RUNS;
}

static void forget(ds_executor *x, const char *identity) {
    child *c = find((local *)x, identity);
    if (c)
        uv_close((uv_handle_t *)&c->handle, on_closed);
}

ds_executor *ds_local_new(uv_loop_t *loop, const ds_local_options *o) {
    local *x = ds_xcalloc(1, sizeof *x);
    x->ops = (ds_executor){start, signal_to, poll_of, forget};
    x->loop = loop;
    x->o = *o;
    LIST_INIT(&x->children);
    return &x->ops;
}

void ds_local_free(ds_executor *executor) {
    local *x = (local *)executor;
    child *c;
    if (!x)
        return;
    while ((c = LIST_FIRST(&x->children))) { /* forgotten ones that are there still */
        LIST_REMOVE(c, link);
        free(c);
    }
    free(x);
}
