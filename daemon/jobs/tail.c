/* daemon/jobs/tail.c - see tail.h. */
#include "daemon/jobs/tail.h"

#include "base/fs.h"
#include "base/log.h"
#include "contract/job.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOG_KEEP (1 << 20)

static int ready(ds_tail *t, const char *path) {
    struct stat st;
    if (t->fd < 0)
        t->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (t->fd >= 0 && (fstat(t->fd, &st) || !S_ISREG(st.st_mode))) { /* nothing a worker writes */
        close(t->fd);
        t->fd = -1;
    }
    return t->fd >= 0;
}

void ds_tail_init(ds_tail *t, const char *path, int from_end) {
    *t = (ds_tail){.fd = -1};
    struct stat st;
    if (!from_end || !ready(t, path) || fstat(t->fd, &st))
        return;
    t->offset = st.st_size;
    char last = '\n';
    /* The file may end in a line that an earlier worker tore: what follows belongs to it. */
    if (st.st_size > 0 && pread(t->fd, &last, 1, st.st_size - 1) == 1 && last != '\n')
        t->skipping = 1;
}

void ds_tail_release(ds_tail *t) {
    if (t->fd >= 0)
        close(t->fd);
    ds_buf_release(&t->partial);
    *t = (ds_tail){.fd = -1};
}

static void take(ds_tail *t, const char *p, size_t n,
                 void (*fn)(void *ctx, const char *line, size_t n), void *ctx) {
    while (n) {
        const char *nl = memchr(p, '\n', n);
        size_t part = nl ? (size_t)(nl - p) : n;
        if (!t->skipping)
            ds_buf_add(&t->partial, p, part);
        if (t->partial.len > DS_TAIL_LINE_MAX) {
            t->skipping = 1;
            t->partial.len = 0;
        }
        if (nl) {
            if (!t->skipping && t->partial.len)
                fn(ctx, t->partial.data, t->partial.len);
            t->skipping = 0;
            t->partial.len = 0;
            part++;
        }
        p += part;
        n -= part;
    }
}

int64_t ds_tail_lines(ds_tail *t, const char *path, int64_t max_bytes,
                      void (*fn)(void *ctx, const char *line, size_t n), void *ctx) {
    if (!ready(t, path))
        return 0;
    char buf[16384];
    int64_t total = 0;
    while (total < max_bytes) {
        ssize_t n = pread(t->fd, buf, sizeof buf, t->offset);
        if (n <= 0)
            break;
        t->offset += n;
        total += n;
        take(t, buf, (size_t)n, fn, ctx);
    }
    return total;
}

void ds_tail_bound_log(const char *dir) {
    char path[PATH_MAX];
    ds_fs_join(path, sizeof path, dir, DS_FILE_LOG);
    struct stat st;
    if (stat(path, &st) || st.st_size <= DS_TAIL_LOG_MAX)
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
