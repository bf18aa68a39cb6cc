#include "cli/npz_write.h"
#include "base/fs.h"
#include "base/mem.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

enum { NPY_HEAD = 128, LOCAL = 30, EXTRA = 20 }; /* EXTRA: ZIP64, two lengths of 8 bytes */
static const char member[] = "arr_0.npy";

struct ds_npz_writer {
    int fd, force;
    char *path, *tmp;
    uint64_t size, done; /* of the member */
    uint32_t crc;
};

static void le(ds_buf *b, uint64_t v, int bytes) {
    for (int i = 0; i < bytes; i++) {
        char c = (char)(v >> 8 * i & 0xff);
        ds_buf_add(b, &c, 1);
    }
}

static int put(ds_npz_writer *w, const void *p, size_t n, ds_error *err) {
    if (ds_fs_test_full() || ds_fs_write_all(w->fd, p, n))
        return ds_fail_errno(err, "cannot write '%s'", w->path);
    return 0;
}

/* Fields that a local header and the directory share: 4.4.2 to 4.4.9 of the note. */
static void common(ds_buf *b, const ds_npz_writer *w) {
    le(b, 45, 2); /* needs ZIP64 */
    le(b, 0, 2);
    le(b, 0, 2);  /* stored */
    le(b, 0, 2);  /* time 0:00, .. */
    le(b, 33, 2); /* .. 1 January 1980: the same pictures give the same file */
    le(b, w->crc, 4);
    le(b, UINT32_MAX, 4); /* both sizes: see the extra field */
    le(b, UINT32_MAX, 4);
    le(b, sizeof member - 1, 2);
}

static void local_header(ds_buf *b, const ds_npz_writer *w) {
    le(b, 0x04034b50, 4);
    common(b, w);
    le(b, EXTRA, 2);
    ds_buf_add(b, member, sizeof member - 1);
    le(b, 1, 2);
    le(b, EXTRA - 4, 2);
    le(b, w->size, 8);
    le(b, w->size, 8);
}

static void directory(ds_buf *b, const ds_npz_writer *w) {
    uint64_t at = LOCAL + sizeof member - 1 + EXTRA + w->size;
    le(b, 0x02014b50, 4);
    le(b, 3 << 8 | 45, 2); /* made by: Unix */
    common(b, w);
    le(b, EXTRA, 2);
    le(b, 0, 2); /* comment */
    le(b, 0, 2); /* disk */
    le(b, 0, 2);
    le(b, 0100644u << 16, 4);
    le(b, 0, 4); /* offset of the local header */
    ds_buf_add(b, member, sizeof member - 1);
    le(b, 1, 2);
    le(b, EXTRA - 4, 2);
    le(b, w->size, 8);
    le(b, w->size, 8);
    uint64_t length = b->len;
    le(b, 0x06064b50, 4); /* ZIP64 end of the directory */
    le(b, 44, 8);
    le(b, 3 << 8 | 45, 2);
    le(b, 45, 2);
    le(b, 0, 4);
    le(b, 0, 4);
    le(b, 1, 8);
    le(b, 1, 8);
    le(b, length, 8);
    le(b, at, 8);
    le(b, 0x07064b50, 4); /* where that is */
    le(b, 0, 4);
    le(b, at + length, 8);
    le(b, 1, 4);
    le(b, 0x06054b50, 4); /* end of the directory */
    le(b, 0, 4);
    le(b, 1, 2);
    le(b, 1, 2);
    le(b, length, 4);
    le(b, UINT32_MAX, 4);
    le(b, 0, 2);
}

static int begin(ds_npz_writer *w, const char *npy, ds_error *err) {
    char dir[PATH_MAX];
    ds_buf head = {0};
    const char *slash = strrchr(w->path, '/');
    if (slash)
        snprintf(dir, sizeof dir, "%.*s", (int)(slash - w->path) + 1, w->path);
    int64_t room = ds_fs_free_bytes(slash ? dir : ".");
    if (room >= 0 && (uint64_t)room < w->size)
        return ds_fail(err, DS_ENOSPC, "there are %lld MiB free for '%s', it needs %llu MiB",
                       (long long)(room >> 20), w->path, (unsigned long long)(w->size >> 20));
    w->fd = mkostemps(w->tmp, 4, O_CLOEXEC);
    if (w->fd < 0)
        return ds_fail_errno(err, "cannot write '%s'", w->path);
    if (fchmod(w->fd, 0644))
        return ds_fail_errno(err, "cannot write '%s'", w->path);
    local_header(&head, w); /* written again with the checksum at the end */
    int rc = put(w, head.data, head.len, err);
    ds_buf_release(&head);
    return rc ? rc : ds_npz_writer_put(w, (const uint8_t *)npy, NPY_HEAD, err);
}

int ds_npz_writer_open(ds_npz_writer **out, const char *path, int force, int64_t n, int height,
                       int width, ds_error *err) {
    int rc = ds_fs_output_check(path, force, err);
    if (rc)
        return rc;
    ds_npz_writer *w = ds_xcalloc(1, sizeof *w);
    w->fd = -1;
    w->force = force;
    w->size = NPY_HEAD + (uint64_t)n * (uint64_t)height * (uint64_t)width * 3;
    char npy[NPY_HEAD + 1];
    memcpy(npy, "\x93NUMPY\x01\x00\x76\x00", 10); /* 118 bytes of text follow */
    int at = 10 + snprintf(npy + 10, NPY_HEAD - 10,
                           "{'descr': '|u1', 'fortran_order': False, 'shape': (%lld, %d, %d, 3), }",
                           (long long)n, height, width);
    memset(npy + at, ' ', (size_t)(NPY_HEAD - at));
    npy[NPY_HEAD - 1] = '\n';
    w->path = ds_xstrdup(path);
    w->tmp = ds_xasprintf("%s.XXXXXX.tmp", path);
    rc = begin(w, npy, err);
    if (rc)
        ds_npz_writer_abort(w);
    else
        *out = w;
    return rc;
}

int ds_npz_writer_put(ds_npz_writer *w, const uint8_t *data, size_t n, ds_error *err) {
    DS_ASSERT(n <= w->size - w->done && n <= UINT_MAX);
    w->done += n;
    w->crc = (uint32_t)crc32(w->crc, data, (uInt)n);
    return put(w, data, n, err);
}

int ds_npz_writer_finish(ds_npz_writer *w, ds_error *err) {
    DS_ASSERT(w->done == w->size);
    ds_buf b = {0};
    directory(&b, w);
    int rc = put(w, b.data, b.len, err);
    b.len = 0;
    local_header(&b, w);
    if (!rc && (ds_fs_pwrite_all(w->fd, b.data, b.len, 0) || fsync(w->fd)))
        rc = ds_fail_errno(err, "cannot write '%s'", w->path);
    ds_buf_release(&b);
    if (!rc)
        rc = ds_fs_output_rename(w->tmp, w->path, w->force, err);
    if (!rc)
        *w->tmp = 0; /* not there any more */
    ds_npz_writer_abort(w);
    return rc;
}

void ds_npz_writer_abort(ds_npz_writer *w) {
    if (!w)
        return;
    if (w->fd >= 0) {
        close(w->fd);
        if (*w->tmp)
            unlink(w->tmp);
    }
    free(w->path);
    free(w->tmp);
    free(w);
}
