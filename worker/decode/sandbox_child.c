/* worker/decode/sandbox_child.c - the decoder process: locks the door, then serves. */
#include "worker/decode/sandbox_internal.h"
#include "engine/metrics/resize.h"

#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static const uint8_t *input;
static uint8_t *output;

/* Requests of the self-test: each must fail for the sandbox to be one. */
static void try_forbidden(enum ds_sandbox_op op, ds_sandbox_reply *reply) {
    char *const argv[] = {"true", NULL};
    long rc = 0;
    errno = 0;
    if (op == DS_SANDBOX_TRY_OPEN)
        rc = open("/etc/passwd", O_RDONLY);
    else if (op == DS_SANDBOX_TRY_SOCKET)
        rc = socket(AF_INET, SOCK_STREAM, 0);
    else if (op == DS_SANDBOX_TRY_EXEC)
        rc = execv("/bin/true", argv);
    else if (op == DS_SANDBOX_TRY_FORK)
        rc = fork();
    else if (op == DS_SANDBOX_TRY_WRITE_INPUT)
        rc = mprotect((void *)(uintptr_t)input, 4096, PROT_READ | PROT_WRITE);
    else if (op == DS_SANDBOX_TRY_MEMORY)
        rc = mmap(NULL, (size_t)2 << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                  0) == MAP_FAILED
                 ? -1
                 : 0;
    reply->ok = rc >= 0;
    snprintf(reply->reason, sizeof reply->reason, "%s", rc < 0 ? strerror(errno) : "allowed");
}

static void decode(const ds_sandbox_message *m, ds_sandbox_reply *reply) {
    uint8_t *rgb;
    int64_t limit = m->max_pixels;
    if (m->op == DS_SANDBOX_FULL && limit > (int64_t)(DS_CHILD_OUTPUT_SIZE / 3))
        limit = (int64_t)(DS_CHILD_OUTPUT_SIZE / 3);
    if (ds_decode_rgb((enum ds_decode_use)m->use, input, m->size, limit, &reply->info, &rgb,
                      reply->reason))
        return;
    size_t n = (size_t)reply->info.width * (size_t)reply->info.height * 3;
    if (m->op == DS_SANDBOX_SQUARE)
        ds_resize_square(output, m->side, rgb, reply->info.width, reply->info.height, 3);
    else
        memcpy(output, rgb, n);
    free(rgb);
    reply->ok = 1;
}

static void serve(const ds_sandbox_message *m, ds_sandbox_reply *reply) {
    switch ((enum ds_sandbox_op)m->op) {
    case DS_SANDBOX_HEADER:
        reply->ok = !ds_decode_header(input, m->size, &reply->info, reply->reason);
        break;
    case DS_SANDBOX_SQUARE:
    case DS_SANDBOX_FULL: decode(m, reply); break;
    case DS_SANDBOX_TRY_OPEN:
    case DS_SANDBOX_TRY_SOCKET:
    case DS_SANDBOX_TRY_EXEC:
    case DS_SANDBOX_TRY_FORK:
    case DS_SANDBOX_TRY_WRITE_INPUT:
    case DS_SANDBOX_TRY_MEMORY: try_forbidden((enum ds_sandbox_op)m->op, reply); break;
    case DS_SANDBOX_CRASH: __builtin_trap();
    case DS_SANDBOX_HANG:
        for (volatile int forever = 1; forever;)
            ;
        break;
    case DS_SANDBOX_STOPPED:
        for (char c; read(DS_CHILD_SOCKET, &c, 1) > 0;)
            ;
        _exit(0);
    }
}

static int limit(int what, rlim_t value) {
    struct rlimit r = {value, value};
    return setrlimit((__rlimit_resource_t)what, &r);
}

static int set_limits(void) {
#ifndef __SANITIZE_ADDRESS__ /* whose shadow memory is terabytes of address space */
    if (limit(RLIMIT_AS, DS_CHILD_MEMORY))
        return -1;
#endif
    return limit(RLIMIT_CPU, DS_CHILD_CPU_SECONDS) || limit(RLIMIT_CORE, 0) ||
                   limit(RLIMIT_FSIZE, 0) || limit(RLIMIT_NOFILE, DS_CHILD_SOCKET + 1)
               ? -1
               : 0;
}

/* Allowed: the socket, messages to stderr, private memory that is never executable, locks, exit.
 * All else fails with EPERM. */
static int lock_down(void) {
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    if (!f)
        return -ENOMEM;
    static const int plain[] = {
        SCMP_SYS(munmap),       SCMP_SYS(mremap),        SCMP_SYS(madvise),
        SCMP_SYS(brk),          SCMP_SYS(futex),         SCMP_SYS(exit),
        SCMP_SYS(exit_group),   SCMP_SYS(rt_sigreturn),  SCMP_SYS(rt_sigprocmask),
        SCMP_SYS(sigaltstack),  SCMP_SYS(clock_gettime), SCMP_SYS(getrandom),
        SCMP_SYS(sched_yield),  SCMP_SYS(getpid),        SCMP_SYS(gettid),
        SCMP_SYS(rt_sigaction),
    };
    int rc = seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1); /* threads of libraries as well */
    for (size_t i = 0; !rc && i < sizeof plain / sizeof *plain; i++)
        rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, plain[i], 0);
    const uint64_t exec = PROT_EXEC, anonymous = MAP_ANONYMOUS;
    if (!rc)
        rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(read), 1,
                              SCMP_A0(SCMP_CMP_EQ, DS_CHILD_SOCKET, 0));
    if (!rc)
        rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(write), 1,
                              SCMP_A0(SCMP_CMP_EQ, DS_CHILD_SOCKET, 0));
    if (!rc)
        rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(write), 1,
                              SCMP_A0(SCMP_CMP_EQ, STDERR_FILENO, 0));
    if (!rc)
        rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 2,
                              SCMP_A2(SCMP_CMP_MASKED_EQ, exec, 0),
                              SCMP_A3(SCMP_CMP_MASKED_EQ, anonymous, anonymous));
    if (!rc)
        rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                              SCMP_A2(SCMP_CMP_MASKED_EQ, exec, 0));
    if (!rc)
        rc = seccomp_load(f);
    seccomp_release(f);
    return rc;
}

static const char *prepare_child(void) {
    input = mmap(NULL, DS_FILE_MAX, PROT_READ, MAP_SHARED, DS_CHILD_INPUT, 0);
    output =
        mmap(NULL, DS_CHILD_OUTPUT_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, DS_CHILD_OUTPUT, 0);
    if (input == MAP_FAILED || output == MAP_FAILED)
        return "no shared memory";
    if (close_range(DS_CHILD_SOCKET + 1, ~0u, 0))
        return "cannot close descriptors";
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) || prctl(PR_SET_DUMPABLE, 0) ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return "prctl failed";
    if (set_limits())
        return "cannot set limits";
    return lock_down() ? "cannot install the seccomp filter" : NULL;
}

int ds_decode_child_main(void) {
    ds_sandbox_reply reply = {0};
    const char *problem = prepare_child();
    reply.ok = !problem;
    snprintf(reply.reason, sizeof reply.reason, "%s", problem ? problem : "");
    for (;;) {
        if (write(DS_CHILD_SOCKET, &reply, sizeof reply) != (ssize_t)sizeof reply || problem)
            _exit(1);
        ds_sandbox_message m;
        ssize_t n = read(DS_CHILD_SOCKET, &m, sizeof m);
        if (n != (ssize_t)sizeof m || m.size > DS_FILE_MAX || m.side < 0 ||
            m.side > DS_SANDBOX_MAX_SIDE || m.use < 0 || m.use > DS_DECODE_PILLOW ||
            (m.op == DS_SANDBOX_SQUARE && m.side == 0))
            _exit(n == 0 ? 0 : 1); /* 0: the parent closed */
        memset(&reply, 0, sizeof reply);
        serve(&m, &reply);
    }
}
