/* cli/npz_write.h - an .npz file with one array arr_0, uint8 (N, H, W, 3), as numpy.savez writes
 * it: a ZIP archive (PKWARE APPNOTE 6.3.9) with one stored member, an .npy of version 1 (NEP 1).
 * With the ZIP64 fields, so that it may be larger than 4 GiB.
 *
 * Whole or absent, by the rule of ds_fs_output_check.  Ownership: open, then finish or abort.
 * Thread: one.  Errors: as ds_fs_output_write; DS_ENOSPC before anything is written.
 */
#ifndef DS_CLI_NPZ_WRITE_H
#define DS_CLI_NPZ_WRITE_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

typedef struct ds_npz_writer ds_npz_writer;

int ds_npz_writer_open(ds_npz_writer **out, const char *path, int force, int64_t n, int height,
                       int width, ds_error *err);
int ds_npz_writer_put(ds_npz_writer *w, const uint8_t *data, size_t n, ds_error *err);
/* All of it must have been put.  Releases w, also when it fails. */
int ds_npz_writer_finish(ds_npz_writer *w, ds_error *err);
void ds_npz_writer_abort(ds_npz_writer *w); /* NULL is fine */

#endif
