/* daemon/jobs/child.c - spawning and signalling workers. */
#include "daemon/jobs/child.h"

#include "base/fs.h"
#include "base/log.h"
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
#include <unistd.h>

#define TRAMPOLINE "--run-worker" /* argv: self TRAMPOLINE PARENT NICE WORKER DIR */
#define LOG_KEEP (1 << 20)

struct ds_child {
    uv_process_t handle;
    ds_child_exit on_exit;
    void *ctx;
};

/* Settings that a kernel may not have: what cannot be written is left as it is. */
static void write_if_there(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (write(fd, text, strlen(text)) < 0)
        errno = 0;
    close(fd);
}

void ds_child_trampoline(int argc, char **argv) {
    if (argc != 6 || strcmp(argv[1], TRAMPOLINE) != 0)
        return;
    setsid();
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != (pid_t)strtol(argv[2], NULL, 10))
        _exit(143); /* the daemon died before the line above */
    setpriority(PRIO_PROCESS, 0, (int)strtol(argv[3], NULL, 10));
    /* setsid made a scheduling group of its own; niceness inside it would mean nothing outside */
    write_if_there("/proc/self/autogroup", argv[3]);
    write_if_there("/proc/self/oom_score_adj", "500");
    char *args[] = {argv[4], "run", argv[5], NULL};
    execv(argv[4], args);
    fprintf(stderr, "cannot run worker '%s': %s\n", argv[4], strerror(errno));
    _exit(errno == ENOENT || errno == EACCES ? 6 : 1);
}

static void on_closed(uv_handle_t *h) { free(h->data); }

static void on_exit_cb(uv_process_t *handle, int64_t status, int signal) {
    ds_child *p = handle->data;
    p->on_exit(p->ctx, signal ? -1 : (int)status, signal);
    uv_close((uv_handle_t *)handle, on_closed);
}

int ds_child_start(ds_child **out, uv_loop_t *loop, const ds_child_options *o, ds_error *err) {
    char log[PATH_MAX], parent[24], niceness[24];
    ds_fs_join(log, sizeof log, o->dir, DS_FILE_LOG);
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    if (fd < 0)
        return ds_fail_errno(err, "cannot open '%s'", log);
    snprintf(parent, sizeof parent, "%ld", (long)getpid());
    snprintf(niceness, sizeof niceness, "%d", o->nice);
    char *args[] = {
        (char *)(uintptr_t)o->self, TRAMPOLINE, parent, niceness, (char *)(uintptr_t)o->worker,
        (char *)(uintptr_t)o->dir,  NULL};
    uv_stdio_container_t stdio[3] = {{.flags = UV_IGNORE}};
    for (int i = 1; i < 3; i++) {
        stdio[i].flags = UV_INHERIT_FD;
        stdio[i].data.fd = fd;
    }
    ds_child *p = ds_xcalloc(1, sizeof *p);
    p->on_exit = o->on_exit;
    p->ctx = o->ctx;
    p->handle.data = p;
    uv_process_options_t options = {
        .exit_cb = on_exit_cb, .file = o->self, .args = args, .stdio = stdio, .stdio_count = 3};
    int rc = uv_spawn(loop, &p->handle, &options);
    close(fd);
    if (rc) {
        uv_close((uv_handle_t *)&p->handle, on_closed);
        return ds_fail(err, DS_EBUSY, "cannot start worker '%s': %s", o->worker, uv_strerror(rc));
    }
    *out = p;
    return 0;
}

pid_t ds_child_pid(const ds_child *p) { return p->handle.pid; }
void ds_child_terminate(ds_child *p) { uv_process_kill(&p->handle, SIGTERM); }

void ds_child_kill(ds_child *p) {
    kill(-p->handle.pid, SIGKILL);
    uv_process_kill(&p->handle, SIGKILL);
}

void ds_child_abandon(ds_child *p) { uv_close((uv_handle_t *)&p->handle, on_closed); }

void ds_child_bound_log(const char *dir) {
    char path[PATH_MAX];
    ds_fs_join(path, sizeof path, dir, DS_FILE_LOG);
    struct stat st;
    if (stat(path, &st) || st.st_size <= DS_CHILD_LOG_MAX)
        return;
    int fd = open(path, O_RDWR | O_APPEND | O_CLOEXEC);
    if (fd < 0)
        return;
    char *tail = ds_xmalloc(LOG_KEEP);
    ssize_t n = pread(fd, tail, LOG_KEEP, st.st_size - LOG_KEEP);
    static const char note[] = "[older lines were dropped: the log is bounded]\n";
    /* The worker appends (O_APPEND), so after the cut its next line follows ours. */
    if (n > 0 && ftruncate(fd, 0) == 0 &&
        (write(fd, note, sizeof note - 1) < 0 || write(fd, tail, (size_t)n) < 0))
        ds_log(DS_LOG_WARN, "cannot shorten '%s': %s", path, strerror(errno));
    free(tail);
    close(fd);
}
