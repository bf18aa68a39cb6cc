#include "cli/start.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const double READY_WITHIN = 15, GRACE = 5;

int ds_find_program(const char *name, char out[PATH_MAX], ds_error *err) {
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n > 0) {
        self[n] = 0;
        char *slash = strrchr(self, '/');
        if (slash)
            *slash = 0;
        if (snprintf(out, PATH_MAX, "%s/%s", self, name) < PATH_MAX && !access(out, X_OK))
            return 0;
    }
    for (const char *p = getenv("PATH"); p && *p; p += strcspn(p, ":"), p += *p == ':') {
        if (snprintf(out, PATH_MAX, "%.*s/%s", (int)strcspn(p, ":"), p, name) < PATH_MAX &&
            !access(out, X_OK))
            return 0;
    }
    out[0] = 0; /* not the last place that was tried */
    return ds_fail(err, DS_ENOTFOUND, "cannot find the program '%s' beside dsctl or in PATH", name);
}

int ds_find_worker(char out[PATH_MAX], ds_error *err) {
    const char *own = getenv("DIFFSCALER_WORKER");
    if (!own || !*own)
        return ds_find_program("diffscaler-worker", out, err);
    int n = snprintf(out, PATH_MAX, "%s", own);
    return n < PATH_MAX ? 0 : ds_fail(err, DS_EINVAL, "the path '%.100s...' is too long", own);
}

static void exec_child(char *const argv[], int fd) {
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    sigset_t none;
    dup2(null, 0);
    dup2(fd, 1);
    dup2(fd, 2);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execv(argv[0], argv);
    dprintf(2, "cannot run '%s': %s\n", argv[0], strerror(errno));
    _exit(127);
}

/* Asked first, so that it can tidy up; killed when it takes long.  Reaped. */
static void end_child(pid_t pid, int *status) {
    double end = ds_monotonic() + GRACE;
    kill(pid, SIGTERM);
    for (int killed = 0; waitpid(pid, status, killed ? 0 : WNOHANG) != pid;) {
        if (!killed && ds_monotonic() > end)
            killed = !kill(pid, SIGKILL);
        else if (!killed)
            usleep(10000);
    }
}

int ds_run_program(char *const argv[], double seconds, char **out, int *status, ds_error *err) {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC))
        return ds_fail_errno(err, "cannot make a pipe");
    pid_t pid = fork();
    if (pid < 0) {
        close(fds[0]);
        close(fds[1]);
        return ds_fail_errno(err, "cannot start '%s'", argv[0]);
    }
    if (!pid)
        exec_child(argv, fds[1]);
    close(fds[1]);
    double end = ds_monotonic() + seconds;
    ds_buf b = {0};
    int timed_out = 0;
    for (;;) {
        struct pollfd p = {fds[0], POLLIN, 0};
        double rest = end - ds_monotonic();
        char part[4096];
        if (rest <= 0 || ds_cli_interrupted) {
            timed_out = 1;
            end_child(pid, status);
            break;
        }
        if (poll(&p, 1, rest > 0.2 ? 200 : (int)(rest * 1000) + 1) <= 0)
            continue;
        ssize_t n = read(fds[0], part, sizeof part);
        if (n <= 0)
            break;
        if (b.len < 65536)
            ds_buf_add(&b, part, (size_t)n);
    }
    close(fds[0]);
    while (!timed_out && waitpid(pid, status, 0) < 0 && errno == EINTR)
        ;
    ds_buf_add(&b, "", 0);
    *out = b.data ? b.data : ds_xstrdup("");
    return timed_out ? ds_fail(err, DS_ETIMEOUT, "'%s' did not end within %.0f s", argv[0], seconds)
                     : 0;
}

int ds_daemon_ready(ds_cli *c, ds_error *err) {
    ds_buf text = {0};
    int rc = ds_client_text(c->http, "/readyz", &text, NULL, err);
    ds_buf_release(&text);
    return rc;
}

/* The last line of the log: why the daemon ended. */
static void last_line(const char *path, int64_t from, char *out, size_t size) {
    char *text = NULL;
    size_t n = 0;
    out[0] = 0;
    if (ds_fs_read(path, 64u << 20, &text, &n, NULL))
        return;
    size_t first = from >= 0 && (size_t)from < n ? (size_t)from : n;
    while (n > first && text[n - 1] == '\n')
        text[--n] = 0;
    size_t start = n;
    while (start > first && text[start - 1] != '\n')
        start--;
    snprintf(out, size, "%s", text + start);
    free(text);
}

static int wait_ready(ds_cli *c, pid_t pid, const char *log, int64_t log_from, ds_error *err) {
    double end = ds_monotonic() + READY_WITHIN;
    for (int status;;) {
        if (!ds_daemon_ready(c, err))
            return 0;
        if (waitpid(pid, &status, WNOHANG) == pid) {
            /* Somebody else may have started one in the same moment; then ours has ended. */
            if (!ds_daemon_ready(c, NULL))
                return 0;
            char why[300];
            last_line(log, log_from, why, sizeof why);
            int code = WIFEXITED(status) ? ds_error_from_exit(WEXITSTATUS(status)) : DS_EFAILED;
            return ds_fail(err, code ? code : DS_EFAILED, "diffscalerd ended at once: %s (log: %s)",
                           *why ? why : "no message", log);
        }
        if (ds_monotonic() > end)
            return ds_fail(err, DS_ETIMEOUT,
                           "diffscalerd (pid %ld) is not ready after %.0f s; see '%s'", (long)pid,
                           READY_WITHIN, log);
        if (ds_cli_sleep(0.02, err))
            return DS_ECANCELED;
    }
}

int ds_start_daemon(ds_cli *c, ds_error *err) {
    int rc = ds_daemon_ready(c, err);
    if (rc != DS_EUNREACHABLE)
        return rc;
    char program[PATH_MAX], log[PATH_MAX + 32];
    if ((rc = ds_find_program("diffscalerd", program, err)))
        return rc;
    if ((rc = ds_fs_mkdirs(c->state, err)))
        return ds_error_prefix(err, "cannot make the state folder");
    snprintf(log, sizeof log, "%s/diffscalerd.log", c->state);
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    if (fd < 0)
        return ds_fail_errno(err, "cannot open '%s'", log);
    int64_t log_from = lseek(fd, 0, SEEK_END);
    char *argv[] = {program, "--state", c->state, "--socket", c->socket, NULL};
    pid_t pid = fork();
    if (!pid) {
        setsid();
        if (chdir("/")) /* keep no folder busy; every path it is given is absolute */
            _exit(127);
        exec_child(argv, fd);
    }
    close(fd);
    if (pid < 0)
        return ds_fail_errno(err, "cannot start '%s'", program);
    rc = wait_ready(c, pid, log, log_from, err);
    if (!rc)
        ds_say(c, "started diffscalerd (pid %ld, log %s)", (long)pid, log);
    return rc;
}
