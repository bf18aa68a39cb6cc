/* worker/sandbox.c - the parent's side: start, ask, time out, start again. */
#include "worker/sandbox_internal.h"
#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

/* States: pid < 0 no child; else a child that has said that it is ready and waits for a request. */
struct ds_sandbox {
    char *program;
    int timeout_ms;
    pid_t pid;
    int socket, input_fd, output_fd;
    uint8_t *input, *output;
    int64_t busy_ms;  /* of this child */
    size_t last_size; /* of the newest result */
    int restarts;
};

static int64_t now_ms(void) { return (int64_t)(ds_monotonic() * 1000.0); }

/* A shared memory whose descriptor is above the ones that the child gets. */
static int shared_memory(const char *name, size_t size, uint8_t **map, ds_error *err) {
    int low = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int fd = low < 0 ? -1 : fcntl(low, F_DUPFD_CLOEXEC, 10);
    if (low >= 0)
        close(low);
    if (fd < 0 || ftruncate(fd, (off_t)size)) {
        ds_fail_errno(err, "cannot make shared memory for the image decoder");
        if (fd >= 0)
            close(fd);
        return -1;
    }
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        ds_fail_errno(err, "cannot map shared memory for the image decoder");
        close(fd);
        return -1;
    }
    *map = p;
    return fd;
}

/* Kill (if it still lives) and reap; returns the wait status. */
static int stop_child(ds_sandbox *s, int wait_first) {
    int status = 0;
    pid_t done = 0;
    for (int i = 0; wait_first && !done && i < 200; i++) {
        done = waitpid(s->pid, &status, WNOHANG);
        if (!done)
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    if (!done) {
        kill(s->pid, SIGKILL);
        while (waitpid(s->pid, &status, 0) < 0 && errno == EINTR)
            ;
    }
    close(s->socket);
    s->socket = -1;
    s->pid = -1;
    return status;
}

/* 1 a reply, 0 the child is gone, -1 time is up. */
static int receive(ds_sandbox *s, ds_sandbox_reply *reply, int timeout_ms) {
    int64_t deadline = now_ms() + timeout_ms;
    for (;;) {
        int64_t left = deadline - now_ms();
        struct pollfd p = {.fd = s->socket, .events = POLLIN};
        int n = poll(&p, 1, left > 0 ? (int)left : 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0)
            return -1;
        ssize_t got = recv(s->socket, reply, sizeof *reply, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got != (ssize_t)sizeof *reply)
            return 0;
        reply->reason[sizeof reply->reason - 1] = 0; /* the child is not trusted */
        return 1;
    }
}

/* Of our environment the child needs where libraries are and what sanitizers shall do; OpenBLAS
 * must not start threads in a process that never multiplies. */
static char **child_environment(void) {
    static const char *const kept[] = {"LD_LIBRARY_PATH=", "ASAN_OPTIONS=", "UBSAN_OPTIONS="};
    char **env = ds_xcalloc(8, sizeof *env);
    int n = 0;
    env[n++] = "OPENBLAS_NUM_THREADS=1";
    env[n++] = "OMP_NUM_THREADS=1";
    for (char **e = environ; e && *e; e++)
        for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
            if (n < 7 && !strncmp(*e, kept[i], strlen(kept[i])))
                env[n++] = *e;
    return env;
}

static int spawn_child(ds_sandbox *s, int child_socket) {
    posix_spawn_file_actions_t fa;
    posix_spawnattr_t attr;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDWR, 0);
    posix_spawn_file_actions_adddup2(&fa, 0, 1);
    posix_spawn_file_actions_adddup2(&fa, child_socket, DS_CHILD_SOCKET);
    posix_spawn_file_actions_adddup2(&fa, s->input_fd, DS_CHILD_INPUT);
    posix_spawn_file_actions_adddup2(&fa, s->output_fd, DS_CHILD_OUTPUT);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    char *const argv[] = {"diffscaler-worker", DS_SANDBOX_ARG, NULL};
    char **env = child_environment();
    int e = posix_spawn(&s->pid, s->program, &fa, &attr, argv, env);
    free(env);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&fa);
    if (e)
        s->pid = -1;
    return e;
}

static int start_child(ds_sandbox *s, ds_error *err) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        return ds_fail_errno(err, "cannot make a socket for the image decoder");
    int child_socket = fcntl(pair[1], F_DUPFD_CLOEXEC, 10);
    close(pair[1]);
    s->socket = pair[0];
    s->busy_ms = 0;
    int e = child_socket < 0 ? errno : spawn_child(s, child_socket);
    if (child_socket >= 0)
        close(child_socket);
    if (e) {
        close(s->socket);
        s->socket = -1;
        return ds_fail(err, DS_EFAILED, "cannot start the image decoder '%s': %s", s->program,
                       strerror(e));
    }
    ds_sandbox_reply ready;
    int got = receive(s, &ready, 20000);
    if (got == 1 && ready.ok)
        return 0;
    stop_child(s, got == 0);
    return ds_fail(err, DS_EFAILED, "cannot start the image decoder '%s': %s", s->program,
                   got == 1   ? ready.reason
                   : got == 0 ? "it ended at once"
                              : "it does not answer");
}

int ds_sandbox_open(ds_sandbox **out, const ds_sandbox_options *options, ds_error *err) {
    ds_sandbox *s = ds_xcalloc(1, sizeof *s);
    *out = NULL;
    const char *program = options ? options->program : NULL;
    s->program = ds_xstrdup(program ? program : "/proc/self/exe");
    s->timeout_ms = options && options->timeout_ms > 0 ? options->timeout_ms : 10000;
    s->pid = s->socket = s->output_fd = -1;
    ds_error local = {0};
    s->input_fd = shared_memory("ds-input", DS_FILE_MAX, &s->input, &local);
    if (s->input_fd >= 0)
        s->output_fd = shared_memory("ds-output", DS_CHILD_OUTPUT_SIZE, &s->output, &local);
    /* From here on nobody can map the input for writing; our own mapping stays. */
    if (s->output_fd >= 0 &&
        fcntl(s->input_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE))
        ds_fail_errno(&local, "cannot seal the memory of the image decoder");
    if (!local.code)
        start_child(s, &local);
    if (local.code) {
        ds_sandbox_close(s);
        return ds_fail(err, local.code, "%s", local.message);
    }
    *out = s;
    return 0;
}

void ds_sandbox_close(ds_sandbox *s) {
    if (!s)
        return;
    if (s->pid > 0)
        stop_child(s, 0);
    if (s->input)
        munmap(s->input, DS_FILE_MAX);
    if (s->output)
        munmap(s->output, DS_CHILD_OUTPUT_SIZE);
    if (s->input_fd >= 0)
        close(s->input_fd);
    if (s->output_fd >= 0)
        close(s->output_fd);
    free(s->program);
    free(s);
}

uint8_t *ds_sandbox_input(ds_sandbox *s) { return s->input; }
const uint8_t *ds_sandbox_output(ds_sandbox *s) { return s->output; }
int ds_sandbox_restarts(const ds_sandbox *s) { return s->restarts; }

/* One attempt: 1 a reply, 0 the child died (status tells how), -1 it took too long. */
static int ask(ds_sandbox *s, const ds_sandbox_message *m, ds_sandbox_reply *reply, int *status) {
    int64_t start = now_ms();
    int got = 0;
    if (send(s->socket, m, sizeof *m, MSG_NOSIGNAL) == (ssize_t)sizeof *m)
        got = receive(s, reply, s->timeout_ms);
    s->busy_ms += now_ms() - start;
    if (got != 1) {
        *status = stop_child(s, got == 0);
        s->restarts++;
    }
    return got;
}

static void describe_death(ds_sandbox_reply *reply, int status) {
    *reply = (ds_sandbox_reply){.info.verdict = DS_DECODE_GAVE_UP};
    if (WIFSIGNALED(status))
        snprintf(reply->reason, sizeof reply->reason,
                 "the decoder crashed or ran out of memory on it (signal %d)", WTERMSIG(status));
    else
        snprintf(reply->reason, sizeof reply->reason,
                 "the decoder crashed or ran out of memory on it (exit %d)", WEXITSTATUS(status));
}

/* A child that was taken over could say anything; nothing we do with its answer may go wrong. */
static int plausible(enum ds_sandbox_op op, const ds_sandbox_reply *reply) {
    const ds_image_info *info = &reply->info;
    if (!reply->ok)
        return info->verdict > DS_DECODED && info->verdict <= DS_DECODE_GAVE_UP;
    if (info->verdict != DS_DECODED || info->width < 1 || info->height < 1)
        return 0;
    return op != DS_SANDBOX_FULL ||
           (int64_t)info->width * info->height <= (int64_t)(DS_CHILD_OUTPUT_SIZE / 3);
}

int ds_sandbox_run(ds_sandbox *s, enum ds_sandbox_op op, enum ds_decode_use use, size_t size,
                   int side, int64_t max_pixels, ds_sandbox_reply *reply, ds_error *err) {
    DS_ASSERT(size <= DS_FILE_MAX && side >= 0 && side <= DS_SANDBOX_MAX_SIDE);
    enum { KEEP = 16 << 20 };
    if (s->last_size > KEEP) /* one large picture must not hold its memory for the whole folder */
        madvise(s->output, DS_CHILD_OUTPUT_SIZE, MADV_REMOVE);
    s->last_size = 0;
    ds_sandbox_message m = {op, side, use, 0, size, max_pixels};
    if (s->pid > 0 && s->busy_ms > DS_CHILD_BUSY_MS)
        stop_child(s, 0);
    /* A death may be none of the picture's fault (a kernel short of memory): one second try. */
    for (int attempt = 0; attempt < 2; attempt++) {
        if (s->pid < 0) {
            int rc = start_child(s, err);
            if (rc)
                return rc;
        }
        int status = 0, got = ask(s, &m, reply, &status);
        if (got < 0) {
            *reply = (ds_sandbox_reply){.info.verdict = DS_DECODE_GAVE_UP};
            snprintf(reply->reason, sizeof reply->reason, "decoding took longer than %d ms",
                     s->timeout_ms);
            return 0;
        }
        if (got == 1) {
            if (op <= DS_SANDBOX_FULL && !plausible(op, reply)) {
                *reply = (ds_sandbox_reply){.info.verdict = DS_DECODE_GAVE_UP};
                snprintf(reply->reason, sizeof reply->reason,
                         "the decoder gave an impossible answer");
            }
            if (reply->ok && op == DS_SANDBOX_FULL)
                s->last_size = (size_t)reply->info.width * (size_t)reply->info.height * 3;
            return 0;
        }
        describe_death(reply, status);
    }
    return 0;
}
