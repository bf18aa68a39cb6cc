#include "registry/jobs/process.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static ssize_t read_small(const char *path, char *out, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = read(fd, out, size - 1);
    close(fd);
    if (n >= 0)
        out[n] = 0;
    return n;
}

/* State letter and start time of a process; -1 when it is not there.  The command name in field 2
 * may hold anything, so fields are counted from its last ')'. */
static int stat_of(int64_t pid, char *state, int64_t *start) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%lld/stat", (long long)pid);
    if (pid <= 0 || read_small(path, text, sizeof text) <= 0)
        return -1;
    char *p = strrchr(text, ')');
    if (!p || p[1] != ' ')
        return -1;
    *state = p[2];
    p += 2; /* field 3 */
    for (int field = 3; field < 22; field++) {
        p = strchr(p, ' ');
        if (!p)
            return -1;
        p++;
    }
    *start = strtoll(p, NULL, 10);
    return 0;
}

static void boot_id(char out[37]) {
    char text[64];
    out[0] = 0;
    if (read_small("/proc/sys/kernel/random/boot_id", text, sizeof text) < 36)
        return;
    text[36] = 0;
    memcpy(out, text, 37);
}

int ds_process_identify(int64_t pid, ds_process *p) {
    char boot[37], state;
    int64_t start = 0;
    boot_id(boot);
    int rc = stat_of(pid, &state, &start);
    p->pid = pid;
    snprintf(p->identity, sizeof p->identity, "local:%s:%lld:%lld", boot, (long long)pid,
             (long long)start);
    return rc;
}

typedef struct {
    char boot[37];
    int64_t pid, start;
} parts;

/* 0, or -1: not an identity of this machine. */
static int take_apart(const char *identity, parts *p) {
    static const char mark[] = "local:";
    if (strncmp(identity, mark, sizeof mark - 1) != 0)
        return -1;
    const char *boot = identity + sizeof mark - 1, *colon = strchr(boot, ':');
    if (!colon || (size_t)(colon - boot) >= sizeof p->boot)
        return -1;
    snprintf(p->boot, sizeof p->boot, "%.*s", (int)(colon - boot), boot);
    char *end;
    p->pid = strtoll(colon + 1, &end, 10);
    if (*end != ':' || p->pid < 2 || p->pid > INT_MAX) /* kill(-1) would reach everybody */
        return -1;
    p->start = strtoll(end + 1, &end, 10);
    return *end ? -1 : 0;
}

int64_t ds_process_pid(const char *identity) {
    parts p;
    return take_apart(identity, &p) ? 0 : p.pid;
}

/* The state letter of exactly this process; 0: it is gone. */
static char state_of(const char *identity) {
    parts p;
    char boot[37], state;
    int64_t start;
    if (take_apart(identity, &p))
        return 0;
    boot_id(boot);
    if (p.pid <= 0 || strcmp(boot, p.boot) != 0 || stat_of(p.pid, &state, &start))
        return 0;
    return start == p.start && state != 'Z' && state != 'X' ? state : 0;
}

int ds_process_alive(const char *identity) { return state_of(identity) != 0; }

int ds_process_stopped(const char *identity) {
    char state = state_of(identity);
    return state == 'T' || state == 't';
}
