/* daemon/folders/look.h - a first look at a folder that somebody wants to add, in bounded time.
 *
 * It catches what a person can correct at once: the path is relative, absent, a file, not readable,
 * empty, or holds nothing that looks like an image.  It reads at most a few thousand directory
 * entries and a few first bytes; a folder that it cannot judge in that time is let through, because
 * the scan decides.  These calls may hang with the file system, so the daemon has them made
 * by its helpers (daemon/folders/helper.h).  Thread: any.  Errors: DS_EINVAL, DS_ENOTFOUND,
 * DS_EPERM, DS_EIO.
 */
#ifndef DS_DAEMON_FOLDERS_LOOK_H
#define DS_DAEMON_FOLDERS_LOOK_H

#include "base/error.h"

#include <limits.h>

/* real: the canonical path of the folder. */
int ds_look_at_folder(const char *path, char real[PATH_MAX], ds_error *err);

/* What somebody wants to import, under the name `key` of a request: a file or (file = 0) folder
 * that can be read; and a folder that holds a file with the name of a picture. */
int ds_look_at_source(const char *key, const char *path, int file, char real[PATH_MAX],
                      ds_error *err);
int ds_look_for_pictures(const char *key, const char *path, char real[PATH_MAX], ds_error *err);

/* Whether a folder can be a dataset by where it lies: not the whole file system, nothing in the
 * state folder, and nothing that holds it, since each job would change what it is trained on.  Both
 * paths canonical; no look at the disk.  0 or DS_EINVAL with the way out. */
int ds_look_at_place(const char *real, const char *state, ds_error *err);

#endif
