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
    int n = *a ? snprintf(out, size, "%s/%s", a, b) : -1;
    if (n < 0 || (size_t)n >= size)
        out[0] = 0;
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

/* What is neither file nor folder nor link, or NULL. */
static const char *special(mode_t mode) {
    return S_ISCHR(mode) || S_ISBLK(mode) ? "a device"
           : S_ISFIFO(mode)               ? "a pipe"
           : S_ISSOCK(mode)               ? "a socket"
                                          : NULL;
}

/* As root a rename over /dev/null would succeed; /dev/stdout is a link to something like it. */
static int refuse_special(const char *path, ds_error *err) {
    struct stat st;
    const char *what = stat(path, &st) ? NULL : special(st.st_mode);
    return what ? ds_fail(err, DS_EINVAL, "cannot write '%s': it is %s, give the name of a file",
                          path, what)
                : 0;
}

int ds_fs_rename(const char *from, const char *to, ds_error *err) {
    char dir[PATH_MAX];
    int rc = refuse_special(to, err);
    if (rc)
        return rc;
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

int ds_fs_pwrite_all(int fd, const void *data, size_t n, int64_t at) {
    const char *p = data;
    while (n) {
        ssize_t w = pwrite(fd, p, n, (off_t)at);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return -1;
        p += w;
        at += w;
        n -= (size_t)w;
    }
    return 0;
}

int ds_fs_ends_with(const char *path, const char *end) {
    size_t n = strlen(path), m = strlen(end);
    return n >= m && !strcmp(path + n - m, end);
}

/* A synced file beside `path` with the bytes; its name is malloc'ed. */
static int write_beside(const char *path, const void *data, size_t n, char **out, ds_error *err) {
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
    if (!rc) {
        *out = tmp;
        return 0;
    }
    unlink(tmp);
    free(tmp);
    return rc;
}

int ds_fs_write(const char *path, const void *data, size_t n, ds_error *err) {
    char *tmp;
    int rc = write_beside(path, data, n, &tmp, err);
    if (rc)
        return rc;
    rc = ds_fs_rename(tmp, path, err);
    if (rc)
        unlink(tmp);
    free(tmp);
    return rc;
}

/* ---------------------------------------------------------------- results of a person */

/* What is at `path` may be replaced: nothing, or with force a regular file. */
static int may_replace(const char *path, int force, ds_error *err) {
    struct stat st;
    char to[PATH_MAX];
    size_t length = strlen(path);
    if (!length || length >= PATH_MAX)
        return ds_fail(err, DS_EINVAL, "cannot write '%.80s': the name is %s", path,
                       length ? "too long" : "empty");
    if (lstat(path, &st))
        return errno == ENOENT ? 0 : ds_fail_errno(err, "cannot write '%s'", path);
    if (S_ISDIR(st.st_mode))
        return ds_fail(err, DS_EINVAL, "cannot write '%s': it is a folder, give the name of a file",
                       path);
    if (S_ISLNK(st.st_mode)) {
        ssize_t n = readlink(path, to, sizeof to);
        return ds_fail(err, DS_EINVAL,
                       "cannot write '%s': it is a link to '%.*s', give the name of the file", path,
                       n > 0 ? (int)n : 0, to);
    }
    int rc = refuse_special(path, err);
    if (!rc && !force)
        rc = ds_fail(err, DS_ECONFLICT, "'%s' exists: give another name, or --force to replace it",
                     path);
    return rc;
}

int ds_fs_output_check(const char *path, int force, ds_error *err) {
    char dir[PATH_MAX];
    struct stat st;
    int rc = may_replace(path, force, err);
    if (rc)
        return rc;
    parent_of(dir, path);
    if (stat(dir, &st)) /* else the message would be about the temporary file */
        return ds_fail_errno(err, "cannot write '%s': folder '%s'", path, dir);
    char *tmp = ds_xasprintf("%s.XXXXXX.tmp", path);
    int fd = mkostemps(tmp, 4, O_CLOEXEC);
    if (fd < 0)
        rc = ds_fail_errno(err, "cannot write '%s'", path);
    else {
        close(fd);
        unlink(tmp);
    }
    free(tmp);
    return rc;
}

int ds_fs_output_rename(const char *from, const char *to, int force, ds_error *err) {
    char dir[PATH_MAX];
    int rc = may_replace(to, force, err);
    if (rc)
        return rc;
    if (force)
        return ds_fs_rename(from, to, err);
    int failed = renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE);
    if (failed && (errno == EINVAL || errno == ENOSYS))
        failed = link(from, to) || unlink(from); /* file systems that know no such rename */
    if (failed)
        return ds_fail_errno(err, "cannot write '%s'", to);
    parent_of(dir, to);
    return ds_fs_sync_dir(dir, err);
}

int ds_fs_output_write(const char *path, const void *data, size_t n, int force, ds_error *err) {
    char *tmp;
    int rc = may_replace(path, force, err); /* before the bytes, on a device that has no room */
    rc = rc ? rc : write_beside(path, data, n, &tmp, err);
    if (rc)
        return rc;
    rc = ds_fs_output_rename(tmp, path, force, err);
    if (rc)
        unlink(tmp);
    free(tmp);
    return rc;
}

static int has_entries(const char *path) {
    DIR *dir = opendir(path);
    int n = 0;
    while (dir && readdir(dir))
        n++;
    if (dir)
        closedir(dir);
    return n > 2 || !dir;
}

int ds_fs_output_dir_check(const char *path, int force, ds_error *err) {
    char dir[PATH_MAX], to[PATH_MAX];
    struct stat st;
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    if (!length || length + 32 >= PATH_MAX)
        return ds_fail(err, DS_EINVAL, "cannot write '%.80s': the name is %s", path,
                       length ? "too long" : "empty");
    snprintf(to, sizeof to, "%.*s", (int)length, path);
    if (!lstat(to, &st)) {
        if (!S_ISDIR(st.st_mode))
            return ds_fail(err, DS_EINVAL, "cannot write '%s': it is %s, give the name of a folder",
                           path,
                           S_ISLNK(st.st_mode)   ? "a link"
                           : special(st.st_mode) ? special(st.st_mode)
                                                 : "a file");
        if (has_entries(to) && !force)
            return ds_fail(err, DS_ECONFLICT,
                           "'%s' exists: give another name, or --force to replace it", path);
    } else if (errno != ENOENT)
        return ds_fail_errno(err, "cannot write '%s'", path);
    parent_of(dir, to);
    if (stat(dir, &st))
        return ds_fail_errno(err, "cannot write '%s': folder '%s'", path, dir);
    char *tmp = ds_xasprintf("%s.XXXXXX", to);
    int rc = mkdtemp(tmp) ? 0 : ds_fail_errno(err, "cannot write '%s'", path);
    if (!rc)
        rmdir(tmp);
    free(tmp);
    return rc;
}

int ds_fs_flush(FILE *f, const char *name, ds_error *err) {
    int failed = ferror(f);
    errno = 0;
    if (!fflush(f) && !failed)
        return 0;
    if (!errno)
        errno = EIO; /* it failed earlier, and nobody kept why */
    return ds_fail_errno(err, "cannot write to %s", name);
}

int ds_fs_read(const char *path, size_t max, char **data, size_t *n, ds_error *err) {
    /* a FIFO would hold an open without O_NONBLOCK for ever */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
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
            break;
    }
    struct stat st;
    if (stat(p, &st))
        return ds_fail_errno(err, "cannot create directory '%s'", p);
    return S_ISDIR(st.st_mode)
               ? 0
               : ds_fail(err, DS_EINVAL,
                         "cannot create directory '%s': what is there is not a folder", p);
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
