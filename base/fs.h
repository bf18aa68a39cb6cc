/* base/fs.h - files as the promises need them: whole or absent, synced before anything refers to
 * them.
 *
 * Every function takes plain paths; none follows the process's umask for secrets (mode is given).
 * Thread: any.  Errors: as ds_fail_errno (DS_ENOTFOUND, DS_EPERM, DS_ENOSPC, DS_EIO), DS_ELIMIT.
 */
#ifndef DS_BASE_FS_H
#define DS_BASE_FS_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

/* Write a file so that `path` holds either its old content or all of the new: temporary name in the
 * same directory, fsync, rename, fsync of the directory.  The temporary is removed on failure. */
int ds_fs_write(const char *path, const void *data, size_t n, ds_error *err);

/* Read a whole file into malloc'ed memory (one extra 0 byte).  Larger than max: DS_ELIMIT. */
int ds_fs_read(const char *path, size_t max, char **data, size_t *n, ds_error *err);

int ds_fs_mkdirs(const char *path, ds_error *err); /* like mkdir -p, mode 0750 */
int ds_fs_remove(const char *path,
                 ds_error *err); /* file or whole tree; absent is success; no links followed */
int ds_fs_rename(const char *from, const char *to,
                 ds_error *err); /* rename + fsync of to's directory */
int ds_fs_sync_dir(const char *path, ds_error *err);
int ds_fs_exists(const char *path);
int ds_fs_copy(const char *from, const char *to, ds_error *err); /* atomic as ds_fs_write */
int64_t
ds_fs_free_bytes(const char *path); /* of the file system, for unprivileged users; -1 unknown */

/* Writes all n bytes; -1 with errno. */
int ds_fs_write_all(int fd, const void *data, size_t n);

/* Whether a file's name ends so: ds_fs_ends_with("a.npz", ".npz"). */
int ds_fs_ends_with(const char *path, const char *end);

/* "a/b" joined into out; DS_ASSERTs that it fits. */
void ds_fs_join(char *out, size_t size, const char *a, const char *b);

/* Test hook for full disks: when the environment has DS_TEST_ENOSPC=<n>, the n-th and all later
 * ds_fs_write/ds_fs_copy calls of the process (and zio writers) fail with ENOSPC. */
int ds_fs_test_full(void);

#endif
