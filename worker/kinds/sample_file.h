/* worker/kinds/sample_file.h - samples.safetensors of a sample job, written portion by portion.
 *
 * labels I32 (n), then images U8 (n, side, side, 3); metadata: digest (of the raw pictures), and
 * classes, a JSON list of the names of the labels, where they have names.  Memory does not grow
 * with n.  Until the end it is NAME.tmp, which a second run of the job begins anew.
 *
 * Ownership: open, then finish or abort; labels are borrowed during open.  Thread: one.
 * Errors: DS_ENOSPC before anything is written when the file has no room; as ds_fs_write.
 */
#ifndef DS_WORKER_KINDS_SAMPLE_FILE_H
#define DS_WORKER_KINDS_SAMPLE_FILE_H

#include "base/digest.h"

#include <stdint.h>

typedef struct ds_sample_file ds_sample_file;

/* classes: NULL where labels are numbers only. */
int ds_sample_file_open(ds_sample_file **out, const char *path, int n, int side, const int *labels,
                        const char *classes, ds_error *err);
int ds_sample_file_put(ds_sample_file *f, const uint8_t *pixels, size_t n, ds_error *err);

/* All pictures must have been put.  Releases f, also when it fails. */
int ds_sample_file_finish(ds_sample_file *f, const char digest[DS_HEX_SIZE], ds_error *err);
void ds_sample_file_abort(ds_sample_file *f); /* NULL is fine */

#endif
