/* engine/files/st_stream.c - writing a large safetensors file with little memory. */
#include "engine/files/st_stream.h"
#include "base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct ds_st_stream {
    int fd;
    char *dir, *tmp;
    ds_sha256 *hash;
    uint64_t size, done;
};

static int write_all(ds_st_stream *s, const void *p, size_t n, ds_error *err) {
    if (ds_fs_test_full() || ds_fs_write_all(s->fd, p, n))
        return ds_fail_errno(err, "cannot write '%s'", s->tmp);
    return 0;
}

int ds_st_stream_put(ds_st_stream *s, const void *data, size_t n, ds_error *err) {
    DS_ASSERT(n <= s->size - s->done);
    ds_sha256_add(s->hash, data, n);
    s->done += n;
    return write_all(s, data, n, err);
}

int ds_st_stream_open(ds_st_stream **out, ds_st_writer *w, const char *dir, ds_error *err) {
    ds_buf header = {0};
    size_t data = 0;
    int rc = ds_st_writer_header(w, &header, &data, err);
    rc = rc ? rc : ds_fs_mkdirs(dir, err);
    ds_st_stream *s = ds_xcalloc(1, sizeof *s);
    s->dir = ds_xstrdup(dir);
    s->tmp = ds_xasprintf("%s/.import-XXXXXX.tmp", dir);
    s->hash = ds_sha256_new();
    s->size = header.len + data;
    s->fd = rc ? -1 : mkostemps(s->tmp, 4, O_CLOEXEC);
    if (!rc && s->fd < 0)
        rc = ds_fail_errno(err, "cannot write into '%s'", dir);
    if (!rc && fchmod(s->fd, 0640))
        rc = ds_fail_errno(err, "cannot write '%s'", s->tmp);
    int64_t room = rc ? -1 : ds_fs_free_bytes(dir);
    if (room >= 0 && (uint64_t)room < s->size)
        rc = ds_fail(err, DS_ENOSPC, "'%.200s' has %lld MiB free, the file needs %llu MiB", dir,
                     (long long)(room >> 20), (unsigned long long)(s->size >> 20));
    rc = rc ? rc : ds_st_stream_put(s, header.data, header.len, err);
    ds_buf_release(&header);
    if (rc)
        ds_st_stream_abort(s);
    else
        *out = s;
    return rc;
}

static void release(ds_st_stream *s) {
    ds_sha256_free(s->hash);
    free(s->dir);
    free(s->tmp);
    free(s);
}

void ds_st_stream_abort(ds_st_stream *s) {
    if (!s)
        return;
    if (s->fd >= 0) {
        close(s->fd);
        unlink(s->tmp);
    }
    release(s);
}

int ds_st_stream_finish(ds_st_stream *s, char sha256[DS_HEX_SIZE], char **path, int64_t *bytes,
                        int *fresh, ds_error *err) {
    DS_ASSERT(s->done == s->size);
    ds_sha256_hex(s->hash, sha256);
    *path = ds_xasprintf("%s/%s.safetensors", s->dir, sha256);
    *bytes = (int64_t)s->size;
    struct stat sb;
    int there = !lstat(*path, &sb) && S_ISREG(sb.st_mode) && (uint64_t)sb.st_size == s->size;
    *fresh = !there;
    int rc = !there && fsync(s->fd) ? ds_fail_errno(err, "cannot sync '%s'", s->tmp) : 0;
    if (close(s->fd) && !rc)
        rc = ds_fail_errno(err, "cannot write '%s'", s->tmp);
    if (!rc && !there)
        rc = ds_fs_rename(s->tmp, *path, err);
    if (rc || there)
        unlink(s->tmp);
    if (rc) {
        free(*path);
        *path = NULL;
    }
    release(s);
    return rc;
}
