#include "registry/jobs/process.h"

#include <fcntl.h>
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
    char state;
    memset(p, 0, sizeof *p);
    boot_id(p->boot_id);
    p->pid = pid;
    return stat_of(pid, &state, &p->start);
}

int ds_process_stopped(int64_t pid) {
    char state = 0;
    int64_t start;
    return !stat_of(pid, &state, &start) && (state == 'T' || state == 't');
}

int ds_process_alive(const ds_process *p) {
    char boot[37], state;
    int64_t start;
    boot_id(boot);
    if (p->pid <= 0 || strcmp(boot, p->boot_id) != 0 || stat_of(p->pid, &state, &start))
        return 0;
    return start == p->start && state != 'Z' && state != 'X';
}
