#include "worker/job/memory.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* First number of a file, or after `key` at a line's start; -1: absent or "max". */
static double number_in(const char *path, const char *key) {
    FILE *f = fopen(path, "re");
    if (!f)
        return -1;
    char line[256];
    double found = -1;
    size_t n = key ? strlen(key) : 0;
    while (found < 0 && fgets(line, sizeof line, f)) {
        char *end, *at = line + n;
        if (n && strncmp(line, key, n))
            continue;
        double v = strtod(at, &end);
        if (end == at)
            break;
        found = v;
    }
    fclose(f);
    return found;
}

/* used NULL: the limit itself. */
static double cgroup_left(const char *dir, const char *limit, const char *used, const char *cold) {
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", dir, limit);
    double most = number_in(path, NULL);
    if (most < 0 || most > 1e17) /* v1 says "no limit" with a huge number */
        return -1;
    if (!used)
        return most;
    snprintf(path, sizeof path, "%s/%s", dir, used);
    double now = number_in(path, NULL);
    snprintf(path, sizeof path, "%s/memory.stat", dir);
    double cache = number_in(path, cold);
    double left = most - (now < 0 ? 0 : now) + (cache < 0 ? 0 : cache);
    return left < 0 ? 0 : left;
}

static void least(double *out, double x) {
    if (x >= 0 && (*out < 0 || x < *out))
        *out = x;
}

/* What the limits of our group and of every group above it leave, or allow in all. */
static void cgroups(double *out, int all) {
    FILE *f = fopen("/proc/self/cgroup", "re");
    char line[PATH_MAX];
    while (f && fgets(line, sizeof line, f)) {
        char *name = strchr(line, ':'), *path = name ? strchr(name + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = 0;
        path[strcspn(path, "\n")] = 0;
        int v1 = strstr(name, "memory") != NULL, v2 = !strcmp(name, ":");
        for (char *slash = path + strlen(path); (v1 || v2) && slash; slash = strrchr(path, '/')) {
            char dir[PATH_MAX + 32];
            *slash = 0;
            snprintf(dir, sizeof dir, "/sys/fs/cgroup%s%s", v1 ? "/memory" : "", path);
            least(out,
                  v1 ? cgroup_left(dir, "memory.limit_in_bytes",
                                   all ? NULL : "memory.usage_in_bytes", "total_inactive_file ")
                     : cgroup_left(dir, "memory.max", all ? NULL : "memory.current",
                                   "inactive_file "));
        }
    }
    if (f)
        fclose(f);
}

static double machine(const char *key, int all) {
    double kib = number_in("/proc/meminfo", key), out = kib < 0 ? -1 : kib * 1024;
    cgroups(&out, all);
    return out < 0 ? 0 : out;
}

double ds_memory_available(void) { return machine("MemAvailable:", 0); }

double ds_memory_total(void) { return machine("MemTotal:", 1); }

double ds_memory_now(void) {
    double kib = number_in("/proc/self/status", "VmRSS:");
    return kib < 0 ? 0 : kib * 1024;
}

double ds_memory_peak(void) {
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) ? 0 : (double)u.ru_maxrss * 1024;
}
