/* worker/decode/sandbox.c - the parent's side: start, ask, lose patience, start again. */
#include "worker/decode/sandbox_internal.h"
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
    int cpu_ms, patience_ms;
    pid_t pid;
    int socket, input_fd, output_fd;
    uint8_t *input, *output;
    size_t last_size; /* of the newest result */
    int restarts;
};

/* How an attempt ended. */
enum attempt {
    ANSWERED,
    DIED,   /* the child is gone */
    SPENT,  /* all the processor time that it may take */
    STALLED /* it took no processor time for as long as we wait: stopped, or the machine swaps */
};

enum { TRIES_CRASH = 2, TRIES_SPENT = 2, TRIES_STALLED = 5, SLICE_MS = 100, START_CPU_MS = 20000 };

/* Processor time of the child; -1 when it cannot be read (the child is gone). */
static int64_t cpu_ns(const ds_sandbox *s) {
    clockid_t clock;
    struct timespec t;
    if (clock_getcpuclockid(s->pid, &clock) || clock_gettime(clock, &t))
        return -1;
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

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

/* Kill (if it still lives) and reap; returns the wait status.  A child that closed its socket is
 * ending by itself, and how it ends is the verdict: it gets time for that. */
static int stop_child(ds_sandbox *s, int wait_first) {
    int status = 0;
    pid_t done = 0;
    for (int i = 0; wait_first && !done && i < 10000; i++) {
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

/* No deadline: a pause of this process, of the child or of the machine is not the picture's fault.
 * Each look counts as one slice of patience however long it really took. */
static enum attempt receive(ds_sandbox *s, ds_sandbox_reply *reply, int cpu_ms, int patience_ms) {
    const int64_t start = cpu_ns(s), limit = (int64_t)cpu_ms * 1000000;
    int64_t seen = start;
    for (int idle_ms = 0; idle_ms < patience_ms;) {
        struct pollfd p = {.fd = s->socket, .events = POLLIN};
        int n = poll(&p, 1, SLICE_MS);
        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0) {
            int64_t now = cpu_ns(s);
            if (now - start >= limit)
                return SPENT;
            idle_ms = now == seen ? idle_ms + SLICE_MS : 0;
            seen = now;
            continue;
        }
        ssize_t got = recv(s->socket, reply, sizeof *reply, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got != (ssize_t)sizeof *reply)
            return DIED;
        reply->reason[sizeof reply->reason - 1] = 0; /* the child is not trusted */
        return ANSWERED;
    }
    return STALLED;
}

/* A program that does not know DS_SANDBOX_ARG would run as it always does, start a child of its
 * own, and so on without end. */
#define CHILD_MARK "DIFFSCALER_DECODE_CHILD"

/* Of our environment the child needs where libraries are and what sanitizers shall do; OpenBLAS
 * must not start threads in a process that never multiplies. */
static char **child_environment(void) {
    static const char *const kept[] = {"LD_LIBRARY_PATH=", "ASAN_OPTIONS=", "UBSAN_OPTIONS="};
    char **env = ds_xcalloc(9, sizeof *env);
    int n = 0;
    env[n++] = "OPENBLAS_NUM_THREADS=1";
    env[n++] = "OMP_NUM_THREADS=1";
    env[n++] = CHILD_MARK "=1";
    for (char **e = environ; e && *e; e++)
        for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
            if (n < 8 && !strncmp(*e, kept[i], strlen(kept[i])))
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

/* Signals that a decoder earns by what it does with the bytes.  Others come from outside: somebody
 * killed it, or the machine had no memory (SIGKILL; SIGBUS in shared memory). */
static int own_fault(int status) {
    static const int signals[] = {SIGSEGV, SIGABRT, SIGILL, SIGFPE, SIGTRAP, SIGSYS};
    for (size_t i = 0; WIFSIGNALED(status) && i < sizeof signals / sizeof *signals; i++)
        if (WTERMSIG(status) == signals[i])
            return 1;
    return !WIFSIGNALED(status);
}

static int start_child(ds_sandbox *s, ds_error *err) {
    int pair[2];
    if (getenv(CHILD_MARK))
        return ds_fail(err, DS_EFAILED,
                       "'%s' is itself an image decoder (" CHILD_MARK
                       " is set) and starts none: it does not know " DS_SANDBOX_ARG,
                       s->program);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        return ds_fail_errno(err, "cannot make a socket for the image decoder");
    int child_socket = fcntl(pair[1], F_DUPFD_CLOEXEC, 10);
    close(pair[1]);
    s->socket = pair[0];
    int e = child_socket < 0 ? errno : spawn_child(s, child_socket);
    if (child_socket >= 0)
        close(child_socket);
    if (e) {
        close(s->socket);
        s->socket = -1;
        return ds_fail(err, e == EAGAIN || e == ENOMEM ? DS_EBUSY : DS_EFAILED,
                       "cannot start the image decoder '%s': %s", s->program, strerror(e));
    }
    ds_sandbox_reply ready;
    enum attempt got = receive(s, &ready, START_CPU_MS, DS_SANDBOX_PATIENCE_MS);
    if (got == ANSWERED && ready.ok)
        return 0;
    int killed = !own_fault(stop_child(s, got == DIED)) && got == DIED;
    return ds_fail(err, got == STALLED || killed ? DS_EBUSY : DS_EFAILED,
                   "cannot start the image decoder '%s': %s", s->program,
                   got == ANSWERED ? ready.reason
                   : killed        ? "it was killed"
                   : got == DIED   ? "it ended at once"
                                   : "it does not answer");
}

int ds_sandbox_open(ds_sandbox **out, const ds_sandbox_options *options, ds_error *err) {
    ds_sandbox *s = ds_xcalloc(1, sizeof *s);
    *out = NULL;
    const char *program = options ? options->program : NULL;
    s->program = ds_xstrdup(program ? program : "/proc/self/exe");
    s->cpu_ms = options && options->cpu_ms > 0 ? options->cpu_ms : DS_SANDBOX_CPU_MS;
    s->patience_ms =
        options && options->patience_ms > 0 ? options->patience_ms : DS_SANDBOX_PATIENCE_MS;
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
pid_t ds_sandbox_pid(const ds_sandbox *s) { return s->pid; }
int ds_sandbox_restarts(const ds_sandbox *s) { return s->restarts; }

/* One attempt; status tells how the child died. */
static enum attempt ask(ds_sandbox *s, const ds_sandbox_message *m, ds_sandbox_reply *reply,
                        int *status) {
    enum attempt got = DIED;
    if (send(s->socket, m, sizeof *m, MSG_NOSIGNAL) == (ssize_t)sizeof *m)
        got = receive(s, reply, s->cpu_ms, s->patience_ms);
    if (got != ANSWERED) {
        *status = stop_child(s, got == DIED);
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

static void take_answer(ds_sandbox *s, enum ds_sandbox_op op, ds_sandbox_reply *reply) {
    if (op <= DS_SANDBOX_FULL && !plausible(op, reply)) {
        *reply = (ds_sandbox_reply){.info.verdict = DS_DECODE_GAVE_UP};
        snprintf(reply->reason, sizeof reply->reason, "the decoder gave an impossible answer");
    }
    if (reply->ok && op == DS_SANDBOX_FULL)
        s->last_size = (size_t)reply->info.width * (size_t)reply->info.height * 3;
}

int ds_sandbox_run(ds_sandbox *s, enum ds_sandbox_op op, enum ds_decode_use use, size_t size,
                   int side, int64_t max_pixels, ds_sandbox_reply *reply, ds_error *err) {
    DS_ASSERT(size <= DS_FILE_MAX && side >= 0 && side <= DS_SANDBOX_MAX_SIDE);
    enum { KEEP = 16 << 20 };
    if (s->last_size > KEEP) /* one large picture must not hold its memory for the whole folder */
        madvise(s->output, DS_CHILD_OUTPUT_SIZE, MADV_REMOVE);
    s->last_size = 0;
    ds_sandbox_message m = {op, side, use, 0, size, max_pixels};
    if (s->pid > 0 && cpu_ns(s) > (int64_t)DS_CHILD_BUSY_MS * 1000000)
        stop_child(s, 0);
    int crashes = 0, spent = 0, stalled = 0, status = 0;
    while (crashes < TRIES_CRASH && spent < TRIES_SPENT && stalled < TRIES_STALLED) {
        int rc = s->pid < 0 ? start_child(s, err) : 0;
        if (rc && rc != DS_EBUSY)
            return rc;
        if (rc) {
            stalled++;
            s->restarts++;
            continue;
        }
        enum attempt got = ask(s, &m, reply, &status);
        if (got == ANSWERED) {
            take_answer(s, op, reply);
            return 0;
        }
        spent += got == SPENT;
        crashes += got == DIED && own_fault(status);
        stalled += got == STALLED || (got == DIED && !own_fault(status));
    }
    if (spent == TRIES_SPENT)
        return ds_fail(err, DS_EFAILED,
                       "decoding it took more than %d ms of processor time, %d times: save it anew "
                       "or take it out of the folder",
                       s->cpu_ms, TRIES_SPENT);
    if (stalled == TRIES_STALLED)
        return ds_fail(err, DS_EBUSY,
                       "its decoder was killed or stood still %d times: is the machine short of "
                       "memory?",
                       TRIES_STALLED);
    describe_death(reply, status);
    return 0;
}
