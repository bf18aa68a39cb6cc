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
#include <stdio.h>

/* Write a file so that `path` holds either its old content or all of the new: temporary name in the
 * same directory, fsync, rename, fsync of the directory.  The temporary is removed on failure.
 * A device, a pipe or a socket, also behind a link, is never replaced: DS_EINVAL. */
int ds_fs_write(const char *path, const void *data, size_t n, ds_error *err);

/* Read a whole file into malloc'ed memory (one extra 0 byte).  Larger than max: DS_ELIMIT. */
int ds_fs_read(const char *path, size_t max, char **data, size_t *n, ds_error *err);

int ds_fs_mkdirs(const char *path, ds_error *err); /* like mkdir -p, mode 0750 */
int ds_fs_remove(const char *path,
                 ds_error *err); /* file or whole tree; absent is success; no links followed */
int ds_fs_rename(const char *from, const char *to,
                 ds_error *err); /* rename + fsync of to's directory; `to` as in ds_fs_write */
int ds_fs_sync_dir(const char *path, ds_error *err);
int ds_fs_exists(const char *path);
int ds_fs_copy(const char *from, const char *to, ds_error *err); /* atomic as ds_fs_write */
int64_t
ds_fs_free_bytes(const char *path); /* of the file system, for unprivileged users; -1 unknown */

/* Places that a person names for a result (-o, --save-stats): the one rule of overwriting.
 *
 * ds_fs_output_check is for before the work: `path` may be absent, or with `force` a regular file,
 * and a file can be made there now (tried, and removed again).  DS_ECONFLICT: it is there and
 * force = 0.  DS_EINVAL, whatever force says: a folder, a device, a pipe, a socket, a link (the
 * message says where it leads), no name.  DS_ENOTFOUND: no such folder.  DS_EPERM, DS_ENOSPC,
 * DS_EIO.
 *
 * The other two are for after it and keep the same rule, atomically: a file that appeared in the
 * meantime is not replaced without force. */
int ds_fs_output_check(const char *path, int force, ds_error *err);
int ds_fs_output_rename(const char *from, const char *to, int force, ds_error *err);
int ds_fs_output_write(const char *path, const void *data, size_t n, int force, ds_error *err);

/* The same for a result that is a folder: absent, or empty, or with `force` one that has things in
 * it (whether that may go is the caller's question).  DS_ECONFLICT: it has and force = 0. */
int ds_fs_output_dir_check(const char *path, int force, ds_error *err);

/* Everything that was printed to f has arrived, or an error that names it ("standard output"); for
 * the end of a program, which otherwise ends well on a full disk. */
int ds_fs_flush(FILE *f, const char *name, ds_error *err);

/* Writes all n bytes; -1 with errno. */
int ds_fs_write_all(int fd, const void *data, size_t n);
int ds_fs_pwrite_all(int fd, const void *data, size_t n, int64_t at); /* .. at this place */

/* Whether a file's name ends so: ds_fs_ends_with("a.npz", ".npz"). */
int ds_fs_ends_with(const char *path, const char *end);

/* "a/b" joined into out; "", which names nothing, where it does not fit or a is "". */
void ds_fs_join(char *out, size_t size, const char *a, const char *b);

/* Test hook for full disks: when the environment has DS_TEST_ENOSPC=<n>, the n-th and all later
 * ds_fs_write/ds_fs_copy calls of the process (and zio writers) fail with ENOSPC. */
int ds_fs_test_full(void);

#endif
