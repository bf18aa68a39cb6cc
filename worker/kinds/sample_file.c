#include "worker/kinds/sample_file.h"
#include "base/fs.h"
#include "base/mem.h"
#include "engine/files/safetensors.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct ds_sample_file {
    int fd;
    char *path, *tmp;
    off_t digest_at;
    size_t left; /* bytes of pictures still to come */
};

/* The digest is known when the last picture is there: its place is kept by as many zeros. */
static const char unknown[] = "0000000000000000000000000000000000000000000000000000000000000000";

static int make_header(ds_buf *out, size_t *data, int n, int side, const int *labels,
                       const char *classes, ds_error *err) {
    int64_t shape[4] = {n, side, side, 3};
    ds_st_writer *w = ds_st_writer_new();
    if (classes)
        ds_st_writer_meta(w, "classes", classes);
    ds_st_writer_meta(w, "digest", unknown);
    ds_st_writer_add(w, "labels", DS_ST_I32, 1, shape, labels);
    ds_st_writer_add(w, "images", DS_ST_U8, 4, shape, NULL);
    int rc = ds_st_writer_header(w, out, data, err);
    ds_st_writer_free(w);
    return rc;
}

static int put(ds_sample_file *f, const void *p, size_t n, ds_error *err) {
    if (ds_fs_test_full() || ds_fs_write_all(f->fd, p, n))
        return ds_fail_errno(err, "cannot write '%s'", f->tmp);
    return 0;
}

static int begin(ds_sample_file *f, const ds_buf *header, size_t data, ds_error *err) {
    static const char key[] = "\"digest\":\"";
    const char *at = memmem(header->data, header->len, key, sizeof key - 1);
    char *slash = strrchr(f->path, '/'), dir[PATH_MAX];
    DS_ASSERT(at && slash); /* just made; a job's paths are absolute */
    f->digest_at = at - header->data + (off_t)sizeof key - 1;
    snprintf(dir, sizeof dir, "%.*s", (int)(slash - f->path), f->path);
    unlink(f->tmp); /* room of a run that was killed */
    int64_t room = ds_fs_free_bytes(dir);
    if (room >= 0 && (uint64_t)room < header->len + data)
        return ds_fail(err, DS_ENOSPC, "'%.200s' has %lld MiB free, the pictures need %llu MiB",
                       dir, (long long)(room >> 20),
                       (unsigned long long)((header->len + data) >> 20));
    f->fd = open(f->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (f->fd < 0)
        return ds_fail_errno(err, "cannot write '%s'", f->tmp);
    return put(f, header->data, header->len, err);
}

int ds_sample_file_open(ds_sample_file **out, const char *path, int n, int side, const int *labels,
                        const char *classes, ds_error *err) {
    ds_sample_file *f = ds_xcalloc(1, sizeof *f);
    ds_buf header = {0};
    size_t data = 0;
    f->fd = -1;
    f->path = ds_xstrdup(path);
    f->tmp = ds_xasprintf("%s.tmp", path);
    int rc = make_header(&header, &data, n, side, labels, classes, err);
    if (!rc)
        rc = begin(f, &header, data, err);
    if (!rc)
        rc = put(f, labels, (size_t)n * sizeof *labels, err);
    f->left = data - (rc ? 0 : (size_t)n * sizeof *labels);
    ds_buf_release(&header);
    if (rc)
        ds_sample_file_abort(f);
    else
        *out = f;
    return rc;
}

int ds_sample_file_put(ds_sample_file *f, const uint8_t *pixels, size_t n, ds_error *err) {
    DS_ASSERT(n <= f->left);
    f->left -= n;
    return put(f, pixels, n, err);
}

static void release(ds_sample_file *f) {
    free(f->path);
    free(f->tmp);
    free(f);
}

void ds_sample_file_abort(ds_sample_file *f) {
    if (!f)
        return;
    if (f->fd >= 0) {
        close(f->fd);
        unlink(f->tmp);
    }
    release(f);
}

int ds_sample_file_finish(ds_sample_file *f, const char digest[DS_HEX_SIZE], ds_error *err) {
    DS_ASSERT(f->left == 0 && strlen(digest) == sizeof unknown - 1);
    int rc = 0;
    if (ds_fs_pwrite_all(f->fd, digest, sizeof unknown - 1, f->digest_at) || fsync(f->fd))
        rc = ds_fail_errno(err, "cannot write '%s'", f->tmp);
    if (close(f->fd) && !rc)
        rc = ds_fail_errno(err, "cannot write '%s'", f->tmp);
    if (!rc)
        rc = ds_fs_rename(f->tmp, f->path, err);
    if (rc)
        unlink(f->tmp);
    release(f);
    return rc;
}
