/* base/fs.c - atomic, synced file operations. */
#include "base/fs.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

int ds_fs_test_full(void) {
    static atomic_int calls;
    const char *limit = getenv("DS_TEST_ENOSPC");
    if (!limit || !*limit)
        return 0;
    if (atomic_fetch_add(&calls, 1) + 1 < strtol(limit, NULL, 10))
        return 0;
    errno = ENOSPC;
    return 1;
}

void ds_fs_join(char *out, size_t size, const char *a, const char *b) {
    int n = snprintf(out, size, "%s/%s", a, b);
    DS_ASSERT(n >= 0 && (size_t)n < size);
}

static void parent_of(char out[PATH_MAX], const char *path) {
    snprintf(out, PATH_MAX, "%s", path);
    char *slash = strrchr(out, '/');
    if (!slash)
        snprintf(out, PATH_MAX, ".");
    else
        slash[slash == out] = 0;
}

int ds_fs_sync_dir(const char *path, ds_error *err) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return ds_fail_errno(err, "cannot open directory '%s'", path);
    int rc = fsync(fd) ? ds_fail_errno(err, "cannot sync directory '%s'", path) : 0;
    close(fd);
    return rc;
}

int ds_fs_rename(const char *from, const char *to, ds_error *err) {
    char dir[PATH_MAX];
    if (rename(from, to))
        return ds_fail_errno(err, "cannot rename '%s' to '%s'", from, to);
    parent_of(dir, to);
    return ds_fs_sync_dir(dir, err);
}

int ds_fs_write_all(int fd, const void *data, size_t n) {
    const char *p = data;
    while (n) {
        ssize_t w = write(fd, p, n);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return -1;
        p += w;
        n -= (size_t)w;
    }
    return 0;
}

int ds_fs_ends_with(const char *path, const char *end) {
    size_t n = strlen(path), m = strlen(end);
    return n >= m && !strcmp(path + n - m, end);
}

int ds_fs_write(const char *path, const void *data, size_t n, ds_error *err) {
    char *tmp = ds_xasprintf("%s.XXXXXX.tmp", path);
    int fd = mkostemps(tmp, 4, O_CLOEXEC), rc = 0;
    if (fd < 0) {
        rc = ds_fail_errno(err, "cannot create '%s'", path);
        free(tmp);
        return rc;
    }
    if (ds_fs_test_full() || ds_fs_write_all(fd, data, n) || fchmod(fd, 0640) || fsync(fd))
        rc = ds_fail_errno(err, "cannot write '%s'", path);
    close(fd);
    if (!rc)
        rc = ds_fs_rename(tmp, path, err);
    if (rc)
        unlink(tmp);
    free(tmp);
    return rc;
}

int ds_fs_read(const char *path, size_t max, char **data, size_t *n, ds_error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return ds_fail_errno(err, "cannot open '%s'", path);
    struct stat st;
    char *p = NULL;
    int rc = 0;
    if (fstat(fd, &st))
        rc = ds_fail_errno(err, "cannot stat '%s'", path);
    else if (!S_ISREG(st.st_mode))
        rc = ds_fail(err, DS_EINVAL, "cannot read '%s': not a regular file", path);
    else if ((uint64_t)st.st_size > max)
        rc = ds_fail(err, DS_ELIMIT, "cannot read '%s': %lld bytes, limit %zu", path,
                     (long long)st.st_size, max);
    size_t got = 0, size = rc ? 0 : (size_t)st.st_size;
    if (!rc)
        p = ds_xmalloc(size + 1);
    while (!rc && got < size) {
        ssize_t r = read(fd, p + got, size - got);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            rc = ds_fail_errno(err, "cannot read '%s'", path);
        else if (r == 0)
            rc = ds_fail(err, DS_EIO, "cannot read '%s': it became shorter while being read", path);
        else
            got += (size_t)r;
    }
    close(fd);
    if (rc) {
        free(p);
        return rc;
    }
    p[size] = 0;
    *data = p;
    *n = size;
    return 0;
}

int ds_fs_copy(const char *from, const char *to, ds_error *err) {
    char *data;
    size_t n;
    int rc = ds_fs_read(from, (size_t)1 << 40, &data, &n, err);
    if (rc)
        return rc;
    rc = ds_fs_write(to, data, n, err);
    free(data);
    return rc;
}

int ds_fs_mkdirs(const char *path, ds_error *err) {
    char p[PATH_MAX];
    if (strlen(path) >= sizeof p || !*path)
        return ds_fail(err, DS_EINVAL, "cannot create directory '%.80s': bad path", path);
    snprintf(p, sizeof p, "%s", path);
    for (char *s = p + 1;; s++) {
        if (*s && *s != '/')
            continue;
        char keep = *s;
        *s = 0;
        if (mkdir(p, 0750) && errno != EEXIST)
            return ds_fail_errno(err, "cannot create directory '%s'", p);
        *s = keep;
        if (!keep)
            return 0;
    }
}

static int remove_at(int dirfd, const char *name, int depth) {
    if (!unlinkat(dirfd, name, 0) || errno == ENOENT)
        return 0;
    if ((errno != EISDIR && errno != EPERM) || depth > 64)
        return -1;
    int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    int rc = 0;
    for (struct dirent *e; !rc && (e = readdir(dir));)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
            rc = remove_at(fd, e->d_name, depth + 1);
    closedir(dir);
    return rc ? rc : (unlinkat(dirfd, name, AT_REMOVEDIR) && errno != ENOENT ? -1 : 0);
}

int ds_fs_remove(const char *path, ds_error *err) {
    return remove_at(AT_FDCWD, path, 0) ? ds_fail_errno(err, "cannot remove '%s'", path) : 0;
}

int ds_fs_exists(const char *path) { return access(path, F_OK) == 0; }

int64_t ds_fs_free_bytes(const char *path) {
    struct statvfs v;
    return statvfs(path, &v) ? -1 : (int64_t)((uint64_t)v.f_bavail * v.f_frsize);
}
