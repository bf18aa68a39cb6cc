/* worker/decode/files.h - other people's folders: names that can be shown, files that stay inside.
 *
 * Purpose: what scan and prepare share.  A dataset folder is not trusted: names may be any bytes,
 * links may lead anywhere, files may change under our feet.  Thread: any.
 */
#ifndef DS_WORKER_DECODE_FILES_H
#define DS_WORKER_DECODE_FILES_H

#include "base/digest.h"
#include "base/error.h"
#include "base/progress.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#define DS_REASON_SIZE 160          /* one rejected file's reason, with its final 0 */
#define DS_FILE_MAX (128u << 20)    /* a larger picture file is rejected */
#define DS_DATA_PATH_MAX 4096       /* relative path with its final 0 */
#define DS_REJECTED_LISTED 10000    /* longer lists are counted only, ... */
#define DS_REJECTED_BYTES (2 << 20) /* ... and so is what is beyond this much text */

typedef struct {
    char *path; /* printable: bytes that are no UTF-8 and control characters as \xNN */
    char *reason;
} ds_rejected;

/* Invariant: listed <= DS_REJECTED_LISTED, listed <= count, bytes <= DS_REJECTED_BYTES. */
typedef struct {
    ds_rejected *items;
    int64_t listed, count, cap, bytes;
} ds_rejected_list;

void ds_rejected_add(ds_rejected_list *list, const char *path, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void ds_rejected_sort(ds_rejected_list *list); /* by path bytes, so that output is canonical */
void ds_rejected_release(ds_rejected_list *list);

/* 0, or why `name` cannot be used: not UTF-8, control characters (C0, DEL, C1), too long. */
const char *ds_name_problem(const char *name);
/* The printable form, malloc'ed. */
char *ds_name_escape(const char *name);
/* Takes out, in place, what is no UTF-8: for text that was cut to a length. */
void ds_text_whole(char *text);
/* Is `path` relative, with no empty, "." or ".." part? */
int ds_path_beneath(const char *path);

/* Open a regular file below root_fd for reading, never leaving it: openat2 with RESOLVE_BENEATH,
 * else a walk that follows no link at all.  Returns the descriptor and fills st, or -1 and fills
 * reason; errno is 0 then where no call failed. */
int ds_open_beneath(int root_fd, const char *path, struct stat *st, char reason[DS_REASON_SIZE]);

/* After ds_open_beneath or ds_read_hashed gave -1, or another call on a file failed: is errno of
 * the machine (a failing disk, a server that is away, no descriptor, no memory), so that it says
 * nothing of the file?  Then DS_EIO or DS_EBUSY with `path` and the cause; the file is no rejected
 * one.  Else 0. */
int ds_machine_fails(const char *path, ds_error *err);

/* Open a folder by its absolute path.  links 0: no part of it may be a link, because the path was
 * resolved when the folder was registered; ELOOP in DS_EINVAL.  DS_EINVAL: no folder. */
int ds_open_folder(const char *path, int links, int *fd, ds_error *err);

/* Read size bytes of fd into buf and hash them.  0, or -1 with reason ("changed while reading",
 * "cannot be read: ..."), and errno as above. */
int ds_read_hashed(int fd, uint8_t *buf, size_t size, char sha256[DS_HEX_SIZE],
                   char reason[DS_REASON_SIZE]);

#endif
